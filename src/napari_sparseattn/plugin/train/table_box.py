"""Train on a table of slides: the table, what is learned of it, start, and how good it is."""

from __future__ import annotations

from pathlib import Path

from qtpy.QtCore import Qt
from qtpy.QtWidgets import (
    QComboBox,
    QDoubleSpinBox,
    QFileDialog,
    QGridLayout,
    QLabel,
    QLineEdit,
    QProgressBar,
    QPushButton,
    QWidget,
)

from ...features.registry import ENCODERS
from ..widgets.base import Follower, label_for, shrinkable
from ..widgets.rich import WrappedLabel
from .table_training import TableTraining

__all__ = ["TableTrainingBox"]

_HINT = (
    "A CSV with a row per slide: column slide, and time and event (follow-up), value (a number) or "
    "label (a class). Slides of one patient have the same group."
)
#: What may be learned of follow-up.
_SURVIVAL = (
    (
        "hazards",
        "chances over time (hazards)",
        "Gives a risk, and the chance of no event by the ends of four intervals of time.",
    ),
    (
        "cox",
        "order of risk (Cox)",
        "Gives a risk that puts slides in an order; slides are compared with each other.",
    ),
)
_OWN = ("tissue-mobilenet", "stain-texture")


class TableTrainingBox(Follower):
    """Asks for a table, trains on it, and shows what came of it."""

    def __init__(self, training: TableTraining, parent: QWidget | None = None) -> None:
        super().__init__(parent)
        self.training = training
        self.choose = QPushButton("Choose table…", self)
        self.choose.setToolTip(_HINT)
        self.survey = WrappedLabel(_HINT, self)
        self.targets = shrinkable(QComboBox(self))
        for row, (name, text, tip) in enumerate(_SURVIVAL):
            self.targets.addItem(text, name)
            self.targets.setItemData(row, tip, Qt.ItemDataRole.ToolTipRole)
        self.outcome = QLineEdit(self)
        self.outcome.setPlaceholderText("such as recurrence")
        self.outcome.setToolTip("What the event is, or what the number is of; results name it.")
        self.features = QPushButton("Slides are encoded here", self)
        self.features.setToolTip(
            "Choose a folder of features made elsewhere (CLAM, TRIDENT, STAMP), NAME.h5 for each "
            "slide of the table, to train on these. Cancel the choice to encode the slides here."
        )
        self.encoder = shrinkable(QComboBox(self))
        self.encoder.setEditable(True)
        self.encoder.addItems([*_OWN, *ENCODERS])
        self.encoder.setToolTip(
            "What turns each patch into numbers. Of features made elsewhere: what made them, where "
            "their files do not say it."
        )
        self.patch = QDoubleSpinBox(self)
        self.patch.setRange(0.0, 100_000.0)
        self.patch.setSpecialValueText("as the files say")
        self.patch.setSuffix(" µm")
        self.name = QLineEdit(self)
        self.start = QPushButton("Train on the table", self)
        self.start.setToolTip(
            "Trains a new model from the beginning, in another process. A tenth of the patients is "
            "held out to test on, another chooses the best epoch."
        )
        self.cancel = QPushButton("Cancel", self)
        self.cancel.setToolTip("Ends it now. No model is kept; the features that were made are.")
        self.bar = QProgressBar(self)
        self.held = QLabel(self)
        self.found = WrappedLabel("", self)
        self._lay_out()
        self._connect()
        self._show()

    def _lay_out(self) -> None:
        grid = QGridLayout(self)
        grid.setContentsMargins(0, 0, 0, 0)
        grid.setColumnStretch(1, 1)
        grid.addWidget(self.choose, 0, 0, 1, 2)
        grid.addWidget(self.survey, 1, 0, 1, 2)
        self._names: dict[QWidget, QLabel] = {}
        rows = (
            ("Learn", self.targets), ("Outcome", self.outcome), ("Features", self.features),
            ("Encoder", self.encoder), ("Patch", self.patch), ("Model", self.name),
        )  # fmt: skip
        for row, (text, widget) in enumerate(rows, 2):
            self._names[widget] = label_for(widget, text)
            grid.addWidget(self._names[widget], row, 0)
            grid.addWidget(widget, row, 1)
        wide = (self.start, self.cancel, self.bar, self.held, self.found)
        for row, widget in enumerate(wide, 2 + len(rows)):
            grid.addWidget(widget, row, 0, 1, 2)

    def _connect(self) -> None:
        self.choose.clicked.connect(self._choose_table)
        self.features.clicked.connect(self._choose_features)
        self.targets.activated.connect(self._choose_target)
        self.outcome.textEdited.connect(self._edit)
        self.name.textEdited.connect(self._edit)
        self.encoder.editTextChanged.connect(self._edit)
        self.patch.valueChanged.connect(self._edit)
        self.start.clicked.connect(self._start)
        self.cancel.clicked.connect(self._cancel)
        self.follow(self.training.changed, self._show)

    def _choose_table(self) -> None:
        path, _ = QFileDialog.getOpenFileName(self, "Choose table", "", "Table (*.csv *.tsv *.txt)")
        if path:
            self.training.choose(table=Path(path))

    def _choose_features(self) -> None:
        path = QFileDialog.getExistingDirectory(self, "Choose folder of features")
        self.training.choose(features=Path(path) if path else None)

    def _choose_target(self, _: int = 0) -> None:
        self.training.choose(target=self.targets.currentData())

    def _edit(self, _: object = None) -> None:
        self.training.choose(
            outcome=self.outcome.text().strip(),
            name=self.name.text().strip(),
            encoder=self.encoder.currentText().strip(),
            patch_um=self.patch.value() or None,
        )

    def _start(self) -> None:
        self.training.start()

    def _cancel(self) -> None:
        self.training.cancel()

    def _show(self, _: object = None) -> None:
        training, chosen = self.training, self.training.choices
        working, there = training.working, chosen.table is not None
        self.choose.setText("Choose table…" if chosen.table is None else chosen.table.name)
        lines = (training.survey.text, *training.survey.hints)
        self.survey.setText("\n".join(lines) if there else _HINT)
        kind = None if training.read is None else training.read.kind
        self._offer(self.targets, there and kind is not None and kind.survival)
        self._offer(self.outcome, there and kind is not None and not kind.classes)
        for widget in (self.features, self.encoder, self.name):
            self._offer(widget, there)
        self._offer(self.patch, there and chosen.features is not None)
        if kind is not None:
            self.targets.setCurrentIndex(max(0, self.targets.findData(kind.name)))
        folder = chosen.features
        self.features.setText("Slides are encoded here" if folder is None else folder.name)
        for line, text in ((self.name, chosen.name), (self.outcome, chosen.outcome)):
            if line.text().strip() != text:
                line.setText(text)
        for widget in (self.choose, self.targets, self.outcome, self.features, self.encoder,
                       self.patch, self.name):  # fmt: skip
            widget.setEnabled(not working)
        self.start.setVisible(there and not working)
        self.start.setEnabled(training.ready)
        for widget in (self.cancel, self.bar):
            widget.setVisible(working)
        epoch = training.epoch
        self.bar.setRange(0, 1 if epoch is None else epoch.epochs)
        self.bar.setValue(0 if epoch is None else epoch.epoch)
        self.bar.setFormat(training.stage)
        self.held.setVisible(working and epoch is not None and bool(epoch.text))
        self.held.setText("" if epoch is None else epoch.text)
        done = training.trained
        self.found.setVisible(done is not None and not working)
        if done is not None:
            self.found.setText(
                f"'{done.path.stem}' is among the models. On held-out slides: {done.sentence}."
            )

    def _offer(self, widget: QWidget, there: bool) -> None:
        widget.setVisible(there)
        self._names[widget].setVisible(there)
