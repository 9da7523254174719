"""The ruler in a smear: red cells of known size give the scale, and question a wrong one."""

from __future__ import annotations

import csv
import dataclasses
import io
import os
import zipfile
from collections import defaultdict
from pathlib import Path

import numpy as np
import pytest
import tifffile
from PIL import Image

from napari_sparseattn.images.errors import ImageError, check_pixel_size
from napari_sparseattn.images.fields.cells import cells_from_labels, find_cells
from napari_sparseattn.images.fields.field import Field
from napari_sparseattn.images.fields.scale import (
    RED_CELL_UM,
    MeasuredScale,
    doubt_scale,
    measure_scale,
)
from napari_sparseattn.images.opening import open_field
from napari_sparseattn.inference.cells import classify_cells, crop_side
from small_model import small_bundle

SHARED = Path(os.environ.get("NAPARI_SPARSEATTN_SHARED", Path(__file__).parents[4] / "shared"))
DIAMETER = 40.0


def smear(pixel_size: float | None = None, seed: int = 0) -> Field:
    """Red cells of 40 px with pale middles, some touching, and one nucleated cell."""
    rng = np.random.default_rng(seed)
    y, x = np.indices((300, 420))
    image = np.full((300, 420, 3), 235.0)
    places = [(50, 60), (55, 130), (60, 200), (58, 238), (150, 80), (160, 330), (240, 60),
              (245, 150), (60, 350), (240, 380)]  # fmt: skip
    for row, column in places:
        apart = np.hypot(y - row, x - column)
        inside, pale = apart < DIAMETER / 2, apart < DIAMETER / 6
        image[inside] = (205, 135, 140)
        image[pale] = (225, 190, 190)
    nucleus = np.hypot(y - 200, x - 250) < 32
    image[np.hypot(y - 200, x - 250) < 40] = (200, 170, 205)
    image[nucleus] = (95, 45, 130)
    image += rng.normal(0, 3, image.shape)
    return Field(image.clip(0, 255).astype(np.uint8), "YXC", pixel_size, "brightfield", name="s")


TRUE = RED_CELL_UM / DIAMETER


def test_red_cells_give_the_scale_with_their_circles() -> None:
    found = measure_scale(smear())
    assert found.pixel_size == pytest.approx(TRUE, rel=0.15)
    assert found.free >= 5
    row, column, diameter = found.circles[0]
    assert diameter == pytest.approx(DIAMETER, rel=0.15)
    # On a red cell, not beside it.
    assert smear().plane()[round(row), round(column) + 12, 1] < 160


def test_other_images_have_no_ruler() -> None:
    blank = np.full((200, 200, 3), 240, np.uint8)
    assert measure_scale(Field(blank, "YXC", None, "brightfield")) is None
    assert measure_scale(Field(blank[..., 0], "YX", None, "opd", "nm")) is None


@pytest.mark.parametrize(("factor", "doubted"), [(1, False), (1.4, False), (2, True), (0.4, True)])
def test_a_stated_size_is_questioned_before_anything_is_calibrated(
    factor: float, doubted: bool
) -> None:
    field = smear(TRUE * factor)
    cells = find_cells(field)
    found = classify_cells(field, cells, small_bundle(), "cpu")
    assert found.scale_known is not doubted
    assert any("red cells would be" in note for note in found.ledger.notes) is doubted
    assert bool(doubt_scale(field.pixel_size, cells.scale)) is doubted


@pytest.mark.parametrize(
    ("free", "n", "factor", "doubted"),
    [
        (4, 4, 2, True),
        (0, 9, 2, False),
        (0, 9, 13, True),
        (0, 9, 0.3, True),
        (0, 9, 1, False),
        (0, 4, 13, False),
        (1, 1, 13, True),
        (1, 1, 2, False),
    ],
)
def test_overlapping_red_cells_question_what_is_far_off(
    free: int, n: int, factor: float, doubted: bool
) -> None:
    measured = MeasuredScale(TRUE, np.full((n, 3), 20.0), free)
    assert bool(doubt_scale(TRUE * factor, measured)) is doubted


