"""The verbs that train: ``train``, on class folders of cells or on slides, and ``fine-tune``."""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal, cast, get_args

import typer

from ..kinds import KINDS
from .options import AsJson, Device
from .output import progress_bar

if TYPE_CHECKING:
    from ..bundle import Bundle
    from ..card import CropSpec
    from ..features.encoders import Encoder
    from ..images.fields.field import Modality
    from ..training.data.datasets import CropSet
    from ..training.data.span_data import Part, SlideExample
    from ..training.loop.classifier import TrainingReport, TrainingSettings
    from ..training.loop.slides import SlideReport, SlideTraining

__all__ = ["train"]

_OUTLINES = (".geojson", ".json")
#: What can be trained, by the name it has here.
_TRAINED = {kind.trained_as: kind for kind in KINDS.values()}
_SOURCE = typer.Argument(
    help="FOLDER/class/image; for span a CSV of slides (slide, label, group, split); for "
    "span-regions a folder of slides, each with NAME.geojson beside it."
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
_ENCODER = typer.Option(help="For slides: stain-texture, or transformers:NAME-OR-FOLDER.")
_PIXEL_SIZE = typer.Option(help="For slides: µm per pixel of the patches.", min=0.01, max=100)
_WANTED = typer.Option(help="For span-regions: the class of the tissue to find.")
_SECONDS = typer.Option(help="About how long it may take.", min=1)


def train(
    source: Annotated[Path, _SOURCE],
    out: Annotated[Path, typer.Option(help="The model file to write, NAME.safetensors.")],
    kind: Annotated[str, _KIND] = "sparse-attn-net",
    field_of_view: Annotated[float, _FIELD] = 32.0,
    size: Annotated[int | None, _SIZE] = None,
    channels: Annotated[int, typer.Option(help="3 for colour, 1 for grey, phase or OPD.")] = 3,
    modality: Annotated[str | None, _MODALITY] = None,
    encoder: Annotated[str, _ENCODER] = "stain-texture",
    pixel_size: Annotated[float, _PIXEL_SIZE] = 0.5,
    wanted: Annotated[str | None, _WANTED] = None,
    epochs: Annotated[int | None, typer.Option(help="By default as suits the kind.", min=1)] = None,
    seed: int = 0,
    device: Device = "auto",
    as_json: AsJson = False,
) -> None:
    """Train a model on images in class folders, or on slides, from random weights."""
    if kind not in _TRAINED:
        raise ValueError(f"--kind must be one of {', '.join(_TRAINED)}, got '{kind}'.")
    if out.suffix != ".safetensors":
        raise ValueError(f"--out must end in .safetensors, got '{out.name}'.")
    if "slides" in _TRAINED[kind].takes:
        order = _SlideOrder(source, out, kind, encoder, pixel_size, wanted, epochs, seed, device)
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
    if channels not in (1, 3):
        raise ValueError("channels must be 1 or 3.")
    shown = _modality(modality, channels)
    side = size or _TRAINED[kind].crop_side or 64
    if "fields" in _TRAINED[kind].takes:
        from ..training.loop.tnet_cells import cell_architecture

        cell_architecture(side)  # before the images are read, which takes a while

    from ..bundle import save_bundle
    from ..card import CropSpec
    from ..training.data.datasets import read_class_folders
    from ..training.loop.classifier import TrainingSettings, suit_settings

    with progress_bar("images", quiet=as_json) as progress:
        data = read_class_folders(folder, 2 * side, channels, progress)
    settings = TrainingSettings(
        name=out.stem,
        crop=CropSpec(size=side, field_of_view_um=field_of_view),
        modality=shown,
        unit={"opd": "nm", "phase": "rad"}.get(shown, ""),
        data=f"{len(data)} images of the folder {folder.name}",
        recipe=f"napari-sparseattn train --kind {kind}",
    )
    common = {"epochs": epochs, "seed": seed, "device": device}
    bundle, report = _train(kind, data, suit_settings(settings, data), common, as_json)
    saved = save_bundle(bundle, out)
    _report_cells(saved, report, out, as_json)


def _modality(asked: str | None, channels: int) -> Modality:
    from ..images.fields.field import Modality

    shown = asked or ("brightfield" if channels == 3 else "unknown")
    if shown not in get_args(Modality):
        raise ValueError(f"modality must be one of {', '.join(get_args(Modality))}, got '{shown}'.")
    return cast("Modality", shown)


def _train(
    kind: str, data: CropSet, settings: TrainingSettings, common: dict[str, Any], as_json: bool
) -> tuple[Bundle, TrainingReport]:
    import dataclasses

    from ..device import choose_device
    from ..training.loop.classifier import train_classifier
    from ..training.loop.fit import FitOptions
    from ..training.loop.tnet import TNetOptions
    from ..training.loop.tnet_cells import train_tnet

    common = {**common, "device": choose_device(common["device"])}
    show = None if as_json else _print_epoch
    if "fields" in _TRAINED[kind].takes:
        return train_tnet(data, settings, TNetOptions(**common), show)
    settings = dataclasses.replace(settings, options=FitOptions(**common))
    return train_classifier(data, settings, show)


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


@dataclasses.dataclass(frozen=True)
class _SlideOrder:
    """What to train on which slides.

    Parameters
    ----------
    source : pathlib.Path
        With kind ``"span"`` a CSV of slides, see `read_slide_table`. With
        ``"span-regions"`` a folder of slides, each with its regions beside it
        in NAME.geojson, see `read_regions`.
    out : pathlib.Path
        The model file. Features are kept beside it in ``features``.
    kind : str
        ``"span"`` or ``"span-regions"``.
    encoder : str
        See `load_encoder`.
    pixel_size : float
        µm per pixel of the patches.
    wanted : str or None
        With ``"span-regions"``: the class of the tissue to find; all other
        regions show what it is not.
    epochs : int or None
        None trains as the paper's authors do.
    seed : int
        Seeds everything.
    device : str
        See `choose_device`.
    """

    source: Path
    out: Path
    kind: str
    encoder: str
    pixel_size: float
    wanted: str | None
    epochs: int | None
    seed: int
    device: str


def _train_on_slides(order: _SlideOrder, as_json: bool) -> None:
    """Train a SPAN, write it, and print how good it is.

    Raises
    ------
    ValueError
        If an option makes no sense, or the slides are too few.
    """
    source, out, wanted = order.source, order.out, order.wanted
    from ..bundle import save_bundle
    from ..card import CropSpec
    from ..device import choose_device
    from ..features.encoders import encoder_licence, load_encoder
    from ..training.loop.slides import SlideTraining, encoder_spec, train_slides
    from ..training.loop.span import SpanOptions

    if not as_json:
        print(f"{order.encoder}: {encoder_licence(order.encoder)}")
    chosen = choose_device(order.device)
    changes: dict[str, Any] = {"seed": order.seed, "device": chosen}
    if order.epochs is not None:
        changes["epochs"] = order.epochs
    model_kind: Literal["span-mil", "span-unet"] = "span-mil"
    options = SpanOptions(**changes)
    classes: tuple[str, ...] = ()
    if _TRAINED[order.kind].segments:
        if not wanted:
            raise ValueError("--kind span-regions needs --wanted, the class of the tissue to find.")
        model_kind, classes = "span-unet", (f"not {wanted}", wanted)
        options = SpanOptions.for_patches(**changes)
    encoder = load_encoder(order.encoder, chosen)
    crop = CropSpec(size=encoder.size, field_of_view_um=encoder.size * order.pixel_size)
    preparation = _Preparation(encoder, crop, out.parent / "features", chosen, as_json)
    if wanted and model_kind == "span-unet":
        examples, parts = preparation.outline(source, wanted), None
    else:
        examples, parts, classes = preparation.read_table(source)
    settings = SlideTraining(
        name=out.stem,
        class_names=classes,
        encoder=encoder_spec(encoder),
        crop=crop,
        kind=model_kind,
        options=options,
        data=f"{len(examples)} slides of {source.name}",
        recipe=f"napari-sparseattn train --kind {order.kind}",
    )
    show = None if as_json else _print_epoch
    bundle, report = train_slides(examples, settings, show, parts=parts)
    saved = save_bundle(bundle, out)
    _report_slides(saved.hash, settings, report, out, as_json)


class _Preparation:
    """Turns slides into examples, one encoder for all."""

    def __init__(
        self, encoder: Encoder, crop: CropSpec, store: Path, device: str, quiet: bool
    ) -> None:
        self.encoder, self.crop, self.store = encoder, crop, store
        self.device, self.quiet = device, quiet

    def read_table(
        self, source: Path
    ) -> tuple[list[SlideExample], dict[Part, list[SlideExample]] | None, tuple[str, ...]]:
        """Slides with classes, and their parts where the table says them."""
        from ..training.data.slide_tables import read_slide_table

        table = read_slide_table(source)
        examples = [
            self._example(row.path, row.group, label=table.label_of(row)) for row in table.rows
        ]
        stated = [row.part for row in table.rows]
        if all(part is None for part in stated):
            return examples, None, table.class_names
        parts: dict[Part, list[SlideExample]] = {"train": [], "validation": [], "test": []}
        for example, part in zip(examples, stated, strict=True):
            if part is None:
                raise ValueError(f"{source.name}: {example.name} has no split, others have one.")
            parts[part].append(example)
        empty = [name for name, part in parts.items() if not part]
        if empty:
            raise ValueError(f"{source.name}: no slide is for {', '.join(empty)}.")
        return examples, parts, table.class_names

    def outline(self, folder: Path, wanted: str) -> list[SlideExample]:
        """Slides whose patches are labelled by the regions outlined on them."""
        from ..images.slides.regions import read_regions

        found = []
        for outlines in _outline_files(folder):
            regions = read_regions(outlines)
            if regions:
                found.append(self._example(_slide_beside(outlines), "", wanted, regions))
        labels = [each.patch_labels for each in found if each.patch_labels is not None]
        if not any(1 in each for each in labels):
            raise ValueError(f"No region of {folder.name} has the class '{wanted}'.")
        return found

    def _example(
        self,
        path: Path,
        group: str,
        wanted: str = "",
        regions: Sequence[Any] = (),
        label: int | None = None,
    ) -> SlideExample:
        from ..images.slides.opening import open_slide
        from ..training.data.span_data import AnnotatedRegion, SlideExample, patch_labels_of
        from ..training.loop.slides import slide_features

        self.store.mkdir(parents=True, exist_ok=True)
        kept = self.store / f"{path.stem}-{self.encoder.hash[:12]}.h5"
        with open_slide(path) as pyramid, progress_bar(path.name, self.quiet) as progress:
            made = slide_features(
                pyramid, self.encoder, self.crop, kept, device=self.device, progress=progress
            )
        with made:
            features = made.read(slice(None))
        patch_labels = None
        if regions:
            drawn = [AnnotatedRegion(each.outline, int(each.name == wanted)) for each in regions]
            patch_labels = patch_labels_of(
                made.cells, step=made.step, side=made.side, origin=made.origin, regions=drawn
            )
        return SlideExample(features, made.cells, label, patch_labels, group, path.stem)


def _outline_files(folder: Path) -> list[Path]:
    files = sorted(path for path in folder.iterdir() if path.suffix.lower() in _OUTLINES)
    if not files:
        raise FileNotFoundError(
            f"No .geojson files in {folder}. Put NAME.geojson beside the slide NAME.svs."
        )
    return files


def _slide_beside(outlines: Path) -> Path:
    found = [
        path
        for path in outlines.parent.iterdir()
        if path.stem == outlines.stem and path.suffix.lower() not in (*_OUTLINES, ".csv")
    ]
    if len(found) != 1:
        raise ValueError(
            f"{outlines.name}: {len(found)} slides of that name lie beside it; one is needed."
        )
    return found[0]


def _report_slides(
    model_hash: str, settings: SlideTraining, report: SlideReport, out: Path, as_json: bool
) -> None:
    if as_json:
        print(json.dumps({"model": str(out), "hash": model_hash, **report.to_dict()}))
        return
    low, high = report.test.accuracy_interval
    of = "patches" if settings.segments else "slides"
    print(
        f"test accuracy {100 * report.test.accuracy:.1f} % of {report.test.n} {of} "
        f"(95 % interval {100 * low:.1f} to {100 * high:.1f}); written to {out}"
    )
    if report.dice is not None:
        print(f"Dice of {settings.class_names[1]} {report.dice:.3f}")


def _print_epoch(epoch: object) -> None:
    print(epoch, flush=True)
