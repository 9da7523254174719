"""Training as it goes on: curves, and where the model looks at a few held-out cells."""

from __future__ import annotations

import math

from qtpy.QtCore import Qt, Signal
from qtpy.QtWidgets import QGridLayout, QSlider, QWidget

from ...training.runs.runs import Epoch
from ..core.pictures import dim_unselected
from ..widgets.base import Follower
from .plots import TrainingCurve, WatchedCells
from .session import FineTuning

__all__ = ["CurvesBox"]

_TRAINED, _HELD = "trained on", "held out"


class CurvesBox(Follower):
    """Loss and accuracy per epoch; of a SparseAttnNet also its pixels."""

    #: Whether there is anything to show.
    wanted = Signal(bool)

    def __init__(self, tuning: FineTuning, parent: QWidget | None = None) -> None:
        super().__init__(parent)
        self.tuning = tuning
        self.accuracy = TrainingCurve("Accuracy, %", (_TRAINED, _HELD), self, top=100.0)
        self.loss = TrainingCurve("Loss", (_TRAINED, _HELD), self)
        self.accuracy.setToolTip(
            "Cells that are correct, per epoch: of those trained on, which are augmented at "
            "random, and of those held out. The dot is the epoch that is kept."
        )
        self.loss.setToolTip("How far the probabilities are from your classes, in nats per cell.")
        self.moved = TrainingCurve("Newly selected pixels, %", ("new",), self, top=None)
        self.moved.setToolTip(
            "Share of the pixels that the model looks at now and did not look at before training, "
            "in a few held-out cells."
        )
        self.cells = WatchedCells(self)
        self.cells.setToolTip("Held-out cells, bright where the model looks.")
        self.slider = QSlider(Qt.Orientation.Horizontal, self)
        self.slider.setToolTip("Show an earlier epoch.")
        grid = QGridLayout(self)
        grid.setContentsMargins(0, 0, 0, 0)
        grid.setSpacing(4)
        grid.addWidget(self.accuracy, 0, 0)
        grid.addWidget(self.loss, 0, 1)
        grid.addWidget(self.moved, 1, 0, 1, 2)
        grid.addWidget(self.cells, 3, 0, 1, 2)
        grid.addWidget(self.slider, 4, 0, 1, 2)
        self.slider.valueChanged.connect(self._show_cells)
        self.follow(tuning.state_changed, self.show_epochs)
        self.follow(tuning.epoch_added, self.show_epochs)
        self.show_epochs()

    def show_epochs(self, _: object = None) -> None:
        """Draw what there is."""
        epochs = self.tuning.epochs
        self.wanted.emit(bool(epochs))
        total, best = self.tuning.epochs_total, _best(epochs)
        # Epochs may be missing in front where a run was resumed.
        first = epochs[0].epoch if epochs else 1
        gap: list[float | None] = [None] * (first - 1)
        self.accuracy.set_values(
            {
                _TRAINED: gap + [_percent(e.train_accuracy) for e in epochs],
                _HELD: gap + [_percent(e.accuracy) for e in epochs],
            },
            total,
            best,
        )
        self.loss.set_values(
            {
                _TRAINED: gap + [_drop_nan(e.train_loss) for e in epochs],
                _HELD: gap + [_drop_nan(e.loss) for e in epochs],
            },
            total,
            best,
        )
        self.moved.set_values({"new": gap + [_percent(e.moved) for e in epochs]}, total, best)
        self.moved.setVisible(any(e.moved for e in epochs))
        watched = [e for e in epochs if len(e.watched)]
        for widget in (self.cells, self.slider):
            widget.setVisible(bool(watched) and bool(self._pictures()))
        follow = self.slider.value() == self.slider.maximum()
        self.slider.blockSignals(True)
        self.slider.setRange(0, max(0, len(watched) - 1))
        self.slider.blockSignals(False)
        if follow:
            self.slider.setValue(self.slider.maximum())
        self._show_cells()

    def _pictures(self) -> list[str]:
        prepared = self.tuning.prepared
        return [] if prepared is None else list(prepared.pictures)

    def _show_cells(self, _: int = 0) -> None:
        prepared = self.tuning.prepared
        watched = [e for e in self.tuning.epochs if len(e.watched)]
        if prepared is None or not watched or not prepared.pictures:
            self.cells.set_pictures([])
            return
        epoch = watched[min(self.slider.value(), len(watched) - 1)]
        # The first held-out cells, in the order in which they were cut out.
        pictures = list(prepared.pictures.values())[: len(epoch.watched)]
        shown = [
            dim_unselected(picture, pixels, prepared.size)
            for picture, pixels in zip(pictures, epoch.watched, strict=False)
        ]
        # The last layers alone do not change what is looked at.
        same = ", as before" if epoch.moved == 0 else ""
        self.cells.set_pictures(
            shown,
            f"Epoch {epoch.epoch}: looks at {epoch.watched.shape[1]} of {prepared.size**2} "
            f"pixels{same}",
        )


def _best(epochs: list[Epoch]) -> int:
    return max((epoch.epoch for epoch in epochs if epoch.best), default=0)


def _percent(share: float | None) -> float | None:
    known = _drop_nan(share)
    return None if known is None else 100 * known


def _drop_nan(value: float | None) -> float | None:
    """None where nothing was measured."""
    return None if value is None or math.isnan(value) else value
