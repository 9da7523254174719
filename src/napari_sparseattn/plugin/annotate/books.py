"""The annotated images of one viewer: opened, shown, saved, undone."""

from __future__ import annotations

import os
import weakref
from collections.abc import Callable
from functools import partial
from typing import TYPE_CHECKING, Any

import numpy as np

from ...training.data.annotations import AnnotationBook, Change
from ..core.session import Session
from ..core.status import explain
from .classes import Classes, Work
from .images import Identified, ImageSource, Opener, identify
from .mirror import Look
from .sheet import AnnotationShelf, Sheet

if TYPE_CHECKING:
    from pathlib import Path

    from napari.components import ViewerModel
    from napari.layers import Image, Layer

    from ..core.sources import ImageSettings

__all__ = ["Books"]

#: Diameter of a ring where nothing is known of the cells: a share of the image's shorter side.
_RING_SHARE = 1 / 25
#: Of the side of a model's crop, where no cell has been found yet.
_CELL_SHARE = 0.5


class Books(Classes):
    """Which images are annotated, and the layers that show it.

    Parameters
    ----------
    viewer : napari.components.ViewerModel
        Held weakly, by the session.
    """

    def __init__(self, viewer: ViewerModel) -> None:
        self._sheets: dict[str, Sheet] = {}
        self._hashes: weakref.WeakKeyDictionary[Image, str] = weakref.WeakKeyDictionary()
        self._asked: weakref.WeakSet[Image] = weakref.WeakSet()
        self._followed: weakref.WeakSet[Image] = weakref.WeakSet()
        self._waiting: list[Callable[[], object]] = []
        self._shelf = AnnotationShelf(viewer)
        super().__init__(Session.of(viewer))
        # The sheets outlive the viewer by nothing: they hold files that others wait for.
        weakref.finalize(viewer, _close_all, self._sheets)

    @property
    def viewer(self) -> ViewerModel | None:
        """The viewer, or None after it is gone."""
        return self.session.viewer

    # -- what there is

    @property
    def sheet(self) -> Sheet | None:
        """The annotations of the chosen image, once it is known which image it is."""
        return self.sheet_of(self.session.selection.image)

    def sheet_of(self, layer: Layer | None) -> Sheet | None:
        """Return the annotations of an image layer."""
        found = None if layer is None else self._hashes.get(layer)
        return None if found is None else self._sheets.get(found)

    def book(self, layer: Layer | None) -> AnnotationBook | None:
        """Return the book of an image layer; None where nothing is annotated yet."""
        sheet = self.sheet_of(layer)
        return None if sheet is None else sheet.book

    def books(self) -> dict[str, AnnotationBook]:
        """Return the books that are open here, by the hashes of their images."""
        found = {key: sheet.book for key, sheet in self._sheets.items()}
        return {key: book for key, book in found.items() if book is not None}

    @property
    def counts_here(self) -> dict[str, int]:
        """Annotations of each class in the chosen image."""
        counts = dict.fromkeys(self.class_names, 0)
        book = self.book(self.session.selection.image)
        return {**counts, **({} if book is None else book.counts())}

    @property
    def message(self) -> str:
        """What should be known of the chosen image's annotations, e.g. that they are read-only."""
        book = self.book(self.session.selection.image)
        return "" if book is None else book.message

    # -- opening

    def open_image(self, layer: Image | None) -> None:
        """Find out which image a layer shows, and show its annotations."""
        if layer is None or layer in self._asked or self.sheet_of(layer) is not None:
            return
        self._asked.add(layer)
        if layer not in self._followed:
            self._followed.add(layer)
            layer.events.data.connect(self._pixels_changed)
            for name in ("scale", "translate", "rotate", "shear", "affine"):
                layer.events.emitters[name].connect(self._image_moved)
        source = ImageSource.of(layer, self.session.selection.settings_of(layer))
        found = partial(self._identified, weakref.ref(layer), source.data, self.project)
        run = partial(identify, source, self.project, frozenset(self._sheets))
        self._ask_about(layer, run, found)

    def _ask_about(self, layer: Image, run: Callable[[], Any], done: Callable[[Any], None]) -> None:
        ref = weakref.ref(layer)

        def failed(error: BaseException) -> None:
            if (still := ref()) is not None:
                self._asked.discard(still)
            self._waiting.clear()
            self.say(explain(error), "error")

        self.work_requested.emit(Work(run, done, failed))

    def _identified(
        self, ref: weakref.ref[Image], data: Any, project: Any, found: Identified
    ) -> None:
        layer, viewer = ref(), self.viewer
        if layer is not None:
            self._asked.discard(layer)
        now = None if layer is None else (layer.data[0] if layer.multiscale else layer.data)
        there = viewer is not None and layer in viewer.layers
        if layer is None or not there or now is not data or project is not self.project:
            if found.book is not None:
                found.book.close()
            return
        self._known = found.known
        self._hashes[layer] = found.record.hash
        sheet = self._sheets.get(found.record.hash)
        if sheet is None:
            sheet = self._new_sheet(layer, found)
        elif viewer is not None and sheet.image not in viewer.layers:
            sheet.lie_on(layer)
        size = found.record.pixel_size
        if size is not None and self.session.selection.settings_of(layer).pixel_size is None:
            self.session.selection.set_settings(layer, pixel_size=size, origin="user")
        self._refresh()
        sheet.show()
        self._layers_changed()
        waiting, self._waiting = self._waiting, []
        for act in waiting:
            act()
        self.changed.emit()

    def _new_sheet(self, layer: Image, found: Identified) -> Sheet:
        look = Look(self._colours, self._new_label, self._settle, self._ring(layer))
        sheet = Sheet(
            found.record, layer, self.project, self._shelf, look, self._not_saved, self._opened
        )
        self._sheets[found.record.hash] = sheet
        if found.book is not None:
            sheet.take(found.book)
        return sheet

    def _colours(self) -> dict[str, str]:
        return self._classes

    def _opened(self, book: AnnotationBook) -> None:
        book.changed.connect(self._book_changed)
        if book.message:
            self.say(book.message, "warning")

    def _book_changed(self, changes: tuple[Change, ...]) -> None:
        labels = {c.after.label for c in changes if c.after is not None}
        if not labels <= set(self._saved):
            self._refresh()
        self.changed.emit()

    def _not_saved(self, error: Exception) -> None:
        self.say(explain(error), "error")

    def _ring(self, layer: Image) -> float:
        """Return how large a ring around a cell of unknown size is, in pixels."""
        session = self.session
        results = session.cells.results if layer is session.selection.image else None
        if results is not None and len(results):
            return float(np.median(results.cells.diameters))
        data = layer.data[0] if layer.multiscale else layer.data
        shorter = float(min(data.shape[layer.ndim - 2 : layer.ndim]))
        model, size = session.selection.model, session.selection.settings_of(layer).pixel_size
        if model is not None and not model.bundle.card.takes_slides and size is not None:
            return min(model.bundle.card.crop.field_of_view_um / size * _CELL_SHARE, shorter / 4)
        return max(4.0, shorter * _RING_SHARE)

    def _when_open(self, act: Callable[[], object]) -> bool:
        """Do something with the chosen image now, or as soon as it is known which it is."""
        image = self.session.selection.image
        if image is None:
            self.say(self.session.advice.text, "warning")
            return False
        if self.sheet is not None:
            act()
            return True
        self._waiting.append(act)
        self.open_image(image)
        return False

    # -- projects

    def open_project(self, folder: str | os.PathLike[str] | Path) -> bool:
        """Keep annotations in another folder; those shown now are saved in the one before."""
        before = self.project
        if not self._open(folder):
            return False
        self._leave()
        self.say(f"Annotations are kept in {self.project.folder} from now on.")
        if before.folder != self.project.folder:
            self.changed.emit()
        self.open_image(self.session.selection.image)
        self.look_through()
        return True

    def _leave(self) -> None:
        """Close all books and take their layers away."""
        viewer, sheets = self.viewer, list(self._sheets.values())
        self._sheets.clear()
        self._hashes.clear()
        self._asked.clear()
        for sheet in sheets:
            layers = sheet.layers()
            sheet.close()
            for layer in layers:
                if viewer is not None and layer in viewer.layers:
                    viewer.layers.remove(layer)

    def flush(self) -> None:
        """Wait until all annotations are on the disk.

        Raises
        ------
        OSError
            If they cannot be written.
        """
        for book in self.books().values():
            book.flush()

    def opener(self) -> Opener:
        """Return what opens the project's images in a worker; takes the layers as they are now."""
        layers = {}
        for layer, hash_ in list(self._hashes.items()):
            layers[hash_] = ImageSource.of(layer, self.session.selection.settings_of(layer))
        return Opener(layers)

    # -- taking back

    @property
    def can_undo(self) -> bool:
        """Whether there is a change of the chosen image's annotations to take back."""
        book = self.book(self.session.selection.image)
        return book is not None and book.can_undo

    @property
    def can_redo(self) -> bool:
        """Whether there is a change to make again."""
        book = self.book(self.session.selection.image)
        return book is not None and book.can_redo

    def undo(self) -> None:
        """Take the last change of the chosen image's annotations back."""
        book = self.book(self.session.selection.image)
        if book is None or not book.can_undo:
            self.say("Nothing to undo in this image.")
        else:
            self._saving(book.undo)

    def redo(self) -> None:
        """Make the change again that was taken back last."""
        book = self.book(self.session.selection.image)
        if book is None or not book.can_redo:
            self.say("Nothing to redo in this image.")
        else:
            self._saving(book.redo)

    # -- what the viewer tells

    def _layers_changed(self) -> None:
        """Take note that layers of annotations have come; for subclasses."""

    def _layer_gone(self, event: Any) -> None:
        gone, viewer = event.value, self.viewer
        for key, sheet in list(self._sheets.items()):
            sheet.forget(gone)
            there = viewer is not None and sheet.image in viewer.layers
            if not there and not sheet.layers():
                # As long as one of its layers is there, what is done in it is kept.
                sheet.close()
                del self._sheets[key]
        self.changed.emit()

    def _image_moved(self, event: Any) -> None:
        sheet = self.sheet_of(event.source)
        if sheet is not None:
            sheet.follow_image()

    def _scale_given(self, settings: ImageSettings) -> None:
        sheet = self.sheet
        if sheet is not None:
            self._saving(partial(sheet.note_scale, settings.pixel_size))

    def _pixels_changed(self, event: Any) -> None:
        """Other pixels are another image, with annotations of its own."""
        layer, viewer = event.source, self.viewer
        self._asked.discard(layer)
        hash_ = self._hashes.pop(layer, None)
        sheet = None if hash_ is None else self._sheets.get(hash_)
        if sheet is not None and sheet.image is layer and hash_ is not None:
            layers = sheet.layers()
            sheet.close()
            del self._sheets[hash_]
            for mine in layers:
                if viewer is not None and mine in viewer.layers:
                    viewer.layers.remove(mine)
        if layer is self.session.selection.image:
            self.open_image(layer)


def _close_all(sheets: dict[str, Sheet]) -> None:
    for sheet in list(sheets.values()):
        sheet.close()
    sheets.clear()
