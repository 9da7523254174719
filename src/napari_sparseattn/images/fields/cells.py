"""Cells of a field: found, or taken from the user's own labels or points.

Positions are in pixels with a pixel's centre at its index, as in napari and
scikit-image. A box reaches from the outer edge of its first pixel to the
outer edge of its last: a cell on rows 3 to 5 has ``row0 = 2.5, row1 = 5.5``.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any, Literal, get_args

import numpy as np
import numpy.typing as npt

from ..normalise import level_outside, to_float
from ._plane import finite_image
from .field import Field
from .learned import SEGMENTERS, label_learned
from .scale import MeasuredScale, doubt_scale, measure_scale, measure_smear

if TYPE_CHECKING:
    from ._segment import Smear

__all__ = [
    "Cells",
    "Method",
    "cells_from_labels",
    "cells_from_points",
    "check_labels",
    "find_cells",
    "knows_platelets",
]

#: Pixels that touch by a corner hang together.
_TOUCHING = np.ones((3, 3), int)
_MOST_NAMED = 5
#: Pixels whose labels are looked at together; above such a value they are sorted, not counted.
_STRIP, _MOST_COUNTED = 2**22, 1_000_000

#: How cells are found: by this package, or by segmenters of `learned` that a user has.
Method = Literal["auto", "white-cells", "red-cells", "phase", "cellpose", "instanseg", "stardist"]


@dataclasses.dataclass(frozen=True, eq=False)
class Cells:
    """Where the cells of one image are.

    Parameters
    ----------
    centres : numpy.ndarray, shape (N, 2), float64
        Row and column in pixels.
    boxes : numpy.ndarray, shape (N, 4), float64
        ``row0, col0, row1, col1`` in pixels, edge to edge.
    at_border : numpy.ndarray, shape (N,), bool
        True where the cell touches the image's edge and may be cut.
    ids : numpy.ndarray, shape (N,), int64
        The user's label values, or 1 to N. Unique and positive.
    labels : numpy.ndarray, optional
        Label image (H, W) whose values are the ids, 0 for background.
    pixel_size : float, optional
        µm per pixel.
    scale : MeasuredScale, optional
        What the red cells of a stained smear say of it.
    notes : tuple of str
        What the user should know, such as that a label lies in two pieces.

    Raises
    ------
    ValueError
        If shapes do not agree, or a position is not finite, or an id repeats.
    """

    def __repr__(self) -> str:
        scale = "" if self.pixel_size is None else f", {self.pixel_size:.4g} µm per pixel"
        return f"Cells({len(self)}{', with labels' if self.labels is not None else ''}{scale})"

    centres: npt.NDArray[np.float64]
    boxes: npt.NDArray[np.float64]
    at_border: npt.NDArray[np.bool_]
    ids: npt.NDArray[np.int64]
    labels: npt.NDArray[Any] | None = None
    pixel_size: float | None = None
    scale: MeasuredScale | None = None
    notes: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        n = len(self.centres)
        shapes = {"centres": (n, 2), "boxes": (n, 4), "at_border": (n,), "ids": (n,)}
        types: dict[str, type[Any]] = {
            "centres": np.float64,
            "boxes": np.float64,
            "at_border": np.bool_,
            "ids": np.int64,
        }
        for name, shape in shapes.items():
            array: npt.NDArray[Any] = np.asarray(getattr(self, name), dtype=types[name])
            if array.shape != shape:
                raise ValueError(f"{name} of {n} cells must have shape {shape}, got {array.shape}")
            object.__setattr__(self, name, array)
        if not (np.isfinite(self.centres).all() and np.isfinite(self.boxes).all()):
            raise ValueError("positions of cells must be finite numbers")
        if np.any(self.boxes[:, :2] > self.boxes[:, 2:]):
            raise ValueError(
                "boxes must be row0, col0, row1, col1 with row0 <= row1 and col0 <= col1"
            )
        if n and (self.ids.min() < 1 or len(np.unique(self.ids)) < n):
            raise ValueError("ids of cells must be positive and differ from each other")

    def __len__(self) -> int:
        return len(self.centres)

    @property
    def diameters(self) -> npt.NDArray[np.float64]:
        """Size of each cell in pixels: the square root of its box's area."""
        sides = self.boxes[:, 2:] - self.boxes[:, :2]
        return np.sqrt(sides[:, 0] * sides[:, 1])

    def subset(self, index: npt.ArrayLike | slice) -> Cells:
        """Return some of the cells, by numpy index or mask; labels are kept whole."""
        chosen = index if isinstance(index, slice) else np.asarray(index)
        if isinstance(chosen, np.ndarray) and chosen.size == 0 and chosen.dtype != bool:
            chosen = chosen.astype(np.intp)
        return dataclasses.replace(
            self,
            centres=self.centres[chosen],
            boxes=self.boxes[chosen],
            at_border=self.at_border[chosen],
            ids=self.ids[chosen],
        )

    def nearest(self, position: Sequence[float], within: float | None = None) -> int | None:
        """Return the index of the cell at a position, or None.

        The label image decides where it has a cell. Else, of the cells whose
        box contains the position, the one with the nearest centre; if no box
        does, the nearest centre within `within` pixels.

        Parameters
        ----------
        position : sequence of two floats
            Row and column.
        within : float, optional
            How far the centre may be if no box contains the position. None
            takes boxes only.
        """
        point = np.asarray(position, dtype=np.float64)
        if point.shape != (2,):
            raise ValueError(f"a position is a row and a column, got {position!r}")
        if len(self) == 0 or not np.isfinite(point).all():
            return None
        labelled = self._label_at(point)
        if labelled is not None:
            return labelled
        distance = np.hypot(*(self.centres - point).T)
        inside = np.all((self.boxes[:, :2] <= point) & (point <= self.boxes[:, 2:]), axis=1)
        if inside.any():
            return int(np.argmin(np.where(inside, distance, np.inf)))
        best = int(np.argmin(distance))
        return best if within is not None and distance[best] <= within else None

    def _label_at(self, point: npt.NDArray[np.float64]) -> int | None:
        if self.labels is None:
            return None
        row, column = (int(v) for v in np.floor(point + 0.5))
        if not (0 <= row < self.labels.shape[0] and 0 <= column < self.labels.shape[1]):
            return None
        found = np.flatnonzero(self.ids == int(self.labels[row, column]))
        return int(found[0]) if len(found) else None


