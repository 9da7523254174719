"""What a model looked at, as plain data (numpy only)."""

from .kinds import CropFrame, PixelSelection
from .pyramid_attention import AttendedLevel, PyramidAttention, scaled_weights
from .traversal import Traversal

__all__ = [
    "AttendedLevel",
    "CropFrame",
    "PixelSelection",
    "PyramidAttention",
    "Traversal",
    "scaled_weights",
]
