"""Whether choosing pixels pays: the learned choice against rules, at one budget.

    python benchmarks/selection.py rules --seeds 2     # trains every rule anew, 2 min each
    python benchmarks/selection.py model               # the bundled model, over k
    python benchmarks/selection.py sharpness           # the same with a steeper map
    python benchmarks/selection.py laboratories        # on smears of other laboratories
    python benchmarks/selection.py model laboratories --models old.safetensors blood-cells

rules         the same network, data, changes, epochs and seeds; only the rule
              that picks the pixels differs. One training serves every k. Cells
              are those of the validation part: in the middle of their crops,
              displaced by up to 7 µm in any direction, and with another crop's
              surroundings. Intervals are 95 % bootstrap intervals over cells,
              of the seeds' mean.
model         accuracy of a bundled model over k on the same cells, and how much
              of its choice lies in the cell (as `find_cells` outlines it)
sharpness     a bundled model whose map is made so many times as steep, untrained: what is right
              and what lies in the cell, of cells of the validation part and of both laboratories
laboratories  BCCD and BX53, which took no part in training or in any choice
"""

from __future__ import annotations

import argparse
import copy
import platform
from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F
from blood_cells import ARCHITECTURE, default_archive, read_blood_cells
from laboratories import read_laboratories

from napari_sparseattn.bundle import load_bundle
from napari_sparseattn.images.fields.cells import find_cells
from napari_sparseattn.images.fields.field import Field
from napari_sparseattn.images.normalise import Normalisation
from napari_sparseattn.metrics import classification_report
from napari_sparseattn.models.sparse.network import SparseAttnNet, SparseAttnNetConfig
from napari_sparseattn.training.data.datasets import CropSet
from napari_sparseattn.training.loop.classifier import split_folds
from napari_sparseattn.training.loop.fit import predict_logits, predict_states
from napari_sparseattn.training.loop.laboratories import LaboratoryChanges, stored
from napari_sparseattn.training.loop.pixel_rules import RULES
from napari_sparseattn.training.loop.selection import (
    SelectionOptions,
    chosen_at,
    train_selection,
)

SHARES = (0.02, 0.05, 0.10, 0.15, 0.30)
PIXEL_UM, DISPLACED_UM, NEAR_UM = 0.25, 7.0, 4.0
SIZE = 64
STEEPER = (0.7, 1.0, 1.5, 2.0, 2.5, 3.0, 5.0)
Scores = dict[tuple[str, str, float], list[np.ndarray]]


def masks_of(crops: np.ndarray) -> np.ndarray:
    """The outline (N, s, s) of the cell in the middle; empty where none is found within 4 µm."""
    masks = np.zeros(crops.shape[:3], bool)
    middle = (crops.shape[1] - 1) / 2
    for mask, crop in zip(masks, crops, strict=True):
        cells = find_cells(
            Field(crop, "YXC", PIXEL_UM, "brightfield", "", "crop"), method="white-cells"
        )
        if len(cells) and cells.labels is not None:
            away = np.hypot(*(cells.centres - middle).T)
            if away.min() < NEAR_UM / PIXEL_UM:
                mask[:] = cells.labels == cells.ids[int(away.argmin())]
    return masks


def displaced(
    crops: np.ndarray, most: float = DISPLACED_UM, seed: int = 5, least: float = 0.0
) -> np.ndarray:
    """Crops (N, s, s, C) cut so many µm beside, in any direction; mirrored beyond the border."""
    rng, side = np.random.default_rng(seed), crops.shape[1]
    turn = rng.uniform(0, 2 * np.pi, len(crops))
    way = np.sqrt(rng.uniform((least / most) ** 2, 1, len(crops))) * most / PIXEL_UM
    theta = torch.eye(2, 3).repeat(len(crops), 1, 1)
    theta[:, 0, 2] = torch.from_numpy(way * np.cos(turn) * 2 / side)
    theta[:, 1, 2] = torch.from_numpy(way * np.sin(turn) * 2 / side)
    values = torch.from_numpy(crops).permute(0, 3, 1, 2).float()
    grid = F.affine_grid(theta, list(values.shape), align_corners=False)
    moved = F.grid_sample(values, grid, padding_mode="reflection", align_corners=False)
    return moved.round().permute(0, 2, 3, 1).to(torch.uint8).numpy()


