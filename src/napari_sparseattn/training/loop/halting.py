"""When is a TNet sure enough to stop? A threshold chosen on validation images."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from typing import TYPE_CHECKING

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor, nn

from ...bundle import Bundle
from ...card import HaltingSpec
from ...metrics import roc_auc
from ...models.tnet.halting import Halt, running_logits
from ..data.datasets import CropSet
from .fit import iter_inputs
from .known import measure_known_states

if TYPE_CHECKING:
    from ...models.tnet.crops import TNetOutput

__all__ = ["choose_halting", "choose_threshold", "crop_runs", "with_halting"]

#: Thresholds that are tried.
_TRIED = tuple(np.round(np.concatenate([np.arange(0.5, 0.99, 0.01), np.arange(0.99, 1, 0.001)]), 4))
_BATCH = 64

Chances = npt.NDArray[np.float64]


def choose_threshold(
    runs: Sequence[Tensor],
    truth: Sequence[int] | npt.NDArray[np.int64],
    temperature: float,
    *,
    tolerance: float = 0.0,
) -> HaltingSpec | None:
    """Choose the lowest threshold at which nothing is lost.

    One traversal by all crops tells where every threshold would have stopped
    it. At the chosen one neither accuracy nor the area under the ROC curve is
    below that of looking at all crops, and at no higher one by more than one
    image of all: a threshold that is as good by luck alone, between worse
    ones, is passed over.

    Parameters
    ----------
    runs : sequence of Tensor
        Per image (n, C): see `running_logits`.
    truth : sequence of int
        Class of each.
    temperature : float
        Of the card.
    tolerance : float
        How much accuracy and area may fall.

    Returns
    -------
    HaltingSpec or None
        None where no threshold below 1 loses nothing, or saves anything.
    """
    labels = np.asarray(truth, np.int64)
    chances = [(run.double() / temperature).softmax(1).numpy() for run in runs]
    whole = _figures(np.stack([each[-1] for each in chances]), labels)
    best, luck = None, 1.0 / max(1, len(labels))
    for threshold in sorted(_TRIED, reverse=True):
        ends = [_end(each, float(threshold)) for each in chances]
        found = _figures(
            np.stack([each[end] for each, end in zip(chances, ends, strict=True)]), labels
        )
        lost = max(
            whole[0] - found[0],
            0.0 if found[1] is None or whole[1] is None else whole[1] - found[1],
        )
        if lost > tolerance + luck:
            break
        if lost > tolerance:
            continue
        saved = np.mean(
            [1 - (end + 1) / len(each) for each, end in zip(chances, ends, strict=True)]
        )
        best = HaltingSpec(
            threshold=float(threshold),
            n=len(labels),
            accuracy=found[0],
            accuracy_all=whole[0],
            auc=found[1],
            auc_all=whole[1],
            saved=float(saved),
        )
    return best if best is not None and best.saved else None


def _end(chances: Chances, threshold: float) -> int:
    """The crop, from 0, after which an image is sure enough; the last if never."""
    sure = np.flatnonzero(chances.max(axis=1) >= threshold)
    return int(sure[0]) if len(sure) else len(chances) - 1


def _figures(chances: Chances, labels: npt.NDArray[np.int64]) -> tuple[float, float | None]:
    accuracy = float((chances.argmax(axis=1) == labels).mean())
    aucs = [roc_auc(chances[:, i], labels == i) for i in range(chances.shape[1])]
    known = [auc for auc in aucs if auc is not None]
    return accuracy, float(np.mean(known)) if known else None


@torch.inference_mode()
def crop_runs(bundle: Bundle, crops: CropSet, device: str = "cpu") -> list[Tensor]:
    """Return `running_logits` of crops, by all of them."""
    net, card = bundle.cell_model(device), bundle.card
    inputs = iter_inputs(
        crops.crops, card.normalisation, card.crop.size, device=device, batch_size=_BATCH
    )
    found: list[Tensor] = []
    for batch in inputs:
        output: TNetOutput = net(batch)
        found += running_logits(output)
    return found


def choose_halting(
    bundle: Bundle,
    validation: CropSet,
    *,
    train: CropSet | None = None,
    test: CropSet | None = None,
    device: str = "cpu",
) -> Bundle:
    """Let a TNet of crops stop by itself, where that loses nothing on the validation crops.

    Parameters
    ----------
    bundle : Bundle
        A TNet; stays as it is.
    validation : CropSet
        Images that were not learned from.
    train, test : CropSet, optional
        The other parts. With them the known states are measured anew, as a
        model that stops has them; without, novelty is told only of images that
        all crops of were looked at.
    device : str
        Where to compute.

    Returns
    -------
    Bundle
        The same where no threshold loses nothing.
    """
    runs = crop_runs(bundle, validation, device)
    spec = choose_threshold(runs, validation.labels, bundle.card.temperature)
    if spec is None:
        return bundle
    known, novelty = bundle.known, bundle.card.novelty
    if train is not None and test is not None:
        net = Halting(bundle.cell_model(), Halt(spec.threshold, bundle.card.temperature))
        known, novelty = measure_known_states(
            net, train, validation, test, bundle.card.normalisation, bundle.card.crop.size
        )
        spec = spec.model_copy(update={"known_halted": True})
    halted = with_halting(bundle, spec)
    card = halted.card.model_copy(update={"novelty": novelty})
    return dataclasses.replace(halted, card=card, known=known)


def with_halting(bundle: Bundle, spec: HaltingSpec | None) -> Bundle:
    """Return a bundle that stops as a spec says, or never; `save_bundle` writes it."""
    card = bundle.card.model_copy(update={"halting": spec})
    return dataclasses.replace(bundle, card=type(card).model_validate(card.model_dump()))


class Halting(nn.Module):
    """A TNet that stops by itself, where others call it without saying so.

    Parameters
    ----------
    net : TNet
        In evaluation mode.
    halt : Halt
        When.
    """

    def __init__(self, net: nn.Module, halt: Halt) -> None:
        super().__init__()
        self.net, self.halt = net, halt

    @property
    def head(self) -> nn.Linear:
        """The network's last layer."""
        head: nn.Linear = self.net.head  # type: ignore[assignment]
        return head

    def forward(self, images: Tensor) -> TNetOutput:
        """Return what the net gives when it may stop."""
        output: TNetOutput = self.net(images, halt=self.halt)
        return output
