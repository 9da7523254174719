"""What a model's states are on its training images, measured once and kept in its file."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence

import numpy as np
import numpy.typing as npt
import torch
import torch.nn.functional as F
from scipy.optimize import minimize
from torch import nn

from ...bundle import Bundle
from ...card import NoveltySpec
from ...images.normalise import Normalisation
from ...known import FALSE_ALARMS, KnownStates, fit_known_states
from ...metrics import classification_report
from ...models.span import SpanMil, SpanUnet, run_span
from ..data.datasets import CropSet
from ..data.span_data import SlideExample
from .fit import predict_logits, predict_states
from .laboratories import LaboratoryChanges

__all__ = [
    "add_known_fields",
    "add_known_slides",
    "add_known_states",
    "add_softening",
    "describe_known",
    "draw_rows",
    "fit_softening",
    "measure_known_slides",
    "measure_known_states",
]

#: Training images, or patches, per class from which the spread is measured.
MOST_STATES = 250
#: Slides below which nothing can be said of their spread.
_LEAST_SLIDES = 6
#: Patches of a slide that are drawn; its neighbours are much alike.
_MOST_PATCHES = 200

Slides = Sequence[SlideExample]
#: (N, D) and (N,).
States = tuple[npt.NDArray[np.float32], npt.NDArray[np.int64]]


def measure_known_states(
    model: nn.Module,
    train: CropSet,
    validation: CropSet,
    test: CropSet | None,
    normalisation: Normalisation,
    size: int,
    others: CropSet | None = None,
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
    others : CropSet, optional
        What is common beside the classes, named in the singular.
    """
    rows = draw_rows(train.labels, MOST_STATES)
    own, held = (
        predict_states(model, crops, normalisation, size).numpy()
        for crops in (train.crops[rows], validation.crops)
    )
    beside: States | None = None
    names: tuple[str, ...] = ()
    if others is not None:
        seen = predict_states(model, others.crops, normalisation, size).numpy()
        beside, names = (seen, others.labels), others.class_names
    known = fit_known_states(own, train.labels[rows], held, validation.labels, others=beside)
    tested = None
    if test is not None and len(test):
        tested = known.novelty(predict_states(model, test.crops, normalisation, size))
    spec = describe_known(known, len(rows), len(held), tested)
    return known, spec.model_copy(update={"others": names})


def measure_known_slides(
    model: SpanMil | SpanUnet, train: Slides, validation: Slides, test: Slides = ()
) -> tuple[KnownStates | None, NoveltySpec | None]:
    """Measure what is usual of slides, or of their patches where the model judges those.

    Parameters
    ----------
    model : SpanMil or SpanUnet
        Trained, on the CPU.
    train, validation, test : sequence of SlideExample
        As in `measure_known_states`.

    Returns
    -------
    known : KnownStates or None
        None where there are too few slides.
    spec : NoveltySpec or None
        The same for the card; what it counts are slides, or patches.
    """
    if len(train) < _LEAST_SLIDES or not validation:
        return None, None
    (own, labels), (held, truth), (tested, _) = (
        _read_slides(model, part) for part in (train, validation, test)
    )
    rows = draw_rows(labels, 8 * MOST_STATES)
    known = fit_known_states(own[rows], labels[rows], held, truth)
    found = known.novelty(tested) if len(tested) else None
    return known, describe_known(known, len(rows), len(held), found)


def _read_slides(
    model: SpanMil | SpanUnet, examples: Slides
) -> tuple[npt.NDArray[np.float32], npt.NDArray[np.int64]]:
    """States (N, D) of slides, or of some of their patches, and their labels."""
    model.eval()
    states = [np.empty((0, model.head.in_features), np.float32)]
    labels = [np.empty(0, np.int64)]
    for example in examples:
        cells = torch.from_numpy(np.ascontiguousarray(example.cells, dtype=np.int64))
        found = run_span(model, example.features, cells).states.float().cpu().numpy()
        if isinstance(model, SpanMil):
            states.append(found)
            # A risk or a number has no classes: what is usual is one cloud.
            known = 0 if example.outcome else example.label
            labels.append(np.array([known], dtype=np.int64))
        elif example.patch_labels is not None:
            rows = draw_rows(example.patch_labels.astype(np.int64), _MOST_PATCHES)
            rows = rows[example.patch_labels[rows] >= 0]
            states.append(found[rows])
            labels.append(example.patch_labels[rows].astype(np.int64))
    return np.concatenate(states), np.concatenate(labels)


