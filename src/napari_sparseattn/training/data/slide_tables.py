"""A table of slides and their classes, follow-up or numbers, as a spreadsheet writes it."""

from __future__ import annotations

import csv
import dataclasses
import functools
import io
import math
import os
import re
from collections.abc import Iterator, Sequence
from pathlib import Path

import numpy as np

from ...targets import TARGETS, TargetKind, target_of_columns
from .span_data import Part

__all__ = ["SlideRow", "SlideTable", "SlideTableError", "read_slide_table", "unique_names"]

#: Beside those that state the target, see `targets.TARGETS`.
_COLUMNS = ("slide", "group", "split")
#: "time (months)" is the column time, and its unit.
_WITH_UNIT = re.compile(r"(.*\S)\s*[\[(](.+)[\])]")
_PARTS: dict[str, Part] = {
    "train": "train",
    "training": "train",
    "validation": "validation",
    "valid": "validation",
    "val": "validation",
    "test": "test",
}
#: Rows with a problem that a message names, at most.
_SHOWN = 10


class SlideTableError(ValueError):
    """A table of slides that cannot be used.

    Attributes
    ----------
    rows : tuple of int
        1-based numbers of the rows at fault, the header being row 1.
    """

    def __init__(self, message: str, rows: Sequence[int] = ()) -> None:
        super().__init__(message)
        self.rows = tuple(rows)


@dataclasses.dataclass(frozen=True)
class SlideRow:
    """One slide.

    Attributes
    ----------
    row : int
        Its row in the table, the header being row 1.
    path : pathlib.Path
        The file.
    label : str
        Its class; empty where the table states something else.
    group : str
        What it is of (a patient, a block); its name by default.
    part : str or None
        What it is for, where the table says it: train, validation or test.
    name : str
        The name of its file without the ending, with the folders above it
        where slides of several folders have the same.
    outcome : tuple of float
        (value,), or (time, event) with event 1 or 0; empty of classes.
    """

    row: int
    path: Path
    label: str
    group: str
    part: Part | None = None
    name: str = ""
    outcome: tuple[float, ...] = ()


@dataclasses.dataclass(frozen=True)
class SlideTable:
    """Slides and their classes, or what else is to be learned of them.

    Attributes
    ----------
    rows : tuple of SlideRow
        In the order of the table.
    class_names : tuple of str
        In alphabetical order; empty where there is something else than classes.
    kind : TargetKind
        What is to be learned.
    unit : str
        Of times or values, where the head of the column says it.
    """

    rows: tuple[SlideRow, ...]
    class_names: tuple[str, ...]
    kind: TargetKind = TARGETS["classes"]
    unit: str = ""

    def __len__(self) -> int:
        return len(self.rows)

    def label_of(self, row: SlideRow) -> int:
        """Return the index of its class, or of what else parts of a split share evenly."""
        if self.class_names:
            return self.class_names.index(row.label)
        return self._strata[row.row]

    @functools.cached_property
    def _strata(self) -> dict[int, int]:
        outcomes = np.array([row.outcome for row in self.rows], np.float64)
        found = self.kind.assign_strata(outcomes, [row.group for row in self.rows])
        return {row.row: int(value) for row, value in zip(self.rows, found, strict=True)}


def read_slide_table(
    path: str | os.PathLike[str],
    folder: str | os.PathLike[str] | None = None,
    target: str | None = None,
) -> SlideTable:
    """Read a CSV of slides: column `slide`, what is known of it, optionally `group` and `split`.

    What is known stands in `label`, a class; in `time` and `event`, follow-up
    whose event is 1 where it happened and 0 where the time is censored; or in
    `value`, a number. The unit of a time or value may follow its name:
    "time (months)". Commas, semicolons and tabs separate columns. `slide` is a
    path, absolute or from `folder`, or the name of a file there without its ending.

    Parameters
    ----------
    path : path-like
        The table, in UTF-8.
    folder : path-like, optional
        Where the slides are; by default where the table is.
    target : {"classes", "number", "hazards", "cox"}, optional
        What is to be learned; by default what the columns state, and of
        follow-up hazards.

    Raises
    ------
    SlideTableError
        If a column is unknown, missing or there twice; a file is missing,
        ambiguous or listed twice; a label is empty; a class is of one group only;
        a group is in two parts; or there are no two classes. A time or value is
        no number, a time negative, an event neither 0 nor 1, a group's follow-up
        not the same in all of its rows, or nobody had the event. Row numbers are named.
    ValueError
        If there is no such target.
    OSError
        If the table cannot be read.
    """
    path = Path(path)
    where = Path(folder) if folder is not None else path.parent
    try:
        with path.open(encoding="utf-8-sig", newline="") as opened:
            lines = list(_lines(opened.read()))
    except (UnicodeDecodeError, csv.Error) as error:
        raise SlideTableError(f"{path.name} is no CSV table in UTF-8: {error}") from error
    if not lines:
        raise SlideTableError(f"{path.name} is empty; its first row names the columns.")
    columns, unit, kind = _columns(path.name, lines[0][1], target)
    problems: list[tuple[int, str]] = []
    rows = []
    for number, cells in lines[1:]:
        try:
            rows.append(_row(number, cells, columns, where, kind))
        except SlideTableError as error:
            problems.append((number, str(error)))
    names = unique_names([row.path for row in rows])
    rows = [
        dataclasses.replace(row, name=name, group=row.group or name)
        for row, name in zip(rows, names, strict=True)
    ]
    problems += _find_repeated(rows)
    _complain(path.name, problems)
    if not rows:
        raise SlideTableError(f"{path.name} lists no slide.")
    if not kind.classes:
        _complain(path.name, [*_in_two_parts(rows), *_contradictions(rows, kind)])
        _check_outcomes(path.name, rows, kind)
        return SlideTable(tuple(rows), (), kind, unit)
    _complain(path.name, [*_in_two_parts(rows), *_single_groups(rows)])
    classes = tuple(sorted({row.label for row in rows}))
    if len(classes) < 2:
        raise SlideTableError(
            f"{path.name}: all slides are of one class, {classes[0]}; two are needed to tell apart."
        )
    return SlideTable(tuple(rows), classes)


