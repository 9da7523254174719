"""Annotations to and from other programs' files, on the command line."""

from __future__ import annotations

import json
from pathlib import Path, PurePosixPath, PureWindowsPath
from typing import TYPE_CHECKING, Annotated

import typer

if TYPE_CHECKING:
    from ..export.geojson_annotations import ReadAnnotations
    from ..training.data.annotations import ImageRecord
    from ..training.data.project import Project
    from ..training.data.taking_in import Arrivals

__all__ = ["export_app", "import_app"]

export_app = typer.Typer(help="Write what a project holds for other programs.")
import_app = typer.Typer(help="Take what other programs wrote into a project.")

#: What lies beside images and may be named like them.
_NO_IMAGES = (
    ".geojson", ".json", ".gz", ".zip", ".csv", ".tsv", ".txt", ".xml", ".md", ".html", ".parquet",
    ".h5ad", ".qpdata", ".xlsx",
)  # fmt: skip
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
    source: Annotated[
        Path,
        typer.Argument(
            help="GeoJSON (.geojson or .json, also .gz or .zip; as QuPath exports it), COCO JSON "
            "(.json), or a folder of them."
        ),
    ],
    project: Annotated[Path, typer.Argument(help="The project's folder; made if need be.")],
    images: Annotated[
        Path,
        typer.Option(
            help="The folder with the images, found by their names: those that a COCO file says, "
            "and smear.tif for smear.geojson. Or the image itself."
        ),
    ],
    rater: Annotated[
        str, typer.Option(help="Who annotated, where the file does not say; by default nobody.")
    ] = "",
    label: Annotated[
        str,
        typer.Option(
            "--class", help="The class of objects that have none; by default they are left out."
        ),
    ] = "",
    as_json: Annotated[bool, _JSON] = False,
) -> None:
    """Take the cells, outlines and points of a GeoJSON or COCO file into a project.

    From GeoJSON: annotations with an area become regions with their holes, points, cells and
    detections become cells; classes keep their colours. From COCO: boxes become cells,
    outlines regions. An image that is not found or cannot be opened is named, and the others
    are taken. Annotations that the project has already are not added again; those that were
    exported from it and changed elsewhere are changed here.
    """
    from ..export.annotation_files import read_annotation_files
    from ..training.data.annotations import tidy_rater
    from ..training.data.project import Project

    if not images.exists():
        raise FileNotFoundError(f"There is no '{images}'.")
    if not source.exists():
        raise FileNotFoundError(f"There is no '{source}'.")
    opened = Project(project)
    added = changed = 0
    failed: dict[str, str] = {}
    notes: dict[str, list[str]] = {}
    for found in read_annotation_files(source, " ".join(label.split())):
        said = found.notes
        if found.items:
            try:
                record = _record(images, found.name)
                said = [*found.check_image(record), *said]
                taken = _take(opened, record, found, tidy_rater(rater))
            except (ValueError, OSError) as error:
                failed[found.name] = str(error)
                continue
            added, changed = added + len(taken.new), changed + len(taken.changed)
            said = [*said, *taken.notes]
        if said:
            notes[found.name] = said
    if as_json:
        print(json.dumps({"added": added, "changed": changed, "failed": failed, "notes": notes}))
    else:
        print(f"{added} annotations added to {project}, {changed} changed")
        for name, said in notes.items():
            print(f"{name}: {' '.join(said)}")
        for name, reason in failed.items():
            print(f"{name}: {reason}")
    if failed:
        raise typer.Exit(1)


def _project_folder(folder: Path) -> Path:
    if not folder.is_dir():
        raise FileNotFoundError(f"There is no folder '{folder}'.")
    return folder


def _record(images: Path, name: str) -> ImageRecord:
    from ..images.opening import open_image
    from ..training.data.annotations import ImageRecord, image_hash

    path = images if images.is_file() else _find_image(images, name)
    image = open_image(path)
    size = image.pixel_size
    return ImageRecord(image_hash(image), image.name, image.shape, size, str(path.resolve()))


def _find_image(folder: Path, name: str) -> Path:
    """Return the image that a file of annotations is of, by the name that it has or says."""
    # What a file says may not lead out of the folder.
    name = PureWindowsPath(PurePosixPath(name).name).name
    path = folder / name
    if path.is_file() and path.suffix.lower() not in _NO_IMAGES:
        return path
    stem = name
    for ending in (".geojson", ".json"):
        if name.lower().endswith(ending):
            stem = name[: -len(ending)]
    found = [
        each
        for each in sorted(folder.iterdir())
        if (each.name == stem or each.name.startswith(f"{stem}."))
        and each.suffix.lower() not in _NO_IMAGES
    ]
    if len(found) == 1:
        return found[0]
    if found:
        raise ValueError(
            f"{', '.join(each.name for each in found)} in {folder} could each be its image; "
            "give the one with --images."
        )
    raise FileNotFoundError(
        f"there is no '{stem}' in {folder}; give the image itself with --images"
    )


def _take(project: Project, record: ImageRecord, found: ReadAnnotations, rater: str) -> Arrivals:
    from ..training.data.taking_in import plan_arrivals, spell_classes

    items, classes = spell_classes(found.items, project.classes(), found.colours)
    book = project.open(record)
    try:
        if not book.writable:
            raise ValueError(book.message)
        taken = plan_arrivals(book, items, record.shape, record.name, rater)
        project.add_classes(classes, classes)
        book.put([*taken.new, *taken.changed])
        book.flush()
        return taken
    finally:
        book.close()
