"""Files dropped on the dock or chosen in a dialog, in the real window; the corpus of bad ones."""

from __future__ import annotations

import os
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import tifffile
from npe2 import PluginManager
from PIL import Image as Picture
from qtpy.QtCore import QMimeData, QPointF, Qt, QTimer, QUrl
from qtpy.QtGui import QDragEnterEvent, QDropEvent
from qtpy.QtTest import QTest
from qtpy.QtWidgets import QApplication, QFileDialog, QInputDialog, QLabel, QLineEdit, QWidget

from bad_slides import PARTLY, REFUSED, UNCALIBRATED, halves, scene, write_ome, write_svs
from napari_sparseattn.images.errors import ImageError
from napari_sparseattn.images.fields.field import Field
from napari_sparseattn.plugin.core.field_layers import field_layer
from napari_sparseattn.plugin.core.sources import METADATA_KEY, pixel_size_of, slide_of
from napari_sparseattn.plugin.opening import read_file
from napari_sparseattn.plugin.session import Session

from .conftest import wait_until

COPY = Qt.DropAction.CopyAction


class Dock:
    """A viewer with the dock open, and files to drop."""

    def __init__(self, viewer: Any, qtbot: Any) -> None:
        self.viewer, self.qtbot = viewer, qtbot
        _, self.widget = viewer.window.add_plugin_dock_widget(
            "napari-sparseattn", "Sparse attention"
        )
        self.session = Session.of(viewer)
        self.until(lambda: self.session.selection.model is not None)

    def until(self, true: Callable[[], bool]) -> None:
        wait_until(self.qtbot, true)

    @property
    def said(self) -> str:
        """What the message line says; of a long text, the rest is in its tooltip."""
        label = self.widget.message_line.label
        return label.toolTip() or label.text()

    def drop(self, *paths: Path, on: QWidget | None = None) -> bool:
        """Drag files over a widget of the dock and let go; return whether they were taken."""
        data = QMimeData()
        data.setUrls([QUrl.fromLocalFile(str(path)) for path in paths])
        return drop(data, on or self.widget.image_box.image)


def drop(data: QMimeData, widget: QWidget) -> bool:
    place, none = QPointF(5, 5), Qt.KeyboardModifier.NoModifier
    left = Qt.MouseButton.LeftButton
    enter = QDragEnterEvent(place.toPoint(), COPY, data, left, none)
    # Qt looks for whoever accepts drops from the innermost widget outwards.
    QApplication.sendEvent(widget, enter)
    if not enter.isAccepted():
        return False
    let_go = QDropEvent(place, COPY, data, left, none)
    QApplication.sendEvent(widget, let_go)
    return let_go.isAccepted()


@pytest.fixture
def dock(make_napari_viewer_proxy: Any, qtbot: Any) -> Iterator[Dock]:
    opened = Dock(make_napari_viewer_proxy(show=True), qtbot)
    yield opened
    opened.widget = None


def ome_zarr(path: Path) -> Path:
    """An OME-Zarr of two levels at 0.5 µm per pixel, as ome-zarr-py lays it out."""
    zarr = pytest.importorskip("zarr")
    root = zarr.open_group(path, mode="w", zarr_format=2)
    datasets = []
    for n, level in enumerate(halves(scene(), 2)):
        array = root.create_array(
            str(n), shape=(3, *level.shape[:2]), chunks=(3, 256, 256), dtype="u1"
        )
        array[:] = level.transpose(2, 0, 1)
        scale = {"type": "scale", "scale": [1, 0.5 * 2**n, 0.5 * 2**n]}
        datasets.append({"path": str(n), "coordinateTransformations": [scale]})
    axes = [{"name": "c", "type": "channel"}]
    axes += [{"name": a, "type": "space", "unit": "micrometer"} for a in "yx"]
    root.attrs["multiscales"] = [{"version": "0.4", "axes": axes, "datasets": datasets}]
    return path


