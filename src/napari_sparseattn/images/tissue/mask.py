"""Where the tissue of a slide is, without ink, blur and what could not be read."""

from __future__ import annotations

import contextvars
import dataclasses
import math
import os
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import TYPE_CHECKING

import numpy as np
import numpy.typing as npt
from threadpoolctl import threadpool_limits

from ...progress import Progress, ignore_progress
from ...reprs import short_repr
from ..slides._window import level_for, read_window
from ..slides.channels import refuse_channels
from . import _focus as focus
from ._colour import mean_channels, separate
from ._polygons import outlines, rasterise

if TYPE_CHECKING:
    from ..slides.pyramid import Pyramid

__all__ = [
    "Tissue",
    "check_bright",
    "check_inverted",
    "check_slide",
    "find_tissue",
    "tissue_from_polygons",
]

Mask = npt.NDArray[np.bool_]
Floats = npt.NDArray[np.float32]

# Where the µm per pixel is not known: what slides at 20x would need.
_USUAL_DOWNSAMPLE = 16.0
_MOST_PIXELS = 2**24
_LEAST_SIDE = 64
#: Rows of the mask that are read at a time, and columns where tissue is looked at closely.
_STRIP = 64
#: That look closely at the same time.
_MOST_THREADS = 4

#: Brightest channel below which half of a dark image lies, darkest above which glass does, and
#: the share of glass that a brightfield slide has at least where the rest is black.
_DARK, _BRIGHT, _LEAST_BRIGHT = 0.25, 0.6, 0.02
#: The share of a channel's pixels up to its full brightness, where it has more than 8 bits.
_FULL = 0.999
#: Difference between channels up to which an image is grey, as no stained one is.
_GREY = 0.03
#: Of an inverted image: the median is so dark beside the brightest, colour grows with brightness
#: (correlation), and what is brightest is by so much more coloured than what is darkest.
_INVERTED_MEDIAN, _INVERTED_CORRELATION, _INVERTED_COLOUR = 0.6, 0.3, 1.5


@dataclasses.dataclass(frozen=True, eq=False)
class Tissue:
    """Where the tissue of a slide is.

    Parameters
    ----------
    mask : numpy.ndarray, (h, w) bool
        Tissue to look at.
    downsample : float
        Level-0 pixels along a pixel of the mask, which begins at the slide's
        top left corner.
    shape : (int, int)
        Height and width of the slide in level-0 pixels.
    pen : numpy.ndarray, (h, w) bool
        Marks of a pen; left out of the mask, as are the next two.
    blurred : numpy.ndarray, (h, w) bool
        Tissue that is out of focus.
    unreadable : numpy.ndarray, (h, w) bool
        What could not be decoded.
    notes : tuple of str
        What the user should know.
    unscanned : numpy.ndarray, (h, w) bool, optional
        What the scanner left out: no pixels in the file, transparent, or
        filled with black; None where that was not looked for.
    black_fill : bool
        Whether a part of that is filled with black.
    """

    __repr__ = short_repr

    mask: Mask
    downsample: float
    shape: tuple[int, int]
    pen: Mask
    blurred: Mask
    unreadable: Mask
    notes: tuple[str, ...] = ()
    unscanned: Mask | None = None
    black_fill: bool = False

    @property
    def share(self) -> float:
        """Share of the slide, 0..1, that is tissue to look at."""
        return float(self.mask.mean())

    @property
    def shares(self) -> dict[str, float]:
        """Shares of the slide, 0..1, by name, such as tissue, blank and pen; they sum to 1."""
        parts = {
            "tissue": self.mask,
            "pen": self.pen,
            "blurred": self.blurred,
            "unreadable": self.unreadable,
        }
        if self.unscanned is not None:
            parts["unscanned"] = self.unscanned
        shares = {name: float(part.mean()) for name, part in parts.items()}
        return shares | {"blank": max(0.0, 1 - sum(shares.values()))}

    def summary(self) -> str:
        """Return one line for people."""
        shares = self.shares
        text = f"{100 * shares['tissue']:.3g} % of the slide is tissue"
        why = {
            "pen": "marked by a pen",
            "blurred": "out of focus",
            "unreadable": "not readable",
            "unscanned": "not scanned",
        }
        left_out = [
            f"{100 * shares[name]:.3g} % {words}"
            for name, words in why.items()
            if shares.get(name, 0) > 0
        ]
        return text + (f"; left out: {', '.join(left_out)}" if left_out else "")

    def polygons(self, least_area: float = 4.0) -> list[npt.NDArray[np.float64]]:
        """Return outlines of the mask for a Shapes layer.

        Parameters
        ----------
        least_area : float
            In pixels of the mask; smaller ones are left out.

        Returns
        -------
        list of numpy.ndarray, (n, 2) float64
            (y, x) in level-0 pixels with corners at whole numbers, the largest
            first. A hole is a polygon of its own that lies inside of another;
            `tissue_from_polygons` takes it as that again.
        """
        limit = np.asarray(self.shape, np.float64)
        scaled = (polygon * self.downsample for polygon in outlines(self.mask, least_area))
        return [np.minimum(polygon, limit) for polygon in scaled]


