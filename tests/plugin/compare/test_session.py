"""A second model beside the one in use: asked, shown in layers, side by side."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
from napari.components import ViewerModel

from napari_sparseattn.bundle import read_card, save_bundle
from napari_sparseattn.inference.cells import classify_cells
from napari_sparseattn.inference.compare import change_setting, compare_cells
from napari_sparseattn.inference.fields import classify_field
from napari_sparseattn.plugin.compare.requests import stream_comparison
from napari_sparseattn.plugin.compare.session import Compare
from napari_sparseattn.plugin.core.lanes import Lanes
from napari_sparseattn.plugin.core.models import Model
from napari_sparseattn.plugin.core.sources import field_of
from napari_sparseattn.plugin.session import Session
from small_model import small_bundle

from ..conftest import CENTRES, add_labels, add_picture
from ..held import Held


@pytest.fixture
def held(session: Session, viewer: ViewerModel) -> Held:
    """Keep what is asked here until a test lets it go; the session answers at once."""
    runner = Lanes.of(viewer).runner = Held(stream_comparison)
    return runner


@pytest.fixture
def other(model_file: Path) -> Iterator[Path]:
    """A second small model, with other weights, among the user's models."""
    path = model_file.parent / "other.safetensors"
    save_bundle(small_bundle(seed=4, name="other"), path)
    yield path
    path.unlink()


@pytest.fixture
def compare(session: Session, viewer: ViewerModel, other: Path, at_once: None) -> Iterator[Compare]:
    """The picture, and two models to choose from; work is done at once."""
    session.models.cards.update(
        {"other": read_card(other), "small": session.selection.model.bundle.card}
    )
    compare = Compare.of(viewer)
    compare.attach()
    add_picture(viewer)
    add_labels(session, viewer)
    session.selection.set_settings(session.selection.image, modality="brightfield")
    yield compare
    compare.detach()


def click(session: Session, cell: int) -> None:
    session.cells.click(session.selection.image.data_to_world(CENTRES[cell]))


def test_it_says_what_to_do_first(compare: Compare, session: Session) -> None:
    assert compare.compare() is None
    assert "Click a cell" in compare.message
    assert compare.compare_all() is None
    assert "Classify all" in compare.message
    click(session, 0)
    assert compare.compare() is None
    assert "nothing would differ" in compare.message
    # Not the one in use, by whatever name.
    assert compare.names == ["other"]


def test_both_answers_are_those_of_each_model_alone(
    compare: Compare, session: Session, viewer: ViewerModel
) -> None:
    click(session, 2)
    compare.choose("other")
    request = compare.compare()
    assert not compare.working
    field = field_of(request.source.asked.plane, session.selection.settings)
    cells = request.source.cells
    index = cells.nearest(CENTRES[2])
    expected = classify_cells(
        field, cells, small_bundle(seed=4, name="other"), "cpu", only=[index]
    )[0]
    found = compare.one
    np.testing.assert_allclose(found.probabilities[0][0], session.answer.probabilities)
    np.testing.assert_allclose(found.probabilities[1][0], expected.probabilities, atol=1e-6)
    kept = [e.mask() for e in (session.answer.evidence, expected.evidence)]
    assert found.overlap[0] == pytest.approx((kept[0] & kept[1]).sum() / (kept[0] | kept[1]).sum())
    layer = compare.layers.layer(session.selection.image, "compared selection")
    np.testing.assert_array_equal(np.isfinite(layer.data), expected.evidence.mask())
    assert layer.name == "[smear] other"
    origin = session.selection.image.data_to_world(expected.evidence.frame.origin)
    np.testing.assert_allclose(layer.data_to_world((0, 0)), origin)
    # The model in use, and its overlays, are as they were.
    assert session.selection.model.bundle.card.name == "small"
    assert "[smear] selected pixels" in viewer.layers
    # The next cell does not load it anew.
    assert compare.second.model.bundle.card.name == "other"


