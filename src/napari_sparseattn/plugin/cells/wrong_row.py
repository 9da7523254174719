"""A row below a result: what it really is, where the model is wrong."""

from __future__ import annotations

from collections.abc import Callable

from qtpy.QtWidgets import QComboBox, QHBoxLayout, QLabel, QWidget

from ...inference.prediction import Prediction
from ..annotate.class_box import swatch
from ..annotate.session import Annotating
from ..core.session import Session
from ..widgets.base import SessionWidget, shrinkable

__all__ = ["WrongRow"]

_CHOOSE = "choose its class"


class WrongRow(SessionWidget):
    """Corrects the answer that is shown; annotating begins when it is used first."""

    def __init__(self, session: Session, parent: QWidget | None = None) -> None:
        super().__init__(session, parent)
        self._let_go: Callable[[], None] | None = None
        self._answer: Prediction | None = None
        self.classes = shrinkable(QComboBox(self))
        self.classes.setToolTip(
            "Keeps the right class as an annotation, which a model can be fine-tuned on. Add "
            "classes in the dock Annotate and train."
        )
        row = QHBoxLayout(self)
        row.setContentsMargins(0, 0, 0, 0)
        row.addWidget(QLabel("Wrong? It is", self))
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
