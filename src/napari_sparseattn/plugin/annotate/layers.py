"""Annotations as napari layers: cells as rings, regions as outlines."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import numpy.typing as npt

from ...training.data.annotations import Annotation, Change
from .mirror import CLASS, Mirror, rgba

__all__ = ["NO_REGIONS", "CellMirror", "RegionMirror", "ellipse"]

#: Shapes that enclose nothing.
NO_REGIONS = ("line", "path")
#: A region is tinted so much with its class's colour.
_TINT = 0.15
_ELLIPSE_CORNERS = 64
_CLEAR = np.zeros(4, dtype=np.float32)


class CellMirror(Mirror):
    """Cells as rings."""

    kind = "cell"
    _seen: npt.NDArray[np.float64]

    def _rows(self) -> Any:
        return np.asarray(self.layer.data)

    def _differing(self, rows: Sequence[Any], labels: list[str], moved: bool) -> list[int]:
        n = min(len(self.ids), len(rows))
        other = np.array([a != b for a, b in zip(labels[:n], self._labels[:n], strict=True)], bool)
        if moved and len(self._seen) >= n:
            other |= (np.asarray(rows)[:n] != self._seen[:n]).any(axis=1)
        return [int(row) for row in np.flatnonzero(other)]

    def _keep_rows(self, rows: Sequence[int]) -> None:
        super()._keep_rows(rows)
        self._seen = self._seen[list(rows)]

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
        found = (self.book.get(id_) for id_ in self.ids)
        self._labels = ["" if item is None else item.label for item in found]
        self.layer.features = {CLASS: np.array(self._labels, dtype=object)}
        self._paint()

    def _write_all(self) -> None:
        own, layer = self._own(), self.layer
        self.ids, self._labels = [item.id for item in own], [item.label for item in own]
        data = np.zeros((len(own), layer.ndim))
        for row, item in enumerate(own):
            data[row] = [*_ahead(item, layer.ndim - 2), *(item.position or (0.0, 0.0))]
        layer.selected_data = set()
        layer.data = data
        layer.features = {CLASS: np.array(self._labels, dtype=object)}
        if own:
            layer.size = np.array([item.diameter_px or self._look.diameter for item in own])
        self._note()
        self._paint()

    def _note(self) -> None:
        self._seen = np.array(self.layer.data, dtype=np.float64)

    def _paint(self) -> None:
        # Each colour that is set redraws the scene.
        wanted = rgba(self._look.colours(), self._labels)
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

    def _layer_selection(self) -> set[int]:
        return {int(row) for row in self.layer.selected_data}

    def _set_layer_selection(self, rows: set[int]) -> None:
        if rows != self._layer_selection():
            self.layer.selected_data = rows


class RegionMirror(Mirror):
    """Regions as polygons; rectangles and ellipses are taken for what they enclose."""

    kind = "region"
    _seen: list[npt.NDArray[Any]]

    @property
    def _drawing(self) -> bool:
        return str(self.layer.mode).startswith("add_")

    def _rows(self) -> list[npt.NDArray[Any]]:
        return list(self.layer.data)

    def _differing(self, rows: Sequence[Any], labels: list[str], moved: bool) -> list[int]:
        n = min(len(self.ids), len(rows))
        return [
            row
            for row in range(n)
            if labels[row] != self._labels[row]
            or (moved and not np.array_equal(rows[row], self._seen[row]))
        ]

    def _keep_rows(self, rows: Sequence[int]) -> None:
        super()._keep_rows(rows)
        self._seen = [self._seen[row] for row in rows]

    def _place(self, row: int) -> dict[str, Any] | None:
        kind, corners = self.layer.shape_type[row], np.asarray(self.layer.data[row], np.float64)
        if kind in NO_REGIONS or len(corners) < 3:
            return None
        outline = ellipse(corners[:, -2:]) if kind == "ellipse" else corners[:, -2:]
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
            was if (item := self.book.get(id_)) is None else item.label
            for id_, was in zip(self.ids, self._labels, strict=True)
        ]
        self._finish_show()
        self.select(selected)

    def _write_all(self) -> None:
        if len(self.layer.data):
            self.layer.selected_data = set()
            self.layer.remove(list(range(len(self.layer.data))))
        self.ids, self._labels, self._seen = [], [], []
        self._append(self._own())
        self._finish_show()

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

    def _finish_show(self) -> None:
        self.layer.features = {CLASS: np.array(self._labels, dtype=object)}
        self._note()
        self._paint()

    def _note(self) -> None:
        self._seen = [np.array(corners) for corners in self.layer.data]

    def _paint(self) -> None:
        if not len(self.layer.data):
            return
        colours = rgba(self._look.colours(), self._labels)
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

    def _layer_selection(self) -> set[int]:
        return {int(row) for row in self.layer.selected_data}

    def _set_layer_selection(self, rows: set[int]) -> None:
        if rows != self._layer_selection():
            self.layer.selected_data = rows


def _same_colour(current: Any, wanted: Any) -> bool:
    from napari.utils.colormaps.standardize_color import transform_color

    return bool(np.allclose(transform_color(current)[0], wanted, atol=1 / 512))


def _plane(ahead: npt.NDArray[np.float64]) -> dict[str, int]:
    """Return the plane of a position: the last axis ahead of y and x but one is time."""
    index = [round(float(value)) for value in ahead]
    return dict(zip(("t", "z"), index, strict=False))


def _ahead(item: Annotation, axes: int) -> tuple[int, ...]:
    return (item.t, item.z)[:axes]


def ellipse(corners: npt.NDArray[np.float64]) -> npt.NDArray[np.float64]:
    """Return the outline of an ellipse from the four corners around it."""
    centre = corners.mean(axis=0)
    down, right = (corners[3] - corners[0]) / 2, (corners[1] - corners[0]) / 2
    angle = np.linspace(0, 2 * np.pi, _ELLIPSE_CORNERS, endpoint=False)[:, None]
    outline: npt.NDArray[np.float64] = centre + np.cos(angle) * right + np.sin(angle) * down
    return outline


def _same_outline(change: Change) -> bool:
    before, after = change.before, change.after
    return before is not None and after is not None and before.polygon == after.polygon
