"""SpatialData stores as spatialdata reads them: what is in them, and that it lies together."""

from __future__ import annotations

import dataclasses
import importlib.util
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import shapely
from napari.components import ViewerModel
from napari.utils.events import EventedList
from spatialdata import (
    SpatialData,
    bounding_box_query,
    get_centroids,
    join_spatialelement_table,
    read_zarr,
    transform,
)
from spatialdata.transformations import get_transformation

from napari_sparseattn.export import formats
from napari_sparseattn.export.formats import MissingExtraError, check_formats

from . import results as made
from .conftest import Write

Read = Callable[..., SpatialData]


@pytest.fixture
def read(write: Write) -> Read:
    """Write a kind of result, and read the store."""
    return lambda *what, **options: read_zarr(write(what[0], "spatialdata", *what[1:], **options))


def boxes(store: SpatialData, name: str) -> np.ndarray[Any, Any]:
    """(N, 4) left, top, right, bottom in pixels of the full resolution."""
    moved = transform(store.shapes[name], to_coordinate_system="global")
    found: np.ndarray[Any, Any] = moved.geometry.bounds.to_numpy()
    return found


def place(store: SpatialData, name: str, row: int, column: int) -> tuple[float, float]:
    """The centre (x, y) of a pixel of an image in pixels of the full resolution."""
    moved = get_transformation(store.images[name], "global")
    x, y, _ = moved.to_affine_matrix(("x", "y"), ("x", "y")) @ (column + 0.5, row + 0.5, 1)
    return float(x), float(y)


def test_cells(read: Read) -> None:
    store = read("cells", made.cells(evidence=True))
    assert {*store.images} == {"image", "maps"}
    np.testing.assert_array_equal(
        np.moveaxis(store.images["image"].to_numpy(), 0, -1), made.field().plane()
    )
    assert store.images["maps"].coords["c"].values.tolist() == [
        "probability of the class", "selected pixels (x uniform)", "score of all pixels",
    ]  # fmt: skip
    np.testing.assert_array_equal(store.labels["cell_labels"].to_numpy(), made.label_image())
    # Corners of pixels: the first square covers rows 4 to 9, columns 10 to 15.
    assert store.shapes["cells"].index.tolist() == [2, 7, 40]
    assert boxes(store, "cells").tolist()[1] == [10, 4, 16, 10]
    assert isinstance(store.shapes["cells"].geometry.iloc[2], shapely.MultiPolygon)
    # The table's rows are those of the shapes, and of the label image alike.
    table = store.tables["table"]
    _, joined = join_spatialelement_table(
        sdata=store, spatial_element_names="cells", table_name="table", match_rows="left"
    )
    assert joined.obs["instance_id"].tolist() == [2, 7, 40]
    np.testing.assert_array_equal(joined.X, made.cells().probabilities)
    assert table.obs["class"].astype(object).fillna("").tolist() == ["round", "", "small"]
    assert table.uns["class_colors"].tolist() == list(made.cell_card().colours)
    assert store.attrs["napari-sparseattn"]["model_hash"] == made.HASH
    # spatialdata finds the middles of labels and shapes where we say that they are.
    for element in (store.labels["cell_labels"], store.shapes["cells"]):
        middles = get_centroids(element, coordinate_system="global").compute()
        assert middles.loc[7].tolist() == [13.0, 7.0]
    middles = get_centroids(store.labels["cell_labels"]).compute().loc[[2, 7, 40]]
    np.testing.assert_allclose(middles[["x", "y"]].to_numpy(), table.obsm["spatial"])


@pytest.mark.slow
def test_a_part_of_the_image_takes_its_cells_along(read: Read) -> None:
    """spatialdata's own query by place, in µm, finds the same part in all elements."""
    store = read("cells")
    part = bounding_box_query(
        store, axes=("x", "y"), min_coordinate=[0, 0], max_coordinate=[15, 9.5],
        target_coordinate_system="micrometers",
    )  # fmt: skip
    # The third lies at columns 30 to 39, beyond 15 µm at 0.5 µm per pixel.
    assert part.shapes["cells"].index.tolist() == [7]
    assert part.tables["table"].obs["instance_id"].tolist() == [7]
    assert part.images["image"].shape == (3, 19, 30)
    assert part.images["maps"].shape == (1, 19, 30)
    assert {*np.unique(part.labels["cell_labels"].to_numpy())} == {0, 7}


