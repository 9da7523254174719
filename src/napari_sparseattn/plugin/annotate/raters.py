"""Several raters in one viewer: who annotates, colleagues' projects, agreement, decisions."""

from __future__ import annotations

import dataclasses
import os
from collections.abc import Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from ...card import readable_name
from ...training.data.agreement import Agreement, compare_raters, shown_rater
from ...training.data.annotations import (
    Annotation,
    ImageAnnotations,
    ImageRecord,
    Prepared,
    prepare,
    second_id,
    tidy_rater,
)
from ...training.data.merging import join_projects, known_project
from ...training.data.project import Project
from ...training.data.raters import Thing
from ..core.messages import counted
from ..core.preferences import keep_rater
from .classes import Classes
from .context import Context
from .files import AnnotatedImage, AnnotationFiles
from .places import Move, Places, move_at_once

if TYPE_CHECKING:
    from psygnal import SignalInstance

__all__ = ["Dispute", "Raters"]

#: A square around what raters differ on, in its diameters.
_MARK = 1.6
#: So many diameters of what they differ on are to be seen.
_AROUND = 6.0


@dataclasses.dataclass(frozen=True, eq=False)
class Dispute:
    """Something that raters gave different classes."""

    image: ImageRecord
    thing: Thing


@dataclasses.dataclass(frozen=True, eq=False)
class _Added:
    """What a colleague's project adds to one's own."""

    name: str
    images: Mapping[ImageRecord, tuple[Annotation, ...]]
    #: What was there before in place of it, by image and id.
    before: Mapping[str, Mapping[str, Annotation]]
    prepared: Mapping[str, Prepared]
    classes: Mapping[str, str]
    raters: tuple[str, ...]

    @property
    def n(self) -> int:
        return sum(map(len, self.images.values()))


