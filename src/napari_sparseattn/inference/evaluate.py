"""How well a model does on labelled images in class folders."""

from __future__ import annotations

import dataclasses
import os
import time
from typing import Any

import numpy as np

from ..bundle import Bundle
from ..card import Card
from ..images.class_folders import list_class_folders, read_crop
from ..images.errors import ImageError, check_pixel_size
from ..metrics import Report, classification_report
from ..progress import Progress
from .cells import judge_crops

__all__ = ["Evaluation", "evaluate_folder"]

_BATCH = 256


@dataclasses.dataclass(frozen=True)
class Evaluation:
    """A report, what could not be read, and how long it took.

    Attributes
    ----------
    report : Report
        Figures on the images that were read.
    unreadable : dict of str to str
        Files that were not, with the reason.
    seconds_inference, seconds : float
        Time in the model (normalisation included), and in all.
    flagged_share : float or None
        Share of the images unlike anything the model was trained on; None
        where the model's file has no states to compare with.
    notes : tuple of str
        How the crops were cut, and what else figures depend on.
    """

    report: Report
    unreadable: dict[str, str]
    seconds_inference: float
    seconds: float
    flagged_share: float | None = None
    notes: tuple[str, ...] = ()

    @property
    def cells_per_second(self) -> float:
        """Cells through the model per second, reading not counted."""
        return self.report.n / max(self.seconds_inference, 1e-9)

    def to_dict(self) -> dict[str, Any]:
        """Return lists and numbers, for JSON."""
        return {
            **self.report.to_dict(),
            "cells_per_second": self.cells_per_second,
            "seconds": self.seconds,
            "flagged_share": self.flagged_share,
            "unreadable": self.unreadable,
            "notes": list(self.notes),
        }


def evaluate_folder(
    folder: str | os.PathLike[str],
    bundle: Bundle,
    device: str = "auto",
    *,
    pixel_size: float | None = None,
    progress: Progress | None = None,
) -> Evaluation:
    """Classify ``FOLDER/class/image`` and compare with the folders' names.

    Parameters
    ----------
    folder : path-like
        One sub-folder per class; names must be classes of the model, but for
        case and for spaces, hyphens and underscores.
    bundle : Bundle
        The model.
    device : str
        See `choose_device`.
    pixel_size : float, optional
        µm per pixel of the images: the model's field of view is cut around
        each image's centre. Without it the whole image is taken as the crop.
    progress : callable, optional
        Called with "images", those done and their number.

    Raises
    ------
    ValueError
        If a folder's name is no class of the model, or nothing can be read.
    FileNotFoundError
        If there are no images.
    """
    if pixel_size is not None:
        check_pixel_size(pixel_size)
    card = bundle.card
    files = list_class_folders(folder)
    index = _class_index(card, {name for name, _ in files})
    side = card.crop.field_of_view_um / pixel_size if pixel_size else None
    began, inference = time.perf_counter(), 0.0
    probabilities, novelty, truth, unreadable = [], [], [], {}
    for start in range(0, len(files), _BATCH):
        crops = []
        for name, path in files[start : start + _BATCH]:
            try:
                crops.append(read_crop(path, card.crop.size, len(card.channels), side))
                truth.append(index[name])
            except (ImageError, OSError) as error:
                unreadable[str(path)] = str(error)
        if crops:
            clock = time.perf_counter()
            chances, unlike = judge_crops(np.stack(crops), bundle, device)
            probabilities.append(chances)
            novelty.append(unlike)
            inference += time.perf_counter() - clock
        if progress is not None:
            progress("images", min(start + _BATCH, len(files)), len(files))
    if not probabilities:
        raise ValueError(f"None of the {len(files)} images in '{folder}' could be read.")
    report = classification_report(np.concatenate(probabilities), np.array(truth), card.class_names)
    flagged = [each > 1 for each in novelty if each is not None]
    share = float(np.concatenate(flagged).mean()) if flagged else None
    took = time.perf_counter() - began
    return Evaluation(report, unreadable, inference, took, share, _notes(card, pixel_size))


def _notes(card: Card, pixel_size: float | None) -> tuple[str, ...]:
    """Say how crops were cut, and that a model has seen nothing real."""
    wide = f"{card.crop.field_of_view_um:g} µm"
    cut = f"{wide} around each image's centre were cut, at {pixel_size} µm per pixel"
    if pixel_size is None:
        cut = (
            f"the whole of each image was taken as the crop, as if it were {wide} wide: give the "
            "pixel size to have that cut"
        )
    simulated = (f"'{card.name}' was trained on simulated images only",)
    return (cut, *(simulated if card.training.simulated else ()))


def _class_index(card: Card, folders: set[str]) -> dict[str, int]:
    """Give each folder's name the index of its class."""
    classes = {_plain(name): i for i, name in enumerate(card.class_names)}
    unknown = sorted(name for name in folders if _plain(name) not in classes)
    if unknown:
        raise ValueError(
            f"'{card.name}' has no class named {', '.join(unknown)}; its classes are "
            f"{', '.join(card.class_names)}. Rename the folders."
        )
    return {name: classes[_plain(name)] for name in folders}


def _plain(name: str) -> str:
    return name.casefold().replace(" ", "_").replace("-", "_")
