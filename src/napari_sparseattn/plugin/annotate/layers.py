"""Annotations as napari layers: cells as rings, regions as outlines; each follows the other."""

from __future__ import annotations

import dataclasses
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any

import numpy as np
import numpy.typing as npt

from ...training.data.annotations import Annotation, Change, ImageAnnotations, Kind, new_annotation
from ..core.layers import outline_ellipse

__all__ = ["CLASS", "NO_REGIONS", "CellSync", "LayerSync", "RegionSync", "Style"]

#: Name of the feature that holds the class.
CLASS = "class"
_UNKNOWN = "#9e9e9e"
#: Shapes that enclose nothing.
NO_REGIONS = ("line", "path")
#: A region is tinted so much with its class's colour.
_TINT = 0.15
_CLEAR = np.zeros(4, dtype=np.float32)


@dataclasses.dataclass(frozen=True)
class Style:
    """How annotations look; asked anew each time.

    Parameters
    ----------
    colours : callable
        Returns the colour of each class.
    label : callable
        Returns the class that a new annotation gets.
    find : callable
        Returns the classes that names mean, as they are kept.
    use_classes : callable
        Called with the classes that are about to be used.
    diameter : float
        Of a ring around a cell whose size is not known, in pixels.
    """

    colours: Callable[[], Mapping[str, str]]
    label: Callable[[], str]
    find: Callable[[Iterable[str]], list[str]]
    use_classes: Callable[[Iterable[str]], None]
    diameter: float


