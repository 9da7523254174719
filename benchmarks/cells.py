"""SparseAttnNet beside common networks on the PBC blood cells, in one run.

Every network sees the same 64 x 64 crops, split, augmentation, epochs, batch
size and learning-rate schedule, starting from random weights; the optimiser's
peak rate alone is each network's own (PEERS). ``--epochs`` is the budget. A
network trained before with the same budget is loaded from ``--cache``. The
bundled models, which were trained for longer, are rows of their own.

Accuracy is on the held-out tenth, which no decision was based on.
"""

from __future__ import annotations

import argparse
import dataclasses
import json
import platform
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
import torch
from blood_cells import default_archive, read_blood_cells
from safetensors.torch import load_file, save_file
from torch import Tensor, nn
from torch.utils.flop_counter import FlopCounterMode

from napari_sparseattn.bundle import load_bundle
from napari_sparseattn.files import replacing
from napari_sparseattn.images.normalise import Normalisation
from napari_sparseattn.metrics import classification_report
from napari_sparseattn.models.sparse.network import SparseAttnNet, SparseAttnNetConfig
from napari_sparseattn.models.tnet.network import TNet
from napari_sparseattn.training.data.datasets import CropSet
from napari_sparseattn.training.loop.augment import Augmentation
from napari_sparseattn.training.loop.classifier import split_folds
from napari_sparseattn.training.loop.fit import FitOptions, fit, predict_logits

SIZE = 64
#: k is held at 15 % here: so few epochs are too few to learn it.
SHARE = 0.15


class Peer(nn.Module):
    """A transformers classifier that gives bare logits."""

    def __init__(self, network: nn.Module) -> None:
        super().__init__()
        self.network = network

    def forward(self, x: Tensor) -> Tensor:
        logits: Tensor = self.network(x).logits
        return logits


def resnet18(classes: int) -> nn.Module:
    from transformers import ResNetConfig, ResNetForImageClassification

    sizes = {"embedding_size": 64, "hidden_sizes": [64, 128, 256, 512], "depths": [2, 2, 2, 2]}
    config = ResNetConfig(**sizes, layer_type="basic", num_labels=classes)
    return Peer(ResNetForImageClassification(config))


def mobilenet_v2(classes: int) -> nn.Module:
    from transformers import MobileNetV2Config, MobileNetV2ForImageClassification

    network = MobileNetV2ForImageClassification(
        MobileNetV2Config(image_size=SIZE, num_labels=classes)
    )
    for module in network.modules():
        if isinstance(module, nn.BatchNorm2d):
            # transformers passes TensorFlow's 0.997, which to PyTorch means
            # that the last batch alone makes the running statistics.
            module.momentum = 0.1
    return Peer(network)


def small_vit(classes: int) -> nn.Module:
    from transformers import ViTConfig, ViTForImageClassification

    config = ViTConfig(
        hidden_size=128,
        num_hidden_layers=6,
        num_attention_heads=4,
        intermediate_size=512,
        image_size=SIZE,
        patch_size=8,
        num_labels=classes,
        attn_implementation="eager",  # counted by the FLOP counter, unlike fused attention
    )
    return Peer(ViTForImageClassification(config))


def sparse(classes: int, **sizes: object) -> nn.Module:
    return SparseAttnNet(SparseAttnNetConfig(n_classes=classes, k=SIZE * SIZE, **sizes))


#: name -> (builder, peak learning rate, bfloat16 where it trains faster on a CPU)
PEERS: dict[str, tuple[Callable[[int], nn.Module], float, bool]] = {
    "SparseAttnNet": (sparse, 1.2e-3, True),
    "SparseAttnNet, context tokens": (lambda n: sparse(n, token="context"), 1.2e-3, True),
    "SparseAttnNet, no mixing": (lambda n: sparse(n, mixing="none", tile_depth=0), 1.2e-3, True),
    "MobileNetV2": (mobilenet_v2, 1e-3, False),
    "ResNet-18": (resnet18, 1e-3, True),
    "ViT, 6 layers of 128": (small_vit, 1e-3, True),
}


def trained(name: str, parts: dict[str, CropSet], epochs: int, cache: Path) -> nn.Module:
    """Train a network with the budget, or load it from the cache."""
    build, rate, bfloat16 = PEERS[name]
    train, validation = parts["train"], parts["validation"]
    torch.manual_seed(0)
    model = build(len(train.class_names))
    slug = "".join(c if c.isalnum() else "-" for c in name.lower())
    path = cache / f"{slug}-{epochs}-epochs.safetensors"
    if path.exists():
        state = load_file(path)
        if isinstance(model, SparseAttnNet):
            k = int(state.pop("k"))
            model.config = dataclasses.replace(model.config, k=k)
        model.load_state_dict(state)
        return model.eval()
    options = FitOptions(
        epochs=epochs, learning_rate=rate, bfloat16=bfloat16, first_share=SHARE, least_share=SHARE
    )
    for epoch in fit(
        model,
        (train.crops, train.labels),
        (validation.crops, validation.labels),
        normalisation=Normalisation(),
        size=SIZE,
        augmentation=Augmentation(counterstain=0, response=0),  # the recipe's first stage
        options=options,
    ):
        print(
            f"  {name}: epoch {epoch.epoch}/{epochs}, training {epoch.train_accuracy:.3f}, "
            f"validation {epoch.accuracy:.4f} (loss {epoch.loss:.4f}), k {epoch.k}, "
            f"{epoch.seconds:.0f} s",
            flush=True,
        )
    state = {key: value.contiguous() for key, value in model.state_dict().items()}
    if isinstance(model, SparseAttnNet):
        state["k"] = torch.tensor(model.config.k)
    with replacing(path) as temporary:
        save_file(state, temporary)
    return model


