"""Make .venv with everything that the demo, the tests and the checks need.

    python3 scripts/bootstrap.py

Standard library only, and on purpose readable by an old Python, so that it can
say that the Python is too old. It does nothing when .venv is already made from
the present requirements. On Debian as root it also installs the system
libraries that a window needs; elsewhere it says which are missing.
"""

import argparse
import ctypes
import hashlib
import importlib.util
import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
VENV = ROOT / ".venv"
STAMP = VENV / "made-from.json"
REQUIREMENTS = ROOT / "requirements"
LEAST_PYTHON = (3, 11)
INSTALL = ["install", "--quiet", "--disable-pip-version-check", "--retries", "10"]

# What a bare Debian lacks for Qt and OpenGL: package -> library to look for.
# Looked for by loading, as Debian's releases rename packages, and other
# distributions have the same libraries under other names.
LIBRARIES = {
    "libgl1": "libGL.so.1",
    "libegl1": "libEGL.so.1",
    "libfontconfig1": "libfontconfig.so.1",
    "libdbus-1-3": "libdbus-1.so.3",
    "libglib2.0-0": "libglib-2.0.so.0",
    "libxkbcommon-x11-0": "libxkbcommon-x11.so.0",
    "libxcb-cursor0": "libxcb-cursor.so.0",
    "libxcb-icccm4": "libxcb-icccm.so.4",
    "libxcb-keysyms1": "libxcb-keysyms.so.1",
    "libxcb-shape0": "libxcb-shape.so.0",
}
PROGRAMS = {"xvfb": "Xvfb", "xauth": "xauth"}
MESA = {"libgl1-mesa-dri": "usr/lib*/**/dri/*.so"}


def loads(library):
    """Tell whether the system has a shared library."""
    try:
        ctypes.CDLL(library)
    except OSError:
        return False
    return True


def missing_packages():
    """Return the Debian packages whose content this Linux machine lacks."""
    missing = [package for package, library in LIBRARIES.items() if not loads(library)]
    missing += [package for package, name in PROGRAMS.items() if shutil.which(name) is None]
    missing += [
        package for package, pattern in MESA.items() if next(Path("/").glob(pattern), None) is None
    ]
    if importlib.util.find_spec("ensurepip") is None:
        missing.append("python{}.{}-venv".format(*sys.version_info))
    return missing


def install_system_libraries():
    """Install what Qt, OpenGL and Xvfb need, or say what is missing."""
    if not sys.platform.startswith("linux"):
        return
    missing = missing_packages()
    if not missing:
        return
    names = " ".join(missing)
    if shutil.which("apt-get") is None or os.geteuid() != 0:
        print(
            "Windows and their tests need system libraries that were not found.\n"
            f"On Debian and Ubuntu:  sudo apt-get install {names}\n"
            "Elsewhere, install what your system calls these. Going on without them.",
            file=sys.stderr,
        )
        return
    print(f"Installing system libraries: {names}", flush=True)
    environment = dict(os.environ, DEBIAN_FRONTEND="noninteractive")
    for arguments in (["update"], ["install", "--yes", "--no-install-recommends", *missing]):
        subprocess.run(["apt-get", "-qq", *arguments], env=environment, check=True)


def venv_python():
    """Return the path of the environment's interpreter."""
    return VENV / ("Scripts/python.exe" if os.name == "nt" else "bin/python")


def recipe():
    """Return all that decides what the environment holds."""
    digest = hashlib.sha256()
    for path in [ROOT / "pyproject.toml", Path(__file__), *sorted(REQUIREMENTS.glob("*.txt"))]:
        digest.update(path.read_bytes())
    return {
        "python": "{}.{}.{}".format(*sys.version_info),
        "folder": str(ROOT),
        "requirements": digest.hexdigest(),
    }


def made_from():
    """Return the recipe that the present environment was made from; empty if unknown."""
    try:
        return json.loads(STAMP.read_text())
    except (OSError, ValueError):
        return {}


def must_start_anew():
    """Tell whether mending will not do: no interpreter, another Python, or moved."""
    if subprocess.call([str(venv_python()), "-c", ""], stderr=subprocess.DEVNULL) != 0:
        return True
    made = made_from()
    return any(
        made.get(key, value) != value for key, value in recipe().items() if key != "requirements"
    )


def make_environment():
    """Make or mend .venv; torch first, so that nothing else chooses its build."""
    if not venv_python().exists() or must_start_anew():
        print("Making .venv (one to five minutes; torch is large)", flush=True)
        subprocess.run([sys.executable, "-m", "venv", "--clear", str(VENV)], check=True)
    pip = [str(venv_python()), "-m", "pip", *INSTALL]
    subprocess.run([*pip, "-r", str(REQUIREMENTS / "torch.txt")], check=True)
    constraints = str(REQUIREMENTS / "constraints.txt")
    subprocess.run([*pip, "-c", constraints, "-e", f"{ROOT}[dev,docs]"], check=True)
    STAMP.write_text(json.dumps(recipe(), indent=1))


def main():
    """Run the steps that are needed."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument(
        "--system-only", action="store_true", help="install system libraries and stop"
    )
    if parser.parse_args().system_only:
        install_system_libraries()
        return
    if sys.version_info < LEAST_PYTHON:
        sys.exit(
            "Python {}.{} or newer is needed, this is {}.\n"
            "Name a newer one, for example:  make test PYTHON=python3.12".format(
                *LEAST_PYTHON, sys.version.split()[0]
            )
        )
    if venv_python().exists() and made_from() == recipe():
        return
    try:
        install_system_libraries()
        make_environment()
    except subprocess.CalledProcessError as error:
        sys.exit(
            "This step failed (its own message is above):\n  {}\n"
            "Run the same command again; if .venv is damaged: make clean".format(
                " ".join(map(str, error.cmd))
            )
        )


if __name__ == "__main__":
    main()
