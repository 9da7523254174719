"""The reader: HDF5 that holds holograms or phase, and nothing else."""

from __future__ import annotations

from pathlib import Path

import h5py
import numpy as np
import pytest

from napari_sparseattn.plugin.reader import get_reader
from napari_sparseattn.plugin.sources import METADATA_KEY


@pytest.fixture
def qpimage_file(tmp_path: Path) -> Path:
    """Phase and amplitude as qpimage writes them: lengths in metres."""
    path = tmp_path / "cell.h5"
    with h5py.File(path, "w") as file:
        file.attrs["wavelength"] = 647e-9
        file.attrs["pixel size"] = 0.139e-6
        file.attrs["medium index"] = 1.335
        file["phase/raw"] = np.full((20, 30), 0.5, np.float32)
        file["amplitude/raw"] = np.ones((20, 30), np.float32)
    return path


def test_phase_of_a_qpimage_file_is_a_calibrated_layer(qpimage_file: Path) -> None:
    reader = get_reader(str(qpimage_file))
    assert reader is not None
    ((data, attributes, kind),) = reader(str(qpimage_file))
    assert kind == "image"
    np.testing.assert_allclose(data, 0.5)
    np.testing.assert_allclose(attributes["scale"], 0.139, rtol=1e-6)
    assert attributes["units"] == ("um", "um")
    known = attributes["metadata"][METADATA_KEY]
    assert (known["modality"], known["unit"]) == ("phase", "rad")
    assert known["recording"].wavelength == pytest.approx(647)


@pytest.mark.parametrize("name", ["other.h5", "text.rtdc", "absent.h5", "folder.hdf5"])
def test_what_is_not_ours_is_left_without_raising(tmp_path: Path, name: str) -> None:
    path = tmp_path / name
    if name == "other.h5":
        with h5py.File(path, "w") as file:
            file["table"] = np.arange(5)
    elif name == "text.rtdc":
        path.write_bytes(b"not HDF5")
    elif name == "folder.hdf5":
        path.mkdir()
    assert get_reader(str(path)) is None


def test_a_list_of_files_is_not_a_stack_of_ours(qpimage_file: Path) -> None:
    assert get_reader([str(qpimage_file)]) is None
