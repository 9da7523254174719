"""From a result in the window to what gives it again: a script, a command, a paragraph."""

from __future__ import annotations

import dataclasses
import math
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

import numpy as np
import numpy.typing as npt

from ...images.fields.field import Field
from ...images.slides.pyramid import ArrayPyramid, Pyramid
from ...inference.fields import FieldPrediction
from ...inference.prediction import Prediction, Predictions
from ...inference.slides import SlidePrediction
from ...process.options import ProcessOptions
from ...process.script import Recipe, write_command, write_python
from ..cells.requests import ClickRequest, RunRequest
from ..core.sources import ImageSettings, PlaneRef, cells_of, field_of
from ..slides.requests import SlideRequest
from ..traversal.requests import FieldRequest

if TYPE_CHECKING:
    from ...card import Card
    from ...images.fields.cells import Cells
    from ..core.models import Model
    from ..holograms.layers import Made

__all__ = ["Copied", "CopyRequest", "Copyable", "What", "answer_copy"]

What = Literal["python", "command", "methods"]
#: Letters of the axes before y and x, by how many there are.
_LEADING: dict[int, str] = {0: "", 1: "T", 2: "TZ"}


@dataclasses.dataclass(frozen=True, eq=False)
class Copyable:
    """One result that can be copied as what gives it again.

    Parameters
    ----------
    title : str
        In words.
    asked : RunRequest, ClickRequest, FieldRequest, SlideRequest or None
        What was asked; None of a reconstruction alone.
    result : Predictions, Prediction, FieldPrediction, SlidePrediction or None
        What came of it; None of a reconstruction alone.
    cells : Cells or None
        Those of the result, or all among which one was clicked.
    plane : PlaneRef
        What it is of.
    settings : ImageSettings
        What was known of that image.
    path : pathlib.Path or None
        The image's file.
    image : int or None
        Which of several images of the file.
    made : Made or None
        How the image was reconstructed.
    foci : (float, int)
        Of a SPAN that finds tissue: threshold, and patches of the smallest focus.
    """

    title: str
    asked: RunRequest | ClickRequest | FieldRequest | SlideRequest | None
    result: Predictions | Prediction | FieldPrediction | SlidePrediction | None
    cells: Cells | None
    plane: PlaneRef
    settings: ImageSettings
    path: Path | None
    image: int | None = None
    made: Made | None = None
    foci: tuple[float, int] = (0.5, 2)


@dataclasses.dataclass(frozen=True, eq=False)
class CopyRequest:
    """Say what gives a result again.

    Parameters
    ----------
    what : {"python", "command", "methods"}
        As what.
    thing : Copyable
        The result.
    folder : pathlib.Path
        Where cells are written that the user gave as a layer.
    """

    what: What
    thing: Copyable
    folder: Path


@dataclasses.dataclass(frozen=True, eq=False)
class Copied:
    """The text, and the files that it reads beside the image."""

    text: str
    written: tuple[Path, ...] = ()
    before: tuple[str, ...] = ()


def answer_copy(request: CopyRequest) -> Copied:
    """Make the text in another thread: the file is opened, and compared with what is shown.

    Raises
    ------
    ValueError, OSError
        If nothing gives this result again; the message says why.
    """
    thing = request.thing
    if request.what == "methods":
        return Copied(_methods(thing))
    recipe, written = _recipe(thing, request.folder)
    text = write_python(recipe) if request.what == "python" else write_command(recipe)
    return Copied(text, written, recipe.before)


# -- the recipe


def _recipe(thing: Copyable, folder: Path) -> tuple[Recipe, tuple[Path, ...]]:
    asked = thing.asked
    if asked is None:
        return _reconstruction(thing), ()
    if isinstance(asked, SlideRequest):
        return _slide(thing, asked), ()
    if isinstance(asked, FieldRequest):
        return _whole(thing, asked), ()
    options, written = _cells_options(thing, asked, folder)
    if thing.made is not None:
        return _cells_of_recording(thing, thing.made, options), written
    place = _locate(thing)
    options = dataclasses.replace(options, **place.options)
    return _make(thing, place.path, options, before=place.before), written


