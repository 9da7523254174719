"""From annotations to crops: the right pixels, no leak between the parts."""

from __future__ import annotations

import dataclasses
from pathlib import Path

import numpy as np
import pytest

from napari_sparseattn.card import Card
from napari_sparseattn.images.fields.cells import cells_from_points
from napari_sparseattn.images.fields.field import Field
from napari_sparseattn.inference.cells import crop_side
from napari_sparseattn.training.data.annotated import (
    cut_cells,
    cut_fields,
    cut_unannotated_cells,
    plan_cells,
    too_few,
)
from napari_sparseattn.training.data.annotations import ImageRecord, image_hash
from napari_sparseattn.training.data.project import Project
from napari_sparseattn.training.data.split import held_out
from small_model import small_bundle

CARD: Card = small_bundle().card  # 16 px, 8 µm


def ramp(height: int = 400, width: int = 600) -> Field:
    """Red tells the row, green the column."""
    data = np.zeros((height, width, 3), np.uint8)
    data[..., 0] = np.arange(height)[:, None] % 256
    data[..., 1] = np.arange(width)[None] % 256
    return Field.from_array(data, axes="YXC", pixel_size=0.5, modality="brightfield", name="ramp")


def annotate(project: Project, field: Field, cells: list[tuple[str, float, float]]) -> ImageRecord:
    record = ImageRecord(image_hash(field), field.name, field.shape, field.pixel_size)
    book = project.open(record)
    for label, y, x in cells:
        book.add("cell", label, position=(y, x))
    book.close()
    return record


def test_crops_show_what_was_clicked(tmp_path: Path) -> None:
    field, project = ramp(), Project(tmp_path)
    annotate(project, field, [("a", 40, 50), ("b", 100, 200)])
    found = cut_cells(project, lambda record: field, CARD)
    data = found.data
    # 8 µm are 16 px of the image; crops are stored at twice the model's 16 px.
    assert data.crops.shape == (2, 32, 32, 3)
    assert data.crops.dtype == np.uint8
    assert data.class_names == ("a", "b")
    for crop, (y, x) in zip(data.crops, ((40, 50), (100, 200)), strict=True):
        np.testing.assert_allclose(crop[..., 0].mean(), y, atol=1)
        np.testing.assert_allclose(crop[..., 1].mean(), x, atol=1)
        assert np.ptp(crop[..., 0].astype(int)) in (15, 16)
    assert found.notes == ()
    cells = cells_from_points([(40, 50)], field.shape, diameter=10.0)
    sides, scale_known = crop_side(field, cells, small_bundle())
    assert scale_known
    assert sides[0] == 16


def test_planes_are_counted_along_the_first_axis_whatever_it_is(tmp_path: Path) -> None:
    ramped = ramp()
    data = np.stack([np.zeros_like(ramped.data), ramped.data])
    field = Field.from_array(
        data, axes="ZYXC", pixel_size=0.5, modality="brightfield", name="slices"
    )
    project = Project(tmp_path)
    record = ImageRecord(image_hash(field), field.name, field.shape, field.pixel_size)
    book = project.open(record)
    book.add("cell", "a", position=(40, 50), t=1)
    book.add("cell", "b", position=(100, 200), t=1)
    book.close()
    found = cut_cells(project, lambda record: field, CARD).data
    for crop, y in zip(found.crops, (40, 100), strict=True):
        np.testing.assert_allclose(crop[..., 0].mean(), y, atol=1)


def test_no_crop_that_is_trained_on_shows_a_held_out_cell(tmp_path: Path) -> None:
    field, project = ramp(), Project(tmp_path)
    rng = np.random.default_rng(0)
    places = rng.uniform(8, (392, 592), (800, 2))
    annotate(project, field, [("ab"[i % 2], y, x) for i, (y, x) in enumerate(places)])
    found = cut_cells(project, lambda record: field, CARD)
    out = held_out(found.data)
    assert 0.05 < out.mean() < 0.4
    ((_, items),) = project.annotations()
    place = {item.id: item.position for item in items}
    at = np.array([place[i] for i in found.data.names])
    apart = np.abs(at[~out][:, None] - at[out][None]).max(2)
    assert apart.min() >= 8
    lost = len(places) - len(found.data)
    assert 0 < lost < 200
    assert f"{lost} cells of ramp are not trained on" in found.notes[0]


