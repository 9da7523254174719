"""A SPAN's maps in a viewer without a window: where they lie, and what they show."""

from __future__ import annotations

import dataclasses
from typing import Any

import numpy as np
import pytest
from napari.components import ViewerModel
from napari.layers import Image

from napari_sparseattn.evidence import PyramidAttention, scale_weights
from napari_sparseattn.images.slides.pyramid import VirtualPyramid
from napari_sparseattn.inference.slides import LocalAttention
from napari_sparseattn.plugin.slides.layers import slide_layer
from napari_sparseattn.plugin.slides.pyramid_layers import PyramidLayers
from napari_sparseattn.plugin.slides.pyramid_maps import (
    LOCAL,
    PATCH,
    PROBABILITY,
    TISSUE,
    PyramidChoice,
    level_role,
    map_limits,
)

from ..made_attention import made_up_attention

INDEX = ()


@pytest.fixture
def attention() -> PyramidAttention:
    return made_up_attention()


@pytest.fixture
def toggled() -> list[tuple[str, bool]]:
    return []


@pytest.fixture
def maps(viewer: ViewerModel, toggled: list[tuple[str, bool]]) -> PyramidLayers:
    # A tuple of arguments is kept, as the layers hold the callable for good.
    return PyramidLayers(viewer, lambda *given: toggled.append(given))


@pytest.fixture
def slide(viewer: ViewerModel) -> Image:
    def render(level: int, y: int, x: int, height: int, width: int) -> np.ndarray:
        return np.full((height, width, 3), 220, np.uint8)

    pyramid = VirtualPyramid(render, 1000, 800, pixel_size=0.5, name="s")
    data, attributes, _ = slide_layer(pyramid)
    return viewer.add_image(data, **{**attributes, "translate": (10.0, 20.0)})


def shown(maps: PyramidLayers, slide: Image, attention: PyramidAttention, **choice: Any) -> None:
    maps.show_attention(slide, INDEX, attention, PyramidChoice(**choice))


def test_every_cell_lies_over_its_patches(
    maps: PyramidLayers, slide: Image, attention: PyramidAttention
) -> None:
    shown(maps, slide, attention, levels=frozenset({0, 1, 2}))
    for number, level in enumerate(attention.levels):
        layer = maps.layer(slide, level_role(number))
        weights = attention.patch_weights(number) * len(level)
        for patch in range(0, len(attention), 7):
            top, left, side = attention.patch_box(patch)
            world = slide.data_to_world((top + side / 2 - 0.5, left + side / 2 - 0.5))
            found = layer.get_value(world, world=True)
            assert found == pytest.approx(weights[patch], rel=1e-5)
        assert layer.units == slide.units
        np.testing.assert_allclose(layer.scale, 0.5 * 32 * level.factor)


def test_patches_that_overlap_keep_their_middles(maps: PyramidLayers, slide: Image) -> None:
    attention = made_up_attention(side=48.0)
    shown(maps, slide, attention)
    layer = maps.layer(slide, level_role(0))
    top, left, side = attention.patch_box(5)
    world = slide.data_to_world((top + side / 2 - 0.5, left + side / 2 - 0.5))
    row, column = layer.world_to_data(world)
    np.testing.assert_allclose((row % 1, column % 1), 0, atol=1e-9)


def test_only_the_finest_level_is_shown_at_first_above_the_coarser(
    maps: PyramidLayers, slide: Image, viewer: ViewerModel, attention: PyramidAttention
) -> None:
    shown(maps, slide, attention)
    names = [layer.name for layer in viewer.layers]
    assert names == [
        "s",
        "[s] attention level 2",
        "[s] attention level 1",
        "[s] attention level 0",
    ]
    assert [layer.visible for layer in viewer.layers] == [True, False, False, True]


@pytest.mark.parametrize("kind", ["raw", "relative", "percentile", "log"])
def test_kinds_of_values_change_in_place(
    maps: PyramidLayers, slide: Image, viewer: ViewerModel, attention: PyramidAttention, kind: Any
) -> None:
    shown(maps, slide, attention, kind="relative")
    before = list(viewer.layers)
    shown(maps, slide, attention, kind=kind, head=1)
    assert list(viewer.layers) == before
    layer = maps.layer(slide, level_role(0))
    np.testing.assert_array_equal(layer.data, attention.grid(0, kind, 1))
    choice = PyramidChoice(kind=kind, head=1)
    assert tuple(layer.contrast_limits) == pytest.approx(map_limits(attention, 0, choice))


