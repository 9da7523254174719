"""Opening by content: images and arrays of every kind, Phasics, and what must be asked."""

from __future__ import annotations

from pathlib import Path

import h5py
import numpy as np
import PIL.Image
import pytest
import tifffile

from napari_sparseattn.images.errors import ImageError
from napari_sparseattn.images.holograms.files import RawStack, open_hologram

RNG = np.random.default_rng(0)
STACK = RNG.integers(0, 4096, (6, 20, 30)).astype(np.uint16)


def save(path: Path, array: np.ndarray) -> Path:
    np.save(path, array)
    return path


@pytest.mark.parametrize(
    ("array", "given", "kind"),
    [
        (STACK, None, "hologram"),
        (STACK[0], None, "hologram"),
        (STACK.astype(np.int64), "opd", "opd"),
        (STACK * 1.5, "hologram", "hologram"),
        (STACK * 1e-3, "phase", "phase"),
        (STACK[0] * 1e-1, "opd", "opd"),
        (np.exp(1j * STACK), None, "field"),
        (np.exp(1j * STACK[0]).astype(np.complex64), "field", "field"),
    ],
)
def test_npy_holds_any_kind(tmp_path, array, given, kind):
    recording = open_hologram(save(tmp_path / "a.npy", array), kind=given)
    assert (recording.kind, recording.shape) == (kind, (20, 30))
    np.testing.assert_array_equal(recording.frames[:], array.reshape(-1, 20, 30))
    assert (recording.pixel_size, recording.wavelength, recording.medium_index) == (None,) * 3


@pytest.mark.parametrize(
    ("array", "given", "message"),
    [
        (STACK * 1.0, None, "kind='phase', 'opd' or 'hologram'"),
        (STACK, "field", "a field is complex"),
        (np.exp(1j * STACK), "phase", "holds complex fields, not phase"),
        (STACK > 9, None, "holds bool"),
        (STACK[0, 0], None, "frames as"),
        (STACK.reshape(1, 2, 3, 4, 150), None, "frames as"),
        (np.array(["a", "b"]), None, "frames as|holds <U1"),
    ],
)
def test_what_cannot_be_told_is_asked_for(tmp_path, array, given, message):
    with pytest.raises(ImageError, match=message):
        open_hologram(save(tmp_path / "a.npy", array), kind=given)


def test_what_is_given_replaces_what_the_file_says(tmp_path):
    path = tmp_path / "a.tif"
    tifffile.imwrite(
        path, STACK, imagej=True, resolution=(5, 5), metadata={"unit": "um", "axes": "TYX"}
    )
    assert open_hologram(path).pixel_size == pytest.approx(0.2)
    recording = open_hologram(path, pixel_size=0.1, wavelength=633, medium_index=1.34)
    assert (recording.pixel_size, recording.wavelength, recording.medium_index) == (0.1, 633, 1.34)
    for wrong in ({"pixel_size": 0.0}, {"wavelength": -1}, {"medium_index": np.nan}):
        with pytest.raises(ImageError, match="must be a positive number"):
            open_hologram(path, **wrong)


@pytest.mark.parametrize(
    ("options", "raw"),
    [
        ({}, True),
        ({"byteorder": ">"}, True),
        ({"bigtiff": True, "rowsperstrip": 7}, True),
        ({"imagej": True, "byteorder": ">", "metadata": {"axes": "ZYX"}}, True),
        ({"ome": True, "metadata": {"axes": "TYX"}}, True),
        ({"imagej": True}, False),  # six channels, says tifffile
        ({"metadata": None, "contiguous": False}, True),
        ({"compression": "zlib"}, False),
        ({"tile": (16, 16)}, False),
        ({"photometric": "miniswhite"}, False),
    ],
)
def test_tiff_stacks_are_frames(tmp_path, options, raw):
    path = tmp_path / "a.tif"
    if options.pop("contiguous", True):
        tifffile.imwrite(path, STACK, **{"photometric": "minisblack"} | options)
    else:
        with tifffile.TiffWriter(path) as tif:
            for frame in STACK:
                tif.write(frame, contiguous=False, photometric="minisblack", **options)
    recording = open_hologram(path)
    assert isinstance(recording.frames, RawStack) is raw
    expected = STACK if options.get("photometric") is None else ~STACK
    np.testing.assert_array_equal(recording.frames[:], expected)
    np.testing.assert_array_equal(recording.frames[2:4], expected[2:4])
    np.testing.assert_array_equal(recording.frame(5), expected[5])


