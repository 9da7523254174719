"""How far the evidence of the bundled models can be believed: all figures of docs/evidence.md.

    python benchmarks/evidence.py                 # everything, about an hour on one core
    python benchmarks/evidence.py --parts pbc     # some of it

pbc      stained cells of the PBC set, the tenth that nothing was decided on, the
         same number of each class; the mask is what `find_cells` finds in the middle
displaced  the same cells, 7 µm from the middle of their crops in any direction
bccd     white cells of another laboratory's smears, which the models never saw
smear    SIMULATED smears: the white cell is the decisive region, its place is known
beside   the same with crops cut beside the cells
opd      SIMULATED phase images of cells
tissue   SIMULATED slides with tumour, for the SPAN and the TNet: the tumour is the
         decisive region, its outline is known
biopsies tiles of EBHI-Seg, of patients that colon-biopsy-tnet has not seen, as many of
         each class; where the tissue that decides lies is not asked
null     how often a map that is drawn by lot is called better than random, which is
         nominally 2.5 %: PBC crops, each with a random map of one of five grains
card     how long a clicked cell's card takes

Content that is removed is replaced by each fill in turn; the whole model runs
anew. Intervals are 95 % bootstrap intervals over cells or slides, paired.
"""

from __future__ import annotations

import argparse
import csv
import dataclasses
import io
import json
import platform
import sys
import time
import zipfile
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import torch

ROOT = Path(__file__).resolve().parents[1]
sys.path[:0] = [str(ROOT / "scripts")]

from blood_cells import default_archive, read_blood_cells
from PIL import Image
from selection import displaced
from tissue_data import EBHI_MPP, merged, patient_folds, read_ebhi

from napari_sparseattn.bundle import Bundle, load_bundle
from napari_sparseattn.evidence import CropFrame
from napari_sparseattn.evidence.baselines import random_regions
from napari_sparseattn.evidence.faithfulness import LEVEL, FaithfulnessOfSet
from napari_sparseattn.evidence.measures import Interval, bootstrap_mean
from napari_sparseattn.files import replacing
from napari_sparseattn.images.fields.cells import Cells, cells_from_labels, find_cells
from napari_sparseattn.images.fields.crops import cut_crops, fit_crop
from napari_sparseattn.images.fields.field import Field
from napari_sparseattn.images.normalise import to_float
from napari_sparseattn.images.slides.pyramid import ArrayPyramid
from napari_sparseattn.inference.faithfulness import (
    CARD,
    THOROUGH,
    FaithfulnessSettings,
    faithfulness_of_cell,
    faithfulness_of_crops,
    faithfulness_of_field,
    faithfulness_of_set,
    faithfulness_of_slide,
    measure,
    prepare_crop,
    read_at_crop_pixels,
)
from napari_sparseattn.inference.reruns import CellRerun, OwnMap
from napari_sparseattn.inference.slides import classify_slide
from napari_sparseattn.simulate import opd_cells, simulated_slide, smear_with_truth
from napari_sparseattn.training.loop.classifier import split_folds

PBC_PIXEL, RED_CELL_UM = 0.25, 7.5
#: Slides take long: two fills of tiles, all three of patches.
SLIDES = FaithfulnessSettings(
    shares=(0.02, 0.05, 0.3), fills=("mean", "background"), draws=2, scattered=1
)
#: The gain of random orders is known to be 0: a few serve the drops.
CELLS = FaithfulnessSettings(draws=2, scattered=1)
#: How far crops are cut beside the cell's middle in the part "beside".
BESIDE_UM = 6.0
#: How far PBC cells are from the middle of their crops in the part "displaced".
AWAY_UM = 7.0
FIRST_SEED, SLIDE_SIDE = 910_000, 6144


def middle_mask(rgb: np.ndarray) -> np.ndarray | None:
    """The found cell that is nearest to the middle of a crop, at the crop's own pixels."""
    field = Field(rgb, "YXC", PBC_PIXEL, "brightfield", "", "crop")
    cells = find_cells(field, method="white-cells")
    if not len(cells) or cells.labels is None:
        return None
    middle = (np.array(rgb.shape[:2]) - 1) / 2
    nearest = int(np.hypot(*(cells.centres - middle).T).argmin())
    return cells.labels == cells.ids[nearest]


