"""Export from one viewer: which results, as which formats; and of the model in use."""

from __future__ import annotations

import dataclasses
import threading
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor, wait
from pathlib import Path
from typing import TYPE_CHECKING, Any

from psygnal import Signal

from ...inference.fields import FieldPrediction
from ...inference.prediction import Predictions
from ...inference.slides import SlidePrediction
from ..core.activity import Activity
from ..core.lanes import Lanes
from ..core.messages import counted
from ..core.per_viewer import PerViewer
from ..core.sources import ImageSettings, PlaneRef, field_of, file_of
from ..core.status import Progress, StoppedError, explain
from ..session import Session
from ..slides.requests import SlideAnswer
from ..traversal.requests import FieldRequest

if TYPE_CHECKING:
    from napari.components import ViewerModel
    from napari.layers import Image

    from ...bundle import Bundle
    from ...card import Card
    from ...export.formats import Format
    from ...images.fields.field import Field
    from ...images.slides.pyramid import Pyramid
    from ..core.models import Model

__all__ = ["ExportRequest", "ExportSession", "Exportable", "ModelExport", "stream_export"]

_TICK_SECONDS = 0.1
#: Evidence takes about 25 KB per cell.
_MOST_EVIDENCE = 10_000
_ONE_MODEL = threading.Lock()
_READING = "reading evidence"


@dataclasses.dataclass(frozen=True, eq=False)
class Exportable:
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

    @property
    def name(self) -> str:
        """What the image is called."""
        return self.plane.name


@dataclasses.dataclass(frozen=True, eq=False)
class ExportRequest:
    """Write one result.

    Parameters
    ----------
    exportable : Exportable
        The result.
    folder : pathlib.Path
        Where to.
    formats : tuple of str
        Names from `export.formats.FORMATS`.
    stop : threading.Event
        Set to end the work; the file at hand is then not written.
    """

    exportable: Exportable
    folder: Path
    formats: tuple[str, ...]
    stop: threading.Event = dataclasses.field(default_factory=threading.Event)


