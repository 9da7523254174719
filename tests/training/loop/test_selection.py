"""Training a selection: taken up again to the same weights, at every k, and taught by the loss."""

from __future__ import annotations

import dataclasses
from pathlib import Path

import numpy as np
import pytest
import torch

from napari_sparseattn.images.normalise import Normalisation
from napari_sparseattn.models.sparse.network import SparseAttnNet, SparseAttnNetConfig
from napari_sparseattn.training.loop.fit import EpochReport, FitOptions
from napari_sparseattn.training.loop.laboratories import LaboratoryChanges, stored
from napari_sparseattn.training.loop.pixel_rules import RULES, pixels_by_rule
from napari_sparseattn.training.loop.precision import trains_in_bfloat16
from napari_sparseattn.training.loop.selection import (
    LEVEL,
    SelectionOptions,
    _rate,
    chosen_at,
    foreign_loss,
    level_loss,
    loss_over_k,
    loss_over_steepness,
    smallest_k,
    steepest,
    train_selection,
)
from small_model import SELECTING

SIZE = 32
SMALL = dataclasses.replace(SELECTING, n_classes=2, image_size=SIZE, k=100, readout_layers=1)
OPTIONS = SelectionOptions(epochs=3, batch_size=8, bfloat16=False, ramp=1)
MILD = LaboratoryChanges(scale=(0.9, 1.1), strength=0.3, blur=0, noise=0, jpeg=0)


def cells(n: int, seed: int = 0) -> tuple[np.ndarray, np.ndarray]:
    """Discs in the middle of a speckled ground; the class is their colour."""
    rng = np.random.default_rng(seed)
    line = np.arange(64) + 0.5 - 32
    disc = np.hypot(line[:, None], line) < 12
    crops = rng.integers(150, 250, (n, 64, 64, 1), dtype=np.uint8).repeat(3, axis=3)
    labels = np.arange(n) % 2
    for crop, label in zip(crops, labels, strict=True):
        crop[disc] = ((140, 30, 60), (60, 30, 140))[label]
    return crops, labels.astype(np.int64)


def training(
    options: SelectionOptions = OPTIONS,
    checkpoint: Path | None = None,
    n: int = 48,
    changes: LaboratoryChanges | dict[int, LaboratoryChanges] = MILD,
) -> tuple[SparseAttnNet, list[EpochReport]]:
    torch.manual_seed(7)
    model = SparseAttnNet(SMALL)
    crops, labels = cells(n)
    reports = list(
        train_selection(
            model,
            (stored(crops, SIZE), labels),
            cells(16, seed=1),
            normalisation=Normalisation(),
            changes=changes,
            options=options,
            checkpoint=checkpoint,
        )
    )
    return model, reports


def same(a: SparseAttnNet, b: SparseAttnNet) -> bool:
    return all(
        torch.equal(x, y)
        for x, y in zip(a.state_dict().values(), b.state_dict().values(), strict=True)
    )


def test_a_run_that_was_stopped_goes_on_to_the_same_weights(tmp_path: Path) -> None:
    whole, reports = training()
    assert [r.epoch for r in reports] == [1, 2, 3]
    path = tmp_path / "run.safetensors"
    crops, labels = cells(48)
    torch.manual_seed(7)
    killed = train_selection(
        SparseAttnNet(SMALL),
        (stored(crops, SIZE), labels),
        cells(16, seed=1),
        normalisation=Normalisation(),
        changes=MILD,
        options=OPTIONS,
        checkpoint=path,
    )
    next(killed)
    killed.close()
    torch.manual_seed(99)  # whatever the process did before
    resumed, again = training(checkpoint=path)
    assert same(whole, resumed)
    assert [r.loss for r in again] == [r.loss for r in reports]


def test_a_finished_run_is_read_and_not_trained_again(tmp_path: Path) -> None:
    path = tmp_path / "run.safetensors"
    first, _ = training(checkpoint=path)
    before = path.stat().st_mtime_ns
    second, reports = training(checkpoint=path)
    assert same(first, second)
    assert len(reports) == 3
    assert path.stat().st_mtime_ns == before


