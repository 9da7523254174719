"""What a model looked at, as plain data (numpy only)."""

from .answers import Answer, WhatIf
from .faithfulness import Curves, Faithfulness, FaithfulnessOfSet
from .foci import Foci, find_foci
from .kinds import CropFrame, PixelSelection
from .pyramid_attention import AttendedLevel, PyramidAttention, scale_weights
from .traversal import Stop, Traversal

__all__ = [
    "Answer",
    "AttendedLevel",
    "CropFrame",
    "Curves",
    "Faithfulness",
    "FaithfulnessOfSet",
    "Foci",
    "PixelSelection",
    "PyramidAttention",
    "Stop",
    "Traversal",
    "WhatIf",
    "find_foci",
    "scale_weights",
]
