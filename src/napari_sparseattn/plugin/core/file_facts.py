"""What only the file of a layer says: napari's own reader leaves it out, or reads it otherwise."""

from __future__ import annotations

import dataclasses
import weakref
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt

from ...addresses import is_address
from ...images.class_folders import IMAGE_SUFFIXES
from ...images.errors import ImageError
from ...images.opening import open_field
from .field_layers import colour_of, field_layer, images_in_file, profile_of
from .parts import Parts
from .sources import METADATA_KEY, file_of, shape_of, slide_of

if TYPE_CHECKING:
    from napari.layers import Image

    from ...images.fields.field import Field


__all__ = ["FileFacts"]


@dataclasses.dataclass(frozen=True, eq=False)
class _Request:
    """A layer, the image of its file that it is to show, and its pixels as they are now."""

    layer: weakref.ref[Image]
    path: str
    image: int | None
    data: npt.NDArray[Any] | None
    icc: bool | None = None

    @property
    def chosen(self) -> bool:
        """Whether the user asked for just this."""
        return self.image is not None or self.icc is not None


@dataclasses.dataclass(frozen=True, eq=False)
class _Found:
    """What a file holds; `replaces` where it is not what the layer shows."""

    field: Field
    replaces: bool


class FileFacts:
    """Looks into the files of layers, once each, for what the layers lack or show otherwise.

    A layer that shows what napari's own reader made of a file is given the
    pixels that Python and the command line read from it: turned by EXIF, the
    largest of several images, inks as colours. Pixels that were changed since
    are left as they are.

    Parameters
    ----------
    parts : Parts
        Its selection takes what is found.
    notify : callable, optional
        Called after the session has taken something.
    """

    def __init__(self, parts: Parts, notify: Callable[[], None] | None = None) -> None:
        self._selection, self._status, self._notify = parts.selection, parts.status, notify
        self._lane = parts.lanes.add(
            _read, given=self._take, failed=lambda _, error: parts.status.fail(error), busy="also"
        )
        self._asked: weakref.WeakSet[Image] = weakref.WeakSet()

    def ask(self, layer: Image | None) -> None:
        """Look into the file that napari's reader opened a layer from."""
        if layer is None or layer in self._asked or layer.source.path is None:
            return
        # What our own readers opened is as the file says; a slide read whole may not fit memory.
        if METADATA_KEY in layer.metadata:
            return
        path = str(layer.source.path)
        if is_address(path) or Path(path).suffix.lower() not in IMAGE_SUFFIXES:
            return
        self._asked.add(layer)
        shown = layer.data if isinstance(layer.data, np.ndarray) and not layer.multiscale else None
        self._lane.ask(_Request(weakref.ref(layer), path, None, shown))

    def choose(self, layer: Image, image: int) -> None:
        """Show another of the images in a layer's file."""
        path = file_of(layer)
        if path is not None and images_in_file(layer)[1] != image:
            self._lane.ask(_Request(weakref.ref(layer), path, image, None))

    def use_profile(self, layer: Image, on: bool) -> None:
        """Show a layer's colours converted by the profile in its file, or as they are stored."""
        found = profile_of(layer)
        if found is None or found[1] == on:
            return
        slide, path = slide_of(layer), file_of(layer)
        if slide is not None:
            slide.use_profile(on)
            layer.refresh()
            self._selection.unsettled.emit(layer)
            self._selection.images_changed.emit()
        elif path is not None:
            several, image = images_in_file(layer)
            wanted = image if several else None
            self._lane.ask(_Request(weakref.ref(layer), path, wanted, None, on))

    def show_as_colour(self, layer: Image) -> None:
        """Show three planes as one image in colour."""
        field = colour_of(layer)
        self._replace(layer, field)
        if field.notes:
            self._status.notify(_sentences(field.notes), "warning")

    def close(self) -> None:
        """Take no more of what was asked for."""
        self._lane.close()

    def _take(self, asked: _Request, found: _Found | None) -> None:
        layer = asked.layer()
        if found is None or layer is None or not self._selection.is_open(layer):
            return
        field = found.field
        if found.replaces:
            layer = self._replace(layer, field)
            if field.notes:
                self._status.notify(_sentences(field.notes), "warning")
        elif field.images:
            _remember(layer, field)
        known, changes = self._selection.settings_of(layer), dict[str, Any]()
        # The user may have answered meanwhile.
        if field.pixel_size is not None and known.origin == "unknown":
            changes |= {"pixel_size": field.pixel_size, "origin": "file"}
        if field.modality != "unknown" and known.modality == "unknown":
            changes |= {"modality": field.modality, "unit": field.unit}
        if changes:
            self._selection.set_settings(layer, **changes)
        if (changes or found.replaces) and self._notify is not None:
            self._notify()

    def _replace(self, layer: Image, field: Field) -> Image:
        """Show a field in a layer, or in a new one in its place where napari needs that."""
        from napari.layers import Layer

        data, attributes, kind = field_layer(field)
        viewer, selection = self._selection.viewer, self._selection
        assert viewer is not None
        reshaped = shape_of(layer) != field.shape
        if layer.rgb == attributes["rgb"] and layer.ndim == data.ndim - bool(layer.rgb):
            layer.data = data
            _remember(layer, field)
            selection.unsettled.emit(layer)
            new = layer
        else:
            settings, name = selection.settings_of(layer), layer.name
            if "scale" not in attributes:
                ahead = data.ndim - bool(attributes["rgb"]) - 2
                attributes["scale"] = (*(1.0,) * ahead, *layer.scale[-2:])
                attributes["units"] = (*("pixel",) * ahead, *layer.units[-2:])
            made: Any = Layer.create(data, attributes, kind)
            new = made
            if file_of(layer) is not None:
                new.metadata[METADATA_KEY]["path"] = file_of(layer)
            viewer.layers.insert(viewer.layers.index(layer) + 1, new)
            viewer.layers.remove(layer)
            new.name = name
            if settings.origin == "user":
                selection.set_settings(new, pixel_size=settings.pixel_size, origin="user")
        if reshaped:
            viewer.fit_to_view()
        selection.set_image(new)
        selection.images_changed.emit()
        return new


