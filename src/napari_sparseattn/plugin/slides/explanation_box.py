"""What speaks for a class: by which method, how sure that is, and how far it is."""

from __future__ import annotations

from typing import TYPE_CHECKING

from qtpy.QtCore import Qt
from qtpy.QtWidgets import (
    QComboBox,
    QHBoxLayout,
    QLabel,
    QProgressBar,
    QPushButton,
    QVBoxLayout,
    QWidget,
)

from ..widgets.base import Follower, label_for, shrinkable
from ..widgets.picture import ColourBar
from .pyramid_maps import EXPLANATION, colour_name, explanation_map
from .task import ExplainedRegion, SlideTask

if TYPE_CHECKING:
    from ...card import Explanation
    from ..core.status import StageDone

__all__ = ["ExplanationBox"]

#: Methods by their name here, and what they tell.
_METHODS: dict[Explanation, tuple[str, str]] = {
    "integrated": (
        "integrated gradients",
        "How the class's score rises on the way from mean patches to these; adds up to the rise.",
    ),
    "gradient": (
        "gradient × input",
        "How steep the class's score is in what sets each patch apart from the mean one.",
    ),
    "perturbation": (
        "without the patch",
        "How far the class's score falls when a patch, or a block, becomes a mean one.",
    ),
    "attention": (
        "attention",
        "Where the model looked; not what it made of it, nor for which class.",
    ),
}
#: What is explained of a model that segments.
_REGIONS: dict[ExplainedRegion, tuple[str, str]] = {
    "tissue": ("all tissue", "The mean over all patches."),
    "focus": ("the picked patch's focus", "The mean over the focus that the picked patch is in."),
    "patch": ("the picked patch", "The patch that is picked out: why is it called so?"),
}


class ExplanationBox(Follower):
    """Which explanation is shown, beside what was measured of it."""

    def __init__(self, slides: SlideTask, parent: QWidget | None = None) -> None:
        super().__init__(parent)
        self.slides = slides
        self.methods = shrinkable(QComboBox(self))
        self.method_name = label_for(self.methods, "Explained by")
        self.measured = QLabel(self)
        self.measured.setWordWrap(True)
        self.regions = shrinkable(QComboBox(self))
        for region, (name, tip) in _REGIONS.items():
            self.regions.addItem(name, region)
            self.regions.setItemData(self.regions.count() - 1, tip, Qt.ItemDataRole.ToolTipRole)
        self.region_name = label_for(self.regions, "What speaks for")
        self.region_advice = QLabel(self)
        self.region_advice.setWordWrap(True)
        self.explaining = QProgressBar(self)
        self.explaining.setFormat("explaining: %v of %m runs")
        self.cancel = QPushButton("Cancel", self)
        self.cancel.setToolTip("Stops explaining, and shows attention.")
        self.explanation_bar = ColourBar(self)
        self._lay_out()
        self.methods.activated.connect(self._method_chosen)
        self.regions.activated.connect(self._region_chosen)
        self.cancel.clicked.connect(slides.cancel_explanation)
        self.follow(slides.parts.answers.changed, self.show_answer)
        self.follow(slides.explanation_changed, self._show_explanation)
        self.follow(slides.explaining_changed, self._show_progress)
        self.follow(slides.patch_changed, self._show_explanation)
        self.show_answer()

    def _lay_out(self) -> None:
        column = QVBoxLayout(self)
        column.setContentsMargins(0, 0, 0, 0)
        column.setSpacing(4)
        method = QHBoxLayout()
        method.addWidget(self.method_name)
        method.addWidget(self.methods, 1)
        column.addLayout(method)
        column.addWidget(self.measured)
        region = QHBoxLayout()
        region.addWidget(self.region_name)
        region.addWidget(self.regions, 1)
        column.addLayout(region)
        column.addWidget(self.region_advice)
        running = QHBoxLayout()
        running.addWidget(self.explaining, 1)
        running.addWidget(self.cancel)
        column.addLayout(running)
        column.addWidget(self.explanation_bar)

    def _method_chosen(self, index: int) -> None:
        self.slides.set_method(self.methods.itemData(index))

    def _region_chosen(self, index: int) -> None:
        self.slides.set_region(self.regions.itemData(index))

    def show_answer(self, _: object = None) -> None:
        """List explanations, the one that was measured best first."""
        card = self.slides.parts.selection.card
        spec = None if card is None else card.explanation
        names = list(_METHODS)
        if spec is not None:
            names.sort(key=lambda name: -spec.gains.get(name, (-9.0,))[0])
            names.sort(key=lambda name: name != spec.best)
        self.methods.clear()
        for row, name in enumerate(names):
            best = spec is not None and name == spec.best
            said, tip = _METHODS[name]
            self.methods.addItem(f"{said} (measured best)" if best else said, name)
            if spec is not None and name in spec.gains:
                gain, low, high = spec.gains[name]
                tip += (
                    f" Gain by patch flipping {gain:+.2f} [{low:+.2f}, {high:+.2f}]; 0 is random."
                )
            self.methods.setItemData(row, tip, Qt.ItemDataRole.ToolTipRole)
        if spec is None:
            self.measured.setText("It was not measured which of these explains this model best.")
        else:
            gains = [spec.gains.get(name) for name in (spec.best, "attention")]
            told = "" if None in gains or spec.best == "attention" else (
                f" (gain {gains[0][0]:+.2f}, attention {gains[1][0]:+.2f})"  # type: ignore[index]
            )  # fmt: skip
            self.measured.setText(
                f"Measured best by patch flipping on {spec.n} slides: "
                f"{_METHODS[spec.best][0]}{told}."
            )
        self._show_explanation()

    def _show_explanation(self, _: object = None) -> None:
        slides, attention = self.slides, self.slides.attention
        self.methods.setCurrentIndex(max(0, self.methods.findData(slides.method)))
        regions = slides.segments and slides.method != "attention"
        for widget in (self.regions, self.region_name):
            widget.setVisible(regions)
        self.regions.setCurrentIndex(self.regions.findData(slides.region))
        self.region_advice.setText(slides.region_advice() if regions else "")
        self.region_advice.setVisible(bool(self.region_advice.text()))
        self._show_progress(None)
        values = slides.explanation
        self.explanation_bar.setVisible(values is not None and attention is not None)
        if values is not None and attention is not None:
            _, limits = explanation_map(attention, values)
            self.explanation_bar.set_scale(colour_name(EXPLANATION), limits, "")
            self.explanation_bar.setToolTip(
                f"Red speaks for {slides.explained_name()}, blue against it."
            )

    def _show_progress(self, stage: StageDone | None) -> None:
        """Show how many runs of an explanation are done."""
        for widget in (self.explaining, self.cancel):
            widget.setVisible(self.slides.explaining)
        # Without a number of runs the bar shows that something is going on.
        self.explaining.setRange(0, 0 if stage is None else stage.total)
        self.explaining.setValue(0 if stage is None else stage.done)
