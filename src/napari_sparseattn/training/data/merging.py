"""Projects of several raters, put together without losing who said what."""

from __future__ import annotations

import dataclasses
import os
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path

from .annotations import Annotation, ImageRecord, class_colours, second_id, tidy_rater
from .project import Project, ProjectError
from .taking_in import class_key

__all__ = ["Merged", "join_projects", "known_project", "merge_projects"]


@dataclasses.dataclass(frozen=True, eq=False)
class Merged:
    """What several projects hold together; nothing is written yet.

    Parameters
    ----------
    classes : mapping of str to str
        Names and colours ``#rrggbb``: the first project's, then what the others add.
    images : mapping of ImageRecord to tuple of Annotation
        Everything that was said, image by image.
    raters : tuple of str
        Everybody who said something.
    shared : int
        Images that more than one project has.
    """

    classes: Mapping[str, str]
    images: Mapping[ImageRecord, tuple[Annotation, ...]]
    raters: tuple[str, ...]
    shared: int

    @property
    def n_annotations(self) -> int:
        """How many annotations there are."""
        return sum(map(len, self.images.values()))


def join_projects(projects: Sequence[Project], raters: Sequence[str] = ()) -> Merged:
    """Put projects together: images by their pixels, classes by their names without case.

    Annotations without a name get that of their project: the one given here, else that of its
    folder. One that several projects have, as they were copied, is kept once. Where copies of
    one differ, and are by different raters, both are kept; of the same rater's, the latest.

    Parameters
    ----------
    projects : sequence of Project
        At least one.
    raters : sequence of str
        A name for each project, for annotations without one; empty leaves them as they are.

    Raises
    ------
    ValueError
        If there are not as many names as projects.
    """
    if raters and len(raters) != len(projects):
        raise ValueError(
            f"{len(raters)} names were given for {len(projects)} projects; give one for each."
        )
    names = list(map(tidy_rater, raters)) if raters else _folder_names(projects)
    classes, spelling = _join_classes(projects)
    records: dict[str, ImageRecord] = {}
    found: dict[str, dict[str, _Owned]] = {}
    seen: dict[str, set[int]] = {}
    for number, project in enumerate(projects):
        for record, items in project.annotations():
            there = records.setdefault(record.hash, record)
            records[record.hash] = _fill(there, record)
            seen.setdefault(record.hash, set()).add(number)
            own = found.setdefault(record.hash, {})
            for item in items:
                label = spelling[class_key(item.label)]
                _take(own, _Owned(dataclasses.replace(item, label=label), names[number]))
    images = {
        records[key]: tuple(each.signed for each in own.values())
        for key, own in found.items()
        if own
    }
    said = sorted({item.rater for own in images.values() for item in own})
    shared = sum(len(by) > 1 for by in seen.values())
    return Merged(classes, images, tuple(said), shared)


def merge_projects(
    folders: Sequence[str | os.PathLike[str]],
    out: str | os.PathLike[str],
    raters: Sequence[str] = (),
) -> Merged:
    """Put projects together in a new folder; they stay as they are.

    Parameters
    ----------
    folders : sequence of path-like
        Of the projects.
    out : path-like
        Of the new one.
    raters : sequence of str
        See `join_projects`.

    Raises
    ------
    ProjectError
        If a folder holds no project, or the new one holds something already.
    JournalError
        If something cannot be written.
    """
    if len(folders) < 2:
        raise ProjectError("To merge takes two projects or more: name their folders.")
    target = Path(out)
    if target.exists() and (not target.is_dir() or any(target.iterdir())):
        raise ProjectError(
            f"'{target}' is there already. Choose a new folder; to add to a project, name it "
            "among those that are merged."
        )
    merged = join_projects([known_project(folder) for folder in folders], raters)
    project = Project(target)
    project.add_classes(merged.classes, merged.classes)
    for record, items in merged.images.items():
        book = project.open(record)
        try:
            book.put(items)
            book.flush()
        finally:
            book.close()
    return merged


def known_project(folder: str | os.PathLike[str]) -> Project:
    """Return the project in a folder.

    Raises
    ------
    ProjectError
        If there is none.
    """
    path = Path(folder)
    if not path.is_dir():
        raise ProjectError(f"There is no folder '{path}'.")
    if not (path / "project.json").is_file() and not (path / "images").is_dir():
        raise ProjectError(
            f"'{path}' holds no project of annotations: it has neither project.json nor a folder "
            "images. Choose the folder that Project… shows in the window."
        )
    return Project(path)


def _folder_names(projects: Iterable[Project]) -> list[str]:
    """Return a name for each project, unlike those of the others."""
    names: list[str] = []
    for project in projects:
        base = tidy_rater(project.folder.resolve().name) or "project"
        name, number = base, 1
        while name in names:
            number += 1
            name = tidy_rater(f"{base[:54]}-{number}")
        names.append(name)
    return names


def _join_classes(projects: Iterable[Project]) -> tuple[dict[str, str], dict[str, str]]:
    """Return the classes with their colours, and how each is spelt by what tells it apart."""
    classes: dict[str, str] = {}
    spelling: dict[str, str] = {}
    for project in projects:
        there = project.classes()
        used = dict.fromkeys(item.label for _, items in project.annotations() for item in items)
        for name in (*there, *used):
            spelling.setdefault(class_key(name), name)
        new = dict.fromkeys(spelling[class_key(name)] for name in (*there, *used))
        classes = class_colours(classes, new, there)
    return classes, spelling


def _fill(known: ImageRecord, record: ImageRecord) -> ImageRecord:
    """Add what the other project knows of an image."""
    return dataclasses.replace(
        known,
        name=known.name or record.name,
        shape=known.shape if any(known.shape) else record.shape,
        pixel_size=record.pixel_size if known.pixel_size is None else known.pixel_size,
        path=known.path or record.path,
    )


@dataclasses.dataclass(frozen=True)
class _Owned:
    """An annotation, and the name of its project."""

    item: Annotation
    name: str

    @property
    def rater(self) -> str:
        return self.item.rater or ("" if self.item.settles else self.name)

    @property
    def signed(self) -> Annotation:
        return dataclasses.replace(self.item, rater=self.rater)

    @property
    def said(self) -> Annotation:
        """What it says, whoever said it and when."""
        return dataclasses.replace(self.item, rater="", time=0.0)


def _take(own: dict[str, _Owned], new: _Owned) -> None:
    """Add an annotation to those of its image that are known, or leave it out, or replace one."""
    there = own.get(new.item.id)
    if there is None:
        own[new.item.id] = new
    elif there.said == new.said:
        # A copy; who gave a name says more.
        own[new.item.id] = there if there.item.rater or not new.item.rater else new
    elif there.rater == new.rater:
        own[new.item.id] = max(there, new, key=lambda each: each.item.time)
    else:
        id_ = second_id(new.item.id, new.rater)
        _take(own, dataclasses.replace(new, item=dataclasses.replace(new.item, id=id_)))
