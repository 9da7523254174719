"""Files of features as CLAM, TRIDENT and STAMP write them, and files that would deceive."""

from __future__ import annotations

from pathlib import Path

import h5py
import numpy as np
import pytest

from napari_sparseattn.features.feature_set import FeatureError
from napari_sparseattn.features.files import read_features
from napari_sparseattn.images.slides.patches import GridError

WIDTH = 128


def lattice(columns: int, rows: int, step: float, offset=(0.0, 0.0)) -> np.ndarray:
    x, y = np.meshgrid(np.arange(columns), np.arange(rows))
    return np.stack([x.ravel(), y.ravel()], axis=1) * step + np.asarray(offset)


def features_of(n: int, dtype=np.float32) -> np.ndarray:
    return np.random.default_rng(0).normal(size=(n, WIDTH)).astype(dtype)


def row_by_row(file: h5py.File, name: str, values: np.ndarray) -> h5py.Dataset:
    """Write as CLAM's and TRIDENT's own functions do: resizable, in blocks of one row."""
    shape = (None, *values.shape[1:])
    chunks = (1, *values.shape[1:])
    return file.create_dataset(name, data=values, maxshape=shape, chunks=chunks)


def clam(path: Path, coords: np.ndarray, **attributes) -> np.ndarray:
    values = features_of(len(coords))
    with h5py.File(path, "w") as file:
        row_by_row(file, "features", values)
        row_by_row(file, "coords", coords.astype(np.int32)).attrs.update(attributes)
    return values


def trident(path: Path, coords: np.ndarray, side: int, overlap: int = 0, **more) -> np.ndarray:
    values = features_of(len(coords))
    with h5py.File(path, "w") as file:
        row_by_row(file, "features", values).attrs["encoder"] = "uni_v1"
        row_by_row(file, "coords", coords.astype(np.int64)).attrs.update(
            patch_size=side // 2,
            patch_size_level0=side,
            level0_magnification=40,
            target_magnification=20,
            overlap=overlap,
            name="slide",
            savetodir="somewhere",
            **more,
        )
    return values


def stamp(path: Path, coords: np.ndarray, **attributes) -> np.ndarray:
    values = features_of(len(coords), np.float16)
    with h5py.File(path, "w") as file:
        file["coords"] = coords.astype(np.float32)
        file["feats"] = values
        file.attrs.update(stamp_version="2.3.0", extractor="uni2", feat_type="tile", **attributes)
    return values


def test_clam_without_attributes(tmp_path: Path) -> None:
    coords = lattice(20, 15, 512, (3000, 777))[np.random.default_rng(0).permutation(300)[:200]]
    values = clam(tmp_path / "clam.h5", coords)
    found = read_features(tmp_path / "clam.h5")
    assert found.step == 512
    assert found.unit == "px"
    assert found.pixel_size is None
    assert np.array_equal(found.read(), values)
    assert np.array_equal(found.corners[:, ::-1], coords)
    assert np.array_equal(found.features[np.array([7, 2])], values[[7, 2]])
    assert "CLAM" in found.notes[0]


def test_clam_with_its_level_and_a_step_of_no_whole_pixels(tmp_path: Path) -> None:
    coords = np.floor(lattice(30, 30, 256 * 4.00012, (100, 100)))
    clam(
        tmp_path / "clam.h5",
        coords,
        patch_size=256,
        patch_level=1,
        downsample=np.array([4.00012, 4.00012]),
        level_dim=np.array([9000, 9000]),
    )
    found = read_features(tmp_path / "clam.h5")
    assert found.side == pytest.approx(1024.03, abs=0.01)
    assert found.step == pytest.approx(1024.03, abs=0.05)
    assert found.cells.max() == 29


def test_grids_of_clams_contours_become_one_within_half_a_step(tmp_path: Path) -> None:
    second, third = (8 * 512 + 101, 33), (211, 9 * 512 + 250)
    coords = np.concatenate(
        [lattice(8, 8, 512), lattice(5, 5, 512, second), lattice(4, 3, 512, third)]
    )
    values = clam(tmp_path / "clam.h5", coords)
    found = read_features(tmp_path / "clam.h5")
    assert len(found) == len(coords)
    assert "a grid of its own in each piece of tissue, here 3 of them" in found.notes[1]
    assert "37 of 101 patches were off the grid" in found.notes[2]
    assert np.array_equal(found.read(), values)
    moved = found.cells * found.step + found.origin[::-1] - coords
    assert np.abs(moved).max() <= 256


def test_clam_places_that_no_grid_explains_are_refused(tmp_path: Path) -> None:
    coords = lattice(8, 8, 512)
    coords[::3] += np.random.default_rng(1).integers(20, 490, (22, 2))
    clam(tmp_path / "clam.h5", coords)
    with pytest.raises(GridError, match=r"clam\.h5: .* off the grid") as caught:
        read_features(tmp_path / "clam.h5")
    assert len(caught.value.rows) >= 20
    assert len(read_features(tmp_path / "clam.h5", snap=True)) > 40


