"""How many cells of each class there are, and the buttons that open what shows them all."""

from __future__ import annotations

from qtpy.QtCore import Signal
from qtpy.QtWidgets import QHBoxLayout, QLabel, QPushButton, QVBoxLayout, QWidget

from ...inference.prediction import Predictions
from ..core.docks import is_open, open_dock
from ..core.messages import counted
from ..widgets.base import Follower
from ..widgets.places import was_closed
from ..widgets.rich import breakable, rich
from .task import CellTask

__all__ = ["GALLERY", "MAP", "TABLE", "CountsBox", "count_classes"]

#: The docks, as the menu names them.
TABLE, GALLERY, MAP = "Table of cells", "Gallery of cells", "Map of cells"
_EMPTY = "Classify all counts the cells here, and opens the table of them."
_TIPS = {
    TABLE: "One row per cell: search, sort, filter, copy, export.",
    GALLERY: "Pictures of all cells by class; drag one to another class to correct it.",
    MAP: "Each cell a point: what the model sees alike lies near each other.",
}


class CountsBox(Follower):
    """The numbers of the last run over the image; opens the table when there are new ones."""

    #: Whether the model classifies cells.
    wanted = Signal(bool)

    def __init__(self, cells: CellTask, parent: QWidget | None = None) -> None:
        super().__init__(parent)
        self.cells = cells
        self.empty = QLabel(_EMPTY, self)
        self.empty.setWordWrap(True)
        self.counts = QLabel(self)
        self.counts.setWordWrap(True)
        self.buttons = {
            title: QPushButton(title.split()[0], self) for title in (TABLE, GALLERY, MAP)
        }
        row = QHBoxLayout()
        for title, button in self.buttons.items():
            button.setToolTip(_TIPS[title])
            button.clicked.connect(lambda _=False, title=title: self.open(title))
            row.addWidget(button)
        column = QVBoxLayout(self)
        column.setContentsMargins(0, 0, 0, 0)
        column.addWidget(self.empty)
        column.addWidget(self.counts)
        column.addLayout(row)
        results = cells.results
        self._seen = (
            cells.parts.selection.image,
            None if results is None else results.probabilities,
        )
        self.follow(cells.results_changed, self.show_results)
        self.follow(cells.parts.selection.model_changed, self._show_wanted)
        self._show(cells.results)

    def open(self, title: str) -> QWidget | None:
        """Open one of the docks that show all cells; None where the viewer has no window."""
        viewer = self.cells.parts.selection.viewer
        if getattr(viewer, "window", None) is None:
            return None
        return open_dock(viewer, title)

    def _show_wanted(self, _: object = None) -> None:
        self.wanted.emit(self.cells.parts.advice.cells)

    def show_results(self, predictions: Predictions | None) -> None:
        """Show new counts; of a run that has just ended, the table too."""
        image, before = self.cells.parts.selection.image, self._seen
        probabilities = None if predictions is None else predictions.probabilities
        self._seen = (image, probabilities)
        self._show(predictions)
        # Those of another image that is chosen again are no news, nor is a column more.
        news = before[0] is image and before[1] is not probabilities
        if predictions is not None and news and not was_closed(TABLE):
            viewer = self.cells.parts.selection.viewer
            if not is_open(viewer, TABLE):
                self.open(TABLE)

    def _show(self, predictions: Predictions | None) -> None:
        there = predictions is not None
        self.empty.setVisible(not there)
        for widget in (self.counts, *self.buttons.values()):
            widget.setVisible(there)
        if predictions is not None:
            words = count_classes(predictions, self.cells.result_colours)
            self.counts.setText(words + self._name_others(predictions))

    def _name_others(self, predictions: Predictions) -> str:
        """Say how many of the cells are perhaps none of the classes."""
        card, alike = self.cells.parts.selection.card, predictions.none_of_these
        n = 0 if alike is None else int(alike.sum())
        if not n or card is None or card.novelty is None:
            return ""
        look = "looks" if n == 1 else "look"
        return f"<br>To the model {n} {look} more like {rich(card.novelty.others_text)}"


def count_classes(predictions: Predictions, colours: tuple[str, ...]) -> str:
    """Return the number of cells of each class as rich text, the most frequent first."""
    most_first = sorted(
        zip(predictions.counts().items(), colours, strict=True), key=lambda x: -x[0][1]
    )
    return f"<b>{counted(len(predictions), 'cell')}:</b> " + " &nbsp;".join(
        f"<span style='color:{colour}'>■</span>&nbsp;{rich(breakable(name.replace('_', ' ')))}"
        f"&nbsp;{n}"
        for (name, n), colour in most_first
        if n
    )
