"""One item: checked, classified, written, recorded; done again only where it must be."""

from __future__ import annotations

import dataclasses
import json
import shutil
from pathlib import Path

import numpy as np
import pandas as pd
import pytest

from batch_folders import DISCS, make_plan, write_field
from napari_sparseattn.batch.plan import BatchPlan
from napari_sparseattn.batch.records import Records
from napari_sparseattn.batch.result_files import read_result
from napari_sparseattn.batch.work import BatchTask, Outcome, process_item
from napari_sparseattn.bundle import load_bundle, save_bundle
from napari_sparseattn.export.formats import FORMATS
from napari_sparseattn.images.fields.cells import find_cells
from napari_sparseattn.images.opening import open_field
from napari_sparseattn.inference.cells import classify_cells
from small_model import small_bundle


def work(plan: BatchPlan, number: int = 0) -> Outcome:
    Records(plan.out).prepare()
    return process_item(BatchTask.of(plan, plan.items[number]))


@pytest.fixture
def plan(tmp_path: Path, model_file: Path) -> BatchPlan:
    write_field(tmp_path / "in" / "a.png")
    return make_plan(tmp_path / "in", model_file, tmp_path / "out")


def runs(plan: BatchPlan) -> list[int]:
    return [record.runs for record in Records(plan.out).read_all()]


def test_results_are_those_of_python(plan: BatchPlan, model_file: Path) -> None:
    outcome = work(plan)
    assert outcome.state == "done"
    field = open_field(plan.items[0].path, pixel_size=0.5)
    cells = find_cells(field)
    expected = classify_cells(field, cells, load_bundle(model_file), "cpu")
    assert len(expected) == len(DISCS)
    table = pd.read_csv(plan.out / outcome.outputs[0])
    np.testing.assert_allclose(table["confidence"], expected.confidence, rtol=1e-5)
    assert outcome.summary["counts"] == expected.counts()
    (record,) = Records(plan.out).read_all()
    kept = read_result(plan.out / record.outputs["shown"][0].path)
    np.testing.assert_array_equal(kept.cells.boxes, cells.boxes)
    np.testing.assert_array_equal(kept.probabilities, expected.probabilities)
    assert kept.labels == expected.labels


def test_what_is_right_is_not_done_again(plan: BatchPlan) -> None:
    made = plan.out / work(plan).outputs[0]
    before = made.stat().st_mtime_ns
    outcome = work(plan)
    assert outcome.state == "skipped"
    assert made.stat().st_mtime_ns == before
    # The time of a file says nothing of what is in it.
    plan.items[0].path.touch()
    assert work(plan).state == "skipped"
    assert runs(plan) == [1]


@pytest.mark.parametrize("damage", ["gone", "cut", "flipped"])
def test_damaged_results_are_made_anew(plan: BatchPlan, damage: str) -> None:
    made = plan.out / work(plan).outputs[0]
    content = made.read_bytes()
    if damage == "gone":
        made.unlink()
    elif damage == "cut":
        made.write_bytes(content[:-7])
    else:
        made.write_bytes(content[:-7] + b"#" + content[-6:])
    outcome = work(plan)
    assert outcome.state == "done"
    assert "missing or damaged: csv" in outcome.reason
    assert made.read_bytes() == content
    assert work(plan).state == "skipped"


def test_a_changed_file_model_or_option_is_done_again(plan: BatchPlan, tmp_path: Path) -> None:
    work(plan)
    write_field(plan.items[0].path, seed=1)
    assert "the file has changed" in work(plan).reason
    source = plan.items[0].path.parent
    other = make_plan(source, plan.model, plan.out, method="red-cells")
    assert "other options" in work(other).reason
    save_bundle(small_bundle(seed=1), tmp_path / "second.safetensors")
    third = make_plan(source, tmp_path / "second.safetensors", plan.out)
    refused = work(third)
    assert refused.state == "failed"
    assert "results of another model (small)" in refused.reason
    assert runs(plan) == [3]
    assert "another model" in work(dataclasses.replace(third, overwrite=True)).reason
    assert runs(plan) == [4]
    # The device and the formats decide nothing about what was found.
    assert work(make_plan(source, tmp_path / "second.safetensors", plan.out)).state == "skipped"


