"""Several raters on the command line: projects put together, agreement, disagreements."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

if TYPE_CHECKING:
    from ..training.data.agreement import Agreement, Kappa
    from ..training.data.annotations import Annotation, ImageRecord

__all__ = ["agreement", "merge"]

_NAMES = "A name for each project, in their order, for annotations without one: one --rater each."
_KINDS = {"cell": "Cells", "region": "Regions", "image": "Whole images"}


def merge(
    projects: Annotated[list[Path], typer.Argument(help="Folders of two projects or more.")],
    out: Annotated[Path, typer.Option(help="The folder of the new project.")],
    rater: Annotated[
        list[str] | None, typer.Option(help=f"{_NAMES} By default their folders' names.")
    ] = None,
    as_json: Annotated[bool, typer.Option("--json", help="Print JSON for machines.")] = False,
) -> None:
    """Put the annotations of several raters into one project, each with its rater.

    The projects stay as they are. Images are told apart by their pixels, classes by their
    names without case.
    """
    from ..training.data.agreement import shown_rater
    from ..training.data.merging import merge_projects

    merged = merge_projects(projects, out, rater or ())
    said = {
        "project": str(out),
        "images": len(merged.images),
        "shared_images": merged.shared,
        "annotations": merged.n_annotations,
        "raters": list(map(shown_rater, merged.raters)),
        "classes": list(merged.classes),
    }
    if as_json:
        print(json.dumps(said))
        return
    print(
        f"{said['annotations']} annotations by {', '.join(map(shown_rater, merged.raters))} on "
        f"{said['images']} images, {merged.shared} of which several have: {out}"
    )


def agreement(
    projects: Annotated[
        list[Path], typer.Argument(help="A project of several raters, or the project of each.")
    ],
    out: Annotated[
        Path | None, typer.Option(help="A CSV file to write: what raters differ on.")
    ] = None,
    everything: Annotated[
        bool, typer.Option("--all", help="Write what they agree on into the CSV file too.")
    ] = False,
    distance: Annotated[
        float | None,
        typer.Option(
            min=0, help="Cells within so many pixels are one; by default 0.4 of their diameter."
        ),
    ] = None,
    rater: Annotated[
        list[str] | None, typer.Option(help=f"{_NAMES} Of a single project none is given.")
    ] = None,
    as_json: Annotated[bool, typer.Option("--json", help="Print JSON for machines.")] = False,
) -> None:
    """Say how far raters agree: Cohen's kappa of two, Fleiss' kappa of more, with intervals.

    Cells are matched by their place. What one rater alone annotated is counted beside.
    """
    from ..export.raters_table import write_raters_table
    from ..training.data.agreement import compare_raters

    images = _images(projects, rater or [])
    found = compare_raters(images, distance)
    if not found:
        raise ValueError(
            "There are no annotations by two raters. Give the projects of both, or merge them: "
            "napari-sparseattn merge A B --out C."
        )
    if out is not None:
        write_raters_table(found, out, everything=everything)
    if as_json:
        print(json.dumps({"agreement": [each.to_dict() for each in found]}))
        return
    for each in found:
        print("\n".join(_lines(each)))
    if out is not None:
        print(out)


def _images(
    folders: list[Path], raters: list[str]
) -> list[tuple[ImageRecord, tuple[Annotation, ...]]]:
    from ..training.data.merging import join_projects, known_project

    opened = [known_project(folder) for folder in folders]
    if len(opened) == 1 and not raters:
        return list(opened[0].annotations())
    return list(join_projects(opened, raters).images.items())


def _lines(found: Agreement) -> Iterator[str]:
    from ..training.data.agreement import shown_rater

    names = " and ".join(map(shown_rater, found.raters))
    yield f"{_KINDS[found.kind]}, by {names}:"
    method = "Cohen's" if len(found.raters) == 2 else "Fleiss'"
    yield f"  {method} kappa {_said(found.overall)}"
    for name, kappa in found.classes.items():
        yield f"    {name}: {_said(kappa)}"
    for pair, kappa in found.pairs.items():
        yield f"  {' and '.join(map(shown_rater, pair))}: Cohen's kappa {_said(kappa)}"
    yield f"  {found.disputed} with different classes, {found.settled} of them decided"
    alone = ", ".join(f"{n} by {shown_rater(rater)}" for rater, n in found.alone.items() if n)
    if alone:
        yield f"  annotated by one alone, and not counted: {alone}"


def _said(kappa: Kappa) -> str:
    if not kappa.n:
        return "unknown: nothing was annotated by two"
    if kappa.value is None:
        return f"not defined, as all used one class, n = {kappa.n}"
    share = f"{100 * (kappa.agreed or 0):.0f} % agree"
    return f"{kappa.value:.2f} [{kappa.low:.2f}, {kappa.high:.2f}], n = {kappa.n}, {share}"