def test_crops_without_a_scale_follow_the_red_cells() -> None:
    field, bundle = smear(), small_bundle()
    cells = find_cells(field)
    sides, known = crop_side(field, cells, bundle)
    assert not known
    assert sides[0] == pytest.approx(bundle.card.crop.field_of_view_um / TRUE, rel=0.15)
    found = classify_cells(field, cells, bundle, "cpu")
    assert not found.scale_known
    told = f"by the red cells a pixel is about {cells.scale.rounded:g} µm, and crops were cut so"
    assert any(told in note for note in found.ledger.notes)


@pytest.mark.parametrize("factor", [0.25, 0.4, 1, 2.5, None])
def test_a_nucleus_is_one_cell_whatever_the_file_says(factor: float | None) -> None:
    assert len(find_cells(smear(None if factor is None else TRUE * factor))) == 1


def test_labels_of_one_pixel_do_not_set_the_scale() -> None:
    labels = np.zeros((300, 420), int)
    labels[50, 60], labels[150, 80] = 1, 2
    field = smear()
    with pytest.raises(ValueError, match="mark their whole area"):
        classify_cells(field, cells_from_labels(labels), small_bundle(), "cpu")
    # The red cells do, where they were measured.
    scaled = dataclasses.replace(cells_from_labels(labels), scale=measure_scale(field))
    assert len(classify_cells(field, scaled, small_bundle(), "cpu")) == 2


@pytest.mark.parametrize("size", [84.7, 265.0, 352.0, 250.0, 0.0005])
def test_no_cell_is_seen_at_such_a_scale(size: float) -> None:
    with pytest.raises(ValueError, match="not the scale of cells"):
        check_pixel_size(size)
    field = smear(size)
    with pytest.raises(ValueError, match="not the scale of cells"):
        crop_side(field, cells_from_labels(np.eye(300, 420, dtype=int)), small_bundle())


def test_nm_typed_for_micrometres_are_recognised(tmp_path: Path) -> None:
    tifffile.imwrite(tmp_path / "a.tif", smear().plane(), photometric="rgb")
    with pytest.raises(ImageError, match=r"If it is 250 nm, give 0\.25"):
        open_field(tmp_path / "a.tif", pixel_size=250)


@pytest.mark.parametrize("kind", ["ome", "imagej"])
def test_a_file_with_an_impossible_scale_has_none_and_says_so(tmp_path: Path, kind: str) -> None:
    path, pixels = tmp_path / "a.ome.tif", smear().plane()
    if kind == "ome":
        metadata = {"axes": "YXS", "PhysicalSizeX": 84.7, "PhysicalSizeY": 84.7}
        tifffile.imwrite(path, pixels, photometric="rgb", ome=True, metadata=metadata)
    else:
        path = tmp_path / "a.tif"
        tifffile.imwrite(
            path, pixels[..., 0], imagej=True, resolution=(1 / 352, 1 / 352),
            metadata={"unit": "um"},
        )  # fmt: skip
    field = open_field(path)
    assert field.pixel_size is None
    assert any("µm per pixel" in note for note in field.notes)


@pytest.mark.slow
@pytest.mark.skipif(not (SHARED / "data" / "bccd_fields.zip").exists(), reason="no BCCD fields")
def test_the_scale_of_real_fields_is_right_within_a_quarter() -> None:
    sizes = defaultdict(list)
    with zipfile.ZipFile(SHARED / "data" / "bccd_fields.zip") as archive:
        for row in csv.DictReader(io.TextIOWrapper(archive.open("boxes.csv"))):
            if row["class"] == "RBC" and row["image"].startswith("val/"):
                sides = (float(row[f"{a}max"]) - float(row[f"{a}min"]) for a in "xy")
                sizes[row["image"]].append(float(np.sqrt(np.prod(list(sides)))))
        right = []
        for name in sorted(sizes)[:8]:
            pixels = np.asarray(Image.open(io.BytesIO(archive.read(name))).convert("RGB"))
            found = measure_scale(Field(pixels, "YXC", None, "brightfield"))
            true = RED_CELL_UM / float(np.median(sizes[name]))
            right.append(found is not None and abs(found.pixel_size / true - 1) <= 0.25)
    assert sum(right) >= 7
