"""Where the user has put docks of ours, and whether they were closed: kept between sessions."""

from __future__ import annotations

import contextlib
import json
import logging
from pathlib import Path
from typing import Any

from qtpy.QtCore import Qt
from qtpy.QtWidgets import QDockWidget, QMainWindow

from ...bundle import user_models_folder
from ...files import replacing

__all__ = ["keep_place", "note_closing", "put_back", "was_closed"]

_log = logging.getLogger(__name__)
_FILE = "docks.json"
_AREAS = {
    "left": Qt.DockWidgetArea.LeftDockWidgetArea,
    "right": Qt.DockWidgetArea.RightDockWidgetArea,
    "top": Qt.DockWidgetArea.TopDockWidgetArea,
    "bottom": Qt.DockWidgetArea.BottomDockWidgetArea,
}


def put_back(dock: QDockWidget, title: str, area: str, height: int) -> bool:
    """Put a dock where it was, or else into an area, with so many screen pixels of height.

    Returns
    -------
    bool
        Whether it lies in the window, not above it.
    """
    window, kept = dock.parent(), _read().get(title, {})
    if not isinstance(window, QMainWindow):
        return False
    area = kept.get("area", area)
    if area in _AREAS and window.dockWidgetArea(dock) != _AREAS[area]:
        window.addDockWidget(_AREAS[area], dock)
    size = kept.get("size", [0, height])
    if kept.get("floating"):
        dock.setFloating(True)
        dock.resize(*(max(200, int(side)) for side in size))
        return False
    if area in ("bottom", "top"):
        window.resizeDocks([dock], [int(size[1])], Qt.Orientation.Vertical)
    elif size[0]:
        window.resizeDocks([dock], [int(size[0])], Qt.Orientation.Horizontal)
    return True


def keep_place(dock: QDockWidget, title: str) -> None:
    """Remember where a dock is, and how large."""
    window = dock.parent()
    if not isinstance(window, QMainWindow):
        return
    there = window.dockWidgetArea(dock)
    area = next((name for name, each in _AREAS.items() if each == there), "")
    place: dict[str, Any] = {"floating": dock.isFloating(), "size": [dock.width(), dock.height()]}
    if area:
        place["area"] = area
    _write(title, place)


def note_closing(title: str, closed: bool) -> None:
    """Remember whether the user has closed a dock, or has opened it again."""
    if closed != was_closed(title):
        _write(title, {"closed": closed})


def was_closed(title: str) -> bool:
    """Whether the user has closed a dock, so that it should not open by itself."""
    return bool(_read().get(title, {}).get("closed", False))


def _path() -> Path:
    return user_models_folder() / _FILE


def _read() -> dict[str, Any]:
    with contextlib.suppress(OSError, ValueError):
        found = json.loads(_path().read_text(encoding="utf-8"))
        if isinstance(found, dict):
            return {title: place for title, place in found.items() if isinstance(place, dict)}
    return {}


def _write(title: str, place: dict[str, Any]) -> None:
    """Change what is known of a dock."""
    path, every = _path(), _read()
    changed = {**every.get(title, {}), **place}
    if changed == every.get(title):
        return
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        with replacing(path) as temporary:
            temporary.write_text(json.dumps({**every, title: changed}), encoding="utf-8")
    except OSError as error:
        _log.info("the place of a dock is not kept", exc_info=error)
