"""Fine-tuning a SPAN from end to end, on drawn slides."""

from __future__ import annotations

import dataclasses
import json
from pathlib import Path

import numpy as np
import pytest
import torch

from napari_sparseattn.bundle import Bundle, load_bundle, save_bundle
from napari_sparseattn.training.data.datasets import hash_folds
from napari_sparseattn.training.data.span_data import SlideExample
from napari_sparseattn.training.loop.slides import SlideTraining, train_slides
from napari_sparseattn.training.loop.span import SpanOptions, predict_slides
from napari_sparseattn.training.tune.fine_tune import FineTuneEpoch, TrainingControl
from napari_sparseattn.training.tune.html import render_report
from napari_sparseattn.training.tune.report import Paired
from napari_sparseattn.training.tune.slides import (
    TuneSlidesOptions,
    held_out_slides,
    too_few_slides,
    tune_slides,
)
from small_span import small_span_bundle

FEATURES = 128
QUICK = TuneSlidesOptions(epochs=4, learning_rate=5e-4, device="cpu")


def slides(n: int, seed: int, kinds: int = 2, side: int = 6, corner: int = 0) -> list[SlideExample]:
    """Squares of patches; in a corner, kind 1 shows one thing, kind 2 another, kind 0 nothing."""
    rng = np.random.default_rng(seed)
    y, x = np.mgrid[:side, :side].reshape(2, -1)
    made = []
    for number in range(n):
        kind = number % kinds
        features = rng.standard_normal((side**2, FEATURES)).astype(np.float32)
        inside = (x < 3) & (y < 3)
        first = corner or 32 * (kind - 1)
        if kind:
            features[inside, first : first + 32] += 3
        labels = np.where(y < side - 1, inside & (kind > 0), -1).astype(np.int8)
        name = f"s{seed}-{number}"
        made.append(SlideExample(features, np.stack([x, y], axis=1), kind, labels, name=name))
    return made


@pytest.fixture(scope="module")
def mil() -> Bundle:
    return _trained("span-mil")


@pytest.fixture(scope="module")
def unet() -> Bundle:
    return _trained("span-unet")


def _trained(kind: str) -> Bundle:
    start = small_span_bundle(kind == "span-unet")
    assert start.card.encoder is not None
    settings = SlideTraining(
        name="drawn",
        class_names=("benign", "tumour"),
        encoder=start.card.encoder,
        crop=start.card.crop,
        kind=kind,  # type: ignore[arg-type]
        options=(SpanOptions.for_patches if kind == "span-unet" else SpanOptions)(
            epochs=4, learning_rate=1e-3
        ),
        architecture={"width": 64, **({"channel_factor": 1} if kind == "span-unet" else {})},
    )
    return train_slides(slides(24, 0), settings)[0]


def test_a_new_class_of_slides_is_learned_and_the_old_ones_are_kept(
    mil: Bundle, tmp_path: Path
) -> None:
    given = slides(30, 1, kinds=3)
    bundle, report = tune_slides(mil, given, ("benign", "tumour", "inflamed"), QUICK)
    assert bundle.card.class_names == ("benign", "tumour", "inflamed")
    again = load_bundle(save_bundle(bundle, tmp_path / "new.safetensors").path)  # type: ignore[arg-type]
    fresh = slides(30, 2, kinds=3)
    said = torch.cat(predict_slides(again.slide_model(), fresh)).argmax(1)
    assert float((said == torch.tensor([each.label for each in fresh])).float().mean()) > 0.9
    held = held_out_slides(given)
    assert [cell.id for cell in report.cells] == [
        each.name for each, out in zip(given, held, strict=True) if out
    ]
    assert report.unit == "slides"
    assert report.fresh.n > 0
    assert report.fresh.before == 0
    assert report.all_cells.after == sum(cell.label == cell.after for cell in report.cells)
    assert report.annotated == {"benign": 10, "tumour": 10, "inflamed": 10}
    assert "held-out slides" in report.sentence
    assert "Per class, on held-out slides" in render_report(report)
    assert json.loads(json.dumps(report.to_dict()))["unit"] == "slides"


