"""The demo: a simulated smear, all its cells, then a look at what decided one of them."""

from __future__ import annotations

import weakref
from typing import TYPE_CHECKING

import numpy as np
from qtpy.QtCore import QAbstractAnimation, QTimer

from ..core.docks import open_dock
from ..core.view import has_window
from ..samples import SampleOpening
from ..session import Session
from ..widgets.flight import Flight

if TYPE_CHECKING:
    import napari

    from ...inference.prediction import Predictions

__all__ = ["start_demo"]

#: All cells are to be seen for so long before one is gone to.
_LOOK_MS, _FLY_MS = 1500, 1800
#: Side of the crop as a share of the view, once it is gone to.
_SHARE = 0.75
_SIZE = (1400, 900)
_DELETE = QAbstractAnimation.DeletionPolicy.DeleteWhenStopped


def start_demo(viewer: napari.viewer.Viewer) -> None:
    """Open the smear; the whole of it is shown while its cells are classified, then one cell.

    While the model is loaded, the dock shows a bar.
    """
    viewer = getattr(viewer, "__wrapped__", viewer)
    dock = open_dock(viewer, "Sparse attention")
    room = dock.window().screen().availableSize()
    viewer.window.resize(min(_SIZE[0], room.width()), min(_SIZE[1], room.height()))
    session = Session.of(viewer)
    seen = weakref.ref(viewer)

    def classify(image: object) -> None:
        if image is not None:
            session.selection.image_changed.disconnect(classify)
            # Not from within the signal: others are still to be told of the image.
            QTimer.singleShot(0, session.ask_all)

    def show_one(results: Predictions | None) -> None:
        if results is not None and len(results):
            session.cells.results_changed.disconnect(show_one)
            cell = _showy(results)
            QTimer.singleShot(_LOOK_MS, lambda: _go_to(seen(), cell))

    session.selection.image_changed.connect(classify)
    session.cells.results_changed.connect(show_one)
    SampleOpening.of(viewer).start("simulated-smear")


def _showy(results: Predictions) -> tuple[float, float]:
    """Return row and column of a white cell near the middle: it shows more than a platelet."""
    cells = results.cells
    large = (cells.diameters >= cells.diameters.max() / 2).nonzero()[0]
    apart = ((cells.centres - cells.centres.mean(axis=0)) ** 2).sum(axis=1)
    row, column = cells.centres[large[apart[large].argmin()]]
    return float(row), float(column)


def _go_to(viewer: napari.viewer.Viewer | None, cell: tuple[float, float]) -> None:
    if viewer is None or not has_window(viewer):
        return
    session = Session.of(viewer)
    image, card = session.selection.image, session.selection.card
    if image is None or card is None or session.cells.results is None:
        return
    session.cells.ask_cell(cell)
    size = session.selection.settings.pixel_size or 1.0
    side = card.crop.field_of_view_um / size * float(np.abs(image.scale[-1]))
    zoom = _SHARE * min(viewer.canvas.size) / side
    row, column = image.data_to_world(cell)[-2:]
    dock = open_dock(viewer, "Sparse attention")
    Flight(viewer, (row, column), zoom, _FLY_MS, dock).start(_DELETE)
