"""Models as BioImage.IO packages: a zip that bioimageio.core and its partners run."""

from __future__ import annotations

import os
import re
import tempfile
from collections.abc import Mapping, Sequence
from importlib import resources
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt

from ..bundle import Bundle
from ..card import Card
from ..files import replacing
from .model_examples import example_crops
from .model_page import cover_picture, model_page
from .onnx_model import (
    ABOUT,
    INPUT,
    OPSET,
    ModelExportError,
    check_extra,
    export_onnx,
    model_graph,
)

if TYPE_CHECKING:
    from bioimageio.spec.model import v0_5

__all__ = ["export_bioimage"]

_DOI = re.compile(r"10\.\d{4,9}/[^\s,;]+")
_DEVELOPERS = "napari-sparseattn developers"
#: The axes of each output after the first, and whether its numbers are whole.
_INDEXED = {
    "indices": ("kept",),
    "attention": ("layer", "head", "token"),
    "boxes": ("crop", "edge"),
    "contributions": ("crop", "channel"),
}


def export_bioimage(
    bundle: Bundle,
    path: str | os.PathLike[str],
    *,
    authors: Sequence[str] = (),
    locations: Sequence[int] | None = None,
) -> Path:
    """Write a model for cells as a BioImage.IO package, once it has passed its test.

    The package holds ``rdf.yaml``, the weights as ONNX, an input with the
    outputs that this package computes for it, a page of documentation and a
    cover; no code. What BioImage.IO's own pre-processing can do exactly is
    stated there; a normalisation it does not have is part of the ONNX graph.

    Parameters
    ----------
    bundle : Bundle
        A SparseAttnNet or TNet.
    path : path-like
        The file to write, ``.zip``.
    authors : sequence of str
        Who made the model. Shipped models name this project's developers.
    locations : sequence of int, optional
        As of `export_onnx`.

    Returns
    -------
    pathlib.Path
        The file.

    Raises
    ------
    ModelExportError
        As of `export_onnx`; or if bioimageio.core refuses the package.
    OSError
        If the file cannot be written; an older one is then intact.
    """
    check_extra(("bioimageio", "onnx", "onnxscript", "onnxruntime"), "BioImage.IO")
    target = Path(path)
    if target.suffix != ".zip":
        raise ModelExportError(f"BioImage.IO packages end in .zip; '{target.name}' does not.")
    if not authors and bundle.path is not None and _is_shipped(bundle.path):
        authors = (_DEVELOPERS,)
    with tempfile.TemporaryDirectory(prefix="napari-sparseattn-") as folder:
        description = _describe(bundle, Path(folder), authors, locations)
        with replacing(target) as temporary:
            _pack(description, temporary)
            _check(temporary, bundle.card.name)
    return target


def _describe(
    bundle: Bundle, folder: Path, authors: Sequence[str], locations: Sequence[int] | None
) -> v0_5.ModelDescr:
    """Write the package's files into a folder, and describe them."""
    from bioimageio.spec.model import v0_5

    from .. import __version__

    card = bundle.card
    # What their operations do exactly is left to them, for all to see.
    inside = card.normalisation.kind != "fixed"
    export_onnx(bundle, folder / "model.onnx", locations=locations, normalise=inside)
    stored, found = _example(bundle, locations, inside)
    np.save(folder / "test_crops.npy", stored)
    for name, values in found.items():
        np.save(folder / f"test_{name}.npy", values)
    (folder / "cover.png").write_bytes(cover_picture(card, stored[0], found))
    page = model_page(bundle, [*found], inside)
    (folder / "README.md").write_text(page, encoding="utf-8")
    (folder / "card.json").write_text(card.model_dump_json(indent=1), encoding="utf-8")
    about = f"{card.description} " if card.description else ""
    return v0_5.ModelDescr.model_validate(
        {
            "format_version": v0_5.ModelDescr.implemented_format_version,
            "type": "model",
            "name": _plain_name(card.name),
            "description": f"{about}{_limits(card)}"[:500],
            "documentation": {"source": folder / "README.md"},
            "covers": [{"source": folder / "cover.png"}],
            "attachments": [{"source": folder / "card.json"}],
            "authors": [{"name": name} for name in authors],
            "cite": _citations(card),
            "license": card.weights_licence,
            "tags": _tags(card),
            "version": "1.0.0",
            "inputs": [_input(card, folder, inside)],
            "outputs": [_output(name, values, card, folder) for name, values in found.items()],
            "weights": {"onnx": {"source": folder / "model.onnx", "opset_version": OPSET}},
            "config": {
                "bioimageio": {
                    "reproducibility_tolerance": _tolerances(found),
                    "model_parameter_count": bundle.n_parameters,
                },
                "napari_sparseattn": {
                    "version": __version__,
                    "tensors_sha256": bundle.hash,
                    "temperature": card.temperature,
                },
            },
        },
    )


