"""Take the pictures of the documentation from the real window.

Run with a display, e.g. ``make docs-pictures``; ``--only smear train`` takes some
scenes anew. `SCENES` says which scene makes which pictures, and a test that all of
them are used and none is missing. The pictures are kept in the repository, so
they show simulated samples: fetched images are not stored.

A scene works the window as a reader would, and waits for states, not seconds. Where
one fails, the others are taken all the same, and the exit status is 1.
"""

from __future__ import annotations

import argparse
import dataclasses
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any

import napari
import numpy as np
import numpy.typing as npt
from PIL import Image, ImageDraw
from qtpy.QtCore import QPoint
from qtpy.QtWidgets import QApplication, QDockWidget, QPushButton, QScrollArea, QWidget
from superqt import QCollapsible

from napari_sparseattn.images.fields.cells import Cells
from napari_sparseattn.plugin.batch.session import Batch
from napari_sparseattn.plugin.core.docks import dock_of, open_dock
from napari_sparseattn.plugin.core.models import prepare_model
from napari_sparseattn.plugin.evidence.cells_session import CellFaithfulness
from napari_sparseattn.plugin.evidence.session import AnswerFaithfulness
from napari_sparseattn.plugin.evidence.what_if_session import WhatIfSession
from napari_sparseattn.plugin.export.session import ExportSession
from napari_sparseattn.plugin.holograms.session import Holograms
from napari_sparseattn.plugin.population.session import Population
from napari_sparseattn.plugin.session import Session
from napari_sparseattn.plugin.train.session import FineTuning
from napari_sparseattn.simulate.smears import smear_with_truth
from napari_sparseattn.training.data.project import Project

PICTURES = Path(__file__).resolve().parent.parent / "docs" / "pictures"

#: Which function of this file takes which pictures.
SCENES = {
    "first": ("first.png",),
    "smear": ("smear-open.png", "smear-cell.png", "smear-classified.png"),
    "population": ("smear-table.png", "gallery.png", "map.png"),
    "click": ("click.gif",),
    "hologram": ("hologram-dock.png", "hologram-preview.png", "hologram-cells.png"),
    "slide": ("slide-open.png", "slide-attention.png", "slide-patches.png"),
    "crops": ("crops.png",),
    "raters": ("raters.png",),
    "train": ("annotate.png", "train-curves.png", "train-report.png"),
    "evidence": (
        "evidence-cell.png",
        "evidence-curves.png",
        "what-if.png",
        "evidence-cells.png",
        "export.png",
    ),
    "batch": ("batch-ready.png", "batch-done.png"),
}
#: Made by ``examples/planted_mark.py``.
MADE_ELSEWHERE = ("planted-mark.png",)

#: As small as a window may be in which all of this is usable, less napari's docks on the left.
WINDOW = (1060, 700)
COLOURS = 256
#: Colours that differ by less, in all three channels together, are one.
_ALIKE = 24


# -- the window


def wait(until: Callable[[], object], seconds: float = 600, what: str = "") -> None:
    """Let Qt work until something is true.

    Raises
    ------
    TimeoutError
        If it is not within `seconds`.
    """
    end = time.monotonic() + seconds
    while not until():
        if time.monotonic() > end:
            raise TimeoutError(f"waited {seconds} s in vain {what}".rstrip())
        QApplication.processEvents()
        time.sleep(0.01)


def settle(seconds: float = 1.0) -> None:
    """Let the window draw itself."""
    end = time.monotonic() + seconds
    wait(lambda: time.monotonic() > end, seconds + 60)


