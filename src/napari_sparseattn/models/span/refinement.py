"""SPAN's context-aware refinement: one softmax per patch over two windows, and global tokens.

A patch attends to the union of its regular and its shifted window of 6 x 6
cells, at most 63 keys. Both windows are dense blocks of 36 x 36 scores in their
own layout; the patch's own 3 x 3 quad, common to both, is masked in the second,
and one softmax runs over the 72 columns side by side. That is the same
function as attention along a list of edges, without the edges.

The global tokens' projections of the patches are absorbed into their queries:
``q . (W x + b) = (W^T q) . x + q . b``, so no patch is projected for them, and
their softmax is accumulated band by band, so that a level need not be in memory.
"""

from __future__ import annotations

import functools
import math
from typing import Any, NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from ...device import at_least_float32
from .lattice import WINDOW, Band, Layout, Level

__all__ = ["HEAD_WIDTH", "Projected", "Refinement", "RowStream", "take"]

#: Channels per attention head [given].
HEAD_WIDTH = 64
#: Tokens per band where no gradient is kept: small enough for a CPU's cache,
#: large enough to fill a GPU.
_BAND_CPU, _BAND_GPU = 2048, 2**16
#: A score that the softmax turns into exactly 0, yet safe to subtract.
_NEVER = -1e9
_SLOTS = WINDOW * WINDOW
_SCALE = 1 / math.sqrt(HEAD_WIDTH)


