"""A button that writes what was measured and asked to a file."""

from __future__ import annotations

from functools import partial
from pathlib import Path

from qtpy.QtWidgets import QFileDialog, QPushButton, QWidget

from ...export.evidence_report import write_evidence_report
from ..core.errors import explain
from ..core.session import Session
from ..core.workers import Workers
from .saving import report_of

__all__ = ["ReportButton"]

_KINDS = "Page for reading (*.html);;JSON for programs (*.json)"


class ReportButton(QPushButton):
    """Saves evidence, and what-ifs, of the chosen image."""

    def __init__(self, session: Session, parent: QWidget | None = None) -> None:
        super().__init__("Save report…", parent)
        self.setToolTip(
            "Writes what was measured and every what-if of this image: as a page with curves, or "
            "as JSON. The cells' columns are in the exports of the table."
        )
        self._session = session
        self._workers = Workers(self._not_written)
        self.destroyed.connect(self._workers.close)
        self.clicked.connect(self._choose_file)

    def _choose_file(self) -> None:
        viewer = self._session.viewer
        report = None if viewer is None else report_of(viewer)
        if report is None or report.empty:
            self._session.say("Nothing has been measured yet: click a cell first.", "warning")
            return
        name = f"{report.image}_evidence.html"
        path, kind = QFileDialog.getSaveFileName(self, "Save report", name, _KINDS)
        if not path:
            return
        target = Path(path)
        if target.suffix.lower() not in (".html", ".json"):
            target = target.with_name(target.name + (".json" if "json" in kind else ".html"))
        self._workers.start(partial(write_evidence_report, report, target), returned=self._written)

    def _written(self, path: Path) -> None:
        self._session.say(f"Report written to {path}.")

    def _not_written(self, error: BaseException) -> None:
        self._session.say(f"The report could not be written: {explain(error)}", "error")
