"""A cell that can be run anew with parts of its content replaced."""

from __future__ import annotations

import contextlib
import copy
import dataclasses
import os
from collections.abc import Callable, Generator, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import TYPE_CHECKING, Protocol, TypeVar

import numpy as np
import numpy.typing as npt

from ..evidence import CropFrame, PixelSelection, Traversal
from ..evidence.baselines import (
    centre_relevance,
    dark_relevance,
    edge_relevance,
    stable_order,
    tiled_mean,
)
from ..evidence.fills import FILLS, check_fill, local_mean, reference
from ..evidence.measures import overlap
from ..kinds import kind_of_network
from .run_crops import CropOutput, run_crops

if TYPE_CHECKING:
    from torch import nn

    from ..models.sparse.network import SparseAttnNet
    from ..models.tnet.network import TNet

__all__ = [
    "CellRerun",
    "OwnMap",
    "Rerun",
    "crop_coverage",
    "one_thread",
    "relevance_of_traversal",
    "selection_relevance",
    "shuffle_weights",
    "softmax",
]

_Network = TypeVar("_Network", bound="nn.Module")
Mask = npt.NDArray[np.bool_]
Values = npt.NDArray[np.float32]

#: Crops per step, as in `cells`: more gains nothing on a CPU.
_BATCH = {"cpu": 16, "mps": 256, "cuda": 512}
#: Batches that are run side by side on the CPU, at most.
_THREADS = 4
#: Tiles along a side into which a TNet's crop or field is divided.
TILES = 16
#: Below any value of a map whose logits are bounded: its logarithm must be a number.
_LEAST = np.float32(1e-30)
#: Standard deviation of the noise that stability is tried with, in that of the crop.
_NOISE = 0.05


@dataclasses.dataclass(frozen=True, eq=False)
class OwnMap:
    """A model's own map of how much each of n units matters.

    Parameters
    ----------
    values : numpy.ndarray
        (n,) float32, the largest of what matters most.
    scattered : bool
        Whether the order of the values is already that of the model's selection,
        pixel by pixel: such a map is not scattered again, see `Rerun.scatter`.
    """

    values: Values
    scattered: bool = False


class Rerun(Protocol):
    """One image, divided into n units that can be removed.

    Attributes
    ----------
    shape : (int, int)
        Rows and columns of the grid that the units lie on.
    cells : numpy.ndarray
        (n,) int64, the unit's ``row * columns + column``, ascending.
    fills : tuple of str
        What removed units can be replaced with.
    temperature : float
        By which logits are divided.
    """

    shape: tuple[int, int]
    cells: npt.NDArray[np.int64]
    fills: tuple[str, ...]
    temperature: float

    def logits(
        self, removed: Mask, fill: str, seed: int, progress: Callable[[int], None]
    ) -> npt.NDArray[np.float32]:
        """Run the whole model with units (M, n) replaced: (M, C)."""
        ...

    def relevance(self, index: int) -> dict[str, OwnMap]:
        """The model's own maps for a class by name, the one shown first."""
        ...

    def scatter(self, maps: Values) -> Values:
        """What to rank units by, (..., n), were a map (..., n) the model's own.

        The maps themselves, but where the model scatters its selection over its map.
        """
        ...

    def selection(self) -> Mask:
        """(n,) which units the model selected."""
        ...

    def baselines(self) -> dict[str, Values]:
        """Maps of edges, of nearness to the centre and, of pixels, of darkness, (n,) each."""
        ...

    def control(self, index: int, seed: int) -> Values:
        """The first own map of the same network with shuffled weights."""
        ...

    def stability(self, seed: int) -> dict[str, float]:
        """How much of the selection stays under small changes."""
        ...