@dataclasses.dataclass
class Stage:
    """A window with our main dock in it, and what is done in it."""

    viewer: napari.Viewer
    dock: QWidget
    out: Path

    @property
    def session(self) -> Session:
        """The plugin's state in this window."""
        return Session.of(self.viewer)

    # -- doing

    def open(self, sample: str) -> None:
        """Open a sample and wait for the model that goes with it."""
        self.viewer.open_sample("napari-sparseattn", sample)
        self.fit()
        self.wait_for_model()

    def wait_for_model(self, name: str = "") -> None:
        """Wait until a model is there, and the one that fits the image."""
        session = self.session
        wait(lambda: session.selection.model is not None, what=f"for a model: {self.said}")
        if name and session.selection.model.bundle.card.name != name:
            session.selection.set_model(prepare_model(name, "cpu"))
        settle()

    def classify_all(self) -> Cells:
        """Find and classify all cells."""
        session = self.session
        session.cells.classify_all()
        wait(
            lambda: not session.status.running and session.cells.results is not None,
            what=f"for the cells: {self.said}",
        )
        settle()
        return session.cells.results.cells

    def click_middle(self, cells: Cells, number: int = 0) -> int:
        """Click the large cell that lies `number`-th nearest to the middle; returns its row."""
        middle = np.array(self.session.selection.image.data.shape[:2]) / 2
        large = np.flatnonzero(cells.diameters >= cells.diameters.max() / 2)
        apart = np.hypot(*(cells.centres[large] - middle).T)
        row = int(large[apart.argsort()[number]])
        self.click(cells.centres[row])
        return row

    def click(self, centre: npt.NDArray[np.float64]) -> None:
        """Click a place of the image, as a mouse would, and wait for the answer."""
        session, before = self.session, self.session.answer
        session.press(session.selection.image.data_to_world(centre))
        wait(
            lambda: session.answer is not None and session.answer is not before,
            what=f"for a clicked cell: {self.said}",
        )

    def wait_for_verdict(self) -> None:
        """Wait until it has been measured how faithful the shown overlay is."""
        evidence = AnswerFaithfulness.of(self.viewer)
        wait(lambda: evidence.measured is not None, what="for the faithfulness")
        settle(0.3)

    @property
    def said(self) -> str:
        """What the dock said last."""
        return self.session.status.message.text

    # -- looking

    def fit(self) -> None:
        """Show the whole image."""
        settle(0.5)
        self.viewer.fit_to_view()
        settle(0.3)

    def look_at(self, centre: npt.NDArray[np.float64], crops: float = 1.4) -> None:
        """Show a place of the image, so many of the model's crops wide."""
        session = self.session
        row, column = session.selection.image.data_to_world(centre)[-2:]
        side = session.selection.model.bundle.card.crop.field_of_view_um
        self.viewer.scene.camera.center = (0.0, row, column)
        self.viewer.scene.camera.zoom = min(self.viewer.canvas.size) / (crops * side)
        settle(0.5)

    def box(self, kind: str) -> QWidget:
        """Return the visible widget of a class of ours, in whichever dock it lies."""
        window = self.dock.window()
        found = [each for each in window.findChildren(QWidget) if type(each).__name__ == kind]
        shown = [each for each in found if each.isVisible()]
        if not shown:
            raise LookupError(f"the window shows no {kind}")
        return shown[0]

    def section(
        self, title: str, within: QWidget | None = None, *, alone: bool = False
    ) -> QCollapsible:
        """Unfold a section of a dock, fold the others if wanted, and scroll to it."""
        dock = within or self.dock
        there = dock.findChildren(QCollapsible)
        found = [each for each in there if each.text() == title]
        if not found:
            raise LookupError(f"the dock has no section {title!r}")
        section = found[0]
        for each in there:
            if each is section or each.isAncestorOf(section):
                each.expand(animate=False)
            elif alone:
                each.collapse(animate=False)
        settle(0.3)
        scroll(dock, section)
        return section

    # -- taking

    def shoot(self, name: str, *parts: QWidget, whole: bool = False) -> None:
        """Take a picture of the window, or of the part of it that holds `parts`.

        Parameters
        ----------
        name : str
            Of the picture.
        *parts : QWidget
            What it shows; without any, the image and the docks.
        whole : bool
            Whether it shows the menus and the status bar too.
        """
        settle(0.5)
        pixels = self.grab()
        if parts:
            pixels = pixels.crop(bounds(parts, self.dock.window()))
        elif not whole:
            pixels = pixels.crop(inside(self.dock.window()))
        save(pixels, self.out / name)

    def shoot_dock(self, name: str, dock: QWidget, until: QWidget | None = None) -> None:
        """Take a picture of a dock, from its top or the first visible line down to `until`."""
        settle(0.5)
        pixels, window = self.grab(), dock.window()
        left, top, right, bottom = bounds((dock_of(dock) or dock,), window)
        if until is not None:
            bottom = min(bottom, bounds((until,), window)[3])
        save(pixels.crop((left, top, right, bottom)), self.out / name)

    def grab(self) -> Image.Image:
        """Return the window as a picture."""
        shown = self.viewer.screenshot(canvas_only=False, flash=False)
        return Image.fromarray(shown[..., :3])


