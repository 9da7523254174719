"""Learn two kinds of blood cell that a model has never seen, from a few annotated cells.

A SparseAttnNet is trained on the PBC set without two classes (by default the
two rarest), on the training part of the same split as all other benchmarks,
and kept in ``--cache``. The validation part, a tenth, then plays the user's
images: n cells of a class are annotated, drawn at random, and the others stay
unannotated, new kinds among them as often as they occur. A fifth of the
annotated ones is held out by ``fine_tune`` itself, as always. Accuracy is on
the test part, among all eight classes. The method was chosen by looking at it
with the default classes; with ``--new erythroblast eosinophil`` nothing was.

Settings:
  new        only cells of the two new classes are annotated (what a user does)
  all        n cells of each of the eight classes are annotated
  all-alone  the same, without unannotated cells
  rehearsal  as new, and the model's own training crops are at hand
  scratch    a new SparseAttnNet on the cells of `all`
  forest     a random forest on classical features of the cells of `all`
  head       as new, but only the head is fitted; head-all: as all

``forest`` needs scikit-learn, which is no dependency of the project:
``pip install --target FOLDER scikit-learn`` and ``PYTHONPATH=FOLDER``.

``--active`` ranks by `suggest` against random order, with fitted heads.
Results are kept in ``--cache``: a run that was stopped goes on.
"""

from __future__ import annotations

import argparse
import dataclasses
import json
import platform
import time
from collections.abc import Iterable
from pathlib import Path

import numpy as np
import torch
from blood_cells import default_archive, read_blood_cells

from napari_sparseattn.bundle import Bundle, load_bundle, save_bundle
from napari_sparseattn.card import CropSpec
from napari_sparseattn.files import replacing
from napari_sparseattn.models.sparse.network import SparseAttnNet, SparseAttnNetConfig
from napari_sparseattn.training.data.datasets import CropSet
from napari_sparseattn.training.data.suggest import suggest
from napari_sparseattn.training.loop.augment import Augmentation
from napari_sparseattn.training.loop.classifier import (
    TrainingSettings,
    split_folds,
    train_classifier,
)
from napari_sparseattn.training.loop.fit import FitOptions, fit, predict_logits
from napari_sparseattn.training.tune.fine_tune import fine_tune
from napari_sparseattn.training.tune.grown_head import (
    HeadFeatures,
    class_weights,
    fit_head,
    grow,
    head_features,
    unite_classes,
)

SIZE = 64
SETTINGS = ("new", "all", "all-alone", "rehearsal", "scratch", "forest", "head", "head-all")
Rows = np.ndarray
Result = dict[str, float]


def without(data: CropSet, names: Iterable[str]) -> CropSet:
    """Leave classes out."""
    kept = [name for name in data.class_names if name not in set(names)]
    place = np.array([kept.index(n) if n in kept else -1 for n in data.class_names])
    part = data.subset(place[data.labels] >= 0)
    return dataclasses.replace(part, labels=place[part.labels], class_names=tuple(kept))


def base_model(data: CropSet, new: list[str], pieces: list[int], cache: Path) -> Bundle:
    """Train the model that has never seen the new classes, piece after piece, or load it."""
    bundle: Bundle | None = None
    done = []
    for epochs in pieces:
        done.append(str(epochs))
        path = cache / f"fine-tune-base-{'-'.join(new)}-{'-'.join(done)}-epochs.safetensors"
        if path.exists():
            bundle = load_bundle(path)
            continue
        settings = TrainingSettings(
            name=f"without-{'-'.join(new)}",
            crop=CropSpec(size=SIZE, field_of_view_um=32.0, cell_diameters=2.5),
            augmentation=Augmentation(counterstain=0, response=0),
            options=FitOptions(
                epochs=epochs, first_share=0.15, least_share=0.15, seed=len(done) - 1
            ),
            data=f"PBC without {', '.join(new)}",
        )
        trained, report = train_classifier(
            without(data, new), settings, lambda e: print(e, flush=True), bundle
        )
        bundle = save_bundle(trained, path)
        print(f"base model: {100 * report.test.accuracy:.1f} % on the test cells of its classes")
    assert bundle is not None
    return bundle


