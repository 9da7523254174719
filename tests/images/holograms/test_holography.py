"""Reconstruction against simulated truth, an independent method, and real holograms."""

from __future__ import annotations

import dataclasses
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from napari_sparseattn.images.fields.cells import find_cells
from napari_sparseattn.images.fields.field import Field
from napari_sparseattn.images.holograms.files import open_hologram
from napari_sparseattn.images.holograms.holography import (
    HologramError,
    HologramSettings,
    estimate_settings,
    iter_phase,
    reconstruct,
    retrieve,
)
from napari_sparseattn.images.holograms.recording import Recording
from napari_sparseattn.simulate import Optics, cell_opd, hologram, image_field, sphere_opd

SHAPE = (200, 240)
OPTICS = Optics(pixel_size=0.12, tilt=(0.7, -0.4))
SPHERE = sphere_opd(SHAPE, 0.12, 7.2, 0.1)


def rmse(found: np.ndarray | None, truth: np.ndarray) -> float:
    assert found is not None
    return float(np.sqrt(np.mean((found - truth) ** 2)))


def recorded(opd: np.ndarray = SPHERE, background: bool = False, **optics: Any) -> Recording:
    return hologram(opd, dataclasses.replace(OPTICS, **optics), seed=3, background=background)


def demodulated(recording: Recording, carrier: tuple[float, float]) -> np.ndarray:
    """OPD by a method that shares no code: sum over windows in space, Itoh's unwrapping."""
    rows, columns = (np.arange(n) for n in recording.shape)
    image = recording.frame(0).astype(float)
    wave = np.exp(-2j * np.pi * np.add.outer(carrier[0] * rows, carrier[1] * columns))
    # A Hamming-windowed sinc with the radius of our filter as its cutoff.
    reach = np.arange(-30, 31)
    cutoff = np.hypot(*carrier) / 3
    taps = 2 * cutoff * np.sinc(2 * cutoff * reach) * np.hamming(61)
    field = (image - image.mean()) * wave
    for axis in (0, 1):
        field = np.apply_along_axis(np.convolve, axis, field, taps, mode="same")
    phase = np.unwrap(np.unwrap(np.angle(field), axis=0), axis=1)
    inside = np.zeros(phase.shape, bool)
    inside[20:-20, 20:-20] = True
    edge = inside.copy()
    edge[45:-45, 45:-45] = False
    y, x = np.nonzero(edge)
    design = np.stack([np.ones(len(y)), y, x], 1)
    c, b, a = np.linalg.lstsq(design, phase[edge], rcond=None)[0]
    flat = phase - (c + b * rows[:, None] + a * columns)
    return np.where(inside, flat * OPTICS.wavelength / (2 * np.pi), np.nan)


@pytest.mark.parametrize("background", [True, False])
@pytest.mark.parametrize(
    "carrier", [(0.23, 0.23), (-0.23, 0.23), (0.12, -0.29), (0.31, 0.0), (0.0, -0.31)]
)
@pytest.mark.parametrize("name", ["sphere", "red cell"])
def test_cells_of_known_opd_come_back(
    name: str, carrier: tuple[float, float], background: bool
) -> None:
    truth = SPHERE if name == "sphere" else cell_opd("red cell", SHAPE, 0.12, seed=1)
    recording = recorded(truth, background, carrier=carrier)
    found = retrieve(recording, 0, estimate_settings(recording))
    # The sphere's edge is steeper than the aperture passes, and this frame is
    # small, so the edge weighs more than in the benchmark.
    assert rmse(found.opd, truth) < (6.5 if name == "sphere" else 4)
    passed = np.unwrap(np.unwrap(np.angle(image_field(truth, OPTICS)), axis=0), axis=1)
    assert rmse(found.opd, passed * OPTICS.wavelength / (2 * np.pi)) < 4
    assert found.opd is not None
    assert found.opd.max() == pytest.approx(truth.max(), rel=0.04)