def open_stage(out: Path, size: tuple[int, int] = WINDOW, *, left: bool = False) -> Stage:
    """Return a new window with our main dock; napari's own docks on the left are hidden or not."""
    viewer = napari.Viewer()
    settle()
    # After it is shown: napari restores the size of the last session.
    viewer.window.resize(*size)
    dock = open_dock(viewer, "Sparse attention")
    settle()
    for each in dock.window().findChildren(QDockWidget):
        if each.objectName().startswith("layer ") and not left:
            each.hide()
    settle()
    return Stage(viewer, dock, out)


def scroll(dock: QWidget, to: QWidget | None = None, margin: int = 6) -> None:
    """Bring the top of a part of a dock, or of all, to the top of what is shown of it."""
    area = dock.findChild(QScrollArea)
    place = 0 if to is None else to.mapTo(area.widget(), QPoint(0, 0)).y()
    area.verticalScrollBar().setValue(max(0, place - margin))
    settle(0.3)


def bounds(parts: Iterable[QWidget], window: QWidget, margin: int = 4) -> tuple[int, ...]:
    """Return left, top, right and bottom of widgets in their window, in pixels."""
    corners = []
    for part in parts:
        at = part.mapTo(window, QPoint(0, 0))
        corners.append((at.x(), at.y(), at.x() + part.width(), at.y() + part.height()))
    each = np.array(corners)
    low, high = each[:, :2].min(axis=0) - margin, each[:, 2:].max(axis=0) + margin
    low, high = low.clip(0), np.minimum(high, (window.width(), window.height()))
    return int(low[0]), int(low[1]), int(high[0]), int(high[1])


def inside(window: QWidget) -> tuple[int, int, int, int]:
    """Return the box of a window without its menus and its status bar."""
    top = window.menuBar().geometry().bottom() + 1
    return 0, top, window.width(), window.statusBar().geometry().top()


def save(picture: Image.Image, path: Path) -> None:
    """Write a picture with few colours, so that the repository stays small."""
    few = picture.convert("RGB").quantize(palette=palette_of([picture], COLOURS), dither=0)
    few.save(path, optimize=True)


def palette_of(pictures: Iterable[Image.Image], colours: int) -> Image.Image:
    """Return the colours that pictures need most, as a picture that holds them.

    A third are colours of the window: they are found often, exactly as they are, and must
    not be mixed, as those of two classes would be. The others share out the image.
    """
    pixels = [np.asarray(each.convert("RGBA")).view(np.uint32).ravel() for each in pictures]
    values, counts = np.unique(np.concatenate(pixels), return_counts=True)
    found = values.view(np.uint8).reshape(-1, 4)[:, :3]
    exact: list[npt.NDArray[np.int16]] = []
    for colour in found[counts.argsort()[::-1][:4000]].astype(np.int16):
        if all(np.abs(colour - other).sum() > _ALIKE for other in exact):
            exact.append(colour)
        if len(exact) == colours // 3:
            break
    weighed = np.repeat(found, np.ceil(np.sqrt(counts)).astype(int), axis=0)
    side = int(np.ceil(np.sqrt(len(weighed))))
    sheet = Image.fromarray(np.resize(weighed, (side * side, 3)).reshape(side, side, 3))
    others = sheet.quantize(colours - len(exact), Image.Quantize.MEDIANCUT, kmeans=1)
    palette = Image.new("P", (1, 1))
    palette.putpalette([int(n) for each in exact for n in each] + (others.getpalette() or []))
    return palette


