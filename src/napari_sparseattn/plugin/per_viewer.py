"""One object of a kind per viewer, forgotten together with the viewer."""

from __future__ import annotations

import weakref
from typing import TYPE_CHECKING, Any, ClassVar, Self

if TYPE_CHECKING:
    from napari.components import ViewerModel

__all__ = ["PerViewer"]


class PerViewer:
    """Base of what exists once per viewer; get it with `of`.

    Parameters
    ----------
    viewer : napari.components.ViewerModel
        The viewer itself, not napari's proxy of it; to be held weakly.
    """

    _sessions: ClassVar[dict[int, Any]]

    def __init_subclass__(cls, **options: Any) -> None:
        super().__init_subclass__(**options)
        cls._sessions = {}

    def __init__(self, viewer: ViewerModel) -> None:
        raise NotImplementedError

    @classmethod
    def of(cls, viewer: ViewerModel) -> Self:
        """Return the viewer's object, the same each time.

        Parameters
        ----------
        viewer : napari.components.ViewerModel
            The viewer, or the proxy of it that napari hands to plugins.
        """
        # napari's proxy dies before the viewer does, so it cannot be the key;
        # `__wrapped__` is how wrapt publishes what it stands for.
        viewer = getattr(viewer, "__wrapped__", viewer)
        key = id(viewer)
        if key not in cls._sessions:
            cls._sessions[key] = cls(viewer)
            weakref.finalize(viewer, cls._sessions.pop, key, None)
        found: Self = cls._sessions[key]
        return found
