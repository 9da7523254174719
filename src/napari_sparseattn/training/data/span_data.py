"""Slides as training examples: their patches, labels, parts, and changes of their grid."""

from __future__ import annotations

import dataclasses
import hashlib
import math
from collections.abc import Iterable, Sequence
from typing import Any, Literal

import numpy as np
import numpy.typing as npt

from .datasets import hash_folds

__all__ = [
    "UNKNOWN",
    "AnnotatedRegion",
    "Part",
    "SlideExample",
    "augment_cells",
    "by_sha256",
    "patch_labels_of",
    "split_slides",
]

#: Label of a patch that nobody has annotated.
UNKNOWN = -1

Part = Literal["train", "validation", "test"]
_PARTS: tuple[Part, ...] = ("train", "validation", "test")

# Of `augment_cells`: how often each change is drawn, and the largest angles.
_PROBABILITY, _SHEAR, _TURN = 0.75, 10.0, 30.0

# Points along a patch at which the annotated regions are looked up.
_POINTS = 5


@dataclasses.dataclass(frozen=True, eq=False)
class SlideExample:
    """The patches of one slide, and what is known of them.

    Parameters
    ----------
    features : array
        (N, F) float32: a NumPy array, or anything with that shape whose slices
        are one, such as an HDF5 dataset; it is then read at every step.
    cells : numpy.ndarray
        (N, 2) int: column and row of each patch on its grid, each place once.
    label : int, optional
        Class of the slide; of another outcome, what parts of a split share evenly.
    patch_labels : numpy.ndarray, optional
        (N,) int8: 1 for a patch of the wanted tissue, 0 for another, -1 where
        nobody knows.
    group : str
        What the slide is of (a patient, a block); the name where it is empty.
        Slides of one group never come to lie in different parts.
    name : str
        What the slide is called.
    outcome : tuple of float
        (value,), or (time, event) with event 1 or 0, where that is to be learned.

    Raises
    ------
    ValueError
        If there is no patch, or the shapes disagree.
    """

    features: Any
    cells: npt.NDArray[np.integer[Any]]
    label: int | None = None
    patch_labels: npt.NDArray[np.int8] | None = None
    group: str = ""
    name: str = ""
    outcome: tuple[float, ...] = ()

    def __post_init__(self) -> None:
        n = len(self.cells)
        if not n:
            raise ValueError(f"{self._called}: the slide has no patch to learn from.")
        if self.cells.shape != (n, 2) or len(self.features.shape) != 2:
            raise ValueError(
                f"{self._called}: expected cells (N, 2) and features (N, F), got "
                f"{self.cells.shape} and {tuple(self.features.shape)}."
            )
        if self.features.shape[0] != n:
            raise ValueError(f"{self._called}: {self.features.shape[0]} features of {n} patches.")
        if self.patch_labels is not None and self.patch_labels.shape != (n,):
            raise ValueError(
                f"{self._called}: {len(self.patch_labels)} patch labels of {n} patches."
            )

    def __len__(self) -> int:
        return len(self.cells)

    @property
    def belongs_to(self) -> str:
        """The group, or else the name."""
        return self.group or self.name

    @property
    def _called(self) -> str:
        return self.name or "a slide without a name"


@dataclasses.dataclass(frozen=True, eq=False)
class AnnotatedRegion:
    """An outline that somebody drew, and the class within it.

    Parameters
    ----------
    outline : numpy.ndarray
        (n, 2) float: (y, x) corners of a polygon in level-0 pixels.
    label : int
        Class within, 0 or more.
    """

    outline: npt.NDArray[np.float64]
    label: int


def augment_cells(
    cells: npt.NDArray[np.integer[Any]], rng: np.random.Generator, strength: float = 1.0
) -> npt.NDArray[np.int64]:
    """Mirror, shear and turn a grid of patches at random; no patch is lost.

    Each of the three is drawn with a probability of 0.75 times `strength`: a
    mirror along either axis, a shear of up to 10° along either axis, and a turn
    by a multiple of 90° plus up to 30° either way. A lattice turned and rounded
    would put two patches on one place, and leave holes. So turns are made of
    three shears by whole cells (A. W. Paeth, "A fast algorithm for general
    raster rotation", Graphics Interface 1986): each is one-to-one, and so is
    their sequence.

    Parameters
    ----------
    cells : numpy.ndarray
        (N, 2) int, (column, row).
    rng : numpy.random.Generator
        Where chance comes from.
    strength : float
        0 changes nothing.

    Returns
    -------
    numpy.ndarray
        (N, 2) int64 in the same order, the least column and row 0.
    """
    odds = _PROBABILITY * strength
    changed = cells.astype(np.int64)
    changed = changed - (changed.min(0) + changed.max(0)) // 2
    # Always the same number of draws, so that a seed means the same at any strength.
    mirror, shear, turn = rng.random(3) < odds
    axis, sheared = rng.integers(2, size=2)
    slope = math.tan(math.radians(rng.uniform(-_SHEAR, _SHEAR)))
    quarters, angle = int(rng.integers(4)), math.radians(rng.uniform(-_TURN, _TURN))
    if mirror:
        changed[:, axis] *= -1
    if shear:
        _shear(changed, int(sheared), slope)
    if turn:
        for _ in range(quarters):
            changed = np.stack([-changed[:, 1], changed[:, 0]], axis=1)
        for along, by in ((0, -math.tan(angle / 2)), (1, math.sin(angle))):
            _shear(changed, along, by)
        _shear(changed, 0, -math.tan(angle / 2))
    moved: npt.NDArray[np.int64] = changed - changed.min(0)
    return moved