def test_a_checkpoint_of_other_options_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "run.safetensors"
    training(dataclasses.replace(OPTIONS, epochs=1), path)
    with pytest.raises(ValueError, match="other options"):
        training(dataclasses.replace(OPTIONS, foreign=0.5), path)
    # The number of epochs may change: the run goes on.
    assert len(training(dataclasses.replace(OPTIONS, epochs=2), path)[1]) == 2


@pytest.mark.slow
def test_it_learns_and_looks_at_the_cell() -> None:
    options = dataclasses.replace(OPTIONS, epochs=12, average=0.9)
    model, reports = training(options, n=160)
    assert reports[-1].accuracy == 1.0
    crops, labels = cells(32, seed=2)
    scores, indices = chosen_at(model, crops, Normalisation(), 50)
    assert scores.argmax(1).tolist() == labels.tolist()
    line = torch.arange(SIZE) + 0.5 - SIZE / 2
    inside = (torch.hypot(line[:, None], line) < 7).flatten().float()
    share = float(inside[indices].mean())
    assert share > 2 * float(inside.mean()), share


def test_gradients_without_a_number_leave_the_weights_and_stop_the_run() -> None:
    options = dataclasses.replace(OPTIONS, epochs=1, foreign=float("nan"))
    with pytest.raises(FloatingPointError, match="6 of 6 steps"):
        training(options)


@pytest.mark.parametrize("rule", RULES)
def test_rules_choose_k_different_pixels(rule: str) -> None:
    x = torch.randn(4, 3, 64, 64, generator=torch.Generator().manual_seed(0))
    for k in (82, 1229):
        kept = pixels_by_rule(rule, x, k, torch.Generator().manual_seed(1))
        assert kept.shape == (4, k)
        assert all(len(set(row)) == k and row == sorted(row) for row in kept.tolist())


