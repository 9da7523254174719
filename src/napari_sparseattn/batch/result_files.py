"""Results as files of plain arrays, which a window reads to show them again."""

from __future__ import annotations

import dataclasses
import json
import zipfile
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from ..card import TargetSpec
from ..evidence import PyramidAttention, Stop, Traversal
from ..evidence.pyramid_attention import AttendedLevel
from ..files import replacing
from ..images.fields.cells import Cells
from ..images.fields.scale import MeasuredScale

if TYPE_CHECKING:
    from ..export.request import Result
    from ..inference.fields import FieldPrediction
    from ..inference.prediction import Estimate, Predictions, ReadingLedger
    from ..inference.slides import SlidePrediction

__all__ = ["read_result", "write_result"]

_CELLS = ("centres", "boxes", "at_border", "ids")
_CROPS = (
    *("level", "rank", "parent", "top", "left", "height", "width", "contribution"),
    *("searched", "candidates", "relative_probability", "chosen"),
)
_LEVEL = ("cells", "attention", "itself", "contribution")

#: Arrays by name; their types are those of the objects they are read back into.
Arrays = dict[str, Any]


def write_result(result: Result, path: Path) -> None:
    """Write a result as NPZ, atomically, without what was looked at of each cell."""
    from ..inference.fields import FieldPrediction
    from ..inference.slides import SlidePrediction

    facts: dict[str, Any]
    if isinstance(result, SlidePrediction):
        facts, arrays = _from_slide(result)
    elif isinstance(result, FieldPrediction):
        facts, arrays = _from_field(result)
    else:
        frames = result if isinstance(result, Mapping) else {0: result}
        facts, arrays = _from_cells(frames)
        facts["kind"] = "frames" if isinstance(result, Mapping) else "cells"
    first = next(iter(result.values())) if isinstance(result, Mapping) else result
    facts |= {"class_names": first.class_names, "model_hash": first.model_hash}
    if not isinstance(first.novelty, np.ndarray):
        facts["novelty"] = first.novelty
    facts |= {"scale_known": first.scale_known, "ledger": dataclasses.asdict(first.ledger)}
    with replacing(path) as temporary, temporary.open("wb") as file:
        np.savez_compressed(file, told=np.array(json.dumps(facts, default=_plain)), **arrays)


def _plain(value: np.generic) -> Any:
    """Return a number of numpy's as Python's, for JSON."""
    return value.item()


def read_result(path: Path) -> Result:
    """Read what `write_result` wrote; nothing is unpickled.

    Raises
    ------
    ValueError
        If the file is not one of these, or damaged.
    OSError
        If it is gone.
    """
    try:
        with np.load(path, allow_pickle=False) as file:
            arrays: Arrays = {name: file[name] for name in file.files}
        facts = json.loads(str(arrays.pop("told")))
        return _MADE[facts["kind"]](facts, arrays)
    except (KeyError, TypeError, ValueError, EOFError, zipfile.BadZipFile) as error:
        raise ValueError(f"{path.name} is damaged ({error}); run the batch once more") from error


def _from_cells(frames: Mapping[int, Predictions]) -> tuple[dict[str, Any], Arrays]:
    arrays: Arrays = {}
    for index, part in frames.items():
        arrays |= {f"{index}/{name}": getattr(part.cells, name) for name in _CELLS}
        if part.cells.scale is not None:
            arrays |= {f"{index}/scale/{k}": v for k, v in vars(part.cells.scale).items()}
        arrays[f"{index}/probabilities"] = part.probabilities
        if part.novelty is not None:
            arrays[f"{index}/novelty"] = part.novelty
        if part.none_of_these is not None:
            arrays[f"{index}/none_of_these"] = part.none_of_these
        arrays |= {f"{index}/measures/{name}": v for name, v in part.measures.items()}
    first = next(iter(frames.values()))
    facts: dict[str, Any] = {"frames": list(frames), "model_name": first.model_name}
    facts["notes"] = {str(index): part.cells.notes for index, part in frames.items()}
    return facts | {"pixel_size": first.cells.pixel_size, "measures": list(first.measures)}, arrays


def _to_cells(facts: dict[str, Any], arrays: Arrays) -> Result:
    from ..inference.prediction import Predictions

    found = {}
    for index in facts["frames"]:
        places = {name: arrays[f"{index}/{name}"] for name in _CELLS}
        found[int(index)] = Predictions(
            Cells(
                **places,
                pixel_size=facts["pixel_size"],
                scale=_to_scale(arrays, f"{index}/scale/"),
                notes=tuple(facts.get("notes", {}).get(str(index), ())),
            ),
            tuple(facts["class_names"]),
            arrays[f"{index}/probabilities"],
            (),
            _ledger(facts),
            facts["model_hash"],
            facts["model_name"],
            facts["scale_known"],
            {name: arrays[f"{index}/measures/{name}"] for name in facts["measures"]},
            arrays.get(f"{index}/novelty"),
            arrays.get(f"{index}/none_of_these"),
        )
    return found if facts["kind"] == "frames" else found[0]


