"""The ruler in a smear: its red cells propose a pixel size, or question the one that is stated."""

from __future__ import annotations

import contextlib
import weakref
from typing import TYPE_CHECKING, Any

import numpy as np
from psygnal import Signal

from ..core.lanes import Lanes
from ..core.layers import copied_transform
from ..core.per_viewer import PerViewer
from ..core.sources import METADATA_KEY, ImageSettings, PlaneRef, SourceError, displayed_plane
from ..session import Session
from .scale_requests import ScaleRequest, measure

if TYPE_CHECKING:
    from napari.components import ViewerModel
    from napari.layers import Image, Shapes

    from ...images.fields.scale import MeasuredScale

__all__ = ["ScaleHelper"]

_CIRCLE = "a red cell, 7.5 µm"
_COLOUR = "#f0e442"


class ScaleHelper(PerViewer):
    """What the red cells of the chosen image say of its pixel size; get it with `of`.

    The circle that was measured lies on the image for as long as a size is
    proposed or questioned.
    """

    changed = Signal()

    def __init__(self, viewer: ViewerModel) -> None:
        super().__init__(viewer)
        self.session = Session.of(viewer)
        self._measured: weakref.WeakKeyDictionary[Image, MeasuredScale | None] = (
            weakref.WeakKeyDictionary()
        )
        self._asked: weakref.WeakSet[Image] = weakref.WeakSet()
        self._circle: weakref.ref[Shapes] | None = None
        self._lane = Lanes.of(viewer).add(measure, given=self._take, failed=self._fail)

    # -- opening and closing

    def _following(self) -> list[tuple[Any, Any]]:
        selection = self.session.selection
        return [(selection.image_changed, self._look), (selection.settings_changed, self._look)]

    def _first_opened(self) -> None:
        self._look()

    def _last_closed(self) -> None:
        self._lane.close()
        self._remove_circle()

    # -- state

    @property
    def measured(self) -> MeasuredScale | None:
        """What the red cells of the chosen image say, where they were measured."""
        image = self.session.selection.image
        return None if image is None else self._measured.get(image)

    @property
    def sentence(self) -> str:
        """What is proposed, or what speaks against the stated size; nothing where all is well."""
        from ...images.fields.scale import doubt_scale

        measured, settings = self.measured, self.session.selection.settings
        if measured is None or settings.origin == "user":
            return ""
        if settings.pixel_size is None:
            return (
                "Pixel size unknown. If the circled red cell is 7.5\u00a0µm wide, a pixel is "
                f"{measured.rounded:g}\u00a0µm."
            )
        return doubt_scale(settings.pixel_size, measured)

    def use(self) -> None:
        """Take the size that is proposed, as if the user had typed it."""
        measured, selection = self.measured, self.session.selection
        if measured is not None and selection.image is not None:
            selection.set_settings(selection.image, pixel_size=measured.rounded, origin="user")

    # -- measuring

    def _look(self, _: object = None) -> None:
        selection = self.session.selection
        image, viewer = selection.image, self.viewer
        fits = selection.settings.modality == "brightfield" and not selection.on_slide
        if image is not None and viewer is not None and fits and image not in self._asked:
            with contextlib.suppress(SourceError):
                self._ask(image, displayed_plane(viewer, image))
        self._show()

    def _ask(self, image: Image, plane: PlaneRef) -> None:
        if plane.rgb:
            self._asked.add(image)
            self._lane.ask(ScaleRequest(image, plane, ImageSettings("brightfield")))

    def _take(self, request: ScaleRequest, found: MeasuredScale | None) -> None:
        self._measured[request.layer] = found
        self._show()

    def _fail(self, request: ScaleRequest, _: BaseException) -> None:
        # A proposal that cannot be made is none.
        self._measured[request.layer] = None

    def _show(self) -> None:
        self._remove_circle()
        image, viewer, measured = self.session.selection.image, self.viewer, self.measured
        if self.sentence and image is not None and viewer is not None and measured is not None:
            self._add_circle(viewer, image, measured)
        self.changed.emit()

    # -- the circle

    def _add_circle(self, viewer: ViewerModel, image: Image, measured: MeasuredScale) -> None:
        from napari.layers import Shapes

        row, column, diameter = measured.circles[0]
        half = diameter / 2
        corners = np.array([(-half, -half), (-half, half), (half, half), (half, -half)])
        place = np.zeros((4, image.ndim))
        place[:, -2:] = corners + np.array([row, column])
        active = viewer.layers.selection.active
        circle = Shapes(
            [place], shape_type="ellipse", edge_color=_COLOUR, face_color="transparent",
            edge_width=max(1.0, diameter / 25), name=_CIRCLE,
            metadata={METADATA_KEY: {"overlay": "scale"}}, **copied_transform(image),
        )  # fmt: skip
        circle.editable = False
        viewer.add_layer(circle)
        viewer.layers.selection.active = active
        self._circle = weakref.ref(circle)

    def _remove_circle(self) -> None:
        circle = None if self._circle is None else self._circle()
        self._circle = None
        viewer = self.viewer
        if viewer is not None and circle is not None and circle in viewer.layers:
            viewer.layers.remove(circle)
