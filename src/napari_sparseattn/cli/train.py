"""The verbs that train: ``train``, on class folders of cells or on slides, and ``fine-tune``."""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Callable, Mapping
from contextlib import AbstractContextManager
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, cast, get_args

import typer

from ..judged import EstimateReport
from ..kinds import KINDS
from ..progress import Progress
from .options import AsJson, Device
from .output import progress_bar, refuse_given, was_given

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from ..bundle import Bundle
    from ..card import Card
    from ..images.fields.field import Field, Modality
    from ..training.data.annotations import ImageRecord
    from ..training.data.datasets import CropSet
    from ..training.loop.classifier import Parts, TrainingReport, TrainingSettings
    from ..training.loop.slides import SlideReport, SlideTraining
    from ..training.runs.runs import Run
    from ..training.runs.slide_orders import SlideOrder
    from ..training.tune.report import FineTuneReport

__all__ = [
    "bars_for",
    "fine_tune",
    "order_slides",
    "prepare_cells",
    "read_source",
    "refuse_of_other_kinds",
    "say_for",
    "train",
    "train_cells",
]

_OF_CROPS = ("field_of_view", "size", "channels", "modality")
_OF_SPAN = ("features", "patch_um", "target", "outcome", "intervals")
_OF_SLIDES = ("encoder", "pixel_size", "wanted", *_OF_SPAN)
#: What can be trained, by the name it has here.
_TRAINED = {kind.trained_as: kind for kind in KINDS.values()}
_SOURCE = typer.Argument(
    help="FOLDER/class/image; for span a CSV of slides (slide, label, group, split; or time and "
    "event, or value, in place of label); for span-regions a folder of slides, each with "
    "NAME.geojson beside it."
)
_KIND = typer.Option(
    help="sparse-attn-net: the pixels that matter; tnet: closer and closer looks; span: classes "
    "of slides; span-regions: tissue outlined on slides"
)
_FIELD = typer.Option(help="Side of an image in µm; sets the model's scale.", min=1e-3)
_SIZE = typer.Option(
    help="Side of the model's crop in pixels; by default 64, and 128 for tnet.", min=16
)
_MODALITY = typer.Option(help="What the images show; opd (nm) and phase (rad) also set the unit.")
_ENCODER = typer.Option(
    help="For slides: a name that `encoders` lists, transformers:NAME or a folder, or timm:NAME. "
    "tissue-mobilenet is for H&E; stain-texture was trained on nothing, and takes any stain."
)
_PIXEL_SIZE = typer.Option(
    help="For slides: µm per pixel of the patches; by default what the encoder is meant for.",
    min=0.01,
    max=100,
)
_FEATURES = typer.Option(
    help="For span: folder of HDF5 features made elsewhere (CLAM, TRIDENT, STAMP, SPAN's authors), "
    "NAME.h5 for each slide of the table; they are read as they are needed."
)
_PATCH_UM = typer.Option(
    help="With --features: side of a patch in µm, where the files do not say it.", min=1, max=1e5
)
_WANTED = typer.Option(help="For span-regions: the class of the tissue to find.")
_TARGET = typer.Option(
    help="For span: classes (label), number (value), hazards or cox (time, event); by default what "
    "the table's columns state, of follow-up hazards."
)
_OUTCOME = typer.Option(help="What follow-up or numbers are of, such as recurrence.")
_INTERVALS = typer.Option(help="With hazards: intervals of time, at most.", min=1, max=100)
_SECONDS = typer.Option(help="About how long it may take.", min=1)


