"""What of the docks can be reached by keys, is named, and stands out, in both themes of napari.

    python benchmarks/accessibility.py [--only smear slide] [--all]

Opens the real window (under Xvfb where there is no display), brings each dock into its states,
unfolds all of it, and measures every control that is shown and not disabled:

reach     the Tab key comes to it
order     the Tab key comes to it after what stands before it (above, or left in the same line), and
          to nothing that is no control
name      what a screen reader would call it: its own text, its accessible name, or its label's
focus     share of a line of one pixel around it that changes by 3 : 1 when it gets the focus
text      contrast of its letters on their ground, of 4.5 : 1; of labels too, each colour by itself
edge      contrast of the edge of a box, a mark or a handle with what is around it, of 3 : 1

Contrast is that of WCAG 2.2 (relative luminance of sRGB), taken from the pixels of the window,
drawn three times as large, so that thin letters have pixels of the whole ink; colours inside of a
label come from its text. Printed is what falls short, and the least of each kind.
"""

from __future__ import annotations

import argparse
import dataclasses
import itertools
import os
import tempfile
import time
from collections.abc import Callable, Iterable, Iterator
from typing import Any

import numpy as np
import numpy.typing as npt
from qtpy.QtCore import QPoint, QRect, Qt
from qtpy.QtGui import QColor, QImage, QPainter, QTextDocument
from qtpy.QtTest import QTest
from qtpy.QtWidgets import (
    QAbstractButton,
    QAbstractItemView,
    QAbstractScrollArea,
    QAbstractSlider,
    QAbstractSpinBox,
    QApplication,
    QCheckBox,
    QComboBox,
    QHeaderView,
    QLabel,
    QLineEdit,
    QListView,
    QPlainTextEdit,
    QProgressBar,
    QRadioButton,
    QScrollBar,
    QSlider,
    QStyle,
    QStyleOptionButton,
    QTextEdit,
    QWidget,
)

#: What each kind has to reach.
NEEDED = {"reach": 1.0, "order": 1.0, "name": 1.0, "focus": 0.5, "text": 4.5, "edge": 3.0}
THEMES = ("dark", "light")
#: Drawn so much larger: letters are then wider than the seam that is drawn smooth.
_FINE = 3
_FIELDS = (QComboBox, QAbstractSpinBox, QLineEdit, QTextEdit, QPlainTextEdit)
_CONTROLS = (*_FIELDS, QAbstractButton, QAbstractSlider, QAbstractItemView)
#: What carries a colour's meaning beside a word is no letter.
_MARKS = "●■▣◉"


@dataclasses.dataclass(frozen=True)
class Found:
    """One thing that was measured of one widget."""

    theme: str
    place: str
    widget: str
    kind: str
    value: float

    @property
    def fails(self) -> bool:
        """Whether it falls short."""
        return self.value < NEEDED[self.kind] - 0.005


# -- contrast


def luminance(colours: npt.NDArray[np.float64]) -> npt.NDArray[np.float64]:
    """Return the relative luminance of sRGB colours (..., 3) of 0 to 255."""
    share = np.asarray(colours, dtype=np.float64) / 255
    linear = np.where(share <= 0.04045, share / 12.92, ((share + 0.055) / 1.055) ** 2.4)
    weighed: npt.NDArray[np.float64] = linear @ np.array([0.2126, 0.7152, 0.0722])
    return weighed


def contrast(one: Any, other: Any) -> npt.NDArray[np.float64]:
    """Return the contrast of colours (..., 3), 1 to 21."""
    a, b = luminance(np.asarray(one)), luminance(np.asarray(other))
    ratio: npt.NDArray[np.float64] = (np.maximum(a, b) + 0.05) / (np.minimum(a, b) + 0.05)
    return ratio


def pixels_of(image: QImage) -> npt.NDArray[np.uint8]:
    """Return a picture of Qt's (H, W, 3)."""
    plain = image.convertToFormat(QImage.Format.Format_RGB888)
    bits = plain.constBits()
    bits.setsize(plain.sizeInBytes())
    rows = np.frombuffer(bits, np.uint8).reshape(plain.height(), plain.bytesPerLine())
    return rows[:, : 3 * plain.width()].reshape(plain.height(), plain.width(), 3).copy()


