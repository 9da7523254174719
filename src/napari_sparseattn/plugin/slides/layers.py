"""A slide as lazy napari layers: the image, what could not be read, and what was not."""

from __future__ import annotations

import abc
import math
from collections.abc import Callable, Mapping
from typing import Any

import numpy as np
import numpy.typing as npt

from ...images.errors import ImageError
from ...images.slides.channels import Channel, ChannelPyramid, estimate_limits, primaries
from ...images.slides.opening import open_slide
from ...images.slides.pyramid import Level, Pyramid, Reading, level_for, read_window
from ..core.lanes import Lanes
from ..core.sources import METADATA_KEY, slide_of

__all__ = [
    "AnyView",
    "LayerData",
    "LevelView",
    "follow_unreadable",
    "read_slide",
    "slide_layer",
    "slide_layers",
    "unread_layer",
    "unreadable_layer",
]

_PRIMARIES = tuple(one.name for one in primaries())
#: Of channels that the file gives no colour.
_DYES = ("blue", "green", "red", "cyan", "magenta", "yellow")
#: More channels on top of each other than these are white.
_MOST_SHOWN = 6

LayerData = tuple[Any, dict[str, Any], str]
# napari reads the coarsest level whole, for the thumbnail; it must be small.
_MOST_OVERVIEW_SIDE = 2048
_OVERVIEW_STEP = 4
# numpy would otherwise take a whole level into memory when it is asked for an array.
_MOST_ARRAY_PIXELS = 2**28
_GREY: Mapping[int | None, tuple[float, ...]] = {1: (0.5, 0.5, 0.5, 0.7), None: (0, 0, 0, 0)}
_RED: Mapping[int | None, tuple[float, ...]] = {1: (0.9, 0.1, 0.1, 0.6), None: (0, 0, 0, 0)}


class AnyView(abc.ABC):
    """An array (y, x, and colour where there is) whose pixels are read when it is sliced.

    Parameters
    ----------
    shape : tuple of int
        Height, width, and colours where there are some.
    dtype : numpy.dtype
        Of the pixels.
    report : callable, optional
        Called with what is wrong with the file; by default napari shows it.
    """

    def __init__(
        self,
        shape: tuple[int, ...],
        dtype: np.dtype[Any],
        report: Callable[[str], None] | None = None,
    ) -> None:
        self.shape, self.dtype = shape, dtype
        self._report = report or _show

    @property
    def ndim(self) -> int:
        """Number of axes: y, x, and colour where there is."""
        return len(self.shape)

    @property
    def size(self) -> int:
        """Number of values."""
        return math.prod(self.shape)

    def __len__(self) -> int:
        return self.shape[0]

    def __getitem__(self, key: Any) -> npt.NDArray[Any]:
        """Return a part; y and x by whole numbers or slices, colour by any index."""
        parts = key if isinstance(key, tuple) else (key,)
        if Ellipsis in parts:
            at = parts.index(Ellipsis)
            parts = (
                *parts[:at],
                *(slice(None),) * (self.ndim - len(parts) + 1),
                *parts[at + 1 :],
            )
        parts += (slice(None),) * (self.ndim - len(parts))
        y, x = (range(n)[_sliced(p)] for n, p in zip(self.shape[:2], parts[:2], strict=True))
        if not len(y) or not len(x):
            empty = np.empty((len(y), len(x), *self.shape[2:]), self.dtype)
            return empty[(..., *parts[2:])]
        top, left, bottom, right = min(y), min(x), max(y) + 1, max(x) + 1
        try:
            pixels = self._read(top, left, bottom, right)
        except ImageError as error:
            pixels = np.zeros((bottom - top, right - left, *self.shape[2:]), self.dtype)
            self._report(str(error))
        pixels = pixels[:: y.step, :: x.step]
        # Axes that were asked for by a number are dropped, as numpy does.
        drop = tuple(0 if not isinstance(p, slice) else slice(None) for p in parts[:2])
        found: npt.NDArray[Any] = pixels[(*drop, *parts[2:])]
        return found

    def __array__(
        self, dtype: npt.DTypeLike | None = None, copy: bool | None = None
    ) -> npt.NDArray[Any]:
        if self.shape[0] * self.shape[1] > _MOST_ARRAY_PIXELS:
            raise ValueError(
                f"this level is {self.shape[0]} x {self.shape[1]} pixels, too many to take into "
                "memory; slice it, or take a coarser one"
            )
        return np.asarray(self[:], dtype)

    @abc.abstractmethod
    def _read(self, top: int, left: int, bottom: int, right: int) -> npt.NDArray[Any]:
        """Return the pixels of a part."""


