"""The session: requests, answers, choices; in a viewer without a window."""

from __future__ import annotations

import dataclasses
import gc
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from napari.components import ViewerModel

from napari_sparseattn.bundle import save_bundle
from napari_sparseattn.plugin.cells.requests import answer_click, stream_run
from napari_sparseattn.plugin.core.layers import OverlayChoice
from napari_sparseattn.plugin.core.models import Model, prepare_model
from napari_sparseattn.plugin.core.sources import is_own
from napari_sparseattn.plugin.session import Session
from small_model import small_bundle

from .conftest import CENTRES, add_labels, add_picture, label_image, picture


def world(layer: object, cell: int) -> tuple[float, ...]:
    return layer.data_to_world(CENTRES[cell])  # type: ignore[attr-defined]


def test_one_session_per_viewer_and_none_shared() -> None:
    first, second = ViewerModel(), ViewerModel()
    assert Session.of(first) is Session.of(first)
    assert Session.of(first) is not Session.of(second)


def test_a_session_does_not_keep_its_viewer_alive() -> None:
    viewer = ViewerModel()
    session = Session.of(viewer)
    del viewer
    gc.collect()
    assert session.viewer is None
    assert session not in Session._sessions.values()


def test_a_click_on_a_cell_gives_its_class_and_overlays(
    session: Session, viewer: ViewerModel
) -> None:
    image = add_picture(viewer)
    session.cells.click(world(image, 2))
    assert session.answer is not None
    assert session.answer.scale_known
    frame = session.answer.evidence.frame
    np.testing.assert_allclose((frame.row, frame.column), CENTRES[2], atol=1.5)
    # 8 µm at 0.5 µm per pixel.
    assert frame.side == pytest.approx(16)
    # The frame and the selected pixels; the attention map is made when it is first shown.
    assert sum(is_own(layer) for layer in viewer.layers) == 2


def test_a_click_agrees_with_classify_all_also_without_a_pixel_size(
    session: Session, viewer: ViewerModel
) -> None:
    # Cells of different sizes, so that the crop of one differs from that of all.
    image = add_picture(viewer, scale=(1, 1), units=None)
    labels = label_image()
    labels[labels == 1] = 0
    labels[28:33, 38:43] = 1
    session.selection.set_cell_layer(viewer.add_labels(labels))
    session.cells.classify_all()
    session.cells.click(world(image, 0))
    assert not session.answer.scale_known
    np.testing.assert_allclose(
        session.answer.probabilities, session.cells.results.probabilities[0], atol=1e-5
    )


def test_where_there_is_no_cell_it_says_so(session: Session, viewer: ViewerModel) -> None:
    image = add_picture(viewer)
    session.cells.click(image.data_to_world((5, 5)))
    assert session.answer is None
    assert "No cell was found here" in session.status.message.text


def test_shift_classifies_what_is_under_the_cursor_found_or_not(
    session: Session, viewer: ViewerModel
) -> None:
    image = add_picture(viewer)
    session.cells.click(world(image, 2))
    found = session.selection.record.cells
    for place in ((40.0, 10.0), (7.0, 25.0)):
        session.press_here(image.data_to_world(place))
        assert session.answer is not None
        frame = session.answer.evidence.frame
        np.testing.assert_allclose((frame.row, frame.column), place, atol=0.01)
    # Those are no cells of the image: what was found stays.
    assert session.selection.record.cells is found
    session.selection.set_clicking(False)
    before = session.answer
    session.press_here(image.data_to_world((60, 60)))
    assert session.answer is before


def test_shift_needs_a_scale_or_cells_that_say_how_large_one_is(
    session: Session, viewer: ViewerModel
) -> None:
    image = add_picture(viewer, scale=(1, 1), units=None)
    session.press_here(image.data_to_world((40, 10)))
    assert session.answer is None
    assert "Give the pixel size" in session.status.message.text


