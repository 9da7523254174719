"""Tissue as declared mosaics: one region decides the class, TNet beside a dense pass.

    python benchmarks/tissue.py --minutes 6

Fields are stitched from real H&E lung tiles (LC25000, reduced to 112 x 112
pixels); they are mosaics, not slides. All tiles are benign but those of one
region, a sixteenth of the field's area, which is benign as well or shows
adenocarcinoma or squamous-cell carcinoma. A group is one picture in up to four
augmented copies; groups are told apart into training, validation and test
before any field is drawn. Whether two groups are of one patient is not known.

One network is first trained on single tiles; the dense baseline and TNet both
begin with its weights. Each then has the same minutes on fields of 2 x 2, 4 x 4
and 8 x 8 tiles. At 448 x 448 the network of the second stage is tested, at
896 x 896 that of the third. The licence of the pictures is unclear: nothing
trained here may be passed on.
"""

from __future__ import annotations

import argparse
import copy
import dataclasses
import io
import json
import os
import time
import zipfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image
from safetensors import safe_open
from safetensors.torch import load_file, save_file
from torch.utils.flop_counter import FlopCounterMode

from napari_sparseattn.files import replacing
from napari_sparseattn.metrics import classification_report
from napari_sparseattn.models.tnet.crops import TNetOutput
from napari_sparseattn.models.tnet.network import TNet, TNetConfig
from napari_sparseattn.training.loop.tnet import TNetOptions, fit_tnet

CLASSES = ("benign", "adenocarcinoma", "squamous_cell_carcinoma")
TILE = 112
BACKBONE = {"name": "small", "widths": (24, 48, 96, 160)}
#: A row in which TNet's places are drawn by lot: its noise outweighs any probability.
RANDOM, DICE = "random places", 1e6
#: Cut-offs of the shuffled groups of each class.
PARTS = {"training": (0.0, 0.6), "validation": (0.6, 0.75), "test": (0.75, 1.0)}
#: Tiles along a field, tiles along its region, and the share of the minutes.
STAGES = ((2, 1, 0.2), (4, 1, 0.4), (8, 2, 0.4))


def default_archive() -> Path:
    """Where the tiles lie beside a checkout; NAPARI_SPARSEATTN_SHARED moves it."""
    root = os.environ.get("NAPARI_SPARSEATTN_SHARED")
    shared = Path(root) if root else Path(__file__).resolve().parents[2] / "shared"
    return shared / "data" / "lung_tiles.zip"


@dataclasses.dataclass(frozen=True)
class Tiles:
    """One part of the tiles: (N, 3, 112, 112) uint8, their classes and groups (N,)."""

    pixels: np.ndarray
    labels: np.ndarray
    groups: np.ndarray

    def of(self, label: int) -> np.ndarray:
        return np.flatnonzero(self.labels == label)


