"""The parts of `TNet`; see there for how they fit together."""

from __future__ import annotations

import dataclasses
import math
from typing import Literal

import torch
import torch.nn.functional as F
from torch import Tensor, nn

__all__ = [
    "CandidateGrid",
    "LocationModule",
    "PositionEncoding",
    "levels_of",
    "sample_map",
    "select_candidates",
]

#: Added to a probability before its logarithm is taken, as in the paper's loss.
LOG_FLOOR = 1e-10


@dataclasses.dataclass(frozen=True)
class CandidateGrid:
    """Where the n x n candidate children of a square parent lie (section 3 of the paper).

    A child's side is ``round(parent * overlap)``, the stride the least whole
    number with which n children cover the parent; what they cover beyond it is
    padding, split evenly, the odd pixel first.

    Parameters
    ----------
    parent : int
        Side of the parent in pixels of the full resolution.
    n : int
        Children along each axis, at least 2.
    overlap : float
        Side of a child over that of its parent, between 0 and 1.
    """

    parent: int
    n: int
    overlap: float

    @property
    def side(self) -> int:
        """Side of a child in pixels of the full resolution."""
        return max(1, round(self.parent * self.overlap))

    @property
    def stride(self) -> int:
        """Distance between neighbouring children."""
        return math.ceil((self.parent - self.side) / (self.n - 1))

    @property
    def padding(self) -> int:
        """Pixels by which the first child begins before its parent."""
        covered = self.side + (self.n - 1) * self.stride
        return math.ceil((covered - self.parent) / 2)

    @property
    def starts(self) -> tuple[int, ...]:
        """First pixel of each of the n children along an axis, from the parent's."""
        return tuple(i * self.stride - self.padding for i in range(self.n))

    @property
    def centres(self) -> tuple[float, ...]:
        """Centre of each child along an axis, as a share of the parent's side."""
        return tuple((start + self.side / 2) / self.parent for start in self.starts)


def levels_of(side: int, base: int, overlap: float) -> int:
    """Levels after which a crop's side is no more than `base`; 1 + ceil(ln(S/b) / ln(1/o))."""
    if side <= base:
        return 1
    # The small slack keeps exact powers, such as 896 = 4 * 224, exact.
    return 1 + math.ceil(math.log(side / base) / math.log(1 / overlap) - 1e-9)


def sample_map(
    features: Tensor, grid: CandidateGrid, sampling: Literal["centres", "strided"]
) -> Tensor:
    """Read a feature map where the candidates are.

    Parameters
    ----------
    features : Tensor
        (M, c, h, w), a map of the whole parent.
    grid : CandidateGrid
        The candidates.
    sampling : {"centres", "strided"}
        ``"centres"`` reads at the candidates' centres, bilinear. ``"strided"``
        reads every ``h // n``-th place from the middle of the first, as
        networks of the paper's kind do, which misses the centres; a map of
        n x n is then taken as it is.

    Returns
    -------
    Tensor
        (M, c, n, n).
    """
    if sampling == "centres":
        line = torch.tensor(grid.centres, dtype=features.dtype, device=features.device) * 2 - 1
        y, x = torch.meshgrid(line, line, indexing="ij")
        places = torch.stack([x, y], dim=-1).expand(features.shape[0], -1, -1, -1)
        return F.grid_sample(
            features, places, mode="bilinear", padding_mode="border", align_corners=False
        )
    rows, columns = (_strided(length, grid.n) for length in features.shape[2:])
    return features[:, :, rows][:, :, :, columns]


def _strided(length: int, n: int) -> list[int]:
    if length < n:
        raise ValueError(f"a map of {length} places cannot be read at {n} of them; use 'centres'")
    stride = length // n
    first = (length - (n - 1) * stride - 1) // 2
    return [first + i * stride for i in range(n)]