def test_what_is_held_out_stays_so_when_more_is_annotated(tmp_path: Path) -> None:
    field, project = ramp(), Project(tmp_path)
    rng = np.random.default_rng(1)
    record = annotate(project, field, [("a", *rng.uniform(8, 390, 2)) for _ in range(100)])
    first = cut_cells(project, lambda r: field, CARD).data
    book = project.open(record)
    for _ in range(100):
        book.add("cell", "b", position=tuple(rng.uniform(8, 390, 2)))
    book.close()
    second = cut_cells(project, lambda r: field, CARD).data
    before = {n for n, o in zip(first.names, held_out(first), strict=True) if o}
    after = {n for n, o in zip(second.names, held_out(second), strict=True) if o}
    assert before
    assert before <= after


def field_of_47(project: Project, side: float) -> Field:
    """47 cells of three classes in one field of 640 x 480 pixels, of crops so wide."""
    field = dataclasses.replace(ramp(480, 640), pixel_size=CARD.crop.field_of_view_um / side)
    rng = np.random.default_rng(7)
    rows, columns = np.meshgrid(np.arange(30, 460, 70), np.arange(30, 620, 85), indexing="ij")
    places = np.stack([rows.ravel(), columns.ravel()], 1)[:47] + rng.uniform(-20, 20, (47, 2))
    labels = ["common"] * 30 + ["rare"] * 10 + ["new"] * 7
    rng.shuffle(labels)
    annotate(project, field, [(n, y, x) for n, (y, x) in zip(labels, places, strict=True)])
    return field


@pytest.mark.parametrize("side", [60.0, 110.0, 160.0])
def test_one_field_of_47_cells_gives_some_of_each_class_to_both_parts(
    tmp_path: Path, side: float
) -> None:
    project = Project(tmp_path)
    field = field_of_47(project, side)
    found = cut_cells(project, lambda record: field, CARD).data
    out = held_out(found)
    train, test = (np.bincount(found.labels[rows], minlength=3) for rows in (~out, out))
    assert (test >= 1).all()
    assert (train >= np.array([15, 5, 4])).all()
    assert len(set(np.array(found.groups)[out])) >= 2
    ((_, items),) = project.annotations()
    place = {item.id: item.position for item in items}
    at = np.array([place[i] for i in found.names])
    assert np.abs(at[~out][:, None] - at[out][None]).max(2).min() >= side / 2


@pytest.mark.parametrize("side", [16.0, 110.0, 600.0])
def test_what_is_said_before_training_is_what_training_does(tmp_path: Path, side: float) -> None:
    project = Project(tmp_path)
    field = field_of_47(project, side)
    found = cut_cells(project, lambda record: field, CARD).data
    planned = plan_cells(list(project.annotations()), CARD)
    assert planned.names == found.names
    assert planned.groups == found.groups
    np.testing.assert_array_equal(held_out(planned), held_out(found))
    said, done = too_few(planned), too_few(found)
    assert sorted(said) == sorted(done)
    # Crops as wide as the field all show each other: nothing can be held out, which is said.
    assert any("held out to test on" in hint for hint in said) == (side == 600)
    assert held_out(found).any() == (side != 600)


