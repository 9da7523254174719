"""Needles in a haystack: digits on a large black field, found and read by a TNet.

    python benchmarks/needles.py --minutes 20 --weights needles.safetensors

After Megapixel MNIST (Katharopoulos & Fleuret 2019): five digits of 28 x 28
pixels at random places, three of the class and two of others, among strokes
that are no digits. The digits are those of ``sklearn.datasets.load_digits``
(8 x 8 pixels, enlarged), told apart into training and test *before* fields are
drawn. The published recipe is 1500 x 1500 with 50 strokes; the default here is
smaller, so that one CPU core can train it, and says so in its output.

Training begins on fields of a quarter of the side and grows twice. The dense
baseline is the same backbone over the whole field at full resolution,
given the same minutes. Every test field is read lazily, as a slide is.
"""

from __future__ import annotations

import argparse
import dataclasses
import json
import time
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import torch
from safetensors.torch import load_file, save_file
from torch.utils.flop_counter import FlopCounterMode

from napari_sparseattn.files import replacing
from napari_sparseattn.images.normalise import Normalisation
from napari_sparseattn.images.slides.pyramid import VirtualPyramid
from napari_sparseattn.inference.fields import traverse
from napari_sparseattn.metrics import wilson
from napari_sparseattn.models.tnet.network import TNet, TNetConfig
from napari_sparseattn.training.loop.tnet import TNetOptions, fit_tnet

GLYPH = 28
NORMALISATION = Normalisation("fixed", 0.0, 0.25)
BACKBONE = {"name": "small", "widths": (16, 32, 64, 96)}


