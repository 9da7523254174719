"""The features of a GeoJSON file, one after the other: a file may be larger than memory."""

from __future__ import annotations

import contextlib
import errno
import gzip
import io
import json
import zipfile
import zlib
from collections.abc import Iterator
from pathlib import Path, PurePosixPath
from typing import IO, Any

__all__ = ["FeatureError", "iter_features", "open_texts"]

#: Of a file once it is unpacked.
_MOST_BYTES = 4 * 2**30
#: Of one feature, or of all else that stands beside the list of features.
_LONGEST = 64 * 2**20
_CHUNK = 2**20
_MOST_MEMBERS = 1000
_SPACE = " \t\r\n"
_DECODER = json.JSONDecoder()


class FeatureError(ValueError):
    """A file that cannot be read as GeoJSON; the message says why, without naming the file."""


@contextlib.contextmanager
def open_texts(path: Path) -> Iterator[Iterator[tuple[str, IO[str]]]]:
    """Give the texts in a file, with their names: one, or those of a zip.

    Parameters
    ----------
    path : pathlib.Path
        A ``.geojson`` or ``.json``, the same with ``.gz``, or a ``.zip`` of them. What is
        packed is told by how the file begins.

    Raises
    ------
    FeatureError
        If it is packed in another way, damaged, or unpacks to more than 4 GiB.
    OSError
        If it cannot be read.
    """
    with path.open("rb") as file:
        start = file.read(4)
        file.seek(0)
        try:
            if start[:2] == b"\x1f\x8b":
                with gzip.open(file) as unpacked, _as_text(unpacked) as text:
                    yield iter([(_plain_name(path.name), text)])
            elif start == b"PK\x03\x04":
                with zipfile.ZipFile(file) as packed:
                    yield _iter_members(packed)
            else:
                with _as_text(file) as text:
                    yield iter([(_plain_name(path.name), text)])
        except (zipfile.BadZipFile, gzip.BadGzipFile, EOFError, zlib.error) as error:
            raise FeatureError(f"it is damaged ({error}); make it anew") from error
        except (NotImplementedError, RuntimeError) as error:
            # A password, or a way to pack that Python does not know.
            raise FeatureError(f"it cannot be unpacked ({error}); unpack it first") from error
        except OSError as error:
            # A zip that says that a part lies before its beginning.
            if error.errno != errno.EINVAL:
                raise
            raise FeatureError("it is damaged; make it anew") from error
        except UnicodeDecodeError as error:
            raise FeatureError("it is no text in UTF-8") from error


def iter_features(file: IO[str]) -> Iterator[tuple[str, Any]]:
    """Give what stands in a GeoJSON text: its features, and its other members.

    Parameters
    ----------
    file : text file
        A ``FeatureCollection``, a list of features, or one feature.

    Yields
    ------
    name : str
        ``"features"``, once for each of them, or the name of another member.
    value : Any
        The feature, or the member's value.

    Raises
    ------
    FeatureError
        If it is no such text.
    """
    text = _Text(file)
    first = text.peek()
    if first == "[":
        yield from (("features", one) for one in text.iter_list())
    elif first == "{":
        yield from _iter_members_of(text)
    else:
        raise FeatureError("it holds neither a FeatureCollection nor a list of features")
    if text.peek():
        raise FeatureError("something follows the end of its features")


def _iter_members_of(text: _Text) -> Iterator[tuple[str, Any]]:
    """Give the members of an object; a lone feature as the one feature that it is."""
    whole: dict[str, Any] = {}
    text.take("{")
    while text.peek() != "}":
        name = text.value()
        if not isinstance(name, str):
            raise FeatureError("it is no JSON: a name was expected")
        text.take(":")
        if name == "features" and text.peek() == "[":
            yield from ((name, one) for one in text.iter_list())
        else:
            whole[name] = text.value()
            yield name, whole[name]
        if text.peek() != "}":
            text.take(",")
    text.take("}")
    if whole.get("type") == "Feature":
        yield "features", whole


class _Text:
    """JSON that is read piece by piece."""

    def __init__(self, file: IO[str]) -> None:
        self._file = file
        self._buffer, self._at, self._ended, self._read = "", 0, False, 0

    def peek(self) -> str:
        """Return the next character that is no space; empty at the end."""
        while True:
            while self._at < len(self._buffer) and self._buffer[self._at] in _SPACE:
                self._at += 1
            if self._at < len(self._buffer):
                return self._buffer[self._at]
            if not self._more(_CHUNK):
                return ""

    def take(self, wanted: str) -> None:
        """Go past a character that must come next."""
        found = self.peek()
        if found != wanted:
            said = f"'{found}'" if found else "its end"
            raise FeatureError(f"it is no JSON: {said} stands where '{wanted}' should")
        self._at += 1

    def value(self) -> Any:
        """Return the value that comes next."""
        self.peek()
        wanted = _CHUNK
        while True:
            try:
                value, end = _DECODER.raw_decode(self._buffer, self._at)
            except RecursionError as error:
                raise FeatureError("it is nested too deeply") from error
            except ValueError as error:
                if len(self._buffer) - self._at > _LONGEST:
                    raise FeatureError(
                        f"a part of it is longer than {_LONGEST >> 20} MiB, or it is no JSON"
                    ) from error
                if not self._more(wanted):
                    raise FeatureError(f"it is no JSON, or it is cut off ({error})") from error
                # As much again each time, or a long value would be read over and over.
                wanted *= 2
                continue
            # A number may go on in what has not been read yet.
            if end < len(self._buffer) or self._ended or not self._more(wanted):
                self._at = end
                return value

    def iter_list(self) -> Iterator[Any]:
        """Give the values of the list that comes next."""
        self.take("[")
        while self.peek() != "]":
            yield self.value()
            if self.peek() != "]":
                self.take(",")
        self.take("]")

    def _more(self, size: int) -> bool:
        part = self._file.read(size)
        self._read += len(part)
        if self._read > _MOST_BYTES:
            raise FeatureError(f"it is over {_MOST_BYTES >> 30} GiB; split it")
        if not part:
            self._ended = True
            return False
        self._buffer, self._at = self._buffer[self._at :] + part, 0
        return True


def _iter_members(packed: zipfile.ZipFile) -> Iterator[tuple[str, IO[str]]]:
    # Folders that macOS adds hold no features, whatever their names end with.
    found = [
        info
        for info in packed.infolist()
        if info.filename.lower().endswith((".geojson", ".json"))
        and not info.filename.startswith("__MACOSX")
    ]
    if not found:
        raise FeatureError("there is no .geojson in it")
    # No more than what is declared is unpacked.
    if len(found) > _MOST_MEMBERS or sum(info.file_size for info in found) > _MOST_BYTES:
        raise FeatureError(
            f"it unpacks to over {_MOST_MEMBERS} files or {_MOST_BYTES >> 30} GiB; split it"
        )
    for info in found:
        with packed.open(info) as member, _as_text(member) as text:
            yield PurePosixPath(info.filename).name, text


def _as_text(file: IO[bytes] | gzip.GzipFile) -> IO[str]:
    return io.TextIOWrapper(file, encoding="utf-8-sig")


def _plain_name(name: str) -> str:
    return name[:-3] if name.lower().endswith(".gz") else name
