"""What becomes of annotations that come from elsewhere, beside those that are there."""

from __future__ import annotations

import dataclasses
import time
from collections.abc import Iterable, Mapping

import numpy as np

from ...card import readable_name
from .annotations import Annotation, class_colours
from .raters import shared_part

__all__ = ["Arrivals", "class_key", "plan_arrivals", "spell_classes"]

#: What lies as near is in the same place: QuPath rounds to hundredths of a pixel.
_SAME_PLACE = 0.02
#: Outlines that share as much are the same.
_SAME_OUTLINE = 0.99
#: Seconds.
_SAME_TIME = 1e-3
#: Of what is to lie on an image, at most this share may lie beside it.
_MOST_OUTSIDE = 0.5


@dataclasses.dataclass(frozen=True)
class Arrivals:
    """What is to be kept of annotations that come from elsewhere.

    Attributes
    ----------
    new : tuple of Annotation
        Those that are not there yet.
    changed : tuple of Annotation
        Those that are there, as they have been changed elsewhere.
    there : int
        Those that are there already.
    kept : int
        Those that have been changed here since, which stay as they are here.
    outside : int
        Those that lie beside the image, and are left out.
    """

    new: tuple[Annotation, ...] = ()
    changed: tuple[Annotation, ...] = ()
    there: int = 0
    kept: int = 0
    outside: int = 0

    @property
    def notes(self) -> list[str]:
        """What is not taken and why, in plain sentences."""
        said = []
        if self.kept:
            said.append(f"{self.kept} have been changed here since they were exported, and stay.")
        if self.outside:
            said.append(f"{self.outside} lie outside of the image and are left out.")
        return said


def plan_arrivals(
    there: Iterable[Annotation],
    arriving: Iterable[Annotation],
    shape: tuple[int, int],
    name: str,
    rater: str = "",
) -> Arrivals:
    """Say what becomes of annotations that come from elsewhere.

    One that was exported from here is known again by its id: it replaces the one that is here
    if that is still as it was. Others are known again by their place, class and rater.

    Parameters
    ----------
    there, arriving : iterable of Annotation
        Those of the image, and those that come.
    shape : (int, int)
        Height and width of the image in pixels; (0, 0) where nobody knows.
    name : str
        Of the image.
    rater : str, optional
        By whom those are that say nothing of it.

    Raises
    ------
    ValueError
        If most of them lie beside the image: they are of another one.
    """
    items = [
        item if item.rater or not rater else dataclasses.replace(item, rater=rater)
        for item in arriving
    ]
    on_image = [item for item in items if _lies_on(item, shape)]
    if len(items) - len(on_image) > _MOST_OUTSIDE * len(items):
        raise ValueError(
            f"{len(items) - len(on_image)} of {len(items)} objects lie outside of '{name}' "
            f"({shape[1]} × {shape[0]} pixels): the file is of another image, or of the same one "
            "at another size. Import it with the image that it was made on."
        )
    by_id = {item.id: item for item in there}
    known = {_what(item) for item in by_id.values()}
    new: dict[str, Annotation] = {}
    changed: list[Annotation] = []
    same = kept = 0
    for item in on_image:
        before = by_id.get(item.id)
        if before is None:
            if _what(item) in known:
                same += 1
            else:
                known.add(_what(item))
                new[item.id] = item
        elif _is_same(before, item):
            same += 1
        elif abs(before.time - item.time) <= _SAME_TIME:
            changed.append(_changed(before, item, rater))
        else:
            kept += 1
    return Arrivals(tuple(new.values()), tuple(changed), same, kept, len(items) - len(on_image))


def class_key(name: str) -> str:
    """Return what tells classes apart: names that look alike are one."""
    return readable_name(name).casefold()


def spell_classes(
    items: Iterable[Annotation], known: Mapping[str, str], colours: Mapping[str, str]
) -> tuple[list[Annotation], dict[str, str]]:
    """Give annotations the classes that are there where only the spelling differs.

    Parameters
    ----------
    items : iterable of Annotation
        Those that come.
    known : mapping of str to str
        Names and colours ``#rrggbb`` of the classes that are there.
    colours : mapping of str to str
        Colours that come with the others.

    Returns
    -------
    items : list of Annotation
        With the classes as they are spelt here.
    classes : dict of str to str
        Those that are there, then new ones.
    """
    spelling: dict[str, str] = {}
    for name in known:
        spelling.setdefault(class_key(name), name)
    made = [
        dataclasses.replace(item, label=spelling.setdefault(class_key(item.label), item.label))
        for item in items
    ]
    return made, class_colours(known, (item.label for item in made), colours)


def _lies_on(item: Annotation, shape: tuple[int, int]) -> bool:
    centre = item.centre
    if centre is None or not all(shape):
        return True
    return all(-1 <= place <= side for place, side in zip(centre, shape, strict=True))


def _what(item: Annotation) -> tuple[object, ...]:
    place = None if item.centre is None else tuple(round(value, 1) for value in item.centre)
    return item.kind, item.label, place, item.t, item.z, item.rater


def _is_same(before: Annotation, item: Annotation) -> bool:
    first = (before.kind, before.label, before.t, before.z)
    if first != (item.kind, item.label, item.t, item.z):
        return False
    if before.kind == "region":
        outlines = before.outline, item.outline
        if outlines[0].shape == outlines[1].shape and np.allclose(*outlines, atol=_SAME_PLACE):
            return True
        return shared_part(*outlines) >= _SAME_OUTLINE
    first_size, size = before.diameter_px, item.diameter_px
    if first_size is not None and size is not None and abs(first_size - size) > 2 * _SAME_PLACE:
        return False
    place, to = before.centre, item.centre
    return place is None or to is None or bool(np.allclose(place, to, atol=_SAME_PLACE))


def _changed(before: Annotation, item: Annotation, rater: str) -> Annotation:
    """Return what is here as it has been changed elsewhere."""
    made = dataclasses.replace(
        before,
        kind=item.kind,
        label=item.label,
        position=item.position,
        polygon=item.polygon,
        diameter_px=item.diameter_px or before.diameter_px,
        t=item.t,
        z=item.z,
    )
    if item.label == before.label:
        return made
    return dataclasses.replace(made, rater=rater, time=time.time(), origin="imported")