def pyramid_tiff(path: Path) -> Path:
    return write_ome(path, halves(scene(), 3), 0.5)


# -- dropping


@pytest.mark.slow
def test_the_empty_dock_says_what_to_drop(dock: Dock) -> None:
    box = dock.widget.start_box
    said = " ".join(label.text() for label in box.findChildren(QLabel))
    assert "drop one here" in said
    assert box.isVisible()
    assert not dock.widget.image_box.isVisible()
    dock.viewer.add_image(np.zeros((20, 20), np.uint8))
    assert not box.isVisible()
    assert dock.widget.image_box.isVisible()
    dock.viewer.layers.clear()
    assert box.isVisible()


def test_dropped_slides_are_lazy_layers(dock: Dock, tmp_path: Path) -> None:
    written = [
        pyramid_tiff(tmp_path / "plain ä.tif"),
        write_svs(tmp_path / "a.svs"),
        ome_zarr(tmp_path / "b.ome.zarr"),
    ]
    for n, path in enumerate(written, 1):
        assert dock.drop(path)
        dock.until(lambda n=n: len(dock.viewer.layers) == n)  # type: ignore[misc]
        layer = dock.viewer.layers[-1]
        slide = slide_of(layer)
        assert slide is not None
        assert layer.multiscale
        assert slide.shape == (1024, 1024)
        np.testing.assert_allclose(layer.scale, 0.5)
        part = np.asarray(layer.data[0][600:610, 20:30])
        np.testing.assert_allclose(part, scene()[600:610, 20:30], atol=12)
        assert dock.session.selection.image == layer


@pytest.mark.slow
def test_a_dropped_image_has_its_scale(dock: Dock, tmp_path: Path) -> None:
    path = tmp_path / "smear.ome.tif"
    size = {"PhysicalSizeX": 0.25, "PhysicalSizeY": 0.25, "axes": "YXS"}
    tifffile.imwrite(path, scene(90, 70), metadata=size, photometric="rgb")
    assert dock.drop(path, on=dock.widget.result_box.empty)
    dock.until(lambda: len(dock.viewer.layers) == 1)
    layer = dock.viewer.layers[0]
    np.testing.assert_array_equal(layer.data, scene(90, 70))
    assert pixel_size_of(layer) == pytest.approx(0.25)
    assert dock.session.selection.settings.modality == "brightfield"


@pytest.mark.slow
def test_what_is_wrong_with_some_files_is_said_and_the_others_open(
    dock: Dock, tmp_path: Path
) -> None:
    bad, worse = tmp_path / "text.svs", tmp_path / "notes.txt"
    bad.write_bytes(b"not a slide" * 50)
    worse.write_text("hello")
    good = write_svs(tmp_path / "good.svs", pixel_size=None)
    assert dock.drop(bad, good, worse)
    dock.until(lambda: dock.session.status.message.level == "error")
    assert len(dock.viewer.layers) == 1
    for said in ("text.svs is not a slide", "notes.txt", "does not say how many µm"):
        assert said in dock.said


@pytest.mark.slow
def test_only_files_are_taken(dock: Dock) -> None:
    text, link = QMimeData(), QMimeData()
    text.setText("hello")
    link.setUrls([QUrl("https://example.org/slide.svs")])
    target = dock.widget.result_box.empty
    assert not drop(text, target)
    assert not drop(link, target)


@pytest.mark.slow
def test_the_window_may_close_while_a_file_is_opened(dock: Dock, tmp_path: Path) -> None:
    assert dock.drop(write_svs(tmp_path / "a.svs"), write_svs(tmp_path / "b.svs"))
    dock.viewer.close()
    dock.qtbot.wait(500)


# -- the dialogs


def run(viewer: Any, command: str) -> None:
    PluginManager.instance().commands.execute(f"napari-sparseattn.{command}", (viewer,))