def train(
    context: typer.Context,
    source: Annotated[Path, _SOURCE],
    out: Annotated[Path, typer.Option(help="The model file to write, NAME.safetensors.")],
    kind: Annotated[str, _KIND] = "sparse-attn-net",
    field_of_view: Annotated[float, _FIELD] = 32.0,
    size: Annotated[int | None, _SIZE] = None,
    channels: Annotated[int, typer.Option(help="3 for colour, 1 for grey, phase or OPD.")] = 3,
    modality: Annotated[str | None, _MODALITY] = None,
    encoder: Annotated[str, _ENCODER] = "tissue-mobilenet",
    pixel_size: Annotated[float | None, _PIXEL_SIZE] = None,
    wanted: Annotated[str | None, _WANTED] = None,
    features: Annotated[Path | None, _FEATURES] = None,
    patch_um: Annotated[float | None, _PATCH_UM] = None,
    target: Annotated[str | None, _TARGET] = None,
    outcome: Annotated[str, _OUTCOME] = "",
    intervals: Annotated[int, _INTERVALS] = 4,
    epochs: Annotated[int | None, typer.Option(help="By default as suits the kind.", min=1)] = None,
    seed: int = 0,
    device: Device = "auto",
    as_json: AsJson = False,
) -> None:
    """Train a model on images in class folders, or on slides, from random weights.

    Of slides, classes are learned, or a number, or survival from follow-up.
    """
    if kind not in _TRAINED:
        raise ValueError(f"--kind must be one of {', '.join(_TRAINED)}, got '{kind}'.")
    if out.suffix != ".safetensors":
        raise ValueError(f"--out must end in .safetensors, got '{out.name}'.")
    refuse_of_other_kinds(context, kind)
    if "slides" in _TRAINED[kind].takes:
        order = order_slides(
            source, out, kind, encoder, pixel_size, wanted, epochs, seed, device, features,
            patch_um, target, outcome, intervals,
        )  # fmt: skip
        _train_on_slides(order, as_json)
        return
    _train_on_cells(
        source,
        out,
        kind=kind,
        field_of_view=field_of_view,
        size=size,
        channels=channels,
        modality=modality,
        epochs=24 if epochs is None else epochs,
        seed=seed,
        device=device,
        as_json=as_json,
    )


def refuse_of_other_kinds(context: typer.Context, kind: str) -> None:
    """Refuse options that are for training another kind of model.

    Raises
    ------
    ValueError
        If one was given.
    """
    if "slides" not in _TRAINED[kind].takes:
        refuse_given(context, f"of slides, and not of --kind {kind}", *_OF_SLIDES)
        return
    refuse_given(context, f"of images in class folders, and not of --kind {kind}", *_OF_CROPS)
    if _TRAINED[kind].segments:
        refuse_given(context, "of --kind span", *_OF_SPAN)
        return
    refuse_given(context, "of --kind span-regions", "wanted")
    if context.params["features"] is None:
        refuse_given(context, "for --features", "patch_um")
    else:
        refuse_given(context, "of slides, and not of --features", "pixel_size")


def _train_on_cells(
    folder: Path,
    out: Path,
    *,
    kind: str,
    field_of_view: float,
    size: int | None,
    channels: int,
    modality: str | None,
    epochs: int,
    seed: int,
    device: str,
    as_json: bool,
) -> None:
    """Train a model on images in class folders, write it, and print how good it is.

    Raises
    ------
    ValueError
        If an option makes no sense, or the images are too few.
    FileNotFoundError, ImageError
        As `read_class_folders`.
    """
    data, settings = prepare_cells(
        folder,
        out.stem,
        kind=kind,
        field_of_view=field_of_view,
        size=size,
        channels=channels,
        modality=modality,
        quiet=as_json,
    )
    from ..bundle import save_bundle

    common = {"epochs": epochs, "seed": seed, "device": device}
    show = None if as_json else _print_epoch
    bundle, report = train_cells(kind, data, settings, common, show)
    saved = save_bundle(bundle, out)
    _report_cells(saved, report, out, as_json)


def prepare_cells(
    folder: Path,
    name: str,
    *,
    kind: str,
    field_of_view: float,
    size: int | None,
    channels: int,
    modality: str | None,
    quiet: bool,
) -> tuple[CropSet, TrainingSettings]:
    """Read images in class folders, and say what is to be trained on them.

    Raises
    ------
    ValueError
        If an option makes no sense.
    FileNotFoundError, ImageError
        As `read_class_folders`.
    """
    if channels not in (1, 3):
        raise ValueError("channels must be 1 or 3.")
    shown = _modality(modality, channels)
    side = size or _TRAINED[kind].crop_side or 64
    if "fields" in _TRAINED[kind].takes:
        from ..training.loop.tnet_cells import cell_architecture

        cell_architecture(side)  # before the images are read, which takes a while

    from ..card import CropSpec
    from ..training.data.datasets import read_class_folders
    from ..training.loop.classifier import TrainingSettings, suit_settings

    unit = {"opd": "nm", "phase": "rad"}.get(shown, "")
    with progress_bar("images", quiet=quiet) as progress:
        data = read_class_folders(folder, 2 * side, channels, progress, unit=unit)
    settings = TrainingSettings(
        name=name,
        crop=CropSpec(size=side, field_of_view_um=field_of_view),
        modality=shown,
        unit=unit,
        data=f"{len(data)} images of the folder {folder.name}",
        recipe=f"napari-sparseattn train --kind {kind}",
    )
    return data, suit_settings(settings, data)


