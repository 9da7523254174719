"""Measure what a bundled model knows, and put it into its file; one command per model:

    python scripts/add_known_states.py blood-cells

and so for every model in ``src/napari_sparseattn/weights``, after each training.
The weights stay as they are. The data is that of the training, split as it was:
the spread is measured on training images, the threshold is set on validation
images, and the share that is flagged is told of test images. How fast confidence
falls with novelty is fitted to validation images of blood cells whose colour,
focus and size are changed beyond any laboratory's. What is simulated
is drawn anew, less of it than for the training, and kept in ``--cache``; where a
training has left its images there, those are taken. Of white cells, the red
cells and empty places around them are measured too.

A file of another model of cells is given with ``--data``, class folders.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Callable
from pathlib import Path

import numpy as np
import torch

ROOT = Path(__file__).resolve().parents[1]
sys.path[:0] = [str(ROOT / "benchmarks"), str(ROOT / "scripts")]

from blood_cells import default_archive, read_blood_cells
from simulated_opd import some_training_crops
from surroundings import read_surroundings
from tissue_crops import SIDES, Slide
from train_tissue_simulated import PARTS, examples

from napari_sparseattn.bundle import Bundle, find_bundles, load_bundle, save_bundle
from napari_sparseattn.files import replacing
from napari_sparseattn.inference.fields import traverse
from napari_sparseattn.models.tnet.network import TNet
from napari_sparseattn.training.data.datasets import CropSet, read_class_folders
from napari_sparseattn.training.loop.classifier import split_folds
from napari_sparseattn.training.loop.known import (
    add_known_fields,
    add_known_slides,
    add_known_states,
    add_softening,
)
from napari_sparseattn.training.loop.laboratories import LaboratoryChanges

#: Twice what the blood cells are trained on: beyond any laboratory, so that the network is wrong
#: of a good part.
FAR_CHANGES = LaboratoryChanges(
    strength=2.0, counterstain=1.0, tint=0.8, saturation=0.9, response=1.0, haze=0.4, white=0.35,
    scale=(0.6, 1.6), shift=0.1, blur=1.3, noise=0.03, swap=0,
)  # fmt: skip


def measure_blood(bundle: Bundle, arguments: argparse.Namespace) -> Bundle:
    """Cells of PBC, and what lies around them."""
    parts = split_folds(read_blood_cells(arguments.data or default_archive()))
    others = kept_surroundings(parts["train"], arguments.cache)
    found = add_known_states(bundle, parts["train"], parts["validation"], parts["test"], others)
    return add_softening(found, parts["validation"], FAR_CHANGES, parts["test"])


def measure_opd(bundle: Bundle, arguments: argparse.Namespace) -> Bundle:
    """Simulated cells in optical path difference."""
    counts = arguments.counts or (30, 30, 20)
    parts = split_folds(some_training_crops(arguments.cache, tuple(counts)))
    return add_known_states(bundle, parts["train"], parts["validation"], parts["test"])


def measure_spans(bundle: Bundle, arguments: argparse.Namespace) -> Bundle:
    """Simulated slides by their patches, whose features are kept."""
    arguments.features = arguments.cache / "tissue-features"
    arguments.features.mkdir(parents=True, exist_ok=True)
    counts = zip(PARTS, arguments.counts or (16, 10, 8), strict=True)
    drawn = {part: examples(part, count, arguments) for part, count in counts}
    return add_known_slides(bundle, drawn["train"], drawn["validation"], drawn["test"])


def measure_tissue(bundle: Bundle, arguments: argparse.Namespace) -> Bundle:
    """Simulated slides of all sizes, looked at as they are in use."""
    counts = arguments.counts or (120, 60, 60)
    model = bundle.cell_model()
    assert isinstance(model, TNet)
    parts = [
        slide_states(model, bundle, part, count)
        for part, count in zip(("training", "validation", "test"), counts, strict=True)
    ]
    return add_known_fields(bundle, *parts, (min(SIDES), max(SIDES)))


def slide_states(
    model: TNet, bundle: Bundle, part: str, count: int
) -> tuple[np.ndarray, np.ndarray]:
    """States (N, D) of slides and their labels (N,)."""
    states, labels = [], []
    for number in range(count):
        slide = Slide(part, number)
        states.append(traverse(slide.pyramid, model, bundle.card.normalisation).state.numpy())
        labels.append(slide.label)
        if number % 20 == 19:
            print(f"{part}: {number + 1} of {count} slides", flush=True)
    return np.concatenate(states), np.array(labels, np.int64)


def measure_folders(bundle: Bundle, arguments: argparse.Namespace) -> Bundle:
    """Crops of any cells in class folders."""
    if arguments.data is None:
        raise SystemExit("Name the class folders that the model was trained on, with --data.")
    card = bundle.card
    data = read_class_folders(arguments.data, 2 * card.crop.size, len(card.channels))
    parts = split_folds(data)
    return add_known_states(bundle, parts["train"], parts["validation"], parts["test"])


def measure_elsewhere(bundle: Bundle, arguments: argparse.Namespace) -> Bundle:
    """Models of real tissue, whose recipes need the features that they keep."""
    recipe = bundle.card.training.recipe
    raise SystemExit(f"{recipe} measures it as it trains: run it with the --work folder it had.")


#: By the recipe that a card names.
MEASURES: dict[str, Callable[[Bundle, argparse.Namespace], Bundle]] = {
    "scripts/train_blood_cells.py": measure_blood,
    "scripts/train_blood_cells_tnet.py": measure_blood,
    "scripts/train_colon_biopsy.py": measure_elsewhere,
    "scripts/train_colon_biopsy_tnet.py": measure_elsewhere,
    "scripts/train_lymph_node.py": measure_elsewhere,
    "scripts/train_opd_simulated.py": measure_opd,
    "scripts/train_tissue_simulated.py": measure_spans,
    "scripts/train_tissue_simulated_tnet.py": measure_tissue,
}


def kept_surroundings(cells: CropSet, cache: Path) -> CropSet:
    """Cut the surroundings of the training cells once: it takes a minute."""
    path = cache / "pbc-surroundings.npz"
    if not path.exists():
        cut = read_surroundings(cells)
        path.parent.mkdir(parents=True, exist_ok=True)
        with replacing(path) as temporary, temporary.open("wb") as file:
            np.savez_compressed(file, crops=cut.crops, labels=cut.labels, kinds=cut.class_names)
    with np.load(path, allow_pickle=False) as kept:
        kinds, labels = tuple(kept["kinds"].tolist()), kept["labels"]
        return CropSet(kept["crops"], labels, kinds, tuple(map(str, range(len(labels)))))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("model", help="the name of a bundled model, or a file")
    parser.add_argument("--data", type=Path, help="class folders, or PBC's zip")
    parser.add_argument("--cache", type=Path, default=ROOT / ".cache/benchmarks")
    parser.add_argument(
        "--counts",
        type=int,
        nargs=3,
        help="simulated holograms or slides of the training, the validation and the test part",
    )
    parser.add_argument("--out", type=Path, help="by default the file itself")
    parser.add_argument("--threads", type=int, default=1)
    arguments = parser.parse_args()
    torch.set_num_threads(arguments.threads)
    bundle = load_bundle(find_bundles().get(arguments.model, Path(arguments.model)))
    measure = MEASURES.get(bundle.card.training.recipe, measure_folders)
    saved = save_bundle(measure(bundle, arguments), arguments.out or bundle.path)
    spec = saved.card.novelty
    assert spec is not None
    print(f"{saved.path}: {saved.card.name}@{saved.hash[:12]}")
    print(saved.card.summary())
    print(f"{100 * (spec.flagged_test or 0):.1f} % of what took no part is flagged")


if __name__ == "__main__":
    main()
