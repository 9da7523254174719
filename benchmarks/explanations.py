"""Which explanation of a slide model can be believed? Patches are flipped in its order.

    .venv/bin/python benchmarks/explanations.py tissue-simulated --slides 20
    .venv/bin/python benchmarks/explanations.py colon-biopsy --biopsies
    .venv/bin/python benchmarks/explanations.py MODEL FOLDER --pixel-size 1.0 --write OUT
    .venv/bin/python benchmarks/explanations.py lymph-node --canvases runs/
    .venv/bin/python benchmarks/explanations.py MODEL --speed 500

Of each slide, or bag of a patient's tiles (FOLDER/class/patient/tile), patches are
removed in the order of attention, single-patch perturbation, gradient times input and
integrated gradients, most relevant first and least relevant first, and the model runs
anew each time. Printed are the mean symmetric gain of each with 95 % intervals over
slides (by patient where there are any), and the differences from attention. Beside
them stand random orders, patches by their haematoxylin, and nearest to the middle.
Which is best is chosen on every second slide, and the figures are of the others. With
--write the model is saved with the best of them on its card. With --biopsies the bags
are of the patients of EBHI-Seg whom ``colon-biopsy`` has not seen, of five tiles or
more.

Of a model that segments, the mean log-odds of the patches that it calls tumour is
explained, or of all where it calls none so; removed patches are replaced, and the
probability of each patch stands beside the explanations. --canvases draws the held-out
ones of scripts/train_lymph_node.py, whose folder of features it takes. With --speed the
runs without one patch are timed, whole and where only what changed is computed anew.
"""

from __future__ import annotations

import argparse
import dataclasses
import json
import sys
import time
from pathlib import Path
from typing import NamedTuple

import numpy as np
import torch

ROOT = Path(__file__).resolve().parents[1]
sys.path[:0] = [str(ROOT / "scripts")]

from tissue_data import merged, patient_folds, read_ebhi, read_pcam
from train_colon_biopsy import laid_out, reduced
from train_lymph_node import drawn, encoded

from napari_sparseattn.bundle import Bundle, load_bundle, save_bundle
from napari_sparseattn.card import EXPLANATIONS, ExplanationSpec
from napari_sparseattn.features.bags import encode_patches, lay_tiles
from napari_sparseattn.features.encoders import load_encoder
from napari_sparseattn.images.class_folders import list_labelled_images
from napari_sparseattn.images.slides.pyramid import read_window
from napari_sparseattn.inference.measuring import FaithfulnessSettings, measure
from napari_sparseattn.inference.slide_attention import to_pyramid_attention
from napari_sparseattn.inference.slide_reruns import SlideRerun
from napari_sparseattn.metrics import group_intervals
from napari_sparseattn.models.span import SpanMil, run_replaced, run_span
from napari_sparseattn.simulate import simulated_slide
from napari_sparseattn.training.loop.slides import slide_features

SETTINGS = FaithfulnessSettings(
    shares=(0.02, 0.05, 0.1, 0.2, 0.35), fills=("drop", "ordinary", "mean"), draws=2,
    scattered=0, trials=0, extras=False,
)  # fmt: skip
#: Red, green and blue optical density of haematoxylin, eosin and what is left, as is usual
#: (Ruifrok and Johnston 2001).
STAINS = np.array([[0.65, 0.70, 0.29], [0.07, 0.99, 0.11], [0.27, 0.57, 0.78]])
#: Orders that know nothing of the model.
BESIDE = ("random", "haematoxylin", "centre")


class Bag(NamedTuple):
    """A slide: its features (N, F), cells (N, 2), and haematoxylin (N,) where it is known."""

    name: str
    features: np.ndarray
    cells: np.ndarray
    dark: np.ndarray | None = None


class BesideRerun(SlideRerun):
    """With the patches' haematoxylin as another order."""

    dark: np.ndarray | None = None

    def baselines(self) -> dict[str, np.ndarray]:
        """See `SlideRerun`; how a patch differs from its neighbours is left out."""
        centre = {"centre": super().baselines()["centre"]}
        return centre if self.dark is None else {"haematoxylin": self.dark, **centre}


def haematoxylin(patches: np.ndarray) -> np.ndarray:
    """Mean density (N,) of patches (N, S, S, 3) of bytes."""
    density = -np.log((patches.astype(np.float32) + 1) / 256)
    found: np.ndarray = (density @ np.linalg.inv(STAINS))[..., 0].mean((1, 2))
    return found.astype(np.float32)


