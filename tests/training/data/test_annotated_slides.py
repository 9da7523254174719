"""Annotated slides as training examples."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from napari_sparseattn.features.feature_set import FeatureSet
from napari_sparseattn.training.data.annotated_slides import gather_slides
from napari_sparseattn.training.data.annotations import ImageRecord
from napari_sparseattn.training.data.project import Project


def features() -> FeatureSet:
    """A grid of 10 x 10 patches of 100 px."""
    cells = np.array([(x, y) for y in range(10) for x in range(10)], np.int32)
    values = np.arange(200, dtype=np.float32).reshape(100, 2)
    failed = np.zeros(100, bool)
    return FeatureSet(values, cells, 100.0, 100.0, (0.0, 0.0), 0.5, "e", "h", "s", None, failed)


def project(tmp_path: Path) -> Project:
    made = Project(tmp_path)
    for key, label in (("a", "benign"), ("b", "tumour"), ("c", "tumour")):
        book = made.open(ImageRecord(key * 64, f"slide {key}", (1000, 1000)))
        book.add("image", "unsure")
        book.add("image", label)
        book.add("region", "tumour", polygon=((0, 0), (0, 500), (200, 500), (200, 0)))
        book.add("region", "stroma", polygon=((0, 0), (0, 100), (100, 100), (100, 0)))
        book.close()
    return made


def test_classes_of_slides(tmp_path: Path) -> None:
    found = gather_slides(
        project(tmp_path), lambda image: None if image.name == "slide c" else features()
    )
    assert found.class_names == ("benign", "tumour")
    assert [example.label for example in found.examples] == [0, 1]
    assert [example.belongs_to for example in found.examples] == ["a" * 64, "b" * 64]
    assert found.notes == ("slide c: its features have not been made.",)


def test_regions_become_labels_of_patches(tmp_path: Path) -> None:
    found = gather_slides(project(tmp_path), lambda image: features(), wanted="tumour")
    labels = found.examples[0].patch_labels
    assert labels is not None
    grid = labels.reshape(10, 10)
    assert (grid[:2, :5].ravel()[1:] == 1).all()
    assert grid[0, 0] == 0
    assert (grid[2:] == -1).all()
    assert (grid[:, 5:] == -1).all()


def test_nothing_to_learn_from_is_said(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="No slide with a class"):
        gather_slides(Project(tmp_path), lambda image: features())
