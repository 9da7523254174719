"""The real window: a second model's answer beside the first, and all cells."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
import pytest

from napari_sparseattn.bundle import save_bundle
from napari_sparseattn.plugin.compare.session import Compare
from napari_sparseattn.plugin.evidence.session import AnswerFaithfulness
from small_model import small_bundle

from ..conftest import CENTRES, add_labels, add_picture
from ..main.test_window import Window, make_window

__all__ = ["make_window"]  # fixtures


@pytest.fixture
def two(
    make_window: Callable[[], Window], model_file: Path, monkeypatch: pytest.MonkeyPatch
) -> Iterator[Window]:
    """A window that finds two models."""
    from napari_sparseattn.plugin.core import models

    other = model_file.parent / "other.safetensors"
    save_bundle(small_bundle(seed=4, name="other"), other)
    monkeypatch.setattr(models, "find_bundles", lambda: {"small": model_file, "other": other})
    window = make_window()
    window.open_dock()
    yield window
    other.unlink()


@pytest.mark.slow
def test_two_models_side_by_side(two: Window) -> None:
    viewer, session, box = two.viewer, two.session, two.dock.compare_box
    compare = Compare.of(viewer)
    AnswerFaithfulness.of(viewer).set_automatic(False)
    two.dock.sections["Compare"].expand(animate=False)
    image = add_picture(viewer)
    session.selection.set_settings(image, modality="brightfield")
    add_labels(session, viewer)
    assert not box.ask.isEnabled()
    assert "Click a cell" in box.message.text()
    two.click(image.data_to_world(CENTRES[3]))
    two.until(lambda: session.answer is not None)

    box.models.setCurrentIndex(box.models.findData("other"))
    box.models.activated.emit(box.models.currentIndex())
    box.ask.click()
    two.until(lambda: compare.one is not None)
    (first,), (second,) = compare.one.labels
    assert first == session.answer.label
    for label in (first, second):
        assert label in box.answers.text()
    assert f"{100 * compare.one.overlap[0]:.0f} %" in box.answers.text()
    assert "[smear] other" in viewer.layers

    # The image is drawn twice, and a cell that is clicked is asked of both models.
    box.beside.click()
    two.until(lambda: viewer.canvas.grid.enabled)
    shot = viewer.screenshot(canvas_only=True, flash=False)[..., :3].astype(int)
    halves = [half.max(axis=2).mean() for half in np.array_split(shot, 2, axis=1)]
    assert min(halves) > 20
    before = compare.one
    session.cells.click(image.data_to_world(CENTRES[0]))
    two.until(lambda: compare.one is not None and compare.one is not before)
    shown = viewer.layers["[smear] other"]
    middle = shown.data_to_world(np.array(shown.data.shape) / 2 - 0.5)
    np.testing.assert_allclose(middle, image.data_to_world(CENTRES[0]), atol=1)

    # All cells, and from a row of the list to its cell.
    session.cells.classify_all()
    two.until(lambda: session.cells.results is not None and not session.status.running)
    right = viewer.canvas.grid.contents_at((0, 1), viewer.layers)
    assert [viewer.layers[i].name for i in right] == ["smear · second model", "[smear] other"]
    box.ask_all.click()
    two.until(lambda: compare.every is not None)
    assert f"of {len(CENTRES)}" in box.summary.text()
    assert box.differing.count() == len(compare.every.differing) > 0
    row, shown = compare.every.differing[0], session.answer
    box.differing.itemClicked.emit(box.differing.item(0))
    two.until(lambda: session.answer is not None and session.answer is not shown)
    frame = session.answer.evidence.frame
    np.testing.assert_allclose((frame.row, frame.column), compare.every.centres[row], atol=1e-6)

    box.beside.click()
    assert not viewer.canvas.grid.enabled
    assert "smear · second model" not in viewer.layers

    # Closing the dock while the image is shown twice leaves it shown once.
    box.beside.click()
    assert viewer.canvas.grid.enabled
    two.close_dock()
    two.until(lambda: "smear · second model" not in viewer.layers)


def test_the_window_can_be_closed_while_the_image_is_shown_twice(two: Window) -> None:
    image = add_picture(two.viewer)
    two.dock.compare_box.beside.click()
    assert two.viewer.layers[-1].data is image.data
    # The viewer is closed by its own fixture, which fails if anything is left.
