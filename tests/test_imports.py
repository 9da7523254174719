"""Starting is cheap: what is not needed yet is not imported."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest

import napari_sparseattn

SLOW = {"torch", "napari", "qtpy", "PyQt6", "PySide6"}
MANIFEST = Path(napari_sparseattn.__file__).with_name("napari.yaml")


def imported_by(code: str) -> set[str]:
    """Return the names of the modules that a fresh interpreter has after some code."""
    report = f"{code}\nimport sys, json; print('\\n' + json.dumps(sorted(sys.modules)))"
    run = subprocess.run(
        [sys.executable, "-c", report], capture_output=True, text=True, timeout=600, check=False
    )
    assert run.returncode == 0, run.stderr
    return set(json.loads(run.stdout.splitlines()[-1]))


def test_import_pays_for_nothing_slow() -> None:
    loaded = imported_by("import napari_sparseattn; napari_sparseattn.__version__")
    assert "napari_sparseattn" in loaded
    assert not loaded & (SLOW | {"numpy", "skimage", "scipy", "pandas"})


def test_listing_the_manifest_imports_nothing_slow() -> None:
    loaded = imported_by(
        "from npe2 import PluginManifest\n"
        "manifest = PluginManifest.from_distribution('napari-sparseattn')\n"
        "assert manifest.contributions.widgets"
    )
    assert not loaded & SLOW


def manifest_modules() -> list[str]:
    """Return the modules that the manifest's commands live in, without the widgets'."""
    from npe2 import PluginManifest

    contributions = PluginManifest.from_file(MANIFEST).contributions
    widgets = {widget.command for widget in contributions.widgets or ()}
    return sorted(
        {
            command.python_name.partition(":")[0]
            for command in contributions.commands or ()
            if command.python_name and command.id not in widgets
        }
    )


def test_readers_and_samples_start_without_torch() -> None:
    modules = manifest_modules()
    assert modules
    loaded = imported_by("\n".join(f"import {module}" for module in modules))
    assert loaded.issuperset(modules)
    assert "torch" not in loaded


def test_the_dock_is_imported_without_torch_and_filters() -> None:
    """It opens at once; what computes is imported by what computes, in the background."""
    loaded = imported_by("import napari_sparseattn.plugin.main.dock")
    assert "napari_sparseattn.plugin.main.dock" in loaded
    assert not loaded & {"torch", "scipy.ndimage", "pandas", "zarr"}


@pytest.mark.slow
def test_a_model_for_cells_is_loaded_without_torchs_compiler() -> None:
    """It would be a second more for each command, and for each process of a batch."""
    loaded = imported_by(
        "from napari_sparseattn.bundle import load_bundle\nload_bundle('blood-cells').cell_model()"
    )
    assert "torch" in loaded
    assert "torch._dynamo" not in loaded


def test_help_answers_without_torch_and_napari() -> None:
    loaded = imported_by(
        "import sys\n"
        "sys.argv = ['napari-sparseattn', '--help']\n"
        "from napari_sparseattn.cli.app import main\n"
        "try:\n"
        "    main()\n"
        "except SystemExit as end:\n"
        "    assert not end.code, end.code"
    )
    assert "napari_sparseattn.cli.app" in loaded
    assert not loaded & SLOW


#: Imports each name as if it were the first, and prints what napari's and Qt's it loaded.
_ONE_BY_ONE = """
import json, sys
names, unwanted = json.loads(sys.argv[1])
found = {}
for name in names:
    for module in [m for m in sys.modules if m.partition(".")[0] == "napari_sparseattn"]:
        del sys.modules[module]
    exec(f"from napari_sparseattn import {name}")
    found[name] = sorted(sys.modules.keys() & set(unwanted))
print(json.dumps(found))
"""


@pytest.mark.slow
def test_every_public_name_is_there_without_napari_and_qt() -> None:
    """In one interpreter, which loads torch once; none finds what another has imported of ours."""
    names = sorted(napari_sparseattn.__all__)
    given = json.dumps([names, sorted(SLOW - {"torch"})])
    run = subprocess.run(
        [sys.executable, "-c", _ONE_BY_ONE, given],
        capture_output=True,
        text=True,
        timeout=600,
        check=False,
    )
    assert run.returncode == 0, run.stderr
    assert json.loads(run.stdout.splitlines()[-1]) == {name: [] for name in names}


def test_unknown_name_is_an_attribute_error() -> None:
    with pytest.raises(AttributeError, match="no_such_name"):
        _ = napari_sparseattn.no_such_name


def window_modules_without_qt() -> list[str]:
    """Return the modules of the window that are to work without Qt."""
    plugin = Path(napari_sparseattn.__file__).with_name("plugin")
    names = {"session", "task", "tasks", "requests", "layers", "opening", "reader", "samples"}
    paths = [p for p in sorted(plugin.rglob("*.py")) if p.stem in names or p.parent.name == "core"]
    return [
        f"napari_sparseattn.plugin.{'.'.join(path.relative_to(plugin).with_suffix('').parts)}"
        for path in paths
        if path.stem != "__init__"
    ]


@pytest.mark.slow
def test_sessions_tasks_and_requests_import_without_qt() -> None:
    modules = window_modules_without_qt()
    rooms = {name.split(".")[2] for name in modules}
    assert rooms >= {"core", "cells", "traversal", "slides", "holograms", "annotate", "evidence"}
    loaded = imported_by("\n".join(f"import {module}" for module in modules))
    assert loaded.issuperset(modules)
    assert not {name.partition(".")[0] for name in loaded} & {"qtpy", "PyQt6", "PySide6", "superqt"}