class ExportSession(PerViewer):
    """The results of one viewer that can be written, the export under way, and the last files."""

    changed = Signal()
    progress_changed = Signal(object)
    written_changed = Signal()

    def __init__(self, viewer: ViewerModel) -> None:
        self.session = Session.of(viewer)
        #: Formats that are ticked, and the folder, for as long as the viewer is open.
        self.chosen: frozenset[str] = frozenset({"csv", "geojson", "html"})
        self.folder: Path | None = None
        #: What was written last, and where.
        self.written: tuple[Path, ...] = ()
        self._request: ExportRequest | None = None
        self._lane = Lanes.of(viewer).add(
            stream_export, given=self._take, failed=self._fail, busy="also"
        )
        Activity.of(viewer).follow("Export", (self.progress_changed,), self.cancel)

    def _following(self) -> list[tuple[Any, Any]]:
        session = self.session
        changing = (
            session.cells.results_changed,
            session.answer_changed,
            session.selection.model_changed,
        )
        return [
            (session.selection.image_changed, self._forget_written),
            *((signal, self._notify_change) for signal in changing),
        ]

    def _last_closed(self) -> None:
        self.cancel()
        self._lane.close()

    def _forget_written(self, _: object = None) -> None:
        self.written = ()
        self.written_changed.emit()

    def _notify_change(self, _: object = None) -> None:
        self.changed.emit()

    # -- state

    @property
    def running(self) -> bool:
        """Whether something is being written."""
        return self._request is not None

    def exportables(self) -> list[Exportable]:
        """Return the results of the chosen image that can be written, the one shown first."""
        session, image = self.session, self.session.selection.image
        if image is None:
            return []
        found = [self._whole(image), self._cells(image)]
        shown = [each for each in found if each is not None]
        # Whoever has just classified all cells wants those.
        return (
            shown
            if session.slides.active or isinstance(session.answer, FieldPrediction)
            else shown[::-1]
        )

    def formats(self, exportable: Exportable) -> list[Format]:
        """Return the formats that can hold a result of its image, installed or not."""
        from ...export.formats import formats_for

        return formats_for(exportable.result, exportable)

    def _cells(self, image: Image) -> Exportable | None:
        session = self.session
        results, plane = session.cells.results, session.cells.result_plane
        if results is None or plane is None:
            return None
        card, model = self._card(results)
        if card is None:
            return None
        title = f"{counted(len(results), 'cell')} of {image.name}"
        settings = session.selection.settings_of(image)
        return Exportable(title, results, plane, settings, None, card, model, _path(image))

    def _whole(self, image: Image) -> Exportable | None:
        session = self.session
        answer, slide, shown = session.answer, session.slides.slide, session.shown
        if isinstance(answer, SlidePrediction) and isinstance(slide, SlideAnswer):
            request, model = slide.request, slide.request.model
            assert model is not None
            card = model.bundle.card
            title, path = f"Slide {image.name}", _path(image)
            place = (request.plane, request.settings)
            return Exportable(title, answer, *place, slide.pyramid, card, model, path)
        if isinstance(answer, FieldPrediction) and isinstance(shown, FieldRequest):
            card = shown.model.bundle.card
            title = f"{'Field' if shown.pyramid is None else 'Slide'} {image.name}"
            place = (shown.plane, shown.settings)
            return Exportable(title, answer, *place, shown.pyramid, card, shown.model, _path(image))
        return None

    def _card(self, results: Predictions) -> tuple[Card | None, Model | None]:
        """The card of the model that gave the results, which may be another by now."""
        model = self.session.selection.model
        if model is not None and model.bundle.hash == results.model_hash:
            return model.bundle.card, model
        card = self.session.models.cards.get(results.model_name)
        same = card is not None and card.shown_names == results.class_names
        return (card if same else None), None

    # -- asking

    def choose(self, name: str, on: bool) -> None:
        """Tick a format, or no longer."""
        self.chosen = self.chosen | {name} if on else self.chosen - {name}
        self.changed.emit()

    def set_folder(self, folder: Path | None) -> None:
        """Choose where to write."""
        self.folder = folder
        self.changed.emit()

    def default_folder(self, exportable: Exportable) -> Path:
        """Return where to write: what was chosen, beside the image, or the user's folder."""
        if self.folder is not None:
            return self.folder
        path = exportable.path
        return Path.home() if path is None else path.parent

    def ticked(self, exportable: Exportable) -> tuple[str, ...]:
        """Return the formats that are ticked, can hold the result, and are installed."""
        fitting = self.formats(exportable)
        return tuple(x.name for x in fitting if x.name in self.chosen and not x.missing)

    def export(self, number: int = 0) -> ExportRequest | None:
        """Ask for one of `exportables` to be written."""
        exportables = self.exportables()
        if self.running or not exportables:
            return None
        chosen = exportables[min(max(number, 0), len(exportables) - 1)]
        formats = self.ticked(chosen)
        if not formats:
            self.session.status.notify("Tick at least one format to export.", "warning")
            return None
        self._request = request = ExportRequest(chosen, self.default_folder(chosen), formats)
        self.session.status.notify(f"Writing {chosen.title[0].lower()}{chosen.title[1:]}…")
        self.progress_changed.emit(Progress(0, 0, what="files"))
        self._lane.ask(request)
        return request

    def _take(self, request: ExportRequest, part: Progress | list[Path]) -> None:
        if request is not self._request:
            return
        if isinstance(part, Progress):
            self.progress_changed.emit(part)
            return
        self._end(request)
        self.written = tuple(part)
        self.written_changed.emit()
        self.session.status.notify(f"{counted(len(part), 'file')} written to {request.folder}.")

    def _fail(self, request: ExportRequest, error: BaseException) -> None:
        if self._end(request):
            self.session.status.notify(f"Not everything was written: {explain(error)}", "error")

    def cancel(self) -> None:
        """Stop writing; files that are whole stay."""
        request = self._request
        if request is not None:
            request.stop.set()
            self._end(request)
            self.session.status.notify(
                "Export cancelled. Files that were finished stay.", "warning"
            )

    def _end(self, request: ExportRequest) -> bool:
        if request is not self._request:
            return False
        self._request = None
        self.progress_changed.emit(None)
        return True


