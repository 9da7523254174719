"""All cells of one viewer: their pictures, what decided them, their map, and their classes."""

from __future__ import annotations

import time
import weakref
from collections import OrderedDict
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt
from psygnal import Signal

from ...card import plain_name
from ...inference.cell_map import CellMap, MapMethod
from ..annotate.session import Annotating
from ..core.activity import Activity
from ..core.lanes import Lanes, close_all
from ..core.per_viewer import PerViewer
from ..core.status import Progress, explain
from ..session import Session
from .requests import (
    EvidenceRequest,
    Look,
    MapRequest,
    PicturesRequest,
    draw_evidence,
    make_map,
    stream_pictures,
)

if TYPE_CHECKING:
    from napari.components import ViewerModel

    from ...inference.prediction import Predictions

__all__ = ["EVIDENCE_SIZE", "PICTURE_SIZE", "CellMaps", "Population"]

#: Sides of a picture in the gallery, and of one with its evidence, in pixels.
PICTURE_SIZE, EVIDENCE_SIZE = 80, 176
#: Pictures of 19 KB each that are kept; more than any screen shows.
_MOST_PICTURES = 1500
_MOST_EVIDENCE = 64
_SETTLE_MS = 30
_HOVER_MS = 150

Picture = npt.NDArray[np.uint8]


class CellMaps:
    """The map of the cells that are shown, made when it is asked for.

    Attributes
    ----------
    method : {"pca", "umap"}
        Which the user wants.
    found : CellMap or None
        The map, if it is one of the cells that are shown.
    message : str
        Why there is none.
    """

    changed = Signal()

    def __init__(self, lanes: Lanes, session: Session) -> None:
        self.method: MapMethod = "pca"
        self.found: CellMap | None = None
        self.message = ""
        self._session = session
        self._asked: MapRequest | None = None
        self._began = 0.0
        #: The maps of the last results, by method.
        self._made: dict[MapMethod, CellMap] = {}
        self._of: npt.NDArray[np.float32] | None = None
        self.lane = lanes.add(make_map, given=self._take, failed=self._fail, busy="replace")

    @property
    def running(self) -> bool:
        """Whether a map is being made."""
        return self._asked is not None

    @property
    def seconds(self) -> float:
        """How long it has been in the making."""
        return time.monotonic() - self._began if self.running else 0.0

    def choose(self, method: MapMethod) -> None:
        """Make a map in another way."""
        if method != self.method:
            self.method = method
            self.cancel()
            self.ask()

    def ask(self) -> None:
        """Have the map made, unless it is there or under way."""
        results = self._session.cells.results
        if results is None:
            self.forget()
            return
        if results.probabilities is not self._of:
            self.forget()
            self._of = results.probabilities
        self.found = self._made.get(self.method)
        asked = self._asked
        if self.found is not None or (asked is not None and asked.method == self.method):
            self.changed.emit()
            return
        if results.states is None or not len(results):
            self.message = "Classify all cells again: the map needs what the model read of each."
            self.changed.emit()
            return
        self.message, self._began = "", time.monotonic()
        self._asked = MapRequest(results.probabilities, results.states, self.method)
        # Before the work, which may be done at once.
        self.changed.emit()
        self.lane.ask(self._asked)

    def cancel(self) -> None:
        """Stop making a map; the one of the other kind stays."""
        if self._asked is not None:
            self._asked.stop.set()
            self._asked = None
            self.message = "Cancelled."
            self.changed.emit()

    def forget(self) -> None:
        """Drop the maps of other results."""
        self.cancel()
        self._made, self._of, self.found, self.message = {}, None, None, ""
        self.changed.emit()

    def _take(self, request: MapRequest, found: CellMap | None) -> None:
        if request is not self._asked or found is None:
            return
        self._asked = None
        self._made[request.method] = self.found = found
        self.changed.emit()

    def _fail(self, request: MapRequest, error: BaseException) -> None:
        if request is self._asked:
            self._asked, self.message = None, explain(error)
            self.changed.emit()