def test_a_hidden_level_is_brought_up_to_date_when_shown(
    maps: PyramidLayers, slide: Image, attention: PyramidAttention
) -> None:
    shown(maps, slide, attention)
    shown(maps, slide, attention, kind="log")
    hidden = maps.layer(slide, level_role(2))
    np.testing.assert_array_equal(hidden.data, attention.grid(2, "relative"))
    maps.apply(PyramidChoice(kind="log", levels=frozenset({2})))
    assert hidden.visible
    np.testing.assert_array_equal(hidden.data, attention.grid(2, "log"))


def test_limits_leave_out_no_more_than_the_few_hottest_cells(
    attention: PyramidAttention,
) -> None:
    for kind in ("raw", "relative", "log"):
        low, high = map_limits(attention, 0, PyramidChoice(kind=kind))
        values = scale_weights(attention.levels[0], kind)
        assert (values >= low - 1e-6).all()
        assert 0 < (values > high).sum() <= 1
    assert map_limits(attention, 0, PyramidChoice(kind="percentile")) == (0, 100)


def test_the_layer_lists_eye_is_told(
    maps: PyramidLayers,
    slide: Image,
    attention: PyramidAttention,
    toggled: list[tuple[str, bool]],
) -> None:
    shown(maps, slide, attention)
    assert toggled == []
    maps.layer(slide, level_role(1)).visible = True
    assert toggled == [("level 1", True)]
    choice = PyramidChoice().with_shown("level 1", True).with_shown("level 0", False)
    assert choice.levels == {1}
    assert not choice.with_shown(PROBABILITY, False).of(PROBABILITY)
    assert choice.with_shown(PATCH, False) == choice


def test_probabilities_have_their_own_map_and_colours(
    maps: PyramidLayers, slide: Image, attention: PyramidAttention
) -> None:
    segmented = made_up_attention(segments=True)
    shown(maps, slide, segmented)
    layer = maps.layer(slide, PROBABILITY)
    assert layer.name == "[s] probability of tumour"
    assert layer.colormap.name != maps.layer(slide, level_role(0)).colormap.name
    assert tuple(layer.contrast_limits) == (0, 1)
    top, left, side = segmented.patch_box(11)
    world = slide.data_to_world((top + side / 2 - 0.5, left + side / 2 - 0.5))
    assert layer.get_value(world, world=True) == segmented.patch_probabilities[11]
    shown(maps, slide, attention)
    assert maps.layer(slide, PROBABILITY) is None


def test_fewer_levels_leave_no_layer_behind(
    maps: PyramidLayers, slide: Image, viewer: ViewerModel, attention: PyramidAttention
) -> None:
    shown(maps, slide, attention)
    shown(maps, slide, dataclasses.replace(attention, levels=attention.levels[:2]))
    assert len(viewer.layers) == 3


def test_a_patch_is_outlined_where_it_is(
    maps: PyramidLayers, slide: Image, attention: PyramidAttention
) -> None:
    for patch in (4, 30):
        maps.show_patch(slide, INDEX, attention, patch)
        outline = maps.layer(slide, PATCH)
        top, left, side = attention.patch_box(patch)
        for corner, place in zip(
            (outline.data[0], outline.data[2]),
            ((top, left), (top + side, left + side)),
            strict=True,
        ):
            expected = slide.data_to_world(np.array(place) - 0.5)
            np.testing.assert_allclose(outline.data_to_world(corner), expected)
    maps.show_patch(slide, INDEX, attention, None)
    assert maps.layer(slide, PATCH) is None


