"""The hologram panel: choices, previews, results; in a viewer without a window."""

from __future__ import annotations

import dataclasses
import gc
from collections.abc import Callable

import numpy as np
import pytest
from napari.components import ViewerModel

from napari_sparseattn.images.holograms.recording import Recording
from napari_sparseattn.images.holograms.settings import HologramSettings
from napari_sparseattn.plugin.core.lanes import Lanes
from napari_sparseattn.plugin.core.sources import METADATA_KEY
from napari_sparseattn.plugin.holograms.requests import (
    LIVE_SIDE,
    PreviewRequest,
    ReconstructRequest,
    answer_preview,
    stream_reconstruction,
)
from napari_sparseattn.plugin.holograms.session import Holograms
from napari_sparseattn.plugin.session import Session

from ..held import Held
from ..made_holograms import OPTICS, add_hologram, add_recording, rmse_of, simulated

# -- one per viewer


def test_one_panel_per_viewer_which_it_does_not_keep_alive() -> None:
    first, second = ViewerModel(), ViewerModel()
    panel = Holograms.of(first)
    assert Holograms.of(first) is panel
    assert Holograms.of(second) is not panel
    del first
    gc.collect()
    assert panel.viewer is None
    assert panel not in Holograms._sessions.values()


def test_detaching_leaves_nothing_connected(viewer: ViewerModel) -> None:
    events = (
        viewer.layers.events.inserted,
        viewer.layers.events.removed,
        viewer.layers.selection.events.active,
        viewer.dims.events.current_step,
    )
    Session.of(viewer)
    before = [len(event.callbacks) for event in events]
    panel = Holograms.of(viewer)
    panel.attach()
    panel.attach()
    panel.detach()
    assert [len(event.callbacks) for event in events] == [n + 1 for n in before]
    panel.detach()
    panel.detach()
    assert [len(event.callbacks) for event in events] == before


# -- the source


def test_without_an_image_it_says_what_to_do(panel: Holograms) -> None:
    panel.work.reconstruct()
    assert "Open a hologram" in panel.status.message.text


def test_it_follows_the_active_layer_but_not_to_colour_or_its_own(
    panel: Holograms, viewer: ViewerModel
) -> None:
    first = add_hologram(viewer)
    viewer.add_image(np.zeros((20, 30, 3), np.uint8), rgb=True, name="smear")
    assert panel.source.layer is first
    panel.work.reconstruct()
    assert viewer.layers.selection.active is panel.result
    assert panel.source.layer is first
    assert panel.source.layers() == [first]


def test_kind_and_pixel_size_are_shared_with_the_main_dock(
    panel: Holograms, viewer: ViewerModel
) -> None:
    layer = viewer.add_image(np.zeros((20, 30)), name="grey")
    main = Session.of(viewer)
    main.selection.set_image(layer)
    assert panel.source.kind == "hologram"
    panel.source.set_kind("phase")
    assert main.selection.settings.modality == "phase"
    assert main.selection.settings.unit == "rad"
    main.selection.set_settings(layer, modality="opd", pixel_size=0.3, origin="user")
    assert panel.source.kind == "opd"
    assert panel.source.scale.pixel_size == 0.3


def test_a_layer_marked_as_brightfield_is_left(panel: Holograms, viewer: ViewerModel) -> None:
    layer = viewer.add_image(np.zeros((20, 30)))
    Session.of(viewer).selection.set_image(layer)
    assert panel.source.layer is layer
    Session.of(viewer).selection.set_settings(layer, modality="brightfield")
    assert panel.source.layer is None


def test_removing_source_or_background_is_noticed(panel: Holograms, viewer: ViewerModel) -> None:
    background = viewer.add_image(np.zeros((120, 140)), name="empty")
    layer = add_hologram(viewer)
    assert panel.source.backgrounds() == [background]
    panel.source.set_background(background, "empty")
    viewer.layers.remove(background)
    assert panel.source.facts.background is None
    viewer.layers.remove(layer)
    assert panel.source.layer is None
    assert panel.previews.request() is None


def test_grey_levels_are_not_taken_for_rad_silently(panel: Holograms, viewer: ViewerModel) -> None:
    viewer.add_image(np.zeros((20, 30), np.uint8), metadata={METADATA_KEY: {"modality": "phase"}})
    assert panel.source.kind == "phase"
    assert panel.source.wavelength_unknown
    viewer.add_image(np.zeros((20, 30)), metadata={METADATA_KEY: {"modality": "phase"}})
    assert not panel.source.wavelength_unknown


@pytest.mark.parametrize("value", [0.0, -1.0, float("nan")])
def test_impossible_numbers_are_refused(
    panel: Holograms, viewer: ViewerModel, value: float
) -> None:
    add_hologram(viewer)
    with pytest.raises(ValueError, match="positive"):
        panel.source.set_facts(wavelength=value)


# -- preview