def _modality(asked: str | None, channels: int) -> Modality:
    from ..images.fields.field import Modality

    shown = asked or ("brightfield" if channels == 3 else "unknown")
    if shown not in get_args(Modality):
        raise ValueError(f"modality must be one of {', '.join(get_args(Modality))}, got '{shown}'.")
    return cast("Modality", shown)


def train_cells(
    kind: str,
    data: CropSet,
    settings: TrainingSettings,
    common: dict[str, Any],
    show: Callable[[object], None] | None,
    parts: Parts | None = None,
) -> tuple[Bundle, TrainingReport]:
    """Train one kind of model of cells; `common` are its epochs, seed and device."""
    from ..device import choose_device
    from ..training.loop.classifier import train_classifier
    from ..training.loop.fit import FitOptions
    from ..training.loop.tnet import TNetOptions
    from ..training.loop.tnet_cells import DIAL, train_tnet

    common = {**common, "device": choose_device(common["device"])}
    if "fields" in _TRAINED[kind].takes:
        dial = () if parts is not None else DIAL
        return train_tnet(data, settings, TNetOptions(**common), show, parts=parts, dial=dial)
    settings = dataclasses.replace(settings, options=FitOptions(**common))
    return train_classifier(data, settings, show, parts=parts)


def _report_cells(bundle: Bundle, report: TrainingReport, out: Path, as_json: bool) -> None:
    dial = bundle.card.metrics.get("by_locations")
    if as_json:
        said = {"model": str(out), "hash": bundle.hash, **report.to_dict()}
        print(json.dumps(said if dial is None else {**said, "by_locations": dial}))
        return
    print(f"test accuracy {100 * report.test.accuracy:.1f} %; written to {out}")
    if dial:
        print(f"closer looks per crop, and how often right of {dial[0]['n']} validation images:")
    for row in dial or ():
        print(f"  {','.join(map(str, row['locations'])):6s} {100 * row['accuracy']:5.1f} %")


def order_slides(*given: Any) -> SlideOrder:
    """Return a `SlideOrder`, whose module is imported here and not for ``--help``."""
    from ..training.runs.slide_orders import SlideOrder

    return SlideOrder(*given)


def _train_on_slides(order: SlideOrder, as_json: bool) -> None:
    """Train a SPAN, write it, and print how good it is.

    Raises
    ------
    ValueError
        If an option makes no sense, or the slides are too few.
    """
    from ..training.runs.slide_orders import train_order

    show = None if as_json else _print_epoch
    bundle, report, settings = train_order(order, bars_for(as_json), say_for(as_json), show)
    _report_slides(bundle, settings, report, order.out, as_json)


def bars_for(quiet: bool) -> Callable[[str], AbstractContextManager[Progress]]:
    """Return what opens a bar for each slide."""
    return lambda name: progress_bar(name, quiet)


def say_for(quiet: bool) -> Callable[[str], None]:
    """Return what prints a sentence, or nothing."""
    return (lambda _: None) if quiet else print


def _report_slides(
    bundle: Bundle, settings: SlideTraining, report: SlideReport, out: Path, as_json: bool
) -> None:
    if as_json:
        told = {"model": str(out), "hash": bundle.hash, **report.to_dict()}
        target = bundle.card.target
        print(json.dumps(told if target is None else {**told, "target": target.model_dump()}))
        return
    if isinstance(report.test, EstimateReport):
        print(f"test: {report.test.sentence}; written to {out}")
        return
    low, high = report.test.accuracy_interval
    of = "patches" if settings.segments else "slides"
    print(
        f"test accuracy {100 * report.test.accuracy:.1f} % of {report.test.n} {of} "
        f"(95 % interval {100 * low:.1f} to {100 * high:.1f}); written to {out}"
    )
    if report.dice is not None:
        print(f"Dice of {settings.class_names[1]} {report.dice:.3f}")


