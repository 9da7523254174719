"""Recall and precision of find_cells on stained smear fields with boxes.

    python benchmarks/find_cells.py --data ../shared/data/bccd_fields.zip

Their pixel size is not known: without one the red cells set the scale; with one, it is
that at which the median red-cell box of the field is 7.5 µm wide. Both are measured, as
they are and as a worse optic would give them:

vignetting  the corners 40 % darker than the middle, falling with the square of the distance
eyepiece    a round field in black with a soft rim, and that vignetting within; cells
            whose boxes reach out of it do not count, neither found nor missed

A detection is right when its centre lies in a box of the class that no other
detection was matched to (a maximum one-to-one matching). Boxes cut by the
image's border count too. The red-cell boxes of this set are known to be
incomplete, so red-cell precision is a lower bound; those of platelets are too.

Held out: the methods were tuned on the 205 fields under ``train/`` only, of which
``--split train --every 5`` looks at some. The 87 under ``val/`` are for the last look.
Intervals are 95 % Wilson intervals, which take cells for independent; cells of one
field are not quite.

    python benchmarks/find_cells.py --large 6000

times one image of that many pixels a side, tiled of the simulated smear at 0.25 µm per
pixel, and its peak memory, each method in a process of its own.
"""

from __future__ import annotations

import argparse
import csv
import io
import resource
import subprocess
import sys
import tempfile
import time
import zipfile
from collections import Counter, defaultdict
from pathlib import Path

import numpy as np
import scipy.sparse.csgraph
from blood_cells import default_archive
from scipy.stats import binomtest

from napari_sparseattn.images.fields.cells import Cells, Method, find_cells
from napari_sparseattn.images.fields.field import Field
from napari_sparseattn.images.fields.scale import RED_CELL_UM, MeasuredScale
from napari_sparseattn.images.opening import open_field

METHODS: dict[str, Method] = {"WBC": "white-cells", "RBC": "red-cells"}
_RED_CELLS = ("plain", False)
CLASSES = ("WBC", "RBC", "Platelets")
TITLES = {"WBC": "white cells", "RBC": "red cells", "Platelets": "platelets"}


def read_boxes(archive: zipfile.ZipFile, split: str) -> dict[str, dict[str, np.ndarray]]:
    """Return boxes (N, 4) as row0, col0, row1, col1 per field and class."""
    boxes: dict[str, dict[str, list[list[float]]]] = {}
    for name in archive.namelist():
        if name.startswith(f"{split}/") and name.endswith(".jpg"):
            boxes[name] = defaultdict(list)
    with archive.open("boxes.csv") as file:
        for row in csv.DictReader(io.TextIOWrapper(file)):
            if row["image"] in boxes:
                box = [float(row[key]) for key in ("ymin", "xmin", "ymax", "xmax")]
                boxes[row["image"]][row["class"]].append(box)
    return {
        name: {c: np.array(per_class[c]).reshape(-1, 4) for c in CLASSES}
        for name, per_class in boxes.items()
    }


def count_matches(centres: np.ndarray, boxes: np.ndarray) -> int:
    """Return the size of the largest one-to-one matching of centres and boxes."""
    inside = np.all(
        (boxes[None, :, :2] <= centres[:, None]) & (centres[:, None] <= boxes[None, :, 2:]), axis=2
    )
    if not inside.any():
        return 0
    match = scipy.sparse.csgraph.maximum_bipartite_matching(
        scipy.sparse.csr_matrix(inside), perm_type="column"
    )
    return int(np.count_nonzero(match >= 0))


def scale_error(found: MeasuredScale | None, boxes: np.ndarray) -> float | None:
    """By what share the measured pixel size is off; all of it where there is none.

    A red cell is taken for 7.5 µm on both sides. None where fewer than three
    whole cells have a box.
    """
    whole = (boxes[:, :2] > 2).all(axis=1) & (boxes[:, 2:] < (478, 638)).all(axis=1)
    sides = boxes[whole, 2:] - boxes[whole, :2]
    if len(sides) < 3:
        return None
    diameter = float(np.median(np.sqrt(sides.prod(axis=1))))
    return 1.0 if found is None else found.pixel_size / (RED_CELL_UM / diameter) - 1


