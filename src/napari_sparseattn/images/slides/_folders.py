"""Folders of OME-Zarr, on this computer or on another one: their files by name."""

from __future__ import annotations

import abc
import json
import threading
from collections.abc import Iterator, MutableMapping, Sequence
from pathlib import Path
from typing import Any

from ...addresses import Address
from ..errors import ImageError
from ._remote import ByteCache, Loader, NetworkSettings, Traffic

__all__ = ["Folder", "LocalFolder", "RemoteFolder"]

_METADATA = ("zarr.json", ".zarray", ".zattrs", ".zgroup")
_MOST_METADATA = 16 * 2**20
# Names of files that are not there, of which so many are remembered.
_MOST_ABSENT = 2**16


class Folder(abc.ABC):
    """A folder of OME-Zarr: the whole, one of its images, or one level.

    Parameters
    ----------
    name : str
        For messages.
    """

    path: Path | None = None
    address: Address | None = None

    def __init__(self, name: str) -> None:
        self.name = name

    @property
    def traffic(self) -> Traffic | None:
        """What was loaded from another machine; None of a folder on this one."""
        return None

    @abc.abstractmethod
    def below(self, name: str) -> Folder:
        """Return a folder in this one."""

    @abc.abstractmethod
    def is_there(self) -> bool:
        """Tell whether the folder can be reached."""

    @abc.abstractmethod
    def size(self, key: str) -> int | None:
        """Return the bytes of a file; None where it is not there."""

    def length(self, key: str) -> int | None:
        """Return the bytes of a file of which not all will be read; None where it is not there."""
        return self.size(key)

    @abc.abstractmethod
    def read(self, key: str) -> bytes | None:
        """Return the content of a file; None where it is not there.

        Raises
        ------
        OSError, ImageError
            If it cannot be read.
        """

    @abc.abstractmethod
    def read_part(self, key: str, start: int, stop: int) -> bytes:
        """Return a part of a file that is there."""

    @abc.abstractmethod
    def store(self) -> Any:
        """Return the folder as zarr reads it."""

    def bring(self, keys: Sequence[str]) -> None:
        """Load files that will be read, where that takes long."""
        return

    def close(self) -> None:
        """Let go of the folder."""
        return

    def json(self, key: str) -> dict[str, Any] | None:
        """Return the metadata in a file; None where it is not there.

        Raises
        ------
        ImageError
            If it is no metadata.
        """
        size = self.size(key)
        if size is None:
            return None
        if size > _MOST_METADATA:
            raise ImageError(f"{self.name}/{key} is too large to be metadata")
        try:
            held = json.loads(self.read(key) or b"")
        except ImageError:
            raise
        except (OSError, ValueError, RecursionError) as error:
            raise ImageError(
                f"{self.name}/{key} cannot be read ({error}); copy the folder again"
            ) from error
        if not isinstance(held, dict):
            raise ImageError(f"{self.name}/{key} holds no metadata; write it again")
        return held


class LocalFolder(Folder):
    """A folder of this computer."""

    path: Path

    def __init__(self, path: Path) -> None:
        super().__init__(path.name)
        self.path = path

    def below(self, name: str) -> LocalFolder:
        """Return a folder in this one."""
        return LocalFolder(self.path / name)

    def is_there(self) -> bool:
        """Tell whether the folder can be reached."""
        return self.path.is_dir()

    def size(self, key: str) -> int | None:
        """Return the bytes of a file; None where it is not there."""
        try:
            return (self.path / key).stat().st_size
        except OSError:
            return None

    def read(self, key: str) -> bytes | None:
        """Return the content of a file; None where it is not there."""
        try:
            return (self.path / key).read_bytes()
        except FileNotFoundError:
            return None

    def read_part(self, key: str, start: int, stop: int) -> bytes:
        """Return a part of a file that is there."""
        with (self.path / key).open("rb") as file:
            file.seek(start)
            return file.read(stop - start)

    def store(self) -> Any:
        """Return the folder as zarr reads it."""
        import zarr.storage

        return zarr.storage.LocalStore(self.path, read_only=True)


