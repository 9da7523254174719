"""Areas and masses against sums written out."""

from __future__ import annotations

import math

import numpy as np
import pytest

from napari_sparseattn.images.fields.cells import cells_from_labels, cells_from_points
from napari_sparseattn.images.fields.field import Field
from napari_sparseattn.images.holograms.measure import measure_opd
from napari_sparseattn.simulate import sphere_opd

LABELS = np.zeros((30, 40), int)
LABELS[4:9, 5:11] = 7
LABELS[20:30, 30:40] = 3


def field(values: np.ndarray, pixel_size: float | None = 0.5) -> Field:
    return Field(values.astype(np.float32), "YX", pixel_size, "opd", "nm")


def test_a_flat_cell_is_area_times_opd() -> None:
    opd = np.where(LABELS == 7, 190.0, 0) + np.where(LABELS == 3, 380.0, 0)
    found = measure_opd(field(opd), cells_from_labels(LABELS))
    # In ascending order of label: 3, then 7.
    assert found["area_um2"] == pytest.approx([25.0, 7.5])
    assert found["mean_opd_nm"] == pytest.approx([380.0, 190.0])
    assert found["peak_opd_nm"] == pytest.approx([380.0, 190.0])
    # 0.38 µm x 25 µm² / 0.19 µm³/pg
    assert found["dry_mass_pg"] == pytest.approx([50.0, 7.5])


def test_the_mass_of_a_sphere_is_its_volume_times_its_contrast() -> None:
    pixel_size, diameter, contrast = 0.1, 8.0, 0.03
    opd = sphere_opd((120, 120), pixel_size, diameter, contrast)
    cells = cells_from_labels((opd > 0).astype(int))
    found = measure_opd(field(opd, pixel_size), cells, refraction_increment=0.2)
    volume = math.pi / 6 * diameter**3
    assert found["dry_mass_pg"][0] == pytest.approx(volume * contrast / 0.2, rel=0.005)
    assert found["peak_opd_nm"][0] == pytest.approx(1e3 * diameter * contrast, rel=0.01)


def test_one_hot_pixel_is_no_peak() -> None:
    opd = np.where(LABELS == 7, 100.0, 0)
    opd[6, 8] = 5000
    assert measure_opd(field(opd), cells_from_labels(LABELS))["peak_opd_nm"][1] == 100


def test_pixels_that_are_not_finite_do_not_count() -> None:
    opd = np.where(LABELS == 7, 100.0, 50)
    opd[4, 5:11] = np.nan
    opd[LABELS == 3] = np.inf
    found = measure_opd(field(opd), cells_from_labels(LABELS))
    assert found["area_um2"][1] == pytest.approx(24 * 0.25)
    assert found["mean_opd_nm"][1] == pytest.approx(100)
    assert all(np.isnan(values[0]) for values in found.values())


def test_points_measure_the_disc_around_them() -> None:
    cells = cells_from_points([(15, 20), (0, 0)], (30, 40), diameter=10)
    found = measure_opd(field(np.full((30, 40), 200.0), 1.0), cells)
    assert found["area_um2"][0] == pytest.approx(math.pi * 25, rel=0.06)
    assert found["area_um2"][1] > 0


def test_without_a_pixel_size_there_is_no_mass() -> None:
    found = measure_opd(field(np.full((30, 40), 200.0), None), cells_from_labels(LABELS))
    assert np.isnan(found["dry_mass_pg"]).all()
    assert np.isnan(found["area_um2"]).all()
    assert found["mean_opd_nm"] == pytest.approx([200, 200])


def test_no_cells_give_empty_columns() -> None:
    found = measure_opd(field(np.zeros((9, 9))), cells_from_labels(np.zeros((9, 9), int)))
    assert {len(values) for values in found.values()} == {0}


def test_other_images_are_refused() -> None:
    phase = Field(np.zeros((9, 9), np.float32), "YX", 1.0, "phase", "rad")
    with pytest.raises(ValueError, match="reconstruct it with its wavelength"):
        measure_opd(phase, cells_from_labels(np.zeros((9, 9), int)))
    with pytest.raises(ValueError, match="increment"):
        measure_opd(field(np.zeros((9, 9))), cells_from_labels(np.zeros((9, 9), int)), 0, 0, -0.1)
    with pytest.raises(ValueError, match="labels are 30 x 40 pixels, the image 40 x 30"):
        measure_opd(field(np.zeros((40, 30))), cells_from_labels(LABELS))
