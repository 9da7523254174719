"""From one level of SPAN's pyramid to the next, and the tokens that enter it."""

from __future__ import annotations

import re
from collections.abc import Sequence
from typing import Literal

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from .lattice import Lattice, Level
from .refinement import take

__all__ = ["Condensation", "Embedding", "Expansion", "GlobalTokens", "Strategy", "token_kind"]

#: How global tokens change level: by a Linear, or unchanged where widths allow.
Strategy = Literal["identity", "proj"]
#: Patches embedded or condensed at a time where no gradient is kept.
_CHUNK = 2**12


def _project_tokens(strategy: Strategy, inputs: int, outputs: int) -> nn.Module:
    if strategy == "identity" and inputs == outputs:
        return nn.Identity()
    return nn.Linear(inputs, outputs)


def token_kind(text: str) -> tuple[str, float]:
    """Split the authors' name of a global token, such as ``"lrn1e-4"``.

    Returns
    -------
    kind : str
        ``"lrn"`` (learned), ``"fix"`` (constant), ``"max"`` or ``"mean"``.
    std : float
        Spread that the first two start from.

    Raises
    ------
    ValueError
        For any other name.
    """
    if text in ("max", "mean"):
        return text, 0.0
    found = re.fullmatch(r"(lrn|fix)[:_]*(\d*\.?\d*(?:e[+-]?\d+)?)", text)
    if found:
        try:
            return found[1], float(found[2] or 1e-4)
        except ValueError:
            pass
    raise ValueError(
        f"a global token must be 'max', 'mean', 'lrn' or 'fix' (with a spread, 'lrn1e-4'), "
        f"got {text!r}"
    )


class GlobalTokens(nn.Module):
    """The global tokens as they enter, in the space of the features.

    Parameters
    ----------
    kinds : sequence of str
        See `token_kind`.
    features : int
        Width F of the features.
    """

    fixed: Tensor | None

    def __init__(self, kinds: Sequence[str], features: int) -> None:
        super().__init__()
        parsed = [token_kind(kind) for kind in kinds]
        self.kinds = tuple(kind for kind, _ in parsed)
        self.learned = nn.ParameterList(
            nn.Parameter(nn.init.trunc_normal_(torch.empty(1, features), std=std))
            for kind, std in parsed
            if kind == "lrn"
        )
        fixed = [
            nn.init.trunc_normal_(torch.empty(1, features), std=std)
            for kind, std in parsed
            if kind == "fix"
        ]
        self.register_buffer("fixed", torch.cat(fixed) if fixed else None)

    @property
    def needs_features(self) -> bool:
        """Whether the features' maximum or mean is asked for."""
        return bool({"max", "mean"} & set(self.kinds))

    def forward(self, highest: Tensor | None = None, mean: Tensor | None = None) -> Tensor:
        """Return the (G, F) tokens.

        Parameters
        ----------
        highest, mean : Tensor, optional
            (F,) over the padded tokens, that is with the sentinels' zeros.
        """
        rows, learned, fixed = [], iter(self.learned), 0
        for kind in self.kinds:
            if kind == "lrn":
                rows.append(next(learned))
            elif kind == "fix":
                assert self.fixed is not None
                rows.append(self.fixed[fixed : fixed + 1])
                fixed += 1
            else:
                row = highest if kind == "max" else mean
                assert row is not None
                rows.append(row[None])
        return torch.cat(rows)

    def of(self, features: Tensor) -> Tensor:
        """Return the (G, F) tokens for (N, F) features in memory."""
        if not self.needs_features:
            return self.forward()
        total = features.sum(0, dtype=torch.promote_types(features.dtype, torch.float32))
        return self.forward(features.amax(0).clamp_min(0), total / (len(features) + 2))


class Embedding(nn.Module):
    """Level 0: patch features and global tokens to the network's width.

    Parameters
    ----------
    features, width : int
        F and D.
    dropout : float
        Rate after the patches' projection.
    strategy : {"identity", "proj"}
        How global tokens enter; with equal widths, ``"identity"`` leaves them.
    """

    def __init__(self, features: int, width: int, dropout: float, strategy: Strategy) -> None:
        super().__init__()
        self.patches = nn.Linear(features, width, bias=False)
        self.token_proj = _project_tokens(strategy, features, width)
        self.dropout = nn.Dropout(dropout)

    def forward(self, features: Tensor) -> Tensor:
        """Project (m, F) patch features, of any floating type, to (m, D)."""
        projected: Tensor = self.dropout(self.patches(features.to(self.patches.weight.dtype)))
        return projected

    def tokens(self, tokens: Tensor) -> Tensor:
        """Let the (G, F) global tokens enter: (G, D)."""
        entered: Tensor = self.token_proj(tokens.to(self.patches.weight.dtype))
        return entered

    def level(self, features: Tensor, lattice: Lattice) -> Tensor:
        """Return level 0's (N + 2, D) tokens in lattice order, the sentinels' being zeros."""
        if torch.is_grad_enabled():
            return F.pad(take(self(features), lattice.order, lattice.rank), (0, 0, 1, 1))
        tokens = self.patches.weight.new_zeros(len(features) + 2, self.patches.out_features)
        for rows, room in zip(lattice.order.split(_CHUNK), tokens[1:-1].split(_CHUNK), strict=True):
            room.copy_(self(features.index_select(0, rows)))
        return tokens


