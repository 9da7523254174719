"""What is on screen: which image lies under the mouse, and how to bring one there."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from .sources import data_position, is_picture, shape_of

if TYPE_CHECKING:
    from napari.components import ViewerModel
    from napari.layers import Image

__all__ = ["centre_on", "has_window", "image_under", "show_image"]

#: Images that are drawn so let those below show through.
_CLEAR = ("additive", "minimum", "multiplicative")


def image_under(viewer: ViewerModel, world: Any, chosen: Image | None) -> Image | None:
    """Return the image that is seen at a place; None where there is none.

    In grid mode only images of the grid's cell that the mouse is in are looked at. Of images
    that show through each other it is the chosen one, if it is among them.

    Parameters
    ----------
    viewer : napari.components.ViewerModel
        What is shown.
    world : array-like
        The place in world coordinates.
    chosen : napari.layers.Image or None
        The image to prefer.
    """
    seen: list[Image] = []
    for layer in reversed(_layers_seen(viewer)):
        if not (is_picture(layer) and layer.visible and _contains(layer, world)):
            continue
        seen.append(layer)
        if str(layer.blending) not in _CLEAR:
            break
    return chosen if chosen in seen else seen[0] if seen else None


def show_image(viewer: ViewerModel, image: Image) -> None:
    """Bring an image into view: shown, on top of images that cover it, and within the canvas."""
    image.visible = True
    if viewer.canvas.grid.enabled or viewer.dims.ndisplay != 2:
        return
    middle = image.data_to_world(_middle(viewer, image))
    if image_under(viewer, middle, image) is not image:
        for layer in viewer.layers[viewer.layers.index(image) + 1 :]:
            if is_picture(layer) and layer.visible and _contains(layer, middle):
                layer.visible = False
    if not _overlaps(viewer, image):
        extent = np.abs(np.diff(image.extent.world[:, -2:], axis=0)[0])
        viewer.scene.camera.center = (0.0, *np.asarray(middle)[-2:])
        size = np.asarray(viewer.canvas.size, float)
        viewer.scene.camera.zoom = 0.95 * float(np.min(size / np.maximum(extent, 1e-9)))


def centre_on(
    viewer: ViewerModel, image: Image, index: Sequence[int], place: Sequence[float]
) -> None:
    """Bring a place of an image's plane, in its pixels, to the middle of the view."""
    world = image.data_to_world((*index, *place))
    for axis, value in enumerate(world[:-2]):
        viewer.dims.set_point(viewer.dims.ndim - len(world) + axis, value)
    viewer.scene.camera.center = (0.0, *world[-2:])


def has_window(viewer: ViewerModel) -> bool:
    """Whether a viewer still has its window, or never had one."""
    window = getattr(viewer, "window", None)
    if window is None:
        return True
    try:
        window.geometry()
    except (AttributeError, RuntimeError):  # it, or Qt's part of it, is gone
        return False
    return True


def _layers_seen(viewer: ViewerModel) -> list[Any]:
    layers, cell = list(viewer.layers), viewer.cursor.viewbox
    if not viewer.canvas.grid.enabled or cell is None:
        return layers
    return [layers[n] for n in viewer.canvas.grid.contents_at(cell, layers)]


def _contains(image: Image, world: Any) -> bool:
    row, column = data_position(image, world)
    height, width = shape_of(image)
    return bool(-0.5 <= row < height - 0.5 and -0.5 <= column < width - 0.5)


def _middle(viewer: ViewerModel, image: Image) -> tuple[float, ...]:
    ahead = np.asarray(image.world_to_data(viewer.dims.point))[: image.ndim - 2]
    height, width = shape_of(image)
    return (*ahead, height / 2 - 0.5, width / 2 - 0.5)


def _overlaps(viewer: ViewerModel, image: Image) -> bool:
    """Whether any of an image lies within the canvas."""
    camera, size = viewer.scene.camera, np.asarray(viewer.canvas.size, float)
    middle, half = np.asarray(camera.center)[-2:], size / 2 / max(camera.zoom, 1e-12)
    low, high = image.extent.world[:, -2:]
    return bool(((low <= middle + half) & (high >= middle - half)).all())
