"""Answers in one plain sentence."""

from __future__ import annotations

import dataclasses

import numpy as np
import pytest

from napari_sparseattn.inference.prediction import Prediction, ReadingLedger
from napari_sparseattn.plugin.main.sentences import plain_answer

LEDGER = ReadingLedger(pixels=10_000, classified=600, crop_pixels=4000, seconds=0.01, device="cpu")


def answer(*probabilities: float) -> Prediction:
    names = ("immature_granulocyte", "monocyte", "platelet")
    return Prediction(names, np.array(probabilities, np.float32), None, LEDGER, "hash")


@pytest.mark.parametrize(
    ("probabilities", "said"),
    [
        ((0.96, 0.03, 0.01), "Very likely immature granulocyte (96 %)."),
        ((0.1, 0.7, 0.2), "Probably monocyte (70 %)."),
        ((0.45, 0.15, 0.40), "Not sure: immature granulocyte (45 %) or platelet (40 %)."),
        ((0.996, 0.004, 0.0), "Very likely immature granulocyte (over 99 %)."),
    ],
)
def test_the_sentence_says_how_sure_the_model_is(
    probabilities: tuple[float, ...], said: str
) -> None:
    assert plain_answer(answer(*probabilities)).startswith(said)


def test_what_is_unlike_all_it_knows_is_not_called_likely() -> None:
    found = dataclasses.replace(answer(0.99, 0.01, 0), novelty=1.3)
    assert found.flagged
    assert plain_answer(found).startswith("Nearest to immature granulocyte, but perhaps none")
