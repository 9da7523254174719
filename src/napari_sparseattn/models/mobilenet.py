"""MobileNetV2 (Sandler et al. 2018) as a small module: the trunk of our encoder of tissue.

The same function as that of the transformers library, which is not needed to
run it. Batch normalisation is for training; `folded` puts it into the
convolutions, which is faster, smaller and as exact.
"""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import Tensor, nn

__all__ = [
    "CHANNELS",
    "MAP_CHANNELS",
    "WIDTH",
    "MobileNetV2",
    "TissueNetwork",
    "folded",
    "from_transformers",
]

#: Width of the trunk's pooled vector, and of what it is narrowed to.
CHANNELS, WIDTH = 1280, 256
_STEM, _FIRST = 32, 16
#: Channels, stride of the first, and number of the inverted residuals that follow.
_STAGES = ((24, 2, 2), (32, 2, 3), (64, 2, 4), (96, 1, 3), (160, 2, 3), (320, 1, 1))
_EXPANSION = 6
#: Layers up to the last one at a sixteenth of the image's side, and its channels.
MAP_LAYERS, MAP_CHANNELS = 15, 96
_EPSILON = 1e-5


class _Convolution(nn.Module):
    """A convolution, its normalisation, and ReLU6 where asked for."""

    def __init__(
        self, inputs: int, outputs: int, *, side: int = 1, stride: int = 1,
        groups: int = 1, active: bool = True, norm: bool = False,
    ) -> None:  # fmt: skip
        super().__init__()
        self.conv = nn.Conv2d(
            inputs, outputs, side, stride, padding=side // 2, groups=groups, bias=not norm
        )
        self.norm = nn.BatchNorm2d(outputs, eps=_EPSILON) if norm else nn.Identity()
        self.active = active

    def forward(self, x: Tensor) -> Tensor:
        if self.active and isinstance(self.norm, nn.Identity) and _can_fuse(x):
            return _convolve_relu6(self.conv, x)
        x = self.norm(self.conv(x))
        return nn.functional.relu6(x, inplace=True) if self.active else x


def _can_fuse(x: Tensor) -> bool:
    """Tell whether oneDNN can put ReLU6 into the convolution, which saves a pass over the map."""
    return (
        torch.is_inference_mode_enabled()
        and x.device.type == "cpu"
        and x.dtype == torch.float32
        and torch.backends.mkldnn.is_available()
        # Not public: a torch without it computes the two one after the other.
        and hasattr(torch.ops.mkldnn, "_convolution_pointwise")
    )


def _convolve_relu6(conv: nn.Conv2d, x: Tensor) -> Tensor:
    sizes = conv.padding, conv.stride, conv.dilation, conv.groups
    relu6 = "hardtanh", [0.0, 6.0], ""
    fused = torch.ops.mkldnn._convolution_pointwise
    y: Tensor = fused(x, conv.weight, conv.bias, *sizes, *relu6)
    return y


class _Block(nn.Module):
    """An inverted residual: widened, convolved channel by channel, narrowed."""

    def __init__(self, inputs: int, outputs: int, stride: int, norm: bool) -> None:
        super().__init__()
        wide = inputs * _EXPANSION
        self.residual = stride == 1 and inputs == outputs
        self.layers = nn.Sequential(
            _Convolution(inputs, wide, norm=norm),
            _Convolution(wide, wide, side=3, stride=stride, groups=wide, norm=norm),
            _Convolution(wide, outputs, active=False, norm=norm),
        )

    def forward(self, x: Tensor) -> Tensor:
        y: Tensor = self.layers(x)
        return x + y if self.residual else y


