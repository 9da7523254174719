"""What a user said about cells, regions and images: kept on disk from the first click."""

from __future__ import annotations

import dataclasses
import hashlib
import math
import operator
import time
import uuid
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from typing import Any, Literal, Protocol

import numpy as np
import numpy.typing as npt
from psygnal import Signal

from ...card import CLASS_COLOURS
from ...images.fields.field import Field
from ...images.slides.pyramid import Pyramid
from .journal import Journal, JournalError, encode_line
from .rings import split_rings

__all__ = [
    "UNREADABLE",
    "Annotation",
    "Change",
    "ClassList",
    "ImageAnnotations",
    "ImageRecord",
    "JournalError",
    "Prepared",
    "changes_of",
    "class_colours",
    "image_hash",
    "new_annotation",
    "prepare",
    "second_id",
    "tidy_rater",
]

Kind = Literal["cell", "region", "image"]
Origin = Literal["placed", "corrected", "imported"]

_KINDS, _ORIGINS = ("cell", "region", "image"), ("placed", "corrected", "imported")
_MOST_CORNERS = 100_000
_TEXTS = frozenset({"id", "kind", "label", "origin", "model", "predicted", "rater"})
#: What values of other types than those that were written raise.
UNREADABLE = (KeyError, TypeError, ValueError, AttributeError, OverflowError)
_NAMESPACE = uuid.UUID("0b0f9a5e-2d0e-5a53-8f4e-7a3c1d8be1c6")
#: Of the name of a rater.
_MOST_LETTERS = 60
#: Changes are written in lines of about so many characters: a longer one is not read back.
_LONG_LINE = 2**22
#: A history this many times longer than what is left of it is cut when it is opened.
_SLACK, _LEAST_LINES = 4, 500


@dataclasses.dataclass(frozen=True)
class Annotation:
    """What a user said about one thing.

    Parameters
    ----------
    id : str
        Unlike that of any other annotation; see `new_annotation`.
    kind : {"cell", "region", "image"}
        A point, an outline, or the image as a whole.
    label : str
        The class.
    position : (float, float), optional
        (y, x) of a cell in pixels, on a slide in level-0 pixels; a pixel's
        centre is at its index.
    diameter_px : float, optional
        Of a cell, where it is known.
    polygon : tuple of (float, float), optional
        (y, x) corners of a region; holes hang on it by seams, see `join_rings`.
    origin : {"placed", "corrected", "imported"}
        Whether it was put there, corrects a prediction, or comes from a file.
    model, predicted : str
        Of a correction: the hash of the model, and the class that it gave.
    time : float
        When it got its class, in seconds since 1970.
    t, z : int
        Frame and slice of a stack.
    rater : str
        Who gave the class; empty where nobody said.
    settles : tuple of str
        Of a decision between opinions that differ: their ids.

    Raises
    ------
    ValueError
        If a value makes no sense, or a cell has no position, a region no outline.
    """

    id: str
    kind: Kind
    label: str
    position: tuple[float, float] | None = None
    diameter_px: float | None = None
    polygon: tuple[tuple[float, float], ...] | None = None
    origin: Origin = "placed"
    model: str = ""
    predicted: str = ""
    time: float = 0.0
    t: int = 0
    z: int = 0
    rater: str = ""
    settles: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        if self.kind not in _KINDS or self.origin not in _ORIGINS:
            raise ValueError(f"an annotation is one of {_KINDS}, got {self.kind!r}")
        if not self.id or not self.label.strip() or len(self.label) > 200:
            raise ValueError("an annotation needs an id, and a class of 1 to 200 characters")
        if self.kind == "cell" and (self.position is None or not _finite([self.position])):
            raise ValueError("a cell needs a position of two finite numbers")
        corners = self.polygon or ()
        if self.kind == "region" and not 3 <= len(corners) <= _MOST_CORNERS:
            raise ValueError(f"a region needs 3 to {_MOST_CORNERS} corners, got {len(corners)}")
        if not _finite(corners):
            raise ValueError("the corners of a region must be finite")
        if len(self.rater) > _MOST_LETTERS:
            raise ValueError(f"the name of a rater has at most {_MOST_LETTERS} characters")
        diameter = self.diameter_px
        if diameter is not None and not (math.isfinite(diameter) and diameter > 0):
            raise ValueError(f"a diameter must be positive, got {diameter}")

    @property
    def outline(self) -> npt.NDArray[np.float64]:
        """(n, 2) corners of a region; (0, 2) for other kinds."""
        return np.array(self.polygon or (), dtype=np.float64).reshape(-1, 2)

    @property
    def rings(self) -> list[npt.NDArray[np.float64]]:
        """(n, 2) corners of a region without its holes, then of each hole; of others none."""
        return split_rings(self.outline) if self.polygon else []

    @property
    def centre(self) -> tuple[float, float] | None:
        """(y, x) of a cell, the mean corner of a region, None for an image."""
        if self.position is not None:
            return self.position
        if self.polygon:
            y, x = self.rings[0].mean(axis=0)
            return float(y), float(x)
        return None

    def to_dict(self) -> dict[str, Any]:
        """Return plain values, for JSON; those that are not set are left out."""
        # Not by `asdict`, which copies each corner of an outline.
        every = {field.name: getattr(self, field.name) for field in dataclasses.fields(self)}
        return {key: value for key, value in every.items() if value not in (None, "", 0, ())}

    @classmethod
    def from_dict(cls, plain: Mapping[str, Any]) -> Annotation:
        """Make one from `to_dict`; unknown entries, of a later version, are ignored."""
        known = {field.name for field in dataclasses.fields(cls)}
        values = {key: value for key, value in plain.items() if key in known}
        for key in values.keys() & _TEXTS:
            # What cannot be written as UTF-8 could not be exported.
            values[key].encode()
        for key in values.keys() & {"t", "z"}:
            values[key] = operator.index(values[key])
        if not math.isfinite(values.get("time", 0.0)):
            raise ValueError("a time must be finite")
        if values.get("diameter_px") is not None:
            values["diameter_px"] = float(values["diameter_px"])
        if values.get("position") is not None:
            y, x = values["position"]
            values["position"] = (float(y), float(x))
        if values.get("polygon") is not None:
            values["polygon"] = tuple((float(y), float(x)) for y, x in values["polygon"])
        values["rater"] = str(values.get("rater", ""))
        if values.get("settles") is not None:
            values["settles"] = tuple(map(str, values["settles"]))
        return cls(**values)


