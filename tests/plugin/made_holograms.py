"""Small simulated holograms for the tests of the panel, and its work done at once."""

from __future__ import annotations

import dataclasses
import functools
from typing import Any

import numpy as np
from napari.components import ViewerModel
from napari.layers import Image

from napari_sparseattn.images.holograms.recording import Recording
from napari_sparseattn.plugin.holograms.recordings import recording_layer
from napari_sparseattn.plugin.holograms.requests import (
    Failure,
    FocusRequest,
    FolderAnswer,
    PreviewRequest,
    ReconstructAnswer,
    ReconstructRequest,
    answer_preview,
    find_focus,
    stream_folder,
    stream_reconstruction,
)
from napari_sparseattn.plugin.holograms.session import Holograms
from napari_sparseattn.simulate import Optics, hologram_with_truth

OPTICS = Optics(pixel_size=0.2, wavelength=633.0, carrier=(0.21, 0.13))


@functools.cache
def simulated(background: bool = False) -> tuple[Recording, Any, Any]:
    """A hologram of a few cells (120, 140), its OPD in nm, and the cells."""
    recording, truth, cells, _ = hologram_with_truth(
        (120, 140), 1, OPTICS, kinds=("bead",), n_cells=3, background=background
    )
    return recording, truth.data, cells


def add_recording(viewer: ViewerModel, recording: Recording, **attributes: Any) -> Image:
    data, known, _ = recording_layer(recording)
    return viewer.add_image(data, **{**known, **attributes})


def add_hologram(viewer: ViewerModel, **known: object) -> object:
    recording, _, _ = simulated()
    return add_recording(viewer, dataclasses.replace(recording, **known))


def rmse_of(opd: np.ndarray) -> float:
    """RMSE in nm against the simulated cells, whose edges the microscope blurs."""
    _, truth, _ = simulated()
    return float(np.sqrt(np.mean((opd - truth) ** 2)))


class PanelAtOnce:
    """Does a panel's work when it is asked for, in this thread; keeps the requests."""

    def __init__(self, holograms: Holograms) -> None:
        self.holograms = holograms
        self.asked: list[Any] = []
        self.previews: list[PreviewRequest] = []
        holograms.work_requested.connect(self.work)

    def preview(self) -> None:
        request = self.holograms.preview_request()
        if request is not None:
            self.previews.append(request)
            self.holograms.accept_preview(answer_preview(request))

    def work(self, request: Any) -> None:
        self.asked.append(request)
        holograms = self.holograms
        try:
            if isinstance(request, FocusRequest):
                holograms.finish_focus(request, find_focus(request))
                return
            given: Any
            stream: Any = (
                stream_reconstruction(request)
                if isinstance(request, ReconstructRequest)
                else stream_folder(request)
            )
            for given in stream:
                if isinstance(given, ReconstructAnswer):
                    holograms.finish_reconstruct(request, given)
                elif isinstance(given, FolderAnswer):
                    holograms.finish_folder(request, given)
                else:
                    assert isinstance(given, Failure) or given.done <= given.total
                    holograms.take_progress(request, given)
        except (ValueError, OSError) as error:
            holograms.fail(request, error)
