"""Unwrapping is compared with the phase that was wrapped, and with scikit-image."""

from __future__ import annotations

import numpy as np
import pytest
from skimage.restoration import unwrap_phase

from napari_sparseattn.images.holograms.unwrap import has_jump, unwrap


def hills(shape: tuple[int, int], height: float) -> np.ndarray:
    y, x = np.ogrid[: shape[0], : shape[1]]
    total = np.zeros(shape)
    for cy, cx in ((0.3, 0.3), (0.7, 0.6)):
        distance = (y - cy * shape[0]) ** 2 + (x - cx * shape[1]) ** 2
        total += height * np.exp(-distance / (0.12 * min(shape)) ** 2)
    return total


def wrap(phase: np.ndarray) -> np.ndarray:
    return np.angle(np.exp(1j * phase)).astype(np.float32)


@pytest.mark.parametrize("step", [1, 2, 3])
@pytest.mark.parametrize("shape", [(120, 150), (97, 101)])
def test_hills_come_back(step: int, shape: tuple[int, int]) -> None:
    phase = hills(shape, 14.0)
    assert np.allclose(unwrap(wrap(phase), step), phase, atol=1e-4)


@pytest.mark.parametrize("step", [1, 3])
def test_noise_agrees_with_scikit_image(step: int) -> None:
    noisy = wrap(hills((128, 128), 11.0) + np.random.default_rng(0).normal(0, 0.3, (128, 128)))
    theirs = unwrap_phase(noisy)
    difference = unwrap(noisy, step) - theirs
    assert np.ptp(difference) < 1e-3


def test_a_step_too_coarse_falls_back_to_all_pixels() -> None:
    phase = hills((120, 120), 40.0)
    assert not has_jump(phase.astype(np.float32))
    assert np.allclose(unwrap(wrap(phase), 12), phase, atol=1e-3)


def test_without_a_jump_nothing_changes() -> None:
    phase = hills((64, 64), 2.5).astype(np.float32)
    assert unwrap(phase) is phase


def test_the_result_is_congruent_even_where_it_cannot_be_smooth() -> None:
    vortex = np.angle(np.add.outer(np.arange(-20, 20) + 0.5, 1j * (np.arange(-20, 20) + 0.5)))
    turns = (unwrap(vortex.astype(np.float32), 2) - vortex) / (2 * np.pi)
    assert np.allclose(turns, np.round(turns), atol=1e-5)


def test_a_narrow_frame_is_unwrapped() -> None:
    phase = np.linspace(0, 9, 40)[None].astype(np.float32)
    assert np.allclose(np.diff(unwrap(wrap(phase), 3)), np.diff(phase), atol=1e-5)


def test_counting_turns_along_rows_is_enough_without_noise(monkeypatch: pytest.MonkeyPatch) -> None:
    """And it answers what scikit-image would, which is then not asked."""
    phase = hills((120, 150), 14.0)
    theirs = unwrap_phase(wrap(phase))

    def refuse(wrapped: np.ndarray) -> np.ndarray:
        raise AssertionError("unwrapped anew")

    monkeypatch.setattr("napari_sparseattn.images.holograms.unwrap._unwrap_phase", refuse)
    assert np.ptp(unwrap(wrap(phase)) - theirs) < 1e-4
