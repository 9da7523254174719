"""A slide for a SPAN: what a worker is asked, and how it is answered."""

from __future__ import annotations

import contextlib
import dataclasses
import math
import threading
import time
import weakref
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor, wait
from pathlib import Path
from typing import TYPE_CHECKING, Literal, TypeVar

import numpy as np
import numpy.typing as npt

from ...images.slides.pyramid import ArrayPyramid, Pyramid, read_window
from ...progress import Progress
from ..core.models import Model
from ..core.preferences import preferences
from ..core.sources import ImageSettings, PlaneRef, field_of
from ..core.status import StageDone, StoppedError

if TYPE_CHECKING:
    from napari.layers import Image

    from ...cache import Cache
    from ...card import Explanation
    from ...evidence import PyramidAttention
    from ...images.tissue.mask import Tissue
    from ...inference.slides import LocalAttention, SlidePrediction

T = TypeVar("T")

__all__ = [
    "STAGES",
    "ExplanationAnswer",
    "ExplanationRequest",
    "LocalAnswer",
    "LocalRequest",
    "PatchPicture",
    "PicturesRequest",
    "SlideAnswer",
    "SlideRequest",
    "answer_local",
    "outline_tissue",
    "store_folder",
    "stream_explanation",
    "stream_pictures",
    "stream_slide",
]

#: The parts of the work, in order, as `classify_slide` names them.
STAGES = ("tissue", "features", "attention")
_TICK_SECONDS = 0.1
#: Patches that are larger are reduced to this side for the gallery.
_MOST_PICTURE_SIDE = 512
_MOST_MASK_SIDE = 2048
_MOST_OUTLINES, _MOST_CORNERS, _LEAST_CORNERS = 200, 2000, 2

Polygons = tuple[npt.NDArray[np.float64], ...]


@dataclasses.dataclass(frozen=True, eq=False)
class SlideRequest:
    """Find the tissue of a slide, and classify it.

    Parameters
    ----------
    generation : int
        An answer to an older one than the session's is stale.
    layer : napari.layers.Image
        The image.
    plane : PlaneRef
        Its displayed plane.
    settings : ImageSettings
        Its modality and pixel size.
    model : Model or None
        With a SPAN; not needed to find tissue.
    pyramid : Pyramid or None
        The slide that the layer shows; None for an image in memory.
    tissue : Tissue or None
        What was found earlier and not edited since.
    outlines : tuple of numpy.ndarray or None
        The tissue as the user has drawn or edited it, (n, 2) (y, x) in
        pixels; None where it is to be found.
    aim : {"tissue", "class"}
        Whether to stop after the tissue.
    store : pathlib.Path
        The folder in which features are kept.
    stop : threading.Event
        Set to end the work at its next patch.
    cache : Cache or None
        Whose part the store is; it is kept within its limit.
    """

    generation: int
    layer: Image
    plane: PlaneRef
    settings: ImageSettings
    model: Model | None
    pyramid: Pyramid | None
    tissue: Tissue | None
    outlines: Polygons | None
    aim: Literal["tissue", "class"]
    store: Path
    stop: threading.Event = dataclasses.field(default_factory=threading.Event)
    cache: Cache | None = None


@dataclasses.dataclass(frozen=True, eq=False)
class SlideAnswer:
    """The tissue of a slide and, where that was asked for, its class.

    `polygons` are outlines of the tissue where it was found, and not drawn.
    """

    request: SlideRequest
    tissue: Tissue
    polygons: Polygons | None
    prediction: SlidePrediction | None
    pyramid: Pyramid


@dataclasses.dataclass(frozen=True, eq=False)
class LocalRequest:
    """Say where one patch's own attention went."""

    answer: SlideAnswer
    patch: int


@dataclasses.dataclass(frozen=True, eq=False)
class LocalAnswer:
    """Where it went."""

    request: LocalRequest
    local: LocalAttention


@dataclasses.dataclass(frozen=True, eq=False)
class ExplanationRequest:
    """Say how much each patch of a slide speaks for a class.

    Parameters
    ----------
    answer : SlideAnswer
        The slide and its class.
    method : str
        See `inference.explanations`; not attention, which is at hand.
    index : int
        The class.
    region : numpy.ndarray or None
        (m,) the patches whose mean is explained, of a model that segments;
        None for all.
    stop : threading.Event
        Set to end the work at its next run.
    """

    answer: SlideAnswer
    method: Explanation
    index: int
    region: npt.NDArray[np.intp] | None = None
    stop: threading.Event = dataclasses.field(default_factory=threading.Event)


