from __future__ import annotations

import struct
import zlib
from pathlib import Path

import numpy as np
import PIL.Image
import pytest
import tifffile

from bad_slides import large_codestream, large_jpeg
from napari_sparseattn.images.errors import ImageError
from napari_sparseattn.images.fields.field import Field
from napari_sparseattn.images.normalise import to_float
from napari_sparseattn.images.opening import open_field

RNG = np.random.default_rng(0)


def integers(*shape: int, dtype: type = np.uint8) -> np.ndarray:
    return RNG.integers(0, np.iinfo(dtype).max, shape).astype(dtype)


@pytest.mark.parametrize(
    ("array", "axes", "channels", "modality"),
    [
        (integers(20, 30), "YX", 1, "unknown"),
        (integers(20, 30, 3), "YXC", 3, "brightfield"),
        (integers(20, 30, 4), "YXC", 3, "brightfield"),
        (integers(20, 30, 3, dtype=np.uint16), "YXC", 3, "brightfield"),
        (RNG.random((20, 30, 3)), "YXC", 3, "brightfield"),
        (RNG.random((20, 30, 3)) * 200, "TYX", 1, "unknown"),
        (integers(3, 20, 30), "TYX", 1, "unknown"),
        (integers(20, 30, 1), "YXC", 1, "unknown"),
        (integers(5, 20, 30, 3), "TYXC", 3, "brightfield"),
        (integers(2, 5, 20, 30), "TZYX", 1, "unknown"),
        (integers(2, 5, 20, 30, 3), "TZYXC", 3, "brightfield"),
        (RNG.random((20, 30)) > 0.5, "YX", 1, "unknown"),
    ],
)
def test_channels_are_told_from_frames(array, axes, channels, modality):
    field = Field.from_array(array)
    assert (field.axes, field.n_channels, field.modality) == (axes, channels, modality)
    assert field.plane().shape == (*field.shape, channels)


def test_colour_floats_may_hold_nan():
    array = RNG.random((20, 30, 3))
    array[3, 4, 1] = np.nan
    field = Field.from_array(array)
    assert field.axes == "YXC"
    assert field.n_invalid == 1


@pytest.mark.parametrize(("unit", "modality"), [("rad", "phase"), ("nm", "opd"), ("", "unknown")])
def test_the_unit_of_a_float_map_gives_its_modality(unit, modality):
    assert Field.from_array(RNG.random((9, 9)), unit=unit).modality == modality


def test_axes_given_in_any_order_are_transposed_without_copy():
    array = integers(3, 20, 30)
    field = Field.from_array(array, axes="CYX")
    assert field.axes == "YXC"
    np.testing.assert_array_equal(field.plane(), np.moveaxis(array, 0, -1))
    assert np.shares_memory(field.plane(), array)


def test_plane_picks_frame_and_slice_as_views():
    array = integers(2, 5, 20, 30)
    field = Field.from_array(array)
    np.testing.assert_array_equal(field.plane(1, 3)[..., 0], array[1, 3])
    assert np.shares_memory(field.plane(), array)
    assert (field.n_frames, field.n_slices, field.shape) == (2, 5, (20, 30))
    with pytest.raises(IndexError, match="no frame 2"):
        field.plane(t=2)
    with pytest.raises(IndexError, match="no z slice -1"):
        field.plane(z=-1)


@pytest.mark.parametrize("unit", ["nm", "rad"])
@pytest.mark.parametrize("dtype", [np.uint8, np.int16, np.uint16, np.int32])
def test_whole_numbers_of_a_unit_keep_their_values(dtype, unit):
    values = np.arange(120).reshape(10, 12).astype(dtype)
    field = Field.from_array(values, unit=unit, modality="opd" if unit == "nm" else "phase")
    np.testing.assert_array_equal(to_float(field.plane())[..., 0], np.arange(120).reshape(10, 12))
    # Without one they are shares of what the type can hold.
    assert to_float(Field.from_array(values).plane()).max() < 1


def test_alpha_stays_where_the_image_is_not_brightfield():
    field = Field.from_array(integers(20, 30, 4), modality="fluorescence")
    assert field.n_channels == 4


