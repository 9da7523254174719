"""One field of view: its pixels, what the axes mean, and its physical scale."""

from __future__ import annotations

import dataclasses
import functools
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Literal, get_args

import numpy as np
import numpy.typing as npt

from ...reprs import short_repr
from ..errors import isotropic_size

__all__ = ["Field", "Modality"]

Modality = Literal["brightfield", "phase", "opd", "fluorescence", "hologram", "unknown"]

_AXES = "TZYXC"
_UNITS = ("", "rad", "nm")
_COLOUR_CHANNELS = (3, 4)
# Glass of a well exposed image, of full scale; below `_DIM` a camera has fewer bits than the file.
_WHITE, _DIM = 0.92, 0.5
#: Highest decimal value that is still taken for a share of full scale, a little overexposed.
_MOST_DECIMAL = 2.0
_WHITE_QUANTILE, _GLASS_QUANTILE = 0.98, 0.8


@dataclasses.dataclass(frozen=True, eq=False)
class Field:
    """A field of view.

    Parameters
    ----------
    data : numpy.ndarray
        Pixels, of a bool, integer or floating type. May be memory-mapped.
        NaN and infinite pixels are allowed; see `n_invalid`.
    axes : str
        One letter per axis of `data`, a subset of ``"TZYXC"`` in that order
        that contains ``"YX"``.
    pixel_size : float, optional
        µm per pixel along both y and x; None where it is not known.
    modality : {"brightfield", "phase", "opd", "fluorescence", "hologram", "unknown"}
        What the values show. ``"unknown"`` is for the user to settle.
    unit : {"", "rad", "nm"}
        Unit of the values; ``""`` for relative intensity.
    name : str
        What to call the field in tables and layers.
    path : pathlib.Path, optional
        The file the pixels came from.
    notes : tuple of str
        What the user should know, such as that the file holds other images.
    images : tuple of str
        Where the file holds several images: the size of each, in its order.
    image : int
        Which of them this is.
    profile : str
        Name of the ICC profile in the file; empty where there is none, or it is sRGB.
    profile_applied : bool
        Whether the colours were converted from it to sRGB.

    Raises
    ------
    TypeError
        If the pixels are complex, objects or text.
    ValueError
        If `axes` does not fit `data`, `data` is empty, or a value is not one
        of those listed.
    """

    __repr__ = short_repr

    data: npt.NDArray[Any]
    axes: str
    pixel_size: float | None = None
    modality: Modality = "unknown"
    unit: str = ""
    name: str = ""
    path: Path | None = None
    notes: tuple[str, ...] = ()
    images: tuple[str, ...] = ()
    image: int = 0
    profile: str = ""
    profile_applied: bool = False

    def __post_init__(self) -> None:
        _check_pixels(self.data)
        _check_axes(self.axes, self.data.shape)
        if self.modality not in get_args(Modality):
            known = ", ".join(get_args(Modality))
            raise ValueError(f"modality {self.modality!r} is not known; use one of {known}")
        if self.unit not in _UNITS:
            raise ValueError(
                f"unit {self.unit!r} is not known; convert phase to 'rad' or optical path "
                "difference to 'nm', or leave it '' for relative intensity"
            )
        if self.pixel_size is not None:
            object.__setattr__(self, "pixel_size", isotropic_size(self.pixel_size))

    @classmethod
    def from_array(
        cls,
        array: npt.ArrayLike,
        *,
        axes: str | None = None,
        pixel_size: float | Sequence[float] | None = None,
        modality: Modality | None = None,
        unit: str = "",
        name: str = "",
        path: Path | None = None,
        notes: tuple[str, ...] = (),
    ) -> Field:
        """Make a field, telling channels from frames where `axes` is not given.

        A last axis of 3 or 4 is colour when the values are 8- or 16-bit, or
        floats within 0..1, and the image is larger than that both ways. A
        last axis of 1 is a single channel. All other extra axes are frames,
        then z: a short leading axis (2 to 4) is *not* taken for colour.

        The modality is guessed only where it is plain: colour is brightfield,
        a single channel in rad is phase, in nm OPD. Otherwise it is
        ``"unknown"``, to be asked from the user.

        Of brightfield colour three things are mended, and noted: values of 16 or
        more bits that a camera of fewer bits left dark are scaled to the image's
        own white, decimal ones beyond 1 to 0 to 1, and what is fully transparent
        gets the colour of the glass.

        Parameters
        ----------
        array : array_like
            Two to five axes.
        axes : str, optional
            Letters from ``"TZYXC"``, in any order; the data is transposed.
        pixel_size : float or (float, float), optional
            µm per pixel, or its y and x parts, which must agree.
        modality, unit, name, path, notes
            See `Field`.

        Raises
        ------
        TypeError, ValueError
            As for `Field`; also for unequal y and x pixel sizes.
        """
        data = np.asanyarray(array)
        _check_pixels(data)
        if axes is None:
            axes = _guess_axes(data)
        data, axes = _canonical(data, axes.upper())
        if modality is None:
            modality = _guess_modality(data, axes, unit)
        size = None if pixel_size is None else isotropic_size(pixel_size)
        if modality == "brightfield" and axes.endswith("C") and not unit:
            data, mended = _mend_brightfield(data)
            notes += mended
        return cls(data, axes, size, modality, unit, name, path, notes)

    @property
    def shape(self) -> tuple[int, int]:
        """Height and width in pixels."""
        return self._length("Y"), self._length("X")

    @property
    def n_channels(self) -> int:
        """Channels that `plane` returns; alpha does not count in brightfield."""
        channels = self._length("C")
        return 3 if self._has_alpha else channels

    @property
    def n_frames(self) -> int:
        """Points in time."""
        return self._length("T")

    @property
    def n_slices(self) -> int:
        """Positions in z."""
        return self._length("Z")

    @functools.cached_property
    def n_invalid(self) -> int:
        """How many values are NaN or infinite; counted when first asked for."""
        if not np.issubdtype(self.data.dtype, np.floating):
            return 0
        # Frame by frame, so that a memory-mapped stack is not loaded at once.
        leading = self.data if self.data.ndim > 2 else self.data[None]
        return sum(int(np.count_nonzero(~np.isfinite(part))) for part in leading)

    def plane(self, t: int = 0, z: int = 0) -> npt.NDArray[Any]:
        """Return one image as (H, W, C), a view of the data.

        Whole numbers of nm or rad become decimal ones, as models divide whole
        numbers by the highest that their type can hold.

        The alpha channel of a brightfield RGBA image is dropped, not
        composited: smears are opaque, and alpha there marks edited regions.

        Raises
        ------
        IndexError
            If there is no such frame or slice.
        """
        image = self._at(t, z)
        if self.unit and image.dtype.kind in "iub":
            image = image.astype(np.float32)
        if "C" not in self.axes:
            return image[..., np.newaxis]
        return image[..., :3] if self._has_alpha else image

    def channel(self, index: int) -> Field:
        """Return one channel as a field of its own; of a field without channels itself.

        Raises
        ------
        IndexError
            If there is no such channel.
        """
        count = self._length("C")
        if not 0 <= index < count:
            raise IndexError(f"no channel {index}: there are {count}, from 0")
        if "C" not in self.axes:
            return self
        return dataclasses.replace(
            self, data=self.data[..., index], axes=self.axes.removesuffix("C")
        )

    def transparent(self, t: int = 0, z: int = 0) -> npt.NDArray[np.bool_] | None:
        """Return which pixels (H, W) are fully transparent; None where none can be.

        Raises
        ------
        IndexError
            If there is no such frame or slice.
        """
        if not self._has_alpha or self.data.dtype.kind != "u":
            return None
        clear: npt.NDArray[np.bool_] = self._at(t, z)[..., 3] == 0
        return clear if clear.any() and not clear.all() else None

    def _at(self, t: int, z: int) -> npt.NDArray[Any]:
        image = self.data
        for letter, index in (("T", t), ("Z", z)):
            if not 0 <= index < self._length(letter):
                what = "frame" if letter == "T" else "z slice"
                raise IndexError(f"no {what} {index}: the field has {self._length(letter)}")
            if letter in self.axes:
                image = image[index]
        return image

    @property
    def _has_alpha(self) -> bool:
        return self.modality == "brightfield" and self._length("C") == 4

    def _length(self, letter: str) -> int:
        return self.data.shape[self.axes.index(letter)] if letter in self.axes else 1


