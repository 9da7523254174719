"""Which kinds of cells there can be here: chosen with the mouse in a real window."""

from __future__ import annotations

import numpy as np
import pytest
from qtpy.QtCore import QPoint, Qt, QTimer
from qtpy.QtTest import QTest

from .test_seen import add, classify_all, click_cell
from .test_window import Window


def tick(window: Window, *names: str) -> None:
    """Open the list, click on the boxes of some kinds, and close it with Escape."""
    kinds = window.dock.image_box.kinds
    window.dock.more.expand(animate=False)

    def work() -> None:
        # Qt waits in the list until it closes.
        if not kinds.menu.isVisible():
            QTimer.singleShot(20, work)
            return
        for name in names:
            box = kinds.boxes[name]
            at = QPoint(8, box.height() // 2)
            QTest.mouseClick(box, Qt.MouseButton.LeftButton, pos=at)
        QTest.keyClick(kinds.menu, Qt.Key.Key_Escape)

    QTimer.singleShot(0, work)
    QTest.mouseClick(kinds.button, Qt.MouseButton.LeftButton)
    window.until(lambda: not kinds.menu.isVisible())


@pytest.mark.slow
def test_only_the_kinds_that_can_be_here_are_found(window: Window) -> None:
    session, button = window.session, window.dock.image_box.kinds.button
    assert not button.isVisible()
    window.dock.more.expand(animate=False)
    image = add(window)
    assert button.isVisible()
    assert button.text() == "all 3"
    classify_all(window)
    every = session.cells.results.probabilities
    click_cell(window, image, 0)

    # What was found with other kinds is outdated.
    tick(window, "lobed")
    assert button.text() == "2 of 3"
    assert "Now: round, small." in button.toolTip()
    assert session.cells.results is None
    assert session.answer is None
    assert not window.table.table.isVisible()
    assert "classify it again" in window.dock.message_line.label.text()

    classify_all(window)
    few = session.cells.results
    assert few.class_names == ("round", "lobed", "small")
    expected = every * (1, 0, 1)
    expected /= expected.sum(axis=1, keepdims=True)
    np.testing.assert_allclose(few.probabilities, expected, atol=1e-5)
    assert any("lobed" in note for note in few.ledger.notes)
    answer = click_cell(window, image, 0)
    np.testing.assert_allclose(answer.probabilities, expected[0], atol=1e-5)

    # They are of this image, and are kept for it.
    other = add(window, name="other")
    session.choose_image(other)
    assert button.text() == "all 3"
    session.choose_image(image)
    assert button.text() == "2 of 3"
    assert session.cells.results is few

    # None at all is refused; nothing is lost by looking.
    tick(window)
    tick(window, "round", "small")
    assert "At least one kind" in window.dock.message_line.label.text()
    assert session.cells.results is few
    tick(window, "lobed")
    assert button.text() == "all 3"
    assert session.cells.results is None
