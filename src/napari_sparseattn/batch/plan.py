"""What a batch is to do: which files, with which model, into which files."""

from __future__ import annotations

import dataclasses
import os
from collections.abc import Collection, Sequence
from pathlib import Path

from ..bundle import find_bundles, read_card
from ..process.inputs import InputFile, find_inputs
from ..process.options import ProcessOptions

__all__ = ["BatchPlan", "plan_batch"]


@dataclasses.dataclass(frozen=True)
class BatchPlan:
    """Files, a model, and where results go.

    Parameters
    ----------
    items : tuple of InputFile
        The files.
    model : pathlib.Path
        The model's file.
    model_hash : str
        sha256 of its tensors.
    out : pathlib.Path
        Folder for the results.
    options : ProcessOptions
        How each file is worked on.
    overwrite : bool
        Replace results of other models, and of other commands, as well.
    """

    items: tuple[InputFile, ...]
    model: Path
    model_hash: str
    out: Path
    options: ProcessOptions
    overwrite: bool = False

    def only(self, keys: Collection[str]) -> BatchPlan:
        """Return the plan for some of its items."""
        items = tuple(item for item in self.items if item.key in keys)
        return dataclasses.replace(self, items=items)


def plan_batch(
    inputs: Sequence[str | os.PathLike[str]],
    model: str | os.PathLike[str],
    out: str | os.PathLike[str],
    options: ProcessOptions | None = None,
    *,
    pattern: str | None = None,
    overwrite: bool = False,
) -> BatchPlan:
    """Find the files and the model of a batch; nothing is read of them yet.

    Parameters
    ----------
    inputs : sequence of path-like
        Files, folders and patterns; see `find_inputs`.
    model : str or path-like
        Name of a model, or its file.
    out : path-like
        Folder for the results.
    options : ProcessOptions, optional
        How each file is worked on.
    pattern : str, optional
        Which files of folders to take.
    overwrite : bool
        Replace results of other models, and of other commands, as well.

    Raises
    ------
    FileNotFoundError
        If there is no such model, an input is missing, or nothing was found.
    BundleError
        If the model cannot be used.
    ValueError
        If there is no such format, or it needs packages that are missing.
    """
    from ..export.formats import check_formats

    options = options or ProcessOptions()
    check_formats(options.formats)
    path = _model_file(model)
    hash_ = read_card(path).tensors_sha256
    target = Path(out).absolute()
    items = find_inputs(inputs, pattern=pattern, out=target)
    return BatchPlan(items, path, hash_, target, options, overwrite)


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
