"""Cells' optical path difference against closed formulas and measured volumes."""

from __future__ import annotations

import numpy as np
import pytest
from scipy.integrate import quad

from napari_sparseattn.simulate import (
    CELL_RANGES,
    KINDS,
    cell_opd,
    opd_field,
    red_cell_thickness,
    sphere_opd,
)

PIXEL = 0.1
MEDIUM = 1.335
#: A red cell as Evans and Fung's mean one, 0.06 above the medium.
MEAN_RED = {
    "diameter": 7.82,
    "thickness": 1.0,
    "swelling": 0.0,
    "elongation": 1.0,
    "index": MEDIUM + 0.06,
}


def femtolitres(opd, contrast: float) -> float:
    """Volume in µm³ of a body of even index from its OPD in nm."""
    return float(opd.sum(dtype=float)) * PIXEL**2 / 1e3 / contrast


def test_red_cell_volume_is_that_of_evans_and_fung():
    """Their mean cell holds 94 fl."""
    volume = quad(lambda r: 2 * np.pi * r * red_cell_thickness(r / 3.91), 0, 3.91)[0]
    assert volume == pytest.approx(94, abs=1)
    assert red_cell_thickness([0, 1, 1.5]).tolist() == [0.81, 0, 0]


def test_sphere_is_its_chords():
    opd = sphere_opd((101, 101), PIXEL, 7.0, 0.03, supersample=8)
    assert opd.dtype == np.float32
    assert opd[50, 50] == pytest.approx(1e3 * 0.03 * 7.0, rel=1e-3)
    # 2 µm off the centre, a chord is 2 sqrt(3.5² - 2²) long.
    assert opd[50, 70] == pytest.approx(1e3 * 0.03 * 2 * np.sqrt(3.5**2 - 4), rel=1e-3)
    assert opd[50, 86] == 0
    assert femtolitres(opd, 0.03) == pytest.approx(np.pi / 6 * 7**3, rel=1e-3)


@pytest.mark.parametrize("tilt", [0.0, 8.0, 20.0])
def test_red_cell_keeps_its_volume_however_it_is_tilted(tilt: float):
    opd = cell_opd("red cell", (100, 100), PIXEL, params={**MEAN_RED, "tilt": tilt})
    assert femtolitres(opd, 0.06) == pytest.approx(94.1, abs=0.4)


def test_flat_red_cell_has_its_dimple_and_rim():
    opd = cell_opd("red cell", (101, 101), PIXEL, params={**MEAN_RED, "tilt": 0.0})
    assert opd[50, 50] == pytest.approx(1e3 * 0.06 * 0.81, abs=0.5)
    assert opd.max() == pytest.approx(1e3 * 0.06 * 2.58, abs=1)


def test_swollen_red_cell_is_evans_and_fungs_at_217_mosmol():
    swollen = {**MEAN_RED, "diameter": 7.60, "swelling": 1.0, "tilt": 0.0}
    assert femtolitres(cell_opd("red cell", (100, 100), PIXEL, params=swollen), 0.06) == (
        pytest.approx(116, abs=1)
    )


def test_coated_sphere_adds_its_nucleus_volume():
    params = {
        "diameter": 8.0,
        "nucleus_ratio": 0.8,
        "cytoplasm_index": MEDIUM + 0.02,
        "nucleus_index": MEDIUM + 0.05,
        "clump_contrast": 0.0,
        "roundness": 1.0,
    }
    opd = cell_opd("lymphocyte-like", (100, 100), PIXEL, 3, params=params)
    whole, nucleus = (np.pi / 6 * d**3 for d in (8.0, 6.4))
    assert femtolitres(opd, 1.0) == pytest.approx(0.02 * whole + 0.03 * nucleus, rel=2e-3)
    params["nucleus_index"] = MEDIUM + 0.01  # lower than the cytoplasm
    assert cell_opd("lymphocyte-like", (100, 100), PIXEL, 3, params=params).max() < 0.02 * 8e3


