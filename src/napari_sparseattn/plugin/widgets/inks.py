"""Colours that stand out on napari's dark theme, and their likes on its light one."""

from __future__ import annotations

from qtpy.QtGui import QPalette
from qtpy.QtWidgets import QWidget

__all__ = ["INKS", "ink", "is_dark"]

#: On dark, on light. Letters have at least 4.5 : 1 with the ground, edges 3 : 1
#: (`benchmarks/accessibility.py`); no grey has that on both.
INKS = {
    "text": ("#f0f1f2", "#1e1e21"),
    "muted": ("#a9b4c0", "#505964"),
    "placeholder": ("#c8ced6", "#3f454d"),
    "edge": ("#7d8794", "#69727d"),
    "link": ("#6fb3f5", "#0b5394"),
    "good": ("#3fb68b", "#0b6b4c"),
    "bad": ("#e5b567", "#7a4f00"),
    "second": ("#ff9d2e", "#8f4700"),
    "for": ("#ff8a7a", "#a3271a"),
    "against": ("#7fb8f0", "#1a5490"),
    "failed": ("#ff8f6b", "#9c2f0a"),
    "running": ("#8ecae6", "#0b5470"),
    "done": ("#8fd694", "#1a5c22"),
}


def is_dark(widget: QWidget) -> bool:
    """Whether a widget is shown in a dark theme."""
    # By the window's words: a widget that is being dressed has other colours meanwhile.
    return bool(widget.window().palette().color(QPalette.ColorRole.WindowText).lightness() > 127)


def ink(widget: QWidget | None, name: str) -> str:
    """Return one of `INKS` for the theme that a widget is shown in; dark where there is none."""
    return INKS[name][0 if widget is None or is_dark(widget) else 1]
