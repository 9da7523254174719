"""COCO JSON as pycocotools reads it."""

from __future__ import annotations

import numpy as np
import pytest
from pycocotools.coco import COCO

from . import results as made
from .conftest import Write


def test_masks_are_those_of_the_labels(write: Write) -> None:
    coco = COCO(str(write("cells", "coco")))
    labels = made.label_image()
    found = coco.loadAnns(coco.getAnnIds())
    # The cell that could not be classified is left out.
    assert [row["cell"] for row in found] == [2, 40]
    labels[22, 2] = 2  # holes are filled
    for row in found:
        expected = labels == row["cell"]
        assert np.logical_xor(coco.annToMask(row), expected).sum() <= 4  # corners are cut
        x, y, width, height = row["bbox"]
        rows, columns = np.nonzero(made.label_image() == row["cell"])
        assert (x, y) == (columns.min(), rows.min())
        assert (width, height) == (np.ptp(columns) + 1, np.ptp(rows) + 1)
        assert row["area"] == pytest.approx(expected.sum(), abs=1.0)


def test_categories_scores_and_images(write: Write) -> None:
    coco = COCO(str(write("frames", "coco")))
    assert [row["name"] for row in coco.loadCats(coco.getCatIds())] == ["round", "lobed", "small"]
    images = coco.loadImgs(coco.getImgIds())
    assert [image["frame"] for image in images] == [0, 2]
    assert [(image["height"], image["width"]) for image in images] == [(40, 60)] * 2
    small = coco.getAnnIds(catIds=coco.getCatIds(catNms=["small"]))
    first = coco.loadAnns(small)[0]
    assert first["score"] == pytest.approx(0.8)
    assert first["probabilities"] == pytest.approx({"round": 0.05, "lobed": 0.15, "small": 0.8})
    # Frame 2 has no outlines: the box is the polygon.
    (other,) = coco.loadAnns(coco.getAnnIds(imgIds=[2], catIds=[3]))
    x, y, width, height = other["bbox"]
    (polygon,) = other["segmentation"]
    corners = {(x, y), (x + width, y), (x, y + height), (x + width, y + height)}
    assert set(map(tuple, np.reshape(polygon, (-1, 2)).tolist())) == corners
    assert coco.annToMask(other).sum() == pytest.approx(width * height, rel=0.1)
    assert other["area"] == width * height
    assert coco.dataset["info"]["napari-sparseattn"]["model_hash"] == made.HASH
