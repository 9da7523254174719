"""How quickly the maps of a large slide's attention change, in a real window.

    python benchmarks/pyramid_maps.py [--rows 357] [--columns 281]

Opens a window with the dock on a slide of 80 000 x 60 000 pixels and shows made-up
attention over about 100 000 patches, three levels, as a SPAN would give. Printed per
action, in milliseconds: the median and the longest wall time until the layers, the
panel and the canvas are up to date (painted by software where there is no GPU), and
the median of the processor's time, which other programs do not lengthen.
"""

from __future__ import annotations

import argparse
import dataclasses
import platform
import time
from collections.abc import Callable

import napari
import numpy as np
from qtpy.QtTest import QTest
from qtpy.QtWidgets import QApplication

from napari_sparseattn.bundle import Bundle
from napari_sparseattn.card import Card, CropSpec, EncoderSpec, Training
from napari_sparseattn.evidence import AttendedLevel, PyramidAttention
from napari_sparseattn.images.normalise import Normalisation
from napari_sparseattn.images.slides.pyramid import VirtualPyramid
from napari_sparseattn.images.tissue.mask import tissue_from_polygons
from napari_sparseattn.inference.prediction import ReadingLedger
from napari_sparseattn.inference.slides import SlidePrediction
from napari_sparseattn.models.span import SpanMil, SpanMilConfig
from napari_sparseattn.plugin.core.models import Model
from napari_sparseattn.plugin.session import Session
from napari_sparseattn.plugin.slides.layers import slide_layer
from napari_sparseattn.plugin.slides.requests import SlideAnswer

SHAPE, STEP = (80_000, 60_000), 224.0
CLASSES = ("benign", "tumour")
KINDS = ("raw", "percentile", "log", "relative")


def made_up_attention(rows: int, columns: int) -> PyramidAttention:
    """Return attention of four heads at three levels over a full grid."""
    rng = np.random.default_rng(0)
    cells = np.argwhere(np.ones((rows, columns), bool)).astype(np.int32)
    levels = []
    for factor in (1, 2, 4):
        on = np.unique(cells // factor, axis=0).astype(np.int32)
        weights = rng.dirichlet(np.full(len(on) + 1, 0.3), size=4).astype(np.float32)
        share = np.array([0.5, -0.5], np.float32)
        levels.append(AttendedLevel(factor, on, weights[:, :-1], weights[:, -1], share))
    constant = np.zeros(2, np.float32)
    return PyramidAttention((0.0, 0.0), STEP, STEP, (0, 0), cells, tuple(levels), CLASSES, constant)


def untrained() -> Model:
    """Return a small SPAN; it is not run."""
    net = SpanMil(SpanMilConfig(features=128))
    card = Card(
        kind="span-mil",
        name="untrained",
        class_names=CLASSES,
        channels=("red", "green", "blue"),
        modality="brightfield",
        crop=CropSpec(size=224, field_of_view_um=112.0),
        encoder=EncoderSpec(name="none", hash="0" * 64, width=128),
        normalisation=Normalisation("fixed", 0.0, 1.0),
        architecture=dataclasses.asdict(net.config),
        training=Training(data="none: random weights"),
    )
    return Model(Bundle(card, net.state_dict()), "cpu", "CPU", ("cpu",))


def open_window(attention: PyramidAttention) -> tuple[napari.Viewer, Session]:
    """Return a window that shows the attention as an answer."""

    def glass(level: int, y: int, x: int, height: int, width: int) -> np.ndarray:
        return np.full((height, width, 3), 230, np.uint8)

    viewer = napari.Viewer()
    QTest.qWait(500)
    # After it is shown: napari restores the size of the last session.
    viewer.window.resize(1400, 900)
    slide = VirtualPyramid(glass, *SHAPE, pixel_size=0.5, name="slide")
    data, attributes, _ = slide_layer(slide)
    viewer.add_image(data, **attributes)
    viewer.window.add_plugin_dock_widget("napari-sparseattn", "Sparse attention")
    session = Session.of(viewer)
    while session.selection.model is None:
        QTest.qWait(50)
    session.selection.set_model(untrained())
    # The answer is made up here, not worked out.
    session.slide_requested.disconnect()
    session.local_requested.disconnect()
    request = session.slides.classify()
    tissue = tissue_from_polygons(SHAPE, [[(0, 0), (0, 60_000), (80_000, 30_000)]], 64.0)
    ledger = ReadingLedger(1, 1, 1, 1.0, "cpu")
    answer = SlidePrediction(
        CLASSES, np.array([0.3, 0.7], np.float32), attention, ledger, "", tissue=tissue
    )
    session.accept_slide(SlideAnswer(request, tissue, None, answer, slide))
    viewer.fit_to_view()
    QTest.qWait(1000)
    return viewer, session


def timed(name: str, act: Callable[[int], object], times: int = 12) -> None:
    walls, works = [], []
    for i in range(times):
        wall, work = time.perf_counter(), time.process_time()
        act(i)
        QApplication.processEvents()
        walls.append(1000 * (time.perf_counter() - wall))
        works.append(1000 * (time.process_time() - work))
        QTest.qWait(50)
    print(
        f"{name:28} median {np.median(walls):6.0f}  longest {max(walls):6.0f}  "
        f"processor {np.median(works):6.0f}"
    )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rows", type=int, default=357)
    parser.add_argument("--columns", type=int, default=281)
    options = parser.parse_args()
    attention = made_up_attention(options.rows, options.columns)
    viewer, session = open_window(attention)
    print(f"{len(attention)} patches; {platform.machine()}, milliseconds")

    def choose(**changes: object) -> None:
        session.slides.set_pyramid_choice(
            dataclasses.replace(session.slides.pyramid_choice, **changes)
        )

    timed("values, level 0 shown", lambda i: choose(kind=KINDS[i % 4]))
    timed("level 1 shown and hidden", lambda i: choose(levels=frozenset({0, *([1] * (i % 2))})))
    choose(levels=frozenset({0, 1, 2}))
    timed("values, all levels shown", lambda i: choose(kind=KINDS[i % 4]))
    timed("head", lambda i: choose(head=i % 4))
    timed("patch picked out", lambda i: session.slides.select_patch(997 * i))
    viewer.close()


if __name__ == "__main__":
    main()
