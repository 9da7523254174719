"""Stain and texture of a patch as numbers: no training, no weights, no download.

Every number is a mean over the patch, so that turning or mirroring it, or
moving it by a little, changes next to nothing.
"""

from __future__ import annotations

import functools

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

__all__ = ["describe"]

#: Optical densities of haematoxylin, eosin and what is left, in red, green and
#: blue (Ruifrok and Johnston 2001, as in `skimage.color.rgb_from_hed`, with the
#: third orthogonal to both).
_STAINS = ((0.65, 0.70, 0.29), (0.07, 0.99, 0.11))
_WHITE = 245.0
_SCALES = 5
_LEAST = 1e-4


def describe(patches: Tensor) -> Tensor:
    """Return the numbers (B, K) of patches (B, S, S, 3) uint8, before they are scaled."""
    density = _densities(patches)
    pooled = F.avg_pool2d(density, 2)
    stains = torch.einsum("bchw,cs->bshw", pooled, _unmixing().to(pooled))
    total = pooled.mean(dim=1, keepdim=True)
    channels = torch.cat([stains, total], dim=1)
    fine = density.mean(dim=1, keepdim=True)
    parts = [
        *_colours(channels),
        *_finest(density, pooled, fine),
        *_bands(channels[:, [0, 1, 3]]),
        *_directions(channels[:, 3:]),
        *_binary_patterns(channels[:, :1], 3),
        *_binary_patterns(channels[:, 1:2], 2),
        *_blobs(channels[:, :1]),
        *_gaps(total),
    ]
    return torch.cat(parts, dim=1)


@functools.cache
def _unmixing() -> Tensor:
    rows = np.array(_STAINS)
    rows /= np.linalg.norm(rows, axis=1, keepdims=True)
    rest = np.cross(rows[0], rows[1])
    matrix = np.vstack([rows, rest / np.linalg.norm(rest)])
    return torch.from_numpy(np.linalg.inv(matrix)).float()


@functools.cache
def _table() -> Tensor:
    """Return the natural optical density of each of 256 values."""
    values = torch.arange(256, dtype=torch.float32).clamp(min=2.0)
    return torch.log(_WHITE / values).clamp(min=0.0)


def _densities(patches: Tensor) -> Tensor:
    table = _table().to(patches.device)
    return table[patches.long()].permute(0, 3, 1, 2).contiguous()


def _moments(maps: Tensor) -> list[Tensor]:
    """Return mean, spread and skewness (B, C) of maps (B, C, h, w)."""
    mean = maps.mean(dim=(2, 3))
    centred = maps - mean[..., None, None]
    squares = (centred**2).mean(dim=(2, 3))
    spread = (squares + _LEAST**2).sqrt()
    skewness = (centred**3).mean(dim=(2, 3)) / (spread**3 + _LEAST)
    return [mean, torch.log(spread + 0.01), skewness.clamp(-4, 4)]


def _soft_histogram(values: Tensor, low: float, high: float, bins: int) -> Tensor:
    """Return square roots of shares (B, bins) of values (B, n), with triangular bins."""
    place = ((values - low) / (high - low) * (bins - 1)).clamp(0, bins - 1)
    below = place.floor()
    rest = place - below
    index = below.long()
    shares = values.new_zeros(len(values), bins + 1)
    shares.scatter_add_(1, index, 1 - rest)
    shares.scatter_add_(1, index + 1, rest)
    return (shares[:, :bins] / values.shape[1]).sqrt()


def _colours(channels: Tensor) -> list[Tensor]:
    flat = channels.flatten(2)
    stained, eosin, rest, total = flat.unbind(1)
    together = _correlation(stained, eosin)
    purple = (stained - eosin) / (stained + eosin + 0.2)
    return [
        *_moments(channels),
        together,
        _correlation(stained, total),
        _soft_histogram(stained, 0.0, 1.8, 12),
        _soft_histogram(eosin, -0.3, 1.2, 10),
        _soft_histogram(rest, -0.4, 0.4, 8),
        _soft_histogram(total, 0.0, 1.5, 12),
        _soft_histogram(purple, -1.0, 1.0, 10),
    ]


def _correlation(a: Tensor, b: Tensor) -> Tensor:
    a, b = a - a.mean(dim=1, keepdim=True), b - b.mean(dim=1, keepdim=True)
    norm = (a.square().mean(dim=1) * b.square().mean(dim=1)).sqrt() + _LEAST
    return ((a * b).mean(dim=1) / norm)[:, None]


def _finest(density: Tensor, pooled: Tensor, fine: Tensor) -> list[Tensor]:
    """Return the energy within 2 x 2 pixels, by channel, and how unevenly it is spread."""
    within = (F.avg_pool2d(density**2, 2) - pooled**2).clamp(min=0)
    local = F.avg_pool2d(within.mean(dim=1, keepdim=True), 8)
    uneven = local.std(dim=(2, 3)) / (local.mean(dim=(2, 3)) + _LEAST)
    return [torch.log(within.mean(dim=(2, 3)) + 1e-5), uneven]


@functools.cache
def _kernel() -> Tensor:
    row = torch.tensor([1.0, 4.0, 6.0, 4.0, 1.0]) / 16
    return torch.outer(row, row)[None, None]


def _smooth(maps: Tensor) -> Tensor:
    n = maps.shape[1]
    padded = F.pad(maps, (2, 2, 2, 2), mode="reflect")
    return F.conv2d(padded, _kernel().to(maps).expand(n, 1, 5, 5), groups=n)