class LevelView(AnyView):
    """One level of a slide as an array whose pixels are read when it is sliced.

    Pixels that could not be read are 0; `unreadable_layer` shows where. A file
    that is gone or has changed is 0 throughout and told to `report`: an error
    raised from here would end napari's drawing.

    Parameters
    ----------
    pyramid : Pyramid
        The slide.
    level : int
        Which of its levels.
    coarser : int
        How many times coarser than that level this view is; above 1 the
        pixels are averaged.
    report : callable, optional
        Called with what is wrong with the file; by default napari shows it.
    """

    def __init__(
        self,
        pyramid: Pyramid,
        level: int,
        coarser: int = 1,
        report: Callable[[str], None] | None = None,
    ) -> None:
        at = pyramid.levels[level]
        colours = (pyramid.channels,) if pyramid.channels > 1 else ()
        self._pyramid, self._level, self._coarser = pyramid, level, coarser
        shape = math.ceil(at.height / coarser), math.ceil(at.width / coarser), *colours
        super().__init__(shape, pyramid.dtype, report)

    def _read(self, top: int, left: int, bottom: int, right: int) -> npt.NDArray[Any]:
        height, width = bottom - top, right - left
        if self._coarser == 1:
            region = self._pyramid.read_region(top, left, self._level, height, width)
            pixels, valid, level, step = region.pixels, region.valid, self._level, 1.0
        else:
            factor = self._coarser * self._pyramid.levels[self._level].downsample
            values, valid = read_window(
                self._pyramid,
                top * factor,
                left * factor,
                height * factor,
                width * factor,
                height,
                width,
            )
            most = np.iinfo(self.dtype).max
            pixels = np.rint(values * np.float64(most)).astype(self.dtype)
            level = level_for(self._pyramid, factor)
            step = factor / self._pyramid.levels[level].downsample
        if not valid.all():
            # Glass that was not scanned looks like glass; what is damaged stays black.
            places = (np.arange(a, b) + 0.5 for a, b in ((top, bottom), (left, right)))
            rows, columns = (step * place for place in places)
            unscanned = ~valid & ~self._pyramid.failed_at(level, rows, columns)
            pixels[unscanned] = self._pyramid.background
        return pixels if self._pyramid.channels > 1 else pixels[..., 0]


def read_slide(
    path: str, layers: Callable[[Pyramid], list[LayerData]] | None = None
) -> list[LayerData]:
    """Open a slide for napari, and show what the user should know of it; for the npe2 reader.

    Parameters
    ----------
    path : str
        The slide.
    layers : callable, optional
        Makes the layers, by default `slide_layers`.

    Raises
    ------
    ImageError
        If it cannot be read as a slide; napari shows the message.
    """
    from napari.utils.notifications import show_warning

    pyramid = open_slide(path)
    for note in pyramid.notes:
        show_warning(note)
    return (layers or slide_layers)(pyramid)


