"""A slide told from another by what it holds, without reading all of it."""

from __future__ import annotations

import hashlib
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

if TYPE_CHECKING:
    from ..images.slides.pyramid import Pyramid

__all__ = ["path_hash", "slide_hash"]

_WHOLE_BYTES = 2**26
_SAMPLES = 64
_SAMPLE_BYTES = 2**16
_MOST_PIXELS = 2**22


def slide_hash(pyramid: Pyramid) -> str:
    """Return a sha256 that tells slides apart.

    Of a file up to 64 MiB all bytes; of a larger one its size and 64 samples of
    64 KiB spread over it, the ends included, so that a change elsewhere goes
    unseen: the same file has the same hash on whichever machine it is. Of a folder
    the names, sizes and beginnings of its files. Of a slide in memory, or in
    OME-Zarr on another machine, its sizes, its smallest level and samples of the
    largest. A slide of which the colour profile is applied is another than the
    same one as stored.

    Raises
    ------
    OSError
        If the file is gone.
    """
    path = pyramid.path
    found = _remote_hash(pyramid)
    if path is not None and (path.is_file() or path.is_dir()):
        found = path_hash(path)
    if found is not None:
        if not pyramid.profile_applied:
            return found
        # Other colours are other pixels.
        profile = hashlib.sha256(pyramid.icc_profile or b"").hexdigest()
        return hashlib.sha256(f"{found} sRGB from {profile}".encode()).hexdigest()
    digest = hashlib.sha256()
    _add_pixels(digest, pyramid)
    return digest.hexdigest()


def _remote_hash(pyramid: Pyramid) -> str | None:
    """Return the hash of a file on another machine, of which no more is loaded than that takes."""
    told = pyramid.read_bytes(())
    if told is None:
        return None
    size = told[0]
    starts = [0] if size <= _WHOLE_BYTES else _sample_starts(size)
    n_bytes = size if size <= _WHOLE_BYTES else _SAMPLE_BYTES
    found = pyramid.read_bytes([(start, n_bytes) for start in starts])
    assert found is not None
    digest = hashlib.sha256(f"file {size}\0".encode())
    for part in found[1]:
        digest.update(part)
    return digest.hexdigest()


def path_hash(path: Path) -> str:
    """Return a sha256 that tells files and folders apart, as `slide_hash` does.

    Raises
    ------
    OSError
        If it is gone or cannot be read.
    """
    digest = hashlib.sha256()
    (_add_folder if path.is_dir() else _add_file)(digest, path)
    return digest.hexdigest()


def _add_file(digest: hashlib._Hash, path: Path) -> None:
    size = path.stat().st_size
    digest.update(f"file {size}\0".encode())
    with path.open("rb") as file:
        if size <= _WHOLE_BYTES:
            digest.update(file.read())
            return
        for start in _sample_starts(size):
            file.seek(start)
            digest.update(file.read(_SAMPLE_BYTES))


def _sample_starts(size: int) -> list[int]:
    return [int(start) for start in np.linspace(0, size - _SAMPLE_BYTES, _SAMPLES).astype(int)]


def _add_folder(digest: hashlib._Hash, folder: Path) -> None:
    files = sorted(file for file in folder.rglob("*") if file.is_file())
    digest.update(f"folder {len(files)}\0".encode())
    for file in files:
        digest.update(f"{file.relative_to(folder).as_posix()} {file.stat().st_size}\0".encode())
    for index in np.unique(np.linspace(0, max(len(files) - 1, 0), _SAMPLES).astype(int)):
        if files:
            with files[index].open("rb") as opened:
                digest.update(opened.read(_SAMPLE_BYTES))


def _add_pixels(digest: hashlib._Hash, pyramid: Pyramid) -> None:
    # Not what the user asked to have read.
    pyramid = pyramid.with_own_ledger()
    digest.update(f"pixels {pyramid.shape} {pyramid.channels} {pyramid.dtype}\0".encode())
    last = pyramid.levels[-1]
    if last.n_pixels <= _MOST_PIXELS:
        region = pyramid.read_region(0, 0, len(pyramid.levels) - 1, last.height, last.width)
        digest.update(region.pixels.tobytes())
    height, width = pyramid.shape
    for y in np.linspace(0, max(height - 64, 0), 4).astype(int):
        for x in np.linspace(0, max(width - 64, 0), 4).astype(int):
            digest.update(pyramid.read_region(int(y), int(x), 0, 64, 64).pixels.tobytes())
