"""What only the file of a layer says: napari's own reader leaves it out."""

from __future__ import annotations

import weakref
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

from .parts import Parts
from .sources import ImageSettings, settings_in_file

if TYPE_CHECKING:
    from napari.layers import Image


__all__ = ["FileFacts"]


class FileFacts:
    """Looks into the files of layers, once each, for what the layers lack.

    Parameters
    ----------
    parts : Parts
        Its selection takes what is found.
    notify : callable, optional
        Called after the session has taken something.
    """

    def __init__(self, parts: Parts, notify: Callable[[], None] | None = None) -> None:
        self._selection, self._notify = parts.selection, notify
        self._lane = parts.lanes.add(
            _read, given=self._take, failed=lambda _, error: parts.status.fail(error), busy="also"
        )
        self._asked: weakref.WeakSet[Image] = weakref.WeakSet()

    def ask(self, layer: Image | None) -> None:
        """Look into a layer's file for pixel size and modality, if they are unknown."""
        if layer is None or layer in self._asked or layer.source.path is None:
            return
        known = self._selection.settings_of(layer)
        if known.origin != "unknown" and known.modality != "unknown":
            return
        self._asked.add(layer)
        self._lane.ask(weakref.ref(layer))

    def close(self) -> None:
        """Take no more of what was asked for."""
        self._lane.close()

    def _take(self, asked: weakref.ref[Image], said: ImageSettings | None) -> None:
        layer = asked()
        if said is None or layer is None:
            return
        known, changes = self._selection.settings_of(layer), dict[str, Any]()
        # The user may have answered meanwhile.
        if said.pixel_size is not None and known.origin == "unknown":
            changes |= {"pixel_size": said.pixel_size, "origin": "file"}
        if said.modality != "unknown" and known.modality == "unknown":
            changes |= {"modality": said.modality, "unit": said.unit}
        if changes:
            self._selection.set_settings(layer, **changes)
            if self._notify is not None:
                self._notify()


def _read(asked: weakref.ref[Image]) -> ImageSettings | None:
    layer = asked()
    return None if layer is None else settings_in_file(layer)
