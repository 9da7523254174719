"""Trains in a process of its own, so that the window never waits for it.

``python -m napari_sparseattn.training.runs.child FOLDER`` works on a run
(see `fine_tuning_runs`). It tells how far it is as JSON lines, and is told
``pause``, ``resume`` and ``cancel`` by lines. When the window that it belongs
to is gone it ends at once: the checkpoint of its last epoch stays.
"""

from __future__ import annotations

import contextlib
import json
import math
import os
import sys
import threading
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any, TextIO

from ...files import replacing
from .runs import (
    CHECKPOINT,
    EPOCHS,
    WORK_LOCK,
    Run,
    finished,
    held,
    other_crops,
    read_arrays,
    read_crops,
    read_images,
    read_run,
    report_path,
    target_of,
)

if TYPE_CHECKING:
    import numpy.typing as npt

    from ...bundle import Bundle
    from ...card import Card
    from ..loop.control import TrainingControl
    from ..tune.fine_tune import FineTuneEpoch, FineTuneReport

__all__ = ["main"]

_NICE = 10
_LOCK_SECONDS = 20.0

Tell = Callable[..., None]
OnEpoch = Callable[["FineTuneEpoch"], None]


def main(folder: str) -> int:
    """Work on a run until it is done, cancelled or failed; return the exit code."""
    tell = _teller()
    _give_way()
    try:
        with held(Path(folder), WORK_LOCK, _LOCK_SECONDS):
            run = read_run(Path(folder))
            _work(run, tell)
    except InterruptedError as error:
        tell("stopped", text=str(error))
    except (ValueError, TypeError, OSError, MemoryError, RuntimeError) as error:
        import traceback

        traceback.print_exc()
        tell("failed", text=str(error) or type(error).__name__)
        return 1
    return 0


def _work(run: Run, tell: Tell) -> None:
    import torch

    from ...bundle import load_bundle
    from ..loop.control import TrainingControl

    control = TrainingControl()
    threading.Thread(target=_listen, args=(control,), daemon=True).start()
    # One core is the window's.
    torch.set_num_threads(max(1, min(torch.get_num_threads(), (os.cpu_count() or 2) - 1)))
    bundle = load_bundle(run.model)
    train = _train_slides if run.kind == "slides" else _train_cells

    def on_epoch(epoch: FineTuneEpoch) -> None:
        numbers = {key: value for key, value in epoch.numbers().items() if _finite(value)}
        told = {**numbers, "watched": epoch.watched.tolist()}
        _append(run.folder / EPOCHS, told)
        tell("epoch", **told)

    new, report = train(run, bundle, control, on_epoch, tell)
    tell("done", model=str(_save(run, new, report)))


def _train_cells(
    run: Run, bundle: Bundle, control: TrainingControl, on_epoch: OnEpoch, tell: Tell
) -> tuple[Bundle, FineTuneReport]:
    from ..tune.fine_tune import fine_tune

    tell("stage", text="Looking for cells that nobody annotated…")
    others = _others(run, bundle.card)
    tell("stage", text="Fitting the last layer…")
    return fine_tune(
        bundle,
        read_crops(run),
        on_epoch=on_epoch,
        control=control,
        unlabelled=others,
        freeze=run.freeze,
        seconds=run.seconds,
        device=run.device,
        checkpoint=run.folder / CHECKPOINT,
        name=run.name,
    )


def _others(run: Run, card: Card) -> npt.NDArray[Any] | None:
    """Crops of cells that nobody annotated: the same ones when the run goes on."""
    from ..data.annotated import unannotated_cells
    from ..data.project import Project

    def made() -> npt.NDArray[Any]:
        fields = read_images(run.folder)
        project = Project(run.folder.parent.parent)
        return unannotated_cells(project, lambda image: fields.get(image.hash), card)

    crops = other_crops(run.folder, made)
    return crops if len(crops) else None


def _train_slides(
    run: Run, bundle: Bundle, control: TrainingControl, on_epoch: OnEpoch, tell: Tell
) -> tuple[Bundle, FineTuneReport]:
    from ..tune.slides import tune_slides
    from .data import slide_examples

    tell("stage", text="Training…")
    return tune_slides(
        bundle,
        slide_examples(read_arrays(run.folder), run.names, run.groups),
        run.class_names,
        on_epoch=on_epoch,
        control=control,
        seconds=run.seconds,
        device=run.device,
        checkpoint=run.folder / CHECKPOINT,
        name=run.name,
    )


def _save(run: Run, bundle: Bundle, report: FineTuneReport) -> Path:
    """Write model and report; never over another model."""
    import dataclasses

    from ...bundle import save_bundle

    path = target_of(run)
    named = dataclasses.replace(bundle, card=bundle.card.model_copy(update={"name": path.stem}))
    told = {"format": 1, "model": path.stem, "report": report.to_dict()}
    # The report first: a model that is there has one.
    with replacing(report_path(path)) as temporary:
        temporary.write_text(json.dumps(told, allow_nan=False), encoding="utf-8")
    save_bundle(named, path)
    finished(run)
    return path


def _finite(value: float | None) -> bool:
    return value is None or math.isfinite(value)


def _append(path: Path, plain: dict[str, Any]) -> None:
    with path.open("a", encoding="utf-8") as file:
        file.write(json.dumps(plain, allow_nan=False) + "\n")


def _teller() -> Tell:
    """Return what writes JSON lines; whatever else is printed goes to the log."""
    out: TextIO = os.fdopen(os.dup(sys.stdout.fileno()), "w", encoding="utf-8")
    os.dup2(sys.stderr.fileno(), sys.stdout.fileno())

    def tell(event: str, **values: Any) -> None:
        out.write(json.dumps({"event": event, **values}, allow_nan=False) + "\n")
        out.flush()

    return tell


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
