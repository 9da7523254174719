"""Scripts, benchmarks and examples: what they take from the package is there.

They run for minutes or hours, so tests do not run them; a name that was changed
in the package would be missed until someone does.
"""

from __future__ import annotations

import ast
import importlib
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[1]
FILES = sorted(p for d in ("scripts", "benchmarks", "examples") for p in (ROOT / d).glob("*.py"))


def names_from_the_package(file: Path) -> list[tuple[str, str]]:
    tree = ast.parse(file.read_text(encoding="utf-8"))
    return [
        (node.module, alias.name)
        for node in ast.walk(tree)
        if isinstance(node, ast.ImportFrom) and node.module and not node.level
        if node.module.split(".")[0] == "napari_sparseattn"
        for alias in node.names
    ]


@pytest.mark.parametrize("file", FILES, ids=lambda file: f"{file.parent.name}/{file.name}")
def test_names_are_there(file: Path) -> None:
    missing = []
    for module, name in names_from_the_package(file):
        if not hasattr(importlib.import_module(module), name):
            try:
                importlib.import_module(f"{module}.{name}")
            except ModuleNotFoundError:
                missing.append(f"{module}.{name}")
    assert not missing


def test_there_are_files_that_use_the_package() -> None:
    assert sum(bool(names_from_the_package(file)) for file in FILES) > 20
