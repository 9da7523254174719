"""From a recording to classified cells, frame by frame."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING

import numpy as np
import numpy.typing as npt

from ..images.fields.cells import Method, find_cells
from ..images.fields.field import Field
from ..images.holograms.holography import (
    Device,
    HologramSettings,
    Retrieved,
    estimate_settings,
    iter_phase,
)
from ..reprs import short_repr
from .prediction import Predictions

if TYPE_CHECKING:
    from ..bundle import Bundle
    from ..images.holograms.recording import Recording

__all__ = ["FrameResult", "central_scores", "iter_recording"]


@dataclasses.dataclass(frozen=True, eq=False)
class FrameResult:
    """One frame of a recording, reconstructed and classified.

    Attributes
    ----------
    index : int
        Which frame.
    field : Field
        (H, W) float32: OPD in nm, or phase in rad without a wavelength.
    retrieved : Retrieved
        Amplitude, background pixels, focus.
    predictions : Predictions or None
        The frame's cells with class, evidence and measures; None without a
        model.
    """

    __repr__ = short_repr

    index: int
    field: Field
    retrieved: Retrieved
    predictions: Predictions | None


def iter_recording(
    recording: Recording,
    settings: HologramSettings | None = None,
    bundle: Bundle | None = None,
    *,
    method: Method = "auto",
    device: str = "auto",
    retrieval: Device = "cpu",
    evidence: bool = False,
) -> Iterator[FrameResult]:
    """Reconstruct each frame and classify its cells; one is in memory at a time.

    Parameters
    ----------
    recording : Recording
        From `open_hologram`.
    settings : HologramSettings, optional
        Settled on the first frame.
    bundle : Bundle, optional
        A model of OPD; without one frames are only reconstructed.
    method : str
        How to find cells; see `find_cells`.
    device : str
        Where the model computes; see `choose_device`.
    retrieval : {"cpu", "gpu"}
        Where holograms become fields; see `retrieve`.
    evidence : bool
        Keep what was looked at.

    Yields
    ------
    FrameResult

    Raises
    ------
    HologramError
        As in `estimate_settings`.
    ValueError
        If the model does not take such images, e.g. as the wavelength is
        unknown.
    """
    from .cells import classify_cells

    settled = estimate_settings(recording, settings)
    for index, done in enumerate(iter_phase(recording, settled, device=retrieval)):
        field = _field(done, recording, settled)
        predictions = None
        if bundle is not None:
            cells = find_cells(field, method)
            predictions = classify_cells(field, cells, bundle, device, evidence=evidence)
        yield FrameResult(index, field, done, predictions)


def central_scores(
    results: Sequence[Predictions], shape: tuple[int, int]
) -> dict[str, npt.NDArray[np.float64]]:
    """Probability of each class for the cell nearest to each frame's middle.

    Deformability cytometry cuts each frame around one cell, the event.

    Parameters
    ----------
    results : sequence of Predictions
        One per frame, of one model.
    shape : (int, int)
        Height and width of a frame.

    Returns
    -------
    dict of numpy.ndarray, shape (n,), float64
        By class name; NaN where no cell was found.
    """
    if not results:
        return {}
    names = results[0].class_names
    scores = np.full((len(results), len(names)), np.nan)
    middle = (np.asarray(shape) - 1) / 2
    for i, found in enumerate(results):
        if len(found):
            nearest = int(np.hypot(*(found.cells.centres - middle).T).argmin())
            scores[i] = found.probabilities[nearest]
    return {name: scores[:, n] for n, name in enumerate(names)}


def _field(done: Retrieved, recording: Recording, settings: HologramSettings) -> Field:
    if done.opd is None:
        return Field(done.phase, "YX", settings.pixel_size, "phase", "rad", recording.name)
    return Field(done.opd, "YX", settings.pixel_size, "opd", "nm", recording.name, recording.path)