def test_rules_do_what_they_are_called() -> None:
    x = torch.randn(1, 3, 64, 64, generator=torch.Generator().manual_seed(0))
    kept = {rule: pixels_by_rule(rule, x, 205, torch.Generator().manual_seed(1)) for rule in RULES}
    darkness = -x.mean(1).flatten()
    assert float(darkness[kept["darkest"][0]].min()) >= float(darkness.topk(206).values[-1])
    away = {
        rule: torch.hypot(rows // 64 - 31.5, rows % 64 - 31.5).max() for rule, rows in kept.items()
    }
    assert away["disc"] < 8.6 < away["scattered"] < 14 < 30 < away["random"]
    with pytest.raises(ValueError, match="the rule must be"):
        pixels_by_rule("learned", x, 5)


def test_a_network_can_be_trained_by_a_rule_and_its_map_is_left_alone() -> None:
    torch.manual_seed(7)
    before = SparseAttnNet(SMALL).coarse.state_dict()
    model, reports = training(dataclasses.replace(OPTIONS, rule="scattered", weight_decay=0.0))
    assert len(reports) == 3
    for name, value in model.coarse.state_dict().items():
        torch.testing.assert_close(value, before[name])


def test_the_map_is_made_as_steep_as_the_loss_allows() -> None:
    torch.manual_seed(7)
    model = SparseAttnNet(SMALL)
    before = {key: value.clone() for key, value in model.state_dict().items()}
    crops, labels = cells(16)
    losses = loss_over_steepness(model, (crops, labels), Normalisation(), (1.0, 4.0), 100)
    assert all(torch.equal(value, before[key]) for key, value in model.state_dict().items())
    model.sharpen(4)
    again, _ = chosen_at(model, crops, Normalisation(), 100)
    found = torch.nn.functional.cross_entropy(again, torch.from_numpy(labels))
    assert losses[4.0][0] == pytest.approx(float(found), rel=1e-5)
    assert losses[4.0][0] != losses[1.0][0]
    assert steepest({1.0: (0.5, 0.9), 2.0: (0.54, 0.9), 3.0: (0.56, 0.9)}, 0.1) == 2.0
    with pytest.raises(TypeError, match="scattered"):
        SparseAttnNet(SparseAttnNetConfig()).sharpen(2)


def test_the_foreign_loss_is_least_where_nothing_foreign_is_chosen() -> None:
    foreign = torch.zeros(1, 8, 8)
    foreign[:, :, 4:] = 1
    own = torch.where(foreign > 0, -20.0, 0.0)
    assert float(foreign_loss(own, foreign)) == pytest.approx(0, abs=1e-4)
    assert float(foreign_loss(torch.zeros(1, 8, 8), foreign)) == pytest.approx(np.log(2), abs=1e-3)
    logits = torch.zeros(1, 8, 8, requires_grad=True)
    foreign_loss(logits, foreign).backward()
    assert float(logits.grad[0, 0, 0]) < 0 < float(logits.grad[0, 0, 7])


def test_the_level_is_brought_back_from_any_distance() -> None:
    for far in (-400.0, -20.0, 20.0):
        logits = torch.full((2, 8, 8), far, requires_grad=True)
        level_loss(logits).backward()
        pulled = -logits.grad.sign()
        assert bool((pulled == (1 if far < 0 else -1)).all()) or far == 20.0
        assert bool(logits.grad.isfinite().all())
    held = torch.full((2, 8, 8), LEVEL).logit()
    assert float(level_loss(held)) == pytest.approx(0, abs=1e-9)
    assert float(level_loss(held + 1)) > 0.3
    assert float(level_loss(held - 1)) > 0.3


def test_k_is_the_smallest_within_the_tolerance() -> None:
    losses = {50: (0.30, 0.9), 100: (0.21, 0.92), 200: (0.2, 0.93), 400: (0.25, 0.93)}
    assert smallest_k(losses, 0.1) == 100
    assert smallest_k(losses, 0.0) == 200
    assert smallest_k(losses, 1.0) == 50


def test_losses_over_k_are_of_those_k() -> None:
    model = SparseAttnNet(SMALL).eval()
    part = cells(16, seed=1)
    found = loss_over_k(model, part, Normalisation(), (0.5, 0.1))
    assert list(found) == [102, 512]
    scores, indices = chosen_at(model, part[0], Normalisation(), 102)
    assert indices.shape == (16, 102)
    expected = torch.nn.functional.cross_entropy(scores, torch.from_numpy(part[1]))
    assert found[102][0] == pytest.approx(float(expected))


def test_precision_is_asked_of_the_processor(monkeypatch: pytest.MonkeyPatch) -> None:
    assert FitOptions().bfloat16 is None
    assert SelectionOptions().bfloat16 is None
    for told, expected in (
        ({"avx2": True}, False),
        ({"avx2": True, "avx512_bf16": True, "amx_bf16": False}, True),
        ({"amx_bf16": True}, True),
    ):
        monkeypatch.setattr(torch.cpu, "get_capabilities", lambda told=told: told, raising=False)
        assert trains_in_bfloat16() is expected
    monkeypatch.delattr(torch.cpu, "get_capabilities")
    assert trains_in_bfloat16() is False
    assert trains_in_bfloat16("mps") is False


def test_the_rate_falls_and_may_fall_a_second_time() -> None:
    once = SelectionOptions(epochs=40, steady=0.25)
    twice = dataclasses.replace(once, restart=40, epochs=64)
    for done in (0.5, 5.0, 12.0, 39.9):
        assert _rate(done, once) == _rate(done, twice)
    assert _rate(10, once) == 1
    assert _rate(39.9, once) < 0.01
    assert _rate(40, twice) == pytest.approx(0.5)
    assert _rate(52, twice) == pytest.approx(0.25)
    assert _rate(63.9, twice) < 0.01


def test_changes_may_differ_by_epoch() -> None:
    _, early = training(changes={0: MILD})
    _, other = training(changes={0: MILD, 2: dataclasses.replace(MILD, strength=1.0)})
    first, second = [e.train_loss for e in early], [e.train_loss for e in other]
    assert first[:2] == second[:2]
    assert first[2] != second[2]