# -- the scenes


def first(out: Path) -> None:
    """What one sees before anything is open."""
    stage = open_stage(out, (1100, 700), left=True)
    stage.wait_for_model()
    stage.shoot("first.png", whole=True)
    stage.viewer.close()


def smear(out: Path) -> None:
    """A click, all cells, the table."""
    stage = open_stage(out)
    stage.open("simulated-smear")
    stage.shoot("smear-open.png")

    _, truth = smear_with_truth()
    row = stage.click_middle(truth)
    stage.look_at(truth.centres[row])
    stage.wait_for_verdict()
    print(stage.said, stage.session.answer.rank_classes()[:3])
    stage.shoot("smear-cell.png")

    # Room for the table, which opens below the image.
    stage.viewer.window.resize(WINDOW[0], 860)
    stage.classify_all()
    stage.fit()
    print(stage.said)
    stage.shoot("smear-classified.png")
    stage.viewer.close()


def population(out: Path) -> None:
    """All cells at once: the table, the gallery, the map."""
    stage = open_stage(out, (1200, 860))
    field, _ = smear_with_truth((800, 1000), seed=3, n_white=40)
    stage.viewer.add_image(
        field.data, rgb=True, name="simulated smear", scale=(0.25, 0.25), units=("um", "um")
    )
    stage.wait_for_model("blood-cells")
    stage.classify_all()
    for name, title in (
        ("smear-table.png", "Table of cells"),
        ("gallery.png", "Gallery of cells"),
        ("map.png", "Map of cells"),
    ):
        dock = open_dock(stage.viewer, title)
        # Pictures of cells and their places are made beside the window.
        settle(4)
        maps = Population.of(stage.viewer).maps
        wait(lambda maps=maps: not maps.running, what="for the map")
        stage.shoot(name, dock_of(dock) or dock)
    stage.viewer.close()


def click(out: Path) -> None:
    """Click to classify, moving: a few real pictures of the window, and a drawn pointer."""
    stage = open_stage(out, (1060, 640))
    stage.open("simulated-smear")
    _, truth = smear_with_truth()
    apart = np.hypot(*(truth.centres - truth.centres.mean(axis=0)).T)
    centres = truth.centres[apart.argsort()[:2]]
    stage.look_at(centres.mean(axis=0), crops=3.0)
    film = Film(stage)
    start = film.place(centres.mean(axis=0)) + np.array([0, 160])
    film.rest(0.7, start)
    for centre in centres:
        end = film.place(centre)
        film.move(start, end)
        film.press(end)
        stage.click(centre)
        film.rest(0.5, end)
        stage.wait_for_verdict()
        film.rest(1.6, end)
        start = end
    stage.fit()
    film.rest(0.6, film.place(centres[-1]))
    button = next(
        each for each in stage.dock.findChildren(QPushButton) if each.text() == "Classify all"
    )
    end = film.place_of(button)
    film.move(film.place(centres[-1]), end)
    film.press(end)
    stage.classify_all()
    film.rest(2.2, end)
    film.write(out / "click.gif")
    stage.viewer.close()


