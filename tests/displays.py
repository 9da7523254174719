"""Virtual displays for the processes that share the tests, so that windows keep their focus."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys

#: A size that people have, as in ``scripts/with_display.sh``.
SCREEN = "1600x1000x24"


def can_start() -> bool:
    """Whether this system has virtual displays."""
    return sys.platform == "linux" and shutil.which("Xvfb") is not None


def start_display() -> tuple[subprocess.Popen[bytes], str]:
    """Start one; return its process, to be ended by whoever starts it, and its name."""
    read, write = os.pipe()
    server = subprocess.Popen(
        ["Xvfb", "-displayfd", str(write), "-screen", "0", SCREEN, "-nolisten", "tcp"],
        pass_fds=[write],
        stdin=subprocess.DEVNULL,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
    )
    os.close(write)
    # It says its number when it is ready, and nothing if it ends before.
    with os.fdopen(read) as told:
        number = told.readline().strip()
    if not number:
        raise RuntimeError(f"Xvfb ended with {server.wait()}; does `Xvfb :99` start?")
    return server, f":{number}"
