"""Let a TNet of whole images stop by itself, where that loses nothing on validation images.

    .venv/bin/python scripts/add_halting.py MODEL FOLDER OUT [--pixel-size µm] [--measure FOLDER]

FOLDER/class/[group/]image is what the model was validated on, never what it was
trained or tested on. Each image is looked at once, by all crops, which tells where
every threshold would have stopped. Printed is what stopping costs and saves there, and
with --measure on other images, which had no part in the choice.
"""

from __future__ import annotations

import argparse
from pathlib import Path

import numpy as np
import torch

from napari_sparseattn.bundle import Bundle, load_bundle, save_bundle
from napari_sparseattn.images.class_folders import list_labelled_images
from napari_sparseattn.images.opening import open_image
from napari_sparseattn.inference.evaluate import evaluate_folder
from napari_sparseattn.inference.fields import as_pyramid, field_network, traverse
from napari_sparseattn.models.tnet.halting import running_logits
from napari_sparseattn.training.loop.halting import choose_threshold, with_halting


def read_runs(
    bundle: Bundle, folder: Path, pixel_size: float | None
) -> tuple[list[torch.Tensor], np.ndarray]:
    """Return `running_logits` of every image of class folders, and their classes."""
    net, runs, truth = field_network(bundle, "cpu"), [], []
    given = {} if pixel_size is None else {"pixel_size": pixel_size}
    for each in list_labelled_images(folder):
        pyramid, normalisation = as_pyramid(open_image(each.path, **given), bundle, 0, 0)
        runs += running_logits(traverse(pyramid, net, normalisation, halt=False))
        truth.append(bundle.card.class_names.index(each.label))
    return runs, np.array(truth)


def main() -> None:
    """Choose the threshold, write the model, and say what it costs and saves."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("model")
    parser.add_argument("folder", type=Path)
    parser.add_argument("out", type=Path)
    parser.add_argument("--pixel-size", type=float)
    parser.add_argument("--tolerance", type=float, default=0.0)
    parser.add_argument("--measure", type=Path)
    options = parser.parse_args()
    bundle = load_bundle(options.model)
    runs, truth = read_runs(bundle, options.folder, options.pixel_size)
    spec = choose_threshold(runs, truth, bundle.card.temperature, tolerance=options.tolerance)
    if spec is None:
        raise SystemExit("No threshold loses nothing: the model is left as it is.")
    print(
        f"threshold {spec.threshold:g}: {100 * spec.saved:.1f} % fewer crops on {spec.n} images; "
        f"accuracy {100 * spec.accuracy:.1f} % (all crops {100 * spec.accuracy_all:.1f} %), AUC "
        f"{spec.auc:.4f} (all crops {spec.auc_all:.4f})"
    )
    saved = save_bundle(with_halting(bundle, spec), options.out)
    if options.measure is not None:
        for name, each in (("stopping", saved), ("all crops", with_halting(bundle, None))):
            found = evaluate_folder(options.measure, each, pixel_size=options.pixel_size)
            print(f"{name}: accuracy {found.report.accuracy:.4f}, AUC {found.report.auc:.4f}")
            print("\n".join(f"  {note}" for note in found.notes))


if __name__ == "__main__":
    main()
