"""What a few annotated cells of another laboratory are worth, and what they cost.

The bundled model meets the white cells of two laboratories that it never saw
(`laboratories`; nothing was chosen on them). So many cells per class are
annotated, drawn at random, at most half of a class; the others are tested on,
and PBC's test cells tell what was forgotten. As `fine_tune` does where there
are few cells: a fifth of the annotated is held out, and the last layer is
fitted to the rest, turned four ways, beside the states that the model keeps.
``--backbone`` also trains as was done before there were kept states, which
takes a minute for each draw.
"""

from __future__ import annotations

import argparse
from pathlib import Path

import numpy as np
import torch
from blood_cells import default_archive, read_blood_cells
from laboratories import read_laboratories

from napari_sparseattn.bundle import Bundle, load_bundle
from napari_sparseattn.training.data.datasets import CropSet
from napari_sparseattn.training.data.split import held_out
from napari_sparseattn.training.loop.classifier import split_folds
from napari_sparseattn.training.loop.fit import predict_logits, predict_states
from napari_sparseattn.training.tune.fine_tune import fine_tune
from napari_sparseattn.training.tune.grown_head import (
    HeadFeatures,
    class_weights,
    fit_head,
    grow,
    head_features,
)

COUNTS = (5, 10, 25, 50)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--data", type=Path, default=default_archive())
    parser.add_argument("--model", default="blood-cells")
    parser.add_argument("--draws", type=int, default=5)
    parser.add_argument("--backbone", action="store_true")
    arguments = parser.parse_args()
    bundle = load_bundle(arguments.model)
    if bundle.known is None:
        raise SystemExit("This model keeps no states: see scripts/add_known_states.py.")
    card, model = bundle.card, bundle.cell_model()
    test = split_folds(read_blood_cells(arguments.data))["test"]
    own = predict_states(model, test.crops, card.normalisation, card.crop.size)
    print(f"{card.name}@{bundle.hash[:12]}; PBC before {percent(model.head, own, test.labels)}\n")
    print("| laboratory | per class | annotated | there before | there after | PBC after | "
          "PBC, worst class: before → after |")  # fmt: skip
    print("|---|--:|--:|--:|--:|--:|---|")
    for name, lab in read_laboratories(arguments.data.parent, card.class_names).items():
        seen = head_features(model, lab.crops, card.normalisation, card.crop.size, views=4)
        for count in COUNTS:
            rows = []
            for seed in range(arguments.draws):
                chosen = draw(lab.labels, count, seed)
                head = fitted(bundle, seen, lab, chosen)
                states = seen.features[0]
                with torch.inference_mode():
                    before, after = (
                        right(each, states, lab.labels)[~chosen].mean()
                        for each in (model.head, head)
                    )
                    old = right(head, own, test.labels)
                    recall = by_class(old, test.labels) - by_class(
                        right(model.head, own, test.labels), test.labels
                    )
                rows.append((chosen.sum(), before, after, old.mean(), recall.min()))
                worst = (int(recall.argmin()), float(recall.min()))
            mean, spread = np.mean(rows, 0), np.std(rows, 0)
            print(
                f"| {name} | {count} | {mean[0]:.0f} | {100 * mean[1]:.1f} % | "
                f"{100 * mean[2]:.1f} ± {100 * spread[2]:.1f} % | {100 * mean[3]:.1f} % | "
                f"{card.class_names[worst[0]]} {100 * worst[1]:+.1f} points |",
                flush=True,
            )
            if arguments.backbone:
                trained(bundle, lab, draw(lab.labels, count, 0), test)


def draw(labels: np.ndarray, count: int, seed: int) -> np.ndarray:
    """Which cells are annotated: so many of each class, at most half of it, by lot."""
    rng = np.random.default_rng(seed)
    chosen = np.zeros(len(labels), bool)
    for label in np.unique(labels):
        rows = np.flatnonzero(labels == label)
        chosen[rng.permutation(rows)[: min(count, len(rows) // 2)]] = True
    return chosen


def fitted(bundle: Bundle, seen: HeadFeatures, lab: CropSet, chosen: np.ndarray) -> torch.nn.Linear:
    """Fit the last layer as `fine_tune` does, without running the network anew for each draw."""
    own = lab.subset(chosen)
    train = np.flatnonzero(chosen)[~held_out(own)]
    labels, known = lab.labels[train], bundle.known
    assert known is not None
    n_classes = len(bundle.card.class_names)
    head = grow(bundle.cell_model(), n_classes).head
    rows = ~known.held
    fit_head(
        head,
        (HeadFeatures(seen.features[:, train], seen.logits[:, train]), torch.from_numpy(labels)),
        HeadFeatures(seen.features[:, :0], seen.logits[:, :0]),
        class_weights(labels, n_classes),
        1.0,
        (torch.from_numpy(known.states[rows]), torch.from_numpy(known.labels[rows])),
    )
    return head


def trained(bundle: Bundle, lab: CropSet, chosen: np.ndarray, test: CropSet) -> None:
    """Train the last layers, as was done before states were kept."""
    new, _ = fine_tune(bundle, lab.subset(chosen), freeze="backbone", device="cpu")
    card, model = new.card, new.cell_model()
    there, old = (
        (predict_logits(model, part.crops, card.normalisation, card.crop.size).argmax(1).numpy()
         == part.labels).mean()
        for part in (lab.subset(~chosen), test)
    )  # fmt: skip
    print(f"| | backbone | | | {100 * there:.1f} % | {100 * old:.1f} % | |", flush=True)


def right(head: torch.nn.Module, states: torch.Tensor, labels: np.ndarray) -> np.ndarray:
    with torch.inference_mode():
        return head(states).argmax(1).numpy() == labels


def by_class(hits: np.ndarray, labels: np.ndarray) -> np.ndarray:
    return np.array([hits[labels == label].mean() for label in np.unique(labels)])


def percent(head: torch.nn.Module, states: torch.Tensor, labels: np.ndarray) -> str:
    return f"{100 * right(head, states, labels).mean():.1f} %"


if __name__ == "__main__":
    main()
