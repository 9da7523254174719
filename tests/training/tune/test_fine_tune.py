"""Fine-tuning from end to end, on drawn cells: disks and rings known, crosses new."""

from __future__ import annotations

import dataclasses
import json
import os
import signal
import subprocess
import sys
import threading
import time
from pathlib import Path

import numpy as np
import pytest
import torch

from napari_sparseattn.bundle import Bundle, load_bundle, save_bundle
from napari_sparseattn.inference.cells import classify_crops, judge_crops
from napari_sparseattn.training.data.annotated import too_few
from napari_sparseattn.training.data.datasets import CropSet
from napari_sparseattn.training.data.split import held_out
from napari_sparseattn.training.loop.augment import Augmentation
from napari_sparseattn.training.loop.checkpoint import read_checkpoint, write_checkpoint
from napari_sparseattn.training.runs.reports import report_from_dict
from napari_sparseattn.training.tune.fine_tune import (
    FineTuneEpoch,
    FineTuneOptions,
    TrainingControl,
    fine_tune,
)
from napari_sparseattn.training.tune.grown_head import grow, head_features
from napari_sparseattn.training.tune.html import render_report
from napari_sparseattn.training.tune.report import HeldOut, KeptCells, compare
from napari_sparseattn.training.tune.run import FineTuneRun
from napari_sparseattn.training.tune.steps import StepOptions, freeze_parts
from napari_sparseattn.training.tune.task import Task
from small_model import softened
from small_tnet import small_tnet_bundle

STEADY = Augmentation(
    scale=0.05, stain=0, counterstain=0, response=0, depth=0, tint=0, haze=0, white=0, gamma=0,
    blur=0, noise=0.01, jpeg=0,
)  # fmt: skip
QUICK = FineTuneOptions(
    freeze="backbone",
    mixed_precision="off",
    device="cpu",
    augmentation=STEADY,
    steps=StepOptions(epochs=4, steps=6, batch_size=16, learning_rate=1e-3),
)


def drawn(kinds: dict[str, int], seed: int = 0, side: int = 16) -> CropSet:
    """Dark disks, rings and crosses on a bright ground."""
    rng = np.random.default_rng(seed)
    axis = np.arange(side) - (side - 1) / 2
    crops, labels, names = [], [], []
    for label, (kind, n) in enumerate(kinds.items()):
        for i in range(n):
            y, x = axis[:, None] - rng.normal(), axis[None] - rng.normal()
            distance = np.hypot(y, x)
            inside = {
                "disk": distance < 5,
                "ring": (distance < 6) & (distance > 3.5),
                "cross": (np.minimum(abs(y), abs(x)) < 1.2) & (distance < 7),
            }[kind]
            noise = rng.normal(0, 5, (side, side, 3))
            crops.append(np.clip(230 - 150 * inside[..., None] + noise, 0, 255).astype(np.uint8))
            labels.append(label)
            names.append(f"{kind}-{seed}-{i}")
    return CropSet(np.stack(crops), np.array(labels), tuple(kinds), tuple(names))


@pytest.fixture(scope="module")
def trained() -> Bundle:
    """A model that tells disks from rings."""
    from napari_sparseattn.card import CropSpec
    from napari_sparseattn.training.loop.classifier import TrainingSettings, train_classifier
    from napari_sparseattn.training.loop.fit import FitOptions

    sizes = {"width": 8, "depth": 1, "tile_width": 8, "tile_depth": 1, "class_width": 16,
             "heads": 2}  # fmt: skip
    settings = TrainingSettings(
        name="disks and rings",
        crop=CropSpec(size=16, field_of_view_um=8.0),
        options=FitOptions(epochs=8, learning_rate=5e-3, bfloat16=False, most_share=0.4),
        augmentation=STEADY,
        architecture=sizes,
        data="drawn disks and rings",
    )
    return train_classifier(drawn({"disk": 120, "ring": 120}), settings)[0]


def accuracy(bundle: Bundle, data: CropSet) -> float:
    crops = (data.crops / 255).astype(np.float32)
    found = classify_crops(crops, bundle, "cpu").argmax(1)
    names = np.array(bundle.card.class_names)[found]
    return float((names == np.array(data.class_names)[data.labels]).mean())


