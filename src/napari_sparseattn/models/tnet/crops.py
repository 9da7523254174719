"""What goes into and out of a `TNet`: crop sources, levels, outputs."""

from __future__ import annotations

from typing import NamedTuple, Protocol

import torch
import torch.nn.functional as F
from torch import Tensor

from .layers import LOG_FLOOR, CandidateGrid

__all__ = [
    "CropSource",
    "Crops",
    "Level",
    "TNetOutput",
    "TensorSource",
    "candidates",
    "children",
    "move_crops",
    "reduce_crop",
    "roots",
]

#: Full-resolution pixels that are cut at a time, per channel.
_PIXELS_AT_ONCE = 2**24


class CropSource(Protocol):
    """Where crops come from: images in memory, or a slide read tile by tile.

    Attributes
    ----------
    count : int
        Images; all of one size.
    height, width : int
        Their size in pixels of the full resolution.
    """

    count: int
    height: int
    width: int

    def read(self, crops: Crops, base: int) -> Tensor:
        """Return crops (M, C, base, base), ready for the backbone."""
        ...


class Crops(NamedTuple):
    """M crops of one level, of all images together.

    In raster order within their parent, the parents in their own order.

    Attributes
    ----------
    image : Tensor
        (M,) int64, the image each crop is of.
    parent : Tensor
        (M,) int64, row of the level before; -1 at the root.
    candidate : Tensor
        (M,) int64, which of the parent's n * n candidates, row by row; -1 at the root.
    rank : Tensor
        (M,) int64, 0 for the most probable of its siblings.
    boxes : Tensor
        (M, 3) int64: top, left and side in pixels of the full resolution, all
        of one side. They may reach over the image's edge.
    seen : Tensor
        (M, 4) int64: top, left, bottom, right of what the crop shows; the rest
        of it is zero. A child shows nothing from outside its parent.
    places : Tensor
        (M, 2) int64, the paper's (y, x): the parent's times n, plus row and column.
    log_prob : Tensor
        (M,) log-probability with which each crop was chosen; 0 at the root.
    """

    image: Tensor
    parent: Tensor
    candidate: Tensor
    rank: Tensor
    boxes: Tensor
    seen: Tensor
    places: Tensor
    log_prob: Tensor


class Level(NamedTuple):
    """One level of the traversal.

    Attributes
    ----------
    crops : Crops
        The M crops.
    logits : Tensor
        (M, n_classes) of each crop's feature alone.
    probabilities : Tensor or None
        (M, n * n) of the crop's own candidates; None on the last level.
    states : Tensor
        (M, D) features with their places, which the head reads.
    """

    crops: Crops
    logits: Tensor
    probabilities: Tensor | None
    states: Tensor


class TNetOutput(NamedTuple):
    """What `TNet` returns for B images.

    Attributes
    ----------
    logits : Tensor
        (B, n_classes), the mean over each image's crops of their own logits.
    levels : tuple of Level
        All crops, the root first.
    grids : tuple of CandidateGrid
        The candidates of each level but the last.
    """

    logits: Tensor
    levels: tuple[Level, ...]
    grids: tuple[CandidateGrid, ...]

    @property
    def counts(self) -> Tensor:
        """(B,) int64, crops of each image."""
        images = torch.cat([level.crops.image for level in self.levels])
        return torch.bincount(images, minlength=len(self.logits))

    @property
    def state(self) -> Tensor:
        """(B, D), the mean over each image's crops of what the head reads."""
        states = torch.cat([level.states for level in self.levels])
        image = torch.cat([level.crops.image for level in self.levels]).to(states.device)
        total = states.new_zeros(len(self.logits), states.shape[1]).index_add(0, image, states)
        return total / self.counts.to(states.device)[:, None]

    def contributions(self) -> tuple[Tensor, ...]:
        """Per level (M, n_classes): exact shares, which sum to each image's logits."""
        counts = self.counts
        return tuple(level.logits / counts[level.crops.image, None] for level in self.levels)


