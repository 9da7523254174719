"""Load the weights of SPAN's authors' code, unchanged."""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Mapping
from typing import Any

from torch import Tensor

from .config import SpanMilConfig, SpanUnetConfig
from .mil import SpanMil
from .unet import SpanUnet

__all__ = ["load_official", "our_name"]

#: What the authors' configuration must say for their function to be ours. A
#: missing entry takes the authors' own default, the second value where it differs.
_COMMON: dict[str, tuple[Any, ...]] = {
    "trans_type": ("long",),
    "enc_act": ("relu",),
    "drop_path": (0,),
    "window_size": (3,),
    "share_qkv": (False, True),
    "pos_emb": ("rpb",),
    "kernel_size": (2,),
    "stride": (2,),
    "dilation": (1,),
    "groups": (1,),
    "conv_bias": (False,),
}
_MIL = _COMMON | {
    "slide_configs": ("111",),
    "channel_factor": (1,),
    "econvs_type": ("dwpatchconv",),
    "edge_mode": ("count", "none"),
    "conv_norm_position": ("pre", "post"),
}
_UNET = _COMMON | {
    "dtrans_type": ("long",),
    "econvs_type": ("patchconv",),
    "dconvs_type": ("pixelshuffle",),
    "edge_mode": ("none",),
    "conv_norm_position": ("post",),
    "connection": ("concat",),
    "skip_first": (1,),
}
_INPUT = {"activation": (None,), "prenorm": (False,), "bias": (False, True)}

_LAYER = {
    "q1": "query",
    "k1": "key",
    "v1": "value",
    "q2": "global_query",
    "k2": "global_key",
    "v2": "global_value",
    "fc_out": "out",
    "ffn.0": "up",
    "ffn.3": "down",
    "norm1": "norm1",
    "norm2": "norm2",
}


def load_official(
    state_dict: Mapping[str, Tensor], config: Mapping[str, Any] | str
) -> SpanMil | SpanUnet:
    """Build the network that the authors' code would, with their weights.

    Parameters
    ----------
    state_dict : mapping of str to Tensor
        As their code saves it; where names carry the prefix ``state.``, only
        those are read.
    config : mapping or str
        The ``model`` part of their configuration, or that as JSON.

    Returns
    -------
    SpanMil or SpanUnet
        In evaluation mode, on the weights' device. Called as
        ``model(features, cells)`` with integer patch-grid cells: their
        ``(coords / 224).int()``.

    Raises
    ------
    ValueError
        If the configuration asks for something that is not ours, or the
        weights do not fit it.
    """
    settings = json.loads(config) if isinstance(config, str) else config
    if not isinstance(settings, Mapping):
        raise ValueError(f"the configuration must be a mapping, got {type(settings).__name__}")
    settings = dict(settings)
    prefix = "state." if any(name.startswith("state.") for name in state_dict) else ""
    state = {
        name.removeprefix(prefix): tensor
        for name, tensor in state_dict.items()
        if name.startswith(prefix)
    }
    # A configuration from YAML may hold the number 111.
    settings["slide_configs"] = str(settings.get("slide_configs", "111"))
    unet = "-" in settings["slide_configs"]
    _refuse_others(settings, _UNET if unet else _MIL)
    entry = _entry(state, "encoder.blocks.0.modules_dict.convs_0.0.conv_block.linear.0.weight")
    sizes = _sizes(settings, entry)
    model: SpanMil | SpanUnet
    if unet:
        sizes["channel_factor"] = int(settings.get("channel_factor", 1))
        model = SpanUnet(SpanUnetConfig(**sizes, layout=settings["slide_configs"]))
    else:
        head = _entry(state, "aggregator.module.fc.1.weight")
        model = SpanMil(SpanMilConfig(**sizes, n_classes=head.shape[0]))
    names = {name: our_name(name) for name in state}
    renamed = {ours: state[name] for name, ours in names.items() if ours is not None}
    try:
        model.to(device=entry.device, dtype=entry.dtype).load_state_dict(renamed)
    except RuntimeError as error:
        raise ValueError(f"the weights do not fit their configuration: {error}") from error
    return model.eval()


def our_name(theirs: str) -> str | None:
    """Translate the name of one of the authors' tensors.

    Returns
    -------
    str or None
        None for the one projection that their code has and never uses, that of
        the global tokens beside SPAN-UNet's head. A name that is not known
        comes back as it is, so that loading it fails.
    """
    for pattern, ours in _RULES:
        if found := re.fullmatch(pattern, theirs):
            return ours(found)
    return theirs