@pytest.mark.parametrize(
    ("array", "error", "message"),
    [
        (np.zeros((0, 5)), ValueError, "empty"),
        (np.zeros(5), ValueError, "2 to 5 axes"),
        (np.zeros((2,) * 6), ValueError, "2 to 5 axes"),
        (np.zeros((2, 2), complex), TypeError, "phase or amplitude"),
        (np.array([[None]]), TypeError, "not supported"),
        (np.array([["a"]]), TypeError, "not supported"),
    ],
)
def test_what_is_no_image_is_refused(array, error, message):
    with pytest.raises(error, match=message):
        Field.from_array(array)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"axes": "YXC"}, "name 3 axes"),
        ({"axes": "YY"}, "different letters"),
        ({"axes": "TX"}, "include Y and X"),
        ({"modality": "xray"}, "modality 'xray'"),
        ({"unit": "µm"}, "convert"),
        ({"pixel_size": 0}, "positive"),
        ({"pixel_size": np.nan}, "positive"),
        ({"pixel_size": (0.2, 0.4)}, "resample"),
    ],
)
def test_wrong_metadata_is_refused(options, message):
    with pytest.raises(ValueError, match=message):
        Field.from_array(np.zeros((5, 5)), **options)


def test_axes_out_of_order_are_refused_by_the_field_itself():
    with pytest.raises(ValueError, match="in that order"):
        Field(np.zeros((3, 5, 5)), "CYX")


@pytest.mark.parametrize("dtype", [np.uint8, np.uint16, np.float32, np.float64, bool])
def test_tiff_and_npy_keep_type_and_values(tmp_path: Path, dtype):
    array = (RNG.random((21, 17)) * 200).astype(dtype)
    tifffile.imwrite(tmp_path / "a.tif", array)
    np.save(tmp_path / "a.npy", array)
    for name in ("a.tif", "a.npy"):
        field = open_field(tmp_path / name)
        assert field.data.dtype == dtype
        assert field.path == tmp_path / name
        np.testing.assert_array_equal(field.plane()[..., 0], array)


def test_npy_is_memory_mapped(tmp_path: Path):
    np.save(tmp_path / "a.npy", integers(8, 9))
    assert isinstance(open_field(tmp_path / "a.npy").plane(), np.memmap)


@pytest.mark.parametrize("suffix", ["png", "bmp", "tif"])
def test_colour_files(tmp_path: Path, suffix):
    array = integers(12, 14, 3)
    path = tmp_path / f"a.{suffix}"
    PIL.Image.fromarray(array).save(path)
    field = open_field(path)
    assert field.modality == "brightfield"
    assert field.name == "a"
    np.testing.assert_array_equal(field.plane(), array)


def test_tiny_colour_image(tmp_path: Path):
    PIL.Image.new("RGB", (1, 1), (10, 20, 30)).save(tmp_path / "a.png")
    field = open_field(tmp_path / "a.png")
    assert field.plane().tolist() == [[[10, 20, 30]]]


def test_sixteen_bit_png_keeps_its_bits(tmp_path: Path):
    array = integers(9, 7, dtype=np.uint16)
    PIL.Image.fromarray(array).save(tmp_path / "a.png")
    field = open_field(tmp_path / "a.png")
    assert field.data.dtype == np.uint16
    np.testing.assert_array_equal(field.data, array)


@pytest.mark.parametrize("channels", [2, 3, 4])
def test_sixteen_bit_colour_png_keeps_its_bits(tmp_path: Path, channels):
    array = integers(9, 7, channels, dtype=np.uint16)
    rows = b"".join(b"\0" + row.astype(">u2").tobytes() for row in array)
    header = struct.pack(">IIBBBBB", 7, 9, 16, {2: 4, 3: 2, 4: 6}[channels], 0, 0, 0)
    _png(tmp_path / "a.png", (b"IHDR", header), (b"IDAT", zlib.compress(rows)), (b"IEND", b""))
    field = open_field(tmp_path / "a.png")
    assert field.n_channels == (1 if channels == 2 else 3)
    np.testing.assert_array_equal(field.plane(), array[..., : field.n_channels])


def _png(path: Path, *chunks: tuple[bytes, bytes]) -> None:
    parts = [b"\x89PNG\r\n\x1a\n"]
    for kind, content in chunks:
        body = kind + content
        parts += [struct.pack(">I", len(content)), body, struct.pack(">I", zlib.crc32(body))]
    path.write_bytes(b"".join(parts))


