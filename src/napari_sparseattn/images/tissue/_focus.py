"""How sharp tissue is, told apart from how much texture it has."""

from __future__ import annotations

import functools
from collections.abc import Iterator, Sequence

import numpy as np
import numpy.typing as npt

__all__ = ["FINER", "energies", "find_blurred"]

Floats = npt.NDArray[np.float32]
Mask = npt.NDArray[np.bool_]

#: Pixels that are looked at along a pixel of the mask: 2 µm where masks have 8.
FINER = 4
_COARSE_SIGMA = 1.5
#: What the filters reach along each way: scipy cuts Gaussians at four sigma.
_REACH = 6
_BAND = 64
# Sharp tissue, pale and smooth included, has a ratio of 5 to 100; blurred with
# a Gaussian of 2 µm it has 0.8 to 3, of 3 µm 0.5 to 1.1 (both SVS files of
# OpenSlide and TCGA, see the tests). Grossly blurred is 1 to 2.5.
_SHARE_OF_SHARP = 0.05
_LEAST_RATIO, _MOST_RATIO = 1.0, 2.5
#: Below such an energy of coarse structure there is nothing to be blurred.
_STRUCTURE = 1e-5
_WINDOW = 9
_LEAST_AREA = 150


def energies(grey: Floats) -> tuple[Floats, Floats]:
    """Return the energy of fine and of coarse structure per pixel of the mask.

    Parameters
    ----------
    grey : numpy.ndarray, shape (4 h, 4 w), float32
        0..1.

    Returns
    -------
    fine, coarse : numpy.ndarray, shape (h, w), float32
        Mean squares of the Laplacian, and of the Laplacian of a Gaussian.
    """
    # Beyond the border lies what lies within it.
    fine = grey * np.float32(-4)
    for part, other in ((fine, grey), (fine.T, grey.T)):
        part[1:] += other[:-1]
        part[:-1] += other[1:]
        part[0] += other[0]
        part[-1] += other[-1]
    across = [_filtered(grey.T, which).T for which in (0, 1)]
    coarse = _filtered(across[0], 1) + _filtered(across[1], 0)
    return _pool(np.square(fine, out=fine)), _pool(np.square(coarse, out=coarse))


def _filtered(values: Floats, which: int) -> Floats:
    """Apply one of `_filters` along the first axis, a band of its rows at a time."""
    n = len(values)
    matrix, made = _filters(n)[which], np.empty_like(values)
    for start in range(0, n, _BAND):
        # A row's weights reach so far: beyond are zeros, most of the matrix.
        near = slice(max(start - _REACH, 0), start + _BAND + _REACH)
        made[start : start + _BAND] = matrix[start : start + _BAND, near] @ values[near]
    return made


@functools.lru_cache(maxsize=8)
def _filters(n: int) -> tuple[Floats, Floats]:
    """Filters along n pixels as matrices: a Gaussian, and its second derivative.

    Products of matrices take a third of the time of filters, on blocks of some hundred pixels.
    The latter is scaled by the square of the Gaussian's sigma.
    """
    from scipy import ndimage

    each = np.eye(n)
    smooth = ndimage.gaussian_filter1d(each, _COARSE_SIGMA, axis=0)
    curved = ndimage.gaussian_filter1d(each, _COARSE_SIGMA, axis=0, order=2) * _COARSE_SIGMA**2
    return smooth.astype(np.float32), curved.astype(np.float32)


def find_blurred(
    fine: Floats, coarse: Floats, tissue: Mask, glass: Mask
) -> tuple[Mask, tuple[str, ...]]:
    """Return which tissue is out of focus, and what to note.

    Defocus takes fine structure first, so the ratio of fine to coarse energy
    falls; tissue that is pale or smooth has less of both, and keeps its ratio.

    Parameters
    ----------
    fine, coarse : numpy.ndarray, shape (h, w), float32
        From `energies`; 0 where not looked at.
    tissue, glass : numpy.ndarray, shape (h, w), bool
        Where tissue is, and background that was looked at, for the camera's noise.
    """
    nothing = np.zeros(tissue.shape, np.bool_)
    if not tissue.any():
        return nothing, ()
    if glass.sum() >= 100:
        fine = np.maximum(fine - np.median(fine[glass]), 0)
        coarse = np.maximum(coarse - np.median(coarse[glass]), 0)
    fine, coarse = _means_over((fine, coarse), tissue)
    judged = tissue & (coarse > _STRUCTURE)
    if not judged.any():
        return nothing, ()
    ratio = fine / np.maximum(coarse, _STRUCTURE)
    sharp = float(np.quantile(ratio[judged], 0.75))
    threshold = float(np.clip(_SHARE_OF_SHARP * sharp, _LEAST_RATIO, _MOST_RATIO))
    mask = judged & (ratio < threshold)
    notes: tuple[str, ...] = ()
    if float(np.median(ratio[judged])) < _MOST_RATIO:
        notes = ("most of the tissue looks out of focus: look at it at full resolution",)
    return _large(mask), notes


def _pool(values: Floats) -> Floats:
    rows = values.reshape(-1, FINER, values.shape[1]).sum(axis=1)
    pooled: Floats = sum(rows[:, i::FINER] for i in range(FINER)) / np.float32(FINER**2)
    return pooled


def _means_over(maps: Sequence[Floats], mask: Mask) -> Iterator[Floats]:
    """Yield the mean of each map around every pixel, over the pixels of a mask only."""
    from scipy import ndimage

    weight = np.maximum(ndimage.uniform_filter(mask.astype(np.float32), _WINDOW), 1e-3)
    for values in maps:
        total: Floats = ndimage.uniform_filter(np.where(mask, values, np.float32(0)), _WINDOW)
        yield total / weight


def _large(mask: Mask) -> Mask:
    from scipy import ndimage

    labels, _ = ndimage.label(mask)
    sizes = np.bincount(labels.ravel())
    sizes[0] = 0
    kept: Mask = (sizes >= min(_LEAST_AREA, mask.size // 50))[labels]
    return kept
