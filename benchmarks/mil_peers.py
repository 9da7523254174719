"""SPAN-MIL beside other networks over bags of patches, on biopsies of the colon.

    python benchmarks/mil_peers.py --work runs/

EBHI-Seg: bags are patients, of all their tiles; three classes, the worst of the
tiles. In each of five folds by patient all networks get the same features, of an
encoder that was tuned without the fold's patients (encoder-FOLD.safetensors in
``--work``, by ``scripts/train_tissue_mobilenet.py``), the same number of drawn bags
with the same changes, the same optimiser and schedule, those of
``scripts/train_colon_biopsy.py`` with half as many bags, and keep their last
weights. Each seed has other weights and bags.

The learning rate of every network is chosen in every fold, from the same ones,
by half as long a training without a quarter of the training patients, on whose
bags the lower loss counts. Their tiles were among those that the encoder was tuned
on. Nothing is chosen on the fold's own patients.

Figures are of all patients together, each by the fold that had not seen it, mean
over seeds; intervals are of 95 %, by bootstrap over patients. How tiles lie beside
each other in the tissue is not known, so that this says nothing of what SPAN and
TransMIL make of places. What was trained is kept in ``--work``; a run that was
stopped goes on. Seconds are of the processor, of one thread.
"""

from __future__ import annotations

import argparse
import dataclasses
import functools
import json
import sys
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
import torch
from torch import nn

ROOT = Path(__file__).resolve().parents[1]
sys.path[:0] = [str(ROOT / "scripts")]

from mil_networks import Abmil, Clam, Dsmil, Loss, Pooled, TransMil
from tissue_data import N_FOLDS, area_under_curve, merged, patient_folds, read_ebhi
from train_colon_biopsy import OPTIONS, Bags, bags_of, encoder_of, features_of

from napari_sparseattn.files import replacing
from napari_sparseattn.metrics import group_intervals
from napari_sparseattn.models.span import span_from_config
from napari_sparseattn.training.loop.loop import rate_factor, set_rate
from napari_sparseattn.training.loop.span import predict_slides

WIDTH, N_CLASSES = 256, 3
RATES = (3e-4, 1e-3)
#: That each network learns from.
N_BAGS = 1000
NETWORKS: dict[str, Callable[[], nn.Module]] = {
    "SPAN-MIL": lambda: span_from_config({"task": "mil", "features": WIDTH, "n_classes": 3}),
    "TransMIL": lambda: TransMil(WIDTH, N_CLASSES),
    "ABMIL": lambda: Abmil(WIDTH, N_CLASSES),
    "CLAM-SB": lambda: Clam(WIDTH, N_CLASSES),
    "DSMIL": lambda: Dsmil(WIDTH, N_CLASSES),
    "mean, linear": lambda: Pooled(WIDTH, N_CLASSES, "mean"),
    "max, linear": lambda: Pooled(WIDTH, N_CLASSES, "max"),
}
#: Of their own, in training only.
LOSSES: dict[str, Loss] = {"CLAM-SB": Clam.loss, "DSMIL": Dsmil.loss}


@dataclasses.dataclass(frozen=True)
class Part:
    """Features (V, N, F) of tiles, their classes (N,) and patients (N,)."""

    features: torch.Tensor
    kinds: np.ndarray
    groups: np.ndarray

    def take(self, rows: np.ndarray) -> Part:
        return Part(self.features[:, rows], self.kinds[rows], self.groups[rows])


def trained(name: str, part: Part, seed: int, rate: float, n_bags: int) -> nn.Module:
    """Train one network on so many drawn bags."""
    torch.manual_seed(seed)
    model = NETWORKS[name]().train()
    loss_of = LOSSES.get(name, plain_loss)
    bags = Bags(part.features, part.kinds, part.groups, n_bags, seed)
    descent = torch.optim.AdamW(
        model.parameters(), rate, weight_decay=OPTIONS.weight_decay, fused=True
    )
    for number, bag in enumerate(bags):
        set_rate(descent, rate * rate_factor(number / n_bags * OPTIONS.epochs, 1.0, OPTIONS.epochs))
        descent.zero_grad(set_to_none=True)
        features, cells = torch.from_numpy(bag.features), torch.from_numpy(bag.cells)
        loss, _ = loss_of(model, features, cells, torch.tensor(bag.label))
        loss.backward()
        nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        descent.step()
    return model.eval()


