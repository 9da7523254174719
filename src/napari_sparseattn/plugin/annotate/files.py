"""The annotation files of the images in one viewer: opened, shown as layers, saved, undone."""

from __future__ import annotations

import dataclasses
import time
import weakref
from collections import Counter
from collections.abc import Callable, Mapping
from functools import partial
from typing import TYPE_CHECKING, Any, Literal

import numpy as np
import numpy.typing as npt
from psygnal import Signal

from ...training.data.annotations import Change, ImageAnnotations, ImageRecord
from ...training.data.project import Project
from ..core.layers import OverlayLayers, copied_transform, marked, move
from ..core.sources import METADATA_KEY
from .classes import Classes
from .context import Context
from .images import Identified, ImageSource, Known, Opener, identify, survey
from .layers import CLASS, CellSync, LayerSync, RegionSync, Style

if TYPE_CHECKING:
    from napari.components import ViewerModel
    from napari.layers import Image, Layer

    from ..core.sources import ImageSettings

__all__ = ["AnnotatedImage", "AnnotationFiles", "AnnotationLayers"]

_NAMES = {"cells": "annotations", "regions": "regions", "suggested": "suggested cell",
          "disputed": "disagreement"}  # fmt: skip
_POINTED = ("suggested", "disputed")
_SUGGESTED = "#00d5ff"
_RING, _WIDTH = 1.15, 0.12
#: Diameter of a ring where nothing is known of the cells: a share of the image's shorter side.
_RING_SHARE = 1 / 25
#: Of the side of a model's crop, where no cell has been found yet.
_CELL_SHARE = 0.5


class AnnotationLayers(OverlayLayers[str]):
    """The layers of annotations of one viewer; adding one keeps the user's selection."""

    added = Signal()

    def __init__(self, viewer: ViewerModel) -> None:
        super().__init__(viewer, lambda role, shown: None)
        self.adding = False

    def point_at(
        self,
        source: Image,
        place: npt.NDArray[np.float64],
        size: float,
        role: Literal["suggested", "disputed"] = "suggested",
    ) -> None:
        """Mark one place of an image; the layer may be removed at any time."""
        from napari.layers import Points

        layer: Points | None = self.layer(source, role)
        if layer is None:
            layer = Points(
                place[None],
                ndim=source.ndim,
                size=size,
                symbol="square",
                face_color="transparent",
                border_color=_SUGGESTED,
                border_width=0.06,
                **copied_transform(source),
            )
            self.add(source, role, layer)
            return
        layer.data = place[None]
        layer.size = size

    def add(
        self,
        source: Image,
        kind: Literal["cells", "regions", "suggested", "disputed"],
        layer: Layer,
    ) -> Layer:
        """Put a layer on top of an image's others."""
        layer.metadata = marked(f"annotated {kind}")
        layer.name = f"{source.name} · {_NAMES[kind]}"
        self.adding = True
        try:
            return self.add_layer(source, kind, layer)
        finally:
            self.adding = False
            self.added.emit()


