"""The parts of `SparseAttnNet`; see there for how they fit together."""

from __future__ import annotations

import math

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from ...device import at_least_float32

__all__ = [
    "MIXING_HEADS",
    "CoarseAttention",
    "FineAttention",
    "TileMixing",
    "TokenBlock",
    "select_pixels",
    "sum_tiles",
    "tiles_of",
]

TILE = 4
MIXING_HEADS = 4


class CoarseAttention(nn.Module):
    """f_conv: one score per pixel from two strided, mostly depthwise scales."""

    def __init__(self, in_channels: int, width: int) -> None:
        super().__init__()
        self.stem = nn.Sequential(
            nn.Conv2d(in_channels, width, 3, stride=2, padding=1), nn.BatchNorm2d(width), nn.GELU()
        )
        self.deep = nn.Sequential(
            _separable(width, 2 * width, 3, stride=2),
            _separable(2 * width, 2 * width, 3),
            _separable(2 * width, 2 * width, 3),
        )
        self.merge = nn.Sequential(
            nn.Conv2d(3 * width, width, 1), nn.GELU(), nn.Conv2d(width, 1, 3, padding=1)
        )

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
        """Return scores (B, H, W) of crops (B, C, H, W), and the first features.

        The latter are (B, width, H / 2, W / 2), each made from 3 x 3 pixels.
        """
        half = self.stem(x)
        deep = F.interpolate(self.deep(half), size=half.shape[-2:], mode="bilinear")
        scores = self.merge(torch.cat([half, deep], dim=1))
        return F.interpolate(scores, size=x.shape[-2:], mode="bilinear")[:, 0], half


