"""Train ``colon-biopsy``: SPAN-MIL over the tiles of a patient's colorectal biopsies.

    python scripts/train_colon_biopsy.py --work runs/ --folds      # the figures
    python scripts/train_colon_biopsy.py --work runs/              # the model

A patient's class is the worst among the tiles (EBHI-Seg; serrated adenomas are
left out). Figures are out of fold: for each of five folds of patients
(``scripts/train_tissue_mobilenet.py`` makes their encoders, encoder-FOLD.safetensors),
encoder and SPAN are trained anew without them, by the same recipe, with no choice
made on them; the temperature by which a fold's probabilities are reported comes from
the other folds' answers. The model that ships is that of fold 0, its temperature that
of all out-of-fold answers. A slide counts as unlike anything it knows by the encoder's
features of its patches: the spread is that of fold 0's training tiles, the threshold
what 97 % of all patients reach, each by the encoder of the fold that had not seen it.

Bags to learn from are drawn anew each time: some tiles of one patient, or of
several, in random places. How tiles lie beside each other in the tissue is not
known, so that nothing can be learned from it.
"""

from __future__ import annotations

import argparse
import dataclasses
import json
import math
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from safetensors.torch import load_file, save_file
from tissue_data import (
    COLON,
    COLON_CLASSES,
    EBHI_CITATION,
    EBHI_MPP,
    N_FOLDS,
    Tiles,
    area_under_curve,
    merged,
    patient_folds,
    read_ebhi,
)

from napari_sparseattn.bundle import Bundle, load_bundle, save_bundle
from napari_sparseattn.card import Card, CropSpec, Training
from napari_sparseattn.features.encoders import TISSUE_FILE, TissueMobilenet
from napari_sparseattn.files import replacing
from napari_sparseattn.images.normalise import Normalisation
from napari_sparseattn.known import FALSE_ALARMS, KnownPatches, fit_known_patches, threshold_of
from napari_sparseattn.metrics import classification_report
from napari_sparseattn.models.span import SpanMil, span_from_config
from napari_sparseattn.training.data.span_data import SlideExample
from napari_sparseattn.training.loop.classifier import fit_temperature
from napari_sparseattn.training.loop.epochs import EpochReport
from napari_sparseattn.training.loop.known import measure_known_slides
from napari_sparseattn.training.loop.slides import encoder_spec
from napari_sparseattn.training.loop.span import SpanOptions, fit_span, predict_slides

ROOT = Path(__file__).resolve().parents[1]
NAME = "colon-biopsy"
#: A tile of 224 µm is read at 192 px.
SIDE, FIELD = 192, 224 * EBHI_MPP
CROP = CropSpec(size=SIDE, field_of_view_um=FIELD)
#: Versions of each training tile with other stains, beside the tile itself.
VERSIONS = 1
NOISE = 0.3
OPTIONS = SpanOptions(epochs=8, patience=8, learning_rate=3e-4, weight_decay=1e-2)
STATISTIC = (
    "geometric mean over the patches of the distance of the encoder's features to the nearest "
    "class mean (Mahalanobis, shared covariance)"
)
#: Said beside each answer.
LIMITS = (
    "It knows biopsies of colon and rectum alone: tissue of other organs gets one of these "
    "classes too, and is not always flagged."
)
USE = (
    "It must not be used for a diagnosis, nor on other organs, frozen sections or other stains: "
    "it knows 224 µm tiles from one hospital's biopsies, which were chosen to show one thing each. "
    "Other organs are called one of its classes all the same, and are not all flagged."
)


def reduced(pixels: torch.Tensor) -> np.ndarray:
    """Tiles (B, 3, 224, 224) in [0, 1] as patches (B, 192, 192, 3) of bytes."""
    small = torch.nn.functional.interpolate(
        pixels, (SIDE, SIDE), mode="bilinear", antialias=True, align_corners=False
    )
    return (small * 255).round().clamp(0, 255).byte().permute(0, 2, 3, 1).numpy()