def fine_tune(
    context: typer.Context,
    model: Annotated[str, typer.Argument(help="Name of a model, or its file.")],
    source: Annotated[
        Path,
        typer.Argument(help="A project of annotations, or a folder of FOLDER/class/image."),
    ],
    out: Annotated[
        Path | None,
        typer.Option(
            help="The model file to write, NAME.safetensors. Without it, of a project, the next "
            "version is kept among your models, as the window does."
        ),
    ] = None,
    images: Annotated[
        list[Path] | None,
        typer.Option(help="Of a project: folders to look for images in that have moved."),
    ] = None,
    rehearsal: Annotated[
        Path | None,
        typer.Option(help="FOLDER/class/image of what the model was trained on, if at hand."),
    ] = None,
    freeze: Annotated[
        str,
        typer.Option(
            help="What is trained: none of the layers kept as they are, all but the last ones "
            "kept (backbone), the last one alone (head), or what suits (auto)."
        ),
    ] = "auto",
    epochs: Annotated[int | None, typer.Option(help="By default decided.", min=1)] = None,
    seconds: Annotated[float | None, _SECONDS] = None,
    seed: int = 0,
    device: Device = "auto",
    resume: Annotated[
        bool,
        typer.Option("--resume", help="Resume the project's interrupted training, see --out."),
    ] = False,
    as_json: AsJson = False,
) -> None:
    """Go on training a model on annotated cells; new classes are added to those it knows.

    Beside the model an HTML report says what was gained, on held-out cells. With --out,
    a run that was killed goes on where it was when the same is asked again; a new
    version goes on with --resume, here or in the window.
    """
    _check_tuning(source, out, freeze, epochs, resume)
    if not (source / "project.json").is_file():
        refuse_given(context, "of a project, and this is a folder of class folders", "images")

    from ..bundle import load_bundle
    from ..training.runs.runs import Run, hold, new_run_folder

    bundle = load_bundle(model)
    if resume:
        refuse_given(context, "read when a training begins, and this one goes on", "rehearsal")
        names = ("freeze", "epochs", "seconds", "seed", "device")
        asked = {name: context.params[name] for name in names if was_given(context, name)}
        _resume(source, bundle, asked, as_json)
        return
    if out is not None:
        folder = out.with_name(f"{out.stem}.training")
        folder.mkdir(parents=True, exist_ok=True)
    else:
        folder = new_run_folder(source, model if bundle.path is None else bundle.path.stem)
    with hold(folder):
        data, others, notes = read_source(source, images or [], bundle.card, as_json)
        run = Run(
            name=folder.name if out is None else out.stem,
            model=str(bundle.path),
            device=device,
            freeze=freeze,
            seconds=seconds,
            kind="cells",
            class_names=data.class_names,
            names=data.names,
            groups=data.groups,
            notes=notes,
            folder=folder,
            seed=seed,
            epochs=epochs,
        )
        again = None if rehearsal is None else _read_folder(rehearsal, bundle.card, as_json)
        run = _write_data(run, data, others, again, bundle.card)
        _work_on(run, out, as_json)


def _check_tuning(
    source: Path, out: Path | None, freeze: str, epochs: int | None, resume: bool
) -> None:
    """Refuse what makes no sense, before anything is loaded."""
    if out is not None and out.suffix != ".safetensors":
        raise ValueError(f"--out must end in .safetensors, got '{out.name}'.")
    if freeze not in ("auto", "none", "backbone", "head"):
        raise ValueError(f"--freeze must be auto, none, backbone or head, got '{freeze}'.")
    if not source.is_dir():
        raise FileNotFoundError(f"There is no folder '{source}'.")
    if out is None and not (source / "project.json").is_file():
        raise ValueError("Of a folder of class folders no versions are kept: give --out.")
    if freeze == "head" and epochs is not None:
        raise ValueError(
            "--freeze head fits the last layer, which takes no epochs: leave --epochs out."
        )
    if resume and out is not None:
        raise ValueError("--resume goes on with a version: leave --out away.")


def _resume(source: Path, bundle: Bundle, asked: Mapping[str, Any], as_json: bool) -> None:
    """Go on with the training of a project that was interrupted."""
    from ..training.runs.runs import hold, interrupted_run

    run = interrupted_run(source)
    if run is None:
        raise ValueError(f"No training of '{source}' was interrupted.")
    if bundle.path is None or Path(run.model).resolve() != bundle.path.resolve():
        raise ValueError(f"The interrupted training is of '{run.model}': name that model.")
    for name, value in asked.items():
        if (was := getattr(run, name)) != value:
            raise ValueError(
                f"The interrupted training goes on as it began, with {name} "
                f"{'as decided' if was is None else was} and not {value}: leave --{name} out, or "
                "begin a new one without --resume."
            )
    with hold(run.folder):
        _work_on(run, None, as_json)