def test_an_independent_method_agrees() -> None:
    recording = recorded()
    found = retrieve(recording, 0, estimate_settings(recording)).opd
    other = demodulated(recording, OPTICS.carrier)
    where = np.isfinite(other)
    assert rmse(found[where], other[where]) < 3


def test_the_real_hologram_agrees_with_and_without_its_background(shared: Path) -> None:
    with np.load(shared / "data/phase/hl60_hologram.npz", allow_pickle=False) as arrays:
        data, plain = arrays["data"][None], arrays["bg_data"][None]
    maps = []
    for background in (plain, None):
        recording = Recording(data, "hologram", background=background)
        maps.append(retrieve(recording, 0, estimate_settings(recording)).phase)
    assert maps[0].max() == pytest.approx(maps[1].max(), rel=0.03)
    assert rmse(maps[0], maps[1]) < 0.15
    cells = find_cells(Field(maps[0], "YX"))
    assert len(cells) == 1


def test_the_real_cell_peaks_where_its_authors_say(shared: Path, tmp_path: Path) -> None:
    import tarfile

    with tarfile.open(shared / "data/phase/hl60_phase_140.tar.lzma", "r:xz") as tar:
        tar.extract("series.h5", tmp_path, filter="data")
    recording = open_hologram(tmp_path / "series.h5")
    assert recording.wavelength == pytest.approx(647)
    first = retrieve(recording, 0, estimate_settings(recording))
    assert first.opd is not None
    assert 290 < first.opd.max() < 340


# -- sign


@pytest.mark.parametrize("carrier", [(0.23, 0.2), (-0.23, 0.2), (0.23, -0.2), (-0.23, -0.2)])
def test_cells_are_positive_whatever_the_fringes(carrier: tuple[float, float]) -> None:
    recording = recorded(carrier=carrier)
    settings = estimate_settings(recording)
    found = retrieve(recording, 0, settings).opd
    assert found is not None
    assert found.max() > 600
    assert found.min() > -60
    flipped = retrieve(recording, 0, dataclasses.replace(settings, flip=True)).opd
    assert flipped is not None
    assert np.allclose(flipped, -found, atol=1)


def test_the_sideband_given_also_gives_the_sign() -> None:
    recording = recorded()
    row, column = OPTICS.carrier
    with_sign = [
        retrieve(recording, 0, estimate_settings(recording, HologramSettings(sideband=side))).opd
        for side in ((row, column), (-row, -column))
    ]
    assert with_sign[0] is not None
    assert with_sign[0].max() > 600
    assert np.allclose(with_sign[0], -with_sign[1], atol=1)


def test_settled_settings_stay() -> None:
    settings = estimate_settings(recorded(), HologramSettings(flip=True))
    assert settings.sideband is not None
    assert settings.inverted is False
    assert estimate_settings(recorded(), settings) == settings


@pytest.mark.parametrize("kind", ["phase", "opd", "field"])
def test_recorded_signs_are_put_right(kind: str) -> None:
    phase = SPHERE / OPTICS.wavelength * 2 * np.pi
    frames = {"phase": -phase, "opd": -SPHERE, "field": np.exp(-1j * phase)}[kind]
    recording = Recording(frames[None], kind, wavelength=OPTICS.wavelength)
    assert rmse(reconstruct(recording).data, SPHERE) < 0.5


# -- what is not known


def test_without_a_wavelength_it_is_phase() -> None:
    recording = dataclasses.replace(recorded(), wavelength=None, pixel_size=None)
    field = reconstruct(recording)
    assert (field.modality, field.unit, field.pixel_size) == ("phase", "rad", None)
    known = reconstruct(recording, HologramSettings(wavelength=633.0, pixel_size=0.12))
    assert (known.modality, known.unit, known.pixel_size) == ("opd", "nm", 0.12)
    assert np.allclose(known.data, field.data * 633 / (2 * np.pi), atol=1e-2)


