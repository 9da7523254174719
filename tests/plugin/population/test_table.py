"""The table of cells: its model, and what is done with it, without a window."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from qtpy.QtCore import QPoint, Qt
from qtpy.QtGui import QIcon
from qtpy.QtTest import QTest
from qtpy.QtWidgets import QFileDialog

from napari_sparseattn.images.fields.cells import Cells
from napari_sparseattn.inference.prediction import Predictions, ReadingLedger
from napari_sparseattn.plugin.cells.shown import ShownCells
from napari_sparseattn.plugin.population.session import Population
from napari_sparseattn.plugin.population.table_box import CellsModel, TableBox, _safe

COLOURS = ("#0072B2", "#E69F00")


def predictions(pixel_size: float | None = 0.5) -> Predictions:
    centres = np.array([(10, 20), (30, 40), (50, 60)], dtype=float)
    boxes = np.hstack([centres - 4, centres + 4])
    cells = Cells(centres, boxes, np.zeros(3, bool), np.array([7, 2**40, 9]), None, pixel_size)
    shares = np.array([[0.9, 0.1], [0.2, 0.8], [0.4, 0.6]], dtype=np.float32)
    return Predictions(
        cells, ("round", "lobed"), shares, (), ReadingLedger(1, 1, 1, 0.1, "cpu"), "hash"
    )


@pytest.fixture
def table(qapp: object) -> CellsModel:
    shown = ShownCells()
    model = CellsModel(shown)
    shown.changed.connect(model.refresh)
    shown.set_results(predictions(), COLOURS)
    return model


def texts(model: CellsModel, column: int) -> list[str]:
    return [model.data(model.index(row, column)) for row in range(model.rowCount())]


def test_it_shows_id_class_probability_and_size(table: CellsModel) -> None:
    assert texts(table, 0) == ["7", str(2**40), "9"]
    assert texts(table, 1) == ["round", "lobed", "lobed"]
    assert texts(table, 2) == ["90%", "80%", "60%"]
    assert texts(table, 3) == ["4.0", "4.0", "4.0"]
    assert table.headerData(3, Qt.Orientation.Horizontal) == "size, µm"


def test_size_is_in_pixels_where_the_pixel_size_is_unknown(table: CellsModel) -> None:
    table.shown.set_results(predictions(None), COLOURS)
    assert table.headerData(3, Qt.Orientation.Horizontal) == "size, px"
    assert texts(table, 3) == ["8.0", "8.0", "8.0"]


@pytest.mark.parametrize(
    ("column", "descending", "ids"),
    [
        (0, True, [2**40, 9, 7]),
        (1, False, [2**40, 9, 7]),
        (2, False, [9, 2**40, 7]),
        (3, True, [7, 2**40, 9]),
    ],
)
def test_sorting_keeps_rows_and_cells_together(
    table: CellsModel, column: int, descending: bool, ids: list[int]
) -> None:
    order = Qt.SortOrder.DescendingOrder if descending else Qt.SortOrder.AscendingOrder
    table.sort(column, order)
    assert texts(table, 0) == [str(i) for i in ids]
    for row in range(3):
        assert table.row(table.cell(row)) == row


def test_classes_have_their_colour(table: CellsModel) -> None:
    icon = table.data(table.index(1, 1), Qt.ItemDataRole.DecorationRole)
    for mode in (QIcon.Mode.Normal, QIcon.Mode.Selected):
        middle = icon.pixmap(12, 12, mode).toImage().pixelColor(6, 6)
        assert middle.name().upper() == "#E69F00"


def test_dry_mass_has_a_column_where_it_was_measured(table: CellsModel) -> None:
    assert table.columnCount() == 4
    mass = np.array([31.4, np.nan, 8.0])
    table.shown.set_results(
        dataclasses.replace(predictions(), measures={"dry_mass_pg": mass}), COLOURS
    )
    assert table.headerData(4, Qt.Orientation.Horizontal) == "mass, pg"
    assert "Dry mass" in table.headerData(4, Qt.Orientation.Horizontal, Qt.ItemDataRole.ToolTipRole)
    assert texts(table, 4) == ["31", "–", "8"]
    table.sort(4)
    assert texts(table, 4) == ["8", "31", "–"]


def test_the_flagged_can_be_shown_alone(table: CellsModel) -> None:
    assert table.shown.n_flagged == 0
    assert "unlike" not in [header(table, i) for i in range(table.columnCount())]
    unlike = np.array([0.4, 2.5, 1.2], np.float32)
    table.shown.set_results(dataclasses.replace(predictions(), novelty=unlike), COLOURS)
    assert table.shown.n_flagged == 2
    assert header(table, 4) == "unlike"
    assert texts(table, 4) == ["0.4", "2.5", "1.2"]
    table.shown.set_filter(flagged=True)
    assert texts(table, 0) == [str(2**40), "9"]
    assert [table.row(cell) for cell in range(3)] == [-1, 0, 1]
    table.sort(4, Qt.SortOrder.AscendingOrder)
    assert texts(table, 0) == ["9", str(2**40)]
    table.shown.show_all()
    table.shown.sort("")
    assert texts(table, 0) == ["7", str(2**40), "9"]


def header(model: CellsModel, column: int) -> str:
    return str(model.headerData(column, Qt.Orientation.Horizontal))


# -- what is done with it


@pytest.fixture
def box(population: Population, qtbot: Any) -> Iterator[TableBox]:
    made = TableBox(population.session.cells)
    qtbot.addWidget(made)
    made.resize(600, 400)
    made.show()
    yield made
    made.release()


def test_what_is_copied_is_what_is_picked_in_the_order_shown(
    box: TableBox, population: Population, qapp: Any
) -> None:
    shown = population.shown
    results = shown.results
    assert results is not None
    shown.sort("confidence", descending=True)
    shown.pick((0, 2, 3))
    text = box.copy()
    assert qapp.clipboard().text() == text
    header, *lines = [line.split("\t") for line in text.splitlines()]
    assert header[:3] == ["id", "class", "probability"]
    order = [row for row in shown.rows.tolist() if row in (0, 2, 3)]
    assert [int(line[0]) for line in lines] == results.cells.ids[order].tolist()
    assert [float(line[2]) for line in lines] == pytest.approx(results.confidence[order], rel=1e-5)
    shown.pick(())
    assert box.copy() == ""


@pytest.mark.parametrize(
    ("field", "copied"),
    [("-0.25", "-0.25"), ("+1e-07", "+1e-07"), ("=1+1", "'=1+1"), ("-x", "'-x"), ("a\tb", "a b")],
)
def test_no_field_that_is_copied_is_a_formula(field: str, copied: str) -> None:
    assert _safe(field) == copied


def test_the_export_has_the_rows_that_are_shown_in_their_order(
    box: TableBox, population: Population, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    import pandas as pd

    path = tmp_path / "part.csv"
    monkeypatch.setattr(QFileDialog, "getSaveFileName", lambda *_: (str(path), ""))
    shown = population.shown
    shown.set_filter(among=frozenset({0, 1, 3}))
    shown.sort("confidence")
    assert box.export.text() == "Export these…"
    box.export.click()
    results = shown.results
    assert results is not None
    written = pd.read_csv(path)
    assert written["id"].tolist() == results.cells.ids[shown.rows].tolist()
    assert written["confidence"].is_monotonic_increasing
    assert "3 cells written" in population.session.status.message.text


def test_the_selection_is_what_is_picked_and_stays_where_rows_move(
    box: TableBox, population: Population
) -> None:
    shown, table = population.shown, box.table

    def selected() -> list[int]:
        return sorted(
            box.model.cell(index.row()) for index in table.selectionModel().selectedRows()
        )

    shown.pick((1, 3), 3)
    assert selected() == [1, 3]
    for column in range(box.model.columnCount()):
        table.sortByColumn(column, Qt.SortOrder.DescendingOrder)
        assert selected() == [1, 3]
        assert box.model.cell(table.currentIndex().row()) == 3
    shown.set_filter(among=frozenset({0, 3}))
    assert selected() == [3]
    assert shown.picked.tolist() == [1, 3]
    shown.show_all()
    assert selected() == [1, 3]
    table.selectAll()
    assert shown.picked.tolist() == [0, 1, 2, 3]


def test_columns_are_as_wide_as_what_they_hold(box: TableBox) -> None:
    table, metrics = box.table, box.table.fontMetrics()
    for i, column in enumerate(box.shown.columns):
        for row in range(4):
            needed = metrics.horizontalAdvance(column.text(row))
            assert table.columnWidth(i) >= needed + 8


def test_what_is_not_seen_catches_up_when_it_is(box: TableBox, population: Population) -> None:
    box.hide()
    population.shown.set_filter(among=frozenset({2}))
    assert box.filter_bar.count.text() == "4 cells"
    box.show()
    assert box.filter_bar.count.text() == "1 of 4 cells"
    assert box.model.rowCount() == 1


# -- the filter


def test_the_filter_bar_changes_what_all_show(box: TableBox, population: Population) -> None:
    shown, bar = population.shown, box.filter_bar
    results = shown.results
    assert results is not None
    bar.search.setText(str(results.cells.ids[2]))
    assert shown.rows.tolist() == [2]
    bar.all.click()
    assert (len(shown), bar.search.text()) == (4, "")
    bar.menu.aboutToShow.emit()
    counts = {name: n for name, n in results.counts().items() if n}
    assert list(bar.boxes) == list(counts)
    first = next(iter(counts))
    bar.boxes[first].setChecked(False)
    assert len(shown) == 4 - counts[first]
    bar.boxes[first].setChecked(True)
    assert not shown.narrowed


def test_a_drag_over_the_histogram_is_a_range_of_probabilities(box: TableBox) -> None:
    histogram = box.filter_bar.histogram
    values = np.array([0.05, 0.31, 0.33, 0.72, 1.0, np.nan], np.float32)
    histogram.set_values(values)
    assert histogram.counts.sum() == 5
    assert histogram.counts[[1, 6, 14, 19]].tolist() == [1, 2, 1, 1]
    chosen: list[tuple[float, float]] = []
    histogram.chosen.connect(lambda low, high: chosen.append((round(low, 6), round(high, 6))))
    inner = histogram.width() - 12

    def at(share: float) -> QPoint:
        return QPoint(6 + round(share * inner), 10)

    QTest.mousePress(histogram, Qt.MouseButton.LeftButton, pos=at(0.32))
    QTest.mouseMove(histogram, at(0.5))
    QTest.mouseRelease(histogram, Qt.MouseButton.LeftButton, pos=at(0.72))
    QTest.mouseClick(histogram, Qt.MouseButton.LeftButton, pos=at(0.32))
    assert chosen == [(0.3, 0.75), (0.3, 0.35)]
    histogram.set_range(0.3, 0.75)
    QTest.keyClick(histogram, Qt.Key.Key_Right)
    QTest.keyClick(histogram, Qt.Key.Key_Left, Qt.KeyboardModifier.ShiftModifier)
    QTest.keyClick(histogram, Qt.Key.Key_Escape)
    assert chosen[2:] == [(0.35, 0.75), (0.35, 0.7), (0.0, 1.0)]


def test_alt_and_arrows_sort_by_the_current_column(box: TableBox) -> None:
    alt = Qt.KeyboardModifier.AltModifier
    keys = [column.key for column in box.shown.columns]
    place = keys.index("confidence")
    box.table.setCurrentIndex(box.model.index(0, place))
    QTest.keyClick(box.table, Qt.Key.Key_Down, alt)
    assert box.shown.sorting == ("confidence", True)
    QTest.keyClick(box.table, Qt.Key.Key_Up, alt)
    assert box.shown.sorting == ("confidence", False)