class ModelExport(PerViewer):
    """Export of the model in use for other programs, one at a time; get it with `of`."""

    changed = Signal()

    def __init__(self, viewer: ViewerModel) -> None:
        self.session = Session.of(viewer)
        self.running = False
        self._lane = Lanes.of(viewer).add(
            _write_model, given=self._take, failed=self._fail, busy="queue"
        )
        Activity.of(viewer).follow(
            "Exporting the model",
            (self.changed,),
            None,
            lambda: Progress(what="") if self.running else None,
        )

    def export(self, bundle: Bundle, path: Path, to: str) -> None:
        """Ask for a model to be written in one of `export.model_formats.MODEL_FORMATS`."""
        if self.running:
            self.session.status.notify(
                "A model is being exported; wait until it is written.", "warning"
            )
            return
        self.session.status.notify(
            f"Exporting '{bundle.card.name}'; it is tried before it is kept…"
        )
        self._set_running(True)
        self._lane.ask((bundle, path, to))

    def _take(self, _: object, path: Path) -> None:
        self._set_running(False)
        self.session.status.notify(f"Exported {path.name}.")

    def _fail(self, request: tuple[Bundle, Path, str], error: BaseException) -> None:
        self._set_running(False)
        self.session.status.notify(f"{request[1].name} was not written: {explain(error)}", "error")

    def _set_running(self, on: bool) -> None:
        self.running = on
        self.changed.emit()


def _write_model(request: tuple[Bundle, Path, str]) -> Path:
    from ...export.model_formats import export_model

    # torch traces one model at a time; another window may be at it.
    with _ONE_MODEL:
        return export_model(*request)


class _Work:
    """The work of one export in its thread."""

    def __init__(self, request: ExportRequest) -> None:
        self.request = request
        self.progress = Progress(0, 0, what="files")
        self._began: dict[str, float] = {}

    def report(self, name: str, done: int, total: int) -> None:
        """Take how far a format is; raises when the work is to stop."""
        now = time.monotonic()
        spent = now - self._began.setdefault(name, now)
        left = spent / done * (total - done) if done and total > done and spent else None
        self.progress = Progress(done, total, left, name)
        if self.request.stop.is_set():
            raise StoppedError

    def run(self) -> list[Path]:
        """Write the files."""
        from ...export.formats import write_results

        chosen, request = self.request.exportable, self.request
        image: Field | Pyramid
        if chosen.pyramid is not None:
            image, result = chosen.pyramid, chosen.result
        else:
            image = dataclasses.replace(field_of(chosen.plane, chosen.settings), path=chosen.path)
            result = self._with_evidence(image)
        place = "".join(f"-{i}" for i in chosen.plane.index)
        stem = _free_stem(request.folder, f"{chosen.plane.name}{place}")
        return write_results(
            result,
            image,
            request.folder,
            stem,
            request.formats,
            chosen.card,
            progress=self.report,
        )

    def _with_evidence(self, field: Field) -> Predictions | FieldPrediction | SlidePrediction:
        """Look at the cells again where a format shows what decided; the run did not keep it."""
        from ...export.formats import FORMATS
        from ...inference.cells import iter_cells, join

        chosen = self.request.exportable
        result, model = chosen.result, chosen.model
        if (
            not isinstance(result, Predictions)
            or result.evidence
            or model is None
            or not 0 < len(result) <= _MOST_EVIDENCE
            or not any(FORMATS[name].evidence for name in self.request.formats)
        ):
            return result
        parts, done = [], 0
        for part in iter_cells(field, result.cells, model.bundle, model.device, evidence=True):
            parts.append(part)
            done += len(part)
            self.report(_READING, done, len(result))
        return dataclasses.replace(result, evidence=join(parts).evidence)


def stream_export(request: ExportRequest) -> Iterator[Progress | list[Path]]:
    """Write one result in another thread, and report how far it is.

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
    path = file_of(layer)
    return None if path is None else Path(path)