def _make(thing: Copyable, path: Path, options: ProcessOptions, **more: Any) -> Recipe:
    model = getattr(thing.asked, "model", None)
    named = {} if model is None else {"model": _model_name(model), "model_hash": model.bundle.hash}
    if model is not None and model.precision != "float32":
        said = f"set NAPARI_SPARSEATTN_PRECISION={model.precision} in the environment"
        more = {**more, "before": (*more.get("before", ()), said)}
    return Recipe(thing.title, path, options, **named, **more)


def _model_name(model: Model) -> str:
    """Return the name of a model that everybody finds, or its file."""
    from ...bundle import find_bundles

    path, name = model.bundle.path, model.bundle.card.name
    if path is None:
        raise ValueError(f"The model '{name}' is in memory only: save it with Save…, then use it.")
    found = find_bundles().get(name)
    return name if found is not None and found.absolute() == path.absolute() else str(path)


def _cells_options(
    thing: Copyable, asked: RunRequest | ClickRequest, folder: Path
) -> tuple[ProcessOptions, tuple[Path, ...]]:
    options = ProcessOptions(
        task="cells",
        classes=asked.classes,
        locations=asked.locations,
        device=asked.model.device,
    )
    if isinstance(asked, ClickRequest):
        options = dataclasses.replace(options, at=asked.position)
    if not asked.given:
        return dataclasses.replace(options, method=asked.method), ()
    file = _keep_cells(_all_cells(thing), folder, thing.plane.name)
    return dataclasses.replace(options, cells=file), (file,)


def _all_cells(thing: Copyable) -> Cells:
    """Return the cells that a click chose from, or that were classified."""
    if thing.cells is not None:
        return thing.cells
    assert isinstance(thing.asked, ClickRequest)
    return cells_of(field_of(thing.plane, thing.settings), thing.asked.source)


def _keep_cells(cells: Cells, folder: Path, name: str) -> Path:
    """Write cells that a layer gave, into a file of their own; return it."""
    from ...images.fields.marked import write_cells

    suffix = ".csv" if cells.labels is None else ".tif"
    stem = f"{_safe(name)}_cells"
    file, number = folder / f"{stem}{suffix}", 1
    while file.exists():
        number += 1
        file = folder / f"{stem}-{number}{suffix}"
    write_cells(cells, file)
    return file


def _cells_of_recording(thing: Copyable, made: Made, options: ProcessOptions) -> Recipe:
    leading = thing.plane.data.shape[: len(thing.plane.index)]
    frame = int(np.ravel_multi_index(thing.plane.index, leading)) if leading else 0
    settings = made.settings
    if thing.settings.pixel_size is not None:
        settings = dataclasses.replace(settings, pixel_size=thing.settings.pixel_size)
    options = dataclasses.replace(
        options, task="hologram", settings=settings, kind=made.kind, background=made.background
    )
    path, before = _recording_path(thing, made)
    return _make(thing, path, options, frame=frame, before=before)


def _reconstruction(thing: Copyable) -> Recipe:
    made = thing.made
    assert made is not None
    path, before = _recording_path(thing, made)
    options = ProcessOptions(
        task="hologram", settings=made.settings, kind=made.kind, background=made.background
    )
    return Recipe(thing.title, path, options, before=before)


def _recording_path(thing: Copyable, made: Made) -> tuple[Path, tuple[str, ...]]:
    """Return the file of a recording, and what is to be saved before."""
    before: tuple[str, ...] = ()
    if not made.known:
        before = ("save the background, and give its file: it is in memory only",)
    if made.path is None:
        path, said = _to_save(made.name, "it is in memory only")
        return path, (said, *before)
    if not before and not _gives(thing, made):
        path, said = _to_save(made.name, f"{made.path.name} gives other values than are shown")
        return path, (said,)
    return made.path, before


def _gives(thing: Copyable, made: Made) -> bool:
    """Tell whether the file gives the first frame that is shown."""
    from ...images.holograms.files import open_hologram
    from ...images.holograms.holography import estimate_settings, iter_phase

    assert made.path is not None
    try:
        recording = open_hologram(made.path, kind=made.kind, background=made.background)
        done = next(iter(iter_phase(recording, estimate_settings(recording, made.settings))))
    except (ValueError, OSError):
        return False
    values = done.phase if done.opd is None else done.opd
    shown = np.asarray(thing.plane.data[(0,) * len(thing.plane.index)])
    return values.shape == shown.shape and np.allclose(values, shown, atol=1e-4, equal_nan=True)


