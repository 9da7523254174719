from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import tifffile

from napari_sparseattn.export.opd import write_opd, write_opd_frames
from napari_sparseattn.images.fields.field import Field
from napari_sparseattn.images.opening import open_field

STACK = np.random.default_rng(0).normal(0, 200, (3, 20, 30)).astype(np.float32)


@pytest.mark.parametrize(("unit", "modality"), [("nm", "opd"), ("rad", "phase")])
@pytest.mark.parametrize("axes", ["YX", "TYX"])
def test_maps_come_back_with_their_units(
    unit: str, modality: str, axes: str, tmp_path: Path
) -> None:
    data = STACK if axes == "TYX" else STACK[0]
    write_opd(Field(data, axes, 0.125, modality, unit, "x"), tmp_path / "a.tif")
    back = open_field(tmp_path / "a.tif")
    assert (back.axes, back.unit, back.modality, back.pixel_size) == (axes, unit, modality, 0.125)
    assert np.array_equal(back.data, data)


def test_other_readers_see_the_same_numbers(tmp_path: Path) -> None:
    write_opd(Field(STACK, "TYX", None, "opd", "nm"), tmp_path / "a.tif")
    assert np.array_equal(tifffile.imread(tmp_path / "a.tif"), STACK)
    assert open_field(tmp_path / "a.tif").pixel_size is None


def test_plain_arrays_are_written_for_npy(tmp_path: Path) -> None:
    write_opd(Field(STACK, "TYX", 0.1, "opd", "nm"), tmp_path / "a.npy")
    write_opd(Field(STACK[0], "YX", 0.1, "opd", "nm"), tmp_path / "b.npy")
    assert np.array_equal(np.load(tmp_path / "a.npy"), STACK)
    assert np.array_equal(np.load(tmp_path / "b.npy"), STACK[0])


def test_nan_stays(tmp_path: Path) -> None:
    data = STACK[0].copy()
    data[3, 4] = np.nan
    write_opd(Field(data, "YX", 0.1, "opd", "nm"), tmp_path / "a.tif")
    assert np.array_equal(open_field(tmp_path / "a.tif").data, data, equal_nan=True)


def test_a_failure_leaves_the_old_file(tmp_path: Path) -> None:
    path = tmp_path / "a.tif"
    write_opd(Field(STACK[0], "YX", 0.1, "opd", "nm"), path)
    before = path.read_bytes()

    def broken():  # type: ignore[no-untyped-def]
        yield STACK[0]
        raise OSError("disk gone")

    with pytest.raises(OSError, match="disk gone"):
        write_opd_frames(broken(), (2, 20, 30), "nm", 0.1, path)
    assert path.read_bytes() == before
    assert list(tmp_path.iterdir()) == [path]


def test_what_is_no_map_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="ending"):
        write_opd(Field(STACK[0], "YX", 0.1, "opd", "nm"), tmp_path / "a.png")
    with pytest.raises(ValueError, match="nm or rad"):
        write_opd(Field(STACK[0], "YX", 0.1), tmp_path / "a.tif")
    with pytest.raises(ValueError, match="one channel"):
        write_opd(Field(STACK, "ZYX", 0.1, "opd", "nm"), tmp_path / "a.tif")
