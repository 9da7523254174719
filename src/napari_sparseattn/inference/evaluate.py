"""How well a model of any kind does on labelled images in class folders."""

from __future__ import annotations

import abc
import dataclasses
import os
import time
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any, Literal

import numpy as np
import numpy.typing as npt

from ..bundle import Bundle
from ..card import Card
from ..device import choose_device
from ..images.class_folders import LabelledImage, list_labelled_images, read_crop
from ..images.errors import ImageError, check_pixel_size
from ..images.slides.opening import is_slide
from ..judged import Judged
from ..metrics import Report
from ..progress import Progress
from ..reprs import short_repr
from .cells import judge_crops
from .prediction import slide_novelty

__all__ = ["Evaluation", "Per", "evaluate_folder"]

#: What gets one answer: each image, or all images of one class and group together.
Per = Literal["auto", "image", "group"]

Answers = tuple[npt.NDArray[np.float32], npt.NDArray[np.float32] | None]


@dataclasses.dataclass(frozen=True)
class Evaluation:
    """A report, what could not be read, and how long it took.

    Attributes
    ----------
    report : Report
        Figures on the images that were read.
    judged : Judged
        What was said of each.
    unreadable : dict of str to str
        Files that were not, with the reason.
    seconds_inference, seconds : float
        Time in the model (normalisation included), and in all.
    flagged_share : float or None
        Share of the images unlike anything the model was trained on; None
        where the model's file has no states to compare with.
    notes : tuple of str
        How the images were taken, and what else figures depend on.
    """

    __repr__ = short_repr

    report: Report
    judged: Judged
    unreadable: dict[str, str]
    seconds_inference: float
    seconds: float
    flagged_share: float | None = None
    notes: tuple[str, ...] = ()

    @property
    def cells_per_second(self) -> float:
        """Images through the model per second, reading not counted where it can be told apart."""
        return self.report.n / max(self.seconds_inference, 1e-9)

    def intervals(self) -> dict[str, tuple[float, float]]:
        """95 % intervals by drawing groups, or images where there are no groups."""
        return self.judged.intervals()

    def to_dict(self) -> dict[str, Any]:
        """Return lists and numbers, for JSON."""
        return {
            **self.report.to_dict(),
            "intervals": {name: list(span) for name, span in self.intervals().items()},
            "n_groups": self.judged.n_groups,
            "cells_per_second": self.cells_per_second,
            "seconds": self.seconds,
            "flagged_share": self.flagged_share,
            "unreadable": self.unreadable,
            "notes": list(self.notes),
        }


def evaluate_folder(
    folder: str | os.PathLike[str],
    bundle: Bundle,
    device: str = "auto",
    *,
    pixel_size: float | None = None,
    per: Per = "auto",
    locations: Sequence[int] | None = None,
    store: str | os.PathLike[str] | None = None,
    progress: Progress | None = None,
) -> Evaluation:
    """Classify ``FOLDER/class/[group/]image`` and compare with the folders' names.

    What an image is follows from the model: a cell; a tile or a slide that a
    TNet looks into; a slide, or tiles, for a SPAN. A TNet whose normalisation
    needs the whole image, as those of cells do, takes images as crops.

    Parameters
    ----------
    folder : path-like
        One sub-folder per class; names must be classes of the model, but for
        case and for spaces, hyphens and underscores. Folders below these name
        groups (patients, slides), which intervals then draw.
    bundle : Bundle
        The model.
    device : str
        See `choose_device`.
    pixel_size : float, optional
        µm per pixel of the images, in place of what files say. Of cells the
        model's field of view is cut around each image's centre; without it the
        whole image is taken as the crop.
    per : {"auto", "image", "group"}
        What gets an answer. A SPAN that classifies slides takes the tiles of
        one class and group together, other models the mean of their
        probabilities; by default only the former does so.
    locations : sequence of int, optional
        Of a TNet; see `classify_field`.
    store : path-like, optional
        Where features of slides are kept.
    progress : callable, optional
        Called with "images", those done and their number.

    Raises
    ------
    ValueError
        If a folder's name is no class of the model, or nothing can be read.
    FileNotFoundError
        If there are no images.
    """
    if pixel_size is not None:
        check_pixel_size(pixel_size)
    if bundle.card.target is not None:
        wanted = ", ".join(("slide", *bundle.card.target.row.columns))
        raise ValueError(
            f"'{bundle.card.name}' gives a {bundle.card.target.answer_name}, and no classes. Give "
            f"a table of slides, a CSV with the columns {wanted}, in place of a folder."
        )
    began = time.perf_counter()
    images = list_labelled_images(folder)
    index = _class_index(bundle.card, {image.label for image in images})
    judge = _judge_for(images, bundle, choose_device(device), pixel_size, per, locations, store)
    found = _Found(index)
    asked = judge.ask(images)
    for start in range(0, len(asked), judge.batch):
        found.add(asked[start : start + judge.batch], judge)
        if progress is not None:
            progress("images", min(start + judge.batch, len(asked)), len(asked))
    judged = found.judged(Path(folder), bundle.card)
    if per == "group" and not judge.groups:
        judged = judged.by_group()
    flagged = [each > 1 for each in found.novelty if each is not None]
    return Evaluation(
        judged.report(),
        judged,
        found.unreadable,
        found.seconds,
        time.perf_counter() - began,
        float(np.concatenate(flagged).mean()) if flagged else None,
        _notes(bundle.card, judge, judged),
    )


