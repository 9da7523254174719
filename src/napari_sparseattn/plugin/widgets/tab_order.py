"""The order in which the Tab key goes through a dock: that in which it is read."""

from __future__ import annotations

from collections.abc import Iterator

from qtpy.QtCore import Qt
from qtpy.QtWidgets import (
    QBoxLayout,
    QGridLayout,
    QLayout,
    QScrollArea,
    QSplitter,
    QTableView,
    QWidget,
)

__all__ = ["list_in_order", "order_tabs"]

_TAB = Qt.FocusPolicy.TabFocus
_BACKWARDS = (QBoxLayout.Direction.RightToLeft, QBoxLayout.Direction.BottomToTop)


def list_in_order(widget: QWidget) -> Iterator[QWidget]:
    """Yield a widget and all that lies in its layouts, line by line."""
    yield widget
    if isinstance(widget, QScrollArea):
        if widget.widget() is not None:
            yield from list_in_order(widget.widget())
    elif isinstance(widget, QSplitter):
        for i in range(widget.count()):
            yield from list_in_order(widget.widget(i))
    elif widget.layout() is not None:
        yield from _list_layout(widget.layout())


def _list_layout(layout: QLayout) -> Iterator[QWidget]:
    places = list(range(layout.count()))
    if isinstance(layout, QGridLayout):
        places.sort(key=lambda i: layout.getItemPosition(i)[:2])
    elif isinstance(layout, QBoxLayout) and layout.direction() in _BACKWARDS:
        places.reverse()
    for item in (layout.itemAt(i) for i in places):
        if item is None:
            continue
        if item.widget() is not None:
            yield from list_in_order(item.widget())
        elif item.layout() is not None:
            yield from _list_layout(item.layout())


def order_tabs(dock: QWidget) -> None:
    """Let the Tab key go through a dock as it is laid out now, and out of its tables."""
    for table in dock.findChildren(QTableView):
        # Arrow keys go from cell to cell; with Tab too, nobody would come out again.
        table.setTabKeyNavigation(False)
    before: QWidget | None = None
    for widget in list_in_order(dock):
        if widget.focusPolicy() & _TAB != _TAB:
            continue
        if before is not None:
            QWidget.setTabOrder(before, widget)
        before = widget
