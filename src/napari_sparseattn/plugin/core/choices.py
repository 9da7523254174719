"""What is chosen in one viewer: image, scale, cells, model, overlays.

No Qt here. `session` adds what is asked and answered.
"""

from __future__ import annotations

import dataclasses
import weakref
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

from ..cells.layers import OverlayChoice, Role
from ..cells.requests import Model
from .messages import about_obstacle
from .sources import ImageSettings, guess_settings, is_cell_source, is_own, is_picture
from .state import State

if TYPE_CHECKING:
    from napari.components import ViewerModel
    from napari.layers import Image, Layer

    from ...card import Card
    from ...inference.prediction import Prediction, Predictions

__all__ = ["Choices"]


class Choices(State):
    """The user's choices, evented."""

    # -- opening and closing

    def attach(self) -> None:
        """Listen to the viewer; call once per open dock."""
        self._users += 1
        viewer = self.viewer
        if self._users > 1 or viewer is None:
            return
        viewer.mouse_drag_callbacks.append(self._watcher.on_mouse)
        for signal, slot in self._listening(viewer):
            signal.connect(slot)
        # Layers may have gone while no dock was open.
        if self.image is not None and not self._present(self.image):
            self.set_image(None)
        if self.cell_layer is not None and not self._present(self.cell_layer):
            self.set_cell_layer(None)
        self._layers_changed()
        self._active_changed()

    def detach(self) -> None:
        """Stop listening when the last dock closes, and stop the work."""
        if self._users == 0:
            return
        self._users -= 1
        viewer = self.viewer
        if self._users:
            return
        self.generation += 1
        self.cancel_run()
        if viewer is None:
            return
        if self._watcher.on_mouse in viewer.mouse_drag_callbacks:
            viewer.mouse_drag_callbacks.remove(self._watcher.on_mouse)
        for signal, slot in self._listening(viewer):
            signal.disconnect(slot)

    def _listening(self, viewer: ViewerModel) -> list[tuple[Any, Callable[..., None]]]:
        layers = viewer.layers
        return [
            (layers.events.inserted, self._layers_changed),
            (layers.events.removed, self._layer_removed),
            (layers.selection.events.active, self._active_changed),
        ]

    # -- choices

    def images(self) -> list[Image]:
        """Return the image layers that can be classified."""
        viewer = self.viewer
        return [] if viewer is None else [x for x in viewer.layers if is_picture(x)]

    def cell_layers(self) -> list[Layer]:
        """Return the user's layers that can say where the cells are."""
        viewer = self.viewer
        return [] if viewer is None else [x for x in viewer.layers if is_cell_source(x)]

    def set_image(self, layer: Image | None) -> None:
        """Choose the image to classify."""
        if layer is self.image:
            return
        self.generation += 1
        self.image = layer
        if layer is not None and layer not in self._book:
            layer.events.data.connect(self._data_changed)
            for event in (layer.events.scale, layer.events.units, layer.events.affine):
                event.connect(self._scale_changed)
        self._set_answer(None)
        self.image_changed.emit(layer)
        self.settings_changed.emit(self.settings)
        self.results_changed.emit(self.results)

    @property
    def settings(self) -> ImageSettings:
        """What is known about the chosen image."""
        return ImageSettings() if self.image is None else self._book[self.image].settings

    def settings_of(self, layer: Image) -> ImageSettings:
        """Return what is known about an image."""
        return self._book[layer].settings

    def set_settings(self, layer: Image, **changes: Any) -> None:
        """Change what is known about an image: modality, pixel_size, origin.

        Raises
        ------
        ValueError
            If the pixel size is not a positive number.
        """
        if self._book.change(layer, changes) and layer is self.image:
            self.generation += 1
            self.settings_changed.emit(self.settings)
            if "modality" in changes and not self.running:
                self.say(self.advice())

    def set_cell_layer(self, layer: Layer | None) -> None:
        """Choose a Labels or Points layer that says where cells are; None finds them."""
        if layer is self.cell_layer:
            return
        self.generation += 1
        self.cell_layer = layer
        if layer is not None:
            for name in ("data", "labels_update", "paint"):
                if name in layer.events.emitters:
                    layer.events.emitters[name].connect(self._cell_layer_edited)
        self._book.forget_cells()

    def set_model(self, model: Model | None, *, loading: bool = False) -> None:
        """Choose a model that has been loaded, or none while one is being loaded."""
        self.generation += 1
        self.cancel_run()
        self.model, self.loading = model, loading
        self._set_answer(None)
        if model is not None:
            self.overlays.keep_kind(model.bundle.card.kind)
        self.model_changed.emit(model)
        self.say(self.advice())

    def set_choice(self, choice: OverlayChoice) -> None:
        """Choose which overlays are shown, now and after the next click."""
        if choice == self.choice:
            return
        self.choice = choice
        self.overlays.apply(choice)
        self.overlays_changed.emit(choice)

    @property
    def clicking(self) -> bool:
        """Whether a click on a cell classifies it."""
        return self._clicking

    def set_clicking(self, on: bool) -> None:
        """Turn click-to-classify on or off."""
        if on != self._clicking:
            self._clicking = on
            self.clicking_changed.emit(on)

    # -- words

    def advice(self) -> str:
        """Return what to do next."""
        if self.loading:
            return "Loading the model…"
        if not self.images():
            return "Open an image of cells, or take one from File → Open Sample."
        if self.image is None:
            return "Choose an image."
        if obstacle := self.obstacle():
            return obstacle
        if self.model is None:
            return "Choose a model, or load a model file with Load…."
        return self.invitation()

    def invitation(self) -> str:
        """Return what can be done now that image and model are there."""
        return "Click a cell in the image, or classify all of them."

    def obstacle(self) -> str:
        """Return why the model cannot classify the image and what to do, or nothing."""
        if self.image is None:
            return ""
        card = None if self.model is None else self.model.bundle.card
        shows = self.settings.modality
        # Alpha is no channel to a model.
        channels = 3 if self.image.rgb else 1
        return about_obstacle(self.image.name, shows, channels, card, self.fitting_models())

    def fitting_models(self) -> list[str]:
        """Return the names of the models for what the image shows, the likeliest first.

        Those that look at whole slides come first for slides, and last for cells.
        """
        shows = self.settings.modality
        fitting = [name for name, card in self.cards.items() if card.modality == shows]
        return sorted(fitting, key=lambda name: not self.suits(self.cards[name]))

    @property
    def to_reconstruct(self) -> bool:
        """Whether the dock Holograms can turn the image into what the model takes."""
        shows = self.settings.modality
        wants = "opd" if self.model is None else self.model.bundle.card.modality
        return shows == "hologram" or (shows == "phase" and wants == "opd")

    def suits(self, card: Card) -> bool:
        """Tell whether a model does what the image is most likely opened for."""
        return card.kind == "sparse-attn-net"

    @property
    def running(self) -> bool:
        """Whether all cells, a field or a slide are being classified."""
        return any(run is not None for run in (self._run, self._field, self._slide))

    # -- for the session to fill in

    @property
    def results(self) -> Predictions | None:
        """All classified cells of the chosen image."""
        found = None if self.image is None else self._book[self.image].results
        return None if found is None else found[1]

    def click(self, world: Any) -> object:
        """Ask for the class of the cell at a position in the world."""
        raise NotImplementedError

    def cancel_run(self, reason: str = "Cancelled") -> None:
        """Stop classifying all cells, or the field."""
        raise NotImplementedError

    def _set_answer(self, answer: Prediction | None) -> None:
        self.answer = answer
        self.answer_changed.emit(answer)

    def _present(self, layer: Layer) -> bool:
        viewer = self.viewer
        return viewer is not None and layer in viewer.layers

    # -- what the viewer tells

    def _layers_changed(self, event: Any = None) -> None:
        if event is not None and is_own(event.value):
            return
        self.images_changed.emit()
        if self.image is None and (images := self.images()):
            self.set_image(images[-1])
        self.say(self.advice())

    def _layer_removed(self, event: Any) -> None:
        gone = event.value
        if is_own(gone):
            return
        runs = [run for run in (self._run, self._field, self._slide) if run is not None]
        stopped = any(run.request.layer is gone for run in runs)
        if stopped:
            self.cancel_run(f"'{gone.name}' was removed")
        if gone is self.cell_layer:
            self.set_cell_layer(None)
        if gone is self.image:
            images = self.images()
            self.set_image(images[-1] if images else None)
        self.images_changed.emit()
        if not stopped:
            self.say(self.advice())

    def _active_changed(self, event: object = None) -> None:
        viewer = self.viewer
        active = None if viewer is None else viewer.layers.selection.active
        # Adding an overlay makes it active for a moment: what was, still is.
        if active is None or is_own(active) or active is self._active():
            return
        self._active = weakref.ref(active)
        if active is not self.image and is_picture(active):
            self.set_image(active)
            if not self.running:
                self.say(self.advice())

    def _data_changed(self, event: Any) -> None:
        self._book[event.source].cells = None
        if event.source is self.image:
            self.generation += 1

    def _scale_changed(self, event: Any) -> None:
        settings = self._book[event.source].settings
        if settings.origin == "user":
            return
        guessed = guess_settings(event.source)
        if "layer" in (guessed.origin, settings.origin):
            self.set_settings(event.source, pixel_size=guessed.pixel_size, origin=guessed.origin)

    def _cell_layer_edited(self, event: Any) -> None:
        if event.source is self.cell_layer:
            self._book.forget_cells()

    def _overlay_toggled(self, role: Role, shown: bool) -> None:
        self.set_choice(dataclasses.replace(self.choice, **{role: shown}))
