"""A small model with random weights, for tests that need one but not its skill."""

from __future__ import annotations

import dataclasses
from typing import Any

import numpy as np
import torch

from napari_sparseattn.bundle import Bundle
from napari_sparseattn.card import Card, CropSpec, NoveltySpec, Training
from napari_sparseattn.images.normalise import Normalisation
from napari_sparseattn.known import fit_known_states
from napari_sparseattn.models.sparse.network import SparseAttnNet, SparseAttnNetConfig

SIZES = SparseAttnNetConfig(
    n_classes=3,
    image_size=16,
    k=38,
    width=8,
    depth=1,
    tile_width=8,
    tile_depth=1,
    class_width=8,
    heads=2,
)

#: Of a network that scatters its pixels over a map.
SELECTING = SparseAttnNetConfig(
    n_classes=3,
    image_size=16,
    k=40,
    width=8,
    depth=0,
    tile_width=8,
    tile_depth=1,
    class_width=12,
    heads=3,
    coarse_width=8,
    mixing="none",
    selector="map",
    tiles="pyramid",
)


def small_bundle(channels: int = 3, seed: int = 0, **card: Any) -> Bundle:
    """Return an unsaved bundle of three classes; `card` changes its card."""
    torch.manual_seed(seed)
    config = dataclasses.replace(SIZES, in_channels=channels)
    model = SparseAttnNet(config).eval()
    return Bundle(
        Card(
            **{
                "kind": "sparse-attn-net",
                "name": "small",
                "class_names": ("round", "lobed", "small"),
                "channels": ("red", "green", "blue") if channels == 3 else ("intensity",),
                "modality": "brightfield" if channels == 3 else "unknown",
                "crop": CropSpec(size=16, field_of_view_um=8.0),
                "normalisation": Normalisation("white" if channels == 3 else "fixed"),
                "architecture": dataclasses.asdict(config),
                "training": Training(data="none: random weights"),
                **card,
            }
        ),
        model.state_dict(),
    )


def small_map_bundle(seed: int = 0) -> Bundle:
    """Return the like whose pixels are scattered over a map."""
    torch.manual_seed(seed)
    config = dataclasses.replace(SIZES, selector="map", tiles="pyramid", depth=0, mixing="none")
    card = small_bundle().card.model_copy(update={"architecture": dataclasses.asdict(config)})
    return Bundle(card, SparseAttnNet(config).eval().state_dict())


def knowing(bundle: Bundle, threshold: float = 1.0, n: int = 40) -> Bundle:
    """Return a model of cells with known states, from states drawn by lot."""
    rng = np.random.default_rng(0)
    width = bundle.state["head.weight"].shape[1]
    classes = len(bundle.card.class_names)
    labels = np.arange(n) % classes
    states = rng.normal(size=(n, width)).astype(np.float32)
    known = fit_known_states(states, labels, states[:3])
    spec = NoveltySpec(false_alarms=0.25, n=n, n_validation=3, kept=len(known.labels))
    return dataclasses.replace(
        bundle,
        card=bundle.card.model_copy(update={"novelty": spec}),
        known=dataclasses.replace(known, threshold=threshold),
    )


def softened(bundle: Bundle, softening: float, start: float = 1.0) -> Bundle:
    """Return a model with known states whose confidence falls with novelty."""
    assert bundle.card.novelty is not None
    changes = {"softening": softening, "softening_from": start}
    spec = bundle.card.novelty.model_copy(update=changes)
    return dataclasses.replace(bundle, card=bundle.card.model_copy(update={"novelty": spec}))