def test_palette_png_becomes_colour(tmp_path: Path):
    image = PIL.Image.new("P", (6, 5), 1)
    image.putpalette([0, 0, 0, 200, 100, 50])
    image.save(tmp_path / "a.png")
    assert open_field(tmp_path / "a.png").plane()[2, 3].tolist() == [200, 100, 50]


def test_grey_with_alpha_has_one_channel(tmp_path: Path):
    PIL.Image.new("LA", (6, 5), (90, 128)).save(tmp_path / "a.png")
    field = open_field(tmp_path / "a.png")
    assert field.n_channels == 1
    assert field.plane().max() == 90


def test_cmyk_jpeg_becomes_rgb(tmp_path: Path):
    PIL.Image.new("CMYK", (16, 16), (0, 255, 255, 0)).save(tmp_path / "a.jpg", quality=95)
    red, green, blue = open_field(tmp_path / "a.jpg").plane()[8, 8].astype(int)
    assert red > 200
    assert max(green, blue) < 60


def test_exif_orientation_is_applied(tmp_path: Path):
    array = np.zeros((16, 32, 3), np.uint8)
    array[:, :8] = 255
    exif = PIL.Image.Exif()
    exif[0x0112] = 6
    PIL.Image.fromarray(array).save(tmp_path / "a.jpg", exif=exif, quality=95)
    field = open_field(tmp_path / "a.jpg")
    assert field.shape == (32, 16)
    assert field.plane()[2].mean() > 240
    assert field.plane()[-2].mean() < 15


def test_palette_and_inverted_tiff(tmp_path: Path):
    index = integers(6, 7)
    colours = integers(3, 256, dtype=np.uint16)
    tifffile.imwrite(tmp_path / "p.tif", index, photometric="palette", colormap=colours)
    np.testing.assert_array_equal(
        open_field(tmp_path / "p.tif").plane(), np.moveaxis(colours[:, index], 0, -1)
    )
    tifffile.imwrite(tmp_path / "w.tif", index, photometric="miniswhite")
    np.testing.assert_array_equal(open_field(tmp_path / "w.tif").plane()[..., 0], 255 - index)


def test_planar_colour_tiff(tmp_path: Path):
    array = integers(3, 12, 14)
    tifffile.imwrite(tmp_path / "a.tif", array, photometric="rgb", planarconfig="separate")
    field = open_field(tmp_path / "a.tif")
    assert field.modality == "brightfield"
    np.testing.assert_array_equal(field.plane(), np.moveaxis(array, 0, -1))


def test_ome_tiff_axes_and_pixel_size_with_unit(tmp_path: Path):
    array = integers(4, 2, 3, 12, 14, dtype=np.uint16)
    metadata = {
        "axes": "TCZYX",
        "PhysicalSizeX": 150.0,
        "PhysicalSizeXUnit": "nm",
        "PhysicalSizeY": 150.0,
        "PhysicalSizeYUnit": "nm",
    }
    tifffile.imwrite(tmp_path / "a.ome.tif", array, metadata=metadata)
    field = open_field(tmp_path / "a.ome.tif")
    assert field.axes == "TZYXC"
    assert field.pixel_size == pytest.approx(0.15)
    np.testing.assert_array_equal(field.plane(3, 2)[..., 1], array[3, 1, 2])


@pytest.mark.parametrize(("unit", "per_unit"), [("micron", 4.0), ("\\u00B5m", 4.0), ("nm", 0.004)])
def test_imagej_pixel_size(tmp_path: Path, unit, per_unit):
    tifffile.imwrite(
        tmp_path / "a.tif",
        integers(3, 12, 14),
        imagej=True,
        resolution=(per_unit, per_unit),
        metadata={"axes": "TYX", "unit": unit},
    )
    field = open_field(tmp_path / "a.tif")
    assert field.pixel_size == pytest.approx(0.25)
    assert field.axes == "TYX"


def test_a_stated_pixel_size_that_no_microscope_has_is_not_used(tmp_path: Path):
    tifffile.imwrite(
        tmp_path / "a.tif",
        integers(12, 14),
        imagej=True,
        resolution=(4.0, 4.0),
        metadata={"unit": "nm"},
    )
    field = open_field(tmp_path / "a.tif")
    assert field.pixel_size is None
    assert "states 0.00025 µm per pixel" in field.notes[0]


