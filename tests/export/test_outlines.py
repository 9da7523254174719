"""Outlines of cells against `skimage.measure.find_contours`, one cell at a time."""

from __future__ import annotations

import json
import math

import numpy as np
import pytest
from scipy import ndimage as ndi
from skimage.measure import find_contours

from napari_sparseattn.export import outlines
from napari_sparseattn.export.json_stream import Coordinates, encode_json, encode_members
from napari_sparseattn.export.outlines import area, box_ring, iter_cell_rings
from napari_sparseattn.images.fields.cells import Cells


def cells_of(labels: np.ndarray, ids: np.ndarray | None = None) -> Cells:
    found = ndi.find_objects(labels)
    ids = np.array([i + 1 for i, box in enumerate(found) if box]) if ids is None else ids
    boxes = np.array(
        [[s[0].start, s[1].start, s[0].stop, s[1].stop] for s in (found[i - 1] for i in ids)]
    )
    centres = (boxes[:, :2] + boxes[:, 2:] - 1) / 2
    return Cells(centres, boxes - 0.5, np.zeros(len(ids), bool), ids, labels)


def signed_area(ring: np.ndarray) -> float:
    x, y = ring.T
    return float(np.dot(x, np.roll(y, -1)) - np.dot(np.roll(x, -1), y)) / 2


def expected_rings(cells: Cells, index: int) -> list[np.ndarray]:
    mask = np.pad((cells.labels == cells.ids[index]).astype(float), 1)
    rings = []
    for found in find_contours(mask, 0.5, fully_connected="high", positive_orientation="low"):
        ring = found[:-1, ::-1] - 0.5
        before, after = ring - np.roll(ring, 1, axis=0), np.roll(ring, -1, axis=0) - ring
        turns = before[:, 0] * after[:, 1] - before[:, 1] * after[:, 0]
        ring = ring[np.abs(turns) > 1e-9]
        if signed_area(ring) > 0:
            rings.append(ring)
    return rings


def from_least(ring: np.ndarray) -> list[list[float]]:
    """The same ring, begun at its least corner."""
    points = ring.tolist()
    at = points.index(min(points))
    return points[at:] + points[:at]


def assert_as_contours(cells: Cells) -> None:
    found = list(iter_cell_rings(cells))
    assert len(found) == len(cells)
    for index, rings in enumerate(found):
        expected = sorted(map(from_least, expected_rings(cells, index)))
        assert sorted(map(from_least, rings)) == expected


def blobs(seed: int, side: int = 90) -> np.ndarray:
    """Labels that touch each other, the border and themselves, with holes and loose pixels."""
    rng = np.random.default_rng(seed)
    noise = ndi.gaussian_filter(rng.normal(size=(side, side)), 1.2)
    labels = (noise > np.quantile(noise, 0.35)) * (
        rng.integers(0, 5, (side // 10, side // 10)) + 1
    )[np.arange(side)[:, None] * (side // 10) // side, np.arange(side) * (side // 10) // side]
    labels[rng.random((side, side)) < 0.03] = 0
    return labels.astype(np.int32)


@pytest.mark.parametrize("seed", range(4))
def test_pieces_holes_and_touching_labels_are_as_contours(seed: int) -> None:
    assert_as_contours(cells_of(blobs(seed)))


@pytest.mark.parametrize("room", [1, 700, 2**18])
def test_however_many_are_traced_at_once(room: int, monkeypatch: pytest.MonkeyPatch) -> None:
    labels, _ = ndi.label(blobs(7) > 0)
    monkeypatch.setattr(outlines, "_AT_ONCE", room)
    assert_as_contours(cells_of(labels))


def test_single_pixels_corners_and_the_whole_image() -> None:
    for rows in (["1"], ["10", "01"], ["01", "10"], ["111", "101", "111"], ["11111"], ["1"] * 40):
        assert_as_contours(cells_of(np.array([[int(c) for c in row] for row in rows])))


def test_a_chosen_few_in_another_order() -> None:
    labels = blobs(3)
    assert_as_contours(cells_of(labels, np.array([5, 2, 3])))


def test_what_lies_outside_of_its_box_does_not_count() -> None:
    labels = np.zeros((12, 12), int)
    labels[2:6, 2:6] = labels[8, 8] = 1
    box = np.array([[1.5, 1.5, 5.5, 5.5]])
    cells = Cells(box[:, :2] + 2, box, np.zeros(1, bool), np.array([1]), labels)
    (rings,) = iter_cell_rings(cells)
    assert len(rings) == 1
    # A square whose four corners are cut by an eighth of a pixel each.
    assert area(rings[0]) == pytest.approx(16 - 4 / 8)


def test_cells_that_are_not_in_the_labels_and_cells_without_are_boxes() -> None:
    box = np.array([[1.5, 1.5, 5.5, 7.5]])
    for labels in (None, np.zeros((12, 12), int)):
        cells = Cells(box[:, :2] + 2, box, np.zeros(1, bool), np.array([4]), labels)
        ((ring,),) = iter_cell_rings(cells)
        np.testing.assert_array_equal(ring, box_ring((2, 2, 6, 8)))
    off = Cells(box[:, :2], box - 40, np.zeros(1, bool), np.array([4]), np.ones((12, 12), int))
    assert [len(rings) for rings in iter_cell_rings(off)] == [1]
    assert list(iter_cell_rings(cells.subset([]))) == []


def test_texts_of_coordinates_are_those_of_json() -> None:
    texts = Coordinates()
    ring = np.array([[0.0, 12.5], [1234.56789, 3.0], [1e-9, 99999.5]])
    rounded = ring.round(3).tolist()
    assert json.loads(texts.encode_closed(ring)) == [*rounded, rounded[0]]
    assert texts.encode_flat(ring) == encode_json([v for pair in rounded for v in pair])
    with pytest.raises(ValueError, match="nan"):
        texts.encode_flat(np.array([[math.nan, 0.0]]))


def test_members_that_are_no_numbers_are_left_out() -> None:
    starts = ['"a":', '"b":', '"c":']
    assert encode_members(starts, [0.25, math.nan, 3]) == '{"a":0.25,"c":3}'
    assert encode_members(starts, [math.inf] * 3) == "{}"
