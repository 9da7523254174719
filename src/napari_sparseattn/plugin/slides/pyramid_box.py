"""The pyramid of attention: which maps are shown, what they mean, how few patches hold it."""

from __future__ import annotations

import dataclasses
from typing import Any

import numpy as np
import numpy.typing as npt
from qtpy.QtCore import Qt, Signal
from qtpy.QtWidgets import (
    QCheckBox,
    QComboBox,
    QDoubleSpinBox,
    QGridLayout,
    QHBoxLayout,
    QLabel,
    QSlider,
    QSpinBox,
    QVBoxLayout,
    QWidget,
)

from ...evidence import PyramidAttention, scale_weights
from ..widgets.base import Follower, label_for, shrinkable
from ..widgets.picture import ColourBar
from .explanation_box import ExplanationBox
from .plots import ConcentrationCurve, SignedBars
from .pyramid_maps import (
    ATTENTION,
    PROBABILITY,
    colour_name,
    map_limits,
)
from .task import SlideTask

__all__ = ["PyramidBox"]

_EMPTY = "Classify slide: what the model attended to appears here, one map per level."
_KINDS = {
    "relative": ("times the average", "1 is what each would get if all got the same."),
    "raw": ("share of all", "As the model gave it: the share of all attention."),
    "percentile": (
        "rank, in %",
        "The percentage of squares with no more. Hides how few hold most.",
    ),
    "log": (
        "powers of ten",
        "The power of ten of how often the average: 0 is the average, −1 a tenth of it.",
    ),
}
_UNITS = {"relative": "×", "raw": "share", "percentile": "%", "log": "powers of 10"}
_SHARES_TIP = (
    "What each level adds to the class's score, less its mean over all classes. The levels and "
    "what none of them added (rest) sum up to the answer."
)
_SHARES_OF_ONE_TIP = (
    "What each level adds to the answer, and what none of them added (rest). Of hazards, to the "
    "mean of their log odds, from which the risk follows."
)
_BEYOND = "A few squares have more than {:.3g}, up to {:.3g}; they have the last colour."
#: Positions of the slider that chooses the number of patches, and the number at first.
_STEPS = 200
_FIRST = 10


