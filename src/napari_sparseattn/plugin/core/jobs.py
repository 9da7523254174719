"""Background work: one click at a time, one run, one field, one model; stale answers dropped."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ..cells.requests import (
    CellsFound,
    ClickRequest,
    Model,
    RunRequest,
    answer_click,
    prepare_model,
    stream_run,
)
from ..traversal.closeups import CloseUps
from ..traversal.requests import FieldAnswer, FieldRequest, stream_field
from .file_facts import FileFacts
from .workers import Workers

if TYPE_CHECKING:
    from ...bundle import Bundle
    from .session import Session

__all__ = ["Jobs"]


class Jobs:
    """Does what a session asks for in other threads, and hands it the answers.

    Parameters
    ----------
    session : Session
        Its requests are taken from its signals; its methods are only called
        on the main thread.
    """

    def __init__(self, session: Session) -> None:
        self._session = session
        self._click: ClickRequest | None = None
        self._next_click: ClickRequest | None = None
        self._run: Any = None
        self._field: FieldRequest | None = None
        self._next_field: FieldRequest | None = None
        self._loading: object = None
        self._workers = Workers(partial(session.fail, None))
        self._files = FileFacts(session)
        self._close_ups = CloseUps(session, self._workers)
        session.click_requested.connect(self.click)
        session.run_requested.connect(self.run)
        session.run_cancelled.connect(self.cancel_run)
        session.field_requested.connect(self.field)
        session.field_cancelled.connect(self.cancel_field)
        session.image_changed.connect(self._files.ask)

    def close(self) -> None:
        """Take no more requests, stop what can be stopped, drop all answers."""
        if self._workers.closed:
            return
        self._workers.close()
        session = self._session
        session.click_requested.disconnect(self.click)
        session.run_requested.disconnect(self.run)
        session.run_cancelled.disconnect(self.cancel_run)
        session.field_requested.disconnect(self.field)
        session.field_cancelled.disconnect(self.cancel_field)
        session.image_changed.disconnect(self._files.ask)
        self._files.close()
        self._close_ups.close()
        self.cancel_run()
        self.cancel_field()
        self._next_click = None

    def click(self, request: ClickRequest) -> None:
        """Classify one cell; of clicks that come meanwhile only the last is answered."""
        if self._click is not None:
            self._next_click = request
            return
        self._click = request
        self._workers.start(
            partial(answer_click, request),
            returned=self._session.accept_click,
            errored=partial(self._session.fail, request),
            finished=self._click_finished,
        )

    def run(self, request: RunRequest) -> None:
        """Classify all cells, part by part."""

        def work() -> Iterator[CellsFound | Any]:
            yield from stream_run(request)

        def part(given: CellsFound | Any) -> None:
            if isinstance(given, CellsFound):
                self._session.accept_cells(request, given.cells)
            else:
                self._session.accept_part(request, given)

        def end(_: object) -> None:
            self._session.finish_run(request)

        self._run = self._workers.start(
            work, yielded=part, returned=end, errored=partial(self._session.fail, request)
        )

    def cancel_run(self) -> None:
        """Ask the run to stop; it does after the batch it is at."""
        if self._run is not None:
            self._run.quit()
            self._run = None

    def field(self, request: FieldRequest) -> None:
        """Classify a field; of requests that come meanwhile only the last is answered."""
        if self._field is not None:
            self._field.stop.set()
            self._next_field = request
            return
        self._field = request

        def work() -> Iterator[int | FieldAnswer]:
            yield from stream_field(request)

        def part(given: int | FieldAnswer) -> None:
            if isinstance(given, FieldAnswer):
                self._session.accept_field(given)
            else:
                self._session.accept_field_progress(request, given)

        self._workers.start(
            work,
            yielded=part,
            errored=partial(self._session.fail, request),
            finished=self._field_finished,
        )

    def cancel_field(self) -> None:
        """Ask the field's work to stop; it does at its next crop."""
        self._next_field = None
        if self._field is not None:
            self._field.stop.set()

    def _field_finished(self) -> None:
        self._field = None
        request, self._next_field = self._next_field, None
        if request is not None and not request.stop.is_set():
            self.field(request)

    def load_model(
        self, name_or_path: str, device: str, done: Callable[[Model | None], None]
    ) -> None:
        """Load a model and warm it up; a later call makes this one's answer stale.

        Parameters
        ----------
        name_or_path, device : str
            As in `load_bundle` and `choose_device`.
        done : callable
            Called with the model, or None if it failed.
        """
        token = self._loading = object()

        def loaded(model: Model) -> None:
            if token is self._loading:
                self._session.set_model(model)
                done(model)

        def failed(error: BaseException) -> None:
            if token is self._loading:
                self._session.fail(None, error)
                done(None)

        self._workers.start(
            partial(prepare_model, name_or_path, device), returned=loaded, errored=failed
        )

    def export_model(self, bundle: Bundle, path: str, to: str) -> None:
        """Write a model for other programs, in another thread; say when it is done.

        Parameters
        ----------
        bundle : Bundle
            The model.
        path, to : str
            As in `export.model_formats.export_model`.
        """
        session, name = self._session, Path(path).name
        session.say(f"Exporting '{bundle.card.name}'; it is tried before it is kept…")

        def work() -> None:
            from ...export.model_formats import export_model

            export_model(bundle, path, to)

        self._workers.start(work, returned=lambda _: session.say(f"Exported {name}."))

    def _click_finished(self) -> None:
        self._click = None
        request, self._next_click = self._next_click, None
        if request is not None and request.generation == self._session.generation:
            self.click(request)
