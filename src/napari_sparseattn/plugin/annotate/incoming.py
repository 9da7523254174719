"""Annotations of other programs' files, taken into the chosen image."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from functools import partial
from pathlib import Path

from ...training.data.annotations import Annotation, ImageRecord, Prepared, prepare
from ...training.data.taking_in import Arrivals, plan_arrivals, spell_classes
from ..core.messages import counted
from .classes import Classes
from .context import Context
from .files import AnnotatedImage, AnnotationFiles

__all__ = ["SUFFIXES", "Incoming", "is_annotations"]

#: What the names of such files end with.
SUFFIXES = (".geojson", ".geojson.gz", ".json", ".json.gz")


def is_annotations(path: str) -> bool:
    """Tell by a file's name whether it is one of annotations."""
    return path.lower().endswith(SUFFIXES)


@dataclasses.dataclass(frozen=True, eq=False)
class _Read:
    """A file that has been read for an image."""

    arrivals: Arrivals
    prepared: Prepared
    classes: dict[str, str]
    notes: tuple[str, ...]


class Incoming:
    """Reads files of annotations in another thread, and adds what is in them.

    Parameters
    ----------
    context : Context
        Shared by the parts of annotating.
    classes : Classes
        New ones join these, with their colours.
    files : AnnotationFiles
        Where annotations are kept.
    """

    def __init__(self, context: Context, classes: Classes, files: AnnotationFiles) -> None:
        self._context, self._classes, self._files = context, classes, files

    def import_file(self, path: str) -> bool:
        """Take the annotations in a file for those of the chosen image, as one change.

        Parameters
        ----------
        path : str
            GeoJSON, as QuPath exports it, or COCO JSON.

        Returns
        -------
        bool
            Whether it is being read; False where an image has to be open first, or where it is
            not known yet which image it is.
        """
        if self._context.session.selection.image is None:
            self._context.notify(
                f"Open the image that {Path(path).name} is of, then import it again.", "warning"
            )
            return False
        return self._files.when_open(partial(self._read, path))

    def _read(self, path: str, image: AnnotatedImage) -> None:
        there = () if image.annotations is None else tuple(image.annotations)
        known = self._classes.colours
        self._context.notify(f"Reading {Path(path).name}…")
        self._context.ask(
            partial(_read_file, path, image.record, there, known),
            partial(self._take, Path(path).name, image),
        )

    def _take(self, name: str, image: AnnotatedImage, read: _Read) -> None:
        arrivals = read.arrivals
        items = [*arrivals.new, *arrivals.changed]
        if image.image is None:
            self._context.notify(f"The image that {name} was for has been closed.", "warning")
            return

        def save() -> None:
            self._classes.use([item.label for item in items], read.classes)
            image.open().commit(read.prepared)
            image.show()

        if not items or self._context.save(save):
            said = [_summary(arrivals, name), *read.notes, *arrivals.notes]
            more = bool(read.notes or arrivals.notes)
            self._context.notify(" ".join(said), "warning" if more else "info")


def _read_file(
    path: str, record: ImageRecord, there: Sequence[Annotation], known: dict[str, str]
) -> _Read:
    """Read a file for an image; call it from a worker.

    Raises
    ------
    ValueError
        If it is no file of annotations, or of another image.
    """
    from ...export.annotation_files import read_annotation_files

    found = read_annotation_files(path)
    if len(found) > 1:
        names = (Path(record.path).name, record.name)
        mine = [each for each in found if _stem(each.name) in map(_stem, names)]
        if len(mine) != 1:
            others = ", ".join([*(each.name for each in found[:5]), *(["…"] if found[5:] else [])])
            raise ValueError(
                f"{Path(path).name} is of several images ({others}); none of them is called "
                f"'{record.name}'. Open one of these and import it again."
            )
        found = mine
    if not found:
        raise ValueError(f"There are no annotations in {Path(path).name}.")
    about = found[0].check_image(record)
    items, classes = spell_classes(found[0].items, known, found[0].colours)
    arrivals = plan_arrivals(there, items, record.shape, record.name)
    prepared = prepare({x.id: x for x in there}, (*arrivals.new, *arrivals.changed))
    return _Read(arrivals, prepared, classes, (*about, *found[0].notes))


def _stem(name: str) -> str:
    return name.lower().removesuffix(".geojson").removesuffix(".json").partition(".")[0]


def _summary(arrivals: Arrivals, name: str) -> str:
    new, changed = len(arrivals.new), len(arrivals.changed)
    if not (new or changed):
        return f"Nothing in {name} is new." if arrivals.there else f"Nothing in {name} was taken."
    said = f"{counted(new, 'annotation')} imported from {name}"
    return said + (f", {changed} changed." if changed else ".")
