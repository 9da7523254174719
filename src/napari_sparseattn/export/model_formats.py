"""The ways to give a model away, and one call that writes them."""

from __future__ import annotations

import dataclasses
import os
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from types import MappingProxyType

from ..bundle import Bundle, save_bundle
from .bioimage import export_bioimage
from .onnx_model import ModelExportError, export_onnx

__all__ = ["MODEL_FORMATS", "ModelFormat", "export_model"]


@dataclasses.dataclass(frozen=True)
class ModelFormat:
    """One way to give a model away.

    Parameters
    ----------
    title : str
        In words.
    suffix : str
        Of the file.
    tip : str
        Who can use it.
    write : callable
        Given the bundle, the path and the authors; writes the file whole or
        not at all.
    slides : bool
        Whether it can hold a SPAN.
    """

    title: str
    suffix: str
    tip: str
    write: Callable[[Bundle, Path, Sequence[str]], object]
    slides: bool = False


MODEL_FORMATS: Mapping[str, ModelFormat] = MappingProxyType(
    {
        "onnx": ModelFormat(
            "ONNX",
            ".onnx",
            "One file for onnxruntime, in Python, C++, Java or JavaScript; no plugin needed.",
            lambda bundle, path, authors: export_onnx(bundle, path),
        ),
        "bioimageio": ModelFormat(
            "BioImage.IO package",
            ".zip",
            "For programs that run BioImage.IO models, such as bioimageio.core or deepImageJ.",
            lambda bundle, path, authors: export_bioimage(bundle, path, authors=authors),
        ),
        "safetensors": ModelFormat(
            "safetensors copy",
            ".safetensors",
            "The model with its card, for this plugin on another machine.",
            lambda bundle, path, authors: save_bundle(bundle, path),
            slides=True,
        ),
    }
)


def export_model(
    bundle: Bundle, path: str | os.PathLike[str], to: str, *, authors: Sequence[str] = ()
) -> Path:
    """Write a model in one of `MODEL_FORMATS`.

    Parameters
    ----------
    bundle : Bundle
        The model.
    path : path-like
        The file; its ending must be the format's.
    to : str
        Name of the format.
    authors : sequence of str
        Who made the model, where the format says so.

    Returns
    -------
    pathlib.Path
        The file.

    Raises
    ------
    ModelExportError
        If the format or the ending is another, or does not hold this model.
    OSError
        If it cannot be written; an older file is then intact.
    """
    target, form = Path(path), MODEL_FORMATS.get(to)
    if form is None:
        raise ModelExportError(
            f"There is no format '{to}'; choose one of {', '.join(MODEL_FORMATS)}."
        )
    if target.suffix != form.suffix:
        raise ModelExportError(
            f"Files of {form.title} end in {form.suffix}; '{target.name}' does not."
        )
    if bundle.path is not None and target.exists() and target.samefile(bundle.path):
        raise ModelExportError(f"'{target.name}' is the model itself. Choose another file.")
    form.write(bundle, target, authors)
    return target
