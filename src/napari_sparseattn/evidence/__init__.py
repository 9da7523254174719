"""What a model looked at, as plain data (numpy only)."""

from .kinds import CropFrame, PixelSelection

__all__ = ["CropFrame", "PixelSelection"]
