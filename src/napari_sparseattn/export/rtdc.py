"""Predictions written back into a copy of an .rtdc file, for dclab and Shape-Out."""

from __future__ import annotations

import datetime as dt
import importlib.metadata
import json
import os
import re
import shutil
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from ..card import plain_name
from ..files import replacing, writing_hdf5
from ..images.errors import ImageError
from ..images.holograms import _hdf5 as h5
from ..images.holograms.rtdc import feature_lengths

__all__ = ["LOG", "check_scorable", "score_names", "write_scores"]

LOG = "napari-sparseattn"
_PREFIX = "ml_score_"
_LETTERS = "0123456789abcdefghijklmnopqrstuvwxyz"
_ROUNDING = 1e-5


def score_names(class_names: Iterable[str]) -> tuple[str, ...]:
    """Return the dclab feature that holds each class's score.

    dclab wants ``ml_score_`` and three of a to z and 0 to 9. Those are the
    first three of the class name in lower case, filled up with 0; where an
    earlier class has them already, the last or the last two are counted up.
    The same classes in the same order always give the same names.

    Raises
    ------
    ValueError
        If there are no classes, or one is named twice.
    """
    classes = list(class_names)
    if not classes or len(set(classes)) != len(classes):
        raise ValueError(f"the classes must be different, and at least one: got {classes}")
    taken: list[str] = []
    for name in classes:
        start = (re.sub("[^a-z0-9]", "", plain_name(name).lower()) + "000")[:3]
        tries = [start, *(start[:2] + c for c in _LETTERS)]
        tries += [start[0] + a + b for a in _LETTERS for b in _LETTERS]
        free = next((code for code in tries if code not in taken), None)
        if free is None:
            raise ValueError(f"too many classes begin with {start[0]!r} for three-letter names")
        taken.append(free)
    return tuple(_PREFIX + code for code in taken)


def check_scorable(source: str | os.PathLike[str]) -> None:
    """Refuse a file to which no scores can be added, before they are worked out.

    Raises
    ------
    ImageError
        If it is no sound .rtdc file: the message says what is wrong with it.
    """
    _look(Path(source), set())


def write_scores(
    source: str | os.PathLike[str],
    out: str | os.PathLike[str],
    scores: Mapping[str, npt.ArrayLike],
    *,
    model: str,
    overwrite: bool = False,
) -> None:
    """Write a copy of an .rtdc file that has a score per event and class.

    The copy is the source, to which ``events/ml_score_xxx`` (see
    `score_names`) and a log ``napari-sparseattn`` are added: JSON over several
    lines, with model, time, version, and which feature is which class. It is
    written whole or not at all; the source is only read.

    dclab computes ``ml_class`` as the position of the highest score among
    *all* ``ml_score_`` features in alphabetical order, so scores of another
    classifier that are in the source take part. Events whose scores are all
    NaN, or 0, get ``ml_class`` -1: give NaN for events without a cell.

    Parameters
    ----------
    source : path-like
        An .rtdc file with N events.
    out : path-like
        Where to write.
    scores : mapping
        (N,) scores from 0 to 1, or NaN, by class name.
    model : str
        What gave the scores: name and hash of the weights.
    overwrite : bool, optional
        Replace `out` if it is there, and in the copy scores of the same name
        and a stored ``ml_class``.

    Raises
    ------
    FileExistsError
        If `out` is there and `overwrite` is not set.
    ImageError
        If the source is no sound .rtdc file.
    ValueError
        If `out` is the source, scores are not of its events or not within 0
        to 1, or the source has such scores and `overwrite` is not set.
    OSError
        If the copy cannot be written; nothing is then left behind.
    """
    source, out = Path(source), Path(out)
    _check_paths(source, out, overwrite)
    features = dict(zip(scores, score_names(scores), strict=True))
    n, stale = _look(source, {"ml_class", *features.values()})
    if stale and not overwrite:
        raise ValueError(
            f"{source.name} already has {', '.join(sorted(stale))}; allow overwriting to replace "
            "them in the copy, or start from a file without them"
        )
    columns = {features[name]: _column(name, values, n) for name, values in scores.items()}
    with replacing(out) as temporary:
        shutil.copyfile(source, temporary)
        _add(temporary, columns, _log(model, source, features))


def _check_paths(source: Path, out: Path, overwrite: bool) -> None:
    if not source.is_file():
        raise FileNotFoundError(f"there is no file {source}")
    if out.exists():
        if out.samefile(source):
            raise ValueError(f"{out.name} is the measurement itself; write to another file")
        if not overwrite:
            raise FileExistsError(f"{out} exists; choose another name, or allow overwriting")


def _look(path: Path, ours: set[str]) -> tuple[int, set[str]]:
    """Return the number of events, and which of our features are there already."""
    with h5.reading(path) as file:
        lengths = feature_lengths(file, path)
        declared = h5.number(file.attrs, "experiment:event count")
        stale = ours & set(file["events"])
    counts = {length for name, length in lengths.items() if name not in stale}
    if declared is not None:
        counts.add(int(declared))
    if len(counts) != 1:
        raise ImageError(
            f"{path.name} has features of {' and '.join(map(str, sorted(counts)))} events: the "
            "recording was cut short, so it is not clear which events the scores belong to"
        )
    return counts.pop(), stale


def _column(name: str, values: npt.ArrayLike, n: int) -> npt.NDArray[np.float64]:
    column = np.asarray(values, dtype=np.float64)
    if column.shape != (n,):
        raise ValueError(f"scores of {name} have the shape {column.shape}; there are {n} events")
    known = column[~np.isnan(column)]
    if known.size and not (known.min() >= -_ROUNDING and known.max() <= 1 + _ROUNDING):
        raise ValueError(
            f"scores of {name} run from {known.min():g} to {known.max():g}; they must be 0 to 1"
        )
    return column.clip(0, 1)


def _log(model: str, source: Path, features: Mapping[str, str]) -> list[str]:
    record = {
        "software": f"napari-sparseattn {importlib.metadata.version('napari-sparseattn')}",
        "model": model,
        "source": source.name,
        "time": dt.datetime.now(dt.UTC).isoformat(timespec="seconds"),
        "classes": {feature: name for name, feature in features.items()},
    }
    return json.dumps(record, indent=1).splitlines()


def _add(path: Path, columns: Mapping[str, npt.NDArray[np.float64]], log: list[str]) -> None:
    import h5py

    try:
        with writing_hdf5(path, "r+") as (file, _):
            # Chunked, checked and compressed as dclab's own writer does.
            options: dict[str, Any] = {"fletcher32": True, **h5.zstd()}
            events = file["events"]
            if "ml_class" in events:
                del events["ml_class"]
            for feature, column in columns.items():
                if feature in events:
                    del events[feature]
                events.create_dataset(feature, data=column, maxshape=(None,), **options)
            logs = h5.child(file, "logs")
            if not isinstance(logs, h5py.Group):
                logs = file.create_group("logs")
            names = (LOG, *(f"{LOG}-{i}" for i in range(2, len(logs) + 3)))
            name = next(name for name in names if name not in logs)
            # Of fixed length, as dclab has them: filters do nothing for others.
            width = max(100, *(len(line) for line in log))
            lines = np.array([line.encode("ascii") for line in log], dtype=f"S{width}")
            logs.create_dataset(name, data=lines, maxshape=(None,), **options)
    except (RuntimeError, KeyError, ValueError, TypeError) as error:
        raise ImageError(f"scores cannot be added to a copy of this file ({error})") from error
