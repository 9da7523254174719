"""Training on class folders from the command line: which model, on what, with what on its card."""

from __future__ import annotations

import json
from pathlib import Path
from typing import TYPE_CHECKING, Any, cast, get_args

from .output import progress_bar

if TYPE_CHECKING:
    from ..bundle import Bundle
    from ..images.fields.field import Modality
    from ..training.data.datasets import CropSet
    from ..training.loop.classifier import TrainingReport, TrainingSettings
    from ..training.loop.fit import EpochReport

__all__ = ["KINDS", "train_cells"]

#: What is trained on class folders, and the side of its crops in pixels by default.
KINDS = {"sparse-attn-net": 64, "tnet": 128}


def train_cells(
    folder: Path,
    out: Path,
    *,
    kind: str,
    field_of_view: float,
    size: int | None,
    channels: int,
    modality: str | None,
    epochs: int,
    seed: int,
    device: str,
    as_json: bool,
) -> None:
    """Train a model on images in class folders, write it, and print how good it is.

    Raises
    ------
    ValueError
        If an option makes no sense, or the images are too few.
    FileNotFoundError, ImageError
        As `read_class_folders`.
    """
    if kind not in KINDS:
        raise ValueError(f"kind '{kind}' is not known; for cells there is {' or '.join(KINDS)}.")
    if channels not in (1, 3):
        raise ValueError("channels must be 1 or 3.")
    if out.suffix != ".safetensors":
        raise ValueError(f"--out must end in .safetensors, got '{out.name}'.")
    shown = _modality(modality, channels)
    side = size or KINDS[kind]
    if kind == "tnet":
        from ..training.loop.tnet_cells import cell_architecture

        cell_architecture(side)  # before the images are read, which takes a while

    from ..bundle import save_bundle
    from ..card import CropSpec
    from ..training.data.datasets import read_class_folders
    from ..training.loop.classifier import TrainingSettings, suit_settings

    with progress_bar("images", quiet=as_json) as progress:
        data = read_class_folders(folder, 2 * side, channels, progress)
    settings = TrainingSettings(
        name=out.stem,
        crop=CropSpec(size=side, field_of_view_um=field_of_view),
        modality=shown,
        unit={"opd": "nm", "phase": "rad"}.get(shown, ""),
        data=f"{len(data)} images of the folder {folder.name}",
        recipe=f"napari-sparseattn train --kind {kind}",
    )
    common = {"epochs": epochs, "seed": seed, "device": device}
    bundle, report = _train(kind, data, suit_settings(settings, data), common, as_json)
    saved = save_bundle(bundle, out)
    _report(saved, report, out, as_json)


def _modality(asked: str | None, channels: int) -> Modality:
    from ..images.fields.field import Modality

    shown = asked or ("brightfield" if channels == 3 else "unknown")
    if shown not in get_args(Modality):
        raise ValueError(f"modality must be one of {', '.join(get_args(Modality))}, got '{shown}'.")
    return cast("Modality", shown)


def _train(
    kind: str, data: CropSet, settings: TrainingSettings, common: dict[str, Any], as_json: bool
) -> tuple[Bundle, TrainingReport]:
    import dataclasses

    from ..device import choose_device
    from ..training.loop.classifier import train_classifier
    from ..training.loop.fit import FitOptions
    from ..training.loop.tnet import TNetOptions
    from ..training.loop.tnet_cells import train_tnet

    common = {**common, "device": choose_device(common["device"])}
    show = None if as_json else _show_epoch
    if kind == "tnet":
        return train_tnet(data, settings, TNetOptions(**common), show)
    settings = dataclasses.replace(settings, options=FitOptions(**common))
    return train_classifier(data, settings, show)


def _show_epoch(epoch: EpochReport) -> None:
    print(epoch, flush=True)


def _report(bundle: Bundle, report: TrainingReport, out: Path, as_json: bool) -> None:
    dial = bundle.card.metrics.get("by_locations")
    if as_json:
        said = {"model": str(out), "hash": bundle.hash, **report.to_dict()}
        print(json.dumps(said if dial is None else {**said, "by_locations": dial}))
        return
    print(f"test accuracy {100 * report.test.accuracy:.1f} %; written to {out}")
    if dial:
        print(f"closer looks per crop, and how often right of {dial[0]['n']} validation images:")
    for row in dial or ():
        print(f"  {','.join(map(str, row['locations'])):6s} {100 * row['accuracy']:5.1f} %")
