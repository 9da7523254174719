"""Features of a slide's patches with their places, in memory or read from a file as needed."""

from __future__ import annotations

import dataclasses
import hashlib
from pathlib import Path
from typing import Any, Protocol, Self

import numpy as np
import numpy.typing as npt

from ..images.errors import ImageError
from ..images.holograms._hdf5 import images, reading
from ..reprs import short_repr

__all__ = ["FeatureError", "FeatureRows", "FeatureSet", "H5Rows", "failed_notes"]

Rows = slice | npt.NDArray[np.integer[Any]]
# Rows of files without checksums that are read at a time.
_BLOCK_BYTES = 2**22


class FeatureError(ValueError):
    """Features that cannot be made or used, and what to do about it."""


class FeatureRows(Protocol):
    """What `FeatureSet.features` offers: an array, or a file that is read as one."""

    @property
    def shape(self) -> tuple[int, ...]:
        """N and F."""
        ...

    def __getitem__(self, rows: Any, /) -> npt.NDArray[np.float32]: ...


@dataclasses.dataclass(frozen=True, eq=False)
class H5Rows:
    """Rows of a dataset (n, F), read when asked for; the file is open only meanwhile.

    Parameters
    ----------
    path : pathlib.Path
        The HDF5 file.
    name : str
        Of the dataset.
    shape : (int, int)
        N and F, as seen from outside.
    n_stored : int
        Rows the dataset has.
    kept : numpy.ndarray or None
        (N,) which stored rows these are; None for all of them.
    block : int
        Rows read, and checked, at a time.
    sums : tuple of bytes
        sha256 of each block; empty where the file has none.
    """

    path: Path
    name: str
    shape: tuple[int, int]
    n_stored: int
    kept: npt.NDArray[np.int64] | None = None
    block: int = 0
    sums: tuple[bytes, ...] = ()
    _checked: set[int] = dataclasses.field(default_factory=set, init=False, repr=False)

    dtype = np.dtype(np.float32)

    def __len__(self) -> int:
        return self.shape[0]

    def __getitem__(self, rows: Rows) -> npt.NDArray[np.float32]:
        """Return the rows of a slice or of an array of indices, (n, F) float32.

        Raises
        ------
        FeatureError
            If the file is gone, changed or damaged, or holds values that are no numbers.
        """
        wanted = np.arange(self.shape[0])[rows]
        stored = wanted if self.kept is None else self.kept[wanted]
        found = np.empty((len(stored), self.shape[1]), np.float32)
        block = self.block or max(1, _BLOCK_BYTES // (4 * self.shape[1]))
        try:
            with reading(self.path) as file:
                dataset = images(file, self.name, ndim=2)
                if dataset is None or dataset.shape != (self.n_stored, self.shape[1]):
                    raise FeatureError(f"{self.path.name} has changed since it was opened")
                for number in np.unique(stored // block):
                    here = np.flatnonzero(stored // block == number)
                    start = int(number) * block
                    part = np.asarray(dataset[start : start + block])
                    self._check(int(number), part)
                    found[here] = part[stored[here] - start]
        except ImageError as error:
            raise FeatureError(str(error)) from error
        bad = np.flatnonzero(~np.isfinite(found).all(axis=1))
        if len(bad):
            raise FeatureError(
                f"{self.path.name}: the features of {len(bad)} patches are not finite numbers, "
                f"first that of row {stored[bad[0]]}; make the file again"
            )
        return found

    def verify(self) -> None:
        """Read everything once, against the checksums.

        Raises
        ------
        FeatureError
            As reading.
        """
        block = self.block or self.shape[0]
        for start in range(0, self.shape[0], block):
            _ = self[start : start + block]

    def _check(self, number: int, part: npt.NDArray[Any]) -> None:
        if not self.sums or number in self._checked:
            return
        if number >= len(self.sums) or hashlib.sha256(part.tobytes()).digest() != self.sums[number]:
            raise FeatureError(
                f"{self.path.name} is damaged: block {number} of its features is not what was "
                "written. Remove the file and make the features again"
            )
        self._checked.add(number)


@dataclasses.dataclass(frozen=True, eq=False)
class FeatureSet:
    """Features of a slide's patches.

    Parameters
    ----------
    features : numpy.ndarray or H5Rows
        (N, F) float32; slicing gives arrays.
    cells : numpy.ndarray, (N, 2) int32
        Column and row (x, y) of each patch on the grid.
    step, side : float
        From patch to patch, and along a patch, in `unit`.
    origin : (float, float)
        (y, x) of the top left corner of cell (0, 0), in `unit`.
    pixel_size : float or None
        µm per pixel of the patches the encoder saw; None where not known.
    encoder, encoder_hash : str
        What made them; empty where not known.
    slide_hash : str
        Of which slide; empty where not known.
    path : pathlib.Path or None
        The file they are in.
    failed : numpy.ndarray, bool
        Of the patches that were asked for, which could not be read; they are
        not among the N.
    unit : {"px", "um"}
        Level-0 pixels, or µm for files that do not say how large a pixel is.
    notes : tuple of str
        What the user should know, such as how coordinates were moved.
    patch_um : float or None
        Side of a patch in µm, as far as the file tells.
    """

    __repr__ = short_repr

    features: FeatureRows
    cells: npt.NDArray[np.int32]
    step: float
    side: float
    origin: tuple[float, float]
    pixel_size: float | None
    encoder: str
    encoder_hash: str
    slide_hash: str
    path: Path | None
    failed: npt.NDArray[np.bool_]
    unit: str = "px"
    notes: tuple[str, ...] = ()
    patch_um: float | None = None

    def __post_init__(self) -> None:
        if len(self.features.shape) != 2 or self.features.shape[0] != len(self.cells):
            raise FeatureError(f"features {self.features.shape} for {len(self.cells)} patches")

    def __len__(self) -> int:
        return len(self.cells)

    @property
    def width(self) -> int:
        """Numbers per patch F."""
        return int(self.features.shape[1])

    @property
    def corners(self) -> npt.NDArray[np.float64]:
        """(N, 2) top left corners (y, x) in `unit`."""
        corners: npt.NDArray[np.float64] = self.cells[:, ::-1] * self.step + np.asarray(self.origin)
        return corners

    def read(self, rows: Rows | None = None) -> npt.NDArray[np.float32]:
        """Return the features of some patches, by default of all, as an array."""
        return np.asarray(self.features[slice(None) if rows is None else rows], np.float32)

    def to_pixels(self, slide_pixel_size: float | None) -> FeatureSet:
        """Return the same with places in level-0 pixels of a slide.

        Raises
        ------
        FeatureError
            If places are in µm and the slide's µm per pixel is not known.
        """
        if self.unit == "px":
            return self
        if not slide_pixel_size:
            raise FeatureError(
                "these features have their places in µm, and the slide's µm per pixel is not "
                "known; give it"
            )
        y, x = self.origin
        return dataclasses.replace(
            self,
            step=self.step / slide_pixel_size,
            side=self.side / slide_pixel_size,
            origin=(y / slide_pixel_size, x / slide_pixel_size),
            unit="px",
        )

    def close(self) -> None:
        """Do nothing: files are open only while they are read."""

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()


def failed_notes(failed: npt.NDArray[np.bool_]) -> tuple[str, ...]:
    """Return what to tell the user about patches that could not be read."""
    n = int(failed.sum())
    if not n:
        return ()
    share = 100 * n / len(failed)
    return (f"{n} of {len(failed)} patches ({share:.2g} %) could not be read and are left out",)
