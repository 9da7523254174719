"""Images that are annotated: what they are called by, and their pixels for training."""

from __future__ import annotations

import dataclasses
from collections import Counter
from collections.abc import Collection, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from ...images.fields.field import Field
from ...images.opening import open_field
from ...images.slides.opening import is_slide, open_slide
from ...images.slides.pyramid import Pyramid
from ...training.data.annotations import ImageAnnotations, ImageRecord, image_hash
from ...training.data.project import Project
from ..core.sources import ImageSettings, SourceError, file_of, slide_of

if TYPE_CHECKING:
    from napari.layers import Image

__all__ = ["Identified", "ImageSource", "Known", "Opener", "identify", "survey"]

#: Of larger stacks, only some planes count for the hash.
_MOST_HASHED_BYTES = 2**31
#: Larger images are opened piece by piece.
_MOST_FIELD_PIXELS = 2**28


@dataclasses.dataclass(frozen=True, eq=False)
class ImageSource:
    """The pixels of an image layer, frozen for a worker.

    Parameters
    ----------
    data : array-like
        The layer's pixels at full resolution.
    rgb : bool
        Whether the last axis is colour.
    name, path : str
        The layer's name, and its file if it came from one.
    settings : ImageSettings
        Pixel size and what the image shows.
    pyramid : Pyramid or None
        The slide, if it is one.
    """

    data: Any
    rgb: bool
    name: str
    path: str
    settings: ImageSettings
    pyramid: Pyramid | None

    @classmethod
    def of(cls, layer: Image, settings: ImageSettings) -> ImageSource:
        """Freeze a layer."""
        pyramid = slide_of(layer)
        path = pyramid.path if pyramid is not None else file_of(layer)
        data = layer.data[0] if layer.multiscale else layer.data
        return cls(data, bool(layer.rgb), layer.name, str(path or ""), settings, pyramid)

    @property
    def shape(self) -> tuple[int, int]:
        """Height and width in pixels, of a slide at level 0."""
        if self.pyramid is not None:
            return self.pyramid.shape
        height, width = self.data.shape[:-1][-2:] if self.rgb else self.data.shape[-2:]
        return int(height), int(width)

    def image(self, every: int = 1) -> Field | Pyramid:
        """Return the slide, or the whole stack as a field whose first axis is time.

        Parameters
        ----------
        every : int
            Read one in so many frames only.

        Raises
        ------
        SourceError
            If the image has too many axes, or values that no model takes.
        """
        if self.pyramid is not None:
            return self.pyramid
        ahead = len(self.data.shape) - 2 - self.rgb
        if ahead > 2:
            raise SourceError(
                f"'{self.name}' has {ahead} axes besides y and x; images with at most two can be "
                "annotated. Split it into several layers."
            )
        data = np.asarray(self.data[::every] if every > 1 else self.data)
        known = self.settings
        axes = "TZ"[:ahead] + "YX" + "C" * self.rgb
        try:
            return Field(data, axes, known.pixel_size, known.modality, known.unit, self.name)
        except (TypeError, ValueError) as error:
            raise SourceError(f"'{self.name}' cannot be annotated: {error}.") from error


@dataclasses.dataclass(frozen=True)
class Known:
    """An image of a project, and how many annotations of each class it has."""

    record: ImageRecord
    counts: Mapping[str, int]


@dataclasses.dataclass(frozen=True, eq=False)
class Identified:
    """Which image a layer shows, its annotations if it has some, and the project's images."""

    record: ImageRecord
    annotations: ImageAnnotations | None
    known: Mapping[str, Known]


def survey(project: Project) -> dict[str, Known]:
    """Return the images of a project by their hashes; call it from a worker."""
    return {
        record.hash: Known(record, Counter(item.label for item in items))
        for record, items in project.annotations()
    }


def identify(source: ImageSource, project: Project, open_here: Collection[str]) -> Identified:
    """Tell which image of a project a layer shows; call it from a worker.

    Parameters
    ----------
    source : ImageSource
        Its pixels, all of which are read, but for slides and very large stacks.
    project : Project
        Whose annotations.
    open_here : collection of str
        Hashes of images whose annotations are open already, and are not opened again.

    Raises
    ------
    SourceError
        If it cannot be annotated.
    """
    size = 0 if source.pyramid is not None else int(getattr(source.data, "nbytes", 0))
    name = image_hash(source.image(every=max(1, -(-size // _MOST_HASHED_BYTES))))
    known = survey(project)
    record = ImageRecord(name, source.name, source.shape, source.settings.pixel_size, source.path)
    if name in known:
        record = _add_known(record, known[name].record)
    annotations = project.open(record) if name in known and name not in open_here else None
    return Identified(record, annotations, known)


class Opener:
    """Opens annotated images in a worker; those that are open layers are not read again.

    Parameters
    ----------
    layers : mapping of str to ImageSource
        Open images by their hashes.
    """

    def __init__(self, layers: Mapping[str, ImageSource]) -> None:
        self._layers = dict(layers)

    def __call__(self, record: ImageRecord) -> Field | Pyramid | None:
        """Return an image, or None where it is not at hand.

        Raises
        ------
        ImageError, OSError
            If its file cannot be read.
        ValueError
            If its file is now of another size.
        """
        source = self._layers.get(record.hash)
        if source is not None:
            return source.image()
        path = Path(record.path)
        if not record.path or not path.exists():
            return None
        height, width = record.shape
        if path.is_dir() or is_slide(path) or height * width > _MOST_FIELD_PIXELS:
            return open_slide(path)
        field = open_field(path, pixel_size=record.pixel_size)
        if field.shape != record.shape:
            raise ValueError(f"{path.name} is {field.shape} pixels now, it was {record.shape}")
        return field


def _add_known(record: ImageRecord, known: ImageRecord) -> ImageRecord:
    """Keep what was known of an image and cannot be seen from the layer."""
    size = known.pixel_size if record.pixel_size is None else record.pixel_size
    return dataclasses.replace(record, pixel_size=size, path=record.path or known.path)
