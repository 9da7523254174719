"""What property tests draw by Hypothesis: cells, transforms of layers, annotations."""

from __future__ import annotations

import dataclasses
from typing import Any

import numpy as np
import numpy.typing as npt
from hypothesis import strategies as st

from export import results as made
from napari_sparseattn.images.fields.cells import Cells, cells_from_labels
from napari_sparseattn.inference.prediction import Predictions
from napari_sparseattn.training.data.annotations import Annotation, new_annotation

__all__ = ["annotations", "finite", "label_images", "places", "predictions", "transforms"]

#: Names as people give them: of any script, with what spreadsheets, HTML and JSON look at.
LABELS = ("round", "Zelle ä", "=1+1", "<b>", "a,b;c", '"quoted"', "細胞", "line\nbreak", "-5")


def finite(low: float, high: float) -> st.SearchStrategy[float]:
    return st.floats(low, high, allow_nan=False, allow_infinity=False)


def places(low: float = -1e4, high: float = 1e4) -> st.SearchStrategy[tuple[float, float]]:
    return st.tuples(finite(low, high), finite(low, high))


@st.composite
def label_images(draw: st.DrawFn) -> npt.NDArray[np.int32]:
    """Boxes of any labels, of which later ones lie on earlier ones, also at the border."""
    height, width = draw(st.integers(3, 40)), draw(st.integers(3, 40))
    labels = np.zeros((height, width), np.int32)
    values = draw(st.lists(st.integers(1, 2**31 - 1), min_size=1, max_size=6, unique=True))
    for value in values:
        row, column = draw(st.integers(0, height - 2)), draw(st.integers(0, width - 2))
        labels[row : row + draw(st.integers(2, 12)), column : column + draw(st.integers(2, 12))] = (
            value
        )
    return labels


@st.composite
def predictions(draw: st.DrawFn) -> Predictions:
    """Classified cells, with outlines or without; some may have no class."""
    labels = draw(label_images())
    cells: Cells = cells_from_labels(labels, draw(st.sampled_from((None, 0.25, 1 / 3))))
    if draw(st.booleans()):
        cells = dataclasses.replace(cells, labels=None)
    names = made.cell_card().class_names
    rng = np.random.default_rng(draw(st.integers(0, 2**32 - 1)))
    chances = rng.dirichlet(np.ones(len(names)), len(cells)).astype(np.float32)
    chances[rng.random(len(cells)) < 0.2] = np.nan
    measured = {"dry_mass_pg": rng.normal(size=len(cells)) * 10.0 ** rng.integers(-6, 6)}
    return Predictions(
        cells, names, chances, (), made.LEDGER, made.HASH, "small", measures=measured
    )


@st.composite
def transforms(draw: st.DrawFn, affine: bool = True) -> dict[str, Any]:
    """Scale, translation, rotation, shear and affine of a layer in 2D; all can be inverted."""
    scale = st.tuples(finite(0.05, 20), finite(0.05, 20))
    found: dict[str, Any] = {
        "scale": draw(scale),
        "translate": draw(places()),
        "rotate": draw(finite(-180, 180)),
        "shear": [draw(finite(-1, 1))],
    }
    if affine and draw(st.booleans()):
        angle, (y, x) = np.deg2rad(draw(finite(-180, 180))), draw(places(-100, 100))
        sides = draw(st.tuples(finite(0.2, 5), finite(0.2, 5), finite(-1, 1)))
        turned = np.array([[np.cos(angle), -np.sin(angle)], [np.sin(angle), np.cos(angle)]])
        matrix = np.eye(3)
        matrix[:2, :2] = turned @ np.array([[sides[0], sides[2]], [0, sides[1]]])
        matrix[:2, 2] = y, x
        found["affine"] = matrix
    return found


@st.composite
def annotations(draw: st.DrawFn) -> Annotation:
    """One annotation of any kind, without what COCO cannot say."""
    label, kind = draw(st.sampled_from(LABELS)), draw(st.sampled_from(("cell", "region", "image")))
    values: dict[str, Any] = {"t": draw(st.integers(0, 3)), "z": draw(st.integers(0, 2))}
    if kind == "cell":
        values["position"] = draw(places())
        values["diameter_px"] = draw(st.none() | finite(0.01, 1e4))
    if kind == "region":
        values["polygon"] = tuple(draw(st.lists(places(), min_size=3, max_size=8)))
    return new_annotation(kind, label, **values)
