"""HDF5 formats: units and values against what other programs state, and hostile files."""

from __future__ import annotations

import struct
import tarfile
from collections.abc import Callable
from pathlib import Path

import h5py
import numpy as np
import pytest

from napari_sparseattn.images.errors import ImageError
from napari_sparseattn.images.holograms.rtdc import event_count, open_hdf5

RNG = np.random.default_rng(0)
HOLOGRAMS = RNG.integers(1, 256, (7, 12, 20)).astype(np.uint8)


def write_rtdc(path: Path, attributes: dict | None = None, **features: np.ndarray) -> Path:
    features = features or {"qpi_oah": HOLOGRAMS, "qpi_oah_bg": HOLOGRAMS[::-1]}
    with h5py.File(path, "w") as file:
        file.attrs.update(
            {"imaging:pixel size": 0.34, "qpi:wavelength": 532.0, "qpi:medium index": 1.335}
            | (attributes or {})
        )
        for name, values in features.items():
            chunks = (min(3, len(values)), *values.shape[1:])
            file.create_dataset(f"events/{name}", data=values, chunks=chunks, compression="gzip")
        file["events/deform"] = np.linspace(0, 1, len(next(iter(features.values()))))
    return path


def test_rtdc_holograms_with_their_backgrounds_and_units(tmp_path):
    recording = open_hdf5(write_rtdc(tmp_path / "a.rtdc"))
    assert (recording.kind, len(recording), recording.shape) == ("hologram", 7, (12, 20))
    assert (recording.pixel_size, recording.wavelength, recording.medium_index) == (
        0.34,
        532.0,
        1.335,
    )
    np.testing.assert_array_equal(recording.frames[2:5], HOLOGRAMS[2:5])
    np.testing.assert_array_equal(recording.background_of(1), HOLOGRAMS[-2])
    assert (recording.name, recording.notes) == ("a", ())
    assert event_count(tmp_path / "a.rtdc") == 7


def test_rtdc_with_both_gives_holograms_unless_phase_is_asked_for(tmp_path):
    phase, amplitude = RNG.normal(size=(2, 7, 12, 20)).astype(np.float32)
    path = write_rtdc(tmp_path / "a.rtdc", qpi_oah=HOLOGRAMS, qpi_pha=phase, qpi_amp=amplitude)
    recording = open_hdf5(path)
    assert recording.kind == "hologram"
    assert "kind='phase'" in recording.notes[0]
    recording = open_hdf5(path, kind="phase")
    np.testing.assert_array_equal(recording.frames[:], phase)
    np.testing.assert_array_equal(recording.amplitude[6:], amplitude[6:])
    assert recording.background is None
    with pytest.raises(ImageError, match="holds hologram and phase, not opd"):
        open_hdf5(path, kind="opd")


def test_rtdc_pixel_sizes_of_hologram_and_scaled_phase_differ(tmp_path):
    # dclab: "RTDC imaging:pixel size equals pixel size proc".
    scaled = {"qpi:scale to filter": True, "qpi:pixel size proc": 0.34}
    features = {"qpi_oah": HOLOGRAMS, "qpi_pha": RNG.normal(size=(7, 6, 10))}
    path = write_rtdc(tmp_path / "a.rtdc", scaled | {"qpi:pixel size raw": 0.11}, **features)
    assert open_hdf5(path).pixel_size == 0.11
    assert open_hdf5(path, kind="phase").pixel_size == 0.34
    assert open_hdf5(write_rtdc(path, scaled, **features)).pixel_size is None


@pytest.mark.parametrize(
    ("value", "expected"), [(0.0, None), (np.nan, None), (3.4e-7, None), ("0.34", 0.34)]
)
def test_impossible_pixel_sizes_are_not_used(tmp_path, value, expected):
    recording = open_hdf5(write_rtdc(tmp_path / "a.rtdc", {"imaging:pixel size": value}))
    assert recording.pixel_size == expected
    if expected is None and not np.isnan(value):
        assert "pixel size" in recording.notes[0]


def test_a_recording_cut_short_is_opened_as_far_as_it_goes(tmp_path):
    frames = HOLOGRAMS.copy()
    frames[-1] = 0
    path = write_rtdc(
        tmp_path / "a.rtdc", {"experiment:event count": 9}, qpi_oah=frames, qpi_oah_bg=frames[:5]
    )
    recording = open_hdf5(path)
    assert len(recording) == len(recording.background) == 5
    assert any("qpi_oah has 7 frames and qpi_oah_bg 5" in note for note in recording.notes)
    assert any("says 9 events but has 5" in note for note in recording.notes)
    assert event_count(path) == 5
    recording = open_hdf5(write_rtdc(path, qpi_oah=frames))
    assert "last frame is all zero" in recording.notes[-1]


