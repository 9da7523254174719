"""Wanted tissue on a slide, from the probability of each patch: thresholded, cleaned, measured."""

from __future__ import annotations

import dataclasses
from typing import Any

import numpy as np
import numpy.typing as npt

from ..reprs import short_repr
from .pyramid_attention import PyramidAttention

__all__ = ["Foci", "find_foci"]

_TOUCHING = np.ones((3, 3), bool)


@dataclasses.dataclass(frozen=True, eq=False)
class Foci:
    """Connected pieces of wanted tissue.

    Parameters
    ----------
    threshold : float
        Probability from which a patch counts.
    least : int
        Patches that a focus, or a gap in one, has at least; smaller ones were
        taken for noise.
    labels : numpy.ndarray
        (rows, columns) int32 on the grid of patches: 0 for none, else the
        focus, the largest being 1.
    patches : numpy.ndarray
        (n,) int64 patches of each focus, largest first.
    n_tissue : int
        Patches of tissue that were judged.
    patch_um : float or None
        From patch to patch in µm; None where the slide's scale is not known.
    raw : int
        Patches at or above the threshold, before cleaning.
    """

    __repr__ = short_repr

    threshold: float
    least: int
    labels: npt.NDArray[np.int32]
    patches: npt.NDArray[np.int64]
    n_tissue: int
    patch_um: float | None
    raw: int

    def __len__(self) -> int:
        return len(self.patches)

    @property
    def share(self) -> float:
        """Share of the tissue's patches that lie in foci, 0 to 1."""
        return float(self.patches.sum() / self.n_tissue) if self.n_tissue else 0.0

    @property
    def areas_mm2(self) -> npt.NDArray[np.float64] | None:
        """(n,) area of each focus in mm²; None where the scale is not known."""
        if self.patch_um is None:
            return None
        return np.asarray(self.patches * (self.patch_um / 1000) ** 2, np.float64)

    @property
    def area_mm2(self) -> float | None:
        """Area of all foci in mm²; None where the scale is not known."""
        areas = self.areas_mm2
        return None if areas is None else float(areas.sum())

    def sentence(self, name: str) -> str:
        """Say how much there is of tissue of a name."""
        foci = "1 focus" if len(self) == 1 else f"{len(self)} foci"
        share = f"{100 * self.share:.3g} % of the tissue"
        if not len(self):
            return f"No {name} at a probability of {100 * self.threshold:g} % or more."
        area = self.area_mm2
        if area is None:
            return f"{name}: {foci}, {share}; no area, as the pixel size is unknown."
        return f"{name}: {area:.3g} mm² in {foci}, {share}."

    def to_dict(self) -> dict[str, Any]:
        """Return numbers and lists, for JSON."""
        areas = self.areas_mm2
        return {
            "threshold": self.threshold,
            "least_patches": self.least,
            "count": len(self),
            "area_mm2": self.area_mm2,
            "share_of_tissue": self.share,
            "areas_mm2": None if areas is None else areas.tolist(),
            "patches": self.patches.tolist(),
            "patches_before_cleaning": self.raw,
        }


def find_foci(
    seen: PyramidAttention,
    *,
    threshold: float = 0.5,
    least: int = 2,
    pixel_size: float | None = None,
) -> Foci:
    """Threshold the probability of each patch, clean it, and count and measure the foci.

    Patches that touch, by a corner too, are one focus. Foci of fewer than
    `least` patches are removed; then gaps of fewer than `least` patches that
    foci enclose are filled, where there is tissue in them. Glass is never filled.

    Parameters
    ----------
    seen : PyramidAttention
        With the patches' probabilities.
    threshold : float
        Above 0, up to 1.
    least : int
        1 cleans nothing.
    pixel_size : float, optional
        µm per pixel of the slide.

    Raises
    ------
    ValueError
        If the model gives no probability per patch, or a number is out of range.
    """
    from scipy import ndimage

    if seen.patch_probabilities is None:
        raise ValueError("this model gives no probability per patch, so there is no mask of it")
    if not 0 < threshold <= 1:
        raise ValueError(f"the threshold is a probability above 0 and up to 1, got {threshold}")
    if least < 1:
        raise ValueError(f"the smallest focus has 1 patch or more, got {least}")
    rows, columns = (seen.cells.max(axis=0) + 1).tolist()
    place = tuple(seen.cells.T)
    tissue = np.zeros((rows, columns), bool)
    tissue[place] = True
    found = np.zeros((rows, columns), bool)
    found[place] = seen.patch_probabilities >= threshold
    raw = int(found.sum())
    found = _without_small(found, least, _TOUCHING)
    # What a focus encloses is reached by edges alone: a corner is no way out.
    gaps = ndimage.binary_fill_holes(found) & ~found
    small = gaps & ~_without_small(gaps, least, None)
    found |= small & tissue
    numbered, count = ndimage.label(found, _TOUCHING)
    sizes = np.bincount(numbered.ravel(), minlength=count + 1)[1:]
    order = np.argsort(-sizes, kind="stable")
    rank = np.zeros(count + 1, np.int32)
    rank[order + 1] = np.arange(1, count + 1)
    side = None if pixel_size is None else seen.step * pixel_size
    return Foci(
        threshold, least, rank[numbered], sizes[order].astype(np.int64), len(seen), side, raw
    )


def _without_small(
    mask: npt.NDArray[np.bool_], least: int, touching: npt.NDArray[np.bool_] | None
) -> npt.NDArray[np.bool_]:
    from scipy import ndimage

    numbered, _ = ndimage.label(mask, touching)
    sizes = np.bincount(numbered.ravel())
    kept: npt.NDArray[np.bool_] = (sizes >= least)[numbered] & mask
    return kept
