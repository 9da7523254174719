"""What is known of each image layer; forgotten together with the layer."""

from __future__ import annotations

import dataclasses
import math
import weakref
from collections.abc import Hashable
from typing import TYPE_CHECKING, Any

from .sources import ImageSettings, PlaneRef, guess_settings

if TYPE_CHECKING:
    from napari.layers import Image

    from ...images.fields.cells import Cells
    from ...inference.prediction import Predictions

__all__ = ["Entry", "ImageBook"]


@dataclasses.dataclass
class Entry:
    """What is known of one image.

    Parameters
    ----------
    settings : ImageSettings
        Modality and pixel size.
    cells : Cells or None
        The cells of the plane that `cells_key` stands for.
    cells_key : hashable
        What the cells were found in and by.
    results : (PlaneRef, Predictions, tuple of str) or None
        The last run: its plane, its cells, the colours of its classes.
    """

    settings: ImageSettings
    cells: Cells | None = None
    cells_key: Hashable = None
    results: tuple[PlaneRef, Predictions, tuple[str, ...]] | None = None


class ImageBook:
    """Entries by layer."""

    def __init__(self) -> None:
        self._entries: weakref.WeakKeyDictionary[Image, Entry] = weakref.WeakKeyDictionary()

    def __contains__(self, layer: object) -> bool:
        return layer in self._entries

    def __getitem__(self, layer: Image) -> Entry:
        """Return the entry of an image; made from what the layer says the first time."""
        entry = self._entries.get(layer)
        if entry is None:
            entry = self._entries[layer] = Entry(guess_settings(layer))
        return entry

    def change(self, layer: Image, changes: dict[str, Any]) -> bool:
        """Change the settings of an image; return whether anything differs.

        Raises
        ------
        ValueError
            If the pixel size is not a positive number.
        """
        size = changes.get("pixel_size")
        if size is not None and not (math.isfinite(size) and size > 0):
            raise ValueError(f"The pixel size must be a positive number of µm, not {size}.")
        entry = self[layer]
        new = dataclasses.replace(entry.settings, **changes)
        if new == entry.settings:
            return False
        entry.settings, entry.cells = new, None
        return True

    def cells(self, layer: Image, key: Hashable) -> Cells | None:
        """Return the cells kept under a key."""
        entry = self[layer]
        return entry.cells if entry.cells_key == key else None

    def keep_cells(self, layer: Image, key: Hashable, cells: Cells) -> None:
        """Keep the cells of one plane of an image."""
        entry = self[layer]
        entry.cells, entry.cells_key = cells, key

    def forget_cells(self) -> None:
        """Forget the cells of all images."""
        for entry in self._entries.values():
            entry.cells = None