def test_files_are_open_only_while_frames_are_read(tmp_path):
    path = write_rtdc(tmp_path / "a.rtdc")
    recording = open_hdf5(path)
    recording.frame(0)
    with h5py.File(path, "r+") as file:  # refused while anybody has it open to read
        file["events/qpi_oah"][6] = 9
    assert (recording.frame(6) == 9).all()
    path.unlink()
    with pytest.raises(ImageError, match="there is no file"):
        recording.frame(0)


def test_frames_do_not_change_with_what_is_done_to_them(tmp_path):
    recording = open_hdf5(write_rtdc(tmp_path / "a.rtdc"))
    recording.frame(4)[:] = 0
    for i in (4, 0, 3, 6, 5):
        np.testing.assert_array_equal(recording.frame(i), HOLOGRAMS[i])
    np.testing.assert_array_equal(recording.frames[1:6], HOLOGRAMS[1:6])
    assert len(recording.frames[3:3]) == 0


def test_frames_stream(tmp_path):
    import tracemalloc

    path = tmp_path / "a.rtdc"
    with h5py.File(path, "w") as file:
        frames = file.create_dataset(
            "events/qpi_oah", (5000, 64, 64), np.uint8, chunks=(20, 64, 64), compression="gzip"
        )
        frames[:20] = 1
        frames[-20:] = 2
    tracemalloc.start()
    recording = open_hdf5(path)
    assert recording.frames[4995:5000].mean() == 2
    assert tracemalloc.get_traced_memory()[1] < 2**20 < 5000 * 64 * 64
    tracemalloc.stop()


def write_qpimage(group: h5py.Group, phase: np.ndarray, **attributes: float) -> None:
    group.attrs.update({key.replace("_", " "): value for key, value in attributes.items()})
    group["phase/raw"] = phase
    group["phase/bg_data/data"] = 0.25 * phase
    group["phase/bg_data/fit"] = np.full_like(phase, 0.5)
    group["amplitude/raw"] = np.full_like(phase, 6.0)
    group["amplitude/bg_data/data"] = np.full_like(phase, 2.0)
    group["amplitude/bg_data/fit"] = 1.5


def test_qpimage_takes_off_its_backgrounds_and_converts_metres(tmp_path):
    # qpimage: phase minus the sum of all backgrounds, amplitude over their product.
    phase = RNG.normal(size=(3, 9, 8))
    with h5py.File(tmp_path / "a.h5", "w") as file:
        for i in (10, 2, 0):
            write_qpimage(
                file.create_group(f"qpi_{i}"),
                phase[min(i, 3) % 3 if i < 10 else 1],
                pixel_size=1.39e-7,
                wavelength=6.47e-7,
                medium_index=1.335,
            )
    recording = open_hdf5(tmp_path / "a.h5")
    assert recording.kind == "phase"
    np.testing.assert_allclose(recording.frames[:], 0.75 * phase[[0, 2, 1]] - 0.5)
    np.testing.assert_allclose(recording.amplitude[1:3], 2)
    np.testing.assert_allclose(
        [recording.pixel_size, recording.wavelength, recording.medium_index], [0.139, 647, 1.335]
    )
    with h5py.File(tmp_path / "b.h5", "w") as file:
        write_qpimage(file, phase[0])
    recording = open_hdf5(tmp_path / "b.h5")
    np.testing.assert_allclose(recording.frame(0), 0.75 * phase[0] - 0.5)
    assert recording.pixel_size is None is recording.wavelength


def test_numbers_that_differ_between_frames_are_not_used(tmp_path):
    with h5py.File(tmp_path / "a.h5", "w") as file:
        for i in range(2):
            write_qpimage(file.create_group(f"qpi_{i}"), np.ones((4, 4)), wavelength=(5 + i) * 1e-7)
    recording = open_hdf5(tmp_path / "a.h5")
    assert recording.wavelength is None
    assert "wavelength differs between frames (500 to 600)" in recording.notes[0]


def test_hl60_series_has_the_units_of_its_readme(shared, tmp_path):
    with tarfile.open(shared / "data/phase/hl60_phase_140.tar.lzma", "r:xz") as archive:
        archive.extract("series.h5", tmp_path, filter="data")
    recording = open_hdf5(tmp_path / "series.h5")
    assert (recording.kind, len(recording), recording.shape) == ("phase", 140, (140, 140))
    np.testing.assert_allclose(
        [recording.pixel_size, recording.wavelength, recording.medium_index], [0.139, 647, 1.335]
    )
    peaks = recording.frames[:].max(axis=(1, 2)) * 647 / (2 * np.pi)
    assert 280 < np.median(peaks) < 340
    assert not np.array_equal(recording.frame(2), recording.frame(20))


