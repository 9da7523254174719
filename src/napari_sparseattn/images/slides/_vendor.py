"""Slides of vendors' formats and DICOM, read by libraries in another process."""

from __future__ import annotations

import functools
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from ..errors import ImageError
from ._checks import (
    check_level,
    check_unchanged,
    file_state,
    known_pixel_size,
)
from ._ledger import Level, TileKey
from ._process import (
    MissingLibraryError,
    ProcessDied,
    SlideProcess,
)
from ._tiles import LazyImages, Tile
from .pyramid import Pyramid

__all__ = ["VendorPyramid", "open_vendor"]

_PACKAGES = {"openslide": "openslide-python openslide-bin", "dicom": "wsidicom"}
_CZI_MAGIC = b"ZISRAWFILE"
# Crashes within one read after which the rest of it is given up: each may
# take as long as the process is waited for.
_MOST_DEATHS = 3


class VendorPyramid(Pyramid):
    """A slide read in another process; made by `open_vendor`."""

    def __init__(
        self, process: SlideProcess, path: Path, levels: Sequence[Level], pixel_size: float | None
    ) -> None:
        about = process.about
        notes = tuple(f"{path.name} {note}" for note in about.get("notes", ()))
        pixel_size, about_scale = known_pixel_size(
            path.name, about["pixel_size"], about["vendor"], given=pixel_size
        )
        notes += about_scale
        super().__init__(
            levels,
            name=path.stem,
            path=path,
            pixel_size=pixel_size,
            notes=notes,
            background=_colour(about.get("background")),
        )
        self._process = process
        self._given, self._state = path, file_state(path)

    @functools.cached_property
    def associated(self) -> Mapping[str, npt.NDArray[Any]]:
        """Other images in the file by name, read when taken."""
        readers = {
            name: functools.partial(self._image, name) for name in self._process.about["images"]
        }
        return LazyImages(readers)

    @functools.cached_property
    def icc_profile(self) -> bytes | None:
        """The ICC colour profile of the pixels, where the file holds one."""
        _, profile = self._ask({"do": "profile"})
        return profile or None

    def close(self) -> None:
        """End the process; what was read stays."""
        super().close()
        self._process.close()

    def _image(self, name: str) -> npt.NDArray[np.uint8]:
        head, body = self._ask({"do": "image", "name": name})
        return np.frombuffer(body, np.uint8).reshape(head["shape"])

    def _ask(self, request: dict[str, Any]) -> tuple[dict[str, Any], bytes]:
        try:
            head, body = self._process.ask(request)
        except ProcessDied as error:
            raise ImageError(f"{self.name}: the library {error}; that part is damaged") from error
        if "error" in head:
            raise ImageError(f"{self.name}: {head['error']}")
        return head, body

    def _fetch(self, level: int, tiles: Sequence[TileKey]) -> Sequence[Tile]:
        check_unchanged(self._given, self._state)
        found, deaths = [], 0
        for tile in tiles:
            if deaths >= _MOST_DEATHS:
                found.append(Tile(failure=f"not tried: the library died {deaths} times before it"))
                continue
            start = time.perf_counter()
            try:
                found.append(self._read(level, tile, start))
            except ProcessDied as error:
                deaths += 1
                seconds = time.perf_counter() - start
                found.append(Tile(seconds=seconds, failure=f"the library {error}"))
        return found

    def _read(self, level: int, tile: TileKey, start: float) -> Tile:
        at = self.levels[level]
        y, x = tile[0] * at.tile[0], tile[1] * at.tile[1]
        height, width = min(at.tile[0], at.height - y), min(at.tile[1], at.width - x)
        head, body = self._process.ask({"do": "tile", "tile": [level, y, x, height, width]})
        seconds = time.perf_counter() - start
        if "error" in head:
            return Tile(seconds=seconds, failure=head["error"])
        if not body:
            return Tile(seconds=seconds)
        pixels = np.frombuffer(body, np.uint8).reshape(head["shape"])
        if pixels.shape[2] == 3:
            return Tile(pixels, seconds=seconds)
        valid = pixels[..., 3] > 0
        if not valid.any():
            return Tile(seconds=seconds)
        colours = np.ascontiguousarray(pixels[..., :3])
        return Tile(colours, None if valid.all() else valid, seconds=seconds)


def open_vendor(
    path: Path,
    kind: str,
    pixel_size: float | None = None,
    *,
    open_seconds: float = 30.0,
    read_seconds: float = 10.0,
) -> VendorPyramid:
    """Open a slide by a library in another process.

    Parameters
    ----------
    path : pathlib.Path
        The slide.
    kind : {"openslide", "dicom"}
        The library.
    pixel_size : float, optional
        µm per pixel, in place of what the file says.
    open_seconds, read_seconds : float
        Time to open it and to read one tile; after that the process is killed.

    Raises
    ------
    ImageError
        If it cannot be opened, or the library is not installed.
    """
    try:
        process = SlideProcess(kind, path, open_seconds, read_seconds)
    except MissingLibraryError as error:
        raise ImageError(
            f"{path.name} is of a kind that needs more packages ({error}): "
            f"pip install {_PACKAGES[kind]}"
        ) from error
    except ImageError as error:
        if why := _incomplete(path):
            raise ImageError(f"{path.name} cannot be opened as a slide: {why}") from error
        raise
    try:
        about = process.about
        levels = []
        for (height, width), downsample, tile in zip(
            about["shapes"], about["downsamples"], about["tiles"], strict=True
        ):
            check_level(path.name, height, width, tile, None, 4)
            levels.append(Level(height, width, float(downsample), (tile[0], tile[1])))
        return VendorPyramid(process, path, levels, pixel_size)
    except (ImageError, ValueError, KeyError, TypeError) as error:
        process.close()
        if isinstance(error, ImageError):
            raise
        raise ImageError(f"{path.name} has levels that do not fit ({error})") from error


def _colour(stated: object) -> tuple[int, ...] | None:
    """Return a colour from six hexadecimal digits, or None."""
    try:
        found = bytes.fromhex(str(stated or ""))
    except ValueError:
        return None
    return tuple(found) if len(found) == 3 else None


def _incomplete(path: Path) -> str | None:
    """Return which part of a slide is missing, where its format tells, and what to do."""
    suffix, folder = path.suffix.lower(), path.with_suffix("")
    if suffix == ".mrxs":
        # The file is a picture of the slide; OpenSlide only says that it is no slide.
        if not folder.is_dir():
            return (
                f"its pixels are in a folder {folder.name} beside it, which is missing. Copy that "
                "folder too, and rename neither"
            )
        if not (folder / "Slidedat.ini").is_file():
            return f"the folder {folder.name} beside it lacks Slidedat.ini; copy it whole"
    if suffix == ".czi":
        with path.open("rb") as file:
            if file.read(len(_CZI_MAGIC)) != _CZI_MAGIC:
                return "it does not begin as a CZI does; copy or export it again"
        return (
            "OpenSlide reads stained slides in CZI only, and not all of them. Export it from ZEN, "
            "QuPath or Fiji as OME-TIFF"
        )
    return None
