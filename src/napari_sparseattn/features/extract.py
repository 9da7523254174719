"""Features of a slide's patches: read ahead in threads, resumable, verified on resume."""

from __future__ import annotations

import collections
import concurrent.futures
import contextvars
import hashlib
import itertools
import json
import os
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from ..images.slides.channels import refuse_channels
from ..images.slides.patches import PatchGrid, read_patch
from ..images.slides.pyramid import Pyramid
from ..progress import Progress, ignore_progress
from .encoders import Encoder, load_encoder
from .feature_set import FeatureError, FeatureSet, failed_notes
from .files import kept_features, read_features, write_features
from .hashes import slide_hash
from .parts import Part, Parts, locked_parts

__all__ = ["FeatureError", "FeatureSet", "extract_features", "slide_hash"]

_MOST_BATCH = 4096
# Reading and decoding are shared by these, and more would only wait for memory.
_MOST_THREADS = 8


def extract_features(
    pyramid: Pyramid,
    grid: PatchGrid,
    encoder: Encoder | str,
    path: str | os.PathLike[str] | None = None,
    *,
    batch: int = 32,
    threads: int = 2,
    device: str = "auto",
    progress: Progress | None = None,
) -> FeatureSet:
    """Encode the patches of a grid.

    Threads read ahead of the encoder, a few batches at most. A patch with any
    pixel that cannot be read is left out, and marked in `FeatureSet.failed`.

    Parameters
    ----------
    pyramid : Pyramid
        The slide.
    grid : PatchGrid
        Which patches.
    encoder : Encoder or str
        What encodes them; a name is loaded on `device`.
    path : path-like, optional
        An HDF5 file to make. Every batch is kept beside it, in a folder ending
        in ``.parts``, so that a run that was stopped goes on; what is there is
        verified by its checksum. A finished file for the same slide, grid and
        encoder is read, not made again.
    batch : int
        Patches per batch.
    threads : int
        How many read.
    device : str
        For an encoder given by name.
    progress : callable, optional
        Called with "features", the patches done and their number; may raise
        to stop. With a `path`, what is done is kept.

    Returns
    -------
    FeatureSet

    Raises
    ------
    FeatureError
        If no patch is there or can be read; if the file or its parts are of
        another slide, grid or encoder; if another process is making it.
    ValueError
        If the slide holds other channels than colours or grey of 8 bits.
    ImageError
        If the slide is gone or has changed.
    """
    refuse_channels(pyramid)
    if not len(grid):
        raise FeatureError("there are no patches to encode: is there tissue on the slide?")
    if not 1 <= batch <= _MOST_BATCH or threads < 1:
        raise ValueError(f"a batch has 1 to {_MOST_BATCH} patches, and at least 1 thread reads")
    coder = load_encoder(encoder, device) if isinstance(encoder, str) else encoder
    work = _Work(pyramid, grid, coder, threads, progress or ignore_progress)
    if path is None:
        return work.in_memory(batch)
    return work.on_disk(Path(path), batch)


def _on_one_core() -> None:
    """Keep torch's operations in the calling thread on one core; see `Encoder.parallel`."""
    import torch
    from threadpoolctl import threadpool_limits

    # Torch sets its number of threads when a thread first asks for it.
    torch.get_num_threads()
    threadpool_limits(1, user_api="openmp")


