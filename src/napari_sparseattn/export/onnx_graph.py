"""Models as graphs of fixed shape: raw crops in, logits and what was looked at out.

A graph has no Python left in it: what a `TNet` finds out as it goes, such as
where its crops lie, is tensors here, and the normalisation is a part of it.
"""

from __future__ import annotations

import itertools
from collections.abc import Sequence
from typing import TYPE_CHECKING

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from ..device import at_least_float32
from ..images.normalise import (
    BLOCK,
    DARK_DENSITY,
    DARK_QUANTILE,
    DARKEST,
    LEAST_DENSITY,
    LEAST_WHITE,
    WHITE_QUANTILE,
    Normalisation,
)
from ..models.sparse.network import SparseAttnNet
from ..models.tnet.crops import reduce_crop
from ..models.tnet.layers import LOG_FLOOR, CandidateGrid, sample_map
from ..models.tnet.network import TNet

if TYPE_CHECKING:
    from ..known import KnownStates

__all__ = ["Normaliser", "SparseGraph", "Temperature", "TraversalGraph"]


class Temperature(nn.Module):
    """`Bundle.temperatures` of states (B, D), as (B, 1).

    Parameters
    ----------
    base : float
        The card's.
    known : KnownStates or None
        What the model knows; None where the temperature is always the card's.
    softening, start : float
        See `card.NoveltySpec`, where the second is `softening_from`.
    """

    def __init__(
        self,
        base: float,
        known: KnownStates | None = None,
        softening: float = 0.0,
        start: float = 1.0,
    ) -> None:
        super().__init__()
        self.base, self.softening, self.start, self.limits = base, softening, start, None
        if known is None or not softening:
            self.softening = 0.0
            return
        self.threshold = known.threshold
        tables = {"root": known.root, "own": known.means @ known.root}
        if (others := known.others) is not None:
            self.limits = (others.typical, others.limit)
            tables |= {"other_root": others.root, "beside": others.means @ others.root}
            tables["own_beside"] = known.means @ others.root
        for name, table in tables.items():
            self.register_buffer(name, torch.from_numpy(table.copy()))

    def forward(self, states: Tensor) -> Tensor:
        """Return what the logits are divided by."""
        if not self.softening:
            return torch.full_like(states[:, :1], self.base)
        own = _squares(states @ self.get_buffer("root"), self.get_buffer("own"))
        novelty = own.amin(1).sqrt() / self.threshold
        if self.limits is not None:
            flat = states @ self.get_buffer("other_root")
            least = _squares(flat, self.get_buffer("own_beside")).amin(1)
            nearer = least - _squares(flat, self.get_buffer("beside")).amin(1)
            typical, limit = self.limits
            novelty = torch.maximum(novelty, (nearer - typical) / (limit - typical))
        beyond = (novelty / self.start).clamp_min(1)
        return self.base * beyond.pow(self.softening)[:, None]


def _squares(flat: Tensor, centres: Tensor) -> Tensor:
    """(B, M) squared lengths from the centres (M, D)."""
    squares = flat.square().sum(1, keepdim=True) + centres.square().sum(1)
    return (squares - 2 * flat @ centres.T).clamp_min(0)


class SparseGraph(nn.Module):
    """A `SparseAttnNet` with its normalisation and temperature.

    Parameters
    ----------
    model : SparseAttnNet
        In evaluation mode.
    normalise : torch.nn.Module
        Applied to the crops first.
    temperature : torch.nn.Module
        Gives what the logits are divided by before the softmax, see `Temperature`.
    """

    #: Names of what `forward` returns.
    outputs = ("logits", "probabilities", "indices", "attention", "coarse")

    def __init__(self, model: SparseAttnNet, normalise: nn.Module, temperature: nn.Module) -> None:
        super().__init__()
        self.model, self.normalise, self.temperature = model, normalise, temperature

    def forward(self, crops: Tensor) -> tuple[Tensor, ...]:
        """Return logits, probabilities, kept pixels, their attention and the coarse map."""
        output = self.model(self.normalise(crops))
        probabilities = (output.logits / self.temperature(output.state)).softmax(1)
        coarse = output.coarse_logits.sigmoid()
        return output.logits, probabilities, output.indices, output.fine, coarse


