"""Export of results: formats, folder, files; and of the model in use."""

from __future__ import annotations

from functools import partial
from html import escape
from pathlib import Path
from typing import TYPE_CHECKING

from qtpy.QtCore import Qt, QUrl
from qtpy.QtGui import QAction
from qtpy.QtWidgets import (
    QCheckBox,
    QComboBox,
    QFileDialog,
    QGridLayout,
    QHBoxLayout,
    QLabel,
    QLineEdit,
    QMenu,
    QProgressBar,
    QPushButton,
    QVBoxLayout,
    QWidget,
)

from ...export.model_formats import MODEL_FORMATS
from ..core.messages import time_left
from ..core.status import Progress
from ..session import Session
from ..widgets.base import Follower, shrinkable
from ..widgets.inks import ink
from ..widgets.rich import WrappedLabel, breakable, rich
from .copy_button import CopyButton
from .session import Exportable, ExportSession, ModelExport

if TYPE_CHECKING:
    from ..core.models import Model

__all__ = ["ExportBox", "ExportButton"]

_EMPTY = (
    "Classify all cells, a field or a slide; then export the result for QuPath, Python, or as a "
    "report."
)
_MOST_NAMES = 3


class ExportBox(Follower):
    """Ticks for the formats, the folder, and a button.

    Parameters
    ----------
    exporting : ExportSession
        Outlives the widget.
    parent : QWidget, optional
        The dock.
    """

    def __init__(self, exporting: ExportSession, parent: QWidget | None = None) -> None:
        super().__init__(parent)
        self.exporting = exporting
        self.empty = WrappedLabel(_EMPTY, self)
        self.results = shrinkable(QComboBox(self))
        self.results.setAccessibleName("Result to write")
        self.results.setToolTip("Which result to write.")
        self.body = QWidget(self)
        self.boxes: dict[str, QCheckBox] = {}
        self._grid = QGridLayout()
        self.missing = WrappedLabel(parent=self)
        self.missing.setObjectName("hint")
        self.missing.setTextInteractionFlags(Qt.TextInteractionFlag.TextSelectableByMouse)
        self.folder = QLineEdit(self)
        self.folder.setAccessibleName("Folder that files are written to")
        self.folder.setReadOnly(True)
        self.folder.setToolTip("The folder that files are written to. Nothing there is replaced.")
        self.choose = QPushButton("Folder…", self)
        self.choose.setToolTip("Choose the folder that files are written to.")
        self.export = QPushButton("Export", self)
        self.export.setToolTip("Write the ticked formats; files that are there get other names.")
        self.cancel = QPushButton("Cancel", self)
        self.cancel.setToolTip("Stop writing; files that are finished stay.")
        self.bar = QProgressBar(self)
        self.written = QLabel(self)
        self.written.setWordWrap(True)
        self.written.setTextInteractionFlags(Qt.TextInteractionFlag.TextBrowserInteraction)
        self.written.setOpenExternalLinks(True)
        self.copy = CopyButton(exporting.session, self)
        self._lay_out()
        self.results.currentIndexChanged.connect(self._show_formats)
        self.choose.clicked.connect(self._choose_folder)
        self.export.clicked.connect(self._export)
        self.cancel.clicked.connect(exporting.cancel)
        self.follow(exporting.changed, self.show_results)
        self.follow(exporting.progress_changed, self.show_progress)
        self.follow(exporting.written_changed, self.show_written)
        self.show_results()
        self.show_progress(Progress(0, 0) if exporting.running else None)
        self.show_written()

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
        inner.addWidget(self.results)
        inner.addLayout(self._grid)
        inner.addWidget(self.missing)
        inner.addLayout(where)
        inner.addLayout(act)
        column = QVBoxLayout(self)
        column.setContentsMargins(0, 0, 0, 0)
        for widget in (self.empty, self.body, self.written, self.copy):
            column.addWidget(widget)

    def release(self) -> None:
        """Stop following."""
        super().release()
        self.copy.release()

    # -- state

    def show_results(self) -> None:
        """Show the results that can be written."""
        results = self.exporting.exportables()
        self.empty.setVisible(not results)
        self.body.setVisible(bool(results))
        titles = [each.title for each in results]
        if titles != [self.results.itemText(i) for i in range(self.results.count())]:
            self.results.blockSignals(True)
            self.results.clear()
            self.results.addItems(titles)
            self.results.blockSignals(False)
        self._show_formats()

    def _find_chosen(self) -> Exportable | None:
        results, number = self.exporting.exportables(), self.results.currentIndex()
        return results[number] if 0 <= number < len(results) else None

    def _show_formats(self, _: int = 0) -> None:
        chosen = self._find_chosen()
        if chosen is None:
            return
        fitting = self.exporting.formats(chosen)
        for box in self.boxes.values():
            self._grid.removeWidget(box)
            box.hide()
        for place, each in enumerate(fitting):
            box = self.boxes.get(each.name) or self._make_box(each.name, each.title)
            box.setEnabled(not each.missing)
            box.setToolTip(each.missing or each.tip)
            box.blockSignals(True)
            box.setChecked(each.name in self.exporting.chosen and not each.missing)
            box.blockSignals(False)
            self._grid.addWidget(box, place // 2, place % 2)
            box.show()
        lacking = [each for each in fitting if each.missing]
        self.missing.setVisible(bool(lacking))
        by_command: dict[str, list[str]] = {}
        for each in lacking:
            by_command.setdefault(each.missing.partition(": ")[2], []).append(each.title)
        said = (f"For {', '.join(t)}, type in a terminal: {c}" for c, t in by_command.items())
        self.missing.setText("\n".join(said))
        folder = self.exporting.default_folder(chosen)
        self.folder.setText(str(folder))
        self.folder.setCursorPosition(len(str(folder)))
        self.export.setEnabled(bool(self.exporting.ticked(chosen)))

    def _make_box(self, name: str, title: str) -> QCheckBox:
        box = self.boxes[name] = QCheckBox(title, self)
        box.toggled.connect(lambda on: self.exporting.choose(name, on))
        return box

    # -- acting

    def _choose_folder(self) -> None:
        chosen = QFileDialog.getExistingDirectory(self, "Export to", self.folder.text())
        if chosen:
            self.exporting.set_folder(Path(chosen))

    def _export(self) -> None:
        self.exporting.export(self.results.currentIndex())

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
            said = f"{progress.what} %p%" if progress.total else progress.what
            if progress.seconds_left is not None:
                said += f", {time_left(progress.seconds_left)}"
            self.bar.setFormat(said)

    def show_theme(self) -> None:
        """Show the link in the colours of napari's theme."""
        self.show_written()

    def show_written(self) -> None:
        """Name the files that were written, with a link to their folder."""
        files = self.exporting.written
        self.written.setVisible(bool(files))
        if not files:
            return
        names = rich(breakable(", ".join(path.name for path in files[:_MOST_NAMES])))
        more = f" and {len(files) - _MOST_NAMES} more" if len(files) > _MOST_NAMES else ""
        colour = ink(self, "link")
        address = QUrl.fromLocalFile(str(files[0].parent)).toString()
        self.written.setText(
            f"Written: {names}{more}. <a style='color:{colour}' "
            f"href='{escape(address, quote=True)}'>Open the folder</a>"
        )
        self.written.setToolTip(rich("\n".join(map(str, files))))


class ExportButton(Follower):
    """Exports the model in use: lists the formats; the work goes on in the background.

    Parameters
    ----------
    session : Session
        Its model is exported.
    parent : QWidget, optional
        The dock.
    """

    def __init__(self, session: Session, parent: QWidget | None = None) -> None:
        super().__init__(parent)
        assert session.viewer is not None
        self.session, self._export = session, ModelExport.of(session.viewer)
        self.button = QPushButton("Export…", self)
        self.button.setAccessibleName("Export the model")
        self.button.setToolTip("Write the model in use for other programs, or as a copy.")
        self.actions_by_format: dict[str, QAction] = {}
        menu = QMenu(self)
        menu.setToolTipsVisible(True)
        for name, form in MODEL_FORMATS.items():
            action = menu.addAction(f"{form.title} (*{form.suffix})…")
            action.setToolTip(form.tip)
            action.triggered.connect(partial(self._choose_file, name))
            self.actions_by_format[name] = action
        self.button.setMenu(menu)
        row = QHBoxLayout(self)
        row.setContentsMargins(0, 0, 0, 0)
        row.addWidget(self.button)
        self.follow(session.selection.model_changed, self.show_model)
        self.follow(self._export.changed, self._enable)
        self.show_model(session.selection.model)

    def show_model(self, model: Model | None) -> None:
        """Offer what the model can be written as."""
        self._enable()
        on_slides = model is not None and model.bundle.card.takes_slides
        for name, action in self.actions_by_format.items():
            action.setEnabled(MODEL_FORMATS[name].slides or not on_slides)

    def _enable(self) -> None:
        running = self._export.running
        self.button.setEnabled(self.session.selection.model is not None and not running)
        self.button.setText("Exporting…" if running else "Export…")

    def _choose_file(self, to: str) -> None:
        model, form = self.session.selection.model, MODEL_FORMATS[to]
        if model is None:
            return
        name = f"{model.bundle.card.name}{form.suffix}"
        path, _ = QFileDialog.getSaveFileName(
            self, f"Export as {form.title}", name, f"{form.title} (*{form.suffix})"
        )
        if path:
            whole = path if path.endswith(form.suffix) else f"{path}{form.suffix}"
            self._export.export(model.bundle, Path(whole), to)
