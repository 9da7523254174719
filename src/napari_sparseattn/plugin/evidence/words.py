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
    "plain_sentence",
    "removed_things",
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
    "dark": "dark",
    "dark blurred": "blurred dark",
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


def removed_things(found: Faithfulness, subject: Subject) -> str:
    """Return what is removed of a crop, a field or a slide."""
    if subject == "slide":
        return "patches"
    return "pixels" if "selection" in found.own else "parts"


def plain_sentence(found: Faithfulness, subject: Subject) -> tuple[str, bool]:
    """Return the verdict in one sentence; whether it is in favour of the overlay."""
    sentence = found.sentence(removed_things(found, subject))
    return f"{sentence}.", found.more_than_random() is True


def versus_random(found: Faithfulness) -> str:
    """Return the test against random orders in numbers; nothing where there was none."""
    if found.more_than_random() is None:
        return ""
    mine = found.orders[found.own[0]].drop_without
    text = (
        f"Without them the probability falls by {_fall(mine)}, without as many random ones by "
        f"{_fall(float(found.random_drops.mean()))} (difference {found.difference()}, "
        f"p = {found.p_random():.2g} of {len(found.random_drops)} random orders)."
    )
    return text.replace("-", "\u2212")


def _fall(value: float) -> str:
    points = f"{100 * value:.0f}"
    return f"{points} point{'' if points == '1' else 's'}"


def compare_to_baselines(found: Faithfulness) -> str:
    """Return which orders that know nothing of the model are as good, and which are not."""
    names = [name for name in found.baselines if not name.startswith("random")]
    better = [name for name in names if found.difference(name).low > 0]
    worse = [name for name in names if name not in better]
    said = [f"better than {_join(better)}"] if better else []
    said += [f"not better than {_join(worse)}"] if worse else []
    return f"By gain {', '.join(said)}." if said else ""


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
        f"and was free to look elsewhere. The verdict is of the fall of the probability of "
        f"{found.label.replace('_', ' ')} without as much as was selected, beside random maps as "
        "coarse or fine as this one, another lot of them for each cell: of maps that are random "
        "themselves, one in forty is said to matter more."
    )


def about_unfaithful(subject: Subject) -> str:
    """Return the consequence of evidence that is not better than random."""
    what = {"cell": "pixels", "field": "crops", "slide": "patches"}[subject]
    return f"Do not read the overlay as the reason: other {what} would have done as well."


def order_rows(found: Faithfulness) -> list[tuple[str, str, list[str]]]:
    """Return measures (name, tip, one value per order) of the overlay's order and the baselines."""
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


def single_rows(found: Faithfulness) -> list[tuple[str, str, str]]:
    """Return rows (name, value, tip) of the measures that are one number each."""
    rows: list[tuple[str, str, str]] = []
    if numbers := versus_random(found):
        short = f"{found.difference()}, p = {found.p_random():.2g}".replace("-", "\u2212")
        rows.append(("beside random", short, f"The numbers behind the verdict. {numbers}"))
    if others := compare_to_baselines(found):
        short = others.removeprefix("By gain ").removesuffix(".")
        rows.append(("beside others", short, "By gain, orders that know nothing of the model."))
    rows += [
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
        rows.append(
            (
                "in the outline",
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