def describe_known(
    known: KnownStates,
    n: int,
    n_validation: int,
    tested: npt.NDArray[np.float32] | None = None,
    sides: tuple[int, int] | None = None,
) -> NoveltySpec:
    """Return what a card says of known states.

    Parameters
    ----------
    known : KnownStates
        As measured.
    n, n_validation : int
        Images that gave the spread, and the threshold.
    tested : numpy.ndarray, optional
        Novelty of images that took no part.
    sides : (int, int), optional
        Of fields or slides of several sizes, the smallest and the largest.
    """
    return NoveltySpec(
        # Of few images the farthest is the threshold, and a larger share lies beyond it.
        false_alarms=max(FALSE_ALARMS, 1 / (n_validation + 1)),
        n=n,
        n_validation=n_validation,
        kept=len(known.labels),
        checked=int(known.held.sum()),
        flagged_test=None if tested is None else float((tested > 1).mean()),
        sides=sides,
    )


def add_known_states(
    bundle: Bundle,
    train: CropSet,
    validation: CropSet,
    test: CropSet | None = None,
    others: CropSet | None = None,
) -> Bundle:
    """Return a model of cells with its known states, measured on the data it was trained on.

    For files from before there were any. Parts are those of the training, by
    `split_folds`; the weights stay as they are. `others` are as in
    `measure_known_states`.

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
        bundle.cell_model(), train, validation, test, card.normalisation, card.crop.size, others
    )
    return dataclasses.replace(bundle, card=card.model_copy(update={"novelty": spec}), known=known)


def add_softening(
    bundle: Bundle,
    held: CropSet,
    changes: LaboratoryChanges,
    test: CropSet | None = None,
    *,
    seed: int = 0,
) -> Bundle:
    """Return a model of cells whose confidence falls with novelty, as far as it should.

    Of held-out cells that are changed more than any training cell was, most are
    unlike what the model knows and many are called wrong. The temperature, the
    novelty from which it grows, and the power of the novelty by which it does,
    are those that make what is said of these cells and of the unchanged ones,
    in equal parts, likeliest.

    Parameters
    ----------
    bundle : Bundle
        With known states.
    held : CropSet
        Stained cells that the weights were not fitted to.
    changes : LaboratoryChanges
        What they go through, once each.
    test : CropSet, optional
        What took no part: what the card says of it is measured anew.
    seed : int
        Of the changes.

    Raises
    ------
    ValueError
        If the model has no known states.
    """
    card, known = bundle.card, bundle.known
    if known is None or card.novelty is None:
        raise ValueError(f"'{card.name}' has no known states: add those first.")
    generator = torch.Generator().manual_seed(seed)
    parts = []
    for at in range(0, len(held), 64):
        batch = torch.from_numpy(held.crops[at : at + 64]).permute(0, 3, 1, 2)
        parts.append(changes(batch, card.crop.size, generator)[0].permute(0, 2, 3, 1).numpy())
    truth = torch.from_numpy(held.labels)
    seen = [_judge(bundle, known, crops) for crops in (held.crops, np.concatenate(parts))]
    base, start, power = fit_softening([(*each, truth) for each in seen], card.temperature)
    spec = card.novelty.model_copy(update={"softening": power, "softening_from": start})
    card = card.model_copy(update={"temperature": base, "novelty": spec})
    bundle = dataclasses.replace(bundle, card=card)
    if test is not None:
        logits, new = _judge(bundle, known, test.crops)
        shares = (logits / (base * (new / start).clamp_min(1) ** power)).softmax(1)
        report = classification_report(shares.numpy(), test.labels, test.class_names)
        card = card.model_copy(update={"metrics": card.metrics | report.to_dict()})
        bundle = dataclasses.replace(bundle, card=card)
    return bundle


def fit_softening(
    parts: Sequence[tuple[torch.Tensor, torch.Tensor, torch.Tensor]], temperature: float
) -> tuple[float, float, float]:
    """Fit the temperature, the novelty from which it grows, and the power by which it does.

    Parameters
    ----------
    parts : sequence of (Tensor, Tensor, Tensor)
        Logits (N, C), novelty (N, 1) and classes (N,), float64; parts count alike.
    temperature : float
        Where the search begins.

    Returns
    -------
    temperature, start, power : float
        The logits of novelty n are divided by ``temperature * max(1, n / start) ** power``.
    """

    def surprise(numbers: npt.NDArray[np.float64]) -> float:
        base, start, power = np.exp(numbers)
        return sum(
            float(F.cross_entropy(logits / (base * (new / start).clamp_min(1) ** power), truth))
            for logits, new, truth in parts
        )

    # It is flat where nobody's novelty is near the start: several beginnings.
    limits = np.log([(0.05, 20), (0.05, 1), (0.001, 10)])
    begun = (np.log([temperature, start, 1.0]) for start in (0.2, 0.4, 0.8))
    tried = [
        minimize(surprise, np.clip(x, *limits.T), method="Nelder-Mead", bounds=limits)
        for x in begun
    ]
    base, start, power = np.exp(min(tried, key=lambda each: each.fun).x).round(3).tolist()
    return base, start, power


def _judge(
    bundle: Bundle, known: KnownStates, crops: npt.NDArray[np.uint8]
) -> tuple[torch.Tensor, torch.Tensor]:
    """Logits (N, C) of crops and their novelty (N, 1)."""
    model, rule, size = bundle.cell_model(), bundle.card.normalisation, bundle.card.crop.size
    novelty = known.novelty(predict_states(model, crops, rule, size))
    return (
        predict_logits(model, crops, rule, size).double(),
        torch.from_numpy(novelty).double()[:, None],
    )


def add_known_slides(
    bundle: Bundle, train: Slides, validation: Slides, test: Slides = ()
) -> Bundle:
    """Return a SPAN with its known states, see `add_known_states`.

    Raises
    ------
    ValueError
        If there are too few slides.
    """
    known, spec = measure_known_slides(bundle.slide_model(), train, validation, test)
    if known is None:
        raise ValueError(
            f"Too few slides to say what is usual: {_LEAST_SLIDES} of the training, and some of "
            "the validation, are needed."
        )
    card = bundle.card.model_copy(update={"novelty": spec})
    return dataclasses.replace(bundle, card=card, known=known)


def add_known_fields(
    bundle: Bundle,
    train: States,
    validation: States,
    test: States,
    sides: tuple[int, int],
) -> Bundle:
    """Return a TNet of fields or slides with its known states, see `add_known_states`.

    Parameters
    ----------
    bundle : Bundle
        A TNet.
    train, validation, test : tuple of numpy.ndarray
        States (N, D) and labels (N,) of whole images, looked at as deployed.
    sides : (int, int)
        Smallest and largest longer side of them, in pixels.
    """
    known = fit_known_states(*train, *validation)
    tested = known.novelty(test[0])
    spec = describe_known(known, len(train[1]), len(validation[1]), tested, sides)
    card = bundle.card.model_copy(update={"novelty": spec})
    return dataclasses.replace(bundle, card=card, known=known)


def draw_rows(labels: npt.NDArray[np.int64], most: int, seed: int = 0) -> npt.NDArray[np.int64]:
    """Return ascending rows, at most so many of each class, drawn by lot."""
    draw = np.random.default_rng(seed)
    rows = [draw.permutation(np.flatnonzero(labels == each))[:most] for each in np.unique(labels)]
    found: npt.NDArray[np.int64] = np.sort(np.concatenate(rows))
    return found
