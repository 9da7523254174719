"""One batch of crops through a model of either kind: logits and evidence."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from typing import TYPE_CHECKING

from ..device import computing
from ..evidence import CropFrame, PixelSelection, Traversal
from ..kinds import kind_of_network
from .fields import to_cpu, to_traversals

if TYPE_CHECKING:
    from torch import Tensor

    from ..models.sparse.network import SparseAttnNet, SparseAttnOutput
    from ..models.tnet.network import TNet

__all__ = ["Looked", "join_looks", "look", "to_selections"]


@dataclasses.dataclass(frozen=True)
class Looked:
    """What a model returned for B crops, on the CPU.

    Parameters
    ----------
    logits : Tensor
        (B, n_classes) float32.
    evidence : tuple of PixelSelection or Traversal
        One per crop, or empty where it was not asked for.
    pixels : int
        Pixels the classifier saw, each crop's own once per look.
    """

    logits: Tensor
    evidence: tuple[PixelSelection | Traversal, ...]
    pixels: int


def look(
    model: SparseAttnNet | TNet, crops: Tensor, frames: Sequence[CropFrame] | None = None
) -> Looked:
    """Classify crops; without gradients.

    Parameters
    ----------
    model : SparseAttnNet or TNet
        In evaluation mode.
    crops : Tensor
        (B, C, size, size) normalised, on the model's device.
    frames : sequence of CropFrame, optional
        Where the B crops lie on their image; with them, evidence is kept.
    """
    import torch

    with torch.inference_mode(), computing(crops.device.type):
        found: Looked = kind_of_network(model).load("classify_crops")(model, crops, frames)
    return found


def look_at_pixels(
    model: SparseAttnNet, crops: Tensor, frames: Sequence[CropFrame] | None
) -> Looked:
    """`look`, of a SparseAttnNet."""
    output = model(crops)
    kept = to_selections(output, frames, model.receptive_field) if frames else ()
    return Looked(output.logits.cpu(), kept, output.indices.numel())


def look_at_crops(model: TNet, crops: Tensor, frames: Sequence[CropFrame] | None) -> Looked:
    """`look`, of a TNet."""
    visited = to_cpu(model(crops))
    base, shape = model.config.base, (crops.shape[2], crops.shape[3])
    pixels = int(visited.counts.sum()) * base**2
    if not frames:
        return Looked(visited.logits, (), pixels)
    ways = to_traversals(visited, shape, base)
    framed = tuple(
        dataclasses.replace(way, frame=frame) for way, frame in zip(ways, frames, strict=True)
    )
    return Looked(visited.logits, framed, pixels)


def join_looks(parts: Sequence[Looked]) -> Looked:
    """Join what `look` returned for the parts of a batch."""
    import torch

    return Looked(
        torch.cat([part.logits for part in parts]),
        tuple(item for part in parts for item in part.evidence),
        sum(part.pixels for part in parts),
    )


def to_selections(
    output: SparseAttnOutput, frames: Sequence[CropFrame], receptive_field: int
) -> tuple[PixelSelection, ...]:
    """Turn what a SparseAttnNet returned for B crops into plain data."""
    coarse = output.coarse_logits.sigmoid().cpu().numpy()
    indices, fine = output.indices.cpu().numpy(), output.fine.cpu().numpy()
    return tuple(
        PixelSelection(frame, indices[i], fine[i], coarse[i], receptive_field)
        for i, frame in enumerate(frames)
    )
