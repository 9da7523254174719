"""What several raters said of the same thing, and the one class that is learned from."""

from __future__ import annotations

import dataclasses
from collections import Counter, defaultdict
from collections.abc import Iterable, Sequence
from typing import Literal

import numpy as np
import numpy.typing as npt

from .annotations import Annotation, Kind, new_annotation

__all__ = ["NOBODY", "Thing", "gather_things", "one_class_each", "usual_diameter"]

#: How a rater who gave no name is called.
NOBODY = "no name"
#: Cells are one if they lie within this share of their diameter, or within so many pixels.
_SAME_CELL, _LEAST_REACH = 0.4, 2.0
#: Diameter in pixels where nobody knows any.
_UNKNOWN_DIAMETER = 20.0
#: Regions are one if what they share is at least this part of what they cover together.
_SAME_REGION = 0.5
#: Regions are compared on a grid with so many points along the longer side.
_POINTS = 256

Rule = Literal["settled", "agreed", "majority", "latest"]


@dataclasses.dataclass(frozen=True, eq=False)
class Thing:
    """A cell, a region or an image as a whole, and what was said of it.

    Parameters
    ----------
    opinions : tuple of Annotation
        One of each rater, in the order of their names.
    settled : Annotation or None
        The decision between them, if there is one.
    """

    opinions: tuple[Annotation, ...]
    settled: Annotation | None = None

    @property
    def first(self) -> Annotation:
        """One of its annotations."""
        return self.opinions[0] if self.opinions else self._decision

    @property
    def kind(self) -> Kind:
        """What it is."""
        return self.first.kind

    @property
    def plane(self) -> tuple[int, int]:
        """Frame and slice."""
        return self.first.t, self.first.z

    @property
    def disputed(self) -> bool:
        """Whether raters gave it different classes, settled or not."""
        return len({item.label for item in self.opinions}) > 1

    @property
    def centre(self) -> tuple[float, float] | None:
        """Mean (y, x) of its annotations; None for an image as a whole."""
        places = [item.centre for item in self.opinions or (self.first,)]
        known = np.array([place for place in places if place is not None]).reshape(-1, 2)
        if not len(known):
            return None
        y, x = known.mean(axis=0).tolist()
        return y, x

    @property
    def diameter(self) -> float | None:
        """Mean of its diameters in pixels, where one is known."""
        known = [item.diameter_px for item in self.opinions if item.diameter_px is not None]
        return float(np.mean(known)) if known else None

    @property
    def rule(self) -> Rule:
        """What gives its class: a decision, all, most, or who said it last."""
        if self.settled is not None:
            return "settled"
        said = Counter(item.label for item in self.opinions).most_common(2)
        if len(said) == 1:
            return "agreed"
        return "majority" if said[0][1] > said[1][1] else "latest"

    @property
    def chosen(self) -> Annotation:
        """The annotation whose class counts.

        The decision; without one that of most raters; where as many say one thing as another,
        the latest of theirs.
        """
        if self.settled is not None:
            found = self.settled
        else:
            said = Counter(item.label for item in self.opinions)
            most = max(said.values())
            ahead = [item for item in self.opinions if said[item.label] == most]
            found = max(ahead, key=lambda item: (item.time, item.id))
        if found.kind == "cell" and found.diameter_px is None and self.diameter is not None:
            return dataclasses.replace(found, diameter_px=self.diameter)
        return found

    def settle(self, label: str, rater: str) -> Annotation:
        """Return the decision that its class is `label`; a later one takes the place of this.

        Parameters
        ----------
        label : str
            The class.
        rater : str
            Who decides.
        """
        like = max(self.opinions, key=lambda item: item.time)
        made = new_annotation(
            self.kind,
            label,
            rater=rater,
            position=self.centre if self.kind == "cell" else None,
            diameter_px=self.diameter,
            polygon=like.polygon,
            t=like.t,
            z=like.z,
            settles=tuple(item.id for item in self.opinions),
        )
        return made if self.settled is None else dataclasses.replace(made, id=self.settled.id)

    @property
    def _decision(self) -> Annotation:
        assert self.settled is not None
        return self.settled