def test_opd_needs_no_wavelength() -> None:
    field = reconstruct(Recording(SPHERE[None], "opd"))
    assert (field.modality, field.unit) == ("opd", "nm")
    assert rmse(field.data, SPHERE) < 0.1


def test_refocusing_says_what_it_needs() -> None:
    recording = dataclasses.replace(recorded(), medium_index=None)
    with pytest.raises(HologramError, match="medium index"):
        reconstruct(recording, HologramSettings(focus=3.0))


# -- focus


@pytest.mark.parametrize("defocus", [6.0, -4.0])
def test_refocusing_undoes_defocus(defocus: float) -> None:
    # White cells: a sphere this steep has no smooth phase out of focus.
    truth = sphere_opd(SHAPE, 0.12, 9.0, 0.02)
    blurred = recorded(truth, background=True, defocus=defocus)
    plain = estimate_settings(blurred)
    before = rmse(retrieve(blurred, 0, plain).opd, truth)
    sharp = retrieve(blurred, 0, dataclasses.replace(plain, focus=-defocus))
    wrong = retrieve(blurred, 0, dataclasses.replace(plain, focus=defocus))
    assert rmse(sharp.opd, truth) < 0.6 * before
    assert rmse(sharp.opd, truth) < 0.5 * rmse(wrong.opd, truth)


def test_autofocus_finds_the_distance() -> None:
    truth = sphere_opd(SHAPE, 0.12, 9.0, 0.02)
    blurred = recorded(truth, background=True, defocus=6.0)
    settings = estimate_settings(blurred, HologramSettings(autofocus=15.0))
    assert settings.focus == pytest.approx(-6.0, abs=1.0)
    assert settings.autofocus is None


# -- bad input


def test_bad_pixels_neither_hang_nor_spread() -> None:
    recording = recorded(background=True)
    frame = recording.frame(0).astype(np.float32)
    frame[5:9, 5:9] = np.nan
    frame[100, 220] = np.inf
    clean = retrieve(recording, 0, estimate_settings(recording)).opd
    bad = dataclasses.replace(recording, frames=frame[None])
    found = retrieve(bad, 0, estimate_settings(bad))
    assert found.n_bad == 17
    assert found.opd is not None
    assert np.isfinite(found.opd).all()
    away = np.ones(SHAPE, bool)
    away[:30, :30] = away[80:120, 200:] = False
    assert np.abs(found.opd - clean)[away].max() < 15


def test_saturation_is_counted() -> None:
    recording = recorded()
    frame = recording.frame(0).copy()
    frame[:3, :4] = 255
    saturated = int(np.count_nonzero(frame == 255))
    bad = dataclasses.replace(recording, frames=frame[None])
    assert retrieve(bad, 0, estimate_settings(bad)).n_bad == saturated >= 12


@pytest.mark.parametrize("kind", ["phase", "opd", "field"])
def test_what_was_not_measured_stays_so(kind: str) -> None:
    phase = (SPHERE / OPTICS.wavelength * 2 * np.pi).astype(np.float32)
    frames = {"phase": phase, "opd": SPHERE.copy(), "field": np.exp(1j * phase)}[kind]
    frames[3:5, 3:6] = np.nan
    found = retrieve(
        recording := Recording(frames[None], kind, wavelength=OPTICS.wavelength),
        0,
        estimate_settings(recording),
    )
    assert found.opd is not None
    lost = np.isnan(found.opd)
    assert np.count_nonzero(lost) == found.n_bad == 6
    assert lost[3:5, 3:6].all()
    assert rmse(found.opd[~lost], SPHERE[~lost]) < 0.5


def test_one_lost_frame_does_not_stop_a_stack() -> None:
    recording = recorded(background=True)
    good = recording.frame(0).astype(np.float32)
    stack = np.stack([good, np.full_like(good, np.nan), np.full_like(good, 7), good])
    frames = list(iter_phase(dataclasses.replace(recording, frames=stack)))
    assert np.isnan(frames[1].opd).all()
    assert np.isfinite(frames[2].phase).all()
    assert np.array_equal(frames[0].opd, frames[3].opd)