def test_a_new_class_is_learned_and_the_old_ones_are_kept(trained: Bundle, tmp_path: Path) -> None:
    given = drawn({"cross": 60}, seed=1)
    unlabelled = drawn({"disk": 60, "ring": 60, "cross": 20}, seed=2).crops
    bundle, report = fine_tune(trained, given, QUICK, unlabelled=unlabelled)
    assert bundle.card.class_names == ("disk", "ring", "cross")
    assert bundle.card.colours[:2] == trained.card.colours
    assert len(set(bundle.card.colours)) == 3
    saved = save_bundle(bundle, tmp_path / "new.safetensors")
    again = load_bundle(saved.path)
    old, new = drawn({"disk": 50, "ring": 50}, seed=3), drawn({"cross": 50}, seed=3)
    assert accuracy(trained, old) > 0.95
    assert accuracy(again, old) > 0.9
    assert accuracy(again, new) > 0.9
    assert report.fresh.before == 0
    assert report.verdict == "better"
    assert report.known.n == 0
    assert "what it forgot is not measured" in report.sentence
    assert report.unannotated["as_before"] > 0.7


@pytest.mark.slow
def test_the_models_own_crops_can_be_at_hand(trained: Bundle) -> None:
    given = drawn({"cross": 60, "disk": 5}, seed=1)
    own = drawn({"ring": 60, "disk": 60, "cross": 1}, seed=4)  # names that both sets have
    bundle, _ = fine_tune(trained, given, QUICK, rehearsal=own)
    assert bundle.card.class_names == ("disk", "ring", "cross")
    assert accuracy(bundle, drawn({"disk": 50, "ring": 50, "cross": 50}, seed=3)) > 0.9


def test_held_out_cells_take_no_part_in_training(trained: Bundle) -> None:
    given = drawn({"disk": 10, "cross": 40}, seed=1)
    out = held_out(given)
    assert 0 < out.sum() < len(given)
    spoilt = dataclasses.replace(given, crops=given.crops.copy())
    spoilt.crops[out] = 255 - spoilt.crops[out]
    states = []
    for data in (given, spoilt):
        # They choose the epoch, so that it is not what is kept that has to be the same.
        run = FineTuneRun(Task(trained, data, QUICK), TrainingControl())
        next(iter(run))
        states.append(run.steps.state())
    for key, value in states[0].items():
        assert torch.equal(value, states[1][key]), key


@pytest.mark.slow
def test_the_report_counts_what_the_cells_say(trained: Bundle) -> None:
    given = drawn({"disk": 30, "ring": 30, "cross": 30}, seed=4)
    bundle, report = fine_tune(trained, given, QUICK)
    cells = report.cells
    assert [c.id for c in cells] == [
        n for n, o in zip(given.names, held_out(given), strict=True) if o
    ]
    assert report.after is not None
    assert report.all_cells.after == sum(c.label == c.after for c in cells)
    assert report.all_cells.before == sum(c.label == c.before for c in cells)
    assert report.after.accuracy == pytest.approx(report.all_cells.after / len(cells))
    for i, label in enumerate(report.class_names):
        for j, predicted in enumerate(report.class_names):
            assert report.after.confusion[i, j] == len(report.of(label, predicted))
    plain = json.loads(json.dumps(report.to_dict()))
    assert plain["sentence"] == report.sentence
    assert plain["annotated"] == {"disk": 30, "ring": 30, "cross": 30}
    assert bundle.card.metrics["accuracy"] == report.after.accuracy
    page = render_report(report)
    assert report.sentence.split(":")[0] in page
    assert "<script" not in page
    assert page.count("<svg") == 3


def test_ids_and_classes_cannot_put_markup_into_the_page(trained: Bundle) -> None:
    given = drawn({"disk": 40, "cross": 40}, seed=4)
    given = dataclasses.replace(given, class_names=("<img src=x>", "b'&\"c"))
    page = render_report(fine_tune(trained, given, QUICK, epochs=1)[1])
    assert "<img" not in page
    assert "&lt;img src=x&gt;" in page


