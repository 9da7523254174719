"""What takes the place of content that is removed: plausible, and always the same.

A network was not trained on grey squares, so a hole says as much about the hole
as about what was there. Four fills stand beside each other here; evidence that
holds with one of them alone is weak. All work on what the network is given,
(C, H, W), and none looks at what is removed but `blur` and `noise`, which keep
its coarse colour and its share of the image's statistics.
"""

from __future__ import annotations

import functools
import itertools
from typing import Literal, get_args

import numpy as np
import numpy.typing as npt

__all__ = ["FILLS", "Fill", "check_fill", "fill", "local_mean", "reference", "smooth"]

Fill = Literal["mean", "blur", "noise", "background"]
FILLS: tuple[Fill, ...] = get_args(Fill)

Image = npt.NDArray[np.float32]
Mask = npt.NDArray[np.bool_]

#: Width of the blur, as a share of the image's longer side.
_BLUR = 1 / 8
#: Side of a background tile, as a share of the image's shorter side.
_TILE = 1 / 8
#: How far from the middle background begins, as a share of half a side.
_RING = 0.7
#: Bytes of one step of `local_mean`.
_CHUNK = 2**23


def check_fill(kind: str) -> Fill:
    """Return the name of a fill, or raise a ValueError that lists them."""
    for known in FILLS:
        if kind == known:
            return known
    raise ValueError(f"there is no fill '{kind}'; use one of {', '.join(FILLS)}")


def fill(
    image: Image,
    removed: Mask,
    kind: Fill = "mean",
    seed: int = 0,
    background: Mask | None = None,
) -> Image:
    """Replace parts of an image, once per mask.

    Parameters
    ----------
    image : numpy.ndarray
        (C, H, W) float32.
    removed : numpy.ndarray
        (M, H, W) or (H, W) bool, True where content is replaced.
    kind : {"mean", "blur", "noise", "background"}
        See `local_mean` for the first and `reference` for the others.
    seed : int
        Of the fills that draw by lot.
    background : numpy.ndarray, optional
        (H, W) bool, where the background lies; see `reference`.

    Returns
    -------
    numpy.ndarray
        (M, C, H, W) or (C, H, W) float32; bit for bit the image where nothing
        was removed.

    Raises
    ------
    ValueError
        If shapes do not fit, or there is no such fill.
    """
    _check(image, removed)
    stack = removed[None] if removed.ndim == 2 else removed
    if check_fill(kind) == "mean":
        filled = local_mean(image[None], stack)
    else:
        other = reference(image, kind, seed, background)
        filled = np.where(stack[:, None], other[None], image[None])
    return filled[0] if removed.ndim == 2 else filled


def _check(image: Image, removed: Mask) -> None:
    if image.ndim != 3 or removed.ndim not in (2, 3) or removed.shape[-2:] != image.shape[1:]:
        raise ValueError(
            f"an image (C, H, W) is filled by masks (M, H, W), got {image.shape} and "
            f"{removed.shape}"
        )
    if removed.dtype != bool:
        raise ValueError(f"masks must be bool, got {removed.dtype}")


