"""Label images of cells, by stain contrast or by phase.

Every function that labels returns an int32 label image (H, W), empty where
nothing stands out.
"""

from __future__ import annotations

import dataclasses
import functools
import math
from collections.abc import Iterator
from typing import Any

import numpy as np
import numpy.typing as npt
import scipy.ndimage as ndi
import skimage.feature
import skimage.filters
import skimage.measure
import skimage.morphology
import skimage.segmentation

from ._glass import look_at_glass
from ._plane import PlaneReader, reduce_image

__all__ = [
    "Smear",
    "label_phase",
    "label_red_cells",
    "label_white_cells",
    "measure_red_cells",
]

Image = npt.NDArray[np.float32]
Mask = npt.NDArray[np.bool_]
Labels = npt.NDArray[np.int32]

_RED_CELL_UM = 7.5
_WHITE_CELL_UM = 13.0
# Cells are found on an image reduced to about this many pixels per red cell:
# enough for their outlines, and large cells cost no more than small ones.
_WORKING_DIAMETER = 30.0
# Of larger images the parts with nuclei are found first, at no fewer pixels per red cell than this.
_MOST_AT_ONCE, _LEAST_DIAMETER, _TILE = 4_000_000, 10.0, 768
# Free red cells are measured at about this many pixels.
_MEASURING_DIAMETER = 40.0
_LEAST_WHITE = 0.05
_SCALE_PART = 800
_MIN_SIDE = 8
# In red-cell diameters or areas, tuned on the fields of BCCD under train/.
_LOBE_GAP = 0.7
_NUCLEUS_WIDTH = 2.5
_TOUCHING_WIDTH = 2.9
_WHOLE_NUCLEUS = 0.9
_MIN_NUCLEUS = 0.33
# Platelets: where their stain ends and what it reaches, in optical density; least and most area;
# length of the short over the long axis; absorption of blue over that of red, which is more in
# what lies on or between red cells. Tuned on 13 of the fields under train/.
_PLATELET_EDGE, _PLATELET_PEAK = 0.1, 0.17
_PLATELET_AREAS, _PLATELET_ROUND, _PLATELET_BLUE = (0.02, 0.33), 0.5, 0.5
# What free round cells, and circles inscribed in what is red, have of the boxes that people drew
# around red cells: medians over 70 fields of BCCD under train/.
_ROUND_SHARE, _INSCRIBED_SHARE = 0.906, 0.82
_ROUND_DENSITIES = (0.3, 0.5, 0.7, 0.9)
_MOST_NUCLEAR = 0.05
# Of a map's range: what rises less may be the steps in which the background is looked for.
_LEAST_RISE = 0.02


