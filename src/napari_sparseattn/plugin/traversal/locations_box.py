"""Crops per level of a TNet: how many are looked at, and what each setting gave."""

from __future__ import annotations

from typing import TYPE_CHECKING

from qtpy.QtCore import Qt, QTimer
from qtpy.QtWidgets import (
    QCheckBox,
    QGridLayout,
    QHBoxLayout,
    QLabel,
    QSizePolicy,
    QSlider,
    QToolButton,
    QVBoxLayout,
    QWidget,
)

from ..widgets.base import Follower
from ..widgets.inks import ink
from ..widgets.rich import rich
from .task import TraversalTask, Trial

if TYPE_CHECKING:
    from ...card import HaltingSpec

__all__ = ["LocationsBox"]

#: Milliseconds after the last move of a slider before the answer is asked for anew.
_PATIENCE = 200
_TIP = (
    "How many places inside each crop of this level are looked at closer. More cost time and "
    "pixels; the class may become surer. The cell or field shown is classified anew."
)


class LocationsBox(Follower):
    """One slider per level that the model was trained on; the last serves all deeper ones."""

    def __init__(self, crops: TraversalTask, parent: QWidget | None = None) -> None:
        super().__init__(parent)
        self.crops = crops
        self.title = QLabel("Crops per level", self)
        self.title.setToolTip(_TIP)
        self.reset = QToolButton(self)
        self.reset.setText("As trained")
        self.trials = QLabel(self)
        self.trials.setTextFormat(Qt.TextFormat.RichText)
        # A table does not wrap: it must not make the dock wider than it is.
        self.trials.setSizePolicy(QSizePolicy.Policy.Ignored, QSizePolicy.Policy.Preferred)
        self.trials.setToolTip("What each setting gave for this cell or field.")
        self.measured = QLabel(self)
        self.measured.setWordWrap(True)
        self.measured.setToolTip(
            "How often the model was right on held-out images with this setting, as its card says."
        )
        self.halts = QCheckBox(self)
        self.halts.setToolTip(
            "The model looks at the most promising crops first, and at no more once it is as sure "
            "as this. The sliders are the most that it looks at. Without it, all are looked at."
        )
        self.sliders: list[QSlider] = []
        self._numbers: list[QLabel] = []
        self._grid = QGridLayout()
        self._grid.setColumnStretch(1, 1)
        head = QHBoxLayout()
        head.addWidget(self.title, 1)
        head.addWidget(self.reset)
        column = QVBoxLayout(self)
        column.setContentsMargins(0, 0, 0, 2)
        column.setSpacing(2)
        column.addLayout(head)
        column.addLayout(self._grid)
        column.addWidget(self.halts)
        column.addWidget(self.measured)
        column.addWidget(self.trials)
        self._timer = QTimer(self)
        self._timer.setSingleShot(True)
        self._timer.setInterval(_PATIENCE)
        self._timer.timeout.connect(self._ask)
        self.reset.clicked.connect(self._as_trained)
        self.halts.toggled.connect(crops.set_halts)
        self.follow(crops.parts.selection.model_changed, self._show_model)
        self.follow(crops.locations_changed, self._show_locations)
        self.follow(crops.trials_changed, self._show_trials)
        self._show_model()
        self._show_trials()

    @property
    def chosen(self) -> tuple[int, ...]:
        """What the sliders say."""
        return tuple(slider.value() for slider in self.sliders)

    def _show_model(self, _: object = None) -> None:
        self._timer.stop()
        for widget in (*self.sliders, *self._numbers):
            self._grid.removeWidget(widget)
            widget.hide()
            widget.deleteLater()
        self.sliders, self._numbers = [], []
        trained, card = self.crops.trained_locations, self.crops.parts.selection.card
        self.setVisible(bool(trained))
        threshold = self.crops.threshold
        self.halts.setVisible(threshold is not None)
        self.halts.setChecked(self.crops.halts)
        if threshold is not None:
            self.halts.setText(f"Stop when sure enough ({100 * threshold:.3g} %)")
        if not trained or card is None:
            return
        most = int(card.architecture.get("grid", 3)) ** 2
        for row, _taken in enumerate(trained):
            last = row == len(trained) - 1
            name = QLabel(f"Level {row}{' and deeper' if last else ''}", self)
            slider = QSlider(Qt.Orientation.Horizontal, self)
            slider.setRange(1, most)
            slider.setPageStep(1)
            slider.setToolTip(_TIP)
            slider.setAccessibleName(f"Crops per level, level {row}")
            number = QLabel(self)
            number.setMinimumWidth(18)
            number.setAlignment(Qt.AlignmentFlag.AlignRight | Qt.AlignmentFlag.AlignVCenter)
            for place, widget in enumerate((name, slider, number)):
                self._grid.addWidget(widget, row, place)
            self.sliders.append(slider)
            self._numbers += [name, number]
            slider.valueChanged.connect(self._moved)
        self._show_locations(self.crops.locations)

    def _show_locations(self, locations: tuple[int, ...] | None) -> None:
        taken = locations or self.crops.trained_locations
        for slider, value in zip(self.sliders, taken, strict=False):
            slider.blockSignals(True)
            slider.setValue(value)
            slider.blockSignals(False)
        self._show_numbers()

    def _show_numbers(self) -> None:
        for slider, number in zip(self.sliders, self._numbers[1::2], strict=True):
            number.setText(str(slider.value()))
        self.reset.setEnabled(self.chosen != self.crops.trained_locations)
        card = self.crops.parts.selection.card
        found = None if card is None else card.accuracy_at(self.chosen)
        if found is None and (spec := None if card is None else card.halting) is not None:
            self.measured.setText(_about_halting(spec))
        elif found is None:
            self.measured.setText("Accuracy not measured with this setting.")
        else:
            self.measured.setText(f"{100 * found[0]:.1f} % correct on {found[1]} held-out images.")

    def _moved(self, _: int) -> None:
        self._show_numbers()
        self._timer.start()

    def _ask(self) -> None:
        if self.sliders:
            self.crops.set_locations(self.chosen)

    def _as_trained(self) -> None:
        self._timer.stop()
        self.crops.set_locations(None)
        self._show_locations(None)

    def show_theme(self) -> None:
        """Show the table in the colours of napari's theme."""
        self._show_trials()

    def _show_trials(self) -> None:
        trials = self.crops.trials
        self.trials.setVisible(bool(trials))
        self.trials.setText(_table(trials, self.crops.trained_locations, ink(self, "muted")))


