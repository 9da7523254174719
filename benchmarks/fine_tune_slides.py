"""Fine-tune the bundled SPANs on SIMULATED slides whose stains they have never seen.

The bundled ``tissue-simulated`` (SPAN-MIL) and ``tissue-simulated-regions``
(SPAN-UNet) know slides drawn by ``images.simulate.simulated_slide``. Here the
same kind of slides, of seeds they have not seen, gets the stains of another
laboratory: haematoxylin and eosin of other hues, the first paler and the second
darker, and a little blur. This plays the user's slides. Some are annotated,
with their class or with the truth of every patch; `tune_slides` holds out a
fifth of them itself. Figures are on slides that took no part in anything, half
of them benign, and on slides in the stains that the models know.

Nothing in these slides is measured, and what this shows holds for them alone:
that the loop of annotating and fine-tuning works for a SPAN, and what it costs.
Features are kept in ``--cache``: a run that was stopped goes on.
"""

from __future__ import annotations

import argparse
import platform
import time
from pathlib import Path

import numpy as np
import torch
from scipy import ndimage

from napari_sparseattn.bundle import Bundle, load_bundle
from napari_sparseattn.card import CropSpec
from napari_sparseattn.features.encoders import Encoder, load_encoder
from napari_sparseattn.features.extract import FeatureSet
from napari_sparseattn.images.slides.pyramid import VirtualPyramid
from napari_sparseattn.simulate import TissueTruth, simulated_slide
from napari_sparseattn.training.data.span_data import SlideExample
from napari_sparseattn.training.loop.slides import slide_features
from napari_sparseattn.training.loop.span import measure_patches, measure_slides
from napari_sparseattn.training.tune.slides import tune_slides

KINDS = ("benign", "tumour")
MPP, SIDE = 0.5, 4096
#: First seeds; none is used by the scripts that trained the models.
FIRST = {"annotated": 8_100_000, "new stains": 8_200_000, "known stains": 8_300_000}
#: Optical density of unit haematoxylin, eosin and what is at right angles to both,
#: as the simulation draws them (Ruifrok & Johnston 2001) and as they are here.
_HE = np.array([[0.65, 0.70, 0.29], [0.07, 0.99, 0.11]])
_OURS = np.array([[0.55, 0.70, 0.45], [0.20, 0.90, 0.35]]) * [[0.65], [1.5]]
_BLUR = 0.6


def restained(pixels: np.ndarray) -> np.ndarray:
    """The same tissue in the other laboratory's stains."""
    across = np.cross(*_HE)
    density = -np.log(np.clip(pixels.astype(np.float32), 1, 255) / 255)
    amounts = density.reshape(-1, 3) @ np.linalg.inv(np.stack([*_HE, across]))
    changed = np.exp(-(amounts @ np.stack([*_OURS, across]))).reshape(density.shape)
    return np.clip(255 * ndimage.gaussian_filter(changed, (_BLUR, _BLUR, 0)), 0, 255).astype("u1")


def drawn(part: str, number: int, tile: int) -> tuple[VirtualPyramid, TissueTruth]:
    seed = FIRST[part] + number
    slide, truth = simulated_slide(SIDE, SIDE, kind=KINDS[number % 2], seed=seed, pixel_size=MPP)
    render = slide._render

    def changed(level: int, y: int, x: int, height: int, width: int) -> np.ndarray:
        pixels = render(level, y, x, height, width)
        return pixels if part == "known stains" else restained(pixels)

    return VirtualPyramid(changed, SIDE, SIDE, pixel_size=MPP, name=slide.name, tile=tile), truth


def patch_labels(features: FeatureSet, truth: TissueTruth) -> np.ndarray:
    """1 where at least half of a patch is tumour, from 8 x 8 places in it."""
    cells = np.asarray(features.cells)
    inside = (np.arange(8) + 0.5) * features.side / 8
    y = cells[:, 1] * features.step + features.origin[0]
    x = cells[:, 0] * features.step + features.origin[1]
    shares = truth.is_tumour(
        y[:, None, None] + inside[:, None], x[:, None, None] + inside[None, None]
    ).mean((1, 2))
    return (shares >= 0.5).astype(np.int8)