class RemoteFolder(Folder):
    """A folder on another machine, of which single files are loaded.

    Parameters
    ----------
    address : Address
        Where it is.
    network : NetworkSettings, optional
        How it is read.
    whole : RemoteFolder, optional
        The folder that this one is in: loading and memory are shared with it.
    """

    address: Address

    def __init__(
        self,
        address: Address,
        network: NetworkSettings | None = None,
        whole: RemoteFolder | None = None,
    ) -> None:
        super().__init__(address.name)
        self.address, self.settings = address, network or NetworkSettings()
        self._loader: Loader = Loader(address, self.settings) if whole is None else whole._loader
        self._cache: ByteCache = (
            ByteCache(self.settings.cache_bytes) if whole is None else whole._cache
        )
        self._absent: set[str] = set() if whole is None else whole._absent
        self._lengths: dict[str, int] = {} if whole is None else whole._lengths
        self._lock: threading.Lock = threading.Lock() if whole is None else whole._lock

    @property
    def traffic(self) -> Traffic | None:
        """What was loaded from another machine."""
        return self._loader.traffic()

    def below(self, name: str) -> RemoteFolder:
        """Return a folder in this one."""
        return RemoteFolder(self.address.below(*name.split("/")), self.settings, self)

    def is_there(self) -> bool:
        """Tell whether it is still open; that it is gone shows when a file is loaded."""
        self._loader.check_open()
        return True

    def size(self, key: str) -> int | None:
        """Return the bytes of a file, which is loaded; None where it is not there."""
        found = self.read(key)
        return None if found is None else len(found)

    def read(self, key: str) -> bytes | None:
        """Return the content of a file; None where it is not there."""
        self.bring([key])
        place = self.address.below(*key.split("/"))
        if place.url in self._absent:
            return None
        found = self._cache.get(place.url)
        if found is None:  # larger than what is kept
            (part,) = self._loader.load_there([place])
            found = b"" if part is None else part.data
        return found

    def bring(self, keys: Sequence[str]) -> None:
        """Load files side by side."""
        places = [self.address.below(*key.split("/")) for key in keys if ".." not in key]
        wanted = [
            place
            for place in places
            if place.url not in self._absent and self._cache.get(place.url) is None
        ]
        if not wanted:
            self._loader.check_open()
            return
        for place, part in zip(wanted, self._loader.load_there(wanted), strict=True):
            if part is not None:
                self._cache.put(place.url, part.data)
                continue
            with self._lock:
                if len(self._absent) >= _MOST_ABSENT:
                    self._absent.clear()
                self._absent.add(place.url)

    def length(self, key: str) -> int | None:
        """Return the bytes of a file, which is not loaded; None where it is not there."""
        place = self.address.below(*key.split("/"))
        if place.url in self._absent:
            return None
        if place.url not in self._lengths:
            (part,) = self._loader.load_there([place], stop=1)
            with self._lock:
                if part is None:
                    self._absent.add(place.url)
                    return None
                self._lengths[place.url] = part.size or 0
        return self._lengths[place.url]

    def is_lengthy(self, key: str) -> bool:
        """Tell whether a file was asked for its length alone, and so is read in parts."""
        return self.address.below(*key.split("/")).url in self._lengths

    def read_part(self, key: str, start: int, stop: int) -> bytes:
        """Return a part of a file that is there."""
        place = self.address.below(*key.split("/"))
        name = place.url, start, stop
        found = self._cache.get(name)
        if found is None:
            found = self._loader.load([(place, start, stop)])[0].data
            self._cache.put(name, found)
        return found

    def store(self) -> Any:
        """Return the folder as zarr reads it."""
        import zarr.storage

        return zarr.storage.MemoryStore(_Files(self), read_only=True)

    def close(self) -> None:
        """Let whoever waits stop, and forget what was loaded."""
        self._loader.close()
        self._cache.clear()


class _Files(MutableMapping[str, Any]):
    """The files of a folder by name, for zarr's store in memory."""

    def __init__(self, folder: RemoteFolder) -> None:
        self._folder = folder

    def __getitem__(self, key: str) -> Any:
        # Metadata is read whole; of all else the array knows what is loaded already.
        if key in _METADATA or not self._folder.is_lengthy(key):
            found = self._folder.read(key)
            if found is None:
                raise KeyError(key)
            return _buffer(found)
        if self._folder.length(key) is None:
            raise KeyError(key)
        return _Lazy(self._folder, key)

    def __contains__(self, key: object) -> bool:
        return isinstance(key, str) and self._folder.length(key) is not None

    def __setitem__(self, key: str, value: Any) -> None:
        raise TypeError("it is read only")

    def __delitem__(self, key: str) -> None:
        raise TypeError("it is read only")

    def __iter__(self) -> Iterator[str]:
        return iter(())

    def __len__(self) -> int:
        return 0


class _Lazy:
    """A file of which parts are loaded as they are sliced: a shard."""

    def __init__(self, folder: RemoteFolder, key: str) -> None:
        self._folder, self._key = folder, key

    def __len__(self) -> int:
        return self._folder.length(self._key) or 0

    def __getitem__(self, part: slice) -> Any:
        start, stop, _ = part.indices(len(self))
        return _buffer(self._folder.read_part(self._key, start, max(start, stop)))


def _buffer(data: bytes) -> Any:
    from zarr.core.buffer import default_buffer_prototype

    return default_buffer_prototype().buffer.from_bytes(data)
