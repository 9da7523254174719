"""A button that writes what was measured and asked about an image to a file."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

from qtpy.QtWidgets import QFileDialog, QPushButton, QWidget

from ...export.evidence_report import EvidenceReport, write_evidence_report
from ..core.lanes import Lanes
from ..core.status import explain
from ..session import Session
from .cells_session import CellFaithfulness
from .session import AnswerFaithfulness
from .what_if_session import WhatIfSession

if TYPE_CHECKING:
    from napari.components import ViewerModel

__all__ = ["ReportButton", "make_report"]

_KINDS = "Page for reading (*.html);;JSON for programs (*.json)"


class ReportButton(QPushButton):
    """Saves measured faithfulness and what-if answers of the chosen image."""

    def __init__(self, session: Session, parent: QWidget | None = None) -> None:
        super().__init__("Save report…", parent)
        self.setToolTip(
            "Writes the faithfulness and every what-if answer of this image: as a page with "
            "curves, or as JSON. The cells' columns are in the exports of the table."
        )
        assert session.viewer is not None
        self._session = session
        self._lane = Lanes.of(session.viewer).add(
            _write,
            given=lambda _, path: session.status.notify(f"Report written to {path}."),
            failed=lambda _, error: session.status.notify(
                f"The report could not be written: {explain(error)}", "error"
            ),
            busy="queue",
        )
        self.clicked.connect(self._choose_file)

    def _choose_file(self) -> None:
        viewer = self._session.viewer
        report = None if viewer is None else make_report(viewer)
        if report is None or report.empty:
            self._session.status.notify(
                "Nothing has been measured yet: click a cell first.", "warning"
            )
            return
        name = f"{report.image}_evidence.html"
        path, kind = QFileDialog.getSaveFileName(self, "Save report", name, _KINDS)
        if not path:
            return
        target = Path(path)
        if target.suffix.lower() not in (".html", ".json"):
            target = target.with_name(target.name + (".json" if "json" in kind else ".html"))
        self._lane.ask((report, target))


def _write(request: tuple[EvidenceReport, Path]) -> Path:
    return write_evidence_report(*request)


def make_report(viewer: ViewerModel) -> EvidenceReport | None:
    """Return what was measured and asked about the chosen image; None without image or model.

    Answers of an earlier model are left out.
    """
    session = Session.of(viewer)
    if session.selection.image is None or session.selection.model is None:
        return None
    bundle = session.selection.model.bundle
    asked = tuple(
        entry.found
        for entry in WhatIfSession.of(viewer).entries
        if entry.request.rerunner.source.model.bundle.hash == bundle.hash
    )
    measured, cells = AnswerFaithfulness.of(viewer).measured, CellFaithfulness.of(viewer).of_class()
    name = session.selection.image.name
    return EvidenceReport(name, bundle.card.name, bundle.hash, measured, cells, asked)
