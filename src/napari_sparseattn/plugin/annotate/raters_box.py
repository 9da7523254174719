"""Several raters: one's name, colleagues' projects, how far all agree, and what they differ on."""

from __future__ import annotations

import time
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING

from qtpy.QtCore import QAbstractAnimation
from qtpy.QtWidgets import (
    QFileDialog,
    QGridLayout,
    QHBoxLayout,
    QLineEdit,
    QPushButton,
    QVBoxLayout,
    QWidget,
)

from ...card import readable_name
from ...training.data.agreement import Agreement, Kappa, shown_rater
from ..widgets.base import Follower, label_for
from ..widgets.flight import Flight
from ..widgets.rich import FittedLabel, WrappedLabel, breakable, rich
from .class_box import swatch
from .places import move_at_once

if TYPE_CHECKING:
    from napari.components import ViewerModel

    from .raters import Dispute, Raters

__all__ = ["RatersBox"]

_KINDS = {"cell": "Cells", "region": "Regions", "image": "Whole images"}
_FLY_MS = 350
_DELETE = QAbstractAnimation.DeletionPolicy.DeleteWhenStopped
_MOST_CLASSES = 30
_EMPTY = (
    "Give your name, add what colleagues annotated on the same images, and see how far you agree "
    "and where you differ."
)
_TIPS = {
    "name": "Written with each annotation that you make, here and in what is exported. Empty: "
    "they carry no name. Any name will do, such as initials.",
    "add": "Adds the annotations in a colleague's project folder to this project, each with its "
    "rater. Yours stay as they are; Ctrl+Z takes them out again.",
    "compare": "Counts how far raters agree on cells, regions and images that several annotated.",
    "previous": "Goes to the one before, decided or not.",
    "next": "Goes to the next one that nobody has decided.",
    "save": "Writes what raters differ on, and what was decided, as a CSV file.",
}
_AGREEMENT_TIP = (
    "Agreement beyond chance: 1 where all agree, 0 where no more agree than by chance. Cohen's "
    "kappa of two raters, Fleiss' kappa of more, with its 95 % interval; of a class, against all "
    "others. n counts what at least two annotated."
)


