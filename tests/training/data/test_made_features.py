"""Features that other programs made: opened lazily, checked, and told apart by folder."""

from __future__ import annotations

from pathlib import Path

import h5py
import numpy as np
import pytest

from napari_sparseattn.card import CropSpec
from napari_sparseattn.features.feature_set import H5Rows
from napari_sparseattn.features.files import read_features
from napari_sparseattn.training.data.made_features import read_made_features
from napari_sparseattn.training.data.slide_tables import read_slide_table, unique_names
from napari_sparseattn.training.loop.slides import SlideTraining, train_slides
from napari_sparseattn.training.loop.span import SpanOptions

WIDTH, SIDE = 128, 448


def lattice(step: float, columns: int = 4) -> np.ndarray:
    y, x = np.divmod(np.arange(columns * columns), columns)
    return np.stack([x, y], axis=1) * step


def trident(path: Path, seed: int, magnification: int = 40, label: int = 0) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    values = np.random.default_rng(seed).normal(size=(16, WIDTH)).astype(np.float32)
    values[:, :4] += 3 * label
    with h5py.File(path, "w") as file:
        file.create_dataset("features", data=values).attrs["encoder"] = "uni_v1"
        file.create_dataset("coords", data=lattice(SIDE).astype(np.int64)).attrs.update(
            patch_size=SIDE // 2, patch_size_level0=SIDE, level0_magnification=magnification
        )
    return path


def authors(path: Path, seed: int) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    with h5py.File(path, "w") as file:
        file["feats"] = np.random.default_rng(seed).normal(size=(16, WIDTH)).astype(np.float32)
        file["cords"] = lattice(224).astype(np.int64)
    return path


def table_of(folder: Path, rows: list[str]) -> Path:
    path = folder / "slides.csv"
    path.write_text("slide,label\n" + "\n".join(rows) + "\n")
    return path


def test_they_are_read_as_they_are_needed_and_learned_from(tmp_path: Path) -> None:
    rows = []
    for number in range(8):
        label = number % 2
        trident(tmp_path / f"s{number}.h5", number, label=label)
        rows.append(f"s{number},{'ab'[label]}")
    made = read_made_features(read_slide_table(table_of(tmp_path, rows)))
    assert made.encoder.name == "uni_v1"
    assert made.encoder.width == WIDTH
    assert made.encoder.elsewhere
    # 448 pixels at a magnification of 40, which is 0.25 µm per pixel.
    assert made.crop.field_of_view_um == pytest.approx(112)
    assert all(isinstance(each.features, H5Rows) for each in made.examples)
    settings = SlideTraining(
        name="x",
        class_names=("a", "b"),
        encoder=made.encoder,
        crop=made.crop,
        options=SpanOptions(epochs=1),
        architecture={"width": 64},
    )
    bundle, report = train_slides(made.examples, settings)
    assert report.n_slides["train"] + report.n_slides["validation"] + report.n_slides["test"] == 8
    assert bundle.card.encoder == made.encoder


def test_spans_authors_files_are_read(tmp_path: Path) -> None:
    found = read_features(authors(tmp_path / "a.h5", 0))
    assert (found.step, found.side, found.patch_um) == (224, 224, None)
    np.testing.assert_array_equal(found.cells, lattice(1))
    rows = [f"{name},{name[0]}" for name in ("x1", "x2", "y1", "y2")]
    for number, name in enumerate(("x1", "x2", "y1", "y2")):
        authors(tmp_path / f"{name}.h5", number)
    table = read_slide_table(table_of(tmp_path, rows))
    with pytest.raises(ValueError, match="do not say what encoder"):
        read_made_features(table, patch_um=112)
    with pytest.raises(ValueError, match="does not say how wide its patches are"):
        read_made_features(table, encoder="uni")
    made = read_made_features(table, encoder="uni", patch_um=112)
    assert made.crop == CropSpec(size=224, field_of_view_um=112)
    assert "CC BY-NC-ND" in made.encoder.licence


def test_patches_of_another_size_are_refused(tmp_path: Path) -> None:
    for number, name in enumerate(("x1", "x2", "y1", "y2")):
        trident(tmp_path / f"{name}.h5", number, magnification=20 if name == "y2" else 40)
    rows = [f"{name},{name[0]}" for name in ("x1", "x2", "y1", "y2")]
    with pytest.raises(ValueError, match=r"x1 has 112 µm and y2 224 µm"):
        read_made_features(read_slide_table(table_of(tmp_path, rows)))


def test_slides_of_one_name_in_two_folders_are_two(tmp_path: Path) -> None:
    rows = []
    for folder, label in (("one", "a"), ("two", "a"), ("one", "b"), ("two", "b")):
        trident(tmp_path / folder / f"{label}.h5", len(rows))
        rows.append(f"{folder}/{label}.h5,{label}")
    table = read_slide_table(table_of(tmp_path, rows))
    names = ["one/a", "two/a", "one/b", "two/b"]
    assert [row.name for row in table.rows] == names
    # Nor are they one patient.
    assert [row.group for row in table.rows] == names
    made = read_made_features(table)
    first, second = made.examples[0].features[:], made.examples[1].features[:]
    assert np.abs(first - second).max() > 0
    paths = [tmp_path / name for name in ("s.svs", "s.tif", "t.svs", "deep/t.svs")]
    assert unique_names(paths) == ["s.svs", "s.tif", f"{tmp_path.name}/t", "deep/t"]
