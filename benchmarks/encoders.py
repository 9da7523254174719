"""Patch encoders side by side: what a linear probe makes of them, and how fast they are.

    python benchmarks/encoders.py --network path/to/mobilenetv2_imagenet --work runs/

Two sets of real H&E. PatchCamelyon: a logistic probe learns from the training
patches at hand, and is measured on the official validation part, of other
slides. EBHI-Seg: three merged classes of a tile, in five folds by patient, so
that no patient is in training and test; `tissue-mobilenet` was tuned on EBHI-Seg
itself, so that each fold is encoded by the encoder that was tuned without it
(``scripts/train_tissue_mobilenet.py``; with ``--work`` they lie there, without it
only fold 0 is measured, which the encoder that ships has not seen).

Intervals are by bootstrap over patients, or over patches where patients are not
told (95 %). Speed is that of one thread, without reading the slide; the order of
encoders is turned round by round, and the median is shown.
"""

from __future__ import annotations

import argparse
import dataclasses
import sys
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
import torch
from safetensors.torch import load_file

ROOT = Path(__file__).resolve().parents[1]
sys.path[:0] = [str(ROOT / "scripts")]

from tissue_data import (
    N_FOLDS,
    Tiles,
    area_under_curve,
    merged,
    patient_folds,
    read_ebhi,
    read_pcam,
)
from train_colon_biopsy import features_of

from napari_sparseattn.features.encoders import TISSUE, load_encoder
from napari_sparseattn.models.mobilenet import MobileNetV2, folded, from_transformers

BATCH, L2, DRAWS = 32, 1e-2, 1000
MEAN = torch.tensor([0.485, 0.456, 0.406])[:, None, None]
STD = torch.tensor([0.229, 0.224, 0.225])[:, None, None]
Encode = Callable[[np.ndarray], np.ndarray]
#: Side at which the tiles of 224 px are read; `TISSUE` reads them as its models do, at 192.
SIDES = {"imagenet": 224, "stain-texture": 224}


def logistic(x: np.ndarray, y: np.ndarray, test: np.ndarray) -> np.ndarray:
    """Fit a logistic regression with a fixed penalty; return probabilities (N, C)."""
    mean, spread = x.mean(axis=0), x.std(axis=0) + 1e-6
    known, unknown = (torch.from_numpy((a - mean) / spread).double() for a in (x, test))
    n_classes = int(y.max()) + 1
    weight = torch.zeros(x.shape[1], n_classes, dtype=torch.double, requires_grad=True)
    bias = torch.zeros(n_classes, dtype=torch.double, requires_grad=True)
    target = torch.from_numpy(y)
    optimiser = torch.optim.LBFGS([weight, bias], max_iter=100, line_search_fn="strong_wolfe")

    def closure() -> torch.Tensor:
        optimiser.zero_grad()
        loss = torch.nn.functional.cross_entropy(known @ weight + bias, target)
        loss = loss + L2 / 2 * (weight**2).sum()
        loss.backward()
        return loss

    optimiser.step(closure)
    odds: np.ndarray = (unknown @ weight + bias).softmax(1).detach().numpy()
    return odds


def imagenet(folder: Path) -> Encode:
    """MobileNetV2 as ImageNet made it, 1,280 numbers."""
    module = MobileNetV2().eval()
    module.load_state_dict(folded(from_transformers(load_file(folder / "model.safetensors"))))
    module.to(memory_format=torch.channels_last)

    @torch.inference_mode()
    def encode(patches: np.ndarray) -> np.ndarray:
        images = (torch.from_numpy(patches).permute(0, 3, 1, 2).float() / 255 - MEAN) / STD
        return module(images.contiguous(memory_format=torch.channels_last)).numpy()

    return encode


def encoded(encode: Encode, pixels: np.ndarray, side: int) -> np.ndarray:
    """Features (N, F) of tiles, brought to a side first."""
    parts = []
    for start in range(0, len(pixels), BATCH):
        part = pixels[start : start + BATCH]
        if part.shape[1] != side:
            images = torch.from_numpy(part).permute(0, 3, 1, 2).float()
            images = torch.nn.functional.interpolate(
                images, (side, side), mode="bilinear", antialias=True
            )
            part = images.round().clamp(0, 255).byte().permute(0, 2, 3, 1).numpy()
        parts.append(encode(part))
    return np.concatenate(parts).astype(np.float64)


def interval(
    statistic: Callable[[np.ndarray], float], groups: np.ndarray
) -> tuple[float, float, float]:
    """A statistic of rows, and its 95 % interval by bootstrap over groups."""
    names, own = np.unique(groups, return_inverse=True)
    rows = [np.flatnonzero(own == i) for i in range(len(names))]
    random = np.random.default_rng(0)
    drawn = [
        statistic(np.concatenate([rows[i] for i in random.integers(len(names), size=len(names))]))
        for _ in range(DRAWS)
    ]
    low, high = np.quantile(drawn, (0.025, 0.975))
    return statistic(np.arange(len(groups))), float(low), float(high)


def shown(found: tuple[float, float, float], scale: float = 1, digits: int = 3) -> str:
    value, low, high = (f"{scale * each:.{digits}f}" for each in found)
    return f"{value} [{low}, {high}]"


