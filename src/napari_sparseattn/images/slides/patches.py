"""Patches of a slide on a regular grid, at a stated µm per pixel."""

from __future__ import annotations

import dataclasses
import math
from typing import Protocol

import numpy as np
import numpy.typing as npt

from ..errors import ImageError
from .grid_audit import AuditedGrid, GridError, audit_grid, infer_step
from .pyramid import Pyramid, level_for, read_window

__all__ = [
    "AuditedGrid",
    "GridError",
    "PatchGrid",
    "audit_grid",
    "infer_step",
    "patch_grid",
    "read_patch",
]

Floats = npt.NDArray[np.float64]

#: Columns of patches that are read together, from top to bottom.
_BAND = 8
_MOST_PATCHES = 5_000_000
# Of a patch, so much must have been scanned. The share of tissue is that of what was scanned, and
# below this it would rest on a few pixels of the mask, while the encoder would see little but the
# background that stands for the rest: of a patch of 64 x 64 mask pixels a strip of 6.
_LEAST_SCANNED = 0.1
# Black fill is no darker than this after compression, of 255.
_BLACK = 8


class TissueMask(Protocol):
    """What a grid needs to know of a slide's tissue; see `images.tissue.mask.Tissue`."""

    @property
    def mask(self) -> npt.NDArray[np.bool_]:
        """Tissue, (h, w)."""

    @property
    def downsample(self) -> float:
        """Level-0 pixels along a pixel of the mask."""

    @property
    def unscanned(self) -> npt.NDArray[np.bool_] | None:
        """What was not scanned, (h, w)."""

    @property
    def black_fill(self) -> bool:
        """Whether a part of that is filled with black."""


@dataclasses.dataclass(frozen=True, eq=False)
class PatchGrid:
    """Which patches of a slide to look at.

    Parameters
    ----------
    cells : numpy.ndarray, (N, 2) int32
        Column and row (x, y) of each patch, from 0.
    step : float
        Level-0 pixels from patch to patch.
    side : float
        Level-0 pixels along a patch.
    size : int
        Pixels along a patch as given to the encoder.
    pixel_size : float or None
        µm per pixel of these; None where the slide's own is not known.
    origin : (float, float)
        (y, x) of the top left corner of cell (0, 0), in level-0 pixels.
    tissue_share : numpy.ndarray, (N,) float32
        Share, 0..1, of what was scanned of each patch that is tissue.
    black_fill : bool
        Whether black pixels are what was not scanned, and read as background.
    """

    cells: npt.NDArray[np.int32]
    step: float
    side: float
    size: int
    pixel_size: float | None
    origin: tuple[float, float]
    tissue_share: npt.NDArray[np.float32]
    black_fill: bool = False

    def __len__(self) -> int:
        return len(self.cells)

    @property
    def scale_known(self) -> bool:
        """Whether the physical size of the patches is known."""
        return self.pixel_size is not None

    @property
    def corners(self) -> Floats:
        """(N, 2) top left corners (y, x) in level-0 pixels."""
        corners: Floats = self.cells[:, ::-1] * self.step + np.asarray(self.origin)
        return corners

    def window(self, index: int) -> tuple[float, float, float, float, int, int]:
        """Return where a patch is and how large it is read; the arguments of `read_window`."""
        x, y = self.cells[index]
        top, left = y * self.step + self.origin[0], x * self.step + self.origin[1]
        return float(top), float(left), self.side, self.side, self.size, self.size


