"""Tissue and ink told from glass in an overview of a slide."""

from __future__ import annotations

import dataclasses
import functools

import numpy as np
import numpy.typing as npt

__all__ = ["Found", "mean_channels", "separate"]

Floats = npt.NDArray[np.float32]
Mask = npt.NDArray[np.bool_]

# Optical density (natural logarithm) of the most absorbed channel. Glass stays
# below the first even with dust and vignetting; the palest fat and mucus of a
# stained section stay above the second.
_LEAST_DENSITY, _MOST_DENSITY = 0.06, 0.2
_DARKEST = 0.004
_GLASS_CHROMA = 0.1
# Haematoxylin and eosin absorb green at least as much as red (Ruifrok and
# Johnston 2001: 0.65 and 0.70, 0.07 and 0.99); blue and green inks absorb red
# the most, red ink blue and green alike and hardly any red, black ink all.
_INK_DENSE, _INK_STRONG, _INK_WEAK = 1.6, 0.7, 0.25
_RED_OVER_GREEN, _RED_OVER_GREEN_WEAK = 1.15, 1.1
_RED_INK_RED, _RED_INK_BLUE = 0.12, 0.5
_BLACK, _BLACK_WEAK, _BLACK_SPREAD = 1.4, 0.7, 0.25
# Ink covers more than specks of pigment: 40 pixels of 8 µm are 2600 µm².
_LEAST_INK = 40
# What a scanner fills with black is nearly 0, and more than a speck of the slide.
_FILL, _FILL_SHARE, _FILL_LEAST = 0.03, 0.002, 64
# Of a slide with black fill, so much of the rest must be as bright as glass.
_BRIGHT_SHARE = 0.1
# A structure must stand out from a dark background by this many times its noise.
_OVER_NOISE = 6.0
_LEAST_CONTRAST = 0.015
_BETWEEN_NUCLEI = 2.5


@dataclasses.dataclass(frozen=True)
class Found:
    """What an overview shows: masks (h, w), whether its background is dark, and notes."""

    tissue: Mask
    pen: Mask
    dark: bool
    unscanned: Mask
    notes: tuple[str, ...] = ()


def mean_channels(pixels: Floats) -> Floats:
    """Return the mean over the last axis, many times as fast as numpy's own for a few channels."""
    total = pixels[..., 0].copy()
    for channel in range(1, pixels.shape[-1]):
        total += pixels[..., channel]
    total /= np.float32(pixels.shape[-1])
    return total


def _highest(pixels: Floats) -> Floats:
    return functools.reduce(np.maximum, np.moveaxis(pixels, -1, 0))


def _lowest(pixels: Floats) -> Floats:
    return functools.reduce(np.minimum, np.moveaxis(pixels, -1, 0))


def separate(pixels: Floats, valid: Mask) -> Found:
    """Separate tissue, ink and background.

    Parameters
    ----------
    pixels : numpy.ndarray, shape (h, w, C), float32
        Overview, 0..1, of 1 or 3 channels.
    valid : numpy.ndarray, shape (h, w), bool
        Where it could be read.
    """
    nothing = np.zeros(valid.shape, np.bool_)
    if not valid.any():
        return Found(nothing, nothing, False, nothing, ("no part of the slide could be read",))
    light = mean_channels(pixels)
    fill = _black_fill(pixels, valid)
    seen = light[valid & ~fill]
    bright = seen.size > 0 and (not fill.any() or (seen > 0.6).mean() > _BRIGHT_SHARE)
    if not bright or (seen < 0.15).mean() > (seen > 0.6).mean():
        tissue, notes = _bright_on_dark(_highest(pixels), valid)
        return Found(_clean(tissue, valid), nothing, True, nothing, notes)
    valid = valid & ~fill
    density = _densities(pixels, light, valid)
    pen = _ink(density) & valid
    # Dense nuclei would draw the threshold into the tissue, and the mask out of it.
    absorbed = np.minimum(_highest(density), 3 * _MOST_DENSITY)
    threshold = _between(absorbed[valid & ~pen])
    tissue = (_smooth(absorbed, valid & ~pen) > threshold) & valid & ~pen
    tissue = _clean(tissue, valid & ~pen)
    empty = () if tissue.any() else ("no tissue was found: the slide looks empty",)
    return Found(tissue, pen, False, fill, empty)


def _black_fill(pixels: Floats, valid: Mask) -> Mask:
    """Return what a scanner filled with black, with the mixed pixels at its edges."""
    from skimage.morphology import dilation, footprint_rectangle

    black = (_highest(pixels) < _FILL) & valid
    black = _without_specks(black, max(_FILL_LEAST, int(_FILL_SHARE * black.size)))
    if not black.any():
        return black
    mask: Mask = dilation(black, footprint_rectangle((3, 3))) & valid
    return mask


