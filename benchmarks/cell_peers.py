"""Common networks trained to convergence on the PBC blood cells, with the changes of `blood-cells`.

    python benchmarks/cell_peers.py --models mobilenet-v2 --work runs/

Every network sees the same crops, split, class balance and random changes as
the bundled `blood-cells` (its last stage: `scripts/train_blood_cells.py`), and
ends with averaged weights of the last epoch; nothing is chosen on any part. A
run that was killed goes on from ``--work``. Accuracy is on the held-out tenth
of PBC, and on the white cells of two laboratories that no network was trained on.
"""

from __future__ import annotations

import argparse
import copy
import json
import math
import sys
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn

ROOT = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(ROOT / "scripts"))

from blood_cells import default_archive, read_blood_cells
from cells import cells_per_second, macs, mobilenet_v2, resnet18, small_vit
from laboratories import read_laboratories
from safetensors import safe_open
from safetensors.torch import load_file, save_file
from tissue_data import MEAN, STD
from train_blood_cells import CHANGES

from napari_sparseattn.files import replacing
from napari_sparseattn.images.normalise import Normalisation
from napari_sparseattn.metrics import classification_report
from napari_sparseattn.models.mobilenet import CHANNELS, MobileNetV2, from_transformers
from napari_sparseattn.training.data.datasets import CropSet
from napari_sparseattn.training.loop.checkpoint import (
    load_optimiser,
    optimiser_tensors,
    take_under,
)
from napari_sparseattn.training.loop.classifier import split_folds
from napari_sparseattn.training.loop.fit import predict_logits
from napari_sparseattn.training.loop.laboratories import stored
from napari_sparseattn.training.loop.loop import optimiser
from napari_sparseattn.training.loop.precision import trains_in_bfloat16

SIZE, SEED, RAMP, AVERAGED = 64, 0, 0.2, 0.999
CLASS_BALANCE = 0.5


class FromImageNet(nn.Module):
    """MobileNetV2 with ImageNet's weights (as transformers has them), and a layer for classes."""

    def __init__(self, classes: int, folder: Path) -> None:
        super().__init__()
        self.trunk = MobileNetV2(norm=True)
        self.trunk.load_state_dict(from_transformers(load_file(folder / "model.safetensors")))
        # transformers drops as much.
        self.classes = nn.Sequential(nn.Dropout(0.8), nn.Linear(CHANNELS, classes))

    def forward(self, x: Tensor) -> Tensor:
        """From crops as this package normalises them to logits."""
        logits: Tensor = self.classes(self.trunk((x - MEAN) / STD))
        return logits


#: name -> (builder, peak rate, whether bfloat16 is quicker where the processor has it).
NETWORKS: dict[str, tuple[Callable[[int], nn.Module], float, bool]] = {
    "mobilenet-v2": (mobilenet_v2, 2e-3, False),
    "resnet-18": (resnet18, 1e-3, True),
    "vit": (small_vit, 1e-3, True),
}


def rate(done: float, peak: float) -> float:
    """Warm up over a twentieth, stay for a quarter, then a cosine to zero."""
    if done < 0.05:
        return peak * (0.05 + 0.95 * done / 0.05)
    if done < 0.25:
        return peak
    return peak * 0.5 * (1 + math.cos(math.pi * (done - 0.25) / 0.75))


def train(
    name: str, model: nn.Module, data: CropSet, epochs: int, size: int, work: Path,
    peak: float, bfloat16: bool,
) -> nn.Module:  # fmt: skip
    """Train, or go on; return the averaged network."""
    work.mkdir(parents=True, exist_ok=True)
    file = work / f"{name}-{size}-{epochs}.safetensors"
    crops, labels = stored(data.crops, size), torch.from_numpy(data.labels)
    model.to(memory_format=torch.channels_last)
    average = copy.deepcopy(model).eval().requires_grad_(False)
    descent = optimiser(model, peak, 0.02)
    numbers = torch.bincount(labels).double()
    weights = (numbers**-CLASS_BALANCE)[labels]
    first = resume(file, model, average, descent)
    steps, changes = len(labels) // 64, CHANGES[max(CHANGES)]
    normalisation = Normalisation()
    for epoch in range(first, epochs):
        began, total, right = time.process_time(), 0.0, 0
        torch.manual_seed(1000 * SEED + epoch)
        generator = torch.Generator().manual_seed(1000 * SEED + epoch)
        order = torch.multinomial(weights, 64 * steps, replacement=True, generator=generator)
        model.train()
        for step, rows in enumerate(order.split(64)):
            done = (epoch + step / steps) / epochs
            for group in descent.param_groups:
                group["lr"] = rate(done, peak)
            milder = changes.weakened(min(1.0, done / RAMP))
            pixels, _ = milder(crops[rows], size, generator)
            x = torch.from_numpy(normalisation(pixels.numpy()))
            x = x.contiguous(memory_format=torch.channels_last)
            with torch.autocast("cpu", torch.bfloat16, enabled=bfloat16):
                logits = model(x).float()
            loss = F.cross_entropy(logits, labels[rows], label_smoothing=0.05)
            descent.zero_grad(set_to_none=True)
            loss.backward()
            nn.utils.clip_grad_norm_(model.parameters(), 1.0)
            descent.step()
            total += loss.item()
            right += int((logits.argmax(1) == labels[rows]).sum())
            passed = epoch * steps + step
            follow(average, model, min(AVERAGED, (1 + passed) / (10 + passed)))
        keep(file, epoch + 1, model, average, descent)
        seconds = time.process_time() - began
        print(
            f"{name}: epoch {epoch + 1}/{epochs}, loss {total / steps:.3f}, training "
            f"{100 * right / (64 * steps):.1f} %, {seconds:.0f} s of processor time",
            flush=True,
        )
    return average