class _Places(nn.Module):
    """One level's crops on one image side: what their positions are encoded as.

    Positions are whole numbers from a known range, so their codes are a table,
    computed once in float64 as `PositionEncoding` does.
    """

    rows: Tensor
    level: Tensor

    def __init__(self, model: TNet, depth: int, keys: Sequence[int], side: int, size: int) -> None:
        super().__init__()
        self.first = min(keys)
        whole = torch.arange(self.first, max(keys) + 1, dtype=torch.float64)
        if model.config.position == "centre":
            whole = (whole + side / 2 - size / 2) * 2 / size
        frequencies = model.position.frequencies
        self.register_buffer("rows", _waves(whole, frequencies[0]))
        level = torch.tensor([float(depth)], dtype=torch.float64)
        self.register_buffer("level", _waves(level, frequencies[2]))
        self.width = model.position.width

    def forward(self, y: Tensor, x: Tensor) -> Tensor:
        """Return codes (B, m, width) of positions (B, m) int64."""
        level = self.level.expand(y.shape[0], y.shape[1], -1)
        codes = torch.cat([self.rows[y - self.first], self.rows[x - self.first], level], dim=2)
        return F.pad(codes, (0, self.width - codes.shape[2]))


def _waves(values: Tensor, frequencies: Sequence[float]) -> Tensor:
    phase = values[:, None] * torch.tensor(frequencies, dtype=torch.float64)
    return torch.cat([phase.sin(), phase.cos()], dim=1).float()


#: First pixels (B, m) of crops, the part of each that is shown, and the paper's index.
_Axis = tuple[Tensor, Tensor, Tensor, Tensor]


class TraversalGraph(nn.Module):
    """A `TNet` that looks at square images of one size at fixed numbers of locations.

    Parameters
    ----------
    model : TNet
        In evaluation mode.
    normalise : torch.nn.Module
        Applied to the images first.
    temperature : torch.nn.Module
        Gives what the logits are divided by before the softmax, see `Temperature`.
    size : int
        Side of the images in pixels.
    locations : sequence of int
        Children taken of each crop, per level but the last.

    Raises
    ------
    ValueError
        If a candidate can lie wholly off its parent: then the number of crops
        would not be fixed.
    """

    #: Names of what `forward` returns.
    outputs = ("logits", "probabilities", "boxes", "contributions")

    def __init__(
        self,
        model: TNet,
        normalise: nn.Module,
        temperature: nn.Module,
        size: int,
        locations: Sequence[int],
    ) -> None:
        super().__init__()
        self.model, self.normalise, self.temperature = model, normalise, temperature
        self.size, self.locations = size, tuple(locations)
        self.sides, self.grids, reach = [size], [], {(0, 0, size, 0)}
        places = []
        for depth in range(len(self.locations) + 1):
            by_centre = model.config.position == "centre"
            keys = [first if by_centre else index for first, _, _, index in reach]
            places.append(_Places(model, depth, keys, self.sides[-1], size))
            if depth < len(self.locations):
                grid = CandidateGrid(self.sides[-1], model.config.grid, model.config.overlap)
                reach = _reach(reach, grid)
                self.grids.append(grid)
                self.sides.append(grid.side)
        self.places = nn.ModuleList(places)

    @property
    def counts(self) -> tuple[int, ...]:
        """Crops per level."""
        return (1, *itertools.accumulate(self.locations, lambda a, b: a * b))

    def forward(self, images: Tensor) -> tuple[Tensor, ...]:
        """Return logits, probabilities, boxes (B, N, 3) and contributions (B, N, classes).

        A box is top, left and side in pixels. Contributions sum to the logits.
        """
        images = self.normalise(images)
        zero = torch.zeros(images.shape[0], 1, dtype=torch.int64, device=images.device)
        y: _Axis = (zero, zero, zero + self.size, zero)
        x, boxes, parts, states = y, [], [], []
        for depth, side in enumerate(self.sides):
            logits, features, state = self._look(images, y, x, depth)
            boxes.append(torch.stack([y[0], x[0], torch.full_like(y[0], side)], dim=2))
            parts.append(logits)
            states.append(state)
            if depth < len(self.locations):
                y, x = self._descend(features, y, x, depth)
        each = torch.cat(parts, dim=1) / sum(self.counts)
        logits = each.sum(dim=1)
        state = torch.cat(states, dim=1).mean(dim=1)
        probabilities = (logits / self.temperature(state)).softmax(1)
        return logits, probabilities, torch.cat(boxes, dim=1), each

    def _look(
        self, images: Tensor, y: _Axis, x: _Axis, depth: int
    ) -> tuple[Tensor, Tensor, Tensor]:
        """Each crop's own logits (B, m, classes), the map (B * m, c, h, w), what the head reads."""
        model, count = self.model, self.counts[depth]
        cut = self._cut(images, y, x, depth)
        features, pooled = model.backbone(
            reduce_crop(cut, model.config.base, model.config.antialias)
        )
        by_centre = model.config.position == "centre"
        codes = self.places[depth](*((y[0], x[0]) if by_centre else (y[3], x[3])))
        encoded = F.silu(pooled + model.position.linear(codes.flatten(0, 1)))
        logits = at_least_float32(model.head(encoded))
        return logits.unflatten(0, (-1, count)), features, encoded.unflatten(0, (-1, count))

    def _cut(self, images: Tensor, y: _Axis, x: _Axis, depth: int) -> Tensor:
        if depth == 0:
            return images
        side, channels = self.sides[depth], images.shape[1]
        line = torch.arange(side, device=images.device)
        rows, shown_rows = _pixels(y, line, self.size)
        columns, shown_columns = _pixels(x, line, self.size)
        index = rows[..., :, None] * self.size + columns[..., None, :]
        shown = shown_rows[..., :, None] & shown_columns[..., None, :]
        flat = index.flatten(1)[:, None].expand(-1, channels, -1)
        cut: Tensor = images.flatten(2).gather(2, flat).unflatten(2, (-1, side, side))
        cut = cut.transpose(1, 2).flatten(0, 1)
        masked: Tensor = cut * shown.flatten(0, 1)[:, None].to(cut.dtype)
        return masked

    def _descend(self, features: Tensor, y: _Axis, x: _Axis, depth: int) -> tuple[_Axis, _Axis]:
        grid, model = self.grids[depth], self.model
        sampled = sample_map(features, grid, model.config.sampling)
        scores = (model.location(sampled) + LOG_FLOOR).log()
        chosen = scores.topk(self.locations[depth], dim=1).indices.sort(dim=1).values
        chosen = chosen.unflatten(0, (-1, self.counts[depth]))
        row = torch.div(chosen, grid.n, rounding_mode="floor")
        return _children(y, row, grid), _children(x, chosen - row * grid.n, grid)


