from __future__ import annotations

import csv
import io
import zipfile
from pathlib import Path

import numpy as np
import PIL.Image
import pytest
import skimage.measure

from napari_sparseattn.images.fields.cells import (
    Cells,
    cells_from_labels,
    cells_from_points,
    find_cells,
    knows_platelets,
)
from napari_sparseattn.images.fields.field import Field
from napari_sparseattn.simulate import opd_cells, smear_with_truth


def discs(shape: tuple[int, int], *circles: tuple[float, float, float]) -> np.ndarray:
    y, x = np.ogrid[: shape[0], : shape[1]]
    return np.max([np.hypot(y - r, x - c) <= radius for r, c, radius in circles], axis=0)


def distances(cells: Cells, centres: np.ndarray) -> np.ndarray:
    return np.hypot(*(cells.centres[:, None] - np.asarray(centres)[None]).transpose(2, 0, 1))


def test_labels_agree_with_regionprops():
    labels = skimage.measure.label(np.random.default_rng(0).random((60, 70)) > 0.6)
    cells = cells_from_labels(labels, 0.5)
    props = skimage.measure.regionprops(labels)
    assert len(cells) == len(props) > 20
    np.testing.assert_allclose(cells.centres, [p.centroid for p in props])
    np.testing.assert_allclose(cells.boxes + 0.5, [p.bbox for p in props])
    expected = [min(p.bbox[:2]) == 0 or p.bbox[2] == 60 or p.bbox[3] == 70 for p in props]
    np.testing.assert_array_equal(cells.at_border, expected)
    assert cells.pixel_size == 0.5


@pytest.mark.parametrize("dtype", [np.int64, np.uint64])
def test_large_label_ids_survive(dtype):
    labels = np.zeros((10, 10), dtype)
    labels[2:4, 2:4] = 2**32 + 5
    labels[6:8, 6:8] = 2**53 + 1
    cells = cells_from_labels(labels)
    assert cells.ids.tolist() == [2**32 + 5, 2**53 + 1]
    assert cells.nearest((7, 7)) == 1


def test_empty_labels_give_no_cells():
    cells = cells_from_labels(np.zeros((10, 10), int))
    assert len(cells) == 0
    assert cells.nearest((3, 3)) is None
    assert len(cells.diameters) == 0


def test_a_mask_is_split_into_its_parts():
    assert len(cells_from_labels(discs((40, 40), (10, 10, 5), (30, 30, 5)))) == 2


@pytest.mark.parametrize(
    ("labels", "message"),
    [
        (np.zeros((5, 5)), "must be integers"),
        (np.full((5, 5), -1), "between 0 and"),
        (np.full((5, 5), 2**63, np.uint64), "between 0 and"),
        (np.zeros((2, 5, 5), int), "choose one frame"),
    ],
)
def test_wrong_labels_are_refused(labels, message):
    with pytest.raises(ValueError, match=message):
        cells_from_labels(labels)


def test_points_keep_their_order_and_are_clipped_at_the_border():
    cells = cells_from_points([(20, 30), (1, 2)], (40, 50), diameter=10, pixel_size=0.2)
    np.testing.assert_allclose(cells.boxes, [[15, 25, 25, 35], [-0.5, -0.5, 6, 7]])
    assert cells.at_border.tolist() == [False, True]
    assert cells.ids.tolist() == [1, 2]
    assert cells.diameters[0] == 10


def test_no_points_no_cells():
    assert len(cells_from_points(np.empty((0, 2)), (40, 50), diameter=10)) == 0


@pytest.mark.parametrize(
    ("points", "diameter", "message"),
    [
        ([(99, 3)], 10, "outside of the image"),
        ([(np.nan, 3)], 10, "outside of the image"),
        ([(1, 2, 3)], 10, "choose one frame"),
        ([(1, 2)], 0, "positive"),
    ],
)
def test_wrong_points_are_refused(points, diameter, message):
    with pytest.raises(ValueError, match=message):
        cells_from_points(points, (40, 50), diameter=diameter)


