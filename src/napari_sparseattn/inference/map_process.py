"""A map of many cells in a process of its own: UMAP keeps Python to itself for seconds."""

from __future__ import annotations

import subprocess
import sys
import tempfile
import threading
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from .cell_map import CellMap, MapMethod, map_states

__all__ = ["map_in_process"]

_LOOK_SECONDS = 0.1


def map_in_process(
    states: npt.NDArray[np.floating[Any]], method: MapMethod, seed: int, stop: threading.Event
) -> CellMap | None:
    """Lay out states (N, D) in another process; None if it was stopped.

    Parameters
    ----------
    states, method, seed
        As in `map_states`.
    stop : threading.Event
        Set to end the process.

    Raises
    ------
    RuntimeError
        If the process ends by itself; with what it said last.
    """
    with tempfile.TemporaryDirectory(prefix="sparseattn-map-") as name:
        folder = Path(name)
        np.save(folder / "states.npy", states, allow_pickle=False)
        flags = 0
        if sys.platform == "win32":
            flags = subprocess.CREATE_NO_WINDOW | subprocess.BELOW_NORMAL_PRIORITY_CLASS
        with (folder / "log.txt").open("w+", encoding="utf-8", errors="replace") as log:
            process = subprocess.Popen(
                [sys.executable, "-m", __name__, str(folder), method, str(seed)],
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                creationflags=flags,
            )
            try:
                while process.poll() is None and not stop.wait(_LOOK_SECONDS):
                    pass
            finally:
                if process.poll() is None:
                    process.kill()
                process.wait()
            if stop.is_set():
                return None
            if process.returncode:
                log.seek(0)
                said = [line.strip() for line in log if line.strip()]
                raise RuntimeError(f"The map could not be made ({said[-1] if said else 'no word'})")
        places = np.load(folder / "places.npy", allow_pickle=False)
    return CellMap(places, method)


def _main(folder: Path, method: MapMethod, seed: int) -> None:
    states = np.load(folder / "states.npy", allow_pickle=False)
    np.save(folder / "places.npy", map_states(states, method, seed=seed).places)


if __name__ == "__main__":
    chosen: Any = sys.argv[2]
    _main(Path(sys.argv[1]), chosen, int(sys.argv[3]))
