"""Measured faithfulness in words and rows of a table."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import TYPE_CHECKING

from ..core.messages import seconds_text

if TYPE_CHECKING:
    from ...evidence.faithfulness import Faithfulness
    from .requests import Subject

__all__ = [
    "ORDER_NAMES",
    "about_method",
    "about_unfaithful",
    "compare_to_baselines",
    "order_rows",
    "single_rows",
    "versus_random",
    "with_sign",
]

#: Orders of removal, as they are called in the window.
ORDER_NAMES = {
    "selection": "selection",
    "attention": "attention",
    "all levels": "all levels",
    "contribution": "crops' shares",
    "crops": "crops",
    "random": "random",
    "random scattered": "random pixels",
    "edges": "edges",
    "centre": "centre",
}
_FILLS = {
    "mean": "what surrounds it",
    "blur": "a blur of the image",
    "noise": "noise like the image",
    "background": "background",
    "drop": "nothing (patches dropped)",
    "ordinary": "ordinary patches of the slide",
}
_UNITS: dict[Subject, str] = {"cell": "crop", "field": "field", "slide": "patches"}


def versus_random(found: Faithfulness) -> str:
    """Return the faithfulness compared with random orders, in numbers."""
    return str(found.difference()).replace("-", "\u2212")


def compare_to_baselines(found: Faithfulness) -> tuple[str, bool]:
    """Return the baselines that the evidence is better than; whether random is among them."""
    better = [name for name in found.baselines if found.difference(name).low > 0]
    worse = [name for name in found.baselines if name not in better]
    if "random" not in better:
        return "not better than random", False
    text = f"better than {_join(better)}"
    return (f"{text}; not better than {_join(worse)}" if worse else text), True


def _join(names: Sequence[str]) -> str:
    shown = [ORDER_NAMES.get(name, name) for name in names]
    return " and ".join([", ".join(shown[:-1]), shown[-1]] if len(shown) > 1 else shown)


def about_method(found: Faithfulness, subject: Subject) -> str:
    """Return how it was measured, and the meaning of the number."""
    fills = _join([_FILLS.get(name, name) for name in found.fills])
    own = ORDER_NAMES.get(found.own[0], found.own[0])
    return (
        f"Parts of the {_UNITS[subject]} were replaced by {fills}: first "
        f"what the model's {own} holds for most important, and first what it holds for least. The "
        f"whole model ran anew each time, {found.runs} times in {seconds_text(found.seconds)}, "
        f"and was free to look elsewhere. The number is how much sooner the probability of "
        f"{found.label.replace('_', ' ')} falls in the first case, from \u22121 to 1; 0 is what "
        "random parts give. The interval holds 95 % of the random orders that were tried; if it "
        "lies above 0, the overlay shows what decided, better than chance."
    )


def about_unfaithful(subject: Subject) -> str:
    """Return the consequence of evidence that is not better than random."""
    what = {"cell": "pixels", "field": "crops", "slide": "patches"}[subject]
    return f"Do not read the overlay as the reason: other {what} would have done as well."


def order_rows(found: Faithfulness) -> list[tuple[str, str, list[str]]]:
    """Return rows (name, tip, one value per order) for the model's own orders and the baselines."""
    scores = [found.orders[name] for name in shown_orders(found)]
    return [
        (
            "gain",
            (
                "How much sooner the probability falls where the most important goes first than "
                "where the least important does; \u22121 to 1, random is 0."
            ),
            [with_sign(score.gain) for score in scores],
        ),
        (
            "necessary",
            (
                "How far the probability falls without as much as the model selected, in "
                "percentage points. Large is good."
            ),
            [_points(score.drop_without) for score in scores],
        ),
        (
            "sufficient",
            (
                "How far the probability falls where nothing else is left, in percentage points. "
                "Near 0 is good."
            ),
            [_points(score.drop_with_only) for score in scores],
        ),
    ]


def shown_orders(found: Faithfulness) -> list[str]:
    """Return the orders that have a column: the overlay's, then the baselines."""
    return [found.own[0], *found.baselines]


def single_rows(found: Faithfulness, subject: Subject) -> list[tuple[str, str, str]]:
    """Return rows (name, value, tip) of the measures that are one number each."""
    rows = [
        (
            "selected",
            f"{100 * found.selected:.3g} %",
            "Share of the content that the model selected.",
        ),
        (
            "concentrated",
            f"{found.sparseness:.2f}",
            "Gini index of the map: 0 where all is alike, towards 1 where all is in one place.",
        ),
    ]
    if found.stability:
        changes = {"shift": "1 px aside", "noise": "a little noise"}
        text = ", ".join(
            f"{100 * value:.0f} % ({changes.get(kind, kind)})"
            for kind, value in found.stability.items()
            if kind != "chance"
        )
        chance = 100 * found.stability.get("chance", 0.0)
        rows.append(
            (
                "stable",
                text,
                (
                    "How much of the selection stays under a small change of the image "
                    f"(intersection over union); {chance:.0f} % would by chance."
                ),
            )
        )
    if not math.isnan(found.mass_in_mask):
        what = "in the cell" if subject == "cell" else "in the object"
        rows.append(
            (
                what,
                f"{100 * found.mass_in_mask:.0f} %, which covers {100 * found.mask_share:.0f} %",
                "Share of the selection that lies inside the outline that was found.",
            )
        )
    if not math.isnan(found.control):
        rows.append(
            (
                "learned",
                f"{with_sign(found.control)} to an untrained map",
                (
                    "Rank correlation of the map with that of the same network with shuffled "
                    "weights. Near 0, the map comes from what was learned."
                ),
            )
        )
    return rows


def with_sign(value: float) -> str:
    """Return a number with its sign and two decimals."""
    return "–" if math.isnan(value) else f"{value:+.2f}".replace("-", "\u2212")


def _points(value: float) -> str:
    if math.isnan(value):
        return "–"
    points = -round(100 * value)
    return f"{points:+d}".replace("-", "\u2212") if points else "0"
