"""The map of cells with its legend, and what is done with the cells inside a lasso."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt
from qtpy.QtCore import QPoint, Qt, QTimer
from qtpy.QtGui import QShowEvent, QStandardItemModel
from qtpy.QtWidgets import (
    QComboBox,
    QHBoxLayout,
    QLabel,
    QMenu,
    QProgressBar,
    QPushButton,
    QVBoxLayout,
    QWidget,
)

from ...card import readable_name
from ...inference.cell_map import umap_is_installed
from ..annotate.class_box import swatch
from ..core.messages import counted
from ..widgets.keys import KeyFilter
from ..widgets.rich import FittedLabel, breakable, rich
from .filter_bar import NOT_CLASSIFIED, UNCLASSIFIED_COLOUR
from .frame import SeenFollower
from .gallery_box import fill_class_menu
from .map_view import MapView
from .session import Population

__all__ = ["MapBox"]

_EMPTY = "Classify all, in the dock Sparse attention: each cell is a point here."
_METHODS = (
    ("PCA", "pca", "The two directions in which the cells differ most. The same each time."),
    (
        "UMAP",
        "umap",
        "Keeps neighbours together, so that groups stand apart; how far apart means nothing.",
    ),
)  # fmt: skip
_MISSING = 'UMAP is not installed. To have it: pip install "napari-sparseattn[umap]"'
_TIP = (
    "What the model read of two cells is alike where they lie near each other. Click a point to go "
    "to its cell; draw around several to pick them, with Shift to pick more. The wheel zooms, the "
    "middle button moves, a double click shows all. Keys: arrows go from cell to cell, with Shift "
    "they pick more, Ctrl+A picks all, + and − zoom, Esc picks none."
)


class MapBox(SeenFollower):
    """Follows `Population`, which has the map made."""

    def __init__(self, population: Population, parent: QWidget | None = None) -> None:
        super().__init__(parent)
        self.population, self.shown = population, population.shown
        self.method = QComboBox(self)
        for words, method, tip in _METHODS:
            self.method.addItem(words, method)
            self.method.setItemData(self.method.count() - 1, tip, Qt.ItemDataRole.ToolTipRole)
        self.method.setAccessibleName("How the map is laid out")
        self._offer_umap()
        self._make_buttons()
        self.said = QLabel(self)
        self.legend = FittedLabel(self)
        self.view = MapView(self.shown, self)
        self.view.setToolTip(_TIP)
        self.bar = QProgressBar(self)
        self.bar.setRange(0, 0)
        self.cancel = QPushButton("Cancel", self)
        self.waiting = QWidget(self)
        self._clock = QTimer(self)
        self._clock.setInterval(500)
        self._clock.timeout.connect(self._show_seconds)
        self._lay_out()
        self.keys = KeyFilter(population.annotating.keys, self._press_key, self)
        self.view.installEventFilter(self.keys)
        self.method.activated.connect(self._choose)
        self.only.clicked.connect(self._show_only)
        self.all.clicked.connect(self.shown.show_all)
        self.cancel.clicked.connect(population.maps.cancel)
        self.menu.aboutToShow.connect(self._fill_menu)
        self.pick_menu.aboutToShow.connect(self._fill_pick_menu)
        self.view.picked.connect(self._pick)
        self.view.gone_to.connect(self._go_to)
        self.view.menu_wanted.connect(self._show_menu)
        self.follow_seen(self.shown.changed, self.refresh)
        self.follow_seen(self.shown.picked_changed, self._show_picked)
        self.follow_seen(population.maps.changed, self._show_map)
        self.refresh()

    def _make_buttons(self) -> None:
        self.pick = QPushButton("Pick", self)
        self.pick.setToolTip(
            "Picks cells without drawing around them: all that are shown, or those of a class."
        )
        self.pick_menu = QMenu(self.pick)
        self.pick.setMenu(self.pick_menu)
        self.only = QPushButton("Show only these", self)
        self.only.setToolTip("Table and gallery show the cells that are picked, and no others.")
        self.all = QPushButton("Show all", self)
        self.all.setToolTip("Takes every filter away, in table, gallery and map.")
        self.annotate = QPushButton("Annotate as", self)
        self.annotate.setToolTip("Gives the cells that are picked a class; Ctrl+Z takes it back.")
        self.menu = QMenu(self.annotate)
        self.annotate.setMenu(self.menu)

    def _lay_out(self) -> None:
        row = QHBoxLayout()
        for widget in (self.method, self.pick, self.only, self.annotate, self.all):
            row.addWidget(widget)
        row.addWidget(self.said, 1)
        progress = QHBoxLayout(self.waiting)
        progress.setContentsMargins(0, 0, 0, 0)
        progress.addWidget(self.bar, 1)
        progress.addWidget(self.cancel)
        column = QVBoxLayout(self)
        column.setContentsMargins(0, 0, 0, 0)
        column.setSpacing(2)
        column.addLayout(row)
        column.addWidget(self.waiting)
        column.addWidget(self.view, 1)
        column.addWidget(self.legend)

    def _offer_umap(self) -> None:
        """Grey what is not installed, and say how to have it."""
        if umap_is_installed():
            return
        items = self.method.model()
        if isinstance(items, QStandardItemModel):
            item = items.item(1)
            item.setEnabled(False)
            item.setToolTip(_MISSING)
        self.method.setToolTip(_MISSING)

    def release(self) -> None:
        """Disconnect."""
        super().release()
        self.keys.stop()
        self._clock.stop()

    def showEvent(self, event: QShowEvent) -> None:  # noqa: N802 - Qt's name
        """Have the map made once it is looked at."""
        super().showEvent(event)
        self.population.maps.ask()

    # -- showing

    def refresh(self) -> None:
        """Show other cells, or the same filtered otherwise."""
        if self.isVisible():
            # Shows the map, whatever there is of it.
            self.population.maps.ask()
        else:
            self._show_map()
        self._show_legend()
        self._show_picked()

    def _show_map(self) -> None:
        maps, results = self.population.maps, self.shown.results
        found = maps.found
        fits = found is not None and results is not None and len(found) == len(results)
        words = maps.message if results is not None else _EMPTY
        if maps.running:
            words = f"Laying out {counted(self.shown.total, 'cell')}…"
        axes = ("", "")
        if found is not None and found.shares is not None:
            axes = tuple(f"{share:.0%} of the spread" for share in found.shares)  # type: ignore[assignment]
        self.view.set_places(found.places if fits and found is not None else None, words, axes)
        self.waiting.setVisible(maps.running)
        self.method.setCurrentIndex([each[1] for each in _METHODS].index(maps.method))
        self.method.setEnabled(results is not None)
        if maps.running:
            self._clock.start()
            self._show_seconds()
        else:
            self._clock.stop()

    def _show_seconds(self) -> None:
        self.bar.setFormat(f"{self.population.maps.seconds:.0f} s")

    def _show_legend(self) -> None:
        results = self.shown.results
        self.legend.setVisible(results is not None)
        if results is None:
            return
        self.legend.setText(
            " &nbsp; ".join(
                f"<span style='color:{colour}'>●</span>&nbsp;"
                f"{rich(breakable(readable_name(name)))}&nbsp;{len(rows)}"
                for name, colour, rows in self._by_class()
            )
        )

    def _show_picked(self) -> None:
        n = len(self.shown.picked)
        self.pick.setEnabled(len(self.shown) > 0)
        self.only.setEnabled(n > 0)
        self.annotate.setEnabled(n > 0)
        self.all.setEnabled(self.shown.narrowed)
        total = f"{len(self.shown)} of {self.shown.total}" if self.shown.narrowed else ""
        self.said.setText(", ".join(filter(None, (f"{n} picked" if n else "", total))))
        self.view.show_picked()

    # -- what the user does

    def _choose(self, index: int) -> None:
        self.population.maps.choose(self.method.itemData(index))

    def _pick(self, rows: npt.NDArray[np.intp], add: bool) -> None:
        picked = np.union1d(self.shown.picked, rows) if add else rows
        self.shown.pick(picked.astype(np.intp))

    def _fill_pick_menu(self) -> None:
        """Offer all that are shown, each class of them, and none."""
        self.pick_menu.clear()
        rows = self.shown.rows
        self.pick_menu.addAction(
            f"All that are shown ({len(rows)})", lambda: self._pick(rows, False)
        )
        for name, colour, among in self._by_class():
            self.pick_menu.addAction(
                swatch(colour), f"{readable_name(name)} ({len(among)})",
                lambda among=among: self._pick(among, False),
            )  # fmt: skip
        self.pick_menu.addSeparator()
        none = self.pick_menu.addAction("None", lambda: self._pick(rows[:0], False))
        none.setEnabled(len(self.shown.picked) > 0)

    def _by_class(self) -> list[tuple[str, str, npt.NDArray[np.intp]]]:
        """Return name, colour and rows of each class that is shown, the largest first."""
        shown, results = self.shown, self.shown.results
        if results is None:
            return []
        index = results.class_index[shown.rows]
        classes = [*zip(results.class_names, shown.colours, strict=True)]
        found = [
            (name, colour, shown.rows[index == i])
            for i, (name, colour) in [
                *enumerate(classes),
                (-1, (NOT_CLASSIFIED, UNCLASSIFIED_COLOUR)),
            ]
        ]
        return sorted((each for each in found if len(each[2])), key=lambda each: -len(each[2]))

    def _go_to(self, row: int) -> None:
        self.shown.pick((row,), row)
        self.population.session.cells.click_cell(row)

    def _show_only(self) -> None:
        self.shown.set_filter(among=frozenset(self.shown.picked.tolist()))

    def _fill_menu(self) -> None:
        self.menu.clear()
        fill_class_menu(self.menu, self.population)

    def _show_menu(self, at: QPoint) -> None:
        self._fill_menu()
        self.menu.popup(at)

    def _press_key(self, key: str, _: bool) -> bool:
        return self.population.press_key(key)
