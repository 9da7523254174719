"""Which of an image's cells to annotate next, by a model that has learned from those so far."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt
import torch

from ...card import plain_name, readable_name
from ..data.suggest import suggest
from .grown_head import HeadFeatures, class_weights, fit_head, grow, unite_classes

if TYPE_CHECKING:
    from ...bundle import Bundle

__all__ = ["NextCells", "rank_cells"]

#: A lead of less than this share is doubt.
_DOUBT = 0.8


@dataclasses.dataclass(frozen=True, eq=False)
class NextCells:
    """Cells that are worth annotating, the most wanted first.

    Parameters
    ----------
    rows : numpy.ndarray
        (k,) int64, of all cells.
    why : tuple of str
        A sentence for each, without the full stop.
    """

    rows: npt.NDArray[np.int64]
    why: tuple[str, ...]


def rank_cells(
    probabilities: npt.NDArray[np.floating[Any]],
    names: Sequence[str],
    rows: npt.NDArray[np.int64],
    n: int,
    *,
    states: npt.NDArray[np.floating[Any]] | None = None,
    annotated: npt.NDArray[np.int64] | None = None,
    labels: Sequence[str] = (),
    bundle: Bundle | None = None,
) -> NextCells:
    """Rank cells by what their annotation would teach, see `suggest`.

    Where the states of the cells are at hand, cells that are unlike the
    annotated ones come first; and the model's last layer is fitted to the
    annotated ones, beside the states that it keeps, before it is asked what it
    doubts. By the model as it was before, doubt is no better than chance.

    Parameters
    ----------
    probabilities : numpy.ndarray
        (N, C) of all cells, by the model as it is.
    names : sequence of str
        The C classes.
    rows : numpy.ndarray
        (R,) int64, the cells that nobody has annotated.
    n : int
        How many to rank.
    states : numpy.ndarray, optional
        (N, D), what the last layer reads of each cell.
    annotated : numpy.ndarray, optional
        (M,) int64, the cells that are annotated.
    labels : sequence of str
        M names of their classes.
    bundle : Bundle, optional
        The model; without it nothing is fitted.

    Returns
    -------
    NextCells
        At most `n` of the rows.
    """
    known = np.empty(0, np.int64) if annotated is None else annotated
    said, named = np.asarray(probabilities, np.float64)[rows], tuple(names)
    learned = False
    if states is not None:
        states = np.asarray(states, np.float32)
        if len(known) and bundle is not None and _reads(bundle, states):
            said, named = _fitted(bundle, states, rows, known, labels)
            learned = True
    own = None if states is None else states[rows]
    seen = None if states is None or not len(known) else states[known]
    picked = suggest(said, own, n, annotated=seen)
    unlike = _unlike(own, seen, picked)
    who = _who(len(known)) if learned else "the model"
    why = [_say(who, said[i], named, far) for i, far in zip(picked, unlike, strict=True)]
    return NextCells(rows[picked], tuple(why))


def _reads(bundle: Bundle, states: npt.NDArray[np.float32]) -> bool:
    return bool(states.shape[1] == bundle.cell_model().head.in_features)


def _fitted(
    bundle: Bundle,
    states: npt.NDArray[np.float32],
    rows: npt.NDArray[np.int64],
    annotated: npt.NDArray[np.int64],
    labels: Sequence[str],
) -> tuple[npt.NDArray[np.float64], tuple[str, ...]]:
    """Return what a last layer that knows the annotated cells says of the others."""
    plain = [plain_name(name) for name in labels]
    names = unite_classes(bundle.card.class_names, plain)
    truth = np.array([names.index(name) for name in plain])
    model, n_old = bundle.cell_model(), len(bundle.card.class_names)
    head = grow(model, len(names)).head.cpu()
    seen = torch.from_numpy(states[annotated])[None]
    none = HeadFeatures(seen[:, :0], torch.zeros(1, 0, n_old))
    kept = None
    if bundle.known is not None:
        own = ~bundle.known.held
        kept = (
            torch.from_numpy(bundle.known.states[own]),
            torch.from_numpy(bundle.known.labels[own]),
        )
    features = HeadFeatures(seen, torch.zeros(1, len(annotated), n_old))
    weights = class_weights(truth, len(names))
    fit_head(head, (features, torch.from_numpy(truth)), none, weights, 1.0, kept)
    with torch.no_grad():
        said = head(torch.from_numpy(states[rows])).softmax(1).numpy().astype(np.float64)
    return said, names


def _unlike(
    own: npt.NDArray[np.float32] | None,
    seen: npt.NDArray[np.float32] | None,
    picked: npt.NDArray[np.int64],
) -> list[bool]:
    """Whether each of those picked is farther from the annotated than half of the others."""
    if own is None or seen is None or not len(picked):
        return [False] * len(picked)
    from scipy.spatial import cKDTree

    scale = np.maximum(own.std(axis=0), 1e-9)
    distance, _ = cKDTree(seen / scale).query(own / scale)
    usual = float(np.median(distance))
    return [bool(distance[i] > usual) for i in picked]


def _who(annotated: int) -> str:
    return f"the model, having learned from your {annotated} cell{'s' * (annotated != 1)},"


def _say(who: str, shares: npt.NDArray[np.float64], names: Sequence[str], far: bool) -> str:
    order = np.argsort(-shares, kind="stable")[:2]
    first, *second = [f"{readable_name(names[i])} {100 * shares[i]:.0f} %" for i in order]
    lead = shares[order[0]] - (shares[order[1]] if len(order) > 1 else 0)
    doubts = bool(second) and lead < _DOUBT
    said = f"{who} wavers between {first} and {second[0]}" if doubts else f"{who} says {first}"
    return f"{said}, and it is unlike the cells that have a class" if far else said