def test_how_cells_are_found_is_asked_for_and_kept_apart(
    session: Session, viewer: ViewerModel, monkeypatch: pytest.MonkeyPatch
) -> None:
    image = add_picture(viewer)
    session.cells.click(world(image, 0))
    known = session.selection.record.cells
    session.selection.set_cell_layer(None, "cellpose")
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    session.cells.click(world(image, 0))
    assert "pip install 'napari-sparseattn[cellpose]'" in session.status.message.text
    monkeypatch.setattr(
        "napari_sparseattn.images.fields.cells.label_learned",
        lambda name, plane, size: label_image().astype(np.int32),
    )
    session.cells.click(world(image, 1))
    request = session.worker.clicks[-1]
    assert request.source.method == "cellpose"
    assert session.selection.record.cells is not known
    assert session.answer is not None


def test_beside_the_image_it_says_so(session: Session, viewer: ViewerModel) -> None:
    image = add_picture(viewer)
    assert session.cells.click(image.data_to_world((-30, 5))) is None
    assert "Outside image 'smear'" in session.status.message.text


def test_without_an_image_it_says_what_to_do(session: Session) -> None:
    assert session.cells.click((0, 0)) is None
    assert session.cells.classify_all() is None
    assert "open an image" in session.status.message.text


def test_cells_are_found_once(session: Session, viewer: ViewerModel) -> None:
    image = add_picture(viewer)
    for cell in (0, 1, 2):
        session.cells.click(world(image, cell))
    kept = [request.cells for request in session.worker.clicks]
    assert kept[0] is None
    assert kept[1] is not None
    assert kept[1] is kept[2]


def test_new_pixels_have_their_cells_found_anew(session: Session, viewer: ViewerModel) -> None:
    image = add_picture(viewer)
    session.cells.click(world(image, 0))
    image.data = np.roll(picture(), 40, axis=1)
    session.cells.click(world(image, 0))
    assert session.worker.clicks[1].cells is None
    assert session.answer is None


def test_an_outdated_answer_is_dropped(session: Session, viewer: ViewerModel) -> None:
    image = add_picture(viewer)
    session.worker.hold()
    old = session.cells.click(world(image, 0))
    new = session.cells.click(world(image, 1))
    session.cells.accept(new, answer_click(new))
    session.cells.accept(old, answer_click(old))
    np.testing.assert_allclose(session.answer.evidence.frame.column, CENTRES[1][1], atol=1.5)


@pytest.mark.parametrize("change", ["image", "model", "size", "layer gone"])
def test_what_changes_meanwhile_makes_an_answer_outdated(
    session: Session, viewer: ViewerModel, model: Model, change: str
) -> None:
    image = add_picture(viewer)
    session.worker.hold()
    request = session.cells.click(world(image, 0))
    if change == "image":
        viewer.add_image(picture(), rgb=True, name="other")
    elif change == "model":
        session.selection.set_model(model)
    elif change == "size":
        session.selection.set_settings(image, pixel_size=0.3, origin="user")
    else:
        viewer.layers.remove(image)
    session.cells.accept(request, answer_click(request))
    assert session.answer is None
    assert not any(is_own(layer) for layer in viewer.layers)


def test_overlay_choice_survives_the_next_click(session: Session, viewer: ViewerModel) -> None:
    image = add_picture(viewer)
    session.cells.click(world(image, 0))
    session.selection.set_choice(OverlayChoice(pixels=False, attention=True))
    session.cells.click(world(image, 1))
    shown = {role: session.overlays.layer(image, role).visible for role in ("pixels", "attention")}
    assert shown == {"pixels": False, "attention": True}


def test_hiding_an_overlay_in_the_layer_list_is_a_choice_too(
    session: Session, viewer: ViewerModel
) -> None:
    image = add_picture(viewer)
    session.cells.click(world(image, 0))
    session.overlays.layer(image, "pixels").visible = False
    assert not session.selection.choice.pixels
    session.cells.click(world(image, 1))
    assert not session.overlays.layer(image, "pixels").visible


