"""Models as ONNX: one file without code that onnxruntime and others run."""

from __future__ import annotations

import contextlib
import dataclasses
import importlib.util
import json
import logging
import os
import warnings
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt

from ..bundle import Bundle
from ..card import Card
from ..files import replacing
from .model_examples import example_crops

if TYPE_CHECKING:
    import onnx

    from .onnx_graph import SparseGraph, TraversalGraph

__all__ = [
    "ABOUT",
    "INPUT",
    "OPSET",
    "ModelExportError",
    "OnnxExport",
    "about_input",
    "check_extra",
    "export_onnx",
    "model_graph",
]

#: Name of the one input.
INPUT = "crops"
#: Version of ONNX's operators.
OPSET = 20
#: Logits of onnxruntime and of this package differ by no more, on the crops tried.
_TOLERANCE = 1e-4
_TRIED = 8
_MODULES = ("onnx", "onnxscript", "onnxruntime")
#: What each output is; BioImage.IO takes 128 characters.
ABOUT = {
    "logits": "Before the temperature.",
    "probabilities": "softmax(logits / temperature), as the plugin shows them; the temperature is "
    "higher for crops unlike those of the training.",
    "indices": "Kept pixels as row * width + column, ascending.",
    "attention": "The class token's attention to the kept pixels, in that order, and to itself.",
    "coarse": "Score of every pixel, 0 to 1, by which they were kept.",
    "boxes": "Crops looked at, coarse to fine: top, left and side in pixels of the input.",
    "contributions": "Each crop's exact share of the logits.",
}


class ModelExportError(ValueError):
    """A model that cannot be exported; the message says why and what to do."""


@dataclasses.dataclass(frozen=True)
class OnnxExport:
    """What was written.

    Parameters
    ----------
    path : pathlib.Path
        The file.
    outputs : tuple of str
        Names of the outputs.
    opset : int
        Version of ONNX's operators.
    difference : float
        Largest difference of a logit between onnxruntime and this package, on
        the crops that were tried.
    """

    path: Path
    outputs: tuple[str, ...]
    opset: int
    difference: float


def export_onnx(
    bundle: Bundle,
    path: str | os.PathLike[str],
    *,
    locations: Sequence[int] | None = None,
    normalise: bool = True,
) -> OnnxExport:
    """Write a model for cells as ONNX, once onnxruntime has given the same logits.

    The input ``crops`` is (batch, C, size, size) float32 with any batch size;
    `about_input` says in which unit. Outputs are named as in ``ABOUT``; a
    SparseAttnNet gives logits, probabilities, indices, attention and coarse, a
    TNet logits, probabilities, boxes and contributions. The card, as JSON, and
    the sha256 of its tensors are in the file's ``metadata_props``.

    Parameters
    ----------
    bundle : Bundle
        A SparseAttnNet or TNet.
    path : path-like
        The file to write.
    locations : sequence of int, optional
        A TNet's locations per level; by default as trained. They are fixed in
        the file, as is the size of the input: that of the card's crop.
    normalise : bool
        Whether the normalisation is part of the graph. Without it the input
        must be normalised as the card says.

    Returns
    -------
    OnnxExport

    Raises
    ------
    ModelExportError
        If the model is none for cells, cannot be put as a graph of fixed
        shape, or onnxruntime does not agree; if packages are missing.
    OSError
        If the file cannot be written; an older one is then intact.
    """
    check_extra(_MODULES, "ONNX")
    card = bundle.card
    if not card.model_kind.exporter:
        raise ModelExportError(
            f"'{card.name}' is a SPAN: it takes any number of patches at any places, which is no "
            "graph of fixed shape. Share it as the safetensors file it is."
        )
    graph = model_graph(bundle, locations, normalise)
    model = _export(graph, card)
    _describe(model, bundle, graph, normalise)
    content = model.SerializeToString()
    difference = _compare(content, bundle, graph, normalise)
    target = Path(path)
    with replacing(target) as temporary:
        temporary.write_bytes(content)
    return OnnxExport(target, graph.outputs, OPSET, difference)


def check_extra(modules: Sequence[str], what: str) -> None:
    """Refuse to go on without the packages of the extra ``models``."""
    if any(importlib.util.find_spec(name) is None for name in modules):
        raise ModelExportError(
            f'{what} needs more packages: pip install "napari-sparseattn[models]"'
        )


def about_input(card: Card, normalise: bool = True) -> str:
    """Say what the input is, in one paragraph."""
    crop, rule = card.crop, card.normalisation
    unit = f"values in {card.unit}" if card.unit else "values from 0 to 1 (bytes divided by 255)"
    text = (
        f"Crops of {crop.size} x {crop.size} pixels ({crop.field_of_view_um:g} µm, "
        f"{crop.pixel_size:g} µm per pixel) centred on a cell; channels: "
        f"{', '.join(card.channels)}; float32, {unit}."
    )
    if normalise:
        return f"{text} Not normalised: the normalisation '{rule.kind}' is part of the model."
    steps = {
        "fixed": "",
        "white": "divided by each channel's white reference, ",
        "stain": "divided by each channel's white reference, optical density scaled, ",
    }[rule.kind]
    return f"{text} Normalise first: {steps}(value - {rule.mean:g}) / {rule.std:g}."


