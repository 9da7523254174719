"""Holograms, whole fields and slides in a batch, and what a window shows of them again."""

from __future__ import annotations

import dataclasses
import json
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
import tifffile

from bad_slides import halves, write_svs
from batch_folders import write_field
from napari_sparseattn.batch.plan import BatchPlan, plan_batch
from napari_sparseattn.batch.records import Records
from napari_sparseattn.batch.result_files import read_result, write_result
from napari_sparseattn.batch.work import BatchTask, Outcome, process_item
from napari_sparseattn.bundle import Bundle, save_bundle
from napari_sparseattn.card import CropSpec, EncoderSpec
from napari_sparseattn.export.summary import describe, summarise
from napari_sparseattn.features.encoders import load_encoder
from napari_sparseattn.images.fields.cells import find_cells
from napari_sparseattn.images.holograms.files import open_hologram
from napari_sparseattn.images.holograms.settings import HologramSettings
from napari_sparseattn.images.opening import open_field
from napari_sparseattn.images.slides.opening import open_slide
from napari_sparseattn.inference.cells import classify_cells
from napari_sparseattn.inference.fields import classify_field
from napari_sparseattn.inference.holograms import iter_recording
from napari_sparseattn.inference.slides import classify_slide
from napari_sparseattn.process.options import ProcessOptions
from napari_sparseattn.simulate import Optics, hologram_with_truth, smear_with_truth
from small_model import small_bundle
from small_span import small_span_bundle
from small_tnet import small_tnet_bundle


def one(path: Path, bundle: Bundle, **options: Any) -> tuple[BatchPlan, Outcome, Any]:
    """Work on one file; return what became of it, and the result as it was kept."""
    model = path.parent / "model.safetensors"
    save_bundle(bundle, model)
    plan = plan_batch([path], model, path.parent / "out", ProcessOptions(device="cpu", **options))
    records = Records(plan.out)
    records.prepare()
    outcome = process_item(BatchTask.of(plan, plan.items[0]))
    assert outcome.state == "done", outcome.reason
    (record,) = records.read_all()
    return plan, outcome, read_result(plan.out / record.outputs["shown"][0].path)


def test_holograms_with_settings(tmp_path: Path) -> None:
    recording, *_ = hologram_with_truth((200, 200), 1, Optics(), n_cells=3)
    frame = recording.frame(0)
    path = tmp_path / "cells.tif"
    tifffile.imwrite(path, np.stack([frame, frame]))
    bundle = small_bundle(1, modality="opd", unit="nm")
    settings = HologramSettings(wavelength=633, pixel_size=0.12)
    plan, outcome, kept = one(path, bundle, settings=settings)
    results = iter_recording(open_hologram(path), settings, bundle, device="cpu")
    expected = {frame.index: frame.predictions for frame in results}
    assert list(kept) == list(expected) == [0, 1]
    for index, found in expected.items():
        np.testing.assert_array_equal(kept[index].probabilities, found.probabilities)
        mass = found.measures["dry_mass_pg"]
        np.testing.assert_array_equal(kept[index].measures["dry_mass_pg"], mass)
    table = pd.read_csv(plan.out / outcome.outputs[0])
    assert sorted(set(table["frame"])) == [0, 1]
    assert outcome.summary["frames"] == 2
    # Without settings nobody says that these grey values are holograms.
    assert ProcessOptions(settings=settings).hash != ProcessOptions().hash


def test_whole_fields(tmp_path: Path) -> None:
    path, bundle = write_field(tmp_path / "a.png"), small_tnet_bundle()
    plan, outcome, kept = one(path, bundle, task="whole", pixel_size=0.5)
    expected = classify_field(open_field(path, pixel_size=0.5), bundle, device="cpu")
    assert kept.label == expected.label
    np.testing.assert_array_equal(kept.traversal.boxes, expected.traversal.boxes)
    np.testing.assert_array_equal(kept.traversal.contribution, expected.traversal.contribution)
    assert describe(outcome.summary).startswith(f"{expected.label} (")
    assert len(pd.read_csv(plan.out / outcome.outputs[0])) == len(expected.traversal)


@pytest.mark.parametrize("segments", [False, True])
def test_slides(tmp_path: Path, segments: bool) -> None:
    rng = np.random.default_rng(0)
    image = np.full((640, 896, 3), 242, np.uint8)
    image[96:544, 112:784] = np.array([90, 40, 120]) + rng.integers(-30, 30, (448, 672, 3))
    path = write_svs(tmp_path / "s.svs", halves(image, 2))
    encoder = load_encoder("stain-texture", "cpu")
    spec = EncoderSpec(name=encoder.name, hash=encoder.hash, width=encoder.width)
    crop = CropSpec(size=224, field_of_view_um=112.0)
    bundle = small_span_bundle(segments, encoder=spec, crop=crop)
    plan, outcome, kept = one(path, bundle)
    with open_slide(path) as slide:
        expected = classify_slide(slide, bundle, device="cpu")
    np.testing.assert_allclose(kept.probabilities, expected.probabilities, rtol=1e-5)
    assert kept.segments == segments
    assert len(kept.attention.levels) == len(expected.attention.levels)
    np.testing.assert_allclose(
        kept.attention.grid(0), expected.attention.grid(0), rtol=1e-4, equal_nan=True
    )
    assert ("shares" in outcome.summary) == segments
    assert list((plan.out / "features").glob("*.h5"))
    json.dumps(outcome.summary)


def test_a_slide_is_no_field_of_cells(tmp_path: Path) -> None:
    path = write_svs(tmp_path / "s.svs")
    save_bundle(small_bundle(), tmp_path / "model.safetensors")
    plan = plan_batch([path], tmp_path / "model.safetensors", tmp_path / "out")
    Records(plan.out).prepare()
    outcome = process_item(BatchTask.of(plan, plan.items[0]))
    assert outcome.state == "failed"
    assert "use a SPAN" in outcome.reason


def test_kept_results_that_are_damaged_are_refused(tmp_path: Path) -> None:
    path = tmp_path / "kept.npz"
    path.write_bytes(b"PK\x03\x04 nothing")
    with pytest.raises(ValueError, match="run the batch once more"):
        read_result(path)
    np.savez(path, told=np.array({"kind": "cells"}, dtype=object))
    with pytest.raises(ValueError, match="run the batch once more"):
        read_result(path)


@pytest.mark.parametrize("frames", [False, True])
def test_what_the_red_cells_said_of_the_scale_is_kept(tmp_path: Path, frames: bool) -> None:
    smear, _ = smear_with_truth(seed=0)
    field = dataclasses.replace(smear, pixel_size=None)
    cells = dataclasses.replace(find_cells(field), notes=("Label 3 lies in two pieces.",))
    assert cells.scale is not None
    found = classify_cells(field, cells, small_bundle(), "cpu")
    bare = dataclasses.replace(found, cells=dataclasses.replace(cells, scale=None, notes=()))
    path = tmp_path / "kept.npz"
    write_result({2: found, 5: bare} if frames else found, path)
    kept = read_result(path)
    assert summarise(kept) == summarise({2: found, 5: bare} if frames else found)
    first = kept[2].cells if frames else kept.cells
    assert first.scale is not None
    assert (first.scale.pixel_size, first.scale.free) == (cells.scale.pixel_size, cells.scale.free)
    np.testing.assert_array_equal(first.scale.circles, cells.scale.circles)
    assert first.notes == cells.notes
    if frames:
        assert (kept[5].cells.scale, kept[5].cells.notes) == (None, ())
