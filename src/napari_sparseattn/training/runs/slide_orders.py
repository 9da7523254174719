"""A training of a SPAN on slides, or on features made elsewhere: asked for, prepared, done."""

from __future__ import annotations

import contextlib
import dataclasses
from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from ...bundle import Bundle, save_bundle
from ...card import CropSpec, TargetSpec
from ...kinds import KINDS
from ...progress import Progress, ignore_progress
from ..data.made_features import read_made_features
from ..data.slide_tables import SlideTable, read_slide_table
from ..data.span_data import AnnotatedRegion, Part, SlideExample, patch_labels_of
from ..loop.epochs import EpochReport
from ..loop.slides import (
    SlideReport,
    SlideTraining,
    encoder_spec,
    slide_features,
    train_slides,
)
from ..loop.span import SpanOptions

if TYPE_CHECKING:
    from ...features.encoders import Encoder

__all__ = ["SlideOrder", "prepare_slides", "train_order"]

_OUTLINES = (".geojson", ".json")
#: What can be trained, by the name it has on the command line.
_TRAINED = {kind.trained_as: kind for kind in KINDS.values() if "slides" in kind.takes}

#: Given a slide's name, opens what its progress is reported to.
Bars = Callable[[str], AbstractContextManager[Progress]]
Parts = dict[Part, list[SlideExample]]


def _no_bar(_: str) -> AbstractContextManager[Progress]:
    return contextlib.nullcontext(ignore_progress)


