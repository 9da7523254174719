"""SPAN-MIL side by side with an edge list, dense attention and other slide classifiers.

    python benchmarks/span.py [--threads 1] [--rounds 3] [--sizes 1000 5000 20000 100000]
                              [--million] [--peers FOLDER]
    python benchmarks/span.py --unet --rounds 1 --sizes 1000 5000 20000

Slides are simulated: two lobes of tissue with holes, on a patch grid, with
random features of width F = 1024, so D = 512 and 8 heads. Each case runs in a
process of its own, several times in it for small slides, in turns with the
others for 20 000 patches, once for more; the least time is printed: processor
seconds with one thread (other work on the machine then counts less), wall
seconds with more. Memory is the peak of resident
memory above what the process held before the run, the model, the features and
a first run on 64 patches included. No process may use more than 8 GiB of data;
what is predicted to need more is not run, and the prediction is printed.

The same weights and the same function three ways, logits compared:
- ours, whole and streamed in bands;
- an edge list in plain torch, as a graph library computes it: keys and queries
  gathered along all edges, a softmax by scattering, a sum by scattering; all
  heads at once, and one head at a time, which needs an eighth of the memory.
  Its time is without building the edges, ours with building the tables;
- dense attention of all patches under a mask.
Others, on the same features: ABMIL, CLAM-SB, DSMIL, TransMIL of torchmil, the
first three after a Linear to 512 and a ReLU as in their papers. They do other,
and much less, work: no patch sees its neighbours, or only roughly. They need

    pip install --no-deps --target FOLDER torchmil tensordict

and ``--peers FOLDER``; without it they are left out with a message.

With --unet SPAN-UNet alone is measured, whole and streamed, and a training step;
what its weights, their gradients and an optimiser take is printed beside.
"""

from __future__ import annotations

import argparse
import importlib.util
import math
import multiprocessing
import os
import platform
import resource
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from napari_sparseattn.models.span import (
    Lattice,
    SpanMil,
    SpanMilConfig,
    SpanUnet,
    SpanUnetConfig,
    stream,
)
from napari_sparseattn.models.span.refinement import Refinement

FEATURES, HEADS, CLASSES = 1024, 8, 2
LIMIT = 8 * 2**30
SAME = ("ours", "ours, streamed", "edge list", "edge list, by head", "dense")
UNET = ("SPAN-UNet", "SPAN-UNet, streamed")
PEERS = ("ABMIL", "CLAM-SB", "DSMIL", "TransMIL")


# ------------------------------------------------------------------ simulated slides


def simulated_cells(count: int) -> Tensor:
    """Two lobes of tissue, 3 % of their patches missing one by one and 7 % in round holes."""
    generator = torch.Generator().manual_seed(0)
    side = int(math.sqrt(count) * 1.45) + 8
    axis = torch.arange(side)
    cells = torch.stack(torch.meshgrid(axis, axis, indexing="ij"), -1).view(-1, 2)
    place = cells / side

    def within(x: float, y: float, radius: float) -> Tensor:
        return (place - torch.tensor([x, y])).square().sum(1) < radius**2

    tissue = within(0.38, 0.40, 0.36) | within(0.66, 0.68, 0.30)
    for x, y, radius in torch.rand(12, 3, generator=generator).tolist():
        tissue &= ~within(x, y, 0.02 + 0.04 * radius)
    tissue &= torch.rand(len(cells), generator=generator) > 0.03
    cells = cells[tissue]
    if len(cells) < count:
        raise ValueError(f"only {len(cells)} cells for {count}")
    # The last columns go, so that the number is exact.
    return cells[:count]


class Pool:
    """Features "on disk": rows of a small random pool, copied when read."""

    def __init__(self, count: int) -> None:
        self.shape = (count, FEATURES)
        self.pool = torch.randn(8192, FEATURES, generator=torch.Generator().manual_seed(1))

    def __getitem__(self, rows: slice) -> Tensor:
        return self.pool[torch.arange(rows.start, min(rows.stop, self.shape[0])) % len(self.pool)]


# -------------------------------------------------------- the same function, otherwise


