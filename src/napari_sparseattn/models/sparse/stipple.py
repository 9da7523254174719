"""A smooth map of where to look, pixels scattered over it, and tiles that read them.

The parts that `SparseAttnNet` uses with ``selector="map"`` and
``tiles="pyramid"``. They are this project's, not those of Yoshai et al.

**Stippling.** A contiguous patch of the best-scoring pixels shows one spot of
a cell very well and the rest not at all. So the map is read as a density:
each pixel has a fixed threshold u in (0, 1), spread as evenly as a lattice
allows, and the pixels with the largest ``A / u`` are kept. That is a plain
hard top-k, of the map over the threshold. It keeps a pixel exactly where
``u < A / c``, with the one c that leaves k pixels: a share ``A / c`` of the
pixels around each place, evenly spread, and all of them where ``A >= c``. A
smaller k keeps a subset of what a larger one keeps.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from .layers import sum_tiles, tiles_of

__all__ = ["SmoothMap", "TilePyramid", "stipple_scores", "thresholds"]

# The plane's most even additive sequence (Roberts' R2), in whole numbers, so
# that every machine gets the same thresholds.
_STEPS = (49471, 37345)
_LEVELS = 65536
#: Largest logit of a map, either way. Unbounded ones ran off to hundreds in
#: training: such a map is no density but a cut, and its gradients are no numbers.
MOST = 6.0


def thresholds(height: int, width: int, device: torch.device, turn: Tensor | None = None) -> Tensor:
    """Return each pixel's threshold.

    Parameters
    ----------
    height, width : int
        Of the crop in pixels.
    device : torch.device
        Where to compute.
    turn : Tensor, optional
        (B, 1) int64; added to each crop's thresholds, around the end: another
        equally even set. Training draws it at random.

    Returns
    -------
    Tensor
        (1 or B, height * width) float32, in (0, 1).
    """
    row = torch.arange(height, device=device)[:, None] * _STEPS[0]
    column = torch.arange(width, device=device) * _STEPS[1]
    level = (row + column).flatten()[None]
    if turn is not None:
        level = level + turn
    return (torch.remainder(level, _LEVELS) + 0.5) / _LEVELS


def stipple_scores(coarse_logits: Tensor, turn: Tensor | None = None) -> Tensor:
    """Return what to rank pixels by, (B, H * W): the logarithm of A / u.

    Parameters
    ----------
    coarse_logits : Tensor
        (B, H, W).
    turn : Tensor, optional
        See `thresholds`.
    """
    height, width = coarse_logits.shape[-2:]
    u = thresholds(height, width, coarse_logits.device, turn)
    return F.logsigmoid(coarse_logits.flatten(1).float()) - u.log()


class SmoothMap(nn.Module):
    """f_conv that knows a cell from what lies around it, and is smooth.

    Scores are made for squares of 4 x 4 pixels and interpolated, from what
    lies within some 20 pixels, and bounded, so that no place is preferred to
    another by more than 400 to 1. Groups are normalised, not batches, so that a
    smear of another laboratory is not measured by the training smears.
    """

    def __init__(self, in_channels: int, width: int) -> None:
        super().__init__()
        self.stem = nn.Sequential(
            nn.AvgPool2d(2), nn.Conv2d(in_channels, width, 4, stride=2, padding=1)
        )
        self.near = nn.Sequential(_normed(width), nn.Conv2d(width, width, 3, padding=1))
        self.far = nn.Sequential(
            nn.Conv2d(width, 2 * width, 3, stride=2, padding=1),
            _normed(2 * width),
            nn.Conv2d(2 * width, 2 * width, 3, padding=1),
            nn.ReLU(),
            nn.Conv2d(2 * width, width, 1),
        )
        self.score = nn.Sequential(nn.ReLU(), nn.Conv2d(width, 1, 3, padding=1))

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
        """Return scores (B, H, W) of crops (B, C, H, W), and the first features.

        The latter are (B, width, H / 4, W / 4), each made from 8 x 8 pixels.
        """
        stem = self.stem(x)
        near = stem + self.near(stem)
        far = F.interpolate(self.far(near), size=near.shape[-2:], mode="bilinear")
        scores = self.score(near + far)
        scores = MOST * torch.tanh(scores / MOST)
        return F.interpolate(scores, size=x.shape[-2:], mode="bilinear")[:, 0], stem

    @torch.no_grad()
    def sharpen(self, by: float) -> None:
        """Multiply scores, before they are bounded: pixels gather where the map is high."""
        score = self.score[1]
        assert isinstance(score, nn.Conv2d)
        for values in (score.weight, score.bias):
            if values is not None:
                values.mul_(by)


def _normed(width: int) -> nn.Sequential:
    groups = next(g for g in (4, 3, 2, 1) if width % g == 0)
    return nn.Sequential(nn.GroupNorm(groups, width), nn.ReLU())


class TilePyramid(nn.Module):
    """Kept tokens talk to each other through sums over tiles of 2 x 2 pixels.

    A tile holds the sum of its kept tokens; convolutions over tiles, and over
    tiles of tiles, pass it on, and every token gets the answer of its place
    added. Pixels that were not kept take no part.

    Parameters
    ----------
    width : int
        Of the tokens.
    tile_width : int
        Channels at tiles of 4 x 4 pixels; twice that at 8 x 8.
    depth : int
        Blocks at either.
    """

    TILE = 2

    def __init__(self, width: int, tile_width: int, depth: int) -> None:
        super().__init__()
        self.inward = nn.Conv2d(width, tile_width, 3, stride=2, padding=1)
        self.near = nn.ModuleList(_Residual(tile_width) for _ in range(depth))
        self.down = nn.Conv2d(tile_width, 2 * tile_width, 2, stride=2)
        self.far = nn.ModuleList(_Separable(2 * tile_width) for _ in range(depth))
        self.up = nn.Conv2d(2 * tile_width, tile_width, 1)
        self.outward = nn.Conv2d(tile_width, width, 1)

    def forward(
        self,
        tokens: Tensor,
        indices: Tensor,
        grid: tuple[int, int],
        gates: Tensor | None = None,
    ) -> Tensor:
        """Return what each token (B, k, D) gets from the others; same shape.

        Parameters
        ----------
        tokens : Tensor
            (B, k, D).
        indices : Tensor
            (B, k) int64, their pixels.
        grid : (int, int)
            Height and width of the crop, multiples of 8.
        gates : Tensor, optional
            (B, k), the weight of each token in its tile's sum; 1 without.
        """
        batch, k, width = tokens.shape
        rows, columns = grid[0] // self.TILE, grid[1] // self.TILE
        taken = tokens if gates is None else tokens * gates[..., None].to(tokens.dtype)
        total = sum_tiles(taken, indices, grid, self.TILE)
        # (B, H, W, D) read as (B, D, H, W) is the channels_last layout: no copy.
        tiles = self.inward(total.view(batch, rows, columns, width).permute(0, 3, 1, 2))
        for block in self.near:
            tiles = block(tiles)
        far = self.down(tiles)
        for block in self.far:
            far = block(far)
        tiles = tiles + F.interpolate(self.up(far), size=tiles.shape[-2:], mode="nearest")
        back = self.outward(tiles).permute(0, 2, 3, 1).reshape(-1, width)
        place = tiles_of(indices, grid, 2 * self.TILE)
        place = place + torch.arange(batch, device=place.device)[:, None] * (rows * columns // 4)
        told: Tensor = back.index_select(0, place.flatten()).view(batch, k, width)
        return told


class _Residual(nn.Module):
    def __init__(self, width: int) -> None:
        super().__init__()
        self.body = nn.Sequential(
            _normed(width),
            nn.Conv2d(width, width, 3, padding=1),
            nn.ReLU(),
            nn.Conv2d(width, width, 3, padding=1),
        )

    def forward(self, x: Tensor) -> Tensor:
        out: Tensor = x + self.body(x)
        return out


class _Separable(nn.Module):
    def __init__(self, width: int) -> None:
        super().__init__()
        self.body = nn.Sequential(
            nn.Conv2d(width, width, 3, padding=1, groups=width),
            _normed(width),
            nn.Conv2d(width, 2 * width, 1),
            nn.ReLU(),
            nn.Conv2d(2 * width, width, 1),
        )

    def forward(self, x: Tensor) -> Tensor:
        out: Tensor = x + self.body(x)
        return out
