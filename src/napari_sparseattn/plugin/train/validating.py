"""Cross-validation in one viewer: how good fine-tuning is on what it has not seen."""

from __future__ import annotations

import dataclasses
import json
import logging
import time
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol

from psygnal import Signal

from ...files import replacing
from ...training.runs.messages import FineTuneRequest, Stage
from ...training.runs.process import Switch
from ...training.runs.validation import Validated, stream_validation
from ...training.tune.cross_validation import FoldDone
from ..core.activity import Activity
from ..core.lanes import Lanes, close_all
from ..core.messages import time_left
from ..core.status import Progress, explain

if TYPE_CHECKING:
    from napari.components import ViewerModel

    from ...training.runs.messages import Survey
    from ..annotate.session import Annotating
    from ..session import Session

__all__ = ["Tuning", "Validating"]

_log = logging.getLogger(__name__)


class Tuning(Protocol):
    """What is asked of fine-tuning: on what it would train now, and how.

    Attributes
    ----------
    session, annotating : Session, Annotating
        Of the same viewer.
    survey : Survey
        What there is to learn from.
    working : bool
        Whether it trains itself.
    survey_changed, state_changed : Signal
    """

    session: Session
    annotating: Annotating
    survey: Survey
    survey_changed: Any
    state_changed: Any

    @property
    def working(self) -> bool:
        """See the class."""

    def request(self) -> FineTuneRequest | None:
        """Return what training now needs, or None without a model."""


class Validating:
    """Cross-validates the fine-tuning of the model in use on what is annotated.

    Parameters
    ----------
    viewer : napari.components.ViewerModel
        Whose lanes are used.
    tuning : Tuning
        Of the same viewer: what is annotated, and how it is trained on.

    Attributes
    ----------
    folds : int
        By how many folds.
    curve : bool
        Whether a learning curve is drawn with it.
    stage : str
        What goes on, in words; empty where nothing does.
    reports : list of FoldDone
        Trainings that are over.
    result : Validated or None
        What was found last.
    """

    changed = Signal()

    def __init__(self, viewer: ViewerModel, tuning: Tuning) -> None:
        self.tuning = tuning
        self.folds, self.curve = 5, False
        self.stage = ""
        self.reports: list[FoldDone] = []
        self.result: Validated | None = None
        self._request: FineTuneRequest | None = None
        self._began = 0.0
        self._lane = Lanes.of(viewer).add(
            stream_validation, given=self._accept, failed=self._fail, ended=self._end_if_current
        )
        Activity.of(viewer).follow(
            "Cross-validation", (self.changed,), self.cancel, lambda: self.progress
        )

    @property
    def working(self) -> bool:
        """Whether it is under way."""
        return self._request is not None

    @property
    def progress(self) -> Progress | None:
        """How many trainings are over; None where none goes on."""
        if not self.working:
            return None
        if not self.reports:
            return Progress(what="trainings")
        done, total = self.reports[-1].done, self.reports[-1].total
        left = (time.monotonic() - self._began) / done * (total - done)
        return Progress(done, total, left, "trainings")

    def start(self) -> FineTuneRequest | None:
        """Cross-validate what *Fine-tune* would do now."""
        tuning, status = self.tuning, self.tuning.session.status
        asked = tuning.request()
        if self.working or asked is None:
            return None
        if not tuning.survey.enough:
            status.notify(tuning.survey.text or "Nothing is annotated yet.", "warning")
            return None
        tuning.annotating.files.flush()
        request = dataclasses.replace(asked, switch=Switch(), folds=self.folds, curve=self.curve)
        self._request, self.result, self.reports = request, None, []
        self.stage, self._began = "Gathering what is annotated…", time.monotonic()
        self.changed.emit()
        self._lane.ask(request)
        return request

    def cancel(self) -> None:
        """End it now; nothing is kept."""
        if self._request is not None:
            self._request.switch.kill()
            self._lane.cancel()
            self._end()

    def close(self) -> None:
        """End it: the window is about to close."""
        if self._request is not None:
            self._request.switch.kill()
            self._request = None
        close_all((self._lane,))

    def save(self, path: Path) -> None:
        """Write the out-of-fold predictions to a CSV, and the figures beside it as JSON.

        Raises
        ------
        OSError
            If they cannot be written.
        """
        if self.result is None:
            return
        with replacing(path) as temporary:
            temporary.write_text(self.result.predictions, encoding="utf-8", newline="")
        with replacing(path.with_suffix(".json")) as temporary:
            temporary.write_text(json.dumps(self.result.result), encoding="utf-8")

    def _accept(self, request: FineTuneRequest, given: Stage | FoldDone | Validated) -> None:
        if request is not self._request:
            return
        if isinstance(given, Stage):
            self.stage = given.text
        elif isinstance(given, FoldDone):
            self.reports.append(given)
            self.stage = f"{given.done} of {given.total} trainings"
            progress = self.progress
            if given.done < given.total and progress is not None and progress.seconds_left:
                self.stage += f", {time_left(progress.seconds_left)}"
        else:
            self.result = given
            self.tuning.session.status.notify(given.sentence)
        self.changed.emit()

    def _fail(self, request: FineTuneRequest, error: BaseException) -> None:
        if request is not self._request:
            _log.info("outdated cross-validation failed", exc_info=error)
            return
        self._end()
        self.tuning.session.status.notify(explain(error), "error")

    def _end_if_current(self, request: FineTuneRequest) -> None:
        if request is self._request:
            self._end()

    def _end(self) -> None:
        self._request, self.stage = None, ""
        self.changed.emit()
