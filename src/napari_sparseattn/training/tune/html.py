"""A fine-tuning report as one HTML page, curves drawn as SVG."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from html import escape
from typing import TYPE_CHECKING

from ...card import default_colours

if TYPE_CHECKING:
    from ...metrics import Report
    from .report import FineTuneReport

__all__ = ["page"]

_STYLE = """
body{font:15px/1.5 system-ui,sans-serif;max-width:60rem;margin:2rem auto;padding:0 1rem;color:#222}
table{border-collapse:collapse;margin:.5rem 0 1.5rem}td,th{padding:.2rem .6rem;text-align:right;
border-bottom:1px solid #ddd}td:first-child,th:first-child{text-align:left}
.verdict{font-size:1.15rem;padding:.8rem 1rem;border-left:6px solid #7F7F7F;background:#f5f5f5}
.better{border-color:#009E73}.worse{border-color:#D55E00}.right{background:#e3f3ec}
.wrong{background:#fbe6dc}svg{background:#fafafa;margin:.5rem 1rem .5rem 0}
"""


def page(report: FineTuneReport) -> str:
    """Return the whole page; nothing in it is fetched from elsewhere."""
    parts = [
        "<!doctype html><html lang='en'><meta charset='utf-8'><title>Fine-tuning report</title>",
        f"<style>{_STYLE}</style><h1>Fine-tuning report</h1>",
        f"<p class='verdict {report.verdict.split()[0]}'>{escape(report.sentence)}</p>",
        "".join(f"<p>{escape(note)}</p>" for note in report.notes),
        _curves(report),
        _per_class(report),
    ]
    if report.after is not None:
        parts += [_confusion(report, report.after), _wrong(report)]
    return "".join(parts) + "</html>"


def _per_class(report: FineTuneReport) -> str:
    rows = []
    for name in report.class_names:
        row = [escape(name), str(report.annotated.get(name, 0))]
        for measured in (report.before, report.after):
            of = measured.per_class[name] if measured is not None else None
            shown = of is not None and of.support
            row += [f"{100 * v:.0f} %" for v in (of.precision, of.recall, of.f1)] if (
                of is not None and shown) else ["–"] * 3  # fmt: skip
        rows.append(row)
    head = ["class", "annotated", "precision before", "recall", "F1", "precision after", "recall",
            "F1"]  # fmt: skip
    text = f"<h2>Per class, on held-out {report.unit}</h2>" + _table(head, rows)
    if report.before is not None and report.after is not None:
        text += (
            f"<p>Accuracy {100 * report.before.accuracy:.1f} % before, "
            f"{100 * report.after.accuracy:.1f} % after (n = {report.after.n}). Expected "
            f"calibration error {report.before.ece:.3f} before, {report.after.ece:.3f} after, at "
            f"temperature {report.temperature:.2f}.</p>"
        )
    return text


def _confusion(report: FineTuneReport, after: Report) -> str:
    head = "".join(f"<th>{escape(name)}</th>" for name in report.class_names)
    rows = []
    for i, name in enumerate(report.class_names):
        cells = []
        for j, predicted in enumerate(report.class_names):
            n = int(after.confusion[i, j])
            ids = ", ".join(report.of(name, predicted)[:50]) if i != j else ""
            kind = ("right" if i == j else "wrong") if n else ""
            cells.append(f"<td class='{kind}' title='{escape(ids, quote=True)}'>{n or ''}</td>")
        rows.append(f"<tr><td>{escape(name)}</td>{''.join(cells)}</tr>")
    return (
        "<h2>Confusion (rows: your class; columns: the new model's)</h2><table>"
        f"<tr><th></th>{head}</tr>{''.join(rows)}</table>"
    )


def _wrong(report: FineTuneReport) -> str:
    rows = [
        [escape(v) for v in (c.id, c.label, c.before, c.after)] + [f"{100 * c.probability:.0f} %"]
        for c in sorted(report.cells, key=lambda c: -c.probability)
        if c.label != c.after
    ]
    if not rows:
        return "<p>Nothing that is held out is wrong.</p>"
    return f"<h2>Held-out {report.unit} that are wrong, surest first</h2>" + _table(
        [
            "annotation" if report.unit == "cells" else "slide",
            "your class",
            "before",
            "after",
            "probability",
        ],
        rows[:200],
    )


def _curves(report: FineTuneReport) -> str:
    if not report.history:
        return ""
    drawn = [
        _chart("accuracy", report, {"training": "train_accuracy", "held out": "accuracy"}, 1.0),
        _chart("loss", report, {"training": "train_loss", "held out": "loss"}, None),
    ]
    if any(row.get("moved") is not None for row in report.history):
        drawn.append(_chart("selected pixels that are new", report, {"share": "moved"}, 1.0))
    ks = {row["k"] for row in report.history if row.get("k") is not None}
    looked = f"<p>Pixels looked at per cell: {', '.join(map(str, sorted(ks, key=str)))}.</p>"
    same = report.unit == "patches" or (
        report.unit == "slides" and report.class_names == report.old_class_names
    )
    first = "the model as it was" if same else "the fitted head alone"
    kept = f"epoch {report.best_epoch}" if report.best_epoch else first
    return f"<h2>Curves</h2>{''.join(drawn)}<p>Kept: {kept}.</p>{looked if ks else ''}"


def _chart(title: str, report: FineTuneReport, lines: dict[str, str], top: float | None) -> str:
    width, height, left, low = 300, 170, 40, 140
    columns = {name: [row.get(key) for row in report.history] for name, key in lines.items()}
    values = [v for column in columns.values() for v in column if v is not None]
    most = top or max([*values, 1e-9])
    step = (width - left - 10) / max(len(report.history) - 1, 1)
    drawn = [
        f"<text x='{left}' y='14' font-size='12'>{escape(title)}</text>",
        f"<text x='2' y='30' font-size='10'>{most:.2g}</text>",
        f"<text x='2' y='{low}' font-size='10'>0</text>",
        f"<line x1='{left}' y1='{low}' x2='{width - 10}' y2='{low}' stroke='#999'/>",
    ]
    for (name, column), colour in zip(columns.items(), default_colours(8)[:2], strict=False):
        points = " ".join(
            f"{left + i * step:.1f},{low - (low - 24) * min(v / most, 1):.1f}"
            for i, v in enumerate(column)
            if v is not None
        )
        style = f"fill='none' stroke='{colour}' stroke-width='2'"
        drawn.append(f"<polyline points='{points}' {style}/>")
        place = left + 90 * list(columns).index(name)
        drawn.append(f"<text x='{place}' y='160' font-size='11' fill='{colour}'>{name}</text>")
    return f"<svg width='{width}' height='{height}' role='img'>{''.join(drawn)}</svg>"


def _table(head: Sequence[str], rows: Iterable[Sequence[str]]) -> str:
    first = "".join(f"<th>{cell}</th>" for cell in head)
    rest = "".join("<tr>" + "".join(f"<td>{c}</td>" for c in row) + "</tr>" for row in rows)
    return f"<table><tr>{first}</tr>{rest}</table>"
