"""Fine-tune the bundled ``blood-cells-tnet`` on PBC cells whose colours it has never seen.

The TNet knows all eight kinds of the PBC set. Here the user's smears have other
colours: the optical densities of real cells are mixed by a fixed matrix and
blurred a little, as in ``fine_tune_slides.py``; a declared change, not a second
laboratory. Of the validation part, n cells of each kind are annotated, 300 others
are at hand without a class. Figures are on cells of the test part in these
colours, and in their own, on which it was trained.
"""

from __future__ import annotations

import argparse
import dataclasses
import platform
import time
from pathlib import Path

import numpy as np
import torch
from blood_cells import default_archive, read_blood_cells
from fine_tune_slides import restained

from napari_sparseattn.bundle import Bundle, load_bundle
from napari_sparseattn.training.data.datasets import CropSet
from napari_sparseattn.training.loop.classifier import split_folds
from napari_sparseattn.training.loop.fit import predict_logits
from napari_sparseattn.training.tune.fine_tune import fine_tune


def recoloured(data: CropSet) -> CropSet:
    return dataclasses.replace(data, crops=np.stack([restained(crop) for crop in data.crops]))


def some(data: CropSet, rows: np.ndarray) -> CropSet:
    chosen = np.zeros(len(data), bool)
    chosen[rows] = True
    return data.subset(chosen)


def right(bundle: Bundle, data: CropSet) -> float:
    card = bundle.card
    logits = predict_logits(
        bundle.cell_model(), data.crops, card.normalisation, card.crop.size, batch_size=32
    )
    said = np.array(card.class_names)[logits.argmax(1).numpy()]
    return float((said == np.array(data.class_names)[data.labels]).mean())


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--data", type=Path, default=default_archive())
    parser.add_argument("--n", type=int, default=25, help="annotated cells of each kind")
    parser.add_argument("--test", type=int, default=400, help="cells")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--threads", type=int, default=2)
    arguments = parser.parse_args()
    torch.set_num_threads(arguments.threads)
    parts = split_folds(read_blood_cells(arguments.data))
    rng, user = np.random.default_rng(arguments.seed), parts["validation"]
    known = some(parts["test"], rng.permutation(len(parts["test"]))[: arguments.test])
    rows = np.concatenate([
        rng.permutation(np.flatnonzero(user.labels == c))[: arguments.n]
        for c in range(len(user.class_names))
    ])  # fmt: skip
    rest = rng.permutation(np.setdiff1d(np.arange(len(user)), rows))[:300]
    given, others, test = (recoloured(each) for each in (some(user, rows), some(user, rest), known))
    # By their names alone, which put them into the validation part, none would be held out.
    given = dataclasses.replace(given, names=tuple(f"annotated {name}" for name in given.names))
    bundle = load_bundle("blood-cells-tnet")
    before = [right(bundle, part) for part in (test, known)]
    print(f"before: {100 * before[0]:.1f} % in the new colours, {100 * before[1]:.1f} % in its own",
          flush=True)  # fmt: skip
    wall, cpu = time.perf_counter(), time.process_time()
    new, report = fine_tune(
        bundle,
        given,
        unlabelled=others.crops,
        device="cpu",
        on_epoch=lambda epoch: print(epoch, flush=True),
    )
    wall, cpu = time.perf_counter() - wall, time.process_time() - cpu
    after = [right(new, part) for part in (test, known)]
    print(
        f"after {arguments.n} of each kind: {100 * after[0]:.1f} % in the new colours, "
        f"{100 * after[1]:.1f} % in its own; kept: epoch {report.best_epoch} of "
        f"{len(report.history)}; {wall:.0f} s, {cpu:.0f} CPU s, {arguments.threads} threads of "
        f"{platform.processor() or platform.machine()}; {len(known)} test cells\n{report.sentence}"
    )


if __name__ == "__main__":
    main()
