"""Simulated tissue slides: levels and tiles agree, and only some nuclei tell the kinds apart."""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt
import pytest

from napari_sparseattn.simulate import TissueTruth, simulated_slide
from napari_sparseattn.simulate._tissue_noise import noise_at, noise_grid

SIDE = 4096


def pixels(slide: Any, level: int, y: int, x: int, height: int, width: int) -> npt.NDArray[Any]:
    region = slide.read_region(y, x, level, height, width)
    assert region.valid.all()
    return region.pixels.astype(np.float64)


def reduced(image: npt.NDArray[Any], by: int) -> npt.NDArray[Any]:
    height, width = image.shape[0] // by, image.shape[1] // by
    return image.reshape(height, by, width, by, -1).mean((1, 3))


@pytest.fixture(scope="module")
def tumour() -> tuple[Any, TissueTruth]:
    return simulated_slide(SIDE, SIDE, kind="tumour", seed=5)


@pytest.fixture(scope="module")
def benign() -> tuple[Any, TissueTruth]:
    return simulated_slide(SIDE, SIDE, kind="benign", seed=5)


def middle_of_region(truth: TissueTruth, *, tumour: bool) -> tuple[int, int, float]:
    y, x, radius, _ = next(each for each in truth.regions if each[3] == tumour)
    return int(y), int(x), radius


def test_it_has_the_size_scale_and_levels_asked_for() -> None:
    slide, truth = simulated_slide(3000, 5000, kind="benign", seed=0, pixel_size=0.25)
    assert slide.shape == truth.shape == (3000, 5000)
    assert (slide.pixel_size, truth.pixel_size, slide.channels) == (0.25, 0.25, 3)
    assert [level.downsample for level in slide.levels] == [1, 2, 4, 8, 16, 32]
    assert "simulated" in slide.name


def test_what_is_drawn_depends_on_the_place_alone(tumour: tuple[Any, TissueTruth]) -> None:
    slide, truth = tumour
    y, x, _ = middle_of_region(truth, tumour=True)
    # A second object draws one large tile, in which the first one's tiles must fit.
    again, _ = simulated_slide(SIDE, SIDE, kind="tumour", seed=5)
    for level in (0, 2, 4):
        top, left = y >> level, x >> level
        top, left = min(top, (SIDE >> level) - 200), min(left, (SIDE >> level) - 200)
        whole = again._render(level, top, left, 200, 200)
        lines = [
            np.hstack([slide._render(level, top + i, left + j, 100, 100) for j in (0, 100)])
            for i in (0, 100)
        ]
        seen = np.vstack(lines)
        # Sums of nuclei in another order may round to the next grey level.
        assert np.abs(whole.astype(int) - seen).max() <= 1


def test_seeds_draw_different_slides() -> None:
    one, _ = simulated_slide(1024, 1024, kind="benign", seed=1)
    two, _ = simulated_slide(1024, 1024, kind="benign", seed=2)
    difference = pixels(one, 2, 0, 0, 256, 256) - pixels(two, 2, 0, 0, 256, 256)
    assert np.abs(difference).mean() > 5


@pytest.mark.parametrize("level", [1, 2, 3, 4])
def test_coarse_levels_have_the_colour_of_the_fine_one(
    tumour: tuple[Any, TissueTruth], level: int
) -> None:
    slide, _ = tumour
    y, x, side = 1280, 1024, 1024
    fine = reduced(pixels(slide, 0, y, x, side, side), 2**level)
    coarse = pixels(slide, level, y >> level, x >> level, side >> level, side >> level)
    assert np.abs((coarse - fine).mean((0, 1))).max() < 3
    # Not only in the mean: blocks of 128 µm look alike too.
    blocks = 256 >> level
    assert np.abs(reduced(coarse, blocks) - reduced(fine, blocks)).max() < 14


@pytest.mark.slow
def test_kinds_of_one_seed_differ_in_the_nuclei_of_some_regions_alone(
    tumour: tuple[Any, TissueTruth], benign: tuple[Any, TissueTruth]
) -> None:
    level = 3
    side = SIDE >> level
    difference = np.abs(
        pixels(tumour[0], level, 0, 0, side, side) - pixels(benign[0], level, 0, 0, side, side)
    ).max(2)
    at = (np.arange(side) + 0.5) * 2**level
    inside = tumour[1].is_tumour(at[:, None], at[None])
    assert difference[inside].mean() > 10
    y, x = np.nonzero(difference > 2)
    near = np.zeros(len(y), bool)
    for middle_y, middle_x, radius, is_tumour in tumour[1].regions:
        distance = np.hypot((y + 0.5) * 8 - middle_y, (x + 0.5) * 8 - middle_x)
        near |= is_tumour & (distance < 2 * radius + 100)
    assert near.all()


def test_a_thumbnail_does_not_tell_the_kinds_apart(
    tumour: tuple[Any, TissueTruth], benign: tuple[Any, TissueTruth]
) -> None:
    level = 4
    side = SIDE >> level
    thumbnails = [pixels(slide, level, 0, 0, side, side) for slide, _ in (tumour, benign)]
    assert np.abs(thumbnails[0] - thumbnails[1]).max() <= 2


