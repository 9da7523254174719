"""Which examples are held out to test on: a fifth of the groups, and some of each class."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence

import numpy as np
import numpy.typing as npt

from .datasets import CropSet, hash_folds

__all__ = ["HELD_OUT_FOLDS", "Split", "cell_groups", "held_out", "shown_pairs", "split_groups"]

#: One group in so many is held out.
HELD_OUT_FOLDS = 5
#: Side of a block of an image, in crops: its cells are learned from, or held out, together.
_BLOCK = 4
#: An image has so many blocks along its longer side at least, and so many with cells in them.
_LEAST_ALONG, _LEAST_BLOCKS = 4, 4
#: Blocks are never smaller than a crop's side over this.
_SMALLEST = 8
#: Groups that are tried, of each class of which too few are held out.
_MOST_TRIED = 64

Pairs = tuple[npt.NDArray[np.int64], npt.NDArray[np.int64]]


@dataclasses.dataclass(frozen=True, eq=False)
class Split:
    """What becomes of N examples; what is neither is trained on.

    Attributes
    ----------
    held_out : numpy.ndarray
        (N,) bool: tested on.
    left_out : numpy.ndarray
        (N,) bool: not trained on, since their crops show a held-out cell.
    """

    held_out: npt.NDArray[np.bool_]
    left_out: npt.NDArray[np.bool_]


def split_groups(
    labels: npt.NDArray[np.int64], groups: Sequence[str], shown: Pairs | None = None
) -> Split:
    """Hold out a fifth of the groups by their hash, and some of each class.

    Where that leaves less than half of a class to learn from, groups are given
    back; where it holds out less than a tenth of a class of three or more, the
    group that costs the least is held out too. Otherwise, a group that is held
    out once is held out for ever, whatever is added.

    Parameters
    ----------
    labels : numpy.ndarray
        (N,) int64 classes.
    groups : sequence of str
        What each example belongs to, which is held out or not as a whole.
    shown : pair of numpy.ndarray, optional
        (P,) int64 each: the crop of the first shows the second.
    """
    search = _Search(labels, groups, shown)
    search.give_back()
    search.hold_out_some_of_each()
    return Split(search.out, ~search.out & ~search.trained(search.out))


class _Search:
    """Groups held out so far, and what that costs."""

    def __init__(
        self, labels: npt.NDArray[np.int64], groups: Sequence[str], shown: Pairs | None
    ) -> None:
        self.labels, self.shown = labels, shown
        names = sorted(set(groups))
        place = {name: number for number, name in enumerate(names)}
        self.group = np.array([place[name] for name in groups], dtype=np.int64)
        # In an order that depends on the names alone.
        self.order = sorted(range(len(names)), key=hash_folds(names, 2**61).__getitem__)
        folds = hash_folds(names, HELD_OUT_FOLDS)
        self.out: npt.NDArray[np.bool_] = folds[self.group] == 0
        self.n_classes = int(labels.max(initial=-1)) + 1
        self.total = self._count(np.ones(len(labels), bool))
        self.least = -(-self.total // 2)
        wanted = np.maximum(np.clip(np.rint(self.total / 5), 1, 2), self.total // 10)
        self.wanted = np.where(self.total >= 3, wanted, 0).astype(np.int64)

    def trained(self, out: npt.NDArray[np.bool_]) -> npt.NDArray[np.bool_]:
        """Which examples are trained on if these are held out."""
        train = ~out
        if self.shown is not None:
            shows, seen = self.shown
            train[shows[out[seen]]] = False
        return train

    def give_back(self) -> None:
        """Hold out less, while it leaves too little of a class to learn from."""
        while True:
            now = self._count(self.trained(self.out))
            missing = np.maximum(self.least - now, 0)
            if not missing.any():
                return
            best, gained = None, 0
            for group in reversed(self.order):
                own = self.group == group
                if self.out[own].any():
                    then = self._count(self.trained(self.out & ~own))
                    gain = int(np.minimum(then - now, missing).sum())
                    if gain > gained:
                        best, gained = own, gain
            if best is None:
                return
            self.out = self.out & ~best

    def hold_out_some_of_each(self) -> None:
        """Hold out more of each class of which there is too little to test on."""
        for label in np.argsort(self.total, kind="stable"):
            while self._count(self.out)[label] < self.wanted[label]:
                more = self._cheapest(int(label))
                if more is None:
                    break
                self.out = self.out | more

    def _cheapest(self, label: int) -> npt.NDArray[np.bool_] | None:
        now = self._count(self.trained(self.out))
        least = np.minimum(self.least, now)
        best, price = None, np.inf
        here = set(self.group[(self.labels == label) & ~self.out].tolist())
        for group in [group for group in self.order if group in here][:_MOST_TRIED]:
            own = self.group == group
            then = self._count(self.trained(self.out | own))
            cost = (now.sum() - then.sum()) / int((own & (self.labels == label)).sum())
            if (then >= least).all() and cost < price:
                best, price = own, cost
        return best

    def _count(self, rows: npt.NDArray[np.bool_]) -> npt.NDArray[np.int64]:
        return np.bincount(self.labels[rows], minlength=self.n_classes)


def held_out(data: CropSet) -> npt.NDArray[np.bool_]:
    """Which crops (N,) are held out: those that the set says, else by its groups, or names."""
    if data.held_out is not None:
        return data.held_out
    return split_groups(data.labels, data.groups or data.names).held_out


def cell_groups(
    image: str,
    plane: tuple[int, int],
    centres: npt.NDArray[np.float64],
    side: float,
    shape: tuple[int, int] = (0, 0),
) -> list[str]:
    """Name the block that each cell lies in: blocks are held out or not, as a whole.

    Blocks are four crops wide, or a quarter of the image where that is less,
    and smaller where all cells would lie in a few of them.

    Parameters
    ----------
    image : str
        Its hash.
    plane : (int, int)
        Frame and slice.
    centres : numpy.ndarray
        (N, 2) (y, x) in pixels.
    side : float
        Of a crop, in pixels.
    shape : (int, int), optional
        Of the image; (0, 0) where it is not known.
    """
    width = _BLOCK * side
    if max(shape) > 0:
        width = min(width, max(shape) / _LEAST_ALONG)
    block = np.floor(centres / width).astype(int)
    wanted = min(_LEAST_BLOCKS, len(centres))
    while len(np.unique(block, axis=0)) < wanted and width / 2 >= side / _SMALLEST:
        width /= 2
        block = np.floor(centres / width).astype(int)
    return [f"{image}:{plane[0]}:{plane[1]}:{row}:{column}" for row, column in block]


def shown_pairs(centres: npt.NDArray[np.float64], side: float) -> Pairs:
    """Return which crops show which other cells' centres, as two arrays (P,) of indices.

    Parameters
    ----------
    centres : numpy.ndarray
        (N, 2) (y, x) of the cells of one plane, in pixels.
    side : float
        Of a crop, in pixels.
    """
    from scipy.spatial import cKDTree

    near = cKDTree(centres).query_pairs(np.nextafter(side / 2, 0), p=np.inf, output_type="ndarray")
    both = np.concatenate([near, near[:, ::-1]]).astype(np.int64)
    return both[:, 0], both[:, 1]
