"""A button that gives the model in use away, in formats of other programs."""

from __future__ import annotations

from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING

from qtpy.QtGui import QAction
from qtpy.QtWidgets import QFileDialog, QHBoxLayout, QMenu, QPushButton, QWidget

from ...export.model_formats import MODEL_FORMATS
from ..core.jobs import Jobs
from ..core.session import Session
from ..widgets.base import SessionWidget

if TYPE_CHECKING:
    from ..cells.requests import Model

__all__ = ["ExportButton"]


class ExportButton(SessionWidget):
    """Lists the formats; the work goes on in the background.

    Parameters
    ----------
    session : Session
        Its model is exported.
    jobs : Jobs
        Does the work.
    parent : QWidget, optional
        The dock.
    """

    def __init__(self, session: Session, jobs: Jobs, parent: QWidget | None = None) -> None:
        super().__init__(session, parent)
        self._jobs = jobs
        self.button = QPushButton("Export…", self)
        self.button.setToolTip("Write the model in use for other programs, or as a copy.")
        self.actions_by_format: dict[str, QAction] = {}
        menu = QMenu(self)
        menu.setToolTipsVisible(True)
        for name, form in MODEL_FORMATS.items():
            action = menu.addAction(f"{form.title} (*{form.suffix})…")
            action.setToolTip(form.tip)
            action.triggered.connect(partial(self._choose_file, name))
            self.actions_by_format[name] = action
        self.button.setMenu(menu)
        row = QHBoxLayout(self)
        row.setContentsMargins(0, 0, 0, 0)
        row.addWidget(self.button)
        self.follow(session.model_changed, self.show_model)
        self.show_model(session.model)

    def show_model(self, model: Model | None) -> None:
        """Offer what the model can be written as."""
        self.button.setEnabled(model is not None)
        on_slides = model is not None and model.bundle.card.takes_slides
        for name, action in self.actions_by_format.items():
            action.setEnabled(MODEL_FORMATS[name].slides or not on_slides)

    def _choose_file(self, to: str) -> None:
        model, form = self.session.model, MODEL_FORMATS[to]
        if model is None:
            return
        name = f"{model.bundle.card.name}{form.suffix}"
        path, _ = QFileDialog.getSaveFileName(
            self, f"Export as {form.title}", name, f"{form.title} (*{form.suffix})"
        )
        if path:
            whole = path if path.endswith(form.suffix) else f"{path}{form.suffix}"
            self._jobs.export_model(model.bundle, str(Path(whole)), to)
