"""How bright the empty glass of a stained smear is at each place, and where the view ends.

Lenses are darker towards the corners, a camera on an eyepiece sees a round field in black,
and edited images have transparent corners. Stain is what absorbs light that the glass
*there* lets pass; what lies outside of the field of view is no image.
"""

from __future__ import annotations

import dataclasses
import math
from typing import Any

import numpy as np
import numpy.typing as npt
import scipy.ndimage as ndi

from ._plane import PlaneReader

__all__ = ["Glass", "look_at_glass"]

Image = npt.NDArray[np.float32]
Mask = npt.NDArray[np.bool_]

_BLOCK, _MOST_BLOCKS = 4, 1024
_WHITE_QUANTILE = 0.95
_LEAST_WHITE = 0.05
#: Of white: so dark in all colours is no cell, whose stain lets blue or red pass.
_BLACK = 0.25
#: Of the image: a black part at its edge that is smaller may be a speck.
_LEAST_OUTSIDE = 0.002
#: Of what is bright farther in, and of the image's side: where the rim of a round field ends.
_RIM_LEVEL, _WIDEST_RIM = 0.85, 0.08
#: Brightest over darkest glass: less is left alone.
_LEAST_SHADE = 1.12
_FIT_SAMPLES, _FIT_STEPS, _FIT_QUANTILE = 20_000, 30, 0.85
#: Glass is dark in all colours alike where it is dark, which stained cells are not: in optical
#: density. Of so little of it no surface is made.
_GREY, _LEAST_GLASS = 0.12, 0.03