def test_maps_lie_on_the_patches(read: Read) -> None:
    store = read("regions")
    seen = made.slide(segments=True).attention
    centroids = get_centroids(store.shapes["patches"], coordinate_system="global").compute()
    for patch, (row, column) in enumerate(seen.cells.tolist()):
        middle = centroids.iloc[patch]
        assert (middle["x"], middle["y"]) == pytest.approx(place(store, "maps", row, column))
    table = store.tables["table"]
    np.testing.assert_array_equal(table.X, np.arange(12, dtype=np.float32).reshape(4, 3))
    assert table.obs["attention_1"].tolist() == pytest.approx([0.5, 2.0, 1.0, 0.5])
    assert store.images["image"].shape == (3, 100, 140)


def test_a_large_slide_is_there_as_a_picture(read: Read, monkeypatch: pytest.MonkeyPatch) -> None:
    from napari_sparseattn.export import spatial_data

    monkeypatch.setattr(spatial_data, "_OVERVIEW", 70)
    store = read("slide")
    assert store.images["image"].shape == (3, 50, 70)
    # A pixel is two of the slide along each side.
    assert place(store, "image", 0, 0) == (1.0, 1.0)
    assert place(store, "image", 49, 69) == (139.0, 99.0)


def test_crops_of_a_tnet(read: Read) -> None:
    store = read("field")
    assert boxes(store, "crops")[1].tolist() == [32, 0, 64, 32]
    table = store.tables["table"]
    assert table.X.sum(axis=0).tolist() == [3.5, 1.0, 1.0]
    assert table.obs["parent"].tolist() == [-1, 0, 0, 2]
    np.testing.assert_array_equal(store.images["maps"].to_numpy()[0, [10, 50], [40, 20]], [1, 2])


@pytest.mark.slow
def test_parts_are_made_a_few_rows_at_a_time(read: Read, monkeypatch: pytest.MonkeyPatch) -> None:
    from napari_sparseattn.export import spatial_data

    names = (("images", "maps"), ("labels", "cell_labels"))
    whole = read("cells", made.cells(evidence=True))
    expected = [getattr(whole, group)[name].to_numpy() for group, name in names]
    monkeypatch.setattr(spatial_data, "_CHUNK", 7)
    parts = read("cells", made.cells(evidence=True))
    for (group, name), values in zip(names, expected, strict=True):
        np.testing.assert_array_equal(getattr(parts, group)[name].to_numpy(), values)
    assert parts.images["maps"].data.chunksize[1:] == (7, 7)


@pytest.mark.slow
def test_what_a_store_cannot_hold(read: Read, monkeypatch: pytest.MonkeyPatch) -> None:
    """No cells, names with signs, pixels of unknown size; and without the package nothing."""
    card = made.cell_card()
    held = made.cells()
    odd = {"area (µm²)": held.measures["dry_mass_pg"]}
    image = dataclasses.replace(made.field(), pixel_size=None)
    store = read("cells", dataclasses.replace(held, measures=odd), image=image)
    assert "area__µm²_" in store.tables["table"].obs
    assert store.coordinate_systems == ["global"]
    none = dataclasses.replace(
        held, cells=held.cells.subset([]), probabilities=np.empty((0, 3), np.float32), measures={}
    )
    store = read("cells", none)
    assert (list(store.shapes), list(store.tables)) == ([], [])
    assert not store.labels["cell_labels"].to_numpy().any()
    found = importlib.util.find_spec
    monkeypatch.setattr(
        formats.importlib.util,
        "find_spec",
        lambda name: None if name == "spatialdata" else found(name),
    )
    with pytest.raises(MissingExtraError, match=r"napari-sparseattn\[spatialdata\]"):
        check_formats(["spatialdata"])
    assert card.shown_names == held.class_names


def test_its_own_plugin_shows_it_in_napari(write: Write) -> None:
    """napari-spatialdata makes layers that lie on each other, with the table on the shapes."""
    plugin = pytest.importorskip(
        "napari_spatialdata._viewer", reason="needs the package napari-spatialdata"
    )
    store = read_zarr(write("cells", "spatialdata", made.cells(evidence=True)))
    viewer = plugin.SpatialDataViewer(ViewerModel(), EventedList([store]))
    image = viewer.get_sdata_image(store, "maps", "global", False)
    labels = viewer.get_sdata_labels(store, "cell_labels", "global", False)
    shapes = viewer.get_sdata_shapes(store, "cells", "global", False)
    # The square of rows 4 to 9 and columns 10 to 15, from its first pixel's centre on.
    corners = np.array([shapes.data_to_world(corner) for corner in shapes.data[1]])
    assert (corners.min(axis=0).tolist(), corners.max(axis=0).tolist()) == ([4, 10], [10, 16])
    assert labels.get_value(labels.world_to_data((4.5, 10.5))) == 7
    assert image.data_to_world((0, 0))[-2:] == labels.data_to_world((0, 0))[-2:]
    assert shapes.metadata["adata"].obs["class"].cat.categories.tolist() == [
        *made.cell_card().shown_names
    ]
