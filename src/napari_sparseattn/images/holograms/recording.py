"""What an instrument recorded: frames on their way to optical path difference."""

from __future__ import annotations

import dataclasses
import math
from pathlib import Path
from typing import Any, Literal, Protocol, get_args

import numpy as np
import numpy.typing as npt

from ...reprs import short_repr

__all__ = ["Frames", "Kind", "Recording"]

Kind = Literal["hologram", "field", "phase", "opd"]


class Frames(Protocol):
    """A stack read piece by piece: a numpy array (n, H, W), or a file's dataset."""

    @property
    def shape(self) -> tuple[int, ...]:
        """(n, H, W)."""
        ...

    @property
    def dtype(self) -> np.dtype[Any]:
        """Type of the values."""
        ...

    def __len__(self) -> int:
        """Return the number of frames."""
        ...

    def __getitem__(self, index: slice) -> npt.NDArray[Any]:
        """Return the frames of a slice with step 1 as (n, H, W)."""
        ...


@dataclasses.dataclass(frozen=True, eq=False)
class Recording:
    """Frames of one field of view, and what is known of how they were recorded.

    Parameters
    ----------
    frames : Frames
        (n, H, W). Read piece by piece; files are opened only while reading.
    kind : {"hologram", "field", "phase", "opd"}
        Off-axis holograms (real intensities), complex fields, phase in rad,
        or optical path difference in nm.
    pixel_size : float, optional
        µm per pixel in the sample plane; None where the file does not say.
    wavelength : float, optional
        Vacuum wavelength in nm.
    medium_index : float, optional
        Refractive index of the medium around the cells.
    background : Frames, optional
        The same kind without cells: one frame, or one per frame.
    amplitude : Frames, optional
        (n, H, W), beside phase or OPD.
    name : str
        What to call it.
    path : pathlib.Path, optional
        The file.
    notes : tuple of str
        What the user should know about how the file was read.

    Raises
    ------
    ValueError
        If shapes do not agree, there are no frames, the values are not of the
        kind, or a number is not positive.
    """

    __repr__ = short_repr

    frames: Frames
    kind: Kind
    pixel_size: float | None = None
    wavelength: float | None = None
    medium_index: float | None = None
    background: Frames | None = None
    amplitude: Frames | None = None
    name: str = ""
    path: Path | None = None
    notes: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        if self.kind not in get_args(Kind):
            raise ValueError(f"kind must be one of {', '.join(get_args(Kind))}, got {self.kind!r}")
        shape = tuple(self.frames.shape)
        if len(shape) != 3 or 0 in shape:
            raise ValueError(f"frames must be a stack (n, H, W) that is not empty, got {shape}")
        kinds = "c" if self.kind == "field" else "biuf"
        if self.frames.dtype.kind not in kinds:
            raise ValueError(f"{self.kind} frames cannot be of type {self.frames.dtype}")
        for what in ("background", "amplitude"):
            other: Frames | None = getattr(self, what)
            counts = (1, shape[0]) if what == "background" else (shape[0],)
            if other is not None and (
                tuple(other.shape[1:]) != shape[1:] or other.shape[0] not in counts
            ):
                raise ValueError(
                    f"the {what} is {tuple(other.shape)}, the frames are {shape}: it must have "
                    "their height and width, and " + " or ".join(map(str, counts)) + " frames"
                )
        for what in ("pixel_size", "wavelength", "medium_index"):
            value: float | None = getattr(self, what)
            if value is not None and not (math.isfinite(value) and value > 0):
                raise ValueError(f"{what} must be a positive number or unknown, got {value}")

    def __len__(self) -> int:
        """Return the number of frames."""
        return len(self.frames)

    @property
    def shape(self) -> tuple[int, int]:
        """Height and width in pixels."""
        return int(self.frames.shape[1]), int(self.frames.shape[2])

    def frame(self, index: int) -> npt.NDArray[Any]:
        """Return one frame (H, W).

        Raises
        ------
        IndexError
            If there is no such frame.
        """
        if not 0 <= index < len(self):
            raise IndexError(f"no frame {index}: the recording has {len(self)}")
        frames: npt.NDArray[Any] = np.asarray(self.frames[index : index + 1])
        return frames.reshape(frames.shape[1:])

    def background_of(self, index: int) -> npt.NDArray[Any] | None:
        """Return the background (H, W) of a frame, or None."""
        if self.background is None:
            return None
        at = index if len(self.background) > 1 else 0
        frames: npt.NDArray[Any] = np.asarray(self.background[at : at + 1])
        return frames.reshape(frames.shape[1:])

    def with_known(
        self,
        *,
        pixel_size: float | None = None,
        wavelength: float | None = None,
        medium_index: float | None = None,
    ) -> Recording:
        """Return a copy in which what is given replaces what the file says."""
        return dataclasses.replace(
            self,
            pixel_size=self.pixel_size if pixel_size is None else pixel_size,
            wavelength=self.wavelength if wavelength is None else wavelength,
            medium_index=self.medium_index if medium_index is None else medium_index,
        )
