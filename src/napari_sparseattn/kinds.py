"""The kinds of models: one table, one row per kind, that names the parts made for it.

A new kind is a row here and the files that the row names. Parts are named
``"module:attribute"`` below this package and imported when first asked for.
"""

from __future__ import annotations

import dataclasses
import functools
import importlib
from collections.abc import Callable, Mapping
from types import MappingProxyType
from typing import Any, Literal

__all__ = ["KINDS", "Input", "ModelKind", "kind_of_network"]

#: Cells one by one; fields of view, or slides, by looking closer; slides by all their patches.
Input = Literal["cells", "fields", "slides"]


@dataclasses.dataclass(frozen=True)
class ModelKind:
    """One kind of model, and the parts that are made for it.

    Parameters
    ----------
    name : str
        As cards have it.
    title : str
        What people call it.
    takes : tuple of {"cells", "fields", "slides"}
        What it classifies.
    task : {"cells", "traversal", "slides"}
        The part of the window that shows it.
    network : str
        The class of the network.
    build : str
        Makes the network from a card's ``architecture``, with random weights.
    sizes : mapping of str to str
        Attributes of the network's configuration that say what the card says
        too: the number of ``classes``, of ``inputs`` (channels, or features
        of a patch), and the ``size`` of a crop.
    describe : callable
        Given a card's ``architecture`` and the size of its crop, says in half
        a sentence how much of a crop the model sees.
    evidence : str
        The class of what it looked at.
    rerunner : str
        Runs the model with parts of its input replaced.
    trainer : str
        Trains it from random weights.
    trained_as : str
        What ``train --kind`` calls it.
    classify_crops : str
        Classifies crops of cells; empty where it takes none.
    exporter : str
        The graph it is exported as; empty where there is none.
    setting : str
        The entry of the architecture that can be changed after training;
        empty where there is none.
    symbol : str
        What people call that entry.
    crop_side : int or None
        Pixels along the side of a crop where nobody says; None where the
        encoder decides.
    paper : (str, str)
        Where the kind of network comes from, and its DOI.
    segments : bool
        Whether it gives a probability per patch.
    """

    name: str
    title: str
    takes: tuple[Input, ...]
    task: Literal["cells", "traversal", "slides"]
    network: str
    build: str
    sizes: Mapping[str, str]
    describe: Callable[[Mapping[str, Any], int], str]
    evidence: str
    rerunner: str
    trainer: str
    trained_as: str
    classify_crops: str = ""
    exporter: str = ""
    setting: str = ""
    symbol: str = ""
    crop_side: int | None = None
    paper: tuple[str, str] = ("", "")
    segments: bool = False

    def load(self, part: str) -> Any:
        """Import one of the parts, e.g. ``"network"``.

        Raises
        ------
        ValueError
            If this kind has no such part.
        """
        name = getattr(self, part)
        if not name:
            raise ValueError(f"a {self.title} has no {part}")
        return _load(name)


@functools.cache
def _load(name: str) -> Any:
    module, _, attribute = name.partition(":")
    return getattr(importlib.import_module(f".{module}", __package__), attribute)


def _describe_pixels(architecture: Mapping[str, Any], size: int) -> str:
    kept = architecture.get("k", 0)
    return f"Looks at {kept} pixels per cell ({100 * kept / size**2:.1f} %)"


def _describe_crops(architecture: Mapping[str, Any], _: int) -> str:
    base, last, crops = architecture.get("base"), 1, 1
    for locations in architecture.get("locations", ()):
        last *= locations
        crops += last
    return f"Looks at {crops} crops of {base} x {base} pixels, coarse to fine"


def _describe_patches(_: Mapping[str, Any], size: int) -> str:
    return f"Attends to all patches of {size} x {size} pixels"


_CROP_SIZES = {"classes": "n_classes", "inputs": "in_channels", "size": "image_size"}
_SPAN = ModelKind(
    name="span-mil",
    title="SPAN",
    takes=("slides",),
    task="slides",
    network="models.span:SpanMil",
    build="models.span:span_from_config",
    sizes={"classes": "n_classes", "inputs": "features"},
    describe=_describe_patches,
    evidence="evidence:PyramidAttention",
    rerunner="inference.slide_reruns:SlideRerun",
    trainer="training.loop.slides:train_slides",
    trained_as="span",
    paper=("Wu et al. 2024, the sparse pyramid attention of SPAN", "10.48550/arXiv.2406.09333"),
)

#: By the name that cards have.
KINDS: Mapping[str, ModelKind] = MappingProxyType(
    {
        kind.name: kind
        for kind in (
            ModelKind(
                name="sparse-attn-net",
                title="SparseAttnNet",
                takes=("cells",),
                task="cells",
                network="models.sparse.network:SparseAttnNet",
                build="models.sparse.network:sparse_from_config",
                sizes=_CROP_SIZES,
                describe=_describe_pixels,
                evidence="evidence:PixelSelection",
                rerunner="inference.reruns:CellRerun",
                trainer="training.loop.classifier:train_classifier",
                trained_as="sparse-attn-net",
                classify_crops="inference.run_crops:run_sparse",
                exporter="export.onnx_graph:SparseGraph",
                setting="k",
                symbol="k",
                crop_side=64,
                paper=(
                    "Yoshai et al. 2025, the attention to few pixels that SparseAttnNet follows",
                    "10.48550/arXiv.2505.07661",
                ),
            ),
            ModelKind(
                name="tnet",
                title="TNet",
                takes=("cells", "fields"),
                task="traversal",
                network="models.tnet.network:TNet",
                build="models.tnet.network:tnet_from_config",
                sizes=_CROP_SIZES,
                describe=_describe_crops,
                evidence="evidence:Traversal",
                rerunner="inference.field_reruns:FieldRerun",
                trainer="training.loop.tnet_cells:train_tnet",
                trained_as="tnet",
                classify_crops="inference.run_crops:run_tnet",
                exporter="export.onnx_graph:TraversalGraph",
                setting="locations",
                symbol="K",
                crop_side=128,
                paper=(
                    (
                        "Papadopoulos, Korus, Memon 2021, Hard-Attention for Scalable Image "
                        "Classification"
                    ),
                    "10.48550/arXiv.2102.10212",
                ),
            ),
            _SPAN,
            dataclasses.replace(
                _SPAN,
                name="span-unet",
                title="SPAN-UNet",
                network="models.span:SpanUnet",
                sizes={"inputs": "features"},
                trained_as="span-regions",
                segments=True,
            ),
        )
    }
)


def kind_of_network(network: object) -> ModelKind:
    """Return the kind of a network.

    Raises
    ------
    ValueError
        If it is of none.
    """
    found = type(network)
    for kind in KINDS.values():
        # By its name first, so that nothing is imported for others.
        if kind.network.endswith(f":{found.__name__}") and kind.load("network") is found:
            return kind
    raise ValueError(f"a {found.__name__} is no model of a kind that is known")