def report(name: str, hits: int, total: int) -> str:
    if total == 0:
        return f"{name} none"
    interval = binomtest(hits, total).proportion_ci(method="wilson")
    share, low, high = 100 * hits / total, 100 * interval.low, 100 * interval.high
    return f"{name} {share:5.1f} % [{low:4.1f}, {high:4.1f}] ({hits}/{total})"


def apart_from_middle(shape: tuple[int, ...]) -> np.ndarray:
    """Distance from the middle, (H, W), 1 in the corners."""
    y, x = np.ogrid[: shape[0], : shape[1]]
    apart = np.hypot(y - (shape[0] - 1) / 2, x - (shape[1] - 1) / 2)
    return np.asarray(apart / apart[0, 0])


def seen_through(optic: str, pixels: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Return pixels as this optic shows them, and what is in view."""
    view = np.ones(pixels.shape[:2], bool)
    if optic == "plain":
        return pixels, view
    apart = apart_from_middle(pixels.shape)
    light = 1 - 0.4 * apart**2
    if optic == "eyepiece":
        radius = 0.98 * min(pixels.shape[:2]) / np.hypot(*pixels.shape[:2])
        light *= np.clip((radius - apart) / 0.02, 0, 1)
        view = apart < radius - 0.02
    return np.rint(pixels * light[..., np.newaxis]).astype(np.uint8), view


def kept(places: np.ndarray, view: np.ndarray) -> np.ndarray:
    """Tell which boxes (N, 4) lie in view with all corners."""
    if view.all():
        return np.ones(len(places), bool)
    limit = np.array(view.shape) - 1
    rows = np.clip(places[:, [0, 0, 2, 2]].astype(int), 0, limit[0])
    columns = np.clip(places[:, [1, 3, 1, 3]].astype(int), 0, limit[1])
    return np.asarray(view[rows, columns].all(axis=1))


class Counts:
    """What was found, known and matched, per class."""

    def __init__(self) -> None:
        self.hits: Counter[str] = Counter()
        self.found: Counter[str] = Counter()
        self.known: Counter[str] = Counter()
        self.seconds: Counter[str] = Counter()

    def add(self, label: str, cells: Cells, boxes: np.ndarray, view: np.ndarray) -> bool:
        """Count one field; tell whether anything was wrong."""
        # One found at the rim of the view is right or wrong as any other; a box there is
        # of a cell that is cut, and may be found or not.
        whole, cut = boxes[kept(boxes, view)], boxes[~kept(boxes, view)]
        centres = cells.centres
        matched = count_matches(centres, whole)
        spare = count_matches(centres, np.concatenate([whole, cut])) - matched
        self.hits[label] += matched
        self.found[label] += len(centres) - spare
        self.known[label] += len(whole)
        return not matched == len(centres) - spare == len(whole)

    def print(self, n_fields: int) -> None:
        for label in CLASSES:
            if self.known[label] + self.found[label]:
                print(
                    f"{TITLES[label]:12s} {report('recall', self.hits[label], self.known[label])}"
                    f"   {report('precision', self.hits[label], self.found[label])}   "
                    f"{1000 * self.seconds[label] / n_fields:.0f} ms per field"
                )


def time_large(side: int, method: Method) -> None:
    """Time one large image, and print the peak memory of this process."""
    from napari_sparseattn.simulate import smear, tile_field

    tile = smear(pixel_size=0.25)
    field = tile_field(tile, -(-side // tile.shape[0]), -(-side // tile.shape[1]))
    cut = np.ascontiguousarray(field.data[:side, :side])
    field = Field(cut, "YXC", 0.25, "brightfield")
    start, used = time.perf_counter(), time.process_time()
    cells = find_cells(field, method, platelets=method == "white-cells")
    wall, used = time.perf_counter() - start, time.process_time() - used
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**20
    print(
        f"{method:12s} {side} x {side}: {len(cells)} cells, {used:.1f} s on one core "
        f"({wall:.1f} s by the clock), peak {peak:.2f} GB with the program and the image"
    )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--data", type=Path, default=default_archive().with_name("bccd_fields.zip"))
    parser.add_argument("--split", default="val", choices=["train", "val"])
    parser.add_argument("--every", type=int, default=1, help="take each nth field")
    parser.add_argument("--list", action="store_true", help="name the fields with errors")
    parser.add_argument(
        "--optics", nargs="+", default=["plain", "vignetting", "eyepiece"], help="see above"
    )
    parser.add_argument("--only", nargs="+", default=list(METHODS), choices=list(METHODS))
    parser.add_argument("--large", type=int, help="time an image of this side instead")
    parser.add_argument("--method", default=None, help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.large and options.method:
        time_large(options.large, options.method)
        return
    if options.large:
        for method in METHODS.values():
            command = [sys.executable, __file__, "--large", str(options.large), "--method", method]
            subprocess.run(command, check=True)
        return

    with zipfile.ZipFile(options.data) as archive, tempfile.TemporaryDirectory() as folder:
        fields = read_boxes(archive, options.split)
        fields = dict(list(fields.items())[:: options.every])
        print(f"{len(fields)} {options.split} fields of 640 x 480 pixels; 95 % Wilson intervals")
        plain = {name: open_field(archive.extract(name, folder)) for name in fields}
        for optic in options.optics:
            counts = {known: Counts() for known in (False, True)}
            scales: list[float | None] = []
            for name, boxes in fields.items():
                pixels, view = seen_through(optic, np.asarray(plain[name].plane()))
                for known, count in counts.items():
                    size = true_size(boxes["RBC"]) if known else None
                    field = Field(pixels, "YXC", size, "brightfield", name=name)
                    # Red cells once: as they are, without a pixel size.
                    labels = [n for n in options.only if n == "WBC" or (optic, known) == _RED_CELLS]
                    for label in labels:
                        start = time.process_time()
                        cells = find_cells(field, METHODS[label], platelets=label == "WBC")
                        count.seconds[label] += time.process_time() - start
                        small = np.zeros(len(cells), bool)
                        if label == "WBC" and not known:
                            scales.append(scale_error(cells.scale, boxes["RBC"]))
                        if label == "WBC":
                            small = is_platelet(cells, boxes["RBC"])
                            count.add("Platelets", cells.subset(small), boxes["Platelets"], view)
                        wrong = count.add(label, cells.subset(~small), boxes[label], view)
                        if options.list and label == "WBC" and wrong:
                            print(f"{optic}, {'with' if known else 'without'} size: {name}")
            for known, count in counts.items():
                print(f"\n{optic}, {'with' if known else 'without'} pixel size")
                count.print(len(fields))
            told = [error for error in scales if error is not None]
            right = sum(abs(error) <= 0.25 for error in told)
            print(report("scale by the red cells within 25 % of that by boxes:", right, len(told)))
    print("\nred-cell and platelet boxes of this set are incomplete: precision is a lower bound")


def true_size(boxes: np.ndarray) -> float | None:
    """µm per pixel by the boxes of red cells; None where there are none."""
    if not len(boxes):
        return None
    sides = boxes[:, 2:] - boxes[:, :2]
    return float(RED_CELL_UM / np.median(np.sqrt(sides.prod(axis=1))))


def is_platelet(cells: Cells, boxes: np.ndarray) -> np.ndarray:
    """Tell what is smaller than any white cell: narrower than 0.75 of a red cell."""
    size = true_size(boxes) or (cells.scale.pixel_size if cells.scale else 0.1)
    return np.asarray(cells.diameters * size < 0.75 * RED_CELL_UM)


if __name__ == "__main__":
    main()