def patch_grid(
    pyramid: Pyramid,
    tissue: TissueMask,
    *,
    pixel_size: float | None = 0.5,
    size: int = 224,
    overlap: float = 0.0,
    min_tissue: float = 0.5,
) -> PatchGrid:
    """Lay a grid over the slide and keep the patches that lie on tissue.

    The grid begins at the slide's top left corner; patches that would reach
    beyond the slide are left out. Patches are in bands of 8 columns, each from
    top to bottom, so that few tiles of the file are read twice.

    Parameters
    ----------
    pyramid : Pyramid
        The slide.
    tissue : Tissue
        Where its tissue is.
    pixel_size : float or None
        µm per pixel of the patches as the encoder sees them; None takes the
        slide's own pixels, whatever their size.
    size : int
        Pixels along a patch.
    overlap : float
        Share of the side, from 0 to below 1, by which neighbours overlap.
    min_tissue : float
        Least share of tissue, 0..1, in what was scanned of a patch; one
        without any is never kept, nor one that was hardly scanned.

    Returns
    -------
    PatchGrid
        Without patches where there is no tissue.

    Raises
    ------
    ImageError
        If `pixel_size` is given but the slide's µm per pixel is not known; if the
        slide is smaller than one patch; if there would be over 5 million.
    ValueError
        If a number is out of range.
    """
    _check(pixel_size, size, overlap, min_tissue)
    side = float(size) if pixel_size is None else size * _reduction(pyramid, pixel_size)
    step = side * (1 - overlap)
    rows, columns = _grid_shape(pyramid, step, side)
    share = _shares(tissue.mask, tissue.downsample, step, side, rows, columns)
    absent = tissue.unscanned
    if absent is not None and absent.any():
        scanned = 1 - _shares(absent, tissue.downsample, step, side, rows, columns)
        share = np.where(scanned >= _LEAST_SCANNED, share / np.maximum(scanned, 1e-6), 0)
        share = np.minimum(share, 1).astype(np.float32)
    row, column = np.nonzero((share >= min_tissue - 1e-6) & (share > 0))
    order = np.lexsort((column, row, column // _BAND))
    cells = np.stack([column, row], axis=1)[order].astype(np.int32)
    known = None if pyramid.pixel_size is None else pyramid.pixel_size * side / size
    shares = share[cells[:, 1], cells[:, 0]]
    return PatchGrid(cells, step, side, size, known, (0.0, 0.0), shares, tissue.black_fill)


def _grid_shape(pyramid: Pyramid, step: float, side: float) -> tuple[int, int]:
    """Rows and columns of whole patches on the slide."""
    height, width = pyramid.shape
    # A slide made to measure must not lose its last patch by rounding.
    rows, columns = (math.floor((length - side) / step + 1e-6) + 1 for length in (height, width))
    if min(rows, columns) < 1:
        raise ImageError(
            f"{pyramid.name or 'the slide'} has {width} x {height} pixels, less than one patch of "
            f"{side:.0f}; choose smaller patches, or fewer µm per pixel"
        )
    if rows * columns > _MOST_PATCHES:
        raise ImageError(
            f"the grid would have {rows * columns} patches; choose larger patches or less overlap"
        )
    return rows, columns


def read_patch(
    pyramid: Pyramid, grid: PatchGrid, index: int
) -> tuple[npt.NDArray[np.uint8], npt.NDArray[np.bool_]]:
    """Read one patch as encoders take it.

    Returns
    -------
    pixels : numpy.ndarray, (size, size, 3) uint8
        A grey slide has its one channel three times.
    valid : numpy.ndarray, (size, size) bool
        False where the slide could not be read. What was never scanned is
        valid, and has the colour of the slide's background.

    Raises
    ------
    ImageError
        As `read_window`.
    """
    top, left, *_ = window = grid.window(index)
    pixels, valid = read_window(pyramid, *window)
    eight = np.rint(np.clip(pixels, 0, 1) * 255).astype(np.uint8)
    if grid.black_fill:
        eight[eight.max(axis=2) < _BLACK] = pyramid.background
    if not valid.all():
        eight[~valid] = pyramid.background
        valid |= ~_find_failed(pyramid, top, left, grid)
    if eight.shape[2] == 1:
        eight = np.repeat(eight, 3, axis=2)
    return eight, valid


def _find_failed(
    pyramid: Pyramid, top: float, left: float, grid: PatchGrid
) -> npt.NDArray[np.bool_]:
    """Return (size, size) which pixels of a patch lie in tiles that could not be decoded."""
    step = grid.side / grid.size
    level = level_for(pyramid, step)
    middles = (np.arange(grid.size) + 0.5) * step
    downsample = pyramid.levels[level].downsample
    return pyramid.failed_at(level, (top + middles) / downsample, (left + middles) / downsample)


def _check(pixel_size: float | None, size: int, overlap: float, min_tissue: float) -> None:
    if pixel_size is not None and not (math.isfinite(pixel_size) and pixel_size > 0):
        raise ValueError(f"µm per pixel must be a positive number, got {pixel_size}")
    if not 8 <= size <= 4096:
        raise ValueError(f"a patch has 8 to 4096 pixels along its side, got {size}")
    if not 0 <= overlap <= 0.95:
        raise ValueError(f"overlap is a share of the side from 0 to 0.95, got {overlap}")
    if not 0 <= min_tissue <= 1:
        raise ValueError(f"the least share of tissue is from 0 to 1, got {min_tissue}")


def _reduction(pyramid: Pyramid, pixel_size: float) -> float:
    if pyramid.pixel_size is None:
        raise ImageError(
            f"the µm per pixel of {pyramid.name or 'the slide'} is not known, so patches at "
            f"{pixel_size:g} µm per pixel cannot be cut. Give the slide's µm per pixel (it is in "
            "the scanner's settings: often 0.25 for 40x and 0.5 for 20x), or choose native pixels; "
            "the result then says that its scale is not known"
        )
    return pixel_size / pyramid.pixel_size


def _shares(
    mask: npt.NDArray[np.bool_], scale: float, step: float, side: float, rows: int, columns: int
) -> npt.NDArray[np.float32]:
    """Return (rows, columns) the share of a mask in each patch, exactly by areas."""
    height, width = mask.shape
    integral = np.zeros((height + 1, width + 1), np.float64)
    np.cumsum(mask, axis=0, dtype=np.float64, out=integral[1:, 1:])
    np.cumsum(integral[1:, 1:], axis=1, out=integral[1:, 1:])
    top: Floats = np.multiply(np.arange(rows), step / scale, dtype=np.float64)
    left: Floats = np.multiply(np.arange(columns), step / scale, dtype=np.float64)
    bottom: Floats = top + side / scale
    right: Floats = left + side / scale
    above = _at(integral, top, right) - _at(integral, top, left)
    area = _at(integral, bottom, right) - _at(integral, bottom, left) - above
    shares: npt.NDArray[np.float32] = np.clip(area / (side / scale) ** 2, 0, 1).astype(np.float32)
    return shares


def _at(integral: Floats, y: Floats, x: Floats) -> Floats:
    """Return the integral at (len(y), len(x)) positions; it is bilinear within pixels."""
    rows = _along(integral, y)
    return _along(rows.T, x).T


def _along(values: Floats, at: Floats) -> Floats:
    at = np.clip(at, 0, len(values) - 1)
    below = np.minimum(at.astype(np.intp), max(len(values) - 2, 0))
    rest = (at - below)[:, np.newaxis]
    between: Floats = values[below] * (1 - rest) + values[below + 1] * rest
    return between
