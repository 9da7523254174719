"""The readers: HDF5 that holds holograms or phase, and slides; nothing else."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import h5py
import numpy as np
import pytest
import tifffile

from bad_slides import PARTLY, REFUSED, UNCALIBRATED, halves, scene, write_svs
from napari_sparseattn.images.errors import ImageError
from napari_sparseattn.plugin.core.sources import METADATA_KEY
from napari_sparseattn.plugin.reader import get_reader, get_slide_reader


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


def test_a_large_tiled_tiff_is_a_slide_and_a_small_plain_one_is_not(tmp_path: Path) -> None:
    levels = halves(scene(), 2)
    pyramid = tmp_path / "levels.ome.tif"
    with tifffile.TiffWriter(pyramid) as writer:
        writer.write(levels[0], tile=(256, 256), subifds=1, photometric="rgb")
        writer.write(levels[1], tile=(256, 256), subfiletype=1, photometric="rgb")
    plain = tmp_path / "plain.tif"
    tifffile.imwrite(plain, levels[1], photometric="rgb")
    assert get_slide_reader(str(pyramid)) is not None
    assert get_slide_reader(str(plain)) is None


@pytest.mark.parametrize(
    "entry", [*REFUSED, *PARTLY, *UNCALIBRATED], ids=lambda entry: str(entry[0])
)
def test_no_slide_makes_the_reader_raise(tmp_path: Path, entry: tuple[Any, ...]) -> None:
    path = entry[1](tmp_path / entry[0])
    reader = get_slide_reader(str(path))
    assert reader is None or callable(reader)


def test_what_is_wrong_with_a_slide_is_said_when_it_is_read(tmp_path: Path) -> None:
    path = tmp_path / "text.svs"
    path.write_bytes(b"not a slide" * 50)
    reader = get_slide_reader(str(path))
    assert reader is not None
    with pytest.raises(ImageError, match="is not a slide"):
        reader(str(path))


def test_what_is_not_there_and_lists_are_no_slides(tmp_path: Path) -> None:
    assert get_slide_reader(str(tmp_path / "absent.svs")) is None
    assert get_slide_reader([str(write_svs(tmp_path / "a.svs"))]) is None
