"""Overviews of slides without coarse levels: made once, beside the work of one viewer."""

from __future__ import annotations

import dataclasses
import threading
import weakref
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt
from psygnal import Signal

from ...cache import Cache
from ...images.slides.overview import (
    Band,
    attach_overview,
    iter_overview,
    overview_file,
    place_overview,
)
from ..core.activity import Activity
from ..core.lanes import Lanes
from ..core.per_viewer import PerViewer
from ..core.preferences import preferences
from ..core.sources import METADATA_KEY
from ..core.status import Progress, explain
from ..core.view import has_window
from .flat import FlatSlide, PartRequest, flat_layers, flat_of, read_part
from .layers import LayerData, slide_layers

if TYPE_CHECKING:
    from napari.components import ViewerModel
    from napari.layers import Image, Layer

    from ...images.slides.pyramid import Pyramid

__all__ = ["Overviews", "read_layers"]

#: Bands after which what is shown is drawn again.
_REFRESH_EVERY = 4


@dataclasses.dataclass(frozen=True, eq=False)
class _Request:
    """Make the overview of a slide."""

    slide: FlatSlide
    cache: Cache
    stop: threading.Event = dataclasses.field(default_factory=threading.Event)


class Overviews(PerViewer):
    """Makes the coarse levels that slides in one viewer lack, one slide at a time.

    While one is made its layers show what there is of it; parts at the
    resolution of the slide are read in another lane as they are looked at.
    """

    #: How far the making of any overview is has changed.
    changed = Signal()

    def __init__(self, viewer: ViewerModel) -> None:
        super().__init__(viewer)
        self._making = Lanes.of(viewer).add(
            _make, given=self._take, failed=self._fail, ended=self._end, busy="queue"
        )
        self._states: dict[int, Progress] = {}
        Activity.of(viewer).follow("Overview", (self.changed,), self._cancel_all, self._any)
        self._requests: dict[int, _Request] = {}
        self._asked: weakref.WeakSet[FlatSlide] = weakref.WeakSet()
        self._layers: weakref.WeakSet[Layer] = weakref.WeakSet()
        self._said: set[str] = set()

    def watch(self, layers: Iterable[Layer]) -> None:
        """Read for the layers of a viewer that show flat slides, and make what these lack."""
        viewer = self.viewer
        if viewer is None:
            return
        for layer in layers:
            slide = flat_of(layer)
            if slide is None or layer in self._layers:
                continue
            self._layers.add(layer)
            if slide not in self._asked:
                self._asked.add(slide)
                # A lane for each: what is asked of one must not push out what is of another.
                reading = Lanes.of(viewer).add(read_part, given=self._show_part, failed=self._fail)
                slide.ask = reading.ask
                self._make_overview(slide)
            layer.refresh()

    def _make_overview(self, slide: FlatSlide) -> None:
        """Have the overview of a slide made, unless it is there."""
        if slide.pyramid.overview is not None or slide.pyramid.path is None:
            return  # of a slide on another machine, all of it would be loaded for that
        request = self._requests[id(slide)] = _Request(slide, preferences().cache)
        self._states[id(slide)] = Progress(0, 0, what="bands")
        self.changed.emit()
        self._making.ask(request)

    def expect(self, slide: FlatSlide) -> None:
        """Watch the layers of a slide when napari adds what its reader gave."""
        viewer = self.viewer
        if viewer is None:
            return

        def inserted(event: Any) -> None:
            if flat_of(event.value) is slide:
                self.watch([event.value])

        viewer.layers.events.inserted.connect(inserted)

    def _any(self) -> Progress | None:
        """Return how far the overview is that is being made, of several the first."""
        return next(iter(self._states.values()), None)

    def _cancel_all(self) -> None:
        for request in list(self._requests.values()):
            request.stop.set()
            self._forget(request)

    def progress_of(self, layer: Image | None) -> Progress | None:
        """Return how far the overview of a layer's slide is; None where none is being made."""
        slide = None if layer is None else flat_of(layer)
        return None if slide is None else self._states.get(id(slide))

    def cancel(self, layer: Image | None) -> None:
        """Stop making the overview of a layer's slide; what there is of it stays in view."""
        slide = None if layer is None else flat_of(layer)
        request = None if slide is None else self._requests.get(id(slide))
        if request is not None:
            request.stop.set()
            self._forget(request)

    # -- answering

    def _take(self, request: _Request, band: Band | Path) -> None:
        slide = request.slide
        shown = self._shown(slide)
        if not shown:
            request.stop.set()
            self._forget(request)
            return
        if isinstance(band, Path):
            place_overview(slide.pyramid, band)
        elif request.stop.is_set():
            return
        else:
            slide.take(band)
            self._states[id(slide)] = Progress(band.done, band.total, what="bands")
            self.changed.emit()
            if band.done % _REFRESH_EVERY:
                return
        for layer in shown:
            layer.refresh()

    def _end(self, request: _Request) -> None:
        self._forget(request)

    def _fail(self, request: _Request | PartRequest, error: BaseException) -> None:
        from napari.utils.notifications import show_error

        if isinstance(request, _Request):
            self._forget(request)
        said = explain(error)
        if said not in self._said:
            self._said.add(said)
            show_error(said)

    def _show_part(self, request: PartRequest, pixels: npt.NDArray[np.generic]) -> None:
        request.slide.keep(request, pixels)
        for layer in self._shown(request.slide):
            layer.refresh()

    def _forget(self, request: _Request) -> None:
        self._requests.pop(id(request.slide), None)
        if self._states.pop(id(request.slide), None) is not None:
            self.changed.emit()

    def _shown(self, slide: FlatSlide) -> list[Layer]:
        """Return the layers of a slide that are in the viewer, if that still has its window."""
        viewer = self.viewer
        if viewer is None or not has_window(viewer):
            return []
        return [x for x in self._layers if flat_of(x) is slide and x in viewer.layers]


def read_layers(pyramid: Pyramid) -> list[LayerData]:
    """Return the layers of a slide for napari's reader, whose viewer they will be added to."""
    from napari import current_viewer

    found, viewer = flat_layers(pyramid), current_viewer()
    if found is None or viewer is None:
        return slide_layers(pyramid)
    slide: FlatSlide = found[0][1]["metadata"][METADATA_KEY]["flat"]
    Overviews.of(viewer).expect(slide)
    return found


def _make(request: _Request) -> Iterator[Band | Path]:
    """Make an overview, unless it is there by now; yields its bands, then its file."""
    pyramid, cache = request.slide.pyramid, request.cache
    assert pyramid.path is not None
    file = overview_file(pyramid.path, cache)
    if attach_overview(pyramid, cache):
        yield file
        return
    bands = iter_overview(pyramid, file)
    try:
        for band in bands:
            yield band
            if request.stop.is_set():
                return
    finally:
        bands.close()
    yield file
    with cache.using(file):
        cache.trim()
