"""From a raw slide to pyramid attention on the command line: time, tiles, memory, and kills.

    python benchmarks/slide_pipeline.py --model tissue-simulated

Each slide goes through ``napari-sparseattn slide`` in a process of its own, whose
wall time per stage, tiles read and peak memory are printed. Then the same is
killed (SIGKILL) at random moments of its feature stage until it comes through,
and what it gives is compared with the run that was left alone. The large slide
is generated: 80,000 x 60,000 pixels in JPEG tiles, a third of them with the
same 256 simulated pieces over and over; it stands for size, not for tissue.
The real slides have nothing to do with what the model was trained on: their
classes mean nothing here, and are not printed.
"""

from __future__ import annotations

import argparse
import json
import os
import random
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import numpy as np
from slides import write_slide

from napari_sparseattn.features.files import read_features


def default_slides() -> list[Path]:
    """The real SVS files beside a checkout; NAPARI_SPARSEATTN_SHARED moves it."""
    root = os.environ.get("NAPARI_SPARSEATTN_SHARED")
    shared = Path(root) if root else Path(__file__).resolve().parents[2] / "shared"
    names = ("CMU-1-Small-Region.svs", "tcga-cr-7395-01a-01-ts1.svs")
    return [shared / "data" / "slides" / name for name in names]


def command(slide: Path, model: str, out: Path, pixel_size: float | None) -> list[str]:
    size = [] if pixel_size is None else ["--pixel-size", str(pixel_size)]
    verb = [str(Path(sys.executable).parent / "napari-sparseattn"), "slide", str(slide)]
    return [*verb, "--model", model, "--out", str(out), "--device", "cpu", "--json", *size]


def run(slide: Path, model: str, out: Path, pixel_size: float | None) -> tuple[dict[str, Any], Any]:
    """The row that the command prints, and the process's resource usage."""
    with tempfile.TemporaryFile("w+") as said:
        process = subprocess.Popen(command(slide, model, out, pixel_size), stdout=said)
        _, status, usage = os.wait4(process.pid, 0)
        process.returncode = os.waitstatus_to_exitcode(status)
        if process.returncode:
            raise SystemExit(f"{slide.name}: the command failed")
        said.seek(0)
        (row,) = json.load(said)
    return row, usage


def killed(
    slide: Path, model: str, out: Path, pixel_size: float | None, seconds: float, seed: int
) -> int:
    """Kill the command at random moments until it comes through; return how often."""
    chance, kills = random.Random(seed), 0
    while True:
        process = subprocess.Popen(
            command(slide, model, out, pixel_size), stdout=subprocess.DEVNULL
        )
        try:
            process.wait(timeout=None if kills >= 4 else chance.uniform(0.3, 0.6) * seconds)
        except subprocess.TimeoutExpired:
            process.send_signal(signal.SIGKILL)
            process.wait()
            kills += 1
            continue
        if process.returncode:
            raise SystemExit(f"{slide.name}: the command failed after {kills} kills")
        return kills


def compare(first: dict[str, Any], second: Path, name: str) -> bool:
    """Whether features and attention of two runs are the same, bit for bit."""
    (other,) = second.glob("features/*.h5")
    with read_features(first["features"]) as a, read_features(other) as b:
        same = np.array_equal(a.read(slice(None)), b.read(slice(None)))
        same = same and np.array_equal(a.cells, b.cells)
    told = [json.loads(Path(path).read_text()) for path in (first["json"], second / f"{name}.json")]
    return same and told[0]["attention"] == told[1]["attention"]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--model", default="tissue-simulated")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--small", action="store_true", help="without the large slide")
    options = parser.parse_args()
    folder = Path(tempfile.mkdtemp(prefix="slide-pipeline-"))
    try:
        slides: list[tuple[Path, float | None]] = []
        for path in default_slides():
            if path.is_file():
                # The second one does not say its µm per pixel: 0.25 is an assumption.
                slides.append((path, 0.25 if "tcga" in path.name else None))
            else:
                print(f"{path.name} is not there: left out")
        if not options.small:
            began = time.perf_counter()
            write_slide(folder / "made-80000x60000.svs")
            print(f"made the large slide in {time.perf_counter() - began:.0f} s")
            slides.append((folder / "made-80000x60000.svs", None))
        print(
            f"{'slide':30s} patches  tissue s  features s  patches/s  attention s  "
            "tiles    MB read  peak MiB  second run s  kills  same after them"
        )
        for path, size in slides:
            began = time.perf_counter()
            row, usage = run(path, options.model, folder / "whole", size)
            seconds = time.perf_counter() - began
            again, _ = run(path, options.model, folder / "whole", size)
            out = folder / f"killed-{path.stem}"
            kills = killed(path, options.model, out, size, seconds, options.seed)
            stages = row["stages"]
            print(
                f"{path.name:30s} {row['patches']:7d} {stages['tissue']:9.1f} "
                f"{stages['features']:11.1f} {row['patches'] / stages['features']:10.0f} "
                f"{stages['attention']:12.2f} {row['tiles']:6d} {row['bytes_read'] / 1e6:9.1f} "
                f"{usage.ru_maxrss / 1024:9.0f} {again['seconds']:13.1f} {kills:6d}  "
                f"{'yes' if compare(row, out, path.name) else 'NO'}",
                flush=True,
            )
    finally:
        shutil.rmtree(folder)


if __name__ == "__main__":
    main()
