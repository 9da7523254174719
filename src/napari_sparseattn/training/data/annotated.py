"""From a project's annotations to crops to train on, without leaks between the parts."""

from __future__ import annotations

import dataclasses
from collections import defaultdict
from collections.abc import Callable, Iterable, Sequence
from typing import Any

import numpy as np
import numpy.typing as npt

from ...card import Card
from ...images.fields.cells import find_cells
from ...images.fields.crops import cut_crops, fit_crop
from ...images.fields.field import Field
from .annotations import Annotation, ImageRecord
from .datasets import CropSet, hash_folds
from .project import Project

__all__ = [
    "HELD_OUT_FOLDS",
    "AnnotatedCrops",
    "annotated_cells",
    "annotated_fields",
    "cell_groups",
    "held_out",
    "too_few",
    "unannotated_cells",
]

#: One group in so many is held out.
HELD_OUT_FOLDS = 5
#: Side of a block of an image, in crops: its cells are learned from, or held out, together.
_BLOCK = 4
#: Training images are stored larger than the model's, so that augmentation resamples once.
_OVERSIZE = 2
_MOST_CROPS_PER_REGION = 64
_LEAST_PER_CLASS, _FEW_OF_NEW, _LEAST_CHECKED = 2, 8, 2


@dataclasses.dataclass(frozen=True, eq=False)
class AnnotatedCrops:
    """What a project gives a model to learn from.

    Attributes
    ----------
    data : CropSet
        Crops at twice the model's size; names are the annotations' ids,
        groups the blocks of the images that they lie in.
    notes : tuple of str
        What was left out and why, in plain sentences.
    """

    data: CropSet
    notes: tuple[str, ...] = ()


def held_out(data: CropSet) -> npt.NDArray[np.bool_]:
    """Which crops (N,) are held out: a fifth of the groups, or else names, by their hash.

    A group that is held out once is held out for ever, whatever is added.
    """
    rows: npt.NDArray[np.bool_] = hash_folds(data.groups or data.names, HELD_OUT_FOLDS) == 0
    return rows


def too_few(data: CropSet, old_classes: Sequence[str] = ()) -> list[str]:
    """Say in plain sentences, before training, what there is too little of.

    Parameters
    ----------
    data : CropSet
        The annotated crops.
    old_classes : sequence of str
        Classes that the model knows already.

    Returns
    -------
    list of str
        Empty where all is well.
    """
    out = held_out(data)
    said = []
    for index, name in enumerate(data.class_names):
        n = int((data.labels[~out] == index).sum())
        checked = int((data.labels[out] == index).sum())
        if n + checked == 0:
            continue
        if n < _LEAST_PER_CLASS:
            said.append(f"'{name}' has {n} to learn from: annotate at least 10 in all.")
        elif n < _FEW_OF_NEW and name not in old_classes:
            said.append(f"'{name}' is new and has {n} to learn from: 25 to 50 are a good start.")
        if checked < _LEAST_CHECKED:
            said.append(
                f"'{name}' has {checked} held out to test on: annotate more, in other places or "
                "images, or the report cannot say how well it is told apart."
            )
    return said


def annotated_cells(
    project: Project, open_image: Callable[[ImageRecord], Field | None], card: Card
) -> AnnotatedCrops:
    """Cut a crop of every annotated cell.

    Cells belong to the block of their image, four crops wide, that they lie
    in, and blocks are learned from or held out as a whole. A cell that is
    learned from and whose crop shows a held-out cell, at the border of two
    blocks, is left out.

    Parameters
    ----------
    project : Project
        Whose annotations.
    open_image : callable
        Returns the field of an `ImageRecord`, or None where it is not at hand.
    card : Card
        Of the model; says how cells are cut.

    Raises
    ------
    ValueError
        If there is no annotated cell in any image that opens.
    """
    names = list(project.classes())
    gathered, notes = _Gathered(), []
    for image, items in project.annotations():
        cells = [item for item in items if item.kind == "cell"]
        if not cells:
            continue
        field, why = _opened(open_image, image, card)
        if field is None:
            notes.append(f"{len(cells)} annotated cells of {image.name or image.hash[:8]}: {why}")
            continue
        for (t, z), own in _by_plane(cells).items():
            near = _cell_crops(field, own, card, (t, z), image.hash)
            gathered.add(near, names)
            if near.dropped:
                notes.append(
                    f"{near.dropped} cells of {image.name or image.hash[:8]} are not trained on: "
                    "they are too near to held-out ones."
                )
    return gathered.done(names, card, notes, "cell")


