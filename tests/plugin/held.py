"""A runner of lanes that keeps the work until a test lets it go."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Iterator
from itertools import islice
from typing import Any

from napari_sparseattn.plugin.core.lanes import AtOnce


class Held:
    """Does work in this thread, but only when told to; the oldest first."""

    def __init__(self) -> None:
        self.stopped = 0
        self.kept: list[tuple[Iterator[Any], dict[str, Callable[..., None]]]] = []

    def start(self, work: Callable[[], Any], **slots: Any) -> Callable[[], None]:
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