class LayerSync(ABC):
    """Keeps the rows of a layer and the annotations of one kind of one image the same.

    Rows are told apart by their place: napari says which it removes, and
    appends new ones.

    Parameters
    ----------
    layer : napari.layers.Layer
        Made by this plugin, so far without rows.
    annotations : ImageAnnotations
        Of the image; each change there shows in the layer, and each change in
        the layer is one change there.
    style : Style
        Colours and sizes.
    failed : callable
        Called with a `JournalError` where a change could not be saved; the
        layer then shows again what is kept.
    """

    kind: Kind

    def __init__(
        self,
        layer: Any,
        annotations: ImageAnnotations,
        style: Style,
        failed: Callable[[Exception], None],
    ) -> None:
        self.layer, self.annotations = layer, annotations
        self._style, self._failed = style, failed
        #: The annotation of each row; empty where it is none, such as a line among regions.
        self.ids: list[str] = []
        self._labels: list[str] = []
        self._busy = self._adding = False
        self.restore()
        layer.events.data.connect(self._follow_data)
        layer.events.features.connect(self._follow_features)
        layer.events.set_data.connect(self._follow_pasted)
        layer.events.mode.connect(self.show_new_class)
        annotations.changed.connect(self._follow_annotations)
        self.show_new_class()
        layer.editable = annotations.writable

    def release(self) -> None:
        """Stop following; the layer stays as it is."""
        self.layer.events.data.disconnect(self._follow_data)
        self.layer.events.features.disconnect(self._follow_features)
        self.layer.events.set_data.disconnect(self._follow_pasted)
        self.layer.events.mode.disconnect(self.show_new_class)
        self.annotations.changed.disconnect(self._follow_annotations)

    # -- what is selected

    @property
    def selected(self) -> list[str]:
        """The ids of the annotations that are selected in the layer."""
        rows = sorted(int(row) for row in self.layer.selected_data)
        return [self.ids[row] for row in rows if row < len(self.ids) and self.ids[row]]

    def select(self, ids: Sequence[str]) -> None:
        """Select annotations in the layer."""
        rows = {row for row, id_ in enumerate(self.ids) if id_ and id_ in ids}
        if rows != {int(row) for row in self.layer.selected_data}:
            self.layer.selected_data = rows

    # -- from the annotations to the layer

    def restore(self) -> None:
        """Show what is kept."""
        self._quietly(self._write_all)

    def recolour(self) -> None:
        """Give every row the colour of its class."""
        self._quietly(self._paint)

    def show_new_class(self, event: Any = None) -> None:
        """Let what is drawn next have the current class and its colour.

        napari takes those of what was selected last.
        """
        label = self._style.label()
        colour = colours_of(self._style.colours(), [label])[0]
        self._quietly(lambda: self._write_next(label, colour))

    def _follow_annotations(self, changes: tuple[Change, ...]) -> None:
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

    def _items(self) -> list[Annotation]:
        return [item for item in self.annotations if item.kind == self.kind]

    # -- from the layer to the annotations

    def _follow_data(self, event: Any) -> None:
        """Follow rows that were added, moved or removed."""
        if self._busy:
            return
        action = str(event.action)
        self._adding = action == "adding"
        if self._adding and not self._drawing:
            self.show_new_class()
        if action.endswith("ing"):
            return
        there = len(self._rows())
        gone = [int(row) for row in event.data_indices]
        if there < len(self.ids) and (action == "removed" or len(self.ids) - there == len(gone)):
            self._forget_rows(gone if there else range(len(self.ids)))
        self._follow(moved=True)

    def _follow_features(self, event: Any = None) -> None:
        # While points are dragged, every move tells of features too.
        if not self._busy and not self._adding and len(self._rows()) == len(self.ids):
            self._follow(moved=False)

    def _follow_pasted(self, event: Any = None) -> None:
        """Follow rows that were pasted, of which napari says nothing else."""
        waiting = self._busy or self._adding or self._drawing
        if not waiting and len(self._rows()) > len(self.ids):
            self._follow(moved=True)

    def _forget_rows(self, rows: Sequence[int]) -> None:
        gone = set(rows)
        removed = [id_ for row, id_ in enumerate(self.ids) if row in gone and id_]
        self._keep_rows([row for row in range(len(self.ids)) if row not in gone])
        self._change(lambda: self.annotations.remove(removed))

    def _keep_rows(self, rows: Sequence[int]) -> None:
        self.ids = [self.ids[row] for row in rows]
        self._labels = [self._labels[row] for row in rows]

    def _follow(self, *, moved: bool) -> None:
        """Bring the annotations up to date with the layer, as one change."""
        rows, labels = self._rows(), self._row_labels()
        if len(rows) < len(self.ids):
            # Nobody said which went: those that are left are where others were.
            self._forget_rows(range(len(rows), len(self.ids)))
        made: list[Annotation] = []
        known = len(self.ids)
        for row in self._changed_rows(rows, labels, moved):
            item = self.annotations.get(self.ids[row]) if self.ids[row] else None
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
        self._style.use_classes({item.label for item in items})
        self.annotations.put(items)
        kept = (self.annotations.get(item.id) for item in items)
        if any(
            there is None or there.label != item.label
            for there, item in zip(kept, items, strict=True)
        ):
            # Another rater's stays as it was: that of this one lies beside it.
            self._write_all()

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
            return (self._labels + [self._style.label()] * n)[:n]
        values = features[CLASS].tolist()[:n]
        values += [""] * (n - len(values))
        named = self._style.find(value if isinstance(value, str) else "" for value in values)
        return [name or self._style.label() for name in named]

    def _finish(self, *, moved: bool) -> None:
        """Note what the layer shows now, and put its looks in order."""
        if self._labels != self._feature_values():
            self.layer.features = {CLASS: np.array(self._labels, dtype=object)}
        if moved:
            self._remember()
        self._paint()

    def _feature_values(self) -> list[Any]:
        features = self.layer.features
        return features[CLASS].tolist() if CLASS in features.columns else []

    # -- for the kinds of layers

    @property
    def _drawing(self) -> bool:
        """Whether a row is not finished yet."""
        return False

    @abstractmethod
    def _rows(self) -> Sequence[Any]:
        """Return the rows of the layer."""

    @abstractmethod
    def _changed_rows(self, rows: Sequence[Any], labels: list[str], moved: bool) -> list[int]:
        """Return the known rows whose place or class is another."""

    @abstractmethod
    def _place(self, row: int) -> dict[str, Any] | None:
        """Return where a row lies, as values of `Annotation`; None if it is none."""

    @abstractmethod
    def _show(self, changes: tuple[Change, ...]) -> None:
        """Show changes of the annotations in the layer."""

    @abstractmethod
    def _write_all(self) -> None:
        """Make the layer's rows anew from the annotations."""

    @abstractmethod
    def _remember(self) -> None:
        """Keep a copy of the rows, to see later which have moved."""

    @abstractmethod
    def _paint(self) -> None:
        """Give the rows the colours of their classes."""

    @abstractmethod
    def _write_next(self, label: str, colour: npt.NDArray[np.float32]) -> None:
        """Give rows that are added from now on a class and its colour."""


