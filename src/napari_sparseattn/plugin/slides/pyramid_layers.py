"""A SPAN's attention as layers: one coarse image per level, and what is picked out."""

from __future__ import annotations

import functools
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt

from ..core.layers import (
    OverlayLayers,
    copied_transform,
    marked,
    move,
    outline,
    outline_ellipse,
    outline_layer,
    update_outline,
)
from ..core.sources import METADATA_KEY
from .pyramid_maps import (
    ATTENTION,
    EXPLANATION,
    FOCI,
    LOCAL,
    PATCH,
    PROBABILITY,
    QUANTITIES,
    TISSUE,
    Drawn,
    Placement,
    PyramidChoice,
    colour_name,
    explanation_map,
    level_map,
    level_role,
    local_grid,
    probability_map,
)

if TYPE_CHECKING:
    from napari.layers import Image, Layer, Points, Shapes

    from ...evidence import Foci, PyramidAttention
    from ...inference.slides import LocalAttention

__all__ = ["PyramidLayers", "same_outlines"]

_SELECTED = "#00d5ff"
_OUTLINE = "#0072b2"
#: A local map's values span at least this, in multiples of uniform.
_LEAST_SPAN = 2.0


class PyramidLayers(OverlayLayers[str]):
    """Draws what a SPAN attended to; hidden maps are brought up to date when shown."""

    def apply(self, choice: PyramidChoice) -> None:
        """Show and hide the layers of all slides."""
        for layers in list(self._layers.values()):
            for role, layer in layers.items():
                if role != TISSUE:
                    self.set_visible(layer, choice.of(role))

    def clear(self, source: Image, *, keep: Sequence[str] = (TISSUE,)) -> None:
        """Take the layers of a slide away; the tissue is the user's."""
        self.remove(source, [r for r in self._layers.get(source, {}) if r not in keep])

    def clear_all(self) -> None:
        """Take the layers of all slides away, but for the tissue."""
        for source in list(self._layers):
            self.clear(source)

    def show_attention(
        self,
        source: Image,
        index: Sequence[int],
        attention: PyramidAttention,
        choice: PyramidChoice,
    ) -> None:
        """Show one map per level, the coarsest lowest, and that of the probabilities.

        Parameters
        ----------
        source : napari.layers.Image
            The slide, or a field.
        index : sequence of int
            The plane, for stacks.
        attention : PyramidAttention
            What was attended to.
        choice : PyramidChoice
            What to show.
        """
        n_levels = len(attention.levels)
        wanted = {level_role(level) for level in range(n_levels)}
        gone = [
            r for r in self._layers.get(source, {}) if r.startswith("level") and r not in wanted
        ]
        self.remove(source, gone)
        for level in reversed(range(n_levels)):
            draw = functools.partial(level_map, attention, level, choice)
            name, place = f"attention level {level}", attention.placement(level)
            self._show_map(source, index, level_role(level), name, draw, place, choice)
        if attention.patch_probabilities is None:
            self.remove(source, [PROBABILITY])
            return
        name = f"probability of {attention.class_names[-1].replace('_', ' ')}"
        place = attention.probability_placement()
        draw = functools.partial(probability_map, attention)
        self._show_map(source, index, PROBABILITY, name, draw, place, choice)

    def show_explanation(
        self,
        source: Image,
        index: Sequence[int],
        attention: PyramidAttention,
        explained: tuple[str, npt.NDArray[np.float32]] | None,
        choice: PyramidChoice,
    ) -> None:
        """Show how much each patch speaks for a class, by a method of a name; or take that away."""
        if explained is None:
            self.remove(source, [EXPLANATION])
            return
        name, values = explained
        draw = functools.partial(explanation_map, attention, values)
        place = attention.probability_placement()
        self._show_map(source, index, EXPLANATION, name, draw, place, choice)
        self._raise(source, PATCH)

    def show_foci(
        self,
        source: Image,
        index: Sequence[int],
        attention: PyramidAttention,
        foci: Foci | None,
        choice: PyramidChoice,
    ) -> None:
        """Outline the foci of the tissue that was found, or take them away."""
        if foci is None:
            self.remove(source, [FOCI])
            return
        from napari.layers import Labels

        scale, translate = attention.probability_placement()
        place = copied_transform(source, translate, scale, index)
        values = foci.labels.reshape((1,) * len(index) + foci.labels.shape)
        layer: Labels | None = self.layer(source, FOCI)
        if layer is None:
            name = f"[{source.name}] foci of {attention.class_names[-1].replace('_', ' ')}"
            layer = Labels(values, name=name, opacity=1.0, metadata=marked(FOCI), **place)
            layer.contour = 1
            self.add_layer(source, FOCI, layer)
            self.set_visible(layer, choice.of(FOCI))
        else:
            layer.data = values
            move(layer, place)
        self._raise(source, PATCH)

    def show_local(
        self,
        source: Image,
        index: Sequence[int],
        attention: PyramidAttention,
        local: LocalAttention | None,
        choice: PyramidChoice,
    ) -> None:
        """Show where one patch's local attention went, or take that away."""
        found = None if local is None else local_grid(attention, local, choice.head)
        if found is None:
            self.remove(source, [LOCAL])
            return
        values, place = found
        limits = (0.0, max(float(np.nanmax(values)), _LEAST_SPAN))
        self._show_map(
            source, index, LOCAL, "local attention", lambda: (values, limits), place, choice
        )
        self._raise(source, PATCH)

    def show_patch(
        self,
        source: Image,
        index: Sequence[int],
        attention: PyramidAttention,
        patch: int | None,
    ) -> None:
        """Outline one patch, or none."""
        if patch is None:
            self.remove(source, [PATCH])
            return
        top, left, side = attention.patch_box(patch)
        # napari puts a pixel's centre at its index, boxes its corner.
        place = copied_transform(source, (top - 0.5, left - 0.5), 1.0, index)
        drawn = outline(source, side, _SELECTED)
        layer: Points | None = self.layer(source, PATCH)
        if layer is None:
            self.add_layer(source, PATCH, outline_layer(source, PATCH, "patch", drawn, place))
        else:
            update_outline(layer, drawn, place)

    # -- tissue

    def show_tissue(
        self, source: Image, index: Sequence[int], polygons: Sequence[npt.NDArray[np.float64]]
    ) -> Shapes:
        """Put outlines of the tissue into a layer that the user may edit.

        Parameters
        ----------
        source : napari.layers.Image
            The slide.
        index : sequence of int
            The plane, for stacks.
        polygons : sequence of numpy.ndarray
            (n, 2) each, (y, x) in pixels of the full resolution.
        """
        from napari.layers import Shapes

        ahead = [0.0] * len(index)
        corners = [
            np.column_stack([np.tile(ahead, (len(polygon), 1)), polygon - 0.5])
            for polygon in polygons
        ]
        old: Shapes | None = self.layer(source, TISSUE)
        place = copied_transform(source, index=index)
        if old is not None:
            old.data = [(polygon, "polygon") for polygon in corners]
            move(old, place)
            return old
        layer = Shapes(
            corners,
            shape_type="polygon",
            ndim=source.ndim,
            name=f"[{source.name}] tissue",
            face_color="transparent",
            edge_color=_OUTLINE,
            edge_width=_longer_side(source) / 700,
            opacity=1.0,
            metadata=marked(TISSUE),
            **place,
        )
        self.add_layer(source, TISSUE, layer)
        return layer

    def set_aside_tissue(self, source: Image) -> None:
        """Leave the layer of the tissue to the user as it is, and make another next time."""
        layer = self.layer(source, TISSUE)
        if layer is None:
            return
        self._layers[source].pop(TISSUE)
        layer.events.visible.disconnect(self._visible_changed)
        layer.name, layer.visible = f"[{source.name}] tissue, as edited", False
        layer.metadata.pop(METADATA_KEY, None)

    def tissue(self, source: Image) -> list[npt.NDArray[np.float64]] | None:
        """Return the outlines (n, 2) as the user left them, in pixels; None without the layer."""
        layer = self._tissue_layer(source)
        if layer is None:
            return None
        found = []
        for corners, kind in zip(layer.data, layer.shape_type, strict=True):
            if kind in ("line", "path"):
                continue
            outline = outline_ellipse(corners) if kind == "ellipse" else corners
            world = [source.world_to_data(layer.data_to_world(point))[-2:] for point in outline]
            found.append(np.asarray(world, np.float64) + 0.5)
        return found

    # -- within

    def _tissue_layer(self, source: Image) -> Shapes | None:
        """The layer made here, or one of the user's of that name, as after a session reloaded."""
        made: Shapes | None = self.layer(source, TISSUE)
        viewer = self._viewer()
        if made is not None or viewer is None:
            return made
        from napari.layers import Shapes

        names = ("tissue", f"[{source.name}] tissue")
        return next((x for x in viewer.layers if isinstance(x, Shapes) and x.name in names), None)

    def _show_map(
        self,
        source: Image,
        index: Sequence[int],
        role: str,
        name: str,
        draw: Callable[[], Drawn],
        placement: Placement,
        choice: PyramidChoice,
    ) -> None:
        """Add a map or bring it up to date; `draw` gives its values once they are needed."""
        scale, translate = placement
        place = copied_transform(source, translate, scale, index)
        layer = self.layer(source, role)
        if layer is None:
            values, limits = draw()
            values = values.reshape((1,) * len(index) + values.shape)
            layer = self._add_map(source, role, name, values, limits, place)
            self.set_visible(layer, choice.of(role))
            return

        def update(image: Image) -> None:
            values, limits = draw()
            values = values.reshape((1,) * len(index) + values.shape)
            if image.name != f"[{source.name}] {name}":
                image.name = f"[{source.name}] {name}"
            if tuple(image.contrast_limits) != limits:
                image.contrast_limits_range = limits
                image.contrast_limits = limits
            # In place, as setting `data` makes the viewer measure all layers anew.
            if image.data.shape != values.shape:
                image.data = values
            else:
                np.copyto(image.data, values)
            if not move(image, place):
                image.refresh(extent=False)

        self.update_layer(layer, update, choice.of(role))

    def _raise(self, source: Image, role: str) -> None:
        """Put a layer above all others."""
        viewer, layer = self._viewer(), self.layer(source, role)
        if viewer is not None and layer is not None and viewer.layers[-1] is not layer:
            viewer.layers.move(viewer.layers.index(layer), len(viewer.layers))

    def _add_map(
        self,
        source: Image,
        role: str,
        name: str,
        values: npt.NDArray[np.float32],
        limits: tuple[float, float],
        place: dict[str, Any],
    ) -> Layer:
        from napari.layers import Image

        layer = Image(
            values,
            name=f"[{source.name}] {name}",
            colormap=colour_name(role if role in QUANTITIES else ATTENTION),
            contrast_limits=limits,
            opacity=0.75,
            metadata=marked(role),
            **place,
        )
        return self.add_layer(source, role, layer)


def same_outlines(
    first: Sequence[npt.NDArray[np.float64]], second: Sequence[npt.NDArray[np.float64]]
) -> bool:
    """Tell whether outlines are the same, in the same order."""
    return len(first) == len(second) and all(
        a.shape == b.shape and np.allclose(a, b) for a, b in zip(first, second, strict=True)
    )


def _longer_side(source: Image) -> int:
    data = source.data[0] if source.multiscale else source.data
    return int(max(data.shape[source.ndim - 2 : source.ndim]))
