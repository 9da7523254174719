"""What survival and number targets of a SPAN-MIL reach on bags whose hazard is known.

There is no real survival data set here: bags are drawn, the share of marked patches of
each sets its hazard, and what the true share itself reaches on the same patients is
printed beside. It shows that losses, training and measures work, and nothing of tissue.

    python benchmarks/survival_bags.py --patients 100
"""

from __future__ import annotations

import argparse
import sys
import time
from pathlib import Path

import numpy as np

sys.path.insert(0, str(Path(__file__).resolve().parents[1] / "tests"))

from made_outcomes import FEATURES, bags, marked_share
from napari_sparseattn.card import CropSpec, EncoderSpec, TargetSpec
from napari_sparseattn.judged import Estimated
from napari_sparseattn.training.loop.slides import SlideTraining, train_slides
from napari_sparseattn.training.loop.span import estimate_outcomes


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--patients", type=int, default=100)
    parser.add_argument("--fresh", type=int, default=200, help="Patients to test on.")
    parser.add_argument("--kinds", nargs="+", default=["hazards", "cox", "number"])
    asked = parser.parse_args()
    encoder = EncoderSpec(name="drawn", hash="0" * 64, width=FEATURES)
    for kind in asked.kinds:
        began, number = time.perf_counter(), kind == "number"
        settings = SlideTraining(
            "bags",
            (),
            encoder,
            CropSpec(size=64, field_of_view_um=64.0),
            target=TargetSpec(kind=kind, unit="%" if number else "months"),
        )
        bundle, report = train_slides(bags(asked.patients, 0, number=number), settings)
        fresh = bags(asked.fresh, 1, number=number)
        judged = estimate_outcomes(bundle.slide_model(), fresh, bundle.card.target)
        truth = Estimated(
            judged.names,
            judged.groups,
            judged.outcomes,
            np.array([marked_share(each) for each in fresh]) * (100 if number else 1),
            kind,
            judged.unit,
        )
        print(f"{kind}: {len(report.history)} epochs, {time.perf_counter() - began:.0f} s")
        print(f"  the model:            {judged.report().sentence}")
        print(f"  share of marked ones: {truth.report().sentence}", flush=True)


if __name__ == "__main__":
    main()