class World:
    """The user's images, the test cells, and the model before."""

    def __init__(self, data: CropSet, base: Bundle) -> None:
        classes = unite_classes(base.card.class_names, data.class_names)
        place = np.array([classes.index(name) for name in data.class_names])
        parts = split_folds(
            dataclasses.replace(data, labels=place[data.labels], class_names=classes)
        )
        self.train, self.user, self.test = parts["train"], parts["validation"], parts["test"]
        self.base, self.classes, self.n_old = base, classes, len(base.card.class_names)
        self.norm = base.card.normalisation
        self._features: tuple[HeadFeatures, HeadFeatures] | None = None

    def draw(self, n: int, seed: int, new_only: bool) -> Rows:
        """Rows of the user's cells that are annotated: n of each class."""
        rng = np.random.default_rng(seed)
        first = self.n_old if new_only else 0
        return np.concatenate(
            [rng.permutation(np.flatnonzero(self.user.labels == c))[:n]
             for c in range(first, len(self.classes))]
        )  # fmt: skip

    def annotated(self, rows: Rows) -> tuple[CropSet, np.ndarray]:
        """Annotated cells, and crops of the others."""
        chosen = np.zeros(len(self.user), bool)
        chosen[rows] = True
        own = self.user.subset(chosen)
        # By their names alone, which put them into the validation part, none would be held out.
        own = dataclasses.replace(own, names=tuple(f"annotated {name}" for name in own.names))
        return own, self.user.crops[~chosen]

    def measure(self, predicted: np.ndarray) -> Result:
        """Accuracies on the test cells."""
        truth, old = self.test.labels, self.test.labels < self.n_old
        recall = [(predicted[truth == c] == c).mean() for c in range(len(self.classes))]
        said_new = predicted >= self.n_old
        return {
            "old": float((predicted == truth)[old].mean()),
            "new": float(np.mean(recall[self.n_old :])),
            "balanced": float(np.mean(recall)),
            "precision": float((predicted == truth)[said_new].mean()) if said_new.any() else 0.0,
        }

    def features(self) -> tuple[HeadFeatures, HeadFeatures]:
        """What the base model's head reads of the user's cells and the test cells."""
        if self._features is None:
            model = self.base.cell_model()
            self._features = (
                head_features(model, self.user.crops, self.norm, SIZE, views=4),
                head_features(model, self.test.crops, self.norm, SIZE),
            )
        return self._features

    def fitted(self, rows: Rows) -> tuple[torch.nn.Linear, np.ndarray]:
        """A fitted head, and what it predicts of the test cells."""
        user, test = self.features()
        others = np.setdiff1d(np.arange(len(self.user)), rows)
        labels = self.user.labels[rows]
        head = grow(self.base.cell_model(), len(self.classes)).head
        seen, rest = (HeadFeatures(user.features[:, i], user.logits[:, i]) for i in (rows, others))
        known = labels < self.n_old
        right = seen.logits[0].argmax(1).numpy()[known] == labels[known]
        trust = (right.sum() + 2) / (len(right) + 2)
        weights = class_weights(labels, len(self.classes))
        fit_head(head, (seen, torch.from_numpy(labels)), rest, weights, float(trust))
        with torch.no_grad():
            return head, head(test.features[0]).argmax(1).numpy()


def one(world: World, setting: str, n: int, seed: int) -> Result:
    """Run one setting once."""
    rows = world.draw(n, seed, setting in ("new", "rehearsal", "head"))
    began = time.perf_counter()
    cpu = time.process_time()
    if setting.startswith("head"):
        world.features()
        began, cpu = time.perf_counter(), time.process_time()
        predicted = world.fitted(rows)[1]
        extra: Result = {}
    elif setting == "scratch":
        predicted, extra = scratch(world, rows, seed), {}
    elif setting == "forest":
        predicted, extra = forest(world, rows, seed), {}
    else:
        predicted, extra = tuned(world, setting, rows, seed)
    spent = extra.pop("spent", time.perf_counter() - began)
    busy = extra.pop("busy", time.process_time() - cpu)
    return {**world.measure(predicted), "seconds": spent, "cpu": busy, **extra}


def tuned(world: World, setting: str, rows: Rows, seed: int) -> tuple[np.ndarray, Result]:
    """What a user gets."""
    data, others = world.annotated(rows)
    rng = np.random.default_rng(seed)
    kept = rng.permutation(len(others))[:1000]  # as `cut_unannotated_cells`
    rehearsal = None
    if setting == "rehearsal":
        own = world.train.subset(world.train.labels < world.n_old)
        rehearsal = own
    began, cpu = time.perf_counter(), time.process_time()
    bundle, report = fine_tune(
        world.base,
        data,
        unlabelled=None if setting == "all-alone" else others[kept],
        rehearsal=rehearsal,
        seed=seed,
        device="cpu",
    )
    spent, busy = time.perf_counter() - began, time.process_time() - cpu
    logits = predict_logits(bundle.cell_model(), world.test.crops, world.norm, SIZE)
    extra = {"spent": spent, "busy": busy, "best_epoch": report.best_epoch}
    return logits.argmax(1).numpy(), extra