def test_single_qpimage_sample(shared):
    path = shared / "data/phase/single_qpimage.h5"
    recording = open_hdf5(path)
    with h5py.File(path) as file:
        expected = file["phase/raw"][:] - file["phase/bg_data/fit"][:]
    np.testing.assert_allclose(recording.frame(0), expected)
    # The stored background was fitted to a border of 5 pixels.
    border = np.ones((50, 50), bool)
    border[5:-5, 5:-5] = False
    assert abs(recording.frame(0)[border].mean()) < 1e-6 * np.ptp(expected)


def test_raw_off_axis_sample(shared):
    recording = open_hdf5(shared / "data/phase/series_hdf5_raw-oah.h5")
    assert (recording.kind, len(recording), recording.shape) == ("hologram", 2, (294, 280))
    # qpformat's test: 532 nm.
    np.testing.assert_allclose(
        [recording.pixel_size, recording.wavelength, recording.medium_index],
        [0.08475, 532, 1.333],
        rtol=1e-5,
    )
    assert recording.frame(1).dtype == np.uint8
    with pytest.raises(ImageError, match="holds hologram, not phase"):
        open_hdf5(shared / "data/phase/series_hdf5_raw-oah.h5", kind="phase")


def test_meep_sample_has_a_pixel_size_only_with_a_wavelength(shared):
    path = shared / "data/phase/series_hdf5_meep.h5"
    recording = open_hdf5(path)
    assert (recording.kind, len(recording), recording.shape) == ("field", 18, (47, 47))
    assert (recording.pixel_size, recording.medium_index) == (None, 1.333)
    assert recording.background.shape == (1, 47, 47)
    with h5py.File(path) as file:  # 2 comes before 10
        np.testing.assert_array_equal(recording.frame(2), file["sinogram/2/field"][:])
    # qpformat's test: every 8th of 13 pixels per wavelength.
    recording = open_hdf5(path, wavelength=550)
    assert recording.pixel_size == pytest.approx(0.550 / 13 * 8)


def external_link(file: h5py.File) -> None:
    file["events/qpi_oah"] = h5py.ExternalLink("other.h5", "x")


def soft_link(file: h5py.File) -> None:
    file["x"] = HOLOGRAMS
    file["events/qpi_oah"] = h5py.SoftLink("/x")


def linked_group(file: h5py.File) -> None:
    del file["events"]
    file["events"] = h5py.ExternalLink("other.h5", "events")


def external_storage(file: h5py.File) -> None:
    file.create_dataset(
        "events/qpi_oah", (2, 4, 4), np.uint8, external=[("secret.bin", 0, h5py.h5f.UNLIMITED)]
    )


def virtual(file: h5py.File) -> None:
    layout = h5py.VirtualLayout((2, 4, 4), np.uint8)
    layout[0] = h5py.VirtualSource("other.h5", "x", (4, 4))
    file["events"].create_virtual_dataset("qpi_oah", layout)


def huge(file: h5py.File) -> None:
    frames = file.create_dataset("events/qpi_oah", (1, 10**6, 10**6), np.uint8, chunks=(1, 9, 9))
    frames[0, 0, 0] = 1


def grows(file: h5py.File) -> None:
    frames = file.create_dataset(
        "events/qpi_oah", (1, 30000, 30000), np.uint8, chunks=(1, 100, 100), compression="gzip"
    )
    frames[0, 0, 0] = 1


def never_written(file: h5py.File) -> None:
    file.create_dataset("events/qpi_oah", (9, 100, 100), np.uint8, chunks=(1, 100, 100))