def usual_diameter(items: Iterable[Annotation]) -> float:
    """Return the median diameter of cells in pixels, or a guess where none is known."""
    known = [item.diameter_px for item in items if item.diameter_px is not None]
    return float(np.median(known)) if known else _UNKNOWN_DIAMETER


def gather_things(items: Iterable[Annotation], distance: float | None = None) -> list[Thing]:
    """Find out which annotations of an image are of the same thing.

    Annotations of one rater are of different things. Cells of different raters are one where
    they lie within 0.4 of the larger diameter, the nearest first; regions where they share at
    least half of what they cover together; classes of an image as a whole where they are of
    the same plane.

    Parameters
    ----------
    items : iterable of Annotation
        Of one image.
    distance : float, optional
        Within how many pixels cells are one.

    Returns
    -------
    list of Thing
        In the order in which they were annotated first.
    """
    every = list(items)
    order = {item.id: number for number, item in enumerate(every)}
    by_kind: dict[tuple[str, int, int], dict[str, list[Annotation]]] = defaultdict(
        lambda: defaultdict(list)
    )
    decisions = [item for item in every if item.settles]
    for item in every:
        if not item.settles:
            by_kind[item.kind, item.t, item.z][item.rater].append(item)
    usual = usual_diameter(every)
    groups: list[list[Annotation]] = []
    for (kind, _, _), raters in by_kind.items():
        found: list[list[Annotation]] = []
        for rater in sorted(raters):
            _join(found, kind, raters[rater], distance, usual)
        groups += found
    things = _settle(groups, decisions, distance, usual)
    return sorted(things, key=lambda thing: order[thing.first.id])


def one_class_each(
    items: Iterable[Annotation], distance: float | None = None
) -> tuple[Annotation, ...]:
    """Return one annotation of each thing: what is learned from.

    The class is that of the decision; without one, that of most raters; where as many say one
    thing as another, the latest. What one rater alone annotated stays as it is.

    Parameters
    ----------
    items : iterable of Annotation
        Of one image.
    distance : float, optional
        See `gather_things`.
    """
    every = tuple(items)
    if len({item.rater for item in every}) < 2 and not any(item.settles for item in every):
        return every
    return tuple(thing.chosen for thing in gather_things(every, distance))


def _join(
    groups: list[list[Annotation]],
    kind: str,
    items: Sequence[Annotation],
    distance: float | None,
    usual: float,
) -> None:
    """Add a rater's annotations to those of other raters that they are one with."""
    pairs: list[tuple[float, int, int]]
    if kind == "image":
        # A rater's latest word on an image is the word.
        items = [max(items, key=lambda item: item.time)]
        pairs = [(0.0, 0, 0)] if groups else []
    elif kind == "cell":
        pairs = _near(groups, items, distance, usual)
    else:
        pairs = _overlapping(groups, items)
    joined: dict[int, int] = {}
    taken: set[int] = set()
    for _, group, number in sorted(pairs):
        if group not in taken and number not in joined:
            joined[number] = group
            taken.add(group)
    for number, item in enumerate(items):
        if number in joined:
            groups[joined[number]].append(item)
        else:
            groups.append([item])


def _near(
    groups: Sequence[Sequence[Annotation]],
    items: Sequence[Annotation],
    distance: float | None,
    usual: float,
) -> list[tuple[float, int, int]]:
    if not groups:
        return []
    from scipy.spatial import cKDTree

    places = np.array([np.array([x.position for x in group]).mean(axis=0) for group in groups])
    sizes = np.array([max(item.diameter_px or usual for item in group) for group in groups])
    own = np.array([item.position for item in items])
    own_sizes = np.array([item.diameter_px or usual for item in items])
    most = max(float(sizes.max()), float(own_sizes.max()))
    reach = _reach(np.array(most), distance)
    found = cKDTree(own).sparse_distance_matrix(
        cKDTree(places), float(reach), output_type="ndarray"
    )
    numbers, others, away = found["i"], found["j"], found["v"]
    near = away <= _reach(np.maximum(own_sizes[numbers], sizes[others]), distance)
    return [
        (float(d), int(group), int(number))
        for d, group, number in zip(away[near], others[near], numbers[near], strict=True)
    ]


