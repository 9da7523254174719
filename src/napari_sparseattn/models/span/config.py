"""Sizes of SPAN's networks."""

from __future__ import annotations

import dataclasses

from .condensation import Strategy, token_kind
from .refinement import HEAD_WIDTH

__all__ = ["SpanMilConfig", "SpanUnetConfig"]


def _check_sizes(config: SpanMilConfig | SpanUnetConfig) -> None:
    limits = {"features": (1, 2**16), "width": (0, 2**14), "n_classes": (1, 10_000)}
    for name, (least, most) in limits.items():
        value = getattr(config, name, least)
        if isinstance(value, bool) or not isinstance(value, int) or not least <= value <= most:
            raise ValueError(f"{name} must be a whole number from {least} to {most}, got {value!r}")
    if config.channels % HEAD_WIDTH or not config.channels:
        raise ValueError(
            f"the token width must be a multiple of {HEAD_WIDTH}, got {config.channels}; "
            "by default it is half the features, which must then be a multiple of 128"
        )
    for name in ("input_dropout", "attention_dropout", "projection_dropout", "head_dropout"):
        rate = getattr(config, name, 0.0)
        if not 0 <= rate < 1:
            raise ValueError(f"{name} must lie between 0 and 1, got {rate!r}")
    if not 0 < config.ff_ratio <= 16:
        raise ValueError(f"ff_ratio must lie between 0 and 16, got {config.ff_ratio!r}")
    if config.strategy not in ("identity", "proj"):
        raise ValueError(f"strategy must be 'identity' or 'proj', got {config.strategy!r}")
    if not 1 <= len(config.tokens) <= 64:
        raise ValueError(f"1 to 64 global tokens are needed, got {len(config.tokens)}")
    for kind in config.tokens:
        token_kind(kind)


@dataclasses.dataclass(frozen=True)
class SpanMilConfig:
    """Sizes of a `SpanMil`; the defaults are the authors'.

    Parameters
    ----------
    features : int
        Width F of the patch features.
    n_classes : int
        Classes of a slide.
    width : int
        Token width D, a multiple of 64, at every level; 0 for F / 2.
    ff_ratio : float
        Hidden width of the feed-forward parts, in units of D.
    tokens : tuple of str
        Global tokens, see `token_kind`; the first is read out.
    strategy : {"identity", "proj"}
        How global tokens change level.
    input_dropout, attention_dropout, projection_dropout, head_dropout : float
        Rates after the input projection, of attention weights, in the
        transformer layers, and before the classifier.
    """

    features: int = 128
    n_classes: int = 2
    width: int = 0
    ff_ratio: float = 2.0
    tokens: tuple[str, ...] = ("lrn1e-4",)
    strategy: Strategy = "identity"
    input_dropout: float = 0.05
    attention_dropout: float = 0.05
    projection_dropout: float = 0.0
    head_dropout: float = 0.05
    task: str = "mil"

    def __post_init__(self) -> None:
        # A card read from JSON brings a list.
        object.__setattr__(self, "tokens", tuple(self.tokens))
        _check_sizes(self)
        if self.task != "mil":
            raise ValueError(f"task must be 'mil', got {self.task!r}")

    @property
    def channels(self) -> int:
        """Token width D."""
        return self.width or self.features // 2


@dataclasses.dataclass(frozen=True)
class SpanUnetConfig:
    """Sizes of a `SpanUnet`; the defaults are the authors'.

    Parameters
    ----------
    features : int
        Width F of the patch features.
    layout : str
        Transformer layers per level, down and up: ``"111-11"``, ``"111-21"``.
    width : int
        Token width of level 0, a multiple of 64; 0 for F / 2.
    channel_factor : int
        Growth of the width from level to level, 1 or 2.
    ff_ratio, tokens, strategy, input_dropout, attention_dropout, projection_dropout
        As in `SpanMilConfig`.
    """

    features: int = 128
    layout: str = "111-11"
    width: int = 0
    channel_factor: int = 2
    ff_ratio: float = 2.0
    tokens: tuple[str, ...] = ("max", "mean", "fix1e-4")
    strategy: Strategy = "proj"
    input_dropout: float = 0.05
    attention_dropout: float = 0.05
    projection_dropout: float = 0.0
    task: str = "unet"

    def __post_init__(self) -> None:
        object.__setattr__(self, "tokens", tuple(self.tokens))
        _check_sizes(self)
        if self.layout not in ("111-11", "111-21"):
            raise ValueError(f"layout must be '111-11' or '111-21', got {self.layout!r}")
        if self.channel_factor not in (1, 2):
            raise ValueError(f"channel_factor must be 1 or 2, got {self.channel_factor!r}")
        if self.task != "unet":
            raise ValueError(f"task must be 'unet', got {self.task!r}")

    @property
    def channels(self) -> int:
        """Token width of level 0."""
        return self.width or self.features // 2

    @property
    def up_layers(self) -> tuple[int, int]:
        """Transformer layers after each doubling."""
        up = self.layout.split("-")[1]
        return int(up[0]), int(up[1])
