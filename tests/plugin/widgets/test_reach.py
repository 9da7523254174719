"""Keys in a dock: the order of Tab, the ring around what has the focus, the theme."""

from __future__ import annotations

from typing import Any

import pytest
from qtpy.QtCore import Qt
from qtpy.QtTest import QTest
from qtpy.QtWidgets import (
    QApplication,
    QGridLayout,
    QHBoxLayout,
    QLabel,
    QLineEdit,
    QPushButton,
    QSplitter,
    QTableWidget,
    QVBoxLayout,
    QWidget,
)

from napari_sparseattn.plugin.core.status import Status
from napari_sparseattn.plugin.widgets.base import label_for
from napari_sparseattn.plugin.widgets.frame import DockFrame, section
from napari_sparseattn.plugin.widgets.inks import INKS
from napari_sparseattn.plugin.widgets.tab_order import list_in_order, order_tabs

#: As napari's themes do it.
THEME = "QWidget { background-color: %s; color: %s; }"


class Dock(DockFrame):
    """A dock whose parts are made in another order than they are read in."""

    def __init__(self) -> None:
        super().__init__(Status())
        inner = QWidget(self)
        self.last = QPushButton("last", inner)
        self.table = QTableWidget(3, 2, inner)
        self.folded = QPushButton("folded away", inner)
        grid_of = QWidget(inner)
        grid = QGridLayout(grid_of)
        self.right, self.below = QPushButton("right", grid_of), QPushButton("below", grid_of)
        self.left = QLineEdit(grid_of)
        grid.addWidget(self.below, 1, 0)
        grid.addWidget(self.right, 0, 1)
        grid.addWidget(self.left, 0, 0)
        self.section = section("Options", self.folded, inner, open_=False)
        self.lay_out(inner, [grid_of, self.section, self.table, self.last])
        self.end_with([])


@pytest.fixture
def window(qtbot: Any) -> QWidget:
    made = QWidget()
    made.setStyleSheet(THEME % ("#23242b", "#f0f1f2"))
    row = QHBoxLayout(made)
    row.addWidget(QPushButton("before", made))
    made.dock = Dock()
    row.addWidget(made.dock)
    row.addWidget(QPushButton("after", made))
    qtbot.addWidget(made)
    made.show()
    made.activateWindow()
    qtbot.waitUntil(made.isActiveWindow, timeout=100_000)
    if QApplication.mouseButtons() != Qt.MouseButton.NoButton:
        # Left pressed by another test.
        QTest.mouseRelease(made, Qt.MouseButton.LeftButton)
    return made


def press_tab(times: int = 1, key: Any = Qt.Key.Key_Tab) -> list[QWidget]:
    seen = []
    for _ in range(times):
        QTest.keyClick(QApplication.focusWidget(), key)
        seen.append(QApplication.focusWidget())
    return seen


def test_tab_goes_through_a_dock_as_it_is_read(window: QWidget) -> None:
    dock = window.dock
    window.layout().itemAt(0).widget().setFocus()
    header = dock.section.toggleButton()
    wanted = [dock.left, dock.right, dock.below, header, dock.table, dock.last]
    assert press_tab(6) == wanted
    # Out of it, also out of the table, and back.
    assert press_tab() == [window.layout().itemAt(2).widget()]
    assert press_tab(6, Qt.Key.Key_Backtab) == wanted[::-1]


def test_what_unfolds_and_what_is_made_later_have_their_place(window: QWidget) -> None:
    dock = window.dock
    dock.section.expand(animate=False)
    later = QPushButton("later", dock.left.parentWidget())
    later.parentWidget().layout().addWidget(later, 0, 2)
    later.show()
    dock.right.setFocus()
    header = dock.section.toggleButton()
    assert press_tab(4) == [later, dock.below, header, dock.folded]


def test_a_splitter_is_read_from_left_to_right(qtbot: Any) -> None:
    outer = QWidget()
    qtbot.addWidget(outer)
    split = QSplitter(outer)
    second, first = QPushButton("2"), QPushButton("1")
    split.addWidget(first)
    split.addWidget(second)
    QVBoxLayout(outer).addWidget(split)
    found = [each for each in list_in_order(outer) if isinstance(each, QPushButton)]
    assert found == [first, second]
    order_tabs(outer)
    after = first.nextInFocusChain()
    while not isinstance(after, QPushButton):
        after = after.nextInFocusChain()
    assert after is second


def test_the_ring_lies_around_what_tab_came_to(window: QWidget, qtbot: Any) -> None:
    dock = window.dock
    dock.left.setFocus()
    (right,) = press_tab()
    ring = dock.ring
    assert right is dock.right
    assert ring.isVisible()
    assert ring.around is right
    lies = right.rect().translated(right.mapTo(ring.parentWidget(), right.rect().topLeft()))
    assert ring.geometry().contains(lies)
    # It goes where the button goes.
    before = ring.geometry()
    dock.left.setFixedWidth(dock.left.width() // 2)
    qtbot.waitUntil(lambda: ring.geometry() != before, timeout=100_000)
    # It is left out by the mouse, and does not take its clicks.
    clicked = []
    dock.right.clicked.connect(clicked.append)
    QTest.mouseClick(dock.right, Qt.MouseButton.LeftButton)
    assert clicked
    dock.left.setFocus()
    assert ring.around is dock.left


def test_tab_shows_the_ring_whatever_the_mouse_did_last(window: QWidget) -> None:
    """After a drag, Qt may take a button for pressed until the mouse moves again."""
    dock = window.dock
    QTest.mousePress(dock.left, Qt.MouseButton.LeftButton)
    assert dock.ring.around is None
    press_tab()
    assert dock.ring.around is dock.right
    QTest.mouseRelease(dock.left, Qt.MouseButton.LeftButton)


def test_the_ring_outlives_what_it_lay_around(window: QWidget, qtbot: Any) -> None:
    dock = window.dock
    dock.right.setFocus()
    assert dock.ring.around is dock.right
    parent = dock.right.parentWidget()
    parent.setParent(None)
    parent.deleteLater()
    qtbot.waitUntil(lambda: dock.ring.around is not dock.right, timeout=100_000)
    dock.last.setFocus()
    assert dock.ring.isVisible()
    assert dock.ring.around is dock.last


def test_a_dock_follows_the_theme(window: QWidget, qtbot: Any) -> None:
    dock = window.dock
    told: list[bool] = []
    dock.message_line.show_theme = lambda: told.append(True)
    qtbot.waitUntil(lambda: INKS["edge"][0] in dock.styleSheet(), timeout=100_000)
    told.clear()
    window.setStyleSheet(THEME % ("#ebe7e6", "#1e1e21"))
    qtbot.waitUntil(lambda: INKS["edge"][1] in dock.styleSheet(), timeout=100_000)
    assert told == [True]


def test_a_label_names_what_it_stands_before(qtbot: Any) -> None:
    outer = QWidget()
    qtbot.addWidget(outer)
    field = QLineEdit(outer)
    label = label_for(field, "Filter")
    assert isinstance(label, QLabel)
    assert label.buddy() is field
    assert label.parentWidget() is outer


def test_focus_after_a_dock_has_gone_is_nobodys(window: QWidget, qtbot: Any) -> None:
    dock, before = window.dock, window.layout().itemAt(0).widget()
    dock.right.setFocus()
    gone: list[bool] = []
    dock.destroyed.connect(lambda: gone.append(True))
    window.dock = None
    dock.setParent(None)
    qtbot.waitUntil(lambda: bool(gone), timeout=100_000)
    # An exception in a slot would fail the test.
    before.setFocus()
    press_tab()
