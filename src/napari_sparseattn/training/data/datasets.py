"""Labelled crops in memory, and how they are split."""

from __future__ import annotations

import dataclasses
import hashlib
import os
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from ...images.class_folders import IMAGE_SUFFIXES, list_labelled_images, read_crop
from ...images.opening import open_field
from ...progress import Progress
from ...reprs import short_repr

__all__ = ["CropSet", "hash_folds", "read_class_folders"]


_SLACK = 1e-3


@dataclasses.dataclass(frozen=True)
class CropSet:
    """Labelled crops.

    Parameters
    ----------
    crops : numpy.ndarray
        (N, s, s, C): uint8 for intensities, or floats in a unit of their own,
        such as nm of optical path difference.
    labels : numpy.ndarray
        (N,) int64 indices into `class_names`.
    class_names : tuple of str
        The classes.
    names : tuple of str
        What each crop is called; the split is made from it.
    groups : tuple of str
        The field, slide or patient of each crop, from which the split is then
        made; empty where none are known.
    held_out : numpy.ndarray, optional
        (N,) bool: which crops to test a fine-tuned model on, where that is
        decided already; see `split.held_out`.
    """

    __repr__ = short_repr

    crops: npt.NDArray[Any]
    labels: npt.NDArray[np.int64]
    class_names: tuple[str, ...]
    names: tuple[str, ...]
    groups: tuple[str, ...] = ()
    held_out: npt.NDArray[np.bool_] | None = None

    def __len__(self) -> int:
        return len(self.labels)

    @property
    def physical(self) -> bool:
        """Whether values have a unit of their own, and no natural range."""
        return bool(np.issubdtype(self.crops.dtype, np.floating))

    def subset(self, rows: npt.NDArray[np.bool_]) -> CropSet:
        """Return the crops where `rows` (N,) is True."""
        names, groups = (
            tuple(name for name, take in zip(every, rows, strict=True) if take) if every else ()
            for every in (self.names, self.groups)
        )
        out = None if self.held_out is None else self.held_out[rows]
        return CropSet(self.crops[rows], self.labels[rows], self.class_names, names, groups, out)


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
    progress: Progress | None = None,
    *,
    least_classes: int = 2,
    unit: str = "",
) -> CropSet:
    """Read ``FOLDER/class/[group/]image`` into memory.

    Parameters
    ----------
    folder : path-like
        One sub-folder per class, named after it. Folders between class and
        image are groups (patients, slides), of which none is split; where all
        images lie in a single such folder there are no groups.
    side : int
        Crops are resampled to `side` x `side` pixels.
    channels : {1, 3}
    progress : callable, optional
        Called with "images", those read and their number.
    least_classes : int
        Fewer are refused.
    unit : {"", "rad", "nm"}
        See `read_crop`.

    Returns
    -------
    CropSet
        uint8; or float32 in the images' own unit, where all are floats of one
        channel that are not confined to 0 to 1, such as OPD in nm.

    Raises
    ------
    FileNotFoundError, ImageError
        If there are no images, or one cannot be read.
    ValueError
        If there are too few classes, colour values outside 0 to 1, or integers
        among images with a unit of their own.
    """
    found = [
        each for each in list_labelled_images(folder) if each.path.suffix.lower() in IMAGE_SUFFIXES
    ]
    if not found:
        raise FileNotFoundError(f"'{folder}' holds slides only; crops are cut from images.")
    files = [(each.label, each.path) for each in found]
    class_names = tuple(dict.fromkeys(name for name, _ in files))
    if len(class_names) < least_classes:
        raise ValueError(f"'{folder}' has one class only; training needs two class folders.")
    kind = np.float32 if channels == 1 else np.uint8
    crops = np.empty((len(files), side, side, channels), dtype=kind)
    within = np.empty(len(files), dtype=bool)
    for i, (_, path) in enumerate(files):
        crop = read_crop(path, side, channels, unit=unit)
        within[i] = crop.min() >= -_SLACK and crop.max() <= 1 + _SLACK
        if channels != 1 and not within[i]:
            raise ValueError(
                f"{path} has values from {crop.min():.4g} to {crop.max():.4g}. Training on colour "
                "takes integers, or floats from 0 to 1: scale all images alike first."
            )
        crops[i] = crop if channels == 1 else _to_bytes(crop)
        if progress is not None:
            progress("images", i + 1, len(files))
    if within.all():
        crops = _to_bytes(crops)
    else:
        _check_floats([path for _, path in files], within)
    labels = np.array([class_names.index(name) for name, _ in files], dtype=np.int64)
    names = tuple(f"{name}/{path.name}" for name, path in files)
    groups: tuple[str, ...] = ()
    if len({each.group for each in found}) > 1:
        names = tuple(each.path.relative_to(folder).as_posix() for each in found)
        # What lies in no group is one by itself.
        groups = tuple(each.group or name for each, name in zip(found, names, strict=True))
    return CropSet(crops, labels, class_names, names, groups)


def _to_bytes(values: npt.NDArray[Any]) -> npt.NDArray[np.uint8]:
    if values.dtype == np.uint8:
        return values
    bytes_: npt.NDArray[np.uint8] = np.rint(np.clip(values, 0, 1) * 255).astype(np.uint8)
    return bytes_


def _check_floats(paths: Sequence[Path], within: npt.NDArray[np.bool_]) -> None:
    """Integers become 0 to 1, so only images within that can be of integers."""
    for path, inside in zip(paths, within, strict=True):
        if inside and open_field(path).data.dtype.kind != "f":
            other = paths[int(np.argmin(within))]
            raise ValueError(
                f"{path} has integer values, but {other} has floats in a unit of their own: save "
                "all images as floats in that unit (e.g. nm), or all as integers."
            )
