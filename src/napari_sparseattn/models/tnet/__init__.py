"""TNet: classify an image by looking closely only where it decides to (torch only)."""

from __future__ import annotations

from .crops import Crops, CropSource, Level, TensorSource, TNetOutput, candidates, children, roots
from .network import TNet, TNetConfig, load_official, tnet_from_config

__all__ = [
    "CropSource",
    "Crops",
    "Level",
    "TNet",
    "TNetConfig",
    "TNetOutput",
    "TensorSource",
    "candidates",
    "children",
    "load_official",
    "roots",
    "tnet_from_config",
]
