"""The bundled model on smears of another laboratory: BCCD, which it never saw.

BCCD's boxes say white cell or platelet, not which white cell. So this tells
whether the model still knows a white cell from a platelet under another
microscope, stain and magnification; it is no accuracy over the eight classes.
The pixel size is not in the files: it is estimated, as for the training
images, from the red cells' median box, taken as 7.5 µm.
"""

from __future__ import annotations

import argparse
import collections
import csv
import io
import zipfile
from pathlib import Path

import numpy as np
from blood_cells import default_archive
from novelty import judge, share
from PIL import Image

from napari_sparseattn.bundle import load_bundle
from napari_sparseattn.images.fields.crops import cut_crops
from napari_sparseattn.inference.cells import classify_crops
from napari_sparseattn.metrics import wilson

RED_CELL_UM = 7.5
WHITE = ("basophil", "eosinophil", "immature_granulocyte", "lymphocyte", "monocyte", "neutrophil")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--data", type=Path, default=default_archive().with_name("bccd_fields.zip"))
    parser.add_argument("--model", default="blood-cells")
    arguments = parser.parse_args()
    bundle = load_bundle(arguments.model)
    with zipfile.ZipFile(arguments.data) as archive:
        boxes = list(csv.DictReader(io.StringIO(archive.read("boxes.csv").decode())))
        images = {
            name: np.asarray(Image.open(io.BytesIO(archive.read(name))).convert("RGB"))
            for name in sorted({box["image"] for box in boxes})
        }
    corners = {
        key: np.array(
            [
                [float(b[k]) for k in ("ymin", "xmin", "ymax", "xmax")]
                for b in boxes
                if b["class"] == key
            ]
        )
        for key in ("RBC", "WBC", "Platelets")
    }
    sides = corners["RBC"][:, 2:] - corners["RBC"][:, :2]
    pixel_size = RED_CELL_UM / float(np.median(sides))
    side = bundle.card.crop.field_of_view_um / pixel_size
    print(
        f"{len(images)} fields; estimated {pixel_size:.3f} µm per pixel; crops of {side:.0f} px\n"
    )
    for key in ("WBC", "Platelets"):
        chosen = [box for box in boxes if box["class"] == key]
        # Crops are reflected at the border; cells cut by it are left out.
        rows, crops = zip(corners[key], chosen, strict=True), []
        for (top, left, bottom, right), box in rows:
            height, width = images[box["image"]].shape[:2]
            if min(top, left) <= 1 or bottom >= height - 1 or right >= width - 1:
                continue
            centre = [((top + bottom - 1) / 2, (left + right - 1) / 2)]
            crops.append(cut_crops(images[box["image"]], centre, side, bundle.card.crop.size)[0])
        predicted = classify_crops(np.stack(crops), bundle, "cpu").argmax(1)
        names = [bundle.card.class_names[i] for i in predicted]
        right = sum(name in WHITE if key == "WBC" else name == "platelet" for name in names)
        low, high = wilson(right, len(names))
        wanted = "as one of the six white cells" if key == "WBC" else "as platelet"
        shares = " ".join(f"{100 * value:.1f}" for value in (right / len(names), low, high))
        print(f"{key}: {right} of {len(names)} whole ones {wanted}; in %, with interval: {shares}")
        print(
            "   " + ", ".join(f"{n} {name}" for name, n in collections.Counter(names).most_common())
        )
        if bundle.known is not None:
            novelty, _, _, none, _ = judge(np.stack(crops), bundle)
            so = collections.Counter(
                name for name, is_none in zip(names, none, strict=True) if is_none
            )
            called = ", ".join(f"{n} {name}" for name, n in so.most_common())
            print(f"   {share(novelty)} flagged; none of these {none.sum()}: {called or 'none'}")


if __name__ == "__main__":
    main()