def find_tissue(
    pyramid: Pyramid, *, pixel_size: float = 8.0, progress: Progress | None = None
) -> Tissue:
    """Find the tissue of a stained, unstained or fluorescence slide.

    On a bright background, tissue is what absorbs more light than the glass:
    Otsu's threshold on the optical density of the most absorbed channel, kept
    within what glass and stain can have, so that an empty slide has none. On
    a dark one, it is what stands out from the background by several times its
    noise. Ink is told by absorbing red more than green, blue as much as green,
    or all alike; blur by the ratio of fine to coarse structure in the tissue.

    Only the coarsest levels with that resolution are read, in strips, so that
    memory stays bounded; those made of a slide without any (`make_overview`) too,
    which a note says, as the ledger then holds no tiles for it.

    Parameters
    ----------
    pyramid : Pyramid
        The slide.
    pixel_size : float
        µm per pixel of the mask; a sixteenth of the slide's resolution where
        its own is not known.
    progress : callable, optional
        Called with "tissue", the strips done and their number; may raise to stop.

    Returns
    -------
    Tissue
        Empty, with a note, where nothing is found.

    Raises
    ------
    ValueError
        If `pixel_size` is not a positive number.
    ImageError
        As `read_window`.
    """
    if not (math.isfinite(pixel_size) and pixel_size > 0):
        raise ValueError(f"µm per pixel must be a positive number, got {pixel_size}")
    report = progress or ignore_progress
    downsample, notes = _downsample(pyramid, pixel_size)
    if pyramid.overview is not None:
        pyramid = pyramid.overview
        notes += (f"tissue was looked for in the overview of {pyramid.name} made earlier",)
    pixels, valid, n_strips = _overview(pyramid, downsample, report)
    scale = _float_scale(pyramid, pixels, valid)
    found = separate(_gathered(pyramid, pixels * scale), valid)
    del pixels
    blurred = np.zeros_like(valid)
    blur_notes: tuple[str, ...] = ()
    if not found.dark:
        blurred, blur_notes = _out_of_focus(pyramid, downsample, found.tissue, valid, scale, report)
    report("tissue", 2 * n_strips, 2 * n_strips)
    mask = found.tissue & ~blurred
    # A coarse level may end a pixel before the slide does.
    coarse = pyramid.levels[level_for(pyramid, downsample)]
    y, x = (
        min(n, m * coarse.downsample)
        for n, m in zip(pyramid.shape, (coarse.height, coarse.width), strict=True)
    )
    absent = ~valid & _inside((int(y), int(x)), downsample, valid.shape)
    failed = _find_failed(pyramid, downsample, valid.shape)
    if found.tissue.any() and not mask.any():
        blur_notes += ("all tissue is out of focus",)
    return Tissue(
        mask,
        downsample,
        pyramid.shape,
        found.pen,
        blurred,
        absent & failed,
        (*notes, *found.notes, *blur_notes),
        (absent & ~failed) | found.unscanned,
        bool(found.unscanned.any()),
    )


