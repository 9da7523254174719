"""Fields of view as napari's layers, and back to their files."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np

from ...images.fields.field import Field
from .sources import METADATA_KEY, slide_of

if TYPE_CHECKING:
    from napari.layers import Image

__all__ = ["colour_of", "could_be_colour", "field_layer", "images_in_file", "profile_of"]

LayerData = tuple[Any, dict[str, Any], str]

_COLOURS = (3, 4)
_CHANNELS = 3


def field_layer(field: Field) -> LayerData:
    """Return the image layer that shows a field of view, with its scale and what it shows."""
    data, axes = field.data, field.axes
    rgb = axes.endswith("C") and data.shape[-1] in _COLOURS and field.modality == "brightfield"
    if axes.endswith("C") and not rgb:
        # napari takes a last axis for x; channels are looked through like frames.
        data, axes = data.transpose(data.ndim - 1, *range(data.ndim - 1)), f"C{axes[:-1]}"
        if data.shape[0] == 1:
            data, axes = data[0], axes[1:]
    known: dict[str, Any] = {"modality": field.modality, "unit": field.unit}
    if field.path is not None:
        known["path"] = str(field.path)
    if field.images:
        known |= {"images": field.images, "image": field.image}
    if field.profile:
        known |= {"profile": field.profile, "profile_applied": field.profile_applied}
    attributes: dict[str, Any] = {
        "name": field.name,
        "rgb": rgb,
        "metadata": {METADATA_KEY: known},
    }
    if field.pixel_size is not None:
        ahead = len(axes) - 2 - rgb
        attributes["scale"] = (*(1.0,) * ahead, field.pixel_size, field.pixel_size)
        attributes["units"] = (*("pixel",) * ahead, "um", "um")
    return data, attributes, "image"


def images_in_file(layer: Image) -> tuple[tuple[str, ...], int]:
    """Return the sizes of the images in a layer's file, and which of them it shows.

    There are none where the file holds one image, or has not been looked into.
    """
    known = layer.metadata.get(METADATA_KEY, {})
    return tuple(known.get("images", ())), int(known.get("image", 0))


def profile_of(layer: Image) -> tuple[str, bool] | None:
    """Return the name of the colour profile in a layer's file, and whether it is applied.

    None where the file holds none, or one that would change nothing.
    """
    slide = slide_of(layer)
    if slide is not None:
        name = slide.profile_name
        return None if name is None else (name, slide.profile_applied)
    known = layer.metadata.get(METADATA_KEY, {})
    return (known["profile"], known["profile_applied"]) if known.get("profile") else None


def could_be_colour(layer: Image) -> bool:
    """Tell whether a layer is three planes that may be red, green and blue of one image."""
    if layer.rgb or layer.multiscale or layer.ndim != 3:
        return False
    data = layer.data
    return bool(
        data.dtype in (np.uint8, np.uint16)
        and data.shape[0] == _CHANNELS
        and min(data.shape[1:]) > _CHANNELS
    )


def colour_of(layer: Image) -> Field:
    """Return three planes as one image in colour; see `could_be_colour`.

    Raises
    ------
    ValueError
        If the layer is no three planes.
    """
    if not could_be_colour(layer):
        raise ValueError(f"'{layer.name}' is not three planes of 8 or 16 bits")
    return Field.from_array(np.asarray(layer.data), axes="CYX", name=layer.name)
