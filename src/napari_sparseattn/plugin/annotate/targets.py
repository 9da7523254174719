"""Giving things a class: a clicked cell, a row of the table, what is selected, the whole image."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from ...card import plain_name, readable_name
from ...inference.prediction import Prediction
from ...training.data.annotations import Annotation, ImageAnnotations, new_annotation
from ..core.messages import counted
from ..core.sources import SourceError, displayed_plane
from .classes import Classes
from .context import Context
from .files import AnnotatedImage, AnnotationFiles
from .layers import LayerSync

if TYPE_CHECKING:
    from ...inference.prediction import Predictions

__all__ = ["Target", "Targets"]

#: A cell within this share of the diameter of an annotated one is that one.
_SAME_CELL = 0.4


@dataclasses.dataclass(frozen=True)
class Target:
    """What a key or button gives a class: the cell clicked last, or the whole image.

    Parameters
    ----------
    position : (float, float) or None
        (y, x) in pixels; None for the image as a whole.
    plane : tuple of int
        Position along the axes before y and x.
    predicted, model : str
        The class that the model gave, and the model's hash.
    diameter : float or None
        Of the cell in pixels, where it is known.
    """

    position: tuple[float, float] | None
    plane: tuple[int, ...] = ()
    predicted: str = ""
    model: str = ""
    diameter: float | None = None


class Targets:
    """Gives things a class, and knows which one the next key is about.

    Parameters
    ----------
    context : Context
        Shared by the parts of annotating.
    classes : Classes
        That may be given.
    files : AnnotationFiles
        Where annotations are kept.

    Attributes
    ----------
    target : Target or None
        What was clicked last and can be given a class.
    """

    def __init__(self, context: Context, classes: Classes, files: AnnotationFiles) -> None:
        self.session, self._context = context.session, context
        self._classes, self._files = classes, files
        self.target: Target | None = None
        self._class_shown = ""

    # -- annotating

    def annotate_cell(
        self,
        position: tuple[float, float],
        label: str | None = None,
        *,
        predicted: str = "",
        model: str = "",
        diameter: float | None = None,
        plane: tuple[int, ...] | None = None,
    ) -> None:
        """Give the cell at a position a class; an annotation that is there is changed.

        Parameters
        ----------
        position : (float, float)
            (y, x) in pixels of the chosen image.
        label : str, optional
            By default the current class.
        predicted, model : str
            The class that a model gave, and the model's hash.
        diameter : float, optional
            Of the cell in pixels.
        plane : tuple of int, optional
            By default the displayed one.
        """
        at = self._plane_here() if plane is None else plane
        if at is None:
            return
        target = Target(position, at, plain_name(predicted), model, diameter)
        self._files.when_open(
            lambda image: self.annotate(image, target, label or self._classes.for_new)
        )

    def annotate_image(self, label: str | None = None, *, predicted: str = "", model: str = ""
                       ) -> None:  # fmt: skip
        """Give the chosen image, or the displayed plane of a stack, a class as a whole."""
        at = self._plane_here()
        if at is not None:
            target = Target(None, at, plain_name(predicted), model)
            self._files.when_open(
                lambda image: self.annotate(image, target, label or self._classes.for_new)
            )

    def clear_image_class(self) -> None:
        """Take the class of the image as a whole away."""
        annotations, at = self._files.annotations(self.session.selection.image), self._plane_here()
        if annotations is not None and at is not None:
            ids = [item.id for item in _own(annotations, _on_plane(annotations, "image", at))]
            self._context.save(lambda: annotations.remove(ids))

    def correct(self, which: int | Prediction | Target, label: str) -> None:
        """Say what a classified cell, field or slide really is.

        Parameters
        ----------
        which : int, Prediction or Target
            A row of the session's results, an answer, or what was clicked.
        label : str
            The right class; may be the one that was given.
        """
        target = which if isinstance(which, Target) else self.target_of(which)
        if target is not None:
            self._files.when_open(lambda image: self.annotate(image, target, label))

    def correct_rows(self, rows: Sequence[int], label: str) -> None:
        """Say what some of the classified cells really are, as one change.

        Parameters
        ----------
        rows : sequence of int
            Rows of the session's results.
        label : str
            The right class.
        """
        found = self._targets_of(rows)
        if len(found) == 1:
            self._files.when_open(lambda image: self.annotate(image, found[0], label))
        elif found:
            self._files.when_open(lambda image: self._annotate_many(image, found, label))

    def remove_rows(self, rows: Sequence[int]) -> None:
        """Take the classes that some of the classified cells were given away, as one change."""
        results = self.session.cells.results
        annotations = self._files.annotations(self.session.selection.image)
        if results is None or annotations is None:
            return
        wanted = {int(row) for row in rows}
        found = [item for row, item in self._by_row(results) if row in wanted]
        ids = [item.id for item in _own(annotations, found)]
        if ids and self._context.save(lambda: annotations.remove(ids)):
            self._context.notify(f"{counted(len(ids), 'annotation')} removed.")

    def labels_of(self, results: Predictions) -> dict[int, str]:
        """Return the classes that classified cells of the chosen image were given, by row."""
        return {row: item.label for row, item in self._by_row(results)}

    def remove(self, ids: list[str] | None = None) -> None:
        """Remove annotations of the chosen image; by default those that are selected."""
        annotations = self._files.annotations(self.session.selection.image)
        if annotations is None:
            return
        found = self.selected if ids is None else ids
        if not found:
            self._context.notify("Select annotations in their layer first.", "warning")
            return
        self._context.save(lambda: annotations.remove(found))

    @property
    def selected(self) -> list[str]:
        """Ids of the annotations that are selected in the active layer."""
        sync = self._active()
        return [] if sync is None else sync.selected

    @property
    def image_class(self) -> str:
        """The class of the displayed image as a whole, or nothing."""
        annotations = self._files.annotations(self.session.selection.image)
        viewer = self.session.viewer
        # In 3D there is no plane; nothing needs to be said about that here.
        flat = viewer is not None and viewer.dims.ndisplay == 2
        at = self._plane_here() if annotations is not None and flat else None
        if annotations is None or at is None:
            return ""
        found = _own_last(annotations, _on_plane(annotations, "image", at))
        return found[-1].label if found else ""

    # -- one key for all

    def give(self, label: str) -> None:
        """Give what is at hand a class, and make it the current one.

        At hand are the annotations that are selected in the active layer, or
        else the cell that was clicked last. While points or regions are drawn
        only the current class changes.
        """
        self._classes.choose(label)
        sync = self._active()
        mode = "" if sync is None else str(sync.layer.mode)
        if sync is not None and mode.startswith("add"):
            self._context.notify(f"New annotations are '{readable_name(label)}'.")
        elif sync is not None and mode in ("select", "direct") and sync.selected:
            ids = sync.selected
            if self._context.save(lambda: self._relabel(sync.annotations, ids, label)):
                self._context.notify(f"{_count(len(ids))} now '{readable_name(label)}'.")
        elif self.target is not None:
            self.correct(self.target, label)
        else:
            self._context.notify(
                f"New annotations are '{readable_name(label)}'. Click a cell to give it this class."
            )

    # -- within

    def annotate(self, image: AnnotatedImage, target: Target, label: str) -> bool:
        """Give a target of an image a class now; return whether that could be saved."""

        def save() -> None:
            self._classes.use([label])
            annotations = image.open()
            if target.position is None:
                there = _own_last(annotations, _on_plane(annotations, "image", target.plane))
                self._put(annotations, target, label, there[-1:])
                return
            self._put(annotations, target, label, self._cells_at(annotations, target))
            image.cell_layer()

        if not self._context.save(save):
            return False
        what = "This image" if target.position is None else "The cell"
        model = (
            f", not '{readable_name(target.predicted)}'"
            if target.predicted not in ("", label)
            else ""
        )
        self._context.notify(f"{what} is '{readable_name(label)}'{model}.")
        return True

    def _put(
        self, annotations: ImageAnnotations, target: Target, label: str, there: list[Annotation]
    ) -> None:
        values = _about(target, label)
        if there:
            annotations.relabel([there[0].id], label, **values)
            return
        values |= dict(zip(("t", "z"), target.plane, strict=False))
        if target.position is None:
            annotations.add("image", label, **values)
        else:
            place = {"position": target.position, "diameter_px": target.diameter}
            annotations.add("cell", label, **place, **values)

    def _annotate_many(self, image: AnnotatedImage, targets: Sequence[Target], label: str) -> None:
        def save() -> None:
            self._classes.use([label])
            annotations = image.open()
            there = _nearest(annotations, targets)
            annotations.put(
                _made_of(annotations, target, label, known)
                for target, known in zip(targets, there, strict=True)
            )
            image.cell_layer()

        if self._context.save(save):
            cells = counted(len(targets), "cell")
            self._context.notify(f"{cells} annotated as '{readable_name(label)}'.")

    def _by_row(self, results: Predictions) -> list[tuple[int, Annotation]]:
        """Return the annotated cells of the chosen image, and the rows of results they are."""
        annotations = self._files.annotations(self.session.selection.image)
        if annotations is None or not len(results):
            return []
        found = [
            item
            for item in _on_plane(annotations, "cell", self.plane_of_results())
            if item.position is not None
        ]
        found = _own_last(annotations, found)
        if not found:
            return []
        from scipy.spatial import cKDTree

        distance, rows = cKDTree(results.cells.centres).query([item.position for item in found])
        reach = np.maximum(2.0, _SAME_CELL * results.cells.diameters[rows])
        return [
            (int(row), item)
            for item, row, near in zip(found, rows, distance <= reach, strict=True)
            if near
        ]

    def _cells_at(self, annotations: ImageAnnotations, target: Target) -> list[Annotation]:
        """Return the annotated cell that a target is, if there is one."""
        found = [item for item in _on_plane(annotations, "cell", target.plane) if item.position]
        if not found or target.position is None:
            return []
        places = np.array([item.position for item in found])
        distance = np.hypot(*(places - target.position).T)
        image = self.session.selection.image
        size = target.diameter or (self._files.ring(image) if image is not None else 0.0)
        near = [int(i) for i in np.flatnonzero(distance <= max(2.0, _SAME_CELL * size))]
        # One's own, where others have annotated the same cell.
        near.sort(key=lambda i: (found[i].rater != annotations.rater, distance[i]))
        return [found[i] for i in near[:1]]

    def _relabel(self, annotations: ImageAnnotations, ids: list[str], label: str) -> None:
        self._classes.use([label])
        annotations.relabel(ids, label)

    def target_of(self, which: int | Prediction) -> Target | None:
        """Return what a row of the session's results, or an answer, is about."""
        results = self.session.cells.results
        if isinstance(which, Prediction):
            plane = self._plane_of(which)
            if plane is None:
                return None
            frame = getattr(which.evidence, "frame", None)
            if frame is None:
                return Target(None, plane, plain_name(which.label), which.model_hash)
            place = (float(frame.row), float(frame.column))
            size = None if results is None else _size_at(results, place)
            return Target(place, plane, plain_name(which.label), which.model_hash, size)
        found = self._targets_of((which,))
        return found[0] if found else None

    def _targets_of(self, rows: Sequence[int]) -> list[Target]:
        """Return what rows of the session's results are about; those that are not there, not."""
        results = self.session.cells.results
        if results is None:
            return []
        plane, cells, sizes = self.plane_of_results(), results.cells, results.cells.diameters
        names, index = [*map(plain_name, results.class_names), ""], results.class_index
        return [
            Target(
                (float(cells.centres[row, 0]), float(cells.centres[row, 1])),
                plane,
                names[index[row]],
                results.model_hash,
                float(sizes[row]),
            )
            for row in rows
            if 0 <= row < len(results)
        ]

    def plane_of_results(self) -> tuple[int, ...]:
        """Return the plane whose cells were classified; another may be displayed by now."""
        plane = self.session.cells.result_plane
        return (self._plane_here() or ()) if plane is None else plane.index

    def _plane_of(self, answer: Prediction) -> tuple[int, ...] | None:
        """Return the plane that was asked about; another may be displayed by now."""
        request = self.session.answered if answer is self.session.answer else None
        plane = getattr(request, "plane", None)
        return self._plane_here() if plane is None else plane.index

    def _plane_here(self) -> tuple[int, ...] | None:
        """Return the displayed plane of the chosen image; says why where there is none."""
        image, viewer = self.session.selection.image, self.session.viewer
        if image is None or viewer is None:
            return None
        try:
            return displayed_plane(viewer, image).index
        except SourceError as error:
            self._context.notify(str(error), "error")
            return None

    def _active(self) -> LayerSync | None:
        viewer, image = self.session.viewer, self._files.chosen
        active = None if viewer is None else viewer.layers.selection.active
        for sync in () if image is None or active is None else image.syncs:
            if sync.layer is active:
                return sync
        return None

    def follow_plane(self, event: Any = None) -> None:
        """The class of the whole image may be another on the plane that is displayed now."""
        if (shown := self.image_class) != self._class_shown:
            self._class_shown = shown
            self._context.changed.emit()

    def follow_answer(self, answer: Prediction | None) -> None:
        """Take the cell that was clicked for what the next key is about."""
        self.target = None if answer is None else self.target_of(answer)
        self._context.changed.emit()


