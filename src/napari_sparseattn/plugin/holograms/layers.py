"""Reconstructed images as layers: placed on their source, updated in place."""

from __future__ import annotations

import dataclasses
import weakref
from typing import TYPE_CHECKING, Any

from ..core.layers import copied_transform
from ..core.sources import METADATA_KEY
from .requests import ReconstructAnswer

if TYPE_CHECKING:
    from pathlib import Path

    from napari.components import ViewerModel
    from napari.layers import Image

    from ...images.holograms.recording import Kind
    from ...images.holograms.settings import HologramSettings

__all__ = ["Made", "OpdLayers", "made_of"]

_MADE = "made"


@dataclasses.dataclass(frozen=True, eq=False)
class Made:
    """From what, and how, a layer was reconstructed.

    Parameters
    ----------
    path : pathlib.Path or None
        The recording's file; None for one in memory.
    name : str
        Of the recording.
    kind : {"hologram", "field", "phase", "opd"}
        What its frames are.
    settings : HologramSettings
        The user's, with what was known of the recording.
    background : pathlib.Path or None
        The file of the background, where that is one of its own.
    known : bool
        Whether the background, if there is one, is in a file.
    """

    path: Path | None
    name: str
    kind: Kind
    settings: HologramSettings
    background: Path | None
    known: bool


def made_of(layer: Image) -> Made | None:
    """Return how this plugin reconstructed a layer; None of other layers."""
    found = layer.metadata.get(METADATA_KEY, {}).get(_MADE)
    return found if isinstance(found, Made) else None


class OpdLayers:
    """The reconstructions of one viewer, one per source.

    Parameters
    ----------
    viewer : napari.components.ViewerModel
        Held weakly.
    """

    def __init__(self, viewer: ViewerModel) -> None:
        self._viewer = weakref.ref(viewer)
        self._layers: weakref.WeakKeyDictionary[Image, Image] = weakref.WeakKeyDictionary()
        self._limits: weakref.WeakKeyDictionary[Image, list[float]] = weakref.WeakKeyDictionary()

    def layer(self, source: Image) -> Image | None:
        """Return the reconstruction of a layer, if the user has not removed it."""
        viewer, layer = self._viewer(), self._layers.get(source)
        return (
            layer if viewer is not None and layer is not None and layer in viewer.layers else None
        )

    def show(self, source: Image, answer: ReconstructAnswer, made: Made | None = None) -> Image:
        """Add or update the reconstruction of a layer, and make it the active one."""
        viewer = self._viewer()
        assert viewer is not None
        layer = self.layer(source)
        if layer is not None and layer.ndim != source.ndim:
            viewer.layers.remove(layer)
            layer = None
        name = f"{source.name} {'OPD' if answer.unit == 'nm' else 'phase'}"
        if layer is None:
            layer = self._add(viewer, source, name, answer)
        else:
            self._update(layer, source, name, answer)
        layer.metadata[METADATA_KEY][_MADE] = made
        self._limits[layer] = list(layer.contrast_limits)
        viewer.layers.selection.active = layer
        return layer

    def _add(
        self, viewer: ViewerModel, source: Image, name: str, answer: ReconstructAnswer
    ) -> Image:
        from napari.layers import Image

        layer = Image(
            answer.values,
            name=name,
            # Evidence and classes are drawn over it in colours.
            colormap="gray",
            contrast_limits=answer.limits,
            metadata=_metadata(source, answer),
            **copied_transform(source),
        )
        layer.colorbar.visible = layer.colorbar.box = True
        layer.colorbar.size = (12, 90)
        self._layers[source] = layer
        viewer.add_layer(layer)
        return layer

    def _update(self, layer: Image, source: Image, name: str, answer: ReconstructAnswer) -> None:
        untouched = list(layer.contrast_limits) == self._limits.get(layer)
        place = copied_transform(source)
        # Before the data: who listens to those looks here for what they are.
        layer.metadata = _metadata(source, answer)
        layer.data = answer.values
        layer.name = name
        for attribute, value in place.items():
            setattr(layer, attribute, value)
        if untouched:
            layer.reset_contrast_limits_range()
            layer.contrast_limits = answer.limits


def _metadata(source: Image, answer: ReconstructAnswer) -> dict[str, Any]:
    return {
        METADATA_KEY: {
            "modality": "opd" if answer.unit == "nm" else "phase",
            "unit": answer.unit,
            "reconstruction": {
                "source": source.name,
                "scale_known": answer.unit == "nm",
                "settings": dataclasses.asdict(answer.settled),
            },
        }
    }
