"""What is asked of the cells that are shown: words, classes, probability, being unlike."""

from __future__ import annotations

from qtpy.QtCore import Qt
from qtpy.QtGui import QResizeEvent
from qtpy.QtWidgets import (
    QBoxLayout,
    QCheckBox,
    QHBoxLayout,
    QLabel,
    QLineEdit,
    QMenu,
    QPushButton,
    QScrollArea,
    QVBoxLayout,
    QWidget,
    QWidgetAction,
)

from ...card import readable_name
from ..annotate.class_box import swatch
from ..cells.shown import ShownCells
from .frame import SeenFollower
from .histogram import Histogram

__all__ = ["NOT_CLASSIFIED", "UNCLASSIFIED_COLOUR", "FilterBar"]

NOT_CLASSIFIED, UNCLASSIFIED_COLOUR = "not classified", "#9e9e9e"
#: Narrower than this, the parts lie below each other.
_WIDE = 700
_MOST_LISTED = 320


class FilterBar(SeenFollower):
    """Shows and changes the filter that table, gallery and map have in common.

    Parameters
    ----------
    shown : ShownCells
        What is filtered.
    """

    def __init__(self, shown: ShownCells, parent: QWidget | None = None) -> None:
        super().__init__(parent)
        self.shown = shown
        self.boxes: dict[str, QCheckBox] = {}
        self.search = QLineEdit(self)
        self.search.setPlaceholderText("Search class or number…")
        self.search.setAccessibleName("Search class or number")
        self.search.setClearButtonEnabled(True)
        self.search.setToolTip("Part of the name of a class, or the beginning of a cell's number.")
        self.search.setMinimumWidth(110)
        self.classes = QPushButton("All classes", self)
        self.classes.setAccessibleName("Classes that are shown")
        self.classes.setToolTip("Shows cells that the model gave some of the classes only.")
        self.menu = QMenu(self.classes)
        self.classes.setMenu(self.menu)
        self.flagged = QCheckBox(self)
        self.flagged.setToolTip(
            "Shows the cells that the model flags as unlike those it was trained on, and no "
            "others. They may be none of its classes."
        )
        self.count = QLabel(self)
        self.all = QPushButton("Show all", self)
        self.all.setToolTip("Takes every filter away, in table, gallery and map.")
        self.histogram = Histogram(self)
        first = QHBoxLayout()
        for widget, stretch in ((self.search, 3), (self.classes, 0), (self.flagged, 0)):
            first.addWidget(widget, stretch)
        self._second = second = QHBoxLayout()
        second.addWidget(self.histogram, 1)
        second.addWidget(self.count)
        second.addWidget(self.all)
        self._parts = QBoxLayout(QBoxLayout.Direction.LeftToRight, self)
        self._parts.setContentsMargins(0, 0, 0, 0)
        self._parts.addLayout(first, 3)
        self._parts.addLayout(second, 4)
        self.search.textChanged.connect(self._search)
        self.menu.aboutToShow.connect(self._fill)
        self.flagged.toggled.connect(self._show_flagged)
        self.all.clicked.connect(shown.show_all)
        self.histogram.chosen.connect(self._choose_range)
        self.follow_seen(shown.changed, self.refresh)
        self.refresh()

    def add(self, widget: QWidget) -> None:
        """Put something more at the end of the line."""
        self._second.addWidget(widget)

    def resizeEvent(self, event: QResizeEvent) -> None:  # noqa: N802 - Qt's name
        """Lie in one line, or in two."""
        super().resizeEvent(event)
        way = QBoxLayout.Direction
        self._parts.setDirection(way.LeftToRight if self.width() >= _WIDE else way.TopToBottom)

    def refresh(self) -> None:
        """Show how the filter is."""
        shown, asked = self.shown, self.shown.filter
        if self.search.text().strip() != asked.text.strip():
            self.search.setText(asked.text)
        names = self._names()
        chosen = asked.classes
        if chosen is None:
            self.classes.setText("All classes")
        elif len(chosen) == 1:
            self.classes.setText(_words(next(iter(chosen))))
        else:
            self.classes.setText(f"{len(chosen)} of {len(names)} classes")
        self.flagged.setText(f"Only unlike ({shown.n_flagged})")
        self.flagged.setVisible(shown.n_flagged > 0)
        self.flagged.blockSignals(True)
        self.flagged.setChecked(asked.flagged)
        self.flagged.blockSignals(False)
        self.count.setText(
            f"{len(shown)} of {shown.total} cells" if shown.narrowed else f"{shown.total} cells"
        )
        self.all.setEnabled(shown.narrowed)
        self.histogram.set_range(*asked.confidence)
        if shown.results is not None:
            passing = shown.passing(confidence=False)
            self.histogram.set_values(shown.results.confidence[passing])

    def _names(self) -> list[str]:
        """Classes that there are cells of; the one that is chosen is among them."""
        results = self.shown.results
        if results is None:
            return []
        counts = results.counts()
        found = [name for name in results.class_names if counts[name]]
        return found + ([""] if sum(counts.values()) < len(results) else [])

    def _fill(self) -> None:
        """List the classes, ticked where they are shown; the list stays open while it is ticked."""
        self.menu.clear()
        self.boxes = {}
        shown, listed = self.shown, QWidget()
        column = QVBoxLayout(listed)
        column.setContentsMargins(8, 6, 8, 6)
        column.setSpacing(3)
        chosen = shown.filter.classes
        counts = {} if shown.results is None else shown.results.counts()
        colours = dict(zip(counts, shown.colours, strict=False))
        for name in self._names():
            number = counts.get(name, shown.total - sum(counts.values()))
            box = self.boxes[name] = QCheckBox(f"{_words(name)}  {number}", listed)
            box.setIcon(swatch(colours.get(name, UNCLASSIFIED_COLOUR)))
            box.setChecked(chosen is None or name in chosen)
            box.toggled.connect(self._tick)
            column.addWidget(box)
        for text, on in (("Tick all", True), ("Untick all", False)):
            button = QPushButton(text, listed)
            button.clicked.connect(lambda _=False, on=on: self._tick_all(on))
            column.addWidget(button)
        area = QScrollArea(self.menu)
        area.setWidget(listed)
        area.setWidgetResizable(True)
        area.setHorizontalScrollBarPolicy(Qt.ScrollBarPolicy.ScrollBarAlwaysOff)
        wanted = listed.sizeHint()
        area.setFixedSize(wanted.width() + 24, min(wanted.height() + 4, _MOST_LISTED))
        action = QWidgetAction(self.menu)
        action.setDefaultWidget(area)
        self.menu.addAction(action)

    def _tick_all(self, on: bool) -> None:
        for box in self.boxes.values():
            box.blockSignals(True)
            box.setChecked(on)
            box.blockSignals(False)
        self._tick()

    def _tick(self, _: object = None) -> None:
        ticked = frozenset(name for name, box in self.boxes.items() if box.isChecked())
        self.shown.set_filter(classes=None if len(ticked) == len(self.boxes) else ticked)

    def _search(self, text: str) -> None:
        self.shown.set_filter(text=text)

    def _show_flagged(self, only: bool) -> None:
        self.shown.set_filter(flagged=only)

    def _choose_range(self, low: float, high: float) -> None:
        self.shown.set_filter(confidence=(low, high))


def _words(name: str) -> str:
    return readable_name(name) if name else NOT_CLASSIFIED
