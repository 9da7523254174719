"""Which explanation of a slide model can be believed? Patches are flipped in its order.

    .venv/bin/python benchmarks/explanations.py tissue-simulated --slides 20
    .venv/bin/python benchmarks/explanations.py MODEL FOLDER --pixel-size 1.0 --write OUT
    .venv/bin/python benchmarks/explanations.py MODEL --speed 500

Of each slide, or bag of a patient's tiles (FOLDER/class/patient/tile), patches are
removed in the order of attention, single-patch perturbation, gradient times input and
integrated gradients, most relevant first and least relevant first, and the model runs
anew each time. Printed are the mean symmetric gain of each with 95 % intervals over
slides (by patient where there are any), and the differences from attention. With
--write the model is saved with the best of them on its card. With --speed the runs
without one patch are timed, whole and where only what changed is computed anew.
"""

from __future__ import annotations

import argparse
import json
import time
from pathlib import Path

import numpy as np
import torch

from napari_sparseattn.bundle import Bundle, load_bundle, save_bundle
from napari_sparseattn.card import EXPLANATIONS, ExplanationSpec
from napari_sparseattn.features.bags import encode_patches, lay_tiles
from napari_sparseattn.features.encoders import load_encoder
from napari_sparseattn.images.class_folders import list_labelled_images
from napari_sparseattn.inference.measuring import FaithfulnessSettings, measure
from napari_sparseattn.inference.slide_attention import to_pyramid_attention
from napari_sparseattn.inference.slide_reruns import SlideRerun
from napari_sparseattn.metrics import group_intervals
from napari_sparseattn.models.span import SpanMil, run_replaced, run_span
from napari_sparseattn.simulate import simulated_slide
from napari_sparseattn.training.loop.slides import slide_features

SETTINGS = FaithfulnessSettings(
    shares=(0.02, 0.05, 0.1, 0.2, 0.35), fills=("drop", "ordinary", "mean"), draws=5,
    scattered=0, trials=0, extras=False,
)  # fmt: skip
Bag = tuple[str, np.ndarray, np.ndarray]


def simulated_bags(bundle: Bundle, n: int, side: int) -> list[Bag]:
    """Slides as the simulated models know them, of seeds that no training used."""
    encoder = load_encoder(bundle.card.encoder.name, "cpu")
    found = []
    for seed in range(900_000, 900_000 + n):
        kind = ("benign", "tumour")[seed % 2]
        slide, _ = simulated_slide(side, side, kind=kind, seed=seed)
        made = slide_features(slide, encoder, bundle.card.crop, device="cpu")
        found.append((f"slide {seed}", made.read(), np.asarray(made.cells)))
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
            found.append((group, encode_patches(bag.patches, encoder), bag.cells))
        if len(found) == most:
            break
    return found


def gains_of(bundle: Bundle, bag: Bag) -> dict[str, float]:
    """Return the symmetric gain of each explanation, and of random orders, on one bag."""
    _, features, cells = bag
    model = bundle.slide_model()
    places = torch.from_numpy(np.ascontiguousarray(cells, np.int64))
    output = run_span(model, torch.from_numpy(features), places, streamed=False)
    names = bundle.card.shown_names
    seen = to_pyramid_attention(
        output, cells, origin=(0.0, 0.0), step=1.0, side=1.0, class_names=names
    )
    rerun = SlideRerun(features, cells, seen, model, bundle.card.temperature, methods=EXPLANATIONS)
    found = measure(rerun, names, SETTINGS)
    return {name: found.orders[name].gain for name in (*EXPLANATIONS, "all levels", "random")}


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
    parser.add_argument("--slides", type=int, default=20)
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
    bags = (
        simulated_bags(bundle, options.slides, options.side)
        if options.folder is None
        else folder_bags(bundle, options.folder, options.pixel_size, options.slides)
    )
    rows = []
    for bag in bags:
        rows.append(gains_of(bundle, bag))
        print(json.dumps({"slide": bag[0], "patches": len(bag[2]), **rows[-1]}), flush=True)
    table = {name: np.array([row[name] for row in rows]) for name in rows[0]}
    groups = [bag[0] for bag in bags]

    def mean(counts: np.ndarray) -> dict[str, float | None]:
        total = counts.sum()
        means = {name: float((counts * each).sum() / total) for name, each in table.items()}
        less = {f"{name} less attention": means[name] - means["attention"] for name in means}
        return {**means, **less}

    spans, means = group_intervals(groups, mean), mean(np.ones(len(bags), np.int64))
    print(f"{len(bags)} slides of {np.mean([len(bag[2]) for bag in bags]):.0f} patches")
    for name in table:
        low, high = spans[name]
        apart = f"{name} less attention"
        said = f"{means[apart]:+.3f} [{spans[apart][0]:+.3f}, {spans[apart][1]:+.3f}]"
        print(f"{name:13} {means[name]:+.3f} [{low:+.3f}, {high:+.3f}]   less attention {said}")
    best = max(EXPLANATIONS, key=lambda name: means[name])
    print(f"best: {best}")
    if options.write is not None:
        gains = {name: (means[name], *spans[name]) for name in (*EXPLANATIONS, "random")}
        where = "simulated slides" if options.folder is None else options.folder.name
        spec = ExplanationSpec(best=best, n=len(bags), gains=gains, data=where)
        card = bundle.card.model_copy(update={"explanation": spec})
        save_bundle(Bundle(card, bundle.state, known=bundle.known), options.write)


if __name__ == "__main__":
    main()
