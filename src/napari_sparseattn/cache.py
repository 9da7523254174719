"""The folder of what can be made or fetched again, and its size limit.

Features of slides, overviews of slides that have no coarse levels, models fetched
from a repository, and sample images are kept here. Only entries of these kinds, by
their names, are ever removed: whatever else is in the folder is not ours.
"""

from __future__ import annotations

import contextlib
import dataclasses
import hashlib
import os
import re
import shutil
import uuid
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import filelock

__all__ = ["DEFAULT_GB", "Cache", "CacheEntry", "Lease"]

#: Size limit where nobody chose one, in GB (1e9 bytes).
DEFAULT_GB = 20.0
_FOLDER, _GB = "NAPARI_SPARSEATTN_CACHE", "NAPARI_SPARSEATTN_CACHE_GB"
_LEASES, _LEASE = "in-use", ".lease"
_LOCK_SECONDS = 30
#: What is removed when room is needed: folder, and the names under it.
_KINDS = {
    "features": re.compile(r"[^/]+-[0-9a-f]{16}\.h5(\.parts)?"),
    "hub": re.compile(r"[^/]+--[^/]+/[0-9a-f]{40}"),
    "overviews": re.compile(r"[^/]+-[0-9a-f]{16}\.h5"),
    "samples": re.compile(r"BloodImage_\d{5}\.jpg"),
}


@dataclasses.dataclass(frozen=True)
class CacheEntry:
    """One thing that is kept: a file, or a folder that belongs together.

    Parameters
    ----------
    path : pathlib.Path
        Where it is.
    kind : str
        "features", "hub", "overviews" or "samples".
    size : int
        Bytes.
    used : float
        When it was last used, seconds since the epoch.
    """

    path: Path
    kind: str
    size: int
    used: float


class Lease:
    """Keeps a path, and the entry it belongs to, from being removed until it is released.

    The system lets go of it when the process ends, however that happens.
    """

    def __init__(self, lock: filelock.BaseFileLock, file: Path) -> None:
        self._lock, self._file = lock, file

    def release(self) -> None:
        """Let it be removed when room is needed; a second call does nothing."""
        if self._lock.is_locked:
            self._lock.release()
            with contextlib.suppress(OSError):
                self._file.unlink(missing_ok=True)