@pytest.mark.parametrize(("kind", "share"), [("monocyte-like", 0.3), ("granulocyte-like", 0.213)])
def test_nuclei_have_the_share_of_the_volume_asked_for(kind: str, share: float):
    params = {
        "cytoplasm_index": MEDIUM,
        "nucleus_index": MEDIUM + 0.05,
        "nucleus_share": share,
        "granule_index": MEDIUM,
        "diameter": 9.0,
    }
    for seed in range(3):
        opd = cell_opd(kind, (120, 120), PIXEL, seed, params=params)
        got = femtolitres(opd, 0.05) / (np.pi / 6 * 9**3)
        assert got == pytest.approx(share, rel=0.08)


def test_overlapping_lobes_count_once():
    """Two spheres in one place are one sphere."""
    from napari_sparseattn.simulate.bodies import Ellipsoids

    axis = np.linspace(-4, 4, 60)
    once, twice = np.zeros((60, 60)), np.zeros((60, 60))
    ball = 3 * np.eye(3)[None]
    Ellipsoids(1.0, np.zeros((1, 3)), ball).add_to(once, axis, axis)
    centres, balls = np.zeros((2, 3)), np.repeat(ball, 2, 0)
    Ellipsoids(1.0, centres, balls, union=True).add_to(twice, axis, axis)
    np.testing.assert_allclose(twice, once, atol=1e-12)


@pytest.mark.parametrize("kind", KINDS)
def test_cells_are_seeded_finite_and_delay_light(kind: str):
    first, again, other = (cell_opd(kind, (140, 140), PIXEL, seed) for seed in (1, 1, 2))
    np.testing.assert_array_equal(first, again)
    assert not np.array_equal(first, other)
    assert np.isfinite(first).all()
    assert first.min() > -1e-3
    assert 20 < first.max() < 1500
    assert first[0].max() == first[:, 0].max() == 0


def test_a_cell_lies_where_it_is_put_and_is_cut_by_the_edge():
    opd = cell_opd("bead", (60, 80), PIXEL, 1, centre=(0.0, 75.0), params={"diameter": 4.0})
    assert np.unravel_index(opd.argmax(), opd.shape) == (0, 75)
    whole = cell_opd("bead", (60, 80), PIXEL, 1, params={"diameter": 4.0})
    np.testing.assert_allclose(opd[0, 70:80], whole[29:31, 34:46].mean(0)[1:11], rtol=0.02)


def test_every_range_has_a_source_and_is_one():
    for table in CELL_RANGES.values():
        for name, usual in table.items():
            assert usual.low < usual.high, name
            assert usual.source


def test_wrong_names_are_explained():
    with pytest.raises(ValueError, match="use one of red cell"):
        cell_opd("platelet", (9, 9), PIXEL)
    with pytest.raises(ValueError, match="has no nucleus_index"):
        cell_opd("red cell", (9, 9), PIXEL, params={"nucleus_index": 1.4})
    with pytest.raises(ValueError, match="positive"):
        sphere_opd((9, 9), 0.0, 5.0, 0.1)


def test_cells_of_a_field_do_not_touch():
    field, cells, kinds = opd_field((512, 512), PIXEL, 3, n_cells=8)
    assert (field.modality, field.unit, field.pixel_size) == ("opd", "nm", PIXEL)
    assert "simulated" in field.name
    assert len(cells) == len(kinds) > 3
    assert not cells.at_border.any()
    radii = cells.diameters / 2
    for i in range(len(cells)):
        apart = np.hypot(*(cells.centres - cells.centres[i]).T)
        assert np.all(np.delete(apart - radii - radii[i], i) * PIXEL > 1.4)
        low, high = cells.boxes[i, :2], cells.boxes[i, 2:]
        inside = tuple(slice(int(a), int(b) + 1) for a, b in zip(low, high, strict=True))
        assert field.data[inside].max() > 20
    empty, none, _ = opd_field((40, 40), PIXEL)
    assert len(none) == 0
    assert not empty.data.any()