def pbc_displaced(bundle: Bundle, n: int) -> FaithfulnessOfSet:
    """The same cells, each away from the middle of its crop in a direction drawn by lot."""
    return pbc(bundle, n, AWAY_UM)


def pbc(bundle: Bundle, n: int, away: float = 0.0) -> FaithfulnessOfSet:
    test = split_folds(read_blood_cells(default_archive()))["test"]
    rng, each = np.random.default_rng(0), n // len(test.class_names)
    rows = np.concatenate(
        [rng.permutation(np.flatnonzero(test.labels == i))[:each] for i in range(8)]
    )
    size, side = bundle.card.crop.size, test.crops.shape[1]
    found = [middle_mask(test.crops[row]) for row in rows]
    outlines = np.stack([np.zeros((side, side), bool) if mask is None else mask for mask in found])
    shown = test.crops[rows]
    if away:
        wide = np.repeat(outlines[..., None], 3, axis=3).astype(np.uint8) * 255
        shown, outlines = (
            displaced(shown, away, least=away),
            displaced(wide, away, least=away)[..., 0] > 127,
        )
    frame = CropFrame((side - 1) / 2, (side - 1) / 2, side, size)
    masks = [read_at_crop_pixels(mask, frame) for mask in outlines]
    crops = np.stack([fit_crop(to_float(crop), size) for crop in shown])
    return faithfulness_of_crops(
        crops, bundle, CELLS, "cpu", ids=rows.tolist(), masks=np.stack(masks), progress=told
    )


def bccd(bundle: Bundle, n: int) -> FaithfulnessOfSet:
    """White cells that are whole; the mask is their box."""
    with zipfile.ZipFile(default_archive().with_name("bccd_fields.zip")) as archive:
        boxes = list(csv.DictReader(io.StringIO(archive.read("boxes.csv").decode())))
        red = [float(b["ymax"]) - float(b["ymin"]) for b in boxes if b["class"] == "RBC"]
        side = bundle.card.crop.field_of_view_um / (RED_CELL_UM / float(np.median(red)))
        white = [b for b in boxes if b["class"] == "WBC"]
        size, crops, masks, names = bundle.card.crop.size, [], [], []
        for i in np.random.default_rng(0).permutation(len(white)):
            if len(crops) == n:
                break
            box = white[i]
            top, left, bottom, right = (float(box[k]) for k in ("ymin", "xmin", "ymax", "xmax"))
            pixels = np.asarray(Image.open(io.BytesIO(archive.read(box["image"]))).convert("RGB"))
            height, width = pixels.shape[:2]
            if min(top, left) <= 1 or bottom >= height - 1 or right >= width - 1:
                continue
            centre = ((top + bottom - 1) / 2, (left + right - 1) / 2)
            inside = np.zeros((height, width), bool)
            inside[int(top) : int(bottom) + 1, int(left) : int(right) + 1] = True
            crops.append(cut_crops(pixels, [centre], side, size)[0])
            masks.append(read_at_crop_pixels(inside, CropFrame(*centre, side, size)))
            names.append(f"{box['image']}:{i}")
    return faithfulness_of_crops(
        np.stack(crops), bundle, CELLS, "cpu", ids=names, masks=np.stack(masks), progress=told
    )


def joined(parts: list[FaithfulnessOfSet]) -> FaithfulnessOfSet:
    items = tuple(item for part in parts for item in part.items)
    return FaithfulnessOfSet(tuple(range(len(items))), items)


def smear(bundle: Bundle, n: int, beside: float = 0.0) -> FaithfulnessOfSet:
    parts: list[FaithfulnessOfSet] = []
    rng = np.random.default_rng(0)
    while sum(map(len, parts)) < n:
        field, cells = smear_with_truth(seed=5000 + len(parts))
        labels = np.zeros(field.plane().shape[:2], np.int64)
        y, x = np.indices(labels.shape)
        for i, (centre, diameter) in enumerate(zip(cells.centres, cells.diameters, strict=True)):
            labels[np.hypot(y - centre[0], x - centre[1]) <= diameter / 2] = i + 1
        known = cells_from_labels(labels, field.pixel_size)
        turn = rng.uniform(0, 2 * np.pi, len(known))
        shift = np.stack([np.sin(turn), np.cos(turn)], axis=1) * beside / 0.25
        known = dataclasses.replace(known, centres=known.centres + shift)
        parts.append(faithfulness_of_set(field, known, bundle, None, CELLS, "cpu"))
        told("cells", sum(map(len, parts)), n)
    return joined(parts)


