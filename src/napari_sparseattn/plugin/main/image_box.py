"""Which image, what it shows, its scale, and where its cells come from."""

from __future__ import annotations

from typing import TYPE_CHECKING, cast, get_args

from qtpy.QtWidgets import (
    QComboBox,
    QDoubleSpinBox,
    QGridLayout,
    QLabel,
    QMenu,
    QPushButton,
    QWidget,
)

from ...images.errors import check_pixel_size
from ...images.fields.cells import Method
from ...images.fields.field import Modality
from ...images.fields.learned import SEGMENTERS
from ..core.docks import open_holograms
from ..core.field_layers import could_be_colour, images_in_file
from ..core.sources import ImageSettings
from ..opening import open_addresses, open_files
from ..session import Session
from ..widgets.base import LABEL_WIDTH, Follower, label_for, shrinkable
from ..widgets.file_dialogs import choose_address, choose_slide_folder, choose_slides
from ..widgets.frame import mark_next
from ..widgets.rich import WrappedLabel
from .kinds_button import KindsButton
from .overview_bar import OverviewBar
from .profile_box import ProfileBox
from .scale import ScaleHelper

if TYPE_CHECKING:
    from napari.layers import Image

__all__ = ["ImageBox"]

_ORIGINS = {
    "layer": "From the layer's scale and units.",
    "file": "From the image file.",
    "user": "As you gave it.",
    "unknown": "Neither the layer nor its file says it.",
}
_UNKNOWN_SLIDE = (
    "Pixel size unknown: the slide's file does not say it. Give the µm per pixel of its full "
    "resolution if you know it."
)
_UNKNOWN_SIZE = (
    "Pixel size unknown. Give it if you know it; without it, crops are cut by the size of the "
    "cells and results are marked."
)


