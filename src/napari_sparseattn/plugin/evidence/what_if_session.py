"""What-if questions in one viewer: regions that are drawn, answers, their list with undo."""

from __future__ import annotations

import dataclasses
import time
import weakref
from typing import TYPE_CHECKING, Any, Literal

import numpy as np
from psygnal import Signal

from ...evidence import PyramidAttention, Traversal
from ..core.lanes import Lanes
from ..core.per_viewer import PerViewer
from ..core.status import explain
from ..core.undo import Undo
from ..session import Session
from .session import AnswerFaithfulness
from .what_if_layers import WhatIfLayers
from .what_if_requests import (
    Question,
    Region,
    Rerunner,
    WhatIfRequest,
    answer_what_if,
    crop_middles,
)

if TYPE_CHECKING:
    from napari.components import ViewerModel
    from napari.layers import Image

    from ...inference.what_if import WhatIf

__all__ = ["CELL_FILLS", "SLIDE_FILLS", "AnsweredWhatIf", "WhatIfSession"]

#: Replacements for what is removed, in words.
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
    "lasso": "Draw around a part of the image with the mouse held down; then choose a question.",
    "paint": "Paint over a part of the image; then choose a question.",
}
_NO_REGION = "Draw a region first: press Lasso or Paint, and draw in the image."
_NO_ANSWER = "Click a cell, or classify the field or slide, then ask."
#: A crop that was moved by less, in pixels, has not been moved.
_STILL = 0.5


@dataclasses.dataclass(frozen=True, eq=False)
class AnsweredWhatIf:
    """A question and its answer.

    Parameters
    ----------
    number : int
        Counted per image, from 1.
    request : WhatIfRequest
        What was asked.
    found : WhatIf
        Before and after.
    time : float
        When it was answered, or put back on the list.
    """

    number: int
    request: WhatIfRequest
    found: WhatIf
    time: float = dataclasses.field(default_factory=time.monotonic)


@dataclasses.dataclass(eq=False)
class _History:
    """Answers about one image: those listed, those undone, the one that is shown."""

    done: list[AnsweredWhatIf] = dataclasses.field(default_factory=list)
    undone: list[AnsweredWhatIf] = dataclasses.field(default_factory=list)
    shown: AnsweredWhatIf | None = None
    count: int = 0
    undone_at: float = 0.0


