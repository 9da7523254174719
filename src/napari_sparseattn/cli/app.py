"""The same without a window: ``napari-sparseattn VERB ...``."""

from __future__ import annotations

import json
import os
import sys
from collections.abc import Callable, Iterator, Sequence
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, cast

import typer

from .batch import batch
from .evidence import evidence
from .export import export_app, import_app
from .fine_tune import fine_tune
from .hologram import hologram
from .models import cache, export_model, models, push
from .progress import progress_bar
from .rows import Row, free_stem, report_rows, rows_of
from .slide import slide
from .training import train

if TYPE_CHECKING:
    from ..bundle import Bundle
    from ..images.fields.cells import Method
    from ..images.fields.field import Field

__all__ = ["app", "main"]

app = typer.Typer(
    name="napari-sparseattn",
    help="See where a network looked: classify cells from a few of their pixels.",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
)

JsonOption = Annotated[bool, typer.Option("--json", help="Print JSON for machines.")]
ModelOption = Annotated[
    str, typer.Option(help="Name of a model, its file, or hf://owner/name@COMMIT.")
]
DeviceOption = Annotated[str, typer.Option(help="auto, cpu, cuda or mps.")]
PixelSizeOption = Annotated[
    float | None, typer.Option(help="µm per pixel, where the file does not say.", min=1e-4, max=1e3)
]
FormatsOption = Annotated[
    str | None, typer.Option(help="More files of each, e.g. geojson,html,anndata.")
]
OutOption = Annotated[Path, typer.Option(help="Folder for the results.")]


def main() -> None:
    """Run the command line; errors of the user's are one line, exit status 1."""
    try:
        app()
    except (ValueError, OSError, MemoryError, TypeError) as error:
        print(f"Error: {error}", file=sys.stderr)
        raise SystemExit(1) from error


@app.command()
def demo(
    out: OutOption = Path("napari-sparseattn-demo"),
    window: Annotated[
        bool | None, typer.Option("--window/--no-window", help="By default, if there is a display.")
    ] = None,
    as_json: JsonOption = False,
) -> None:
    """Run the main job on a sample: in a window or, without a display, to files."""
    if window is None:
        window = _has_display() and _has_napari()
    if window:
        _demo_window()
        return
    from ..simulate import smear

    _classify_fields([smear], "blood-cells", out, "auto", "auto", as_json, ["simulated smear"])


@app.command()
def classify(
    images: Annotated[list[Path], typer.Argument(help="Fields of view: TIFF, PNG, JPEG, NPY.")],
    out: OutOption,
    model: ModelOption = "blood-cells",
    device: DeviceOption = "auto",
    pixel_size: PixelSizeOption = None,
    method: Annotated[str, typer.Option(help="How to find cells; auto fits the image.")] = "auto",
    whole: Annotated[
        bool, typer.Option("--whole", help="Classify images or slides as a whole, with a TNet.")
    ] = False,
    locations: Annotated[
        str | None, typer.Option(help="With --whole: crops inside each crop, e.g. 4,2.")
    ] = None,
    formats: FormatsOption = None,
    only: Annotated[
        str | None,
        typer.Option(
            help="Classes that can occur here, e.g. neutrophil,lymphocyte; all otherwise."
        ),
    ] = None,
    as_json: JsonOption = False,
) -> None:
    """Find and classify the cells of fields; write a CSV and a picture of each.

    With --whole, images and slides are classified as a whole, and what was
    looked at is written as JSON. An image that fails is named and does not
    stop the others.
    """
    from ..export.formats import parse_formats

    more = parse_formats(formats, "field" if whole else "cells")
    if whole:
        if only is not None:
            raise ValueError("--only is for cells: leave it out with --whole")
        _classify_wholes(images, model, out, device, pixel_size, locations, more, as_json)
        return
    from ..images.fields.field import open_image

    metadata: dict[str, Any] = {} if pixel_size is None else {"pixel_size": pixel_size}
    fields = [partial(open_image, path, **metadata) for path in images]
    names = [str(path) for path in images]
    classes = None if only is None else [name.strip() for name in only.split(",")]
    _classify_fields(fields, model, out, device, method, as_json, names, more, classes)


