"""What raters said of the same things, as a table."""

from __future__ import annotations

import csv
import datetime as dt
import os
from collections.abc import Iterable
from typing import Any

from ..files import replacing
from ..training.data.agreement import Agreement, shown_rater
from ..training.data.annotations import ImageRecord
from ..training.data.raters import Thing
from .tables import as_text

__all__ = ["write_raters_table"]

_PLACE = ("image", "hash", "kind", "frame", "slice", "row", "column", "diameter_px")
_DECIDED = ("class", "by", "settled_by", "settled_on")


def write_raters_table(
    found: Iterable[Agreement], path: str | os.PathLike[str], *, everything: bool = False
) -> int:
    """Write a CSV file with a row for each thing that raters differ on, atomically.

    Parameters
    ----------
    found : iterable of Agreement
        From `compare_raters`.
    path : path-like
        The file.
    everything : bool
        Write also what they agree on, and what one alone annotated.

    Returns
    -------
    int
        How many rows there are.

    Raises
    ------
    OSError
        If it cannot be written; an older one is then intact.
    """
    every = list(found)
    raters = sorted({rater for each in every for rater in each.raters})
    head = [*_PLACE, *(f"said by {shown_rater(rater)}" for rater in raters), *_DECIDED]
    rows = [
        _row(record, thing, raters)
        for each in every
        for record, thing in each.things
        if thing.disputed or everything
    ]
    with replacing(path) as temporary, temporary.open("w", newline="", encoding="utf-8") as file:
        writer = csv.writer(file)
        writer.writerow(head)
        writer.writerows([as_text(value) for value in row] for row in rows)
    return len(rows)


def _row(record: ImageRecord, thing: Thing, raters: Iterable[str]) -> list[Any]:
    said = {item.rater: item.label for item in thing.opinions}
    settled = thing.settled
    return [
        record.name or record.hash[:8],
        record.hash,
        thing.kind,
        *thing.plane,
        *(thing.centre or ("", "")),
        "" if thing.diameter is None else thing.diameter,
        *(said.get(rater, "") for rater in raters),
        thing.chosen.label,
        thing.rule,
        "" if settled is None else settled.rater,
        "" if settled is None else _date(settled.time),
    ]


def _date(seconds: float) -> str:
    return dt.datetime.fromtimestamp(seconds, dt.UTC).isoformat(timespec="seconds")
