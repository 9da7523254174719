"""HDF5 read with distrust: links, types, shapes and sizes are checked before pixels are."""

from __future__ import annotations

import contextlib
import dataclasses
import importlib
import itertools
import math
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

import numpy as np
import numpy.typing as npt

from ..errors import ImageError
from ._heaps import check_heaps

if TYPE_CHECKING:
    import h5py

__all__ = [
    "H5Series",
    "H5Stack",
    "child",
    "contents",
    "images",
    "member",
    "number",
    "reading",
    "series",
    "stack",
    "text",
    "zstd",
]

_FRAME_LIMIT = 4 * 2**30
_BLOCK_LIMIT = 2**30
_KEPT_LIMIT = 64 * 2**20
_BOMB_SIZE = 256 * 2**20
_BOMB_RATIO = 200
_ZSTD = 32015
_FILTERS = {32001: "Blosc", 32004: "LZ4", 32008: "Bitshuffle", _ZSTD: "Zstandard"}
# What h5py lets through from a damaged file, as its C library raises it.
_DAMAGE = (OSError, RuntimeError, KeyError, ValueError, TypeError, OverflowError)


@contextlib.contextmanager
def reading(path: Path) -> Iterator[h5py.File]:
    """Open an HDF5 file to read; it is closed again at the end of the block.

    Raises
    ------
    ImageError
        If it cannot be opened, or what is read within the block is damaged.
    """
    import h5py

    try:
        check_heaps(path)
        with h5py.File(path, "r", locking="best-effort") as file:
            yield file
    except ImageError:
        raise
    except _DAMAGE as error:
        raise ImageError(_why(path, str(error))) from error


def _why(path: Path, message: str) -> str:
    if "No such file" in message:
        return f"there is no file {path}"
    if "truncated" in message:
        return f"{path.name} ends too early: it is incomplete; copy or export it again"
    if "lock file" in message or "already open for write" in message:
        return (
            f"{path.name} is being written by another program, or that program crashed; close it "
            "there, then, if need be, run: h5clear -s FILE"
        )
    return f"{path.name} is damaged, or not readable as HDF5 ({message}); copy or export it again"


def child(parent: h5py.Group, name: str) -> h5py.Group | h5py.Dataset | None:
    """Return a member of a group, or None where there is none.

    Raises
    ------
    ImageError
        If it is a link to another place: following one would let a file
        make us read others.
    """
    import h5py

    link = parent.get(name, getlink=True)
    if link is None:
        return None
    if not isinstance(link, h5py.HardLink):
        raise ImageError(
            f"{Path(parent.file.filename).name} does not hold {_place(parent, name)} but links to "
            "another place, which is not followed; save a file that holds its own data"
        )
    return parent[name]


def member(parent: h5py.Group, *names: str) -> h5py.Group | h5py.Dataset | None:
    """Return what lies below a group, or None where there is none; as `child` along the way."""
    import h5py

    found = parent
    for name in names:
        if not isinstance(found, h5py.Group):
            return None
        found = child(found, name)
    return found


def images(parent: h5py.Group, *names: str, ndim: int) -> h5py.Dataset | None:
    """Return a checked dataset of images below a group, or None where there is none.

    Nothing of it is read: its type, shape and storage are what the file declares.

    Raises
    ------
    ImageError
        If its values are not numbers, lie in another file, or are of a size
        that cannot be; if frames are missing; or a link leads to it.
    """
    import h5py

    found = member(parent, *names)
    if not isinstance(found, h5py.Dataset):
        return None
    problem = _problem(found, ndim)
    if problem:
        raise ImageError(f"{Path(found.file.filename).name}: {_shown(found.name)} {problem}")
    return found


def _problem(dataset: h5py.Dataset, ndim: int) -> str | None:
    dtype, shape = dataset.dtype, dataset.shape
    if dtype.kind not in "biufc" or dtype.itemsize > 16 or dtype.fields or dtype.subdtype:
        return f"holds {dtype}, not numbers; save plain numbers"
    if dataset.external or dataset.is_virtual:
        return "keeps its pixels in other files, which are not followed; save them in one file"
    if shape is None or len(shape) != ndim or 0 in shape:
        return f"has the shape {shape}; expected {ndim} axes, none of them empty"
    size = math.prod(shape) * dtype.itemsize
    frame = math.prod(shape[-2:]) * dtype.itemsize
    block = math.prod(dataset.chunks or (0,)) * dtype.itemsize
    stored = dataset.id.get_storage_size()
    if frame > _FRAME_LIMIT or block > _BLOCK_LIMIT:
        return (
            f"declares frames of {shape[-2:]} pixels in blocks of {block / 2**20:.0f} MiB, more "
            "than is opened; check that the file is not damaged"
        )
    if stored == 0 or (dataset.chunks is None and stored < size):
        return (
            f"declares {size / 2**20:.1f} MiB but only {stored / 2**20:.1f} MiB are there: "
            "the recording was not finished; copy or export it again"
        )
    if frame > _BOMB_SIZE and size > _BOMB_RATIO * stored:
        return f"would grow from {stored / 2**20:.1f} to {size / 2**20:.0f} MiB; it was not opened"
    return _missing_filter(dataset)


