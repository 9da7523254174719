"""Train the ``tissue-simulated-tnet`` model: TNet on SIMULATED tissue slides.

    python scripts/train_tissue_simulated_tnet.py --epochs 4 --weights first.safetensors
    python scripts/train_tissue_simulated_tnet.py --start first.safetensors --skip 240 --epochs 3

is how the model that ships is made, about 20 minutes on one CPU core. (Those
weights came of shorter rounds, as the recipe was found: two epochs with fewer
locations, then seven on slides whose sides are powers of two, then six on
slides as they are now.) Slides are drawn by ``images.simulate.simulated_slide``,
4,096 to 32,768 pixels a side, and told apart into training, validation and test
by their seeds. Training has two steps. First the network sees single crops, of
every scale and then of regions close by, and is told whether each shows tumour,
and how much of a region of crowded nuclei each candidate child holds: so it
begins with annotations. Then whole slides are traversed, and only their class
is told, as in the paper.

A slide's class cannot be seen in its thumbnail: ``--root-only`` trains the same
backbone on thumbnails alone, and prints how often it is right.
"""

from __future__ import annotations

import argparse
import dataclasses
import json
import time
from collections.abc import Iterator, Sequence
from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F
from safetensors.torch import load_file, save_file
from tissue_crops import (
    BASE,
    KINDS,
    MPP,
    NORMALISATION,
    SIDES,
    DrawnSource,
    SingleCrops,
    Slide,
    normalised,
)
from torch import Tensor, nn

from napari_sparseattn.bundle import Bundle, load_bundle, save_bundle
from napari_sparseattn.card import Card, CropSpec, Training
from napari_sparseattn.files import replacing
from napari_sparseattn.inference.fields import classify_field
from napari_sparseattn.metrics import classification_report, wilson
from napari_sparseattn.models.tnet.crops import TNetOutput
from napari_sparseattn.models.tnet.layers import CandidateGrid, levels_of, sample_map
from napari_sparseattn.models.tnet.network import TNet, TNetConfig
from napari_sparseattn.training.loop.classifier import fit_temperature
from napari_sparseattn.training.loop.fit import EpochReport
from napari_sparseattn.training.loop.loop import optimiser
from napari_sparseattn.training.loop.tnet import TNetOptions, fit_tnet

ROOT = Path(__file__).resolve().parents[1]
CONFIG = TNetConfig(
    n_classes=2,
    # Larger slides, on which it is trained, have more levels with the last number. A model's file
    # is checked on an image of this size whenever it is loaded.
    image_size=512,
    base=BASE,
    grid=3,
    overlap=0.5,
    locations=(5, 2, 1),
    backbone={"name": "small", "widths": (24, 48, 96, 128)},
    dropout=0.1,
)
#: Settings of the dial that are measured for the card; the last number serves all deeper levels.
DIAL = ((1, 1, 1), (2, 1, 1), (3, 1, 1), (3, 2, 1), (5, 2, 1), (5, 3, 1))
DIAL_SIDE = 8192


def drawn_crops(arguments: argparse.Namespace, *, close: bool) -> SingleCrops:
    """Single crops, drawn now or kept from before."""
    kept = arguments.crops and arguments.crops.with_stem(arguments.crops.stem + "-close" * close)
    if kept and kept.exists():
        with np.load(kept, allow_pickle=False) as arrays:
            return SingleCrops(**arrays)
    began, n = time.perf_counter(), arguments.close_slides if close else arguments.crop_slides
    crops = SingleCrops.draw(n, 20, close=close)
    print(f"{len(crops.labels)} crops, {time.perf_counter() - began:.0f} s", flush=True)
    if kept:
        crops.save(kept)
    return crops