def test_local_attention_lies_on_the_patches_it_went_to(
    maps: PyramidLayers, slide: Image, attention: PyramidAttention
) -> None:
    near = np.flatnonzero(np.abs(attention.cells - attention.cells[8]).max(axis=1) <= 2)
    weights = np.random.default_rng(1).dirichlet(np.ones(len(near)), 2).astype(np.float32)
    local = LocalAttention(8, near, weights)
    maps.show_local(slide, INDEX, attention, local, PyramidChoice())
    layer = maps.layer(slide, LOCAL)
    for patch, weight in zip(near, weights.mean(axis=0), strict=True):
        top, left, side = attention.patch_box(int(patch))
        world = slide.data_to_world((top + side / 2 - 0.5, left + side / 2 - 0.5))
        assert layer.get_value(world, world=True) == pytest.approx(weight * len(near))
    maps.show_local(slide, INDEX, attention, local, PyramidChoice(head=1))
    assert np.nanmax(layer.data) == pytest.approx(weights[1].max() * len(near))
    maps.show_local(slide, INDEX, attention, None, PyramidChoice())
    assert maps.layer(slide, LOCAL) is None


POLYGONS = [
    np.array([(100.0, 100.0), (100.0, 400.0), (500.0, 400.0)]),
    np.array([(600.0, 100.0), (600.0, 200.0), (700.0, 200.0), (700.0, 100.0)]),
]


def test_tissue_comes_back_as_it_was_put_in(maps: PyramidLayers, slide: Image) -> None:
    assert maps.tissue(slide) is None
    layer = maps.show_tissue(slide, INDEX, POLYGONS)
    for found, polygon in zip(maps.tissue(slide), POLYGONS, strict=True):
        np.testing.assert_allclose(found, polygon)
    assert layer is maps.show_tissue(slide, INDEX, POLYGONS[:1])
    assert len(maps.tissue(slide)) == 1


def test_what_the_user_draws_is_tissue_too(maps: PyramidLayers, slide: Image) -> None:
    layer = maps.show_tissue(slide, INDEX, [])
    assert maps.tissue(slide) == []
    layer.add_rectangles([[10, 10], [30, 50]])
    layer.add_ellipses([[100, 100], [100, 160], [140, 160], [140, 100]])
    layer.add_paths([[0, 0], [50, 50]])
    rectangle, ellipse = maps.tissue(slide)
    np.testing.assert_allclose(np.ptp(rectangle, axis=0), (20, 40))
    np.testing.assert_allclose(rectangle.min(axis=0), (10.5, 10.5))
    np.testing.assert_allclose(ellipse.mean(axis=0), (120.5, 130.5))
    np.testing.assert_allclose(np.ptp(ellipse, axis=0), (40, 60), atol=0.1)


def test_a_layer_of_that_name_is_tissue(
    maps: PyramidLayers, slide: Image, viewer: ViewerModel
) -> None:
    """As after a session was saved and opened again; here in µm, without the slide's scale."""
    corners = np.array([(10, 20), (10, 70), (60, 70), (60, 20)], float)
    viewer.add_shapes([corners], shape_type="polygon", name="tissue", units=("um", "um"))
    (found,) = maps.tissue(slide)
    np.testing.assert_allclose(found, (corners - (10, 20)) / 0.5 + 0.5)


def test_clearing_leaves_the_tissue_to_its_user(
    maps: PyramidLayers, slide: Image, viewer: ViewerModel, attention: PyramidAttention
) -> None:
    maps.show_tissue(slide, INDEX, POLYGONS)
    shown(maps, slide, attention)
    maps.show_patch(slide, INDEX, attention, 3)
    maps.clear_all()
    assert [layer.name for layer in viewer.layers] == ["s", "[s] tissue"]
    assert maps.layer(slide, TISSUE) is not None


def test_a_stack_has_its_maps_on_its_plane(
    maps: PyramidLayers, viewer: ViewerModel, attention: PyramidAttention
) -> None:
    data = np.zeros((4, 500, 400, 3), np.uint8)
    image = viewer.add_image(data, rgb=True, scale=(10, 0.5, 0.5), name="z")
    maps.show_attention(image, (2,), attention, PyramidChoice())
    maps.show_patch(image, (2,), attention, 0)
    maps.show_tissue(image, (2,), POLYGONS[:1])
    layer = maps.layer(image, level_role(0))
    np.testing.assert_allclose(layer.data_to_world((0, 0, 0))[0], 20)
    for role in (PATCH, TISSUE):
        layer = maps.layer(image, role)
        corners = layer.data if role == PATCH else layer.data[0]
        worlds = [layer.data_to_world(corner)[0] for corner in corners]
        np.testing.assert_allclose(worlds, 20)
    np.testing.assert_allclose(maps.tissue(image)[0], POLYGONS[0])
