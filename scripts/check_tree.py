"""Refuse what must not be in the project's files.

    python scripts/check_tree.py

No file names a package registry's host or a path of one developer's machine:
installs go through the client's own settings, and a clone works anywhere.
"""

import re
import sys
from collections.abc import Iterator
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
SKIPPED = {".git", ".venv", "build", "dist", "__pycache__", "node_modules"}
HIDDEN_BUT_OURS = {".ci", ".github", ".gitignore", ".pre-commit-config.yaml"}
# Written with classes so that this file does not match itself.
STRAY = re.compile(
    rb"py[p]i\.org|pythonhosted[.]org|conda[.]anaconda|download[.]pytorch"
    rb"|--(?:extra-)?index-ur[l]|--trusted-hos[t]"
    rb"|(?<![\w./-])/(?:work|root|opt/pypi|tmp/w)/|/hom[e]/\w+/|[A-Z]:\\Users"
)


def project_files() -> Iterator[Path]:
    """Yield the files that belong to the project, tracked or not yet."""
    for path in sorted(ROOT.rglob("*")):
        parts = path.relative_to(ROOT).parts
        hidden = parts[0].startswith(".") and parts[0] not in HIDDEN_BUT_OURS
        if path.is_file() and not hidden and SKIPPED.isdisjoint(parts):
            yield path


def stray_addresses(path: Path) -> Iterator[str]:
    """Yield where a file names a registry's host or a machine's path."""
    content = path.read_bytes()
    if b"\0" in content[:1024]:
        return
    for number, line in enumerate(content.splitlines(), start=1):
        if found := STRAY.search(line):
            yield f"{number}: names {found[0].decode()!r}"


def main() -> int:
    """Print the findings; the exit status is 1 if there are any."""
    findings = []
    for path in project_files():
        name = path.relative_to(ROOT).as_posix()
        findings += [f"{name}:{finding}" for finding in stray_addresses(path)]
    print("\n".join(findings) or "tree: no stray addresses")
    return 1 if findings else 0


if __name__ == "__main__":
    sys.exit(main())
