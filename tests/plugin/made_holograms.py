"""Small simulated holograms for the tests of the panel."""

from __future__ import annotations

import dataclasses
import functools
from typing import Any

import numpy as np
from napari.components import ViewerModel
from napari.layers import Image

from napari_sparseattn.images.holograms.recording import Recording
from napari_sparseattn.plugin.holograms.recordings import recording_layer
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
