"""Simulated holograms have the fringes, the aperture and the noise that were asked for."""

from __future__ import annotations

import dataclasses
import math

import numpy as np
import pytest

from napari_sparseattn.simulate import (
    Optics,
    hologram,
    hologram_with_truth,
    image_field,
    propagate,
    sphere_opd,
)

QUIET = Optics(electrons=math.inf, bits=16)


def sphere() -> np.ndarray:
    return sphere_opd((128, 128), QUIET.pixel_size, 6.0, 0.03)


@pytest.mark.parametrize("carrier", [(0.25, 0.0), (0.0, -0.25), (0.1875, 0.25), (-0.25, 0.125)])
def test_fringes_have_the_frequency_asked_for(carrier: tuple[float, float]) -> None:
    flat = hologram(np.zeros((64, 96)), dataclasses.replace(QUIET, carrier=carrier)).frame(0)
    spectrum = np.abs(np.fft.fft2(flat - flat.mean(dtype=float)))
    row, column = np.unravel_index(spectrum.argmax(), spectrum.shape)
    got = np.fft.fftfreq(64)[row], np.fft.fftfreq(96)[column]
    assert got in (carrier, (-carrier[0], -carrier[1])) or np.allclose(np.abs(got), np.abs(carrier))
    assert math.isclose(got[0] * carrier[1], got[1] * carrier[0], abs_tol=1e-12)


def test_visibility_is_that_of_the_fringes() -> None:
    optics = dataclasses.replace(QUIET, visibility=0.6, carrier=(0.25, 0.0))
    flat = hologram(np.zeros((64, 64)), optics).frame(0).astype(float)
    # Quarter-period samples of a cosine meet its extremes.
    assert (flat.max() - flat.min()) / (flat.max() + flat.min()) == pytest.approx(0.6, abs=1e-3)


def test_sideband_at_the_carrier_has_the_cells_sign() -> None:
    """Demodulated by hand: multiply, average over whole periods, take the angle."""
    opd = np.full((64, 64), 50.0)
    optics = dataclasses.replace(QUIET, carrier=(0.25, 0.125))
    y, x = np.mgrid[:64, :64]
    wave = np.exp(-2j * np.pi * (0.25 * y + 0.125 * x))
    phases = [
        np.angle(np.mean(hologram(o, optics).frame(0) * wave)) for o in (np.zeros_like(opd), opd)
    ]
    assert phases[1] - phases[0] == pytest.approx(2 * np.pi * 50 / optics.wavelength, abs=1e-3)


def test_aperture_lets_nothing_else_pass() -> None:
    field = image_field(sphere(), QUIET)
    power = np.abs(np.fft.fft2(field)) ** 2
    frequency = np.hypot(*np.meshgrid(np.fft.fftfreq(128), np.fft.fftfreq(128), indexing="ij"))
    outside = frequency > QUIET.cutoff + 1e-9
    assert QUIET.cutoff == pytest.approx(0.55 / 0.633 * 0.12)
    assert power[outside].sum() < 1e-20 * power.sum()
    assert power[~outside].sum() > 0


def test_focus_there_and_back_is_the_same_field() -> None:
    field = image_field(sphere(), QUIET)
    away = propagate(field, 5.0, QUIET)
    assert np.abs(away - field).max() > 0.05
    np.testing.assert_allclose(propagate(away, -5.0, QUIET), field, atol=1e-12)
    defocused = image_field(sphere(), dataclasses.replace(QUIET, defocus=5.0))
    np.testing.assert_allclose(defocused, away, atol=1e-12)


def test_a_tilted_plane_wave_turns_by_its_axial_phase() -> None:
    """Propagation multiplies exp(2 pi i f y) by exp(2 pi i z (sqrt(m² - f²) - m))."""
    frequency = 4 / (128 * QUIET.pixel_size)
    wave = np.exp(2j * np.pi * 4 * np.arange(128) / 128)[:, None] * np.ones(128)
    limit = QUIET.medium_index / 0.633
    expected = np.exp(2j * np.pi * 3.0 * (np.sqrt(limit**2 - frequency**2) - limit))
    np.testing.assert_allclose(propagate(wave, 3.0, QUIET), expected * wave, atol=1e-10)


