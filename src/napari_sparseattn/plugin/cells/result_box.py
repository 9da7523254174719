"""The clicked cell: classes with their probabilities, what was looked at, overlays."""

from __future__ import annotations

import dataclasses

from qtpy.QtCore import QRectF, QSize, Qt
from qtpy.QtGui import QColor, QFontMetrics, QPainter, QPaintEvent
from qtpy.QtWidgets import QCheckBox, QGridLayout, QLabel, QSizePolicy, QVBoxLayout, QWidget

from ...evidence import Traversal
from ...inference.fields import FieldPrediction
from ...inference.prediction import Prediction
from ...inference.slides import SlidePrediction
from ..core.messages import seconds_text
from ..core.session import Session
from ..evidence.box import EvidenceBox
from ..evidence.session import Evidence
from ..widgets.base import SessionWidget
from .layers import OverlayChoice
from .wrong_row import WrongRow

__all__ = ["ClassBars", "ResultBox"]

_ROWS = 4
_ROW_HEIGHT = 22
#: Overlays that only one kind of model has.
_SELECTION = ("pixels", "attention")
_TRAVERSAL = ("crops", "tree", "candidates", "unread")
_EMPTY = "Click a cell in the image: its class and the pixels that decided it appear here."
_EMPTY_SLIDE = "Classify the slide: its class and what was read appear here."
_EMPTY_TRAVERSAL = (
    "Click a cell, or classify the whole: the class and the crops that decided it appear here."
)
_OVERLAYS = {
    "pixels": (
        "Selected pixels",
        (
            "The pixels that decided. Colour: the attention to each one and its neighbourhood, for "
            "kept pixels tell each other what they saw; 1 is what each would get if all got alike."
        ),
    ),
    "attention": ("Attention map", "How the whole crop was scored before pixels were chosen."),
    "crops": (
        "Crops",
        (
            "What was looked at: edges coloured by level, numbered by rank; red speaks for the "
            "class, blue against it."
        ),
    ),
    "tree": ("Crop tree", "Which crop was found inside which."),
    "candidates": (
        "Candidates",
        (
            "Where a closer look could have been: 1 is as probable as any other place. White: "
            "chosen. Of the crop you click, or of the whole."
        ),
    ),
    "unread": (
        "Unread area",
        "Greys what was never read of a slide, or never looked at closely.",
    ),
    "frame": ("Crop and class", "The part of the image the model was given, and the class."),
    "cells": ("All cells", "Every classified cell in the colour of its class."),
}


class ClassBars(QWidget):
    """The most probable classes as bars in their colours."""

    def __init__(self, parent: QWidget | None = None) -> None:
        super().__init__(parent)
        self.rows: list[tuple[str, float, str]] = []
        self.setSizePolicy(QSizePolicy.Policy.Expanding, QSizePolicy.Policy.Fixed)

    def set_rows(self, rows: list[tuple[str, float, str]]) -> None:
        """Show (class, probability, colour), most probable first."""
        self.rows = rows[:_ROWS]
        text = "\n".join(f"{name}: {share:.1%}" for name, share, _ in rows)
        self.setToolTip(text)
        self.setAccessibleDescription(text)
        self.updateGeometry()
        self.update()

    def sizeHint(self) -> QSize:  # noqa: N802 - Qt's name
        """Return the room the rows need."""
        return QSize(200, _ROW_HEIGHT * len(self.rows))

    def minimumSizeHint(self) -> QSize:  # noqa: N802 - Qt's name
        """Return the same height: rows are not cut."""
        return QSize(100, _ROW_HEIGHT * len(self.rows))

    def paintEvent(self, event: QPaintEvent) -> None:  # noqa: N802 - Qt's name
        """Draw the rows."""
        painter = QPainter(self)
        painter.setRenderHint(QPainter.RenderHint.Antialiasing)
        ink = self.palette().color(self.foregroundRole())
        # The first row is bold, and wider.
        font = painter.font()
        font.setBold(True)
        share_width = QFontMetrics(font).horizontalAdvance("100.0 %")
        name_width = round((self.width() - share_width) * 0.52)
        for i, (name, share, colour) in enumerate(self.rows):
            top = i * _ROW_HEIGHT
            painter.setPen(Qt.PenStyle.NoPen)
            painter.setBrush(QColor(colour))
            painter.drawRoundedRect(QRectF(2, top + 6, 10, 10), 2, 2)
            left = name_width + share_width + 8
            painter.drawRoundedRect(
                QRectF(left, top + 6, max(2.0, (self.width() - left) * share), 10), 2, 2
            )
            painter.setPen(ink)
            font.setBold(i == 0)
            painter.setFont(font)
            text = painter.fontMetrics().elidedText(
                name.replace("_", " "), Qt.TextElideMode.ElideRight, name_width - 20
            )
            middle = Qt.AlignmentFlag.AlignVCenter
            painter.drawText(QRectF(18, top, name_width - 18, _ROW_HEIGHT), middle, text)
            painter.drawText(
                QRectF(name_width, top, share_width, _ROW_HEIGHT),
                middle | Qt.AlignmentFlag.AlignRight,
                f"{100 * share:.1f} %",
            )
        painter.end()


