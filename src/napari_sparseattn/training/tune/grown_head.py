"""A model's last layer, grown by new classes and fitted before anything else is trained."""

from __future__ import annotations

import contextlib
import copy
import dataclasses
from collections.abc import Callable, Iterator, Sequence
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from ...images.normalise import Normalisation, to_float
from ...models.sparse.network import SparseAttnNet
from ...models.tnet.network import TNet

__all__ = [
    "CellNet",
    "HeadFeatures",
    "class_weights",
    "fit_head",
    "grow",
    "grow_layer",
    "head_features",
    "listening",
    "to_input",
    "unite_classes",
]

CellNet = SparseAttnNet | TNet

#: Quantile of the annotated crops' odds from which on an unannotated crop is of their class.
_TYPICAL = 0.3
#: Pull of the rows to where they began, per squared unit of change.
_RIDGE = 1e-2


def unite_classes(old: Sequence[str], data: Sequence[str]) -> tuple[str, ...]:
    """Return the model's classes in their order, then the data's that it does not know, once."""
    return tuple(dict.fromkeys((*old, *data)))


def grow(model: CellNet, n_classes: int) -> CellNet:
    """Return a copy whose head has more classes; the old classes' rows are kept.

    New rows are zero: `fit_head` gives them their first values.

    Parameters
    ----------
    model : SparseAttnNet or TNet
        Stays as it is.
    n_classes : int
        At least as many as it has.
    """
    grown = copy.deepcopy(model).requires_grad_(True)
    grown.head = grow_layer(model.head, n_classes)
    grown.config = dataclasses.replace(grown.config, n_classes=n_classes)
    return grown


def grow_layer(old: nn.Linear, n_classes: int) -> nn.Linear:
    """Return a last layer for more classes, see `grow`."""
    head = nn.Linear(old.in_features, n_classes).to(old.weight)
    with torch.no_grad():
        head.weight.zero_()[: old.out_features] = old.weight
        # A class that nothing speaks for must not be the answer.
        head.bias.fill_(float(old.bias.min()) - 3)[: old.out_features] = old.bias
    return head


def to_input(
    crops: npt.NDArray[Any], normalisation: Normalisation, size: int, device: str
) -> Tensor:
    """Return stored crops (N, s, s, C) as model input (N, C, size, size), as deployed."""
    batch = torch.from_numpy(to_float(crops)).permute(0, 3, 1, 2)
    if batch.shape[-1] != size:
        batch = F.interpolate(batch, size=(size, size), mode="area")
    ready = torch.from_numpy(normalisation(batch.contiguous().numpy()))
    return ready.to(device).contiguous(memory_format=torch.channels_last)


class HeadFeatures(NamedTuple):
    """What the head reads of N crops, each turned by V quarter turns.

    Attributes
    ----------
    features : Tensor
        (V, N, D) float32. Of a TNet the mean over an image's crops: the head
        is linear, so that it gives the image's logits.
    logits : Tensor
        (V, N, n_classes).
    """

    features: Tensor
    logits: Tensor

    @property
    def probabilities(self) -> Tensor:
        """(N, n_classes), the mean over the turns."""
        return self.logits.softmax(2).mean(0)


def head_features(
    model: CellNet,
    crops: npt.NDArray[Any],
    normalisation: Normalisation,
    size: int,
    *,
    views: int = 1,
    device: str = "cpu",
    batch_size: int = 128,
    proceed: Callable[[], bool] = lambda: True,
) -> HeadFeatures:
    """Run stored crops (N, s, s, C), as deployed and turned by quarter turns.

    Raises
    ------
    InterruptedError
        If `proceed`, asked between batches, says no.
    """
    model.eval()
    n, head = len(crops), model.head
    features = torch.zeros(views, n, head.in_features)
    logits = torch.zeros(views, n, head.out_features)
    with torch.inference_mode(), listening(head) as heard:
        for start in range(0, n, batch_size):
            rows = slice(start, start + batch_size)
            plain = to_input(crops[rows], normalisation, size, device)
            for turn in range(views):
                if not proceed():
                    raise InterruptedError
                heard.clear()
                output = model(torch.rot90(plain, turn, (2, 3)))
                read = torch.cat(heard).float().cpu()
                if isinstance(model, TNet):
                    image = torch.cat([level.crops.image for level in output.levels]).cpu()
                    total = torch.zeros(len(plain), read.shape[1]).index_add(0, image, read)
                    read = total / torch.bincount(image, minlength=len(plain))[:, None]
                features[turn, rows], logits[turn, rows] = read, output.logits.float().cpu()
    # Outside of inference mode these are ordinary tensors, from which gradients can be taken.
    return HeadFeatures(features.clone(), logits.clone())


def class_weights(labels: npt.NDArray[np.int64], n_classes: int) -> Tensor:
    """Weights (n_classes,) inverse to how often a class occurs; their mean over labels is 1."""
    counts = np.bincount(labels, minlength=n_classes)
    present = max(1, int((counts > 0).sum()))
    weights = np.where(counts > 0, len(labels) / (present * np.maximum(counts, 1)), 1.0)
    return torch.from_numpy(weights.astype(np.float32))


