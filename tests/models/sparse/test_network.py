"""SparseAttnNet against its definition, written out plainly in float64."""

from __future__ import annotations

import dataclasses
import math

import numpy as np
import pytest
import torch
import torch.nn.functional as F

from napari_sparseattn.models.sparse.network import (
    SparseAttnNet,
    SparseAttnNetConfig,
    SparseAttnOutput,
    distillation_loss,
    select_pixels,
)

SMALL = SparseAttnNetConfig(
    n_classes=3,
    image_size=16,
    k=40,
    width=8,
    depth=2,
    tile_width=8,
    tile_depth=1,
    class_width=12,
    heads=3,
)


def make(**changes: object) -> SparseAttnNet:
    torch.manual_seed(1)
    model = SparseAttnNet(dataclasses.replace(SMALL, **changes)).eval().double()
    # Batch statistics other than 0 and 1, so that a missing norm would show.
    for module in model.modules():
        if isinstance(module, torch.nn.BatchNorm2d):
            module.running_mean.uniform_(-0.2, 0.2)
            module.running_var.uniform_(0.5, 1.5)
    return model


def crops(batch: int = 3, channels: int = 3) -> torch.Tensor:
    return torch.randn(batch, channels, 16, 16, generator=torch.Generator().manual_seed(2)).double()


