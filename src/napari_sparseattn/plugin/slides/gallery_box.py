"""The most and the least attended patches as they are, and the one that is picked out."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
from qtpy.QtCore import QSize, Qt, Signal
from qtpy.QtGui import QColor, QIcon, QPixmap, QShowEvent
from qtpy.QtWidgets import (
    QFileDialog,
    QHBoxLayout,
    QLabel,
    QListView,
    QListWidget,
    QListWidgetItem,
    QPushButton,
    QVBoxLayout,
    QWidget,
)

from ...export.tables import write_csv
from ...inference.slides import SlidePrediction
from ..core.status import explain
from ..widgets.base import Follower
from ..widgets.inks import ink
from ..widgets.picture import pixmap
from .task import SlideTask

__all__ = ["GalleryBox", "PatchList"]

_EMPTY = "Classify slide: the patches that were attended to most and least appear here."
_ICON, _PICTURE, _GAP = 68, 128, 4
_FIRST, _MOST = 8, 64
_PATCH = Qt.ItemDataRole.UserRole


class PatchList(QListWidget):
    """Patches as a wall of pictures, which are put in as they arrive."""

    def __init__(self, parent: QWidget | None = None) -> None:
        super().__init__(parent)
        self.setViewMode(QListView.ViewMode.IconMode)
        self.setIconSize(QSize(_ICON, _ICON))
        self.setGridSize(QSize(_ICON + _GAP, _ICON + _GAP))
        self.setMovement(QListView.Movement.Static)
        self.setResizeMode(QListView.ResizeMode.Adjust)
        self.setUniformItemSizes(True)
        # As tall as its pictures: the dock scrolls, not each of its parts.
        for policy in (self.setHorizontalScrollBarPolicy, self.setVerticalScrollBarPolicy):
            policy(Qt.ScrollBarPolicy.ScrollBarAlwaysOff)
        self.show_theme()
        self._empty = QPixmap(_ICON, _ICON)
        self._empty.fill(QColor("#5a5a5a"))
        self._items: dict[int, QListWidgetItem] = {}

    def show_theme(self) -> None:
        """Mark what is picked in the colour of the theme's words: on dark and light, it is seen."""
        self.setStyleSheet(
            "QListWidget::item:selected { background: transparent; "
            f"border: 2px solid {ink(self, 'text')}; }}"
        )

    def set_patches(self, patches: Sequence[int], tips: Sequence[str]) -> None:
        """Make room for patches, in this order."""
        self.clear()
        self._items = {}
        for patch, tip in zip(patches, tips, strict=True):
            item = QListWidgetItem(QIcon(self._empty), "")
            item.setData(_PATCH, patch)
            item.setToolTip(tip)
            item.setData(Qt.ItemDataRole.AccessibleTextRole, tip)
            self.addItem(item)
            self._items[patch] = item
        self._fit()

    def patches(self) -> list[int]:
        """Return the patches that are shown."""
        return list(self._items)

    def set_picture(self, patch: int, picture: QPixmap) -> None:
        """Show a patch as it is."""
        item = self._items.get(patch)
        if item is not None:
            small = _scaled(picture, _ICON)
            icon = QIcon(small)
            # Qt would tint it; the border says enough.
            icon.addPixmap(small, QIcon.Mode.Selected)
            item.setIcon(icon)

    def select(self, patch: int | None) -> None:
        """Mark a patch, if it is here."""
        item = None if patch is None else self._items.get(patch)
        self.setCurrentItem(item)
        if item is None:
            self.clearSelection()

    def resizeEvent(self, event: Any) -> None:  # noqa: N802 - Qt's name
        """Keep all rows in view."""
        super().resizeEvent(event)
        self._fit()

    def _fit(self) -> None:
        across = max(1, (self.width() - 2 * self.frameWidth()) // (_ICON + _GAP))
        rows = -(-len(self._items) // across)
        self.setFixedHeight(max(1, rows) * (_ICON + _GAP) + 2 * self.frameWidth() + 2)


class GalleryBox(Follower):
    """Both walls, and the patch that is picked out with its weights."""

    #: Whether there is anything to show with this model.
    wanted = Signal(bool)

    def __init__(self, slides: SlideTask, parent: QWidget | None = None) -> None:
        super().__init__(parent)
        self.slides = slides
        self._number = _FIRST
        self.empty = QLabel(_EMPTY, self)
        self.empty.setWordWrap(True)
        self.picture = QLabel(self)
        self.picture.setFixedSize(_PICTURE, _PICTURE)
        self.facts = QLabel(self)
        self.facts.setWordWrap(True)
        self.facts.setAlignment(Qt.AlignmentFlag.AlignTop)
        # A wrapped text next to a picture does not get the height of its lines.
        self.facts.setMinimumHeight(_PICTURE)
        self.most, self.least = PatchList(self), PatchList(self)
        self.most.setAccessibleName("Most attended patches")
        self.least.setAccessibleName("Least attended patches")
        self.more = QPushButton("More", self)
        self.more.setToolTip("Shows twice as many patches.")
        self.export = QPushButton("Export patches…", self)
        self.export.setToolTip(
            "Writes a CSV of all patches: place, attention per level, and probability if there is "
            "one."
        )
        status = slides.parts.status
        self._writing = slides.parts.lanes.add(
            _write,
            given=lambda _, text: status.notify(text),
            failed=lambda _, error: status.notify(
                f"The table could not be written: {explain(error)}", "error"
            ),
            busy="queue",
        )
        self._lay_out()
        for patches in (self.most, self.least):
            patches.itemClicked.connect(self._picked)
            patches.itemActivated.connect(self._picked)
        self.more.clicked.connect(self._show_more)
        self.export.clicked.connect(self._choose_file)
        self.follow(slides.parts.answers.changed, self.show_answer)
        self.follow(slides.patch_changed, self.show_patch)
        self.follow(slides.local_changed, self._show_facts)
        self.follow(slides.pyramid_choice_changed, self._head_changed)
        self.follow(slides.explanation_changed, self._show_explanation)
        self.follow(slides.picture_arrived, self._show_picture)
        self.follow(slides.parts.selection.model_changed, self._show_wanted)
        self._head = slides.pyramid_choice.head
        self.show_answer()

    def release(self) -> None:
        """Disconnect; tables that are being written are finished in silence."""
        super().release()
        self._writing.close()

    def _lay_out(self) -> None:
        patch = QHBoxLayout()
        patch.addWidget(self.picture)
        patch.addWidget(self.facts, 1)
        self.body = QWidget(self)
        column = QVBoxLayout(self.body)
        column.setContentsMargins(0, 0, 0, 0)
        column.setSpacing(3)
        column.addLayout(patch)
        self.titles = (QLabel("Most attended", self.body), QLabel("Least attended", self.body))
        for title, patches in zip(self.titles, (self.most, self.least), strict=True):
            column.addWidget(title)
            column.addWidget(patches)
        column.addWidget(self.more)
        column.addWidget(self.export)
        outer = QVBoxLayout(self)
        outer.setContentsMargins(0, 0, 0, 0)
        outer.addWidget(self.empty)
        outer.addWidget(self.body)

    def show_theme(self) -> None:
        """Follow napari's theme."""
        for patches in (self.most, self.least):
            patches.show_theme()

    def _show_wanted(self, _: object = None) -> None:
        self.wanted.emit(self.slides.active)

    def showEvent(self, event: QShowEvent) -> None:  # noqa: N802 - Qt's name
        """Read the pictures only once somebody looks."""
        super().showEvent(event)
        self._ask()

    def show_answer(self, _: object = None) -> None:
        """Make room for the patches of an answer."""
        there = self.slides.attention is not None
        self.empty.setVisible(not there)
        self.body.setVisible(there)
        self._number = _FIRST
        self._fill()
        self.show_patch(self.slides.patch)

    def show_patch(self, patch: int | None) -> None:
        """Show the patch that is picked out larger, with its weights."""
        for widget in (self.picture, self.facts):
            widget.setVisible(patch is not None)
        for patches in (self.most, self.least):
            patches.select(patch)
        if patch is not None:
            self.picture.setPixmap(QPixmap())
            self._show_picture(patch)
            self._show_facts()
            self._ask()

    def _fill(self) -> None:
        attention, slides = self.slides.attention, self.slides
        if attention is None:
            for patches in (self.most, self.least):
                patches.set_patches([], [])
            return
        weights = slides.patch_values()
        assert weights is not None
        order = np.argsort(-weights, kind="stable")
        number = min(self._number, len(order))
        unit = " times the average" if slides.explanation is None else ""
        self.titles[0].setText("Most attended" if unit else "Speak most for the class")
        self.titles[1].setText("Least attended" if unit else "Speak most against it")
        for patches, chosen in (
            (self.most, order[:number].tolist()),
            (self.least, order[::-1][:number].tolist()),
        ):
            tips = [f"{weights[patch]:.3g}{unit}. Click to go there." for patch in chosen]
            patches.set_patches(chosen, tips)
        self.more.setVisible(number < min(_MOST, len(order)))
        for patch in slides.pictures:
            self._show_picture(patch)
        self._ask()

    def _ask(self) -> None:
        if not self.isVisible() or self.slides.attention is None:
            return
        picked = [] if self.slides.patch is None else [self.slides.patch]
        self.slides.ask_pictures([*picked, *self.most.patches(), *self.least.patches()])

    def _show_more(self) -> None:
        self._number *= 2
        self._fill()

    def _head_changed(self, choice: Any) -> None:
        if choice.head != self._head:
            self._head = choice.head
            self._fill()
            self._show_facts()

    def _show_explanation(self) -> None:
        self._fill()
        self._show_facts()

    def _show_picture(self, patch: int) -> None:
        pixels = self.slides.pictures.get(patch)
        if pixels is None:
            return
        picture = pixmap(pixels)
        for patches in (self.most, self.least):
            patches.set_picture(patch, picture)
        if patch == self.slides.patch:
            self.picture.setPixmap(_scaled(picture, _PICTURE))

    def _show_facts(self, _: object = None) -> None:
        self.facts.setText("<br>".join(self.slides.patch_facts()))

    def _choose_file(self) -> None:
        answer = self.slides.slide
        if answer is None or answer.prediction is None:
            return
        name = f"{answer.request.layer.name}_patches.csv"
        path, _ = QFileDialog.getSaveFileName(self, "Export patches", name, "Tables (*.csv)")
        if not path:
            return
        self._writing.ask((answer.prediction, path))

    def _picked(self, item: QListWidgetItem) -> None:
        self.slides.go_to_patch(item.data(_PATCH))


def _write(request: tuple[SlidePrediction, str]) -> str:
    prediction, path = request
    write_csv(prediction, path)
    return f"{len(prediction.attention)} patches written to {path}."


def _scaled(picture: QPixmap, side: int) -> QPixmap:
    return picture.scaled(
        side,
        side,
        Qt.AspectRatioMode.KeepAspectRatio,
        Qt.TransformationMode.SmoothTransformation,
    )