def _write_data(
    run: Run, data: CropSet, others: NDArray[Any] | None, again: CropSet | None, card: Card
) -> Run:
    """Write what the run learns from, and note of what there is too little."""
    import numpy as np

    from ..training.data.annotated import too_few
    from ..training.data.split import held_out
    from ..training.runs.runs import keep_other_crops, write_run

    arrays = {"crops": data.crops, "labels": data.labels, "held_out": held_out(data)}
    if again is not None:
        arrays |= {"rehearsal.crops": again.crops, "rehearsal.labels": again.labels}
        run = dataclasses.replace(run, rehearsal=again.class_names)
    run = dataclasses.replace(
        run, notes=(*run.notes, *too_few(data, card.class_names, card.n_checked))
    )
    keep_other_crops(run.folder, np.empty((0, 0, 0, 0), np.uint8) if others is None else others)
    write_run(run, arrays)
    return run


def _work_on(run: Run, out: Path | None, as_json: bool) -> None:
    """Train, and write the model and its report: to a file, or as a version."""
    import shutil

    from ..bundle import load_bundle, save_bundle
    from ..training.loop.control import TrainingControl
    from ..training.runs.runs import finish
    from ..training.runs.work import save_version, train_run

    if not as_json:
        for note in run.notes:
            print(note)
    new, report = train_run(run, TrainingControl(), None if as_json else _print_epoch)
    notes = list(run.notes)
    if run.epochs is not None and not report.history:
        notes.append("--epochs was not used: the last layer alone was fitted, which takes none.")
        if not as_json:
            print(notes[-1])
    if out is None:
        path = save_version(run, new, report)
    else:
        path = out
        save_bundle(new, path)
        finish(run)
    _report_tuning(load_bundle(path), report, path, notes, as_json)
    shutil.rmtree(run.folder, ignore_errors=True)


def read_source(
    source: Path, folders: list[Path], card: Card, quiet: bool
) -> tuple[CropSet, NDArray[Any] | None, tuple[str, ...]]:
    """Return annotated crops, unannotated ones or None, and what was left out."""
    if not (source / "project.json").is_file():
        return _read_folder(source, card, quiet), None, ()
    from ..training.data.annotated import cut_cells, cut_fields, cut_unannotated_cells
    from ..training.data.project import Project

    project = Project(source)

    def open_it(image: ImageRecord) -> Field | None:
        return _open(image, folders)

    kinds = {item.kind for _, items in project.labelled() for item in items}
    if "fields" in card.model_kind.takes and "cell" not in kinds:
        found = cut_fields(project, open_it, card)
        return found.data, None, found.notes
    found = cut_cells(project, open_it, card)
    return found.data, cut_unannotated_cells(project, open_it, card), found.notes


def _read_folder(folder: Path, card: Card, quiet: bool) -> CropSet:
    from ..training.data.datasets import read_class_folders

    with progress_bar("images", quiet=quiet) as progress:
        return read_class_folders(
            folder,
            2 * card.crop.size,
            len(card.channels),
            progress,
            least_classes=1,
            unit=card.unit,
        )


def _open(image: ImageRecord, folders: list[Path]) -> Field | None:
    """Open the image where it was, or in one of the folders; only if its pixels are the same."""
    from ..images.fields.field import Field
    from ..images.opening import open_image
    from ..training.data.annotations import image_hash

    name = Path(image.path).name or image.name
    for path in (Path(image.path), *(folder / name for folder in folders)):
        if not path.is_file():
            continue
        field = open_image(path, pixel_size=image.pixel_size)
        if isinstance(field, Field) and image_hash(field) == image.hash:
            return field
    return None


def _report_tuning(
    bundle: Bundle, report: FineTuneReport, out: Path, notes: list[str], as_json: bool
) -> None:
    from ..files import replacing
    from ..training.tune.html import render_report

    page = out.with_suffix(".html")
    with replacing(page) as temporary:
        temporary.write_text(render_report(report), encoding="utf-8")
    if as_json:
        said = {"model": str(out), "hash": bundle.hash, "report": str(page), "warnings": notes}
        print(json.dumps({**said, **report.to_dict()}, allow_nan=False))
        return
    print(report.sentence)
    print(f"written to {out}, report {page}")


def _print_epoch(epoch: object) -> None:
    print(epoch, flush=True)
