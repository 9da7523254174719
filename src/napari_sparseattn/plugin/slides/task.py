"""Slides for a SPAN in one viewer: tissue, the class, what was attended to, one patch."""

from __future__ import annotations

import dataclasses
import html
import weakref
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any, Literal

import numpy as np
import numpy.typing as npt
from psygnal import Signal

from ...evidence import Foci, PyramidAttention, find_foci
from ..core.advice import Advice, ImageFacts
from ..core.lanes import close_all
from ..core.messages import (
    about_kept_features,
    about_patch,
    about_slide,
    about_small_image,
    about_stage,
    about_tissue,
    share_text,
)
from ..core.models import Model
from ..core.parts import SETTINGS_CHANGED, Ask, Parts
from ..core.preferences import preferences
from ..core.sources import SourceError, data_position, displayed_plane, slide_of
from ..core.status import Progress, StageDone
from .layers import follow_unreadable
from .pyramid_layers import PyramidLayers, same_outlines
from .pyramid_maps import LOCAL, PATCH, PyramidChoice
from .requests import (
    ExplanationAnswer,
    ExplanationRequest,
    LocalAnswer,
    LocalRequest,
    PatchPicture,
    PicturesRequest,
    SlideAnswer,
    SlideRequest,
    answer_local,
    store_folder,
    stream_explanation,
    stream_pictures,
    stream_slide,
)

if TYPE_CHECKING:
    from napari.layers import Image

    from ...card import Card, Explanation
    from ...images.tissue.mask import Tissue
    from ...inference.prediction import Prediction
    from ...inference.slides import LocalAttention

    Outlines = tuple[npt.NDArray[np.float64], ...]

__all__ = ["ExplainedRegion", "SlideRun", "SlideTask"]

#: Of which patches the mean log-odds is explained, of a model that segments.
ExplainedRegion = Literal["tissue", "focus", "patch"]

_NO_OUTLINES = (
    "The layer of the tissue is empty. Draw an outline in it, or remove the layer to have the "
    "tissue found."
)
#: An image of fewer patches along its longer side has no arrangement to attend to.
_LEAST_PATCHES = 2


@dataclasses.dataclass
class SlideRun:
    """How far the work on one slide is.

    Parameters
    ----------
    request : SlideRequest
        What was asked.
    cancel : callable
        Called with a reason.
    stages : tuple of StageDone
        The parts of the work that have begun.
    """

    request: SlideRequest
    cancel: Callable[[str], None]
    stages: tuple[StageDone, ...] = ()

    def progress(self) -> Progress:
        """Return how far the stage at hand is; the stages tell more."""
        if not self.stages:
            return Progress(0, 0, what="stages")
        return _progress_of(self.stages[-1])


def _progress_of(stage: StageDone) -> Progress:
    return Progress(stage.done, stage.total, stage.seconds_left, f"steps ({stage.name})")


