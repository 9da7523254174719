"""What takes how long: another version of this package, this one, and peers, in turns.

    python benchmarks/peers_speed.py --before CHECKOUT [--rounds 5] [--only cells holograms ...]
                                     [--slide FILE]

CHECKOUT is a checkout of an earlier version, whose ``src`` is measured as *before*. Every
figure is of a process of its own, on one thread: before, now and the peers one after another,
as many rounds as asked for. Seconds are those of the processor, so that other work on the machine
counts little; the median over rounds is printed, with the ratio to *before* (over 1: better).
Then the answers of both versions are compared.

Peers: MobileNetV2 and MobileNetV3-small (Howard et al. 2019), written out here without batch
normalisation, which a program that answers has folded away, channels last; our own exported
graph in onnxruntime; qpretrieve with scikit-image's unwrapping for holograms; the same SPAN along
a list of edges in plain torch. The slide is made: 80,000 x 60,000 pixels in JPEG tiles.
"""

from __future__ import annotations

import argparse
import dataclasses
import json
import os
import platform
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np

HERE = Path(__file__).resolve().parent
ROOT = HERE.parent
CELLS = 100_000
SIDE = 1024
PATCHES = 20_000


@dataclasses.dataclass(frozen=True)
class Row:
    """A line of the table: what is measured, in which unit, which way is better, and its aim."""

    what: str
    unit: str
    more_is_better: bool
    aim: float


#: What one process measures: the lines, by the names that it gives its figures.
GROUPS: dict[str, dict[str, Row]] = {
    "cells": {
        "1": Row("`blood-cells`, network alone, batch 1", "cells/s", True, 370),
        "64": Row("… batch 64", "cells/s", True, 500),
    },
    "holograms": {
        "1": Row("holograms of 1 Mpx, 1 cell", "frames/s", True, 45),
        "40": Row("… 40 cells", "frames/s", True, 45),
    },
    "exports": {
        "geojson": Row("GeoJSON of 100,000 outlined cells", "s", False, 4),
        "coco": Row("COCO of them", "s", False, 4),
        "ome-zarr": Row("OME-Zarr of them, peak memory above", "MB", False, 150),
    },
    "slide": {"tissue": Row("tissue mask of 80,000 x 60,000 pixels", "s", False, 2)},
    "span": {
        "seconds": Row("SPAN-MIL, 20,000 patches, D 512", "s", False, 1.5),
        "memory": Row("… peak memory", "MiB", False, 80),
    },
    "training": {"seconds": Row("… training step", "s", False, 4)},
    "start": {
        "help": Row("`napari-sparseattn --help`", "s", False, 0.5),
        "missing": Row("… of a file that is not there", "s", False, 1),
        "dock": Row("importing the main dock beside napari", "s", False, 1),
    },
    "encoder": {"32": Row("default encoder, batches of 32", "patches/s", True, 250)},
}
PEERS: dict[str, tuple[str, ...]] = {
    "cells": ("onnxruntime", "MobileNetV2", "MobileNetV3-small"),
    "holograms": ("qpretrieve",),
    "span": ("edge list",),
}


# --------------------------------------------------------------------- one figure


def median_seconds(run: Callable[[], object], seconds: float = 1.5, least: int = 3) -> float:
    """Median processor time of a call, after two that do not count."""
    run()
    run()
    times: list[float] = []
    end = time.perf_counter() + seconds
    while len(times) < least or time.perf_counter() < end:
        began = time.process_time()
        run()
        times.append(time.process_time() - began)
    return statistics.median(times)


def measure_cells(batch: int, who: str) -> float:
    import torch

    generator = torch.Generator().manual_seed(0)
    # The peers have 64 pixels, of which they were trained.
    size = cell_bundle().card.crop.size if who in ("ours", "onnxruntime") else 64
    x = torch.rand(batch, 3, size, size, generator=generator)
    if who == "onnxruntime":
        run = exported(x.numpy())
    else:
        run_torch = peer_network(who, x)

        def run() -> object:
            with torch.inference_mode():
                return run_torch()

    return batch / median_seconds(run, least=5)


def cell_bundle() -> Any:
    """The model of cells that `--model` names."""
    from napari_sparseattn.bundle import load_bundle

    return load_bundle(os.environ["PEERS_SPEED_MODEL"])