@dataclasses.dataclass(frozen=True)
class Answers:
    """Probabilities (N, C) of what was tested, the truth (N,), and whose each is (N,)."""

    odds: np.ndarray
    truth: np.ndarray
    groups: np.ndarray

    def right(self, rows: np.ndarray) -> float:
        return float((self.odds[rows].argmax(1) == self.truth[rows]).mean())

    def area(self, rows: np.ndarray) -> float:
        """AUC of the last class."""
        last = self.odds.shape[1] - 1
        return area_under_curve(self.odds[rows, last], self.truth[rows] == last)


def on_pcam(encode: Encode, side: int, train: Tiles, valid: Tiles) -> Answers:
    known, unknown = (encoded(encode, part.pixels, side) for part in (train, valid))
    return Answers(logistic(known, train.labels, unknown), valid.labels, valid.groups)


def on_ebhi(of_fold: Callable[[int], np.ndarray | None], tiles: Tiles) -> Answers:
    """Answers of the tiles of all folds whose features are there."""
    kinds, folds = merged(tiles.labels), patient_folds(tiles)
    odds, known = np.zeros((len(kinds), 3)), np.zeros(len(kinds), bool)
    for fold in range(N_FOLDS):
        features = of_fold(fold)
        if features is None:
            continue
        own, held = (folds != fold) & (kinds >= 0), (folds == fold) & (kinds >= 0)
        odds[held] = logistic(features[own], kinds[own], features[held])
        known |= held
    return Answers(odds[known], kinds[known], tiles.groups[known])


def tissue_features(tiles: Tiles, work: Path | None) -> Callable[[int], np.ndarray | None]:
    """Features by the encoder of a fold, read as ``colon-biopsy`` reads them."""

    def of_fold(fold: int) -> np.ndarray | None:
        if work is None:  # the encoder that ships is that of fold 0
            return None if fold else encoded(load_encoder(TISSUE, "cpu"), tiles.pixels, 192)
        if not (work / f"encoder-{fold}.safetensors").exists():
            return None
        return features_of(tiles, fold, work)[0].numpy().astype(np.float64)

    return of_fold


def row_of(nodes: Answers, colon: Answers) -> str:
    return " | ".join((
        shown(interval(nodes.area, nodes.groups)),
        shown(interval(colon.right, colon.groups), 100, 1) + f" of {len(colon.truth)}",
        shown(interval(colon.area, colon.groups)),
    ))  # fmt: skip


def apart(first: Answers, second: Answers) -> str:
    """The first less the second, of the same tiles."""
    if not np.array_equal(first.groups, second.groups):
        return "not of the same tiles"
    right = interval(lambda rows: first.right(rows) - second.right(rows), first.groups)
    area = interval(lambda rows: first.area(rows) - second.area(rows), first.groups)
    return f"{shown(right, 100, 1)} points right, AUC {shown(area)}"


def speeds(encoders: dict[str, Encode], pixels: np.ndarray, rounds: int) -> dict[str, float]:
    """Patches per second of processor time, so that other work on the machine counts less."""
    times: dict[str, list[float]] = {name: [] for name in encoders}
    for encode in encoders.values():
        encode(pixels[:BATCH])
    for _ in range(rounds):
        for name, encode in encoders.items():
            began = time.process_time()
            encode(pixels[:BATCH])
            times[name].append(time.process_time() - began)
    return {name: BATCH / float(np.median(taken)) for name, taken in times.items()}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--network", type=Path, help="ImageNet's, in transformers' format")
    parser.add_argument("--work", type=Path, help="with encoder-FOLD.safetensors of all folds")
    parser.add_argument("--only", nargs="*", help="encoders by name")
    parser.add_argument("--rounds", type=int, default=5, help="of timing; 0 leaves it out")
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    encoders: dict[str, Encode] = {TISSUE: load_encoder(TISSUE, "cpu")}
    if arguments.network:
        encoders["imagenet"] = imagenet(arguments.network)
    encoders["stain-texture"] = load_encoder("stain-texture", "cpu")
    train, valid, tiles = read_pcam("train"), read_pcam("valid"), read_ebhi()
    random = np.random.default_rng(0)
    for side in (96, 128, 192, 224) if arguments.rounds else ():
        made = random.integers(0, 256, (BATCH, side, side, 3), dtype=np.uint8)
        able = {
            name: each for name, each in encoders.items() if side >= 192 or name != "stain-texture"
        }
        rates = speeds(able, made, arguments.rounds)
        told = (f"{name} {rate:.0f}/s ({1000 / rate:.1f} ms)" for name, rate in rates.items())
        print(f"{side} px: " + ", ".join(told), flush=True)
    print("| encoder | PCam valid, AUC | EBHI tiles right, % | EBHI, AUC of adenocarcinoma |")
    found: dict[str, tuple[Answers, Answers]] = {}
    for name, encode in encoders.items():
        if arguments.only is not None and name not in arguments.only:
            continue

        # The octaves of stain-texture need 192 px.
        nodes = on_pcam(encode, 192 if name == "stain-texture" else 96, train, valid)
        if name == TISSUE:
            of_fold = tissue_features(tiles, arguments.work)
        else:
            every = encoded(encode, tiles.pixels, SIDES[name])

            def of_fold(fold: int, every: np.ndarray = every) -> np.ndarray | None:
                return every

        found[name] = nodes, on_ebhi(of_fold, tiles)
        print(f"| {name} | {row_of(*found[name])} |", flush=True)
    for name, pair in found.items():
        if name != TISSUE and TISSUE in found:
            for what, own, other in zip(("PCam", "EBHI"), found[TISSUE], pair, strict=True):
                print(f"{TISSUE} less {name}, {what}: {apart(own, other)}")


if __name__ == "__main__":
    main()
