"""Damage to files, drawn by Hypothesis: bytes that are changed, and texts whose values are.

An input is a few files by their names. Whatever is JSON (also within a model's header, and in the
lines of a journal, whose checksums are made anew) is changed as JSON, so that a reader gets
beyond its first check.
"""

from __future__ import annotations

import dataclasses
import hashlib
import io
import json
import re
import struct
from collections.abc import Mapping, Sequence
from typing import Any

from hypothesis import strategies as st

__all__ = ["Edit", "Seed", "apply_edits", "edits", "hot_places"]

Files = Mapping[str, bytes]
_BYTES = ("byte", "bit", "number", "zero", "cut", "repeat", "insert", "end", "other")
_TEXTS = ("value", "value", "value", "drop", "again", "many", "wrap", "swap")
_JSON = (".json", ".geojson", ".zattrs", ".zarray", ".zgroup", ".zmetadata")
_CARD = "napari_sparseattn_card"
# JSON as the standard library does not write it.
_DEEP, _HUGE = "@deep@", "@huge@"
_RAW = {_DEEP: "[" * 5000 + "]" * 5000, _HUGE: "9" * 5000}
_ODD: tuple[Any, ...] = (
    *(None, True, False, 0, -1, 1, 2, 0.5, 1e308, -1e308, 1e-300),
    *(float("nan"), float("inf"), float("-inf"), 2**31, 2**63, 10**30, 10**400, _HUGE),
    *("", "x", "x" * 10_000, "\ud800", "\0", "../../x", "/x", "<b>", "=1+1", "é", _DEEP),
    *([], {}, [[]], [1, 2], ["x"], {"a": 1}, [None], [[[0, 0]]]),
)
_NUMBERS = (0, 1, 2, 3, 7, 8, 16, 255, 256, 257, 4096, 2**15, 2**16 - 1, 2**16, 2**24)
_NUMBERS += (2**27, 2**31 - 1, 2**31, 2**32 - 1, 2**40, 2**63 - 1, 2**63, 2**64 - 1)
_MOST_INSERTED = 2**16
_TIFF = (b"II*\0", b"MM\0*", b"II+\0", b"MM\0+")
_SIGNS = re.compile(
    rb"\x89HDF|TREE|SNOD|HEAP|OHDR|OCHK|FRHP|FSHD|GCOL|BTHD|BTLF|IHDR|IDAT|iCCP|PLTE|NUMPY|acsp"
    rb"|\xff[\xc0-\xfe]|\xff[\x4f-\x5d]"
)


@dataclasses.dataclass(frozen=True)
class Edit:
    """One damage; what its numbers mean depends on its kind."""

    kind: str
    file: int
    place: int
    size: int
    value: int


@dataclasses.dataclass(frozen=True)
class Seed:
    """An input to damage, and where in its files a change is likely to matter."""

    files: Files
    hot: Mapping[str, Sequence[int]]
    sound: bool = True

    @classmethod
    def of(cls, files: Files) -> Seed:
        """Make one of files."""
        return cls(files, {name: hot_places(name, data) for name, data in files.items()})


def edits(most: int = 6) -> st.SearchStrategy[list[Edit]]:
    """Draw up to so many damages."""
    number = st.integers(0, 2**32 - 1)
    one = st.builds(
        Edit, st.sampled_from(_BYTES + _TEXTS), st.integers(0, 255), number, number, number
    )
    return st.lists(one, min_size=1, max_size=most)


def apply_edits(seed: Seed, damage: Sequence[Edit], others: Sequence[Files]) -> dict[str, bytes]:
    """Return the files of a seed with damage, pieces of other inputs among them."""
    files = dict(seed.files)
    for edit in damage:
        name = sorted(files)[edit.file % len(files)]
        text = _edit_text(name, files[name], edit) if edit.kind in _TEXTS else None
        if text is None:
            text = _edit_bytes(files[name], edit, seed.hot.get(name, ()), others)
        files[name] = text
    return files


def hot_places(name: str, data: bytes) -> list[int]:
    """Return where in a file something stands that a reader believes."""
    if data[:4] in _TIFF:
        return _tiff_places(data)
    if name.endswith(".safetensors"):
        return list(range(0, min(len(data), 400), 7))
    return [found.start() for found in _SIGNS.finditer(data)][:4000]


def _tiff_places(data: bytes) -> list[int]:
    import tifffile

    places = [4]
    with tifffile.TiffFile(io.BytesIO(data)) as tif:
        pages = [
            *tif.pages,
            *(p for series in tif.series for level in series.levels for p in level),
        ]
        for page in pages:
            if not isinstance(page, tifffile.TiffPage):
                continue
            places.append(page.offset)
            for tag in page.tags:
                places += [tag.offset + 2, tag.offset + 4, tag.offset + 8, tag.offset + 8]
                places += [tag.valueoffset, tag.valueoffset + 4]
            for offset, count in list(zip(page.dataoffsets, page.databytecounts, strict=True))[:4]:
                piece = data[offset : offset + min(count, 2000)]
                places += [offset + found.start() for found in _SIGNS.finditer(piece)][:60]
                places += [offset, offset + 4, offset + count - 2]
    return [place for place in places if 0 <= place < len(data)]


