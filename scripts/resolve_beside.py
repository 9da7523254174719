"""Ask whether this package can be installed beside what its users have; needs `uv`.

    python scripts/resolve_beside.py            # every tool, one line each
    python scripts/resolve_beside.py tiatoolbox

Each tool is resolved together with ``napari-sparseattn[all]`` and again alone.
A line names what cannot be, and what would be held back: packages that are
older beside us than the tool alone would have them. Ends with 1 if anything
cannot be installed beside us.
"""

from __future__ import annotations

import argparse
import re
import shutil
import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
TOOLS = (
    "anndata",
    "bioio",
    "btrack[napari]",
    "cellpose[gui]",
    "empanada-napari",
    "instanseg-torch",
    "napari-animation",
    "napari-clusters-plotter",
    "napari-deeplabcut",
    "napari-matplotlib",
    "napari-micromanager",
    "napari-ome-zarr",
    "napari-omero",
    "napari-segment-blobs-and-things-with-membranes",
    "napari-skimage",
    "napari-skimage-regionprops",
    "napari-sam",
    "napari-spatialdata",
    "stardist-napari",
    "ome-zarr",
    "openslide-python",
    "scanpy",
    "spatialdata",
    "squidpy",
    "tiatoolbox",
)


class NotInstallableError(Exception):
    """What the resolver said."""


def resolve(*wanted: str) -> dict[str, str]:
    """Return the versions that satisfy all, name -> version."""
    uv = shutil.which("uv")
    if uv is None:
        raise SystemExit("This needs uv: pip install uv")
    done = subprocess.run(
        [uv, "pip", "compile", "--quiet", "--no-header", "--no-annotate", "-"],
        input="\n".join(wanted),
        capture_output=True,
        text=True,
        check=False,
        timeout=600,
    )
    if done.returncode:
        raise NotInstallableError(" ".join(done.stderr.split()))
    return dict(re.findall(r"^([A-Za-z0-9._-]+)(?:\[[^\]]*\])?==(\S+)", done.stdout, re.MULTILINE))


def older(first: str, second: str) -> bool:
    """Whether the first of two versions is the lower, by their numbers."""
    first_numbers, second_numbers = (
        [int(each) for each in re.findall(r"\d+", text.split("+")[0])] for text in (first, second)
    )
    return first_numbers < second_numbers


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("tools", nargs="*", default=TOOLS)
    ours, refused = f"napari-sparseattn[all] @ {ROOT.as_uri()}", 0
    for tool in parser.parse_args().tools:
        try:
            alone = resolve(tool)
        except NotInstallableError as error:
            print(f"{tool}: cannot be installed by itself: {str(error)[:200]}", flush=True)
            continue
        try:
            beside = resolve(ours, tool)
        except NotInstallableError as error:
            refused += 1
            print(f"{tool}: CANNOT be installed beside us: {str(error)[:400]}", flush=True)
            continue
        held = [
            f"{name} {beside[name]} instead of {version}"
            for name, version in alone.items()
            if name in beside and older(beside[name], version)
        ]
        print(f"{tool}: yes" + (f", with {', '.join(held)}" if held else ""), flush=True)
    sys.exit(1 if refused else 0)


if __name__ == "__main__":
    main()
