"""The public names suffice for what the documentation and the examples show, and stay."""

from __future__ import annotations

import ast
import importlib
import json
import re
from collections.abc import Iterator
from pathlib import Path

import pytest

import napari_sparseattn

ROOT = Path(__file__).resolve().parent.parent
#: Modules that outside programs name: they stay where they are.
PROMISED = {
    "napari_sparseattn.models.span": ("run_span", "stream"),
    "napari_sparseattn.models.span.official": ("load_official",),
    "napari_sparseattn.models.tnet": ("TNet",),
    "napari_sparseattn.inference.cells": ("classify_crops",),
}
ALLOWED = {
    "napari_sparseattn",
    "napari_sparseattn.simulate",
    "napari_sparseattn.training",
    *PROMISED,
}
PAGES = [ROOT / "README.md", *sorted((ROOT / "docs").rglob("*.md"))]
EXAMPLES = sorted(
    path for path in (ROOT / "examples").iterdir() if path.suffix in (".py", ".ipynb")
)


def snippets(page: Path) -> Iterator[str]:
    """Give the Python code of a page, block by block."""
    found = re.findall(r"^```python\n(.*?)^```", page.read_text(encoding="utf-8"), re.M | re.S)
    yield from found


def code_of(example: Path) -> str:
    """Return the code of a script, or of a notebook's cells."""
    text = example.read_text(encoding="utf-8")
    if example.suffix == ".py":
        return text
    cells = [cell for cell in json.loads(text)["cells"] if cell["cell_type"] == "code"]
    return "\n".join("".join(cell["source"]) for cell in cells)


def imports(code: str) -> Iterator[tuple[str, tuple[str, ...]]]:
    """Give modules of ours that code imports, and the names taken from them."""
    for node in ast.walk(ast.parse(code)):
        if isinstance(node, ast.ImportFrom) and (node.module or "").startswith("napari_sparseattn"):
            yield str(node.module), tuple(alias.name for alias in node.names)
        elif isinstance(node, ast.Import):
            for alias in node.names:
                if alias.name.startswith("napari_sparseattn"):
                    yield alias.name, ()


def attributes(code: str) -> set[str]:
    """Return what code takes from ``nsa``, e.g. ``training.CropSet``."""
    return {
        ast.unparse(node).removeprefix("nsa.")
        for node in ast.walk(ast.parse(code))
        if isinstance(node, ast.Attribute)
        and isinstance(node.value, ast.Name)
        and node.value.id == "nsa"
    }


def check(code: str) -> None:
    for module, names in imports(code):
        assert module in ALLOWED, f"{module} is no public module"
        found = importlib.import_module(module)
        assert not [name for name in names if not hasattr(found, name)]
    for name in attributes(code):
        assert hasattr(napari_sparseattn, name), f"nsa.{name} is no public name"


def test_there_are_pages_and_examples() -> None:
    assert len(PAGES) > 10
    assert len(EXAMPLES) >= 10
    assert sum(1 for page in PAGES for code in snippets(page) for _ in imports(code)) > 5


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_pages_import_public_names_only(page: Path) -> None:
    for code in snippets(page):
        check(code)


@pytest.mark.parametrize("example", EXAMPLES, ids=lambda path: path.name)
def test_examples_import_public_names_only(example: Path) -> None:
    check(code_of(example))


@pytest.mark.parametrize("module", PROMISED)
def test_promised_names_stay_importable(module: str) -> None:
    found = importlib.import_module(module)
    for name in PROMISED[module]:
        assert callable(getattr(found, name)), f"{module}.{name}"


def test_every_name_of_the_stubs_is_there() -> None:
    for module in ("napari_sparseattn", "napari_sparseattn.training"):
        room = importlib.import_module(module)
        assert room.__all__
        for name in room.__all__:
            assert getattr(room, name) is not None