def _densities(pixels: Floats, light: Floats, valid: Mask) -> Floats:
    """Return optical densities (h, w, C) relative to the glass; 0 where brighter."""
    least = _lowest(pixels)
    chroma = _highest(pixels) - least
    high = np.quantile(light[valid], 0.99)
    # Scanners fill what they did not scan with pure white, which is no glass.
    glass = valid & (light > 0.8 * high) & (chroma < _GLASS_CHROMA)
    scanned = glass & (least < 0.996)
    glass = scanned if scanned.sum() > 0.01 * valid.sum() else glass
    rare = glass.sum() < 0.01 * valid.sum()
    densities = np.empty_like(pixels)
    # Channel by channel: numpy takes the last axis innermost, and begins anew after each pixel.
    for channel in range(pixels.shape[-1]):
        seen, density = pixels[..., channel], densities[..., channel]
        white = float(np.quantile(seen[valid], 0.99) if rare else np.median(seen[glass]))
        relative: Floats = seen / np.float32(max(white, 0.3))
        np.log(np.clip(relative, _DARKEST, 1, out=relative), out=relative)
        np.negative(relative, out=density)
    densities[~valid] = 0  # black there is no ink
    return densities


def _between(values: Floats) -> float:
    """Return a threshold by Otsu's method, within what glass and stain can have."""
    from skimage.filters import threshold_otsu

    if not len(values) or float(np.ptp(values)) < 1e-3:
        return _MOST_DENSITY
    return float(np.clip(threshold_otsu(values), _LEAST_DENSITY, _MOST_DENSITY))


def _smooth(values: Floats, mask: Mask, sigma: float = 1.0) -> Floats:
    """Return the Gaussian mean over the pixels of a mask only."""
    from scipy import ndimage

    weight = ndimage.gaussian_filter(mask.astype(np.float32), sigma)
    smooth = ndimage.gaussian_filter(np.where(mask, values, 0).astype(np.float32), sigma)
    mean: Floats = np.where(weight > 1e-3, smooth / np.maximum(weight, 1e-3), 0).astype(np.float32)
    return mean


def _bright_on_dark(bright: Floats, valid: Mask) -> tuple[Mask, tuple[str, ...]]:
    """Return tissue of a fluorescence image, by how far it stands out from the background."""
    from skimage.filters import threshold_otsu

    # Tissue is where nuclei are, not only the nuclei.
    smooth = _smooth(bright, valid, _BETWEEN_NUCLEI)
    values = smooth[valid]
    level, dark = np.quantile(values, (0.05, 0.2))
    rough = np.abs(bright - smooth)[valid & (smooth <= dark)]
    noise = 1.4826 * float(np.median(rough))
    contrast = float(np.quantile(values, 0.999) - level)
    if contrast < max(_OVER_NOISE * noise, _LEAST_CONTRAST):
        why = "no tissue was found: nothing stands out from the dark background"
        return np.zeros(valid.shape, np.bool_), (why,)
    # Logarithms: tissue is told from the dark, not bright nuclei from dim ones.
    base = max(noise, _LEAST_CONTRAST / 4)
    above = np.log(np.clip(smooth - level, 0, None) + base)
    threshold = max(float(threshold_otsu(above[valid])), float(np.log(2 * base)))
    return (above > threshold) & valid, ()


def _ink(density: Floats) -> Mask:
    """Return the mask of marker pens; none where there is no colour to tell them by."""
    from skimage.morphology import dilation, footprint_rectangle, reconstruction

    if density.shape[2] == 1:
        return np.zeros(density.shape[:2], np.bool_)
    most, least = _highest(density), _lowest(density)
    black = (least > _BLACK) & (most - least < _BLACK_SPREAD * most)
    black_weak = (least > _BLACK_WEAK) & (most - least < _BLACK_SPREAD * most)
    strong, weak = black, black_weak
    red, green, blue = np.moveaxis(density, 2, 0)
    strong = strong | ((red > _INK_STRONG) & (red > _RED_OVER_GREEN * green))
    # No stain is so dense over whole pixels of 8 µm.
    strong = strong | ((red > _INK_DENSE) & (red > green))
    weak = weak | ((red > _INK_WEAK) & (red > _RED_OVER_GREEN_WEAK * green))
    # Blood is as red, but lets less than nine tenths of the red pass.
    redness = (red < _RED_INK_RED * green) & (blue > _RED_INK_BLUE * green)
    strong = strong | ((green > 2 * _INK_STRONG) & redness)
    weak = weak | ((green > _INK_STRONG) & redness)
    strong = _without_specks(strong, _LEAST_INK)
    if not strong.any():
        return strong
    # Ink is paler at its edges: it reaches as far as the weaker rule holds.
    grown = reconstruction(strong.astype(np.uint8), (strong | weak).astype(np.uint8)) > 0
    mask: Mask = dilation(grown, footprint_rectangle((3, 3)))
    return mask


def _clean(tissue: Mask, allowed: Mask) -> Mask:
    """Drop specks, and fill holes too small to matter for a patch."""
    least = max(4, min(150, tissue.size // 2000))
    kept = _without_specks(tissue, least)
    return ~_without_specks(~kept, least) & allowed


def _without_specks(mask: Mask, least: int) -> Mask:
    from scipy import ndimage

    labels, n = ndimage.label(mask)
    if n == 0:
        return mask
    sizes = np.bincount(labels.ravel())
    sizes[0] = 0
    kept: Mask = (sizes >= least)[labels]
    return kept