def answer(
    monkeypatch: pytest.MonkeyPatch, paths: list[Path] | None = None, folder: Path | None = None
) -> list[tuple[Any, ...]]:
    """Let Qt's dialogs return what a user would have chosen; return what they were asked."""
    asked: list[tuple[Any, ...]] = []

    def files(*arguments: Any) -> tuple[list[str], str]:
        asked.append(arguments)
        return [str(path) for path in paths or []], ""

    def existing(*arguments: Any) -> str:
        asked.append(arguments)
        return "" if folder is None else str(folder)

    def text(*arguments: Any) -> tuple[str, bool]:
        asked.append(arguments)
        return "", False

    monkeypatch.setattr(QInputDialog, "getText", staticmethod(text))
    monkeypatch.setattr(QFileDialog, "getOpenFileNames", staticmethod(files))
    monkeypatch.setattr(QFileDialog, "getExistingDirectory", staticmethod(existing))
    return asked


def notified(dock: Dock, part: str) -> bool:
    from napari.utils.notifications import notification_manager

    return any(part in record.message for record in notification_manager.records)


@pytest.mark.slow
def test_the_menu_opens_a_slide_in_a_plain_tiff(
    dock: Dock, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked = answer(monkeypatch, [pyramid_tiff(tmp_path / "a.tif"), write_svs(tmp_path / "b.svs")])
    run(dock.viewer, "open_slide")
    dock.until(lambda: len(dock.viewer.layers) == 2)
    assert all(slide_of(layer) is not None for layer in dock.viewer.layers)
    assert {"*.svs", "*.mrxs", "*.tif"} <= set(asked[0][-1].split("(")[1].split(")")[0].split())


@pytest.mark.slow
def test_the_menu_opens_a_folder(
    dock: Dock, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    answer(monkeypatch, folder=ome_zarr(tmp_path / "a.zarr"))
    run(dock.viewer, "open_slide_folder")
    dock.until(lambda: len(dock.viewer.layers) == 1)
    assert slide_of(dock.viewer.layers[0]) is not None


@pytest.mark.slow
def test_a_cancelled_dialog_opens_nothing(dock: Dock, monkeypatch: pytest.MonkeyPatch) -> None:
    before = dock.said
    asked = answer(monkeypatch)
    run(dock.viewer, "open_slide")
    run(dock.viewer, "open_slide_folder")
    run(dock.viewer, "open_slide_address")
    for action in dock.widget.image_box.open.menu().actions():
        action.trigger()
    assert len(asked) == 6
    assert len(dock.viewer.layers) == 0
    assert dock.said == before


@pytest.mark.slow
def test_the_menu_says_what_is_wrong(
    dock: Dock, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    bad, folder = tmp_path / "text.svs", tmp_path / "holiday"
    bad.write_bytes(b"not a slide" * 50)
    folder.mkdir()
    answer(monkeypatch, [bad], folder)
    run(dock.viewer, "open_slide")
    dock.until(lambda: notified(dock, "text.svs is not a slide"))
    run(dock.viewer, "open_slide_folder")
    dock.until(lambda: notified(dock, "holiday is a folder without OME-Zarr"))
    assert len(dock.viewer.layers) == 0


@pytest.mark.slow
def test_the_docks_button_opens_files_and_folders(
    dock: Dock, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    answer(monkeypatch, [write_svs(tmp_path / "b.svs")], ome_zarr(tmp_path / "a.zarr"))
    files, folder, _ = dock.widget.image_box.open.menu().actions()
    files.trigger()
    dock.until(lambda: len(dock.viewer.layers) == 1)
    folder.trigger()
    dock.until(lambda: len(dock.viewer.layers) == 2)


@pytest.mark.slow
def test_the_dialog_itself_lists_slides_and_is_filled_in(dock: Dock, tmp_path: Path) -> None:
    """Qt's own dialog, run as it is: a name is typed and Open is pressed."""
    path = write_svs(tmp_path / "typed.svs")
    QApplication.setAttribute(Qt.ApplicationAttribute.AA_DontUseNativeDialogs)
    seen: list[QFileDialog] = []

    def fill() -> None:
        for dialog in QApplication.topLevelWidgets():
            if isinstance(dialog, QFileDialog) and dialog.isVisible():
                timer.stop()
                seen.append(dialog)
                name = dialog.findChild(QLineEdit, "fileNameEdit")
                name.setText(str(path))
                QTest.keyClick(name, Qt.Key.Key_Return)

    timer = QTimer()
    timer.timeout.connect(fill)
    timer.start(50)
    try:
        run(dock.viewer, "open_slide")
    finally:
        timer.stop()
        QApplication.setAttribute(Qt.ApplicationAttribute.AA_DontUseNativeDialogs, False)
    assert seen
    dock.until(lambda: len(dock.viewer.layers) == 1)
    assert dock.viewer.layers[0].name == "typed"


# -- the corpus of bad slides


def written(entry: tuple[Any, ...], folder: Path) -> Path:
    if ".zarr" in entry[0]:
        pytest.importorskip("zarr")
    path: Path = entry[1](folder / entry[0])
    return path


#: Not laid out as slides are, these are dropped as ordinary images, and refused as such.
ORDINARY = {"anisotropic.ome.tif"} | {entry[0] for entry in PARTLY if entry[0].endswith(".tif")}


@pytest.mark.slow
def test_the_whole_corpus_can_be_dropped(dock: Dock, tmp_path: Path) -> None:
    """All at once: those that cannot be opened are named with a reason, the others are drawn."""
    corpus = [entry for entry in (*REFUSED, *PARTLY, *UNCALIBRATED) if entry[0] != "bomb.tif"]
    assert dock.drop(*(written(entry, tmp_path) for entry in corpus))
    dock.until(lambda: dock.session.status.message.level == "error")
    slides = [layer for layer in dock.viewer.layers if slide_of(layer) is not None]
    opened = [e for e in (*PARTLY, *UNCALIBRATED) if e[0] not in ORDINARY]
    assert len(slides) == len(opened)
    for name, _, why in REFUSED:
        if name != "bomb.tif":
            assert name.split(".")[0] in dock.said
            assert why in dock.said
    for name in ORDINARY:
        assert name in dock.said
    for layer in slides:
        layer.refresh()
        assert layer.thumbnail[..., :3].any()
    assert dock.widget.window().height() <= 1000, "the long message did not stretch the window"


@pytest.mark.slow
def test_a_refused_slide_is_named_with_the_reason(dock: Dock, tmp_path: Path) -> None:
    for entry in REFUSED:
        dock.session.status.notify("")
        dock.widget.image_box.open_files([str(written(entry, tmp_path))], as_slides=True)
        dock.until(lambda: dock.session.status.message.level == "error")
        assert entry[0].split(".")[0] in dock.said
        assert entry[2] in dock.said
    assert len(dock.viewer.layers) == 0


# Layers are not removed between files: napari 0.9.2 with software OpenGL crashes
# when layers that were drawn are removed and others added, also without this plugin.


@pytest.mark.slow
def test_unreadable_tiles_of_a_shown_slide_are_a_layer(dock: Dock, tmp_path: Path) -> None:
    for entry in PARTLY:
        before = list(dock.viewer.layers)
        n = len(before)
        dock.widget.image_box.open_files([str(written(entry, tmp_path))], as_slides=True)
        dock.until(lambda n=n: len(dock.viewer.layers) > n)  # type: ignore[misc]
        layer = next(x for x in dock.viewer.layers if x not in before and slide_of(x) is not None)
        pixels = np.asarray(layer.data[0][:])
        layer.refresh()
        failed, expected = entry[2], n + 1 + bool(entry[2])
        dock.until(lambda n=expected: len(dock.viewer.layers) == n)  # type: ignore[misc]
        masks = [x for x in dock.viewer.layers if x not in before and "unreadable" in x.name]
        assert len(masks) == bool(failed), entry[0]
        tile = np.asarray(slide_of(layer).levels[0].tile)  # type: ignore[union-attr]
        for mask in masks:
            places = np.argwhere(np.asarray(mask.data))
            assert len(places) == failed, entry[0]
            for top, left in places * tile:
                assert not pixels[top : top + tile[0], left : left + tile[1]].any(), "made up"


@pytest.mark.slow
def test_a_missing_scale_is_asked_for(dock: Dock, tmp_path: Path) -> None:
    for entry in UNCALIBRATED:
        dock.widget.image_box.open_files([str(written(entry, tmp_path))], as_slides=True)
        dock.until(lambda why=entry[2]: why in dock.said)  # type: ignore[misc]
        box = dock.widget.image_box
        assert box.hint.isVisible()
        assert box.pixel_size.text() == "unknown"
        box.pixel_size.setValue(0.4)
        assert dock.session.selection.settings.pixel_size == 0.4


@pytest.mark.slow
def test_a_slide_replaced_while_shown_is_said_and_drawn_black(dock: Dock, tmp_path: Path) -> None:
    path = write_svs(tmp_path / "a.svs")
    assert dock.drop(path)
    dock.until(lambda: len(dock.viewer.layers) == 1)
    layer = dock.viewer.layers[0]
    write_svs(tmp_path / "b.svs", halves(255 - scene(), 3)).replace(path)
    assert not np.asarray(layer.data[0][600:610, 600:610]).any()
    layer.refresh()
    dock.until(lambda: notified(dock, "changed or replaced"))
    assert dock.drop(path)
    dock.until(lambda: len(dock.viewer.layers) == 2)
    assert np.asarray(dock.viewer.layers[-1].data[0][600:610, 600:610]).any()


@pytest.mark.slow
@pytest.mark.skipif(not hasattr(os, "mkfifo"), reason="this system has no named pipes")
def test_a_pipe_and_a_missing_file_are_said(dock: Dock, tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "pipe.svs")
    assert dock.drop(tmp_path / "pipe.svs", tmp_path / "gone.svs")
    dock.until(lambda: dock.session.status.message.level == "error")
    assert "pipe.svs is not an ordinary file" in dock.said
    assert "gone.svs" in dock.said


@pytest.mark.skipif(
    sys.platform == "win32" or os.geteuid() == 0, reason="root and Windows read all files"
)
def test_a_slide_without_permission_is_said(dock: Dock, tmp_path: Path) -> None:
    path = write_svs(tmp_path / "a.svs")
    path.chmod(0)
    assert dock.drop(path)
    dock.until(lambda: "no permission" in dock.said)


# -- what a file becomes


def test_channels_that_are_no_colours_are_looked_through() -> None:
    data = np.zeros((30, 40, 5), np.uint16)
    shown, attributes, _ = field_layer(Field(data, "YXC", 0.5, "fluorescence", name="five"))
    assert (shown.shape, attributes["rgb"]) == ((5, 30, 40), False)
    assert attributes["scale"] == (1.0, 0.5, 0.5)
    assert attributes["units"] == ("pixel", "um", "um")
    shown, attributes, _ = field_layer(Field(data[..., :1], "YXC", None, "phase", "rad"))
    assert shown.shape == (30, 40)
    assert "scale" not in attributes
    assert attributes["metadata"][METADATA_KEY] == {"modality": "phase", "unit": "rad"}


def test_ordinary_files_are_read_and_others_explained(tmp_path: Path) -> None:
    Picture.fromarray(scene(20, 30)).save(tmp_path / "a.png")
    ((data, attributes, _),) = read_file(str(tmp_path / "a.png")).layers
    np.testing.assert_array_equal(data, scene(20, 30))
    assert attributes["rgb"]
    (tmp_path / "a.docx").write_bytes(b"PK\x03\x04")
    with pytest.raises(ImageError, match=r"a\.docx"):
        read_file(str(tmp_path / "a.docx"))
    with pytest.raises(FileNotFoundError):
        read_file(str(tmp_path / "absent.tif"))
