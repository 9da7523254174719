"""Random changes to training crops, on batches of tensors.

The ranges are wide on purpose: a smear from another laboratory differs in
stain, white balance, magnification, focus and compression far more than two
fields of one slide do.
"""

from __future__ import annotations

import dataclasses
import io
import math

import numpy as np
import torch
import torch.nn.functional as F
from PIL import Image
from torch import Tensor

__all__ = ["Augmentation"]


@dataclasses.dataclass(frozen=True)
class Augmentation:
    """Ranges of the random changes; 0 turns one off.

    Parameters
    ----------
    rotate : bool
        Any angle, and mirror images.
    scale : float
        Magnification is log-uniform in ``[1 / (1 + scale), 1 + scale]``.
    shift : float
        Largest displacement, as a share of the crop's side.
    stretch : float
        Largest anisotropic stretch.
    stain : float
        Standard deviation of a random 3 x 3 mixing of optical densities
        (RGB only).
    counterstain : float
        Density of the red cells' stain relative to the nuclei's: it is
        multiplied by a factor that is log-uniform in
        ``[1 / (1 + counterstain), (1 + counterstain) ** 2]`` (RGB only).
    response : float
        Optical densities are raised to a power that is log-uniform in
        ``[1 / (1 + response), 1 + response]``, hue kept (RGB only): cameras
        saturate differently.
    depth : float
        Stain depth and exposure: optical densities are multiplied by a factor
        that is log-uniform in ``[1 / (1 + depth), 1 + depth]`` (RGB only).
        This and the other changes of colour are scaled by one random strength
        per crop, uniform in [0, 1].
    tint : float
        Standard deviation of the logarithm of each channel's own factor of
        that kind. Cameras and stains differ most in the blue.
    haze : float
        Largest share of stray light, which lifts the dark parts; half the
        crops (RGB only).
    white : float
        Largest relative change of each channel's white point (RGB only).
    gamma : float
        Gamma is log-uniform in ``[1 / (1 + gamma), 1 + gamma]``.
    blur : float
        Largest sigma of a Gaussian blur, in output pixels; half the crops.
    noise : float
        Largest standard deviation of added noise, for values in [0, 1], or in
        the values' unit where `physical` is set.
    jpeg : float
        Share of crops that are JPEG-compressed at quality 25 to 90 (RGB only).
    physical : bool
        Values have a unit, such as nm, and no natural range: they are warped,
        blurred and given noise, and neither clipped nor changed in contrast.
    """

    rotate: bool = True
    scale: float = 0.5
    shift: float = 0.08
    stretch: float = 0.12
    stain: float = 0.2
    counterstain: float = 1.0
    response: float = 0.4
    depth: float = 0.8
    tint: float = 0.6
    haze: float = 0.25
    white: float = 0.25
    gamma: float = 0.3
    blur: float = 1.3
    noise: float = 0.03
    jpeg: float = 0.2
    physical: bool = False

    def __call__(self, crops: Tensor, size: int, generator: torch.Generator) -> Tensor:
        """Change crops at random.

        Parameters
        ----------
        crops : Tensor
            (B, C, h, w) float32 in [0, 1], or in any range if `physical`.
        size : int
            Side of the square output in pixels.
        generator : torch.Generator
            The only source of randomness.

        Returns
        -------
        Tensor
            (B, C, size, size) float32 in the same range.
        """
        draw = _Draw(len(crops), generator)
        out = self._warp(crops, size, draw)
        colour = crops.shape[1] == 3 and not self.physical
        if colour:
            out = self._colours(out, draw)
        if self.gamma and not self.physical:
            out = out.clamp(1e-4, 1) ** draw.log_uniform(1 + self.gamma)
        if self.blur:
            out = _blur(out, (draw.uniform(0, self.blur) * draw.coin(0.5)).flatten())
        if self.noise:
            amount = draw.uniform(0, self.noise) * draw.coin(0.5)
            out = out + amount * torch.randn(out.shape, generator=generator)
        if self.physical:
            return out
        out = out.clamp(0, 1)
        if self.jpeg and colour:
            out = _jpeg(out, draw.coin(self.jpeg).flatten() > 0, draw.uniform(25, 90).flatten())
        return out

    def _warp(self, crops: Tensor, size: int, draw: _Draw) -> Tensor:
        """Rotate, mirror, scale, stretch and shift in one resampling."""
        angle = draw.uniform(0, 2 * math.pi if self.rotate else 0).flatten()
        zoom = 1 / draw.log_uniform(1 + self.scale).flatten()
        stretch = draw.log_uniform(1 + self.stretch).flatten()
        mirror = 1 - 2 * draw.coin(0.5 if self.rotate else 0).flatten()
        cos, sin = angle.cos(), angle.sin()
        shift = self.shift * 2
        theta = torch.stack(
            [
                torch.stack([cos * zoom * stretch * mirror, -sin * zoom], 1),
                torch.stack([sin * zoom * stretch * mirror, cos * zoom], 1),
            ],
            1,
        )
        offset = torch.stack([draw.uniform(-shift, shift).flatten() for _ in range(2)], 1)
        theta = torch.cat([theta, offset[..., None]], 2)
        over = max(1, round(crops.shape[-1] / size))
        shape = [len(crops), crops.shape[1], over * size, over * size]
        grid = F.affine_grid(theta, shape, align_corners=False)
        warped = F.grid_sample(crops, grid, padding_mode="reflection", align_corners=False)
        return F.avg_pool2d(warped, over) if over > 1 else warped

    def _colours(self, out: Tensor, draw: _Draw) -> Tensor:
        """Mix optical densities, then change the white point."""
        # Against the crop's own ground, or stain would be added to the glass.
        blocks = F.avg_pool2d(out, 4).flatten(2)
        ground = blocks.kthvalue(round(0.95 * (blocks.shape[2] - 1)) + 1, dim=2).values
        density = -(out / ground[..., None, None].clamp_min(0.05)).clamp(1 / 255, 1).log()
        # Most crops stay near the original: a model that sees the extremes
        # alone learns what is common slowly.
        strength = draw.random()
        mixing = torch.eye(3) + strength[..., 0] * self.stain * draw.normal(3, 3)
        # Rows sum to about one: stains change hue without fading to white.
        mixing = mixing / mixing.sum(2, keepdim=True).clamp_min(0.3)
        density = torch.einsum("bij,bjhw->bihw", mixing, density)
        density = self._stains(density, strength, draw)
        density = density * draw.log_uniform(1 + self.depth) ** strength
        density = density * (strength * self.tint * draw.normal(3, 1, 1)).exp()
        white = 1 - strength * self.white * draw.random(3, 1, 1)
        brightness = 1 - self.white * draw.random(1, 1, 1)
        haze = strength * self.haze * draw.random() * draw.coin(0.5)
        return (haze + (1 - haze) * (-density).exp().clamp(0, 1)) * white * brightness

    def _stains(self, density: Tensor, strength: Tensor, draw: _Draw) -> Tensor:
        """Change how dense red cells are beside nuclei, and the response."""
        least, most = 1 / (1 + self.counterstain), (1 + self.counterstain) ** 2
        factor = least * (most / least) ** draw.random()[..., 0]
        scale = torch.eye(3).repeat(len(density), 1, 1)
        scale[:, 1, 1] = (factor ** strength[..., 0])[:, 0, 0]
        stains = torch.tensor(_STAINS)
        change = stains.T @ scale @ torch.linalg.inv(stains.T)
        density = torch.einsum("bij,bjhw->bihw", change, density).clamp_min(0)
        power = draw.log_uniform(1 + self.response) ** strength
        return density * density.mean(1, keepdim=True).clamp_min(1e-3) ** (power - 1)