def test_an_image_that_is_gone_is_told_and_the_others_serve(tmp_path: Path) -> None:
    field, project = ramp(), Project(tmp_path)
    annotate(project, field, [("a", 40, 50)])
    other = dataclasses.replace(ramp(100, 100), name="gone")
    gone = annotate(project, other, [("a", 40, 50)])
    grey = Field.from_array(np.zeros((50, 50), np.uint8), name="grey")
    single = annotate(project, grey, [("a", 9, 9)])

    def opened(record: ImageRecord) -> Field | None:
        if record.hash == gone.hash:
            raise FileNotFoundError("no such file")
        return grey if record.hash == single.hash else field

    found = cut_cells(project, opened, CARD)
    assert len(found.data) == 1
    assert sorted(found.notes) == [
        "1 annotated cells of gone: the image cannot be opened (no such file).",
        "1 annotated cells of grey: the image does not have the channels of 'small'.",
    ]
    with pytest.raises(ValueError, match="No annotated cell to learn from"):
        cut_cells(project, lambda record: None, CARD)


def test_without_a_pixel_size_cells_set_the_scale(tmp_path: Path) -> None:
    field = dataclasses.replace(ramp(), pixel_size=None)
    project = Project(tmp_path)
    record = ImageRecord(image_hash(field), "ramp", field.shape)
    book = project.open(record)
    book.add("cell", "a", position=(100, 100), diameter_px=20.0)
    book.add("cell", "a", position=(200, 200), diameter_px=24.0)
    book.close()
    crops = cut_cells(project, lambda r: field, CARD).data.crops
    wide = CARD.crop.cell_diameters * 22
    assert np.ptp(crops[0, ..., 0].astype(float)) == pytest.approx(wide, abs=3)


def test_values_with_a_unit_keep_it(tmp_path: Path) -> None:
    data = np.random.default_rng(0).normal(100, 30, (200, 200)).astype(np.float32)
    field = Field.from_array(data, pixel_size=0.5, modality="opd", unit="nm", name="opd")
    card = small_bundle(1, modality="opd", unit="nm").card
    project = Project(tmp_path)
    annotate(project, field, [("a", 100, 100)])
    crops = cut_cells(project, lambda r: field, card).data.crops
    assert crops.dtype == np.float32
    assert 50 < crops.mean() < 150


def test_whole_numbers_of_a_unit_are_taken_as_they_are(tmp_path: Path) -> None:
    """As a file of 16 bits is opened again, which does not say that it is in nm."""
    data = np.random.default_rng(0).integers(0, 400, (100, 120)).astype(np.uint16)
    field = Field.from_array(data, pixel_size=0.5, name="opd")
    project = Project(tmp_path)
    annotate(project, field, [("a", 40, 50), ("b", 60, 80)])
    found = cut_cells(
        project, lambda record: field, small_bundle(1, modality="opd", unit="nm").card
    )
    assert found.data.crops.dtype == np.float32
    assert found.data.crops.max() > 300


def test_regions_become_squares_inside_of_them(tmp_path: Path) -> None:
    field, project = ramp(), Project(tmp_path)
    book = project.open(ImageRecord(image_hash(field), "ramp", field.shape, 0.5))
    book.add("region", "tumour", polygon=((0, 0), (0, 100), (100, 100), (100, 0)))
    book.add("image", "benign")
    book.close()
    data = cut_fields(project, lambda r: field, CARD).data
    # 100 px hold six squares of 16 px along each axis.
    assert np.bincount(data.labels).tolist() == [36, 1]
    assert data.class_names == ("tumour", "benign")
    inside = data.crops[data.labels == 0]
    assert inside[..., :2].max() < 100
    assert len(set(data.groups)) == 1


@pytest.mark.slow
def test_unannotated_cells_are_not_the_annotated_ones(tmp_path: Path) -> None:
    from napari_sparseattn.images.fields.cells import find_cells
    from napari_sparseattn.simulate import smear

    field = smear(seed=3)
    field = field[0] if isinstance(field, tuple) else field
    cells = find_cells(field)
    assert len(cells) > 3
    project = Project(tmp_path)
    annotate(project, field, [("a", *cells.centres[0]), ("a", *cells.centres[1])])
    crops = cut_unannotated_cells(project, lambda r: field, CARD)
    assert len(crops) == len(cells) - 2
    assert crops.shape[1:] == (32, 32, 3)
    assert len(cut_unannotated_cells(project, lambda r: field, CARD, most=2)) == 2
