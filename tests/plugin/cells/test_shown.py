"""Which of the cells are shown, in which order, which are picked: without a window."""

from __future__ import annotations

import dataclasses
from typing import Any

import numpy as np
import pytest

from napari_sparseattn.images.fields.cells import Cells
from napari_sparseattn.inference.prediction import Predictions, ReadingLedger
from napari_sparseattn.plugin.cells.shown import CellFilter, ShownCells

COLOURS = ("#0072B2", "#E69F00", "#009E73")
NAMES = ("round", "two_lobed", "small")


def predictions(**more: Any) -> Predictions:
    """Six cells: round 0.9, two-lobed 0.8, two-lobed 0.6, small 0.5, small 0.7, one without."""
    centres = np.arange(12, dtype=float).reshape(6, 2) * 10
    cells = Cells(
        centres, np.hstack([centres - 4, centres + 4]), np.zeros(6, bool),
        np.array([7, 70, 9, 12, 5, 1]),
    )  # fmt: skip
    shares = np.array(
        [(0.9, 0.05, 0.05), (0.1, 0.8, 0.1), (0.2, 0.6, 0.2), (0.25, 0.25, 0.5), (0.1, 0.2, 0.7),
         (np.nan,) * 3], np.float32,
    )  # fmt: skip
    return Predictions(cells, NAMES, shares, (), ReadingLedger(1, 1, 1, 0.1, "cpu"), "h", **more)


@pytest.fixture
def shown() -> ShownCells:
    made = ShownCells()
    made.set_results(predictions(), COLOURS)
    return made


def count(signal: Any) -> list[int]:
    told: list[int] = []
    signal.connect(lambda: told.append(1))
    return told


def test_all_are_shown_in_their_own_order(shown: ShownCells) -> None:
    assert shown.rows.tolist() == [0, 1, 2, 3, 4, 5]
    assert not shown.narrowed
    assert [shown.place(row) for row in range(6)] == [0, 1, 2, 3, 4, 5]
    assert (shown.class_of(1), shown.class_of(5)) == ("two_lobed", "")
    assert (shown.colour(1), shown.colour(5)) == ("#E69F00", None)


@pytest.mark.parametrize(
    ("asked", "rows"),
    [
        ({"classes": frozenset({"two_lobed"})}, [1, 2]),
        ({"classes": frozenset({"small", ""})}, [3, 4, 5]),
        ({"classes": frozenset()}, []),
        ({"text": "two lob"}, [1, 2]),
        ({"text": " ROUND "}, [0]),
        ({"text": "7"}, [0, 1]),
        ({"text": "nothing"}, []),
        ({"confidence": (0.6, 0.8)}, [1, 2, 4]),
        ({"among": frozenset({5, 2})}, [2, 5]),
        ({"text": "lobed", "confidence": (0.0, 0.7)}, [2]),
    ],
)
def test_a_filter_narrows(shown: ShownCells, asked: dict[str, Any], rows: list[int]) -> None:
    told = count(shown.changed)
    shown.set_filter(**asked)
    assert shown.rows.tolist() == rows
    assert shown.narrowed
    assert len(told) == 1
    assert [shown.place(row) for row in rows] == list(range(len(rows)))
    assert all(shown.place(row) == -1 for row in range(6) if row not in rows)
    shown.show_all()
    assert shown.filter == CellFilter()
    assert len(shown) == 6


def test_the_same_filter_again_is_no_change(shown: ShownCells) -> None:
    shown.set_filter(text="round")
    told = count(shown.changed)
    shown.set_filter(text="round")
    assert not told


@pytest.mark.parametrize(
    ("key", "descending", "rows"),
    [
        ("confidence", False, [3, 2, 4, 1, 0, 5]),
        ("confidence", True, [0, 1, 4, 2, 3, 5]),
        ("id", False, [5, 4, 0, 2, 3, 1]),
        ("class", False, [0, 3, 4, 1, 2, 5]),
        ("class", True, [1, 2, 3, 4, 0, 5]),
        ("no such column", True, [0, 1, 2, 3, 4, 5]),
    ],
)
def test_sorting_is_stable_and_puts_what_has_no_value_last(
    shown: ShownCells, key: str, descending: bool, rows: list[int]
) -> None:
    shown.sort(key, descending=descending)
    assert shown.rows.tolist() == rows


