"""OME-Zarr 0.4 and 0.5: what was never written is told from zeros."""

from __future__ import annotations

import struct
import tracemalloc
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pytest

from bad_slides import bad_zarr, halves, scene
from napari_sparseattn.images.errors import ImageError
from napari_sparseattn.images.slides.opening import is_slide, open_slide

zarr = pytest.importorskip("zarr")

KINDS = [(2, {}), (3, {}), (3, {"shards": (1, 512, 512)})]


def _write(
    path: Path, levels: list[npt.NDArray[np.uint8]], version: int, options: dict[str, Any]
) -> Path:
    """Write levels as c, y, x in 0.25 µm; the lower left quarter of level 0 is left out."""
    group = zarr.open_group(path, mode="w", zarr_format=version)
    datasets = []
    for n, level in enumerate(levels):
        array = group.create_array(
            str(n),
            shape=(3, *level.shape[:2]),
            chunks=(1, 256, 256),
            dtype="u1",
            **(options if n == 0 else {}),
        )
        planes = level.transpose(2, 0, 1)
        if n == 0:
            array[:, :512] = planes[:, :512]
            array[:, 512:, 512:] = planes[:, 512:, 512:]
        else:
            array[:] = planes
        scale = [1, 0.25 * 2**n, 0.25 * 2**n]
        datasets.append(
            {"path": str(n), "coordinateTransformations": [{"type": "scale", "scale": scale}]}
        )
    axes = [{"name": "c", "type": "channel"}]
    axes += [{"name": a, "type": "space", "unit": "micrometer"} for a in "yx"]
    described = {"multiscales": [{"axes": axes, "datasets": datasets}]}
    if version == 2:
        group.attrs.update(described)
    else:
        group.attrs["ome"] = {"version": "0.5", **described}
    return path


@pytest.mark.parametrize(("version", "options"), KINDS, ids=["0.4", "0.5", "shards"])
def test_pixels_scale_and_gaps(tmp_path: Path, version: int, options: dict[str, Any]) -> None:
    levels = halves(scene(), 3)
    # A black tile that is there: some of its pixels are the fill value, some are not.
    levels[0][:200, :200] = 0
    path = _write(tmp_path / "a.ome.zarr", levels, version, options)
    assert is_slide(path)
    with open_slide(path) as slide:
        assert (slide.name, slide.pixel_size, slide.channels) == ("a", 0.25, 3)
        assert [level.downsample for level in slide.levels] == [1, 2, 4]
        region = slide.read_region(0, 0, 0, 1024, 1024)
        written = np.ones((1024, 1024), bool)
        written[512:, :512] = False
        np.testing.assert_array_equal(region.valid, written)
        np.testing.assert_array_equal(region.pixels[written], levels[0][written])
        assert slide.ledger.snapshot().absent[0] == {(2, 0), (2, 1), (3, 0), (3, 1)}
        for n in (1, 2):
            part = slide.read_region(3, 5, n, 200, 250)
            np.testing.assert_array_equal(part.pixels, levels[n][3:203, 5:255])


