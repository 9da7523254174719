"""Write what the wheel holds that is not its own code, in CycloneDX: its models, and what it needs.

    python scripts/make_sbom.py napari-sparseattn.cdx.json

Building a wheel runs this too and puts the file into its ``.dist-info/sboms``
(PEP 770). Models are named with the hash of their file, their licence and their data's
citation, as their cards say them; requirements as ``pyproject.toml`` does.
"""

from __future__ import annotations

import hashlib
import json
import re
import struct
import sys
import tempfile
import tomllib
import uuid
from pathlib import Path
from typing import Any

try:
    from hatchling.builders.hooks.plugin.interface import BuildHookInterface
except ModuleNotFoundError:  # asked for without building
    BuildHookInterface = object

ROOT = Path(__file__).resolve().parents[1]
WEIGHTS = ROOT / "src" / "napari_sparseattn" / "weights"


def describe() -> dict[str, Any]:
    """Return the bill of materials; the same tree gives the same one."""
    project = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
    own = f"pkg:pypi/{project['name']}@{project['version']}"
    components = [_model(path) for path in sorted(WEIGHTS.glob("*.safetensors"))]
    needed = [_requirement(each) for each in sorted(project["dependencies"])]
    content = json.dumps([components, needed], sort_keys=True)
    return {
        "bomFormat": "CycloneDX",
        "specVersion": "1.6",
        "serialNumber": f"urn:uuid:{uuid.uuid5(uuid.NAMESPACE_URL, own + content)}",
        "version": 1,
        "metadata": {
            "component": {
                "type": "library",
                "bom-ref": own,
                "name": project["name"],
                "version": project["version"],
                "purl": own,
                "licenses": [{"license": {"id": project["license"]}}],
            }
        },
        "components": components + needed,
        "dependencies": [
            {"ref": own, "dependsOn": [each["bom-ref"] for each in components + needed]}
        ],
    }


def _model(path: Path) -> dict[str, Any]:
    data = path.read_bytes()
    (length,) = struct.unpack("<Q", data[:8])
    told = json.loads(data[8 : 8 + length])["__metadata__"]
    card = json.loads(told["napari_sparseattn_card"])
    training = card.get("training") or {}
    component: dict[str, Any] = {
        "type": "machine-learning-model",
        "bom-ref": f"model:{path.stem}",
        "name": path.stem,
        "hashes": [{"alg": "SHA-256", "content": hashlib.sha256(data).hexdigest()}],
    }
    if card.get("description"):
        component["description"] = card["description"]
    if card.get("weights_licence"):
        component["licenses"] = [{"license": {"id": card["weights_licence"]}}]
    told_of_data = {
        "data": training.get("citation"),
        "licence of the data": training.get("licence"),
    }
    component["properties"] = [
        {"name": name, "value": value} for name, value in told_of_data.items() if value
    ]
    return component


def _requirement(text: str) -> dict[str, Any]:
    name = re.split(r"[^A-Za-z0-9._-]", text, maxsplit=1)[0]
    return {
        "type": "library",
        "bom-ref": f"pkg:pypi/{name}",
        "name": name,
        "purl": f"pkg:pypi/{name}",
        "properties": [{"name": "required", "value": text}],
    }


class SbomHook(BuildHookInterface):  # type: ignore[misc]
    """What the build backend calls before it writes a wheel."""

    PLUGIN_NAME = "custom"

    def initialize(self, version: str, build_data: dict[str, Any]) -> None:
        if self.target_name != "wheel" or version == "editable":
            return
        self.folder = tempfile.TemporaryDirectory()
        path = Path(self.folder.name) / "napari-sparseattn.cdx.json"
        write(path)
        build_data["sbom_files"].append(str(path))

    def finalize(self, version: str, build_data: dict[str, Any], artifact_path: str) -> None:
        if hasattr(self, "folder"):
            self.folder.cleanup()


def write(path: Path) -> None:
    """Write the bill of materials."""
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(describe(), indent=1) + "\n", encoding="utf-8")


def main() -> None:
    write(Path(sys.argv[1]))
    print(sys.argv[1])


if __name__ == "__main__":
    main()