def cells_from_labels(labels: npt.NDArray[Any], pixel_size: float | None = None) -> Cells:
    """Take cells from a label image.

    Parameters
    ----------
    labels : numpy.ndarray, shape (H, W), integer or bool
        0 is background; pixels of one value are one cell, even where they do
        not touch. A bool mask has its connected parts taken as cells.
    pixel_size : float, optional
        µm per pixel.

    Returns
    -------
    Cells
        In ascending order of label value; none where all is background. Its
        `notes` name the labels that lie in several pieces.

    Raises
    ------
    ValueError
        If the labels are not 2-D, not integers, or negative, or above 2**63.
    """
    cells = _take_labels(np.asanyarray(labels), pixel_size)
    note = _describe_pieces(cells)
    return dataclasses.replace(cells, notes=(note,)) if note else cells


def _describe_pieces(cells: Cells) -> str:
    """Return a sentence on labels whose pixels do not hang together; empty if there are none."""
    import scipy.ndimage

    if cells.labels is None:
        return ""
    apart = []
    corners = np.rint(cells.boxes + 0.5).astype(np.intp)
    for number, (top, left, bottom, right) in zip(cells.ids, corners, strict=True):
        own = cells.labels[top:bottom, left:right] == number
        if scipy.ndimage.label(own, _TOUCHING)[1] > 1:
            apart.append(int(number))
    if not apart:
        return ""
    named = ", ".join(map(str, apart[:_MOST_NAMED])) + (" …" if len(apart) > _MOST_NAMED else "")
    what = "label lies" if len(apart) == 1 else "labels lie"
    return (
        f"{len(apart)} {what} in several pieces ({named}), each taken for one cell: give pieces "
        "that are cells of their own a label of their own"
    )


def _take_labels(labels: npt.NDArray[Any], pixel_size: float | None) -> Cells:
    if labels.ndim != 2:
        raise ValueError(
            f"labels must be one image (H, W), got shape {labels.shape}; choose one frame"
        )
    if labels.dtype == bool:
        import scipy.ndimage

        labels = scipy.ndimage.label(labels)[0]
    if not np.issubdtype(labels.dtype, np.integer):
        raise ValueError(
            f"labels must be integers, got {labels.dtype}; convert them, e.g. astype(int)"
        )
    ids, centres, corners = _measure_labels(labels)
    low, high = corners[:, :2], corners[:, 2:]
    border = np.any(low == 0, axis=1) | np.any(high == np.subtract(labels.shape, 1), axis=1)
    boxes = np.hstack([low - 0.5, high + 0.5])
    return Cells(centres, boxes, border, ids, labels, pixel_size)


