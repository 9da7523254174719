"""Networks over bags of patches that SPAN is compared with, written from their papers.

Each takes features (N, F) and cells (N, 2), and returns logits (1, C) as
``.logits``, so that `fit_span` trains it as it trains a SPAN. Sizes are those of
the papers where these name any, with a first layer as wide as the features.

ABMIL     Ilse et al. 2018, gated attention
CLAM-SB   Lu et al. 2021: gated attention, and a loss that tells the patches attended
          most from those attended least, for each class
DSMIL     Li et al. 2021: the highest patch of each class, and attention by likeness to it
TransMIL  Shao et al. 2021: a class token, two layers of attention, and between them
          convolutions over the patches put row by row into a square. The paper
          approximates attention by landmarks (Nyström), 128 of them here; bags are
          smaller than that, so that it is computed exactly
mean, max the mean, or the largest value, of each feature, and a linear layer
"""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor, nn

Loss = Callable[[nn.Module, Tensor, Tensor, Tensor], tuple[Tensor, Tensor]]


class Logits(NamedTuple):
    logits: Tensor


class Pooled(nn.Module):
    """One linear layer on the mean, or the maximum, of each feature."""

    def __init__(self, width: int, n_classes: int, how: str) -> None:
        super().__init__()
        self.how, self.head = how, nn.Linear(width, n_classes)

    def forward(self, features: Tensor, cells: Tensor) -> Logits:
        pooled = features.mean(0) if self.how == "mean" else features.amax(0)
        return Logits(self.head(pooled)[None])


class GatedAttention(nn.Module):
    """Scores (N,) of patches: ``w · (tanh(V h) * sigmoid(U h))``."""

    def __init__(self, width: int, inner: int = 128) -> None:
        super().__init__()
        self.value, self.gate = nn.Linear(width, inner), nn.Linear(width, inner)
        self.score = nn.Linear(inner, 1)

    def forward(self, h: Tensor) -> Tensor:
        scores: Tensor = self.score(self.value(h).tanh() * self.gate(h).sigmoid())
        return scores[:, 0]


class Abmil(nn.Module):
    """The patches' mean, weighted by gated attention."""

    def __init__(self, width: int, n_classes: int, dropout: float = 0.0) -> None:
        super().__init__()
        self.embed = nn.Sequential(nn.Linear(width, width), nn.ReLU(), nn.Dropout(dropout))
        self.attention, self.head = GatedAttention(width), nn.Linear(width, n_classes)

    def forward(self, features: Tensor, cells: Tensor) -> Logits:
        h = self.embed(features)
        return Logits(self.head(self.attention(h).softmax(0) @ h)[None])


