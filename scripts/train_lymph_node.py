"""Train ``lymph-node``: SPAN-UNet over patches of lymph nodes, which of them are tumour.

    python scripts/train_lymph_node.py --work runs/

Patches and their labels are PatchCamelyon's, 96 px at 0.97 µm/px, encoded by
``tissue-mobilenet``. Where they lay on their slides is not published, so they
are laid out by us on canvases: tumour in blobs of any size from one patch to
half the canvas, or nowhere, the patches of a canvas alike in colour, as those of
one slide are. What SPAN-UNet gains over single patches is gained by neighbours
being alike, which on a slide they are in their own way.

Training takes only the training part. The official validation part, of other
slides, is halved by lot: one half sets the temperature and what counts as
unlike anything it knows, the figures are of canvases of the other half.
"""

from __future__ import annotations

import argparse
import dataclasses
import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from safetensors.torch import load_file, save_file
from scipy.ndimage import gaussian_filter
from tissue_data import NODES, PCAM_CITATION, PCAM_MPP, Tiles, area_under_curve, read_pcam

from napari_sparseattn.bundle import Bundle, load_bundle, save_bundle
from napari_sparseattn.card import Card, CropSpec, Training
from napari_sparseattn.features.encoders import Encoder, load_encoder
from napari_sparseattn.files import replacing
from napari_sparseattn.images.normalise import Normalisation
from napari_sparseattn.models.span import SpanUnet, span_from_config
from napari_sparseattn.training.data.span_data import SlideExample
from napari_sparseattn.training.loop.known import measure_known_slides
from napari_sparseattn.training.loop.slides import encoder_spec
from napari_sparseattn.training.loop.span import (
    SpanOptions,
    dice,
    fit_span,
    measure_patches,
    predict_slides,
    span_temperature,
)

ROOT = Path(__file__).resolve().parents[1]
NAME = "lymph-node"
SIDE = 96
CROP = CropSpec(size=SIDE, field_of_view_um=round(SIDE * PCAM_MPP, 2))
CLASSES = ("no tumour", "tumour")
VERSIONS = 1
NOISE = 0.3
OPTIONS = SpanOptions.for_patches(epochs=5, patience=5, learning_rate=5e-4, weight_decay=1e-2)
#: Said beside each answer.
LIMITS = (
    "It knows lymph nodes alone: what it says of other tissue means nothing, and is not "
    "always flagged."
)
USE = (
    "It must not be used for a diagnosis, nor on other organs, other stains or other tumours than "
    "carcinoma in a lymph node: it was told of breast cancer's metastases only."
)


@dataclasses.dataclass(frozen=True)
class Patches:
    """Features (V, N, F) of patches, their labels (N,), and their mean optical densities (N, 3)."""

    features: torch.Tensor
    labels: np.ndarray
    colours: np.ndarray

    def take(self, rows: np.ndarray) -> Patches:
        return Patches(self.features[:, rows], self.labels[rows], self.colours[rows])


def encoded(tiles: Tiles, encoder: Encoder, versions: int, kept: Path) -> Patches:
    """Features of tiles as they are, and with other stains; kept."""
    light = np.maximum(tiles.pixels.reshape(len(tiles.pixels), -1, 3), 5) / 255
    colours = -np.log(light).mean(1)
    if kept.exists():
        return Patches(load_file(kept)["features"], tiles.labels, colours)
    changes = dataclasses.replace(NODES, shift=0.0, scale=(0.95, 1.05))
    pixels, made = torch.from_numpy(tiles.pixels).permute(0, 3, 1, 2), []
    for version in range(1 + versions):
        rows = []
        for start in range(0, len(pixels), 64):
            part = pixels[start : start + 64]
            if version:
                generator = torch.Generator().manual_seed(10_000 * version + start)
                part = (changes(part, SIDE, generator)[0] * 255).round().byte()
            rows.append(encoder(part.permute(0, 2, 3, 1).numpy()))
        made.append(np.concatenate(rows))
    features = torch.from_numpy(np.stack(made))
    with replacing(kept) as temporary:
        save_file({"features": features}, temporary)
    return Patches(features, tiles.labels, colours)