def fit_head(
    head: nn.Linear,
    labelled: tuple[HeadFeatures, Tensor],
    unlabelled: HeadFeatures,
    weights: Tensor,
    trust: float = 1.0,
    kept: tuple[Tensor, Tensor] | None = None,
) -> Tensor:
    """Fit a grown head to features that stay as they are; convex, and takes a second.

    Cross-entropy on the labelled crops; on the unlabelled ones the old
    classes keep the shares that the old model gave them (Li & Hoiem 2017,
    Learning without Forgetting). Some of those are of the new classes, though
    nobody said so. They are first all taken for old, which makes a head that
    tells annotated from unannotated; the odds it gives the annotated crops say
    what odds mean "new" (after Elkan & Noto 2008), see `_fresh_shares`; with
    these shares the head is fitted once more. Fitting on and on to its own
    answers would draw cell after cell into the new classes.

    Parameters
    ----------
    head : nn.Linear
        From `grow`; changed in place.
    labelled : (HeadFeatures, labels (N,) int64)
    unlabelled : HeadFeatures
        Of M crops, from the model before; M may be 0.
    weights : Tensor
        (n_classes,), see `class_weights`.
    trust : float
        Weight, 0 to 1, of the old model on unlabelled crops; the rest is the head's.
    kept : (states (K, D), labels (K,) int64), optional
        Of cells that the model was trained on; as a whole they count as much as
        the labelled crops, and each of their classes as much as the others.

    Returns
    -------
    Tensor
        (M, n_classes): the shares of the unlabelled crops in the end.
    """
    seen, labels = labelled
    device, views = head.weight.device, len(seen.features)
    features, truth = seen.features.flatten(0, 1).to(device), labels.repeat(views).to(device)
    others = unlabelled.features.flatten(0, 1).to(device)
    old, n_old = unlabelled.probabilities.to(device), unlabelled.logits.shape[2]
    start, weights = head.weight.detach().clone(), weights.to(device)
    again = None if kept is None else tuple(each.to(device) for each in kept)
    scale = _RIDGE * (float(features.square().mean()) or 1.0)
    shares = F.pad(old, (0, head.out_features - n_old))
    for _ in range(2 if len(old) else 1):
        target = shares.repeat(views, 1)

        def loss(target: Tensor = target) -> Tensor:
            value = F.cross_entropy(head(features), truth, weight=weights)
            if again is not None:
                even = class_weights(again[1].cpu().numpy(), head.out_features).to(device)
                value = value + F.cross_entropy(head(again[0]), again[1], weight=even)
            if len(others):
                value = value + F.cross_entropy(head(others), target)
            moved = (head.weight - start).square().sum(1)
            return value + scale * (moved[:n_old].sum() + 0.1 * moved[n_old:].sum())

        _minimise(head, loss)
        with torch.no_grad():
            taught = head(seen.features.to(device))
            now = head(unlabelled.features.to(device))
        fresh = _fresh_shares(taught, labels.to(device), now, n_old)
        shares = _all_shares(fresh, old, now, trust)
    return shares


def _all_shares(fresh: Tensor, old: Tensor, now: Tensor, trust: float) -> Tensor:
    """Shares (M, n_classes): those of the new classes, the rest as the old model had it."""
    kept = now.softmax(2).mean(0)[:, : old.shape[1]]
    kept = kept / kept.sum(1, keepdim=True).clamp_min(1e-6)
    anchor = trust * old + (1 - trust) * kept
    return torch.cat([anchor * (1 - fresh.sum(1, keepdim=True)), fresh], 1)


def _fresh_shares(taught: Tensor, labels: Tensor, now: Tensor, n_old: int) -> Tensor:
    """Shares (M, n_new) of the new classes: 1 from the odds on that annotated crops have.

    Logits of the labelled (V, N, n_classes) and the unlabelled crops (V, M, n_classes).
    """

    def odds(logits: Tensor) -> Tensor:
        against = logits[..., :n_old].logsumexp(2, keepdim=True)
        return (logits[..., n_old:] - against).mean(0)

    told, found = odds(taught), odds(now)
    shares = torch.zeros_like(found)
    for index in range(found.shape[1]):
        own = told[labels == n_old + index, index]
        if len(own):
            shares[:, index] = (found[:, index] - own.quantile(_TYPICAL)).exp().clamp(max=1)
    total = shares.sum(1, keepdim=True)
    return shares / total.clamp_min(1)


def _minimise(head: nn.Linear, loss: Any) -> None:
    optimiser = torch.optim.LBFGS(
        head.parameters(), max_iter=60, history_size=20, line_search_fn="strong_wolfe"
    )

    def closure() -> Tensor:
        optimiser.zero_grad()
        value: Tensor = loss()
        value.backward()
        return value

    optimiser.step(closure)
    head.zero_grad(set_to_none=True)


@contextlib.contextmanager
def listening(head: nn.Linear) -> Iterator[list[Tensor]]:
    """Collect what a layer is given."""
    heard: list[Tensor] = []

    def note(_: nn.Module, inputs: tuple[Tensor, ...]) -> None:
        heard.append(inputs[0])

    handle = head.register_forward_pre_hook(note)
    try:
        yield heard
    finally:
        handle.remove()
