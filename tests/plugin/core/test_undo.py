"""Whatever was done last is taken back first: annotations, what-ifs, classes, removed layers."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from napari.components import ViewerModel
from napari.layers import Image

from napari_sparseattn.images.holograms.settings import HologramSettings
from napari_sparseattn.plugin.annotate.session import Annotating
from napari_sparseattn.plugin.core.sources import is_own
from napari_sparseattn.plugin.core.undo import Steps, Undo
from napari_sparseattn.plugin.evidence.what_if_session import WhatIfSession
from napari_sparseattn.plugin.holograms.session import Holograms
from napari_sparseattn.plugin.session import Session

from ..conftest import CENTRES, add_labels, add_picture
from ..made_holograms import add_hologram


@pytest.fixture
def image(session: Session, viewer: ViewerModel, at_once: None) -> Image:
    """A picture whose first cell was clicked."""
    made = add_picture(viewer)
    add_labels(session, viewer)
    session.selection.set_image(made)
    session.cells.click(made.data_to_world(CENTRES[0]))
    return made


@pytest.fixture
def annotating(
    image: Image, viewer: ViewerModel, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> Iterator[Annotating]:
    monkeypatch.setenv("NAPARI_SPARSEATTN_ANNOTATIONS", str(tmp_path / "project"))
    made = Annotating.of(viewer)
    made.attach()
    yield made
    made.detach()


def names(viewer: ViewerModel) -> list[str]:
    return [layer.name for layer in viewer.layers]


# -- steps


def test_steps_are_turned_back_and_forth() -> None:
    said: list[str] = []
    value = [0]
    steps = Steps(said.append, most=2)

    def to(number: int) -> bool:
        value[0] = number
        return number < 9

    for number in (1, 2, 3):
        steps.did(f"to {number}", lambda n=number - 1: to(n), lambda n=number: to(n))
    value[0] = 3
    assert steps.undo()
    assert steps.undo()
    assert not steps.undo()  # only so many are kept
    assert value == [1]
    assert steps.redo()
    assert value == [2]
    assert said == ["Undone: to 3.", "Undone: to 2.", "Done again: to 2."]
    steps.did("to 7", lambda: to(9), lambda: to(7))
    assert steps.undone_at is None
    # What is not possible any more is said, and forgotten.
    assert not steps.undo()
    assert said[-1] == "Too late to undo: to 7."
    assert steps.undone_at is None
    steps.forget()
    assert steps.done_at is None


# -- layers


def test_a_layer_that_was_removed_comes_back_in_its_place(
    image: Image, session: Session, viewer: ViewerModel
) -> None:
    undo = Undo.of(viewer)
    mine = [layer for layer in viewer.layers if is_own(layer)]
    before = names(viewer)
    assert not undo.undo()
    for layer in mine:
        viewer.layers.remove(layer)
    for _ in mine:
        assert undo.undo()
    assert names(viewer) == before
    assert [layer for layer in viewer.layers if is_own(layer)] == mine
    assert session.status.message.text == f"Undone: removal of the layer '{mine[0].name}'."
    # It is the program's again: the next click moves it.
    session.cells.click(image.data_to_world(CENTRES[1]))
    assert names(viewer) == before
    assert undo.redo()
    assert mine[0] not in viewer.layers
    # A new one has come in its place by then.
    session.cells.click(image.data_to_world(CENTRES[2]))
    undo.undo()
    assert len(names(viewer)) == len(before)
    assert "Too late" in session.status.message.text


def test_what_the_program_removes_or_the_user_owns_is_not_ours(
    image: Image, session: Session, viewer: ViewerModel
) -> None:
    undo = Undo.of(viewer)
    own = viewer.add_points([[1, 2]], name="theirs")
    viewer.layers.remove(own)
    viewer.layers.remove(image)
    assert not undo.undo()


def test_overlays_of_an_image_that_is_gone_stay_away(
    image: Image, session: Session, viewer: ViewerModel
) -> None:
    undo = Undo.of(viewer)
    viewer.layers.remove(next(layer for layer in viewer.layers if is_own(layer)))
    viewer.layers.remove(image)
    before = names(viewer)
    undo.undo()
    assert names(viewer) == before


def test_a_reconstruction_comes_back_with_its_cells(
    session: Session, viewer: ViewerModel, panel: Holograms
) -> None:
    add_hologram(viewer)
    panel.set_settings(HologramSettings(wavelength=633.0, pixel_size=0.2))
    panel.work.reconstruct()
    layer = panel.result
    assert layer is not None
    viewer.layers.remove(layer)
    assert panel.result is None
    assert Undo.of(viewer).undo()
    assert panel.result is layer


# -- together


def test_an_annotation(annotating: Annotating, viewer: ViewerModel) -> None:
    undo = Undo.of(viewer)
    annotating.targets.annotate_cell(tuple(CENTRES[0]), "round")
    annotating.targets.annotate_cell(tuple(CENTRES[1]), "lobed")
    annotating.press_key("Ctrl+Z")
    assert annotating.files.counts_here["lobed"] == 0
    annotating.press_key("Ctrl+Y")
    assert annotating.files.counts_here["lobed"] == 1
    assert undo.undo()
    assert undo.undo()
    assert sum(annotating.files.counts_here.values()) == 0


def test_changes_of_the_list_of_classes(annotating: Annotating, viewer: ViewerModel) -> None:
    undo, classes = Undo.of(viewer), annotating.classes
    before = classes.names
    classes.add("blast")
    classes.recolour("blast", "#123456")
    annotating.targets.annotate_cell(tuple(CENTRES[0]), "blast")
    annotating.rename_class("blast", "giant")
    assert annotating.files.counts_here["giant"] == 1
    n_done = annotating.files.chosen.annotations.n_done

    assert undo.undo()  # the name
    assert "giant" not in classes.names
    assert annotating.files.counts_here["blast"] == 1
    # By taking its change back, and not by one more.
    assert annotating.files.chosen.annotations.n_done == n_done - 1
    assert undo.undo()  # the annotation
    assert sum(annotating.files.counts_here.values()) == 0
    colour = classes.colours["blast"]
    assert undo.undo()  # the colour
    assert classes.colours["blast"] != colour
    assert undo.undo()  # the class
    assert classes.names == before
    assert undo.redo()
    assert undo.redo()
    assert classes.colours["blast"] == colour
    annotating.remove_class("blast")
    assert "blast" not in classes.names
    assert undo.undo()
    assert classes.colours["blast"] == colour


def test_what_if_answers(image: Image, session: Session, viewer: ViewerModel) -> None:
    what_ifs = WhatIfSession.of(viewer)
    what_ifs.attach()
    undo = Undo.of(viewer)
    shapes = what_ifs.layers.outlines(image, (), make=True)
    square = np.array([(25.0, 35), (25, 45), (35, 45), (35, 35)])
    shapes.add_polygons([square])
    what_ifs.ask("remove")
    assert len(what_ifs.entries) == 1
    assert undo.undo()
    assert not what_ifs.entries
    assert undo.redo()
    assert len(what_ifs.entries) == 1
    what_ifs.detach()


def test_the_last_is_taken_back_first_whatever_it_is(
    annotating: Annotating, image: Image, viewer: ViewerModel, session: Session
) -> None:
    undo = Undo.of(viewer)
    annotating.targets.annotate_cell(tuple(CENTRES[0]), "round")
    layer: Any = next(x for x in viewer.layers if x.name == "[smear] clicked cell")
    viewer.layers.remove(layer)
    annotating.classes.add("blast")
    assert undo.undo()
    assert "blast" not in annotating.classes.names
    assert layer not in viewer.layers
    assert undo.undo()
    assert layer in viewer.layers
    assert annotating.files.counts_here["round"] == 1
    assert undo.undo()
    assert annotating.files.counts_here["round"] == 0
    for _ in range(3):
        assert undo.redo()
    assert annotating.files.counts_here["round"] == 1
    assert layer not in viewer.layers
    assert "blast" in annotating.classes.names
