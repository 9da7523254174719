"""A result in a few numbers: for tables, for people, and as JSON for programs."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ..files import replacing
from ..inference.fields import FieldPrediction
from ..inference.prediction import Predictions, ReadingLedger
from ..inference.slides import SlidePrediction

if TYPE_CHECKING:
    from .request import Export, Result

__all__ = ["describe", "summarise", "write_json"]


def summarise(found: Result) -> dict[str, Any]:
    """Return what was found and read as plain values; the same names for all kinds of result.

    Returns
    -------
    dict
        ``cells`` and ``counts`` by class, with ``frames`` of a recording, and
        ``proposed_pixel_size_um`` by the red cells of a smear; or
        ``class``, ``confidence`` and ``probabilities``; or ``shares`` by
        class; or ``estimate``, a risk or a number, see `Estimate.to_dict`. Of cells
        ``flagged`` counts those unlike anything the model was trained on and
        ``none_of_these``, among them, those that look like what is common beside
        its classes; else ``novelty`` and ``flagged`` are the whole's; None where
        that was not measured. Of a field ``crops``, and ``stopped`` with the reason
        of a model that may stop by itself, of a slide ``patches``, ``tissue_share``
        and ``stages`` in seconds; of both ``tiles`` that were used, ``bytes_read``
        for those that were not in memory, ``unreadable_tiles`` and
        ``share_read``. Always ``looked_at`` (share of the pixels that the
        classifier saw, above 1 where it saw some again), ``seconds``, ``device``,
        ``scale_known`` and ``notes``.
    """
    if isinstance(found, Predictions):
        return _of_cells([found])
    if isinstance(found, Mapping):
        return {"frames": len(found), **_of_cells(list(found.values()))}
    values = dict(zip(found.class_names, map(float, found.probabilities), strict=True))
    summary: dict[str, Any] = {"class": found.label, "confidence": found.confidence}
    summary["probabilities"] = values
    novelty = {"novelty": found.novelty, "flagged": found.flagged}
    if isinstance(found, SlidePrediction):
        if found.segments:
            summary = {"shares": values}
        each = found.patch_novelty
        if found.segments or each is not None:
            novelty["flagged_patches"] = None if each is None else int((each > 1).sum())
        if found.estimate is not None:
            summary = {"estimate": found.estimate.to_dict()}
        summary["patches"] = len(found.attention)
        summary["tissue_share"] = None if found.tissue is None else found.tissue.share
        summary["stages"] = {stage.name: stage.seconds for stage in found.stages}
    else:
        summary["crops"] = len(found.traversal)
        stop = found.traversal.stop
        summary["stopped"] = None if stop is None else stop.to_dict()
    return summary | novelty | _reading(found) | _about([found.ledger], found.scale_known)


def describe(summary: Mapping[str, Any]) -> str:
    """Return a summary in words, e.g. ``"2 cells: 1 round, 1 small"``."""
    said = ""
    if "counts" in summary:
        counts = ", ".join(f"{n} {name}" for name, n in summary["counts"].items() if n)
        cells = "1 cell" if summary["cells"] == 1 else f"{summary['cells']} cells"
        said = f"{cells}: {counts}" if counts else "no cells"
    elif "shares" in summary:
        shares = ", ".join(f"{name} {100 * p:.1f} %" for name, p in summary["shares"].items())
        said = f"{shares} of the patches"
    elif "estimate" in summary:
        said = summary["estimate"]["sentence"]
    elif "class" in summary:
        said = f"{summary['class']} ({100 * summary['confidence']:.1f} %)"
    if summary.get("flagged"):
        said += f"; {_unlike(summary)}"
    if summary.get("scale_known", True):
        return said
    # It may be stated, and doubted: by the red cells, or as features are of an unknown encoder.
    unknown = summary.get("pixel_size_um") is None
    return f"{said}; {'pixel size unknown' if unknown else 'scale in doubt'}"


def _unlike(summary: Mapping[str, Any]) -> str:
    what = "unlike anything the model was trained on"
    said = f"{summary['flagged']} {what}" if "counts" in summary else what
    others = summary.get("none_of_these")
    return f"{said}, {others} of them perhaps none of its classes" if others else said


def write_json(export: Export, path: Path) -> list[Path]:
    """Write the summary of a result, where it came from, and what was looked at, atomically.

    Of a field each crop is listed, of a slide each level of the attention; of
    cells, whose number may be large, see the table.

    Parameters
    ----------
    export : Export
        Cells, frames, a field or a slide.
    path : pathlib.Path
        The file.

    Returns
    -------
    list of pathlib.Path
        The file.
    """
    content = summarise(export.result) | dict(export.facts)
    content["model"] = export.model
    if isinstance(export.result, FieldPrediction):
        content["traversal"] = export.result.traversal.to_dict()
    elif isinstance(export.result, SlidePrediction):
        content["encoder"] = export.card.encoder.name if export.card.encoder else ""
        content["attention"] = export.result.attention.to_dict()
    content["provenance"] = export.provenance
    with replacing(path) as temporary:
        temporary.write_text(json.dumps(content, indent=1), encoding="utf-8")
        export.report(1, 1)
    return [path]


def _of_cells(parts: list[Predictions]) -> dict[str, Any]:
    counts: dict[str, int] = {}
    for part in parts:
        for name, n in part.counts().items():
            counts[name] = counts.get(name, 0) + n
    ledgers, known = [part.ledger for part in parts], all(part.scale_known for part in parts)
    flags = [part.flagged for part in parts]
    unlike = [int(each.sum()) for each in flags if each is not None]
    found: dict[str, Any] = {"cells": sum(map(len, parts)), "counts": counts}
    found["flagged"] = sum(unlike) if len(unlike) == len(flags) else None
    others = [int(part.none_of_these.sum()) for part in parts if part.none_of_these is not None]
    found["none_of_these"] = sum(others) if len(others) == len(parts) else None
    scale = parts[0].cells.scale if parts else None
    if scale is not None:
        # What the red cells say; to be proposed, and never taken for known.
        found["proposed_pixel_size_um"] = round(scale.pixel_size, 4)
    return found | _about(ledgers, known)


def _reading(found: FieldPrediction | SlidePrediction) -> dict[str, Any]:
    reading = found.reading
    return {
        "tiles": 0 if reading is None else reading.n_used,
        "bytes_read": 0 if reading is None else reading.bytes_compressed,
        "unreadable_tiles": 0 if reading is None else reading.n_failed,
        "share_read": 0.0 if reading is None else reading.fraction_read,
    }


def _about(ledgers: list[ReadingLedger], scale_known: bool) -> dict[str, Any]:
    pixels = sum(ledger.crop_pixels for ledger in ledgers)
    return {
        "looked_at": sum(ledger.classified for ledger in ledgers) / pixels if pixels else 0.0,
        "seconds": sum(ledger.seconds for ledger in ledgers),
        "device": ledgers[-1].device,
        "scale_known": scale_known,
        "notes": list(dict.fromkeys(note for ledger in ledgers for note in ledger.notes)),
    }
