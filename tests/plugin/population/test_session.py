"""Pictures, evidence, classes and the map of all cells, without a window."""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt
import pytest
from napari.components import ViewerModel
from napari.layers import Image

from napari_sparseattn.images.fields.crops import cut_crops
from napari_sparseattn.plugin.core.lanes import AtOnce
from napari_sparseattn.plugin.core.sources import PlaneRef
from napari_sparseattn.plugin.population import requests
from napari_sparseattn.plugin.population.requests import Look, cut_picture
from napari_sparseattn.plugin.population.session import EVIDENCE_SIZE, PICTURE_SIZE, Population

from ..conftest import CENTRES, picture
from ..held import Held
from .conftest import lanes_of


class Lazy:
    """An array that keeps which windows are read."""

    def __init__(self, data: npt.NDArray[Any]) -> None:
        self.data, self.read = data, 0
        self.shape, self.dtype, self.ndim = data.shape, data.dtype, data.ndim

    def __getitem__(self, index: Any) -> npt.NDArray[Any]:
        found = self.data[index]
        self.read += found.size
        return found


# -- pictures


@pytest.mark.parametrize("centre", [(60.0, 80.0), (3.2, 5.7), (118.0, 179.0), (-4.0, 90.0)])
@pytest.mark.parametrize("side", [30.0, 61.5, 150.0])
def test_a_picture_of_a_window_is_that_of_the_whole_image(
    centre: tuple[float, float], side: float
) -> None:
    data = picture()
    look = Look(PlaneRef(data, (), True, ""), side, (0, 1), None)
    whole = cut_crops(data, [centre], side, 40)[0]
    np.testing.assert_allclose(cut_picture(look, centre, 40), 255 * whole, atol=0.6)


def test_a_picture_reads_no_more_than_its_window() -> None:
    lazy = Lazy(np.zeros((2, 3000, 4000), np.uint16))
    look = Look(PlaneRef(lazy, (1,), False, ""), 40.0, (0, 1), np.zeros((256, 3), np.uint8))
    for centre in ((1500.0, 2000.0), (0.0, 0.0), (2999.0, 3999.0)):
        cut_picture(look, centre, 80)
    assert 0 < lazy.read < 3 * 50**2


def test_one_channel_is_coloured_as_its_layer_is() -> None:
    data = np.linspace(1000, 3000, 100, dtype=np.uint16)[None].repeat(100, 0)
    layer = Image(data, contrast_limits=(1500, 2500), colormap="green")
    look = Look.of(layer, PlaneRef(data, (), False, ""), 100.0)
    shown = cut_picture(look, (49.5, 49.5), 100)
    assert not shown[..., [0, 2]].any()
    assert shown[50, 10, 1] == 0
    assert shown[50, 90, 1] == 255
    assert abs(int(shown[50, 50, 1]) - 128) < 6
    assert not look.same_as(Look.of(Image(data), PlaneRef(data, (), False, ""), 100.0))


def test_pictures_are_cut_once_and_are_few(
    population: Population, monkeypatch: pytest.MonkeyPatch
) -> None:
    came: list[int] = []
    population.pictures_arrived.connect(came.extend)
    population.ask_pictures([2, 0])
    assert came == [2, 0]
    found = population.picture(2)
    assert found is not None
    assert found.shape == (PICTURE_SIZE, PICTURE_SIZE, 3)
    # The nucleus is in the middle.
    np.testing.assert_allclose(found[38:42, 38:42].mean((0, 1)), (95, 60, 150), atol=6)
    population.ask_pictures([2, 0])
    assert came == [2, 0]
    monkeypatch.setattr("napari_sparseattn.plugin.population.session._MOST_PICTURES", 2)
    population.ask_pictures([1])
    # What was looked at last stays.
    assert population.picture(0) is None
    assert population.picture(2) is not None


def test_what_is_no_longer_seen_is_not_cut(population: Population) -> None:
    held = Held()
    lanes_of(population).runner = held
    population.ask_pictures([0, 1])
    population.ask_pictures([2])
    population.ask_pictures([3])
    # Stopped; and what waited behind it is forgotten.
    assert held.stopped == 2
    held.go()
    assert population.picture(3) is not None
    assert population.picture(2) is None


def test_pictures_of_other_contrast_or_results_are_dropped(
    population: Population, viewer: ViewerModel
) -> None:
    population.ask_pictures([0])
    assert population.picture(0) is not None
    population.session.selection.set_settings(viewer.layers["smear"], pixel_size=0.25)
    assert population.picture(0) is None


