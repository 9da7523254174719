"""Files and folders dropped on a widget."""

from __future__ import annotations

from collections.abc import Callable

from qtpy.QtCore import QEvent, QMimeData, QObject, Qt
from qtpy.QtWidgets import QWidget

__all__ = ["FileDrops"]


class FileDrops(QObject):
    """Hands what is dropped on a widget, or on what lies in it, to a function.

    Parameters
    ----------
    widget : QWidget
        Takes the drops from now on; owns this.
    dropped : callable
        Called with the paths of the files and folders, at least one.
    """

    def __init__(self, widget: QWidget, dropped: Callable[[list[str]], None]) -> None:
        super().__init__(widget)
        self._dropped = dropped
        widget.setAcceptDrops(True)
        widget.installEventFilter(self)

    def eventFilter(self, watched: QObject | None, event: QEvent | None) -> bool:  # noqa: N802 - Qt's name
        """Take drags of files, and leave all others to napari."""
        kinds = (QEvent.Type.DragEnter, QEvent.Type.DragMove, QEvent.Type.Drop)
        if event is None or event.type() not in kinds:
            return False
        paths = _paths(event.mimeData())
        if not paths:
            return False
        # A copy: a file manager deletes what has been moved.
        event.setDropAction(Qt.DropAction.CopyAction)
        event.accept()
        if event.type() == QEvent.Type.Drop:
            self._dropped(paths)
        return True


def _paths(data: QMimeData | None) -> list[str]:
    if data is None or not data.hasUrls():
        return []
    return [url.toLocalFile() for url in data.urls() if url.isLocalFile()]
