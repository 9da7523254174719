"""SPAN on declared mosaics of real tissue: what a bag of patches knows, and what it cannot.

    python benchmarks/span_tissue.py --cache FOLDER

Slides are mosaics of real H&E lung tiles (LC25000, 224 x 224 pixels); they are
mosaics, not slides. Each tile is cut into its quadrants, these are encoded once
(enlarged to the encoder's size), and a slide is an irregular piece of tissue with
holes, some two thousand places on a grid, each holding the features of one
quadrant. A group is one picture in up to four augmented copies; groups are told
apart into training, validation and test before any slide is drawn. Whether two
groups are of one patient is not known. All features are centred and scaled by
those of the training tiles and reduced to the first 128 principal components of the
training tiles, the same for all networks, so that one CPU core is enough.

(a) region: all is benign, or a connected 1-2 % of the places is carcinoma.
(b) arrangement: two apart regions hold as many patches of adenocarcinoma as of
    squamous-cell carcinoma. In one class each region is of one kind, in the other
    both are mixed in small clumps. Slides come as twins, one of each class, with
    the same outline, the same regions and the very same patches at other places:
    what looks at a bag of patches gives both the same answer and is right in half
    of the cases, whatever it has learned.
(c) segmentation: several regions of both carcinomas; find the squamous patches.

SPAN-MIL is beside ABMIL, CLAM-SB, DSMIL and TransMIL of torchmil 1.0.2 (with
their own losses), SPAN-UNet beside classifiers of single patches; all get the same
slides, epochs, optimiser, schedule and early stopping, from `fit_span`. Each seed
draws new slides and new weights. The peers are not among our dependencies; they
are skipped, with a message, unless they can be imported:

    pip install --no-deps --target FOLDER torchmil==1.0.2 tensordict pyvers orjson \\
        cloudpickle importlib_metadata einops
    PYTHONPATH=FOLDER python benchmarks/span_tissue.py --cache FEATURES

The settings were chosen on the first seed, with SPAN-MIL's results in view, and so
favour it if anything; the other two seeds were drawn once they were fixed. The size
of the regions and clumps of (b) is among them (SPAN-MIL was slow to learn smaller
regions in larger clumps), and so is the share-out of the steps: with 100 slides and
up to 14 epochs it was right on 75 % of the first seed of (b). TransMIL sees the
patches in raster order, which tells it who is beside whom; it is no bag. The slow
networks have one learning rate, the others the better of two. For (c) a third of
the slides is enough. All takes about 25 minutes on one quiet core;
encoding comes on top, once, and is kept in `--cache`. `--seeds 1` is a third of it,
`--quick` a minute. The licence of the pictures is unclear: nothing trained here may
be passed on.
"""

from __future__ import annotations

import argparse
import dataclasses
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch
import torch.nn.functional as F
from scipy import ndimage
from span_mosaics import (
    WIDTH,
    Draw,
    Patches,
    drawn,
    encoded,
    shuffled,
    split,
    twins,
    with_map,
    with_region,
)
from tissue import PARTS, default_archive
from torch import Tensor, nn

from napari_sparseattn.models.span import SpanMil, SpanMilConfig, SpanUnet, SpanUnetConfig
from napari_sparseattn.training.loop.span import (
    SlideExample,
    SpanOptions,
    dice,
    fit_span,
    measure_slides,
    predict_slides,
)

#: Networks that take too long to be trained twice.
SLOW = ("SPAN-MIL", "SPAN-UNet", "TransMIL")


class Logits(NamedTuple):
    logits: Tensor


class Peer(nn.Module):
    """A network of torchmil: patches without places in, one logit out."""

    def __init__(self, net: nn.Module) -> None:
        super().__init__()
        self.net = net

    def forward(self, features: Tensor, cells: Tensor) -> Logits:
        logit = self.net.predict(features[None], return_inst_pred=False)
        return Logits(torch.stack([torch.zeros_like(logit), logit], dim=1))

    @staticmethod
    def loss(
        peer: nn.Module, features: Tensor, cells: Tensor, target: Tensor
    ) -> tuple[Tensor, Tensor]:
        """Its own loss, the sum of all that it names."""
        logit, losses = peer.net.compute_loss(target[None].float(), features[None])
        return sum(losses.values()), torch.stack([torch.zeros_like(logit), logit], dim=1)