def _reach(
    reach: set[tuple[int, int, int, int]], grid: CandidateGrid
) -> set[tuple[int, int, int, int]]:
    """Where crops of the next level can lie along an axis: first, shown part, index."""
    found = set()
    for top, begin, end, index in reach:
        for i, start in enumerate(grid.starts):
            first, last = max(top + start, begin), min(top + start + grid.side, end)
            if last <= first:
                raise ValueError(
                    "This TNet may choose fewer crops than its number of locations, where "
                    "candidates lie off the image; such a model cannot be exported."
                )
            found.add((top + start, first, last, index * grid.n + i))
    return found


def _pixels(axis: _Axis, line: Tensor, size: int) -> tuple[Tensor, Tensor]:
    pixels = axis[0][..., None] + line
    shown = (pixels >= axis[1][..., None]) & (pixels < axis[2][..., None])
    return pixels.clamp(0, size - 1), shown


def _children(axis: _Axis, which: Tensor, grid: CandidateGrid) -> _Axis:
    """The chosen (B, m, k) children of crops (B, m), as (B, m * k)."""
    starts = torch.tensor(grid.starts, device=which.device)
    first = axis[0][..., None] + starts[which]
    begin = torch.maximum(first, axis[1][..., None])
    end = torch.minimum(first + grid.side, axis[2][..., None])
    index = axis[3][..., None] * grid.n + which
    return first.flatten(1), begin.flatten(1), end.flatten(1), index.flatten(1)


class Normaliser(nn.Module):
    """`images.normalise.Normalisation` of crops (B, C, H, W), by the same steps."""

    def __init__(self, normalisation: Normalisation) -> None:
        super().__init__()
        self.rule = normalisation

    def forward(self, crops: Tensor) -> Tensor:
        """Return the same shape, normalised."""
        rule = self.rule
        if rule.kind != "fixed":
            crops = crops / _white_reference(crops)
        if rule.kind == "stain":
            crops = _scaled_density(crops)
        return (crops - rule.mean) / rule.std


def _white_reference(crops: Tensor) -> Tensor:
    batch, channels, height, width = crops.shape
    rows, columns = height // BLOCK, width // BLOCK
    blocks = crops
    if rows and columns:
        blocks = crops[..., : rows * BLOCK, : columns * BLOCK]
        blocks = blocks.reshape(batch, channels, rows, BLOCK, columns, BLOCK).mean(dim=(3, 5))
    flat = blocks.flatten(2)
    rank = round(WHITE_QUANTILE * (flat.shape[-1] - 1))
    return _rank(flat, rank).clamp_min(LEAST_WHITE)[..., None, None]


def _scaled_density(crops: Tensor) -> Tensor:
    density = -crops.clamp_min(DARKEST).log()
    mean = density.mean(dim=1).flatten(1)
    dark = _rank(mean, round(DARK_QUANTILE * (mean.shape[1] - 1)))
    scale = DARK_DENSITY / dark.clamp_min(LEAST_DENSITY)
    return (-density * scale[:, None, None, None]).exp()


def _rank(values: Tensor, rank: int) -> Tensor:
    """The value that `rank` others along the last axis are no larger than."""
    return values.topk(values.shape[-1] - rank, dim=-1, sorted=True).values[..., -1]