def _check_pixels(data: npt.NDArray[Any]) -> None:
    if not isinstance(data, np.ndarray):
        raise TypeError(f"pixels must be a numpy array, got {type(data).__name__}")
    if data.dtype != bool and data.dtype.kind not in "iuf":
        hint = "take its phase or amplitude" if data.dtype.kind == "c" else "convert it to numbers"
        raise TypeError(f"images of type {data.dtype} are not supported; {hint} first")
    if data.size == 0:
        raise ValueError(f"the image is empty: its shape is {data.shape}")


def _mend_brightfield(data: npt.NDArray[Any]) -> tuple[npt.NDArray[Any], tuple[str, ...]]:
    """Return colour pixels (..., C) as a camera of all bits would have given them, and notes."""
    if data.shape[-1] not in _COLOUR_CHANNELS:
        return data, ()
    notes: tuple[str, ...] = ()
    bits = 8 * data.dtype.itemsize
    if data.dtype.kind in "iu" and bits > 8:
        full = np.iinfo(data.dtype).max
        white = float(np.quantile(data[..., ::4, ::4, :3], _WHITE_QUANTILE))
        if 0 < white < _DIM * full:
            lifted = np.clip(data[..., :3] * np.float32(_WHITE * 65535 / white), 0, 65535)
            # Alpha, if any, says which pixels are clear, and those alone.
            alpha = data[..., 3:] if bits == 16 else np.where(data[..., 3:] > 0, 65535, 0)
            data = np.concatenate([np.rint(lifted), alpha], axis=-1).astype(np.uint16)
            note = f"{bits}-bit values were scaled: the image's own white is {white:.0f} of {full}"
            notes += (note,)
    elif data.dtype.kind == "f":
        missing = int(np.count_nonzero(~np.isfinite(data).all(axis=-1)))
        if missing:
            note = f"{missing} pixels hold no number (NaN or infinite): they are filled in, and "
            notes += (note + "classes near them may not hold",)
        data, scaled = _within_one(data)
        notes += scaled
    if data.shape[-1] == 4 and data.dtype.kind == "u":
        clear = data[..., 3] == 0
        if clear.any() and not clear.all():
            glass = np.quantile(data[~clear][:, :3], _GLASS_QUANTILE, axis=0)
            data = data.copy()
            data[clear, :3] = glass.astype(data.dtype)
            notes += ("transparent parts are not part of the image: they are taken for glass",)
    return data, notes


