"""The "?" beside a section: opens the page of the documentation that explains it."""

from __future__ import annotations

from qtpy.QtCore import QPoint, QUrl
from qtpy.QtGui import QDesktopServices
from qtpy.QtWidgets import QToolButton, QToolTip, QWidget

__all__ = ["DOCS", "PAGES", "HelpButton", "page_address"]

#: Where the documentation is read.
DOCS = "https://github.com/napari-sparseattn/napari-sparseattn/blob/main/docs/"

#: The page, in ``docs/``, of each section that has one; it uses the section's own words.
PAGES = {
    "Result": "cells.md",
    "What if": "what_if.md",
    "Compare": "what_if.md",
    "Attention": "span.md",
    "Patches": "span.md",
    "Crops": "slides.md",
    "Crops per level": "slides.md",
    "Cells": "cells.md#all-cells-at-once",
    "Faithfulness per cell": "what_if.md",
    "Export": "exports.md",
    "More": "window.md#more",
    "Preview": "holography.md",
    "Annotate": "annotate.md",
    "Several raters": "annotate.md#several-raters",
    "Training": "train_window.md",
    "Report": "train_window.md",
    "Cross-validation": "pathology.md",
    "Train on a table of slides": "train_window.md",
}


_STYLE = """
QToolButton {
    border: 1px solid #6c7a89; border-radius: 8px; padding: 0; margin: 0; font-weight: bold;
    min-width: 15px; max-width: 15px; min-height: 15px; max-height: 15px; background: transparent;
}
QToolButton:hover { background: #2f6f9f; color: white; }
"""


def page_address(title: str) -> str:
    """Return the address of the page that explains a section.

    Raises
    ------
    KeyError
        If no page does.
    """
    return DOCS + PAGES[title]


class HelpButton(QToolButton):
    """Opens a section's page in the browser; without one it shows the address."""

    def __init__(self, title: str, parent: QWidget | None = None) -> None:
        super().__init__(parent)
        self.address = page_address(title)
        # Its own: that of the header that it lies in takes borders away.
        self.setStyleSheet(_STYLE)
        self.setText("?")
        self.setAccessibleName(f"Help on {title}")
        self.setToolTip(f"Opens the page of the documentation on {title}.")
        self.clicked.connect(self._open)

    def _open(self) -> None:
        if not QDesktopServices.openUrl(QUrl(self.address)):
            below = self.mapToGlobal(QPoint(0, self.height()))
            QToolTip.showText(below, f"No browser could be opened: see {self.address}", self)