@dataclasses.dataclass(frozen=True)
class Scene:
    """One field: patches (n, 28, 28) uint8, their corners (n, 2), and the class."""

    side: int
    patches: np.ndarray
    corners: np.ndarray
    label: int

    def image(self) -> np.ndarray:
        field = np.zeros((self.side, self.side), np.uint8)
        for patch, (y, x) in zip(self.patches, self.corners, strict=True):
            there = field[y : y + GLYPH, x : x + GLYPH]
            np.maximum(there, patch, out=there)
        return field

    def render(self, level: int, y: int, x: int, height: int, width: int) -> np.ndarray:
        """Draw a part of a level: the mean over areas of 2**level pixels."""
        scale = 2**level
        top, left = y * scale, x * scale
        bottom, right = top + height * scale, left + width * scale
        total = np.zeros((height, width))
        low, high = self.corners, self.corners + GLYPH
        near = (high > (top, left)).all(1) & (low < (bottom, right)).all(1)
        for patch, (py, px) in zip(self.patches[near], self.corners[near], strict=True):
            rows, columns = ((p + np.arange(GLYPH)) // scale - at for p, at in ((py, y), (px, x)))
            inside = np.ix_((rows >= 0) & (rows < height), (columns >= 0) & (columns < width))
            where = np.broadcast_arrays(rows[:, None], columns[None])
            part = tuple(index[inside] for index in where)
            if scale == 1:
                total[part] = np.maximum(total[part], patch[inside])
            else:  # strokes and digits rarely overlap; there the sum is cut off at white
                np.add.at(total, part, patch[inside] / scale**2)
        return np.minimum(total, 255).round().astype(np.uint8)

    def pyramid(self) -> VirtualPyramid:
        return VirtualPyramid(self.render, self.side, self.side, channels=1, tile=64)


class Scenes:
    """Draws fields without end from one part of the digits."""

    def __init__(self, part: str, side: int, strokes: int, seed: int) -> None:
        from scipy.ndimage import zoom
        from sklearn.datasets import load_digits

        digits, labels = load_digits(return_X_y=True)
        test = np.random.default_rng(0).permutation(len(labels)) % 5 == 0
        take = test if part == "test" else ~test
        images = zoom(digits[take].reshape(-1, 8, 8) / 16, (1, 3, 3), order=1)
        framed = np.pad(images.clip(0, 1), ((0, 0), (2, 2), (2, 2)))
        self.glyphs, self.labels = (framed * 255).round().astype(np.uint8), labels[take]
        self.side, self.strokes = side, strokes
        self.random = np.random.default_rng(seed)

    def draw(self) -> Scene:
        random, label = self.random, int(self.random.integers(10))
        own = random.choice(np.flatnonzero(self.labels == label), 3, replace=False)
        others = random.choice(np.flatnonzero(self.labels != label), 2, replace=False)
        corners = self._places(5)
        patches = [*self.glyphs[own], *self.glyphs[others]]
        for _ in range(self.strokes):
            patches.append(self._stroke())
            corners.append(random.integers(0, self.side - GLYPH + 1, 2))
        return Scene(self.side, np.stack(patches), np.stack(corners), label)

    def _places(self, n: int) -> list[np.ndarray]:
        """Corners of n digits that do not overlap."""
        if self.side < 4 * GLYPH:
            raise ValueError(f"fields must be at least {4 * GLYPH} pixels wide, not {self.side}")
        while True:  # in a small field, the first few can leave no room for the rest
            corners: list[np.ndarray] = []
            for place in self.random.integers(0, self.side - GLYPH + 1, (50 * n, 2)):
                if all(np.abs(place - other).max() >= GLYPH for other in corners):
                    corners.append(place)
                if len(corners) == n:
                    return corners

    def _stroke(self) -> np.ndarray:
        """A straight line, 2 pixels wide, from one place of the patch to another."""
        ends = self.random.uniform(2, GLYPH - 3, (2, 2))
        grid = np.stack(np.mgrid[:GLYPH, :GLYPH], -1)
        along = ends[1] - ends[0]
        share = ((grid - ends[0]) @ along / max(along @ along, 1e-6)).clip(0, 1)
        distance = np.linalg.norm(grid - (ends[0] + share[..., None] * along), axis=-1)
        return (255 * (1.5 - distance).clip(0, 1)).astype(np.uint8)


class Batches:
    """Training fields, drawn anew in every epoch."""

    def __init__(self, scenes: Scenes, steps: int, batch: int) -> None:
        self.scenes, self.steps, self.batch = scenes, steps, batch

    def __len__(self) -> int:
        return self.steps

    def __iter__(self) -> Iterator[tuple[torch.Tensor, torch.Tensor]]:
        for _ in range(self.steps):
            drawn = [self.scenes.draw() for _ in range(self.batch)]
            fields = torch.from_numpy(np.stack([scene.image() for scene in drawn]))
            images = fields[:, None].float() / 255 / NORMALISATION.std
            yield images, torch.tensor([scene.label for scene in drawn])


def stages(side: int, base: int, locations: tuple[int, ...]) -> list[TNetConfig]:
    """Growing fields: at once on the large one, no network here got off the ground."""
    dense = base == side
    sizes = [side // 4, side // 2, side]
    return [
        TNetConfig(
            n_classes=10,
            in_channels=1,
            image_size=size,
            base=size if dense else base,
            locations=locations[: max(0, len(locations) - 2 + i)],
            backbone=BACKBONE,
            dropout=0.1,
        )
        for i, size in enumerate(sizes)
    ]


def train(model: TNet, config: TNetConfig, minutes: float, arguments: argparse.Namespace) -> int:
    """Train on fields of one size for the minutes given; return the number of fields seen."""
    model.config, side = config, config.image_size
    strokes = max(1, round(arguments.strokes * (side / arguments.side) ** 2))
    scenes = Scenes("training", side, strokes, seed=1)
    fixed = list(Batches(Scenes("training", side, strokes, seed=2), 8, 32))

    def validate(net: TNet) -> tuple[float, float]:
        logits = torch.cat([net(images).logits for images, _ in fixed])
        truth = torch.cat([labels for _, labels in fixed])
        right = (logits.argmax(1) == truth).float().mean()
        return float(torch.nn.functional.cross_entropy(logits, truth)), float(right)

    # A few steps tell the time of one; the schedule is then laid out for the budget.
    for _ in range(2):  # the first also prepares the kernels
        began = time.perf_counter()
        few = Batches(scenes, 4, arguments.batch)
        list(fit_tnet(model, few, lambda _: (1.0, 0.0), TNetOptions(epochs=1, learning_rate=1e-5)))
    each = (time.perf_counter() - began) / len(few)
    steps = max(10, round(minutes * 60 / each / arguments.epochs))
    options = TNetOptions(
        epochs=arguments.epochs,
        learning_rate=2e-3,
        steady=0.6,
        noise=arguments.noise,
        lambda_c=arguments.lambda_c,
    )
    print(
        f"{side} x {side}, base {config.base}, locations {config.locations}: {arguments.epochs} x "
        f"{steps} steps of {arguments.batch} fields",
        flush=True,
    )
    for epoch in fit_tnet(model, Batches(scenes, steps, arguments.batch), validate, options):
        print(
            f"  {epoch.epoch}/{epoch.epochs}: training {epoch.train_accuracy:.3f}, validation "
            f"{epoch.accuracy:.3f} (loss {epoch.loss:.3f}), {epoch.seconds:.0f} s",
            flush=True,
        )
    return arguments.epochs * steps * arguments.batch


@torch.inference_mode()
def measured(model: TNet, scenes: list[Scene], locations: tuple[int, ...]) -> dict[str, float]:
    """Accuracy on test fields read lazily, and what was read."""
    right = decoded = looked = 0
    began = time.perf_counter()
    for scene in scenes:
        pyramid = scene.pyramid()
        output = traverse(pyramid, model, NORMALISATION, locations)
        right += int(output.logits[0].argmax()) == scene.label
        decoded += pyramid.ledger.snapshot().bytes_decoded
        looked += sum(len(level.crops.image) for level in output.levels) * model.config.base**2
    seconds = (time.perf_counter() - began) / len(scenes)
    with FlopCounterMode(display=False) as counter:
        traverse(scenes[0].pyramid(), model, NORMALISATION, locations)
    low, high = wilson(right, len(scenes))
    whole = len(scenes) * scenes[0].side ** 2
    return {
        "accuracy": right / len(scenes), "low": low, "high": high,
        "looked": looked / whole, "decoded": decoded / whole,
        "mmac": counter.get_total_flops() / 2e6, "ms": 1000 * seconds,
    }  # fmt: skip


def trained(
    name: str, base: int, locations: tuple[int, ...], arguments: argparse.Namespace
) -> tuple[TNet, int]:
    """A network from its file, or trained now; and the fields it has seen now."""
    torch.manual_seed(0)
    grown = stages(arguments.side, base, locations)
    model = TNet(grown[-1]).to(memory_format=torch.channels_last)
    file = arguments.weights and arguments.weights.with_stem(
        f"{arguments.weights.stem}-{name.lower()}"
    )
    if file and file.exists():
        model.load_state_dict(load_file(file))
        return model.eval(), 0
    shares: tuple[float, ...] = (0.25, 0.25, 0.5)
    if arguments.start:
        model.load_state_dict(load_file(arguments.start))
        grown, shares = grown[-1:], (1.0,)
    print(name)
    seen = 0
    for config, share in zip(grown, shares, strict=True):
        seen += train(model, config, share * arguments.minutes, arguments)
    if file:
        with replacing(file) as temporary:
            save_file({k: v.contiguous() for k, v in model.state_dict().items()}, temporary)
    return model.eval(), seen


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--side", type=int, default=448)
    parser.add_argument("--base", type=int, default=56)
    parser.add_argument("--strokes", type=int, default=10)
    parser.add_argument("--locations", type=int, nargs="*", default=[4, 2])
    parser.add_argument("--minutes", type=float, default=20, help="of training, each network")
    parser.add_argument("--epochs", type=int, default=10, help="of each of the three stages")
    parser.add_argument("--batch", type=int, default=16)
    parser.add_argument("--noise", type=float, default=0.3, help="on the choices, at first")
    parser.add_argument("--lambda-c", type=float, default=0.3, help="whole fields against crops")
    parser.add_argument("--fields", type=int, default=400, help="test fields")
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--skip-dense", action="store_true")
    parser.add_argument(
        "--start", type=Path, help="weights to begin with, on the full side at once"
    )
    parser.add_argument("--weights", type=Path, help="kept here, and used if they are there")
    parser.add_argument("--json", type=Path)
    arguments = parser.parse_args()
    torch.set_num_threads(arguments.threads)
    taken = tuple(arguments.locations)
    nets = {"TNet": (arguments.base, taken)}
    if not arguments.skip_dense:
        nets["dense"] = (arguments.side, ())
    covered = 5 * GLYPH**2 / arguments.side**2
    print(
        f"fields of {arguments.side} x {arguments.side} (published: 1500 x 1500), "
        f"{arguments.strokes} strokes; the digits cover {100 * covered:.2g} %"
    )
    rows = []
    test = Scenes("test", arguments.side, arguments.strokes, seed=3)
    scenes = [test.draw() for _ in range(arguments.fields)]
    for name, (base, locations) in nets.items():
        model, seen = trained(name, base, locations, arguments)
        dials = {tuple(min(k, most) for k in locations) for most in (1, 2, 3, 4)} | {locations}
        if len(locations) == 2:
            dials |= {(4, 1), (4, 4)}
        rows += [
            {"network": name, "locations": each, "seen": seen,
             **measured(model, scenes, each)}
            for each in sorted(dials)
        ]  # fmt: skip
    print("\n| network | locations | accuracy [95 %] | looked at | decoded | MMAC | ms |")
    print("| --- | --- | --- | --- | --- | --- | --- |")
    for row in rows:
        print(
            f"| {row['network']} | {row['locations']} | {100 * row['accuracy']:.1f} "
            f"[{100 * row['low']:.1f}, {100 * row['high']:.1f}] | {100 * row['looked']:.1f} % | "
            f"{100 * row['decoded']:.1f} % | {row['mmac']:.0f} | {row['ms']:.0f} |"
        )
    if arguments.json:
        arguments.json.write_text(json.dumps(rows, indent=1))


if __name__ == "__main__":
    main()
