"""From napari layers to fields and cells: which pixels, at which scale."""

from __future__ import annotations

import dataclasses
from typing import TYPE_CHECKING, Any, Literal, cast, get_args

import numpy as np
import numpy.typing as npt

from ...addresses import is_address
from ...images.fields.cells import (
    Cells,
    Method,
    cells_from_labels,
    cells_from_points,
    find_cells,
)
from ...images.fields.field import Field, Modality
from ...images.fields.scale import measure_scale
from ...images.slides.pyramid import Pyramid

if TYPE_CHECKING:
    from napari.components import ViewerModel
    from napari.layers import Image, Labels, Layer, Points

    from ...card import Card

__all__ = [
    "METADATA_KEY",
    "CellSource",
    "ImageSettings",
    "PlaneRef",
    "SourceError",
    "cell_source",
    "cells_of",
    "data_position",
    "displayed_plane",
    "field_of",
    "file_of",
    "guess_settings",
    "is_cell_source",
    "is_own",
    "is_picture",
    "is_result",
    "is_simulated",
    "pixel_size_of",
    "shape_of",
    "slide_of",
]

#: Under this key of a layer's metadata the plugin keeps what it knows.
METADATA_KEY = "napari-sparseattn"
#: Of the layer that shows the cells that are annotated.
_ANNOTATED = "annotated cells"

#: Pixels may differ by this share along y and x and still count as square.
_SQUARE = 0.01
#: So many points are named by their number.
_MOST_NAMED = 10
#: Width of a point that nobody has given another one.
_USUAL_POINT = 10


class SourceError(ValueError):
    """A layer that cannot be used as it is; the message says what to do."""


@dataclasses.dataclass(frozen=True)
class ImageSettings:
    """What the user or the file says about an image layer.

    Parameters
    ----------
    modality : str
        One of `images.field.Modality`.
    pixel_size : float or None
        µm per pixel; None where it is not known.
    unit : str
        Unit of the values, ``""``, ``"rad"`` or ``"nm"``.
    origin : {"layer", "file", "user", "unknown"}
        Where the pixel size comes from.
    classes : tuple of str or None
        Names of the classes that cells can be of here; None for all that a model knows.
    """

    modality: Modality = "unknown"
    pixel_size: float | None = None
    unit: str = ""
    origin: Literal["layer", "file", "user", "unknown"] = "unknown"
    classes: tuple[str, ...] | None = None

    def classes_of(self, card: Card) -> tuple[str, ...] | None:
        """Return the classes of a model that can occur here; None for all.

        A model that knows none of the names is not limited by them.
        """
        if self.classes is None:
            return None
        names = card.class_names
        found = tuple(name for name in names if name in self.classes)
        return found if 0 < len(found) < len(names) else None


@dataclasses.dataclass(frozen=True, eq=False)
class PlaneRef:
    """One plane of an image layer, not yet read.

    Parameters
    ----------
    data : array-like
        The layer's pixels; the best level of a multiscale image.
    index : tuple of int
        Position along the axes before y and x.
    rgb : bool
        Whether the last axis is colour.
    name : str
        The layer's name.
    """

    data: Any
    index: tuple[int, ...]
    rgb: bool
    name: str


@dataclasses.dataclass(frozen=True, eq=False)
class CellSource:
    """Where the cells of a plane come from, frozen for a worker.

    Parameters
    ----------
    kind : {"find", "labels", "points"}
        Found by `find_cells`, or a layer of the user's.
    array : numpy.ndarray or None
        The label image (H, W), or points (N, 2) in image pixels.
    diameter : float
        Size of the points in image pixels.
    numbers : tuple of int
        Of the points, from 1 on; those outside of the image are left out.
    note : str
        What is to be said of the source.
    unset : bool
        Whether the points have the size that napari gives all points.
    method : str
        How cells are found; see `find_cells`.
    platelets : bool
        Whether platelets are looked for too, as the model knows them.
    """

    kind: Literal["find", "labels", "points"] = "find"
    array: npt.NDArray[Any] | None = None
    diameter: float = 1.0
    numbers: tuple[int, ...] = ()
    note: str = ""
    unset: bool = False
    method: Method = "auto"
    platelets: bool = False


