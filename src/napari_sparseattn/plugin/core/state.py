"""What a session in one viewer holds, and what it tells; no Qt here."""

from __future__ import annotations

import weakref
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

from psygnal import Signal

from ..cells.layers import Overlays, Role
from ..cells.requests import Model
from .book import ImageBook
from .clicks import ClickWatcher
from .messages import Level, Message
from .preferences import preferences
from .runs import FieldRun, Run, SlideRun

if TYPE_CHECKING:
    from napari.components import ViewerModel
    from napari.layers import Image, Layer

    from ...card import Card
    from ...inference.prediction import Prediction

__all__ = ["State"]


class State:
    """What a session holds and tells; the viewer is held weakly.

    Parameters
    ----------
    viewer : napari.components.ViewerModel
        The viewer itself, not napari's proxy of it.
    """

    images_changed = Signal()
    image_changed = Signal(object)
    settings_changed = Signal(object)
    model_changed = Signal(object)
    models_changed = Signal()
    answer_changed = Signal(object)
    results_changed = Signal(object)
    selected_changed = Signal(object)
    overlays_changed = Signal(object)
    clicking_changed = Signal(bool)
    progress_changed = Signal(object)
    message_changed = Signal(object)
    click_requested = Signal(object)
    run_requested = Signal(object)
    run_cancelled = Signal()

    def __init__(self, viewer: ViewerModel) -> None:
        self._viewer = weakref.ref(viewer)
        self.overlays = Overlays(viewer, self._overlay_toggled)
        self.choice = preferences().overlays
        self.image: Image | None = None
        self.cell_layer: Layer | None = None
        self.model: Model | None = None
        self.loading = False
        #: Whether the user chose the model; one that was not may be changed to fit the image.
        self.model_is_chosen = False
        #: The models there are to choose from, by name.
        self.cards: dict[str, Card] = {}
        self.answer: Prediction | None = None
        self.message = Message("")
        #: Grows with every click and every change that makes answers outdated.
        self.generation = 0
        self._run: Run | None = None
        self._field: FieldRun | None = None
        self._slide: SlideRun | None = None
        self._book = ImageBook()
        self._watcher = ClickWatcher(self.pressed)
        self._clicking = True
        #: The layer of the user's that was last selected.
        self._active: Callable[[], Layer | None] = lambda: None
        self._users = 0

    @property
    def viewer(self) -> ViewerModel | None:
        """The viewer, or None after it is gone."""
        return self._viewer()

    def say(self, text: str, level: Level = "info") -> None:
        """Put one line before the user."""
        self.message = Message(text, level)
        self.message_changed.emit(self.message)

    def pressed(self, world: Any) -> None:
        """Answer a click of the mouse at a position in the world."""
        raise NotImplementedError

    def _overlay_toggled(self, role: Role, shown: bool) -> None:
        """Take note that the user has shown or hidden an overlay in the layer list."""
        raise NotImplementedError