def plain_loss(
    model: nn.Module, features: torch.Tensor, cells: torch.Tensor, target: torch.Tensor
) -> tuple[torch.Tensor, torch.Tensor]:
    logits = model(features, cells).logits
    return nn.functional.cross_entropy(logits, target[None]), logits


def chosen_rate(name: str, part: Part, folds: np.ndarray, fold: int) -> tuple[float, list[float]]:
    """Return the rate with the lowest loss on some of the training patients, and the losses."""
    inner = folds == (fold + 1) % N_FOLDS
    held = part.take(inner)
    bags = bags_of(held.features, held.kinds, held.groups)
    truth = torch.tensor([bag.label for bag in bags])
    losses = []
    for rate in RATES:
        model = trained(name, part.take(~inner), 0, rate, N_BAGS // 2)
        logits = torch.cat(predict_slides(model, bags))
        losses.append(float(torch.nn.functional.cross_entropy(logits, truth)))
    return RATES[int(np.argmin(losses))], losses


def run_fold(fold: int, names: list[str], seed: int, work: Path) -> None:
    """Train what is not there yet of a fold and a seed, and keep its answers."""
    if all(answers_file(work, name, fold, seed).exists() for name in names):
        return
    tiles = read_ebhi()
    features = features_of(tiles, fold, work)
    kinds, folds = merged(tiles.labels), patient_folds(tiles)
    own, held = (folds != fold) & (kinds >= 0), (folds == fold) & (kinds >= 0)
    every = Part(features, kinds, tiles.groups)
    train, test = every.take(own), every.take(held)
    bags = bags_of(test.features, test.kinds, test.groups)
    for name in names:
        kept = answers_file(work, name, fold, seed)
        if kept.exists():
            continue
        rate_file = kept.with_name(f"{kept.name.rsplit('-', 1)[0]}.json")
        if not rate_file.exists():
            rate, losses = chosen_rate(name, train, folds[own], fold)
            text = json.dumps({"rate": rate, "losses": losses})
            with replacing(rate_file) as temporary:
                temporary.write_text(text, encoding="utf-8")
        rate = json.loads(rate_file.read_text(encoding="utf-8"))["rate"]
        began = time.process_time()
        model = trained(name, train, seed, rate, N_BAGS)
        taken = time.process_time() - began
        began = time.process_time()
        logits = torch.cat(predict_slides(model, bags)).numpy()
        each = (time.process_time() - began) / len(bags)
        labels = np.array([bag.label for bag in bags])
        with replacing(kept) as temporary, temporary.open("wb") as opened:
            np.savez(
                opened, logits=logits, labels=labels, seconds=taken, each=each,
                names=np.array([bag.name for bag in bags]),
                weights=sum(each.numel() for each in model.parameters()),
            )  # fmt: skip
        print(
            f"fold {fold}, {name}, seed {seed}: {np.mean(logits.argmax(1) == labels):.3f} of "
            f"{len(labels)} right, rate {rate:g}, {taken:.0f} s",
            flush=True,
        )


@functools.cache
def encoder_code(fold: int, work: Path) -> str:
    return encoder_of(fold, work).hash[:8]


def answers_file(work: Path, name: str, fold: int, seed: int) -> Path:
    code = encoder_code(fold, work)
    plain = name.replace(", ", "-").lower()
    return work / "peers" / f"{plain}-{fold}-{code}-{seed}.npz"


def gathered(work: Path, name: str, folds: list[int], seed: int) -> dict[str, np.ndarray]:
    found = [np.load(answers_file(work, name, fold, seed)) for fold in folds]
    return {key: np.concatenate([np.atleast_1d(each[key]) for each in found]) for key in found[0]}


def figures(odds: np.ndarray, labels: np.ndarray, counts: np.ndarray) -> dict[str, float | None]:
    """Accuracy, balanced accuracy and AUC of the worst class, of rows that count so often."""
    rows = np.repeat(np.arange(len(labels)), counts)
    right, truth = odds[rows].argmax(1) == labels[rows], labels[rows]
    if len(np.unique(truth)) < N_CLASSES:
        return dict.fromkeys(("right", "balanced", "auc"))
    return {
        "right": float(right.mean()),
        "balanced": float(np.mean([right[truth == kind].mean() for kind in range(N_CLASSES)])),
        "auc": area_under_curve(odds[rows, 2], truth == 2),
    }


def table(names: list[str], folds: list[int], seeds: int, work: Path) -> None:
    found = {name: [gathered(work, name, folds, seed) for seed in range(seeds)] for name in names}
    first = found[names[0]][0]
    odds = {
        name: [torch.from_numpy(each["logits"]).softmax(1).numpy() for each in runs]
        for name, runs in found.items()
    }
    for runs in found.values():
        assert all((each["names"] == first["names"]).all() for each in runs)

    def mean(counts: np.ndarray) -> dict[str, float | None]:
        told: dict[str, float | None] = {}
        for name in names:
            parts = [figures(each, first["labels"], counts) for each in odds[name]]
            for key in parts[0]:
                values = [each[key] for each in parts]
                known = [value for value in values if value is not None]
                told[f"{name} {key}"] = float(np.mean(known)) if known else None
        for name in names[1:]:
            for key in ("right", "auc"):
                own, other = told[f"{names[0]} {key}"], told[f"{name} {key}"]
                told[f"{name} less {key}"] = None if own is None or other is None else own - other
        return told

    means = mean(np.ones(len(first["labels"]), np.int64))
    spans = group_intervals(list(first["names"]), mean)

    def shown(key: str, scale: float, digits: int, sign: str = "") -> str:
        value, (low, high) = means[key], spans[key]
        assert value is not None
        form = f"{sign}.{digits}f"
        return f"{scale * value:{form}} [{scale * low:{form}}, {scale * high:{form}}]"

    print(f"{len(first['labels'])} patients of folds {folds}, {seeds} seeds")
    print(
        "| network | weights | right, % | balanced, % | AUC of adenocarcinoma | right, each seed | "
        "s to train | ms a patient |\n" + "| --- " * 8 + "|"
    )
    for name in names:
        each = [100 * float(np.mean(o.argmax(1) == first["labels"])) for o in odds[name]]
        print(
            f"| {name} | {int(found[name][0]['weights'][0]):,} | "
            f"{shown(f'{name} right', 100, 1)} | {shown(f'{name} balanced', 100, 1)} | "
            f"{shown(f'{name} auc', 1, 3)} | {', '.join(f'{value:.1f}' for value in each)} | "
            f"{np.median([run['seconds'] for run in found[name]]):.0f} | "
            f"{1000 * np.median([run['each'] for run in found[name]]):.1f} |"
        )
    print(f"\n{names[0]} less the other: right, points; AUC")
    for name in names[1:]:
        print(
            f"- {name}: {shown(f'{name} less right', 100, 1, '+')}; "
            f"{shown(f'{name} less auc', 1, 3, '+')}"
        )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--work", type=Path, required=True, help="with encoder-FOLD.safetensors")
    parser.add_argument("--folds", type=int, nargs="*", default=list(range(N_FOLDS)))
    parser.add_argument("--only", nargs="*", default=list(NETWORKS), help="networks by name")
    parser.add_argument("--seeds", type=int, default=3)
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    (arguments.work / "peers").mkdir(exist_ok=True)
    for fold in arguments.folds:
        if not (arguments.work / f"encoder-{fold}.safetensors").exists():
            raise SystemExit(
                f"There is no encoder of fold {fold} in {arguments.work}: see "
                "scripts/train_tissue_mobilenet.py, or leave the fold out with --folds."
            )
    for seed in range(arguments.seeds):
        for fold in arguments.folds:
            run_fold(fold, arguments.only, seed, arguments.work)
    table(arguments.only, arguments.folds, arguments.seeds, arguments.work)


if __name__ == "__main__":
    main()
