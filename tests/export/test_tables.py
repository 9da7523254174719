"""Tables of cells, read again by pandas: the same cells, whatever they are called."""

from __future__ import annotations

import tempfile
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from hypothesis import given
from hypothesis import strategies as st

from drawn import LABELS, predictions
from napari_sparseattn.export.formats import write_results
from napari_sparseattn.export.tables import as_text, write_csv
from napari_sparseattn.inference.prediction import Predictions

from . import results as made


@given(predictions(), st.sampled_from(("csv", "parquet")))
def test_cells_are_read_from_tables_again(found: Predictions, kind: str) -> None:
    image = made.field()
    with tempfile.TemporaryDirectory() as place:
        path = write_results(found, image, Path(place), "a", [kind], made.cell_card())[0]
        table = pd.read_csv(path) if kind == "csv" else pd.read_parquet(path)
    assert table["id"].tolist() == found.cells.ids.tolist()
    centres = table[["row", "column"]].to_numpy()
    np.testing.assert_allclose(centres, found.cells.centres, rtol=0, atol=1e-4)
    np.testing.assert_allclose(table["diameter_px"], found.cells.diameters, atol=1e-4)
    assert table["at_border"].tolist() == found.cells.at_border.tolist()
    chances = table[[f"p_{name}" for name in found.class_names]].to_numpy()
    np.testing.assert_allclose(chances, found.probabilities, atol=1e-6)
    assert ["" if pd.isna(name) else name for name in table["class"]] == list(found.labels)
    measured = table["dry_mass_pg"].to_numpy(np.float64)
    np.testing.assert_allclose(measured, found.measures["dry_mass_pg"], rtol=1e-5)


@pytest.mark.slow
@given(st.sampled_from(LABELS) | st.text(max_size=20))
def test_text_of_tables_is_no_formula_and_stays_legible(text: str) -> None:
    written = str(as_text(text))
    assert not written.startswith(("=", "+", "-", "@", "\t", "\r", "\n"))
    assert written.removeprefix("'") == text or written == text


def test_names_of_models_are_text(tmp_path: Path) -> None:
    write_csv(made.cells(), tmp_path / "a.csv", '=HYPERLINK("x")')
    assert pd.read_csv(tmp_path / "a.csv")["model"][0].startswith("'=HYPERLINK")
