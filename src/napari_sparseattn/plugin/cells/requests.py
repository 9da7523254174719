"""What a worker is asked, and how it is answered: frozen, without napari's state."""

from __future__ import annotations

import dataclasses
import functools
from collections.abc import Hashable, Iterator
from typing import TYPE_CHECKING

import numpy as np

from ...evidence import Traversal
from ...images.slides.pyramid import ArrayPyramid
from ..core.preferences import preferences
from ..core.sources import CellSource, ImageSettings, PlaneRef, cells_of, field_of
from ..traversal.requests import Thumbnails, thumbnails_of

if TYPE_CHECKING:
    from napari.layers import Image

    from ...bundle import Bundle
    from ...images.fields.cells import Cells
    from ...inference.prediction import Prediction, Predictions

__all__ = [
    "CellsFound",
    "ClickAnswer",
    "ClickRequest",
    "Model",
    "RunRequest",
    "answer_click",
    "prepare_model",
    "stream_run",
]


@dataclasses.dataclass(frozen=True, eq=False)
class Model:
    """A bundle that has computed once on its device.

    Parameters
    ----------
    bundle : Bundle
        The loaded model.
    device : str
        Where it computes, e.g. ``"cpu"``.
    description : str
        The device in words.
    devices : tuple of str
        All devices there are, best first.
    precision : str
        In which cells and fields are computed, see `inference.device.computing`.
    """

    bundle: Bundle
    device: str
    description: str
    devices: tuple[str, ...]
    precision: str = "float32"

    def with_locations(self, locations: tuple[int, ...] | None) -> Bundle:
        """Return the bundle with a TNet's locations per level changed; None as trained."""
        return self.bundle if locations is None else self._dialled(locations)

    @functools.cached_property
    def _dialled(self) -> functools._lru_cache_wrapper[Bundle]:
        # No weight depends on the locations. A few are kept, for a dial that is
        # turned back and forth.
        return functools.lru_cache(maxsize=8)(functools.partial(_with_locations, self.bundle))


@dataclasses.dataclass(frozen=True, eq=False)
class _Request:
    generation: int
    layer: Image
    plane: PlaneRef
    settings: ImageSettings
    model: Model
    source: CellSource
    cells: Cells | None
    cells_key: Hashable
    locations: tuple[int, ...] | None


@dataclasses.dataclass(frozen=True, eq=False)
class ClickRequest(_Request):
    """Classify the cell at a position.

    Parameters
    ----------
    position : (float, float)
        Row and column in image pixels.
    """

    position: tuple[float, float] = (0.0, 0.0)


@dataclasses.dataclass(frozen=True, eq=False)
class RunRequest(_Request):
    """Classify all cells of a plane."""


@dataclasses.dataclass(frozen=True, eq=False)
class ClickAnswer:
    """The cell at the position and its class; None for both where there is no cell.

    `thumbnails` are pictures of the crops that a TNet looked at.
    """

    request: ClickRequest
    cells: Cells
    index: int | None
    prediction: Prediction | None
    thumbnails: Thumbnails = ()


@dataclasses.dataclass(frozen=True, eq=False)
class CellsFound:
    """The first thing a run gives: the cells, before any is classified."""

    cells: Cells


def answer_click(request: ClickRequest) -> ClickAnswer:
    """Find the cell at the position and classify it.

    Raises
    ------
    ValueError
        If image, cells and model do not fit; the message says how.
    """
    from ...device import computing
    from ...inference.cells import classify_cells

    field = field_of(request.plane, request.settings)
    cells = request.cells if request.cells is not None else cells_of(field, request.source)
    index = cells.nearest(request.position)
    if index is None:
        return ClickAnswer(request, cells, None, None)
    model = request.model
    bundle = model.with_locations(request.locations)
    with computing(model.device, model.precision):
        one = classify_cells(field, cells, bundle, model.device, only=[index])[0]
    pictures: Thumbnails = ()
    if isinstance(one.evidence, Traversal):
        pictures = thumbnails_of(ArrayPyramid(field.plane(0, 0)), one.evidence)
    return ClickAnswer(request, cells, index, one, pictures)


def stream_run(request: RunRequest) -> Iterator[CellsFound | Predictions]:
    """Find the cells, then classify them batch by batch.

    Yields
    ------
    CellsFound, then Predictions
        Closing the iterator stops the work.
    """
    from ...device import computing
    from ...inference.cells import iter_cells

    field = field_of(request.plane, request.settings)
    cells = request.cells if request.cells is not None else cells_of(field, request.source)
    yield CellsFound(cells)
    if len(cells):
        model = request.model
        bundle = model.with_locations(request.locations)
        parts = iter_cells(field, cells, bundle, model.device)
        while True:
            # Entered anew for each part: torch keeps it per thread, and whoever
            # drops this iterator may do so in another.
            with computing(model.device, model.precision):
                part = next(parts, None)
            if part is None:
                return
            yield part


def _with_locations(bundle: Bundle, locations: tuple[int, ...]) -> Bundle:
    architecture = {**bundle.card.architecture, "locations": locations}
    card = bundle.card.model_copy(update={"architecture": architecture})
    return dataclasses.replace(bundle, card=card)


def prepare_model(name_or_path: str, device: str) -> Model:
    """Load a model and let it compute once, so that the first click is quick.

    The name may be an address in a repository. Precision, and the cache that
    models are fetched into, are those of the user's preferences.

    Raises
    ------
    BundleError, FileNotFoundError
        If there is no such model or it is damaged.
    ValueError
        If there is no such device.
    """
    from ...bundle import load_bundle
    from ...device import available_devices, choose_device, computing, describe_device
    from ...hub import fetch_model, is_hub_address
    from ...images.fields.cells import cells_from_points
    from ...images.fields.field import Field
    from ...inference.cells import classify_cells

    wanted = preferences()
    if is_hub_address(name_or_path):
        bundle = load_bundle(fetch_model(name_or_path, wanted.cache))
    else:
        bundle = load_bundle(name_or_path)
    chosen = choose_device(device)
    description, precision = describe_device(chosen), wanted.precision
    if precision != "float32":
        description += f", {precision}"
    model = Model(bundle, chosen, description, tuple(available_devices()), precision)
    if bundle.card.takes_slides:
        # A slide takes longer than the first computation is slower by.
        bundle.model(chosen)
        return model
    channels, spec = len(bundle.card.channels), bundle.card.crop
    blank = np.zeros((spec.size, spec.size, channels), dtype=np.float32)
    field = Field(blank, "YXC", spec.pixel_size, bundle.card.modality)
    cells = cells_from_points([(0, 0)], field.shape, diameter=1, pixel_size=spec.pixel_size)
    with computing(chosen, precision):
        for _ in range(2):
            classify_cells(field, cells, bundle, chosen)
    return model
