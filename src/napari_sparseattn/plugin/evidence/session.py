"""The faithfulness of the answer that is shown in one viewer: asked for, measured, kept."""

from __future__ import annotations

import weakref
from functools import partial
from typing import TYPE_CHECKING, Any

from psygnal import Signal

from ...inference.slides import SlidePrediction
from ..cells.requests import ClickRequest
from ..core.activity import Activity
from ..core.lanes import Lanes
from ..core.per_viewer import PerViewer
from ..core.status import Progress, explain
from ..session import Session
from .requests import EvidenceRequest, Subject, stream_faithfulness

if TYPE_CHECKING:
    from napari.components import ViewerModel

    from ...evidence.faithfulness import Faithfulness
    from ...inference.prediction import Prediction

__all__ = ["AnswerFaithfulness"]

_SEGMENTS = (
    "This model gives each patch a class of its own; faithfulness is measured for models that "
    "classify the whole."
)
_ESTIMATES = (
    "it is measured for classes, and this model gives a risk or a number. See Attention for what "
    "speaks for it."
)
#: Milliseconds that a click's own overlay gets to be drawn before its answer is measured.
_PATIENCE = 40
#: Milliseconds after which it is said that measuring has stopped for a click without an answer.
_SOON = 300


class AnswerFaithfulness(PerViewer):
    """The faithfulness of the answer that is shown; get it with `of`.

    Cells are measured by themselves after each click, fields and slides when
    asked for. What is measured of an answer that is no longer shown is dropped.

    Attributes
    ----------
    measured : Faithfulness or None
        Of the answer that is shown.
    progress : Progress or None
        How far the measurement is, while there is one.
    why_not : str
        Why the answer that is shown cannot be measured, or nothing.
    """

    changed = Signal()

    def __init__(self, viewer: ViewerModel) -> None:
        self._viewer = weakref.ref(viewer)
        self.session = Session.of(viewer)
        self.measured: Faithfulness | None = None
        self.progress: Progress | None = None
        self.why_not = ""
        self._automatic = True
        self._asked: EvidenceRequest | None = None
        #: The click that measuring was stopped for, until its answer comes.
        self._gave_way: ClickRequest | None = None
        Activity.of(viewer).follow(
            "Faithfulness of the answer", (self.changed,), self.cancel, lambda: self.progress
        )
        self._lanes = Lanes.of(viewer)
        self._lane = self._lanes.add(stream_faithfulness, given=self._take, failed=self._fail)

    # -- opening and closing

    def _following(self) -> list[tuple[Any, Any]]:
        session = self.session
        return [
            (session.answer_changed, self._follow_answer),
            (session.asked, self._give_way),
        ]

    def _first_opened(self) -> None:
        self._follow_answer(self.session.answer)

    def _last_closed(self) -> None:
        self._stop()
        self._lane.close()

    # -- asking

    @property
    def subject(self) -> Subject | None:
        """The kind of thing that was classified; None without an answer."""
        request = self.request()
        return None if request is None else request.subject

    @property
    def can_measure(self) -> bool:
        """Whether there is an answer that can be measured now."""
        return self._asked is None and not self.why_not and self.request() is not None

    @property
    def automatic(self) -> bool:
        """Whether clicked cells are measured by themselves."""
        return self._automatic

    def set_automatic(self, on: bool) -> None:
        """Choose whether clicked cells are measured by themselves."""
        if on == self._automatic:
            return
        self._automatic = on
        if on and self.measured is None and self.subject == "cell":
            self.measure(by_itself=True)
        self.changed.emit()

    def request(self, *, by_itself: bool = False) -> EvidenceRequest | None:
        """Return what would be asked of a worker for the answer that is shown."""
        session = self.session
        answer, model = session.answer, session.selection.model
        asked = session.slides.slide if isinstance(answer, SlidePrediction) else session.shown
        if answer is None or model is None or asked is None or answer.evidence is None:
            return None
        cells = session.cells.cells_known(asked) if isinstance(asked, ClickRequest) else None
        return EvidenceRequest(answer, asked, model, cells, by_itself)

    def measure(self, *, by_itself: bool = False) -> EvidenceRequest | None:
        """Ask for the answer that is shown to be measured."""
        if not self.can_measure:
            return None
        request = self.request(by_itself=by_itself)
        if request is not None:
            self._asked = request
            self.progress = Progress(what="runs of the model")
            self.changed.emit()
            self._lane.ask(request, _PATIENCE if by_itself else 0)
        return request

    def cancel(self) -> None:
        """Stop measuring; what is shown stays."""
        if self._asked is not None:
            self._stop()
            self.changed.emit()

    # -- answering

    def _take(self, request: EvidenceRequest, part: tuple[int, int] | Faithfulness) -> None:
        if request is not self._asked or request.answer is not self.session.answer:
            return
        if isinstance(part, tuple):
            self.progress = Progress(*part, what="runs of the model")
        else:
            self._asked, self.progress, self.measured = None, None, part
        self.changed.emit()

    def _fail(self, request: EvidenceRequest, error: BaseException) -> None:
        if request is not self._asked:
            return
        self._asked, self.progress = None, None
        self.why_not = explain(error)
        self.changed.emit()

    # -- following the session

    def _follow_answer(self, answer: Prediction | None) -> None:
        self._stop()
        self.measured = self._gave_way = None
        segments = isinstance(answer, SlidePrediction) and answer.segments
        self.why_not = _SEGMENTS if segments else ""
        if isinstance(answer, SlidePrediction) and answer.estimate is not None:
            self.why_not = _ESTIMATES
        self.changed.emit()
        if self._automatic and self.subject == "cell":
            self.measure(by_itself=True)

    def _give_way(self, request: ClickRequest) -> None:
        # The click has the processor to itself; its answer is measured anew. The window is laid
        # out and painted again only where no answer comes soon: it would keep the click waiting.
        if self._asked is not None and self._asked.asked is not request:
            self._stop()
            self._gave_way = request
            self._lanes.runner.later(_SOON, partial(self._show_stopped, request))

    def _show_stopped(self, request: ClickRequest) -> None:
        if request is self._gave_way and self._asked is None:
            self.changed.emit()

    def _stop(self) -> None:
        asked, self._asked = self._asked, None
        self.progress = None
        if asked is not None:
            asked.stop.set()
