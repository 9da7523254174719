"""What-ifs in one viewer: regions that are drawn, questions, their list with undo and redo.

No Qt here: work is started by `what_if_jobs`, shown by `widgets.what_if_box`.
"""

from __future__ import annotations

import dataclasses
import weakref
from typing import TYPE_CHECKING, Any, Literal

import numpy as np
from psygnal import Signal

from ...evidence import PyramidAttention, Traversal
from ..core.errors import explain
from ..core.per_viewer import Attached
from ..core.session import Session
from .session import Evidence
from .what_if_layers import WhatIfLayers
from .what_if_requests import Asked, Bench, Region, WhatIfRequest, crop_middles

if TYPE_CHECKING:
    from napari.components import ViewerModel
    from napari.layers import Image

    from ...inference.what_if import WhatIf

__all__ = ["CELL_FILLS", "SLIDE_FILLS", "Entry", "WhatIfs"]

#: What may take the place of what is removed, in words.
CELL_FILLS = {
    "mean": "what surrounds it",
    "blur": "a blur of the image",
    "noise": "noise like the image",
    "background": "background",
}
SLIDE_FILLS = {
    "drop": "nothing (dropped)",
    "ordinary": "ordinary patches",
    "mean": "the mean patch",
}
_TOOLS = {
    "lasso": "Draw around a part of the image with the mouse held down; then choose what if.",
    "paint": "Paint over a part of the image; then choose what if.",
}
_NO_REGION = "Draw a region first: press Lasso or Paint, and draw in the image."
_NO_ANSWER = "Click a cell, or classify the field or slide, then ask what if."
#: A crop that was moved by less, in pixels, has not been moved.
_STILL = 0.5


@dataclasses.dataclass(frozen=True, eq=False)
class Entry:
    """One what-if that was answered.

    Parameters
    ----------
    number : int
        Counted per image, from 1.
    request : WhatIfRequest
        What was asked.
    found : WhatIf
        Before and after.
    """

    number: int
    request: WhatIfRequest
    found: WhatIf


@dataclasses.dataclass(eq=False)
class _History:
    """The what-ifs of one image: those done, those undone, the one that is shown."""

    done: list[Entry] = dataclasses.field(default_factory=list)
    undone: list[Entry] = dataclasses.field(default_factory=list)
    shown: Entry | None = None
    count: int = 0


