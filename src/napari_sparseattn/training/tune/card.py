"""The card of a fine-tuned model: the old one's, with what was learned since."""

from __future__ import annotations

import dataclasses
from typing import Any

from ...bundle import Bundle
from ...card import Card, NoveltySpec, default_colours
from .report import FineTuneReport

__all__ = ["Learned", "make_tuned_card"]


@dataclasses.dataclass(frozen=True)
class Learned:
    """What a fine-tuning run says of itself.

    Parameters
    ----------
    name : str
        Of the new model; the old one's with "fine-tuned" where empty.
    n_train : int
        Annotated cells, or slides, that were trained on.
    data, split, recipe : str
        As in `Training`; the old model's data is added to `data`.
    """

    name: str
    n_train: int
    data: str
    split: str
    recipe: str


def make_tuned_card(
    bundle: Bundle,
    learned: Learned,
    architecture: dict[str, Any],
    report: FineTuneReport,
    novelty: NoveltySpec | None = None,
) -> Card:
    """Return the card of a model that went on from `bundle`, with known states or without."""
    old, classes = bundle.card, report.class_names
    new = [name for name in classes if name not in old.class_names]
    own = dict(zip(old.class_names, old.colours, strict=True))
    spare = iter([c for c in default_colours(64) if c not in old.colours] * len(classes))
    colours = tuple(own[name] if name in own else next(spare) for name in classes)
    n_held = report.all_cells.n
    training = old.training.model_copy(update={
        "data": f"{learned.data}, after: {old.training.data}",
        "split": learned.split,
        "recipe": f"{learned.recipe} from '{old.name}' ({bundle.hash[:12]})",
        "n_train": learned.n_train,
        "n_validation": n_held,
        "n_test": n_held,
        "epochs": len(report.history),
        "history": [{k: v for k, v in row.items() if k != "best"} for row in report.history],
    })  # fmt: skip
    added = f", with new classes {', '.join(new)}" if new else ""
    return Card.model_validate({
        **old.model_dump(),
        "name": learned.name or f"{old.name[:80]} fine-tuned",
        "description": f"{old.description} Fine-tuned{added}.".strip(),
        "class_names": classes,
        "class_colours": colours,
        "architecture": architecture,
        "temperature": report.temperature,
        "training": training.model_dump(),
        "metrics": report.after.to_dict() if report.after is not None else {},
        "novelty": None if novelty is None else novelty.model_dump(),
        "test_vector": None,
        "tensors_sha256": "",
    })  # fmt: skip