def test_duplicates_are_refused_or_left_out_with_their_features(tmp_path: Path) -> None:
    coords = lattice(6, 6, 512)
    coords[20] = coords[4]
    values = clam(tmp_path / "clam.h5", coords)
    with pytest.raises(GridError, match="duplicates"):
        read_features(tmp_path / "clam.h5")
    found = read_features(tmp_path / "clam.h5", snap=True)
    assert np.array_equal(found.read(), np.delete(values, 20, axis=0))
    assert np.array_equal(found.features[19:22], values[[19, 21, 22]])


def test_trident_with_overlap_and_extent(tmp_path: Path) -> None:
    coords = lattice(12, 9, 512 - 64)
    trident(tmp_path / "t.h5", coords, 512, 32, level0_width=12 * 448 + 64, level0_height=5000)
    found = read_features(tmp_path / "t.h5")
    assert (found.side, found.step) == (512, 448)
    assert found.encoder == "uni_v1"
    coords[3, 1] = 5000
    trident(tmp_path / "t.h5", coords, 512, 32, level0_width=12 * 448 + 64, level0_height=5000)
    with pytest.raises(GridError, match="outside of the slide") as caught:
        read_features(tmp_path / "t.h5")
    assert caught.value.rows.tolist() == [3]


def test_scattered_patches_do_not_double_the_step(tmp_path: Path) -> None:
    # Every second place of each row: neighbours are two steps apart.
    coords = lattice(10, 10, 512)
    coords = coords[(coords.sum(axis=1) / 512) % 2 == 0]
    trident(tmp_path / "t.h5", coords, 512)
    assert read_features(tmp_path / "t.h5").step == 512


def test_one_patch_needs_a_stated_size(tmp_path: Path) -> None:
    trident(tmp_path / "t.h5", np.array([[512, 1024]]), 512)
    assert len(read_features(tmp_path / "t.h5")) == 1
    clam(tmp_path / "c.h5", np.array([[512, 1024]]))
    with pytest.raises(FeatureError, match="give it"):
        read_features(tmp_path / "c.h5")
    assert read_features(tmp_path / "c.h5", step=512).step == 512