def draw(widget: QWidget, ground: QColor, fine: int = _FINE) -> npt.NDArray[np.uint8]:
    """Return a widget as it is drawn on a ground, some times as large (H, W, 3)."""
    image = QImage(widget.size() * fine, QImage.Format.Format_RGB32)
    image.setDevicePixelRatio(fine)
    image.fill(ground)
    painter = QPainter(image)
    flags = QWidget.RenderFlag.DrawChildren | QWidget.RenderFlag.DrawWindowBackground
    # A view of Qt's own draws its scene by this name.
    QWidget.render(widget, painter, QPoint(), flags=flags)
    painter.end()
    return pixels_of(image)


def counted(pixels: npt.NDArray[np.uint8]) -> tuple[npt.NDArray[np.uint8], npt.NDArray[np.intp]]:
    """Return the colours of a picture, the most frequent first, and how often each is there."""
    flat = np.ascontiguousarray(pixels.reshape(-1, 3))
    packed = flat.astype(np.uint32) @ np.array([1 << 16, 1 << 8, 1], np.uint32)
    values, counts = np.unique(packed, return_counts=True)
    order = counts.argsort()[::-1]
    values = values[order]
    colours = np.stack([values >> 16, values >> 8 & 255, values & 255], axis=1)
    return colours.astype(np.uint8), counts[order]


def contrast_of_letters(pixels: npt.NDArray[np.uint8]) -> float:
    """Return the contrast of the ink of letters with the most frequent colour, their ground."""
    colours, counts = counted(pixels)
    often = counts >= 4 * _FINE
    return float(contrast(colours[often], colours[0]).max()) if often.any() else 21.0


def contrast_of_edge(pixels: npt.NDArray[np.uint8], ground: QColor, depth: int = 4) -> float:
    """Return the contrast with the ground of the side of a box that stands out most."""
    deep = depth * _FINE
    ratio = contrast(pixels, ground.getRgb()[:3])
    sides = (
        ratio[:deep].max(0), ratio[-deep:].max(0),
        ratio[:, :deep].max(1), ratio[:, -deep:].max(1),
    )  # fmt: skip
    return max(float(np.median(side)) for side in sides)


# -- widgets


def controls(dock: QWidget) -> list[QWidget]:
    """Return what can be worked with in a dock: shown, not disabled, no part of another."""
    return [each for each in dock.findChildren(QWidget) if _is_control(each)]


def _is_control(widget: QWidget) -> bool:
    if not (widget.isVisible() and widget.isEnabled()):
        return False
    parent = widget.parentWidget()
    inside = (QComboBox, QAbstractSpinBox, QHeaderView, QLineEdit)
    if isinstance(widget, (QScrollBar, QHeaderView)) or isinstance(parent, inside):
        return False
    if isinstance(parent, QAbstractItemView) and isinstance(widget, QAbstractButton):
        return False
    ours = type(widget).__module__.startswith("napari_sparseattn")
    # A picture that shows something now, and is to be pressed at other times.
    ours = ours and getattr(widget, "pickable", True)
    presses = ("mousePressEvent", "mouseReleaseEvent", "keyPressEvent")
    pressed = ours and any(set(presses) & {*vars(kind)} for kind in _own_kinds(widget))
    links = isinstance(widget, QLabel) and "href=" in widget.text()
    return isinstance(widget, _CONTROLS) or pressed or links


def _own_kinds(widget: QWidget) -> Iterator[type]:
    return (k for k in type(widget).__mro__ if k.__module__.startswith("napari_sparseattn"))


def name_of(widget: QWidget) -> str:
    """Return what a screen reader calls a widget, as Qt finds it."""
    if widget.accessibleName():
        return str(widget.accessibleName())
    if isinstance(widget, QAbstractButton) and widget.text():
        # A sign is no word.
        return widget.text() if any(c.isalnum() for c in widget.text()) else ""
    if isinstance(widget, QLabel):
        return str(widget.text())
    parent = widget.parentWidget()
    for label in () if parent is None else parent.findChildren(QLabel):
        if label.buddy() is widget:
            return str(label.text())
    return ""


def title_of(widget: QWidget) -> str:
    """Return a name to print."""
    said = name_of(widget) or getattr(widget, "placeholderText", str)() or widget.toolTip()[:40]
    return f"{type(widget).__name__} {' '.join(said.split())[:40]!r}"


