"""Selected pixels: where they lie, and what they weigh."""

from __future__ import annotations

import json

import numpy as np
import pytest

from napari_sparseattn.evidence import CropFrame, PixelSelection


def selection() -> PixelSelection:
    fine = np.array([[[0.1, 0.2, 0.3, 0.4], [0.5, 0.1, 0.1, 0.3]]], dtype=np.float32)
    return PixelSelection(
        CropFrame(20.0, 30.0, 12.0, 4), np.array([0, 6, 15]), fine, np.full((4, 4), 0.5, np.float32)
    )


def test_crop_pixels_map_to_the_image() -> None:
    """A 4-pixel crop over 12 pixels centred at (20, 30) covers rows 14 to 26."""
    frame = selection().frame
    assert frame.scale == 3
    np.testing.assert_allclose(frame.to_image((0, 0)), (15.5, 25.5))
    np.testing.assert_allclose(frame.to_image((-0.5, 3.5)), (14, 36))
    np.testing.assert_allclose(frame.to_image((1.5, 1.5)), (20, 30))


def test_weights_leave_the_class_token_out() -> None:
    chosen = selection()
    np.testing.assert_allclose(chosen.weights(), np.array([0.3, 0.15, 0.2]) / 0.65, rtol=1e-6)
    np.testing.assert_allclose(chosen.weights(0), np.array([1, 2, 3]) / 6, rtol=1e-6)


def test_maps_lie_where_the_pixels_are() -> None:
    chosen = selection()
    assert chosen.places.tolist() == [[0, 0], [1, 2], [3, 3]]
    assert np.argwhere(chosen.mask()).tolist() == chosen.places.tolist()
    relative = chosen.fine_map(0)
    assert np.isnan(relative).sum() == 13
    np.testing.assert_allclose(relative[1, 2], 1.0, rtol=1e-6)
    np.testing.assert_allclose(np.nanmean(relative), 1.0, rtol=1e-6)
    assert chosen.share == 3 / 16


def test_json_round_trip() -> None:
    entry = json.loads(json.dumps(selection().to_dict()))
    assert entry["indices"] == [0, 6, 15]
    assert sum(entry["fine"]) == pytest.approx(1, abs=1e-6)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"indices": np.array([0, 1])}, "fine attention"),
        ({"indices": np.array([0, 6, 16])}, "outside the crop"),
        ({"coarse": np.zeros((4, 5), np.float32)}, "coarse map"),
    ],
)
def test_parts_that_disagree_are_refused(change: dict, message: str) -> None:
    good = selection()
    parts = {"frame": good.frame, "indices": good.indices, "fine": good.fine, "coarse": good.coarse}
    with pytest.raises(ValueError, match=message):
        PixelSelection(**{**parts, **change})