def _about_halting(spec: HaltingSpec) -> str:
    if spec.accuracy is None or spec.saved is None:
        return "What stopping by itself costs was not measured."
    return (
        f"Stopping: {100 * spec.accuracy:.1f} % correct on {spec.n} held-out images, "
        f"{100 * spec.saved:.0f} % fewer crops."
    )


def _table(trials: list[Trial], trained: tuple[int, ...], grey: str) -> str:
    """Return the trials as an HTML table, the last in bold."""
    head = "".join(
        f"<td align='{side}' style='color:{grey}'>{name}&nbsp;</td>"
        for name, side in (
            ("asked", "left"), ("class", "left"), ("prob.", "right"),
            ("crops", "right"), ("pixels", "right"),
        )
    )  # fmt: skip
    rows = []
    for trial in trials:
        name = trial.label.replace("_", " ")
        name = rich(name if len(name) <= 12 else f"{name[:11]}…")
        looks = "·".join(map(str, trial.locations)) + ("*" if trial.locations == trained else "")
        cells = [
            (looks, "left"),
            (name, "left"),
            (f"{100 * trial.confidence:.1f} %", "right"),
            (str(trial.crops), "right"),
            (f"{100 * trial.share:.3g} %", "right"),
        ]
        bold = "font-weight:bold" if trial is trials[-1] else ""
        rows.append(
            "".join(
                f"<td align='{side}' style='{bold}'><nobr>{text}</nobr>&nbsp;</td>"
                for text, side in cells
            )
        )
    return f"<table>{''.join(f'<tr>{row}</tr>' for row in (head, *rows))}</table>"
