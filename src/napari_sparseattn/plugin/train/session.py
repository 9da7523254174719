"""Fine-tuning in one viewer: what there is to learn from, and how far training is."""

from __future__ import annotations

import dataclasses
import logging
import time
from typing import TYPE_CHECKING, Any, Literal

from psygnal import Signal

from ...training.runs.requests import (
    FineTuneChoices,
    FineTuneRequest,
    Prepared,
    Stage,
    Survey,
    Trained,
    stream_training,
    survey,
)
from ...training.runs.runs import Epoch, Run, interrupted_run
from ..annotate.session import Annotating
from ..core.activity import Activity
from ..core.lanes import Lanes, close_all
from ..core.messages import counted
from ..core.per_viewer import PerViewer
from ..core.status import Progress, explain
from ..session import Session
from ..slides.requests import store_folder
from .outcome import Outcome
from .table_training import TableTraining
from .validating import Validating

if TYPE_CHECKING:
    from napari.components import ViewerModel

    from ..core.models import Model

__all__ = ["FineTuning", "State"]

_log = logging.getLogger(__name__)

#: What goes on: nothing, data are gathered, training, waiting, or ending with the best so far.
State = Literal["idle", "preparing", "training", "paused", "stopping"]


class FineTuning(PerViewer):
    """From annotations to a new model in one viewer. Get it with `FineTuning.of`.

    Parameters
    ----------
    viewer : napari.components.ViewerModel
        Held weakly, by the session.

    Attributes
    ----------
    session, annotating : Session, Annotating
        Of the same viewer.
    outcome : Outcome
        The new model and its report, when training is done.
    validating : Validating
        Cross-validation of the same.
    tables : TableTraining
        Training anew on a table of slides.
    choices : FineTuneChoices
        How the next training is done.
    survey : Survey
        What there is to learn from, and of what there is too little.
    interrupted : Run or None
        A run that was interrupted and can be resumed.
    state, stage : str
        What goes on, and the same in words.
    prepared : Prepared or None
        What training began with.
    epochs : list of Epoch
        Those behind it.
    """

    state_changed = Signal(str)
    epoch_added = Signal(object)
    survey_changed = Signal(object)

    def __init__(self, viewer: ViewerModel) -> None:
        self.session = Session.of(viewer)
        self.annotating = Annotating.of(viewer)
        self.outcome = Outcome(viewer, self.session, self.annotating)
        self.choices = FineTuneChoices()
        self.survey = Survey()
        self.interrupted: Run | None = None
        self.state: State = "idle"
        self.stage = ""
        self.prepared: Prepared | None = None
        self.epochs: list[Epoch] = []
        self._request: FineTuneRequest | None = None
        self._left: Run | None = None
        self._epoch_began = 0.0
        self._users = 0
        lanes = Lanes.of(viewer)
        self._surveys = lanes.add(survey, given=self._show_survey, failed=self._show_no_survey)
        self.validating = Validating(viewer, self)
        self.tables = TableTraining(viewer, self)
        self._trainings = lanes.add(
            stream_training, given=self._accept, failed=self._fail, ended=self._end_if_current
        )
        Activity.of(viewer).follow(
            "Fine-tuning", (self.state_changed, self.epoch_added), self.cancel, self._progress
        )

    # -- opening and closing

    def attach(self) -> None:
        """Follow annotations and model; call once per open dock."""
        self._users += 1
        if self._users > 1:
            return
        self.annotating.changed.connect(self.refresh)
        self.session.selection.model_changed.connect(self.refresh)
        self.refresh()
        if self.interrupted is not None and not self.working:
            done = counted(self.interrupted.epochs_done, "epoch")
            self.session.status.notify(
                f"The training of '{self.interrupted.name}' was interrupted after {done}. "
                "It can be resumed below."
            )

    def detach(self) -> None:
        """Stop following when the last dock closes; training that goes on can be resumed."""
        if self._users == 0:
            return
        self._users -= 1
        if self._users:
            return
        self.annotating.changed.disconnect(self.refresh)
        self.session.selection.model_changed.disconnect(self.refresh)
        if self._request is not None:
            self._request.switch.kill()
            self._left = None if self.prepared is None else self.prepared.run
        close_all((self._surveys, self._trainings))
        self.validating.close()
        self.tables.close()
        self.outcome.close()
        if self._request is not None:
            self._request = None
            self._change_state("idle", "")

    def refresh(self, _: object = None) -> None:
        """Ask what there is to learn from now."""
        if not self.working:
            left, folder = self._left, self.annotating.classes.project.folder
            # One that was left a moment ago may still be ending.
            there = left is not None and left.unfinished and folder in left.folder.parents
            self.interrupted = left if there else interrupted_run(folder)
        request = self.request()
        if request is not None:
            self._surveys.ask(request)
        else:
            self._surveys.cancel()
            self.survey = Survey()
            self.survey_changed.emit(self.survey)

    # -- how far it is

    @property
    def working(self) -> bool:
        """Whether there is training under way, or waiting."""
        return self._request is not None

    @property
    def epochs_total(self) -> int:
        """Epochs of the run; 0 while that is not known."""
        return self.epochs[-1].epochs if self.epochs else 0

    @property
    def seconds_left(self) -> float | None:
        """Estimated from the epochs so far; training may end earlier by itself."""
        if not self.epochs or self.state != "training":
            return None
        last = self.epochs[-1]
        recent = [epoch.seconds for epoch in self.epochs[-3:]]
        each = sum(recent) / len(recent)
        gone = min(time.monotonic() - self._epoch_began, each)
        return max(0.0, (last.epochs - last.epoch) * each - gone)

    def _progress(self) -> Progress | None:
        if not self.working:
            return None
        done = self.epochs[-1].epoch if self.epochs else 0
        return Progress(done, self.epochs_total, self.seconds_left, "epochs")

    # -- asking

    def request(self) -> FineTuneRequest | None:
        """Return what training on the present annotations needs, or None without a model."""
        model = self.session.selection.model
        return None if model is None else self._new_request(model, None)

    def start(self) -> FineTuneRequest | None:
        """Train the model in use on the annotations."""
        model = self.session.selection.model
        if self.working:
            return None
        if model is None:
            self.session.status.notify(self.session.advice.text, "warning")
            return None
        if not self.survey.enough:
            self.session.status.notify(self.survey.text or "Nothing is annotated yet.", "warning")
            return None
        self.annotating.files.flush()
        return self._begin(self._new_request(model, None))

    def resume_interrupted(self) -> FineTuneRequest | None:
        """Resume a run that was interrupted."""
        if self.working or self.interrupted is None:
            return None
        return self._begin(self._new_request(None, self.interrupted))

    def pause(self) -> None:
        """Let training wait."""
        if self._request is not None and self.state == "training":
            self._request.switch.pause()
            self._change_state("paused", "Paused.")

    def resume(self) -> None:
        """Let training that waits go on."""
        if self._request is not None and self.state == "paused":
            self._request.switch.resume()
            self._epoch_began = time.monotonic()
            self._change_state("training", "Training…")

    def cancel(self) -> None:
        """End training and keep the best so far."""
        if self._request is not None and self.state != "stopping":
            self._request.switch.cancel()
            self._change_state("stopping", "Ending, with the best so far…")

    def set_choices(self, **changes: Any) -> None:
        """Change how the next training is done; see `FineTuneChoices`."""
        self.choices = dataclasses.replace(self.choices, **changes)

    def _new_request(self, model: Model | None, run: Run | None) -> FineTuneRequest:
        annotating = self.annotating
        return FineTuneRequest(
            model,
            annotating.classes.project.folder,
            annotating.files.opener(),
            self.choices,
            run,
            store_folder(),
        )

    def _begin(self, request: FineTuneRequest) -> FineTuneRequest:
        self._request = request
        self.interrupted = self._left = None
        self.prepared, self.epochs = None, []
        self.outcome.show(None)
        self._change_state("preparing", "Gathering what is annotated…")
        self._trainings.ask(request)
        return request

    # -- answers

    def _show_survey(self, request: FineTuneRequest, found: Survey) -> None:
        if request.model is self.session.selection.model:
            self.survey = found
            self.survey_changed.emit(found)

    def _show_no_survey(self, request: FineTuneRequest, error: BaseException) -> None:
        self._show_survey(request, Survey(explain(error)))

    def _accept(self, request: FineTuneRequest, given: Stage | Prepared | Epoch | Trained) -> None:
        if request is not self._request:
            return
        if isinstance(given, Stage):
            self.stage = given.text
            self.state_changed.emit(self.state)
        elif isinstance(given, Prepared):
            self.prepared, self.epochs = given, list(given.epochs)
            self._epoch_began = time.monotonic()
            if self.state == "preparing":
                self._change_state("training", self.stage)
        elif isinstance(given, Epoch):
            self._add(given)
        else:
            self._finish(given)

    def _add(self, epoch: Epoch) -> None:
        # A run that is resumed repeats what its checkpoint did not hold.
        self.epochs = [one for one in self.epochs if one.epoch < epoch.epoch] + [epoch]
        self._epoch_began = time.monotonic()
        if self.state == "training":
            self.stage = "Training…"
        self.epoch_added.emit(epoch)

    def _finish(self, given: Trained) -> None:
        self.outcome.show(given)
        self._end()
        self.session.models.refresh()
        self.session.status.notify(
            f"Training is done. The new model was saved as '{given.path.stem}'. Choose under "
            "Report whether to use it; until then the old one stays in use."
        )

    def _fail(self, request: FineTuneRequest, error: BaseException) -> None:
        """Say why training went wrong; failures of outdated requests are only logged."""
        if request is not self._request:
            _log.info("outdated fine-tuning failed", exc_info=error)
            return
        self._end()
        if isinstance(error, InterruptedError):
            self.session.status.notify(str(error))
        else:
            self.session.status.notify(explain(error), "error")

    def _end_if_current(self, request: FineTuneRequest) -> None:
        """Take note that training has ended without giving a model."""
        if request is self._request:
            self._end()

    def _end(self) -> None:
        self._request = None
        self._change_state("idle", "")
        self.refresh()

    def _change_state(self, state: State, stage: str) -> None:
        self.state, self.stage = state, stage
        self.state_changed.emit(state)
