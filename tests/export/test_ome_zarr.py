"""OME-Zarr maps as ome-zarr-py reads them, and whether they lie where they should."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import napari_ome_zarr
import numpy as np
import ome_zarr_models.v04
import ome_zarr_models.v05
import pytest
import zarr
from ome_zarr.io import parse_url
from ome_zarr.reader import Node, Reader

from . import results as made
from .conftest import Write

_BOTH = ("ome-zarr", "ome-zarr-0.4")


def nodes(path: Path) -> list[Node]:
    location = parse_url(path)
    assert location is not None
    return list(Reader(location)())


def placed(node: Node, level: int = 0) -> tuple[np.ndarray[Any, Any], np.ndarray[Any, Any]]:
    """Scale and translation of y and x."""
    scale, translation = node.metadata["coordinateTransformations"][level]
    return np.array(scale["scale"][-2:]), np.array(translation["translation"][-2:])


def test_attention_lies_on_the_patches(write: Write) -> None:
    path = write("regions", "ome-zarr")
    (node,) = nodes(path)
    assert node.metadata["channel_names"] == [
        "attention, cells of 1 patches (x uniform)",
        "attention, cells of 2 patches (x uniform)",
        "probability of tumour",
    ]
    assert [axis["name"] for axis in node.metadata["axes"]] == ["c", "y", "x"]
    assert {axis.get("unit") for axis in node.metadata["axes"][1:]} == {"micrometer"}
    data = np.asarray(node.data[0])
    nan = np.nan
    np.testing.assert_allclose(data[0], [[0.5, nan, 2.0], [nan, 1.0, 0.5]], rtol=1e-6)
    np.testing.assert_allclose(data[1], [[2 / 3, nan, 4 / 3], [nan, 4 / 3, 4 / 3]], rtol=1e-6)
    np.testing.assert_allclose(data[2], [[0.1, nan, 0.9], [nan, 0.6, 0.2]], rtol=1e-6)
    scale, translation = placed(node)
    # The middle of each patch, in µm from the centre of the slide's first pixel.
    seen = made.slide().attention
    for patch, (row, column) in enumerate(seen.cells):
        top, left, side = seen.patch_box(patch)
        middle = (np.array([top, left]) + side / 2 - 0.5) * 0.5
        np.testing.assert_allclose(translation + scale * (row, column), middle)


def test_maps_agree_with_the_windows_layers(write: Write) -> None:
    """The window draws each level's own grid; each of its values is found in the file's place."""
    (node,) = nodes(write("slide", "ome-zarr"))
    seen = made.slide().attention
    scale, translation = placed(node)
    data = np.asarray(node.data[0])
    for number in range(2):
        grid, (step, origin) = seen.grid(number), seen.placement(number)
        for row, column in np.argwhere(np.isfinite(data[number])):
            place = (translation + scale * (row, column)) / 0.5
            there = np.rint((place - origin) / step).astype(int)
            assert data[number, row, column] == pytest.approx(grid[tuple(there)])


def test_selected_pixels_and_labels_of_cells(write: Write) -> None:
    path = write("cells", "ome-zarr", made.cells(evidence=True))
    image, *labels = nodes(path)
    assert image.metadata["channel_names"] == [
        "probability of the class", "selected pixels (x uniform)", "score of all pixels",
    ]  # fmt: skip
    chance, selected, score = np.asarray(image.data[0])
    scale, translation = placed(image)
    assert (scale.tolist(), translation.tolist()) == ([0.5, 0.5], [0.0, 0.0])
    known = made.label_image()
    assert np.isnan(chance[known == 0]).all()
    assert np.isnan(chance[known == 7]).all()  # could not be classified
    np.testing.assert_allclose(chance[known == 40], 0.8)
    # The crop of label 7 has its first corner at (3, 9); of its 4 x 4 pixels of 2 x 2, those in
    # row 1, columns 1 and 2 were kept, weighed 3 to 1.
    assert selected[5:7, 11:13].tolist() == [[1.5] * 2] * 2
    assert selected[5:7, 13:15].tolist() == [[0.5] * 2] * 2
    assert np.isnan(selected[4, 9:17]).all()
    assert score[3, 9] == pytest.approx(0.1)
    assert score[10, 16] == pytest.approx(0.85)
    assert np.isnan(score[2, 12])
    stored = zarr.open_group(path, mode="r")
    np.testing.assert_array_equal(stored["labels/cells/0"][:], known)
    told = stored["labels/cells"].attrs["ome"]["image-label"]
    assert told["colors"][0] == {"label-value": 2, "rgba": [0, 114, 178, 255]}
    assert told["properties"][2]["class"] == "small"
    assert any("cells" in str(node.zarr) for node in labels)


def test_what_a_tnet_saw_of_a_field(write: Write) -> None:
    (node,) = nodes(write("field", "ome-zarr"))
    level, evidence = np.asarray(node.data[0])
    assert level.shape == (60, 64)
    assert (level[10, 10], level[10, 40], level[40, 4], level[50, 20]) == (0, 1, 1, 2)
    # Contribution less its mean over classes, of the finest crop there.
    found = [evidence[place] for place in ((10, 10), (10, 40), (40, 4), (50, 20))]
    assert found == pytest.approx([2 / 3, -1 / 3, 1 / 3, 1.0])
    assert placed(node)[0].tolist() == [2.0, 2.0]


def test_smaller_levels_lie_on_the_larger(write: Write) -> None:
    """A map of x by place keeps its meaning at every level, also of odd sizes."""
    from napari_sparseattn.export import heatmap_zarr

    data = np.add.outer(np.arange(1000.0), np.zeros(777))[None].astype(np.float32)
    half = heatmap_zarr._halve(data)
    quarter = heatmap_zarr._halve(half)
    assert [half.shape, quarter.shape] == [(1, 500, 388), (1, 250, 194)]
    for level, factor in ((data, 1), (half, 2), (quarter, 4)):
        # Place i of a level has its centre at i * factor + (factor - 1) / 2.
        centres = np.arange(level.shape[1]) * factor + (factor - 1) / 2
        np.testing.assert_allclose(level[0, :, 0], centres)


def test_levels_say_where_they_lie(write: Write) -> None:
    from napari_sparseattn.images.fields.field import Field

    image = Field.from_array(np.zeros((600, 700, 3), np.uint8), axes="YXC", name="large")
    cells = made.cells(labelled=False)
    (node,) = nodes(write("cells", "ome-zarr", cells, image=image))
    assert [level.shape for level in node.data] == [(1, 600, 700), (1, 300, 350), (1, 150, 175)]
    for level, factor in enumerate((1, 2, 4)):
        scale, translation = placed(node, level)
        assert scale.tolist() == [factor, factor]  # pixels: the size of one is not known
        assert translation.tolist() == [(factor - 1) / 2] * 2
    assert all("unit" not in axis for axis in node.metadata["axes"])


@pytest.mark.parametrize("kind", ["cells", "field", "slide"])
@pytest.mark.parametrize("version", ["0.4", "0.5"])
def test_it_is_valid_and_says_where_it_came_from(write: Write, kind: str, version: str) -> None:
    path = write(kind, "ome-zarr" if version == "0.5" else "ome-zarr-0.4")
    group = zarr.open_group(path, mode="r")
    assert group.attrs["napari-sparseattn"]["model_hash"] == made.HASH
    models = {"0.4": ome_zarr_models.v04, "0.5": ome_zarr_models.v05}[version]
    held = models.Image.from_zarr(group)
    if version == "0.4":
        assert held.attributes.multiscales[0].version == "0.4"
    else:
        assert held.attributes.ome.version == "0.5"
        assert group["0"].metadata.dimension_names == ("c", "y", "x")
    if kind == "cells":
        models.ImageLabel.from_zarr(group["labels/cells"])


def test_both_versions_hold_the_same(write: Write) -> None:
    newer, older = (write("cells", name, made.cells(evidence=True)) for name in _BOTH)
    assert (
        zarr.open_group(newer).metadata.zarr_format,
        zarr.open_group(older).metadata.zarr_format,
    ) == (3, 2)
    for one, other in zip(nodes(newer), nodes(older), strict=True):
        for mine, yours in zip(one.data, other.data, strict=True):
            np.testing.assert_array_equal(np.asarray(mine), np.asarray(yours))
        for key in ("axes", "coordinateTransformations", "channel_names", "color", "properties"):
            assert one.metadata.get(key) == other.metadata.get(key), key


@pytest.mark.parametrize("name", _BOTH)
def test_napari_opens_it_by_the_usual_plugin(write: Write, name: str) -> None:
    """A layer per map with its name, on the image, and the labels."""
    path = write("cells", name, made.cells(evidence=True))
    read = napari_ome_zarr.napari_get_reader(str(path))
    assert read is not None
    (maps, about, kind), (labels, placed, other) = read(str(path))
    assert (kind, other) == ("image", "labels")
    assert [told.rpartition(": ")[2] for told in about["name"]] == [
        "probability of the class", "selected pixels (x uniform)", "score of all pixels",
    ]  # fmt: skip
    assert about["channel_axis"] == 0
    for each in (about, placed):
        assert (each["scale"], each["units"]) == ([0.5] * 2, ("micrometer",) * 2)
        np.testing.assert_array_equal(np.asarray(each["affine"]), np.eye(3))
    np.testing.assert_array_equal(np.asarray(labels[0]), made.label_image())
    assert np.asarray(maps[0]).shape == (3, 40, 60)


@pytest.mark.parametrize("name", _BOTH)
def test_large_maps_are_made_a_few_rows_at_a_time_and_are_the_same(
    write: Write, monkeypatch: pytest.MonkeyPatch, name: str
) -> None:
    from napari_sparseattn.export import heatmap_zarr

    whole = zarr.open_group(write("cells", name, made.cells(evidence=True)), mode="r")
    expected = {each: whole[each][:] for each in ("0", "labels/cells/0")}
    monkeypatch.setattr(heatmap_zarr, "_CHUNK", 7)
    monkeypatch.setattr(heatmap_zarr, "_CHUNKS_OF_SHARD", 3)
    monkeypatch.setattr(heatmap_zarr, "_SMALL", 16)
    path = write("cells", name, made.cells(evidence=True))
    parts = zarr.open_group(path, mode="r")
    for each, data in expected.items():
        np.testing.assert_array_equal(parts[each][:], data)
    for each in ("", "labels/cells/"):
        for level in (1, 2):
            finer, coarser = (parts[f"{each}{number}"][:] for number in (level - 1, level))
            np.testing.assert_array_equal(heatmap_zarr._halve(finer), coarser)
    assert max(coarser.shape) <= 16
    held = parts["labels/cells/0"]
    assert (held.chunks, held.shards) == ((7, 7), (7, 21) if name == "ome-zarr" else None)


@pytest.mark.parametrize("name", _BOTH)
def test_labels_say_what_they_are(write: Write, name: str) -> None:
    attributes = zarr.open_group(write("cells", name) / "labels" / "cells", mode="r").attrs
    told = attributes.get("ome", attributes)["image-label"]
    assert told["source"] == {"image": "../../"}
    assert told["version"] == ("0.5" if name == "ome-zarr" else "0.4")
    assert [row["rgba"] for row in told["colors"]][1] == [127, 127, 127, 255]
    first, second, third = told["properties"]
    assert first["confidence"] == pytest.approx(0.7)
    assert second == {"label-value": 7, "class": ""}
    assert third["class"] == "small"