def slide_layers(pyramid: Pyramid, report: Callable[[str], None] | None = None) -> list[LayerData]:
    """Return the image layers that show a slide: one, or of other channels one for each.

    Channels have the names and colours that the file gives them, and are shown
    between their own dark and bright values, for which the coarsest level is
    read. Of many only the first are visible.

    Parameters
    ----------
    pyramid, report
        See `slide_layer`.

    Raises
    ------
    ImageError
        If the file is gone or has changed.
    """
    info = pyramid.channel_info
    if not info:
        return [slide_layer(pyramid, report)]
    report = _once(report or _show)
    dyes = len(info) > 1 and tuple(one.name for one in info) != _PRIMARIES
    found = []
    for n, channel in enumerate(info):
        one = ChannelPyramid(pyramid, n)
        data, attributes, kind = slide_layer(one, report)
        if len(info) > 1:
            attributes["name"] = f"{pyramid.name}: {channel.name}"
            attributes["blending"] = "additive"
            attributes["visible"] = n < _MOST_SHOWN
        attributes["colormap"] = _colormap_of(channel, n, len(info))
        attributes["contrast_limits"] = estimate_limits(one)
        attributes["metadata"][METADATA_KEY]["modality"] = "fluorescence" if dyes else "unknown"
        found.append((data, attributes, kind))
    return found


def slide_layer(pyramid: Pyramid, report: Callable[[str], None] | None = None) -> LayerData:
    """Return the image layer that shows a slide; nothing is read before it is drawn.

    The slide is under ``"pyramid"`` of what the plugin keeps in the layer's
    metadata; see `core.sources.slide_of`.

    Parameters
    ----------
    pyramid : Pyramid
        The slide.
    report : callable, optional
        Called once with each thing that is wrong with the file while it is
        shown; by default napari shows it.
    """
    report = _once(report or _show)
    levels = [LevelView(pyramid, n, report=report) for n in range(len(pyramid.levels))]
    coarser = 1
    while max(levels[-1].shape[:2]) > _MOST_OVERVIEW_SIDE:
        coarser *= _OVERVIEW_STEP
        levels.append(LevelView(pyramid, len(pyramid.levels) - 1, coarser, report))
    colour = pyramid.channels > 1
    attributes: dict[str, Any] = {
        "name": pyramid.name,
        "rgb": colour,
        "multiscale": True,
        "metadata": {
            METADATA_KEY: {
                "modality": "brightfield" if colour else "unknown",
                "unit": "",
                "pyramid": pyramid,
            }
        },
        **_placed(pyramid),
    }
    if not colour:
        attributes["contrast_limits"] = (0, 255)
    return levels, attributes, "image"


def unreadable_layer(pyramid: Pyramid, reading: Reading | None = None) -> LayerData | None:
    """Return a layer of the tiles that could not be decoded, or None where all could.

    Parameters
    ----------
    pyramid : Pyramid
        The slide.
    reading : Reading, optional
        What was read of it; by default all that was until now.
    """
    found = pyramid.ledger.snapshot() if reading is None else reading
    finest = pyramid.levels[0]
    mask = np.zeros(finest.grid, np.uint8)
    for level, failed in zip(found.levels, found.failed, strict=True):
        for row, column in failed:
            mask[_covered(finest, level, row, column)] = 1
    if not mask.any():
        return None
    share = 100 * found.fraction_failed
    name = f"{pyramid.name}: unreadable ({share:.2g} % of what was read)"
    return _mask_layer(pyramid, finest, mask, name, _RED)


def follow_unreadable(viewer: Any, layer: Any) -> None:
    """Keep a layer of the tiles that turn out unreadable while a slide is shown.

    Parameters
    ----------
    viewer : napari.components.ViewerModel
        Where the layer of unreadable tiles is added when there are any.
    layer : napari.layers.Image
        A slide's layer.
    """
    pyramid = slide_of(layer)
    if pyramid is None:
        return
    seen, lanes = 0, Lanes.of(viewer)

    def update() -> None:
        nonlocal seen
        found = pyramid.ledger.n_failed
        if found == seen or layer not in viewer.layers:
            return
        seen = found
        mask = unreadable_layer(pyramid)
        if mask is None:
            return
        data, attributes, _ = mask
        for old in viewer.layers:
            if old.metadata.get(METADATA_KEY, {}).get("unreadable") is layer:
                old.data, old.name = data, attributes["name"]
                return
        attributes["metadata"][METADATA_KEY]["unreadable"] = layer
        active = viewer.layers.selection.active
        viewer.add_labels(data, **attributes)
        viewer.layers.selection.active = active

    # Emitted when a part has been read and is drawn; layers may not be added then.
    layer.events.set_data.connect(lambda: lanes.runner.later(0, update))


