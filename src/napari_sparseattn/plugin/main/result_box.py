"""The clicked cell: classes with their probabilities, what was looked at, overlays."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable

from qtpy.QtCore import QRectF, QSize, Qt
from qtpy.QtGui import QColor, QFontMetrics, QPainter, QPaintEvent
from qtpy.QtWidgets import (
    QCheckBox,
    QComboBox,
    QGridLayout,
    QHBoxLayout,
    QLabel,
    QSizePolicy,
    QVBoxLayout,
    QWidget,
)

from ...evidence import Traversal
from ...inference.fields import FieldPrediction
from ...inference.prediction import Estimate, Prediction, say_share
from ...inference.slides import SlidePrediction
from ..annotate.class_box import swatch
from ..annotate.session import Annotating
from ..core.layers import OverlayChoice, Role
from ..core.messages import seconds_text
from ..evidence.box import FaithfulnessBox
from ..evidence.session import AnswerFaithfulness
from ..session import Session
from ..widgets.base import Follower, label_for, shrinkable
from ..widgets.rich import WrappedLabel, breakable, rich
from .sentences import plain_answer

__all__ = ["ClassBars", "ResultBox", "WrongRow", "describe_flag"]

#: Readable in napari's dark and in its light theme.
_BADGE = (
    "background: #E69F00; color: black; border-radius: 4px; padding: 3px 8px; font-weight: bold;"
)
_CHOOSE = "choose its class"
_ROWS = 4
_ROW_HEIGHT = 22
#: Overlays that only one kind of model has.
_SELECTION = ("pixels", "attention")
_TRAVERSAL = ("crops", "tree", "candidates", "unread")
_EMPTY = "Click a cell in the image: its class and the pixels it was read from appear here."
_EMPTY_SLIDE = "Classify the slide: its class and what was read appear here."
_NO_FINDING = (
    "A risk puts slides in an order, by what the model learned of its training slides; it is no "
    "finding about a patient."
)
_EMPTY_TRAVERSAL = (
    "Click a cell, or classify the whole: the class and the crops it was read from appear here."
)
_OVERLAYS = {
    "pixels": (
        "Selected pixels",
        (
            "The pixels that the class was read from. Colour: the attention to each one and its "
            "neighbourhood, for kept pixels tell each other what they saw; 1 is what each would "
            "get if all got alike."
        ),
    ),
    "attention": ("Attention map", "How the whole crop was scored before pixels were chosen."),
    "crops": (
        "Crops",
        (
            "The few crops that say most, each with its share of the class's score: red (+) "
            "speaks for the class, blue (−) against it. The table has them all."
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
        "Shades areas of a slide that were not read, or not looked at closely.",
    ),
    "frame": ("Crop and class", "The part of the image the model was given, and the class."),
    "cells": ("All cells", "Every classified cell in the colour of its class."),
}


#: What the colours of each mean, as the legend below them says.
_LEGENDS: dict[Role, str] = {
    "pixels": "Pixels: yellow got most attention, blue-green least; 1 is the average.",
    "attention": "Map: bright was scored high, dark low.",
    "crops": "Crops: red speaks for the class, blue against it.",
    "candidates": "Candidates: bright was probable; white frames were chosen.",
    "unread": "Grey: not looked at closely.",
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
        letters = QFontMetrics(font).horizontalAdvance
        widest = max((letters(name.replace("_", " ")) for name, _, _ in self.rows), default=0)
        # Short names leave their room to the bars, long ones leave them some.
        least, most = (round((self.width() - share_width) * share) for share in (0.52, 0.7))
        name_width = min(max(widest + 24, least), most)
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


class ResultBox(Follower):
    """What is known about the clicked cell."""

    def __init__(self, session: Session, parent: QWidget | None = None) -> None:
        super().__init__(parent)
        self.session = session
        self.empty = WrappedLabel(_EMPTY, self)
        self.estimate = QLabel(self)
        self.estimate.setWordWrap(True)
        self.sentence = WrappedLabel("", self)
        self.bars = ClassBars(self)
        self.badge = WrappedLabel("", self)
        self.badge.setStyleSheet(_BADGE)
        self.facts = WrappedLabel("", self)
        self.title = QLabel(self)
        self.title.setWordWrap(True)
        assert session.viewer is not None
        self.faithfulness = FaithfulnessBox(AnswerFaithfulness.of(session.viewer), self)
        self.wrong = WrongRow(session, self)
        self.boxes: dict[str, QCheckBox] = {}
        column = QVBoxLayout(self)
        column.setContentsMargins(0, 0, 0, 0)
        column.addWidget(self.empty)
        column.addWidget(self.title)
        column.addWidget(self.estimate)
        column.addWidget(self.sentence)
        column.addWidget(self.bars)
        column.addWidget(self.badge)
        column.addWidget(self.facts)
        column.addWidget(self.faithfulness)
        column.addWidget(self.wrong)
        column.addLayout(self._overlay_boxes())
        self.legend = WrappedLabel("", self)
        self.legend.setObjectName("legend")
        column.addWidget(self.legend)
        self.follow(session.answer_changed, self.show_answer)
        self.follow(session.selection.overlays_changed, self._show_choice)
        self.follow(session.selection.model_changed, self._show_boxes)
        self.follow(session.cells.results_changed, self._show_boxes)
        self._show_boxes()
        self._show_choice(session.selection.choice)
        self.show_answer(session.answer)

    def release(self) -> None:
        """Disconnect, with the rows for evidence and corrections."""
        super().release()
        self.faithfulness.release()
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
        traversing, cells = self.session.crops.active, self.session.advice.cells
        absent = _SELECTION if traversing else _TRAVERSAL
        # The maps of a slide are chosen where they are explained.
        fitting = [name for name in self.boxes if cells and name not in absent]
        if self.session.answer is None:
            # There is nothing yet to show and hide but all cells.
            found = self.session.cells.results is not None
            fitting = [name for name in fitting if name == "cells" and found]
        there = [self.boxes[name] for name in fitting]
        for box in self.boxes.values():
            self._grid.removeWidget(box)
            box.setVisible(box in there)
        for i, box in enumerate(there):
            self._grid.addWidget(box, i // 2, i % 2)
        self._show_legend()
        by_kind = _EMPTY_TRAVERSAL if traversing else _EMPTY
        self.empty.setText(by_kind if cells else _EMPTY_SLIDE)

    def show_answer(self, answer: Prediction | None) -> None:
        """Show a prediction, or what to do to get one."""
        there = answer is not None
        self._show_boxes()
        estimate = answer.estimate if isinstance(answer, SlidePrediction) else None
        # Of a risk or a number there is no class to correct.
        self.wrong.show_answer(answer if estimate is None else None)
        self.empty.setVisible(not there)
        self.bars.setVisible(there)
        self.facts.setVisible(there)
        self.sentence.setVisible(there and estimate is None)
        self.badge.setVisible(answer is not None and bool(answer.flagged))
        self.title.setVisible(isinstance(answer, FieldPrediction | SlidePrediction))
        self.estimate.setVisible(estimate is not None)
        selection = self.session.selection
        if answer is None or selection.card is None:
            return
        colours = dict(zip(answer.class_names, selection.card.colours, strict=True))
        if estimate is None:
            ranked = answer.rank_classes()
            self.bars.set_rows([(name, share, colours[name]) for name, share in ranked])
            self.sentence.setText(plain_answer(answer))
        else:
            self._show_estimate(estimate, selection.card.colours[0])
        if selection.image is not None:
            what = "Whole slide" if selection.on_slide else "Whole field"
            shares = isinstance(answer, SlidePrediction) and answer.segments
            of = ": share of its patches" if shares else ""
            self.title.setText(f"<b>{what}</b> {rich(breakable(selection.image.name))}{of}")
        if isinstance(answer, SlidePrediction):
            facts, tip = _slide_facts(answer, self.session.slides.side_of(0))
        else:
            facts, tip = _facts(answer, selection.on_slide)
        if answer.flagged:
            novelty = selection.card.novelty
            others = "" if novelty is None else novelty.others_text
            text, why = describe_flag(answer, selection.on_slide, others)
            self.badge.setText(text)
            self.badge.setToolTip(why)
        self.facts.setText(" · ".join(facts))
        self.facts.setToolTip(tip)

    def _show_estimate(self, estimate: Estimate, colour: str) -> None:
        """Say the risk or number, and draw the chances of no event at up to four times."""
        headline = rich(f"{estimate.headline[:1].upper()}{estimate.headline[1:]}")
        event = rich(estimate.target.outcome or "the event")
        curve = [f"Chance of being free of {event}:"] if estimate.survival else []
        self.estimate.setText("<br>".join([f"<b>{headline}</b>", *curve]))
        self.estimate.setToolTip(rich(f"{estimate.sentence}. {_NO_FINDING}"))
        rows, least = estimate.curve, min(_ROWS, len(estimate.survival))
        chosen = [round(i * (len(rows) - 1) / max(1, least - 1)) for i in range(least)]
        if least == 1:
            chosen = [len(rows) - 1]
        self.bars.set_rows([(f"at {rows[i][0]}", rows[i][1], colour) for i in chosen])
        self.bars.setVisible(bool(estimate.survival))

    def _show_legend(self) -> None:
        """Say what the colours mean of what is shown; their scale is the layer's colour bar."""
        choice, shown = self.session.selection.choice, self.session.answer is not None
        said = [
            text
            for role, text in _LEGENDS.items()
            if choice.of(role) and not self.boxes[role].isHidden()
        ]
        self.legend.setText(" ".join(said))
        self.legend.setVisible(shown and bool(said))

    def _chosen(self) -> None:
        self.session.selection.set_choice(
            OverlayChoice(**{name: box.isChecked() for name, box in self.boxes.items()})
        )

    def _show_choice(self, choice: OverlayChoice) -> None:
        for name, shown in dataclasses.asdict(choice).items():
            self.boxes[name].blockSignals(True)
            self.boxes[name].setChecked(shown)
            self.boxes[name].blockSignals(False)
        self._show_legend()