def test_an_image_that_is_no_hologram_is_refused() -> None:
    noise = np.random.default_rng(0).normal(100, 10, (1, 100, 100))
    with pytest.raises(HologramError, match="No fringes"):
        reconstruct(Recording(noise, "hologram", wavelength=633.0))


@pytest.mark.skipif(torch.cuda.is_available(), reason="there is a GPU")
def test_a_gpu_that_is_not_there_is_said() -> None:
    with pytest.raises(HologramError, match="no GPU"):
        reconstruct(recorded(), device="gpu")


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="there is no GPU")
def test_a_gpu_gives_the_same_map() -> None:
    recording = recorded(background=True)
    found, expected = (reconstruct(recording, device=name).data for name in ("gpu", "cpu"))
    np.testing.assert_allclose(found, expected, atol=0.05)


# -- stacks


class Counted:
    """Frames that remember which slices were asked for."""

    def __init__(self, stack: np.ndarray) -> None:
        self.stack, self.asked = stack, []

    shape = property(lambda self: self.stack.shape)
    dtype = property(lambda self: self.stack.dtype)

    def __len__(self) -> int:
        return len(self.stack)

    def __getitem__(self, index: slice) -> np.ndarray:
        self.asked.append(index)
        return self.stack[index]


def test_stacks_are_read_as_they_are_used() -> None:
    one = recorded()
    frames = Counted(np.repeat(one.frame(0)[None], 3, axis=0))
    recording = dataclasses.replace(one, frames=frames)
    settings = estimate_settings(recording)
    frames.asked.clear()
    stream = iter_phase(recording, settings, [2, 0])
    assert frames.asked == []
    next(stream)
    assert frames.asked == [slice(2, 3)]


def test_each_frame_may_have_its_background() -> None:
    one, two = recorded(background=True), recorded(background=True, tilt=(3.0, 2.0))
    frames = np.stack([one.frame(0), two.frame(0)])
    plain = np.stack([one.background_of(0), two.background_of(0)])
    field = reconstruct(dataclasses.replace(one, frames=frames, background=plain))
    assert field.axes == "TYX"
    for opd in field.data:
        assert rmse(opd, SPHERE) < 6.5


def test_frames_are_independent_of_their_neighbours() -> None:
    other = recorded(np.roll(SPHERE, 40, axis=1))
    stack = np.concatenate([recorded().frames[:1], other.frames[:1]])
    recording = dataclasses.replace(recorded(), frames=stack)
    settings = estimate_settings(recording)
    both = reconstruct(recording, settings).data
    alone = reconstruct(dataclasses.replace(recording, frames=stack[1:]), settings).data
    assert np.array_equal(both[1], alone)


def test_progress_counts_frames() -> None:
    recording = dataclasses.replace(recorded(), frames=np.repeat(recorded().frames[:1], 3, 0))
    seen: list[tuple[int, int]] = []
    reconstruct(recording, progress=lambda _, done, total: seen.append((done, total)))
    assert seen == [(1, 3), (2, 3), (3, 3)]


def test_wrapped_phase_maps_are_unwrapped() -> None:
    phase = SPHERE / OPTICS.wavelength * 2 * np.pi
    wrapped = np.angle(np.exp(1j * (phase + 2.5)))[None]
    found = reconstruct(Recording(wrapped, "phase", wavelength=OPTICS.wavelength))
    assert rmse(found.data, SPHERE) < 0.5


def test_a_number_that_replaces_the_files_own_is_told_of() -> None:
    recording = Recording(np.ones((1, 32, 32), np.float32), "phase", wavelength=532.0)
    told = estimate_settings(recording, HologramSettings(wavelength=633.0)).notes
    assert told[0].startswith("the wavelength given, 633 nm, replaces 532 nm, which the file says")
    assert "all OPD is 1.19 times" in told[0]
    assert not estimate_settings(recording, HologramSettings(wavelength=532.0)).notes
    assert not estimate_settings(recording).notes
