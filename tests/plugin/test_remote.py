"""Slides on another machine in the window, which must not wait for the network."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from napari.components import ViewerModel
from npe2 import PluginManager
from qtpy.QtWidgets import QInputDialog

from bad_slides import halves, scene, write_ome, write_svs
from napari_sparseattn.images.slides import _remote
from napari_sparseattn.plugin.core.sources import file_of, slide_of
from napari_sparseattn.plugin.opening import _Opening, open_addresses, open_files, read_file
from napari_sparseattn.plugin.reader import get_address_reader, get_slide_reader
from slide_server import SlideServer, serving

from .conftest import wait_until

pytest.importorskip("aiohttp")


@pytest.fixture
def server(tmp_path: Path) -> Iterator[SlideServer]:
    folder = tmp_path / "served"
    folder.mkdir()
    write_ome(folder / "slide.ome.tif", halves(scene(), 3), 0.5)
    write_svs(folder / "a.svs")
    with serving(folder) as served:
        yield served


@pytest.fixture
def waiting_threads(monkeypatch: pytest.MonkeyPatch) -> list[threading.Thread]:
    """The threads in which the network was waited for."""
    found: list[threading.Thread] = []
    real = _remote._wait_for

    def wait(*args: Any) -> None:
        found.append(threading.current_thread())
        real(*args)

    monkeypatch.setattr(_remote, "_wait_for", wait)
    return found


@pytest.mark.slow
def test_an_address_opens_as_a_layer_and_no_thread_but_workers_waits(
    make_napari_viewer: Any, qtbot: Any, server: SlideServer, waiting_threads: list[Any]
) -> None:
    server.latency = 0.05
    viewer = make_napari_viewer(show=True)
    address = server.address("slide.ome.tif") + "?token=secret"
    assert viewer.open(address, plugin="napari-sparseattn") == []
    wait_until(qtbot, lambda: len(viewer.layers) == 1)
    (layer,) = viewer.layers
    slide = slide_of(layer)
    assert slide is not None
    assert layer.name == "slide.ome"
    np.testing.assert_allclose(layer.scale, 0.5)
    # At once what is there: the coarsest level, enlarged; then the pixels themselves.
    sharp = scene()[300:340, 300:340]
    first = layer.data[0][300:340, 300:340]
    assert first.shape == sharp.shape
    wait_until(qtbot, lambda: bool((np.asarray(layer.data[0][300:340, 300:340]) == sharp).all()))
    viewer.reset_view()
    viewer.scene.camera.zoom = 4
    qtbot.wait(10)
    assert threading.main_thread() not in waiting_threads
    assert waiting_threads
    # Neither the layer nor what is asked of it tells the address.
    assert file_of(layer) is None
    assert "secret" not in repr((layer.metadata, layer.source, layer.name))


def test_napari_without_a_window_gets_the_layers(server: SlideServer) -> None:
    viewer = ViewerModel()
    PluginManager.instance()
    (layer,) = viewer.open(server.address("a.svs"), plugin="napari-sparseattn")
    assert [level.shape for level in layer.data] == [(1024, 1024, 3), (512, 512, 3), (256, 256, 3)]
    # napari keeps where a layer came from; nothing of ours takes it from there.
    assert file_of(layer) is None


def test_which_paths_are_addresses(tmp_path: Path) -> None:
    assert get_address_reader("https://host/a.svs") is not None
    assert get_address_reader("s3://bucket/a.zarr") is not None
    assert get_address_reader(str(tmp_path / "a.svs")) is None
    assert get_address_reader(["https://host/a.svs"]) is None
    assert get_slide_reader("https://host/a.svs") is None
    readers = [
        reader.command
        for path in ("https://host/a.svs", "https://host/a.svs?x=1", "http://host/b.zarr")
        for reader in PluginManager.instance().iter_compatible_readers([path])
        if reader.plugin_name == "napari-sparseattn"
    ]
    assert readers.count("napari-sparseattn.read_address") == 3


def test_a_failure_is_one_sentence(
    make_napari_viewer: Any, qtbot: Any, server: SlideServer
) -> None:
    viewer, said = make_napari_viewer(), list[tuple[str, str]]()
    open_files(
        viewer, [server.address("none.svs") + "?token=secret"], lambda *one: said.append(one)
    )
    wait_until(qtbot, lambda: any(level == "error" for _, level in said))
    texts = " ".join(text for text, _ in said)
    assert "There is no none.svs" in texts
    assert "secret" not in texts
    assert not viewer.layers


@pytest.mark.slow
def test_opening_shows_that_it_goes_on_and_can_be_cancelled(
    make_napari_viewer: Any, qtbot: Any, server: SlideServer
) -> None:
    viewer = make_napari_viewer()
    server.stalls = True
    seen: list[Any] = []
    opening = _Opening.of(viewer)
    opening.changed.connect(seen.append)
    open_files(viewer, [server.address("a.svs")], lambda *_: None)
    wait_until(qtbot, lambda: any(one is not None for one in seen))
    assert opening.lane.running
    opening.cancel()
    wait_until(qtbot, lambda: not opening.lane.running)
    assert seen[-1] is None
    assert not viewer.layers
    server.stalls = False
    open_files(viewer, [server.address("a.svs")], lambda *_: None)
    wait_until(qtbot, lambda: len(viewer.layers) == 1)


@pytest.mark.slow
def test_the_menu_asks_for_an_address(
    make_napari_viewer: Any, qtbot: Any, server: SlideServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    viewer = make_napari_viewer()
    address = f" {server.address('a.svs')} "
    monkeypatch.setattr(QInputDialog, "getText", lambda *_: (address, True))
    PluginManager.instance().commands.execute("napari-sparseattn.open_slide_address", (viewer,))
    wait_until(qtbot, lambda: len(viewer.layers) == 1)


def test_what_is_no_address_is_said(make_napari_viewer: Any) -> None:
    said: list[str] = []
    open_addresses(make_napari_viewer(), ["host/a.svs"], lambda text, _: said.append(text))
    assert "https://" in said[0]


def test_channels_are_layers_of_their_own(server: SlideServer) -> None:
    import tifffile

    planes = np.arange(2 * 512 * 512, dtype=np.uint16).reshape(2, 512, 512)
    with tifffile.TiffWriter(server.folder / "c.ome.tif", ome=True) as file:
        options = {"tile": (128, 128), "photometric": "minisblack"}
        file.write(planes, subifds=1, metadata={"axes": "CYX"}, **options)
        file.write(planes[:, ::2, ::2], subfiletype=1, **options)
    opened = read_file(server.address("c.ome.tif"))
    assert len(opened.layers) == 2
    for (levels, _, _), plane in zip(opened.layers, planes, strict=True):
        np.testing.assert_array_equal(levels[-1][:], plane[::2, ::2])