def check_slide(
    pyramid: Pyramid, *, brightfield: bool, tissue: bool, pixel_size: float = 16.0
) -> None:
    """Refuse a slide that has no class, by a coarse look that its ledger leaves out.

    Parameters
    ----------
    pyramid : Pyramid
        The slide.
    brightfield : bool
        Whether it is to be a stained slide on bright glass: others are refused.
    tissue : bool
        Whether there has to be anything on the glass.
    pixel_size : float
        µm per pixel to look at.

    Raises
    ------
    ValueError
        If the slide is dark, or empty, or holds other channels than colours or grey of 8 bits.
    """
    refuse_channels(pyramid)
    if not (brightfield or tissue):
        return
    twin = pyramid.with_own_ledger()
    downsample, _ = _downsample(twin, pixel_size)
    twin = twin if twin.overview is None else twin.overview.with_own_ledger()
    pixels, valid, _ = _overview(twin, downsample, ignore_progress)
    scaled = pixels * _float_scale(twin, pixels, valid)
    if brightfield:
        check_bright(scaled, valid, pyramid.name)
    if not tissue:
        return
    found = separate(scaled, valid)
    if not (found.tissue.any() or found.pen.any()):
        raise ValueError(
            f"No tissue was found on {pyramid.name}: there is nothing to classify. Look at the "
            "slide; it may be empty, or out of the scanner's sight."
        )


def check_bright(pixels: npt.NDArray[np.float32], valid: npt.NDArray[np.bool_], name: str) -> None:
    """Refuse an image (h, w, 3), values 0..1, that is not of something stained on bright glass.

    Unscanned parts of a slide may be black, and tissue may cover all of it;
    a fluorescence image is dark where nothing glows, and nowhere near white.

    Raises
    ------
    ValueError
        If it is dark.
    """
    shown = pixels[valid]
    if pixels.shape[-1] != 3 or not len(shown):
        return
    dark = float(np.median(shown.max(axis=1))) < _DARK
    glass = float((shown.min(axis=1) > _BRIGHT).mean()) >= _LEAST_BRIGHT
    coloured = float(np.quantile(np.ptp(shown, axis=1), 0.99)) > _GREY
    if dark and not (glass and coloured):
        raise ValueError(
            f"{name or 'The image'} has a dark background, as fluorescence does; this model was "
            "trained on stained samples on bright glass. Choose another model."
        )
    check_inverted(shown, name)


def check_inverted(pixels: npt.NDArray[np.float32], name: str) -> None:
    """Refuse pixels (n, 3) of an image whose brightness was turned round.

    Light that a stain takes away leaves colour: on glass the dark is coloured
    and the bright is pale. Where it is the other way round, and most is dark,
    nothing is stained.

    Raises
    ------
    ValueError
        If it looks inverted.
    """
    brightest = float(np.quantile(pixels.max(axis=1), 0.995)) if len(pixels) else 0.0
    if brightest <= 0:
        return
    seen = np.minimum(pixels / np.float32(brightest), 1)
    bright, colour = seen.mean(axis=1), np.ptp(seen, axis=1)
    if float(np.median(seen.max(axis=1))) >= _INVERTED_MEDIAN or not (
        bright.std() and colour.std()
    ):
        return
    low, high = np.quantile(bright, (0.05, 0.95))
    of_dark, of_bright = (
        float(np.median(colour[rows])) for rows in (bright <= low, bright >= high)
    )
    grows = float(np.corrcoef(bright, colour)[0, 1]) > _INVERTED_CORRELATION
    if grows and of_bright > _INVERTED_COLOUR * of_dark:
        raise ValueError(
            f"{name or 'The image'} looks inverted, or like fluorescence: its background is dark "
            "and what is bright is coloured. This model was trained on stained samples on bright "
            "glass. Invert the image back, or choose another model."
        )