@pytest.mark.parametrize(
    ("resolution", "unit", "expected"),
    [
        ((40000, 40000), "CENTIMETER", 0.25),
        ((101600, 101600), "INCH", 0.25),
        ((72, 72), "INCH", None),
        ((96, 96), "INCH", None),
        ((300, 300), "INCH", None),
        ((40000, 40000), "NONE", None),
    ],
)
def test_resolution_tags_count_only_where_plausible(tmp_path: Path, resolution, unit, expected):
    tifffile.imwrite(
        tmp_path / "a.tif", integers(12, 14), resolution=resolution, resolutionunit=unit
    )
    assert open_field(tmp_path / "a.tif").pixel_size == expected


def test_unequal_pixel_sides_name_the_file_and_the_cure(tmp_path: Path):
    path = tmp_path / "a.tif"
    tifffile.imwrite(path, integers(12, 14), resolution=(40000, 20000), resolutionunit="CENTIMETER")
    with pytest.raises(ImageError, match=r"a\.tif: pixels are 0\.5 µm high .* resample"):
        open_field(path)
    assert open_field(path, pixel_size=0.3).pixel_size == 0.3


def test_keywords_override_the_file(tmp_path: Path):
    np.save(tmp_path / "a.npy", RNG.random((3, 12, 14)).astype(np.float32))
    field = open_field(
        tmp_path / "a.npy", axes="ZYX", modality="opd", unit="nm", pixel_size=0.2, name="mine"
    )
    assert (field.axes, field.modality, field.unit) == ("ZYX", "opd", "nm")
    assert (field.pixel_size, field.name) == (0.2, "mine")


def test_a_pixel_size_that_replaces_the_files_is_noted(tmp_path: Path):
    stated = {"resolution": (40000, 40000), "resolutionunit": "CENTIMETER"}
    tifffile.imwrite(tmp_path / "a.tif", integers(12, 14), **stated)
    found = open_field(tmp_path / "a.tif", pixel_size=0.5).notes
    assert found == ("the pixel size given, 0.5 µm, replaces 0.25 µm, which the file says",)
    assert open_field(tmp_path / "a.tif", pixel_size=0.25).notes == ()
    assert open_field(tmp_path / "a.tif").notes == ()


def test_a_given_pixel_size_is_not_asked_for(tmp_path: Path):
    stated = {"resolution": (300, 300), "resolutionunit": "INCH"}
    tifffile.imwrite(tmp_path / "a.tif", integers(12, 14), **stated)
    assert "give the µm per pixel" in open_field(tmp_path / "a.tif").notes[0]
    assert open_field(tmp_path / "a.tif", pixel_size=0.25).notes == ()


@pytest.mark.parametrize("mode", ["YCbCr", "LAB", "CMYK"])
@pytest.mark.parametrize("compression", ["raw", "tiff_lzw"])
def test_colours_of_another_kind_are_not_taken_for_red_green_and_blue(
    tmp_path: Path, mode, compression
):
    PIL.Image.fromarray(integers(12, 14, 3)).convert(mode).save(
        tmp_path / "a.tif", compression=compression
    )
    with pytest.raises(ImageError, match=r"a\.tif is in .*; save it as RGB"):
        open_field(tmp_path / "a.tif")


def test_jpeg_in_tiff_is_turned_into_red_green_and_blue(tmp_path: Path):
    colour = np.full((64, 64, 3), (200, 40, 90), np.uint8)
    tifffile.imwrite(
        tmp_path / "a.tif", colour, compression="jpeg", photometric="rgb", tile=(64, 64)
    )
    assert np.abs(open_field(tmp_path / "a.tif").plane().astype(int) - colour).max() < 8


@pytest.mark.parametrize("dtype", [np.int16, np.uint16, np.int32, np.uint32])
def test_dark_colours_of_many_bits_are_those_of_eight(tmp_path: Path, dtype):
    glass = np.full((40, 40, 3), 220, np.uint8)
    glass[10:20, 10:20] = (120, 40, 130)
    tifffile.imwrite(tmp_path / "a.tif", glass.astype(dtype), photometric="rgb")
    field = open_field(tmp_path / "a.tif")
    shown = to_float(field.plane())
    expected = glass / 220 * 0.92
    np.testing.assert_allclose(shown, expected, atol=0.01)
    assert f"{8 * np.dtype(dtype).itemsize}-bit values were scaled" in field.notes[0]


