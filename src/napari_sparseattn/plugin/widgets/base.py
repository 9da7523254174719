"""What the docks' widgets share."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from psygnal import SignalInstance
from qtpy.QtWidgets import QComboBox, QDoubleSpinBox, QLabel, QSizePolicy, QWidget

__all__ = ["LABEL_WIDTH", "Follower", "label_for", "set_quietly", "shrinkable"]

#: Lines up the boxes of different grids, in screen pixels.
LABEL_WIDTH = 52


class Follower(QWidget):
    """A widget that follows signals of what outlives it, until it is released."""

    def __init__(self, parent: QWidget | None = None) -> None:
        super().__init__(parent)
        self._followed: list[tuple[SignalInstance, Callable[..., Any]]] = []

    def follow(self, signal: SignalInstance, slot: Callable[..., Any]) -> None:
        """Connect a bound method until `release`."""
        signal.connect(slot)
        self._followed.append((signal, slot))

    def show_theme(self) -> None:
        """Show texts with colours of their own anew: napari's theme has changed."""

    def release(self) -> None:
        """Disconnect; the widget is about to be deleted."""
        for signal, slot in self._followed:
            signal.disconnect(slot)
        self._followed.clear()


def label_for(widget: QWidget, text: str, parent: QWidget | None = None) -> QLabel:
    """Return a label that stands before a widget and names it to screen readers."""
    label = QLabel(text, widget.parentWidget() if parent is None else parent)
    label.setBuddy(widget)
    return label


def shrinkable(combo: QComboBox) -> QComboBox:
    """Let a combo box be narrower than its longest item."""
    combo.setSizeAdjustPolicy(QComboBox.SizeAdjustPolicy.AdjustToMinimumContentsLengthWithIcon)
    combo.setMinimumContentsLength(6)
    # A placeholder counts as an item; a minimum width overrides both.
    combo.setMinimumWidth(80)
    combo.setSizePolicy(QSizePolicy.Policy.Expanding, QSizePolicy.Policy.Fixed)
    return combo


def set_quietly(box: QDoubleSpinBox, value: float) -> None:
    """Show a number without telling that it changed."""
    box.blockSignals(True)
    box.setValue(value)
    box.blockSignals(False)
