"""What an empty window offers: samples, a file, a tour."""

from __future__ import annotations

from functools import partial

from qtpy.QtCore import Signal
from qtpy.QtWidgets import QGridLayout, QPushButton, QWidget

from ..opening import open_files
from ..samples import SampleOpening
from ..session import Session
from ..widgets.base import Follower
from ..widgets.file_dialogs import choose_images
from ..widgets.rich import WrappedLabel

__all__ = ["SAMPLES", "StartBox"]

_SAID = "Begin with a sample, or with an image of yours. You can also drop one here."
#: Key in the manifest, button, tip.
SAMPLES = (
    ("simulated-smear", "Try a smear", "A blood smear: cells, their classes, a table."),
    ("simulated-hologram", "Try a hologram", "A hologram of cells: reconstruct it, then classify."),
    ("simulated-slide", "Try a slide", "A slide of tissue: is there a tumour, and where?"),
)


class StartBox(Follower):
    """Buttons to begin with, for as long as no image is open."""

    #: Whether there is nothing to work on yet.
    wanted = Signal(bool)
    tour_wanted = Signal()

    def __init__(self, session: Session, parent: QWidget | None = None) -> None:
        super().__init__(parent)
        self.session = session
        self.buttons: dict[str, QPushButton] = {}
        grid = QGridLayout(self)
        grid.setContentsMargins(0, 6, 0, 6)
        grid.addWidget(WrappedLabel(_SAID, self), 0, 0, 1, 2)
        for place, (key, text, tip) in enumerate(SAMPLES):
            button = self._add(key, text, f"{tip} Simulated on the spot: no network.")
            button.clicked.connect(partial(self._try, key))
            grid.addWidget(button, 1 + place // 2, place % 2)
        file = self._add("file", "Open a file…", "An image, a hologram or a slide of yours.")
        file.clicked.connect(self._choose_file)
        grid.addWidget(file, 2, 1)
        tour = self._add("tour", "Take a tour", "Six steps through this dock, on a sample.")
        tour.clicked.connect(self.tour_wanted)
        grid.addWidget(tour, 3, 0, 1, 2)
        self.follow(session.selection.images_changed, self.show_whether_empty)

    def show_whether_empty(self) -> None:
        """Show itself while no image is open, and tell."""
        empty = not self.session.selection.images()
        self.setVisible(empty)
        self.wanted.emit(empty)

    def _add(self, key: str, text: str, tip: str) -> QPushButton:
        button = self.buttons[key] = QPushButton(text, self)
        button.setToolTip(tip)
        # Names in large letters may not make the dock wider.
        button.setMinimumWidth(80)
        return button

    def _try(self, key: str, _: bool = False) -> None:
        if self.session.viewer is not None:
            SampleOpening.of(self.session.viewer).start(key)

    def _choose_file(self) -> None:
        if self.session.viewer is not None and (paths := choose_images(self)):
            open_files(self.session.viewer, paths, self.session.status.notify)
