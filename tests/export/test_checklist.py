"""The checklist for publishing: what is known is filled in, and what is not is marked."""

from __future__ import annotations

import dataclasses
import re

import pytest

from napari_sparseattn.bundle import find_bundles, read_card
from napari_sparseattn.card import Training
from napari_sparseattn.export.checklist import CHECKLIST, fill_checklist, open_items
from napari_sparseattn.export.request import Export

from . import results as made
from .conftest import KINDS, Write


def by_title(export: Export) -> dict[str, tuple[str, str]]:
    return {item.title: (item.known, item.left) for item in fill_checklist(export)}


@pytest.mark.parametrize("kind", KINDS)
def test_what_is_known_is_filled_in(kind: str) -> None:
    make, image, card = KINDS[kind]
    export = Export(make(), image(), card())
    items = by_title(export)
    assert "napari-sparseattn" in items["the program"][0]
    assert card().model_kind.paper[0] in items["the original method"][0]
    assert str(card().crop.size) in items["the key settings"][0]
    assert export.first.model_hash in items["access to the model"][0]
    # Nobody but the author knows these.
    for title in ("specimen and microscope", "example data", "what was drawn by hand"):
        assert items[title][0] == ""
        assert items[title][1]
    levels = {item.level for item in fill_checklist(export)}
    assert levels == {"minimal", "recommended", "ideal"}


def test_what_the_card_does_not_say_is_left_open() -> None:
    card = made.cell_card().model_copy(update={"training": Training(data="")})
    items = by_title(Export(made.cells(), made.field(), card))
    assert items["training and test data"][0] == ""
    assert "trained and tested on" in items["training and test data"][1]
    told = Training(data="made-up cells", n_train=9, n_test=3, recipe="scripts/train.py")
    items = by_title(Export(made.cells(), made.field(), card.model_copy(update={"training": told})))
    assert "made-up cells" in items["training and test data"][0]
    assert items["training and test data"][1] == ""
    assert items["the code of the training"] == ("scripts/train.py", "")


def test_a_model_of_the_program_can_be_had_and_another_is_to_be_deposited() -> None:
    cells = made.cells()
    assert (
        "deposit"
        in by_title(Export(cells, made.field(), made.cell_card()))["access to the model"][1]
    )
    shipped = read_card(find_bundles()["blood-cells"]).tensors_sha256
    ours = dataclasses.replace(cells, model_hash=shipped)
    known, left = by_title(Export(ours, made.field(), made.cell_card()))["access to the model"]
    assert "part of the program" in known
    assert left == ""


def test_the_most_wanted_is_named_first() -> None:
    export = Export(made.cells(), made.field(), made.cell_card())
    left = open_items(export)
    assert left.index("cite the program, and say which other programs were used") < left.index(
        "give a container, or a list of all packages with their versions"
    )


@pytest.mark.parametrize("kind", KINDS)
def test_report_and_methods_have_it(kind: str, write: Write) -> None:
    make, image, card = KINDS[kind]
    export = Export(make(), image(), card())
    page = write(kind, "html").read_text(encoding="utf-8")
    rows = re.findall(r"<tr(?: class=\"open\")?><td>(?:analysis|image): ", page)
    assert len(rows) == len(fill_checklist(export))
    assert page.count("☐") == len(open_items(export))
    assert "10.1038/s41592-023-01987-9" in page
    methods = write(kind, "methods").read_text(encoding="utf-8")
    assert CHECKLIST in methods
    for each in open_items(export):
        assert f"- {each}" in methods
