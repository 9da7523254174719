"""Labelled crops in memory, and how they are split."""

from __future__ import annotations

import dataclasses
import hashlib
import os
from collections.abc import Callable, Sequence

import numpy as np
import numpy.typing as npt

from ..images.class_folders import list_class_folders, read_crop

__all__ = ["CropSet", "hash_folds", "read_class_folders"]


_SLACK = 1e-3


@dataclasses.dataclass(frozen=True)
class CropSet:
    """Labelled crops.

    Parameters
    ----------
    crops : numpy.ndarray
        (N, s, s, C) uint8.
    labels : numpy.ndarray
        (N,) int64 indices into `class_names`.
    class_names : tuple of str
        The classes.
    names : tuple of str
        What each crop is called; the split is made from it.
    """

    crops: npt.NDArray[np.uint8]
    labels: npt.NDArray[np.int64]
    class_names: tuple[str, ...]
    names: tuple[str, ...]

    def __len__(self) -> int:
        return len(self.labels)

    def subset(self, rows: npt.NDArray[np.bool_]) -> CropSet:
        """Return the crops where `rows` (N,) is True."""
        names = tuple(name for name, take in zip(self.names, rows, strict=True) if take)
        return CropSet(self.crops[rows], self.labels[rows], self.class_names, names)


def hash_folds(names: Sequence[str], folds: int = 10) -> npt.NDArray[np.int64]:
    """Give each name a fold, 0 to folds - 1, by its SHA-256.

    The fold of a name never changes, whatever else is in the set. Give the
    name of the group (patient, slide, field) where images belong together.
    """
    digests = (hashlib.sha256(name.encode()).hexdigest() for name in names)
    return np.array([int(digest, 16) % folds for digest in digests], dtype=np.int64)


def read_class_folders(
    folder: str | os.PathLike[str],
    side: int,
    channels: int = 3,
    progress: Callable[[int, int], None] | None = None,
) -> CropSet:
    """Read ``FOLDER/class/image`` into memory.

    Parameters
    ----------
    folder : path-like
        One sub-folder per class, named after it.
    side : int
        Crops are resampled to `side` x `side` pixels.
    channels : int
        1 or 3.
    progress : callable, optional
        Called with (images read, images in all).

    Raises
    ------
    FileNotFoundError, ImageError
        If there are no images, or one cannot be read.
    ValueError
        If there are fewer than two classes, or values outside 0 to 1.
    """
    files = list_class_folders(folder)
    class_names = tuple(dict.fromkeys(name for name, _ in files))
    if len(class_names) < 2:
        raise ValueError(
            f"'{folder}' has one class only; training needs at least two class folders."
        )
    crops = np.empty((len(files), side, side, channels), dtype=np.uint8)
    for i, (_, path) in enumerate(files):
        crop = read_crop(path, side, channels)
        if crop.min() < -_SLACK or crop.max() > 1 + _SLACK:
            raise ValueError(
                f"{path} has values from {crop.min():.4g} to {crop.max():.4g}. Training takes "
                "integer images, or floats from 0 to 1: scale them alike for all images first."
            )
        crops[i] = np.rint(np.clip(crop, 0, 1) * 255).astype(np.uint8)
        if progress is not None:
            progress(i + 1, len(files))
    labels = np.array([class_names.index(name) for name, _ in files], dtype=np.int64)
    return CropSet(crops, labels, class_names, tuple(f"{name}/{path.name}" for name, path in files))