def _overview(
    pyramid: Pyramid, downsample: float, report: Progress
) -> tuple[npt.NDArray[np.float32], npt.NDArray[np.bool_], int]:
    """The whole slide (h, w, C) at a downsample, where it is valid, and strips read."""
    height, width = pyramid.shape
    h, w = math.ceil(height / downsample), math.ceil(width / downsample)
    n_strips = math.ceil(h / _STRIP)
    pixels = np.empty((h, w, pyramid.channels), np.float32)
    valid = np.empty((h, w), np.bool_)
    report("tissue", 0, 2 * n_strips)
    for strip in range(n_strips):
        rows = slice(strip * _STRIP, min((strip + 1) * _STRIP, h))
        pixels[rows], valid[rows] = _read(pyramid, downsample, rows, slice(0, w), 1)
        report("tissue", strip + 1, 2 * n_strips)
    return pixels, valid, n_strips


def tissue_from_polygons(
    shape: tuple[int, int], polygons: Sequence[npt.ArrayLike], downsample: float
) -> Tissue:
    """Return tissue as a person drew or edited it.

    Parameters
    ----------
    shape : (int, int)
        Height and width of the slide in level-0 pixels.
    polygons : sequence of array-like, (n, 2)
        Corners (y, x) in level-0 pixels. Polygons that cross are united; one
        that lies inside of another is a hole in it.
    downsample : float
        Level-0 pixels along a pixel of the mask, at least 1.

    Raises
    ------
    ValueError
        If a polygon has fewer than three corners, or the downsample is no number.
    """
    if not (math.isfinite(downsample) and downsample >= 1):
        raise ValueError(f"the downsample must be at least 1, got {downsample}")
    height, width = shape
    size = math.ceil(height / downsample), math.ceil(width / downsample)
    mask = rasterise(size, [np.asarray(polygon, float) / downsample for polygon in polygons])
    nothing = np.zeros(size, np.bool_)
    notes = () if mask.any() else ("no tissue is marked",)
    return Tissue(mask, float(downsample), shape, nothing, nothing, nothing, notes)


def _downsample(pyramid: Pyramid, pixel_size: float) -> tuple[float, tuple[str, ...]]:
    """Return level-0 pixels along a pixel of the mask, and what to note."""
    height, width = pyramid.shape
    notes: tuple[str, ...] = ()
    if pyramid.pixel_size is None:
        wanted = _USUAL_DOWNSAMPLE
        notes = (
            "tissue was looked for at a sixteenth of the resolution, as the pixel size is unknown",
        )
    else:
        wanted = pixel_size / pyramid.pixel_size
    least = math.sqrt(height * width / _MOST_PIXELS)
    most = min(height, width) / _LEAST_SIDE
    return max(min(wanted, most), least, 1.0), notes


def _inside(shape: tuple[int, int], downsample: float, size: tuple[int, int]) -> Mask:
    """Return which pixels of the mask lie in the slide by at least half."""
    y, x = (
        (np.arange(n) + 0.5) * downsample <= length for n, length in zip(size, shape, strict=True)
    )
    return np.logical_and.outer(y, x)


def _find_failed(pyramid: Pyramid, downsample: float, size: tuple[int, int]) -> Mask:
    """Return which pixels of the mask lie in tiles that could not be decoded."""
    level = level_for(pyramid, downsample)
    scale = downsample / pyramid.levels[level].downsample
    rows, columns = ((np.arange(n) + 0.5) * scale for n in size)
    return pyramid.failed_at(level, rows, columns)


