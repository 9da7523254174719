"""What to annotate next: several orders of asking against a random one, on three sets of images.

Two are white cells of laboratories that the bundled model never saw (`laboratories`): its last
layer is fitted to the annotated ones beside its kept states, as `fine_tune` does (`few_cells`). The
third is EBHI's biopsy tiles in three classes, split by patient, seen through MobileNetV2's features
(``../shared/weights``), whose last layer begins with two tiles of each class.

In each draw half of the cells, or of the patients, is what can be annotated, and the others are
tested on. Each order is asked for a few, which get their true classes; the layer is fitted to all
annotated so far; and so on. The figure of an order is its mean accuracy over all steps. Beside it
is the mean over draws of how much that is above the random order's in the same draw, with the 95 %
interval of that mean (Student's t); positive where the order is better. Balanced accuracy is over
the classes that have at least five of the tested.

    python benchmarks/suggesting.py [--draws 10] [--sets BCCD BX53 EBHI] [--once]
"""

from __future__ import annotations

import argparse
import io
import time
import zipfile
from collections.abc import Callable
from pathlib import Path

import numpy as np
import torch
from blood_cells import default_archive
from laboratories import read_laboratories
from PIL import Image
from safetensors.torch import load_file
from scipy import stats

from napari_sparseattn.bundle import load_bundle
from napari_sparseattn.models.mobilenet import MobileNetV2, folded, from_transformers
from napari_sparseattn.training.data.suggest import suggest, uncertainty
from napari_sparseattn.training.tune.grown_head import (
    HeadFeatures,
    class_weights,
    fit_head,
    grow,
    head_features,
)

Rows = np.ndarray
#: Given probabilities (N, C), states (N, D), novelty (N,), states annotated (M, D), how many, lot.
Order = Callable[[np.ndarray, np.ndarray, np.ndarray, np.ndarray, int, np.random.Generator], Rows]
_LEAST_TESTED = 5
_EBHI = {
    "normal": 0,
    "polyp": 0,
    "low_grade_neoplasia": 1,
    "high_grade_neoplasia": 1,
    "adenocarcinoma": 2,
}


def _random(p, x, new, seen, n, rng) -> Rows:
    return rng.permutation(len(p))[:n]


def _uncertain(p, x, new, seen, n, rng) -> Rows:
    return np.argsort(-uncertainty(p), kind="stable")[:n]


def _by_probabilities(p, x, new, seen, n, rng) -> Rows:
    return suggest(p, n=n)


def _by_states(p, x, new, seen, n, rng) -> Rows:
    return suggest(p, x, n, annotated=seen)


def _novel(p, x, new, seen, n, rng) -> Rows:
    return np.argsort(-new, kind="stable")[:n]


def _diverse(p, x, new, seen, n, rng) -> Rows:
    """The farthest from all annotated: no answer of the model counts."""
    return suggest(np.full((len(p), 2), 0.5), x, n, annotated=seen)


def _share(values: np.ndarray) -> np.ndarray:
    """Ranks from 0 to 1."""
    return (np.argsort(np.argsort(values)) + 0.5) / len(values)


def _joined(p, x, new, seen, n, rng) -> Rows:
    """Doubt and novelty, each by its rank, times the distance to the annotated."""
    wanted = (_share(uncertainty(p)) + _share(new)) / 2
    return _greedy(wanted, x, seen, n)


def _joined_by_probabilities(p, x, new, seen, n, rng) -> Rows:
    wanted = (_share(uncertainty(p)) + _share(new)) / 2
    return _greedy(wanted, np.sqrt(p), np.empty((0, p.shape[1])), n)


def _stratified(p, x, new, seen, n, rng) -> Rows:
    """As many of each class that the model names, the most doubtful of each first."""
    return _in_turns(p, uncertainty(p), n)


def _stratified_lot(p, x, new, seen, n, rng) -> Rows:
    """As many of each class that the model names, by lot."""
    return _in_turns(p, rng.random(len(p)), n)


def _in_turns_by_states(p, x, new, seen, n, rng) -> Rows:
    """A class that the model names, by lot, then of it the most doubtful and unlike the others."""
    said, doubt = p.argmax(1), uncertainty(p) + 1e-9
    scale = np.maximum(x.std(axis=0), 1e-9)
    places, picked = x / scale, []
    nearest = np.full(len(p), np.inf)
    for place in seen / scale:
        nearest = np.minimum(nearest, np.linalg.norm(places - place, axis=1))
    turns = rng.permutation(np.unique(said))
    for turn in range(min(n, len(p))):
        worth = doubt.copy() if np.isinf(nearest).all() else doubt * nearest
        worth[picked] = -1
        own = (said == turns[turn % len(turns)]) & (worth >= 0)
        worth = np.where(own, worth, -1) if own.any() else worth
        picked.append(int(worth.argmax()))
        nearest = np.minimum(nearest, np.linalg.norm(places - places[picked[-1]], axis=1))
    return np.array(picked)