def test_complex_and_two_way_stacks(tmp_path):
    field = np.exp(1j * STACK).astype(np.complex64)
    tifffile.imwrite(tmp_path / "a.tif", field)
    recording = open_hologram(tmp_path / "a.tif")
    assert recording.kind == "field"
    np.testing.assert_array_equal(recording.frames[:], field)
    many = STACK.reshape(2, 3, 20, 30)
    tifffile.imwrite(
        tmp_path / "b.tif",
        many,
        compression="zlib",
        photometric="minisblack",
        metadata={"axes": "TZYX"},
    )
    recording = open_hologram(tmp_path / "b.tif")
    np.testing.assert_array_equal(recording.frames[:], STACK)
    assert recording.notes == ("2 x 3 frames are in one row",)


def test_a_stack_is_not_kept_open_nor_read_twice(tmp_path):
    path = tmp_path / "a.tif"
    tifffile.imwrite(path, STACK, photometric="minisblack")
    recording = open_hologram(path)
    path.write_bytes(path.read_bytes()[: recording.frames.offsets[5] + 9])
    np.testing.assert_array_equal(recording.frame(4), STACK[4])
    with pytest.raises(ImageError, match="ends too early"):
        recording.frame(5)
    path.unlink()
    with pytest.raises(ImageError, match="cannot be read any more"):
        recording.frame(0)


@pytest.mark.parametrize("suffix", ["png", "bmp", "jpg", "tif", "npy"])
def test_grey_saved_as_colour_is_one_channel(tmp_path, suffix):
    grey = np.repeat(np.repeat(STACK[0] // 16, 8, 0), 8, 1).astype(np.uint8)
    colour = np.stack([grey] * 3, axis=-1)
    path = tmp_path / f"a.{suffix}"
    save(path, colour) if suffix == "npy" else PIL.Image.fromarray(colour).save(path)
    recording = open_hologram(path)
    assert recording.frames.shape == (1, 160, 240)
    if suffix != "jpg":
        np.testing.assert_array_equal(recording.frame(0), grey)
    colour[:9, :9, 0] ^= 255
    save(path, colour) if suffix == "npy" else PIL.Image.fromarray(colour).save(path)
    with pytest.raises(ImageError, match="3 channels that differ"):
        open_hologram(path)


def test_channels_that_are_not_colours_are_refused(tmp_path):
    tifffile.imwrite(
        tmp_path / "a.tif", STACK[:2], imagej=True, metadata={"axes": "CYX", "mode": "composite"}
    )
    with pytest.raises(ImageError, match="2 channels"):
        open_hologram(tmp_path / "a.tif")


def test_background_from_a_file_or_an_array(tmp_path):
    path = save(tmp_path / "a.npy", STACK)
    recording = open_hologram(path, background=save(tmp_path / "b.npy", STACK[3]))
    np.testing.assert_array_equal(recording.background_of(5), STACK[3])
    recording = open_hologram(path, background=STACK[::-1])
    np.testing.assert_array_equal(recording.background_of(5), STACK[0])
    with pytest.raises(ImageError, match=r"the background is \(1, 20, 29\)"):
        open_hologram(path, background=STACK[0, :, 1:])
    with pytest.raises(ImageError, match="1 or 6 frames"):
        open_hologram(path, background=STACK[:2])
    with pytest.raises(ImageError, match="of the same kind as the holograms"):
        open_hologram(path, background=np.exp(1j * STACK[0]))
    with pytest.raises(ImageError, match=r"b\.npy holds complex fields"):
        open_hologram(path, background=save(tmp_path / "b.npy", np.exp(1j * STACK[0])))


def test_hdf5_is_told_by_content_and_its_background_replaced(tmp_path):
    path = tmp_path / "a.tif"
    with h5py.File(path, "w") as file:
        file["events/qpi_oah"] = STACK
        file["events/qpi_oah_bg"] = STACK
    recording = open_hologram(path, background=STACK[0], wavelength=500)
    assert (recording.kind, recording.wavelength) == ("hologram", 500)
    np.testing.assert_array_equal(recording.background_of(4), STACK[0])


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"", "empty file"),
        (b"hello", "not a TIFF"),
        (b"\x89HDF\r\n\x1a\n" + bytes(90), "damaged"),
        (b"PK\x03\x04nonsense", "damaged archive"),
        (b"II*\0\x08\0\0\0", "damaged TIFF|no image"),
    ],
)
def test_other_files_are_refused(tmp_path, content, message):
    path = tmp_path / "a.dat"
    path.write_bytes(content)
    with pytest.raises(ImageError, match=message):
        open_hologram(path)


