"""SPAN-UNet: a score for every patch of a slide, from its surroundings at all scales.

Wu et al., "SPAN" (arXiv 2406.09333). The encoder of SPAN with widths that grow
by level, then a decoder that returns to the very cells the encoder had, each
doubling followed by attention and by the encoder's tokens of that level.
"""

from __future__ import annotations

from typing import cast

import torch
from torch import Tensor, nn

from ...device import at_least_float32
from .condensation import Condensation, Embedding, Expansion, GlobalTokens
from .config import SpanUnetConfig
from .lattice import Lattice
from .local import attention_around, local_attention
from .mil import check_patches
from .output import SpanLevel, SpanOutput
from .refinement import Refinement, take
from .rows import FeatureArray

__all__ = ["SpanUnet"]

_LEVELS = 3


class _Up(nn.Module):
    """One doubling of the decoder and its transformer layers."""

    def __init__(self, config: SpanUnetConfig, inputs: int, outputs: int, layers: int) -> None:
        super().__init__()
        self.expansion = Expansion(inputs, outputs, config.strategy)
        self.refinements = nn.ModuleList(_refinement(config, outputs) for _ in range(layers))


def _refinement(config: SpanUnetConfig, width: int) -> Refinement:
    return Refinement(width, config.ff_ratio, config.attention_dropout, config.projection_dropout)


class SpanUnet(nn.Module):
    """Patch scorer: one logit per patch.

    Parameters
    ----------
    config : SpanUnetConfig
        Sizes.
    """

    def __init__(self, config: SpanUnetConfig) -> None:
        super().__init__()
        self.config = config
        widths = [config.channels * config.channel_factor**level for level in range(_LEVELS)]
        self.tokens = GlobalTokens(config.tokens, config.features)
        self.embedding = Embedding(
            config.features, widths[0], config.input_dropout, config.strategy
        )
        self.condensations = nn.ModuleList(
            Condensation(widths[i], widths[i + 1], "full", config.strategy)
            for i in range(_LEVELS - 1)
        )
        self.refinements = nn.ModuleList(_refinement(config, width) for width in widths)
        # Level 1 is reached from level 2 alone; level 0 from level 1 beside its skip.
        self.ups = nn.ModuleList(
            (
                _Up(config, widths[2], widths[1], config.up_layers[0]),
                _Up(config, 2 * widths[1], widths[0], config.up_layers[1]),
            )
        )
        self.head = nn.Linear(2 * widths[0], 1)

    def forward(self, features: Tensor, cells: Tensor) -> SpanOutput:
        """Score the patches of one slide.

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
            `SpanOutput.logits` in the order of the rows given; the levels are
            the encoder's.

        Raises
        ------
        ValueError
            If the shapes do not fit, or two patches share a cell.
        """
        check_patches(features.shape, cells, self.config.features)
        lattice = Lattice.build(cells.to(features.device), _LEVELS)
        kept = self._encode(features, lattice, _LEVELS)
        x, tokens = self.upper_levels(kept, lattice)
        up, level = self.up(0), lattice.levels[0]
        x, tokens = up.expansion(x, level), up.expansion.tokens(tokens)
        for layer in up.refinements:
            x, tokens, _ = layer(x, tokens, level)
        x = torch.cat([x, kept[0][0]], dim=1)
        scores = at_least_float32(self.head(x[1:-1]))
        states = take(at_least_float32(x[1:-1]), lattice.rank, lattice.order)
        logits = take(scores, lattice.rank, lattice.order)
        found = [(tokens, attention) for _, tokens, attention in kept]
        return self.read_out(logits, states, found, lattice)

    def up(self, level: int) -> _Up:
        """Return what leads from the next coarser level to `level`."""
        return cast("_Up", self.ups[1 - level])

    def upper_levels(
        self, kept: list[tuple[Tensor, Tensor, Tensor]], lattice: Lattice
    ) -> tuple[Tensor, Tensor]:
        """Go up to level 1: its (n, D) cells and (G, D) tokens, beside those of the encoder.

        `kept` are the cells, global tokens and attention that the encoder had, by level.
        """
        x, tokens, _ = kept[-1]
        up, level = self.up(1), lattice.levels[1]
        x, tokens = up.expansion(x, level), up.expansion.tokens(tokens)
        for layer in up.refinements:
            x, tokens, _ = layer(x, tokens, level)
        return torch.cat([x, kept[1][0]], dim=1), torch.cat([tokens, kept[1][1]], dim=1)

    @staticmethod
    def read_out(
        logits: Tensor, states: Tensor, found: list[tuple[Tensor, Tensor]], lattice: Lattice
    ) -> SpanOutput:
        """Put together what was found: `found` are the encoder's tokens and attention by level."""
        none = logits.new_empty(0)
        levels = tuple(
            SpanLevel(level.cells, attention, tokens, none)
            for level, (tokens, attention) in zip(lattice.levels, found, strict=True)
        )
        return SpanOutput(logits, levels, lattice.left, lattice.top, none, states)

    def encode_upper(
        self, x: Tensor, tokens: Tensor, attention: Tensor, lattice: Lattice
    ) -> list[tuple[Tensor, Tensor, Tensor]]:
        """Encode levels 1 and 2, from level 1's condensed cells and level 0's global tokens.

        In place of level 0's cells, which may not be in memory, stands nothing.
        """
        kept = [(x[:0], tokens, attention)]
        for index in range(1, _LEVELS):
            condensation = cast("Condensation", self.condensations[index - 1])
            if index > 1:
                x = condensation(kept[-1][0], lattice.levels[index - 1])
            entering = condensation.tokens(kept[-1][1])
            kept.append(self.refinements[index](x, entering, lattice.levels[index]))
        return kept

    def _encode(
        self, features: Tensor, lattice: Lattice, count: int
    ) -> list[tuple[Tensor, Tensor, Tensor]]:
        """Refined cells, global tokens and attention of the first `count` levels."""
        kept: list[tuple[Tensor, Tensor, Tensor]] = []
        for index in range(count):
            x, tokens = self._entering(features, lattice, kept)
            kept.append(self.refinements[index](x, tokens, lattice.levels[index]))
        return kept

    def _entering(
        self, features: Tensor, lattice: Lattice, kept: list[tuple[Tensor, Tensor, Tensor]]
    ) -> tuple[Tensor, Tensor]:
        """Cells and global tokens as they enter the next encoder level."""
        if not kept:
            tokens = self.embedding.tokens(self.tokens.of(features))
            return self.embedding.level(features, lattice), tokens
        below = len(kept) - 1
        condensation = cast("Condensation", self.condensations[below])
        x, tokens, _ = kept[-1]
        return condensation(x, lattice.levels[below]), condensation.tokens(tokens)

    @torch.no_grad()
    def local_attention(
        self, features: FeatureArray, cells: Tensor, index: int, level: int = 0
    ) -> tuple[Tensor, Tensor]:
        """Where one patch, or one cell of a coarser level, looks around itself, going down.

        See `SpanMil.local_attention`.
        """
        lattice = Lattice.build(cells.to(self.head.weight.device), _LEVELS)
        layer = cast("Refinement", self.refinements[level])
        if level == 0:
            return local_attention(self.embedding, layer, features, lattice, index)
        whole = torch.as_tensor(features[:]).to(self.head.weight.device)
        x, _ = self._entering(whole, lattice, self._encode(whole, lattice, level))
        return attention_around(layer, x, lattice.levels[level], index)