def _shear(cells: npt.NDArray[np.int64], axis: int, slope: float) -> None:
    """Move cells along an axis by whole cells, in proportion to the other; in place."""
    cells[:, axis] += np.rint(slope * cells[:, 1 - axis]).astype(np.int64)


def patch_labels_of(
    cells: npt.NDArray[np.integer[Any]],
    *,
    step: float,
    side: float,
    origin: tuple[float, float],
    regions: Sequence[AnnotatedRegion],
    outside: int = UNKNOWN,
) -> npt.NDArray[np.int8]:
    """Label patches by the annotated regions that they lie in.

    A region counts at 5 × 5 points of each patch, a later one on top of an
    earlier one, as they are drawn. A patch gets the class that most of its
    points have, if that is more than half of them.

    Parameters
    ----------
    cells : numpy.ndarray
        (N, 2) int, (column, row).
    step, side : float
        From patch to patch, and along a patch, in level-0 pixels.
    origin : tuple of float
        (y, x) of the top-left corner of cell (0, 0) in level-0 pixels.
    regions : sequence of AnnotatedRegion
        In the order in which they were drawn.
    outside : int
        What lies in no region: -1 (unknown) or a class, such as 0 where all of
        the wanted tissue has been outlined.

    Returns
    -------
    numpy.ndarray
        (N,) int8; -1 where no class covers more than half of a patch.

    Raises
    ------
    ValueError
        If an outline has fewer than three corners, or a class is not in 0 to 127.
    """
    from skimage.measure import points_in_poly

    corners = np.asarray(cells, np.float64)[:, ::-1] * step + np.asarray(origin, np.float64)
    within = (np.arange(_POINTS) + 0.5) * side / _POINTS
    offsets = np.stack(np.meshgrid(within, within, indexing="ij"), axis=-1).reshape(-1, 2)
    labels = np.full((len(corners), len(offsets)), outside, np.int16)
    for number, region in enumerate(regions, 1):
        outline = np.asarray(region.outline, np.float64)
        if outline.ndim != 2 or outline.shape[1] != 2 or len(outline) < 3:
            raise ValueError(f"Region {number} is no polygon: it has {len(outline)} corners.")
        if not 0 <= region.label <= 127:
            raise ValueError(f"Region {number} has class {region.label}; give it 0 to 127.")
        near = ((corners <= outline.max(0)) & (corners + side >= outline.min(0))).all(1)
        points = (corners[near, None] + offsets).reshape(-1, 2)
        inside = points_in_poly(points, outline).reshape(-1, len(offsets))
        labels[near] = np.where(inside, region.label, labels[near])
    result = np.full(len(corners), UNKNOWN, np.int8)
    for label in np.unique(labels):
        result[(labels == label).sum(1) * 2 > len(offsets)] = label
    return result


def split_slides(examples: Sequence[SlideExample]) -> dict[Part, list[SlideExample]]:
    """Split by groups: about 8/10 for training, a tenth each for validation and test.

    `hash_folds` of the groups decides, so that a group stays where it is when
    others are added. Slides are few: a part that would be without a class then
    takes the training group of that class whose SHA-256 is the lowest.

    Raises
    ------
    ValueError
        If a class has fewer than three groups, or none can be moved.
    """
    classes: dict[str, set[int]] = {}
    for example in examples:
        label = UNKNOWN if example.label is None else example.label
        classes.setdefault(example.belongs_to, set()).add(label)
    part = _by_hash(sorted(classes))
    for label in sorted(set().union(*classes.values())):
        own = [group for group in by_sha256(classes) if label in classes[group]]
        if len(own) < 3:
            raise ValueError(
                f"The slides of class {label} are of {len(own)} group{'s' * (len(own) != 1)} "
                "(patients, blocks): training, validation and test need one each. Add slides, or "
                "merge classes."
            )
        for missing in _PARTS:
            if any(part[group] == missing for group in own):
                continue
            spare = [group for group in own if _spare(group, classes, part)]
            if not spare:
                raise ValueError(
                    "The groups are too few to split; say in a column `split` which slides are "
                    "for train, validation and test."
                )
            part[min(spare, key=lambda group: part[group] != "train")] = missing
    parts: dict[Part, list[SlideExample]] = {name: [] for name in _PARTS}
    for example in examples:
        parts[part[example.belongs_to]].append(example)
    return parts


def _by_hash(groups: Sequence[str]) -> dict[str, Part]:
    held: dict[int, Part] = {0: "test", 1: "validation"}
    folds = hash_folds(groups).tolist()
    return {group: held.get(fold, "train") for group, fold in zip(groups, folds, strict=True)}


def by_sha256(groups: Iterable[str]) -> list[str]:
    """Return groups in the order of their SHA-256, which says nothing of them."""
    return sorted(groups, key=lambda group: hashlib.sha256(group.encode()).hexdigest())


def _spare(group: str, classes: dict[str, set[int]], part: dict[str, Part]) -> bool:
    """Whether its part keeps another group of each of its classes."""
    others = [other for other in classes if other != group and part[other] == part[group]]
    return classes[group] <= set().union(*(classes[other] for other in others))
