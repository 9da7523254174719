"""A small slide with tissue, a SPAN for it, and its work done at once."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
from napari.components import ViewerModel
from napari.layers import Image

from bad_slides import halves
from napari_sparseattn.card import CropSpec, EncoderSpec
from napari_sparseattn.features.encoders import load_encoder
from napari_sparseattn.images.slides.pyramid import VirtualPyramid
from napari_sparseattn.plugin.core.models import Model
from napari_sparseattn.plugin.slides.layers import slide_layer
from small_span import small_span_bundle

SIDE = 1536
#: Side of a patch in pixels and in µm: the slide has 1 µm per pixel.
PATCH = 192
#: Row, column and radius of the tissue in pixels of the full resolution.
TISSUE = (740.0, 780.0, 600.0)


def tissue_pixels() -> np.ndarray[Any, np.dtype[np.uint8]]:
    """A pink, grainy disc on glass: (SIDE, SIDE, 3)."""
    rng = np.random.default_rng(0)
    image = np.full((SIDE, SIDE, 3), 242.0)
    rows, columns = np.indices((SIDE, SIDE))
    disc = np.hypot(rows - TISSUE[0], columns - TISSUE[1]) <= TISSUE[2]
    image[disc] = (205, 130, 180)
    dark = disc & (rng.random((SIDE // 8, SIDE // 8)) < 0.25).repeat(8, 0).repeat(8, 1)
    image[dark] = (95, 60, 140)
    return (image + rng.normal(0, 4, image.shape)).clip(0, 255).astype(np.uint8)


LEVELS = halves(tissue_pixels(), 3)


def tissue_slide(pixel_size: float | None = 1.0, name: str = "s") -> VirtualPyramid:
    """Return the slide; at 2 µm per pixel it has four batches of patches."""

    def render(level: int, y: int, x: int, height: int, width: int) -> Any:
        return LEVELS[level][y : y + height, x : x + width]

    return VirtualPyramid(
        render, SIDE, SIDE, n_levels=len(LEVELS), pixel_size=pixel_size, name=name, cache_bytes=0
    )


def add_slide(viewer: ViewerModel, **slide: Any) -> Image:
    """Add the slide as a layer."""
    data, attributes, _ = slide_layer(tissue_slide(**slide))
    return viewer.add_image(data, **attributes)


def span_model(segments: bool = False, **card: Any) -> Model:
    """Return a small SPAN on the embedded encoder's features of patches of 192 µm."""
    encoder = load_encoder("stain-texture")
    spec = EncoderSpec(
        name=encoder.name, hash=encoder.hash, width=encoder.width, licence=encoder.licence
    )
    crop = CropSpec(size=PATCH, field_of_view_um=float(PATCH))
    bundle = small_span_bundle(segments, encoder=spec, crop=crop, **card)
    return Model(bundle, "cpu", "CPU", ("cpu",))


def keep_features_in(monkeypatch: Any, folder: Path) -> None:
    """Let the user's cache be a folder of the test's."""
    import platformdirs

    monkeypatch.setattr(platformdirs, "user_cache_path", lambda *_, **__: folder)
