"""A `SparseAttnNet` whose weights stay as they are, in fewer and faster operations."""

from __future__ import annotations

import math
from typing import NamedTuple, cast

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from .layers import FineAttention, select_pixels
from .stipple import MOST, SmoothMap, TilePyramid, thresholds

__all__ = ["FrozenSparseAttnNet"]


class FrozenSparseAttnNet:
    """The function of a `SparseAttnNet`, for answering alone.

    What depends on the weights and the size of a crop alone is computed once:
    positions after their first layer, thresholds, interpolation, the class
    token's first question. Convolutions read and write channels last. Answers
    differ from the network's by rounding, so that where two pixels' scores
    are as good as equal it may keep the other one.

    Parameters
    ----------
    coarse, embed, tiles, fine, norm, head : Module
        The network's parts, on the CPU, in float32. Weights that change
        afterwards are not noticed.
    places : Tensor
        (side * side, P), what `embed` reads of each pixel's place, after its values.
    cls : Tensor
        (1, class_width), the class token.
    side : int
        Of a crop in pixels.
    """

    def __init__(
        self,
        coarse: SmoothMap,
        embed: nn.Sequential,
        tiles: TilePyramid,
        fine: nn.ModuleList,
        norm: nn.Module,
        head: nn.Module,
        *,
        places: Tensor,
        cls: Tensor,
        side: int,
    ) -> None:
        self.side, self.n = side, side * side
        with torch.no_grad():
            pixels = torch.arange(self.n)
            row, column = torch.div(pixels, side, rounding_mode="floor"), pixels % side
            self._tile = torch.div(row, 2, rounding_mode="floor") * (side // 2) + column // 2
            self._quad = torch.div(row, 4, rounding_mode="floor") * (side // 4) + column // 4
            self._log_thresholds = thresholds(side, side, torch.device("cpu")).log()
            self._enlarge = _enlarging(side // 4, side)

            stem = _Conv.of(coarse.stem[1])
            # The mean over 2 x 2 pixels before it is part of its weights: one pass instead of two.
            weight = stem.weight.repeat_interleave(2, 2).repeat_interleave(2, 3) / 4
            padding, stride = 2 * stem.padding, 2 * stem.stride
            self._stem = stem._replace(weight=_last(weight), padding=padding, stride=stride)
            self._near, self._far = _steps(coarse.near), _steps(coarse.far)
            self._score = _Conv.of(coarse.score[1])

            first = cast("nn.Linear", embed[0])
            channels = first.in_features - places.shape[1]
            self._places = F.linear(places, first.weight[:, channels:], first.bias)
            self._values = first.weight[:, :channels].contiguous()
            self._embed = cast("nn.Linear", embed[2])

            self._inward, self._down = _Conv.of(tiles.inward), _Conv.of(tiles.down)
            self._blocks = [_steps(cast("nn.Module", block.body)) for block in tiles.near]
            self._far_blocks = [_steps(cast("nn.Module", block.body)) for block in tiles.far]
            self._up, self._outward = _Conv.of(tiles.up), _Conv.of(tiles.outward)

            self._cls = cls
            self._readers = [
                _Reader(cast("FineAttention", layer), cls if index == 0 else None)
                for index, layer in enumerate(fine)
            ]
            self._norm, self._head = norm, head

    def __deepcopy__(self, memo: object) -> None:
        """Copies of a network are made to be changed: they start without this."""
        return

    def __call__(
        self, x: Tensor, k: int, indices: Tensor | None
    ) -> tuple[Tensor, Tensor, Tensor, Tensor, Tensor]:
        """Classify crops (B, C, side, side); returns what `SparseAttnOutput` holds."""
        batch = len(x)
        x = x.contiguous(memory_format=torch.channels_last)
        logits = self._map(x)
        if indices is None:
            scores = F.logsigmoid(logits.flatten(1)).sub_(self._log_thresholds)
            indices = select_pixels(scores, k)
        tokens = self._tokens(x, indices)
        state, maps = self._cls.expand(batch, -1), []
        for reader in self._readers:
            state, attention = reader(tokens, state)
            maps.append(attention)
        state = self._norm(state)
        return self._head(state), logits, indices, torch.stack(maps, 1), state

    def _map(self, x: Tensor) -> Tensor:
        stem = self._stem(x)
        near = _run(self._near, stem).add_(stem)
        far = F.interpolate(_run(self._far, near), size=near.shape[-2:], mode="bilinear")
        scores = self._score(far.add_(near).relu_())[:, 0]
        scores = scores.div_(MOST).tanh_().mul_(MOST)
        return self._enlarge @ scores @ self._enlarge.T

    def _tokens(self, x: Tensor, indices: Tensor) -> Tensor:
        (batch, k), side, width = indices.shape, self.side, self._embed.out_features
        pixel = place = indices.flatten()
        tile, quad = self._tile.index_select(0, pixel), self._quad.index_select(0, pixel)
        if batch > 1:
            crop = torch.arange(batch)[:, None]
            place = (indices + crop * self.n).flatten()
            tile = (tile.view(batch, k) + crop * (self.n // 4)).flatten()
            quad = (quad.view(batch, k) + crop * (self.n // 16)).flatten()
        values = x.permute(0, 2, 3, 1).reshape(batch * self.n, -1).index_select(0, place)
        hidden = F.linear(values, self._values).add_(self._places.index_select(0, pixel))
        tokens: Tensor = self._embed(F.gelu(hidden))
        total = tokens.new_zeros(batch * self.n // 4, width).index_add_(0, tile, tokens)
        # (B, H, W, D) read as (B, D, H, W) is the channels_last layout: no copy.
        told = self._talk(total.view(batch, side // 2, side // 2, width).permute(0, 3, 1, 2))
        told = told.permute(0, 2, 3, 1).reshape(-1, width).index_select(0, quad)
        mixed: Tensor = tokens.add_(told).view(batch, k, width)
        return mixed

    def _talk(self, total: Tensor) -> Tensor:
        tiles = self._inward(total)
        for block in self._blocks:
            tiles = _run(block, tiles).add_(tiles)
        far = self._down(tiles)
        for block in self._far_blocks:
            far = _run(block, far).add_(far)
        far = F.interpolate(self._up(far), size=tiles.shape[-2:], mode="nearest")
        return self._outward(far.add_(tiles))


class _Conv(NamedTuple):
    weight: Tensor
    bias: Tensor | None
    stride: int
    padding: int
    groups: int

    @classmethod
    def of(cls, layer: nn.Module) -> _Conv:
        conv = cast("nn.Conv2d", layer)
        stride, padding = conv.stride[0], cast("tuple[int, int]", conv.padding)[0]
        return cls(_last(conv.weight), conv.bias, stride, padding, conv.groups)

    def __call__(self, x: Tensor) -> Tensor:
        return F.conv2d(x, self.weight, self.bias, self.stride, self.padding, 1, self.groups)


def _last(weight: Tensor) -> Tensor:
    return weight.detach().contiguous(memory_format=torch.channels_last)


def _steps(body: nn.Module) -> list[nn.Module | _Conv]:
    """List a sequence's layers, nested ones too, convolutions with weights in the right order."""
    leaves = [layer for layer in body.modules() if not isinstance(layer, nn.Sequential)]
    return [_Conv.of(layer) if isinstance(layer, nn.Conv2d) else layer for layer in leaves]


def _run(steps: list[nn.Module | _Conv], x: Tensor) -> Tensor:
    for step in steps:
        # What stands before a ReLU is always made here, never the caller's.
        x = x.relu_() if isinstance(step, nn.ReLU) else step(x)
    return x


def _enlarging(few: int, many: int) -> Tensor:
    """Matrix (many, few) that interpolates as bilinear `torch.nn.functional.interpolate` does."""
    ramps = torch.eye(few)[:, None, None]
    made = F.interpolate(ramps, size=(1, many), mode="bilinear")
    return made[:, 0, 0].T.contiguous()


class _Reader:
    """A `FineAttention`; what it makes of the class token is known where `state` is given."""

    def __init__(self, layer: FineAttention, state: Tensor | None) -> None:
        self.layer = layer
        self.known = None if state is None else self._ask(state)

    def _ask(self, state: Tensor) -> tuple[Tensor, Tensor]:
        """Return queries (B or 1, heads, D) and the class token's own token (B or 1, 1, D)."""
        layer = self.layer
        width = layer.norm.normalized_shape[0]
        query = layer.query(layer.norm_class(state)).view(-1, layer.heads, width)
        return query / math.sqrt(width), layer.norm(layer.own(state))[:, None]

    def __call__(self, pixels: Tensor, state: Tensor) -> tuple[Tensor, Tensor]:
        batch, _, width = pixels.shape
        layer = self.layer
        query, own = self.known or self._ask(state)
        tokens = torch.cat([layer.norm(pixels), own.expand(batch, 1, width)], dim=1)
        attention = (query @ tokens.transpose(1, 2)).softmax(-1)
        read = (attention @ tokens).reshape(batch, layer.heads * width)
        state = layer.out(read) + state
        return state + layer.mlp(layer.norm_mlp(state)), attention