def cell_groups(
    image: str, plane: tuple[int, int], centres: npt.NDArray[np.float64], side: float
) -> list[str]:
    """Name the block that each cell lies in: blocks are held out or not, as a whole.

    Parameters
    ----------
    image : str
        Its hash.
    plane : (int, int)
        Frame and slice.
    centres : numpy.ndarray
        (N, 2) (y, x) in pixels.
    side : float
        Of a crop, in pixels.
    """
    block = np.floor(centres / (_BLOCK * side)).astype(int)
    return [f"{image}:{plane[0]}:{plane[1]}:{row}:{column}" for row, column in block]


def unannotated_cells(
    project: Project,
    open_image: Callable[[ImageRecord], Field | None],
    card: Card,
    most: int = 1000,
    seed: int = 0,
) -> npt.NDArray[Any]:
    """Cut crops of cells that nobody annotated, found in the annotated images.

    Returns
    -------
    numpy.ndarray
        (M, s, s, C), M at most `most`: a random choice where there are more.
    """
    size = _OVERSIZE * card.crop.size
    parts = [_stored(np.empty((0, size, size, len(card.channels)), np.float32), card)]
    for image, items in project.annotations():
        field, _ = _opened(open_image, image, card)
        if field is None or not items:
            continue
        for (t, z), own in _by_plane(items).items():
            cells = find_cells(field, t=t, z=z)
            side = _side(field, own, card, (t, z))
            placed = np.array([i.position for i in own if i.position is not None]).reshape(-1, 2)
            centres = cells.centres
            if len(placed) and len(centres):
                apart = np.abs(centres[:, None] - placed[None]).max(2).min(1)
                centres = centres[apart > side / 4]
            if len(centres):
                parts.append(_stored(cut_crops(field.plane(t, z), centres, side, size), card))
    crops = np.concatenate(parts)
    if len(crops) > most:
        chosen = np.random.default_rng(seed).choice(len(crops), most, replace=False)
        crops = crops[np.sort(chosen)]
    return crops


def annotated_fields(
    project: Project, open_image: Callable[[ImageRecord], Field | None], card: Card
) -> AnnotatedCrops:
    """Cut what a TNet sees of images with a class and of annotated regions.

    An image with a class gives its centre square. A region gives squares of
    the model's field of view on a grid whose centres lie inside of it; all of
    one image are learned from or held out together.

    Raises
    ------
    ValueError
        If there is no such annotation in any image that opens.
    """
    names = list(project.classes())
    gathered, notes = _Gathered(), []
    for image, items in project.annotations():
        wanted = [item for item in items if item.kind in ("region", "image")]
        if not wanted:
            continue
        field, why = _opened(open_image, image, card)
        if field is None:
            notes.append(f"{image.name or image.hash[:8]}: {why}")
            continue
        size = _OVERSIZE * card.crop.size
        for item in wanted:
            plane = field.plane(item.t, item.z)
            if item.kind == "image":
                crops = fit_crop(plane, size)[None]
            else:
                side = _side(field, [item], card, (item.t, item.z))
                crops = cut_crops(plane, _grid_within(item.outline, side), side, size)
            ids = [item.id if len(crops) == 1 else f"{item.id}:{i}" for i in range(len(crops))]
            labels = [item.label] * len(crops)
            gathered.add(_Cut(crops, ids, [image.hash] * len(crops), labels), names)
    return gathered.done(names, card, notes, "region or image")


@dataclasses.dataclass(frozen=True, eq=False)
class _Cut:
    crops: npt.NDArray[np.float32]
    ids: list[str]
    groups: list[str]
    labels: list[str]
    dropped: int = 0


class _Gathered:
    """Crops of one image after the other."""

    def __init__(self) -> None:
        self.parts: list[_Cut] = []

    def add(self, cut: _Cut, names: list[str]) -> None:
        names.extend(name for name in dict.fromkeys(cut.labels) if name not in names)
        self.parts.append(cut)

    def done(
        self, names: Sequence[str], card: Card, notes: Sequence[str], what: str
    ) -> AnnotatedCrops:
        every = [label for part in self.parts for label in part.labels]
        if not every:
            raise ValueError(
                " ".join([f"No annotated {what} to learn from: put some on the image first.",
                          *notes])
            )  # fmt: skip
        used = [name for name in names if name in every]
        data = CropSet(
            _stored(np.concatenate([part.crops for part in self.parts]), card),
            np.array([used.index(label) for label in every], dtype=np.int64),
            tuple(used),
            tuple(i for part in self.parts for i in part.ids),
            tuple(g for part in self.parts for g in part.groups),
        )
        return AnnotatedCrops(data, tuple(notes))


