"""What is installed, on which device models run, and what is missing for what."""

from __future__ import annotations

import dataclasses
import json
import platform
import re
from importlib import metadata
from typing import Annotated, Any

import typer

from ..crash import find_crashes
from .options import AsJson

__all__ = ["doctor", "examine", "print_version"]

_PACKAGE = "napari-sparseattn"
_QT = ("PyQt6", "PySide6", "PyQt5", "PySide2")
_CORE = ("napari", "npe2", "torch", "numpy", "scikit-image", "tifffile")
#: What an extra is for, in the order that is printed.
_EXTRAS = {
    "slides": "slides of every maker, DICOM",
    "exports": "Parquet, AnnData, OME-Zarr",
    "dicom": "annotations and maps of DICOM slides",
    "spatialdata": "SpatialData",
    "models": "ONNX and BioImage.IO, sharing models",
    "encoders": "pretrained encoders of patches",
    "rtdc": "compressed .rtdc files",
    "cluster": "batches on many machines",
}


def print_version(wanted: bool) -> None:
    """Print the version and end, where it was asked for."""
    if wanted:
        typer.echo(f"{_PACKAGE} {_version(_PACKAGE) or 'unknown'}")
        raise typer.Exit


def examine() -> dict[str, Any]:
    """Look at what is installed here.

    Returns
    -------
    dict
        ``packages``: name -> version or None; ``qt``: bindings and versions;
        ``python`` and ``system``; ``device``: what models run on by default,
        ``devices``: all; ``extras``: name -> what it is for and what is
        ``missing`` of it; ``advice``: sentences, what to do about what is missing.
    """
    packages = {name: _version(name) for name in (_PACKAGE, *_CORE)}
    qt = {name: version for name in _QT if (version := _version(name))}
    extras = {
        name: {"for": purpose, "missing": _missing(name)} for name, purpose in _EXTRAS.items()
    }
    found: dict[str, Any] = {
        "python": platform.python_version(),
        "system": platform.platform(terse=True),
        "packages": packages,
        "qt": qt,
        **_devices(),
        "extras": extras,
    }
    return {**found, "advice": _advice(found)}


def doctor(
    as_json: AsJson = False,
    crashes: Annotated[
        bool, typer.Option("--crashes", help="Print where the program was when it last crashed.")
    ] = False,
) -> None:
    """Say what is installed, where models run, what is missing and how to get it."""
    if crashes:
        _print_crashes(as_json)
        return
    found = examine()
    if as_json:
        typer.echo(json.dumps(found, indent=2))
        return
    width = max(map(len, (*found["packages"], *found["extras"], "Python")))
    lines = [("Python", f"{found['python']}, {found['system']}")]
    lines += [(name, version or "not installed") for name, version in found["packages"].items()]
    lines.append(("Qt", ", ".join(f"{n} {v}" for n, v in found["qt"].items()) or "not installed"))
    lines.append(("device", found["device_text"]))
    for name, extra in found["extras"].items():
        state = f"not installed: {', '.join(extra['missing'])}" if extra["missing"] else "ready"
        lines.append((name, f"{extra['for']}: {state}"))
    for name, text in lines:
        typer.echo(f"{name:<{width}}  {text}")
    typer.echo("")
    for sentence in found["advice"] or ["Nothing is missing."]:
        typer.echo(sentence)


def _print_crashes(as_json: bool) -> None:
    found = find_crashes()
    if as_json:
        typer.echo(json.dumps([dataclasses.asdict(crash) for crash in found], indent=2))
        return
    for crash in found:
        typer.echo(f"{crash.when}\n{crash.text}")
    if not found:
        typer.echo("No crash is known.")


def _devices() -> dict[str, Any]:
    try:
        from ..device import available_devices, describe_device
    except (ImportError, OSError) as error:  # a torch that does not load is what one looks for
        return {"device": None, "devices": [], "device_text": f"torch does not load: {error}"}
    devices = available_devices()
    return {"device": devices[0], "devices": devices, "device_text": describe_device(devices[0])}


def _advice(found: dict[str, Any]) -> list[str]:
    advice = []
    if found["device"] is None:
        advice.append("Install torch anew: models cannot run without it.")
    if not found["packages"]["napari"] or not found["qt"]:
        advice.append(f'For the window: pip install "{_PACKAGE}[all]"')
    if len(found["qt"]) > 1:
        advice.append(
            f"{len(found['qt'])} Qt bindings are installed ({', '.join(found['qt'])}). If the "
            "window does not open, remove all but one, or name one in QT_API."
        )
    if crashes := find_crashes():
        advice.append(
            f"The program crashed, last at {crashes[0].when}. napari-sparseattn doctor --crashes "
            "prints where: functions and lines, nothing of images. Please send it with a report."
        )
    missing = [name for name, extra in found["extras"].items() if extra["missing"]]
    if missing:
        advice.append(f'For {" and ".join(missing)}: pip install "{_PACKAGE}[{",".join(missing)}]"')
    return advice


def _missing(extra: str) -> list[str]:
    """The packages of an extra that are not installed."""
    try:
        requirements = metadata.requires(_PACKAGE) or []
    except metadata.PackageNotFoundError:
        return []
    wanted = re.compile(rf"""extra\s*==\s*['"]{re.escape(extra)}['"]""")
    names = [
        re.split(r"[^\w.-]", each, maxsplit=1)[0] for each in requirements if wanted.search(each)
    ]
    return [name for name in names if name != _PACKAGE and _version(name) is None]


def _version(name: str) -> str | None:
    try:
        return metadata.version(name)
    except metadata.PackageNotFoundError:
        return None
