"""SPAN: attention over a pyramid of the patches of a slide (torch only)."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from .config import SpanMilConfig, SpanUnetConfig
from .lattice import Lattice
from .mil import SpanMil
from .official import load_official
from .output import SpanLevel, SpanOutput
from .replacing import run_replaced
from .streaming import run_span, stream
from .unet import SpanUnet

__all__ = [
    "Lattice",
    "SpanLevel",
    "SpanMil",
    "SpanMilConfig",
    "SpanOutput",
    "SpanUnet",
    "SpanUnetConfig",
    "load_official",
    "run_replaced",
    "run_span",
    "span_from_config",
    "stream",
]


def span_from_config(config: Mapping[str, Any]) -> SpanMil | SpanUnet:
    """Build a SPAN network from what a card holds, with random weights.

    Parameters
    ----------
    config : mapping
        ``dataclasses.asdict`` of a `SpanMilConfig` or `SpanUnetConfig`; its
        ``"task"`` (``"mil"`` or ``"unet"``) tells which.

    Raises
    ------
    TypeError, ValueError
        If the configuration has unknown or impossible entries.
    """
    task = config.get("task")
    if task == "mil":
        return SpanMil(SpanMilConfig(**config))
    if task == "unet":
        return SpanUnet(SpanUnetConfig(**config))
    raise ValueError(f"task must be 'mil' or 'unet', got {task!r}")
