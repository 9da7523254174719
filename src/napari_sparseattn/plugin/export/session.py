"""What can be written of the results in one viewer, and writing it in another thread; no Qt."""

from __future__ import annotations

import dataclasses
import threading
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor, wait
from pathlib import Path
from typing import TYPE_CHECKING, Any

from psygnal import Signal

from ...inference.fields import FieldPrediction
from ...inference.prediction import Predictions
from ...inference.slides import SlidePrediction
from ..core.errors import explain
from ..core.messages import Progress
from ..core.per_viewer import PerViewer
from ..core.session import Session
from ..core.sources import ImageSettings, PlaneRef, field_of
from ..slides.requests import SlideAnswer
from ..traversal.requests import FieldRequest, StoppedError

if TYPE_CHECKING:
    from napari.components import ViewerModel
    from napari.layers import Image

    from ...card import Card
    from ...export.formats import Format
    from ...images.fields.field import Field
    from ...images.slides.pyramid import Pyramid
    from ..cells.requests import Model

__all__ = ["ExportRequest", "Exporting", "Thing", "stream_export"]

_TICK_SECONDS = 0.1
#: What was looked at takes about 25 KB per cell.
_MOST_EVIDENCE = 10_000
_LOOKING = "looking again"


@dataclasses.dataclass(frozen=True, eq=False)
class Thing:
    """One result that can be written.

    Parameters
    ----------
    title : str
        In words.
    result : Predictions, FieldPrediction or SlidePrediction
        The result.
    plane : PlaneRef
        What it is of.
    settings : ImageSettings
        What is known of that image.
    pyramid : Pyramid or None
        The slide that it was read from; None for an image in memory.
    card : Card
        Of the model.
    model : Model or None
        The model itself, where it is loaded.
    path : pathlib.Path or None
        The image's file.
    """

    title: str
    result: Predictions | FieldPrediction | SlidePrediction
    plane: PlaneRef
    settings: ImageSettings
    pyramid: Pyramid | None
    card: Card
    model: Model | None
    path: Path | None


@dataclasses.dataclass(frozen=True, eq=False)
class ExportRequest:
    """Write one result.

    Parameters
    ----------
    thing : Thing
        The result.
    folder : pathlib.Path
        Where to.
    formats : tuple of str
        Names from `export.formats.FORMATS`.
    stop : threading.Event
        Set to end the work; the file at hand is then not written.
    """

    thing: Thing
    folder: Path
    formats: tuple[str, ...]
    stop: threading.Event = dataclasses.field(default_factory=threading.Event)


