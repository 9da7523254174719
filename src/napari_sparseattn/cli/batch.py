"""The verb ``batch``: folders of files, in processes or on a cluster, resumable."""

from __future__ import annotations

import dataclasses
import json
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, cast

import typer

from .options import (
    AllowUnknownScale,
    AsJson,
    Axes,
    Device,
    Locations,
    MethodOption,
    Model,
    NoProfile,
    Out,
    Overwrite,
    PixelSize,
    Unit,
)
from .output import parse_locations, progress_bar, refuse_unused

if TYPE_CHECKING:
    from ..batch.plan import BatchPlan
    from ..batch.run import ItemState
    from ..images.fields.cells import Method
    from ..images.holograms.recording import Kind
    from ..process.options import Task
    from ..process.options import Unit as ValueUnit

__all__ = ["batch"]

Inputs = Annotated[
    list[str], typer.Argument(help="Files, folders, and patterns such as 'plates/*/*.tif'.")
]
Pattern = Annotated[
    str | None, typer.Option(help="Of folders, take only files that match, e.g. '*_rgb.png'.")
]
Workers = Annotated[
    int | None, typer.Option(help="Processes, one core each; the cores, at most 4.", min=1)
]
Scheduler = Annotated[
    str | None, typer.Option(help="Address of a dask scheduler, instead of processes here.")
]
Formats = Annotated[str, typer.Option(help="Of results, with commas, e.g. csv,geojson.")]
TaskOption = Annotated[
    str,
    typer.Option(
        "--task", help="auto, cells, hologram, whole or slide; auto goes by model and file."
    ),
]
Settings = Annotated[
    Path | None, typer.Option(help="Holograms: settings saved in the window; see docs/holography.")
]
KindOption = Annotated[
    str | None, typer.Option(help="hologram, field, phase or opd, if files cannot tell.")
]


def batch(
    inputs: Inputs,
    model: Model,
    out: Out,
    pattern: Pattern = None,
    workers: Workers = None,
    scheduler: Scheduler = None,
    formats: Formats = "csv",
    task: TaskOption = "auto",
    pixel_size: PixelSize = None,
    no_icc: NoProfile = False,
    axes: Axes = None,
    unit: Unit = None,
    method: MethodOption = "auto",
    locations: Locations = None,
    settings: Settings = None,
    kind: KindOption = None,
    allow_unknown_scale: AllowUnknownScale = False,
    device: Device = "auto",
    overwrite: Overwrite = False,
    as_json: AsJson = False,
) -> None:
    """Classify what is in folders; what was done before and is right is not done again.

    Results are named as by the other verbs: of the file NAME, its ending and
    the folders below the inputs included, NAME.csv and so on. Those of another
    model or verb are not replaced without --overwrite.

    Give the same command again after it was stopped, or on another machine
    that sees the same folders. Exit status: 0 if all went well, 2 if files
    failed, which are then named, 1 if nothing could be done.
    """
    from ..batch.plan import plan_batch
    from ..process.options import ProcessOptions

    names = tuple(part.strip() for part in formats.split(",") if part.strip())
    if not names:
        raise ValueError("--formats needs at least one format, e.g. csv")
    options = ProcessOptions(
        formats=names,
        task=cast("Task", task),
        method=cast("Method", method),
        pixel_size=pixel_size,
        icc=not no_icc,
        axes=axes,
        unit=cast("ValueUnit | None", unit),
        locations=parse_locations(locations),
        allow_unknown_scale=allow_unknown_scale,
        kind=cast("Kind | None", kind),
        device=device,
    )
    if settings is not None:
        from ..images.holograms.settings import HologramSettings

        read = HologramSettings.from_json(settings)
        options = dataclasses.replace(options, settings=read)
    plan = plan_batch(inputs, model, out, options, pattern=pattern, overwrite=overwrite)
    _check_options(plan)
    states = _run(plan, workers, scheduler, as_json)
    _report(plan, states, as_json)


def _check_options(plan: BatchPlan) -> None:
    """Refuse options that no file of the batch can use, whatever it holds.

    Raises
    ------
    ValueError
        If there are some.
    """
    from ..bundle import read_card

    options, card = plan.options, read_card(plan.model)
    takes, task = card.model_kind.takes, options.task
    refuse_unused(
        f"of a TNet, which '{card.name}' is not",
        locations=options.locations is not None and "fields" not in takes,
    )
    # By itself a model of slides takes nothing else, and any other takes holograms if told of them.
    recordings = task == "hologram" or (task == "auto" and "slides" not in takes)
    refuse_unused(
        "of recordings of holograms, which are not worked on here",
        settings=options.settings is not None and not recordings,
        kind=options.kind is not None and not recordings,
    )
    refuse_unused(
        "of fields and their cells, and slides are classified here",
        axes=options.axes is not None and "slides" in takes,
        unit=options.unit is not None and "slides" in takes,
        method=options.method != "auto" and "slides" in takes,
    )
    refuse_unused(
        "for finding cells, which --task whole does not",
        method=options.method != "auto" and task == "whole",
    )
    refuse_unused(
        f"of a SPAN, which '{card.name}' is not",
        allow_unknown_scale=options.allow_unknown_scale and "slides" not in takes,
    )


def _run(
    plan: BatchPlan, workers: int | None, scheduler: str | None, as_json: bool
) -> list[ItemState]:
    from ..batch.run import ItemState, run_batch

    states = [ItemState(item) for item in plan.items]
    with progress_bar("files", quiet=as_json) as progress:
        for update in run_batch(plan, workers=workers, scheduler=scheduler):
            states[update.index] = update.changed
            progress("files", update.finished, update.total)
    return states


def _report(plan: BatchPlan, states: list[ItemState], as_json: bool) -> None:
    """Print what became of the items; exit with status 2 if any failed."""
    failed = [state for state in states if state.state == "failed"]
    if as_json:
        print(json.dumps([_row(state) for state in states]))
    else:
        counts = {name: sum(s.state == name for s in states) for name in ("done", "skipped")}
        print(
            f"{len(states)} files: {counts['done']} done, "
            f"{counts['skipped']} up to date (verified), {len(failed)} failed"
        )
        _name_failures(failed)
        print(f"Results, and batch.csv with a row per file: {plan.out}")
    if failed:
        raise typer.Exit(2)


def _name_failures(failed: list[ItemState]) -> None:
    if not failed:
        return
    from rich.console import Console
    from rich.table import Table

    table = Table("file", "why it failed", title="Failed", title_justify="left")
    for state in failed:
        table.add_row(state.item.key, state.reason)
    width = None if sys.stderr.isatty() else 120
    Console(stderr=True, width=width, markup=False).print(table)


def _row(state: ItemState) -> dict[str, Any]:
    return {
        "item": state.item.key,
        "file": str(state.item.path),
        "state": state.state,
        "reason": state.reason,
        "found": state.found,
        "seconds": round(state.seconds, 3),
        "outputs": [str(path) for path in state.outputs],
    }