@app.command()
def evaluate(
    folder: Annotated[Path, typer.Argument(help="FOLDER/class/image")],
    model: ModelOption = "blood-cells",
    device: DeviceOption = "auto",
    pixel_size: Annotated[
        float | None,
        typer.Option(
            help="µm per pixel: cut the model's field of view around each image's centre. "
            "Without it the whole image is the crop.",
            min=1e-4,
            max=1e3,
        ),
    ] = None,
    as_json: JsonOption = False,
) -> None:
    """Measure a model on labelled images in class folders."""
    from ..bundle import load_bundle
    from ..inference.evaluate import evaluate_folder

    bundle = load_bundle(model)
    with progress_bar("images", quiet=as_json) as progress:
        result = evaluate_folder(folder, bundle, device, pixel_size=pixel_size, progress=progress)
    if as_json:
        print(json.dumps(result.to_dict()))
        return
    report = result.report
    low, high = report.accuracy_interval
    print(f"{report.n} images, model {bundle.card.name}")
    interval = f"(95 % interval {100 * low:.1f} to {100 * high:.1f})"
    print(f"accuracy          {100 * report.accuracy:5.1f} %  {interval}")
    print(f"balanced accuracy {100 * report.balanced_accuracy:5.1f} %")
    print(f"macro F1          {100 * report.macro_f1:5.1f} %")
    print(f"calibration error {100 * report.ece:5.1f} %")
    print(f"speed             {result.cells_per_second:5.0f} cells/s")
    width = max(map(len, bundle.card.class_names))
    print(f"\n{'class':{width}}  precision  recall     F1  images")
    for name, row in report.per_class.items():
        print(
            f"{name:{width}}  {100 * row.precision:7.1f} %{100 * row.recall:6.1f} %"
            f"{100 * row.f1:5.1f} %{row.support:8d}"
        )
    for path, reason in result.unreadable.items():
        print(f"not read: {path}: {reason}", file=sys.stderr)


app.command()(models)
app.command("export-model")(export_model)
app.command()(push)
app.command()(cache)
app.command("fine-tune")(fine_tune)
app.command()(batch)
app.command()(evidence)
app.command()(hologram)
app.command()(slide)
app.command()(train)
app.add_typer(export_app, name="export")
app.add_typer(import_app, name="import")


def _classify_wholes(
    paths: Sequence[Path],
    model: str,
    out: Path,
    device: str,
    pixel_size: float | None,
    locations: str | None,
    formats: Sequence[str],
    as_json: bool,
) -> None:
    from ..bundle import load_bundle
    from .fields import classify_whole, parse_locations

    bundle, per_level = load_bundle(model), parse_locations(locations)
    taken: set[str] = set()

    def work(index: int) -> Row:
        path = paths[index]
        target = out / free_stem(path.stem, taken)
        row = classify_whole(
            path,
            bundle,
            target,
            device,
            pixel_size=pixel_size,
            locations=per_level,
            formats=formats,
        )
        progress(index + 1, len(paths))
        return row

    with progress_bar("images", quiet=as_json) as progress:
        rows = rows_of([str(path) for path in paths], work)
    report_rows(rows, as_json, _about_whole)


def _about_whole(row: Row) -> Iterator[str]:
    yield f"{row['image']}: {row['class']} ({100 * row['confidence']:.1f} %)"
    yield (
        f"  looked at {row['crops']} crops, read {row['tiles']} tiles and "
        f"{100 * row['share_read']:.3g} % of the full resolution, {row['seconds']:.2f} s "
        f"on {row['device']}"
    )
    if not row["scale_known"]:
        yield "  pixel size unknown: give --pixel-size to be sure"
    yield from (f"  {note}" for note in row["notes"])
    yield f"  {row['json']}"
    yield from (f"  {path}" for path in row["files"])