@dataclasses.dataclass
class Film:
    """Pictures of a window, one after the other, with a pointer drawn into them."""

    stage: Stage
    width: int = 800
    frames: list[tuple[Image.Image, float]] = dataclasses.field(default_factory=list)
    _shown: Image.Image | None = None

    def place(self, centre: npt.NDArray[np.float64]) -> npt.NDArray[np.float64]:
        """Return where a place of the image is seen in the picture: x, y in pixels."""
        viewer, window = self.stage.viewer, self.stage.dock.window()
        world = np.array(self.stage.session.selection.image.data_to_world(centre)[-2:])
        from_middle = (world - viewer.scene.camera.center[-2:]) * viewer.scene.camera.zoom
        # The camera's centre is the middle of the canvas.
        return self.place_of(window.centralWidget()) + from_middle[::-1]

    def place_of(self, widget: QWidget) -> npt.NDArray[np.float64]:
        """Return where the middle of a widget is seen in the picture."""
        window = self.stage.dock.window()
        left, top, *_ = inside(window)
        at = widget.mapTo(window, widget.rect().center())
        return np.array([at.x() - left, at.y() - top], float)

    def look(self) -> Image.Image:
        """Take what the window shows now."""
        settle(0.4)
        return self.stage.grab().crop(inside(self.stage.dock.window()))

    def rest(self, seconds: float, at: npt.NDArray[np.float64] | None) -> None:
        """Show the window as it is for a while."""
        self._shown = self.look()
        self.frames.append((self._with_pointer(at), seconds))

    def move(self, start: npt.NDArray[np.float64], end: npt.NDArray[np.float64]) -> None:
        """Move the pointer over the picture shown last."""
        for part in np.linspace(0, 1, 7)[1:]:
            eased = part * part * (3 - 2 * part)
            self.frames.append((self._with_pointer(start + eased * (end - start)), 0.07))

    def press(self, at: npt.NDArray[np.float64]) -> None:
        """Show that the button is pressed."""
        self.frames.append((self._with_pointer(at, pressed=True), 0.25))

    def _with_pointer(
        self, at: npt.NDArray[np.float64] | None, *, pressed: bool = False
    ) -> Image.Image:
        assert self._shown is not None
        picture = self._shown.copy()
        if at is None:
            return picture
        draw = ImageDraw.Draw(picture)
        x, y = map(float, at)
        if pressed:
            draw.ellipse((x - 22, y - 22, x + 22, y + 22), outline="#ffb000", width=5)
        arrow = [(0, 0), (0, 26), (6, 20), (10, 29), (15, 27), (11, 18), (19, 18)]
        draw.polygon([(x + a, y + b) for a, b in arrow], fill="white", outline="black", width=2)
        return picture

    def write(self, path: Path, colours: int = 128) -> None:
        """Write the film as a GIF of few colours, the same in all frames.

        One palette and no dithering: a pixel that stays the same is then not written
        again, and the file stays small.
        """
        height = round(self.width * self.frames[0][0].height / self.frames[0][0].width)
        small = [
            picture.resize((self.width, height), Image.Resampling.LANCZOS)
            for picture, _ in self.frames
        ]
        palette = palette_of(small[::3] + small[-1:], colours)
        few = [picture.quantize(palette=palette, dither=0) for picture in small]
        few[0].save(
            path,
            save_all=True,
            append_images=few[1:],
            duration=[round(1000 * seconds) for _, seconds in self.frames],
            loop=0,
            optimize=False,
        )


def hologram(out: Path) -> None:
    """From the hologram to classified cells."""
    stage = open_stage(out)
    stage.viewer.open_sample("napari-sparseattn", "simulated-hologram")
    dock = open_dock(stage.viewer, "Holograms")
    panel, session = Holograms.of(stage.viewer), stage.session
    wait(lambda: panel.previews.shown is not None, what="for the preview")
    stage.fit()
    stage.shoot("hologram-preview.png")
    stage.shoot_dock("hologram-dock.png", dock)

    panel.work.reconstruct()
    wait(lambda: not panel.work.running, what="for the OPD")
    open_dock(stage.viewer, "Sparse attention")
    wait(
        lambda: (
            session.selection.model is not None
            and session.selection.model.bundle.card.modality == "opd"
        ),
        what="for a model of OPD",
    )
    cells = stage.classify_all()
    stage.click_middle(cells)
    stage.wait_for_verdict()
    stage.fit()
    print(stage.said)
    stage.shoot("hologram-cells.png")
    stage.viewer.close()


