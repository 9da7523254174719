"""The options that several verbs have."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

__all__ = [
    "AllowUnknownScale",
    "AsJson",
    "At",
    "Axes",
    "CellsFile",
    "Channel",
    "Device",
    "Formats",
    "Frame",
    "ImageInFile",
    "Locations",
    "MethodOption",
    "Modality",
    "Model",
    "NoProfile",
    "Out",
    "Overwrite",
    "PixelSize",
    "Slice",
    "Unit",
]


#: µm per pixel.
_LEAST_SIZE, _MOST_SIZE = 1e-4, 1e3


def _check_pixel_size(size: float | None) -> float | None:
    """Refuse what no image has; click's own range would take half of the help's width."""
    if size is not None and not _LEAST_SIZE <= size <= _MOST_SIZE:
        raise typer.BadParameter(f"{size:g} is not between {_LEAST_SIZE:g} and {_MOST_SIZE:g} µm")
    return size


AsJson = Annotated[bool, typer.Option("--json", help="Print JSON for machines.")]
AllowUnknownScale = Annotated[
    bool,
    typer.Option(
        "--allow-unknown-scale",
        "--uncalibrated",
        help="Classify slides without µm per pixel too, and mark the results.",
    ),
]
At = Annotated[
    str | None, typer.Option(help="Only the cell at ROW,COLUMN in pixels, e.g. 120,84.5.")
]
CellsFile = Annotated[
    Path | None,
    typer.Option(
        "--cells",
        help="Where the cells are: a label image, or a CSV with row and column. Else they are "
        "found.",
    ),
]
Frame = Annotated[
    int | None, typer.Option("--frame", help="Which point in time, from 0; the first.", min=0)
]
Slice = Annotated[
    int | None, typer.Option("--slice", help="Which position in z, from 0; the first.", min=0)
]
Channel = Annotated[
    int | None, typer.Option("--channel", help="Which channel alone, from 0; all.", min=0)
]
Modality = Annotated[
    str | None,
    typer.Option(
        help="What the image shows, in place of what the file says: brightfield, fluorescence, "
        "phase, opd, hologram or unknown."
    ),
]
Axes = Annotated[
    str | None,
    typer.Option(
        help="What the axes are, in place of what the file says, e.g. CYX: of T, Z, Y, X, C."
    ),
]
ImageInFile = Annotated[
    int | None,
    typer.Option(
        "--image", help="Which of several images in a file, from 0; the largest if left out.", min=0
    ),
]
Device = Annotated[str, typer.Option(help="auto, cpu, cuda or mps.")]
Formats = Annotated[
    str | None,
    typer.Option(
        help="More files of each, with commas: parquet, anndata, geojson, coco, ome-zarr, "
        "ome-zarr-0.4, spatialdata, dicom-annotations, dicom-maps, html, methods."
    ),
]
Locations = Annotated[str | None, typer.Option(help="Of a TNet: crops inside each crop, e.g. 4,2.")]
MethodOption = Annotated[
    str,
    typer.Option(
        help="How to find cells: auto fits the image; white-cells, red-cells, phase; or cellpose, "
        "instanseg, stardist, if installed."
    ),
]
Model = Annotated[
    str, typer.Option(help="Name of a model, its file, or an address that begins with hf://.")
]
NoProfile = Annotated[
    bool,
    typer.Option(
        "--no-icc", help="Leave colours as stored, where a file holds an ICC colour profile."
    ),
]
Out = Annotated[Path, typer.Option(help="Folder for the results.")]
Overwrite = Annotated[
    bool,
    typer.Option(
        "--overwrite",
        help="Replace files that hold other results; those of the same command are replaced "
        "anyway.",
    ),
]
Unit = Annotated[
    str | None,
    typer.Option(help="nm or rad: what the values are, in place of what the file says."),
]
PixelSize = Annotated[
    float | None,
    typer.Option(
        help="µm per pixel, in place of what the file says, if it does.",
        callback=_check_pixel_size,
    ),
]