Unit = tuple[LabelledImage, ...]


class _Judge(abc.ABC):
    """Reads images as one kind of model takes them, and asks it."""

    batch = 1
    #: Whether images of one group get one answer together.
    groups = False

    def __init__(self, bundle: Bundle, device: str, pixel_size: float | None) -> None:
        self.bundle, self.device, self.pixel_size = bundle, device, pixel_size

    def ask(self, images: Sequence[LabelledImage]) -> list[Unit]:
        """Return what gets one answer each."""
        return [(image,) for image in images]

    @abc.abstractmethod
    def read(self, unit: Unit) -> Any:
        """Return what `answer` needs; an ImageError, OSError or ValueError says why not."""

    @abc.abstractmethod
    def answer(self, read: Sequence[Any]) -> Answers:
        """Return probabilities (n, C) and novelty (n,), or None, of what was read."""

    def notes(self) -> tuple[str, ...]:
        """Say how images were taken."""
        return ()


class _Crops(_Judge):
    """Images that show one cell each."""

    batch = 256

    def __init__(self, bundle: Bundle, device: str, pixel_size: float | None) -> None:
        super().__init__(bundle, device, pixel_size)
        self.n_grey = 0

    def read(self, unit: Unit) -> npt.NDArray[np.float32]:
        card = self.bundle.card
        side = card.crop.field_of_view_um / self.pixel_size if self.pixel_size else None
        crop = read_crop(unit[0].path, card.crop.size, len(card.channels), side, card.unit)
        self.n_grey += len(card.channels) > 1 and bool((crop == crop[..., :1]).all())
        return crop

    def answer(self, read: Sequence[Any]) -> Answers:
        return judge_crops(np.stack(read), self.bundle, self.device)

    def notes(self) -> tuple[str, ...]:
        wide = f"{self.bundle.card.crop.field_of_view_um:g} µm"
        if self.pixel_size is None:
            said = (
                f"the whole of each image was taken as the crop, as if it were {wide} wide: give "
                "the pixel size to have that cut"
            )
        else:
            said = f"{wide} around each image's centre were cut, at {self.pixel_size} µm per pixel"
        if not self.n_grey:
            return (said,)
        grey = f"{self.n_grey} images are grey, which was taken for red, green and blue alike"
        return said, f"{grey}: '{self.bundle.card.name}' was trained on colours"


class _Fields(_Judge):
    """Tiles, fields and slides that a TNet looks into."""

    def __init__(
        self,
        bundle: Bundle,
        device: str,
        pixel_size: float | None,
        locations: Sequence[int] | None,
    ) -> None:
        super().__init__(bundle, device, pixel_size)
        self.locations = locations
        self.crops: list[int] = []

    def read(self, unit: Unit) -> Any:
        # It is read while it is looked at, and may be found to show nothing.
        from ..images.opening import open_image
        from .fields import classify_field

        given = {} if self.pixel_size is None else {"pixel_size": self.pixel_size}
        image = open_image(unit[0].path, **given)
        try:
            found = classify_field(image, self.bundle, self.locations, self.device)
        finally:
            if hasattr(image, "close"):
                image.close()
        self.crops.append(len(found.traversal))
        return found.probabilities, found.novelty

    def answer(self, read: Sequence[Any]) -> Answers:
        return _stack(read)

    def notes(self) -> tuple[str, ...]:
        if not self.crops:
            return ()
        return (f"each image was looked at as a whole, {np.mean(self.crops):.3g} crops on average",)