def biopsies(bundle: Bundle, most: int) -> list[Bag]:
    """Patients of the fold that neither encoder nor model has seen, by all their tiles."""
    assert bundle.card.encoder is not None
    encoder = load_encoder(bundle.card.encoder.name, "cpu")
    tiles = read_ebhi()
    held = (patient_folds(tiles) == 0) & (merged(tiles.labels) >= 0)
    found = []
    for name in np.unique(tiles.groups[held]):
        own = tiles.take(np.flatnonzero(held & (tiles.groups == name)))
        if len(own.labels) >= 5 and len(found) < most:
            patches = reduced(torch.from_numpy(own.pixels).permute(0, 3, 1, 2).float() / 255)
            cells = laid_out(len(patches), None)
            found.append(Bag(name, encode_patches(patches, encoder), cells, haematoxylin(patches)))
    return found


def simulated_bags(bundle: Bundle, n: int, side: int) -> list[Bag]:
    """Slides as the simulated models know them, of seeds that no training used."""
    encoder = load_encoder(bundle.card.encoder.name, "cpu")
    found = []
    for seed in range(900_000, 900_000 + n):
        kind = ("benign", "tumour")[seed % 2]
        slide, _ = simulated_slide(side, side, kind=kind, seed=seed)
        made = slide_features(slide, encoder, bundle.card.crop, device="cpu")
        dark = haematoxylin(
            np.stack([
                np.rint(255 * read_window(slide, y, x, made.side, made.side, 64, 64)[0])
                for y, x in made.corners
            ])
        )  # fmt: skip
        found.append(Bag(f"slide {seed}", made.read(), np.asarray(made.cells), dark))
    return found


def folder_bags(bundle: Bundle, folder: Path, pixel_size: float | None, most: int) -> list[Bag]:
    """The tiles of each class and patient as one bag; those of one patch have no order."""
    card = bundle.card
    encoder = load_encoder(card.encoder.name, "cpu")
    side = None if pixel_size is None else card.crop.field_of_view_um / pixel_size
    groups: dict[tuple[str, str], list[Path]] = {}
    for each in list_labelled_images(folder):
        groups.setdefault((each.label, each.group or str(each.path)), []).append(each.path)
    found = []
    for (_, group), paths in sorted(groups.items(), key=lambda item: item[0][::-1]):
        bag = lay_tiles(paths, card.crop.size, side)
        if len(bag.cells) >= 8:
            features = encode_patches(bag.patches, encoder)
            found.append(Bag(group, features, bag.cells, haematoxylin(bag.patches)))
        if len(found) == most:
            break
    return found


def canvas_bags(work: Path, n: int) -> list[Bag]:
    """Canvases of held-out lymph-node patches, as the script that trained on others draws them."""
    encoder = load_encoder(device="cpu")
    kept = work / f"valid-{encoder.hash[:12]}.safetensors"
    valid = encoded(read_pcam("valid"), encoder, 0, kept)
    halves = np.array_split(np.random.default_rng(3).permutation(len(valid.labels)), 2)
    slides = drawn(valid.take(halves[1]), n, 8)
    return [
        Bag(f"canvas {i}", np.asarray(each.features), np.asarray(each.cells))
        for i, each in enumerate(slides)
    ]


def gains_of(bundle: Bundle, bag: Bag) -> dict[str, float]:
    """Return the symmetric gain of each explanation, and of random orders, on one bag."""
    features, cells = bag.features, bag.cells
    model = bundle.slide_model()
    places = torch.from_numpy(np.ascontiguousarray(cells, np.int64))
    output = run_span(model, torch.from_numpy(features), places, streamed=False)
    names, odds = bundle.card.shown_names, None
    if bundle.card.segments:
        odds = output.logits[:, 0].sigmoid().numpy()
    region = odds >= 0.5 if odds is not None and (odds >= 0.5).any() else None
    seen = to_pyramid_attention(
        output, cells, origin=(0.0, 0.0), step=1.0, side=1.0, class_names=names,
        patch_probabilities=odds,
    )  # fmt: skip
    rerun = BesideRerun(
        features, cells, seen, model, bundle.card.temperature, methods=EXPLANATIONS, region=region
    )
    rerun.dark = bag.dark
    found = measure(rerun, names, dataclasses.replace(SETTINGS, fills=rerun.fills)).orders
    wanted = (*EXPLANATIONS, "probability", "all levels", *BESIDE)
    return {name: found[name].gain for name in wanted if name in found}


def bags_of(bundle: Bundle, options: argparse.Namespace) -> tuple[str, list[Bag]]:
    """What the model is tried on, in words and as features."""
    if options.biopsies:
        where = "EBHI-Seg, bags of five tiles or more of the patients of fold 0"
        return where, biopsies(bundle, options.slides)
    if options.canvases is not None:
        found = canvas_bags(options.canvases, options.slides)
        return "held-out canvases of lymph-node patches", found
    if options.folder is None:
        return "simulated slides", simulated_bags(bundle, options.slides, options.side)
    folder = options.folder
    return folder.name, folder_bags(bundle, folder, options.pixel_size, options.slides)


