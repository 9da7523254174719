"""What a crash leaves: where the process was, and nothing that it held."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from typer.testing import CliRunner

from napari_sparseattn.cli import app as cli
from napari_sparseattn.crash import find_crashes

_NAME = "Mustermann-1957"
# A window that looks at an image of a patient, and dies.
_SCRIPT = """
import faulthandler, sys
from napari_sparseattn import open_image
from napari_sparseattn.crash import watch_for_crashes

def look_at_cells(path, label):
    field = open_image(path)
    pixels = bytes(field.data.tobytes())
    if sys.argv[2] == "dies":
        faulthandler._sigsegv()
    return field, pixels, label

watch_for_crashes()
look_at_cells(sys.argv[1], "carcinoma of " + sys.argv[1])
"""


@pytest.fixture
def image(tmp_path: Path) -> Path:
    path = tmp_path / f"{_NAME}.png"
    Image.fromarray(np.full((20, 30), ord("Q"), np.uint8)).save(path)
    return path


def run(image: Path, how: str) -> int:
    command = [sys.executable, "-c", _SCRIPT, str(image), how]
    return subprocess.run(command, check=False, capture_output=True).returncode


@pytest.fixture(autouse=True)
def logs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("NAPARI_SPARSEATTN_LOGS", str(tmp_path / "logs"))
    return tmp_path / "logs"


def test_a_crash_leaves_where_it_was_and_nothing_of_the_image(image: Path, logs: Path) -> None:
    assert run(image, "dies") != 0
    (crash,) = find_crashes()
    assert "look_at_cells" in crash.text
    assert crash.when[:2] == "20"
    kept = b"".join(path.read_bytes() for path in logs.iterdir())
    for said in (kept.decode(), crash.text):
        assert _NAME not in said
        assert "carcinoma" not in said
        assert "QQQQ" not in said
    # Nor who the user is, by the home folder that packages are in.
    assert str(Path.home()) not in crash.text.replace('File "<string>"', "")


def test_doctor_tells_of_a_crash_and_shows_it_when_asked(image: Path) -> None:
    run(image, "dies")
    told = CliRunner().invoke(cli.app, ["doctor"]).stdout
    assert "doctor --crashes" in told
    assert "look_at_cells" not in told
    assert "look_at_cells" in CliRunner().invoke(cli.app, ["doctor", "--crashes"]).stdout


def test_a_process_that_ends_well_leaves_nothing(image: Path, logs: Path) -> None:
    assert run(image, "lives") == 0
    assert find_crashes() == []
    assert list(logs.iterdir()) == []
    assert "No crash" in CliRunner().invoke(cli.app, ["doctor", "--crashes"]).stdout


def test_only_the_last_few_are_kept(logs: Path, image: Path) -> None:
    logs.mkdir()
    for number in range(12):
        (logs / f"crash-{number}.txt").write_text(f"Fatal Python error: number {number}")
    run(image, "lives")
    assert len(list(logs.iterdir())) == 5
