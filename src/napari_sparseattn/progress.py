"""How work tells how far it is: one shape for all of it, also while it waits for the network."""

from __future__ import annotations

import contextlib
import contextvars
from collections.abc import Callable, Iterator

__all__ = ["Progress", "heard", "ignore_progress", "tick", "while_waiting"]

#: Called with a stage in a few words, what is done, and the total of that stage (0: not known).
Progress = Callable[[str, int, int], None]

_waiting: contextvars.ContextVar[Callable[[], None] | None] = contextvars.ContextVar(
    "napari_sparseattn_waiting", default=None
)


def ignore_progress(stage: str, done: int, total: int) -> None:
    """Do nothing, where nobody wants to know."""


@contextlib.contextmanager
def while_waiting(call: Callable[[], None]) -> Iterator[None]:
    """Have something called some times a second while this thread waits for the network.

    It may raise, to stop the waiting and what is waited for.
    """
    token = _waiting.set(call)
    try:
        yield
    finally:
        _waiting.reset(token)


def tick() -> None:
    """Call what `while_waiting` was given, where there is such."""
    call = _waiting.get()
    if call is not None:
        call()


@contextlib.contextmanager
def heard(progress: Progress | None, stage: str) -> Iterator[Progress]:
    """Give progress that is also told, with what was said last, while the network is waited for.

    So that who stops work by raising from it is heard in the midst of a long read.

    Parameters
    ----------
    progress : callable, optional
        What to tell.
    stage : str
        What is said before anything else was.
    """
    if progress is None:
        yield ignore_progress
        return
    last = (stage, 0, 0)

    def report(stage: str, done: int, total: int) -> None:
        nonlocal last
        last = (stage, done, total)
        progress(stage, done, total)

    def again() -> None:
        progress(*last)

    with while_waiting(again):
        yield report
