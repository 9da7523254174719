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


def test_napari_points_of_a_stack_are_those_of_the_frame(tmp_path: Path) -> None:
    text = "index,axis-0,axis-1,axis-2\n0,0,5,6\n1,2,7,8\n2,2,9,10\n"
    (tmp_path / "a.csv").write_text(text)
    stack = Field(np.zeros((3, 20, 30), np.uint8), "TYX", 0.5)
    found = read_cells(tmp_path / "a.csv", stack, t=2)
    assert found.centres.tolist() == [[7, 8], [9, 10]]
    assert found.notes == ("1 of 3 cells of a.csv lie on other frames or slices",)
    assert read_cells(tmp_path / "a.csv", stack).centres.tolist() == [[5, 6]]
    with pytest.raises(ImageError, match="none of its 3 cells lies on frame 1"):
        read_cells(tmp_path / "a.csv", stack, t=1)
    # A single image cannot have the cells of several.
    with pytest.raises(ImageError, match="lie on several planes"):
        read_cells(tmp_path / "a.csv", Field(np.zeros((20, 30), np.uint8), "YX", 0.5))
    (tmp_path / "a.csv").write_text(text.replace("0,0,5,6\n", ""))
    one = read_cells(tmp_path / "a.csv", Field(np.zeros((20, 30), np.uint8), "YX", 0.5))
    assert len(one) == 2
    assert one.notes == ()