def features_of(tiles: Tiles, fold: int, work: Path) -> torch.Tensor:
    """(1 + versions, N, F) by the encoder of a fold; kept, as they take a minute or two."""
    encoder = encoder_of(fold, work)
    kept = work / f"colon-features-{fold}-{encoder.hash[:12]}.safetensors"
    if kept.exists():
        return load_file(kept)["features"]
    changes = dataclasses.replace(COLON, scale=(0.9, 1.15), shift=0.1)
    pixels, versions = torch.from_numpy(tiles.pixels).permute(0, 3, 1, 2), []
    for version in range(1 + VERSIONS):
        rows = []
        for start in range(0, len(pixels), 32):
            part = pixels[start : start + 32]
            generator = torch.Generator().manual_seed(10_000 * version + start)
            images = changes(part, 224, generator)[0] if version else part.float() / 255
            rows.append(encoder(reduced(images)))
        versions.append(np.concatenate(rows))
    made = torch.from_numpy(np.stack(versions))
    with replacing(kept) as temporary:
        save_file({"features": made}, temporary)
    return made


def encoder_of(fold: int, work: Path) -> TissueMobilenet:
    file = work / f"encoder-{fold}.safetensors"
    return TissueMobilenet("cpu", file if file.exists() else TISSUE_FILE)


def span_of(fold: int, work: Path) -> Path:
    """Where the weights of a fold are kept; other encoders have others."""
    return work / f"colon-span-{fold}-{encoder_of(fold, work).hash[:12]}.safetensors"


