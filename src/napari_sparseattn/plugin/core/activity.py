"""Long work of one viewer in napari's own list of activities, with text, time left and Cancel."""

from __future__ import annotations

import functools
import io
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any

from .lanes import Lanes
from .messages import time_left
from .per_viewer import PerViewer
from .status import Progress
from .view import has_window

if TYPE_CHECKING:
    from napari.components import ViewerModel

__all__ = ["Activity"]

#: Work that is over sooner is no activity: its bar would only flash.
_AFTER_MS = 1000


class Activity(PerViewer):
    """Mirrors bars of our docks in napari's list of activities; get it with `of`.

    Only the main thread comes here: progress is told there.
    """

    def __init__(self, viewer: ViewerModel) -> None:
        super().__init__(viewer)
        self._jobs: list[_Job] = []

    def follow(
        self,
        title: str,
        signals: Sequence[Any],
        cancel: Callable[[], object] | None,
        read: Callable[[], Progress | None] | None = None,
    ) -> None:
        """Show the progress of a kind of work from now on.

        Parameters
        ----------
        title : str
            In words.
        signals : sequence of SignalInstance
            Emitted when the progress changes.
        cancel : callable or None
            Ends the work; None where it cannot be ended.
        read : callable, optional
            Returns how far it is, None where nothing goes on; by default that
            is what the signals carry.
        """
        job = _Job(self, title, cancel, read)
        for signal in signals:
            signal.connect(job.hear)
        self._jobs.append(job)

    @property
    def shown(self) -> list[str]:
        """What is listed of this viewer now, in words."""
        return [job.text for job in self._jobs if job.bar is not None]


class _Job:
    """One kind of work; of which one piece goes on at a time."""

    def __init__(
        self,
        activity: Activity,
        title: str,
        cancel: Callable[[], object] | None,
        read: Callable[[], Progress | None] | None,
    ) -> None:
        self._activity, self._title, self._cancel, self._read = activity, title, cancel, read
        self._progress: Progress | None = None
        #: Grows with each piece of work that ends: its bar may still be waited for.
        self._era = 0
        self._waiting = False
        #: Whether the bar is about to be drawn, or is being drawn.
        self._drawing = False
        self.bar: Any = None

    @property
    def text(self) -> str:
        """Say how far it is."""
        progress = self._progress
        if progress is None:
            return self._title
        said = self._title
        if progress.total:
            said += f": {progress.done} of {progress.total} {progress.what}"
        if progress.seconds_left is not None:
            said += f", {time_left(progress.seconds_left)}"
        return said

    def hear(self, progress: object = None) -> None:
        """Take how far the work is."""
        found = progress if self._read is None else self._read()
        self._progress = found if isinstance(found, Progress) else None
        if self._progress is None:
            self._era += 1
            self._waiting = False
            self._close()
        elif (viewer := self._activity.viewer) is None:
            return
        elif self.bar is not None:
            self._draw_soon(viewer)
        elif not self._waiting:
            self._waiting = True
            later = functools.partial(self._open, self._era)
            Lanes.of(viewer).runner.later(_AFTER_MS, later)

    def _draw_soon(self, viewer: ViewerModel) -> None:
        """Draw the bar once those have heard of the progress that are still to hear of it.

        napari lets Qt work whenever a bar moves. Were it moved here, newer progress would
        arrive before the others heard of this one: they would show the older at last, or a
        bar of work that is over.
        """
        if not self._drawing:
            self._drawing = True
            Lanes.of(viewer).runner.later(0, self._draw)

    def _draw(self) -> None:
        drawn = None
        try:
            while self.bar is not None and self._progress is not drawn:
                drawn = self._progress
                self._update()
        finally:
            self._drawing = False

    def _open(self, era: int) -> None:
        viewer = self._activity.viewer
        if era != self._era or self._progress is None or self.bar is not None:
            return
        self._waiting = False
        if viewer is None or not _listed(viewer):
            return
        self.bar = _bar(self._title, self._progress.total, self._cancel)
        # napari lets Qt work while it adds the bar: the work may be over by now.
        if era != self._era or self._progress is None:
            self._close()
        else:
            self._update()

    def _update(self) -> None:
        bar, progress = self.bar, self._progress
        if progress is None:
            return
        if progress.total != bar.total:
            bar.total = progress.total
        bar.set_description(self.text)
        if self.bar is bar and progress.done != bar.n:
            bar.update(progress.done - bar.n)

    def _close(self) -> None:
        bar, self.bar = self.bar, None
        if bar is not None:
            bar.close()


def _listed(viewer: ViewerModel) -> bool:
    """Whether a viewer has a window, whose list of activities shows bars."""
    return getattr(viewer, "window", None) is not None and has_window(viewer)


def _bar(title: str, total: int, cancel: Callable[[], object] | None) -> Any:
    """Return a bar of napari's; nothing is printed where there is no list of activities."""
    from napari.utils import progress

    said = {"desc": title, "total": total, "file": io.StringIO(), "leave": False}
    if cancel is None:
        return progress(**said)
    return _cancelable()(cancel, **said)


@functools.cache
def _cancelable() -> Any:
    from napari.utils import cancelable_progress

    class Ended(cancelable_progress):
        """Ends the work at once: napari's asks an iterator, of which there is none here."""

        def __init__(self, end: Callable[[], object], **said: Any) -> None:
            self._end = end
            super().__init__(**said)

        def cancel(self) -> None:
            super().cancel()
            self._end()

    return Ended
