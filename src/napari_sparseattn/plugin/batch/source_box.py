"""Files and options of a batch: folders, results, formats, processes."""

from __future__ import annotations

from pathlib import Path
from typing import Any

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
from ..core.docks import open_main
from ..widgets.base import Follower, label_for, set_quietly, shrinkable
from ..widgets.rich import WrappedLabel, rich
from .session import Batch

__all__ = ["BatchOptionsBox", "BatchSourceBox"]

_LABEL_WIDTH = 62
_MOST_NAMED = 3
_TASKS = {
    "auto": "the model's own task",
    "cells": "cells",
    "whole": "whole images or slides (TNet)",
    "hologram": "cells of holograms",
}
_TASK_TIP = (
    "Cells are found and classified one by one; a SPAN takes slides, a TNet cells or, as a whole, "
    "images and slides. Holograms are reconstructed with the settings of the dock Holograms."
)


class BatchSourceBox(Follower):
    """Chooses files and the folder of results, and shows the model."""

    def __init__(self, batch: Batch, parent: QWidget | None = None) -> None:
        super().__init__(parent)
        self.batch = batch
        self.folder = QPushButton("Add folder…", self)
        self.folder.setToolTip("All images, holograms and slides in it and below.")
        self.files = QPushButton("Add files…", self)
        self.files.setToolTip("Single images, holograms or slides.")
        self.clear = QToolButton(self)
        self.clear.setText("Clear")
        self.clear.setAccessibleName("Clear the queue")
        self.clear.setToolTip("Empty the queue. Files and results stay where they are.")
        self.inputs = WrappedLabel(parent=self)
        self.pattern = QLineEdit(self)
        self.pattern.setPlaceholderText("all that can be read, or e.g. *_rgb.png")
        self.pattern.setToolTip("Take only files of folders whose name matches; * is any text.")
        self.model = WrappedLabel(parent=self)
        self.choose_model = QToolButton(self)
        self.choose_model.setText("Choose…")
        self.choose_model.setAccessibleName("Choose the model")
        self.choose_model.setToolTip("Opens the dock Sparse attention, where the model is chosen.")
        self.out = WrappedLabel(parent=self)
        self.choose_out = QToolButton(self)
        self.choose_out.setText("Choose…")
        self.choose_out.setAccessibleName("Choose the folder for the results")
        self.choose_out.setToolTip("The folder for the results; it mirrors that of the images.")
        self._lay_out()
        self.folder.clicked.connect(self._add_folder)
        self.files.clicked.connect(self._add_files)
        self.clear.clicked.connect(batch.choices.clear)
        self.pattern.editingFinished.connect(self._set_pattern)
        self.choose_model.clicked.connect(self._open_main)
        self.choose_out.clicked.connect(self._choose_out)
        self.follow(batch.choices.changed, self._show)
        self.follow(batch.changed, self._show)
        self.follow(batch.session.selection.model_changed, self._show)
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
        grid.addWidget(label_for(self.pattern, "Filter"), 2, 0)
        grid.addWidget(self.pattern, 2, 1, 1, 2)
        grid.addWidget(label_for(self.choose_model, "Model"), 3, 0)
        grid.addWidget(self.model, 3, 1)
        grid.addWidget(self.choose_model, 3, 2)
        grid.addWidget(label_for(self.choose_out, "Results in"), 4, 0)
        grid.addWidget(self.out, 4, 1)
        grid.addWidget(self.choose_out, 4, 2)

    def _show(self, _: object = None) -> None:
        batch, choices = self.batch, self.batch.choices
        names = [Path(path).name or path for path in choices.inputs]
        shown = ", ".join(names[:_MOST_NAMED])
        more = len(names) - _MOST_NAMED
        text = f"{shown} and {more} more" if more > 0 else shown
        self.inputs.setText(text or "No files yet: drop folders or files here.")
        self.inputs.setToolTip(rich("\n".join(choices.inputs)) if choices.inputs else "")
        self.out.setText("–" if choices.out is None else str(choices.out))
        model, loading = batch.session.selection.model, batch.session.selection.loading
        none = "being loaded…" if loading else "none yet"
        self.model.setText(none if model is None else model.bundle.card.name)
        for widget in (self.folder, self.files, self.clear, self.pattern, self.choose_out):
            widget.setEnabled(not batch.running)
        self.clear.setEnabled(bool(choices.inputs) and not batch.running)

    def _add_folder(self) -> None:
        if folder := QFileDialog.getExistingDirectory(self, "Folder of images"):
            self.batch.add_inputs([folder])

    def _add_files(self) -> None:
        paths, _ = QFileDialog.getOpenFileNames(self, "Images, holograms or slides")
        if paths:
            self.batch.add_inputs(paths)

    def _set_pattern(self) -> None:
        self.batch.choices.set_pattern(self.pattern.text())

    def _choose_out(self) -> None:
        before = "" if self.batch.choices.out is None else str(self.batch.choices.out.parent)
        if folder := QFileDialog.getExistingDirectory(self, "Folder for the results", before):
            self.batch.choices.set_out(Path(folder))

    def _open_main(self) -> None:
        open_main(self.batch.viewer)


class BatchOptionsBox(Follower):
    """Chooses formats of the results, task, scale and processes."""

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
        self.task.activated.connect(self._set_task)
        self.pixel_size.valueChanged.connect(self._set_pixel_size)
        self.workers.valueChanged.connect(batch.choices.set_workers)
        self.follow(batch.choices.changed, self._show)
        self.follow(batch.changed, self._show)
        self._show()

    def _format(self, each: Format) -> QCheckBox:
        box = QCheckBox(each.title, self)
        box.setToolTip(each.missing or each.tip)
        box.setEnabled(not each.missing)
        box.toggled.connect(self._set_formats)
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
            ("Task", self.task),
            ("Pixel size", self.pixel_size),
            ("Processes", self.workers),
        )
        for i, (text, widget) in enumerate(rows):
            grid.addWidget(label_for(widget, text), 2 + i, 0)
            grid.addWidget(widget, 2 + i, 1)

    def _show(self) -> None:
        batch, choices = self.batch, self.batch.choices
        for name, box in self.formats.items():
            box.blockSignals(True)
            box.setChecked(name in choices.formats)
            box.blockSignals(False)
        self.task.setCurrentIndex(self.task.findData(choices.task))
        set_quietly(self.pixel_size, choices.pixel_size or 0)
        self.workers.blockSignals(True)
        self.workers.setValue(choices.workers)
        self.workers.blockSignals(False)
        self.setEnabled(not batch.running)

    def _set_formats(self, _: bool) -> None:
        names = [name for name, box in self.formats.items() if box.isChecked()]
        self.batch.choices.set_formats(names)

    def _set_task(self, index: int) -> None:
        self.batch.choices.set_task(self.task.itemData(index))

    def _set_pixel_size(self, value: float) -> None:
        self.batch.choices.set_pixel_size(value or None)