def _slide(thing: Copyable, asked: SlideRequest) -> Recipe:
    threshold, least = thing.foci
    assert asked.model is not None
    options = ProcessOptions(
        task="slide",
        device=asked.model.device,
        allow_unknown_scale=thing.settings.pixel_size is None,
        threshold=threshold,
        least_patches=least,
    )
    finds = asked.model.bundle.card.segments
    place = _locate(thing) if asked.pyramid is None else _locate_slide(thing, asked.pyramid)
    # What only fields have; of an image in memory the slide is made from them.
    kept = {k: v for k, v in place.options.items() if k in ("pixel_size", "icc")}
    options = dataclasses.replace(options, **kept)
    return _make(
        thing, place.path, options, tissue=asked.outlines or (), foci=finds, before=place.before
    )


def _whole(thing: Copyable, asked: FieldRequest) -> Recipe:
    options = ProcessOptions(
        task="whole", locations=asked.locations, halt=asked.halt, device=asked.model.device
    )
    place = _locate(thing) if asked.pyramid is None else _locate_slide(thing, asked.pyramid)
    options = dataclasses.replace(options, **place.options)
    return _make(thing, place.path, options, before=place.before)


# -- the file


@dataclasses.dataclass(frozen=True, eq=False)
class _Place:
    """The file that gives the pixels, how it is opened, and what is to be done before."""

    path: Path
    options: dict[str, Any]
    before: tuple[str, ...] = ()


def _locate_slide(thing: Copyable, pyramid: Pyramid) -> _Place:
    path = pyramid.path or thing.path
    size = thing.settings.pixel_size
    options: dict[str, Any] = {}
    own = pyramid.pixel_size
    if size is not None and (own is None or not math.isclose(size, own, rel_tol=1e-6)):
        options["pixel_size"] = size
    if pyramid.profile_name is not None and not pyramid.profile_applied:
        options["icc"] = False
    if pyramid.address is not None:
        # It may give access, and what is copied is passed on.
        name = pyramid.address.name
        said = f"copy {name} here, or write its address in place of '{name}': it is left out here."
        return _Place(Path(name), options, (said,))
    if path is None:
        return _Place(*_parts(*_to_save(thing.plane.name, "it is in memory only"), options))
    return _Place(Path(path), options)


def _parts(
    path: Path, said: str, options: dict[str, Any]
) -> tuple[Path, dict[str, Any], tuple[str, ...]]:
    return path, options, (said,)


def _locate(thing: Copyable) -> _Place:
    """Find out how the file gives the plane that the result is of; its pixels are compared."""
    wanted = field_of(thing.plane, thing.settings)
    if thing.path is None:
        return _in_memory(thing, "it is in memory only")
    for axes, icc in ((None, True), (None, False), ("CYX", True)):
        options = _options_of(thing, axes, icc)
        if options is not None and (found := _plane_in(thing, options, wanted)) is not None:
            plain = {"axes": None, "icc": True}
            kept = {k: v for k, v in found.items() if v is not None and plain.get(k, "") != v}
            return _Place(thing.path, kept)
    return _in_memory(thing, f"its pixels are not those of {thing.path.name}")


def _options_of(thing: Copyable, axes: str | None, icc: bool) -> dict[str, Any] | None:
    """Return what has to be said of the file beside what it says itself."""
    opened = _open(thing, {"axes": axes, "icc": icc})
    if opened is None:
        return None
    settings = thing.settings
    said: dict[str, Any] = {"axes": axes, "icc": icc, "image": thing.image}
    if settings.pixel_size != opened.pixel_size:
        said["pixel_size"] = settings.pixel_size
    if settings.modality != opened.modality:
        said["modality"] = settings.modality
    if settings.unit and settings.unit != opened.unit:
        said["unit"] = settings.unit
    return said


def _open(thing: Copyable, options: dict[str, Any]) -> Field | None:
    from ...images.opening import open_field

    assert thing.path is not None
    asked = {"image": thing.image, **options}
    try:
        return open_field(thing.path, **{k: v for k, v in asked.items() if v is not None})
    except (ValueError, OSError, TypeError):
        return None


