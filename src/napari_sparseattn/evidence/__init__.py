"""What a model looked at, as plain data (numpy only)."""

from .kinds import CropFrame, PixelSelection
from .traversal import Traversal

__all__ = ["CropFrame", "PixelSelection", "Traversal"]
