"""SPAN-MIL: classify a slide from its patches on their grid.

Wu et al., "SPAN" (arXiv 2406.09333). Three levels; at each, patches attend to
their surroundings and a few global tokens to all of them; the first global
token, summed over the levels, is classified. The function is that of the
authors' code; the algorithm is this project's (see `refinement`, `streaming`).
"""

from __future__ import annotations

from typing import cast

import torch
from torch import Tensor, nn

from ...device import at_least_float32
from .condensation import Condensation, Embedding, GlobalTokens
from .config import SpanMilConfig
from .lattice import Lattice
from .local import attention_around, local_attention
from .output import SpanLevel, SpanOutput
from .refinement import Refinement
from .rows import FeatureArray

__all__ = ["SpanMil"]

_LEVELS = 3


class SpanMil(nn.Module):
    """Slide classifier.

    Parameters
    ----------
    config : SpanMilConfig
        Sizes.
    """

    def __init__(self, config: SpanMilConfig) -> None:
        super().__init__()
        self.config = config
        width = config.channels
        self.tokens = GlobalTokens(config.tokens, config.features)
        self.embedding = Embedding(config.features, width, config.input_dropout, config.strategy)
        self.condensations = nn.ModuleList(
            Condensation(width, width, "depthwise", config.strategy) for _ in range(_LEVELS - 1)
        )
        self.refinements = nn.ModuleList(
            Refinement(width, config.ff_ratio, config.attention_dropout, config.projection_dropout)
            for _ in range(_LEVELS)
        )
        self.norm = nn.LayerNorm(width)
        self.dropout = nn.Dropout(config.head_dropout)
        self.head = nn.Linear(width, config.n_classes)

    def forward(self, features: Tensor, cells: Tensor) -> SpanOutput:
        """Classify one slide.

        Parameters
        ----------
        features : Tensor
            (N, F) floating, one row per patch; N at least 1.
        cells : Tensor
            (N, 2) integer (x, y) = (column, row) of each patch on the patch
            grid; any origin, any order, no two alike.

        Returns
        -------
        SpanOutput

        Raises
        ------
        ValueError
            If the shapes do not fit, or two patches share a cell.
        """
        check_patches(features.shape, cells, self.config.features)
        lattice = Lattice.build(cells.to(features.device), _LEVELS)
        tokens = self.embedding.tokens(self.tokens.of(features))
        x = self.embedding.level(features, lattice)
        x, tokens, attention = self.refinement(0)(x, tokens, lattice.levels[0])
        x = self.condensation(0)(x, lattice.levels[0])
        return self.upper_levels(x, tokens, attention, lattice)

    def refinement(self, level: int) -> Refinement:
        """Return a level's transformer layer."""
        return cast("Refinement", self.refinements[level])

    def condensation(self, level: int) -> Condensation:
        """Return what leads from a level to the next."""
        return cast("Condensation", self.condensations[level])

    def upper_levels(
        self, x: Tensor, tokens: Tensor, attention: Tensor, lattice: Lattice
    ) -> SpanOutput:
        """Finish from level 1's condensed tokens and level 0's global tokens and attention."""
        found = [(tokens, attention)]
        for index in range(1, _LEVELS):
            if index > 1:
                x = self.condensation(index - 1)(x, lattice.levels[index - 1])
            tokens = self.condensation(index - 1).tokens(tokens)
            # Nothing reads the last level's cells.
            x, tokens, attention = self.refinement(index)(
                x, tokens, lattice.levels[index], local=index < _LEVELS - 1
            )
            found.append((tokens, attention))
        return self._read_out(found, lattice)

    def _read_out(self, found: list[tuple[Tensor, Tensor]], lattice: Lattice) -> SpanOutput:
        read = torch.stack([tokens[0] for tokens, _ in found])
        summed = self.norm(read.sum(0, keepdim=True))
        logits = at_least_float32(self.head(self.dropout(summed)))
        with torch.no_grad():
            shares, constant = self._shares(at_least_float32(read.detach()))
        states = at_least_float32(summed)
        levels = tuple(
            SpanLevel(level.cells, attention, tokens, share)
            for level, (tokens, attention), share in zip(lattice.levels, found, shares, strict=True)
        )
        return SpanOutput(logits, levels, lattice.left, lattice.top, constant, states)

    def _shares(self, read: Tensor) -> tuple[Tensor, Tensor]:
        """Split the logits: (levels, n_classes) by level, and (n_classes,) the rest."""
        weight = at_least_float32(self.head.weight)
        centred = read - read.mean(1, keepdim=True)
        spread = (read.sum(0).var(unbiased=False) + self.norm.eps).sqrt()
        shares = (centred / spread * at_least_float32(self.norm.weight)) @ weight.T
        constant = weight @ at_least_float32(self.norm.bias) + at_least_float32(self.head.bias)
        return shares, constant

    @torch.no_grad()
    def local_attention(
        self, features: FeatureArray, cells: Tensor, index: int, level: int = 0
    ) -> tuple[Tensor, Tensor]:
        """Where one patch, or one cell of a coarser level, looks around itself.

        Parameters
        ----------
        features : FeatureArray
            (N, F), in memory or on disk; at level 0 only the rows near the
            patch are read.
        cells : Tensor
            As for `forward`.
        index : int
            Level 0: row of the patch. Above: row of `SpanLevel.cells`.
        level : int
            0, 1 or 2.

        Returns
        -------
        keys : Tensor
            (m,) int64, at most 63. Level 0: rows of the patches, -1 for a
            sentinel. Above: rows of `SpanLevel.cells`.
        weights : Tensor
            (heads, m), each row summing to 1.
        """
        lattice = Lattice.build(cells.to(self.head.weight.device), _LEVELS)
        if level == 0:
            return local_attention(self.embedding, self.refinement(0), features, lattice, index)
        whole = torch.as_tensor(features[:]).to(self.head.weight.device)
        x = self.embedding.level(whole, lattice)
        tokens = self.embedding.tokens(self.tokens.of(whole))
        for below in range(level):
            x, tokens, _ = self.refinement(below)(x, tokens, lattice.levels[below])
            x = self.condensation(below)(x, lattice.levels[below])
            tokens = self.condensation(below).tokens(tokens)
        return attention_around(self.refinement(level), x, lattice.levels[level], index)


def check_patches(shape: torch.Size | tuple[int, ...], cells: Tensor, features: int) -> None:
    """Raise a ValueError unless features of this shape fit the cells and the network."""
    if len(shape) != 2 or shape[1] != features:
        raise ValueError(f"expected features of shape (N, {features}), got {tuple(shape)}")
    if len(cells) != shape[0]:
        raise ValueError(f"{shape[0]} rows of features but {len(cells)} cells")
