"""Text that Qt shows as it is: never read as HTML, never wider than its place."""

from __future__ import annotations

import re
from html import escape

from qtpy.QtCore import QSize, Qt
from qtpy.QtGui import QFontMetrics, QResizeEvent
from qtpy.QtWidgets import QLabel, QSizePolicy, QWidget

__all__ = ["ElidedLabel", "FittedLabel", "WrappedLabel", "breakable", "rich"]

#: Words longer than this many letters may be broken anywhere.
_LONG_WORD = re.compile(r"\S{16}(?=\S)")
_ZERO_WIDTH_SPACE = "\u200b"


def rich(text: str) -> str:
    """Return text as rich text that shows it unchanged, alone or as a part of more.

    Qt takes what looks like HTML for HTML in labels and tooltips: of a class
    named ``CD8<dim>`` it shows "CD8". Names of classes, files and layers go
    through this function wherever a label is not plain.
    """
    return f"<span>{escape(text, quote=False)}</span>".replace("\n", "<br>")


def breakable(text: str) -> str:
    """Return text whose long words Qt may break anywhere; not for what is to be copied."""
    return _LONG_WORD.sub(rf"\g<0>{_ZERO_WIDTH_SPACE}", text)


class WrappedLabel(QLabel):
    """Plain text in as many lines as it takes; long words are broken."""

    def __init__(self, text: str = "", parent: QWidget | None = None) -> None:
        super().__init__(parent)
        self._whole = ""
        self.setTextFormat(Qt.TextFormat.PlainText)
        self.setWordWrap(True)
        policy = QSizePolicy(QSizePolicy.Policy.Ignored, QSizePolicy.Policy.Preferred)
        policy.setHeightForWidth(True)
        self.setSizePolicy(policy)
        self.setText(text)

    def setText(self, text: str | None) -> None:  # noqa: N802 - Qt's name
        """Show a text."""
        self._whole = text or ""
        super().setText(breakable(self._whole))

    def text(self) -> str:
        """Return the text, as it was set."""
        return self._whole


class FittedLabel(QLabel):
    """Rich text, wrapped, that gets the height of all its lines, tables included."""

    def __init__(self, parent: QWidget | None = None) -> None:
        super().__init__(parent)
        self.setTextFormat(Qt.TextFormat.RichText)
        self.setWordWrap(True)
        policy = QSizePolicy(QSizePolicy.Policy.Ignored, QSizePolicy.Policy.Preferred)
        policy.setHeightForWidth(True)
        self.setSizePolicy(policy)

    def setText(self, text: str | None) -> None:  # noqa: N802 - Qt's name
        """Show a text."""
        # Any change of text has the whole window laid out anew.
        if text == self.text():
            return
        super().setText(text)
        self._fit()

    def resizeEvent(self, event: QResizeEvent | None) -> None:  # noqa: N802 - Qt's name
        """Keep room for all lines."""
        super().resizeEvent(event)
        self._fit()

    def _fit(self) -> None:
        # The old minimum would count as the height that is wanted.
        self.setMinimumHeight(0)
        self.setMinimumHeight(max(0, self.heightForWidth(self.width())))


class ElidedLabel(QLabel):
    """One line of plain text, cut in its middle where there is no room; whole in the tooltip."""

    def __init__(self, text: str = "", parent: QWidget | None = None) -> None:
        super().__init__(parent)
        self._whole = ""
        self.setTextFormat(Qt.TextFormat.PlainText)
        self.setText(text)

    def setText(self, text: str | None) -> None:  # noqa: N802 - Qt's name
        """Show a text."""
        self._whole = text or ""
        self.setToolTip(rich(self._whole) if self._whole else "")
        self._fit()

    def text(self) -> str:
        """Return the whole text."""
        return self._whole

    def resizeEvent(self, event: QResizeEvent | None) -> None:  # noqa: N802 - Qt's name
        """Cut anew."""
        super().resizeEvent(event)
        self._fit()

    def minimumSizeHint(self) -> QSize:  # noqa: N802 - Qt's name
        """Ask for no width."""
        return QSize(20, super().minimumSizeHint().height())

    def sizeHint(self) -> QSize:  # noqa: N802 - Qt's name
        """Ask for no width."""
        return self.minimumSizeHint()

    def _fit(self) -> None:
        mode = Qt.TextElideMode.ElideMiddle
        room = self.contentsRect().width() - 4
        super().setText(QFontMetrics(self.font()).elidedText(self._whole, mode, room))