class Population(PerViewer):
    """What table, gallery and map share beyond `ShownCells`; get it with `Population.of`.

    Attributes
    ----------
    session : Session
        Of the same viewer.
    shown : ShownCells
        Which cells are shown and picked.
    annotating : Annotating
        Gives cells a class.
    maps : CellMaps
        The map.
    """

    #: Rows whose pictures have come.
    pictures_arrived = Signal(object)
    #: The row whose picture with its evidence has come.
    evidence_arrived = Signal(int)

    def __init__(self, viewer: ViewerModel) -> None:
        self._viewer = weakref.ref(viewer)
        self.session, self.annotating = Session.of(viewer), Annotating.of(viewer)
        self.shown = self.session.cells.shown
        lanes = Lanes.of(viewer)
        self.maps = maps = CellMaps(lanes, self.session)
        Activity.of(viewer).follow(
            "Map of cells",
            (maps.changed,),
            maps.cancel,
            lambda: Progress(what="") if maps.running else None,
        )
        self._pictures: OrderedDict[int, Picture] = OrderedDict()
        self._evidence: OrderedDict[int, Picture] = OrderedDict()
        self._look: Look | None = None
        self._of: npt.NDArray[np.float32] | None = None
        self._cutting = lanes.add(
            stream_pictures, given=self._take_pictures, failed=self._fail, busy="replace"
        )
        self._looking = lanes.add(draw_evidence, given=self._take_evidence, failed=self._fail)

    # -- opening and closing

    def _following(self) -> list[tuple[Any, Any]]:
        return [
            (self.session.cells.results_changed, self._follow_results),
            (self.annotating.changed, self._follow_annotations),
        ]

    def _first_opened(self) -> None:
        self._follow_annotations()

    def _last_closed(self) -> None:
        self.maps.forget()
        close_all((self._cutting, self._looking, self.maps.lane))
        self._forget_pictures()

    def _follow_results(self, results: Predictions | None) -> None:
        if results is None or results.probabilities is not self._of:
            self._forget_pictures()
        self._follow_annotations()

    def _follow_annotations(self) -> None:
        results = self.session.cells.results
        if results is not None:
            self.shown.set_annotated(self.annotating.targets.labels_of(results))

    # -- classes

    def group_of(self, row: int) -> str:
        """Return the class that a cell goes by: the one it was given, or else the model's."""
        return self.shown.annotated.get(row) or plain_name(self.shown.class_of(row))

    def groups(self) -> dict[str, npt.NDArray[np.intp]]:
        """Return the rows that are shown, in order, by the class that they go by.

        All classes are there, also those of no cell, as each can be given; last
        the cells that have none.
        """
        shown, results = self.shown, self.shown.results
        names = list(self.annotating.classes.names)
        if results is None:
            return {}
        own = [plain_name(name) for name in results.class_names]
        names = list(dict.fromkeys([*names, *own, *shown.annotated.values(), ""]))
        place = {name: i for i, name in enumerate(names)}
        of_class = np.array([*(place[name] for name in own), place[""]], np.intp)
        group = of_class[results.class_index]
        for row, label in shown.annotated.items():
            group[row] = place[label]
        rows = shown.rows
        sorted_ = np.argsort(group[rows], kind="stable")
        ends = np.searchsorted(group[rows][sorted_], np.arange(len(names) + 1))
        found = {name: rows[sorted_[ends[i] : ends[i + 1]]] for i, name in enumerate(names)}
        if not len(found[""]):
            del found[""]
        return found

    def colour_of(self, name: str) -> str | None:
        """Return the colour of a class; None where it has none."""
        results = self.shown.results
        own = (
            {}
            if results is None
            else dict(zip(map(plain_name, results.class_names), self.shown.colours, strict=True))
        )
        return {**own, **self.annotating.classes.colours}.get(name)

    def give(self, rows: Sequence[int], label: str) -> None:
        """Give cells a class, as one change that can be undone."""
        if len(rows) and label:
            self.annotating.give_rows([int(row) for row in rows], label)

    def press_key(self, key: str) -> bool:
        """Do what a key does: that of a class is about the cells that are picked here."""
        names = self.annotating.classes.names
        number = (int(key) - 1) % 10 if key.isdigit() and len(key) == 1 else len(names)
        if number < len(names) and len(self.shown.picked):
            self.give(self.shown.picked.tolist(), names[number])
            return True
        return self.annotating.press_key(key, on_layers=False)

    # -- pictures

    def picture(self, row: int) -> Picture | None:
        """Return the picture of a cell, if it is there."""
        found = self._pictures.get(row)
        if found is not None:
            self._pictures.move_to_end(row)
        return found

    def ask_pictures(self, rows: Sequence[int]) -> None:
        """Have cells cut that have no picture yet, instead of those asked for before.

        Parameters
        ----------
        rows : sequence of int
            Those that are seen first.
        """
        look, results = self._look_now(), self.session.cells.results
        if look is None or results is None:
            return
        missing = [int(row) for row in rows if row not in self._pictures][:_MOST_PICTURES]
        if not missing:
            self._cutting.cancel()
            return
        centres = results.cells.centres[missing]
        request = PicturesRequest(look, tuple(missing), centres, PICTURE_SIZE)
        self._cutting.ask(request, _SETTLE_MS)

    def evidence(self, row: int) -> Picture | None:
        """Return the picture of a cell with what decided it, if it is there."""
        return self._evidence.get(row)

    def ask_evidence(self, row: int) -> None:
        """Have a picture made that shows what the model looks at in a cell."""
        look, results, model = self._look_now(), self.session.cells.results, self._model
        if look is None or results is None or model is None or row in self._evidence:
            return
        row_at, column_at = (float(value) for value in results.cells.centres[row])
        request = EvidenceRequest(
            look, row, (row_at, column_at), EVIDENCE_SIZE, model, self.session.crops.locations
        )
        self._looking.ask(request, _HOVER_MS)

    @property
    def _model(self) -> Any:
        """The model that classified the cells, while it is the chosen one."""
        model, results = self.session.selection.model, self.session.cells.results
        if model is None or results is None or results.model_hash != model.bundle.hash:
            return None
        return model

    @property
    def tells_evidence(self) -> bool:
        """Whether the model that classified the cells is at hand, to say what it looks at."""
        return self._model is not None

    def _look_now(self) -> Look | None:
        """Return how the cells are cut and shown; pictures made otherwise are dropped."""
        session = self.session
        image, plane = session.selection.image, session.cells.result_plane
        results = session.cells.results
        if image is None or plane is None or results is None or not len(results):
            return None
        look = Look.of(image, plane, self._side(results))
        if not look.same_as(self._look) or results.probabilities is not self._of:
            self._forget_pictures()
            self._look, self._of = look, results.probabilities
        assert self._look is not None
        return self._look

    def _side(self, results: Predictions) -> float:
        from ...inference.cells import side_of_crops

        image = self.session.selection.image
        card = self.session.selection.card
        known = None if image is None else self.session.selection.settings_of(image).pixel_size
        if card is None or card.takes_slides or card.crop is None:
            return float(2.5 * np.median(results.cells.diameters))
        sides, _ = side_of_crops(known or results.cells.pixel_size, results.cells, card.crop)
        return float(sides[0])

    def _forget_pictures(self) -> None:
        self._cutting.cancel()
        self._looking.cancel()
        self._pictures.clear()
        self._evidence.clear()
        self._look = self._of = None

    def _take_pictures(self, request: PicturesRequest, part: list[tuple[int, Picture]]) -> None:
        if request.look is not self._look:
            return
        for row, picture in part:
            self._pictures[row] = picture
        while len(self._pictures) > _MOST_PICTURES:
            self._pictures.popitem(last=False)
        self.pictures_arrived.emit([row for row, _ in part])

    def _take_evidence(self, request: EvidenceRequest, answer: tuple[int, Picture]) -> None:
        if request.look is not self._look:
            return
        row, picture = answer
        self._evidence[row] = picture
        while len(self._evidence) > _MOST_EVIDENCE:
            self._evidence.popitem(last=False)
        self.evidence_arrived.emit(row)

    def _fail(self, request: Any, error: BaseException) -> None:
        if request.look is self._look:
            self.session.status.fail(error)