def stamp_coords(pixel_size: float, blocks: int = 12, tile: float = 256.0) -> np.ndarray:
    """Place tiles as STAMP does: in blocks of whole pixels, from tile to tile in µm."""
    per_block = int(4096 * pixel_size // tile)
    side = np.ceil(tile / pixel_size) * per_block * pixel_size
    along = np.concatenate([n * side + np.arange(per_block) * tile for n in range(blocks)])
    return np.stack(np.meshgrid(along, along), axis=-1).reshape(-1, 2)


@pytest.mark.parametrize("pixel_size", [0.2533, 0.4991])
def test_stamp_in_micrometres(tmp_path: Path, pixel_size: float) -> None:
    coords = stamp_coords(pixel_size)
    values = stamp(tmp_path / "s.h5", coords, unit="um", tile_size_um=256.0, tile_size_px=224)
    found = read_features(tmp_path / "s.h5")
    assert found.unit == "um"
    assert found.pixel_size == pytest.approx(256 / 224)
    assert found.encoder == "uni2"
    assert np.abs(found.corners[:, ::-1] - coords).max() < 16
    assert found.cells.max() + 1 == round(np.sqrt(len(coords)))
    assert np.array_equal(found.read(), values.astype(np.float32))
    placed = read_features(tmp_path / "s.h5", slide_pixel_size=pixel_size)
    assert placed.unit == "px"
    # Tiles of a block are cut from whole pixels.
    assert placed.step == pytest.approx(np.ceil(256 / pixel_size), abs=0.1)
    with pytest.raises(FeatureError, match="not known"):
        found.to_pixels(None)


def test_older_stamp_files(tmp_path: Path) -> None:
    stamp(tmp_path / "s.h5", lattice(9, 9, 256), unit="um", tile_size=256.0)
    assert read_features(tmp_path / "s.h5").step == pytest.approx(256)
    stamp(tmp_path / "s.h5", lattice(9, 9, 224))
    found = read_features(tmp_path / "s.h5")
    assert found.step == pytest.approx(256)
    stamp(tmp_path / "s.h5", lattice(9, 9, 300))
    with pytest.raises(FeatureError, match="does not state"):
        read_features(tmp_path / "s.h5")


def test_refuses_what_is_no_file_of_features(tmp_path: Path) -> None:
    with pytest.raises(FeatureError, match="no file"):
        read_features(tmp_path / "none.h5")
    (tmp_path / "t.h5").write_bytes(b"\x89HDF\r\n\x1a\n" + bytes(100))
    with pytest.raises(FeatureError, match=r"damaged|too early"):
        read_features(tmp_path / "t.h5")
    with h5py.File(tmp_path / "c.h5", "w") as file:
        file["coords"] = lattice(3, 3, 512)
    with pytest.raises(FeatureError, match="coordinates only"):
        read_features(tmp_path / "c.h5")
    with h5py.File(tmp_path / "c.h5", "w") as file:
        file["features"] = features_of(9)
    with pytest.raises(FeatureError, match="no 'coords'"):
        read_features(tmp_path / "c.h5")


def test_refuses_tables_that_do_not_fit(tmp_path: Path) -> None:
    path = tmp_path / "c.h5"
    for features, coords, why in (
        (features_of(8), lattice(3, 3, 512), "8 features and 9 coordinates"),
        (features_of(9).astype(np.int32), lattice(3, 3, 512), "expected floats"),
        (features_of(9), np.zeros((9, 3)), "expected floats"),
        (features_of(9)[0], lattice(3, 3, 512), "shape"),
    ):
        with h5py.File(path, "w") as file:
            file["features"], file["coords"] = features, coords
        with pytest.raises(FeatureError, match=why):
            read_features(path)


def test_follows_no_links_and_reads_no_objects(tmp_path: Path) -> None:
    other, path = tmp_path / "other.h5", tmp_path / "c.h5"
    clam(other, lattice(3, 3, 512))
    with h5py.File(path, "w") as file:
        file["coords"] = lattice(3, 3, 512)
        file["features"] = h5py.ExternalLink("other.h5", "/features")
    with pytest.raises(FeatureError, match="links to another place"):
        read_features(path)
    with h5py.File(path, "w") as file:
        file["coords"] = lattice(3, 3, 512)
        file.create_dataset("features", (9, 128), h5py.string_dtype())
    with pytest.raises(FeatureError, match="not numbers"):
        read_features(path)
    with h5py.File(path, "w") as file:
        file["coords"] = lattice(3, 3, 512)
        layout = h5py.VirtualLayout((9, 128), np.float32)
        layout[:] = h5py.VirtualSource(str(other), "features", (9, 128))
        file.create_virtual_dataset("features", layout)
    with pytest.raises(FeatureError, match="other files"):
        read_features(path)


def test_rows_that_were_never_written_are_not_taken_for_zeros(tmp_path: Path) -> None:
    path = tmp_path / "c.h5"
    with h5py.File(path, "w") as file:
        file["coords"] = lattice(3, 3, 512)
        rows = file.create_dataset("features", (9, 128), np.float32, chunks=(1, 128))
        rows[:6] = 1
    with pytest.raises(FeatureError, match="6 of 9 blocks"):
        read_features(path)


def test_an_absurd_size_is_refused_before_memory_is_taken(tmp_path: Path) -> None:
    path = tmp_path / "c.h5"
    with h5py.File(path, "w") as file:
        file["coords"] = lattice(3, 3, 512)
        rows = file.create_dataset(
            "features", (2**40, 128), np.float32, chunks=(1024, 128), compression="gzip"
        )
        rows[:10] = 1
    with pytest.raises(FeatureError, match="more than is opened"):
        read_features(path)


def test_values_that_are_no_numbers_are_noticed_when_read(tmp_path: Path) -> None:
    path = tmp_path / "c.h5"
    clam(path, lattice(6, 6, 512))
    with h5py.File(path, "r+") as file:
        file["features"][17, 5] = np.nan
    found = read_features(path)
    assert np.isfinite(found.features[:17]).all()
    with pytest.raises(FeatureError, match="row 17"):
        found.read()


def test_a_file_that_changes_under_us_is_noticed(tmp_path: Path) -> None:
    path = tmp_path / "c.h5"
    clam(path, lattice(6, 6, 512))
    found = read_features(path)
    clam(path, lattice(5, 6, 512))
    with pytest.raises(FeatureError, match="changed"):
        found.read()
    path.unlink()
    with pytest.raises(FeatureError, match="no file"):
        found.read()


def test_clam_coordinates_of_the_level_that_was_read_are_scaled(tmp_path: Path) -> None:
    """They belong to level 0; files with those of the level lie in the top left quarter."""
    attributes = {"patch_size": 56, "patch_level": 1, "downsample": np.array([4.0, 4.0])}
    coords = lattice(7, 7, 56, (56, 112))
    clam(tmp_path / "level.h5", coords, **attributes)
    found = read_features(tmp_path / "level.h5")
    assert found.step == found.side == 224
    assert np.array_equal(found.corners[:, ::-1], 4 * coords)
    assert "a level 4 times smaller" in found.notes[1]
    clam(tmp_path / "right.h5", 4 * coords, **attributes)
    found = read_features(tmp_path / "right.h5")
    assert np.array_equal(found.corners[:, ::-1], 4 * coords)
    assert len(found.notes) == 1
    # Overlapping by a half at level 0 is no reason to scale.
    clam(tmp_path / "half.h5", 2 * coords, **attributes)
    assert read_features(tmp_path / "half.h5").step == 112
