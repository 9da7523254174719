"""Which slides does ``colon-biopsy`` flag as unlike anything it knows?

    python benchmarks/novelty_slides.py --work runs/

Patients of EBHI-Seg, each by the encoder of the fold that had not seen it
(encoder-FOLD.safetensors in ``--work``, by ``scripts/train_tissue_mobilenet.py``),
stand against bags of PatchCamelyon's official validation part: lymph nodes, as an
organ that the model does not know, though the encoder was tuned on others of them. A
patch of ``colon-biopsy`` is 224 µm wide and one of PatchCamelyon 93 µm, and to the
encoder a narrower field alone is something new: four of one class, of any slides,
make up one of ours. That such seams are not what is flagged is seen by four parts of
tiles of one EBHI patient, laid side by side in the same way.

The rule is the one that ships: the geometric mean over a bag's patches of the distance
of the encoder's features to the nearest class mean; the threshold is what 97 % of the
patients of the other folds reach. Beside it are other ways of summing up a bag; the
rule was chosen among them by these very figures. With ``--slides`` slides are asked
whole, by the bundled model; those without a scale, as they are.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Callable
from pathlib import Path

import numpy as np
import torch

ROOT = Path(__file__).resolve().parents[1]
sys.path[:0] = [str(ROOT / "scripts")]

from tissue_data import (
    N_FOLDS,
    Tiles,
    area_under_curve,
    merged,
    patient_folds,
    read_ebhi,
    read_pcam,
    shared_data,
)
from train_colon_biopsy import encoder_of, features_of, patches_of

from napari_sparseattn.bundle import load_bundle
from napari_sparseattn.images.slides.opening import open_slide
from napari_sparseattn.inference.slides import classify_slide
from napari_sparseattn.known import KnownPatches, threshold_of

#: Patches of either class, bags, and patches in each.
PATCHES, BAGS, SIZES = 100, 100, (5, 10, 30)
PART = 96
SLIDES = ("CMU-1-Small-Region.svs", "tcga-cr-7395-01a-01-ts1.svs")
#: Of patches (N,), and whose they are (N,).
Distances = tuple[np.ndarray, np.ndarray]
Rule = Callable[[np.ndarray], float]
RULES: dict[str, Rule] = {
    "geometric mean": lambda each: float(KnownPatches.of_slide(each)),
    "mean": lambda each: float(each.mean()),
    "median": lambda each: float(np.median(each)),
    "upper quartile": lambda each: float(np.quantile(each, 0.75)),
}


def four(parts: np.ndarray) -> np.ndarray:
    """Lay (N, 4, S, S, 3) side by side: (N, 2 S, 2 S, 3)."""
    n, _, side = parts.shape[:3]
    square = parts.reshape(n, 2, 2, side, side, 3).transpose(0, 1, 3, 2, 4, 5)
    return square.reshape(n, 2 * side, 2 * side, 3)


def nodes() -> np.ndarray:
    """Patches of lymph nodes, first those without tumour."""
    valid = read_pcam("valid")
    rows = [
        np.random.default_rng(kind).permutation(np.flatnonzero(valid.labels == kind))
        for kind in (0, 1)
    ]
    chosen = np.concatenate([each[: 4 * PATCHES].reshape(PATCHES, 4) for each in rows])
    return four(valid.pixels[chosen])


def seams(tiles: Tiles, rows: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Parts of tiles of one patient side by side, and whose they are."""
    random, made, names = np.random.default_rng(3), [], []
    for name in np.unique(tiles.groups[rows]):
        own = rows[tiles.groups[rows] == name]
        for _ in range(min(4, len(own))):
            parts = []
            for row in random.choice(own, 4, replace=len(own) < 4):
                y, x = random.integers(0, tiles.pixels.shape[1] - PART, 2)
                parts.append(tiles.pixels[row, y : y + PART, x : x + PART])
            made.append(np.stack(parts))
            names.append(name)
    return four(np.stack(made)), np.array(names)


def by_patient(
    rule: Callable[[np.ndarray], float], each: np.ndarray, who: np.ndarray
) -> np.ndarray:
    return np.array([rule(each[who == name]) for name in np.unique(who)])


def drawn(rule: Rule, each: np.ndarray, size: int) -> np.ndarray:
    """Bags of so many patches of one class."""
    random = np.random.default_rng(0)
    halves = each[:PATCHES], each[PATCHES:]
    return np.array([rule(random.choice(halves[i % 2], size)) for i in range(BAGS)])


