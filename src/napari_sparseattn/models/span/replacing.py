"""SPAN-MIL on one slide many times, each time with a few patches replaced.

Computed anew is only what a replaced patch reaches. At level 0 these are the tokens
that share a window with it, and the global tokens, which read all patches. At level 1
the local attention changes in the windows of their parents alone; but what cells hear
from the global tokens, and so the feed-forward part, changes in all of them, and with
it level 2. That is about a third of the work; the numbers are those of a whole run.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

import torch
from torch import Tensor

from .lattice import WINDOW, Lattice, Layout, Level
from .mil import SpanMil, check_patches
from .refinement import Refinement, RowStream

__all__ = ["run_replaced"]

#: Numbers in the largest array of a batch of runs.
_BATCH = 2**21
_MOST_AT_ONCE = 64
_SLOTS = WINDOW * WINDOW


@torch.no_grad()
def run_replaced(
    model: SpanMil,
    features: Tensor,
    cells: Tensor,
    groups: Sequence[Tensor],
    replacement: Tensor,
    *,
    report: Callable[[int, int], None] = lambda done, total: None,
) -> Tensor:
    """Classify a slide once for each group of patches, with that group replaced.

    Parameters
    ----------
    model : SpanMil
        In evaluation mode.
    features : Tensor
        (N, F) floating.
    cells : Tensor
        (N, 2) integer (x, y) = (column, row).
    groups : sequence of Tensor
        (m,) int64 each: the rows that are replaced together in one run.
    replacement : Tensor
        (F,) what stands in their place. The cells stay.
    report : callable, optional
        Called with the runs done and their number; may raise to stop.

    Returns
    -------
    Tensor
        (groups, n_classes) logits, to 1e-5 those of as many whole runs.

    Raises
    ------
    ValueError
        If the model is in training mode, the shapes do not fit, or two patches
        share a cell.

    Notes
    -----
    Where a global token is the patches' maximum or mean, every cell of every
    level changes: such a model is run whole. Beside the features some six
    arrays of N by D numbers are kept.
    """
    if model.training:
        raise ValueError("the model is in training mode; call model.eval() first")
    check_patches(features.shape, cells, model.config.features)
    if model.tokens.needs_features:
        return _run_whole(model, features, cells, groups, replacement, report)
    runs = _Runs(model, features, cells, replacement)
    size = min(max(1, _BATCH // runs.size), _MOST_AT_ONCE)
    found = []
    for start in range(0, len(groups), size):
        found.append(runs.logits(groups[start : start + size]))
        report(min(start + size, len(groups)), len(groups))
    return torch.cat(found) if found else features.new_empty(0, model.config.n_classes)


def _run_whole(
    model: SpanMil,
    features: Tensor,
    cells: Tensor,
    groups: Sequence[Tensor],
    replacement: Tensor,
    report: Callable[[int, int], None],
) -> Tensor:
    changed, found = features.clone(), []
    for number, rows in enumerate(groups):
        changed[rows] = replacement.to(changed)
        found.append(model(changed, cells).logits)
        changed[rows] = features[rows]
        report(number + 1, len(groups))
    return torch.cat(found) if found else features.new_empty(0, model.config.n_classes)


class _Windows:
    """The windows of a level, and its local attention once more where tokens changed."""

    def __init__(self, layer: Refinement, x: Tensor, level: Level) -> None:
        self.layer, self.level = layer, level
        self.base = layer.project(x)
        self.regular = Layout.build(level.cells, 0)
        self.layouts = [self.regular]
        if level.shifted:
            self.layouts.append(Layout.build(level.cells, WINDOW // 2))

    def mix(self) -> Tensor:
        """(n, D) what local attention gives all tokens as they were."""
        whole = slice(0, len(self.level))
        ends = [0, len(self.level) - 1]
        return self.layer.attend(self.base, self.level.cells, whole, self.level.shifted, ends)

    def mix_changed(self, runs: int, changed: Tensor, x: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Attend once more in each run, where it makes a difference.

        Parameters
        ----------
        runs : int
            How many.
        changed : Tensor
            (m,) ``run * n + token`` of the tokens that changed.
        x : Tensor
            (m, D) what they are now.

        Returns
        -------
        seeing, x, mixed : Tensor
            (k,), (k, D), (k, D): those that see a changed one, as numbers
            like `changed`, and what local attention gives them.
        """
        count = len(self.level)
        near = self._members(self.layouts, changed)
        inner = self._members(self.layouts[:1], near)
        place = torch.full((runs * count,), -1, dtype=torch.int64, device=x.device)
        place[self._members(self.layouts[1:], near)] = 0
        place[inner] = -1
        spots = torch.cat([inner, place.add(1).nonzero()[:, 0]])
        place[spots] = torch.arange(len(spots), device=x.device)
        run, token = torch.div(spots, count, rounding_mode="floor"), spots % count
        given = self.base.of(token)
        for tensor, new in zip(given, self.layer.project(x), strict=True):
            tensor[place[changed]] = new
        # Each run's neighbourhood is a piece of one large level, far from the others.
        cells = self.level.cells[token]
        cells[:, 0] += run * (WINDOW * (self.level.size[0] // WINDOW + 2))
        own = slice(0, len(inner))
        ends = ((token[own] == 0) | (token[own] == count - 1)).nonzero()[:, 0].tolist()
        mixed = self.layer.attend(given, cells, own, self.level.shifted, ends)
        return near, given.x[place[near]], mixed[place[near]]

    def _members(self, layouts: Sequence[Layout], spots: Tensor) -> Tensor:
        """Return all in the windows of some, each once; ``run * n + token`` both."""
        count = len(self.level)
        found = [spots[:0]]
        for layout in layouts:
            number = len(layout.table)
            of = torch.div(layout.place[spots % count], _SLOTS, rounding_mode="floor")
            run = torch.div(spots, count, rounding_mode="floor")
            windows = (run * number + of).unique()
            run = torch.div(windows, number, rounding_mode="floor")
            windows = windows % number
            found.append((run[:, None] * count + layout.table[windows])[layout.present[windows]])
        members: Tensor = torch.cat(found).unique()
        return members


class _Runs:
    """What stays the same in all runs, and the runs."""

    def __init__(
        self, model: SpanMil, features: Tensor, cells: Tensor, replacement: Tensor
    ) -> None:
        self.model = model
        self.lattice = lattice = Lattice.build(cells.to(features.device))
        self.replacement = model.embedding(replacement[None])
        self.tokens = model.embedding.tokens(model.tokens.of(features))
        self.x = model.embedding.level(features, lattice)
        self.patches = _Windows(model.refinement(0), self.x, lattice.levels[0])
        self.refined, _, _ = model.refinement(0)(self.x.clone(), self.tokens, lattice.levels[0])
        self.coarse = model.condensation(0).join(self.refined, lattice.levels[0].children)
        self.coarse_windows = _Windows(model.refinement(1), self.coarse, lattice.levels[1])
        self.coarse_mixed = self.coarse_windows.mix()
        self.size = self.x.numel() + 4 * self.coarse.numel()

    def logits(self, groups: Sequence[Tensor]) -> Tensor:
        """Return (groups, n_classes)."""
        model, (fine, middle, _), runs = self.model, self.lattice.levels, len(groups)
        rows = torch.cat(list(groups)).to(self.x.device)
        run = torch.arange(runs).repeat_interleave(torch.tensor([len(each) for each in groups]))
        changed = run.to(rows) * len(fine) + self.lattice.rank[rows] + 1
        tokens = self._read_patches(runs, changed)
        x, parents = self._condense(runs, changed)
        seeing, _, mixed = self.coarse_windows.mix_changed(runs, parents, x.flatten(0, 1)[parents])
        mix = self.coarse_mixed.repeat(runs, 1)
        mix[seeing] = mixed

        def refine(x: Tensor, mixed: Tensor, tokens: Tensor) -> tuple[Tensor, Tensor]:
            stream = RowStream(model.refinement(1), tokens, middle)
            stream.read(x, 0)
            return stream.refine(x, mixed, [0, len(middle) - 1]), stream.finish()[0]

        first = model.condensation(0).tokens(tokens)
        x, second = torch.func.vmap(refine)(x, mix.view_as(x), first)
        x = model.condensation(1).join(x, middle.children)
        third = self._read(2, x, model.condensation(1).tokens(second))
        read = tokens[:, 0] + second[:, 0] + third[:, 0]
        logits: Tensor = model.head(model.norm(read))
        return logits

    def _read_patches(self, runs: int, changed: Tensor) -> Tensor:
        """(runs, G, D) the global tokens once they have read the patches of each run."""
        x = self.x.repeat(runs, 1)
        x[changed] = self.replacement
        return self._read(0, x.view(runs, *self.x.shape), self.tokens.expand(runs, -1, -1))

    def _read(self, index: int, x: Tensor, tokens: Tensor) -> Tensor:
        """Refine each run's (G, D) global tokens by its (n, D) cells of a level."""
        layer, level = self.model.refinement(index), self.lattice.levels[index]

        def read(x: Tensor, tokens: Tensor) -> Tensor:
            refined: Tensor = layer(x, tokens, level, local=False)[1]
            return refined

        found: Tensor = torch.func.vmap(read)(x, tokens)
        return found

    def _condense(self, runs: int, changed: Tensor) -> tuple[Tensor, Tensor]:
        """(runs, n', D) level 1 as it enters, and ``run * n' + cell`` of those that changed."""
        level = self.lattice.levels[0]
        seeing, x, mixed = self.patches.mix_changed(
            runs, changed, self.replacement.expand(len(changed), -1)
        )
        run, token = torch.div(seeing, len(level), rounding_mode="floor"), seeing % len(level)
        ends = ((token == 0) | (token == len(level) - 1)).nonzero()[:, 0].tolist()
        x = RowStream(self.model.refinement(0), self.tokens, level).refine(x, mixed, ends)
        above = (run * len(self.coarse) + level.parent[token]).unique()
        children = level.children[above % len(self.coarse)]
        there = children >= 0
        known = torch.full((runs * len(level),), -1, dtype=torch.int64, device=x.device)
        known[seeing] = torch.arange(len(seeing), device=x.device)
        run = torch.div(above, len(self.coarse), rounding_mode="floor")
        at = torch.where(there, known[run[:, None] * len(level) + children.clamp_min(0)], -1)
        laid = self.refined[children.clamp_min(0)]
        laid[at >= 0] = x[at[at >= 0]]
        local = torch.where(there, torch.arange(there.numel()).to(there.device).view_as(there), -1)
        coarse = self.coarse.repeat(runs, 1)
        coarse[above] = self.model.condensation(0).join(laid.flatten(0, 1), local)
        return coarse.view(runs, *self.coarse.shape), above