def test_every_epoch_tells_k_and_the_pixels_it_looks_at(trained: Bundle) -> None:
    epochs: list[FineTuneEpoch] = []
    fine_tune(trained, drawn({"disk": 30, "cross": 30}), QUICK, on_epoch=epochs.append)
    assert [e.epoch for e in epochs] == list(range(1, len(epochs) + 1))
    for epoch in epochs:
        assert epoch.k == trained.card.architecture["k"]
        assert epoch.watched.shape == (6, epoch.k)
        assert epoch.moved is not None
        assert 0 <= epoch.moved <= 1


def test_a_frozen_backbone_keeps_its_weights(trained: Bundle) -> None:
    data = drawn({"disk": 30, "cross": 30})
    frozen, _ = fine_tune(trained, data, QUICK, freeze="backbone", epochs=2)
    for key, value in trained.state.items():
        if key.startswith(("coarse", "embed", "blocks", "tiles")):
            assert torch.equal(value, frozen.state[key]), key
    model = freeze_parts(grow(trained.cell_model(), 3), "backbone")
    learned = {name.split(".")[0] for name, p in model.named_parameters() if p.requires_grad}
    assert learned == {"cls", "fine", "norm", "head"}


def test_growing_a_head_keeps_what_it_says_of_the_old_classes(trained: Bundle) -> None:
    model, crops = trained.cell_model(), drawn({"disk": 5, "ring": 5}).crops
    grown = grow(model, 4)
    norm = trained.card.normalisation
    before, after = (head_features(m, crops, norm, 16) for m in (model, grown))
    torch.testing.assert_close(after.logits[..., :2], before.logits)
    torch.testing.assert_close(model.head(before.features), before.logits)
    assert (after.logits.argmax(2) < 2).all()


def test_a_tnet_is_fine_tuned_too(tmp_path: Path) -> None:
    bundle = small_tnet_bundle()
    data = drawn({"disk": 16, "cross": 16}, side=64)
    data = dataclasses.replace(data, class_names=("left", "cross"))
    epochs: list[FineTuneEpoch] = []
    new, report = fine_tune(bundle, data, QUICK, epochs=2, on_epoch=epochs.append)
    assert new.card.class_names == ("left", "middle", "right", "cross")
    assert [e.k for e in epochs] == [None, None]
    assert load_bundle(save_bundle(new, tmp_path / "t.safetensors").path).card.kind == "tnet"
    assert report.after is not None
    features = head_features(bundle.cell_model(), data.crops, bundle.card.normalisation, 64)
    said = bundle.cell_model().head(features.features[0])
    torch.testing.assert_close(said, features.logits[0], rtol=1e-4, atol=1e-4)


def test_cancelling_keeps_the_best_so_far(trained: Bundle) -> None:
    control = TrainingControl()
    data = drawn({"disk": 30, "cross": 30})

    def stop(epoch: FineTuneEpoch) -> None:
        if epoch.epoch == 2:
            control.cancel()

    bundle, report = fine_tune(trained, data, QUICK, on_epoch=stop, control=control)
    assert len(report.history) == 2
    kept = f"epoch {report.best_epoch}" if report.best_epoch else "the fitted head"
    assert report.notes == (f"Cancelled in epoch 3 of 4; {kept} is kept.",)
    assert accuracy(bundle, drawn({"cross": 30}, seed=7)) > 0.5


def test_cancelling_before_anything_is_learned_says_so(trained: Bundle) -> None:
    control = TrainingControl()
    control.cancel()
    with pytest.raises(InterruptedError, match="as it was"):
        fine_tune(trained, drawn({"disk": 30, "cross": 30}), QUICK, control=control)


