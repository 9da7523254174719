"""Changes that cover laboratories: what they may do to a crop, and what not."""

from __future__ import annotations

import dataclasses

import numpy as np
import pytest
import torch

from napari_sparseattn.training.loop.laboratories import LaboratoryChanges, stored

#: Nothing but what a test asks for.
STILL = LaboratoryChanges(
    swap=0,
    shift=0,
    scale=(1, 1),
    stretch=0,
    strength=0,
    white=0,
    blur=0,
    sharpen=0,
    noise=0,
    jpeg=0,
)


def cells(batch: int = 6, side: int = 48) -> torch.Tensor:
    """A dark disc in the middle of a light ground (220), of a colour of its own per crop."""
    line = torch.arange(side) + 0.5 - side / 2
    disc = torch.hypot(line[:, None], line) < side / 8
    crops = torch.full((batch, 3, side, side), 220, dtype=torch.uint8)
    for i, crop in enumerate(crops):
        crop[:, disc] = torch.tensor([60 + 10 * (i % 8), 40, 140], dtype=torch.uint8)[:, None]
    return crops


def drawn(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def middle_of(crops: torch.Tensor) -> torch.Tensor:
    """Where the dark is, (B, 2), in pixels from the middle."""
    dark = (1 - crops).clamp_min(0).mean(1)
    dark = dark * (dark > 0.3)
    line = torch.arange(crops.shape[-1]) + 0.5 - crops.shape[-1] / 2
    total = dark.sum((1, 2))
    row, column = ((dark * way).sum((1, 2)) / total for way in (line[:, None], line))
    return torch.stack([row, column], 1)


def test_everything_turned_off_leaves_the_crop_but_for_its_turn() -> None:
    crops = cells()
    changed, foreign = STILL(crops, 32, drawn())
    assert foreign is None
    assert changed.shape == (6, 3, 32, 32)
    assert changed.dtype == torch.float32
    plain = stored(crops.permute(0, 2, 3, 1).numpy(), 32).float() / 255
    assert plain.shape == (6, 3, 48, 48)
    for value in (changed[:, :, 16, 16], changed[:, :, 0, 16]):
        assert float(value.min()) > 0.1
    torch.testing.assert_close(
        changed[:, :, 16, 16], crops[:, :, 24, 24].float() / 220, atol=0.02, rtol=0
    )
    torch.testing.assert_close(
        changed[:, :, 2, 2], crops[:, :, 2, 2].float() / 220, atol=0.02, rtol=0
    )


def test_the_same_generator_gives_the_same_changes() -> None:
    first, again, other = (LaboratoryChanges()(cells(), 32, drawn(s))[0] for s in (1, 1, 2))
    assert torch.equal(first, again)
    assert not torch.equal(first, other)


def test_values_stay_within_0_and_1_and_are_numbers() -> None:
    noise = torch.randint(0, 256, (32, 3, 48, 48), generator=drawn(), dtype=torch.uint8)
    for crops in (noise, torch.zeros_like(noise), torch.full_like(noise, 255)):
        for seed in range(3):
            changed, foreign = LaboratoryChanges()(crops, 32, drawn(seed))
            assert bool(changed.isfinite().all())
            assert float(changed.min()) >= 0
            assert float(changed.max()) <= 1
            assert foreign is not None
            assert float(foreign.min()) >= 0
            assert float(foreign.max()) <= 1


def test_cells_leave_the_middle_as_far_as_is_said_and_no_farther() -> None:
    changes = LaboratoryChanges(**{**vars(STILL), "shift": 0.4, "centred": 0.0})
    away = middle_of(changes(cells(200), 32, drawn())[0]).norm(dim=1) / 16
    assert 0.35 < float(away.max()) < 0.43
    assert float(away.median()) > 0.2
    centred = LaboratoryChanges(**{**vars(STILL), "shift": 0.4, "centred": 1.0})
    assert float(middle_of(centred(cells(200), 32, drawn())[0]).norm(dim=1).max()) / 16 < 0.06


def test_a_cell_that_is_made_small_is_not_shown_twice() -> None:
    changes = LaboratoryChanges(**{**vars(STILL), "shift": 0.44, "scale": (0.7, 0.7)})
    plain = STILL(cells(100), 32, drawn())[0]
    small = changes(cells(100), 32, drawn())[0]
    # The corners of a turned crop lie farther out.
    line = torch.arange(32) + 0.5 - 16
    within = torch.hypot(line[:, None], line) < 16
    shown = [((crops.mean(1) < 0.5) & within).sum((1, 2)) for crops in (small, plain)]
    assert float((shown[0] / shown[1]).max()) < 0.49 * 1.4


def test_surroundings_are_exchanged_around_the_cell_and_told() -> None:
    crops = cells(8)
    # Each crop's ground has a mark of its own at the middle of its side.
    for i, crop in enumerate(crops):
        crop[:, 22:26, 0:4] = 20 * i
    changes = LaboratoryChanges(**{**vars(STILL), "swap": 1.0})
    changed, foreign = changes(crops, 32, drawn())
    assert foreign is not None
    assert float(foreign[:, 13:19, 13:19].max()) < 0.05
    # In the corners, what the turned crop does not reach is mirrored.
    assert float(foreign[:, 2, 8:24].min()) > 0.9
    # The cell is the crop's own.
    torch.testing.assert_close(
        changed[:, :, 16, 16], crops[:, :, 24, 24].float() / 220, atol=0.02, rtol=0
    )
    half = LaboratoryChanges(**{**vars(STILL), "swap": 0.5})(cells(400), 32, drawn())[1]
    assert half is not None
    assert 0.4 < float((half.amax((1, 2)) > 0.5).float().mean()) < 0.6


def test_colours_change_with_the_strength_alone() -> None:
    strong = LaboratoryChanges(**{**vars(STILL), "strength": 1.0})
    still, changed = (c(cells(64), 32, drawn())[0][:, :, 16, 16] for c in (STILL, strong))
    assert float((changed - still).abs().mean()) > 0.03
    assert float(changed.std(0).mean()) > 2 * float(still.std(0).mean())


def test_blur_and_sharpening_reach_some_crops_and_not_all() -> None:
    rough = torch.randint(0, 256, (200, 3, 48, 48), generator=drawn(), dtype=torch.uint8)
    changes = LaboratoryChanges(**{**vars(STILL), "blur": 1.3, "sharpen": 1.0})
    ratio = changes(rough, 32, drawn())[0].std((1, 2, 3)) / STILL(rough, 32, drawn())[0].std(
        (1, 2, 3)
    )
    assert 0.15 < float((ratio > 1.02).float().mean()) < 0.35
    assert 0.35 < float((ratio < 0.95).float().mean()) < 0.65


@pytest.mark.parametrize("by", [0.0, 0.5, 1.0])
def test_weakened_changes_grow_to_the_full_ones(by: float) -> None:
    full = LaboratoryChanges()
    weak = full.weakened(by)
    assert (weak == full) == (by == 1.0)
    assert weak.noise == by * full.noise
    assert weak.shift <= full.shift
    assert weak.scale[0] >= full.scale[0]
    assert weak.scale[1] <= full.scale[1]


def test_values_with_a_unit_keep_it() -> None:
    crops = np.zeros((6, 96, 96, 1), np.float16)
    crops[:, 30:66, 30:66] = 400  # nm
    kept = stored(crops, 64)
    assert kept.dtype == torch.float16
    changes = dataclasses.replace(STILL, physical=True)
    out, _ = changes(kept, 64, drawn())
    assert float(out.amax()) == pytest.approx(400, rel=1e-3)
    assert float(out.amin()) == pytest.approx(0, abs=1e-3)
    out, foreign = dataclasses.replace(changes, swap=1.0)(kept, 64, drawn())
    assert foreign is not None
    assert float(out.amax()) <= 401


def test_red_cells_may_be_denser_beside_nuclei() -> None:
    crops = cells(64)
    crops[:, :, 36:, 36:] = torch.tensor([200, 150, 175], dtype=torch.uint8)[:, None, None]

    def densest_corner(counterstain: float) -> float:
        changes = dataclasses.replace(
            STILL, strength=1.0, counterstain=counterstain, amount=0, stain=0, saturation=0,
            response=0, tint=0, haze=0,
        )  # fmt: skip
        out, _ = changes(crops, 32, drawn(1))
        corners = out.unfold(2, 8, 24).unfold(3, 8, 24)[:, 1].flatten(1)
        return float(-corners.amin(1).clamp_min(1e-3).log().min())

    assert densest_corner(1.0) > 1.3 * densest_corner(0.0)
