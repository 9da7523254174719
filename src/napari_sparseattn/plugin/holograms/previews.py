"""The preview of the displayed frame, made anew when something has changed."""

from __future__ import annotations

import logging
from functools import partial
from typing import TYPE_CHECKING, Any

from psygnal import Signal

from ...images.holograms.settings import HologramSettings
from ..core.lanes import Lanes
from ..core.sources import SourceError
from .requests import PreviewAnswer, PreviewRequest, answer_preview

if TYPE_CHECKING:
    from napari.components import ViewerModel

    from .panel import Panel

__all__ = ["Previews"]

_log = logging.getLogger(__name__)

#: A preview is made when nothing has changed for so many milliseconds.
_DEBOUNCE_MS = 150


class Previews:
    """Previews of a hologram panel; of several under way only the last is shown.

    Attributes
    ----------
    shown : PreviewAnswer or None
        The preview that is shown.
    generation : int
        Grows with every change that makes previews outdated.
    """

    changed = Signal(object)

    def __init__(self, viewer: ViewerModel, holograms: Panel) -> None:
        self._holograms = holograms
        self.shown: PreviewAnswer | None = None
        self.generation = 0
        self._awake = True
        self._settled: tuple[tuple[Any, ...], HologramSettings] | None = None
        self._lanes = Lanes.of(viewer)
        self._lane = self._lanes.add(answer_preview, given=self._take, failed=self._fail)

    def outdate(self) -> None:
        """Drop previews that are under way, and make one when nothing changes any more."""
        self.generation += 1
        self._lanes.runner.later(_DEBOUNCE_MS, partial(self._make, self.generation))

    def outdate_data(self) -> None:
        """Make a preview of other pixels, for which sideband and sign are to be found again."""
        self._settled = None
        self.outdate()

    def set_awake(self, awake: bool) -> None:
        """Make previews only while somebody can see them."""
        wakes, self._awake = awake and not self._awake, awake
        if wakes and (self.shown is None or self.shown.request.generation != self.generation):
            self._make(self.generation)

    def close(self) -> None:
        """Drop previews that are under way."""
        self.generation += 1
        self._awake = True
        self._lane.close()

    def request(self) -> PreviewRequest | None:
        """Return the request for a preview of the displayed frame, or None."""
        holograms = self._holograms
        recording = holograms.recording()
        if recording is None:
            self._show(None)
            return None
        try:
            index = holograms.source.frame_index()
        except SourceError as error:
            holograms.status.notify(str(error), "error")
            self._show(None)
            return None
        kept = self._settled
        settled = kept[1] if kept is not None and kept[0] == self._key() else None
        return PreviewRequest(self.generation, recording, index, holograms.settings, settled)

    def _make(self, generation: int) -> None:
        if generation != self.generation or not self._awake:
            return
        request = self.request()
        if request is not None:
            self._lane.ask(request)

    def _take(self, request: PreviewRequest, answer: PreviewAnswer) -> None:
        holograms = self._holograms
        if request.generation != self.generation or holograms.source.layer is None:
            return
        if not answer.problem:
            self._settled = (self._key(), answer.settled)
        self._show(answer)
        if answer.problem:
            holograms.status.notify(answer.problem, "warning")
        elif holograms.status.message.level == "warning" and not holograms.working:
            holograms.status.notify(holograms.advice())

    def _fail(self, request: PreviewRequest, error: BaseException) -> None:
        if request.generation != self.generation:
            _log.info("an outdated preview failed", exc_info=error)
            return
        self._show(None)
        self._holograms.status.fail(error)

    def _show(self, answer: PreviewAnswer | None) -> None:
        self.shown = answer
        self.changed.emit(answer)

    def _key(self) -> tuple[Any, ...]:
        source = self._holograms.source
        assert source.layer is not None
        size, settings = source.scale.pixel_size, self._holograms.settings
        return (source.layer, source.kind, source.facts, size, settings)
