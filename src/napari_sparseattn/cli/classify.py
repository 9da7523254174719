"""The verbs that classify files: ``classify``, ``slide`` and, on labelled images, ``evaluate``."""

from __future__ import annotations

import json
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, cast, get_args

import typer

from ..addresses import Address, as_sources
from .options import (
    AllowUnknownScale,
    AsJson,
    At,
    Axes,
    CellsFile,
    Channel,
    Device,
    Formats,
    Frame,
    ImageInFile,
    Locations,
    MethodOption,
    Modality,
    Model,
    NoProfile,
    Out,
    Overwrite,
    PixelSize,
    Slice,
    Unit,
)
from .output import (
    Row,
    check_single,
    describe_row,
    make_rows,
    parse_locations,
    parse_place,
    progress_bar,
    refuse_unused,
    report_rows,
    row_of,
)

if TYPE_CHECKING:
    from ..bundle import Bundle
    from ..images.fields.cells import Method
    from ..images.fields.field import Modality as FieldModality
    from ..inference.evaluate import Evaluation
    from ..process.options import ProcessOptions
    from ..process.options import Unit as ValueUnit
    from ..training.tune.evaluate_table import TableEvaluation

__all__ = ["classify", "evaluate", "process_files", "slide"]

#: What every verb writes of an image; --formats adds to it.
FORMATS = ("json", "csv", "overlay")

_FEATURES = typer.Option(help="HDF5 of features made before: ours, CLAM, TRIDENT or STAMP.")
_SNAP = typer.Option(
    "--snap", help="Move those features' coordinates onto a grid, and say by how much."
)


def classify(
    images: Annotated[
        list[str],
        typer.Argument(
            help="Fields of view: TIFF, PNG, JPEG, NPY; with --whole also addresses of slides."
        ),
    ],
    out: Out,
    model: Model = "blood-cells",
    device: Device = "auto",
    pixel_size: PixelSize = None,
    axes: Axes = None,
    image: ImageInFile = None,
    unit: Unit = None,
    modality: Modality = None,
    frame: Frame = None,
    z_slice: Slice = None,
    channel: Channel = None,
    no_icc: NoProfile = False,
    method: MethodOption = "auto",
    cells: CellsFile = None,
    at: At = None,
    whole: Annotated[
        bool, typer.Option("--whole", help="Classify images or slides as a whole, with a TNet.")
    ] = False,
    locations: Locations = None,
    halt: Annotated[
        bool,
        typer.Option(
            "--halt/--no-halt",
            help="Of a TNet that says when it is sure enough: stop then, or look at all crops.",
        ),
    ] = True,
    only: Annotated[
        str | None,
        typer.Option(help="Classes that can occur here, with commas between them; all otherwise."),
    ] = None,
    formats: Formats = None,
    overwrite: Overwrite = False,
    as_json: AsJson = False,
) -> None:
    """Find and classify the cells of fields; with --whole, images and slides as a whole.

    Of each image NAME, its ending included, are written: NAME.json with a
    summary, NAME.csv with a row per cell or crop, and NAME_overlay.png.
    Results of another image, model or verb are not replaced without
    --overwrite. An image that fails is named and does not stop the others.
    """
    sources = as_sources(images)
    check_single(sources, formats)
    from ..bundle import load_bundle
    from ..export.formats import parse_formats
    from ..process.options import ProcessOptions

    more = parse_formats(formats, "field" if whole else "cells")
    if whole and only is not None:
        raise ValueError("--only is for cells: leave it out with --whole")
    if whole and (cells is not None or at is not None):
        raise ValueError("--cells and --at are for cells: leave them out with --whole")
    refuse_unused(
        "for finding cells, which --whole and --cells do not",
        method=method != "auto" and (whole or cells is not None),
    )
    refuse_unused("of an image as a whole (--whole)", no_halt=not halt and not whole)
    if cells is not None and len(images) > 1:
        raise ValueError("--cells are those of one image; give one image with them.")
    options = ProcessOptions(
        formats=(*FORMATS, *more),
        task="whole" if whole else "cells",
        method=cast("Method", method),
        classes=None if only is None else tuple(name.strip() for name in only.split(",")),
        pixel_size=pixel_size,
        axes=axes,
        image=image,
        unit=cast("ValueUnit | None", unit),
        modality=cast("FieldModality | None", modality),
        frame=frame,
        slice=z_slice,
        channel=channel,
        cells=cells,
        at=parse_place(at),
        icc=not no_icc,
        locations=parse_locations(locations),
        halt=halt,
        device=device,
    )
    bundle = load_bundle(model)
    if not bundle.card.takes_slides:
        tnet = "fields" in bundle.card.model_kind.takes
        refuse_unused(
            f"of a TNet, which '{bundle.card.name}' is not",
            locations=locations is not None and not tnet,
            no_halt=not halt and not tnet,
        )
    process_files(sources, bundle, out, options, overwrite=overwrite, as_json=as_json)


