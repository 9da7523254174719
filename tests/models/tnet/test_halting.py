"""A traversal that ends by itself gives what was known when it was sure enough."""

from __future__ import annotations

import pytest
import torch

from napari_sparseattn.models.tnet.halting import Halt, in_turn, running_logits
from napari_sparseattn.models.tnet.network import TNet
from small_tnet import small_tnet

_DRAWN = torch.Generator().manual_seed(0)
# Of very different light and contrast, or they would all be alike to random weights.
IMAGES = torch.rand(6, 3, 64, 64, generator=_DRAWN) * torch.linspace(0.2, 4, 6).view(6, 1, 1, 1)
IMAGES = IMAGES - torch.tensor([3.0, -2.0, 0.0, 2.0, -1.0, 1.0]).view(6, 1, 1, 1)
ALL = 1 + 2 + 2


@pytest.fixture(scope="module")
def net() -> TNet:
    return small_tnet().eval()


@torch.inference_mode()
@pytest.mark.parametrize("threshold", [0.0, 0.5, 0.7, 0.9, 1.01])
def test_it_stops_at_the_first_crop_that_makes_it_sure(net: TNet, threshold: float) -> None:
    runs = running_logits(net(IMAGES))
    temperature = 4 * float(torch.stack([run[-1] for run in runs]).std())
    output = net(IMAGES, halt=Halt(threshold, temperature))
    for image, run in enumerate(runs):
        sure = ((run / temperature).softmax(1).amax(1) >= threshold).nonzero()[:, 0]
        expected = int(sure[0]) + 1 if len(sure) else ALL
        assert int(output.counts[image]) == expected
        torch.testing.assert_close(output.logits[image], run[expected - 1], atol=1e-5, rtol=1e-5)
    assert len(output.grids) == len(output.levels) - 1


@torch.inference_mode()
def test_some_stop_and_some_go_on_and_none_is_changed_by_its_batch(net: TNet) -> None:
    runs = running_logits(net(IMAGES))
    temperature = 4 * float(torch.stack([run[-1] for run in runs]).std())
    # What some are as sure of at the first look, and others are not.
    first = torch.stack([(run[0] / temperature).softmax(0).max() for run in runs])
    halt = Halt(float(first.median()) + 1e-6, temperature)
    together = net(IMAGES, halt=halt)
    assert len(set(together.counts.tolist())) > 1
    for image in range(len(IMAGES)):
        alone = net(IMAGES[image : image + 1], halt=halt)
        assert int(alone.counts[0]) == int(together.counts[image])
        torch.testing.assert_close(alone.logits[0], together.logits[image], atol=1e-5, rtol=1e-5)
    # Every crop that is left has its parent, which is of the same image.
    for before, level in zip(together.levels, together.levels[1:], strict=False):
        torch.testing.assert_close(before.crops.image[level.crops.parent], level.crops.image)


@torch.inference_mode()
def test_never_sure_is_as_without(net: TNet) -> None:
    plain, halted = net(IMAGES), net(IMAGES, halt=Halt(1.01))
    torch.testing.assert_close(plain.logits, halted.logits, atol=1e-5, rtol=1e-5)
    for one, other in zip(plain.levels, halted.levels, strict=True):
        assert torch.equal(one.crops.boxes, other.crops.boxes)
        torch.testing.assert_close(one.logits, other.logits, atol=1e-5, rtol=1e-5)


@torch.inference_mode()
def test_the_most_probable_come_first(net: TNet) -> None:
    crops = net(IMAGES).levels[2].crops
    turn = in_turn(crops)
    for image in range(len(IMAGES)):
        rows = (crops.image == image).nonzero()[:, 0]
        rows = rows[torch.argsort(turn[rows])]
        assert turn[rows].tolist() == list(range(len(rows)))
        assert (crops.log_prob[rows].diff() <= 0).all()
