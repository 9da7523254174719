"""Open any image: a field of view, or a slide."""

from __future__ import annotations

import dataclasses
import os
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from ..addresses import Address, as_source
from ._decode import HDF5_MAGIC, Decoded, decode
from ._foreign import foreign_format
from ._icc import ProfileError, to_srgb
from .errors import ImageError, check_pixel_size, isotropic_size, replaced_size
from .fields.field import Field, Modality
from .slides.opening import is_slide, open_slide
from .slides.pyramid import Pyramid

__all__ = ["open_field", "open_image"]

_COLOURS = (3, 4)


def open_image(path: str | os.PathLike[str] | Address, **metadata: Any) -> Field | Pyramid:
    """Open a file as a field of view in memory, or as a slide that is read piece by piece.

    Parameters
    ----------
    path : path-like, or an address
        An image, a recording of holography, or a whole-slide image; at an address, see
        `open_slide`, a whole-slide image.
    **metadata
        Of a field of view: pixel_size, modality, unit, axes, name, image; see
        `open_field`. Of a slide: pixel_size, in µm at full resolution. Of both: icc.

    Returns
    -------
    Field or Pyramid

    Raises
    ------
    FileNotFoundError
        If there is no such file.
    ImageError
        If it cannot be read; the message says why and what to do.
    TypeError
        If a slide is given what only a field of view has.
    """
    file = as_source(path)
    if isinstance(file, Path) and not is_slide(file):
        return open_field(file, **metadata)
    pixel_size, icc = metadata.pop("pixel_size", None), metadata.pop("icc", True)
    if metadata:
        raise TypeError(f"{file.name} is a slide, which takes no {', '.join(sorted(metadata))}")
    return open_slide(file, pixel_size=pixel_size, icc=icc)


def open_field(
    path: str | os.PathLike[str],
    *,
    pixel_size: float | Sequence[float] | None = None,
    modality: Modality | None = None,
    unit: str | None = None,
    axes: str | None = None,
    name: str | None = None,
    image: int | None = None,
    icc: bool = True,
) -> Field:
    """Read an image file as a `Field`.

    TIFF (also OME-TIFF and ImageJ), PNG, JPEG, BMP, NPY, and HDF5 of holography
    (.rtdc, qpimage; see `open_hologram`); the kind is told from the content,
    not from the name. NPY files are memory-mapped and never unpickled. Sizes a
    file declares are checked before memory is taken.

    The pixel size comes from OME or ImageJ metadata, or from TIFF resolution
    tags in cm or inch when it lies between 0.01 and 20 µm per pixel; outside
    of that the tags describe a screen or a printer.

    Parameters
    ----------
    path : path-like
        The file.
    pixel_size, modality, unit, axes, name
        Override what the file says; see `Field.from_array`.
    image : int, optional
        Which of several images in a TIFF, from 0; by default the largest.
        `Field.notes` tells of the others.
    icc : bool
        Convert colours from the ICC profile in the file to sRGB, where there is one that
        would change them; a note says so.

    Raises
    ------
    FileNotFoundError
        If there is no such file.
    ImageError
        If it cannot be read as an image; the message says why and what to do.
    """
    file = Path(path)
    if _is_hdf5(file) and not foreign_format(file, HDF5_MAGIC):
        return _from_hdf5(file, pixel_size, modality, unit, axes, name)
    if pixel_size is not None:
        try:
            check_pixel_size(isotropic_size(pixel_size))
        except ValueError as error:
            raise ImageError(f"{file.name}: {error}") from error
    decoded, profile, applied = _with_profile(decode(file, image), icc)
    if axes is None:
        axes = decoded.axes
    if modality is None and decoded.colour:
        modality = "brightfield"
    elif modality is None and decoded.not_colour:
        modality = "unknown"
    about_scale = decoded.scale_notes
    if pixel_size is not None:
        about_scale = _replaced_size(pixel_size, decoded.pixel_size)
    try:
        field = Field.from_array(
            decoded.data,
            axes=axes,
            pixel_size=decoded.pixel_size if pixel_size is None else pixel_size,
            modality=modality,
            unit=decoded.unit if unit is None else unit,
            name=name or file.stem,
            path=file,
            notes=decoded.notes + about_scale,
        )
        return dataclasses.replace(
            field,
            images=decoded.images,
            image=decoded.image,
            profile=profile,
            profile_applied=applied,
        )
    except (TypeError, ValueError) as error:
        raise ImageError(f"{file.name}: {error}") from error


def _replaced_size(
    given: float | Sequence[float], stated: float | Sequence[float] | None
) -> tuple[str, ...]:
    return replaced_size(isotropic_size(given), stated)


def _with_profile(decoded: Decoded, apply: bool) -> tuple[Decoded, str, bool]:
    """Return colours as sRGB where asked for, the profile that changes them, and whether it did."""
    colours = decoded.colour and decoded.data.shape[-1] in _COLOURS
    if not decoded.profile or not colours or decoded.data.dtype not in (np.uint8, np.uint16):
        return decoded, "", False
    try:
        convert = to_srgb(decoded.profile)
    except ProfileError as error:
        note = f"the colour profile of the image was not used: {error}"
        return dataclasses.replace(decoded, notes=(*decoded.notes, note)), "", False
    if not convert.changes:
        return decoded, "", False
    if not apply:
        note = f"the embedded colour profile '{convert.name}' was not applied"
        return dataclasses.replace(decoded, notes=(*decoded.notes, note)), convert.name, False
    data = np.array(decoded.data)
    data[..., :3] = convert(np.ascontiguousarray(data[..., :3]))
    note = f"colours were converted from the profile '{convert.name}' to sRGB"
    changed = dataclasses.replace(decoded, data=data, notes=(*decoded.notes, note))
    return changed, convert.name, True


def _is_hdf5(path: Path) -> bool:
    try:
        with path.open("rb") as file:
            return file.read(len(HDF5_MAGIC)) == HDF5_MAGIC
    except OSError:
        return False  # `decode` says why


def _from_hdf5(
    path: Path,
    pixel_size: float | Sequence[float] | None,
    modality: Modality | None,
    unit: str | None,
    axes: str | None,
    name: str | None,
) -> Field:
    from .holograms.files import read_as_field

    found = read_as_field(path)
    try:
        return Field.from_array(
            found.data,
            axes=axes or found.axes,
            pixel_size=found.pixel_size if pixel_size is None else pixel_size,
            modality=modality or found.modality,
            unit=found.unit if unit is None else unit,
            name=name or found.name,
            path=path,
            notes=found.notes
            + (() if pixel_size is None else _replaced_size(pixel_size, found.pixel_size)),
        )
    except (TypeError, ValueError) as error:
        raise ImageError(f"{path.name}: {error}") from error
