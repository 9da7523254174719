"""The demo: a simulated smear, all its cells, then a look at what decided one of them."""

from __future__ import annotations

from functools import partial
from typing import TYPE_CHECKING

import numpy as np
from qtpy.QtCore import QAbstractAnimation, QTimer

from ..core.docks import open_dock
from ..samples import SampleOpening
from ..session import Session
from ..widgets.flight import Flight

if TYPE_CHECKING:
    import napari

    from ...inference.prediction import Predictions
    from .dock import SparseAttentionDock

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
    # Timers that go with the dock, if that is closed before.
    asking, going = QTimer(dock), QTimer(dock)
    for timer, wait in ((asking, 0), (going, _LOOK_MS)):
        timer.setSingleShot(True)
        timer.setInterval(wait)
    going.setObjectName("demo")
    # Not from within the signal: others are still to be told of the image.
    asking.timeout.connect(session.ask_all)
    going.timeout.connect(partial(_go_to_one, dock))

    def classify(image: object) -> None:
        if image is not None:
            session.selection.image_changed.disconnect(classify)
            asking.start()

    def show_one(results: Predictions | None) -> None:
        if results is not None and len(results):
            session.cells.results_changed.disconnect(show_one)
            going.start()

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


def _go_to_one(dock: SparseAttentionDock) -> None:
    session = dock.session
    viewer, results = session.viewer, session.cells.results
    image, card = session.selection.image, session.selection.card
    if viewer is None or image is None or card is None or results is None:
        return
    cell = _showy(results)
    session.cells.ask_cell(cell)
    size = session.selection.settings.pixel_size or 1.0
    side = card.crop.field_of_view_um / size * float(np.abs(image.scale[-1]))
    zoom = _SHARE * min(viewer.canvas.size) / side
    row, column = image.data_to_world(cell)[-2:]
    Flight(viewer, (row, column), zoom, _FLY_MS, dock).start(_DELETE)
