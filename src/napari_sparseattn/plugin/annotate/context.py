"""What the parts of annotating in one viewer share."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

from psygnal import Signal

from ..core.lanes import Lanes
from ..core.preferences import preferences
from ..core.status import explain
from ..session import Session

if TYPE_CHECKING:
    from napari.components import ViewerModel

    from ..core.status import Level

__all__ = ["Context", "Work"]


@dataclasses.dataclass(frozen=True, eq=False)
class Work:
    """Something to be done in another thread, and what is called with its answer or error."""

    run: Callable[[], Any]
    done: Callable[[Any], object]
    fail: Callable[[BaseException], object]


class Context:
    """The session, the message line, background work, and one signal for all that changes.

    Parameters
    ----------
    viewer : napari.components.ViewerModel
        Held weakly, by the session.
    """

    #: Annotations, classes or the project have changed.
    changed = Signal()

    def __init__(self, viewer: ViewerModel) -> None:
        self.session = Session.of(viewer)
        #: Whose name annotations get that are made here; empty for nobody's.
        self.rater = preferences().rater
        #: Whether a dock is open; answers that come later are dropped.
        self.in_use = False
        # In turns: what changes the list of classes must not meet another change.
        self._lanes = Lanes.of(viewer)
        self.lane = self._lanes.add(_run, given=_give, failed=_fail, busy="queue")

    def later(self, call: Callable[[], None]) -> None:
        """Call something on the main thread when what is under way there has ended."""
        self._lanes.runner.later(0, call)

    def notify(self, text: str, level: Level = "info") -> None:
        """Put one line before the user."""
        self.session.status.notify(text, level)

    def ask(
        self,
        run: Callable[[], Any],
        done: Callable[[Any], object],
        fail: Callable[[BaseException], object] | None = None,
    ) -> None:
        """Do something in another thread; errors are shown where nobody else takes them."""
        self.lane.ask(Work(run, done, fail or self.show_error))

    def show_error(self, error: BaseException) -> None:
        """Say why something could not be done."""
        self.notify(explain(error), "error")

    def save(self, save: Callable[[], object]) -> bool:
        """Do something that writes; say why where it cannot be, and return whether it could."""
        try:
            save()
        except (OSError, ValueError) as error:
            self.show_error(error)
            return False
        return True


def _run(work: Work) -> Any:
    return work.run()


def _give(work: Work, found: Any) -> None:
    work.done(found)


def _fail(work: Work, error: BaseException) -> None:
    work.fail(error)
