"""What a batch is to do: which files, with which model, into which files."""

from __future__ import annotations

import dataclasses
import functools
import hashlib
import json
import os
from collections.abc import Collection, Sequence
from pathlib import Path
from typing import Literal

from ..bundle import find_bundles, read_card
from ..images.fields.cells import Method
from ..images.holograms.recording import Kind
from ..images.holograms.settings import HologramSettings
from .items import BatchItem, find_items

__all__ = ["BatchOptions", "BatchPlan", "Task", "plan_batch"]

Task = Literal["auto", "cells", "hologram", "whole", "slide"]


@dataclasses.dataclass(frozen=True)
class BatchOptions:
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
    pixel_size : float, optional
        µm per pixel, in place of what the files say.
    locations : tuple of int, optional
        Of a TNet: crops looked at inside each crop, per level.
    allow_unknown_scale : bool
        Classify slides of unknown µm per pixel too, and mark the result.
    settings : HologramSettings, optional
        How holograms are reconstructed.
    kind : {"hologram", "field", "phase", "opd"}, optional
        What recordings hold that do not say it.
    device : str
        See `choose_device`.
    """

    formats: tuple[str, ...] = ("csv",)
    task: Task = "auto"
    method: Method = "auto"
    pixel_size: float | None = None
    locations: tuple[int, ...] | None = None
    allow_unknown_scale: bool = False
    settings: HologramSettings | None = None
    kind: Kind | None = None
    device: str = "auto"

    @functools.cached_property
    def hash(self) -> str:
        """sha256 of what decides about results; not of formats and device."""
        chosen = dataclasses.asdict(self)
        del chosen["formats"], chosen["device"]
        return hashlib.sha256(json.dumps(chosen, sort_keys=True).encode()).hexdigest()


@dataclasses.dataclass(frozen=True)
class BatchPlan:
    """Files, a model, and where results go.

    Parameters
    ----------
    items : tuple of BatchItem
        The files.
    model : pathlib.Path
        The model's file.
    model_hash : str
        sha256 of its tensors.
    out : pathlib.Path
        Folder for the results.
    options : BatchOptions
        How each file is worked on.
    """

    items: tuple[BatchItem, ...]
    model: Path
    model_hash: str
    out: Path
    options: BatchOptions

    def only(self, keys: Collection[str]) -> BatchPlan:
        """Return the plan for some of its items."""
        items = tuple(item for item in self.items if item.key in keys)
        return dataclasses.replace(self, items=items)


def plan_batch(
    inputs: Sequence[str | os.PathLike[str]],
    model: str | os.PathLike[str],
    out: str | os.PathLike[str],
    options: BatchOptions | None = None,
    *,
    pattern: str | None = None,
) -> BatchPlan:
    """Find the files and the model of a batch; nothing is read of them yet.

    Parameters
    ----------
    inputs : sequence of path-like
        Files, folders and patterns; see `find_items`.
    model : str or path-like
        Name of a model, or its file.
    out : path-like
        Folder for the results.
    options : BatchOptions, optional
        How each file is worked on.
    pattern : str, optional
        Which files of folders to take.

    Raises
    ------
    FileNotFoundError
        If there is no such model, an input is missing, or nothing was found.
    BundleError
        If the model cannot be used.
    ValueError
        If there is no such format, or it needs packages that are missing.
    """
    from ..export.formats import checked

    options = options or BatchOptions()
    checked(options.formats)
    path = _model_file(model)
    hash_ = read_card(path).tensors_sha256
    target = Path(out).absolute()
    return BatchPlan(find_items(inputs, pattern=pattern, out=target), path, hash_, target, options)


def _model_file(model: str | os.PathLike[str]) -> Path:
    path, found = Path(model), find_bundles()
    if not path.exists() and str(model) in found:
        return found[str(model)].absolute()
    if not path.is_file():
        names = ", ".join(sorted(found)) or "none"
        raise FileNotFoundError(
            f"No model named '{model}', and no such file. Models found: {names}."
        )
    return path.absolute()