def scratch(world: World, rows: Rows, seed: int) -> np.ndarray:
    """A new network on the same cells, for about as many steps."""
    data = world.user.subset(np.isin(np.arange(len(world.user)), rows))
    torch.manual_seed(seed)
    config = SparseAttnNetConfig(n_classes=len(world.classes), image_size=SIZE, k=SIZE * SIZE)
    model = SparseAttnNet(config)
    epochs = max(10, 8000 // len(data))
    options = FitOptions(epochs=epochs, first_share=0.15, least_share=0.15, seed=seed)
    # The crops themselves stand in for a validation part, which such a model cannot afford.
    train = (data.crops, data.labels)
    changes = Augmentation(counterstain=0, response=0)
    run = fit(
        model,
        train,
        train,
        normalisation=world.norm,
        size=SIZE,
        augmentation=changes,
        options=options,
    )
    for _ in run:
        pass
    return predict_logits(model, world.test.crops, world.norm, SIZE).argmax(1).numpy()


_CLASSICAL: dict[int, np.ndarray] = {}


def forest(world: World, rows: Rows, seed: int) -> np.ndarray:
    """A random forest on shape, colour and texture."""
    from sklearn.ensemble import RandomForestClassifier

    for part in (world.user, world.test):
        if id(part) not in _CLASSICAL:
            _CLASSICAL[id(part)] = np.stack([classical(crop) for crop in part.crops])
    model = RandomForestClassifier(500, class_weight="balanced", random_state=seed, n_jobs=2)
    model.fit(_CLASSICAL[id(world.user)][rows], world.user.labels[rows])
    found: np.ndarray = model.predict(_CLASSICAL[id(world.test)])
    return found


def classical(crop: np.ndarray) -> np.ndarray:
    """Shape of the nucleus, colours in and out of it, and texture (GLCM, LBP)."""
    from skimage.color import rgb2hed, rgb2hsv
    from skimage.feature import graycomatrix, graycoprops, local_binary_pattern
    from skimage.filters import threshold_otsu
    from skimage.measure import label, regionprops

    hsv, hed = rgb2hsv(crop), rgb2hed(crop)
    stain = hsv[..., 1]
    mask = stain > threshold_otsu(stain)
    parts = sorted(regionprops(label(mask)), key=lambda p: -p.area)
    shape = np.zeros(7)
    if parts:
        p = parts[0]
        shape = np.array([p.area, p.perimeter, p.eccentricity, p.solidity, p.extent,
                          4 * np.pi * p.area / max(p.perimeter, 1) ** 2, len(parts)])  # fmt: skip
    channels = np.concatenate([crop / 255, hsv, hed], axis=2)
    inside = channels[mask] if mask.any() else channels.reshape(-1, 9)
    outside = channels[~mask] if (~mask).any() else channels.reshape(-1, 9)
    colours = [f(x, axis=0) for x in (inside, outside) for f in (np.mean, np.std)]
    colours.append(np.percentile(channels.reshape(-1, 9), [5, 25, 50, 75, 95], axis=0).ravel())
    grey = crop.mean(axis=2).astype(np.uint8)
    levels = grey // 8
    matrix = graycomatrix(levels, [1, 3], [0, np.pi / 2], 32, symmetric=True, normed=True)
    texture = [graycoprops(matrix, what).ravel()
               for what in ("contrast", "homogeneity", "energy", "correlation")]  # fmt: skip
    patterns = local_binary_pattern(grey, 8, 1, "uniform")
    histogram = np.histogram(patterns, bins=10, range=(0, 10), density=True)[0]
    return np.concatenate([shape, *colours, *texture, histogram])


Curves = dict[str, list[list[Result]]]


def active(world: World, draws: int, steps: int, per_step: int) -> Curves:
    """Accuracy against the number of annotations, ranked and in random order.

    Both begin with two cells of each class; nobody knows beforehand of what class the next are.
    """
    user, _ = world.features()
    curves: Curves = {"suggested": [], "random": []}
    for seed in range(draws):
        start = world.draw(2, seed, new_only=False)
        for way, kept in curves.items():
            rng, rows, curve = np.random.default_rng(seed), start, []
            for _ in range(steps + 1):
                head, predicted = world.fitted(rows)
                fresh = float((world.user.labels[rows] >= world.n_old).sum())
                curve.append({**world.measure(predicted), "fresh": fresh})
                rest = np.setdiff1d(np.arange(len(world.user)), rows)
                if way == "random":
                    picked = rng.permutation(len(rest))[:per_step]
                else:
                    own = user.features[0]
                    with torch.no_grad():
                        said = head(own[rest]).softmax(1).numpy()
                    picked = suggest(said, own[rest].numpy(), per_step, annotated=own[rows].numpy())
                rows = np.concatenate([rows, rest[picked]])
            kept.append(curve)
    return curves


def show_active(curves: Curves, first: int, per_step: int) -> None:
    """Print both curves, and how many annotations the ranking saves."""

    def mean(way: str, what: str) -> np.ndarray:
        return np.mean([[r[what] for r in curve] for curve in curves[way]], axis=0)

    ways = ("suggested", "random")
    counts = first + per_step * np.arange(len(curves["random"][0]))
    print("\n| order | annotated | of new classes | balanced, % | new, % | old, % |")
    print("|---|---|---|---|---|---|")
    for way in ways:
        fresh = mean(way, "fresh")
        columns = [100 * mean(way, what) for what in ("balanced", "new", "old")]
        for i, n in enumerate(counts):
            cells = " | ".join(f"{column[i]:.1f}" for column in columns)
            print(f"| {way} | {n} | {fresh[i]:.0f} | {cells} |")
    goal = mean("random", "balanced")[-1]
    reached = np.flatnonzero(mean("suggested", "balanced") >= goal)
    if len(reached):
        print(
            f"Balanced accuracy {100 * goal:.1f} %: {counts[-1]} annotations in random order, "
            f"{counts[reached[0]]} suggested; mean of {len(curves['random'])} draws."
        )
    else:
        print("The suggested order never reached what the random order reached in the end.")


def spread(values: list[float]) -> str:
    return f"{np.mean(values):.1f} ({np.std(values):.1f})"


def kept_results(path: Path) -> dict[str, Result]:
    return json.loads(path.read_text()) if path.exists() else {}


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--data", type=Path, default=default_archive())
    parser.add_argument("--new", nargs="+", default=["basophil", "lymphocyte"])
    parser.add_argument(
        "--base-epochs", type=int, nargs="+", default=[8, 10], help="of each piece of its training"
    )
    parser.add_argument("--sizes", type=int, nargs="+", default=[5, 10, 25, 50])
    parser.add_argument("--draws", type=int, default=3)
    parser.add_argument("--settings", nargs="*", default=list(SETTINGS), choices=SETTINGS)
    parser.add_argument("--active", action="store_true")
    parser.add_argument("--cache", type=Path, default=Path(".cache/benchmarks"))
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--again", action="store_true", help="ignore kept results")
    arguments = parser.parse_args()
    torch.set_num_threads(arguments.threads)
    data = read_blood_cells(arguments.data)
    base = base_model(data, arguments.new, arguments.base_epochs, arguments.cache)
    world = World(data, base)
    before = predict_logits(base.cell_model(), world.test.crops, world.norm, SIZE).argmax(1).numpy()
    path = arguments.cache / f"fine-tune-{base.hash[:8]}.json"
    results = {} if arguments.again else kept_results(path)
    for setting in arguments.settings:
        for n in arguments.sizes:
            for seed in range(arguments.draws):
                key = f"{setting} {n} {seed}"
                if key not in results:
                    results[key] = one(world, setting, n, seed)
                    print(f"  {key}: {results[key]}", flush=True)
                    with replacing(path) as temporary:
                        temporary.write_text(json.dumps(results, indent=1))
    counts = np.bincount(world.user.labels, minlength=len(world.classes))[world.n_old :]
    print(
        f"\nPBC; new: {', '.join(world.classes[world.n_old :])}; the base model saw "
        f"{' + '.join(map(str, arguments.base_epochs))} epochs of the six others. "
        f"{len(world.user)} cells in the user's images, "
        f"{'/'.join(map(str, counts))} of the new kinds; {len(world.test)} test cells;\n"
        f"mean (standard deviation) of {arguments.draws} draws; "
        f"{platform.processor() or platform.machine()}, {arguments.threads} threads."
    )
    print(f"Before: {100 * world.measure(before)['old']:.1f} % on old classes, 0 on new ones.\n")
    print("| setting | n each | new, % | old, % | precision of new, % | balanced, % | s | CPU s |")
    print("|---|---|---|---|---|---|---|---|")
    for setting in arguments.settings:
        for n in arguments.sizes:
            own = [results[f"{setting} {n} {seed}"] for seed in range(arguments.draws)]
            shown = [
                spread([100 * r[k] for r in own]) for k in ("new", "old", "precision", "balanced")
            ]
            times = [f"{np.mean([r[k] for r in own]):.0f}" for k in ("seconds", "cpu")]
            print(f"| {setting} | {n} | {' | '.join([*shown, *times])} |")
    if arguments.active:
        show_active(active(world, arguments.draws, 12, 16), 2 * len(world.classes), 16)


if __name__ == "__main__":
    main()
