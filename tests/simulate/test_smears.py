from __future__ import annotations

import numpy as np
import pytest

from napari_sparseattn.simulate import (
    opd_cells,
    smear,
    smear_with_truth,
    tile_field,
)


def test_smear_is_seeded_and_says_it_is_simulated():
    first, again, other = smear(seed=1), smear(seed=1), smear(seed=2)
    np.testing.assert_array_equal(first.data, again.data)
    assert not np.array_equal(first.data, other.data)
    assert "simulated" in first.name
    assert (first.modality, first.pixel_size) == ("brightfield", 0.25)
    assert first.data.shape == (480, 640, 3)


def test_white_cells_are_darker_in_red_light_than_red_cells():
    field, truth = smear_with_truth(seed=0, n_white=4)
    for box in truth.boxes:
        row0, col0, row1, col1 = np.round(box + 0.5).astype(int)
        assert np.quantile(field.data[row0:row1, col0:col1, 0], 0.1) < 120
    assert np.median(field.data[..., 0]) > 170


def test_a_field_without_room_for_cells():
    field, truth = smear_with_truth((20, 20), n_white=5)
    assert len(truth) <= 1
    assert field.shape == (20, 20)
    assert smear((1, 1)).shape == (1, 1)


def test_opd_is_that_of_cells_in_nanometres():
    field = opd_cells(seed=0, noise=0)
    assert (field.modality, field.unit) == ("opd", "nm")
    assert "simulated" in field.name
    assert field.data.min() >= 0
    assert 120 < field.data.max() < 260
    assert np.median(field.data) == pytest.approx(0, abs=0.5)


def test_tiles_meet_at_their_edges():
    field = smear((40, 60), n_white=1)
    tiled = tile_field(field, 2, 3)
    assert tiled.shape == (80, 180)
    np.testing.assert_array_equal(tiled.data[:40, :60], field.data)
    np.testing.assert_array_equal(tiled.data[39], tiled.data[40])
    np.testing.assert_array_equal(tiled.data[:, 59], tiled.data[:, 60])
    assert tiled.pixel_size == field.pixel_size


@pytest.mark.parametrize("options", [{"shape": (0, 9)}, {"pixel_size": 0}])
def test_bad_sizes_are_refused(options):
    with pytest.raises(ValueError, match="positive"):
        smear(**options)
    with pytest.raises(ValueError, match="positive"):
        opd_cells(**options)
    with pytest.raises(ValueError, match="at least one"):
        tile_field(smear((9, 9)), 0, 1)
