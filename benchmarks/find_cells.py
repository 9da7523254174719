"""Recall and precision of find_cells on stained smear fields with boxes.

    python benchmarks/find_cells.py --data ../shared/data/bccd_fields.zip

Their pixel size is not known: the red cells set the scale, and how well they do is
measured too.

A detection is right when its centre lies in a box of the class that no other
detection was matched to (a maximum one-to-one matching). Boxes cut by the
image's border count too. The red-cell boxes of this set are known to be
incomplete, so red-cell precision is a lower bound. The method was tuned on
the fields under ``train/`` only. Intervals are 95 % Wilson intervals, which take
cells for independent; cells of one field are not quite.
"""

from __future__ import annotations

import argparse
import csv
import io
import tempfile
import time
import zipfile
from collections import Counter, defaultdict
from pathlib import Path

import numpy as np
import scipy.sparse.csgraph
from blood_cells import default_archive
from scipy.stats import binomtest

from napari_sparseattn.images.fields.cells import Method, find_cells
from napari_sparseattn.images.fields.scale import RED_CELL_UM, MeasuredScale, measure_scale
from napari_sparseattn.images.opening import open_field

METHODS: dict[str, Method] = {"WBC": "white-cells", "RBC": "red-cells"}


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
        name: {c: np.array(per_class[c]).reshape(-1, 4) for c in METHODS}
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


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--data", type=Path, default=default_archive().with_name("bccd_fields.zip"))
    parser.add_argument("--split", default="val", choices=["train", "val"])
    parser.add_argument("--list", action="store_true", help="name the fields with errors")
    options = parser.parse_args()

    hits: Counter[str] = Counter()
    found: Counter[str] = Counter()
    known: Counter[str] = Counter()
    seconds = dict.fromkeys(METHODS, 0.0)
    scales: list[float | None] = []
    with zipfile.ZipFile(options.data) as archive, tempfile.TemporaryDirectory() as folder:
        fields = read_boxes(archive, options.split)
        for name, boxes in fields.items():
            field = open_field(archive.extract(name, folder))
            for label, method in METHODS.items():
                start = time.perf_counter()
                centres = find_cells(field, method).centres
                seconds[label] += time.perf_counter() - start
                if label == "RBC":
                    scales.append(scale_error(measure_scale(field), boxes["RBC"]))
                matched = count_matches(centres, boxes[label])
                hits[label] += matched
                found[label] += len(centres)
                known[label] += len(boxes[label])
                wrong = not matched == len(centres) == len(boxes[label])
                if options.list and label == "WBC" and wrong:
                    counts = f"{len(boxes[label])} boxes, {len(centres)} found, {matched} matched"
                    print(f"{name}: {counts}")

    print(f"{len(fields)} {options.split} fields of 640 x 480 pixels; 95 % Wilson intervals")
    for label, title in (("WBC", "white cells"), ("RBC", "red cells")):
        print(
            f"{title:12s} {report('recall', hits[label], known[label])}   "
            f"{report('precision', hits[label], found[label])}   "
            f"{1000 * seconds[label] / len(fields):.0f} ms per field"
        )
    told = [error for error in scales if error is not None]
    right = sum(abs(error) <= 0.25 for error in told)
    print(report("scale by the red cells within 25 % of that by their boxes:", right, len(told)))
    print("red-cell boxes of this set are incomplete: their precision is a lower bound")


if __name__ == "__main__":
    main()
