"""What was measured and asked in one viewer, gathered for a file; no Qt here."""

from __future__ import annotations

from typing import TYPE_CHECKING

from ...export.evidence_report import EvidenceReport
from ..core.session import Session
from .agreement_session import Agreement
from .session import Evidence
from .what_if_session import WhatIfs

if TYPE_CHECKING:
    from napari.components import ViewerModel

__all__ = ["report_of"]


def report_of(viewer: ViewerModel) -> EvidenceReport | None:
    """Return what was measured and asked about the chosen image; None without image or model.

    What-ifs of an earlier model are not of this report.
    """
    session = Session.of(viewer)
    if session.image is None or session.model is None:
        return None
    bundle = session.model.bundle
    asked = tuple(
        entry.found
        for entry in WhatIfs.of(viewer).entries
        if entry.request.bench.source.model.bundle.hash == bundle.hash
    )
    measured, cells = Evidence.of(viewer).measured, Agreement.of(viewer).of_class()
    name = session.image.name
    return EvidenceReport(name, bundle.card.name, bundle.hash, measured, cells, asked)
