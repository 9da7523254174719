"""Background work of fine-tuning: counting, training in a process of its own, loading the model."""

from __future__ import annotations

from collections.abc import Iterator
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ...training.runs.requests import FineTuneRequest, stream_training, survey
from ..core.models import prepare_model
from ..core.workers import Workers

if TYPE_CHECKING:
    from .session import FineTuning

__all__ = ["FineTuningJobs"]


class FineTuningJobs:
    """Does what fine-tuning asks for in other threads, and hands it the answers.

    Parameters
    ----------
    tuning : FineTuning
        Its methods are only called on the main thread.
    """

    def __init__(self, tuning: FineTuning) -> None:
        self._tuning = tuning
        self._surveyed: FineTuneRequest | None = None
        self._next: FineTuneRequest | None = None
        self._workers = Workers(tuning.fail_model)
        tuning.survey_requested.connect(self.survey)
        tuning.training_requested.connect(self.train)
        tuning.model_requested.connect(self.load)

    def close(self) -> None:
        """Take no more requests, and drop all answers."""
        if self._workers.closed:
            return
        self._workers.close()
        tuning = self._tuning
        tuning.survey_requested.disconnect(self.survey)
        tuning.training_requested.disconnect(self.train)
        tuning.model_requested.disconnect(self.load)
        self._next = None

    def survey(self, request: FineTuneRequest) -> None:
        """Count what is annotated; of what is asked meanwhile only the last is answered."""
        if self._surveyed is not None:
            self._next = request
            return
        self._surveyed = request
        self._workers.start(
            partial(survey, request),
            returned=partial(self._tuning.accept_survey, request),
            errored=partial(self._tuning.fail_survey, request),
            finished=self._survey_finished,
        )

    def train(self, request: FineTuneRequest) -> None:
        """Train, and tell how far it is."""

        def work() -> Iterator[Any]:
            yield from stream_training(request)

        self._workers.start(
            work,
            yielded=partial(self._tuning.accept, request),
            errored=partial(self._tuning.fail, request),
            finished=partial(self._tuning.end, request),
        )

    def load(self, path: Path) -> None:
        """Load a model for use."""
        model = self._tuning.session.selection.model
        device = "auto" if model is None else model.device
        self._workers.start(
            partial(prepare_model, str(path), device), returned=self._tuning.accept_model
        )

    def _survey_finished(self) -> None:
        self._surveyed = None
        request, self._next = self._next, None
        if request is not None:
            self.survey(request)
