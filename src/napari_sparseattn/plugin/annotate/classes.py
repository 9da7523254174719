"""The classes of a project in one viewer: names, colours, counts, which is the current one."""

from __future__ import annotations

import dataclasses
import os
from collections import Counter
from collections.abc import Callable, Iterable, Mapping
from functools import partial
from typing import TYPE_CHECKING, Any

from psygnal import Signal

from ...training.data.annotations import AnnotationBook, class_colours
from ...training.data.project import Project, ProjectError, default_project_folder
from ..core.session import Session
from ..core.status import explain
from .images import Known, survey

if TYPE_CHECKING:
    from pathlib import Path

    from ..core.status import Level

__all__ = ["N_KEYS", "Classes", "Work"]

#: Classes that have a key, 1 to 9.
N_KEYS = 9
_FIRST_CLASS = "class 1"


@dataclasses.dataclass(frozen=True, eq=False)
class Work:
    """Something to be done in another thread, and who is told."""

    run: Callable[[], Any]
    done: Callable[[Any], None]
    failed: Callable[[BaseException], None]


class Classes:
    """What annotations may be, evented.

    Parameters
    ----------
    session : Session
        Of the same viewer; its model's classes are offered, its message line used.
    """

    #: Annotations, classes or the project have changed.
    changed = Signal()
    work_requested = Signal(object)

    def __init__(self, session: Session) -> None:
        self.session = session
        #: The images of the project as they were when it was last looked through.
        self._known: Mapping[str, Known] = {}
        self._saved: dict[str, str] = {}
        self._classes: dict[str, str] = {}
        self._current = ""
        self.project = self._default_project()
        self._refresh()

    def say(self, text: str, level: Level = "info") -> None:
        """Put one line before the user."""
        self.session.status.notify(text, level)

    def books(self) -> dict[str, AnnotationBook]:
        """Return the books that are open here, by the hashes of their images."""
        raise NotImplementedError

    # -- what there is

    @property
    def class_names(self) -> tuple[str, ...]:
        """Names of the classes, in the order of their keys."""
        return tuple(self._classes)

    @property
    def colours(self) -> dict[str, str]:
        """Colours ``#rrggbb`` of the classes, by name."""
        return dict(self._classes)

    @property
    def current_class(self) -> str:
        """The class that new annotations get; empty where there is no class at all."""
        if self._current in self._classes:
            return self._current
        return next(iter(self._classes), "")

    @property
    def counts(self) -> dict[str, int]:
        """Annotations of each class in the whole project."""
        books = self.books()
        total = Counter(dict.fromkeys(self._classes, 0))
        for hash_, known in self._known.items():
            if hash_ not in books:
                total.update(known.counts)
        for book in books.values():
            total.update(item.label for item in book)
        return dict(total)

    @property
    def n_images(self) -> int:
        """How many images of the project have annotations."""
        books = self.books()
        others = sum(1 for key, known in self._known.items() if known.counts and key not in books)
        return others + sum(1 for book in books.values() if len(book))

    # -- changing the list

    def set_current(self, label: str) -> None:
        """Choose the class that new annotations get."""
        if label in self._classes and label != self._current:
            self._current = label
            self.changed.emit()

    def add_class(self, name: str) -> None:
        """Add a class, and make it the current one."""
        name = name.strip()
        if not name:
            self.say("Give the new class a name.", "warning")
        elif self._saving(partial(self._settle, [name])):
            self._current = name
            self.changed.emit()

    def recolour_class(self, name: str, colour: str) -> None:
        """Give a class another colour, ``#rrggbb``."""
        self._settle([name])
        classes = {**self._saved, name: colour}
        self._classes = {**self._classes, name: colour}
        self._dress()
        self.changed.emit()
        # To see that no class in use would be lost, all of the project is read.
        self._ask(partial(self.project.set_classes, classes), self._saved_classes)

    def remove_class(self, name: str) -> None:
        """Take a class that no annotation has out of the list."""
        if self.counts.get(name):
            self.say(f"There are annotations of '{name}'. Give them another class.", "warning")
            return
        if name not in self._saved:
            self.say(f"'{name}' is a class of the model, and stays.", "warning")
            return
        classes = {key: value for key, value in self._saved.items() if key != name}
        self._ask(partial(self.project.set_classes, classes), self._saved_classes)

    def rename_class(self, old: str, new: str) -> None:
        """Rename a class in all images; a name in use joins the two."""
        new = new.strip()
        if not new or new == old:
            return
        books = list(self.books().values())
        if busy := [book.image.name for book in books if not book.writable]:
            self.say(f"{', '.join(busy)}: open in another window. Close it there first.", "warning")
            return
        if not self._saving(partial(self._settle, [old])):
            return
        changed = [book for book in books if any(item.label == old for item in book)]
        # Images that are open change here and now; what is left for the worker are the others.
        colour, joined = self._classes[old], new in self._saved
        for classes in (self._classes, self._saved):
            names = dict.fromkeys(new if key == old else key for key in classes)
            kept = {key: classes.get(key, colour) for key in names}
            classes.clear()
            classes.update(kept)
        for book in changed:
            book.relabel([item.id for item in book if item.label == old], new)
        if self._current == old:
            self._current = new

        def failed(error: BaseException) -> None:
            for book in changed:
                book.undo()
            self._saved_classes()
            self.say(explain(error), "error")

        def rename() -> None:
            self.project.rename_class(old, new)
            if not joined:
                # In the images that changed first, it had been given another.
                self.project.set_classes({**self.project.classes(), new: colour})

        self.work_requested.emit(Work(rename, self._renamed, failed))

    def _renamed(self, _: object = None) -> None:
        self._saved_classes()
        self.look_through()

    def refresh_classes(self) -> None:
        """Read the list of classes anew, where no dock follows it."""
        self._refresh()

    def look_through(self) -> None:
        """Count the annotations of all images anew."""
        project = self.project

        def done(known: Mapping[str, Known]) -> None:
            if project is self.project:
                self._known = known
                self.changed.emit()

        self._ask(partial(survey, project), done)

    # -- within

    def _dress(self) -> None:
        """Show colours that have changed; for subclasses."""

    def _default_project(self) -> Project:
        try:
            return Project()
        except ProjectError as error:
            folder = default_project_folder()
            other = folder.with_name(f"{folder.name}-2")
            self.say(f"{error} Until then, annotations are kept in {other}.", "error")
            return Project(other)

    def _open(self, folder: str | os.PathLike[str] | Path) -> bool:
        """Change to another project; says why where that cannot be."""
        try:
            self.project = Project(folder)
        except (ProjectError, OSError) as error:
            self.say(explain(error), "error")
            return False
        self._known, self._current = {}, ""
        self._refresh()
        return True

    def _refresh(self, _: object = None) -> None:
        """Read the list of classes; those of the model come after the project's."""
        try:
            self._saved = self.project.classes()
        except (ProjectError, OSError) as error:
            self.say(explain(error), "error")
        model = self.session.selection.model
        card = None if model is None else model.bundle.card
        names = () if card is None else card.class_names
        colours = {} if card is None else dict(zip(names, card.colours, strict=True))
        self._classes = class_colours(self._saved, names, colours)

    def _saved_classes(self, _: object = None) -> None:
        self._refresh()
        self._dress()
        self.changed.emit()

    def _settle(self, labels: Iterable[str]) -> None:
        """Write classes that are about to be used into the project, with all that are offered.

        Later ones would otherwise change their keys as they come into use.
        """
        if all(label in self._saved for label in labels):
            return
        names = [*self._classes, *labels]
        self.project.add_classes(names, self._classes)
        self._refresh()

    def _new_label(self) -> str:
        return self.current_class or _FIRST_CLASS

    def _saving(self, save: Callable[[], object]) -> bool:
        """Do something that writes; say why where it cannot be."""
        try:
            save()
        except (OSError, ValueError) as error:
            self.say(explain(error), "error")
            return False
        return True

    def _ask(self, run: Callable[[], Any], done: Callable[[Any], None]) -> None:
        self.work_requested.emit(Work(run, done, self._failed))

    def _failed(self, error: BaseException) -> None:
        self._saved_classes()
        self.say(explain(error), "error")
