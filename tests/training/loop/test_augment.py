"""Random changes stay in range, come from the seed, and can be turned off."""

from __future__ import annotations

import dataclasses

import numpy as np
import pytest
import torch
from scipy.ndimage import gaussian_filter

from napari_sparseattn.training.loop.augment import Augmentation, _blur

OFF = Augmentation(
    rotate=False,
    scale=0,
    shift=0,
    stretch=0,
    stain=0,
    counterstain=0,
    response=0,
    depth=0,
    tint=0,
    haze=0,
    white=0,
    gamma=0,
    blur=0,
    noise=0,
    jpeg=0,
)


def crops(channels: int = 3) -> torch.Tensor:
    return torch.rand(4, channels, 32, 32, generator=torch.Generator().manual_seed(0))


@pytest.mark.parametrize("channels", [1, 3])
def test_output_is_in_range_of_the_asked_size_and_seeded(channels: int) -> None:
    first, again, other = (
        Augmentation()(crops(channels), 16, torch.Generator().manual_seed(seed))
        for seed in (1, 1, 2)
    )
    assert first.shape == (4, channels, 16, 16)
    assert 0 <= first.min() <= first.max() <= 1
    assert torch.equal(first, again)
    assert not torch.equal(first, other)


def test_everything_off_only_averages_down() -> None:
    # In colour the ground is always made white first.
    got = OFF(crops(1), 16, torch.Generator().manual_seed(0))
    expected = crops(1).reshape(4, 1, 16, 2, 16, 2).mean((3, 5))
    torch.testing.assert_close(got, expected, atol=1e-5, rtol=0)


def test_the_batch_passed_in_is_left_alone() -> None:
    mine = crops()
    Augmentation(jpeg=1)(mine, 32, torch.Generator().manual_seed(0))
    assert torch.equal(mine, crops())


def test_blur_is_a_gaussian() -> None:
    got = _blur(crops(1), torch.full((4,), 0.8))[0, 0].numpy()
    expected = gaussian_filter(
        crops(1)[0, 0].numpy().astype(np.float64), 0.8, mode="mirror", truncate=3.75
    )
    np.testing.assert_allclose(got, expected, atol=2e-4)


def test_scale_magnifies_within_its_range() -> None:
    """The area of a disk tells the magnification of each crop."""
    axis = torch.arange(64) - 31.5
    disk = ((axis[:, None] ** 2 + axis[None] ** 2) < 12**2).float().expand(60, 1, 64, 64)
    only_scale = dataclasses.replace(OFF, rotate=True, scale=0.5)
    area = only_scale(disk, 64, torch.Generator().manual_seed(0)).sum((1, 2, 3)) / disk[0].sum()
    assert 1 / 1.5**2 * 0.98 < area.min() < 0.7
    assert 1.5 < area.max() < 1.5**2 * 1.02


def test_values_with_a_unit_are_neither_clipped_nor_changed_in_contrast() -> None:
    """Of nm, all that changes is where the pixels lie, and the noise asked for."""
    opd = 300 * crops(1) - 50
    still = dataclasses.replace(OFF, physical=True)
    for changes in ({}, {"gamma": 0.5}):
        got = dataclasses.replace(still, **changes)(opd, 32, torch.Generator().manual_seed(0))
        torch.testing.assert_close(got, opd, atol=2e-3, rtol=0)
    plain = dataclasses.replace(OFF, rotate=True, physical=True)
    turned = plain(opd, 32, torch.Generator().manual_seed(0))
    assert turned.max() > 100
    assert turned.min() < -10
    noisy = dataclasses.replace(still, noise=8.0)
    spread = [
        float((noisy(opd, 32, torch.Generator().manual_seed(seed)) - opd).std())
        for seed in range(9)
    ]
    assert 1 < max(spread) < 8
