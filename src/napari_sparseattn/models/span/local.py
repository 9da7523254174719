"""The local attention of one patch, for showing it."""

from __future__ import annotations

import torch
from torch import Tensor

from .condensation import Embedding
from .lattice import WINDOW, Lattice, Level
from .refinement import Refinement
from .rows import FeatureArray, read_rows

__all__ = ["attention_around", "local_attention"]


def keys_of(level: Level, index: int) -> Tensor:
    """Tokens of a level that token `index` attends to: (m,) int64, at most 63."""
    if not 0 <= index < len(level):
        raise IndexError(f"level has {len(level)} cells, there is no {index}")
    offsets = (0, WINDOW // 2) if level.shifted else (0,)
    near = torch.zeros(len(level), dtype=torch.bool, device=level.cells.device)
    for offset in offsets:
        window = torch.div(level.cells + offset, WINDOW, rounding_mode="floor")
        near |= (window == window[index]).all(1)
    if index in (0, len(level) - 1):
        near[index] = False
    return torch.nonzero(near)[:, 0]


def attention_around(
    layer: Refinement, x: Tensor, level: Level, index: int
) -> tuple[Tensor, Tensor]:
    """Keys of token `index` among a level's tokens `x`, and its (heads, m) attention to them."""
    keys = keys_of(level, index)
    offset = level.cells[keys] - level.cells[index]
    return keys, layer.local_weights(x[index : index + 1], x[keys], offset)


def local_attention(
    embedding: Embedding, layer: Refinement, features: FeatureArray, lattice: Lattice, index: int
) -> tuple[Tensor, Tensor]:
    """Level 0's local attention of patch `index`; see `SpanMil.local_attention`."""
    if not 0 <= index < len(lattice.order):
        raise IndexError(f"there are {len(lattice.order)} patches, there is no {index}")
    level = lattice.levels[0]
    token = int(lattice.rank[index]) + 1
    keys = keys_of(level, token)
    sentinel = (keys == 0) | (keys == len(level) - 1)
    patches = torch.where(sentinel, -1, lattice.order[(keys - 1).clamp(0, len(level) - 3)])
    weight = embedding.patches.weight
    tokens = weight.new_zeros(len(keys), weight.shape[0])
    tokens[~sentinel] = embedding(read_rows(features, patches[~sentinel], weight.device))
    mine = tokens[keys == token]
    return patches, layer.local_weights(mine, tokens, level.cells[keys] - level.cells[token])
