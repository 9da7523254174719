"""Images that are read when they are taken."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from typing import Any

import numpy.typing as npt

__all__ = ["LazyImages"]


class LazyImages(Mapping[str, npt.NDArray[Any]]):
    """Images by name; each is read when it is first taken, and then kept.

    Parameters
    ----------
    readers : mapping
        From a name to a callable that reads the image.
    """

    def __init__(self, readers: Mapping[str, Callable[[], npt.NDArray[Any]]]) -> None:
        self._readers = dict(readers)
        self._images: dict[str, npt.NDArray[Any]] = {}

    def __getitem__(self, name: str) -> npt.NDArray[Any]:
        if name not in self._images:
            self._images[name] = self._readers[name]()
        return self._images[name]

    def __iter__(self) -> Iterator[str]:
        return iter(self._readers)

    def __len__(self) -> int:
        return len(self._readers)

    def __repr__(self) -> str:
        return f"LazyImages({', '.join(self)})"