def local_mean(
    images: Image, removed: Mask, otherwise: npt.NDArray[np.float32] | None = None
) -> Image:
    """Grow what is left smoothly into what was removed: nothing removed is used.

    Push and pull over a pyramid (Gortler et al. 1996, "The Lumigraph", section
    3.4): each level holds the mean of the pixels left in 2 x 2, and each hole
    takes the finest level at which something is left, interpolated.

    Parameters
    ----------
    images : numpy.ndarray
        (M, C, H, W) float32; (1, C, H, W) is taken for all masks.
    removed : numpy.ndarray
        (M, H, W) bool.
    otherwise : numpy.ndarray, optional
        (C,) or (M, C), what to fill images with of which nothing is left; by
        default their own mean.

    Returns
    -------
    numpy.ndarray
        (M, C, H, W) float32.
    """
    count = len(removed)
    stack = np.broadcast_to(images, (count, *images.shape[1:]))
    step = max(1, _CHUNK // (4 * int(np.prod(images.shape[1:]))))
    last = stack.mean(axis=(2, 3)) if otherwise is None else np.asarray(otherwise, np.float32)
    last = np.broadcast_to(last, (count, images.shape[1]))
    parts = [
        _push_and_pull(stack[i : i + step], removed[i : i + step], last[i : i + step])
        for i in range(0, count, step)
    ]
    return np.concatenate(parts) if parts else np.empty((0, *images.shape[1:]), np.float32)


def _push_and_pull(images: Image, removed: Mask, otherwise: npt.NDArray[np.float32]) -> Image:
    weight = (~removed[:, None]).astype(np.float32)
    means, weights = [np.where(removed[:, None], np.float32(0), images)], [weight]
    while max(weight.shape[2:]) > 1:
        total, share = _pool(means[-1] * weights[-1]), _pool(weights[-1])
        means.append(total / np.maximum(share, np.float32(1e-12)))
        # Saturating keeps thinly covered places from looking like empty ones.
        weight = np.minimum(share, np.float32(1))
        weights.append(weight)
    found = np.where(weights[-1] > 0, means[-1], otherwise[:, :, None, None])
    for mean, weight in zip(means[-2::-1], weights[-2::-1], strict=True):
        above = _double(found, mean.shape[2:])
        found = weight * mean + (1 - weight) * above
    exact: Image = np.where(removed[:, None], found, images).astype(np.float32, copy=False)
    return exact


def _pool(x: Image) -> Image:
    """Sums over 2 x 2; an odd last row or column stands alone."""
    height, width = x.shape[2:]
    if height % 2 or width % 2:
        x = np.pad(x, ((0, 0), (0, 0), (0, height % 2), (0, width % 2)))
    rows = x[:, :, ::2] + x[:, :, 1::2]
    pooled: Image = rows[..., ::2] + rows[..., 1::2]
    return pooled


def _double(x: Image, shape: tuple[int, ...]) -> Image:
    """Bilinear interpolation to twice the size, cut to `shape`."""
    for axis, length in ((2, shape[0]), (3, shape[1])):
        padding = [(0, 0)] * 4
        padding[axis] = (1, 1)
        y = np.moveaxis(np.pad(x, padding, mode="edge"), axis, 0)
        out = np.empty((2 * (len(y) - 2), *y.shape[1:]), np.float32)
        out[::2] = np.float32(0.75) * y[1:-1] + np.float32(0.25) * y[:-2]
        out[1::2] = np.float32(0.75) * y[1:-1] + np.float32(0.25) * y[2:]
        x = np.moveaxis(out[:length], 0, axis)
    return x


def reference(image: Image, kind: Fill, seed: int = 0, background: Mask | None = None) -> Image:
    """Make the whole image that a fill takes its pixels from.

    Parameters
    ----------
    image : numpy.ndarray
        (C, H, W) float32.
    kind : {"blur", "noise", "background"}
        ``"blur"``: a Gaussian blur by an eighth of the longer side, as Petsiuk
        et al. 2018 (RISE) begin insertion with; coarse colour stays.
        ``"noise"``: the image with its Fourier phases drawn by lot, the same
        for all channels: mean, variance, colours and grain as before, but
        nothing in its place (Galerne, Gousseau and Morel 2011).
        ``"background"``: tiles drawn by lot from the image's own background.
    seed : int
        Of what is drawn by lot.
    background : numpy.ndarray, optional
        (H, W) bool; by default what lies far from the middle, where the crop
        of a cell shows its surroundings.

    Returns
    -------
    numpy.ndarray
        (C, H, W) float32.
    """
    if kind == "blur":
        return smooth(image, max(image.shape[1:]) * _BLUR)
    if kind == "noise":
        return _scramble(image, seed)
    if kind == "background":
        where = _far_from_the_middle(image.shape[1:]) if background is None else background
        return _tile(image, where, seed)
    raise ValueError(f"the fill '{kind}' is not taken from another image")


def smooth(image: Image, sigma: float) -> Image:
    """Blur (..., H, W) by a Gaussian of `sigma` pixels; the edges' weights sum to 1."""
    down, across = (_gaussian(length, float(sigma)) for length in image.shape[-2:])
    blurred: Image = np.matmul(down, image, dtype=np.float32) @ across.T
    return blurred.astype(np.float32, copy=False)


@functools.lru_cache(32)
def _gaussian(length: int, sigma: float) -> Image:
    """(length, length) float32, rows that sum to 1."""
    if sigma <= 0:
        return np.eye(length, dtype=np.float32)
    place = np.arange(length)
    weights = np.exp(-0.5 * ((place[:, None] - place) / sigma) ** 2)
    shares: Image = (weights / weights.sum(axis=1, keepdims=True)).astype(np.float32)
    return shares


def _scramble(image: Image, seed: int) -> Image:
    # The phases of noise, so that the result is real.
    noise = np.random.default_rng(seed).standard_normal(image.shape[1:])
    turn = np.angle(np.fft.fft2(noise))
    mean = image.mean(axis=(1, 2), keepdims=True)
    spectrum = np.fft.fft2(image - mean) * np.exp(1j * turn)
    drawn = np.fft.ifft2(spectrum).real + mean
    least, most = image.min(axis=(1, 2), keepdims=True), image.max(axis=(1, 2), keepdims=True)
    clipped: Image = np.clip(drawn, least, most).astype(np.float32)
    return clipped


def _far_from_the_middle(shape: tuple[int, ...]) -> Mask:
    y, x = (np.abs((np.arange(length) + 0.5) / length * 2 - 1) for length in shape)
    far: Mask = np.maximum(y[:, None], x) > _RING
    return far


def _tile(image: Image, where: Mask, seed: int) -> Image:
    """Cover the image with square tiles that lie wholly in `where`; or with its pixels."""
    rng, (height, width) = np.random.default_rng(seed), image.shape[1:]
    if not where.any():
        return np.broadcast_to(image.mean(axis=(1, 2), keepdims=True), image.shape).copy()
    side = max(1, round(min(height, width) * _TILE))
    while True:
        view = np.lib.stride_tricks.sliding_window_view(where, (side, side))
        corners = np.argwhere(view.all(axis=(2, 3)))
        if len(corners):
            break
        side = max(1, side // 2)
    out = np.empty_like(image)
    for top, left in itertools.product(range(0, height, side), range(0, width, side)):
        row, column = corners[rng.integers(len(corners))]
        target = out[:, top : top + side, left : left + side]
        rows, columns = target.shape[1:]
        target[...] = image[:, row : row + rows, column : column + columns]
    return out
