"""Colour profiles: from the colours of a scanner or camera to sRGB, as a file says."""

from __future__ import annotations

import functools
import io
from typing import Any

import numpy as np
import numpy.typing as npt

__all__ = ["ProfileError", "ToSrgb", "to_srgb"]

_MOST_PROFILE = 16 * 2**20
#: A profile that moves no colour by more grey levels than this is sRGB itself.
_SAME = 1
_GRID = 17


class ProfileError(ValueError):
    """A colour profile that cannot be used; the message says why."""


class ToSrgb:
    """Converts colours of 8 or 16 bits to sRGB, relative colorimetric; made by `to_srgb`.

    May be used from several threads.

    Parameters
    ----------
    profile : bytes
        An ICC profile.

    Attributes
    ----------
    name : str
        What the profile calls itself.
    changes : bool
        Whether it moves any colour by more than a grey level.

    Raises
    ------
    ProfileError
        If it is damaged, or not one of red, green and blue.
    """

    def __init__(self, profile: bytes) -> None:
        from PIL import ImageCms

        if len(profile) > _MOST_PROFILE:
            raise ProfileError("it is too large to be one")
        try:
            opened = ImageCms.ImageCmsProfile(io.BytesIO(profile))
            space = opened.profile.xcolor_space.strip()
            if space != "RGB":
                raise ProfileError(f"it is one of {space}, not of red, green and blue")
            self.name = " ".join((ImageCms.getProfileDescription(opened) or "").split())[:80]
            self.name = self.name or "unnamed"
            self._transform = ImageCms.buildTransform(
                opened,
                ImageCms.createProfile("sRGB"),
                "RGB",
                "RGB",
                renderingIntent=ImageCms.Intent.RELATIVE_COLORIMETRIC,
            )
        except (ImageCms.PyCMSError, OSError, TypeError, ValueError) as error:
            if isinstance(error, ProfileError):
                raise
            raise ProfileError(f"it is damaged ({error})") from error
        self._profile = profile
        steps = np.linspace(0, 255, _GRID).round().astype(np.uint8)
        grid = np.stack(np.meshgrid(steps, steps, steps), -1).reshape(_GRID, -1, 3)
        apart = np.abs(self._convert(grid).astype(np.int16) - grid)
        self.changes = bool(apart.max() > _SAME)

    def __call__(self, pixels: npt.NDArray[Any]) -> npt.NDArray[Any]:
        """Return colours (..., 3), uint8 or uint16, as sRGB of the same type.

        Raises
        ------
        TypeError
            If the pixels are of another type.
        """
        if pixels.dtype == np.uint16:
            import imagecodecs

            deep: npt.NDArray[Any] = imagecodecs.cms_transform(
                np.ascontiguousarray(pixels),
                self._profile,
                imagecodecs.cms_profile("srgb"),
                colorspace="rgb",
                outcolorspace="rgb",
                intent=imagecodecs.CMS.INTENT.RELATIVE_COLORIMETRIC,
                # Otherwise it interpolates in a table, and misses by some percent.
                flags=imagecodecs.CMS.FLAGS.NOOPTIMIZE,
            )
            return deep
        if pixels.dtype != np.uint8:
            raise TypeError(f"colours of type {pixels.dtype} are not converted")
        colours = np.ascontiguousarray(pixels).reshape(-1, pixels.shape[-2], 3)
        return self._convert(colours).reshape(pixels.shape)

    def _convert(self, colours: npt.NDArray[np.uint8]) -> npt.NDArray[np.uint8]:
        """Return colours (h, w, 3) as littleCMS converts them."""
        from PIL import Image, ImageCms

        converted = ImageCms.applyTransform(Image.fromarray(colours), self._transform)
        assert converted is not None
        return np.asarray(converted)


@functools.lru_cache(maxsize=4)
def to_srgb(profile: bytes) -> ToSrgb:
    """Return what converts colours as a profile says; the same for the same profile.

    Raises
    ------
    ProfileError
        If it cannot be used.
    """
    return ToSrgb(profile)
