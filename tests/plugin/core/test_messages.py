"""What the window says of results."""

from __future__ import annotations

import dataclasses

import numpy as np
import pytest

from napari_sparseattn.images.fields.cells import cells_from_points
from napari_sparseattn.images.fields.field import Field
from napari_sparseattn.inference.cells import classify_cells
from napari_sparseattn.plugin.core.messages import about_results
from small_model import small_bundle


@pytest.mark.parametrize("told", [True, False])
def test_by_what_crops_were_cut_is_said_once(told: bool) -> None:
    field = Field(np.zeros((60, 60, 3), np.uint8), "YXC", None, "brightfield")
    cells = cells_from_points([(30, 30)], field.shape, diameter=12)
    done = classify_cells(field, cells, small_bundle(3), "cpu")
    if told:
        note = "Pixel size unknown: by the red cells a pixel is about 0.1 \N{MICRO SIGN}m"
        done = dataclasses.replace(done, ledger=dataclasses.replace(done.ledger, notes=(note,)))
    said = about_results(done, 1, "")
    assert not done.scale_known
    assert said.lower().count("pixel size") == 1
    assert ("by the size of the cells" in said) is not told
