"""From a project's annotations to crops to train on, without leaks between the parts."""

from __future__ import annotations

import dataclasses
from collections import defaultdict
from collections.abc import Callable, Iterable, Sequence
from typing import Any

import numpy as np
import numpy.typing as npt

from ...card import Card, readable_name
from ...images.fields.cells import find_cells
from ...images.fields.crops import cut_crops, fit_crop
from ...images.fields.field import Field
from .annotations import Annotation, ImageRecord
from .datasets import CropSet
from .project import Project
from .split import Pairs, Split, cell_groups, held_out, shown_pairs, split_groups

__all__ = [
    "AnnotatedCrops",
    "PlacedCells",
    "cut_cells",
    "cut_fields",
    "cut_unannotated_cells",
    "plan_cells",
    "plan_fields",
    "too_few",
]

#: Training images are stored larger than the model's, so that augmentation resamples once.
_OVERSIZE = 2
_MOST_CROPS_PER_REGION = 64
_LEAST_PER_CLASS, _FEW_OF_NEW, _LEAST_CHECKED = 2, 8, 2

Images = Iterable[tuple[ImageRecord, Sequence[Annotation]]]


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


@dataclasses.dataclass(frozen=True, eq=False)
class PlacedCells:
    """Annotated cells of one plane of an image, and how large their crops are.

    Parameters
    ----------
    image : ImageRecord
        Their image.
    plane : (int, int)
        Frame and slice.
    cells : sequence of Annotation
        Annotations of kind ``"cell"``.
    side : float or None
        Of a crop in pixels of the image; None where only the pixels tell.
    """

    image: ImageRecord
    plane: tuple[int, int]
    cells: Sequence[Annotation]
    side: float | None

    @property
    def centres(self) -> npt.NDArray[np.float64]:
        """(N, 2) (y, x) in pixels."""
        return np.array([cell.position for cell in self.cells], np.float64).reshape(-1, 2)


def _split_cells(placed: Sequence[PlacedCells]) -> tuple[list[str], Split]:
    """Return the block of every cell, and what becomes of it: the one place where it is decided."""
    groups: list[str] = []
    pairs: list[Pairs] = []
    for each in placed:
        first = len(groups)
        if each.side is None:
            groups += [cell.id for cell in each.cells]
            continue
        groups += cell_groups(
            each.image.hash, each.plane, each.centres, each.side, each.image.shape
        )
        shows, seen = shown_pairs(each.centres, each.side)
        pairs.append((shows + first, seen + first))
    every = [cell.label for each in placed for cell in each.cells]
    labels = np.array([list(dict.fromkeys(every)).index(label) for label in every], np.int64)
    shown = (
        (np.concatenate([p[0] for p in pairs]), np.concatenate([p[1] for p in pairs]))
        if pairs
        else None
    )
    return groups, split_groups(labels, groups, shown)


def plan_cells(images: Images, card: Card) -> CropSet:
    """Return what `cut_cells` will cut out, without its pixels: no image is opened.

    It is exact where an image has a pixel size or its cells diameters; where
    only the pixels tell how large crops are, each cell is taken to be apart
    from the others.

    Parameters
    ----------
    images : sequence of (ImageRecord, sequence of Annotation)
        As `Project.labelled` gives them.
    card : Card
        Of the model.
    """
    placed = [
        PlacedCells(image, plane, own, known_side(image.pixel_size, own, card))
        for image, items in images
        for plane, own in _by_plane(item for item in items if item.kind == "cell").items()
    ]
    groups, split = _split_cells(placed)
    cells = [cell for each in placed for cell in each.cells]
    data = _without_pixels(cells, groups, card)
    return dataclasses.replace(data, held_out=split.held_out).subset(~split.left_out)


def plan_fields(images: Images, card: Card) -> CropSet:
    """Return what `cut_fields` will cut out, one of each annotation, without its pixels."""
    items = [(image, x) for image, own in images for x in own if x.kind != "cell"]
    return _without_pixels([x for _, x in items], [image.hash for image, _ in items], card)


