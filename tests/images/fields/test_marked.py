"""Cells that somebody marked: what is written is read again, and what is no table is said."""

from __future__ import annotations

import dataclasses
import tempfile
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pytest
from hypothesis import given
from hypothesis import strategies as st

from drawn import label_images
from napari_sparseattn.images.errors import ImageError
from napari_sparseattn.images.fields.cells import cells_from_labels
from napari_sparseattn.images.fields.field import Field
from napari_sparseattn.images.fields.marked import read_cells, write_cells


def field(shape: tuple[int, int] = (40, 60)) -> Field:
    return Field.from_array(np.zeros(shape, np.uint8), axes="YX", pixel_size=0.5)


@given(label_images(), st.booleans())
def test_cells_are_read_as_they_were_written(labels: npt.NDArray[Any], outlined: bool) -> None:
    cells = cells_from_labels(labels, 0.5)
    cells = cells if outlined else dataclasses.replace(cells, labels=None)
    with tempfile.TemporaryDirectory() as place:
        path = Path(place) / ("a.tif" if outlined else "a.csv")
        write_cells(cells, path)
        found = read_cells(path, field(labels.shape))
    assert found.ids.tolist() == cells.ids.tolist()
    np.testing.assert_array_equal(found.centres, cells.centres)
    np.testing.assert_array_equal(found.boxes, cells.boxes)
    assert found.at_border.tolist() == cells.at_border.tolist()
    if outlined:
        np.testing.assert_array_equal(found.labels, labels)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("id,row,column\n1,2,3,4,5\n", "nothing says|cells"),
        ("row,column,diameter\n1,2,inf\n", "finite"),
        ("row,column,diameter\n1,nan,3\n", "finite"),
        ("row,column,diameter,id\n1,2,3,nan\n", "finite"),
        ("row,column,diameter\n1,2\n", "not every cell has a number"),
        ("row,column\n1,2\x00\n", "number|table"),
        ("", "needs the columns"),
    ],
)
def test_what_is_no_table_of_cells_is_said(tmp_path: Path, text: str, message: str) -> None:
    (tmp_path / "a.csv").write_text(text)
    image = dataclasses.replace(field(), pixel_size=None)
    with pytest.raises(ImageError, match=message):
        read_cells(tmp_path / "a.csv", image)
