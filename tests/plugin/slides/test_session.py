"""A SPAN in a viewer without a window: tissue, slides, patches, what is kept and dropped."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
from napari.components import ViewerModel

from napari_sparseattn.images.tissue.mask import Tissue
from napari_sparseattn.plugin.cells.requests import Model, prepare_model
from napari_sparseattn.plugin.core.session import Session
from napari_sparseattn.plugin.core.sources import METADATA_KEY, is_own
from napari_sparseattn.plugin.slides import pyramid_maps
from napari_sparseattn.plugin.slides.pyramid_maps import LOCAL, PyramidChoice
from napari_sparseattn.plugin.slides.requests import (
    SlideAnswer,
    StageDone,
    drawn_outlines,
    stream_slide,
)
from small_model import small_bundle

from ..conftest import add_picture
from ..made_slides import (
    PATCH,
    TISSUE,
    SlidesAtOnce,
    add_slide,
    keep_features_in,
    span_model,
    tissue_pixels,
)


@pytest.fixture
def asked(session: Session, span: Model, kept: Path, monkeypatch: pytest.MonkeyPatch) -> Session:
    """A session with a SPAN, whose questions nobody answers."""
    keep_features_in(monkeypatch, kept)
    session.set_model(span)
    return session


@pytest.fixture
def slides(asked: Session) -> Iterator[Session]:
    """A session with a SPAN; its work is done at once."""
    asked.at_once = SlidesAtOnce(asked)  # kept alive: psygnal holds its methods weakly
    yield asked
    asked.set_model(None)


def roles(viewer: ViewerModel) -> list[str]:
    return [x.metadata[METADATA_KEY]["overlay"] for x in viewer.layers if is_own(x)]


def answered(request: object) -> SlideAnswer:
    (answer,) = [given for given in stream_slide(request) if isinstance(given, SlideAnswer)]
    return answer


MAPS = ["level 2", "level 1", "level 0"]


def test_a_slide_gets_its_class_its_maps_and_its_tissue(
    slides: Session, viewer: ViewerModel
) -> None:
    image = add_slide(viewer)
    stages: list[tuple[str, ...] | None] = []
    said: list[str] = []
    slides.message_changed.connect(lambda message: said.append(message.text))
    slides.stages_changed.connect(
        lambda told: stages.append(None if told is None else tuple(x.name for x in told))
    )
    assert slides.classify_slide() is not None
    assert sorted(roles(viewer)) == sorted([*MAPS, "tissue"])
    assert stages[-2:] == [("tissue", "features", "attention"), None]
    assert "Finding the tissue…" in said
    assert not slides.running
    attention = slides.attention
    boxes = np.array([attention.patch_box(i) for i in range(len(attention))])
    middles = boxes[:, :2] + boxes[:, 2:] / 2
    # Those half covered by tissue are taken.
    np.testing.assert_allclose(boxes[:, 2], PATCH)
    assert (np.hypot(*(middles - TISSUE[:2]).T) < TISSUE[2] + PATCH).all()
    assert len(attention) == pytest.approx(np.pi * TISSUE[2] ** 2 / PATCH**2, rel=0.15)
    assert f"{len(attention)} patches" in slides.message.text
    assert slides.answer.probabilities.sum() == pytest.approx(1)
    shares = dict(slides.level_shares(1))
    assert list(shares) == ["0 · 192 µm", "1 · 384 µm", "2 · 768 µm", "rest"]
    logits = np.log(slides.answer.probabilities)
    assert sum(shares.values()) == pytest.approx(logits[1] - logits.mean(), abs=1e-4)
    assert image is slides.image


def test_a_second_run_takes_the_features_that_were_kept(
    slides: Session, viewer: ViewerModel, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    keep_features_in(monkeypatch, tmp_path)
    add_slide(viewer)
    slides.classify_slide()
    first = slides.answer
    assert "kept" not in slides.message.text
    assert list(tmp_path.rglob("*.h5"))
    slides.classify_slide()
    np.testing.assert_array_equal(slides.answer.probabilities, first.probabilities)
    assert f"{len(slides.attention)} were kept from an earlier run" in slides.message.text


def test_the_class_is_found_in_the_tissue_that_the_user_has_drawn(
    slides: Session, viewer: ViewerModel
) -> None:
    image = add_slide(viewer)
    assert slides.find_tissue() is not None
    assert slides.answer is None
    assert "of the slide is tissue" in slides.message.text
    assert slides.tissue.share == pytest.approx(np.pi * TISSUE[2] ** 2 / 1536**2, rel=0.1)
    found = slides.maps.layer(image, "tissue")
    square = np.array([(400.0, 500), (400, 884), (784, 884), (784, 500)])
    found.data = [(square - 0.5, "polygon")]
    slides.classify_slide()
    boxes = np.array([slides.attention.patch_box(i) for i in range(len(slides.attention))])
    middles = boxes[:, :2] + PATCH / 2
    assert (middles > (390, 490)).all()
    assert (middles < (794, 894)).all()
    assert 1 <= len(boxes) <= 9
    # It is still the user's, as it was.
    np.testing.assert_allclose(np.asarray(found.data[0]), square - 0.5)


def test_tissue_that_was_found_and_left_alone_keeps_its_features(
    slides: Session, viewer: ViewerModel
) -> None:
    add_slide(viewer)
    slides.find_tissue()
    slides.classify_slide()
    assert slides.at_once.slides[-1].tissue is slides.tissue
    assert slides.at_once.slides[-1].outlines is None
    slides.classify_slide()
    assert "kept from an earlier run" in slides.message.text


def test_outlines_have_few_enough_corners_to_be_drawn() -> None:
    """Of a ragged disc; what is left still lies along its edge."""
    rng = np.random.default_rng(0)
    rows, columns = np.indices((700, 700))
    edge = 300 + 12 * rng.random((700, 700))
    mask = np.hypot(rows - 350, columns - 350) < edge
    nothing = np.zeros_like(mask)
    tissue = Tissue(mask, 16.0, (11_200, 11_200), nothing, nothing, nothing)
    assert sum(map(len, tissue.polygons())) > 2000
    outlines = drawn_outlines(tissue)
    assert sum(map(len, outlines)) <= 2000
    largest = outlines[0] / 16 - 350
    np.testing.assert_allclose(np.hypot(*largest.T), 306, atol=14)


def test_finding_tissue_again_keeps_what_the_user_has_edited(
    slides: Session, viewer: ViewerModel
) -> None:
    image = add_slide(viewer)
    slides.find_tissue()
    first = slides.maps.layer(image, "tissue")
    slides.find_tissue()
    assert slides.maps.layer(image, "tissue") is first
    first.add_rectangles([[10, 10], [300, 300]])
    slides.find_tissue()
    found = slides.maps.layer(image, "tissue")
    assert found is not first
    assert first in viewer.layers
    assert first.name == "[s] tissue, as edited"
    first.visible = True
    assert len(first.data) == len(found.data) + 1
    slides.classify_slide()
    assert slides.at_once.slides[-1].tissue is not None


def test_an_empty_layer_of_tissue_is_asked_about(slides: Session, viewer: ViewerModel) -> None:
    image = add_slide(viewer)
    slides.find_tissue()
    slides.maps.layer(image, "tissue").data = []
    assert slides.classify_slide() is None
    assert "Draw an outline" in slides.message.text


def test_without_a_pixel_size_the_result_is_marked(slides: Session, viewer: ViewerModel) -> None:
    image = add_slide(viewer, pixel_size=None)
    slides.classify_slide()
    assert slides.answer.scale_known is False
    assert "µm per pixel" in slides.message.text
    assert slides.message.level == "warning"
    assert slides.side_of(1) == "384 px"
    slides.set_settings(image, pixel_size=0.5, origin="user")
    slides.classify_slide()
    assert slides.answer.scale_known
    # 192 µm are twice as many pixels now.
    assert slides.attention.side == pytest.approx(2 * PATCH)


def test_a_pixel_size_that_changes_meanwhile_is_no_answer(
    asked: Session, viewer: ViewerModel
) -> None:
    image = add_slide(viewer)
    answer = answered(asked.classify_slide())
    asked.set_settings(image, pixel_size=2.0, origin="user")
    asked.accept_slide(answer)
    assert asked.answer is None
    assert "Classify the slide again" in asked.message.text


def test_a_stale_slide_is_dropped(asked: Session, viewer: ViewerModel) -> None:
    add_slide(viewer)
    old = asked.classify_slide()
    assert asked.classify_slide() is None, "one at a time"
    asked.cancel_run()
    assert old.stop.is_set()
    new = asked.classify_slide()
    asked.accept_slide(answered(new))
    first = asked.answer
    old.stop.clear()
    asked.accept_slide(answered(old))
    assert asked.answer is first


def test_cancel_says_what_is_kept(asked: Session, viewer: ViewerModel) -> None:
    add_slide(viewer)
    request = asked.classify_slide()
    asked.accept_stages(request, (StageDone("tissue", 1, 1), StageDone("features", 40, 100)))
    assert asked.message.text.startswith("Making features")
    asked.cancel_run()
    assert not asked.running
    assert "features of 40 of 100 patches are kept" in asked.message.text
    assert not [told for told in stream_slide(request) if isinstance(told, SlideAnswer)]


def test_removing_the_slide_stops_the_work(asked: Session, viewer: ViewerModel) -> None:
    image = add_slide(viewer)
    request = asked.classify_slide()
    viewer.layers.remove(image)
    assert request.stop.is_set()
    assert asked.message.text == "'s' was removed."


def test_work_that_fails_is_a_message(asked: Session, viewer: ViewerModel) -> None:
    add_slide(viewer)
    request = asked.classify_slide()
    asked.fail(request, OSError("the disk is gone"))
    assert (asked.message.text, asked.message.level) == ("the disk is gone", "error")
    assert not asked.running
    asked.say("")
    asked.fail(request, OSError("again"))
    assert asked.message.text == ""


def test_a_slide_without_tissue_says_what_to_do(slides: Session, viewer: ViewerModel) -> None:
    viewer.add_image(np.full((600, 600, 3), 240, np.uint8), rgb=True, name="glass")
    slides.classify_field()
    assert "No tissue" in slides.message.text
    assert slides.message.level == "error"


def test_a_field_in_memory_is_a_slide_if_it_is_large_enough(
    slides: Session, viewer: ViewerModel
) -> None:
    small = add_picture(viewer, scale=(3, 3))
    assert slides.classify_slide() is not None
    viewer.layers.remove(small)
    add_picture(viewer)
    assert slides.classify_slide() is None
    assert "Open a slide" in slides.message.text
    viewer.add_image(
        tissue_pixels()[:800, :800], rgb=True, scale=(1, 1), units=("um", "um"), name="field"
    )
    slides.classify_field()
    assert slides.attention is not None
    assert sorted(roles(viewer)) == sorted([*MAPS, "tissue"])


def test_clicking_a_patch_picks_it_out_and_asks_where_it_looked(
    slides: Session, viewer: ViewerModel
) -> None:
    image = add_slide(viewer)
    slides.pressed((500.0, 500.0))
    assert "Classify slide" in slides.message.text
    slides.classify_slide()
    attention = slides.attention
    top, left, side = attention.patch_box(7)
    world = image.data_to_world((top + side / 2 - 0.5, left + side / 2 - 0.5))
    slides.pressed(world)
    assert slides.patch == 7
    assert roles(viewer)[-2:] == [LOCAL, pyramid_maps.PATCH]
    # What is left went to the corners of the lattice.
    assert (slides.local.weights.sum(axis=1) <= 1 + 1e-5).all()
    assert (slides.local.weights.sum(axis=1) > 0.8).all()
    assert 1 <= len(slides.local.indices) <= 63
    assert "Patch 8" in slides.message.text
    assert slides.patch_facts()[0].startswith("<b>Patch 8</b>, rank ")
    assert len(slides.patch_facts()) == 5
    # Again, or where there is no patch: none is picked out.
    slides.pressed(world)
    assert slides.patch is None
    assert not {pyramid_maps.PATCH, LOCAL} & set(roles(viewer))
    slides.pressed((5.0, 5.0))
    assert "No patch" in slides.message.text


def test_an_answer_about_another_patch_is_dropped(
    slides: Session, asked: Session, viewer: ViewerModel
) -> None:
    add_slide(viewer)
    slides.classify_slide()
    slides.local_requested.disconnect(slides.at_once.local)
    requests: list[object] = []
    slides.local_requested.connect(requests.append)
    slides.select_patch(3)
    slides.select_patch(4)
    worker = slides.at_once
    worker.local(requests[0])
    assert slides.local is None
    worker.local(requests[1])
    assert slides.local.patch == 4


def test_going_to_a_patch(slides: Session, viewer: ViewerModel) -> None:
    image = add_slide(viewer)
    slides.classify_slide()
    patch = int(slides.attention.rank_patches()[0])
    slides.go_to_patch(patch)
    top, left, side = slides.attention.patch_box(patch)
    middle = image.data_to_world((top + side / 2 - 0.5, left + side / 2 - 0.5))
    np.testing.assert_allclose(viewer.scene.camera.center[-2:], middle)
    assert slides.patch == patch


def test_pictures_are_the_slides_own_pixels(slides: Session, viewer: ViewerModel) -> None:
    add_slide(viewer)
    slides.classify_slide()
    arrived: list[int] = []
    slides.picture_arrived.connect(arrived.append)
    slides.ask_pictures([5, 9])
    assert arrived == [5, 9]
    top, left, side = (round(v) for v in slides.attention.patch_box(9))
    expected = tissue_pixels()[top : top + side, left : left + side]
    np.testing.assert_array_equal(slides.pictures[9], expected)
    slides.ask_pictures([9, 5, 6])
    assert arrived == [5, 9, 6]


def test_kind_and_head_are_kept_from_slide_to_slide(slides: Session, viewer: ViewerModel) -> None:
    image = add_slide(viewer)
    slides.set_pyramid_choice(PyramidChoice(kind="log", levels=frozenset({1})))
    slides.classify_slide()
    layer = slides.maps.layer(image, "level 1")
    assert layer.visible
    np.testing.assert_array_equal(layer.data, slides.attention.grid(1, "log"))
    assert not slides.maps.layer(image, "level 0").visible
    slides.maps.layer(image, "level 0").visible = True
    assert slides.pyramid_choice.levels == {0, 1}


def test_another_slide_and_back(slides: Session, viewer: ViewerModel) -> None:
    first = add_slide(viewer)
    slides.classify_slide()
    answer = slides.answer
    second = add_slide(viewer, name="t")
    slides.set_image(second)
    assert slides.answer is None
    assert slides.attention is None
    assert "level 0" in roles(viewer)
    slides.set_image(first)
    assert slides.answer is answer


def test_another_model_takes_the_maps_away_but_not_the_tissue(
    slides: Session, viewer: ViewerModel, model: Model, span: Model
) -> None:
    image = add_slide(viewer)
    slides.classify_slide()
    slides.set_model(model)
    assert roles(viewer) == ["tissue"]
    assert slides.attention is None
    # The answers of the model that has gone are not shown again.
    slides.set_model(span)
    slides.set_image(None)
    slides.set_image(image)
    assert slides.answer is None


def test_a_unet_gives_a_probability_per_patch(slides: Session, viewer: ViewerModel) -> None:
    image = add_slide(viewer)
    slides.set_model(span_model(segments=True))
    slides.classify_slide()
    layer = slides.maps.layer(image, "probability")
    assert layer.visible
    assert not slides.maps.layer(image, "level 0").visible
    assert np.isfinite(layer.data).sum() == len(slides.attention)
    assert slides.level_shares(1) == []
    slides.select_patch(0)
    assert slides.patch_facts()[4].startswith("tumour: ")


def test_a_span_is_for_slides_and_not_for_cells(
    session: Session, viewer: ViewerModel, span: Model
) -> None:
    cells = small_bundle().card.model_copy(update={"modality": "brightfield"})
    session.cards = {"cells": cells, "slides": span.bundle.card}
    add_picture(viewer)
    assert session.fitting_models() == ["cells", "slides"]
    session.set_image(add_slide(viewer))
    assert session.fitting_models() == ["slides", "cells"]
    session.set_model(span)
    assert session.classify_all() is None
    assert "choose another model" in session.message.text
    assert session.click((10.0, 10.0)) is None


def test_a_model_file_is_loaded_without_classifying_cells(tmp_path: Path, span: Model) -> None:
    from napari_sparseattn.bundle import save_bundle

    save_bundle(span.bundle, tmp_path / "span.safetensors")
    assert prepare_model(str(tmp_path / "span.safetensors"), "cpu").bundle.card.takes_slides