def test_random_damage_gives_an_image_error_or_a_recording(tmp_path):
    path = tmp_path / "a.tif"
    tifffile.imwrite(path, STACK, photometric="minisblack")
    content = np.frombuffer(path.read_bytes(), np.uint8)
    refused = 0
    for _ in range(100):
        damaged = content.copy()
        damaged[RNG.integers(4, 400, 3)] = RNG.integers(0, 256, 3)
        path.write_bytes(damaged.tobytes())
        try:
            open_hologram(path).frame(0)
        except ImageError:
            refused += 1
    assert 5 < refused < 100


def test_missing_files_and_folders(tmp_path):
    with pytest.raises(FileNotFoundError, match="there is no file"):
        open_hologram(tmp_path / "a.rtdc")
    with pytest.raises(ImageError, match="is a folder"):
        open_hologram(tmp_path)


def test_archives_name_what_they_hold(tmp_path):
    np.savez(tmp_path / "a.npz", data=STACK, bg_data=STACK)
    with pytest.raises(ImageError, match=r"archive \(data, bg_data\).*save the hologram as one"):
        open_hologram(tmp_path / "a.npz")


def test_objects_are_not_unpickled(tmp_path):
    np.save(tmp_path / "a.npy", np.array([{}], dtype=object), allow_pickle=True)
    with pytest.raises(ImageError, match="never loaded"):
        open_hologram(tmp_path / "a.npy")


def test_phasics_sample_agrees_with_qpformat(shared):
    recording = open_hologram(shared / "data/phase/single_phasics.tif")
    assert (recording.kind, recording.frames.shape) == ("opd", (1, 80, 120))
    assert (recording.wavelength, recording.pixel_size) == (550, None)
    # qpformat's test of this file, in rad, and the square root of intensity.
    phase = recording.frame(0) * (2 * np.pi / 550)
    assert np.ptp(phase) == pytest.approx(4.1683941115690617, rel=1e-6)
    assert recording.amplitude[:].max() == pytest.approx(188.57930365845519, rel=1e-6)
    assert "29.6 µm on the camera" in recording.notes[1]
    with pytest.raises(ImageError, match="not hologram"):
        open_hologram(shared / "data/phase/single_phasics.tif", kind="hologram")


def phasics(path: Path, xml: str, *, top: float = 500.0, height: int = 9) -> Path:
    with tifffile.TiffWriter(path) as tif:
        for n, highest in enumerate((1000.0, top / 500, top)):
            pixels = np.full((height if n else 9, 8), 100 * n, np.uint16)
            pixels[2, 3] = 1000
            tags = [(281, "H", 1, 1000, False), (61238, "s", 0, xml, False)]
            tags += [(61242, "d", 1, highest, False), (61243, "d", 1, 0.0, False)]
            tif.write(pixels, extratags=tags, contiguous=False, metadata=None)
    return path


def test_phasics_without_a_wavelength_uses_the_page_in_nm(tmp_path):
    xml = "<Name>Lambda(nm)</Name>\r\n<Val>400.0</Val>"
    recording = open_hologram(phasics(tmp_path / "a.tif", xml))
    assert (recording.wavelength, recording.frame(0)[2, 3]) == (400, 400)
    recording = open_hologram(phasics(tmp_path / "a.tif", "<PhasicsData/>"))
    assert (recording.wavelength, recording.frame(0)[2, 3]) == (None, 500)
    assert recording.frame(0)[0, 0] == pytest.approx(100)  # of pages 1 and 2, the second


def test_phasics_without_phase_is_refused(tmp_path):
    with pytest.raises(ImageError, match="no phase"):
        open_hologram(phasics(tmp_path / "a.tif", "", top=0.0))
    with pytest.raises(ImageError, match="different sizes"):
        open_hologram(phasics(tmp_path / "a.tif", "", height=7))


def test_shared_samples_open(shared):
    folder = shared / "data/phase"
    recording = open_hologram(folder / "single_holo.tif")  # Deflate under its old number
    assert (recording.kind, recording.shape, recording.pixel_size) == (
        "hologram",
        (238, 267),
        None,
    )
    assert np.ptp(recording.frame(0)) > 100
    assert open_hologram(folder / "hl60_hologram_curved_bg.jpg").shape == (600, 400)
    with pytest.raises(ImageError, match=r"archive \(data, bg_data\)"):
        open_hologram(folder / "hl60_hologram.npz")
    field = folder / "pc3_pnt1a/pc3/img_00001.tif"
    with pytest.raises(ImageError, match="decimal numbers"):
        open_hologram(field)
    assert open_hologram(field, kind="phase").shape == (600, 600)
