"""What SPAN's networks return."""

from __future__ import annotations

from typing import NamedTuple

from torch import Tensor

__all__ = ["SpanLevel", "SpanOutput"]


class SpanLevel(NamedTuple):
    """One level of the pyramid: its cells, and what the global tokens read there.

    Attributes
    ----------
    cells : Tensor
        (n, 2) int64, (x, y) on this level's padded grid in lattice order, the
        two sentinels first and last. Cell (u, v) of level l covers the patch
        columns ``[u * 2**l - left, (u + 1) * 2**l - left)``, and rows likewise.
    attention : Tensor
        (G, heads, n + G) of at least float32: how each global token divides its
        attention over the cells and, last, over the global tokens. Sums to 1;
        sentinels get exactly 0.
    tokens : Tensor
        (G, D) the global tokens as this level leaves them.
    contribution : Tensor
        SPAN-MIL: (n_classes,), this level's share of the logits, exact once the
        last LayerNorm's scale is given: the shares of all levels and
        `SpanOutput.constant` add up to the logits. SPAN-UNet: empty.
    """

    cells: Tensor
    attention: Tensor
    tokens: Tensor
    contribution: Tensor


class SpanOutput(NamedTuple):
    """Result for one slide.

    Attributes
    ----------
    logits : Tensor
        SPAN-MIL: (1, n_classes). SPAN-UNet: (N, 1), in the order of the patches
        given.
    levels : tuple of SpanLevel
        From the patches (level 0) to the coarsest level.
    left, top : int
        Patch columns and rows added before the first one by padding: patch
        ``cells[i]`` is cell ``cells[i] - cells.min(0) + (left, top)`` of level 0.
    constant : Tensor
        SPAN-MIL: (n_classes,), the part of the logits that no level gave.
        SPAN-UNet: empty.
    states : Tensor
        What the head reads: SPAN-MIL (1, D), SPAN-UNet (N, D) in the order of
        the patches given.
    """

    logits: Tensor
    levels: tuple[SpanLevel, ...]
    left: int
    top: int
    constant: Tensor
    states: Tensor