def _cell_crops(
    field: Field, cells: Sequence[Annotation], card: Card, plane: tuple[int, int], image: str
) -> _Cut:
    side = _side(field, cells, card, plane)
    centres = np.array([cell.position for cell in cells], dtype=np.float64)
    groups = cell_groups(image, plane, centres, side)
    out = hash_folds(groups, HELD_OUT_FOLDS) == 0
    keep = out | ~_shown(centres, centres[out], side)
    crops = cut_crops(field.plane(*plane), centres[keep], side, _OVERSIZE * card.crop.size)
    rows = np.flatnonzero(keep).tolist()
    return _Cut(
        crops,
        [cells[i].id for i in rows],
        [groups[i] for i in rows],
        [cells[i].label for i in rows],
        int((~keep).sum()),
    )


def _shown(
    centres: npt.NDArray[np.float64], others: npt.NDArray[np.float64], side: float
) -> npt.NDArray[np.bool_]:
    """Whether the crop around each centre has one of the others in it."""
    if not len(others):
        return np.zeros(len(centres), bool)
    from scipy.spatial import cKDTree

    distance, _ = cKDTree(others).query(centres, p=np.inf)
    near: npt.NDArray[np.bool_] = distance < side / 2
    return near


def _side(field: Field, items: Iterable[Annotation], card: Card, plane: tuple[int, int]) -> float:
    """Side of a crop in pixels of the image, as when cells are classified."""
    if field.pixel_size is not None:
        return card.crop.field_of_view_um / field.pixel_size
    diameters = [item.diameter_px for item in items if item.diameter_px is not None]
    if not diameters:
        diameters = list(find_cells(field, t=plane[0], z=plane[1]).diameters)
    if not diameters:
        raise ValueError(
            f"'{field.name}' has no pixel size, and no cell is found in it to take the scale "
            "from. Give the pixel size in µm."
        )
    return max(card.crop.cell_diameters * float(np.median(diameters)), 1.0)


def _grid_within(outline: npt.NDArray[np.float64], side: float) -> npt.NDArray[np.float64]:
    """Centres of squares that lie in a polygon; its own centre where it is smaller than one."""
    from skimage.measure import points_in_poly

    low, high = outline.min(axis=0), outline.max(axis=0)
    axes = [
        np.arange(a + side / 2, b - side / 2 + 1e-9, side) for a, b in zip(low, high, strict=True)
    ]
    points = np.stack(np.meshgrid(*axes, indexing="ij"), axis=-1).reshape(-1, 2)
    inside: npt.NDArray[np.float64] = (
        points[points_in_poly(points, outline)] if len(points) else points
    )
    if not len(inside):
        middle: npt.NDArray[np.float64] = outline.mean(axis=0, keepdims=True)
        return middle
    step = -(-len(inside) // _MOST_CROPS_PER_REGION)
    return inside[::step]


def _opened(
    open_image: Callable[[ImageRecord], Field | None], image: ImageRecord, card: Card
) -> tuple[Field | None, str]:
    """Return the field, or why there is none."""
    try:
        field = open_image(image)
    except (OSError, ValueError, TypeError) as error:
        return None, f"the image cannot be opened ({error})."
    if field is None:
        return None, "the image is not at hand."
    if field.plane().shape[-1] != len(card.channels):
        return None, f"the image does not have the channels of '{card.name}'."
    if "Z" in field.axes and "T" not in field.axes:
        # Annotations count along the first axis as t, whatever it is.
        field = dataclasses.replace(field, axes=field.axes.replace("Z", "T"))
    return field, ""


def _by_plane(items: Iterable[Annotation]) -> dict[tuple[int, int], list[Annotation]]:
    found: dict[tuple[int, int], list[Annotation]] = defaultdict(list)
    for item in items:
        found[item.t, item.z].append(item)
    return dict(found)


def _stored(crops: npt.NDArray[np.float32], card: Card) -> npt.NDArray[Any]:
    """Keep values with a unit as they are, others as bytes."""
    if card.unit:
        return crops
    bytes_: npt.NDArray[np.uint8] = np.rint(np.clip(crops, 0, 1) * 255).astype(np.uint8)
    return bytes_
