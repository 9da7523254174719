"""Regions per second of slide readers side by side, and a large slide in napari.

    python benchmarks/slides.py [--slide FILE ...] [--seconds 1.5] [--no-window] [--only-huge]

Writes a slide of 80 000 x 60 000 pixels laid out as Aperio's (JPEG tiles of
256 pixels, four levels; its tissue is drawn, of a few hundred different
tiles) and reads regions of it by this package, OpenSlide, tiffslide, and
tifffile with zarr. Readers take turns, round by round, on the same places,
each round in places of its own; the median round is printed. No reader keeps
decoded tiles, so that all decode what they return. With two threads two
callers share one open slide. The second column is this package as it opens a
slide by default, decoding the tiles of one region in threads of its own.

Then it is opened in a napari window and panned, and so is a slide of 100 000
x 100 000 pixels whose tiles are drawn when they are read (as the decoding of
a JPEG tile takes; no such file would fit here), with how the memory of the
process grows meanwhile, and with the unread area greyed. Needs
openslide-python, openslide-bin, tiffslide and zarr; the window a display.
"""

from __future__ import annotations

import argparse
import os
import platform
import statistics
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Iterator
from importlib.metadata import version
from pathlib import Path
from typing import Any

import imagecodecs
import numpy as np
import numpy.typing as npt
import scipy.ndimage
import tifffile

from napari_sparseattn.images.slides._tiles import TileCache
from napari_sparseattn.images.slides.opening import open_slide
from napari_sparseattn.images.slides.pyramid import Pyramid, VirtualPyramid

TILE = 256
HEIGHT, WIDTH = 60_000, 80_000
HUGE = 100_000
ROUNDS = 5
Read = Callable[[int, int, int], npt.NDArray[np.uint8]]


def drawn_tiles(n: int = 256) -> list[bytes]:
    """Return different JPEG tiles of violet and pink tissue, 4:2:0, quality 80."""
    rng = np.random.default_rng(0)
    pink, violet = np.array((225, 170, 200.0)), np.array((110, 70, 150.0))
    tiles = []
    for _ in range(n):
        fine = scipy.ndimage.gaussian_filter(rng.normal(size=(TILE, TILE)), 3)
        share = 1 / (1 + np.exp(-fine[..., np.newaxis] * 25))
        image = pink * (1 - share) + violet * share + rng.normal(0, 6, (TILE, TILE, 3))
        pixels = image.clip(0, 255).astype(np.uint8)
        tiles.append(imagecodecs.jpeg8_encode(pixels, level=80, subsampling="420"))
    return tiles


def write_slide(path: Path) -> None:
    """Write the slide; a third of its tiles are tissue, the others blank glass."""
    tissue = drawn_tiles()
    glass = imagecodecs.jpeg8_encode(np.full((TILE, TILE, 3), 243, np.uint8), level=80)
    description = f"Aperio Image Library v11\r\n{WIDTH}x{HEIGHT} (256x256) JPEG/RGB Q=80"
    with tifffile.TiffWriter(path, bigtiff=True) as writer:
        for n, factor in enumerate((1, 4, 16, 64)):
            height, width = HEIGHT // factor, WIDTH // factor
            writer.write(
                _placed(tissue, glass, height, width),
                shape=(height, width, 3),
                dtype=np.uint8,
                tile=(TILE, TILE),
                compression="jpeg",
                photometric="ycbcr",
                subsampling=(2, 2),
                description=description + "|AppMag = 40|MPP = 0.25" * (n == 0),
                metadata=None,
            )
            if n == 0:  # an Aperio file's second page is its thumbnail, in strips
                writer.write(
                    np.full((768, 1024, 3), 243, np.uint8),
                    photometric="rgb",
                    rowsperstrip=16,
                    description=description,
                    metadata=None,
                )


