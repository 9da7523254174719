"""How well a model knows what it does not know: PBC against other things and other laboratories.

Known states were measured on training and validation cells; here held-out test
cells of PBC stand against ten and more kinds of other things (`other_things`)
and the white cells of two other laboratories (`laboratories`). The statistic
was chosen by looking at the kinds in `CHOSEN_ON` alone. Beside it: 1 - the
highest probability, which needs nothing.
"""

from __future__ import annotations

import argparse
import time
from pathlib import Path

import numpy as np
import torch
from blood_cells import default_archive, read_blood_cells
from laboratories import read_laboratories
from other_things import CHOSEN_ON, read_other_things
from scipy.stats import rankdata
from surroundings import cut_surroundings

from napari_sparseattn.bundle import Bundle, load_bundle
from napari_sparseattn.training.loop.classifier import split_folds
from napari_sparseattn.training.loop.fit import predict_states


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--data", type=Path, default=default_archive())
    parser.add_argument("--model", default="blood-cells")
    parser.add_argument("--cache", type=Path, default=Path(".cache/benchmarks"))
    arguments = parser.parse_args()
    bundle = load_bundle(arguments.model)
    if bundle.known is None or bundle.card.novelty is None:
        raise SystemExit("This model has no known states: see scripts/add_known_states.py.")
    parts = split_folds(read_blood_cells(arguments.data))
    own, unsure, said, none, surely = judge(parts["test"].crops, bundle)
    right = parts["test"].labels == said
    print(f"{bundle.card.name}@{bundle.hash[:12]}, {bundle.card.novelty.statistic}")
    print(f"threshold for {100 * bundle.card.novelty.false_alarms:.3g} % false alarms\n")
    print(
        "| | n | flagged | AUROC | of 1 − highest probability | none of these | "
        "confidence of 0.9 (one temperature) |"
    )
    print("|---|--:|--:|--:|--:|--:|--:|")
    alike = f"{100 * none.mean():.1f} %"
    print(f"| PBC, test cells | {len(own)} | {share(own)} | | | {alike} | {surely} |")
    print(f"| … classified right | {right.sum()} | {share(own[right])} | | | | |")
    print(
        f"| … classified wrong | {(~right).sum()} | {share(own[~right])} | "
        f"{area(own[right], own[~right]):.3f} | {area(unsure[right], unsure[~right]):.3f} | | |"
    )
    folder = arguments.data.parent
    kinds = things(folder, parts["validation"].crops, arguments.cache)
    more = cut_surroundings(parts["test"].crops, np.random.default_rng(2), 300)
    kinds |= dict(zip(("red cells, test part", "background, test part"), more, strict=True))
    labs = read_laboratories(folder, bundle.card.class_names)
    kinds |= {f"white cells ({name})": lab.crops for name, lab in labs.items()}
    for name, crops in kinds.items():
        found, other, _, none, surely = judge(crops, bundle)
        mark = " ¹" if name in CHOSEN_ON else ""
        print(
            f"| {name}{mark} | {len(crops)} | {share(found)} | {area(own, found):.3f} | "
            f"{area(unsure, other):.3f} | {100 * none.mean():.1f} % | {surely} |",
            flush=True,
        )
    print("\n¹ The statistic was chosen by looking at these.")
    states = np.random.default_rng(0).normal(size=(1000, bundle.known.width)).astype(np.float32)
    began = time.perf_counter()
    for state in states:
        bundle.known.novelty(state[None])
        bundle.known.look_like_others(state[None])
    print(f"{time.perf_counter() - began:.3f} ms per cell, one by one")


def things(folder: Path, pbc: np.ndarray, cache: Path) -> dict[str, np.ndarray]:
    """Cut the other things once: it takes a minute."""
    path = cache / "other-things.npz"
    if not path.exists():
        path.parent.mkdir(parents=True, exist_ok=True)
        np.savez_compressed(path, **read_other_things(folder, pbc))
    with np.load(path) as kept:
        return {name: kept[name] for name in kept.files}


def judge(
    crops: np.ndarray, bundle: Bundle
) -> tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray, str]:
    """Novelty, 1 - the highest probability, the class, none of these, and how many are sure.

    The probability is that of one temperature: with one that grows with novelty
    it would tell novelty again.
    """
    card, model, known = bundle.card, bundle.cell_model(), bundle.known
    assert known is not None
    states = predict_states(model, crops, card.normalisation, card.crop.size)
    with torch.inference_mode():
        logits = model.head(states)
        chances = (logits / card.temperature).softmax(1).numpy()
        shown = (logits / torch.from_numpy(bundle.temperatures(states))[:, None]).softmax(1)
    alike = known.look_like_others(states)
    none = np.zeros(len(crops), bool) if alike is None else alike
    before, now = (100 * (each.max(1) >= 0.9).mean() for each in (chances, shown.numpy()))
    surely = f"{now:.1f} % ({before:.1f})"
    return known.novelty(states), 1 - chances.max(1), chances.argmax(1), none, surely


def area(usual: np.ndarray, other: np.ndarray) -> float:
    """Probability that one of the others is more unusual than one of the usual."""
    ranks = rankdata(np.concatenate([usual, other]))[len(usual) :]
    least = len(other) * (len(other) + 1) / 2
    return float((ranks.sum() - least) / (len(usual) * len(other)))


def share(novelty: np.ndarray) -> str:
    return f"{100 * (novelty > 1).mean():.1f} %"


if __name__ == "__main__":
    main()