def _without_pixels(items: Sequence[Annotation], groups: Sequence[str], card: Card) -> CropSet:
    names = tuple(dict.fromkeys(item.label for item in items))
    labels = np.array([names.index(item.label) for item in items], dtype=np.int64)
    empty = np.empty((len(items), 0, 0, len(card.channels)), np.uint8)
    return CropSet(empty, labels, names, tuple(item.id for item in items), tuple(groups))


def too_few(data: CropSet, old_classes: Sequence[str] = (), kept: int | None = None) -> list[str]:
    """Say in plain sentences, before training, what there is too little of.

    Parameters
    ----------
    data : CropSet
        The annotated crops.
    old_classes : sequence of str
        Classes that the model knows already.
    kept : int, optional
        Held-out cells of its own training that the model's file keeps, to tell
        what it forgets; by default nothing is said of that.

    Returns
    -------
    list of str
        Empty where all is well.
    """
    out = held_out(data)
    said = []
    for index, name in enumerate(data.class_names):
        shown = readable_name(name)
        n = int((data.labels[~out] == index).sum())
        checked = int((data.labels[out] == index).sum())
        if n + checked == 0:
            continue
        if n < _LEAST_PER_CLASS:
            said.append(f"'{shown}' has {n} to learn from: annotate at least 10 in all.")
        elif n < _FEW_OF_NEW and name not in old_classes:
            said.append(f"'{shown}' is new and has {n} to learn from: 25 to 50 are a good start.")
        if checked < _LEAST_CHECKED:
            said.append(
                f"'{shown}' has {checked} held out to test on: annotate more, in other places or "
                "images, or the report cannot say how well it is told apart."
            )
    there = {data.class_names[index] for index in np.unique(data.labels)}
    missing = [f"'{readable_name(name)}'" for name in old_classes if name not in there]
    if kept == 0 and missing:
        said.append(
            f"No cell of {', '.join(missing)} is annotated, and this model keeps none of its own "
            "training: what it forgets of these classes cannot be measured."
        )
    return said


