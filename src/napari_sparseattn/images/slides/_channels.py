"""Channels that are no colours: their names, colours and values, as files describe them."""

from __future__ import annotations

import dataclasses
import re
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

__all__ = [
    "MOST_CHANNELS",
    "Channel",
    "are_plain",
    "ome_channels",
    "omero_channels",
    "plain_channels",
    "primaries",
]

#: More are taken for another axis than channels.
MOST_CHANNELS = 128
_COLOURS = 3
#: Names of channels that say no more than their number, or that they are colours.
_PLAIN = re.compile(r"(?:channel)?[\s:_-]*[\d\s:_-]*|r|g|b|red|green|blue", re.IGNORECASE)
_WHITE = (255, 255, 255)


@dataclasses.dataclass(frozen=True)
class Channel:
    """One channel of a slide that is no colour image of 8 bits.

    Parameters
    ----------
    name : str
        Such as a dye; ``"channel 1"`` where the file does not say.
    colour : (int, int, int), optional
        Red, green and blue, 0 to 255, in which the file shows it.
    limits : (float, float), optional
        Values that the file shows as black and as full colour.
    """

    name: str
    colour: tuple[int, int, int] | None = None
    limits: tuple[float, float] | None = None


def plain_channels(count: int) -> tuple[Channel, ...]:
    """Return channels of which nothing is known but their number."""
    return tuple(Channel(f"channel {n + 1}") for n in range(count))


def primaries() -> tuple[Channel, ...]:
    """Return red, green and blue, for colours of more than 8 bits."""
    names = ("red", "green", "blue")
    return tuple(
        Channel(name, (255 * (n == 0), 255 * (n == 1), 255 * (n == 2)))
        for n, name in enumerate(names)
    )


def are_plain(names: Sequence[str]) -> bool:
    """Tell whether no channel is named as a dye is."""
    return all(_PLAIN.fullmatch(name.strip()) for name in names)


def ome_channels(pixels: Mapping[str, Any], count: int) -> tuple[Channel, ...]:
    """Return channels as the ``Pixels`` of an OME description has them.

    Parameters
    ----------
    pixels : mapping
        The element as `tifffile.xml2dict` gives it.
    count : int
        How many there are in the file.
    """
    held = pixels.get("Channel", ())
    every = [one for one in (held if isinstance(held, list) else [held]) if isinstance(one, dict)]
    found = []
    for n, plain in enumerate(plain_channels(count)):
        one = every[n] if n < len(every) else {}
        name = " ".join(str(one.get("Name", "")).split())[:80] or plain.name
        found.append(Channel(name, _ome_colour(one.get("Color"))))
    return _without_white(found)


def omero_channels(described: object, count: int, dtype: np.dtype[Any]) -> tuple[Channel, ...]:
    """Return channels as the ``omero`` part of an OME-Zarr has them.

    Parameters
    ----------
    described : object
        That part, or anything else where there is none.
    count : int
        How many there are in the file.
    dtype : numpy.dtype
        Of the pixels: limits that are all of its range say nothing.
    """
    held = described.get("channels", ()) if isinstance(described, dict) else ()
    every = held if isinstance(held, list) else []
    found = []
    for n, plain in enumerate(plain_channels(count)):
        one = every[n] if n < len(every) and isinstance(every[n], dict) else {}
        name = " ".join(str(one.get("label", "")).split())[:80] or plain.name
        colour = _hex_colour(one.get("color"))
        found.append(Channel(name, colour, _window(one.get("window"), dtype)))
    return _without_white(found)


def _ome_colour(stated: object) -> tuple[int, int, int] | None:
    """Return a colour from OME's signed RGBA."""
    if not isinstance(stated, int):
        return None
    value = stated & 0xFFFFFFFF
    return value >> 24, value >> 16 & 255, value >> 8 & 255


def _hex_colour(stated: object) -> tuple[int, int, int] | None:
    try:
        found = bytes.fromhex(str(stated or "").lstrip("#"))
    except ValueError:
        return None
    return (found[0], found[1], found[2]) if len(found) >= _COLOURS else None


def _window(stated: object, dtype: np.dtype[Any]) -> tuple[float, float] | None:
    if not isinstance(stated, dict):
        return None
    low, high = stated.get("start"), stated.get("end")
    if not isinstance(low, int | float) or not isinstance(high, int | float):
        return None
    most = float(np.iinfo(dtype).max)
    whole = low <= 0 and high >= most
    return (float(low), float(high)) if low < high <= most and not whole else None


def _without_white(found: Sequence[Channel]) -> tuple[Channel, ...]:
    """Return channels without colours where all are white or black, which OME writes for none."""
    coloured = [one for one in found if one.colour not in (None, _WHITE, (0, 0, 0))]
    if coloured:
        return tuple(found)
    return tuple(dataclasses.replace(one, colour=None) for one in found)
