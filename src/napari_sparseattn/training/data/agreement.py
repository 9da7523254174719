"""How far raters agree beyond chance: Cohen's kappa of two, Fleiss' kappa of more."""

from __future__ import annotations

import dataclasses
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from itertools import combinations
from typing import Any

import numpy as np
import numpy.typing as npt

from ...metrics import wilson
from .annotations import Annotation, ImageRecord, Kind
from .raters import NOBODY, Thing, gather_things

__all__ = ["Agreement", "Kappa", "compare_raters", "kappa_of_many", "kappa_of_two"]

_Z = 1.959964
_KINDS: tuple[Kind, ...] = ("cell", "region", "image")

Things = Sequence[tuple[ImageRecord, Thing]]


@dataclasses.dataclass(frozen=True)
class Kappa:
    """Agreement beyond chance.

    Parameters
    ----------
    value : float or None
        1 where all agree, 0 where no more agree than by chance; None where it is not defined:
        nothing was rated twice, or all raters used one class only.
    low, high : float or None
        95 % interval.
    n : int
        Things that were rated by at least two.
    agreed : float or None
        Share of pairs of opinions on the same thing that are equal.
    """

    value: float | None
    low: float | None
    high: float | None
    n: int
    agreed: float | None


@dataclasses.dataclass(frozen=True, eq=False)
class Agreement:
    """How far raters agree on the things of one kind.

    Parameters
    ----------
    kind : {"cell", "region", "image"}
        What was rated.
    raters : tuple of str
        Their names.
    overall : Kappa
        Cohen's of two raters, Fleiss' of more.
    classes : mapping of str to Kappa
        Of each class against all others.
    pairs : mapping of (str, str) to Kappa
        Cohen's of each two raters.
    alone : mapping of str to int
        Things that only this rater annotated.
    disputed, settled : int
        Things on which raters differ, and those of them that have been decided.
    things : tuple of (ImageRecord, Thing)
        Everything that was rated.
    """

    kind: Kind
    raters: tuple[str, ...]
    overall: Kappa
    classes: Mapping[str, Kappa]
    pairs: Mapping[tuple[str, str], Kappa]
    alone: Mapping[str, int]
    disputed: int
    settled: int
    things: tuple[tuple[ImageRecord, Thing], ...]

    def to_dict(self) -> dict[str, Any]:
        """Return plain values, for JSON."""
        return {
            "kind": self.kind,
            "raters": list(map(shown_rater, self.raters)),
            "method": "Cohen" if len(self.raters) == 2 else "Fleiss",
            "overall": dataclasses.asdict(self.overall),
            "classes": {name: dataclasses.asdict(kappa) for name, kappa in self.classes.items()},
            "pairs": [
                {"raters": list(map(shown_rater, pair)), **dataclasses.asdict(kappa)}
                for pair, kappa in self.pairs.items()
            ],
            "alone": {shown_rater(rater): n for rater, n in self.alone.items()},
            "disputed": self.disputed,
            "settled": self.settled,
        }


def shown_rater(name: str) -> str:
    """Return a rater's name as it is shown."""
    return name or NOBODY


def compare_raters(
    images: Iterable[tuple[ImageRecord, Iterable[Annotation]]], distance: float | None = None
) -> list[Agreement]:
    """Say how far raters agree, for cells, regions and whole images apart.

    Decisions are no opinions: they change nothing here.

    Parameters
    ----------
    images : iterable of (ImageRecord, iterable of Annotation)
        As `Project.annotations` gives them.
    distance : float, optional
        Within how many pixels cells are one; see `gather_things`.

    Returns
    -------
    list of Agreement
        Of each kind that two raters or more have annotated.
    """
    found: dict[str, list[tuple[ImageRecord, Thing]]] = {kind: [] for kind in _KINDS}
    for record, items in images:
        for thing in gather_things(items, distance):
            if thing.opinions:
                found[thing.kind].append((record, thing))
    made = (_agreement(kind, found[kind]) for kind in _KINDS)
    return [each for each in made if len(each.raters) > 1]


def _agreement(kind: Kind, things: Things) -> Agreement:
    raters = tuple(sorted({item.rater for _, thing in things for item in thing.opinions}))
    both = [thing for _, thing in things if len(thing.opinions) > 1]
    labels = sorted({item.label for thing in both for item in thing.opinions})
    pairs = {pair: kappa_of_two(_table(both, pair, labels)) for pair in combinations(raters, 2)}
    if len(raters) == 2:
        table = _table(both, (raters[0], raters[1]), labels)
        overall = kappa_of_two(table)
        parts = [kappa_of_two(_against_others(table, i)) for i in range(len(labels))]
    else:
        counts = _counts(both, labels)
        overall = kappa_of_many(counts)
        parts = [
            kappa_of_many(np.stack([column, counts.sum(axis=1) - column], axis=1))
            for column in counts.T
        ]
    single = Counter(thing.opinions[0].rater for _, thing in things if len(thing.opinions) == 1)
    disputed = [thing for thing in both if thing.disputed]
    return Agreement(
        kind,
        raters,
        overall,
        dict(zip(labels, parts, strict=True)),
        pairs if len(raters) > 2 else {},
        {rater: single[rater] for rater in raters},
        len(disputed),
        sum(thing.settled is not None for thing in disputed),
        tuple(things),
    )


