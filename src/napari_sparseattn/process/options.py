"""How a file is worked on, whoever asks."""

from __future__ import annotations

import dataclasses
import functools
import hashlib
import json
from pathlib import Path
from typing import Literal, get_args

from ..images.fields.cells import Method
from ..images.fields.field import Modality
from ..images.holograms.recording import Kind
from ..images.holograms.settings import HologramSettings

__all__ = ["ProcessOptions", "Task", "Unit"]

Task = Literal["auto", "cells", "hologram", "whole", "slide"]
Unit = Literal["nm", "rad"]
#: Came later; left out of the hash where nobody asked for them, so that older batches go on.
_LATER = (
    "at", "axes", "background", "cells", "channel", "classes", "features", "frame", "image",
    "modality", "slice", "snap", "unit",
)  # fmt: skip


@dataclasses.dataclass(frozen=True)
class ProcessOptions:
    """How each file is worked on.

    Parameters
    ----------
    formats : tuple of str
        Names from `export.formats.FORMATS`.
    task : {"auto", "cells", "hologram", "whole", "slide"}
        Cells of fields; cells of holograms, which are reconstructed first;
        fields or slides as a whole, with a TNet; slides with a SPAN. Found
        from model and file where it is ``"auto"``: TIFF, PNG and NPY are taken
        for holograms only where `settings` are given.
    method : str
        How to find cells; see `find_cells`.
    classes : tuple of str, optional
        Of cells: the classes that can occur; the others get probability 0.
    pixel_size : float, optional
        µm per pixel, in place of what the files say.
    axes : str, optional
        Of fields: what the axes are that the files do not name, such as ``"CYX"``.
    image : int, optional
        Of fields: which of several images in a file, from 0; by default the largest.
    unit : {"nm", "rad"}, optional
        Of fields: the unit of the values, where the files do not say it.
    modality : str, optional
        Of fields: what they show, in place of what the files say; see `Field`.
    frame, slice, channel : int, optional
        Of fields: which point in time, position in z and channel is looked at,
        from 0. By default the first of the first two, and all channels.
    cells : pathlib.Path, optional
        Of fields: a file that says where the cells are; see `read_cells`. By
        default they are found.
    at : (float, float), optional
        Of fields: row and column in pixels; only the cell there is classified.
    icc : bool
        Convert colours from the ICC profile in a file to sRGB, where there is one.
    locations : tuple of int, optional
        Of a TNet: crops looked at inside each crop, per level.
    halt : bool
        Let a TNet whose card says what is sure enough stop by itself.
    allow_unknown_scale : bool
        Classify slides of unknown µm per pixel too, and mark the result.
    features : pathlib.Path, optional
        Of one slide: HDF5 of features made before, here or by CLAM, TRIDENT
        or STAMP.
    snap : bool
        Move the coordinates of `features` onto a grid.
    threshold : float
        Of a SPAN that finds tissue: the probability from which a patch counts
        to a focus of it, above 0 and up to 1.
    least_patches : int
        Patches of the smallest focus; see `evidence.find_foci`.
    settings : HologramSettings, optional
        How holograms are reconstructed.
    kind : {"hologram", "field", "phase", "opd"}, optional
        What recordings hold that do not say it.
    background : pathlib.Path, optional
        The recording of a hologram without cells.
    device : str
        Where the model computes; see `choose_device`.
    retrieval : {"cpu", "gpu"}
        Where holograms become fields; see `retrieve`.

    Raises
    ------
    ValueError
        If task, method or kind are none of these.
    """

    formats: tuple[str, ...] = ("csv",)
    task: Task = "auto"
    method: Method = "auto"
    classes: tuple[str, ...] | None = None
    pixel_size: float | None = None
    axes: str | None = None
    image: int | None = None
    unit: Unit | None = None
    modality: Modality | None = None
    frame: int | None = None
    slice: int | None = None
    channel: int | None = None
    cells: Path | None = None
    at: tuple[float, float] | None = None
    icc: bool = True
    locations: tuple[int, ...] | None = None
    halt: bool = True
    allow_unknown_scale: bool = False
    features: Path | None = None
    snap: bool = False
    threshold: float = 0.5
    least_patches: int = 2
    settings: HologramSettings | None = None
    kind: Kind | None = None
    background: Path | None = None
    device: str = "auto"
    retrieval: Literal["cpu", "gpu"] = "cpu"

    def __post_init__(self) -> None:
        known = {
            "task": Task, "method": Method, "kind": Kind, "unit": Unit, "modality": Modality,
        }  # fmt: skip
        for name, values in known.items():
            value = getattr(self, name)
            if value is not None and value not in get_args(values):
                raise ValueError(
                    f"{name} must be one of {', '.join(get_args(values))}, not '{value}'"
                )
        if not 0 < self.threshold <= 1 or self.least_patches < 1:
            raise ValueError(
                "threshold must be above 0 and up to 1, and least_patches 1 or more; got "
                f"{self.threshold} and {self.least_patches}"
            )

    @functools.cached_property
    def hash(self) -> str:
        """sha256 of what decides about results; not of formats and device."""
        chosen = dataclasses.asdict(self)
        del chosen["formats"], chosen["device"], chosen["retrieval"]
        for name in _LATER:
            if chosen[name] is None or chosen[name] is False:
                del chosen[name]
        for name in ("halt", "threshold", "least_patches"):
            # Came later, and at first what they are by default.
            if chosen[name] == type(self).__dataclass_fields__[name].default:
                del chosen[name]
        text = json.dumps(chosen, sort_keys=True, default=str)
        return hashlib.sha256(text.encode()).hexdigest()
