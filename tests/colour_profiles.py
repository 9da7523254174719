"""ICC profiles for tests: one that changes colours, and what it makes of them."""

from __future__ import annotations

import imagecodecs
import numpy as np
import numpy.typing as npt
from PIL import ImageCms

#: Red, green, blue and white of Adobe RGB (1998), as CIE xy.
_PRIMARIES = ((0.64, 0.33), (0.21, 0.71), (0.15, 0.06))
_WHITE = (0.3127, 0.3290)


def wide_profile() -> bytes:
    """Return a profile with the primaries of Adobe RGB and a gamma of 2.2."""
    found: bytes = imagecodecs.cms_profile(
        "rgb",
        whitepoint=(*_WHITE, 1.0),
        primaries=[value for xy in _PRIMARIES for value in (*xy, 1.0)],
        gamma=2.2,
    )
    return found


def same_profile() -> bytes:
    """Return sRGB itself, which many scanners embed."""
    return ImageCms.ImageCmsProfile(ImageCms.createProfile("sRGB")).tobytes()


def converted(pixels: npt.NDArray[np.uint8]) -> npt.NDArray[np.float64]:
    """Return colours (..., 3) of that profile as sRGB, by the textbook's matrices."""

    def to_xyz(primaries: tuple[tuple[float, float], ...]) -> npt.NDArray[np.float64]:
        columns = np.array([(x / y, 1, (1 - x - y) / y) for x, y in primaries]).T
        x, y = _WHITE
        scale = np.linalg.solve(columns, np.array([x / y, 1, (1 - x - y) / y]))
        return columns * scale

    srgb = to_xyz(((0.64, 0.33), (0.30, 0.60), (0.15, 0.06)))
    linear = (pixels / 255) ** 2.2 @ (np.linalg.inv(srgb) @ to_xyz(_PRIMARIES)).T
    linear = np.clip(linear, 0, 1)
    shown = np.where(linear <= 0.0031308, 12.92 * linear, 1.055 * linear ** (1 / 2.4) - 0.055)
    found: npt.NDArray[np.float64] = 255 * shown
    return found