def test_classify_all_fills_the_table_and_shows_the_cells(
    session: Session, viewer: ViewerModel
) -> None:
    image = add_picture(viewer)
    session.cells.classify_all()
    assert len(session.cells.results) == 4
    assert not session.status.running
    cells = session.overlays.layer(image, "cells")
    found = np.array(sorted(map(tuple, cells.data)))
    np.testing.assert_allclose(found, np.array(sorted(map(tuple, CENTRES))), atol=1.5)
    assert cells.features["class"].tolist() == session.cells.results.labels
    colours = session.selection.model.bundle.card.colours
    expected = [colours[i] for i in session.cells.results.class_index]
    got = ["#" + "".join(f"{round(v * 255):02X}" for v in c[:3]) for c in cells.border_color]
    assert got == expected


def test_a_click_selects_the_row_and_a_row_moves_the_view(
    session: Session, viewer: ViewerModel
) -> None:
    image = add_picture(viewer)
    session.cells.click(world(image, 1))
    assert session.status.message.text == "Click another cell, or classify all of them."
    session.cells.classify_all()
    rows: list[int | None] = []
    session.cells.selected_changed.connect(rows.append)
    session.cells.click(world(image, 3))
    assert session.status.message.text == "Click another cell, or its row in the table."
    chosen = rows[-1]
    np.testing.assert_allclose(session.cells.results.cells.centres[chosen], CENTRES[3], atol=1.5)
    assert session.overlays.layer(image, "cells").selected_data == {chosen}
    session.cells.click_cell(0)
    assert rows[-1] == 0
    centre = session.cells.results.cells.centres[0]
    np.testing.assert_allclose(viewer.scene.camera.center[-2:], image.data_to_world(centre))


def test_cancelling_keeps_what_was_classified(session: Session, viewer: ViewerModel) -> None:
    image = add_picture(viewer)
    session.worker.hold()
    request = session.cells.classify_all()
    steps = stream_run(dataclasses.replace(request))
    found, part = next(steps), next(steps)
    session.cells.accept(request, found)
    half = dataclasses.replace(
        part,
        cells=part.cells.subset([0, 1]),
        probabilities=part.probabilities[:2],
        states=None if part.states is None else part.states[:2],
    )
    session.cells.accept(request, half)
    session.status.cancel()
    session.cells.accept(request, part)
    session.cells.finish(request)
    assert len(session.cells.results) == 2
    assert session.status.message.text.startswith("Cancelled: 2 of 4 cells")
    assert len(session.overlays.layer(image, "cells").data) == 2


def test_removing_the_image_stops_the_run_and_says_so(
    session: Session, viewer: ViewerModel
) -> None:
    image = add_picture(viewer)
    session.worker.hold()
    request = session.cells.classify_all()
    viewer.layers.remove(image)
    assert session.status.message.text == "'smear' was removed."
    session.cells.finish(request)
    assert not session.status.running
    assert session.cells.results is None


def test_labels_of_the_users_are_the_cells(session: Session, viewer: ViewerModel) -> None:
    add_picture(viewer)
    add_labels(session, viewer)
    session.cells.classify_all()
    np.testing.assert_allclose(session.cells.results.cells.centres, CENTRES, atol=1e-9)
    assert session.cells.results.cells.ids.tolist() == [1, 2, 3, 4]


def test_painting_labels_changes_the_cells(session: Session, viewer: ViewerModel) -> None:
    image = add_picture(viewer)
    add_labels(session, viewer)
    session.cells.click(world(image, 0))
    labels = session.selection.cell_layer
    labels.fill(tuple(CENTRES[0].astype(int)), 0)
    session.cells.click(world(image, 0))
    assert session.answer is None


def test_labels_of_another_size_are_refused_with_both_sizes(
    session: Session, viewer: ViewerModel
) -> None:
    add_picture(viewer)
    session.selection.set_cell_layer(viewer.add_labels(np.zeros((10, 12), dtype=int), name="small"))
    assert session.cells.classify_all() is None
    assert "10 × 12" in session.status.message.text
    assert "120 × 180" in session.status.message.text


def test_empty_labels_say_so(session: Session, viewer: ViewerModel) -> None:
    add_picture(viewer)
    session.selection.set_cell_layer(viewer.add_labels(np.zeros((120, 180), dtype=int)))
    session.cells.classify_all()
    assert "No cells were found in 'smear'" in session.status.message.text


