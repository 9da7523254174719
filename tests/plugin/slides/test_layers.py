"""A slide's layers: sliced as the array it stands for, and placed on its pixels."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from napari.components import ViewerModel
from napari.layers import Image, Labels
from napari.utils.notifications import notification_manager

from bad_slides import PARTLY, halves, overwrite, patch_tag, scene, tile_places, write_svs, zeroed
from napari_sparseattn.images.slides.opening import open_slide
from napari_sparseattn.images.slides.pyramid import ArrayPyramid, VirtualPyramid
from napari_sparseattn.plugin.core.sources import slide_of
from napari_sparseattn.plugin.slides.layers import (
    LevelView,
    follow_unreadable,
    read_slide,
    slide_layer,
    unread_layer,
    unreadable_layer,
)

from ..conftest import wait_until


def _flat(height: int, width: int, n_levels: int | None = None) -> VirtualPyramid:
    def render(level: int, y: int, x: int, h: int, w: int) -> np.ndarray:
        return np.full((h, w, 3), (level + 1) * 10, np.uint8)

    return VirtualPyramid(render, height, width, n_levels=n_levels, pixel_size=0.5)


@pytest.mark.parametrize(
    "key",
    [
        np.s_[:],
        np.s_[10:60, 20:70],
        np.s_[10:60:3, 20:70:7, 1],
        np.s_[5],
        np.s_[5, -7],
        np.s_[-1, ..., 2],
        np.s_[..., 0],
        np.s_[30:30, 4:9],
        np.s_[-40:, :900],
        np.s_[3:9, 5],
    ],
)
@pytest.mark.parametrize("colour", [True, False])
def test_slices_are_those_of_the_array(key: Any, colour: bool) -> None:
    image = scene(300, 400) if colour else scene(300, 400)[..., 0]
    if not colour and isinstance(key, tuple) and len(key) == 3 and Ellipsis not in key:
        key = key[:2]
    if not colour and key in (np.s_[..., 0], np.s_[-1, ..., 2]):
        key = np.s_[:]
    view = LevelView(ArrayPyramid(image), 0)
    assert (view.shape, view.ndim, view.size) == (image.shape, image.ndim, image.size)
    np.testing.assert_array_equal(view[key], image[key])
    np.testing.assert_array_equal(np.asarray(view), image)


def test_a_huge_level_is_not_taken_into_memory() -> None:
    view = LevelView(_flat(80_000, 60_000), 0)
    with pytest.raises(ValueError, match="too many"):
        np.asarray(view)
    assert view[70_000:70_010, 5:7].shape == (10, 2, 3)


def test_layer_has_scale_units_and_the_slide(tmp_path: Path) -> None:
    (data, attributes, kind) = read_slide(str(write_svs(tmp_path / "a.svs", pixel_size="0.25")))[0]
    assert kind == "image"
    layer = Image(data, **attributes)
    assert layer.multiscale
    assert layer.rgb
    np.testing.assert_allclose(layer.scale, 0.25)
    assert [str(unit) for unit in layer.units] == ["micrometer", "micrometer"]
    slide = slide_of(layer)
    assert slide is not None
    assert slide.shape == (1024, 1024)
    assert slide_of(Image(np.zeros((4, 4)))) is None


def test_missing_scale_is_told_and_left_out(tmp_path: Path) -> None:
    (_, attributes, _) = read_slide(str(write_svs(tmp_path / "a.svs", pixel_size=None)))[0]
    assert "how many µm" in notification_manager.records[-1].message
    assert "scale" not in attributes
    assert "units" not in attributes


def test_a_large_image_without_levels_gets_an_overview() -> None:
    """napari reads the coarsest level whole; made coarser it is the mean of its pixels."""
    slide = _flat(5000, 9000, n_levels=1)
    data, _, _ = slide_layer(slide)
    assert [level.shape[:2] for level in data] == [(5000, 9000), (1250, 2250), (313, 563)]
    np.testing.assert_array_equal(data[2][100:110, 100:120], 10)


def test_grey_is_no_colour() -> None:
    data, attributes, _ = slide_layer(ArrayPyramid(halves(scene()[..., :1], 2)))
    layer = Image(data, **attributes)
    assert not layer.rgb
    assert layer.contrast_limits == [0, 255]


def _world(layer: Labels, row: int, column: int) -> tuple[np.ndarray, np.ndarray]:
    """Return the corners in world coordinates of one pixel of a layer."""
    corners = np.array([(row - 0.5, column - 0.5), (row + 0.5, column + 0.5)])
    first, last = (np.asarray(layer.data_to_world(corner)) for corner in corners)
    return first, last


def test_unreadable_tiles_lie_where_they_are(tmp_path: Path) -> None:
    with open_slide(zeroed(tmp_path / "a.svs", tiles=(6,))) as slide:
        assert unreadable_layer(slide) is None
        slide.read_region(0, 0, 0, 1024, 1024)
        found = unreadable_layer(slide)
    assert found is not None
    data, attributes, _ = found
    assert np.argwhere(data).tolist() == [[1, 2]]
    first, last = _world(Labels(data, **attributes), 1, 2)
    # Pixels are 0.5 µm, tiles 256 px, and napari's pixels are centred on their index.
    np.testing.assert_allclose(first, [127.75, 255.75])
    np.testing.assert_allclose(last, [255.75, 383.75])
    assert "6.2 %" in attributes["name"]


def test_unread_tiles_of_a_level(tmp_path: Path) -> None:
    slide = _flat(2000, 2000)
    slide.read_region(0, 0, 1, 10, 10)
    slide.read_region(0, 0, 2, 300, 300)
    data, attributes, _ = unread_layer(slide, slide.ledger.snapshot())
    expected = np.ones((4, 4))
    expected[0, 0] = 0
    np.testing.assert_array_equal(data, expected)
    first, last = _world(Labels(data, **attributes), 3, 1)
    np.testing.assert_allclose([first, last], [[767.75, 255.75], [1023.75, 511.75]])
    data, _, _ = unread_layer(slide, slide.ledger.snapshot(), level=0)
    assert data.all()


@pytest.mark.slow
def test_unreadable_tiles_appear_while_panning(
    tmp_path: Path, qtbot: Any, make_napari_viewer: Callable[..., Any]
) -> None:
    viewer = make_napari_viewer()
    with open_slide(zeroed(tmp_path / "a.svs", tiles=(5, 6))) as slide:
        data, attributes, _ = slide_layer(slide)
        layer = viewer.add_image(data, **attributes)
        follow_unreadable(viewer, layer)
        np.asarray(data[0][300:310, 300:310])
        layer.refresh()
        wait_until(qtbot, lambda: len(viewer.layers) == 2)
        mask = viewer.layers[1]
        assert int((np.asarray(mask.data) > 0).sum()) == slide.ledger.n_failed
        assert viewer.layers.selection.active is layer
        np.asarray(data[0][300:310, 600:610])
        layer.refresh()
        wait_until(qtbot, lambda: int((np.asarray(mask.data) > 0).sum()) == 2)
        assert len(viewer.layers) == 2


@pytest.mark.parametrize("entry", PARTLY, ids=lambda entry: entry[0])
def test_bad_slides_are_shown(tmp_path: Path, entry: tuple) -> None:
    """Every damaged slide that opens is drawn, whatever fails in it."""
    with open_slide(entry[1](tmp_path / entry[0])) as slide:
        viewer = ViewerModel()
        data, attributes, _ = slide_layer(slide)
        layer = viewer.add_image(data, **attributes)
        layer.refresh()
        assert layer.thumbnail.any()


def test_replaced_file_is_reported_once_and_drawn_black(tmp_path: Path) -> None:
    path = write_svs(tmp_path / "a.svs")
    said: list[str] = []
    with open_slide(path) as slide:
        data, _, _ = slide_layer(slide, said.append)
        assert data[0][0:10, 0:10].any()
        write_svs(tmp_path / "b.svs", halves(255 - scene(), 3)).replace(path)
        for _ in range(3):
            assert not data[0][600:610, 600:610].any()
            assert not data[1][300:310, 300:310].any()
    assert len(said) == 1
    assert "changed or replaced" in said[0]


def test_glass_that_was_not_scanned_looks_like_glass_and_what_is_damaged_black(
    tmp_path: Path,
) -> None:
    path = write_svs(tmp_path / "a.svs", halves(scene(), 1))
    offsets, counts = tile_places(path)
    offsets[5] = counts[5] = 0
    patch_tag(path, "TileOffsets", offsets)
    patch_tag(path, "TileByteCounts", counts)
    overwrite(path, offsets[10], b"\x55" * counts[10])
    with open_slide(path) as slide:
        for coarser in (1, 4):
            image = LevelView(slide, 0, coarser)
            side = 256 // coarser
            assert (image[side : 2 * side, side : 2 * side] == 255).all()
            assert (image[2 * side : 3 * side, 2 * side : 3 * side] == 0).all()
            assert 0 < image[:side, :side].mean() < 255
