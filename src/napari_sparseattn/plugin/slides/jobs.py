"""Background work on slides: one at a time; of one kind of question only the last is answered."""

from __future__ import annotations

from collections.abc import Iterator
from functools import partial
from typing import TYPE_CHECKING, Any

from ..core.workers import Workers
from .requests import (
    LocalRequest,
    PatchPicture,
    PicturesRequest,
    SlideAnswer,
    SlideRequest,
    answer_local,
    stream_pictures,
    stream_slide,
)

if TYPE_CHECKING:
    from ..core.session import Session

__all__ = ["SlideJobs"]


class SlideJobs:
    """Does what a session asks about slides in other threads, and hands it the answers.

    Parameters
    ----------
    session : Session
        Its requests are taken from its signals; its methods are only called
        on the main thread.
    """

    def __init__(self, session: Session) -> None:
        self._session = session
        self._slide: SlideRequest | None = None
        self._next_slide: SlideRequest | None = None
        self._local: LocalRequest | None = None
        self._next_local: LocalRequest | None = None
        self._pictures: PicturesRequest | None = None
        self._workers = Workers(partial(session.fail, None))
        session.slide_requested.connect(self.slide)
        session.local_requested.connect(self.local)
        session.pictures_requested.connect(self.pictures)

    def close(self) -> None:
        """Take no more requests, stop what can be stopped, drop all answers."""
        if self._workers.closed:
            return
        self._workers.close()
        self._session.slide_requested.disconnect(self.slide)
        self._session.local_requested.disconnect(self.local)
        self._session.pictures_requested.disconnect(self.pictures)
        for request in (self._slide, self._pictures):
            if request is not None:
                request.stop.set()
        self._next_slide = self._next_local = None

    def slide(self, request: SlideRequest) -> None:
        """Classify a slide; it begins when what went on before has stopped.

        Two at once would write to one file of features.
        """
        if self._slide is not None:
            self._slide.stop.set()
            self._next_slide = request
            return
        self._slide = request

        def work() -> Iterator[Any]:
            yield from stream_slide(request)

        def part(given: Any) -> None:
            if isinstance(given, SlideAnswer):
                self._session.accept_slide(given)
            else:
                self._session.accept_stages(request, given)

        self._workers.start(
            work,
            yielded=part,
            errored=partial(self._session.fail, request),
            finished=self._slide_finished,
        )

    def local(self, request: LocalRequest) -> None:
        """Say where a patch's attention went; of several only the last is answered."""
        if self._local is not None:
            self._next_local = request
            return
        self._local = request
        self._workers.start(
            partial(answer_local, request),
            returned=self._session.accept_local,
            errored=partial(self._session.fail, request),
            finished=self._local_finished,
        )

    def pictures(self, request: PicturesRequest) -> None:
        """Read pictures of patches, which arrive one by one."""
        self._pictures = request

        def work() -> Iterator[PatchPicture]:
            yield from stream_pictures(request)

        self._workers.start(work, yielded=partial(self._session.accept_picture, request))

    def _slide_finished(self) -> None:
        self._slide = None
        request, self._next_slide = self._next_slide, None
        if request is not None and not request.stop.is_set():
            self.slide(request)

    def _local_finished(self) -> None:
        self._local = None
        request, self._next_local = self._next_local, None
        if request is not None:
            self.local(request)
