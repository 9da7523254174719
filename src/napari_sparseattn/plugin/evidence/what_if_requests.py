"""What-if questions: the region that is drawn, the request, and how it is answered."""

from __future__ import annotations

import dataclasses
import threading
from collections.abc import Mapping
from typing import TYPE_CHECKING, Literal, cast

import numpy as np
import numpy.typing as npt

from ...evidence import CropFrame, PixelSelection, PyramidAttention, Traversal
from ..cells.requests import ClickRequest
from ..core.sources import field_of
from ..slides.requests import SlideAnswer
from ..traversal.requests import FieldRequest
from .requests import EvidenceRequest, image_of

if TYPE_CHECKING:
    from ...inference.field_reruns import FieldRerun
    from ...inference.reruns import CellRerun
    from ...inference.slide_reruns import SlideRerun
    from ...inference.what_if import WhatIf

__all__ = [
    "Question",
    "Region",
    "Rerunner",
    "WhatIfRequest",
    "answer_what_if",
    "crop_middles",
    "patch_middles",
]

Mask = npt.NDArray[np.bool_]
Question = Literal["remove", "keep", "look", "move", "levels"]
#: A region on a field is taken at so many places along its longer side.
_PLACES = 512


@dataclasses.dataclass(frozen=True, eq=False)
class Region:
    """A region that was drawn on an image, frozen for a worker.

    Parameters
    ----------
    outlines : tuple of numpy.ndarray
        Polygons (n, 2), row and column; pixel centres are whole numbers.
    painted : numpy.ndarray or None
        (H, W) bool, what was painted on the image.
    patches : tuple of int
        Patches of a slide that were picked out.
    """

    outlines: tuple[npt.NDArray[np.float64], ...] = ()
    painted: Mask | None = None
    patches: tuple[int, ...] = ()

    @property
    def empty(self) -> bool:
        """Whether nothing was drawn."""
        painted = self.painted is not None and bool(self.painted.any())
        return not (self.outlines or painted or self.patches)

    def at(self, places: npt.NDArray[np.float64]) -> Mask:
        """Return which places (N, 2) lie in it, (N,)."""
        from skimage.measure import points_in_poly

        inside = np.zeros(len(places), dtype=bool)
        for outline in self.outlines:
            inside |= points_in_poly(places, outline)
        if self.painted is not None:
            rows, columns = np.floor(places + 0.5).astype(int).T
            height, width = self.painted.shape
            there = (rows >= 0) & (rows < height) & (columns >= 0) & (columns < width)
            inside[there] |= self.painted[rows[there], columns[there]]
        return inside

    def on_crop(self, frame: CropFrame) -> Mask:
        """Return which pixels of a cell's crop lie in it, (size, size)."""
        grid = np.moveaxis(np.indices((frame.size, frame.size)), 0, -1).reshape(-1, 2)
        return self.at(frame.to_image(grid)).reshape(frame.size, frame.size)

    def on_field(self, shape: tuple[int, int]) -> Mask:
        """Return which places of a grid over a field (H, W) lie in it."""
        step = max(1.0, max(shape) / _PLACES)
        rows, columns = (max(1, round(length / step)) for length in shape)
        scale = np.array(shape) / (rows, columns)
        grid = np.moveaxis(np.indices((rows, columns)), 0, -1).reshape(-1, 2)
        return self.at((grid + 0.5) * scale - 0.5).reshape(rows, columns)

    def on_patches(self, attention: PyramidAttention) -> Mask:
        """Return which patches were picked out, or have their middle in it, (N,)."""
        found = self.at(patch_middles(attention))
        found[list(self.patches)] = True
        return found


def patch_middles(attention: PyramidAttention) -> npt.NDArray[np.float64]:
    """(N, 2) middles of a slide's patches, row and column; pixel centres are whole numbers."""
    corners = np.asarray(attention.origin) + attention.cells * attention.step
    middles: npt.NDArray[np.float64] = corners + attention.side / 2 - 0.5
    return middles


def crop_middles(way: Traversal) -> npt.NDArray[np.float64]:
    """(N, 2) middles of a traversal's crops on its image; pixel centres are whole numbers."""
    boxes = way.on_image(np.asarray(way.boxes, np.float64))
    middles: npt.NDArray[np.float64] = boxes[:, :2] + boxes[:, 2:] / 2 - 0.5
    return middles


