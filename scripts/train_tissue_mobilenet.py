"""Train ``tissue-mobilenet``, the encoder of H&E: ImageNet's MobileNetV2 tuned on real tissue.

    python scripts/train_tissue_mobilenet.py nodes --epochs 5 --network FOLDER --work runs/
    python scripts/train_tissue_mobilenet.py colon --epochs 6 --fold 0 --work runs/
    python scripts/train_tissue_mobilenet.py write --fold 0 --work runs/

The first step learns from PatchCamelyon's training part, where tumour is. The
second goes on with EBHI-Seg's tiles, the patients of one fold kept aside, and
some of PatchCamelyon beside them, so that nothing is forgotten; it is run for
all five folds, so that figures by patient can be had of patients that neither
encoder nor model has seen. The encoder that ships is that of fold 0.

The earliest layers stay as ImageNet made them: they are half of the cost. The
second step leaves the statistics of the batch normalisation alone too: those of
two kinds of tissue are not the same, and a mixture fits neither. Nothing is
chosen on any validation part. Runs that were stopped go on. About 10 and 5
minutes on one CPU core.
"""

from __future__ import annotations

import argparse
import math
import time
from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F
from safetensors.torch import load_file, save_file
from tissue_data import (
    COLON,
    EBHI,
    KINDS,
    MEAN,
    NODES,
    STD,
    Tiles,
    area_under_curve,
    colon_logits,
    merged,
    patient_folds,
    read_ebhi,
    read_pcam,
)
from torch import Tensor, nn

from napari_sparseattn.features.encoders import TISSUE_FILE
from napari_sparseattn.files import replacing
from napari_sparseattn.models.mobilenet import (
    CHANNELS,
    WIDTH,
    MobileNetV2,
    folded,
    from_transformers,
)
from napari_sparseattn.training.loop.laboratories import LaboratoryChanges

#: Layers that stay as they are in the first step and in the second, of 20.
FROZEN = {"nodes": 5, "colon": 8}
COLON_SIDE = 128


class Network(nn.Module):
    """The trunk, what narrows it to the features, and a layer for either set of classes."""

    def __init__(self, norm: bool = True) -> None:
        super().__init__()
        self.trunk = MobileNetV2(norm=norm)
        self.narrow = nn.Linear(CHANNELS, WIDTH)
        nn.init.orthogonal_(self.narrow.weight)
        self.nodes, self.colon = nn.Linear(WIDTH, 2), nn.Linear(WIDTH, len(EBHI))

    def forward(self, images: Tensor) -> Tensor:
        x = ((images - MEAN) / STD).contiguous(memory_format=torch.channels_last)
        features: Tensor = self.narrow(self.trunk(x))
        return features


class Drawn:
    """Random tiles without end, by step, so that a run that was stopped goes on alike."""

    def __init__(self, tiles: Tiles, changes: LaboratoryChanges, side: int, batch: int) -> None:
        self.pixels = torch.from_numpy(tiles.pixels).permute(0, 3, 1, 2)
        self.labels = torch.from_numpy(tiles.labels)
        self.changes, self.side, self.batch = changes, side, batch
        # Some patients have forty tiles, others one.
        names, own, counts = np.unique(tiles.groups, return_inverse=True, return_counts=True)
        weights = counts[own] ** -0.5
        self.chances = None if len(names) == len(own) else weights / weights.sum()

    def __len__(self) -> int:
        return math.ceil(len(self.labels) / self.batch)

    def step(self, number: int, seed: int) -> tuple[Tensor, Tensor]:
        if self.chances is None:  # each once per epoch
            epoch, within = divmod(number, len(self))
            order = np.random.default_rng([seed, epoch]).permutation(len(self.labels))
            rows = order[within * self.batch : (within + 1) * self.batch]
        else:
            random = np.random.default_rng([seed, number])
            rows = random.choice(len(self.labels), self.batch, replace=False, p=self.chances)
        generator = torch.Generator().manual_seed(1_000_003 * seed + number)
        images, _ = self.changes(self.pixels[rows], self.side, generator)
        return images, self.labels[rows]


def loss_of(network: Network, kind: str, images: Tensor, labels: Tensor) -> Tensor:
    features = F.dropout(network(images), 0.2)
    if kind == "nodes":
        return F.cross_entropy(network.nodes(features), labels, label_smoothing=0.05)
    six, three = network.colon(features), KINDS[labels]
    known = three >= 0
    merged_loss = F.cross_entropy(colon_logits(six[known]), three[known])
    return merged_loss + 0.3 * F.cross_entropy(six, labels, label_smoothing=0.05)