def _within_one(data: npt.NDArray[Any]) -> tuple[npt.NDArray[Any], tuple[str, ...]]:
    """Return decimal colours (..., C) as 0 to 1, and a note where they were the values of bits."""
    some = data[..., ::4, ::4, :3]
    finite = some[np.isfinite(some)]
    highest = float(finite.max(initial=0))
    if highest <= _MOST_DECIMAL:
        return data, ()
    full = next((n for n in (255, 65535) if highest <= n), highest)
    white, scale = float(np.quantile(finite, _WHITE_QUANTILE)), 1 / full
    if 0 < white < _DIM * full:
        scale = _WHITE / white
    note = f"decimal values up to {highest:g} were scaled to 0 to 1, as models take them"
    return data.astype(np.float32) * np.float32(scale), (note,)


def _check_axes(axes: str, shape: tuple[int, ...]) -> None:
    if "YX" not in axes or axes != "".join(a for a in _AXES if a in axes):
        raise ValueError(f"axes {axes!r} must be letters from 'TZYXC' in that order, with 'YX'")
    if len(axes) != len(shape):
        raise ValueError(
            f"axes {axes!r} name {len(axes)} axes, but the image has {len(shape)}: {shape}"
        )


def _canonical(data: npt.NDArray[Any], axes: str) -> tuple[npt.NDArray[Any], str]:
    """Transpose to the order of "TZYXC"; a view."""
    if len(set(axes)) != len(axes) or not set("YX") <= set(axes) <= set(_AXES):
        raise ValueError(
            f"axes {axes!r} must be different letters from 'TZYXC' that include Y and X"
        )
    if len(axes) != data.ndim:
        raise ValueError(
            f"axes {axes!r} name {len(axes)} axes, but the image has {data.ndim}: {data.shape}"
        )
    ordered = "".join(a for a in _AXES if a in axes)
    return data.transpose([axes.index(a) for a in ordered]), ordered


def _guess_axes(data: npt.NDArray[Any]) -> str:
    if not 2 <= data.ndim <= 5:
        raise ValueError(f"an image needs 2 to 5 axes, got {data.ndim}: {data.shape}")
    channels_last = data.ndim > 2 and (data.shape[-1] == 1 or _looks_like_colour(data))
    spatial = "YXC" if channels_last else "YX"
    frames = {0: "", 1: "T", 2: "TZ"}.get(data.ndim - len(spatial))
    if frames is None:
        raise ValueError(
            f"cannot tell what the axes of {data.shape} are; name them, e.g. axes='TZYXC'"
        )
    return frames + spatial


def _looks_like_colour(data: npt.NDArray[Any]) -> bool:
    channels = data.shape[-1]
    if channels not in _COLOUR_CHANNELS or min(data.shape[-3:-1]) <= channels:
        return False
    if data.dtype in (np.uint8, np.uint16):
        return True
    if not np.issubdtype(data.dtype, np.floating):
        return False
    finite = np.isfinite(data)
    return bool(np.all((data >= 0) & (data <= 1), where=finite) and finite.any())


def _guess_modality(data: npt.NDArray[Any], axes: str, unit: str) -> Modality:
    channels = data.shape[-1] if axes.endswith("C") else 1
    if channels in _COLOUR_CHANNELS and (
        data.dtype in (np.uint8, np.uint16) or _looks_like_colour(data)
    ):
        return "brightfield"
    if channels == 1 and np.issubdtype(data.dtype, np.floating):
        by_unit: dict[str, Modality] = {"rad": "phase", "nm": "opd"}
        return by_unit.get(unit, "unknown")
    return "unknown"