class RatersBox(Follower):
    """Shows what raters agree and differ on; follows `Raters`, which does the work.

    Parameters
    ----------
    raters : Raters
        Of the viewer.
    parent : QWidget, optional
        The dock.
    """

    def __init__(self, raters: Raters, parent: QWidget | None = None) -> None:
        super().__init__(parent)
        self.raters = raters
        self.name = QLineEdit(self)
        self.name.setPlaceholderText("none given")
        self.name.setToolTip(_TIPS["name"])
        self.add = self._make_button("Add a colleague's project…", "add")
        self.compare = self._make_button("Compare", "compare")
        self.save = self._make_button("Save table…", "save")
        self.hint = WrappedLabel(_EMPTY, self)
        self.agreement = FittedLabel(self)
        self.agreement.setToolTip(_AGREEMENT_TIP)
        self.previous = self._make_button("◀ Previous", "previous")
        self.next = self._make_button("Next ▶", "next")
        self.question = FittedLabel(self)
        self.answers = QWidget(self)
        QVBoxLayout(self.answers).setContentsMargins(0, 0, 0, 0)
        self._answers: list[tuple[str, str, str]] = []
        self._lay_out()
        self.name.editingFinished.connect(self._keep_name)
        self.add.clicked.connect(self.choose_project)
        self.compare.clicked.connect(raters.compare)
        self.save.clicked.connect(self.choose_table)
        self.previous.clicked.connect(raters.previous)
        self.next.clicked.connect(raters.next)
        raters.move = self._fly
        self.follow(raters.changed, self.refresh)
        self.refresh()

    def _make_button(self, text: str, tip: str) -> QPushButton:
        button = QPushButton(text, self)
        button.setToolTip(_TIPS[tip])
        return button

    def _lay_out(self) -> None:
        column = QVBoxLayout(self)
        column.setContentsMargins(0, 0, 0, 0)
        row = QHBoxLayout()
        row.addWidget(label_for(self.name, "Your name"))
        row.addWidget(self.name, 1)
        column.addLayout(row)
        column.addWidget(self.hint)
        grid = QGridLayout()
        grid.addWidget(self.add, 0, 0, 1, 2)
        grid.addWidget(self.compare, 1, 0)
        grid.addWidget(self.save, 1, 1)
        column.addLayout(grid)
        column.addWidget(self.agreement)
        row = QHBoxLayout()
        row.addWidget(self.previous)
        row.addWidget(self.next)
        column.addLayout(row)
        column.addWidget(self.question)
        column.addWidget(self.answers)

    def release(self) -> None:
        """Disconnect; others then move the camera at once."""
        super().release()
        self.raters.move = move_at_once

    # -- showing how things are

    def refresh(self, _: object = None) -> None:
        """Show how things are."""
        raters = self.raters
        if not self.name.hasFocus() and self.name.text() != raters.name:
            self.name.setText(raters.name)
        found = raters.found
        self.hint.setVisible(not found)
        self.compare.setText("Compare again" if raters.stale else "Compare")
        self.agreement.setVisible(bool(found))
        self.agreement.setText("" if not found else "".join(map(_describe, found)))
        self.save.setEnabled(bool(found))
        for button in (self.previous, self.next):
            button.setVisible(bool(raters.disputes))
        self._show_dispute(raters.current)

    def _show_dispute(self, dispute: Dispute | None) -> None:
        self.question.setVisible(dispute is not None)
        self.answers.setVisible(dispute is not None)
        raters = self.raters
        if dispute is None or raters.at is None:
            return
        settled = dispute.thing.settled
        where = dispute.image.name or dispute.image.hash[:8]
        text = f"<b>{raters.at + 1} of {len(raters.disputes)}</b> {rich(breakable(where))}. "
        if settled is not None:
            what = breakable(readable_name(settled.label))
            by = f" by {shown_rater(settled.rater)}"
            text += rich(f"Decided: {what}{by}, {_day(settled.time)}. Click to decide anew.")
        else:
            text += "Click the right class, or press the key of any class."
        self.question.setText(text)
        self._fill_answers(dispute)

    def _fill_answers(self, dispute: Dispute) -> None:
        """Show a button for each class that was given: who gave it, and when."""
        said: dict[str, list[str]] = {}
        for item in dispute.thing.opinions:
            by = f"{shown_rater(item.rater)}, {_day(item.time)}"
            said.setdefault(item.label, []).append(by)
        colours = self.raters.colours
        wanted = [
            (label, f"{readable_name(label)} – {'; '.join(by)}", colours.get(label, "#9e9e9e"))
            for label, by in said.items()
        ]
        if wanted == self._answers:
            return
        self._answers = wanted
        layout = self.answers.layout()
        assert layout is not None
        while (item := layout.takeAt(0)) is not None:
            if (widget := item.widget()) is not None:
                widget.hide()
                widget.deleteLater()
        for label, text, colour in wanted:
            button = QPushButton(swatch(colour), text.replace("&", "&&"), self.answers)
            button.setObjectName("answer")
            button.setStyleSheet("text-align: left; padding-left: 6px")
            button.setToolTip(rich(f"Decides that it is {readable_name(label)}.\n{text}"))
            button.clicked.connect(partial(self._settle, label))
            layout.addWidget(button)

    def _settle(self, label: str, checked: bool = False) -> None:
        if not self.raters.name:
            self.name.setFocus()
        self.raters.settle(label)

    # -- acting

    def _keep_name(self) -> None:
        self.raters.set_name(self.name.text())
        self.name.setText(self.raters.name)

    def choose_project(self) -> None:
        """Let the user choose the folder of a colleague's project; nothing waits for it."""
        dialog = QFileDialog(
            self, "Folder of a colleague's project", str(self.raters.folder.parent)
        )
        dialog.setFileMode(QFileDialog.FileMode.Directory)
        dialog.setOption(QFileDialog.Option.ShowDirsOnly)
        dialog.fileSelected.connect(self.raters.add_project)
        dialog.finished.connect(dialog.deleteLater)
        dialog.show()

    def choose_table(self) -> None:
        """Let the user choose where to write what raters differ on; nothing waits for it."""
        dialog = QFileDialog(self, "Save what raters differ on", str(Path.home()), "Tables (*.csv)")
        dialog.setAcceptMode(QFileDialog.AcceptMode.AcceptSave)
        dialog.setDefaultSuffix("csv")
        dialog.selectFile("disagreements.csv")
        dialog.fileSelected.connect(self.raters.save_table)
        dialog.finished.connect(dialog.deleteLater)
        dialog.show()

    def _fly(self, viewer: ViewerModel, centre: tuple[float, float], zoom: float) -> None:
        Flight(viewer, centre, zoom, _FLY_MS, self).start(_DELETE)


def _describe(found: Agreement) -> str:
    """Return how far raters agree on things of one kind, as rich text."""
    names = [rich(breakable(shown_rater(rater))) for rater in found.raters]
    head = f"<b>{_KINDS[found.kind]}</b>, by {', '.join(names[:-1])} and {names[-1]}"
    rows = [("all classes", found.overall), *list(found.classes.items())[:_MOST_CLASSES]]
    lines = "".join(_row(readable_name(name), value) for name, value in rows)
    # Named, as a share in percent would be another figure.
    kappa = "Cohen's κ" if len(found.raters) == 2 else "Fleiss' κ"
    table = (
        "<table width='100%' cellspacing='0' cellpadding='1'><tr><td></td>"
        f"<td align='right'>{kappa}</td><td align='right'>95 % interval</td>"
        f"<td align='right'>n</td></tr>{lines}</table>"
    )
    said = f"{found.disputed} with different classes"
    if found.settled:
        said += f", {found.settled} of them decided"
    alone = [f"{n} by {rich(shown_rater(rater))} alone" for rater, n in found.alone.items() if n]
    if alone:
        said += f". Not counted: {', '.join(alone)}"
    more = len(found.classes) - _MOST_CLASSES
    if more > 0:
        said += f". Classes not shown here: {more}"
    return f"{head}{table}<span>{said}.</span>"


def _row(name: str, kappa: Kappa) -> str:
    value = "–" if kappa.value is None else f"{kappa.value:.2f}"
    low, high = kappa.low, kappa.high
    interval = "–" if low is None or high is None else f"{low:.2f} to {high:.2f}"
    cells = "".join(f"<td align='right'>{text}</td>" for text in (value, interval, kappa.n))
    return f"<tr><td>{rich(breakable(name))}</td>{cells}</tr>"


def _day(seconds: float) -> str:
    return time.strftime("%Y-%m-%d", time.localtime(seconds)) if seconds else "no date"
