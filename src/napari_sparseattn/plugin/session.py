"""One viewer's session: what is chosen, said and shown, and the tasks of each kind of model."""

from __future__ import annotations

import dataclasses
import weakref
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

from psygnal import SignalInstance

from .cells.task import CellTask
from .core.activity import Activity
from .core.advice import Advice
from .core.clicks import ClickWatcher
from .core.file_facts import FileFacts
from .core.lanes import Lanes
from .core.layers import OverlayChoice, Overlays, Role
from .core.models import Model, Models
from .core.parts import SETTINGS_CHANGED, Answers, Parts, Task
from .core.per_viewer import PerViewer
from .core.selection import Selection
from .core.sources import is_own, is_picture, is_result
from .core.status import Progress, Status
from .core.undo import Undo
from .core.view import image_under, show_image
from .slides.task import SlideTask
from .tasks import TASKS
from .traversal.task import TraversalTask

if TYPE_CHECKING:
    from napari.components import ViewerModel
    from napari.layers import Image, Layer

    from ..card import Card
    from ..inference.prediction import Prediction

__all__ = ["Session"]


class Session(PerViewer):
    """What goes on in one viewer; get it with `Session.of`.

    The viewer is held weakly, so that closing it frees both.

    Attributes
    ----------
    selection : Selection
        Image, cells, model, overlays.
    status : Status
        The message line, and how far work is.
    models : Models
        To choose from.
    cells, crops, slides : CellTask, TraversalTask, SlideTask
        What each kind of model does.
    """

    def __init__(self, viewer: ViewerModel) -> None:
        super().__init__(viewer)
        self.selection, self.status = Selection(viewer), Status()
        lanes = Lanes.of(viewer)
        self.models = Models(lanes, self._take_model)
        self.overlays = Overlays(viewer, self._toggle_overlay)
        self._answers = Answers()
        # Before the tasks listen, so that they find no answer of another image or model.
        self.selection.outdated.connect(self._leave)
        self.parts = Parts(
            self.selection, self.status, self.models, self._answers, self.overlays, lanes, TASKS
        )
        self.cells = CellTask(self.parts)
        self.crops = TraversalTask(self.parts, self.cells)
        self.slides = SlideTask(self.parts)
        self.tasks: tuple[CellTask, TraversalTask, SlideTask] = (
            self.cells, self.crops, self.slides,
        )  # fmt: skip
        self._files = FileFacts(self.parts)
        activity = Activity.of(viewer)
        status, slides = self.status, self.slides
        activity.follow(
            "Classifying",
            (status.progress_changed, slides.stages_changed),
            status.cancel,
            self._progress,
        )
        activity.follow(
            "What speaks for the class",
            (slides.explaining_changed, slides.explanation_changed),
            slides.cancel_explanation,
            lambda: slides.explaining_progress,
        )
        activity.follow(
            "Loading the model",
            (self.selection.model_changed,),
            None,
            lambda: Progress(what="") if self.selection.loading else None,
        )
        self._undo = Undo.of(viewer)
        for space in (self.overlays, self.slides.maps):
            self._undo.removed.add_space(space)
        self._undo.said.connect(self.status.notify)
        self.selection.image_changed.connect(self._files.ask)
        self.selection.overlays_changed.connect(self._apply_choice)
        self.selection.modality_changed.connect(self._advise_if_idle)
        self.selection.settings_changed.connect(self._fit_model)
        self.status.progress_changed.connect(self._fit_when_idle)
        self.selection.unsettled.connect(self._unsettle)
        self.selection.model_changed.connect(self._change_model)
        self._model_before: Model | None = None
        #: Whether an image came while there was work, which no model may interrupt.
        self._fit_later = False
        #: Of which image all is to be asked, once the model is there.
        self._asked_soon: Image | None = None
        self._watcher = ClickWatcher(self.press, self.press_here)
        #: The layer of the user's that was last selected.
        self._active: Callable[[], Layer | None] = lambda: None

    def _progress(self) -> Progress | None:
        """Return how far the work is that the user waits for."""
        work = self.status.work
        return None if work is None else work.progress()

    # -- what there is

    @property
    def answer(self) -> Prediction | None:
        """The answer that is shown."""
        return self._answers.answer

    @property
    def answered(self) -> Any:
        """The request that the answer is of."""
        return self._answers.request

    @property
    def answer_changed(self) -> SignalInstance:
        """Emitted with each answer that is shown."""
        return self._answers.changed

    @property
    def asked(self) -> SignalInstance:
        """Emitted with the request of each question."""
        return self._answers.asked

    @property
    def shown(self) -> Any:
        """What was asked for the answer that is shown: a request, or a slide's whole answer."""
        return self._answers.request

    @property
    def task(self) -> Task:
        """What the chosen kind of model does; while there is none, that of the first kind."""
        card = self.selection.card
        kind = next(iter(TASKS.values())) if card is None else TASKS[card.kind]
        found: Task = next(task for task in self.tasks if type(task) is kind)
        return found

    @property
    def card_to_be(self) -> Card | None:
        """The card of the chosen model, or of the one that is being loaded."""
        return self.parts.card_to_be

    @property
    def advice(self) -> Advice:
        """What can be done next."""
        return self.parts.advice

    def press(self, world: Any) -> None:
        """Answer a click of the mouse at a position in the world.

        What is asked about is the image that is seen there.
        """
        self._see(world)
        self.task.press(world)

    def press_here(self, world: Any) -> None:
        """Answer a Shift-click: where cells are classified, what is under the cursor is one."""
        if isinstance(self.task, SlideTask):
            self.press(world)
            return
        self._see(world)
        self.cells.press_here(world)

    def _see(self, world: Any) -> None:
        viewer, selection = self.viewer, self.selection
        if viewer is not None and viewer.dims.ndisplay == 2:
            seen = image_under(viewer, world, selection.image)
            if seen is not None:
                selection.set_image(seen)

    def choose_image(self, image: Image | None) -> None:
        """Choose the image to classify, and bring it into view."""
        self.selection.set_image(image)
        if image is not None and self.viewer is not None:
            show_image(self.viewer, image)
        self.parts.advise()

    def choose_in_file(self, image: int) -> None:
        """Show another of the images that the file of the chosen one holds."""
        if self.selection.image is not None:
            self._files.choose(self.selection.image, image)

    def use_profile(self, on: bool) -> None:
        """Apply the colour profile in the chosen image's file, or leave colours as stored."""
        if self.selection.image is not None:
            self._files.use_profile(self.selection.image, on)

    def show_as_colour(self) -> None:
        """Show three planes, which the chosen image is, as one image in colour."""
        if self.selection.image is not None:
            self._files.show_as_colour(self.selection.image)

    def clear(self) -> None:
        """Take every result of the chosen image away, with its layers; work at hand is stopped.

        What the user has drawn stays: annotations, and outlines of tissue.
        """
        viewer, image = self.viewer, self.selection.image
        if viewer is None or image is None:
            return
        self.status.cancel()
        self.selection.generation += 1
        self._answers.show(None)
        self.slides.forget(image)
        self.slides.maps.clear(image)
        self.overlays.forget(image)
        self.cells.forget(image)
        for layer in [x for x in viewer.layers if is_result(x)]:
            viewer.layers.remove(layer)
        self.parts.advise()

    # -- models

    def start(self) -> None:
        """List the models, and load the one that fits the image, unless there is one."""
        self.models.refresh()
        if self.selection.model is not None or self.selection.loading:
            return
        if (name := self._likeliest()) is None:
            self.status.notify("No model was found. Load a model file with Load….", "warning")
        else:
            self.load(self.models.paths[name])

    def ask_all(self) -> None:
        """Ask for what the model gives of an image: all its cells, or the class of the whole.

        A model that is being loaded is waited for.
        """
        if not self.selection.loading:
            self.task.ask("all" if self.advice.cells else "whole")
            return
        self._asked_soon = self.selection.image
        self.status.notify("Loading the model; it begins then by itself…")

    def load(self, name_or_path: str) -> None:
        """Load a model in another thread; until then there is none."""
        # Whoever is told may let Qt work, and what was asked for before would arrive meanwhile.
        self.models.outdate()
        self.models.wanted = name_or_path
        self.selection.set_model(None, loading=True)
        self.models.load(name_or_path)

    def _likeliest(self) -> str | None:
        """Return the model to begin with; while no image is open, the first for cells."""
        suiting = (name for name, card in self.models.cards.items() if self.parts.suits(card))
        names = [*self.parts.fitting, *suiting, *self.models.paths]
        last, facts = self.models.remembered(), self.selection.facts
        if last is not None and (facts is None or last in self.parts.fitting):
            return last
        return next(iter(names), None)

    def _fit_model(self, _: object = None) -> None:
        """Load a model that fits the image, unless the user has chosen this one.

        Also while another is being loaded, which is then not waited for.
        """
        selection, card = self.selection, self.card_to_be
        self._fit_later = self.status.running
        if selection.image is None or selection.model_is_chosen or self.status.running:
            return
        name = next(iter(self.parts.fitting), None)
        if name is None or name not in self.models.paths or (card is None and selection.loading):
            return
        if card is None:
            self.load(self.models.paths[name])
            return
        # The model that the user chose last counts as one that he chose now, but for a slide.
        last = self.models.remembered()
        if last in self.parts.fitting and not selection.on_slide and card.name == last:
            return
        if self.parts.rank(self.models.cards[name]) > self.parts.rank(card):
            self.load(self.models.paths[name])

    def _fit_when_idle(self, progress: object) -> None:
        """Fit the model to an image that came while there was work."""
        if progress is None and self._fit_later:
            self._fit_model()

    def _take_model(self, model: Model | None, error: BaseException | None) -> None:
        self.selection.set_model(model)
        if error is not None:
            self.status.fail(error)

    # -- opening and closing

    def _following(self) -> list[tuple[Any, Callable[..., None]]]:
        viewer = self.viewer
        if viewer is None:
            return []
        layers = viewer.layers
        return [
            (layers.events.inserted, self._change_layers),
            (layers.events.removed, self._remove_layer),
            (layers.selection.events.active, self._change_active),
        ]

    def _first_opened(self) -> None:
        viewer, selection = self.viewer, self.selection
        if viewer is None:
            return
        viewer.mouse_drag_callbacks.append(self._watcher.on_mouse)
        self._undo.attach()
        # Layers may have gone while no dock was open.
        self.slides.drop_closed()
        if selection.image is not None and not selection.is_open(selection.image):
            selection.set_image(None)
        if selection.cell_layer is not None and not selection.is_open(selection.cell_layer):
            selection.set_cell_layer(None)
        self._change_layers()
        self._change_active()

    def _last_closed(self) -> None:
        self.selection.generation += 1
        self.status.cancel()
        for part in (*self.tasks, self.models, self._files):
            part.close()
        self.selection.loading = False
        self._undo.detach()
        viewer = self.viewer
        if viewer is not None and self._watcher.on_mouse in viewer.mouse_drag_callbacks:
            viewer.mouse_drag_callbacks.remove(self._watcher.on_mouse)

    # -- what the selection tells

    def _leave(self) -> None:
        if self.selection.model is not self._model_before:
            self._model_before = self.selection.model
            work = self.status.work
            # Not what is done without a model, such as fetching a sample.
            if work is not None and work.request.layer is not None:
                self.status.cancel()
        self._answers.show(None)

    def _change_model(self, model: Model | None) -> None:
        if model is not None and self.selection.model_is_chosen:
            self.models.remember(model)
        self.parts.advise()
        soon = self._asked_soon
        if not self.selection.loading:
            self._asked_soon = None
        if model is not None and soon is not None and soon is self.selection.image:
            self.ask_all()

    def _unsettle(self, image: Image) -> None:
        """Drop what was found with other settings of an image."""
        record = self.selection.record_of(image)
        if image is self.selection.image and self.answer is not None:
            self._answers.show(None)
        elif record.results is None:
            return
        self.overlays.blank(image)
        self.slides.maps.clear(image)
        self.slides.forget(image)
        self.cells.forget(image)
        self.status.notify(SETTINGS_CHANGED.format(image.name), "warning")

    def _advise_if_idle(self) -> None:
        if not self.status.running:
            self.parts.advise()

    def _apply_choice(self, choice: OverlayChoice) -> None:
        if self.selection.image is not None:
            self.overlays.apply(choice, self.selection.image)

    def _toggle_overlay(self, source: Image, role: Role, shown: bool) -> None:
        # What is hidden of another image is no wish for this one.
        if source is self.selection.image:
            self.selection.set_choice(dataclasses.replace(self.selection.choice, **{role: shown}))

    # -- what the viewer tells

    def _change_layers(self, event: Any = None) -> None:
        if event is not None and is_own(event.value):
            return
        self.selection.images_changed.emit()
        if self.selection.image is None and (images := self.selection.images()):
            self.selection.set_image(images[-1])
        self.parts.advise()

    def _remove_layer(self, event: Any) -> None:
        gone, selection, work = event.value, self.selection, self.status.work
        if is_own(gone):
            return
        stopped = work is not None and work.request.layer is gone
        if stopped:
            self.status.cancel(f"'{gone.name}' was removed")
        if gone is selection.cell_layer:
            selection.set_cell_layer(None)
        if is_picture(gone):
            # Its layers first: the next image must not inherit them.
            self.slides.forget(gone)
            self.slides.maps.forget(gone)
            self.overlays.forget(gone)
        if gone is selection.image:
            images = selection.images()
            selection.set_image(images[-1] if images else None)
        selection.images_changed.emit()
        if not stopped:
            self.parts.advise()

    def _change_active(self, event: object = None) -> None:
        viewer = self.viewer
        active = None if viewer is None else viewer.layers.selection.active
        # Adding an overlay makes it active for a moment: what was, still is.
        if active is None or is_own(active) or active is self._active():
            return
        self._active = weakref.ref(active)
        if active is not self.selection.image and is_picture(active):
            self.selection.set_image(active)
            self._advise_if_idle()
