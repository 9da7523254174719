"""Random changes that cover what laboratories do, on whole batches at once.

`Augmentation` changes one crop like another photograph of it. This goes
further in three ways that selection needs: the cell leaves the middle of its
crop, so that the middle says nothing; what lies around it is exchanged for
another crop's, so that it says nothing either; and each stain gets a hue of
its own. It is written for speed on one core: crops are resampled once, at the
output's size, from crops that are stored half as large again.
"""

from __future__ import annotations

import dataclasses
import math
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
import torch.nn.functional as F
from torch import Tensor

from .augment import _STAINS, _Draw, _jpeg

__all__ = ["LaboratoryChanges", "stored"]


@dataclasses.dataclass(frozen=True)
class LaboratoryChanges:
    """Ranges of the random changes to stained crops; 0 turns one off.

    Lengths are shares of half the crop's side, so that 1 reaches from the
    middle to the border.

    Parameters
    ----------
    swap : float
        Share of crops whose surroundings are another crop's.
    cell_radius : (float, float)
        Around the middle, what stays where surroundings are swapped.
    shift : float
        Largest displacement, in any direction.
    centred : float
        Share of crops that are displaced by a tenth of that at most.
    scale : (float, float)
        Magnification, log-uniform.
    stretch : float
        Largest anisotropic stretch.
    stain : float
        Standard deviation of each stain's own colour, in optical density, for
        a unit of stain; red cells and cytoplasm change twice as much as nuclei.
    amount : float
        Each stain's density is multiplied by a factor that is log-uniform in
        ``[1 / (1 + amount), 1 + amount]``.
    counterstain : float
        The density of red cells and granules beside that of nuclei is multiplied by
        a further factor, log-uniform in ``[1 / (1 + counterstain), (1 + counterstain) ** 2]``.
    saturation : float
        Differences between channels are multiplied by a factor in
        ``[1 - saturation, 1 + saturation]``.
    response : float
        Optical densities are raised to a power in ``[1 / (1 + response), 1 + response]``.
    tint : float
        Standard deviation of the logarithm of each channel's own density.
    haze : float
        Largest share of stray light; half the crops.
    white : float
        Largest loss of each channel at the white point.
    blur : float
        Largest sigma of a Gaussian blur in output pixels; half the crops.
    sharpen : float
        Largest amount of unsharp masking; half of the crops that are not blurred.
    noise : float
        Largest standard deviation of noise, for values in [0, 1]; half the crops.
    jpeg : float
        Share of crops that are JPEG-compressed at quality 25 to 90.
    strength : float
        Of the changes of colour: each crop's are scaled by a number that is
        uniform in [0, strength].
    physical : bool
        Values have a unit, such as nm: they are placed, swapped, blurred and
        given noise in that unit, and neither clipped nor changed in colour.
    """

    swap: float = 0.5
    cell_radius: tuple[float, float] = (0.53, 0.66)
    shift: float = 0.4375
    centred: float = 0.3
    scale: tuple[float, float] = (0.65, 1.5)
    stretch: float = 0.1
    stain: float = 0.12
    amount: float = 0.8
    counterstain: float = 0.0
    saturation: float = 0.5
    response: float = 0.4
    tint: float = 0.35
    haze: float = 0.25
    white: float = 0.25
    blur: float = 1.3
    sharpen: float = 1.0
    noise: float = 0.04
    jpeg: float = 0.15
    strength: float = 1.0
    physical: bool = False

    def __call__(
        self, crops: Tensor, size: int, generator: torch.Generator
    ) -> tuple[Tensor, Tensor | None]:
        """Change crops at random.

        Parameters
        ----------
        crops : Tensor
            (B, C, h, h), the cell in the middle; half as large again as `size`,
            or so. uint8 and three channels, or any if `physical`.
        size : int
            Side of the square output in pixels.
        generator : torch.Generator
            The only source of randomness.

        Returns
        -------
        changed : Tensor
            (B, C, size, size) float32, in [0, 1] or in the unit of the crops.
        foreign : Tensor or None
            (B, size, size), the share of each pixel that is another crop's;
            None where none were swapped.
        """
        draw = _Draw(len(crops), generator)
        values, places = crops.float(), self._places(len(crops), size, draw)
        if not self.physical:
            values = values / 255
        out, foreign = _sampled(values, places), None
        if self.swap:
            out, foreign = self._swapped(out, values, places, draw)
        if not self.physical:
            out = self._colours(out, draw)
        out = self._focused(out, draw)
        if self.noise:
            amount = draw.uniform(0, self.noise) * draw.coin(0.5)
            out = out + amount * torch.randn(out.shape, generator=generator)
        if self.physical:
            return out, foreign
        out = out.clamp_(0, 1)
        if self.jpeg:
            out = _jpeg(out, draw.coin(self.jpeg).flatten() > 0, draw.uniform(25, 90).flatten())
        return out, foreign

    def weakened(self, by: float) -> LaboratoryChanges:
        """Return milder changes: 1 leaves them, 0 leaves little of them."""
        low, high = self.scale
        return dataclasses.replace(
            self,
            shift=self.shift * (0.3 + 0.7 * by),
            scale=(low**by, high**by),
            strength=self.strength * (0.2 + 0.8 * by),
            blur=self.blur * (0.3 + 0.7 * by),
            noise=self.noise * by,
        )

    def _swapped(
        self, out: Tensor, crops: Tensor, places: Tensor, draw: _Draw
    ) -> tuple[Tensor, Tensor]:
        """Give a share of crops the surroundings of their neighbour in the batch.

        The neighbour is moved by half its width and height: its own cell goes
        to a corner, and the light of stained crops is made that of the crop.
        """
        foreign = torch.zeros(len(out), *out.shape[2:])
        rows = torch.nonzero(draw.coin(self.swap).flatten()).flatten()
        if not len(rows):
            return out, foreign
        mine, there = out[rows], places[rows]
        other = _sampled(crops[(rows + 1) % len(crops)], there + 1)
        if not self.physical:
            other = (other * (_ground(mine) / _ground(other))).clamp_(0, 1)
        radius = draw.uniform(*self.cell_radius)[rows, 0]
        # Blended over some two pixels.
        share = ((there.norm(dim=3) - radius) * out.shape[3] / 2.5).sigmoid()
        out[rows] = torch.lerp(mine, other, share[:, None])
        foreign[rows] = share
        return out, foreign

    def _places(self, batch: int, size: int, draw: _Draw) -> Tensor:
        """Where each output pixel is taken from, (B, size, size, 2); 0 is the middle."""
        angle = draw.uniform(0, 2 * math.pi).flatten()
        low, high = self.scale
        zoom = 1 / (low * (high / low) ** draw.random().flatten())
        stretch = draw.log_uniform(1 + self.stretch).flatten()
        mirror = 1 - 2 * draw.coin(0.5).flatten()
        cos, sin = angle.cos() * zoom, angle.sin() * zoom
        # Beyond the border the crop is mirrored: not so far that the cell comes twice,
        # but in the corners of a turned crop.
        most = (1 + self.shift - zoom).clamp(0.05, self.shift) if self.shift else zoom * 0
        most = most * (1 - 0.9 * draw.coin(self.centred).flatten())
        way = draw.random().flatten().sqrt() * most
        turn = draw.uniform(0, 2 * math.pi).flatten()
        theta = torch.stack(
            [
                torch.stack([cos * stretch * mirror, -sin, way * turn.cos()], 1),
                torch.stack([sin * stretch * mirror, cos, way * turn.sin()], 1),
            ],
            1,
        )
        return F.affine_grid(theta, [batch, 3, size, size], align_corners=False)

    def _colours(self, crops: Tensor, draw: _Draw) -> Tensor:
        """Change the stains, in optical density against the crop's own ground."""
        # Most crops stay near the original: a model that sees the extremes
        # alone learns what is common slowly.
        strength = self.strength * draw.random()
        flat = strength[..., 0]
        density = -(crops / _ground(crops)).clamp_(1 / 255, 1).log_()
        own = torch.tensor(_STAINS)
        jitter = torch.tensor([1.0, 2.0, 1.0])[:, None] * self.stain * draw.normal(3, 3)
        factor = draw.random(3, 1).mul(2).sub(1).mul(math.log(1 + self.amount) * flat).exp()
        factor[:, 2] = 1
        if self.counterstain:
            power = 3 * draw.random(1).flatten() - 1
            factor[:, 1, 0] *= (power * math.log(1 + self.counterstain) * flat.flatten()).exp()
        stains = (own + flat * jitter) * factor
        mixing = torch.linalg.inv(own) @ stains  # rows of densities times this
        grey = torch.full((3, 3), 1 / 3)
        saturation = 1 + flat * self.saturation * (2 * draw.random(1, 1) - 1)
        mixing = mixing @ (saturation * torch.eye(3) + (1 - saturation) * grey)
        mixing = mixing * (flat * self.tint * draw.normal(1, 3)).exp()
        density = torch.bmm(mixing.transpose(1, 2), density.flatten(2)).view_as(density)
        density = density.clamp_min_(0)
        power = draw.log_uniform(1 + self.response) ** strength - 1
        density = density * (density.mean(1, keepdim=True).clamp_min_(1e-3).log_() * power).exp_()
        white = (1 - strength * self.white * draw.random(3, 1, 1)) * (
            1 - self.white * draw.random(1, 1, 1)
        )
        haze = strength * self.haze * draw.random() * draw.coin(0.5)
        return density.neg_().exp_().mul_((1 - haze) * white).add_(haze * white)

    def _focused(self, crops: Tensor, draw: _Draw) -> Tensor:
        """Blur half the crops and sharpen a quarter, by one filter for a few sigmas."""
        fate = draw.random().flatten()
        groups = 4
        out = crops
        for group in range(groups):
            rows = torch.nonzero(
                (fate >= group / groups * 0.75) & (fate < (group + 1) / groups * 0.75)
            ).flatten()
            if not len(rows):
                continue
            sharp = group == groups - 1
            sigma = 0.8 if sharp else self.blur * (0.2 + 0.8 * float(draw.random()[0]))
            soft = _blurred(crops[rows], sigma)
            if sharp:
                by = self.sharpen * draw.random()[rows]
                soft = crops[rows] + by * (crops[rows] - soft)
            if out is crops:
                out = crops.clone()
            out[rows] = soft
        return out