def resume(file: Path, model: nn.Module, average: nn.Module, descent: torch.optim.Optimizer) -> int:
    """Take up a run that was stopped; return the epochs that are done."""
    if not file.exists():
        return 0
    with safe_open(file, "pt") as kept:
        done: int = json.loads(kept.metadata()["told"])["epoch"]
        state = {key: kept.get_tensor(key) for key in kept.keys()}  # noqa: SIM118
    model.load_state_dict(take_under(state, "model."))
    average.load_state_dict(take_under(state, "average."))
    load_optimiser(descent, state)
    return done


def keep(
    file: Path, done: int, model: nn.Module, average: nn.Module, descent: torch.optim.Optimizer
) -> None:
    """Write what a stopped run goes on with."""
    state = {f"model.{key}": value for key, value in model.state_dict().items()}
    state |= {f"average.{key}": value for key, value in average.state_dict().items()}
    state |= optimiser_tensors(descent)
    with replacing(file) as temporary:
        tensors = {key: value.contiguous() for key, value in state.items()}
        save_file(tensors, temporary, {"told": json.dumps({"epoch": done})})


@torch.no_grad()
def follow(average: nn.Module, model: nn.Module, share: float) -> None:
    """Move the average towards the model; its statistics too."""
    for mine, new in zip(average.state_dict().values(), model.state_dict().values(), strict=True):
        if mine.is_floating_point():
            mine.lerp_(new.to(mine.dtype), 1 - share)
        else:
            mine.copy_(new)


def told(model: nn.Module, data: CropSet, size: int) -> str:
    """Accuracy with its interval, balanced accuracy and calibration error; then of its kinds."""
    logits = predict_logits(model, data.crops, Normalisation(), size)
    kinds = np.unique(data.labels)
    only = torch.full_like(logits, -torch.inf)
    only[:, kinds] = logits[:, kinds]
    texts = []
    for each in (logits, only):
        found = classification_report(each.softmax(1).numpy(), data.labels, data.class_names)
        low, high = found.accuracy_interval
        texts.append(
            f"{100 * found.accuracy:.1f} [{100 * low:.1f}, {100 * high:.1f}], balanced "
            f"{100 * found.balanced_accuracy:.1f}, calibration error {found.ece:.2f}"
        )
    return texts[0] + (f"; only its kinds {texts[1]}" if len(kinds) < logits.shape[1] else "")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--data", type=Path, default=default_archive())
    parser.add_argument("--models", nargs="*", default=list(NETWORKS))
    parser.add_argument("--imagenet", type=Path, help="folder of MobileNetV2's ImageNet weights")
    parser.add_argument("--epochs", type=int, default=40)
    parser.add_argument("--size", type=int, default=SIZE)
    parser.add_argument("--work", type=Path, default=Path(".cache/benchmarks/peers"))
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--seconds", type=float, default=3.0, help="per timing; 0 for none")
    arguments = parser.parse_args()
    torch.set_num_threads(arguments.threads)
    parts = split_folds(read_blood_cells(arguments.data))
    networks = dict(NETWORKS)
    if arguments.imagenet:
        folder = arguments.imagenet
        networks["mobilenet-v2-imagenet"] = (lambda n: FromImageNet(n, folder), 1e-3, False)
    others = read_laboratories(arguments.data.parent, parts["train"].class_names)
    size = arguments.size
    for name in arguments.models:
        build, peak, quicker = networks[name]
        torch.manual_seed(SEED)
        model = build(len(parts["train"].class_names))
        model = train(
            name, model, parts["train"], arguments.epochs, size, arguments.work, peak,
            quicker and trains_in_bfloat16(),
        )  # fmt: skip
        print(f"\n{name}, {arguments.epochs} epochs, {size} x {size}")
        print(f"  parameters {sum(p.numel() for p in model.parameters()) / 1e3:.0f} k")
        for part, data in {"PBC test": parts["test"], **others}.items():
            print(f"  {part}: {told(model, data, size)}", flush=True)
        print(f"  MMAC {macs(model, size):.1f}")
        if arguments.seconds:
            for batch in (1, 64):
                speed = cells_per_second(model, size, batch, arguments.seconds)
                print(f"  cells/s, batch {batch}: {speed:.0f}", flush=True)


if __name__ == "__main__":
    main()