@pytest.mark.parametrize(
    ("names", "order"),
    [(["Blue", "Green", "Red"], [2, 1, 0]), (["B", "R", "G"], [1, 2, 0]), (None, [0, 1, 2])],
)
def test_planes_are_red_green_and_blue_by_their_names(tmp_path: Path, names, order):
    array = integers(3, 12, 14)
    metadata = {"axes": "CYX"} | ({"Channel": {"Name": names}} if names else {})
    tifffile.imwrite(
        tmp_path / "a.ome.tif", array, ome=True, photometric="minisblack", metadata=metadata
    )
    field = open_field(tmp_path / "a.ome.tif")
    assert field.modality == "brightfield"
    np.testing.assert_array_equal(field.plane(), np.moveaxis(array[order], 0, -1))


@pytest.mark.parametrize(
    ("count", "names"),
    [(3, ["DAPI", "GFP", "Cy5"]), (3, ["Red", "Green", "Cy5"]), (4, None), (4, list("wxyz"))],
)
def test_dyes_are_no_colours_and_the_fourth_is_no_alpha(tmp_path: Path, count, names):
    array = integers(count, 12, 14)
    metadata = {"axes": "CYX"} | ({"Channel": {"Name": names}} if names else {})
    tifffile.imwrite(
        tmp_path / "a.ome.tif", array, ome=True, photometric="minisblack", metadata=metadata
    )
    field = open_field(tmp_path / "a.ome.tif")
    assert (field.modality, field.n_channels) == ("unknown", count)
    np.testing.assert_array_equal(field.plane(), np.moveaxis(array, 0, -1))
    assert open_field(tmp_path / "a.ome.tif", modality="brightfield").modality == "brightfield"


@pytest.mark.parametrize("factor", [1 / 255, 1.0, 16.0, 257.0])
def test_decimal_colours_are_those_of_eight_bits(tmp_path: Path, factor):
    glass = np.full((40, 40, 3), 235, np.uint8)
    glass[10:20, 10:20] = (120, 40, 130)
    values = glass * np.float32(factor)
    values[0, 0] = np.nan
    tifffile.imwrite(tmp_path / "a.tif", values, photometric="rgb")
    field = open_field(tmp_path / "a.tif")
    shown = to_float(field.plane())
    np.testing.assert_allclose(shown[1:], glass[1:] / 255, atol=0.005)
    assert ("scaled to 0 to 1" in " ".join(field.notes)) == (factor >= 1)


def test_missing_numbers_of_colours_are_noted():
    array = RNG.random((20, 30, 3))
    array[3, :5, 1] = np.nan
    assert "5 pixels hold no number" in Field.from_array(array).notes[0]


def test_an_image_that_a_file_does_not_hold_is_refused(tmp_path: Path):
    PIL.Image.fromarray(integers(12, 14, 3)).save(tmp_path / "a.png")
    with pytest.raises(ImageError, match=r"a\.png has no image 1: it holds 1"):
        open_field(tmp_path / "a.png", image=1)
    assert open_field(tmp_path / "a.png", image=0).shape == (12, 14)


def test_missing_file(tmp_path: Path):
    with pytest.raises(FileNotFoundError, match="no file"):
        open_field(tmp_path / "absent.tif")


def _truncated_jpeg(path: Path) -> None:
    PIL.Image.fromarray(integers(64, 64, 3)).save(path, format="JPEG")
    path.write_bytes(path.read_bytes()[:1500])


def _truncated_tiff(path: Path) -> None:
    tifffile.imwrite(path, integers(64, 64), rowsperstrip=8)
    path.write_bytes(path.read_bytes()[:-1000])


def _tiff_with_half_its_header(path: Path) -> None:
    tifffile.imwrite(path, integers(64, 64))
    path.write_bytes(path.read_bytes()[:40])