def time_perturbation(model: SpanMil, patches: int, runs: int = 24) -> dict[str, float]:
    """Seconds of a core for a run without one patch, on a square of random features."""
    side = round(patches**0.5)
    line = torch.arange(side)
    cells = torch.cartesian_prod(line, line)
    features = torch.randn(side * side, model.config.features)
    mean = features.mean(dim=0)
    groups = torch.randperm(side * side)[:runs].split(1)
    began = time.process_time()
    quick = run_replaced(model, features, cells, groups, mean)
    between = time.process_time()
    with torch.no_grad():
        whole = []
        for rows in groups:
            changed = features.clone()
            changed[rows] = mean
            whole.append(model(changed, cells).logits)
    ended = time.process_time()
    return {
        "patches": side * side,
        "whole_ms": 1000 * (ended - between) / runs,
        "changed_ms": 1000 * (between - began) / runs,
        "times_faster": (ended - between) / (between - began),
        "largest_difference": float((torch.cat(whole) - quick).abs().max()),
    }


def main() -> None:
    """Measure, print, and write the best on the card if that is wanted."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("model")
    parser.add_argument("folder", type=Path, nargs="?")
    parser.add_argument("--biopsies", action="store_true", help="of EBHI-Seg's fold 0")
    parser.add_argument("--canvases", type=Path, metavar="FOLDER")
    parser.add_argument("--slides", type=int, default=40, help="or bags, at most")
    parser.add_argument("--side", type=int, default=4096, help="pixels of a simulated slide")
    parser.add_argument("--pixel-size", type=float)
    parser.add_argument("--write", type=Path)
    parser.add_argument("--speed", type=int, nargs="+", metavar="PATCHES")
    options = parser.parse_args()
    torch.set_num_threads(1)
    bundle = load_bundle(options.model)
    if options.speed:
        model = bundle.slide_model()
        for patches in options.speed:
            print(json.dumps(time_perturbation(model, patches)), flush=True)
        return
    where, bags = bags_of(bundle, options)
    rows = []
    for bag in bags:
        rows.append(gains_of(bundle, bag))
        print(json.dumps({"slide": bag.name, "patches": len(bag.cells), **rows[-1]}), flush=True)
    table = {name: np.array([row[name] for row in rows]) for name in rows[0]}
    spec = reported(bags, table, where)
    if options.write is not None:
        card = bundle.card.model_copy(update={"explanation": spec})
        save_bundle(Bundle(card, bundle.state, known=bundle.known), options.write)


def reported(bags: list[Bag], table: dict[str, np.ndarray], where: str) -> ExplanationSpec:
    """Choose on every second slide, print the gains on the others, and return both."""
    groups = np.array([bag.name for bag in bags])
    choosing = np.isin(groups, np.unique(groups)[::2])
    best = max(EXPLANATIONS, key=lambda name: float(table[name][choosing].mean()))
    chosen = {name: round(float(each[choosing].mean()), 3) for name, each in table.items()}
    print(f"best on {choosing.sum()} of {len(bags)} slides: {best}; mean gains {chosen}")
    told = {name: each[~choosing] for name, each in table.items()}

    def mean(counts: np.ndarray) -> dict[str, float | None]:
        total = counts.sum()
        means = {name: float((counts * each).sum() / total) for name, each in told.items()}
        less = {f"{best} less {name}": means[best] - means[name] for name in means}
        return {**means, **less}

    n = int((~choosing).sum())
    spans, means = group_intervals(groups[~choosing].tolist(), mean), mean(np.ones(n, np.int64))
    sizes = np.array([len(bag.cells) for bag in bags])[~choosing]
    print(f"\nthe {n} others, of {sizes.mean():.0f} patches")
    print(f"| order | gain | {best}'s less it |\n| --- | --- | --- |")
    for name in told:
        (low, high), apart = spans[name], f"{best} less {name}"
        less = f"{means[apart]:+.3f} [{spans[apart][0]:+.3f}, {spans[apart][1]:+.3f}]"
        print(f"| {name} | {means[name]:+.3f} [{low:+.3f}, {high:+.3f}] | {less} |")
    names = (name for name in (*EXPLANATIONS, *BESIDE) if name in told)
    gains = {name: (means[name], *spans[name]) for name in names}
    return ExplanationSpec(best=best, n=n, gains=gains, data=where)


if __name__ == "__main__":
    main()