def unique_names(paths: Sequence[Path]) -> list[str]:
    """Return a name per file: its own, with the folders above it where others have the same."""
    depth = [1] * len(paths)
    bare = [path.absolute().with_suffix("") for path in paths]
    plain = [
        # Beside a file that differs by its ending alone, the ending tells them apart.
        (path.absolute() if bare.count(each) > 1 else each).parts
        for path, each in zip(paths, bare, strict=True)
    ]

    def names() -> list[str]:
        return ["/".join(parts[-n:]) for parts, n in zip(plain, depth, strict=True)]

    while True:
        now = names()
        again = [
            i for i, name in enumerate(now) if now.count(name) > 1 and depth[i] < len(plain[i])
        ]
        if not again:
            return now
        for i in again:
            depth[i] += 1


def _lines(text: str) -> Iterator[tuple[int, list[str]]]:
    """Rows that are not blank, with their numbers."""
    header = text.partition("\n")[0]
    separator = max(",;\t", key=header.count)
    for number, cells in enumerate(csv.reader(io.StringIO(text), delimiter=separator), 1):
        if any(cell.strip() for cell in cells):
            yield number, [cell.strip() for cell in cells]


def _columns(
    name: str, header: Sequence[str], target: str | None
) -> tuple[list[str], str, TargetKind]:
    """Return the names of the columns, the unit of the time or value, and what is stated."""
    columns, unit = [], ""
    for column in header:
        parted = _WITH_UNIT.fullmatch(column)
        bare = parted[1].lower() if parted else ""
        if parted and bare in ("time", "value"):
            columns.append(bare)
            unit = parted[2].strip()
        else:
            columns.append(column.lower())
    kind = target_of_columns(columns, target)
    wanted = ("slide", *kind.columns)
    unknown = [column for column in columns if column not in (*_COLUMNS, *kind.columns)]
    missing = [column for column in wanted if column not in columns]
    twice = sorted({column for column in columns if columns.count(column) > 1})
    said = [
        f"{word} {', '.join(repr(column) for column in wrong)}"
        for word, wrong in (("unknown", unknown), ("missing", missing), ("twice", twice))
        if wrong
    ]
    if said:
        others = ""
        if target is None:
            others = " In place of label: time and event (follow-up), or value (a number)."
        raise SlideTableError(
            f"{name}, row 1: columns {'; '.join(said)}. They are {', '.join(wanted)} and, if you "
            f"like, group and split.{others}",
            [1],
        )
    return columns, unit, kind


def _row(
    number: int, cells: list[str], columns: list[str], where: Path, kind: TargetKind
) -> SlideRow:
    if len(cells) != len(columns):
        raise SlideTableError(f"{len(cells)} cells under {len(columns)} columns")
    value = dict(zip(columns, cells, strict=True))
    if not value["slide"]:
        raise SlideTableError("no slide")
    empty = [column for column in kind.columns if not value[column]]
    if empty:
        raise SlideTableError(f"no {empty[0]} for {value['slide']}")
    split = value.get("split", "").lower()
    if split and split not in _PARTS:
        raise SlideTableError(f"split {split!r} is none of train, validation, test")
    outcome: tuple[float, ...] = ()
    if not kind.classes:
        outcome = tuple(_number(column, value[column]) for column in kind.columns)
        if kind.survival:
            _check_follow_up(*outcome)
    found = _find(value["slide"], where)
    return SlideRow(
        number,
        found,
        value.get("label", ""),
        value.get("group", ""),
        _PARTS.get(split),
        "",
        outcome,
    )