@pytest.mark.parametrize(
    ("add", "message"),
    [
        (external_link, "links to another place"),
        (soft_link, "links to another place"),
        (linked_group, "links to another place"),
        (external_storage, "other files"),
        (virtual, "other files"),
        (huge, "more than is opened"),
        (grows, "would grow"),
        (never_written, "not finished"),
        (lambda f: f.create_dataset("events/qpi_oah", data=["a", "b"]), "not numbers"),
        (
            lambda f: f.create_dataset("events/qpi_oah", (2,), h5py.vlen_dtype(np.uint8)),
            "not numbers",
        ),
        (lambda f: f.create_dataset("events/qpi_oah", data=np.ones((4, 4))), "expected 3 axes"),
        (lambda f: f.create_dataset("events/qpi_oah", (0, 4, 4), np.uint8), "no events"),
        (lambda f: f.create_dataset("events/image", data=HOLOGRAMS), "deform, image"),
    ],
)
def test_untrusted_rtdc_is_refused(tmp_path, add: Callable[[h5py.File], None], message):
    (tmp_path / "secret.bin").write_bytes(bytes(range(32)))
    with h5py.File(tmp_path / "other.h5", "w") as file:
        file["x"] = np.ones((4, 4), np.uint8)
        file["events/qpi_oah"] = HOLOGRAMS
    with h5py.File(tmp_path / "a.rtdc", "w") as file:
        file["events/deform"] = np.ones(2)
        add(file)
    with pytest.raises(ImageError, match=message):
        open_hdf5(tmp_path / "a.rtdc")


def test_other_hdf5_says_what_is_in_it(tmp_path):
    with h5py.File(tmp_path / "a.h5", "w") as file:
        file["volume/data"] = np.ones(3)
        file["\n" * 99] = 1
    with pytest.raises(ImageError, match=r"it has \?+, volume\. Known are \.rtdc"):
        open_hdf5(tmp_path / "a.h5")


def test_frames_of_a_series_must_be_of_one_size(tmp_path):
    with h5py.File(tmp_path / "a.h5", "w") as file:
        write_qpimage(file.create_group("qpi_0"), np.ones((4, 4)))
        write_qpimage(file.create_group("qpi_1"), np.ones((4, 5)))
    with pytest.raises(ImageError, match=r"qpi_1/phase is \(4, 5\), not \(4, 4\)"):
        open_hdf5(tmp_path / "a.h5")


@pytest.mark.parametrize("share", [0.02, 0.3, 0.9])
def test_truncated_files_are_refused(tmp_path, share):
    path = write_rtdc(tmp_path / "a.rtdc")
    content = path.read_bytes()
    path.write_bytes(content[: int(share * len(content))])
    with pytest.raises(ImageError, match=r"incomplete|damaged"):
        open_hdf5(path)


def test_damaged_pixels_are_told_when_they_are_read(tmp_path):
    path = write_rtdc(tmp_path / "a.rtdc", qpi_oah=HOLOGRAMS)
    with h5py.File(path) as file:
        chunk = file["events/qpi_oah"].id.get_chunk_info(1)
    content = bytearray(path.read_bytes())
    content[chunk.byte_offset : chunk.byte_offset + chunk.size] = bytes(chunk.size)
    path.write_bytes(content)
    recording = open_hdf5(path)
    np.testing.assert_array_equal(recording.frame(0), HOLOGRAMS[0])
    with pytest.raises(ImageError, match="damaged"):
        recording.frame(4)


def test_random_damage_gives_an_image_error_or_a_recording(tmp_path):
    content = write_rtdc(tmp_path / "a.rtdc").read_bytes()
    path = tmp_path / "b.rtdc"
    refused = 0
    for _ in range(60):
        damaged = np.frombuffer(content, np.uint8).copy()
        damaged[RNG.integers(8, 2000, 3)] = RNG.integers(0, 256, 3)
        path.write_bytes(damaged.tobytes())
        try:
            open_hdf5(path).frame(0)
        except ImageError:
            refused += 1
    assert refused > 5


def test_zstandard_is_read_with_hdf5plugin(tmp_path):
    hdf5plugin = pytest.importorskip("hdf5plugin")
    with h5py.File(tmp_path / "a.rtdc", "w") as file:
        file.create_dataset("events/qpi_oah", data=HOLOGRAMS, **hdf5plugin.Zstd(clevel=5))
    np.testing.assert_array_equal(open_hdf5(tmp_path / "a.rtdc").frames[:], HOLOGRAMS)


@pytest.mark.parametrize(("index", "size"), [(1, 2**64 - 16), (0, 0), (1, 2**40)])
def test_a_heap_of_texts_that_does_not_end_is_refused(tmp_path, index, size):
    path = write_rtdc(tmp_path / "a.rtdc", {"experiment:sample": "a name"})
    open_hdf5(path)
    data = bytearray(path.read_bytes())
    at = data.find(b"GCOL") + 16
    assert data[at] == 1  # the first object, with its size eight bytes on
    data[at : at + 16] = struct.pack("<HHIQ", index, 1, 0, size)
    path.write_bytes(data)
    with pytest.raises(ImageError, match="heap of its texts does not end"):
        open_hdf5(path)
