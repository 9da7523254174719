"""A folder of annotations: one list of classes, one journal per image."""

from __future__ import annotations

import contextlib
import json
import os
import re
import threading
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any

from filelock import FileLock, Timeout

from ...files import replacing
from .annotations import (
    UNREADABLE,
    Annotation,
    ImageAnnotations,
    ImageRecord,
    changes_of,
    class_colours,
)
from .journal import Journal, JournalError, read_journal
from .raters import one_class_each

__all__ = ["Project", "ProjectError", "default_project_folder", "read_annotations"]

_CLASSES, _IMAGES, _SUFFIX = "project.json", "images", ".jsonl"
_COLOUR = re.compile(r"#[0-9A-Fa-f]{6}")
_HASH = re.compile(r"[0-9a-zA-Z_-]{8,128}")


#: What this process can change, by its process and file: two windows of one process share it.
_OPEN: dict[tuple[int, Path], ImageAnnotations] = {}
_OPENING = threading.Lock()


class ProjectError(ValueError):
    """A project folder that cannot be used; the message says why and what to do."""


def default_project_folder() -> Path:
    """Folder of the project that is used where none is chosen.

    ``NAPARI_SPARSEATTN_ANNOTATIONS`` if set, else the platform's data folder.
    """
    import platformdirs

    chosen = os.environ.get("NAPARI_SPARSEATTN_ANNOTATIONS")
    if chosen:
        return Path(chosen)
    return platformdirs.user_data_path("napari-sparseattn") / "annotations"