def smear_beside(bundle: Bundle, n: int) -> FaithfulnessOfSet:
    """Nearness to the middle of the crop knows nothing here."""
    return smear(bundle, n, BESIDE_UM)


def opd(bundle: Bundle, n: int) -> FaithfulnessOfSet:
    parts: list[FaithfulnessOfSet] = []
    while sum(map(len, parts)) < n:
        field = opd_cells(seed=5000 + len(parts))
        cells: Cells = find_cells(field, method="phase")
        if len(cells):
            parts.append(faithfulness_of_set(field, cells, bundle, None, CELLS, "cpu"))
        told("cells", sum(map(len, parts)), n)
    return joined(parts)


def tissue_span(bundle: Bundle, n: int) -> FaithfulnessOfSet:
    items = []
    for seed in range(FIRST_SEED, FIRST_SEED + n):
        slide, truth = simulated_slide(SLIDE_SIDE, SLIDE_SIDE, kind="tumour", seed=seed)
        found = classify_slide(slide, bundle, device="cpu")
        features = found.features
        middles = features.corners + features.side / 2
        tumour = truth.is_tumour(middles[:, 0], middles[:, 1])
        items.append(faithfulness_of_slide(found, bundle, SLIDES, "cpu", mask=tumour))
        told("slides", len(items), n)
    return FaithfulnessOfSet(tuple(range(n)), tuple(items))


def tissue_tnet(bundle: Bundle, n: int) -> FaithfulnessOfSet:
    items = []
    for seed in range(FIRST_SEED, FIRST_SEED + n):
        slide, truth = simulated_slide(SLIDE_SIDE, SLIDE_SIDE, kind="tumour", seed=seed)
        line = (np.arange(256) + 0.5) * SLIDE_SIDE / 256
        tumour = truth.is_tumour(line[:, None], line[None])
        tiles = tumour.reshape(16, 16, 16, 16).mean((1, 3)) > 0.25
        items.append(faithfulness_of_field(slide, bundle, None, SLIDES, "cpu", mask=tiles))
        told("slides", len(items), n)
    return FaithfulnessOfSet(tuple(range(n)), tuple(items))