def test_shot_noise_has_poissons_variance() -> None:
    optics = dataclasses.replace(QUIET, electrons=400.0, bits=16)
    clean = hologram(np.zeros((256, 256)), QUIET).frame(0).astype(float)
    noisy = hologram(np.zeros((256, 256)), optics, 1).frame(0).astype(float)
    per_electron = clean.mean() / 400
    assert np.var(noisy - clean) == pytest.approx(per_electron * clean.mean(), rel=0.02)


def test_speckle_has_the_size_and_strength_asked_for() -> None:
    optics = dataclasses.replace(QUIET, speckle=0.1, speckle_length=2.0)
    field = image_field(np.zeros((256, 256)), QUIET)
    np.testing.assert_allclose(field, 1, atol=1e-12)
    from napari_sparseattn.simulate.holograms import _speckle

    speckle = _speckle((512, 512), optics, np.random.default_rng(0))
    phase = np.angle(speckle)
    assert phase.std() == pytest.approx(0.1, rel=0.02)
    assert np.abs(speckle).std() == pytest.approx(0.1, rel=0.05)
    lag = round(2.0 / optics.pixel_size)
    correlation = np.mean(phase * np.roll(phase, lag, 0)) / np.mean(phase**2)
    assert correlation == pytest.approx(np.exp(-1), abs=0.08)


def test_absorption_dims_the_cell() -> None:
    optics = dataclasses.replace(QUIET, absorption=1.0, na=1.3)
    field = image_field(np.full((16, 16), 300.0), optics)
    np.testing.assert_allclose(np.abs(field) ** 2, np.exp(-0.3), rtol=1e-6)


def test_stack_and_background() -> None:
    stack = np.stack([np.zeros((32, 40)), np.full((32, 40), 80.0)])
    recording = hologram(stack, Optics(speckle=0.05), 4, background=True)
    assert (recording.kind, len(recording), recording.shape) == ("hologram", 2, (32, 40))
    assert recording.frames.dtype == np.uint8
    assert recording.background_of(1) is not None
    assert (recording.wavelength, recording.pixel_size) == (633.0, 0.12)
    assert "simulated" in recording.name
    assert "simulated" in recording.notes
    # The same speckle, other electrons.
    first, empty = recording.frame(0).astype(float), recording.background_of(0).astype(float)
    assert np.corrcoef(first.ravel(), empty.ravel())[0, 1] > 0.99
    assert not np.array_equal(first, empty)


def test_same_seed_same_pixels() -> None:
    one, two, other = (
        hologram_with_truth((128, 128), seed, Optics(speckle=0.05), n_cells=1, background=True)
        for seed in (5, 5, 6)
    )
    np.testing.assert_array_equal(one[0].frame(0), two[0].frame(0))
    np.testing.assert_array_equal(one[0].background_of(0), two[0].background_of(0))
    np.testing.assert_array_equal(one[1].data, two[1].data)
    assert one[3] == two[3]
    assert not np.array_equal(one[0].frame(0), other[0].frame(0))


@pytest.mark.parametrize(
    ("wrong", "match"),
    [
        ({"wavelength": 0.0}, "wavelength must be positive"),
        ({"electrons": math.nan}, "electrons must be positive"),
        ({"visibility": 1.5}, "visibility"),
        ({"na": 1.4}, "below the medium"),
        ({"bits": 12}, "8 or 16"),
        ({"carrier": (0.0, 0.0)}, "carrier"),
        ({"carrier": (0.6, 0.0)}, "carrier"),
        ({"speckle": -0.1}, "speckle"),
    ],
)
def test_impossible_microscopes_are_refused(wrong: dict[str, object], match: str) -> None:
    with pytest.raises(ValueError, match=match):
        Optics(**wrong)


def test_only_images_and_stacks_are_recorded() -> None:
    with pytest.raises(ValueError, match="image"):
        hologram(np.zeros(5))