class WhatIfSession(PerViewer):
    """What-if questions about the answer that is shown; get it with `of`."""

    changed = Signal()

    def __init__(self, viewer: ViewerModel) -> None:
        self._viewer = weakref.ref(viewer)
        self.session = Session.of(viewer)
        self.layers = WhatIfLayers(viewer)
        undo = Undo.of(viewer)
        undo.add(self)
        undo.removed.add_space(self.layers)
        self.fill = ""
        self.message = ""
        self._faithfulness = AnswerFaithfulness.of(viewer)
        self._rerunner: Rerunner | None = None
        self._asked: WhatIfRequest | None = None
        self._histories: weakref.WeakKeyDictionary[Image, _History] = weakref.WeakKeyDictionary()
        self._lane = Lanes.of(viewer).add(
            answer_what_if, given=self._take, failed=self._fail, busy="also"
        )

    # -- opening and closing

    def _following(self) -> list[tuple[Any, Any]]:
        session = self.session
        return [
            (session.answer_changed, self._forget),
            (session.selection.image_changed, self._forget),
        ]

    def _last_closed(self) -> None:
        self._asked = None
        self._lane.close()

    # -- state

    @property
    def evidence(self) -> Any:
        """Evidence of the answer that is shown."""
        return None if self.session.answer is None else self.session.answer.evidence

    @property
    def working(self) -> bool:
        """Whether a question is being answered."""
        return self._asked is not None

    @property
    def can_ask(self) -> bool:
        """Whether there is an answer to question, and none is being asked about."""
        return not self.working and self.rerunner() is not None

    @property
    def fills(self) -> dict[str, str]:
        """Replacements for what is removed, in words."""
        return SLIDE_FILLS if isinstance(self.evidence, PyramidAttention) else CELL_FILLS

    @property
    def entries(self) -> list[AnsweredWhatIf]:
        """The answers about the chosen image, the oldest first."""
        return list(self._history.done)

    @property
    def shown(self) -> AnsweredWhatIf | None:
        """The answer whose selection is shown."""
        return self._history.shown

    @property
    def can_redo(self) -> bool:
        """Whether an answer was taken off the list."""
        return bool(self._history.undone)

    @property
    def level_names(self) -> list[str]:
        """Sizes of the levels of a slide's attention; empty for others."""
        attention = self.session.slides.attention
        if attention is None or attention.patch_probabilities is not None:
            return []
        return [self.session.slides.side_of(i) for i in range(len(attention.levels))]

    def rerunner(self) -> Rerunner | None:
        """Return what reruns the model for the answer that is shown."""
        source = self._faithfulness.request()
        if source is None or (self.session.slides.attention is not None and not self.level_names):
            return None
        if self._rerunner is None or self._rerunner.source.answer is not source.answer:
            if self._rerunner is not None:
                self._rerunner.release()
            self._rerunner = Rerunner(source)
        return self._rerunner

    @property
    def _history(self) -> _History:
        image = self.session.selection.image
        if image is None:
            return _History()
        return self._histories.setdefault(image, _History())

    @property
    def _index(self) -> tuple[int, ...]:
        source = self._faithfulness.request()
        if source is None:
            return ()
        asked = source.asked
        plane = getattr(asked, "plane", None) or asked.request.plane  # type: ignore[union-attr]
        found: tuple[int, ...] = plane.index
        return found

    # -- drawing

    def draw(self, tool: Literal["lasso", "paint"]) -> bool:
        """Make the layer of the region the active one, with napari's tool."""
        image, viewer = self.session.selection.image, self._viewer()
        if image is None or viewer is None or self.rerunner() is None:
            self._notify(_NO_ANSWER)
            return False
        if tool == "lasso":
            layer: Any = self.layers.outlines(image, self._index, make=True)
        else:
            layer = self.layers.paint(image, self._index, make=True)
            if layer is None:
                self._notify("This image is too large to paint on. Use the lasso.")
                return False
        layer.visible = True
        viewer.layers.selection = {layer}
        viewer.layers.selection.active = layer
        layer.mode = "add_polygon_lasso" if tool == "lasso" else "paint"
        if tool == "paint":
            layer.selected_label = 1
        self._notify(_TOOLS[tool])
        return True

    def clear(self) -> None:
        """Forget what is drawn; the list stays."""
        image = self.session.selection.image
        if image is not None:
            self.layers.set_region(image, self._index, Region())
        self.stop_drawing()
        self._notify("")

    def stop_drawing(self) -> None:
        """Let clicks classify again: the image becomes the active layer."""
        image, viewer = self.session.selection.image, self._viewer()
        if image is not None and viewer is not None and image in viewer.layers:
            viewer.layers.selection = {image}
            viewer.layers.selection.active = image

    def region(self) -> Region:
        """Return what is drawn, or of a slide the patch that is picked out."""
        image, patch = self.session.selection.image, self.session.slides.patch
        found = Region() if image is None else self.layers.region(image)
        if found.empty and self.session.slides.attention is not None and patch is not None:
            return Region(patches=(patch,))
        return found

    def move_crops(self) -> bool:
        """Show a point per crop; one that is dragged is asked about when it is let go."""
        image, viewer, way = self.session.selection.image, self._viewer(), self.evidence
        if image is None or viewer is None or not isinstance(way, Traversal):
            self._notify(_NO_ANSWER)
            return False
        layer = self.layers.show_crops(image, self._index, way)
        viewer.layers.selection = {layer}
        viewer.layers.selection.active = layer
        layer.mode = "select"
        layer.events.data.connect(self._follow_crops)
        self._notify("Drag a point: its crop is looked at there instead.")
        return True

    def _follow_crops(self, event: Any) -> None:
        if str(getattr(event, "action", "")).rpartition(".")[2].lower() == "changed":
            self.ask_moved()

    def ask_moved(self) -> WhatIfRequest | None:
        """Ask what the model says with its crops where their points are."""
        image, way = self.session.selection.image, self.evidence
        points: Any = None if image is None else self.layers.layer(image, "what-if crops")
        if points is None or not isinstance(way, Traversal) or len(points.data) != len(way) - 1:
            self._notify("Press Move crops, and drag a point.")
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
        """Ask what the model says if the drawn region is removed, alone, or looked at."""
        region = self.region()
        if self.rerunner() is None or region.empty:
            self._notify(_NO_ANSWER if self.rerunner() is None else _NO_REGION)
            return None
        return self._ask(question, region=region)

    def ask_without_levels(self, levels: tuple[int, ...]) -> WhatIfRequest | None:
        """Ask what the model says without some levels of a slide."""
        if not levels:
            self._notify("Choose the levels to leave out.")
            return None
        return self._ask("levels", levels=levels)

    def _ask(self, question: Question, **more: Any) -> WhatIfRequest | None:
        rerunner = self.rerunner()
        if rerunner is None or self.working:
            return None
        fill = self.fill if self.fill in self.fills else next(iter(self.fills))
        self._asked = request = WhatIfRequest(rerunner, question, fill=fill, **more)
        self._notify("Asking the model…")
        self._lane.ask(request)
        return request

    def _take(self, request: WhatIfRequest, found: WhatIf) -> None:
        # Another cell or image may be shown by now.
        if request is not self._asked:
            return
        self._asked = None
        history = self._history
        history.count += 1
        entry = AnsweredWhatIf(history.count, request, found)
        history.done.append(entry)
        history.undone.clear()
        self._show(entry)
        self._notify(found.summary())

    def _fail(self, request: WhatIfRequest, error: BaseException) -> None:
        if request is self._asked:
            self._asked = None
            self._notify(explain(error))

    # -- the list

    def show(self, entry: AnsweredWhatIf | None) -> None:
        """Show an answer again, with its region; None shows the model's own answer."""
        self._show(entry)
        if entry is not None:
            self._draw_region(entry)
        self._notify("" if entry is None else entry.found.summary())

    def undo(self) -> bool:
        """Take the last answer off the list, and show the one before, with its region."""
        history = self._history
        if not history.done:
            return False
        history.undone.append(history.done.pop())
        history.undone_at = time.monotonic()
        self.show(history.done[-1] if history.done else None)
        return True

    def redo(self) -> bool:
        """Put the answer that was undone last back on the list."""
        history = self._history
        if not history.undone:
            return False
        history.done.append(dataclasses.replace(history.undone.pop(), time=time.monotonic()))
        self.show(history.done[-1])
        return True

    @property
    def done_at(self) -> float | None:
        """When the last question about the chosen image was answered."""
        done = self._history.done
        return done[-1].time if done else None

    @property
    def undone_at(self) -> float | None:
        """When the last answer about the chosen image was taken off the list."""
        return self._history.undone_at if self._history.undone else None

    def _show(self, entry: AnsweredWhatIf | None) -> None:
        image = self.session.selection.image
        self._history.shown = entry
        if image is None:
            return
        if entry is None:
            self.layers.hide_selection(image)
        else:
            self.layers.show_selection(image, self._index, entry.found.after.evidence)

    def _draw_region(self, entry: AnsweredWhatIf) -> None:
        image = self.session.selection.image
        if image is not None and not entry.request.region.patches:
            self.layers.set_region(image, self._index, entry.request.region)

    # -- following the session

    def _forget(self, _: object = None) -> None:
        self._asked = None
        image = self.session.selection.image
        history = self._history
        if history.shown is not None and image is not None:
            history.shown = None
            self.layers.hide_selection(image)
        if image is not None:
            self.layers.remove(image, ("what-if crops",))
        self._notify("")

    def _notify(self, text: str) -> None:
        self.message = text
        self.changed.emit()