def _say_nothing(_: str) -> None:
    """Say nothing."""


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
        ``"span"`` or ``"span-regions"``.
    encoder : str
        See `load_encoder`.
    pixel_size : float or None
        µm per pixel of the patches; None for what the encoder is meant for.
    wanted : str or None
        With ``"span-regions"``: the class of the tissue to find; all other
        regions show what it is not.
    epochs : int or None
        None trains as the paper's authors do.
    seed : int
        Seeds everything.
    device : str
        See `choose_device`.
    features : pathlib.Path or None
        A folder of features made elsewhere, in place of slides.
    patch_um : float or None
        Side of their patches in µm, where the files do not say it.
    target : str or None
        Of ``"span"``: what is learned, a row of `targets.TARGETS`; by default
        what the table states.
    outcome : str
        What follow-up or numbers are of, e.g. ``"recurrence"``.
    intervals : int
        Of hazards: how many intervals of time, at most.
    store : pathlib.Path or None
        Where features are kept; by default ``features`` beside the model file.
    """

    source: Path
    out: Path
    kind: str
    encoder: str
    pixel_size: float | None
    wanted: str | None
    epochs: int | None
    seed: int
    device: str
    features: Path | None = None
    patch_um: float | None = None
    target: str | None = None
    outcome: str = ""
    intervals: int = 4
    store: Path | None = None

    @property
    def segments(self) -> bool:
        """Whether patches are learned rather than slides."""
        return _TRAINED[self.kind].segments

    def target_of(self, table: SlideTable) -> TargetSpec | None:
        """Return what a table gives to learn in place of classes.

        Raises
        ------
        ValueError
            If an outcome is named of classes.
        """
        name = table.kind.name
        if name == "classes":
            if self.outcome:
                raise ValueError("an outcome is named of follow-up or numbers, not of classes")
            return None
        return TargetSpec(kind=name, outcome=self.outcome, unit=table.unit)

    def options(self, target: TargetSpec | None = None) -> SpanOptions:
        """Return how to train."""
        from ...device import choose_device

        changes: dict[str, Any] = {"seed": self.seed, "device": choose_device(self.device)}
        if self.epochs is not None:
            changes["epochs"] = self.epochs
        if self.segments:
            return SpanOptions.for_patches(**changes)
        compares = target is not None and target.row.load_objective().together
        return SpanOptions.for_cox(**changes) if compares else SpanOptions(**changes)


def prepare_slides(
    order: SlideOrder, bars: Bars = _no_bar, say: Callable[[str], None] = _say_nothing
) -> tuple[list[SlideExample], Parts | None, SlideTraining]:
    """Make the features of labelled slides, and say what is to be trained on them.

    Parameters
    ----------
    order : SlideOrder
        What is asked for.
    bars : callable, optional
        Given a slide's name, opens what the progress of its features is reported to.
    say : callable, optional
        Called with sentences that the user should know.

    Returns
    -------
    examples : list of SlideExample
    parts : dict or None
        Which of them are for what, where a table states it.
    settings : SlideTraining

    Raises
    ------
    ValueError
        If an option makes no sense.
    """
    from ...device import choose_device
    from ...features.encoders import encoder_licence, load_encoder
    from ...features.registry import find_entry

    if order.segments and order.target not in (None, "classes"):
        raise ValueError("A risk or a number is of slides: use --kind span with a table.")
    if order.features is not None:
        return _prepare_made(order, order.features, say)
    entry = find_entry(order.encoder)
    # Of a network that is given by its source alone, nothing but the source is known.
    unknown = ":" in order.encoder if entry is None else entry.pixel_size is None
    if unknown and order.pixel_size is None:
        raise ValueError(
            f"At how many µm per pixel '{order.encoder}' reads patches is not known here. See its "
            "page, and give --pixel-size."
        )
    say(f"{order.encoder}: {encoder_licence(order.encoder)}")
    chosen, wanted = choose_device(order.device), order.wanted
    if order.segments and not wanted:
        raise ValueError("--kind span-regions needs --wanted, the class of the tissue to find.")
    # Before features are made, which takes long.
    table = None if order.segments else read_slide_table(order.source, target=order.target)
    encoder = load_encoder(order.encoder, chosen)
    scale = encoder.pixel_size if order.pixel_size is None else order.pixel_size
    crop = CropSpec(size=encoder.size, field_of_view_um=encoder.size * scale)
    store = order.store or order.out.parent / "features"
    preparation = _Preparation(encoder, crop, store, chosen, bars)
    kind: Literal["span-mil", "span-unet"] = "span-mil"
    parts, target = None, None
    classes: tuple[str, ...] = (f"not {wanted}", wanted or "")
    if table is None:
        assert wanted
        kind = "span-unet"
        examples = preparation.outline(order.source, wanted)
    else:
        target, classes = order.target_of(table), table.class_names
        examples = preparation.read_table(table)
        parts = _stated_parts(table, examples, order.source.name)
    settings = SlideTraining(
        name=order.out.stem,
        class_names=classes,
        encoder=encoder_spec(encoder),
        crop=crop,
        kind=kind,
        options=order.options(target),
        target=target,
        intervals=order.intervals,
        data=f"{len(examples)} slides of {order.source.name}",
        recipe=_recipe(order, target),
    )
    return examples, parts, settings


def train_order(
    order: SlideOrder,
    bars: Bars = _no_bar,
    say: Callable[[str], None] = _say_nothing,
    on_epoch: Callable[[EpochReport], None] | None = None,
    stop: Callable[[], bool] | None = None,
) -> tuple[Bundle, SlideReport, SlideTraining]:
    """Prepare the slides, train, and write the model.

    Parameters
    ----------
    order, bars, say
        See `prepare_slides`.
    on_epoch, stop : callable, optional
        See `train_slides`.

    Raises
    ------
    ValueError
        If an option makes no sense, or the slides are too few.
    """
    examples, parts, settings = prepare_slides(order, bars, say)
    bundle, report = train_slides(examples, settings, on_epoch, parts=parts, stop=stop)
    return save_bundle(bundle, order.out), report, settings


def _recipe(order: SlideOrder, target: TargetSpec | None) -> str:
    said = f"napari-sparseattn train --kind {order.kind}"
    said += "" if target is None else f" --target {target.kind}"
    return said if order.features is None else f"{said} --features"


def _prepare_made(
    order: SlideOrder, folder: Path, say: Callable[[str], None]
) -> tuple[list[SlideExample], Parts | None, SlideTraining]:
    """Open features that were made elsewhere."""
    from ...features.encoders import EMBEDDED, TISSUE

    if order.segments:
        raise ValueError("--features are of slides with classes: use --kind span with a table.")
    table = read_slide_table(order.source, folder, order.target)
    # What makes features here made none elsewhere: it is the default, and nobody said it.
    named = "" if order.encoder in (TISSUE, EMBEDDED) else order.encoder
    made = read_made_features(table, encoder=named, patch_um=order.patch_um)
    for note in made.notes:
        say(f"note: {note}")
    target = order.target_of(table)
    settings = SlideTraining(
        name=order.out.stem,
        class_names=table.class_names,
        encoder=made.encoder,
        crop=made.crop,
        options=order.options(target),
        target=target,
        intervals=order.intervals,
        data=f"features of {len(made.examples)} slides of {order.source.name}, made elsewhere",
        recipe=_recipe(order, target),
    )
    parts = _stated_parts(table, made.examples, order.source.name)
    return made.examples, parts, settings


def _stated_parts(table: SlideTable, examples: list[SlideExample], name: str) -> Parts | None:
    """Return the parts that a table states; None where it states none."""
    stated = [row.part for row in table.rows]
    if all(part is None for part in stated):
        return None
    parts: Parts = {"train": [], "validation": [], "test": []}
    for example, part in zip(examples, stated, strict=True):
        if part is None:
            raise ValueError(f"{name}: {example.name} has no split, others have one.")
        parts[part].append(example)
    empty = [each for each, part in parts.items() if not part]
    if empty:
        raise ValueError(f"{name}: no slide is for {', '.join(empty)}.")
    return parts


class _Preparation:
    """Turns slides into examples, one encoder for all."""

    def __init__(
        self, encoder: Encoder, crop: CropSpec, store: Path, device: str, bars: Bars
    ) -> None:
        self.encoder, self.crop, self.store = encoder, crop, store
        self.device, self.bars = device, bars

    def read_table(self, table: SlideTable) -> list[SlideExample]:
        """Slides of a table, with what it states of them."""
        return [
            self._example(
                row.path,
                row.group if row.group != row.path.stem else row.name,
                label=table.label_of(row),
                name=row.name,
                outcome=row.outcome,
            )
            for row in table.rows
        ]

    def outline(self, folder: Path, wanted: str) -> list[SlideExample]:
        """Slides whose patches are labelled by the regions outlined on them."""
        from ...images.slides.regions import read_regions

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
        name: str = "",
        outcome: tuple[float, ...] = (),
    ) -> SlideExample:
        from ...images.slides.opening import open_slide

        self.store.mkdir(parents=True, exist_ok=True)
        called = name or path.stem
        # A slide of the same name in another folder has features of its own.
        safe = called.replace("/", "--").replace("\\", "--").replace(":", "-")
        kept = self.store / f"{safe}-{self.encoder.hash[:12]}.h5"
        with open_slide(path) as pyramid, self.bars(path.name) as progress:
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
        return SlideExample(features, made.cells, label, patch_labels, group, called, outcome)


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
