"""TNet beside a dense pass of the same backbone: time, operations, memory, bytes.

    python benchmarks/tnet.py
    python benchmarks/tnet.py --backbone path/to/mobilenetv2_imagenet

First at 896 x 896, the paper's largest size: the whole image through the
backbone against TNet's crops of 224. Then on images drawn on demand of up to
100 000 x 100 000 pixels: TNet's lazy traversal against all tiles of 224. Dense
passes that would take longer than ``--most-dense`` are estimated from the time
per tile, and marked with ~. The location module's weights are random: nothing
here depends on them but the path taken. Each row is a process of its own, so
that its peak memory is its own; in the second table, memory is above that of a
process that has loaded the network.
"""

from __future__ import annotations

import argparse
import json
import math
import platform
import resource
import subprocess
import sys
import time

import numpy as np
import torch
from torch.utils.flop_counter import FlopCounterMode

from napari_sparseattn.images.normalise import Normalisation
from napari_sparseattn.images.slides.pyramid import VirtualPyramid
from napari_sparseattn.inference.fields import traverse
from napari_sparseattn.models.backbones import Backbone, SmallBackbone, pretrained_backbone
from napari_sparseattn.models.tnet.network import TNet, TNetConfig

BASE = 224
NORMALISATION = Normalisation("fixed", 0.5, 0.25)


def net(backbone: str, base: int, side: int, locations: tuple[int, ...]) -> TNet:
    torch.manual_seed(0)
    made: Backbone = (
        SmallBackbone() if backbone == "small" else pretrained_backbone(backbone).eval()
    )
    config = TNetConfig(image_size=side, base=base, locations=locations)
    return TNet(config, made).eval()


def resident() -> float:
    """Most memory held so far, MiB."""
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024


@torch.inference_mode()
def at_896(kind: str, backbone: str, repeats: int) -> dict[str, float]:
    """Dense or TNet on one image in memory."""
    side = 896
    base, locations = (side, ()) if kind == "dense" else (BASE, json.loads(kind))
    model = net(backbone, base, side, tuple(locations))
    model(torch.zeros(1, 3, side, side), [])  # the root alone, to prepare the kernels
    image = torch.rand(1, 3, side, side)
    times = []
    for _ in range(repeats):
        began = time.perf_counter()
        output = model(image)
        times.append(time.perf_counter() - began)
    with FlopCounterMode(display=False) as counter:
        model(image)
    return {
        "crops": sum(len(level.crops.image) for level in output.levels),
        "seconds": float(np.median(times)),
        "gmac": counter.get_total_flops() / 2e9,
        "peak": resident(),
    }


def texture(level: int, y: int, x: int, height: int, width: int) -> np.ndarray:
    """Something to look at anywhere, at next to no cost."""
    rows, columns = (np.arange(start, start + n) for start, n in ((y, height), (x, width)))
    grey = (rows[:, None] * 7 ^ columns[None] * 13) + 31 * level
    return np.repeat(grey.astype(np.uint8)[..., None], 3, axis=2)


def lazily(side: int, backbone: str) -> dict[str, float]:
    """TNet on an image drawn on demand."""
    model = net(backbone, BASE, 896, (4, 2, 1))
    traverse(VirtualPyramid(texture, 256, 256), model, NORMALISATION)
    before = resident()
    pyramid = VirtualPyramid(texture, side, side)
    began = time.perf_counter()
    output = traverse(pyramid, model, NORMALISATION)
    seconds = time.perf_counter() - began
    reading = pyramid.ledger.snapshot()
    return {
        "crops": sum(len(level.crops.image) for level in output.levels),
        "levels": len(output.levels),
        "seconds": seconds,
        "drawing": reading.seconds,
        "mib": reading.bytes_decoded / 2**20,
        "share": 100 * reading.fraction_read,
        "memory": resident() - before,
    }


