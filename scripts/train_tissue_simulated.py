"""Train ``tissue-simulated`` and ``tissue-simulated-regions``: SPAN on SIMULATED tissue slides.

    python scripts/train_tissue_simulated.py --features features/

made the models that ship, on one CPU core: SPAN-MIL tells slides with tumour
from benign ones by the slides' classes alone, SPAN-UNet finds the patches that
are tumour. Both learn from the same slides, drawn by
``images.simulate.simulated_slide`` and told apart into training, validation and
test by their seeds. Features are made as "Classify slide" makes them: tissue is
found, patches are laid over it, the embedded encoder describes each. They are
kept in the folder, so that a run that was stopped goes on.
"""

from __future__ import annotations

import argparse
import dataclasses
import json
import time
from pathlib import Path

import numpy as np
import torch

from napari_sparseattn.bundle import load_bundle, save_bundle
from napari_sparseattn.card import CropSpec
from napari_sparseattn.features.encoders import load_encoder
from napari_sparseattn.features.extract import FeatureSet
from napari_sparseattn.images.slides.pyramid import VirtualPyramid
from napari_sparseattn.simulate import TissueTruth, simulated_slide
from napari_sparseattn.training.data.span_data import SlideExample
from napari_sparseattn.training.loop.slides import (
    SlideReport,
    SlideTraining,
    encoder_spec,
    slide_features,
    train_slides,
)
from napari_sparseattn.training.loop.span import SpanOptions

ROOT = Path(__file__).resolve().parents[1]
KINDS = ("benign", "tumour")
MPP = 0.5
#: Heights and widths of the slides, in pixels.
SIDES = (4096, 5120, 6144, 7168)
#: First seed of each part; none is used by the TNet's script.
PARTS = {"train": 5_000_000, "validation": 6_000_000, "test": 7_000_000}
DATA = (
    "simulated stained tissue slides of 4,096 to 7,168 pixels a side at 0.5 µm per pixel; nothing "
    "in them is measured"
)
NOTE = "To try the program with; it knows nothing of real tissue."


def drawn(part: str, number: int, tile: int) -> tuple[VirtualPyramid, TissueTruth, str]:
    """One slide, its truth, and its name; tiles fit the patches, so that each is drawn once."""
    seed = PARTS[part] + number
    rng = np.random.default_rng([seed, 5])
    height, width = (int(side) for side in rng.choice(SIDES, 2))
    # Both kinds in turn: small parts are balanced too.
    slide, truth = simulated_slide(height, width, kind=KINDS[number % 2], seed=seed, pixel_size=MPP)
    return (
        VirtualPyramid(slide._render, height, width, pixel_size=MPP, name=slide.name, tile=tile),
        truth,
        f"{part}-{seed}",
    )


def patch_labels(features: FeatureSet, truth: TissueTruth) -> np.ndarray:
    """1 where at least half of a patch is tumour, from 8 x 8 places in it."""
    cells = np.asarray(features.cells)
    inside = (np.arange(8) + 0.5) * features.side / 8
    y = cells[:, 1] * features.step + features.origin[0]
    x = cells[:, 0] * features.step + features.origin[1]
    rows = y[:, None, None] + inside[:, None]
    shares = truth.is_tumour(rows, x[:, None, None] + inside).mean((1, 2))
    return (shares >= 0.5).astype(np.int8)


def examples(part: str, count: int, arguments: argparse.Namespace) -> list[SlideExample]:
    encoder = load_encoder("stain-texture", "cpu")
    crop = CropSpec(size=encoder.size, field_of_view_um=encoder.size * encoder.pixel_size)
    tile = round(encoder.size * encoder.pixel_size / MPP)
    made, began = [], time.perf_counter()
    for number in range(count):
        slide, truth, name = drawn(part, number, tile)
        path = arguments.features / f"{name}.h5"
        with slide_features(slide, encoder, crop, path, device="cpu") as features:
            labels = patch_labels(features, truth)
            made.append(
                SlideExample(
                    features=np.asarray(features.features[:], np.float32),
                    cells=np.asarray(features.cells, np.int64),
                    label=KINDS.index(truth.kind),
                    patch_labels=labels,
                    group=name,
                    name=name,
                )
            )
        if number % 5 == 4 or number == count - 1:
            print(
                f"{part}: {number + 1} slides, {sum(len(each.cells) for each in made)} patches, "
                f"{time.perf_counter() - began:.0f} s",
                flush=True,
            )
    return made


