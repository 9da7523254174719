"""Tiles of one patient as one bag of patches: cut, and laid side by side."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import numpy.typing as npt

from ..images.errors import ImageError
from ..images.normalise import to_float
from ..images.opening import open_field
from ..images.slides.pyramid import ArrayPyramid, read_window
from .encoders import Encoder

__all__ = ["TileBag", "encode_patches", "lay_tiles", "tile_patches"]

_BATCH = 64


@dataclasses.dataclass(frozen=True, eq=False)
class TileBag:
    """Patches of several tiles on one grid, as a SPAN takes those of a slide.

    Parameters
    ----------
    patches : numpy.ndarray
        (N, size, size, 3) uint8.
    cells : numpy.ndarray
        (N, 2) int64, column and row; see `lay_tiles`.
    tiles : numpy.ndarray
        (N,) int64, the tile that each patch is of.
    """

    patches: npt.NDArray[np.uint8]
    cells: npt.NDArray[np.int64]
    tiles: npt.NDArray[np.int64]


def lay_tiles(paths: Sequence[Path], size: int, side: float | None = None) -> TileBag:
    """Cut the tiles of one patient, and lay them side by side.

    Each tile is cut by `tile_patches`. Tiles lie in the order given, as many
    in a row as make the whole about square, each with as much room as the one
    with the most patches.

    Parameters
    ----------
    paths : sequence of pathlib.Path
        Images, at least one.
    size : int
        Pixels along a patch as the encoder gets it.
    side : float, optional
        Pixels along a patch in the tiles; by default `size`.

    Raises
    ------
    ImageError
        If a tile cannot be read, or is not in colour or grey.
    ValueError
        If there is no tile.
    """
    if not paths:
        raise ValueError("there are no tiles to lay side by side")
    blocks = [tile_patches(path, size, side) for path in paths]
    room = np.max([block.shape[:2] for block in blocks], axis=0)
    across = max(1, round(math.sqrt(len(blocks) * room[0] / room[1])))
    cells, patches, tiles = [], [], []
    for number, block in enumerate(blocks):
        rows, columns = np.divmod(np.arange(block.shape[0] * block.shape[1]), block.shape[1])
        corner = np.array([number % across, number // across]) * room[::-1]
        cells.append(np.stack([columns, rows], axis=1) + corner)
        patches.append(block.reshape(-1, *block.shape[2:]))
        tiles.append(np.full(len(rows), number, np.int64))
    return TileBag(
        np.concatenate(patches), np.concatenate(cells).astype(np.int64), np.concatenate(tiles)
    )


def encode_patches(patches: npt.NDArray[np.uint8], encoder: Encoder) -> npt.NDArray[np.float32]:
    """Return features (N, F) float32 of patches (N, size, size, 3), a batch at a time."""
    parts = [encoder(patches[start : start + _BATCH]) for start in range(0, len(patches), _BATCH)]
    return np.concatenate(parts).astype(np.float32, copy=False)


def tile_patches(path: Path, size: int, side: float | None = None) -> npt.NDArray[np.uint8]:
    """Cut a tile into as many whole patches as fit, about its centre.

    Parameters
    ----------
    path : pathlib.Path
        The image.
    size : int
        Pixels along a patch as it is returned.
    side : float, optional
        Pixels along a patch in the tile; by default `size`. Of a smaller tile
        the centre square is enlarged to one patch.

    Returns
    -------
    numpy.ndarray
        (rows, columns, size, size, 3) uint8.

    Raises
    ------
    ImageError
        If the file is no image, or has another number of channels.
    """
    plane = open_field(path).plane()
    if plane.shape[-1] not in (1, 3):
        raise ImageError(f"{path.name} has {plane.shape[-1]} channels, 3 are needed.")
    if plane.dtype.kind == "f" and not 0 <= float(np.nanmin(plane)) <= float(np.nanmax(plane)) <= 1:
        raise ImageError(f"{path.name} has values that are no colours; save it as 8-bit RGB.")
    eight = np.rint(np.clip(to_float(plane), 0, 1) * 255).astype(np.uint8)
    eight = np.repeat(eight, 3, axis=2) if eight.shape[2] == 1 else eight
    height, width = eight.shape[:2]
    step = min(size if side is None else side, height, width)
    rows, columns = (math.floor(length / step + 1e-6) for length in (height, width))
    top, left = (height - rows * step) / 2, (width - columns * step) / 2
    pyramid = ArrayPyramid(np.ascontiguousarray(eight), name=path.name)
    found = np.empty((rows, columns, size, size, 3), np.uint8)
    for row in range(rows):
        for column in range(columns):
            pixels, _ = read_window(
                pyramid, top + row * step, left + column * step, step, step, size, size
            )
            found[row, column] = np.rint(np.clip(pixels, 0, 1) * 255)
    return found
