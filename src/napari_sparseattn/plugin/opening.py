"""Files that are chosen or dropped: read in another thread, added to the viewer as layers."""

from __future__ import annotations

import dataclasses
import threading
import weakref
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor, wait
from pathlib import Path
from typing import TYPE_CHECKING, Any

from psygnal import Signal

from ..addresses import SCHEMES, as_source, is_address
from ..progress import Progress as Report
from ..progress import heard
from .core.activity import Activity
from .core.field_layers import field_layer
from .core.lanes import Lane, Lanes
from .core.per_viewer import PerViewer
from .core.status import Level, Progress, StoppedError, explain
from .core.view import has_window
from .slides.overviews import Overviews

if TYPE_CHECKING:
    from napari.components import ViewerModel

__all__ = ["Opened", "open_addresses", "open_files", "read_file"]

LayerData = tuple[Any, dict[str, Any], str]
#: Says one line to the user.
Notify = Callable[[str, Level], None]

_TICK_SECONDS = 0.1
_HOLOGRAPHY = (".rtdc", ".h5", ".hdf5")


@dataclasses.dataclass(frozen=True, eq=False)
class Opened:
    """A file as layers, and what the user should know of it."""

    path: str
    layers: list[LayerData]
    notes: tuple[str, ...] = ()


def read_file(path: str, as_slide: bool = False, progress: Report | None = None) -> Opened:
    """Open a slide, a recording of holography or an ordinary image; call it from a worker.

    Of a slide nothing but its description is read, and the coarsest level where its
    channels have values of their own.

    Parameters
    ----------
    path : str
        A file, or the folder of an OME-Zarr or DICOM slide; or the address of a slide on
        another machine.
    as_slide : bool
        Read also a TIFF of one level piece by piece.
    progress : callable, optional
        Of an address: see `open_slide`; it may raise to stop.

    Raises
    ------
    FileNotFoundError
        If there is no such file.
    ImageError
        If it cannot be read; the message says why and what to do.
    """
    from ..images.opening import open_field
    from ..images.slides.opening import is_slide, open_slide

    if is_address(path):
        from .slides.flat import far_layers

        with heard(progress, "opening"):
            pyramid = open_slide(path, progress=progress)
            return Opened(pyramid.name, far_layers(pyramid), pyramid.notes)
    file = Path(path)
    if as_slide or file.is_dir() or is_slide(file):
        from ..images.slides.overview import attach_overview
        from .core.preferences import preferences
        from .slides.flat import flat_layers
        from .slides.layers import slide_layers

        pyramid = open_slide(file)
        attach_overview(pyramid, preferences().cache)
        return Opened(path, flat_layers(pyramid) or slide_layers(pyramid), pyramid.notes)
    if file.suffix.lower() in _HOLOGRAPHY:
        from ..images.holograms.files import open_hologram
        from .holograms.recordings import recording_layer

        return Opened(path, [recording_layer(open_hologram(file))])
    field = open_field(file)
    return Opened(path, [field_layer(field)], field.notes)


@dataclasses.dataclass(frozen=True, eq=False)
class _Request:
    path: str = dataclasses.field(repr=False)
    as_slide: bool
    batch: _Batch
    stop: threading.Event = dataclasses.field(default_factory=threading.Event)

    @property
    def name(self) -> str:
        """What to call the file: an address is not shown."""
        try:
            return as_source(self.path).name
        except ValueError:
            return "the slide"  # what is wrong with its address is said when it is opened


class Waiting:
    """Says that the network is waited for."""


