"""napari's own notifications, for what is asked for without a dock of ours."""

from __future__ import annotations

from .status import Level

__all__ = ["notify"]


def notify(text: str, level: Level) -> None:
    """Let napari show what went wrong; what only goes on is not worth a notification."""
    from napari.utils.notifications import show_error, show_warning

    if level != "info":
        (show_error if level == "error" else show_warning)(text)