def is_own(layer: Layer) -> bool:
    """Tell whether this plugin made a layer."""
    return "overlay" in layer.metadata.get(METADATA_KEY, {})


def is_picture(layer: object) -> bool:
    """Tell whether a layer is an image of the user's."""
    from napari.layers import Image

    return isinstance(layer, Image) and not is_own(layer)


def is_cell_source(layer: object) -> bool:
    """Tell whether a layer, the user's or one of annotated cells, can say where the cells are."""
    from napari.layers import Labels, Points

    if not isinstance(layer, Labels | Points):
        return False
    return not is_own(layer) or layer.metadata[METADATA_KEY].get("overlay") == _ANNOTATED


def is_result(layer: Any) -> bool:
    """Return whether a layer shows something of a result that is kept nowhere else.

    Layers that belong to one image only are known by their image; these lie beside them.
    """
    role = layer.metadata.get(METADATA_KEY, {}).get("overlay", "")
    return bool(role.startswith(("compared", "what-if")))


def is_simulated(layer: Any) -> bool:
    """Return whether a layer is one of our simulated samples."""
    return bool(layer.metadata.get(METADATA_KEY, {}).get("simulated"))


def slide_of(layer: Any) -> Pyramid | None:
    """Return the slide that a layer shows, or None."""
    found = layer.metadata.get(METADATA_KEY, {}).get("pyramid")
    return found if isinstance(found, Pyramid) else None


def shape_of(layer: Image) -> tuple[int, int]:
    """Return the height and width of an image in pixels."""
    data = layer.data[0] if layer.multiscale else layer.data
    height, width = data.shape[layer.ndim - 2 : layer.ndim]
    return int(height), int(width)


def displayed_plane(viewer: ViewerModel, layer: Image) -> PlaneRef:
    """Return the plane of a layer that the viewer shows.

    Raises
    ------
    SourceError
        If the viewer does not show the layer's last two axes in 2D.
    """
    if viewer.dims.ndisplay != 2:
        raise SourceError("The view is 3D. Change to 2D with the button below the layer list.")
    last = tuple(range(viewer.dims.ndim - 2, viewer.dims.ndim))
    if tuple(viewer.dims.displayed) != last:
        raise SourceError("The axes are rolled or transposed. Show y and x, then click again.")
    data = layer.data[0] if layer.multiscale else layer.data
    ahead = layer.ndim - 2
    point = layer.world_to_data(viewer.dims.point)[:ahead]
    index = tuple(int(i) for i in np.clip(np.round(point), 0, np.array(data.shape[:ahead]) - 1))
    return PlaneRef(data, index, bool(layer.rgb), layer.name)


def data_position(layer: Layer, world: npt.ArrayLike) -> tuple[float, float]:
    """Return (row, column) in a layer's pixels of a position in the world."""
    row, column = layer.world_to_data(world)[-2:]
    return float(row), float(column)


def field_of(plane: PlaneRef, settings: ImageSettings) -> Field:
    """Read a plane; lazy data is computed here, so call this from a worker.

    Raises
    ------
    SourceError
        If the pixels are of a type that no model takes.
    """
    try:
        pixels = np.asarray(plane.data[plane.index])
        if plane.rgb and settings.modality == "brightfield" and pixels.dtype.kind == "f":
            # Values beyond 1 are brought to it, as those of files have been already.
            return Field.from_array(
                pixels,
                axes="YXC",
                pixel_size=settings.pixel_size,
                modality=settings.modality,
                unit=settings.unit,
                name=plane.name,
            )
        return Field(
            pixels,
            "YXC" if plane.rgb else "YX",
            settings.pixel_size,
            settings.modality,
            settings.unit,
            plane.name,
        )
    except (TypeError, ValueError) as error:
        raise SourceError(f"{plane.name}: {error}.") from error


