"""The one loop: the best weights are kept however it ends."""

from __future__ import annotations

import contextlib
import math
from collections.abc import Callable, Iterator

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from napari_sparseattn.images.normalise import Normalisation
from napari_sparseattn.models.tnet.network import TNet, TNetConfig
from napari_sparseattn.training.loop.augment import Augmentation
from napari_sparseattn.training.loop.epochs import EpochReport, FineTuneEpoch
from napari_sparseattn.training.loop.fit import FitOptions, fit
from napari_sparseattn.training.loop.loop import Judgement, Loop
from napari_sparseattn.training.loop.tnet import TNetOptions, fit_tnet

LOSSES = (5.0, 3.0, 1.0, 2.0, 4.0, 6.0)


class Counted:
    """A model whose one weight is the number of the epoch, and whose losses are `LOSSES`."""

    def __init__(self, stop_in: int = 99, fail_in: int = 99, counts_from: int = 1) -> None:
        self.model = nn.Linear(1, 1, bias=False)
        self.stop_in, self.fail_in, self.counts_from = stop_in, fail_in, counts_from
        self.fill(0)

    def fill(self, number: int) -> None:
        with torch.no_grad():
            self.model.weight.fill_(number)

    def train(self, number: int) -> tuple[float, float] | None:
        self.model.train()
        self.fill(number)
        return None if number == self.stop_in else (1.0, 0.5)

    def judge(self, number: int, trained: tuple[float, float]) -> Judgement:
        if number == self.fail_in:
            raise RuntimeError("out of memory")
        return Judgement(LOSSES[number - 1], 0.5, counts=number >= self.counts_from)

    @property
    def weight(self) -> float:
        return float(self.model.weight)


def loop_of(steps: Counted, patience: int | None = None) -> Loop[EpochReport]:
    return Loop(steps.model, steps, len(LOSSES), EpochReport, patience=patience)


def run_to_the_end(steps: Counted) -> None:
    assert [epoch.best for epoch in loop_of(steps)] == [True, True, True, False, False, False]


def lose_patience(steps: Counted) -> None:
    assert len(list(loop_of(steps, patience=2))) == 5


def close_the_iterator(steps: Counted) -> None:
    epochs = iter(loop_of(steps))
    for _ in range(5):
        next(epochs)
    # What was trained last is there until it ends.
    assert steps.weight == 5
    assert isinstance(epochs, Iterator)
    epochs.close()  # type: ignore[attr-defined]


def raise_in_the_body(steps: Counted) -> None:
    def watch() -> None:
        for epoch in loop_of(steps):
            if epoch.epoch == 4:
                raise KeyError

    with pytest.raises(KeyError):
        watch()


def be_stopped(steps: Counted) -> None:
    steps.stop_in = 5
    assert len(list(loop_of(steps))) == 4


def fail(steps: Counted) -> None:
    steps.fail_in = 5
    with pytest.raises(RuntimeError, match="memory"):
        list(loop_of(steps))


@pytest.mark.parametrize(
    "end",
    [run_to_the_end, lose_patience, close_the_iterator, raise_in_the_body, be_stopped, fail],
)
def test_the_best_weights_are_kept_however_it_ends(end: Callable[[Counted], None]) -> None:
    steps = Counted()
    end(steps)
    assert steps.weight == 3
    assert not steps.model.training


def test_until_an_epoch_may_be_the_best_the_latest_is_kept() -> None:
    steps = Counted(counts_from=5)
    epochs = iter(loop_of(steps))
    for _ in range(4):
        next(epochs)
    epochs.close()  # type: ignore[attr-defined]
    assert steps.weight == 4
    steps = Counted(counts_from=5)
    assert [epoch.best for epoch in loop_of(steps)] == [False] * 4 + [True, False]
    assert steps.weight == 5


def closed_after(epochs: Iterator[EpochReport], model: nn.Module, n: int) -> dict[int, Tensor]:
    """Go through n epochs and close; return the head's weights after each."""
    seen = {}
    for epoch in epochs:
        seen[epoch.epoch] = next(model.parameters()).detach().clone()
        if epoch.best:
            seen[0] = seen[epoch.epoch]
        if epoch.epoch == n:
            break
    with contextlib.suppress(AttributeError):
        epochs.close()  # type: ignore[attr-defined]
    return seen


def test_a_classifier_that_is_closed_has_its_best_weights() -> None:
    torch.manual_seed(0)
    model = nn.Sequential(nn.Flatten(), nn.Linear(3 * 64, 2))
    rng = np.random.default_rng(0)
    crops = rng.integers(0, 255, (40, 8, 8, 3), dtype=np.uint8)
    labels = rng.integers(0, 2, 40)
    # A rate so high that the loss swings.
    options = FitOptions(epochs=12, steady=0.1, learning_rate=3.0, bfloat16=False)
    epochs = fit(model, (crops, labels), (crops, labels), normalisation=Normalisation(), size=8,
                 augmentation=Augmentation(), options=options)  # fmt: skip
    seen = closed_after(epochs, model, 9)
    assert torch.equal(next(model.parameters()), seen[0])
    assert not torch.equal(seen[0], seen[9])
    assert not model.training


def test_a_tnet_that_is_closed_has_its_best_weights() -> None:
    config = TNetConfig(in_channels=1, n_classes=2, image_size=32, base=8, grid=2, locations=(1,))
    torch.manual_seed(0)
    model = TNet(config)
    batches = [(torch.rand(4, 1, 32, 32), torch.tensor([0, 1, 0, 1]))]
    losses = iter(LOSSES)
    options = TNetOptions(epochs=6, learning_rate=0.01)
    epochs = fit_tnet(model, batches, lambda _: (next(losses), 0.5), options)
    seen = closed_after(epochs, model, 5)
    assert torch.equal(next(model.parameters()), seen[3])
    assert not torch.equal(seen[3], seen[5])


def test_epochs_come_back_from_their_numbers() -> None:
    made = FineTuneEpoch(2, 9, 0.5, 0.75, math.nan, math.nan, 12, 1.5, True, 0.25, None,
                         np.array([[1, 2], [3, 4]]))  # fmt: skip
    plain = made.numbers()
    assert plain["loss"] is None
    again = FineTuneEpoch.from_dict({**plain, "watched": made.watched.tolist(), "later": 1})
    assert again.numbers() == plain
    assert math.isnan(again.loss)
    np.testing.assert_array_equal(again.watched, made.watched)
    assert "nothing held out" in str(again)