def _missing_filter(dataset: h5py.Dataset) -> str | None:
    import h5py

    properties = dataset.id.get_create_plist()
    for n in range(properties.get_nfilters()):
        code = properties.get_filter(n)[0]
        if not _has_filter(h5py, code):
            name = _FILTERS.get(code, f"filter {code}")
            return (
                f"is compressed with {name}, which needs one more package: "
                "pip install hdf5plugin, then start again"
            )
    return None


def _has_filter(h5py: Any, code: int) -> bool:
    if not h5py.h5z.filter_avail(code):
        # Its import registers more filters; it is large, so not required.
        with contextlib.suppress(ImportError):
            importlib.import_module("hdf5plugin")
    return bool(h5py.h5z.filter_avail(code))


def zstd() -> dict[str, Any]:
    """Return h5py's arguments for the best compression at hand."""
    import h5py

    if _has_filter(h5py, _ZSTD):
        return {"compression": _ZSTD, "compression_opts": (5,)}
    return {"compression": "gzip", "compression_opts": 5}


def number(attributes: h5py.AttributeManager, key: str) -> float | None:
    """Return a finite number among attributes, or None."""
    if key not in attributes:
        return None
    declared = attributes.get_id(key)
    if declared.shape not in ((), (1,)):
        return None
    value = np.ravel(np.asarray(attributes[key]))[0]
    if isinstance(value, bytes):
        value = value.decode("utf-8", "replace")
    if not isinstance(value, str | int | float | np.number | np.bool_):
        return None
    try:
        result = float(value)
    except (TypeError, ValueError):
        return None
    return result if math.isfinite(result) else None


def text(attributes: h5py.AttributeManager, key: str) -> str:
    """Return a text among attributes; empty where there is none."""
    if key not in attributes or attributes.get_id(key).shape not in ((), (1,)):
        return ""
    value = np.ravel(np.asarray(attributes[key], dtype=object))[0]
    if isinstance(value, bytes):
        return value.decode("utf-8", "replace")
    return value if isinstance(value, str) else ""


def contents(group: h5py.Group, limit: int = 12) -> str:
    """Return the names in a group for a message, the first `limit` of them."""
    names = [_shown(name) for name in itertools.islice(group, limit)]
    more = len(group) - len(names)
    return (", ".join(names) or "nothing") + (f" and {more} more" if more > 0 else "")


def _place(parent: h5py.Group, name: str) -> str:
    return _shown(f"{parent.name}/{name}".replace("//", "/"))


def _shown(name: str | bytes | None) -> str:
    # h5py gives names that are no UTF-8 as bytes.
    text = name.decode("utf-8", "replace") if isinstance(name, bytes) else name
    short = (text or "")[:60]
    return "".join(c if c.isprintable() else "?" for c in short)


def _span(index: slice, count: int) -> range:
    span = range(*index.indices(count))
    if span.step != 1:
        raise ValueError(f"frames are read by slices with step 1, got {index}")
    return span


