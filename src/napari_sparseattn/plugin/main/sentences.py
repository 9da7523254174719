"""An answer in one plain sentence; the numbers behind it stand elsewhere."""

from __future__ import annotations

from ...inference.prediction import Prediction
from ...inference.slides import SlidePrediction

__all__ = ["plain_answer"]

#: Probabilities are calibrated: of what is called this probable, about so many are right.
_VERY, _PROBABLY = 0.9, 0.6


def plain_answer(answer: Prediction) -> str:
    """Return what was found, and how sure the model is of it."""
    ranked = answer.rank_classes()
    first, probability = _shown(ranked[0][0]), ranked[0][1]
    if isinstance(answer, SlidePrediction) and answer.segments:
        return f"Mostly {first}: {_percent(probability)} of its patches."
    if answer.flagged:
        said = f"Nearest to {first}, but perhaps none of these classes: look yourself."
    elif probability >= _VERY:
        said = f"Very likely {first} ({_percent(probability)})."
    elif probability >= _PROBABLY or len(ranked) == 1:
        said = f"Probably {first} ({_percent(probability)})."
    else:
        second, other = _shown(ranked[1][0]), ranked[1][1]
        said = f"Not sure: {first} ({_percent(probability)}) or {second} ({_percent(other)})."
    return said


def _percent(probability: float) -> str:
    # 99.6 % is not 100 %.
    return "over 99 %" if 0.99 < probability < 1 else f"{100 * probability:.0f} %"


def _shown(name: str) -> str:
    return name.replace("_", " ")
