"""The badge on what is unlike anything the model knows."""

from __future__ import annotations

import numpy as np
import pytest

from napari_sparseattn.card import NoveltySpec
from napari_sparseattn.inference.fields import FieldPrediction
from napari_sparseattn.inference.prediction import Prediction, ReadingLedger
from napari_sparseattn.plugin.main.result_box import describe_flag

LEDGER = ReadingLedger(1, 1, 1, 0.1, "cpu")
CHANCES = np.array([0.9, 0.1], np.float32)


@pytest.mark.parametrize(
    ("kind", "on_slide", "what"),
    [
        (Prediction, True, "cells"),
        (FieldPrediction, False, "images"),
        (FieldPrediction, True, "slides"),
    ],
)
def test_it_names_what_the_model_knows(kind: type[Prediction], on_slide: bool, what: str) -> None:
    answer = kind(("a", "b"), CHANCES, None, LEDGER, "hash", novelty=2.04)
    assert answer.flagged
    text, tip = describe_flag(answer, on_slide)
    assert text == f"Unlike the {what} this model knows"
    assert "2.0 times" in tip


def test_it_says_what_it_looks_like_where_that_is_known() -> None:
    answer = Prediction(("a", "b"), CHANCES, None, LEDGER, "hash", novelty=1.4, none_of_these=True)
    text, tip = describe_flag(answer, False, "a red cell or background")
    assert text == "More like a red cell or background than any class"
    assert "perhaps not the right one" in tip
    assert describe_flag(answer, False)[0] == "Unlike the cells this model knows"
    others = NoveltySpec(
        false_alarms=0.03, n=9, n_validation=9, kept=0, others=("red cell", "background")
    )
    assert others.others_text == "a red cell or background"
