"""A field or slide that a TNet can traverse anew with parts of it replaced."""

from __future__ import annotations

import copy
import hashlib
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, cast

import numpy as np
import numpy.typing as npt
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from ..bundle import Bundle
from ..device import choose_device
from ..evidence import Traversal
from ..evidence.baselines import centre_relevance, dark_relevance, edge_relevance
from ..evidence.fills import FILLS, check_fill, local_mean, reference
from ..images.fields.field import Field
from ..images.slides.pyramid import Pyramid
from .fields import PyramidSource, as_pyramid, field_network, to_cpu, to_traversals
from .reruns import (
    TILES,
    Mask,
    OwnMap,
    Values,
    crop_coverage,
    one_thread,
    relevance_of_traversal,
    shuffle_weights,
)

if TYPE_CHECKING:
    from ..models.tnet.crops import Crops, TNetOutput
    from ..models.tnet.network import TNet

__all__ = ["FieldRerun", "cache_features"]

#: Images per traversal.
_BATCH = 16
#: Bytes of crops and of features that are kept.
_KEPT = 2**28


class _Reader:
    """Crops of one image as the model sees them, each read once."""

    def __init__(self, source: PyramidSource, base: int) -> None:
        self.source, self.base = source, base
        self.kept: dict[tuple[int, ...], Tensor] = {}

    def __call__(self, box: Sequence[int], seen: Sequence[int]) -> Tensor:
        key = (*box, *seen)
        if key not in self.kept:
            if len(self.kept) * 4 * self.base**2 * 3 > _KEPT:
                self.kept.clear()
            self.kept[key] = self.source.read(_single_crop(box, seen), self.base)[0]
        return self.kept[key]


def _single_crop(box: Sequence[int], seen: Sequence[int]) -> Crops:
    from ..models.tnet.crops import Crops

    zero = torch.zeros(1, dtype=torch.int64)
    return Crops(
        zero, zero, zero, zero, torch.tensor([list(box)]), torch.tensor([list(seen)]),
        torch.zeros(1, 2, dtype=torch.int64), torch.zeros(1),
    )  # fmt: skip


