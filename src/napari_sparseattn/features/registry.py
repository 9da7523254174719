"""Encoders by a short name: where they are, how they want their patches, and their licences.

Licences, sources and revisions were read on the models' pages. Of what was not found
there, such as the exact revision of some weights or the µm per pixel, there is None.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from types import MappingProxyType

__all__ = ["ENCODERS", "EncoderEntry", "find_entry"]

_LUNIT = ((0.70322989, 0.53606487, 0.66096631), (0.21716536, 0.26081574, 0.20723464))
_GATED = "{}; gated: ask for access at its page and read the terms"
_OWN_CODE = (
    "it brings code of its own, which this plugin does not run. Make the features with its "
    "authors' code or with TRIDENT, and train on these"
)


@dataclasses.dataclass(frozen=True)
class EncoderEntry:
    """What is known of one encoder.

    Parameters
    ----------
    name : str
        As `load_encoder` takes it, and cards name it.
    source : str
        ``"timm:hf-hub:OWNER/NAME"`` or ``"transformers:OWNER/NAME"``.
    licence : str
        Of the weights, from their page.
    pixel_size : float or None
        µm per pixel that it is meant for; None where that was not read on its
        authors' pages.
    size : int
        Pixels along a patch.
    mean, std : tuple of float, optional
        What its authors normalise colours by, of values 0..1; None where its
        files say it.
    revision : str or None
        The commit of its repository, 40 hexadecimal digits; None where it
        could not be checked: the newest is then taken, and told apart by the
        hash of its weights.
    refused : str
        Why it cannot be run here; empty where it can.
    of : str
        What it was trained on.
    """

    name: str
    source: str
    licence: str
    pixel_size: float | None = None
    size: int = 224
    mean: tuple[float, ...] | None = None
    std: tuple[float, ...] | None = None
    revision: str | None = None
    refused: str = ""
    of: str = "histology"

    @property
    def repository(self) -> str:
        """Owner and name on the hub."""
        return self.source.partition(":")[2].removeprefix("hf-hub:")


_TABLE = (
    EncoderEntry(
        "dinobloom-s",
        "timm:hf-hub:1aurent/vit_small_patch14_224.dinobloom",
        "Apache-2.0",
        revision="081273a56d4512d90ddafcc47b28e8b21b29ce01",
        of="single white cells of blood and bone marrow",
    ),
    EncoderEntry(
        "dinobloom-b",
        "timm:hf-hub:1aurent/vit_base_patch14_224.dinobloom",
        "Apache-2.0",
        of="single white cells of blood and bone marrow",
    ),
    EncoderEntry(
        "dinobloom-l",
        "timm:hf-hub:1aurent/vit_large_patch14_224.dinobloom",
        "Apache-2.0",
        revision="a22385b992c79d1abc7cdaeca770ddd2393f0d93",
        of="single white cells of blood and bone marrow",
    ),
    EncoderEntry(
        "kaiko-vitb8",
        "timm:hf-hub:1aurent/vit_base_patch8_224.kaiko_ai_towards_large_pathology_fms",
        "kaiko-non-commercial: research only, read the terms at its page",
        revision="a4eb74de76274a5f3fe8260841a1b07a90930f43",
    ),
    EncoderEntry(
        "kaiko-vitb16",
        "timm:hf-hub:1aurent/vit_base_patch16_224.kaiko_ai_towards_large_pathology_fms",
        "kaiko-non-commercial: research only, read the terms at its page",
        revision="797c524a94c7fdae8ea33064d0ac6966ed8956bb",
    ),
    EncoderEntry(
        "kaiko-vits16",
        "timm:hf-hub:1aurent/vit_small_patch16_224.kaiko_ai_towards_large_pathology_fms",
        "kaiko-non-commercial: research only, read the terms at its page",
    ),
    EncoderEntry(
        "lunit-vits8",
        "timm:hf-hub:1aurent/vit_small_patch8_224.lunit_dino",
        "lunit-non-commercial: research only, read the terms at its page",
        mean=_LUNIT[0],
        std=_LUNIT[1],
        revision="c23bc01cfbe022bc1f2a8a9306125a07818e4eb4",
    ),
    EncoderEntry(
        "lunit-vits16",
        "timm:hf-hub:1aurent/vit_small_patch16_224.lunit_dino",
        "lunit-non-commercial: research only, read the terms at its page",
        mean=_LUNIT[0],
        std=_LUNIT[1],
    ),
    EncoderEntry(
        "hibou-b",
        "transformers:histai/hibou-b",
        "Apache-2.0",
        refused=_OWN_CODE,
    ),
    EncoderEntry(
        "hibou-l",
        "transformers:histai/hibou-L",
        "Apache-2.0; its page asks for your contact",
        refused=_OWN_CODE,
    ),
    EncoderEntry("h-optimus-0", "timm:hf-hub:bioptimus/H-optimus-0", "Apache-2.0"),
    EncoderEntry("virchow", "timm:hf-hub:paige-ai/Virchow", "Apache-2.0"),
    EncoderEntry(
        "virchow2",
        "timm:hf-hub:paige-ai/Virchow2",
        _GATED.format("CC BY-NC-ND 4.0, non-commercial research only"),
    ),
    EncoderEntry(
        "uni",
        "timm:hf-hub:MahmoodLab/UNI",
        _GATED.format("CC BY-NC-ND 4.0, non-commercial research only"),
    ),
    EncoderEntry(
        "phikon",
        "transformers:owkin/phikon",
        "Owkin non-commercial licence: research only",
    ),
    EncoderEntry(
        "phikon-v2",
        "transformers:owkin/phikon-v2",
        "Owkin non-commercial licence: research only",
    ),
    EncoderEntry(
        "resnet50",
        "timm:resnet50.a1_in1k",
        "Apache-2.0; trained on ImageNet",
        of="photographs (ImageNet)",
    ),
)

#: By their short names.
ENCODERS: Mapping[str, EncoderEntry] = MappingProxyType({each.name: each for each in _TABLE})
_BY_SOURCE = {each.source.lower(): each for each in _TABLE}


def find_entry(name: str) -> EncoderEntry | None:
    """Return what is known of an encoder by its short name or its source; None if nothing."""
    return ENCODERS.get(name.lower()) or _BY_SOURCE.get(name.lower())
