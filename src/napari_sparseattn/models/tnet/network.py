"""TNet: classify an image by looking closely only where it decides to.

Papadopoulos, Korus, Memon, "Hard-Attention for Scalable Image Classification",
NeurIPS 2021 (arXiv 2102.10212). The image's scale space is traversed from the
top: every crop of a level is read at the same small size, a location module
scores a grid of candidate children inside it, and the best of them make the
next level, read from the original pixels. The features of all crops are
averaged and classified linearly, so that each crop's share of the logits is
exact. Written from the paper's text; what is ours is marked in the docstrings.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Mapping, Sequence
from typing import Any, Literal

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from ...device import at_least_float32
from ..backbones import Backbone, backbone_from_config
from .crops import (
    Crops,
    CropSource,
    Level,
    TensorSource,
    TNetOutput,
    candidates,
    children,
    roots,
)
from .halting import Halt, Reached, in_turn, join_levels
from .layers import (
    CandidateGrid,
    LocationModule,
    PositionEncoding,
    levels_of,
    sample_map,
    select_candidates,
)

__all__ = [
    "TNet",
    "TNetConfig",
    "load_official",
    "tnet_from_config",
]

#: Model pixels that one call of the backbone takes at inference: 83 crops of 224.
_PIXELS_PER_CALL = 2**22


@dataclasses.dataclass(frozen=True)
class TNetConfig:
    """Sizes of a `TNet`.

    Parameters
    ----------
    n_classes, in_channels : int
        Classes, and channels C of the image.
    image_size : int
        Side of the images it was trained on, in pixels.
    base : int
        Side b at which every crop is read.
    grid : int
        Candidates n along each axis of a crop.
    overlap : float
        Side of a child over that of its parent.
    locations : tuple of int
        Children K taken of each crop, per level but the last. One more level
        follows than there are entries.
    backbone : dict
        See `backbone_from_config`.
    position : {"centre", "index"}
        See `PositionEncoding`.
    position_width : int
        Channels of that encoding; 0 for a quarter of the feature's width.
    sampling : {"centres", "strided"}
        See `sample_map`.
    antialias : bool
        Reduce crops with antialiasing (ours); the paper's code does without.
    dropout : float
        Dropout rate before the classifier.
    """

    n_classes: int = 8
    in_channels: int = 3
    image_size: int = 128
    base: int = 32
    grid: int = 3
    overlap: float = 0.5
    locations: tuple[int, ...] = (2, 1)
    backbone: Mapping[str, Any] = dataclasses.field(default_factory=lambda: {"name": "small"})
    position: Literal["centre", "index"] = "centre"
    position_width: int = 0
    sampling: Literal["centres", "strided"] = "centres"
    antialias: bool = True
    dropout: float = 0.5

    def __post_init__(self) -> None:
        # A card read from JSON brings a list.
        object.__setattr__(self, "locations", tuple(self.locations))
        limits = {
            "n_classes": (1, 10_000), "in_channels": (1, 64), "image_size": (4, 2**24),
            "base": (4, 4096), "grid": (2, 16), "position_width": (0, 65536),
        }  # fmt: skip
        for name, (least, most) in limits.items():
            value = getattr(self, name)
            if isinstance(value, bool) or not isinstance(value, int) or not least <= value <= most:
                raise ValueError(
                    f"{name} must be a whole number from {least} to {most}, got {value!r}"
                )
        if not 0 < self.overlap < 1:
            raise ValueError(f"overlap must lie between 0 and 1, got {self.overlap!r}")
        if not 0 <= self.dropout < 1:
            raise ValueError(f"dropout must lie between 0 and 1, got {self.dropout!r}")
        if self.position not in ("centre", "index"):
            raise ValueError(f"position must be 'centre' or 'index', got {self.position!r}")
        if self.sampling not in ("centres", "strided"):
            raise ValueError(f"sampling must be 'centres' or 'strided', got {self.sampling!r}")
        if len(self.locations) > 24:
            raise ValueError("at most 25 levels")
        for k in self.locations:
            if not 1 <= k <= self.grid**2:
                raise ValueError(
                    f"locations per level must lie between 1 and {self.grid**2}, got {k!r}"
                )

    def locations_for(self, side: int) -> tuple[int, ...]:
        """Locations per level for an image of another size (ours).

        As many levels as bring a crop of a `side` x `side` image down to the
        base; the last number of locations is repeated for levels beyond those
        trained on. For the trained size, the trained locations.
        """
        if side == self.image_size or not self.locations:
            return self.locations
        more = levels_of(side, self.base, self.overlap) - 1
        return (self.locations + self.locations[-1:] * more)[:more]

    def crops_at_most(self, side: int, locations: Sequence[int] | None = None) -> int:
        """Crops looked at of an image of a longer side, if none lies off it and all are."""
        total = level = 1
        for taken in self.locations_for(side) if locations is None else locations:
            level *= taken
            total += level
        return total


class TNet(nn.Module):
    """Traverse images from coarse to fine and classify them.

    Parameters
    ----------
    config : TNetConfig
        Sizes.
    backbone : Backbone, optional
        Any module from crops (M, C, b, b) to a map (M, c, h, w) and pooled
        features (M, D); by default made from ``config.backbone``.

    Attributes
    ----------
    halt : Halt or None
        When whoever uses the trained model lets it stop by itself; `forward`
        itself goes by its own parameter.
    """

    def __init__(self, config: TNetConfig, backbone: Backbone | None = None) -> None:
        super().__init__()
        self.config = config
        if backbone is None:
            backbone = backbone_from_config(config.backbone, config.in_channels)
        self.backbone = backbone
        width = config.position_width or max(6, backbone.features // 4)
        self.location = LocationModule(backbone.map_channels)
        self.position = PositionEncoding(backbone.features, width, config.position)
        self.dropout = nn.Dropout(config.dropout)
        self.head = nn.Linear(backbone.features, config.n_classes)
        self.halt: Halt | None = None

    def forward(
        self,
        images: Tensor | CropSource,
        locations: Sequence[int] | None = None,
        noise: float = 0.0,
        generator: torch.Generator | None = None,
        steer: Callable[[int, Crops], Crops] | None = None,
        halt: Halt | None = None,
    ) -> TNetOutput:
        """Classify images of one size.

        Parameters
        ----------
        images : Tensor or CropSource
            (B, C, H, W) normalised, or a source of crops. An image that is not
            square is centred in a square of zeros; candidates that lie wholly
            off the image are never chosen (ours).
        locations : sequence of int, optional
            Children taken of each crop, per level but the last; any length.
            By default `TNetConfig.locations_for` the images' longer side.
        noise, generator
            See `select_candidates`; for training.
        steer : callable, optional
            Given a level from 1 on and the crops chosen for it, returns those
            to look at: as many, with other boxes; see `move_crops`.
        halt : Halt, optional
            Look at crops one by one, of each level the most probable first,
            and stop with an image whose class is sure enough. The levels then
            hold what was looked at; there may be fewer of them.

        Returns
        -------
        TNetOutput

        Raises
        ------
        ValueError
            If the images or the locations do not fit.
        """
        source = self._source(images) if isinstance(images, Tensor) else images
        side = max(source.height, source.width)
        taken = tuple(self.config.locations_for(side) if locations is None else locations)
        crops = roots(source)
        reached = None if halt is None else Reached(source.count, self.config.n_classes, halt)
        levels, grids = [], []
        for depth in range(len(taken) + 1):
            last = depth == len(taken)
            grid = None if last else CandidateGrid(side, self.config.grid, self.config.overlap)
            level = self._look_in_turn(source, crops, depth, grid, reached)
            levels.append(level)
            if grid is None or (reached is not None and not reached.going.any()):
                break
            crops = _descend(level, grid, taken[depth], noise, generator)
            if reached is not None:
                crops = reached.keep_going(crops)
            if steer is not None:
                crops = steer(depth + 1, crops)
            grids.append(grid)
            side = grid.side
        image = torch.cat([level.crops.image for level in levels])
        logits = _mean_by_image(torch.cat([level.logits for level in levels]), image, source.count)
        return TNetOutput(logits, tuple(levels), tuple(grids))

    def _source(self, images: Tensor) -> TensorSource:
        if images.ndim != 4 or images.shape[1] != self.config.in_channels:
            raise ValueError(
                f"expected images of shape (B, {self.config.in_channels}, H, W), "
                f"got {tuple(images.shape)}"
            )
        return TensorSource(images, self.config.antialias)

    def _look_in_turn(
        self,
        source: CropSource,
        crops: Crops,
        depth: int,
        grid: CandidateGrid | None,
        reached: Reached | None,
    ) -> Level:
        """Look at all crops of a level; or one after the other, as far as is needed."""
        if reached is None:
            return self._look(source, crops, depth, grid)
        turn, parts, taken = in_turn(crops), [], []
        for step in range(int(turn.max()) + 1):
            rows = ((turn == step) & reached.going[crops.image]).nonzero()[:, 0]
            if not len(rows):
                break
            piece = Crops(*(tensor[rows.to(tensor.device)] for tensor in crops))
            part = self._look(source, piece, depth, grid)
            reached.add(piece.image, part.logits)
            parts.append(part)
            taken.append(rows)
        return join_levels(parts, taken)

    def _look(
        self, source: CropSource, crops: Crops, depth: int, grid: CandidateGrid | None
    ) -> Level:
        """Run the backbone on all crops of a level; in pieces only if they are very many."""
        base, device = self.config.base, self.head.weight.device
        pooled, maps = [], []
        for rows in torch.arange(len(crops.image)).split(max(1, _PIXELS_PER_CALL // base**2)):
            piece = Crops(*(tensor[rows.to(tensor.device)] for tensor in crops))
            features, whole = self.backbone(source.read(piece, base).to(device))
            pooled.append(whole)
            if grid is not None:
                # The location module learns from rewards; the backbone must not.
                maps.append(sample_map(features.detach(), grid, self.config.sampling))
        encoded = self.position(torch.cat(pooled), self._places(crops, source, depth))
        logits = at_least_float32(self.head(self.dropout(encoded)))
        chances = self.location(torch.cat(maps)) if maps else None
        return Level(crops, logits, chances, at_least_float32(encoded))

    def _places(self, crops: Crops, source: CropSource, depth: int) -> Tensor:
        """(M, 3) float64: what `PositionEncoding` encodes."""
        if self.config.position == "index":
            places = crops.places.double()
        else:
            middle = crops.boxes[:, :2].double() + crops.boxes[:, 2:].double() / 2
            centre = torch.tensor([source.height, source.width], dtype=torch.float64) / 2
            places = (middle - centre) * 2 / max(source.height, source.width)
        return F.pad(places, (0, 1), value=float(depth))


def _descend(
    level: Level,
    grid: CandidateGrid,
    k: int,
    noise: float,
    generator: torch.Generator | None,
) -> Crops:
    """Choose the children of a level's crops."""
    assert level.probabilities is not None
    _, seen = candidates(level.crops, grid)
    shown = (seen[..., 2:] > seen[..., :2]).all(dim=2).to(level.probabilities.device)
    chosen, rank = select_candidates(level.probabilities, k, shown, noise, generator)
    return children(level.crops, grid, level.probabilities, chosen, rank)


