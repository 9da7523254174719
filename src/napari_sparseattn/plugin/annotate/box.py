"""Annotate: classes, tools, the clicked or suggested cell, where annotations are kept."""

from __future__ import annotations

from functools import partial
from typing import TYPE_CHECKING

from qtpy.QtGui import QShowEvent
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

from ...card import readable_name
from ..core.messages import counted
from ..opening import open_files
from ..widgets.base import Follower, label_for, shrinkable
from ..widgets.drops import FileDrops
from ..widgets.frame import DockFrame
from ..widgets.keys import KeyFilter
from ..widgets.rich import WrappedLabel, breakable, rich
from .class_box import ClassBox, swatch
from .incoming import SUFFIXES, is_annotations

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
    "next": "Goes to the cell whose class would teach most, and says why; N skips it.",
    "whole": "The class of the image or slide as a whole, for models that classify fields.",
    "layers": "Imports classes from a layer of yours, or shows this image's annotations again.",
    "import": "Takes the annotations in a file for this image's: GeoJSON, as QuPath exports it, or "
    "COCO JSON. A file can be dropped here too.",
    "project": "Keeps annotations in another folder; those made so far stay in theirs.",
}


class AnnotateBox(Follower):
    """The tools for annotating; follows `Annotating`, which does the work.

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
        annotating.attach()
        self.empty = _make_text(self, _EMPTY)
        self.hint = WrappedLabel("", self)
        self.hint.setObjectName("hint")
        self.target = _make_text(self, "", "card")
        self.where = _make_text(self, "")
        self.classes = ClassBox(annotating, self)
        self.mark = _make_button(self, "Mark cells", "mark")
        self.draw = _make_button(self, "Draw regions", "draw")
        self.edit = _make_button(self, "Select", "edit")
        self.undo = _make_button(self, "Undo", "undo")
        self.redo = _make_button(self, "Redo", "redo")
        self.next = _make_button(self, "What to mark next (N)", "next")
        self.missed = QPushButton(self)
        self.missed.setToolTip(
            "Classifies the cells that you have annotated instead of those that are found: it "
            "chooses their layer under Cells."
        )
        self.whole = shrinkable(QComboBox(self))
        self.whole.setToolTip(_TIPS["whole"])
        self.layers = _make_button(self, "Layers", "layers")
        self.layers_menu = QMenu(self.layers)
        self.layers.setMenu(self.layers_menu)
        self.from_file = _make_button(self, "Import…", "import")
        self.project = _make_button(self, "Project…", "project")
        self.drops = FileDrops(self, self._take_files)
        self._keys = KeyFilter(annotating.keys, self._press_key, self)
        self._lay_out()
        self._connect()
        self.refresh()

    def _lay_out(self) -> None:
        column = QVBoxLayout(self)
        column.setContentsMargins(0, 0, 0, 0)
        # Above the list nothing comes and goes: it stays under the mouse.
        for widget in (self.classes, self.empty, self.target):
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
        row.addWidget(label_for(self.whole, "Whole image"))
        row.addWidget(self.whole, 1)
        column.addLayout(row)
        row = QHBoxLayout()
        for button in (self.from_file, self.layers, self.project):
            row.addWidget(button, 1)
        column.addLayout(row)
        column.addWidget(self.where)
        column.addWidget(self.missed)
        column.addWidget(self.hint)
        # Room to spare goes below all, not between.
        column.addStretch(1)

    def _connect(self) -> None:
        annotating = self.annotating
        for button, act in (
            (self.mark, annotating.mark_cells),
            (self.draw, annotating.draw_regions),
            (self.edit, annotating.edit),
            (self.undo, annotating.files.undo),
            (self.redo, annotating.files.redo),
            (self.next, annotating.suggestions.next),
            (self.missed, annotating.suggestions.classify_missed),
        ):
            button.clicked.connect(act)
        self.project.clicked.connect(self.choose_project)
        self.from_file.clicked.connect(self.choose_file)
        self.whole.activated.connect(self._give_whole)
        self.layers_menu.aboutToShow.connect(self._fill_menu)
        self.follow(annotating.changed, self.refresh)
        self.follow(annotating.suggestions.candidate_changed, self.refresh)
        self.follow(annotating.session.selection.images_changed, self.refresh)

    def release(self) -> None:
        """Disconnect, and let go of the viewer."""
        super().release()
        self._keys.stop()
        self.classes.release()
        self.annotating.detach()

    def showEvent(self, event: QShowEvent) -> None:  # noqa: N802 - Qt's name
        """Watch the keys of the window, once this is in one."""
        super().showEvent(event)
        self._keys.watch_window(self.window())
        for dock in self.window().findChildren(DockFrame):
            self._keys.watch_dock(dock)

    def _press_key(self, key: str, on_layers: bool) -> bool:
        return self.annotating.press_key(key, on_layers=on_layers)

    def refresh(self, _: object = None) -> None:
        """Show how things are."""
        annotating, session = self.annotating, self.annotating.session
        there = session.selection.image is not None
        named = bool(annotating.classes.names)
        self.empty.setVisible(not (there and named))
        self.hint.setText(annotating.files.message)
        self.hint.setVisible(bool(annotating.files.message))
        needing = (self.mark, self.draw, self.edit, self.whole, self.layers, self.from_file)
        for button in needing:
            button.setEnabled(there)
        self.undo.setEnabled(annotating.files.can_undo)
        self.redo.setEnabled(annotating.files.can_redo)
        self.next.setEnabled(session.cells.results is not None)
        missed = annotating.suggestions.missed
        self.missed.setText(f"Classify {counted(missed, 'annotated cell')} not found")
        self.missed.setVisible(missed > 0)
        self._show_target()
        self._show_whole()
        files = annotating.files
        total, images = sum(files.counts.values()), files.n_images
        self.where.setText(f"{total} in {counted(images, 'image')}" if total else "Saved as you go")
        self.where.setToolTip(
            rich(
                "Annotations of this project. Each is saved at once, in "
                f"{annotating.classes.project.folder}."
            )
        )

    def _show_target(self) -> None:
        target, row = self.annotating.targets.target, self.annotating.suggestions.candidate
        if row is None and (target is None or target.position is None):
            self.target.hide()
            return
        asked = self.annotating.session.cells.results if row is not None else None
        said = asked.labels[row] if asked is not None and row is not None else ""
        said = said or (target.predicted if target is not None else "")
        what = "Suggested cell" if row is not None else "Clicked cell"
        what += f": predicted {readable_name(said)}." if said else "."
        how = "Press the key of its class, or click that above"
        if row is not None:
            why = self.annotating.suggestions.why
            how = f"{rich(breakable(why[:1].upper() + why[1:]))}. {how}; N skips it"
        self.target.setText(f"<b>{rich(breakable(what))}</b> {how}.")
        self.target.show()

    def _show_whole(self) -> None:
        classes, shown = self.annotating.classes, self.annotating.targets.image_class
        names, colours = [_NO_CLASS, *classes.names], classes.colours
        if [self.whole.itemData(i) for i in range(self.whole.count())] != names:
            self.whole.clear()
            for name in names:
                if name in colours:
                    self.whole.addItem(swatch(colours[name]), readable_name(name), name)
                else:
                    self.whole.addItem(name, name)
        index = self.whole.findData(shown) if shown else 0
        self.whole.setCurrentIndex(max(0, index))

    def _give_whole(self, index: int) -> None:
        if index == 0:
            self.annotating.targets.clear_image_class()
        else:
            self.annotating.targets.annotate_image(self.whole.itemData(index))

    def _fill_menu(self) -> None:
        self.layers_menu.clear()
        layers = self.annotating.importable()
        for layer in layers:
            text = f"Import classes from '{layer.name}'"
            self.layers_menu.addAction(text, partial(self._import, layer))
        if not layers:
            none = self.layers_menu.addAction("None of your layers has classes to import")
            none.setEnabled(False)
        self.layers_menu.addSeparator()
        self.layers_menu.addAction(
            "Show the annotations of this image", self.annotating.show_layers
        )

    def _import(self, layer: Layer, checked: bool = False) -> None:
        self.annotating.import_classes(layer)

    def _take_files(self, paths: list[str]) -> None:
        """Import annotations that are dropped; other files are opened."""
        viewer = self.annotating.viewer
        annotations = [path for path in paths if is_annotations(path)]
        images = [path for path in paths if path not in annotations]
        if images and viewer is not None:
            open_files(viewer, images, self.annotating.session.status.notify)
        for path in annotations:
            self.annotating.incoming.import_file(path)

    def choose_file(self) -> None:
        """Let the user choose a file of annotations; nothing waits for it."""
        endings = " ".join(f"*{suffix}" for suffix in (*SUFFIXES, ".zip"))
        dialog = QFileDialog(
            self, "Import annotations", "", f"Annotations ({endings});;All files (*)"
        )
        dialog.setFileMode(QFileDialog.FileMode.ExistingFile)
        dialog.fileSelected.connect(self.annotating.incoming.import_file)
        dialog.finished.connect(dialog.deleteLater)
        dialog.show()

    def choose_project(self) -> None:
        """Let the user choose the folder of a project; nothing waits for it."""
        dialog = QFileDialog(
            self, "Folder of a project", str(self.annotating.classes.project.folder)
        )
        dialog.setFileMode(QFileDialog.FileMode.Directory)
        dialog.setOption(QFileDialog.Option.ShowDirsOnly)
        dialog.fileSelected.connect(self.annotating.open_project)
        dialog.finished.connect(dialog.deleteLater)
        dialog.show()


def _make_text(parent: QWidget, text: str, name: str = "") -> QLabel:
    label = QLabel(text, parent)
    label.setWordWrap(True)
    label.setObjectName(name)
    return label


def _make_button(parent: QWidget, text: str, tip: str) -> QPushButton:
    button = QPushButton(text, parent)
    button.setToolTip(_TIPS[tip])
    return button
