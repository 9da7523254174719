"""A TNet in a viewer without a window: crops, fields, slides, the dial."""

from __future__ import annotations

import itertools
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
from napari.components import ViewerModel
from napari.layers import Image, Shapes

from bad_slides import write_svs, zeroed
from napari_sparseattn.images.normalise import Normalisation
from napari_sparseattn.images.slides.pyramid import VirtualPyramid
from napari_sparseattn.inference.fields import FieldPrediction, classify_field
from napari_sparseattn.plugin.core.layers import OverlayChoice
from napari_sparseattn.plugin.core.messages import share_text
from napari_sparseattn.plugin.core.models import Model
from napari_sparseattn.plugin.core.sources import METADATA_KEY, is_own
from napari_sparseattn.plugin.session import Session
from napari_sparseattn.plugin.slides.layers import read_slide, slide_layer
from napari_sparseattn.plugin.traversal.layers import crop_at
from napari_sparseattn.plugin.traversal.requests import FieldAnswer, crops_at_most, stream_field
from small_model import small_bundle
from small_tnet import small_tnet_bundle

from ..conftest import CENTRES, add_labels, add_picture


@pytest.fixture
def tnet(session: Session, tnet_model: Model) -> Session:
    """A session with a TNet."""
    session.selection.set_model(tnet_model)
    return session


def click_cell(session: Session, viewer: ViewerModel, cell: int = 0) -> Image:
    image = add_picture(viewer)
    add_labels(session, viewer)
    viewer.layers.selection.active = image
    session.cells.click(image.data_to_world(CENTRES[cell]))
    return image


def roles(viewer: ViewerModel) -> list[str]:
    return [x.metadata[METADATA_KEY]["overlay"] for x in viewer.layers if is_own(x)]


def add_slide(viewer: ViewerModel, path: Path) -> Image:
    ((data, attributes, _),) = read_slide(str(path))
    return viewer.add_image(data, **attributes)


def test_a_click_draws_the_crops_where_they_are(tnet: Session, viewer: ViewerModel) -> None:
    image = click_cell(tnet, viewer, 2)
    traversal = tnet.crops.traversal
    # The tree is drawn when it is asked for.
    assert roles(viewer) == ["crops", "frame"]
    # What was hidden is made once it is shown, below what it must not cover.
    tnet.selection.set_choice(OverlayChoice(unread=True, candidates=True, tree=True))
    assert roles(viewer) == ["unread", "candidates", "tree", "crops", "frame"]
    crops = tnet.overlays.layer(image, "crops")
    # Half of 32 µm at 0.5 µm per pixel, within that around the cell; a pixel's middle is its index.
    boxes, rows = drawn(crops)
    assert set(rows) < {1, 2, 3, 4}
    tnet.crops.set_every(True)
    boxes, rows = drawn(crops)
    assert sorted(rows) == [1, 2, 3, 4]
    for corners, row in zip(boxes, rows, strict=True):
        expected = traversal.on_image(traversal.boxes)[row]
        np.testing.assert_allclose(corners.min(axis=0), expected[:2] - 0.5, atol=1e-6)
        np.testing.assert_allclose(np.ptp(corners, axis=0), expected[2:])
    numbered = crops.features.iloc[len(rows) :]
    assert (numbered["crop"] - 1).tolist() == rows
    assert numbered["text"].tolist() == [share_text(value) for value in numbered["share"]]
    whole = float(traversal.evidence_for(tnet.answer.index)[0])
    np.testing.assert_allclose(numbered["share"].sum() + whole, relative_logit(tnet), atol=1e-4)
    for name in ("scale", "translate"):
        np.testing.assert_allclose(getattr(crops, name), getattr(image, name))
    assert crops.units == image.units


def drawn(crops: Shapes) -> tuple[list[np.ndarray], list[int]]:
    """Rectangles of crops, those that hold the numbers left out, and which crops they are."""
    half = len(crops.data) // 2
    rows = (crops.features["crop"].to_numpy()[:half] - 1).tolist()
    return [np.asarray(corners) for corners in crops.data[:half]], rows


def relative_logit(session: Session) -> float:
    """The predicted class's logit less the mean, from the probabilities alone."""
    logs = np.log(session.answer.probabilities.astype(float))
    return float(logs[session.answer.index] - logs.mean())