@torch.inference_mode()
def densely(side: int, backbone: str, most: int) -> dict[str, float]:
    """All tiles of 224 through the backbone, eight at a time."""
    model = net(backbone, BASE, 896, ()).backbone
    model(torch.zeros(8, 3, BASE, BASE))
    before = resident()
    pyramid = VirtualPyramid(texture, side, side)
    across = math.ceil(side / BASE)
    done, began = 0, time.perf_counter()
    while done < min(across**2, most):
        places = [divmod(i, across) for i in range(done, min(done + 8, across**2))]
        tiles = [pyramid.read_region(y * BASE, x * BASE, 0, BASE, BASE).pixels for y, x in places]
        batch = NORMALISATION(np.stack(tiles).transpose(0, 3, 1, 2).astype(np.float32) / 255)
        model(torch.from_numpy(batch))
        done += len(places)
    factor = across**2 / done
    return {
        "tiles": across**2,
        "seconds": (time.perf_counter() - began) * factor,
        "estimated": factor > 1,
        "mib": 3 * side**2 / 2**20,
        "memory": resident() - before,
    }


def row(task: list[str], arguments: argparse.Namespace) -> dict[str, float]:
    """Run one measurement in a process of its own."""
    command = [sys.executable, __file__, "--backbone", arguments.backbone]
    command += ["--threads", str(arguments.threads), "--most-dense", str(arguments.most_dense)]
    command += ["--repeats", str(arguments.repeats), "--one", *task]
    made = subprocess.run(command, check=True, capture_output=True, text=True)
    found: dict[str, float] = json.loads(made.stdout.splitlines()[-1])
    return found


def one(task: list[str], arguments: argparse.Namespace) -> dict[str, float]:
    kind, value = task
    if kind == "896":
        return at_896(value, arguments.backbone, arguments.repeats)
    if kind == "lazy":
        return lazily(int(value), arguments.backbone)
    return densely(int(value), arguments.backbone, arguments.most_dense)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--backbone", default="small", help="'small' or a transformers folder")
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--repeats", type=int, default=5)
    parser.add_argument("--most-dense", type=int, default=256, help="tiles run, not estimated")
    parser.add_argument(
        "--sides", type=int, nargs="*", default=[1000, 3000, 10_000, 30_000, 100_000]
    )
    parser.add_argument("--one", nargs=2, help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    torch.set_num_threads(arguments.threads)
    if arguments.one:
        print(json.dumps(one(arguments.one, arguments)))
        return
    name = arguments.backbone.rstrip("/").rsplit("/", maxsplit=1)[-1]
    print(f"{platform.machine()}, {arguments.threads} thread(s), backbone {name}\n")
    print("| 896 x 896 | crops | GMAC | ms | peak memory of the process, MiB | times faster |")
    print("| --- | --- | --- | --- | --- | --- |")
    dense = row(["896", "dense"], arguments)
    for label, made in [
        ("dense", dense),
        *(
            (f"TNet, K {k}", row(["896", json.dumps(k)], arguments))
            for k in ([1, 1], [2, 1], [4, 2])
        ),
    ]:
        print(
            f"| {label} | {made['crops']} | {made['gmac']:.3f} | {1000 * made['seconds']:.0f} | "
            f"{made['peak']:.0f} | {dense['seconds'] / made['seconds']:.2f} |",
            flush=True,
        )
    print(
        "\n| side | TNet crops (levels) | s | of it drawing | MiB decoded | full resolution read | "
        "memory, MiB | dense tiles | s | MiB | memory, MiB |"
    )
    print("| --- " * 11 + "|")
    for side in arguments.sides:
        lazy, full = (row([kind, str(side)], arguments) for kind in ("lazy", "dense"))
        about = "~" if full["estimated"] else ""
        print(
            f"| {side} | {lazy['crops']} ({lazy['levels']}) | {lazy['seconds']:.2f} | "
            f"{lazy['drawing']:.2f} | {lazy['mib']:.1f} | {lazy['share']:.3g} % | "
            f"{lazy['memory']:.0f} | {full['tiles']} | {about}{full['seconds']:.1f} | "
            f"{full['mib']:.0f} | {full['memory']:.0f} |",
            flush=True,
        )


if __name__ == "__main__":
    main()
