"""Files that are chosen or dropped: read in another thread, added to the viewer as layers."""

from __future__ import annotations

import dataclasses
import weakref
from collections import deque
from collections.abc import Callable, Iterable
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

from .errors import explain
from .messages import Level
from .sources import METADATA_KEY
from .workers import Workers

if TYPE_CHECKING:
    from napari.components import ViewerModel

    from ...images.fields.field import Field

__all__ = ["Opened", "field_layer", "open_files", "read_file"]

LayerData = tuple[Any, dict[str, Any], str]
#: Says one line to the user.
Say = Callable[[str, Level], None]

_HOLOGRAPHY = (".rtdc", ".h5", ".hdf5")
_COLOURS = (3, 4)


@dataclasses.dataclass(frozen=True, eq=False)
class Opened:
    """A file as layers, and what the user should know of it."""

    path: str
    layers: list[LayerData]
    notes: tuple[str, ...] = ()


def read_file(path: str, as_slide: bool = False) -> Opened:
    """Open a slide, a recording of holography or an ordinary image; call it from a worker.

    Of a slide nothing but its description is read.

    Parameters
    ----------
    path : str
        A file, or the folder of an OME-Zarr or DICOM slide.
    as_slide : bool
        Read also a TIFF of one level piece by piece.

    Raises
    ------
    FileNotFoundError
        If there is no such file.
    ImageError
        If it cannot be read; the message says why and what to do.
    """
    from ...images.opening import open_field
    from ...images.slides.opening import is_slide, open_slide

    file = Path(path)
    if as_slide or file.is_dir() or is_slide(file):
        from ..slides.layers import slide_layer

        pyramid = open_slide(file)
        return Opened(path, [slide_layer(pyramid)], pyramid.notes)
    if file.suffix.lower() in _HOLOGRAPHY:
        from ...images.holograms.files import open_hologram
        from ..holograms.recordings import recording_layer

        return Opened(path, [recording_layer(open_hologram(file))])
    field = open_field(file)
    return Opened(path, [field_layer(field)], field.notes)


def field_layer(field: Field) -> LayerData:
    """Return the image layer that shows a field of view, with its scale and what it shows."""
    data, axes = field.data, field.axes
    rgb = axes.endswith("C") and data.shape[-1] in _COLOURS and field.modality == "brightfield"
    if axes.endswith("C") and not rgb:
        # napari takes a last axis for x; channels are looked through like frames.
        data, axes = data.transpose(data.ndim - 1, *range(data.ndim - 1)), f"C{axes[:-1]}"
        if data.shape[0] == 1:
            data, axes = data[0], axes[1:]
    attributes: dict[str, Any] = {
        "name": field.name,
        "rgb": rgb,
        "metadata": {METADATA_KEY: {"modality": field.modality, "unit": field.unit}},
    }
    if field.pixel_size is not None:
        ahead = len(axes) - 2 - rgb
        attributes["scale"] = (*(1.0,) * ahead, field.pixel_size, field.pixel_size)
        attributes["units"] = (*("pixel",) * ahead, "um", "um")
    return data, attributes, "image"


def open_files(
    viewer: ViewerModel, paths: Iterable[str], say: Say, *, as_slides: bool = False
) -> None:
    """Open files one after the other without holding up the window.

    Parameters
    ----------
    viewer : napari.components.ViewerModel
        Gets the layers; held weakly.
    paths : iterable of str
        Files, and folders of OME-Zarr or DICOM slides.
    say : callable
        Called with a line and its level: what is being opened, what should be
        known of it, and why a file cannot be opened.
    as_slides : bool
        See `read_file`.
    """
    _Opening(viewer, paths, say, as_slides).go_on()


class _Opening:
    """The files that are still to be opened."""

    def __init__(
        self, viewer: ViewerModel, paths: Iterable[str], say: Say, as_slides: bool
    ) -> None:
        # napari's proxy of the viewer dies before the viewer does.
        self._viewer = weakref.ref(getattr(viewer, "__wrapped__", viewer))
        self._waiting, self._say, self._as_slides = deque(paths), say, as_slides
        self._failed: list[str] = []
        self._notes: list[str] = []
        self._workers = Workers(lambda _: None)

    def go_on(self) -> None:
        """Open the next file; after the last, tell what should be known of them all."""
        if not self._waiting:
            if said := [*self._failed, *self._notes]:
                self._say(" ".join(said), "error" if self._failed else "warning")
            return
        path = self._waiting.popleft()
        self._say(f"Opening {Path(path).name}…", "info")
        self._workers.start(
            partial(read_file, path, self._as_slides),
            returned=self._opened,
            errored=self._not_opened,
            finished=self.go_on,
        )

    def _opened(self, opened: Opened) -> None:
        from napari.layers import Layer

        viewer = self._viewer()
        if viewer is None or not _has_window(viewer):
            self._waiting.clear()
            return
        for data, attributes, kind in opened.layers:
            viewer.add_layer(Layer.create(data, attributes, kind))
        self._notes += opened.notes

    def _not_opened(self, error: BaseException) -> None:
        self._failed.append(explain(error))


def _has_window(viewer: ViewerModel) -> bool:
    """Whether a viewer still has its window, or never had one."""
    window = getattr(viewer, "window", None)
    if window is None:
        return True
    try:
        window.geometry()
    except (AttributeError, RuntimeError):  # it, or Qt's part of it, is gone
        return False
    return True
