"""What rows of a layer and annotations in a book have in common: each follows the other."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any

import numpy as np
import numpy.typing as npt

from ...training.data.annotations import Annotation, Change, ImageAnnotations, Kind, new_annotation

__all__ = ["CLASS", "Look", "Mirror", "rgba"]

#: Name of the feature that holds the class.
CLASS = "class"
_UNKNOWN = "#9e9e9e"


@dataclasses.dataclass(frozen=True)
class Look:
    """How annotations look; asked anew each time.

    Parameters
    ----------
    colours : callable
        Returns the colour of each class.
    label : callable
        Returns the class that a new annotation gets.
    settle : callable
        Called with the classes that are about to be used.
    diameter : float
        Of a ring around a cell whose size is not known, in pixels.
    """

    colours: Callable[[], Mapping[str, str]]
    label: Callable[[], str]
    settle: Callable[[Iterable[str]], None]
    diameter: float


class Mirror:
    """Keeps the rows of a layer and the annotations of one kind in a book the same.

    Rows are told apart by their place: napari says which it removes, and
    appends new ones.

    Parameters
    ----------
    layer : napari.layers.Layer
        Made by this plugin, so far without rows.
    book : ImageAnnotations
        Each change there shows in the layer, and each change in the layer is
        one change there.
    look : Look
        Colours and sizes.
    failed : callable
        Called with a `JournalError` where a change could not be saved; the
        layer then shows again what the book has.
    """

    kind: Kind

    def __init__(
        self,
        layer: Any,
        book: ImageAnnotations,
        look: Look,
        failed: Callable[[Exception], None],
    ) -> None:
        self.layer, self.book = layer, book
        self._look, self._failed = look, failed
        #: The annotation of each row; empty where it is none, such as a line among regions.
        self.ids: list[str] = []
        self._labels: list[str] = []
        self._busy = self._adding = False
        self.restore()
        layer.events.data.connect(self._edited)
        layer.events.features.connect(self._relabelled)
        layer.events.set_data.connect(self._drawn)
        layer.events.mode.connect(self.dress_next)
        book.changed.connect(self._book_changed)
        self.dress_next()
        layer.editable = book.writable

    def release(self) -> None:
        """Stop following; the layer stays as it is."""
        self.layer.events.data.disconnect(self._edited)
        self.layer.events.features.disconnect(self._relabelled)
        self.layer.events.set_data.disconnect(self._drawn)
        self.layer.events.mode.disconnect(self.dress_next)
        self.book.changed.disconnect(self._book_changed)

    # -- what is selected

    @property
    def selected(self) -> list[str]:
        """The ids of the annotations that are selected in the layer."""
        rows = sorted(self._layer_selection())
        return [self.ids[row] for row in rows if row < len(self.ids) and self.ids[row]]

    def select(self, ids: Sequence[str]) -> None:
        """Select annotations in the layer."""
        self._set_layer_selection({row for row, id_ in enumerate(self.ids) if id_ in ids and id_})

    # -- from the book to the layer

    def restore(self) -> None:
        """Show what the book has."""
        self._quietly(self._write_all)

    def dress(self) -> None:
        """Give every row the colour of its class."""
        self._quietly(self._paint)

    def dress_next(self, event: Any = None) -> None:
        """Let what is drawn next have the current class and its colour.

        napari takes those of what was selected last.
        """
        label = self._look.label()
        colour = rgba(self._look.colours(), [label])[0]
        self._quietly(lambda: self._write_next(label, colour))

    def _book_changed(self, changes: tuple[Change, ...]) -> None:
        if self._busy:
            return
        kinds = {item.kind for c in changes for item in (c.before, c.after) if item is not None}
        if self.kind in kinds:
            self._quietly(lambda: self._show(changes))

    def _quietly(self, write: Callable[[], None]) -> None:
        """Write to the layer without taking that for the user's doing."""
        before, self._busy = self._busy, True
        try:
            write()
        finally:
            self._busy = before

    def _own(self) -> list[Annotation]:
        return [item for item in self.book if item.kind == self.kind]

    # -- from the layer to the book

    def _edited(self, event: Any) -> None:
        """Follow rows that were added, moved or removed."""
        if self._busy:
            return
        action = str(event.action)
        self._adding = action == "adding"
        if self._adding and not self._drawing:
            self.dress_next()
        if action.endswith("ing"):
            return
        there = len(self._rows())
        gone = [int(row) for row in event.data_indices]
        if there < len(self.ids) and (action == "removed" or len(self.ids) - there == len(gone)):
            self._forget_rows(gone if there else range(len(self.ids)))
        self._follow(moved=True)

    def _relabelled(self, event: Any = None) -> None:
        # While points are dragged, every move tells of features too.
        if not self._busy and not self._adding and len(self._rows()) == len(self.ids):
            self._follow(moved=False)

    def _drawn(self, event: Any = None) -> None:
        """Follow rows that were pasted, of which napari says nothing else."""
        waiting = self._busy or self._adding or self._drawing
        if not waiting and len(self._rows()) > len(self.ids):
            self._follow(moved=True)

    def _forget_rows(self, rows: Sequence[int]) -> None:
        gone = set(rows)
        removed = [id_ for row, id_ in enumerate(self.ids) if row in gone and id_]
        self._keep_rows([row for row in range(len(self.ids)) if row not in gone])
        self._change(lambda: self.book.remove(removed))

    def _keep_rows(self, rows: Sequence[int]) -> None:
        self.ids = [self.ids[row] for row in rows]
        self._labels = [self._labels[row] for row in rows]

    def _follow(self, *, moved: bool) -> None:
        """Bring the book up to date with the layer, as one change."""
        rows, labels = self._rows(), self._row_labels()
        if len(rows) < len(self.ids):
            # Nobody said which went: those that are left are where others were.
            self._forget_rows(range(len(rows), len(self.ids)))
        made: list[Annotation] = []
        known = len(self.ids)
        for row in self._differing(rows, labels, moved):
            item = self.book.get(self.ids[row]) if self.ids[row] else None
            if item is not None:
                place = self._place(row) if moved else {}
                made.append(dataclasses.replace(item, label=labels[row], **(place or {})))
        for row in range(known, len(rows)):
            place = self._place(row)
            item = None if place is None else new_annotation(self.kind, labels[row], **place)
            self.ids.append("" if item is None else item.id)
            if item is not None:
                made.append(item)
        self._labels = labels[: len(self.ids)]
        if made:
            self._change(lambda: self._put(made))
        if made or moved:
            self._quietly(lambda: self._finish(moved=moved))

    def _put(self, items: Sequence[Annotation]) -> None:
        self._look.settle({item.label for item in items})
        self.book.put(items)

    def _change(self, change: Callable[[], None]) -> None:
        try:
            self._quietly(change)
        except (OSError, ValueError) as error:
            self._quietly(self._write_all)
            self._failed(error)

    def _row_labels(self) -> list[str]:
        """Return the class of each row; a row without one gets that of new ones."""
        n, features = len(self._rows()), self.layer.features
        if CLASS not in features.columns:
            return (self._labels + [self._look.label()] * n)[:n]
        values = features[CLASS].tolist()[:n]
        values += [""] * (n - len(values))
        named = [value.strip() if isinstance(value, str) else "" for value in values]
        return [name[:200] or self._look.label() for name in named]

    def _finish(self, *, moved: bool) -> None:
        """Note what the layer shows now, and put its looks in order."""
        if self._labels != self._feature_values():
            self.layer.features = {CLASS: np.array(self._labels, dtype=object)}
        if moved:
            self._note()
        self._paint()

    def _feature_values(self) -> list[Any]:
        features = self.layer.features
        return features[CLASS].tolist() if CLASS in features.columns else []

    # -- for the kinds of layers

    @property
    def _drawing(self) -> bool:
        """Whether a row is not finished yet."""
        return False

    def _rows(self) -> Sequence[Any]:
        raise NotImplementedError

    def _differing(self, rows: Sequence[Any], labels: list[str], moved: bool) -> list[int]:
        """Return the known rows whose place or class is another."""
        raise NotImplementedError

    def _place(self, row: int) -> dict[str, Any] | None:
        """Return where a row lies, as values of `Annotation`; None if it is none."""
        raise NotImplementedError

    def _show(self, changes: tuple[Change, ...]) -> None:
        raise NotImplementedError

    def _write_all(self) -> None:
        raise NotImplementedError

    def _note(self) -> None:
        raise NotImplementedError

    def _paint(self) -> None:
        raise NotImplementedError

    def _write_next(self, label: str, colour: npt.NDArray[np.float32]) -> None:
        raise NotImplementedError

    def _layer_selection(self) -> set[int]:
        raise NotImplementedError

    def _set_layer_selection(self, rows: set[int]) -> None:
        raise NotImplementedError


def rgba(colours: Mapping[str, str], labels: Sequence[str]) -> npt.NDArray[np.float32]:
    """Return the colour (N, 4) of each class name, 0 to 1; grey for unknown ones."""
    table = {
        name: [int(colours.get(name, _UNKNOWN)[i : i + 2], 16) / 255 for i in (1, 3, 5)] + [1.0]
        for name in set(labels)
    }
    return np.array([table[name] for name in labels], dtype=np.float32).reshape(-1, 4)