def test_points_of_the_users_are_the_cells_wherever_their_layer_lies(
    session: Session, viewer: ViewerModel
) -> None:
    image = add_picture(viewer, rotate=20, translate=(5, 9))
    world_points = np.array([image.data_to_world(c) for c in CENTRES])
    # A layer of its own scale: 0.25 µm per point unit, sizes of 36 of them.
    points = viewer.add_points(world_points * 4, scale=(0.25, 0.25), units=("um", "um"), size=36)
    session.selection.set_cell_layer(points)
    session.cells.classify_all()
    np.testing.assert_allclose(session.cells.results.cells.centres, CENTRES, atol=1e-6)
    np.testing.assert_allclose(session.cells.results.cells.diameters, 18)


def test_labels_of_another_scale_lie_where_they_are_seen(
    session: Session, viewer: ViewerModel
) -> None:
    add_picture(viewer, translate=(3, 5))
    # Every pixel of the image is four of the labels', which begin 10 pixels further up and left.
    fine = np.pad(label_image(), 10).repeat(2, 0).repeat(2, 1)
    start = (3 - 5 - 0.125, 5 - 5 - 0.125)
    labels = viewer.add_labels(
        fine, name="fine", scale=(0.25, 0.25), units=("um", "um"), translate=start
    )
    session.selection.set_cell_layer(labels)
    session.cells.classify_all()
    np.testing.assert_allclose(session.cells.results.cells.centres, CENTRES, atol=1e-9)
    assert session.cells.results.cells.ids.tolist() == [1, 2, 3, 4]
    labels.translate = (4000, 4000)
    assert session.cells.classify_all() is None
    assert "has no labels on 'smear'" in session.status.message.text


def test_points_beside_the_image_are_named_and_the_others_classified(
    session: Session, viewer: ViewerModel
) -> None:
    add_picture(viewer, scale=(1, 1), units=None)
    rng = np.random.default_rng(0)
    many = rng.uniform((0, 0), (119, 179), (20_000, 2))
    beside = [3, 700, 19_999, 12, 13, 14, 15, 16]
    many[beside] = (-400, 50)
    session.selection.set_cell_layer(viewer.add_points(many, size=18))
    began = time.process_time()
    fields = session.selection.ask_fields(session.selection.image)
    assert time.process_time() - began < 0.2
    assert len(fields["source"].array) == 19_992
    session.selection.set_cell_layer(viewer.add_points([*CENTRES, (-400, 50)], size=18))
    session.cells.classify_all()
    assert session.cells.results.cells.ids.tolist() == [1, 2, 3, 4]
    assert "1 of 5 points lies outside" in session.status.message.text
    assert fields["source"].note.endswith("number 4, 13, 14, 15, 16, 17, 701, 20000.")


def test_a_grey_image_and_a_colour_model_is_a_clear_message(
    session: Session, viewer: ViewerModel
) -> None:
    viewer.add_image(picture()[..., 0].astype(float), name="grey")
    session.selection.set_cell_layer(viewer.add_points(CENTRES, size=18))
    assert "needs 3 channels" in session.advice.text
    session.cells.click(CENTRES[0])
    assert session.status.message.level == "warning"
    assert "needs 3 channels" in session.status.message.text
    assert "Say what the image shows" in session.status.message.text


def test_alpha_is_no_channel_to_a_model(session: Session, viewer: ViewerModel) -> None:
    opaque = np.full((*picture().shape[:2], 1), 255, np.uint8)
    viewer.add_image(np.concatenate([picture(), opaque], axis=2), rgb=True)
    assert session.advice.no_cells == ""


def test_another_modality_is_a_clear_message(session: Session, viewer: ViewerModel) -> None:
    image = add_picture(viewer)
    add_labels(session, viewer)
    session.selection.set_settings(image, modality="phase")
    session.cells.click(world(image, 0))
    assert "was trained on brightfield images" in session.status.message.text