def walk(dock: QWidget, most: int = 400) -> list[QWidget]:
    """Return what the Tab key comes to in a dock, in order; leaving the dock ends it."""
    first = dock.nextInFocusChain()
    while first is not dock and not (dock.isAncestorOf(first) and _takes_tab(first)):
        first = first.nextInFocusChain()
    if first is dock:
        return []
    activate(dock)
    first.setFocus(Qt.FocusReason.TabFocusReason)
    seen: list[QWidget] = []
    for _ in range(most):
        at = QApplication.focusWidget()
        if at is None or not dock.isAncestorOf(at) or at in seen:
            break
        seen.append(at)
        QTest.keyClick(at, Qt.Key.Key_Tab)
    return seen


def activate(dock: QWidget) -> None:
    """Let a window have the keys, also where no window manager gives them to it."""
    window = dock.window()
    window.activateWindow()
    if QApplication.mouseButtons() != Qt.MouseButton.NoButton:
        # Left pressed by whoever was here before: the ring would stay away.
        QTest.mouseRelease(window, Qt.MouseButton.LeftButton)
    QTest.qWaitForWindowActive(window)


def _takes_tab(widget: QWidget) -> bool:
    tab = Qt.FocusPolicy.TabFocus
    return widget.isVisible() and widget.isEnabled() and widget.focusPolicy() & tab == tab


def come_before(one: QWidget, other: QWidget, within: QWidget) -> bool:
    """Whether one thing is read before another: above it, or left of it in the same line."""
    a, b = (QRect(w.mapTo(within, QPoint(0, 0)), w.size()) for w in (one, other))
    above = a.bottom() <= b.top() and a.left() < b.right()
    line = min(a.bottom(), b.bottom()) - max(a.top(), b.top()) > min(a.height(), b.height()) / 2
    return above or (line and a.right() <= b.left())


def focus_seen(widget: QWidget, dock: QWidget) -> float:
    """Return how much of a line around a widget changes visibly when it gets the focus."""
    window = dock.window()
    dock.setFocus(Qt.FocusReason.OtherFocusReason)
    if (at := QApplication.focusWidget()) is not None:
        at.clearFocus()
    show_within(widget)
    before = _grab_around(widget, window)
    widget.setFocus(Qt.FocusReason.TabFocusReason)
    QApplication.processEvents()
    show_within(widget)
    after = _grab_around(widget, window)
    if before.shape != after.shape:
        return 0.0
    changed = int((contrast(before, after) >= 3).sum())
    height, width = after.shape[:2]
    return changed / max(2 * (height + width), 1)


def _chosen_of(widget: QWidget) -> QWidget | None:
    """Return the one of several of which one is on: arrow keys go from it to the others."""
    group = widget.group() if isinstance(widget, QAbstractButton) else None
    return group.checkedButton() if group is not None and group.exclusive() else None


def _grab_around(widget: QWidget, window: QWidget) -> npt.NDArray[np.uint8]:
    seen = widget.visibleRegion().boundingRect().adjusted(-3, -3, 3, 3)
    return pixels_of(
        window.grab(QRect(widget.mapTo(window, seen.topLeft()), seen.size())).toImage()
    )


def show_within(widget: QWidget) -> None:
    """Scroll a widget into view."""
    parent = widget.parentWidget()
    while parent is not None:
        area = parent.parentWidget()
        if isinstance(area, QAbstractScrollArea) and hasattr(area, "ensureWidgetVisible"):
            area.ensureWidgetVisible(widget, 6, 6)
        parent = area
    QApplication.processEvents()


# -- measuring


def measure_keys(theme: str, place: str, dock: QWidget) -> list[Found]:
    """Return what the keys reach in a dock, in which order, what is named and what is seen."""
    found = []
    walked = walk(dock)
    for widget in controls(dock):
        title = title_of(widget)
        reached = bool({widget, widget.focusProxy(), _chosen_of(widget)} & {*walked})
        found.append(Found(theme, place, title, "reach", float(reached)))
        found.append(Found(theme, place, title, "name", float(bool(name_of(widget)))))
        if reached:
            found.append(Found(theme, place, title, "focus", focus_seen(widget, dock)))
    for a, b in itertools.pairwise(walked):
        right = not come_before(b, a, dock)
        found.append(
            Found(theme, place, f"{title_of(b)} after {title_of(a)}", "order", float(right))
        )
    found += [
        Found(theme, place, f"{title_of(each)} is no control", "order", 0.0)
        for each in walked
        if each not in controls(dock)
    ]
    return found


