"""One row per file on the command line: a file that fails does not stop the others."""

from __future__ import annotations

import json
import sys
from collections.abc import Callable, Iterable, Sequence
from typing import Any

import typer

__all__ = ["Row", "free_stem", "report_rows", "rows_of"]

Row = dict[str, Any]


def rows_of(names: Sequence[str], work: Callable[[int], Row]) -> list[Row]:
    """Work on every file; a single one that fails raises, of several it is a row.

    Parameters
    ----------
    names : sequence of str
        What to call the files in errors.
    work : callable
        Given the index of a file, returns its row.
    """
    rows: list[Row] = []
    for index, name in enumerate(names):
        try:
            rows.append(work(index))
        except (ValueError, OSError, TypeError) as error:
            if len(names) == 1:
                raise
            rows.append({"image": name, "error": str(error)})
    return rows


def report_rows(
    rows: Sequence[Row], as_json: bool, describe: Callable[[Row], Iterable[str]]
) -> None:
    """Print the rows, for machines or people; exit with status 1 if a file failed.

    Parameters
    ----------
    rows : sequence of dict
        From `rows_of`.
    as_json : bool
        For machines.
    describe : callable
        Returns the lines that tell people of a row.
    """
    if as_json:
        print(json.dumps(rows))
    else:
        for row in rows:
            if "error" in row:
                print(f"{row['image']}: {row['error']}", file=sys.stderr)
            else:
                print("\n".join(describe(row)))
    if any("error" in row for row in rows):
        raise typer.Exit(1)


def free_stem(name: str, taken: set[str]) -> str:
    """Return a safe file name; images of one name in one run get a number.

    Results of an earlier run are replaced.
    """
    safe = "".join(c if c.isalnum() or c in "-_. " else "-" for c in name).strip(" .")
    stem = first = safe.replace(" ", "-") or "field"
    number = 1
    while stem.casefold() in taken:
        number += 1
        stem = f"{first}-{number}"
    taken.add(stem.casefold())
    return stem