class Raters:
    """Who annotates here, what others said, and how far all agree.

    Parameters
    ----------
    context : Context
        Shared by the parts of annotating.
    classes : Classes
        That may be given.
    files : AnnotationFiles
        Where annotations are kept.
    places : Places
        Goes where raters differ.

    Attributes
    ----------
    found : list of Agreement or None
        How far raters agree, as it was when they were compared last.
    disputes : list of Dispute
        What they differ on, image by image.
    at : int or None
        Which of them is in view.
    move : callable
        How the camera gets there: at once, unless a window sets another.
    """

    def __init__(
        self, context: Context, classes: Classes, files: AnnotationFiles, places: Places
    ) -> None:
        self._context, self._classes, self._files = context, classes, files
        self._places = places
        self.move: Move = move_at_once
        self.found: list[Agreement] | None = None
        self.disputes: list[Dispute] = []
        self.at: int | None = None
        self._state: object = None
        self._project: Project | None = None

    @property
    def changed(self) -> SignalInstance:
        """Emitted when annotations, classes, raters or what is in view have changed."""
        return self._context.changed

    @property
    def colours(self) -> dict[str, str]:
        """Colours ``#rrggbb`` of the classes, by name."""
        return self._classes.colours

    @property
    def folder(self) -> Path:
        """Where annotations are kept."""
        return self._classes.project.folder

    # -- who annotates

    @property
    def name(self) -> str:
        """Whose name new annotations get; empty for nobody's."""
        return self._context.rater

    def set_name(self, name: str) -> None:
        """Say who annotates from now on; it is kept in napari's preferences."""
        name = tidy_rater(name)
        if name == self.name:
            return
        self._context.rater = name
        keep_rater(name)
        for book in self._files.open_annotations().values():
            book.rater = name
        self._context.notify(
            f"Annotations are signed '{name}' from now on."
            if name
            else "Annotations carry no name from now on."
        )
        self._context.changed.emit()

    # -- comparing

    @property
    def stale(self) -> bool:
        """Whether annotations have changed since raters were compared."""
        return self.found is not None and self._state != self._now()

    def compare(self, then: int = 0) -> None:
        """Say how far raters agree, and on what they differ.

        Parameters
        ----------
        then : {0, 1, -1}
            1 or -1 goes to the next or the previous of what they differ on.
        """
        project, state = self._classes.project, self._now()

        def done(found: list[Agreement]) -> None:
            if project is not self._classes.project:
                return
            here = self.current
            self.found, self._state, self._project = found, state, project
            self.disputes = [
                Dispute(record, thing)
                for each in found
                for record, thing in each.things
                if thing.disputed
            ]
            self.at = None if here is None else self._find(here)
            if not found:
                self._context.notify(
                    "Only one rater has annotated here. Add a colleague's project to compare.",
                    "warning",
                )
            if then and self.disputes:
                self.go(then)
            self._context.changed.emit()

        self._context.ask(partial(_compare, project), done)

    def forget(self) -> None:
        """Forget what was compared: the project is another."""
        self.found, self.disputes = None, []
        self._leave()

    # -- step by step

    @property
    def current(self) -> Dispute | None:
        """What is in view of that on which raters differ, with its decision as it is now."""
        if self.at is None or self.at >= len(self.disputes):
            return None
        return self._as_decided(self.at, self._decisions())

    def _decisions(self) -> dict[str, dict[str, Annotation]]:
        """Return the latest decision on each opinion, by image and id, of images open here."""
        found: dict[str, dict[str, Annotation]] = {}
        for key, book in self._files.open_annotations().items():
            own = found[key] = {}
            for item in sorted((x for x in book if x.settles), key=lambda x: x.time):
                own.update(dict.fromkeys(item.settles, item))
        return found

    def _as_decided(self, at: int, decisions: Mapping[str, Mapping[str, Annotation]]) -> Dispute:
        """Return one of the disputes with its decision as it is now."""
        dispute = self.disputes[at]
        own = decisions.get(dispute.image.hash)
        if own is not None:
            opinions = dispute.thing.opinions
            settled = next((own[x.id] for x in opinions if x.id in own), None)
            if settled != dispute.thing.settled:
                thing = dataclasses.replace(dispute.thing, settled=settled)
                dispute = self.disputes[at] = Dispute(dispute.image, thing)
        return dispute

    @property
    def n_open(self) -> int:
        """How many have not been decided."""
        decisions = self._decisions()
        every = (self._as_decided(at, decisions) for at in range(len(self.disputes)))
        return sum(each.thing.settled is None for each in every)

    def next(self) -> None:
        """Go to the next thing on which raters differ and nobody has decided."""
        self._step(1)

    def previous(self) -> None:
        """Go to the thing before on which raters differ, decided or not."""
        self._step(-1)

    def _step(self, by: int) -> None:
        if self.found is None or self.stale or self._project is not self._classes.project:
            self.compare(by)
        else:
            self.go(by)

    def go(self, by: int) -> None:
        """Go to another thing on which raters differ; what is decided is passed over forwards."""
        n = len(self.disputes)
        if not n:
            self._context.notify("The raters differ on nothing that they both annotated.")
            return
        start = self.at if self.at is not None else (-1 if by > 0 else 0)
        way = [(start + by * step) % n for step in range(1, n + 1)]
        if by > 0:
            decisions = self._decisions()
            way = [i for i in way if self._as_decided(i, decisions).thing.settled is None]
            if not way:
                self._context.notify(f"All {counted(n, 'disagreement')} have been decided.")
                self._leave()
                return
        self.at = way[0]
        dispute = self.disputes[self.at]
        self._places.go(dispute.image, _whole(dispute.thing), self._mark, self.move, _AROUND)
        self._context.changed.emit()

    def settle(self, label: str) -> bool:
        """Decide what the thing in view is, and go to the next one.

        Parameters
        ----------
        label : str
            Its class.

        Returns
        -------
        bool
            Whether it is being kept.
        """
        dispute = self.current
        if dispute is None:
            return False
        if not self.name:
            self._context.notify("Write your name first: a decision says who made it.", "warning")
            return False
        return self._files.when_open(partial(self._settle, dispute, label))

    def _settle(self, dispute: Dispute, label: str, image: AnnotatedImage) -> None:
        if image.record.hash != dispute.image.hash:
            self._context.notify(
                f"This is not the image they differ on: '{dispute.image.name}'. Press Next again.",
                "warning",
            )
            return
        decision = dispute.thing.settle(label, self.name)
        before = dispute.thing.settled
        if before is not None and before.rater != self.name:
            # That of another rater stays: this is a later decision.
            decision = dataclasses.replace(decision, id=second_id(before.id, self.name))

        def save() -> None:
            self._classes.use([label])
            image.open().put([decision])
            image.show()

        same = not self.stale
        if self._context.save(save):
            if same:
                self._state = self._now()
            self._context.notify(f"Decided: '{readable_name(label)}', by {self.name}.")
            self.go(1)

    def give(self, label: str) -> bool:
        """Decide that the thing in view has a class, if there is one; for a key or the list."""
        return self.current is not None and self.settle(label)

    def leave(self) -> None:
        """Look at no disagreement any more."""
        if self.at is not None:
            self._leave()
            self._context.changed.emit()

    def save_table(self, path: str | os.PathLike[str]) -> None:
        """Write what raters differ on as a CSV file, as it is now."""

        def done(n: int) -> None:
            self._context.notify(f"{counted(n, 'disagreement')} written to {Path(path).name}.")

        self._context.ask(partial(_write_table, self._classes.project, path), done)

    # -- colleagues' projects

    def add_project(self, folder: str | os.PathLike[str] | Path) -> None:
        """Add what a colleague annotated in another folder; one's own stays as it is."""
        project = self._classes.project
        self._context.notify(f"Reading {Path(folder).name}…")

        def done(added: _Added) -> None:
            if project is self._classes.project:
                self._add(project, added)

        self._context.ask(partial(_plan, project, folder), done)

    def _add(self, project: Project, added: _Added) -> None:
        if not added.n:
            self._context.notify(f"Nothing in '{added.name}' is new.")
            return
        labels = dict.fromkeys(x.label for items in added.images.values() for x in items)
        if not self._context.save(partial(self._classes.use, labels, added.classes)):
            return
        done_at = self._put(project, added)
        names = ", ".join(map(shown_rater, added.raters))
        images = counted(len(added.images), "image")
        self._context.notify(
            f"{counted(added.n, 'annotation')} by {names} on {images} added from '{added.name}'. "
            "Yours stay as they are."
        )

        def undo() -> bool:
            if project is not self._classes.project:
                return False
            self._take_back(project, added, done_at)
            return True

        def redo() -> bool:
            if project is not self._classes.project:
                return False
            done_at.update(self._put(project, added))
            return True

        self._classes.steps.did(f"the annotations of '{added.name}'", undo, redo)

    def _put(self, project: Project, added: _Added) -> dict[str, int]:
        """Add to the images that are open now, and to the others in a worker."""
        opened = self._files.open_annotations()
        done_at: dict[str, int] = {}
        others = {}
        for record, items in added.images.items():
            book = opened.get(record.hash)
            if book is None:
                others[record] = items
            elif self._context.save(partial(book.commit, added.prepared[record.hash])):
                done_at[record.hash] = book.n_done
        self._show_all()
        self._write(project, others)
        return done_at

    def _take_back(self, project: Project, added: _Added, done_at: Mapping[str, int]) -> None:
        opened = self._files.open_annotations()
        others: dict[ImageRecord, tuple[Annotation, ...]] = {}
        for record, items in added.images.items():
            book = opened.get(record.hash)
            if book is None:
                others[record] = items
            elif book.n_done == done_at.get(record.hash) and book.can_undo:
                self._context.save(book.undo)
            else:
                self._context.save(partial(_restore, book, items, added.before))
        self._write(project, others, added.before)

    def _write(
        self,
        project: Project,
        others: Mapping[ImageRecord, Sequence[Annotation]],
        before: Mapping[str, Mapping[str, Annotation]] | None = None,
    ) -> None:
        def done(_: object) -> None:
            self._files.count()

        def fail(error: BaseException) -> None:
            self._files.count()
            self._context.show_error(error)

        self._context.ask(partial(_write_others, project, others, before), done, fail)
        self._context.changed.emit()

    def _show_all(self) -> None:
        for layer in self._context.session.selection.images():
            image = self._files.of(layer)
            if image is not None:
                image.show()

    # -- within

    def _now(self) -> object:
        """Return what changes with every change of annotations that are open here."""
        opened = self._files.open_annotations()
        return sorted((key, book.n_done, len(book)) for key, book in opened.items())

    def _find(self, dispute: Dispute) -> int | None:
        ids = {item.id for item in dispute.thing.opinions}
        for number, each in enumerate(self.disputes):
            if ids & {item.id for item in each.thing.opinions}:
                return number
        return None

    def _mark(self) -> None:
        dispute, image = self.current, self._context.session.selection.image
        self._files.layers.remove_everywhere(["disputed"])
        if dispute is None or image is None:
            return
        thing = _whole(dispute.thing)
        if thing.centre is None:
            return
        if thing.kind == "region":
            outline = thing.outline
            size = float((outline.max(axis=0) - outline.min(axis=0)).max())
        else:
            size = thing.diameter_px or self._files.ring(image)
        ahead = (thing.t, thing.z)[: image.ndim - 2]
        place = np.array([*ahead, *thing.centre], dtype=np.float64)
        self._files.layers.point_at(image, place, _MARK * size, "disputed")

    def _leave(self) -> None:
        self.at = None
        self._files.layers.remove_everywhere(["disputed"])


