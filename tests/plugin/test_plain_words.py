"""No jargon in sight: what is written in the docks, walked through widget by widget.

Terms of the field stand in tooltips and in the glossary.
"""

from __future__ import annotations

import html
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from qtpy.QtCore import Qt
from qtpy.QtWidgets import (
    QAbstractButton,
    QComboBox,
    QGroupBox,
    QLabel,
    QLineEdit,
    QListWidget,
    QProgressBar,
    QTabBar,
    QTableView,
    QTableWidget,
    QWidget,
)

from napari_sparseattn.plugin.core.docks import DOCKS, open_dock
from napari_sparseattn.plugin.core.models import Model
from napari_sparseattn.plugin.evidence.session import AnswerFaithfulness

from .conftest import CENTRES, add_picture
from .made_slides import add_slide, keep_features_in
from .main.test_window import Window, make_window, window

__all__ = ["make_window", "window"]  # fixtures

#: Words that a biologist need not know; whole words.
JARGON = (
    r"uniform", r"(attention )?heads?", r"K", r"k =", r"logits?", r"ECE", r"level-0",
    r"vs\.? random", r"AUC", r"IoU", r"Spearman(?:'s)?", r"bootstrap(?:ped)?", r"Wilson",
    r"tokens?", r"softmax", r"Mahalanobis", r"log₁₀", r"macro F1", r"AOPC",
    r"p-value", r"embeddings?",
)  # fmt: skip
_WORDS = re.compile(rf"(?<![\w-])(?:{'|'.join(JARGON)})(?![\w-])")
_TAGS = re.compile(r"<[^>]*>")


def plain(text: str) -> str:
    return html.unescape(_TAGS.sub(" ", text)).replace("\N{ZERO WIDTH SPACE}", "")


def texts_of(widget: QWidget) -> Iterator[str]:
    """Return what can be read on a widget and in it, whether it is folded away or not."""
    for each in (widget, *widget.findChildren(QWidget)):
        if isinstance(each, QLabel | QAbstractButton | QLineEdit):
            yield each.text()
        if isinstance(each, QLineEdit):
            yield each.placeholderText()
        if isinstance(each, QComboBox):
            yield from (each.itemText(i) for i in range(each.count()))
        if isinstance(each, QProgressBar):
            yield each.format()
        if isinstance(each, QGroupBox):
            yield each.title()
        if isinstance(each, QTabBar):
            yield from (each.tabText(i) for i in range(each.count()))
        if isinstance(each, QListWidget):
            yield from (each.item(i).text() for i in range(each.count()))
        if isinstance(each, QTableWidget):
            items = (each.item(i, j) for i in range(each.rowCount()) for j in range(3))
            yield from (item.text() for item in items if item is not None)
        if isinstance(each, QTableView) and (model := each.model()) is not None:
            across = Qt.Orientation.Horizontal
            heads = (model.headerData(i, across) for i in range(model.columnCount()))
            yield from (str(head) for head in heads if head is not None)
        # Of plots, which paint what they say.
        yield from (str(getattr(each, name, "")) for name in ("title", "axis"))


def jargon_in(widget: QWidget) -> list[str]:
    return [text for text in map(plain, texts_of(widget)) if _WORDS.search(text)]


def test_the_words_are_found_where_they_are(qtbot: Any) -> None:
    outer = QWidget()
    qtbot.addWidget(outer)
    for text in ("3 × uniform", "Crops per level (K)", "<b>vs. random</b>: +0.61", "all heads"):
        QLabel(text, outer)
        assert jargon_in(outer) == [plain(text)]
        outer.findChildren(QLabel)[0].setText("overhead, Kinds, a keen eye")
        assert jargon_in(outer) == []
        outer.findChildren(QLabel)[0].setParent(None)


@pytest.mark.slow
def test_the_other_docks_speak_plainly(window: Window) -> None:
    add_picture(window.viewer)
    titles = sorted({*DOCKS} - {"Sparse attention"})
    found = {title: jargon_in(open_dock(window.viewer, title)) for title in titles}
    assert found == {title: [] for title in titles}


@pytest.mark.slow
def test_the_dock_speaks_plainly_of_cells(window: Window) -> None:
    image = add_picture(window.viewer)
    assert jargon_in(window.dock) == []
    window.dock.actions_box.all.click()
    window.until(lambda: window.session.cells.results is not None)
    window.session.cells.click(image.data_to_world(CENTRES[3]))
    evidence = AnswerFaithfulness.of(window.viewer)
    window.until(lambda: evidence.measured is not None)
    window.dock.result_box.faithfulness.curves.click()
    assert window.dock.result_box.sentence.text()
    assert jargon_in(window.dock) == []


@pytest.mark.slow
def test_the_dock_speaks_plainly_of_crops(window: Window, tnet_model: Model) -> None:
    add_picture(window.viewer)
    window.session.selection.set_model(tnet_model)
    window.dock.actions_box.field.click()
    window.until(lambda: window.session.answer is not None)
    assert jargon_in(window.dock) == []


@pytest.mark.slow
def test_the_dock_speaks_plainly_of_slides(
    window: Window, span: Model, kept: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    keep_features_in(monkeypatch, kept)
    window.session.selection.set_model(span)
    add_slide(window.viewer)
    window.session.selection.set_model(span)
    window.dock.actions_box.field.click()
    window.until(lambda: window.session.slides.attention is not None)
    window.session.slides.go_to_patch(0)
    assert jargon_in(window.dock) == []
