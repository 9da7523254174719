"""Features that are not finished yet: parts on disk, each whole and checked or made again."""

from __future__ import annotations

import contextlib
import dataclasses
import hashlib
import json
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from ..files import replacing
from .feature_set import FeatureError

__all__ = ["Part", "Parts", "locked_parts"]

_SHOWN = {
    "encoder": "encoder",
    "encoder_hash": "version of the encoder",
    "slide_hash": "slide",
    "grid_hash": "grid of patches",
    "width": "width of the features",
}
_MANIFEST = "manifest.json"
_MOST_MANIFEST = 2**20

#: Which patches could be read (n,), and features (n, F), 0 where not.
Part = tuple[npt.NDArray[np.bool_], npt.NDArray[np.float32]]


@dataclasses.dataclass(frozen=True)
class Parts:
    """A folder with one file per batch of patches.

    A file holds the sha256 of what follows together with the run's parameters
    and its number, so that neither a damaged nor a foreign part is taken.

    Parameters
    ----------
    folder : pathlib.Path
        Beside the file of features.
    batch : int
        Patches per part.
    n : int
        Patches altogether.
    width : int
        Numbers per patch.
    key : bytes
        Digest of the parameters.
    """

    folder: Path
    batch: int
    n: int
    width: int
    key: bytes

    @property
    def count(self) -> int:
        """Number of parts."""
        return -(-self.n // self.batch)

    def size(self, index: int) -> int:
        """Patches of one part."""
        return min(self.batch, self.n - index * self.batch)

    def write(
        self, index: int, valid: npt.NDArray[np.bool_], rows: npt.NDArray[np.float32]
    ) -> None:
        """Keep a part: valid (n,) and features (n, F), 0 where not valid."""
        content = valid.astype(np.uint8).tobytes() + rows.astype("<f4").tobytes()
        with replacing(self._file(index)) as path:
            path.write_bytes(self._sum(index, content) + content)

    def read(self, index: int) -> Part | None:
        """Return a part, or None where there is none or it is damaged."""
        n = self.size(index)
        expected = 32 + n + 4 * n * self.width
        file = self._file(index)
        try:
            if file.stat().st_size != expected:
                return None
            stored = file.read_bytes()
        except OSError:
            return None
        if stored[:32] != self._sum(index, stored[32:]):
            return None
        valid = np.frombuffer(stored, np.uint8, n, 32).astype(np.bool_)
        rows = np.frombuffer(stored, "<f4", n * self.width, 32 + n).reshape(n, self.width)
        return valid, rows.astype(np.float32)

    def done(self) -> list[int]:
        """Return the parts that are there and whole."""
        return [index for index in range(self.count) if self.read(index) is not None]

    def _file(self, index: int) -> Path:
        return self.folder / f"{index:06d}.part"

    def _sum(self, index: int, content: bytes) -> bytes:
        return hashlib.sha256(self.key + index.to_bytes(8, "little") + content).digest()


#: Folders of parts that threads of this process are at, and which.
_BUSY: dict[Path, int] = {}
_BUSY_LOCK = threading.Lock()
_AGAIN_SECONDS = 0.05


@contextlib.contextmanager
def locked_parts(
    path: Path,
    parameters: dict[str, Any],
    batch: int,
    n: int,
    waiting: Callable[[], object] = lambda: None,
) -> Iterator[Parts]:
    """Open the parts of a file of features for this thread alone.

    Another thread of this process, such as one that was cancelled and ends its
    last batch, is waited for.

    Parameters
    ----------
    path : pathlib.Path
        The file that will be made of them.
    parameters : dict
        What must be the same for parts to be taken up again.
    batch : int
        Patches per part, where none are there yet.
    n : int
        Patches altogether.
    waiting : callable
        Called now and then while another thread is waited for; may raise to stop.

    Raises
    ------
    FeatureError
        If another process is at it, or parts of other parameters are there.
    """
    import filelock

    folder = path.with_name(path.name + ".parts")
    folder.mkdir(parents=True, exist_ok=True)
    with _only_thread(folder.resolve(), waiting):
        # The system lets go of it when the process ends, however that happens.
        lock = filelock.FileLock(folder / "lock", thread_local=False)
        try:
            lock.acquire(timeout=0)
        except filelock.Timeout as error:
            raise FeatureError(
                f"{path.name} is being made by another process; wait for it, or choose another file"
            ) from error
        try:
            yield _open(folder, path, parameters, batch, n)
        finally:
            lock.release()
        if path.exists():
            _clear(folder)


@contextlib.contextmanager
def _only_thread(folder: Path, waiting: Callable[[], object]) -> Iterator[None]:
    own = threading.get_ident()
    while True:
        with _BUSY_LOCK:
            outermost = folder not in _BUSY
            if outermost:
                _BUSY[folder] = own
            if _BUSY[folder] == own:
                break
        waiting()
        time.sleep(_AGAIN_SECONDS)
    try:
        yield
    finally:
        if outermost:
            with _BUSY_LOCK:
                del _BUSY[folder]


def _open(folder: Path, path: Path, parameters: dict[str, Any], batch: int, n: int) -> Parts:
    manifest = folder / _MANIFEST
    stored = _read_manifest(manifest)
    if stored is None:
        stored = parameters | {"batch": batch, "n": n}
        with replacing(manifest) as temporary:
            temporary.write_text(json.dumps(stored, sort_keys=True), encoding="utf-8")
    differs = [words for key, words in _SHOWN.items() if stored.get(key) != parameters.get(key)]
    if differs or stored.get("n") != n:
        raise FeatureError(
            f"{path.name} was begun with another {', '.join(differs) or 'number of patches'}, and "
            f"cannot be gone on with. Use what it was begun with, choose another file, or remove "
            f"the folder {folder.name}"
        )
    key = hashlib.sha256(json.dumps(stored, sort_keys=True).encode()).digest()
    return Parts(folder, int(stored["batch"]), n, int(parameters["width"]), key)


def _read_manifest(manifest: Path) -> dict[str, Any] | None:
    """Return what the parts were begun with; None where that is not there or damaged."""
    try:
        if manifest.stat().st_size > _MOST_MANIFEST:
            return None
        stored = json.loads(manifest.read_text(encoding="utf-8"))
    except (OSError, ValueError, RecursionError):
        return None
    whole = isinstance(stored, dict) and isinstance(stored.get("batch"), int)
    return stored if whole and 1 <= stored["batch"] <= 2**16 else None


def _clear(folder: Path) -> None:
    """Remove what this module wrote, and the folder if that empties it."""
    with contextlib.suppress(OSError):
        for file in folder.iterdir():
            if file.suffix in (".part", ".json") or file.name == "lock":
                file.unlink(missing_ok=True)
        folder.rmdir()
