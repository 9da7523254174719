"""Files that show one cell each."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from napari_sparseattn.images.class_folders import list_class_folders, read_crop
from napari_sparseattn.images.errors import ImageError


def saved(path: Path, values: np.ndarray) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(values).save(path)
    return path


def test_the_whole_image_or_the_asked_side_is_taken(tmp_path: Path) -> None:
    values = np.zeros((40, 60, 3), np.uint8)
    values[10:30, 20:40] = 255  # the middle 20 x 20
    path = saved(tmp_path / "a" / "x.png", values)
    np.testing.assert_allclose(read_crop(path, 4, 3, side=20), 1, atol=1e-6)
    whole = read_crop(path, 8, 3)
    np.testing.assert_allclose(whole[2:6, 2:6], 1, atol=1e-6)
    assert whole[:2].max() == 0


def test_grey_is_repeated_for_colour_and_colour_is_refused_for_grey(tmp_path: Path) -> None:
    grey = saved(tmp_path / "a" / "g.png", np.full((8, 8), 51, np.uint8))
    np.testing.assert_allclose(read_crop(grey, 4, 3), 0.2, atol=1e-6)
    colour = saved(tmp_path / "a" / "c.png", np.zeros((8, 8, 3), np.uint8))
    with pytest.raises(ImageError, match="has 3 channels, 1 are needed"):
        read_crop(colour, 4, 1)


def test_folders_are_listed_in_order_without_hidden_files(tmp_path: Path) -> None:
    for name in ("b/2.png", "b/deep/1.jpg", "a/1.tif", "b/.hidden.png", ".git/x.png"):
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).touch()
    (tmp_path / "loose.png").touch()
    found = [(name, path.name) for name, path in list_class_folders(tmp_path)]
    assert found == [("a", "1.tif"), ("b", "2.png"), ("b", "1.jpg")]
