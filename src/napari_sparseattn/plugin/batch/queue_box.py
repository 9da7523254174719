"""The queue of a batch: the state of each file, and the buttons that work on it."""

from __future__ import annotations

from typing import Any

from qtpy.QtCore import QAbstractTableModel, QModelIndex, Qt, Signal
from qtpy.QtGui import QColor, QKeyEvent, QResizeEvent
from qtpy.QtWidgets import (
    QAbstractItemView,
    QCheckBox,
    QGridLayout,
    QHeaderView,
    QLabel,
    QProgressBar,
    QPushButton,
    QStyledItemDelegate,
    QTableView,
    QVBoxLayout,
    QWidget,
)

from ...batch.run import ItemState
from ..core.messages import seconds_text, time_left
from ..core.status import Progress
from ..widgets.base import Follower
from ..widgets.inks import ink
from ..widgets.rich import WrappedLabel, rich
from .session import Batch

__all__ = ["BatchQueueBox", "QueueModel"]

_EMPTY = (
    "The files will be listed here, each with its state. Those that fail do not stop the others, "
    "and a stopped batch resumes where it was."
)
#: Widths in pixels: of a name cut in its middle, of what is left for a result, around a name.
_LEAST_NAME, _LEAST_RESULT, _PADDING = 110, 110, 14
_COLUMNS = ("file", "state", "result")
_TIPS = (
    "Named from the folder that all files have in common.",
    "Skipped: up to date (verified by size and sha256).",
    "Summary of the result, or why it failed. Double-click or Enter opens image and result.",
)
#: Of a state's word, by `inks.INKS`.
_COLOURS = {"failed": "failed", "running": "running", "done": "done", "skipped": "muted"}


class QueueModel(QAbstractTableModel):
    """A Qt model on the states of a batch; all of them or those that failed."""

    def __init__(self, batch: Batch, parent: QWidget | None = None) -> None:
        super().__init__(parent)
        self._batch, self._box = batch, parent
        self._rows: list[int] = []
        self._only_failed = False
        self.refill()

    def refill(self) -> None:
        """Show other items, or those that failed."""
        self.beginResetModel()
        self._rows = [
            i
            for i, state in enumerate(self._batch.states)
            if not self._only_failed or state.state == "failed"
        ]
        self.endResetModel()

    def show_failed_only(self, on: bool) -> None:
        """Leave out what did not fail."""
        self._only_failed = on
        self.refill()

    def update_item(self, item: int) -> None:
        """Show that an item has changed."""
        if self._only_failed:
            if self._batch.states[item].state == "failed" and item not in self._rows:
                self.refill()
            return
        self.dataChanged.emit(self.index(item, 0), self.index(item, len(_COLUMNS) - 1))

    def item(self, row: int) -> int:
        """Return the item of a row."""
        return self._rows[row]

    def rowCount(self, parent: QModelIndex | None = None) -> int:  # noqa: N802 - Qt's name
        """Return the number of items shown."""
        return 0 if parent is not None and parent.isValid() else len(self._rows)

    def columnCount(self, parent: QModelIndex | None = None) -> int:  # noqa: N802 - Qt's name
        """Return the number of columns."""
        return 0 if parent is not None and parent.isValid() else len(_COLUMNS)

    def headerData(self, section: int, orientation: Any, role: int = 0) -> Any:  # noqa: N802 - Qt's name
        """Return a column's name."""
        if orientation != Qt.Orientation.Horizontal or section >= len(_COLUMNS):
            return None
        if role == Qt.ItemDataRole.DisplayRole:
            return _COLUMNS[section]
        return _TIPS[section] if role == Qt.ItemDataRole.ToolTipRole else None

    def data(self, index: QModelIndex, role: int = 0) -> Any:
        """Return what a cell of the table shows."""
        if not index.isValid():
            return None
        state = self._batch.states[self._rows[index.row()]]
        if role == Qt.ItemDataRole.DisplayRole:
            return (_name(state), state.state, _words(state))[index.column()]
        if role == Qt.ItemDataRole.ToolTipRole:
            return rich("\n".join(filter(None, (str(state.item.path), state.found, state.reason))))
        if role == Qt.ItemDataRole.ForegroundRole and index.column() == 1:
            colour = _COLOURS.get(state.state)
            return None if colour is None else QColor(ink(self._box, colour))
        return None