def model_graph(
    bundle: Bundle, locations: Sequence[int] | None = None, normalise: bool = True
) -> SparseGraph | TraversalGraph:
    """Return a model as the graph that is exported; parameters as of `export_onnx`."""
    from torch import nn

    from .onnx_graph import Normaliser, Temperature

    card, kind = bundle.card, bundle.card.model_kind
    # A model of its own: the bundle's may be at work in another thread.
    model = dataclasses.replace(bundle).cell_model()
    first = Normaliser(card.normalisation) if normalise else nn.Identity()
    spec = card.novelty
    falls = (0.0, 1.0) if spec is None else (spec.softening, spec.softening_from)
    temperature = Temperature(card.temperature, bundle.known, *falls)
    parts: tuple[Any, ...] = (model, first, temperature)
    if kind.setting == "locations":
        config: Any = model.config
        taken = tuple(config.locations if locations is None else locations)
        most = config.grid**2
        if any(not 1 <= k <= most for k in taken):
            raise ModelExportError(f"Locations must lie between 1 and {most}, got {taken}.")
        parts += (card.crop.size, taken)
    elif locations is not None:
        raise ModelExportError(f"'{card.name}' is no TNet: it has no locations to choose.")
    try:
        graph: SparseGraph | TraversalGraph = kind.load("exporter")(*parts)
    except ValueError as error:
        raise ModelExportError(str(error)) from error
    return graph.eval()


def _export(graph: SparseGraph | TraversalGraph, card: Card) -> onnx.ModelProto:
    import torch

    # Two crops: a batch of one would be taken for a constant.
    example = torch.zeros(2, len(card.channels), card.crop.size, card.crop.size)
    with torch.no_grad(), _quiet():
        try:
            program = torch.onnx.export(
                graph,
                (example,),
                dynamo=True,
                input_names=[INPUT],
                output_names=list(graph.outputs),
                dynamic_shapes=({0: torch.export.Dim("batch", min=1)},),
                opset_version=OPSET,
                external_data=False,
                verbose=False,
            )
        except torch.onnx.OnnxExporterError as error:
            raise ModelExportError(
                f"'{card.name}' cannot be put as ONNX: torch's exporter does not know a part of "
                f"its network ({str(error).splitlines()[0]})."
            ) from error
    assert program is not None
    return program.model_proto


@contextlib.contextmanager
def _quiet() -> Iterator[None]:
    """Keep the exporter's notes, about torchvision and constants, from the user's terminal."""
    loggers = [logging.getLogger(name) for name in ("torch.onnx", "onnxscript")]
    levels = [logger.level for logger in loggers]
    for logger in loggers:
        logger.setLevel(logging.ERROR)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", FutureWarning)
            yield
    finally:
        for logger, level in zip(loggers, levels, strict=True):
            logger.setLevel(level)


def _describe(
    model: onnx.ModelProto, bundle: Bundle, graph: SparseGraph | TraversalGraph, normalise: bool
) -> None:
    """Write what it is into the file; leave out the exporter's notes, which hold local paths."""
    import onnx

    from .. import __version__

    card = bundle.card
    for node in model.graph.node:
        node.ClearField("metadata_props")
        node.ClearField("doc_string")
    for value in (*model.graph.value_info, *model.graph.input, *model.graph.output):
        value.ClearField("metadata_props")
    model.graph.ClearField("metadata_props")
    model.graph.name = card.name
    model.graph.input[0].doc_string = about_input(card, normalise)
    for value in model.graph.output:
        value.doc_string = ABOUT[value.name]
    model.doc_string = card.summary()
    model.producer_name, model.producer_version = "napari-sparseattn", __version__
    facts = {
        "napari_sparseattn_card": card.model_dump_json(),
        "tensors_sha256": bundle.hash,
        "class_names": json.dumps(card.class_names),
        "input": about_input(card, normalise),
        "pixel_size_um": f"{card.crop.pixel_size:g}",
        "temperature": repr(card.temperature),
        "licence": card.weights_licence,
    }
    locations = getattr(graph, "locations", None)
    if locations is not None:
        facts["locations"] = json.dumps(locations)
    onnx.helper.set_model_props(model, facts)
    onnx.checker.check_model(model, full_check=True)


def _compare(
    content: bytes, bundle: Bundle, graph: SparseGraph | TraversalGraph, normalise: bool
) -> float:
    """Largest difference of a logit from the network's own; refuses a model that does not agree."""
    import torch

    card = bundle.card
    crops = example_crops(card, _TRIED)
    ready = card.normalisation(crops)
    locations = getattr(graph, "locations", None)
    options = {} if locations is None else {"locations": locations}
    with torch.inference_mode():
        expected = graph.model(torch.from_numpy(ready), **options).logits.numpy()
    given = crops if normalise else ready
    batches = [given[:1], given[1:]]
    got = np.concatenate([_run(content, batch)[0] for batch in batches])
    each = np.abs(got - expected).max(axis=1)
    # Where two pixels score alike to the last digit, either may be kept: a rare
    # crop may then differ, but not several of a few.
    worst = float(np.sort(each)[-2])
    if not worst <= _TOLERANCE:
        raise ModelExportError(
            f"onnxruntime does not give what '{card.name}' gives: a logit differs by {worst:.3g}. "
            "Nothing was written. Please report it, with the versions of torch and onnxruntime."
        )
    return float(each.max())


def _run(content: bytes, crops: npt.NDArray[np.float32]) -> list[npt.NDArray[Any]]:
    import onnxruntime

    session = onnxruntime.InferenceSession(content, providers=["CPUExecutionProvider"])
    found: list[npt.NDArray[Any]] = session.run(None, {INPUT: crops})
    return found