@pytest.mark.parametrize(("version", "options"), KINDS, ids=["0.4", "0.5", "shards"])
def test_damaged_chunk_fails_alone(tmp_path: Path, version: int, options: dict[str, Any]) -> None:
    path = _write(tmp_path / "a.zarr", halves(scene(), 2), version, options)
    chunk = path / {0: "0/c/0/0/0"}.get(0, "") if version == 3 else path / "0" / "0.0.0"
    chunk.write_bytes(b"\x12" * 100)
    with open_slide(path) as slide:
        region = slide.read_region(0, 0, 0, 1024, 1024)
        side = 512 if options else 256
        assert not region.valid[:side, :side].any()
        assert region.valid[:512, side:].all()
        assert len(slide.ledger.snapshot().failed[0]) == (side // 256) ** 2


@pytest.mark.parametrize("fill", [0, 255])
@pytest.mark.parametrize(("version", "options"), KINDS, ids=["0.4", "0.5", "shards"])
def test_a_colour_that_is_all_fill_value_is_there(
    tmp_path: Path, version: int, options: dict[str, Any], fill: int
) -> None:
    pure = scene()
    pure[:512, :512, 1] = fill
    path = _write(tmp_path / "a.zarr", [pure], version, {**options, "fill_value": fill})
    with open_slide(path) as slide:
        region = slide.read_region(0, 0, 0, 512, 512)
        assert region.valid.all()
        np.testing.assert_array_equal(region.pixels, pure[:512, :512])
        assert not slide.read_region(512, 0, 0, 512, 512).valid.any()
        assert not slide.ledger.snapshot().failed[0]


def test_chunk_that_swells_is_not_read(tmp_path: Path) -> None:
    path = _write(tmp_path / "a.zarr", halves(scene(), 2), 2, {})
    (path / "0" / "1.0.0").write_bytes(bytes(2**21))
    with open_slide(path) as slide:
        assert not slide.read_region(0, 0, 0, 256, 256).valid.any()
        assert "more than its pixels" in slide.ledger.snapshot().failed[0][0, 0]


def test_scale_without_a_unit_is_not_used(tmp_path: Path) -> None:
    path = bad_zarr(tmp_path / "a.zarr")
    file = path / ".zattrs"
    with open_slide(path) as slide:
        assert slide.pixel_size == 0.5
        assert slide.read_region(0, 0, 0, 512, 512).valid.mean() == 0.25
    file.write_text(file.read_text().replace("micrometer", "furlong"))
    with open_slide(path) as slide:
        assert slide.pixel_size is None
        assert "does not say" in slide.notes[0]


def test_many_channels_are_refused(tmp_path: Path) -> None:
    with pytest.raises(ImageError, match="700 channels"):
        open_slide(bad_zarr(tmp_path / "a.zarr", shape=[700, 512, 512], chunks=[1, 256, 256]))


@pytest.mark.parametrize("codec", ["zstd", "zlib", "gzip", "blosc", "lz4", "bz2", "lzma"])
def test_chunk_that_unpacks_to_much_is_not_unpacked(tmp_path: Path, codec: str) -> None:
    numcodecs = pytest.importorskip("numcodecs")
    about = {"id": codec, **({"cname": "zstd"} if codec == "blosc" else {})}
    packer = numcodecs.get_codec(about)
    path = bad_zarr(tmp_path / "a.zarr", compressor=about)
    pixels = np.random.default_rng(0).integers(0, 9, (3, 256, 256)).astype(np.uint8)
    (path / "0/0.0.0").write_bytes(packer.encode(pixels.tobytes()))
    (path / "0/0.0.1").write_bytes(packer.encode(bytes(256 * pixels.nbytes)))
    with open_slide(path) as slide:
        slide.read_region(0, 0, 0, 256, 256)  # what is imported by the first is no part of it
        tracemalloc.start()
        region = slide.read_region(0, 0, 0, 512, 512)
        most = tracemalloc.get_traced_memory()[1]
        tracemalloc.stop()
        np.testing.assert_array_equal(region.pixels[:256, :256], pixels.transpose(1, 2, 0))
        assert not region.valid[:256, 256:].any()
        assert slide.ledger.snapshot().failed[0].keys() == {(0, 1)}
    assert most < 128 * pixels.nbytes


def test_a_chunk_in_a_shard_that_unpacks_to_much_is_not_unpacked(tmp_path: Path) -> None:
    numcodecs = pytest.importorskip("numcodecs")
    path = _write(tmp_path / "a.zarr", [scene()], 3, {"shards": (1, 512, 512)})
    shard = path / "0/c/0/0/0"
    data = bytearray(shard.read_bytes())
    bomb = numcodecs.get_codec({"id": "zstd"}).encode(bytes(2**24))
    at = len(data) - 4 * 16 - 4
    data[at : at + 16] = struct.pack("<QQ", 0, len(bomb))
    data[: len(bomb)] = bomb
    shard.write_bytes(data)
    with open_slide(path) as slide:
        slide.read_region(0, 0, 0, 200, 200)
        assert "unpacks to more" in slide.ledger.snapshot().failed[0][0, 0]


@pytest.mark.parametrize("attributes", ["[1]", '{"ome": 3}', '{"multiscales": [3]}'])
def test_metadata_of_other_types_is_refused(tmp_path: Path, attributes: str) -> None:
    path = bad_zarr(tmp_path / "a.zarr")
    (path / ".zattrs").unlink()
    (path / "zarr.json").write_text('{"attributes": ' + attributes + "}")
    with pytest.raises(ImageError, match="no 'multiscales'"):
        open_slide(path)


def test_what_is_packed_twice_is_refused(tmp_path: Path) -> None:
    path = bad_zarr(tmp_path / "a.zarr", compressor={"id": "zstd"}, filters=[{"id": "zlib"}])
    with pytest.raises(ImageError, match="more than once"):
        open_slide(path)