class Rerunner:
    """Runs the model again on the image of one answer; prepared once.

    Parameters
    ----------
    source : EvidenceRequest
        The answer and what it is the answer to.
    """

    def __init__(self, source: EvidenceRequest) -> None:
        self.source = source
        self._lock = threading.Lock()
        self._rerun: CellRerun | FieldRerun | SlideRerun | None = None

    def rerun(self) -> CellRerun | FieldRerun | SlideRerun:
        """Return the prepared image and model; made at the first call, in a worker."""
        with self._lock:
            if self._rerun is None:
                self._rerun = self._prepare()
            return self._rerun

    def release(self) -> None:
        """Forget what was prepared: crops and features of a slide fill much memory."""
        with self._lock:
            self._rerun = None

    def _prepare(self) -> CellRerun | FieldRerun | SlideRerun:
        asked, model = self.source.asked, self.source.model
        if isinstance(asked, SlideAnswer):
            from ...inference.slide_reruns import prepare_slide

            assert asked.prediction is not None
            return prepare_slide(asked.prediction, model.bundle, model.device)
        if isinstance(asked, FieldRequest):
            from ...inference.field_reruns import FieldRerun

            return FieldRerun(image_of(asked), model.bundle, asked.locations, model.device)
        return self._prepare_cell(asked)

    def _prepare_cell(self, asked: ClickRequest) -> CellRerun:
        from ...images.fields.crops import cut_crops
        from ...inference.cells import check_plane
        from ...inference.faithfulness import prepare_crop

        evidence = self.source.answer.evidence
        frame = evidence.frame if isinstance(evidence, PixelSelection | Traversal) else None
        if frame is None:
            raise ValueError("The cell's place is not known. Click it again.")
        bundle = self.source.model.with_locations(asked.locations)
        plane = check_plane(field_of(asked.plane, asked.settings), bundle, 0, 0)
        crop = cut_crops(plane, [(frame.row, frame.column)], frame.side, frame.size)[0]
        return prepare_crop(crop, bundle, self.source.model.device).with_frame(frame)


@dataclasses.dataclass(frozen=True, eq=False)
class WhatIfRequest:
    """Ask the model about the same image, changed.

    Parameters
    ----------
    rerunner : Rerunner
        Of the answer that is asked about.
    question : {"remove", "keep", "look", "move", "levels"}
        The change.
    region : Region
        What was drawn.
    fill : str
        What takes the place of what is removed.
    moves : mapping of int to (float, float)
        Crops of the traversal and where their middles shall be: row and
        column in the image, pixel centres at whole numbers.
    levels : tuple of int
        Levels of a slide that are left out.
    """

    rerunner: Rerunner
    question: Question
    region: Region = Region()
    fill: str = "mean"
    moves: Mapping[int, tuple[float, float]] = dataclasses.field(default_factory=dict)
    levels: tuple[int, ...] = ()


def answer_what_if(request: WhatIfRequest) -> WhatIf:
    """Run the model anew, in another thread.

    Raises
    ------
    ValueError
        If the region misses what the model sees, or the question does not fit
        the model; the message says which.
    """
    from ...inference import what_if
    from ...inference.field_reruns import FieldRerun
    from ...inference.slide_reruns import SlideRerun

    region, source = request.region, request.rerunner.source
    rerun, asked, model = request.rerunner.rerun(), source.asked, source.model
    question = cast("what_if.Question", request.question)
    if isinstance(rerun, SlideRerun):
        mask = None if request.question == "levels" else region.on_patches(rerun.seen)
        slide = cast("Literal['remove', 'keep']", request.question)
        return what_if.what_if_slide(
            rerun, model.bundle, mask, slide, request.fill, levels=request.levels
        )
    if isinstance(rerun, FieldRerun):
        if request.question == "move":
            moves = {i: (y + 0.5, x + 0.5) for i, (y, x) in request.moves.items()}
            return what_if.what_if_field(rerun, model.bundle, moves=moves)
        field = region.on_field(rerun.pyramid.shape)
        return what_if.what_if_field(rerun, model.bundle, field, question, request.fill)
    assert isinstance(asked, ClickRequest)
    bundle, frame = model.with_locations(asked.locations), rerun.frame
    if request.question == "move":
        corner = np.array([frame.row, frame.column]) - frame.side / 2
        inside = {i: (np.array(at) - corner) / frame.scale for i, at in request.moves.items()}
        moves = {i: (float(y), float(x)) for i, (y, x) in inside.items()}
        return what_if.what_if_crop(rerun, bundle, None, moves=moves)
    return what_if.what_if_crop(rerun, bundle, region.on_crop(frame), question, request.fill)