class Exporting(PerViewer):
    """What can be written in one viewer, what is being written, and what was."""

    changed = Signal()
    progress_changed = Signal(object)
    requested = Signal(object)
    written_changed = Signal()

    def __init__(self, viewer: ViewerModel) -> None:
        self.session = Session.of(viewer)
        #: Formats that are ticked, and the folder, for as long as the viewer is open.
        self.chosen: frozenset[str] = frozenset({"csv", "geojson", "html"})
        self.folder: Path | None = None
        #: What was written last, and where.
        self.written: tuple[Path, ...] = ()
        self._request: ExportRequest | None = None
        self._users = 0

    def attach(self) -> None:
        """Follow the session; call once per open dock."""
        self._users += 1
        if self._users == 1:
            for signal in self._followed():
                signal.connect(self._tell)

    def detach(self) -> None:
        """Stop following when the last dock closes, and stop the work."""
        self._users -= 1
        if self._users == 0:
            for signal in self._followed():
                signal.disconnect(self._tell)
            self.cancel()

    def _followed(self) -> tuple[Any, ...]:
        session = self.session
        return session.results_changed, session.answer_changed, session.model_changed

    def _tell(self, _: object = None) -> None:
        self.changed.emit()

    # -- what there is

    @property
    def running(self) -> bool:
        """Whether something is being written."""
        return self._request is not None

    def things(self) -> list[Thing]:
        """Return the results of the chosen image that can be written, the one shown first."""
        session, image = self.session, self.session.image
        if image is None:
            return []
        found = [self._whole(image), self._cells(image)]
        shown = [thing for thing in found if thing is not None]
        # Whoever has just classified all cells wants those.
        return (
            shown
            if session.spanning or isinstance(session.answer, FieldPrediction)
            else shown[::-1]
        )

    def formats(self, thing: Thing) -> list[Format]:
        """Return the formats that can hold a result, installed or not."""
        from ...export.formats import formats_for

        return formats_for(thing.result)

    def _cells(self, image: Image) -> Thing | None:
        session = self.session
        results, plane = session.results, session.result_plane
        if results is None or plane is None:
            return None
        card, model = self._card(results)
        if card is None:
            return None
        title = f"{len(results)} cells of {image.name}"
        settings = session.settings_of(image)
        return Thing(title, results, plane, settings, None, card, model, _path(image))

    def _whole(self, image: Image) -> Thing | None:
        session = self.session
        answer, slide, shown = session.answer, session.slide, session.shown
        if isinstance(answer, SlidePrediction) and isinstance(slide, SlideAnswer):
            request, model = slide.request, slide.request.model
            assert model is not None
            card = model.bundle.card
            title, path = f"Slide {image.name}", _path(image)
            place = (request.plane, request.settings)
            return Thing(title, answer, *place, slide.pyramid, card, model, path)
        if isinstance(answer, FieldPrediction) and isinstance(shown, FieldRequest):
            card = shown.model.bundle.card
            title = f"{'Field' if shown.pyramid is None else 'Slide'} {image.name}"
            place = (shown.plane, shown.settings)
            return Thing(title, answer, *place, shown.pyramid, card, shown.model, _path(image))
        return None

    def _card(self, results: Predictions) -> tuple[Card | None, Model | None]:
        """The card of the model that gave the results, which may be another by now."""
        model = self.session.model
        if model is not None and model.bundle.hash == results.model_hash:
            return model.bundle.card, model
        card = self.session.cards.get(results.model_name)
        same = card is not None and card.class_names == results.class_names
        return (card if same else None), None

    # -- what is asked

    def choose(self, name: str, on: bool) -> None:
        """Tick a format, or no longer."""
        self.chosen = self.chosen | {name} if on else self.chosen - {name}
        self.changed.emit()

    def set_folder(self, folder: Path | None) -> None:
        """Choose where to write."""
        self.folder = folder
        self.changed.emit()

    def default_folder(self, thing: Thing) -> Path:
        """Return where to write: what was chosen, beside the image, or the user's folder."""
        if self.folder is not None:
            return self.folder
        return Path.home() if thing.path is None else thing.path.parent

    def ticked(self, thing: Thing) -> tuple[str, ...]:
        """Return the formats that are ticked, can hold the result, and are installed."""
        fitting = self.formats(thing)
        return tuple(x.name for x in fitting if x.name in self.chosen and not x.missing)

    def export(self, number: int = 0) -> ExportRequest | None:
        """Ask for one of `things` to be written."""
        things = self.things()
        if self.running or not things:
            return None
        thing = things[min(max(number, 0), len(things) - 1)]
        formats = self.ticked(thing)
        if not formats:
            self.session.say("Tick at least one format to export.", "warning")
            return None
        self._request = ExportRequest(thing, self.default_folder(thing), formats)
        self.session.say(f"Writing {thing.title[0].lower()}{thing.title[1:]}…")
        self.progress_changed.emit(Progress(0, 0, what="files"))
        self.requested.emit(self._request)
        return self._request

    def accept_progress(self, request: ExportRequest, progress: Progress) -> None:
        """Take how far the work is."""
        if request is self._request:
            self.progress_changed.emit(progress)

    def accept(self, request: ExportRequest, files: Sequence[Path]) -> None:
        """Take what was written."""
        if not self._ended(request):
            return
        self.written = tuple(files)
        self.written_changed.emit()
        self.session.say(f"{len(files)} files written to {request.folder}.")

    def fail(self, request: ExportRequest, error: BaseException) -> None:
        """Say why nothing more was written."""
        if self._ended(request):
            self.session.say(f"Not everything was written: {explain(error)}", "error")

    def cancel(self) -> None:
        """Stop writing; files that are whole stay."""
        request = self._request
        if request is not None:
            request.stop.set()
            self._ended(request)
            self.session.say("Export cancelled. Files that were finished stay.", "warning")

    def _ended(self, request: ExportRequest) -> bool:
        if request is not self._request:
            return False
        self._request = None
        self.progress_changed.emit(None)
        return True


