"""A slide without coarse levels as layers that never make the window wait for the file."""

from __future__ import annotations

import dataclasses
import math
import threading
from collections.abc import Callable
from typing import Any

import numpy as np
import numpy.typing as npt

from ...images.slides.overview import FLAT_PIXELS, Band, is_flat, overview_levels
from ...images.slides.pyramid import Pyramid
from ..core.sources import METADATA_KEY
from .layers import AnyView, LayerData, slide_layers

__all__ = [
    "FlatSlide",
    "FlatView",
    "PartRequest",
    "far_layers",
    "flat_layers",
    "flat_of",
    "read_part",
]

#: Larger parts are shown from the coarse levels alone.
_MOST_PART = 2**25
#: Read beside what is shown, as a share of it, so that small moves need no reading.
_MARGIN = 0.15


_Box = tuple[int, int, int, int]


@dataclasses.dataclass(frozen=True, eq=False)
class PartRequest:
    """Read a rectangle of a level: top, left, bottom, right; its colours converted or not."""

    slide: FlatSlide
    level: int
    box: _Box
    converted: bool = False
    stop: threading.Event = dataclasses.field(default_factory=threading.Event)


class FlatSlide:
    """What is known of a slide without coarse levels, for its views.

    Views take from here what is in memory or quick to read; the rest is asked
    for, and shown coarsely until it is there.

    Parameters
    ----------
    pyramid : Pyramid
        The slide.
    coarse : numpy.ndarray, optional
        Its coarsest level (h, w, C), as stored, where its file has one that is small; by
        default levels are to be made.
    """

    def __init__(self, pyramid: Pyramid, coarse: npt.NDArray[Any] | None = None) -> None:
        self.pyramid = pyramid
        made = () if coarse is not None else overview_levels(pyramid)
        self.levels = (*pyramid.levels, *made)
        last = self.levels[-1]
        if coarse is None:
            coarse = np.empty((last.height, last.width, pyramid.channels), pyramid.dtype)
            coarse[:] = pyramid.background
        #: The coarsest level, as far as it has been made.
        self.coarse = coarse
        self._parts: dict[tuple[int, bool], tuple[_Box, npt.NDArray[Any]]] = {}
        #: Called with a part that is to be read; nothing is read until somebody listens.
        self.ask: Callable[[PartRequest], None] = lambda _: None
        #: What was asked for last: asking again each time it is drawn would never end.
        self._asked: tuple[int, bool, _Box] | None = None

    def take(self, band: Band) -> None:
        """Take rows of the overview that have just been made."""
        self.coarse[band.top : band.top + len(band.pixels)] = band.pixels

    def keep(self, request: PartRequest, pixels: npt.NDArray[Any]) -> None:
        """Take a part that was read."""
        # The choice of colours may have changed while it was read.
        if request.converted == self.pyramid.profile_applied:
            self._parts[request.level, request.converted] = request.box, pixels

    def read(self, level: int, top: int, left: int, bottom: int, right: int) -> npt.NDArray[Any]:
        """Return pixels (h, w, C) of a part; coarse ones where the file would have to be read."""
        stored, overview = len(self.pyramid.levels), self.pyramid.overview
        if level >= stored and overview is not None:
            return _filled(overview, level, top, left, bottom, right)
        if level < min(stored, len(self.levels) - 1):
            if self._held(level, top, left, bottom, right) is None:
                self._want(level, top, left, bottom, right)
            found = self._held(level, top, left, bottom, right)
            if found is not None:
                return found
        return self._coarsely(level, top, left, bottom, right)

    def _held(
        self, level: int, top: int, left: int, bottom: int, right: int
    ) -> npt.NDArray[Any] | None:
        """Return a part of what was read last, if it lies in that."""
        box, pixels = self._parts.get((level, self.pyramid.profile_applied), (None, None))
        if box is None or pixels is None:
            return None
        if not (box[0] <= top and box[1] <= left and bottom <= box[2] and right <= box[3]):
            return None
        return pixels[top - box[0] : bottom - box[0], left - box[1] : right - box[1]]

    def _want(self, level: int, top: int, left: int, bottom: int, right: int) -> None:
        at = self.pyramid.levels[level]
        down, across = (math.ceil(_MARGIN * side) for side in (bottom - top, right - left))
        box = (
            max(0, top - down),
            max(0, left - across),
            min(at.height, bottom + down),
            min(at.width, right + across),
        )
        large = (box[2] - box[0]) * (box[3] - box[1]) > _MOST_PART
        converted = self.pyramid.profile_applied
        if not large and self._asked != (level, converted, box):
            self._asked = level, converted, box
            self.ask(PartRequest(self, level, box, converted))

    def _coarsely(
        self, level: int, top: int, left: int, bottom: int, right: int
    ) -> npt.NDArray[Any]:
        """Return a part enlarged from the finest level that is there for it."""
        overview, stored = self.pyramid.overview, len(self.pyramid.levels)
        source = len(self.levels) - 1 if overview is None else stored
        ratio = self.levels[source].downsample / self.levels[level].downsample
        rows = np.minimum(np.arange(top, bottom) // ratio, self.levels[source].height - 1)
        columns = np.minimum(np.arange(left, right) // ratio, self.levels[source].width - 1)
        y, x = rows.astype(np.intp), columns.astype(np.intp)
        if overview is None:
            held = self.coarse[y[0] : y[-1] + 1, x[0] : x[-1] + 1]
            held = self.pyramid.as_shown(np.ascontiguousarray(held))
        else:
            held = _filled(overview, source, int(y[0]), int(x[0]), int(y[-1]) + 1, int(x[-1]) + 1)
        # Columns first, of few rows; then rows, which are copied whole.
        enlarged: npt.NDArray[Any] = held.take(x - x[0], axis=1).take(y - y[0], axis=0)
        return enlarged


class FlatView(AnyView):
    """One level of a flat slide, or one channel of it, as an array that is quick to slice."""

    def __init__(self, slide: FlatSlide, level: int, channel: int | None = None) -> None:
        at, colours = slide.levels[level], slide.pyramid.channels
        shape: tuple[int, ...] = (at.height, at.width)
        if channel is None and colours > 1:
            shape = (*shape, colours)
        super().__init__(shape, slide.pyramid.dtype)
        self._slide, self._level, self._channel = slide, level, channel

    def _read(self, top: int, left: int, bottom: int, right: int) -> npt.NDArray[Any]:
        pixels = self._slide.read(self._level, top, left, bottom, right)
        if self._channel is not None:
            return pixels[..., self._channel]
        return pixels if len(self.shape) > 2 else pixels[..., 0]


def flat_layers(pyramid: Pyramid) -> list[LayerData] | None:
    """Return the layers of a slide without coarse levels, or None where it has some.

    They show the slide once somebody reads for them; see `overviews.Overviews`.
    """
    if not is_flat(pyramid):
        return None
    return _layers_of(FlatSlide(pyramid))


def far_layers(pyramid: Pyramid) -> list[LayerData]:
    """Return the layers of a slide on another machine; call it from a worker.

    Its coarsest level is loaded now. Of the others, what is looked at is loaded once
    somebody reads for them, see `overviews.Overviews`, and shown coarsely until then:
    napari draws in the main thread, which must not wait for the network.

    Raises
    ------
    ImageError
        If it cannot be loaded.
    """
    if pyramid.levels[-1].n_pixels > FLAT_PIXELS:
        return _layers_of(FlatSlide(pyramid))
    last = pyramid.levels[-1]
    twin = pyramid.as_stored()
    coarse = _filled(twin, len(pyramid.levels) - 1, 0, 0, last.height, last.width)
    return _layers_of(FlatSlide(pyramid, coarse))


def _layers_of(slide: FlatSlide) -> list[LayerData]:
    found, pyramid = [], slide.pyramid
    for n, (_, attributes, kind) in enumerate(slide_layers(pyramid)):
        channel = n if pyramid.channel_info else None
        views = [FlatView(slide, level, channel) for level in range(len(slide.levels))]
        attributes["metadata"][METADATA_KEY]["flat"] = slide
        found.append((views, attributes, kind))
    return found


def flat_of(layer: Any) -> FlatSlide | None:
    """Return the slide without coarse levels that a layer shows, or None."""
    found = layer.metadata.get(METADATA_KEY, {}).get("flat")
    return found if isinstance(found, FlatSlide) else None


def read_part(request: PartRequest) -> npt.NDArray[Any]:
    """Read a part of a slide, in another thread: (h, w, C).

    Raises
    ------
    ImageError
        If the file is gone or has changed.
    """
    return _filled(request.slide.pyramid, request.level, *request.box)


def _filled(
    pyramid: Pyramid, level: int, top: int, left: int, bottom: int, right: int
) -> npt.NDArray[Any]:
    """Return a part in which what was not scanned has the colour of the background."""
    region = pyramid.read_region(top, left, level, bottom - top, right - left)
    if not region.valid.all():
        rows, columns = np.arange(top, bottom) + 0.5, np.arange(left, right) + 0.5
        unscanned = ~region.valid & ~pyramid.failed_at(level, rows, columns)
        region.pixels[unscanned] = pyramid.background
    return region.pixels