def slide(
    slides: Annotated[
        list[str],
        typer.Argument(help="SVS, NDPI, OME-TIFF, OME-Zarr, DICOM, …, or https://, s3://."),
    ],
    model: Annotated[str, typer.Option(help="Name of a SPAN, or its file.")],
    out: Out,
    pixel_size: PixelSize = None,
    no_icc: NoProfile = False,
    allow_unknown_scale: AllowUnknownScale = False,
    features: Annotated[Path | None, _FEATURES] = None,
    snap: Annotated[bool, _SNAP] = False,
    threshold: Annotated[
        float | None,
        typer.Option(
            help="Of a SPAN that finds tissue: the probability that counts.", show_default="0.5"
        ),
    ] = None,
    least_patches: Annotated[
        int | None,
        typer.Option(
            help="Likewise: patches of the smallest focus; fewer are taken for noise.",
            show_default="2",
        ),
    ] = None,
    formats: Formats = None,
    device: Device = "auto",
    overwrite: Overwrite = False,
    as_json: AsJson = False,
) -> None:
    """Classify or segment slides with a SPAN.

    Of each slide NAME, its ending included, are written: NAME.json with a
    summary, NAME.csv with a row per patch, and NAME_overlay.png. Features are
    kept in OUT/features: a run that was stopped goes on where it was. Results
    of another slide, model or verb are not replaced without --overwrite. A
    slide that fails is named and does not stop the others.
    """
    sources = as_sources(slides)
    check_single(sources, formats)
    from ..bundle import load_bundle
    from ..export.formats import parse_formats
    from ..process.options import ProcessOptions

    more = parse_formats(formats, "slide")
    refuse_unused("for --features", snap=snap and features is None)
    if features is not None and len(slides) > 1:
        raise ValueError("--features are those of one slide; give one slide with them.")
    bundle = load_bundle(model)
    if not bundle.card.takes_slides:
        raise ValueError(
            f"'{bundle.card.name}' is no SPAN. For a TNet use `napari-sparseattn classify --whole`."
        )
    refuse_unused(
        f"of a SPAN that finds tissue, which '{bundle.card.name}' does not",
        threshold=threshold is not None and not bundle.card.segments,
        least_patches=least_patches is not None and not bundle.card.segments,
    )
    options = ProcessOptions(
        formats=(*FORMATS, *more),
        task="slide",
        pixel_size=pixel_size,
        icc=not no_icc,
        allow_unknown_scale=allow_unknown_scale,
        features=features,
        snap=snap,
        threshold=0.5 if threshold is None else threshold,
        least_patches=2 if least_patches is None else least_patches,
        device=device,
    )
    process_files(sources, bundle, out, options, overwrite=overwrite, as_json=as_json)


def process_files(
    sources: Sequence[Path | Address],
    bundle: Bundle,
    out: Path,
    options: ProcessOptions,
    *,
    overwrite: bool,
    as_json: bool,
) -> None:
    """Classify and report each file; exit with status 1 if any failed."""
    from ..process.inputs import name_sources
    from ..process.process import process_file
    from ..process.result import check_free, identity_of

    keys = name_sources(sources)

    def work(index: int) -> Row:
        source, key = sources[index], keys[index]
        # Before the work, not after it.
        check_free(out / key, identity_of(options.task, bundle, source), overwrite=overwrite)
        with (
            progress_bar(source.name, quiet=as_json) as progress,
            process_file(
                source, bundle, options, store=out / "features", progress=progress
            ) as result,
        ):
            return row_of(str(source), result, result.write(out, key, overwrite=overwrite))

    report_rows(make_rows([str(source) for source in sources], work), as_json, describe_row)


