"""Annotating in one viewer: its parts put together, tools, keys, and the classes of layers."""

from __future__ import annotations

import dataclasses
import os
import weakref
from collections.abc import Callable, Sequence
from functools import partial
from typing import TYPE_CHECKING, Any

from ...card import readable_name
from ..core.messages import counted
from ..core.per_viewer import PerViewer
from ..core.sources import is_own, is_picture
from ..core.undo import UNDO_KEYS, Undo
from .classes import N_KEYS, Classes, key_of
from .context import Context
from .files import AnnotatedImage, AnnotationFiles
from .importing import importable, read_layer
from .incoming import Incoming
from .places import Places
from .raters import Raters
from .suggestions import Suggestions
from .targets import Targets

if TYPE_CHECKING:
    from pathlib import Path

    from napari.components import ViewerModel
    from napari.layers import Image, Layer
    from psygnal import SignalInstance

    from ...inference.prediction import Prediction

__all__ = ["Annotating"]

_HOW = {
    "add": "Click cells: each click adds '{}'. Choose another class with its key.",
    "add_polygon": "Click around a region of '{}', Esc to end. Rectangles and ellipses count too.",
    "select": "Click or drag to select; then press a class's key, or Delete.",
}


class Annotating(PerViewer):
    """What is annotated in one viewer; get it with `Annotating.of`.

    Parameters
    ----------
    viewer : napari.components.ViewerModel
        Held weakly, by the session.

    Attributes
    ----------
    session : Session
        Of the same viewer; its message line is used.
    classes : Classes
        The classes that may be given.
    files : AnnotationFiles
        The annotations of each image, and the layers that show them.
    targets : Targets
        Gives a class to what was clicked, is selected, or the whole image.
    suggestions : Suggestions
        Cells that are worth annotating.
    incoming : Incoming
        Takes annotations from files of other programs.
    places : Places
        Goes to annotations, in whichever image they are.
    raters : Raters
        Who annotates, how far several agree, and decisions where they differ.
    """

    def __init__(self, viewer: ViewerModel) -> None:
        self._context = Context(viewer)
        self.session = self._context.session
        self.classes = Classes(self._context)
        self.files = AnnotationFiles(viewer, self._context, self.classes)
        self.targets = Targets(self._context, self.classes, self.files)
        self.suggestions = Suggestions(self._context, self.classes, self.files, self.targets)
        self.incoming = Incoming(self._context, self.classes, self.files)
        self.places = Places(self._context, self.files)
        self.raters = Raters(self._context, self.classes, self.files, self.places)
        #: By key, as Qt writes it.
        self.keys: dict[str, Callable[[], object]] = {
            **{key_of(row): partial(self.give_key, row + 1) for row in range(N_KEYS)},
            "N": self.suggestions.next,
            **{key: partial(self._undo_or_redo, key) for key in UNDO_KEYS},
        }
        self._undo = Undo.of(viewer)
        for kind in (self.files, self.classes.steps):
            self._undo.add(kind)
        #: The picture, or layer of annotations, that was last selected.
        self._active: Callable[[], Layer | None] = lambda: None
        self._users = 0

    @property
    def changed(self) -> SignalInstance:
        """Emitted when annotations, classes or the project have changed."""
        return self._context.changed

    @property
    def viewer(self) -> ViewerModel | None:
        """The viewer, or None after it is gone."""
        return self.session.viewer

    # -- opening and closing

    def attach(self) -> None:
        """Follow the viewer; call once per open dock."""
        self._users += 1
        viewer = self.viewer
        if self._users > 1 or viewer is None:
            return
        session, self._context.in_use = self.session, True
        session.attach()
        viewer.layers.events.removed.connect(self.files.forget)
        viewer.layers.events.inserted.connect(self.files.look_at_new)
        viewer.layers.selection.events.active.connect(self._follow_active)
        viewer.dims.events.current_step.connect(self.targets.follow_plane)
        for signal, slot in self._signals():
            signal.connect(slot)
        self.files.ask_again()
        self.classes.read()
        self._follow_answer(session.answer)
        self._follow_image(session.selection.image)
        self.files.count()

    def detach(self) -> None:
        """Stop following when the last dock closes; what is done in the layers is still kept."""
        if self._users == 0:
            return
        self._users -= 1
        if self._users:
            return
        self.suggestions.stop()
        self.raters.leave()
        viewer = self.viewer
        for signal, slot in self._signals():
            signal.disconnect(slot)
        self._context.in_use = False
        self._context.lane.close()
        self._context.save(self.files.flush)
        if viewer is not None:
            viewer.dims.events.current_step.disconnect(self.targets.follow_plane)
            viewer.layers.selection.events.active.disconnect(self._follow_active)
            viewer.layers.events.inserted.disconnect(self.files.look_at_new)
        if viewer is not None and not self.files.any_open:
            viewer.layers.events.removed.disconnect(self.files.forget)
        self.session.detach()

    def open_project(self, folder: str | os.PathLike[str] | Path) -> bool:
        """Keep annotations in another folder; those shown now are saved in the one before."""
        if not self.classes.open_project(folder):
            return False
        self.files.close_all()
        self.raters.forget()
        self._context.notify(f"Annotations are kept in {self.classes.project.folder} from now on.")
        self.changed.emit()
        self.files.open_image(self.session.selection.image)
        self.files.count()
        return True

    def _signals(self) -> list[tuple[Any, Any]]:
        session = self.session
        return [
            (session.selection.image_changed, self._follow_image),
            (session.selection.model_changed, self.classes.reload),
            (session.selection.settings_changed, self.files.keep_scale),
            (session.answer_changed, self._follow_answer),
            (session.cells.results_changed, self.suggestions.follow_results),
        ]

    def _follow_image(self, image: Image | None) -> None:
        self.suggestions.stop()
        self._leave_cells_of_others(image)
        self.files.open_image(image)
        self.changed.emit()

    def _leave_cells_of_others(self, image: Image | None) -> None:
        """Find the cells of an image where those annotated in another were to be classified."""
        selection = self.session.selection
        layer = selection.cell_layer
        owner = None if layer is None else self.files.image_of(layer)
        if owner is not None and owner is not image:
            selection.set_cell_layer(None)
            selection.images_changed.emit()

    def _follow_answer(self, answer: Prediction | None) -> None:
        self.targets.follow_answer(answer)
        self.suggestions.follow_answer(answer)

    def _follow_active(self, event: object = None) -> None:
        """Choose the image whose annotations the user has selected, or that itself."""
        viewer, session = self.viewer, self.session
        active = None if viewer is None else viewer.layers.selection.active
        # Adding a layer makes it active for a moment: what was, still is.
        if active is None or self.files.layers.adding or active is self._active():
            return
        image = self.files.image_of(active)
        if image is None and is_picture(active):
            image = active
        if image is not None:
            self._active = weakref.ref(active)
            session.selection.set_image(image)

    # -- keys

    def press_key(self, key: str, *, on_layers: bool = True) -> bool:
        """Do what a key does.

        Parameters
        ----------
        key : str
            One of `keys`.
        on_layers : bool
            Whether it was pressed in the canvas or the layer list: while the
            user works with a layer of their own, or where they gave the key
            another meaning, it is not ours.

        Returns
        -------
        bool
            Whether it was ours.
        """
        viewer = self.viewer
        if viewer is None or not self._users:
            return False
        active = viewer.layers.selection.active
        if on_layers and active is not None:
            bound = {str(each) for each in (*active.keymap, *viewer.keymap)}
            drawing = not (is_own(active) or is_picture(active)) and active.mode != "pan_zoom"
            if key in bound or drawing:
                return False
        self.keys[key]()
        return True

    # -- giving a class

    def give(self, label: str) -> None:
        """Give what is at hand a class.

        That is the cell that is suggested or that raters differ on, or those that are picked in
        the table, the gallery or the map where they are several, or what `Targets` knows.
        """
        if self.suggestions.give(label) or self.raters.give(label):
            return
        picked = self.session.cells.shown.picked
        if len(picked) > 1 and not self.targets.selected:
            self.give_rows(picked.tolist(), label)
        else:
            self.targets.give(label)

    def give_rows(self, rows: Sequence[int], label: str) -> None:
        """Give some of the classified cells a class, as one change that can be undone."""
        self.classes.choose(label)
        self.targets.correct_rows(rows, label)

    def give_key(self, number: int) -> None:
        """Give the class with a number, 1 to 10, as it is listed."""
        names = self.classes.names
        if number <= len(names):
            self.give(names[number - 1])
        else:
            self._context.notify(
                f"There is no class {number}. Add one to the list of classes.", "warning"
            )

    def _undo_or_redo(self, key: str) -> None:
        if not self._undo.press(key):
            # It says that there is nothing.
            (self.files.undo if key == UNDO_KEYS[0] else self.files.redo)()

    def rename_class(self, old: str, new: str) -> None:
        """Rename a class in all images; a name in use joins the two."""
        joins = len(set(self.classes.find([old, new]))) == 1 or new in self.classes.names
        before = self.classes.names
        opened = list(self.files.open_annotations().values())
        self.classes.rename(old, new, opened, self.files.count)
        (name,) = set(self.classes.names) - set(before) or {""}
        if joins or not name:
            return
        # Taken back by the changes themselves where they are still the last of their image.
        counts = {id(each): each.n_done for each in opened}

        def turn(source: str, to: str) -> bool:
            if source not in self.classes.names or to in self.classes.names:
                return False
            there = list(self.files.open_annotations().values())
            back = [each for each in there if counts.get(id(each)) == each.n_done]
            self.classes.rename(source, to, there, self.files.count, back)
            counts.clear()
            return True

        self.classes.steps.did(
            f"the class '{readable_name(old)}' was renamed to '{readable_name(name)}'",
            lambda: turn(name, old),
            lambda: turn(old, name),
        )

    def remove_class(self, name: str) -> None:
        """Take a class that no annotation has out of the list."""
        if self.files.counts.get(name):
            self._context.notify(
                f"There are annotations of '{readable_name(name)}'. Give them another class.",
                "warning",
            )
        else:
            self.classes.remove(name)

    # -- tools

    def mark_cells(self) -> bool:
        """Make the layer of cells the active one: a click then adds an annotated cell."""
        return self.files.when_open(partial(self._use_tool, "cell_layer", "add"))

    def draw_regions(self) -> bool:
        """Make the layer of regions the active one: clicks then draw a polygon."""
        return self.files.when_open(partial(self._use_tool, "region_layer", "add_polygon"))

    def edit(self) -> bool:
        """Make the layer of annotations the active one, to select, move and delete them."""
        image = self.files.chosen
        kind = "cell_layer" if image is not None and image.cells is not None else "region_layer"
        return self.files.when_open(partial(self._use_tool, kind, "select"))

    def show_layers(self) -> bool:
        """Show the annotations of the chosen image again, after their layers were removed."""
        return self.files.when_open(AnnotatedImage.show)

    def _use_tool(self, kind: str, mode: str, image: AnnotatedImage) -> None:
        viewer = self.viewer
        if viewer is None:
            return
        if not self._context.save(getattr(image, kind)):
            return
        sync = getattr(image, kind)()
        if sync is None:
            return
        viewer.layers.selection.active = sync.layer
        if sync.annotations.writable:
            sync.layer.mode = mode
            self._context.notify(_HOW[mode].format(self.classes.for_new))
        else:
            self._context.notify(sync.annotations.message, "warning")

    # -- classes of other layers

    def importable(self) -> list[Layer]:
        """Return the user's layers whose rows have classes."""
        viewer = self.viewer
        return [] if viewer is None else [layer for layer in viewer.layers if importable(layer)]

    def import_classes(self, layer: Layer) -> bool:
        """Copy the classes of a layer of the user's; the layer stays as it is."""
        return self.files.when_open(partial(self._import_classes, layer))

    def _import_classes(self, layer: Layer, chosen: AnnotatedImage) -> None:
        image = chosen.image
        if image is None:
            return
        read = read_layer(layer, image)
        labels = self.classes.find(item.label for item in read)
        found = [
            dataclasses.replace(item, label=label) for item, label in zip(read, labels, strict=True)
        ]
        if not found:
            self._context.notify(f"'{layer.name}' has no classes on '{image.name}'.", "warning")
            return

        def save() -> None:
            self.classes.use(dict.fromkeys(item.label for item in found))
            chosen.open().put(found)
            chosen.show()

        if self._context.save(save):
            n = counted(len(found), "annotation")
            self._context.notify(f"{n} imported from '{layer.name}', which stays as it is.")
