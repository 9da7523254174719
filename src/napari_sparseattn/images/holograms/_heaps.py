"""The heaps of an HDF5 file, in which its texts are, looked at before libhdf5 walks along them.

libhdf5 (2.0 and before) goes round for ever in a heap one of whose objects claims a size that
wraps: one changed byte in a file of features, found by ``scripts/fuzz.py``.
"""

from __future__ import annotations

import functools
import mmap
import struct
from pathlib import Path

from ..errors import ImageError

__all__ = ["check_heaps"]

_SIGN, _HEAD, _OBJECT = b"GCOL", struct.Struct("<4s4sQ"), struct.Struct("<HHIQ")
#: Larger files are searched at both ends, where what is written first and last lies.
_SEARCHED = 64 * 2**20
_PAGE = mmap.ALLOCATIONGRANULARITY


def check_heaps(path: Path) -> None:
    """Refuse a file with a heap that does not end.

    Files of over 64 MiB are looked at in their first and last 32 MiB.

    Raises
    ------
    ImageError
        Saying so, and what to do.
    OSError
        If the file cannot be read.
    """
    state = path.stat()
    if not _are_sound(path, state.st_size, state.st_mtime_ns, state.st_ino):
        raise ImageError(
            f"{path.name} is damaged: a heap of its texts does not end; copy or export it again"
        )


@functools.lru_cache(maxsize=16)
def _are_sound(path: Path, size: int, changed: int, number: int) -> bool:
    """Look at the heaps of one state of a file."""
    half = _SEARCHED // 2
    parts = [(0, size)] if size <= _SEARCHED else [(0, half), ((size - half) // _PAGE * _PAGE, 0)]
    with path.open("rb") as file:
        for start, length in parts:
            if size == 0:
                continue
            length = length or size - start
            with mmap.mmap(file.fileno(), length, access=mmap.ACCESS_READ, offset=start) as part:
                if not all(_ends(part, at) for at in _places(part)):
                    return False
    return True


def _places(part: mmap.mmap) -> list[int]:
    found, at = [], part.find(_SIGN)
    while at >= 0:
        found.append(at)
        at = part.find(_SIGN, at + 1)
    return found


def _ends(part: mmap.mmap, at: int) -> bool:
    """Tell whether the objects of a heap lead to its end; true of what is no heap after all."""
    if at + _HEAD.size > len(part):
        return True
    _, version, size = _HEAD.unpack_from(part, at)
    end = at + size
    if version != b"\x01\0\0\0" or end > len(part):
        return True  # pixels that look so, a heap that is cut off here, or what libhdf5 refuses
    at += _HEAD.size
    while at + _OBJECT.size <= end:
        index, _, _, taken = _OBJECT.unpack_from(part, at)
        # Object 0 is what is free, whose size counts its own head.
        need = taken if index == 0 else _OBJECT.size + -(-taken // 8) * 8
        if not 0 < need <= end - at:
            return False
        at += need
    return True