def _measure_labels(
    labels: npt.NDArray[Any],
) -> tuple[npt.NDArray[np.int64], npt.NDArray[np.float64], npt.NDArray[np.float64]]:
    """Return the values of n labels, their middles (n, 2), and first and last pixels (n, 4)."""
    least, most = int(labels.min(initial=0)), int(labels.max(initial=0))
    if least < 0 or most > np.iinfo(np.int64).max:
        raise ValueError("label values must be between 0 and 2**63 - 1")
    ids, sums, corners = np.empty(0, np.int64), np.empty((0, 3)), np.empty((0, 4))
    # Strip by strip: the places of all labelled pixels of a large image would not fit.
    height = max(1, _STRIP // max(1, labels.shape[1]))
    for top in range(0, labels.shape[0], height):
        part = labels[top : top + height]
        rows, columns = np.nonzero(part)
        here, which = _number(part[rows, columns], most)
        if not len(here):
            continue
        rows = rows + top
        n = len(here)
        count = np.bincount(which, minlength=n)
        added = np.stack([count, *(np.bincount(which, v, n) for v in (rows, columns))], axis=1)
        reach = np.repeat([[np.inf, np.inf, -np.inf, -np.inf]], n, axis=0)
        for axis, places in enumerate((rows, columns)):
            np.minimum.at(reach[:, axis], which, places)
            np.maximum.at(reach[:, axis + 2], which, places)
        every = np.union1d(ids, here)
        old, new = np.searchsorted(every, ids), np.searchsorted(every, here)
        grown = np.zeros((len(every), 3))
        grown[old] = sums
        grown[new] += added
        wide = np.repeat([[np.inf, np.inf, -np.inf, -np.inf]], len(every), axis=0)
        wide[old] = corners
        wide[new] = np.hstack(
            [np.minimum(wide[new, :2], reach[:, :2]), np.maximum(wide[new, 2:], reach[:, 2:])]
        )
        ids, sums, corners = every, grown, wide
    return ids, sums[:, 1:] / sums[:, :1], corners


def _number(
    values: npt.NDArray[Any], most: int
) -> tuple[npt.NDArray[np.int64], npt.NDArray[np.intp]]:
    """Return the different values in order, and which of them each value is."""
    if most > _MOST_COUNTED:
        ids, which = np.unique(values.astype(np.int64), return_inverse=True)
        return ids, which
    there = np.bincount(values.astype(np.intp), minlength=most + 1) > 0
    ids = np.flatnonzero(there).astype(np.int64)
    return ids, (np.cumsum(there) - 1)[values.astype(np.intp)]


def check_labels(cells: Cells, shape: tuple[int, int]) -> None:
    """Refuse cells whose label image does not lie on an image of this height and width.

    Raises
    ------
    ValueError
        If there are labels, and they have another shape.
    """
    if cells.labels is not None and cells.labels.shape != shape:
        raise ValueError(
            f"the labels are {cells.labels.shape[0]} x {cells.labels.shape[1]} pixels, the image "
            f"{shape[0]} x {shape[1]}. Give labels that were made on this image."
        )


def cells_from_points(
    points: npt.ArrayLike,
    shape: tuple[int, int],
    *,
    diameter: float,
    pixel_size: float | None = None,
) -> Cells:
    """Take cells from points the user placed.

    Parameters
    ----------
    points : array_like, shape (N, 2)
        Row and column of the centres in pixels.
    shape : (int, int)
        Height and width of the image.
    diameter : float
        Side of the box around each point, in pixels.
    pixel_size : float, optional
        µm per pixel.

    Returns
    -------
    Cells
        One per point in the points' order; boxes are clipped to the image.

    Raises
    ------
    ValueError
        If a point lies outside of the image or is not finite, or the diameter
        is not positive.
    """
    centres = np.asarray(points, dtype=np.float64)
    if centres.size == 0:
        centres = centres.reshape(0, 2)
    if centres.ndim != 2 or centres.shape[1] != 2:
        raise ValueError(f"points must have shape (N, 2), got {centres.shape}; choose one frame")
    if not (np.isfinite(diameter) and diameter > 0):
        raise ValueError(f"the diameter must be a positive number of pixels, got {diameter}")
    edge = np.asarray(shape, dtype=np.float64) - 0.5
    outside = ~np.all((centres >= -0.5) & (centres <= edge), axis=1)
    if outside.any():
        first = centres[np.flatnonzero(outside)[0]]
        raise ValueError(
            f"{np.count_nonzero(outside)} of {len(centres)} points lie outside of the image "
            f"{tuple(shape)}, the first at {tuple(first.tolist())}; move or delete them"
        )
    low = centres - diameter / 2
    high = centres + diameter / 2
    border = np.any((low <= -0.5) | (high >= edge), axis=1)
    boxes = np.hstack([np.maximum(low, -0.5), np.minimum(high, edge)])
    return Cells(centres, boxes, border, np.arange(1, len(centres) + 1), None, pixel_size)


def find_cells(
    field: Field, method: Method = "auto", t: int = 0, z: int = 0, *, platelets: bool = False
) -> Cells:
    """Find the cells of one plane of a field.

    Parameters
    ----------
    field : Field
        A stained smear in colour, or a phase or OPD map.
    method : {"auto", "white-cells", "red-cells", "phase", "cellpose", "instanseg", "stardist"}
        ``"white-cells"`` finds nucleated cells of a stained smear by their
        nuclear stain, leaving out red cells and platelets; ``"red-cells"``
        the others. ``"phase"`` finds what stands out of an even background;
        in an OPD map, whose sign is known, only what rises.
        ``"auto"`` takes white cells for brightfield colour and phase for all
        images with one channel. The last three are learned segmenters of other
        people, if they are installed; they find cells of every kind.
    t, z : int
        Frame and slice of a stack.
    platelets : bool
        Where white cells are looked for, find platelets too: for models that
        know them.

    Returns
    -------
    Cells
        With a label image, and in a smear the measured `scale`; touching cells
        are split, those at the border flagged. None where nothing stands out.

    Raises
    ------
    ValueError
        If the method is not known, not installed or does not suit the image.
    IndexError
        If there is no such frame or slice.
    """
    from . import _segment

    if method in SEGMENTERS:
        return _find_learned(field, method, t, z)
    chosen = _choose(field, method)
    if chosen == "phase":
        with np.errstate(over="ignore"):
            values = to_float(field.plane(t, z))
        if field.modality in ("opd", "phase"):
            finite = np.isfinite(values)
            outside = level_outside(values[..., 0], finite[..., 0])
            values = values if outside is None else np.where(finite, values, np.float32(outside))
        image = finite_image(values)[..., 0]
        labels = _segment.label_phase(image, rising=field.modality == "opd")
        return _take_labels(labels, field.pixel_size)
    smear = _segment.Smear(field.plane(t, z), field.transparent(t, z))
    scale = measure_smear(smear) if field.modality == "brightfield" else None
    size = field.pixel_size
    if scale is not None and (
        doubt_scale(size, scale) or (size is None and chosen == "white-cells")
    ):
        # At a scale that is not the image's, nuclei would be cut, or cells joined.
        size = scale.pixel_size
    if chosen == "white-cells":
        labels = _segment.label_white_cells(smear, size, platelets)
    else:
        labels = _segment.label_red_cells(smear, size)
    cells = _take_labels(labels, field.pixel_size)
    return dataclasses.replace(cells, at_border=_at_edge(cells, smear), scale=scale)


def _find_learned(field: Field, method: str, t: int, z: int) -> Cells:
    plane = field.plane(t, z)
    scale = measure_scale(field, t, z)
    size = field.pixel_size
    if scale is not None and (size is None or doubt_scale(size, scale)):
        size = scale.pixel_size
    labels = label_learned(method, plane, size)
    return dataclasses.replace(_take_labels(labels, field.pixel_size), scale=scale)


def knows_platelets(class_names: Sequence[str], considered: Sequence[str] | None = None) -> bool:
    """Tell whether platelets are to be looked for, for a model of these classes.

    Parameters
    ----------
    class_names : sequence of str
        What the model knows.
    considered : sequence of str, optional
        The classes that can occur; all by default.
    """
    names = class_names if considered is None else considered
    return any(name.lower().startswith("platelet") for name in names)


def _at_edge(cells: Cells, smear: Smear) -> npt.NDArray[np.bool_]:
    """Tell which cells the image's edge or that of the field of view may cut, (N,)."""
    block, outside = smear.glass.block, smear.glass.outside
    if outside is None:
        return cells.at_border
    corners = np.rint(cells.boxes + 0.5).astype(np.intp) // block
    limits = np.array(outside.shape)
    first, last = np.maximum(corners[:, :2] - 1, 0), np.minimum(corners[:, 2:] + 1, limits - 1)
    cut = [
        bool(outside[top : bottom + 1, left : right + 1].any())
        for (top, left), (bottom, right) in zip(first, last, strict=True)
    ]
    either: npt.NDArray[np.bool_] = cells.at_border | np.array(cut, bool)
    return either


def _choose(field: Field, method: Method) -> Method:
    known = [name for name in get_args(Method) if name not in SEGMENTERS]
    if method not in known:
        every = ", ".join(get_args(Method))
        raise ValueError(f"method {method!r} is not known; use one of {every}")
    channels = field.n_channels
    if method == "auto":
        if channels == 1:
            return "phase"
        if channels == 3 and field.modality == "brightfield":
            return "white-cells"
        raise ValueError(
            f"cannot tell how to find cells in a {field.modality} image of {channels} channels; "
            f"choose a method ({', '.join(known[1:])}), set the modality, or use a Labels or "
            "Points layer"
        )
    needed, wanted = (1, "1 channel") if method == "phase" else (3, "3 channels")
    if channels != needed:
        raise ValueError(
            f"method {method!r} needs {wanted}, the image has {channels}; "
            "choose another method or one channel"
        )
    return method
