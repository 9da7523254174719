"""Cells under a lens that is dark in the corners, through an eyepiece, and in large images."""

from __future__ import annotations

import dataclasses

import numpy as np
import pytest

from napari_sparseattn.images.fields import _segment, cells
from napari_sparseattn.images.fields._glass import look_at_glass
from napari_sparseattn.images.fields._plane import PlaneReader, reduce_image
from napari_sparseattn.images.fields.cells import Cells, cells_from_labels, find_cells
from napari_sparseattn.images.fields.field import Field
from napari_sparseattn.simulate import smear_with_truth

SMEAR, TRUTH = smear_with_truth((400, 520), seed=3, n_white=6)


def apart() -> np.ndarray:
    y, x = np.ogrid[:400, :520]
    found = np.hypot(y - 199.5, x - 259.5)
    return found / found[0, 0]


def with_light(light: np.ndarray) -> Field:
    pixels = np.rint(SMEAR.plane() * light[..., None]).astype(np.uint8)
    return Field(pixels, "YXC", 0.25, "brightfield")


def matched(found: Cells, centres: np.ndarray) -> int:
    distance = np.hypot(*(found.centres[:, None] - centres[None]).transpose(2, 0, 1))
    return int((distance * 0.25 < 2.5).any(0).sum())


@pytest.mark.parametrize("known", [True, False])
@pytest.mark.parametrize("darker", [0.2, 0.4, 0.6])
def test_dark_corners_are_no_cells(darker: float, known: bool) -> None:
    field = with_light(1 - darker * apart() ** 2)
    if not known:
        field = dataclasses.replace(field, pixel_size=None)
    found = find_cells(field)
    assert len(found) == matched(found, TRUTH.centres) == len(TRUTH)


def test_light_from_one_side_is_flattened_and_even_light_left_alone() -> None:
    slope = np.broadcast_to(np.linspace(0.5, 1, 520), (400, 520))
    found = find_cells(with_light(slope))
    assert len(found) == matched(found, TRUTH.centres) == len(TRUTH)
    even = np.random.default_rng(0).normal(235, 2, (400, 520, 3))
    even[100:300, 200:300] = (120, 60, 140)
    assert look_at_glass(PlaneReader(even.clip(0, 255).astype(np.uint8))).shade is None


def test_a_round_field_ends_at_its_rim() -> None:
    radius, rim = 0.6, 0.03
    light = np.clip((radius - apart()) / rim, 0, 1) * (1 - 0.3 * apart() ** 2)
    found = find_cells(with_light(light))
    rows, columns = np.rint(TRUTH.centres).astype(int).T
    reach = apart()[rows, columns]
    inside = TRUTH.centres[reach < radius - 0.08]
    assert matched(found, inside) == len(inside) > 0
    # None is the rim, nor lies in the black.
    middles = np.rint(found.centres).astype(int)
    assert (apart()[tuple(middles.T)] < radius).all()
    assert len(found) <= np.count_nonzero(reach < radius)


def test_a_cell_that_the_end_of_the_view_cuts_is_flagged() -> None:
    row, column = TRUTH.centres[np.argmin(np.abs(TRUTH.centres[:, 1] - 260))]
    alpha = np.full((400, 520), 255, np.uint8)
    alpha[:, : round(column) - 5] = 0
    pixels = np.dstack([SMEAR.plane(), alpha])
    found = find_cells(Field.from_array(pixels, pixel_size=0.25))
    near = found.nearest((row, column + 6), within=20)
    assert near is not None
    assert found.at_border[near]
    assert not found.at_border.all() or len(found) == 1
    assert (found.centres[:, 1] > column - 10).all()


@pytest.mark.slow
def test_a_large_image_is_searched_in_parts_with_the_same_result(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    whole = find_cells(SMEAR)
    monkeypatch.setattr(_segment, "_MOST_AT_ONCE", 60_000)
    parts = find_cells(SMEAR)
    assert len(parts) == len(whole) == len(TRUTH)
    order = [int(np.argmin(np.hypot(*(parts.centres - c).T))) for c in whole.centres]
    np.testing.assert_allclose(parts.centres[order], whole.centres, atol=1.5)
    np.testing.assert_allclose(parts.boxes[order], whole.boxes, atol=4)
    monkeypatch.setattr(_segment, "_TILE", 64)
    assert len(find_cells(SMEAR)) == len(TRUTH)
    assert len(find_cells(SMEAR, "red-cells")) > 50


def test_labels_measured_in_strips_are_those_measured_at_once(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    labels = np.random.default_rng(1).integers(0, 9, (50, 40)) * 2
    once = cells_from_labels(labels)
    monkeypatch.setattr(cells, "_STRIP", 130)
    strips = cells_from_labels(labels)
    monkeypatch.setattr(cells, "_MOST_COUNTED", 3)
    for each in (strips, cells_from_labels(labels)):
        np.testing.assert_array_equal(each.ids, once.ids)
        np.testing.assert_allclose(each.centres, once.centres)
        np.testing.assert_array_equal(each.boxes, once.boxes)


def test_a_reduced_part_is_the_part_of_what_is_reduced() -> None:
    plane = np.random.default_rng(0).random((37, 53, 3))
    plane[3, 4] = np.nan
    reader = PlaneReader(plane)
    whole = reader.read(4)
    filled = np.where(np.isfinite(plane), plane, np.nanmedian(plane, axis=(0, 1)))
    np.testing.assert_allclose(
        whole, reduce_image(filled.astype(np.float32), 4), rtol=1e-5, atol=0.002
    )
    np.testing.assert_array_equal(reader.read(4, slice(2, 9), slice(5, 14)), whole[2:9, 5:14])