def test_evidence_darkens_what_was_not_looked_at(population: Population) -> None:
    came: list[int] = []
    population.evidence_arrived.connect(came.append)
    population.ask_evidence(1)
    assert came == [1]
    shown = population.evidence(1)
    assert shown is not None
    assert shown.shape == (EVIDENCE_SIZE, EVIDENCE_SIZE, 3)
    # As it is where a click has shown the pixels of the same cell.
    request = population.session.cells.click_cell(1)
    assert request is not None
    evidence = population.session.answer.evidence  # type: ignore[union-attr]
    size = evidence.frame.size
    bright = evidence.mask()[
        np.arange(EVIDENCE_SIZE)[:, None] * size // EVIDENCE_SIZE,
        np.arange(EVIDENCE_SIZE) * size // EVIDENCE_SIZE,
    ]
    look = population._look
    assert look is not None
    plain = cut_picture(look, population.session.cells.results.cells.centres[1], EVIDENCE_SIZE)
    np.testing.assert_array_equal(shown[bright], plain[bright])
    assert (shown[~bright] <= plain[~bright] // 4 + 1).all()


# -- classes


def test_a_cell_that_is_given_a_class_goes_by_it_until_it_is_undone(
    population: Population,
) -> None:
    shown = population.shown
    model_class = population.group_of(0)
    other = next(name for name in population.annotating.classes.names if name != model_class)
    before = {name: rows.tolist() for name, rows in population.groups().items()}
    population.give([0], other)
    assert shown.annotated == {0: other}
    assert population.group_of(0) == other
    assert 0 in population.groups()[other]
    annotations = population.annotating.files.annotations(population.session.selection.image)
    assert annotations is not None
    (kept,) = annotations
    assert (kept.label, kept.predicted, kept.origin) == (other, model_class, "corrected")
    np.testing.assert_allclose(kept.position, CENTRES[0], atol=1)
    population.annotating.files.undo()
    assert not shown.annotated
    assert {name: rows.tolist() for name, rows in population.groups().items()} == before


def test_many_are_given_a_class_in_one_step(population: Population) -> None:
    names = population.annotating.classes.names
    population.give([1], names[0])
    population.give([0, 1, 3], names[2])
    assert population.shown.annotated == {0: names[2], 1: names[2], 3: names[2]}
    annotations = population.annotating.files.annotations(population.session.selection.image)
    assert annotations is not None
    assert len(annotations) == 3
    population.annotating.files.undo()
    assert population.shown.annotated == {1: names[0]}
    population.annotating.files.redo()
    population.annotating.targets.remove_rows([0, 3])
    assert population.shown.annotated == {1: names[2]}
    population.annotating.files.undo()
    assert len(population.shown.annotated) == 3


def test_the_key_of_a_class_is_about_what_is_picked(population: Population) -> None:
    names = population.annotating.classes.names
    population.shown.pick((1, 2))
    assert population.press_key("2")
    assert population.shown.annotated == {1: names[1], 2: names[1]}
    assert population.press_key("Ctrl+Z")
    assert not population.shown.annotated
    # Of several that are picked, also where the key is pressed elsewhere in the window.
    population.annotating.give(names[0])
    assert population.shown.annotated == {1: names[0], 2: names[0]}


def test_groups_follow_filter_and_order(population: Population) -> None:
    shown = population.shown
    shown.sort("confidence", descending=True)
    results = shown.results
    assert results is not None
    for rows in population.groups().values():
        assert (np.diff(results.confidence[rows]) <= 0).all()
    assert sum(len(rows) for rows in population.groups().values()) == 4
    shown.set_filter(among=frozenset({2}))
    assert {name: rows.tolist() for name, rows in population.groups().items() if len(rows)} == {
        population.group_of(2): [2]
    }
    assert set(population.annotating.classes.names) <= set(population.groups())


# -- the map


def test_the_map_is_made_once_and_kept(
    population: Population, monkeypatch: pytest.MonkeyPatch
) -> None:
    maps = population.maps
    asked: list[str] = []
    make = requests.make_map
    monkeypatch.setattr(maps.lane, "_work", lambda request: asked.append("") or make(request))
    maps.ask()
    assert maps.found is not None
    assert maps.found.places.shape == (4, 2)
    assert np.isfinite(maps.found.places).all()
    maps.ask()
    assert len(asked) == 1
    population.session.cells.classify_all()
    maps.ask()
    assert len(asked) == 2


def test_a_map_under_way_can_be_cancelled(population: Population) -> None:
    held, maps = Held(), population.maps
    lanes_of(population).runner = held
    maps.ask()
    assert maps.running
    maps.cancel()
    assert not maps.running
    lanes_of(population).runner = AtOnce()
    held.go()
    assert maps.found is None
    assert maps.message == "Cancelled."
    maps.ask()
    assert maps.found is not None


def test_results_without_states_say_what_to_do(population: Population) -> None:
    import dataclasses

    session = population.session
    record = session.selection.record
    assert record.results is not None
    bare = dataclasses.replace(
        record.results.predictions, states=None, probabilities=np.array(
            record.results.predictions.probabilities
        ),
    )  # fmt: skip
    record.results = dataclasses.replace(record.results, predictions=bare)
    session.cells.results_changed.emit(bare)
    population.maps.ask()
    assert "Classify all cells again" in population.maps.message
