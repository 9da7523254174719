"""How many pixels to keep, learned from the trend of the held-out loss."""

from __future__ import annotations

import dataclasses

__all__ = ["PixelBudget"]


@dataclasses.dataclass
class PixelBudget:
    """Shrink k while the loss allows it.

    The number starts generous. Each time the smoothed validation loss has
    gone flat, k shrinks by a factor; when the loss then stays, for `patience`
    epochs, beyond a tolerance over its best at any earlier k, the last shrink
    is taken back and k is frozen. Yoshai et al. 2025 learn k from the trend of the loss;
    this rule is ours.

    Parameters
    ----------
    k : int
        Pixels kept at the start.
    least : int
        k never falls below this.
    factor : float
        What a shrink multiplies k by.
    flat : float
        The trend is flat when the smoothed loss fell by less than this share.
    tolerance : float
        Share by which the smoothed loss may exceed its best.
    patience : int
        Epochs in a row that the loss must be beyond the tolerance: single
        epochs swing by more than a shrink costs.
    smoothing : float
        Weight of the newest loss in the moving average.
    """

    k: int
    least: int = 1
    factor: float = 0.8
    flat: float = 0.05
    tolerance: float = 0.15
    patience: int = 2
    smoothing: float = 0.5
    frozen: bool = False
    smoothed: float | None = None
    best: float = float("inf")
    previous: int | None = None
    worse: int = 0

    def step(self, loss: float) -> int:
        """Take one epoch's validation loss and return k for the next."""
        if self.frozen:
            return self.k
        if self.smoothed is None:
            self.smoothed = self.best = loss
            return self.k
        before, self.smoothed = (
            self.smoothed,
            self.smoothed + self.smoothing * (loss - self.smoothed),
        )
        beyond = self.smoothed > self.best * (1 + self.tolerance)
        self.worse = self.worse + 1 if beyond else 0
        if self.previous is not None and self.worse >= self.patience:
            self.k = self.previous
            self.frozen = True
        elif not beyond and self.smoothed > before * (1 - self.flat):
            self.previous, self.k = self.k, max(self.least, round(self.k * self.factor))
            self.frozen = self.k == self.least
        self.best = min(self.best, self.smoothed)
        return self.k

    def freeze(self) -> int:
        """Keep the present k from now on."""
        self.frozen = True
        return self.k
