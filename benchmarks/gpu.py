"""What a GPU makes of it: speed and memory in float32 and bfloat16, batch sizes measured.

    python benchmarks/gpu.py [--device cuda] [--minutes 6] [--small | --whole]

Cells per second of `blood-cells` and `blood-cells-tnet` over batch sizes (crops on the device
already, and from pinned memory); SPAN-MIL of 20,000 and 100,000 patches, whole and streamed,
beside the same function along a list of edges in plain torch and dense attention under a mask,
with the peak of the device's memory above what was held before; a training step of each;
holograms of 1 Mpx; the default encoder. First the answers of the device are compared with the
CPU's, and at the end it says which batch is the fastest.

``make gpu`` runs this after the tests that need a GPU. Without CUDA it runs on the CPU, with small
sizes unless ``--whole`` is given, in some seconds, which is a test; memory is not told there.
"""

from __future__ import annotations

import argparse
import platform
import statistics
import time
from collections.abc import Callable, Iterator
from typing import Any

import numpy as np
import span
import torch
import torch.nn.functional as F
from torch import Tensor

from napari_sparseattn.bundle import load_bundle
from napari_sparseattn.device import choose_device, computing, describe_device, is_out_of_memory
from napari_sparseattn.features.encoders import load_encoder
from napari_sparseattn.images.holograms.holography import estimate_settings, iter_phase
from napari_sparseattn.images.holograms.recording import Recording
from napari_sparseattn.models.span import Lattice, stream
from napari_sparseattn.simulate import Optics, hologram_with_truth

PRECISIONS = ("float32", "bfloat16")


class Bench:
    """Where and how long to measure, and what was found."""

    def __init__(self, device: str, minutes: float, small: bool) -> None:
        self.device, self.small = device, small
        self.cuda = device.startswith("cuda")
        self.end = time.perf_counter() + 60 * minutes
        self.seconds = 0.02 if small else 1.0

    def wait(self) -> None:
        if self.cuda:
            torch.cuda.synchronize()

    def measure(self, run: Callable[[], object], least: int = 3) -> tuple[float, float] | str:
        """Median seconds of a call and peak bytes above what was held; or why there are none."""
        if time.perf_counter() > self.end:
            return "not run: time"
        try:
            run()
            self.wait()
            held = 0
            if self.cuda:
                torch.cuda.reset_peak_memory_stats()
                held = torch.cuda.memory_allocated()
            times: list[float] = []
            stop = time.perf_counter() + self.seconds
            while len(times) < least or time.perf_counter() < stop:
                began = time.perf_counter()
                run()
                self.wait()
                times.append(time.perf_counter() - began)
            peak = torch.cuda.max_memory_allocated() - held if self.cuda else 0
            return statistics.median(times), peak
        except (RuntimeError, MemoryError) as error:
            if not is_out_of_memory(error):
                raise
            if self.cuda:
                torch.cuda.empty_cache()
            return "out of memory"

    def rate(self, n: int, run: Callable[[], object]) -> float | str:
        found = self.measure(run)
        return found if isinstance(found, str) else n / found[0]


def told(value: float | str) -> str:
    return value if isinstance(value, str) else f"{value:,.0f}" if value >= 10 else f"{value:.3g}"


def rows(bench: Bench) -> Iterator[str]:
    yield from agreement(bench)
    yield from cells(bench)
    yield from slides(bench, train=False)
    yield from slides(bench, train=True)
    yield from holograms(bench)
    yield from encoder(bench)


def agreement(bench: Bench) -> Iterator[str]:
    """The device's answers beside the CPU's."""
    for name in ("blood-cells", "blood-cells-tnet"):
        bundle = load_bundle(name)
        x = crops(bundle, 16 if bench.small else 256)
        with torch.inference_mode():
            expected = bundle.cell_model("cpu")(x)
            for precision in PRECISIONS:
                with computing(bench.device, precision):
                    found = bundle.cell_model(bench.device)(x.to(bench.device))
                apart = (found.logits.cpu().softmax(1) - expected.logits.softmax(1)).abs().amax(1)
                yield (
                    f"agreement of {name}, {precision}: probabilities differ by "
                    f"{float(apart.median()):.1e} (median), {float(apart.max()):.1e} (most)"
                )


def crops(bundle: Any, n: int) -> Tensor:
    """Smooth random crops, normalised values."""
    side, channels = bundle.card.crop.size, len(bundle.card.channels)
    made = torch.randn(n, channels, side, side, generator=torch.Generator().manual_seed(0))
    return F.avg_pool2d(made, 5, 1, 2) * 3


def cells(bench: Bench) -> Iterator[str]:
    batches = (1, 4) if bench.small else (1, 16, 64, 256, 512, 1024, 2048, 4096)
    for name in ("blood-cells", "blood-cells-tnet"):
        bundle = load_bundle(name)
        model = bundle.cell_model(bench.device)
        for precision in PRECISIONS:
            found: dict[int, float | str] = {}
            for batch in batches:
                host = crops(bundle, batch)
                host = host.pin_memory() if bench.cuda else host
                there = host.to(bench.device)

                found[batch] = bench.rate(batch, answering(bench, model, there, precision))
                with_transfer = bench.rate(batch, answering(bench, model, host, precision))
                yield (
                    f"{name}, {precision}, batch {batch}: {told(found[batch])} cells/s, "
                    f"{told(with_transfer)} with transfers"
                )
            numbers = {n: rate for n, rate in found.items() if not isinstance(rate, str)}
            if numbers:
                best = max(numbers, key=numbers.__getitem__)
                yield f"{name}, {precision}: fastest at batch {best}"


