"""Feature extractors: crops in, a feature map and one pooled vector out."""

from __future__ import annotations

import itertools
import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from .mobilenet import CHANNELS, MAP_CHANNELS, WIDTH, MobileNetV2

if TYPE_CHECKING:
    from transformers import PreTrainedModel

__all__ = [
    "Backbone",
    "MobileNetBackbone",
    "SmallBackbone",
    "TransformersBackbone",
    "backbone_from_config",
    "pretrained_backbone",
]


class Backbone(nn.Module):
    """Base of all backbones; subclass it to use any network.

    Parameters
    ----------
    map_channels : int
        Channels c of the intermediate map.
    features : int
        Width D of the pooled vector.
    """

    def __init__(self, map_channels: int, features: int) -> None:
        super().__init__()
        self.map_channels, self.features = map_channels, features

    def forward(self, crops: Tensor) -> tuple[Tensor, Tensor]:
        """Return the map (M, c, h, w) and the pooled vectors (M, D) of crops (M, C, b, b)."""
        raise NotImplementedError


class SmallBackbone(Backbone):
    """A small residual network with group normalisation: the embedded default (ours).

    A strided convolution, then one stage per further width, each halving the
    map with one 3 x 3 convolution and refining it with another. The map is that
    of the last stage but one, at an eighth of the crop's side by default.
    Group normalisation treats every crop alone, so that what one crop gives
    does not depend on which others were chosen.

    Parameters
    ----------
    in_channels : int
        Channels C of a crop.
    widths : sequence of int
        Channels of the stages, at least 2; multiples of 8.
    """

    def __init__(self, in_channels: int = 3, widths: Sequence[int] = (24, 48, 96, 160)) -> None:
        if not 2 <= len(widths) <= 8 or any(w % 8 or not 8 <= w <= 4096 for w in widths):
            raise ValueError(f"widths must be 2 to 8 multiples of 8, got {widths!r}")
        super().__init__(widths[-2], widths[-1])
        self.stem = _convolution(in_channels, widths[0], stride=2)
        self.stages = nn.ModuleList(
            _Stage(inputs, outputs) for inputs, outputs in itertools.pairwise(widths)
        )

    def forward(self, crops: Tensor) -> tuple[Tensor, Tensor]:
        """See `Backbone`."""
        x = self.stem(crops)
        for stage in self.stages[:-1]:
            x = stage(x)
        return x, self.stages[-1](x).mean(dim=(2, 3))


class _Stage(nn.Module):
    def __init__(self, inputs: int, outputs: int) -> None:
        super().__init__()
        self.down = _convolution(inputs, outputs, stride=2)
        self.refine = nn.Sequential(
            nn.Conv2d(outputs, outputs, 3, padding=1, bias=False), _norm(outputs)
        )

    def forward(self, x: Tensor) -> Tensor:
        x = self.down(x)
        return F.silu(x + self.refine(x))


def _convolution(inputs: int, outputs: int, stride: int) -> nn.Sequential:
    return nn.Sequential(
        nn.Conv2d(inputs, outputs, 3, stride, padding=1, bias=False), _norm(outputs), nn.SiLU()
    )


