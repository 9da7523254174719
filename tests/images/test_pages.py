"""Pages of a TIFF that go round in a circle end, or are refused; tifffile goes on for ever."""

from __future__ import annotations

import struct
from pathlib import Path

import numpy as np
import pytest

from napari_sparseattn.images.errors import ImageError
from napari_sparseattn.images.holograms.files import open_hologram
from napari_sparseattn.images.opening import open_field
from napari_sparseattn.images.slides.opening import is_slide

SIDE = 8


def circle(path: Path, n_pages: int, back_to: int) -> Path:
    """Write pages of one 8 x 8 image, the last of which is followed by an earlier one."""
    tags = [(256, SIDE), (257, SIDE), (258, 8), (259, 1), (262, 1), (273, 8), (278, SIDE)]
    tags += [(277, 1), (279, SIDE * SIDE)]
    page = struct.pack("<H", len(tags))
    page += b"".join(struct.pack("<HHII", tag, 4, 1, value) for tag, value in sorted(tags))
    start, step = 8 + SIDE * SIDE, len(page) + 4
    places = [start + step * n for n in range(n_pages)]
    content = b"II*\0" + struct.pack("<I", start) + bytes(range(SIDE * SIDE))
    for following in [*places[1:], places[back_to]]:
        content += page + struct.pack("<I", following)
    path.write_bytes(content)
    return path


@pytest.mark.parametrize(("n_pages", "back_to"), [(2, 1), (1, 0), (40, 3)])
def test_a_short_circle_is_cut(tmp_path: Path, n_pages: int, back_to: int) -> None:
    path = circle(tmp_path / "a.tif", n_pages, back_to)
    assert not is_slide(path)
    pixels = np.arange(SIDE * SIDE, dtype=np.uint8).reshape(SIDE, SIDE)
    np.testing.assert_array_equal(open_field(path).plane()[..., 0], pixels)
    np.testing.assert_array_equal(open_hologram(path).frames[0:1][0], pixels)


def test_a_long_circle_is_refused(tmp_path: Path) -> None:
    path = circle(tmp_path / "a.tif", 150, 20)
    assert not is_slide(path)
    for read in (open_field, open_hologram):
        with pytest.raises(ImageError, match="go round in a circle"):
            read(path)
