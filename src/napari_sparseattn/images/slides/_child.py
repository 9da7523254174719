"""The process in which OpenSlide and wsidicom run, so that they may crash or hang.

Run as ``python -m napari_sparseattn.images.slides._child``. It answers
requests, one JSON object per line on standard input, by a JSON object per
line on standard output, followed by as many raw bytes as its ``n_bytes`` says.
It ends when its input does.
"""

from __future__ import annotations

import abc
import json
import math
import os
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import IO, Any

import numpy as np
import numpy.typing as npt

from .dicom import files_of_slide

__all__ = ["main"]

Answer = tuple[dict[str, Any], bytes]
_MEMORY = 4 * 2**30
_MOST_IMAGE_PIXELS = 2**26
# What the libraries raise; all else is a fault of ours and ends the process.
_ERRORS: tuple[type[Exception], ...] = (
    ValueError,
    OSError,
    LookupError,
    TypeError,
    AttributeError,
    ArithmeticError,
    AssertionError,
    RuntimeError,
    NotImplementedError,
    MemoryError,
)


class _Slide(abc.ABC):
    """What a library gives."""

    @abc.abstractmethod
    def __init__(self, path: str) -> None:
        """Open the slide."""

    @staticmethod
    @abc.abstractmethod
    def errors() -> tuple[type[Exception], ...]:
        """Return the library's own errors, which need not derive from Python's."""

    @abc.abstractmethod
    def about(self) -> dict[str, Any]:
        """Return sizes and names."""

    @abc.abstractmethod
    def tile(
        self, level: int, y: int, x: int, height: int, width: int
    ) -> npt.NDArray[np.uint8] | None:
        """Return pixels of a level, RGB or RGBA; None where there are none."""

    @abc.abstractmethod
    def image(self, name: str) -> npt.NDArray[np.uint8]:
        """Return an associated image as RGB."""

    @abc.abstractmethod
    def profile(self) -> bytes:
        """Return the ICC profile, empty where there is none."""

    @abc.abstractmethod
    def close(self) -> None:
        """Close the slide."""


class _OpenSlide(_Slide):
    """A slide that OpenSlide reads; tiles come as RGBA, alpha 0 where there are no pixels."""

    def __init__(self, path: str) -> None:
        import openslide

        self._slide = openslide.OpenSlide(path)
        held = self._slide.properties
        width, height = self._slide.dimensions
        # The scanned part, which is the whole slide to QuPath too.
        x, y, w, h = (
            int(held.get(f"openslide.bounds-{side}", whole))
            for side, whole in zip(
                ("x", "y", "width", "height"), (0, 0, width, height), strict=True
            )
        )
        inside = x >= 0 and y >= 0 and w > 0 and h > 0 and x + w <= width and y + h <= height
        self._bounds = (x, y, w, h) if inside else (0, 0, width, height)

    @staticmethod
    def errors() -> tuple[type[Exception], ...]:
        import openslide

        return (openslide.OpenSlideError,)

    def about(self) -> dict[str, Any]:
        slide = self._slide
        held = slide.properties
        tiles = []
        for n in range(slide.level_count):
            side = [int(held.get(f"openslide.level[{n}].tile-{a}", 0)) for a in ("height", "width")]
            tiles.append(side if all(128 <= s <= 1024 for s in side) else [512, 512])
        pixel_size = [float(held.get(f"openslide.mpp-{axis}", "nan")) for axis in "yx"]
        return {
            "vendor": held.get("openslide.vendor", ""),
            "shapes": [
                [math.ceil(side / downsample) for side in (self._bounds[3], self._bounds[2])]
                for downsample in slide.level_downsamples
            ],
            "downsamples": list(slide.level_downsamples),
            "tiles": tiles,
            "background": held.get("openslide.background-color", ""),
            "pixel_size": pixel_size if np.isfinite(pixel_size).all() else None,
            "images": sorted(slide.associated_images),
        }

    def tile(self, level: int, y: int, x: int, height: int, width: int) -> npt.NDArray[np.uint8]:
        downsample = self._slide.level_downsamples[level]
        corner = self._bounds[0] + round(x * downsample), self._bounds[1] + round(y * downsample)
        return np.asarray(self._slide.read_region(corner, level, (width, height)))

    def image(self, name: str) -> npt.NDArray[np.uint8]:
        return np.asarray(self._slide.associated_images[name].convert("RGB"))

    def profile(self) -> bytes:
        found = self._slide.color_profile
        return b"" if found is None else found.tobytes()

    def close(self) -> None:
        self._slide.close()