@dataclasses.dataclass(frozen=True, eq=False)
class ExplanationAnswer:
    """What each patch says for a class, (N,) float32."""

    request: ExplanationRequest
    values: npt.NDArray[np.float32]


@dataclasses.dataclass(frozen=True, eq=False)
class PicturesRequest:
    """Read patches at the resolution of the slide.

    Parameters
    ----------
    pyramid : Pyramid
        The slide.
    attention : PyramidAttention
        Says where the patches lie.
    patches : tuple of int
        Which.
    stop : threading.Event
        Set to end the work at its next patch.
    """

    pyramid: Pyramid
    attention: PyramidAttention
    patches: tuple[int, ...]
    stop: threading.Event = dataclasses.field(default_factory=threading.Event)


@dataclasses.dataclass(frozen=True, eq=False)
class PatchPicture:
    """A patch as it is, (h, w, 3) uint8."""

    patch: int
    pixels: npt.NDArray[np.uint8]


def store_folder() -> Path:
    """Return the folder in which features are kept from run to run."""
    return preferences().cache.section("features")


class _Stages:
    """Keeps how far `classify_slide` is, in its thread, for others to look at."""

    def __init__(self, stop: threading.Event) -> None:
        self._stop = stop
        self._lock = threading.Lock()
        self._found: dict[str, StageDone] = {}
        self._began: dict[str, float] = {}

    def report(self, name: str, done: int, total: int) -> None:
        """Take how far a part is; raises when the work is to stop."""
        now = time.monotonic()
        with self._lock:
            first = self._found[name].first if name in self._found else done
            seconds = now - self._began.setdefault(name, now)
            self._found[name] = StageDone(name, done, total, first, seconds)
        if self._stop.is_set():
            raise StoppedError

    def all(self) -> tuple[StageDone, ...]:
        """Return how far the parts are that have begun."""
        with self._lock:
            return tuple(self._found.values())


def stream_slide(request: SlideRequest) -> Iterator[tuple[StageDone, ...] | SlideAnswer]:
    """Find tissue and classify a slide in another thread, and tell how far it is.

    Yields
    ------
    tuple of StageDone, then SlideAnswer
        Some times a second; the answer at the end, or nothing more when it
        was stopped. Features that were made by then are kept in the store.

    Raises
    ------
    ValueError, ImageError, OSError, MemoryError
        As `classify_slide`.
    """
    yield from _stream(request.stop, lambda report: _answer_slide(request, report))


def _stream(
    stop: threading.Event, work: Callable[[Progress], T]
) -> Iterator[tuple[StageDone, ...] | T]:
    """Work in another thread, tell how far it is, and last what came of it."""
    stages = _Stages(stop)
    with ThreadPoolExecutor(1) as pool:
        answer = pool.submit(work, stages.report)
        try:
            while not wait([answer], _TICK_SECONDS).done:
                yield stages.all()
            yield stages.all()
            yield answer.result()
        except StoppedError:
            return
        finally:
            # Whoever closes this iterator waits for one batch, not for all.
            stop.set()


def _answer_slide(request: SlideRequest, progress: Progress) -> SlideAnswer:
    pyramid = _pyramid_of(request)
    tissue = request.tissue
    if request.outlines is not None:
        from ...images.tissue.mask import tissue_from_polygons

        downsample = max(1.0, max(pyramid.shape) / _MOST_MASK_SIDE)
        tissue = tissue_from_polygons(pyramid.shape, list(request.outlines), downsample)
    if request.aim == "tissue" or request.model is None:
        from ...images.tissue.mask import find_tissue

        found = find_tissue(pyramid, progress=progress)
        return SlideAnswer(request, found, outline_tissue(found), None, pyramid)
    from ...inference.slides import classify_slide

    with _room(request) as keep:
        prediction = classify_slide(
            pyramid,
            request.model.bundle,
            tissue=tissue,
            store=request.store,
            # Whoever does not know the pixel size has been asked for it in the dock.
            allow_unknown_scale=True,
            device=request.model.device,
            progress=progress,
        )
        keep(prediction)
    assert prediction.tissue is not None
    # Outlines of many pieces take a while; here they keep nobody waiting.
    polygons = outline_tissue(prediction.tissue) if tissue is None else None
    return SlideAnswer(request, prediction.tissue, polygons, prediction, pyramid)