def new_annotation(kind: Kind, label: str, **values: Any) -> Annotation:
    """Return an annotation with a new id and the present time."""
    values = {"id": uuid.uuid4().hex, "time": time.time(), **values}
    return Annotation(kind=kind, label=label, **values)


def second_id(first: str, rater: str) -> str:
    """Return the id of another rater's opinion on what an annotation is of."""
    return uuid.uuid5(_NAMESPACE, f"{first}|{rater}").hex


def tidy_rater(name: str) -> str:
    """Return a rater's name on one line, without spaces around it, and not too long."""
    return " ".join(name.split())[:_MOST_LETTERS].rstrip()


@dataclasses.dataclass(frozen=True)
class Change:
    """One annotation before and after: new where `before` is None, gone where `after` is."""

    before: Annotation | None
    after: Annotation | None


@dataclasses.dataclass(frozen=True, eq=False)
class Prepared:
    """Changes of the annotations of an image, and the lines that keep them; see `prepare`."""

    changes: tuple[Change, ...]
    lines: tuple[bytes, ...]


def prepare(before: Mapping[str, Annotation], items: Iterable[Annotation]) -> Prepared:
    """Prepare changes for `ImageAnnotations.commit`; call it from a worker where there are many.

    Parameters
    ----------
    before : mapping of str to Annotation
        What is there now, by id.
    items : iterable of Annotation
        What is to be added, or to replace what has the same id; nothing is signed.
    """
    made = {item.id: Change(before.get(item.id), item) for item in items}
    changes = tuple(change for change in made.values() if change.before != change.after)
    return Prepared(changes, tuple(_encode("do", changes)) if changes else ())


def _encode(op: str, changes: Iterable[Change]) -> list[bytes]:
    """Return the lines that keep one change, as many as it takes."""
    lines: list[list[Any]] = [[]]
    room = _LONG_LINE
    for change in changes:
        sides = (change.before, change.after)
        row = [None if item is None else item.to_dict() for item in sides]
        size = sum(_length(plain) for plain in row if plain is not None)
        if lines[-1] and size > room:
            lines.append([])
            room = _LONG_LINE
        lines[-1].append(row)
        room -= size
    return [
        encode_line({"op": op if number == 0 else "more", "changes": line})
        for number, line in enumerate(lines)
    ]


