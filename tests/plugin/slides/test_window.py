"""A slide and a SPAN in the real window: threads, bars, maps, patches, galleries."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
from qtpy.QtCore import Qt
from qtpy.QtTest import QTest
from qtpy.QtWidgets import QFileDialog

from bad_slides import write_svs
from napari_sparseattn.plugin.core.models import Model
from napari_sparseattn.plugin.core.sources import METADATA_KEY, is_own
from napari_sparseattn.plugin.core.status import StageDone
from napari_sparseattn.plugin.slides.box import StageBars

from ..conftest import wait_until
from ..made_slides import LEVELS, add_slide, keep_features_in
from ..main.test_window import Window, make_window, window

__all__ = ["make_window", "window"]  # fixtures


@pytest.fixture
def spanning(window: Window, span: Model, kept: Path, monkeypatch: pytest.MonkeyPatch) -> Window:
    keep_features_in(monkeypatch, kept)
    window.session.selection.set_model(span)
    return window


@pytest.fixture
def anew(spanning: Window, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Window:
    """A window for which no features have been made yet."""
    keep_features_in(monkeypatch, tmp_path / "cache")
    return spanning


def classify(window: Window) -> None:
    window.dock.actions_box.field.click()
    # Where the machine is busy, the features alone may take this long.
    wait_until(window.qtbot, lambda: window.session.slides.attention is not None)


def overlays(window: Window) -> dict[str, Any]:
    return {x.metadata[METADATA_KEY]["overlay"]: x for x in window.viewer.layers if is_own(x)}


def test_a_slide_from_its_file_to_its_patches(spanning: Window, tmp_path: Path) -> None:
    path = write_svs(tmp_path / "tissue.svs", LEVELS, pixel_size="1.0")
    (image,) = spanning.viewer.open(str(path), plugin="napari-sparseattn")
    dock, session = spanning.dock, spanning.session
    assert dock.actions_box.field.text() == "Classify slide"
    assert not dock.actions_box.all.isVisible()
    assert not dock.image_box.cells.isVisible()
    assert "stain-texture" in dock.slide_box.encoder.toolTip()
    assert dock.pyramid_box.empty.isVisible()
    classify(spanning)
    layers = overlays(spanning)
    assert {"level 0", "level 1", "level 2", "tissue"} <= set(layers)
    assert [layers[f"level {i}"].visible for i in range(3)] == [True, False, False]
    assert dock.result_box.bars.rows[0][0] == session.answer.label
    assert "patches" in dock.result_box.facts.text()
    assert "is tissue" in dock.slide_box.tissue.text()
    assert len(dock.pyramid_box.shares.rows) == 4
    assert image is session.selection.image

    # Other values, another level.
    box = dock.pyramid_box
    box.kinds.setCurrentIndex(box.kinds.findData("percentile"))
    box.kinds.activated.emit(box.kinds.currentIndex())
    assert layers["level 0"].contrast_limits == [0, 100]
    assert (box.bars[0].limits, box.bars[0].unit) == ((0.0, 100.0), "%")
    assert [bar.isVisible() for bar in box.bars] == [True, False, False]
    box.levels[1].click()
    assert layers["level 1"].visible
    assert box.bars[1].isVisible()
    layers["level 0"].visible = False
    assert not box.levels[0].isChecked()

    # A patch that is clicked in the image.
    attention = session.slides.attention
    middle = int(np.abs(attention.cells - attention.cells.mean(axis=0)).sum(axis=1).argmin())
    top, left, side = attention.patch_box(middle)
    spanning.click(image.data_to_world((top + side / 2 - 0.5, left + side / 2 - 0.5)))
    spanning.until(lambda: session.slides.local is not None)
    assert session.slides.patch == middle
    assert {"patch", "local attention"} <= set(overlays(spanning))
    assert f"Patch {middle + 1}" in dock.gallery_box.facts.text()
    spanning.until(lambda: not dock.gallery_box.picture.pixmap().isNull())


@pytest.mark.slow
def test_galleries_go_to_their_patches(spanning: Window) -> None:
    add_slide(spanning.viewer)
    classify(spanning)
    session, box = spanning.session, spanning.dock.gallery_box
    order = session.slides.attention.rank_patches()
    assert box.most.patches() == order[:8].tolist()
    assert box.least.patches() == order[::-1][:8].tolist()
    wanted = {*box.most.patches(), *box.least.patches()}
    spanning.until(lambda: set(session.slides.pictures) == wanted)
    rect = box.most.visualItemRect(box.most.item(2))
    none = Qt.KeyboardModifier.NoModifier
    QTest.mouseClick(box.most.viewport(), Qt.MouseButton.LeftButton, none, rect.center())
    assert session.slides.patch == order[2]
    top, left, side = session.slides.attention.patch_box(int(order[2]))
    np.testing.assert_allclose(
        spanning.viewer.scene.camera.center[-2:],
        session.selection.image.data_to_world((top + side / 2 - 0.5, left + side / 2 - 0.5)),
    )
    box.more.click()
    assert len(box.most.patches()) == 16


@pytest.mark.slow
def test_patches_are_written_as_a_table(
    spanning: Window, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    add_slide(spanning.viewer)
    classify(spanning)
    path, box = tmp_path / "patches.csv", spanning.dock.gallery_box
    (tmp_path / "file").touch()
    chosen = str(tmp_path / "file" / "patches.csv")
    monkeypatch.setattr(QFileDialog, "getSaveFileName", lambda *_: (chosen, ""))
    box.export.click()
    spanning.until(lambda: "could not be written" in spanning.session.status.message.text)
    chosen = str(path)
    box.export.click()
    spanning.until(lambda: "written to" in spanning.session.status.message.text)
    table = pd.read_csv(path)
    assert len(table) == len(spanning.session.slides.attention)
    np.testing.assert_allclose(
        table["attention_1"],
        spanning.session.slides.attention.patch_weights() * len(table),
        rtol=1e-4,
    )


@pytest.mark.slow
def test_pictures_are_read_only_once_somebody_looks(spanning: Window) -> None:
    add_slide(spanning.viewer)
    spanning.dock.gallery_box.hide()
    classify(spanning)
    spanning.qtbot.wait(100)
    assert not spanning.session.slides.pictures
    spanning.dock.gallery_box.show()
    spanning.until(lambda: len(spanning.session.slides.pictures) == 16)


@pytest.mark.slow
def test_how_few_patches_hold_how_much(spanning: Window) -> None:
    add_slide(spanning.viewer)
    classify(spanning)
    box, attention = spanning.dock.pyramid_box, spanning.session.slides.attention
    assert box.curve.numbers[-1] == len(attention)
    assert box.curve.shares[-1] == pytest.approx(1)
    assert (np.diff(box.curve.shares) >= -1e-9).all()
    box.number.setValue(0)
    assert "The top 1 patch holds" in box.held.text()
    box.number.setValue(box.number.maximum())
    assert f"The top {len(attention)} patches hold <b>100\u00a0%</b>" in box.held.text()


def start(window: Window) -> None:
    """Begin with a slide of several batches of patches, and wait for the first."""
    add_slide(window.viewer, pixel_size=2.0)
    told: list[tuple[StageDone, ...] | None] = []
    window.session.slides.stages_changed.connect(told.append)
    window.dock.actions_box.field.click()

    def going_on() -> bool:
        stages = told[-1] or ()
        return any(stage.name == "features" and stage.done for stage in stages)

    wait_until(window.qtbot, going_on)
    window.session.slides.stages_changed.disconnect(told.append)


def stop_by_cancel(window: Window) -> None:
    box = window.dock.actions_box
    assert box.cancel.isVisible()
    assert not box.bar.isVisible()
    assert window.dock.slide_box.bars.isVisible()
    box.cancel.click()
    assert box.field.isVisible()
    assert not window.dock.slide_box.bars.isVisible()
    assert "patches are kept" in window.session.status.message.text


@pytest.mark.slow
@pytest.mark.parametrize(
    "stop",
    [stop_by_cancel, Window.close_dock, lambda window: window.viewer.close()],
    ids=["cancel", "close dock", "close window"],
)
def test_a_slide_can_be_stopped(anew: Window, stop: Callable[[Window], None]) -> None:
    start(anew)
    stop(anew)
    anew.qtbot.wait(300)
    assert not anew.session.status.running
    assert anew.session.answer is None


@pytest.mark.slow
def test_what_was_cancelled_goes_on_where_it_was(anew: Window) -> None:
    start(anew)
    anew.dock.actions_box.cancel.click()
    # Asked before the first has come to its end.
    classify(anew)
    assert "were kept from an earlier run" in anew.session.status.message.text


def test_the_bars_count_and_say_how_long(qtbot: Any) -> None:
    bars = StageBars()
    qtbot.addWidget(bars)
    tissue = StageDone("tissue", 1, 1, 0, 1.25)
    bars.show_stages((tissue, StageDone("features", 300, 1000, 100, 20.0)))
    assert bars.left["tissue"].text() == "1.2 s"
    assert (bars.bars["features"].value(), bars.bars["features"].maximum()) == (300, 1000)
    assert bars.bars["features"].format() == "300 of 1\u2009000"
    # 200 patches took 20 s; those of an earlier run took none of it.
    assert bars.left["features"].text() == "70 s left"
    assert bars.bars["attention"].format() == ""


@pytest.mark.slow
def test_the_dock_fits_its_least_width(spanning: Window) -> None:
    add_slide(spanning.viewer)
    classify(spanning)
    for box in ("slide_box", "pyramid_box", "gallery_box", "result_box", "actions_box"):
        assert getattr(spanning.dock, box).minimumSizeHint().width() <= 330, box