def test_filter_and_order_hold_together(shown: ShownCells) -> None:
    shown.sort("confidence")
    shown.set_filter(classes=frozenset({"two_lobed", "small"}))
    assert shown.rows.tolist() == [3, 2, 4, 1]


def test_picking_tells_once_and_keeps_the_current_one(shown: ShownCells) -> None:
    told = count(shown.picked_changed)
    shown.pick((4, 1, 4), 4)
    assert shown.picked.tolist() == [1, 4]
    assert shown.current == 4
    shown.pick((4, 1))
    assert len(told) == 1
    shown.sort("confidence")
    assert shown.picked.tolist() == [1, 4]
    # A click on one of them in the image leaves the others picked; one on another does not.
    shown.follow(1)
    assert (shown.picked.tolist(), shown.current) == ([1, 4], 1)
    shown.follow(3)
    assert (shown.picked.tolist(), shown.current) == ([3], 3)
    shown.follow(None)
    assert (shown.picked.tolist(), shown.current) == ([], None)


def test_columns_that_come_later_change_nothing_else(shown: ShownCells) -> None:
    shown.set_filter(text="lobed")
    shown.pick((2,))
    measured = {"evidence_gain": np.array([0.1, 0.4, 0.2, np.nan, 0, 0])}
    assert shown.results is not None
    shown.set_results(dataclasses.replace(shown.results, measures=measured), COLOURS)
    assert shown.rows.tolist() == [1, 2]
    assert shown.picked.tolist() == [2]
    shown.sort("evidence_gain", descending=True)
    assert shown.rows.tolist() == [1, 2]
    # Other results are another matter.
    shown.set_results(predictions(), COLOURS)
    assert len(shown) == 6
    assert not len(shown.picked)
    assert shown.sorting == ("", False)
    shown.set_results(None, ())
    assert (len(shown), shown.columns) == (0, ())


def test_given_classes_are_a_column_and_are_searched(shown: ShownCells) -> None:
    assert shown.column("annotated") is None
    shown.set_annotated({3: "odd_one", 0: "small"})
    column = shown.column("annotated")
    assert column is not None
    assert [column.text(row) for row in range(6)] == ["small", "", "", "odd one", "", ""]
    shown.set_filter(text="odd")
    assert shown.rows.tolist() == [3]
    shown.show_all()
    shown.sort("annotated")
    assert shown.rows.tolist()[:2] == [3, 0]


def test_the_longest_of_a_column_is_as_long_as_any(shown: ShownCells) -> None:
    for column in shown.columns:
        assert len(column.longest) == max(len(column.text(row)) for row in range(6))


def test_ten_thousand_cells_are_filtered_and_sorted_at_once() -> None:
    import time

    rng = np.random.default_rng(0)
    centres = rng.uniform(0, 1e4, (10_000, 2))
    cells = Cells(centres, np.hstack([centres - 4, centres + 4]), np.zeros(10_000, bool),
                  np.arange(1, 10_001))  # fmt: skip
    shares = rng.dirichlet((1, 1, 1), 10_000).astype(np.float32)
    made = ShownCells()
    made.set_results(
        Predictions(cells, NAMES, shares, (), ReadingLedger(1, 1, 1, 0.1, "cpu"), "h"), COLOURS
    )
    began = time.process_time()
    made.sort("confidence")
    made.set_filter(text="12", confidence=(0.5, 0.9))
    assert (np.diff(made.results.confidence[made.rows]) >= 0).all()  # type: ignore[union-attr]
    assert all(str(made.results.cells.ids[row]).startswith("12") for row in made.rows)  # type: ignore[union-attr]
    # Far above what it takes; a loop in Python over all would be above it.
    assert time.process_time() - began < 0.25