@pytest.mark.slow
def test_pausing_waits_and_going_on_changes_nothing(trained: Bundle) -> None:
    data, control, seen = drawn({"disk": 30, "cross": 30}), TrainingControl(), []
    done = threading.Event()
    result: list[Bundle] = []

    def note(epoch: FineTuneEpoch) -> None:
        seen.append(epoch.epoch)
        if epoch.epoch == 1:
            control.pause()

    def work() -> None:
        result.append(fine_tune(trained, data, QUICK, on_epoch=note, control=control)[0])
        done.set()

    thread = threading.Thread(target=work)
    thread.start()
    while not control.paused:
        time.sleep(0.01)
    assert not done.wait(0.3)
    assert seen == [1]
    control.resume()
    thread.join(600)
    whole = fine_tune(trained, data, QUICK)[0]
    for key, value in whole.state.items():
        assert torch.equal(value, result[0].state[key]), key


@pytest.mark.slow
def test_going_on_from_a_checkpoint_gives_what_an_unbroken_run_gives(
    trained: Bundle, tmp_path: Path
) -> None:
    data, path = drawn({"disk": 40, "ring": 40, "cross": 40}), tmp_path / "run.safetensors"
    whole, report = fine_tune(trained, data, QUICK)
    control = TrainingControl()

    def stop(epoch: FineTuneEpoch) -> None:
        if epoch.epoch == 2:
            control.cancel()

    fine_tune(trained, data, QUICK, checkpoint=path, on_epoch=stop, control=control)
    numbers: list[int] = []
    resumed, again = fine_tune(
        trained, data, QUICK, checkpoint=path, on_epoch=lambda e: numbers.append(e.epoch)
    )
    assert numbers == [3, 4]
    assert again.notes == ("Went on after epoch 2 from a checkpoint.",)
    assert again.sentence == report.sentence
    for key, value in whole.state.items():
        assert torch.equal(value, resumed.state[key]), key


def test_a_checkpoint_of_other_annotations_is_not_gone_on_from(
    trained: Bundle, tmp_path: Path
) -> None:
    path = tmp_path / "run.safetensors"
    fine_tune(trained, drawn({"disk": 30, "cross": 30}), QUICK, checkpoint=path, epochs=1)
    _, report = fine_tune(
        trained, drawn({"disk": 31, "cross": 30}), QUICK, checkpoint=path, epochs=1
    )
    assert "other annotations" in report.notes[0]
    assert len(report.history) == 1


