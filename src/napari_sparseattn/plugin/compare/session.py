"""Two models, or two settings of one, compared on what is shown in one viewer."""

from __future__ import annotations

import dataclasses
import time
import weakref
from typing import TYPE_CHECKING, Any

from psygnal import Signal

from ..core.activity import Activity
from ..core.lanes import Lanes
from ..core.models import Model
from ..core.per_viewer import PerViewer
from ..core.status import Progress, explain
from ..evidence.session import AnswerFaithfulness
from ..session import Session
from ..slides.requests import SlideAnswer
from .layers import CompareLayers
from .requests import CompareAnswer, CompareRequest, SecondModel, stream_comparison

if TYPE_CHECKING:
    from napari.components import ViewerModel
    from napari.layers import Image

    from ...card import Card
    from ...inference.compare import Comparison
    from ...inference.prediction import Predictions

__all__ = ["Compare"]

_NO_ANSWER = "Click a cell, or classify a field, then compare."
_NO_CELLS = "Classify all cells first; then compare them all."
_OTHER_MODEL = "These cells were classified with another model. Classify all of them again."
_SLIDES = "Models that look at the patches of a slide cannot be compared here."
_THE_SAME = "Choose another model, or another setting of this one: nothing would differ."


class Compare(PerViewer):
    """A second model's answers beside those of the one in use; get it with `Compare.of`.

    Attributes
    ----------
    second : SecondModel
        The model to compare with; one of no name is the one in use.
    one : Comparison or None
        Of the answer that is shown.
    every : Comparison or None
        Of all classified cells of the image.
    progress : Progress or None
        How far a comparison is, while there is one.
    """

    changed = Signal()

    def __init__(self, viewer: ViewerModel) -> None:
        self._viewer = weakref.ref(viewer)
        self.session = Session.of(viewer)
        self.layers = CompareLayers(viewer, self._show_once)
        self.second = SecondModel("")
        self.one: Comparison | None = None
        self.every: Comparison | None = None
        self.progress: Progress | None = None
        self.message = ""
        self._faithfulness = AnswerFaithfulness.of(viewer)
        self._asked: CompareRequest | None = None
        self._began = 0.0
        self._image: weakref.ref[Image] | None = None
        self._lane = Lanes.of(viewer).add(
            stream_comparison, given=self._take, failed=self._fail, busy="also"
        )
        Activity.of(viewer).follow("Comparing", (self.changed,), self.cancel, lambda: self.progress)

    # -- opening and closing

    def _last_closed(self) -> None:
        # The image is shown once again.
        self._forget()
        self._lane.close()

    def _following(self) -> list[tuple[Any, Any]]:
        session = self.session
        return [
            (session.answer_changed, self._follow_answer),
            (session.selection.image_changed, self._forget),
            (session.selection.model_changed, self._follow_model),
            (session.cells.results_changed, self._follow_results),
        ]

    # -- state

    @property
    def working(self) -> bool:
        """Whether a comparison is being made."""
        return self._asked is not None

    @property
    def names(self) -> list[str]:
        """Other models for what the image shows, but not those of slides' patches."""
        model = self.session.selection.model
        mine = "" if model is None else model.bundle.hash
        cards = {name: self.session.models.cards[name] for name in self.session.parts.fitting}
        others = {name: card for name, card in cards.items() if card.tensors_sha256 != mine}
        return [name for name, card in others.items() if not card.takes_slides]

    @property
    def card(self) -> Card | None:
        """The second model's card."""
        model = self.session.selection.model
        mine = None if model is None else model.bundle.card
        return self.session.models.cards.get(self.second.name, mine) if self.second.name else mine

    @property
    def kind(self) -> str:
        """Kind of the second model as its card names it; empty without one."""
        return "" if self.card is None else self.card.kind

    @property
    def most(self) -> int:
        """The most pixels or crops that the second model takes."""
        card = self.card
        if card is not None and card.kind == "tnet":
            return int(card.architecture.get("grid", 3)) ** 2
        return 1 if card is None else card.crop.size**2

    @property
    def title(self) -> str:
        """The second model's name, with its setting."""
        name = self.second.name or ("" if self.card is None else self.card.name)
        if self.second.k and self.kind == "sparse-attn-net":
            return f"{name}, {self.second.k} pixels"
        return f"{name}, {self.second.crops} crops" if self.second.crops else name

    def why_not(self) -> str:
        """Return why the answer that is shown cannot be compared, or nothing."""
        source = self._faithfulness.request()
        if source is None:
            return _NO_ANSWER
        return _SLIDES if isinstance(source.asked, SlideAnswer) else ""

    def why_not_all(self) -> str:
        """Return why all cells cannot be compared, or nothing."""
        model, results = self.session.selection.model, self.session.cells.results
        if model is None or results is None or not len(results):
            return _NO_CELLS
        return "" if results.model_hash == model.bundle.hash else _OTHER_MODEL

    # -- choosing

    def choose(self, name: str) -> None:
        """Choose the model to compare with; an empty name is the one in use."""
        if name != self.second.name:
            self._set(SecondModel(name))

    def set_number(self, number: int) -> None:
        """Choose how many pixels, or crops, the second takes; 0 as trained."""
        if self.kind == "tnet":
            second = dataclasses.replace(self.second, crops=number)
        else:
            second = dataclasses.replace(self.second, k=number)
        if second != self.second:
            self._set(second)

    def _set(self, second: SecondModel) -> None:
        self.second = second
        self._clear()
        self._notify("")

    # -- asking and answering

    def compare(self) -> CompareRequest | None:
        """Let the second model answer about what is shown."""
        source = self._faithfulness.request()
        if (reason := self.why_not()) or source is None:
            self._notify(reason)
            return None
        return self._ask(source=source)

    def compare_all(self) -> CompareRequest | None:
        """Let both models classify all cells in the table."""
        session = self.session
        if reason := self.why_not_all():
            self._notify(reason)
            return None
        return self._ask(
            plane=session.cells.result_plane,
            settings=session.selection.settings,
            results=session.cells.results,
        )

    def _ask(self, **what: Any) -> CompareRequest | None:
        session, second = self.session, self.second
        if self.working or session.selection.image is None or session.selection.model is None:
            return None
        if not second.name:
            if not second.k and not second.crops:
                self._notify(_THE_SAME)
                return None
            second = dataclasses.replace(second, model=session.selection.model)
        request = CompareRequest(
            session.selection.model,
            session.crops.locations,
            second,
            session.selection.image,
            **what,
        )
        self._asked, self._began = request, time.monotonic()
        self.progress = Progress()
        self._notify("")
        self._lane.ask(request)
        return request

    def _take(self, request: CompareRequest, part: tuple[int, int] | CompareAnswer) -> None:
        # Something else may be shown by now.
        if request is not self._asked:
            return
        if isinstance(part, CompareAnswer):
            self._accept(request, part)
            return
        done, total = part
        spent = time.monotonic() - self._began
        left = spent * (total - done) / done if done and total else None
        what = "cells" if request.source is None else "crops"
        self.progress = Progress(done, total, left, what)
        self.changed.emit()

    def _accept(self, request: CompareRequest, answer: CompareAnswer) -> None:
        self._asked = self.progress = None
        if self.second.name:
            # Loaded once, for the next cell.
            self.second = dataclasses.replace(self.second, model=answer.model)
        if request.source is None:
            self.every = answer.found
        else:
            self.one = answer.found
            if answer.prediction is not None:
                self._show(request, answer.prediction.evidence)
        self._notify("")

    def _fail(self, request: CompareRequest, error: BaseException) -> None:
        if request is self._asked:
            self._asked = self.progress = None
            self._notify(explain(error))

    def cancel(self) -> None:
        """Stop comparing; what is shown stays."""
        if self.working:
            self._stop()
            self._notify("Stopped.")

    def _stop(self) -> None:
        asked, self._asked, self.progress = self._asked, None, None
        if asked is not None:
            asked.stop.set()

    def _show(self, request: CompareRequest, evidence: object) -> None:
        viewer, source = self._viewer(), request.source
        if viewer is None or request.layer not in viewer.layers or source is None:
            return
        plane = getattr(source.asked, "plane", None)
        index = () if plane is None else plane.index
        name = f"[{request.layer.name}] {self.title}"
        self.layers.show(request.layer, index, evidence, name)
        self._image = weakref.ref(request.layer)

    # -- side by side

    @property
    def side_by_side(self) -> bool:
        """Whether the image is shown twice."""
        return self.layers.side_by_side

    def set_side_by_side(self, on: bool) -> None:
        """Show the image twice, each with its own model's overlay, or once."""
        if not on:
            self.layers.put_back()
        elif self.session.selection.image is not None:
            self.layers.put_side_by_side(self.session.selection.image)
        self.changed.emit()

    def _show_once(self) -> None:
        self.set_side_by_side(False)

    # -- following the session

    def _follow_answer(self, answer: object) -> None:
        if self._asked is not None and self._asked.source is not None:
            self._stop()
        self.one = None
        self._hide()
        self._notify("")
        # Two pictures of which one has no overlay would be of no use.
        if answer is not None and self.side_by_side and not self.working and not self.why_not():
            self.compare()

    def _follow_model(self, model: Model | None) -> None:
        self._clear()
        # A setting of the last model says nothing about this one.
        if model is not None and self.second.name not in self.names:
            self.second = SecondModel("")
        self._notify("")

    def _follow_results(self, results: Predictions | None) -> None:
        asked = self._asked
        if asked is not None and asked.results is not None:
            # More columns of the same cells change nothing.
            if results is not None and results.probabilities is asked.results.probabilities:
                return
            self._stop()
        if self.every is not None and (
            results is None or len(results) != len(self.every)
            or (results.cells.centres != self.every.centres).any()
        ):  # fmt: skip
            self.every = None
        self.changed.emit()

    def _forget(self, _: object = None) -> None:
        self._clear()
        self.layers.put_back()
        self._notify("")

    def _clear(self) -> None:
        self._stop()
        self.one = self.every = None
        self._hide()

    def _hide(self) -> None:
        image = None if self._image is None else self._image()
        if image is not None:
            self.layers.hide(image)

    def _notify(self, text: str) -> None:
        self.message = text
        self.changed.emit()
