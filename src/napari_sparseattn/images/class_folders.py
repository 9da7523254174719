"""Labelled images in folders named after their class."""

from __future__ import annotations

import dataclasses
import os
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import numpy.typing as npt

from .errors import ImageError
from .fields.crops import cut_crops, fit_crop
from .opening import open_field
from .slides.opening import SLIDE_SUFFIXES, is_slide

__all__ = [
    "IMAGE_SUFFIXES",
    "LabelledImage",
    "list_class_folders",
    "list_labelled_images",
    "read_crop",
]

IMAGE_SUFFIXES = frozenset({".png", ".jpg", ".jpeg", ".bmp", ".tif", ".tiff", ".npy"})


@dataclasses.dataclass(frozen=True)
class LabelledImage:
    """One file of ``FOLDER/class/[group/]image``.

    Parameters
    ----------
    label : str
        The class: the name of the first folder.
    group : str
        What the image is of (a patient, a slide): the folders between class
        and image. The same name in two classes is the same group. Empty where
        there are none.
    path : pathlib.Path
        The file, or the folder of a slide.
    """

    label: str
    group: str
    path: Path


def list_labelled_images(folder: str | os.PathLike[str]) -> list[LabelledImage]:
    """List ``FOLDER/class/[group/]image``, where an image may be a slide, sorted.

    Raises
    ------
    FileNotFoundError
        If the folder is missing or holds no class folder with images.
    """
    found = [
        LabelledImage(entry.name, "/".join(path.parent.relative_to(entry).parts), path)
        for entry in _class_folders(folder)
        for path in _images_in(entry)
    ]
    if not found:
        raise FileNotFoundError(
            f"'{folder}' holds no images in class folders. Expected FOLDER/class/image, or "
            f"FOLDER/class/patient/image, with endings "
            f"{', '.join(sorted({*IMAGE_SUFFIXES, *SLIDE_SUFFIXES}))}."
        )
    return found


def _class_folders(folder: str | os.PathLike[str]) -> list[Path]:
    root = Path(folder)
    if not root.is_dir():
        raise FileNotFoundError(f"There is no folder '{folder}'.")
    found = sorted(root.iterdir())
    return [entry for entry in found if entry.is_dir() and not entry.name.startswith(".")]


def _images_in(folder: Path) -> Iterator[Path]:
    """Images and slides at any depth; folders that are slides are not looked into."""
    for path in sorted(folder.iterdir()):
        if path.name.startswith("."):
            continue
        if path.is_dir():
            if is_slide(path):
                yield path
            else:
                yield from _images_in(path)
        elif path.suffix.lower() in IMAGE_SUFFIXES or path.suffix.lower() in SLIDE_SUFFIXES:
            yield path


def list_class_folders(folder: str | os.PathLike[str]) -> list[tuple[str, Path]]:
    """List ``FOLDER/class/.../image`` as (class name, file), sorted.

    Raises
    ------
    FileNotFoundError
        If the folder is missing or holds no class folder with images.
    """
    found = [
        (entry.name, path)
        for entry in _class_folders(folder)
        for path in sorted(entry.rglob("*"))
        if path.suffix.lower() in IMAGE_SUFFIXES and not path.name.startswith(".")
    ]
    if not found:
        raise FileNotFoundError(
            f"'{folder}' holds no images in class folders. Expected FOLDER/class/image with "
            f"endings {', '.join(sorted(IMAGE_SUFFIXES))}."
        )
    return found


def read_crop(
    path: Path, size: int, channels: int, side: float | None = None, unit: str = ""
) -> npt.NDArray[np.float32]:
    """Read a file that shows one cell as a crop.

    Parameters
    ----------
    path : pathlib.Path
        The image.
    size : int
        Side of the crop in pixels.
    channels : int
        1 or 3; a grey image is repeated for 3, which a colour model can
        at least be tried on.
    side : float, optional
        Source pixels to cut around the centre; by default the whole centre
        square.
    unit : {"", "rad", "nm"}
        Of the values, where the file does not say it; whole numbers of a unit
        are taken as they are.

    Returns
    -------
    numpy.ndarray
        (size, size, channels) float32.

    Raises
    ------
    ImageError
        If the file is no image, or has another number of channels.
    """
    field = open_field(path)
    if unit and not field.unit and field.n_channels == 1:
        field = dataclasses.replace(field, unit=unit)
    plane = field.plane()
    if plane.shape[-1] == 1 and channels == 3:
        plane = np.repeat(plane, 3, axis=-1)
    if plane.shape[-1] != channels:
        raise ImageError(f"{path.name} has {plane.shape[-1]} channels, {channels} are needed.")
    if side is None:
        return fit_crop(plane, size)
    middle = (np.asarray(plane.shape[:2], dtype=np.float64) - 1) / 2
    crops: npt.NDArray[np.float32] = cut_crops(plane, middle[None], side, size)
    return crops.reshape(crops.shape[1:])
