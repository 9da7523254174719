"""Small SPANs with random weights, for tests that need one but not its skill."""

from __future__ import annotations

import dataclasses
from typing import Any

import torch

from napari_sparseattn.bundle import Bundle
from napari_sparseattn.card import Card, CropSpec, EncoderSpec, TargetSpec, Training
from napari_sparseattn.images.normalise import Normalisation
from napari_sparseattn.models.span import SpanMil, SpanMilConfig, SpanUnet, SpanUnetConfig

ENCODER = EncoderSpec(name="none", hash="0" * 64, width=128)


def small_span(
    segments: bool = False, seed: int = 0, features: int = 128, outputs: int = 2
) -> SpanMil | SpanUnet:
    """A net whose random weights are large enough for clear preferences."""
    torch.manual_seed(seed)
    net = (
        SpanUnet(SpanUnetConfig(features=features, width=64, channel_factor=1))
        if segments
        else SpanMil(SpanMilConfig(features=features, width=64, n_classes=outputs))
    )
    for parameter in net.parameters():
        if parameter.ndim > 1:
            torch.nn.init.normal_(parameter, std=0.2)
    return net.eval()


def small_span_bundle(
    segments: bool = False, seed: int = 0, encoder: EncoderSpec = ENCODER, **card: Any
) -> Bundle:
    """Return an unsaved bundle of two classes; `card` changes its card."""
    net = small_span(segments, seed, encoder.width)
    told = {
        "kind": "span-unet" if segments else "span-mil",
        "name": "small-span-regions" if segments else "small-span",
        "class_names": ("benign", "tumour"),
        "channels": ("red", "green", "blue"),
        "modality": "brightfield",
        "crop": CropSpec(size=64, field_of_view_um=64.0),
        "encoder": encoder,
        "normalisation": Normalisation("fixed", 0.0, 1.0),
        "architecture": dataclasses.asdict(net.config),
        "training": Training(data="none: random weights"),
        **card,
    }
    return Bundle(Card.model_validate(told), net.state_dict())


#: What small models of a risk or a number have learned of their training slides.
TARGETS_LEARNED = {
    "number": TargetSpec(kind="number", outcome="Ki-67 index", unit="%", mean=20.0, sd=5.0,
                         reference=(0.0, 10.0, 20.0, 40.0)),
    "hazards": TargetSpec(kind="hazards", outcome="recurrence", unit="months",
                          times=(12.0, 24.0, 60.0), reference=(0.1, 0.5, 0.9)),
    "cox": TargetSpec(kind="cox", reference=(-1.0, 0.0, 1.0)),
}  # fmt: skip


def small_risk_bundle(
    kind: str = "hazards", seed: int = 0, encoder: EncoderSpec = ENCODER, **card: Any
) -> Bundle:
    """Return an unsaved bundle that gives a risk or a number."""
    target = TARGETS_LEARNED[kind]
    net = small_span(seed=seed, features=encoder.width, outputs=target.n_outputs)
    changes = {
        "name": f"small-{kind}",
        "class_names": (target.answer_name,),
        "target": target,
        "architecture": dataclasses.asdict(net.config),
    }
    made = small_span_bundle(encoder=encoder).card.model_dump()
    return Bundle(Card.model_validate({**made, **changes, **card}), net.state_dict())
