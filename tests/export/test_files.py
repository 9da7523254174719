"""CSV and pictures of predictions."""

from __future__ import annotations

import dataclasses
import os
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from PIL import Image

from napari_sparseattn.evidence import CropFrame, PixelSelection
from napari_sparseattn.export.overlay import Overlay
from napari_sparseattn.export.pictures import display_rgb
from napari_sparseattn.export.request import Export
from napari_sparseattn.export.tables import write_csv, write_table
from napari_sparseattn.files import replacing
from napari_sparseattn.images.fields.cells import cells_from_points
from napari_sparseattn.images.fields.field import Field
from napari_sparseattn.inference.cells import classify_cells
from napari_sparseattn.inference.prediction import Predictions
from small_model import small_bundle


def field() -> Field:
    return Field.from_array(
        np.full((40, 60, 3), 128, np.uint8), axes="YXC", pixel_size=0.5, modality="brightfield"
    )


def predictions() -> Predictions:
    cells = cells_from_points([(20, 30), (5, 5)], (40, 60), diameter=8, pixel_size=0.5)
    return classify_cells(field(), cells, small_bundle(), "cpu")


def test_csv_reads_back(tmp_path: Path) -> None:
    table = predictions()
    write_csv(table, tmp_path / "new" / "cells.csv")
    back = pd.read_csv(tmp_path / "new" / "cells.csv")
    assert back["class"].tolist() == table.labels
    np.testing.assert_allclose(back["row"], [20, 5])
    np.testing.assert_allclose(back["diameter_um"], 4)
    probabilities = back[[f"p_{name}" for name in table.class_names]]
    np.testing.assert_allclose(probabilities.sum(axis=1), 1, atol=1e-5)
    assert back["scale_known"].all()
    np.testing.assert_allclose(back["diameter_px"], 8)


def test_the_table_of_a_file_names_its_image_and_sizes_without_a_scale(tmp_path: Path) -> None:
    image = dataclasses.replace(field(), pixel_size=None, name="smear 3")
    cells = cells_from_points([(20, 30)], (40, 60), diameter=8)
    bundle = small_bundle()
    found = classify_cells(image, cells, bundle, "cpu")
    write_table(Export(found, image, bundle.card), tmp_path / "cells.csv")
    back = pd.read_csv(tmp_path / "cells.csv")
    assert back["image"].tolist() == ["smear 3"]
    assert back["diameter_px"].tolist() == [8.0]
    assert back["diameter_um"].isna().all()


@pytest.mark.skipif(os.name == "nt" or os.geteuid() == 0, reason="root may write anywhere")
def test_a_folder_that_cannot_be_written_is_an_error(tmp_path: Path) -> None:
    tmp_path.chmod(0o500)
    with pytest.raises(PermissionError):
        write_csv(predictions(), tmp_path / "cells.csv")


def test_an_interrupted_write_leaves_the_old_file(tmp_path: Path) -> None:
    path = tmp_path / "cells.csv"
    path.write_text("old")

    def half() -> None:
        with replacing(path) as temporary:
            temporary.write_text("half of the n")
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        half()
    assert path.read_text() == "old"
    assert list(tmp_path.iterdir()) == [path]


def test_overlay_tints_selected_pixels_alone() -> None:
    """Of 4 crop pixels over image rows 10 to 26, (1, 2) is rows 14-17, columns 28-31."""
    table = predictions()
    frame = CropFrame(17.5, 27.5, 16.0, 4)
    chosen = PixelSelection(
        frame, np.array([6]), np.array([[[0.5, 0.5]]], np.float32), np.full((4, 4), 0.5, np.float32)
    )
    one = dataclasses.replace(
        table,
        cells=table.cells.subset([0]),
        probabilities=np.array([[1, 0, 0]], np.float32),
        states=None,
        evidence=(chosen,),
    )
    overlay = Overlay(field(), ["#ff0000", "#00ff00", "#0000ff"])
    overlay._tint(chosen, (255, 0, 0))
    changed = np.argwhere((overlay._canvas != overlay._canvas[0, 0]).any(-1))
    assert changed.min(0).tolist() == [14, 28]
    assert changed.max(0).tolist() == [17, 31]
    assert len(changed) == 16
    overlay.add(one)
    assert np.asarray(overlay.image()).shape == (40, 60, 3)


def test_overlay_survives_cells_outside_and_unclassified(tmp_path: Path) -> None:
    table = predictions()
    far = dataclasses.replace(table.evidence[0], frame=CropFrame(-500.0, 900.0, 16.0, 16))
    odd = dataclasses.replace(
        table,
        evidence=(far, table.evidence[1]),
        probabilities=np.array([[0.2, 0.3, 0.5], [np.nan] * 3], np.float32),
    )
    overlay = Overlay(field(), small_bundle().card.colours)
    overlay.add(odd)
    overlay.write(tmp_path / "o.png")
    assert Image.open(tmp_path / "o.png").size == (60, 40)


@pytest.mark.parametrize(
    "plane", [np.full((4, 5, 1), np.nan), np.zeros((1, 1, 1)), np.full((4, 5, 1), 7, np.uint16)]
)
def test_display_of_odd_planes_is_finite(plane: np.ndarray) -> None:
    shown = display_rgb(plane)
    assert shown.shape == (*plane.shape[:2], 3)
    assert np.isfinite(shown).all()
    assert 0 <= shown.min() <= shown.max() <= 1
