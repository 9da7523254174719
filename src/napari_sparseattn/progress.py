"""How work tells how far it is: one shape for all of it."""

from __future__ import annotations

from collections.abc import Callable

__all__ = ["Progress", "ignore_progress"]

#: Called with a stage in a few words, what is done, and the total of that stage (0: not known).
Progress = Callable[[str, int, int], None]


def ignore_progress(stage: str, done: int, total: int) -> None:
    """Do nothing, where nobody wants to know."""