@pytest.mark.slow
def test_tumour_and_infiltrate_absorb_alike_in_the_mean() -> None:
    differences = []
    for seed in range(8):
        slide, truth = simulated_slide(SIDE, SIDE, kind="tumour", seed=seed)
        other, _ = simulated_slide(SIDE, SIDE, kind="benign", seed=seed)
        y, x, radius = middle_of_region(truth, tumour=True)
        half = int(radius * 0.5) // 4
        where = (2, y // 4 - half, x // 4 - half, 2 * half, 2 * half)
        differences.append((pixels(slide, *where) - pixels(other, *where)).mean((0, 1)))
    assert np.abs(np.mean(differences, axis=0)).max() < 3


def test_nuclei_of_tumour_are_larger(
    tumour: tuple[Any, TissueTruth], benign: tuple[Any, TissueTruth]
) -> None:
    """An independent count: dark bodies found by a threshold in the red channel."""
    from skimage.measure import label, regionprops

    y, x, _ = middle_of_region(tumour[1], tumour=True)
    sizes = []
    for slide in (tumour[0], benign[0]):
        red = pixels(slide, 0, y - 128, x - 128, 256, 256)[..., 0]
        found = regionprops(label(red < 130))
        sizes.append(np.median([body.area for body in found if body.area > 30]))
    assert sizes[0] > 1.7 * sizes[1]


@pytest.mark.slow
def test_truth_agrees_with_the_pixels(tumour: tuple[Any, TissueTruth]) -> None:
    slide, truth = tumour
    level = 3
    side = SIDE >> level
    at = (np.arange(side) + 0.5) * 2**level
    tissue = truth.tissue(at[:, None], at[None])
    image = pixels(slide, level, 0, 0, side, side)
    glass = image[:4, :4].mean((0, 1))
    coloured = np.abs(image - glass).max(2) > 25
    # Lumina and fat are tissue, but glass shows through.
    assert not (coloured & ~tissue).sum() > 0.005 * side**2
    assert coloured[tissue].mean() > 0.6
    inside = truth.is_tumour(at[:, None], at[None])
    assert inside.sum() / tissue.sum() == pytest.approx(truth.tumour_fraction, abs=0.01)
    assert not (inside & ~tissue).any()
    y, x, _ = middle_of_region(truth, tumour=True)
    assert truth.is_tumour(y, x)
    assert not truth.is_tumour(1, 1)


def test_benign_slides_have_the_same_tissue_and_no_tumour(
    tumour: tuple[Any, TissueTruth], benign: tuple[Any, TissueTruth]
) -> None:
    at = np.linspace(0, SIDE, 200)
    both = [truth.tissue(at[:, None], at[None]) for _, truth in (tumour, benign)]
    np.testing.assert_array_equal(*both)
    assert benign[1].tumour_fraction == 0
    assert 0.005 < tumour[1].tumour_fraction < 0.25
    assert [region[:3] for region in benign[1].regions] == [r[:3] for r in tumour[1].regions]


def test_every_tumour_slide_has_tumour_and_a_decoy() -> None:
    for seed in range(100):
        _, truth = simulated_slide(SIDE, 2 * SIDE, kind="tumour", seed=seed)
        kinds = [region[3] for region in truth.regions]
        assert any(kinds)
        assert not all(kinds)


def test_a_very_large_slide_is_drawn_where_it_is_read() -> None:
    slide, truth = simulated_slide(100_000, 100_000, kind="tumour", seed=2)
    y, x, _ = middle_of_region(truth, tumour=True)
    tile = pixels(slide, 0, y, x, 128, 128)
    assert tile[..., 0].std() > 15
    assert slide.ledger.snapshot().bytes_decoded <= 4 * 3 * 256**2
    thumbnail = pixels(slide, 9, 0, 0, 190, 190)
    at = (np.arange(190) + 0.5) * 512
    tissue = truth.tissue(at[:, None], at[None])
    assert np.ptp(thumbnail[~tissue].mean(1)) < 60
    assert thumbnail[tissue, 1].mean() < thumbnail[~tissue, 1].mean() - 40


def test_glass_alone_is_plain(benign: tuple[Any, TissueTruth]) -> None:
    corner = pixels(benign[0], 0, 0, 0, 64, 64)
    assert corner.min() > 220
    assert corner.std(axis=(0, 1)).max() < 4


def test_noise_is_the_same_on_a_grid_and_at_places() -> None:
    y, x = np.linspace(-300, 500, 40), np.linspace(1000, 1400, 50)
    grid = noise_grid(7, 3, 60.0, y, x)
    rows, columns = np.meshgrid(y, x, indexing="ij")
    np.testing.assert_allclose(noise_at(7, 3, 60.0, rows, columns), grid, atol=1e-5)
    wide = noise_grid(7, 3, 1.0, np.arange(500) * 1.37, np.arange(500) * 1.37)
    assert abs(wide.mean()) < 0.02
    assert wide.std() == pytest.approx(1, abs=0.05)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"kind": "other"}, "benign"),
        ({"pixel_size": 0.0}, "pixel_size"),
        ({"pixel_size": float("nan")}, "pixel_size"),
        ({"height": 100}, "256 to"),
        ({"width": 10**6}, "256 to"),
        ({"seed": -1}, "seed"),
    ],
)
def test_what_cannot_be_drawn_is_refused(changes: dict[str, Any], message: str) -> None:
    asked = {"height": 512, "width": 512, "kind": "benign", "seed": 0} | changes
    height, width = asked.pop("height"), asked.pop("width")
    with pytest.raises(ValueError, match=message):
        simulated_slide(height, width, **asked)
