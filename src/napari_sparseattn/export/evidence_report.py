"""Measured evidence and what-ifs as a file: JSON for programs, one HTML page for people."""

from __future__ import annotations

import dataclasses
import json
import math
from collections.abc import Iterator, Sequence
from html import escape
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ..files import replacing

if TYPE_CHECKING:
    from ..evidence.faithfulness import Faithfulness, FaithfulnessOfSet
    from ..inference.what_if import WhatIf

__all__ = ["EvidenceReport", "write_evidence_report"]

_COLOURS = ("#0072b2", "#8c98a6", "#e69f00", "#cc79a7", "#009e73", "#56b4e9")
_WIDTH, _HEIGHT, _LEFT, _BOTTOM = 340, 190, 38, 34
_STYLE = """
:root{color-scheme:light dark}
body{font:15px/1.5 system-ui,sans-serif;max-width:60rem;margin:2rem auto;padding:0 1rem}
h1{font-size:1.5rem}h2{font-size:1.15rem;margin-top:2rem}
.verdict{font-size:1.1rem;padding:.6rem 1rem;border-left:5px solid #0072b2}
table{border-collapse:collapse;margin:.5rem 0}
td,th{padding:.2rem .7rem;text-align:right;border-bottom:1px solid #8c98a6}
td:first-child,th:first-child{text-align:left}
svg text{font:11px system-ui,sans-serif;fill:currentColor}
"""


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
            file.writelines(_page(report))
    return path


def _page(report: EvidenceReport) -> Iterator[str]:
    title = f"Evidence: {escape(report.image)}"
    yield "<!doctype html><html lang='en'><head><meta charset='utf-8'>"
    yield f"<title>{title}</title><style>{_STYLE}</style></head><body><h1>{title}</h1>"
    yield f"<p>Model {escape(report.model)}, {escape(report.model_hash[:12])}. Parts of the image "
    yield "were replaced by plausible content, and the whole model ran anew each time.</p>"
    if report.answer is not None:
        yield from _answer(report.answer)
    if report.cells is not None:
        yield from _cells(report.cells)
    if report.what_ifs:
        yield from _what_ifs(report.what_ifs)
    yield "</body></html>\n"


def _answer(found: Faithfulness) -> Iterator[str]:
    yield f"<h2>{escape(found.label)}, {100 * found.probability:.1f} %</h2>"
    yield f"<p class='verdict'>{escape(found.verdict())}</p>"
    names = [*found.own, *found.baselines]
    for kind, said in (("deletion", "removed first"), ("insertion", "shown first")):
        lines = [getattr(found.orders[name].curves, kind).tolist() for name in names]
        shares = found.orders[names[0]].curves.shares.tolist()
        yield _plot(f"Probability, % of the content {said}", shares, lines)
    rows = []
    for name, colour in zip(names, _cycle(len(names)), strict=True):
        score = found.orders[name]
        head = f"<span style='color:{colour}'>■</span> {escape(name)}"
        numbers = (score.gain, score.drop_without, score.drop_with_only)
        rows.append([head, *(f"{value:+.3f}" for value in numbers)])
    heads = ("removed first", "gain", "probability lost without", "lost with nothing else")
    yield _table(heads, rows)
    single = {
        "selected share": found.selected,
        "concentration (Gini)": found.sparseness,
        **{f"stability, {kind}": value for kind, value in found.stability.items()},
        "selection inside the mask": found.mass_in_mask,
        "mask's share of the area": found.mask_share,
        "rank correlation with shuffled weights": found.control,
    }
    yield _table(
        ("measure", "value"),
        [[name, f"{value:.3f}"] for name, value in single.items() if not math.isnan(value)],
    )


def _cells(found: FaithfulnessOfSet) -> Iterator[str]:
    yield f"<h2>{len(found)} cells</h2><p class='verdict'>{escape(found.verdict())}</p>"
    rows = []
    for label, part in found.by_class().items():
        rows.append([escape(label), str(len(part)), escape(part.verdict())])
    yield _table(("class", "cells", "evidence"), rows)
    own = found.own[0]
    each = [
        [str(found.ids[i]), escape(item.label), f"{item.orders[own].gain:+.3f}"]
        for i, item in ((i, found.items[i]) for i in found.ordered())
    ]
    yield _table(("cell", "class", "gain"), each)


def _what_ifs(asked: Sequence[WhatIf]) -> Iterator[str]:
    yield "<h2>What if</h2>"
    rows = []
    for what_if in asked:
        same = what_if.selection_overlap
        rows.append(
            [
                escape(what_if.question),
                f"{100 * what_if.share:.2g} %",
                escape(what_if.fill or "–"),
                escape(what_if.summary()),
                "–" if math.isnan(same) else f"{100 * same:.0f} %",
            ]
        )
    heads = ("question", "share", "replaced by", "answer", "selection that stayed")
    yield _table(heads, rows)


def _table(heads: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    """Return a table; the cells are HTML already."""
    head = "".join(f"<th>{name}</th>" for name in heads)
    body = "".join(f"<tr>{''.join(f'<td>{cell}</td>' for cell in row)}</tr>" for row in rows)
    return f"<table><tr>{head}</tr>{body}</table>"


def _cycle(n: int) -> list[str]:
    return [_COLOURS[i % len(_COLOURS)] for i in range(n)]


def _plot(title: str, shares: Sequence[float], lines: Sequence[Sequence[float]]) -> str:
    """Return curves as SVG, 0 to 100 % along both axes."""
    wide, high = _WIDTH - _LEFT - 8, _HEIGHT - _BOTTOM - 22
    parts = [f"<text x='2' y='12'>{escape(title)}</text>"]
    for value in (0, 50, 100):
        x, y = _LEFT + wide * value / 100, 22 + high * (1 - value / 100)
        parts.append(
            f"<path d='M{_LEFT} {y:.1f}h{wide}' stroke='#8c98a6' stroke-opacity='.4'/>"
            f"<text x='{_LEFT - 6}' y='{y + 4:.1f}' text-anchor='end'>{value}</text>"
            f"<text x='{x:.1f}' y='{22 + high + 14}' text-anchor='middle'>{value}</text>"
        )
    for line, colour in zip(lines, _cycle(len(lines)), strict=True):
        points = " ".join(
            f"{_LEFT + wide * x:.1f},{22 + high * (1 - min(max(y, 0.0), 1.0)):.1f}"
            for x, y in zip(shares, line, strict=True)
        )
        parts.append(
            f"<polyline points='{points}' fill='none' stroke='{colour}' stroke-width='2'/>"
        )
    return f"<svg width='{_WIDTH}' height='{_HEIGHT}' role='img'>{''.join(parts)}</svg>"
