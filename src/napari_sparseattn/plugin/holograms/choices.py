"""What is chosen in the hologram panel of one viewer. No Qt here.

`hologram` adds what is asked and answered.
"""

from __future__ import annotations

import dataclasses
import math
import weakref
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

import numpy as np
from psygnal import Signal

from ...images.holograms.recording import Frames, Kind, Recording
from ...images.holograms.settings import HologramSettings
from ..core.messages import Level, Message
from ..core.session import Session
from ..core.sources import ImageSettings, displayed_plane, is_own
from .layers import OpdLayers
from .recordings import (
    Facts,
    LayerFrames,
    facts_of,
    is_result,
    kind_of,
    recorded,
    recording_of,
    takes_holograms,
)

if TYPE_CHECKING:
    from napari.components import ViewerModel
    from napari.layers import Image

__all__ = ["HologramChoices"]


_NO_SOURCE = "Open a hologram with Open file…, or take the simulated one from File → Open Sample."
_NO_LAYER = "Choose an image."
_UNCALIBRATED = "Without the wavelength the result is phase in rad, uncalibrated."


class HologramChoices:
    """The user's choices, evented; the viewer is held weakly.

    Kind and pixel size are those of the main dock: what is said in one place
    is known in the other.

    Parameters
    ----------
    viewer : napari.components.ViewerModel
        The viewer itself, not napari's proxy of it.
    """

    sources_changed = Signal()
    facts_changed = Signal()
    settings_changed = Signal(object)
    preview_wanted = Signal()
    message_changed = Signal(object)

    def __init__(self, viewer: ViewerModel) -> None:
        self._viewer = weakref.ref(viewer)
        self.main = Session.of(viewer)
        self.results = OpdLayers(viewer)
        self.layer: Image | None = None
        self.settings = HologramSettings()
        self.message = Message("")
        #: Grows with every change that makes previews outdated.
        self.generation = 0
        self._facts: weakref.WeakKeyDictionary[Image, Facts] = weakref.WeakKeyDictionary()
        self._users = 0

    @property
    def viewer(self) -> ViewerModel | None:
        """The viewer, or None after it is gone."""
        return self._viewer()

    # -- opening and closing

    def attach(self) -> None:
        """Listen to the viewer; call once per open dock."""
        self._users += 1
        viewer = self.viewer
        if self._users > 1 or viewer is None:
            return
        for signal, slot in self._listening(viewer):
            signal.connect(slot)
        self.main.settings_changed.connect(self._main_settings_changed)
        self._layers_changed()
        self._active_changed()
        self.outdate()

    def detach(self) -> None:
        """Stop listening when the last dock closes, and stop the work."""
        if self._users == 0:
            return
        self._users -= 1
        if self._users:
            return
        self.generation += 1
        self.cancel()
        self.main.settings_changed.disconnect(self._main_settings_changed)
        if (viewer := self.viewer) is not None:
            for signal, slot in self._listening(viewer):
                signal.disconnect(slot)

    def _listening(self, viewer: ViewerModel) -> list[tuple[Any, Callable[..., None]]]:
        layers = viewer.layers
        return [
            (layers.events.inserted, self._layers_changed),
            (layers.events.removed, self._layers_changed),
            (layers.selection.events.active, self._active_changed),
            (viewer.dims.events.current_step, self._step_changed),
        ]

    def cancel(self) -> None:
        """Stop the work."""
        raise NotImplementedError

    # -- the source

    def sources(self) -> list[Image]:
        """Return the image layers that can be reconstructed."""
        viewer = self.viewer
        if viewer is None:
            return []
        return [x for x in viewer.layers if self._takes(x)]

    def backgrounds(self) -> list[Image]:
        """Return the layers that can be the source's background."""
        layer = self.layer
        if layer is None:
            return []
        n, *shape = LayerFrames(layer).shape
        others = [(x, LayerFrames(x).shape) for x in self.sources() if x is not layer]
        return [x for x, (m, *other) in others if other == shape and m in (1, n)]

    def set_layer(self, layer: Image | None) -> None:
        """Choose the layer to reconstruct."""
        if layer is self.layer:
            return
        self.layer = layer
        if layer is not None and layer not in self._facts:
            self._facts[layer] = facts_of(layer)
            layer.events.data.connect(self._data_changed)
        self.facts_changed.emit()
        self.outdate()
        self.say(self.advice())

    @property
    def kind(self) -> Kind:
        """What the source's frames are taken for."""
        if self.layer is None:
            return "hologram"
        return kind_of(self.layer, self.main.settings_of(self.layer).modality)

    @property
    def wavelength_unknown(self) -> bool:
        """Whether phase or OPD is whole numbers, as grey levels are but rad and nm are not."""
        if self.layer is None or self.kind not in ("phase", "opd"):
            return False
        return LayerFrames(self.layer).dtype.kind in "biu"

    def set_kind(self, kind: Kind) -> None:
        """Say what the source's frames are."""
        if self.layer is not None and kind != "field":
            unit = {"phase": "rad", "opd": "nm"}.get(kind, "")
            self.main.set_settings(self.layer, modality=kind, unit=unit)
            self.facts_told()

    @property
    def result(self) -> Image | None:
        """The source's reconstruction, if there is one."""
        return None if self.layer is None else self.results.layer(self.layer)

    # -- what is known of it

    @property
    def facts(self) -> Facts:
        """How the source was recorded."""
        return Facts() if self.layer is None else self._facts[self.layer]

    @property
    def scale(self) -> ImageSettings:
        """The source's pixel size and where it is from."""
        return ImageSettings() if self.layer is None else self.main.settings_of(self.layer)

    def set_facts(self, **changes: Any) -> None:
        """Say how the source was recorded: wavelength in nm, medium_index.

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
        """Say how many µm a pixel of the source is wide."""
        if self.layer is not None:
            origin = "unknown" if size is None else "user"
            self.main.set_settings(self.layer, pixel_size=size, origin=origin)
            self.facts_told()

    def set_background(self, background: Frames | Image | None, name: str = "") -> None:
        """Choose the recording without cells: an array, a layer or none."""
        self._change_facts(background=background, background_name=name)

    def own_background(self) -> Frames | None:
        """Return the background in the source's file."""
        known = None if self.layer is None else recorded(self.layer)
        return None if known is None else known.background

    def _change_facts(self, **changes: Any) -> None:
        if self.layer is not None:
            self._facts[self.layer] = dataclasses.replace(self.facts, **changes)
            self.facts_told()

    def facts_told(self) -> None:
        """Tell that something else is known of the source."""
        self.facts_changed.emit()
        self.outdate()
        self.say(self.advice())

    def recording(self) -> Recording | None:
        """Return the source as a recording, or say why it is none."""
        if self.layer is None:
            return None
        try:
            return recording_of(self.layer, self.kind, self.facts, self.scale.pixel_size)
        except ValueError as error:
            self.say(f"'{self.layer.name}' cannot be reconstructed: {error}.", "error")
            return None

    def frame_index(self) -> int:
        """Return which frame the viewer shows.

        Raises
        ------
        SourceError
            If it does not show the source's last two axes in 2D.
        """
        assert self.viewer is not None
        assert self.layer is not None
        plane = displayed_plane(self.viewer, self.layer)
        leading = plane.data.shape[: len(plane.index)]
        return int(np.ravel_multi_index(plane.index, leading)) if plane.index else 0

    # -- settings

    def set_settings(self, settings: HologramSettings) -> None:
        """Take other settings; their wavelength, pixel size and index go to the source."""
        if (size := settings.pixel_size) is not None:
            self.set_pixel_size(size)
        known = ("wavelength", "medium_index")
        told = {name: getattr(settings, name) for name in known if getattr(settings, name)}
        if told:
            self.set_facts(**told)
        told_elsewhere: dict[str, Any] = {"pixel_size": None, **dict.fromkeys(known)}
        self._settle_for(dataclasses.replace(settings, **told_elsewhere))

    def change_settings(self, **changes: Any) -> None:
        """Change some settings; `HologramSettings` raises ValueError if one is out of range."""
        self._settle_for(dataclasses.replace(self.settings, **changes))

    def _settle_for(self, settings: HologramSettings) -> None:
        if settings != self.settings:
            self.settings = settings
            self.settings_changed.emit(settings)
            self.outdate()

    # -- words

    def say(self, text: str, level: Level = "info") -> None:
        """Put one line before the user."""
        self.message = Message(text, level)
        self.message_changed.emit(self.message)

    def advice(self) -> str:
        """Return what to do next."""
        if self.layer is None:
            return _NO_LAYER if self.sources() else _NO_SOURCE
        uncalibrated = self.kind != "opd" and self.facts.wavelength is None
        return _UNCALIBRATED if uncalibrated else "Check the preview, then Reconstruct."

    def outdate(self) -> None:
        """Drop previews that are under way, and ask for a new one."""
        self.generation += 1
        self.preview_wanted.emit()

    # -- what the viewer tells

    def _takes(self, layer: Any) -> bool:
        return takes_holograms(layer, "unknown") and takes_holograms(
            layer, self.main.settings_of(layer).modality
        )

    def _layers_changed(self, event: Any = None) -> None:
        if event is not None and is_own(event.value):
            return
        if event is not None and is_result(event.value):
            self.sources_changed.emit()
            return
        viewer = self.viewer
        background = self.facts.background
        if viewer is not None and event is not None and event.value is background:
            self.set_background(None)
        self._refresh_sources()
        self.say(self.advice())

    def _refresh_sources(self) -> None:
        sources = self.sources()
        if self.layer not in sources:
            self.set_layer(sources[-1] if sources else None)
        self.sources_changed.emit()

    def _active_changed(self, event: object = None) -> None:
        viewer = self.viewer
        active = None if viewer is None else viewer.layers.selection.active
        if active is not None and self._takes(active):
            self.set_layer(active)

    def _step_changed(self, event: object = None) -> None:
        if self.layer is not None and self.layer.ndim > 2:
            self.outdate()

    def _data_changed(self, event: Any) -> None:
        if event.source is self.layer:
            self.outdate()

    def _main_settings_changed(self, _: object) -> None:
        self._refresh_sources()
        if self.main.image is self.layer is not None:
            self.facts_changed.emit()
            self.outdate()