def evaluate(
    source: Annotated[
        Path,
        typer.Argument(
            help="FOLDER/class/image or FOLDER/class/group/image; of a model that gives a risk or "
            "a number a CSV of slides, as for train."
        ),
    ],
    model: Model = "blood-cells",
    device: Device = "auto",
    pixel_size: Annotated[
        float | None,
        typer.Option(
            help="µm per pixel, in place of what files say. Of cells, the model's field of view "
            "is cut around each image's centre; without it the whole image is the crop.",
            min=1e-4,
            max=1e3,
        ),
    ] = None,
    per: Annotated[
        str,
        typer.Option(
            help="image or group: what gets one answer. By default a SPAN of slides takes the "
            "tiles of a group together, other models each image."
        ),
    ] = "auto",
    locations: Locations = None,
    predictions: Annotated[
        Path | None, typer.Option(help="CSV to write with the probabilities of every image.")
    ] = None,
    store: Annotated[
        Path | None, typer.Option(help="Folder in which features of slides are kept.")
    ] = None,
    features: Annotated[
        Path | None,
        typer.Option(help="With a table: folder of features made before, in place of slides."),
    ] = None,
    as_json: AsJson = False,
) -> None:
    """Measure a model on labelled cells, tiles or slides in class folders, or of a table.

    Folders within those of the classes are groups, such as patients; intervals
    are then by bootstrap over groups. A table states the follow-up (time, event)
    or the number (value) of each slide.
    """
    if not source.exists():
        raise FileNotFoundError(f"There is no folder, and no table, '{source}'.")
    from ..bundle import load_bundle
    from ..inference.evaluate import Per, evaluate_folder

    if per not in get_args(Per):
        raise ValueError(f"--per must be image or group, got '{per}'")
    bundle = load_bundle(model)
    if source.is_file():
        if per != "auto" or locations is not None:
            raise ValueError("--per and --locations are of class folders, not of a table")
        _evaluate_table(source, bundle, device, pixel_size, predictions, store, features, as_json)
        return
    if features is not None:
        raise ValueError("--features are those of a table's slides: give the table")
    takes = bundle.card.model_kind.takes
    refuse_unused(
        f"of a TNet, which '{bundle.card.name}' is not",
        locations=locations is not None and "fields" not in takes,
    )
    refuse_unused(
        f"of slides, which '{bundle.card.name}' does not take",
        store=store is not None and "slides" not in takes,
    )
    with progress_bar("images", quiet=as_json) as progress:
        result = evaluate_folder(
            source,
            bundle,
            device,
            pixel_size=pixel_size,
            per=cast("Per", per),
            locations=parse_locations(locations),
            store=store,
            progress=progress,
        )
    if not _wrote_for_machines(result, predictions, as_json):
        _print_evaluation(result, bundle.card.name)


def _evaluate_table(
    source: Path,
    bundle: Bundle,
    device: str,
    pixel_size: float | None,
    predictions: Path | None,
    store: Path | None,
    features: Path | None,
    as_json: bool,
) -> None:
    from ..training.tune.evaluate_table import evaluate_table

    with progress_bar("slides", quiet=as_json) as progress:
        result = evaluate_table(
            source,
            bundle,
            device,
            features=features,
            pixel_size=pixel_size,
            store=store,
            progress=progress,
        )
    if _wrote_for_machines(result, predictions, as_json):
        return
    print(f"{result.report.sentence}, model {bundle.card.name}")
    for note in result.notes:
        print(f"note: {note}")
    for path, reason in result.unreadable.items():
        print(f"not read: {path}: {reason}", file=sys.stderr)


def _wrote_for_machines(
    result: Evaluation | TableEvaluation, predictions: Path | None, as_json: bool
) -> bool:
    """Write the table and the JSON that are asked for; whether nothing is left to print."""
    if predictions is not None:
        result.judged.write_csv(predictions)
    if as_json:
        print(json.dumps(result.to_dict()))
    return as_json


def _print_evaluation(result: Evaluation, name: str) -> None:
    report, intervals = result.report, result.intervals()
    print(f"{report.n} images, model {name}")
    for note in result.notes:
        print(f"note: {note}")
    spans = {**intervals, "accuracy": report.accuracy_interval}
    figures = (
        ("accuracy", report.accuracy),
        ("balanced accuracy", report.balanced_accuracy),
        ("macro F1", report.macro_f1),
    )
    for title, value in figures:
        span = spans.get(title.replace(" ", "_"))
        said = f"  (95 % interval {100 * span[0]:.1f} to {100 * span[1]:.1f})" if span else ""
        print(f"{title:17} {100 * value:5.1f} %{said}")
    if report.auc is not None:
        low, high = spans["auc"]
        many = ", mean of each class against the others" if len(report.per_class) > 2 else ""
        print(f"AUC               {report.auc:7.3f}  (95 % interval {low:.3f} to {high:.3f}){many}")
    print(f"calibration error {100 * report.ece:5.1f} %")
    flagged = "not measured: this model's file has no known states, or none at these --locations"
    if result.flagged_share is not None:
        flagged = f"{100 * result.flagged_share:5.1f} %  unlike anything the model was trained on"
    print(f"flagged           {flagged}")
    print(f"speed             {result.cells_per_second:5.0f} images/s")
    width = max(map(len, report.per_class))
    print(f"\n{'class':{width}}  precision  recall     F1    AUC  images")
    for each, row in report.per_class.items():
        auc = "     -" if row.auc is None else f"{row.auc:6.3f}"
        print(
            f"{each:{width}}  {100 * row.precision:7.1f} %{100 * row.recall:6.1f} %"
            f"{100 * row.f1:5.1f} % {auc}{row.support:8d}"
        )
    for path, reason in result.unreadable.items():
        print(f"not read: {path}: {reason}", file=sys.stderr)