class _Slides(_Judge):
    """Slides, and tiles, whose patches a SPAN attends to."""

    batch = 8

    def __init__(
        self,
        bundle: Bundle,
        device: str,
        pixel_size: float | None,
        groups: bool,
        store: str | os.PathLike[str] | None,
    ) -> None:
        super().__init__(bundle, device, pixel_size)
        from ..features.encoders import load_encoder

        spec = bundle.card.encoder
        assert spec is not None
        self.encoder = load_encoder(spec.name, device)
        if self.encoder.hash != spec.hash:
            raise ValueError(
                f"'{bundle.card.name}' was trained on features of {spec.name} ({spec.hash[:12]}), "
                f"which here is another network ({self.encoder.hash[:12]}). Get that encoder."
            )
        self.groups, self.store = groups, store
        self.n_slides = self.n_tiles = self.n_small = 0

    def ask(self, images: Sequence[LabelledImage]) -> list[Unit]:
        if not self.groups:
            return super().ask(images)
        units: dict[tuple[str, str], list[LabelledImage]] = {}
        for image in images:
            single = not image.group or is_slide(image.path)
            # No group has a path's name, so that slides stay alone.
            key = str(image.path) if single else image.group
            units.setdefault((image.label, key), []).append(image)
        return [tuple(unit) for unit in units.values()]

    def read(self, unit: Unit) -> Any:
        if len(unit) == 1 and is_slide(unit[0].path):
            return self._slide(unit[0].path)
        from ..features.bags import lay_tiles

        crop = self.bundle.card.crop
        side = crop.field_of_view_um / self.pixel_size if self.pixel_size else None
        bag = lay_tiles([image.path for image in unit], crop.size, side)
        self.n_tiles += len(unit)
        return bag

    def _slide(self, path: Path) -> tuple[npt.NDArray[np.float32], float | None]:
        from ..images.slides.opening import open_slide
        from .slides import classify_slide

        with open_slide(path, pixel_size=self.pixel_size) as pyramid:
            found = classify_slide(
                pyramid, self.bundle, self.encoder, store=self.store, device=self.device
            )
            if found.features is not None:
                found.features.close()
        self.n_slides += 1
        return found.probabilities, found.novelty

    def answer(self, read: Sequence[Any]) -> Answers:
        from ..features.bags import TileBag, encode_patches

        bags = [each for each in read if isinstance(each, TileBag)]
        features: Iterator[Any] = iter(())  # of slides alone, nothing is left to encode
        if bags:
            every = encode_patches(np.concatenate([bag.patches for bag in bags]), self.encoder)
            ends = np.cumsum([len(bag.cells) for bag in bags])
            features = iter(np.split(every, ends[:-1]))
        return _stack(
            [
                self._bag(next(features), each.cells) if isinstance(each, TileBag) else each
                for each in read
            ]
        )

    def _bag(
        self, features: npt.NDArray[np.float32], cells: npt.NDArray[np.int64]
    ) -> tuple[npt.NDArray[np.float32], float | None]:
        import torch

        from ..models.span import run_span

        card = self.bundle.card
        with torch.inference_mode():
            output = run_span(
                self.bundle.slide_model(self.device),
                torch.from_numpy(features),
                torch.from_numpy(cells),
                streamed=False,
            )
        logits = output.logits.float().cpu() / card.temperature
        if card.segments:
            mean = float(logits.flatten().sigmoid().mean())
            chances = np.array([1 - mean, mean], np.float32)
        else:
            chances = logits[0].softmax(0).numpy()
        return chances, slide_novelty(self.bundle, output.states.float().cpu(), features)[0]

    def notes(self) -> tuple[str, ...]:
        crop, said = self.bundle.card.crop, []
        if self.n_tiles:
            together = ", those of one class and group together" if self.groups else ""
            side = f"{crop.field_of_view_um:g} µm, at {self.pixel_size} µm per pixel"
            if self.pixel_size is None:
                side = (
                    f"{crop.size} pixels as they are, as if at {crop.pixel_size:g} µm per pixel: "
                    "give the pixel size to have that cut"
                )
            said.append(f"tiles were cut into patches of {side}{together}")
        if self.bundle.card.segments:
            tiles = "the mean probability of its patches"
            slides = "the share of its patches that are the wanted tissue"
            said += [f"of a tile, {tiles} was taken"] * bool(self.n_tiles)
            said += [f"of a slide, {slides} was taken"] * bool(self.n_slides)
        return tuple(said)