class ResultBox(SessionWidget):
    """What is known about the clicked cell."""

    def __init__(self, session: Session, parent: QWidget | None = None) -> None:
        super().__init__(session, parent)
        self.empty = QLabel(_EMPTY, self)
        self.empty.setWordWrap(True)
        self.bars = ClassBars(self)
        self.facts = QLabel(self)
        self.facts.setWordWrap(True)
        self.title = QLabel(self)
        self.title.setWordWrap(True)
        assert session.viewer is not None
        self.evidence = EvidenceBox(Evidence.of(session.viewer), self)
        self.wrong = WrongRow(session, self)
        self.boxes: dict[str, QCheckBox] = {}
        column = QVBoxLayout(self)
        column.setContentsMargins(0, 0, 0, 0)
        column.addWidget(self.empty)
        column.addWidget(self.title)
        column.addWidget(self.bars)
        column.addWidget(self.facts)
        column.addWidget(self.evidence)
        column.addWidget(self.wrong)
        column.addLayout(self._overlay_boxes())
        self.follow(session.answer_changed, self.show_answer)
        self.follow(session.overlays_changed, self._show_choice)
        self.follow(session.model_changed, self._show_boxes)
        self._show_boxes()
        self._show_choice(session.choice)
        self.show_answer(session.answer)

    def release(self) -> None:
        """Disconnect, with the rows for evidence and corrections."""
        super().release()
        self.evidence.release()
        self.wrong.release()

    def _overlay_boxes(self) -> QGridLayout:
        for name, (text, tip) in _OVERLAYS.items():
            box = QCheckBox(text, self)
            box.setToolTip(tip)
            box.toggled.connect(self._chosen)
            self.boxes[name] = box
        self._grid = QGridLayout()
        return self._grid

    def _show_boxes(self, _: object = None) -> None:
        """Offer the overlays that the kind of model has."""
        session = self.session
        absent = _SELECTION if session.traversing else _TRAVERSAL
        # The maps of a slide are chosen where they are explained.
        named = {} if session.spanning else self.boxes
        there = [box for name, box in named.items() if name not in absent]
        for box in self.boxes.values():
            self._grid.removeWidget(box)
            box.setVisible(box in there)
        for i, box in enumerate(there):
            self._grid.addWidget(box, i // 2, i % 2)
        by_kind = _EMPTY_TRAVERSAL if session.traversing else _EMPTY
        self.empty.setText(_EMPTY_SLIDE if session.spanning else by_kind)

    def show_answer(self, answer: Prediction | None) -> None:
        """Show a prediction, or what to do to get one."""
        there = answer is not None
        self.wrong.show_answer(answer)
        self.empty.setVisible(not there)
        self.bars.setVisible(there)
        self.facts.setVisible(there)
        self.title.setVisible(isinstance(answer, FieldPrediction | SlidePrediction))
        if answer is None or self.session.model is None:
            return
        colours = dict(zip(answer.class_names, self.session.model.bundle.card.colours, strict=True))
        self.bars.set_rows([(name, share, colours[name]) for name, share in answer.ranked()])
        if self.session.image is not None:
            what = "Whole slide" if self.session.on_slide else "Whole field"
            shares = isinstance(answer, SlidePrediction) and answer.segments
            of = ": share of its patches" if shares else ""
            self.title.setText(f"<b>{what}</b> {self.session.image.name}{of}")
        if isinstance(answer, SlidePrediction):
            facts, tip = _slide_facts(answer, self.session.side_of(0))
        else:
            facts, tip = _facts(answer, self.session.on_slide)
        self.facts.setText(" · ".join(facts))
        self.facts.setToolTip(tip)

    def _chosen(self) -> None:
        self.session.set_choice(
            OverlayChoice(**{name: box.isChecked() for name, box in self.boxes.items()})
        )

    def _show_choice(self, choice: OverlayChoice) -> None:
        for name, shown in dataclasses.asdict(choice).items():
            self.boxes[name].blockSignals(True)
            self.boxes[name].setChecked(shown)
            self.boxes[name].blockSignals(False)


def _facts(answer: Prediction, on_slide: bool) -> tuple[list[str], str]:
    """What was looked at in a few words, and how that came about."""
    share, evidence = f"{100 * answer.ledger.share:.3g} % of the pixels", answer.evidence
    if isinstance(evidence, Traversal):
        size = f"{evidence.base}\u00a0×\u00a0{evidence.base}\u00a0px"
        facts = [f"Looked at {len(evidence)} crops of {size}, together {share}"]
        tip = (
            "The whole is looked at coarsely; crops inside it are then read from the original "
            "pixels, each at this size. Its share of the class is exact for every crop."
        )
    else:
        facts = [f"Looked at {100 * answer.ledger.share:.1f} % of the pixels"]
        tip = (
            "A small first network scores every pixel of the crop to choose some; the class is "
            "then decided from those alone. They are the share given here."
        )
    facts.append(f"{1000 * answer.ledger.seconds:.0f}\u00a0ms")
    if not answer.scale_known:
        facts.append("scale\u00a0unknown")
    reading = answer.reading if isinstance(answer, FieldPrediction) else None
    if reading is not None and on_slide:
        tiles = sum(rows * columns for rows, columns in (x.grid for x in reading.levels))
        facts.append(
            f"used {reading.n_used} of {tiles} tiles, {100 * reading.fraction_read:.3g} % of the "
            f"full resolution; {_bytes(reading.bytes_compressed)} read anew"
        )
        tip += (
            " Of a slide, only the tiles under the crops are used. Those that the view has shown "
            f"may still be in memory; they are not read again. {reading.summary()}."
        )
    return facts, tip


def _slide_facts(answer: SlidePrediction, side: str) -> tuple[list[str], str]:
    """What was read of a slide, and how long each stage took."""
    facts, reading, tip = [f"{len(answer.attention)} patches of {side}"], answer.reading, ""
    if reading is not None:
        read = f"read {_pixels(answer.ledger.pixels)}"
        compressed = reading.bytes_compressed
        facts.append(f"{read}, {_bytes(compressed)}" if compressed else read)
        tip = f"{reading.summary()}."
    facts += [f"{stage.name} {seconds_text(stage.seconds)}" for stage in answer.stages]
    if not answer.scale_known:
        facts.append("scale unknown")
    return [fact.replace(" ", "\u00a0") for fact in facts], tip


def _pixels(count: int) -> str:
    return f"{count / 1e9:.2g} Gpx" if count >= 1e9 else f"{count / 1e6:.3g} Mpx"


def _bytes(count: int) -> str:
    return f"{count / 1e6:.1f} MB" if count >= 1e6 else f"{count / 1e3:.0f} kB"
