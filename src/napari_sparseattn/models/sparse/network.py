"""SparseAttnNet: classify a cell from the few pixels that a coarse map selects.

The skeleton is that of Yoshai et al. 2025 (arXiv 2505.07661): a light
convolutional network scores every pixel, the ``k`` best are kept by hard
top-k, one shared network embeds each kept ``(x, y, v)`` as a token, a class
token is appended last, and multi-head ("fine") attention over these ``k + 1``
tokens is read by the class token. Depths, widths, the local mixing of tokens
and the training rules are this project's; see the docstrings.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from typing import Any, Literal, NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from ...device import at_least_float32
from .frozen import FrozenSparseAttnNet
from .layers import (
    MIXING_HEADS,
    CoarseAttention,
    FineAttention,
    TileMixing,
    TokenBlock,
    select_pixels,
)
from .stipple import SmoothMap, TilePyramid, stipple_scores

__all__ = [
    "SparseAttnNet",
    "SparseAttnNetConfig",
    "SparseAttnOutput",
    "distillation_divergence",
    "distillation_loss",
    "select_pixels",
    "selection_gates",
    "sparse_from_config",
]

#: What the configuration's words may be.
_CHOICES = {
    "token": ("pixel", "context"),
    "mixing": ("local", "global", "none"),
    "selector": ("scores", "map"),
    "tiles": ("means", "pyramid"),
}


@dataclasses.dataclass(frozen=True)
class SparseAttnNetConfig:
    """Sizes of a `SparseAttnNet`.

    Parameters
    ----------
    in_channels : int
        Channels C of a pixel's value v.
    n_classes : int
        Number of classes.
    image_size : int
        Side of the square crop in pixels.
    k : int
        Pixels kept per crop, 1 to ``image_size ** 2``.
    width : int
        Token width; a multiple of `heads`.
    depth : int
        Token blocks before the fine attention.
    tile_width, tile_depth : int
        Width and number of the blocks that mix kept tokens over larger
        distances, as means over tiles of 4 x 4 pixels; depth 0 leaves it out.
    class_width : int
        Width of the class token's state while it reads; a multiple of `heads`.
    heads : int
        Heads of the fine attention.
    readout_layers : int
        Layers in which the class token reads the pixel tokens.
    coarse_width : int
        Channels of the coarse network's first layer.
    frequencies : int
        Fourier frequencies per coordinate, 1, 2, 4, ... half periods per crop.
    token : {"pixel", "context"}
        ``"pixel"``: the token holds the pixel's own value and position alone.
        ``"context"``: it also holds the coarse network's local feature, so
        that pixels around the kept one are seen too (`receptive_field`).
    mixing : {"local", "global", "none"}
        How pixel tokens exchange information before the class token reads
        them: with kept neighbours only (a convolution whose other inputs are
        zero), with all kept pixels (self-attention), or not at all.
    dropout : float
        Dropout rate before the classifier.
    selector : {"scores", "map"}
        ``"scores"``: sharp scores of pixels, of which the best are kept.
        ``"map"``: a smooth map, read as a density over which the kept pixels
        are scattered evenly (`stipple_scores`).
    tiles : {"means", "pyramid"}
        What mixes tokens over larger distances: `TileMixing`, or `TilePyramid`,
        in which `tile_depth` counts the blocks of either scale.
    """

    in_channels: int = 3
    n_classes: int = 8
    image_size: int = 64
    k: int = 614
    width: int = 32
    depth: int = 2
    tile_width: int = 64
    tile_depth: int = 2
    class_width: int = 96
    heads: int = 6
    readout_layers: int = 2
    coarse_width: int = 16
    frequencies: int = 5
    token: Literal["pixel", "context"] = "pixel"
    mixing: Literal["local", "global", "none"] = "local"
    dropout: float = 0.1
    selector: Literal["scores", "map"] = "scores"
    tiles: Literal["means", "pyramid"] = "means"

    def __post_init__(self) -> None:
        for field in dataclasses.fields(self):
            value = getattr(self, field.name)
            if field.type != "int":
                continue
            least, most = (0, 64) if "depth" in field.name else (1, 65536)
            if isinstance(value, bool) or not isinstance(value, int) or not least <= value <= most:
                raise ValueError(
                    f"{field.name} must be a whole number from {least} to {most}, got {value!r}"
                )
        if self.frequencies > 12 or self.readout_layers > 64:
            raise ValueError("at most 12 frequencies and 64 readout layers")
        if self.image_size % 4:
            raise ValueError(f"image_size must be a multiple of 4, got {self.image_size}")
        if self.mixing == "global" and self.width % MIXING_HEADS:
            raise ValueError(f"width {self.width} is not a multiple of {MIXING_HEADS}")
        if not 1 <= self.k <= self.image_size**2:
            raise ValueError(
                f"k must lie between 1 and the crop's {self.image_size**2} pixels, got {self.k}"
            )
        for name, choices in _CHOICES.items():
            if getattr(self, name) not in choices:
                told = " or ".join(repr(choice) for choice in choices)
                raise ValueError(f"{name} must be {told}, got {getattr(self, name)!r}")
        if self.image_size % 8 and self.tiles == "pyramid":
            raise ValueError(
                f"with tiles 'pyramid' image_size must be a multiple of 8, got {self.image_size}"
            )
        if self.selector == "map" and self.token == "context":
            raise ValueError(
                "context tokens need the selector 'scores': the map has no such detail"
            )


class SparseAttnOutput(NamedTuple):
    """What `SparseAttnNet` returns for B crops of H x W pixels.

    Attributes
    ----------
    logits : Tensor
        (B, n_classes).
    coarse_logits : Tensor
        (B, H, W); ``A_coarse = sigmoid(coarse_logits)``.
    indices : Tensor
        (B, k) int64, kept pixels as ``row * W + column``, ascending.
    fine : Tensor
        (B, layers, heads, k + 1), the class token's attention over the kept
        pixels (ascending as in `indices`) and, last, over itself. Sums to 1.
    state : Tensor
        (B, class_width), the class token's state, which the head reads.
    """

    logits: Tensor
    coarse_logits: Tensor
    indices: Tensor
    fine: Tensor
    state: Tensor


def selection_gates(coarse_logits: Tensor, indices: Tensor) -> Tensor:
    """Gates of 1 on the kept pixels, through which a loss reaches the coarse map.

    A kept pixel's gate is its weight in everything that is made of tokens: in
    its tile's sum and in the class token's attention. At 0 the pixel might as
    well not have been kept. The derivative of the loss by a gate is thus, to
    first order, what keeping that pixel did, whatever else its token says. The
    gate is a power of the pixel's share of the whole coarse map, straight
    through: a pixel is kept as often as its share says, so this follows the
    expected loss, and what one pixel gains others lose.

    Parameters
    ----------
    coarse_logits : Tensor
        (B, H, W).
    indices : Tensor
        (B, k) int64.

    Returns
    -------
    Tensor
        (B, k) float32, all 1.
    """
    share = F.logsigmoid(coarse_logits.flatten(1).float()).log_softmax(1).gather(1, indices)
    return (share - share.detach()).exp()


def distillation_loss(output: SparseAttnOutput) -> Tensor:
    """Pull the coarse map to the fine attention over the kept pixels.

    The fine attention, averaged over layers and heads and renormalised over
    the kept pixels, is the teacher and takes no gradient; the coarse map,
    renormalised over the same pixels, is the student. The loss is their
    Kullback-Leibler divergence, averaged over crops, plus a small term that
    keeps the map's mean at the kept share, since the divergence alone leaves
    the map's overall level free.

    Returns
    -------
    Tensor
        Scalar, in nats.
    """
    k = output.indices.shape[1]
    flat = output.coarse_logits.flatten(1).float()
    level = (flat.sigmoid().mean(1) - k / flat.shape[1]).square().mean()
    return distillation_divergence(output) + level


def distillation_divergence(output: SparseAttnOutput) -> Tensor:
    """The Kullback-Leibler divergence of `distillation_loss` alone, in nats."""
    k = output.indices.shape[1]
    teacher = output.fine[..., :k].mean(dim=(1, 2)).detach().float()
    teacher = teacher / teacher.sum(1, keepdim=True).clamp_min(1e-12)
    flat = output.coarse_logits.flatten(1).float()
    student = F.logsigmoid(flat).gather(1, output.indices)
    student = student - student.logsumexp(1, keepdim=True)
    return F.kl_div(student, teacher, reduction="batchmean")


class SparseAttnNet(nn.Module):
    """Classify crops from their k best-scoring pixels.

    With ``token="pixel"`` (the default) the classifier is a function of the
    kept pixels' positions and values alone: changing any other pixel can
    change the output only by changing which pixels are kept.

    Parameters
    ----------
    config : SparseAttnNetConfig
        Sizes.
    """

    def __init__(self, config: SparseAttnNetConfig) -> None:
        super().__init__()
        self.config = config
        coarse = SmoothMap if config.selector == "map" else CoarseAttention
        self.coarse = coarse(config.in_channels, config.coarse_width)
        position = 2 + 4 * config.frequencies
        context = config.coarse_width if config.token == "context" else 0
        self.embed = nn.Sequential(
            nn.Linear(config.in_channels + position + context, config.width),
            nn.GELU(),
            nn.Linear(config.width, config.width),
        )
        if config.selector == "map":
            self._favour_values()
        self.blocks = nn.ModuleList(
            TokenBlock(config.width, config.mixing, dilation=(1, 2, 4)[i % 3])
            for i in range(config.depth)
        )
        tiles = TilePyramid if config.tiles == "pyramid" else TileMixing
        self.tiles = (
            tiles(config.width, config.tile_width, config.tile_depth) if config.tile_depth else None
        )
        cls = torch.empty(1, config.class_width)
        # Drawing for a model without memory would import a second's worth of torch's compiler.
        self.cls = nn.Parameter(cls if cls.is_meta else torch.randn_like(cls) * 0.02)
        self.fine = nn.ModuleList(
            FineAttention(config.width, config.class_width, config.heads)
            for _ in range(config.readout_layers)
        )
        self.norm = nn.LayerNorm(config.class_width)
        self.dropout = nn.Dropout(config.dropout)
        self.head = nn.Linear(config.class_width, config.n_classes)
        self._frozen: FrozenSparseAttnNet | None = None

    def freeze(self) -> SparseAttnNet:
        """Prepare for answering alone, 1.5 to 2 times as fast; weights must not change after it.

        Answers with gradients, and those of other sizes, precisions or devices
        are computed as before. What changes the weights by way of the module's
        own methods undoes it, as does a copy.
        """
        self._frozen = None
        weights = list(self.parameters())
        usual = all(w.dtype == torch.float32 and w.device.type == "cpu" for w in weights)
        if self.training or not usual or self.blocks:
            return self
        if isinstance(self.coarse, SmoothMap) and isinstance(self.tiles, TilePyramid):
            grid = (self.config.image_size, self.config.image_size)
            self._frozen = FrozenSparseAttnNet(
                self.coarse,
                self.embed,
                self.tiles,
                self.fine,
                self.norm,
                self.head,
                places=self._position(torch.arange(grid[0] * grid[1]), grid, torch.float32),
                cls=self.cls,
                side=grid[0],
            )
        return self

    def train(self, mode: bool = True) -> SparseAttnNet:
        """Change between training and evaluation; undoes `freeze`."""
        self._frozen = None
        return super().train(mode)

    def load_state_dict(self, *args: Any, **options: Any) -> Any:
        """Take over weights; undoes `freeze`."""
        self._frozen = None
        return super().load_state_dict(*args, **options)

    def _apply(self, *args: Any, **options: Any) -> SparseAttnNet:
        self._frozen = None
        super()._apply(*args, **options)  # type: ignore[no-untyped-call]
        return self

    def sharpen(self, by: float) -> None:
        """Make the map so many times as steep; undoes `freeze`.

        Raises
        ------
        TypeError
            Where pixels are kept by their scores, which alone no slope changes.
        """
        if not isinstance(self.coarse, SmoothMap):
            raise TypeError("Only a map that pixels are scattered over can be made steeper.")
        self._frozen = None
        self.coarse.sharpen(by)

    @property
    def receptive_field(self) -> int:
        """Side in pixels of the square that one token's content comes from."""
        return 3 if self.config.token == "context" else 1

    def select(self, x: Tensor) -> Tensor:
        """Return the coarse logits, (B, H, W), of crops (B, C, H, W)."""
        logits: Tensor = self.coarse(x)[0]
        return logits

    def forward(
        self,
        x: Tensor,
        k: int | None = None,
        explore: float = 0.0,
        generator: torch.Generator | None = None,
        indices: Tensor | None = None,
        gated: bool = False,
    ) -> SparseAttnOutput:
        """Classify normalised crops.

        Parameters
        ----------
        x : Tensor
            (B, C, H, W) float, normalised as the bundle's card says.
        k : int, optional
            Pixels to keep; default the configuration's.
        explore : float
            Random share of the kept pixels, see `select_pixels`. Where pixels
            are scattered over a map, any share turns the thresholds of each
            crop by lot instead: every pixel can be kept, as often as the map
            says.
        generator : torch.Generator, optional
            Source of that randomness.
        indices : Tensor, optional
            (B, k) pixels to use instead of the coarse map's choice.
        gated : bool
            Let the loss reach the coarse map, see `selection_gates`. The
            answers stay the same.

        Returns
        -------
        SparseAttnOutput

        Raises
        ------
        ValueError
            If the crops do not have C channels, or k exceeds the pixels.
        """
        if x.ndim != 4 or x.shape[1] != self.config.in_channels:
            raise ValueError(
                f"expected crops of shape (B, {self.config.in_channels}, H, W), "
                f"got {tuple(x.shape)}"
            )
        grid = (x.shape[2], x.shape[3])
        if self._frozen is not None and not (explore or gated) and self._is_usual(x):
            return SparseAttnOutput(*self._frozen(x, k or self.config.k, indices))
        coarse_logits, local = self.coarse(x)
        if indices is None:
            indices = self._choose(coarse_logits.detach(), k or self.config.k, explore, generator)
        gates = selection_gates(coarse_logits, indices) if gated else None
        tokens = self._embed(x, local, indices)
        for block in self.blocks:
            tokens = block(tokens, indices, grid)
        if isinstance(self.tiles, TilePyramid):
            tokens = tokens + self.tiles(tokens, indices, grid, gates)
        elif self.tiles is not None:
            tokens = tokens + self.tiles(tokens, indices, grid)
        state = self.cls.expand(x.shape[0], -1)
        maps = []
        for layer in self.fine:
            state, attention = layer(tokens, state, gates)
            maps.append(attention)
        state = self.norm(state)
        logits = self.head(self.dropout(state))
        return SparseAttnOutput(
            at_least_float32(logits),
            at_least_float32(coarse_logits),
            indices,
            torch.stack(maps, 1),
            at_least_float32(state),
        )

    def _is_usual(self, x: Tensor) -> bool:
        """Tell whether what is asked is what `freeze` has prepared."""
        side = self.config.image_size
        return (
            x.shape[2:] == (side, side)
            and x.dtype == torch.float32
            and x.device.type == "cpu"
            and not torch.is_grad_enabled()
            and not torch.is_autocast_enabled("cpu")
            and not torch.compiler.is_compiling()
        )

    def _favour_values(self) -> None:
        """Begin with tokens that say what a pixel is, and where in its tile, not in the crop.

        Cells lie anywhere; a network that begins with the place in the crop
        learns a good deal more slowly.
        """
        first = self.embed[0]
        assert isinstance(first, nn.Linear)
        channels, frequencies = self.config.in_channels, self.config.frequencies
        factors = torch.full((first.in_features,), 0.15)
        factors[:channels] = 2
        # The finest waves of either axis, sine and cosine: the place within 4 pixels.
        factors[channels + 1 + frequencies :: frequencies] = 1
        with torch.no_grad():
            first.weight.mul_(factors)

    def _choose(
        self, coarse: Tensor, k: int, explore: float, generator: torch.Generator | None
    ) -> Tensor:
        if self.config.selector == "scores":
            return select_pixels(coarse.flatten(1), k, explore, generator)
        turn = None
        if explore:
            turn = torch.randint(65536, (len(coarse), 1), generator=generator).to(coarse.device)
        return select_pixels(stipple_scores(coarse, turn), k)

    def _embed(self, x: Tensor, local: Tensor, indices: Tensor) -> Tensor:
        """Joint embedding of (x, y, v) of each kept pixel: (B, k, width)."""
        height, width = x.shape[2:]
        values = x.flatten(2).gather(2, indices[:, None].expand(-1, x.shape[1], -1)).transpose(1, 2)
        if self.config.token == "pixel" and torch.is_grad_enabled():
            return self._embed_by_table(values, indices, (height, width))
        parts = [values, self._position(indices, (height, width), x.dtype)]
        if self.config.token == "context":
            row = torch.div(indices, width, rounding_mode="floor")
            coarse = torch.div(row, 2, rounding_mode="floor") * local.shape[3]
            coarse = coarse + torch.div(indices - row * width, 2, rounding_mode="floor")
            flat = local.flatten(2)
            parts.append(
                flat.gather(2, coarse[:, None].expand(-1, flat.shape[1], -1)).transpose(1, 2)
            )
        tokens: Tensor = self.embed(torch.cat(parts, dim=-1))
        return tokens

    def _embed_by_table(self, values: Tensor, indices: Tensor, grid: tuple[int, int]) -> Tensor:
        """The same, with the first layer's part of every position computed once per batch."""
        first = self.embed[0]
        assert isinstance(first, nn.Linear)
        every = torch.arange(grid[0] * grid[1], device=indices.device)
        channels = self.config.in_channels
        position = self._position(every, grid, values.dtype)
        table = F.linear(position, first.weight[:, channels:], first.bias)
        own = F.linear(values, first.weight[:, :channels])
        hidden = own + table.index_select(0, indices.flatten()).view_as(own)
        tokens: Tensor = self.embed[1:](hidden)
        return tokens

    def _position(self, indices: Tensor, grid: tuple[int, int], dtype: torch.dtype) -> Tensor:
        """Return coordinates of pixels and their Fourier features, (..., 2 + 4 * frequencies)."""
        height, width = grid
        row = torch.div(indices, width, rounding_mode="floor")
        place = torch.stack(
            [(2 * row + 1) / height - 1, (2 * (indices - row * width) + 1) / width - 1], dim=-1
        ).to(dtype)
        octaves = torch.pi * 2.0 ** torch.arange(self.config.frequencies, device=indices.device) / 2
        phase = (place[..., None] * octaves.to(dtype)).flatten(-2)
        return torch.cat([place, phase.sin(), phase.cos()], dim=-1)


def sparse_from_config(config: Mapping[str, Any]) -> SparseAttnNet:
    """Build a `SparseAttnNet` from what a card holds, with random weights.

    Raises
    ------
    TypeError, ValueError
        If the configuration has unknown or impossible entries.
    """
    return SparseAttnNet(SparseAttnNetConfig(**config))