def _name(state: ItemState) -> str:
    """Return the file's name, then its folder: the name is what a narrow column must show."""
    folder, _, name = state.item.key.rpartition("/")
    return f"{name} · {folder}" if folder else name


def _words(state: ItemState) -> str:
    if state.state == "done":
        redone = f" ({state.reason})" if state.reason else ""
        return f"{state.found}, {seconds_text(state.seconds)}{redone}"
    # Most reasons begin with the name of the file, which the row has already.
    reason = state.reason.removeprefix(state.item.path.name).lstrip(": ")
    return state.found if state.state == "skipped" else reason


class _Names(QStyledItemDelegate):
    """Cuts names in their middle: files of one folder often differ at the end."""

    def initStyleOption(self, option: Any, index: QModelIndex) -> None:  # noqa: N802 - Qt's name
        """Choose where to cut."""
        super().initStyleOption(option, index)
        option.textElideMode = Qt.TextElideMode.ElideMiddle


class _Table(QTableView):
    """Tells of Enter, which edits on some systems and opens on others."""

    entered_row = Signal()

    def keyPressEvent(self, event: QKeyEvent) -> None:  # noqa: N802 - Qt's name
        """Take Enter."""
        if event.key() in (Qt.Key.Key_Return, Qt.Key.Key_Enter):
            self.entered_row.emit()
        else:
            super().keyPressEvent(event)


