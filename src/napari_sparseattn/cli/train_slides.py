"""Training a SPAN from the command line: a table of slides, or slides with outlined regions."""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from .output import progress_bar

if TYPE_CHECKING:
    from ..card import CropSpec
    from ..features.encoders import Encoder
    from ..training.data.span_data import Part, SlideExample
    from ..training.loop.fit import EpochReport
    from ..training.loop.slides import SlideReport, SlideTraining

__all__ = ["SLIDE_KINDS", "SlideOrder", "train_on_slides"]

#: What is trained on slides: their classes, or the regions outlined on them.
SLIDE_KINDS = ("span", "span-regions")
_OUTLINES = (".geojson", ".json")


@dataclasses.dataclass(frozen=True)
class SlideOrder:
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
        One of `SLIDE_KINDS`.
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


def train_on_slides(order: SlideOrder, as_json: bool) -> None:
    """Train a SPAN, write it, and print how good it is.

    Raises
    ------
    ValueError
        If an option makes no sense, or the slides are too few.
    """
    source, out, wanted = order.source, order.out, order.wanted
    if out.suffix != ".safetensors":
        raise ValueError(f"--out must end in .safetensors, got '{out.name}'.")

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
    if order.kind == "span-regions":
        if not wanted:
            raise ValueError("--kind span-regions needs --wanted, the class of the tissue to find.")
        model_kind, classes = "span-unet", (f"not {wanted}", wanted)
        options = SpanOptions.for_patches(**changes)
    encoder = load_encoder(order.encoder, chosen)
    crop = CropSpec(size=encoder.size, field_of_view_um=encoder.size * order.pixel_size)
    prepared = _Prepared(encoder, crop, out.parent / "features", chosen, as_json)
    if wanted and model_kind == "span-unet":
        examples, parts = prepared.outlined(source, wanted), None
    else:
        examples, parts, classes = prepared.table(source)
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
    show = None if as_json else _show_epoch
    bundle, report = train_slides(examples, settings, show, parts=parts)
    saved = save_bundle(bundle, out)
    _report(saved.hash, settings, report, out, as_json)


class _Prepared:
    """Turns slides into examples, one encoder for all."""

    def __init__(
        self, encoder: Encoder, crop: CropSpec, store: Path, device: str, quiet: bool
    ) -> None:
        self.encoder, self.crop, self.store = encoder, crop, store
        self.device, self.quiet = device, quiet

    def table(
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

    def outlined(self, folder: Path, wanted: str) -> list[SlideExample]:
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


def _show_epoch(epoch: EpochReport) -> None:
    print(epoch, flush=True)


def _report(
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