def test_labels_go_by_the_names_of_their_classes(mil: Bundle) -> None:
    given = [dataclasses.replace(each, label=1 - int(each.label or 0)) for each in slides(16, 1)]
    bundle, report = tune_slides(mil, given, ("tumour", "benign"), QUICK, epochs=1)
    assert bundle.card.class_names == ("benign", "tumour")
    assert report.known.n == report.all_cells.n
    assert report.all_cells.before == report.all_cells.n


@pytest.mark.slow
@pytest.mark.parametrize("wanted", ["tumour", "necrosis"])
def test_regions_are_learned_by_their_patches(unet: Bundle, wanted: str) -> None:
    given = slides(20, 1, corner=64)
    bundle, report = tune_slides(unet, given, ("other", wanted), QUICK, learning_rate=1e-3)
    assert bundle.card.class_names == ("benign", wanted)
    held = [each for each, out in zip(given, held_out_slides(given), strict=True) if out]
    labels = np.concatenate([each.patch_labels for each in held])  # type: ignore[misc]
    assert report.unit == "patches"
    assert report.all_cells.n == (labels >= 0).sum()
    assert report.fresh.n == (0 if wanted == "tumour" else (labels == 1).sum())
    assert report.after is not None
    assert report.before is not None
    assert report.after.per_class[wanted].recall > report.before.per_class[wanted].recall + 0.3
    assert report.cells[0].id == f"{held[0].name}:0:0"
    # Patches are many, slides few: five that gain are too few to be sure of.
    said = predict_slides(unet.slide_model(), held), predict_slides(bundle.slide_model(), held)
    net = [
        int((((new[:, 0] > 0).numpy() == truth) & (truth >= 0)).sum())
        - int((((old[:, 0] > 0).numpy() == truth) & (truth >= 0)).sum())
        for old, new, truth in zip(*said, [each.patch_labels for each in held], strict=True)
    ]
    if wanted == "tumour":
        up, down = sum(n > 0 for n in net), sum(n < 0 for n in net)
        assert report.all_cells.p == pytest.approx(_sign_test(up, down))


def _sign_test(up: int, down: int) -> float:
    from math import comb

    n, few = up + down, min(up, down)
    return min(1.0, 2 * sum(comb(n, i) for i in range(few + 1)) / 2**n) if n else 1.0


def test_patches_alone_do_not_make_a_verdict() -> None:
    assert Paired(1000, 500, 900, 400, 0, _sign_test(3, 0)).verdict == "too little data"


def test_what_is_held_out_stays_so_when_slides_are_added() -> None:
    many = slides(60, 4)
    early, late = held_out_slides(many[:30]), held_out_slides(many)
    assert (early == late[:30]).all()
    assert (late == (hash_folds([each.name for each in many], 5) == 0)).all()
    # Three of a class are enough for one to be held out, whatever their names.
    for seed in range(20):
        few = slides(6, 100 + seed)
        out = held_out_slides(few)
        assert {few[i].label for i in np.flatnonzero(out)} == {0, 1}
        assert not too_few_slides(few, ("benign", "tumour")) or out.sum() > 2


def test_a_group_is_on_one_side() -> None:
    grouped = [
        dataclasses.replace(each, group=f"p{i // 4}") for i, each in enumerate(slides(40, 5))
    ]
    out = held_out_slides(grouped)
    for group in {each.group for each in grouped}:
        assert len({bool(out[i]) for i, each in enumerate(grouped) if each.group == group}) == 1


def test_too_few_slides_are_told_before() -> None:
    said = too_few_slides(slides(2, 6), ("benign", "tumour"))
    assert len(said) == 4
    assert "'tumour' has no slide held out" in said[3]


def test_without_a_held_out_slide_nothing_is_claimed(mil: Bundle) -> None:
    two = next(
        pair for pair in (slides(2, seed) for seed in range(20)) if not held_out_slides(pair).any()
    )
    _, report = tune_slides(mil, two, ("benign", "tumour"), QUICK, epochs=1)
    assert report.verdict == "too little data"
    assert "no annotated slide is held out" in report.sentence
    assert report.after is None
    assert "Fine-tuning report" in render_report(report)


