"""Sizes in the heads of compressed pictures, against what wrote them; bombs are not unpacked."""

from __future__ import annotations

import tracemalloc
from collections.abc import Callable
from pathlib import Path

import imagecodecs
import numpy as np
import numpy.typing as npt
import pytest

from bad_slides import write_encoded
from napari_sparseattn.images._stream_sizes import picture_fault
from napari_sparseattn.images.errors import ImageError
from napari_sparseattn.images.opening import open_field
from napari_sparseattn.images.slides.opening import open_slide

Image = npt.NDArray[np.uint8]
KINDS: list[tuple[int, Callable[[Image], bytes]]] = [
    (34933, imagecodecs.png_encode),
    (50001, imagecodecs.webp_encode),
    (50001, lambda image: imagecodecs.webp_encode(image, lossless=True)),
    (50001, lambda image: imagecodecs.webp_encode(np.dstack([image, image[..., :1]]))),
    (34887, imagecodecs.lerc_encode),
    (50002, lambda image: imagecodecs.jpegxl_encode(image, effort=1)),
    (50002, lambda image: imagecodecs.jpegxl_encode(image, effort=1, usecontainer=True)),
    (22610, imagecodecs.jpegxr_encode),
]
IDS = ["png", "webp", "webp lossless", "webp alpha", "lerc", "jpeg xl", "jpeg xl boxes", "jpeg xr"]


def image(height: int, width: int) -> Image:
    y, x = np.mgrid[:height, :width]
    return ((y + 2 * x)[..., None] + np.arange(3)).astype(np.uint8)


@pytest.mark.parametrize(("compression", "encode"), KINDS, ids=IDS)
@pytest.mark.parametrize("size", [(32, 32), (33, 57), (300, 70), (64, 128)])
def test_the_size_is_what_was_written(
    size: tuple[int, int], compression: int, encode: Callable[[Image], bytes]
) -> None:
    data = encode(image(*size))
    assert picture_fault(compression, data, *size) is None
    for smaller in ((size[0] - 1, size[1]), (size[0], size[1] - 1)):
        assert f"holds {size[0]} x {size[1]}" in (picture_fault(compression, data, *smaller) or "")
    for damaged in (b"", b"x" * 100):
        assert "does not begin" in (picture_fault(compression, damaged, *size) or "")


@pytest.mark.parametrize(("compression", "encode"), KINDS[:1] + KINDS[4:], ids=IDS[:1] + IDS[4:])
def test_a_small_tile_that_holds_a_large_picture_is_not_unpacked(
    tmp_path: Path, compression: int, encode: Callable[[Image], bytes]
) -> None:
    side, tile = 2048, 64
    bomb = encode(np.zeros((side, side, 3), np.uint8))
    options = {"compression": compression, "photometric": "rgb"}
    path = write_encoded(tmp_path / "a.tif", (tile, tile, 3), tile, iter([bomb]), **options)
    tracemalloc.start()
    with open_slide(path, threads=1) as slide:
        assert not slide.read_region(0, 0, 0, tile, tile).valid.any()
        (why,) = slide.ledger.snapshot().failed[0].values()
    with pytest.raises(ImageError, match="is damaged"):
        open_field(path)
    most = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert f"holds {side} x {side}" in why or "more than its pixels" in why
    assert most < side * side * 3 / 2