def _plane_in(thing: Copyable, options: dict[str, Any], wanted: Field) -> dict[str, Any] | None:
    """Return the options with the plane's place in the file; None if it is not there."""
    field = _open(thing, options)
    if field is None:
        return None
    names = [letter for letter in "TZ" if letter in field.axes]
    if field.axes.endswith("C") and not thing.plane.rgb and field.data.shape[-1] > 1:
        names.insert(0, "C")
    if len(names) != len(thing.plane.index):
        return None
    place = dict(zip(names, thing.plane.index, strict=True))
    channel = place.get("C")
    if channel is not None:
        field = field.channel(channel)
    there = field.plane(place.get("T", 0), place.get("Z", 0))
    if not _same(there, wanted.plane(0, 0)):
        return None
    # The first needs no words.
    frame, slice_ = (place.get(letter) or None for letter in "TZ")
    return {**options, "frame": frame, "slice": slice_, "channel": channel}


def _same(made: npt.NDArray[Any], shown: npt.NDArray[Any]) -> bool:
    if made.shape != shown.shape or made.dtype != shown.dtype:
        return False
    return np.array_equal(made, shown, equal_nan=made.dtype.kind == "f")


def _in_memory(thing: Copyable, why: str) -> _Place:
    """Say that the layer is to be saved, and how it is opened then."""
    leading = len(thing.plane.index)
    if leading not in _LEADING:
        raise ValueError(
            f"'{thing.plane.name}' has {leading} axes before y and x, and no file gives it. Save "
            "the plane that is shown as a file, and classify that."
        )
    path, said = _to_save(thing.plane.name, why)
    options: dict[str, Any] = {
        "pixel_size": thing.settings.pixel_size,
        "modality": thing.settings.modality,
        "unit": thing.settings.unit or None,
        "axes": f"{_LEADING[leading]}YX{'C' if thing.plane.rgb else ''}",
    }
    options |= dict(zip(("frame", "slice"), thing.plane.index, strict=False))
    return _Place(path, options, (said,))


def _to_save(name: str, why: str) -> tuple[Path, str]:
    path = Path(f"{_safe(name)}.tif")
    return path, (
        f"save the layer '{name}' as {path} (select it, then File, Save Selected Layers): {why}."
    )


def _safe(name: str) -> str:
    safe = "".join(c if c.isalnum() or c in "-_." else "-" for c in name).strip("-.")[:80]
    return safe or "image"


# -- the methods paragraph


def _methods(thing: Copyable) -> str:
    from ...export.methods import describe_methods, describe_reconstruction
    from ...export.request import Export

    asked = thing.asked
    how = ""
    if thing.made is not None:
        made, shape = thing.made, thing.plane.data.shape
        leading = shape[: len(thing.plane.index)]
        how = describe_reconstruction(
            made.settings, made.name, made.kind, int(np.prod(leading)) if leading else 1
        )
    if asked is None:
        return how
    card: Card = asked.model.bundle.card  # type: ignore[union-attr]
    result = thing.result
    if isinstance(result, Prediction) and isinstance(asked, ClickRequest):
        result = _alone(thing, asked, result)
    assert isinstance(result, Predictions | FieldPrediction | SlidePrediction)
    image: Field | Pyramid
    pyramid = getattr(asked, "pyramid", None)
    if pyramid is not None:
        image = pyramid
    else:
        image = dataclasses.replace(field_of(thing.plane, thing.settings), path=thing.path)
        if isinstance(asked, SlideRequest):
            image = ArrayPyramid(image.plane(0, 0), pixel_size=image.pixel_size, name=image.name)
    return "\n".join(filter(None, (how, describe_methods(Export(result, image, card)))))


def _alone(thing: Copyable, asked: ClickRequest, found: Prediction) -> Predictions:
    """Return the cell that was clicked as a table of one."""
    cells = _all_cells(thing)
    index = cells.nearest(asked.position)
    if index is None:
        raise ValueError("The cell that was clicked is not there any more; click it once more.")
    evidence: Any = () if found.evidence is None else (found.evidence,)
    return Predictions(
        cells.subset([index]),
        found.class_names,
        found.probabilities[None],
        evidence,
        found.ledger,
        found.model_hash,
        asked.model.bundle.card.name,
        found.scale_known,
        novelty=None if found.novelty is None else np.array([found.novelty], np.float32),
        none_of_these=None if found.none_of_these is None else np.array([found.none_of_these]),
    )
