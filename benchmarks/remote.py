"""What a slide on another machine costs: bytes, requests and seconds.

    python benchmarks/remote.py [--slide FILE] [--latency 0 20 100] [--model NAME] [--out FILE]

Writes a slide of 80 000 x 60 000 pixels laid out as Aperio's, see slides.py,
serves it from this machine by HTTP with ranges, each answer held up by so
many milliseconds, and opens it by its address, reads a thumbnail of 1024
pixels, and classifies it with a TNet; then the same of the file on the disk.
Each step by an open slide of its own, so that none finds what another has
loaded. The network itself is the machine's own and much faster than any
other: what is measured is waiting (``waited``, of ``seconds``) and the number
of bytes.
"""

from __future__ import annotations

import argparse
import json
import platform
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parents[1]
sys.path[:0] = [str(ROOT / "tests"), str(ROOT / "benchmarks")]

from slides import write_slide

from napari_sparseattn import classify_field, load_bundle, open_slide
from napari_sparseattn.images.slides.pyramid import Pyramid, read_window
from slide_server import SlideServer, serving

SIDE = 1024


def thumbnail(slide: Pyramid) -> None:
    height, width = slide.shape
    factor = SIDE / max(height, width)
    read_window(slide, 0, 0, height, width, round(height * factor), round(width * factor))


def measure(source: str, server: SlideServer | None, step: Callable[[Pyramid], Any]) -> Any:
    if server is not None:
        server.clear()
    began = time.perf_counter()
    with open_slide(source) as slide:
        result = step(slide)
        seconds = time.perf_counter() - began
    row: dict[str, Any] = {"seconds": round(seconds, 3)}
    if server is not None:
        assert slide.traffic is not None
        waited = round(slide.traffic.seconds, 3)
        row |= {"requests": len(server.asked), "bytes": server.n_bytes, "waited": waited}
    return row, result


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--slide", type=Path)
    parser.add_argument("--latency", type=float, nargs="*", default=[0, 20, 100])
    parser.add_argument("--model", default="colon-biopsy-tnet")
    parser.add_argument("--out", type=Path)
    args = parser.parse_args()
    bundle = load_bundle(args.model)
    steps: dict[str, Callable[[Pyramid], Any]] = {
        "opening": lambda slide: slide.levels,
        "thumbnail": thumbnail,
        "TNet": lambda slide: classify_field(slide, bundle),
    }
    with tempfile.TemporaryDirectory() as folder:
        path = args.slide or Path(folder) / "drawn.svs"
        if args.slide is None:
            write_slide(path)
        size, rows, answers = path.stat().st_size, [], []
        with serving(path.parent) as server:
            steps["TNet"](open_slide(path))  # what is made once per process
            for latency in (None, *args.latency):
                for name, step in steps.items():
                    server.latency = (latency or 0) / 1000
                    source = str(path) if latency is None else server.address(path.name)
                    row, result = measure(source, None if latency is None else server, step)
                    if name == "TNet":
                        answers.append(result.probabilities.tolist())
                        row["crops"] = len(result.traversal)
                    rows.append({"latency_ms": latency, "step": name, **row})
    print(f"{size / 1e6:.0f} MB, {platform.processor() or platform.machine()}, model {args.model}")
    columns = f"{'latency':>9} {'step':10} {'requests':>8} {'MB':>7} {'share':>8}"
    print(f"{columns} {'waited':>8} {'seconds':>8}")
    for row in rows:
        where = "disk" if row["latency_ms"] is None else f"{row['latency_ms']:g} ms"
        told = row.get("bytes", 0)
        print(
            f"{where:>9} {row['step']:10} {row.get('requests', 0):8} {told / 1e6:7.2f} "
            f"{100 * told / size:7.3f}% "
            f"{row.get('waited', 0):8.2f} {row['seconds']:8.2f}"
        )
    same = all(answer == answers[0] for answer in answers)
    print(f"The TNet's answers are {'the same' if same else 'DIFFERENT'}.")
    if args.out is not None:
        args.out.write_text(json.dumps({"size": size, "same": same, "rows": rows}, indent=1))


if __name__ == "__main__":
    main()