class OneOfTwo(nn.Module):
    """CLAM's loss of instances by cross-entropy, the other choice of its authors' code.

    The SVM loss of torchmil 1.0.2 ends some runs by an error about shapes.
    """

    def forward(self, scores: Tensor, kind: Tensor) -> Tensor:
        return F.cross_entropy(scores, kind[:, 0].long())


class PerPatch(nn.Module):
    """Each patch on its own: logistic regression, or one hidden layer."""

    def __init__(self, hidden: int = 0) -> None:
        super().__init__()
        layers = [nn.Linear(WIDTH, hidden), nn.ReLU()] if hidden else []
        self.net = nn.Sequential(*layers, nn.Linear(hidden or WIDTH, 1))

    def forward(self, features: Tensor, cells: Tensor) -> Logits:
        return Logits(self.net(features))


def peers() -> dict[str, Callable[[], nn.Module]]:
    try:
        from torchmil import models
    except ImportError as error:
        print(f"\nThe peers are skipped: {error}. See the head of this script.")
        return {}

    def embedding() -> nn.Module:
        # Their papers' first layer, which torchmil leaves to its caller.
        return nn.Sequential(nn.Linear(WIDTH, WIDTH // 2), nn.ReLU())

    def clam(*sizes: Any, **more: Any) -> nn.Module:
        net = models.CLAM_SB(*sizes, **more)
        net.inst_loss_fn = OneOfTwo()
        return net

    shape = (WIDTH,)
    return {
        "ABMIL": lambda: Peer(models.ABMIL(shape, gated=True, feat_ext=embedding())),
        "CLAM-SB": lambda: Peer(clam(shape, gated=True, feat_ext=embedding())),
        "DSMIL": lambda: Peer(models.DSMIL(shape, feat_ext=embedding())),
        "TransMIL": lambda: Peer(models.TransMIL(shape, att_dim=WIDTH)),
    }


def parameters(model: nn.Module) -> int:
    return sum(weights.numel() for weights in model.parameters())


def averaged(share: np.ndarray, cells: np.ndarray, side: int) -> np.ndarray:
    """Mean of (N,) over the patches within a window of so many places along a side."""
    x, y = cells.T
    value, there = np.zeros((2, y.max() + 1, x.max() + 1))
    value[y, x], there[y, x] = share, 1
    total, patches = (
        ndimage.uniform_filter(each, side, mode="constant") for each in (value, there)
    )
    result: np.ndarray = total[y, x] / patches[y, x]
    return result


class Trained(NamedTuple):
    """A network after training: its epochs, the CPU seconds of one, and its validation loss."""

    model: nn.Module
    epochs: int
    seconds: float
    loss: float
    rate: float


def trained(
    make: Callable[[], nn.Module], slides: dict[str, list[SlideExample]], options: SpanOptions
) -> Trained:
    torch.manual_seed(options.seed)
    model = make()
    loss = Peer.loss if isinstance(model, Peer) else None
    # Not the wall clock: what else the machine does is no matter.
    began = time.process_time()
    epochs = list(fit_span(model, slides["training"], slides["validation"], options, loss=loss))
    seconds = (time.process_time() - began) / len(epochs)
    least = min(epoch.loss for epoch in epochs)
    return Trained(model, len(epochs), seconds, least, options.learning_rate)


class Budget:
    """The same training for every network, with the better of the learning rates.

    Which is better is found on the validation slides of a network's first seed;
    the slow networks have the first rate (that of TransMIL's authors is 2e-4).
    """

    def __init__(self, options: SpanOptions, rates: Sequence[float]) -> None:
        self.options, self.rates = options, rates
        self.chosen = dict.fromkeys(SLOW, rates[0])

    def train(
        self,
        name: str,
        make: Callable[[], nn.Module],
        slides: dict[str, list[SlideExample]],
        seed: int,
    ) -> Trained:
        rates = [self.chosen[name]] if name in self.chosen else self.rates
        tried = [
            trained(make, slides, dataclasses.replace(self.options, seed=seed, learning_rate=rate))
            for rate in rates
        ]
        best = min(tried, key=lambda each: each.loss)
        self.chosen[name] = best.rate
        return best


Row = dict[str, Any]


def told(name: str, score: float, done: Trained, seed: int) -> Row:
    print(
        f"  seed {seed}: {name} {score:.3f} ({done.epochs} epochs of {done.seconds:.1f} CPU s, "
        f"rate {done.rate:g}, validation loss {done.loss:.3f})",
        flush=True,
    )
    return {"network": name, "score": score, "weights": parameters(done.model), **done._asdict()}


def classify(
    slides: dict[str, list[SlideExample]], budget: Budget, seed: int, wanted: list[str]
) -> list[Row]:
    """Train SPAN-MIL and the peers on one task and one seed."""
    makers: dict[str, Callable[[], nn.Module]] = {
        "SPAN-MIL": lambda: SpanMil(SpanMilConfig(features=WIDTH, n_classes=2)),
        **peers(),
    }
    rows = []
    for name, make in makers.items():
        if wanted and name not in wanted:
            continue
        done = budget.train(name, make, slides, seed)
        tests = {name: slides["test"]}
        if name in ("SPAN-MIL", "TransMIL"):  # what their answer owes to the places
            tests[f"{name}, places shuffled at test"] = shuffled(slides["test"])
        for tested, examples in tests.items():
            report = measure_slides(done.model, examples, ("0", "1"))
            rows.append(told(tested, report.accuracy, done, seed))
    return rows


def segment(slides: dict[str, list[SlideExample]], budget: Budget, seed: int) -> list[Row]:
    """Train SPAN-UNet and the classifiers of single patches on one seed."""
    makers: dict[str, Callable[[], nn.Module]] = {
        "SPAN-UNet": lambda: SpanUnet(SpanUnetConfig(features=WIDTH)),
        "logistic regression": PerPatch,
        "MLP": lambda: PerPatch(WIDTH),
    }
    rows = []
    for name, make in makers.items():
        done = budget.train(name, make, slides, seed)
        shares = {
            part: [
                logits[:, 0].sigmoid().numpy()
                for logits in predict_slides(done.model, slides[part])
            ]
            for part in ("validation", "test")
        }
        rows.append(told(name, overlap(shares["test"], slides["test"], 1), done, seed))
        if name == "MLP":
            sides = (1, 3, 5, 7, 9)
            found = [overlap(shares["validation"], slides["validation"], each) for each in sides]
            best = sides[int(np.argmax(found))]
            print(f"  seed {seed}: {best} x {best} places are best on validation")
            score = overlap(shares["test"], slides["test"], best)
            rows.append(told("MLP, mean of neighbours", score, done, seed))
    return rows


def overlap(shares: list[np.ndarray], slides: list[SlideExample], side: int) -> float:
    """Dice over all patches, their probabilities averaged over so many places."""
    found = [
        averaged(share, slide.cells, side) > 0.5
        for share, slide in zip(shares, slides, strict=True)
    ]
    return dice(np.concatenate(found), np.concatenate([each.patch_labels for each in slides]))


def table(rows: list[Row], measure: str) -> None:
    print(
        f"\n| network | weights | {measure}, mean ± sd | each seed | epochs | CPU s/epoch | rate |"
    )
    print("| --- " * 7 + "|")
    for name in dict.fromkeys(row["network"] for row in rows):
        own = [row for row in rows if row["network"] == name]
        scores = [row["score"] for row in own]
        spread = f" ± {np.std(scores, ddof=1):.3f}" if len(scores) > 1 else ""
        print(
            f"| {name} | {own[0]['weights']:,} | {np.mean(scores):.3f}{spread} | "
            f"{', '.join(f'{each:.3f}' for each in scores)} | "
            f"{', '.join(str(row['epochs']) for row in own)} | "
            f"{np.median([row['seconds'] for row in own]):.1f} | {own[0]['rate']:g} |"
        )
    print(flush=True)


def counts_table(parts: dict[str, Patches]) -> None:
    print("| part | groups (b/a/s) | patches (b/a/s) |\n| --- | --- | --- |")
    for part, patches in parts.items():
        own = [patches.labels == label for label in range(3)]
        groups = "/".join(str(len(np.unique(patches.groups[rows]))) for rows in own)
        print(f"| {part} | {groups} | {'/'.join(str(int(rows.sum())) for rows in own)} |")
    print("no group is in two parts\n", flush=True)


def parsed() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n")[0])
    parser.add_argument("--archive", type=Path, default=default_archive())
    parser.add_argument("--encoder", default="stain-texture", help="as for `load_encoder`")
    parser.add_argument("--cache", type=Path, required=True, help="folder for the features")
    parser.add_argument("--tasks", nargs="*", default=["region", "arrangement", "segmentation"])
    parser.add_argument(
        "--networks", nargs="*", default=[], help="of the first two tasks; others are left out"
    )
    parser.add_argument("--slides", type=int, nargs=3, default=[240, 40, 80])
    parser.add_argument("--places", type=int, default=2000, help="of a slide, about")
    parser.add_argument("--epochs", type=int, default=5)
    parser.add_argument("--patience", type=int, default=3)
    parser.add_argument("--learning-rates", type=float, nargs="+", default=[3e-4, 2e-3])
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--quick", action="store_true", help="few small slides: does it run?")
    arguments = parser.parse_args()
    if arguments.quick:
        arguments.slides, arguments.places = [8, 4, 4], 300
        arguments.epochs, arguments.seeds = 2, 1
    return arguments


def main() -> None:
    arguments = parsed()
    torch.set_num_threads(arguments.threads)
    parts = split(*encoded(arguments.archive, arguments.encoder, arguments.cache))
    print(f"encoder {Path(arguments.encoder).name}")
    counts_table(parts)
    counts = dict(zip(PARTS, arguments.slides, strict=True))
    common = {
        "epochs": arguments.epochs,
        "patience": arguments.patience,
        "slides_per_step": 2,
    }
    draws: dict[str, Draw] = {
        "region": with_region, "arrangement": twins, "segmentation": with_map,
    }  # fmt: skip
    print(f"{counts} slides, {common}\n", flush=True)
    budgets: dict[str, Budget] = {}
    found: dict[str, list[Row]] = {task: [] for task in arguments.tasks}
    for seed in range(arguments.seeds):
        for task in arguments.tasks:
            maps = task == "segmentation"
            options = SpanOptions.for_patches(**common) if maps else SpanOptions(**common)
            budget = budgets.setdefault(task, Budget(options, arguments.learning_rates))
            own = {**counts, "training": counts["training"] // 3} if maps else counts
            slides = drawn(draws[task], parts, own, arguments.places, seed)
            sizes = [len(slide) for slide in slides["test"]]
            print(f"{task}, seed {seed}: test slides of {min(sizes)} to {max(sizes)} patches")
            if maps:
                found[task] += segment(slides, budget, seed)
            else:
                found[task] += classify(slides, budget, seed, arguments.networks)
        for task, rows in found.items():
            measure = "Dice" if task == "segmentation" else "accuracy (chance 0.5)"
            table(rows, f"{task}: {measure}, {counts['test']} test slides per seed")
        print(f"{time.process_time() / 60:.1f} CPU minutes so far\n", flush=True)


if __name__ == "__main__":
    main()
