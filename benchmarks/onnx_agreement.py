"""How far onnxruntime is from this package, on real crops, and how quick.

    python benchmarks/onnx_agreement.py [--every 4]

Every n-th held-out image of PBC for the models of stained blood; cells of
simulated, reconstructed holograms for the model of OPD. Needs ../shared and the extra `models`.
"""

from __future__ import annotations

import argparse
import os
import tempfile
import time
import zipfile
from pathlib import Path

import imageio.v3 as iio
import numpy as np
import onnxruntime
import torch

from napari_sparseattn.bundle import Bundle, load_bundle
from napari_sparseattn.export.onnx_model import export_onnx
from napari_sparseattn.images.fields.crops import cut_crops, fit_crop
from napari_sparseattn.images.holograms.holography import reconstruct
from napari_sparseattn.simulate import hologram_with_truth
from napari_sparseattn.training.data.datasets import hash_folds

ROOT = Path(__file__).resolve().parent.parent
SHARED = Path(os.environ.get("NAPARI_SPARSEATTN_SHARED", ROOT.parent / "shared"))
BATCH = 32


def blood(size: int, every: int) -> np.ndarray:
    with zipfile.ZipFile(SHARED / "data" / "pbc.zip") as archive:
        names = sorted(name for name in archive.namelist() if name.endswith(".jpg"))
        held_out = [n for n, fold in zip(names, hash_folds(names), strict=True) if fold == 0]
        images = (iio.imread(archive.read(name), extension=".jpg") for name in held_out[::every])
        return np.stack([fit_crop(image, size).transpose(2, 0, 1) for image in images])


def opd(size: int, every: int) -> np.ndarray:
    parts = []
    for seed in range(max(1, 16 // every)):
        recording, _, cells, _ = hologram_with_truth((640, 640), seed=seed, background=True)
        field = reconstruct(recording)
        parts.append(cut_crops(field, cells.centres, 16.0 / field.pixel_size, size))
    return np.ascontiguousarray(np.concatenate(parts).transpose(0, 3, 1, 2))


def ours(bundle: Bundle, crops: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    model, logits, looked = bundle.cell_model(), [], []
    with torch.inference_mode():
        for start in range(0, len(crops), BATCH):
            ready = bundle.card.normalisation(crops[start : start + BATCH])
            output = model(torch.from_numpy(ready))
            logits.append(output.logits.numpy())
            if hasattr(output, "indices"):
                looked.append(output.indices.numpy())
            else:
                last = output.levels[-1].crops.boxes.numpy()
                looked.append(last.reshape(len(ready), -1))
    return np.concatenate(logits), np.concatenate(looked)


def theirs(path: Path, crops: np.ndarray, last: int) -> tuple[np.ndarray, np.ndarray]:
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = torch.get_num_threads()
    session = onnxruntime.InferenceSession(path, options, providers=["CPUExecutionProvider"])
    names, logits, looked = [x.name for x in session.get_outputs()], [], []
    for start in range(0, len(crops), BATCH):
        values = session.run(None, {"crops": crops[start : start + BATCH]})
        got = dict(zip(names, values, strict=True))
        logits.append(got["logits"])
        if "indices" in got:
            looked.append(got["indices"])
        else:
            looked.append(got["boxes"][:, -last:].reshape(len(got["boxes"]), -1))
    return np.concatenate(logits), np.concatenate(looked)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--every", type=int, default=1)
    every = parser.parse_args().every
    print(f"{torch.get_num_threads()} thread(s), batches of {BATCH}")
    print("model              crops  MB onnx  looks elsewhere  worst logit  class changes"
          "  crops/s torch  onnxruntime")  # fmt: skip
    for name in ("blood-cells", "blood-cells-tnet", "opd-simulated"):
        bundle = load_bundle(name)
        size = bundle.card.crop.size
        crops = opd(size, every) if bundle.card.unit == "nm" else blood(size, every)
        with tempfile.TemporaryDirectory() as folder:
            path = export_onnx(bundle, Path(folder) / "model.onnx").path
            megabytes = path.stat().st_size / 1e6
            last = int(np.prod(bundle.card.architecture.get("locations", [1])))
            began = time.perf_counter()
            expected, seen = ours(bundle, crops)
            middle = time.perf_counter()
            got, looked = theirs(path, crops, last)
            end = time.perf_counter()
        same = (seen == looked).all(axis=1)
        worst = np.abs(got - expected)[same].max()
        changed = (got.argmax(1) != expected.argmax(1)).sum()
        speeds = len(crops) / (middle - began), len(crops) / (end - middle)
        row = f"{name:17} {len(crops):6d} {megabytes:8.2f} {(~same).sum():16d} {worst:12.1e}"
        print(f"{row} {changed:14d} {speeds[0]:14.0f} {speeds[1]:12.0f}", flush=True)


if __name__ == "__main__":
    main()
