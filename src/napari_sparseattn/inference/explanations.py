"""Which patches speak for a slide's class, by several methods; which is best is measured.

Attention says where a model looked, not what it made of it. What speaks for the
class is asked of the function itself: how its score changes without a patch
(perturbation), how steep it is in a patch's features (gradient times input), and how
it rises on the way from mean features to the slide's own (integrated gradients,
Sundararajan, Taly and Yan 2017).
"""

from __future__ import annotations

import math
from collections.abc import Callable
from functools import partial
from typing import TYPE_CHECKING

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from ..card import EXPLANATIONS, Explanation, TargetSpec
from ..models.span import SpanMil

if TYPE_CHECKING:
    from ..bundle import Bundle
    from ..progress import Progress
    from .slides import SlidePrediction

__all__ = [
    "EXPLANATIONS",
    "Explanation",
    "explain_features",
    "explain_slide",
    "first_explanation",
]

Values = npt.NDArray[np.float32]

#: Runs without something that a perturbation takes at most; larger slides are tried in blocks.
MOST_RUNS = 512
#: Steps on the way from the mean patch.
STEPS = 16
#: Patches up to which gradients are kept in memory.
MOST_PATCHES = 32_768


def first_explanation(bundle: Bundle) -> Explanation:
    """Return the method that was measured best for a model; attention where none was."""
    spec = bundle.card.explanation
    return "attention" if spec is None else spec.best


def explain_slide(
    prediction: SlidePrediction,
    bundle: Bundle,
    method: Explanation | None = None,
    index: int | None = None,
    *,
    progress: Progress | None = None,
) -> Values:
    """Say how much each patch of a classified slide speaks for a class.

    Parameters
    ----------
    prediction : SlidePrediction
        Of `classify_slide`, with its features.
    bundle : Bundle
        The SPAN-MIL it was made with.
    method : {"attention", "perturbation", "gradient", "integrated"}, optional
        By default the one that was measured best for the model.
    index : int, optional
        The class; by default the predicted one. A risk or a number is the only one.
    progress : callable, optional
        Called with "explanation", the runs done and their number; may raise to stop.

    Returns
    -------
    numpy.ndarray
        (N,) float32, in the order of the features. Positive speaks for the
        class, but of attention, which knows no class: multiples of uniform.

    Raises
    ------
    ValueError
        If the model segments, the prediction is of another model or holds no
        features, or the slide has too many patches for gradients.
    """
    method = method or first_explanation(bundle)
    found = prediction.features
    if found is None or bundle.hash != prediction.model_hash:
        raise ValueError("the prediction must hold its features, and be of the same model")
    if bundle.card.segments:
        raise ValueError(
            f"'{bundle.card.name}' gives each patch a class of its own: its probabilities are "
            "what explains it."
        )
    if method == "attention":
        weights = prediction.attention.patch_weights()
        return weights * np.float32(len(weights))
    model = bundle.slide_model()
    assert isinstance(model, SpanMil)
    cells = torch.from_numpy(np.ascontiguousarray(found.cells, dtype=np.int64))
    features = torch.from_numpy(np.ascontiguousarray(found.read(), np.float32))
    chosen = prediction.index if index is None else index

    def report(done: int, total: int) -> None:
        if progress is not None:
            progress("explanation", done, total)

    target = bundle.card.target
    return explain_features(model, features, cells, method, chosen, target=target, report=report)


def explain_features(
    model: SpanMil,
    features: Tensor,
    cells: Tensor,
    method: Explanation,
    index: int,
    *,
    target: TargetSpec | None = None,
    report: Callable[[int, int], None] = lambda done, total: None,
) -> Values:
    """Say how much each row of features (N, F) at cells (N, 2) speaks for a class.

    What is explained is the class's logit less the mean of the others'; with a
    target, its score: the risk, or the number in its unit. See `explain_slide`;
    ``"attention"`` is not among the methods here.

    Raises
    ------
    ValueError
        If there is no such method, or too many patches.
    """
    score = partial(_score, model, cells=cells, index=index, target=target)
    if method == "perturbation":
        return _perturb(score, features, cells, report)
    if method not in ("gradient", "integrated"):
        raise ValueError(f"there is no method '{method}' of features")
    if len(features) > MOST_PATCHES:
        raise ValueError(
            f"gradients of {len(features)} patches would take too much memory; at most "
            f"{MOST_PATCHES} are explained so. Choose attention."
        )
    base = features.mean(dim=0, keepdim=True)
    steps = 1 if method == "gradient" else STEPS
    total = torch.zeros_like(features)
    for step in range(steps):
        # Gradients at the slide itself, or in the middle of each part of the way to it.
        share = 1.0 if method == "gradient" else (step + 0.5) / steps
        at = (base + share * (features - base)).requires_grad_(True)
        with torch.enable_grad():
            (slope,) = torch.autograd.grad(score(at), at)
        total += slope / steps
        report(step + 1, steps)
    found: Values = ((features - base) * total).sum(dim=1).detach().float().numpy()
    return found


def _score(
    model: SpanMil, features: Tensor, *, cells: Tensor, index: int, target: TargetSpec | None
) -> Tensor:
    """The class's logit less the mean of the others', or the score of a target."""
    logits = model(features, cells).logits[0].float()
    if target is not None:
        return target.score(logits)
    score: Tensor = logits[0]
    if len(logits) > 1:
        score = logits[index] - (logits.sum() - logits[index]) / (len(logits) - 1)
    return score.squeeze()


@torch.no_grad()
def _perturb(
    score: Callable[[Tensor], Tensor],
    features: Tensor,
    cells: Tensor,
    report: Callable[[int, int], None],
) -> Values:
    """The fall of the score when a patch, or a block of patches, becomes the mean patch.

    Its place stays, so that the lattice is the same in every run. Of a block
    each patch gets an even part.
    """
    base = features.mean(dim=0)
    blocks = _blocks(cells)
    whole = float(score(features))
    found = np.zeros(len(features), np.float32)
    changed = features.clone()
    n = int(blocks.max()) + 1
    for number in range(n):
        rows = (blocks == number).nonzero()[:, 0]
        changed[rows] = base
        fall = whole - float(score(changed))
        changed[rows] = features[rows]
        found[rows.numpy()] = fall / len(rows)
        report(number + 1, n)
    return found


def _blocks(cells: Tensor) -> Tensor:
    """(N,) the block of each patch: single ones, or squares, so that there are not too many."""
    side = 1
    while True:
        keys = (cells - cells.min(dim=0).values) // side
        number: Tensor = torch.unique(keys, dim=0, return_inverse=True)[1]
        if int(number.max()) < MOST_RUNS:
            return number
        side += max(1, math.ceil(side / 4))