class CellSync(LayerSync):
    """Cells as rings."""

    kind = "cell"
    _places: npt.NDArray[np.float64]

    def _rows(self) -> Any:
        return np.asarray(self.layer.data)

    def _changed_rows(self, rows: Sequence[Any], labels: list[str], moved: bool) -> list[int]:
        n = min(len(self.ids), len(rows))
        other = np.array([a != b for a, b in zip(labels[:n], self._labels[:n], strict=True)], bool)
        if moved and len(self._places) >= n:
            other |= (np.asarray(rows)[:n] != self._places[:n]).any(axis=1)
        return [int(row) for row in np.flatnonzero(other)]

    def _keep_rows(self, rows: Sequence[int]) -> None:
        super()._keep_rows(rows)
        self._places = self._places[list(rows)]

    def _place(self, row: int) -> dict[str, Any]:
        point = np.asarray(self.layer.data[row], dtype=np.float64)
        y, x = (float(value) for value in point[-2:])
        return {"position": (y, x), **_plane(point[:-2])}

    def _show(self, changes: tuple[Change, ...]) -> None:
        selected = self.selected
        if all(c.before and c.after and c.before.centre == c.after.centre for c in changes):
            self._write_labels()
        else:
            self._write_all()
        self.select(selected)

    def _write_labels(self) -> None:
        found = (self.annotations.get(id_) for id_ in self.ids)
        self._labels = ["" if item is None else item.label for item in found]
        self.layer.features = {CLASS: np.array(self._labels, dtype=object)}
        self._paint()

    def _write_all(self) -> None:
        own, layer = self._items(), self.layer
        self.ids, self._labels = [item.id for item in own], [item.label for item in own]
        data = np.zeros((len(own), layer.ndim))
        for row, item in enumerate(own):
            data[row] = [*_ahead(item, layer.ndim - 2), *(item.position or (0.0, 0.0))]
        layer.selected_data = set()
        layer.data = data
        layer.features = {CLASS: np.array(self._labels, dtype=object)}
        if own:
            layer.size = np.array([item.diameter_px or self._style.diameter for item in own])
        self._remember()
        self._paint()

    def _remember(self) -> None:
        self._places = np.array(self.layer.data, dtype=np.float64)

    def _paint(self) -> None:
        # Each colour that is set redraws the scene.
        wanted = colours_of(self._style.colours(), self._labels)
        if not np.array_equal(self.layer.border_color, wanted):
            self.layer.border_color = wanted
        if self.layer.face_color.any():
            self.layer.face_color = np.zeros((len(wanted), 4))

    def _write_next(self, label: str, colour: npt.NDArray[np.float32]) -> None:
        # What is selected would take these too.
        with self.layer.block_update_properties():
            if self.layer.feature_defaults[CLASS].tolist() != [label]:
                self.layer.feature_defaults = {CLASS: label}
            if not _same_colour(self.layer.current_border_color, colour):
                self.layer.current_border_color = colour
            if not _same_colour(self.layer.current_face_color, _CLEAR):
                self.layer.current_face_color = _CLEAR