class MobileNetV2(nn.Module):
    """The trunk at width 1.0, without a classifier.

    Parameters
    ----------
    norm : bool
        With batch normalisation, for training; else it is in the convolutions.
    """

    def __init__(self, norm: bool = False) -> None:
        super().__init__()
        blocks, inputs = [], _FIRST
        for outputs, stride, number in _STAGES:
            for each in range(number):
                blocks.append(_Block(inputs, outputs, stride if each == 0 else 1, norm))
                inputs = outputs
        self.layers = nn.Sequential(
            _Convolution(3, _STEM, side=3, stride=2, norm=norm),
            _Convolution(_STEM, _STEM, side=3, groups=_STEM, norm=norm),
            _Convolution(_STEM, _FIRST, active=False, norm=norm),
            *blocks,
            _Convolution(inputs, CHANNELS, norm=norm),
        )

    def forward(self, images: Tensor) -> Tensor:
        """Return the pooled vectors (B, 1280) of images (B, 3, H, W), normalised as ImageNet's."""
        features: Tensor = self.layers(images)
        return features.mean(dim=(2, 3))

    def with_map(self, images: Tensor) -> tuple[Tensor, Tensor]:
        """Return the map (B, 96, h, w) at a sixteenth of the side, and the pooled vectors."""
        fine: Tensor = self.layers[:MAP_LAYERS](images)
        last: Tensor = self.layers[MAP_LAYERS:](fine)
        return fine, last.mean(dim=(2, 3))


class TissueNetwork(nn.Module):
    """The trunk, and the linear layer that narrows its vector to the features.

    Two more layers are what it was tuned with: tumour in the middle of a patch
    of a lymph node or not, and the six classes of a tile of a colorectal biopsy.
    """

    def __init__(self) -> None:
        super().__init__()
        self.trunk = MobileNetV2()
        self.narrow = nn.Linear(CHANNELS, WIDTH)
        self.nodes, self.colon = nn.Linear(WIDTH, 2), nn.Linear(WIDTH, 6)

    def forward(self, images: Tensor) -> Tensor:
        """Return features (B, 256) of images (B, 3, H, W), normalised as ImageNet's."""
        features: Tensor = self.narrow(self.trunk(images))
        return features


def from_transformers(state: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Rename the weights of transformers' MobileNetV2 to those of ``MobileNetV2(norm=True)``.

    Raises
    ------
    KeyError
        If weights are missing.
    """
    prefix = "mobilenet_v2." if any(name.startswith("mobilenet_v2.") for name in state) else ""
    stem = [f"conv_stem.{part}" for part in ("first_conv", "conv_3x3", "reduce_1x1")]
    names = {f"layers.{i}": part for i, part in enumerate(stem)}
    count = sum(number for *_, number in _STAGES)
    for i in range(count):
        for j, part in enumerate(("expand_1x1", "conv_3x3", "reduce_1x1")):
            names[f"layers.{i + len(stem)}.layers.{j}"] = f"layer.{i}.{part}"
    names[f"layers.{count + len(stem)}"] = "conv_1x1"
    made = {}
    for ours, theirs in names.items():
        made[f"{ours}.conv.weight"] = state[f"{prefix}{theirs}.convolution.weight"]
        for part in ("weight", "bias", "running_mean", "running_var", "num_batches_tracked"):
            made[f"{ours}.norm.{part}"] = state[f"{prefix}{theirs}.normalization.{part}"]
    return {name: each.float() if each.is_floating_point() else each for name, each in made.items()}


def folded(state: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Put the batch normalisation of ``MobileNetV2(norm=True)`` into its convolutions.

    Returns
    -------
    dict of str to Tensor
        The ``state_dict`` of ``MobileNetV2()`` with the same answers.
    """
    made = {}
    for name, weight in state.items():
        if not name.endswith("conv.weight"):
            continue
        norm = name.removesuffix("conv.weight") + "norm."
        scale = state[f"{norm}weight"] * torch.rsqrt(state[f"{norm}running_var"] + _EPSILON)
        made[name] = weight * scale[:, None, None, None]
        made[name.removesuffix("weight") + "bias"] = (
            state[f"{norm}bias"] - state[f"{norm}running_mean"] * scale
        )
    return made
