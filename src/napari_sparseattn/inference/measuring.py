"""The measurement behind `faithfulness`: orders of removal, runs, curves."""

from __future__ import annotations

import dataclasses
import time
import zlib
from collections.abc import Sequence

import numpy as np
import numpy.typing as npt

from ..evidence.baselines import random_like, random_regions, rank
from ..evidence.faithfulness import Curves, Faithfulness, OrderScore
from ..evidence.measures import gini, spearman
from ..progress import Progress
from .reruns import Mask, OwnMap, Rerun, softmax

__all__ = ["CARD", "THOROUGH", "FaithfulnessSettings", "measure"]

#: Called with runs (or cells) done and their number; may raise to stop.


@dataclasses.dataclass(frozen=True)
class FaithfulnessSettings:
    """How thoroughly evidence is measured.

    Parameters
    ----------
    shares : tuple of float
        Shares of the content at which the curves are measured, each under
        0.5; 0, 0.5, 1, the selected share and the mirror images of all are
        added. The grid is symmetric, so that the expected gain of a random
        order is exactly 0.
    fills : tuple of str
        What removed content is replaced with.
    draws : int
        Random orders, of the grain of the first own map, of which the whole
        curves are measured.
    scattered : int
        Random orders of single units.
    trials : int
        Random orders of that grain that the removal of the selection is tested
        against, those of `draws` among them. It takes 39 to call anything
        better than random; 0 tests nothing.
    extras : bool
        Measure stability and the control with shuffled weights.
    seed : int
        Of everything drawn by lot; each image has a lot of its own.
    """

    shares: tuple[float, ...] = (0.02, 0.05, 0.3)
    fills: tuple[str, ...] = ("mean", "blur", "noise", "background")
    draws: int = 2
    scattered: int = 2
    trials: int = 39
    extras: bool = True
    seed: int = 0

    def __post_init__(self) -> None:
        if not self.fills or any(not 0 < share < 0.5 for share in self.shares):
            raise ValueError("shares must lie between 0 and 0.5, and at least one fill is needed")
        if self.draws < 1 or self.scattered < 0 or self.trials < 0:
            raise ValueError("at least one random order is needed")

    def counts(self, selected: float, n: int) -> npt.NDArray[np.int64]:
        """(S,) numbers of n units at which the curves are measured, ascending from 0 to n."""
        low = sorted({*self.shares, min(selected, 1 - selected)} - {0.0})
        half = [round(share * n) for share in low]
        return np.unique([0, *half, n // 2, n - n // 2, *(n - count for count in half), n])


#: For one clicked cell: under a second on a CPU, by ``benchmarks/evidence.py``.
CARD = FaithfulnessSettings(shares=(), fills=("mean", "background"), draws=2, scattered=0)
#: For tables of many cells.
THOROUGH = FaithfulnessSettings()


def measure(
    rerun: Rerun,
    class_names: Sequence[str],
    settings: FaithfulnessSettings,
    mask: npt.NDArray[np.floating] | Mask | None = None,
    progress: Progress | None = None,
) -> Faithfulness:
    """Measure anything that can be run with parts of it replaced.

    Parameters
    ----------
    rerun : Rerun
        The image and the model.
    class_names : sequence of str
        The C classes.
    settings : FaithfulnessSettings
        How thoroughly.
    mask : numpy.ndarray, optional
        (n,) which units, or what share of each, show the object.
    progress : callable, optional
        Called with "runs", those done and their number; may raise to stop.

    Returns
    -------
    Faithfulness
    """
    began, n = time.perf_counter(), len(rerun.cells)
    # A fill of nothing: the untouched image, run in the same way as all others.
    first = rerun.logits(np.zeros((1, n), bool), settings.fills[0], settings.seed, _silent)[0]
    index = int(first.argmax())
    own = rerun.relevance(index)
    shown = next(iter(own.values())).values
    # The same lots for every cell would make all of them right or wrong together.
    settings = dataclasses.replace(settings, seed=_own_seed(shown, settings.seed))
    selected = rerun.selection()
    orders, trials = _orders(rerun, own, settings)
    share = float(selected.mean())
    counts = settings.counts(share, n)
    at = int(np.argmin(np.abs(counts - selected.sum())))
    work = _Measurement(rerun, index, orders, trials, int(counts[at]), counts, settings, progress)
    curves = [work.curves(fill) for fill in settings.fills]
    drops = np.mean([before - without for _, before, without in curves], axis=0)
    scores = {
        name: _score([each[name] for each, _, _ in curves], settings, counts / n, at)
        for name in orders
    }
    stability, control = {}, float("nan")
    if settings.extras:
        stability = rerun.stability(settings.seed)
        control = spearman(shown, rerun.control(index, settings.seed))
    return Faithfulness(
        label=class_names[index],
        probability=float(softmax(first, rerun.temperature)[index]),
        selected=share,
        own=tuple(own),
        orders=scores,
        sparseness=gini(shown),
        stability=stability,
        mass_in_mask=_mass(selected, mask),
        mask_share=float("nan") if mask is None else float(np.mean(mask)),
        control=control,
        runs=work.done,
        seconds=time.perf_counter() - began,
        random_drops=drops,
    )


def _own_seed(shown: npt.NDArray[np.float32], seed: int) -> int:
    """A seed for the lots of one image: always the same for it, and another for each."""
    return zlib.crc32(np.ascontiguousarray(shown).tobytes(), seed) % 2**31


def _mass(selected: Mask, mask: npt.NDArray[np.floating] | Mask | None) -> float:
    """Share of the selection that shows the object."""
    if mask is None or not selected.any():
        return float("nan")
    return float(mask[selected].mean())


def _orders(
    rerun: Rerun, own: dict[str, OwnMap], settings: FaithfulnessSettings
) -> tuple[dict[str, list[npt.NDArray[np.int64]]], list[npt.NDArray[np.int64]]]:
    """Orders of the n units by name, several where drawn by lot; and those to test against."""
    seed, lots = settings.seed, np.random.default_rng(settings.seed)
    shown = next(iter(own.values())).values
    orders = {
        name: [rank(each.values if each.scattered else rerun.scatter(each.values), seed)]
        for name, each in own.items()
    }
    number = max(settings.draws, settings.trials)
    maps = random_like(shown, rerun.shape, rerun.cells, int(lots.integers(2**31)), number)
    drawn = [rank(values, seed) for values in rerun.scatter(maps)]
    orders["random"] = drawn[: settings.draws]
    if settings.scattered:
        seeds = lots.integers(2**31, size=settings.scattered)
        single = (random_regions(rerun.shape, int(each), 0.0) for each in seeds)
        orders["random scattered"] = [rank(values.ravel()[rerun.cells], seed) for values in single]
    for name, values in rerun.baselines().items():
        orders[name] = [rank(rerun.scatter(values), seed)]
    return orders, drawn[: settings.trials]


class _Measurement:
    """All runs of one image, fill by fill."""

    def __init__(
        self,
        rerun: Rerun,
        index: int,
        orders: dict[str, list[npt.NDArray[np.int64]]],
        trials: list[npt.NDArray[np.int64]],
        tried: int,
        counts: npt.NDArray[np.int64],
        settings: FaithfulnessSettings,
        progress: Progress | None,
    ) -> None:
        self.rerun, self.index, self.orders, self.counts = rerun, index, orders, counts
        self.trials, self.tried = trials, tried
        self.settings, self.progress, self.done = settings, progress, 0
        n_orders = sum(len(drawn) for drawn in orders.values())
        self.per_fill = 2 + 2 * (len(counts) - 2) * n_orders + len(trials)
        self.total = self.per_fill * len(settings.fills)

    def _report(self, runs: int) -> None:
        self.done += runs
        if self.progress is not None:
            self.progress("runs", self.done, self.total)

    def _probabilities(self, removed: Mask, fill: str) -> npt.NDArray[np.float64]:
        """Of the class, for masks (M, n); orders share masks, which run once."""
        _, rows, back = np.unique(
            np.packbits(removed, axis=1), axis=0, return_index=True, return_inverse=True
        )
        self.total -= len(removed) - len(rows)
        logits = self.rerun.logits(removed[rows], fill, self.settings.seed, self._report)
        found: npt.NDArray[np.float64] = softmax(logits, self.rerun.temperature)[:, self.index]
        return found[back.ravel()]

    def curves(
        self, fill: str
    ) -> tuple[dict[str, npt.NDArray[np.float64]], float, npt.NDArray[np.float64]]:
        """Per order (draws, 2, S): deletion and insertion at each count.

        Also the probability of the untouched image, and (D,) that without as
        much as was selected, removed in each of the orders to test against.
        """
        n, inner = len(self.rerun.cells), self.counts[1:-1]
        masks = [np.zeros(n, bool), np.ones(n, bool)]
        for drawn in self.orders.values():
            for order in drawn:
                for count in inner:
                    gone = np.zeros(n, bool)
                    gone[order[:count]] = True
                    kept = np.ones(n, bool)
                    kept[order[:count]] = False
                    masks += [gone, kept]
        for order in self.trials:
            gone = np.zeros(n, bool)
            gone[order[: self.tried]] = True
            masks.append(gone)
        p = self._probabilities(np.stack(masks), fill)
        found, start = {}, 2
        for name, drawn in self.orders.items():
            stop = start + 2 * len(inner) * len(drawn)
            middle = p[start:stop].reshape(len(drawn), len(inner), 2).transpose(0, 2, 1)
            ends = np.array([[p[0], p[1]], [p[1], p[0]]])
            first, last = (
                np.broadcast_to(ends[None, :, i : i + 1], (len(drawn), 2, 1)) for i in (0, 1)
            )
            found[name] = np.concatenate([first, middle, last], axis=2)
            start = stop
        return found, float(p[0]), p[start:]


def _score(
    by_fill: list[npt.NDArray[np.float64]],
    settings: FaithfulnessSettings,
    shares: npt.NDArray[np.float64],
    at: int,
) -> OrderScore:
    """Gather what an order did with each fill, (draws, 2, S); `at` is the selection's share."""
    mean = np.mean([curves.mean(axis=0) for curves in by_fill], axis=0)
    gains = {
        fill: np.array([Curves(shares, *draw).gain for draw in curves])
        for fill, curves in zip(settings.fills, by_fill, strict=True)
    }
    deletion, insertion = mean
    drops = (float(deletion[0] - deletion[at]), float(deletion[0] - insertion[at]))
    return OrderScore(Curves(shares, deletion, insertion), gains, *drops)


def _silent(runs: int) -> None:
    """Report to nobody."""
