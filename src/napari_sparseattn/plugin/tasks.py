"""Which kind of model does what in the window: one row each."""

from __future__ import annotations

from .cells.task import CellTask
from .core.advice import ModelKind
from .slides.task import SlideTask
from .traversal.task import TraversalTask

__all__ = ["TASKS"]

#: By what a card calls the kind; the first is the one while no model is chosen.
TASKS: dict[str, type[ModelKind]] = {
    "sparse-attn-net": CellTask,
    "tnet": TraversalTask,
    "span-mil": SlideTask,
    "span-unet": SlideTask,
}
