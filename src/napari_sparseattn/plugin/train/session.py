"""Fine-tuning in one viewer: what is learned from, how far it is, what it gave.

No Qt here: work is started by `fine_tuning_jobs`, shown by `widgets`.
"""

from __future__ import annotations

import dataclasses
import logging
import time
from typing import TYPE_CHECKING, Any

from ...training.runs.requests import (
    FineTuneRequest,
    Prepared,
    Stage,
    Survey,
    Trained,
)
from ...training.runs.runs import Epoch, Run, interrupted_run
from ..core.errors import explain
from ..core.per_viewer import PerViewer
from ..slides.requests import store_folder
from .outcome import Outcome, State

if TYPE_CHECKING:
    from napari.components import ViewerModel

    from ..cells.requests import Model

__all__ = ["FineTuning"]

_log = logging.getLogger(__name__)


class FineTuning(Outcome, PerViewer):
    """From annotations to a new model in one viewer. Get it with `FineTuning.of`.

    The viewer is held weakly, so that closing it frees both.
    """

    def __init__(self, viewer: ViewerModel) -> None:
        super().__init__(viewer)
        self._request: FineTuneRequest | None = None
        self._left: Run | None = None
        self._users = 0

    # -- opening and closing

    def attach(self) -> None:
        """Listen to annotations and model; call once per open dock."""
        self._users += 1
        if self._users > 1:
            return
        self.annotating.changed.connect(self.refresh)
        self.session.model_changed.connect(self.refresh)
        self.refresh()
        if self.interrupted is not None and not self.working:
            self._say_interrupted(self.interrupted)

    def detach(self) -> None:
        """Stop listening when the last dock closes; training that goes on can be gone on with."""
        if self._users == 0:
            return
        self._users -= 1
        if self._users:
            return
        self.annotating.changed.disconnect(self.refresh)
        self.session.model_changed.disconnect(self.refresh)
        if self._request is not None:
            self._request.switch.kill()
            self._left = None if self.prepared is None else self.prepared.run
            self._end()

    def refresh(self, _: object = None) -> None:
        """Ask what there is to learn from now."""
        if not self.working:
            left, folder = self._left, self.annotating.classes.project.folder
            # One that was left a moment ago may still be ending.
            there = left is not None and left.unfinished and folder in left.folder.parents
            self.interrupted = left if there else interrupted_run(folder)
        request = self.request()
        if request is None:
            self.accept_survey(None, Survey())
        else:
            self.survey_requested.emit(request)

    # -- asking

    @property
    def working(self) -> bool:
        """Whether there is training under way, or waiting."""
        return self._request is not None

    def request(self) -> FineTuneRequest | None:
        """Return what training on the present annotations needs, or None without a model."""
        model = self.session.model
        return None if model is None else self._new_request(model, None)

    def start(self) -> FineTuneRequest | None:
        """Train the model in use on the annotations."""
        model = self.session.model
        if self.working:
            return None
        if model is None:
            self.session.say(self.session.advice(), "warning")
            return None
        if not self.survey.enough:
            self.session.say(self.survey.text or "Nothing is annotated yet.", "warning")
            return None
        self.annotating.flush()
        return self._begin(self._new_request(model, None))

    def go_on(self) -> FineTuneRequest | None:
        """Go on with a run that was interrupted."""
        if self.working or self.interrupted is None:
            return None
        return self._begin(self._new_request(None, self.interrupted))

    def pause(self) -> None:
        """Let training wait."""
        if self._request is not None and self.state == "training":
            self._request.switch.pause()
            self._become("paused", "Paused.")

    def resume(self) -> None:
        """Let training that waits go on."""
        if self._request is not None and self.state == "paused":
            self._request.switch.resume()
            self._epoch_began = time.monotonic()
            self._become("training", "Training…")

    def cancel(self) -> None:
        """End training and keep the best so far."""
        if self._request is not None and self.state != "stopping":
            self._request.switch.cancel()
            self._become("stopping", "Ending, with the best so far…")

    def set_choices(self, **changes: Any) -> None:
        """Change how the next training is done; see `FineTuneChoices`."""
        self.choices = dataclasses.replace(self.choices, **changes)

    def _new_request(self, model: Model | None, run: Run | None) -> FineTuneRequest:
        return FineTuneRequest(
            model,
            self.annotating.classes.project.folder,
            self.annotating.files.opener(),
            self.choices,
            run,
            store_folder(),
        )

    def _begin(self, request: FineTuneRequest) -> FineTuneRequest:
        self._request = request
        self.interrupted = self._left = None
        self.prepared, self.epochs = None, []
        self._show_report(None)
        self._become("preparing", "Gathering what is annotated…")
        self.training_requested.emit(request)
        return request

    # -- answering

    def accept_survey(self, request: FineTuneRequest | None, found: Survey) -> None:
        """Take what there is to learn from, unless the model is another by now."""
        if request is not None and request.model is not self.session.model:
            return
        self.survey = found
        self.survey_changed.emit(found)

    def fail_survey(self, request: FineTuneRequest, error: BaseException) -> None:
        """Say why the annotations could not be counted."""
        self.accept_survey(request, Survey(explain(error)))

    def accept(self, request: FineTuneRequest, given: Stage | Prepared | Epoch | Trained) -> None:
        """Take what training tells."""
        if request is not self._request:
            return
        if isinstance(given, Stage):
            self.stage = given.text
            self.state_changed.emit(self.state)
        elif isinstance(given, Prepared):
            self.prepared, self.epochs = given, list(given.epochs)
            self._epoch_began = time.monotonic()
            if self.state == "preparing":
                self._become("training", self.stage)
        elif isinstance(given, Epoch):
            self._add(given)
        else:
            self._finish(given)

    def fail(self, request: FineTuneRequest | None, error: BaseException) -> None:
        """Say why work went wrong; failures of outdated requests are only logged."""
        if request is not self._request or request is None:
            _log.info("outdated fine-tuning failed", exc_info=error)
            return
        self._end()
        if isinstance(error, InterruptedError):
            self.session.say(str(error))
        else:
            self.session.say(explain(error), "error")

    def end(self, request: FineTuneRequest) -> None:
        """Take note that training was ended from outside."""
        if request is self._request:
            self._end()

    def _add(self, epoch: Epoch) -> None:
        # A run that goes on repeats what its checkpoint did not hold.
        self.epochs = [one for one in self.epochs if one.epoch < epoch.epoch] + [epoch]
        self._epoch_began = time.monotonic()
        if self.state == "training":
            self.stage = "Training…"
        self.epoch_added.emit(epoch)

    def _finish(self, given: Trained) -> None:
        self._show_report(given)
        self._end()
        self.session.models_changed.emit()
        self.session.say(
            f"Done. The new model is kept as '{given.path.stem}'. Say under Report whether to use "
            "it; until then the old one stays in use."
        )

    def _end(self) -> None:
        self._request = None
        self._become("idle", "")
        self.refresh()

    def _become(self, state: State, stage: str) -> None:
        self.state, self.stage = state, stage
        self.state_changed.emit(state)

    def _say_interrupted(self, run: Run) -> None:
        self.session.say(
            f"The training of '{run.name}' was interrupted after {run.epochs_done} epochs. "
            "It can go on, below."
        )
