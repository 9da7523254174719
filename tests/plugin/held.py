"""A runner of lanes that keeps the work until a test lets it go."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Iterator
from itertools import islice
from typing import Any

from napari_sparseattn.plugin.core.lanes import AtOnce


class Held:
    """Does work in this thread, but only when told to; the oldest first.

    Parameters
    ----------
    *works : callable
        What lanes do that is held; all, if none is given. Other work is done
        at once.
    """

    def __init__(self, *works: Callable[..., Any]) -> None:
        self._works = works
        self.stopped = 0
        self.kept: list[tuple[Iterator[Any], dict[str, Callable[..., None]]]] = []

    def start(self, work: Callable[[], Any], **slots: Any) -> Callable[[], None]:
        if self._works and function_of(work) not in self._works:
            return AtOnce().start(work, **slots)

        def values() -> Iterator[Any]:
            found = work()
            yield from found if inspect.isgenerator(found) else (found,)

        def stop() -> None:
            self.stopped += 1

        self.kept.append((values(), slots))
        return stop

    def later(self, milliseconds: int, call: Callable[[], None]) -> None:
        call()

    def work(self) -> None:
        """Do the oldest work, but hand on nothing of it yet."""
        values, slots = self.kept[0]
        self.kept[0] = (iter(list(values)), slots)

    def give(self, number: int) -> None:
        """Hand on so many values of the oldest work."""
        values, slots = self.kept[0]
        for value in islice(values, number):
            slots["given"](value)

    def go(self) -> None:
        """Do all work, that which is asked for meanwhile too, to its end."""
        while self.kept:
            values, slots = self.kept.pop(0)
            try:
                for value in values:
                    slots["given"](value)
            except AtOnce.errors as error:
                slots["failed"](error)
            slots["finished"]()


def function_of(work: Callable[[], Any]) -> Any:
    """Return the function that a lane calls with the request."""
    bound = getattr(work, "func", None)
    return inspect.getclosurevars(work).nonlocals.get("work") if bound is None else bound
