"""What users install: the wheel and the sdist, and the demo run from an empty environment."""

from __future__ import annotations

import hashlib
import json
import os
import subprocess
import sys
import sysconfig
import tarfile
import tomllib
import venv
import zipfile
from pathlib import Path

import pytest

import napari_sparseattn

ROOT = Path(__file__).resolve().parent.parent
PACKAGE = Path(napari_sparseattn.__file__).parent
DEMO_SECONDS = 800


def run(*command: object, cwd: Path | None = None, timeout: float = 600) -> str:
    """Run a command; return its output, or fail with what it said."""
    environment = {key: value for key, value in os.environ.items() if key != "PYTHONPATH"}
    done = subprocess.run(
        [str(part) for part in command],
        cwd=cwd,
        env=environment,
        timeout=timeout,
        check=False,
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
    )
    assert done.returncode == 0, f"{command} gave {done.returncode}:\n{done.stdout}"
    return done.stdout


@pytest.fixture(scope="module")
def distributions(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Build the sdist, and from it the wheel, as a release does."""
    pytest.importorskip("build", reason="needs the package `build`")
    folder = tmp_path_factory.mktemp("dist")
    run(sys.executable, "-m", "build", "--no-isolation", "--outdir", folder, ROOT)
    return folder


@pytest.fixture
def wheel(distributions: Path) -> Path:
    """Return the built wheel."""
    (path,) = distributions.glob("*.whl")
    return path


def assert_complete(names: set[str], package: str) -> None:
    """Check that manifest, typing marker, weights and templates are there, and no tests."""
    assert {f"{package}/napari.yaml", f"{package}/py.typed", f"{package}/__init__.pyi"} <= names
    here = {
        path.relative_to(PACKAGE / "weights").as_posix()
        for path in PACKAGE.glob("weights/**/*.safetensors")
    }
    assert here
    assert {f"{package}/weights/{name}" for name in here} <= names
    pages = {path.name for path in PACKAGE.glob("templates/*")}
    assert "report.html" in pages
    assert {f"{package}/templates/{name}" for name in pages} <= names
    assert not [
        name for name in names if "tests/" in name or name.endswith(("/conftest.py", ".pyc"))
    ]


def test_wheel_is_complete(wheel: Path) -> None:
    assert wheel.name == f"napari_sparseattn-{napari_sparseattn.__version__}-py3-none-any.whl"
    with zipfile.ZipFile(wheel) as archive:
        names = set(archive.namelist())
    assert_complete(names, "napari_sparseattn")
    assert any(name.endswith("licenses/LICENSE") for name in names)
    assert {name.split("/")[0].split("-")[0] for name in names} == {"napari_sparseattn"}


def test_wheel_says_what_it_holds_and_needs(wheel: Path) -> None:
    with zipfile.ZipFile(wheel) as archive:
        (name,) = [each for each in archive.namelist() if "/sboms/" in each]
        told = json.loads(archive.read(name))
        weights = {
            Path(each).stem: hashlib.sha256(archive.read(each)).hexdigest()
            for each in archive.namelist()
            if each.endswith(".safetensors") and each.count("/") == 2
        }
        metadata = archive.read(f"{name.split('/')[0]}/METADATA").decode()
    assert (told["bomFormat"], told["specVersion"]) == ("CycloneDX", "1.6")
    models = [each for each in told["components"] if each["type"] == "machine-learning-model"]
    assert {each["name"]: each["hashes"][0]["content"] for each in models} == weights
    assert all(each["description"] for each in models)
    needed = {
        line.partition(": ")[2].split(">")[0].lower()
        for line in metadata.splitlines()
        if line.startswith("Requires-Dist") and "extra ==" not in line
    }
    assert {each["name"] for each in told["components"] if each not in models} == needed


def test_sdist_is_complete(distributions: Path) -> None:
    (path,) = distributions.glob("*.tar.gz")
    with tarfile.open(path) as archive:
        names = {member.name.partition("/")[2] for member in archive if member.isfile()}
    assert_complete(names, "src/napari_sparseattn")
    assert {"LICENSE", "README.md", "CHANGELOG.md", "pyproject.toml"} <= names


def test_metadata_says_what_the_hub_and_pip_need(wheel: Path) -> None:
    with zipfile.ZipFile(wheel) as archive:
        info = f"napari_sparseattn-{napari_sparseattn.__version__}.dist-info"
        metadata = archive.read(f"{info}/METADATA").decode()
        entry_points = archive.read(f"{info}/entry_points.txt").decode()
    assert "Classifier: Framework :: napari" in metadata
    assert "License-Expression: BSD-3-Clause" in metadata
    required = [
        line.partition(": ")[2].lower()
        for line in metadata.splitlines()
        if line.startswith("Requires-Dist") and "extra ==" not in line
    ]
    assert required
    assert not [line for line in required if line.startswith(("napari", "pyqt", "pyside"))]
    assert "[napari.manifest]\nnapari-sparseattn = napari_sparseattn:napari.yaml" in entry_points


def test_twine_accepts_them(distributions: Path) -> None:
    pytest.importorskip("twine", reason="needs the package `twine`")
    files = sorted(distributions.iterdir())
    assert len(files) == 2
    said = run(sys.executable, "-m", "twine", "check", "--strict", *files)
    assert said.count("PASSED") == 2


def test_manifest_is_valid() -> None:
    run(sys.executable, "-m", "npe2", "validate", PACKAGE / "napari.yaml")


@pytest.mark.skipif(os.name == "nt", reason="git checks symlinks out as text on Windows")
def test_manifest_at_the_top_level_is_the_packages_own() -> None:
    link = ROOT / "napari.yaml"
    assert link.is_symlink()
    assert not link.readlink().is_absolute()
    assert link.resolve(strict=True) == (ROOT / "src/napari_sparseattn/napari.yaml").resolve()


@pytest.fixture
def empty_environment(tmp_path: Path, wheel: Path) -> Path:
    """Make an environment that holds the wheel; return its folder of commands.

    It sees the dependencies installed here through a .pth file. The editable
    install is not seen: .pth files of a folder that a .pth names are not read.
    """
    home = tmp_path / "environment"
    venv.create(home, with_pip=False, symlinks=os.name != "nt")
    commands = home / ("Scripts" if os.name == "nt" else "bin")
    python = commands / ("python.exe" if os.name == "nt" else "python")
    site = Path(run(python, "-c", "import sysconfig; print(sysconfig.get_path('purelib'))").strip())
    here = {sysconfig.get_path("purelib"), sysconfig.get_path("platlib")}
    run(
        sys.executable, "-m", "pip", "--python", python, "install", "--no-deps", "--no-index", wheel
    )
    (site / "dependencies.pth").write_text("\n".join(sorted(here)))
    return commands


@pytest.mark.slow
def test_demo_runs_from_the_installed_wheel(empty_environment: Path, tmp_path: Path) -> None:
    elsewhere = tmp_path / "elsewhere"
    elsewhere.mkdir()
    origin = run(
        empty_environment / "python",
        "-c",
        "import napari_sparseattn as p; print(p.__file__)",
        cwd=elsewhere,
    )
    assert Path(origin.strip()).is_relative_to(empty_environment.parent)

    out = tmp_path / "out"
    command = empty_environment / "napari-sparseattn"
    run(command, "demo", "--no-window", "--out", out, cwd=elsewhere, timeout=DEMO_SECONDS)
    for pattern in ("*.csv", "*.png"):
        found = list(out.glob(pattern))
        assert found, f"no {pattern} in {sorted(out.iterdir())}"
        assert all(path.stat().st_size > 0 for path in found)
    assert not list(elsewhere.iterdir()), "the demo wrote outside the folder it was given"


def test_conda_recipe_needs_what_the_wheel_needs() -> None:
    """conda-forge's names are those of the index but for torch's."""
    yaml = pytest.importorskip("yaml")
    project = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
    recipe = yaml.safe_load((ROOT / "conda" / "recipe.yaml").read_text(encoding="utf-8"))
    assert recipe["context"]["version"] == project["version"]
    assert f">={recipe['context']['python_min']}" == project["requires-python"]
    wanted = {
        each.replace(">=", " >=").replace("torch ", "pytorch ") for each in project["dependencies"]
    }
    run = recipe["requirements"]["run"]
    assert set(run[1:]) == wanted
    (command,) = recipe["build"]["python"]["entry_points"]
    assert command == " = ".join(*project["scripts"].items())
    # Judged by conda-smithy where a recipe has these and in this order.
    assert list(recipe)[1:] == [
        "context", "package", "source", "build", "requirements", "tests", "about", "extra",
    ]  # fmt: skip
