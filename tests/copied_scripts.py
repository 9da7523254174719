"""Runs scripts and commands as they were copied, and compares tables."""

from __future__ import annotations

import contextlib
import io
import shlex
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
from typer.testing import CliRunner

from napari_sparseattn.cli import app as cli


def run_python(text: str) -> dict[str, Any]:
    """Run a script as it was copied."""
    names: dict[str, Any] = {}
    with contextlib.redirect_stdout(io.StringIO()):
        exec(compile(text, "copied.py", "exec"), names)
    return names


def run_command(text: str, folder: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Run a command as it was copied, in a folder; return that of its results."""
    monkeypatch.chdir(folder)
    program, *words = shlex.split(text, comments=True)
    assert program == "napari-sparseattn"
    done = CliRunner().invoke(cli.app, words)
    assert done.exit_code == 0, done.output
    return folder / "results"


def assert_same(found: pd.DataFrame, wanted: pd.DataFrame, places: float = 1e-6) -> None:
    """Compare tables: numbers to 1e-6, those of a CSV to its six digits."""
    assert list(found.columns) == list(wanted.columns)
    assert len(found) == len(wanted) > 0
    for name in wanted:
        if wanted[name].dtype.kind in "iuf":
            np.testing.assert_allclose(found[name], wanted[name], rtol=places, atol=1e-6)
        else:
            same = found[name].astype(str) == wanted[name].astype(str)
            assert (same | (found[name].isna() & wanted[name].isna())).all(), name
