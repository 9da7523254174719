"""Trains in a process of its own, so that the window never waits for it.

``python -m napari_sparseattn.training.runs.child FOLDER`` works on a run
(see `runs`). It reports its progress as JSON lines, and takes the lines
``pause``, ``resume`` and ``cancel``. When the window that it belongs
to is gone it ends at once: the checkpoint of its last epoch stays.
"""

from __future__ import annotations

import contextlib
import dataclasses
import json
import os
import sys
import threading
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any, TextIO

from .runs import EPOCHS, WORK_LOCK, Run, hold, read_run

if TYPE_CHECKING:
    from ..loop.control import TrainingControl
    from ..loop.epochs import FineTuneEpoch

__all__ = ["Notify", "listen_to_window", "main", "work_for_window"]

_NICE = 10
_LOCK_SECONDS = 20.0

Notify = Callable[..., None]


def main(folder: str) -> int:
    """Work on a run until it is done, cancelled or failed; return the exit code."""
    return work_for_window(lambda notify: _work_on(Path(folder), notify))


def work_for_window(work: Callable[[Notify], None]) -> int:
    """Do work that reports to a window, and say why it ends; return the exit code."""
    notify = _open_notifier()
    _give_way()
    try:
        work(notify)
    except InterruptedError as error:
        notify("stopped", text=str(error))
    except (ValueError, TypeError, OSError, MemoryError, RuntimeError) as error:
        import traceback

        traceback.print_exc()
        notify("failed", text=str(error) or type(error).__name__)
        return 1
    return 0


def _work_on(folder: Path, notify: Notify) -> None:
    with hold(folder, WORK_LOCK, _LOCK_SECONDS):
        _work(read_run(folder), notify)


def listen_to_window() -> TrainingControl:
    """Obey the window from now on, and leave it one core."""
    import torch

    from ..loop.control import TrainingControl

    control = TrainingControl()
    threading.Thread(target=_listen, args=(control,), daemon=True).start()
    # One core is the window's.
    torch.set_num_threads(max(1, min(torch.get_num_threads(), (os.cpu_count() or 2) - 1)))
    return control


def _work(run: Run, notify: Notify) -> None:
    from .work import save_version, train_run

    control = listen_to_window()
    if run.folds:
        from .validation import validate_run

        notify("stage", text="Training and testing, fold by fold…")
        found = validate_run(run, lambda fold: notify("fold", **dataclasses.asdict(fold)))
        notify("validated", text=found.sentence)
        return

    def on_epoch(epoch: FineTuneEpoch) -> None:
        plain = {**epoch.numbers(), "watched": epoch.watched.tolist()}
        _append(run.folder / EPOCHS, plain)
        notify("epoch", **plain)

    new, report = train_run(run, control, on_epoch, lambda text: notify("stage", text=text))
    notify("done", model=str(save_version(run, new, report)))


def _append(path: Path, plain: dict[str, Any]) -> None:
    with path.open("a", encoding="utf-8") as file:
        file.write(json.dumps(plain, allow_nan=False) + "\n")


def _open_notifier() -> Notify:
    """Return what writes JSON lines; whatever else is printed goes to the log."""
    out: TextIO = os.fdopen(os.dup(sys.stdout.fileno()), "w", encoding="utf-8")
    os.dup2(sys.stderr.fileno(), sys.stdout.fileno())

    def notify(event: str, **values: Any) -> None:
        out.write(json.dumps({"event": event, **values}, allow_nan=False) + "\n")
        out.flush()

    return notify


def _listen(control: TrainingControl) -> None:
    for line in sys.stdin:
        word = line.strip()
        if word in ("pause", "resume", "cancel"):
            getattr(control, word)()
    # The window has gone, and whatever it was going to do with the model.
    os._exit(3)


def _give_way() -> None:
    """Let the window go first; on Windows the process is started that way."""
    if hasattr(os, "nice"):
        with contextlib.suppress(OSError):
            os.nice(_NICE)


if __name__ == "__main__":
    raise SystemExit(main(sys.argv[1]))
