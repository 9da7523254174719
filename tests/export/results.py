"""Results made by hand, so that what is in their files is known without any model."""

from __future__ import annotations

import dataclasses
from typing import Any

import numpy as np

from napari_sparseattn.card import Card
from napari_sparseattn.evidence import (
    AttendedLevel,
    CropFrame,
    PixelSelection,
    PyramidAttention,
    Traversal,
)
from napari_sparseattn.features.feature_set import FeatureSet
from napari_sparseattn.images.fields.cells import cells_from_labels
from napari_sparseattn.images.fields.field import Field
from napari_sparseattn.images.slides.pyramid import ArrayPyramid
from napari_sparseattn.inference.fields import FieldPrediction
from napari_sparseattn.inference.prediction import Predictions, ReadingLedger
from napari_sparseattn.inference.slides import SlidePrediction
from small_model import small_bundle
from small_span import small_span_bundle
from small_tnet import small_tnet_bundle

LEDGER = ReadingLedger(1000, 64, 512, 0.25, "cpu", ("a note",))
HASH = "0123456789abcdef" * 4
#: Label, first row, first column, height, width; not in the order of their places.
SQUARES = ((7, 4, 10, 6, 6), (2, 20, 0, 8, 5), (40, 25, 30, 5, 9))


def cell_card() -> Card:
    return small_bundle().card


def label_image() -> np.ndarray[Any, np.dtype[np.int32]]:
    labels = np.zeros((40, 60), np.int32)
    for value, row, column, height, width in SQUARES:
        labels[row : row + height, column : column + width] = value
    labels[22, 2] = 0  # a hole
    labels[36, 50] = 40  # a second piece
    return labels


def field(frames: int = 1) -> Field:
    rng = np.random.default_rng(0)
    data = rng.integers(90, 250, (frames, 40, 60, 3), dtype=np.uint8)
    return Field.from_array(
        data, axes="TYXC", pixel_size=0.5, modality="brightfield", name="smear <1>"
    )


def cells(labelled: bool = True, evidence: bool = False) -> Predictions:
    """Three cells, the second of which could not be classified."""
    found = cells_from_labels(label_image(), 0.5)
    looked: tuple[PixelSelection, ...] = ()
    if evidence:
        looked = tuple(_selection(*centre) for centre in found.centres.tolist())
    return Predictions(
        found if labelled else dataclasses.replace(found, labels=None),
        cell_card().class_names,
        np.array([[0.7, 0.2, 0.1], [np.nan] * 3, [0.05, 0.15, 0.8]], np.float32),
        looked,
        LEDGER,
        HASH,
        "small",
        measures={"dry_mass_pg": np.array([12.5, np.nan, 30.25])},
    )


def _selection(row: float, column: float) -> PixelSelection:
    """Crops of 4 x 4 over 8 x 8 image pixels; pixels 5 and 6 kept, weighed 3 to 1."""
    frame = CropFrame(round(row) + 0.5, round(column) + 0.5, 8.0, 4)
    fine = np.array([[[0.6, 0.2, 0.2]]], np.float32)
    coarse = np.arange(16, dtype=np.float32).reshape(4, 4) / 20 + 0.1
    return PixelSelection(frame, np.array([5, 6]), fine, coarse)


def field_card() -> Card:
    return small_tnet_bundle().card


def traversed() -> FieldPrediction:
    """The root of 64, two crops of 32, one of 16 in the second."""
    quarters = np.array([(0, 0, 32, 32), (0, 32, 32, 32), (32, 0, 32, 32), (32, 32, 32, 32)])
    below = np.array([(32, 0, 16, 16), (32, 16, 16, 16), (48, 0, 16, 16), (48, 16, 16, 16)])
    boxes = np.array([(0, 0, 64, 64), (0, 32, 32, 32), (32, 0, 32, 32), (48, 16, 16, 16)], float)
    way = Traversal(
        shape=(60, 64),
        base=16,
        level=np.array([0, 1, 1, 2]),
        rank=np.array([0, 1, 0, 0]),
        parent=np.array([-1, 0, 0, 2]),
        top=boxes[:, 0],
        left=boxes[:, 1],
        height=boxes[:, 2],
        width=boxes[:, 3],
        contribution=np.array([[1, 0, 0], [0, 1, 0], [0.5, 0, 0], [2, 0, 1]], np.float32),
        searched=np.array([0, 2]),
        candidates=np.array([quarters, below], float),
        relative_probability=np.ones((2, 4), np.float32),
        chosen=np.array([[0, 1, 1, 0], [0, 0, 0, 1]], bool),
    )
    chances = np.array([0.6, 0.3, 0.1], np.float32)
    return FieldPrediction(field_card().class_names, chances, way, LEDGER, HASH)


def field_image() -> Field:
    data = np.random.default_rng(1).integers(0, 255, (60, 64, 3), dtype=np.uint8)
    return Field.from_array(data, axes="YXC", pixel_size=2.0, modality="brightfield", name="f")


#: Of `slide`: where patch (0, 0) begins, from patch to patch, along a patch.
ORIGIN, STEP, SIDE = (16.0, 40.0), 20.0, 24.0


def slide(segments: bool = False, features: bool = True) -> SlidePrediction:
    """Four patches on a grid of 2 x 3, two levels; the coarse lattice is padded by one column."""
    places = np.array([(0, 0), (0, 2), (1, 1), (1, 2)], np.int32)
    fine = np.array([[0.1, 0.4, 0.2, 0.1]], np.float32)
    coarse = np.array([[0.3, 0.6]], np.float32)
    itself, said = np.array([0.2], np.float32), np.array([0.5, -0.5], np.float32)
    levels = (
        AttendedLevel(1, places + np.array([0, 1], np.int32), fine, itself, said),
        AttendedLevel(
            2, np.array([(0, 0), (0, 1)], np.int32), coarse, np.array([0.1], np.float32), said
        ),
    )
    seen = PyramidAttention(
        ORIGIN, STEP, SIDE, (0, 1), places, levels, ("benign", "tumour"), said,
        np.array([0.1, 0.9, 0.6, 0.2], np.float32) if segments else None,
    )  # fmt: skip
    made = FeatureSet(
        np.arange(12, dtype=np.float32).reshape(4, 3), places[:, ::-1].copy(), STEP, SIDE, ORIGIN,
        0.5, "none", "", "", None, np.zeros(4, bool),
    )  # fmt: skip
    chances = np.array([0.5, 0.5] if segments else [0.25, 0.75], np.float32)
    return SlidePrediction(
        ("benign", "tumour"), chances, seen, LEDGER, HASH,
        features=made if features else None, segments=segments,
    )  # fmt: skip


def slide_card(segments: bool = False) -> Card:
    return small_span_bundle(segments).card


def slide_image() -> ArrayPyramid:
    data = np.random.default_rng(2).integers(150, 255, (100, 140, 3), dtype=np.uint8)
    return ArrayPyramid(data, pixel_size=0.5, name="slide")