@pytest.mark.slow
def test_what_is_kept_lies_between_the_model_before_and_the_trained_one(mil: Bundle) -> None:
    given = slides(16, 1, corner=64)
    kept = [
        tune_slides(mil, given, ("benign", "tumour"), QUICK, epochs=1, keep=keep)[0].state
        for keep in (0.0, 0.5, 1.0)
    ]
    start = mil.slide_model().state_dict()
    for key, value in start.items():
        torch.testing.assert_close(kept[2][key], value)
        torch.testing.assert_close(kept[1][key], (kept[0][key] + value) / 2)
    assert any(not torch.equal(kept[0][key], value) for key, value in start.items())


@pytest.mark.slow
def test_going_on_from_a_checkpoint_gives_what_an_unbroken_run_gives(
    mil: Bundle, tmp_path: Path
) -> None:
    given, path = slides(16, 1, kinds=3), tmp_path / "run.safetensors"
    names = ("benign", "tumour", "inflamed")
    whole, report = tune_slides(mil, given, names, QUICK, patience=9)
    control = TrainingControl()

    def stop(epoch: FineTuneEpoch) -> None:
        if epoch.epoch == 2:
            control.cancel()

    _, half = tune_slides(
        mil, given, names, QUICK, patience=9, checkpoint=path, on_epoch=stop, control=control
    )
    assert half.notes[0].startswith("Cancelled in epoch 3 of 4")
    numbers: list[int] = []
    resumed, again = tune_slides(
        mil, given, names, QUICK, patience=9, checkpoint=path,
        on_epoch=lambda epoch: numbers.append(epoch.epoch),
    )  # fmt: skip
    assert numbers == [3, 4]
    assert again.notes == ("Went on after epoch 2 from a checkpoint.",)
    assert again.sentence == report.sentence
    for key, value in whole.state.items():
        assert torch.equal(value, resumed.state[key]), key
    other = slides(16, 9, kinds=3)
    anew = tune_slides(mil, other, names, QUICK, epochs=1, checkpoint=path)[1]
    assert "other annotations" in anew.notes[0]


@pytest.mark.slow
def test_a_restart_does_not_renew_the_patience(mil: Bundle, tmp_path: Path) -> None:
    # Nothing is better than the model before where nothing else is kept.
    never = dataclasses.replace(QUICK, keep=1.0, patience=3, epochs=9)
    given, path, control = slides(16, 1), tmp_path / "run.safetensors", TrainingControl()

    def stop(epoch: FineTuneEpoch) -> None:
        if epoch.epoch == 2:
            control.cancel()

    names = ("benign", "tumour")
    tune_slides(mil, given, names, never, checkpoint=path, on_epoch=stop, control=control)
    _, report = tune_slides(mil, given, names, never, checkpoint=path)
    assert len(report.history) == 3
    assert report.best_epoch == 0
    assert "the model as it was" in render_report(report)


@pytest.mark.slow
def test_held_out_slides_take_no_part_in_training(mil: Bundle) -> None:
    given = slides(16, 1)
    out = held_out_slides(given)
    spoilt = [
        dataclasses.replace(each, features=-each.features) if held else each
        for each, held in zip(given, out, strict=True)
    ]
    (_, one), (_, other) = (
        tune_slides(mil, data, ("benign", "tumour"), QUICK, epochs=2, patience=9)
        for data in (given, spoilt)
    )
    for name in ("train_loss", "train_accuracy"):
        assert [row[name] for row in one.history] == [row[name] for row in other.history]
    assert one.history[0]["loss"] != other.history[0]["loss"]


def test_what_does_not_fit_is_refused(mil: Bundle, unet: Bundle) -> None:
    narrow = [dataclasses.replace(each, features=each.features[:, :64]) for each in slides(8, 1)]
    with pytest.raises(ValueError, match="64 features per patch"):
        tune_slides(mil, narrow, ("benign", "tumour"), QUICK)
    with pytest.raises(ValueError, match="two kinds of tissue"):
        tune_slides(unet, slides(8, 1), ("a", "b", "c"), QUICK)
    bare = [dataclasses.replace(each, label=None) for each in slides(8, 1)]
    with pytest.raises(ValueError, match="no class to learn"):
        tune_slides(mil, bare, ("benign", "tumour"), QUICK)
    control = TrainingControl()
    control.cancel()
    with pytest.raises(InterruptedError, match="as it was"):
        tune_slides(mil, slides(8, 1), ("benign", "tumour"), QUICK, control=control)