@contextlib.contextmanager
def _room(request: SlideRequest) -> Iterator[Callable[[SlidePrediction], None]]:
    """Let nothing be removed from the store meanwhile, nor what the answer reads from later."""
    cache = request.cache
    if cache is None or not request.store.is_relative_to(cache.folder):
        yield lambda prediction: None
        return

    def keep(prediction: SlidePrediction) -> None:
        found = prediction.features
        if found is not None and found.path is not None:
            weakref.finalize(found, cache.hold(found.path).release)

    with cache.using(request.store):
        yield keep
    cache.trim()


def outline_tissue(tissue: Tissue) -> Polygons:
    """Return outlines of tissue with so few corners that napari draws them at once.

    Each corner costs napari a few tenths of a millisecond, in which the window
    does not answer. Nothing is lost: the class is found in the tissue itself,
    unless the outlines are edited.
    """
    from skimage.measure import approximate_polygon

    outlines = tissue.polygons()[:_MOST_OUTLINES]
    tolerance = tissue.downsample
    while sum(map(len, outlines)) > _MOST_CORNERS and tolerance < max(tissue.shape):
        simpler = [approximate_polygon(outline, tolerance) for outline in outlines]
        outlines = [outline for outline in simpler if len(outline) > _LEAST_CORNERS]
        tolerance *= 2
    return tuple(outlines)


def _pyramid_of(request: SlideRequest) -> Pyramid:
    """The slide with the scale that the user gave, or the image in memory."""
    size = request.settings.pixel_size
    if request.pyramid is None:
        field = field_of(request.plane, request.settings)
        return ArrayPyramid(field.plane(0, 0), pixel_size=size, name=request.plane.name)
    pyramid = request.pyramid.with_own_ledger()
    # The user may know what the slide's file does not say, or know it better.
    # What has only been through the layer's transform is the file's.
    if (
        size is None
        or pyramid.pixel_size is None
        or not math.isclose(size, pyramid.pixel_size, rel_tol=1e-6)
    ):
        pyramid.pixel_size = size
    return pyramid


def answer_local(request: LocalRequest) -> LocalAnswer:
    """Compute where a patch's own attention went, in another thread.

    Raises
    ------
    ValueError, OSError
        If the features are gone.
    """
    from ...inference.slides import local_attention

    answer = request.answer
    assert answer.prediction is not None
    assert answer.request.model is not None
    bundle = answer.request.model.bundle
    return LocalAnswer(request, local_attention(answer.prediction, bundle, request.patch))


def stream_explanation(
    request: ExplanationRequest,
) -> Iterator[tuple[StageDone, ...] | ExplanationAnswer]:
    """Compute how much each patch speaks for a class in another thread, and tell how far it is.

    Yields
    ------
    tuple of StageDone, then ExplanationAnswer
        Some times a second; the answer at the end, or nothing more when it
        was stopped.

    Raises
    ------
    ValueError, OSError
        If the features are gone, or there are too many patches for this method.
    """
    yield from _stream(request.stop, lambda report: _answer_explanation(request, report))


def _answer_explanation(request: ExplanationRequest, progress: Progress) -> ExplanationAnswer:
    from ...inference.explanations import explain_slide

    answer = request.answer
    assert answer.prediction is not None
    assert answer.request.model is not None
    values = explain_slide(
        answer.prediction,
        answer.request.model.bundle,
        request.method,
        request.index,
        region=request.region,
        progress=progress,
    )
    return ExplanationAnswer(request, values)


def stream_pictures(request: PicturesRequest) -> Iterator[PatchPicture]:
    """Read patches one by one, in another thread, until it is stopped.

    What is read here is not entered in the slide's ledger.
    """
    pyramid = request.pyramid.with_own_ledger()
    for patch in request.patches:
        if request.stop.is_set():
            return
        yield PatchPicture(patch, picture_of(pyramid, request.attention.patch_box(patch)))


def picture_of(pyramid: Pyramid, box: Sequence[float]) -> npt.NDArray[np.uint8]:
    """Return the pixels (h, w, 3) uint8 of a square; grey where there are none."""
    top, left, side = box
    size = min(max(round(side), 1), _MOST_PICTURE_SIDE)
    values, valid = read_window(pyramid, top, left, side, side, size, size)
    if pyramid.dtype.kind == "f" and valid.any():
        low, high = (float(v) for v in np.nanpercentile(values[valid], (0.5, 99.5)))
        values = (values - low) / max(high - low, 1e-12)
    values = np.clip(np.nan_to_num(values), 0, 1)
    values[~valid] = 0.35
    shown = np.rint(255 * values).astype(np.uint8)
    return np.ascontiguousarray(np.broadcast_to(shown, (size, size, 3)))
