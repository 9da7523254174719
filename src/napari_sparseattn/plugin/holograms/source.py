"""The layer that is reconstructed in one viewer, and how it was recorded."""

from __future__ import annotations

import dataclasses
import math
import weakref
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from psygnal import Signal

from ...images.holograms.recording import Frames, Kind, Recording
from ..core.sources import ImageSettings, displayed_plane, file_of, is_own
from ..session import Session
from .recordings import (
    Facts,
    LayerFrames,
    facts_of,
    is_result,
    kind_of,
    recording_in,
    recording_of,
    takes_holograms,
)

if TYPE_CHECKING:
    from napari.components import ViewerModel
    from napari.layers import Image

__all__ = ["Source"]


class Source:
    """The source of a reconstruction: a layer, evented; the viewer is held weakly.

    Kind and pixel size are those of the main dock: what is said in one place
    is known in the other.

    Parameters
    ----------
    viewer : napari.components.ViewerModel
        The viewer itself, not napari's proxy of it.
    main : Session
        Of the viewer.
    """

    #: Other layers can be chosen.
    layers_changed = Signal()
    #: Another layer, or another fact about it.
    changed = Signal()
    #: The layer has other pixels.
    data_changed = Signal()
    #: Another frame of the layer is displayed.
    frame_changed = Signal()

    def __init__(self, viewer: ViewerModel, main: Session) -> None:
        self._viewer = weakref.ref(viewer)
        self.main = main
        self.layer: Image | None = None
        self._facts: weakref.WeakKeyDictionary[Image, Facts] = weakref.WeakKeyDictionary()

    def following(self) -> list[tuple[Any, Callable[..., Any]]]:
        """Return signals and the methods that they call."""
        viewer = self._viewer()
        found: list[tuple[Any, Callable[..., Any]]] = [
            (self.main.selection.settings_changed, self._follow_settings)
        ]
        if viewer is not None:
            layers = viewer.layers
            found += [
                (layers.events.inserted, self._follow_layers),
                (layers.events.removed, self._follow_layers),
                (layers.selection.events.active, self._follow_active),
                (viewer.dims.events.current_step, self._follow_step),
            ]
        return found

    def refresh(self) -> None:
        """Take the active layer, or the last one that can be reconstructed."""
        self._follow_layers()
        self._follow_active()

    # -- which layer

    def layers(self) -> list[Image]:
        """Return the image layers that can be reconstructed."""
        viewer = self._viewer()
        return [] if viewer is None else [x for x in viewer.layers if self._takes(x)]

    def backgrounds(self) -> list[Image]:
        """Return the layers that can be the source's background."""
        layer = self.layer
        if layer is None:
            return []
        n, *shape = LayerFrames(layer).shape
        others = [(x, LayerFrames(x).shape) for x in self.layers() if x is not layer]
        return [x for x, (m, *other) in others if other == shape and m in (1, n)]

    def set_layer(self, layer: Image | None) -> None:
        """Choose the layer to reconstruct."""
        if layer is self.layer:
            return
        self.layer = layer
        if layer is not None and layer not in self._facts:
            self._facts[layer] = facts_of(layer)
            layer.events.data.connect(self._follow_data)
        self.changed.emit()

    @property
    def kind(self) -> Kind:
        """Kind that the source's frames are taken for."""
        if self.layer is None:
            return "hologram"
        return kind_of(self.layer, self.main.selection.settings_of(self.layer).modality)

    @property
    def wavelength_unknown(self) -> bool:
        """Whether phase or OPD is whole numbers, as grey levels are but rad and nm are not."""
        if self.layer is None or self.kind not in ("phase", "opd"):
            return False
        return LayerFrames(self.layer).dtype.kind in "biu"

    def set_kind(self, kind: Kind) -> None:
        """Set the kind of the source's frames."""
        if self.layer is not None and kind != "field":
            unit = {"phase": "rad", "opd": "nm"}.get(kind, "")
            self.main.selection.set_settings(self.layer, modality=kind, unit=unit)
            self.changed.emit()

    # -- how it was recorded

    @property
    def facts(self) -> Facts:
        """How the source was recorded."""
        return Facts() if self.layer is None else self._facts[self.layer]

    @property
    def scale(self) -> ImageSettings:
        """The source's pixel size and its origin."""
        return (
            ImageSettings() if self.layer is None else self.main.selection.settings_of(self.layer)
        )

    def set_facts(self, **changes: Any) -> None:
        """Set how the source was recorded: wavelength in nm, medium_index.

        Raises
        ------
        ValueError
            If a number is not positive.
        """
        for name, value in changes.items():
            if value is not None and not (math.isfinite(value) and value > 0):
                raise ValueError(f"The {name.replace('_', ' ')} must be positive, not {value}.")
        self._change_facts(**changes)

    def set_pixel_size(self, size: float | None) -> None:
        """Set µm per pixel of the source."""
        if self.layer is not None:
            origin = "unknown" if size is None else "user"
            self.main.selection.set_settings(self.layer, pixel_size=size, origin=origin)
            self.changed.emit()

    def set_background(
        self, background: Frames | Image | None, name: str = "", path: Path | None = None
    ) -> None:
        """Choose the recording without cells: an array, a layer or none."""
        from napari.layers import Layer

        if isinstance(background, Layer) and (file := file_of(background)) is not None:
            path = Path(file)
        self._change_facts(background=background, background_name=name, background_path=path)

    def own_background(self) -> Frames | None:
        """Return the background in the source's file."""
        known = None if self.layer is None else recording_in(self.layer)
        return None if known is None else known.background

    def _change_facts(self, **changes: Any) -> None:
        if self.layer is not None:
            self._facts[self.layer] = dataclasses.replace(self.facts, **changes)
            self.changed.emit()

    # -- what is reconstructed

    def recording(self) -> Recording | None:
        """Return the source as a recording; None without a layer.

        Raises
        ------
        ValueError
            If layer and background do not go together.
        """
        if self.layer is None:
            return None
        return recording_of(self.layer, self.kind, self.facts, self.scale.pixel_size)

    def frame_index(self) -> int:
        """Return which frame the viewer shows.

        Raises
        ------
        SourceError
            If it does not show the source's last two axes in 2D.
        """
        viewer = self._viewer()
        assert viewer is not None
        assert self.layer is not None
        plane = displayed_plane(viewer, self.layer)
        leading = plane.data.shape[: len(plane.index)]
        return int(np.ravel_multi_index(plane.index, leading)) if plane.index else 0

    # -- following the viewer

    def _takes(self, layer: Any) -> bool:
        return takes_holograms(layer, "unknown") and takes_holograms(
            layer, self.main.selection.settings_of(layer).modality
        )

    def _follow_layers(self, event: Any = None) -> None:
        if event is not None and is_own(event.value):
            return
        if event is not None and is_result(event.value):
            self.layers_changed.emit()
            return
        if event is not None and event.value is self.facts.background:
            self.set_background(None)
        layers = self.layers()
        if self.layer not in layers:
            self.set_layer(layers[-1] if layers else None)
        self.layers_changed.emit()

    def _follow_active(self, _: object = None) -> None:
        viewer = self._viewer()
        active = None if viewer is None else viewer.layers.selection.active
        if active is not None and self._takes(active):
            self.set_layer(active)

    def _follow_step(self, _: object = None) -> None:
        if self.layer is not None and self.layer.ndim > 2:
            self.frame_changed.emit()

    def _follow_data(self, event: Any) -> None:
        if event.source is self.layer:
            self.data_changed.emit()

    def _follow_settings(self, _: object) -> None:
        before = self.layer
        self._follow_layers()
        if self.main.selection.image is self.layer is before is not None:
            self.changed.emit()
