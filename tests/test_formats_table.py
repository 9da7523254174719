"""The tables of formats say what the tests do, and docs/formats.md has them as they are."""

from __future__ import annotations

import importlib.util
import sys
from pathlib import Path
from typing import Any

import pytest

from napari_sparseattn.export.formats import FORMATS
from napari_sparseattn.export.model_formats import MODEL_FORMATS

ROOT = Path(__file__).resolve().parents[1]


@pytest.fixture(scope="module")
def script() -> Any:
    spec = importlib.util.spec_from_file_location(
        "formats_table", ROOT / "scripts" / "formats_table.py"
    )
    assert spec is not None
    assert spec.loader is not None
    made = importlib.util.module_from_spec(spec)
    # Its dataclasses look their module up.
    sys.modules[spec.name] = made
    spec.loader.exec_module(made)
    return made


def test_the_page_has_the_tables_as_they_are(script: Any) -> None:
    page = script.PAGE.read_text("utf-8")
    assert script.fill(page) == page, "run: python scripts/formats_table.py"


def test_each_row_has_a_test_that_uses_the_programs(script: Any) -> None:
    assert not [fault for row in (*script.IN, *script.OUT) for fault in script.find_faults(row)]


def test_each_format_has_a_row(script: Any) -> None:
    names = {row.name for row in script.OUT}
    # A copy of a model is for this program.
    assert {*FORMATS, *MODEL_FORMATS} - names == {"safetensors"}


def test_programs_have_versions(script: Any) -> None:
    known = script.versions()
    assert script.say_program("spatialdata", known) == f"spatialdata {known['spatialdata']}"
    for row in (*script.IN, *script.OUT):
        for program in row.programs:
            said = script.say_program(program, known)
            own = program.split(".")[0] in sys.stdlib_module_names
            assert said.startswith("Python's") == own, f"{program} is pinned nowhere"


def test_faults_are_found(script: Any) -> None:
    def faults(programs: tuple[str, ...], test: str) -> list[str]:
        found: list[str] = script.find_faults(script.Row("x", "", programs, test))
        return found

    assert faults(("zarr",), "export/test_ome_zarr.py::test_no_such") == [
        "x: export/test_ome_zarr.py has no test test_no_such"
    ]
    assert faults(("pandas",), "export/test_coco.py") == [
        "x: export/test_coco.py does not import pandas"
    ]
    assert faults((), "export/none.py") == ["x: there is no tests/export/none.py"]
