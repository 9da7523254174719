"""Results as Microscopy Bulk Simple Annotations of a DICOM slide."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt
from PIL import ImageColor

from ..files import replacing
from ..inference.fields import FieldPrediction
from ..inference.prediction import Predictions
from ..inference.slides import SlidePrediction
from .dicom_slide import describe_algorithm, describe_instance, own_code, read_slide
from .outlines import Ring, area, box_ring, iter_cell_rings
from .request import Export
from .tables import crops_table

if TYPE_CHECKING:
    from highdicom.ann import AnnotationGroup

__all__ = ["write_dicom_annotations"]

_TELL_EVERY = 1000
_GREY = "#808080"


@dataclasses.dataclass(frozen=True, eq=False)
class _Group:
    """Shapes of one kind: what they are, where, and what is measured of them."""

    label: str
    colour: str
    rings: Sequence[Ring]
    measures: dict[str, npt.NDArray[Any]]


def write_dicom_annotations(export: Export, path: Path) -> list[Path]:
    """Write cells, crops or patches as one DICOM file, atomically.

    A group per class of cells, or per level of a TNet's crops; all patches of
    a slide are one. Places are (x, y) in pixels of the slide's Total Pixel
    Matrix with a pixel's top left corner at its index, as the standard has
    its two-dimensional coordinates. Of a cell in several pieces the largest
    is written: one annotation is one outline.

    Parameters
    ----------
    export : Export
        Cells, a field or a slide, of an image that is a DICOM slide.
    path : pathlib.Path
        The file.

    Returns
    -------
    list of pathlib.Path
        The file.

    Raises
    ------
    ValueError
        If the image is no DICOM slide that can be referred to, or there is
        nothing to write.
    """
    from highdicom.ann import MicroscopyBulkSimpleAnnotations

    slide = read_slide(export)
    groups = [_encode(export, n, group) for n, group in enumerate(_groups(export), 1)]
    if not groups:
        raise ValueError(
            f"there is nothing in {export.name} to write as DICOM annotations: no cell was found"
        )
    made = MicroscopyBulkSimpleAnnotations(
        source_images=[slide],
        annotation_coordinate_type="2D",
        annotation_groups=groups,
        content_label="SPARSEATTN",
        # Names of classes may be in any script.
        specific_character_set="ISO_IR 192",
        **describe_instance(export),
    )
    with replacing(path) as temporary:
        made.save_as(temporary)
    return [path]


def _groups(export: Export) -> Iterator[_Group]:
    result = export.result
    if isinstance(result, Predictions):
        return _of_cells(export, result)
    if isinstance(result, SlidePrediction):
        return iter([_of_patches(export, result)])
    assert isinstance(result, FieldPrediction)
    return _of_crops(export, result)


def _of_cells(export: Export, found: Predictions) -> Iterator[_Group]:
    rings: list[Ring] = []
    for each in iter_cell_rings(found.cells):
        rings.append(max(each, key=area))
        if len(rings) % _TELL_EVERY == 0 or len(rings) == len(found):
            export.report(len(rings), len(found))
    measures: dict[str, npt.NDArray[Any]] = {
        "Cell": found.cells.ids,
        "Confidence": found.confidence,
    }
    for name, chances in zip(found.class_names, found.probabilities.T, strict=True):
        measures[f"Probability of {name}"] = chances
    if found.novelty is not None:
        measures["Novelty"] = found.novelty
    measures |= {name: np.asarray(values, float) for name, values in found.measures.items()}
    named = zip(range(-1, len(found.class_names)), ("not classified", *found.class_names),
                (_GREY, *export.card.colours), strict=True)  # fmt: skip
    for index, label, colour in named:
        there = np.flatnonzero(found.class_index == index)
        if len(there):
            own = {name: values[there] for name, values in measures.items()}
            yield _Group(label, colour, [rings[i] for i in there], own)


def _of_patches(export: Export, found: SlidePrediction) -> _Group:
    seen = found.attention
    corners = np.asarray(seen.origin) + seen.cells * seen.step
    boxes = np.hstack([corners, corners + seen.side])
    measures: dict[str, npt.NDArray[Any]] = {}
    for number, level in enumerate(seen.levels):
        name = f"Attention, cells of {level.factor} patches (x uniform)"
        measures[name] = seen.patch_weights(number) * len(level)
    if seen.patch_probabilities is not None:
        measures[f"Probability of {found.class_names[1]}"] = seen.patch_probabilities
    if found.patch_novelty is not None:
        measures["Novelty"] = found.patch_novelty
    export.report(len(seen), len(seen))
    return _Group("patches", _GREY, list(map(box_ring, boxes)), measures)


def _of_crops(export: Export, found: FieldPrediction) -> Iterator[_Group]:
    way, (height, width) = found.traversal, export.shape
    table = crops_table(found)
    boxes = np.hstack([way.boxes[:, :2], way.boxes[:, :2] + way.boxes[:, 2:]])
    # Crops may reach over the edge, where the slide has no pixels.
    boxes = boxes.clip(0, [height, width, height, width])
    measures: dict[str, npt.NDArray[Any]] = {
        "Rank": way.rank,
        f"Evidence for {found.label}": way.evidence_for(found.index),
    }
    measures |= {f"Logit of {n}": table[f"logit_{n}"].to_numpy() for n in found.class_names}
    for level in np.unique(way.level).tolist():
        there = np.flatnonzero(way.level == level)
        own = {name: values[there] for name, values in measures.items()}
        yield _Group(f"crops of level {level}", _GREY, [box_ring(boxes[i]) for i in there], own)
    export.report(len(way), len(way))


def _encode(export: Export, number: int, group: _Group) -> AnnotationGroup:
    from highdicom import UID
    from highdicom.ann import AnnotationGroup, Measurements
    from highdicom.color import CIELabColor
    from pydicom.sr.codedict import codes

    cells = export.kind == "cells"
    category = codes.SCT.AnatomicalStructure if cells else codes.SCT.Tissue
    kind = codes.SCT.Cell if cells else codes.DCM.ImageRegion
    return AnnotationGroup(
        number=number,
        uid=UID(),
        label=group.label[:64],
        description=f"{group.label}, by {export.model}, {export.provenance['software']}",
        annotated_property_category=category,
        annotated_property_type=kind,
        # Of boxes too: wsidicom opens no slide that has rectangles.
        graphic_type="POLYGON",
        graphic_data=[ring.astype(np.float32) for ring in group.rings],
        algorithm_type="AUTOMATIC",
        algorithm_identification=describe_algorithm(export),
        measurements=[
            Measurements(own_code(name), np.asarray(values, float), codes.UCUM.NoUnits)
            for name, values in group.measures.items()
            # wsidicom opens no slide that has measures without any value.
            if np.isfinite(values).any()
        ],
        display_color=CIELabColor.from_rgb(*ImageColor.getrgb(group.colour)[:3]),
    )
