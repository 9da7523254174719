"""How CLAM, TRIDENT and STAMP lay out features and coordinates.

CLAM (mahmoodlab/CLAM, `extract_features_fp.py`): ``features`` and ``coords`` in
level-0 pixels, mostly without attributes; the coordinates' own file has
``patch_size``, ``patch_level``, ``downsample`` and ``level_dim``.

TRIDENT (mahmoodlab/TRIDENT, `IO.py`): the same datasets, with ``patch_size``,
``patch_size_level0``, ``level0_magnification``, ``target_magnification``,
``overlap`` and, in newer files, ``level0_width`` and ``level0_height`` at
``coords``.

STAMP (KatherLab/STAMP, `preprocessing`): ``feats`` and ``coords`` in µm, with
``tile_size_um`` (version 2.1; ``tile_size`` and ``unit`` before),
``tile_size_px`` and ``extractor`` at the file. Files before version 2 have
coordinates in pixels of which 224 are 256 µm. It reads blocks of tiles that
begin at whole pixels, so that coordinates drift from multiples of the tile.

SPAN's authors: ``feats`` and ``cords``, pixels of the level that was read, of which
a patch has 224; the file says neither which level nor how large a pixel is.
"""

from __future__ import annotations

import dataclasses
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import numpy.typing as npt

from ..images.holograms._hdf5 import contents, member, number, text
from ..images.slides.grid_audit import (
    AuditedGrid,
    GridError,
    audit_grid,
    count_grids,
    fit_step,
    infer_step,
)
from .feature_set import FeatureError, FeatureSet, H5Rows

if TYPE_CHECKING:
    import h5py

__all__ = ["Layout", "import_features", "layout_of"]

_OLD_STAMP_PX, _OLD_STAMP_UM = 224, 256.0
_SPAN_PX = 224.0
# A magnification of 10 is about 1 µm per pixel, as scanners have it.
_UM_AT_10X = 1.0
# Of patches that are off CLAM's first grid, how many must lie on grids of their own with others.
_SHARE_ON_GRIDS = 0.75


@dataclasses.dataclass(frozen=True)
class Layout:
    """What a file of another tool states.

    Parameters
    ----------
    tool : str
        For messages.
    features : str
        Name of the dataset.
    unit : {"px", "um"}
        Of the coordinates.
    side : float or None
        Along a patch, in that unit.
    pixel_size : float or None
        µm per pixel that the encoder saw.
    encoder : str
        Its name.
    extent : (float, float) or None
        Height and width of the slide in that unit.
    reduction : float
        Level-0 pixels per pixel of the level that patches were read from.
    coords : str
        Name of the coordinates' dataset.
    slide_pixel_size : float or None
        µm per level-0 pixel, as far as the file tells.
    """

    tool: str
    features: str = "features"
    unit: str = "px"
    side: float | None = None
    pixel_size: float | None = None
    encoder: str = ""
    extent: tuple[float, float] | None = None
    reduction: float = 1.0
    coords: str = "coords"
    slide_pixel_size: float | None = None

    @property
    def patch_um(self) -> float | None:
        """Side of a patch in µm, where the file tells."""
        if self.side is None or self.unit == "um":
            return self.side
        return None if self.slide_pixel_size is None else self.side * self.slide_pixel_size


def layout_of(path: Path, file: h5py.File) -> Layout:
    """Tell which tool made a file, from the names in it.

    Raises
    ------
    FeatureError
        If it is none of them.
    ImageError
        If a link leads out of the file.
    """
    import h5py

    both = all(isinstance(member(file, name), h5py.Dataset) for name in ("feats", "cords"))
    if both and not isinstance(member(file, "coords"), h5py.Dataset):
        return Layout("SPAN's authors", "feats", side=_SPAN_PX, coords="cords")
    if not isinstance(member(file, "coords"), h5py.Dataset):
        raise FeatureError(
            f"{path.name} holds {contents(file)}, but no 'coords': it has no places of patches. "
            "Give a file of features with coordinates, as CLAM, TRIDENT and STAMP write"
        )
    if isinstance(member(file, "feats"), h5py.Dataset):
        return _stamp(file)
    if not isinstance(member(file, "features"), h5py.Dataset):
        raise FeatureError(
            f"{path.name} holds {contents(file)}, but no 'features' or 'feats': it has coordinates "
            "only. Give the file that the feature extraction wrote"
        )
    attributes = file["coords"].attrs
    side = number(attributes, "patch_size_level0")
    if side is not None:
        width, height = number(attributes, "level0_width"), number(attributes, "level0_height")
        extent = (height, width) if height and width else None
        encoder = text(file["features"].attrs, "encoder") or text(attributes, "encoder")
        magnification = number(attributes, "level0_magnification")
        size = None if not magnification else 10 * _UM_AT_10X / magnification
        return Layout("TRIDENT", side=side, encoder=encoder, extent=extent, slide_pixel_size=size)
    size = number(attributes, "patch_size")
    level, reduction = number(attributes, "patch_level"), _first(attributes, "downsample")
    if reduction is None and level == 0:
        reduction = 1.0
    side = size * reduction if size and reduction else None
    return Layout("CLAM", side=side, reduction=reduction or 1.0)