def answering(bench: Bench, model: Any, batch: Tensor, precision: str) -> Callable[[], object]:
    """Classify a batch; one that is not on the device is taken there, and its logits back."""
    away = batch.device.type != torch.device(bench.device).type

    def run() -> object:
        with torch.inference_mode(), computing(bench.device, precision):
            logits = model(batch.to(bench.device, non_blocking=True)).logits
        return logits.cpu() if away else logits

    return run


def slides(bench: Bench, train: bool) -> Iterator[str]:
    sizes = (120,) if bench.small else (20_000,) if train else (20_000, 100_000)
    what = "training step" if train else "inference"
    for size in sizes:
        places = span.simulated_cells(size).to(bench.device)
        features = span.Pool(size)[0:size].to(bench.device)
        for precision in PRECISIONS:
            ours: tuple[float, float] | None = None
            for case, run in span_cases(bench, features, places, train).items():

                def once(run: Callable[[], Tensor] = run, precision: str = precision) -> None:
                    with computing(bench.device, precision), torch.set_grad_enabled(train):
                        logits = run().reshape(1, -1).float()
                        if train:
                            target = torch.zeros(1, dtype=torch.int64, device=logits.device)
                            F.cross_entropy(logits, target).backward()

                found = bench.measure(once)
                head = f"SPAN-MIL, {what}, {size:,} patches, {precision}, {case}"
                if isinstance(found, str):
                    yield f"{head}: {found}"
                    continue
                said = f"{head}: {found[0]:.4g} s"
                if bench.cuda:
                    said += f", peak {found[1] / 2**20:,.0f} MiB"
                if ours is None:
                    ours = found
                else:
                    said += f"; {found[0] / ours[0]:.2f} x ours"
                    if bench.cuda:
                        said += f", {found[1] / max(ours[1], 1):.2f} x its memory"
                yield said


def span_cases(
    bench: Bench, features: Tensor, places: Tensor, train: bool
) -> dict[str, Callable[[], Tensor]]:
    model = span.network().to(bench.device)
    cases: dict[str, Callable[[], Tensor]] = {"ours": lambda: model(features, places).logits}
    if not train:
        cases["ours, streamed"] = lambda: stream(model, features, places).logits
    for name, attention in (("edge list", span.along_edges), ("dense", span.dense)):
        cases[name] = along_edges(bench, model, attention, features, places)
    return cases


def along_edges(
    bench: Bench, model: Any, attention: Any, features: Tensor, places: Tensor
) -> Callable[[], Tensor]:
    """The same function along explicit edges, which are made at the first call, on the CPU."""
    net = span.Explicit(model, attention)

    def run() -> Tensor:
        if not hasattr(net, "graphs"):
            net.prepare(places.cpu())
            net.lattice = Lattice.build(places)
            net.graphs = [
                tuple(
                    tuple(None if part is None else part.to(bench.device) for part in graph)
                    for graph in pair
                )
                for pair in net.graphs
            ]
        return net(features)

    return run


def holograms(bench: Bench) -> Iterator[str]:
    side = 128 if bench.small else 1024
    made, *_ = hologram_with_truth(
        (side, side), 0, Optics(pixel_size=0.12), n_cells=1, background=True
    )
    frames = np.repeat(made.frame(0)[None], 2 if bench.small else 16, axis=0)
    recording = Recording(frames, "hologram", 0.12, made.wavelength, background=made.background)
    settings = estimate_settings(recording)
    for device in ("cpu", "gpu") if bench.cuda else ("cpu",):

        def run(device: Any = device) -> None:
            for _ in iter_phase(recording, settings, None, device):
                pass

        rate = bench.rate(len(frames), run)
        yield f"holograms of {side} x {side}, field on the {device}: {told(rate)} frames/s"


def encoder(bench: Bench) -> Iterator[str]:
    network = load_encoder(device=bench.device)
    for batch in (2,) if bench.small else (32, 256, 1024):
        shape = (batch, network.size, network.size, 3)
        patches = np.random.default_rng(0).integers(0, 255, shape, dtype=np.uint8)
        for precision in PRECISIONS:

            def run(patches: Any = patches, precision: str = precision) -> None:
                with computing(bench.device, precision):
                    network(patches)

            rate = bench.rate(batch, run)
            yield f"encoder {network.name}, {precision}, batch {batch}: {told(rate)} patches/s"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--device", default="auto")
    parser.add_argument("--minutes", type=float, default=6.0, help="begin nothing after that")
    parser.add_argument("--small", action="store_true", help="small sizes, for a test")
    parser.add_argument("--whole", action="store_true", help="those of a GPU, on a CPU too")
    options = parser.parse_args()
    device = choose_device(options.device)
    print(
        f"{describe_device(device)}; torch {torch.__version__}, Python {platform.python_version()}"
    )
    if not device.startswith("cuda"):
        print("no CUDA: these are the CPU's figures, and memory is not told")
    small = options.small or not (options.whole or device.startswith("cuda"))
    bench = Bench(device, options.minutes, small)
    for row in rows(bench):
        print(row, flush=True)


if __name__ == "__main__":
    main()