def freeze(network: Network, step: str) -> None:
    network.train()
    for layer in network.trunk.layers[: FROZEN[step]]:
        layer.requires_grad_(False).eval()
    if step == "colon":
        for module in network.modules():
            if isinstance(module, nn.BatchNorm2d):
                module.eval()


def fit(
    network: Network, draws: dict[str, Drawn], step: str, steps: int, rate: float, file: Path,
    seed: int,
) -> None:  # fmt: skip
    """Train, keeping in `file` what a stopped run goes on with; ends with averaged weights."""
    freeze(network, step)
    network.to(memory_format=torch.channels_last)
    trained = [each for each in network.parameters() if each.requires_grad]
    descent = torch.optim.AdamW(trained, rate, weight_decay=0.02)
    schedule = torch.optim.lr_scheduler.OneCycleLR(
        descent, rate, steps, pct_start=0.2, div_factor=10, final_div_factor=100
    )
    average = {name: each.detach().clone() for name, each in network.state_dict().items()}
    first = 0
    if file.exists():
        kept = torch.load(file, weights_only=True)
        first, average = kept["step"], kept["average"]
        network.load_state_dict(kept["network"])
        descent.load_state_dict(kept["descent"])
        schedule.load_state_dict(kept["schedule"])
    began = saved = time.perf_counter()
    used, totals = time.process_time(), []
    for number in range(first, steps):
        descent.zero_grad(set_to_none=True)
        losses = []
        for kind, drawn in draws.items():
            loss = loss_of(network, kind, *drawn.step(number, seed))
            loss.backward()
            losses.append(float(loss.detach()))
        nn.utils.clip_grad_norm_(trained, 2.0)
        descent.step()
        schedule.step()
        decay = min(0.99, (1 + number) / (10 + number))
        for name, each in network.state_dict().items():
            if each.is_floating_point():
                average[name].lerp_(each.detach(), 1 - decay)
        totals.append(losses)
        last = number + 1 == steps
        if last or time.perf_counter() - saved > 60:
            told = np.mean(totals, 0).round(3).tolist()
            print(
                f"{step} {number + 1}/{steps}: {dict(zip(draws, told, strict=True))}, "
                f"{time.perf_counter() - began:.0f} s, {time.process_time() - used:.0f} s of CPU",
                flush=True,
            )
            saved, totals = time.perf_counter(), []
            with replacing(file) as temporary:
                torch.save(
                    {
                        "step": number + 1, "average": average, "network": network.state_dict(),
                        "descent": descent.state_dict(), "schedule": schedule.state_dict(),
                    },
                    temporary,
                )  # fmt: skip
    network.load_state_dict(average)
    network.eval()


@torch.inference_mode()
def encoded(network: Network, pixels: np.ndarray, side: int | None = None) -> Tensor:
    parts = []
    for start in range(0, len(pixels), 32):
        images = torch.from_numpy(pixels[start : start + 32]).permute(0, 3, 1, 2).float() / 255
        if side and side != images.shape[-1]:
            images = F.interpolate(images, (side, side), mode="bilinear", antialias=True)
        parts.append(network(images))
    return torch.cat(parts)


def save(network: Network, path: Path) -> None:
    state = {name: each.contiguous() for name, each in network.state_dict().items()}
    with replacing(path) as temporary:
        save_file(state, temporary)


def tune_nodes(arguments: argparse.Namespace) -> None:
    torch.manual_seed(0)
    network = Network()
    start = load_file(arguments.network / "model.safetensors")
    network.trunk.load_state_dict(from_transformers(start))
    drawn = Drawn(read_pcam("train"), NODES, 96, 64)
    steps = arguments.epochs * len(drawn)
    fit(network, {"nodes": drawn}, "nodes", steps, 7e-4, arguments.work / "nodes.pt", 1)
    save(network, arguments.work / "nodes.safetensors")