def describe_flag(answer: Prediction, on_slide: bool, others: str = "") -> tuple[str, str]:
    """Say what a flagged answer is unlike, or what it is like, and what that means."""
    if answer.none_of_these and others:
        tip = (
            f"It is nearer to {others} of the smears that the model was trained on than to any "
            "class. The class above is the nearest of those the model has, and perhaps not the "
            "right one: look yourself."
        )
        return f"More like {others} than any class", tip
    what = "cells"
    if isinstance(answer, FieldPrediction | SlidePrediction):
        what = "slides" if on_slide else "images"
    tip = (
        f"Of all {what} the model was trained on, this is farther from every class than all but "
        f"a few: {answer.novelty:.1f} times the distance at which it is flagged. The class above "
        "is the nearest of those the model has, and may be none of them: look yourself."
    )
    return f"Unlike the {what} this model knows", tip


def _facts(answer: Prediction, on_slide: bool) -> tuple[list[str], str]:
    """What was looked at in a few words, and how that came about."""
    share, evidence = say_share(answer.ledger.share, ".3g"), answer.evidence
    if isinstance(evidence, Traversal):
        size = f"{evidence.base}\u00a0×\u00a0{evidence.base}\u00a0px"
        facts = [f"Looked at {len(evidence)} crops of {size}, together {share}"]
        tip = (
            "The whole is looked at coarsely; crops inside it are then read from the original "
            "pixels, each at this size. Its share of the class is exact for every crop."
        )
    else:
        facts = [f"Looked at {say_share(answer.ledger.share)}"]
        tip = (
            "A small first network scores every pixel of the crop to choose some; the class is "
            "then decided from those alone. They are the share given here."
        )
    facts.append(seconds_text(answer.ledger.seconds).replace(" ", "\u00a0"))
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
        # Tiles that the view has shown, and features that were kept, are not read again.
        anew = "none read anew"
        if reading.bytes_compressed:
            anew = f"{_bytes(reading.bytes_compressed)} read anew"
        facts.append(f"used {reading.n_used} tiles" if reading.n_used else "no tiles used")
        facts.append(anew)
        tip = f"{reading.summary()}."
    if answer.patch_novelty is not None:
        unlike = int((answer.patch_novelty > 1).sum())
        facts.append(f"{unlike} of them unlike those the model knows")
    facts += [f"{stage.name} {seconds_text(stage.seconds)}" for stage in answer.stages]
    if not answer.scale_known:
        facts.append("scale unknown")
    return [fact.replace(" ", "\u00a0") for fact in facts], tip