def _layer(found: re.Match[str]) -> str:
    side, block, layer, rest = found.groups()
    where = f"refinements.{block}" if side == "encoder" else f"ups.{block}.refinements.{layer}"
    if rest == "table_RPB.adjustment_tables":
        return f"{where}.bias"
    module, _, kind = rest.rpartition(".")
    return f"{where}.{_LAYER.get(module, module)}.{kind}"


def _down(found: re.Match[str]) -> str:
    block, rest = int(found[1]), found[2]
    if block == 0:
        return (
            "embedding.patches.weight" if "linear" in rest else f"embedding.token_proj.{found[3]}"
        )
    names = {
        "conv_block.dwconv": "conv",
        "conv_block.input_norm": "norm",
        "conv_block.output_norm": "norm",
        "global_input_norm": "token_norm",
        "identity_proj": "token_proj",
        "g_proj": "token_proj",
    }
    return f"condensations.{block - 1}.{names[rest]}.{found[3]}"


def _up(found: re.Match[str]) -> str | None:
    block, rest = int(found[1]), found[2]
    if rest == "conv_block.linear.1":
        return f"head.{found[3]}"
    if block == 2:
        return None
    names = {
        "conv_block.conv": "expansion.linear",
        "conv_block.output_norm": "expansion.norm",
        "identity_proj": "expansion.token_proj",
        "g_proj": "expansion.token_proj",
    }
    return f"ups.{block}.{names[rest]}.{found[3]}"


_BLOCK = r"blocks\.([0-2])\.modules_dict\.convs_0\.0\."
_TOKENS = "global_input_norm|identity_proj|g_proj"
_KIND = r"\.(weight|bias)"
_RULES: tuple[tuple[str, Callable[[re.Match[str]], str | None]], ...] = (
    (
        r"(encoder|decoder)\.blocks\.(\d)\.modules_dict\.trans_2\.(\d)\.trans_block\.(.+)",
        _layer,
    ),
    (
        rf"encoder\.{_BLOCK}(conv_block\.(?:linear\.0|dwconv|\w+_norm)|{_TOKENS}){_KIND}",
        _down,
    ),
    (
        rf"decoder\.{_BLOCK}(conv_block\.(?:conv|output_norm|linear\.1)|{_TOKENS}){_KIND}",
        _up,
    ),
    (r"aggregator\.module\.norm\.(weight|bias)", lambda found: f"norm.{found[1]}"),
    (r"aggregator\.module\.fc\.1\.(weight|bias)", lambda found: f"head.{found[1]}"),
    (r"encoder\.learnable_tokens\.(\d+)", lambda found: f"tokens.learned.{found[1]}"),
    (r"encoder\.fixed_tokens", lambda _: "tokens.fixed"),
)


def _entry(state: Mapping[str, Tensor], name: str) -> Tensor:
    if name not in state:
        raise ValueError(f"these are not SPAN's weights: {name} is missing")
    return state[name]


def _sizes(settings: Mapping[str, Any], entry: Tensor) -> dict[str, Any]:
    """What both configurations share, from the authors' and the first weight (D, F)."""
    width, features = entry.shape
    tokens = settings.get("token_init_types", [])
    if isinstance(tokens, str) or not all(isinstance(token, str) for token in tokens):
        raise ValueError(f"token_init_types must be a list of names, got {tokens!r}")
    return {
        "features": features,
        "width": 0 if width * 2 == features else width,
        "ff_ratio": float(settings.get("ff_ratio", 2)),
        "tokens": tuple(token.strip().lower() for token in tokens),
        "strategy": settings.get("global_strategy", "proj"),
        "input_dropout": float(settings.get("input_projection", {}).get("dropout", 0.0)),
        "attention_dropout": float(settings.get("attn_drop", 0.0)),
        "projection_dropout": float(settings.get("proj_drop", 0.0)),
    }


def _refuse_others(settings: Mapping[str, Any], wanted: Mapping[str, tuple[Any, ...]]) -> None:
    projection = settings.get("input_projection", {})
    entries = [(name, settings, values) for name, values in wanted.items()]
    entries += [(name, projection, values) for name, values in _INPUT.items()]
    for name, source, values in entries:
        value = source.get(name, values[-1])
        value = value.strip().lower() if isinstance(value, str) else value
        if value != values[0]:
            raise ValueError(
                f"{name} = {value!r} in the authors' configuration is not supported, "
                f"only {values[0]!r}"
            )