class AnnotatedImage:
    """The annotations of one image, and the layers that show them.

    Parameters
    ----------
    record : ImageRecord
        What is annotated.
    image : napari.layers.Image
        The layer that shows it; held weakly.
    project : Project
        Where the annotations are kept.
    layers : AnnotationLayers
        Where the layers go.
    style : Style
        Colours and sizes.
    fail : callable
        Called with the error of a change that could not be saved.
    opened : callable
        Called with the annotations when they have been opened.
    """

    def __init__(
        self,
        record: ImageRecord,
        image: Image,
        project: Project,
        layers: AnnotationLayers,
        style: Style,
        fail: Callable[[BaseException], None],
        opened: Callable[[ImageAnnotations], None],
    ) -> None:
        self.record, self.project = record, project
        self.cells: CellSync | None = None
        self.regions: RegionSync | None = None
        #: None as long as there are none.
        self.annotations: ImageAnnotations | None = None
        self._image = weakref.ref(image)
        self._layers, self._style = layers, style
        self._failed, self._follow = fail, opened

    @property
    def image(self) -> Image | None:
        """The image layer, or None after it is gone."""
        return self._image()

    def lie_on(self, image: Image) -> None:
        """Take another layer of the same pixels for the image."""
        self._image = weakref.ref(image)

    def open(self, annotations: ImageAnnotations | None = None) -> ImageAnnotations:
        """Return the annotations to write to; their file is made if there is none yet.

        Parameters
        ----------
        annotations : ImageAnnotations, optional
            Those that have been opened already.
        """
        if self.annotations is None:
            self.annotations = (
                self.project.open(self.record) if annotations is None else annotations
            )
            self._follow(self.annotations)
        return self.annotations

    def keep_scale(self, pixel_size: float | None) -> None:
        """Keep the µm per pixel of the image with its annotations."""
        if pixel_size is None or pixel_size == self.record.pixel_size:
            return
        self.record = dataclasses.replace(self.record, pixel_size=pixel_size)
        if self.annotations is not None and self.annotations.writable:
            self.annotations.note_image(self.record)

    @property
    def syncs(self) -> list[LayerSync]:
        """What keeps the layers of cells and regions up to date, where there are some."""
        return [each for each in (self.cells, self.regions) if each is not None]

    def layers(self) -> list[Layer]:
        """Return the layers that show the annotations."""
        return [each.layer for each in self.syncs]

    def show(self) -> None:
        """Make the layers that there is something to put in."""
        items = () if self.annotations is None else self.annotations
        kinds = {item.kind for item in items}
        if "cell" in kinds:
            self.cell_layer()
        if "region" in kinds:
            self.region_layer()

    def cell_layer(self) -> CellSync | None:
        """Return the layer of the cells, made if it is not there."""
        image = self.image
        if self.cells is None and image is not None:
            from napari.layers import Points

            layer = Points(
                np.empty((0, image.ndim)),
                ndim=image.ndim,
                features={CLASS: np.empty(0, dtype=object)},
                size=self._style.diameter * _RING,
                face_color="transparent",
                border_width=_WIDTH,
                **copied_transform(image),
            )
            self.cells = CellSync(layer, self.open(), self._style, self._failed)
            self._layers.add(image, "cells", layer)
        return self.cells

    def region_layer(self) -> RegionSync | None:
        """Return the layer of the regions, made if it is not there."""
        image = self.image
        if self.regions is None and image is not None:
            from napari.layers import Shapes

            layer = Shapes(
                None,
                ndim=image.ndim,
                features={CLASS: np.empty(0, dtype=object)},
                edge_width=max(1.0, self._style.diameter / 15),
                opacity=1.0,
                **copied_transform(image),
            )
            self.regions = RegionSync(layer, self.open(), self._style, self._failed)
            self._layers.add(image, "regions", layer)
        return self.regions

    def follow_image(self) -> None:
        """Lie where the image lies."""
        if self.image is not None:
            place: dict[str, Any] = copied_transform(self.image)
            for layer in self.layers():
                move(layer, place)

    def forget(self, layer: Layer) -> None:
        """Take note that a layer is no longer in the viewer."""
        if self.cells is not None and layer is self.cells.layer:
            self.cells.release()
            self.cells = None
        if self.regions is not None and layer is self.regions.layer:
            self.regions.release()
            self.regions = None

    def close(self) -> list[Layer]:
        """Let others write the annotations; return the layers, which are followed no longer."""
        layers = self.layers()
        for layer in layers:
            self.forget(layer)
        annotations, self.annotations = self.annotations, None
        if annotations is not None:
            annotations.close()
        return layers


#: Something that is done with an annotated image.
Act = Callable[[AnnotatedImage], object]