def _norm(channels: int) -> nn.GroupNorm:
    return nn.GroupNorm(channels // 8, channels)


class MobileNetBackbone(Backbone):
    """MobileNetV2, narrowed as our encoder of tissue is, with whose weights it may begin.

    Without batch normalisation, which is in the convolutions: what one crop
    gives does not depend on which others were chosen. The map is at a
    sixteenth of the crop's side.
    """

    def __init__(self) -> None:
        super().__init__(MAP_CHANNELS, WIDTH)
        self.trunk = MobileNetV2()
        self.narrow = nn.Linear(CHANNELS, WIDTH)

    def forward(self, crops: Tensor) -> tuple[Tensor, Tensor]:
        """See `Backbone`; crops (M, 3, b, b)."""
        fine, pooled = self.trunk.with_map(crops)
        return fine, self.narrow(pooled)


class TransformersBackbone(Backbone):
    """A convolutional network of the transformers library.

    Parameters
    ----------
    network : PreTrainedModel
        From ``AutoBackbone`` (gives ``feature_maps``) or ``AutoModel`` (gives
        ``hidden_states`` that are maps). The last map but `step` is the
        location module's; the pooled vector is the model's own where it has
        one, else the mean of the last map.
    in_channels, size : int
        Of the crops that the widths are found out with.
    stride : int
        Crop pixels per place of the map that is wanted: the last map of at
        least this fineness is taken.
    """

    def __init__(
        self, network: PreTrainedModel, in_channels: int = 3, size: int = 64, stride: int = 16
    ) -> None:
        super().__init__(0, 0)
        self.network, self.stride = network, stride
        weight = next(network.parameters())
        training = network.training
        network.train(False)  # statistics of batches must not see the probe
        with torch.no_grad():
            probe = weight.new_zeros(1, in_channels, size, size)
            features, pooled = self(probe)
        network.train(training)
        self.map_channels, self.features = features.shape[1], pooled.shape[1]

    @property
    def entry(self) -> dict[str, Any]:
        """What `TNetConfig.backbone` holds of it, so that a card can rebuild it."""
        config = json.loads(self.network.config.to_json_string(use_diff=False))
        return {"name": "transformers", "config": _plain(config), "stride": self.stride}

    def forward(self, crops: Tensor) -> tuple[Tensor, Tensor]:
        """See `Backbone`."""
        if hasattr(self.network, "out_features"):
            output = self.network(crops)
            maps, pooled = output.feature_maps, None
        else:
            output = self.network(crops, output_hidden_states=True)
            maps, pooled = output.hidden_states, getattr(output, "pooler_output", None)
        # The finest map allowed is a share of the crop's own side.
        fine = [m for m in maps if m.ndim == 4 and m.shape[-1] * self.stride >= crops.shape[-1]]
        if not fine:
            raise ValueError(
                f"{type(self.network).__name__} gives no map of a {self.stride}th of the crop's "
                "side or finer; choose a larger stride, or a convolutional network."
            )
        vector = maps[-1].mean(dim=(2, 3)) if pooled is None else pooled.flatten(1)
        return fine[-1], vector


def pretrained_backbone(
    folder: str | Path, in_channels: int = 3, stride: int = 16
) -> TransformersBackbone:
    """Load a network in transformers' format from a folder; nothing is downloaded.

    Raises
    ------
    ImportError
        If transformers is not installed.
    FileNotFoundError, OSError
        If the folder holds no such network, or no safetensors weights.
    """
    if not (Path(folder) / "config.json").is_file():
        raise FileNotFoundError(
            f"'{folder}' holds no config.json: it is no network in transformers' format. "
            "Choose the folder that `save_pretrained` wrote."
        )
    config_class, *_ = _transformers()
    options = {"local_files_only": True, "trust_remote_code": False}
    config = config_class.from_pretrained(folder, **options)
    network = _network_class(config).from_pretrained(
        folder, config=config, use_safetensors=True, **options
    )
    return TransformersBackbone(network.eval(), in_channels, stride=stride)


def backbone_from_config(config: Mapping[str, Any], in_channels: int) -> Backbone:
    """Build a backbone with random weights from a card's entry.

    Parameters
    ----------
    config : mapping
        ``{"name": "small", "widths": [...]}``; ``{"name": "mobilenet-v2"}``, for
        colour; or ``{"name": "transformers", "config": {...}, "stride": 16}``
        with the network's own configuration, ``model_type`` included.
    in_channels : int
        Channels of the crops.

    Raises
    ------
    ImportError
        If transformers is needed and not installed.
    ValueError
        If there is no such backbone.
    """
    options = dict(config)
    name = options.pop("name", None)
    if name == "small":
        return SmallBackbone(in_channels, **options)
    if name == "mobilenet-v2":
        if in_channels != 3:
            raise ValueError(f"'mobilenet-v2' takes 3 channels, not {in_channels}; use 'small'")
        return MobileNetBackbone(**options)
    if name == "transformers":
        config_class, *_ = _transformers()
        sizes = config_class.for_model(**_plain(options["config"]))
        network = _network_class(sizes).from_config(sizes, trust_remote_code=False)
        return TransformersBackbone(network, in_channels, stride=options.get("stride", 16))
    raise ValueError(
        f"there is no backbone named {name!r}; use 'small', 'mobilenet-v2' or 'transformers'"
    )


def _plain(config: Mapping[str, Any]) -> dict[str, Any]:
    """Leave out of a configuration whatever could fetch other networks or code."""
    return {
        name: value
        for name, value in config.items()
        if not name.startswith("_")
        and "backbone" not in name
        and not isinstance(value, Mapping)
        and not (isinstance(value, str) and "/" in value)
    }


def _network_class(config: Any) -> Any:
    """AutoBackbone with all its maps where there is one for the network, else AutoModel."""
    _, model_class, backbone_class = _transformers()
    if not hasattr(config, "stage_names"):
        return model_class
    config.out_features = config.stage_names[1:]
    return backbone_class


def _transformers() -> tuple[Any, Any, Any]:
    try:
        from transformers import AutoBackbone, AutoConfig, AutoModel
    except ImportError as error:
        raise ImportError(
            "This model's backbone needs transformers: pip install transformers"
        ) from error
    return AutoConfig, AutoModel, AutoBackbone
