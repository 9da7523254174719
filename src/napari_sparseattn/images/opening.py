"""Open any image: a field of view, or a slide."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

from .fields import field
from .fields.field import Field
from .slides.opening import is_slide, open_slide
from .slides.pyramid import Pyramid

__all__ = ["open_image"]


def open_image(path: str | os.PathLike[str], **metadata: Any) -> Field | Pyramid:
    """Open a file as a field of view in memory, or as a slide that is read piece by piece.

    Parameters
    ----------
    path : path-like
        An image, a recording of holography, or a whole-slide image.
    **metadata
        Of a field of view: pixel_size, modality, unit, axes, name; see
        `images.field.open_image`. Of a slide: pixel_size, in µm at full
        resolution.

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
    file = Path(path)
    if not is_slide(file):
        return field.open_image(file, **metadata)
    pixel_size = metadata.pop("pixel_size", None)
    if metadata:
        raise TypeError(f"{file.name} is a slide, which takes no {', '.join(sorted(metadata))}")
    return open_slide(file, pixel_size=pixel_size)