def settings(kind: str, arguments: argparse.Namespace) -> SlideTraining:
    encoder = load_encoder("stain-texture", "cpu")
    crop = CropSpec(size=encoder.size, field_of_view_um=encoder.size * encoder.pixel_size)
    segments = kind == "span-unet"
    options = (
        SpanOptions.for_patches(epochs=arguments.epochs, patience=8, learning_rate=arguments.rate)
        if segments
        else SpanOptions(epochs=arguments.epochs, patience=8, learning_rate=arguments.rate)
    )
    return SlideTraining(
        name="tissue-simulated-regions" if segments else "tissue-simulated",
        class_names=("other tissue", "tumour") if segments else KINDS,
        encoder=encoder_spec(encoder),
        crop=crop,
        kind="span-unet" if segments else "span-mil",
        options=options,
        # A quarter of the authors' widths, for a file of 1.5 MB.
        architecture={"width": 64, "channel_factor": 1} if segments else {},
        description=(
            f"SIMULATED tissue slides: which patches are tumour. {NOTE}"
            if segments
            else f"SIMULATED tissue slides, benign or with tumour. {NOTE}"
        ),
        data=DATA,
        licence="BSD-3-Clause",
        recipe="scripts/train_tissue_simulated.py",
        split="by the slides' seeds",
        simulated=True,
    )


def area_under_curve(scores: np.ndarray, labels: np.ndarray) -> float:
    """Chance that a tumour patch has a higher score than another; Mann and Whitney's U."""
    from scipy.stats import rankdata

    positive = labels == 1
    ranks = rankdata(scores)[positive].sum()
    n = int(positive.sum())
    return float((ranks - n * (n + 1) / 2) / (n * (len(labels) - n)))


@torch.inference_mode()
def patch_auc(model: torch.nn.Module, part: list[SlideExample]) -> float:
    scores = [
        model(torch.from_numpy(each.features), torch.from_numpy(each.cells)).logits[:, 0].numpy()
        for each in part
    ]
    return area_under_curve(
        np.concatenate(scores), np.concatenate([each.patch_labels for each in part])
    )


def told(report: SlideReport) -> str:
    test = report.test.to_dict()
    return json.dumps(
        {
            key: test[key]
            for key in ("accuracy", "accuracy_interval", "macro_f1", "n")
            if key in test
        }
        | {"dice": report.dice, "slides": dict(report.n_slides), "epochs": len(report.history)}
    )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--features", type=Path, required=True, help="folder to keep them in")
    parser.add_argument("--train", type=int, default=44, help="slides")
    parser.add_argument("--validation", type=int, default=10)
    parser.add_argument("--test", type=int, default=40)
    parser.add_argument("--epochs", type=int, default=24)
    parser.add_argument("--rate", type=float, default=3e-4)
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--kinds", nargs="*", default=["span-mil", "span-unet"])
    parser.add_argument("--only-features", action="store_true")
    parser.add_argument("--out", type=Path, default=ROOT / "src/napari_sparseattn/weights")
    arguments = parser.parse_args()
    torch.set_num_threads(arguments.threads)
    arguments.features.mkdir(parents=True, exist_ok=True)
    parts = {part: examples(part, getattr(arguments, part), arguments) for part in PARTS}
    if arguments.only_features:
        return
    for kind in arguments.kinds:
        chosen = settings(kind, arguments)
        bundle, report = train_slides(
            [each for part in parts.values() for each in part],
            chosen,
            lambda epoch: print(epoch, flush=True),
            parts=parts,
        )
        if chosen.segments:
            metrics = bundle.card.metrics | {"auc": patch_auc(bundle.model(), parts["test"])}
            card = bundle.card.model_copy(update={"metrics": metrics})
            bundle = dataclasses.replace(bundle, card=card)
            print("auc", metrics["auc"])
        path = arguments.out / f"{chosen.name}.safetensors"
        save_bundle(bundle, path)
        load_bundle(path)
        print(told(report), path, path.stat().st_size, flush=True)


if __name__ == "__main__":
    main()