class BatchQueueBox(Follower):
    """Start, cancel, retry; the bar; the queue."""

    def __init__(self, batch: Batch, parent: QWidget | None = None) -> None:
        super().__init__(parent)
        self.batch = batch
        self.start = QPushButton("Start", self)
        self.start.setToolTip(
            "Work on all files. Those whose results are there and right are skipped, so that a "
            "stopped batch resumes."
        )
        self.cancel = QPushButton("Cancel", self)
        self.cancel.setToolTip("Stop at once; what is done is kept.")
        self.retry = QPushButton("Retry failed", self)
        self.retry.setToolTip("Work once more on the files that failed.")
        self.bar = QProgressBar(self)
        self.left = QLabel(self)
        self.failed_only = QCheckBox("Failed only", self)
        self.failed_only.setToolTip("Leave the other files out of the table.")
        self.show_result = QPushButton("Show result", self)
        self.show_result.setToolTip(
            "Open the image of the chosen row with its results; so do a double click and Enter."
        )
        self.empty = WrappedLabel(_EMPTY, self)
        self.detail = WrappedLabel(parent=self)
        self.detail.setObjectName("card")
        self.detail.setTextInteractionFlags(Qt.TextInteractionFlag.TextSelectableByMouse)
        self.model = QueueModel(batch, self)
        self.table = self._table()
        self._lay_out()
        self.start.clicked.connect(self._start)
        self.cancel.clicked.connect(batch.cancel)
        self.retry.clicked.connect(self._retry)
        self.failed_only.toggled.connect(self._filter)
        self.show_result.clicked.connect(self._open_chosen)
        self.table.doubleClicked.connect(self._open)
        self.table.entered_row.connect(self._open_chosen)
        self.table.selectionModel().selectionChanged.connect(self._enable)
        self.follow(batch.items_changed, self._refill)
        self.follow(batch.item_changed, self._update_item)
        self.follow(batch.progress_changed, self._show_progress)
        self.follow(batch.changed, self._enable)
        self.follow(batch.session.selection.model_changed, self._enable)
        self._refill()
        self._show_progress(Progress(what="files") if batch.running else None)

    def _table(self) -> _Table:
        table = _Table(self)
        table.setAccessibleName("Files of the batch")
        table.setModel(self.model)
        table.setSelectionBehavior(QAbstractItemView.SelectionBehavior.SelectRows)
        table.setSelectionMode(QAbstractItemView.SelectionMode.SingleSelection)
        table.setEditTriggers(QAbstractItemView.EditTrigger.NoEditTriggers)
        table.setTextElideMode(Qt.TextElideMode.ElideRight)
        table.setItemDelegateForColumn(0, _Names(table))
        table.setWordWrap(False)
        table.setShowGrid(False)
        table.setMinimumHeight(260)
        table.verticalHeader().hide()
        table.verticalHeader().setDefaultSectionSize(22)
        header = table.horizontalHeader()
        header.setMinimumSectionSize(20)
        header.resizeSection(1, header.fontMetrics().horizontalAdvance("skipped") + 14)
        header.setSectionResizeMode(2, QHeaderView.ResizeMode.Stretch)
        header.setDefaultAlignment(Qt.AlignmentFlag.AlignLeft | Qt.AlignmentFlag.AlignVCenter)
        return table

    def _lay_out(self) -> None:
        grid = QGridLayout()
        grid.addWidget(self.start, 0, 0)
        grid.addWidget(self.cancel, 0, 0)
        grid.addWidget(self.retry, 0, 1)
        grid.addWidget(self.bar, 1, 0)
        grid.addWidget(self.left, 1, 1)
        grid.setColumnStretch(0, 1)
        grid.setColumnStretch(1, 1)
        below = QGridLayout()
        below.addWidget(self.failed_only, 0, 0)
        below.addWidget(self.show_result, 0, 1)
        below.setColumnStretch(0, 1)
        below.setColumnStretch(1, 1)
        column = QVBoxLayout(self)
        column.setContentsMargins(0, 4, 0, 4)
        column.addLayout(grid)
        column.addWidget(self.empty)
        column.addWidget(self.table, 1)
        column.addWidget(self.detail)
        column.addLayout(below)

    def _find_chosen(self) -> int | None:
        """Return the item of the row that is selected."""
        rows = self.table.selectionModel().selectedRows()
        return self.model.item(rows[0].row()) if rows else None

    def _filter(self, on: bool) -> None:
        self.model.show_failed_only(on)
        self._enable()

    def _refill(self) -> None:
        self.model.refill()
        self._fit_names()
        self._enable()

    def _fit_names(self) -> None:
        """Give the names what they need, as far as something is left for the results."""
        table, metrics = self.table, self.table.fontMetrics()
        names = (_name(state) for state in self.batch.states)
        needed = max(map(metrics.horizontalAdvance, names), default=0) + _PADDING
        room = table.viewport().width() - table.columnWidth(1) - _LEAST_RESULT
        table.setColumnWidth(0, max(_LEAST_NAME, min(needed, room)))

    def resizeEvent(self, event: QResizeEvent | None) -> None:  # noqa: N802 - Qt's name
        """Give the names what they need."""
        super().resizeEvent(event)
        self._fit_names()

    def _update_item(self, item: int) -> None:
        self.model.update_item(item)
        if item == self._find_chosen():
            self._enable()

    def _enable(self, *_: object) -> None:
        batch, chosen = self.batch, self._find_chosen()
        idle = not batch.running and not batch.searching
        failed = any(state.state == "failed" for state in batch.states)
        self.start.setEnabled(idle and bool(batch.states))
        self.start.setVisible(not batch.running)
        self.cancel.setVisible(batch.running)
        self.retry.setEnabled(idle and failed)
        self.show_result.setEnabled(chosen is not None and batch.can_open(chosen))
        self.empty.setVisible(not batch.states)
        for widget in (self.table, self.failed_only, self.show_result):
            widget.setVisible(bool(batch.states))
        state = None if chosen is None else batch.states[chosen]
        words = "" if state is None else "\n".join(filter(None, (state.found, state.reason)))
        self.detail.setText(words)
        self.detail.setVisible(bool(words))

    def _show_progress(self, progress: Progress | None) -> None:
        for widget in (self.bar, self.left):
            widget.setVisible(progress is not None)
        self._enable()
        if progress is None:
            return
        # A range of 0 to 0 is Qt's way of saying "busy, unknown how long".
        self.bar.setRange(0, progress.total)
        self.bar.setValue(progress.done)
        what = progress.what.removesuffix("s") if progress.total == 1 else progress.what
        self.bar.setFormat(f"{progress.done} of {progress.total} {what}")
        left = progress.seconds_left
        self.left.setText("" if left is None else time_left(left))

    def _start(self) -> None:
        self.batch.start()

    def _retry(self) -> None:
        self.batch.retry_failed()

    def _open(self, index: QModelIndex) -> None:
        self.batch.open_row(self.model.item(index.row()))

    def _open_chosen(self) -> None:
        if (chosen := self._find_chosen()) is not None:
            self.batch.open_row(chosen)