def _separable(inputs: int, outputs: int, kernel: int, stride: int = 1) -> nn.Sequential:
    return nn.Sequential(
        nn.Conv2d(inputs, inputs, kernel, stride, kernel // 2, groups=inputs, bias=False),
        nn.Conv2d(inputs, outputs, 1, bias=False),
        nn.BatchNorm2d(outputs),
        nn.GELU(),
    )


class LocalMixing(nn.Module):
    """A 3 x 3 depthwise convolution that sees kept pixels only.

    The same function as a submanifold sparse convolution. It is computed in
    one of two ways that agree: as a dense convolution over an otherwise empty
    pixel grid, or tap by tap over the kept pixels. The latter is chosen on a
    CPU when gradients are wanted, where the dense backward is ten times slower.
    """

    def __init__(self, width: int, dilation: int) -> None:
        super().__init__()
        self.dilation = dilation
        self.conv = nn.Conv2d(width, width, 3, padding=dilation, dilation=dilation, groups=width)

    def forward(self, tokens: Tensor, indices: Tensor, grid: tuple[int, int]) -> Tensor:
        if tokens.device.type == "cpu" and torch.is_grad_enabled():
            return self._by_taps(tokens, indices, grid)
        return self._dense(tokens, indices, grid)

    def _dense(self, tokens: Tensor, indices: Tensor, grid: tuple[int, int]) -> Tensor:
        batch, _, width = tokens.shape
        places = indices[..., None].expand(-1, -1, width)
        canvas = tokens.new_zeros(batch, grid[0] * grid[1], width).scatter(1, places, tokens)
        # (B, H, W, D) read as (B, D, H, W) is the channels_last layout: no copy.
        image = canvas.view(batch, *grid, width).permute(0, 3, 1, 2)
        mixed: Tensor = self.conv(image).permute(0, 2, 3, 1).reshape(batch, -1, width)
        return mixed.gather(1, places)

    def _by_taps(self, tokens: Tensor, indices: Tensor, grid: tuple[int, int]) -> Tensor:
        batch, k, width = tokens.shape
        absent = batch * k
        d = self.dilation
        table = indices.new_full((batch, grid[0] + 2 * d, grid[1] + 2 * d), absent)
        row = torch.div(indices, grid[1], rounding_mode="floor")
        place = (row + d) * (grid[1] + 2 * d) + indices - row * grid[1] + d
        order = torch.arange(absent, device=indices.device).view(batch, k)
        table = table.flatten(1).scatter(1, place, order)
        padded = torch.cat([tokens.reshape(absent, width), tokens.new_zeros(1, width)])
        taps = self.conv.weight.reshape(width, 9).t().to(tokens.dtype)
        bias = self.conv.bias
        assert bias is not None
        mixed = bias.to(tokens.dtype).expand(absent, width)
        for i in range(9):
            shift = ((i // 3 - 1) * (grid[1] + 2 * d) + (i % 3 - 1)) * d
            neighbour = table.gather(1, place + shift).flatten()
            mixed = torch.addcmul(mixed, padded.index_select(0, neighbour), taps[i])
        return mixed.view(batch, k, width)


class GlobalMixing(nn.Module):
    """Self-attention among the kept pixels; cost grows with k squared."""

    def __init__(self, width: int, heads: int) -> None:
        super().__init__()
        self.heads = heads
        self.qkv = nn.Linear(width, 3 * width)
        self.out = nn.Linear(width, width)

    def forward(self, tokens: Tensor, indices: Tensor, grid: tuple[int, int]) -> Tensor:
        batch, k, width = tokens.shape
        q, key, v = self.qkv(tokens).view(batch, k, 3, self.heads, -1).permute(2, 0, 3, 1, 4)
        mixed = F.scaled_dot_product_attention(q, key, v)
        out: Tensor = self.out(mixed.transpose(1, 2).reshape(batch, k, width))
        return out


class TokenBlock(nn.Module):
    """Kept pixels exchange information, then each is transformed on its own."""

    def __init__(self, width: int, mixing: str, dilation: int) -> None:
        super().__init__()
        self.mixing: nn.Module | None = None
        if mixing != "none":
            self.norm_mixing = nn.LayerNorm(width)
            self.mixing = (
                LocalMixing(width, dilation)
                if mixing == "local"
                else GlobalMixing(width, MIXING_HEADS)
            )
        self.norm = nn.LayerNorm(width)
        self.mlp = nn.Sequential(
            nn.Linear(width, 2 * width), nn.GELU(), nn.Linear(2 * width, width)
        )

    def forward(self, tokens: Tensor, indices: Tensor, grid: tuple[int, int]) -> Tensor:
        """Map tokens (B, k, D) at pixels (B, k) of an (H, W) crop; same shape."""
        if self.mixing is not None:
            tokens = tokens + self.mixing(self.norm_mixing(tokens), indices, grid)
        out: Tensor = tokens + self.mlp(self.norm(tokens))
        return out


def select_pixels(
    scores: Tensor, k: int, explore: float = 0.0, generator: torch.Generator | None = None
) -> Tensor:
    """Choose k pixels per crop: hard top-k, with a random share when asked.

    Parameters
    ----------
    scores : Tensor
        (B, N) scores; equal scores are taken in any order.
    k : int
        How many to keep, 1 to N.
    explore : float
        Share of the k drawn uniformly from pixels that are not among the top
        ``k - round(explore * k)``. Without it a pixel that is never kept is
        never taught, and could not enter. 0 is plain top-k, as at inference.
    generator : torch.Generator, optional
        Source of the random draw.

    Returns
    -------
    Tensor
        (B, k) int64, ascending in each row, without repeats.
    """
    n = scores.shape[1]
    if not 1 <= k <= n:
        raise ValueError(f"k must lie between 1 and {n}, got {k}")
    drawn = min(round(explore * k), k)
    # A graph that is exported cannot ask how many it found.
    if not drawn and scores.device.type == "cpu" and not torch.compiler.is_compiling():
        found = _above_threshold(scores, k)
        if found is not None:
            return found
    top = scores.topk(k - drawn, dim=1, sorted=False).indices
    if drawn:
        lottery = torch.rand(scores.shape, generator=generator, device=scores.device)
        lottery.scatter_(1, top, -1.0)
        top = torch.cat([top, lottery.topk(drawn, dim=1, sorted=False).indices], dim=1)
    return top.sort(dim=1).values


def _above_threshold(scores: Tensor, k: int) -> Tensor | None:
    """Top-k by its threshold, many times faster on a CPU; None where scores tie there."""
    rows, n = scores.shape
    # numpy finds the threshold ten times as fast as torch does.
    values = at_least_float32(scores.detach()).numpy()
    least = np.partition(values, n - k, axis=1)[:, n - k, None]
    kept = np.flatnonzero(values >= least)
    if len(kept) != k * rows:
        return None
    indices = kept.reshape(rows, k) - np.arange(rows)[:, None] * n
    # As many in all, but more in one row and fewer in another where scores are not numbers.
    return torch.from_numpy(indices) if indices.min() >= 0 and indices.max() < n else None


def sum_tiles(tokens: Tensor, indices: Tensor, grid: tuple[int, int], side: int) -> Tensor:
    """Sum the kept tokens of each tile.

    Parameters
    ----------
    tokens : Tensor
        (B, k, D).
    indices : Tensor
        (B, k) int64, their pixels, each once in a crop.
    grid : (int, int)
        Height and width of the crop.
    side : int
        Of a tile, in pixels; the last row and column of tiles may reach over the crop.

    Returns
    -------
    Tensor
        (B, rows * columns, D).
    """
    batch, k, width = tokens.shape
    rows, columns = -(-grid[0] // side), -(-grid[1] // side)
    tile = tiles_of(indices, grid, side)
    tile = tile + torch.arange(batch, device=tile.device)[:, None] * rows * columns
    if torch.compiler.is_compiling():
        # A graph must not add to one place twice: onnxruntime does so from
        # several threads at once and now and then loses a token. So each pixel
        # has a row of its own, those of a tile one after the other.
        row = torch.div(indices, grid[1], rounding_mode="floor")
        column = indices - row * grid[1]
        within = torch.remainder(row, side) * side + torch.remainder(column, side)
        place = (tile * side**2 + within).view(batch * k)
        apart = tokens.new_zeros(batch * rows * columns * side**2, width)
        apart = apart.index_put((place,), tokens.reshape(batch * k, width))
        return apart.view(batch, rows * columns, side**2, width).sum(dim=2)
    total = tokens.new_zeros(batch * rows * columns, width)
    total = total.index_add(0, tile.flatten(), tokens.reshape(batch * k, width))
    return total.view(batch, rows * columns, width)


def tiles_of(indices: Tensor, grid: tuple[int, int], side: int) -> Tensor:
    """Return the tile, counted along its rows, that each pixel (B, k) of a crop lies in."""
    row = torch.div(indices, grid[1], rounding_mode="floor")
    column = indices - row * grid[1]
    tile = torch.div(row, side, rounding_mode="floor") * -(-grid[1] // side)
    return tile + torch.div(column, side, rounding_mode="floor")


class TileMixing(nn.Module):
    """Kept tokens talk over larger distances, through means over small tiles.

    Each tile holds the mean of its kept tokens and the share of its pixels
    that were kept; convolutions pass it on, and every token gets its tile's
    answer added. Pixels that were not kept take no part.
    """

    def __init__(self, width: int, tile_width: int, depth: int) -> None:
        super().__init__()
        self.inward = nn.Linear(width + 1, tile_width)
        self.blocks = nn.ModuleList(TileBlock(tile_width) for _ in range(depth))
        self.norm = nn.LayerNorm(tile_width)
        self.outward = nn.Linear(tile_width, width)

    def forward(self, tokens: Tensor, indices: Tensor, grid: tuple[int, int]) -> Tensor:
        """Return what each token (B, k, D) gets from afar; same shape."""
        batch, k, width = tokens.shape
        rows, columns = -(-grid[0] // TILE), -(-grid[1] // TILE)
        ones = torch.ones_like(tokens[..., :1])
        # Half precision would lose tokens of a full tile.
        joined = at_least_float32(torch.cat([tokens, ones], dim=2))
        total = sum_tiles(joined, indices, grid, TILE).view(batch * rows * columns, width + 1)
        count = total[:, -1:]
        mean = torch.cat([total[:, :-1] / count.clamp_min(1), count / TILE**2], dim=1)
        tiles = self.inward(mean).view(batch, rows, columns, -1)
        for block in self.blocks:
            tiles = block(tiles)
        back: Tensor = self.outward(self.norm(tiles)).view(batch * rows * columns, width)
        tile = tiles_of(indices, grid, TILE)
        tile = tile + torch.arange(batch, device=tile.device)[:, None] * rows * columns
        return back.index_select(0, tile.flatten()).view(batch, k, width)


class TileBlock(nn.Module):
    def __init__(self, width: int) -> None:
        super().__init__()
        self.norm = nn.LayerNorm(width)
        self.conv = nn.Conv2d(width, width, 3, padding=1, groups=width)
        self.mlp = nn.Sequential(
            nn.Linear(width, 2 * width), nn.GELU(), nn.Linear(2 * width, width)
        )

    def forward(self, tiles: Tensor) -> Tensor:
        # (B, H, W, D) read as (B, D, H, W) is the channels_last layout: no copy.
        mixed = self.conv(self.norm(tiles).permute(0, 3, 1, 2)).permute(0, 2, 3, 1)
        out: Tensor = tiles + self.mlp(mixed)
        return out


class FineAttention(nn.Module):
    """The class token reads all k + 1 tokens; the attention is returned.

    Only the class token asks, so the cost is linear in k; and since the sum
    over tokens can be taken before the value projection, and the key
    projection moved to the single query, the projections cost nothing per
    token either.
    """

    def __init__(self, width: int, class_width: int, heads: int) -> None:
        super().__init__()
        self.heads = heads
        self.own = nn.Linear(class_width, width)
        self.norm = nn.LayerNorm(width)
        self.norm_class = nn.LayerNorm(class_width)
        self.query = nn.Linear(class_width, heads * width)
        self.out = nn.Linear(heads * width, class_width)
        self.norm_mlp = nn.LayerNorm(class_width)
        self.mlp = nn.Sequential(
            nn.Linear(class_width, 2 * class_width),
            nn.GELU(),
            nn.Linear(2 * class_width, class_width),
        )

    def forward(
        self, pixels: Tensor, state: Tensor, gates: Tensor | None = None
    ) -> tuple[Tensor, Tensor]:
        """Read pixel tokens (B, k, D) into the state (B, class_width).

        `gates` (B, k) multiply the pixels' weights before they are made to
        sum to 1. Returns the new state and the attention, (B, heads, k + 1),
        the class token last.
        """
        tokens = self.norm(torch.cat([pixels, self.own(state)[:, None].to(pixels.dtype)], dim=1))
        batch, _, width = tokens.shape
        query = self.query(self.norm_class(state)).view(batch, self.heads, width)
        # One query and its weights are wanted: explicit, not fused attention.
        scores = (query @ tokens.transpose(1, 2)) / math.sqrt(width)
        scores = at_least_float32(scores)
        if gates is not None:
            scores = scores + F.pad(gates.log(), (0, 1))[:, None]
        attention = scores.softmax(dim=-1)
        read = (attention.to(tokens.dtype) @ tokens).reshape(batch, self.heads * width)
        state = state + self.out(read)
        state = state + self.mlp(self.norm_mlp(state))
        return state, attention
