"""Between recordings and napari layers: frames read when shown or reconstructed."""

from __future__ import annotations

import dataclasses
from typing import TYPE_CHECKING, Any, cast

import numpy as np
import numpy.typing as npt

from ...images.fields.field import Modality
from ...images.holograms.recording import Frames, Kind, Recording
from ..core.sources import METADATA_KEY, is_picture

if TYPE_CHECKING:
    from pathlib import Path

    from napari.layers import Image

__all__ = [
    "IN_FILE",
    "Facts",
    "LayerData",
    "LayerFrames",
    "ShownFrames",
    "facts_of",
    "is_result",
    "kind_of",
    "leading_shape",
    "recording_in",
    "recording_layer",
    "recording_of",
    "takes_holograms",
]

LayerData = tuple[Any, dict[str, Any], str]

#: Name of a background that is in the recording's own file.
IN_FILE = "in the file"
#: Kinds of recording by what the main dock calls the image.
_KINDS: dict[str, Kind] = {"hologram": "hologram", "phase": "phase", "opd": "opd"}
_UNITS: dict[Kind, str] = {"hologram": "", "field": "", "phase": "rad", "opd": "nm"}


@dataclasses.dataclass(frozen=True, eq=False)
class Facts:
    """How a layer was recorded, beside its pixel size.

    Parameters
    ----------
    wavelength : float or None
        nm in vacuum; None where nobody knows.
    medium_index : float or None
        Refractive index of the medium.
    background : Frames, Image or None
        The same without cells, as an array or a layer.
    background_name : str
        Its name.
    background_path : pathlib.Path or None
        Its file, where it is from one of its own.
    """

    wavelength: float | None = None
    medium_index: float | None = None
    background: Frames | Image | None = None
    background_name: str = ""
    background_path: Path | None = None


class ShownFrames:
    """Frames as an array that napari reads plane by plane.

    Parameters
    ----------
    frames : Frames
        (n, H, W). Of complex fields the amplitude is shown.
    """

    def __init__(self, frames: Frames) -> None:
        self._frames = frames
        self._complex = frames.dtype.kind == "c"
        self.shape: tuple[int, ...] = tuple(int(n) for n in frames.shape)
        self.dtype: np.dtype[Any] = np.dtype(np.float32) if self._complex else frames.dtype
        self.ndim = 3
        self.size = int(np.prod(self.shape))

    def __len__(self) -> int:
        return self.shape[0]

    def __getitem__(self, key: Any) -> npt.NDArray[Any]:
        """Read what a numpy index asks for, and no frame more."""
        first, *rest = key if isinstance(key, tuple) else (key,)
        if isinstance(first, slice) and first.step in (None, 1):
            read = self._read(*first.indices(self.shape[0])[:2])
            return read[(slice(None), *rest)]
        wanted = np.arange(self.shape[0])[first]
        if wanted.ndim == 0:
            at = int(wanted)
            one: npt.NDArray[Any] = self._read(at, at + 1)[(0, *rest)]
            return one
        read = np.concatenate([self._read(int(i), int(i) + 1) for i in wanted])
        return read[(slice(None), *rest)]

    def __array__(self, dtype: Any = None, copy: bool | None = None) -> npt.NDArray[Any]:
        """Read everything."""
        return np.asarray(self[:], dtype=dtype)

    def _read(self, start: int, stop: int) -> npt.NDArray[Any]:
        read = np.asarray(self._frames[slice(start, max(start, stop))])
        return np.abs(read).astype(np.float32) if self._complex else read


class LayerFrames:
    """A layer's planes as frames (n, H, W), read when asked for.

    Parameters
    ----------
    layer : napari.layers.Image
        Axes before y and x are taken one after the other; colour is averaged.
    """

    def __init__(self, layer: Image) -> None:
        self._data = layer.data[0] if layer.multiscale else layer.data
        self._rgb = bool(layer.rgb)
        self._leading = leading_shape(layer)
        height, width = self._data.shape[len(self._leading) : len(self._leading) + 2]
        self.shape: tuple[int, ...] = (int(np.prod(self._leading)), int(height), int(width))
        self.dtype: np.dtype[Any] = np.dtype(np.float32) if self._rgb else self._data.dtype

    def __len__(self) -> int:
        return self.shape[0]

    def __getitem__(self, index: slice) -> npt.NDArray[Any]:
        """Return the frames of a slice with step 1 as (n, H, W)."""
        wanted = range(*index.indices(self.shape[0]))
        if not wanted:
            return np.empty((0, *self.shape[1:]), self.dtype)
        return np.stack([self._frame(i) for i in wanted])

    def _frame(self, i: int) -> npt.NDArray[Any]:
        at = tuple(int(k) for k in np.unravel_index(i, self._leading)) if self._leading else ()
        plane = np.asarray(self._data[at])
        return plane[..., :3].mean(axis=-1, dtype=np.float32) if self._rgb else plane