class Smear:
    """A plane of a stained smear, read in parts as optical density.

    Parameters
    ----------
    plane : numpy.ndarray, shape (H, W, 3)
        Brightfield intensities of any real type.
    transparent : numpy.ndarray, shape (H, W), bool, optional
        Pixels that are not part of the image.
    """

    def __init__(self, plane: npt.NDArray[Any], transparent: Mask | None = None) -> None:
        self._reader = PlaneReader(plane)
        self.shape = self._reader.shape
        self.glass = look_at_glass(self._reader, transparent)

    def density(
        self, factor: int = 1, rows: slice | None = None, columns: slice | None = None
    ) -> Image:
        """Return the density (h, w, 3) of a part in blocks of factor x factor pixels."""
        part = self._reader.read(factor, rows, columns)
        top, left = ((each.start or 0) if each else 0 for each in (rows, columns))
        return self.glass.density(part, factor, top, left)

    def inside(self, factor: int, shape: tuple[int, ...]) -> Mask:
        """Tell which of these blocks are in the field of view, (h, w)."""
        return self.glass.inside(shape, factor)

    @functools.cached_property
    def busiest_part(self) -> tuple[Image, tuple[int, int]]:
        """The density of the part of a large field that varies most, and its corner."""
        height, width = self.shape
        corners = [
            (row, column)
            for row in range(0, max(1, height - _SCALE_PART // 2), _SCALE_PART)
            for column in range(0, max(1, width - _SCALE_PART // 2), _SCALE_PART)
        ]
        best = corners[0]
        if len(corners) > 1 and self.glass.view is not None:
            # What each part looks like can be seen from afar.
            block = self.glass.block
            light = self.glass.view[..., 1] / max(float(self.glass.white[1]), _LEAST_WHITE)
            few = -np.log(light.clip(1 / 256, 1)) * self.inside(block, light.shape)
            side = _SCALE_PART // block

            def change(corner: tuple[int, int]) -> float:
                row, column = (v // block for v in corner)
                return float(few[row : row + side, column : column + side].std())

            best = max(corners, key=change)
        rows, columns = (slice(v, v + _SCALE_PART) for v in best)
        return self.density(1, rows, columns), best

    def red_cell_diameter(self, pixel_size: float | None) -> float:
        """Red cells' diameter in pixels: 7.5 µm, or measured from the image."""
        if pixel_size is not None:
            return max(_RED_CELL_UM / pixel_size, 4.0)
        red, factor = _find_red(self.busiest_part[0])
        return max(factor * _typical_diameter(red), 4.0)


@dataclasses.dataclass(frozen=True)
class _Levels:
    """At which densities something is a nucleus, or stained at all; of a whole image."""

    nuclear: float
    background: float
    otsu: float

    @classmethod
    def of(cls, density: Image, inside: Mask | None = None, sigma: float = 1.0) -> _Levels:
        """Measure them on a density (h, w, 3), where it is in view."""
        index, total = _nuclear(density, sigma), _total(density, sigma)
        if inside is not None and not inside.all():
            index, total = index[inside], total[inside]
        if not total.size or np.ptp(total) < 0.05:
            return cls(_nuclear_threshold(index), math.inf, math.inf)
        otsu = float(skimage.filters.threshold_otsu(np.minimum(total, 0.6)))
        return cls(_nuclear_threshold(index), _background_level(total), otsu)

    def stained(self, density: Image, share: float) -> Mask:
        """Pixels whose density in green lies a share of the way to Otsu's threshold.

        A low share takes in pale cells and joins neighbours; a high one does not.
        """
        if math.isinf(self.otsu):
            return np.zeros(density.shape[:2], bool)
        limit = self.background + max(share * (self.otsu - self.background), 0.03)
        stained: Mask = _total(density) > limit
        return stained


def label_white_cells(
    smear: Smear, pixel_size: float | None = None, platelets: bool = False
) -> Labels:
    """Label nucleated cells of a stained smear.

    The nuclear stain absorbs red light, which red cells and eosin hardly do.
    What absorbs it strongly and is too big for a platelet is a nucleus;
    nuclear lobes closer than a fraction of a red cell's diameter are one
    cell; its cytoplasm is what is stained around it.

    Parameters
    ----------
    smear : Smear
        The image.
    pixel_size : float, optional
        µm per pixel. Without it the size of the red cells sets the scale.
    platelets : bool
        Label platelets too.
    """
    if min(smear.shape) < _MIN_SIDE:
        return np.zeros(smear.shape, np.int32)
    diameter = smear.red_cell_diameter(pixel_size)
    factor = max(1, round(diameter / _WORKING_DIAMETER))
    size = math.prod(-(-side // factor) for side in smear.shape)
    if size > _MOST_AT_ONCE:
        return _white_cells_in_parts(smear, diameter, factor, platelets)
    density = smear.density(factor)
    levels = _Levels.of(density, smear.inside(factor, density.shape))
    labels = _white_cells(density, diameter / factor, levels)
    if platelets:
        extra = _find_platelets(density, diameter / factor, levels)
        labels = _add_platelets(labels, extra)
    return _enlarge(labels, factor, smear.shape)


def label_red_cells(smear: Smear, pixel_size: float | None = None) -> Labels:
    """Label red cells of a stained smear.

    Stained pixels less the white cells and platelets; touching cells are
    split at the necks of their outline. The granules of an eosinophil may be
    taken for one. See `label_white_cells`.
    """
    if min(smear.shape) < _MIN_SIDE:
        return np.zeros(smear.shape, np.int32)
    diameter = smear.red_cell_diameter(pixel_size)
    factor = max(1, round(diameter / _WORKING_DIAMETER))
    while math.prod(-(-side // factor) for side in smear.shape) > _MOST_AT_ONCE and (
        diameter / (factor + 1) >= _LEAST_DIAMETER
    ):
        factor += 1
    density = smear.density(factor)
    levels = _Levels.of(density, smear.inside(factor, density.shape))
    diameter /= factor
    white = _white_cells(density, diameter, levels) > 0
    mask = levels.stained(density, 0.6) & ~white & (_nuclear(density) < levels.nuclear)
    mask = _fill_holes(skimage.morphology.opening(mask, skimage.morphology.disk(2)), diameter)
    labels = _split(mask & ~white, diameter)
    labels = _drop_small(labels, 0.3 * math.pi / 4 * diameter**2)
    return _enlarge(labels, factor, smear.shape)


def label_phase(image: Image, rising: bool = False) -> Labels:
    """Label cells that stand out of a flat background, (H, W).

    Parameters
    ----------
    image : numpy.ndarray, shape (H, W), float32
        Phase, OPD or an unknown intensity. Cells may be brighter or darker
        than the background, whichever stands out more.
    rising : bool
        Whether only what is brighter is a cell.

    Notes
    -----
    What is thinner than a third of the typical cell is taken for debris.
    """
    if min(image.shape) < _MIN_SIDE:
        return np.zeros(image.shape, np.int32)
    factor = max(1, round(max(image.shape) / 1024))
    small = reduce_image(image[..., np.newaxis], factor)[..., 0]
    contrast = skimage.filters.gaussian(small, 1.0) - _background_level(small)
    noise = 1.4826 * float(np.median(np.abs(contrast - np.median(contrast))))
    if not contrast.any() or np.ptp(contrast) <= 0:
        return np.zeros(image.shape, np.int32)
    if not rising and -np.quantile(contrast, 0.02) > np.quantile(contrast, 0.98):
        contrast = -contrast
    if rising and contrast.max() < _LEAST_RISE * np.ptp(contrast):
        return np.zeros(image.shape, np.int32)
    threshold = float(skimage.filters.threshold_otsu(np.maximum(contrast, 0)))
    strong = contrast > threshold
    if not strong.any() or float(contrast[strong].mean()) < 4 * noise:
        return np.zeros(image.shape, np.int32)
    mask = skimage.filters.apply_hysteresis_threshold(contrast, threshold / 2, threshold)
    mask = skimage.morphology.opening(_fill_all_holes(mask), skimage.morphology.disk(2))
    typical = _typical_diameter(mask)
    labels = _drop_small(_split(mask, typical), math.pi / 4 * (typical / 3) ** 2)
    return _enlarge(labels, factor, image.shape)


def _nuclear(density: Image, sigma: float = 1.0) -> Image:
    # Haemoglobin and eosin absorb blue and green; half of blue is taken off so
    # that thick, overlapping red cells do not pass for nuclei.
    index: Image = skimage.filters.gaussian(density[..., 0] - 0.5 * density[..., 2], sigma)
    return index


def _total(density: Image, sigma: float = 1.0) -> Image:
    total: Image = skimage.filters.gaussian(density[..., 1], sigma)
    return total


def _nuclear_threshold(index: Image) -> float:
    # Bounds in optical density: above what the densest red cells reach, below
    # what the palest nuclei do.
    if not index.size or index.max() <= 0.15:
        return math.inf
    return float(np.clip(skimage.filters.threshold_otsu(index), 0.15, 0.35))


def _find_red(density: Image) -> tuple[Mask, int]:
    """Where red cells are, reduced; and by how much."""
    factor = max(1, round(float(min(density.shape[:2])) / 400))
    small = reduce_image(density, factor)
    levels = _Levels.of(small)
    red = levels.stained(small, 0.85) & (_nuclear(small) < levels.nuclear)
    # Pale centres must be filled and gaps between cells must not: the width of
    # the cells' rims says which holes are small.
    rims = _typical_diameter(red)
    filled: Mask = skimage.morphology.opening(
        _fill_holes(red, 1.4 * rims), skimage.morphology.disk(1)
    )
    return filled, factor


def measure_red_cells(
    smear: Smear,
) -> tuple[npt.NDArray[np.float64], npt.NDArray[np.float64]]:
    """Measure red cells without knowing their size.

    Returns
    -------
    free : numpy.ndarray
        (N, 3) row, column and diameter in pixels of round cells that touch
        nothing.
    inscribed : numpy.ndarray
        (M, 3) of the circles that lie in what is stained like red cells: less
        sure, but where cells overlap there is nothing else.
    """
    none = np.empty((0, 3))
    if min(smear.shape) < 4 * _MIN_SIDE or smear.glass.white.max() < _LEAST_WHITE:
        return none, none
    part, corner = smear.busiest_part
    red, factor = _find_red(part)
    peaks, radii = _inscribed_circles(red)
    if not len(peaks):
        return none, none
    order = np.argsort(radii)
    weight = np.cumsum(radii[order] ** 2)
    middle = 2 * factor * float(radii[order][np.searchsorted(weight, weight[-1] / 2)])
    near = (2 * factor * radii > 0.7 * middle) & (2 * factor * radii < 1.4 * middle)
    inscribed = np.column_stack([(peaks[near] + 0.5) * factor - 0.5, 2 * factor * radii[near]])
    reduced = max(1, int(middle / _MEASURING_DIAMETER))
    free = _free_cells(reduce_image(part, reduced), 0.6 * middle / reduced, 1.6 * middle / reduced)
    free[:, :2] = (free[:, :2] + 0.5) * reduced - 0.5
    free[:, 2] *= reduced / _ROUND_SHARE
    inscribed[:, 2] /= _INSCRIBED_SHARE
    offset = np.array([*corner, 0.0])
    return free + offset, inscribed + offset


def _free_cells(density: Image, least: float, most: float) -> npt.NDArray[np.float64]:
    """(N, 3) centre and size of round stained parts without a nucleus, each once."""
    levels = _Levels.of(density)
    nuclear = _nuclear(density) >= levels.nuclear
    found: list[tuple[float, float, float]] = []
    for share in _ROUND_DENSITIES:
        mask = _fill_all_holes(levels.stained(density, share))
        mask = skimage.morphology.opening(mask, skimage.morphology.disk(2))
        for region in skimage.measure.regionprops(skimage.measure.label(mask)):
            row0, col0, row1, col1 = region.bbox
            height, width = row1 - row0, col1 - col0
            size = math.sqrt(height * width)
            if min(row0, col0) == 0 or row1 == mask.shape[0] or col1 == mask.shape[1]:
                continue
            if not least <= size <= most or max(height, width) > 1.35 * min(height, width):
                continue
            if region.solidity < 0.92 or nuclear[region.slice][region.image].mean() > _MOST_NUCLEAR:
                continue
            if region.axis_minor_length >= 0.72 * region.axis_major_length:
                found.append(((row0 + row1 - 1) / 2, (col0 + col1 - 1) / 2, size))
    cells: list[list[tuple[float, float, float]]] = []
    for each in found:
        for cell in cells:
            if math.hypot(cell[0][0] - each[0], cell[0][1] - each[1]) < least / 2:
                cell.append(each)
                break
        else:
            cells.append([each])
    return np.array([np.median(cell, axis=0) for cell in cells]).reshape(-1, 3)


def _typical_diameter(mask: Mask) -> float:
    """Twice the radius of the median inscribed circle, weighted by area, in pixels."""
    peaks, radii = _inscribed_circles(mask)
    if not len(peaks):
        return float(min(mask.shape)) / 3
    # By area, or debris and rims of pale cells would outnumber the cells.
    radii = np.sort(radii)
    share = np.cumsum(radii**2)
    return 2 * float(radii[np.searchsorted(share, share[-1] / 2)])


def _inscribed_circles(mask: Mask) -> tuple[npt.NDArray[np.intp], npt.NDArray[np.float64]]:
    """Centres (N, 2) and radii (N,) of circles inscribed in a mask, in pixels."""
    depth = ndi.distance_transform_edt(np.pad(mask, 1, mode="edge"))[1:-1, 1:-1]
    deepest = float(depth.max())
    if deepest < 2:
        return np.empty((0, 2), np.intp), np.empty(0)
    peaks = skimage.feature.peak_local_max(
        skimage.filters.gaussian(depth, 1.0),
        min_distance=max(1, round(deepest / 2)),
        threshold_abs=max(1.5, deepest / 4),
        labels=skimage.measure.label(mask),
    )
    if not len(peaks):
        peaks = np.argwhere(depth == deepest)[:1]
    return peaks, depth[tuple(peaks.T)]


def _white_cells(density: Image, diameter: float, levels: _Levels) -> Labels:
    index = _nuclear(density)
    area = math.pi / 4 * diameter**2
    stained = index > levels.nuclear
    lobes = _drop_small(skimage.measure.label(_fill_all_holes(stained)), 0.02 * area)
    lobes = _split_large(lobes, diameter)
    nuclei = _join_lobes(lobes, diameter)
    nuclei = _drop_small(nuclei, _MIN_NUCLEUS * area)
    if not nuclei.any():
        return nuclei
    return _with_cytoplasm(nuclei, density, index, levels, diameter)


def _white_cells_in_parts(smear: Smear, diameter: float, factor: int, platelets: bool) -> Labels:
    """Look for nuclei from afar, and at what is around them as closely as in a small image.

    Memory and time follow the nuclei, and not the image.
    """
    size = math.prod(-(-side // factor) for side in smear.shape)
    step = math.ceil(math.sqrt(size / _MOST_AT_ONCE))
    step = max(2, min(step, int(diameter / factor / _LEAST_DIAMETER)))
    far = smear.density(factor * step)
    levels = _Levels.of(far, smear.inside(factor * step, far.shape), 1 / step)
    labels = np.zeros(smear.shape, np.int32)
    last = 0
    for part in _parts_with_nuclei(far, levels, diameter / factor, step):
        density = smear.density(factor, *part.window)
        found = part.own(_white_cells(density, diameter / factor, levels))
        top, left = (span.start * factor for span in part.window)
        close = labels[top : top + len(found) * factor, left : left + found.shape[1] * factor]
        found = _enlarge(found, factor, close.shape)
        np.add(found, last, out=close, where=found > 0)
        last = max(last, int(close.max()))
    if platelets:
        extra = _find_platelets(far, diameter / factor / step, levels, 1 / step)
        _write_platelets(labels, extra, factor * step)
    return labels


@dataclasses.dataclass(frozen=True, eq=False)
class _Part:
    """Some blocks of a large image, and which of the cells in them are this part's."""

    window: tuple[slice, slice]
    core: tuple[slice, slice]
    mine: Mask

    def own(self, labels: Labels) -> Labels:
        """Return those whose middle lies in the core, and which touch what is this part's."""
        if not labels.any():
            return labels
        mine = self.mine[: labels.shape[0], : labels.shape[1]]
        moments = _moments(labels)
        middle = moments[:, 1:3] / np.maximum(moments[:, :1], 1)
        keep = np.bincount(labels[mine], minlength=len(moments)) > 0
        for axis, (span, core) in enumerate(zip(self.window, self.core, strict=True)):
            place = middle[:, axis] + span.start
            keep &= (place >= core.start) & (place < core.stop)
        keep[0] = False
        return (np.cumsum(keep) * keep)[labels].astype(np.int32)


def _parts_with_nuclei(far: Image, levels: _Levels, diameter: float, step: int) -> Iterator[_Part]:
    """Yield what is to be looked at closely, in blocks `step` times finer than `far`."""
    seen = diameter / step
    nuclear = _nuclear(far, 1 / step) > 0.9 * levels.nuclear
    # As far as cytoplasm is looked for, and outlines are closed over it.
    reach = 2 * math.ceil(0.9 * seen) + 1
    parts, count = ndi.label(ndi.maximum_filter(nuclear, reach))
    if not count:
        return
    amount = np.bincount(parts[nuclear], minlength=count + 1)
    enough = amount >= 0.6 * _MIN_NUCLEUS * math.pi / 4 * seen**2
    margin = math.ceil(3 * seen)
    for number, box in enumerate(ndi.find_objects(parts), 1):
        if not enough[number]:
            continue
        for rows, columns in _tiles(box):
            window = tuple(
                slice(max(each.start - margin, whole.start), min(each.stop + margin, whole.stop))
                for each, whole in zip((rows, columns), box, strict=True)
            )
            mine = np.kron(parts[window] == number, np.ones((step, step), bool))
            top, left = (slice(v.start * step, v.stop * step) for v in window)
            core = tuple(slice(v.start * step, v.stop * step) for v in (rows, columns))
            yield _Part((top, left), (core[0], core[1]), mine)


def _tiles(box: tuple[slice, ...]) -> Iterator[tuple[slice, slice]]:
    """Cut a box into tiles that fit into memory."""
    rows, columns = box
    for top in range(rows.start, rows.stop, _TILE):
        for left in range(columns.start, columns.stop, _TILE):
            yield (
                slice(top, min(top + _TILE, rows.stop)),
                slice(left, min(left + _TILE, columns.stop)),
            )


def _find_platelets(density: Image, diameter: float, levels: _Levels, sigma: float = 1.0) -> Labels:
    """Label small purple spots, paler than nuclei: 2 to 4 µm wide, on glass or on red cells."""
    index = _nuclear(density, sigma)
    labels, count = ndi.label(index > _PLATELET_EDGE)
    if not count or math.isinf(levels.otsu):
        return np.zeros(labels.shape, np.int32)
    area = math.pi / 4 * diameter**2
    moments = _moments(labels)
    sizes, which = moments[:, 0], np.arange(count + 1)
    red, blue = (ndi.mean(density[..., n], labels, which) for n in (0, 2))
    round_enough = sizes >= _PLATELET_ROUND * math.pi / 4 * _widths(moments) ** 2
    keep = (
        (sizes >= _PLATELET_AREAS[0] * area)
        & (sizes <= _PLATELET_AREAS[1] * area)
        & (ndi.maximum(index, labels, which) >= _PLATELET_PEAK)
        & (blue <= _PLATELET_BLUE * red)
        & round_enough
    )
    keep[0] = False
    found: Labels = (np.cumsum(keep) * keep)[labels].astype(np.int32)
    return found


def _write_platelets(labels: Labels, platelets: Labels, factor: int) -> None:
    """Write platelets that were seen from afar, unless they touch a cell that is labelled."""
    last = int(labels.max())
    for number, box in enumerate(ndi.find_objects(platelets), 1):
        place = tuple(slice(v.start * factor, v.stop * factor) for v in box)
        part = labels[place]
        mine = np.kron(platelets[box] == number, np.ones((factor, factor), bool))
        mine = mine[: part.shape[0], : part.shape[1]]
        if not part[mine].any():
            last += 1
            part[mine] = last


def _add_platelets(labels: Labels, platelets: Labels) -> Labels:
    """Add platelets that do not touch a cell that is labelled."""
    count = int(platelets.max())
    if not count:
        return labels
    taken = np.bincount(platelets[labels > 0], minlength=count + 1) > 0
    taken[0] = True
    number = np.cumsum(~taken) + int(labels.max())
    return np.where(taken[platelets], labels, number[platelets]).astype(np.int32)


def _split_large(lobes: Labels, diameter: float) -> Labels:
    """Split nuclei that touch: those wider than one cell's nucleus can be."""
    widths = _widths(_moments(lobes))
    large = np.flatnonzero(widths > _TOUCHING_WIDTH * diameter)
    if len(large) == 0:
        return lobes
    mask = np.isin(lobes, large)
    parts = _split(mask, _WHITE_CELL_UM / _RED_CELL_UM * diameter)
    return _drop_small(np.where(mask, parts + lobes.max(), lobes), 1)


def _moments(labels: Labels) -> npt.NDArray[np.float64]:
    """Sums of 1, y, x, yy, xx, yx over each label: (n + 1, 6), added when joined."""
    rows, columns = np.nonzero(labels)
    which = labels[rows, columns]
    y, x = rows.astype(float), columns.astype(float)
    sums = [np.bincount(which, v, labels.max() + 1) for v in (y * 0 + 1, y, x, y * y, x * x, y * x)]
    return np.stack(sums, axis=1)


def _widths(moments: npt.NDArray[np.float64]) -> npt.NDArray[np.float64]:
    """Long axis in pixels of the ellipse with these moments."""
    count = np.maximum(moments[:, 0], 1)
    y, x, yy, xx, yx = (moments[:, 1:] / count[:, np.newaxis]).T
    yy, xx, yx = yy - y * y, xx - x * x, yx - y * x
    largest = (yy + xx) / 2 + np.sqrt(((yy - xx) / 2) ** 2 + yx**2)
    widths: npt.NDArray[np.float64] = 4 * np.sqrt(np.maximum(largest, 0))
    return widths


def _join_lobes(lobes: Labels, diameter: float) -> Labels:
    """Give lobes of one nucleus one label, nearest first.

    Lobes join when near each other and together no wider than a nucleus, and
    unless each is big enough for a nucleus of its own: so neighbouring cells
    stay apart.
    """
    if lobes.max() < 2:
        return lobes
    whole = _WHOLE_NUCLEUS * math.pi / 4 * diameter**2
    moments = _moments(lobes)
    root = np.arange(len(moments))
    for first, second in _neighbours(lobes, _LOBE_GAP * diameter):
        a, b = root[first], root[second]
        if a == b or min(moments[a, 0], moments[b, 0]) > whole:
            continue
        together = moments[a] + moments[b]
        if _widths(together[np.newaxis])[0] <= _NUCLEUS_WIDTH * diameter:
            moments[a] = together
            root[root == b] = a
    return root[lobes].astype(np.int32)


def _neighbours(labels: Labels, gap: float) -> list[tuple[int, int]]:
    """Pairs of labels less than `gap` pixels apart, nearest first."""
    distance, nearest = ndi.distance_transform_edt(labels == 0, return_indices=True)
    zones = labels[tuple(nearest)]
    found = []
    for axis in (0, 1):
        first = [slice(None), slice(None)]
        second = [slice(None), slice(None)]
        first[axis], second[axis] = slice(None, -1), slice(1, None)
        here, there = tuple(first), tuple(second)
        between = distance[here] + distance[there]
        meet = (zones[here] != zones[there]) & (between < gap)
        pairs = np.sort(np.stack([zones[here][meet], zones[there][meet]], axis=1), axis=1)
        found.append(np.column_stack([between[meet], pairs]))
    every = np.concatenate(found)
    every = every[np.argsort(every[:, 0], kind="stable")]
    return list(dict.fromkeys((int(a), int(b)) for _, a, b in every))


def _close(mask: Mask, radius: int) -> Mask:
    padded = np.pad(mask, radius + 1)
    near = ndi.distance_transform_edt(~padded) <= radius
    closed: Mask = ndi.distance_transform_edt(near) > radius
    return closed[radius + 1 : -radius - 1, radius + 1 : -radius - 1] | mask


def _open(mask: Mask, radius: float) -> Mask:
    core = ndi.distance_transform_edt(np.pad(mask, 1, mode="edge"))[1:-1, 1:-1] > radius
    opened: Mask = ndi.distance_transform_edt(~core) <= radius
    return opened & mask if core.any() else core


def _with_cytoplasm(
    nuclei: Labels, density: Image, index: Image, levels: _Levels, diameter: float
) -> Labels:
    """Grow nuclei over the bluish stain around them, a red cell's radius at most."""
    weak = (index > 0.35 * levels.nuclear) & levels.stained(density, 0.7)
    weak = skimage.morphology.opening(weak, skimage.morphology.disk(max(1, round(0.1 * diameter))))
    distance = ndi.distance_transform_edt(nuclei == 0)
    mask = _close((nuclei > 0) | (weak & (distance < 0.5 * diameter)), round(0.25 * diameter))
    # What hangs on by a thin bridge is a neighbour's rim.
    mask = _open(_fill_all_holes(mask), 0.2 * diameter) | (nuclei > 0)
    grown: Labels = skimage.segmentation.watershed(distance, nuclei, mask=mask).astype(np.int32)
    return grown


def _split(mask: Mask, diameter: float) -> Labels:
    """Cut touching cells at their necks: watershed of the distance to the edge.

    `diameter` is the typical cell's in pixels; bumps of an outline shallower
    than a fiftieth of it do not make a cell.
    """
    parts = skimage.measure.label(mask)
    # Cells cut by the image's border are not narrower there.
    depth = ndi.distance_transform_edt(np.pad(mask, 1, mode="edge"))[1:-1, 1:-1]
    depth = skimage.filters.gaussian(depth, max(0.5, 0.03 * diameter))
    # In hundredths of a pixel: whole numbers sort several times faster.
    steps = np.minimum(100 * depth, np.iinfo(np.uint16).max).astype(np.uint16)
    peaks = skimage.morphology.h_maxima(steps, max(1, round(2 * diameter)))
    markers = skimage.measure.label(
        _close(peaks.astype(bool), max(1, round(0.1 * diameter))) & mask
    )
    # Parts too small for a marker of their own keep their label.
    lone = np.isin(parts, np.unique(parts[markers > 0]), invert=True) & mask
    markers[lone] = parts[lone] + markers.max()
    labels: Labels = skimage.segmentation.watershed(-depth, markers, mask=mask).astype(np.int32)
    return labels


def _fill_holes(mask: Mask, diameter: float) -> Mask:
    """Fill holes up to half a cell's area: pale centres, not gaps between cells."""
    largest = 0.5 * math.pi / 4 * diameter**2
    holes = skimage.measure.label(~mask, connectivity=1)
    sizes = np.bincount(holes.ravel())
    inside = sizes <= largest
    inside[0] = False
    edge = np.concatenate([holes[0], holes[-1], holes[:, 0], holes[:, -1]])
    inside[edge] = False
    filled: Mask = mask | inside[holes]
    return filled


def _fill_all_holes(mask: Mask) -> Mask:
    """As ndi.binary_fill_holes, which goes over the image once per pixel of depth."""
    holes, count = ndi.label(~mask)
    open_ = np.zeros(count + 1, bool)
    open_[np.concatenate([holes[0], holes[-1], holes[:, 0], holes[:, -1]])] = True
    open_[0] = False
    filled: Mask = ~open_[holes]
    return filled


def _drop_small(labels: npt.NDArray[Any], area: float) -> Labels:
    sizes = np.bincount(labels.ravel())
    keep = sizes >= area
    keep[0] = False
    new = np.zeros(len(sizes), np.int32)
    new[keep] = np.arange(1, np.count_nonzero(keep) + 1)
    kept: Labels = new[labels]
    return kept


def _enlarge(labels: Labels, factor: int, shape: tuple[int, ...]) -> Labels:
    if factor == 1:
        return labels[: shape[0], : shape[1]]
    # Row by row of blocks: np.kron would hold the result several times.
    large = np.empty((shape[0], shape[1]), np.int32)
    for row, values in enumerate(labels):
        if row * factor < shape[0]:
            large[row * factor : (row + 1) * factor] = np.repeat(values, factor)[: shape[1]]
    return large


def _background_level(image: Image) -> float:
    """The most frequent value: cells cover less than the background does."""
    low, high = np.quantile(image, [0.001, 0.999])
    if not high > low:
        return float(low)
    counts, edges = np.histogram(image, bins=128, range=(float(low), float(high)))
    best = int(np.argmax(ndi.gaussian_filter1d(counts.astype(float), 2.0)))
    return float((edges[best] + edges[best + 1]) / 2)