def laid_out(n: int, random: np.random.Generator | None) -> np.ndarray:
    """(n, 2) places of tiles in a block, in any order and with holes if random."""
    side = math.ceil(math.sqrt(n * (random.uniform(1, 1.8) if random else 1)))
    places = np.arange(side * side)
    places = random.permutation(places)[:n] if random else places[:n]
    return np.stack([places % side, places // side], 1)


@dataclasses.dataclass
class Bags(Sequence[SlideExample]):
    """Random bags of training tiles; never the same twice.

    Parameters
    ----------
    features : Tensor
        (V, N, F) of the tiles.
    kinds : numpy.ndarray
        (N,) merged classes, none left out.
    groups : numpy.ndarray
        (N,) patients.
    count : int
        Bags per epoch.
    seed : int
        Of everything.
    """

    features: torch.Tensor
    kinds: np.ndarray
    groups: np.ndarray
    count: int = 250
    seed: int = 0

    def __post_init__(self) -> None:
        self.random = np.random.default_rng(self.seed)
        names = np.unique(self.groups)
        self.rows = {name: np.flatnonzero(self.groups == name) for name in names}
        self.by_class = [
            [name for name in names if (self.kinds[self.rows[name]] == kind).any()]
            for kind in range(len(COLON_CLASSES))
        ]

    def __len__(self) -> int:
        return self.count

    def __getitem__(self, index: Any) -> SlideExample:
        if not 0 <= index < self.count:  # or whoever goes through them never ends
            raise IndexError(index)
        rows = self._drawn()
        version = self.random.integers(len(self.features), size=len(rows))
        found = self.features[version, rows].numpy()
        found = found + NOISE * self.random.standard_normal(found.shape).astype(np.float32)
        label = int(self.kinds[rows].max())
        return SlideExample(found, laid_out(len(rows), self.random), label=label, name="drawn")

    def _drawn(self) -> np.ndarray:
        random = self.random
        worst = int(random.integers(len(COLON_CLASSES)))
        most = round(math.exp(random.uniform(0, math.log(48))))
        if random.random() < 0.5:  # one patient, of any mixture that leaves the class
            own = self.rows[self._one(worst)]
            own = own[self.kinds[own] <= worst]
            must = random.choice(own[self.kinds[own] == worst], 1)
            return np.unique(np.concatenate([must, random.permutation(own)[: most - 1]]))
        taken = []
        share = random.uniform(0.1, 1) if worst else 1.0
        for kind in range(worst + 1):
            n = max(1, round(most * (share if kind == worst else (1 - share) / worst)))
            if kind != worst and (share == 1 or random.random() < 0.3):
                continue
            names = [self._one(kind) for _ in range(random.integers(1, 4))]
            own = np.concatenate([self.rows[name] for name in names])
            taken.append(random.permutation(np.unique(own[self.kinds[own] == kind]))[:n])
        return np.concatenate(taken)

    def _one(self, kind: int) -> str:
        names = self.by_class[kind]
        return names[int(self.random.integers(len(names)))]


def fitted(
    features: torch.Tensor, kinds: np.ndarray, groups: np.ndarray, kept: Path
) -> tuple[SpanMil, list[EpochReport]]:
    torch.manual_seed(0)
    model = span_from_config({"task": "mil", "features": features.shape[2], "n_classes": 3})
    train, own = Bags(features, kinds, groups), Bags(features, kinds, groups, 40, seed=1)
    # Their loss falls to the end: the last weights are kept, and nothing is chosen.
    history, noted = [], kept.with_suffix(".json")
    if kept.exists():
        model.load_state_dict(load_file(kept))
        return model.eval(), [EpochReport(**each) for each in json.loads(noted.read_text())]
    for epoch in fit_span(model, train, list(own), OPTIONS):
        history.append(epoch)
        print(epoch, flush=True)
    noted.write_text(json.dumps([dataclasses.asdict(each) for each in history]))
    with replacing(kept) as temporary:
        save_file({name: each.contiguous() for name, each in model.state_dict().items()}, temporary)
    return model.eval(), history


def bags_of(
    features: torch.Tensor, kinds: np.ndarray, groups: np.ndarray, *, pure: bool = False
) -> list[SlideExample]:
    """One bag of all tiles per patient; per patient and class if pure."""
    made = []
    for name in np.unique(groups):
        own = np.flatnonzero(groups == name)
        parts = [own[kinds[own] == kind] for kind in np.unique(kinds[own])] if pure else [own]
        made += [
            SlideExample(
                features[0, rows].numpy(), laid_out(len(rows), None), int(kinds[rows].max()),
                group=name, name=name,
            )
            for rows in parts
        ]  # fmt: skip
    return made


def resampled(
    features: torch.Tensor, kinds: np.ndarray, groups: np.ndarray, each: int
) -> list[SlideExample]:
    """Some bags of every patient, so that the spread of few patients can be told."""
    random, made = np.random.default_rng(5), []
    for name in np.unique(groups):
        own = np.flatnonzero(groups == name)
        for _ in range(each):
            rows = random.permutation(own)[: random.integers(1, len(own) + 1)]
            made.append(
                SlideExample(
                    features[0, rows].numpy(), laid_out(len(rows), random),
                    int(kinds[rows].max()), group=name, name=name,
                )
            )  # fmt: skip
    return made


def out_of_fold(tiles: Tiles, arguments: argparse.Namespace) -> None:
    kinds, folds = merged(tiles.labels), patient_folds(tiles)
    for fold in range(N_FOLDS):
        kept = arguments.work / f"colon-answers-{fold}.npz"
        if kept.exists() or not (arguments.work / f"encoder-{fold}.safetensors").exists():
            continue
        features = features_of(tiles, fold, arguments.work)
        own, held = (folds != fold) & (kinds >= 0), (folds == fold) & (kinds >= 0)
        model, _ = fitted(
            features[:, own], kinds[own], tiles.groups[own], span_of(fold, arguments.work)
        )
        mine = (features[:, held], kinds[held], tiles.groups[held])
        answers = {}
        for what, bags in (("patient", bags_of(*mine)), ("pure", bags_of(*mine, pure=True))):
            answers[what] = torch.cat(predict_slides(model, bags)).numpy()
            answers[f"{what}_labels"] = np.array([bag.label for bag in bags])
            answers[f"{what}_names"] = np.array([bag.name for bag in bags])
        single = [
            SlideExample(row[None], np.zeros((1, 2), int), int(kind))
            for row, kind in zip(mine[0][0].numpy(), mine[1], strict=True)
        ]
        answers["tile"] = torch.cat(predict_slides(model, single)).numpy()
        answers["tile_labels"] = mine[1]
        answers["tile_names"] = mine[2]
        answers["head"] = mine[0][0].numpy()
        with replacing(kept) as temporary, temporary.open("wb") as opened:
            np.savez(opened, **answers)
        told(answers, f"fold {fold}")


def told(answers: dict[str, np.ndarray], name: str) -> None:
    for what in ("patient", "pure", "tile"):
        logits, labels = torch.from_numpy(answers[what]), answers[f"{what}_labels"]
        odds = logits.softmax(1).numpy()
        print(
            f"{name}, {what}: right {np.mean(odds.argmax(1) == labels):.4f} of {len(labels)}, "
            f"AUC of adenocarcinoma {area_under_curve(odds[:, 2], labels == 2):.4f}",
            flush=True,
        )


def gathered(work: Path) -> dict[str, np.ndarray]:
    """The answers of all folds together, and which fold each patient was of."""
    files = [work / f"colon-answers-{fold}.npz" for fold in range(N_FOLDS)]
    if lacking := [file.name for file in files if not file.exists()]:
        raise SystemExit(f"{', '.join(lacking)} are not there: run this with --folds first.")
    found = [np.load(file) for file in files]
    together = {name: np.concatenate([each[name] for each in found]) for name in found[0].files}
    sizes = [len(each["patient"]) for each in found]
    return together | {"fold": np.repeat(np.arange(N_FOLDS), sizes)}


def calibrated(answers: dict[str, np.ndarray]) -> tuple[np.ndarray, float]:
    """Probabilities of the patients, each by the other folds' temperature; and that of all."""
    logits, labels = (torch.from_numpy(answers[name]) for name in ("patient", "patient_labels"))
    odds = np.zeros(logits.shape)
    for fold in range(N_FOLDS):
        own = torch.from_numpy(answers["fold"] == fold)
        temperature = fit_temperature(logits[~own], labels[~own])
        odds[own.numpy()] = (logits[own] / temperature).softmax(1).numpy()
        print(f"temperature without fold {fold}: {temperature:.3f}")
    return odds, fit_temperature(logits, labels)


@dataclasses.dataclass(frozen=True)
class HeldPatches:
    """Of one fold: what patches are usual, and how unlike them its own patients are."""

    known: KnownPatches
    names: np.ndarray
    lengths: np.ndarray

    def flagged(self, others: Sequence[HeldPatches]) -> np.ndarray:
        """Whether each patient is beyond what the other folds' patients reach."""
        rest = np.concatenate([each.lengths for each in others if each is not self])
        found: np.ndarray = self.lengths > threshold_of(rest)
        return found


def patches_of(tiles: Tiles, fold: int, work: Path) -> HeldPatches:
    """Measure the encoder's features of a fold; training tiles with changed stains as well."""
    kinds, folds = merged(tiles.labels), patient_folds(tiles)
    features = features_of(tiles, fold, work).numpy()
    own, held = (folds != fold) & (kinds >= 0), (folds == fold) & (kinds >= 0)
    names = np.unique(tiles.groups[held])
    bags = [features[0, held & (tiles.groups == name)] for name in names]
    usual = features[:, own].reshape(-1, features.shape[2])
    known = fit_known_patches(usual, np.tile(kinds[own], len(features)), bags)
    lengths = np.array([known.slide_novelty(bag) for bag in bags], np.float32) * known.threshold
    return HeldPatches(known, names, lengths)


def known_patches(tiles: Tiles, work: Path) -> tuple[KnownPatches, float]:
    """What the model that ships knows; and the share of patients that other folds would flag."""
    found = [patches_of(tiles, fold, work) for fold in range(N_FOLDS)]
    threshold = threshold_of(np.concatenate([each.lengths for each in found]))
    alarms = np.concatenate([each.flagged(found) for each in found])
    return dataclasses.replace(found[0].known, threshold=threshold), float(alarms.mean())


SPLIT = (
    "by patient, whose class is the worst of the tiles: the figures are of all patients, out of "
    "five folds, encoder and model trained anew in each, probabilities by the temperature of the "
    "other folds. These weights did not see the patients of fold 0; what counts as novel was set "
    "on all patients, each by the encoder of the fold that had not seen it"
)


def ship(tiles: Tiles, arguments: argparse.Namespace) -> None:
    answers = gathered(arguments.work)
    told(answers, "out of fold")
    labels = answers["patient_labels"]
    odds, temperature = calibrated(answers)
    metrics = classification_report(odds, labels, COLON_CLASSES).to_dict()
    metrics["auc_adenocarcinoma"] = area_under_curve(odds[:, 2], labels == 2)
    pure, truth = answers["pure"], answers["pure_labels"]
    metrics["by_patient_and_class"] = {
        "n": len(truth), "accuracy": float(np.mean(pure.argmax(1) == truth)),
    }  # fmt: skip
    single, actual = answers["tile"], answers["tile_labels"]
    one_by_one = {
        "n": len(actual), "accuracy": float(np.mean(single.argmax(1) == actual)),
        "auc_adenocarcinoma": area_under_curve(
            torch.from_numpy(single).softmax(1)[:, 2].numpy(), actual == 2
        ),
    }  # fmt: skip
    kinds, folds = merged(tiles.labels), patient_folds(tiles)
    features = features_of(tiles, 0, arguments.work)
    own, held = (folds != 0) & (kinds >= 0), (folds == 0) & (kinds >= 0)
    model, history = fitted(
        features[:, own], kinds[own], tiles.groups[own], span_of(0, arguments.work)
    )
    # States of whole bags are for fine-tuning; the verdict is by patches.
    names = np.unique(tiles.groups[held])
    first = held & np.isin(tiles.groups, names[::2])
    parts = {
        part: resampled(features[:, rows], kinds[rows], tiles.groups[rows], each)
        for part, rows, each in (
            ("train", own, 4), ("validation", first, 8), ("test", held & ~first, 8),
        )
    }  # fmt: skip
    known, novelty = measure_known_slides(model, *parts.values())
    patches, flagged = known_patches(tiles, arguments.work)
    assert known is not None
    assert novelty is not None
    known = dataclasses.replace(known, patches=patches)
    novelty = novelty.model_copy(
        update={
            "statistic": STATISTIC, "false_alarms": FALSE_ALARMS, "flagged_test": flagged,
            "n": int(own.sum()), "n_validation": len(labels),
        }
    )  # fmt: skip
    encoder = encoder_of(0, arguments.work)
    n_patients = len(np.unique(tiles.groups[own]))
    card = Card(
        kind="span-mil",
        name=NAME,
        description=(
            "H&E biopsies of the colon and rectum: normal or polyp, low or high grade neoplasia, "
            f"or adenocarcinoma, the worst that a patient's tissue shows. {USE}"
        ),
        limits=LIMITS,
        class_names=COLON_CLASSES,
        channels=("red", "green", "blue"),
        modality="brightfield",
        crop=CROP,
        encoder=encoder_spec(encoder),
        normalisation=Normalisation("fixed", 0.0, 1.0),
        architecture=dataclasses.asdict(model.config),
        temperature=temperature,
        training=Training(
            data=(
                f"EBHI-Seg, {int(own.sum())} tiles of {n_patients} patients, 224 px at about 1 µm "
                "per pixel, without serrated adenomas; laid out in random places by us"
            ),
            citation=EBHI_CITATION,
            licence="CC BY 4.0",
            split=SPLIT,
            recipe="scripts/train_colon_biopsy.py",
            n_train=n_patients,
            n_validation=len(names),
            n_test=len(labels),
            epochs=len(history),
        ),
        metrics=metrics | {"unit": "patients", "tiles": one_by_one},
        novelty=novelty,
    )
    path = arguments.out / f"{NAME}.safetensors"
    save_bundle(Bundle(card, model.state_dict(), known=known), path)
    bundle = load_bundle(path)
    print(bundle.card.summary())
    print(json.dumps({k: v for k, v in metrics.items() if k != "calibration"}, default=str)[:1500])
    print(path, path.stat().st_size)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--work", type=Path, required=True, help="with the folds' encoders")
    parser.add_argument("--folds", action="store_true", help="measure, out of fold")
    parser.add_argument("--out", type=Path, default=ROOT / "src/napari_sparseattn/weights")
    parser.add_argument("--threads", type=int, default=1)
    arguments = parser.parse_args()
    torch.set_num_threads(arguments.threads)
    tiles = read_ebhi()
    out_of_fold(tiles, arguments) if arguments.folds else ship(tiles, arguments)


if __name__ == "__main__":
    main()
