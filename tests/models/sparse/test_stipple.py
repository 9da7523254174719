"""Pixels scattered over a map, tiles that read them, and gates for the loss."""

from __future__ import annotations

import dataclasses

import numpy as np
import pytest
import torch
import torch.nn.functional as F

from napari_sparseattn.models.sparse.network import (
    SparseAttnNet,
    select_pixels,
    selection_gates,
)
from napari_sparseattn.models.sparse.stipple import MOST, stipple_scores, thresholds
from small_model import SELECTING


def make(**changes: object) -> SparseAttnNet:
    torch.manual_seed(1)
    return SparseAttnNet(dataclasses.replace(SELECTING, **changes)).eval()


def crops(batch: int = 3, size: int = 16) -> torch.Tensor:
    return torch.randn(batch, 3, size, size, generator=torch.Generator().manual_seed(2))


def two_levels(low: float, high: float) -> torch.Tensor:
    """Logits of a 64 x 64 map that is `high` in a quarter and `low` elsewhere."""
    density = torch.full((1, 64, 64), low)
    density[:, 16:48, 16:48] = high
    return density.logit()


def test_thresholds_are_the_same_everywhere_and_even() -> None:
    u = thresholds(64, 64, torch.device("cpu"))[0]
    assert u.min() > 0
    assert u.max() < 1
    # By whole numbers: these hold on any machine.
    assert u[:3].tolist() == [0.5 / 65536, 37345.5 / 65536, (2 * 37345 - 65536 + 0.5) / 65536]
    assert abs(float(u.mean()) - 0.5) < 0.01
    counts = np.histogram(u, bins=64, range=(0, 1))[0]
    assert counts.min() >= 60
    assert counts.max() <= 68


