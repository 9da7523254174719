"""One undo for all that is done in a viewer: whatever was done last is taken back first."""

from __future__ import annotations

import dataclasses
import time
import weakref
from collections import deque
from collections.abc import Callable
from typing import TYPE_CHECKING, Any, Protocol

from psygnal import Signal

from .layers import OverlayLayers
from .per_viewer import PerViewer
from .sources import is_own, is_picture

if TYPE_CHECKING:
    from napari.components import ViewerModel
    from napari.layers import Image, Layer

__all__ = ["UNDO_KEYS", "RemovedLayers", "Steps", "Undo", "Undoable"]

#: Of Qt: undo, and two that redo.
UNDO_KEYS = ("Ctrl+Z", "Ctrl+Shift+Z", "Ctrl+Y")
#: Layers that are kept after the user has removed them: each holds its pixels.
_MOST_REMOVED = 10
_MOST_STEPS = 100


class Undoable(Protocol):
    """One kind of act, with a history of its own."""

    @property
    def done_at(self) -> float | None:
        """When the last act that can be taken back was done; None where there is none."""
        ...

    @property
    def undone_at(self) -> float | None:
        """When the last act that can be done again was taken back; None likewise."""
        ...

    def undo(self) -> object:
        """Take the last act back."""
        ...

    def redo(self) -> object:
        """Do again what was taken back last."""
        ...


@dataclasses.dataclass(frozen=True, eq=False)
class _Step:
    what: str
    undo: Callable[[], bool]
    redo: Callable[[], bool]
    time: float


class Steps:
    """Acts that are told how they are taken back; an `Undoable`.

    Parameters
    ----------
    said : callable, optional
        Called with a sentence on what was taken back, or done again.
    most : int
        How many are kept.
    """

    def __init__(
        self, said: Callable[[str], object] | None = None, most: int = _MOST_STEPS
    ) -> None:
        self._said = said
        self._done: deque[_Step] = deque(maxlen=most)
        self._undone: deque[_Step] = deque(maxlen=most)
        self._at_it = False

    def did(self, what: str, undo: Callable[[], bool], redo: Callable[[], bool]) -> None:
        """Note an act, unless it is one that is being taken back or done again.

        Parameters
        ----------
        what : str
            For "Undone: …".
        undo, redo : callable
            Return False where that is not possible any more; the act is then forgotten.
        """
        if not self._at_it:
            self._done.append(_Step(what, undo, redo, time.monotonic()))
            self._undone.clear()

    def forget(self) -> None:
        """Keep none."""
        self._done.clear()
        self._undone.clear()

    @property
    def done_at(self) -> float | None:
        """When the last act was done."""
        return self._done[-1].time if self._done else None

    @property
    def undone_at(self) -> float | None:
        """When the last act was taken back."""
        return self._undone[-1].time if self._undone else None

    def undo(self) -> bool:
        """Take the last act back."""
        return self._turn(self._done, self._undone, "Undone")

    def redo(self) -> bool:
        """Do again what was taken back last."""
        return self._turn(self._undone, self._done, "Done again")

    def _turn(self, source: deque[_Step], to: deque[_Step], word: str) -> bool:
        if not source:
            return False
        step = source.pop()
        self._at_it = True
        try:
            worked = step.undo() if to is self._undone else step.redo()
        finally:
            self._at_it = False
        if worked:
            to.append(dataclasses.replace(step, time=time.monotonic()))
        if self._said is not None:
            self._said(f"{word}: {step.what}." if worked else f"Too late to undo: {step.what}.")
        return worked


class RemovedLayers(Steps):
    """Layers of ours that the user has removed from the layer list.

    Parameters
    ----------
    viewer : napari.components.ViewerModel
        Held weakly.
    """

    def __init__(self, viewer: ViewerModel, said: Callable[[str], object] | None = None) -> None:
        super().__init__(said, _MOST_REMOVED)
        self._viewer = weakref.ref(viewer)
        self._spaces: list[OverlayLayers[Any]] = []
        self._results: list[Callable[[Image], bool]] = []

    def add_space(self, space: OverlayLayers[Any]) -> None:
        """Give back the layers of a space too, for as long as their image is there."""
        self._spaces.append(space)

    def add_results(self, made_here: Callable[[Image], bool]) -> None:
        """Give back images too of which a function says that they were made here."""
        self._results.append(made_here)

    def follow_removal(self, event: Any) -> None:
        """Keep a layer that the user has removed."""
        layer: Layer = event.value
        source = self._source_of(layer)
        if source is None and not self._is_result(layer):
            return
        place = int(event.index)
        image = None if source is None else weakref.ref(source)
        self.did(
            f"removal of the layer '{layer.name}'",
            lambda: self._put_back(layer, place, image),
            lambda: self._take_away(layer),
        )

    def _source_of(self, layer: Layer) -> Image | None:
        if not is_own(layer):
            return None
        found = (space.source_of(layer) for space in self._spaces)
        return next((source for source in found if source is not None), None)

    def _is_result(self, layer: Any) -> bool:
        return is_picture(layer) and any(made_here(layer) for made_here in self._results)

    def _put_back(self, layer: Layer, place: int, image: weakref.ref[Image] | None) -> bool:
        viewer = self._viewer()
        if viewer is None or layer in viewer.layers:
            return False
        if image is not None:
            source = image()
            # What it lay on may be gone, or have another layer in its place.
            if source is None or source not in viewer.layers:
                return False
            if self._source_of(layer) is not source:
                return False
        viewer.layers.insert(min(place, len(viewer.layers)), layer)
        return True

    def _take_away(self, layer: Layer) -> bool:
        viewer = self._viewer()
        if viewer is None or layer not in viewer.layers:
            return False
        viewer.layers.remove(layer)
        return True


class Undo(PerViewer):
    """What Ctrl+Z does in one viewer; get it with `of`.

    Attributes
    ----------
    removed : RemovedLayers
        Our layers that the user has removed.
    """

    #: What was taken back, or done again, in a sentence.
    said = Signal(str)

    def __init__(self, viewer: ViewerModel) -> None:
        super().__init__(viewer)
        self.removed = RemovedLayers(viewer, self.said.emit)
        self._kinds: list[Undoable] = [self.removed]

    def _following(self) -> list[tuple[Any, Callable[..., Any]]]:
        viewer = self.viewer
        if viewer is None:
            return []
        return [(viewer.layers.events.removed, self.removed.follow_removal)]

    def add(self, kind: Undoable) -> None:
        """Undo acts of another kind too."""
        if kind not in self._kinds:
            self._kinds.append(kind)

    def undo(self) -> bool:
        """Take back what was done last; False where there is nothing."""
        times = [(kind.done_at, kind) for kind in self._kinds]
        kind = _latest(times)
        if kind is not None:
            kind.undo()
        return kind is not None

    def redo(self) -> bool:
        """Do again what was taken back last; False where there is nothing."""
        kind = _latest([(kind.undone_at, kind) for kind in self._kinds])
        if kind is not None:
            kind.redo()
        return kind is not None

    def press(self, key: str) -> bool:
        """Do what one of `UNDO_KEYS` does."""
        return self.undo() if key == UNDO_KEYS[0] else self.redo()


def _latest(times: list[tuple[float | None, Undoable]]) -> Undoable | None:
    there = [(at, kind) for at, kind in times if at is not None]
    return max(there, key=lambda each: each[0])[1] if there else None
