"""A fine-tuning report as one HTML page, curves drawn as SVG."""

from __future__ import annotations

from ...card import default_colours
from ...metrics import Report
from ...pages import render
from .report import FineTuneReport

__all__ = ["render_report"]

_WIDTH, _LEFT, _TOP, _LOW = 300, 40, 24, 140
_MOST_WRONG, _MOST_IDS = 200, 50


def render_report(report: FineTuneReport) -> str:
    """Return the whole page; nothing in it is fetched from elsewhere."""
    charts = [
        _chart("accuracy", report, {"training": "train_accuracy", "held out": "accuracy"}, 1.0),
        _chart("loss", report, {"training": "train_loss", "held out": "loss"}, None),
    ]
    if any(row.get("moved") is not None for row in report.history):
        charts.append(_chart("selected pixels that are new", report, {"share": "moved"}, 1.0))
    same = report.unit == "patches" or (
        report.unit == "slides" and report.class_names == report.old_class_names
    )
    first = "the model as it was" if same else "the fitted head alone"
    wrong = sorted(
        (cell for cell in report.cells if cell.label != cell.after), key=lambda c: -c.probability
    )
    return render(
        "tuning.html",
        title="Fine-tuning report",
        report=report,
        charts=charts,
        kept=f"epoch {report.best_epoch}" if report.best_epoch else first,
        pixels=sorted({row["k"] for row in report.history if row.get("k") is not None}, key=str),
        per_class=[_describe_class(report, name) for name in report.class_names],
        kept_cells=[
            [name, str(n), f"{100 * before / n:.0f} %", f"{100 * after / n:.0f} %"]
            for name, (n, before, after) in report.kept_classes.items()
        ],
        confusion=[] if report.after is None else _list_confusion(report, report.after),
        wrong=[
            [c.id, c.label, c.before, c.after, f"{100 * c.probability:.0f} %"]
            for c in wrong[:_MOST_WRONG]
        ],
    )


def _describe_class(report: FineTuneReport, name: str) -> list[str]:
    row = [name, str(report.annotated.get(name, 0))]
    for measured in (report.before, report.after):
        of = None if measured is None else measured.per_class[name]
        if of is None or not of.support:
            row += ["–"] * 3
        else:
            row += [f"{100 * value:.0f} %" for value in (of.precision, of.recall, of.f1)]
    return row


def _list_confusion(
    report: FineTuneReport, after: Report
) -> list[tuple[str, list[tuple[int, str, str]]]]:
    """Per class: how many were given each class, whether that is right, and which they are."""
    rows = []
    for i, name in enumerate(report.class_names):
        cells = []
        for j, predicted in enumerate(report.class_names):
            n = int(after.confusion[i, j])
            ids = ", ".join(report.of(name, predicted)[:_MOST_IDS]) if i != j else ""
            cells.append((n, ("right" if i == j else "wrong") if n else "", ids))
        rows.append((name, cells))
    return rows


def _chart(
    title: str, report: FineTuneReport, lines: dict[str, str], top: float | None
) -> tuple[str, float, list[tuple[str, str, str]]]:
    """Title, top of the axis, and of each line name, colour and points."""
    columns = {name: [row.get(key) for row in report.history] for name, key in lines.items()}
    values = [v for column in columns.values() for v in column if v is not None]
    most = top or max([*values, 1e-9])
    step = (_WIDTH - _LEFT - 10) / max(len(report.history) - 1, 1)
    drawn = []
    for (name, column), colour in zip(columns.items(), default_colours(8)[:2], strict=False):
        points = " ".join(
            f"{_LEFT + i * step:.1f},{_LOW - (_LOW - _TOP) * min(v / most, 1):.1f}"
            for i, v in enumerate(column)
            if v is not None
        )
        drawn.append((name, colour, points))
    return title, most, drawn
