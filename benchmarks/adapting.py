"""What helps cells of another laboratory without annotating any of them.

    python benchmarks/adapting.py [--model blood-cells]

White cells of two laboratories that the model was not trained on (`laboratories.py`), classified
as they are, and after what can be done with the images of a laboratory alone:

histograms   each channel's histogram over all cells is that of training cells
mean, spread mean and standard deviation in L*a*b* are those of training cells (Reinhard et al.
             2001, "Color transfer between images")
frequencies  how often each kind occurs there is estimated from the model's own probabilities,
             which are weighed by it (Saerens et al. 2002, "Adjusting the outputs of a classifier
             to new a priori probabilities", 200 rounds of EM)

and where somebody names the kinds that occur. Nothing is fitted to a label.
"""

from __future__ import annotations

import argparse
from collections.abc import Callable
from pathlib import Path

import numpy as np
import torch
from blood_cells import default_archive, read_blood_cells
from laboratories import read_laboratories
from skimage.color import lab2rgb, rgb2lab
from skimage.exposure import match_histograms

from napari_sparseattn.bundle import load_bundle
from napari_sparseattn.metrics import classification_report
from napari_sparseattn.training.loop.classifier import split_folds
from napari_sparseattn.training.loop.fit import predict_logits

REFERENCES, ROUNDS = 600, 200


def in_one_column(crops: np.ndarray) -> np.ndarray:
    """Crops (N, H, W, 3) as one image, one below the other."""
    return crops.reshape(-1, *crops.shape[2:])


def by_histograms(crops: np.ndarray, like: np.ndarray) -> np.ndarray:
    matched = match_histograms(in_one_column(crops), in_one_column(like), channel_axis=-1)
    return matched.round().clip(0, 255).astype(np.uint8).reshape(crops.shape)


def by_mean_and_spread(crops: np.ndarray, like: np.ndarray) -> np.ndarray:
    own, other = rgb2lab(in_one_column(crops)), rgb2lab(in_one_column(like))
    over = (0, 1)
    scaled = (own - own.mean(over)) / own.std(over) * other.std(over) + other.mean(over)
    return (lab2rgb(scaled).clip(0, 1) * 255).round().astype(np.uint8).reshape(crops.shape)


COLOURS: dict[str, Callable[[np.ndarray, np.ndarray], np.ndarray]] = {
    "as they are": lambda crops, _: crops,
    "histograms": by_histograms,
    "mean, spread": by_mean_and_spread,
}


def weigh_by_frequency(shares: np.ndarray) -> np.ndarray:
    """Weigh probabilities (N, C) by how often each kind seems to occur among the N."""
    weighed = shares
    for _ in range(ROUNDS):
        weighed = shares * weighed.mean(axis=0)
        weighed /= weighed.sum(axis=1, keepdims=True)
    return weighed


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--data", type=Path, default=default_archive())
    parser.add_argument("--model", default="blood-cells")
    parser.add_argument("--threads", type=int, default=1)
    arguments = parser.parse_args()
    torch.set_num_threads(arguments.threads)
    bundle = load_bundle(arguments.model)
    card, model = bundle.card, bundle.model()
    known = split_folds(read_blood_cells(arguments.data))["train"].crops
    like = known[np.random.default_rng(0).permutation(len(known))[:REFERENCES]]

    print("| laboratory | | % right | balanced | only its kinds | balanced |")
    print("|---|---|---|---|---|---|")
    for name, part in read_laboratories(arguments.data.parent, card.class_names).items():

        def tell(
            what: str, shares: np.ndarray, name: str = name, labels: np.ndarray = part.labels
        ) -> None:
            kinds = np.isin(np.arange(shares.shape[1]), labels)
            figures = []
            for each in (shares, shares * kinds / (shares * kinds).sum(axis=1, keepdims=True)):
                found = classification_report(each, labels, card.class_names)
                figures += [found.accuracy, found.balanced_accuracy]
            told = " | ".join(f"{100 * figure:.1f}" for figure in figures)
            print(f"| {name} | {what} | {told} |", flush=True)

        for what, change in COLOURS.items():
            crops = change(part.crops, like)
            logits = predict_logits(model, crops, card.normalisation, card.crop.size)
            shares = (logits.double() / card.temperature).softmax(1).numpy()
            tell(what, shares)
            if what == "as they are":
                tell("frequencies", weigh_by_frequency(shares))


if __name__ == "__main__":
    main()