def _in_turns(p: np.ndarray, wanted: np.ndarray, n: int) -> Rows:
    said, turn = p.argmax(1), np.empty(len(p))
    for label in np.unique(said):
        rows = np.flatnonzero(said == label)
        turn[rows[np.argsort(-wanted[rows], kind="stable")]] = np.arange(len(rows))
    return np.lexsort((-wanted, turn))[:n]


def _greedy(wanted: np.ndarray, places: np.ndarray, seen: np.ndarray, n: int) -> Rows:
    scale = np.maximum(places.std(axis=0), 1e-9)
    places = places / scale
    nearest = np.full(len(places), np.inf)
    for place in seen / scale if len(seen) else ():
        nearest = np.minimum(nearest, np.linalg.norm(places - place, axis=1))
    picked: list[int] = []
    for _ in range(min(n, len(places))):
        worth = wanted.copy() if np.isinf(nearest).all() else (wanted + 1e-9) * nearest
        worth[picked] = -1
        picked.append(int(worth.argmax()))
        nearest = np.minimum(nearest, np.linalg.norm(places - places[picked[-1]], axis=1))
    return np.array(picked)


ORDERS: dict[str, Order] = {
    "random": _random,
    "doubt": _uncertain,
    "doubt x distance of probabilities": _by_probabilities,
    "doubt x distance of states": _by_states,
    "novelty": _novel,
    "distance of states": _diverse,
    "doubt and novelty x distance of states": _joined,
    "doubt and novelty x distance of probabilities": _joined_by_probabilities,
    "class by class, doubt": _stratified,
    "class by class, by lot": _stratified_lot,
    "class by class, doubt x distance of states": _in_turns_by_states,
}


