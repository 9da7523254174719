"""Training on a table of slides in one viewer: what it states, how far it is, what came of it."""

from __future__ import annotations

import dataclasses
import logging
import time
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol

from psygnal import Signal

from ...bundle import user_models_folder
from ...training.runs.messages import Stage, Survey
from ...training.runs.slide_orders import SlideOrder
from ...training.runs.slide_training import (
    SlideEpoch,
    SlideTrainingRequest,
    TrainedSlides,
    stream_slide_training,
    survey_table,
)
from ..core.activity import Activity
from ..core.lanes import Lanes, close_all
from ..core.messages import time_left
from ..core.status import Progress, explain
from ..slides.requests import store_folder

if TYPE_CHECKING:
    from napari.components import ViewerModel

    from ...training.data.slide_tables import SlideTable
    from ..session import Session

__all__ = ["TableChoices", "TableTraining", "Tuned"]

_log = logging.getLogger(__name__)


class Tuned(Protocol):
    """What is asked of fine-tuning: whose session it is.

    Attributes
    ----------
    session : Session
        Of the viewer.
    """

    session: Session


@dataclasses.dataclass(frozen=True)
class TableChoices:
    """What may be chosen.

    Parameters
    ----------
    table : pathlib.Path or None
        The CSV.
    features : pathlib.Path or None
        A folder of features made elsewhere, in place of slides.
    target : str or None
        What is learned; None for what the table states.
    outcome : str
        What follow-up or numbers are of.
    encoder : str
        See `load_encoder`; of features made elsewhere what made them, where
        their files do not say it.
    patch_um : float or None
        Side of their patches in µm, where the files do not say it.
    name : str
        Of the model.
    """

    table: Path | None = None
    features: Path | None = None
    target: str | None = None
    outcome: str = ""
    encoder: str = "tissue-mobilenet"
    patch_um: float | None = None
    name: str = ""


class TableTraining:
    """Trains a SPAN on a table of slides with classes, follow-up or numbers.

    Parameters
    ----------
    viewer : napari.components.ViewerModel
        Whose lanes are used.
    tuning : Tuned
        Of the same viewer.

    Attributes
    ----------
    choices : TableChoices
        What is trained next, and how.
    survey : Survey
        What the table states, or what is wrong with it.
    read : SlideTable or None
        The table, where it can be used.
    stage : str
        What goes on, in words; empty where nothing does.
    epoch : SlideEpoch or None
        The last one behind it.
    trained : TrainedSlides or None
        What was trained last.
    """

    changed = Signal()

    def __init__(self, viewer: ViewerModel, tuning: Tuned) -> None:
        self.tuning = tuning
        self.choices = TableChoices()
        self.survey = Survey()
        self.read: SlideTable | None = None
        self.stage = ""
        self.epoch: SlideEpoch | None = None
        self.trained: TrainedSlides | None = None
        self._request: SlideTrainingRequest | None = None
        #: When the first epoch was over, and its number.
        self._began, self._first = 0.0, 0
        self._lane = Lanes.of(viewer).add(
            stream_slide_training, given=self._accept, failed=self._fail, ended=self._end_if_current
        )
        Activity.of(viewer).follow(
            "Training on a table", (self.changed,), self.cancel, lambda: self.progress
        )

    @property
    def working(self) -> bool:
        """Whether it is under way."""
        return self._request is not None

    @property
    def progress(self) -> Progress | None:
        """How many epochs are over; None where it is not under way."""
        if not self.working:
            return None
        if self.epoch is None:
            return Progress(what="epochs")
        done, total = self.epoch.epoch, self.epoch.epochs
        behind, left = done - self._first, None
        if behind > 0:
            left = (time.monotonic() - self._began) / behind * (total - done)
        return Progress(done, total, left, "epochs")

    @property
    def ready(self) -> bool:
        """Whether there is a table that can be learned from, and a name for the model."""
        return self.survey.enough and bool(self.choices.name) and not self.working

    def choose(self, **changes: Any) -> None:
        """Choose a table, or how it is learned from; see `TableChoices`."""
        before, self.choices = self.choices, dataclasses.replace(self.choices, **changes)
        chosen = self.choices
        if chosen.table != before.table and chosen.table is not None:
            # Of another table nothing may be asked that the last one stated.
            self.choices = chosen = dataclasses.replace(chosen, target=None, name=chosen.table.stem)
        asked = (chosen.table, chosen.features, chosen.target)
        if chosen.table is not None and asked != (before.table, before.features, before.target):
            self.survey, self.read = survey_table(*asked)  # type: ignore[arg-type]
        self.changed.emit()

    def start(self) -> SlideTrainingRequest | None:
        """Train on the table; the model is kept among the user's, never over another."""
        chosen, status = self.choices, self.tuning.session.status
        if self.working:
            return None
        if chosen.table is None or not self.survey.enough:
            status.notify(self.survey.text or "Choose a table of slides first.", "warning")
            return None
        path = user_models_folder() / f"{chosen.name}.safetensors"
        if not chosen.name or path.exists():
            status.notify(
                f"There is a model '{chosen.name}' already. Give the new one another name."
                if chosen.name
                else "Give the new model a name.",
                "warning",
            )
            return None
        path.parent.mkdir(parents=True, exist_ok=True)
        classes = self.read is None or self.read.kind.classes
        order = SlideOrder(
            chosen.table.resolve(),
            path,
            "span",
            chosen.encoder,
            None,
            None,
            None,
            0,
            "auto",
            None if chosen.features is None else chosen.features.resolve(),
            chosen.patch_um,
            chosen.target,
            "" if classes else chosen.outcome,
            store=store_folder(),
        )
        request = SlideTrainingRequest(order)
        self._request, self.trained, self.epoch = request, None, None
        self.stage = "Reading the table…"
        self.changed.emit()
        self._lane.ask(request)
        return request

    def cancel(self) -> None:
        """End it now; no model is kept, but the features that were made."""
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

    def _accept(
        self, request: SlideTrainingRequest, given: Stage | SlideEpoch | TrainedSlides
    ) -> None:
        if request is not self._request:
            return
        if isinstance(given, Stage):
            self.stage = given.text
        elif isinstance(given, SlideEpoch):
            if self.epoch is None:
                # What came before were the features.
                self._began, self._first = time.monotonic(), given.epoch
            self.epoch, self.stage = given, f"epoch {given.epoch} of at most {given.epochs}"
            progress = self.progress
            if progress is not None and progress.seconds_left:
                self.stage += f", {time_left(progress.seconds_left)}"
        else:
            self.trained = given
            self.tuning.session.models.refresh()
            self.tuning.session.status.notify(
                f"Training is done: '{given.path.stem}' is among the models. {given.sentence}."
            )
        self.changed.emit()

    def _fail(self, request: SlideTrainingRequest, error: BaseException) -> None:
        if request is not self._request:
            _log.info("outdated training on a table failed", exc_info=error)
            return
        self._end()
        self.tuning.session.status.notify(explain(error), "error")

    def _end_if_current(self, request: SlideTrainingRequest) -> None:
        if request is self._request:
            self._end()

    def _end(self) -> None:
        self._request, self.stage = None, ""
        self.changed.emit()