def _reach(diameters: npt.NDArray[np.float64], distance: float | None) -> npt.NDArray[np.float64]:
    if distance is not None:
        return np.full(diameters.shape, distance, np.float64)
    return np.maximum(_LEAST_REACH, _SAME_CELL * diameters)


def _overlapping(
    groups: Sequence[Sequence[Annotation]], items: Sequence[Annotation]
) -> list[tuple[float, int, int]]:
    boxes = [(item.outline.min(axis=0), item.outline.max(axis=0)) for item in items]
    pairs = []
    for number, group in enumerate(groups):
        outline = group[0].outline
        low, high = outline.min(axis=0), outline.max(axis=0)
        for index, (own_low, own_high) in enumerate(boxes):
            if (own_low <= high).all() and (low <= own_high).all():
                share = shared_part(outline, items[index].outline)
                if share >= _SAME_REGION:
                    pairs.append((-share, number, index))
    return pairs


def shared_part(first: npt.NDArray[np.float64], second: npt.NDArray[np.float64]) -> float:
    """Return what two outlines (N, 2) share, as a part of what they cover together."""
    corners = np.concatenate([first, second])
    low, high = corners.min(axis=0), corners.max(axis=0)
    scale = _POINTS / max(float((high - low).max()), 1e-9)
    drawn = [_draw((outline - low) * scale) for outline in (first, second)]
    together = np.count_nonzero(drawn[0] | drawn[1])
    return float(np.count_nonzero(drawn[0] & drawn[1]) / together) if together else 0.0


def _draw(outline: npt.NDArray[np.float64]) -> npt.NDArray[np.bool_]:
    from PIL import Image, ImageDraw

    canvas = Image.new("1", (_POINTS + 1, _POINTS + 1))
    ImageDraw.Draw(canvas).polygon([(x, y) for y, x in outline.tolist()], fill=1)
    return np.asarray(canvas, dtype=bool)


def _settle(
    groups: Sequence[Sequence[Annotation]],
    decisions: Sequence[Annotation],
    distance: float | None,
    usual: float,
) -> list[Thing]:
    """Give each thing the latest decision on it: by its opinions' ids, or else by its place."""
    by_id = {item.id: number for number, group in enumerate(groups) for item in group}
    settled: dict[int, Annotation] = {}
    alone: list[Thing] = []
    for decision in sorted(decisions, key=lambda item: item.time):
        known = [by_id[id_] for id_ in decision.settles if id_ in by_id]
        if not known:
            known = _at(groups, decision, distance, usual)
        if known:
            settled[known[0]] = decision
        else:
            alone.append(Thing((), decision))
    things = [Thing(tuple(group), settled.get(number)) for number, group in enumerate(groups)]
    return things + alone


def _at(
    groups: Sequence[Sequence[Annotation]],
    decision: Annotation,
    distance: float | None,
    usual: float,
) -> list[int]:
    """Return the group that a decision lies on, if there is one."""
    there = [
        number
        for number, group in enumerate(groups)
        if (group[0].kind, group[0].t, group[0].z) == (decision.kind, decision.t, decision.z)
    ]
    if not there:
        return []
    if decision.kind == "image":
        return there
    own = [groups[number] for number in there]
    pairs = (
        _near(own, [decision], distance, usual)
        if decision.kind == "cell"
        else _overlapping(own, [decision])
    )
    return [there[min(pairs)[1]]] if pairs else []
