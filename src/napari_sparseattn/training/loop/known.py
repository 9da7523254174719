"""What a model's states are on its training images, measured once and kept in its file."""

from __future__ import annotations

import dataclasses

import numpy as np
import numpy.typing as npt
from torch import nn

from ...bundle import Bundle
from ...card import NoveltySpec
from ...images.normalise import Normalisation
from ...known import FALSE_ALARMS, KnownStates, fit_known_states
from ..data.datasets import CropSet
from .fit import predict_states

__all__ = ["add_known_states", "describe_known", "draw_rows", "measure_known_states"]

#: Training images per class from which the spread is measured.
MOST_STATES = 250


def measure_known_states(
    model: nn.Module,
    train: CropSet,
    validation: CropSet,
    test: CropSet | None,
    normalisation: Normalisation,
    size: int,
) -> tuple[KnownStates, NoveltySpec]:
    """Measure what is usual on training crops, and the threshold on validation crops.

    Parameters
    ----------
    model : nn.Module
        A trained SparseAttnNet or TNet, on the CPU.
    train, validation : CropSet
        What the weights were fitted to, and what was held out.
    test : CropSet or None
        What took no part in any decision, for the share that is flagged of it.
    normalisation, size
        As on the card.
    """
    rows = draw_rows(train.labels, MOST_STATES)
    own, held = (
        predict_states(model, crops, normalisation, size).numpy()
        for crops in (train.crops[rows], validation.crops)
    )
    known = fit_known_states(own, train.labels[rows], held)
    tested = None
    if test is not None and len(test):
        tested = known.novelty(predict_states(model, test.crops, normalisation, size))
    return known, describe_known(known, len(rows), len(held), tested)


def describe_known(
    known: KnownStates, n: int, n_validation: int, tested: npt.NDArray[np.float32] | None
) -> NoveltySpec:
    """Return what a card says of known states.

    Parameters
    ----------
    known : KnownStates
        As measured.
    n, n_validation : int
        Images that gave the spread, and the threshold.
    tested : numpy.ndarray or None
        Novelty of images that took no part.
    """
    return NoveltySpec(
        # Of few images the farthest is the threshold, and a larger share lies beyond it.
        false_alarms=max(FALSE_ALARMS, 1 / (n_validation + 1)),
        n=n,
        n_validation=n_validation,
        kept=len(known.labels),
        flagged_test=None if tested is None else float((tested > 1).mean()),
    )


def add_known_states(
    bundle: Bundle, train: CropSet, validation: CropSet, test: CropSet | None = None
) -> Bundle:
    """Return a model of cells with its known states, measured on the data it was trained on.

    For files from before there were any. Parts are those of the training, by
    `split_folds`; the weights stay as they are.

    Raises
    ------
    ValueError
        If the data has other classes than the model.
    """
    card = bundle.card
    if train.class_names != card.class_names:
        raise ValueError(
            f"'{card.name}' has the classes {', '.join(card.class_names)}, the data "
            f"{', '.join(train.class_names)}. Give the data that it was trained on."
        )
    known, spec = measure_known_states(
        bundle.cell_model(), train, validation, test, card.normalisation, card.crop.size
    )
    return dataclasses.replace(bundle, card=card.model_copy(update={"novelty": spec}), known=known)


def draw_rows(labels: npt.NDArray[np.int64], most: int, seed: int = 0) -> npt.NDArray[np.int64]:
    """Return ascending rows, at most so many of each class, drawn by lot."""
    draw = np.random.default_rng(seed)
    rows = [draw.permutation(np.flatnonzero(labels == each))[:most] for each in np.unique(labels)]
    found: npt.NDArray[np.int64] = np.sort(np.concatenate(rows))
    return found
