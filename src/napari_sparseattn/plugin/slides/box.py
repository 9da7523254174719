"""A slide for a SPAN: its tissue, the encoder, and how far each part of the work is."""

from __future__ import annotations

from qtpy.QtWidgets import (
    QGridLayout,
    QLabel,
    QProgressBar,
    QPushButton,
    QSizePolicy,
    QVBoxLayout,
    QWidget,
)

from ..core.messages import time_left
from ..core.status import StageDone
from ..widgets.base import Follower
from ..widgets.rich import WrappedLabel, rich
from .requests import STAGES, store_folder
from .task import SlideTask

__all__ = ["SlideBox", "StageBars"]

_TIPS = {
    "tissue": "Where there is tissue, without pen marks, blank and blurred areas.",
    "features": "What the encoder makes of each patch; kept for the next run.",
    "attention": "The model, on the features of all patches.",
}

_ENCODER_TIP = (
    "What turns each patch into numbers, as the model was trained with it. Licence: {}. An encoder "
    "that is not part of the plugin is fetched when it is first used. What it made is kept for the "
    "next run, in {}."
)


class StageBars(QWidget):
    """One bar per part of the work, with counts and the time left."""

    def __init__(self, parent: QWidget | None = None) -> None:
        super().__init__(parent)
        self.bars: dict[str, QProgressBar] = {}
        self.left: dict[str, QLabel] = {}
        grid = QGridLayout(self)
        grid.setContentsMargins(0, 0, 0, 0)
        grid.setVerticalSpacing(2)
        grid.setColumnStretch(1, 1)
        for row, name in enumerate(STAGES):
            label, bar, left = QLabel(name.capitalize(), self), QProgressBar(self), QLabel(self)
            # Wide enough for "88 min left", so that the bars do not jump.
            left.setMinimumWidth(left.fontMetrics().horizontalAdvance("88 min left"))
            bar.setSizePolicy(QSizePolicy.Policy.Expanding, QSizePolicy.Policy.Fixed)
            for place, widget in enumerate((label, bar, left)):
                widget.setToolTip(_TIPS[name])
                grid.addWidget(widget, row, place)
            self.bars[name], self.left[name] = bar, left
        self.show_stages(())

    def show_stages(self, stages: tuple[StageDone, ...]) -> None:
        """Show how far the parts are; those that have not begun are empty."""
        begun = {stage.name: stage for stage in stages}
        for name, bar in self.bars.items():
            stage = begun.get(name)
            if stage is None:
                self._set(bar, 0, 1, "")
                self.left[name].setText("")
            elif stage.finished:
                self._set(bar, stage.total, stage.total, _counted(stage) or "done")
                self.left[name].setText(f"{stage.seconds:.1f} s")
            elif stage.total > 1:
                self._set(bar, stage.done, stage.total, _counted(stage))
                left = stage.seconds_left
                self.left[name].setText("" if left is None else time_left(left))
            else:
                # A range of 0 to 0 is Qt's way of saying "busy, unknown how long".
                self._set(bar, 0, 0, "")
                self.left[name].setText("")

    @staticmethod
    def _set(bar: QProgressBar, done: int, total: int, text: str) -> None:
        bar.setRange(0, total)
        bar.setValue(done)
        bar.setFormat(text)


class SlideBox(Follower):
    """Tissue and encoder; while there is work, its bars."""

    def __init__(self, slides: SlideTask, parent: QWidget | None = None) -> None:
        super().__init__(parent)
        self.slides = slides
        self.find = QPushButton("Find tissue", self)
        self.find.setToolTip(
            "Outlines the tissue in a layer of shapes. Move, add or delete outlines there: the "
            "slide is then classified inside them."
        )
        self.tissue = WrappedLabel("", self)
        self.encoder = WrappedLabel("", self)
        self.bars = StageBars(self)
        column = QVBoxLayout(self)
        column.setContentsMargins(0, 0, 0, 2)
        column.setSpacing(3)
        for widget in (self.find, self.tissue, self.encoder, self.bars):
            column.addWidget(widget)
        self.find.clicked.connect(self._find)
        self.follow(slides.parts.selection.model_changed, self._show_model)
        self.follow(slides.parts.selection.image_changed, self._show_image)
        self.follow(slides.stages_changed, self._show_stages)
        self.follow(slides.tissue_changed, self._show_tissue)
        self._show_model()
        self._show_stages(None)
        self._show_image()

    def _find(self) -> None:
        self.slides.find_tissue()

    def _show_model(self, _: object = None) -> None:
        self.setVisible(self.slides.active)
        card = self.slides.parts.selection.card
        if card is None or (encoder := card.encoder) is None:
            return
        crop = card.crop
        # What the licence says in full would take half of the dock.
        licence = encoder.licence.partition(":")[0]
        said = f" ({licence})" if licence else ""
        self.encoder.setText(f"Looks at patches of {crop.field_of_view_um:.3g} µm")
        tip = _ENCODER_TIP.format(encoder.licence, store_folder())
        self.encoder.setToolTip(rich(f"Encoder: {encoder.name}{said}. {tip}"))

    def _show_image(self, _: object = None) -> None:
        self.find.setEnabled(self.slides.parts.selection.image is not None)
        self._show_tissue(self.slides.tissue)

    def _show_tissue(self, tissue: object) -> None:
        found = self.slides.tissue
        self.tissue.setVisible(found is not None)
        if found is not None:
            self.tissue.setText(f"{found.summary()}.")
            self.tissue.setToolTip("\n".join(found.notes))

    def _show_stages(self, stages: tuple[StageDone, ...] | None) -> None:
        busy = stages is not None
        self.bars.setVisible(busy)
        self.find.setEnabled(not busy and self.slides.parts.selection.image is not None)
        if stages is not None:
            self.bars.show_stages(stages)


def _counted(stage: StageDone) -> str:
    return f"{stage.done:,} of {stage.total:,}".replace(",", "\u2009") if stage.total > 1 else ""
