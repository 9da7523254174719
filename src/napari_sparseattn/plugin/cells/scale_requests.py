"""The scale of a smear by its red cells: what a worker is asked, and its answer."""

from __future__ import annotations

import dataclasses
from typing import TYPE_CHECKING

from ..core.sources import ImageSettings, PlaneRef, field_of

if TYPE_CHECKING:
    from napari.layers import Image

    from ...images.fields.scale import MeasuredScale

__all__ = ["ScaleRequest", "measure"]


@dataclasses.dataclass(frozen=True, eq=False)
class ScaleRequest:
    """Measure the red cells of the plane of an image that is shown."""

    layer: Image
    plane: PlaneRef
    settings: ImageSettings


def measure(request: ScaleRequest) -> MeasuredScale | None:
    """Measure them; None where there are none."""
    from ...images.fields.scale import measure_scale

    return measure_scale(field_of(request.plane, request.settings))
