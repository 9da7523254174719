"""How long a slide without coarse levels keeps the window waiting.

Writes a flat TIFF of 19,000 x 26,000 pixels, deflated in strips of a row or JPEG in tiles, opens it
in napari, and prints how soon something is seen, the longest time that the window did not answer,
how long the overview takes that is made beside it, its bytes, and the same when it is opened again.

python benchmarks/flat_slide.py --kind deflate --folder /tmp/flat
"""

from __future__ import annotations

import argparse
import math
import os
import resource
import time
import zlib
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import tifffile

from napari_sparseattn.files import replacing

TILE = 512


def rows_of(width: int, *, glass: bool) -> npt.NDArray[np.uint8]:
    """Return 512 rows of glass, with grainy tissue in the middle or without."""
    band = np.full((TILE, width, 3), 242, np.uint8)
    if not glass:
        rng = np.random.default_rng(0)
        inside = slice(width // 5, width - width // 5)
        grain = rng.integers(0, 50, (TILE, inside.stop - inside.start, 3), np.uint8)
        band[:, inside] = np.array([165, 95, 145], np.uint8) + grain
    return band


def write(path: Path, kind: str, height: int, width: int) -> None:
    """Write the slide without ever holding it; bands of rows repeat, which no decoder knows."""
    options: dict[str, Any] = {"photometric": "rgb", "metadata": None}
    options |= {"resolution": (2e4, 2e4), "resolutionunit": "CENTIMETER"}
    bands = {glass: rows_of(width, glass=glass) for glass in (True, False)}
    edge = height // 5 // TILE

    def of(number: int) -> bool:
        return not edge <= number < math.ceil(height / TILE) - edge

    def strips() -> Iterator[bytes]:
        coded = {
            glass: [zlib.compress(row.tobytes(), 1) for row in band]
            for glass, band in bands.items()
        }
        for row in range(height):
            yield coded[of(row // TILE)][row % TILE]

    def tiles() -> Iterator[npt.NDArray[np.uint8]]:
        for number in range(math.ceil(height / TILE)):
            band = bands[of(number)]
            for left in range(0, width, TILE):
                part = band[:, left : left + TILE]
                yield np.pad(part, [(0, 0), (0, TILE - part.shape[1]), (0, 0)])

    shape = (height, width, 3)
    # Only what is whole has the name, so that a second run does not take a part for it.
    with replacing(path) as part, tifffile.TiffWriter(part, bigtiff=True) as file:
        if kind == "deflate":
            options |= {"compression": "zlib", "rowsperstrip": 1}
            file.write(strips(), shape=shape, dtype=np.uint8, **options)
        else:
            options |= {"compression": "jpeg", "tile": (TILE, TILE)}
            file.write(tiles(), shape=shape, dtype=np.uint8, **options)


class Heart:
    """Measures the time between two beats of the window's loop, by the clock and as computing.

    On a machine that others compute on, the clock also counts their turns; what
    the main thread itself computed between two beats is its own.
    """

    def __init__(self) -> None:
        from qtpy.QtCore import QTimer

        self._timer = QTimer()
        self._timer.timeout.connect(self._beat)
        self._timer.start(2)
        self.reset()

    def reset(self) -> None:
        self._last, self.gaps = time.perf_counter(), list[float]()
        self._computed, self.computing = time.thread_time(), list[float]()

    def _beat(self) -> None:
        now = time.perf_counter()
        self.gaps.append(now - self._last)
        computed = time.thread_time()
        self.computing.append(computed - self._computed)
        self._last, self._computed = now, computed

    def said(self) -> str:
        gaps = np.sort(1000 * np.array(self.gaps or [0.0]))
        own = np.sort(1000 * np.array(self.computing or [0.0]))
        return (
            f"longest wait {gaps[-1]:.0f} ms ({own[-1]:.0f} ms computed), over 50 ms: "
            f"{(gaps > 50).sum()} ({(own > 50).sum()} computed) of {len(gaps)}"
        )


def pump(until: Callable[[], bool], seconds: float) -> float:
    """Let the window work until something holds; return how long that took."""
    from qtpy.QtWidgets import QApplication

    began = time.perf_counter()
    while not until() and time.perf_counter() - began < seconds:
        QApplication.processEvents()
        time.sleep(0.001)
    return time.perf_counter() - began


def measure(path: Path, seconds: float, picture: Path | None) -> None:
    """Open the slide in a window, and print what was waited for."""
    import napari

    from napari_sparseattn.plugin.core.docks import open_main
    from napari_sparseattn.plugin.core.sources import slide_of
    from napari_sparseattn.plugin.opening import open_files
    from napari_sparseattn.plugin.session import Session

    viewer = napari.Viewer()
    viewer.window.resize(1400, 900)
    open_main(viewer)
    session = Session.of(viewer)
    pump(lambda: session.selection.model is not None, 120)
    pump(lambda: False, 2)
    heart = Heart()
    for turn in ("first", "again"):
        heart.reset()
        opened = pump(lambda: False, 0)
        began = time.perf_counter()
        open_files(viewer, [str(path)], lambda *_: None)
        n = len(viewer.layers)
        pump(lambda n=n: len(viewer.layers) > n, 60)  # type: ignore[misc]
        opened = time.perf_counter() - began
        layer = viewer.layers[-1]
        print(f"{turn}: layer after {opened:.2f} s; {heart.said()}")
        heart.reset()
        pump(lambda: False, 3)
        if picture is not None and turn == "first":
            viewer.screenshot(str(picture), canvas_only=False, flash=False)
            heart.reset()
        pump(lambda layer=layer: slide_of(layer).overview is not None, seconds)  # type: ignore[misc,union-attr]
        print(f"{turn}: overview after {time.perf_counter() - began:.1f} s; {heart.said()}")
        heart.reset()
        viewer.scene.camera.zoom *= 12
        pump(lambda: False, 3)
        print(f"{turn}: zoomed in; {heart.said()}")
        if picture is not None and turn == "first":
            viewer.screenshot(str(picture.with_stem(picture.stem + "_in")), canvas_only=False)
        viewer.fit_to_view()
        pump(lambda: False, 1)
    viewer.close()


def main() -> None:
    """Write, measure, remove."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n", maxsplit=1)[0])
    parser.add_argument("--kind", choices=("deflate", "jpeg"), default="deflate")
    parser.add_argument("--folder", type=Path, required=True)
    parser.add_argument("--size", type=int, nargs=2, default=(19_000, 26_000))
    parser.add_argument("--before", action="store_true", help="the coarsest view, read at once")
    parser.add_argument("--picture", type=Path)
    parser.add_argument("--keep", action="store_true")
    chosen = parser.parse_args()
    chosen.folder.mkdir(parents=True, exist_ok=True)
    os.environ["NAPARI_SPARSEATTN_CACHE"] = str(chosen.folder / "cache")
    path = chosen.folder / f"{chosen.kind}.tif"
    if not path.exists():
        began = time.perf_counter()
        write(path, chosen.kind, *chosen.size)
        print(f"written in {time.perf_counter() - began:.0f} s, {path.stat().st_size / 1e6:.0f} MB")
    if chosen.before:
        from napari_sparseattn.images.slides.opening import open_slide
        from napari_sparseattn.plugin.slides.layers import slide_layer

        with open_slide(path) as slide:
            began, computed = time.perf_counter(), time.process_time()
            np.asarray(slide_layer(slide)[0][-1])
            print(f"before: the window waited {time.perf_counter() - began:.1f} s")
            print(f"before: {time.process_time() - computed:.1f} s of that computed")
    measure(path, 600, chosen.picture)
    kept = sum(file.stat().st_size for file in (chosen.folder / "cache").rglob("*.h5"))
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1e3
    print(f"overview {kept / 1e6:.0f} MB in the cache; peak memory {peak:.0f} MB")
    if not chosen.keep:
        path.unlink()


if __name__ == "__main__":
    main()
