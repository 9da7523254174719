"""A table of slides and their classes, as a spreadsheet writes it."""

from __future__ import annotations

import csv
import dataclasses
import io
import os
from collections.abc import Iterator, Sequence
from pathlib import Path

from .span_data import Part

__all__ = ["SlideRow", "SlideTable", "SlideTableError", "read_slide_table", "unique_names"]

_COLUMNS = ("slide", "label", "group", "split")
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
        Its class.
    group : str
        What it is of (a patient, a block); its name by default.
    part : str or None
        What it is for, where the table says it: train, validation or test.
    name : str
        The name of its file without the ending, with the folders above it
        where slides of several folders have the same.
    """

    row: int
    path: Path
    label: str
    group: str
    part: Part | None = None
    name: str = ""


@dataclasses.dataclass(frozen=True)
class SlideTable:
    """Slides and their classes.

    Attributes
    ----------
    rows : tuple of SlideRow
        In the order of the table.
    class_names : tuple of str
        In alphabetical order.
    """

    rows: tuple[SlideRow, ...]
    class_names: tuple[str, ...]

    def __len__(self) -> int:
        return len(self.rows)

    def label_of(self, row: SlideRow) -> int:
        """Return the index of its class."""
        return self.class_names.index(row.label)


def read_slide_table(
    path: str | os.PathLike[str], folder: str | os.PathLike[str] | None = None
) -> SlideTable:
    """Read a CSV of slides: columns `slide` and `label`, optionally `group` and `split`.

    Commas, semicolons and tabs separate columns. `slide` is a path, absolute or
    from `folder`, or the name of a file there without its ending.

    Parameters
    ----------
    path : path-like
        The table, in UTF-8.
    folder : path-like, optional
        Where the slides are; by default where the table is.

    Raises
    ------
    SlideTableError
        If a column is unknown, missing or there twice; a file is missing,
        ambiguous or listed twice; a label is empty; a class is of one group only;
        a group is in two parts; or there are no two classes. Row numbers are named.
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
    columns = _columns(path.name, lines[0][1])
    problems: list[tuple[int, str]] = []
    rows = []
    for number, cells in lines[1:]:
        try:
            rows.append(_row(number, cells, columns, where))
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


def _columns(name: str, header: Sequence[str]) -> list[str]:
    columns = [column.lower() for column in header]
    unknown = [column for column in columns if column not in _COLUMNS]
    missing = [column for column in _COLUMNS[:2] if column not in columns]
    twice = sorted({column for column in columns if columns.count(column) > 1})
    said = [
        f"{word} {', '.join(repr(column) for column in wrong)}"
        for word, wrong in (("unknown", unknown), ("missing", missing), ("twice", twice))
        if wrong
    ]
    if said:
        raise SlideTableError(
            f"{name}, row 1: columns {'; '.join(said)}. They are slide, label and, if you like, "
            "group and split.",
            [1],
        )
    return columns


def _row(number: int, cells: list[str], columns: list[str], where: Path) -> SlideRow:
    if len(cells) != len(columns):
        raise SlideTableError(f"{len(cells)} cells under {len(columns)} columns")
    value = dict(zip(columns, cells, strict=True))
    if not value["slide"]:
        raise SlideTableError("no slide")
    if not value["label"]:
        raise SlideTableError(f"no label for {value['slide']}")
    split = value.get("split", "").lower()
    if split and split not in _PARTS:
        raise SlideTableError(f"split {split!r} is none of train, validation, test")
    found = _find(value["slide"], where)
    return SlideRow(number, found, value["label"], value.get("group", ""), _PARTS.get(split))


def _find(slide: str, where: Path) -> Path:
    direct = where / slide
    if direct.exists():
        return direct
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
