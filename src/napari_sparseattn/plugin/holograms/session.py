"""The hologram panel of one viewer: source, settings, previews, work, files."""

from __future__ import annotations

import dataclasses
import weakref
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any

from psygnal import Signal

from ...images.holograms.recording import Recording
from ...images.holograms.settings import HologramSettings
from ..core.file_facts import FileFacts
from ..core.lanes import Lanes
from ..core.per_viewer import PerViewer
from ..core.status import Status
from ..core.undo import Undo
from ..session import Session
from .layers import OpdLayers
from .previews import Previews
from .recordings import Facts, LayerFrames, facts_of, is_result
from .requests import Opened, OpenRequest, answer_open
from .source import Source
from .work import Work

if TYPE_CHECKING:
    from napari.components import ViewerModel
    from napari.layers import Image

__all__ = ["Holograms"]

_NO_SOURCE = "Open a hologram with Open file…, or take the simulated one from File → Open Sample."
_NO_LAYER = "Choose an image."
_NO_WAVELENGTH = "Without the wavelength the result is phase in rad instead of OPD in nm."


class Holograms(PerViewer):
    """From holograms to OPD in one viewer; get it with `Holograms.of`.

    The viewer is held weakly, so that closing it frees both.

    Attributes
    ----------
    source : Source
        The layer, and how it was recorded.
    previews : Previews
        Of the displayed frame.
    work : Work
        The reconstruction.
    results : OpdLayers
        Reconstructions as layers.
    settings : HologramSettings
        How it is reconstructed.
    """

    settings_changed = Signal(object)

    def __init__(self, viewer: ViewerModel) -> None:
        self._viewer = weakref.ref(viewer)
        self.main = Session.of(viewer)
        self.settings = HologramSettings()
        self.status = Status()
        self.results = OpdLayers(viewer)
        self.source = Source(viewer, self.main)
        self.previews = Previews(viewer, self)
        self.work = Work(viewer, self)
        self._files = FileFacts(self.main.parts, self._follow_source)
        Undo.of(viewer).removed.add_results(is_result)
        self._lane = Lanes.of(viewer).add(
            answer_open,
            given=self._take_file,
            failed=lambda _, error: self.status.fail(error),
            busy="also",
        )

    @property
    def viewer(self) -> ViewerModel | None:
        """The viewer, or None after it is gone."""
        return self._viewer()

    # -- opening and closing

    def _following(self) -> list[tuple[Any, Callable[..., Any]]]:
        source = self.source
        return [
            (source.changed, self._follow_source),
            (source.frame_changed, self.previews.outdate),
            (source.data_changed, self.previews.outdate_data),
            *source.following(),
        ]

    def _first_opened(self) -> None:
        self.source.refresh()
        self._follow_source()

    def _last_closed(self) -> None:
        self.previews.close()
        self.work.close()
        self._files.close()
        self._lane.close()

    def _follow_source(self) -> None:
        self._files.ask(self.source.layer)
        self.status.notify(self.advice())
        self.previews.outdate()

    # -- words

    @property
    def working(self) -> bool:
        """Whether something longer than a preview is under way."""
        return self.work.running

    def advice(self) -> str:
        """Return what to do next."""
        source = self.source
        if source.layer is None:
            return _NO_LAYER if source.layers() else _NO_SOURCE
        in_rad = source.kind != "opd" and source.facts.wavelength is None
        return _NO_WAVELENGTH if in_rad else "Check the preview, then Reconstruct."

    # -- what is reconstructed

    @property
    def result(self) -> Image | None:
        """The source's reconstruction, if there is one."""
        layer = self.source.layer
        return None if layer is None else self.results.layer(layer)

    def recording(self) -> Recording | None:
        """Return the source as a recording; None without one, or with an error to the user."""
        try:
            return self.source.recording()
        except ValueError as error:
            layer = self.source.layer
            name = "" if layer is None else layer.name
            self.status.notify(f"'{name}' cannot be reconstructed: {error}.", "error")
            return None

    # -- settings

    def set_settings(self, settings: HologramSettings) -> None:
        """Take other settings; their wavelength, pixel size and index go to the source."""
        if (size := settings.pixel_size) is not None:
            self.source.set_pixel_size(size)
        known = ("wavelength", "medium_index")
        given = {name: getattr(settings, name) for name in known if getattr(settings, name)}
        if given:
            self.source.set_facts(**given)
        of_the_source: dict[str, Any] = {"pixel_size": None, **dict.fromkeys(known)}
        self._replace_settings(dataclasses.replace(settings, **of_the_source))

    def change_settings(self, **changes: Any) -> None:
        """Change some settings; `HologramSettings` raises ValueError if one is out of range."""
        self._replace_settings(dataclasses.replace(self.settings, **changes))

    def _replace_settings(self, settings: HologramSettings) -> None:
        if settings != self.settings:
            self.settings = settings
            self.settings_changed.emit(settings)
            self.previews.outdate()

    def full_settings(self) -> HologramSettings:
        """Return the settings together with what is known of the source, to be kept."""
        return dataclasses.replace(
            self.settings,
            wavelength=self.source.facts.wavelength,
            pixel_size=self.source.scale.pixel_size,
            medium_index=self.source.facts.medium_index,
        )

    def given_settings(self) -> HologramSettings:
        """Return the settings with what the user, not the file, says of the source."""
        layer, full = self.source.layer, self.full_settings()
        in_file = facts_of(layer) if layer is not None else Facts()
        same = full.wavelength == in_file.wavelength, full.medium_index == in_file.medium_index
        return dataclasses.replace(
            full,
            wavelength=None if same[0] else full.wavelength,
            pixel_size=full.pixel_size if self.source.scale.origin == "user" else None,
            medium_index=None if same[1] else full.medium_index,
        )

    def save_settings(self, path: Path) -> None:
        """Write the settings and what is known of the source to a file."""
        try:
            self.full_settings().to_json(path)
        except OSError as error:
            self.status.notify(f"The settings could not be written: {error}", "error")
        else:
            self.status.notify(f"Settings written to {path}.")

    def load_settings(self, path: Path) -> None:
        """Take the settings of a file."""
        try:
            settings = HologramSettings.from_json(path)
        except (ValueError, OSError) as error:
            self.status.notify(str(error), "error")
        else:
            self.set_settings(settings)
            self.status.notify(f"Settings of {path.name} in use.")

    # -- files

    def open_file(self, path: Path, *, background: bool = False) -> None:
        """Open a recording; it becomes a layer, or the source's background."""
        kind = self.source.kind if background else None
        self._lane.ask(OpenRequest(path, kind, background))

    def _take_file(self, request: OpenRequest, opened: Opened) -> None:
        if request.background:
            self._take_background(opened)
        else:
            self._add_recording(opened)

    def _add_recording(self, opened: Opened) -> None:
        viewer = self.viewer
        assert viewer is not None
        data, attributes, _ = opened.layer
        recording = opened.recording
        self.source.set_layer(viewer.add_image(data, **attributes))
        if not opened.kind_known:
            self.status.notify(
                f"{recording.name} does not say what its values are: choose hologram, phase or "
                "OPD beside 'shows'.",
                "warning",
            )
        elif recording.notes:
            self.status.notify(f"{recording.name}: {'; '.join(recording.notes)}.")

    def _take_background(self, opened: Opened) -> None:
        recording, layer = opened.recording, self.source.layer
        if layer is None:
            return
        n, *shape = LayerFrames(layer).shape
        m, *other = recording.frames.shape
        if other != shape or m not in (1, n):
            self.status.notify(
                f"{recording.name} holds {m} × {other[0]} × {other[1]} pixels, "
                f"'{layer.name}' {n} × {shape[0]} × {shape[1]}. A background is of the same "
                "height and width, with one frame or as many.",
                "error",
            )
            return
        self.source.set_background(recording.frames, recording.name, recording.path)
