"""When a traversal ends by itself: as soon as what was seen makes the class sure enough (ours).

Rivals of 2025 stop by themselves; the paper's TNet always looks at K crops. Since the
logits are a mean over crops, a class can be told after every crop, and looking on costs
the same whenever one stops: an anytime rule needs a threshold and nothing else.
"""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor

from .crops import Crops, Level, TNetOutput

__all__ = ["Halt", "Reached", "in_turn", "join_levels", "running_logits"]


class Halt(NamedTuple):
    """When to stop.

    Attributes
    ----------
    threshold : float
        Probability, 0 to 1, of the most probable class that is sure enough.
    temperature : float
        What logits are divided by for probabilities.
    """

    threshold: float
    temperature: float = 1.0


class Reached:
    """What has been seen of B images so far, and which of them are looked at further.

    Parameters
    ----------
    count, n_classes : int
        Images B and classes C.
    halt : Halt
        When to stop.

    Attributes
    ----------
    going : Tensor
        (B,) bool, on the CPU.
    """

    def __init__(self, count: int, n_classes: int, halt: Halt) -> None:
        self.halt = halt
        self.going = torch.ones(count, dtype=torch.bool)
        self._total = torch.zeros(count, n_classes)
        self._seen = torch.zeros(count)

    def add(self, image: Tensor, logits: Tensor) -> None:
        """Take what crops (M, C) of images (M,) say."""
        self._total.index_add_(0, image, logits.detach().float().cpu())
        self._seen.index_add_(0, image, torch.ones(len(image)))
        mean = self._total / self._seen.clamp(min=1)[:, None]
        sure = (mean / self.halt.temperature).softmax(1).amax(1) >= self.halt.threshold
        asked = torch.zeros_like(self.going)
        asked[image] = True
        self.going &= ~(asked & sure)

    def keep_going(self, crops: Crops) -> Crops:
        """Return the crops of images that are looked at further."""
        rows = self.going[crops.image].nonzero()[:, 0]
        return Crops(*(tensor[rows.to(tensor.device)] for tensor in crops))


def in_turn(crops: Crops) -> Tensor:
    """(M,) int64: when each crop of a level is looked at, of its image the most probable first."""
    order = torch.argsort(crops.log_prob.detach().cpu(), descending=True, stable=True)
    order = order[torch.argsort(crops.image[order], stable=True)]
    image = crops.image[order]
    start = torch.searchsorted(image, image)
    turn = torch.empty_like(order)
    turn[order] = torch.arange(len(order)) - start
    return turn


def join_levels(parts: list[Level], rows: list[Tensor]) -> Level:
    """Join parts of a level that were looked at one after the other, in the order of its rows."""
    order = torch.argsort(torch.cat(rows))
    crops = Crops(
        *(
            torch.cat(each)[order.to(each[0].device)]
            for each in zip(*(part.crops for part in parts), strict=True)
        )
    )
    on = order.to(parts[0].logits.device)
    chances = [part.probabilities for part in parts if part.probabilities is not None]
    return Level(
        crops,
        torch.cat([part.logits for part in parts])[on],
        torch.cat(chances)[on] if chances else None,
        torch.cat([part.states for part in parts])[on],
    )


def running_logits(output: TNetOutput) -> list[Tensor]:
    """Per image (n, C): its logits after each crop, were they looked at as when halting.

    Of a traversal that was not halted this tells where any threshold would have
    stopped it.
    """
    levels = output.levels
    depth = torch.cat([torch.full_like(each.crops.image, i) for i, each in enumerate(levels)])
    image = torch.cat([each.crops.image for each in levels])
    turn = torch.cat([in_turn(each.crops) for each in levels])
    logits = torch.cat([each.logits.detach().float().cpu() for each in levels])
    found = []
    for number in range(len(output.logits)):
        rows = (image == number).nonzero()[:, 0]
        rows = rows[torch.argsort(depth[rows] * (len(turn) + 1) + turn[rows], stable=True)]
        steps = torch.arange(1, len(rows) + 1)[:, None]
        found.append(logits[rows].cumsum(0) / steps)
    return found
