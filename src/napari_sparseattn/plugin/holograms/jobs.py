"""Background work of the hologram panel: debounced previews, one longer work at a time."""

from __future__ import annotations

from collections.abc import Iterator
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

from qtpy.QtCore import QTimer

from ..core.file_facts import FileFacts
from ..core.workers import Workers
from .requests import (
    FocusRequest,
    FolderAnswer,
    FolderRequest,
    PreviewRequest,
    ReconstructAnswer,
    ReconstructRequest,
    answer_preview,
    find_focus,
    open_recording,
    stream_folder,
    stream_reconstruction,
)

if TYPE_CHECKING:
    from .session import Holograms, Work

__all__ = ["HologramJobs"]

_DEBOUNCE_MS = 150


class HologramJobs:
    """Does what a hologram panel asks for in other threads, and hands it the answers.

    Parameters
    ----------
    holograms : Holograms
        Its methods are only called on the main thread.
    """

    def __init__(self, holograms: Holograms) -> None:
        self._holograms = holograms
        self._workers = Workers(partial(holograms.fail, None))
        self._preview: PreviewRequest | None = None
        self._again = False
        self._awake = True
        self._work: Any = None
        self._timer = QTimer()
        self._timer.setSingleShot(True)
        self._timer.setInterval(_DEBOUNCE_MS)
        self._timer.timeout.connect(self._start_preview)
        self._files = FileFacts(holograms.main, self._workers, holograms.facts_told)
        holograms.preview_wanted.connect(self.want_preview)
        holograms.facts_changed.connect(self._ask_file)
        holograms.work_requested.connect(self.work)
        holograms.work_cancelled.connect(self.cancel)

    def close(self) -> None:
        """Take no more requests, stop what can be stopped, drop all answers."""
        if self._workers.closed:
            return
        self._workers.close()
        holograms = self._holograms
        holograms.preview_wanted.disconnect(self.want_preview)
        holograms.facts_changed.disconnect(self._ask_file)
        holograms.work_requested.disconnect(self.work)
        holograms.work_cancelled.disconnect(self.cancel)
        self.cancel()

    def set_awake(self, awake: bool) -> None:
        """Make previews only while somebody can see them."""
        self._awake = awake
        if awake and self._again and self._preview is None:
            self._again = False
            self._start_preview()

    def want_preview(self) -> None:
        """Make a preview when nothing has changed for a moment."""
        self._timer.start()

    def work(self, request: Work) -> None:
        """Start what takes longer than a preview."""
        holograms = self._holograms
        failed = partial(holograms.fail, request)
        if isinstance(request, FocusRequest):
            self._work = self._workers.start(
                partial(find_focus, request),
                returned=partial(holograms.finish_focus, request),
                errored=failed,
            )
            return

        def stream() -> Iterator[Any]:
            if isinstance(request, ReconstructRequest):
                yield from stream_reconstruction(request)
            else:
                yield from stream_folder(request)

        def told(given: Any) -> None:
            if isinstance(given, ReconstructAnswer):
                assert isinstance(request, ReconstructRequest)
                holograms.finish_reconstruct(request, given)
            elif isinstance(given, FolderAnswer):
                assert isinstance(request, FolderRequest)
                holograms.finish_folder(request, given)
            else:
                holograms.take_progress(request, given)

        self._work = self._workers.start(stream, yielded=told, errored=failed)

    def cancel(self) -> None:
        """Ask the work to stop; it does after the frame or file it is at."""
        if self._work is not None and hasattr(self._work, "quit"):
            self._work.quit()
        self._work = None

    def open_file(self, path: str, *, background: bool = False) -> None:
        """Open a recording; it becomes a layer, or the source's background."""
        holograms = self._holograms
        kind = holograms.kind

        self._workers.start(
            partial(open_recording, Path(path), kind if background else None),
            returned=holograms.take_background if background else holograms.add_recording,
        )

    def _ask_file(self) -> None:
        self._files.ask(self._holograms.layer)

    def _start_preview(self) -> None:
        if self._workers.closed:
            # The timer is not stopped by `close`: when the application ends it
            # may be gone before the dock.
            return
        if self._preview is not None or not self._awake:
            # Only the last of what is asked for meanwhile is made.
            self._again = True
            return
        request = self._holograms.preview_request()
        if request is None:
            return
        self._preview = request
        self._workers.start(
            partial(answer_preview, request),
            returned=self._holograms.accept_preview,
            errored=partial(self._holograms.fail_preview, request),
            finished=self._preview_finished,
        )

    def _preview_finished(self) -> None:
        self._preview = None
        if self._again and self._awake:
            self._again = False
            self._start_preview()