class TensorSource:
    """Images in memory as a `CropSource`.

    Parameters
    ----------
    images : Tensor
        (B, C, H, W), normalised.
    antialias : bool
        Whether to reduce with antialiasing.
    """

    def __init__(self, images: Tensor, antialias: bool = True) -> None:
        self.images, self.antialias = images, antialias
        self.count, _, self.height, self.width = images.shape

    def read(self, crops: Crops, base: int) -> Tensor:
        """Cut, pad with zeros, and reduce; a few crops at a time."""
        pieces = torch.arange(len(crops.boxes)).split(
            max(1, _PIXELS_AT_ONCE // int(crops.boxes[0, 2]) ** 2)
        )
        return torch.cat(
            [reduce_crop(self._cut(crops, rows), base, self.antialias) for rows in pieces]
        )

    def _cut(self, crops: Crops, rows: Tensor) -> Tensor:
        side = int(crops.boxes[0, 2])
        cut = self.images.new_zeros(len(rows), self.images.shape[1], side, side)
        which = (crops.image[rows], crops.boxes[rows, :2], crops.seen[rows])
        images, corners, seen = (tensor.tolist() for tensor in which)
        for one, image, (top, left), (y0, x0, y1, x1) in zip(
            cut, images, corners, seen, strict=True
        ):
            if y0 < y1 and x0 < x1:
                pixels = self.images[image, :, y0:y1, x0:x1]
                one[:, y0 - top : y1 - top, x0 - left : x1 - left] = pixels
        return cut


def reduce_crop(cut: Tensor, base: int, antialias: bool = True) -> Tensor:
    """Resize square crops (M, C, s, s) to (M, C, base, base).

    With antialiasing a pixel of a smaller crop is the exact mean over its area,
    as `images.pyramid.read_window` has it; a larger crop is interpolated.
    """
    side = cut.shape[-1]
    if side == base:
        return cut
    if side < base or not antialias:
        return F.interpolate(cut, (base, base), mode="bilinear", align_corners=False)
    if side % base == 0:
        return F.avg_pool2d(cut, side // base)
    edges = torch.arange(base + 1, dtype=torch.float64) * side / base
    pixels = torch.arange(side, dtype=torch.float64)
    overlap = torch.minimum(edges[1:, None], pixels + 1) - torch.maximum(edges[:-1, None], pixels)
    weights = (overlap.clamp_min(0) * base / side).to(cut)
    return weights @ cut @ weights.T


def roots(source: CropSource) -> Crops:
    """The whole images, each centred in a square; the odd row or column of zeros first."""
    side = max(source.height, source.width)
    image = torch.arange(source.count)
    top, left = -((side - source.height + 1) // 2), -((side - source.width + 1) // 2)
    one = torch.ones_like(image)
    return Crops(
        image,
        parent=-one,
        candidate=-one,
        rank=torch.zeros_like(image),
        boxes=torch.tensor([[top, left, side]]).repeat(source.count, 1),
        seen=torch.tensor([[0, 0, source.height, source.width]]).repeat(source.count, 1),
        places=torch.zeros(source.count, 2, dtype=torch.int64),
        log_prob=torch.zeros(source.count),
    )


def candidates(crops: Crops, grid: CandidateGrid) -> tuple[Tensor, Tensor]:
    """Boxes (M, n * n, 3) of all candidate children, and what they show (M, n * n, 4)."""
    line = torch.tensor(grid.starts)
    starts = torch.stack(torch.meshgrid(line, line, indexing="ij"), dim=-1).view(-1, 2)
    corners = crops.boxes[:, None, :2] + starts
    sides = corners.new_full((*corners.shape[:2], 1), grid.side)
    first = torch.maximum(corners, crops.seen[:, None, :2])
    last = torch.minimum(corners + grid.side, crops.seen[:, None, 2:])
    return torch.cat([corners, sides], dim=2), torch.cat([first, last], dim=2)


def children(
    crops: Crops, grid: CandidateGrid, probabilities: Tensor, chosen: Tensor, rank: Tensor
) -> Crops:
    """The chosen (M, n * n) candidates as the next level's crops."""
    parent, candidate = chosen.cpu().nonzero(as_tuple=True)
    boxes, seen = candidates(crops, grid)
    n = grid.n
    step = torch.stack([candidate // n, candidate % n], dim=1)
    device = probabilities.device
    taken = probabilities[parent.to(device), candidate.to(device)]
    return Crops(
        image=crops.image[parent],
        parent=parent,
        candidate=candidate,
        rank=rank.cpu()[parent, candidate],
        boxes=boxes[parent, candidate],
        seen=seen[parent, candidate],
        places=crops.places[parent] * n + step,
        log_prob=(taken + LOG_FLOOR).log(),
    )


def move_crops(crops: Crops, rows: Tensor, corners: Tensor, size: tuple[int, int]) -> Crops:
    """Put some crops of a level elsewhere; they then show the image there, not their parent.

    The paper's `Crops.places` know no such crop: they stay what they were, and
    tell a network with positions by index that the crop is where it was chosen.

    Parameters
    ----------
    crops : Crops
        The M crops of a level.
    rows : Tensor
        (m,) int64, which of them.
    corners : Tensor
        (m, 2) int64, their new top and left.
    size : (int, int)
        Height and width of the image.
    """
    boxes, seen = crops.boxes.clone(), crops.seen.clone()
    boxes[rows, :2] = corners
    sides = boxes[rows, 2:]
    edge = torch.tensor(size)
    seen[rows, :2] = corners.clamp_min(0).minimum(edge)
    seen[rows, 2:] = (corners + sides).clamp_min(0).minimum(edge)
    return crops._replace(boxes=boxes, seen=seen)
