"""The hologram panel of one viewer: what is asked, answered and shown.

No Qt here: work is started by `hologram_jobs`, shown by `widgets`.
"""

from __future__ import annotations

import dataclasses
import logging
from pathlib import Path
from typing import TYPE_CHECKING, Any

from psygnal import Signal

from ...images.holograms.settings import HologramSettings
from ..core.errors import explain
from ..core.messages import Progress
from ..core.per_viewer import PerViewer
from ..core.sources import SourceError
from .choices import HologramChoices
from .recordings import Facts, LayerFrames, facts_of, leading_shape
from .requests import (
    Failure,
    FocusRequest,
    FolderAnswer,
    FolderRequest,
    Opened,
    PreviewAnswer,
    PreviewRequest,
    ReconstructAnswer,
    ReconstructRequest,
    files_to_reconstruct,
)

if TYPE_CHECKING:
    from napari.layers import Image

__all__ = ["Holograms"]

_log = logging.getLogger(__name__)

Work = ReconstructRequest | FolderRequest | FocusRequest


class Holograms(HologramChoices, PerViewer):
    """From holograms to OPD in one viewer. Get it with `Holograms.of`.

    The viewer is held weakly, so that closing it frees both.
    """

    preview_changed = Signal(object)
    progress_changed = Signal(object)
    failures_changed = Signal(object)
    work_requested = Signal(object)
    work_cancelled = Signal()

    def __init__(self, viewer: Any) -> None:
        super().__init__(viewer)
        self.preview: PreviewAnswer | None = None
        self.failures: tuple[Failure, ...] = ()
        self._work: Work | None = None
        self._settled: tuple[tuple[Any, ...], HologramSettings] | None = None

    # -- preview

    def preview_request(self) -> PreviewRequest | None:
        """Return what a preview of the displayed frame needs, or None if there is nothing."""
        recording = self.recording()
        if recording is None:
            self._show_preview(None)
            return None
        try:
            index = self.frame_index()
        except SourceError as error:
            self.say(str(error), "error")
            self._show_preview(None)
            return None
        kept = self._settled
        settled = kept[1] if kept is not None and kept[0] == self._settled_key() else None
        return PreviewRequest(self.generation, recording, index, self.settings, settled)

    def accept_preview(self, answer: PreviewAnswer) -> None:
        """Show a preview, unless something newer is asked for."""
        if answer.request.generation != self.generation or self.layer is None:
            return
        if not answer.problem:
            self._settled = (self._settled_key(), answer.settled)
        self._show_preview(answer)
        if answer.problem:
            self.say(answer.problem, "warning")
        elif self.message.level == "warning" and not self.working:
            self.say(self.advice())

    def fail_preview(self, request: PreviewRequest, error: BaseException) -> None:
        """Say why a preview went wrong; failures of outdated ones are only logged."""
        if request.generation != self.generation:
            _log.info("an outdated preview failed", exc_info=error)
            return
        self._show_preview(None)
        self.say(explain(error), "error")

    def _show_preview(self, answer: PreviewAnswer | None) -> None:
        self.preview = answer
        self.preview_changed.emit(answer)

    def _settled_key(self) -> tuple[Any, ...]:
        assert self.layer is not None
        size = self.scale.pixel_size
        return (self.layer, self.kind, self.facts, size, self.settings)

    def _data_changed(self, event: Any) -> None:
        self._settled = None
        super()._data_changed(event)

    # -- work

    @property
    def working(self) -> bool:
        """Whether something longer than a preview is under way."""
        return self._work is not None

    def reconstruct(self) -> ReconstructRequest | None:
        """Ask for all frames of the source."""
        if self.layer is None:
            self.say(self.advice(), "warning")
            return None
        recording = self.recording()
        if recording is None or self.working:
            return None
        request = ReconstructRequest(
            self.layer, recording, self.settings, leading_shape(self.layer)
        )
        self._begin(request, f"Reconstructing '{self.layer.name}'…", len(recording))
        return request

    def find_focus(self, reach: float) -> FocusRequest | None:
        """Ask for the focus, within so many µm of the one that is set."""
        recording = self.recording()
        if self.layer is None or recording is None or self.working:
            return None
        settings = dataclasses.replace(self.settings, autofocus=reach)
        request = FocusRequest(self.layer, recording, settings)
        self._begin(request, "Looking for the focus…", 0)
        return request

    def apply_to_folder(self, folder: Path, out: Path) -> FolderRequest | None:
        """Ask for all files of a folder, reconstructed into another one."""
        if self.working:
            return None
        try:
            files = files_to_reconstruct(folder)
        except OSError as error:
            self.say(f"{folder} cannot be read: {error}", "error")
            return None
        if not files:
            self.say(f"There are no images or HDF5 files in {folder}.", "warning")
            return None
        background = self.facts.background
        if background is not None and not hasattr(background, "__getitem__"):
            background = LayerFrames(background)
        request = FolderRequest(
            files,
            out,
            self.given_settings(),
            self.full_settings(),
            None if self.layer is None else self.kind,
            background,
        )
        self.failures = ()
        self.failures_changed.emit(())
        self._begin(request, f"Reconstructing {len(files)} files…", len(files))
        return request

    def cancel(self) -> None:
        """Stop the work; files that are written stay."""
        if self._work is not None:
            self.work_cancelled.emit()
            self._end("Cancelled.", "warning")

    def take_progress(self, request: Work, told: Progress | Failure) -> None:
        """Take how far the work is, or a file that failed."""
        if request is not self._work:
            return
        if isinstance(told, Failure):
            self.failures = (*self.failures, told)
            self.failures_changed.emit(self.failures)
        else:
            self.progress_changed.emit(told)

    def finish_reconstruct(self, request: ReconstructRequest, answer: ReconstructAnswer) -> None:
        """Show a reconstruction as a layer."""
        if request is not self._work:
            return
        viewer = self.viewer
        if viewer is None or request.layer not in viewer.layers:
            self._end(f"'{request.layer.name}' was removed.", "warning")
            return
        source = request.layer
        self._work = None
        if self.main.settings_of(source).modality == "unknown":
            # The user has had it reconstructed as one.
            self.main.set_settings(source, modality="hologram")
        layer = self.results.show(source, answer)
        known = self.main.settings_of(source)
        modality = "opd" if answer.unit == "nm" else "phase"
        self.main.set_settings(
            layer,
            modality=modality,
            unit=answer.unit,
            pixel_size=known.pixel_size,
            origin=known.origin,
        )
        self._end(_about(layer.name, request, answer), "info")

    def finish_focus(self, request: FocusRequest, focus: float) -> None:
        """Take the distance that was found."""
        if request is not self._work:
            return
        self._end(f"In focus at {focus:+.1f} µm.", "info")
        self.change_settings(focus=round(focus, 2))

    def finish_folder(self, request: FolderRequest, answer: FolderAnswer) -> None:
        """Say what became of a folder."""
        if request is not self._work:
            return
        said = f"{len(answer.written)} of {len(request.files)} files written to {request.out}."
        if answer.uncalibrated:
            said += f" {answer.uncalibrated} of them as phase in rad: no wavelength is known."
        self._end(said, "warning" if self.failures else "info")

    def fail(self, request: Work | None, error: BaseException) -> None:
        """Say why work went wrong; failures of outdated work are only logged."""
        if request is not None and request is not self._work:
            _log.info("outdated work failed", exc_info=error)
            return
        if request is None:
            self.say(explain(error), "error")
        else:
            self._end(explain(error), "error")

    def _begin(self, request: Work, said: str, total: int) -> None:
        self._work = request
        self.say(said)
        self.progress_changed.emit(Progress(0, total))
        self.work_requested.emit(request)

    def _end(self, said: str, level: Any) -> None:
        self._work = None
        self.progress_changed.emit(None)
        self.say(said, level)

    # -- files

    def add_recording(self, opened: Opened) -> Image:
        """Show a recording as a layer, and take it as the source."""
        viewer = self.viewer
        assert viewer is not None
        data, attributes, _ = opened.layer
        recording = opened.recording
        layer: Image = viewer.add_image(data, **attributes)
        self.set_layer(layer)
        if not opened.kind_known:
            self.say(
                f"{recording.name} does not say what its values are: choose hologram, phase or "
                "OPD beside 'shows'.",
                "warning",
            )
        elif recording.notes:
            self.say(f"{recording.name}: {'; '.join(recording.notes)}.")
        return layer

    def take_background(self, opened: Opened) -> None:
        """Take a recording without cells as the source's background."""
        recording = opened.recording
        if self.layer is None:
            return
        n, *shape = LayerFrames(self.layer).shape
        m, *other = recording.frames.shape
        if other != shape or m not in (1, n):
            self.say(
                f"{recording.name} holds {m} × {other[0]} × {other[1]} pixels, "
                f"'{self.layer.name}' {n} × {shape[0]} × {shape[1]}. A background is of the same "
                "height and width, with one frame or as many.",
                "error",
            )
            return
        self.set_background(recording.frames, recording.name)

    def full_settings(self) -> HologramSettings:
        """Return the settings together with what is known of the source, to be kept."""
        return dataclasses.replace(
            self.settings,
            wavelength=self.facts.wavelength,
            pixel_size=self.scale.pixel_size,
            medium_index=self.facts.medium_index,
        )

    def given_settings(self) -> HologramSettings:
        """Return the settings with what the user, not the file, says of the source."""
        said = facts_of(self.layer) if self.layer is not None else Facts()
        full = self.full_settings()
        return dataclasses.replace(
            full,
            wavelength=None if full.wavelength == said.wavelength else full.wavelength,
            pixel_size=full.pixel_size if self.scale.origin == "user" else None,
            medium_index=None if full.medium_index == said.medium_index else full.medium_index,
        )

    def save_settings(self, path: Path) -> None:
        """Write the settings and what is known of the source to a file."""
        try:
            self.full_settings().to_json(path)
        except OSError as error:
            self.say(f"The settings could not be written: {error}", "error")
        else:
            self.say(f"Settings written to {path}.")

    def load_settings(self, path: Path) -> None:
        """Take the settings of a file."""
        try:
            settings = HologramSettings.from_json(path)
        except (ValueError, OSError) as error:
            self.say(str(error), "error")
        else:
            self.set_settings(settings)
            self.say(f"Settings of {path.name} in use.")


def _about(name: str, request: ReconstructRequest, answer: ReconstructAnswer) -> str:
    n = len(request.recording)
    said = f"{name}: {n} frames." if n > 1 else f"{name} is ready."
    if answer.unit == "rad":
        said += " Uncalibrated: phase in rad, as the wavelength is unknown."
    else:
        said += " Click a cell in the dock Sparse attention to classify it."
    if answer.n_bad:
        said += f" {answer.n_bad} pixels were NaN or saturated."
    return said