class _Work:
    """One run over a grid."""

    def __init__(
        self, pyramid: Pyramid, grid: PatchGrid, encoder: Encoder, threads: int, report: Progress
    ) -> None:
        self.pyramid, self.grid, self.encoder = pyramid, grid, encoder
        self.threads, self.report = threads, report
        self.parameters: dict[str, Any] = {
            "format": 1,
            "encoder": encoder.name,
            "encoder_hash": encoder.hash,
            "slide_hash": slide_hash(pyramid),
            "grid_hash": _grid_hash(grid),
            "width": encoder.width,
        }

    def in_memory(self, batch: int) -> FeatureSet:
        parts = Parts(Path(), batch, len(self.grid), self.encoder.width, b"")
        made = list(self._made(parts, range(parts.count), 0))
        valid = np.concatenate([part[1] for part in made])
        self._check_any(valid)
        grid = self.grid
        return FeatureSet(
            np.concatenate([part[2] for part in made])[valid],
            grid.cells[valid],
            grid.step,
            grid.side,
            grid.origin,
            grid.pixel_size,
            self.encoder.name,
            self.encoder.hash,
            self.parameters["slide_hash"],
            None,
            ~valid,
            notes=failed_notes(~valid),
        )

    def on_disk(self, path: Path, batch: int) -> FeatureSet:
        if path.is_dir():
            raise FeatureError(f"{path.name} is a folder; give a file to make")
        kept_features(path, self.parameters)  # refused before anything is made beside it
        n = len(self.grid)
        with locked_parts(
            path, self.parameters, batch, n, lambda: self.report("features", 0, n)
        ) as parts:
            finished = kept_features(path, self.parameters)
            if finished is not None:
                self.report("features", len(self.grid), len(self.grid))
                return finished
            done = set(parts.done())
            missing = [index for index in range(parts.count) if index not in done]
            n_done = sum(parts.size(index) for index in done)
            for index, valid, rows in self._made(parts, missing, n_done):
                parts.write(index, valid, rows)
            self._finish(path, parts)
        return read_features(path)

    def _made(
        self, parts: Parts, indices: Sequence[int], n_done: int
    ) -> Iterator[tuple[int, npt.NDArray[np.bool_], npt.NDArray[np.float32]]]:
        """Yield parts in order; the batches after them are being read meanwhile."""
        total, width = len(self.grid), self.encoder.width
        self.report("features", n_done, total)
        read = self._encode_rows if self.encoder.parallel else self._read
        n_threads = self.threads
        if self.encoder.parallel:
            n_threads = max(n_threads, min(os.cpu_count() or 1, _MOST_THREADS))
        reader = concurrent.futures.ThreadPoolExecutor(n_threads, "read-patches", _on_one_core)
        waiting: collections.deque[tuple[int, concurrent.futures.Future[Any]]] = collections.deque()
        coming = iter(indices)
        try:
            while True:
                for index in itertools.islice(coming, 2 * n_threads - len(waiting)):
                    start = index * parts.batch
                    rows = range(start, start + parts.size(index))
                    # With who is to be heard while the network is waited for.
                    context = contextvars.copy_context()
                    waiting.append((index, reader.submit(context.run, read, rows)))
                if not waiting:
                    return
                index, future = waiting.popleft()
                found, valid = future.result()
                features = np.zeros((len(valid), width), np.float32)
                if valid.any():
                    features[valid] = found if self.encoder.parallel else self._encode(found)
                yield index, valid, features
                n_done += len(valid)
                self.report("features", n_done, total)
        finally:
            reader.shutdown(wait=True, cancel_futures=True)

    def _read(self, rows: range) -> tuple[npt.NDArray[np.uint8], npt.NDArray[np.bool_]]:
        """Return the pixels of the patches that can be read, and which these are."""
        valid = np.zeros(len(rows), np.bool_)
        patches = []
        self.pyramid.fetch_ahead([self.grid.window(row) for row in rows])
        for n, row in enumerate(rows):
            pixels, readable = read_patch(self.pyramid, self.grid, row)
            valid[n] = readable.all()
            if valid[n]:
                patches.append(pixels)
        size = self.grid.size
        return np.stack(patches) if patches else np.empty((0, size, size, 3), np.uint8), valid

    def _encode_rows(self, rows: range) -> tuple[npt.NDArray[np.float32], npt.NDArray[np.bool_]]:
        """Return the features of the patches that can be read, and which these are."""
        pixels, valid = self._read(rows)
        if not valid.any():
            return np.empty((0, self.encoder.width), np.float32), valid
        return self._encode(pixels), valid

    def _encode(self, pixels: npt.NDArray[np.uint8]) -> npt.NDArray[np.float32]:
        features = self.encoder(pixels)
        if features.shape != (len(pixels), self.encoder.width) or not np.isfinite(features).all():
            raise FeatureError(
                f"the encoder {self.encoder.name} gave {features.shape} values for {len(pixels)} "
                f"patches, or some that are no numbers; expected {self.encoder.width} per patch"
            )
        return features

    def _finish(self, path: Path, parts: Parts) -> None:
        valid = np.concatenate([self._part(parts, index)[0] for index in range(parts.count)])
        self._check_any(valid)
        read = (self._part(parts, index) for index in range(parts.count))
        rows = (features[readable] for readable, features in read)
        write_features(path, self.grid, valid, rows, self.parameters)

    def _part(self, parts: Parts, index: int) -> Part:
        part = parts.read(index)
        if part is None:
            raise FeatureError(
                f"part {index} in {parts.folder.name} was damaged or removed meanwhile; start "
                "again, and it is made again"
            )
        return part

    def _check_any(self, valid: npt.NDArray[np.bool_]) -> None:
        if not valid.any():
            raise FeatureError(f"none of the {len(valid)} patches could be read from the slide")


def _grid_hash(grid: PatchGrid) -> str:
    numbers = json.dumps([grid.step, grid.side, grid.size, grid.pixel_size, *grid.origin])
    digest = hashlib.sha256(numbers.encode())
    if grid.black_fill:
        digest.update(b"black fill")
    digest.update(np.ascontiguousarray(grid.cells, "<i4").tobytes())
    return digest.hexdigest()