def _classify_fields(
    fields: Sequence[Callable[[], Field]],
    model: str,
    out: Path,
    device: str,
    method: str,
    as_json: bool,
    names: Sequence[str],
    formats: Sequence[str] = (),
    classes: Sequence[str] | None = None,
) -> None:
    """Classify and report each field; exit with status 1 if any failed."""
    from ..bundle import load_bundle
    from ..inference.cells import absent_classes

    bundle = load_bundle(model)
    absent_classes(bundle, classes)
    taken: set[str] = set()

    def work(index: int) -> Row:
        field = fields[index]()
        target = out / free_stem(field.path.stem if field.path else field.name, taken)
        row = _classify_field(field, bundle, target, device, method, formats, classes)
        progress(index + 1, len(fields))
        return row

    with progress_bar("fields", quiet=as_json) as progress:
        rows = rows_of(names, work)
    report_rows(rows, as_json, _about_cells)


def _classify_field(
    field: Field,
    bundle: Bundle,
    target: Path,
    device: str,
    method: str,
    formats: Sequence[str],
    classes: Sequence[str] | None,
) -> Row:
    import dataclasses

    from ..export.formats import FORMATS, write_results
    from ..export.overlay import Overlay
    from ..export.tables import write_csv
    from ..images.fields.cells import find_cells
    from ..inference.cells import classify_cells, iter_cells, join

    cells = find_cells(field, method=cast("Method", method))
    overlay, parts = Overlay(field, bundle.card.colours), []
    shown = any(FORMATS[name].evidence for name in formats)
    for part in iter_cells(field, cells, bundle, device, evidence=True, classes=classes):
        overlay.add(part)
        parts.append(part if shown else dataclasses.replace(part, evidence=()))
    result = join(parts) if parts else classify_cells(field, cells, bundle, device)
    table = target.with_name(f"{target.name}.csv")
    picture = target.with_name(f"{target.name}_overlay.png")
    write_csv(result, table)
    overlay.write(picture)
    more = write_results(result, field, target.parent, target.name, formats, bundle.card)
    return {
        "image": str(field.path or field.name),
        "cells": len(result),
        "counts": {name: n for name, n in result.counts().items() if n},
        "csv": str(table),
        "overlay": str(picture),
        "files": [str(path) for path in more if path not in (table, picture)],
        "looked_at": result.ledger.share,
        "seconds": result.ledger.seconds,
        "device": result.ledger.device,
        "scale_known": result.scale_known,
        "notes": [*result.ledger.notes, *_about_frames(field)],
    }


def _about_frames(field: Field) -> list[str]:
    if field.n_frames * field.n_slices == 1:
        return []
    count = field.n_frames * field.n_slices
    said = f"only the first of {count} frames was classified; for all frames of OPD or holograms "
    return [said + "use `napari-sparseattn hologram --model`"]


def _about_cells(row: Row) -> Iterator[str]:
    counts = ", ".join(f"{n} {name}" for name, n in row["counts"].items()) or "none"
    yield f"{row['image']}: {row['cells']} cells ({counts})"
    yield (
        f"  looked at {100 * row['looked_at']:.1f} % of the pixels, {row['seconds']:.2f} s "
        f"on {row['device']}"
    )
    if not row["scale_known"]:
        yield "  pixel size unknown: scale taken from the cells; give --pixel-size to be sure"
    yield from (f"  {note}" for note in row["notes"])
    yield f"  {row['csv']}"
    yield f"  {row['overlay']}"
    yield from (f"  {path}" for path in row["files"])


def _has_display() -> bool:
    if sys.platform in ("darwin", "win32"):
        return not os.environ.get("SSH_CONNECTION")
    return bool(os.environ.get("DISPLAY") or os.environ.get("WAYLAND_DISPLAY"))


def _has_napari() -> bool:
    from importlib.util import find_spec

    return find_spec("napari") is not None


def _demo_window() -> None:
    if not _has_napari():
        raise ValueError(
            'The window needs napari: pip install "napari-sparseattn[all]", or use --no-window.'
        )
    import napari
    from npe2 import PluginManager

    viewer = napari.Viewer()
    PluginManager.instance().commands.execute("napari-sparseattn.demo", (viewer,))
    napari.run()


if __name__ == "__main__":
    main()
