"""A frozen SparseAttnNet against the network itself, which is tested elsewhere."""

from __future__ import annotations

import copy

import pytest
import torch

from napari_sparseattn.bundle import load_bundle
from napari_sparseattn.models.sparse.network import SparseAttnNet, SparseAttnNetConfig


def make(side: int = 24, **changes: object) -> SparseAttnNet:
    torch.manual_seed(3)
    sizes: dict[str, object] = {
        "n_classes": 3,
        "image_size": side,
        "k": 90,
        "width": 8,
        "depth": 0,
        "mixing": "none",
        "tile_width": 8,
        "tile_depth": 1,
        "class_width": 12,
        "heads": 3,
        "coarse_width": 6,
        "selector": "map",
        "tiles": "pyramid",
    }
    model = SparseAttnNet(SparseAttnNetConfig(**(sizes | changes))).eval()
    for name, weight in model.named_parameters():
        # Norms that are not the identity, so that a missing one would show.
        if weight.ndim == 1:
            torch.nn.init.normal_(weight, 1.0 if name.endswith("weight") else 0.0, 0.3)
    return model.requires_grad_(False)


def crops(batch: int, side: int = 24, channels: int = 3) -> torch.Tensor:
    generator = torch.Generator().manual_seed(batch)
    return torch.randn(batch, channels, side, side, generator=generator)


def assert_same(model: SparseAttnNet, x: torch.Tensor, **options: object) -> None:
    plain = copy.deepcopy(model)
    assert plain._frozen is None
    with torch.inference_mode():
        expected, found = plain(x, **options), model(x, **options)
    assert torch.equal(found.indices, expected.indices)
    for name in ("logits", "coarse_logits", "fine", "state"):
        torch.testing.assert_close(
            getattr(found, name), getattr(expected, name), rtol=1e-5, atol=1e-5, msg=name
        )


@pytest.mark.parametrize("batch", [1, 5])
@pytest.mark.parametrize("changes", [{}, {"readout_layers": 2, "tile_depth": 2}])
def test_the_same_answers(batch: int, changes: dict[str, object]) -> None:
    model = make(**changes).freeze()
    assert model._frozen is not None
    for k in (1, 90, 576):
        assert_same(model, crops(batch), k=k)


def test_one_channel_and_pixels_that_are_given() -> None:
    model = make(in_channels=1).freeze()
    indices = torch.stack([torch.randperm(576)[:50].sort().values for _ in range(3)])
    assert_same(model, crops(3, channels=1), indices=indices)


def test_pictures_in_either_layout_are_left_as_they_are() -> None:
    model, x = make().freeze(), crops(2)
    last = x.contiguous(memory_format=torch.channels_last)
    before = x.clone()
    with torch.inference_mode():
        assert torch.equal(model(x).logits, model(last).logits)
    assert torch.equal(x, before)
    assert torch.equal(last, before)


@pytest.mark.parametrize("name", ["blood-cells", "opd-simulated"])
def test_the_bundled_models_are_frozen_and_answer_alike(name: str) -> None:
    model = load_bundle(name).cell_model()
    assert isinstance(model, SparseAttnNet)
    assert model._frozen is not None
    x = torch.nn.functional.avg_pool2d(crops(32, 64, model.config.in_channels), 5, 1, 2)
    with torch.inference_mode():
        expected, found = copy.deepcopy(model)(x), model(x)
    assert torch.equal(found.indices, expected.indices)
    torch.testing.assert_close(
        found.logits.softmax(1), expected.logits.softmax(1), rtol=0, atol=1e-5
    )


def test_what_it_was_not_prepared_for_is_answered_by_the_network() -> None:
    model = make().freeze()
    plain = copy.deepcopy(model)
    with torch.no_grad():
        larger = crops(2, 32)
        assert torch.equal(model(larger).logits, plain(larger).logits)
        with torch.autocast("cpu", torch.bfloat16):
            assert torch.equal(model(crops(2)).logits, plain(crops(2)).logits)
        turns = [torch.Generator().manual_seed(1) for _ in range(2)]
        explored = model(crops(2), explore=1.0, generator=turns[0]).indices
        assert torch.equal(explored, plain(crops(2), explore=1.0, generator=turns[1]).indices)
    x = crops(1).requires_grad_()
    model(x).logits.sum().backward()
    assert x.grad is not None
    assert x.grad.abs().sum() > 0


def test_networks_of_other_shapes_stay_as_they_are() -> None:
    assert make(selector="scores").freeze()._frozen is None
    assert make(tiles="means").freeze()._frozen is None
    assert make(depth=1).freeze()._frozen is None
    assert make().train().freeze()._frozen is None
    assert make().double().freeze()._frozen is None


@pytest.mark.parametrize("change", ["train", "eval", "load", "double"])
def test_weights_that_change_are_not_answered_by_the_old_ones(change: str) -> None:
    model = make().freeze()
    if change == "train":
        model.train()
    elif change == "eval":
        model.eval()
    elif change == "double":
        model.double()
    else:
        model.load_state_dict({k: v + 0.1 for k, v in model.state_dict().items()})
    assert model._frozen is None
