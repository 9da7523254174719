"""One row per input, of all that a folder of results holds."""

from __future__ import annotations

import csv

from ..files import replacing
from .records import Records
from .work import describe

__all__ = ["TABLE", "write_table"]

#: Beside the results.
TABLE = "batch.csv"
_COLUMNS = ("item", "state", "found", "reason", "file", "model", "scale_known", "seconds", "host")


def write_table(records: Records) -> None:
    """Write ``batch.csv``: each input, what was found, and why it failed.

    An input that failed the last time and has earlier results has two rows.

    Raises
    ------
    OSError
        If it cannot be written.
    """
    rows = [
        {
            "item": record.key,
            "state": "done",
            "found": describe(record.summary),
            "file": record.input,
            "model": f"{record.model}@{record.model_hash[:12]}",
            "scale_known": record.summary.get("scale_known", ""),
            "seconds": record.seconds,
            "host": record.host,
        }
        for record in records.all()
    ]
    rows += [
        {"item": failed.key, "state": "failed", "reason": failed.reason, "file": failed.input}
        for failed in records.failures()
    ]
    rows.sort(key=lambda row: (row["item"], row["state"]))
    with (
        replacing(records.out / TABLE) as temporary,
        temporary.open("w", newline="", encoding="utf-8") as file,
    ):
        writer = csv.DictWriter(file, _COLUMNS)
        writer.writeheader()
        writer.writerows(rows)