def slide(out: Path) -> None:
    """The class of a slide, and where the model looked."""
    stage = open_stage(out)
    stage.open("simulated-slide")
    stage.wait_for_model("tissue-simulated")
    stage.fit()
    stage.shoot("slide-open.png")
    session = stage.session
    session.slides.classify()
    wait(
        lambda: not session.status.running and session.answer is not None,
        seconds=1800,
        what="for the slide",
    )
    print(stage.said, session.answer.rank_classes()[:3])
    # The map of all patches; what one of them looked at would lie on top of it.
    session.slides.set_pyramid_choice(
        dataclasses.replace(session.slides.pyramid_choice, local=False)
    )
    session.slides.go_to_patch(int(session.slides.attention.rank_patches()[0]))
    stage.fit()
    stage.section("Result")
    stage.shoot("slide-attention.png")
    stage.section("Patches", alone=True)
    settle(2)
    stage.shoot("slide-patches.png", stage.box("GalleryBox"))
    stage.viewer.close()


def crops(out: Path) -> None:
    """The crops that a TNet took of a cell."""
    stage = open_stage(out)
    stage.open("simulated-smear")
    stage.wait_for_model("blood-cells-tnet")
    session = stage.session
    cells = stage.classify_all()
    large = np.flatnonzero(cells.diameters >= cells.diameters.max() / 2)
    cell = int(large[cells.diameters[large].argmin()])
    stage.click(cells.centres[cell])
    first = session.answer
    session.crops.set_locations((5, 1))
    wait(lambda: session.answer is not first, what="for other crops")
    stage.look_at(cells.centres[cell])
    print(stage.said, session.answer.rank_classes()[:3])
    stage.section("Result")
    stage.shoot("crops.png")
    stage.viewer.close()


def train(out: Path) -> None:
    """Cells of two classes of one's own, training, and what the model gained."""
    stage = open_stage(out, (1060, 820))
    field, cells = smear_with_truth((1300, 1700), seed=3, n_white=110)
    stage.viewer.add_image(
        field.data, rgb=True, name="simulated smear", scale=(0.25, 0.25), units=("um", "um")
    )
    dock = open_dock(stage.viewer, "Annotate and train")
    stage.wait_for_model("blood-cells")
    tuning = FineTuning.of(stage.viewer)
    annotating = tuning.annotating
    large = cells.diameters > np.median(cells.diameters)
    for centre, diameter, is_large in zip(cells.centres, cells.diameters, large, strict=True):
        name = "large white cell" if is_large else "small white cell"
        annotating.targets.annotate_cell(tuple(map(float, centre)), name, diameter=float(diameter))
        if not annotating.files.counts_here:
            wait(lambda: bool(annotating.files.counts_here), what="for the first annotation")
    stage.look_at(np.array(field.data.shape[:2]) / 2, crops=4)
    wait(lambda: tuning.survey.enough, what="for the count of annotations")
    stage.shoot("annotate.png")

    # All layers, so that there is a course to see: the last alone is fitted in a second.
    tuning.set_choices(freeze="none")
    tuning.start()
    wait(
        lambda: len(tuning.epochs) >= 4 or tuning.outcome.report is not None,
        seconds=1800,
        what="for epochs",
    )
    training = stage.section("Training", dock, alone=True)
    stage.shoot("train-curves.png", training)
    # It ends with the best so far, and reports on that.
    tuning.cancel()
    wait(lambda: tuning.outcome.report is not None, seconds=900, what="for the report")
    print(stage.said)
    settle()
    stage.section("Report", dock, alone=True)
    stage.fit()
    stage.shoot("train-report.png")
    stage.viewer.close()