def _remember(layer: Image, field: Field) -> None:
    """Keep in a layer which of the images of its file it shows."""
    known = layer.metadata.setdefault(METADATA_KEY, {})
    known |= {"modality": field.modality, "unit": field.unit}
    if field.images:
        known |= {"images": field.images, "image": field.image}
    if field.profile:
        known |= {"profile": field.profile, "profile_applied": field.profile_applied}


def _read(asked: _Request) -> _Found | None:
    try:
        field = open_field(asked.path, image=asked.image, icc=asked.icc is not False)
    except (ImageError, OSError):
        if asked.chosen:
            raise
        return None  # napari opened it; what it shows stays
    if asked.chosen:
        return _Found(field, replaces=True)
    shown = asked.data
    if shown is None or _equal(field_layer(field)[0], shown):
        return _Found(field, replaces=False)
    # Pixels that are neither are the user's own work.
    return _Found(field, replaces=_equal(_read_by_napari(asked.path), shown))


def _read_by_napari(path: str) -> npt.NDArray[Any] | None:
    from napari_builtins.io import imread  # type: ignore[import-untyped]

    try:
        return np.asarray(imread(path))
    except (ValueError, OSError):
        return None


def _equal(made: npt.NDArray[Any] | None, shown: npt.NDArray[Any]) -> bool:
    if made is None or made.shape != shown.shape or made.dtype != shown.dtype:
        return False
    return np.array_equal(made, shown, equal_nan=made.dtype.kind == "f")


def _sentences(notes: Sequence[str]) -> str:
    return " ".join(f"{note.rstrip('.')}." for note in notes)