class _Work:
    """What one export does in its thread."""

    def __init__(self, request: ExportRequest) -> None:
        self.request = request
        self.progress = Progress(0, 0, what="files")

    def told(self, name: str, done: int, total: int) -> None:
        """Take how far a format is; raises when the work is to stop."""
        self.progress = Progress(done, total, what=name)
        if self.request.stop.is_set():
            raise StoppedError

    def run(self) -> list[Path]:
        """Write the files."""
        from ...export.formats import write_results

        thing, request = self.request.thing, self.request
        image: Field | Pyramid
        if thing.pyramid is not None:
            image, result = thing.pyramid, thing.result
        else:
            image = dataclasses.replace(field_of(thing.plane, thing.settings), path=thing.path)
            result = self._with_evidence(image)
        place = "".join(f"-{i}" for i in thing.plane.index)
        stem = _free_stem(request.folder, f"{thing.plane.name}{place}")
        return write_results(
            result,
            image,
            request.folder,
            stem,
            request.formats,
            thing.card,
            progress=self.told,
        )

    def _with_evidence(self, field: Field) -> Predictions | FieldPrediction | SlidePrediction:
        """Look at the cells again where a format shows what decided; the run did not keep it."""
        from ...export.formats import FORMATS
        from ...inference.cells import iter_cells, join

        thing, result = self.request.thing, self.request.thing.result
        if (
            not isinstance(result, Predictions)
            or result.evidence
            or thing.model is None
            or not 0 < len(result) <= _MOST_EVIDENCE
            or not any(FORMATS[name].evidence for name in self.request.formats)
        ):
            return result
        model, parts, done = thing.model, [], 0
        for part in iter_cells(field, result.cells, model.bundle, model.device, evidence=True):
            parts.append(part)
            done += len(part)
            self.told(_LOOKING, done, len(result))
        return dataclasses.replace(result, evidence=join(parts).evidence)


def stream_export(request: ExportRequest) -> Iterator[Progress | list[Path]]:
    """Write one result in another thread, and tell how far it is.

    Yields
    ------
    Progress, then list of pathlib.Path
        Some times a second; the files at the end, or nothing more when it was
        stopped.

    Raises
    ------
    ValueError, OSError, MemoryError
        As `export.formats.write_results`.
    """
    work = _Work(request)
    with ThreadPoolExecutor(1) as pool:
        future = pool.submit(work.run)
        try:
            while not wait([future], _TICK_SECONDS).done:
                yield work.progress
            yield future.result()
        except StoppedError:
            return
        finally:
            request.stop.set()


def _free_stem(folder: Path, name: str) -> str:
    """Return a safe name that no export in the folder begins with yet."""
    from ...export.formats import FORMATS

    safe = "".join(c if c.isalnum() or c in "-_." else "-" for c in name).strip("-.")[:80]
    stem = first = safe or "image"
    number = 1
    while any(each.path(folder, stem).exists() for each in FORMATS.values()):
        number += 1
        stem = f"{first}-{number}"
    return stem


def _path(layer: Image) -> Path | None:
    path = layer.source.path
    return None if path is None else Path(str(path))
