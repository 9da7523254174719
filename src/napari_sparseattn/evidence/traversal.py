"""The crops a TNet looked at, and what each of them said."""

from __future__ import annotations

import dataclasses
from typing import Any

import numpy as np
import numpy.typing as npt

from ..metrics import whole_percent
from ..reprs import short_repr
from .kinds import CropFrame

__all__ = ["Stop", "Traversal"]


@dataclasses.dataclass(frozen=True)
class Stop:
    """Why a traversal that may stop by itself ended where it did.

    Parameters
    ----------
    crops, most : int
        Crops that were looked at, and how many could have been.
    confidence : float
        Probability of the most probable class at the end, 0 to 1.
    threshold : float
        The probability that is sure enough.
    """

    crops: int
    most: int
    confidence: float
    threshold: float

    @property
    def early(self) -> bool:
        """Whether it stopped because it was sure enough, with crops left to look at."""
        return self.crops < self.most and self.confidence >= self.threshold - 1e-6

    @property
    def sentence(self) -> str:
        """The same for people, without a full stop."""
        reached = whole_percent(self.confidence).replace("%", " %")
        if self.early:
            return f"stopped after {self.crops} of {self.most} crops: sure enough ({reached})"
        if self.confidence >= self.threshold - 1e-6:
            return f"looked at all {self.crops} crops: sure enough only then ({reached})"
        wanted = whole_percent(self.threshold).replace("%", " %")
        return (
            f"looked at all {self.crops} crops: not sure enough to stop before ({reached}, "
            f"{wanted} would be)"
        )

    def to_dict(self) -> dict[str, Any]:
        """Return numbers and the sentence, for JSON."""
        return {**dataclasses.asdict(self), "early": self.early, "why": self.sentence}


