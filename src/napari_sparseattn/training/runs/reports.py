"""Reports of fine-tuning on disk, and where in the project their cells are."""

from __future__ import annotations

import dataclasses
import json
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from ...files import replacing
from ...metrics import ClassMetrics, Report

if TYPE_CHECKING:
    from ..tune.fine_tune import FineTuneReport

__all__ = ["read_report", "report_from_dict", "write_report"]


def read_report(path: Path) -> FineTuneReport:
    """Read a report.

    Raises
    ------
    ValueError
        If the file is none.
    """
    try:
        plain = json.loads(path.read_text(encoding="utf-8"))
        return report_from_dict(plain["report"])
    except (OSError, KeyError, TypeError, ValueError, RecursionError) as error:
        raise ValueError(f"{path.name} is no report that can be read ({error}).") from error


def write_report(report: FineTuneReport, path: Path) -> tuple[Path, Path]:
    """Write a report as HTML and as JSON, at the same place with other endings.

    Raises
    ------
    OSError
        If they cannot be written.
    """
    from ..tune.html import render_report

    page, plain = path.with_suffix(".html"), path.with_suffix(".json")
    with replacing(page) as temporary:
        temporary.write_text(render_report(report), encoding="utf-8")
    with replacing(plain) as temporary:
        temporary.write_text(json.dumps(report.to_dict(), allow_nan=False), encoding="utf-8")
    return page, plain


def report_from_dict(plain: dict[str, Any]) -> FineTuneReport:
    """Make a report from `FineTuneReport.to_dict`.

    Raises
    ------
    KeyError, TypeError
        If it is none.
    """
    from ..tune.fine_tune import FineTuneReport
    from ..tune.report import HeldOutCell, Paired

    fields = {field.name for field in dataclasses.fields(FineTuneReport)}
    # Reports from before there were kept cells have none.
    plain = {"kept": None, "kept_classes": {}, **plain}
    values = {name: plain[name] for name in fields}
    for name in ("before", "after"):
        values[name] = values[name] and _read_measures(values[name])
    for name in ("all_cells", "known", "fresh"):
        values[name] = Paired(**values[name])
    values["kept"] = values["kept"] and Paired(**values["kept"])
    values["kept_classes"] = {n: tuple(of) for n, of in values["kept_classes"].items()}
    values["cells"] = tuple(HeldOutCell(**cell) for cell in values["cells"])
    for name in ("class_names", "old_class_names", "history", "notes"):
        values[name] = tuple(values[name])
    return FineTuneReport(**values)


def _read_measures(plain: dict[str, Any]) -> Report:
    per_class = {name: ClassMetrics(**of) for name, of in plain["per_class"].items()}
    return Report(
        **{
            **plain,
            "accuracy_interval": tuple(plain["accuracy_interval"]),
            "per_class": per_class,
            "confusion": np.array(plain["confusion"], dtype=np.int64),
        }
    )
