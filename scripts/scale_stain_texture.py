"""Write the fixed constants that bring stain-texture's numbers to about zero mean and unit spread.

    python scripts/scale_stain_texture.py path/to/CMU-1-Small-Region.svs

They are the mean and spread over patches of 224 pixels of OpenSlide's
CMU-1-Small-Region.svs (CC0), each as it is and with its stains at several
strengths, so that slides stained otherwise stay in range. Nothing about
diseases enters. A new table is a new encoder: raise its version then.
"""

from __future__ import annotations

import argparse
import json
from pathlib import Path

import numpy as np
import torch

from napari_sparseattn.features import encoders
from napari_sparseattn.features._stain_texture import describe
from napari_sparseattn.files import replacing
from napari_sparseattn.images.slides.opening import open_slide
from napari_sparseattn.images.slides.patches import patch_grid, read_patch
from napari_sparseattn.images.tissue.mask import find_tissue

#: Powers of the relative transmittance: stains half as strong to twice as strong.
STRENGTHS = (0.5, 0.75, 1.0, 1.4, 2.0)
WHITE = 245.0


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("slide", type=Path)
    parser.add_argument("--out", type=Path, default=encoders.SCALE_FILE)
    arguments = parser.parse_args()
    rows = []
    with open_slide(arguments.slide) as slide:
        tissue = find_tissue(slide)
        grid = patch_grid(slide, tissue, pixel_size=0.5, size=224, overlap=0.5, min_tissue=0.25)
        for index in range(len(grid)):
            pixels, _ = read_patch(slide, grid, index)
            light = np.minimum(pixels / WHITE, 1.0)
            stained = np.stack([np.rint(WHITE * light**strength) for strength in STRENGTHS])
            with torch.inference_mode():
                rows.append(describe(torch.from_numpy(stained.astype(np.uint8))).double().numpy())
    table = np.concatenate(rows)
    # A number that hardly varies here may vary elsewhere: it must not be blown up.
    spread = np.maximum(table.std(axis=0), 0.02)
    scale = {
        "source": "CMU-1-Small-Region.svs (OpenSlide, CC0)",
        "patches": len(grid),
        "strengths": STRENGTHS,
        "mean": [float(f"{value:.4g}") for value in table.mean(axis=0)],
        "spread": [float(f"{value:.4g}") for value in spread],
    }
    with replacing(arguments.out) as path:
        path.write_text(json.dumps(scale) + "\n", encoding="utf-8")
    print(f"{len(grid)} patches at {len(STRENGTHS)} strengths: {table.shape[1]} numbers")


if __name__ == "__main__":
    main()
