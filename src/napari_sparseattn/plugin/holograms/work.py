"""The longer work of a hologram panel: a layer, a folder, the focus; one at a time."""

from __future__ import annotations

import dataclasses
import logging
from pathlib import Path
from typing import TYPE_CHECKING, Any

from psygnal import Signal

from ..core.activity import Activity
from ..core.lanes import Lanes
from ..core.messages import counted
from ..core.sources import file_of
from ..core.status import Progress, explain
from .layers import Made
from .recordings import IN_FILE, LayerFrames, leading_shape
from .requests import (
    Failure,
    FocusRequest,
    FolderAnswer,
    FolderRequest,
    ReconstructAnswer,
    ReconstructRequest,
    WorkRequest,
    files_to_reconstruct,
    stream_work,
)

if TYPE_CHECKING:
    from napari.components import ViewerModel

    from .panel import Panel

__all__ = ["Work"]

_log = logging.getLogger(__name__)


class Work:
    """Reconstruction of a layer or a folder, and the search for the focus.

    Attributes
    ----------
    failures : tuple of Failure
        Files of the last folder that could not be reconstructed.
    """

    progress_changed = Signal(object)
    failures_changed = Signal(object)

    def __init__(self, viewer: ViewerModel, holograms: Panel) -> None:
        self._holograms = holograms
        self.failures: tuple[Failure, ...] = ()
        self._request: WorkRequest | None = None
        self._lane = Lanes.of(viewer).add(
            stream_work, given=self._take, failed=self._fail, busy="also"
        )
        Activity.of(viewer).follow("Reconstructing", (self.progress_changed,), self.cancel)

    @property
    def running(self) -> bool:
        """Whether something longer than a preview is under way."""
        return self._request is not None

    def reconstruct(self) -> None:
        """Ask for all frames of the source."""
        holograms, layer = self._holograms, self._holograms.source.layer
        if layer is None:
            holograms.status.notify(holograms.advice(), "warning")
            return
        recording = holograms.recording()
        if recording is not None:
            shape = leading_shape(layer)
            request = ReconstructRequest(layer, recording, holograms.settings, shape)
            self._ask(request, f"Reconstructing '{layer.name}'…", len(recording))

    def find_focus(self, reach: float) -> None:
        """Ask for the focus, within so many µm of the one that is set."""
        holograms, layer = self._holograms, self._holograms.source.layer
        recording = holograms.recording()
        if layer is not None and recording is not None:
            settings = dataclasses.replace(holograms.settings, autofocus=reach)
            self._ask(FocusRequest(layer, recording, settings), "Looking for the focus…", 0)

    def apply_to_folder(self, folder: Path, out: Path) -> None:
        """Ask for all files of a folder, reconstructed into another one."""
        holograms = self._holograms
        if self.running:
            return
        try:
            files = files_to_reconstruct(folder)
        except OSError as error:
            holograms.status.notify(f"{folder} cannot be read: {error}", "error")
            return
        if not files:
            holograms.status.notify(f"There are no images or HDF5 files in {folder}.", "warning")
            return
        source, background = holograms.source, holograms.source.facts.background
        if background is not None and not hasattr(background, "__getitem__"):
            background = LayerFrames(background)
        request = FolderRequest(
            files,
            out,
            holograms.given_settings(),
            holograms.full_settings(),
            None if source.layer is None else source.kind,
            background,
        )
        self._ask(request, f"Reconstructing {counted(len(files), 'file')}…", len(files))

    def cancel(self) -> None:
        """Stop the work; files that are written stay."""
        if self._request is not None:
            self._lane.cancel()
            self._end("Cancelled.", "warning")

    def close(self) -> None:
        """Stop the work as the dock is closed."""
        self.cancel()
        self._lane.close()

    def _ask(self, request: WorkRequest, text: str, total: int) -> None:
        if self.running:
            return
        self._request = request
        self._set_failures(())
        self._holograms.status.notify(text)
        self.progress_changed.emit(Progress(0, total))
        self._lane.ask(request)

    def _end(self, text: str, level: Any = "info") -> None:
        self._request = None
        self.progress_changed.emit(None)
        self._holograms.status.notify(text, level)

    def _set_failures(self, failures: tuple[Failure, ...]) -> None:
        self.failures = failures
        self.failures_changed.emit(failures)

    # -- answers

    def _take(
        self,
        request: WorkRequest,
        part: Progress | Failure | FolderAnswer | ReconstructAnswer | float,
    ) -> None:
        if request is not self._request:
            return
        if isinstance(part, Progress):
            self.progress_changed.emit(part)
        elif isinstance(part, Failure):
            self._set_failures((*self.failures, part))
        elif isinstance(part, FolderAnswer):
            self._end(*self._sum_up(request, part))
        elif isinstance(part, ReconstructAnswer):
            self._show(request, part)
        else:
            self._end(f"In focus at {part:+.1f} µm.")
            self._holograms.change_settings(focus=round(part, 2))

    def _fail(self, request: WorkRequest, error: BaseException) -> None:
        if request is self._request:
            self._end(explain(error), "error")
        else:
            _log.info("outdated work failed", exc_info=error)

    def _made(self, request: ReconstructRequest) -> Made:
        """Say from which file, and how, so that it can be done again."""
        recording, facts = request.recording, self._holograms.source.facts
        path = recording.path or file_of(request.layer)
        own = facts.background_name == IN_FILE
        background = None if own else facts.background_path
        return Made(
            None if path is None else Path(path),
            recording.name,
            recording.kind,
            dataclasses.replace(
                request.settings,
                wavelength=recording.wavelength,
                pixel_size=recording.pixel_size,
                medium_index=recording.medium_index,
            ),
            background,
            facts.background is None or own or background is not None,
        )

    def _sum_up(self, request: WorkRequest, answer: FolderAnswer) -> tuple[str, str]:
        assert isinstance(request, FolderRequest)
        files = counted(len(request.files), "file")
        text = f"{len(answer.written)} of {files} written to {request.out}."
        if answer.in_rad:
            text += f" {answer.in_rad} of them as phase in rad: no wavelength is known."
        return text, "warning" if self.failures else "info"

    def _show(self, request: WorkRequest, answer: ReconstructAnswer) -> None:
        assert isinstance(request, ReconstructRequest)
        holograms, source = self._holograms, request.layer
        viewer, main = holograms.viewer, holograms.main
        if viewer is None or source not in viewer.layers:
            self._end(f"'{source.name}' was removed.", "warning")
            return
        self._request = None
        if main.selection.settings_of(source).modality == "unknown":
            # The user has had it reconstructed as one.
            main.selection.set_settings(source, modality="hologram")
        layer = holograms.results.show(source, answer, self._made(request))
        known = main.selection.settings_of(source)
        main.selection.set_settings(
            layer,
            modality="opd" if answer.unit == "nm" else "phase",
            unit=answer.unit,
            pixel_size=known.pixel_size,
            origin=known.origin,
        )
        self._end(_describe(layer.name, request, answer))


def _describe(name: str, request: ReconstructRequest, answer: ReconstructAnswer) -> str:
    n = len(request.recording)
    text = f"{name}: {n} frames." if n > 1 else f"{name} is ready."
    if answer.unit == "rad":
        text += " Phase in rad, as the wavelength is unknown."
    else:
        text += " Click a cell in the dock Sparse attention to classify it."
    if answer.n_bad:
        text += f" NaN or saturated: {counted(answer.n_bad, 'pixel')}."
    return text
