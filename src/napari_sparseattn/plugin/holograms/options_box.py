"""Settings of the reconstruction: sign, background fit, filter, focus."""

from __future__ import annotations

from pathlib import Path

from qtpy.QtWidgets import (
    QCheckBox,
    QComboBox,
    QDoubleSpinBox,
    QFileDialog,
    QGridLayout,
    QPushButton,
    QWidget,
)

from ...images.holograms.settings import HologramSettings
from ..widgets.base import LABEL_WIDTH, Follower, label_for, set_quietly, shrinkable
from .session import Holograms

__all__ = ["HologramOptionsBox"]

_PROFILES = {
    "none": "nothing",
    "offset": "offset",
    "tilt": "offset and tilt",
    "curved": "offset, tilt and curvature",
}
_GROUNDS = {"auto": "detected background", "border": "border of the image"}
_FILTERS = {"disk": "disk", "smooth disk": "smooth disk"}
_SETTINGS = "Hologram settings (*.json)"


class HologramOptionsBox(Follower):
    """Changes the settings of the panel; saves and loads them."""

    def __init__(self, holograms: Holograms, parent: QWidget | None = None) -> None:
        super().__init__(parent)
        self.holograms = holograms
        self.flip = QCheckBox("Flip the sign", self)
        self.flip.setToolTip("Cells delay light and are positive; tick this if they are not.")
        self.profile = self._combo(_PROFILES, "Fitted on the background and removed.")
        self.ground = self._combo(_GROUNDS, "The pixels that are fitted: those without cells.")
        self.filter = self._combo(
            _FILTERS, "Edge of the circle in the spectrum; smooth rings less around cells."
        )
        self.focus = self._distance(-10_000, "Distance to refocus by; 0 leaves it as recorded.")
        self.reach = self._distance(0.1, "How far from there Autofocus looks, to either side.")
        self.reach.setValue(10.0)
        self.reach.setPrefix("± ")
        self.reach.setAccessibleName("Range of Autofocus")
        # With them the number would not fit.
        self.reach.setButtonSymbols(QDoubleSpinBox.ButtonSymbols.NoButtons)
        self.autofocus = QPushButton("Autofocus", self)
        self.autofocus.setToolTip("Find the distance at which the first frame is in focus.")
        self.save = QPushButton("Save settings…", self)
        self.load = QPushButton("Load settings…", self)
        self._lay_out()
        self._connect()
        self._show_settings(holograms.settings)

    def _combo(self, items: dict[str, str], tip: str) -> QComboBox:
        combo = shrinkable(QComboBox(self))
        for value, text in items.items():
            combo.addItem(text, value)
        combo.setToolTip(tip)
        return combo

    def _distance(self, least: float, tip: str) -> QDoubleSpinBox:
        box = QDoubleSpinBox(self)
        box.setRange(least, 10_000)
        box.setDecimals(1)
        box.setMinimumWidth(60)
        box.setSuffix(" µm")
        box.setKeyboardTracking(False)
        box.setToolTip(tip)
        return box

    def _lay_out(self) -> None:
        grid = QGridLayout(self)
        grid.setContentsMargins(0, 0, 0, 0)
        grid.setColumnMinimumWidth(0, LABEL_WIDTH)
        grid.setColumnStretch(1, 3)
        grid.setColumnStretch(2, 2)
        rows = (("Remove", self.profile), ("fitted on", self.ground), ("Filter", self.filter))
        for row, (text, box) in enumerate(rows):
            grid.addWidget(label_for(box, text), row, 0)
            grid.addWidget(box, row, 1, 1, 2)
        grid.addWidget(label_for(self.focus, "Refocus"), 3, 0)
        grid.addWidget(self.focus, 3, 1, 1, 2)
        grid.addWidget(self.reach, 4, 1)
        grid.addWidget(self.autofocus, 4, 2)
        grid.addWidget(self.flip, 5, 1, 1, 2)
        grid.addWidget(self.save, 6, 1)
        grid.addWidget(self.load, 6, 2)

    def _connect(self) -> None:
        self.flip.toggled.connect(self._set_flip)
        self.profile.activated.connect(self._set_profile)
        self.ground.activated.connect(self._set_ground)
        self.filter.activated.connect(self._set_filter)
        self.focus.valueChanged.connect(self._set_focus)
        self.autofocus.clicked.connect(self._find_focus)
        self.save.clicked.connect(self._save)
        self.load.clicked.connect(self._load)
        self.follow(self.holograms.settings_changed, self._show_settings)
        self.follow(self.holograms.work.progress_changed, self._enable)

    def _show_settings(self, settings: HologramSettings) -> None:
        self.flip.blockSignals(True)
        self.flip.setChecked(settings.flip)
        self.flip.blockSignals(False)
        self.profile.setCurrentIndex(self.profile.findData(settings.profile))
        self.ground.setCurrentIndex(self.ground.findData(settings.background))
        self.filter.setCurrentIndex(self.filter.findData(settings.filter_shape))
        set_quietly(self.focus, settings.focus)

    def _enable(self, _: object = None) -> None:
        self.autofocus.setEnabled(not self.holograms.work.running)

    def _set_flip(self, on: bool) -> None:
        self.holograms.change_settings(flip=on)

    def _set_profile(self, index: int) -> None:
        self.holograms.change_settings(profile=self.profile.itemData(index))

    def _set_ground(self, index: int) -> None:
        self.holograms.change_settings(background=self.ground.itemData(index))

    def _set_filter(self, index: int) -> None:
        self.holograms.change_settings(filter_shape=self.filter.itemData(index))

    def _set_focus(self, value: float) -> None:
        self.holograms.change_settings(focus=value)

    def _find_focus(self) -> None:
        self.holograms.work.find_focus(self.reach.value())

    def _save(self) -> None:
        path, _ = QFileDialog.getSaveFileName(self, "Save settings", "hologram.json", _SETTINGS)
        if path:
            self.holograms.save_settings(Path(path))

    def _load(self) -> None:
        path, _ = QFileDialog.getOpenFileName(self, "Load settings", "", _SETTINGS)
        if path:
            self.holograms.load_settings(Path(path))
