"""``napari-sparseattn train``: on class folders of cells, or on slides."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from .train import train_cells
from .train_slides import SLIDE_KINDS, SlideOrder, train_on_slides

__all__ = ["train"]

_SOURCE = typer.Argument(
    help="FOLDER/class/image; for span a CSV of slides (slide, label, group, split); for "
    "span-regions a folder of slides, each with NAME.geojson beside it."
)
_KIND = typer.Option(
    help="sparse-attn-net: the pixels that matter; tnet: closer and closer looks; span: classes "
    "of slides; span-regions: tissue outlined on slides"
)
_FIELD = typer.Option(help="Side of an image in µm; sets the model's scale.", min=1e-3)
_SIZE = typer.Option(
    help="Side of the model's crop in pixels; by default 64, and 128 for tnet.", min=16
)
_MODALITY = typer.Option(help="What the images show; opd (nm) and phase (rad) also set the unit.")
_ENCODER = typer.Option(help="For slides: stain-texture, or transformers:NAME-OR-FOLDER.")
_MPP = typer.Option(help="For slides: µm per pixel of the patches.", min=0.01, max=100)
_WANTED = typer.Option(help="For span-regions: the class of the tissue to find.")


def train(
    source: Annotated[Path, _SOURCE],
    out: Annotated[Path, typer.Option(help="The model file to write, NAME.safetensors.")],
    kind: Annotated[str, _KIND] = "sparse-attn-net",
    field_of_view: Annotated[float, _FIELD] = 32.0,
    size: Annotated[int | None, _SIZE] = None,
    channels: Annotated[int, typer.Option(help="3 for colour, 1 for grey, phase or OPD.")] = 3,
    modality: Annotated[str | None, _MODALITY] = None,
    encoder: Annotated[str, _ENCODER] = "stain-texture",
    pixel_size: Annotated[float, _MPP] = 0.5,
    wanted: Annotated[str | None, _WANTED] = None,
    epochs: Annotated[int | None, typer.Option(help="By default as suits the kind.", min=1)] = None,
    seed: int = 0,
    device: Annotated[str, typer.Option(help="auto, cpu, cuda or mps.")] = "auto",
    as_json: Annotated[bool, typer.Option("--json", help="Print JSON for machines.")] = False,
) -> None:
    """Train a model on images in class folders, or on slides, from random weights."""
    if kind in SLIDE_KINDS:
        order = SlideOrder(source, out, kind, encoder, pixel_size, wanted, epochs, seed, device)
        train_on_slides(order, as_json)
        return
    train_cells(
        source,
        out,
        kind=kind,
        field_of_view=field_of_view,
        size=size,
        channels=channels,
        modality=modality,
        epochs=24 if epochs is None else epochs,
        seed=seed,
        device=device,
        as_json=as_json,
    )