def cut_cells(
    project: Project, open_image: Callable[[ImageRecord], Field | None], card: Card
) -> AnnotatedCrops:
    """Cut a crop of every annotated cell.

    Cells belong to the block of their image that they lie in, see
    `cell_groups`, and blocks are learned from or held out as a whole, some of
    each class, see `split_groups`. A cell that is learned from and whose crop
    shows a held-out cell is left out. `plan_cells` says beforehand what comes.

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
    placed: list[PlacedCells] = []
    crops, notes = [], []
    size = _OVERSIZE * card.crop.size
    for image, items in project.labelled():
        cells = [item for item in items if item.kind == "cell"]
        if not cells:
            continue
        field, why = _open(open_image, image, card)
        if field is None:
            notes.append(f"{len(cells)} annotated cells of {image.name or image.hash[:8]}: {why}")
            continue
        for plane, own in _by_plane(cells).items():
            side = _side(field, own, card, plane)
            placed.append(PlacedCells(image, plane, own, side))
            crops.append(cut_crops(field.plane(*plane), placed[-1].centres, side, size))
    if not placed:
        raise _nothing("cell", notes)
    groups, split = _split_cells(placed)
    owner = np.repeat(np.arange(len(placed)), [len(each.cells) for each in placed])
    near: dict[str, int] = {}
    for number in owner[split.left_out].tolist():
        name = placed[number].image.name or placed[number].image.hash[:8]
        near[name] = near.get(name, 0) + 1
    notes += [
        f"{n} cells of {name} are not trained on: they are too near to held-out ones."
        for name, n in near.items()
    ]
    every = [cell for each in placed for cell in each.cells]
    data = _as_set(crops, [x.id for x in every], groups, [x.label for x in every], project, card)
    kept = dataclasses.replace(data, held_out=split.held_out).subset(~split.left_out)
    return AnnotatedCrops(kept, tuple(notes))


def cut_unannotated_cells(
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
    parts = [_store(np.empty((0, size, size, len(card.channels)), np.float32), card)]
    for image, items in project.labelled():
        field, _ = _open(open_image, image, card)
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
                parts.append(_store(cut_crops(field.plane(t, z), centres, side, size), card))
    crops = np.concatenate(parts)
    if len(crops) > most:
        chosen = np.random.default_rng(seed).choice(len(crops), most, replace=False)
        crops = crops[np.sort(chosen)]
    return crops


def cut_fields(
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
    crops, notes = [], []
    ids: list[str] = []
    groups: list[str] = []
    labels: list[str] = []
    for image, items in project.labelled():
        wanted = [item for item in items if item.kind in ("region", "image")]
        if not wanted:
            continue
        field, why = _open(open_image, image, card)
        if field is None:
            notes.append(f"{image.name or image.hash[:8]}: {why}")
            continue
        size = _OVERSIZE * card.crop.size
        for item in wanted:
            plane = field.plane(item.t, item.z)
            if item.kind == "image":
                cut = fit_crop(plane, size)[None]
            else:
                side = _side(field, [item], card, (item.t, item.z))
                cut = cut_crops(plane, _grid_within(item.outline, side), side, size)
            crops.append(cut)
            ids += [item.id if len(cut) == 1 else f"{item.id}:{i}" for i in range(len(cut))]
            groups += [image.hash] * len(cut)
            labels += [item.label] * len(cut)
    if not labels:
        raise _nothing("region or image", notes)
    return AnnotatedCrops(_as_set(crops, ids, groups, labels, project, card), tuple(notes))


def _nothing(what: str, notes: Sequence[str]) -> ValueError:
    said = f"No annotated {what} to learn from: put some on the image first."
    return ValueError(" ".join([said, *notes]))


def _as_set(
    crops: Sequence[npt.NDArray[np.float32]],
    ids: Sequence[str],
    groups: Sequence[str],
    labels: Sequence[str],
    project: Project,
    card: Card,
) -> CropSet:
    """Join crops of one plane after the other; classes are in the project's order."""
    names = [name for name in dict.fromkeys((*project.classes(), *labels)) if name in set(labels)]
    return CropSet(
        _store(np.concatenate(crops), card),
        np.array([names.index(label) for label in labels], dtype=np.int64),
        tuple(names),
        tuple(ids),
        tuple(groups),
    )


def known_side(pixel_size: float | None, items: Iterable[Annotation], card: Card) -> float | None:
    """Return the side of a crop in pixels of the image, None where only the pixels tell."""
    if pixel_size is not None:
        return card.crop.field_of_view_um / pixel_size
    diameters = [item.diameter_px for item in items if item.diameter_px is not None]
    return max(card.crop.cell_diameters * float(np.median(diameters)), 1.0) if diameters else None


def _side(field: Field, items: Sequence[Annotation], card: Card, plane: tuple[int, int]) -> float:
    """Side of a crop in pixels of the image, as when cells are classified."""
    known = known_side(field.pixel_size, items, card)
    if known is not None:
        return known
    diameters = find_cells(field, t=plane[0], z=plane[1]).diameters
    if not len(diameters):
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


def _open(
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
    if card.unit and not field.unit:
        # Annotated for a model of this unit: whole numbers are nm, and no shares of a type.
        field = dataclasses.replace(field, unit=card.unit)
    return field, ""


def _by_plane(items: Iterable[Annotation]) -> dict[tuple[int, int], list[Annotation]]:
    found: dict[tuple[int, int], list[Annotation]] = defaultdict(list)
    for item in items:
        found[item.t, item.z].append(item)
    return dict(found)


def _store(crops: npt.NDArray[np.float32], card: Card) -> npt.NDArray[Any]:
    """Keep values with a unit as they are, others as bytes."""
    if card.unit:
        return crops
    bytes_: npt.NDArray[np.uint8] = np.rint(np.clip(crops, 0, 1) * 255).astype(np.uint8)
    return bytes_