def edges_of(cells: Tensor, size: tuple[int, int]) -> tuple[Tensor, Tensor, Tensor]:
    """Source, target and index into the bias table of all local edges of a level."""
    key = cells[:, 0] * (size[1] + 16) + cells[:, 1]
    shifts = (0, 3) if any(side % 6 for side in size) else (0,)
    sources, targets, biases = [], [], []
    for dx in range(-5, 6):
        for dy in range(-5, 6):
            moved = cells + torch.tensor([dx, dy])
            wanted = moved[:, 0] * (size[1] + 16) + moved[:, 1]
            at = torch.searchsorted(key, wanted).clamp_max(len(key) - 1)
            found = (key[at] == wanted) & (moved >= 0).all(1)
            near = torch.zeros_like(found)
            for shift in shifts:
                near |= ((moved + shift) // 6 == (cells + shift) // 6).all(1)
            target = torch.nonzero(found & near)[:, 0]
            if dx == dy == 0:
                target = target[(target > 0) & (target < len(key) - 1)]
            sources.append(at[target])
            targets.append(target)
            biases.append(torch.full_like(target, (dx + 5) * 11 + dy + 5))
    return torch.cat(sources), torch.cat(targets), torch.cat(biases)


def scatter_softmax(scores: Tensor, target: Tensor, count: int) -> Tensor:
    """Softmax of (E, h) scores over the edges of each target."""
    index = target[:, None].expand_as(scores)
    peak = scores.new_full((count, scores.shape[1]), -math.inf)
    peak = peak.scatter_reduce(0, index, scores.detach(), "amax")
    weights = (scores - peak[target]).exp()
    return weights / weights.new_zeros(peak.shape).index_add(0, target, weights)[target]


def along_edges(q: Tensor, k: Tensor, v: Tensor, bias: Tensor, graph: Any) -> Tensor:
    """Attention along a list of edges: (n, h, 64) for the targets."""
    source, target, offset = graph
    scores = torch.einsum("ehc,ehc->eh", q[target], k[source]) / 8
    if offset is not None:
        scores = scores + bias.flatten(1).T[offset]
    weights = scatter_softmax(scores, target, len(q))
    told = (v[source] * weights[..., None]).to(q.dtype)
    return torch.zeros_like(q).index_add(0, target, told)


def along_edges_by_head(q: Tensor, k: Tensor, v: Tensor, bias: Tensor, graph: Any) -> Tensor:
    heads = [
        along_edges(*(x[:, h : h + 1] for x in (q, k, v)), bias[h : h + 1], graph)
        for h in range(q.shape[1])
    ]
    return torch.cat(heads, 1)


def dense(q: Tensor, k: Tensor, v: Tensor, bias: Tensor, graph: Any) -> Tensor:
    """Attention of everything to everything under a mask that holds the bias."""
    source, target, offset = graph
    mask = q.new_full((q.shape[1], len(q), len(q)), -1e9)
    mask[:, target, source] = bias.flatten(1)[:, offset].to(q.dtype) if offset is not None else 0.0
    q, k, v = (x.transpose(0, 1)[None] for x in (q, k, v))
    out = F.scaled_dot_product_attention(q, k, v, attn_mask=mask[None])[0].transpose(0, 1)
    reached = torch.zeros(len(mask[0]), dtype=torch.bool, device=q.device)
    reached[target] = True
    return out * reached[:, None, None]


class Explicit(nn.Module):
    """`SpanMil` with each level's attention along explicit edges; shares its weights."""

    def __init__(self, model: SpanMil, attention: Callable[..., Tensor]) -> None:
        super().__init__()
        self.model, self.attention = model, attention

    def prepare(self, cells: Tensor) -> None:
        self.lattice = Lattice.build(cells)
        self.graphs = []
        for level in self.lattice.levels:
            local = edges_of(level.cells, level.size)
            inner = torch.arange(1, len(level) - 1)
            token = torch.full_like(inner, len(level))
            source = torch.cat([inner, token, token[:1]])
            target = torch.cat([token, inner, token[:1]])
            self.graphs.append((local, (source, target, None)))

    def refine(self, layer: Refinement, x: Tensor, graphs: Any) -> Tensor:
        """One layer on the cells and the one global token, last of `x`."""
        normed = layer.norm1(x)

        def split(linear: nn.Module) -> Tensor:
            return linear(normed).view(len(x), layer.heads, -1)

        local = self.attention(
            split(layer.query), split(layer.key), split(layer.value), layer.bias, graphs[0]
        )
        wide = along_edges(
            split(layer.global_query),
            split(layer.global_key),
            split(layer.global_value),
            layer.bias,
            graphs[1],
        )
        return layer.feed_forward(x + layer.out((local + wide).flatten(1)))

    def forward(self, features: Tensor) -> Tensor:
        model = self.model
        x = model.embedding.level(features, self.lattice)
        token = model.embedding.tokens(model.tokens())
        read = []
        for index, (level, graphs) in enumerate(zip(self.lattice.levels, self.graphs, strict=True)):
            x = self.refine(model.refinement(index), torch.cat([x, token]), graphs)
            x, token = x[:-1], x[-1:]
            read.append(token)
            if index < 2:
                condense = model.condensation(index)
                x, token = condense(x, level), condense.tokens(token)
        return model.head(model.norm(sum(read)))


# ----------------------------------------------------------------------------- cases


def network() -> SpanMil:
    torch.manual_seed(0)
    model = SpanMil(SpanMilConfig(features=FEATURES, n_classes=CLASSES)).eval()
    for layer in model.refinements:
        # As training leaves it: attention that is not flat.
        for name in ("query", "key", "global_query", "global_key"):
            nn.init.normal_(getattr(layer, name).weight, std=0.06)
        nn.init.normal_(layer.bias, std=0.5)
    return model


def peer(name: str) -> nn.Module:
    import torchmil.models

    torch.manual_seed(0)
    if name == "TransMIL":
        return torchmil.models.TransMIL(in_shape=(FEATURES,))
    first = nn.Sequential(nn.Linear(FEATURES, 512), nn.ReLU())
    return getattr(torchmil.models, name.replace("-", "_"))(in_shape=(FEATURES,), feat_ext=first)


def runner(case: str) -> Callable[[Any, Tensor], Callable[[], Tensor]]:
    """From features and cells to a function that gives the logits; only that one is timed."""
    if case in PEERS:
        net = peer(case).eval()
        return lambda features, cells: lambda: net(features[None])
    if case in UNET:
        torch.manual_seed(0)
        unet = SpanUnet(SpanUnetConfig(features=FEATURES)).eval()
        if case == "SPAN-UNet":
            return lambda features, cells: lambda: unet(features, cells).logits
        return lambda features, cells: lambda: stream(unet, features, cells).logits
    model = network()
    if case == "ours":
        return lambda features, cells: lambda: model(features, cells).logits
    if case == "ours, streamed":
        return lambda features, cells: lambda: stream(model, features, cells).logits
    attention = {
        "edge list": along_edges,
        "edge list, by head": along_edges_by_head,
        "dense": dense,
    }[case]

    def prepared(features: Any, cells: Tensor) -> Callable[[], Tensor]:
        net = Explicit(model, attention)
        net.prepare(cells)
        return lambda: net(features)

    return prepared


def memory(field: str) -> int:
    for line in Path("/proc/self/status").read_text().splitlines():
        if line.startswith(field):
            return int(line.split()[1]) * 1024
    raise OSError(f"no {field}")


def run_case(case: str, count: int, train: bool, repeats: int, threads: int) -> dict[str, Any]:
    torch.set_num_threads(threads)
    make = runner(case)
    on_disk = case.endswith(", streamed")
    times, peak, held, logits = [], 0, 0, None
    for index, size in enumerate([64, *[count] * repeats]):
        cells = simulated_cells(size)
        features: Any = Pool(size) if on_disk else Pool(size)[0:size]
        function = make(features, cells)
        held = memory("VmRSS")
        # Starts the high-water mark anew (Linux).
        Path("/proc/self/clear_refs").write_text("5")
        start, busy = time.perf_counter(), time.process_time()
        with torch.set_grad_enabled(train):
            logits = function()
            if train:
                logits = logits.reshape(1, -1)
                loss = F.cross_entropy(logits, torch.tensor([0])) if logits.shape[1] > 1 else logits
                loss.sum().backward()
        times.append((time.process_time() - busy) if threads == 1 else time.perf_counter() - start)
        if index == 1:
            peak = memory("VmHWM") - held
    assert logits is not None
    return {"seconds": min(times[1:]), "peak": peak, "logits": logits.flatten().tolist()}


def predicted(case: str, count: int, train: bool) -> float:
    """Bytes that the largest arrays of a case must take, or 0 where far below the limit."""
    edges = 55 * count
    if case == "dense":
        return HEADS * count**2 * 4 * (3 if train else 2)
    if case == "edge list":
        return edges * 512 * 4 * (6 if train else 2)
    if case == "edge list, by head":
        return edges * 64 * 4 * (6 * HEADS if train else 2)
    if case in ("ours", "SPAN-UNet") and train:
        return count * 512 * 4 * 40
    return 0


# ---------------------------------------------------------------------------- driving


def repeats(count: int) -> int:
    return 4 if count <= 2000 else 2 if count <= 10_000 else 1


def spawn(case: str, count: int, train: bool, threads: int) -> dict[str, Any] | str:
    """Run one case in a process of its own, forked before any of them computed."""
    ours, theirs = multiprocessing.Pipe(duplex=False)

    def work() -> None:
        resource.setrlimit(resource.RLIMIT_DATA, (LIMIT, LIMIT))
        try:
            theirs.send(run_case(case, count, train, repeats(count), threads))
        except (RuntimeError, MemoryError) as error:
            text = str(error) or "memory"
            theirs.send("over 8 GiB" if "alloc" in text or "memory" in text else text)

    process = multiprocessing.get_context("fork").Process(target=work)
    process.start()
    theirs.close()
    try:
        return ours.recv()
    except EOFError:
        return "killed"
    finally:
        process.join()


def measure(
    cases: tuple[str, ...], sizes: list[int], train: bool, args: argparse.Namespace
) -> dict[tuple[str, int], Any]:
    best: dict[tuple[str, int], Any] = {}
    for round_ in range(args.rounds):
        for count in sizes:
            if round_ and (repeats(count) > 1 or count > 50_000):
                continue
            for case in cases:
                known = best.get((case, count))
                if isinstance(known, str):
                    continue
                if case == "edge list, by head" and count > 50_000:
                    best[case, count] = "not run"
                    continue
                need = predicted(case, count, train)
                if need > LIMIT:
                    best[case, count] = f"needs {need / 2**30:.1f} GiB"
                    continue
                found = spawn(case, count, train, args.threads)
                if isinstance(found, dict) and known:
                    found["seconds"] = min(found["seconds"], known["seconds"])
                    found["peak"] = min(found["peak"], known["peak"])
                best[case, count] = found
                said = found
                if isinstance(found, dict):
                    said = f"{found['seconds']:.3f} s, {found['peak'] / 2**20:.0f} MiB"
                print(f"  round {round_ + 1}: {case}, {count}: {said}", file=sys.stderr)
    return best


def cell(value: Any, field: str) -> str:
    if value is None or isinstance(value, str):
        return value or "-"
    if field == "seconds":
        return f"{value['seconds']:.2f} s"
    return f"{value['peak'] / 2**20:.0f} MiB"


def table(best: dict[tuple[str, int], Any], cases: tuple[str, ...], sizes: list[int]) -> None:
    for field in ("seconds", "peak"):
        title = "time" if field == "seconds" else "peak memory above the inputs"
        print(f"\n{title:28}" + "".join(f"{size:>16,}" for size in sizes))
        for case in cases:
            row = "".join(f"{cell(best.get((case, size)), field):>16}" for size in sizes)
            print(f"{case:28}{row}")


def compare(best: dict[tuple[str, int], Any], sizes: list[int]) -> None:
    print()
    for size in sizes:
        ours = best.get(("ours", size))
        for case in SAME[1:]:
            other = best.get((case, size))
            if isinstance(ours, dict) and isinstance(other, dict):
                apart = max(
                    abs(a - b) for a, b in zip(ours["logits"], other["logits"], strict=True)
                )
                print(
                    f"{size:>8,}  {case:20} / ours: {other['seconds'] / ours['seconds']:5.2f} x "
                    f"the time, {other['peak'] / max(ours['peak'], 1):6.2f} x the memory; logits "
                    f"(up to {max(map(abs, ours['logits'])):.2f}) differ by {apart:.1e}"
                )


def growth(args: argparse.Namespace) -> None:
    """Streamed, up to a million patches."""
    print("\nStreamed, features read band by band from a pool of random rows (simulated):")
    print(f"{'patches':>12}{'time':>12}{'per patch':>14}{'peak':>12}{'per patch':>14}")
    for count in (250_000, 1_000_000):
        found = spawn("ours, streamed", count, False, args.threads)
        if isinstance(found, str):
            print(f"{count:>12,}  {found}")
            continue
        seconds, peak = found["seconds"], found["peak"]
        print(
            f"{count:>12,}{seconds:>10.1f} s{seconds / count * 1e6:>11.1f} µs"
            f"{peak / 2**20:>8.0f} MiB{peak / count:>12.0f} B",
            flush=True,
        )
    level = 512 * 4 / 4
    print(f"(level 1 alone is {level:.0f} B per patch on a full grid)")


def measure_unet(args: argparse.Namespace) -> None:
    """SPAN-UNet whole and streamed, and a training step."""
    weights = sum(each.numel() for each in SpanUnet(SpanUnetConfig(features=FEATURES)).parameters())
    print(
        f"SPAN-UNet of {FEATURES} features: {weights / 1e6:.0f} M weights; in training they, their"
    )
    print(
        f"gradients and AdamW's two moments take {16 * weights / 2**30:.2f} GiB whatever the slide"
    )
    print("\nINFERENCE")
    best = measure(UNET, args.sizes, False, args)
    table(best, UNET, args.sizes)
    for size in args.sizes:
        whole, streamed = (best.get((case, size)) for case in UNET)
        if isinstance(whole, dict) and isinstance(streamed, dict):
            pairs = zip(whole["logits"], streamed["logits"], strict=True)
            print(f"{size:>8,}  logits differ by {max(abs(a - b) for a, b in pairs):.1e}")
    if not args.no_train:
        print("\nTRAINING STEP (forward and backward, dropout off, no optimiser)")
        sizes = [size for size in args.sizes if size <= 5000]
        table(measure(UNET[:1], sizes, True, args), UNET[:1], sizes)


def floor(threads: int) -> None:
    """Print what a matrix product alone would take; in a process of its own."""
    torch.set_num_threads(threads)
    x, w = torch.randn(4096, 512), torch.randn(512, 512)
    seconds = []
    for _ in range(20):
        start = time.process_time() if threads == 1 else time.perf_counter()
        x @ w
        now = time.process_time() if threads == 1 else time.perf_counter()
        seconds.append(now - start)
    rate = 2 * 4096 * 512 * 512 / min(seconds)
    print(
        f"{rate / 1e9:.0f} GFLOP/s in a float32 matrix product (4096 x 512 x 512): the floor of "
        f"6.5 MFLOP per patch is {6.5e6 * 20_000 / rate:.2f} s at 20 000 patches"
    )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n", maxsplit=1)[0])
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--sizes", type=int, nargs="+", default=[1000, 5000, 20_000, 100_000])
    parser.add_argument("--million", action="store_true", help="also stream up to 1 000 000")
    parser.add_argument("--peers", type=Path, help="folder that torchmil was installed to")
    parser.add_argument("--no-train", action="store_true")
    parser.add_argument("--unet", action="store_true", help="SPAN-UNet alone")
    args = parser.parse_args()
    if args.unet:
        print(f"load average {os.getloadavg()[0]:.1f} on {os.cpu_count()} processors at the start")
        measure_unet(args)
        return
    if args.peers:
        sys.path.append(str(args.peers))
    cases = SAME
    if importlib.util.find_spec("torchmil"):
        # Here, so that every process need not import it anew.
        import torchmil.models  # noqa: F401

        cases += PEERS
    else:
        print("torchmil is not installed (see the top of this file): its models are left out")
    kind = "processor seconds" if args.threads == 1 else "wall seconds"
    print(f"{platform.processor() or platform.machine()}, torch {torch.__version__}")
    print(f"{args.threads} thread(s); {kind}, the least of the runs described in this file")
    print(f"load average {os.getloadavg()[0]:.1f} on {os.cpu_count()} processors at the start")
    first = multiprocessing.get_context("fork").Process(target=floor, args=(args.threads,))
    first.start()
    first.join()
    print("\nINFERENCE")
    best = measure(cases, args.sizes, False, args)
    table(best, cases, args.sizes)
    compare(best, args.sizes)
    if not args.no_train:
        print("\nTRAINING STEP (forward and backward, dropout off, no optimiser)")
        sizes = [size for size in args.sizes if size <= 20_000]
        cases = tuple(case for case in cases if "streamed" not in case)
        best = measure(cases, sizes, True, args)
        table(best, cases, sizes)
        compare(best, sizes)
    if args.million:
        growth(args)


if __name__ == "__main__":
    main()
