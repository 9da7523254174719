from __future__ import annotations

import dataclasses
import json
import math
from pathlib import Path

import pytest

from napari_sparseattn.images.holograms.settings import HologramSettings

FULL = HologramSettings(
    wavelength=633.0,
    pixel_size=0.12,
    medium_index=1.335,
    sideband=(-0.2, 0.1),
    filter_radius=0.4,
    filter_shape="smooth disk",
    inverted=True,
    flip=True,
    profile="curved",
    background="border",
    focus=-3.5,
    autofocus=20.0,
)


@pytest.mark.parametrize("settings", [HologramSettings(), FULL])
def test_settings_survive_a_file(settings: HologramSettings, tmp_path: Path) -> None:
    settings.to_json(tmp_path / "s.json")
    assert HologramSettings.from_json(tmp_path / "s.json") == settings


def test_every_setting_is_tried_above() -> None:
    default = HologramSettings()
    same = [
        f.name
        for f in dataclasses.fields(FULL)
        if f.compare and getattr(FULL, f.name) == getattr(default, f.name)
    ]
    assert same == []


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("wavelength", -1),
        ("wavelength", "633"),
        ("pixel_size", math.inf),
        ("medium_index", True),
        ("focus", math.nan),
        ("autofocus", 0),
        ("filter_radius", 1.5),
        ("filter_shape", "ring"),
        ("profile", "cubic"),
        ("background", "all"),
        ("sideband", (0.7, 0.0)),
        ("sideband", (0.0, 0.0)),
        ("sideband", (0.1,)),
        ("flip", 1),
        ("inverted", "no"),
    ],
)
def test_impossible_values_are_named(name: str, value: object, tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=name):
        HologramSettings(**{name: value})
    path = tmp_path / "s.json"
    HologramSettings().to_json(path)
    content = json.loads(path.read_text()) | {name: value}
    path.write_text(json.dumps(content))
    with pytest.raises(ValueError, match=name):
        HologramSettings.from_json(path)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("{", "not a settings file"),
        ("[]", "not a hologram settings file"),
        ('{"format": "other"}', "not a hologram settings file"),
        ('{"format": "napari-sparseattn hologram settings", "version": 2}', "newer"),
        ('{"format": "napari-sparseattn hologram settings", "version": 1, "x": 1}', "not known: x"),
    ],
)
def test_other_files_are_refused(text: str, message: str, tmp_path: Path) -> None:
    path = tmp_path / "s.json"
    path.write_text(text)
    with pytest.raises(ValueError, match=message):
        HologramSettings.from_json(path)


def test_the_scale_is_the_wavelength_over_a_turn() -> None:
    assert FULL.scale * 2 * math.pi == pytest.approx(633)
    with pytest.raises(ValueError, match="wavelength is not known"):
        _ = HologramSettings().scale


@pytest.mark.parametrize(
    ("name", "value", "meant"),
    [("pixel_size", 120, "0.12 µm"), ("wavelength", 633_000, "633 nm"),
     ("wavelength", 0.633, "633 nm"), ("medium_index", 1333, "1.33")],
)  # fmt: skip
def test_quantities_in_another_unit_are_refused_with_what_was_meant(
    name: str, value: float, meant: str
) -> None:
    with pytest.raises(ValueError, match=rf"not possible.*did you mean {meant}"):
        HologramSettings(**{name: value})