def _mean_by_image(logits: Tensor, image: Tensor, count: int) -> Tensor:
    image = image.to(logits.device)
    total = logits.new_zeros(count, logits.shape[1]).index_add(0, image, logits)
    return total / torch.bincount(image, minlength=count)[:, None]


def tnet_from_config(config: Mapping[str, Any]) -> TNet:
    """Build a `TNet` from what a card holds, with random weights.

    Raises
    ------
    TypeError, ValueError
        If the configuration has unknown or impossible entries.
    """
    return TNet(TNetConfig(**config))


def load_official(
    weights: Mapping[str, Tensor],
    backbone: Backbone,
    *,
    base: int,
    grid: int,
    overlap: float,
    locations: Sequence[int],
    position_width: int,
) -> TNet:
    """Load the weights of the authors' pipeline, computing what it computes.

    Parameters
    ----------
    weights : mapping of str to Tensor
        Named as in the authors' checkpoints (``.../location_prediction/...``),
        in torch's layout; a prefix before ``TNet/`` is ignored.
    backbone : Backbone
        Gives the map and the pooled features.
    base, grid, overlap, locations, position_width
        As in `TNetConfig`.

    Returns
    -------
    TNet
        In evaluation mode: positions by index, strided sampling, no antialiasing.
    """
    plain = {name.split("TNet/")[-1]: tensor for name, tensor in weights.items()}
    classes = plain["feature_extraction/logits_layer/linear/bias"].shape[0]
    config = TNetConfig(
        n_classes=classes,
        base=base,
        grid=grid,
        overlap=overlap,
        locations=tuple(locations),
        position="index",
        position_width=position_width,
        sampling="strided",
        antialias=False,
    )
    net = TNet(config, backbone)
    state = {}
    for ours, theirs in _OFFICIAL.items():
        state[f"{ours}.weight"], state[f"{ours}.bias"] = (
            plain[f"{theirs}/kernel"],
            plain[f"{theirs}/bias"],
        )
    for ours, theirs in (("place_scale", "kernel"), ("place_offset", "bias")):
        state[f"location.{ours}"] = torch.cat(
            [plain[f"location_prediction/{axis}_scaling/{theirs}"].view(1) for axis in _AXES]
        )
    state |= {f"backbone.{name}": tensor for name, tensor in backbone.state_dict().items()}
    net.load_state_dict(state)
    return net.eval()


_AXES = ("height", "width")
_OFFICIAL = {
    "location.init": "location_prediction/init/conv2d",
    "location.squeeze": "location_prediction/se/conv2d_1",
    "location.excite": "location_prediction/se/conv2d_2",
    "location.final": "location_prediction/final/conv2d",
    "location.score": "location_prediction/output_linear",
    "position.linear": "feature_posBurn/linear",
    "head": "feature_extraction/logits_layer/linear",
}