class AnnotationFiles:
    """Which images of a viewer are annotated, and what is kept of them.

    Parameters
    ----------
    viewer : napari.components.ViewerModel
        Held weakly, by the session.
    context : Context
        Shared by the parts of annotating.
    classes : Classes
        Of the project whose annotations are shown.
    """

    def __init__(self, viewer: ViewerModel, context: Context, classes: Classes) -> None:
        self.session, self._context, self._classes = context.session, context, classes
        self.layers = AnnotationLayers(viewer)
        self._images: dict[str, AnnotatedImage] = {}
        self._hashes: weakref.WeakKeyDictionary[Image, str] = weakref.WeakKeyDictionary()
        self._asked: weakref.WeakSet[Image] = weakref.WeakSet()
        self._followed: weakref.WeakSet[Image] = weakref.WeakSet()
        #: By image, what is to be done once it is known.
        self._waiting: weakref.WeakKeyDictionary[Image, list[Act]] = weakref.WeakKeyDictionary()
        #: The images of the project as they were when they were last counted.
        self._known: Mapping[str, Known] = {}
        #: When each change was made, and when the last was taken back, for a common undo.
        self._times: dict[int, list[float]] = {}
        self._undone_at: dict[int, float] = {}
        context.changed.connect(self.note_changes)
        classes.colours_changed.connect(self._recolour)
        classes.current_changed.connect(self._show_new_class)
        # A layer of cells can be chosen as where the cells are.
        self.layers.added.connect(self.session.selection.images_changed.emit)
        # The files outlive the viewer by nothing: others wait for them.
        weakref.finalize(viewer, _close_all, self._images)

    # -- what there is

    @property
    def chosen(self) -> AnnotatedImage | None:
        """The chosen image and its annotations, once it is known which image it is."""
        return self.of(self.session.selection.image)

    def of(self, layer: Layer | None) -> AnnotatedImage | None:
        """Return what an image layer shows and its annotations."""
        found = None if layer is None else self._hashes.get(layer)
        return None if found is None else self._images.get(found)

    def image_of(self, layer: Layer) -> Image | None:
        """Return the image whose annotations a layer shows, or None."""
        for each in self._images.values():
            if layer in each.layers():
                return each.image
        return None

    def annotations(self, layer: Layer | None) -> ImageAnnotations | None:
        """Return the annotations of an image layer; None where nothing is annotated yet."""
        found = self.of(layer)
        return None if found is None else found.annotations

    def open_annotations(self) -> dict[str, ImageAnnotations]:
        """Return the annotations that are open here, by the hashes of their images."""
        found = {key: each.annotations for key, each in self._images.items()}
        return {key: each for key, each in found.items() if each is not None}

    @property
    def any_open(self) -> bool:
        """Whether any image that is shown is known."""
        return bool(self._images)

    @property
    def counts_here(self) -> dict[str, int]:
        """Annotations of each class in the chosen image."""
        counts = dict.fromkeys(self._classes.names, 0)
        annotations = self.annotations(self.session.selection.image)
        return {**counts, **({} if annotations is None else annotations.counts())}

    @property
    def counts(self) -> dict[str, int]:
        """Annotations of each class in the whole project."""
        opened = self.open_annotations()
        total = Counter(dict.fromkeys(self._classes.names, 0))
        for hash_, known in self._known.items():
            if hash_ not in opened:
                total.update(known.counts)
        for each in opened.values():
            total.update(item.label for item in each)
        return dict(total)

    @property
    def n_images(self) -> int:
        """How many images of the project have annotations."""
        opened = self.open_annotations()
        others = sum(1 for key, known in self._known.items() if known.counts and key not in opened)
        return others + sum(1 for each in opened.values() if len(each))

    @property
    def message(self) -> str:
        """What should be known of the chosen image's annotations, e.g. that they are read-only."""
        annotations = self.annotations(self.session.selection.image)
        return "" if annotations is None else annotations.message

    # -- opening

    def open_image(self, layer: Image | None) -> None:
        """Find out which image a layer shows, and show its annotations."""
        if layer is None or layer in self._asked or self.of(layer) is not None:
            return
        self._asked.add(layer)
        if layer not in self._followed:
            self._followed.add(layer)
            layer.events.data.connect(self._change_pixels)
            for name in ("scale", "translate", "rotate", "shear", "affine"):
                layer.events.emitters[name].connect(self._move_layers)
        source = ImageSource.of(layer, self.session.selection.settings_of(layer))
        project, ref = self._classes.project, weakref.ref(layer)

        def fail(error: BaseException) -> None:
            if (still := ref()) is not None:
                self._asked.discard(still)
                self._waiting.pop(still, None)
            self._context.show_error(error)

        run = partial(identify, source, project, frozenset(self._images))
        self._context.ask(
            partial(_closed_unless, self._context, run),
            partial(self._take_identity, ref, source.data, project),
            fail,
        )

    def ask_again(self) -> None:
        """Ask anew which images are shown: no answer comes of what was asked before."""
        self._asked.clear()

    def when_open(self, act: Act) -> bool:
        """Do something with the chosen image now, or as soon as it is known which it is.

        Parameters
        ----------
        act : callable
            Called with the image that is chosen now; another may be chosen by
            the time it is known.

        Returns
        -------
        bool
            Whether it has been done.
        """
        image = self.session.selection.image
        if image is None:
            self._context.notify(self.session.advice.text, "warning")
            return False
        if self.chosen is not None:
            act(self.chosen)
            return True
        self._waiting.setdefault(image, []).append(act)
        self.open_image(image)
        return False

    def count(self) -> None:
        """Count the annotations of all images of the project anew."""
        project = self._classes.project

        def done(known: Mapping[str, Known]) -> None:
            if project is self._classes.project:
                self._known = known
                self._context.changed.emit()

        self._context.ask(partial(survey, project), done)

    def opener(self) -> Opener:
        """Return what opens the project's images in a worker; takes the layers as they are now."""
        layers = {}
        for layer, hash_ in list(self._hashes.items()):
            layers[hash_] = ImageSource.of(layer, self.session.selection.settings_of(layer))
        return Opener(layers)

    def ring(self, layer: Image) -> float:
        """Return how large a ring around a cell of unknown size is, in pixels."""
        session = self.session
        results = session.cells.results if layer is session.selection.image else None
        if results is not None and len(results):
            return float(np.median(results.cells.diameters))
        data = layer.data[0] if layer.multiscale else layer.data
        shorter = float(min(data.shape[layer.ndim - 2 : layer.ndim]))
        model, size = session.selection.model, session.selection.settings_of(layer).pixel_size
        if model is not None and not model.bundle.card.takes_slides and size is not None:
            return min(model.bundle.card.crop.field_of_view_um / size * _CELL_SHARE, shorter / 4)
        return max(4.0, shorter * _RING_SHARE)

    # -- saving, taking back, closing

    def flush(self) -> None:
        """Wait until all annotations are on the disk.

        Raises
        ------
        OSError
            If they cannot be written.
        """
        for each in self.open_annotations().values():
            each.flush()

    @property
    def can_undo(self) -> bool:
        """Whether there is a change of the chosen image's annotations to take back."""
        annotations = self.annotations(self.session.selection.image)
        return annotations is not None and annotations.can_undo

    @property
    def can_redo(self) -> bool:
        """Whether there is a change to make again."""
        annotations = self.annotations(self.session.selection.image)
        return annotations is not None and annotations.can_redo

    def undo(self) -> None:
        """Take the last change of the chosen image's annotations back."""
        annotations = self.annotations(self.session.selection.image)
        if annotations is None or not annotations.can_undo:
            self._context.notify(f"Nothing to undo {self._where}.")
        else:
            self._context.save(annotations.undo)

    def redo(self) -> None:
        """Make the change again that was taken back last."""
        annotations = self.annotations(self.session.selection.image)
        if annotations is None or not annotations.can_redo:
            self._context.notify(f"Nothing to redo {self._where}.")
        else:
            self._context.save(annotations.redo)

    def note_changes(self, _: object = None) -> None:
        """Note when the chosen image's annotations were changed, for a common undo."""
        annotations = self.annotations(self.session.selection.image)
        if annotations is None:
            return
        # What was done before this window is older than all that is done in it.
        times = self._times.setdefault(id(annotations), [0.0] * annotations.n_before)
        if annotations.n_done < len(times):
            del times[annotations.n_done :]
            self._undone_at[id(annotations)] = time.monotonic()
        times += [time.monotonic()] * (annotations.n_done - len(times))

    @property
    def done_at(self) -> float | None:
        """When the chosen image's annotations were last changed."""
        self.note_changes()
        annotations = self.annotations(self.session.selection.image)
        if annotations is None or not annotations.can_undo:
            return None
        return self._times[id(annotations)][-1]

    @property
    def undone_at(self) -> float | None:
        """When the last change of them was taken back."""
        self.note_changes()
        annotations = self.annotations(self.session.selection.image)
        if annotations is None or not annotations.can_redo:
            return None
        return self._undone_at.get(id(annotations), 0.0)

    @property
    def _where(self) -> str:
        image = self.session.selection.image
        return "without an image" if image is None else f"in '{image.name}'"

    def close_all(self) -> None:
        """Close the annotations of all images, and take their layers away."""
        images = list(self._images.values())
        self._images.clear()
        self._hashes.clear()
        self._asked.clear()
        self._known = {}
        for each in images:
            self._take_away(each.close())

    # -- within

    def _take_identity(
        self, ref: weakref.ref[Image], data: Any, project: Project, found: Identified
    ) -> None:
        layer, viewer = ref(), self.session.viewer
        if layer is not None:
            self._asked.discard(layer)
        now = None if layer is None else (layer.data[0] if layer.multiscale else layer.data)
        there = viewer is not None and layer in viewer.layers
        if layer is None or not there or now is not data or project is not self._classes.project:
            if found.annotations is not None:
                found.annotations.close()
            return
        self._known = found.known
        self._hashes[layer] = found.record.hash
        image = self._images.get(found.record.hash)
        if image is None:
            image = self._new_image(layer, found)
        elif viewer is not None and image.image not in viewer.layers:
            image.lie_on(layer)
        size = found.record.pixel_size
        if size is not None and self.session.selection.settings_of(layer).pixel_size is None:
            self.session.selection.set_settings(layer, pixel_size=size, origin="user")
        self._classes.read()
        image.show()
        for act in self._waiting.pop(layer, []):
            act(image)
        self._context.changed.emit()

    def _new_image(self, layer: Image, found: Identified) -> AnnotatedImage:
        classes = self._classes
        style = Style(
            lambda: classes.colours,
            lambda: classes.for_new,
            classes.find,
            classes.use,
            self.ring(layer),
        )
        image = AnnotatedImage(
            found.record,
            layer,
            classes.project,
            self.layers,
            style,
            self._context.show_error,
            self._follow,
        )
        self._images[found.record.hash] = image
        if found.annotations is not None:
            image.open(found.annotations)
        return image

    def _follow(self, annotations: ImageAnnotations) -> None:
        annotations.rater = self._context.rater
        annotations.changed.connect(self._note_changes)
        if annotations.message:
            self._context.notify(annotations.message, "warning")

    def _note_changes(self, changes: tuple[Change, ...]) -> None:
        if not self._classes.are_saved(c.after.label for c in changes if c.after is not None):
            self._classes.read()
        self._context.changed.emit()

    def _recolour(self) -> None:
        for image in self._images.values():
            for each in image.syncs:
                each.recolour()
                each.show_new_class()

    def _show_new_class(self) -> None:
        image = self.chosen
        for each in () if image is None else image.syncs:
            each.show_new_class()

    def _take_away_later(self, layers: list[Layer]) -> None:
        """Remove layers when the viewer is done with removing another."""
        if layers:
            self._context.later(partial(self._take_away, layers))

    def _take_away(self, layers: list[Layer]) -> None:
        viewer = self.session.viewer
        for layer in layers:
            if viewer is not None and layer in viewer.layers:
                viewer.layers.remove(layer)

    # -- what the viewer tells

    def forget(self, event: Any) -> None:
        """Let go of a layer that has been removed, and of the annotations of an image."""
        gone, selection = event.value, self.session.selection
        if gone is selection.cell_layer and self.image_of(gone) is not None:
            selection.set_cell_layer(None)
            selection.images_changed.emit()
        self._hashes.pop(gone, None)
        for key, image in list(self._images.items()):
            image.forget(gone)
            if image.image is None or not selection.is_open(image.image):
                others = [layer for layer, hash_ in self._hashes.items() if hash_ == key]
                if others:
                    # Another layer of the same pixels.
                    image.lie_on(others[0])
                    continue
                del self._images[key]
                self._take_away_later(image.close())
        if gone in self._followed:
            self.layers.remove(gone, _POINTED)
        self._context.changed.emit()

    def look_at_new(self, event: Any) -> None:
        """Tell the user of a copy of a layer of annotations, which nothing follows."""
        layer = event.value
        role = str(layer.metadata.get(METADATA_KEY, {}).get("overlay", ""))
        if self.layers.adding or not role.startswith("annotated "):
            return
        # Its own dictionary: a copy may share that of the original.
        layer.metadata = {k: v for k, v in layer.metadata.items() if k != METADATA_KEY}
        self.session.selection.images_changed.emit()
        self._context.notify(
            f"'{layer.name}' is a copy: what is changed there is not kept as annotations. Import "
            "its classes with Layers to keep them.",
            "warning",
        )

    def keep_scale(self, settings: ImageSettings) -> None:
        """Keep the scale that the chosen image was given."""
        image = self.chosen
        if image is not None:
            self._context.save(partial(image.keep_scale, settings.pixel_size))

    def _move_layers(self, event: Any) -> None:
        image = self.of(event.source)
        if image is not None:
            image.follow_image()

    def _change_pixels(self, event: Any) -> None:
        """Other pixels are another image, with annotations of its own."""
        layer = event.source
        self._asked.discard(layer)
        hash_ = self._hashes.pop(layer, None)
        image = None if hash_ is None else self._images.get(hash_)
        if image is not None and image.image is layer and hash_ is not None:
            del self._images[hash_]
            self._take_away(image.close())
        if layer is self.session.selection.image:
            self.open_image(layer)


def _closed_unless(context: Context, run: Callable[[], Identified]) -> Identified:
    """Find out which image it is; close its file where nobody takes the answer any more."""
    found = run()
    if not context.in_use and found.annotations is not None:
        found.annotations.close()
    return found


def _close_all(images: dict[str, AnnotatedImage]) -> None:
    for image in list(images.values()):
        image.close()
    images.clear()