def examples(part: str, count: int, encoder: Encoder, cache: Path) -> list[SlideExample]:
    crop = CropSpec(size=encoder.size, field_of_view_um=encoder.size * encoder.pixel_size)
    made = []
    for number in range(count):
        slide, truth = drawn(part, number, round(encoder.size * encoder.pixel_size / MPP))
        name = f"{part.replace(' ', '-')}-{number}"
        kept = cache / "fine-tune-slides" / f"{name}.h5"
        kept.parent.mkdir(parents=True, exist_ok=True)
        with slide_features(slide, encoder, crop, kept, device="cpu") as features:
            made.append(
                SlideExample(
                    np.asarray(features.features[:], np.float32),
                    np.asarray(features.cells, np.int64),
                    KINDS.index(truth.kind),
                    patch_labels(features, truth),
                    name,
                    name,
                )
            )
    return made


def slides_right(bundle: Bundle, part: list[SlideExample]) -> str:
    told = measure_slides(bundle.slide_model(), part, bundle.card.class_names)
    return f"{round(told.accuracy * told.n)} of {told.n}"


def dice_of(bundle: Bundle, part: list[SlideExample]) -> str:
    return f"{measure_patches(bundle.slide_model(), part)[1]:.3f}"


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument(
        "--sizes", type=int, nargs="+", default=[6, 12, 24], help="annotated slides"
    )
    parser.add_argument("--test", type=int, default=24)
    parser.add_argument("--known", type=int, default=16)
    parser.add_argument("--rate", type=float)
    parser.add_argument("--cache", type=Path, default=Path(".cache/benchmarks"))
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--only-features", action="store_true")
    arguments = parser.parse_args()
    torch.set_num_threads(arguments.threads)
    encoder = load_encoder("stain-texture", "cpu")
    counts = {"annotated": max(arguments.sizes), "new stains": arguments.test,
              "known stains": arguments.known}  # fmt: skip
    parts = {part: examples(part, n, encoder, arguments.cache) for part, n in counts.items()}
    if arguments.only_features:
        return
    patches = {part: sum(len(each.cells) for each in own) for part, own in parts.items()}
    print(f"SIMULATED slides of {SIDE} x {SIDE} pixels; patches: {patches}; {arguments.threads} "
          f"threads of {platform.processor() or platform.machine()}\n")  # fmt: skip
    changes = {} if arguments.rate is None else {"learning_rate": arguments.rate}
    for name, score, what in (
        ("tissue-simulated", slides_right, "slides right"),
        ("tissue-simulated-regions", dice_of, "Dice of tumour"),
    ):
        bundle = load_bundle(name)
        before = [score(bundle, parts[part]) for part in ("new stains", "known stains")]
        print(f"{name}, {what}\n")
        print("| annotated slides | new stains | known stains | kept | s | CPU s | verdict |")
        print("|---|---|---|---|---|---|---|")
        print(f"| before | {before[0]} | {before[1]} | | | | |", flush=True)
        for n in arguments.sizes:
            wall, cpu = time.perf_counter(), time.process_time()
            new, report = tune_slides(
                bundle, parts["annotated"][:n], bundle.card.class_names, device="cpu", **changes
            )
            wall, cpu = time.perf_counter() - wall, time.process_time() - cpu
            after = [score(new, parts[part]) for part in ("new stains", "known stains")]
            kept = f"epoch {report.best_epoch} of {len(report.history)}"
            print(f"| {n} | {after[0]} | {after[1]} | {kept} | {wall:.0f} | {cpu:.0f} | "
                  f"{report.verdict} |", flush=True)  # fmt: skip
            print(f"<!-- {report.sentence} -->", flush=True)
        print()


if __name__ == "__main__":
    main()
