"""Crops at the resolution of the image, beside what the model read."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
from napari.components import ViewerModel
from napari.layers import Image

from bad_slides import halves, scene, write_svs, zeroed
from napari_sparseattn.images.errors import ImageError
from napari_sparseattn.images.slides.pyramid import ArrayPyramid, VirtualPyramid
from napari_sparseattn.plugin.core.models import Model
from napari_sparseattn.plugin.core.sources import ImageSettings, PlaneRef
from napari_sparseattn.plugin.session import Session
from napari_sparseattn.plugin.slides.layers import read_slide, slide_layer
from napari_sparseattn.plugin.traversal.closeups import (
    MOST_SIDE,
    CloseUp,
    CloseUpRequest,
    read_close_up,
)

from ..conftest import CENTRES, add_labels, add_picture, wait_until

Box = tuple[float, float, float, float]


@pytest.fixture
def tnet(session: Session, tnet_model: Model) -> Session:
    session.selection.set_model(tnet_model)
    return session


@pytest.fixture
def asked(tnet: Session, monkeypatch: pytest.MonkeyPatch) -> list[CloseUpRequest]:
    """What the session asks for, to be answered by hand."""
    requests: list[CloseUpRequest] = []
    monkeypatch.setattr(tnet.crops._close_ups, "ask", requests.append)
    return requests


def accept(session: Session, request: CloseUpRequest) -> None:
    session.crops._accept_close_up(request, read_close_up(request))


def click_cell(session: Session, viewer: ViewerModel, cell: int = 2) -> Image:
    image = add_picture(viewer)
    add_labels(session, viewer)
    viewer.layers.selection.active = image
    session.cells.click(image.data_to_world(CENTRES[cell]))
    return image


def request_of(image: np.ndarray, box: Box, whole: Box | None = None) -> CloseUpRequest:
    plane = PlaneRef(image, (), image.ndim == 3, "image")
    return CloseUpRequest(None, plane, ImageSettings(), 1, box, whole or box)


def test_a_crop_of_a_cell_is_cut_from_the_image(
    tnet: Session, viewer: ViewerModel, asked: list[CloseUpRequest]
) -> None:
    image = click_cell(tnet, viewer)
    tnet.crops.select_crop(0)
    assert tnet.crops.awaits_close_up
    accept(tnet, asked[0])
    assert not tnet.crops.awaits_close_up
    # A cell's crop lies between pixels; those nearest to it are shown, unblurred.
    row, column = np.round(CENTRES[2] - 31.5).astype(int)
    np.testing.assert_array_equal(
        tnet.crops.close_up.picture, image.data[row : row + 64, column : column + 64]
    )
    assert (tnet.crops.close_up.reduction, tnet.crops.close_up.unreadable) == (1.0, 0.0)


def test_a_crop_of_a_slide_is_its_own_pixels_and_not_in_the_ledger(
    tnet: Session, viewer: ViewerModel, asked: list[CloseUpRequest], tmp_path: Path
) -> None:
    path = write_svs(tmp_path / "slide.svs", halves(scene(), 3), compression="deflate")
    ((data, attributes, _),) = read_slide(str(path))
    viewer.add_image(data, **attributes)
    tnet.task.ask("whole")
    before = tnet.answer.reading.n_used, asked_ledger(data).snapshot().n_used
    top, left, side, _ = (
        tnet.crops.traversal.on_image(tnet.crops.traversal.boxes)[3].round().astype(int)
    )
    assert 0 < side <= MOST_SIDE
    tnet.crops.select_crop(3)
    found = read_close_up(asked[0])
    assert found.request.crop == 3
    inside = np.s_[max(top, 0) : top + side, max(left, 0) : left + side]
    cut = np.s_[max(-top, 0) : side, max(-left, 0) : side]
    expected = scene()[inside]
    np.testing.assert_array_equal(
        found.picture[cut][: len(expected), : expected.shape[1]], expected
    )
    after = tnet.answer.reading.n_used, asked_ledger(data).snapshot().n_used
    assert after == before


def asked_ledger(levels: list) -> object:
    return levels[0]._pyramid.ledger


def test_a_huge_crop_is_reduced_and_costs_little() -> None:
    rendered = []

    def render(level: int, y: int, x: int, height: int, width: int) -> np.ndarray:
        rendered.append(height * width)
        return np.full((height, width, 3), 90, np.uint8)

    slide = VirtualPyramid(render, 100_000, 100_000)
    box = (10_000.0, 20_000.0, 51_200.0, 51_200.0)
    plane = PlaneRef(None, (), True, "big")
    found = read_close_up(CloseUpRequest(slide, plane, ImageSettings(), 1, box, box))
    assert found.picture.shape == (MOST_SIDE, MOST_SIDE, 3)
    assert found.reduction == pytest.approx(100)
    assert (found.picture == 90).all()
    assert sum(rendered) < 3 * (2 * MOST_SIDE) ** 2


def test_what_cannot_be_read_is_grey_and_counted(tmp_path: Path) -> None:
    from napari_sparseattn.images.slides.opening import open_slide

    with open_slide(zeroed(tmp_path / "a.svs", tiles=(5,))) as slide:
        plane = PlaneRef(None, (), True, "a")
        box = (256.0, 0.0, 512.0, 512.0)
        found = read_close_up(CloseUpRequest(slide, plane, ImageSettings(), 1, box, box))
    assert found.unreadable == pytest.approx(0.25)
    assert (found.picture[:256, 256:] == round(255 * 0.35)).all()
    # Beyond the image's edge nothing is unreadable.
    with open_slide(zeroed(tmp_path / "b.svs", tiles=())) as slide:
        box = (-100.0, -100.0, 300.0, 300.0)
        found = read_close_up(CloseUpRequest(slide, plane, ImageSettings(), 1, box, box))
    assert found.unreadable == 0
    assert (found.picture[:100] == round(255 * 0.35)).all()


def test_values_with_a_unit_have_the_contrast_of_the_whole() -> None:
    image = np.linspace(-100, 400, 64 * 64, dtype=np.float32).reshape(64, 64)
    whole = (0.0, 0.0, 64.0, 64.0)
    found = read_close_up(request_of(image, (0.0, 0.0, 16.0, 16.0), whole))
    low, high = np.percentile(image, (0.5, 99.5))
    expected = np.clip((image[:16, :16] - low) / (high - low), 0, 1) * 255
    np.testing.assert_allclose(found.picture[..., 0], expected, atol=1)
    assert found.picture.shape == (16, 16, 3)


def test_an_image_without_contrast_or_numbers_is_shown() -> None:
    nothing = read_close_up(request_of(np.full((20, 20), np.nan, np.float32), (0, 0, 20, 20)))
    assert not nothing.picture.any()
    flat = read_close_up(request_of(np.ones((20, 20), np.float32), (0, 0, 9, 9)))
    assert len(np.unique(flat.picture)) == 1


def test_stale_close_ups_are_dropped(
    tnet: Session, viewer: ViewerModel, asked: list[CloseUpRequest]
) -> None:
    image = click_cell(tnet, viewer)
    tnet.crops.select_crop(1)
    tnet.crops.select_crop(2)
    first, second = asked
    accept(tnet, first)
    assert tnet.crops.close_up is None
    accept(tnet, second)
    assert tnet.crops.close_up.request is second
    tnet.crops.select_crop(None)
    assert tnet.crops.close_up is None
    accept(tnet, second)
    assert tnet.crops.close_up is None
    tnet.crops.select_crop(1)
    tnet.cells.click(image.data_to_world(CENTRES[0]))
    accept(tnet, asked[-1])
    assert tnet.crops.close_up is None, "that was of another cell"


def test_a_close_up_that_fails_is_a_message_unless_stale(
    tnet: Session, viewer: ViewerModel, asked: list[CloseUpRequest]
) -> None:
    click_cell(tnet, viewer)
    tnet.crops.select_crop(1)
    tnet.crops.select_crop(2)
    tnet.crops._fail_close_up(asked[0], ImageError("the old one is gone"))
    assert tnet.crops.awaits_close_up
    tnet.crops._fail_close_up(asked[1], ImageError("the file is gone"))
    assert tnet.status.message.text == "the file is gone"
    assert not tnet.crops.awaits_close_up


def test_the_whole_image_is_one_of_the_crops() -> None:
    data, _, _ = slide_layer(ArrayPyramid(halves(scene(), 2)))
    slide = data[0]._pyramid
    box = (0.0, 0.0, 1024.0, 1024.0)
    plane = PlaneRef(None, (), True, "a")
    found: CloseUp = read_close_up(CloseUpRequest(slide, plane, ImageSettings(), 0, box, box))
    assert found.reduction == 2
    np.testing.assert_allclose(found.picture, halves(scene(), 2)[1], atol=1)


@pytest.mark.slow
def test_the_dock_shows_a_crop_beside_what_was_read(
    make_napari_viewer: Any, qtbot: Any, tnet_model: Model, tmp_path: Path
) -> None:
    """In the real window, through the threads that read it."""
    viewer = make_napari_viewer(show=True)
    _, dock = viewer.window.add_plugin_dock_widget("napari-sparseattn", "Sparse attention")
    session = Session.of(viewer)
    wait_until(qtbot, lambda: session.selection.model is not None)
    session.selection.set_model(tnet_model)
    ((data, attributes, _),) = read_slide(str(write_svs(tmp_path / "slide.svs")))
    viewer.add_image(data, **attributes)
    session.task.ask("whole")
    wait_until(qtbot, lambda: session.answer is not None)
    facts = dock.result_box.facts
    for said in ("crops of 16", "tiles", "of the full resolution", "read anew"):
        assert said in facts.text()
    assert "s)" in facts.toolTip(), "the ledger says how long reading took"
    for crop in (1, 2, 1, 0, 3):
        session.crops.select_crop(crop)
    box = dock.traversal_box.close_up
    wait_until(qtbot, lambda: session.crops.close_up is not None)
    assert session.crops.close_up.request.crop == 3
    assert (box.native.picture.width(), box.read.picture.width()) == (
        session.crops.close_up.picture.shape[1],
        16,
    )
    assert "full resolution" in box.native_caption.text()
    assert "16 × 16" in box.read_caption.text()
    large = box.native.enlarge()
    assert large.pixmap().width() % session.crops.close_up.picture.shape[1] == 0
    large.close()
    session.crops.select_crop(0)
    assert box.native_caption.text() == "reading…"
    wait_until(qtbot, lambda: "2× reduced" in box.native_caption.text())
    session.crops.select_crop(None)
    assert not box.isVisible()
    dock = box = facts = large = None