def _table(
    things: Sequence[Thing], pair: tuple[str, str], labels: Sequence[str]
) -> npt.NDArray[np.int64]:
    """Count (C, C) what two raters said of the things that both rated."""
    place = {label: number for number, label in enumerate(labels)}
    table = np.zeros((len(labels), len(labels)), np.int64)
    for thing in things:
        said = {item.rater: item.label for item in thing.opinions}
        if pair[0] in said and pair[1] in said:
            table[place[said[pair[0]]], place[said[pair[1]]]] += 1
    return table


def _counts(things: Sequence[Thing], labels: Sequence[str]) -> npt.NDArray[np.int64]:
    place = {label: number for number, label in enumerate(labels)}
    counts = np.zeros((len(things), len(labels)), np.int64)
    for row, thing in enumerate(things):
        for item in thing.opinions:
            counts[row, place[item.label]] += 1
    return counts


def _against_others(table: npt.NDArray[np.int64], index: int) -> npt.NDArray[np.int64]:
    """Return the (2, 2) table of one class and all others."""
    both = table[index, index]
    first, second = table[index].sum() - both, table[:, index].sum() - both
    return np.array([[both, first], [second, table.sum() - both - first - second]])


def kappa_of_two(table: npt.NDArray[np.int64]) -> Kappa:
    """Return Cohen's kappa, with the interval of Fleiss, Cohen and Everitt (1969).

    Where all agree, that interval has no width; its lower end is then taken from the Wilson
    interval of the share that agrees.

    Parameters
    ----------
    table : numpy.ndarray
        (C, C) int: how many things the first rater gave class i and the second class j.
    """
    n = int(table.sum())
    if n == 0:
        return Kappa(None, None, None, 0, None)
    p = table / n
    rows, columns = p.sum(axis=1), p.sum(axis=0)
    agreed, chance = float(np.trace(p)), float(rows @ columns)
    if chance >= 1 - 1e-12:
        return Kappa(None, None, None, n, agreed)
    kappa = (agreed - chance) / (1 - chance)
    same = np.eye(len(p), dtype=bool)
    # Its equation for the variance where kappa is not 0, term by term.
    first = float((np.diag(p) * (1 - (rows + columns) * (1 - kappa)) ** 2).sum())
    across = (columns[:, None] + rows[None, :]) ** 2
    second = (1 - kappa) ** 2 * float((p * across)[~same].sum())
    third = (kappa - chance * (1 - kappa)) ** 2
    variance = max(0.0, (first + second - third) / (n * (1 - chance) ** 2))
    return _with_interval(kappa, variance, n, agreed, chance)


def kappa_of_many(counts: npt.NDArray[np.int64]) -> Kappa:
    """Return Fleiss' kappa, also where not all rated everything.

    Things that one rater alone rated are left out. The variance is that of Gwet (2014), by
    linearisation over things; with as many opinions on each thing the value is that of
    Fleiss (1971).

    Parameters
    ----------
    counts : numpy.ndarray
        (N, C) int: how many raters gave thing i class j.
    """
    counts = counts[counts.sum(axis=1) > 1]
    n = len(counts)
    if n == 0:
        return Kappa(None, None, None, 0, None)
    raters = counts.sum(axis=1)
    agreed_each = (counts * (counts - 1)).sum(axis=1) / (raters * (raters - 1))
    shares = counts / raters[:, None]
    mean = shares.mean(axis=0)
    agreed, chance = float(agreed_each.mean()), float(mean @ mean)
    if chance >= 1 - 1e-12:
        return Kappa(None, None, None, n, agreed)
    kappa = (agreed - chance) / (1 - chance)
    each = (agreed_each - chance) / (1 - chance)
    each = each - 2 * (1 - kappa) * (shares @ mean - chance) / (1 - chance)
    variance = float(((each - kappa) ** 2).sum()) / (n * (n - 1)) if n > 1 else 0.0
    return _with_interval(kappa, variance, n, agreed, chance)


def _with_interval(kappa: float, variance: float, n: int, agreed: float, chance: float) -> Kappa:
    half = _Z * float(np.sqrt(variance))
    low, high = max(-1.0, kappa - half), min(1.0, kappa + half)
    if variance <= 1e-12:
        share_low, share_high = wilson(round(agreed * n), n)
        low = max(-1.0, (share_low - chance) / (1 - chance))
        high = min(1.0, (share_high - chance) / (1 - chance))
    return Kappa(kappa, low, high, n, agreed)