def _bytes(count: int) -> str:
    return f"{count / 1e6:.1f} MB" if count >= 1e6 else f"{count / 1e3:.0f} kB"


class WrongRow(Follower):
    """Corrects the answer that is shown; annotating begins when it is used first."""

    def __init__(self, session: Session, parent: QWidget | None = None) -> None:
        super().__init__(parent)
        self.session = session
        self._let_go: Callable[[], None] | None = None
        self._answer: Prediction | None = None
        self.classes = shrinkable(QComboBox(self))
        self.classes.setToolTip(
            "Keeps the right class as an annotation, which a model can be fine-tuned on. Add "
            "classes in the dock Annotate and train."
        )
        row = QHBoxLayout(self)
        row.setContentsMargins(0, 0, 0, 0)
        row.addWidget(label_for(self.classes, "Wrong? It is"))
        row.addWidget(self.classes, 1)
        self.classes.activated.connect(self._chosen)

    def release(self) -> None:
        """Disconnect, and let go of annotating."""
        super().release()
        if self._let_go is not None:
            self._let_go()
            self._let_go = None

    def show_answer(self, answer: Prediction | None) -> None:
        """Offer the classes; those of the project come first."""
        self._answer = answer
        self.setVisible(answer is not None)
        viewer = self.session.viewer
        if answer is None or viewer is None:
            return
        annotating = Annotating.of(viewer)
        annotating.classes.read()
        colours = annotating.classes.colours
        if [self.classes.itemText(i) for i in range(1, self.classes.count())] != [*colours]:
            self.classes.clear()
            self.classes.addItem(_CHOOSE)
            for name, colour in colours.items():
                self.classes.addItem(swatch(colour), name)
        self.classes.setCurrentIndex(0)

    def _chosen(self, index: int) -> None:
        viewer = self.session.viewer
        if index == 0 or self._answer is None or viewer is None:
            return
        annotating = Annotating.of(viewer)
        if self._let_go is None:
            annotating.attach()
            self._let_go = annotating.detach
        annotating.targets.correct(self._answer, self.classes.itemText(index))
