"""The classes of a project in one viewer: names, colours, which is the current one."""

from __future__ import annotations

import os
from collections.abc import Callable, Collection, Iterable, Mapping
from functools import partial
from typing import TYPE_CHECKING

from psygnal import Signal

from ...card import readable_name
from ...training.data.annotations import ImageAnnotations, class_colours
from ...training.data.project import Project, ProjectError, default_project_folder
from ..core.undo import Steps
from .context import Context

if TYPE_CHECKING:
    from pathlib import Path

__all__ = ["MOST_LETTERS", "N_KEYS", "Classes", "key_of", "tidy_name"]

#: Classes that have a key: 1 to 9, then 0.
N_KEYS = 10
_FIRST_CLASS = "class 1"
#: Of the name of a class.
MOST_LETTERS = 60


def key_of(row: int) -> str:
    """Return the key of a class by its place in the list; empty where it has none."""
    return str((row + 1) % N_KEYS) if row < N_KEYS else ""


def tidy_name(name: str) -> str:
    """Return a name of a class on one line, without spaces around it, and not too long."""
    return " ".join(name.split())[:MOST_LETTERS].rstrip()


class Classes:
    """The classes that annotations may have: the project's, then those of the model in use.

    Parameters
    ----------
    context : Context
        Shared by the parts of annotating.

    Attributes
    ----------
    project : Project
        Where annotations are kept.
    """

    colours_changed = Signal()
    #: New annotations get another class.
    current_changed = Signal()

    def __init__(self, context: Context) -> None:
        self._context = context
        self._saved: dict[str, str] = {}
        self._classes: dict[str, str] = {}
        self._current = ""
        #: Changes of the list, for a common undo.
        self.steps = Steps(context.notify)
        self.project = self._default_project()
        self.read()

    # -- the list

    @property
    def names(self) -> tuple[str, ...]:
        """Names of the classes, in the order of their keys."""
        return tuple(self._classes)

    @property
    def colours(self) -> dict[str, str]:
        """Colours ``#rrggbb`` of the classes, by name."""
        return dict(self._classes)

    @property
    def current(self) -> str:
        """The class that new annotations get; empty where there is no class at all."""
        if self._current in self._classes:
            return self._current
        return next(iter(self._classes), "")

    @property
    def for_new(self) -> str:
        """The current class, or the name of a first one."""
        return self.current or _FIRST_CLASS

    def are_saved(self, labels: Iterable[str]) -> bool:
        """Return whether classes are in the project, and not only offered by the model."""
        return set(labels) <= set(self._saved)

    def find(self, names: Iterable[str]) -> list[str]:
        """Return the classes that names mean, told apart as they are shown, without case.

        New ones as they are kept; of no name, that is empty.
        """
        known = {_key(each): each for each in reversed(self._classes)}
        tidy = [tidy_name(name) for name in names]
        return [
            name if name in self._classes else known.setdefault(_key(name), name) for name in tidy
        ]

    # -- changing it

    def choose(self, label: str) -> None:
        """Choose the class that new annotations get."""
        if label in self._classes and label != self._current:
            self._current = label
            self.current_changed.emit()
            self._context.changed.emit()

    def add(self, name: str) -> None:
        """Add a class, and make it the current one."""
        (name,) = self.find([name])
        if not name:
            self._context.notify("Give the new class a name.", "warning")
        elif name in self._classes:
            self._context.notify(f"There is a class '{readable_name(name)}' already.")
            self.choose(name)
        elif self._context.save(partial(self.use, [name])):
            self._current = name
            self.current_changed.emit()
            self._context.changed.emit()
            self.steps.did(
                f"the new class '{readable_name(name)}'",
                partial(self._take_out, name),
                partial(self._put_in, name),
            )

    def use(self, labels: Iterable[str], colours: Mapping[str, str] | None = None) -> None:
        """Write classes that are about to be used into the project, with all that are offered.

        Later ones would otherwise change their keys as they come into use.

        Parameters
        ----------
        labels : iterable of str
            The classes.
        colours : mapping of str to str, optional
            Colours that new ones come with.

        Raises
        ------
        OSError, ProjectError
            If the project cannot be written.
        """
        labels = list(labels)
        if not self.are_saved(labels):
            wanted = {**(colours or {}), **self._classes}
            self.project.add_classes([*self._classes, *labels], wanted)
            self.read()

    def recolour(self, name: str, colour: str) -> None:
        """Give a class another colour, ``#rrggbb``."""
        before = self._classes[name]
        self._paint(name, colour)
        self.steps.did(
            f"the colour of '{readable_name(name)}'",
            partial(self._paint, name, before),
            partial(self._paint, name, colour),
        )

    def _paint(self, name: str, colour: str) -> bool:
        if name not in self._classes:
            return False
        self.use([name])
        classes = {**self._saved, name: colour}
        self._classes = {**self._classes, name: colour}
        self.colours_changed.emit()
        self._context.changed.emit()
        # To see that no class in use would be lost, all of the project is read.
        self._set_classes(classes)
        return True

    def _put_in(self, name: str, colour: str = "") -> bool:
        if name in self._saved:
            return False
        if not self._context.save(partial(self.use, [name])):
            return False
        if colour:
            return self._paint(name, colour)
        self._context.changed.emit()
        return True

    def _take_out(self, name: str) -> bool:
        """Take a class out again; where annotations have it by now, that is refused."""
        if name not in self._saved:
            return False
        self._set_classes({key: value for key, value in self._saved.items() if key != name})
        return True

    def remove(self, name: str) -> None:
        """Take a class that no annotation has out of the list."""
        if name not in self._saved:
            self._context.notify(
                f"'{readable_name(name)}' is a class of the model, and stays.", "warning"
            )
            return
        colour = self._classes[name]
        self._take_out(name)
        self.steps.did(
            f"removal of the class '{readable_name(name)}'",
            partial(self._put_in, name, colour),
            partial(self._take_out, name),
        )

    def rename(
        self,
        old: str,
        new: str,
        opened: Collection[ImageAnnotations],
        renamed: Callable[[], None],
        back: Collection[ImageAnnotations] = (),
    ) -> None:
        """Rename a class in all images; a name in use joins the two.

        Parameters
        ----------
        old, new : str
            Names.
        opened : collection of ImageAnnotations
            The annotations of the images that are open here.
        renamed : callable
            Called when the other images of the project have changed too.
        back : collection of ImageAnnotations
            Those whose last change is that this one takes back.
        """
        new = tidy_name(new)
        if _key(new) != _key(old):
            (new,) = self.find([new])
        if not new or new == old:
            return
        if busy := [each.image.name for each in opened if not each.writable]:
            self._context.notify(
                f"{', '.join(busy)}: open in another window. Close it there first.", "warning"
            )
            return
        if not self._context.save(partial(self.use, [old])):
            return
        joined = new in self._saved
        colour, changed = self._rename_here(old, new, opened, back)

        def rename() -> None:
            self.project.rename_class(old, new)
            if not joined:
                # In the images that changed first, it had been given another.
                self.project.set_classes({**self.project.classes(), new: colour})

        def done(_: object) -> None:
            self.reload()
            renamed()

        def fail(error: BaseException) -> None:
            for each in changed:
                each.undo()
            self._restore(error)

        self._context.ask(rename, done, fail)

    # -- reading it

    def read(self) -> None:
        """Read the list anew; the classes of the model come after the project's."""
        try:
            self._saved = self.project.classes()
        except (ProjectError, OSError) as error:
            self._context.show_error(error)
        card = self._context.session.card_to_be
        # The name of a risk or a number is no class.
        names = () if card is None or card.target is not None else card.class_names
        colours = dict(zip(names, card.colours, strict=True)) if card and names else {}
        self._classes = class_colours(self._saved, names, colours)

    def reload(self, _: object = None) -> None:
        """Read the list anew, and show it."""
        self.read()
        self.colours_changed.emit()
        self._context.changed.emit()

    def open_project(self, folder: str | os.PathLike[str] | Path) -> bool:
        """Change to another project; says why where that cannot be."""
        try:
            self.project = Project(folder)
        except (ProjectError, OSError) as error:
            self._context.show_error(error)
            return False
        self._current = ""
        self.read()
        return True

    # -- within

    def _rename_here(
        self,
        old: str,
        new: str,
        opened: Collection[ImageAnnotations],
        back: Collection[ImageAnnotations],
    ) -> tuple[str, list[ImageAnnotations]]:
        """Rename a class in images that are open now; what is left for a worker are the others.

        Returns
        -------
        colour : str
            The class's.
        changed : list of ImageAnnotations
            Those that had it.
        """
        colour = self._classes[old]
        changed = [each for each in opened if any(item.label == old for item in each)]
        for classes in (self._classes, self._saved):
            names = dict.fromkeys(new if key == old else key for key in classes)
            kept = {key: classes.get(key, colour) for key in names}
            classes.clear()
            classes.update(kept)
        for each in changed:
            if each in back and each.can_undo:
                each.undo()
            else:
                each.rename(old, new)
        if self._current == old:
            self._current = new
        return colour, changed

    def _set_classes(self, classes: dict[str, str]) -> None:
        self._context.ask(partial(self.project.set_classes, classes), self.reload, self._restore)

    def _restore(self, error: BaseException) -> None:
        self.reload()
        self._context.show_error(error)

    def _default_project(self) -> Project:
        try:
            return Project()
        except ProjectError as error:
            folder = default_project_folder()
            other = folder.with_name(f"{folder.name}-2")
            self._context.notify(f"{error} Until then, annotations are kept in {other}.", "error")
            return Project(other)


def _key(name: str) -> str:
    """What tells classes apart: names that look alike are one."""
    return readable_name(name).casefold()