def macs(model: nn.Module, size: int) -> float:
    """Multiply-accumulates of one crop, in millions."""
    model.eval().requires_grad_(False)
    counter = FlopCounterMode(display=False)
    with counter, torch.no_grad():
        model(torch.randn(1, 3, size, size))
    return counter.get_total_flops() / 2e6


def cells_per_second(model: nn.Module, size: int, batch: int, seconds: float) -> float:
    """Median over repeats, after a warm-up."""
    x = torch.randn(batch, 3, size, size).contiguous(memory_format=torch.channels_last)
    times = []
    with torch.inference_mode():
        for _ in range(3):
            model(x)
        end = time.perf_counter() + seconds
        while time.perf_counter() < end or len(times) < 5:
            began = time.perf_counter()
            model(x)
            times.append(time.perf_counter() - began)
    return float(batch / np.median(times))


def looked_at(model: nn.Module, size: int) -> str:
    """Share of a crop's pixels that the classifier saw; crops of one crop may overlap."""
    if isinstance(model, SparseAttnNet):
        return f"{100 * model.config.k / size**2:.1f} %"
    if isinstance(model, TNet):
        with torch.inference_mode():
            crops = int(model(torch.zeros(1, 3, size, size)).counts.sum())
        return f"{crops} crops of {model.config.base}²"
    return "100 %"


def row(
    name: str,
    model: nn.Module,
    test: CropSet,
    seconds: float,
    size: int = SIZE,
    normalisation: Normalisation = Normalisation(),  # noqa: B008 - frozen
) -> dict[str, object]:
    logits = predict_logits(model, test.crops, normalisation, size)
    report = classification_report(logits.softmax(1).numpy(), test.labels, test.class_names)
    low, high = report.accuracy_interval
    result: dict[str, object] = {
        "network": name,
        "accuracy": f"{100 * report.accuracy:.1f} [{100 * low:.1f}, {100 * high:.1f}]",
        "macro F1": f"{100 * report.macro_f1:.1f}",
        "pixels": looked_at(model, size),
        "parameters": f"{sum(p.numel() for p in model.parameters()) / 1e3:.0f} k",
        "MMAC": f"{macs(model, size):.1f}",
    }
    for batch in (1, 64):
        result[f"cells/s, batch {batch}"] = (
            f"{cells_per_second(model, size, batch, seconds):.0f}" if seconds else "-"
        )
    return result


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--data", type=Path, default=default_archive())
    parser.add_argument("--epochs", type=int, default=8)
    parser.add_argument("--cache", type=Path, default=Path(".cache/benchmarks"))
    parser.add_argument("--models", nargs="*", default=list(PEERS), choices=list(PEERS))
    parser.add_argument("--bundled", nargs="*", default=["blood-cells", "blood-cells-tnet"])
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--seconds", type=float, default=5.0, help="per timing; 0 for none")
    parser.add_argument("--json", type=Path)
    arguments = parser.parse_args()
    torch.set_num_threads(arguments.threads)
    parts = split_folds(read_blood_cells(arguments.data))
    rows = []
    for bundled in arguments.bundled:
        bundle = load_bundle(bundled)
        card = bundle.card
        name = f"bundled {card.name} ({card.training.epochs} epochs)"
        told = (card.crop.size, card.normalisation)
        rows.append(row(name, bundle.model(), parts["test"], arguments.seconds, *told))
    for name in arguments.models:
        model = trained(name, parts, arguments.epochs, arguments.cache)
        rows.append(
            row(f"{name} ({arguments.epochs} epochs)", model, parts["test"], arguments.seconds)
        )
    sizes = ", ".join(f"{len(part)} {key}" for key, part in parts.items())
    print(
        f"\nPBC blood cells, 8 classes, {SIZE} x {SIZE} but for TNet; {sizes}; split by file name,"
    )
    print("no patient ids; accuracy in % on the test part with 95 % Wilson interval; one run each.")
    print(f"{platform.processor() or platform.machine()}, {arguments.threads} threads, float32.\n")
    widths = {key: max(len(key), *(len(str(r[key])) for r in rows)) for key in rows[0]}
    print("| " + " | ".join(key.ljust(w) for key, w in widths.items()) + " |")
    print("|" + "|".join("-" * (w + 2) for w in widths.values()) + "|")
    for r in rows:
        print("| " + " | ".join(str(r[key]).ljust(w) for key, w in widths.items()) + " |")
    if arguments.json:
        arguments.json.write_text(json.dumps(rows, indent=1))


if __name__ == "__main__":
    main()