def measure_contrast(theme: str, place: str, dock: QWidget) -> list[Found]:
    """Return the contrast of the letters and edges of a dock."""
    ground = dock.palette().color(dock.backgroundRole())
    found = []
    for widget in dock.findChildren(QWidget):
        if not (widget.isVisible() and widget.isEnabled()) or not widget.size().isValid():
            continue
        title = title_of(widget)
        for kind, value in _contrasts(widget, ground):
            found.append(Found(theme, place, title, kind, value))
    return found


def _contrasts(widget: QWidget, ground: QColor) -> Iterator[tuple[str, float]]:
    if isinstance(widget, QLabel):
        if widget.text() and any(c.isalnum() for c in widget.text()):
            yield "text", contrast_of_letters(draw(widget, ground))
            yield from (("text", ratio) for ratio in _inner_colours(widget, ground))
        return
    if not _is_control(widget) and not isinstance(widget, QProgressBar):
        return
    pixels = draw(widget, ground)
    if isinstance(widget, (QCheckBox, QRadioButton)):
        yield "text", contrast_of_letters(pixels)
        option = QStyleOptionButton()
        widget.initStyleOption(option)
        what = QStyle.SubElement.SE_CheckBoxIndicator
        if isinstance(widget, QRadioButton):
            what = QStyle.SubElement.SE_RadioButtonIndicator
        box = widget.style().subElementRect(what, option, widget)
        top, left = _FINE * box.top(), _FINE * box.left()
        mark = pixels[top : top + _FINE * box.height(), left : left + _FINE * box.width()]
        yield "edge", contrast_of_edge(mark, ground, 2)
    elif isinstance(widget, QSlider):
        yield "edge", contrast_of_letters(pixels)
    elif isinstance(widget, _FIELDS):
        yield "text", contrast_of_letters(pixels)
        yield "edge", contrast_of_edge(pixels, ground)
    elif isinstance(widget, QAbstractItemView):
        if _has_words(widget):
            yield "text", contrast_of_letters(draw(widget.viewport(), ground))
        yield from (("text", ratio) for ratio in _item_colours(widget, ground))
    elif isinstance(widget, QAbstractButton) and not widget.text():
        yield "edge", contrast_of_letters(pixels)
    else:
        yield "text", contrast_of_letters(pixels)


def _inner_colours(label: QLabel, ground: QColor) -> Iterator[float]:
    """Yield the contrast of each colour that words of a label have."""
    if not Qt.mightBeRichText(label.text()):
        return
    document = QTextDocument()
    document.setHtml(label.text())
    block = document.begin()
    while block.isValid():
        piece = block.begin()
        while not piece.atEnd():
            fragment = piece.fragment()
            brush = fragment.charFormat().foreground()
            words = fragment.text().strip()
            if words and words not in _MARKS and brush.style() != Qt.BrushStyle.NoBrush:
                yield float(contrast(brush.color().getRgb()[:3], ground.getRgb()[:3]))
            piece += 1
        block = block.next()


def _has_words(view: QAbstractItemView) -> bool:
    """Return whether a list or table shows words, and not pictures alone."""
    model = view.model()
    # Of a list, Qt keeps the number of columns to itself.
    columns = 1 if isinstance(view, QListView) else model.columnCount()
    cells = ((row, column) for row in range(model.rowCount()) for column in range(columns))
    return any(model.data(model.index(*cell)) for cell in cells)


def _item_colours(view: QAbstractItemView, ground: QColor) -> Iterator[float]:
    """Yield the contrast of each colour that letters of a list or table have."""
    model, seen = view.model(), set()
    colours, _ = counted(draw(view.viewport(), ground, 1))
    for row in range(min(model.rowCount(), 40)):
        for column in range(1 if isinstance(view, QListView) else model.columnCount()):
            ink = model.data(model.index(row, column), Qt.ItemDataRole.ForegroundRole)
            if isinstance(ink, QColor) and ink.name() not in seen:
                seen.add(ink.name())
                yield float(contrast(ink.getRgb()[:3], colours[0]))


# -- the window's states


def measure(viewer: Any, place: str, docks: Iterable[QWidget], wait: Any) -> list[Found]:
    """Return all that is measured of some docks, in both themes."""
    found = []
    for theme in THEMES:
        viewer.theme = theme
        wait(0.3)
        for dock in docks:
            raise_dock(dock)
            wait(0.3)
            where = f"{place}: {type(dock).__name__}"
            found += measure_contrast(theme, where, dock)
            found += measure_keys(theme, where, dock)
    viewer.theme = THEMES[0]
    return found


