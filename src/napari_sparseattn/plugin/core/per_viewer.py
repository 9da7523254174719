"""One object of a kind per viewer, forgotten together with the viewer."""

from __future__ import annotations

import weakref
from collections.abc import Callable, Iterable
from typing import TYPE_CHECKING, Any, ClassVar, Self

if TYPE_CHECKING:
    from napari.components import ViewerModel

__all__ = ["PerViewer"]


class PerViewer:
    """Base of what exists once per viewer; get it with `of`.

    It may follow signals while a dock is open, see `attach`.

    Parameters
    ----------
    viewer : napari.components.ViewerModel
        The viewer itself, not napari's proxy of it; to be held weakly.
    """

    _sessions: ClassVar[dict[int, Any]]
    _users = 0

    def __init_subclass__(cls, **options: Any) -> None:
        super().__init_subclass__(**options)
        cls._sessions = {}

    def __init__(self, viewer: ViewerModel) -> None:
        self._viewer = weakref.ref(viewer)

    @property
    def viewer(self) -> ViewerModel | None:
        """The viewer, or None after it is gone."""
        return self._viewer()

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

    # -- following signals while a dock is open

    def attach(self) -> None:
        """Follow; call once per open dock."""
        self._users += 1
        if self._users == 1:
            for signal, slot in self._following():
                signal.connect(slot)
            self._first_opened()

    def detach(self) -> None:
        """Stop following when the last dock closes."""
        if self._users == 0:
            return
        self._users -= 1
        if not self._users:
            for signal, slot in self._following():
                signal.disconnect(slot)
            self._last_closed()

    def _following(self) -> Iterable[tuple[Any, Callable[..., Any]]]:
        """Return signals and the methods that they call; of a part that follows none, none."""
        return ()

    def _first_opened(self) -> None:
        """Take note that the first dock is open."""

    def _last_closed(self) -> None:
        """Take note that the last dock is closed."""
