"""How well a model that gives a risk or a number does on slides whose outcome is known."""

from __future__ import annotations

import contextlib
import dataclasses
import os
import time
from pathlib import Path
from typing import Any

import numpy as np

from ...bundle import Bundle
from ...card import TargetSpec
from ...device import choose_device
from ...features.files import read_features
from ...images.errors import ImageError
from ...judged import Estimated, EstimateReport
from ...progress import Progress
from ...reprs import short_repr
from ..data.slide_tables import SlideRow, SlideTable, read_slide_table

__all__ = ["TableEvaluation", "evaluate_table"]


@dataclasses.dataclass(frozen=True)
class TableEvaluation:
    """Figures on the slides of a table, what could not be read, and how long it took.

    Attributes
    ----------
    report : EstimateReport
        Figures on the slides that were read, by patient.
    judged : Estimated
        What was said of each slide.
    unreadable : dict of str to str
        Files that were not read, with the reason.
    seconds : float
        In all.
    flagged_share : float or None
        Share of the slides unlike anything the model was trained on; None
        where the model's file has no states to compare with.
    notes : tuple of str
        What the figures depend on.
    """

    __repr__ = short_repr

    report: EstimateReport
    judged: Estimated
    unreadable: dict[str, str]
    seconds: float
    flagged_share: float | None = None
    notes: tuple[str, ...] = ()

    def to_dict(self) -> dict[str, Any]:
        """Return lists and numbers, for JSON."""
        return {
            **self.report.to_dict(),
            "seconds": self.seconds,
            "flagged_share": self.flagged_share,
            "unreadable": self.unreadable,
            "notes": list(self.notes),
        }


def evaluate_table(
    path: str | os.PathLike[str],
    bundle: Bundle,
    device: str = "auto",
    *,
    features: str | os.PathLike[str] | None = None,
    pixel_size: float | None = None,
    store: str | os.PathLike[str] | None = None,
    progress: Progress | None = None,
) -> TableEvaluation:
    """Ask a model for the risk, or number, of each slide of a table, and compare.

    Parameters
    ----------
    path : path-like
        See `read_slide_table`: slides with time and event, or with a value.
    bundle : Bundle
        A model that gives a risk or a number.
    device : str
        See `choose_device`.
    features : path-like, optional
        A folder of features that were made before, in place of slides.
    pixel_size : float, optional
        µm per pixel of the slides, in place of what files say.
    store : path-like, optional
        Where features of slides are kept.
    progress : callable, optional
        Called with "slides", those done and their number.

    Raises
    ------
    ValueError
        If the model gives classes, the table is none of its kind or in other
        units, or no slide can be read.
    OSError
        If the table cannot be read.
    """
    target = bundle.card.target
    if target is None:
        raise ValueError(
            f"'{bundle.card.name}' gives classes: give a folder of class folders in place of a "
            "table."
        )
    table = read_slide_table(path, features, target.kind)
    if table.unit and target.unit and table.unit != target.unit:
        raise ValueError(
            f"The table is in {table.unit}, '{bundle.card.name}' was trained in {target.unit}. "
            "Convert the column, and its head."
        )
    began, chosen = time.perf_counter(), choose_device(device)
    scores, novelty, kept = [], [], []
    unreadable: dict[str, str] = {}
    for number, row in enumerate(table.rows, 1):
        try:
            score, unlike = _ask(
                row.path, bundle, chosen, pixel_size, store, made=features is not None
            )
        except (ImageError, OSError, ValueError) as error:
            unreadable[str(row.path)] = str(error)
        else:
            kept.append(row)
            scores.append(score)
            novelty.append(unlike)
        if progress is not None:
            progress("slides", number, len(table))
    if not kept:
        where, reason = next(iter(unreadable.items()))
        raise ValueError(f"None of the {len(table)} slides could be read; {where}: {reason}")
    judged = _judge(table, kept, scores, target)
    flagged = [each > 1 for each in novelty if each is not None]
    return TableEvaluation(
        judged.report(),
        judged,
        unreadable,
        time.perf_counter() - began,
        float(np.mean(flagged)) if flagged else None,
        _notes(bundle, judged),
    )


def _ask(
    path: Path,
    bundle: Bundle,
    device: str,
    pixel_size: float | None,
    store: str | os.PathLike[str] | None,
    *,
    made: bool,
) -> tuple[float, float | None]:
    """Score, and novelty, of one slide or of its features."""
    if made:
        with contextlib.closing(read_features(path)) as found:
            return _ask_features(found, bundle, device)
    from ...images.slides.opening import open_slide
    from ...inference.slides import classify_slide

    with open_slide(path, pixel_size=pixel_size) as pyramid:
        said = classify_slide(pyramid, bundle, store=store, device=device)
        if said.features is not None:
            said.features.close()
    assert said.estimate is not None
    return said.estimate.score, said.novelty


def _ask_features(found: Any, bundle: Bundle, device: str) -> tuple[float, float | None]:
    import torch

    from ...inference.prediction import slide_novelty
    from ...inference.slides import check_features, estimate_of
    from ...models.span import run_span

    check_features(found, bundle.card)
    cells = torch.from_numpy(np.ascontiguousarray(found.cells, dtype=np.int64))
    with torch.inference_mode():
        output = run_span(bundle.slide_model(device), found.features, cells)
    novelty, _ = slide_novelty(bundle, output.states.float().cpu(), found.features)
    return estimate_of(bundle.card, output).score, novelty


def _judge(
    table: SlideTable, rows: list[SlideRow], scores: list[float], target: TargetSpec
) -> Estimated:
    return Estimated(
        tuple(row.name for row in rows),
        tuple(row.group for row in rows),
        np.array([row.outcome for row in rows], np.float64),
        np.array(scores, np.float64),
        target.kind,
        target.unit or table.unit,
    )


def _notes(bundle: Bundle, judged: Estimated) -> tuple[str, ...]:
    card = bundle.card
    notes = [f"intervals are by bootstrap over {judged.n_groups} patients (groups)"]
    if card.target is not None and card.target.times:
        last = f"{card.target.times[-1]:.3g} {card.target.unit}".rstrip()
        notes.append(f"what comes after {last} the model has not learned")
    if card.training.simulated:
        notes.append(f"'{card.name}' was trained on simulated images only")
    return tuple(notes)
