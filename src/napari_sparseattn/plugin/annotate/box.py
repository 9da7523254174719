"""Annotate: classes, tools, what was clicked, what to annotate next, where it is kept."""

from __future__ import annotations

from functools import partial
from typing import TYPE_CHECKING

from qtpy.QtWidgets import (
    QComboBox,
    QFileDialog,
    QGridLayout,
    QHBoxLayout,
    QLabel,
    QMenu,
    QPushButton,
    QVBoxLayout,
    QWidget,
)

from ..widgets.base import Follower, shrinkable
from .class_box import ClassBox, swatch
from .jobs import hold

if TYPE_CHECKING:
    from napari.layers import Layer

    from .session import Annotating

__all__ = ["AnnotateBox"]

_EMPTY = (
    "Open an image, add the classes you want to tell apart, then mark cells or draw regions. "
    "Or classify cells first, and correct what is wrong."
)
_NO_CLASS = "no class"
_TIPS = {
    "mark": "Makes the layer of cells active: each click on the image adds a cell of the class.",
    "draw": "Makes the layer of regions active: draw a polygon, rectangle or ellipse.",
    "edit": "Select, move or delete (Delete) annotations in their layer; a key relabels them.",
    "undo": "Takes back the last change of this image's annotations (Ctrl+Z).",
    "redo": "Makes it again (Ctrl+Shift+Z).",
    "next": "Goes to the classified cell whose class would teach the model most (key N).",
    "whole": "The class of the image or slide as a whole, for models that classify fields.",
    "over": "Copies classes from a layer of yours, or shows this image's annotations again.",
    "project": "Keeps annotations in another folder; those made so far stay in theirs.",
}


