"""The heading of a model's page on Hugging Face: what its site reads, and lists models by."""

from __future__ import annotations

import re
from typing import TYPE_CHECKING, Any

from ..card import Card
from ..features.registry import find_entry

if TYPE_CHECKING:
    from huggingface_hub import ModelCardData

__all__ = ["hub_metadata"]

#: Licences by the names that the site knows; of any other it wants to be told a name.
_LICENCES = (
    *("apache-2.0", "mit", "bsd", "bsd-2-clause", "bsd-3-clause", "cc0-1.0", "cc-by-4.0"),
    *("cc-by-sa-4.0", "cc-by-nc-4.0", "cc-by-nc-nd-4.0", "cc-by-nc-sa-4.0", "gpl-3.0"),
    *("lgpl-3.0", "agpl-3.0", "mpl-2.0", "unlicense", "openrail"),
)
#: Figures of a card: how the site calls them, and how people do.
_FIGURES = {
    "accuracy": ("accuracy", "accuracy"),
    "balanced_accuracy": ("balanced_accuracy", "balanced accuracy"),
    "macro_f1": ("f1", "macro F1"),
    "auc": ("roc_auc", "area under the ROC curve"),
    "dice": ("dice", "Dice, of patches"),
}
_MOST_NAME = 80
_GRID = "image-segmentation"


def hub_metadata(card: Card) -> ModelCardData:
    """Return what the site reads of a model: task, licence, what it builds on, and its figures.

    A licence that the site does not know is called "other", with its name. A
    model that gives a risk or a number has no task of the site's, and so no
    figures there: these need one.

    Parameters
    ----------
    card : Card
        The model's.

    Returns
    -------
    huggingface_hub.ModelCardData
        With ``eval_results`` of held-out images, where the card has any.
    """
    from huggingface_hub import ModelCardData

    licence = card.weights_licence.lower()
    told: dict[str, Any] = {"license": licence}
    if licence not in _LICENCES:
        told = {"license": "other", "license_name": licence or "not-stated"}
    task = None
    if card.target is None:
        task = _GRID if card.segments else "image-classification"
    base = find_entry(card.encoder.name) if card.encoder is not None else None
    results = [] if task is None else _results(card, task)
    tags = ["napari", "microscopy", "sparse-attention", card.kind]
    if card.training.simulated:
        tags.append("simulated-data")
    return ModelCardData(
        **told,
        library_name="napari-sparseattn",
        pipeline_tag=task,
        tags=tags,
        base_model=None if base is None else base.repository,
        metrics=list(dict.fromkeys(result.metric_type for result in results)) or None,
        model_name=card.name if results else None,
        eval_results=results or None,
    )


def _results(card: Card, task: str) -> list[Any]:
    """Return the card's figures of held-out images, one by one."""
    from huggingface_hub import EvalResult

    # The first words of what the data are; the page tells the rest.
    name = re.split(r"[:;,.](?=\s|$)", card.training.data, maxsplit=1)[0].strip()[:_MOST_NAME]
    name = name or "held-out images"
    kind = re.sub(r"[^a-z0-9]+", "-", name.lower()).strip("-") or "images"
    found = []
    for key, (metric, title) in _FIGURES.items():
        value = card.metrics.get(key)
        if isinstance(value, int | float):
            found.append(
                EvalResult(
                    task_type=task,
                    dataset_type=kind,
                    dataset_name=name,
                    dataset_split="test",
                    metric_type=metric,
                    metric_name=title,
                    metric_value=round(float(value), 4),
                )
            )
    return found