def swapped(crops: np.ndarray, masks: np.ndarray, seed: int = 6) -> np.ndarray:
    """Crops with the cell, and 1 µm around it, in the surroundings of another."""
    order = np.random.default_rng(seed).permutation(len(crops))
    other = np.roll(crops[np.roll(order, 1)][np.argsort(order)], crops.shape[1] // 2, (1, 2))
    inside = torch.from_numpy(masks[:, None].astype(np.float32))
    inside = F.max_pool2d(inside, 9, 1, 4)
    inside = F.avg_pool2d(F.pad(inside, (2, 2, 2, 2), mode="replicate"), 5, 1)
    share = inside.permute(0, 2, 3, 1).numpy()
    return np.rint(share * crops + (1 - share) * other).astype(np.uint8)


def settings_of(part: CropSet, masks: np.ndarray) -> dict[str, tuple[np.ndarray, np.ndarray]]:
    """How the cells are shown: name -> crops and outlines."""
    wide = np.repeat(masks[..., None], 3, axis=3).astype(np.uint8) * 255
    other = displaced(swapped(part.crops, masks))
    moved = displaced(wide)[..., 0] > 127
    return {
        "centred": (part.crops, masks),
        "displaced": (displaced(part.crops), moved),
        "displaced, other surroundings": (other, moved),
    }


def inside(indices: torch.Tensor, masks: np.ndarray, size: int = SIZE) -> np.ndarray:
    """Share of each crop's kept pixels, of size², in its outline; not-a-number without one."""
    small = F.interpolate(
        torch.from_numpy(masks[:, None].astype(np.float32)), (size, size), mode="area"
    )
    flat = (small > 0.5).flatten(1)
    share = flat.gather(1, indices).float().mean(1)
    share[~flat.any(1)] = float("nan")
    return share.numpy()


def interval(right: np.ndarray) -> str:
    """Mean over seeds and cells of (seeds, N), in %, with the interval over cells."""
    each = 100 * right.mean(axis=0)
    draws = np.random.default_rng(0).integers(0, len(each), (2000, len(each)))
    low, high = np.percentile(each[draws].mean(axis=1), [2.5, 97.5])
    return f"{each.mean():.1f} [{low:.1f}, {high:.1f}]"


def train(part: CropSet, rule: str, seed: int, arguments: argparse.Namespace) -> SparseAttnNet:
    size = arguments.size
    rows = np.zeros(len(part), bool)
    rows[np.random.default_rng(0).permutation(len(part))[: arguments.cells]] = True
    some = part.subset(rows)
    torch.manual_seed(seed)
    model = SparseAttnNet(
        SparseAttnNetConfig(**ARCHITECTURE, image_size=size, k=round(0.1 * size**2))
    )
    options = SelectionOptions(
        epochs=arguments.epochs, ramp=0.8 * arguments.epochs, rule=rule, seed=seed, average=0.998
    )
    none = (part.crops[:1], part.labels[:1])
    for epoch in train_selection(
        model,
        (stored(some.crops, size), some.labels),
        none,
        normalisation=Normalisation(),
        changes=LaboratoryChanges(),
        options=options,
    ):
        print(
            f"  {rule}, seed {seed}, {epoch.epoch}/{epoch.epochs}: training loss "
            f"{epoch.train_loss:.3f}, {epoch.seconds:.0f} s",
            flush=True,
        )
    return model


def rules(parts: dict[str, CropSet], arguments: argparse.Namespace) -> None:
    part = some_of(parts["validation"], arguments.held_out)
    shown = settings_of(part, masks_of(part.crops))
    right: Scores = {}
    shares: Scores = {}
    names = ["learned", *(rule for rule in RULES if rule in arguments.rules)]
    for seed in range(arguments.seeds):
        for rule in names:
            model = train(parts["train"], rule, seed, arguments)
            for setting, (crops, masks) in shown.items():
                for share in SHARES:
                    k = round(share * arguments.size**2)
                    scores, indices = chosen_at(model, crops, Normalisation(), k, rule)
                    hit = scores.argmax(1).numpy() == part.labels
                    right.setdefault((setting, rule, share), []).append(hit)
                    within = inside(indices, masks, arguments.size)
                    shares.setdefault((setting, rule, share), []).append(within)
        print(
            f"\n{seed + 1} seed(s), {arguments.cells} cells, {arguments.epochs} epochs, "
            f"{len(part)} held-out cells, % right"
        )
        for setting in shown:
            print(f"\n**{setting}**\n")
            print("| rule | " + " | ".join(f"{100 * s:g} %" for s in SHARES) + " |")
            print("|---" * (len(SHARES) + 1) + "|")
            for rule in names:
                cells = [interval(np.stack(right[setting, rule, s])) for s in SHARES]
                print(f"| {rule} | " + " | ".join(cells) + " |")
            for rule in names[1:]:
                gains = [
                    interval(
                        np.stack(right[setting, "learned", s]).astype(float)
                        - np.stack(right[setting, rule, s])
                    )
                    for s in SHARES
                ]
                print(f"| learned minus {rule} | " + " | ".join(gains) + " |")
            kept = [100 * np.nanmean(np.stack(shares[setting, "learned", s])) for s in SHARES]
            print("| learned, % in the cell | " + " | ".join(f"{v:.0f}" for v in kept) + " |")
        print(flush=True)


def some_of(part: CropSet, n: int) -> CropSet:
    rows = np.zeros(len(part), bool)
    rows[np.random.default_rng(1).permutation(len(part))[:n]] = True
    return part.subset(rows)


def model_over_k(parts: dict[str, CropSet], arguments: argparse.Namespace) -> None:
    part = some_of(parts[arguments.part], arguments.held_out)
    shown = settings_of(part, masks_of(part.crops))
    for name in arguments.models:
        bundle = load_bundle(name)
        model, card = bundle.model(), bundle.card
        size = card.crop.size
        asked = sorted({card.architecture["k"], *(round(s * size**2) for s in (*SHARES, 0.4, 1))})
        print(
            f"\n{name}, k {card.architecture['k']}: {len(part)} cells of the {arguments.part} part"
        )
        print("\n| shown | " + " | ".join(f"{100 * k / size**2:.3g} %" for k in asked) + " |")
        print("|---" * (len(asked) + 1) + "|")
        for setting, (crops, masks) in shown.items():
            accuracy, within = [], []
            for k in asked:
                scores, indices = chosen_at(model, crops, card.normalisation, k)
                accuracy.append(interval((scores.argmax(1).numpy() == part.labels)[None]))
                within.append(f"{100 * np.nanmean(inside(indices, masks, size)):.0f}")
            print(f"| {setting}, % right | " + " | ".join(accuracy) + " |")
            print(f"| {setting}, % in the cell | " + " | ".join(within) + " |", flush=True)


def sharpness(parts: dict[str, CropSet], arguments: argparse.Namespace) -> None:
    part = some_of(parts["validation"], arguments.held_out)
    for name in arguments.models:
        bundle = load_bundle(name)
        card, k = bundle.card, bundle.card.architecture["k"]
        masks = masks_of(part.crops)
        shown = {
            "validation": (part.crops, part.labels, masks),
            "displaced": (
                displaced(part.crops),
                part.labels,
                settings_of(part, masks)["displaced"][1],
            ),
        }
        for laboratory, cells in read_laboratories(arguments.data.parent, card.class_names).items():
            shown[laboratory] = (cells.crops, cells.labels, masks_of(cells.crops))
        print(f"\n{name}, k {k}: % right; % of the selection in the cell\n")
        print("| times as steep | " + " | ".join(shown) + " |\n" + "|---" * (len(shown) + 1) + "|")
        for by in STEEPER:
            model, texts = copy.deepcopy(bundle.model()), []
            model.sharpen(by)
            for crops, labels, outlines in shown.values():
                scores, indices = chosen_at(model, crops, card.normalisation, k)
                right = 100 * float((scores.argmax(1).numpy() == labels).mean())
                within = 100 * np.nanmean(inside(indices, outlines, card.crop.size))
                texts.append(f"{right:.1f}; {within:.0f}")
            print(f"| {by:g} | " + " | ".join(texts) + " |", flush=True)


def laboratories(arguments: argparse.Namespace) -> None:
    print("\n| model | laboratory | n | % right | balanced | ECE | mean confidence |")
    print("|---|---|---|---|---|---|---|")
    for name in arguments.models:
        bundle = load_bundle(name)
        card, model = bundle.card, bundle.model()
        for laboratory, part in read_laboratories(arguments.data.parent, card.class_names).items():
            size = card.crop.size
            scores = predict_logits(model, part.crops, card.normalisation, size)
            states = predict_states(model, part.crops, card.normalisation, size)
            temperatures = torch.from_numpy(bundle.temperatures(states))[:, None]
            present = np.unique(part.labels)
            for told, kept in (("", None), (", only the kinds there", present)):
                if kept is not None:
                    absent = np.setdiff1d(np.arange(len(card.class_names)), kept)
                    scores = scores.clone()
                    scores[:, absent] = -float("inf")
                shares = (scores / temperatures).softmax(1).numpy()
                found = classification_report(shares, part.labels, card.class_names)
                low, high = (100 * v for v in found.accuracy_interval)
                print(
                    f"| {name}{told} | {laboratory} | {found.n} | {100 * found.accuracy:.1f} "
                    f"[{low:.1f}, {high:.1f}] | {100 * found.balanced_accuracy:.1f} | "
                    f"{found.ece:.2f} | {shares.max(1).mean():.2f} |",
                    flush=True,
                )


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("what", nargs="+", choices=["rules", "model", "sharpness", "laboratories"])
    parser.add_argument("--data", type=Path, default=default_archive())
    parser.add_argument("--models", nargs="+", default=["blood-cells"])
    parser.add_argument("--part", default="validation", choices=["validation", "test"])
    parser.add_argument("--rules", nargs="*", default=list(RULES), choices=list(RULES))
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--cells", type=int, default=4000, help="to train on")
    parser.add_argument("--epochs", type=int, default=6)
    parser.add_argument("--size", type=int, default=SIZE, help="side of the crops, of rules")
    parser.add_argument("--held-out", type=int, default=800)
    parser.add_argument("--threads", type=int, default=1)
    arguments = parser.parse_args()
    torch.set_num_threads(arguments.threads)
    print(f"{platform.processor() or platform.machine()}, {arguments.threads} thread(s)")
    parts = (
        split_folds(read_blood_cells(arguments.data)) if arguments.what != ["laboratories"] else {}
    )
    if "rules" in arguments.what:
        rules(parts, arguments)
    if "model" in arguments.what:
        model_over_k(parts, arguments)
    if "sharpness" in arguments.what:
        sharpness(parts, arguments)
    if "laboratories" in arguments.what:
        laboratories(arguments)


if __name__ == "__main__":
    main()
