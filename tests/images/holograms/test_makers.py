"""Signs and backgrounds of recordings: odd frames, ghosts, NaN, and which file is at fault."""

from __future__ import annotations

import dataclasses

import numpy as np
import pytest
import scipy.ndimage as ndi

from napari_sparseattn.images.fields.cells import cells_from_labels, find_cells
from napari_sparseattn.images.fields.field import Field
from napari_sparseattn.images.holograms.holography import (
    HologramError,
    HologramSettings,
    estimate_settings,
    find_sideband,
    reconstruct,
)
from napari_sparseattn.images.holograms.measure import measure_opd
from napari_sparseattn.images.holograms.recording import Recording
from napari_sparseattn.simulate import Optics, hologram, sphere_opd

OPTICS = Optics(pixel_size=0.12)
SHAPE = (200, 240)
CELL = sphere_opd(SHAPE, 0.12, 7.2, 0.06)


def mass(field: Field) -> float:
    (found,) = measure_opd(field, find_cells(field))["dry_mass_pg"]
    return float(found)


def shot(opd: np.ndarray, seed: int = 1) -> np.ndarray:
    return hologram(opd, OPTICS, seed=seed).frame(0)


def recording(frames: list[np.ndarray], background: list[np.ndarray] | None = None) -> Recording:
    made = hologram(CELL, OPTICS, seed=1)
    return dataclasses.replace(
        made,
        frames=np.stack(frames),
        background=None if background is None else np.stack(background),
    )


def test_a_cell_in_the_background_turns_no_sign_and_is_told() -> None:
    beside = np.roll(sphere_opd(SHAPE, 0.12, 9.0, 0.07), 70, axis=1)
    plain = recording([shot(CELL)], [shot(np.zeros(SHAPE), 2)])
    ghost = recording([shot(CELL)], [shot(beside, 2)])
    assert estimate_settings(plain).notes == ()
    settings = estimate_settings(ghost)
    assert "may hold a cell" in settings.notes[0]
    assert settings.sideband == pytest.approx(estimate_settings(plain).sideband, abs=1e-3)
    field = reconstruct(ghost)
    assert set(settings.notes) <= set(field.notes)
    assert mass(field) == pytest.approx(mass(reconstruct(plain)), rel=0.05)


def test_the_mass_of_a_found_cell_lacks_its_faint_rim_and_no_more() -> None:
    """A cell is what rises above half of Otsu's threshold: a few in a hundred lie around it."""
    field = reconstruct(recording([shot(CELL)], [shot(np.zeros(SHAPE), 2)]))
    drawn = 1e-3 * float(CELL.sum()) * 0.12**2 / 0.19
    cells = find_cells(field)
    assert 0.96 * drawn < mass(field) < drawn
    wider = ndi.binary_dilation(cells.labels > 0, iterations=2)
    around = cells_from_labels(wider.astype(np.int32), field.pixel_size)
    assert measure_opd(field, around)["dry_mass_pg"][0] == pytest.approx(drawn, rel=0.01)


def test_mass_goes_with_the_wavelength_and_the_area_of_a_pixel() -> None:
    """The same hologram at another scale has another mass: 61 and 101 pg are one cell's."""
    made = recording([shot(CELL)], [shot(np.zeros(SHAPE), 2)])
    other = dataclasses.replace(made, wavelength=made.wavelength * 1.15, pixel_size=0.12 * 1.2)
    factor = mass(reconstruct(other)) / mass(reconstruct(made))
    assert factor == pytest.approx(1.15 * 1.2**2, rel=0.02)


def test_one_odd_frame_does_not_turn_the_others() -> None:
    """The first frame's background holds a cell larger than that of the frame."""
    larger = np.roll(sphere_opd(SHAPE, 0.12, 9.5, 0.08), 70, axis=1)
    flat = [shot(np.zeros(SHAPE), n) for n in range(6)]
    odd = recording([shot(CELL, n) for n in range(6)], [shot(larger, 9), *flat[1:]])
    even = recording([shot(CELL, n) for n in range(6)], flat)
    assert estimate_settings(odd).sideband == pytest.approx(
        estimate_settings(even).sideband, abs=1e-3
    )
    field = reconstruct(odd)
    for t in range(1, 6):
        one = dataclasses.replace(field, data=field.data[t], axes="YX")
        assert mass(one) > 0


def test_frames_that_disagree_are_told() -> None:
    # Phase whose first frames are empty but for an artefact that is dark.
    dark = -np.roll(CELL, 60, axis=1) / 100
    frames = np.stack([dark, *[CELL / 100] * 4]).astype(np.float32)
    settings = estimate_settings(Recording(frames, "phase"))
    assert settings.inverted is False
    assert "1 of 5 frames that were looked at have the other sign" in settings.notes[0]


def test_a_background_without_fringes_is_named() -> None:
    dark = recording([shot(CELL)], [np.full(SHAPE, 3, np.uint8)])
    with pytest.raises(HologramError, match="stand out in the background hologram, though"):
        estimate_settings(dark)
    none = recording([np.full(SHAPE, 3, np.uint8)], [np.full(SHAPE, 3, np.uint8)])
    with pytest.raises(HologramError, match="No fringes stand out, so"):
        estimate_settings(none)


@pytest.mark.parametrize("sign", [1, -1])
def test_nan_outside_of_a_cell_is_background(sign: int) -> None:
    phase = (sign * CELL / 633 * 2 * np.pi).astype(np.float32)
    known = {"pixel_size": 0.12, "wavelength": 633.0}
    whole = reconstruct(Recording(phase[None], "phase", **known))
    masked = np.where(CELL > 5, phase, np.nan).astype(np.float32)
    assert np.isnan(masked).mean() > 0.5
    field = reconstruct(Recording(masked[None], "phase", **known))
    assert mass(field) == pytest.approx(mass(whole), rel=0.03)
    assert mass(whole) > 0


def test_in_an_opd_map_only_what_rises_is_a_cell() -> None:
    both = (CELL - 2 * np.roll(CELL, 100, axis=1)).astype(np.float32)
    field = Field(both, "YX", 0.12, "opd", "nm")
    assert mass(field) > 0
    none = Field((-CELL).astype(np.float32), "YX", 0.12, "opd", "nm")
    assert len(find_cells(none)) == 0
    # Where nobody knows the sign, what stands out more is one.
    assert len(find_cells(dataclasses.replace(none, modality="unknown", unit=""))) == 1


def test_notes_are_not_kept_with_the_settings(tmp_path) -> None:
    settings = HologramSettings(wavelength=633.0, notes=("odd",))
    settings.to_json(tmp_path / "a.json")
    found = HologramSettings.from_json(tmp_path / "a.json")
    assert found == settings
    assert found.notes == ()


@pytest.mark.parametrize("name", ["camera", "coins", "moon", "brick", "page", "clock", "text"])
def test_photographs_are_no_holograms(name: str) -> None:
    """Their strongest frequency is no stronger than others as far from zero."""
    import skimage.data

    try:
        photograph = getattr(skimage.data, name)()
    except (ImportError, OSError):
        pytest.skip("this photograph is fetched when it is first used")
    with pytest.raises(HologramError, match="does not look like an off-axis hologram"):
        find_sideband(photograph)