def unread_layer(pyramid: Pyramid, reading: Reading, level: int | None = None) -> LayerData:
    """Return a layer that greys what was not read at a level.

    Parameters
    ----------
    pyramid : Pyramid
        The slide.
    reading : Reading
        What was read of it.
    level : int, optional
        By default the finest level of which anything was read.
    """
    if level is None:
        level = next((n for n, tiles in enumerate(reading.used) if tiles), 0)
    at = pyramid.levels[level]
    mask = reading.unread_mask(level).astype(np.uint8)
    name = f"{pyramid.name}: not read at {at.downsample:g}× reduction"
    return _mask_layer(pyramid, at, mask, name, _GREY)


def _colormap_of(channel: Channel, number: int, count: int) -> Any:
    """Return napari's colormap from black to a channel's colour, or to one of our choice."""
    from napari.utils.colormaps import Colormap

    if channel.colour is None:
        return "gray" if count == 1 else _DYES[number % len(_DYES)]
    full = [part / 255 for part in channel.colour]
    name = "#" + bytes(channel.colour).hex()
    return Colormap([[0, 0, 0, 1], [*full, 1]], name=name)


def _show(message: str) -> None:
    from napari.utils.notifications import show_error

    show_error(message)


def _once(report: Callable[[str], None]) -> Callable[[str], None]:
    said: set[str] = set()

    def say(message: str) -> None:
        if message not in said:
            said.add(message)
            report(message)

    return say


def _sliced(part: Any) -> slice:
    if isinstance(part, slice):
        if part.step is not None and part.step < 0:
            raise IndexError("a slide cannot be sliced backwards")
        return part
    index = int(part)
    return slice(index, None if index == -1 else index + 1)


def _placed(pyramid: Pyramid) -> dict[str, Any]:
    if pyramid.pixel_size is None:
        return {}
    return {"scale": (pyramid.pixel_size, pyramid.pixel_size), "units": ("um", "um")}


def _covered(finest: Level, level: Level, row: int, column: int) -> tuple[slice, slice]:
    """Return the tiles of the finest level that a tile of another lies on."""
    covered = []
    for n, place in enumerate((row, column)):
        start = place * level.tile[n] * level.downsample
        end = start + level.tile[n] * level.downsample
        covered.append(slice(int(start / finest.tile[n]), math.ceil(end / finest.tile[n])))
    return covered[0], covered[1]


def _mask_layer(
    pyramid: Pyramid,
    level: Level,
    mask: npt.NDArray[np.uint8],
    name: str,
    colours: Mapping[int | None, tuple[float, ...]],
) -> LayerData:
    """Return labels of one value per tile of a level, laid over the slide."""
    pixel_size = 1.0 if pyramid.pixel_size is None else pyramid.pixel_size
    sides = [side * level.downsample for side in level.tile]
    attributes: dict[str, Any] = {
        **_placed(pyramid),
        "name": name,
        "scale": tuple(side * pixel_size for side in sides),
        # napari puts a pixel's centre at its index; the tiles share its corner.
        "translate": tuple((side - 1) / 2 * pixel_size for side in sides),
        "colormap": dict(colours),
        "opacity": 1.0,
        "metadata": {METADATA_KEY: {"overlay": "slide"}},
    }
    return mask, attributes, "labels"