def _about(target: Target, label: str) -> dict[str, Any]:
    """Return what an annotation keeps of the class that the model gave."""
    if not target.predicted:
        return {}
    origin = "placed" if target.predicted == label else "corrected"
    return {"predicted": target.predicted, "model": target.model, "origin": origin}


def _made_of(
    annotations: ImageAnnotations, target: Target, label: str, known: Annotation | None
) -> Annotation:
    """Return what a cell becomes: a new annotation, or the one that is there, changed."""
    values = _about(target, label)
    if known is not None:
        return annotations.opinion(known, label, **values)
    values |= dict(zip(("t", "z"), target.plane, strict=False))
    place = {"position": target.position, "diameter_px": target.diameter}
    return new_annotation("cell", label, **place, **values)


def _nearest(annotations: ImageAnnotations, targets: Sequence[Target]) -> list[Annotation | None]:
    """Return the annotation that each of many cells of one plane has, or None."""
    there = [item for item in _on_plane(annotations, "cell", targets[0].plane) if item.position]
    own = _own(annotations, there)
    mine = _nearest_of(own, targets)
    if len(own) == len(there):
        return mine
    others = _nearest_of(there, targets)
    return [first or second for first, second in zip(mine, others, strict=True)]


def _nearest_of(found: list[Annotation], targets: Sequence[Target]) -> list[Annotation | None]:
    if not found:
        return [None] * len(targets)
    from scipy.spatial import cKDTree

    distance, nearest = cKDTree([item.position for item in found]).query(
        [target.position for target in targets]
    )
    reach = [max(2.0, _SAME_CELL * (target.diameter or 0.0)) for target in targets]
    return [
        found[i] if away <= near else None
        for i, away, near in zip(nearest, distance, reach, strict=True)
    ]


def _on_plane(annotations: ImageAnnotations, kind: str, plane: tuple[int, ...]) -> list[Annotation]:
    t, z = (*plane, 0, 0)[:2]
    return [item for item in annotations if item.kind == kind and (item.t, item.z) == (t, z)]


def _own(annotations: ImageAnnotations, items: Sequence[Annotation]) -> list[Annotation]:
    """Return those that are not another rater's; all, for who gives no name."""
    mine = ("", annotations.rater)
    return [item for item in items if not annotations.rater or item.rater in mine]


def _own_last(annotations: ImageAnnotations, items: Sequence[Annotation]) -> list[Annotation]:
    """Return annotations with those of other raters first."""
    own = {item.id for item in _own(annotations, items)}
    return sorted(items, key=lambda item: item.id in own)


def _size_at(results: Predictions, place: tuple[float, float]) -> float | None:
    row = results.cells.nearest(place)
    return None if row is None else float(results.cells.diameters[row])


def _count(n: int) -> str:
    return "One annotation is" if n == 1 else f"{n} annotations are"