class RegionSync(LayerSync):
    """Regions as polygons; rectangles and ellipses are taken for what they enclose."""

    kind = "region"
    _places: list[npt.NDArray[Any]]

    @property
    def _drawing(self) -> bool:
        return str(self.layer.mode).startswith("add_")

    def _rows(self) -> list[npt.NDArray[Any]]:
        return list(self.layer.data)

    def _changed_rows(self, rows: Sequence[Any], labels: list[str], moved: bool) -> list[int]:
        n = min(len(self.ids), len(rows))
        return [
            row
            for row in range(n)
            if labels[row] != self._labels[row]
            or (moved and not np.array_equal(rows[row], self._places[row]))
        ]

    def _keep_rows(self, rows: Sequence[int]) -> None:
        super()._keep_rows(rows)
        self._places = [self._places[row] for row in rows]

    def _place(self, row: int) -> dict[str, Any] | None:
        kind, corners = self.layer.shape_type[row], np.asarray(self.layer.data[row], np.float64)
        if kind in NO_REGIONS or len(corners) < 3:
            return None
        outline = outline_ellipse(corners[:, -2:]) if kind == "ellipse" else corners[:, -2:]
        polygon = tuple((float(y), float(x)) for y, x in outline)
        return {"polygon": polygon, **_plane(corners[0, :-2])}

    def _show(self, changes: tuple[Change, ...]) -> None:
        """Change single shapes: making all anew is slow."""
        selected = self.selected
        if self._drawing:
            self.layer.mode = "pan_zoom"  # ends the outline that is being drawn
        moved = [c for c in changes if not _same_outline(c)]
        old = {c.before.id for c in moved if c.before is not None}
        rows = [row for row, id_ in enumerate(self.ids) if id_ in old]
        if rows:
            self.layer.selected_data = set()
            self.layer.remove(rows)
            gone = set(rows)
            self._keep_rows([row for row in range(len(self.ids)) if row not in gone])
        self._append([c.after for c in moved if c.after is not None and c.after.kind == "region"])
        self._labels = [
            was if (item := self.annotations.get(id_)) is None else item.label
            for id_, was in zip(self.ids, self._labels, strict=True)
        ]
        self._show_features()
        self.select(selected)

    def _write_all(self) -> None:
        if len(self.layer.data):
            self.layer.selected_data = set()
            self.layer.remove(list(range(len(self.layer.data))))
        self.ids, self._labels, self._places = [], [], []
        self._append(self._items())
        self._show_features()

    def _append(self, items: Sequence[Annotation]) -> None:
        if not items:
            return
        ndim, outlines = self.layer.ndim, []
        for item in items:
            corners = np.zeros((len(item.outline), ndim))
            corners[:, :-2] = _ahead(item, ndim - 2)
            corners[:, -2:] = item.outline
            outlines.append(corners)
        self.layer.add(outlines, shape_type="polygon")
        self.ids += [item.id for item in items]
        self._labels += [item.label for item in items]

    def _show_features(self) -> None:
        self.layer.features = {CLASS: np.array(self._labels, dtype=object)}
        self._remember()
        self._paint()

    def _remember(self) -> None:
        self._places = [np.array(corners) for corners in self.layer.data]

    def _paint(self) -> None:
        if not len(self.layer.data):
            return
        colours = colours_of(self._style.colours(), self._labels)
        if not np.array_equal(self.layer.edge_color, colours):
            self.layer.edge_color = colours
        tinted = colours.copy()
        tinted[:, 3] = _TINT
        if not np.array_equal(self.layer.face_color, tinted):
            self.layer.face_color = tinted

    def _write_next(self, label: str, colour: npt.NDArray[np.float32]) -> None:
        with self.layer.block_update_properties():
            self.layer.feature_defaults = {CLASS: label}
            self.layer.current_edge_color = colour
            self.layer.current_face_color = np.array([*colour[:3], _TINT])


def _same_colour(current: Any, wanted: Any) -> bool:
    from napari.utils.colormaps.standardize_color import transform_color

    return bool(np.allclose(transform_color(current)[0], wanted, atol=1 / 512))


def _plane(ahead: npt.NDArray[np.float64]) -> dict[str, int]:
    """Return the plane of a position: the last axis ahead of y and x but one is time."""
    index = [round(float(value)) for value in ahead]
    return dict(zip(("t", "z"), index, strict=False))


def _ahead(item: Annotation, axes: int) -> tuple[int, ...]:
    return (item.t, item.z)[:axes]


def _same_outline(change: Change) -> bool:
    before, after = change.before, change.after
    return before is not None and after is not None and before.polygon == after.polygon


def colours_of(colours: Mapping[str, str], labels: Sequence[str]) -> npt.NDArray[np.float32]:
    """Return the colour (N, 4) of each class name, 0 to 1; grey for unknown ones."""
    table = {
        name: [int(colours.get(name, _UNKNOWN)[i : i + 2], 16) / 255 for i in (1, 3, 5)] + [1.0]
        for name in set(labels)
    }
    return np.array([table[name] for name in labels], dtype=np.float32).reshape(-1, 4)
