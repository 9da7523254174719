"""Samples: what they claim, and what is said when they cannot be had."""

from __future__ import annotations

import zipfile
from pathlib import Path

import pytest

from napari_sparseattn.plugin import samples
from napari_sparseattn.plugin.core.sources import METADATA_KEY


def test_the_phase_cell_is_scikit_images_and_claims_no_unit() -> None:
    ((data, attributes, kind),) = samples.phase_cell()
    assert data.shape == (660, 550)
    assert kind == "image"
    assert attributes["scale"] == (0.107, 0.107)
    assert attributes["units"] == ("um", "um")
    assert attributes["metadata"][METADATA_KEY] == {"modality": "phase"}


def test_the_smear_is_read_from_the_folder_named(
    shared: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with zipfile.ZipFile(shared / "data" / "bccd_fields.zip") as archive:
        for name in archive.namelist():
            if name.startswith("val/"):
                archive.extract(name, tmp_path)
    monkeypatch.setenv("NAPARI_SPARSEATTN_DATA", str(tmp_path))
    ((data, attributes, _),) = samples.smear()
    assert data.shape == (976, 1296, 3)
    assert attributes["rgb"]
    assert attributes["scale"] == (0.073, 0.073)


def test_a_folder_without_the_smear_says_what_to_do(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("NAPARI_SPARSEATTN_DATA", str(tmp_path))
    with pytest.raises(FileNotFoundError, match="open the simulated smear"):
        samples.smear()


def test_another_file_under_the_smears_name_is_refused(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "BloodImage_00000.jpg").write_bytes(b"something else")
    monkeypatch.setenv("NAPARI_SPARSEATTN_DATA", str(tmp_path))
    with pytest.raises(ValueError, match="SHA-256"):
        samples.smear()


def test_offline_the_simulated_sample_is_suggested(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    import pooch
    import requests

    def offline(*args: object, **options: object) -> None:
        raise requests.exceptions.ConnectionError("no network")

    monkeypatch.delenv("NAPARI_SPARSEATTN_DATA", raising=False)
    monkeypatch.setattr(pooch, "retrieve", offline)
    with pytest.raises(ConnectionError, match="simulated smear"):
        samples.smear()


def test_the_simulated_smear_needs_no_network_and_is_calibrated() -> None:
    ((data, attributes, _),) = samples.simulated_smear()
    assert data.ndim == 3
    assert attributes["units"] == ("um", "um")
    assert attributes["name"] == "simulated smear"


def test_the_simulated_hologram_says_all_that_a_reconstruction_needs() -> None:
    ((data, attributes, kind),) = samples.simulated_hologram()
    assert kind == "image"
    assert data.ndim == 2
    assert "simulated" in attributes["name"]
    known = attributes["metadata"][METADATA_KEY]
    assert known["modality"] == "hologram"
    recording = known["recording"]
    assert None not in (recording.wavelength, recording.pixel_size, recording.medium_index)
    assert recording.background.shape[1:] == data.shape


def test_the_simulated_slide_is_lazy_and_calibrated() -> None:
    ((levels, attributes, kind),) = samples.simulated_slide()
    assert kind == "image"
    assert attributes["multiscale"]
    assert attributes["rgb"]
    assert "simulated" in attributes["name"]
    assert attributes["units"] == ("um", "um")
    assert attributes["scale"] == (0.5, 0.5)
    pyramid = attributes["metadata"][METADATA_KEY]["pyramid"]
    assert levels[0].shape == (*pyramid.shape, 3)
    assert pyramid.ledger.snapshot().bytes_decoded == 0, "nothing is drawn before it is looked at"
    middle = levels[-1][:]
    assert middle.std() > 10
