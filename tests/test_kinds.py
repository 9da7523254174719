"""The table of model kinds: every part that a row names is there and is of that kind."""

from __future__ import annotations

import dataclasses
import subprocess
import sys
from collections.abc import Callable

import pytest

from napari_sparseattn.bundle import Bundle
from napari_sparseattn.card import Card
from napari_sparseattn.kinds import KINDS, ModelKind, kind_of_network
from small_model import small_bundle
from small_span import small_span_bundle
from small_tnet import small_tnet_bundle

PARTS = ("network", "build", "evidence", "rerunner", "trainer", "classify_crops", "exporter")
BUNDLES: dict[str, Callable[[], Bundle]] = {
    "sparse-attn-net": small_bundle,
    "tnet": small_tnet_bundle,
    "span-mil": small_span_bundle,
    "span-unet": lambda: small_span_bundle(True),
}


@pytest.mark.parametrize("kind", KINDS.values(), ids=list(KINDS))
def test_every_part_of_a_row_is_there(kind: ModelKind) -> None:
    for part in PARTS:
        if getattr(kind, part):
            assert callable(kind.load(part)), part
        else:
            with pytest.raises(ValueError, match=f"has no {part}"):
                kind.load(part)
    assert bool(kind.classify_crops) == ("cells" in kind.takes)


@pytest.mark.parametrize("name", KINDS)
def test_the_network_of_a_model_is_of_its_kind(name: str) -> None:
    bundle: Bundle = BUNDLES[name]()
    kind = bundle.card.model_kind
    assert kind is KINDS[name]
    model = bundle.model()
    assert isinstance(model, kind.load("network"))
    assert kind_of_network(model) is kind
    assert not kind.setting or hasattr(model.config, kind.setting)


def test_an_unknown_kind_is_named_with_those_there_are() -> None:
    card = small_bundle().card.model_dump()
    with pytest.raises(ValueError, match=r"no kind of model 'resnet'; there are sparse-attn-net"):
        Card.model_validate({**card, "kind": "resnet"})
    with pytest.raises(ValueError, match="no model of a kind that is known"):
        kind_of_network("a text")


def test_a_card_of_another_kind_than_its_architecture_is_refused() -> None:
    bundle = small_span_bundle()
    card = bundle.card.model_copy(update={"kind": "span-unet", "class_names": ("a", "b")})
    with pytest.raises(ValueError, match="contradicts itself"):
        dataclasses.replace(bundle, card=card).model()


def test_the_table_itself_imports_nothing_slow() -> None:
    code = "import sys, napari_sparseattn.kinds; sys.exit('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], check=False, timeout=600).returncode == 0
