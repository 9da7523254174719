"""Measured evidence and what-ifs as a file: JSON for programs, one HTML page for people."""

from __future__ import annotations

import dataclasses
import itertools
import json
import math
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ..files import replacing
from ..pages import render

if TYPE_CHECKING:
    from ..evidence.faithfulness import Faithfulness, FaithfulnessOfSet
    from ..inference.what_if import WhatIf

__all__ = ["EvidenceReport", "write_evidence_report"]

_COLOURS = ("#0072b2", "#8c98a6", "#e69f00", "#cc79a7", "#009e73", "#56b4e9")


@dataclasses.dataclass(frozen=True, eq=False)
class EvidenceReport:
    """What was measured of one image's answers, and asked about them.

    Parameters
    ----------
    image, model, model_hash : str
        What was classified, and by which model.
    answer : Faithfulness or None
        Of the answer that is shown.
    cells : FaithfulnessOfSet or None
        Of all cells that were measured.
    what_ifs : tuple of WhatIf
        In the order in which they were asked.
    """

    image: str
    model: str
    model_hash: str
    answer: Faithfulness | None = None
    cells: FaithfulnessOfSet | None = None
    what_ifs: tuple[WhatIf, ...] = ()

    @property
    def empty(self) -> bool:
        """Whether nothing was measured or asked."""
        return self.answer is None and self.cells is None and not self.what_ifs

    def to_dict(self) -> dict[str, Any]:
        """Return lists and numbers, for JSON; what is not known is None."""
        found: dict[str, Any] = {
            "kind": "evidence-report",
            "image": self.image,
            "model": self.model,
            "model_hash": self.model_hash,
            "answer": None if self.answer is None else self.answer.to_dict(),
            "cells": None if self.cells is None else self.cells.to_dict(each=True),
            "what_ifs": [what_if.to_dict() for what_if in self.what_ifs],
        }
        known: dict[str, Any] = _known(found)
        return known


def _known(value: Any) -> Any:
    """Replace not-a-number, which JSON does not have, by None."""
    if isinstance(value, dict):
        return {name: _known(each) for name, each in value.items()}
    if isinstance(value, list | tuple):
        return [_known(each) for each in value]
    return None if isinstance(value, float) and not math.isfinite(value) else value


def write_evidence_report(report: EvidenceReport, path: Path) -> Path:
    """Write a report, atomically.

    Parameters
    ----------
    report : EvidenceReport
        What to write.
    path : pathlib.Path
        Ending in ``.json``, or ``.html`` for a page that needs nothing beside it.

    Returns
    -------
    pathlib.Path
        The file.

    Raises
    ------
    ValueError
        If the file has another ending, or there is nothing to write.
    OSError
        If it cannot be written.
    """
    if report.empty:
        raise ValueError("nothing has been measured or asked yet; click a cell first")
    if path.suffix.lower() not in (".json", ".html"):
        raise ValueError(f"{path.name}: a report ends in .json or .html")
    with replacing(path) as temporary, temporary.open("w", encoding="utf-8") as file:
        if path.suffix.lower() == ".json":
            json.dump(report.to_dict(), file, indent=1, allow_nan=False)
        else:
            file.write(_page(report))
    return path


def _page(report: EvidenceReport) -> str:
    values: dict[str, Any] = {}
    if report.answer is not None:
        values |= _describe_answer(report.answer)
    if report.cells is not None:
        values |= _describe_cells(report.cells)
    return render(
        "evidence.html",
        title=f"Faithfulness: {report.image}",
        report=report,
        what_ifs=[_what_if_row(each) for each in report.what_ifs],
        **values,
    )


def _describe_answer(found: Faithfulness) -> dict[str, Any]:
    names = [*found.own, *found.baselines]
    colours = list(itertools.islice(itertools.cycle(_COLOURS), len(names)))
    plots = []
    for kind, said in (("deletion", "removed first"), ("insertion", "shown first")):
        lines = [found.orders[name].curves for name in names]
        points = [zip(x.shares.tolist(), getattr(x, kind).tolist(), strict=True) for x in lines]
        curves = list(zip(colours, points, strict=True))
        plots.append((f"Probability, % of the content {said}", curves))
    single = {
        "selected share": found.selected,
        "concentration (Gini)": found.sparseness,
        **{f"stability, {kind}": value for kind, value in found.stability.items()},
        "selection inside the mask": found.mass_in_mask,
        "mask's share of the area": found.mask_share,
        "rank correlation with shuffled weights": found.control,
    }
    return {
        "sentence": found.sentence(_removed(found)),
        "plots": plots,
        "orders": [(c, name, found.orders[name]) for c, name in zip(colours, names, strict=True)],
        "measures": [(k, f"{v:.3f}") for k, v in single.items() if not math.isnan(v)],
    }


def _removed(found: Faithfulness | FaithfulnessOfSet) -> str:
    return "pixels" if "selection" in found.own else "parts"


def _describe_cells(found: FaithfulnessOfSet) -> dict[str, Any]:
    items = [(found.ids[i], found.items[i]) for i in found.ordered()]
    return {
        "cells_sentence": found.sentence(_removed(found)),
        "n_cells": "1 cell" if len(found) == 1 else f"{len(found)} cells",
        "classes": [(k, len(part), part.verdict()) for k, part in found.by_class().items()],
        "cells": [(n, x.label, f"{x.orders[found.own[0]].gain:+.3f}") for n, x in items],
    }


def _what_if_row(asked: WhatIf) -> tuple[str, ...]:
    same = asked.selection_overlap
    return (
        asked.question,
        f"{100 * asked.share:.2g} %",
        asked.fill or "–",
        asked.summary(),
        "–" if math.isnan(same) else f"{100 * same:.0f} %",
    )