def _example(
    bundle: Bundle, locations: Sequence[int] | None, inside: bool
) -> tuple[npt.NDArray[Any], dict[str, npt.NDArray[Any]]]:
    """One crop as other programs store it, and what this package computes for it."""
    import torch

    card = bundle.card
    crops = example_crops(card, 1)
    stored = crops if card.unit else np.rint(crops * 255).astype(np.uint8)
    ready = crops if inside else card.normalisation(crops)
    graph = model_graph(bundle, locations, inside)
    with torch.inference_mode():
        outputs = graph(torch.from_numpy(ready))
    return stored, {
        name: values.numpy() for name, values in zip(graph.outputs, outputs, strict=True)
    }


def _tolerances(found: Mapping[str, npt.NDArray[Any]]) -> list[dict[str, float]]:
    """How far other runs may be off; theirs, where a value is too small for ours to be allowed."""
    # They hold an absolute tolerance to a hundredth of an output's largest value.
    least = min(float(values.max()) for values in found.values() if values.dtype.kind == "f")
    absolute = min(1e-4, 0.009 * least)
    if absolute <= 0:
        return []
    return [{"relative_tolerance": 1e-3, "absolute_tolerance": absolute}]


def _input(card: Card, folder: Path, inside: bool) -> dict[str, Any]:
    rule, bytes_ = card.normalisation, not card.unit
    floats: dict[str, Any] = {"id": "ensure_dtype", "kwargs": {"dtype": "float32"}}
    steps = [floats]
    if bytes_:
        steps.append({"id": "scale_linear", "kwargs": {"gain": 1 / 255, "offset": 0.0}})
    if not inside:
        kwargs = {"mean": rule.mean, "std": rule.std}
        steps.append({"id": "fixed_zero_mean_unit_variance", "kwargs": kwargs})
    # Without it they would go back to the type of the file.
    steps.append(floats)
    data = {"type": "uint8" if bytes_ else "float32"}
    if card.unit == "nm":
        data["unit"] = card.unit
    return {
        "id": INPUT,
        "description": "Crops around cells; how to cut them is in the documentation.",
        "axes": [
            {"type": "batch"},
            {"type": "channel", "channel_names": list(card.channels)},
            *_plane(card),
        ],
        "data": data,
        "test_tensor": {"source": folder / "test_crops.npy"},
        "preprocessing": steps,
    }


def _plane(card: Card) -> list[dict[str, Any]]:
    step = {"size": card.crop.size, "scale": card.crop.pixel_size, "unit": "micrometer"}
    return [{"type": "space", "id": axis, **step} for axis in "yx"]


def _output(name: str, values: npt.NDArray[Any], card: Card, folder: Path) -> dict[str, Any]:
    classes = {"type": "channel", "channel_names": list(card.class_names)}
    axes: list[dict[str, Any]]
    if name in ("logits", "probabilities"):
        axes = [classes]
    elif name == "coarse":
        axes = _plane(card)
    else:
        axes = [
            {"type": "index", "id": axis, "size": size}
            for axis, size in zip(_INDEXED[name], values.shape[1:], strict=True)
        ]
        if name == "boxes":
            axes[1] = {"type": "channel", "channel_names": ["top", "left", "side"]}
        elif name == "contributions":
            axes[1] = classes
    return {
        "id": name,
        "description": ABOUT[name],
        "axes": [{"type": "batch"}, *axes],
        "data": {"type": str(values.dtype)},
        "test_tensor": {"source": folder / f"test_{name}.npy"},
    }


def _pack(description: v0_5.ModelDescr, path: Path) -> None:
    from bioimageio.spec import save_bioimageio_package

    # They refuse a file that is there.
    path.unlink()
    save_bioimageio_package(description, output_path=path, local_files_only=True)


def _check(path: Path, name: str) -> None:
    """Let bioimageio.core try the package: its description, and its test with onnxruntime."""
    from bioimageio.core import test_model

    summary = test_model(path, weight_format="onnx")
    if summary.status == "passed":
        return
    reasons = [entry.msg for detail in summary.details for entry in detail.errors]
    raise ModelExportError(
        f"bioimageio.core refuses the package of '{name}': {'; '.join(reasons[:3]) or 'no reason'}."
        " Nothing was written."
    )


def _is_shipped(path: Path) -> bool:
    return path.parent == Path(str(resources.files("napari_sparseattn").joinpath("weights")))


def _plain_name(name: str) -> str:
    """A name as BioImage.IO allows it."""
    plain = re.sub(r"[^A-Za-z0-9_+\- ()]", "-", name)
    return plain if len(plain) >= 5 else f"{plain} model"


def _limits(card: Card) -> str:
    on = "simulated images only" if card.training.simulated else "the images named in the card"
    return f"Classifies one cell per crop; trained on {on}."


def _citations(card: Card) -> list[dict[str, str]]:
    text, doi = card.model_kind.paper
    found = [{"text": text, "doi": doi}]
    named = _DOI.search(card.training.citation)
    if named:
        found.insert(0, {"text": card.training.citation, "doi": named.group().rstrip(".)")})
    return found


def _tags(card: Card) -> list[str]:
    tags = ["classification", "2d", "onnx", "cells", card.kind, card.modality]
    return [*tags, "simulated"] if card.training.simulated else tags