@pytest.mark.slow
def test_a_damaged_checkpoint_is_told_and_not_used(trained: Bundle, tmp_path: Path) -> None:
    path, data = tmp_path / "run.safetensors", drawn({"disk": 30, "cross": 30})
    fine_tune(trained, data, QUICK, checkpoint=path, epochs=1)
    whole = path.read_bytes()
    for damaged in (whole[:100], whole[: len(whole) // 2], b"", b"\x80\x04pickle", b"{}"):
        path.write_bytes(damaged)
        _, report = fine_tune(trained, data, QUICK, checkpoint=path, epochs=1)
        assert "cannot be read" in report.notes[0]


_VICTIM = """
import sys
sys.path.insert(0, {tests!r})
from pathlib import Path
from napari_sparseattn.bundle import load_bundle
from napari_sparseattn.training.tune.fine_tune import fine_tune
from test_fine_tune import QUICK, drawn
import dataclasses
bundle = load_bundle({model!r})
data = drawn({{"disk": 30, "cross": 30}})
print("ready", flush=True)
recipe = dataclasses.replace(QUICK.steps, epochs=40, steps=1)
fine_tune(bundle, data, QUICK, steps=recipe, checkpoint=Path({path!r}),
          on_epoch=lambda e: print(e.epoch, flush=True))
"""


@pytest.mark.slow
@pytest.mark.skipif(not hasattr(signal, "SIGKILL"), reason="needs SIGKILL")
def test_a_killed_run_leaves_a_whole_checkpoint_and_goes_on(
    trained: Bundle, tmp_path: Path
) -> None:
    model, path = tmp_path / "m.safetensors", tmp_path / "run.safetensors"
    saved = save_bundle(trained, model)
    data, rng, told = drawn({"disk": 30, "cross": 30}), np.random.default_rng(0), 0
    code = _VICTIM.format(tests=str(Path(__file__).parent), model=str(model), path=str(path))
    for _ in range(2):
        paths = (str(Path(__file__).parents[2]), *sys.path)
        where = {**os.environ, "PYTHONPATH": os.pathsep.join(paths)}
        victim = subprocess.Popen(
            [sys.executable, "-c", code], stdout=subprocess.PIPE, text=True, env=where
        )
        assert victim.stdout is not None
        assert victim.stdout.readline() == "ready\n"
        first = int(victim.stdout.readline())
        assert first >= told + 1 or told == 0
        time.sleep(rng.uniform(0, 0.25))
        victim.kill()
        rest = victim.stdout.read().split()
        told = int(rest[-1]) if rest else first
        victim.wait()
    recipe = dataclasses.replace(QUICK.steps or StepOptions(), epochs=40, steps=1)
    numbers: list[int] = []
    control = TrainingControl()

    def note(epoch: FineTuneEpoch) -> None:
        numbers.append(epoch.epoch)
        control.cancel()

    fine_tune(saved, data, QUICK, steps=recipe, checkpoint=path, on_epoch=note, control=control)
    # A report that was printed was on disk before; at most the one after it was, too.
    assert numbers in ([told + 1], [told + 2])


def test_a_checkpoint_is_of_tensors_and_json_alone(trained: Bundle, tmp_path: Path) -> None:
    path = tmp_path / "run.safetensors"
    fine_tune(trained, drawn({"disk": 30, "cross": 30}), QUICK, checkpoint=path, epochs=1)
    found = read_checkpoint(path, "another")
    assert isinstance(found, str)
    from safetensors import safe_open

    with safe_open(path, "pt") as file:
        told = json.loads(file.metadata()["napari_sparseattn_fine_tune"])
    found = read_checkpoint(path, told["fingerprint"])
    assert not isinstance(found, str)
    write_checkpoint(path, found)
    again = read_checkpoint(path, told["fingerprint"])
    assert not isinstance(again, str)
    assert again.history == found.history
    assert all(torch.equal(v, again.state[k]) for k, v in found.state.items())


def test_names_are_written_with_spaces_before_training() -> None:
    few = dataclasses.replace(drawn({"disk": 8, "cross": 8}), class_names=("cell_disk", "cell_x"))
    said = " ".join(too_few(few, ("cell_ring",), kept=0))
    assert "'cell disk'" in said
    assert "'cell ring'" in said
    assert "_" not in said


def test_too_few_is_said_before_training() -> None:
    few = drawn({"disk": 2, "cross": 3})
    said = too_few(few, ("disk",))
    assert any("'cross'" in s for s in said)
    assert not too_few(drawn({"disk": 60, "cross": 60}))


def test_what_cannot_be_measured_is_said_before_training() -> None:
    data = drawn({"cross": 60, "disk": 60})
    assert too_few(data, ("disk", "ring"), kept=24) == []
    (said,) = too_few(data, ("disk", "ring"), kept=0)
    assert said.startswith("No cell of 'ring' is annotated")
    assert too_few(data, ("disk",), kept=0) == []


def test_wrong_crops_are_refused_with_what_to_do(trained: Bundle) -> None:
    data = drawn({"disk": 30, "cross": 30})
    grey = dataclasses.replace(data, crops=data.crops[..., :1])
    with pytest.raises(ValueError, match=r"takes crops of 3 channels \("):
        fine_tune(trained, grey, QUICK)
    every = dataclasses.replace(data, held_out=np.ones(len(data), bool))
    with pytest.raises(ValueError, match="nothing to learn from yet"):
        fine_tune(trained, every, QUICK)


def test_with_nothing_held_out_there_is_too_little_data_to_tell(trained: Bundle) -> None:
    data = drawn({"disk": 30, "cross": 30})
    none = dataclasses.replace(data, held_out=np.zeros(len(data), bool))
    bundle, report = fine_tune(trained, none, QUICK)
    assert report.verdict == "too little data"
    assert report.after is None
    assert report.history[0]["loss"] is None
    json.dumps(report.to_dict(), allow_nan=False)
    assert bundle.card.temperature == trained.card.temperature
    assert "no annotated cell is held out" in render_report(report)


def test_few_cells_are_learned_by_the_last_layer_beside_kept_ones(trained: Bundle) -> None:
    given = drawn({"cross": 25, "ring": 25}, seed=1)
    bundle, report = fine_tune(trained, given, dataclasses.replace(QUICK, freeze="auto"))
    below = [key for key in trained.state if not key.startswith("head.")]
    assert all(torch.equal(bundle.state[key], trained.state[key]) for key in below)
    assert report.history == ()
    old, new = drawn({"disk": 50, "ring": 50}, seed=3), drawn({"cross": 50}, seed=3)
    assert accuracy(bundle, old) > 0.95
    assert accuracy(bundle, new) > 0.75


def test_what_was_known_is_measured_on_kept_cells(trained: Bundle, tmp_path: Path) -> None:
    options = dataclasses.replace(QUICK, freeze="auto")
    _, report = fine_tune(trained, drawn({"cross": 25}, seed=1), options)
    assert trained.known is not None
    assert report.kept is not None
    n = int(trained.known.held.sum())
    assert report.kept.n == n > 12
    assert f"Of {n} cells kept from its own training" in report.sentence
    assert report.known.n == 0
    assert set(report.kept_classes) == {"disk", "ring"}
    assert sum(of for of, _, _ in report.kept_classes.values()) == n
    again = report_from_dict(json.loads(json.dumps(report.to_dict())))
    assert again.kept == report.kept
    assert again.kept_classes == report.kept_classes
    assert "cells kept from its own training" in render_report(report)


def test_a_model_that_forgets_is_called_worse() -> None:
    labels = np.arange(24) % 2
    forgot = KeptCells(labels, labels, np.zeros(24, np.int64))
    none = HeldOut((), np.empty(0, np.int64), ("disk", "ring", "cross"), ("disk", "ring"))
    report = compare(
        none, torch.empty(0, 2), torch.empty(0, 3), 1.0,
        history=[], best_epoch=0, annotated={}, unannotated={}, seconds=1.0, notes=[], kept=forgot,
    )  # fmt: skip
    assert report.verdict == "worse"
    assert "24 cells kept from its own training 12 are right, 24 before" in report.sentence


def test_cells_that_were_learned_are_no_longer_flagged(trained: Bundle, tmp_path: Path) -> None:
    crosses = drawn({"cross": 60}, seed=4)
    assert flagged(trained, crosses) > 0.5
    options = dataclasses.replace(QUICK, freeze="auto")
    bundle, _ = fine_tune(trained, drawn({"cross": 60}, seed=1), options)
    assert flagged(bundle, crosses) < 0.15
    assert flagged(bundle, drawn({"disk": 50, "ring": 50}, seed=3)) < 0.15
    saved = load_bundle(save_bundle(bundle, tmp_path / "new.safetensors").path)
    assert saved.known is not None
    assert set(saved.known.labels.tolist()) == {0, 1, 2}
    once_more, _ = fine_tune(saved, drawn({"cross": 25}, seed=5), options)
    assert once_more.known is not None


def test_states_that_have_changed_are_measured_anew(trained: Bundle) -> None:
    bundle, report = fine_tune(trained, drawn({"cross": 60, "disk": 60}, seed=1), QUICK)
    assert report.kept is None
    assert bundle.known is not None
    assert flagged(bundle, drawn({"cross": 50, "disk": 50}, seed=3)) < 0.2


def flagged(bundle: Bundle, data: CropSet) -> float:
    novelty = judge_crops((data.crops / 255).astype(np.float32), bundle, "cpu")[1]
    assert novelty is not None
    return float((novelty > 1).mean())


@pytest.mark.parametrize(("crosses", "start"), [(30, 0.4), (150, 1.0)])
def test_confidence_falls_from_what_was_flagged_where_the_temperature_is_fitted_anew(
    trained: Bundle, crosses: int, start: float
) -> None:
    falling = softened(trained, 1.5, 0.4)
    options = dataclasses.replace(QUICK, freeze="auto")
    bundle, _ = fine_tune(falling, drawn({"cross": crosses}, seed=1), options)
    spec = bundle.card.novelty
    assert spec is not None
    assert (spec.softening, spec.softening_from) == (1.5, start)
    assert (bundle.card.temperature == trained.card.temperature) == (start < 1)
