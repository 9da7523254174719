"""Which patches speak for a slide's class, by several methods; which is best is measured.

Attention says where a model looked, not what it made of it. What speaks for the
class is asked of the function itself: how its score changes without a patch
(perturbation), how steep it is in a patch's features (gradient times input), and how
it rises on the way from mean features to the slide's own (integrated gradients,
Sundararajan, Taly and Yan 2017).

Of a model that gives each patch a probability the score is the mean log-odds over a
region: why are these patches called tumour, of themselves or by what is around them?
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from functools import partial
from typing import TYPE_CHECKING

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from ..card import EXPLANATIONS, Explanation, TargetSpec
from ..models.span import SpanMil, SpanUnet, run_replaced

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
Score = Callable[[Tensor], Tensor]

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
    region: Sequence[int] | npt.NDArray[np.integer] | None = None,
    progress: Progress | None = None,
) -> Values:
    """Say how much each patch of a slide speaks for a class.

    Parameters
    ----------
    prediction : SlidePrediction
        Of `classify_slide`, with its features.
    bundle : Bundle
        The SPAN it was made with.
    method : {"attention", "perturbation", "gradient", "integrated"}, optional
        By default the one that was measured best for the model.
    index : int, optional
        The class; by default the predicted one, and of a model that segments
        the tissue it looks for. A risk or a number is the only one.
    region : sequence of int, optional
        Of a model that segments: the patches whose mean log-odds is explained;
        by default all of the tissue.
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
        If the prediction is of another model or holds no features, a region
        is empty or of a model that classifies slides, or the slide has too
        many patches for gradients.
    """
    method = method or first_explanation(bundle)
    found = prediction.features
    if found is None or bundle.hash != prediction.model_hash:
        raise ValueError("the prediction must hold its features, and be of the same model")
    if method == "attention":
        weights = prediction.attention.patch_weights()
        return weights * np.float32(len(weights))
    cells = torch.from_numpy(np.ascontiguousarray(found.cells, dtype=np.int64))
    features = torch.from_numpy(np.ascontiguousarray(found.read(), np.float32))
    if index is None:
        index = 1 if bundle.card.segments else prediction.index
    rows = None if region is None else torch.as_tensor(np.asarray(region, np.int64))

    def report(done: int, total: int) -> None:
        if progress is not None:
            progress("explanation", done, total)

    return explain_features(
        bundle.slide_model(),
        features,
        cells,
        method,
        index,
        region=rows,
        target=bundle.card.target,
        report=report,
    )


def explain_features(
    model: SpanMil | SpanUnet,
    features: Tensor,
    cells: Tensor,
    method: Explanation,
    index: int,
    *,
    region: Tensor | None = None,
    target: TargetSpec | None = None,
    report: Callable[[int, int], None] = lambda done, total: None,
) -> Values:
    """Say how much each row of features (N, F) at cells (N, 2) speaks for a class.

    What is explained is the class's logit less the mean of the others', or of a
    SPAN-UNet the mean log-odds over the rows of a region (m,); with a target its
    score, the risk, or the number in its unit. See `explain_slide`;
    ``"attention"`` is not among the methods here.

    Raises
    ------
    ValueError
        If there is no such method, too many patches, or no such region.
    """
    if region is not None and (isinstance(model, SpanMil) or not len(region)):
        raise ValueError(
            "a region is explained of a model that gives each patch a probability, and holds a "
            "patch or more"
        )
    score = partial(_score, index=index, target=target)
    run = partial(_run, model, cells=cells, score=score, index=index, region=region)
    if method == "perturbation":
        return _perturb(model, run, score, features, cells, report)
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
            (slope,) = torch.autograd.grad(run(at), at)
        total += slope / steps
        report(step + 1, steps)
    found: Values = ((features - base) * total).sum(dim=1).detach().float().numpy()
    return found


def _run(
    model: SpanMil | SpanUnet,
    features: Tensor,
    *,
    cells: Tensor,
    score: Score,
    index: int,
    region: Tensor | None,
) -> Tensor:
    """The score of one run, without dimensions."""
    logits: Tensor = model(features, cells).logits
    if isinstance(model, SpanMil):
        return score(logits)[0]
    odds = logits[:, 0] if region is None else logits[region, 0]
    return odds.float().mean() * (1 if index else -1)


def _score(logits: Tensor, *, index: int, target: TargetSpec | None) -> Tensor:
    """(m, C) logits to (m,): the class's less the mean of the others', or a target's score."""
    logits = logits.float()
    if target is not None:
        return target.score(logits)
    if logits.shape[1] == 1:
        return logits[:, 0]
    chosen = logits[:, index]
    return chosen - (logits.sum(dim=1) - chosen) / (logits.shape[1] - 1)


@torch.no_grad()
def _perturb(
    model: SpanMil | SpanUnet,
    run: Score,
    score: Score,
    features: Tensor,
    cells: Tensor,
    report: Callable[[int, int], None],
) -> Values:
    """The fall of the score when a patch, or a block of patches, becomes the mean patch.

    Its place stays, so that the lattice is the same in every run. Of a block
    each patch gets an even part. Of a SPAN-MIL only what a patch reaches is
    computed anew; in a SPAN-UNet, whose global tokens are the maximum and
    the mean of all patches, it reaches everything.
    """
    blocks = _blocks(cells)
    sizes = torch.bincount(blocks)
    groups = blocks.argsort(stable=True).split(sizes.tolist())
    base = features.mean(dim=0)
    whole = run(features)
    if isinstance(model, SpanMil):
        runs = score(run_replaced(model, features, cells, groups, base, report=report))
    else:
        runs, changed = torch.zeros(len(groups)), features.clone()
        for number, rows in enumerate(groups):
            changed[rows] = base
            runs[number] = run(changed)
            changed[rows] = features[rows]
            report(number + 1, len(groups))
    falls: Values = ((whole - runs) / sizes)[blocks].float().numpy()
    return falls


def _blocks(cells: Tensor) -> Tensor:
    """(N,) the block of each patch: single ones, or squares, so that there are not too many."""
    side = 1
    while True:
        keys = (cells - cells.min(dim=0).values) // side
        number: Tensor = torch.unique(keys, dim=0, return_inverse=True)[1]
        if int(number.max()) < MOST_RUNS:
            return number
        side += max(1, math.ceil(side / 4))