def guess_settings(layer: Image) -> ImageSettings:
    """Return what a layer says about itself; nothing is assumed beyond it."""
    known = layer.metadata.get(METADATA_KEY, {})
    modality = known.get("modality")
    if modality not in get_args(Modality):
        modality = "brightfield" if layer.rgb else "unknown"
    size = pixel_size_of(layer)
    return ImageSettings(
        modality=cast("Modality", modality),
        pixel_size=size,
        unit=str(known.get("unit", "")),
        origin="unknown" if size is None else "layer",
    )


def pixel_size_of(layer: Layer) -> float | None:
    """Return µm per pixel from a layer's transform and units.

    None if the units are no lengths, or the pixels are not square.
    """
    units = layer.units[-2:]
    if not all(unit.is_compatible_with("micrometer") for unit in units):
        return None
    origin = np.asarray(layer.data_to_world((0.0,) * layer.ndim))
    micrometres = np.array([(1 * unit).m_as("micrometer") for unit in units])
    sizes = []
    for axis in (-2, -1):
        step = np.zeros(layer.ndim)
        step[axis] = 1
        moved = np.asarray(layer.data_to_world(step)) - origin
        sizes.append(float(np.hypot(*(moved[-2:] * micrometres))))
    low, high = sorted(sizes)
    if not (low > 0 and np.isfinite(high)) or high > low * (1 + _SQUARE):
        return None
    return (low + high) / 2


def file_of(layer: Layer) -> str | None:
    """Return the file that a layer was opened from, where that is known, and on this computer."""
    path = layer.source.path or layer.metadata.get(METADATA_KEY, {}).get("path")
    return None if path is None or is_address(str(path)) else str(path)


def cell_source(layer: Layer | None, image: Image, plane: PlaneRef) -> CellSource:
    """Freeze where the cells come from.

    Parameters
    ----------
    layer : Labels, Points or None
        A layer of the user's; None finds the cells.
    image : napari.layers.Image
        The image they lie on.
    plane : PlaneRef
        Its displayed plane.

    Raises
    ------
    SourceError
        If labels or points do not lie on the image.
    """
    from napari.layers import Labels, Points

    if layer is None:
        return CellSource()
    if isinstance(layer, Labels):
        return _labels_source(layer, image, plane)
    assert isinstance(layer, Points)
    return _points_source(layer, image, plane)


def _labels_source(layer: Labels, image: Image, plane: PlaneRef) -> CellSource:
    data = layer.data[0] if layer.multiscale else layer.data
    index = plane.index[-(data.ndim - 2) :] if data.ndim > 2 else ()
    ahead = len(plane.index)
    wanted = tuple(plane.data.shape[ahead : ahead + 2])
    if len(index) != data.ndim - 2:
        raise SourceError(
            f"'{layer.name}' has {data.ndim} axes, '{image.name}' {image.ndim}. Choose labels made "
            "on this image."
        )
    labels = np.asarray(data[index])
    step, start = _image_to(layer, image)
    same = np.allclose(step, np.eye(2), atol=1e-6) and np.allclose(start, 0, atol=1e-3)
    if labels.shape == wanted and (same or not labels.any()):
        return CellSource("labels", labels.copy())
    if same or not labels.any():
        raise SourceError(
            f"'{layer.name}' is {labels.shape[0]} × {labels.shape[1]} pixels, '{image.name}' "
            f"{wanted[0]} × {wanted[1]}. Choose labels made on this image, or give their layer "
            "its scale."
        )
    moved = _resample(labels, step, start, wanted)
    if not moved.any():
        raise SourceError(
            f"'{layer.name}' has no labels on '{image.name}'. Check the scale and the place of its "
            "layer."
        )
    return CellSource("labels", moved)


def _resample(
    labels: npt.NDArray[Any],
    step: npt.NDArray[np.float64],
    start: npt.NDArray[np.float64],
    shape: tuple[int, int],
) -> npt.NDArray[Any]:
    """Return labels (H, W) where the pixels of an image of this shape are; 0 beside them."""
    rows, columns = np.indices(shape, dtype=np.float64)
    there = np.rint(np.tensordot(step, np.stack([rows, columns]), 1) + start[:, None, None])
    y, x = there.astype(np.intp)
    inside = (y >= 0) & (y < labels.shape[0]) & (x >= 0) & (x < labels.shape[1])
    found = np.zeros(shape, labels.dtype)
    found[inside] = labels[y[inside], x[inside]]
    return found


