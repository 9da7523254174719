"""The moments of an optimiser as tensors by name, for checkpoints without pickles."""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import Tensor

__all__ = ["load_optimiser", "optimiser_tensors", "under"]

_PREFIX = "optimiser."


def optimiser_tensors(optimiser: torch.optim.Optimizer) -> dict[str, Tensor]:
    """Return its moments, by names that begin with ``optimiser.``."""
    return {
        f"{_PREFIX}{index}.{key}": value
        for index, moments in optimiser.state_dict()["state"].items()
        for key, value in moments.items()
    }


def load_optimiser(optimiser: torch.optim.Optimizer, state: Mapping[str, Tensor]) -> None:
    """Give an optimiser of the same parameters those moments; other names are passed over."""
    moments: dict[int, dict[str, Tensor]] = {}
    for key, value in under(state, _PREFIX).items():
        index, name = key.split(".", maxsplit=1)
        moments.setdefault(int(index), {})[name] = value
    optimiser.load_state_dict({**optimiser.state_dict(), "state": moments})


def under(state: Mapping[str, Tensor], prefix: str) -> dict[str, Tensor]:
    """Return the tensors whose names begin with a prefix, without it."""
    return {key[len(prefix) :]: v for key, v in state.items() if key.startswith(prefix)}
