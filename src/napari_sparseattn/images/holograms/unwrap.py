"""Phase without jumps of 2π, quickly where the field is smooth."""

from __future__ import annotations

import warnings

import numpy as np
import numpy.typing as npt

from .flatten import median

__all__ = ["has_jump", "unwrap"]

Phase = npt.NDArray[np.float32]
# Every so many pixels along rows and columns tell where the background is.
_FEW = 3


def has_jump(wrapped: Phase) -> bool:
    """Tell whether neighbours in a frame (H, W) differ by more than π."""
    for axis in (0, 1):
        steps = np.diff(wrapped, axis=axis)
        if steps.size and (steps.max() > np.pi or steps.min() < -np.pi):
            return True
    return False


def unwrap(wrapped: Phase, step: int = 1) -> Phase:
    """Unwrap one frame whose background is near 0.

    Nothing is done where no neighbours differ by more than π. Else turns are
    counted along rows (Itoh 1982); where no jump is left, which is so if no
    noise hides one, that is the only answer. Else every `step`-th pixel is
    unwrapped by scikit-image's `unwrap_phase` (Herráez et al. 2002), which
    takes long, and the other pixels get the number of turns that brings them
    nearest to it. If a jump is left, all are unwrapped.

    Parameters
    ----------
    wrapped : numpy.ndarray, shape (H, W), float32
        Finite, within -π to π.
    step : int
        The phase must change by less than about π / 2 over so many pixels.

    Returns
    -------
    numpy.ndarray, shape (H, W), float32
        Differs from `wrapped` by multiples of 2π.
    """
    if not has_jump(wrapped):
        return wrapped
    smooth = _count_turns(wrapped)
    if not has_jump(smooth):
        return _anchor(smooth, wrapped)
    if step > 1 and min(wrapped.shape) >= 4 * step:
        coarse = _unwrap_phase(wrapped[step // 2 :: step, step // 2 :: step])
        smooth = _nearest_turns(wrapped, _enlarge(coarse, step, wrapped.shape))
        if not has_jump(smooth):
            return _anchor(smooth, wrapped)
    return _anchor(_nearest_turns(wrapped, _unwrap_phase(wrapped)), wrapped)


def _count_turns(wrapped: Phase) -> Phase:
    """Add a turn at every jump along the first column, and from there along each row."""
    turns = np.zeros(wrapped.shape, np.int16)
    for axis, part in ((0, np.s_[:, :1]), (1, np.s_[:, :])):
        steps = np.diff(wrapped[part], axis=axis)
        jumps = (steps < -np.pi).view(np.int8) - (steps > np.pi).view(np.int8)
        later = turns[1:, :1] if axis == 0 else turns[:, 1:]
        np.cumsum(jumps, axis=axis, dtype=np.int16, out=later)
    turns[:, 1:] += turns[:, :1]
    return wrapped + np.float32(2 * np.pi) * turns


def _unwrap_phase(wrapped: Phase) -> Phase:
    from skimage.restoration import unwrap_phase

    with warnings.catch_warnings():
        # It warns of frames one pixel wide, which it handles.
        warnings.simplefilter("ignore", UserWarning)
        unwrapped: npt.NDArray[np.float64] = unwrap_phase(wrapped)
    return unwrapped.astype(np.float32)


def _enlarge(coarse: Phase, step: int, shape: tuple[int, ...]) -> Phase:
    whole = np.repeat(np.repeat(coarse, step, axis=0), step, axis=1)
    short = [(0, max(0, n - m)) for n, m in zip(shape, whole.shape, strict=True)]
    return np.pad(whole, short, mode="edge")[: shape[0], : shape[1]]


def _nearest_turns(wrapped: Phase, guide: Phase) -> Phase:
    turn = np.float32(2 * np.pi)
    return (wrapped + turn * np.round((guide - wrapped) / turn)).astype(np.float32, copy=False)


def _anchor(smooth: Phase, wrapped: Phase) -> Phase:
    """Move by the multiple of 2π that leaves the background where it was."""
    some = (slice(None, None, _FEW), slice(None, None, _FEW))
    before = wrapped[some]
    ground = np.abs(before) < np.pi / 2
    if not ground.any():
        return smooth
    turns = np.round(median((smooth[some] - before)[ground]) / (2 * np.pi))
    return smooth - np.float32(2 * np.pi * turns) if turns else smooth
