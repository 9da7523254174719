"""Slides of several channels or more than 8 bits: one channel, its values, and who takes them."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from ._channels import Channel, primaries
from ._ledger import TileKey
from ._tiles import Tile
from .pyramid import Pyramid

__all__ = ["Channel", "ChannelPyramid", "estimate_limits", "primaries", "refuse_channels"]

#: A coarsest level up to this size is looked at whole, a larger one at so many places.
_MOST_PIXELS = 2**20
_PLACES, _SIDE = 4, 256
#: Shares of a channel's pixels that are shown as black, and that are not shown as full colour.
_LOW, _HIGH = 0.01, 0.999
_MOST_NAMED = 4


class ChannelPyramid(Pyramid):
    """One channel of a slide; the file is shared, and what is read of it has its own ledger.

    Parameters
    ----------
    whole : Pyramid
        The slide.
    channel : int
        Which of its channels.
    """

    def __init__(self, whole: Pyramid, channel: int) -> None:
        super().__init__(
            whole.levels,
            channels=1,
            name=whole.name,
            path=whole.path,
            pixel_size=whole.pixel_size,
            dtype=whole.dtype,
            notes=whole.notes,
            background=(0,),
            channel_info=whole.channel_info[channel : channel + 1],
        )
        self.whole, self.channel = whole, channel

    def close(self) -> None:
        """Close the file, for the other channels too."""
        super().close()
        self.whole.close()

    def _fetch(self, level: int, tiles: Sequence[TileKey]) -> Sequence[Tile]:
        return self.whole.fetch_channel(level, tiles, self.channel)


def estimate_limits(pyramid: Pyramid) -> tuple[float, float]:
    """Return the values of a channel between which it is to be shown.

    Those that the file states, else the 1 % and 99.9 % quantiles of the coarsest
    level, or of 16 places in a large one. What is looked at is not entered in
    the ledger.

    Parameters
    ----------
    pyramid : Pyramid
        Of one channel.

    Raises
    ------
    ImageError
        As `Pyramid.read_region`.
    """
    stated = pyramid.channel_info[0].limits if pyramid.channel_info else None
    if stated is not None:
        return stated
    twin, last = pyramid.with_own_ledger(), pyramid.levels[-1]
    number = len(pyramid.levels) - 1
    if last.n_pixels <= _MOST_PIXELS:
        places = [(0, 0, last.height, last.width)]
    else:
        corners = (
            np.linspace(0, max(side - _SIDE, 0), _PLACES).astype(int)
            for side in (last.height, last.width)
        )
        rows, columns = corners
        size = min(_SIDE, last.height), min(_SIDE, last.width)
        places = [(int(y), int(x), *size) for y in rows for x in columns]
    regions = [twin.read_region(y, x, number, h, w) for y, x, h, w in places]
    seen = np.concatenate([region.pixels[region.valid].ravel() for region in regions])
    if not seen.size:
        return 0.0, float(np.iinfo(pyramid.dtype).max)
    low, high = (float(value) for value in np.quantile(seen, (_LOW, _HIGH)))
    return (low, high) if high > low else (min(low, high - 1), high + 1)


def refuse_channels(pyramid: Pyramid) -> None:
    """Refuse a slide that is neither colours nor grey of 8 bits: no model was trained on it.

    Raises
    ------
    ValueError
        Saying what it holds, and what to do.
    """
    if not pyramid.channel_info:
        return
    bits, count = 8 * pyramid.dtype.itemsize, len(pyramid.channel_info)
    names = [channel.name for channel in pyramid.channel_info[:_MOST_NAMED]]
    more = ", …" if count > _MOST_NAMED else ""
    what = f"{count} channels" if count > 1 else "one channel"
    raise ValueError(
        f"{pyramid.name} holds {what} of {bits} bits ({', '.join(names)}{more}). The models of "
        "slides were trained on stained tissue in colour, of 8 bits; nothing is converted unasked. "
        "Choose a stained slide, or export this one as 8-bit RGB if it is one"
    )
