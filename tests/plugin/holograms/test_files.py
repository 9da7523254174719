"""The hologram panel: settings, folders and files; in a viewer without a window."""

from __future__ import annotations

import dataclasses
from pathlib import Path

import h5py
import numpy as np
import pytest
import tifffile
from napari.components import ViewerModel

from napari_sparseattn.images.opening import open_field
from napari_sparseattn.plugin.holograms.requests import (
    PreviewAnswer,
    files_to_reconstruct,
)
from napari_sparseattn.plugin.holograms.session import Holograms
from napari_sparseattn.plugin.session import Session

from ..made_holograms import OPTICS, add_hologram, rmse_of, simulated

# -- settings and folders


def test_settings_are_kept_and_used_again(
    panel: Holograms, viewer: ViewerModel, tmp_path: Path
) -> None:
    add_hologram(viewer)
    panel.change_settings(flip=True, filter_radius=0.25, sideband=(0.2, 0.1))
    path = tmp_path / "settings.json"
    panel.save_settings(path)
    other = ViewerModel()
    second = Holograms.of(other)
    second.attach()
    add_hologram(other, wavelength=None, medium_index=None)
    second.load_settings(path)
    assert second.settings == panel.settings
    assert second.source.facts.wavelength == OPTICS.wavelength
    assert second.source.facts.medium_index == OPTICS.medium_index
    second.detach()


def test_a_file_that_holds_no_settings_is_a_message(panel: Holograms, tmp_path: Path) -> None:
    path = tmp_path / "other.json"
    path.write_text("{}", encoding="utf-8")
    panel.load_settings(path)
    assert panel.status.message.level == "error"
    assert "not a hologram settings file" in panel.status.message.text


def test_a_folder_is_reconstructed_and_failures_do_not_stop_it(
    panel: Holograms, viewer: ViewerModel, tmp_path: Path
) -> None:
    recording, _, _ = simulated()
    add_hologram(viewer)
    folder, out = tmp_path / "raw", tmp_path / "opd"
    folder.mkdir()
    tifffile.imwrite(folder / "a.tif", recording.frame(0))
    tifffile.imwrite(folder / "c.tif", np.stack([recording.frame(0)] * 2))
    (folder / "b.tif").write_bytes(b"not an image")
    (folder / "notes.txt").write_text("left alone", encoding="utf-8")
    assert [path.name for path in files_to_reconstruct(folder)] == ["a.tif", "b.tif", "c.tif"]
    panel.work.apply_to_folder(folder, out)
    assert [failure.name for failure in panel.work.failures] == ["b.tif"]
    assert "2 of 3 files written" in panel.status.message.text
    field = open_field(out / "a_opd.ome.tif")
    assert field.pixel_size == pytest.approx(OPTICS.pixel_size)
    assert rmse_of(np.asarray(field.data)) < 10
    assert open_field(out / "c_opd.ome.tif").data.shape == (2, 120, 140)
    before = (out / "a_opd.ome.tif").read_bytes()
    panel.work.apply_to_folder(folder, out)
    assert "there already" in panel.work.failures[0].reason
    assert (out / "a_opd.ome.tif").read_bytes() == before


def test_in_a_folder_what_a_file_says_counts_unless_the_user_says_otherwise(
    panel: Holograms, viewer: ViewerModel, tmp_path: Path
) -> None:
    folder = tmp_path / "raw"
    folder.mkdir()
    with h5py.File(folder / "a.h5", "w") as file:
        file.attrs["wavelength"] = 500e-9
        file.attrs["pixel size"] = 0.1e-6
        phase = np.zeros((40, 50), np.float32)
        phase[10:20, 10:20] = np.pi
        file["phase/raw"] = phase
        file["amplitude/raw"] = np.ones_like(phase)
    add_hologram(viewer)
    assert panel.source.facts.wavelength == 633
    panel.work.apply_to_folder(folder, tmp_path / "one")
    field = open_field(tmp_path / "one" / "a_opd.ome.tif")
    assert np.ptp(field.data) == pytest.approx(250, rel=1e-3)
    assert field.pixel_size == pytest.approx(0.1)
    panel.source.set_facts(wavelength=600.0)
    panel.work.apply_to_folder(folder, tmp_path / "two")
    assert np.ptp(open_field(tmp_path / "two" / "a_opd.ome.tif").data) == pytest.approx(300, 1e-3)


def test_new_pixels_are_settled_anew(panel: Holograms, viewer: ViewerModel) -> None:
    layer = add_hologram(viewer)
    assert panel.previews.request().settled is not None
    layer.data = np.ascontiguousarray(layer.data.T)
    assert panel.previews.shown.request.settled is None
    assert panel.previews.shown.problem == ""


def test_results_are_not_taken_for_input(tmp_path: Path) -> None:
    for name in ("a.tif", "a_opd.ome.tif", "a_phase.ome.tif", ".b.tif", "c.RTDC"):
        (tmp_path / name).write_bytes(b"")
    assert [path.name for path in files_to_reconstruct(tmp_path)] == ["a.tif", "c.RTDC"]


def test_files_that_differ_in_their_suffix_only_do_not_meet(
    panel: Holograms, viewer: ViewerModel, tmp_path: Path
) -> None:
    recording, _, _ = simulated()
    add_hologram(viewer)
    tifffile.imwrite(tmp_path / "a.tif", recording.frame(0))
    np.save(tmp_path / "a.npy", recording.frame(0))
    panel.work.apply_to_folder(tmp_path, tmp_path / "out")
    written = sorted(path.name for path in (tmp_path / "out").iterdir())
    assert written == ["a.npy_opd.ome.tif", "a.tif_opd.ome.tif"]


def test_an_empty_folder_is_a_message(panel: Holograms, tmp_path: Path) -> None:
    panel.work.apply_to_folder(tmp_path, tmp_path / "out")
    assert "no images or HDF5" in panel.status.message.text
    panel.work.apply_to_folder(tmp_path / "absent", tmp_path)
    assert panel.status.message.level == "error"


# -- files


def test_decimal_numbers_are_asked_about(
    panel: Holograms, viewer: ViewerModel, tmp_path: Path
) -> None:
    _, truth, _ = simulated()
    path = tmp_path / "map.tif"
    tifffile.imwrite(path, truth.astype(np.float32))
    panel.open_file(path)
    assert "choose hologram, phase or OPD" in panel.status.message.text
    assert Session.of(viewer).selection.settings_of(panel.source.layer).modality == "unknown"
    panel.source.set_kind("opd")
    assert rmse_of(panel.previews.shown.retrieved.opd) < 10


def test_a_background_of_another_size_is_refused_with_both_sizes(
    panel: Holograms, viewer: ViewerModel, tmp_path: Path
) -> None:
    add_hologram(viewer)
    path = tmp_path / "empty.tif"
    tifffile.imwrite(path, np.zeros((10, 12), np.uint8))
    panel.open_file(path, background=True)
    assert "1 × 10 × 12" in panel.status.message.text
    assert panel.source.facts.background is None
    tifffile.imwrite(path, np.zeros((120, 140), np.uint8))
    panel.open_file(path, background=True)
    assert panel.source.facts.background_name == "empty"


def test_a_preview_answer_is_frozen(panel: Holograms, viewer: ViewerModel) -> None:
    add_hologram(viewer)
    assert isinstance(panel.previews.shown, PreviewAnswer)
    with pytest.raises(dataclasses.FrozenInstanceError):
        panel.previews.shown.problem = "x"