def peer_network(who: str, x: Any) -> Callable[[], object]:
    import torch

    if who == "ours":
        model = cell_bundle().cell_model()
        return lambda: model(x)
    torch.manual_seed(0)
    network = mobilenet_v2() if who == "MobileNetV2" else mobilenet_v3_small()
    last = torch.channels_last
    network = network.eval().to(memory_format=last)
    return lambda: network(x.contiguous(memory_format=last))


def exported(crops: np.ndarray) -> Callable[[], object]:
    """Our exported graph without its normalisation, as the networks here get their crops."""
    import onnxruntime

    from napari_sparseattn.export.onnx_model import export_onnx

    bundle = cell_bundle()
    cached = Path(tempfile.gettempdir()) / f"peers-speed-{bundle.hash}.onnx"
    if not cached.exists():
        export_onnx(bundle, cached, normalise=False)
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = 1
    session = onnxruntime.InferenceSession(str(cached), options, providers=["CPUExecutionProvider"])
    return lambda: session.run(None, {session.get_inputs()[0].name: crops})


def mobilenet_v2() -> Any:
    from torch import nn

    from napari_sparseattn.models.mobilenet import CHANNELS, MobileNetV2

    return nn.Sequential(MobileNetV2(), nn.Linear(CHANNELS, 8))