def tune_colon(arguments: argparse.Namespace) -> None:
    torch.manual_seed(1)
    network = Network()
    network.load_state_dict(load_file(arguments.work / "nodes.safetensors"))
    tiles = read_ebhi()
    own = tiles.take(np.flatnonzero(patient_folds(tiles) != arguments.fold))
    drawn = {
        "colon": Drawn(own, COLON, COLON_SIDE, 32),
        "nodes": Drawn(read_pcam("train"), NODES, 96, 16),
    }
    # As many in every fold, of whatever size.
    steps = arguments.epochs * 45
    name = f"colon-{arguments.fold}"
    fit(network, drawn, "colon", steps, 5e-4, arguments.work / f"{name}.pt", 2)
    save(network, arguments.work / f"{name}.safetensors")


def look(arguments: argparse.Namespace) -> None:
    """Print how the tile classifiers do on what took no part, once."""
    network = Network()
    network.load_state_dict(load_file(arguments.weights))
    network.eval().to(memory_format=torch.channels_last)
    if arguments.fold is not None:
        tiles = read_ebhi()
        own = (patient_folds(tiles) == arguments.fold) & (merged(tiles.labels) >= 0)
        held = tiles.take(np.flatnonzero(own))
        kinds = merged(held.labels)
        for side in (160, 192, 224):
            logits = colon_logits(network.colon(encoded(network, held.pixels, side)))
            odds = logits.softmax(1).numpy()
            print(
                f"{side} px: {np.mean(odds.argmax(1) == kinds):.4f} of {len(kinds)} tiles, AUC of "
                f"adenocarcinoma {area_under_curve(odds[:, 2], kinds == 2):.4f}",
                flush=True,
            )
    if arguments.valid:
        valid = read_pcam("valid")
        odds = network.nodes(encoded(network, valid.pixels)).softmax(1)[:, 1].numpy()
        print(
            f"official valid: AUC {area_under_curve(odds, valid.labels == 1):.4f}, right "
            f"{np.mean((odds > 0.5) == valid.labels):.4f} of {len(odds)}"
        )


def write(arguments: argparse.Namespace) -> None:
    """Write the encoder: normalisation folded, features of about zero mean and unit spread."""
    trained = Network()
    trained.load_state_dict(load_file(arguments.work / f"colon-{arguments.fold}.safetensors"))
    trained.eval().to(memory_format=torch.channels_last)
    tiles, random = read_ebhi(), np.random.default_rng(0)
    rows = np.flatnonzero(patient_folds(tiles) != arguments.fold)
    pcam = read_pcam("train").pixels
    features = torch.cat([
        encoded(trained, tiles.pixels[random.choice(rows, 600, replace=False)], 192),
        encoded(trained, pcam[random.choice(len(pcam), 1000, replace=False)]),
    ])  # fmt: skip
    mean, spread = features.mean(0), features.std(0).clamp_min(1e-3)
    state = {f"trunk.{k}": v for k, v in folded(trained.trunk.state_dict()).items()}
    narrow = trained.narrow
    state["narrow.weight"] = narrow.weight.detach() / spread[:, None]
    state["narrow.bias"] = (narrow.bias.detach() - mean) / spread
    for name, layer in (("nodes", trained.nodes), ("colon", trained.colon)):
        # They read the features as they were.
        state[f"{name}.weight"] = layer.weight.detach() * spread
        state[f"{name}.bias"] = layer.bias.detach() + layer.weight.detach() @ mean
    half = {name: each.half().contiguous() for name, each in state.items()}
    assert all(each.isfinite().all() for each in half.values())
    arguments.out.parent.mkdir(parents=True, exist_ok=True)
    with replacing(arguments.out) as temporary:
        save_file(half, temporary, {"fold": str(arguments.fold)})
    print(arguments.out, arguments.out.stat().st_size)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("do", choices=("nodes", "colon", "look", "write"))
    parser.add_argument("--network", type=Path, help="ImageNet's, in transformers' format")
    parser.add_argument("--work", type=Path, help="folder for what is under way")
    parser.add_argument("--fold", type=int, help="whose patients are kept aside")
    parser.add_argument("--epochs", type=int, default=6)
    parser.add_argument("--weights", type=Path, help="to look at")
    parser.add_argument("--valid", action="store_true", help="look at PatchCamelyon's valid")
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--out", type=Path, default=TISSUE_FILE)
    arguments = parser.parse_args()
    torch.set_num_threads(arguments.threads)
    if arguments.work:
        arguments.work.mkdir(parents=True, exist_ok=True)
    {"nodes": tune_nodes, "colon": tune_colon, "look": look, "write": write}[arguments.do](
        arguments
    )


if __name__ == "__main__":
    main()