@dataclasses.dataclass(frozen=True)
class H5Stack:
    """Frames in one dataset (n, H, W); the file is open only while frames are read.

    Compressed frames are stored in blocks of several. The last block read is
    kept, or reading frame by frame would decompress each block many times.

    Parameters
    ----------
    path : pathlib.Path
        The file.
    place : tuple of str
        Names of the groups that lead to the dataset, and its own.
    shape : (int, int, int)
        n, H, W; n may be less than the dataset has.
    dtype : numpy.dtype
        As in the file.
    """

    path: Path
    place: tuple[str, ...]
    shape: tuple[int, int, int]
    dtype: np.dtype[Any]
    _kept: dict[str, tuple[int, npt.NDArray[Any]]] = dataclasses.field(
        default_factory=dict, init=False, repr=False, compare=False
    )

    def __len__(self) -> int:
        return self.shape[0]

    def __getitem__(self, index: slice) -> npt.NDArray[Any]:
        """Return the frames of a slice with step 1 as (n, H, W).

        Raises
        ------
        ImageError
            If the file is gone, changed or damaged.
        """
        span = _span(index, len(self))
        start, block = self._kept.get("block", (0, None))
        if block is None or span.start < start or span.stop > start + len(block):
            start, block = self._read(span)
        return block[span.start - start : span.stop - start].copy()

    def _read(self, span: range) -> tuple[int, npt.NDArray[Any]]:
        """Return whole blocks that hold a span, and where they begin."""
        with reading(self.path) as file:
            dataset = images(file, *self.place, ndim=3)
            if dataset is None or dataset.shape[1:] != self.shape[1:] or len(dataset) < len(self):
                raise ImageError(f"{self.path.name} has changed since it was opened; open it again")
            step = dataset.chunks[0] if dataset.chunks else 1
            if step * math.prod(self.shape[1:]) * self.dtype.itemsize > _KEPT_LIMIT:
                step = 1
            start = span.start // step * step
            block = np.asarray(dataset[start : -(-span.stop // step) * step])
        if step > len(span):
            self._kept["block"] = (start, block)
        return start, block


def stack(file: h5py.File, path: Path, *place: str) -> H5Stack | None:
    """Return the dataset (n, H, W) at a place as frames, or None where there is none.

    Raises
    ------
    ImageError
        As `images`.
    """
    dataset = images(file, *place, ndim=3)
    if dataset is None:
        return None
    n, height, width = dataset.shape
    return H5Stack(path, place, (n, height, width), dataset.dtype)


@dataclasses.dataclass(frozen=True)
class H5Series:
    """Frames in one dataset (H, W) each; the file is open only while frames are read.

    Parameters
    ----------
    path : pathlib.Path
        The file.
    places : tuple of tuple of str
        n places as in `H5Stack`. Where `correct` is not empty, of groups that
        hold the frame as ``raw``, and its backgrounds in ``bg_data``.
    shape : (int, int, int)
        n, H, W.
    dtype : numpy.dtype
        Of what is returned.
    correct : {"", "difference", "ratio"}
        Subtract the backgrounds, or divide by them; nothing where empty.
    """

    path: Path
    places: tuple[tuple[str, ...], ...]
    shape: tuple[int, int, int]
    dtype: np.dtype[Any]
    correct: Literal["", "difference", "ratio"] = ""

    def __len__(self) -> int:
        return self.shape[0]

    def __getitem__(self, index: slice) -> npt.NDArray[Any]:
        """Return the frames of a slice with step 1 as (n, H, W).

        Raises
        ------
        ImageError
            If the file is gone, changed or damaged.
        """
        span = _span(index, len(self))
        frames = np.empty((len(span), *self.shape[1:]), self.dtype)
        with reading(self.path) as file:
            for n, i in enumerate(span):
                frames[n] = self._read(file, self.places[i])
        return frames

    def _read(self, file: h5py.File, place: tuple[str, ...]) -> npt.NDArray[Any]:
        dataset = images(file, *place, *(("raw",) if self.correct else ()), ndim=2)
        if dataset is None or dataset.shape != self.shape[1:]:
            raise ImageError(f"{self.path.name} has changed since it was opened; open it again")
        frame: npt.NDArray[Any] = dataset[()]
        if not self.correct:
            return frame
        corrected = frame.astype(np.float64)
        for background in _backgrounds(file, place, self.shape[1:]):
            if self.correct == "difference":
                corrected -= background
            else:
                # Zero amplitude has no ratio: NaN, which later steps mark as bad.
                corrected /= np.where(background == 0, np.nan, background)
        return corrected


def _backgrounds(
    file: h5py.File, place: tuple[str, ...], shape: tuple[int, ...]
) -> Iterator[npt.NDArray[Any]]:
    """Yield the images or numbers that qpimage keeps beside a frame."""
    import h5py

    held = member(file, *place, "bg_data")
    for name in sorted(held) if isinstance(held, h5py.Group) else ():
        single = getattr(child(held, name), "shape", None) == ()
        dataset = images(held, name, ndim=0 if single else 2)
        if dataset is None:
            continue
        if dataset.shape not in ((), shape):
            raise ImageError(
                f"{Path(file.filename).name}: the background {_place(held, name)} is "
                f"{dataset.shape}, the frame {shape}; save the file again"
            )
        yield np.asarray(dataset[()])


def series(
    file: h5py.File,
    path: Path,
    places: Sequence[tuple[str, ...]],
    correct: Literal["", "difference", "ratio"] = "",
) -> H5Series | None:
    """Return datasets (H, W) as frames, or None where the first is not there.

    Raises
    ------
    ImageError
        As `images` for the first; also if a later one is not there, or of another shape.
    """
    if not places:
        return None
    inner = ("raw",) if correct else ()
    first = images(file, *places[0], *inner, ndim=2)
    if first is None:
        return None
    for place in places[1:]:
        # The rest is checked when it is read: a series may have thousands.
        shape = getattr(member(file, *place, *inner), "shape", None)
        if shape != first.shape:
            raise ImageError(
                f"{path.name}: {_shown('/'.join(place))} "
                + ("is missing" if shape is None else f"is {shape}, not {first.shape}")
                + "; all frames of a series must be there and of one size: save it again"
            )
    dtype = np.result_type(first.dtype, np.float32) if correct else first.dtype
    height, width = first.shape
    return H5Series(path, tuple(places), (len(places), height, width), dtype, correct)