def _sampled(crops: Tensor, places: Tensor) -> Tensor:
    return F.grid_sample(crops, places, padding_mode="reflection", align_corners=False)


def _ground(crops: Tensor) -> Tensor:
    """The light that falls on each crop, (B, 3, 1, 1)."""
    blocks = F.avg_pool2d(crops, 4).flatten(2)
    rank = round(0.95 * (blocks.shape[2] - 1)) + 1
    return blocks.kthvalue(rank, dim=2).values[..., None, None].clamp_min(0.05)


def _blurred(crops: Tensor, sigma: float) -> Tensor:
    reach = torch.arange(-3.0, 4.0)
    kernel = (-(reach**2) / (2 * max(sigma, 1e-3) ** 2)).exp()
    kernel = kernel / kernel.sum()
    channels = crops.shape[1]
    flat = F.pad(crops, (3, 3, 3, 3), mode="reflect")
    flat = F.conv2d(flat, kernel.view(1, 1, 7, 1).repeat(channels, 1, 1, 1), groups=channels)
    return F.conv2d(flat, kernel.view(1, 1, 1, 7).repeat(channels, 1, 1, 1), groups=channels)


def stored(crops: npt.NDArray[np.uint8 | np.floating[Any]], size: int) -> Tensor:
    """Reduce crops (N, s, s, C) to what `LaboratoryChanges` takes for a `size`.

    Returns
    -------
    Tensor
        (N, C, 1.5 * size, 1.5 * size), uint8 as the crops, or float16 of others.
    """
    side, parts = 3 * size // 2, []
    for start in range(0, len(crops), 256):
        part = torch.from_numpy(crops[start : start + 256]).permute(0, 3, 1, 2).float()
        small = F.interpolate(part, size=(side, side), mode="area")
        parts.append(small.round().byte() if crops.dtype == np.uint8 else small.half())
    return torch.cat(parts)