@dataclasses.dataclass(frozen=True)
class Cache:
    """A folder with a size limit.

    Parameters
    ----------
    folder : pathlib.Path
        Made when something is put into it.
    limit : int
        Bytes that it may hold; what is in use stays beyond it.
    """

    folder: Path
    limit: int

    def __post_init__(self) -> None:
        if self.limit < 0:
            raise ValueError(f"the cache's size must not be negative, got {self.limit} bytes")

    @classmethod
    def default(cls) -> Cache:
        """Return the cache of this user.

        ``NAPARI_SPARSEATTN_CACHE`` and ``NAPARI_SPARSEATTN_CACHE_GB`` if set,
        else the platform's cache folder and `DEFAULT_GB`.

        Raises
        ------
        ValueError
            If the size that is set is no number.
        """
        import platformdirs

        chosen, size = os.environ.get(_FOLDER), os.environ.get(_GB)
        folder = Path(chosen) if chosen else platformdirs.user_cache_path("napari-sparseattn")
        try:
            limit = round(float(size) * 1e9) if size else round(DEFAULT_GB * 1e9)
        except (ValueError, OverflowError) as error:
            raise ValueError(f"{_GB} must be a number of GB, got '{size}'.") from error
        return cls(folder, limit)

    def section(self, kind: str) -> Path:
        """Return the folder of one kind: "features", "hub", "overviews" or "samples"."""
        if kind not in _KINDS:
            raise ValueError(f"there is no kind {kind!r}; choose one of {', '.join(_KINDS)}")
        return self.folder / kind

    def entries(self) -> list[CacheEntry]:
        """Return what is kept, the one used longest ago first."""
        found = []
        for kind, names in _KINDS.items():
            top = self.section(kind)
            for path in top.glob("*/*" if kind == "hub" else "*"):
                if names.fullmatch(path.relative_to(top).as_posix()) and not path.is_symlink():
                    with contextlib.suppress(OSError):
                        found.append(_measure(path, kind))
        return sorted(found, key=lambda entry: (entry.used, str(entry.path)))

    def size(self) -> int:
        """Bytes of all entries."""
        return sum(entry.size for entry in self.entries())

    def hold(self, path: Path) -> Lease:
        """Keep a path from being removed, and mark it as used now.

        It may be an entry, something in one, or a folder of several.
        """
        import filelock

        folder = self.folder / _LEASES
        folder.mkdir(parents=True, exist_ok=True)
        file = folder / f"{self._key(path)}-{uuid.uuid4().hex}{_LEASE}"
        lock = filelock.FileLock(file, thread_local=False)
        with self._alone():
            lock.acquire(timeout=0)
            with contextlib.suppress(OSError):
                os.utime(path)
        return Lease(lock, file)

    @contextlib.contextmanager
    def using(self, path: Path) -> Iterator[None]:
        """Hold a path for as long as a block runs."""
        lease = self.hold(path)
        try:
            yield
        finally:
            lease.release()

    def trim(self, limit: int | None = None) -> list[CacheEntry]:
        """Remove what was used longest ago until the rest fits; never what is in use.

        Parameters
        ----------
        limit : int, optional
            Bytes to keep, by default the cache's own; 0 removes all.

        Returns
        -------
        list of CacheEntry
            What was removed.
        """
        most, removed = self.limit if limit is None else limit, list[CacheEntry]()
        if not self.folder.is_dir():
            return removed
        with self._alone():
            entries, held = self.entries(), self._held()
            left = sum(entry.size for entry in entries)
            for entry in entries:
                if left <= most:
                    break
                if not self._in_use(entry.path, held) and _remove(entry.path):
                    left -= entry.size
                    removed.append(entry)
        return removed

    def _in_use(self, path: Path, held: set[str]) -> bool:
        above = path.parents[: len(path.relative_to(self.folder).parts)]
        return any(self._key(one) in held for one in (path, *above, *path.rglob("*")))

    def _key(self, path: Path) -> str:
        # In the name, since a locked file cannot be read everywhere.
        name = path.resolve().relative_to(self.folder.resolve()).as_posix()
        return hashlib.sha256(name.encode()).hexdigest()[:16]

    def _held(self) -> set[str]:
        """Keys of what is in use; leases of processes that are gone are removed."""
        import filelock

        found = set()
        for file in (self.folder / _LEASES).glob(f"*{_LEASE}"):
            lock = filelock.FileLock(file, thread_local=False)
            try:
                lock.acquire(timeout=0)
            except filelock.Timeout:
                found.add(file.name[:16])
            else:
                lock.release()
                with contextlib.suppress(OSError):
                    file.unlink(missing_ok=True)
        return found

    @contextlib.contextmanager
    def _alone(self) -> Iterator[None]:
        """Let nobody else take or remove anything meanwhile."""
        import filelock

        self.folder.mkdir(parents=True, exist_ok=True)
        with filelock.FileLock(self.folder / ".lock", timeout=_LOCK_SECONDS):
            yield


def _measure(path: Path, kind: str) -> CacheEntry:
    files = [path] if path.is_file() else [file for file in path.rglob("*") if file.is_file()]
    facts = [file.stat() for file in files]
    used = max([path.stat().st_mtime, *(fact.st_mtime for fact in facts)])
    return CacheEntry(path, kind, sum(fact.st_size for fact in facts), used)


def _remove(path: Path) -> bool:
    try:
        if path.is_dir():
            shutil.rmtree(path)
        else:
            path.unlink()
    except OSError:
        # Somebody has it open, on a system that minds.
        return False
    with contextlib.suppress(OSError):
        path.parent.rmdir()
    return True