def _judge_for(
    images: Sequence[LabelledImage],
    bundle: Bundle,
    device: str,
    pixel_size: float | None,
    per: Per,
    locations: Sequence[int] | None,
    store: str | os.PathLike[str] | None,
) -> _Judge:
    """Tell from the model, and from what the files are, how these are to be taken."""
    card = bundle.card
    if card.takes_slides:
        grouped = per != "image" and not card.segments and any(image.group for image in images)
        return _Slides(bundle, device, pixel_size, grouped, store)
    if "fields" in card.model_kind.takes and (
        card.normalisation.kind == "fixed" or any(is_slide(image.path) for image in images)
    ):
        return _Fields(bundle, device, pixel_size, locations)
    return _Crops(bundle.with_locations(locations), device, pixel_size)


def _stack(read: Sequence[tuple[npt.NDArray[np.float32], float | None]]) -> Answers:
    novelty = [each for _, each in read if each is not None]
    chances = np.stack([each for each, _ in read])
    return chances, np.array(novelty, np.float32) if novelty else None


class _Found:
    """Answers as they come in."""

    def __init__(self, index: dict[str, int]) -> None:
        self.index = index
        self.units: list[Unit] = []
        self.probabilities: list[npt.NDArray[np.float32]] = []
        self.novelty: list[npt.NDArray[np.float32] | None] = []
        self.unreadable: dict[str, str] = {}
        self.seconds = 0.0

    def add(self, units: Sequence[Unit], judge: _Judge) -> None:
        """Ask the judge of a batch; what cannot be read is left out, with the reason."""
        read = []
        for unit in units:
            clock = time.perf_counter()
            try:
                read.append(judge.read(unit))
            except (ImageError, OSError, ValueError) as error:
                self.unreadable |= {str(image.path): str(error) for image in unit}
                continue
            if isinstance(judge, _Fields):
                self.seconds += time.perf_counter() - clock
            self.units.append(unit)
        if not read:
            return
        clock = time.perf_counter()
        chances, novelty = judge.answer(read)
        self.seconds += time.perf_counter() - clock
        self.probabilities.append(chances)
        self.novelty.append(novelty)

    def judged(self, folder: Path, card: Card) -> Judged:
        """Return all answers as a table."""
        if not self.units:
            path, reason = next(iter(self.unreadable.items()))
            raise ValueError(
                f"None of the {len(self.unreadable)} images in '{folder}' could be read; "
                f"{path}: {reason}"
            )
        firsts = [unit[0] for unit in self.units]
        names = [
            (first.path.parent if len(unit) > 1 else first.path).relative_to(folder).as_posix()
            for first, unit in zip(firsts, self.units, strict=True)
        ]
        return Judged(
            tuple(names),
            tuple(first.group for first in firsts),
            np.array([self.index[first.label] for first in firsts], np.int64),
            np.concatenate(self.probabilities),
            card.class_names,
        )


def _notes(card: Card, judge: _Judge, judged: Judged) -> tuple[str, ...]:
    """Say how images were taken, what intervals draw, and that a model has seen nothing real."""
    if judged.n_groups:
        drawn = f"intervals are by bootstrap over {judged.n_groups} groups (folders within classes)"
    else:
        drawn = "intervals take each image for itself: there are no groups, such as patients"
    simulated = (f"'{card.name}' was trained on simulated images only",)
    return (*judge.notes(), drawn, *(simulated if card.training.simulated else ()))


def _class_index(card: Card, folders: set[str]) -> dict[str, int]:
    """Give each folder's name the index of its class."""
    classes = {_plain(name): i for i, name in enumerate(card.class_names)}
    unknown = sorted(name for name in folders if _plain(name) not in classes)
    if unknown:
        raise ValueError(
            f"'{card.name}' has no class named {', '.join(unknown)}; its classes are "
            f"{', '.join(card.class_names)}. Rename the folders."
        )
    return {name: classes[_plain(name)] for name in folders}


def _plain(name: str) -> str:
    return name.casefold().replace(" ", "_").replace("-", "_")
