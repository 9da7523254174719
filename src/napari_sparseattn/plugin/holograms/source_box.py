"""The hologram to reconstruct, how it was recorded, and its background."""

from __future__ import annotations

from pathlib import Path

from qtpy.QtWidgets import (
    QComboBox,
    QDoubleSpinBox,
    QFileDialog,
    QGridLayout,
    QPushButton,
    QWidget,
)

from ..widgets.base import LABEL_WIDTH, Follower, label_for, set_quietly, shrinkable
from ..widgets.rich import WrappedLabel
from .session import Holograms

__all__ = ["HologramSourceBox"]

_KINDS = {
    "hologram": "off-axis hologram",
    "phase": "phase (rad)",
    "opd": "OPD (nm)",
    "field": "complex field",
}
_FILES = (
    "Holograms and phase (*.tif *.tiff *.h5 *.hdf5 *.rtdc *.npy *.png *.jpg *.jpeg *.bmp);;"
    "All files (*)"
)
_NONE, _OWN, _FILE = "none", "in the file", "file"


class HologramSourceBox(Follower):
    """Follows the active layer; asks for what neither layer nor file says."""

    def __init__(self, holograms: Holograms, parent: QWidget | None = None) -> None:
        super().__init__(parent)
        self.holograms, self.source = holograms, holograms.source
        self.layers = shrinkable(QComboBox(self))
        self.layers.setPlaceholderText("none open")
        self.layers.setToolTip("The layer to reconstruct; follows the one selected in the list.")
        self.open = QPushButton("Open file…", self)
        self.open.setToolTip("TIFF, .rtdc, qpimage and raw HDF5, NPY, PNG, JPEG, BMP.")
        self.kind = shrinkable(QComboBox(self))
        self.kind.setToolTip("Meaning of the values of this layer.")
        for kind, text in _KINDS.items():
            self.kind.addItem(text, kind)
        self.wavelength = _number(self, " nm", 1, 100_000.0, "Wavelength in vacuum.")
        self.pixel_size = _number(
            self, " µm/px", 4, 1000.0, "Side of one pixel in the plane of the sample."
        )
        self.medium_index = _number(
            self, "", 4, 5.0, "Refractive index of the medium around the cells; needed to refocus."
        )
        self.hint = WrappedLabel(parent=self)
        self.hint.setObjectName("hint")
        self.background = shrinkable(QComboBox(self))
        self.background.setToolTip(
            "The same without cells. It removes the phase that the microscope itself adds."
        )
        self.open_background = QPushButton("Open…", self)
        self.open_background.setAccessibleName("Open a background file")
        self._lay_out()
        self._connect()
        self._fill()

    def _lay_out(self) -> None:
        grid = QGridLayout(self)
        grid.setContentsMargins(0, 0, 0, 0)
        grid.setColumnMinimumWidth(0, LABEL_WIDTH)
        grid.setColumnStretch(1, 1)
        grid.addWidget(label_for(self.layers, "Image"), 0, 0)
        grid.addWidget(self.layers, 0, 1, 1, 2)
        grid.addWidget(self.open, 0, 3)
        grid.addWidget(label_for(self.kind, "Shows"), 1, 0)
        grid.addWidget(self.kind, 1, 1, 1, 3)
        known = (
            ("Wavelength", self.wavelength),
            ("Pixel size", self.pixel_size),
            ("Medium index", self.medium_index),
        )
        for row, (text, box) in enumerate(known, start=2):
            grid.addWidget(label_for(box, text), row, 0)
            grid.addWidget(box, row, 1, 1, 3)
        grid.addWidget(self.hint, 5, 0, 1, 4)
        grid.addWidget(label_for(self.background, "Background"), 6, 0)
        grid.addWidget(self.background, 6, 1, 1, 2)
        grid.addWidget(self.open_background, 6, 3)

    def _connect(self) -> None:
        self.layers.activated.connect(self._set_layer)
        self.open.clicked.connect(self._choose_file)
        self.kind.activated.connect(self._set_kind)
        self.wavelength.valueChanged.connect(self._set_wavelength)
        self.pixel_size.valueChanged.connect(self._set_pixel_size)
        self.medium_index.valueChanged.connect(self._set_index)
        self.background.activated.connect(self._set_background)
        self.open_background.clicked.connect(self._choose_background)
        self.follow(self.source.layers_changed, self._fill)
        self.follow(self.source.changed, self._fill)
        self.follow(self.holograms.settings_changed, self._show_hint)

    # -- showing

    def _fill(self, _: object = None) -> None:
        source = self.source
        self.layers.clear()
        for layer in source.layers():
            self.layers.addItem(layer.name, layer)
        self.layers.setCurrentIndex(self.layers.findData(source.layer))
        self.kind.setCurrentIndex(self.kind.findData(source.kind))
        # Nothing becomes a complex field by being called one.
        self.kind.view().setRowHidden(self.kind.findData("field"), source.kind != "field")
        facts = source.facts
        set_quietly(self.wavelength, facts.wavelength or 0.0)
        set_quietly(self.pixel_size, source.scale.pixel_size or 0.0)
        set_quietly(self.medium_index, facts.medium_index or 0.0)
        there = source.layer is not None
        for box in (self.wavelength, self.pixel_size, self.medium_index, self.background):
            box.setEnabled(there)
        self.open_background.setEnabled(there)
        self.kind.setEnabled(there and source.kind != "field")
        self._fill_backgrounds()
        self._show_hint()

    def _fill_backgrounds(self) -> None:
        source, facts = self.source, self.source.facts
        self.background.clear()
        self.background.addItem("none", (_NONE, None))
        own = source.own_background()
        if own is not None:
            self.background.addItem("in the file", (_OWN, own))
        for layer in source.backgrounds():
            self.background.addItem(layer.name, ("layer", layer))
        known = [self.background.itemData(i)[1] for i in range(self.background.count())]
        at = next((i for i, given in enumerate(known) if given is facts.background), -1)
        if at < 0:
            self.background.addItem(facts.background_name or "file", (_FILE, facts.background))
            at = self.background.count() - 1
        self.background.setCurrentIndex(at)

    def _show_hint(self, _: object = None) -> None:
        source, facts = self.source, self.source.facts
        missing = []
        if source.wavelength_unknown:
            unit = "rad" if source.kind == "phase" else "nm"
            missing.append(f"Whole numbers: these may be grey levels instead of {unit}.")
        if source.kind != "opd" and facts.wavelength is None:
            missing.append("Give the wavelength to get OPD in nm, else it stays phase in rad.")
        if source.scale.pixel_size is None:
            missing.append("Give the pixel size to get cell sizes in µm.")
        if self.holograms.settings.focus and facts.medium_index is None:
            missing.append("Refocusing needs the medium index.")
        self.hint.setText(" ".join(missing))
        self.hint.setVisible(source.layer is not None and bool(missing))

    # -- acting

    def _set_layer(self, index: int) -> None:
        self.source.set_layer(self.layers.itemData(index))

    def _set_kind(self, index: int) -> None:
        self.source.set_kind(self.kind.itemData(index))

    def _set_wavelength(self, value: float) -> None:
        self.source.set_facts(wavelength=value or None)

    def _set_pixel_size(self, value: float) -> None:
        self.source.set_pixel_size(value or None)

    def _set_index(self, value: float) -> None:
        self.source.set_facts(medium_index=value or None)

    def _set_background(self, index: int) -> None:
        _, given = self.background.itemData(index)
        self.source.set_background(given, self.background.itemText(index))

    def _choose_file(self) -> None:
        path, _ = QFileDialog.getOpenFileName(self, "Open hologram or phase", "", _FILES)
        if path:
            self.holograms.open_file(Path(path))

    def _choose_background(self) -> None:
        path, _ = QFileDialog.getOpenFileName(self, "Open background", "", _FILES)
        if path:
            self.holograms.open_file(Path(path), background=True)


def _number(parent: QWidget, unit: str, decimals: int, most: float, tip: str) -> QDoubleSpinBox:
    """Return a box for a positive number that may be unknown."""
    box = QDoubleSpinBox(parent)
    box.setRange(0.0, most)
    box.setDecimals(decimals)
    box.setSuffix(unit)
    box.setSpecialValueText("unknown")
    box.setKeyboardTracking(False)
    # Nobody steps to a wavelength, and the field is narrow.
    box.setButtonSymbols(QDoubleSpinBox.ButtonSymbols.NoButtons)
    box.setToolTip(f"{tip} 0 is unknown.")
    return box
