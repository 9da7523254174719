"""Names that look like HTML, and words longer than a dock is wide."""

from __future__ import annotations

from typing import Any

from qtpy.QtCore import Qt
from qtpy.QtGui import QTextDocument
from qtpy.QtWidgets import QVBoxLayout, QWidget

from napari_sparseattn.plugin.widgets.rich import ElidedLabel, WrappedLabel, rich

NAME = "CD8<dim> & <2 µm"
LONG = "a_class_of_twenty_eight_letters" * 4


def read(text: str) -> str:
    document = QTextDocument()
    document.setHtml(text)
    return document.toPlainText()


def test_rich_text_shows_a_name_unchanged() -> None:
    assert Qt.mightBeRichText(rich(NAME))
    assert read(rich(NAME)) == NAME
    assert read(f"<b>{rich(NAME)}</b>: 4") == f"{NAME}: 4"
    assert read(rich("two\nlines")) == "two\nlines"


def test_labels_are_plain_and_no_wider_than_their_place(qtbot: Any) -> None:
    place = QWidget()
    qtbot.addWidget(place)
    column = QVBoxLayout(place)
    wrapped, elided = WrappedLabel(LONG, place), ElidedLabel(LONG, place)
    column.addWidget(wrapped)
    column.addWidget(elided)
    assert place.minimumSizeHint().width() < 60
    place.resize(200, 300)
    place.show()
    line = wrapped.fontMetrics().height()
    assert wrapped.height() >= 3 * line
    assert wrapped.text() == elided.text() == LONG
    assert read(elided.toolTip()) == LONG
    for label in (wrapped, elided):
        label.setText(NAME)
        assert label.textFormat() == Qt.TextFormat.PlainText
        assert label.text() == NAME
