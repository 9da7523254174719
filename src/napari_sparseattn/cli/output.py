"""What the verbs print: a bar while they work, a row per file when they are done."""

from __future__ import annotations

import json
import sys
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

import typer

from ..addresses import Address

if TYPE_CHECKING:
    from ..process.result import Result

__all__ = [
    "Row",
    "check_single",
    "describe_row",
    "make_rows",
    "parse_locations",
    "parse_place",
    "progress_bar",
    "refuse_given",
    "refuse_unused",
    "report_rows",
    "row_of",
    "was_given",
]

Row = dict[str, Any]


@contextmanager
def progress_bar(what: str, quiet: bool) -> Iterator[Callable[..., None]]:
    """Give a callable that draws a bar on a terminal's standard error; nothing for machines.

    It takes what is done and the total, and may be given the stage before them.
    """
    if quiet or not sys.stderr.isatty():
        yield lambda *report: None
        return
    from rich.console import Console
    from rich.progress import Progress

    with Progress(console=Console(stderr=True)) as bar:
        task = bar.add_task(what, total=None)

        def show(*report: Any) -> None:
            *stage, done, total = report
            bar.update(task, description=" ".join((what, *stage)), completed=done, total=total)

        yield show


def check_single(sources: Sequence[Path | Address], formats: str | None = None) -> None:
    """Refuse a single file that is not there before seconds go into loading a model.

    Where `formats` were asked for, those are checked first, which takes as long.

    Raises
    ------
    FileNotFoundError
        If it is not there; of several files those that are there are worked on.
    """
    first = sources[0] if len(sources) == 1 else None
    if formats is None and isinstance(first, Path) and not first.exists():
        raise FileNotFoundError(f"there is no file {first}")


def make_rows(names: Sequence[str], work: Callable[[int], Row]) -> list[Row]:
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
        From `make_rows`.
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


def row_of(image: str, result: Result, written: dict[str, list[Path]]) -> Row:
    """Return what is reported of a result and its files, the same names for every verb.

    The first file of each of CSV, JSON and picture has a key of its own, the
    others are ``files``.
    """
    row: Row = {"image": image, **result.summary(), **result.identity}
    row |= {name: str(written[name][0]) for name in ("csv", "json", "overlay") if name in written}
    paths = [str(path) for name in written for path in written[name]]
    row["files"] = [path for path in paths if path not in row.values()]
    if result.task == "slide":
        row["picture"] = row.get("overlay")
        features = getattr(result.prediction, "features", None)
        kept = None if features is None else features.path
        row["features"] = None if kept is None else str(kept)
    return row


def describe_row(row: Row) -> Iterator[str]:
    """Give the lines that tell people what was found in a file, read of it, and written."""
    from ..export.summary import describe

    said = [describe({**row, "scale_known": True})] if row.get("model") else []
    if "kind" in row:
        peak = "" if row["peak"] is None else f", peak {row['peak']:.4g} {row['unit']}"
        frames = "1 frame" if row["frames"] == 1 else f"{row['frames']} frames"
        said.insert(0, f"{frames} of {row['kind']}{peak}")
    yield f"{row['image']}: {'; '.join(said)}"
    if "crops" in row:
        yield f"  looked at {row['crops']} crops, {row['seconds']:.2f} s on {row['device']}"
        if row.get("stopped"):
            yield f"  {row['stopped']['why']}"
    elif "stages" in row:
        stages = ", ".join(f"{name} {seconds:.1f} s" for name, seconds in row["stages"].items())
        yield f"  {row['patches']} patches; {stages}; on {row['device']}"
        if row.get("foci"):
            yield f"  {_about_foci(row['foci'])}"
    elif "looked_at" in row:
        from ..inference.prediction import say_share

        seen = say_share(row["looked_at"])
        yield f"  looked at {seen}, {row['seconds']:.2f} s on {row['device']}"
    if "tiles" in row:
        anew = f"{row['bytes_read'] / 1e6:.1f} MB read for it" if row["bytes_read"] else "in memory"
        yield (
            f"  used {row['tiles']} tiles ({anew}), "
            f"{100 * row['share_read']:.3g} % of the full resolution"
        )
    yield from (f"  {warning}" for warning in _warnings(row))
    yield from (f"  {note}" for note in row["notes"])
    yield from (
        f"  {row[key]}" for key in ("opd", "json", "csv", "overlay", "scores") if row.get(key)
    )
    yield from (f"  {path}" for path in row["files"])


def _about_foci(foci: Row) -> str:
    count = "1 focus" if foci["count"] == 1 else f"{foci['count']} foci"
    area = "area unknown" if foci["area_mm2"] is None else f"{foci['area_mm2']:.3g} mm²"
    share = f"{100 * foci['share_of_tissue']:.3g} % of the tissue"
    return f"{count}, {area}, {share}, at a probability of {100 * foci['threshold']:g} % or more"


def _warnings(row: Row) -> Iterator[str]:
    if row.get("unit") == "rad":
        yield "wavelength unknown, so this is phase: give --wavelength for OPD in nm"
    if "kind" in row:
        if row["pixel_size_um"] is None:
            yield "pixel size unknown: give --pixel-size for areas and dry mass"
    elif not row["scale_known"]:
        if row["pixel_size_um"] is not None:
            yield "scale in doubt, see below: the classes may not hold"
            return
        guess = "scale taken from the cells; " if "cells" in row else ""
        yield f"pixel size unknown: {guess}give --pixel-size to be sure"


def was_given(context: typer.Context, name: str) -> bool:
    """Return whether an option stands in the command, whatever its default."""
    return getattr(context.get_parameter_source(name), "name", "") == "COMMANDLINE"


def refuse_given(context: typer.Context, why: str, *names: str) -> None:
    """`refuse_unused`, of options that have a default: those that stand in the command."""
    refuse_unused(why, **{name: was_given(context, name) for name in names})


def refuse_unused(why: str, **given: bool) -> None:
    """Refuse options that would change nothing, so that nobody believes that they did.

    Parameters
    ----------
    why : str
        What they are for, which is not the case.
    **given : bool
        Names of options, with ``_`` for ``-``, and whether they were given.

    Raises
    ------
    ValueError
        If one was.
    """
    names = [f"--{name.replace('_', '-')}" for name, is_given in given.items() if is_given]
    if names:
        verb, it = ("is", "it") if len(names) == 1 else ("are", "them")
        raise ValueError(f"{' and '.join(names)} {verb} {why}: leave {it} out")


def parse_place(text: str | None) -> tuple[float, float] | None:
    """Read a row and a column from text such as ``"120,84.5"``.

    Raises
    ------
    ValueError
        If it is no such text.
    """
    if text is None:
        return None
    try:
        row, column = (float(part) for part in text.split(","))
    except ValueError as error:
        raise ValueError(f"--at must be ROW,COLUMN such as 120,84.5, not '{text}'") from error
    return row, column


def parse_locations(text: str | None) -> tuple[int, ...] | None:
    """Read crops per level from text such as ``"4,2"``.

    Raises
    ------
    ValueError
        If a part is no whole number above 0.
    """
    if text is None:
        return None
    parts = [part.strip() for part in text.split(",")]
    if not all(part.isdecimal() and int(part) > 0 for part in parts):
        raise ValueError(f"--locations takes whole numbers such as 4,2 - got '{text}'")
    return tuple(map(int, parts))