class CellRerun:
    """A cell's crop; its units are pixels, or tiles where the model is a TNet.

    What is replaced is what the network is given, after normalisation: were
    the crop normalised anew, the removal of a dark nucleus would make all the
    rest darker, and that would be measured instead.

    Parameters
    ----------
    ready : numpy.ndarray
        (C, size, size) float32, normalised.
    model : SparseAttnNet or TNet
        In evaluation mode, on `device`.
    temperature : float
        Of the bundle.
    device : str
        Where the model is.
    absorbs : bool
        Whether cells are darker than their background; False of phase images.
    """

    fills: tuple[str, ...] = FILLS

    def __init__(
        self,
        ready: Values,
        model: SparseAttnNet | TNet,
        temperature: float = 1.0,
        device: str = "cpu",
        *,
        absorbs: bool = True,
    ) -> None:
        self.ready, self.model, self.temperature, self.device = ready, model, temperature, device
        self.absorbs = absorbs
        self.size = ready.shape[1]
        self.side = 1 if kind_of_network(model).setting == "k" else max(1, self.size // TILES)
        across = -(-self.size // self.side)
        self.shape = (across, across)
        self.cells = np.arange(across * across)
        self.frame = CropFrame((self.size - 1) / 2, (self.size - 1) / 2, self.size, self.size)
        self.seen = self.run(ready[None], evidence=True)
        self.thresholds = self._read_thresholds()
        self._references: dict[tuple[str, int], Values] = {}

    def _read_thresholds(self) -> Values | None:
        """The fixed threshold of each pixel, (n,), over which a model scatters its selection."""
        from ..models.sparse.network import SparseAttnNet
        from ..models.sparse.stipple import thresholds

        if not isinstance(self.model, SparseAttnNet) or self.model.config.selector == "scores":
            return None
        import torch

        found: Values = thresholds(self.size, self.size, torch.device("cpu"))[0].numpy()
        return found

    def with_frame(self, frame: CropFrame) -> CellRerun:
        """The same crop, with its place on the image told."""
        other = copy.copy(self)
        seen = tuple(dataclasses.replace(found, frame=frame) for found in self.seen.evidence)
        other.frame, other.seen = frame, dataclasses.replace(self.seen, evidence=seen)
        return other

    def run(
        self, ready: Values, evidence: bool = False, model: SparseAttnNet | TNet | None = None
    ) -> CropOutput:
        """Run the model on normalised crops (B, C, size, size)."""
        import torch

        batch = torch.from_numpy(np.ascontiguousarray(ready)).to(self.device)
        frames = [self.frame] * len(ready) if evidence else None
        with one_thread(self.device):
            return run_crops(model or self.model, batch, frames)

    def pixels(self, removed: Mask) -> Mask:
        """Pixels (M, size, size) of units (M, n)."""
        tiles = removed.reshape(len(removed), *self.shape)
        if self.side == 1:
            return tiles
        whole: Mask = tiles.repeat(self.side, axis=1).repeat(self.side, axis=2)
        return whole[:, : self.size, : self.size]

    def replace_pixels(self, pixels: Mask, fill: str, seed: int) -> Values:
        """The crop with pixels (M, size, size) replaced: (M, C, size, size)."""
        kind = check_fill(fill)
        if kind == "mean":
            return local_mean(self.ready[None], pixels)
        if (fill, seed) not in self._references:
            self._references[fill, seed] = reference(self.ready, kind, seed)
        other = self._references[fill, seed]
        return np.where(pixels[:, None], other[None], self.ready[None])

    def logits(
        self, removed: Mask, fill: str, seed: int, progress: Callable[[int], None]
    ) -> npt.NDArray[np.float32]:
        """See `Rerun`."""
        step = _BATCH.get(self.device.split(":", maxsplit=1)[0], 64)
        parts = [removed[start : start + step] for start in range(0, len(removed), step)]

        def run(part: Mask) -> Values:
            pixels = self.replace_pixels(self.pixels(part), fill, seed)
            found: Values = self.run(pixels).logits.numpy()
            return found

        found = []
        with contextlib.closing(_side_by_side(run, parts, self.device)) as running:
            for logits in running:
                found.append(logits)
                progress(len(logits))
        return np.concatenate(found)

    def relevance(self, index: int) -> dict[str, OwnMap]:
        """See `Rerun`."""
        return self._maps(self.seen, index)

    def _maps(self, seen: CropOutput, index: int) -> dict[str, OwnMap]:
        (found,) = seen.evidence
        if isinstance(found, Traversal):
            edges = (np.minimum(np.arange(self.shape[0] + 1) * self.side, self.size),) * 2
            return relevance_of_traversal(found, index, *edges)
        return selection_relevance(found)

    def scatter(self, maps: Values) -> Values:
        """See `Rerun`; values become those of the model's map, rank by rank."""
        (found,) = self.seen.evidence
        if not isinstance(found, PixelSelection) or self.thresholds is None:
            return maps
        values = np.log(np.maximum(np.sort(found.coarse.ravel()), _LEAST))
        # Ties in raster order would favour the image's bottom.
        lot = np.random.default_rng(0).permutation(len(values))
        scattered = np.empty(np.shape(maps), np.float32)
        for given, made in zip(
            maps.reshape(-1, len(values)), scattered.reshape(-1, len(values)), strict=True
        ):
            made[lot[stable_order(given[lot])]] = values
        scattered -= np.log(self.thresholds)
        return scattered

    def selection(self) -> Mask:
        """See `Rerun`; of a TNet, what any crop but the first covers by half."""
        return tiled_mean(self.selected_pixels(self.seen), self.side).ravel() >= 0.5

    def selected_pixels(self, seen: CropOutput, which: int = 0) -> Mask:
        """(size, size) pixels that the model selected of one of the crops."""
        found = seen.evidence[which]
        if isinstance(found, PixelSelection):
            return found.mask()
        return crop_coverage(found, (self.size, self.size))

    def baselines(self) -> dict[str, Values]:
        """See `Rerun`."""
        dark, around = dark_relevance(self.ready, absorbs=self.absorbs)
        tiles = {
            "edges": tiled_mean(edge_relevance(self.ready), self.side),
            "centre": centre_relevance(self.shape),
            "dark": tiled_mean(dark, self.side),
            "dark blurred": tiled_mean(around, self.side),
        }
        return {name: values.ravel() for name, values in tiles.items()}

    def control(self, index: int, seed: int) -> Values:
        """See `Rerun`."""
        other = shuffle_weights(self.model, seed)
        maps = self._maps(self.run(self.ready[None], True, other), index)
        return next(iter(maps.values())).values

    def stability(self, seed: int) -> dict[str, float]:
        """See `Rerun`: one pixel's shift in four directions, and a little noise twice."""
        moves = [(0, 1), (0, -1), (1, 0), (-1, 0)]
        padded = np.pad(self.ready, ((0, 0), (1, 1), (1, 1)), mode="edge")
        size = self.size
        shifted = [padded[:, 1 - y : 1 - y + size, 1 - x : 1 - x + size] for y, x in moves]
        rng = np.random.default_rng(seed)
        spread = _NOISE * float(self.ready.std())
        noisy = [
            self.ready + spread * rng.standard_normal(self.ready.shape).astype(np.float32)
            for _ in range(2)
        ]
        seen = self.run(np.stack(shifted + noisy), evidence=True)
        before = self.selected_pixels(self.seen)
        inner, overlaps = slice(1, size - 1), []
        for i, move in enumerate([*moves, (0, 0), (0, 0)]):
            # Brought back to where it was; the border that came from outside is left out.
            back = np.roll(self.selected_pixels(seen, i), (-move[0], -move[1]), (0, 1))
            overlaps.append(overlap(before[inner, inner], back[inner, inner]))
        share = float(before.mean())
        return {
            "shift": float(np.mean(overlaps[:4])),
            "noise": float(np.mean(overlaps[4:])),
            "chance": share / (2 - share) if share else 1.0,
        }


def selection_relevance(found: PixelSelection) -> dict[str, OwnMap]:
    """Maps (size * size,) of a SparseAttnNet: of the selector, and of the class token.

    ``"selection"`` is the coarse map. ``"attention"`` has the kept pixels
    first, by fine attention, and then the others by the coarse map: they are
    kept after the selector has scattered them.
    """
    coarse = found.coarse.ravel()
    fine = coarse.astype(np.float32) * np.float32(1e-9)
    fine[found.indices] = found.weights() * found.k + np.float32(1e-6)
    return {"selection": OwnMap(coarse), "attention": OwnMap(fine, scattered=True)}


def relevance_of_traversal(
    way: Traversal, index: int, rows: npt.NDArray[np.generic], columns: npt.NDArray[np.generic]
) -> dict[str, OwnMap]:
    """Maps of a TNet over tiles between these edges, row by row.

    ``"contribution"``: each crop's evidence for the class, spread evenly over
    its area, so that the sum over all tiles is that of all crops. ``"crops"``:
    the same of one per crop.
    """
    spread = np.zeros((2, len(rows) - 1, len(columns) - 1))
    evidence = way.evidence_for(index)
    for value, (top, left, height, width) in zip(evidence, way.boxes, strict=True):
        share = np.outer(
            _within(rows, top, top + height) / height, _within(columns, left, left + width) / width
        )
        spread[0] += float(value) * share
        spread[1] += share
    area = np.outer(np.diff(rows.astype(float)), np.diff(columns.astype(float)))
    maps = (spread / area).astype(np.float32)
    return {"contribution": OwnMap(maps[0].ravel()), "crops": OwnMap(maps[1].ravel())}


def _within(edges: npt.NDArray[np.generic], first: float, last: float) -> npt.NDArray[np.float64]:
    """Length of each stretch between edges that lies from `first` to `last`."""
    bounds = np.clip(edges.astype(np.float64), first, last)
    return np.diff(bounds)


def crop_coverage(way: Traversal, grid: tuple[int, int]) -> Mask:
    """(rows, columns) places of the image that any crop but the first shows."""
    height, width = way.shape
    y, x = ((np.arange(n) + 0.5) * m / n for n, m in zip(grid, (height, width), strict=True))
    covered = np.zeros(grid, dtype=bool)
    for top, left, tall, wide in way.boxes[1:]:
        inside = np.outer((y >= top) & (y < top + tall), (x >= left) & (x < left + wide))
        covered |= inside
    return covered


@contextlib.contextmanager
def one_thread(device: str) -> Iterator[None]:
    """Keep small batches on one thread of the CPU.

    More gain little, and where another process keeps the cores busy they cost
    a factor of ten: waiting for each other is most of the work then.
    """
    import torch

    before = torch.get_num_threads()
    if device != "cpu" or before == 1:
        yield
        return
    torch.set_num_threads(1)
    try:
        yield
    finally:
        torch.set_num_threads(before)


def _side_by_side(
    run: Callable[[Mask], Values], parts: Sequence[Mask], device: str
) -> Generator[Values, None, None]:
    """Give what `run` makes of each part, in their order; on the CPU several at a time.

    Each on a thread of its own computes what it would alone, to the bit; threads that
    share one part mostly wait for each other, see `one_thread`.
    """
    import torch

    # One core is left to the window: of two, both taken, a click waited half as long again.
    cores = (os.cpu_count() or 1) - 1
    threads = min(torch.get_num_threads(), cores, len(parts), _THREADS)
    # A precision that the caller chose holds in its own thread alone.
    if device != "cpu" or threads < 2 or torch.is_autocast_enabled("cpu"):
        yield from map(run, parts)
        return
    with one_thread(device), ThreadPoolExecutor(threads, "rerun") as pool:
        try:
            yield from pool.map(run, parts)
        finally:
            # Whoever stops in the middle waits for what has begun, not for the rest.
            pool.shutdown(cancel_futures=True)


def shuffle_weights(model: _Network, seed: int) -> _Network:
    """Copy a network with every tensor's weights in a random order.

    Each layer keeps its distribution of weights and loses what it learned.
    """
    import torch

    other = copy.deepcopy(model)
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for parameter in other.parameters():
            order = torch.randperm(parameter.numel(), generator=generator).to(parameter.device)
            parameter.copy_(parameter.flatten()[order].view_as(parameter))
    return other


def softmax(logits: npt.NDArray[np.floating], temperature: float) -> npt.NDArray[np.float64]:
    """Probabilities (..., C)."""
    scaled = np.asarray(logits, np.float64) / temperature
    grown: npt.NDArray[np.float64] = np.exp(scaled - scaled.max(axis=-1, keepdims=True))
    grown /= grown.sum(axis=-1, keepdims=True)
    return grown