def area(usual: np.ndarray, other: np.ndarray) -> float:
    both = np.concatenate([usual, other])
    return area_under_curve(both, np.arange(len(both)) >= len(usual))


def flagged(found: list[np.ndarray], usual: list[np.ndarray]) -> float:
    """Share beyond the threshold that the patients of the other folds set."""
    told = [
        each > threshold_of(np.concatenate([*usual[:fold], *usual[fold + 1 :]]))
        for fold, each in enumerate(found)
    ]
    return float(np.concatenate(told).mean())


def measure(work: Path) -> None:
    tiles, other = read_ebhi(), nodes()
    kinds, folds = merged(tiles.labels), patient_folds(tiles)
    own: list[Distances] = []
    seamed: list[Distances] = []
    serrated: list[Distances] = []
    lymph: list[np.ndarray] = []
    for fold in range(N_FOLDS):
        found, encoder = patches_of(tiles, fold, work), encoder_of(fold, work)
        features = features_of(tiles, fold, work)[0].numpy()

        def far(values: np.ndarray, known: KnownPatches = found.known) -> np.ndarray:
            return known.novelty(values) * known.threshold

        def encoded(pixels: np.ndarray, encode: Callable[..., np.ndarray] = encoder) -> np.ndarray:
            return np.concatenate([encode(pixels[i : i + 32]) for i in range(0, len(pixels), 32)])

        held, left = (folds == fold) & (kinds >= 0), (folds == fold) & (kinds < 0)
        own.append((far(features[held]), tiles.groups[held]))
        serrated.append((far(features[left]), tiles.groups[left]))
        parts, names = seams(tiles, np.flatnonzero(held))
        seamed.append((far(encoded(parts)), names))
        lymph.append(far(encoded(other)))
        print(f"fold {fold} of {N_FOLDS}", flush=True)
    print(
        "\n| a bag's | in bags of | AUROC | lymph nodes flagged | patients flagged | with seams |"
    )
    print("| --- " * 6 + "|")
    for name, rule in RULES.items():
        usual, sewn = ([by_patient(rule, *each) for each in part] for part in (own, seamed))
        for size in SIZES:
            bags = [drawn(rule, each, size) for each in lymph]
            area_told = area(np.concatenate(usual), np.concatenate(bags))
            print(
                f"| {name} | {size} | {area_told:.3f} | {100 * flagged(bags, usual):.1f} % | "
                f"{100 * flagged(usual, usual):.1f} % | {100 * flagged(sewn, usual):.1f} % |"
            )
    rule = RULES["geometric mean"]
    usual = [by_patient(rule, *each) for each in own]
    told = [by_patient(rule, *each) for each in serrated]
    print(
        f"{sum(map(len, usual))} patients; of {sum(map(len, told))} with serrated adenomas, which "
        f"the model was not trained on, {100 * flagged(told, usual):.1f} % are flagged"
    )
    sizes = np.concatenate([np.unique(who, return_counts=True)[1] for _, who in own])
    beyond = np.concatenate(usual) > threshold_of(np.concatenate(usual))
    for low, high in ((1, 1), (2, 4), (5, 1000)):
        rows = (sizes >= low) & (sizes <= high)
        print(f"of {rows.sum()} patients with {low} to {high} tiles {beyond[rows].sum()} flagged")


def ask_slides(names: list[Path]) -> None:
    bundle = load_bundle("colon-biopsy")
    for name in names:
        with open_slide(name) as slide:
            found = classify_slide(slide, bundle, allow_unknown_scale=True, device="cpu")
        each = found.patch_novelty
        assert each is not None
        scale = "" if found.scale_known else ", scale unknown"
        print(
            f"{name.name}: {found.label} {100 * found.confidence:.0f} %, novelty "
            f"{found.novelty:.2f}, {(each > 1).sum()} of {len(each)} patches above 1{scale}"
        )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--work", type=Path, help="with encoder-FOLD.safetensors of all folds")
    parser.add_argument(
        "--slides", type=Path, nargs="*", help="by default the two of other organs at hand"
    )
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    if arguments.work is not None:
        measure(arguments.work)
    slides = arguments.slides
    if slides is None:
        slides = [shared_data() / "slides" / name for name in SLIDES]
    ask_slides(slides)


if __name__ == "__main__":
    main()