#: Unit optical density in red, green, blue of nuclei and of red cells (medians
#: over the PBC set, ``benchmarks/stains.py``), and what is at right angles to both.
_STAINS = ((0.513, 0.833, 0.207), (0.486, 0.726, 0.487), (0.858, -0.502, -0.109))


class _Draw:
    """One random number per crop, shaped (B, 1, 1, 1) unless told."""

    def __init__(self, batch: int, generator: torch.Generator) -> None:
        self.batch = batch
        self.generator = generator

    def random(self, *shape: int) -> Tensor:
        return torch.rand((self.batch, *(shape or (1, 1, 1))), generator=self.generator)

    def normal(self, *shape: int) -> Tensor:
        return torch.randn((self.batch, *shape), generator=self.generator)

    def uniform(self, low: float, high: float) -> Tensor:
        return low + (high - low) * self.random()

    def log_uniform(self, most: float) -> Tensor:
        return ((2 * self.random() - 1) * math.log(most)).exp()

    def coin(self, chance: float) -> Tensor:
        return (self.random() < chance).float()


def _blur(crops: Tensor, sigma: Tensor) -> Tensor:
    reach = torch.arange(-3.0, 4.0)
    kernel = (-(reach**2) / (2 * sigma.clamp_min(1e-3)[:, None] ** 2)).exp()
    kernel = kernel / kernel.sum(1, keepdim=True)
    batch, channels, height, width = crops.shape
    kernel = kernel.repeat_interleave(channels, 0)
    flat = F.pad(crops, (3, 3, 3, 3), mode="reflect").reshape(
        1, batch * channels, height + 6, width + 6
    )
    flat = F.conv2d(flat, kernel[:, None, :, None], groups=batch * channels)
    flat = F.conv2d(flat, kernel[:, None, None, :], groups=batch * channels)
    return flat.view(batch, channels, height, width)


def _jpeg(crops: Tensor, chosen: Tensor, quality: Tensor) -> Tensor:
    rows = torch.nonzero(chosen).flatten()
    for row in rows.tolist():
        pixels = (crops[row] * 255).round().byte().permute(1, 2, 0).numpy()
        file = io.BytesIO()
        Image.fromarray(pixels).save(file, "JPEG", quality=int(quality[row]))
        back = np.asarray(Image.open(file), dtype=np.float32) / 255
        crops[row] = torch.from_numpy(back).permute(2, 0, 1)
    return crops
