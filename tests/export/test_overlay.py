"""Overlays: what each kind of model looked at, drawn on the field."""

from __future__ import annotations

import numpy as np

from napari_sparseattn.export.overlay import Overlay
from napari_sparseattn.images.fields.cells import cells_from_points
from napari_sparseattn.images.fields.field import Field
from napari_sparseattn.inference.cells import classify_cells
from small_tnet import small_tnet_bundle

COLOUR = (255, 0, 0)


def test_a_traversals_crops_are_outlined_where_they_lie() -> None:
    field = Field(np.full((120, 180, 3), 200, np.uint8), "YXC", 0.5, "brightfield")
    cells = cells_from_points([(60, 90)], field.shape, diameter=8, pixel_size=0.5)
    found = classify_cells(field, cells, small_tnet_bundle(), "cpu")
    picture = Overlay(field, ["#ff0000"] * 3)
    picture.add(found)
    drawn = np.asarray(picture.image())
    red = (drawn == COLOUR).all(axis=2)
    traversal = found.evidence[0]
    for top, left, height, width in traversal.on_image(traversal.boxes)[1:].round().astype(int):
        assert red[top + height - 1, left : left + width].all()
    # The crop itself, all that the model was given, is not outlined.
    assert not red[91, 100:120].any()
