"""Maps of what a model looked at as Parametric Maps of a DICOM slide."""

from __future__ import annotations

import json
import math
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import numpy.typing as npt

from ..files import replacing_folder
from .dicom_slide import describe_instance, own_code, read_slide
from .heat_maps import HeatMaps, heat_maps
from .request import Export

if TYPE_CHECKING:
    from highdicom import PlanePositionSequence
    from highdicom.pm import ParametricMap
    from pydicom import Dataset
    from pydicom.sr.coding import Code

__all__ = ["write_dicom_maps"]

_TILE = 512
_GEOMETRY = ("ImageOrientationSlide", "TotalPixelMatrixOriginSequence")


def write_dicom_maps(export: Export, path: Path) -> list[Path]:
    """Write a folder with one DICOM file per map, one series; put in place whole.

    Values are float32 as in OME-Zarr; where a map says nothing it holds its
    Float Pixel Padding Value, which is less than all values. The maps lie in
    the slide's frame of reference: positions and spacing are made from the
    slide's own, so that its pixel size counts, whatever the user gave.

    Parameters
    ----------
    export : Export
        A field or a slide, of an image that is a DICOM slide.
    path : pathlib.Path
        The folder.

    Returns
    -------
    list of pathlib.Path
        The folder.

    Raises
    ------
    ValueError
        If the image is no DICOM slide that can be referred to.
    """
    slide = read_slide(export, *_GEOMETRY)
    maps = heat_maps(export)
    names = describe_instance(export)
    with replacing_folder(path) as temporary:
        temporary.mkdir()
        for n, values in enumerate(maps.read(0, maps.shape[0])):
            made = _make_map(slide, export, maps, n, values, names["series_instance_uid"])
            made.save_as(temporary / f"{n + 1}.dcm")
            export.report(n + 1, len(maps.names))
    return [path]


def _make_map(
    slide: Dataset,
    export: Export,
    maps: HeatMaps,
    n: int,
    values: npt.NDArray[np.float32],
    series: str,
) -> ParametricMap:
    """Return one map (rows, columns), NaN where it says nothing, as an image of the series."""
    from highdicom import PixelMeasuresSequence, PlaneOrientationSequence, VOILUTTransformation
    from highdicom.pm import ParametricMap, RealWorldValueMapping
    from pydicom.sr.codedict import codes

    known = np.isfinite(values)
    low, high = (float(f(values[known])) if known.any() else 0.0 for f in (np.min, np.max))
    padding = float(min(math.floor(low) - 1, -1))
    name = maps.names[n]
    spacing = [side * maps.scale for side in _spacing(slide)]
    meaning = next((code for start, code in _quantities() if name.startswith(start)), None)
    made = ParametricMap(
        source_images=[slide],
        pixel_array=np.where(known, values, np.float32(padding)),
        contains_recognizable_visual_features=False,
        real_world_value_mappings=[
            RealWorldValueMapping(
                lut_label=f"map {n + 1}",
                lut_explanation=name[:64],
                unit=codes.UCUM.NoUnits,
                # Readers refuse values outside of it; beyond the map's edge tiles hold 0.
                value_range=(padding, max(high, 0.0)),
                quantity_definition=meaning or own_code(name),
            )
        ],
        voi_lut_transformations=[
            VOILUTTransformation(window_center=(low + high) / 2, window_width=high - low or 1.0)
        ],
        pixel_measures=PixelMeasuresSequence(spacing, _thickness(slide)),
        plane_orientation=PlaneOrientationSequence("SLIDE", slide.ImageOrientationSlide),
        plane_positions=[_position(slide, maps)],
        tile_pixel_array=True,
        tile_size=[min(_TILE, side) for side in maps.shape],
        dimension_organization_type="TILED_FULL",
        content_label="SPARSEATTN",
        specific_character_set="ISO_IR 192",
        **describe_instance(export) | {"series_instance_uid": series, "instance_number": n + 1},
    )
    made.FloatPixelPaddingValue = padding
    made.ImageComments = json.dumps(export.provenance)
    return made


def _position(slide: Dataset, maps: HeatMaps) -> PlanePositionSequence:
    """Return where on the glass the map begins: the centre of its first place, in mm."""
    from highdicom import PlanePositionSequence
    from highdicom.spatial import PixelToReferenceTransformer

    origin = slide.TotalPixelMatrixOriginSequence[0]
    to_slide = PixelToReferenceTransformer(
        image_position=(
            origin.XOffsetInSlideCoordinateSystem,
            origin.YOffsetInSlideCoordinateSystem,
            origin.get("ZOffsetInSlideCoordinateSystem", 0.0),
        ),
        image_orientation=slide.ImageOrientationSlide,
        pixel_spacing=_spacing(slide),
    )
    # That class takes whole pixels only; what it holds is their matrix.
    row, column = maps.translate
    place = to_slide.affine @ np.array([column, row, 0.0, 1.0])
    return PlanePositionSequence("SLIDE", place[:3].tolist(), (1, 1))


def _spacing(slide: Dataset) -> tuple[float, float]:
    """Return mm per pixel, from row to row and from column to column."""
    try:
        measures = slide.SharedFunctionalGroupsSequence[0].PixelMeasuresSequence[0]
        down, across = measures.PixelSpacing
    except (AttributeError, IndexError, ValueError) as error:
        raise ValueError(
            "the DICOM slide does not say its pixel spacing, so no map can be put on it; export "
            "OME-Zarr, which takes the pixel size that you give"
        ) from error
    return float(down), float(across)


def _thickness(slide: Dataset) -> float | None:
    found = slide.SharedFunctionalGroupsSequence[0].PixelMeasuresSequence[0].get("SliceThickness")
    return None if found is None else float(found)


def _quantities() -> tuple[tuple[str, Code], ...]:
    """How names of maps begin that mean what DICOM has a code of."""
    from pydicom.sr.codedict import codes

    return (
        ("attention", codes.DCM.Saliency),
        ("probability", codes.DCM.FractionalProbabilisticSegmentation),
    )