class _Dicom(_Slide):
    """A slide that wsidicom reads; tiles come as RGB, or None where the file holds none."""

    def __init__(self, path: str) -> None:
        import wsidicom

        self._files, self._notes = files_of_slide(Path(path))
        self._slide = wsidicom.WsiDicom.open(self._files)
        self._levels = list(self._slide.levels)

    @staticmethod
    def errors() -> tuple[type[Exception], ...]:
        import pydicom.errors
        import wsidicom.errors

        return wsidicom.errors.WsiDicomError, pydicom.errors.InvalidDicomError

    def about(self) -> dict[str, Any]:
        tile = self._slide.tile_size
        spacing = self._levels[0].pixel_spacing
        shapes = [[level.size.height, level.size.width] for level in self._levels]
        images = {"label": self._slide.labels, "macro": self._slide.overviews}
        return {
            "vendor": "dicom",
            "shapes": shapes,
            "downsamples": [self._downsample(level, *shapes[0]) for level in self._levels],
            "tiles": [[tile.height, tile.width]] * len(shapes),
            "pixel_size": None if spacing is None else [spacing.height * 1e3, spacing.width * 1e3],
            "images": [name for name, held in images.items() if held],
            "notes": [*self._notes, *self._left_out()],
        }

    def _left_out(self) -> list[str]:
        """Return what the slide holds beside the images that are read."""
        found = []
        for held, what in (
            (len(self._levels[0].optical_paths), "optical paths"),
            (len(self._levels[0].focal_planes), "focal planes"),
        ):
            if held > 1:
                found.append(f"holds {held} {what}; the first is read")
        return found

    def _downsample(self, level: Any, height: int, width: int) -> float:
        """Return level-0 pixels per pixel; sizes may be padded to whole tiles."""
        first, own = self._levels[0].pixel_spacing, level.pixel_spacing
        if first is None or own is None or not first.width > 0:
            return float(height / level.size.height)
        ratio = float((own.width / first.width + own.height / first.height) / 2)
        whole = round(ratio)
        padded = level.size.height * ratio, level.size.width * ratio
        tile = self._slide.tile_size
        fits = all(
            side - ratio <= has < side + ratio * (most + 1)
            for side, has, most in zip(
                (height, width), padded, (tile.height, tile.width), strict=True
            )
        )
        if not fits:  # the spacing of another level was copied
            return float(height / level.size.height)
        return float(whole) if abs(ratio - whole) < 0.01 * ratio else ratio

    def tile(
        self, level: int, y: int, x: int, height: int, width: int
    ) -> npt.NDArray[np.uint8] | None:
        from wsidicom.geometry import Point

        at = self._levels[level]
        data = at.default_instance.image_data
        place = Point(x // at.tile_size.width, y // at.tile_size.height)
        tiles = getattr(data, "tiles", None)
        # wsidicom paints white where a sparse file holds no tile.
        if tiles is not None:
            frame = tiles.get_frame_index(place, at.default_instance.default_z, data.default_path)
            if frame == -1:
                return None
        image = self._slide.read_tile(at.level, (place.x, place.y))
        pixels: npt.NDArray[np.uint8] = np.asarray(image.convert("RGB"))[:height, :width]
        return pixels

    def image(self, name: str) -> npt.NDArray[np.uint8]:
        read = self._slide.read_label if name == "label" else self._slide.read_overview
        return np.asarray(read().convert("RGB"))

    def profile(self) -> bytes:
        import pydicom

        tags = ["ImageType", "OpticalPathSequence"]
        for file in self._files:
            held = pydicom.dcmread(file, specific_tags=tags, stop_before_pixels=True)
            if "VOLUME" not in held.get("ImageType", ()):
                continue
            # The pixels are those of the first path.
            for path in list(held.get("OpticalPathSequence", ()))[:1]:
                if "ICCProfile" in path:
                    return bytes(path.ICCProfile)
        return b""

    def close(self) -> None:
        self._slide.close()


_KINDS: dict[str, type[_Slide]] = {"openslide": _OpenSlide, "dicom": _Dicom}


class _Server:
    """Answers requests about one slide."""

    def __init__(self) -> None:
        self._slide: _Slide | None = None
        self._given: tuple[str, str] = ("", "")

    def answer(self, request: dict[str, Any]) -> Answer:
        """Return the answer to one request; errors of the library as text."""
        try:
            if request["do"] == "open":
                self._given = request["kind"], request["path"]
            errors: tuple[type[Exception], ...] = _KINDS[self._given[0]].errors()
        except ImportError as error:
            return {"error": str(error), "missing": True}, b""
        try:
            return self._do(request)
        except errors + _ERRORS as error:
            self._reopen()
            return {"error": _text(error)}, b""

    def _do(self, request: dict[str, Any]) -> Answer:
        if request["do"] == "open":
            self._slide = _KINDS[self._given[0]](self._given[1])
            return self._slide.about(), b""
        if self._slide is None:
            return {"error": "no slide is open"}, b""
        if request["do"] == "profile":
            return {}, self._slide.profile()
        if request["do"] == "image":
            return _pack(self._slide.image(request["name"]), _MOST_IMAGE_PIXELS)
        place: Sequence[int] = request["tile"]
        pixels = self._slide.tile(*place)
        return ({}, b"") if pixels is None else _pack(pixels, _MOST_IMAGE_PIXELS)

    def _reopen(self) -> None:
        # One error leaves an OpenSlide handle unusable for good.
        if self._slide is not None:
            self._slide.close()
            self._slide = _KINDS[self._given[0]](self._given[1])


def _pack(pixels: npt.NDArray[np.uint8], most: int) -> Answer:
    if pixels.dtype != np.uint8 or pixels.shape[0] * pixels.shape[1] > most:
        return {"error": f"it gave {pixels.dtype} {pixels.shape}"}, b""
    return {"shape": list(pixels.shape)}, pixels.tobytes()


def _text(error: BaseException) -> str:
    return " ".join(str(error).split())[:300] or type(error).__name__


def _limit() -> None:
    """Bound the memory and leave no core dumps, where the system can."""
    if sys.platform == "win32":
        return
    import resource

    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    if sys.platform == "linux":
        resource.setrlimit(resource.RLIMIT_AS, (_MEMORY, _MEMORY))


def _serve(requests: IO[bytes], answers: IO[bytes]) -> None:
    server = _Server()
    for line in requests:
        head, body = server.answer(json.loads(line))
        answers.write(json.dumps({**head, "n_bytes": len(body)}).encode() + b"\n")
        answers.write(body)
        answers.flush()


def main() -> None:
    """Serve until the input ends."""
    _limit()
    # What the libraries print must not come between the answers.
    answers = os.fdopen(os.dup(1), "wb")
    os.dup2(2, 1)
    _serve(sys.stdin.buffer, answers)


if __name__ == "__main__":
    main()