@pytest.mark.parametrize("share", [0.02, 0.1, 0.25])
def test_an_even_map_keeps_evenly_spread_pixels(share: float) -> None:
    k = round(share * 4096)
    kept = select_pixels(stipple_scores(torch.zeros(1, 64, 64)), k)
    mask = torch.zeros(4096).scatter(0, kept[0], 1.0).view(1, 1, 64, 64)
    tiles = F.avg_pool2d(mask, 16).flatten() * 256
    expected = 256 * share
    # By lot, the worst of 16 tiles would be some 2 sqrt(expected) off.
    assert float((tiles - expected).abs().max()) <= max(3, expected**0.5)
    # No hole is much wider than the mean distance of the kept.
    reach = 2 * int(np.ceil(share**-0.5)) + 1
    assert F.max_pool2d(mask, reach, 1, reach // 2).min() == 1


def test_pixels_are_kept_in_proportion_to_the_map() -> None:
    scores = stipple_scores(two_levels(0.05, 0.5))
    kept = select_pixels(scores, 200)[0]
    row, column = kept // 64, kept % 64
    inside = ((row >= 16) & (row < 48) & (column >= 16) & (column < 48)).float().mean()
    assert abs(float(inside) - 0.5 * 1024 / (0.5 * 1024 + 0.05 * 3072)) < 0.03


def test_where_the_map_is_high_every_pixel_is_kept_once_k_reaches() -> None:
    kept = select_pixels(stipple_scores(two_levels(1e-4, 0.9)), 1024)[0]
    row, column = kept // 64, kept % 64
    inside = (row >= 16) & (row < 48) & (column >= 16) & (column < 48)
    assert inside.float().mean() > 0.95


def test_a_smaller_k_keeps_a_part_of_a_larger_one() -> None:
    model, x = make(), crops()
    few, many = (model(x, k=k).indices for k in (10, 60))
    for some, all_ in zip(few.tolist(), many.tolist(), strict=True):
        assert set(some) < set(all_)


def test_exploring_turns_the_thresholds_and_keeps_the_density() -> None:
    model, x = make(), crops(1).repeat(400, 1, 1, 1)
    with torch.no_grad():
        plain = model(x[:1])
        turned = model(x, explore=1.0, generator=torch.Generator().manual_seed(0))
    assert len({tuple(row) for row in turned.indices.tolist()}) > 100
    often = torch.zeros(256).index_add(0, turned.indices.flatten(), torch.ones(400 * 40)) / 400
    density = plain.coarse_logits.sigmoid().flatten()
    share = 40 * density / density.sum()
    assert float((often - share).abs().max()) < 0.1
    assert plain.indices.tolist() == model(x[:1]).indices.tolist()


@pytest.mark.parametrize("k", [1, 17, 255, 256])
def test_top_k_by_its_threshold_is_top_k(k: int) -> None:
    scores = torch.randn(5, 256, generator=torch.Generator().manual_seed(3))
    expected = scores.topk(k, 1).indices.sort(1).values
    assert torch.equal(select_pixels(scores, k), expected)


def test_top_k_of_equal_scores_and_of_no_numbers_still_keeps_k() -> None:
    level = torch.zeros(2, 64)
    level[1, :3] = float("nan")
    for row in select_pixels(level, 10).tolist():
        assert len(set(row)) == 10
        assert row == sorted(row)
        assert row[0] >= 0
        assert row[-1] < 64


def test_a_pixel_that_is_not_kept_changes_nothing_but_the_choice() -> None:
    model, x = make(), crops()
    before = model(x)
    other = x.clone().flatten(2)
    unkept = torch.ones(3, 256, dtype=torch.bool).scatter(1, before.indices, False)
    other[unkept[:, None].expand(-1, 3, -1)] = 7.0
    after = model(other.view_as(x), indices=before.indices)
    torch.testing.assert_close(after.logits, before.logits)


def test_every_kept_pixel_can_matter() -> None:
    model = make()
    x = crops(1).requires_grad_()
    output = model(x)
    output.logits.square().sum().backward()
    moved = x.grad.abs().sum(1).flatten()
    # The selector takes no gradient without gates: what is left is the content's.
    assert set(torch.nonzero(moved).flatten().tolist()) == set(output.indices[0].tolist())


def test_gates_change_no_answer_and_let_the_loss_reach_the_map() -> None:
    model, x = make(), crops()
    for gated in (False, True):
        model.zero_grad(set_to_none=True)
        output = model(x, gated=gated)
        F.cross_entropy(output.logits, torch.tensor([0, 1, 2])).backward()
        reached = [p.grad for p in model.coarse.parameters() if p.grad is not None]
        assert bool(reached) == gated
        if not gated:
            plain = output.logits.detach()
    torch.testing.assert_close(output.logits, plain)
    assert all(bool((grad != 0).any()) for grad in reached)


def test_a_gate_is_what_a_pixel_weighs() -> None:
    """A gate near 0 is as good as not keeping the pixel; 1 is keeping it."""
    model, x = make(), crops(1)
    indices = torch.arange(0, 256, 7)[None]
    with torch.no_grad():
        tokens = model._embed(x, x, indices)
        less = model.tiles(tokens[:, 1:], indices[:, 1:], (16, 16))
        gates = torch.ones(1, indices.shape[1])
        gates[:, 0] = 1e-9
        gated = model.tiles(tokens, indices, (16, 16), gates)
        torch.testing.assert_close(gated[:, 1:], less)
        state = model.cls.expand(1, -1)
        read, attention = model.fine[0](tokens, state, gates)
        without, _ = model.fine[0](tokens[:, 1:], state)
        torch.testing.assert_close(read, without)
        assert float(attention[0, :, 0].max()) < 1e-6


def test_what_a_gate_wins_the_others_lose() -> None:
    logits = torch.zeros(1, 8, 8, requires_grad=True)
    indices = torch.tensor([[3, 17, 40]])
    gates = selection_gates(logits, indices)
    assert gates.tolist() == [[1.0, 1.0, 1.0]]
    gates[0, 1].backward()
    grad = logits.grad.flatten()
    assert grad[17] > 0
    assert abs(float(grad.sum())) < 1e-6
    assert bool((grad[torch.arange(64) != 17] < 0).all())


def test_tokens_by_table_are_the_same_tokens() -> None:
    model, x = make(), crops()
    indices = model(x).indices
    by_table = model._embed(x, x, indices).detach()
    with torch.no_grad():
        torch.testing.assert_close(by_table, model._embed(x, x, indices), atol=1e-5, rtol=1e-5)


def test_a_map_has_bounded_logits_whatever_it_is_shown() -> None:
    model = make()
    with torch.no_grad():
        model.coarse.score[1].weight.mul_(1e4)
        logits = model(crops()).coarse_logits
    assert 5.9 < float(logits.abs().max()) <= 6


@pytest.mark.parametrize(
    ("changes", "match"),
    [
        ({"selector": "best"}, "selector must be"),
        ({"tiles": "none"}, "tiles must be"),
        ({"image_size": 12}, "multiple of 8"),
        ({"token": "context"}, "selector 'scores'"),
    ],
)
def test_settings_that_do_not_fit_are_refused(changes: dict[str, object], match: str) -> None:
    with pytest.raises(ValueError, match=match):
        dataclasses.replace(SELECTING, **changes)


def test_a_sharper_map_gathers_pixels_where_it_was_high() -> None:
    net, x = make(), crops()
    before = net.select(x).detach()
    net.sharpen(3)
    after = net.select(x).detach()
    assert float(after.std()) > 2 * float(before.std())
    assert after.abs().max() <= MOST
    assert float((torch.sign(before) == torch.sign(after)).float().mean()) > 0.95
    # Kept pixels lie higher on the map of before.
    kept = [
        before.flatten(1).gather(1, select_pixels(stipple_scores(logits), 40)).mean()
        for logits in (before, after)
    ]
    assert kept[1] > kept[0]
