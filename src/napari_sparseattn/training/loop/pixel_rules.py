"""Rules that choose pixels without learning: what a learned choice is held against."""

from __future__ import annotations

import math
from typing import Literal, get_args

import torch
from torch import Tensor

__all__ = ["RULES", "Rule", "pixels_by_rule"]

Rule = Literal["learned", "random", "darkest", "disc", "scattered"]

#: Rules other than the learned one.
RULES: tuple[Rule, ...] = tuple(rule for rule in get_args(Rule) if rule != "learned")

#: Share of the crop's side that the radius of "scattered" is: 7 µm of 32.
RADIUS = 7 / 32


def pixels_by_rule(
    rule: Rule, x: Tensor, k: int, generator: torch.Generator | None = None
) -> Tensor:
    """Choose k pixels of each crop.

    Parameters
    ----------
    rule : str
        ``"random"``: any. ``"darkest"``: those whose channels' mean is lowest.
        ``"disc"``: those nearest to the middle of the crop. ``"scattered"``:
        at random within 7/32 of the side from the middle, where a cell that
        was found lies, and then those nearest to that.
    x : Tensor
        (B, C, H, W).
    k : int
        1 to H * W.
    generator : torch.Generator, optional
        Of lots and ties.

    Returns
    -------
    Tensor
        (B, k) int64, ascending.

    Raises
    ------
    ValueError
        If there is no such rule.
    """
    batch, _, height, width = x.shape
    lot = torch.rand(batch, height * width, generator=generator).to(x.device)
    if rule == "random":
        scores = lot
    elif rule == "darkest":
        scores = 1e-3 * lot - x.float().mean(1).flatten(1)
    elif rule in ("disc", "scattered"):
        row, column = (torch.arange(n, device=x.device) + 0.5 - n / 2 for n in (height, width))
        distance = torch.hypot(row[:, None], column).flatten()
        if rule == "disc":
            scores = 1e-3 * lot - distance
        else:
            radius = max(RADIUS * width, 1.02 * math.sqrt(k / math.pi) + 0.5)
            scores = torch.where(distance < radius, lot, -distance)
    else:
        raise ValueError(f"the rule must be one of {', '.join(RULES)}, got {rule!r}")
    return scores.topk(k, dim=1, sorted=False).indices.sort(dim=1).values