def fit_crops(model: TNet, crops: SingleCrops, epochs: int, rate: float) -> None:
    """The first step: every crop on its own."""
    grid = CandidateGrid(BASE, CONFIG.grid, CONFIG.overlap)
    order = np.random.default_rng(0)
    descent = optimiser(model, rate, 0.02)
    steps = -(-len(crops.labels) // 64)
    schedule = torch.optim.lr_scheduler.OneCycleLR(descent, rate, epochs * steps, pct_start=0.15)
    model.train()
    for epoch in range(epochs):
        began, totals, right = time.perf_counter(), np.zeros(2), 0
        for rows in np.array_split(order.permutation(len(crops.labels)), steps):
            x, target = normalised(crops.pixels[rows]), torch.from_numpy(crops.targets[rows])
            turn = int(order.integers(4))  # the same for a batch: a slide has no upper side
            x = torch.rot90(x, turn, (2, 3))
            where = torch.rot90(target.view(-1, 3, 3), turn, (1, 2)).flatten(1).float()
            features, pooled = model.backbone(x)
            looked = model.location(sample_map(features, grid, CONFIG.sampling))
            places = torch.from_numpy(crops.places[rows])
            logits = model.head(model.dropout(model.position(pooled, places)))
            labels = torch.from_numpy(crops.labels[rows])
            losses = F.cross_entropy(logits, labels), -(where * looked.log()).sum(1).mean()
            descent.zero_grad(set_to_none=True)
            (losses[0] + losses[1]).backward()
            nn.utils.clip_grad_norm_(model.parameters(), 1.0)
            descent.step()
            schedule.step()
            totals += [float(loss.detach()) for loss in losses]
            right += int((logits.argmax(1) == labels).sum())
        print(
            f"crops {epoch + 1}/{epochs}: class {totals[0] / steps:.3f}, places "
            f"{totals[1] / steps:.3f}, right {right / len(crops.labels):.3f}, "
            f"{time.perf_counter() - began:.0f} s",
            flush=True,
        )
    model.eval()


class Batches:
    """Slides of a pool in batches of one size, in a new order each time."""

    def __init__(self, slides: Sequence[Slide], size: int, seed: int = 0) -> None:
        self.slides, self.size, self.random = slides, size, np.random.default_rng(seed)
        self._batches = self._drawn()

    def _drawn(self) -> list[list[Slide]]:
        batches = []
        for side in SIDES:
            own = [slide for slide in self.slides if slide.side == side]
            order = self.random.permutation(len(own))
            chunks = [order[i : i + self.size] for i in range(0, len(own), self.size)]
            batches += [[own[i] for i in chunk] for chunk in chunks]
        return batches

    def __len__(self) -> int:
        return len(self._batches)

    def __iter__(self) -> Iterator[tuple[DrawnSource, Tensor]]:
        self._batches = self._drawn()
        for i in self.random.permutation(len(self._batches)):
            batch = self._batches[i]
            yield DrawnSource(batch), torch.tensor([slide.label for slide in batch])


@torch.inference_mode()
def logits_of(
    model: TNet, slides: Sequence[Slide], locations: tuple[int, ...] | None = None
) -> tuple[Tensor, np.ndarray]:
    """Logits (N, 2) and labels (N,), in the batches' order."""
    found, labels = [], []
    for side in SIDES:
        own = [slide for slide in slides if slide.side == side]
        for start in range(0, len(own), 8):
            batch = own[start : start + 8]
            taken = None if locations is None else at_depth(locations, side)
            output: TNetOutput = model(DrawnSource(batch), taken)
            found.append(output.logits)
            labels += [slide.label for slide in batch]
    return torch.cat(found), np.array(labels)


def at_depth(locations: tuple[int, ...], side: int) -> tuple[int, ...]:
    """A setting with its last number repeated down to full resolution; () stays."""
    more = levels_of(side, BASE, CONFIG.overlap) - 1
    return (locations + locations[-1:] * more)[:more]


def train(model: TNet, arguments: argparse.Namespace) -> list[EpochReport]:
    """The second step: slides and their class alone."""
    numbers = range(arguments.skip, arguments.skip + arguments.slides)
    pool = [Slide("training", number) for number in numbers]
    held = [Slide("validation", number) for number in range(arguments.validation)]

    def validate(net: TNet) -> tuple[float, float]:
        logits, labels = logits_of(net, held)
        truth = torch.from_numpy(labels)
        right = (logits.argmax(1) == truth).float().mean()
        return float(F.cross_entropy(logits, truth)), float(right)

    print("before the second step:", validate(model), flush=True)
    options = TNetOptions(
        epochs=arguments.epochs,
        learning_rate=arguments.rate,
        noise=0.1,
        steady=0.4,
        # A tumour slide's other regions are infiltrates: a crop alone cannot know the class.
        lambda_c=arguments.lambda_c,
        beta=0.05,
    )
    before, history = kept_history(arguments.start), []
    for epoch in fit_tnet(model, Batches(pool, 8), validate, options):
        history.append(epoch)
        print(epoch, flush=True)
        if epoch.best:
            state = {name: t.detach().contiguous() for name, t in model.state_dict().items()}
            with replacing(arguments.weights) as temporary:
                save_file(state, temporary)
        with replacing(arguments.weights.with_suffix(".json")) as temporary:
            every = [dataclasses.asdict(each) for each in (*before, *history)]
            temporary.write_text(json.dumps(every))
    return history


def measured(model: TNet, bundle: Bundle, n: int) -> dict[str, object]:
    """On slides of new seeds, read lazily through the public function."""
    slides = [Slide("test", i) for i in range(n)]
    labels = np.array([slide.label for slide in slides])
    answers = [classify_field(slide.pyramid, bundle, device="cpu") for slide in slides]
    chances = np.stack([answer.probabilities for answer in answers])
    report = classification_report(chances, labels, KINDS).to_dict()
    hits = chances.argmax(1) == labels
    sides = np.array([slide.side for slide in slides])
    roots, own = logits_of(model, slides, ())
    right = int((roots.argmax(1).numpy() == own).sum())
    read = [a.ledger.pixels / s.side**2 for a, s in zip(answers, slides, strict=True)]
    found: dict[str, object] = {
        "right_and_number_by_side": {
            str(side): [int(hits[sides == side].sum()), int((sides == side).sum())]
            for side in SIDES
        },
        "root_alone": {"accuracy": right / n, "interval": list(wilson(right, n)), "n": n},
        "median_share_of_pixels_decoded": float(np.median(read)),
        "median_seconds": float(np.median([answer.ledger.seconds for answer in answers])),
    }
    shown = {name: report[name] for name in ("accuracy", "accuracy_interval", "macro_f1", "ece")}
    print(json.dumps(shown | found), flush=True)
    return report | found


def dial(model: TNet, n: int) -> list[dict[str, object]]:
    """Accuracy at other numbers of locations, on validation slides of 8,192 pixels."""
    slides = [Slide("validation", 100_000 + number, DIAL_SIDE) for number in range(n)]
    rows: list[dict[str, object]] = []
    for setting in ((), *DIAL):
        taken = at_depth(setting, DIAL_SIDE)
        logits, labels = logits_of(model, slides, taken)
        accuracy = float((logits.argmax(1).numpy() == labels).mean())
        rows.append({"locations": list(setting), "accuracy": accuracy, "n": n})
        print(json.dumps(rows[-1]), flush=True)
    return rows


def kept_history(weights: Path | None) -> list[EpochReport]:
    """Epochs of earlier rounds, noted beside their weights."""
    if weights is None or not (kept := weights.with_suffix(".json")).exists():
        return []
    return [EpochReport(**each) for each in json.loads(kept.read_text())]


def bundle_of(
    model: TNet, temperature: float, history: list[EpochReport], arguments: argparse.Namespace
) -> Bundle:
    rows = [
        {
            key: value
            for key, value in dataclasses.asdict(epoch).items()
            if key not in ("best", "figure")
        }
        for epoch in history
    ]
    card = {
        "kind": "tnet",
        "name": "tissue-simulated-tnet",
        "description": "SIMULATED tissue slides, benign or with tumour: looks closer where nuclei "
        "crowd. To try the program with; it knows nothing of real tissue.",
        "class_names": KINDS,
        "channels": ("red", "green", "blue"),
        "modality": "brightfield",
        "crop": CropSpec(
            size=CONFIG.image_size, field_of_view_um=CONFIG.image_size * MPP, cell_diameters=25
        ),
        "normalisation": NORMALISATION,
        "architecture": dataclasses.asdict(model.config),
        "temperature": temperature,
        "training": Training(
            data="simulated stained tissue slides of 4,096 to 32,768 pixels a side at 0.5 µm per "
            "pixel; nothing in them is measured",
            licence="BSD-3-Clause",
            split="by the slides' seeds; the first step sees crops of "
            f"{arguments.crop_slides} further slides with their regions' outlines",
            recipe="scripts/train_tissue_simulated_tnet.py",
            n_train=arguments.skip + arguments.slides,
            n_validation=arguments.validation,
            n_test=arguments.test,
            epochs=len(history),
            simulated=True,
            history=rows,
        ),
    }
    return Bundle(Card.model_validate(card), model.state_dict())


def root_only(n: int, side: int = 128) -> None:
    """How often the same backbone is right that sees thumbnails alone."""
    model = TNet(dataclasses.replace(CONFIG, base=side, locations=()))
    pixels, labels = [], []
    for number in range(n):
        slide = Slide("training", 500_000 + number, 8192)
        level = (8192 // side).bit_length() - 1
        pixels.append(slide.pyramid._render(level, 0, 0, side, side))
        labels.append(slide.label)
    x, y = normalised(np.stack(pixels)), torch.tensor(labels)
    held = n // 4
    descent = optimiser(model, 1e-3, 0.02)
    torch.manual_seed(0)
    for epoch in range(12):
        model.train()
        for rows in (torch.randperm(n - held) + held).split(32):
            batch = torch.rot90(x[rows], int(torch.randint(4, ())), (2, 3))
            loss = F.cross_entropy(model.head(model.backbone(batch)[1]), y[rows])
            descent.zero_grad(set_to_none=True)
            loss.backward()
            descent.step()
        model.eval()
        with torch.inference_mode():
            right = [
                model.head(model.backbone(part)[1]).argmax(1) == truth
                for part, truth in ((x[:held], y[:held]), (x[held:][:400], y[held:][:400]))
            ]
        shares = [float(each.float().mean()) for each in right]
        low, high = wilson(int(right[0].sum()), held)
        print(
            f"thumbnails, epoch {epoch + 1}: held out {shares[0]:.3f} [{low:.3f}, {high:.3f}] of "
            f"{held}, training {shares[1]:.3f}",
            flush=True,
        )


def parsed() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--crop-slides", type=int, default=1200, help="slides of the first step")
    parser.add_argument("--close-slides", type=int, default=300, help="for nuclei in regions")
    parser.add_argument("--crop-epochs", type=int, default=5)
    parser.add_argument("--crops", type=Path, help="keep the drawn crops here (.npz)")
    parser.add_argument("--slides", type=int, default=240, help="slides of the second step")
    parser.add_argument("--skip", type=int, default=0, help="slides that earlier rounds have seen")
    parser.add_argument("--validation", type=int, default=80)
    parser.add_argument("--test", type=int, default=160)
    parser.add_argument("--dial", type=int, default=80, help="slides to measure it on")
    parser.add_argument(
        "--epochs", type=int, default=4, help="of the second step; 0: only measure what it left"
    )
    parser.add_argument("--rate", type=float, default=3e-4, help="peak, of the second step")
    parser.add_argument("--lambda-c", type=float, default=0.7, help="whole slides against crops")
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--root-only", action="store_true")
    parser.add_argument("--first", type=Path, help="weights after crops of all scales")
    parser.add_argument("--start", type=Path, help="weights after the first step, kept here")
    parser.add_argument(
        "--out",
        type=Path,
        default=ROOT / "src/napari_sparseattn/weights/tissue-simulated-tnet.safetensors",
    )
    parser.add_argument("--weights", type=Path, help="kept here as training goes on")
    arguments = parser.parse_args()
    arguments.weights = arguments.weights or arguments.out.with_suffix(".unfinished.safetensors")
    return arguments


def main() -> None:
    arguments = parsed()
    torch.set_num_threads(arguments.threads)
    if arguments.root_only:
        root_only(800)
        return
    torch.manual_seed(0)
    model = TNet(CONFIG).to(memory_format=torch.channels_last)
    if arguments.start and arguments.start.exists():
        model.load_state_dict(load_file(arguments.start))
    else:
        crops = drawn_crops(arguments, close=False)
        if arguments.first and arguments.first.exists():
            model.load_state_dict(load_file(arguments.first))
        else:
            fit_crops(model, crops, arguments.crop_epochs, 2e-3)
        close = drawn_crops(arguments, close=True)
        fit_crops(model, close.with_some_of(crops, len(close.labels) // 4), 5, 2e-3)
        if arguments.start:
            save_file({k: v.contiguous() for k, v in model.state_dict().items()}, arguments.start)
    before = arguments.start if arguments.epochs else arguments.weights
    history = kept_history(before)
    if arguments.epochs:
        history += train(model, arguments)
    else:
        model.load_state_dict(load_file(before))
    model.eval()
    held = [Slide("validation", number) for number in range(arguments.validation)]
    logits, labels = logits_of(model, held)
    temperature = fit_temperature(logits, torch.from_numpy(labels))
    bundle = save_bundle(bundle_of(model, temperature, history, arguments), arguments.out)
    metrics = measured(model, bundle, arguments.test) | {
        "by_locations": dial(model, arguments.dial)
    }
    bundle = dataclasses.replace(bundle, card=bundle.card.model_copy(update={"metrics": metrics}))
    save_bundle(bundle, arguments.out)
    load_bundle(arguments.out)
    print(f"{sum(p.numel() for p in model.parameters())} weights, {arguments.out}")


if __name__ == "__main__":
    main()