def mobilenet_v3_small() -> Any:
    """MobileNetV3-small at width 1.0 with eight classes; 64 pixels are its input here."""
    from torch import nn

    class Squeeze(nn.Module):
        def __init__(self, width: int) -> None:
            super().__init__()
            least = max(8, int(width / 4 + 4) // 8 * 8)
            self.down, self.up = nn.Conv2d(width, least, 1), nn.Conv2d(least, width, 1)

        def forward(self, x: Any) -> Any:
            weight = nn.functional.relu(self.down(x.mean((2, 3), keepdim=True)))
            return x * nn.functional.hardsigmoid(self.up(weight))

    class Block(nn.Module):
        def __init__(
            self, inputs: int, side: int, wide: int, outputs: int, se: bool, hard: bool, stride: int
        ) -> None:
            super().__init__()
            act = nn.Hardswish if hard else nn.ReLU
            parts: list[nn.Module] = []
            if wide != inputs:
                parts += [nn.Conv2d(inputs, wide, 1), act(inplace=True)]
            parts += [nn.Conv2d(wide, wide, side, stride, side // 2, groups=wide)]
            parts += [act(inplace=True), *([Squeeze(wide)] if se else [])]
            self.body = nn.Sequential(*parts, nn.Conv2d(wide, outputs, 1))
            self.residual = stride == 1 and inputs == outputs

        def forward(self, x: Any) -> Any:
            return x + self.body(x) if self.residual else self.body(x)

    rows = [
        (16, 3, 16, 16, True, False, 2),
        (16, 3, 72, 24, False, False, 2),
        (24, 3, 88, 24, False, False, 1),
        (24, 5, 96, 40, True, True, 2),
        (40, 5, 240, 40, True, True, 1),
        (40, 5, 240, 40, True, True, 1),
        (40, 5, 120, 48, True, True, 1),
        (48, 5, 144, 48, True, True, 1),
        (48, 5, 288, 96, True, True, 2),
        (96, 5, 576, 96, True, True, 1),
        (96, 5, 576, 96, True, True, 1),
    ]
    return nn.Sequential(
        nn.Conv2d(3, 16, 3, 2, 1), nn.Hardswish(inplace=True),
        *(Block(*row) for row in rows),
        nn.Conv2d(96, 576, 1), nn.Hardswish(inplace=True), nn.AdaptiveAvgPool2d(1), nn.Flatten(),
        nn.Linear(576, 1024), nn.Hardswish(inplace=True), nn.Linear(1024, 8),
    )  # fmt: skip


def recorded(cells: int) -> Any:
    """One simulated hologram of SIDE x SIDE pixels with its background, made once for all."""
    from napari_sparseattn.images.holograms.recording import Recording
    from napari_sparseattn.simulate import Optics, hologram_with_truth

    cached = Path(tempfile.gettempdir()) / f"peers-speed-{SIDE}-{cells}.npz"
    if not cached.exists():
        made, *_ = hologram_with_truth(
            (SIDE, SIDE), 0, Optics(pixel_size=0.12), n_cells=cells, background=True
        )
        np.savez(cached, frame=made.frame(0), plain=made.background_of(0), wave=made.wavelength)
    with np.load(cached) as held:
        frame, plain, wave = held["frame"], held["plain"], float(held["wave"])
    frames = np.repeat(frame[None], 6, axis=0)
    return Recording(frames, "hologram", 0.12, wave, background=plain[None])


def measure_hologram(cells: int, who: str) -> float:
    recording = recorded(cells)
    if who == "qpretrieve":
        return 1 / median_seconds(lambda: by_qpretrieve(recording))
    from napari_sparseattn.images.holograms.holography import estimate_settings, iter_phase

    settings = estimate_settings(recording)

    def run() -> None:
        for _ in iter_phase(recording, settings):
            pass

    # The background's field is retrieved once for six frames.
    return len(recording) / median_seconds(run, 2.0)


def by_qpretrieve(recording: Any) -> np.ndarray:
    """The field and its phase as its authors' example has it; the background is known."""
    import warnings

    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        import qpretrieve
        from skimage.restoration import unwrap_phase

        if not hasattr(by_qpretrieve, "plain"):
            plain = qpretrieve.OffAxisHologram(recording.background_of(0))
            by_qpretrieve.plain = plain.run_pipeline(filter_name="disk", filter_size=1 / 3)  # type: ignore[attr-defined]
        hologram = qpretrieve.OffAxisHologram(recording.frame(0).copy())
        field = hologram.run_pipeline(filter_name="disk", filter_size=1 / 3)
        ratio = np.squeeze(field / by_qpretrieve.plain)  # type: ignore[attr-defined]
        return unwrap_phase(np.angle(ratio)) * recording.wavelength / (2 * np.pi)


def measure_export(name: str, field: str) -> float:
    command = [sys.executable, str(HERE / "exports.py"), "--cells", str(CELLS)]
    done = subprocess.run(
        [*command, "--one", name, "outlines"], capture_output=True, text=True, check=True
    )
    row = json.loads(done.stdout.splitlines()[-1])
    return float(row["memory"]) / 1e6 if field == "memory" else float(row["cpu"])


def measure_span(who: str, train: bool) -> dict[str, float]:
    import span
    import torch

    from napari_sparseattn.models.span import run_span

    torch.set_num_threads(1)
    if who == "ours" and not train:
        # As programs call it, with features in memory.
        net = span.network()
        span.runner = lambda case: (
            lambda features, cells: lambda: run_span(net, features, cells).logits
        )
    found = span.run_case(who, PATCHES, train, 1, 1)
    return {"seconds": float(found["seconds"]), "memory": float(found["peak"]) / 2**20}


def measure_tissue(slide: Path) -> float:
    from napari_sparseattn.images.slides.opening import open_slide
    from napari_sparseattn.images.tissue.mask import find_tissue

    began = time.process_time()
    with open_slide(slide) as pyramid:
        find_tissue(pyramid)
    return time.process_time() - began


def measure_encoder() -> float:
    from napari_sparseattn.features.encoders import load_encoder

    encoder = load_encoder(device="cpu")
    shape = (32, encoder.size, encoder.size, 3)
    patches = np.random.default_rng(0).integers(0, 255, shape, dtype=np.uint8)
    return len(patches) / median_seconds(lambda: encoder(patches))


def measure_start(what: str) -> float:
    import resource

    if what == "dock":
        import napari._qt.qt_main_window  # noqa: F401

        began = time.process_time()
        import napari_sparseattn.plugin.main.dock  # noqa: F401

        return time.process_time() - began
    asked = ["--help"]
    if what == "missing":
        asked = ["classify", "/nowhere.png", "--model", "blood-cells", "--out", "/nowhere"]
    command = [sys.executable, "-m", "napari_sparseattn.cli", *asked]
    subprocess.run(command, capture_output=True, check=False)
    used = resource.getrusage(resource.RUSAGE_CHILDREN)
    subprocess.run(command, capture_output=True, check=False)
    after = resource.getrusage(resource.RUSAGE_CHILDREN)
    return after.ru_utime + after.ru_stime - used.ru_utime - used.ru_stime


def measure_group(group: str, who: str, slide: Path | None) -> dict[str, float]:
    """Figures of one version or peer, by the names of the group's lines."""
    if group == "cells":
        import torch

        torch.set_num_threads(1)
        return {name: measure_cells(int(name), who) for name in GROUPS[group]}
    if group == "holograms":
        return {name: measure_hologram(int(name), who) for name in GROUPS[group]}
    if group == "exports":
        kinds = {"ome-zarr": "memory"}
        return {name: measure_export(name, kinds.get(name, "cpu")) for name in GROUPS[group]}
    if group in ("span", "training"):
        return measure_span(who, group == "training")
    if group == "slide":
        assert slide is not None
        return {"tissue": measure_tissue(slide)}
    if group == "encoder":
        return {"32": measure_encoder()}
    return {name: measure_start(name) for name in GROUPS[group]}


# --------------------------------------------------------------------- the answers


def give_answers(group: str, out: Path, slide: Path | None) -> None:
    """What a version answers, to be compared with the other's."""
    if group == "cells":
        import torch

        bundle = cell_bundle()
        ready = torch.from_numpy(bundle.card.normalisation(simulated_crops(bundle.card.crop.size)))
        with torch.inference_mode():
            parts = [bundle.cell_model()(batch) for batch in ready.split(16)]
        chances = torch.cat([part.logits for part in parts]).softmax(1)
        np.savez(out, a=chances.numpy(), b=torch.cat([part.indices for part in parts]).numpy())
    elif group == "holograms":
        from napari_sparseattn.images.holograms.holography import estimate_settings as estimate
        from napari_sparseattn.images.holograms.holography import retrieve

        maps = [recorded(cells) for cells in (1, 40)]
        np.savez(out, a=np.stack([retrieve(each, 0, estimate(each)).opd for each in maps]))
    elif group == "slide":
        from napari_sparseattn.images.slides.opening import open_slide
        from napari_sparseattn.images.tissue.mask import find_tissue

        assert slide is not None
        with open_slide(slide) as pyramid:
            found = find_tissue(pyramid)
        np.savez(out, a=found.mask, b=found.blurred)
    elif group == "span":
        import span

        from napari_sparseattn.models.span import run_span

        cells = span.simulated_cells(PATCHES)
        found = run_span(span.network(), span.Pool(PATCHES)[0:PATCHES], cells)
        np.savez(out, a=found.logits.detach().numpy())


def simulated_crops(size: int) -> np.ndarray:
    """Crops (N, 3, size, size) along a grid over a simulated smear."""
    from napari_sparseattn.images.normalise import to_float
    from napari_sparseattn.simulate import smear

    image = to_float(smear((900, 900), 0, n_white=20).plane(0, 0))
    places = range(0, 900 - size, 36)
    crops = [image[y : y + size, x : x + size] for y in places for x in places]
    return np.stack(crops).transpose(0, 3, 1, 2).copy()


COMPARED = {
    "cells": "largest difference of a probability; share of crops with other pixels kept",
    "holograms": "largest difference of the OPD, nm",
    "slide": "share of the mask's pixels that differ; of the blur's",
    "span": "largest difference of a logit",
}


def compare(group: str, before: Path, now: Path) -> str:
    with np.load(before) as a, np.load(now) as b:
        if group == "cells" and a["b"].shape != b["b"].shape:
            return "another model; name one that both can read with --model"
        if group == "cells":
            other = (a["b"] != b["b"]).any(axis=1)
            return f"{np.abs(a['a'] - b['a']).max():.1e}; {100 * other.mean():.2g} %"
        if group == "slide":
            return "; ".join(f"{100 * (a[key] != b[key]).mean():.2g} %" for key in "ab")
        return f"{np.abs(a['a'] - b['a']).max():.1e}"


# --------------------------------------------------------------------- in turns


def environment(tree: Path) -> dict[str, str]:
    threads = {f"{name}_NUM_THREADS": "1" for name in ("OMP", "MKL", "OPENBLAS", "NUMBA")}
    path = os.pathsep.join([str(tree / "src"), str(HERE)])
    # Compiled files are kept, as they are where a package is installed.
    more = {"PYTHONDONTWRITEBYTECODE": "", "PYTHONPATH": path, "QT_QPA_PLATFORM": "offscreen"}
    return {**os.environ, **threads, **more}


def ask(tree: Path, *arguments: str) -> str:
    """Return the last line that this script says in a process with a version of the package."""
    done = subprocess.run(
        [sys.executable, __file__, *arguments],
        env=environment(tree),
        capture_output=True,
        text=True,
        check=False,
    )
    if done.returncode:
        said = done.stderr.strip().splitlines()
        raise SystemExit(f"{arguments} of {tree.name}: {said[-1] if said else done.returncode}")
    return done.stdout.splitlines()[-1] if done.stdout.strip() else ""


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--before", type=Path, help="checkout of an earlier version")
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--only", nargs="+", choices=sorted(GROUPS))
    parser.add_argument("--slide", type=Path, help="the made slide, where it is there already")
    parser.add_argument("--model", default="blood-cells", help="of cells, or its file")
    parser.add_argument("--measure", nargs=2, metavar=("GROUP", "WHO"))
    parser.add_argument("--answers", nargs=2, metavar=("GROUP", "FILE"))
    options = parser.parse_args()
    os.environ.setdefault("PEERS_SPEED_MODEL", options.model)
    if options.measure:
        print(json.dumps(measure_group(*options.measure, options.slide)))
        return
    if options.answers:
        give_answers(options.answers[0], Path(options.answers[1]), options.slide)
        return
    groups = options.only or list(GROUPS)
    with tempfile.TemporaryDirectory() as folder:
        slide = options.slide
        if "slide" in groups and slide is None:
            from slides import write_slide

            slide = Path(folder) / "made.svs"
            write_slide(slide)
        run(options, groups, slide, Path(folder))


def run(options: argparse.Namespace, groups: list[str], slide: Path | None, folder: Path) -> None:
    given = [] if slide is None else ["--slide", str(slide)]
    trees = {"before": options.before} if options.before else {}
    trees |= {"now": ROOT}
    print(f"{processor()}, Python {platform.python_version()}; one of {os.cpu_count()} cores;")
    print(f"load average {os.getloadavg()[0]:.1f} at the start; {options.rounds} rounds\n")
    print("| what (aim) | before | now | ratio | peers |")
    print("|---|---|---|---|---|", flush=True)
    for group in groups:
        found: dict[str, list[dict[str, float]]] = {}
        for _ in range(options.rounds):
            for who, tree in trees.items():
                said = ask(tree, *given, "--measure", group, "ours")
                found.setdefault(who, []).append(json.loads(said))
            for peer in PEERS.get(group, ()):
                said = ask(ROOT, *given, "--measure", group, peer)
                found.setdefault(peer, []).append(json.loads(said))
        for name, row in GROUPS[group].items():
            medians = {who: statistics.median(m[name] for m in got) for who, got in found.items()}
            print(line(row, medians), flush=True)
    if len(trees) < 2:
        return
    print("\nAnswers of before and now:")
    for group in (group for group in groups if group in COMPARED):
        files = {who: folder / f"{group}-{who}.npz" for who in trees}
        for who, tree in trees.items():
            ask(tree, *given, "--answers", group, str(files[who]))
        told = compare(group, files["before"], files["now"])
        print(f"- {group}: {COMPARED[group]}: {told}", flush=True)


def line(row: Row, medians: dict[str, float]) -> str:
    now, before = medians.pop("now"), medians.pop("before", None)
    ratio = ""
    if before is not None:
        ratio = f"{now / before if row.more_is_better else before / now:.2f}"
    others = "; ".join(f"{peer} {figure(value)}" for peer, value in medians.items())
    first = "" if before is None else figure(before)
    aim = f"{'≥' if row.more_is_better else '≤'} {row.aim:g}"
    return f"| {row.what}, {row.unit} ({aim}) | {first} | **{figure(now)}** | {ratio} | {others} |"


def figure(value: float) -> str:
    return f"{value:.0f}" if value >= 100 else f"{value:.3g}"


def processor() -> str:
    path = Path("/proc/cpuinfo")
    lines = path.read_text().splitlines() if path.exists() else []
    named = [line.partition(":")[2].strip() for line in lines if line.startswith("model name")]
    return named[0] if named else platform.processor() or platform.machine()


if __name__ == "__main__":
    main()
