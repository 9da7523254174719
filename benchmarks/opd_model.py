"""How the bundled ``opd-simulated`` model does on SIMULATED holograms it has not seen.

    python benchmarks/opd_model.py

Held-out holograms are drawn as those of the training were; each shift draws
some parameters from ranges that training never saw (``simulated_opd.py``). All
are simulated: nothing here says how the model does on real cells. Holograms are
resampled for the interval, as cells of one hologram share their microscope.
"""

from __future__ import annotations

import argparse
import json
from pathlib import Path

import numpy as np
import torch
from simulated_opd import SHIFTS, simulated_crops

from napari_sparseattn.bundle import Bundle, find_bundles, load_bundle
from napari_sparseattn.metrics import Report, classification_report
from napari_sparseattn.training.data.datasets import CropSet
from napari_sparseattn.training.loop.classifier import split_folds
from napari_sparseattn.training.loop.fit import predict_logits

RESAMPLES = 2000


def measured(bundle: Bundle, data: CropSet) -> tuple[Report, tuple[float, float]]:
    """Report, and the 95 % interval of the accuracy by resampling holograms."""
    card = bundle.card
    logits = predict_logits(bundle.model(), data.crops, card.normalisation, card.crop.size)
    probabilities = (logits / card.temperature).softmax(1).numpy()
    report = classification_report(probabilities, data.labels, data.class_names)
    _, group = np.unique(data.groups, return_inverse=True)
    hits = np.bincount(group, probabilities.argmax(1) == data.labels)
    counts = np.bincount(group)
    drawn = np.random.default_rng(0).integers(len(counts), size=(RESAMPLES, len(counts)))
    shares = hits[drawn].sum(1) / counts[drawn].sum(1)
    low, high = np.quantile(shares, (0.025, 0.975))
    return report, (float(low), float(high))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--cache", type=Path, default=Path(".cache/benchmarks"))
    parser.add_argument("--model", default="opd-simulated")
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--json", type=Path)
    arguments = parser.parse_args()
    torch.set_num_threads(arguments.threads)
    bundle = load_bundle(arguments.model)
    card = bundle.card
    k, size = card.architecture["k"], card.crop.size
    file = find_bundles().get(arguments.model, Path(arguments.model))
    print(
        f"{card.name}: looks at {k} of {size**2} pixels ({100 * k / size**2:.1f} %), "
        f"{bundle.n_parameters} weights, {file.stat().st_size / 1e6:.2f} MB"
    )
    sets = {
        "held-out holograms": (
            "as in training",
            split_folds(simulated_crops("training", arguments.cache))["test"],
        ),
        **{name: (s.text, simulated_crops(name, arguments.cache)) for name, s in SHIFTS.items()},
    }
    rows = []
    print("| simulated set | cells | holograms | accuracy [95 %] | macro F1 | ECE | what differs |")
    print("| --- | --- | --- | --- | --- | --- | --- |")
    for name, (text, data) in sets.items():
        report, (low, high) = measured(bundle, data)
        holograms = len(set(data.groups))
        rows.append(
            {"set": name, "holograms": holograms, "interval": [low, high], **report.to_dict()}
        )
        print(
            f"| {name} | {report.n} | {holograms} | {100 * report.accuracy:.1f} "
            f"[{100 * low:.1f}, {100 * high:.1f}] | {100 * report.macro_f1:.1f} | "
            f"{100 * report.ece:.1f} | {text} |",
            flush=True,
        )
    print("\nRecall of each class, %:")
    for row in rows:
        recalls = (f"{c} {100 * m['recall']:.0f}" for c, m in row["per_class"].items())
        print(f"  {row['set']}: {', '.join(recalls)}")
    if arguments.json:
        arguments.json.write_text(json.dumps(rows, indent=1))


if __name__ == "__main__":
    main()