def _image_to(
    layer: Layer, image: Image
) -> tuple[npt.NDArray[np.float64], npt.NDArray[np.float64]]:
    """Return matrix and offset that take the last two axes of an image to those of a layer."""

    def there(row: float, column: float) -> npt.NDArray[np.float64]:
        world = image.data_to_world((*(0.0,) * (image.ndim - 2), row, column))
        return np.asarray(layer.world_to_data(world))[-2:]

    start = there(0, 0)
    return np.stack([there(1, 0) - start, there(0, 1) - start], axis=1), start


def _points_source(layer: Points, image: Image, plane: PlaneRef) -> CellSource:
    points = _to_image(layer, image)
    here = np.all(np.round(points[:, :-2]) == plane.index, axis=1)
    size = float(np.median(layer.size)) if len(points) else 1.0
    ratio = np.asarray(layer.scale[-1]) / np.asarray(image.scale[-1])
    numbers, places = np.flatnonzero(here) + 1, points[here, -2:]
    edge = np.asarray(plane.data.shape[len(plane.index) :][:2]) - 0.5
    inside = np.all((places >= -0.5) & (places <= edge), axis=1)
    if len(places) and not inside.any():
        raise SourceError(
            f"All points of '{layer.name}' lie outside of the image '{image.name}'. Check the "
            "scale and the place of its layer."
        )
    return CellSource(
        "points",
        places[inside],
        size * float(ratio),
        tuple(numbers[inside].tolist()),
        _name_outside(numbers[~inside], len(places), image.name),
        len(points) > 0 and bool(np.all(np.asarray(layer.size) == _USUAL_POINT)),
    )


def _to_image(layer: Points, image: Image) -> npt.NDArray[np.float64]:
    """Return points (N, ndim of the image) in its pixels; all transforms are affine."""
    data = np.asarray(layer.data, np.float64).reshape(-1, layer.ndim)

    def there(place: npt.NDArray[np.float64]) -> npt.NDArray[np.float64]:
        return np.asarray(image.world_to_data(layer.data_to_world(place)), np.float64)

    start = there(np.zeros(layer.ndim))
    steps = np.array([there(axis) - start for axis in np.eye(layer.ndim)])
    found: npt.NDArray[np.float64] = (data @ steps + start).reshape(-1, image.ndim)
    return found


def _name_outside(numbers: npt.NDArray[np.intp], total: int, name: str) -> str:
    if not len(numbers):
        return ""
    first = ", ".join(map(str, numbers[:_MOST_NAMED]))
    more = f" and {len(numbers) - _MOST_NAMED} more" if len(numbers) > _MOST_NAMED else ""
    lie, were = ("lies", "was") if len(numbers) == 1 else ("lie", "were")
    return (
        f"{len(numbers)} of {total} points {lie} outside of the image '{name}' and {were} left "
        f"out: number {first}{more}."
    )


def cells_of(field: Field, source: CellSource) -> Cells:
    """Return the cells of a field; slow for large fields, so call it from a worker.

    Raises
    ------
    ValueError
        If labels or points cannot be used; the message says why.
    """
    if source.kind == "find" or source.array is None:
        return find_cells(field, source.method, platelets=source.platelets)
    # Where the red cells say it, the size of a mark does not.
    scale = measure_scale(field)
    if source.kind == "labels":
        return dataclasses.replace(cells_from_labels(source.array, field.pixel_size), scale=scale)
    if scale is None and field.pixel_size is None and source.unset:
        raise SourceError(
            "Nothing says how large the cells are, nor does the size that napari gives all points. "
            "Give the pixel size, or the points the size of the cells."
        )
    cells = cells_from_points(
        source.array, field.shape, diameter=source.diameter, pixel_size=field.pixel_size
    )
    ids = np.asarray(source.numbers, cells.ids.dtype)
    return dataclasses.replace(cells, ids=ids, scale=scale)
