"""Classes in the user's own layers, as annotations."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt

from ...training.data.annotations import Annotation, new_annotation
from ..core.layers import outline_ellipse
from ..core.sources import is_own
from .layers import NO_REGIONS

if TYPE_CHECKING:
    from napari.layers import Image, Labels, Layer, Points, Shapes

__all__ = ["importable", "read_layer"]

#: Names of features that hold classes, the likeliest first; else the first one that is text.
_NAMES = ("class", "class_name", "label", "category", "cell_type", "type", "annotation", "name")


def importable(layer: Layer) -> bool:
    """Tell whether a layer of the user's has rows with classes."""
    from napari.layers import Labels, Points, Shapes

    kinds = isinstance(layer, Labels | Points | Shapes)
    return kinds and not is_own(layer) and class_feature(layer) is not None


def class_feature(layer: Any) -> str | None:
    """Return the name of the feature that holds the classes, or None."""
    columns = {str(name).lower(): name for name in layer.features.columns}
    texts = [key for key, name in columns.items() if _is_text(layer.features[name])]
    named = [name for name in _NAMES if name in texts]
    found = [*named, *(key for key in texts if key not in named)]
    return None if not found else str(columns[found[0]])


def read_layer(layer: Layer, image: Image) -> list[Annotation]:
    """Return what a layer says about an image, as new annotations.

    Points become cells, and so do labelled objects, at their centres; shapes
    become regions, but for lines.

    Parameters
    ----------
    layer : Points, Labels or Shapes
        With classes among its features.
    image : napari.layers.Image
        What they lie on; the layer may be scaled or moved differently.
    """
    from napari.layers import Labels, Points, Shapes

    feature = class_feature(layer)
    if feature is None:
        return []
    if isinstance(layer, Points):
        return _points(layer, feature, image)
    if isinstance(layer, Shapes):
        return _shapes(layer, feature, image)
    return _labels(layer, feature, image) if isinstance(layer, Labels) else []


def _points(layer: Points, feature: str, image: Image) -> list[Annotation]:
    classes = layer.features[feature].tolist()
    found = []
    for point, label in zip(layer.data, classes, strict=False):
        if _is_name(label):
            place = _on_image(layer, image, point[None])[0]
            found.append(_cell(place, label))
    return found


def _shapes(layer: Shapes, feature: str, image: Image) -> list[Annotation]:
    classes = layer.features[feature].tolist()
    found = []
    for corners, kind, label in zip(layer.data, layer.shape_type, classes, strict=False):
        if kind in NO_REGIONS or not _is_name(label):
            continue
        if kind == "ellipse":
            ring = outline_ellipse(np.asarray(corners)[:, -2:])
            corners = np.hstack([np.repeat(corners[:1, :-2], len(ring), axis=0), ring])
        places = _on_image(layer, image, np.asarray(corners))
        polygon = tuple((float(y), float(x)) for y, x in places[:, -2:])
        where = dict(zip(("t", "z"), (round(float(v)) for v in places[0, :-2]), strict=False))
        found.append(
            new_annotation("region", str(label).strip(), polygon=polygon, origin="imported",
                           **where)
        )  # fmt: skip
    return found


def _labels(layer: Labels, feature: str, image: Image) -> list[Annotation]:
    """Each object at its centre; the row of a label is its value, or stands in 'index'."""
    from skimage.measure import regionprops

    data = np.asarray(layer.data[0] if layer.multiscale else layer.data)
    features = layer.features
    values = features["index"] if "index" in features.columns else features.index
    classes = {int(v): c for v, c in zip(values, features[feature], strict=True) if _is_name(c)}
    found = []
    for plane in np.ndindex(data.shape[:-2]):
        for region in regionprops(data[plane]):
            if region.label in classes:
                at = np.array([[*plane, *region.centroid]], dtype=np.float64)
                place = _on_image(layer, image, at)[0]
                ratio = float(np.asarray(layer.scale)[-1] / np.asarray(image.scale)[-1])
                size = float(np.sqrt(region.area_bbox)) * ratio
                found.append(_cell(place, classes[region.label], size))
    return found


def _cell(place: npt.NDArray[np.float64], label: Any, diameter: float | None = None) -> Annotation:
    y, x = (float(value) for value in place[-2:])
    where = dict(zip(("t", "z"), (round(float(v)) for v in place[:-2]), strict=False))
    return new_annotation(
        "cell", str(label).strip(), position=(y, x), diameter_px=diameter, origin="imported",
        **where,
    )  # fmt: skip


def _on_image(layer: Layer, image: Image, points: npt.NDArray[Any]) -> npt.NDArray[np.float64]:
    """Return positions (N, D) of a layer in pixels of the image."""
    places: list[Any] = [image.world_to_data(layer.data_to_world(point)) for point in points]
    return np.asarray(places, dtype=np.float64)


def _is_text(column: Any) -> bool:
    values = [value for value in column.tolist() if value is not None and value == value]
    return bool(values) and all(isinstance(value, str) for value in values)


def _is_name(label: Any) -> bool:
    return isinstance(label, str) and bool(label.strip())