def test_nearest_takes_boxes_then_distance():
    cells = cells_from_points([(20, 20), (20, 28)], (60, 60), diameter=10)
    assert cells.nearest((20, 23.9)) == 0
    assert cells.nearest((20, 24.1)) == 1
    assert cells.nearest((40, 20)) is None
    assert cells.nearest((40, 20), within=25) == 0
    assert cells.nearest((40, 20), within=5) is None
    assert cells.nearest((np.nan, 20)) is None


def test_the_label_under_the_pointer_decides_between_boxes():
    labels = np.zeros((40, 40), int)
    labels[5:30, 5:8] = 1
    labels[27:30, 5:30] = 1
    labels[10:20, 12:20] = 2
    cells = cells_from_labels(labels)
    assert cells.nearest((28.4, 28)) == 0
    assert cells.nearest((12, 13)) == 1


@pytest.mark.parametrize(
    ("index", "ids"),
    [([1], [2]), (np.array([False, True]), [2]), (slice(1, None), [2]), ([], []), ([1, 0], [2, 1])],
)
def test_subset(index, ids):
    cells = cells_from_points([(20, 20), (20, 28)], (60, 60), diameter=10)
    assert cells.subset(index).ids.tolist() == ids


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"ids": [1, 1]}, "differ"),
        ({"ids": [0, 1]}, "positive"),
        ({"ids": [1]}, "shape"),
        ({"centres": [[1, np.nan], [2, 2]]}, "finite"),
        ({"boxes": [[5, 0, 1, 9], [0, 0, 1, 1]]}, "row0"),
    ],
)
def test_inconsistent_cells_are_refused(change, message):
    good = {
        "centres": [[1, 1], [2, 2]],
        "boxes": [[0, 0, 2, 2], [1, 1, 3, 3]],
        "at_border": [False, False],
        "ids": [1, 2],
    }
    with pytest.raises(ValueError, match=message):
        Cells(**{k: np.array(v) for k, v in (good | change).items()})


@pytest.mark.slow
@pytest.mark.parametrize("pixel_size", [0.25, 0.1])
@pytest.mark.parametrize("known", [True, False])
def test_every_simulated_white_cell_is_found_once(pixel_size, known):
    shape = tuple(round(v * 0.25 / pixel_size) for v in (400, 520))
    field, truth = smear_with_truth(shape, seed=3, n_white=6, pixel_size=pixel_size)
    if not known:
        field = Field.from_array(field.data)
    cells = find_cells(field)
    assert len(cells) == len(truth) == 6
    np.testing.assert_array_equal((distances(cells, truth.centres) * pixel_size < 2.5).sum(0), 1)


@pytest.mark.slow
@pytest.mark.parametrize("known", [True, False])
def test_platelets_are_found_where_they_are_asked_for(known):
    field, truth = smear_with_truth(seed=3, n_white=4)
    if not known:
        field = Field.from_array(field.data)
    white, every = find_cells(field), find_cells(field, platelets=True)
    assert len(white) == 4
    sizes = every.diameters * 0.25
    assert np.count_nonzero(sizes > 6) == 4
    # The smear is drawn with one platelet on 1200 µm², if there is room.
    assert 8 <= np.count_nonzero(sizes < 5) <= 16
    assert distances(every.subset(sizes < 5), truth.centres).min() * 0.25 > 3
    assert len(np.unique(every.ids)) == len(every)


@pytest.mark.parametrize(
    ("names", "considered", "expected"),
    [
        (["platelet", "monocyte"], None, True),
        (["Platelets"], None, True),
        (["monocyte"], None, False),
        (["platelet", "monocyte"], ["monocyte"], False),
    ],
)
def test_platelets_are_looked_for_where_they_can_be_the_answer(names, considered, expected):
    assert knows_platelets(names, considered) is expected


@pytest.mark.slow
def test_red_cells_exclude_white_ones():
    field, truth = smear_with_truth(seed=1, n_white=3)
    cells = find_cells(field, "red-cells")
    assert 90 <= len(cells) <= 200
    assert distances(cells, truth.centres).min() * 0.25 > 3
    assert np.median(cells.diameters) * 0.25 == pytest.approx(7.5, abs=1)


def test_opd_cells_are_found_at_their_places():
    field = opd_cells(seed=2)
    cells = find_cells(field)
    # The sum of OPD under each label is the cell's dry mass: none is noise.
    assert 6 <= len(cells) <= 16
    sums = np.bincount(cells.labels.ravel(), field.data.ravel())[1:]
    assert sums.min() > 0.3 * np.median(sums)
    assert cells.pixel_size == field.pixel_size