def biopsies(bundle: Bundle, n: int) -> FaithfulnessOfSet:
    """Tiles of the patients of fold 0, one of a patient as far as they go."""
    tiles, items, random = read_ebhi(), [], np.random.default_rng(0)
    kinds = merged(tiles.labels)
    rows = random.permutation(np.flatnonzero((patient_folds(tiles) == 0) & (kinds >= 0)))
    chosen: list[int] = []
    for kind in range(3):
        own = rows[kinds[rows] == kind]
        first = np.sort(np.unique(tiles.groups[own], return_index=True)[1])
        chosen += [*own[first], *np.delete(own, first)][: n // 3]
    for row in chosen:
        tile = ArrayPyramid(tiles.pixels[row], pixel_size=EBHI_MPP, name=f"tile {row}")
        items.append(faithfulness_of_field(tile, bundle, None, SLIDES, "cpu"))
        told("tiles", len(items), len(chosen))
    return FaithfulnessOfSet(tuple(map(int, chosen)), tuple(items))


def told(stage: str, done: int, total: int) -> None:
    if done % 25 == 0 or done >= total:
        print(f"  {done}/{total}", flush=True)


def text(value: Interval, percent: bool = False) -> str:
    if np.isnan(value.value):
        return "–"
    factor, form = (100, ".0f") if percent else (1, ".2f")
    low, high = (format(factor * v, form) for v in (value.low, value.high))
    return f"{format(factor * value.value, form)} [{low}, {high}]"


def tables(name: str, result: FaithfulnessOfSet) -> Iterator[str]:
    seconds = float(result.values("seconds").mean())
    yield f"\n### {name}: n = {len(result)}, {seconds:.2f} s each\n"
    yield "| order | symmetric gain | drop without | drop with only | deletion | insertion |"
    yield "|---|---|---|---|---|---|"
    for order in result.items[0].orders:
        gain = result.difference("random", order)
        drops = (text(result.mean(key, order)) for key in ("drop_without", "drop_with_only"))
        areas = [
            float(np.mean([getattr(i.orders[order].curves, f"{key}_area") for i in result.items]))
            for key in ("deletion", "insertion")
        ]
        cells = [order, text(gain), *drops, *(f"{area:.2f}" for area in areas)]
        yield "| " + " | ".join(cells) + " |"
    yield f"\n{result.sentence('parts')}.\n"
    for own in result.own:
        for to in (name for name in result.baselines if not name.startswith("random s")):
            by_fill = "; ".join(
                f"{fill} {result.difference(to, own, fill)}" for fill in result.items[0].fills
            )
            yield f"- {own}: **{result.verdict(to, own)}** (by fill: {by_fill})"
    scattered = [o for o in result.baselines if o.startswith("random")]
    for to in [*scattered, *(name for name in result.baselines if name not in scattered)]:
        for key, sign in (("drop_without", 1), ("drop_with_only", -1)):
            mine, theirs = (result.values(key, order) for order in (result.own[0], to))
            yield f"- {result.own[0]}, {key} against {to}: {bootstrap_mean(sign * (mine - theirs))}"
    sizes = (
        text(result.mean(key), percent=True) for key in ("selected", "mass_in_mask", "mask_share")
    )
    yield "- selected {} % of the content; of it {} % inside the mask, which covers {} %".format(
        *sizes
    )
    told_stability = ", ".join(f"{k} {text(v)}" for k, v in result.stability().items())
    yield f"- stability (intersection over union): {told_stability or 'not measured'}"
    yield (
        f"- sparseness (Gini) {text(result.mean('sparseness'))}; rank correlation with shuffled "
        f"weights {text(result.mean('control'))}"
    )
    for label, part in result.by_class().items():
        verdicts = "; ".join(part.verdict(to) for to in ("random", "edges", "centre"))
        yield f"- {label} (n = {len(part)}): {verdicts}"


class RandomMap:
    """A crop whose map and selection are drawn by lot; the model is the real one."""

    fills = CellRerun.fills

    def __init__(self, rerun: CellRerun, grain: float, seed: int) -> None:
        self.rerun, self.shape, self.cells = rerun, rerun.shape, rerun.cells
        self.temperature = rerun.temperature
        self.map = random_regions(rerun.shape, seed, grain).ravel()
        self.logits, self.stability, self.scatter = rerun.logits, rerun.stability, rerun.scatter
        self.k = int(rerun.selection().sum())

    def relevance(self, index: int) -> dict[str, OwnMap]:
        return {"selection": OwnMap(self.map)}

    def selection(self) -> np.ndarray:
        scattered = self.scatter(self.map)
        return scattered >= np.sort(scattered)[-self.k]

    def baselines(self) -> dict[str, np.ndarray]:
        return {}

    def control(self, index: int, seed: int) -> np.ndarray:
        return self.map[::-1]


def false_positives(model: str, n: int) -> Iterator[str]:
    """Of random maps, those that are called better; of whole sets of ten as well."""
    bundle, test = load_bundle(model), split_folds(read_blood_cells(default_archive()))["test"]
    settings = dataclasses.replace(CARD, draws=1, extras=False)
    rng, grains, items = np.random.default_rng(0), (0.0, 1 / 32, 1 / 16, 1 / 8, 1 / 4), []
    for i, row in enumerate(rng.permutation(len(test.labels))[:n]):
        crop = fit_crop(to_float(test.crops[row]), bundle.card.crop.size)
        rerun = RandomMap(prepare_crop(crop, bundle, "cpu"), grains[i % len(grains)], 70_000 + i)
        items.append(measure(rerun, bundle.card.class_names, settings))
        told("maps", i + 1, n)
    wrong = [item.more_than_random() is True for item in items]
    said = f"{sum(wrong)} of {n} random maps are called better ({LEVEL:.1%} nominal)"
    yield f"\n### {model}: {said}\n"
    for j, grain in enumerate(grains):
        part = wrong[j :: len(grains)]
        yield f"- grain {grain:.3g} of the side: {sum(part)} of {len(part)}"
    for size in (5, 10, 20):
        groups = [items[i : i + size] for i in range(0, n - size + 1, size)]
        sets = [FaithfulnessOfSet(tuple(range(size)), tuple(group)) for group in groups]
        by_gain = sum(one.difference().low > 0 for one in sets)
        by_fall = sum(one.excess().low > 0 for one in sets)
        yield f"- sets of {size}: {by_fall} of {len(sets)} by the fall, {by_gain} by gain"


def card_times(models: list[str]) -> Iterator[str]:
    """Seconds of the clock, and of this process alone: others may be busy."""
    field, cells = smear_with_truth(seed=3)
    for name in models:
        bundle, clock, own = load_bundle(name), [], []
        for repeat in range(9):
            began, used = time.perf_counter(), time.process_time()
            item = faithfulness_of_cell(field, cells, repeat % len(cells), bundle, device="cpu")
            clock.append(time.perf_counter() - began)
            own.append(time.process_time() - used)
        yield (
            f"- {name}: a clicked cell's card takes {np.median(own[1:]):.2f} s of one core, "
            f"{np.median(clock[1:]):.2f} s by the clock (medians of 8; {item.runs} runs of the "
            "model)"
        )


#: part -> rows of (name, model, function, how many)
Part = list[tuple[str, str, Callable[[Bundle, int], FaithfulnessOfSet], int]]


def parts_of(cells: int, slides: int) -> dict[str, Part]:
    stained = ("blood-cells", "blood-cells-tnet")
    return {
        "pbc": [(f"{m} on PBC, held out", m, pbc, cells) for m in stained],
        "displaced": [
            (f"{m} on the same, {AWAY_UM:g} µm from the middle", m, pbc_displaced, cells)
            for m in stained
        ],
        "bccd": [(f"{m} on BCCD", m, bccd, cells // 2) for m in stained],
        "smear": [(f"{m} on SIMULATED smears", m, smear, cells // 4) for m in stained],
        "beside": [
            (f"{m} on the same, crops cut {BESIDE_UM:g} µm beside", m, smear_beside, cells // 4)
            for m in stained
        ],
        "opd": [("opd-simulated on SIMULATED OPD cells", "opd-simulated", opd, cells // 4)],
        "tissue": [
            ("tissue-simulated on SIMULATED slides", "tissue-simulated", tissue_span, slides),
            ("tissue-simulated-tnet on the same", "tissue-simulated-tnet", tissue_tnet, slides),
        ],
        "biopsies": [
            ("colon-biopsy-tnet on biopsies", "colon-biopsy-tnet", biopsies, 3 * slides),
        ],
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument(
        "--parts",
        nargs="*",
        default=[*parts_of(1, 1), "null", "card"],
    )
    parser.add_argument("--cells", type=int, default=80, help="of PBC; half of BCCD")
    parser.add_argument("--maps", type=int, default=320, help="of the part null")
    parser.add_argument("--slides", type=int, default=8)
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--models", nargs="*", help="only these; files are taken for bundled ones")
    parser.add_argument("--json", type=Path, help="a folder for all figures")
    arguments = parser.parse_args()
    torch.set_num_threads(arguments.threads)
    print(
        f"{platform.processor() or platform.machine()}, {arguments.threads} thread(s), {THOROUGH}"
    )
    for part, rows in parts_of(arguments.cells, arguments.slides).items():
        for name, model, run, count in rows if part in arguments.parts else []:
            if arguments.models and model not in arguments.models:
                continue
            result = run(load_bundle(model), count)
            print("\n".join(tables(name, result)), flush=True)
            if arguments.json:
                keep(arguments.json / f"{part}-{model}.json", result.to_dict(each=True))
    if "null" in arguments.parts:
        for model in arguments.models or ["blood-cells"]:
            print("\n".join(false_positives(model, arguments.maps)), flush=True)
    if "card" in arguments.parts:
        print("\n".join(card_times(["blood-cells", "blood-cells-tnet"])))


def keep(path: Path, content: dict[str, Any]) -> None:
    with replacing(path) as temporary:
        temporary.write_text(json.dumps(content))


if __name__ == "__main__":
    main()
