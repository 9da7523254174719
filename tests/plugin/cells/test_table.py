"""The table's model and its export, without a window."""

from __future__ import annotations

import dataclasses

import numpy as np
import pytest
from qtpy.QtCore import Qt

from napari_sparseattn.images.fields.cells import Cells
from napari_sparseattn.inference.prediction import Predictions, ReadingLedger
from napari_sparseattn.plugin.cells.table_box import CellsModel

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
    model = CellsModel()
    model.set_predictions(predictions(), COLOURS)
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
    table.set_predictions(predictions(None), COLOURS)
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
    colour = table.data(table.index(1, 1), Qt.ItemDataRole.DecorationRole)
    assert colour.name().upper() == "#E69F00"


def test_dry_mass_has_a_column_where_it_was_measured(table: CellsModel) -> None:
    assert table.columnCount() == 4
    mass = np.array([31.4, np.nan, 8.0])
    table.set_predictions(
        dataclasses.replace(predictions(), measures={"dry_mass_pg": mass}), COLOURS
    )
    assert table.headerData(4, Qt.Orientation.Horizontal) == "mass, pg"
    assert "Dry mass" in table.headerData(4, Qt.Orientation.Horizontal, Qt.ItemDataRole.ToolTipRole)
    assert texts(table, 4) == ["31", "–", "8"]
    table.sort(4)
    assert texts(table, 4) == ["8", "31", "–"]


def test_the_flagged_can_be_shown_alone(table: CellsModel) -> None:
    assert table.n_flagged == 0
    assert "unlike" not in [header(table, i) for i in range(table.columnCount())]
    unlike = np.array([0.4, 2.5, 1.2], np.float32)
    table.set_predictions(dataclasses.replace(predictions(), novelty=unlike), COLOURS)
    assert table.n_flagged == 2
    assert header(table, 4) == "unlike"
    assert texts(table, 4) == ["0.4", "2.5", "1.2"]
    table.show_flagged(True)
    assert texts(table, 0) == [str(2**40), "9"]
    assert [table.row(cell) for cell in range(3)] == [-1, 0, 1]
    table.sort(4, Qt.SortOrder.AscendingOrder)
    assert texts(table, 0) == ["9", str(2**40)]
    table.show_flagged(False)
    assert texts(table, 0) == ["7", str(2**40), "9"]


def header(model: CellsModel, column: int) -> str:
    return str(model.headerData(column, Qt.Orientation.Horizontal))