def _whole(thing: Thing) -> Annotation:
    """Return one of a thing's annotations, at the middle of all."""
    if thing.kind != "cell":
        return thing.first
    return dataclasses.replace(thing.first, position=thing.centre, diameter_px=thing.diameter)


def _compare(project: Project) -> list[Agreement]:
    return compare_raters(project.annotations())


def _write_table(project: Project, path: str | os.PathLike[str]) -> int:
    from ...export.raters_table import write_raters_table

    return write_raters_table(_compare(project), path)


def _plan(project: Project, folder: str | os.PathLike[str]) -> _Added:
    """Say what another project adds to one's own; call it from a worker.

    Raises
    ------
    ValueError
        If it is no project, or the same one.
    """
    other = known_project(folder)
    if other.folder.resolve() == project.folder.resolve():
        raise ValueError("This is the project that is open. Choose the folder of a colleague's.")
    mine = {record.hash: {x.id: x for x in items} for record, items in project.annotations()}
    name = tidy_rater(other.folder.resolve().name) or "colleague"
    merged = join_projects([project, other], ["", name])
    images: dict[ImageRecord, tuple[Annotation, ...]] = {}
    before: dict[str, dict[str, Annotation]] = {}
    prepared: dict[str, Prepared] = {}
    for record, items in merged.images.items():
        there = mine.get(record.hash, {})
        new = [x for x in items if x.id not in there or x.time > there[x.id].time]
        if new:
            images[record] = tuple(new)
            before[record.hash] = {x.id: there[x.id] for x in new if x.id in there}
            prepared[record.hash] = prepare(there, new)
    raters = sorted({x.rater for items in images.values() for x in items})
    return _Added(name, images, before, prepared, merged.classes, tuple(raters))


def _restore(
    book: ImageAnnotations,
    items: Sequence[Annotation],
    before: Mapping[str, Mapping[str, Annotation]],
) -> None:
    """Take annotations away again, and put back what was there in place of them."""
    was = before.get(book.image.hash, {})
    book.remove([item.id for item in items if item.id not in was])
    book.put(list(was.values()))


def _write_others(
    project: Project,
    images: Mapping[ImageRecord, Sequence[Annotation]],
    before: Mapping[str, Mapping[str, Annotation]] | None,
) -> None:
    """Add annotations to images that are not open here, or take them away again."""
    for record, items in images.items():
        book = project.open(record)
        try:
            if not book.writable:
                raise ValueError(book.message)
            if before is None:
                book.put(items)
            else:
                _restore(book, items, before)
        finally:
            book.close()
