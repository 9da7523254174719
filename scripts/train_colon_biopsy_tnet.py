"""Train ``colon-biopsy-tnet``: a TNet on tiles of colorectal biopsies.

    python scripts/train_colon_biopsy_tnet.py --work runs/

A tile of 224 px is seen whole at 64 px, and two of nine places in it again at
64 px: a quarter of its pixels. The backbone begins as ``tissue-mobilenet``,
whose training kept the patients of fold 0 aside as this one does; figures are
of them. Every second of them also sets the temperature, and what counts as
unlike anything it knows; nothing else is chosen on any of them.
"""

from __future__ import annotations

import argparse
import dataclasses
import json
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F
from safetensors.torch import load_file, save_file
from tissue_data import (
    COLON,
    COLON_CLASSES,
    EBHI_CITATION,
    EBHI_MPP,
    MEAN,
    STD,
    Tiles,
    area_under_curve,
    colon_logits,
    merged,
    patient_folds,
    read_ebhi,
)
from torch import Tensor

from napari_sparseattn.bundle import Bundle, load_bundle, save_bundle
from napari_sparseattn.card import Card, CropSpec, Training
from napari_sparseattn.features.encoders import TISSUE_FILE
from napari_sparseattn.files import replacing
from napari_sparseattn.images.normalise import Normalisation
from napari_sparseattn.metrics import classification_report
from napari_sparseattn.models.mobilenet import TissueNetwork
from napari_sparseattn.models.tnet.network import TNet, TNetConfig
from napari_sparseattn.training.data.datasets import CropSet
from napari_sparseattn.training.loop.classifier import fit_temperature
from napari_sparseattn.training.loop.epochs import EpochReport
from napari_sparseattn.training.loop.known import measure_known_states
from napari_sparseattn.training.loop.tnet import TNetOptions, fit_tnet

ROOT = Path(__file__).resolve().parents[1]
NAME = "colon-biopsy-tnet"
SIDE, BASE = 224, 64
#: One mean and spread for all channels; see `started`.
NORMALISATION = Normalisation("fixed", 0.449, 0.226)
CONFIG = TNetConfig(
    n_classes=3,
    image_size=SIDE,
    base=BASE,
    grid=3,
    overlap=0.5,
    locations=(2,),
    backbone={"name": "mobilenet-v2"},
    dropout=0.2,
)
OPTIONS = TNetOptions(epochs=4, learning_rate=3e-4, noise=0.3, lambda_c=0.5, steady=0.3)
CHANGES = dataclasses.replace(COLON, scale=(0.85, 1.35), shift=0.2)
DIAL = ((), (1,), (2,), (3,), (4,))
#: Said beside each answer.
LIMITS = (
    "It knows biopsies of colon and rectum alone: tissue of other organs gets one of these "
    "classes too, and is not always flagged."
)
USE = (
    "It must not be used for a diagnosis, nor on other organs, frozen sections or other stains, "
    "nor on whole slides: it knows single tiles from one hospital's biopsies, which were chosen "
    "to show one thing each."
)


def started() -> TNet:
    """The encoder's weights, its normalisation by channel put into the first convolution."""
    torch.manual_seed(0)
    model, state = TNet(CONFIG), load_file(TISSUE_FILE)
    own = {
        name: each.float() for name, each in state.items() if name.startswith(("trunk", "narrow"))
    }
    first = "trunk.layers.0.conv."
    centre, scale = NORMALISATION.mean, NORMALISATION.std
    weight = own[f"{first}weight"]
    own[f"{first}bias"] = own[f"{first}bias"] + (
        weight * ((centre - MEAN) / STD).view(1, 3, 1, 1)
    ).sum((1, 2, 3))
    own[f"{first}weight"] = weight * (scale / STD).view(1, 3, 1, 1)
    model.backbone.load_state_dict(own)
    return model.to(memory_format=torch.channels_last)


class Batches:
    """Training tiles with other stains, patients with many tiles seen less often each."""

    def __init__(self, tiles: Tiles, kinds: np.ndarray, batch: int = 32) -> None:
        self.pixels = torch.from_numpy(tiles.pixels).permute(0, 3, 1, 2)
        self.kinds, self.batch = kinds, batch
        _, own, counts = np.unique(tiles.groups, return_inverse=True, return_counts=True)
        weights = counts[own] ** -0.5
        self.chances = weights / weights.sum()
        self.random = np.random.default_rng(0)
        self.generator = torch.Generator().manual_seed(0)

    def __len__(self) -> int:
        return 45

    def __iter__(self) -> Iterator[tuple[Tensor, Tensor]]:
        for _ in range(len(self)):
            rows = self.random.choice(len(self.kinds), self.batch, replace=False, p=self.chances)
            images, _ = CHANGES(self.pixels[rows], SIDE, self.generator)
            yield ready(images), torch.from_numpy(self.kinds[rows])


def ready(images: Tensor) -> Tensor:
    made = torch.from_numpy(NORMALISATION(images.numpy()))
    return made.contiguous(memory_format=torch.channels_last)


@torch.inference_mode()
def logits_of(model: TNet, tiles: Tiles, locations: tuple[int, ...] | None = None) -> Tensor:
    parts = []
    for start in range(0, len(tiles.pixels), 32):
        images = torch.from_numpy(tiles.pixels[start : start + 32]).permute(0, 3, 1, 2) / 255
        parts.append(model(ready(images), locations).logits)
    return torch.cat(parts)


def figures(logits: Tensor, kinds: np.ndarray) -> dict[str, float]:
    odds = logits.softmax(1).numpy()
    return {
        "accuracy": float(np.mean(odds.argmax(1) == kinds)),
        "auc_adenocarcinoma": area_under_curve(odds[:, 2], kinds == 2),
        "n": len(kinds),
    }