class _ReplacedTiles:
    """A `CropSource` of M copies of an image, each with tiles of its own replaced.

    Parameters
    ----------
    reader : _Reader
        Of the image.
    removed : numpy.ndarray
        (M, rows, columns) bool.
    tile : (float, float)
        Height and width of a tile in pixels of the full resolution.
    fill, seed
        See `evidence.fills.fill`.
    """

    def __init__(
        self, reader: _Reader, removed: Mask, tile: tuple[float, float], fill: str, seed: int
    ) -> None:
        self.reader, self.removed, self.tile = reader, removed, tile
        self.fill, self.seed = check_fill(fill), seed
        self.count = len(removed)
        self.height, self.width = reader.source.height, reader.source.width
        side = max(self.height, self.width)
        top, left = -((side - self.height + 1) // 2), -((side - self.width + 1) // 2)
        self.root_box = (top, left, side)
        self.root = reader(self.root_box, (0, 0, self.height, self.width)).numpy()
        self.others: dict[tuple[int, ...], Values] = {}
        self.colours: dict[int, Values] = {}

    def read(self, crops: Crops, base: int) -> Tensor:
        """Return crops (M, C, base, base); see `CropSource`."""
        columns = (crops.image.tolist(), crops.boxes.tolist(), crops.seen.tolist())
        rows = list(zip(*columns, strict=True))
        whole = torch.stack([self.reader(box, seen) for _, box, seen in rows])
        gone = np.stack(
            [self._replaced_pixels(image, box, seen, base) for image, box, seen in rows]
        )
        touched = np.flatnonzero(gone.any(axis=(1, 2)))
        if not len(touched):
            return whole
        pixels = whole.numpy()[touched]
        if self.fill == "mean":
            colours = np.stack([self._remaining_colour(rows[i][0]) for i in touched])
            filled = local_mean(pixels, gone[touched], colours)
        else:
            other = np.stack([self._replacement(rows[i][1], rows[i][2], base) for i in touched])
            filled = np.where(gone[touched][:, None], other, pixels)
        whole[torch.from_numpy(touched)] = torch.from_numpy(filled)
        return whole

    def _remaining_colour(self, image: int) -> Values:
        """Mean colour (C,) of what is left of a copy at the first look; else of the image."""
        if image not in self.colours:
            base = self.root.shape[1]
            kept = ~self._replaced_pixels(
                image, self.root_box, (0, 0, self.height, self.width), base
            )
            pixels = self.root[:, kept] if kept.any() else self.root.reshape(len(self.root), -1)
            self.colours[image] = pixels.mean(axis=1)
        return self.colours[image]

    def _replaced_pixels(
        self, image: int, box: Sequence[int], seen: Sequence[int], base: int
    ) -> Mask:
        """Which pixels of a crop are replaced: those that it shows of tiles that are removed."""
        top, left, side = box
        centres = (np.arange(base) + 0.5) * side / base
        y, x = centres + top, centres + left
        shown = np.outer((y > seen[0]) & (y < seen[2]), (x > seen[1]) & (x < seen[3]))
        rows, columns = self.removed.shape[1:]
        row = np.clip(y // self.tile[0], 0, rows - 1).astype(int)
        column = np.clip(x // self.tile[1], 0, columns - 1).astype(int)
        gone: Mask = self.removed[image][np.ix_(row, column)] & shown
        return gone

    def _replacement(self, box: Sequence[int], seen: Sequence[int], base: int) -> Values:
        """What replaced pixels of a crop are taken from, (C, base, base)."""
        key = tuple(box)
        if key not in self.others:
            if self.fill == "blur":
                self.others[key] = self._blur(box, base)
            elif key == self.root_box:
                anywhere = np.ones(self.root.shape[1:], bool)
                self.others[key] = reference(self.root, self.fill, self.seed, anywhere)
            else:
                donor = self._donor(box).numpy()
                self.others[key] = (
                    donor if self.fill == "background" else reference(donor, "noise", self.seed)
                )
        return self.others[key]

    def _donor(self, box: Sequence[int]) -> Tensor:
        """A crop of the same size from a place of the image drawn by lot."""
        top, left, side = box
        rng = np.random.default_rng([self.seed, top + 2**31, left + 2**31, side])
        y = int(rng.integers(0, max(1, self.height - side + 1)))
        x = int(rng.integers(0, max(1, self.width - side + 1)))
        return self.reader(
            (y, x, side), (y, x, min(y + side, self.height), min(x + side, self.width))
        )

    def _blur(self, box: Sequence[int], base: int) -> Values:
        """The blurred whole image where a crop lies, interpolated."""
        blurred = torch.from_numpy(reference(self.root, "blur"))[None]
        top, left, side = self.root_box
        line = (torch.arange(base) + 0.5) * box[2] / base
        y, x = ((line + box[i] - (top, left)[i]) / side * 2 - 1 for i in (0, 1))
        grid = torch.stack(torch.meshgrid(x, y, indexing="xy"), dim=-1)[None].to(blurred)
        found = F.grid_sample(blurred, grid, padding_mode="border", align_corners=False)
        return cast("Values", found[0].numpy())


class FieldRerun:
    """An image and a TNet; its units are tiles, 16 along the longer side.

    Crops are read once and kept; crops that look the same as before are not
    put through the backbone again. Parameters are those of `classify_field`.
    """

    fills: tuple[str, ...] = FILLS

    def __init__(
        self,
        image: Field | Pyramid,
        bundle: Bundle,
        locations: Sequence[int] | None = None,
        device: str = "auto",
        *,
        t: int = 0,
        z: int = 0,
        halt: bool = True,
    ) -> None:
        self.device = choose_device(device)
        self.locations, self.temperature = locations, bundle.card.temperature
        self.absorbs = bundle.card.modality == "brightfield"
        self.pyramid, normalisation = as_pyramid(image, bundle, t, z)
        self.network = field_network(bundle, self.device)
        # Run anew it stops as it did, but where a look is put elsewhere.
        self.halt = self.network.halt if halt else None
        self.model, self.base = cache_features(self.network), self.network.config.base
        source = PyramidSource([self.pyramid], normalisation)
        self.reader = _Reader(source, self.base)
        height, width = self.pyramid.shape
        self.tile = max(height, width) / TILES
        self.shape = (int(np.ceil(height / self.tile)), int(np.ceil(width / self.tile)))
        self.cells = np.arange(self.shape[0] * self.shape[1])
        self.seen = self.traversal(self.run(np.zeros((1, *self.shape), bool)))

    def run(
        self,
        removed: Mask,
        fill: str = "mean",
        seed: int = 0,
        steer: Callable[[int, Crops], Crops] | None = None,
        model: TNet | None = None,
    ) -> TNetOutput:
        """Traverse the image with tiles (M, rows, columns) replaced; the output is on the CPU.

        Masks of another shape than `shape` divide the whole image evenly.
        """
        tile = (self.tile, self.tile)
        if removed.shape[1:] != self.shape:
            height, width = self.pyramid.shape
            tile = (height / removed.shape[1], width / removed.shape[2])
        source = _ReplacedTiles(self.reader, removed, tile, fill, seed)
        with torch.inference_mode(), one_thread(self.device):
            output: TNetOutput = (model or self.model)(
                source, self.locations, steer=steer, halt=None if steer else self.halt
            )
        return to_cpu(output)

    @property
    def computed(self) -> int:
        """Crops that the backbone was given so far; those known from before not counted."""
        return int(cast("_CachedBackbone", self.model.backbone).computed)

    def traversal(self, output: TNetOutput) -> Traversal:
        """The first image's traversal."""
        most = self.network.config.crops_at_most(max(self.pyramid.shape), self.locations)
        return to_traversals(output, self.pyramid.shape, self.base, self.halt, most)[0]

    def logits(
        self, removed: Mask, fill: str, seed: int, progress: Callable[[int], None]
    ) -> npt.NDArray[np.float32]:
        """See `Rerun`."""
        parts = []
        for start in range(0, len(removed), _BATCH):
            tiles = removed[start : start + _BATCH].reshape(-1, *self.shape)
            parts.append(self.run(tiles, fill, seed).logits.numpy())
            progress(len(tiles))
        return np.concatenate(parts)

    def relevance(self, index: int) -> dict[str, OwnMap]:
        """See `Rerun`."""
        return self._maps(self.seen, index)

    def _maps(self, way: Traversal, index: int) -> dict[str, OwnMap]:
        edges = (
            np.minimum(np.arange(count + 1) * self.tile, length)
            for count, length in zip(self.shape, self.pyramid.shape, strict=True)
        )
        return relevance_of_traversal(way, index, *edges)

    def scatter(self, maps: Values) -> Values:
        """See `Rerun`: nothing is scattered."""
        return maps

    def selection(self) -> Mask:
        """See `Rerun`: the tiles whose middle any crop but the first shows."""
        return crop_coverage(self.seen, self.shape).ravel()

    def baselines(self) -> dict[str, Values]:
        """See `Rerun`: edges and darkness at the resolution of the first look."""
        height, width = self.pyramid.shape
        root = self.reader((0, 0, max(height, width)), (0, 0, height, width)).numpy()
        maps = np.stack([edge_relevance(root), *dark_relevance(root, absorbs=self.absorbs)])
        tiles = F.adaptive_avg_pool2d(torch.from_numpy(maps)[None], TILES)[0].numpy()
        rows, columns = self.shape
        edges, dark, around = tiles[:, :rows, :columns].reshape(3, -1)
        centre = centre_relevance(self.shape).ravel()
        return {"edges": edges, "centre": centre, "dark": dark, "dark blurred": around}

    def control(self, index: int, seed: int) -> Values:
        """See `Rerun`."""
        # Of the network itself: the other one remembers what the trained weights gave.
        output = self.run(
            np.zeros((1, *self.shape), bool), model=shuffle_weights(self.network, seed)
        )
        return next(iter(self._maps(self.traversal(output), index).values())).values

    def stability(self, seed: int) -> dict[str, float]:
        """See `Rerun`; not measured for whole images."""
        return {}


class _CachedBackbone(nn.Module):
    """A backbone that takes a crop it has seen from memory.

    Backbones treat every crop alone, so what one gives does not depend on the
    others of its batch.
    """

    def __init__(self, backbone: nn.Module) -> None:
        super().__init__()
        self.backbone = backbone
        self.kept: dict[bytes, tuple[Tensor, Tensor]] = {}
        self.computed = 0

    def forward(self, crops: Tensor) -> tuple[Tensor, Tensor]:
        keys = [hashlib.blake2b(crop.tobytes(), digest_size=16).digest()
                for crop in np.ascontiguousarray(crops.cpu().numpy())]  # fmt: skip
        new = {key: i for i, key in enumerate(keys) if key not in self.kept}
        if new:
            maps, pooled = self.backbone(crops[torch.tensor(list(new.values()))])
            self.computed += len(new)
            if len(self.kept) * 4 * (maps[0].numel() + pooled[0].numel()) > _KEPT:
                # What this call needs is kept whatever it takes.
                self.kept = {key: self.kept[key] for key in keys if key in self.kept}
            self.kept |= dict(zip(new, zip(maps, pooled, strict=True), strict=True))
        found = [self.kept[key] for key in keys]
        return torch.stack([each[0] for each in found]), torch.stack([each[1] for each in found])


def cache_features(model: TNet) -> TNet:
    """Return a TNet with the same weights that computes each crop's features once."""
    twin = copy.copy(model)
    # A shallow copy shares the table of parts, and the original must stay as it is.
    twin._modules = dict(model._modules)
    twin.backbone = cast("nn.Module", _CachedBackbone(model.backbone))  # type: ignore[assignment]
    return twin
