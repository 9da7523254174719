"""Features that may be on disk, read by rows."""

from __future__ import annotations

from typing import Any, Protocol

import torch
from torch import Tensor

__all__ = ["FeatureArray", "read_rows"]

#: Rows that are read and thrown away rather than starting another read.
_GAP = 16


class FeatureArray(Protocol):
    """What is asked of (N, F) features: a Tensor, a numpy array or an h5py dataset is one."""

    @property
    def shape(self) -> tuple[int, ...]:
        """(N, F)."""
        ...

    def __getitem__(self, rows: slice, /) -> Any:
        """Return the (m, F) rows of a slice, as a Tensor or a numpy array."""
        ...


def read_rows(features: FeatureArray, rows: Tensor, device: torch.device) -> Tensor:
    """Read rows in any order, going through the file once, in runs.

    Parameters
    ----------
    features : FeatureArray
        (N, F) floating.
    rows : Tensor
        (m,) int64, no two alike.
    device : torch.device
        Where the rows are wanted.

    Returns
    -------
    Tensor
        (m, F), row ``i`` being ``features[rows[i]]``.
    """
    if isinstance(features, Tensor):
        return features.index_select(0, rows.to(features.device)).to(device)
    ordered, back = rows.cpu().sort()
    if not len(ordered):
        return torch.empty(0, features.shape[1], device=device)
    cuts = torch.nonzero(ordered.diff() > _GAP)[:, 0] + 1
    pieces = []
    for run in ordered.tensor_split(cuts):
        first, last = int(run[0]), int(run[-1])
        read = torch.as_tensor(features[first : last + 1])
        pieces.append(read if len(read) == len(run) else read[run - first])
    read = pieces[0] if len(pieces) == 1 else torch.cat(pieces)
    if not read.is_floating_point():
        raise ValueError(f"features must be floating-point numbers, got {read.dtype}")
    if bool((ordered == rows.cpu()).all()):
        return read.to(device)
    return torch.empty_like(read).index_copy_(0, back, read).to(device)