class Clam(Abmil):
    """ABMIL whose patches are told apart, by a classifier per class, while it learns."""

    #: Patches of either kind, and the weight of the bag's loss beside theirs.
    PATCHES, BAG = 8, 0.7

    def __init__(self, width: int, n_classes: int) -> None:
        super().__init__(width, n_classes, dropout=0.25)
        self.apart = nn.ModuleList(nn.Linear(width, 2) for _ in range(n_classes))

    @staticmethod
    def loss(
        model: nn.Module, features: Tensor, cells: Tensor, target: Tensor
    ) -> tuple[Tensor, Tensor]:
        assert isinstance(model, Clam)
        h = model.embed(features)
        scores = model.attention(h)
        logits = model.head(scores.softmax(0) @ h)[None]
        total = F.cross_entropy(logits, target[None])
        # Of a single patch nothing can be most and least.
        if not (k := min(Clam.PATCHES, len(h) // 2)):
            return total, logits
        order = scores.argsort(descending=True)
        most, least = h[order[:k]], h[order[-k:]]
        losses = []
        for kind, classifier in enumerate(model.apart):
            if kind == int(target):
                found = classifier(torch.cat([most, least]))
                truth = (torch.arange(2 * k) < k).long()
            else:  # classes exclude each other: what is attended most is none of the others
                found, truth = classifier(most), torch.zeros(k, dtype=torch.long)
            # The smooth hinge of two classes, margin and temperature 1.
            own = found.gather(1, truth[:, None])[:, 0]
            losses.append(F.softplus(1 + found.sum(1) - 2 * own).mean())
        return Clam.BAG * total + (1 - Clam.BAG) * torch.stack(losses).mean(), logits


class Dsmil(nn.Module):
    """Two streams: the highest patch of each class, and attention by likeness to it."""

    def __init__(self, width: int, n_classes: int, inner: int = 128) -> None:
        super().__init__()
        self.embed = nn.Sequential(nn.Linear(width, width), nn.ReLU())
        self.patches = nn.Linear(width, n_classes)
        self.query, self.value = nn.Linear(width, inner), nn.Linear(width, width)
        self.bag = nn.Conv1d(n_classes, n_classes, width)

    def streams(self, features: Tensor) -> tuple[Tensor, Tensor]:
        """Logits (1, C) by the highest patches, and by the bag."""
        h = self.embed(features)
        each = self.patches(h)
        highest, rows = each.max(0)
        asked = self.query(h)
        alike = asked @ asked[rows].T / math.sqrt(asked.shape[1])
        bags = alike.softmax(0).T @ self.value(h)
        return highest[None], self.bag(bags[None])[..., 0]

    def forward(self, features: Tensor, cells: Tensor) -> Logits:
        highest, bag = self.streams(features)
        return Logits((highest + bag) / 2)

    @staticmethod
    def loss(
        model: nn.Module, features: Tensor, cells: Tensor, target: Tensor
    ) -> tuple[Tensor, Tensor]:
        assert isinstance(model, Dsmil)
        both = model.streams(features)
        total = sum((F.cross_entropy(each, target[None]) for each in both), torch.zeros(()))
        return total / 2, (both[0] + both[1]) / 2


class Attention(nn.Module):
    """Layer norm and attention of several heads, a convolution of the values beside it."""

    def __init__(self, width: int, heads: int = 8, kernel: int = 33, dropout: float = 0.1) -> None:
        super().__init__()
        self.heads, self.norm = heads, nn.LayerNorm(width)
        self.three = nn.Linear(width, 3 * width, bias=False)
        self.out = nn.Sequential(nn.Linear(width, width), nn.Dropout(dropout))
        self.near = nn.Conv1d(heads, heads, kernel, padding=kernel // 2, groups=heads, bias=False)

    def forward(self, x: Tensor) -> Tensor:
        n, width = x.shape
        three = self.three(self.norm(x)).view(n, 3, self.heads, width // self.heads)
        query, key, value = three.permute(1, 2, 0, 3)
        found = F.scaled_dot_product_attention(query, key, value)
        # Along the order of the patches, per head.
        near = self.near(value.permute(2, 0, 1)).permute(1, 2, 0)
        result: Tensor = x + self.out((found + near).permute(1, 0, 2).reshape(n, width))
        return result


class TransMil(nn.Module):
    """A class token among the patches, which lie row by row in a square."""

    def __init__(self, width: int, n_classes: int) -> None:
        super().__init__()
        self.embed = nn.Sequential(nn.Linear(width, width), nn.ReLU())
        self.token = nn.Parameter(torch.randn(1, width))
        self.first, self.second = Attention(width), Attention(width)
        self.places = nn.ModuleList(
            nn.Conv2d(width, width, side, padding=side // 2, groups=width) for side in (7, 5, 3)
        )
        self.norm, self.head = nn.LayerNorm(width), nn.Linear(width, n_classes)

    def forward(self, features: Tensor, cells: Tensor) -> Logits:
        h = self.embed(features)
        side = math.ceil(math.sqrt(len(h)))
        # What the square has too much is filled with the first patches again.
        h = torch.cat([h, h[: side * side - len(h)]])
        x = self.first(torch.cat([self.token, h]))
        square = x[1:].T.reshape(1, -1, side, side)
        placed = square + sum(convolve(square) for convolve in self.places)
        x = self.second(torch.cat([x[:1], placed.flatten(2)[0].T]))
        return Logits(self.head(self.norm(x[:1])))