def _placed(tissue: list[bytes], glass: bytes, height: int, width: int) -> Iterator[bytes]:
    rows, columns = -(-height // TILE), -(-width // TILE)
    for row in range(rows):
        for column in range(columns):
            # An ellipse in the middle of the slide.
            away = ((row + 0.5) / rows - 0.5) ** 2 + ((column + 0.5) / columns - 0.5) ** 2
            yield tissue[(row * 31 + column * 17) % len(tissue)] if away < 0.1 else glass


def ours(path: Path, threads: int | None = 1) -> Read:
    slide = open_slide(path, threads=threads)
    slide._cache = TileCache(0)
    return lambda y, x, side: slide.read_region(y, x, 0, side, side).pixels


def by_openslide(path: Path) -> Read:
    import openslide

    slide = openslide.OpenSlide(str(path))
    slide.set_cache(openslide.OpenSlideCache(0))
    return lambda y, x, side: np.asarray(slide.read_region((x, y), 0, (side, side)))[..., :3]


def by_tiffslide(path: Path) -> Read:
    import tiffslide

    slide = tiffslide.TiffSlide(path)
    return lambda y, x, side: slide.read_region((x, y), 0, (side, side), as_array=True)


def by_zarr(path: Path) -> Read:
    import zarr

    store = tifffile.TiffFile(path).series[0].aszarr(level=0)
    array: Any = zarr.open_array(store, mode="r")
    return lambda y, x, side: np.asarray(array[y : y + side, x : x + side])


READERS = {
    "ours, 1 thread each": ours,
    "ours, own threads": lambda path: ours(path, None),
    "OpenSlide": by_openslide,
    "tiffslide": by_tiffslide,
    "tifffile + zarr": by_zarr,
}


def places(
    rng: np.random.Generator, shape: tuple[int, int], side: int, aligned: int
) -> list[tuple[int, int]]:
    """Return corners of regions; `aligned` is the side of the tiles, or 1 for anywhere."""
    # The middle half each way: mostly tissue.
    rows = rng.integers(shape[0] // 4, max(3 * shape[0] // 4 - side, shape[0] // 4 + 1), 4000)
    columns = rng.integers(shape[1] // 4, max(3 * shape[1] // 4 - side, shape[1] // 4 + 1), 4000)
    return [
        (int(y) // aligned * aligned, int(x) // aligned * aligned)
        for y, x in zip(rows, columns, strict=True)
    ]


def rate(read: Read, corners: list[tuple[int, int]], side: int, n: int, seconds: float) -> float:
    """Return regions per second of `n` threads."""
    done = [0] * n
    stop = time.perf_counter() + seconds

    def work(thread: int) -> None:
        for y, x in corners[thread::n]:
            read(y, x, side)
            done[thread] += 1
            if time.perf_counter() > stop:
                return

    start = time.perf_counter()
    threads = [threading.Thread(target=work, args=(thread,)) for thread in range(n)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    return sum(done) / (time.perf_counter() - start)


def compare(path: Path, seconds: float) -> None:
    with open_slide(path) as slide:
        shape, tile = slide.shape, slide.levels[0].tile[0]
    print(f"\n{path.name}: {shape[1]} x {shape[0]} pixels, tiles of {tile}; regions per second")
    print(f"{'':22s}" + "".join(f"{name:>20s}" for name in READERS) + "   / OpenSlide")
    rng = np.random.default_rng(1)
    y, x = places(rng, shape, 512, 1)[0]
    expected = READERS["OpenSlide"](path)(y, x, 512).astype(int)
    for name, opener in READERS.items():
        apart = np.abs(opener(path)(y, x, 512) - expected).max()
        assert apart <= 2, f"{name} reads other pixels than OpenSlide, by {apart}"
    for n in (1, 2):
        for aligned in (tile, 1):
            for side in (256, 512):
                side = side // tile * tile if aligned > 1 and side >= tile else side
                rates: dict[str, list[float]] = {name: [] for name in READERS}
                for _ in range(ROUNDS):
                    corners = places(rng, shape, side, aligned)
                    for name, opener in READERS.items():
                        rates[name].append(rate(opener(path), corners, side, n, seconds))
                medians = {name: statistics.median(found) for name, found in rates.items()}
                kind = f"{n} thread{'s' * (n > 1)}, {'aligned' if aligned > 1 else 'random'} {side}"
                ratio = medians["ours, 1 thread each"] / medians["OpenSlide"]
                print(
                    f"{kind:22s}"
                    + "".join(f"{found:20.0f}" for found in medians.values())
                    + f"{ratio:9.2f} x"
                )


class Clock:
    """Adds up the time that a slide's regions take."""

    def __init__(self, slide: Pyramid) -> None:
        self.seconds = 0.0
        read = slide.read_region

        def timed(*place: int) -> Any:
            start = time.perf_counter()
            try:
                return read(*place)
            finally:
                self.seconds += time.perf_counter() - start

        slide.read_region = timed  # type: ignore[method-assign]


def new_viewer() -> Any:
    import napari
    from qtpy.QtTest import QTest

    viewer = napari.Viewer()
    viewer.window.resize(1400, 900)
    QTest.qWait(1500)
    return viewer


def window(path: Path) -> None:
    from napari_sparseattn.plugin.slides.layers import slide_layer

    viewer = new_viewer()
    print(f"\n{path.name} in a napari window of 1400 x 900")
    for what in ("the session's first layer", "a later layer"):
        start = time.perf_counter()
        slide = open_slide(path)
        opened = time.perf_counter() - start
        clock = Clock(slide)
        data, attributes, _ = slide_layer(slide)
        viewer.add_image(data, **attributes)
        viewer.screenshot(canvas_only=True, flash=False)
        print(
            f"opened as {what}: file {opened:.2f} s, drawn after "
            f"{time.perf_counter() - start:.2f} s"
        )
        if what != "a later layer":
            viewer.layers.clear()
    for zoom, what in ((1.0, "full resolution"), (0.2, "a fifth"), (0.02, "overview")):
        pan(viewer, slide, clock, zoom, what)
    print(f"memory held for tiles: {slide._cache.n_bytes / 2**20:.0f} MB")
    print(slide.ledger.snapshot().summary())
    viewer.close()


def drawn_slide(side: int) -> VirtualPyramid:
    """Return a slide whose tiles are decoded from a few hundred JPEG tiles."""
    tissue = drawn_tiles()

    def render(level: int, y: int, x: int, height: int, width: int) -> npt.NDArray[np.uint8]:
        place = (y // TILE * 31 + x // TILE * 17 + level) % len(tissue)
        pixels: npt.NDArray[np.uint8] = imagecodecs.jpeg8_decode(tissue[place])
        return pixels[:height, :width]

    return VirtualPyramid(render, side, side, pixel_size=0.25, name=f"drawn-{side}", tile=TILE)


def resident() -> float:
    """Return the memory of this process in MB (Linux)."""
    status = Path("/proc/self/status").read_text()
    return int(status.split("VmRSS:")[1].split()[0]) / 1024


def huge_window(side: int) -> None:
    """Pan a slide of `side` pixels a side, alone and under the layer that greys what is unread."""
    from qtpy.QtWidgets import QApplication

    from napari_sparseattn.plugin.slides.layers import slide_layer, unread_layer

    viewer = new_viewer()
    slide = drawn_slide(side)
    clock = Clock(slide)
    print(f"\n{side} x {side} pixels, drawn, in a napari window of 1400 x 900")
    start = time.perf_counter()
    data, attributes, _ = slide_layer(slide)
    viewer.add_image(data, **attributes)
    viewer.screenshot(canvas_only=True, flash=False)
    print(f"drawn after {time.perf_counter() - start:.2f} s")
    before = resident()
    for zoom, what in ((1.0, "full resolution"), (0.2, "a fifth"), (0.01, "overview")):
        pan(viewer, slide, clock, zoom, what)
    print(
        f"memory: {before:.0f} MB before panning, {resident():.0f} MB after 300 views; "
        f"{slide._cache.n_bytes / 2**20:.0f} MB of it tiles"
    )
    print(slide.ledger.snapshot().summary())
    for level in (0, None):
        start = time.perf_counter()
        data, attributes, kind = unread_layer(slide, slide.ledger.snapshot(), level)
        layer = viewer.add_labels(data, **attributes)
        QApplication.processEvents()
        seconds = time.perf_counter() - start
        print(f"unread area greyed by {' x '.join(map(str, data.shape))} {kind}: {seconds:.2f} s")
        pan(viewer, slide, clock, 1.0, "full resolution")
        viewer.layers.remove(layer)
    print(f"memory at the end: {resident():.0f} MB")
    viewer.close()


def pan(
    viewer: Any, slide: Pyramid, clock: Clock, zoom: float, what: str, steps: int = 100
) -> None:
    """Move the view by a fifth of its width at a time, and time the main thread."""
    from qtpy.QtWidgets import QApplication

    pixel_size = slide.pixel_size or 1.0
    camera = viewer.scene.camera
    camera.zoom = zoom / pixel_size
    QApplication.processEvents()
    y, x = slide.shape[0] / 2 * pixel_size, slide.shape[1] / 3 * pixel_size
    step = 300 / zoom * pixel_size
    stalls, reading = [], []
    for n in range(steps):
        clock.seconds = 0.0
        start = time.perf_counter()
        camera.center = (0, y + step * np.sin(n / 5), x + step * n * min(1.0, zoom))
        QApplication.processEvents()
        stalls.append(time.perf_counter() - start)
        reading.append(clock.seconds)
        # A hand rests too; what is drawn late is a stall as well.
        rest = time.perf_counter() + 0.02
        while (before := time.perf_counter()) < rest:
            QApplication.processEvents()
            late = time.perf_counter() - before
            if late > stalls[-1]:
                stalls[-1], reading[-1] = late, clock.seconds
            time.sleep(0.001)
    print(
        f"panning at {what:16s}: stall of the main thread worst {1e3 * max(stalls):.0f} ms, median "
        f"{1e3 * statistics.median(stalls):.0f} ms; of these reading "
        f"{1e3 * reading[int(np.argmax(stalls))]:.0f} ms and {1e3 * statistics.median(reading):.0f}"
        f" ms (worst {1e3 * max(reading):.0f} ms)"
    )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--slide", type=Path, action="append", default=[])
    parser.add_argument("--made", type=Path, help="where to keep the slide that is made")
    parser.add_argument("--seconds", type=float, default=1.5, help="of each round")
    parser.add_argument("--no-window", action="store_true")
    parser.add_argument("--no-compare", action="store_true")
    parser.add_argument("--side", type=int, default=HUGE, help="of the slide that is drawn")
    parser.add_argument("--only-huge", action="store_true", help="only the slide that is drawn")
    options = parser.parse_args()
    if options.only_huge:
        huge_window(options.side)
        return
    packages = ("openslide-python", "openslide-bin", "tiffslide", "tifffile", "zarr", "imagecodecs")
    print(platform.platform(), f"Python {platform.python_version()}", f"{os.cpu_count()} cores")
    print(", ".join(f"{name} {version(name)}" for name in packages), file=sys.stdout)
    with tempfile.TemporaryDirectory() as folder:
        made = options.made or Path(folder) / "made-80000x60000.svs"
        if not made.exists():
            start = time.perf_counter()
            write_slide(made)
            print(
                f"slide written in {time.perf_counter() - start:.0f} s, "
                f"{made.stat().st_size / 1e6:.0f} MB"
            )
        for path in () if options.no_compare else (made, *options.slide):
            compare(path, options.seconds)
        if not options.no_window:
            window(made)
    if not options.no_window:
        huge_window(options.side)


if __name__ == "__main__":
    main()
