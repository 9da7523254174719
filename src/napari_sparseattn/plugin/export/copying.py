"""What of the chosen image can be copied as what gives it again, and the work of doing so."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

from psygnal import Signal

from ...inference.fields import FieldPrediction
from ...inference.prediction import Prediction
from ...inference.slides import SlidePrediction
from ..cells.requests import ClickRequest, RunRequest
from ..core.field_layers import images_in_file
from ..core.lanes import Lanes
from ..core.messages import counted
from ..core.per_viewer import PerViewer
from ..core.sources import PlaneRef, file_of
from ..core.status import explain
from ..holograms.layers import made_of
from ..session import Session
from ..slides.requests import SlideAnswer
from ..traversal.requests import FieldRequest
from .recipes import Copied, Copyable, CopyRequest, What, answer_copy
from .session import ExportSession

if TYPE_CHECKING:
    from napari.components import ViewerModel
    from napari.layers import Image

__all__ = ["Copying"]

_SAID: dict[What, str] = {
    "python": "The Python lines were copied",
    "command": "The command was copied",
    "methods": "The methods paragraph was copied",
}


class Copying(PerViewer):
    """Makes scripts, commands and paragraphs of what one viewer shows; get it with `of`."""

    changed = Signal()
    #: The text that was asked for, for the clipboard.
    copied = Signal(str)

    def __init__(self, viewer: ViewerModel) -> None:
        self.session = Session.of(viewer)
        self._exporting = ExportSession.of(viewer)
        self._lane = Lanes.of(viewer).add(
            answer_copy, given=self._take, failed=self._fail, busy="last"
        )

    def _following(self) -> list[tuple[Any, Any]]:
        session = self.session
        changing = (
            session.cells.results_changed,
            session.answer_changed,
            session.selection.image_changed,
        )
        return [(signal, self._notify) for signal in changing]

    def _last_closed(self) -> None:
        self._lane.close()

    def _notify(self, _: object = None) -> None:
        self.changed.emit()

    def things(self) -> list[Copyable]:
        """Return the results of the chosen image, what is shown first."""
        image = self.session.selection.image
        if image is None:
            return []
        found = (self._answer(image), self._cells(image), self._reconstruction(image))
        return [each for each in found if each is not None]

    def copy(self, what: What, number: int = 0) -> CopyRequest | None:
        """Ask for one of `things` as text; `copied` gives it."""
        things, status = self.things(), self.session.status
        if not 0 <= number < len(things):
            status.notify("There is no result to copy yet. Classify something first.", "warning")
            return None
        thing = things[number]
        folder = self._exporting.folder
        if folder is None:
            folder = Path.home() if thing.path is None else thing.path.parent
        request = CopyRequest(what, thing, folder)
        self._lane.ask(request)
        return request

    def _take(self, request: CopyRequest, made: Copied) -> None:
        self.copied.emit(made.text)
        said = [f"{_SAID[request.what]}."]
        if made.written:
            names = ", ".join(map(str, made.written))
            said.append(f"It reads the cells from {names}, which was written just now.")
        said += [f"Before you run it: {each.rstrip('.')}." for each in made.before]
        self.session.status.notify(" ".join(said), "warning" if made.before else "info")

    def _fail(self, _: CopyRequest, error: BaseException) -> None:
        self.session.status.notify(f"Nothing was copied: {explain(error)}", "error")

    # -- what there is

    def _answer(self, image: Image) -> Copyable | None:
        """Return what is shown: a cell that was clicked, a field, or a slide."""
        session, answer, asked = self.session, self.session.answer, self.session.answered
        if isinstance(asked, SlideAnswer) and isinstance(answer, SlidePrediction):
            slides = session.slides
            request = asked.request
            return self._make(
                image, f"Slide {image.name}", request, answer,
                foci=(slides.threshold, slides.least),
            )  # fmt: skip
        if isinstance(asked, FieldRequest) and isinstance(answer, FieldPrediction):
            what = "Field" if asked.pyramid is None else "Slide"
            return self._make(image, f"{what} {image.name}", asked, answer)
        if isinstance(asked, ClickRequest) and isinstance(answer, Prediction):
            cells = None
            if asked.given != "here":
                cells = session.selection.cells_at(image, asked.cells_key)
            return self._make(image, f"Clicked cell of {image.name}", asked, answer, cells=cells)
        return None

    def _cells(self, image: Image) -> Copyable | None:
        results = self.session.selection.record_of(image).results
        if results is None or not isinstance(results.request, RunRequest):
            return None
        found = results.predictions
        title = f"{counted(len(found), 'cell')} of {image.name}"
        return self._make(image, title, results.request, found, cells=found.cells)

    def _reconstruction(self, image: Image) -> Copyable | None:
        made, viewer = made_of(image), self.session.viewer
        if made is None or viewer is None:
            return None
        data = image.data[0] if image.multiscale else image.data
        plane = PlaneRef(data, (0,) * (image.ndim - 2), bool(image.rgb), image.name)
        settings = self.session.selection.settings_of(image)
        title = f"Reconstruction {image.name}"
        return Copyable(title, None, None, None, plane, settings, None, made=made)

    def _make(self, image: Image, title: str, asked: Any, result: Any, **more: Any) -> Copyable:
        path, made = file_of(image), made_of(image)
        sizes, number = images_in_file(image)
        return Copyable(
            title,
            asked,
            result,
            more.pop("cells", None),
            asked.plane,
            asked.settings,
            None if path is None or made is not None else Path(path),
            number if sizes else None,
            made,
            **more,
        )
