"""The gallery: a wall of pictures by class, the classes beside it, and in which order."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt
from qtpy.QtCore import QPoint, QSize, Qt, Signal
from qtpy.QtGui import QDragMoveEvent, QDropEvent, QIcon
from qtpy.QtWidgets import (
    QComboBox,
    QLabel,
    QListWidget,
    QListWidgetItem,
    QMenu,
    QSplitter,
    QVBoxLayout,
    QWidget,
)

from ...card import readable_name
from ..annotate.class_box import swatch
from ..annotate.classes import key_of
from ..cells.columns import CONFIDENCE, EVIDENCE, NOVELTY
from ..widgets.base import shrinkable
from ..widgets.keys import KeyFilter
from .filter_bar import NOT_CLASSIFIED, UNCLASSIFIED_COLOUR, FilterBar
from .frame import SeenFollower
from .session import Population
from .wall import MIME, Wall, rows_of

__all__ = ["ClassTargets", "GalleryBox", "fill_class_menu"]

_EMPTY = (
    "Classify all, in the dock Sparse attention, fills this gallery. Drag a picture to another "
    "class, or press its key, to correct it."
)
#: Of the list of classes, until the user has moved its edge.
_WIDEST_LIST = 240
_NAME = Qt.ItemDataRole.UserRole
_SORTINGS = (
    ("by number", ("", False)),
    ("least sure first", (CONFIDENCE, False)),
    ("most sure first", (CONFIDENCE, True)),
    ("most unlike first", (NOVELTY, True)),
    ("least unlike first", (NOVELTY, False)),
    ("most faithful first", (EVIDENCE, True)),
    ("least faithful first", (EVIDENCE, False)),
)


class ClassTargets(QListWidget):
    """The classes with their keys and counts: a click goes there, a drop gives the class.

    Signals
    -------
    dropped : (list of int, str)
        Rows were dragged to a class.
    """

    dropped = Signal(list, str)

    def __init__(self, parent: QWidget | None = None) -> None:
        super().__init__(parent)
        self.setAcceptDrops(True)
        self.setIconSize(QSize(12, 12))
        self.setMinimumSize(110, 60)
        self.setHorizontalScrollBarPolicy(Qt.ScrollBarPolicy.ScrollBarAlwaysOff)
        self.setAccessibleName("Classes")
        self.setToolTip(
            "Drop cells here to give them the class; a click goes to its cells. The key before a "
            "class gives it to the cells that are picked."
        )
        self._icons: dict[str, QIcon] = {}

    def set_classes(self, classes: list[tuple[str, str, str, int]]) -> None:
        """Show (name, key, colour, number of cells)."""
        current = self.currentItem()
        name_then = None if current is None else current.data(_NAME)
        while self.count() > len(classes):
            self.takeItem(self.count() - 1)
        for i, (name, key, colour, number) in enumerate(classes):
            item = self.item(i)
            if item is None:
                item = QListWidgetItem(self)
            words = readable_name(name) or NOT_CLASSIFIED
            item.setText(f"{key:1}  {words}  {number}".strip() if key else f"{words}  {number}")
            item.setData(_NAME, name)
            item.setToolTip(words)
            if colour not in self._icons:
                self._icons[colour] = swatch(colour)
            item.setIcon(self._icons[colour])
            if name == name_then:
                self.setCurrentItem(item)

    def name_at(self, at: QPoint) -> str:
        """Return the class at a place of the list, or nothing."""
        item = self.itemAt(at)
        return "" if item is None else str(item.data(_NAME))

    def dragEnterEvent(self, event: QDropEvent) -> None:  # noqa: N802 - Qt's name
        """Take cells."""
        if event.mimeData().hasFormat(MIME):
            event.acceptProposedAction()

    def dragMoveEvent(self, event: QDragMoveEvent) -> None:  # noqa: N802 - Qt's name
        """Light up the class that they would be given."""
        item = self.itemAt(event.position().toPoint())
        if item is not None and item.data(_NAME):
            self.setCurrentItem(item)
            event.acceptProposedAction()
        else:
            event.ignore()

    def dropEvent(self, event: QDropEvent) -> None:  # noqa: N802 - Qt's name
        """Give cells the class that they were dropped on."""
        name, rows = self.name_at(event.position().toPoint()), rows_of(event.mimeData())
        if name and rows:
            event.acceptProposedAction()
            self.dropped.emit(rows, name)


class GalleryBox(SeenFollower):
    """Follows `Population`, which cuts the pictures and gives the classes."""

    def __init__(self, population: Population, parent: QWidget | None = None) -> None:
        super().__init__(parent)
        self.population, self.shown = population, population.shown
        self.empty = QLabel(_EMPTY, self)
        self.empty.setWordWrap(True)
        self.filter_bar = FilterBar(self.shown, self)
        self.sorting = shrinkable(QComboBox(self))
        self.sorting.setToolTip(
            "In which order the cells of each class are, here and in the table."
        )
        self.sorting.setMinimumWidth(140)
        self.sorting.setAccessibleName("Order of the cells")
        self.filter_bar.add(self.sorting)
        self.targets = ClassTargets(self)
        self.wall = Wall(population, self)
        self.menu = QMenu(self)
        self._classes: tuple[tuple[str, ...], tuple[str, ...]] = ((), ())
        split = QSplitter(Qt.Orientation.Horizontal, self)
        split.addWidget(self.targets)
        split.addWidget(self.wall)
        split.setStretchFactor(1, 1)
        split.setChildrenCollapsible(True)
        self._split, self._wide = split, 0
        column = QVBoxLayout(self)
        column.setContentsMargins(0, 0, 0, 0)
        column.setSpacing(2)
        column.addWidget(self.empty)
        column.addWidget(self.filter_bar)
        column.addWidget(split, 1)
        self.keys = KeyFilter(population.annotating.keys, self._press_key, self)
        for widget in (self.wall, self.targets):
            widget.installEventFilter(self.keys)
        self.wall.gone_to.connect(population.session.cells.click_cell)
        self.wall.dropped.connect(population.give)
        self.wall.menu_wanted.connect(self._show_menu)
        self.targets.dropped.connect(population.give)
        for by in (self.targets.itemClicked, self.targets.itemActivated):
            by.connect(self._go_to_class)
        self.sorting.activated.connect(self._sort)
        self.follow_seen(self.shown.changed, self.refresh)
        self.follow_seen(self.shown.picked_changed, self._show_picked)
        self.follow_seen(population.annotating.changed, self._follow_classes)
        self.follow(population.pictures_arrived, self._show_pictures)
        self.follow(population.evidence_arrived, self.wall.show_evidence)
        self.refresh()

    def release(self) -> None:
        """Disconnect."""
        super().release()
        self.filter_bar.release()
        self.keys.stop()

    def refresh(self) -> None:
        """Show other cells, or the same in another order."""
        there = self.shown.results is not None
        self.empty.setVisible(not there)
        for widget in (self.filter_bar, self._split):
            widget.setVisible(there)
        groups = self.population.groups()
        self.wall.set_groups(groups)
        self._show_classes(groups)
        self._show_sortings()

    def _follow_classes(self) -> None:
        """Show other classes; what is in them is told by `ShownCells`."""
        annotating = self.population.annotating
        seen = (annotating.classes.names, tuple(annotating.classes.colours.values()))
        if seen != self._classes:
            self._classes = seen
            self._show_classes(self.population.groups())

    def _show_classes(self, groups: dict[str, npt.NDArray[np.intp]]) -> None:
        names = self.population.annotating.classes.names
        keys = {name: key_of(i) for i, name in enumerate(names)}
        classes = []
        for name, rows in groups.items():
            colour = self.population.colour_of(name) or UNCLASSIFIED_COLOUR
            classes.append((name, keys.get(name, ""), colour, len(rows)))
        self.targets.set_classes(classes)
        if not self._wide:
            self._wide = min(self.targets.sizeHintForColumn(0) + 24, _WIDEST_LIST)
            self._split.setSizes([self._wide, 2000])
        self.wall.viewport().update()

    def _show_sortings(self) -> None:
        shown = self.shown
        wanted = [
            (words, sorting)
            for words, sorting in _SORTINGS
            if not sorting[0] or shown.column(sorting[0]) is not None
        ]
        if shown.sorting not in [sorting for _, sorting in wanted]:
            column = shown.column(shown.sorting[0])
            title = "" if column is None else column.title
            wanted.append((f"as in the table: {title}", shown.sorting))
        self.sorting.clear()
        for words, sorting in wanted:
            self.sorting.addItem(words, sorting)
        self.sorting.setCurrentIndex([sorting for _, sorting in wanted].index(shown.sorting))

    def _show_picked(self) -> None:
        self.wall.show_picked()
        current = self.shown.current
        if current is not None and not self.wall.hasFocus():
            self.wall.show_row(current)

    def _show_pictures(self, _: list[int]) -> None:
        self.wall.viewport().update()

    # -- what the user does

    def _sort(self, index: int) -> None:
        key, descending = self.sorting.itemData(index)
        self.shown.sort(key, descending=descending)

    def _go_to_class(self, item: QListWidgetItem) -> None:
        self.wall.show_group(item.data(_NAME))

    def _press_key(self, key: str, _: bool) -> bool:
        return self.population.press_key(key)

    def _show_menu(self, at: QPoint) -> None:
        self.menu.clear()
        current = self.shown.current
        if current is not None:
            cells = self.population.session.cells
            self.menu.addAction("Go to this cell", lambda: cells.click_cell(current))
            self.menu.addSeparator()
        fill_class_menu(self.menu, self.population)
        self.menu.popup(at)


def fill_class_menu(menu: QMenu, population: Population) -> None:
    """Offer the classes for the cells that are picked, and to take theirs away."""
    shown, annotating = population.shown, population.annotating
    rows = shown.picked.tolist()
    for i, name in enumerate(annotating.classes.names):
        key = f"  ({key_of(i)})" if key_of(i) else ""
        icon = swatch(population.colour_of(name) or UNCLASSIFIED_COLOUR)
        menu.addAction(
            icon,
            f"Annotate as {readable_name(name)}{key}",
            lambda _=False, name=name: population.give(rows, name),
        )
    given = [row for row in rows if row in shown.annotated]
    if given:
        menu.addSeparator()
        menu.addAction(
            "Remove the annotation" if len(given) == 1 else f"Remove {len(given)} annotations",
            lambda: annotating.targets.remove_rows(given),
        )