class AnnotateBox(Follower):
    """What a user needs to annotate; follows `Annotating`, which does the work.

    Parameters
    ----------
    annotating : Annotating
        Of the viewer; attached as long as this is not released.
    parent : QWidget, optional
        The dock.
    """

    def __init__(self, annotating: Annotating, parent: QWidget | None = None) -> None:
        super().__init__(parent)
        self.annotating = annotating
        self._let_go = hold(annotating)
        self.empty = _text(self, _EMPTY)
        self.hint = _text(self, "", "hint")
        self.target = _text(self, "", "card")
        self.where = _text(self, "")
        self.classes = ClassBox(annotating, self)
        self.mark = _button(self, "Mark cells", "mark")
        self.draw = _button(self, "Draw regions", "draw")
        self.edit = _button(self, "Select", "edit")
        self.undo = _button(self, "Undo", "undo")
        self.redo = _button(self, "Redo", "redo")
        self.next = _button(self, "Next to annotate (N)", "next")
        self.whole = shrinkable(QComboBox(self))
        self.whole.setToolTip(_TIPS["whole"])
        self.over = _button(self, "Layers", "over")
        self.over_menu = QMenu(self.over)
        self.over.setMenu(self.over_menu)
        self.project = _button(self, "Project…", "project")
        self._lay_out()
        self._connect()
        self.refresh()

    def _lay_out(self) -> None:
        column = QVBoxLayout(self)
        column.setContentsMargins(0, 0, 0, 0)
        for widget in (self.empty, self.hint, self.classes, self.target):
            column.addWidget(widget)
        grid = QGridLayout()
        for i, button in enumerate((self.mark, self.draw, self.edit)):
            grid.addWidget(button, 0, 2 * i, 1, 2)
        grid.addWidget(self.next, 1, 0, 1, 3)
        undo = QHBoxLayout()
        undo.addWidget(self.undo)
        undo.addWidget(self.redo)
        grid.addLayout(undo, 1, 3, 1, 3)
        column.addLayout(grid)
        row = QHBoxLayout()
        row.addWidget(QLabel("Whole image", self))
        row.addWidget(self.whole, 1)
        column.addLayout(row)
        row = QHBoxLayout()
        row.addWidget(self.where, 1)
        row.addWidget(self.over)
        row.addWidget(self.project)
        column.addLayout(row)

    def _connect(self) -> None:
        annotating = self.annotating
        for button, act in (
            (self.mark, annotating.mark_cells),
            (self.draw, annotating.draw_regions),
            (self.edit, annotating.edit),
            (self.undo, annotating.undo),
            (self.redo, annotating.redo),
            (self.next, annotating.next),
        ):
            button.clicked.connect(act)
        self.project.clicked.connect(self.choose_project)
        self.whole.activated.connect(self._whole_chosen)
        self.over_menu.aboutToShow.connect(self._fill_menu)
        self.follow(annotating.changed, self.refresh)
        self.follow(annotating.candidate_changed, self.refresh)
        self.follow(annotating.session.selection.images_changed, self.refresh)

    def release(self) -> None:
        """Disconnect, and let go of the viewer."""
        super().release()
        self.classes.release()
        self._let_go()

    def refresh(self, _: object = None) -> None:
        """Show how things are."""
        annotating, session = self.annotating, self.annotating.session
        there = session.selection.image is not None
        named = bool(annotating.class_names)
        self.empty.setVisible(not (there and named))
        self.hint.setText(annotating.message)
        self.hint.setVisible(bool(annotating.message))
        for button in (self.mark, self.draw, self.edit, self.whole, self.over):
            button.setEnabled(there)
        self.undo.setEnabled(annotating.can_undo)
        self.redo.setEnabled(annotating.can_redo)
        self.next.setEnabled(session.cells.results is not None)
        self._show_target()
        self._show_whole()
        total, images = sum(annotating.counts.values()), annotating.n_images
        self.where.setText(
            f"{total} in {images} image{'' if images == 1 else 's'}" if total else "Saved as you go"
        )
        self.where.setToolTip(
            f"Annotations of this project. Each is saved at once, in {annotating.project.folder}."
        )

    def _show_target(self) -> None:
        target, row = self.annotating.target, self.annotating.candidate
        if row is None and (target is None or target.position is None):
            self.target.hide()
            return
        asked = self.annotating.session.cells.results if row is not None else None
        said = asked.labels[row] if asked is not None and row is not None else ""
        said = said or (target.predicted if target is not None else "")
        what = "Next to annotate" if row is not None else "Clicked cell"
        what += f": predicted {said}." if said else "."
        how = "Press the key of its class, or click that above"
        passing = "; N leaves it out" if row is not None else ""
        self.target.setText(f"<b>{what}</b> {how}{passing}.")
        self.target.show()

    def _show_whole(self) -> None:
        annotating, names = self.annotating, [_NO_CLASS, *self.annotating.class_names]
        colours = annotating.colours
        if [self.whole.itemText(i) for i in range(self.whole.count())] != names:
            self.whole.clear()
            for name in names:
                if name in colours:
                    self.whole.addItem(swatch(colours[name]), name)
                else:
                    self.whole.addItem(name)
        index = self.whole.findText(annotating.image_class) if annotating.image_class else 0
        self.whole.setCurrentIndex(max(0, index))

    def _whole_chosen(self, index: int) -> None:
        if index == 0:
            self.annotating.clear_image_class()
        else:
            self.annotating.annotate_image(self.whole.itemText(index))

    def _fill_menu(self) -> None:
        self.over_menu.clear()
        layers = self.annotating.importable()
        for layer in layers:
            text = f"Take over the classes of '{layer.name}'"
            self.over_menu.addAction(text, partial(self._take_over, layer))
        if not layers:
            none = self.over_menu.addAction("No layer of yours has classes to take over")
            none.setEnabled(False)
        self.over_menu.addSeparator()
        self.over_menu.addAction("Show the annotations of this image", self.annotating.show_layers)

    def _take_over(self, layer: Layer, checked: bool = False) -> None:
        self.annotating.take_over(layer)

    def choose_project(self) -> None:
        """Let the user choose the folder of a project; nothing waits for it."""
        dialog = QFileDialog(self, "Folder of a project", str(self.annotating.project.folder))
        dialog.setFileMode(QFileDialog.FileMode.Directory)
        dialog.setOption(QFileDialog.Option.ShowDirsOnly)
        dialog.fileSelected.connect(self.annotating.open_project)
        dialog.finished.connect(dialog.deleteLater)
        dialog.show()


def _text(parent: QWidget, text: str, name: str = "") -> QLabel:
    label = QLabel(text, parent)
    label.setWordWrap(True)
    label.setObjectName(name)
    return label


def _button(parent: QWidget, text: str, tip: str) -> QPushButton:
    button = QPushButton(text, parent)
    button.setToolTip(_TIPS[tip])
    return button