def test_the_preview_shows_the_simulated_cells(panel: Holograms, viewer: ViewerModel) -> None:
    add_hologram(viewer)
    answer = panel.previews.shown
    assert answer.problem == ""
    assert rmse_of(answer.retrieved.opd) < 10
    np.testing.assert_allclose(np.abs(answer.settled.sideband), OPTICS.carrier, atol=5e-3)
    side = answer.spectrum.shape[0]
    row, column = (side // 2 + round(part * side) for part in answer.settled.sideband)
    near = answer.spectrum[row - 2 : row + 3, column - 2 : column + 3]
    assert near.max() == pytest.approx(answer.spectrum.max(), abs=0.3)


def test_an_outdated_preview_is_dropped(panel: Holograms, viewer: ViewerModel) -> None:
    add_hologram(viewer)
    held = Lanes.of(viewer).runner = Held()
    panel.change_settings(filter_radius=0.25)
    held.work()
    panel.change_settings(flip=True)
    held.give(1)
    assert panel.previews.shown.request.settings.filter_radius != 0.25
    _, slots = held.kept[0]
    slots["failed"](ValueError("too late"))
    assert panel.status.message.text != "too late"
    held.go()
    assert panel.previews.shown.request.settings.flip


def test_the_displayed_frame_is_previewed_and_settled_once(
    panel: Holograms, viewer: ViewerModel
) -> None:
    recording, _, _ = simulated()
    frame = recording.frame(0)
    blank = np.roll(frame, 30, axis=1)
    add_recording(viewer, dataclasses.replace(recording, frames=np.stack([frame, blank, frame])))
    viewer.dims.set_point(0, 0)
    panel.previews.outdate_data()
    generation = panel.previews.generation
    first = panel.previews.shown.request
    viewer.dims.set_point(0, 1)
    assert panel.previews.generation > generation
    second = panel.previews.shown.request
    assert (first.index, second.index) == (0, 1)
    assert first.settled is None
    assert second.settled is not None
    panel.change_settings(filter_radius=0.25)
    assert panel.previews.shown.request.settled is None


def test_many_changes_make_one_preview(panel: Holograms, viewer: ViewerModel) -> None:
    add_hologram(viewer)
    late: list[Callable[[], None]] = []
    held = Lanes.of(viewer).runner = Held()
    held.later = lambda _, call: late.append(call)
    for radius in (0.2, 0.25, 0.3):
        panel.change_settings(filter_radius=radius)
    for call in late:
        call()
    assert len(held.kept) == 1
    held.go()
    assert panel.previews.shown.request.settings.filter_radius == 0.3


def test_a_large_frame_is_previewed_by_its_centre() -> None:
    recording, _, _ = simulated()
    tiles = np.tile(recording.frame(0), (6, 5))[None]
    answer = answer_preview(
        PreviewRequest(0, dataclasses.replace(recording, frames=tiles), 0, HologramSettings())
    )
    assert answer.cropped
    assert answer.shape == (LIVE_SIDE, LIVE_SIDE)
    assert answer.retrieved.phase.shape == answer.shape


def test_no_fringes_is_said_beside_the_spectrum(panel: Holograms, viewer: ViewerModel) -> None:
    rng = np.random.default_rng(0)
    viewer.add_image(rng.normal(100, 5, (64, 64)), name="noise")
    assert panel.previews.shown.retrieved is None
    assert panel.previews.shown.spectrum is not None
    assert "No fringes" in panel.status.message.text


def test_a_3d_view_is_refused_with_a_cure(panel: Holograms, viewer: ViewerModel) -> None:
    add_hologram(viewer)
    viewer.dims.ndisplay = 3
    assert panel.previews.request() is None
    assert "Change to 2D" in panel.status.message.text


# -- reconstruction


def test_the_result_is_opd_in_nm_placed_on_its_source(
    panel: Holograms, viewer: ViewerModel
) -> None:
    source = add_hologram(viewer)
    source.translate = (3, 5)
    source.rotate = 20
    panel.work.reconstruct()
    layer = viewer.layers["simulated hologram OPD"]
    assert rmse_of(layer.data) < 10
    known = layer.metadata[METADATA_KEY]
    assert (known["modality"], known["unit"]) == ("opd", "nm")
    assert known["reconstruction"]["scale_known"]
    assert known["reconstruction"]["settings"]["wavelength"] == OPTICS.wavelength
    assert layer.colorbar.visible
    np.testing.assert_allclose(layer.data_to_world((7, 9)), source.data_to_world((7, 9)), atol=1e-9)
    assert layer.units == source.units
    main = Session.of(viewer)
    main.attach()
    assert main.selection.image is layer
    assert main.selection.settings.modality == "opd"
    assert main.selection.settings.pixel_size == pytest.approx(OPTICS.pixel_size)
    main.detach()


def test_a_second_reconstruction_updates_the_first(panel: Holograms, viewer: ViewerModel) -> None:
    add_hologram(viewer)
    panel.work.reconstruct()
    layer = panel.result
    before = layer.data.copy()
    panel.change_settings(flip=True)
    panel.work.reconstruct()
    assert panel.result is layer
    assert len(viewer.layers) == 2
    np.testing.assert_allclose(layer.data, -before, atol=3)
    assert layer.contrast_limits[0] < -100
    viewer.layers.remove(layer)
    panel.work.reconstruct()
    assert panel.result is not layer


def test_contrast_that_the_user_set_is_kept(panel: Holograms, viewer: ViewerModel) -> None:
    add_hologram(viewer)
    panel.work.reconstruct()
    panel.result.contrast_limits = (10, 60)
    panel.change_settings(profile="offset")
    panel.work.reconstruct()
    assert list(panel.result.contrast_limits) == [10, 60]


def test_without_a_wavelength_it_is_phase_and_says_so(
    panel: Holograms, viewer: ViewerModel
) -> None:
    add_hologram(viewer, wavelength=None)
    panel.work.reconstruct()
    layer = viewer.layers["simulated hologram phase"]
    known = layer.metadata[METADATA_KEY]
    assert (known["modality"], known["unit"]) == ("phase", "rad")
    assert not known["reconstruction"]["scale_known"]
    assert "Phase in rad" in panel.status.message.text
    assert rmse_of(layer.data * OPTICS.wavelength / (2 * np.pi)) < 10
    panel.source.set_facts(wavelength=OPTICS.wavelength)
    panel.work.reconstruct()
    assert panel.result is layer
    assert layer.name == "simulated hologram OPD"
    assert Session.of(viewer).selection.settings_of(layer).modality == "opd"


def test_a_stack_keeps_its_axes(panel: Holograms, viewer: ViewerModel) -> None:
    recording, _, _ = simulated()
    data = np.stack([recording.frame(0)] * 6).reshape(2, 3, 120, 140)
    viewer.add_image(data, name="series", axis_labels=("t", "z", "y", "x"))
    panel.source.set_facts(wavelength=OPTICS.wavelength)
    panel.work.reconstruct()
    assert panel.result.data.shape == (2, 3, 120, 140)
    assert panel.result.axis_labels == ("t", "z", "y", "x")
    assert rmse_of(panel.result.data[1, 2]) < 10


def test_opd_of_unknown_wavelength_stays_nm(panel: Holograms, viewer: ViewerModel) -> None:
    _, truth, _ = simulated()
    add_recording(viewer, Recording((truth + 40)[None], "opd", name="map"))
    panel.work.reconstruct()
    assert panel.result.metadata[METADATA_KEY]["unit"] == "nm"
    assert rmse_of(panel.result.data) < 10


def test_the_background_hologram_is_divided_out(panel: Holograms, viewer: ViewerModel) -> None:
    recording, _, _ = simulated(background=True)
    add_recording(viewer, recording)
    assert panel.source.facts.background_name == "in the file"
    panel.work.reconstruct()
    assert rmse_of(panel.result.data) < 10


def test_cancelling_drops_what_comes_after(panel: Holograms, viewer: ViewerModel) -> None:
    add_hologram(viewer)
    held = Lanes.of(viewer).runner = Held()
    panel.work.reconstruct()
    assert panel.work.running
    panel.work.reconstruct()
    assert len(held.kept) == 1
    panel.work.cancel()
    assert held.stopped == 1
    held.go()
    assert panel.result is None
    assert panel.status.message.text == "Cancelled."


def test_removing_the_source_meanwhile_is_said(panel: Holograms, viewer: ViewerModel) -> None:
    layer = add_hologram(viewer)
    held = Lanes.of(viewer).runner = Held()
    panel.work.reconstruct()
    viewer.layers.remove(layer)
    held.go()
    assert not panel.work.running
    assert "was removed" in panel.status.message.text
    assert len(viewer.layers) == 0


def test_too_large_a_result_is_refused_before_memory_is_taken() -> None:
    class Endless:
        shape = (1_000_000, 1000, 1000)
        dtype = np.dtype(np.uint8)

        def __len__(self) -> int:
            return self.shape[0]

        def __getitem__(self, index: slice) -> np.ndarray:
            raise AssertionError("nothing is to be read")

    recording = Recording(Endless(), "hologram")
    request = ReconstructRequest(None, recording, HologramSettings(), (1_000_000,))
    with pytest.raises(ValueError, match="would not fit"):
        next(stream_reconstruction(request))


def test_focus_lacking_a_quantity_is_a_message(panel: Holograms, viewer: ViewerModel) -> None:
    add_hologram(viewer, medium_index=None)
    panel.work.find_focus(5.0)
    assert "medium index" in panel.status.message.text
    assert not panel.work.running


def test_the_focus_found_is_taken(panel: Holograms, viewer: ViewerModel) -> None:
    add_hologram(viewer)
    panel.work.find_focus(2.0)
    assert abs(panel.settings.focus) <= 2.0
    assert panel.settings.autofocus is None
    assert "In focus at" in panel.status.message.text
