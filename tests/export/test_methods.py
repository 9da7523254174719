"""The methods paragraph says what the result, the image and the card say, and no more."""

from __future__ import annotations

import dataclasses
import importlib.metadata

import numpy as np
import pytest

from napari_sparseattn.card import NoveltySpec, Training
from napari_sparseattn.export.methods import describe_methods
from napari_sparseattn.export.request import Export

from . import results as made
from .conftest import KINDS, Write


@pytest.mark.parametrize("kind", KINDS)
def test_it_says_what_was_done_with_what(kind: str, write: Write) -> None:
    make, image, card = KINDS[kind]
    text = write(kind, "methods").read_text(encoding="utf-8")
    export = Export(make(), image(), card())
    assert text == describe_methods(export)
    paragraph, _, references = text.partition("\n\n")
    assert "\n" not in paragraph
    assert f"napari-sparseattn {importlib.metadata.version('napari-sparseattn')}" in paragraph
    assert f"torch {importlib.metadata.version('torch')}" in paragraph
    assert export.first.model_hash[:16] in paragraph
    assert f"'{card().name}'" in paragraph
    for name in card().shown_names:
        assert name.replace("_", " ") in paragraph
    height, width = export.shape
    assert f"{width} x {height} pixels" in paragraph
    kind_of = card().model_kind
    assert f"[1] {kind_of.paper[0]}" in references
    assert f"{kind_of.title} [1]" in paragraph


def test_figures_are_those_of_the_card() -> None:
    card = made.cell_card().model_copy(
        update={
            "training": Training(data="made-up cells", citation="Somebody 2020", n_test=40),
            "metrics": {"accuracy": 0.875, "accuracy_interval": [0.7, 0.95], "n": 40},
            "novelty": NoveltySpec(false_alarms=0.05, n=9, n_validation=9, kept=0, softening=1.5),
            "temperature": 1.7,
        }
    )
    cells = made.cells()
    novelty = np.full(len(cells), 0.5, np.float32)
    novelty[0] = 3.0
    text = describe_methods(Export(dataclasses.replace(cells, novelty=novelty), made.field(), card))
    assert "trained on made-up cells [2]. Of 40 that were held out, 87.5 % [70.0, 95.0]" in text
    assert "[2] Somebody 2020" in text
    assert f"1 of {len(cells)} cells are flagged" in text
    assert "what 95 % of held-out images reach" in text
    assert "the more unlike, the lower the probabilities" in text
    assert "simulated" not in text


def test_what_is_not_known_is_not_said() -> None:
    card = made.cell_card().model_copy(update={"training": Training(data=""), "metrics": {}})
    unscaled = dataclasses.replace(made.field(), pixel_size=None)
    cells = dataclasses.replace(made.cells(), scale_known=False)
    text = describe_methods(Export(cells, unscaled, card))
    assert "of unknown scale" in text
    assert "as estimated, the pixel size not being known" in text
    assert "held out" not in text
    assert "trained on" not in text.replace("those it was trained on was not measured", "")
    assert "[2]" not in text


def test_simulated_training_is_said() -> None:
    training = Training(data="drawn cells", simulated=True)
    card = made.cell_card().model_copy(update={"training": training})
    result = dataclasses.replace(made.cells(), class_names=card.shown_names)
    text = describe_methods(Export(result, made.field(), card))
    assert "trained on simulated images only: drawn cells." in text