def _number(column: str, text: str) -> float:
    try:
        # A comma that does not separate columns is that of a decimal fraction.
        found = float(text.replace(",", ".") if text.count(",") == 1 else text)
    except ValueError:
        found = math.nan
    if not math.isfinite(found):
        raise SlideTableError(
            f"{column} {text!r} is no number; leave units to the head of the column"
        )
    return found


def _check_follow_up(time: float, event: float) -> None:
    if time < 0:
        raise SlideTableError(f"time {time:g} is negative: count from the slide's date")
    if event not in (0, 1):
        raise SlideTableError(
            f"event {event:g} is neither 1 (it happened at that time) nor 0 (censored: it had not "
            "happened until then)"
        )


def _contradictions(rows: Sequence[SlideRow], kind: TargetKind) -> Iterator[tuple[int, str]]:
    """Rows of one patient that state another outcome than the first of them."""
    if not kind.of_patients:
        return
    first: dict[str, SlideRow] = {}
    for row in rows:
        other = first.setdefault(row.group, row)
        if other.outcome != row.outcome:
            here, there = (f"time {each.outcome[0]:g}, event {each.outcome[1]:g}"
                           for each in (row, other))  # fmt: skip
            yield row.row, f"group {row.group} has {here} here and {there} in row {other.row}"


def _check_outcomes(name: str, rows: Sequence[SlideRow], kind: TargetKind) -> None:
    """Refuse a table that nothing can be told from."""
    if kind.survival and not any(row.outcome[1] for row in rows):
        raise SlideTableError(
            f"{name}: event is 0 in all rows. Of patients who were all censored nothing can be "
            "learned; check that 1 means that the event happened."
        )
    if not kind.survival and len(rows) > 1 and len({row.outcome for row in rows}) < 2:
        raise SlideTableError(
            f"{name}: value is {rows[0].outcome[0]:g} in all rows; there is nothing to tell apart."
        )


def _find(slide: str, where: Path) -> Path:
    direct = where / slide
    try:
        if direct.exists():
            return direct
    except (OSError, ValueError) as error:
        raise SlideTableError(f"{slide[:40]!r} names no file ({type(error).__name__})") from error
    if direct.name != slide or not where.is_dir():
        raise SlideTableError(f"no file {direct}")
    named = sorted(each for each in where.iterdir() if each.suffix and each.stem == slide)
    if not named:
        raise SlideTableError(f"no file {slide} in {where}, with any ending")
    if len(named) > 1:
        names = ", ".join(each.name for each in named)
        raise SlideTableError(f"{slide} may be any of {names}; give the ending")
    return named[0]


def _find_repeated(rows: Sequence[SlideRow]) -> Iterator[tuple[int, str]]:
    first: dict[Path, int] = {}
    for row in rows:
        earlier = first.setdefault(row.path.resolve(), row.row)
        if earlier != row.row:
            yield row.row, f"{row.path.name} is already in row {earlier}"


def _in_two_parts(rows: Sequence[SlideRow]) -> Iterator[tuple[int, str]]:
    if any(row.part for row in rows):
        for row in rows:
            if row.part is None:
                yield row.row, "no split, though other rows have one"
    first: dict[str, SlideRow] = {}
    for row in rows:
        other = first.setdefault(row.group, row)
        if other.part != row.part and row.part and other.part:
            clash = (
                f"group {row.group} is for {row.part} here and for {other.part} in row "
                f"{other.row}: what is learned from one would be known of the other"
            )
            yield row.row, clash


def _single_groups(rows: Sequence[SlideRow]) -> Iterator[tuple[int, str]]:
    groups: dict[str, set[str]] = {}
    first: dict[str, int] = {}
    for row in rows:
        groups.setdefault(row.label, set()).add(row.group)
        first.setdefault(row.label, row.row)
    for label, own in groups.items():
        if len(own) == 1:
            yield (
                first[label],
                f"class {label} is of a single group, {own.pop()}: nothing is left to test it on",
            )


def _complain(name: str, problems: Sequence[tuple[int, str]]) -> None:
    if not problems:
        return
    said = [f"row {number}: {problem}" for number, problem in sorted(problems)]
    more = f"\n… and {len(said) - _SHOWN} more" if len(said) > _SHOWN else ""
    raise SlideTableError(
        f"{name} has {len(said)} problem{'s' * (len(said) != 1)}.\n"
        + "\n".join(said[:_SHOWN])
        + more,
        sorted({number for number, _ in problems}),
    )