@torch.inference_mode()
def dense(tiles: Tiles, kinds: np.ndarray, side: int = SIDE) -> dict[str, float]:
    """The encoder's own layer on the whole tile."""
    network = TissueNetwork().eval()
    network.load_state_dict({name: each.float() for name, each in load_file(TISSUE_FILE).items()})
    parts = []
    for start in range(0, len(tiles.pixels), 32):
        images = torch.from_numpy(tiles.pixels[start : start + 32]).permute(0, 3, 1, 2) / 255
        images = F.interpolate(images, (side, side), mode="bilinear", antialias=True)
        parts.append(colon_logits(network.colon(network((images - MEAN) / STD))))
    return figures(torch.cat(parts), kinds)


def trained(tiles: Tiles, kinds: np.ndarray, kept: Path) -> tuple[TNet, list[EpochReport]]:
    model = started()
    history_file = kept.with_suffix(".json")
    if kept.exists():
        model.load_state_dict(load_file(kept))
        return model.eval(), [EpochReport(**each) for each in json.loads(history_file.read_text())]
    few = np.random.default_rng(1).permutation(len(kinds))[:96]

    def validate(net: TNet) -> tuple[float, float]:
        # Training tiles: the loss falls to the end, and nothing is chosen.
        logits, truth = logits_of(net, tiles.take(few)), torch.from_numpy(kinds[few])
        right = (logits.argmax(1) == truth).float().mean()
        return float(F.cross_entropy(logits, truth)), float(right)

    history = []
    for epoch in fit_tnet(model, Batches(tiles, kinds), validate, OPTIONS):
        history.append(epoch)
        print(epoch, flush=True)
    with replacing(kept) as temporary:
        save_file({name: each.contiguous() for name, each in model.state_dict().items()}, temporary)
    history_file.write_text(json.dumps([dataclasses.asdict(each) for each in history]))
    return model.eval(), history


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--work", type=Path, required=True, help="folder to keep weights in")
    parser.add_argument("--out", type=Path, default=ROOT / "src/napari_sparseattn/weights")
    parser.add_argument("--threads", type=int, default=1)
    arguments = parser.parse_args()
    torch.set_num_threads(arguments.threads)
    every = read_ebhi()
    kinds, folds = merged(every.labels), patient_folds(every)
    known_class = np.flatnonzero(kinds >= 0)
    every, kinds, folds = every.take(known_class), kinds[known_class], folds[known_class]
    own, held = np.flatnonzero(folds != 0), np.flatnonzero(folds == 0)
    model, history = trained(every.take(own), kinds[own], arguments.work / f"{NAME}.safetensors")
    test, truth = every.take(held), kinds[held]
    logits = logits_of(model, test)
    names = np.unique(test.groups)
    first = np.isin(test.groups, names[::2])
    temperature = fit_temperature(logits[first], torch.from_numpy(truth[first]))
    report = classification_report(
        (logits / temperature).softmax(1).numpy(), truth, COLON_CLASSES
    ).to_dict()
    by_locations = []
    for locations in DIAL:
        row = figures(logits_of(model, test, locations), truth)
        pixels = (1 + sum(locations)) * BASE**2 / SIDE**2
        by_locations.append({"locations": list(locations), "pixels": pixels} | row)
        print(by_locations[-1], flush=True)
    metrics = report | {
        "auc_adenocarcinoma": figures(logits, truth)["auc_adenocarcinoma"],
        "by_locations": by_locations,
        "dense": dense(test, truth),
        "share_of_pixels": 3 * BASE**2 / SIDE**2,
    }
    print("dense", metrics["dense"])

    def crops(rows: np.ndarray) -> CropSet:
        return CropSet(every.pixels[rows], kinds[rows], COLON_CLASSES, tuple(every.groups[rows]))

    known, novelty = measure_known_states(
        model, crops(own), crops(held[first]), crops(held[~first]), NORMALISATION, SIDE
    )
    card = Card(
        kind="tnet",
        name=NAME,
        description=(
            "H&E tiles of biopsies of the colon and rectum: normal or polyp, low or high grade "
            f"neoplasia, or adenocarcinoma, by a quarter of the pixels. {USE}"
        ),
        limits=LIMITS,
        class_names=COLON_CLASSES,
        channels=("red", "green", "blue"),
        modality="brightfield",
        crop=CropSpec(size=SIDE, field_of_view_um=SIDE * EBHI_MPP, cell_diameters=20),
        normalisation=NORMALISATION,
        architecture=dataclasses.asdict(model.config),
        temperature=temperature,
        training=Training(
            data=(
                f"EBHI-Seg, {len(own)} tiles of {len(np.unique(every.groups[own]))} patients, "
                "224 px at about 1 µm per pixel, without serrated adenomas; the backbone began as "
                "tissue-mobilenet (PatchCamelyon, CC0, and the same tiles)"
            ),
            citation=EBHI_CITATION,
            licence="CC BY 4.0",
            split=(
                f"by patient: the figures are of {len(names)} patients that neither the encoder "
                "nor this model has seen; every second of them also set temperature and novelty"
            ),
            recipe="scripts/train_colon_biopsy_tnet.py",
            n_train=len(own),
            n_validation=int(first.sum()),
            n_test=len(held),
            epochs=len(history),
        ),
        metrics=metrics,
        novelty=novelty,
    )
    path = arguments.out / f"{NAME}.safetensors"
    save_bundle(Bundle(card, model.state_dict(), known=known), path)
    print(load_bundle(path).card.summary())
    print(path, path.stat().st_size)


if __name__ == "__main__":
    main()