def leading_shape(layer: Image) -> tuple[int, ...]:
    """Return the lengths of a layer's axes before y and x."""
    data = layer.data[0] if layer.multiscale else layer.data
    return tuple(int(n) for n in data.shape[: layer.ndim - 2])


def is_result(layer: Image) -> bool:
    """Tell whether this plugin reconstructed a layer."""
    return "reconstruction" in layer.metadata.get(METADATA_KEY, {})


def takes_holograms(layer: object, modality: str) -> bool:
    """Tell whether a layer, which shows a modality, may be reconstructed."""
    return (
        is_picture(layer)
        and not is_result(cast("Image", layer))
        and modality not in ("brightfield", "fluorescence")
    )


def recording_in(layer: Image) -> Recording | None:
    """Return the recording that a layer shows, if its pixels still are those."""
    recording = layer.metadata.get(METADATA_KEY, {}).get("recording")
    if not isinstance(recording, Recording):
        return None
    shape = LayerFrames(layer).shape
    return recording if shape == tuple(recording.frames.shape) else None


def facts_of(layer: Image) -> Facts:
    """Return how a layer was recorded, as its file says."""
    recording = recording_in(layer)
    if recording is None:
        return Facts()
    return Facts(
        recording.wavelength,
        recording.medium_index,
        recording.background,
        "" if recording.background is None else IN_FILE,
    )


def kind_of(layer: Image, modality: str) -> Kind:
    """Return the kind of a layer's frames; holograms, unless it says otherwise."""
    recording = recording_in(layer)
    if recording is not None and recording.kind == "field":
        return "field"
    return _KINDS.get(modality, "hologram")


def recording_of(layer: Image, kind: Kind, facts: Facts, pixel_size: float | None) -> Recording:
    """Return a layer as a recording.

    Raises
    ------
    ValueError
        If layer and background do not go together; the message says why.
    """
    from napari.layers import Image

    known = recording_in(layer)
    frames: Frames = known.frames if known and kind == "field" else LayerFrames(layer)
    background = facts.background
    if isinstance(background, Image):
        background = LayerFrames(background)
    return Recording(
        frames,
        kind,
        pixel_size,
        facts.wavelength,
        facts.medium_index,
        background,
        known.amplitude if known and known.kind == kind else None,
        layer.name,
        known.path if known else None,
    )


def recording_layer(recording: Recording, *, kind_known: bool = True) -> LayerData:
    """Return the layer that shows a recording; several frames are read as they are shown.

    Parameters
    ----------
    recording : Recording
        What to show.
    kind_known : bool
        Whether its kind is certain; otherwise the user is to say it.
    """
    n = len(recording)
    shown = ShownFrames(recording.frames)
    first = np.asarray(shown[0])
    if n == 1:
        data: Any = first
    else:
        data = recording.frames if isinstance(recording.frames, np.ndarray) else shown
    finite = first[np.isfinite(first)]
    low, high = (float(finite.min()), float(finite.max())) if finite.size else (0.0, 1.0)
    kind = recording.kind
    attributes: dict[str, Any] = {
        "name": recording.name,
        "rgb": False,
        "contrast_limits": (low, high if high > low else low + 1.0),
        "metadata": {
            METADATA_KEY: {
                "modality": _modality(kind) if kind_known else "unknown",
                "unit": _UNITS[kind] if kind_known else "",
                "recording": recording,
            }
        },
    }
    if (size := recording.pixel_size) is not None:
        ahead = n > 1
        attributes["scale"] = (1.0,) * ahead + (size, size)
        attributes["units"] = ("pixel",) * ahead + ("um", "um")
    if n > 1:
        attributes["axis_labels"] = ("time", "y", "x")
    return data, attributes, "image"


def _modality(kind: Kind) -> Modality:
    return "hologram" if kind == "field" else kind