@pytest.mark.slow
def test_a_format_that_is_added_leaves_the_others_alone(plan: BatchPlan) -> None:
    table = plan.out / work(plan).outputs[0]
    before = table.stat().st_mtime_ns
    names = [
        n for n, f in FORMATS.items() if "cells" in f.kinds and not f.missing and not f.refuses
    ]
    more = make_plan(plan.items[0].path.parent, plan.model, plan.out, formats=tuple(names))
    outcome = work(more)
    assert outcome.state == "done", outcome.reason
    assert table.stat().st_mtime_ns == before
    for name in names:
        assert FORMATS[name].path(plan.out, "a.png").exists(), name
    assert work(more).state == "skipped"
    # Folders such as an OME-Zarr are checked with all that is in them.
    folders = {name: FORMATS[name].path(plan.out, "a.png") for name in names}
    for name in [name for name, folder in folders.items() if folder.is_dir()]:
        held = sorted(folders[name].rglob("*"))
        next(path for path in held if path.is_file()).write_bytes(b"?")
        assert f"missing or damaged: {name}" in work(more).reason
    assert work(more).state == "skipped"
    # Whoever asks for less later is served by what is there.
    assert work(plan).state == "skipped"


def test_a_damaged_record_counts_as_none(plan: BatchPlan) -> None:
    work(plan)
    (path,) = (plan.out / ".napari-sparseattn" / "records").iterdir()
    path.write_text(path.read_text()[:40])
    assert work(plan).state == "done"


def test_bad_files_are_named_with_the_reason(tmp_path: Path, model_file: Path) -> None:
    (tmp_path / "in").mkdir()
    (tmp_path / "in" / "empty.png").touch()
    good = write_field(tmp_path / "in" / "good.png")
    (tmp_path / "in" / "torn.png").write_bytes(good.read_bytes()[:300])
    np.save(tmp_path / "in" / "grey.npy", np.zeros((40, 40), np.uint8))
    plan = make_plan(tmp_path / "in", model_file, tmp_path / "out")
    outcomes = {item.key: work(plan, i) for i, item in enumerate(plan.items)}
    assert {key: o.state for key, o in outcomes.items()} == {
        "empty.png": "failed",
        "good.png": "done",
        "grey.npy": "failed",
        "torn.png": "failed",
    }
    assert "empty" in outcomes["empty.png"].reason
    assert "3 channel" in outcomes["grey.npy"].reason
    assert {failed.key for failed in Records(plan.out).read_failures()} == {
        "empty.png",
        "grey.npy",
        "torn.png",
    }
    # Once mended, it is done, and no longer among the failures.
    shutil.copy(good, tmp_path / "in" / "torn.png")
    assert work(plan, 3).state == "done"
    assert "torn.png" not in {failed.key for failed in Records(plan.out).read_failures()}


def test_a_file_that_breaks_keeps_its_earlier_results(plan: BatchPlan) -> None:
    made = plan.out / work(plan).outputs[0]
    content = made.read_bytes()
    plan.items[0].path.write_bytes(b"no image any more")
    assert work(plan).state == "failed"
    assert made.read_bytes() == content
    assert runs(plan) == [1]


def test_results_of_another_file_are_not_overwritten(
    plan: BatchPlan, tmp_path: Path, model_file: Path
) -> None:
    work(plan)
    write_field(tmp_path / "second" / "a.png", seed=9)
    other = make_plan(tmp_path / "second", model_file, plan.out)
    outcome = work(other)
    assert outcome.state == "failed"
    assert "another file of this name" in outcome.reason
    # Moved as a whole, the inputs are still the same.
    shutil.rmtree(tmp_path / "second")
    (tmp_path / "in").rename(tmp_path / "second")
    assert work(make_plan(tmp_path / "second", model_file, plan.out)).state == "skipped"


def test_an_item_that_is_claimed_is_left_alone(plan: BatchPlan) -> None:
    records = Records(plan.out)
    records.prepare()
    with records.lock(plan.items[0].key):
        assert work(plan).state == "busy"
    assert work(plan).state == "done"


def test_what_a_killed_process_left_is_cleared_away(plan: BatchPlan) -> None:
    records = Records(plan.out)
    records.prepare()
    left = records.staging(plan.items[0].key) / "half.csv"
    left.write_text("half")
    work(plan)
    assert not left.exists()
    assert [path.name for path in plan.out.glob("*")].count("half.csv") == 0


def test_a_model_that_was_replaced_is_noticed(plan: BatchPlan, tmp_path: Path) -> None:
    moved = tmp_path / "model.safetensors"
    shutil.copy(plan.model, moved)
    late = make_plan(tmp_path / "in", moved, tmp_path / "late")
    save_bundle(small_bundle(seed=5), moved)
    assert "another one than when the batch began" in work(late).reason


def test_records_say_where_results_come_from(plan: BatchPlan) -> None:
    work(plan)
    (path,) = (plan.out / ".napari-sparseattn" / "records").iterdir()
    told = json.loads(path.read_text())
    assert told["model_hash"] == plan.model_hash
    assert told["options"] == plan.options.hash
    assert told["input"] == str(plan.items[0].path)
    assert {"host", "finished", "software", "content"} <= set(told)
    assert all(output["size"] > 0 for output in told["outputs"]["csv"])