def _bands(maps: Tensor) -> list[Tensor]:
    """Return what each octave of each channel holds: energy, sign, unevenness."""
    parts, energies = [], []
    for _ in range(_SCALES):
        smooth = _smooth(maps)
        band = maps - smooth
        energy = band.abs()
        mean = energy.mean(dim=(2, 3))
        square = (band**2).mean(dim=(2, 3))
        cubes = (band**3).mean(dim=(2, 3)) / (square**1.5 + 1e-6)
        peaked = torch.log(square + 1e-6) / 2 - torch.log(mean + 1e-3)
        parts += [torch.log(mean + 1e-3), peaked, cubes.clamp(-4, 4)]
        energies.append(energy)
        maps = F.avg_pool2d(smooth, 2)
    # How the energy of fine octaves varies at coarser ones, as in a scattering transform.
    for energy in energies[:3]:
        mean = energy.mean(dim=(2, 3)) + 1e-3
        for _ in range(3):
            energy = F.avg_pool2d(energy, 2)
            smooth = _smooth(energy)
            parts.append(torch.log((energy - smooth).abs().mean(dim=(2, 3)) / mean + 1e-2))
    return parts


def _directions(total: Tensor) -> list[Tensor]:
    """Return how far structure has one direction, at three scales."""
    parts = []
    for _ in range(3):
        dx = total[..., 1:-1, 2:] - total[..., 1:-1, :-2]
        dy = total[..., 2:, 1:-1] - total[..., :-2, 1:-1]
        tensor = torch.cat([dx * dx - dy * dy, 2 * dx * dy, dx * dx + dy * dy], dim=1)
        mean = tensor.mean(dim=(2, 3))
        local = F.avg_pool2d(tensor, 4)
        whole = mean[:, :2].norm(dim=1) / (mean[:, 2] + _LEAST)
        own = local[:, :2].norm(dim=1) / (local[:, 2] + _LEAST)
        spread = own.std(dim=(1, 2))
        parts += [whole[:, None], own.mean(dim=(1, 2))[:, None], spread[:, None]]
        total = F.avg_pool2d(_smooth(total), 2)
    return parts


@functools.cache
def _pattern_classes() -> Tensor:
    """Return the class, 0..9, of each of 256 patterns: uniform ones by their size."""
    classes = []
    for code in range(256):
        bits = [(code >> k) & 1 for k in range(8)]
        changes = sum(bits[k] != bits[k - 1] for k in range(8))
        classes.append(sum(bits) if changes <= 2 else 9)
    return torch.tensor(classes)


def _binary_patterns(stained: Tensor, scales: int) -> list[Tensor]:
    """Return shares of uniform local binary patterns (Ojala et al. 2002), scale by scale."""
    parts = []
    around = [(-1, -1), (-1, 0), (-1, 1), (0, 1), (1, 1), (1, 0), (1, -1), (0, -1)]
    for _ in range(scales):
        h, w = stained.shape[2:]
        centre = stained[:, 0, 1:-1, 1:-1] + 0.01
        code = torch.zeros_like(centre, dtype=torch.uint8)
        for bit, (dy, dx) in enumerate(around):
            there = stained[:, 0, 1 + dy : h - 1 + dy, 1 + dx : w - 1 + dx]
            code |= (there >= centre).to(torch.uint8) << bit
        classes = _pattern_classes().to(stained.device)[code.flatten(1).long()]
        counts = stained.new_zeros(len(stained), 10)
        counts.scatter_add_(1, classes, torch.ones_like(classes, dtype=stained.dtype))
        parts.append((counts / classes.shape[1]).sqrt())
        stained = F.avg_pool2d(_smooth(stained), 2)
    return parts


def _blobs(stained: Tensor) -> list[Tensor]:
    """Return how densely dark blobs of the size of nuclei lie, at three sizes."""
    parts = []
    maps = stained
    for _ in range(3):
        near = _smooth(maps)
        far = _smooth(_smooth(near))
        response = near - far
        peak = (response == F.max_pool2d(response, 3, 1, 1)) & (response > 0.02)
        for least in (0.02, 0.05, 0.1, 0.2):
            share = (peak & (response > least)).to(maps).mean(dim=(2, 3))
            parts.append((share * 100).sqrt())
        parts.append(torch.log(response.clamp(min=0).mean(dim=(2, 3)) + 1e-3))
        maps = F.avg_pool2d(near, 2)
    # How densely stained places of 8 µm are.
    dense = F.avg_pool2d(stained, 8, 4).flatten(1)
    parts.append(_soft_histogram(dense, 0.0, 1.4, 14))
    # Where they lie: evenly, or in groups.
    for side in (14, 28):
        if min(stained.shape[2:]) >= side:
            local = F.avg_pool2d((stained > 0.5).to(stained), side)
            parts += [local.std(dim=(2, 3)), local.amax(dim=(2, 3)), local.amin(dim=(2, 3))]
    return parts


def _gaps(total: Tensor) -> list[Tensor]:
    """Return shares of blank and of dense places of growing size."""
    parts = []
    for side in (1, 3, 7, 15):
        mean = F.avg_pool2d(total, side, (side + 1) // 2) if side > 1 else total
        parts += [(mean < t).to(total).mean(dim=(2, 3)).sqrt() for t in (0.05, 0.12, 0.25)]
        parts += [(mean > t).to(total).mean(dim=(2, 3)).sqrt() for t in (0.6, 0.9)]
    return parts
