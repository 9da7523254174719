"""A SPAN in a viewer without a window: tissue, slides, patches, what is kept and dropped."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
from napari.components import ViewerModel

from napari_sparseattn.card import ExplanationSpec
from napari_sparseattn.images.tissue.mask import Tissue
from napari_sparseattn.inference.explanations import explain_slide
from napari_sparseattn.plugin.core.models import Model, prepare_model
from napari_sparseattn.plugin.core.sources import METADATA_KEY, is_own
from napari_sparseattn.plugin.core.status import StageDone
from napari_sparseattn.plugin.session import Session
from napari_sparseattn.plugin.slides import pyramid_maps
from napari_sparseattn.plugin.slides.pyramid_maps import EXPLANATION, FOCI, LOCAL, PyramidChoice
from napari_sparseattn.plugin.slides.requests import (
    LocalRequest,
    SlideAnswer,
    answer_local,
    outline_tissue,
    stream_explanation,
    stream_slide,
)
from napari_sparseattn.process.options import ProcessOptions
from napari_sparseattn.process.process import process_image
from small_model import small_bundle

from ..conftest import add_picture
from ..made_slides import (
    PATCH,
    TISSUE,
    add_slide,
    keep_features_in,
    span_model,
    tissue_pixels,
    tissue_slide,
)


@pytest.fixture
def asked(session: Session, span: Model, kept: Path, monkeypatch: pytest.MonkeyPatch) -> Session:
    """A session with a SPAN, whose questions nobody answers."""
    keep_features_in(monkeypatch, kept)
    session.worker.hold()
    session.selection.set_model(span)
    return session


@pytest.fixture
def slides(asked: Session) -> Iterator[Session]:
    """A session with a SPAN; its work is done at once."""
    asked.worker.go()
    yield asked
    asked.selection.set_model(None)


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
    slides.status.message_changed.connect(lambda message: said.append(message.text))
    slides.slides.stages_changed.connect(
        lambda told: stages.append(None if told is None else tuple(x.name for x in told))
    )
    assert slides.slides.classify() is not None
    assert sorted(roles(viewer)) == sorted([*MAPS, "tissue"])
    assert stages[-2:] == [("tissue", "features", "attention"), None]
    assert "Finding the tissue…" in said
    assert not slides.status.running
    attention = slides.slides.attention
    boxes = np.array([attention.patch_box(i) for i in range(len(attention))])
    middles = boxes[:, :2] + boxes[:, 2:] / 2
    # Those half covered by tissue are taken.
    np.testing.assert_allclose(boxes[:, 2], PATCH)
    assert (np.hypot(*(middles - TISSUE[:2]).T) < TISSUE[2] + PATCH).all()
    assert len(attention) == pytest.approx(np.pi * TISSUE[2] ** 2 / PATCH**2, rel=0.15)
    assert f"{len(attention)} patches" in slides.status.message.text
    assert slides.answer.probabilities.sum() == pytest.approx(1)
    shares = dict(slides.slides.level_shares(1))
    assert list(shares) == ["0 · 192 µm", "1 · 384 µm", "2 · 768 µm", "rest"]
    logits = np.log(slides.answer.probabilities)
    assert sum(shares.values()) == pytest.approx(logits[1] - logits.mean(), abs=1e-4)
    assert image is slides.selection.image


def test_a_second_run_takes_the_features_that_were_kept(
    slides: Session, viewer: ViewerModel, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    keep_features_in(monkeypatch, tmp_path)
    add_slide(viewer)
    slides.slides.classify()
    first = slides.answer
    assert "kept" not in slides.status.message.text
    assert list(tmp_path.rglob("*.h5"))
    slides.slides.classify()
    np.testing.assert_array_equal(slides.answer.probabilities, first.probabilities)
    assert (
        f"{len(slides.slides.attention)} were kept from an earlier run"
        in slides.status.message.text
    )


def test_the_class_is_found_in_the_tissue_that_the_user_has_drawn(
    slides: Session, viewer: ViewerModel
) -> None:
    image = add_slide(viewer)
    assert slides.slides.find_tissue() is not None
    assert slides.answer is None
    assert "of the slide is tissue" in slides.status.message.text
    assert slides.slides.tissue.share == pytest.approx(np.pi * TISSUE[2] ** 2 / 1536**2, rel=0.1)
    found = slides.slides.maps.layer(image, "tissue")
    square = np.array([(400.0, 500), (400, 884), (784, 884), (784, 500)])
    found.data = [(square - 0.5, "polygon")]
    slides.slides.classify()
    boxes = np.array(
        [slides.slides.attention.patch_box(i) for i in range(len(slides.slides.attention))]
    )
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
    slides.slides.find_tissue()
    slides.slides.classify()
    assert slides.worker.slides[-1].tissue is slides.slides.tissue
    assert slides.worker.slides[-1].outlines is None
    slides.slides.classify()
    assert "kept from an earlier run" in slides.status.message.text


@pytest.mark.slow
def test_outlines_have_few_enough_corners_to_be_drawn() -> None:
    """Of a ragged disc; what is left still lies along its edge."""
    rng = np.random.default_rng(0)
    rows, columns = np.indices((700, 700))
    edge = 300 + 12 * rng.random((700, 700))
    mask = np.hypot(rows - 350, columns - 350) < edge
    nothing = np.zeros_like(mask)
    tissue = Tissue(mask, 16.0, (11_200, 11_200), nothing, nothing, nothing)
    assert sum(map(len, tissue.polygons())) > 2000
    outlines = outline_tissue(tissue)
    assert sum(map(len, outlines)) <= 2000
    largest = outlines[0] / 16 - 350
    np.testing.assert_allclose(np.hypot(*largest.T), 306, atol=14)


def test_finding_tissue_again_keeps_what_the_user_has_edited(
    slides: Session, viewer: ViewerModel
) -> None:
    image = add_slide(viewer)
    slides.slides.find_tissue()
    first = slides.slides.maps.layer(image, "tissue")
    slides.slides.find_tissue()
    assert slides.slides.maps.layer(image, "tissue") is first
    first.add_rectangles([[10, 10], [300, 300]])
    slides.slides.find_tissue()
    found = slides.slides.maps.layer(image, "tissue")
    assert found is not first
    assert first in viewer.layers
    assert first.name == "[s] tissue, as edited"
    first.visible = True
    assert len(first.data) == len(found.data) + 1
    slides.slides.classify()
    assert slides.worker.slides[-1].tissue is not None


def test_an_empty_layer_of_tissue_is_asked_about(slides: Session, viewer: ViewerModel) -> None:
    image = add_slide(viewer)
    slides.slides.find_tissue()
    slides.slides.maps.layer(image, "tissue").data = []
    assert slides.slides.classify() is None
    assert "Draw an outline" in slides.status.message.text


def test_without_a_pixel_size_the_result_is_marked(slides: Session, viewer: ViewerModel) -> None:
    image = add_slide(viewer, pixel_size=None)
    slides.slides.classify()
    assert slides.answer.scale_known is False
    assert "µm per pixel" in slides.status.message.text
    assert slides.status.message.level == "warning"
    assert slides.slides.side_of(1) == "384 px"
    slides.selection.set_settings(image, pixel_size=0.5, origin="user")
    slides.slides.classify()
    assert slides.answer.scale_known
    # 192 µm are twice as many pixels now.
    assert slides.slides.attention.side == pytest.approx(2 * PATCH)


def test_a_pixel_size_that_changes_meanwhile_is_no_answer(
    asked: Session, viewer: ViewerModel
) -> None:
    image = add_slide(viewer)
    answer = answered(asked.slides.classify())
    asked.selection.set_settings(image, pixel_size=2.0, origin="user")
    asked.slides.accept(answer.request, answer)
    assert asked.answer is None
    assert "classify it again" in asked.status.message.text


def test_a_stale_slide_is_dropped(asked: Session, viewer: ViewerModel) -> None:
    add_slide(viewer)
    old = asked.slides.classify()
    assert asked.slides.classify() is None, "one at a time"
    asked.status.cancel()
    assert old.stop.is_set()
    new = asked.slides.classify()
    asked.slides.accept(new, answered(new))
    first = asked.answer
    old.stop.clear()
    asked.slides.accept(old, answered(old))
    assert asked.answer is first


def test_cancel_says_what_is_kept(asked: Session, viewer: ViewerModel) -> None:
    add_slide(viewer)
    request = asked.slides.classify()
    asked.slides.accept(request, (StageDone("tissue", 1, 1), StageDone("features", 40, 100)))
    assert asked.status.message.text.startswith("Making features")
    asked.status.cancel()
    assert not asked.status.running
    assert "features of 40 of 100 patches are kept" in asked.status.message.text
    assert not [told for told in stream_slide(request) if isinstance(told, SlideAnswer)]


def test_removing_the_slide_stops_the_work(asked: Session, viewer: ViewerModel) -> None:
    image = add_slide(viewer)
    request = asked.slides.classify()
    viewer.layers.remove(image)
    assert request.stop.is_set()
    assert asked.status.message.text == "'s' was removed."


def test_work_that_fails_is_a_message(asked: Session, viewer: ViewerModel) -> None:
    add_slide(viewer)
    request = asked.slides.classify()
    asked.slides.fail(request, OSError("the disk is gone"))
    assert (asked.status.message.text, asked.status.message.level) == ("the disk is gone", "error")
    assert not asked.status.running
    asked.status.notify("")
    asked.slides.fail(request, OSError("again"))
    assert asked.status.message.text == ""


def test_a_slide_without_tissue_says_what_to_do(slides: Session, viewer: ViewerModel) -> None:
    viewer.add_image(np.full((600, 600, 3), 240, np.uint8), rgb=True, name="glass")
    slides.task.ask("whole")
    assert "No tissue" in slides.status.message.text
    assert slides.status.message.level == "error"


def test_a_field_in_memory_is_a_slide_if_it_is_large_enough(
    slides: Session, viewer: ViewerModel
) -> None:
    small = add_picture(viewer, scale=(3, 3))
    assert slides.slides.classify() is not None
    viewer.layers.remove(small)
    add_picture(viewer)
    assert slides.slides.classify() is None
    assert "Open a slide" in slides.status.message.text
    viewer.add_image(
        tissue_pixels()[:800, :800], rgb=True, scale=(1, 1), units=("um", "um"), name="field"
    )
    slides.task.ask("whole")
    assert slides.slides.attention is not None
    assert sorted(roles(viewer)) == sorted([*MAPS, "tissue"])


def test_clicking_a_patch_picks_it_out_and_asks_where_it_looked(
    slides: Session, viewer: ViewerModel
) -> None:
    image = add_slide(viewer)
    slides.press((500.0, 500.0))
    assert "Classify slide" in slides.status.message.text
    slides.slides.classify()
    attention = slides.slides.attention
    top, left, side = attention.patch_box(7)
    world = image.data_to_world((top + side / 2 - 0.5, left + side / 2 - 0.5))
    slides.press(world)
    assert slides.slides.patch == 7
    assert roles(viewer)[-2:] == [LOCAL, pyramid_maps.PATCH]
    # What is left went to the corners of the lattice.
    assert (slides.slides.local.weights.sum(axis=1) <= 1 + 1e-5).all()
    assert (slides.slides.local.weights.sum(axis=1) > 0.8).all()
    assert 1 <= len(slides.slides.local.indices) <= 63
    assert "Patch 8" in slides.status.message.text
    assert slides.slides.patch_facts()[0].startswith("<b>Patch 8</b>, rank ")
    assert len(slides.slides.patch_facts()) == 5
    # Again, or where there is no patch: none is picked out.
    slides.press(world)
    assert slides.slides.patch is None
    assert not {pyramid_maps.PATCH, LOCAL} & set(roles(viewer))
    slides.press((5.0, 5.0))
    assert "No patch" in slides.status.message.text


def test_an_answer_about_another_patch_is_dropped(
    slides: Session, viewer: ViewerModel, monkeypatch: pytest.MonkeyPatch
) -> None:
    add_slide(viewer)
    slides.slides.classify()
    requests: list[LocalRequest] = []
    monkeypatch.setattr(slides.slides._locals, "ask", requests.append)
    slides.slides.select_patch(3)
    slides.slides.select_patch(4)
    slides.slides._accept_local(requests[0], answer_local(requests[0]))
    assert slides.slides.local is None
    slides.slides._accept_local(requests[1], answer_local(requests[1]))
    assert slides.slides.local.patch == 4


def test_going_to_a_patch(slides: Session, viewer: ViewerModel) -> None:
    image = add_slide(viewer)
    slides.slides.classify()
    patch = int(slides.slides.attention.rank_patches()[0])
    slides.slides.go_to_patch(patch)
    top, left, side = slides.slides.attention.patch_box(patch)
    middle = image.data_to_world((top + side / 2 - 0.5, left + side / 2 - 0.5))
    np.testing.assert_allclose(viewer.scene.camera.center[-2:], middle)
    assert slides.slides.patch == patch


def test_pictures_are_the_slides_own_pixels(slides: Session, viewer: ViewerModel) -> None:
    add_slide(viewer)
    slides.slides.classify()
    arrived: list[int] = []
    slides.slides.picture_arrived.connect(arrived.append)
    slides.slides.ask_pictures([5, 9])
    assert arrived == [5, 9]
    top, left, side = (round(v) for v in slides.slides.attention.patch_box(9))
    expected = tissue_pixels()[top : top + side, left : left + side]
    np.testing.assert_array_equal(slides.slides.pictures[9], expected)
    slides.slides.ask_pictures([9, 5, 6])
    assert arrived == [5, 9, 6]


def test_kind_and_head_are_kept_from_slide_to_slide(slides: Session, viewer: ViewerModel) -> None:
    image = add_slide(viewer)
    slides.slides.set_pyramid_choice(PyramidChoice(kind="log", levels=frozenset({1})))
    slides.slides.classify()
    layer = slides.slides.maps.layer(image, "level 1")
    assert layer.visible
    np.testing.assert_array_equal(layer.data, slides.slides.attention.grid(1, "log"))
    assert not slides.slides.maps.layer(image, "level 0").visible
    slides.slides.maps.layer(image, "level 0").visible = True
    assert slides.slides.pyramid_choice.levels == {0, 1}


def test_another_slide_and_back(slides: Session, viewer: ViewerModel) -> None:
    first = add_slide(viewer)
    slides.slides.classify()
    answer = slides.answer
    second = add_slide(viewer, name="t")
    slides.selection.set_image(second)
    assert slides.answer is None
    assert slides.slides.attention is None
    assert "level 0" in roles(viewer)
    slides.selection.set_image(first)
    assert slides.answer is answer


def test_another_model_takes_the_maps_away_but_not_the_tissue(
    slides: Session, viewer: ViewerModel, model: Model, span: Model
) -> None:
    image = add_slide(viewer)
    slides.slides.classify()
    slides.selection.set_model(model)
    assert roles(viewer) == ["tissue"]
    assert slides.slides.attention is None
    # The answers of the model that has gone are not shown again.
    slides.selection.set_model(span)
    slides.selection.set_image(None)
    slides.selection.set_image(image)
    assert slides.answer is None


def test_a_unet_gives_a_probability_per_patch(slides: Session, viewer: ViewerModel) -> None:
    image = add_slide(viewer)
    slides.selection.set_model(span_model(segments=True))
    slides.slides.classify()
    layer = slides.slides.maps.layer(image, "probability")
    assert layer.visible
    assert not slides.slides.maps.layer(image, "level 0").visible
    assert np.isfinite(layer.data).sum() == len(slides.slides.attention)
    assert slides.slides.level_shares(1) == []
    slides.slides.select_patch(0)
    assert slides.slides.patch_facts()[4].startswith("tumour: ")


def test_a_span_is_for_slides_and_not_for_cells(
    session: Session, viewer: ViewerModel, span: Model
) -> None:
    cells = small_bundle().card.model_copy(update={"modality": "brightfield"})
    session.models.cards = {"cells": cells, "slides": span.bundle.card}
    add_picture(viewer)
    assert session.parts.fitting == ["cells", "slides"]
    session.selection.set_image(add_slide(viewer))
    assert session.parts.fitting == ["slides", "cells"]
    session.selection.set_model(span)
    assert session.cells.classify_all() is None
    assert "choose another model" in session.status.message.text
    assert session.cells.click((10.0, 10.0)) is None


def test_a_model_file_is_loaded_without_classifying_cells(tmp_path: Path, span: Model) -> None:
    from napari_sparseattn.bundle import save_bundle

    save_bundle(span.bundle, tmp_path / "span.safetensors")
    assert prepare_model(str(tmp_path / "span.safetensors"), "cpu").bundle.card.takes_slides


def test_what_was_measured_best_is_shown_first_and_attention_stays_a_choice(
    asked: Session, viewer: ViewerModel
) -> None:
    asked.worker.go()
    best = ExplanationSpec(
        best="gradient", n=3, gains={"gradient": (0.3, 0.2, 0.4), "attention": (0.1, 0.0, 0.2)}
    )
    asked.selection.set_model(span_model(explanation=best))
    image = add_slide(viewer)
    asked.selection.set_image(image)
    task = asked.slides
    assert task.method == "gradient"
    task.ask("whole")
    shown = task.slide.prediction
    expected = explain_slide(shown, asked.selection.model.bundle, "gradient", task.shown_class)
    np.testing.assert_allclose(task.explanation, expected, atol=1e-6)
    layer = task.maps.layer(image, EXPLANATION)
    assert layer.visible
    assert not task.maps.layer(image, "level 0").visible
    low, high = layer.contrast_limits
    assert low == -high
    drawn = layer.data[np.isfinite(layer.data)]
    assert len(drawn) == len(expected)
    # Of the other class it is the opposite, as there are two.
    task.set_shown_class(1 - task.shown_class)
    np.testing.assert_allclose(task.explanation, -expected, atol=1e-5)
    task.set_method("attention")
    assert task.explanation is None
    assert task.maps.layer(image, EXPLANATION) is None
    assert task.maps.layer(image, "level 0").visible
    asked.selection.set_model(None)


def test_the_mask_of_the_tissue_is_measured_and_follows_its_threshold(
    asked: Session, viewer: ViewerModel
) -> None:
    asked.worker.go()
    asked.selection.set_model(span_model(segments=True))
    image = add_slide(viewer)
    asked.selection.set_image(image)
    task = asked.slides
    task.ask("whole")
    chances = task.attention.patch_probabilities
    task.set_foci(float(np.median(chances)), 1)
    found = int((chances >= np.float32(np.median(chances))).sum())
    assert int(task.foci.patches.sum()) == found
    # Patches of 192 µm.
    assert task.foci.area_mm2 == pytest.approx(found * 0.192**2)
    assert "mm²" in task.foci_sentence()
    layer = task.maps.layer(image, FOCI)
    assert int((layer.data > 0).sum()) == found
    # The command line, which asks the same of the same slide, says the same.
    options = ProcessOptions(threshold=task.threshold, least_patches=1, device="cpu")
    bundle = asked.selection.model.bundle
    with process_image(tissue_slide(), bundle, options, tissue=task.tissue) as result:
        assert result.summary()["foci"] == task.foci.to_dict()
    task.set_foci(1.0, 1)
    assert not layer.data.any()
    asked.selection.set_model(None)


def test_of_a_model_that_segments_tissue_a_focus_or_a_patch_is_explained(
    asked: Session, viewer: ViewerModel
) -> None:
    asked.worker.go()
    asked.selection.set_model(span_model(segments=True))
    image = add_slide(viewer)
    asked.selection.set_image(image)
    task = asked.slides
    task.ask("whole")
    bundle, shown = asked.selection.model.bundle, task.slide.prediction
    # Nothing was measured: what the model says of each patch is shown, and no explanation.
    assert task.method == "attention"
    assert task.explanation is None
    steps: list[StageDone | None] = []
    task.explaining_changed.connect(steps.append)
    task.set_method("gradient")
    np.testing.assert_allclose(
        task.explanation, explain_slide(shown, bundle, "gradient"), atol=1e-5
    )
    assert (steps[-1].done, steps[-1].total) == (1, 1)
    assert task.maps.layer(image, EXPLANATION).name.endswith("what speaks for tumour")
    task.set_region("patch")
    assert task.explanation is None
    assert task.region_advice().startswith("Click a patch")
    task.select_patch(3)
    assert not task.region_advice()
    expected = explain_slide(shown, bundle, "gradient", region=[3])
    np.testing.assert_allclose(task.explanation, expected, atol=1e-5)
    assert task.maps.layer(image, EXPLANATION).name.endswith("tumour in patch 4")
    chances = task.attention.patch_probabilities
    task.set_region("focus")
    task.set_foci(float(chances.min()), 1)
    # All are one focus.
    whole = explain_slide(shown, bundle, "gradient")
    np.testing.assert_allclose(task.explanation, whole, atol=1e-5)
    task.set_foci(1.0, 1)
    assert task.explanation is None
    assert "in no focus" in task.region_advice()
    asked.selection.set_model(None)


def test_an_explanation_can_be_cancelled_and_attention_is_shown(
    asked: Session, viewer: ViewerModel
) -> None:
    asked.worker.go()
    image = add_slide(viewer)
    asked.selection.set_image(image)
    task = asked.slides
    task.ask("whole")
    asked.worker.hold()
    task.set_method("perturbation")
    assert task.explaining
    request = task._explanation_asked
    task.cancel_explanation()
    assert request.stop.is_set()
    assert not task.explaining
    assert task.method == "attention"
    assert task.maps.layer(image, "level 0").visible
    assert "cancelled" in asked.status.message.text
    # What was asked for gives no answer, however late it is.
    assert not [given for given in stream_explanation(request) if hasattr(given, "values")]
    asked.worker.go()
    assert task.explanation is None
    asked.selection.set_model(None)
