"""Tells a click from a drag."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

import numpy as np

__all__ = ["ClickWatcher"]

#: A hand moves the mouse a little while it clicks, in screen pixels.
_STILL = 4.0


class ClickWatcher:
    """Calls back for clicks with the left button; leaves drags to napari.

    Parameters
    ----------
    clicked : callable
        Called with the position in world coordinates where the button was
        pressed.
    shifted : callable, optional
        The same where Shift was held.
    """

    def __init__(
        self, clicked: Callable[[Any], object], shifted: Callable[[Any], object] | None = None
    ) -> None:
        self._called = {(): clicked, ("Shift",): shifted}
        self.on = True

    def on_mouse(self, viewer: Any, event: Any) -> Iterator[None]:
        """Follow one press to its release; a napari mouse callback."""
        called = self._called.get(tuple(str(key) for key in event.modifiers))
        if not self.on or event.button not in (1, None) or called is None:
            return
        active = viewer.layers.selection.active
        # Other modes draw, paint or select: their clicks are not for us.
        if active is not None and str(active.mode) != "pan_zoom":
            return
        start, world = np.array(event.pos), tuple(event.position)
        moved = 0.0
        yield
        while event.type == "mouse_move":
            moved = max(moved, float(np.hypot(*(np.array(event.pos) - start))))
            yield
        moved = max(moved, float(np.hypot(*(np.array(event.pos) - start))))
        # However long it took: under load, a press may reach us late.
        if moved <= _STILL:
            called(world)