class WhatIfs(Attached):
    """Questions to the model about the answer that is shown; get it with `WhatIfs.of`."""

    changed = Signal()
    requested = Signal(object)

    def __init__(self, viewer: ViewerModel) -> None:
        self._viewer = weakref.ref(viewer)
        self.session = Session.of(viewer)
        self.layers = WhatIfLayers(viewer)
        self.fill = ""
        self.message = ""
        self._evidence = Evidence.of(viewer)
        self._bench: Bench | None = None
        self._asked: WhatIfRequest | None = None
        self._histories: weakref.WeakKeyDictionary[Image, _History] = weakref.WeakKeyDictionary()

    # -- opening and closing

    def _following(self) -> list[tuple[Any, Any]]:
        session = self.session
        return [(session.answer_changed, self._answered), (session.image_changed, self._answered)]

    def _last_closed(self) -> None:
        # Answers that are on their way are dropped.
        self._asked = None

    # -- what there is

    @property
    def evidence(self) -> Any:
        """What the model looked at for the answer that is shown."""
        return None if self.session.answer is None else self.session.answer.evidence

    @property
    def working(self) -> bool:
        """Whether a question is being answered."""
        return self._asked is not None

    @property
    def can_ask(self) -> bool:
        """Whether there is an answer to question, and none is being questioned."""
        return not self.working and self.bench() is not None

    @property
    def fills(self) -> dict[str, str]:
        """What may take the place of what is removed, in words."""
        return SLIDE_FILLS if isinstance(self.evidence, PyramidAttention) else CELL_FILLS

    @property
    def entries(self) -> list[Entry]:
        """The what-ifs of the chosen image, the oldest first."""
        return list(self._history.done)

    @property
    def shown(self) -> Entry | None:
        """The one whose selection is shown."""
        return self._history.shown

    @property
    def can_redo(self) -> bool:
        """Whether a what-if was undone."""
        return bool(self._history.undone)

    @property
    def level_names(self) -> list[str]:
        """Sizes of the levels of a slide's attention; empty for others."""
        attention = self.session.attention
        if attention is None or attention.patch_probabilities is not None:
            return []
        return [self.session.side_of(i) for i in range(len(attention.levels))]

    def bench(self) -> Bench | None:
        """Return what runs the model anew for the answer that is shown."""
        source = self._evidence.request()
        if source is None or (self.session.attention is not None and not self.level_names):
            return None
        if self._bench is None or self._bench.source.answer is not source.answer:
            if self._bench is not None:
                self._bench.release()
            self._bench = Bench(source)
        return self._bench

    @property
    def _history(self) -> _History:
        image = self.session.image
        if image is None:
            return _History()
        return self._histories.setdefault(image, _History())

    @property
    def _index(self) -> tuple[int, ...]:
        source = self._evidence.request()
        if source is None:
            return ()
        asked = source.asked
        plane = getattr(asked, "plane", None) or asked.request.plane  # type: ignore[union-attr]
        found: tuple[int, ...] = plane.index
        return found

    # -- drawing

    def draw(self, tool: Literal["lasso", "paint"]) -> bool:
        """Make the layer of the region the active one, with napari's tool."""
        image, viewer = self.session.image, self._viewer()
        if image is None or viewer is None or self.bench() is None:
            self._say(_NO_ANSWER)
            return False
        if tool == "lasso":
            layer: Any = self.layers.outlines(image, self._index, make=True)
        else:
            layer = self.layers.paint(image, self._index, make=True)
            if layer is None:
                self._say("This image is too large to paint on. Use the lasso.")
                return False
        layer.visible = True
        viewer.layers.selection = {layer}
        viewer.layers.selection.active = layer
        layer.mode = "add_polygon_lasso" if tool == "lasso" else "paint"
        if tool == "paint":
            layer.selected_label = 1
        self._say(_TOOLS[tool])
        return True

    def clear(self) -> None:
        """Forget what is drawn; the list stays."""
        image = self.session.image
        if image is not None:
            self.layers.set_region(image, self._index, Region())
        self.stop_drawing()
        self._say("")

    def stop_drawing(self) -> None:
        """Let clicks classify again: the image becomes the active layer."""
        image, viewer = self.session.image, self._viewer()
        if image is not None and viewer is not None and image in viewer.layers:
            viewer.layers.selection = {image}
            viewer.layers.selection.active = image

    def region(self) -> Region:
        """Return what is drawn, or of a slide the patch that is picked out."""
        image, patch = self.session.image, self.session.patch
        found = Region() if image is None else self.layers.region(image)
        if found.empty and self.session.attention is not None and patch is not None:
            return Region(patches=(patch,))
        return found

    def move_crops(self) -> bool:
        """Show a point per crop; one that is dragged is asked about when it is let go."""
        image, viewer, way = self.session.image, self._viewer(), self.evidence
        if image is None or viewer is None or not isinstance(way, Traversal):
            self._say(_NO_ANSWER)
            return False
        layer = self.layers.show_crops(image, self._index, way)
        viewer.layers.selection = {layer}
        viewer.layers.selection.active = layer
        layer.mode = "select"
        layer.events.data.connect(self._crops_dragged)
        self._say("Drag a point: its crop is looked at there instead.")
        return True

    def _crops_dragged(self, event: Any) -> None:
        if str(getattr(event, "action", "")).rpartition(".")[2].lower() == "changed":
            self.ask_moved()

    def ask_moved(self) -> WhatIfRequest | None:
        """Ask what if the crops were where their points are."""
        image, way = self.session.image, self.evidence
        points: Any = None if image is None else self.layers.layer(image, "what-if crops")
        if points is None or not isinstance(way, Traversal) or len(points.data) != len(way) - 1:
            self._say("Press Move crops, and drag a point.")
            return None
        before = crop_middles(way)[1:]
        after = np.asarray(points.data)[:, -2:]
        far = np.flatnonzero(np.abs(after - before).max(axis=1) > _STILL)
        if not len(far):
            return None
        return self._ask("move", moves={int(i) + 1: tuple(after[i].tolist()) for i in far})

    # -- asking

    def set_fill(self, fill: str) -> None:
        """Choose what takes the place of what is removed."""
        self.fill = fill

    def ask(self, question: Literal["remove", "keep", "look"]) -> WhatIfRequest | None:
        """Ask what if the region that is drawn were removed, alone, or looked at."""
        region = self.region()
        if self.bench() is None or region.empty:
            self._say(_NO_ANSWER if self.bench() is None else _NO_REGION)
            return None
        return self._ask(question, region=region)

    def ask_without_levels(self, levels: tuple[int, ...]) -> WhatIfRequest | None:
        """Ask what if the model did not hear of some levels of a slide."""
        if not levels:
            self._say("Choose the levels to leave out.")
            return None
        return self._ask("levels", levels=levels)

    def _ask(self, question: Asked, **more: Any) -> WhatIfRequest | None:
        bench = self.bench()
        if bench is None or self.working:
            return None
        fill = self.fill if self.fill in self.fills else next(iter(self.fills))
        self._asked = request = WhatIfRequest(bench, question, fill=fill, **more)
        self._say("Asking the model…")
        self.requested.emit(request)
        return request

    def accept(self, request: WhatIfRequest, found: WhatIf) -> None:
        """List an answer, unless another cell or image is shown by now."""
        if request is not self._asked:
            return
        self._asked = None
        history = self._history
        history.count += 1
        entry = Entry(history.count, request, found)
        history.done.append(entry)
        history.undone.clear()
        self._show(entry)
        self._say(found.summary())

    def fail(self, request: WhatIfRequest, error: BaseException) -> None:
        """Say why it could not be answered."""
        if request is self._asked:
            self._asked = None
            self._say(explain(error))

    # -- the list

    def show(self, entry: Entry | None) -> None:
        """Show a what-if again, with its region; None shows the answer as it was."""
        self._show(entry)
        if entry is not None:
            self._draw_region(entry)
        self._say("" if entry is None else entry.found.summary())

    def undo(self) -> bool:
        """Take the last what-if off the list, and show the one before, with its region."""
        history = self._history
        if not history.done:
            return False
        history.undone.append(history.done.pop())
        self.show(history.done[-1] if history.done else None)
        return True

    def redo(self) -> bool:
        """Put the what-if that was undone last back on the list."""
        history = self._history
        if not history.undone:
            return False
        history.done.append(history.undone.pop())
        self.show(history.done[-1])
        return True

    def _show(self, entry: Entry | None) -> None:
        image = self.session.image
        self._history.shown = entry
        if image is None:
            return
        if entry is None:
            self.layers.hide_selection(image)
        else:
            self.layers.show_selection(image, self._index, entry.found.after.evidence)

    def _draw_region(self, entry: Entry) -> None:
        image = self.session.image
        if image is not None and not entry.request.region.patches:
            self.layers.set_region(image, self._index, entry.request.region)

    # -- what the session tells

    def _answered(self, _: object = None) -> None:
        self._asked = None
        image = self.session.image
        history = self._history
        if history.shown is not None and image is not None:
            history.shown = None
            self.layers.hide_selection(image)
        if image is not None:
            self.layers.remove(image, ("what-if crops",))
        self._say("")

    def _say(self, text: str) -> None:
        self.message = text
        self.changed.emit()