def plain(model: SparseAttnNet, x: torch.Tensor, indices: torch.Tensor) -> tuple[np.ndarray, list]:
    """One crop's logits and attention with loops over pixels, from the text."""
    size = x.shape[-1]
    kept = [divmod(int(i), size) for i in indices]
    tokens = {}
    for r, c in kept:
        y, w = (2 * r + 1) / size - 1, (2 * c + 1) / size - 1
        waves = [
            [f(math.pi * 2.0**n / 2 * place) for place in (y, w) for n in range(5)]
            for f in (math.sin, math.cos)
        ]
        entry = torch.tensor(
            [*x[:, r, c].tolist(), y, w, *waves[0], *waves[1]], dtype=torch.float64
        )
        tokens[r, c] = model.embed(entry)
    for block, dilation in zip(model.blocks, (1, 2), strict=False):
        normed = {place: block.norm_mixing(token) for place, token in tokens.items()}
        weight, bias = block.mixing.conv.weight[:, 0], block.mixing.conv.bias
        mixed = {}
        for r, c in kept:
            total = bias.clone()
            for i in range(3):
                for j in range(3):
                    neighbour = (r + (i - 1) * dilation, c + (j - 1) * dilation)
                    if neighbour in normed:
                        total = total + weight[:, i, j] * normed[neighbour]
            mixed[r, c] = tokens[r, c] + total
        tokens = {place: token + block.mlp(block.norm(token)) for place, token in mixed.items()}
    side = size // 4
    tiles = torch.zeros(1, side, side, 9, dtype=torch.float64)
    for tr in range(side):
        for tc in range(side):
            inside = [tokens[p] for p in kept if p[0] // 4 == tr and p[1] // 4 == tc]
            if inside:
                tiles[0, tr, tc, :8] = torch.stack(inside).mean(0)
                tiles[0, tr, tc, 8] = len(inside) / 16
    hidden = model.tiles.inward(tiles)
    for block in model.tiles.blocks:
        conv = F.conv2d(
            block.norm(hidden).permute(0, 3, 1, 2),
            block.conv.weight,
            block.conv.bias,
            padding=1,
            groups=8,
        )
        hidden = hidden + block.mlp(conv.permute(0, 2, 3, 1))
    back = model.tiles.outward(model.tiles.norm(hidden))[0]
    pixels = [tokens[p] + back[p[0] // 4, p[1] // 4] for p in kept]
    state, maps = model.cls[0], []
    for layer in model.fine:
        sequence = [layer.norm(t) for t in [*pixels, layer.own(state)]]
        query = layer.query(layer.norm_class(state)).view(layer.heads, -1)
        reads, rows = [], []
        for head in range(layer.heads):
            scores = torch.stack([query[head] @ t / math.sqrt(len(t)) for t in sequence])
            attention = scores.softmax(0)
            rows.append(attention.numpy())
            reads.append(sum(a * t for a, t in zip(attention, sequence, strict=True)))
        maps.append(rows)
        state = state + layer.out(torch.cat(reads))
        state = state + layer.mlp(layer.norm_mlp(state))
    return model.head(model.norm(state)).numpy(), maps


def test_forward_is_the_written_definition() -> None:
    model, x = make(), crops()
    with torch.inference_mode():
        output = model(x)
        for i in range(len(x)):
            logits, maps = plain(model, x[i], output.indices[i])
            np.testing.assert_allclose(output.logits[i].numpy(), logits, atol=1e-5)
            np.testing.assert_allclose(output.fine[i].numpy(), maps, atol=1e-6)


def test_both_ways_of_local_mixing_agree_with_gradients() -> None:
    model, x = make(), crops()
    by_taps = model(x).logits
    with torch.no_grad():
        dense = model(x).logits
    torch.testing.assert_close(by_taps.detach(), dense, atol=1e-6, rtol=0)
    layer = model.blocks[1].mixing
    indices = model(x).indices
    tokens = torch.randn(3, 40, 8, dtype=torch.float64, requires_grad=True)
    ours = torch.autograd.grad(
        layer._by_taps(tokens, indices, (16, 16)).square().sum(), [tokens, layer.conv.weight]
    )
    theirs = torch.autograd.grad(
        layer._dense(tokens, indices, (16, 16)).square().sum(), [tokens, layer.conv.weight]
    )
    for a, b in zip(ours, theirs, strict=True):
        torch.testing.assert_close(a, b)


@pytest.mark.parametrize("mixing", ["local", "global", "none"])
def test_unkept_pixels_act_through_the_selector_alone(mixing: str) -> None:
    model, x = make(mixing=mixing), crops()
    with torch.inference_mode():
        before = model(x)
        changed = torch.randn_like(x)
        kept = (
            torch.zeros(3, 256, dtype=torch.bool)
            .scatter(1, before.indices, True)
            .view(3, 1, 16, 16)
        )
        changed = torch.where(kept, x, changed)
        same_pixels = model(changed, indices=before.indices)
        assert not torch.equal(model(changed).indices, before.indices)
    assert torch.equal(same_pixels.logits, before.logits)
    assert torch.equal(same_pixels.fine, before.fine)


def test_context_tokens_see_their_receptive_field_and_no_further() -> None:
    model, x = make(token="context"), crops(1)
    assert model.receptive_field > 1
    indices = torch.tensor([[8 * 16 + 8]])
    for distance, changes in ((1, True), (5, False)):
        other = x.clone()
        other[:, :, 8, 8 + distance] += 3.0
        with torch.inference_mode():
            differs = not torch.equal(
                model(x, indices=indices).logits, model(other, indices=indices).logits
            )
        assert differs is changes


def test_top_k_is_exact_and_ascending() -> None:
    scores = torch.rand(4, 50, generator=torch.Generator().manual_seed(0))
    got = select_pixels(scores, 7)
    expected = np.sort(np.argsort(-scores.numpy(), axis=1)[:, :7], axis=1)
    np.testing.assert_array_equal(got.numpy(), expected)


def test_exploration_lets_any_pixel_enter_and_keeps_the_top() -> None:
    scores = torch.arange(20.0)[None].repeat(400, 1)
    got = select_pixels(scores, 10, explore=0.4, generator=torch.Generator().manual_seed(0))
    assert got.shape == (400, 10)
    assert all(len(set(row.tolist())) == 10 for row in got)
    assert (got[:, -6:] == torch.arange(14, 20)).all()
    assert set(got[:, :4].flatten().tolist()) == set(range(14))


@pytest.mark.parametrize(("explore", "enters"), [(0.3, True), (0.0, False)])
def test_pixels_that_start_last_enter_by_exploration_alone(explore: float, enters: bool) -> None:
    """A teacher prefers a corner that the untrained map ranks last."""
    generator = torch.Generator().manual_seed(0)
    preferred = torch.zeros(8, 8)
    preferred[:3, :4] = 1
    scores = (torch.randn(8, 8, generator=generator) * 0.1 - 2 * preferred).requires_grad_()
    optimiser = torch.optim.Adam([scores], 0.05)
    for _ in range(150):
        batch = scores.expand(16, 8, 8)
        indices = select_pixels(batch.detach().flatten(1), 12, explore, generator)
        liked = (preferred.flatten()[indices] * 20 + 1)[:, None, None]
        fine = torch.cat([liked, torch.ones(16, 1, 1, 1)], dim=-1)
        output = SparseAttnOutput(
            torch.zeros(16, 2),
            batch,
            indices,
            fine / fine.sum(-1, keepdim=True),
            torch.zeros(16, 4),
        )
        optimiser.zero_grad()
        distillation_loss(output).backward()
        optimiser.step()
    kept = select_pixels(scores.detach().flatten()[None], 12)
    share = float(preferred.flatten()[kept].mean())
    assert (share > 0.9) is enters
    assert enters or share == 0


def test_distillation_pulls_the_coarse_map_alone() -> None:
    model = make().float().train()
    output = model(crops().float())
    loss = distillation_loss(output)
    loss.backward()
    assert all(
        p.grad is not None and p.grad.abs().sum() > 0 for p in model.coarse.merge.parameters()
    )
    assert all(p.grad is None for p in model.fine.parameters())
    assert model.embed[0].weight.grad is None


def test_distillation_is_zero_when_the_maps_agree() -> None:
    k, n = 5, 16
    student = torch.full((1, 4, 4), -1.0)
    student[0, 0] = torch.tensor([2.0, 1.0, 0.0, -3.0])
    indices = torch.arange(k)[None]
    kept = student.flatten(1)[:, :k].sigmoid()
    fine = torch.cat([0.8 * kept / kept.sum(), torch.tensor([[0.2]])], 1)[:, None, None]
    output = SparseAttnOutput(torch.zeros(1, 2), student, indices, fine, torch.zeros(1, 4))
    level = (student.sigmoid().mean() - k / n) ** 2
    torch.testing.assert_close(distillation_loss(output), level)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"k": 0}, "k must"),
        ({"k": 257}, "crop's 256 pixels"),
        ({"image_size": 18}, "multiple of 4"),
        ({"width": 0}, "width must"),
        ({"depth": 10**9}, "depth must"),
        ({"token": "patch"}, "'pixel' or 'context'"),
        ({"mixing": "global", "width": 6}, "multiple of 4"),
        ({"n_classes": 2.5}, "whole number"),
    ],
)
def test_sizes_that_make_no_sense_are_refused(changes: dict[str, object], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        dataclasses.replace(SMALL, **changes)


def test_wrong_channels_and_k_beyond_the_crop_are_refused() -> None:
    model = make()
    with pytest.raises(ValueError, match=r"\(B, 3, H, W\)"):
        model(crops(channels=1))
    with pytest.raises(ValueError, match="between 1 and 256"):
        model(crops(), k=257)


def test_one_channel_and_other_crop_sizes_work() -> None:
    model = make(in_channels=1)
    with torch.inference_mode():
        output = model(torch.randn(2, 1, 24, 20, dtype=torch.float64))
    assert output.coarse_logits.shape == (2, 24, 20)
    assert output.indices.max() < 480
    torch.testing.assert_close(output.fine.sum(-1), torch.ones(2, 2, 3, dtype=torch.float64))
