"""Suggests what to annotate next: what the model doubts, and unlike what is annotated."""

from __future__ import annotations

from functools import partial
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt
from psygnal import Signal

from .classes import Classes
from .context import Context
from .files import AnnotationFiles
from .targets import Targets

if TYPE_CHECKING:
    from ...bundle import Bundle
    from ...inference.prediction import Prediction, Predictions
    from ...training.data.annotations import Annotation
    from ...training.tune.next_cells import NextCells

__all__ = ["Suggestions"]

#: Ranked at once; then the model learns from the annotations before the next are ranked.
_AT_ONCE = 4
#: A cell this near, in its diameters, to an annotated one counts as annotated.
_ANNOTATED = 0.5


class Suggestions:
    """The classified cells of the chosen image that are worth annotating.

    Parameters
    ----------
    context : Context
        Shared by the parts of annotating.
    classes : Classes
        That may be given.
    files : AnnotationFiles
        What is annotated already.
    targets : Targets
        Gives a class to the cell that is suggested.

    Attributes
    ----------
    candidate : int or None
        Row of the session's results that is suggested.
    missed : int
        How many annotated cells the search for cells has not found.
    """

    #: The cell that is suggested, or None.
    candidate_changed = Signal(object)

    def __init__(
        self, context: Context, classes: Classes, files: AnnotationFiles, targets: Targets
    ) -> None:
        self.session, self._context = context.session, context
        self._classes, self._files, self._targets = classes, files, targets
        self.candidate: int | None = None
        self.missed = 0
        #: Why the candidate is suggested, in a sentence without its full stop.
        self.why = ""
        self._reasons: dict[int, str] = {}
        self._queue: list[int] = []
        self._passed: set[int] = set()
        self._ranked: Predictions | None = None

    def next(self) -> None:
        """Go to the cell whose class would teach most; ranks the cells the first time."""
        results = self.session.cells.results
        if results is None or not len(results):
            self._context.notify(
                "Classify all cells first: the suggestions come from these.", "warning"
            )
            return
        if results is not self._ranked:
            self._queue, self._passed, self._ranked = [], set(), results
        self._queue = [row for row in self._queue if row in self._open_rows(results, self._queue)]
        if self._queue:
            self._go_to(self._queue.pop(0))
            return
        rows = self._open_rows(results, range(len(results)))
        if not rows:
            self._set_candidate(None)
            self._context.notify(
                "All classified cells of this image have been annotated or skipped."
            )
            return
        annotated, labels = self._annotated_rows(results)
        self._context.ask(
            partial(
                _rank,
                np.asarray(results.probabilities),
                results.class_names,
                np.array(rows),
                _AT_ONCE,
                states=results.states,
                annotated=annotated,
                labels=labels,
                bundle=self._bundle_of(results),
            ),
            partial(self._ranking, results),
        )

    def stop(self) -> None:
        """Suggest no cell any more."""
        self._set_candidate(None)

    def give(self, label: str) -> bool:
        """Give the cell that is suggested a class, and go to the next.

        Returns
        -------
        bool
            False if none is suggested, or annotations are selected instead.
        """
        row = self.candidate
        if row is None or self._targets.selected:
            return False
        self._classes.choose(label)
        target = self._targets.target_of(row)
        if target is None:
            self._set_candidate(None)
        elif (image := self._files.chosen) is None:
            self._targets.correct(target, label)
        elif self._targets.annotate(image, target, label):
            self._passed.add(row)
            self.next()
        return True

    # -- within

    def _bundle_of(self, results: Predictions) -> Bundle | None:
        """Return the model that gave the results, if it is still the one in use."""
        model = self.session.selection.model
        same = model is not None and model.bundle.hash == results.model_hash
        return model.bundle if same and model is not None else None

    def _annotated_rows(self, results: Predictions) -> tuple[npt.NDArray[np.int64], list[str]]:
        """Return the classified cells that are annotated, and their classes."""
        places, labels = self._places(), self._labels()
        if not len(places) or not len(results):
            return np.empty(0, np.int64), []
        from scipy.spatial import cKDTree

        cells = results.cells
        distance, nearest = cKDTree(cells.centres).query(places)
        near = distance <= _ANNOTATED * np.maximum(cells.diameters[nearest], 2.0)
        found = dict(zip(nearest[near].tolist(), np.array(labels)[near].tolist(), strict=True))
        return np.array(list(found), np.int64), list(found.values())

    def _ranking(self, results: Predictions, ranked: NextCells) -> None:
        if results is self.session.cells.results:
            self._queue = [int(row) for row in ranked.rows]
            self._reasons = dict(zip(self._queue, ranked.why, strict=True))
            if self._queue:
                self._go_to(self._queue.pop(0))

    def _open_rows(self, results: Predictions, rows: Any) -> list[int]:
        """Return those of some rows that are classified, not annotated and not passed."""
        index = results.class_index
        wanted = [row for row in rows if index[row] >= 0 and row not in self._passed]
        places = self._places()
        if not wanted or not len(places):
            return wanted
        from scipy.spatial import cKDTree

        cells = results.cells
        distance, _ = cKDTree(places).query(cells.centres[wanted])
        free = distance > _ANNOTATED * np.maximum(cells.diameters[wanted], 2.0)
        return [row for row, is_free in zip(wanted, free, strict=True) if is_free]

    def _go_to(self, row: int) -> None:
        self._passed.add(row)
        self._set_candidate(row)
        # Brings the cell to the middle, and shows what the model saw in it.
        self.session.cells.click_cell(row)
        self._point_at(row)
        self._context.notify(f"This cell next: {self.why}.")

    def _set_candidate(self, row: int | None) -> None:
        self.why = "" if row is None else self._reasons.get(row, "")
        if row is None:
            self._point_at(None)
        if row != self.candidate:
            self.candidate = row
            self.candidate_changed.emit(row)

    def _point_at(self, row: int | None) -> None:
        """Mark the cell that is asked about."""
        image, results = self.session.selection.image, self.session.cells.results
        if row is None or results is None or image is None:
            # The image that it is on may have been left.
            self._files.layers.remove_everywhere(["suggested"])
            return
        centre = (*self._targets.plane_of_results(), *results.cells.centres[row])
        size = 1.6 * float(results.cells.diameters[row])
        self._files.layers.point_at(image, np.array(centre, dtype=np.float64), size)

    def follow_answer(self, answer: Prediction | None) -> None:
        """Suggest no longer where another cell was clicked: keys are about that one."""
        target, row = self._targets.target, self.candidate
        if row is None or target is None or target.position is None:
            return
        asked = self._targets.target_of(row)
        if asked is not None and asked.position is not None:
            away = np.hypot(*np.subtract(target.position, asked.position))
            if away > _ANNOTATED * max(asked.diameter or 0.0, 2.0):
                self._set_candidate(None)

    def follow_results(self, results: Predictions | None) -> None:
        """Forget what was ranked of other results."""
        if results is not self._ranked:
            self._queue = []
            self._set_candidate(None)
        self.missed = self._count_missed(results)
        self._context.changed.emit()

    def classify_missed(self) -> None:
        """Classify the annotated cells, also those that the search for cells does not find."""
        image = self._files.chosen
        if image is not None and (cells := image.cell_layer()) is not None:
            self.session.selection.set_cell_layer(cells.layer)
            self.session.selection.images_changed.emit()
            self.session.cells.classify_all()

    def _count_missed(self, results: Predictions | None) -> int:
        places = self._places()
        if results is None or not len(places) or self.session.selection.cell_layer is not None:
            return 0
        if not len(results):
            return len(places)
        from scipy.spatial import cKDTree

        cells = results.cells
        distance, nearest = cKDTree(cells.centres).query(places)
        far = distance > _ANNOTATED * np.maximum(cells.diameters[nearest], 2.0)
        return int(np.count_nonzero(far))

    def _places(self) -> npt.NDArray[np.float64]:
        """Return (y, x) of the annotated cells (N, 2) on the plane of the results."""
        places = [item.position for item in self._annotated()]
        return np.array(places, dtype=np.float64).reshape(-1, 2)

    def _labels(self) -> list[str]:
        """Return the N classes of the annotated cells."""
        return [item.label for item in self._annotated()]

    def _annotated(self) -> list[Annotation]:
        annotations = self._files.annotations(self.session.selection.image)
        plane = (*self._targets.plane_of_results(), 0, 0)[:2]
        return [
            item
            for item in (() if annotations is None else annotations)
            if item.position is not None and (item.t, item.z) == plane
        ]


def _rank(*arguments: Any, **named: Any) -> NextCells:
    """Rank in another thread, where torch is loaded."""
    from ...training.tune.next_cells import rank_cells

    return rank_cells(*arguments, **named)