def _stamp(file: h5py.File) -> Layout:
    attributes = file.attrs
    encoder = text(attributes, "extractor")
    side = number(attributes, "tile_size_um")
    if side is None and text(attributes, "unit") == "um":
        side = number(attributes, "tile_size")
    if side is None:
        return Layout("STAMP (before version 2)", "feats", unit="um", encoder=encoder)
    pixels = number(attributes, "tile_size_px")
    pixel_size = side / pixels if pixels else None
    return Layout("STAMP", "feats", unit="um", side=side, pixel_size=pixel_size, encoder=encoder)


def _first(attributes: h5py.AttributeManager, key: str) -> float | None:
    """Return the first of two numbers among attributes, or None."""
    if key not in attributes:
        return None
    declared = attributes.get_id(key)
    if declared.shape != (2,) or declared.dtype.kind not in "iuf":
        return number(attributes, key)
    value = float(attributes[key][0])
    return value if np.isfinite(value) else None


def import_features(
    path: Path,
    layout: Layout,
    coords: npt.NDArray[np.float64],
    size: tuple[int, int, int],
    *,
    snap: bool,
    step: float | None,
) -> FeatureSet:
    """Return features with places that passed the audit.

    Parameters
    ----------
    path : pathlib.Path
        The file.
    layout : Layout
        What it states.
    coords : numpy.ndarray, (N, 2)
        (x, y).
    size : (int, int, int)
        N, F, and rows to read at a time.
    snap, step : see `read_features`

    Raises
    ------
    GridError
        As `audit_grid`.
    FeatureError
        If the file states neither step nor side, and one patch shows none.
    """
    n, width, block = size
    tolerance, side, notes = None, layout.side, [f"features and places from {layout.tool}"]
    if step is None and _is_of_level(coords, layout):
        coords = coords * layout.reduction
        notes.append(
            f"its coordinates are those of a level {layout.reduction:g} times smaller, not of "
            "level 0 as CLAM's are: they were scaled"
        )
    if layout.unit == "um":
        if side is None:
            coords, side = _old_stamp(path, coords), _OLD_STAMP_UM
        step = fit_step(coords, side) if step is None else step
        # Tiles keep to whole pixels of blocks: by a few µm off, out of hundreds.
        tolerance = side / 16
    elif step is None:
        step = _step(path, coords, side)
    try:
        audited = audit_grid(coords, step, extent=layout.extent, snap=snap, tolerance=tolerance)
    except GridError as error:
        explained = _on_own_grids(coords, step, error, layout)
        if explained is None:
            raise GridError(f"{path.name}: {error}", error.rows) from error
        audited = explained
    if layout.tool == "CLAM" and len(audited.moved):
        notes.append(
            f"CLAM begins a grid of its own in each piece of tissue, here {_n_grids(coords, step)} "
            "of them: all were put onto one, each patch moved by at most half a step"
        )
    kept = None if len(audited.kept) == n else audited.kept
    return FeatureSet(
        H5Rows(path, layout.features, (len(audited.cells), width), n, kept, block),
        audited.cells,
        audited.step,
        side or audited.step,
        audited.origin,
        layout.pixel_size,
        layout.encoder,
        encoder_hash="",
        slide_hash="",
        path=path,
        failed=np.zeros(len(audited.cells), np.bool_),
        unit=layout.unit,
        notes=(*notes, *filter(None, [audited.report])),
        patch_um=layout.patch_um if layout.unit == "px" else side or audited.step,
    )


def _on_own_grids(
    coords: npt.NDArray[np.float64], step: float, error: GridError, layout: Layout
) -> AuditedGrid | None:
    """Return the one grid of patches that CLAM put on a grid in each contour, or None."""
    if layout.tool != "CLAM" or len(error.rows) < 2:
        return None
    off = coords[error.rows]
    # A patch twice in one grid is damage, and no other grid explains it.
    if len(np.unique(coords, axis=0)) < len(coords) or not np.isfinite(coords).all():
        return None
    grids, share = count_grids(off, step)
    if share < _SHARE_ON_GRIDS or grids > len(off) / 2:
        return None
    return audit_grid(coords, step, extent=layout.extent, snap=True)


def _n_grids(coords: npt.NDArray[np.float64], step: float) -> int:
    return count_grids(coords, step)[0]


def _is_of_level(coords: npt.NDArray[np.float64], layout: Layout) -> bool:
    """Tell whether places are in pixels of the level that was read, though stated in level 0's."""
    if layout.side is None or layout.unit != "px" or layout.reduction < 1.5:
        return False
    try:
        shown = infer_step(coords)
    except GridError:
        return False
    # Side by side at that level; nobody overlaps patches by just that much.
    return abs(shown * layout.reduction - layout.side) < 0.01 * layout.side


def _step(path: Path, coords: npt.NDArray[np.float64], side: float | None) -> float:
    """Return the step that the coordinates show, or the side where they show none."""
    try:
        shown = infer_step(coords)
    except GridError as error:
        if side is None:
            raise FeatureError(f"{path.name}: {error}") from error
        return side
    if side is None:
        return shown
    # Where patches are far apart, neighbours lie several steps from each other.
    several = round(shown / side)
    return shown / several if several > 1 and abs(shown - several * side) < 0.01 * shown else shown


def _old_stamp(path: Path, coords: npt.NDArray[np.float64]) -> npt.NDArray[np.float64]:
    if round(infer_step(coords)) != _OLD_STAMP_PX:
        raise FeatureError(
            f"{path.name} does not state the size of its tiles, and its coordinates are not "
            f"{_OLD_STAMP_PX} apart as those of old STAMP files; make it again with a newer STAMP"
        )
    return coords * (_OLD_STAMP_UM / _OLD_STAMP_PX)
