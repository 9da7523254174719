"""The preview's picture and colour bar."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from qtpy.QtGui import QColor

from napari_sparseattn.plugin.widgets.picture import ColourBar, Picture, nice_ticks


@pytest.mark.parametrize(
    ("low", "high", "ticks"),
    [
        (0, 400, [0, 100, 200, 300, 400]),
        (-22.1, 490.5, [0, 200, 400]),
        (-3.14159, 3.14159, [-2, 0, 2]),
        (0.001, 0.0094, [0.002, 0.004, 0.006, 0.008]),
        (5, 5, [5]),
    ],
)
def test_ticks_are_round_and_within(low: float, high: float, ticks: list[float]) -> None:
    np.testing.assert_allclose(nice_ticks(low, high, 6), ticks)


def test_the_picture_maps_values_to_the_colours_of_the_bar(qtbot: Any) -> None:
    picture = Picture()
    qtbot.addWidget(picture)
    values = np.array([[0.0, 100.0], [np.nan, 500.0]])
    picture.set_values(values, "gray", (0, 100))
    image = picture._pixels.pixmap().toImage()
    assert QColor(image.pixel(0, 0)).lightness() == 0
    assert QColor(image.pixel(1, 0)).lightness() == 255
    assert QColor(image.pixel(1, 1)).lightness() == 255
    assert 50 < QColor(image.pixel(0, 1)).lightness() < 150
    picture.set_values(None, "gray", (0, 1))
    assert picture.shape == (0, 0)


def test_a_press_tells_its_row_and_column_only_where_that_means_something(qtbot: Any) -> None:
    from qtpy.QtCore import Qt

    picture = Picture()
    qtbot.addWidget(picture)
    picture.resize(300, 260)
    picture.set_values(np.zeros((50, 80)), "gray", (0, 1))
    told: list[tuple[float, float]] = []
    picture.picked.connect(lambda row, column: told.append((row, column)))
    at = picture.mapFromScene(60, 20)
    qtbot.mousePress(picture.viewport(), Qt.MouseButton.LeftButton, pos=at)
    assert told == []
    picture.pickable = True
    qtbot.mousePress(picture.viewport(), Qt.MouseButton.LeftButton, pos=at)
    np.testing.assert_allclose(told, [(20, 60)], atol=0.5)


def test_the_colour_bar_says_its_limits_and_unit(qtbot: Any) -> None:
    bar = ColourBar()
    qtbot.addWidget(bar)
    bar.set_scale("viridis", (0.0, 412.3), "nm")
    assert bar.accessibleDescription() == "0 to 412.3 nm"
    assert not bar.grab().isNull()
