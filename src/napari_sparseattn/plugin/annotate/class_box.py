"""The classes of a project: names, keys, colours, counts; a click does what the key does."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from qtpy.QtCore import QPoint, QSize, Qt
from qtpy.QtGui import QColor, QIcon, QPainter, QPixmap
from qtpy.QtWidgets import (
    QAbstractItemView,
    QColorDialog,
    QHBoxLayout,
    QHeaderView,
    QLineEdit,
    QMenu,
    QPushButton,
    QSizePolicy,
    QTableWidget,
    QTableWidgetItem,
    QVBoxLayout,
    QWidget,
)

from ...card import readable_name
from ..widgets.base import Follower
from .classes import MOST_LETTERS, key_of

if TYPE_CHECKING:
    from .session import Annotating

__all__ = ["ClassBox", "swatch"]

_KEY, _NAME, _HERE, _ALL = range(4)
_TITLES = ("key", "class", "here", "total")
_TITLE_TIPS = (
    "Press it in the image or in a list.",
    "Double-click to rename.",
    "Annotations in the chosen image.",
    "Annotations in all images of the project.",
)
_ROW, _SWATCH, _MOST_ROWS = 24, 12, 10


class ClassBox(Follower):
    """A table of classes, and what to change it with."""

    def __init__(self, annotating: Annotating, parent: QWidget | None = None) -> None:
        super().__init__(parent)
        self.annotating = annotating
        self._names: list[str] = []
        self._filling = False
        self.table = QTableWidget(0, len(_TITLES), self)
        self.name = QLineEdit(self)
        self.name.setAccessibleName("New class")
        self.name.setPlaceholderText("New class…")
        self.name.setMaxLength(MOST_LETTERS)
        self.name.setToolTip("Name of a class to add; Enter adds it.")
        self.add = QPushButton("Add", self)
        self.add.setAccessibleName("Add the class")
        self.add.setToolTip("Adds the class to the list and makes it the current one.")
        self.more = QPushButton("Change", self)
        self.more.setAccessibleName("Change the class")
        self.more.setToolTip("Renames, recolours or removes the current class.")
        self.menu = QMenu(self.more)
        self.menu.addAction("Rename", self._rename)
        self.menu.addAction("Colour…", self.choose_colour)
        self.menu.addAction("Remove", self._remove)
        self.more.setMenu(self.menu)
        self._dress_table()
        self.setSizePolicy(QSizePolicy.Policy.Preferred, QSizePolicy.Policy.Fixed)
        row = QHBoxLayout()
        row.addWidget(self.name, 1)
        row.addWidget(self.add)
        row.addWidget(self.more)
        column = QVBoxLayout(self)
        column.setContentsMargins(0, 0, 0, 0)
        column.addWidget(self.table)
        column.addLayout(row)
        for by in (self.table.cellClicked, self.table.cellActivated):
            by.connect(self._give_row)
        self.table.currentCellChanged.connect(self._choose_row)
        self.table.itemChanged.connect(self._rename_row)
        self.table.customContextMenuRequested.connect(self._show_menu)
        self.name.returnPressed.connect(self._add)
        self.add.clicked.connect(self._add)
        self.follow(annotating.changed, self.refresh)
        self.refresh()

    def _dress_table(self) -> None:
        table = self.table
        for i, title in enumerate(_TITLES):
            item = QTableWidgetItem(title)
            item.setToolTip(_TITLE_TIPS[i])
            table.setHorizontalHeaderItem(i, item)
        table.setAccessibleName("Classes")
        table.verticalHeader().hide()
        table.verticalHeader().setDefaultSectionSize(_ROW)
        table.setShowGrid(False)
        table.setSelectionBehavior(QAbstractItemView.SelectionBehavior.SelectRows)
        table.setSelectionMode(QAbstractItemView.SelectionMode.SingleSelection)
        table.setEditTriggers(QAbstractItemView.EditTrigger.DoubleClicked)
        table.setIconSize(QSize(_SWATCH, _SWATCH))
        table.setContextMenuPolicy(Qt.ContextMenuPolicy.CustomContextMenu)
        table.setHorizontalScrollBarPolicy(Qt.ScrollBarPolicy.ScrollBarAlwaysOff)
        header = table.horizontalHeader()
        header.setMinimumSectionSize(20)
        header.setSectionResizeMode(QHeaderView.ResizeMode.ResizeToContents)
        header.setSectionResizeMode(_NAME, QHeaderView.ResizeMode.Stretch)

    def refresh(self, _: object = None) -> None:
        """Show the classes and their counts."""
        annotating = self.annotating
        names, colours = annotating.classes.names, annotating.classes.colours
        here, every = annotating.files.counts_here, annotating.files.counts
        self._filling = True
        self._names = list(names)
        self.table.setRowCount(len(names))
        for row, name in enumerate(names):
            self._set(row, _KEY, key_of(row), editable=False)
            self._set(row, _NAME, readable_name(name), colour=colours[name])
            self._set(row, _HERE, _number(here.get(name, 0)), editable=False)
            self._set(row, _ALL, _number(every.get(name, 0)), editable=False)
        current = annotating.classes.current
        if current:
            self.table.setCurrentCell(names.index(current), _NAME)
        else:
            self.table.clearSelection()
        self._filling = False
        self.table.setVisible(bool(names))
        self.more.setEnabled(bool(names))
        rows = min(len(names), _MOST_ROWS)
        height = self.table.horizontalHeader().sizeHint().height() + rows * _ROW + 4
        self.table.setFixedHeight(height)

    def _set(
        self, row: int, column: int, text: str, colour: str = "", *, editable: bool = True
    ) -> None:
        item = self.table.item(row, column)
        if item is None:
            item = QTableWidgetItem()
            self.table.setItem(row, column, item)
            if not editable:
                item.setFlags(item.flags() & ~Qt.ItemFlag.ItemIsEditable)
            if column != _NAME:
                item.setTextAlignment(Qt.AlignmentFlag.AlignCenter)
        if item.text() != text:
            item.setText(text)
        if colour and item.data(Qt.ItemDataRole.UserRole) != colour:
            item.setData(Qt.ItemDataRole.UserRole, colour)
            item.setIcon(swatch(colour))
        key = f"Key {key_of(row)} or a click" if key_of(row) else "A click"
        item.setToolTip(
            f"{key} gives this class to the selected annotations or the cell clicked last, else to "
            "new ones. Arrow keys choose the class of new ones."
        )

    def _give_row(self, row: int, column: int) -> None:
        self.annotating.give(self._names[row])

    def _choose_row(self, row: int, *_: int) -> None:
        """Follow the arrow keys."""
        if not self._filling and 0 <= row < len(self._names):
            self.annotating.classes.choose(self._names[row])

    def _rename_row(self, item: Any) -> None:
        if not self._filling and item.column() == _NAME:
            old, new = self._names[item.row()], item.text().strip()
            # What is shown of a name is not the name.
            self.annotating.rename_class(old, old if new == readable_name(old) else new)
            # Where it was not renamed, the old name comes back.
            self.refresh()

    def _add(self) -> None:
        self.annotating.classes.add(self.name.text())
        self.name.clear()

    def _rename(self) -> None:
        row = self.table.currentRow()
        if row >= 0:
            self.table.editItem(self.table.item(row, _NAME))

    def choose_colour(self) -> None:
        """Let the user choose the colour of the current class; nothing waits for it."""
        classes = self.annotating.classes
        name = classes.current
        dialog = QColorDialog(QColor(classes.colours[name]), self)
        dialog.setWindowTitle(f"Colour of {readable_name(name)}")
        dialog.setAttribute(Qt.WidgetAttribute.WA_DeleteOnClose)

        def chosen(colour: QColor) -> None:
            classes.recolour(name, colour.name().upper())

        dialog.colorSelected.connect(chosen)
        dialog.show()

    def _remove(self) -> None:
        self.annotating.remove_class(self.annotating.classes.current)

    def _show_menu(self, at: QPoint) -> None:
        row = self.table.rowAt(at.y())
        if row >= 0:
            self.annotating.classes.choose(self._names[row])
            self.menu.popup(self.table.viewport().mapToGlobal(at))


def swatch(colour: str) -> QIcon:
    """Return a square of a colour."""
    pixmap = QPixmap(2 * _SWATCH, 2 * _SWATCH)
    pixmap.fill(Qt.GlobalColor.transparent)
    painter = QPainter(pixmap)
    painter.setRenderHint(QPainter.RenderHint.Antialiasing)
    painter.setBrush(QColor(colour))
    painter.setPen(Qt.PenStyle.NoPen)
    painter.drawRoundedRect(pixmap.rect(), 5, 5)
    painter.end()
    icon = QIcon(pixmap)
    # Qt would tint it in the row that is selected.
    icon.addPixmap(pixmap, QIcon.Mode.Selected)
    return icon


def _number(count: int) -> str:
    return str(count) if count else "–"
