"""SPAN written a second time: dense masked attention, one matrix per level, no windows laid out.

Independent of the fast code but for the names of the weights. Small lattices only.
"""

from __future__ import annotations

import math

import torch
import torch.nn.functional as F
from torch import Tensor

State = dict[str, Tensor]


def padding(side: int) -> tuple[int, int]:
    """Cells added before, and the padded side, for two halvings."""
    padded = 4 + 4 * max(0, math.ceil((side - 4) / 4)) + 4
    return (padded - side) // 2, padded


def layer_norm(state: State, name: str, x: Tensor) -> Tensor:
    return F.layer_norm(x, x.shape[-1:], state[f"{name}.weight"], state[f"{name}.bias"])


def linear(state: State, name: str, x: Tensor) -> Tensor:
    return F.linear(x, state[f"{name}.weight"], state.get(f"{name}.bias"))


def masks(cells: list[tuple[int, int]], size: tuple[int, int], count: int) -> tuple[Tensor, Tensor]:
    """Who reads whom ([reader, read]) locally and globally, among cells and `count` tokens."""
    n = len(cells)
    shifts = [0] if size[0] % 6 == 0 and size[1] % 6 == 0 else [0, 3]
    local = torch.zeros(n + count, n + count, dtype=torch.bool)
    for i, (x, y) in enumerate(cells):
        for j, (u, v) in enumerate(cells):
            together = any(
                (x + s) // 6 == (u + s) // 6 and (y + s) // 6 == (v + s) // 6 for s in shifts
            )
            local[i, j] = together and i != j
        local[i, i] = 0 < i < n - 1
    wide = torch.zeros_like(local)
    wide[1 : n - 1, n:] = True
    wide[n:, 1 : n - 1] = True
    wide[n:, n:] = True
    return local, wide


def masked_softmax(scores: Tensor, mask: Tensor) -> Tensor:
    scores = scores.masked_fill(~mask, -math.inf)
    weights = scores.softmax(-1)
    return torch.where(mask.any(-1, keepdim=True), weights, 0.0).nan_to_num(0.0)


def refine(
    state: State, name: str, x: Tensor, tokens: Tensor, cells: list, size: tuple[int, int]
) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    n, count, width = len(x), len(tokens), x.shape[1]
    heads = width // 64
    everything = torch.cat([x, tokens])
    normed = layer_norm(state, f"{name}.norm1", everything)

    def project(which: str) -> Tensor:
        return linear(state, f"{name}.{which}", normed).view(-1, heads, 64).transpose(0, 1)

    local, wide = masks(cells, size, count)
    bias = torch.zeros(heads, n + count, n + count, dtype=x.dtype)
    table = state[f"{name}.bias"]
    for i in range(n):
        for j in range(n):
            if local[i, j]:
                dx, dy = cells[j][0] - cells[i][0], cells[j][1] - cells[i][1]
                bias[:, i, j] = table[:, dx + 5, dy + 5]
    near = masked_softmax(project("query") @ project("key").mT / 8 + bias, local)
    far = masked_softmax(project("global_query") @ project("global_key").mT / 8, wide)
    mixed = near @ project("value") + far @ project("global_value")
    everything = everything + linear(
        state, f"{name}.out", mixed.transpose(0, 1).reshape(n + count, width)
    )
    hidden = F.relu(linear(state, f"{name}.up", layer_norm(state, f"{name}.norm2", everything)))
    everything = everything + linear(state, f"{name}.down", hidden)
    return everything[:n], everything[n:], far[:, n:].transpose(0, 1), near[:, :n, :n]