@pytest.mark.parametrize("sign", [1, -1])
@pytest.mark.parametrize("unit", [1.0, 1e-9, 1e4])
def test_touching_cells_are_split_whatever_sign_and_scale(sign, unit):
    circles = [(40, 40, 12), (40, 62, 12), (90, 90, 12), (0, 100, 12)]
    mask = discs((128, 128), *circles)
    noise = np.random.default_rng(0).normal(0, 0.03, mask.shape)
    field = Field.from_array((sign * (mask + noise) * unit).astype(np.float32))
    cells = find_cells(field)
    assert len(cells) == 4
    near = distances(cells, [c[:2] for c in circles[:3]]) < 3
    np.testing.assert_array_equal(near.sum(0), 1)
    assert cells.at_border.tolist().count(True) == 1


@pytest.mark.parametrize("shape", [(1, 1), (1, 40), (5, 5), (64, 64)])
@pytest.mark.parametrize("fill", [0, 128, 255])
@pytest.mark.parametrize("method", ["white-cells", "red-cells", "phase"])
def test_constant_images_hold_no_cells(shape, fill, method):
    shape = shape if method == "phase" else (*shape, 3)
    axes = "YX" if method == "phase" else "YXC"
    field = Field.from_array(np.full(shape, fill, np.uint8), axes=axes, modality="brightfield")
    assert len(find_cells(field, method)) == 0


@pytest.mark.parametrize("value", [np.nan, np.inf])
def test_invalid_pixels_do_not_matter(value):
    empty = Field.from_array(np.full((64, 64), value))
    assert len(find_cells(empty)) == 0
    data = discs((128, 128), (40, 40, 12), (90, 90, 12)).astype(np.float64)
    data += np.random.default_rng(0).normal(0, 0.03, data.shape)
    data[::9, ::7] = value
    assert len(find_cells(Field.from_array(data))) == 2


def test_noise_alone_holds_no_cells():
    noise = np.random.default_rng(0).normal(0, 1, (200, 200))
    assert len(find_cells(Field.from_array(noise))) == 0
    grey = np.clip(0.8 + 0.01 * noise[..., None] * np.ones(3), 0, 1)
    assert len(find_cells(Field.from_array(grey))) == 0


@pytest.mark.parametrize(
    ("array", "axes", "method", "message"),
    [
        (np.zeros((20, 20, 2)), "YXC", "auto", "2 channels.*choose a method"),
        (np.zeros((20, 20, 2)), "YXC", "phase", "needs 1 channel"),
        (np.zeros((20, 20)), "YX", "white-cells", "needs 3 channel"),
        (np.zeros((20, 20)), "YX", "magic", "'magic' is not known"),
    ],
)
def test_methods_that_do_not_fit_say_what_does(array, axes, method, message):
    with pytest.raises(ValueError, match=message):
        find_cells(Field.from_array(array, axes=axes), method)


@pytest.mark.slow
def test_white_cells_of_real_fields(shared: Path):
    """A guard against regressions; benchmarks/find_cells.py has the figures."""
    with zipfile.ZipFile(shared / "data" / "bccd_fields.zip") as archive:
        with archive.open("boxes.csv") as file:
            rows = list(csv.DictReader(io.TextIOWrapper(file)))
        names = sorted({row["image"] for row in rows if row["image"].startswith("train/")})[::20]
        hits = found = known = 0
        for name in names:
            image = np.asarray(PIL.Image.open(archive.open(name)).convert("RGB"))
            centres = find_cells(Field.from_array(image)).centres
            boxes = np.array(
                [
                    [float(row[key]) for key in ("ymin", "xmin", "ymax", "xmax")]
                    for row in rows
                    if row["image"] == name and row["class"] == "WBC"
                ]
            )
            inside = (boxes[:, None, :2] <= centres) & (centres <= boxes[:, None, 2:])
            hits += inside.all(-1).any(1).sum()
            found += len(centres)
            known += len(boxes)
    assert hits >= 0.9 * known
    assert hits >= 0.8 * found