def _npy(path: Path, shape: str, descr: str = "<f8") -> None:
    header = f"{{'descr': '{descr}', 'fortran_order': False, 'shape': {shape}, }}\n".encode()
    path.write_bytes(b"\x93NUMPY\x01\x00" + struct.pack("<H", len(header)) + header + bytes(64))


def _huge_png(path: Path) -> None:
    header = struct.pack(">IIBBBBB", 2**30, 2**30, 8, 2, 0, 0, 0)
    _png(path, (b"IHDR", header), (b"IEND", b""))


def _huge_tiff(path: Path) -> None:
    tags = [(256, 4, 2**31 - 1), (257, 4, 2**31 - 1), (258, 3, 8), (259, 3, 1), (262, 3, 1)]
    tags += [(273, 4, 8), (277, 3, 1), (278, 4, 2**31 - 1), (279, 4, 4)]
    entries = b"".join(struct.pack("<HHII", tag, kind, 1, value) for tag, kind, value in tags)
    path.write_bytes(
        b"II*\0" + struct.pack("<IH", 8, len(tags)) + entries + struct.pack("<I", 0) + bytes(64)
    )


def _jpeg_tiff_with_a_gap(path: Path) -> None:
    tifffile.imwrite(path, integers(64, 64, 3), compression="jpeg", tile=(32, 32))
    with tifffile.TiffFile(path) as tif:
        page = tif.pages.first
        place, length = page.dataoffsets[1], page.databytecounts[1]
    with path.open("r+b") as file:
        file.seek(place + length // 2)
        file.write(bytes(length - length // 2))


def _deflate_bomb(path: Path) -> None:
    tifffile.imwrite(path, np.zeros((20000, 20000), np.uint8), compression="zlib")


@pytest.mark.parametrize(
    ("write", "message"),
    [
        (lambda p: p.mkdir(), "is a folder"),
        (lambda p: p.write_bytes(b""), "empty file"),
        (lambda p: p.write_text("not an image"), "not a TIFF, PNG.*: it holds text"),
        (lambda p: p.write_bytes(b"%PDF-1.7 ..."), "it holds a PDF"),
        (lambda p: p.write_bytes(bytes(range(200))), "it holds something unknown"),
        (_truncated_jpeg, "damaged or incomplete"),
        (_truncated_tiff, "incomplete"),
        (_tiff_with_half_its_header, "damaged|no image"),
        (lambda p: _npy(p, "(1000000000000, 1000000000000)"), "damaged or incomplete"),
        (lambda p: _npy(p, "(0, 5)"), "empty array"),
        (lambda p: _npy(p, "(2, 2)", "|O"), "never loaded"),
        (lambda p: _npy(p, "(2, 2"), "not a readable NPY"),
        (_huge_png, "too many pixels|declares"),
        (_huge_tiff, "declares"),
        (_deflate_bomb, "would grow"),
        # A decoder would take the 12 GB that the stream in the only tile asks for.
        (large_jpeg, "65500 x 65500 pixels, the tile 256 x 256"),
        (large_codestream, "damaged"),
        (_jpeg_tiff_with_a_gap, "part 2 of 4"),
    ],
)
def test_damaged_and_deceitful_files(tmp_path: Path, write, message):
    path = tmp_path / "image.tif"
    write(path)
    with pytest.raises(ImageError, match=message):
        open_field(path)


def test_recordings_of_holography_open_as_fields(tmp_path: Path) -> None:
    import h5py

    frames = np.random.default_rng(0).integers(0, 255, (2, 20, 30)).astype(np.uint8)
    path = tmp_path / "run.rtdc"
    with h5py.File(path, "w") as file:
        file.attrs["experiment:event count"] = 2
        file.attrs["imaging:pixel size"] = 0.2
        file["events/qpi_oah"] = frames
    field = open_field(path)
    assert (field.modality, field.axes, field.pixel_size) == ("hologram", "TYX", 0.2)
    assert np.array_equal(field.data, frames)
    assert open_field(path, pixel_size=0.1).pixel_size == 0.1


def test_units_of_recorded_phase_are_kept(shared: Path) -> None:
    field = open_field(shared / "data/phase/single_qpimage.h5")
    assert (field.modality, field.unit) == ("phase", "rad")
    with pytest.raises(ImageError, match="complex fields"):
        open_field(shared / "data/phase/series_hdf5_meep.h5")