class _Take(torch.autograd.Function):
    """Rows of a tensor, each taken at most once, so that the gradient is a gather too."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, index: Tensor, inverse: Tensor, kept: Tensor | None) -> Tensor:
        ctx.save_for_backward(inverse, kept)
        return x.index_select(0, index)

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor, None, None, None]:
        inverse, kept = ctx.saved_tensors
        gradient = gradients[0].contiguous().index_select(0, inverse)
        if kept is not None:
            gradient.mul_(kept.view(-1, *[1] * (gradient.ndim - 1)))
        return gradient, None, None, None


def take(x: Tensor, index: Tensor, inverse: Tensor, kept: Tensor | None = None) -> Tensor:
    """Return ``x[index]`` for an index that holds no used row twice.

    Parameters
    ----------
    x : Tensor
        (m, ...) rows.
    index : Tensor
        (k,) int64. Entries whose rows are never used downstream may be anything.
    inverse : Tensor
        (m,) int64, where in `index` each row of `x` went.
    kept : Tensor, optional
        (m,) bool, False for rows of `x` that went nowhere.

    Notes
    -----
    The gradient of plain indexing is a scatter, which is far slower on a CPU.
    """
    taken: Tensor = _Take.apply(x, index, inverse, kept)  # type: ignore[no-untyped-call]
    return taken


# Made in inference mode, the cached tensors could never be used in training.
@functools.lru_cache(maxsize=8)
@torch.inference_mode(False)
def _offsets(device: torch.device) -> tuple[Tensor, Tensor]:
    """Inside a window: (36, 36) index into the bias table, and where the quads differ."""
    slot = torch.arange(_SLOTS)
    x, y = slot // WINDOW, slot % WINDOW
    # [query, key]
    dx, dy = x[None] - x[:, None], y[None] - y[:, None]
    index = (dx + WINDOW - 1) * (2 * WINDOW - 1) + dy + WINDOW - 1
    quad = x // 3 * 2 + y // 3
    return index.to(device), (quad[None] != quad[:, None]).to(device)


class Projected(NamedTuple):
    """(m, D) tokens, e.g. of a band and its halo, and their local projections."""

    x: Tensor
    query: Tensor
    key: Tensor
    value: Tensor

    def of(self, rows: slice | Tensor) -> Projected:
        """Return some of them."""
        return Projected(*(tensor[rows] for tensor in self))


def _exchange(
    regular: Layout, other: Layout, own: slice, heads: int
) -> tuple[Tensor, Tensor, Tensor]:
    """Rows of `other` for the rows of `regular`, the inverse, and which rows have one."""
    spots = other.tokens_to_slots(heads)[own.start * heads : own.stop * heads]
    there = spots[regular.slots_to_tokens(heads)]
    back = torch.zeros(other.table.numel() * heads, dtype=torch.int64, device=spots.device)
    kept = torch.zeros_like(back, dtype=torch.bool)
    back[spots] = regular.tokens_to_slots(heads)
    kept[spots] = True
    return there, back, kept


class Refinement(nn.Module):
    """One transformer layer over the cells of a level and the global tokens.

    Parameters
    ----------
    width : int
        Channels D, a multiple of 64; one head per 64.
    ff_ratio : float
        Hidden width of the feed-forward part, in units of D.
    attention_dropout, projection_dropout : float
        Dropout rates of the attention weights, and after the output
        projection and in the feed-forward part.
    """

    def __init__(
        self,
        width: int,
        ff_ratio: float = 2.0,
        attention_dropout: float = 0.05,
        projection_dropout: float = 0.0,
    ) -> None:
        super().__init__()
        if width % HEAD_WIDTH or width <= 0:
            raise ValueError(f"the width must be a multiple of {HEAD_WIDTH}, got {width}")
        self.heads = width // HEAD_WIDTH
        self.attention_dropout = attention_dropout
        self.dropout = nn.Dropout(projection_dropout)
        self.norm1 = nn.LayerNorm(width)
        self.query = nn.Linear(width, width)
        self.key = nn.Linear(width, width)
        self.value = nn.Linear(width, width)
        self.global_query = nn.Linear(width, width)
        self.global_key = nn.Linear(width, width)
        self.global_value = nn.Linear(width, width)
        side = 2 * WINDOW - 1
        self.bias = nn.Parameter(torch.empty(self.heads, side, side))
        nn.init.trunc_normal_(self.bias, std=0.02)
        self.out = nn.Linear(width, width)
        self.norm2 = nn.LayerNorm(width)
        self.up = nn.Linear(width, int(width * ff_ratio))
        self.down = nn.Linear(int(width * ff_ratio), width)

    def forward(
        self, x: Tensor, tokens: Tensor, level: Level, local: bool = True
    ) -> tuple[Tensor, Tensor, Tensor]:
        """Refine a level that is in memory.

        Parameters
        ----------
        x : Tensor
            (n, D) tokens of the level's cells, in lattice order. Without
            gradients they are overwritten.
        tokens : Tensor
            (G, D) global tokens, G at least 1.
        level : Level
            The cells.
        local : bool
            False to leave the cells as they are and refine the global tokens
            only, where nothing reads the cells any more.

        Returns
        -------
        x, tokens, attention : Tensor
            (n, D); (G, D); (G, heads, n + G), see `SpanLevel.attention`.
        """
        row_stream = RowStream(self, tokens, level)
        if not local:
            row_stream.read(x, 0)
            return (x, *row_stream.finish())
        if torch.is_grad_enabled():
            (band,) = level.bands()
            return (row_stream.step(band, x), *row_stream.finish())
        for band in level.bands(_BAND_CPU if x.device.type == "cpu" else _BAND_GPU):
            # The stream has what later bands need of these rows.
            x[band.start : band.stop] = row_stream.step(band, x[band.fresh : band.key_stop])
        return (x, *row_stream.finish())

    def project(self, x: Tensor, normed: Tensor | None = None) -> Projected:
        """Project (m, D) tokens for local attention; `normed` are they after `norm1`."""
        normed = self.norm1(x) if normed is None else normed
        return Projected(x, self.query(normed), self.key(normed), self.value(normed))

    def feed_forward(self, x: Tensor) -> Tensor:
        """Return ``x + FFN(LayerNorm(x))``."""
        hidden = F.relu(self.up(self.norm2(x)), inplace=True)
        refined: Tensor = x + self.dropout(self.down(self.dropout(hidden)))
        return refined

    def local_weights(self, query: Tensor, keys: Tensor, offset: Tensor) -> Tensor:
        """Attention of one cell, as `attend` computes it for all.

        Parameters
        ----------
        query : Tensor
            (1, D) its token.
        keys : Tensor
            (m, D) its keys' tokens.
        offset : Tensor
            (m, 2) int64 their cells minus its own.

        Returns
        -------
        Tensor
            (heads, m), each row summing to 1.
        """
        asked = self.query(self.norm1(query)).view(self.heads, HEAD_WIDTH)
        offered = self.key(self.norm1(keys)).view(-1, self.heads, HEAD_WIDTH)
        scores = at_least_float32(torch.einsum("hc,mhc->hm", asked, offered)) * _SCALE
        place = offset + WINDOW - 1
        return (scores + self.bias[:, place[:, 0], place[:, 1]]).softmax(-1)

    def attend(
        self, tokens: Projected, cells: Tensor, own: slice, shifted: bool, sentinels: list[int]
    ) -> Tensor:
        """Local attention of the tokens `own` over all given: as many rows, D columns.

        `sentinels` are those of them that are no keys to themselves; one that
        has no other key either gets zeros.
        """
        inner = tokens.of(own)
        regular = Layout.build(cells[own], 0)
        index, apart = _offsets(cells.device)
        bias = self.bias.flatten(1)[:, index]
        scores = self._scores(inner, regular, bias)
        ends = [(regular.place[i] // _SLOTS, regular.place[i] % _SLOTS) for i in sentinels]
        for window, slot in ends:
            scores[window, :, slot, slot] = _NEVER
        mixed: Tensor | None = None
        if shifted:
            other = Layout.build(cells, WINDOW // 2)
            second = self._scores(tokens, other, bias.masked_fill(~apart, _NEVER))
            # Rows of the shifted windows, brought to the order of the regular ones.
            there, back, kept = _exchange(regular, other, own, self.heads)
            second = take(second.flatten(0, 2), there, back, kept).view_as(scores)
            scores = torch.cat([scores, second], dim=-1)
        weights = scores.softmax(dim=-1)
        if self.training and self.attention_dropout:
            weights = F.dropout(weights, self.attention_dropout)
        if shifted:
            weights, moved = weights.split(_SLOTS, dim=-1)
            moved = take(moved.reshape(-1, _SLOTS), back, there, regular.filled_slots(self.heads))
            moved = moved.view(-1, self.heads, _SLOTS, _SLOTS)
            mixed = self._weighted(moved, tokens.value, other)[own]
        direct = self._weighted(weights, inner.value, regular)
        mixed = direct if mixed is None else direct + mixed
        if sentinels:
            alive = mixed.new_ones(len(mixed), 1)
            for i, (window, slot) in zip(sentinels, ends, strict=True):
                alive[i] = (scores[window, :, slot] > _NEVER / 2).any()
            mixed = mixed * alive
        return mixed

    def _scores(self, tokens: Projected, layout: Layout, bias: Tensor) -> Tensor:
        """(W, heads, 36 queries, 36 keys)."""
        query, key = (self._lay_out(x, layout) for x in (tokens.query, tokens.key))
        scores = at_least_float32(torch.matmul(query, key.transpose(-1, -2)))
        gaps = torch.zeros_like(layout.present, dtype=scores.dtype)
        gaps.masked_fill_(~layout.present, _NEVER)
        return scores.mul_(_SCALE).add_(bias.to(scores.dtype)).add_(gaps[:, None, None])

    def _lay_out(self, x: Tensor, layout: Layout) -> Tensor:
        """(m, D) tokens as (W, heads, 36, 64)."""
        rows = take(
            x.reshape(-1, HEAD_WIDTH),
            layout.slots_to_tokens(self.heads),
            layout.tokens_to_slots(self.heads),
        )
        return rows.view(-1, self.heads, _SLOTS, HEAD_WIDTH)

    def _weighted(self, weights: Tensor, value: Tensor, layout: Layout) -> Tensor:
        """Sum of the values under (W, heads, 36, 36) weights, as (m, D) tokens."""
        mixed = torch.matmul(weights.to(value.dtype), self._lay_out(value, layout))
        rows = take(
            mixed.reshape(-1, HEAD_WIDTH),
            layout.tokens_to_slots(self.heads),
            layout.slots_to_tokens(self.heads),
            layout.filled_slots(self.heads),
        )
        return rows.view(len(layout.place), -1)


class RowStream:
    """One pass of a `Refinement` over a level, band by band.

    Call `step` for each band in turn (or `read` for bands whose cells stay as
    they are), then `finish`.

    Parameters
    ----------
    layer : Refinement
        The layer.
    tokens : Tensor
        (G, D) global tokens.
    level : Level
        The cells.
    """

    def __init__(self, layer: Refinement, tokens: Tensor, level: Level) -> None:
        self.layer, self.tokens, self.level = layer, tokens, level
        heads = layer.heads
        count = len(tokens)
        normed = layer.norm1(tokens)

        def split(x: Tensor) -> Tensor:
            return x.view(count, heads, HEAD_WIDTH)

        query = split(layer.global_query(normed)) * _SCALE
        key = split(layer.global_key(normed))
        self.value = split(layer.global_value(normed))
        per_head = (heads, HEAD_WIDTH, -1)
        # Absorbed: what a cell's normed token is multiplied with for its score.
        self.ask = torch.einsum("ghc,hcd->ghd", query, layer.global_key.weight.view(per_head))
        bias = layer.global_key.bias.view(heads, HEAD_WIDTH)
        self.ask_bias = at_least_float32(torch.einsum("ghc,hc->gh", query, bias))
        self.tell = torch.einsum(
            "ghc,hcd->hgd", key * _SCALE, layer.global_query.weight.view(per_head)
        )
        bias = layer.global_query.bias.view(heads, HEAD_WIDTH)
        self.tell_bias = torch.einsum("ghc,hc->hg", key * _SCALE, bias)
        self.own = at_least_float32(torch.einsum("ghc,khc->ghk", query, key))
        self.peak = self.own.detach().amax(-1)
        self.scores: list[Tensor] = []
        weights = (self.own - self.peak[..., None]).exp()
        self.total = weights.sum(-1)
        self.sum = torch.zeros_like(self.ask, dtype=self.own.dtype)
        self.mass = torch.zeros_like(self.total)
        self.carried: Projected | None = None
        self.carried_from = 0

    def step(self, band: Band, fresh: Tensor) -> Tensor:
        """Refine one band.

        Parameters
        ----------
        band : Band
            The next band of the level.
        fresh : Tensor
            (key_stop - fresh, D) its tokens that no band had before.

        Returns
        -------
        Tensor
            (stop - start, D) refined tokens.
        """
        layer = self.layer
        new = layer.project(fresh, self.read(fresh, band.fresh))
        if self.carried is not None:
            # What the last band left, without what lies before this one's keys.
            old = self.carried.of(slice(band.key_start - self.carried_from, None))
            new = Projected(*(torch.cat(pair) for pair in zip(old, new, strict=True)))
        # Copies, or the whole band would stay in memory behind its last columns.
        self.carried_from = band.kept
        self.carried = Projected(
            *(part.clone() for part in new.of(slice(band.kept - band.key_start, None)))
        )
        own = slice(band.start - band.key_start, band.stop - band.key_start)
        ends = (0, len(self.level) - 1)
        sentinels = [end - band.start for end in ends if band.start <= end < band.stop]
        cells = self.level.cells[band.key_start : band.key_stop]
        mixed = layer.attend(new, cells, own, self.level.shifted, sentinels)
        x = new.x[own]
        del new
        return self.refine(x, mixed, sentinels)

    def refine(self, x: Tensor, mixed: Tensor, sentinels: list[int]) -> Tensor:
        """Finish cells whose local attention is known.

        Parameters
        ----------
        x, mixed : Tensor
            (m, D) tokens, and what `Refinement.attend` gave them.
        sentinels : list of int
            Those of them that read nothing from the global tokens.

        Returns
        -------
        Tensor
            (m, D) refined tokens.
        """
        heard = self._collect(x)
        if sentinels:
            valid = mixed.new_ones(len(mixed), 1)
            valid[sentinels] = 0
            heard = heard * valid
        x = x + self.layer.dropout(self.layer.out(mixed + heard))
        return self.layer.feed_forward(x)

    def read(self, x: Tensor, first: int) -> Tensor:
        """Let the global tokens attend to more cells.

        Parameters
        ----------
        x : Tensor
            (m, D) tokens.
        first : int
            The level's index of the first of them.

        Returns
        -------
        Tensor
            (m, D) ``norm1(x)``.
        """
        normed: Tensor = self.layer.norm1(x)
        if not len(x):
            return normed
        scores = at_least_float32(normed @ self.ask.flatten(0, 1).T).T
        scores = scores.reshape(*self.ask.shape[:2], -1) + self.ask_bias[..., None]
        ends = (0, len(self.level) - 1)
        scores[..., [end - first for end in ends if first <= end < first + len(x)]] = _NEVER
        peak = torch.maximum(self.peak, scores.detach().amax(-1))
        fade = (self.peak - peak).exp()
        weights = (scores - peak[..., None]).exp()
        self.peak = peak
        self.total = self.total * fade + weights.sum(-1)
        self.scores.append(scores.detach())
        weights = self._drop(weights)
        summed = weights.flatten(0, 1).to(normed.dtype) @ normed
        self.mass = self.mass * fade + weights.sum(-1)
        self.sum = self.sum * fade[..., None] + at_least_float32(summed).view_as(self.sum)
        return normed

    def finish(self) -> tuple[Tensor, Tensor]:
        """Refine the global tokens, once all cells have been read.

        Returns
        -------
        tokens, attention : Tensor
            (G, D) and (G, heads, n + G).
        """
        layer = self.layer
        own = (self.own - self.peak[..., None]).exp() / self.total[..., None]
        weight = layer.global_value.weight.view(layer.heads, HEAD_WIDTH, -1)
        bias = layer.global_value.bias.view(layer.heads, HEAD_WIDTH)
        summed = (self.sum / self.total[..., None]).to(weight.dtype)
        mixed = torch.einsum("ghd,hcd->ghc", summed, weight)
        mixed = mixed + (self.mass / self.total)[..., None].to(bias.dtype) * bias
        mixed = mixed + torch.einsum("ghk,khc->ghc", self._drop(own).to(bias.dtype), self.value)
        tokens = self.tokens + layer.dropout(layer.out(mixed.flatten(1).to(self.tokens.dtype)))
        scores = torch.cat([*self.scores, self.own.detach()], dim=-1)
        attention = (scores - self.peak[..., None]).exp() / self.total.detach()[..., None]
        return layer.feed_forward(tokens), attention

    def _collect(self, x: Tensor) -> Tensor:
        """What cells read from the global tokens: (m, D), or (D,) if the same for all."""
        if len(self.tokens) == 1 and not (self.layer.training and self.layer.attention_dropout):
            return self.value.flatten()
        scores = self.layer.norm1(x) @ self.tell.flatten(0, 1).T + self.tell_bias.flatten()
        weights = at_least_float32(scores).view(len(x), self.layer.heads, -1).softmax(-1)
        weights = self._drop(weights).to(self.value.dtype)
        return torch.einsum("mhg,ghc->mhc", weights, self.value).flatten(1)

    def _drop(self, weights: Tensor) -> Tensor:
        return F.dropout(weights, self.layer.attention_dropout, self.layer.training)