def test_edges_and_faces_tell_signs(tnet: Session, viewer: ViewerModel) -> None:
    image = click_cell(tnet, viewer)
    crops, traversal = tnet.overlays.layer(image, "crops"), tnet.crops.traversal
    _, rows = drawn(crops)
    n = len(rows)
    share = crops.features["share"].to_numpy()[:n]
    for edge, face, value in zip(crops.edge_color[:n], crops.face_color[:n], share, strict=True):
        assert (edge[0] > edge[2]) == (value > 0)
        if face[3]:
            assert (face[0] > face[2]) == (value > 0)
    parents = {0, *traversal.parent[1:].tolist()}
    assert [bool(face[3]) for face in crops.face_color[:n]] == [row not in parents for row in rows]
    # What holds the numbers is dark enough for white ones, has their sign, and covers no other.
    assert not crops.edge_color[n:, 3].any()
    plates = crops.face_color[n:]
    assert (plates[:, 3] > 0.8).all()
    assert (plates[:, :3] @ (0.21, 0.72, 0.07)).max() < 0.3
    held = crops.features["share"].to_numpy()[n:]
    assert [bool(face[0] > face[2]) for face in plates] == (held > 0).tolist()
    corners = np.array([np.asarray(each) for each in crops.data[n:]])[..., -2:]
    low, high = corners.min(axis=1), corners.max(axis=1)
    assert (low >= -0.5).all()
    assert (high <= np.array(image.data.shape[:2]) - 0.5).all()
    for i in range(n):
        for j in range(i):
            apart = np.maximum(low[i] - high[j], low[j] - high[i])
            assert apart.max() > -1e-6, (i, j)


def test_the_few_that_say_most_are_drawn_inside_the_image_with_numbers_apart(
    tnet: Session, viewer: ViewerModel
) -> None:
    image = add_picture(viewer)
    tnet.crops.set_locations((4, 3))
    tnet.task.ask("whole")
    traversal, crops = tnet.crops.traversal, tnet.overlays.layer(image, "crops")
    assert len(traversal) > 17
    boxes, rows = drawn(crops)
    share = traversal.evidence_for(tnet.crops.shown_class)
    for_it = [i for i in np.argsort(-share, kind="stable").tolist() if i and share[i] > 0]
    against = [i for i in np.argsort(share, kind="stable").tolist() if i and share[i] <= 0]
    assert {*for_it[:2], *against[:2]} <= set(rows)
    assert 3 <= len(rows) <= 4
    n = len(rows)
    for corners in boxes:
        assert (corners.min(axis=0) >= -0.5 - 1e-6).all()
        assert (corners.max(axis=0) <= np.array(traversal.shape) - 0.5 + 1e-6).all()
    middles = np.array([np.mean(corners, axis=0) for corners in crops.data[n:]])
    gaps = np.linalg.norm(middles[:, None] - middles, axis=-1) + 1e9 * np.eye(n)
    assert gaps.min() > 4
    # One that is picked out is drawn as well.
    other = next(i for i in range(1, len(traversal)) if i not in rows)
    tnet.crops.select_crop(other)
    assert drawn(crops)[1] == [*drawn(crops)[1][:-1], other]
    assert len(drawn(crops)[1]) == n + 1
    tnet.crops.select_crop(None)
    tnet.crops.set_every(True)
    assert len(drawn(crops)[1]) == min(40, len(traversal) - 1)
    tnet.crops.set_every(False)
    assert len(drawn(crops)[1]) == n


def test_the_tree_joins_parents_and_children(tnet: Session, viewer: ViewerModel) -> None:
    image = click_cell(tnet, viewer)
    tnet.selection.set_choice(OverlayChoice(tree=True))
    tree, traversal = tnet.overlays.layer(image, "tree"), tnet.crops.traversal
    boxes = traversal.on_image(traversal.boxes)
    middles, parents = boxes[:, :2] + boxes[:, 2:] / 2 - 0.5, traversal.parent
    assert len(tree.data) == 4
    for line, child in zip(tree.data, range(1, 5), strict=True):
        np.testing.assert_allclose(line, [middles[parents[child]], middles[child]])


def test_candidates_are_those_of_the_crop_that_is_picked_out(
    tnet: Session, viewer: ViewerModel
) -> None:
    image = click_cell(tnet, viewer)
    tnet.selection.set_choice(OverlayChoice(candidates=True))
    traversal = tnet.crops.traversal
    for selected, searched in ((None, 0), (1, 1), (2, 2), (3, int(traversal.parent[3]))):
        tnet.crops.select_crop(selected)
        layer = tnet.overlays.layer(image, "candidates")
        row = traversal.searched.tolist().index(searched)
        assert layer.features["chosen"].tolist() == sorted(traversal.chosen[row])
        np.testing.assert_allclose(
            np.sort(layer.features["p·n²"]), np.sort(traversal.relative_probability[row])
        )


