"""Slides of dyes in napari: a layer for each, as the file names, colours and scales it."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import tifffile
from napari.components import ViewerModel
from napari.layers import Layer

from napari_sparseattn.images.slides.opening import open_slide
from napari_sparseattn.plugin.core.models import Model
from napari_sparseattn.plugin.core.sources import METADATA_KEY, pixel_size_of, slide_of
from napari_sparseattn.plugin.opening import read_file
from napari_sparseattn.plugin.session import Session
from napari_sparseattn.plugin.slides.layers import slide_layers

NAMES = ["DAPI", "FITC", "Cy5"]
BLUE, GREEN, MAGENTA = 0x0000FFFF, 0x00FF00FF, 0xFF00FFFF - 2**32


def planes(channels: int = 3) -> np.ndarray:
    """Dim squares of 12-bit values, (C, 512, 512), each channel's in another place."""
    image = np.full((channels, 512, 512), 100, np.uint16)
    for n in range(channels):
        image[n, 60 * n % 400 : 60 * n % 400 + 100, 100:200] = 800
    return image


def write(path: Path, image: np.ndarray, names: list[str] | None = None) -> Path:
    metadata: dict[str, object] = {"axes": "CYX", "PhysicalSizeX": 0.5, "PhysicalSizeY": 0.5}
    if names is not None:
        metadata["Channel"] = {"Name": names, "Color": [BLUE, GREEN, MAGENTA]}
    options = {"photometric": "minisblack", "tile": (128, 128)}
    with tifffile.TiffWriter(path, ome=True) as file:
        file.write(image, subifds=1, metadata=metadata, **options)
        file.write(image[:, ::2, ::2], subfiletype=1, **options)
    return path


def test_each_dye_is_a_layer(tmp_path: Path) -> None:
    opened = read_file(str(write(tmp_path / "a.ome.tif", planes(), NAMES)))
    assert opened.notes == ()
    layers = [Layer.create(*data) for data in opened.layers]
    assert [layer.name for layer in layers] == [f"a.ome: {name}" for name in NAMES]
    full = [layer.colormap.colors[-1][:3].tolist() for layer in layers]
    assert full == [[0, 0, 1], [0, 1, 0], [1, 0, 1]]
    for n, layer in enumerate(layers):
        assert layer.multiscale
        assert layer.blending == "additive"
        assert layer.contrast_limits == [100, 800]
        assert pixel_size_of(layer) == pytest.approx(0.5)
        np.testing.assert_array_equal(layer.data[0][50:90, 90:120], planes()[n, 50:90, 90:120])
        np.testing.assert_array_equal(layer.data[1][5:9], planes()[n, ::2, ::2][5:9])
        assert slide_of(layer) is not None
        assert layer.metadata[METADATA_KEY]["modality"] == "fluorescence"


def test_many_channels_are_there_but_not_all_on_top_of_each_other(tmp_path: Path) -> None:
    with open_slide(write(tmp_path / "a.ome.tif", planes(9))) as slide:
        found = slide_layers(slide)
    assert [attributes["visible"] for _, attributes, _ in found] == [True] * 6 + [False] * 3
    assert found[0][1]["colormap"] != found[1][1]["colormap"]


def test_one_deep_channel_is_one_grey_layer(tmp_path: Path) -> None:
    with open_slide(write(tmp_path / "a.ome.tif", planes(1))) as slide:
        ((data, attributes, kind),) = slide_layers(slide)
    layer = Layer.create(data, attributes, kind)
    assert (layer.name, layer.colormap.name) == ("a.ome", "gray")
    assert layer.contrast_limits == [100, 800]


def test_the_window_says_that_the_model_is_for_something_else(
    session: Session, viewer: ViewerModel, span: Model, tmp_path: Path
) -> None:
    session.selection.set_model(span)
    for data in read_file(str(write(tmp_path / "a.ome.tif", planes(), NAMES))).layers:
        viewer.add_layer(Layer.create(*data))
    assert session.selection.image is not None
    assert "fluorescence" in session.advice.no_whole
    assert session.slides.classify() is None
    assert session.status.message.level == "warning"


def test_a_coarser_view_keeps_the_values(tmp_path: Path) -> None:
    wide = np.full((2, 64, 5000), 300, np.uint16)
    path = tmp_path / "a.ome.tif"
    options = {"photometric": "minisblack", "tile": (64, 256)}
    tifffile.imwrite(path, wide, ome=True, metadata={"axes": "CYX"}, **options)
    with open_slide(path) as slide:
        (levels, _, _), _ = slide_layers(slide)
    assert [level.shape for level in levels] == [(64, 5000), (16, 1250)]
    np.testing.assert_array_equal(levels[1][4:8, 10:20], 300)
