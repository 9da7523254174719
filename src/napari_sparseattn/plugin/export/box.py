"""Export: which formats, where to, and what was written."""

from __future__ import annotations

from html import escape
from pathlib import Path

from qtpy.QtCore import Qt, QUrl
from qtpy.QtWidgets import (
    QCheckBox,
    QComboBox,
    QFileDialog,
    QGridLayout,
    QHBoxLayout,
    QLabel,
    QLineEdit,
    QProgressBar,
    QPushButton,
    QVBoxLayout,
    QWidget,
)

from ..core.messages import Progress
from ..widgets.base import Follower, shrinkable
from .jobs import ExportJobs
from .session import Exporting, Thing

__all__ = ["ExportBox"]

_EMPTY = (
    "Classify all cells, a field or a slide: what was found can then be written for QuPath, "
    "Python and people."
)
_MOST_NAMES = 3
#: Legible on napari's dark theme and on its light one.
_LINK = "#4c9be8"


class ExportBox(Follower):
    """Ticks for the formats, the folder, and a button.

    Parameters
    ----------
    exporting : Exporting
        Outlives the widget.
    parent : QWidget, optional
        The dock.
    """

    def __init__(self, exporting: Exporting, parent: QWidget | None = None) -> None:
        super().__init__(parent)
        self.exporting = exporting
        self.jobs = ExportJobs(exporting)
        self.empty = _wrapped(_EMPTY, self)
        self.things = shrinkable(QComboBox(self))
        self.things.setToolTip("Which result to write.")
        self.body = QWidget(self)
        self.boxes: dict[str, QCheckBox] = {}
        self._grid = QGridLayout()
        self.missing = _wrapped("", self)
        self.missing.setObjectName("hint")
        self.missing.setTextInteractionFlags(Qt.TextInteractionFlag.TextSelectableByMouse)
        self.folder = QLineEdit(self)
        self.folder.setReadOnly(True)
        self.folder.setToolTip("The folder that files are written to. Nothing there is replaced.")
        self.choose = QPushButton("Folder…", self)
        self.choose.setToolTip("Choose the folder that files are written to.")
        self.export = QPushButton("Export", self)
        self.export.setToolTip("Write the ticked formats; files that are there get other names.")
        self.cancel = QPushButton("Cancel", self)
        self.cancel.setToolTip("Stop writing; files that are finished stay.")
        self.bar = QProgressBar(self)
        self.written = _wrapped("", self)
        self.written.setTextInteractionFlags(Qt.TextInteractionFlag.TextBrowserInteraction)
        self.written.setOpenExternalLinks(True)
        self._lay_out()
        self.things.currentIndexChanged.connect(self._show_formats)
        self.choose.clicked.connect(self._choose_folder)
        self.export.clicked.connect(self._export)
        self.cancel.clicked.connect(exporting.cancel)
        self.follow(exporting.changed, self.show_things)
        self.follow(exporting.progress_changed, self.show_progress)
        self.follow(exporting.written_changed, self.show_written)
        exporting.attach()
        self.show_things()
        self.show_progress(Progress(0, 0) if exporting.running else None)
        self.show_written()

    def release(self) -> None:
        """Stop the work, and disconnect."""
        super().release()
        self.jobs.close()
        self.exporting.detach()

    def _lay_out(self) -> None:
        where = QHBoxLayout()
        where.addWidget(self.folder, 1)
        where.addWidget(self.choose)
        act = QHBoxLayout()
        act.addWidget(self.bar, 1)
        act.addWidget(self.export, 1)
        act.addWidget(self.cancel)
        inner = QVBoxLayout(self.body)
        inner.setContentsMargins(0, 0, 0, 0)
        inner.addWidget(self.things)
        inner.addLayout(self._grid)
        inner.addWidget(self.missing)
        inner.addLayout(where)
        inner.addLayout(act)
        column = QVBoxLayout(self)
        column.setContentsMargins(0, 0, 0, 0)
        for widget in (self.empty, self.body, self.written):
            column.addWidget(widget)

    # -- what there is

    def show_things(self) -> None:
        """Show the results that can be written."""
        things = self.exporting.things()
        self.empty.setVisible(not things)
        self.body.setVisible(bool(things))
        titles = [thing.title for thing in things]
        if titles != [self.things.itemText(i) for i in range(self.things.count())]:
            self.things.blockSignals(True)
            self.things.clear()
            self.things.addItems(titles)
            self.things.blockSignals(False)
        self._show_formats()

    def _thing(self) -> Thing | None:
        things, number = self.exporting.things(), self.things.currentIndex()
        return things[number] if 0 <= number < len(things) else None

    def _show_formats(self, _: int = 0) -> None:
        thing = self._thing()
        if thing is None:
            return
        fitting = self.exporting.formats(thing)
        for box in self.boxes.values():
            self._grid.removeWidget(box)
            box.hide()
        for place, each in enumerate(fitting):
            box = self.boxes.get(each.name) or self._made(each.name, each.title)
            box.setEnabled(not each.missing)
            box.setToolTip(each.missing or each.tip)
            box.blockSignals(True)
            box.setChecked(each.name in self.exporting.chosen and not each.missing)
            box.blockSignals(False)
            self._grid.addWidget(box, place // 2, place % 2)
            box.show()
        lacking = [each for each in fitting if each.missing]
        self.missing.setVisible(bool(lacking))
        if lacking:
            names = ", ".join(each.title for each in lacking)
            command = lacking[0].missing.partition(": ")[2]
            self.missing.setText(f"For {names}, type in a terminal: {command}")
        folder = self.exporting.default_folder(thing)
        self.folder.setText(str(folder))
        self.folder.setCursorPosition(len(str(folder)))
        self.export.setEnabled(bool(self.exporting.ticked(thing)))

    def _made(self, name: str, title: str) -> QCheckBox:
        box = self.boxes[name] = QCheckBox(title, self)
        box.toggled.connect(lambda on: self.exporting.choose(name, on))
        return box

    # -- what is done

    def _choose_folder(self) -> None:
        chosen = QFileDialog.getExistingDirectory(self, "Export to", self.folder.text())
        if chosen:
            self.exporting.set_folder(Path(chosen))

    def _export(self) -> None:
        self.exporting.export(self.things.currentIndex())

    def show_progress(self, progress: Progress | None) -> None:
        """Show how far the work is; None when there is none."""
        busy = progress is not None
        for widget in (self.bar, self.cancel):
            widget.setVisible(busy)
        self.export.setVisible(not busy)
        if progress is not None:
            # A range of 0 to 0 is Qt's way of saying "busy, unknown how long".
            self.bar.setRange(0, progress.total)
            self.bar.setValue(progress.done)
            self.bar.setFormat(f"{progress.what} %p%" if progress.total else progress.what)

    def show_written(self) -> None:
        """Say what was written, with a link to its folder."""
        files = self.exporting.written
        self.written.setVisible(bool(files))
        if not files:
            return
        names = ", ".join(escape(path.name) for path in files[:_MOST_NAMES])
        more = f" and {len(files) - _MOST_NAMES} more" if len(files) > _MOST_NAMES else ""
        address = QUrl.fromLocalFile(str(files[0].parent)).toString()
        self.written.setText(
            f"Written: {names}{more}. <a style='color:{_LINK}' "
            f"href='{escape(address, quote=True)}'>Open the folder</a>"
        )
        self.written.setToolTip("\n".join(map(str, files)))


def _wrapped(text: str, parent: QWidget) -> QLabel:
    label = QLabel(text, parent)
    label.setWordWrap(True)
    return label
