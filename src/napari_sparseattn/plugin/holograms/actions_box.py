"""Buttons that reconstruct the layer or a folder, their progress and failures."""

from __future__ import annotations

from pathlib import Path

from qtpy.QtWidgets import QFileDialog, QGridLayout, QLabel, QProgressBar, QPushButton, QWidget

from ..core.docks import open_main
from ..core.messages import time_left
from ..core.status import Progress
from ..widgets.base import Follower
from ..widgets.frame import mark_next
from ..widgets.rich import WrappedLabel, rich
from .requests import Failure
from .session import Holograms

__all__ = ["HologramActionsBox"]

_SHOWN_FAILURES = 8


class HologramActionsBox(Follower):
    """Starts the work, and lists the files that failed."""

    def __init__(self, holograms: Holograms, parent: QWidget | None = None) -> None:
        super().__init__(parent)
        self.holograms = holograms
        self.reconstruct = QPushButton("Reconstruct", self)
        self.reconstruct.setToolTip("All frames of this image, as a new layer: OPD in nm.")
        self.folder = QPushButton("Apply to folder…", self)
        self.folder.setToolTip(
            "Reconstruct every file of a folder with these settings, as TIFF in another folder."
        )
        self.classify = QPushButton("Classify cells…", self)
        self.classify.setToolTip("Opens the dock Sparse attention on the reconstructed image.")
        self.cancel = QPushButton("Cancel", self)
        self.bar = QProgressBar(self)
        self.left = QLabel(self)
        self.failed = WrappedLabel(parent=self)
        self.failed.setObjectName("hint")
        grid = QGridLayout(self)
        grid.setContentsMargins(0, 4, 0, 4)
        grid.addWidget(self.reconstruct, 0, 0)
        grid.addWidget(self.folder, 0, 1)
        grid.addWidget(self.cancel, 0, 1)
        grid.addWidget(self.bar, 1, 0)
        grid.addWidget(self.left, 1, 1)
        grid.addWidget(self.classify, 2, 0, 1, 2)
        grid.addWidget(self.failed, 3, 0, 1, 2)
        grid.setColumnStretch(0, 1)
        grid.setColumnStretch(1, 1)
        self.reconstruct.clicked.connect(self._reconstruct)
        self.folder.clicked.connect(self._choose_folders)
        self.cancel.clicked.connect(self._cancel)
        self.classify.clicked.connect(self._open_main)
        self.follow(holograms.work.progress_changed, self._show_progress)
        self.follow(holograms.work.failures_changed, self._show_failures)
        self.follow(holograms.source.changed, self._enable)
        self.follow(holograms.source.layers_changed, self._enable)
        self._show_progress(Progress() if holograms.work.running else None)
        self._show_failures(holograms.work.failures)

    def _enable(self) -> None:
        there = self.holograms.source.layer is not None
        self.reconstruct.setEnabled(there and not self.holograms.work.running)
        done = self.holograms.result is not None
        self.classify.setVisible(done)
        mark_next(self.reconstruct, there and not done)
        mark_next(self.classify, done)

    def _reconstruct(self) -> None:
        self.holograms.work.reconstruct()

    def _cancel(self) -> None:
        self.holograms.work.cancel()

    def _open_main(self) -> None:
        open_main(self.holograms.viewer)

    def _choose_folders(self) -> None:
        folder = QFileDialog.getExistingDirectory(self, "Folder of holograms")
        if not folder:
            return
        out = QFileDialog.getExistingDirectory(self, "Folder for the results", folder)
        if out:
            self.holograms.work.apply_to_folder(Path(folder), Path(out))

    def _show_progress(self, progress: Progress | None) -> None:
        busy = progress is not None
        self.folder.setVisible(not busy)
        for widget in (self.cancel, self.bar, self.left):
            widget.setVisible(busy)
        self._enable()
        if progress is None:
            return
        # A range of 0 to 0 is Qt's way of saying "busy, unknown how long".
        self.bar.setRange(0, progress.total if progress.total > 1 else 0)
        self.bar.setValue(progress.done)
        self.bar.setFormat(f"{progress.done} of {progress.total}")
        left = progress.seconds_left
        self.left.setText("" if left is None else time_left(left))

    def _show_failures(self, failures: tuple[Failure, ...]) -> None:
        lines = [str(one) for one in failures[:_SHOWN_FAILURES]]
        if len(failures) > _SHOWN_FAILURES:
            lines.append(f"… and {len(failures) - _SHOWN_FAILURES} more")
        self.failed.setText("\n".join(["Not reconstructed:", *lines]) if lines else "")
        self.failed.setToolTip(rich("\n".join(map(str, failures))) if failures else "")
        self.failed.setVisible(bool(lines))
