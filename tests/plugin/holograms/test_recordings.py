"""Recordings as layers and layers as recordings."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from napari.components import ViewerModel
from napari.layers import Image

from napari_sparseattn.images.holograms.recording import Recording
from napari_sparseattn.plugin.core.sources import METADATA_KEY, guess_settings
from napari_sparseattn.plugin.holograms.recordings import (
    Facts,
    LayerFrames,
    ShownFrames,
    facts_of,
    kind_of,
    recording_in,
    recording_layer,
    recording_of,
)

STACK = np.arange(4 * 5 * 6, dtype=np.uint16).reshape(4, 5, 6)


class Counted:
    """Frames that count how many of them are read."""

    shape = STACK.shape
    dtype = STACK.dtype

    def __init__(self) -> None:
        self.read = 0

    def __len__(self) -> int:
        return len(STACK)

    def __getitem__(self, index: slice) -> np.ndarray:
        part = STACK[index]
        self.read += len(part)
        return part


@pytest.mark.parametrize(
    "key",
    [
        2,
        -1,
        slice(1, 3),
        (1, slice(None), slice(None)),
        (2, slice(1, 4), 3),
        (slice(None), 2),
        [0, 3],
        (slice(None, None, 2),),
    ],
    ids=str,
)
def test_shown_frames_index_as_numpy_does(key: Any) -> None:
    np.testing.assert_array_equal(ShownFrames(STACK)[key], STACK[key])


def test_one_frame_is_read_to_show_one() -> None:
    frames = Counted()
    shown = ShownFrames(frames)
    shown[(2, slice(None), slice(None))]
    assert frames.read == 1


def test_napari_reads_one_frame_of_a_stack(viewer: ViewerModel) -> None:
    frames = Counted()
    data, attributes, _ = recording_layer(Recording(frames, "hologram", name="stack"))
    layer = viewer.add_image(data, **attributes)
    frames.read = 0
    viewer.dims.set_point(0, 3)
    assert frames.read <= 2
    np.testing.assert_array_equal(layer._data_view, STACK[3])


def test_complex_fields_are_shown_by_their_amplitude() -> None:
    field = np.full((1, 4, 4), 3 + 4j, np.complex64)
    data, attributes, _ = recording_layer(Recording(field, "field"))
    np.testing.assert_allclose(data, 5)
    assert attributes["metadata"][METADATA_KEY]["modality"] == "hologram"


def test_a_layer_says_what_the_file_said() -> None:
    background = np.ones((1, 5, 6))
    recording = Recording(STACK, "phase", 0.2, 647.0, 1.337, background, name="cells")
    data, attributes, kind = recording_layer(recording)
    assert kind == "image"
    layer = Image(data, **attributes)
    settings = guess_settings(layer)
    assert (settings.modality, settings.unit) == ("phase", "rad")
    assert settings.pixel_size == pytest.approx(0.2)
    facts = facts_of(layer)
    assert (facts.wavelength, facts.medium_index) == (647.0, 1.337)
    assert facts.background is background
    back = recording_of(layer, kind_of(layer, settings.modality), facts, settings.pixel_size)
    assert (back.kind, back.wavelength, back.pixel_size) == ("phase", 647.0, 0.2)
    np.testing.assert_array_equal(back.frames[1:3], STACK[1:3])


def test_what_is_not_known_is_not_claimed() -> None:
    data, attributes, _ = recording_layer(Recording(STACK, "hologram"))
    layer = Image(data, **attributes)
    assert guess_settings(layer).pixel_size is None
    assert facts_of(layer).wavelength is None
    unsure = recording_layer(Recording(STACK, "opd"), kind_known=False)
    assert unsure[1]["metadata"][METADATA_KEY] | {"recording": 0} == {
        "modality": "unknown",
        "unit": "",
        "recording": 0,
    }


def test_new_pixels_of_another_size_are_not_the_files() -> None:
    data, attributes, _ = recording_layer(Recording(STACK, "hologram", wavelength=647.0))
    layer = Image(data, **attributes)
    assert recording_in(layer) is not None
    layer.data = np.zeros((4, 3, 3))
    assert recording_in(layer) is None
    assert recording_of(layer, "hologram", Facts(), None).shape == (3, 3)


def test_axes_before_y_and_x_are_frames_in_their_order() -> None:
    data = np.arange(2 * 3 * 4 * 5).reshape(2, 3, 4, 5)
    frames = LayerFrames(Image(data))
    assert frames.shape == (6, 4, 5)
    np.testing.assert_array_equal(frames[0:6], data.reshape(6, 4, 5))
    assert frames[3:3].shape == (0, 4, 5)


def test_colour_is_averaged() -> None:
    colour = np.zeros((4, 5, 3), np.uint8)
    colour[..., 1] = 30
    np.testing.assert_allclose(LayerFrames(Image(colour, rgb=True))[0:1], np.full((1, 4, 5), 10))
