"""Training a SPAN on a table of slides from a window: asked for, and done in another process.

``python -m napari_sparseattn.training.runs.slide_training FOLDER`` works on the order
that a folder holds; see `child` for what it reports, and what it takes.
"""

from __future__ import annotations

import contextlib
import dataclasses
import json
import math
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from ...files import replacing
from ...metrics import FIGURE_TITLES
from ...progress import Progress
from ..data.slide_tables import SlideTable, read_slide_table
from .child import Notify, listen_to_window, work_for_window
from .messages import Stage, Survey
from .process import Switch, training_events
from .slide_orders import SlideOrder, train_order

__all__ = [
    "SlideEpoch",
    "SlideTrainingRequest",
    "TrainedSlides",
    "stream_slide_training",
    "survey_table",
]

_ORDER = "order.json"
_PATHS = ("source", "out", "features", "store")
#: Seconds between two reports of how far features are.
_PAUSE = 0.5


@dataclasses.dataclass(frozen=True, eq=False)
class SlideTrainingRequest:
    """Train what is ordered.

    Parameters
    ----------
    order : SlideOrder
        What.
    switch : Switch
        Ends the work.
    """

    order: SlideOrder
    switch: Switch = dataclasses.field(default_factory=Switch)


@dataclasses.dataclass(frozen=True)
class SlideEpoch:
    """One epoch behind it: its number of how many, and the held-out figure in words."""

    epoch: int
    epochs: int
    text: str


@dataclasses.dataclass(frozen=True)
class TrainedSlides:
    """The new model's file, and how good it is on held-out slides."""

    path: Path
    sentence: str


def survey_table(
    path: Path, features: Path | None = None, target: str | None = None
) -> tuple[Survey, SlideTable | None]:
    """Say what a table gives to learn from, or what is wrong with it, without opening slides."""
    try:
        table = read_slide_table(path, features, target)
    except (ValueError, OSError) as error:
        return Survey(str(error)), None
    groups = {row.group for row in table.rows}
    of = f"{len(table)} slides of {len(groups)} patients (groups)"
    unit = f" in {table.unit}" if table.unit else ""
    if table.kind.classes:
        return Survey(f"{of}: classes {', '.join(table.class_names)}.", (), True), table
    if not table.kind.survival:
        return Survey(f"{of}: a number{unit}.", (), True), table
    having = {row.group for row in table.rows if row.outcome[1]}
    said = f"{of}: follow-up{unit}, {len(having)} patients with the event."
    few = len(having) < 10
    hint = "So few events teach little: expect wide intervals, and no more than an order."
    return Survey(said, (hint,) if few else (), True), table


def stream_slide_training(
    request: SlideTrainingRequest,
) -> Iterator[Stage | SlideEpoch | TrainedSlides]:
    """Train in another process.

    Yields
    ------
    Stage, SlideEpoch, TrainedSlides
        `TrainedSlides` at the end, or nothing more when it was killed. Closing
        the iterator kills the training.

    Raises
    ------
    ValueError
        If the table or its slides cannot be learned from; the message says why.
    RuntimeError
        If the process ended by itself.
    """
    with tempfile.TemporaryDirectory(prefix="sparseattn-") as folder:
        place = Path(folder)
        with replacing(place / _ORDER) as temporary:
            temporary.write_text(json.dumps(_to_plain(request.order)), encoding="utf-8")
        yield Stage("Starting to train…")
        for event in training_events(place, request.switch, "slide_training"):
            kind = event.pop("event", "")
            if kind == "stage":
                yield Stage(event["text"])
            elif kind == "epoch":
                yield SlideEpoch(**event)
            elif kind == "done":
                yield TrainedSlides(Path(event["model"]), event["sentence"])
            elif kind in ("failed", "stopped"):
                raise ValueError(event["text"])


def main(folder: str) -> int:
    """Work on the order of a folder; return the exit code."""
    return work_for_window(lambda notify: _work_on(Path(folder), notify))


def _work_on(folder: Path, notify: Notify) -> None:
    control = listen_to_window()
    order = _from_plain(json.loads((folder / _ORDER).read_text(encoding="utf-8")))

    @contextlib.contextmanager
    def bars(name: str) -> Iterator[Progress]:
        reported = [-math.inf]

        def report(_: str, done: int, total: int) -> None:
            if time.monotonic() - reported[0] > _PAUSE:
                reported[0] = time.monotonic()
                notify("stage", text=f"Features of {name}: {done} of {total} patches")

        yield report

    def on_epoch(epoch: Any) -> None:
        known = math.isfinite(epoch.accuracy)
        text = f"{FIGURE_TITLES[epoch.figure]} {epoch.accuracy:.3f} on held-out slides"
        notify("epoch", epoch=epoch.epoch, epochs=epoch.epochs, text=text if known else "")

    bundle, report, _ = train_order(
        order,
        bars,
        lambda text: notify("stage", text=text),
        on_epoch,
        lambda: not control.proceed(),
    )
    test = report.test
    sentence = getattr(test, "sentence", "")
    if not sentence:
        low, high = test.accuracy_interval  # type: ignore[union-attr]
        sentence = (
            f"{100 * test.accuracy:.1f} % of {test.n} slides right "  # type: ignore[union-attr]
            f"(95 % interval {100 * low:.1f} to {100 * high:.1f})"
        )
    notify("done", model=str(bundle.path), sentence=sentence)


def _to_plain(order: SlideOrder) -> dict[str, Any]:
    plain = dataclasses.asdict(order)
    return plain | {name: str(plain[name]) for name in _PATHS if plain[name] is not None}


def _from_plain(plain: dict[str, Any]) -> SlideOrder:
    return SlideOrder(**plain | {name: Path(plain[name]) for name in _PATHS if plain[name]})


if __name__ == "__main__":
    raise SystemExit(main(sys.argv[1]))
