"""Preview of the displayed frame: spectrum, phase, OPD."""

from __future__ import annotations

import math

import numpy as np
import numpy.typing as npt
from qtpy.QtCore import Qt
from qtpy.QtWidgets import (
    QButtonGroup,
    QCheckBox,
    QDoubleSpinBox,
    QGridLayout,
    QHBoxLayout,
    QLabel,
    QPushButton,
    QVBoxLayout,
    QWidget,
)

from ..core.messages import counted
from ..widgets.base import Follower, label_for, set_quietly
from ..widgets.picture import ColourBar, Disk, Picture
from ..widgets.rich import WrappedLabel
from .requests import PreviewAnswer
from .session import Holograms

__all__ = ["PreviewBox"]

_TABS = {
    "spectrum": (
        "Spectrum",
        (
            "How strong each fringe frequency is. The circle is the sideband that is kept: click "
            "or drag to move it, turn the wheel to resize it."
        ),
    ),
    "phase": ("Phase", "Phase of the light behind the sample, in rad."),
    "opd": ("OPD", "Optical path difference: how much the cells delay the light, in nm."),
}
_WAITING = "The preview of an image appears here."
_STEP = 0.02


class PreviewBox(Follower):
    """Shows a preview of the displayed frame; corrects the sideband."""

    def __init__(self, holograms: Holograms, parent: QWidget | None = None) -> None:
        super().__init__(parent)
        self.holograms = holograms
        self._chosen = "opd"
        self.tabs: dict[str, QPushButton] = {}
        self.picture = Picture(self)
        self.bar = ColourBar(self)
        self.disk, self.mirror = Disk(), Disk(faint=True)
        for item in (self.mirror, self.disk):
            self.picture.scene().addItem(item)
        self.wrapped = QCheckBox("Wrapped", self)
        self.wrapped.setToolTip("Phase between -π and π, before it is unwrapped.")
        self.outline = QCheckBox("Background outline", self)
        self.outline.setToolTip("The pixels beyond the line were fitted to remove the tilt.")
        self.radius = QDoubleSpinBox(self)
        self.radius.setRange(0.05, 0.95)
        self.radius.setSingleStep(_STEP)
        self.radius.setDecimals(2)
        self.radius.setKeyboardTracking(False)
        self.radius.setToolTip(
            "Radius of the circle as a share of its distance from the middle. Larger shows finer "
            "detail; above about 0.33 the middle's light leaks in."
        )
        self.find = QPushButton("Find", self)
        self.find.setToolTip("Find the sideband automatically again.")
        self.state = QLabel(self)
        self.note = WrappedLabel(_WAITING, self)
        self.picture.setAccessibleName("Spectrum of the hologram")
        self.picture.setAccessibleDescription(
            "Arrow keys move the circle around the sideband, with Shift by ten; + and − change "
            "its radius."
        )
        self._lay_out()
        self._connect()
        self._show_settings()
        self.show_preview(holograms.previews.shown)

    @property
    def shown(self) -> str:
        """The picture that is shown: spectrum, phase or opd; the chosen one, if there is one."""
        there = _there(self.holograms.previews.shown)
        return self._chosen if self._chosen in there or not there else there[-1]

    def show_tab(self, name: str) -> None:
        """Choose a picture."""
        self._chosen = name
        self._paint()

    def _lay_out(self) -> None:
        column = QVBoxLayout(self)
        column.setContentsMargins(0, 0, 0, 0)
        row = QHBoxLayout()
        row.setSpacing(2)
        self._group = QButtonGroup(self)
        for name, (text, tip) in _TABS.items():
            button = QPushButton(text, self)
            button.setObjectName("shown")
            button.setCheckable(True)
            button.setToolTip(tip)
            self._group.addButton(button)
            row.addWidget(button, 1)
            self.tabs[name] = button
        column.addLayout(row)
        column.addWidget(self.picture)
        column.addWidget(self.bar)
        self.sideband = QWidget(self)
        grid = QGridLayout(self.sideband)
        grid.setContentsMargins(0, 0, 0, 0)
        grid.addWidget(label_for(self.radius, "Radius", self), 0, 0)
        grid.addWidget(self.radius, 0, 1)
        grid.addWidget(self.state, 0, 2, Qt.AlignmentFlag.AlignRight)
        grid.addWidget(self.find, 0, 3)
        grid.setColumnStretch(2, 1)
        column.addWidget(self.sideband)
        boxes = QHBoxLayout()
        boxes.addWidget(self.outline)
        boxes.addWidget(self.wrapped)
        boxes.addStretch(1)
        column.addLayout(boxes)
        column.addWidget(self.note)

    def _connect(self) -> None:
        self._group.buttonClicked.connect(self._choose_tab)
        self.wrapped.toggled.connect(self._paint)
        self.outline.toggled.connect(self._paint)
        self.radius.valueChanged.connect(self._set_radius)
        self.find.clicked.connect(self._find)
        self.picture.picked.connect(self._set_sideband)
        self.picture.turned.connect(self._step_radius)
        self.picture.stepped.connect(self._step_sideband)
        self.follow(self.holograms.previews.changed, self.show_preview)
        self.follow(self.holograms.settings_changed, self._show_settings)
        self.follow(self.holograms.source.changed, self._paint)

    # -- state

    def show_preview(self, answer: PreviewAnswer | None) -> None:
        """Show a preview, or that there is none."""
        self._paint()
        self._show_state()
        if answer is None:
            self.note.setText(_WAITING)
            self.note.show()
            return
        recording = answer.request.recording
        notes = list(answer.settled.notes)
        if answer.cropped:
            (h, w), (height, width) = answer.shape, recording.shape
            notes.append(f"Preview of the centre, {h} × {w} of {height} × {width} pixels.")
        if answer.retrieved is not None and answer.retrieved.n_bad:
            notes.append(f"NaN or saturated: {counted(answer.retrieved.n_bad, 'pixel')}.")
        self.note.setText(" ".join(notes))
        self.note.setVisible(bool(notes))

    def _show_settings(self, _: object = None) -> None:
        set_quietly(self.radius, self.holograms.settings.filter_radius)
        self._show_state()
        self._place_disk()

    def _show_state(self) -> None:
        by_hand = self.holograms.settings.sideband is not None
        answer = self.holograms.previews.shown
        found = answer is not None and answer.settled.sideband is not None
        self.state.setText("set by hand" if by_hand else "found" if found else "not found")
        self.find.setEnabled(by_hand)

    # -- painting

    def _paint(self, _: object = None) -> None:
        answer, shown = self.holograms.previews.shown, self.shown
        self.tabs[shown].setChecked(True)
        there = self.holograms.source.layer is not None
        for name, button in self.tabs.items():
            button.setEnabled(answer is None or name in _there(answer))
            # Tab comes to the one that is chosen, arrow keys go on from it; Qt sees to that only
            # once a key has chosen.
            chosen = name == shown
            focus = Qt.FocusPolicy
            button.setFocusPolicy(focus.StrongFocus if chosen else focus.ClickFocus)
            button.setVisible(there)
        self.picture.setVisible(there)
        self.sideband.setVisible(there and shown == "spectrum")
        self.wrapped.setVisible(there and shown == "phase")
        self.outline.setVisible(there and shown != "spectrum")
        self.picture.set_pickable(shown == "spectrum" and self.holograms.source.kind == "hologram")
        values, colormap, limits, unit = _picture_of(answer, shown, self.wrapped.isChecked())
        self.picture.set_values(values, colormap, limits)
        self.bar.set_scale(colormap, limits, unit)
        self.bar.setVisible(values is not None)
        retrieved = None if answer is None else answer.retrieved
        wanted = self.outline.isChecked() and shown != "spectrum" and retrieved is not None
        self.picture.set_outline(retrieved.background if wanted and retrieved else None)
        self._place_disk()

    def _sideband(self) -> tuple[float, float] | None:
        """Return the sideband that is set, or was found."""
        answer, given = self.holograms.previews.shown, self.holograms.settings.sideband
        return answer.settled.sideband if given is None and answer is not None else given

    def _place_disk(self) -> None:
        sideband = self._sideband()
        there = self.picture.pickable and self.picture.shape[0] > 0 and sideband is not None
        for item in (self.disk, self.mirror):
            item.setVisible(there)
        if not there or sideband is None:
            return
        side = self.picture.shape[0]
        radius = self.holograms.settings.filter_radius * math.hypot(*sideband) * side
        for item, sign in ((self.disk, 1), (self.mirror, -1)):
            # Scene coordinates count from a pixel's corner, hence the half.
            row, column = (side // 2 + 0.5 + sign * part * side for part in sideband)
            item.place(row, column, radius)

    # -- acting

    def _choose_tab(self, button: QPushButton) -> None:
        self.show_tab(next(name for name, tab in self.tabs.items() if tab is button))

    def _set_sideband(self, row: float, column: float) -> None:
        side = self.picture.shape[0]
        if not side:
            return
        sideband = tuple(min(0.5, max(-0.5, (at - 0.5 - side // 2) / side)) for at in (row, column))
        if math.hypot(*sideband) * side >= 1:
            self.holograms.change_settings(sideband=sideband)

    def _step_sideband(self, down: int, right: int) -> None:
        sideband, side = self._sideband(), self.picture.shape[0]
        if sideband is not None and side:
            middle = side // 2 + 0.5
            self._set_sideband(
                middle + sideband[0] * side + down, middle + sideband[1] * side + right
            )

    def _step_radius(self, steps: int) -> None:
        self.radius.setValue(self.radius.value() + steps * _STEP)

    def _set_radius(self, value: float) -> None:
        self.holograms.change_settings(filter_radius=value)

    def _find(self) -> None:
        self.holograms.change_settings(sideband=None, inverted=None)


def _there(answer: PreviewAnswer | None) -> list[str]:
    """Name the pictures that a preview has."""
    if answer is None:
        return []
    retrieved = answer.retrieved
    # OPD of an unknown wavelength is not phase.
    is_phase = answer.settled.wavelength is not None or answer.request.recording.kind != "opd"
    has = {
        "spectrum": answer.spectrum is not None,
        "phase": retrieved is not None and is_phase,
        "opd": retrieved is not None and retrieved.opd is not None,
    }
    return [name for name, there in has.items() if there]


def _picture_of(
    answer: PreviewAnswer | None, shown: str, wrapped: bool
) -> tuple[npt.NDArray[np.float32] | None, str, tuple[float, float], str]:
    """Return values, colour map, limits and unit of the picture to show."""
    nothing = None, "viridis", (0.0, 1.0), ""
    if answer is None:
        return nothing
    if shown == "spectrum":
        if answer.spectrum is None:
            return nothing
        # The noise floor takes a large part of the range and says nothing.
        return answer.spectrum, "magma", _limits(answer.spectrum, 30, 99.99), "log₁₀ power"
    retrieved = answer.retrieved
    if retrieved is None:
        return nothing
    if shown == "opd":
        opd = retrieved.opd
        return nothing if opd is None else (opd, "viridis", _limits(opd, 0.5, 99.9), "nm")
    if wrapped:
        turned = np.angle(np.exp(1j * retrieved.phase)).astype(np.float32)
        return turned, "twilight_shifted", (-math.pi, math.pi), "rad"
    return retrieved.phase, "viridis", _limits(retrieved.phase, 0.5, 99.9), "rad"


def _limits(values: npt.NDArray[np.float32], low: float, high: float) -> tuple[float, float]:
    finite = values[np.isfinite(values)]
    if not finite.size:
        return 0.0, 1.0
    a, b = (float(v) for v in np.percentile(finite, (low, high)))
    return a, b if b > a else a + 1.0