class PyramidBox(Follower):
    """Maps and numbers of the attention that is shown."""

    #: Whether there is anything to show with this model.
    wanted = Signal(bool)

    def __init__(self, slides: SlideTask, parent: QWidget | None = None) -> None:
        super().__init__(parent)
        self.slides = slides
        self.empty = QLabel(_EMPTY, self)
        self.empty.setWordWrap(True)
        self.explanation = ExplanationBox(slides, self)
        self.kinds = shrinkable(QComboBox(self))
        for kind, (name, tip) in _KINDS.items():
            self.kinds.addItem(name, kind)
            self.kinds.setItemData(self.kinds.count() - 1, tip, Qt.ItemDataRole.ToolTipRole)
        self.heads = shrinkable(QComboBox(self))
        self.heads.setAccessibleName("Attention head")
        self.heads.setToolTip("One attention head of the model, or the mean of all.")
        self.levels: list[QCheckBox] = []
        self.bars: list[ColourBar] = []
        self.probability = QCheckBox("Probability per patch", self)
        self.probability_bar = ColourBar(self)
        self._make_foci()
        self.local = QCheckBox("Local attention of the picked patch", self)
        self.local.setToolTip(
            "What the patch that is picked out looked at itself, in its window of up to 63."
        )
        self.classes = shrinkable(QComboBox(self))
        self.share_of = label_for(self.classes, "Level shares of")
        self.shares = SignedBars(self)
        for widget in (self.share_of, self.classes, self.shares):
            widget.setToolTip(_SHARES_TIP)
        self.curve = ConcentrationCurve(self)
        self.curve.setToolTip(
            "How much of the attention the most attended patches hold. Dotted: if all got the same."
        )
        self.number = QSlider(Qt.Orientation.Horizontal, self)
        self.number.setRange(0, _STEPS)
        self.number.setAccessibleName("Number of patches")
        self.held = QLabel(self)
        self.held.setWordWrap(True)
        # The share that each number of patches holds, and of which attention and head.
        self._held: npt.NDArray[np.float64] = np.zeros(1)
        self._held_for: tuple[int, int | None] | None = None
        self._lay_out()
        self._connect()
        self.show_answer()

    def _make_foci(self) -> None:
        """Make what sets, and tells of, the mask of the tissue that was found."""
        self.threshold = QDoubleSpinBox(self)
        self.threshold.setRange(0.01, 1.0)
        self.threshold.setSingleStep(0.05)
        self.threshold.setValue(self.slides.threshold)
        self.threshold.setToolTip("The probability from which a patch counts to a focus.")
        self.least = QSpinBox(self)
        self.least.setRange(1, 1000)
        self.least.setValue(self.slides.least)
        self.least.setToolTip(
            "Foci, and gaps in them, of fewer patches are taken for noise. 1 cleans nothing."
        )
        self.foci = QLabel(self)
        self.foci.setWordWrap(True)
        self._foci_names = (
            label_for(self.threshold, "Foci from probability"),
            label_for(self.least, "Patches at least"),
        )

    def release(self) -> None:
        """Disconnect, with what is in it; it is about to be deleted."""
        self.explanation.release()
        super().release()

    def _lay_out(self) -> None:
        head = QGridLayout()
        head.addWidget(label_for(self.kinds, "Values"), 0, 0)
        head.addWidget(self.kinds, 0, 1)
        # Below, for both texts to be whole at the dock's usual width.
        head.addWidget(self.heads, 1, 1)
        head.setColumnStretch(1, 1)
        self._boxes = QVBoxLayout()
        self._boxes.setSpacing(2)
        chosen = QHBoxLayout()
        chosen.addWidget(self.share_of)
        chosen.addWidget(self.classes, 1)
        self.body = QWidget(self)
        column = QVBoxLayout(self.body)
        column.setContentsMargins(0, 0, 0, 0)
        column.setSpacing(4)
        column.addWidget(self.explanation)
        column.addLayout(head)
        column.addLayout(self._boxes)
        column.addWidget(self.probability)
        column.addWidget(self.probability_bar)
        mask = QGridLayout()
        for row, widget in enumerate((self.threshold, self.least)):
            mask.addWidget(self._foci_names[row], row, 0)
            mask.addWidget(widget, row, 1)
        mask.setColumnStretch(1, 1)
        column.addLayout(mask)
        column.addWidget(self.foci)
        column.addWidget(self.local)
        column.addLayout(chosen)
        column.addWidget(self.shares)
        column.addWidget(self.held)
        column.addWidget(self.curve)
        column.addWidget(self.number)
        outer = QVBoxLayout(self)
        outer.setContentsMargins(0, 0, 0, 0)
        outer.addWidget(self.empty)
        outer.addWidget(self.body)

    def _connect(self) -> None:
        slides = self.slides
        self.threshold.valueChanged.connect(self._foci_chosen)
        self.least.valueChanged.connect(self._foci_chosen)
        self.kinds.activated.connect(self._kind_chosen)
        self.heads.activated.connect(self._head_chosen)
        self.probability.toggled.connect(self._shown)
        self.local.toggled.connect(self._shown)
        self.classes.activated.connect(slides.set_shown_class)
        self.number.valueChanged.connect(self._show_held)
        self.follow(slides.parts.answers.changed, self.show_answer)
        self.follow(slides.pyramid_choice_changed, self._show_choice)
        self.follow(slides.shown_class_changed, self._show_shares)
        self.follow(slides.foci_changed, self._show_foci)
        self.follow(slides.parts.selection.model_changed, self._show_wanted)

    def _show_wanted(self, _: object = None) -> None:
        self.wanted.emit(self.slides.active)

    def show_answer(self, _: object = None) -> None:
        """Show the attention of an answer, or what to do to get one."""
        attention = self.slides.attention
        self.empty.setVisible(attention is None)
        self.body.setVisible(attention is not None)
        if attention is None:
            return
        self._held_for = None
        self._show_foci()
        self._make_boxes(attention)
        self.heads.clear()
        self.heads.addItem("whole model", None)
        for head in range(attention.n_heads if attention.n_heads > 1 else 0):
            self.heads.addItem(f"part {head + 1}", head)
        self.heads.setVisible(self.heads.count() > 1)
        self.probability.setVisible(attention.patch_probabilities is not None)
        self.probability_bar.set_scale(colour_name(PROBABILITY), (0.0, 1.0), "")
        self.classes.clear()
        self.classes.addItems([name.replace("_", " ") for name in attention.class_names])
        first = np.log10(_FIRST) / max(np.log10(len(attention)), 1)
        self.number.setValue(round(_STEPS * min(float(first), 1.0)))
        self._show_choice()
        self._show_shares()

    def _make_boxes(self, attention: PyramidAttention) -> None:
        for widget in (*self.levels, *self.bars):
            self._boxes.removeWidget(widget)
            widget.deleteLater()
        self.levels, self.bars = [], []
        for number, level in enumerate(attention.levels):
            side = self.slides.side_of(number)
            box = QCheckBox(f"{len(level)} squares of {side}", self.body)
            box.setToolTip(
                f"Level {number}: each of {level.factor} × {level.factor} patches. "
                f"{100 * float(level.itself.mean()):.2g} % of this level's attention stays with "
                "the model's own token."
            )
            box.toggled.connect(self._shown)
            bar = ColourBar(self.body)
            self._boxes.addWidget(box)
            self._boxes.addWidget(bar)
            self.levels.append(box)
            self.bars.append(bar)

    # -- choosing

    def _kind_chosen(self, index: int) -> None:
        self._choose(kind=self.kinds.itemData(index))

    def _foci_chosen(self, _: object = None) -> None:
        self.slides.set_foci(round(self.threshold.value(), 4), self.least.value())

    def _show_foci(self) -> None:
        there = self.slides.foci is not None
        for widget in (*self._foci_names, self.threshold, self.least, self.foci):
            widget.setVisible(there)
        self.foci.setText(self.slides.foci_sentence())

    def _head_chosen(self, index: int) -> None:
        self._choose(head=self.heads.itemData(index))

    def _shown(self, _: bool = False) -> None:
        self._choose(
            levels=frozenset(i for i, box in enumerate(self.levels) if box.isChecked()),
            probability=self.probability.isChecked(),
            local=self.local.isChecked(),
        )

    def _choose(self, **changes: Any) -> None:
        choice = dataclasses.replace(self.slides.pyramid_choice, **changes)
        self.slides.set_pyramid_choice(choice)

    # -- showing

    def _show_choice(self, _: object = None) -> None:
        choice, attention = self.slides.pyramid_choice, self.slides.attention
        self.kinds.setCurrentIndex(self.kinds.findData(choice.kind))
        self.kinds.setToolTip(_KINDS[choice.kind][1])
        self.heads.setCurrentIndex(max(0, self.heads.findData(choice.head)))
        checked = [number in choice.levels for number in range(len(self.levels))]
        boxes = [*self.levels, self.probability, self.local]
        for box, on in zip(boxes, [*checked, choice.probability, choice.local], strict=True):
            box.blockSignals(True)
            box.setChecked(on)
            box.blockSignals(False)
        if attention is None:
            return
        for number, (bar, on) in enumerate(zip(self.bars, checked, strict=True)):
            bar.setVisible(on)
            if on:
                limits = map_limits(attention, number, choice)
                bar.set_scale(colour_name(ATTENTION), limits, _UNITS[choice.kind])
                largest = scale_weights(attention.levels[number], choice.kind, choice.head).max()
                bar.setToolTip(_BEYOND.format(limits[1], largest) if largest > limits[1] else "")
        self.probability_bar.setVisible(
            choice.probability and attention.patch_probabilities is not None
        )
        self._show_curve(attention, choice.head)

    def _show_curve(self, attention: PyramidAttention, head: int | None) -> None:
        if self._held_for == (id(attention), head):
            return
        self._held_for = (id(attention), head)
        total = len(attention)
        self._held = np.asarray(attention.share_of_top(np.arange(total + 1).tolist(), head))
        powers = np.linspace(0, np.log10(max(total, 1)), _STEPS + 1)
        numbers = np.unique(np.rint(10**powers).astype(np.int64))
        self.curve.set_curve(numbers, self._held[numbers], total)
        self._show_held()

    def _show_held(self, _: int = 0) -> None:
        total = len(self._held) - 1
        if total < 1:
            return
        number = round(float(10 ** (np.log10(total) * self.number.value() / _STEPS)))
        number = min(max(number, 1), total)
        self.curve.set_chosen(number)
        patches = "patch holds" if number == 1 else "patches hold"
        self.held.setText(
            f"The top {number} {patches} <b>{_percent(float(self._held[number]))}</b> of the "
            f"attention; evenly among {total} it would be {_percent(number / total)}."
        )

    def _show_shares(self, _: object = None) -> None:
        attention, shown = self.slides.attention, self.slides.shown_class
        rows = [] if attention is None else self.slides.level_shares(shown)
        # There is nothing to choose of a risk or a number, which is the only answer.
        one = attention is not None and len(attention.class_names) == 1
        for widget in (self.share_of, self.classes, self.shares):
            widget.setVisible(bool(rows))
            widget.setToolTip(_SHARES_OF_ONE_TIP if one else _SHARES_TIP)
        self.classes.setCurrentIndex(shown)
        self.shares.set_rows(rows)


def _percent(share: float) -> str:
    return f"{100 * share:.2g}\u00a0%" if share < 0.1 else f"{100 * share:.0f}\u00a0%"
