"""Parquet as pyarrow reads it."""

from __future__ import annotations

import csv
import json

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from . import results as made
from .conftest import KINDS, Write


def test_cells_read_back_with_their_types(write: Write) -> None:
    path = write("frames", "parquet")
    table = pq.read_table(path)
    assert pq.ParquetFile(path).metadata.num_row_groups == 2
    assert table["frame"].to_pylist() == [0, 0, 0, 2, 2, 2]
    assert table["class"].to_pylist() == ["round", None, "small"] * 2
    assert pa.types.is_dictionary(table.schema.field("class").type)
    assert table["at_border"].to_pylist() == [True, False, False] * 2
    expected = made.cells().probabilities
    for i, name in enumerate(("round", "lobed", "small")):
        assert table.schema.field(f"p_{name}").type == pa.float32()
        column = table[f"p_{name}"].to_numpy()
        np.testing.assert_array_equal(column, np.tile(expected[:, i], 2))
    frame = table.to_pandas()
    assert frame["class"].cat.categories.tolist() == ["round", "lobed", "small"]


@pytest.mark.parametrize("kind", KINDS)
def test_the_file_says_where_it_came_from(write: Write, kind: str) -> None:
    metadata = pq.read_schema(write(kind, "parquet")).metadata
    assert json.loads(metadata[b"napari-sparseattn"])["model_hash"] == made.HASH


def test_patches_have_attention_and_place(write: Write) -> None:
    table = pq.read_table(write("regions", "parquet")).to_pydict()
    assert table["top"] == [16, 16, 36, 36]
    assert table["left"] == [40, 80, 60, 80]
    assert table["attention_1"] == pytest.approx([0.5, 2.0, 1.0, 0.5])
    assert table["p_tumour"] == pytest.approx([0.1, 0.9, 0.6, 0.2])


def test_an_image_without_cells_gives_a_table_without_rows(write: Write) -> None:
    full = made.cells()
    empty = type(full)(
        full.cells.subset([]), full.class_names, np.empty((0, 3), np.float32), (), full.ledger,
        full.model_hash, full.model_name,
    )  # fmt: skip
    table = pq.read_table(write("cells", "parquet", empty))
    assert table.num_rows == 0
    assert {"id", "class", "p_round"} <= set(table.column_names)


@pytest.mark.parametrize("kind", KINDS)
def test_columns_are_those_of_the_csv(write: Write, kind: str) -> None:
    with write(kind, "csv").open(encoding="utf-8-sig") as file:
        names = next(csv.reader(file))
    assert pq.read_schema(write(kind, "parquet")).names == names
