"""What a batch works on: files and folders, where results go, in which formats."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from qtpy.QtCore import QSize, Qt
from qtpy.QtGui import QFontMetrics, QResizeEvent
from qtpy.QtWidgets import (
    QCheckBox,
    QComboBox,
    QDoubleSpinBox,
    QFileDialog,
    QGridLayout,
    QHBoxLayout,
    QLabel,
    QLineEdit,
    QPushButton,
    QSpinBox,
    QToolButton,
    QWidget,
)

from ...batch.machines import default_workers
from ...export.formats import FORMATS, Format
from ..commands import open_main
from ..widgets.base import Follower, set_quietly, shrinkable
from .session import Batch

__all__ = ["BatchOptionsBox", "BatchSourceBox"]

_LABEL_WIDTH = 62
_MOST_NAMED = 3
_TASKS = {
    "auto": "what the model is for",
    "cells": "cells",
    "whole": "whole images or slides (TNet)",
    "hologram": "cells of holograms",
}
_TASK_TIP = (
    "Cells are found and classified one by one; a SPAN takes slides, a TNet cells or, as a whole, "
    "images and slides. Holograms are reconstructed with the settings of the dock Holograms."
)


class _Elided(QLabel):
    """A path that is cut in its middle where the dock is narrow."""

    def __init__(self, parent: QWidget) -> None:
        super().__init__(parent)
        self._whole = ""

    def set_whole(self, text: str) -> None:
        """Show a text, whole in the tooltip."""
        self._whole = text
        self.setToolTip(text)
        self._fit()

    def resizeEvent(self, event: QResizeEvent) -> None:  # noqa: N802 - Qt's name
        """Cut anew."""
        super().resizeEvent(event)
        self._fit()

    def minimumSizeHint(self) -> QSize:  # noqa: N802 - Qt's name
        """Ask for no width."""
        return QSize(20, super().minimumSizeHint().height())

    def sizeHint(self) -> QSize:  # noqa: N802 - Qt's name
        """Ask for no width."""
        return self.minimumSizeHint()

    def _fit(self) -> None:
        mode = Qt.TextElideMode.ElideMiddle
        self.setText(QFontMetrics(self.font()).elidedText(self._whole, mode, self.width()))


class BatchSourceBox(Follower):
    """Chooses files, the folder of results, and tells which model works on them."""

    def __init__(self, batch: Batch, parent: QWidget | None = None) -> None:
        super().__init__(parent)
        self.batch = batch
        self.folder = QPushButton("Add folder…", self)
        self.folder.setToolTip("All images, holograms and slides in it and below.")
        self.files = QPushButton("Add files…", self)
        self.files.setToolTip("Single images, holograms or slides.")
        self.clear = QToolButton(self)
        self.clear.setText("Clear")
        self.clear.setToolTip("Empty the queue. Files and results stay where they are.")
        self.inputs = QLabel(self)
        self.inputs.setWordWrap(True)
        self.pattern = QLineEdit(self)
        self.pattern.setPlaceholderText("all that can be read, or e.g. *_rgb.png")
        self.pattern.setToolTip("Take only files of folders whose name matches; * is any text.")
        self.model = _Elided(self)
        self.choose_model = QToolButton(self)
        self.choose_model.setText("Choose…")
        self.choose_model.setToolTip("Opens the dock Sparse attention, where the model is chosen.")
        self.out = _Elided(self)
        self.choose_out = QToolButton(self)
        self.choose_out.setText("Choose…")
        self.choose_out.setToolTip("The folder for the results; it mirrors that of the images.")
        self._lay_out()
        self.folder.clicked.connect(self._add_folder)
        self.files.clicked.connect(self._add_files)
        self.clear.clicked.connect(batch.clear)
        self.pattern.editingFinished.connect(self._pattern_given)
        self.choose_model.clicked.connect(self._open_main)
        self.choose_out.clicked.connect(self._choose_out)
        self.follow(batch.changed, self._show)
        self.follow(batch.session.model_changed, self._show)
        self._show()

    def _lay_out(self) -> None:
        grid = QGridLayout(self)
        grid.setContentsMargins(0, 0, 0, 0)
        grid.setColumnMinimumWidth(0, _LABEL_WIDTH)
        grid.setColumnStretch(1, 1)
        row = QHBoxLayout()
        row.addWidget(self.folder, 1)
        row.addWidget(self.files, 1)
        row.addWidget(self.clear)
        grid.addLayout(row, 0, 0, 1, 3)
        grid.addWidget(self.inputs, 1, 0, 1, 3)
        grid.addWidget(QLabel("Names", self), 2, 0)
        grid.addWidget(self.pattern, 2, 1, 1, 2)
        grid.addWidget(QLabel("Model", self), 3, 0)
        grid.addWidget(self.model, 3, 1)
        grid.addWidget(self.choose_model, 3, 2)
        grid.addWidget(QLabel("Results in", self), 4, 0)
        grid.addWidget(self.out, 4, 1)
        grid.addWidget(self.choose_out, 4, 2)

    def _show(self, _: object = None) -> None:
        batch = self.batch
        names = [Path(path).name or path for path in batch.inputs]
        shown = ", ".join(names[:_MOST_NAMED])
        more = len(names) - _MOST_NAMED
        said = f"{shown} and {more} more" if more > 0 else shown
        self.inputs.setText(said or "No files yet: drop folders or files here.")
        self.inputs.setToolTip("\n".join(batch.inputs))
        self.out.set_whole("–" if batch.out is None else str(batch.out))
        model, loading = batch.session.model, batch.session.loading
        none = "being loaded…" if loading else "none yet"
        self.model.set_whole(none if model is None else model.bundle.card.name)
        for widget in (self.folder, self.files, self.clear, self.pattern, self.choose_out):
            widget.setEnabled(not batch.running)
        self.clear.setEnabled(bool(batch.inputs) and not batch.running)

    def _add_folder(self) -> None:
        if folder := QFileDialog.getExistingDirectory(self, "Folder of images"):
            self.batch.add_inputs([folder])

    def _add_files(self) -> None:
        paths, _ = QFileDialog.getOpenFileNames(self, "Images, holograms or slides")
        if paths:
            self.batch.add_inputs(paths)

    def _pattern_given(self) -> None:
        self.batch.set_pattern(self.pattern.text())

    def _choose_out(self) -> None:
        before = "" if self.batch.out is None else str(self.batch.out.parent)
        if folder := QFileDialog.getExistingDirectory(self, "Folder for the results", before):
            self.batch.set_out(Path(folder))

    def _open_main(self) -> None:
        open_main(self.batch.viewer)


class BatchOptionsBox(Follower):
    """Formats of the results, what is looked for, the scale, the processes."""

    def __init__(self, batch: Batch, parent: QWidget | None = None) -> None:
        super().__init__(parent)
        self.batch = batch
        self.formats = {name: self._format(each) for name, each in FORMATS.items()}
        self.task = shrinkable(QComboBox(self))
        for name, text in _TASKS.items():
            self.task.addItem(text, name)
        self.task.setToolTip(_TASK_TIP)
        self.pixel_size = QDoubleSpinBox(self)
        self.pixel_size.setRange(0, 1000)
        self.pixel_size.setDecimals(4)
        self.pixel_size.setSuffix(" µm")
        self.pixel_size.setSpecialValueText("as the files say")
        self.pixel_size.setKeyboardTracking(False)
        self.pixel_size.setButtonSymbols(QDoubleSpinBox.ButtonSymbols.NoButtons)
        self.pixel_size.setToolTip("µm per pixel of all files; 0 takes what each file says.")
        self.workers = QSpinBox(self)
        self.workers.setRange(1, max(64, default_workers()))
        self.workers.setToolTip(
            "Each process takes one core and has the model in memory; with a core to spare the "
            "window stays quick."
        )
        self._lay_out()
        self.task.activated.connect(self._task_chosen)
        self.pixel_size.valueChanged.connect(self._pixel_size_given)
        self.workers.valueChanged.connect(batch.set_workers)
        self.follow(batch.changed, self._show)
        self._show()

    def _format(self, each: Format) -> QCheckBox:
        box = QCheckBox(each.title, self)
        box.setToolTip(each.missing or each.tip)
        box.setEnabled(not each.missing)
        box.toggled.connect(self._formats_chosen)
        return box

    def _lay_out(self) -> None:
        grid = QGridLayout(self)
        grid.setContentsMargins(0, 0, 0, 0)
        grid.setColumnMinimumWidth(0, _LABEL_WIDTH)
        grid.setColumnStretch(1, 1)
        formats = QGridLayout()
        for i, box in enumerate(self.formats.values()):
            formats.addWidget(box, i // 2, i % 2)
        grid.addWidget(QLabel("Write results as", self), 0, 0, 1, 2)
        grid.addLayout(formats, 1, 0, 1, 2)
        rows: tuple[tuple[str, Any], ...] = (
            ("Look for", self.task),
            ("Pixel size", self.pixel_size),
            ("Processes", self.workers),
        )
        for i, (text, widget) in enumerate(rows):
            grid.addWidget(QLabel(text, self), 2 + i, 0)
            grid.addWidget(widget, 2 + i, 1)

    def _show(self) -> None:
        batch = self.batch
        for name, box in self.formats.items():
            box.blockSignals(True)
            box.setChecked(name in batch.formats)
            box.blockSignals(False)
        self.task.setCurrentIndex(self.task.findData(batch.task))
        set_quietly(self.pixel_size, batch.pixel_size or 0)
        self.workers.blockSignals(True)
        self.workers.setValue(batch.workers)
        self.workers.blockSignals(False)
        self.setEnabled(not batch.running)

    def _formats_chosen(self, _: bool) -> None:
        self.batch.set_formats([name for name, box in self.formats.items() if box.isChecked()])

    def _task_chosen(self, index: int) -> None:
        self.batch.set_task(self.task.itemData(index))

    def _pixel_size_given(self, value: float) -> None:
        self.batch.set_pixel_size(value or None)