def test_a_stack_uses_the_displayed_plane(session: Session, viewer: ViewerModel) -> None:
    stack = np.full((3, 120, 180, 3), 220, dtype=np.uint8)
    stack[1] = picture()
    image = viewer.add_image(
        stack, rgb=True, name="stack", scale=(2.0, 0.5, 0.5), units=("s", "um", "um")
    )
    session.selection.set_settings(image, pixel_size=0.5, origin="user")
    viewer.dims.set_point(0, 2.0)
    session.cells.click(image.data_to_world((1, *CENTRES[0])))
    assert session.answer is not None
    assert session.worker.clicks[-1].plane.index == (1,)
    viewer.dims.set_point(0, 0.0)
    session.cells.click(image.data_to_world((0, *CENTRES[0])))
    assert session.answer is None


def test_the_cells_of_a_plane_lie_in_it(session: Session, viewer: ViewerModel) -> None:
    stack = np.stack([picture()] * 3)
    image = viewer.add_image(
        stack, rgb=True, name="stack", scale=(2.0, 0.5, 0.5), units=("s", "um", "um")
    )
    session.selection.set_settings(image, pixel_size=0.5, origin="user")
    viewer.dims.set_point(0, 4.0)
    session.cells.classify_all()
    cells = session.overlays.layer(image, "cells")
    assert cells is not None
    assert len(cells.data) > 0
    world_of_cells = np.array([cells.data_to_world(place) for place in cells.data])
    np.testing.assert_allclose(world_of_cells[:, 0], 4.0)
    expected = np.array([image.data_to_world((2, *centre)) for centre in CENTRES])
    nearest = np.linalg.norm(world_of_cells[:, None] - expected[None], axis=-1).min(axis=1)
    assert nearest.max() < 2


def test_a_3d_view_is_refused_with_a_cure(session: Session, viewer: ViewerModel) -> None:
    image = add_picture(viewer)
    viewer.dims.ndisplay = 3
    assert session.cells.click(world(image, 0)) is None
    assert "Change to 2D" in session.status.message.text


def test_the_image_follows_the_active_layer_but_not_to_overlays(
    session: Session, viewer: ViewerModel
) -> None:
    first = add_picture(viewer)
    second = add_picture(viewer, name="second")
    assert session.selection.image is second
    viewer.layers.selection.active = first
    session.cells.click(world(first, 0))
    viewer.layers.selection.active = session.overlays.layer(first, "pixels")
    assert session.selection.image is first


def test_results_belong_to_their_image(session: Session, viewer: ViewerModel) -> None:
    first = add_picture(viewer)
    session.cells.classify_all()
    add_picture(viewer, name="second")
    assert session.cells.results is None
    viewer.layers.selection.active = first
    assert len(session.cells.results) == 4


def test_the_layers_scale_is_followed_until_the_user_says_otherwise(
    session: Session, viewer: ViewerModel
) -> None:
    image = viewer.add_image(picture(), rgb=True)
    assert session.selection.settings.pixel_size is None
    image.scale = (0.2, 0.2)
    image.units = ("um", "um")
    assert session.selection.settings.pixel_size == pytest.approx(0.2)
    session.selection.set_settings(image, pixel_size=0.31, origin="user")
    image.scale = (0.4, 0.4)
    assert session.selection.settings.pixel_size == 0.31


@pytest.mark.parametrize("size", [0.0, -1.0, float("nan"), float("inf")])
def test_an_impossible_pixel_size_is_refused(
    session: Session, viewer: ViewerModel, size: float
) -> None:
    image = add_picture(viewer)
    with pytest.raises(ValueError, match="positive"):
        session.selection.set_settings(image, pixel_size=size, origin="user")


def test_detaching_leaves_others_callbacks_and_nothing_of_ours(viewer: ViewerModel) -> None:
    def theirs(viewer: object, event: object) -> None: ...

    viewer.mouse_drag_callbacks.append(theirs)
    before = list(viewer.mouse_drag_callbacks)
    session = Session.of(viewer)
    session.attach()
    session.attach()
    assert len(viewer.mouse_drag_callbacks) == len(before) + 1
    session.detach()
    assert len(viewer.mouse_drag_callbacks) == len(before) + 1
    session.detach()
    session.detach()
    assert list(viewer.mouse_drag_callbacks) == before


