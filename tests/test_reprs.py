"""What is printed of public results is short, says what it is, and holds no array."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from batch_folders import write_field
from napari_sparseattn.bundle import Bundle, save_bundle
from napari_sparseattn.card import CropSpec
from napari_sparseattn.evidence.foci import find_foci
from napari_sparseattn.features.encoders import load_encoder
from napari_sparseattn.images.fields.cells import Cells, find_cells
from napari_sparseattn.images.fields.field import Field
from napari_sparseattn.images.holograms.recording import Recording
from napari_sparseattn.images.opening import open_field
from napari_sparseattn.images.slides.pyramid import ArrayPyramid
from napari_sparseattn.inference.cells import classify_cells
from napari_sparseattn.inference.compare import compare_cells
from napari_sparseattn.inference.faithfulness import measure_faithfulness
from napari_sparseattn.inference.fields import classify_field
from napari_sparseattn.inference.prediction import Prediction, Predictions
from napari_sparseattn.inference.slides import SlidePrediction, classify_slide
from napari_sparseattn.inference.what_if import what_if_cell
from napari_sparseattn.judged import Judged
from napari_sparseattn.process.options import ProcessOptions
from napari_sparseattn.process.process import process_file
from napari_sparseattn.reprs import short_repr
from napari_sparseattn.training.data.datasets import CropSet
from napari_sparseattn.training.loop.slides import encoder_spec
from small_model import small_bundle
from small_span import small_span_bundle
from small_tnet import small_tnet_bundle

#: Two lines of an ordinary terminal; a path may make it a third.
_MOST = 240


class Bench:
    """One of each."""

    def __init__(self, folder: Path) -> None:
        self.path = write_field(folder / "smear.png", 3)
        self.bundle: Bundle = save_bundle(small_bundle(), folder / "m.safetensors")
        self.field: Field = open_field(self.path, pixel_size=0.5)
        self.cells: Cells = find_cells(self.field)
        self.found: Predictions = classify_cells(self.field, self.cells, self.bundle, "cpu")

    def slide(self, segments: bool) -> SlidePrediction:
        rng = np.random.default_rng(0)
        pixels = np.full((640, 896, 3), 242, np.uint8)
        pixels[96:544, 112:784] = np.array([90, 40, 120]) + rng.integers(-30, 30, (448, 672, 3))
        bundle = small_span_bundle(
            segments,
            encoder=encoder_spec(load_encoder("stain-texture", "cpu")),
            crop=CropSpec(size=224, field_of_view_um=112.0),
        )
        slide = ArrayPyramid(pixels, pixel_size=0.5, name="s")
        return classify_slide(slide, bundle, device="cpu")


@pytest.fixture(scope="module")
def bench(tmp_path_factory: pytest.TempPathFactory) -> Bench:
    return Bench(tmp_path_factory.mktemp("reprs"))


def _result(bench: Bench) -> object:
    options = ProcessOptions(task="cells", pixel_size=0.5, device="cpu")
    return process_file(bench.path, bench.bundle, options)


def _judged(bench: Bench) -> object:
    shares = np.full((3, 2), 0.5)
    return Judged(("a", "b", "c"), ("g", "h", "i"), np.array([0, 1, 0]), shares, ("x", "y"))


MADE: dict[str, Callable[[Bench], Any]] = {
    "Bundle": lambda b: b.bundle,
    "Field": lambda b: b.field,
    "Cells": lambda b: b.cells,
    "Predictions": lambda b: b.found,
    "Prediction": lambda b: b.found[0],
    "ReadingLedger": lambda b: b.found.ledger,
    "PixelSelection": lambda b: b.found.evidence[0],
    "FaithfulnessOfSet": lambda b: measure_faithfulness(
        b.found, b.bundle, b.field, device="cpu", only=[0]
    ),
    "Faithfulness": lambda b: measure_faithfulness(
        b.found, b.bundle, b.field, device="cpu", only=[0]
    ).items[0],
    "Comparison": lambda b: compare_cells(b.field, b.cells, b.bundle, b.bundle, device="cpu"),
    "FieldPrediction": lambda b: classify_field(b.field, small_tnet_bundle(), device="cpu"),
    "Traversal": lambda b: classify_field(b.field, small_tnet_bundle(), device="cpu").traversal,
    "SlidePrediction": lambda b: b.slide(False),
    "PyramidAttention": lambda b: b.slide(False).attention,
    "Tissue": lambda b: b.slide(False).tissue,
    "FeatureSet": lambda b: b.slide(False).features,
    "Foci": lambda b: find_foci(b.slide(True).attention, threshold=0.5, least=1),
    "Recording": lambda b: Recording(np.zeros((2, 30, 40), np.float32), "opd", name="r"),
    "Result": _result,
    "Judged": _judged,
    "CropSet": lambda b: CropSet(
        np.zeros((3, 8, 8, 3), np.uint8), np.array([0, 1, 0]), ("a", "b"), ("1", "2", "3")
    ),
}


@pytest.mark.parametrize("name", MADE)
def test_what_is_printed_is_short(name: str, bench: Bench) -> None:
    text = repr(MADE[name](bench))
    assert text.startswith(f"{name}(")
    assert len(text.replace(str(bench.path.parent), "")) <= _MOST
    assert "\n" not in text
    assert "array(" not in text
    assert "tensor(" not in text


def test_what_matters_is_said(bench: Bench) -> None:
    assert repr(bench.cells) == f"Cells({len(bench.cells)}, with labels, 0.5 µm per pixel)"
    counts = ", ".join(f"{n} {name}" for name, n in bench.found.counts().items() if n)
    hash_ = bench.bundle.hash[:12]
    assert repr(bench.found) == f"Predictions({len(bench.found)} cells by small@{hash_}: {counts})"
    one: Prediction = bench.found[0]
    said = f"Prediction({one.label!r}, {100 * one.confidence:.1f} %"
    assert repr(one).startswith(said)
    assert repr(bench.bundle).startswith(f"Bundle('small', sparse-attn-net, {hash_}")
    assert "data=<uint8 80x120x3>" in repr(bench.field)


def test_an_empty_table_is_no_error(bench: Bench) -> None:
    none = classify_cells(bench.field, bench.cells.subset([]), bench.bundle, "cpu")
    assert repr(none) == f"Predictions(0 cells by small@{bench.bundle.hash[:12]})"


def test_whatever_is_in_it_the_text_stays_short() -> None:
    @dataclasses.dataclass
    class Thing:
        text: str
        many: tuple[int, ...]
        named: dict[str, int]
        inner: object
        hidden: int = dataclasses.field(default=1, repr=False)

        __repr__ = short_repr

    inner = Thing("", (), {}, None)
    thing = Thing("x" * 500, tuple(range(100)), {str(i): i for i in range(50)}, inner)
    assert repr(thing) == (
        f"Thing(text='{'x' * 40}…', many=(0, 1, 2, 3, …), named=<50 by name>, inner=<Thing>)"
    )


def test_a_what_if(bench: Bench) -> None:
    region = np.zeros(bench.field.shape, bool)
    region[10:30, 10:30] = True
    found = what_if_cell(bench.field, bench.cells, 0, bench.bundle, region, "remove", device="cpu")
    assert len(repr(found)) <= _MOST