@dataclasses.dataclass(frozen=True)
class ImageRecord:
    """What is known of an annotated image when it is not open.

    Parameters
    ----------
    hash : str
        See `image_hash`.
    name : str
        What to call it.
    shape : (int, int)
        Height and width in pixels, of a slide at level 0.
    pixel_size : float or None
        µm per pixel.
    path : str
        Where it was last opened from; empty where it came from no file.
    """

    hash: str
    name: str = ""
    shape: tuple[int, int] = (0, 0)
    pixel_size: float | None = None
    path: str = ""

    @classmethod
    def from_dict(cls, plain: Mapping[str, Any]) -> ImageRecord:
        """Make one from the plain values of a journal."""
        height, width = plain.get("shape", (0, 0))
        size = plain.get("pixel_size")
        return cls(
            str(plain["hash"]),
            str(plain.get("name", "")),
            (int(height), int(width)),
            None if size is None or not math.isfinite(size) else float(size),
            str(plain.get("path", "")),
        )


class ClassList(Protocol):
    """A project's classes and their colours, which new labels join."""

    def classes(self) -> dict[str, str]:
        """Return names and colours ``#rrggbb``."""

    def add_classes(self, names: Iterable[str]) -> dict[str, str]:
        """Append those that are not there yet."""


class ImageAnnotations(Sequence[Annotation]):
    """The annotations of one image, in the order in which they were made.

    Every change is on disk before it shows here: a process that is
    killed loses none. Changes of several annotations at once are undone at
    once. `Project.open` opens them. Like any sequence they are false while
    there are none: ask ``is None``, not ``if annotations``.

    Parameters
    ----------
    journal : Journal
        Where changes are written.
    image : ImageRecord
        What the annotations are of.
    project : ClassList, optional
        Whose list of classes new labels join.
    released : callable, optional
        Called when the last who opened them has closed them.

    Attributes
    ----------
    changed : Signal
        Emits a tuple of `Change` after every change.
    message : str
        What to tell the user: why they cannot be changed, or that a part
        of its file was damaged; empty where all is well.
    rater : str
        Who works here: whose name new annotations and classes get. What is
        imported keeps the name that it came with.
    """

    changed = Signal(tuple)

    def __init__(
        self,
        journal: Journal,
        image: ImageRecord,
        project: ClassList | None = None,
        released: Callable[[], object] | None = None,
    ) -> None:
        self.image, self.project = image, project
        self.rater = ""
        self._journal, self._released, self._users = journal, released, 1
        self._items: dict[str, Annotation] = {}
        self._past: list[tuple[Change, ...]] = []
        self._future: list[tuple[Change, ...]] = []
        self._long = False
        skipped = sum(not self._replay(entry) for entry in journal.entries)
        #: How many of the changes that can be taken back were made before it was opened.
        self.n_before = len(self._past)
        self.message = self._describe(skipped)
        if journal.writable:
            self._tidy(cut=not skipped)

    def __len__(self) -> int:
        return len(self._items)

    def __getitem__(self, index: Any) -> Any:
        return list(self._items.values())[index]

    def __iter__(self) -> Iterator[Annotation]:
        return iter(tuple(self._items.values()))

    def __contains__(self, item: object) -> bool:
        return isinstance(item, Annotation) and self._items.get(item.id) == item

    def get(self, id: str) -> Annotation | None:  # noqa: A002
        """Return the annotation with an id, or None."""
        return self._items.get(id)

    @property
    def writable(self) -> bool:
        """Whether they can be changed here."""
        return self._journal.writable

    @property
    def can_undo(self) -> bool:
        """Whether there is a change to undo."""
        return bool(self._past) and self.writable

    @property
    def n_done(self) -> int:
        """How many changes can be taken back one after the other."""
        return len(self._past)

    @property
    def can_redo(self) -> bool:
        """Whether there is a change to redo."""
        return bool(self._future) and self.writable

    def add(self, kind: Kind, label: str, **values: Any) -> Annotation:
        """Add one annotation; `values` are those of `Annotation`.

        Raises
        ------
        ValueError
            If it makes no sense.
        JournalError
            If it cannot be saved; it is then not added.
        """
        made = new_annotation(kind, label, **values)
        self.put([made])
        return made

    def put(self, annotations: Iterable[Annotation]) -> None:
        """Add annotations, or replace those with the same ids, as one change.

        One that is new is by `rater`; one that has another class than before becomes
        what `opinion` makes of it.
        """
        changes: dict[str, Change] = {}
        for item in annotations:
            after = self._signed(self._items.get(item.id), item)
            changes[after.id] = Change(self._items.get(after.id), after)
        self._do(tuple(c for c in changes.values() if c.before != c.after))

    def commit(self, prepared: Prepared) -> None:
        """Make changes that were prepared in a worker, as one change.

        Where one of them has been changed since, they are put as they are.
        """
        changes = prepared.changes
        if any(c.after is not None and self._items.get(c.after.id) != c.before for c in changes):
            self.put(c.after for c in changes if c.after is not None)
        elif changes:
            self._journal.append_lines(prepared.lines)
            self._note(changes)

    def relabel(self, ids: Iterable[str], label: str, **values: Any) -> None:
        """Give annotations a class, as one change; see `opinion`.

        Raises
        ------
        KeyError
            If there is no such annotation.
        """
        self.put(self.opinion(self._items[i], label, **values) for i in ids)

    def opinion(self, item: Annotation, label: str, **values: Any) -> Annotation:
        """Return what an annotation becomes when `rater` gives it a class; nothing is kept yet.

        One by another rater stays as it is: there will be a second one, by this rater.

        Parameters
        ----------
        item : Annotation
            One of these.
        label : str
            The class.
        **values
            Of `Annotation`, replaced with it.
        """
        mine = dataclasses.replace(item, label=label, **values)
        if item.rater and self.rater not in ("", item.rater) and not item.settles:
            id_ = second_id(item.id, self.rater)
            own = self._items.get(id_)
            if own is not None:
                if own.label == label:
                    return own
                mine = dataclasses.replace(own, label=label, **values)
            return dataclasses.replace(mine, id=id_, rater=self.rater, time=time.time())
        if label == item.label and self.rater in ("", item.rater):
            return mine
        return dataclasses.replace(mine, rater=self.rater, time=time.time())

    def rename(self, old: str, new: str) -> None:
        """Give a class another name, as one change: who gave it stays who it was."""
        renamed = [(item, dataclasses.replace(item, label=new)) for item in self]
        self._do(tuple(Change(item, to) for item, to in renamed if item.label == old))

    def remove(self, ids: Iterable[str]) -> None:
        """Remove annotations, as one change; ids that are not there are ignored."""
        found = {i: self._items[i] for i in ids if i in self._items}
        self._do(tuple(Change(item, None) for item in found.values()))

    def undo(self) -> tuple[Change, ...]:
        """Take the last change back; returns what happened."""
        if not self._past:
            return ()
        back = tuple(Change(c.after, c.before) for c in reversed(self._past[-1]))
        self._write("undo", back)
        self._future.append(self._past.pop())
        return self._apply_and_emit(back)

    def redo(self) -> tuple[Change, ...]:
        """Make the change again that was taken back last; returns what happened."""
        if not self._future:
            return ()
        again = self._future[-1]
        self._write("redo", again)
        self._past.append(self._future.pop())
        return self._apply_and_emit(again)

    def note_image(self, image: ImageRecord) -> None:
        """Keep what is known of the image now, such as a pixel size that was given.

        Raises
        ------
        ValueError
            If it is another image.
        JournalError
            If it cannot be saved.
        """
        if image.hash != self.image.hash:
            raise ValueError(f"these are annotations of {self.image.hash}, not of {image.hash}")
        if image != self.image:
            self._journal.append({"format": 1, "image": _plain(image)})
            self.image = image

    def counts(self) -> dict[str, int]:
        """How many annotations each class has, in the order of `classes`."""
        found = Counter(item.label for item in self)
        return {name: found[name] for name in self.classes()}

    def classes(self) -> dict[str, str]:
        """Classes and their colours, ``#rrggbb``: those of the project, used or not."""
        own = dict.fromkeys(item.label for item in self)
        return class_colours({} if self.project is None else self.project.classes(), own)

    def flush(self) -> None:
        """Wait until everything is on the disk."""
        self._journal.flush()

    def share(self) -> None:
        """Count one more who has them open, and closes them."""
        self._users += 1

    def close(self) -> None:
        """Let other programs change them, once all who opened them here have closed them."""
        self._users -= 1
        if self._users > 0:
            return
        self._journal.close()
        if self._released is not None:
            self._released()

    def _signed(self, before: Annotation | None, after: Annotation) -> Annotation:
        if before is None:
            signs = self.rater and not after.rater and after.origin != "imported"
            return dataclasses.replace(after, rater=self.rater) if signs else after
        same = (before.rater, before.time) == (after.rater, after.time)
        if same and before.label != after.label:
            return self.opinion(dataclasses.replace(after, label=before.label), after.label)
        return after

    def _do(self, changes: tuple[Change, ...]) -> None:
        if not changes:
            return
        self._write("do", changes)
        self._note(changes)

    def _note(self, changes: tuple[Change, ...]) -> None:
        """Take changes over that are in the journal."""
        self._past.append(changes)
        self._future.clear()
        if self.project is not None:
            self.project.add_classes(c.after.label for c in changes if c.after is not None)
        self._apply_and_emit(changes)

    def _write(self, op: str, changes: tuple[Change, ...]) -> None:
        self._journal.append_lines(_encode(op, changes))

    def _apply_and_emit(self, changes: tuple[Change, ...]) -> tuple[Change, ...]:
        self._apply(changes)
        self.changed.emit(changes)
        return changes

    def _apply(self, changes: Iterable[Change]) -> None:
        for change in changes:
            if change.after is not None:
                self._items[change.after.id] = change.after
            elif change.before is not None:
                self._items.pop(change.before.id, None)

    def _replay(self, entry: dict[str, Any]) -> bool:
        """Apply a line of the journal; False if this version cannot read it."""
        if "image" in entry:
            return True
        changes = changes_of(entry)
        if changes is None:
            return False
        self._apply(changes)
        if entry.get("op") == "undo":
            self._future.append(self._past.pop() if self._past else ())
        elif entry.get("op") == "redo":
            self._past.append(self._future.pop() if self._future else changes)
        elif entry.get("op") == "do":
            self._past.append(changes)
            self._future.clear()
            self._long = True
            return True
        elif entry.get("op") == "more" and self._long and self._past:
            # A change that took several lines is still taken back as one.
            self._past[-1] += changes
            return True
        self._long = False
        return True

    def _tidy(self, cut: bool) -> None:
        """Write where the image is now, and shorten a journal that is mostly history."""
        lines = self._journal.entries
        known = [entry["image"] for entry in lines if "image" in entry]
        image = {"format": 1, "image": _plain(self.image)}
        # Changes of a newer version, which do not show, would be lost.
        if cut and len(lines) > max(_LEAST_LINES, _SLACK * len(self)):
            kept = [{"op": "kept", "changes": [[None, item.to_dict()]]} for item in self]
            self._journal.rewrite([image, *kept])
            self._past.clear()
            self._future.clear()
        elif not known or known[-1] != image["image"]:
            self._journal.append(image)

    def _describe(self, skipped: int) -> str:
        if not self._journal.writable:
            return (
                f"Another program has the annotations of {self._journal.name} open. They can be "
                "looked at here, and changed there; close them there to change them here."
            )
        if self._journal.damaged is not None:
            return (
                f"A part of the annotations of {self._journal.name} was damaged, most likely by a "
                f"crash, and was put aside as {self._journal.damaged.name}. All else is here."
            )
        if skipped:
            return (
                f"{skipped} changes were made by a newer version of this plugin and do not show. "
                "Update napari-sparseattn to see them."
            )
        return ""


