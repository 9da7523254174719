"""Annotations to and from other programs' files, on the command line."""

from __future__ import annotations

import json
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

if TYPE_CHECKING:
    from ..training.data.annotations import Annotation, ImageRecord
    from ..training.data.project import Project

__all__ = ["export_app", "import_app"]

export_app = typer.Typer(help="Write what a project holds for other programs.")
import_app = typer.Typer(help="Take what other programs wrote into a project.")

_JSON = typer.Option("--json", help="Print JSON for machines.")


@export_app.callback()
def _export() -> None:
    """Write what a project holds for other programs."""


@import_app.callback()
def _import() -> None:
    """Take what other programs wrote into a project."""


@export_app.command("annotations")
def export_annotations(
    project: Annotated[Path, typer.Argument(help="A project's folder.")],
    out: Annotated[
        Path, typer.Option(help="coco: the file to write; geojson: the folder, a file per image.")
    ],
    form: Annotated[str, typer.Option("--format", help="coco, or geojson for QuPath.")] = "coco",
    as_json: Annotated[bool, _JSON] = False,
) -> None:
    """Write the annotations of a project as COCO JSON, or as GeoJSON for QuPath."""
    from ..export.annotation_files import write_coco_annotations, write_geojson_annotations
    from ..training.data.project import Project

    if form not in ("coco", "geojson"):
        raise ValueError(f"--format must be coco or geojson, got '{form}'.")
    opened = Project(_project_folder(project))
    if form == "coco":
        write_coco_annotations(opened, out)
        files = [out]
    else:
        files = write_geojson_annotations(opened, out)
    counts = {name: n for name, n in opened.counts().items() if n}
    if as_json:
        print(json.dumps({"files": [str(path) for path in files], "counts": counts}))
        return
    print(", ".join(f"{n} {name}" for name, n in counts.items()))
    print("\n".join(str(path) for path in files))


@import_app.command("annotations")
def import_annotations(
    source: Annotated[Path, typer.Argument(help="COCO JSON.")],
    project: Annotated[Path, typer.Argument(help="The project's folder; made if need be.")],
    images: Annotated[Path, typer.Option(help="The folder with the images that the file names.")],
    as_json: Annotated[bool, _JSON] = False,
) -> None:
    """Take the boxes and outlines of a COCO file into a project.

    An image that is not found or cannot be opened is named, and the others are
    taken. Annotations that the project has already are not added again.
    """
    from ..export.annotation_files import read_coco_annotations
    from ..training.data.project import Project

    if not images.is_dir():
        raise FileNotFoundError(f"There is no folder '{images}'.")
    found = read_coco_annotations(source)
    opened, added, failed = Project(project), 0, {}
    for name, items in found.items():
        if not items:
            continue
        try:
            added += _add(opened, _record(images, name), items)
        except (ValueError, OSError) as error:
            failed[name] = str(error)
    if as_json:
        print(json.dumps({"added": added, "failed": failed}))
    else:
        print(f"{added} annotations added to {project}")
        for name, reason in failed.items():
            print(f"{name}: {reason}")
    if failed:
        raise typer.Exit(1)


def _project_folder(folder: Path) -> Path:
    if not folder.is_dir():
        raise FileNotFoundError(f"There is no folder '{folder}'.")
    return folder


def _record(folder: Path, name: str) -> ImageRecord:
    from ..images.opening import open_image
    from ..training.data.annotations import ImageRecord, image_hash

    # What a file says may not lead out of the folder.
    path = folder / Path(name).name
    if not path.is_file():
        raise FileNotFoundError(f"there is no '{path.name}' in {folder}")
    image = open_image(path)
    size = image.pixel_size
    return ImageRecord(image_hash(image), image.name, image.shape, size, str(path.resolve()))


def _add(project: Project, record: ImageRecord, items: list[Annotation]) -> int:
    book = project.open(record)
    try:
        if not book.writable:
            raise ValueError(book.message)
        known = {_what(item) for item in book}
        new = [item for item in items if _what(item) not in known]
        book.put(new)
        book.flush()
        return len(new)
    finally:
        book.close()


def _what(item: Annotation) -> tuple[object, ...]:
    """What is the same in two annotations of the same thing."""
    place = None if item.centre is None else tuple(round(value, 2) for value in item.centre)
    return item.kind, item.label, place, item.t, item.z