def test_the_next_click_updates_the_same_layers(tnet: Session, viewer: ViewerModel) -> None:
    image = click_cell(tnet, viewer)
    before = list(viewer.layers)
    tnet.cells.click(image.data_to_world(CENTRES[3]))
    assert list(viewer.layers) == before
    boxes, rows = drawn(tnet.overlays.layer(image, "crops"))
    traversal = tnet.crops.traversal
    expected = traversal.on_image(traversal.boxes)[rows[0]]
    np.testing.assert_allclose(boxes[0].min(axis=0), expected[:2] - 0.5, atol=1e-6)
    whole = traversal.on_image(traversal.boxes)[0]
    np.testing.assert_allclose(whole[:2] + whole[2:] / 2 - 0.5, CENTRES[3], atol=1e-6)


def test_another_kind_of_model_takes_the_overlays_of_this_one_away(
    tnet: Session, viewer: ViewerModel, model: Model, tnet_model: Model
) -> None:
    image = click_cell(tnet, viewer)
    tnet.selection.set_model(model)
    assert roles(viewer) == ["frame"]
    tnet.cells.click(image.data_to_world(CENTRES[0]))
    assert set(roles(viewer)) == {"frame", "pixels"}
    tnet.selection.set_model(tnet_model)
    assert roles(viewer) == ["frame"]
    tnet.cells.click(image.data_to_world(CENTRES[0]))
    assert set(roles(viewer)) == {"frame", "crops"}


def test_a_click_on_a_crop_picks_it_out_and_elsewhere_classifies(
    tnet: Session, viewer: ViewerModel
) -> None:
    image = click_cell(tnet, viewer)
    traversal = tnet.crops.traversal
    top, left, height, width = traversal.on_image(traversal.boxes)[4]
    place = (top + height / 2 - 0.5, left + width / 2 - 0.5)
    expected = crop_at(traversal, place)
    assert traversal.level[expected] == 2
    tnet.press(image.data_to_world(place))
    assert (tnet.crops.crop, len(tnet.worker.clicks)) == (expected, 1)
    assert f"Crop {expected + 1}," in tnet.status.message.text
    tnet.press(image.data_to_world(CENTRES[3]))
    assert (tnet.crops.crop, len(tnet.worker.clicks)) == (None, 2)
    # Hidden crops are in nobody's way.
    tnet.selection.set_choice(OverlayChoice(crops=False))
    tnet.press(image.data_to_world(place))
    assert tnet.crops.crop is None


def test_shares_of_another_class(tnet: Session, viewer: ViewerModel) -> None:
    image = click_cell(tnet, viewer)
    other = (tnet.answer.index + 1) % 3
    tnet.crops.set_shown_class(other)
    crops = tnet.overlays.layer(image, "crops")
    np.testing.assert_allclose(
        crops.features["share"],
        tnet.crops.traversal.evidence_for(other)[crops.features["crop"].to_numpy() - 1],
    )


def test_thumbnails_are_what_the_model_saw(tnet: Session, viewer: ViewerModel) -> None:
    image = click_cell(tnet, viewer, 2)
    assert [picture.shape for picture in tnet.crops.thumbnails] == [(16, 16, 3)] * 5
    # 64 px at a sixteenth of the size: each pixel is the mean of 4 x 4.
    row, column = (CENTRES[2] - 31.5).astype(int)
    half = np.asarray(image.data[row : row + 64, column : column + 64], dtype=float)
    mean = half.reshape(16, 4, 16, 4, 3).mean(axis=(1, 3))
    assert np.abs(mean - tnet.crops.thumbnails[0]).mean() < 6


def test_a_field_is_what_classify_field_says(tnet: Session, viewer: ViewerModel) -> None:
    add_picture(viewer)
    progress: list[object] = []
    tnet.status.progress_changed.connect(progress.append)
    assert tnet.task.ask("whole") is not None
    assert isinstance(tnet.answer, FieldPrediction)
    assert tnet.answer.traversal.shape == (120, 180)
    assert roles(viewer) == ["crops"]
    assert progress[-1] is None
    assert not tnet.status.running
    # The whole image in the middle of a square as wide as it.
    np.testing.assert_allclose(tnet.answer.traversal.boxes[0], (-30, 0, 180, 180))


def test_a_field_much_larger_than_those_trained_on_is_warned_of(
    tnet: Session, viewer: ViewerModel
) -> None:
    add_picture(viewer, scale=(5, 5))
    tnet.task.ask("whole")
    assert tnet.status.message.level == "warning"
    assert "trained on fields 32 µm wide, this one is 900 µm" in tnet.status.message.text


