"""Results of a batch shown on the image they are of, as if they had been made in the window."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from ...evidence import PyramidAttention, Traversal
from ...inference.prediction import Predictions

if TYPE_CHECKING:
    from napari.layers import Layer

    from ...export.request import Result
    from ..core.session import Session

__all__ = ["show_result"]


def show_result(session: Session, layer: Layer, result: Result, colours: tuple[str, ...]) -> str:
    """Put the overlays of a result on its image.

    Parameters
    ----------
    session : Session
        Holds the overlays of the viewer.
    layer : napari.layers.Image
        The image.
    result : Predictions, FieldPrediction, SlidePrediction, or mapping of int to Predictions
        What was found in it. Of several frames, those of the first with cells
        are shown.
    colours : tuple of str
        One per class.

    Returns
    -------
    str
        What should be known of what is shown.
    """
    image: Any = layer
    index = (0,) * (image.ndim - 2)
    if isinstance(result, Predictions):
        session.overlays.show_cells(image, index, result, colours, session.choice)
        return ""
    if isinstance(result, Mapping):
        frame, found = _first_with_cells(result)
        index = (*index[:-1], frame) if index else ()
        session.overlays.show_cells(image, index, found, colours, session.choice)
        viewer = session.viewer
        if viewer is not None and index:
            viewer.dims.set_point(viewer.dims.ndim - 3, frame)
        return f"The cells of frame {frame + 1} of {len(result)} are marked."
    if isinstance(result.evidence, PyramidAttention):
        session.maps.show_attention(image, index, result.evidence, session.pyramid_choice)
        return ""
    if isinstance(result.evidence, Traversal):
        session.overlays.show_prediction(image, index, result, colours, session.choice)
    return ""


def _first_with_cells(frames: Mapping[int, Predictions]) -> tuple[int, Predictions]:
    filled = [(index, found) for index, found in frames.items() if len(found)]
    return filled[0] if filled else next(iter(frames.items()))
