"""Patch encoders side by side: what a linear probe makes of them, and how fast they are.

    python benchmarks/encoders.py --network path/to/mobilenetv2_imagenet

The probe tells three classes of real H&E lung tiles (LC25000) apart. A group is
one picture in up to four augmented copies; groups are split into five folds, so
that no copy of a test picture is trained on. Whether two groups are of one
patient is not known, and the tiles of one class may share a stain: the figures
rank encoders, and promise nothing about other slides. The licence of the
pictures is unclear: nothing fitted here may be passed on.

The 95 % interval is Wilson's, over groups: copies of one picture are no new
evidence. Speed is that of one thread, without reading the slide; the order of
encoders is turned round by round, and the median is shown.
"""

from __future__ import annotations

import argparse
import io
import os
import time
import zipfile
from collections.abc import Callable
from pathlib import Path

import numpy as np
import torch
from PIL import Image

from napari_sparseattn.bundle import load_bundle
from napari_sparseattn.features.encoders import load_encoder
from napari_sparseattn.metrics import wilson
from napari_sparseattn.models.backbones import SmallBackbone
from napari_sparseattn.models.tnet.network import TNet

CLASSES = ("benign", "adenocarcinoma", "squamous_cell_carcinoma")
FOLDS, BATCH, L2 = 5, 32, 1e-2
Encode = Callable[[np.ndarray], np.ndarray]


def default_shared() -> Path:
    """Where real data lies beside a checkout; NAPARI_SPARSEATTN_SHARED moves it."""
    root = os.environ.get("NAPARI_SPARSEATTN_SHARED")
    return Path(root) if root else Path(__file__).resolve().parents[2] / "shared"


def read_tiles(archive: Path) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Return pixels (N, 224, 224, 3), labels and groups (N,)."""
    pixels, labels, groups = [], [], []
    with zipfile.ZipFile(archive) as opened:
        for name in sorted(n for n in opened.namelist() if n.endswith(".jpeg")):
            label, group, _ = name.split("/")[-3:]
            with Image.open(io.BytesIO(opened.read(name))) as image:
                pixels.append(np.asarray(image.convert("RGB")))
            labels.append(CLASSES.index(label))
            groups.append(f"{label}/{group}")
    return np.stack(pixels), np.array(labels), np.unique(groups, return_inverse=True)[1]


def folds_of(labels: np.ndarray, groups: np.ndarray, seed: int) -> np.ndarray:
    """Fold (N,) of each tile: groups are dealt out class by class."""
    random, folds = np.random.default_rng(seed), np.zeros(len(labels), int)
    for label in range(len(CLASSES)):
        for place, group in enumerate(random.permutation(np.unique(groups[labels == label]))):
            folds[groups == group] = place % FOLDS
    return folds


def logistic(x: np.ndarray, y: np.ndarray, test: np.ndarray) -> np.ndarray:
    """Fit a logistic regression with a fixed penalty; classify."""
    mean, spread = x.mean(axis=0), x.std(axis=0) + 1e-6
    known, unknown = (torch.from_numpy((a - mean) / spread).double() for a in (x, test))
    weight = torch.zeros(x.shape[1], len(CLASSES), dtype=torch.double, requires_grad=True)
    bias = torch.zeros(len(CLASSES), dtype=torch.double, requires_grad=True)
    target = torch.from_numpy(y)
    optimiser = torch.optim.LBFGS([weight, bias], max_iter=100, line_search_fn="strong_wolfe")

    def closure() -> torch.Tensor:
        optimiser.zero_grad()
        loss = torch.nn.functional.cross_entropy(known @ weight + bias, target)
        loss = loss + L2 / 2 * (weight**2).sum()
        loss.backward()
        return loss

    optimiser.step(closure)
    return (unknown @ weight + bias).argmax(dim=1).detach().numpy()


def nearest(x: np.ndarray, y: np.ndarray, test: np.ndarray) -> np.ndarray:
    """Classify by the nearest mean of a class, in units of each number's spread."""
    mean, spread = x.mean(axis=0), x.std(axis=0) + 1e-6
    x, test = (x - mean) / spread, (test - mean) / spread
    centres = np.stack([x[y == label].mean(axis=0) for label in range(len(CLASSES))])
    return ((test[:, None] - centres) ** 2).sum(axis=2).argmin(axis=1)


def probed(
    features: np.ndarray, labels: np.ndarray, groups: np.ndarray, seed: int, fit: Callable
) -> tuple[float, tuple[float, float]]:
    """Accuracy over tiles, and Wilson's interval with as many trials as groups."""
    folds, guess = folds_of(labels, groups, seed), np.empty(len(labels), int)
    for fold in range(FOLDS):
        own = folds == fold
        guess[own] = fit(features[~own], labels[~own], features[own])
    share, n = float((guess == labels).mean()), len(np.unique(groups))
    return share, wilson(round(share * n), n)


def network(module: torch.nn.Module) -> Encode:
    """Pooled vectors of one of our own backbones."""

    @torch.inference_mode()
    def encode(patches: np.ndarray) -> np.ndarray:
        pixels = torch.from_numpy(patches).permute(0, 3, 1, 2).float()
        _, pooled = module(((pixels / 255 - 0.5) / 0.25).contiguous())
        return pooled.numpy()

    return encode


def blood_backbone(bundle: str) -> Encode:
    """The backbone of a TNet, by default that trained on blood cells."""
    model = load_bundle(bundle).model()
    assert isinstance(model, TNet)
    return network(model.backbone.eval())


def candidates(arguments: argparse.Namespace) -> dict[str, Encode]:
    torch.manual_seed(0)
    found: dict[str, Encode] = {
        "stain-texture (embedded)": load_encoder("stain-texture", "cpu"),
        "random weights, small network": network(SmallBackbone().eval()),
    }
    if arguments.bundle:
        found[f"{arguments.bundle}, backbone"] = blood_backbone(arguments.bundle)
    if arguments.network:
        name = f"transformers:{arguments.network}"
        found[f"{arguments.network.name} (transformers)"] = load_encoder(name, "cpu")
    return found


def encoded(encode: Encode, pixels: np.ndarray) -> np.ndarray:
    return np.concatenate(
        [encode(pixels[i : i + BATCH]) for i in range(0, len(pixels), BATCH)]
    ).astype(np.float64)


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
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--data", type=Path, default=default_shared() / "data/lung_tiles.zip")
    parser.add_argument("--network", type=Path, help="a folder in transformers' format")
    parser.add_argument("--bundle", default="blood-cells-tnet", help="a TNet")
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--rounds", type=int, default=5)
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    pixels, labels, groups = read_tiles(arguments.data)
    encoders = candidates(arguments)
    rates = speeds(encoders, pixels, arguments.rounds)
    print(f"{len(labels)} tiles, {len(np.unique(groups))} groups, {FOLDS} folds")
    for name, encode in encoders.items():
        features = encoded(encode, pixels)
        line = f"{name}: {features.shape[1]} wide, {rates[name]:.0f} patches per s of one core"
        for kind, fit in (("logistic", logistic), ("nearest mean", nearest)):
            runs = [probed(features, labels, groups, s, fit) for s in range(arguments.seeds)]
            share = float(np.mean([run[0] for run in runs]))
            low, high = wilson(round(share * len(np.unique(groups))), len(np.unique(groups)))
            spread = max(run[0] for run in runs) - min(run[0] for run in runs)
            line += f"; {kind} {100 * share:.1f} % ({100 * low:.1f}-{100 * high:.1f}"
            line += f", range over {arguments.seeds} splits {100 * spread:.1f})"
        print(line, flush=True)


if __name__ == "__main__":
    main()