def test_a_sparse_attn_net_is_not_for_fields(session: Session, viewer: ViewerModel) -> None:
    add_picture(viewer)
    assert session.task.ask("whole") is None
    assert "Choose a TNet" in session.status.message.text


def test_a_slide_is_read_where_it_is_looked_at(
    tnet: Session, viewer: ViewerModel, tmp_path: Path
) -> None:
    image = add_slide(viewer, write_svs(tmp_path / "slide.svs", pixel_size="0.5"))
    tnet.selection.set_settings(image, modality="brightfield")
    tnet.task.ask("whole")
    reading = tnet.answer.reading
    assert 0 < reading.fraction_read < 1
    tnet.selection.set_choice(OverlayChoice(unread=True))
    unread = tnet.overlays.layer(image, "unread")
    np.testing.assert_array_equal(unread.data == 0, ~reading.unread_mask(0))
    corner = unread.data_to_world((-0.5, -0.5))
    np.testing.assert_allclose(corner, image.data_to_world((-0.5, -0.5)))
    end = unread.data_to_world(np.array(unread.data.shape) - 0.5)
    np.testing.assert_allclose(end, image.data_to_world((1023.5, 1023.5)))


def test_tiles_that_cannot_be_read_are_said(
    tnet: Session, viewer: ViewerModel, tmp_path: Path
) -> None:
    add_slide(viewer, zeroed(tmp_path / "slide.svs", tiles=range(16)))
    tnet.task.ask("whole")
    assert "could not be decoded" in tnet.status.message.text
    assert tnet.status.message.level == "warning"


def test_a_large_slides_cells_are_not_searched_for(tnet: Session, viewer: ViewerModel) -> None:
    rendered: list[int] = []

    def render(level: int, y: int, x: int, height: int, width: int) -> np.ndarray:
        if level == 0:
            rendered.append(height * width)
        return np.full((height, width, 3), 200, np.uint8)

    data, attributes, _ = slide_layer(
        VirtualPyramid(render, 80_000, 60_000, pixel_size=0.25, name="big")
    )
    viewer.add_image(data, **attributes)
    assert tnet.cells.classify_all() is None
    assert tnet.cells.click((100.0, 100.0)) is None
    assert "too large" in tnet.status.message.text
    assert rendered == []
    tnet.task.ask("whole")
    assert isinstance(tnet.answer, FieldPrediction)
    assert sum(rendered) < 60 * 256**2


def test_the_dial_answers_the_last_question_anew(tnet: Session, viewer: ViewerModel) -> None:
    click_cell(tnet, viewer)
    tnet.crops.set_locations((3, 2))
    assert len(tnet.crops.traversal) == 1 + 3 + 6
    assert [trial.locations for trial in tnet.crops.trials] == [(2, 1), (3, 2)]
    assert tnet.crops.trials[1].crops == 10
    assert tnet.crops.trials[1].share > tnet.crops.trials[0].share
    tnet.crops.set_locations((2, 1))
    assert tnet.crops.locations is None
    assert len(tnet.crops.traversal) == 5
    assert len(tnet.crops.trials) == 2


def test_the_dial_turns_a_field_too_and_repeats_its_last_number(
    tnet: Session, viewer: ViewerModel, tnet_model: Model
) -> None:
    add_picture(viewer)
    tnet.task.ask("whole")
    levels = tnet.answer.traversal.n_levels
    tnet.crops.set_locations((1, 2))
    taken = (1, 2, 2, 2, 2, 2)[: levels - 1]
    assert tnet.worker.fields[-1].locations == taken
    assert len(tnet.crops.traversal) == crops_at_most(taken)
    assert tnet.crops.trials[-1].locations == (1, 2)


def test_classify_all_follows_the_dial(tnet: Session, viewer: ViewerModel) -> None:
    click_cell(tnet, viewer)
    tnet.crops.set_locations((4, 1))
    tnet.cells.classify_all()
    assert len(tnet.cells.results) == 4
    np.testing.assert_allclose(
        tnet.cells.results.probabilities[0], tnet.answer.probabilities, atol=1e-5
    )


def test_too_many_crops_are_refused_with_advice(tnet: Session, viewer: ViewerModel) -> None:
    add_picture(viewer)
    tnet.crops.set_locations((9, 9))
    tnet.selection.set_image(None)
    data = np.zeros((3000, 3000, 3), np.uint8)
    tnet.selection.set_image(viewer.add_image(data, rgb=True))
    assert tnet.task.ask("whole") is None
    assert "fewer locations" in tnet.status.message.text


@pytest.fixture
def waiting(tnet: Session) -> Iterator[Session]:
    """A session whose fields are answered by hand."""
    tnet.worker.hold()
    return tnet


