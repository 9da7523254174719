"""Which model, its card, and where it computes."""

from __future__ import annotations

from pathlib import Path

from qtpy.QtCore import Qt
from qtpy.QtWidgets import (
    QComboBox,
    QFileDialog,
    QGridLayout,
    QHBoxLayout,
    QLabel,
    QLineEdit,
    QMenu,
    QPushButton,
    QToolButton,
    QWidget,
)

from ...hub import HubAddress, HubError
from ..core.models import Model
from ..export.box import ExportButton
from ..session import Session
from ..widgets.base import LABEL_WIDTH, Follower, label_for, shrinkable
from ..widgets.rich import WrappedLabel

__all__ = ["ModelBox"]


class ModelBox(Follower):
    """Loads models in the background and shows their cards.

    Attributes
    ----------
    details : QWidget
        Card, files and device; stands elsewhere in the dock.
    """

    def __init__(self, session: Session, parent: QWidget | None = None) -> None:
        super().__init__(parent)
        self.session = session
        self.details = QWidget(self)
        self.models = shrinkable(QComboBox(self))
        self.models.setPlaceholderText("no model found")
        self.card_button = QToolButton(self.details)
        self.card_button.setText("Card")
        self.card_button.setAccessibleName("Card of the model")
        self.card_button.setCheckable(True)
        self.card_button.setToolTip("What the model was trained on, how good it is, its licence.")
        self.load_button = QPushButton("Load…", self.details)
        self.load_button.setAccessibleName("Load a model")
        self.load_button.setToolTip("Load a model from a file, or from a repository.")
        self.load_button.setMenu(self._load_menu())
        self.address = QLineEdit(self.details)
        self.address.setAccessibleName("Address of a model")
        self.address.setPlaceholderText("hf://owner/name@COMMIT, then Enter")
        self.address.setToolTip(
            "A model in a Hugging Face repository, by its whole commit of 40 digits."
        )
        self.address.hide()
        self.export_button = ExportButton(session, self.details)
        self.devices = shrinkable(QComboBox(self.details))
        self.devices.setToolTip("Where the model computes; auto takes a GPU if there is one.")
        self.devices.addItem("auto", "auto")
        wanted = session.models.device
        if wanted != "auto":
            self.devices.addItem(wanted, wanted)
            self.devices.setCurrentIndex(1)
        self.card = WrappedLabel("", self.details)
        self.card.setObjectName("card")
        self.card.setTextInteractionFlags(Qt.TextInteractionFlag.TextSelectableByMouse)
        self.card.hide()
        self.simulated = WrappedLabel("Trained on simulated images only.", self)
        self.simulated.setObjectName("simulated")
        self.simulated.hide()
        self._lay_out()
        self.card_button.toggled.connect(self.card.setVisible)
        self.address.returnPressed.connect(self._load_typed)
        self.models.activated.connect(self._choose)
        self.devices.activated.connect(self._load_chosen)
        self.follow(session.selection.model_changed, self._show_model)
        self.follow(session.models.changed, self._list_models)
        self._list_models()
        self._show_model(session.selection.model)

    def _lay_out(self) -> None:
        grid = QGridLayout(self)
        grid.setContentsMargins(0, 0, 0, 0)
        grid.setColumnStretch(1, 1)
        grid.setColumnMinimumWidth(0, LABEL_WIDTH)
        grid.addWidget(label_for(self.models, "Model"), 0, 0)
        # Names begin alike, so they need the width to be told apart.
        grid.addWidget(self.models, 0, 1)
        grid.addWidget(self.simulated, 1, 1)
        rest = QGridLayout(self.details)
        rest.setContentsMargins(0, 0, 0, 0)
        rest.setColumnStretch(1, 1)
        rest.setColumnMinimumWidth(0, LABEL_WIDTH)
        rest.addWidget(QLabel("Model", self.details), 0, 0)
        row = QHBoxLayout()
        row.addWidget(self.card_button)
        row.addWidget(self.load_button, 1)
        row.addWidget(self.export_button, 1)
        rest.addLayout(row, 0, 1)
        rest.addWidget(self.address, 1, 1)
        rest.addWidget(self.card, 2, 0, 1, 2)
        rest.addWidget(label_for(self.devices, "Device"), 3, 0)
        rest.addWidget(self.devices, 3, 1)

    def _load_menu(self) -> QMenu:
        menu = QMenu(self)
        menu.setToolTipsVisible(True)
        file = menu.addAction("Model file…")
        file.setToolTip("A .safetensors file saved by this plugin.")
        file.triggered.connect(self._choose_file)
        address = menu.addAction("From a repository (hf://)…")
        address.setToolTip("Type the address of a model; it is fetched once and kept.")
        address.triggered.connect(self._ask_address)
        return menu

    def load_file(self, path: str) -> None:
        """Add a model file to the list, and load it."""
        self.session.models.add(Path(path).stem, path)
        self.models.setCurrentIndex(self.models.findData(path))
        self._choose()

    def load_address(self, address: str) -> None:
        """Fetch a model from a repository, and load it.

        The model in use stays if that is no address.
        """
        try:
            HubAddress.parse(address)
        except HubError as error:
            self.session.status.notify(str(error), "error")
            return
        self.session.selection.model_is_chosen = True
        self.session.load(address)
        self.session.status.notify("Fetching the model, unless it is kept already…")

    def release(self) -> None:
        """Disconnect, with the button for exports."""
        super().release()
        self.export_button.release()

    def _list_models(self) -> None:
        """List all models; the one in use stays chosen."""
        chosen = self.models.currentData()
        self.models.clear()
        for name, path in self.session.models.paths.items():
            self.models.addItem(name, path)
        self.models.setCurrentIndex(-1 if chosen is None else self.models.findData(chosen))

    def _choose(self, _: int = 0) -> None:
        self.session.selection.model_is_chosen = True
        self._load_chosen()

    def _choose_file(self) -> None:
        path, _ = QFileDialog.getOpenFileName(self, "Load model file", "", "Models (*.safetensors)")
        if path:
            self.load_file(path)

    def _ask_address(self) -> None:
        self.address.show()
        self.address.setFocus()

    def _load_typed(self) -> None:
        typed = self.address.text().strip()
        if typed:
            self.load_address(typed)

    def _load_chosen(self, _: int = 0) -> None:
        self.session.models.device = self.devices.currentData()
        path = self.models.currentData()
        if path is not None:
            self.session.load(path)

    def _show_model(self, model: Model | None) -> None:
        loading = self.session.selection.loading
        self.models.setEnabled(not loading)
        if model is None:
            self.models.setCurrentIndex(self.models.findData(self.session.models.wanted))
            if not loading:
                self.card.clear()
                self.simulated.hide()
            return
        self.address.clear()
        self.address.hide()
        path = str(model.bundle.path)
        self.session.models.add(model.bundle.card.name, path)
        self.models.setCurrentIndex(self.models.findData(path))
        self.card.setText(model.bundle.card.summary())
        self.simulated.setVisible(model.bundle.card.training.simulated)
        chosen = self.devices.currentData()
        self.devices.clear()
        self.devices.addItem(f"auto ({model.devices[0]})", "auto")
        for device in model.devices:
            self.devices.addItem(device, device)
        # "cuda" is the first of them.
        chosen = model.device if chosen == "cuda" else chosen
        self.devices.setCurrentIndex(max(0, self.devices.findData(chosen)))
        self.devices.setItemText(
            self.devices.currentIndex(),
            f"auto – {model.description}" if chosen == "auto" else model.description,
        )
        self.devices.setToolTip(f"Computes on {model.description}.")
