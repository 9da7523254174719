"""The options that several verbs have."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

__all__ = [
    "AllowUnknownScale",
    "AsJson",
    "Device",
    "Formats",
    "Locations",
    "MethodOption",
    "Model",
    "Out",
    "Overwrite",
    "PixelSize",
]

AsJson = Annotated[bool, typer.Option("--json", help="Print JSON for machines.")]
AllowUnknownScale = Annotated[
    bool,
    typer.Option(
        "--allow-unknown-scale",
        "--uncalibrated",
        help="Classify slides without µm per pixel too, and mark the results.",
    ),
]
Device = Annotated[str, typer.Option(help="auto, cpu, cuda or mps.")]
Formats = Annotated[str | None, typer.Option(help="More files of each, e.g. geojson,html,anndata.")]
Locations = Annotated[str | None, typer.Option(help="Of a TNet: crops inside each crop, e.g. 4,2.")]
MethodOption = Annotated[str, typer.Option(help="How to find cells; auto fits the image.")]
Model = Annotated[str, typer.Option(help="Name of a model, its file, or hf://owner/name@COMMIT.")]
Out = Annotated[Path, typer.Option(help="Folder for the results.")]
Overwrite = Annotated[
    bool,
    typer.Option(
        "--overwrite",
        help="Replace files that hold other results; those of the same command are replaced "
        "anyway.",
    ),
]
PixelSize = Annotated[
    float | None, typer.Option(help="µm per pixel, where the file does not say.", min=1e-4, max=1e3)
]
