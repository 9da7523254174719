"""The tour of the dock Sparse attention, in six steps."""

from __future__ import annotations

from functools import partial
from typing import TYPE_CHECKING, Any

from qtpy.QtCore import QTimer
from qtpy.QtWidgets import QMainWindow, QWidget

from ..core.docks import open_dock
from ..samples import SampleOpening
from ..widgets.tour import Tour, TourStep

if TYPE_CHECKING:
    import napari

__all__ = ["start_tour"]

#: After so long the dock has laid itself out with the image.
_SETTLED_MS = 400


def start_tour(viewer: napari.viewer.Viewer) -> None:
    """Open the dock, with the simulated smear where no image is open, and begin the tour."""
    dock = open_dock(viewer, "Sparse attention")
    session = dock.session
    viewer = getattr(viewer, "__wrapped__", viewer)
    if session.selection.image is None:
        # It goes with the dock, if that is closed before.
        settled = QTimer(dock)
        settled.setSingleShot(True)
        settled.setInterval(_SETTLED_MS)
        settled.timeout.connect(partial(_begin, dock))

        def begin(image: object) -> None:
            if image is not None:
                session.selection.image_changed.disconnect(begin)
                settled.start()

        session.selection.image_changed.connect(begin)
        SampleOpening.of(viewer).start("simulated-smear")
    else:
        _begin(dock)


def _begin(dock: Any) -> None:
    window = dock.window()
    if window.findChild(Tour) is None and dock.isVisible():
        Tour(list_steps(dock), window).start()


def list_steps(dock: Any) -> list[TourStep]:
    """Return what the tour shows of a `SparseAttentionDock`, which imports this."""

    def canvas() -> QWidget | None:
        window = dock.window()
        return window.centralWidget() if isinstance(window, QMainWindow) else None

    return [
        TourStep(
            lambda: dock.image_box,
            "Your image",
            "What you work on: the layer that is selected in napari's list. Below its name: what "
            "it shows, and how large a pixel is. Correct both where they are wrong.",
        ),
        TourStep(
            lambda: dock.model_box,
            "The model",
            "It follows the image by itself. Choose another one here whenever you like.",
        ),
        TourStep(
            lambda: dock.actions_box,
            "What comes next",
            "The button that stands out is the next step. Here it finds and classifies all cells; "
            "of a slide, it classifies the whole.",
        ),
        TourStep(
            canvas,
            "Click a cell",
            "Its class appears beside it, and the pixels that it was read from light up. A drag "
            "moves the view, the wheel zooms.",
        ),
        TourStep(
            lambda: dock.sections["Result"],
            "The result, in words",
            "One sentence says how far the picture can be trusted; the numbers unfold below it. "
            "Wrong? Choose the right class there. The ? opens the page that explains more.",
        ),
        TourStep(
            lambda: dock.more,
            "More",
            "Device, model files, what if, comparisons, and the docks to annotate and train, for "
            "holograms, and for many files. What you open stays open the next time.",
        ),
    ]