@dataclasses.dataclass(frozen=True, eq=False)
class Glass:
    """The light that the glass lets pass, and the field of view.

    Parameters
    ----------
    shape : (int, int)
        Height and width of the plane in pixels.
    white : numpy.ndarray, shape (C,), float32
        Brightness of empty glass where it is 1 by `shade`; 0 where the image is black.
    shade : numpy.ndarray or None
        Factors of `_terms` of the logarithm of the brightness; None for even light.
    darkest : float
        That logarithm where glass was seen darkest: beyond it nothing is known.
    outside : numpy.ndarray or None
        (h, w) bool, one per block: what is not in view; None if all is.
    block : int
        Side of such a block in pixels.
    view : numpy.ndarray or None
        (h, w, C) float32, the brightness of each block in even light.
    """

    shape: tuple[int, int]
    white: npt.NDArray[np.float32]
    shade: npt.NDArray[np.float64] | None = None
    darkest: float = 0.0
    outside: Mask | None = None
    block: int = 1
    view: Image | None = None

    def density(self, image: Image, factor: int, top: int = 0, left: int = 0) -> Image:
        """-ln of the transmission, which is proportional to the stain (Beer and Lambert).

        Parameters
        ----------
        image : numpy.ndarray, shape (h, w, C), float32
            Means of factor x factor pixels; overwritten.
        factor : int
            Side of those blocks in pixels.
        top, left : int
            Which block the first is.

        Returns
        -------
        numpy.ndarray, shape (h, w, C), float32
            0 outside of the field of view.
        """
        if self.white.max() < _LEAST_WHITE:
            image[...] = 0
            return image
        image /= np.maximum(self.white, _LEAST_WHITE)
        if self.shade is not None:
            for row in range(len(image)):
                image[row] /= self._shade_of(image.shape[1], factor, top + row, left)[:, np.newaxis]
        np.clip(image, 1 / 256, 1.0, out=image)
        np.log(image, out=image)
        np.negative(image, out=image)
        if self.outside is not None:
            image[~self.inside(image.shape[:2], factor, top, left)] = 0
        return image

    def _shade_of(self, width: int, factor: int, row: int, left: int) -> Image:
        assert self.shade is not None
        columns = (np.arange(left, left + width) + 0.5) * factor
        surface = _terms((row + 0.5) * factor, columns, self.shape) @ self.shade
        light: Image = np.exp(surface.clip(self.darkest, 0)).astype(np.float32)
        return light

    def inside(self, shape: tuple[int, ...], factor: int, top: int = 0, left: int = 0) -> Mask:
        """Tell which of h x w blocks of a side of `factor` pixels are in view, (h, w)."""
        if self.outside is None:
            return np.ones(shape[:2], bool)
        places = []
        for length, first, limit in zip(shape[:2], (top, left), self.outside.shape, strict=True):
            middle = ((np.arange(first, first + length) + 0.5) * factor).astype(np.intp)
            places.append(np.minimum(middle // self.block, limit - 1))
        return ~self.outside[np.ix_(*places)]


def _terms(
    row: float | npt.NDArray[np.floating[Any]],
    column: npt.NDArray[np.floating[Any]],
    shape: tuple[int, int],
) -> npt.NDArray[np.float64]:
    """(N, 7) of a smooth surface: slopes, curvature, and a lens's steeper fall at the corners."""
    reach = math.hypot(*shape) / 2
    y = np.broadcast_to((row - shape[0] / 2) / reach, column.shape)
    x = (column - shape[1] / 2) / reach
    return np.stack([np.ones_like(x), y, x, y * y, x * x, y * x, (y * y + x * x) ** 2], axis=-1)


def look_at_glass(reader: PlaneReader, transparent: Mask | None = None) -> Glass:
    """Find the field of view, and how evenly it is lit.

    Parameters
    ----------
    reader : PlaneReader
        A plane of a stained smear.
    transparent : numpy.ndarray, shape (H, W), bool, optional
        Pixels that are not part of the image.
    """
    block = max(_BLOCK, math.ceil(max(reader.shape) / _MOST_BLOCKS))
    view = reader.read(block)
    white = _white(view.reshape(-1, view.shape[-1]))
    if white.max() < _LEAST_WHITE or min(view.shape[:2]) < 8:
        return Glass(reader.shape, white, block=block, view=view)
    outside = _find_outside(view, white)
    if transparent is not None:
        clear = transparent[::block, ::block][: view.shape[0], : view.shape[1]]
        outside = clear if outside is None else outside | clear
    if outside is not None and outside.all():
        outside = None
    inside = np.ones(view.shape[:2], bool) if outside is None else ~outside
    if outside is not None:
        white = _white(view[inside])
    glass = Glass(reader.shape, white, None, 0.0, outside, block, view)
    fitted = _fit_shade(view, inside, glass)
    if fitted is None:
        return glass
    glass = dataclasses.replace(glass, shade=fitted[0], darkest=fitted[1])
    for row in range(len(view)):
        view[row] /= glass._shade_of(view.shape[1], block, row, 0)[:, np.newaxis]
    return dataclasses.replace(glass, white=_white(view[inside]))


def _white(pixels: Image) -> npt.NDArray[np.float32]:
    return np.quantile(pixels, _WHITE_QUANTILE, axis=0).astype(np.float32)


def _find_outside(view: Image, white: npt.NDArray[np.float32]) -> Mask | None:
    """What is black from the edge on, with the dim rim before it; None if nothing is."""
    light = view.max(axis=-1)
    black = light < _BLACK * white.max()
    parts, count = ndi.label(black)
    if not count:
        return None
    edge = np.concatenate([parts[0], parts[-1], parts[:, 0], parts[:, -1]])
    sizes = np.bincount(parts.ravel())
    large = sizes >= _LEAST_OUTSIDE * light.size
    large[0] = False
    outside: Mask = np.isin(parts, [n for n in np.unique(edge) if large[n]])
    if not outside.any():
        return None
    # How far in is it as bright as farther in? Cells are darker, so the bright pixels say.
    apart = ndi.distance_transform_edt(~outside)
    reach = max(2, round(_WIDEST_RIM * min(light.shape)))
    rings = [light[(apart > n) & (apart <= n + 1)] for n in range(2 * reach)]
    levels = [float(np.quantile(ring, 0.9)) if len(ring) else 0.0 for ring in rings]
    plateau = float(np.median(levels[reach:]))
    rim = next((n for n in range(reach) if levels[n] >= _RIM_LEVEL * plateau), reach)
    dim: Mask = apart <= rim + 1
    return dim


def _fit_shade(
    view: Image, inside: Mask, glass: Glass
) -> tuple[npt.NDArray[np.float64], float] | None:
    """Fit the brightness of the glass by a smooth surface; None where the light is even."""
    density = -np.log(np.maximum(view / np.maximum(glass.white, _LEAST_WHITE), 1 / 256))
    grey = inside & (np.ptp(density, axis=-1) < _GREY)
    rows, columns = np.nonzero(grey)
    if len(rows) < _LEAST_GLASS * np.count_nonzero(inside):
        return None
    step = max(1, len(rows) // _FIT_SAMPLES)
    rows, columns = rows[::step], columns[::step]
    values = -density[rows, columns].mean(axis=-1).astype(np.float64)
    terms = _terms((rows + 0.5) * glass.block, (columns + 0.5) * glass.block, glass.shape)
    factors = np.zeros(terms.shape[1])
    for _ in range(_FIT_STEPS):
        miss = values - terms @ factors
        # Quantile regression by weights: what is pale lies below the glass.
        weight = np.where(miss > 0, _FIT_QUANTILE, 1 - _FIT_QUANTILE)
        weight /= np.maximum(np.abs(miss), 0.005)
        normal = terms.T @ (terms * weight[:, np.newaxis])
        normal[np.diag_indices(len(normal))] += 1e-6 * np.trace(normal)
        factors = np.linalg.solve(normal, terms.T @ (weight * values))
    surface = terms @ factors
    factors[0] -= float(surface.max())
    darkest = -float(np.ptp(surface))
    return (factors, darkest) if darkest < -math.log(_LEAST_SHADE) else None