@dataclasses.dataclass(frozen=True)
class Traversal:
    """The way of a TNet through one image, from the whole to details.

    N crops in the order of their levels, the root first; within a level in
    raster order. Positions are pixels of the full resolution, a pixel's top
    left corner at its index; crops may reach over the image's edge.

    Parameters
    ----------
    shape : (int, int)
        Height and width of the image.
    base : int
        Side in pixels at which every crop was read.
    level, rank, parent : numpy.ndarray
        (N,) int64: level from 0; rank among siblings, 0 the most probable;
        index of the parent crop, -1 for the root.
    top, left, height, width : numpy.ndarray
        (N,) float64, the crops' boxes.
    contribution : numpy.ndarray
        (N, C) float32: each crop's exact share of each class's logit; the sum
        over crops is the logits.
    searched : numpy.ndarray
        (P,) int64, the crops that were searched for children: all but those of
        the last level.
    candidates : numpy.ndarray
        (P, n * n, 4) float64: top, left, height, width of every candidate.
    relative_probability : numpy.ndarray
        (P, n * n) float32: probability times n * n, so that 1 is uniform.
    chosen : numpy.ndarray
        (P, n * n) bool.
    frame : CropFrame, optional
        Where `shape` lies on a larger image, if it is the crop of one cell.
    stop : Stop, optional
        Why it ended, if the model may stop by itself.
    """

    __repr__ = short_repr

    shape: tuple[int, int]
    base: int
    level: npt.NDArray[np.int64]
    rank: npt.NDArray[np.int64]
    parent: npt.NDArray[np.int64]
    top: npt.NDArray[np.float64]
    left: npt.NDArray[np.float64]
    height: npt.NDArray[np.float64]
    width: npt.NDArray[np.float64]
    contribution: npt.NDArray[np.float32]
    searched: npt.NDArray[np.int64]
    candidates: npt.NDArray[np.float64]
    relative_probability: npt.NDArray[np.float32]
    chosen: npt.NDArray[np.bool_]
    frame: CropFrame | None = None
    stop: Stop | None = None

    def __post_init__(self) -> None:
        n = len(self.level)
        if n == 0 or self.parent[0] != -1 or (self.parent[1:] < 0).any():
            raise ValueError("a traversal begins with one root, and every other crop has a parent")
        if (self.parent >= np.arange(n)).any():
            raise ValueError("a crop must come after its parent")
        per_crop = (self.rank, self.parent, self.top, self.left, self.height, self.width)
        if any(values.shape != (n,) for values in per_crop):
            raise ValueError(f"there are {n} crops, but not as many ranks, parents or boxes")
        if self.contribution.ndim != 2 or len(self.contribution) != n:
            raise ValueError(
                f"contributions are {self.contribution.shape}, expected ({n}, classes)"
            )
        places = (len(self.searched), *self.chosen.shape[1:])
        if (
            self.chosen.ndim != 2
            or self.chosen.shape != places
            or self.relative_probability.shape != places
            or self.candidates.shape != (*places, 4)
        ):
            raise ValueError(
                f"{len(self.searched)} crops were searched; candidates are "
                f"{self.candidates.shape}, their probabilities "
                f"{self.relative_probability.shape}, the choices {self.chosen.shape}"
            )
        if int(self.chosen.sum()) != n - 1:
            raise ValueError(f"{int(self.chosen.sum())} candidates were chosen, but {n - 1} seen")

    def __len__(self) -> int:
        return len(self.level)

    @property
    def n_levels(self) -> int:
        """Levels that were visited."""
        return int(self.level.max()) + 1

    @property
    def logits(self) -> npt.NDArray[np.float64]:
        """(C,) logits of the image: the sum of all contributions."""
        total: npt.NDArray[np.float64] = self.contribution.sum(axis=0, dtype=np.float64)
        return total

    @property
    def crop_class(self) -> npt.NDArray[np.int64]:
        """(N,) the class that each crop alone speaks for."""
        best: npt.NDArray[np.int64] = self.contribution.argmax(axis=1).astype(np.int64)
        return best

    @property
    def downsample(self) -> npt.NDArray[np.float64]:
        """(N,) full-resolution pixels per pixel that the model saw, along an axis."""
        return self.height / self.base

    @property
    def boxes(self) -> npt.NDArray[np.float64]:
        """(N, 4) top, left, height, width."""
        return np.stack([self.top, self.left, self.height, self.width], axis=1)

    def on_image(self, boxes: npt.NDArray[np.float64]) -> npt.NDArray[np.float64]:
        """Bring boxes (..., 4) from the cell's crop to the image it was cut from.

        Both are top, left, height, width with corners at whole numbers. Without
        a `frame` they are of the image already.
        """
        if self.frame is None:
            return boxes
        scaled = boxes * self.frame.scale
        # A frame's row and column count from pixel centres.
        scaled[..., 0] += self.frame.row + 0.5 - self.frame.side / 2
        scaled[..., 1] += self.frame.column + 0.5 - self.frame.side / 2
        return scaled

    def evidence_for(self, index: int) -> npt.NDArray[np.float32]:
        """(N,) each crop's contribution to a class, less its mean over all classes.

        Only differences between logits matter to the probabilities; positive
        speaks for the class.
        """
        relative: npt.NDArray[np.float32] = self.contribution[:, index] - self.contribution.mean(
            axis=1
        )
        return relative

    def ancestors(self, crop: int) -> list[int]:
        """Crops from the root down to the given one, itself included."""
        way = [crop]
        while self.parent[way[-1]] >= 0:
            way.append(int(self.parent[way[-1]]))
        return way[::-1]

    def finest_level(self, step: int = 1) -> npt.NDArray[np.int64]:
        """Return the finest level at which each place of the image was seen.

        Parameters
        ----------
        step : int
            Full-resolution pixels per place along each axis.

        Returns
        -------
        numpy.ndarray
            (ceil(H / step), ceil(W / step)) int64; 0 where only the root saw it.
        """
        if step < 1:
            raise ValueError(f"step must be at least 1 pixel, got {step}")
        rows, columns = (-(-length // step) for length in self.shape)
        seen = np.zeros((rows, columns), dtype=np.int64)
        # Levels ascend, so that a finer one overwrites. Centres of places count.
        for level, (top, left, height, width) in zip(self.level, self.boxes, strict=True):
            first = np.ceil(np.array([top, left]) / step - 0.5).clip(0).astype(int)
            last = np.ceil(np.array([top + height, left + width]) / step - 0.5).clip(0).astype(int)
            seen[first[0] : last[0], first[1] : last[1]] = level
        return seen

    def to_dict(self) -> dict[str, Any]:
        """Return lists and numbers, for JSON."""
        return {
            "kind": "traversal",
            "shape": list(self.shape),
            "base": self.base,
            "stopped": None if self.stop is None else self.stop.to_dict(),
            "crops": [
                {
                    "level": int(self.level[i]),
                    "rank": int(self.rank[i]),
                    "parent": int(self.parent[i]),
                    "box": self.boxes[i].tolist(),
                    "contribution": self.contribution[i].round(7).tolist(),
                }
                for i in range(len(self))
            ],
            "searched": [
                {
                    "crop": int(crop),
                    "relative_probability": self.relative_probability[i].round(6).tolist(),
                    "chosen": np.flatnonzero(self.chosen[i]).tolist(),
                }
                for i, crop in enumerate(self.searched)
            ],
        }
