"""A small TNet with random weights, for tests that need one but not its skill."""

from __future__ import annotations

import dataclasses
from typing import Any

import torch

from napari_sparseattn.bundle import Bundle
from napari_sparseattn.card import Card, CropSpec, Training
from napari_sparseattn.images.normalise import Normalisation
from napari_sparseattn.models.tnet.network import TNet, TNetConfig


def small_tnet(seed: int = 0, **config: Any) -> TNet:
    """A net of three classes whose random location module has clear preferences."""
    torch.manual_seed(seed)
    sizes = {"n_classes": 3, "backbone": {"name": "small", "widths": (8, 8, 16)}, "base": 16}
    net = TNet(TNetConfig(**{**sizes, "image_size": 64, "locations": (2, 1), **config}))
    for parameter in net.parameters():
        torch.nn.init.normal_(parameter, std=0.5)
    return net.eval()


def small_tnet_bundle(seed: int = 0, channels: int = 3, **card: Any) -> Bundle:
    """Return an unsaved bundle of three classes; `card` changes its card."""
    net = small_tnet(seed, in_channels=channels)
    told = {
        "kind": "tnet",
        "name": "small-tnet",
        "class_names": ("left", "middle", "right"),
        "channels": ("red", "green", "blue") if channels == 3 else ("intensity",),
        "modality": "brightfield" if channels == 3 else "unknown",
        "crop": CropSpec(size=64, field_of_view_um=32.0),
        "normalisation": Normalisation("fixed", 0.5, 0.25),
        "architecture": dataclasses.asdict(net.config),
        "training": Training(data="none: random weights"),
        **card,
    }
    return Bundle(Card.model_validate(told), net.state_dict())