def raters(out: Path) -> None:
    """Two raters: how far they agree, and one of the cells on which they differ."""
    stage = open_stage(out, (1060, 820))
    field, cells = smear_with_truth((700, 900), seed=3, n_white=30)
    stage.viewer.add_image(
        field.data, rgb=True, name="simulated smear", scale=(0.25, 0.25), units=("um", "um")
    )
    dock = open_dock(stage.viewer, "Annotate and train")
    stage.wait_for_model("blood-cells")
    annotating = FineTuning.of(stage.viewer).annotating
    wait(lambda: annotating.files.chosen is not None, what="for the image to be known")
    annotating.raters.set_name("Anna")
    rng = np.random.default_rng(0)
    white = np.flatnonzero(cells.diameters > np.median(cells.diameters))
    names = ("granulocyte", "lymphocyte", "monocyte")
    said = rng.integers(0, 3, len(white))
    for row, which in zip(white, said, strict=True):
        annotating.targets.annotate_cell(
            tuple(map(float, cells.centres[row])),
            names[which],
            diameter=float(cells.diameters[row]),
        )
    wait(lambda: sum(annotating.files.counts_here.values()) == len(white), what="for all of them")
    with tempfile.TemporaryDirectory() as place:
        other = Project(Path(place) / "Ben")
        book = other.open(annotating.files.chosen.record)
        book.rater = "Ben"
        for row, which in zip(white, said, strict=True):
            label = names[which if rng.random() < 0.8 else (which + 1) % 3]
            where = cells.centres[row] + rng.normal(0, 2, 2)
            book.add("cell", label, position=tuple(where), diameter_px=float(cells.diameters[row]))
        book.close()
        annotating.raters.add_project(other.folder)
        wait(
            lambda: sum(annotating.files.counts_here.values()) == 2 * len(white),
            what="for the colleague's",
        )
    annotating.raters.compare()
    wait(lambda: annotating.raters.found is not None, what="for the agreement")
    section = stage.section("Several raters", dock, alone=True)
    annotating.raters.next()
    settle(1.0)
    scroll(dock, section)
    stage.shoot("raters.png")
    annotating.raters.set_name("")
    stage.viewer.close()


def evidence(out: Path) -> None:
    """Whether those pixels decided: one cell, what if, all cells; and the export."""
    stage = open_stage(out, (1060, 820))
    stage.open("simulated-smear")
    cells = stage.classify_all()
    row = stage.click_middle(cells)
    stage.wait_for_verdict()
    stage.look_at(cells.centres[row])
    stage.section("Result")
    stage.shoot("evidence-cell.png")

    box = stage.box("FaithfulnessBox")
    box.curves.click()
    settle()
    scroll(stage.dock, box)
    stage.shoot("evidence-curves.png", box)
    box.curves.click()

    what_ifs = WhatIfSession.of(stage.viewer)
    what_ifs.draw("lasso")
    outlines = what_ifs.layers.outlines(stage.session.selection.image, (), make=False)
    turns = np.linspace(0, 2 * np.pi, 40, endpoint=False)
    radius = 0.6 * cells.diameters[row]
    ring = cells.centres[row] + radius * np.stack([np.sin(turns), np.cos(turns)], axis=1)
    outlines.add_polygons([ring])
    what_ifs.ask("remove")
    wait(lambda: bool(what_ifs.entries), what="for a what-if")
    stage.section("What if")
    stage.shoot("what-if.png")
    what_ifs.clear()

    measuring = CellFaithfulness.of(stage.viewer)
    measuring.measure_all()
    wait(lambda: len(measuring.cells()) == len(cells.centres), seconds=600, what="for all cells")
    stage.shoot("evidence-cells.png", stage.section("Faithfulness per cell", alone=True))

    exporting = ExportSession.of(stage.viewer)
    exporting.set_folder(Path("results"))
    for name in ("csv", "geojson", "html"):
        exporting.choose(name, True)
    stage.shoot("export.png", stage.section("Export", alone=True))
    stage.viewer.close()