class LocationModule(nn.Module):
    """Scores the n x n candidates of a crop from its feature map (section 3.1).

    1 x 1 convolution, squeeze and excitation for the context, the candidates'
    own (y, x) joined on, two more 1 x 1 convolutions. The scores are normalised
    to unit length before the softmax, so that probabilities are bounded.

    Parameters
    ----------
    channels : int
        Channels c of the map.
    """

    def __init__(self, channels: int) -> None:
        super().__init__()
        squeezed = max(1, channels // 2)
        self.init = nn.Conv2d(channels, channels, 1)
        self.squeeze = nn.Conv2d(channels, squeezed, 1)
        self.excite = nn.Conv2d(squeezed, channels, 1)
        self.place_scale = nn.Parameter(torch.ones(2))
        self.place_offset = nn.Parameter(torch.zeros(2))
        self.final = nn.Conv2d(channels + 2, channels, 1)
        self.score = nn.Conv2d(channels, 1, 1)

    def forward(self, sampled: Tensor) -> Tensor:
        """Return probabilities (M, n * n), row by row, of maps (M, c, n, n)."""
        hidden = F.silu(self.init(sampled))
        context = hidden.mean(dim=(2, 3), keepdim=True)
        hidden = hidden * self.excite(F.silu(self.squeeze(context))).sigmoid()
        n = sampled.shape[-1]
        line = torch.linspace(-1, 1, n, dtype=sampled.dtype, device=sampled.device)
        places = torch.stack(torch.meshgrid(line, line, indexing="ij"))
        places = places * self.place_scale[:, None, None] + self.place_offset[:, None, None]
        joined = torch.cat([hidden, places.expand(sampled.shape[0], -1, -1, -1)], dim=1)
        scores = self.score(F.silu(self.final(joined))).flatten(1)
        scores = scores.to(torch.promote_types(scores.dtype, torch.float32))
        return F.normalize(scores, dim=1, eps=1e-6).softmax(dim=1)


class PositionEncoding(nn.Module):
    """Where a crop lies in scale space, added to its feature.

    Per coordinate, sines then cosines of ``width // 6`` frequencies; channels
    left over are zero. A linear layer brings them to the feature's width; the
    sum with the feature passes a swish.

    Parameters
    ----------
    features : int
        Width D of the feature.
    width : int
        Channels of the encoding, at least 6.
    kind : {"centre", "index"}
        ``"index"`` is the paper's: (y, x, level), where a child's y is its
        parent's times n plus its row, frequencies from 1 down to 1/100.
        ``"centre"`` is ours, for deep trees, in which overlapping children of
        different parents reach the same place with different indices: the
        crop's centre, from -1 to 1 over the root, at frequencies from 1 up to
        100 (times pi), and the level as in the paper.
    """

    def __init__(
        self, features: int, width: int, kind: Literal["centre", "index"] = "centre"
    ) -> None:
        super().__init__()
        count = width // 6
        if count < 1:
            raise ValueError(f"a position encoding needs at least 6 channels, got {width}")
        self.kind, self.width = kind, width
        down = [100 ** -(i / max(count - 1, 1)) for i in range(count)]
        up = [math.pi / value for value in down]
        # Not a buffer: one that is not saved would be lost on the meta device.
        self.frequencies = [down, down, down] if kind == "index" else [up, up, down]
        self.linear = nn.Linear(width, features)

    def forward(self, feature: Tensor, places: Tensor) -> Tensor:
        """Join features (M, D) with places (M, 3) float64 on the CPU: y, x, level."""
        phase = places[:, :, None] * places.new_tensor(self.frequencies)
        codes = torch.cat([phase.sin(), phase.cos()], dim=2).flatten(1)
        # Float64 matters on a slide, and not every device has it: the CPU does.
        codes = F.pad(codes, (0, self.width - codes.shape[1])).to(feature)
        encoded: Tensor = F.silu(feature + self.linear(codes))
        return encoded


def select_candidates(
    probabilities: Tensor,
    k: int,
    allowed: Tensor | None = None,
    noise: float = 0.0,
    generator: torch.Generator | None = None,
) -> tuple[Tensor, Tensor]:
    """Choose the k most probable candidates of each parent.

    Parameters
    ----------
    probabilities : Tensor
        (M, n * n).
    k : int
        How many per parent, 1 to n * n; fewer where fewer are allowed.
    allowed : Tensor, optional
        (M, n * n) bool, False for candidates that lie off the image.
    noise : float
        Gumbel noise on the log-probabilities, times this; 0, the paper's rule,
        is plain top-k. Among equals the first in raster order is taken.
    generator : torch.Generator, optional
        Source of the noise, on the CPU.

    Returns
    -------
    chosen : Tensor
        (M, n * n) bool.
    rank : Tensor
        (M, n * n) int64, 0 for the best of each parent.
    """
    if not 1 <= k <= probabilities.shape[1]:
        raise ValueError(
            f"locations per crop must lie between 1 and {probabilities.shape[1]}, got {k}"
        )
    scores = (probabilities.detach() + LOG_FLOOR).log()
    if noise:
        uniform = torch.rand(scores.shape, generator=generator).clamp(1e-9, 1 - 1e-7)
        scores = scores - noise * (-uniform.log()).log().to(scores)
    if allowed is not None:
        scores = scores.masked_fill(~allowed, -math.inf)
    order = scores.argsort(dim=1, descending=True, stable=True)
    rank = order.argsort(dim=1)
    chosen = rank < k
    return (chosen if allowed is None else chosen & allowed), rank