class Condensation(nn.Module):
    """One halving: each cell of the next level from its 1 to 4 children.

    Parameters
    ----------
    inputs, outputs : int
        Widths of this level and the next.
    kind : {"depthwise", "full"}
        SPAN-MIL: LayerNorm, a depthwise 2 x 2 convolution, divided by the
        number of children. SPAN-UNet: a full one, then LayerNorm.
    strategy : {"identity", "proj"}
        How global tokens pass.
    """

    def __init__(
        self, inputs: int, outputs: int, kind: Literal["depthwise", "full"], strategy: Strategy
    ) -> None:
        super().__init__()
        self.depthwise = kind == "depthwise"
        if self.depthwise and inputs != outputs:
            raise ValueError("a depthwise condensation keeps the width")
        # A Conv2d for its shape and initial values; the cells are sparse.
        self.conv = nn.Conv2d(
            inputs, outputs, 2, 2, bias=False, groups=inputs if self.depthwise else 1
        )
        self.norm = nn.LayerNorm(inputs if self.depthwise else outputs)
        self.token_norm = nn.LayerNorm(inputs) if self.depthwise else nn.Identity()
        self.token_proj = _project_tokens(strategy, inputs, outputs)

    def forward(self, x: Tensor, level: Level) -> Tensor:
        """Condense the (n, D) tokens of a level to the (n', D') of the next."""
        if torch.is_grad_enabled():
            return self.part(x, level, 0)
        coarse = x.new_empty(len(level.children), self.conv.out_channels)
        for band in level.bands(_CHUNK):
            above = level.parents(band.start, band.stop)
            coarse[above] = self.part(x[band.start : band.stop], level, band.start)
        return coarse

    def part(self, x: Tensor, level: Level, start: int) -> Tensor:
        """Condense the tokens ``start, start + 1, ...`` of a level.

        Parameters
        ----------
        x : Tensor
            (m, D) tokens: all, or whole pairs of columns.
        level : Level
            The level they are of.
        start : int
            Index of the first of them.

        Returns
        -------
        Tensor
            (parents, D') tokens of the next level.
        """
        stop = start + len(x)
        above = level.parents(start, stop)
        children = level.children[above].flatten()
        place = (level.parent[start:stop] - above.start) * 4 + level.slot[start:stop]
        if self.depthwise:
            x = self.norm(x)
        laid = take(x, (children - start).clamp_min(0), place).view(-1, 4, x.shape[1])
        return self._join(laid, (children >= 0).view(-1, 4, 1))

    def join(self, x: Tensor, children: Tensor) -> Tensor:
        """Condense tokens that need not lie in a row, without gradients.

        Parameters
        ----------
        x : Tensor
            (..., m, D) tokens of a level.
        children : Tensor
            (p, 4) int64 which of them make each cell; -1 in a gap.

        Returns
        -------
        Tensor
            (..., p, D') cells of the next level.
        """
        if self.depthwise:
            x = self.norm(x)
        laid = x.index_select(-2, children.flatten().clamp_min(0)).unflatten(-2, (-1, 4))
        return self._join(laid, (children >= 0)[..., None])

    def _join(self, laid: Tensor, held: Tensor) -> Tensor:
        """(..., p, 4, D) children, those of a depthwise one normed, to (..., p, D')."""
        kept = held.to(laid.dtype)
        if self.depthwise:
            weight = self.conv.weight.flatten(1).T
            return (laid * kept * weight).sum(-2) / kept.sum(-2)
        weight = self.conv.weight.flatten(2).transpose(1, 2).flatten(1)
        condensed: Tensor = self.norm(F.linear((laid * kept).flatten(-2), weight))
        return condensed

    def tokens(self, tokens: Tensor) -> Tensor:
        """Pass the (G, D) global tokens on: (G, D')."""
        passed: Tensor = self.token_proj(self.token_norm(tokens))
        return passed


class Expansion(nn.Module):
    """One doubling, onto the cells that the encoder had: Linear, pixel shuffle, LayerNorm.

    Parameters
    ----------
    inputs, outputs : int
        Widths of the coarser level and the finer.
    strategy : {"identity", "proj"}
        How global tokens pass.
    """

    def __init__(self, inputs: int, outputs: int, strategy: Strategy) -> None:
        super().__init__()
        self.linear = nn.Linear(inputs, 4 * outputs, bias=False)
        self.norm = nn.LayerNorm(outputs)
        self.token_proj = _project_tokens(strategy, inputs, outputs)
        with torch.no_grad():
            # All four children start alike, so that no checkerboard is built in.
            one = nn.init.kaiming_normal_(torch.empty(outputs, inputs), mode="fan_out")
            self.linear.weight.copy_(one.repeat_interleave(4, dim=0))

    def forward(self, x: Tensor, level: Level) -> Tensor:
        """Expand the tokens of the next coarser level to those of `level`."""
        spread = self.linear(x).view(len(x), -1, 4).transpose(1, 2).flatten(0, 1)
        children = level.children.flatten()
        place = level.parent * 4 + level.slot
        expanded: Tensor = self.norm(take(spread, place, children.clamp_min(0), children >= 0))
        return expanded

    def part(self, x: Tensor, level: Level, start: int, stop: int) -> Tensor:
        """Expand to the tokens ``start`` to ``stop`` of `level` alone, without gradients.

        Parameters
        ----------
        x : Tensor
            (n', D) tokens of the next coarser level, all of them.
        level, start, stop
            The tokens that are wanted.

        Returns
        -------
        Tensor
            (stop - start, D') tokens.
        """
        if start == stop:
            return x.new_empty(0, self.norm.weight.shape[0])
        above = level.parents(start, stop)
        spread = self.linear(x[above])
        spread = spread.view(len(spread), -1, 4).transpose(1, 2).flatten(0, 1)
        place = (level.parent[start:stop] - above.start) * 4 + level.slot[start:stop]
        expanded: Tensor = self.norm(spread.index_select(0, place))
        return expanded

    def tokens(self, tokens: Tensor) -> Tensor:
        """Pass the (G, D) global tokens on: (G, D')."""
        passed: Tensor = self.token_proj(tokens)
        return passed
