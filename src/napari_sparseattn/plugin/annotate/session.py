"""Annotating in one viewer: classes, layers, keys, and what to annotate next.

No Qt here: work is started by `annotating_jobs`, shown by `widgets`.
"""

from __future__ import annotations

from functools import partial
from typing import TYPE_CHECKING, Any

from ..core.per_viewer import PerViewer
from .classes import N_KEYS, Work
from .keys import LayerKeys
from .mirror import Mirror
from .sources import importable, read_layer
from .suggest import Suggestions
from .targets import Target

if TYPE_CHECKING:
    from napari.components import ViewerModel
    from napari.layers import Image, Layer

__all__ = ["Annotating", "Target", "Work"]


class Annotating(Suggestions, PerViewer):
    """What is annotated in one viewer; get it with `Annotating.of`.

    Lines for the user are said through the session of the same viewer.

    Attributes
    ----------
    project : Project
        Where annotations are kept.
    class_names, colours, current_class, counts, counts_here
        See `Classes` and `Books`.
    """

    def __init__(self, viewer: ViewerModel) -> None:
        super().__init__(viewer)
        self._users = 0
        actions: dict[str, Any] = {
            str(number): partial(self.give_key, number) for number in range(1, N_KEYS + 1)
        }
        actions |= {
            "N": self.next,
            "Control-Z": self.undo,
            "Control-Shift-Z": self.redo,
            "Control-Y": self.redo,
        }
        self._keys = LayerKeys(actions)

    # -- opening and closing

    def attach(self) -> None:
        """Follow the viewer; call once per open dock."""
        self._users += 1
        viewer = self.viewer
        if self._users > 1 or viewer is None:
            return
        session = self.session
        session.attach()
        viewer.layers.events.removed.connect(self._layer_gone)
        viewer.dims.events.current_step.connect(self._plane_changed)
        session.selection.image_changed.connect(self._image_chosen)
        session.selection.model_changed.connect(self._saved_classes)
        session.selection.settings_changed.connect(self._scale_given)
        session.answer_changed.connect(self._answered)
        session.cells.results_changed.connect(self._results_changed)
        self._asked.clear()
        self._refresh()
        self._answered(session.answer)
        self._image_chosen(session.selection.image)
        self.look_through()

    def detach(self) -> None:
        """Stop following when the last dock closes; what is done in the layers is still kept."""
        if self._users == 0:
            return
        self._users -= 1
        if self._users:
            return
        self._set_candidate(None)
        self._keys.release_all()
        session, viewer = self.session, self.viewer
        session.selection.image_changed.disconnect(self._image_chosen)
        session.selection.model_changed.disconnect(self._saved_classes)
        session.selection.settings_changed.disconnect(self._scale_given)
        session.answer_changed.disconnect(self._answered)
        session.cells.results_changed.disconnect(self._results_changed)
        self._saving(self.flush)
        if viewer is not None:
            viewer.dims.events.current_step.disconnect(self._plane_changed)
        if viewer is not None and not self._sheets:
            viewer.layers.events.removed.disconnect(self._layer_gone)
        session.detach()

    def _image_chosen(self, image: Image | None) -> None:
        self._set_candidate(None)
        self._keys.release_all()
        if image is not None:
            self._keys.bind(image)
        self.open_image(image)
        self._layers_changed()
        self.changed.emit()

    def _layers_changed(self) -> None:
        """Give the layers of the chosen image's annotations their keys."""
        sheet = self.sheet
        for layer in () if sheet is None or not self._users else sheet.layers():
            self._keys.bind(layer)

    def _book_changed(self, changes: Any) -> None:
        super()._book_changed(changes)
        self._layers_changed()

    # -- drawing

    def mark_cells(self) -> bool:
        """Make the layer of cells the active one: a click then adds an annotated cell."""
        return self._when_open(partial(self._draw, "cell_layer", "add"))

    def draw_regions(self) -> bool:
        """Make the layer of regions the active one: clicks then draw a polygon."""
        return self._when_open(partial(self._draw, "region_layer", "add_polygon"))

    def edit(self) -> bool:
        """Make the layer of annotations the active one, to select, move and delete them."""
        sheet = self.sheet
        kind = "cell_layer" if sheet is not None and sheet.cells is not None else "region_layer"
        return self._when_open(partial(self._draw, kind, "select"))

    def show_layers(self) -> bool:
        """Show the annotations of the chosen image again, after their layers were removed."""
        return self._when_open(self._show_layers)

    def _show_layers(self) -> None:
        if self.sheet is not None:
            self.sheet.show()
            self._layers_changed()

    def _draw(self, kind: str, mode: str) -> None:
        sheet, viewer = self.sheet, self.viewer
        if sheet is None or viewer is None:
            return
        made: list[Mirror | None] = []
        if not self._saving(lambda: made.append(getattr(sheet, kind)())) or made[0] is None:
            return
        layer = made[0].layer
        viewer.layers.selection.active = layer
        if made[0].book.writable:
            layer.mode = mode
            self.say(_HOW[mode].format(self._new_label()))
        else:
            self.say(made[0].book.message, "warning")
        self._layers_changed()

    def set_current(self, label: str) -> None:
        """Choose the class that new annotations get."""
        super().set_current(label)
        sheet = self.sheet
        for mirror in () if sheet is None else (sheet.cells, sheet.regions):
            if mirror is not None:
                mirror.dress_next()

    def _dress(self) -> None:
        for sheet in self._sheets.values():
            for mirror in (sheet.cells, sheet.regions):
                if mirror is not None:
                    mirror.dress()
                    mirror.dress_next()

    # -- taking over

    def importable(self) -> list[Layer]:
        """Return the user's layers whose rows have classes."""
        viewer = self.viewer
        return [] if viewer is None else [layer for layer in viewer.layers if importable(layer)]

    def take_over(self, layer: Layer) -> bool:
        """Copy the classes of a layer of the user's; the layer stays as it is."""
        return self._when_open(partial(self._take_over, layer))

    def _take_over(self, layer: Layer) -> None:
        sheet, image = self.sheet, self.session.selection.image
        if sheet is None or image is None:
            return
        found = read_layer(layer, image)
        if not found:
            self.say(f"'{layer.name}' has no classes on '{image.name}'.", "warning")
            return

        def save() -> None:
            self._settle(dict.fromkeys(item.label for item in found))
            sheet.writing().put(found)
            sheet.show()

        if self._saving(save):
            self._layers_changed()
            self.say(f"{len(found)} annotations taken over from '{layer.name}', which stays.")


_HOW = {
    "add": "Click cells: each click adds '{}'. Choose another class with its key.",
    "add_polygon": "Click around a region of '{}', Esc to end. Rectangles and ellipses count too.",
    "select": "Click or drag to select; then press a class's key, or Delete.",
}