class _Batch:
    """Files that are opened together: after the last, what should be known of them all is said."""

    def __init__(
        self, viewer: ViewerModel, lane: Lane[_Request], notify: Notify, left: int
    ) -> None:
        # napari's proxy of the viewer dies before the viewer does.
        self._viewer = weakref.ref(getattr(viewer, "__wrapped__", viewer))
        self._lane, self._notify, self._left = lane, notify, left
        self._failed: list[str] = []
        self._notes: list[str] = []

    def take(self, request: _Request, part: Opened | Waiting | None) -> None:
        """Say that a file is being opened, or add its layers."""
        from napari.layers import Layer

        viewer = self._viewer()
        if viewer is None or not has_window(viewer):
            self._lane.cancel()
        elif part is None:
            self._notify(f"Opening {request.name}…", "info")
        elif isinstance(part, Waiting):
            # What was on its way when it was stopped arrives after that.
            if not request.stop.is_set():
                _Opening.of(viewer).show(Progress(what="files"))
        else:
            added = [Layer.create(*layer) for layer in part.layers]
            for layer in added:
                viewer.add_layer(layer)
            Overviews.of(viewer).watch(added)
            self._notes += part.notes
            self._count()

    def fail(self, error: BaseException) -> None:
        """Keep why a file could not be opened."""
        if isinstance(error, StoppedError):
            self._notes.append("Opening was cancelled.")
        else:
            self._failed.append(explain(error))
        self._count()

    def _count(self) -> None:
        self._left -= 1
        viewer = self._viewer()
        if viewer is not None:
            _Opening.of(viewer).show(None)
        if not self._left and (said := [*self._failed, *self._notes]):
            self._notify(" ".join(said), "error" if self._failed else "warning")


def open_files(
    viewer: ViewerModel, paths: Iterable[str], notify: Notify, *, as_slides: bool = False
) -> None:
    """Open files one after the other without holding up the window.

    Parameters
    ----------
    viewer : napari.components.ViewerModel
        Gets the layers; held weakly.
    paths : iterable of str
        Files, folders of OME-Zarr or DICOM slides, and addresses of slides.
    notify : callable
        Called with a line and its level: what is being opened, what should be
        known of it, and why a file cannot be opened.
    as_slides : bool
        See `read_file`.
    """
    wanted = list(paths)
    lane = _Opening.of(viewer).lane
    batch = _Batch(viewer, lane, notify, len(wanted))
    for path in wanted:
        lane.ask(_Request(path, as_slides, batch))


def open_addresses(viewer: ViewerModel, addresses: Iterable[str], notify: Notify) -> None:
    """Open slides on other machines, and no files of this one; see `open_files`."""
    wanted = list(addresses)
    if all(map(is_address, wanted)):
        open_files(viewer, wanted, notify)
        return
    known = ", ".join(f"{scheme}://" for scheme in SCHEMES)
    notify(f"An address begins with one of {known}; for a file of this computer, open it.", "error")


class _Opening(PerViewer):
    """Opens the files of one viewer, in turns."""

    #: Whether a file on another machine is being opened has changed; with how far it is.
    changed = Signal(object)

    def __init__(self, viewer: ViewerModel) -> None:
        super().__init__(viewer)
        title = "Opening a slide from another machine"
        Activity.of(viewer).follow(title, (self.changed,), self.cancel)
        self.lane: Lane[_Request] = Lanes.of(viewer).add(
            _read,
            given=lambda request, part: request.batch.take(request, part),
            failed=lambda request, error: request.batch.fail(error),
            ended=lambda _: self.show(None),
            busy="queue",
        )

    def cancel(self) -> None:
        """Stop what is being opened, and forget what waits."""
        self.lane.cancel()
        self.show(None)

    def show(self, progress: Progress | None) -> None:
        """Tell how far the opening of a file on another machine is; None where none is opened."""
        self.changed.emit(progress)


def _read(request: _Request) -> Iterator[Opened | Waiting | None]:
    yield None
    if not is_address(request.path):
        yield read_file(request.path, request.as_slide)
        return

    def listen(stage: str, done: int, total: int) -> None:
        if request.stop.is_set():
            raise StoppedError

    with ThreadPoolExecutor(1) as pool:
        work = pool.submit(read_file, request.path, request.as_slide, listen)
        try:
            while not wait([work], _TICK_SECONDS).done:
                yield Waiting()
            yield work.result()
        finally:
            request.stop.set()
