"""What only the file of a layer says: napari's own reader leaves it out."""

from __future__ import annotations

import weakref
from collections.abc import Callable
from functools import partial
from typing import TYPE_CHECKING, Any

from .sources import ImageSettings, settings_in_file
from .workers import Workers

if TYPE_CHECKING:
    from napari.layers import Image

    from .session import Session

__all__ = ["FileFacts"]


class FileFacts:
    """Looks into the files of layers, once each, for what the layers lack.

    Parameters
    ----------
    session : Session
        Is told what is found.
    workers : Workers
        Read the files.
    told : callable, optional
        Called after the session has been told.
    """

    def __init__(
        self, session: Session, workers: Workers, told: Callable[[], None] | None = None
    ) -> None:
        self._session, self._workers, self._told = session, workers, told
        self._asked: weakref.WeakSet[Image] = weakref.WeakSet()

    def ask(self, layer: Image | None) -> None:
        """Look into a layer's file for pixel size and modality, if they are unknown."""
        if layer is None or layer in self._asked or layer.source.path is None:
            return
        known = self._session.settings_of(layer)
        if known.origin != "unknown" and known.modality != "unknown":
            return
        self._asked.add(layer)
        self._workers.start(
            partial(settings_in_file, layer), returned=partial(self._found, weakref.ref(layer))
        )

    def _found(self, ref: weakref.ref[Image], said: ImageSettings | None) -> None:
        layer = ref()
        if said is None or layer is None:
            return
        known, changes = self._session.settings_of(layer), dict[str, Any]()
        # The user may have answered meanwhile.
        if said.pixel_size is not None and known.origin == "unknown":
            changes |= {"pixel_size": said.pixel_size, "origin": "file"}
        if said.modality != "unknown" and known.modality == "unknown":
            changes |= {"modality": said.modality, "unit": said.unit}
        if changes:
            self._session.set_settings(layer, **changes)
            if self._told is not None:
                self._told()