@pytest.fixture
def grey_model(tmp_path: Path) -> Model:
    path = tmp_path / "grey.safetensors"
    save_bundle(small_bundle(1), path)
    return prepare_model(str(path), "cpu")


def with_holes(image: np.ndarray) -> np.ndarray:
    image = image.astype(np.float32)
    image[CENTRES[1][0].astype(int), :] = np.nan
    return image


@pytest.mark.parametrize(
    "change",
    [
        with_holes,
        lambda x: x.astype(np.uint16) * 257,
        lambda x: x.astype(np.float64),
        lambda x: x > 128,
        lambda x: np.full(x.shape, 7.0),
    ],
    ids=["nan", "uint16", "float64", "bool", "constant"],
)
def test_unusual_pixels_of_the_users_cells_are_classified(
    session: Session, viewer: ViewerModel, grey_model: Model, change: Callable
) -> None:
    session.selection.set_model(grey_model)
    image = viewer.add_image(
        change(picture()[..., 0]), name="grey", scale=(0.5, 0.5), units=("um", "um")
    )
    add_labels(session, viewer)
    session.cells.click(world(image, 1))
    assert session.status.message.level == "info"
    assert np.isfinite(session.answer.probabilities).all()


def test_alpha_is_left_out(session: Session, viewer: ViewerModel) -> None:
    opaque = np.full((120, 180, 1), 255, dtype=np.uint8)
    image = viewer.add_image(np.concatenate([picture(), opaque], axis=2), rgb=True)
    plain = add_picture(viewer)
    session.selection.set_image(image)
    session.selection.set_settings(image, pixel_size=0.5, origin="user")
    session.cells.click(image.data_to_world(CENTRES[0]))
    first = session.answer
    assert first is not None, session.status.message
    session.selection.set_image(plain)
    session.cells.click(world(plain, 0))
    np.testing.assert_allclose(first.probabilities, session.answer.probabilities, atol=1e-6)


def test_a_one_pixel_image_has_no_cells_and_says_so(session: Session, viewer: ViewerModel) -> None:
    viewer.add_image(np.zeros((1, 1, 3), dtype=np.uint8), rgb=True, name="dot")
    session.cells.classify_all()
    assert "No cells were found in 'dot'" in session.status.message.text


def test_a_hologram_is_to_be_reconstructed_first(session: Session, viewer: ViewerModel) -> None:
    image = viewer.add_image(np.zeros((40, 50)), name="holo")
    session.selection.set_settings(image, modality="hologram")
    assert "Reconstruct it first" in session.status.message.text
    assert session.advice.reconstruct
    assert session.cells.click((20, 20)) is None
    assert session.cells.classify_all() is None
    assert session.status.message.level == "warning"
    assert "'holo' is a hologram" in session.status.message.text


def test_the_advice_names_the_model_that_fits(session: Session, viewer: ViewerModel) -> None:
    opd = small_bundle(1, name="opd-simulated", modality="opd", unit="nm").card
    session.models.cards = {"small": session.selection.model.bundle.card, "opd-simulated": opd}
    image = viewer.add_image(np.zeros((40, 50)), name="map")
    session.selection.set_settings(image, modality="opd")
    assert "'map' shows OPD images" not in session.status.message.text
    assert "'map' shows OPD" in session.status.message.text
    assert "Choose opd-simulated under Model" in session.status.message.text
    assert not session.advice.reconstruct
    add_picture(viewer)
    assert session.status.message.text == "Click a cell in the image, or classify all of them."


def test_phase_can_become_what_an_opd_model_takes(
    session: Session, viewer: ViewerModel, tmp_path: Path
) -> None:
    path = tmp_path / "opd.safetensors"
    save_bundle(small_bundle(1, modality="opd", unit="nm"), path)
    session.selection.set_model(prepare_model(str(path), "cpu"))
    image = viewer.add_image(np.zeros((40, 50)), name="phase map")
    session.selection.set_settings(image, modality="phase")
    assert session.advice.reconstruct
    assert "Turn the phase into OPD" in session.status.message.text
