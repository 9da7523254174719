"""k follows the trend of the loss."""

from __future__ import annotations

from napari_sparseattn.training.loop.pixel_budget import PixelBudget


def run(budget: PixelBudget, losses: list[float]) -> list[int]:
    return [budget.step(loss) for loss in losses]


def test_k_holds_while_the_loss_falls() -> None:
    assert run(PixelBudget(100), [1.0, 0.6, 0.35, 0.2, 0.1]) == [100] * 5


def test_k_shrinks_when_the_loss_is_flat() -> None:
    assert run(PixelBudget(100), [1.0, 1.0, 1.0, 1.0]) == [100, 80, 64, 51]


def test_k_steps_back_and_freezes_when_shrinking_costs() -> None:
    budget = PixelBudget(100, smoothing=1.0)
    assert run(budget, [1.0, 1.0, 1.0, 1.2, 1.2, 0.5, 1.0]) == [100, 80, 64, 64, 80, 80, 80]
    assert budget.frozen


def test_a_single_bad_epoch_does_not_freeze() -> None:
    budget = PixelBudget(100, smoothing=1.0)
    assert run(budget, [1.0, 1.0, 1.5, 1.0, 1.5, 0.5]) == [100, 80, 80, 80, 80, 80]
    assert not budget.frozen


def test_a_bump_before_any_shrink_does_not_freeze() -> None:
    budget = PixelBudget(100, smoothing=1.0)
    run(budget, [1.0, 1.5])
    assert not budget.frozen


def test_k_never_falls_below_the_least() -> None:
    budget = PixelBudget(100, least=60)
    assert run(budget, [1.0] * 5) == [100, 80, 64, 60, 60]
    assert budget.frozen


def test_freezing_by_hand_holds() -> None:
    budget = PixelBudget(100)
    budget.freeze()
    assert run(budget, [1.0, 1.0]) == [100, 100]