class Project:
    """Annotations of many images, and the classes they share.

    Parameters
    ----------
    folder : path-like, optional
        By default `default_project_folder`. Made when the first thing is kept.

    Raises
    ------
    ProjectError
        If its list of classes is damaged or of a newer version.
    """

    def __init__(self, folder: str | os.PathLike[str] | None = None) -> None:
        self.folder = Path(folder) if folder is not None else default_project_folder()
        self.classes()

    def classes(self) -> dict[str, str]:
        """Names of the classes and their colours ``#rrggbb``, in the order of their keys."""
        path = self.folder / _CLASSES
        try:
            plain = json.loads(path.read_bytes())
            if plain["format"] != 1:
                raise ProjectError(
                    f"{path} was written by a newer version of this plugin. Update "
                    "napari-sparseattn to open it."
                )
            return {str(row["name"]): _colour(row["colour"]) for row in plain["classes"]}
        except FileNotFoundError:
            return {}
        except (KeyError, TypeError, ValueError, AttributeError, RecursionError) as error:
            if isinstance(error, ProjectError):
                raise
            raise ProjectError(
                f"{path} is damaged ({error}). The annotations beside it are not: remove this one "
                "file, and the classes are listed anew from them."
            ) from error

    def add_classes(
        self, names: Iterable[str], colours: Mapping[str, str] | None = None
    ) -> dict[str, str]:
        """Append classes that are not there yet; those that are keep place and colour.

        Parameters
        ----------
        names : iterable of str
            E.g. a model's.
        colours : mapping of str to str, optional
            Colours to give, e.g. a model's; by default the next that is free.
        """
        wanted = dict.fromkeys(names)
        if all(name in self.classes() for name in wanted):
            return self.classes()
        with self._locked():
            return self._write(class_colours(self.classes(), wanted, colours))

    def set_classes(self, classes: Mapping[str, str]) -> None:
        """Replace the list: order, colours, and which there are.

        Raises
        ------
        ProjectError
            If a class that annotations have would be gone, or a name or colour is none.
        """
        used = self.counts()
        lost = [name for name, n in used.items() if n and name not in classes]
        if lost:
            raise ProjectError(
                f"{', '.join(lost)}: there are annotations of this class. Give them another "
                "class, or rename it."
            )
        if any(not name.strip() or not _COLOUR.fullmatch(c) for name, c in classes.items()):
            raise ProjectError("A class needs a name, and a colour such as #0072B2.")
        with self._locked():
            self._write(dict(classes))

    def rename_class(self, old: str, new: str) -> None:
        """Rename a class here and in all annotations; a name in use joins the two.

        Parameters
        ----------
        old, new : str
            Names.

        Raises
        ------
        ProjectError
            If another program has some of its annotations open; nothing is then changed.
        """
        if not new.strip():
            raise ProjectError("A class needs a name.")
        opened: list[ImageAnnotations] = []
        try:
            opened += (self.open(image) for image in self.images())
            busy = [one.image.name or one.image.hash[:8] for one in opened if not one.writable]
            if busy:
                raise ProjectError(
                    f"{', '.join(busy)} is open in another program. Close it there first."
                )
            known = self.classes()
            names = list(dict.fromkeys(new if name == old else name for name in known))
            colours = {name: known.get(name, known.get(old, "")) for name in names}
            with self._locked():
                self._write(class_colours({}, names, colours))
            for one in opened:
                one.rename(old, new)
        finally:
            for one in opened:
                one.close()

    def open(self, image: ImageRecord) -> ImageAnnotations:
        """Open the annotations of an image; new where there are none.

        What this process has open already is shared: it changes everywhere at
        once, and is free for others when each who opened it has closed it.
        Where another program has it open it can be looked at only; see
        `ImageAnnotations.message`.
        """
        path = self._path(image.hash).resolve()
        key = (os.getpid(), path)
        with _OPENING:
            there = _OPEN.get(key)
            if there is not None:
                there.share()
                return there
            journal = Journal(path, image.name or image.hash[:8])
            if not journal.writable:
                # When it is opened again, it may be free.
                return ImageAnnotations(journal, image, self)
            _OPEN[key] = ImageAnnotations(journal, image, self, lambda: _OPEN.pop(key, None))
            return _OPEN[key]

    def images(self) -> tuple[ImageRecord, ...]:
        """Return the annotated images, by name."""
        found = []
        # A dot begins what a killed process left unfinished, see `files.replacing`.
        for path in sorted((self.folder / _IMAGES).glob(f"[!.]*{_SUFFIX}")):
            entries = [e["image"] for e in read_journal(path)[0] if "image" in e]
            try:
                # The file's name is the hash, whatever stands in it.
                found.append(ImageRecord.from_dict({**entries[-1], "hash": path.stem}))
            except (IndexError, *UNREADABLE):
                found.append(ImageRecord(path.stem, path.stem))
        return tuple(sorted(found, key=lambda image: (image.name, image.hash)))

    def annotations(self) -> Iterator[tuple[ImageRecord, tuple[Annotation, ...]]]:
        """Go through all images with their annotations, without opening them for change."""
        for image in self.images():
            yield image, read_annotations(self._path(image.hash))

    def labelled(self) -> Iterator[tuple[ImageRecord, tuple[Annotation, ...]]]:
        """Go through all images with one annotation of each thing: what is learned from.

        Where several raters annotated the same thing, the decision between them counts, or
        else what most said, or else what was said last; see `one_class_each`.
        """
        for image, items in self.annotations():
            yield image, one_class_each(items)

    def counts(self) -> dict[str, int]:
        """How many annotations each class has, over all images."""
        counts = dict.fromkeys(self.classes(), 0)
        for _, items in self.annotations():
            for item in items:
                counts[item.label] = counts.get(item.label, 0) + 1
        return counts

    def _path(self, image_hash: str) -> Path:
        if not _HASH.fullmatch(image_hash):
            raise ProjectError(f"{image_hash!r} does not name an image.")
        return self.folder / _IMAGES / f"{image_hash}{_SUFFIX}"

    def _write(self, classes: dict[str, str]) -> dict[str, str]:
        rows = [{"name": name, "colour": colour} for name, colour in classes.items()]
        with replacing(self.folder / _CLASSES) as temporary:
            temporary.write_text(json.dumps({"format": 1, "classes": rows}, indent=1))
        return classes

    @contextlib.contextmanager
    def _locked(self) -> Iterator[None]:
        self.folder.mkdir(parents=True, exist_ok=True)
        try:
            with FileLock(self.folder / f"{_CLASSES}.lock", timeout=5):
                yield
        except Timeout as error:
            raise JournalError(
                f"{self.folder} is being written by another program. Try again."
            ) from error


def read_annotations(path: Path) -> tuple[Annotation, ...]:
    """Return the annotations in a journal without opening it for change."""
    items: dict[str, Annotation] = {}
    for entry in read_journal(path)[0]:
        for change in changes_of(entry) or ():
            if change.after is not None:
                items[change.after.id] = change.after
            elif change.before is not None:
                items.pop(change.before.id, None)
    return tuple(items.values())


def _colour(value: Any) -> str:
    if not isinstance(value, str) or not _COLOUR.fullmatch(value):
        raise TypeError(f"{value!r} is no colour")
    return value