def _edit_bytes(data: bytes, edit: Edit, hot: Sequence[int], others: Sequence[Files]) -> bytes:
    if not data:
        return bytes([edit.value & 255])
    at = edit.place // 2 % len(data)
    if hot and edit.place % 2:
        at = min(len(data) - 1, hot[edit.place // 2 % len(hot)] + edit.size % 12)
    size = 1 + edit.size // 12 % min(len(data), 4096 if edit.size % 3 else 64)
    found, kind = bytearray(data), edit.kind
    if kind == "bit":
        found[at] ^= 1 << edit.value % 8
    elif kind == "number":
        width = (1, 2, 4, 8)[edit.size % 4]
        number = _NUMBERS[edit.value // 4 % len(_NUMBERS)] & (2 ** (8 * width) - 1)
        order = "little" if edit.value % 2 else "big"
        found[at : at + width] = number.to_bytes(width, order)[: len(data) - at]
    elif kind == "zero":
        found[at : at + size] = bytes(min(size, len(data) - at))
    elif kind == "cut":
        del found[at : at + size]
    elif kind == "repeat":
        found[at:at] = found[at : at + size] * (1 + edit.value % 8)
    elif kind == "insert":
        piece = edit.value.to_bytes(4, "big") * (1 + edit.size % 64)
        found[at:at] = piece[:_MOST_INSERTED]
    elif kind == "end":
        del found[at:]
    elif kind == "other" and others:
        files = others[edit.value % len(others)]
        other = files[sorted(files)[edit.file % len(files)]]
        start = edit.value // 7 % max(1, len(other))
        found[at : at + size] = other[start : start + size]
    else:
        found[at] = edit.value & 255
    return bytes(found)


def _edit_text(name: str, data: bytes, edit: Edit) -> bytes | None:
    """Return a text with one value changed, or None where the file is none."""
    try:
        if name.endswith(".jsonl"):
            return _edit_journal(data, edit)
        if name.endswith(".safetensors"):
            return _edit_header(data, edit)
        if name.endswith(".csv"):
            return _edit_table(data, edit)
        if name.endswith(_JSON):
            return _edit_json(data.decode(), edit).encode("utf-8", "surrogatepass")
    except (ValueError, RecursionError, KeyError, TypeError, AttributeError, struct.error):
        return None  # another edit came before it
    return None


def _edit_json(text: str, edit: Edit) -> str:
    """Change one value of a JSON text."""
    root = {"": json.loads(text)}
    nodes = list(_nodes(root, 20_000))
    parent, key = nodes[edit.place % len(nodes)]
    odd = _ODD[edit.value % len(_ODD)]
    value = parent[key]
    if edit.kind == "drop" and parent is not root:
        del parent[key]
    elif edit.kind == "again" and isinstance(parent, dict):
        parent[f"{key}x"] = parent.pop(key)
    elif edit.kind == "many":
        parent[key] = value * 300 if isinstance(value, list | str) else [value] * 300
    elif edit.kind == "wrap":
        parent[key] = [value] if edit.value % 2 else {"name": value}
    elif edit.kind == "swap":
        there, which = nodes[edit.size % len(nodes)]
        parent[key] = json.loads(json.dumps(there[which]))
    else:
        parent[key] = odd
    written = json.dumps(root[""])
    for mark, raw in _RAW.items():
        written = written.replace(f'"{mark}"', raw)
    return written


def _nodes(value: Any, most: int) -> list[tuple[Any, Any]]:
    found: list[tuple[Any, Any]] = []
    waiting = [value]
    while waiting and len(found) < most:
        here = waiting.pop()
        keys = list(here) if isinstance(here, dict) else range(len(here))
        for key in keys:
            found.append((here, key))
            if isinstance(here[key], dict | list):
                waiting.append(here[key])
    return found


def _edit_journal(data: bytes, edit: Edit) -> bytes:
    lines = data.split(b"\n")
    number = edit.size % max(1, len(lines) - 1)
    body = lines[number].partition(b" ")[2]
    changed = _edit_json(body.decode(), edit).encode("utf-8", "surrogatepass")
    lines[number] = hashlib.sha256(changed).hexdigest()[:16].encode() + b" " + changed
    return b"\n".join(lines)


def _edit_header(data: bytes, edit: Edit) -> bytes:
    (length,) = struct.unpack("<Q", data[:8])
    header, tensors = data[8 : 8 + length].decode(), data[8 + length :]
    if edit.size % 4:
        plain = json.loads(header)
        plain["__metadata__"][_CARD] = _edit_json(plain["__metadata__"][_CARD], edit)
        header = json.dumps(plain)
    else:
        header = _edit_json(header, edit)
    written = header.encode("utf-8", "surrogatepass")
    written += b" " * (-len(written) % 8)
    return struct.pack("<Q", len(written)) + written + tensors


def _edit_table(data: bytes, edit: Edit) -> bytes:
    rows = [line.split(",") for line in data.decode().split("\n")]
    row = rows[edit.place % len(rows)]
    odd = _ODD[edit.value % len(_ODD)]
    row[edit.size % len(row)] = _RAW.get(odd, str(odd)) if isinstance(odd, str) else str(odd)
    if edit.kind == "many":
        rows += [row] * 300
    elif edit.kind == "drop":
        row.pop()
    return "\n".join(map(",".join, rows)).encode("utf-8", "surrogatepass")