def _to_scale(arrays: Arrays, prefix: str) -> MeasuredScale | None:
    """What the red cells said of the scale; None where they said nothing."""
    if f"{prefix}pixel_size" not in arrays:
        return None
    return MeasuredScale(
        float(arrays[f"{prefix}pixel_size"]),
        arrays[f"{prefix}circles"],
        int(arrays[f"{prefix}free"]),
    )


def _from_field(result: FieldPrediction) -> tuple[dict[str, Any], Arrays]:
    way = result.traversal
    facts: dict[str, Any] = {"kind": "field", "shape": way.shape, "base": way.base}
    facts["stop"] = None if way.stop is None else dataclasses.asdict(way.stop)
    arrays = {name: getattr(way, name) for name in _CROPS}
    return facts, {**arrays, "probabilities": result.probabilities}


def _to_field(facts: dict[str, Any], arrays: Arrays) -> Result:
    from ..inference.fields import FieldPrediction

    stop = facts.get("stop")
    way = Traversal(
        shape=tuple(facts["shape"]),
        base=facts["base"],
        stop=None if stop is None else Stop(**stop),
        **{name: arrays[name] for name in _CROPS},
    )
    return FieldPrediction(evidence=way, **_common(facts, arrays))


def _from_slide(result: SlidePrediction) -> tuple[dict[str, Any], Arrays]:
    seen = result.attention
    arrays: Arrays = {"probabilities": result.probabilities}
    arrays |= {"cells": seen.cells, "constant": seen.constant}
    if result.patch_novelty is not None:
        arrays["patch_novelty"] = result.patch_novelty
    if seen.patch_probabilities is not None:
        arrays["patch_probabilities"] = seen.patch_probabilities
    for i, level in enumerate(seen.levels):
        arrays |= {f"{i}/{name}": getattr(level, name) for name in _LEVEL}
    facts = {"kind": "slide", "origin": seen.origin, "step": seen.step, "side": seen.side}
    facts |= {"padding": seen.padding, "factors": [level.factor for level in seen.levels]}
    facts |= {"segments": result.segments, "names_of_attention": seen.class_names}
    if (estimate := result.estimate) is not None:
        kept = {"target": estimate.target.model_dump(mode="json"), "survival": estimate.survival}
        facts["estimate"] = {**kept, "name": estimate.name, "score": estimate.score}
    return facts, arrays


def _to_slide(facts: dict[str, Any], arrays: Arrays) -> Result:
    from ..inference.slides import SlidePrediction

    levels = tuple(
        AttendedLevel(factor, **{name: arrays[f"{i}/{name}"] for name in _LEVEL})
        for i, factor in enumerate(facts["factors"])
    )
    seen = PyramidAttention(
        origin=tuple(facts["origin"]),
        step=facts["step"],
        side=facts["side"],
        padding=tuple(facts["padding"]),
        cells=arrays["cells"],
        levels=levels,
        class_names=tuple(facts["names_of_attention"]),
        constant=arrays["constant"],
        patch_probabilities=arrays.get("patch_probabilities"),
    )
    return SlidePrediction(
        evidence=seen,
        segments=facts["segments"],
        patch_novelty=arrays.get("patch_novelty"),
        estimate=_to_estimate(facts.get("estimate")),
        **_common(facts, arrays),
    )


def _to_estimate(kept: dict[str, Any] | None) -> Estimate | None:
    """The risk or number of a model that gives one."""
    from ..inference.prediction import Estimate

    if kept is None:
        return None
    target, survival = TargetSpec.model_validate(kept["target"]), tuple(kept["survival"])
    return Estimate(target, kept["name"], kept["score"], survival)


def _common(facts: dict[str, Any], arrays: Arrays) -> dict[str, Any]:
    return {
        "class_names": tuple(facts["class_names"]),
        "probabilities": arrays["probabilities"],
        "ledger": _ledger(facts),
        "model_hash": facts["model_hash"],
        "scale_known": facts["scale_known"],
        "novelty": facts.get("novelty"),
    }


def _ledger(facts: dict[str, Any]) -> ReadingLedger:
    from ..inference.prediction import ReadingLedger

    kept = facts["ledger"]
    return ReadingLedger(**{**kept, "notes": tuple(kept["notes"])})


_MADE = {"cells": _to_cells, "frames": _to_cells, "field": _to_field, "slide": _to_slide}
