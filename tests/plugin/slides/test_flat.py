"""Slides without coarse levels in a viewer: shown at once, read beside it, made coarser once."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import tifffile
from napari.components import ViewerModel
from napari.layers import Image, Layer

from bad_slides import scene
from napari_sparseattn.images.slides import overview
from napari_sparseattn.images.slides.opening import open_slide
from napari_sparseattn.images.slides.overview import make_overview
from napari_sparseattn.plugin.core.lanes import AtOnce, Lanes
from napari_sparseattn.plugin.core.sources import slide_of
from napari_sparseattn.plugin.opening import open_files, read_file
from napari_sparseattn.plugin.slides.flat import flat_layers, flat_of
from napari_sparseattn.plugin.slides.overviews import Overviews

from ..conftest import wait_until
from ..held import Held

HEIGHT, WIDTH = 1500, 2300


@pytest.fixture(autouse=True)
def low_threshold(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(overview, "FLAT_PIXELS", 2**20)
    monkeypatch.setattr(overview, "MOST_SIDE", 256)


@pytest.fixture
def flat(tmp_path: Path) -> Path:
    path = tmp_path / "flat.svs"
    options: dict[str, Any] = {"compression": "zlib", "photometric": "rgb", "rowsperstrip": 1}
    tifffile.imwrite(path, scene(HEIGHT, WIDTH), **options)
    return path


def add(viewer: ViewerModel, path: Path) -> Image:
    for data in read_file(str(path)).layers:
        viewer.add_layer(Layer.create(*data))
    layer = viewer.layers[-1]
    Overviews.of(viewer).watch([layer])
    return layer


def read_tiles(layer: Image) -> int:
    slide = slide_of(layer)
    assert slide is not None
    return slide.ledger.snapshot().n_decoded


def test_nothing_is_read_to_show_the_layer(flat: Path) -> None:
    (data,) = read_file(str(flat)).layers
    layer = Layer.create(*data)
    assert [level.shape[:2] for level in layer.data] == [(1500, 2300), (375, 575), (94, 144)]
    layer.refresh()
    np.testing.assert_array_equal(np.asarray(layer.data[2]), 255)
    np.testing.assert_array_equal(layer.data[0][700:800, 900:1000], 255)
    assert read_tiles(layer) == 0


def test_the_overview_is_made_and_kept(viewer: ViewerModel, at_once: None, flat: Path) -> None:
    layer = add(viewer, flat)
    found = slide_of(layer)
    assert found is not None
    assert found.overview is not None
    small = scene(HEIGHT, WIDTH)[:1488, :2288].reshape(93, 16, 143, 16, 3).mean((1, 3))
    assert np.abs(np.asarray(layer.data[2])[:93, :143] - small).max() <= 1.5
    assert Overviews.of(viewer).progress_of(layer) is None
    # The second time it is there from the beginning.
    again = flat_layers(open_slide(flat))
    assert again is not None
    assert slide_of(Layer.create(*again[0])).overview is not None  # type: ignore[union-attr]


def test_a_part_at_full_resolution_comes_later(viewer: ViewerModel, flat: Path) -> None:
    with open_slide(flat) as slide:
        make_overview(slide)
    held = Held()
    Lanes.of(viewer).runner = held
    layer = add(viewer, flat)
    exact = scene(HEIGHT, WIDTH)[700:800, 900:1000]
    coarse = layer.data[0][700:800, 900:1000]
    assert np.abs(coarse.astype(int) - exact).mean() < 8, "the coarse level is shown meanwhile"
    assert (coarse != exact).any()
    assert read_tiles(layer) == 0
    Lanes.of(viewer).runner = AtOnce()
    held.go()
    np.testing.assert_array_equal(layer.data[0][700:800, 900:1000], exact)
    np.testing.assert_array_equal(layer.data[0][705:795, 905:995], exact[5:-5, 5:-5])


def test_it_can_be_cancelled_and_what_there_is_stays(viewer: ViewerModel, flat: Path) -> None:
    held = Held()
    Lanes.of(viewer).runner = held
    layer, overviews = add(viewer, flat), Overviews.of(viewer)
    progress = overviews.progress_of(layer)
    assert progress is not None
    assert progress.done == 0
    overviews.cancel(layer)
    assert overviews.progress_of(layer) is None
    held.go()
    assert slide_of(layer).overview is None  # type: ignore[union-attr]
    slide = flat_of(layer)
    assert slide is not None
    assert (slide.coarse == 255).all()


def test_removing_the_layer_stops_it(viewer: ViewerModel, flat: Path) -> None:
    held = Held()
    Lanes.of(viewer).runner = held
    layer = add(viewer, flat)
    viewer.layers.remove(layer)
    held.go()
    assert slide_of(layer).overview is None  # type: ignore[union-attr]
    assert Overviews.of(viewer).progress_of(layer) is None


def test_dyes_have_an_overview_too(viewer: ViewerModel, at_once: None, tmp_path: Path) -> None:
    path = tmp_path / "dyes.ome.tif"
    planes = scene(HEIGHT, WIDTH).transpose(2, 0, 1)[:2].astype(np.uint16) * 10
    options: dict[str, Any] = {"photometric": "minisblack", "rowsperstrip": 8}
    with tifffile.TiffWriter(path, ome=True) as file:
        file.write(planes, metadata={"axes": "CYX"}, compression="zlib", **options)
    found = flat_layers(open_slide(path))
    assert found is not None
    layers = [Layer.create(*data) for data in found]
    for layer in layers:
        viewer.add_layer(layer)
    Overviews.of(viewer).watch(layers)
    for n, layer in enumerate(layers):
        np.testing.assert_array_equal(layer.data[0][70:80, 90:120], planes[n, 70:80, 90:120])
        small = planes[n, :1488, :2288].reshape(93, 16, 143, 16).mean((1, 3))
        assert np.abs(np.asarray(layer.data[2])[:93, :143] - small).max() <= 2


@pytest.mark.slow
def test_in_the_window_it_has_a_bar_and_ends(
    make_napari_viewer_proxy: Any, qtbot: Any, flat: Path
) -> None:
    viewer = make_napari_viewer_proxy(show=True)
    _, dock = viewer.window.add_plugin_dock_widget("napari-sparseattn", "Sparse attention")
    bar, seen = dock.image_box.overview, list[bool]()
    overviews = bar.overviews
    overviews.changed.connect(lambda: seen.append(bar.isVisible()))
    open_files(viewer, [str(flat)], lambda *_: None)

    def made() -> bool:
        found = slide_of(viewer.layers[0]) if len(viewer.layers) else None
        return found is not None and found.overview is not None

    wait_until(qtbot, made)
    wait_until(qtbot, lambda: not bar.isVisible())
    assert any(seen)