class ImageBox(Follower):
    """Follows the active layer; asks for what the layer does not say.

    Attributes
    ----------
    details : QWidget
        Where its cells come from, and which kinds there can be; stands elsewhere in the dock.
    """

    def __init__(self, session: Session, parent: QWidget | None = None) -> None:
        super().__init__(parent)
        self.session = session
        self.details = QWidget(self)
        self.image = shrinkable(QComboBox(self))
        self.image.setToolTip("The image to classify; follows the layer selected in the list.")
        self.modality = QComboBox(self)
        self.modality.addItems(list(get_args(Modality)))
        self.modality.setToolTip("What the image shows. Models are made for one kind of image.")
        self.pixel_size = QDoubleSpinBox(self)
        self.pixel_size.setRange(0.0, 1000.0)
        self.pixel_size.setDecimals(4)
        self.pixel_size.setSingleStep(0.01)
        self.pixel_size.setSuffix(" µm/px")
        self.pixel_size.setSpecialValueText("unknown")
        self.pixel_size.setKeyboardTracking(False)
        # Nobody steps to a pixel size, and the field is narrow.
        self.pixel_size.setButtonSymbols(QDoubleSpinBox.ButtonSymbols.NoButtons)
        self.cells = shrinkable(QComboBox(self.details))
        self.cells.setToolTip(
            "Found by the plugin or by a segmenter that you have installed, or taken from your "
            "Labels or Points layer. The size of the points is taken as the size of the cells."
        )
        self.in_file = shrinkable(QComboBox(self))
        self.in_file.setToolTip("The file holds several images; the largest was opened.")
        self.colour = QPushButton("Show as colour", self)
        self.colour.setToolTip(
            "The image is three planes: shows them as red, green and blue of one image."
        )
        self.kinds = KindsButton(session, self.details)
        self.hint = WrappedLabel(_UNKNOWN_SIZE, self)
        self.hint.setObjectName("hint")
        self.scale = ScaleHelper.of(session.viewer) if session.viewer is not None else None
        self.use = self._use_button()
        self.reconstruct = QPushButton("Reconstruct…", self)
        self.reconstruct.setToolTip(
            "Opens the dock Holograms, which turns a hologram or phase into OPD."
        )
        self.profile = ProfileBox(session, self)
        self.overview = OverviewBar(session, self)
        self.open = self._open_button()
        self.labels: dict[str, QLabel] = {}
        self._lay_out()
        self._follow_clicks()
        self.follow(session.selection.images_changed, self._fill)
        self.follow(session.selection.image_changed, self._fill)
        self.follow(session.selection.settings_changed, self._show_settings)
        self.follow(session.selection.model_changed, self._show_button)
        self._fill()

    def _follow_clicks(self) -> None:
        self.image.activated.connect(self._image_chosen)
        self.modality.activated.connect(self._modality_chosen)
        self.pixel_size.valueChanged.connect(self._size_given)
        self.cells.activated.connect(self._cells_chosen)
        self.in_file.activated.connect(self.session.choose_in_file)
        self.colour.clicked.connect(self._show_as_colour)
        self.reconstruct.clicked.connect(self._open_holograms)

    def _use_button(self) -> QPushButton:
        """Return the button that takes what the red cells propose."""
        button = QPushButton("", self)
        button.setToolTip(
            "Takes the size that the circled red cell gives. Look first whether the circle fits a "
            "red cell."
        )
        button.clicked.connect(self._use_measured)
        if self.scale is not None:
            self.follow(self.scale.changed, self._show_hint)
        return button

    def _lay_out(self) -> None:
        # What has no label before it.
        for box, name in (
            (self.modality, "Kind of image"),
            (self.pixel_size, "Pixel size"),
            (self.in_file, "Image in the file"),
        ):
            box.setAccessibleName(name)
        grid = QGridLayout(self)
        grid.setContentsMargins(0, 0, 0, 0)
        grid.setColumnStretch(1, 1)
        grid.setColumnMinimumWidth(0, LABEL_WIDTH)
        grid.setColumnStretch(2, 1)
        self.labels["Image"] = label_for(self.image, "Image")
        grid.addWidget(self.labels["Image"], 0, 0)
        grid.addWidget(self.image, 0, 1, 1, 2)
        grid.addWidget(self.in_file, 1, 1, 1, 2)
        grid.addWidget(self.modality, 2, 1)
        grid.addWidget(self.pixel_size, 2, 2)
        grid.addWidget(self.hint, 3, 1, 1, 2)
        grid.addWidget(self.use, 4, 1, 1, 2)
        grid.addWidget(self.colour, 5, 1, 1, 2)
        grid.addWidget(self.reconstruct, 6, 1, 1, 2)
        grid.addWidget(self.profile, 7, 1, 1, 2)
        grid.addWidget(self.overview, 8, 1, 1, 2)
        rest = QGridLayout(self.details)
        rest.setContentsMargins(0, 0, 0, 0)
        rest.setColumnStretch(1, 1)
        rest.setColumnMinimumWidth(0, LABEL_WIDTH)
        for row, (text, widget) in enumerate((("Cells", self.cells), ("Kinds", self.kinds))):
            self.labels[text] = label_for(widget, text)
            rest.addWidget(self.labels[text], row, 0)
            rest.addWidget(widget, row, 1)
        rest.addWidget(self.open, 2, 1)

    def _fill(self, _: object = None) -> None:
        selection = self.session.selection
        self.image.clear()
        for layer in selection.images():
            self.image.addItem(layer.name, layer)
        self.image.setPlaceholderText("no image open")
        self.image.setCurrentIndex(self.image.findData(selection.image))
        self.cells.clear()
        self.cells.addItem("found automatically", "auto")
        for layer in selection.cell_layers():
            self.cells.addItem(f"{layer.name} ({type(layer).__name__.lower()})", layer)
        for name, segmenter in SEGMENTERS.items():
            missing = "" if segmenter.installed else " (not installed)"
            self.cells.addItem(f"found by {segmenter.title}{missing}", name)
        layer = selection.cell_layer
        chosen = selection.cell_method if layer is None else layer
        self.cells.setCurrentIndex(max(0, self.cells.findData(chosen)))
        self._fill_file(selection.image)
        self._show_settings(selection.settings)

    def _fill_file(self, image: Image | None) -> None:
        """List the images of the file, and offer colour where planes may be colours."""
        found, shown = ((), 0) if image is None else images_in_file(image)
        self.in_file.clear()
        self.in_file.addItems([f"image {n}: {size}" for n, size in enumerate(found)])
        self.in_file.setCurrentIndex(shown)
        self.in_file.setVisible(len(found) > 1)
        self.colour.setVisible(image is not None and could_be_colour(image))

    def _show_settings(self, settings: ImageSettings) -> None:
        there = self.session.selection.image is not None
        self.modality.setEnabled(there)
        self.pixel_size.setEnabled(there)
        self.modality.setCurrentText(settings.modality)
        self.pixel_size.blockSignals(True)
        self.pixel_size.setValue(settings.pixel_size or 0.0)
        self.pixel_size.blockSignals(False)
        self.pixel_size.setToolTip(f"Side of one pixel. {_ORIGINS[settings.origin]}")
        self._show_hint()
        self._show_button()

    def _show_hint(self) -> None:
        """Say what is not known of the scale, and what the red cells propose."""
        selection = self.session.selection
        said = "" if self.scale is None else self.scale.sentence
        measured = None if self.scale is None else self.scale.measured
        if measured is not None:
            self.use.setText(f"Use {measured.rounded:g} µm")
        self.use.setVisible(bool(said))
        unknown = _UNKNOWN_SLIDE if selection.on_slide else _UNKNOWN_SIZE
        self.hint.setText(said or unknown)
        there = selection.image is not None and selection.settings.pixel_size is None
        self.hint.setVisible(there or bool(said))

    def _use_measured(self) -> None:
        if self.scale is not None:
            self.scale.use()

    def _show_button(self, _: object = None) -> None:
        advice = self.session.advice
        self.reconstruct.setVisible(advice.reconstruct)
        mark_next(self.reconstruct, advice.reconstruct)
        # A SPAN takes patches, whatever cells there are.
        for widget in (self.labels["Cells"], self.cells):
            widget.setVisible(advice.cells)
        for widget in (self.labels["Kinds"], self.kinds):
            widget.setVisible(advice.cells and self.session.selection.image is not None)

    def release(self) -> None:
        """Disconnect, with the parts that follow something themselves."""
        for part in (self.kinds, self.profile, self.overview):
            part.release()
        super().release()

    def open_files(self, paths: list[str], as_slides: bool = False) -> None:
        """Open files and folders, and say here what comes of it."""
        if self.session.viewer is not None:
            open_files(self.session.viewer, paths, self.session.status.notify, as_slides=as_slides)

    def _open_button(self) -> QPushButton:
        button = QPushButton("Open slide…", self.details)
        button.setToolTip(
            "Opens a slide without reading it whole; of an ordinary TIFF, napari reads all of it."
        )
        menu = QMenu(button)
        menu.addAction("Slide file…", self._choose_files)
        menu.addAction("Slide folder (OME-Zarr, DICOM)…", self._choose_folder)
        menu.addAction("Slide at an address…", self._choose_address)
        button.setMenu(menu)
        return button

    def _choose_files(self) -> None:
        self.open_files(choose_slides(self), as_slides=True)

    def _choose_folder(self) -> None:
        self.open_files(choose_slide_folder(self), as_slides=True)

    def _choose_address(self) -> None:
        if self.session.viewer is not None:
            addresses = choose_address(self)
            open_addresses(self.session.viewer, addresses, self.session.status.notify)

    def _show_as_colour(self) -> None:
        self.session.show_as_colour()

    def _open_holograms(self) -> None:
        open_holograms(self.session.viewer)

    def _image_chosen(self, index: int) -> None:
        self.session.choose_image(self.image.itemData(index))

    def _modality_chosen(self, index: int) -> None:
        selection = self.session.selection
        if selection.image is not None:
            selection.set_settings(selection.image, modality=self.modality.itemText(index))

    def _size_given(self, value: float) -> None:
        selection = self.session.selection
        if selection.image is None:
            return
        size = value or None
        origin = "unknown" if size is None else "user"
        if size is not None and not selection.on_slide:
            try:
                check_pixel_size(size)
            except ValueError as error:
                self.session.status.notify(str(error), "error")
                self._show_settings(selection.settings)
                return
        selection.set_settings(selection.image, pixel_size=size, origin=origin)

    def _cells_chosen(self, index: int) -> None:
        chosen, selection = self.cells.itemData(index), self.session.selection
        if isinstance(chosen, str):
            selection.set_cell_layer(None, cast("Method", chosen))
        else:
            selection.set_cell_layer(chosen)