def raise_dock(dock: QWidget) -> None:
    """Bring a dock to the front of those that share its place."""
    from napari_sparseattn.plugin.core.docks import dock_of

    holder = dock_of(dock)
    if holder is not None:
        holder.show()
        holder.raise_()


def unfold(dock: QWidget) -> None:
    """Open all sections of a dock."""
    from superqt import QCollapsible

    for each in dock.findChildren(QCollapsible):
        each.expand(animate=False)


class States:
    """The window in its states, each with the docks that are measured in it."""

    def __init__(self) -> None:
        import napari

        from napari_sparseattn.plugin.core.docks import open_dock
        from napari_sparseattn.plugin.session import Session

        self.viewer = napari.Viewer()
        self.pause(0.5)
        self.viewer.window.resize(1500, 950)
        self.main = open_dock(self.viewer, "Sparse attention")
        self.session = Session.of(self.viewer)
        self.wait(lambda: self.session.selection.model is not None)

    def pause(self, seconds: float) -> None:
        """Let Qt work for some time."""
        end = time.monotonic() + seconds
        self.wait(lambda: time.monotonic() > end)

    def wait(self, until: Callable[[], object], seconds: float = 600) -> None:
        """Let Qt work until something is true."""
        end = time.monotonic() + seconds
        while not until():
            if time.monotonic() > end:
                said = getattr(getattr(self, "session", None), "status", None)
                raise TimeoutError(f"waited in vain: {getattr(said, 'message', '')}")
            QApplication.processEvents()
            time.sleep(0.002)

    def dock(self, title: str) -> QWidget:
        """Open a dock, with all that it has unfolded."""
        from napari_sparseattn.plugin.core.docks import open_dock

        made = open_dock(self.viewer, title)
        self.pause(0.5)
        unfold(made)
        self.pause(0.5)
        return made

    def model(self, name: str) -> None:
        """Take a model."""
        from napari_sparseattn.plugin.core.models import prepare_model

        self.wait(lambda: self.session.selection.model is not None)
        if self.session.selection.model.bundle.card.name != name:
            self.session.selection.set_model(prepare_model(name, "cpu"))
        self.pause(0.5)

    def start(self) -> list[QWidget]:
        """Nothing is open."""
        unfold(self.main)
        return [self.main, self.dock("Holograms"), self.dock("Annotate and train"),
                self.dock("Batch")]  # fmt: skip

    def smear(self) -> list[QWidget]:
        """All cells of a smear, and one of them."""
        from napari_sparseattn.plugin.compare.session import Compare
        from napari_sparseattn.plugin.evidence.session import AnswerFaithfulness
        from napari_sparseattn.plugin.population.session import Population

        self.viewer.open_sample("napari-sparseattn", "simulated-smear")
        self.pause(1)
        self.model("blood-cells")
        session = self.session
        session.cells.classify_all()
        self.wait(lambda: not session.status.running and session.cells.results is not None)
        session.cells.click_cell(3)
        self.wait(lambda: session.answer is not None)
        evidence = AnswerFaithfulness.of(self.viewer)
        self.wait(lambda: evidence.measured is not None)
        docks = [self.dock(f"{kind} of cells") for kind in ("Table", "Gallery", "Map")]
        maps = Population.of(self.viewer).maps
        self.wait(lambda: not maps.running)
        raise_dock(self.main)
        unfold(self.main)
        compare = Compare.of(self.viewer)
        compare.set_number(compare.most // 2)
        compare.compare_all()
        self.wait(lambda: compare.every is not None)
        self.main.result_box.faithfulness.curves.setChecked(True)
        self.pause(1)
        return [self.main, *docks, self.dock("Annotate and train")]

    def crops(self) -> list[QWidget]:
        """The crops of a cell."""
        self.viewer.open_sample("napari-sparseattn", "simulated-smear")
        self.pause(1)
        self.model("blood-cells-tnet")
        session, before = self.session, self.session.answer
        session.cells.classify_all()
        self.wait(lambda: not session.status.running and session.cells.results is not None)
        session.cells.click_cell(3)
        self.wait(lambda: session.answer is not None and session.answer is not before)
        raise_dock(self.main)
        unfold(self.main)
        self.pause(1)
        return [self.main]

    def hologram(self) -> list[QWidget]:
        """A hologram with its preview."""
        from napari_sparseattn.plugin.holograms.session import Holograms

        self.viewer.open_sample("napari-sparseattn", "simulated-hologram")
        dock = self.dock("Holograms")
        previews = Holograms.of(self.viewer).previews
        self.wait(lambda: previews.shown is not None)
        self.pause(1)
        return [dock, self.main]

    def slide(self) -> list[QWidget]:
        """A classified slide."""
        self.viewer.open_sample("napari-sparseattn", "simulated-slide")
        self.pause(1)
        self.model("tissue-simulated")
        session = self.session
        session.slides.classify()
        self.wait(lambda: not session.status.running and session.answer is not None, 1800)
        raise_dock(self.main)
        unfold(self.main)
        self.pause(2)
        return [self.main]

    def batch(self) -> list[QWidget]:
        """A batch that has ended, with a file that failed."""
        dock, work = self.queue(1)
        self.wait(lambda: not work.running)
        # That with results: its words and "Show result" are there as well.
        dock.queue_box.table.selectRow([state.state for state in work.states].index("done"))
        self.pause(1)
        return [dock]

    def busy(self) -> list[QWidget]:
        """A batch at work, for longer than measuring takes."""
        dock, work = self.queue(400)
        self.wait(lambda: any(state.state == "done" for state in work.states))
        return [dock]

    def queue(self, count: int) -> tuple[Any, Any]:
        """Start a batch of images, and of a file that is none; return its dock and the work."""
        from pathlib import Path

        from tifffile import imwrite

        from napari_sparseattn.plugin.batch.session import Batch
        from napari_sparseattn.simulate.smears import smear_with_truth

        folder = Path(tempfile.mkdtemp())
        field, _ = smear_with_truth((200, 260), seed=1)
        for i in range(count):
            imwrite(folder / f"image {i}.tif", field.data, resolution=(40_000, 40_000),
                    resolutionunit="CENTIMETER")  # fmt: skip
        (folder / "none.tif").write_bytes(b"no image")
        self.model("blood-cells")
        dock, work = self.dock("Batch"), Batch.of(self.viewer)
        work.cancel()
        self.wait(lambda: not work.running)
        work.choices.clear()
        # Another folder for the results has the files looked for once more: it comes first.
        work.choices.set_out(folder / "results")
        work.choices.set_workers(1)
        work.add_inputs([str(folder)])
        self.wait(lambda: len(work.states) == count + 1 and not work.searching)
        if work.start() is None:
            raise RuntimeError(f"the batch did not start: {work.status.message}")
        return dock, work


STATES = ("start", "smear", "crops", "hologram", "slide", "batch", "busy")


def tell(found: list[Found], everything: bool) -> None:
    """Print what falls short, or all."""
    for each in sorted(set(found), key=lambda f: (f.kind, f.widget, f.theme, f.value)):
        if everything or each.fails:
            mark = "short" if each.fails else "     "
            where = f"{each.theme:5s} {each.place}: {each.widget}"
            print(f"{mark} {each.kind:6s} {each.value:6.2f}  {where}", flush=True)


def summarise(found: list[Found]) -> None:
    """Print how many fall short, and the least of each kind."""
    print(f"{'kind':6s} {'theme':6s} {'measured':>8s} {'short':>6s} {'least':>6s}  of")
    for kind, needed in NEEDED.items():
        for theme in THEMES:
            these = [f for f in found if f.kind == kind and f.theme == theme]
            if these:
                least = min(these, key=lambda f: f.value)
                short = sum(f.fails for f in these)
                print(
                    f"{kind:6s} {theme:6s} {len(these):8d} {short:6d} {least.value:6.2f}  "
                    f"{least.place}: {least.widget} (needs {needed:g})"
                )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--only", nargs="+", choices=STATES, default=list(STATES))
    parser.add_argument("--all", action="store_true", help="print what does not fall short, too")
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        os.environ["NAPARI_SPARSEATTN_MODELS"] = f"{folder}/models"
        os.environ["NAPARI_SPARSEATTN_ANNOTATIONS"] = f"{folder}/project"
        os.environ["NAPARI_SPARSEATTN_CACHE"] = f"{folder}/cache"
        states = States()
        found: list[Found] = []
        for name in options.only:
            states.viewer.layers.clear()
            docks = getattr(states, name)()
            these = measure(states.viewer, name, docks, states.pause)
            tell(these, options.all)
            found += these
        print("all together:")
        summarise(found)
        states.viewer.close()


if __name__ == "__main__":
    main()
