"""Checkpoints, from which a run goes on after its process was killed: whole or absent."""

from __future__ import annotations

import dataclasses
import hashlib
import json
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from ...files import replacing

__all__ = [
    "Checkpoint",
    "fingerprint",
    "load_optimiser",
    "optimiser_tensors",
    "read_checkpoint",
    "take_under",
    "write_checkpoint",
]

_KEY, _FORMAT = "napari_sparseattn_fine_tune", 1
_MOST_BYTES = 4 * 2**30
_PREFIX = "optimiser."


@dataclasses.dataclass
class Checkpoint:
    """How far a training run has come.

    Attributes
    ----------
    fingerprint : str
        Of the model, the data and the settings; see `fingerprint`.
    epochs : int
        Of the whole run.
    bfloat16 : bool
        How it computes.
    history : list of dict
        Every epoch so far.
    best_epoch : int
        0 while none has been judged best.
    best_score : float
        Of the best epoch, or else of the fitted head.
    state : dict of str to Tensor
        Of the steps: weights and moments.
    best : dict of str to Tensor
        The best weights so far.
    """

    fingerprint: str
    epochs: int
    bfloat16: bool
    history: list[dict[str, Any]]
    best_epoch: int
    best_score: float
    state: dict[str, Tensor]
    best: dict[str, Tensor]


def fingerprint(parts: Iterable[str | npt.NDArray[Any]]) -> str:
    """sha256 of texts and arrays, types and shapes included."""
    digest = hashlib.sha256()
    for part in parts:
        if isinstance(part, str):
            digest.update(f"text|{len(part)}|{part}".encode())
        else:
            digest.update(f"array|{part.dtype.str}|{part.shape}|".encode())
            digest.update(np.ascontiguousarray(part).data)
    return digest.hexdigest()


def write_checkpoint(path: Path, progress: Checkpoint) -> None:
    """Write a checkpoint atomically."""
    from safetensors.torch import save_file

    header = {
        "format": _FORMAT,
        **{
            field.name: getattr(progress, field.name)
            for field in dataclasses.fields(progress)
            if field.name not in ("state", "best")
        },
    }
    tensors = {f"state.{key}": value.contiguous() for key, value in progress.state.items()}
    # A copy: tensors that share memory cannot be saved in one file.
    tensors |= {f"best.{key}": value.clone().contiguous() for key, value in progress.best.items()}
    with replacing(path) as temporary:
        save_file(tensors, temporary, {_KEY: json.dumps(header)})


def read_checkpoint(path: Path, expected: str) -> Checkpoint | str:
    """Read a checkpoint of the same run.

    Parameters
    ----------
    path : pathlib.Path
        May be absent.
    expected : str
        The fingerprint that it must have.

    Returns
    -------
    Checkpoint or str
        The progress, or in one sentence why there is none to go on from; empty
        where there is no file.
    """
    from safetensors import SafetensorError, safe_open

    if not path.is_file():
        return ""
    if path.stat().st_size > _MOST_BYTES:
        return f"{path.name} is too large for a checkpoint; training began anew."
    try:
        with safe_open(path, "pt") as file:
            header = json.loads((file.metadata() or {})[_KEY])
            if header.pop("format") != _FORMAT or header["fingerprint"] != expected:
                return (
                    "The checkpoint is of other annotations, another model or other settings; "
                    "training began anew."
                )
            tensors = {key: file.get_tensor(key) for key in file.keys()}  # noqa: SIM118
        state, best = (
            {key.removeprefix(start): v for key, v in tensors.items() if key.startswith(start)}
            for start in ("state.", "best.")
        )
        return Checkpoint(**header, state=state, best=best)
    except (SafetensorError, OSError, KeyError, TypeError, ValueError) as error:
        return f"{path.name} cannot be read ({error}); training began anew."


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
    for key, value in take_under(state, _PREFIX).items():
        index, name = key.split(".", maxsplit=1)
        moments.setdefault(int(index), {})[name] = value
    optimiser.load_state_dict({**optimiser.state_dict(), "state": moments})


def take_under(state: Mapping[str, Tensor], prefix: str) -> dict[str, Tensor]:
    """Return the tensors whose names begin with a prefix, without it."""
    return {key[len(prefix) :]: v for key, v in state.items() if key.startswith(prefix)}