def read_tiles(archive: Path) -> dict[str, Tiles]:
    """Decode all tiles, and tell their groups apart; the split is always the same."""
    pixels, labels, groups = [], [], []
    with zipfile.ZipFile(archive) as opened:
        for name in sorted(n for n in opened.namelist() if n.endswith(".jpeg")):
            label, group, _ = name.split("/")[-3:]
            with Image.open(io.BytesIO(opened.read(name))) as image:
                reduced = np.asarray(image.convert("RGB").reduce(image.width // TILE))
            pixels.append(reduced.transpose(2, 0, 1))
            labels.append(CLASSES.index(label))
            groups.append(f"{label}/{group}")
    every = Tiles(np.stack(pixels), np.array(labels), np.array(groups))
    parts: dict[str, list[str]] = {part: [] for part in PARTS}
    for label in range(len(CLASSES)):
        own = np.random.default_rng(0).permutation(np.unique(every.groups[every.of(label)]))
        for part, cuts in PARTS.items():
            first, last = (round(cut * len(own)) for cut in cuts)
            parts[part] += own[first:last].tolist()
    taken = {part: np.isin(every.groups, names) for part, names in parts.items()}
    assert (sum(rows.astype(int) for rows in taken.values()) == 1).all()
    return {
        part: Tiles(every.pixels[rows], every.labels[rows], every.groups[rows])
        for part, rows in taken.items()
    }


def normalised(pixels: np.ndarray) -> torch.Tensor:
    scaled = torch.from_numpy(pixels).float().div_(255).sub_(0.65).div_(0.2)
    return scaled.contiguous(memory_format=torch.channels_last)


class Mosaics:
    """Draws fields without end from one part of the tiles, in an order set by the seed.

    Parameters
    ----------
    tiles : Tiles
        Of one part.
    across, region : int
        Tiles along a side of the field, and of the region that decides.
    seed : int
        Seeds everything.
    augment : bool
        Turn and flip every tile at random.
    """

    def __init__(
        self, tiles: Tiles, across: int, region: int, seed: int, augment: bool = False
    ) -> None:
        self.tiles, self.across, self.region, self.augment = tiles, across, region, augment
        self.random = np.random.default_rng(seed)

    def draw(self) -> tuple[np.ndarray, int, tuple[int, int, int]]:
        """Return the pixels (3, S, S) uint8, the class, and the region's top, left, side."""
        label = int(self.random.integers(len(CLASSES)))
        which = self.random.choice(self.tiles.of(0), (self.across, self.across))
        y, x = self.random.integers(0, self.across - self.region + 1, 2)
        # One group: a region of one tissue, not of several patients'.
        one = self.random.choice(np.unique(self.tiles.groups[self.tiles.of(label)]))
        copies = np.flatnonzero(self.tiles.groups == one)
        which[y : y + self.region, x : x + self.region] = self.random.choice(
            copies, (self.region, self.region), replace=len(copies) < self.region**2
        )
        field = np.empty((3, self.across * TILE, self.across * TILE), np.uint8)
        for (row, column), index in np.ndenumerate(which):
            tile = self.tiles.pixels[index]
            if self.augment:
                turns, flip = self.random.integers(4), self.random.integers(2)
                tile = np.rot90(tile, turns, (1, 2))
                tile = tile[:, :, ::-1] if flip else tile
            top, left = row * TILE, column * TILE
            field[:, top : top + TILE, left : left + TILE] = tile
        return field, label, (int(y) * TILE, int(x) * TILE, self.region * TILE)


class Batches:
    """Training fields, drawn anew in every epoch."""

    def __init__(self, mosaics: Mosaics, steps: int, batch: int) -> None:
        self.mosaics, self.steps, self.batch = mosaics, steps, batch

    def __len__(self) -> int:
        return self.steps

    def __iter__(self) -> Iterator[tuple[torch.Tensor, torch.Tensor]]:
        for _ in range(self.steps):
            drawn = [self.mosaics.draw() for _ in range(self.batch)]
            fields = normalised(np.stack([field for field, _, _ in drawn]))
            yield fields, torch.tensor([label for _, label, _ in drawn])


def fit(
    model: TNet,
    parts: dict[str, Tiles],
    across: int,
    region: int,
    minutes: float,
    options: TNetOptions,
    arguments: argparse.Namespace,
) -> int:
    """Train within the minutes, validation included; return the number of fields seen."""
    start = time.perf_counter()
    batch = arguments.tile_batch if across == 1 else arguments.batch
    fixed = list(
        Batches(
            Mosaics(parts["validation"], across, region, seed=2), arguments.validation // 16, 16
        )
    )

    def validate(net: TNet) -> tuple[float, float]:
        logits = torch.cat([net(images).logits for images, _ in fixed])
        truth = torch.cat([labels for _, labels in fixed])
        right = (logits.argmax(1) == truth).float().mean()
        return float(torch.nn.functional.cross_entropy(logits, truth)), float(right)

    mosaics = Mosaics(parts["training"], across, region, seed=1, augment=True)
    # A few steps tell the time of one; the schedule is then laid out for the budget.
    for _ in range(2):  # the first also prepares the kernels
        began = time.perf_counter()
        still = dataclasses.replace(options, epochs=1, learning_rate=0.0)
        list(fit_tnet(model, Batches(mosaics, 2, batch), lambda _: (1.0, 0.0), still))
        each = (time.perf_counter() - began) / 2
    began = time.perf_counter()
    with torch.inference_mode():
        validate(model)
    checking = time.perf_counter() - began
    left = minutes * 60 - (time.perf_counter() - start)
    steps = max(2, round((left / options.epochs - checking) / each))
    for epoch in fit_tnet(model, Batches(mosaics, steps, batch), validate, options):
        print(
            f"  {epoch.epoch}/{epoch.epochs}: training {epoch.train_accuracy:.3f}, validation "
            f"{epoch.accuracy:.3f} (loss {epoch.loss:.3f}), {epoch.seconds:.0f} s",
            flush=True,
        )
    print(f"  {options.epochs} x {steps} steps of {batch}: {time.perf_counter() - start:.0f} s")
    return options.epochs * steps * batch


def config(across: int, locations: tuple[int, ...] | None) -> TNetConfig:
    """Of a field's size; without locations, dense."""
    side = across * TILE
    return TNetConfig(
        n_classes=len(CLASSES),
        image_size=side,
        base=side if locations is None else TILE,
        locations=() if locations is None else locations[: across.bit_length() - 1],
        backbone=BACKBONE,
        dropout=0.1,
    )


def save(model: TNet, file: Path | None, seen: int) -> None:
    if file:
        weights = {k: v.contiguous() for k, v in model.state_dict().items()}
        with replacing(file) as temporary:
            save_file(weights, temporary, {"seen": str(seen)})


def earlier(file: Path | None) -> tuple[dict[str, torch.Tensor], int] | None:
    """Weights that an earlier run has kept, and the images they have seen."""
    if not file or not file.exists():
        return None
    with safe_open(file, "pt") as opened:
        print(f"{file.name}: weights of an earlier run")
        return load_file(file), int(opened.metadata()["seen"])


def warmed_up(parts: dict[str, Tiles], arguments: argparse.Namespace) -> dict[str, torch.Tensor]:
    """Weights of a classifier of single tiles, with which both networks begin."""
    file = arguments.weights and arguments.weights.with_stem(f"{arguments.weights.stem}-tiles")
    if kept := earlier(file):
        return kept[0]
    torch.manual_seed(0)
    model = TNet(config(1, None)).to(memory_format=torch.channels_last)
    print("single tiles")
    options = TNetOptions(epochs=8, learning_rate=2e-3, steady=0.4)
    save(model, file, fit(model, parts, 1, 1, arguments.warm_up, options, arguments))
    return model.state_dict()


def stages(
    name: str,
    start: dict[str, torch.Tensor],
    parts: dict[str, Tiles],
    arguments: argparse.Namespace,
) -> dict[int, tuple[TNet, int]]:
    """Train on growing fields; return the network at the end of each stage, and fields seen."""
    locations = None if name == "dense" else tuple(arguments.locations)
    torch.manual_seed(0)
    model, seen, made = TNet(config(1, locations)), 0, {}
    model.load_state_dict(start)
    model.to(memory_format=torch.channels_last)
    for across, region, share in STAGES[: arguments.stages]:
        model.config = config(across, locations)
        file = arguments.weights
        file = file and file.with_stem(f"{file.stem}-{name.lower()}-{across}")
        if kept := earlier(file):
            model.load_state_dict(kept[0])
            seen = kept[1]
        else:
            print(f"{name}, {across * TILE} x {across * TILE}, locations {model.config.locations}")
            options = TNetOptions(
                epochs=arguments.epochs,
                learning_rate=arguments.learning_rate,
                noise=arguments.noise,
                lambda_c=arguments.lambda_c,
                beta=arguments.beta,
            )
            minutes = share * arguments.minutes
            seen += fit(model, parts, across, region, minutes, options, arguments)
            save(model, file, seen)
        made[across] = (copy.deepcopy(model).eval(), seen)
    return made


def inside(output: TNetOutput, region: tuple[int, int, int]) -> np.ndarray:
    """Share of each finest crop's area that lies in the region."""
    boxes = output.levels[-1].crops.boxes.numpy()
    low = np.maximum(boxes[:, :2], region[:2])
    high = np.minimum(boxes[:, :2] + boxes[:, 2:], np.array(region[:2]) + region[2])
    shares: np.ndarray = (high - low).clip(0).prod(1) / boxes[:, 2] ** 2
    return shares


def hits(shares: list[np.ndarray]) -> tuple[float, float]:
    """Share of fields with a finest crop at least half inside; mean share of the crops' area."""
    found = np.mean([each.max() >= 0.5 for each in shares])
    return float(found), float(np.concatenate(shares).mean())


@torch.inference_mode()
def side_by_side(
    nets: dict[str, tuple[TNet, int]], tiles: Tiles, across: int, region: int, n: int
) -> list[dict[str, Any]]:
    """All networks on the same fields, in turn: accuracy, time, and where they looked."""
    mosaics, dice = Mosaics(tiles, across, region, seed=3), torch.Generator().manual_seed(0)
    truth = []
    odds: dict[str, list[np.ndarray]] = {name: [] for name in nets}
    times: dict[str, list[float]] = {name: [] for name in nets}
    shares: dict[str, list[np.ndarray]] = {name: [] for name in nets}
    outputs: dict[str, TNetOutput] = {}
    for number in range(n):
        field, label, where = mosaics.draw()
        image = normalised(field[None])
        truth.append(label)
        for name, (model, _) in nets.items():
            if number == 0:
                model(image)  # prepares the kernels
            began = time.perf_counter()
            outputs[name] = output = model(
                image, noise=DICE if RANDOM in name else 0, generator=dice
            )
            times[name].append(time.perf_counter() - began)
            odds[name].append(output.logits[0].softmax(0).numpy())
            if label and output.grids:
                shares[name].append(inside(output, where))
    rows = []
    for name, (model, seen) in nets.items():
        output, locations = outputs[name], model.config.locations
        with FlopCounterMode(display=False) as counter:
            model(image)
        crops = sum(len(level.crops.image) for level in output.levels)
        report = classification_report(np.stack(odds[name]), np.array(truth), CLASSES)
        rows.append({
            "network": name, "locations": locations, "seen": seen, "crops": crops,
            "accuracy": report.accuracy, "interval": report.accuracy_interval,
            "f1": report.macro_f1, "recall": [c.recall for c in report.per_class.values()],
            "mmac": counter.get_total_flops() / 2e6, "ms": 1000 * float(np.median(times[name])),
            "looked": crops * model.config.base**2 / (across * TILE) ** 2,
            "hits": hits(shares[name]) if locations else None,
        })  # fmt: skip
    return rows


def table(rows: list[dict[str, Any]]) -> None:
    print(
        "| network | K | fields seen | accuracy [95 %] | macro F1 | recall b/a/s | MMAC | ms | "
        "times faster | pixels looked at | region found | finest crops' area on it |"
    )
    print("| --- " * 12 + "|")
    for r in rows:
        found = area = "–"
        if r["hits"]:
            found, area = (f"{100 * share:.0f} %" for share in r["hits"])
        low, high = r["interval"]
        recall = "/".join(f"{100 * each:.0f}" for each in r["recall"])
        print(
            f"| {r['network']} | {r['locations']} | {r['seen']} | {100 * r['accuracy']:.1f} "
            f"[{100 * low:.1f}, {100 * high:.1f}] | {r['f1']:.3f} | {recall} | {r['mmac']:.0f} | "
            f"{r['ms']:.1f} | {rows[0]['ms'] / r['ms']:.2f} | {100 * r['looked']:.1f} % | "
            f"{found} | {area} |",
            flush=True,
        )


def counts(parts: dict[str, Tiles]) -> None:
    print("| part | groups (b/a/s) | tiles (b/a/s) |\n| --- | --- | --- |")
    for part, tiles in parts.items():
        own = [tiles.of(label) for label in range(len(CLASSES))]
        groups = [len(np.unique(tiles.groups[rows])) for rows in own]
        print(
            f"| {part} | {sum(groups)} ({'/'.join(map(str, groups))}) | {len(tiles.labels)} "
            f"({'/'.join(str(len(rows)) for rows in own)}) |"
        )
    together = [set(tiles.groups) for tiles in parts.values()]
    assert sum(map(len, together)) == len(set.union(*together))
    print("no group is in two parts\n", flush=True)


def parsed() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--archive", type=Path, default=default_archive())
    parser.add_argument("--locations", type=int, nargs=3, default=[3, 1, 1])
    parser.add_argument("--warm-up", type=float, default=2.5, help="minutes on single tiles")
    parser.add_argument("--minutes", type=float, default=6, help="of training, each network")
    parser.add_argument("--epochs", type=int, default=3, help="of each stage")
    parser.add_argument("--stages", type=int, default=3, help="1: 224, 2: 448, 3: 896 pixels")
    parser.add_argument("--batch", type=int, default=8)
    parser.add_argument("--tile-batch", type=int, default=32)
    parser.add_argument("--validation", type=int, default=64, help="fields")
    parser.add_argument("--learning-rate", type=float, default=1e-3)
    parser.add_argument("--noise", type=float, default=0.3, help="on the choices, at first")
    parser.add_argument("--lambda-c", type=float, default=0.3, help="whole fields against crops")
    parser.add_argument("--beta", type=float, default=0.1, help="weight of the choices")
    parser.add_argument("--fields", type=int, default=400, help="test fields; 0 for none")
    parser.add_argument("--networks", nargs="*", default=["dense", "TNet"])
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--weights", type=Path, help="kept here, and used if they are there")
    parser.add_argument("--json", type=Path)
    return parser.parse_args()


def main() -> None:
    arguments = parsed()
    torch.set_num_threads(arguments.threads)
    parts = read_tiles(arguments.archive)
    counts(parts)
    start = warmed_up(parts, arguments)
    made = {name: stages(name, start, parts, arguments) for name in arguments.networks}
    found = {}
    for across, region, _ in STAGES[1 : arguments.stages] if arguments.fields else ():
        nets = {name: stage[across] for name, stage in made.items()}
        if "TNet" in nets:  # the chance level, of the places and of what they are good for
            nets[f"TNet, {RANDOM}"] = nets["TNet"]
        print(
            f"\n{across * TILE} x {across * TILE}: mosaics of {across} x {across} tiles, the "
            f"region {region} x {region}; {arguments.fields} test fields, which use the same "
            f"{len(np.unique(parts['test'].groups))} test groups over and over (intervals are of "
            "fields, not of patients)"
        )
        found[across * TILE] = side_by_side(nets, parts["test"], across, region, arguments.fields)
        table(found[across * TILE])
    if arguments.json:
        arguments.json.write_text(json.dumps(found, indent=1))


if __name__ == "__main__":
    main()