def test_another_k_of_the_same_model(compare: Compare, session: Session) -> None:
    click(session, 1)
    compare.set_number(19)
    assert compare.most == 256
    compare.compare()
    # The best 19 of its 38.
    assert compare.one.overlap[0] == pytest.approx(0.5)
    assert compare.title == "small, 19 pixels"
    assert compare.second.model is None
    layer = compare.layers.layer(session.selection.image, "compared selection")
    assert np.isfinite(layer.data).sum() == 19
    compare.set_number(76)
    assert compare.one is None
    assert compare.layers.layer(session.selection.image, "compared selection") is None
    compare.compare()
    assert compare.one.overlap[0] == pytest.approx(0.5)


def test_all_cells_and_where_they_differ(compare: Compare, session: Session) -> None:
    session.cells.classify_all()
    compare.choose("other")
    compare.compare_all()
    found, results = compare.every, session.cells.results
    assert found.labels[0] == results.labels
    field = field_of(session.cells.result_plane, session.selection.settings)
    second = small_bundle(seed=4, name="other")
    expected = compare_cells(
        field, results.cells, session.selection.model.bundle, second, device="cpu"
    )
    np.testing.assert_allclose(found.overlap, expected.overlap)
    alone = classify_cells(field, results.cells, second, "cpu").labels
    assert found.agreement == np.mean(np.array(results.labels) == np.array(alone))
    # A cell that is clicked takes nothing away, nor do more columns.
    session.cells.click_cell(0)
    session.cells.add_measures(session.selection.image, results, {"size": np.ones(len(results))})
    assert compare.every is found
    session.selection.set_model(None)
    assert compare.every is None


def test_answers_to_what_is_no_longer_shown_are_dropped(
    compare: Compare, session: Session, held: Held
) -> None:
    click(session, 0)
    compare.choose("other")
    late = compare.compare()
    held.work()
    click(session, 1)
    assert late.stop.is_set()
    assert not compare.working
    held.go()
    assert compare.one is None
    cancelled = compare.compare()
    ((values, _),) = held.kept
    compare.cancel()
    assert cancelled.stop.is_set()
    assert [given for given in values if not isinstance(given, tuple)] == []
    assert "Stopped" in compare.message
    compare.compare()
    held.go()
    assert compare.one is not None
    compare.compare()
    held.work()
    compare.choose("")
    held.go()
    assert compare.one is None


def test_a_model_that_is_gone_is_an_error_in_words(
    compare: Compare, session: Session, other: Path
) -> None:
    click(session, 0)
    compare.choose("other")
    other.write_bytes(b"damaged")
    compare.compare()
    assert "other" in compare.message
    assert not compare.working


def test_nothing_is_left_beside_another_image(
    compare: Compare, session: Session, viewer: ViewerModel
) -> None:
    session.cells.classify_all()
    click(session, 0)
    compare.choose("other")
    compare.compare()
    compare.compare_all()
    assert compare.one is not None
    assert compare.every is not None
    first = session.selection.image
    compare._notify("about the first")
    add_picture(viewer, name="second")
    assert session.selection.image is not first
    assert (compare.one, compare.every, compare.message) == (None, None, "")
    assert compare.layers.layer(first, "compared selection") is None


def group_of(viewer: ViewerModel, name: str) -> tuple[int, int]:
    return viewer.canvas.grid.position(viewer.layers.index(name), viewer.layers)


