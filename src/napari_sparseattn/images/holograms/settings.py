"""How holograms are reconstructed: kept in a file, used again for a folder."""

from __future__ import annotations

import dataclasses
import json
import math
import os
from pathlib import Path
from typing import Any, Literal, cast, get_args

from ...files import replacing
from .flatten import BackgroundPixels, Profile

__all__ = ["LIMITS", "FilterShape", "HologramSettings", "check_quantity"]

FilterShape = Literal["disk", "smooth disk"]
_KIND = "napari-sparseattn hologram settings"
#: What light, microscopes and media can have; with the unit, and what is given for it by mistake.
LIMITS: dict[str, tuple[float, float, str]] = {
    "pixel_size": (0.005, 20.0, " µm"),
    "wavelength": (100.0, 20_000.0, " nm"),
    "medium_index": (0.9, 3.0, ""),
}


def check_quantity(name: str, value: float) -> None:
    """Refuse a wavelength, pixel size or index that no hologram has: it is in another unit.

    Raises
    ------
    ValueError
        If it is out of range; the message says by which unit it would not be.
    """
    low, high, unit = LIMITS[name]
    if low <= value <= high:
        return
    scaled = value / 1000 if value > high else value * 1000
    hint = f"; did you mean {scaled:g}{unit}?" if low <= scaled <= high else ""
    shown = name.replace("_", " ")
    raise ValueError(
        f"a {shown} of {value:g}{unit} is not possible, {low:g} to {high:g}{unit} are{hint}"
    )


@dataclasses.dataclass(frozen=True)
class HologramSettings:
    """How to get from a recording to OPD. None is found, or asked for, later.

    Parameters
    ----------
    wavelength : float, optional
        nm in vacuum; overrides what the recording says.
    pixel_size : float, optional
        µm per pixel in the sample plane; overrides likewise.
    medium_index : float, optional
        Refractive index around the cells; needed for refocusing only.
    sideband : (float, float), optional
        Cycles per pixel along rows and columns. Its mirror image gives the
        opposite sign of the phase.
    filter_radius : float
        Share of the sideband's distance from frequency zero; a third keeps
        clear of what the object scatters around zero.
    filter_shape : {"disk", "smooth disk"}
        Of the region kept around the sideband.
    inverted : bool, optional
        Whether fields and phase as recorded have cells negative.
    flip : bool
        Change the sign that was found.
    profile : {"none", "offset", "tilt", "curved"}
        What is fitted on the background and removed.
    background : {"auto", "border"}
        Which pixels are background.
    focus : float
        µm to refocus by.
    autofocus : float, optional
        µm on either side of `focus` to search on the first frame.
    notes : tuple of str
        What the user should know of how they were found; not kept in a file.

    Raises
    ------
    ValueError
        If a value is out of range; the message says which.
    """

    wavelength: float | None = None
    pixel_size: float | None = None
    medium_index: float | None = None
    sideband: tuple[float, float] | None = None
    filter_radius: float = 1 / 3
    filter_shape: FilterShape = "disk"
    inverted: bool | None = None
    flip: bool = False
    profile: Profile = "tilt"
    background: BackgroundPixels = "auto"
    focus: float = 0.0
    autofocus: float | None = None
    notes: tuple[str, ...] = dataclasses.field(default=(), compare=False)

    def __post_init__(self) -> None:
        for name in ("wavelength", "pixel_size", "medium_index", "autofocus"):
            value = getattr(self, name)
            if value is not None and not (_is_number(value) and value > 0):
                raise ValueError(f"{name} must be a positive number or unknown, got {value!r}")
        for name in LIMITS:
            value = getattr(self, name)
            if value is not None:
                check_quantity(name, value)
        if not _is_number(self.focus):
            raise ValueError(f"focus must be a number of µm, got {self.focus!r}")
        if not (_is_number(self.filter_radius) and 0 < self.filter_radius < 1):
            raise ValueError(f"filter_radius must be between 0 and 1, got {self.filter_radius!r}")
        flip, inverted = cast("tuple[Any, Any]", (self.flip, self.inverted))
        if not isinstance(flip, bool) or not isinstance(inverted, bool | None):
            raise ValueError("flip and inverted must be true or false")
        choices = {
            "filter_shape": FilterShape,
            "profile": Profile,
            "background": BackgroundPixels,
        }
        for name, allowed in choices.items():
            if getattr(self, name) not in get_args(allowed):
                known = ", ".join(get_args(allowed))
                raise ValueError(f"{name} must be one of {known}, got {getattr(self, name)!r}")
        if self.sideband is not None:
            object.__setattr__(self, "sideband", _checked_sideband(self.sideband))

    @property
    def scale(self) -> float:
        """Nm of OPD per rad of phase.

        Raises
        ------
        ValueError
            If the wavelength is not known.
        """
        if self.wavelength is None:
            raise ValueError("the wavelength is not known, so phase cannot become OPD; give it")
        return self.wavelength / (2 * math.pi)

    def to_json(self, path: str | os.PathLike[str]) -> None:
        """Write the settings to a file, atomically."""
        kept = {name: v for name, v in dataclasses.asdict(self).items() if name != "notes"}
        content = {"format": _KIND, "version": 1, **kept}
        with replacing(path) as temporary:
            temporary.write_text(json.dumps(content, indent=1), encoding="utf-8")

    @classmethod
    def from_json(cls, path: str | os.PathLike[str]) -> HologramSettings:
        """Read settings that `to_json` wrote.

        Raises
        ------
        ValueError
            If the file is not such a file, or a value is out of range.
        FileNotFoundError
            If there is no file.
        """
        try:
            text = Path(path).read_text(encoding="utf-8")
        except UnicodeDecodeError as error:
            raise ValueError(f"{path} is not a settings file: {error}") from error
        return cls.from_text(text, str(path))

    def to_text(self) -> str:
        """Return the settings that differ from the usual ones as JSON in one line."""
        usual = type(self)()
        kept = {
            name: value
            for name, value in dataclasses.asdict(self).items()
            if name != "notes" and value != getattr(usual, name)
        }
        return json.dumps({"format": _KIND, "version": 1, **kept})

    @classmethod
    def from_text(cls, text: str, path: str = "this text") -> HologramSettings:
        """Read settings from the JSON that `to_json` and `to_text` write.

        Raises
        ------
        ValueError
            If it is not of such settings, or a value is out of range.
        """
        try:
            content: Any = json.loads(text)
        except (ValueError, RecursionError) as error:
            raise ValueError(f"{path} is not a settings file: {error}") from error
        if not isinstance(content, dict) or content.pop("format", None) != _KIND:
            raise ValueError(f"{path} is not a hologram settings file; save one in the window")
        if content.pop("version", None) != 1:
            raise ValueError(f"{path} was written by a newer version; update napari-sparseattn")
        names = {field.name for field in dataclasses.fields(cls)}
        if unknown := sorted(set(content) - names):
            raise ValueError(f"{path} has settings that are not known: {', '.join(unknown)}")
        if isinstance(content.get("sideband"), list):
            content["sideband"] = tuple(content["sideband"])
        return cls(**content)


def _is_number(value: object) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool) and math.isfinite(value)


def _checked_sideband(sideband: Any) -> tuple[float, float]:
    if (
        not isinstance(sideband, tuple)
        or len(sideband) != 2
        or not all(_is_number(part) and abs(part) <= 0.5 for part in sideband)
        or math.hypot(*sideband) == 0
    ):
        raise ValueError(
            f"the sideband must be two frequencies within ±0.5 cycles per pixel, got {sideband!r}"
        )
    return float(sideband[0]), float(sideband[1])