def batch(out: Path) -> None:
    """A folder of smears, one of which cannot be read."""
    from tifffile import imwrite

    folder = Path("smears")
    for first, sample in ((0, "control"), (3, "treated")):
        (folder / sample).mkdir(parents=True)
        for number in range(1, 4):
            field, _ = smear_with_truth((320, 420), seed=first + number)
            imwrite(
                folder / sample / f"field_{number}.tif", field.data, resolution=(40_000, 40_000),
                resolutionunit="CENTIMETER",
            )  # fmt: skip
    (folder / "treated" / "field_4.tif").write_bytes(b"no image")

    stage = open_stage(out)
    stage.wait_for_model("blood-cells")
    dock = open_dock(stage.viewer, "Batch")
    work = Batch.of(stage.viewer)
    work.add_inputs([str(folder)])
    wait(lambda: len(work.states) == 7, what="for the files")
    work.choices.set_out(Path("results"))
    work.choices.set_formats(("csv", "geojson"))
    work.choices.set_workers(1)
    stage.viewer.window.resize(WINDOW[0], 820)
    settle()
    options = stage.section("Options", dock)
    scroll(dock)
    stage.shoot_dock("batch-ready.png", dock)
    work.start()
    wait(lambda: work.running, what="for the batch to begin")
    wait(lambda: not work.running, seconds=600, what="for the batch")
    options.collapse(animate=False)
    scroll(dock)
    work.open_row(0)
    wait(lambda: stage.session.selection.image is not None, what="for a result")
    stage.fit()
    settle(2)
    print(stage.said)
    stage.shoot("batch-done.png")
    stage.viewer.close()


# -- all of them


def main() -> int:
    """Take the scenes; returns 1 if one of them failed."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--out", type=Path, default=PICTURES)
    parser.add_argument("--only", nargs="+", choices=list(SCENES), default=list(SCENES))
    parser.add_argument("--here", choices=list(SCENES), help=argparse.SUPPRESS)
    options = parser.parse_args()
    out = options.out.resolve()
    out.mkdir(parents=True, exist_ok=True)
    if options.here:
        take(options.here, out)
        return 0
    failed = [name for name in options.only if not take_alone(name, out)]
    total = sum(path.stat().st_size for path in out.iterdir() if path.is_file())
    print(f"{total / 1e6:.2f} MB in {out.name}; failed: {', '.join(failed) or 'none'}")
    return 1 if failed else 0


def take_alone(name: str, out: Path) -> bool:
    """Take one scene's pictures in a process of its own; returns whether it could.

    Whatever ends one, the others show other parts of the window. And neither settings,
    annotations, models nor kept features of whoever runs this shall show.
    """
    command = [sys.executable, str(Path(__file__).resolve()), "--out", str(out), "--here", name]
    with tempfile.TemporaryDirectory() as folder:
        kept = {
            "NAPARI_CONFIG": "settings.yaml",
            "NAPARI_SPARSEATTN_ANNOTATIONS": "annotations",
            "NAPARI_SPARSEATTN_MODELS": "models",
            "NAPARI_SPARSEATTN_CACHE": "cache",
        }
        own = {variable: f"{folder}/{place}" for variable, place in kept.items()}
        # What a scene writes is named in the window without this folder.
        return not subprocess.run(
            command, check=False, cwd=folder, env={**os.environ, **own}
        ).returncode


def take(name: str, out: Path) -> None:
    """Take one scene's pictures, and say what that cost."""
    begun = time.monotonic()
    scene(name)(out)
    spent = sum(os.times()[:4])
    print(f"{name}: {time.monotonic() - begun:.0f} s, {spent:.0f} s of processor time", flush=True)
    missing = [picture for picture in SCENES[name] if not (out / picture).exists()]
    if missing:
        raise FileNotFoundError(f"the scene {name} has not taken {', '.join(missing)}")


def scene(name: str) -> Callable[[Path], None]:
    """Return the function that takes a scene's pictures."""
    taken: Any = globals()[name]
    return taken  # type: ignore[no-any-return]


if __name__ == "__main__":
    sys.exit(main())