def test_side_by_side_and_back(compare: Compare, session: Session, viewer: ViewerModel) -> None:
    click(session, 2)
    compare.choose("other")
    compare.compare()
    image, names = session.selection.image, [layer.name for layer in viewer.layers]
    grid = viewer.canvas.grid
    grid.stride, grid.shape = 3, (-1, 4)
    camera = viewer.scene.camera
    seen = camera.zoom, camera.center
    compare.set_side_by_side(True)
    assert grid.enabled
    assert grid.actual_shape(viewer.layers) == (1, 2)
    twin = viewer.layers["smear · second model"]
    assert twin.data is image.data
    np.testing.assert_allclose(twin.data_to_world((7, 9)), image.data_to_world((7, 9)))
    left = {"smear", "my cells", "[smear] selected pixels", "[smear] clicked cell"}
    assert {group_of(viewer, name) for name in left} == {(0, 0)}
    right = {"smear · second model", "[smear] other"}
    assert {group_of(viewer, name) for name in right} == {(0, 1)}
    # A layer of the user's that comes later goes to the left.
    viewer.add_points([(30, 40)], name="mine")
    assert group_of(viewer, "mine") == (0, 0)
    assert {group_of(viewer, name) for name in right} == {(0, 1)}
    # Neither is the second picture one to classify.
    assert session.selection.images() == [image]
    compare.set_side_by_side(False)
    assert (grid.enabled, grid.stride, grid.shape) == (False, 3, (-1, 4))
    assert sorted(layer.name for layer in viewer.layers) == sorted([*names, "mine"])
    assert session.selection.image is image
    assert (camera.zoom, camera.center) == seen


def test_side_by_side_follows_clicks_and_ends_with_the_grid(
    compare: Compare, session: Session, viewer: ViewerModel
) -> None:
    click(session, 0)
    compare.choose("other")
    compare.compare()
    compare.set_side_by_side(True)
    before = compare.one
    click(session, 1)
    assert compare.one is not before is not None
    assert group_of(viewer, "[smear] other") == (0, 1)
    viewer.canvas.grid.enabled = False
    assert not compare.side_by_side
    assert "smear · second model" not in viewer.layers
    compare.set_side_by_side(True)
    viewer.layers.remove("smear · second model")
    assert not compare.side_by_side
    assert not viewer.canvas.grid.enabled
    compare.set_side_by_side(True)
    viewer.layers.remove(session.selection.image)
    assert not compare.side_by_side
    assert "smear · second model" not in viewer.layers


def test_the_last_dock_puts_everything_back(
    compare: Compare, session: Session, viewer: ViewerModel
) -> None:
    click(session, 0)
    compare.choose("other")
    compare.compare()
    compare.set_side_by_side(True)
    compare.detach()
    assert not viewer.canvas.grid.enabled
    assert {"smear · second model", "[smear] other"}.isdisjoint(x.name for x in viewer.layers)
    compare.attach()


def test_a_field_with_another_number_of_crops(
    session: Session, viewer: ViewerModel, tnet_model: Model, at_once: None
) -> None:
    compare = Compare.of(viewer)
    compare.attach()
    session.selection.set_model(tnet_model)
    image = add_picture(viewer)
    session.selection.set_settings(image, modality="brightfield")
    session.task.ask("whole")
    assert compare.kind == "tnet"
    compare.set_number(1)
    request = compare.compare()
    field = field_of(request.source.asked.plane, session.selection.settings)
    usual = len(session.answer.evidence.level)
    taken = tnet_model.bundle.model().config.locations_for(180)
    expected = classify_field(field, tnet_model.bundle, (1, *taken[1:]), "cpu")
    np.testing.assert_allclose(compare.one.probabilities[1][0], expected.probabilities, atol=1e-6)
    layer = compare.layers.layer(image, "compared selection")
    assert len(layer.data) == len(expected.traversal) - 1 < usual - 1
    compare.detach()


def test_cells_by_a_tnet_with_another_number_of_crops(
    session: Session, viewer: ViewerModel, tnet_model: Model, at_once: None
) -> None:
    compare = Compare.of(viewer)
    compare.attach()
    session.selection.set_model(tnet_model)
    add_picture(viewer)
    add_labels(session, viewer)
    session.cells.classify_all()
    compare.set_number(1)
    compare.compare_all()
    field = field_of(session.cells.result_plane, session.selection.settings)
    fewer = change_setting(tnet_model.bundle, locations=(1, 1))
    expected = classify_cells(field, session.cells.results.cells, fewer, "cpu")
    np.testing.assert_allclose(compare.every.probabilities[1], expected.probabilities, atol=1e-6)
    compare.detach()
