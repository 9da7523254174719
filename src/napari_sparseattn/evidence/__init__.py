"""What a model looked at, as plain data (numpy only)."""

from .answers import Answer, WhatIf
from .faithfulness import Curves, Faithfulness, FaithfulnessOfSet
from .kinds import CropFrame, PixelSelection
from .pyramid_attention import AttendedLevel, PyramidAttention, scale_weights
from .traversal import Traversal

__all__ = [
    "Answer",
    "AttendedLevel",
    "CropFrame",
    "Curves",
    "Faithfulness",
    "FaithfulnessOfSet",
    "PixelSelection",
    "PyramidAttention",
    "Traversal",
    "WhatIf",
    "scale_weights",
]