class SlideTask:
    """Classifies slides in their tissue, and shows what a SPAN attended to.

    Parameters
    ----------
    parts : Parts
        What the tasks of the viewer share.

    Attributes
    ----------
    maps : PyramidLayers
        The layers.
    pyramid_choice : PyramidChoice
        Which of them are shown, and in which values.
    shown_class : int
        The class whose shares are shown.
    patch : int or None
        The patch that is picked out.
    local : LocalAttention or None
        Where that patch's own attention went.
    method : str
        By what method patches are said to speak for the class; see
        `inference.explanations`. At first the one that was measured best.
    region : {"tissue", "focus", "patch"}
        Of a model that segments, which patches' mean log-odds is explained: of
        all tissue, of the focus about the patch that is picked out, or of
        this patch.
    explanation : numpy.ndarray or None
        (N,) what each patch says for the class that is shown; None while it is
        computed, and where attention stands for it.
    threshold, least : float, int
        Of a model that finds tissue: the probability from which a patch counts
        to a focus, and the patches of the smallest focus.
    foci : Foci or None
        The foci that these give.
    pictures : dict of int to numpy.ndarray
        Patches as they are, by their number.
    """

    stages_changed = Signal(object)
    tissue_changed = Signal(object)
    pyramid_choice_changed = Signal(object)
    shown_class_changed = Signal(object)
    patch_changed = Signal(object)
    local_changed = Signal(object)
    explanation_changed = Signal()
    explaining_changed = Signal(object)
    foci_changed = Signal()
    picture_arrived = Signal(int)

    def __init__(self, parts: Parts) -> None:
        self.parts = parts
        viewer = parts.selection.viewer
        assert viewer is not None
        self.maps = PyramidLayers(viewer, self._toggle_map)
        self.pyramid_choice = PyramidChoice()
        self.shown_class = 0
        self.patch: int | None = None
        self.local: LocalAttention | None = None
        self.method: Explanation = "attention"
        self.region: ExplainedRegion = "tissue"
        self.explanation: npt.NDArray[np.float32] | None = None
        self.threshold, self.least = 0.5, 2
        self.foci: Foci | None = None
        self.pictures: dict[int, npt.NDArray[np.uint8]] = {}
        #: What was found on each slide, and its outlines as they were put before the user.
        self._tissues: weakref.WeakKeyDictionary[Image, tuple[Tissue, Outlines]] = (
            weakref.WeakKeyDictionary()
        )
        self._tissue_taken: weakref.WeakKeyDictionary[Image, Tissue] = weakref.WeakKeyDictionary()
        self._answers: weakref.WeakKeyDictionary[Image, SlideAnswer] = weakref.WeakKeyDictionary()
        self._followed: weakref.WeakSet[Image] = weakref.WeakSet()
        self._model: Model | None = None
        self._shown: SlideAnswer | None = None
        self._local_asked: LocalRequest | None = None
        self._explanation_asked: ExplanationRequest | None = None
        self._explained: StageDone | None = None
        self._pictures_asked: PicturesRequest | None = None
        lanes = parts.lanes
        # Two at once would write to one file of features.
        self._slides = lanes.add(stream_slide, given=self.accept, failed=self.fail, busy="replace")
        self._locals = lanes.add(answer_local, given=self._accept_local, failed=self._fail_local)
        self._explaining = lanes.add(
            stream_explanation,
            given=self._accept_explanation,
            failed=self._fail_explanation,
            busy="replace",
        )
        self._reading = lanes.add(
            stream_pictures,
            given=self._accept_picture,
            failed=lambda _, error: parts.status.fail(error),
            busy="replace",
        )
        parts.answers.changed.connect(self._change_answer)
        parts.selection.outdated.connect(self._leave)
        parts.selection.image_changed.connect(self._change_image)

    # -- what can be done

    @staticmethod
    def suits(image: ImageFacts | None, card: Card) -> int:
        """Return 2 for slides: they are tissue more often than a smear."""
        return 2 if image is not None and image.on_slide else 0

    @staticmethod
    def next_step(image: ImageFacts, card: Card) -> Advice:
        """Return what can be done with the whole."""
        no_cells = f"'{card.name}' classifies whole slides. For cells, choose another model."
        side = float(card.crop.size)
        if image.pixel_size is not None:
            side = card.crop.field_of_view_um / image.pixel_size
        small = ""
        if min(image.shape) < side or max(image.shape) < _LEAST_PATCHES * side:
            small = about_small_image(image.name, *image.shape, round(side))
        text = (
            f"Classify {image.whole} finds the tissue, looks at all its patches, and shows which "
            "decided."
        )
        return Advice(small or text, no_cells, small, cells=False, whole=True)

    @property
    def active(self) -> bool:
        """Whether the model is a SPAN."""
        card = self.parts.selection.card
        return card is not None and card.takes_slides

    @property
    def tissue(self) -> Tissue | None:
        """What was taken for tissue on the chosen image."""
        image = self.parts.selection.image
        return None if image is None else self._tissue_taken.get(image)

    @property
    def in_stages(self) -> bool:
        """Whether a slide is being worked on, stage by stage."""
        return isinstance(self.parts.status.work, SlideRun)

    def close(self) -> None:
        """Let nothing that was asked for arrive."""
        self._stop_explaining()
        close_all((self._slides, self._locals, self._explaining, self._reading))

    # -- asking

    def press(self, world: Any) -> None:
        """Pick out the patch at a position in the world."""
        self.select_patch_at(world)

    def ask(self, what: Ask, world: Any = None) -> SlideRequest | None:
        """Ask for the class of the whole."""
        if what == "whole":
            return self.classify()
        self.parts.status.notify(self.parts.advice.no_cells, "warning")
        return None

    def classify(self) -> SlideRequest | None:
        """Ask for the class of the slide, in the tissue that is marked or else found."""
        advice = self.parts.advice
        if not self.active or advice.no_whole:
            self.parts.status.notify(advice.no_whole or advice.text, "warning")
            return None
        return self._ask_slide("class")

    def find_tissue(self) -> SlideRequest | None:
        """Ask where the tissue is; its outlines may then be edited."""
        if self.parts.selection.image is None:
            self.parts.status.notify(self.parts.advice.text, "warning")
            return None
        return self._ask_slide("tissue")

    def _ask_slide(self, aim: Literal["tissue", "class"]) -> SlideRequest | None:
        selection, status = self.parts.selection, self.parts.status
        viewer, image = selection.viewer, selection.image
        if viewer is None or image is None or status.running:
            return None
        try:
            plane = displayed_plane(viewer, image)
        except SourceError as error:
            status.notify(str(error), "error")
            return None
        tissue, outlines = self._marked_tissue(image) if aim == "class" else (None, None)
        if outlines is not None and not outlines:
            status.notify(_NO_OUTLINES, "warning")
            return None
        selection.generation += 1
        request = SlideRequest(
            selection.generation,
            image,
            plane,
            selection.settings,
            selection.model,
            slide_of(image),
            tissue,
            outlines,
            aim,
            store_folder(),
            cache=preferences().cache,
        )
        known = tissue is not None or outlines is not None
        status.notify("Taking the tissue as outlined…" if known else "Finding the tissue…")
        status.begin(SlideRun(request, self._cancel))
        self.stages_changed.emit(())
        self.parts.answers.asked.emit(request)
        self._slides.ask(request)
        return request

    def _marked_tissue(self, image: Image) -> tuple[Tissue | None, Outlines | None]:
        """Return the tissue that was found if its outlines are as they were, else the outlines."""
        outlines = self.maps.tissue(image)
        if outlines is None:
            return None, None
        found = self._tissues.get(image)
        if found is not None and same_outlines(found[1], outlines):
            # Through its outlines it would lose a patch here and there, and
            # with them the features that are kept.
            return found[0], None
        return None, tuple(outlines)

    # -- answering

    def accept(self, request: SlideRequest, part: tuple[StageDone, ...] | SlideAnswer) -> None:
        """Take how far the work is, or its answer, unless it is outdated."""
        if isinstance(part, SlideAnswer):
            self._accept_slide(part)
            return
        run = self.parts.status.of(request)
        if run is None:
            return
        if len(part) > max(1, len(run.stages)):
            self.parts.status.notify(about_stage(part[-1].name))
        run.stages = part
        self.stages_changed.emit(part)

    def fail(self, request: SlideRequest, error: BaseException) -> None:
        """Say why the work went wrong, if it is waited for."""
        if self.parts.status.of(request) is not None:
            self._end(request)
            self.parts.status.fail(error)

    def _accept_slide(self, answer: SlideAnswer) -> None:
        request, status, selection = answer.request, self.parts.status, self.parts.selection
        run = self._end(request)
        if run is None or not selection.is_open(request.layer):
            _close(answer)
            return
        layer = request.layer
        self._show_tissue(answer)
        if answer.prediction is None:
            status.notify(*about_tissue(answer.tissue))
            return
        if request.settings != selection.settings_of(layer):
            _close(answer)
            status.notify(SETTINGS_CHANGED.format(layer.name), "warning")
            return
        self.forget(layer)
        self._answers[layer] = answer
        self._show_slide(answer)
        said = about_slide(answer.prediction, run.stages)
        status.notify(said.text, said.level)

    def _show_tissue(self, answer: SlideAnswer) -> None:
        layer, found = answer.request.layer, answer.polygons
        sought = answer.request.aim == "tissue"
        if found is not None and (sought or self.maps.tissue(layer) is None):
            if self._marked_tissue(layer)[1] is not None:
                # What the user has drawn is not ours to throw away.
                self.maps.set_aside_tissue(layer)
            self.maps.show_tissue(layer, answer.request.plane.index, found)
            self._tissues[layer] = (answer.tissue, tuple(self.maps.tissue(layer) or ()))
        self._tissue_taken[layer] = answer.tissue
        self.tissue_changed.emit(answer.tissue)

    def _end(self, request: SlideRequest) -> SlideRun | None:
        """Note that work has ended; return it, if it was waited for."""
        run: SlideRun | None = self.parts.status.end(request)
        if run is not None:
            self.stages_changed.emit(None)
        return run

    def _cancel(self, reason: str) -> None:
        run = self.parts.status.work
        if isinstance(run, SlideRun):
            run.request.stop.set()
            self._slides.cancel()
            self._end(run.request)
            self.parts.status.notify(about_kept_features(reason, run.stages), "warning")

    # -- what is shown

    @property
    def attention(self) -> PyramidAttention | None:
        """The attention that is shown."""
        answer = self.parts.answers.answer
        evidence = None if answer is None else answer.evidence
        return evidence if isinstance(evidence, PyramidAttention) else None

    @property
    def slide(self) -> SlideAnswer | None:
        """The answer that is shown, with the tissue and the request it came from."""
        return self._shown

    def _show_slide(self, answer: SlideAnswer) -> None:
        """Draw an answer, and put it before the user if its image is the chosen one."""
        prediction, request = answer.prediction, answer.request
        assert prediction is not None
        assert isinstance(prediction.evidence, PyramidAttention)
        self.show_attention(request.layer, request.plane.index, prediction.evidence)
        if request.layer is self.parts.selection.image:
            self._shown = answer
            self.parts.answers.show(prediction, answer)
            self._explain()
            self._find_foci()

    def show_attention(
        self, image: Image, index: Sequence[int], attention: PyramidAttention
    ) -> None:
        """Draw what was attended to on an image."""
        self.maps.show_attention(image, index, attention, self.pyramid_choice)

    def set_shown_class(self, index: int) -> None:
        """Show the shares of another class."""
        if index != self.shown_class and self.attention is not None:
            self.shown_class = index
            self.shown_class_changed.emit(index)
            if not self.segments:
                self._explain()

    # -- foci

    def set_foci(self, threshold: float, least: int) -> None:
        """Let other patches count to foci: from a probability on, and of so many together."""
        if (threshold, least) != (self.threshold, self.least):
            self.threshold, self.least = threshold, least
            self._find_foci()
            if self.region == "focus":
                self._explain()

    def foci_sentence(self) -> str:
        """Say how much tissue was found; empty of other models."""
        if self.foci is None or self.attention is None:
            return ""
        return self.foci.sentence(self.attention.class_names[-1].replace("_", " "))

    def _find_foci(self) -> None:
        shown, attention = self._shown, self.attention
        self.foci = None
        if shown is not None and attention is not None:
            if attention.patch_probabilities is not None:
                size = self.parts.selection.settings.pixel_size
                self.foci = find_foci(
                    attention, threshold=self.threshold, least=self.least, pixel_size=size
                )
            layer, index = shown.request.layer, shown.request.plane.index
            self.maps.show_foci(layer, index, attention, self.foci, self.pyramid_choice)
        self.foci_changed.emit()

    # -- what speaks for the class

    @property
    def segments(self) -> bool:
        """Whether the model gives each patch a probability."""
        card = self.parts.selection.card
        return self.active and card is not None and card.segments

    @property
    def explaining(self) -> bool:
        """Whether it is being computed."""
        return self._explanation_asked is not None

    @property
    def explained_class(self) -> int:
        """The class that patches speak for: of a model that segments what it looks for."""
        return 1 if self.segments else self.shown_class

    def set_method(self, method: Explanation) -> None:
        """Explain by another method."""
        if method == self.method:
            return
        self.method = method
        levels = frozenset({0}) if method == "attention" else frozenset[int]()
        self.set_pyramid_choice(
            dataclasses.replace(self.pyramid_choice, levels=levels, explanation=True)
        )
        self._explain()

    def set_region(self, region: ExplainedRegion) -> None:
        """Explain the mean over other patches, of a model that segments."""
        if region != self.region:
            self.region = region
            self._explain()

    def explained_name(self) -> str:
        """Say what patches speak for: the class, and of a model that segments also where."""
        attention = self.attention
        if attention is None:
            return ""
        name = attention.class_names[self.explained_class].replace("_", " ")
        if not self.segments or self.region == "tissue" or self.patch is None:
            return name
        where = f"patch {self.patch + 1}"
        return f"{name} in {where if self.region == 'patch' else f'the focus of {where}'}"

    def _explained_rows(self) -> npt.NDArray[np.intp] | None:
        """Return the patches whose mean is explained: None for all, empty where none is chosen."""
        attention, patch = self.attention, self.patch
        if not self.segments or self.region == "tissue" or attention is None:
            return None
        if patch is None:
            return np.empty(0, np.intp)
        if self.region == "patch" or self.foci is None:
            return np.array([patch])
        labels = self.foci.labels[tuple(attention.cells.T)]
        return np.flatnonzero(labels == labels[patch]) if labels[patch] else np.empty(0, np.intp)

    def region_advice(self) -> str:
        """Say what to do before a region can be explained; empty where nothing is missing."""
        rows = self._explained_rows()
        if rows is None or len(rows):
            return ""
        if self.patch is None:
            return "Click a patch to see what speaks for it."
        return "The picked patch is in no focus. Click one that is, or explain the patch itself."

    def patch_values(self) -> npt.NDArray[np.float32] | None:
        """Return (N,) by what patches are listed: what speaks for the class, else attention."""
        attention = self.attention
        if attention is None:
            return None
        if self.explanation is not None:
            return self.explanation
        weights = attention.patch_weights(0, self.pyramid_choice.head)
        return weights * np.float32(len(attention.levels[0]))

    def _explain(self) -> None:
        """Ask for what speaks for the class, unless attention stands for it."""
        shown = self._shown
        self._stop_explaining()
        self.explanation = None
        if shown is not None and shown.prediction is not None:
            self._draw_explanation()
            rows = self._explained_rows()
            if (
                self.active
                and self.method != "attention"
                and shown.prediction.features
                and (rows is None or len(rows))
            ):
                self._explanation_asked = ExplanationRequest(
                    shown, self.method, self.explained_class, rows
                )
                self._explained = None
                self._explaining.ask(self._explanation_asked)
        self.explanation_changed.emit()

    @property
    def explaining_progress(self) -> Progress | None:
        """How far it is with what speaks for the class; None where nothing is computed."""
        if not self.explaining:
            return None
        return Progress(what="") if self._explained is None else _progress_of(self._explained)

    def cancel_explanation(self) -> None:
        """Stop computing what speaks for the class, and show attention instead."""
        if self.explaining:
            self.set_method("attention")
            self.parts.status.notify(
                "The explanation was cancelled; attention is shown. Choose a method to begin again."
            )

    def _stop_explaining(self) -> None:
        if self._explanation_asked is not None:
            self._explanation_asked.stop.set()
            self._explanation_asked = None

    def _accept_explanation(
        self, request: ExplanationRequest, part: tuple[StageDone, ...] | ExplanationAnswer
    ) -> None:
        """Show how far it is, or what each patch says, unless something else was asked since."""
        if request is not self._explanation_asked:
            return
        if not isinstance(part, ExplanationAnswer):
            self._explained = part[-1] if part else None
            self.explaining_changed.emit(self._explained)
            return
        self._explanation_asked = None
        self.explanation = part.values
        self._draw_explanation()
        self.explanation_changed.emit()

    def _fail_explanation(self, request: ExplanationRequest, error: BaseException) -> None:
        if request is self._explanation_asked:
            self._explanation_asked = None
            self.explanation_changed.emit()
            self.parts.status.fail(error)

    def _draw_explanation(self) -> None:
        shown, attention = self._shown, self.attention
        if shown is None or attention is None:
            return
        explained = None
        if self.explanation is not None:
            explained = (f"what speaks for {self.explained_name()}", self.explanation)
        self.maps.show_explanation(
            shown.request.layer,
            shown.request.plane.index,
            attention,
            explained,
            self.pyramid_choice,
        )

    def set_pyramid_choice(self, choice: PyramidChoice) -> None:
        """Choose which maps are shown, and in which values."""
        before = self.pyramid_choice
        if choice == before:
            return
        self.pyramid_choice = choice
        shown, attention = self._shown, self.attention
        if shown is not None and attention is not None:
            if (choice.kind, choice.head) != (before.kind, before.head):
                self.show_attention(shown.request.layer, shown.request.plane.index, attention)
            if choice.head != before.head:
                self._draw_local()
        self.maps.apply(choice)
        self.pyramid_choice_changed.emit(choice)

    def _toggle_map(self, role: str, shown: bool) -> None:
        self.set_pyramid_choice(self.pyramid_choice.with_shown(role, shown))

    # -- one patch

    def select_patch(self, patch: int | None) -> None:
        """Pick out a patch, and ask where its own attention went; None picks out none."""
        shown, attention = self._shown, self.attention
        if shown is None or attention is None:
            return
        if patch is not None and not 0 <= patch < len(attention):
            return
        self.patch, self.local, self._local_asked = patch, None, None
        self.maps.show_patch(shown.request.layer, shown.request.plane.index, attention, patch)
        if patch is None:
            self._draw_local()
        self.patch_changed.emit(patch)
        if self.segments and self.region != "tissue":
            self._explain()
        if patch is None:
            return
        self.parts.status.notify(about_patch(attention, patch))
        self._local_asked = LocalRequest(shown, patch)
        self._locals.ask(self._local_asked)

    def select_patch_at(self, world: Any) -> bool:
        """Pick out the patch at a position in the world; return whether there is one."""
        shown, attention = self._shown, self.attention
        if (
            shown is None
            or attention is None
            or shown.request.layer is not self.parts.selection.image
        ):
            self.parts.advise()
            return False
        row, column = data_position(shown.request.layer, world)
        # A pixel's centre is at its index in napari, its corner in the pyramid.
        patch = attention.nearest_patch(row + 0.5, column + 0.5)
        if patch is None:
            self.select_patch(None)
            self.parts.status.notify("No patch was taken here. Click on one that the map covers.")
            return False
        self.select_patch(None if patch == self.patch else patch)
        return True

    def _accept_local(self, request: LocalRequest, answer: LocalAnswer) -> None:
        """Show where a patch's attention went, unless another has been picked out since."""
        if request is self._local_asked:
            self.local = answer.local
            self._draw_local()
            self.local_changed.emit(answer.local)

    def _fail_local(self, request: LocalRequest, error: BaseException) -> None:
        if request is self._local_asked:
            self._local_asked = None
            self.parts.status.fail(error)

    def _draw_local(self) -> None:
        shown, attention = self._shown, self.attention
        if shown is not None and attention is not None:
            self.maps.show_local(
                shown.request.layer,
                shown.request.plane.index,
                attention,
                self.local,
                self.pyramid_choice,
            )

    def go_to_patch(self, patch: int) -> None:
        """Pick out a patch and bring it to the middle of the view, and near."""
        viewer, shown, attention = self.parts.selection.viewer, self._shown, self.attention
        if viewer is None or shown is None or attention is None:
            return
        top, left, side = attention.patch_box(patch)
        layer, ahead = shown.request.layer, shown.request.plane.index
        corners = [(top - 0.5, left - 0.5), (top + side - 0.5, left + side - 0.5)]
        first, last = (np.asarray(layer.data_to_world((*ahead, *corner))) for corner in corners)
        camera = viewer.scene.camera
        camera.center = (0.0, *((first + last) / 2)[-2:])
        extent = float(np.abs(last - first)[-2:].max())
        camera.zoom = 0.3 * min(viewer.canvas.size) / max(extent, 1e-9)
        if patch != self.patch:
            self.select_patch(patch)

    # -- pictures

    def ask_pictures(self, patches: Sequence[int]) -> None:
        """Ask for pictures of patches, in this order; those asked for before are dropped."""
        shown, attention = self._shown, self.attention
        self._stop_pictures()
        wanted = tuple(patch for patch in patches if patch not in self.pictures)
        if shown is None or attention is None or not wanted:
            return
        self._pictures_asked = PicturesRequest(shown.pyramid, attention, wanted)
        self._reading.ask(self._pictures_asked)

    def _accept_picture(self, request: PicturesRequest, picture: PatchPicture) -> None:
        """Take one picture, unless others have been asked for since."""
        if request is self._pictures_asked:
            self.pictures[picture.patch] = picture.pixels
            self.picture_arrived.emit(picture.patch)

    def _stop_pictures(self) -> None:
        if self._pictures_asked is not None:
            self._pictures_asked.stop.set()
            self._pictures_asked = None

    # -- in words

    def side_of(self, level: int) -> str:
        """Return the side of a level's cells: in µm where the pixel size is known."""
        attention = self.attention
        if attention is None:
            return ""
        side = attention.side + (attention.levels[level].factor - 1) * attention.step
        size = self.parts.selection.settings.pixel_size
        return f"{side:.0f} px" if size is None else f"{side * size:.3g} µm"

    def level_shares(self, shown_class: int) -> list[tuple[str, float]]:
        """What each level, and the rest, adds to a class's logit, less its mean over classes.

        Of a risk or a number, which is the only one, what they add to it.
        """
        attention = self.attention
        if attention is None or not len(shares := attention.level_shares()):
            return []
        shares = np.vstack([shares, attention.constant])
        if shares.shape[1] > 1:
            shares = shares - shares.mean(axis=1, keepdims=True)
        values = shares[:, shown_class]
        names = [f"{i} · {self.side_of(i)}" for i in range(len(attention.levels))]
        return list(zip([*names, "rest"], values.tolist(), strict=True))

    def patch_facts(self) -> list[str]:
        """Return what is known of the patch that is picked out, line by line."""
        attention, patch, head = self.attention, self.patch, self.pyramid_choice.head
        if attention is None or patch is None:
            return []
        finest = attention.patch_weights(0, head)
        rank = int((finest > finest[patch]).sum()) + 1
        lines = [f"<b>Patch {patch + 1}</b>, rank {rank} of {len(attention)}"]
        for number, level in enumerate(attention.levels):
            weight = float(attention.patch_weights(number, head)[patch])
            lines.append(f"{self.side_of(number)}: {weight * len(level):.2g} times the average")
        if self.explanation is not None:
            name = html.escape(self.explained_name(), quote=False)
            said = float(self.explanation[patch])
            lines.append(f"{share_text(said)} {'for' if said > 0 else 'against'} {name}")
        if attention.patch_probabilities is not None:
            name = html.escape(attention.class_names[1].replace("_", " "), quote=False)
            lines.append(f"{name}: {100 * attention.patch_probabilities[patch]:.1f} %")
        if self.local is not None:
            lines.append(f"saw {len(self.local.indices)} patches around it")
        return lines

    # -- what others tell

    def forget(self, image: Image | None = None) -> None:
        """Drop the answer of a slide, or of all; the files of features are closed."""
        for layer in list(self._answers) if image is None else [image]:
            answer = self._answers.pop(layer, None)
            if answer is not None:
                _close(answer)

    def drop_closed(self) -> None:
        """Drop the answers of slides that are no longer open."""
        for layer in list(self._answers):
            if not self.parts.selection.is_open(layer):
                self.forget(layer)

    def _change_answer(self, answer: Prediction | None) -> None:
        shown = self._shown
        if shown is not None:
            self.maps.remove(shown.request.layer, (PATCH, LOCAL))
            if answer is not shown.prediction:
                self._shown = None
        self.patch, self.local, self._local_asked = None, None, None
        self._stop_explaining()
        self.explanation, self.foci = None, None
        self.shown_class = 0 if answer is None else answer.index
        self._stop_pictures()
        self.pictures = {}

    def _leave(self) -> None:
        model = self.parts.selection.model
        if model is None or model is self._model:
            return
        self._model = model
        self.forget()
        self.maps.clear_all()
        if self.active:
            # Of a model that tells patches apart, that is what is looked for first; of others
            # what was measured to explain its classes best.
            card = model.bundle.card
            self.method = "attention" if card.explanation is None else card.explanation.best
            first = not card.segments and self.method == "attention"
            levels = frozenset({0}) if first else frozenset[int]()
            self.set_pyramid_choice(dataclasses.replace(self.pyramid_choice, levels=levels))

    def _change_image(self, layer: Image | None) -> None:
        """Show what is known of a slide that was classified, and what turns out unreadable."""
        selection = self.parts.selection
        viewer = selection.viewer
        if layer is None or viewer is None:
            return
        if slide_of(layer) is not None and layer not in self._followed:
            self._followed.add(layer)
            follow_unreadable(viewer, layer)
        kept = self._answers.get(layer)
        if kept is not None and kept.request.model is selection.model:
            self._show_slide(kept)


def _close(answer: SlideAnswer) -> None:
    if answer.prediction is not None and answer.prediction.features is not None:
        answer.prediction.features.close()