class Dense:
    """Runs MIL or UNet on one slide; keeps cells, attention, tokens and local weights per level."""

    def __init__(self, state: State, kinds: tuple[str, ...], features: Tensor, cells: Tensor):
        self.state, self.seen = state, []
        low = cells.min(0).values
        relative = (cells - low).tolist()
        (left, width), (top, height) = (
            padding(max(cell[axis] for cell in relative) + 1) for axis in (0, 1)
        )
        self.left, self.top = left, top
        self.order = sorted(range(len(relative)), key=lambda i: relative[i])
        inner = [(relative[i][0] + left, relative[i][1] + top) for i in self.order]
        self.cells = [[(0, 0), *inner, (width - 1, height - 1)]]
        self.sizes = [(width, height)]
        for _ in range(2):
            self.cells.append(sorted({(x // 2, y // 2) for x, y in self.cells[-1]}))
            self.sizes.append((self.sizes[-1][0] // 2, self.sizes[-1][1] // 2))
        zero = torch.zeros(1, features.shape[1], dtype=features.dtype)
        padded = torch.cat([zero, features[self.order], zero])
        rows, learned, fixed = [], 0, 0
        for kind in kinds:
            if kind == "max":
                rows.append(padded.max(0).values)
            elif kind == "mean":
                rows.append(padded.mean(0))
            elif kind.startswith("lrn"):
                rows.append(state[f"tokens.learned.{learned}"][0])
                learned += 1
            else:
                rows.append(state["tokens.fixed"][fixed])
                fixed += 1
        self.x = linear(state, "embedding.patches", padded)
        self.tokens = linear(state, "embedding.token_proj", torch.stack(rows))

    def refine(self, name: str, level: int) -> None:
        self.x, self.tokens, attention, near = refine(
            self.state, name, self.x, self.tokens, self.cells[level], self.sizes[level]
        )
        self.seen.append((self.x, self.tokens, attention, near))

    def condense(self, index: int, *, depthwise: bool) -> None:
        state, name = self.state, f"condensations.{index}"
        fine, coarse = self.cells[index], self.cells[index + 1]
        x = layer_norm(state, f"{name}.norm", self.x) if depthwise else self.x
        weight = state[f"{name}.conv.weight"]
        rows = []
        for u, v in coarse:
            total, present = 0, 0
            for (cx, cy), row in zip(fine, x, strict=True):
                if (cx // 2, cy // 2) == (u, v):
                    kernel = weight[:, :, cx % 2, cy % 2]
                    total = total + (kernel[:, 0] * row if depthwise else kernel @ row)
                    present += 1
            rows.append(total / present if depthwise else total)
        self.x = torch.stack(rows)
        if depthwise:
            self.tokens = layer_norm(state, f"{name}.token_norm", self.tokens)
        else:
            self.x = layer_norm(state, f"{name}.norm", self.x)
        if f"{name}.token_proj.weight" in state:
            self.tokens = linear(state, f"{name}.token_proj", self.tokens)

    def mil(self) -> Tensor:
        for level in range(3):
            if level:
                self.condense(level - 1, depthwise=True)
            self.refine(f"refinements.{level}", level)
        summed = sum(tokens[:1] for _, tokens, _, _ in self.seen)
        return linear(self.state, "head", layer_norm(self.state, "norm", summed))

    def unet(self, layers: tuple[int, int] = (1, 1)) -> Tensor:
        for level in range(3):
            if level:
                self.condense(level - 1, depthwise=False)
            self.refine(f"refinements.{level}", level)
        skips = list(self.seen)
        for up, level in enumerate((1, 0)):
            name = f"ups.{up}.expansion"
            wide = linear(self.state, f"{name}.linear", self.x)
            parents = {cell: i for i, cell in enumerate(self.cells[level + 1])}
            self.x = layer_norm(
                self.state,
                f"{name}.norm",
                torch.stack(
                    [
                        wide[parents[x // 2, y // 2]].view(-1, 2, 2)[:, x % 2, y % 2]
                        for x, y in self.cells[level]
                    ]
                ),
            )
            if f"{name}.token_proj.weight" in self.state:
                self.tokens = linear(self.state, f"{name}.token_proj", self.tokens)
            for layer in range(layers[up]):
                self.refine(f"ups.{up}.refinements.{layer}", level)
            self.x = torch.cat([self.x, skips[level][0]], 1)
            self.tokens = torch.cat([self.tokens, skips[level][1]], 1)
        scores = linear(self.state, "head", self.x)[1:-1]
        out = torch.empty_like(scores)
        out[self.order] = scores
        return out
