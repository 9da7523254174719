"""The faithfulness of all classified cells: measured, ranked, in columns of the table."""

from __future__ import annotations

import dataclasses
import time
import weakref
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt
from psygnal import Signal

from ...evidence.faithfulness import FaithfulnessOfSet
from ..core.activity import Activity
from ..core.lanes import Lanes
from ..core.messages import counted
from ..core.per_viewer import PerViewer
from ..core.status import Progress, explain
from ..session import Session
from .cells_requests import CellsRequest, MeasuredCell, stream_cells

if TYPE_CHECKING:
    from napari.components import ViewerModel
    from napari.layers import Image

    from ...inference.prediction import Predictions

__all__ = ["COLUMNS", "CellFaithfulness"]

#: Columns that measured cells get in the table and in exports.
COLUMNS = ("evidence_gain", "evidence_p", "evidence_better_than_random")
_NO_CELLS = "Classify all cells first; then measure the faithfulness of each."
_OTHER_MODEL = "These cells were classified with another model. Classify all of them again."


@dataclasses.dataclass(eq=False)
class _Measured:
    """The measured cells of one image, by row; of one run only."""

    probabilities: npt.NDArray[np.float32]
    cells: dict[int, MeasuredCell] = dataclasses.field(default_factory=dict)


class CellFaithfulness(PerViewer):
    """The faithfulness of each cell in the table; get it with `of`."""

    changed = Signal()

    def __init__(self, viewer: ViewerModel) -> None:
        self._viewer = weakref.ref(viewer)
        self.session = Session.of(viewer)
        self.message = ""
        #: Probabilities of the cells that the message is about.
        self._message_about: npt.NDArray[np.float32] | None = None
        self._asked: CellsRequest | None = None
        self._began, self._done = 0.0, 0
        self._measured: weakref.WeakKeyDictionary[Image, _Measured] = weakref.WeakKeyDictionary()
        self._lane = Lanes.of(viewer).add(
            stream_cells, given=self._take, failed=self._fail, ended=self._finish, busy="replace"
        )
        Activity.of(viewer).follow(
            "Faithfulness of the cells", (self.changed,), self.cancel, lambda: self.progress
        )

    # -- opening and closing

    def _following(self) -> list[tuple[Any, Any]]:
        session = self.session
        return [
            (session.cells.results_changed, self._follow_results),
            (session.selection.model_changed, self._follow_model),
        ]

    def _last_closed(self) -> None:
        # Cells measured so far are kept.
        self.cancel()
        self._lane.close()

    # -- state

    @property
    def progress(self) -> Progress | None:
        """Progress of the measurement, while there is one."""
        asked = self._asked
        if asked is None:
            return None
        left = None
        if self._done:
            each = (time.monotonic() - self._began) / self._done
            left = each * (len(asked.rows) - self._done)
        return Progress(self._done, len(asked.rows), left)

    def cells(self) -> dict[int, MeasuredCell]:
        """Return what is measured of the chosen image's cells, by row of the table."""
        image, results = self.session.selection.image, self.session.cells.results
        kept = None if image is None else self._measured.get(image)
        if kept is None or results is None or kept.probabilities is not results.probabilities:
            return {}
        return dict(kept.cells)

    def why_not(self) -> str:
        """Return why nothing can be measured, and what to do, or nothing."""
        model, results = self.session.selection.model, self.session.cells.results
        if results is None or model is None or not len(results):
            return _NO_CELLS
        return "" if results.model_hash == model.bundle.hash else _OTHER_MODEL

    def rank(self, label: str = "") -> list[int]:
        """Return rows of measured cells, of one class or all, the most faithful first."""
        chosen = [cell for cell in self.cells().values() if label in ("", cell.found.label)]
        if not chosen:
            return []
        found = FaithfulnessOfSet(
            tuple(cell.row for cell in chosen), tuple(cell.found for cell in chosen)
        )
        return [chosen[i].row for i in found.ordered()]

    def of_class(self, label: str = "") -> FaithfulnessOfSet | None:
        """Return what is measured of a class's cells, or of all; None without any."""
        cells, rows, results = self.cells(), self.rank(label), self.session.cells.results
        if not rows or results is None:
            return None
        ids = tuple(int(results.cells.ids[row]) for row in rows)
        return FaithfulnessOfSet(ids, tuple(cells[row].found for row in rows))

    # -- asking and answering

    def measure_all(self) -> CellsRequest | None:
        """Ask for the cells that are not measured yet, in the order of the table."""
        session = self.session
        image, model = session.selection.image, session.selection.model
        results, plane = session.cells.results, session.cells.result_plane
        if self._asked is not None or image is None or model is None:
            return None
        if (reason := self.why_not()) or results is None or plane is None:
            self._notify(reason)
            return None
        known = self.cells()
        rows = [i for i in range(len(results)) if i not in known and results.class_index[i] >= 0]
        if not rows:
            self._notify("All cells are measured.")
            return None
        if not known:
            self._measured[image] = _Measured(results.probabilities)
        settings, locations = session.selection.settings, session.crops.locations
        request = CellsRequest(image, plane, settings, model, locations, results, tuple(rows))
        self._asked, self._began, self._done = request, time.monotonic(), 0
        self._notify("")
        self._lane.ask(request)
        return request

    def _take(self, request: CellsRequest, cell: MeasuredCell) -> None:
        kept = self._measured.get(request.layer)
        if request is self._asked and kept is not None:
            kept.cells[cell.row] = cell
            self._done += 1
            self.changed.emit()

    def _finish(self, request: CellsRequest) -> None:
        if request is self._asked:
            self._end("")

    def _fail(self, request: CellsRequest, error: BaseException) -> None:
        if request is self._asked:
            self._end(explain(error))

    def cancel(self) -> None:
        """Stop measuring; cells measured so far are kept."""
        if self._asked is not None:
            self._asked.stop.set()
            self._end(f"Stopped after {counted(self._done, 'cell')}; what is measured is kept.")

    def _end(self, message: str) -> None:
        request, self._asked = self._asked, None
        kept = None if request is None else self._measured.get(request.layer)
        self._notify(message)
        if request is not None and kept is not None and kept.cells:
            columns = _make_columns(len(request.results), kept.cells)
            self.session.cells.add_measures(request.layer, request.results, columns)

    # -- following the session

    def _follow_results(self, results: Predictions | None) -> None:
        asked = self._asked
        if asked is not None and (
            results is None or results.probabilities is not asked.results.probabilities
        ):
            self.cancel()
            self._message_about = None
        if results is None or results.probabilities is not self._message_about:
            self.message = ""
        self.changed.emit()

    def _follow_model(self, _: object) -> None:
        self.cancel()
        self._notify("")

    def _notify(self, text: str) -> None:
        results = self.session.cells.results
        self._message_about = None if results is None else results.probabilities
        self.message = text
        self.changed.emit()


def _make_columns(n: int, cells: dict[int, MeasuredCell]) -> dict[str, npt.NDArray[np.float64]]:
    """Return columns (n,); not a number where a cell was not measured."""
    gain, p, better = (np.full(n, np.nan) for _ in COLUMNS)
    for row, cell in cells.items():
        found = cell.found
        gain[row], p[row] = found.orders[found.own[0]].gain, found.p_random()
        better[row] = found.more_than_random() is True
    return dict(zip(COLUMNS, (gain, p, better), strict=True))