def changes_of(entry: Mapping[str, Any]) -> tuple[Change, ...] | None:
    """Return the changes in a line of a journal, or None where this version cannot read them."""
    try:
        return tuple(
            Change(*(None if side is None else Annotation.from_dict(side) for side in row))
            for row in entry.get("changes", ())
        )
    except UNREADABLE:
        return None


def class_colours(
    known: Mapping[str, str], names: Iterable[str], colours: Mapping[str, str] | None = None
) -> dict[str, str]:
    """Append names to classes with colours: those given, else the first that is free."""
    every = dict(known)
    for name in names:
        if name in every:
            continue
        wanted = (colours or {}).get(name)
        taken = {colour.upper() for colour in every.values()}
        free = [c for c in CLASS_COLOURS if c.upper() not in taken]
        if wanted and wanted.upper() not in taken:
            every[name] = wanted
        else:
            every[name] = free[0] if free else CLASS_COLOURS[len(every) % len(CLASS_COLOURS)]
    return every


def image_hash(image: Field | Pyramid) -> str:
    """Return a name for an image that depends on its pixels alone, not on its file's name.

    Of a field every pixel counts; of a slide a sample, see `inference.features.slide_hash`.
    """
    if isinstance(image, Pyramid):
        from ...features.extract import slide_hash

        return slide_hash(image)
    digest = hashlib.sha256(f"{image.data.dtype.str}|{image.data.shape}|{image.axes}|".encode())
    # Part by part: the data may be memory-mapped and larger than memory.
    for part in image.data:
        digest.update(np.ascontiguousarray(part).data)
    return digest.hexdigest()


def _plain(image: ImageRecord) -> dict[str, Any]:
    return {**dataclasses.asdict(image), "shape": list(image.shape)}


def _length(plain: Mapping[str, Any]) -> int:
    """About how many characters the plain values of an annotation take."""
    return 400 + 48 * len(plain.get("polygon", ())) + 40 * len(plain.get("settles", ()))


def _finite(points: Iterable[Sequence[float]]) -> bool:
    return all(len(point) == 2 and all(map(math.isfinite, point)) for point in points)
