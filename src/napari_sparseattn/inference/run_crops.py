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

__all__ = ["CropOutput", "join_outputs", "run_crops", "to_selections"]


@dataclasses.dataclass(frozen=True)
class CropOutput:
    """What a model returned for B crops, on the CPU.

    Parameters
    ----------
    logits : Tensor
        (B, n_classes) float32.
    evidence : tuple of PixelSelection or Traversal
        One per crop, or empty where it was not asked for.
    pixels : int
        Pixels the classifier saw, each crop's own once per look.
    states : Tensor
        (B, D) float32, what the head read of each.
    """

    logits: Tensor
    evidence: tuple[PixelSelection | Traversal, ...]
    pixels: int
    states: Tensor


def run_crops(
    model: SparseAttnNet | TNet, crops: Tensor, frames: Sequence[CropFrame] | None = None
) -> CropOutput:
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
        found: CropOutput = kind_of_network(model).load("classify_crops")(model, crops, frames)
    return found


def run_sparse(
    model: SparseAttnNet, crops: Tensor, frames: Sequence[CropFrame] | None
) -> CropOutput:
    """`run_crops`, of a SparseAttnNet."""
    output = model(crops)
    kept = to_selections(output, frames, model.receptive_field) if frames else ()
    return CropOutput(output.logits.cpu(), kept, output.indices.numel(), output.state.cpu())


def run_tnet(model: TNet, crops: Tensor, frames: Sequence[CropFrame] | None) -> CropOutput:
    """`run_crops`, of a TNet."""
    visited = to_cpu(model(crops, halt=model.halt))
    base, shape = model.config.base, (crops.shape[2], crops.shape[3])
    pixels = int(visited.counts.sum()) * base**2
    if not frames:
        return CropOutput(visited.logits, (), pixels, visited.state)
    most = model.config.crops_at_most(max(shape))
    ways = to_traversals(visited, shape, base, model.halt, most)
    framed = tuple(
        dataclasses.replace(way, frame=frame) for way, frame in zip(ways, frames, strict=True)
    )
    return CropOutput(visited.logits, framed, pixels, visited.state)


def join_outputs(parts: Sequence[CropOutput]) -> CropOutput:
    """Join what `run_crops` returned for the parts of a batch."""
    import torch

    return CropOutput(
        torch.cat([part.logits for part in parts]),
        tuple(item for part in parts for item in part.evidence),
        sum(part.pixels for part in parts),
        torch.cat([part.states for part in parts]),
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