def test_a_stale_field_is_dropped(waiting: Session, viewer: ViewerModel) -> None:
    add_picture(viewer)
    old = waiting.task.ask("whole")
    waiting.crops.set_locations((3, 1))
    new = waiting.status.work.request
    assert old.stop.is_set()
    assert not new.stop.is_set()
    answers = [x for x in stream_field(new) if isinstance(x, FieldAnswer)]
    prediction = classify_field_of(old)
    waiting.crops.accept(old, FieldAnswer(old, prediction, ()))
    assert waiting.answer is None
    waiting.crops.accept(new, answers[0])
    assert waiting.answer is answers[0].prediction


def stained(shape: tuple[int, ...]) -> np.ndarray:
    """Bright glass with a dark square: what is even or dark has no class."""
    image = np.full(shape, 230, np.uint8)
    image[..., 30:70, 30:70, :] = (120, 60, 150)
    return image


def classify_field_of(request: object) -> FieldPrediction:
    image = stained((120, 180, 3))
    from napari_sparseattn.images.fields.field import Field

    return classify_field(Field(image, "YXC"), request.model.bundle)  # type: ignore[attr-defined]


def test_cancel_stops_a_field_at_its_next_crop(waiting: Session, viewer: ViewerModel) -> None:
    add_picture(viewer)
    request = waiting.task.ask("whole")
    waiting.status.cancel()
    assert request.stop.is_set()
    assert not waiting.status.running
    assert waiting.status.message.text == "Cancelled."
    assert not [x for x in stream_field(request) if isinstance(x, FieldAnswer)]


def test_removing_the_image_stops_its_field(waiting: Session, viewer: ViewerModel) -> None:
    image = add_picture(viewer)
    request = waiting.task.ask("whole")
    viewer.layers.remove(image)
    assert request.stop.is_set()
    assert waiting.status.message.text == "'smear' was removed."


def test_a_field_that_fails_is_a_message(waiting: Session, viewer: ViewerModel) -> None:
    add_picture(viewer)
    waiting.status.fail_work(waiting.task.ask("whole"), OSError("the disk is gone"))
    assert "the disk is gone" in waiting.status.message.text
    assert waiting.status.message.level == "error"
    assert not waiting.status.running


def test_a_grey_field_is_refused_before_work_begins(tnet: Session, viewer: ViewerModel) -> None:
    tnet.selection.set_image(viewer.add_image(np.zeros((60, 60)), name="grey"))
    assert tnet.task.ask("whole") is None
    assert "needs 3 channels" in tnet.status.message.text


def test_a_stack_has_its_crops_on_its_plane(tnet: Session, viewer: ViewerModel) -> None:
    image = viewer.add_image(stained((5, 100, 120, 3)), rgb=True, scale=(10, 0.5, 0.5))
    viewer.dims.set_point(0, 30)
    tnet.task.ask("whole")
    tnet.selection.set_choice(OverlayChoice(unread=True, candidates=True, tree=True))
    for role in ("crops", "tree", "candidates"):
        layer = tnet.overlays.layer(image, role)
        worlds = [layer.data_to_world(corner)[0] for corner in itertools.chain(*layer.data)]
        np.testing.assert_allclose(worlds, 30)
    unread = tnet.overlays.layer(image, "unread")
    assert unread.data.shape == (1, 100, 120)
    np.testing.assert_allclose(unread.data_to_world((0, 0, 0)), (30, 0, 0))


def test_models_for_cells_come_first_and_for_slides_those_that_can_read_them(
    session: Session, viewer: ViewerModel, tmp_path: Path
) -> None:
    whole = small_tnet_bundle(normalisation=Normalisation("white"), name="whole").card
    session.models.cards = {
        "whole": whole,
        "by-parts": small_tnet_bundle(name="by-parts").card,
        "cells": small_bundle().card.model_copy(update={"modality": "brightfield"}),
    }
    add_picture(viewer)
    assert session.parts.fitting == ["cells", "whole", "by-parts"]
    add_slide(viewer, write_svs(tmp_path / "slide.svs"))
    assert session.parts.fitting == ["by-parts", "whole", "cells"]


def test_a_model_that_needs_the_whole_image_is_not_for_slides(
    session: Session, viewer: ViewerModel, tmp_path: Path
) -> None:
    bundle = small_tnet_bundle(normalisation=Normalisation("white"))
    session.selection.set_model(Model(bundle, "cpu", "CPU", ("cpu",)))
    add_slide(viewer, write_svs(tmp_path / "slide.svs"))
    assert session.task.ask("whole") is None
    assert "made for slides" in session.status.message.text
    add_picture(viewer)
    assert session.task.ask("whole") is not None