def _read(
    pyramid: Pyramid, downsample: float, rows: slice, columns: slice, finer: int
) -> tuple[Floats, Mask]:
    """Read rows and columns of the mask, with `finer` pixels along each of its pixels."""
    h, w = rows.stop - rows.start, columns.stop - columns.start
    return read_window(
        pyramid,
        rows.start * downsample,
        columns.start * downsample,
        h * downsample,
        w * downsample,
        h * finer,
        w * finer,
    )


def _float_scale(pyramid: Pyramid, pixels: Floats, valid: Mask) -> Floats:
    """Return what brings each channel to 0..1; integers of 8 bits are there already."""
    if pyramid.channel_info:
        seen = pixels[valid] if valid.any() else np.ones((1, pyramid.channels), np.float32)
        high = np.quantile(seen, _FULL, axis=0).astype(np.float32)
        found: Floats = (1 / np.maximum(high, 1e-6)).astype(np.float32)
        return found
    most = float(pixels.max(initial=0))
    return np.array([1 / most if pyramid.dtype.kind == "f" and most > 1 else 1], np.float32)


def _gathered(pyramid: Pyramid, pixels: Floats) -> Floats:
    """Return channels that are no colours as one: what is bright in any of them."""
    if pyramid.channel_info and pyramid.channels not in (1, 3):
        brightest: Floats = pixels.max(axis=2, keepdims=True)
        return brightest
    return pixels


def _out_of_focus(
    pyramid: Pyramid,
    downsample: float,
    tissue: Mask,
    valid: Mask,
    scale: Floats,
    report: Progress,
) -> tuple[Mask, tuple[str, ...]]:
    n_strips = math.ceil(len(tissue) / _STRIP)
    if downsample < focus.FINER:
        report("tissue", 2 * n_strips, 2 * n_strips)
        note = "the slide has too few pixels to tell what is out of focus"
        return np.zeros_like(tissue), (note,) if tissue.any() else ()
    fine, coarse = np.zeros(tissue.shape, np.float32), np.zeros(tissue.shape, np.float32)
    seen = np.zeros_like(tissue)

    def look(block: tuple[slice, slice]) -> tuple[Floats, Floats]:
        pixels, readable = _read(pyramid, downsample, *block, focus.FINER)
        # Edges of what could not be read are no structure.
        grey = mean_channels(pixels if (scale == 1).all() else pixels * scale)
        if not readable.all():
            grey[~readable] = np.median(grey[readable]) if readable.any() else 0
        return focus.energies(grey)

    blocks = [(strip, block) for strip in range(n_strips) for block in _with_tissue(tissue, strip)]
    done = n_strips
    threads = min(os.cpu_count() or 1, _MOST_THREADS)
    # Products of small matrices on several threads, of several threads, wait for each other.
    with threadpool_limits(1, user_api="blas"), ThreadPoolExecutor(threads, "tissue") as pool:
        try:
            # With who is to be heard while the network is waited for.
            looks = [
                pool.submit(contextvars.copy_context().run, look, block) for _, block in blocks
            ]
            for (strip, block), found in zip(blocks, looks, strict=True):
                while done < n_strips + strip:
                    done += 1
                    report("tissue", done, 2 * n_strips)
                fine[block], coarse[block] = found.result()
                seen[block] = True
        finally:
            # Whoever stops in the middle waits for what has begun, not for the rest.
            pool.shutdown(cancel_futures=True)
    return focus.find_blurred(fine, coarse, tissue, seen & valid & ~tissue)


def _with_tissue(tissue: Mask, strip: int) -> Iterator[tuple[slice, slice]]:
    """Yield the blocks of a strip of the mask in which there is tissue."""
    rows = slice(strip * _STRIP, min((strip + 1) * _STRIP, len(tissue)))
    for start in range(0, tissue.shape[1], _STRIP):
        block = rows, slice(start, min(start + _STRIP, tissue.shape[1]))
        if tissue[block].any():
            yield block
