"""What-if questions: regions that are drawn, questions, the list with undo and redo."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
from napari.components import ViewerModel

from napari_sparseattn.evidence import CropFrame
from napari_sparseattn.plugin.core.lanes import Lanes
from napari_sparseattn.plugin.core.models import Model
from napari_sparseattn.plugin.evidence.what_if_requests import (
    Region,
    answer_what_if,
    crop_middles,
    patch_middles,
)
from napari_sparseattn.plugin.evidence.what_if_session import WhatIfSession
from napari_sparseattn.plugin.session import Session

from ..conftest import CENTRES, add_labels, add_picture
from ..held import Held
from ..made_attention import made_up_attention
from ..made_slides import add_slide, keep_features_in, span_model


@pytest.fixture
def held(session: Session, viewer: ViewerModel) -> Held:
    """Keep what is asked here until a test lets it go; the session answers at once."""
    runner = Lanes.of(viewer).runner = Held(answer_what_if)
    return runner


@pytest.fixture
def what_ifs(session: Session, viewer: ViewerModel, at_once: None) -> Iterator[WhatIfSession]:
    """Questions are answered at once."""
    what_ifs = WhatIfSession.of(viewer)
    what_ifs.attach()
    yield what_ifs
    what_ifs.detach()


@pytest.fixture
def clicked(what_ifs: WhatIfSession, session: Session, viewer: ViewerModel) -> WhatIfSession:
    """The third cell of the picture was clicked; its crop is 16 px of 0.5 µm."""
    image = add_picture(viewer)
    add_labels(session, viewer)
    session.cells.click(image.data_to_world(CENTRES[2]))
    assert session.answer is not None
    return what_ifs


def draw_square(what_ifs: WhatIfSession, middle: tuple[float, float], half: float) -> None:
    assert what_ifs.draw("lasso")
    layer = what_ifs.layers.outlines(what_ifs.session.selection.image, (), make=False)
    row, column = middle
    corners = [(-half, -half), (-half, half), (half, half), (half, -half)]
    layer.add_polygons([np.array([(row + y, column + x) for y, x in corners])])


# -- regions


def test_a_polygon_covers_the_crop_pixels_whose_middle_it_holds() -> None:
    # Crop pixels are two image pixels wide; the first one's middle is at 10 − 7.5.
    frame = CropFrame(10.0, 20.0, 16.0, 8)
    left_half = Region((np.array([(0.0, 0.0), (0.0, 20.0), (30.0, 20.0), (30.0, 0.0)]),))
    mask = left_half.on_crop(frame)
    np.testing.assert_array_equal(mask, np.arange(8)[None] * np.ones((8, 1)) < 4)


def test_what_is_painted_is_read_at_the_nearest_pixel() -> None:
    painted = np.zeros((20, 30), bool)
    painted[4, 7] = True
    frame = CropFrame(5.5, 7.5, 8.0, 8)
    expected = np.zeros((8, 8), bool)
    # The crop's first pixel lies on the image's pixel (2, 4).
    expected[4 - 2, 7 - 4] = True
    np.testing.assert_array_equal(Region(painted=painted).on_crop(frame), expected)
    np.testing.assert_array_equal(Region(painted=painted).on_field((20, 30)), painted)


def test_patches_belong_to_a_region_by_their_middle_or_by_being_picked() -> None:
    attention = made_up_attention(origin=(0.0, 0.0), step=32.0, side=32.0)
    top, left, side = attention.patch_box(5)
    middle = np.array([top + side / 2 - 0.5, left + side / 2 - 0.5])
    np.testing.assert_allclose(patch_middles(attention)[5], middle)
    ring = middle + np.array([(-2, -2), (-2, 2), (2, 2), (2, -2)], float)
    assert np.flatnonzero(Region((ring,)).on_patches(attention)).tolist() == [5]
    assert np.flatnonzero(Region(patches=(7,)).on_patches(attention)).tolist() == [7]


def test_nothing_drawn_is_an_empty_region() -> None:
    assert Region().empty
    assert Region(painted=np.zeros((3, 3), bool)).empty
    assert not Region(patches=(0,)).empty


# -- cells


def test_without_a_region_it_says_what_to_do(clicked: WhatIfSession) -> None:
    assert clicked.ask("remove") is None
    assert "Lasso" in clicked.message
    assert clicked.entries == []


def test_removing_the_cell_reruns_the_model_and_lists_it(clicked: WhatIfSession) -> None:
    draw_square(clicked, (80, 60), 6)
    # The region is drawn by napari's own tool, on a layer of ours.
    layer = clicked.layers.outlines(clicked.session.selection.image, (), make=False)
    assert layer.mode == "add_polygon_lasso"
    assert layer.name == "smear · what if"
    np.testing.assert_allclose(layer.scale, (0.5, 0.5))
    request = clicked.ask("remove")
    (entry,) = clicked.entries
    assert entry.request is request
    # A square of 12 px in a crop of 16 px.
    assert entry.found.share == pytest.approx((12 / 16) ** 2, abs=0.1)
    before = clicked.session.answer
    assert entry.found.before.label == before.label
    np.testing.assert_allclose(entry.found.before.probabilities, before.probabilities, atol=1e-4)
    assert not np.allclose(entry.found.before.logits, entry.found.after.logits)
    assert clicked.message == entry.found.summary()


def test_what_is_selected_then_lies_on_the_crop(clicked: WhatIfSession, session: Session) -> None:
    draw_square(clicked, (80, 60), 3)
    clicked.ask("look")
    (entry,) = clicked.entries
    layer = clicked.layers.layer(session.selection.image, "what-if selection")
    frame = session.answer.evidence.frame
    selected = np.isfinite(layer.data)
    np.testing.assert_array_equal(selected, entry.found.after.evidence.mask())
    forced = Region(entry.request.region.outlines).on_crop(frame)
    assert selected[forced].all()
    origin = session.selection.image.data_to_world(frame.origin)
    np.testing.assert_allclose(layer.data_to_world((0, 0)), origin)


def test_undo_and_redo_go_back_and_forth_with_the_region(clicked: WhatIfSession) -> None:
    draw_square(clicked, (80, 60), 3)
    clicked.ask("remove")
    draw_square(clicked, (85, 65), 2)
    clicked.ask("keep")
    first, second = clicked.entries
    assert len(clicked.region().outlines) == 2
    assert clicked.undo()
    assert clicked.entries == [first]
    assert clicked.shown is first
    np.testing.assert_allclose(
        clicked.region().outlines[0], first.request.region.outlines[0], atol=1e-4
    )
    assert len(clicked.region().outlines) == 1
    assert clicked.undo()
    assert clicked.shown is None
    assert clicked.layers.layer(clicked.session.selection.image, "what-if selection") is None
    assert not clicked.undo()
    assert clicked.redo()
    assert clicked.redo()
    # Done again they are, but later: the order of what is taken back next is that of time.
    assert [entry.found for entry in clicked.entries] == [first.found, second.found]
    assert clicked.shown is clicked.entries[1]
    assert first.time < second.time < clicked.entries[0].time < clicked.entries[1].time
    assert not clicked.redo()


def test_a_new_question_forgets_what_was_undone(clicked: WhatIfSession) -> None:
    draw_square(clicked, (80, 60), 3)
    clicked.ask("remove")
    clicked.undo()
    draw_square(clicked, (80, 60), 3)
    clicked.ask("keep")
    assert not clicked.can_redo
    assert [entry.found.question for entry in clicked.entries] == ["keep"]
    # Numbers are not given twice.
    assert clicked.entries[0].number == 2


def test_painting_counts_too_and_can_be_cleared(
    clicked: WhatIfSession, viewer: ViewerModel
) -> None:
    assert clicked.draw("paint")
    layer = clicked.layers.paint(clicked.session.selection.image, (), make=False)
    assert layer.mode == "paint"
    layer.data[76:84, 56:64] = 1
    layer.refresh()
    clicked.ask("remove")
    (entry,) = clicked.entries
    # 8 of 16 px along each side; crop and image pixels may not fall together.
    assert entry.found.share == pytest.approx(0.25, abs=0.07)
    clicked.clear()
    assert clicked.region().empty
    assert viewer.layers.selection.active is clicked.session.selection.image
    clicked.undo()
    clicked.redo()
    np.testing.assert_array_equal(clicked.region().painted, entry.request.region.painted)


def test_a_region_beside_the_cell_is_refused_in_words(clicked: WhatIfSession) -> None:
    draw_square(clicked, (20, 150), 4)
    clicked.ask("remove")
    assert clicked.entries == []
    assert "region" in clicked.message
    assert clicked.can_ask


def test_the_list_stays_when_another_cell_is_clicked(
    clicked: WhatIfSession, session: Session
) -> None:
    draw_square(clicked, (80, 60), 3)
    clicked.ask("remove")
    session.cells.click(session.selection.image.data_to_world(CENTRES[0]))
    assert len(clicked.entries) == 1
    assert clicked.shown is None
    assert clicked.layers.layer(session.selection.image, "what-if selection") is None


def test_an_answer_to_what_is_no_longer_shown_is_dropped(
    clicked: WhatIfSession, session: Session, held: Held
) -> None:
    draw_square(clicked, (80, 60), 3)
    clicked.ask("remove")
    assert not clicked.can_ask
    session.cells.click(session.selection.image.data_to_world(CENTRES[0]))
    held.go()
    assert clicked.entries == []


# -- traversals


def test_a_dragged_crop_is_read_where_its_point_is(
    what_ifs: WhatIfSession, session: Session, viewer: ViewerModel, tnet_model: Model
) -> None:
    image = add_picture(viewer)
    session.selection.set_model(tnet_model)
    session.task.ask("whole")
    assert what_ifs.move_crops()
    layer = what_ifs.layers.layer(image, "what-if crops")
    way = session.crops.traversal
    assert len(layer.data) == len(way) - 1
    np.testing.assert_allclose(layer.data, crop_middles(way)[1:])
    first = int(np.flatnonzero(way.level == 1)[0])
    side = way.boxes[first, 2]
    data = layer.data.copy()
    data[first - 1] = (60.0, 90.0)
    layer.data = data
    assert [entry.found.question for entry in what_ifs.entries] == ["move"]
    after = what_ifs.entries[0].found.after.evidence
    # In pixels with corners at whole numbers, and to a whole pixel.
    np.testing.assert_allclose(after.boxes[first, :2] + side / 2, (60.5, 90.5), atol=1.0)
    shown = what_ifs.layers.layer(image, "what-if selection")
    assert len(shown.data) == len(after) - 1


def test_a_field_can_be_asked_without_a_region_of_it(
    what_ifs: WhatIfSession, session: Session, viewer: ViewerModel, tnet_model: Model
) -> None:
    add_picture(viewer)
    session.selection.set_model(tnet_model)
    session.task.ask("whole")
    draw_square(what_ifs, (60, 90), 30)
    what_ifs.set_fill("noise")
    what_ifs.ask("remove")
    (entry,) = what_ifs.entries
    assert entry.found.fill == "noise"
    assert entry.found.share == pytest.approx(60 * 60 / (120 * 180), abs=0.01)
    assert entry.found.before.label == session.answer.label


# -- slides


@pytest.fixture
def slide(
    what_ifs: WhatIfSession,
    session: Session,
    viewer: ViewerModel,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> WhatIfSession:
    keep_features_in(monkeypatch, tmp_path)
    worker = session.worker
    add_slide(viewer)
    session.selection.set_model(span_model())
    session.slides.classify()
    assert len(worker.slides) == 1
    return what_ifs


def test_patches_and_levels_of_a_slide_are_dropped(slide: WhatIfSession, session: Session) -> None:
    assert "drop" in slide.fills
    attention = session.slides.attention
    session.slides.select_patch(3)
    slide.ask("remove")
    picked = slide.entries[-1]
    assert picked.request.region.patches == (3,)
    assert picked.found.share == pytest.approx(1 / len(attention))
    assert len(slide.level_names) == len(attention.levels)
    slide.ask_without_levels((0,))
    assert slide.entries[-1].found.question == "levels"
    assert not np.allclose(*(a.logits for a in (slide.entries[-1].found.before,
                                                slide.entries[-1].found.after)))  # fmt: skip
    assert slide.ask_without_levels(()) is None
    middle = patch_middles(attention)[0]
    draw_square(slide, tuple(middle), attention.side)
    slide.ask("remove")
    expected = Region(slide.entries[-1].request.region.outlines).on_patches(attention)
    assert expected[0]
    assert slide.entries[-1].found.share == pytest.approx(expected.mean())
