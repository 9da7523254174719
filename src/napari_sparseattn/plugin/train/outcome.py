"""What training in one viewer has told and given: how far it is, the report, which model to use.

No Qt here. `fine_tuning` adds what is asked.
"""

from __future__ import annotations

import time
import weakref
from pathlib import Path
from typing import TYPE_CHECKING, Literal

from psygnal import Signal

from ...training.runs.reports import write_report
from ...training.runs.requests import FineTuneChoices, Prepared, Survey, Trained
from ...training.runs.runs import Epoch, Run, Version, versions
from ..annotate.session import Annotating
from ..core.session import Session
from ..core.status import explain
from .places import Places

if TYPE_CHECKING:
    from napari.components import ViewerModel

    from ...training.tune.fine_tune import FineTuneReport
    from ...training.tune.report import HeldOutCell
    from ..core.models import Model

__all__ = ["Outcome", "State"]

#: What goes on: nothing, data are gathered, training, waiting, or ending with the best so far.
State = Literal["idle", "preparing", "training", "paused", "stopping"]


class Outcome:
    """What fine-tuning tells and gives; the viewer is held weakly.

    Parameters
    ----------
    viewer : napari.components.ViewerModel
        The viewer itself, not napari's proxy of it.

    Attributes
    ----------
    survey : Survey
        What there is to learn from, and of what there is too little.
    interrupted : Run or None
        A run that was killed and can go on.
    stage : str
        What is being done, in words.
    prepared : Prepared or None
        What training began with.
    epochs : list of Epoch
        Those behind it.
    trained : Trained or None
        The new model and its report, when it is done.
    to_decide : bool
        Whether nobody has said yet which model to use.
    """

    state_changed = Signal(str)
    epoch_added = Signal(object)
    report_changed = Signal(object)
    survey_changed = Signal(object)
    survey_requested = Signal(object)
    training_requested = Signal(object)
    model_requested = Signal(object)

    def __init__(self, viewer: ViewerModel) -> None:
        self._viewer = weakref.ref(viewer)
        self.session = Session.of(viewer)
        self.annotating = Annotating.of(viewer)
        self.choices = FineTuneChoices()
        self.state: State = "idle"
        self.stage = ""
        self.survey = Survey()
        self.interrupted: Run | None = None
        self.prepared: Prepared | None = None
        self.epochs: list[Epoch] = []
        self.trained: Trained | None = None
        self.to_decide = False
        self._places = Places(self.session, self.annotating)
        self._epoch_began = 0.0

    # -- how far

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

    # -- what it gave

    @property
    def report(self) -> FineTuneReport | None:
        """What the last training gave."""
        return None if self.trained is None else self.trained.report

    def use(self) -> None:
        """Put the new model in place of the one in use."""
        if self.trained is not None:
            self.to_decide = False
            self.model_requested.emit(self.trained.path)
            self.report_changed.emit(self.report)

    def keep_old(self) -> None:
        """Go on with the model in use; the new one stays in the list of models."""
        if self.trained is not None:
            self.to_decide = False
            name = self.trained.path.stem
            self.session.status.notify(f"The old model stays. '{name}' is in the list of models.")
            self.report_changed.emit(self.report)

    def accept_model(self, model: Model) -> None:
        """Take the new model, which has been loaded."""
        self.session.selection.model_is_chosen = True
        self.session.selection.set_model(model)
        self.session.status.notify(f"'{model.bundle.card.name}' is in use now.")

    def fail_model(self, error: BaseException) -> None:
        """Say why the new model could not be loaded."""
        self.to_decide = self.trained is not None
        self.report_changed.emit(self.report)
        self.session.status.notify(explain(error), "error")

    def versions(self) -> list[Version]:
        """Return the fine-tuned models, the newest first."""
        return versions()

    def save_report(self, path: Path) -> None:
        """Write the report as HTML and as JSON."""
        if self.report is None:
            return
        try:
            page, plain = write_report(self.report, path)
        except OSError as error:
            self.session.status.notify(f"The report could not be written: {error}", "error")
        else:
            self.session.status.notify(f"The report is written to {page} and {plain.name}.")

    def offenders(self, label: str, predicted: str) -> list[HeldOutCell]:
        """Return the held-out cells of one field of the confusion matrix, the surest first."""
        if self.report is None:
            return []
        found = [c for c in self.report.cells if (c.label, c.after) == (label, predicted)]
        return sorted(found, key=lambda cell: -cell.probability)

    def go_to(self, cell: HeldOutCell) -> None:
        """Bring a held-out cell to the middle of the view, and open its image if need be."""
        self._places.go_to(cell.id)

    def _show_report(self, trained: Trained | None) -> None:
        self.trained, self.to_decide = trained, trained is not None
        self.report_changed.emit(self.report)