def canvas(
    patches: Patches, random: np.random.Generator, noise: float, few: float = 0.0
) -> SlideExample:
    """Lay out one canvas: where tissue is, where tumour is in it, and patches alike in colour.

    A share of them are `few` patches, so that a single one is judged as well.
    """
    tissue, tumour = _few(random) if random.random() < few else _many(random)
    y, x = np.nonzero(tissue)
    labels = tumour[y, x].astype(np.int8)
    anchor = patches.colours[random.integers(len(patches.colours))]
    distance = np.square(patches.colours - anchor).sum(1)
    rows = np.empty(len(labels), int)
    for label in (0, 1):
        own = np.flatnonzero(patches.labels == label)
        alike = own[np.argsort(distance[own])[: max(200, len(own) // 4)]]
        wanted = labels == label
        rows[wanted] = random.choice(alike, int(wanted.sum()), replace=wanted.sum() > len(alike))
    version = random.integers(len(patches.features))
    found = patches.features[version, rows].numpy()
    if noise:
        found = found + noise * random.standard_normal(found.shape).astype(np.float32)
    cells = np.stack([x, y], 1)
    return SlideExample(found, cells, int(labels.any()), labels, name="canvas")


def _many(random: np.random.Generator) -> tuple[np.ndarray, np.ndarray]:
    height, width = random.integers(10, 29, 2)
    shape = (int(height), int(width))
    tissue = _blobs(shape, random.uniform(0.5, 1), 3.0, random)
    share = 0.0 if random.random() < 0.2 else 0.5 * random.random() ** 2
    tumour = _blobs(shape, share, float(random.choice([0.6, 1.2, 2.5])), random)
    return tissue, tumour & tissue


def _few(random: np.random.Generator) -> tuple[np.ndarray, np.ndarray]:
    side = int(random.integers(1, 4))
    tissue = np.ones((side, side), bool)
    alike = random.random() < 0.5
    return tissue, np.broadcast_to(
        random.random() < 0.5 if alike else random.random((side, side)) < 0.5, tissue.shape
    )


def _blobs(
    shape: tuple[int, int], share: float, sigma: float, random: np.random.Generator
) -> np.ndarray:
    """A share of the places, in blobs."""
    field = gaussian_filter(random.standard_normal(shape), sigma)
    n = round(share * field.size)
    wanted: np.ndarray = field >= np.partition(field.ravel(), -n)[-n] if n else field > np.inf
    return wanted


@dataclasses.dataclass
class Canvases(Sequence[SlideExample]):
    """Canvases of training patches; never the same twice."""

    patches: Patches
    count: int = 280
    seed: int = 0

    def __post_init__(self) -> None:
        self.random = np.random.default_rng(self.seed)

    def __len__(self) -> int:
        return self.count

    def __getitem__(self, index: Any) -> SlideExample:
        if not 0 <= index < self.count:  # or whoever goes through them never ends
            raise IndexError(index)
        return canvas(self.patches, self.random, NOISE, few=0.6)


def drawn(patches: Patches, count: int, seed: int) -> list[SlideExample]:
    """Canvases of held-out patches: as they are, the same every time."""
    random = np.random.default_rng(seed)
    as_they_are = dataclasses.replace(patches, features=patches.features[:1])
    return [canvas(as_they_are, random, 0) for _ in range(count)]


def fitted(patches: Patches) -> tuple[SpanUnet, list]:
    torch.manual_seed(0)
    model = span_from_config(
        {"task": "unet", "features": patches.features.shape[2], "width": 64, "channel_factor": 1}
    )
    # Their loss falls to the end: the last weights are kept, and nothing is chosen.
    fixed = list(Canvases(patches, 60, seed=1))
    history = []
    for epoch in fit_span(model, Canvases(patches), fixed, OPTIONS):
        history.append(epoch)
        print(epoch, flush=True)
    return model.eval(), history


def head_logits(features: np.ndarray, encoder_file: Path) -> np.ndarray:
    """Logit of tumour by the encoder's own layer, patch by patch."""
    state = load_file(encoder_file)
    weight, bias = state["nodes.weight"].float().numpy(), state["nodes.bias"].float().numpy()
    logits = features @ weight.T + bias
    found: np.ndarray = logits[:, 1] - logits[:, 0]
    return found


@torch.inference_mode()
def singly(model: SpanUnet, patches: Patches) -> np.ndarray:
    """Logit of each patch on its own."""
    place = torch.zeros(1, 2, dtype=torch.long)
    return np.array([float(model(row[None], place).logits[0, 0]) for row in patches.features[0]])


def main() -> None:
    from napari_sparseattn.features.encoders import TISSUE_FILE

    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--work", type=Path, required=True, help="folder to keep features in")
    parser.add_argument("--out", type=Path, default=ROOT / "src/napari_sparseattn/weights")
    parser.add_argument("--threads", type=int, default=1)
    arguments = parser.parse_args()
    torch.set_num_threads(arguments.threads)
    encoder = load_encoder(device="cpu")
    key = encoder.hash[:12]
    train = encoded(
        read_pcam("train"), encoder, VERSIONS, arguments.work / f"pcam-{key}.safetensors"
    )
    valid = encoded(read_pcam("valid"), encoder, 0, arguments.work / f"valid-{key}.safetensors")
    single = head_logits(valid.features[0].numpy(), TISSUE_FILE)
    tile_auc = area_under_curve(single, valid.labels == 1)
    tile_right = float(np.mean((single > 0) == valid.labels))
    print(f"tile classifier, official valid: AUC {tile_auc:.4f}, right {tile_right:.4f}")
    model, history = fitted(train)
    halves = np.array_split(np.random.default_rng(3).permutation(len(valid.labels)), 2)
    setting, test = (drawn(valid.take(rows), 40, 7 + i) for i, rows in enumerate(halves))
    temperature = span_temperature(model, setting, OPTIONS)
    report, overlap = measure_patches(model, test, CLASSES, temperature=temperature)
    labels = np.concatenate([each.patch_labels for each in test])
    scores = torch.cat(predict_slides(model, test))[:, 0].numpy()
    alone = np.concatenate([head_logits(np.asarray(each.features), TISSUE_FILE) for each in test])
    lonely = singly(model, valid)
    known, novelty = measure_known_slides(model, drawn(train, 40, 5), setting, test)
    metrics = report.to_dict() | {
        "dice": overlap,
        "n_slides": len(test),
        "auc": area_under_curve(scores, labels == 1),
        "tiles": {
            "n": len(valid.labels), "auc": tile_auc, "accuracy": tile_right,
            "what": "the encoder's own layer on single patches of the official validation part",
        },
        "dice_of_tiles": dice(alone > 0, labels),
        "auc_of_tiles": area_under_curve(alone, labels == 1),
        "single_patches": {
            "n": len(valid.labels), "auc": area_under_curve(lonely, valid.labels == 1),
            "accuracy": float(np.mean((lonely > 0) == valid.labels)),
            "what": "this model on single patches of the official validation part, no neighbours",
        },
    }  # fmt: skip
    card = Card(
        kind="span-unet",
        name=NAME,
        description=(
            "H&E of sentinel lymph nodes: which patches show tumour. The patches are real, their "
            f"arrangement on canvases was laid out by us. {USE}"
        ),
        limits=LIMITS,
        class_names=CLASSES,
        channels=("red", "green", "blue"),
        modality="brightfield",
        crop=CROP,
        encoder=encoder_spec(encoder),
        normalisation=Normalisation("fixed", 0.0, 1.0),
        architecture=dataclasses.asdict(model.config),
        temperature=temperature,
        training=Training(
            data=(
                f"PatchCamelyon, {len(train.labels)} of its 262,144 training patches, 96 px at "
                "0.97 µm per pixel, tumour in the middle 31 µm or not; laid out on canvases by us, "
                "their true places are not published"
            ),
            citation=PCAM_CITATION,
            licence="CC0 1.0",
            split=(
                "PatchCamelyon's own, by slide; the official validation part halved by lot, one "
                "half for the temperature and novelty, the other for the figures"
            ),
            recipe="scripts/train_lymph_node.py",
            n_train=OPTIONS.epochs * len(Canvases(train)),
            n_validation=len(setting),
            n_test=len(test),
            epochs=len(history),
        ),
        metrics=metrics,
        novelty=novelty,
    )
    path = arguments.out / f"{NAME}.safetensors"
    save_bundle(Bundle(card, model.state_dict(), known=known), path)
    print(load_bundle(path).card.summary())
    shown = {
        k: v
        for k, v in metrics.items()
        if "dice" in k or "auc" in k or k in ("tiles", "single_patches")
    }
    print(json.dumps(shown), path, path.stat().st_size)


if __name__ == "__main__":
    main()