class Cells:
    """White cells of a laboratory, and the bundled model."""

    def __init__(self, folder: Path, name: str) -> None:
        bundle = load_bundle("blood-cells")
        card, self.model, self.known = bundle.card, bundle.cell_model(), bundle.known
        lab = read_laboratories(folder, card.class_names)[name]
        seen = head_features(self.model, lab.crops, card.normalisation, card.crop.size, views=4)
        self.features, self.labels = seen.features, lab.labels
        self.states = seen.features[0].numpy()
        self.novelty = self.known.novelty(self.states)
        self.n_classes, self.steps, self.first = len(card.class_names), (0,) + (4,) * 12, 0

    def split(self, rng: np.random.Generator) -> tuple[Rows, Rows]:
        """Half of each class is there to be annotated."""
        pool = np.zeros(len(self.labels), bool)
        for label in np.unique(self.labels):
            rows = rng.permutation(np.flatnonzero(self.labels == label))
            pool[rows[: (len(rows) + 1) // 2]] = True
        return np.flatnonzero(pool), np.flatnonzero(~pool)

    def fit(self, rows: Rows) -> torch.nn.Linear:
        """The bundled last layer, fitted to the annotated."""
        head = grow(self.model, self.n_classes).head
        if not len(rows):
            return head
        logits = torch.zeros(len(self.features), 0, self.n_classes)
        kept = ~self.known.held
        labels = self.labels[rows]
        fit_head(
            head,
            (HeadFeatures(self.features[:, rows], logits), torch.from_numpy(labels)),
            HeadFeatures(self.features[:, :0], logits),
            class_weights(labels, self.n_classes),
            1.0,
            (torch.from_numpy(self.known.states[kept]), torch.from_numpy(self.known.labels[kept])),
        )
        return head


class Tiles:
    """EBHI's tiles, seen by a network that knows photographs."""

    def __init__(self, folder: Path, name: str) -> None:
        module = MobileNetV2().eval()
        weights = folder.parent / "weights" / "mobilenetv2_imagenet" / "model.safetensors"
        module.load_state_dict(folded(from_transformers(load_file(weights))))
        crops, labels, patients = [], [], []
        with zipfile.ZipFile(folder / "ebhi.zip") as archive:
            for each in sorted(archive.namelist()):
                kind, *rest = each.split("/")
                if kind in _EBHI and each.lower().endswith(".jpg"):
                    picture = Image.open(io.BytesIO(archive.read(each))).convert("RGB")
                    crops.append(np.asarray(picture.resize((224, 224))))
                    labels.append(_EBHI[kind])
                    patients.append(rest[0])
        mean, std = (torch.tensor(v)[:, None, None] for v in
                     ((0.485, 0.456, 0.406), (0.229, 0.224, 0.225)))  # fmt: skip
        parts = []
        with torch.inference_mode():
            for start in range(0, len(crops), 32):
                batch = torch.from_numpy(np.stack(crops[start : start + 32])).permute(0, 3, 1, 2)
                parts.append(module((batch / 255 - mean) / std))
        states = torch.cat(parts).clone()
        self.states = ((states - states.mean(0)) / (states.std(0) + 1e-6)).numpy()
        self.labels, self.patients = np.array(labels), np.array(patients)
        self.novelty = np.linalg.norm(self.states, axis=1)
        self.n_classes, self.steps, self.first = 3, (0,) + (16,) * 10, 2

    def split(self, rng: np.random.Generator) -> tuple[Rows, Rows]:
        """Half of the patients have tiles to be annotated."""
        names = rng.permutation(np.unique(self.patients))
        pool = np.isin(self.patients, names[: len(names) // 2])
        return np.flatnonzero(pool), np.flatnonzero(~pool)

    def fit(self, rows: Rows) -> torch.nn.Linear:
        """A last layer on what is annotated, from nothing."""
        head = torch.nn.Linear(self.states.shape[1], self.n_classes)
        torch.nn.init.zeros_(head.weight)
        torch.nn.init.zeros_(head.bias)
        x, y = torch.from_numpy(self.states[rows]), torch.from_numpy(self.labels[rows])
        weights = class_weights(self.labels[rows], self.n_classes)
        optimiser = torch.optim.LBFGS(head.parameters(), max_iter=60, line_search_fn="strong_wolfe")

        def closure() -> torch.Tensor:
            optimiser.zero_grad()
            value = torch.nn.functional.cross_entropy(head(x), y, weight=weights)
            value = value + 1e-2 * head.weight.square().sum()
            value.backward()
            return value

        optimiser.step(closure)
        return head


def ask(world: Cells | Tiles, order: Order, seed: int, once: bool) -> np.ndarray:
    """Annotate in one order; accuracy and balanced accuracy (steps, 2).

    If `once`, the order is by the answers of the model as it was at first.
    """
    rng = np.random.default_rng(seed)
    pool, test = world.split(rng)
    truth = world.labels[test]
    told = [c for c in np.unique(truth) if (truth == c).sum() >= _LEAST_TESTED]
    states = torch.from_numpy(world.states)
    taken = np.concatenate(
        [pool[world.labels[pool] == c][: world.first] for c in np.unique(world.labels)]
    )
    head = first = world.fit(taken)
    curve = []
    for step in world.steps:
        if step:
            rest = np.setdiff1d(pool, taken)
            with torch.no_grad():
                said = (first if once else head)(states[rest]).softmax(1).numpy()
            picked = order(
                said, world.states[rest], world.novelty[rest], world.states[taken], step, rng
            )
            taken = np.concatenate([taken, rest[picked]])
            head = world.fit(taken)
        with torch.no_grad():
            found = head(states[test]).argmax(1).numpy()
        balanced = np.mean([(found[truth == c] == c).mean() for c in told])
        curve.append(((found == truth).mean(), balanced))
    return 100 * np.array(curve)


def interval(values: np.ndarray) -> str:
    """Mean and its 95 % interval."""
    half = stats.t.ppf(0.975, len(values) - 1) * values.std(ddof=1) / np.sqrt(len(values))
    return f"{values.mean():+.1f} [{values.mean() - half:+.1f}, {values.mean() + half:+.1f}]"


def reaching(curves: np.ndarray, goal: float, counts: np.ndarray) -> str:
    """How many annotations the mean curve needs for an accuracy."""
    there = np.flatnonzero(curves.mean(0) >= goal)
    return str(counts[there[0]]) if len(there) else "–"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--data", type=Path, default=default_archive().parent)
    parser.add_argument("--sets", nargs="+", default=["BCCD", "BX53", "EBHI"])
    parser.add_argument("--draws", type=int, default=10)
    parser.add_argument("--once", action="store_true", help="rank by the first model alone")
    parser.add_argument("--orders", nargs="+", default=list(ORDERS))
    arguments = parser.parse_args()
    for name in arguments.sets:
        began = time.process_time()
        torch.set_num_threads(1)
        world = (Tiles if name == "EBHI" else Cells)(arguments.data, name)
        curves = {}
        for order in arguments.orders:
            runs = [
                ask(world, ORDERS[order], seed, arguments.once) for seed in range(arguments.draws)
            ]
            curves[order] = np.stack(runs)
        start = world.first * len(np.unique(world.labels))
        counts = start + np.cumsum(world.steps)
        goal = curves["random"][:, -1, 1].mean()
        print(
            f"\n{name}: {len(world.labels)} images, from {counts[0]} to {counts[-1]} annotated, "
            f"{arguments.draws} draws; {time.process_time() - began:.0f} s of one core\n\n"
            "| order | balanced, mean over steps, % | above random, points | accuracy, % | "
            f"above random, points | annotated for {goal:.1f} % balanced |\n"
            "|---|--:|--:|--:|--:|--:|"
        )
        for order, each in curves.items():
            gain = (each - curves["random"]).mean(1)
            mean = each.mean((0, 1))
            print(
                f"| {order} | {mean[1]:.1f} | {interval(gain[:, 1]) if gain.any() else ''} | "
                f"{mean[0]:.1f} | {interval(gain[:, 0]) if gain.any() else ''} | "
                f"{reaching(each[..., 1], goal, counts)} |",
                flush=True,
            )


if __name__ == "__main__":
    main()
