"""Preferences → Sparse attention: there, kept by napari, and followed."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from napari.settings import get_plugin_settings
from qtpy.QtWidgets import QCheckBox, QComboBox, QDialog, QDoubleSpinBox, QLabel, QListWidget

import napari_sparseattn
from napari_sparseattn.cache import Cache
from napari_sparseattn.device import computing
from napari_sparseattn.plugin.core.layers import OverlayChoice
from napari_sparseattn.plugin.core.models import prepare_model
from napari_sparseattn.plugin.core.preferences import Preferences, preferences
from napari_sparseattn.plugin.session import Session
from napari_sparseattn.plugin.slides.requests import store_folder

MANIFEST = Path(napari_sparseattn.__file__).with_name("napari.yaml")


@pytest.fixture
def chosen(npe2pm: Any, plugin_settings: None, monkeypatch: pytest.MonkeyPatch) -> Any:
    """Return napari's settings of this plugin, kept in a folder of the test's own."""
    for name in ("NAPARI_SPARSEATTN_CACHE", "NAPARI_SPARSEATTN_CACHE_GB"):
        monkeypatch.delenv(name, raising=False)
    npe2pm.register(_manifest())
    return get_plugin_settings("napari-sparseattn")


def _manifest() -> Any:
    from npe2 import PluginManifest

    return PluginManifest.from_file(MANIFEST)


def test_defaults_are_what_they_were(chosen: Any) -> None:
    found = preferences()
    assert found == Preferences(sections=found.sections)
    assert found.overlays == OverlayChoice()
    assert found.cache == Cache.default()


def test_our_variables_are_not_taken_for_napari_settings(
    npe2pm: Any, plugin_settings: None, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    for name in ("ANNOTATIONS", "CACHE", "CACHE_GB", "DATA", "MODELS", "PRECISION"):
        value = {"CACHE_GB": "3", "PRECISION": "float32"}.get(name, str(tmp_path / name))
        monkeypatch.setenv(f"NAPARI_SPARSEATTN_{name}", value)
    npe2pm.register(_manifest())
    assert get_plugin_settings("napari-sparseattn").sparseattn_computing.device == "auto"
    assert preferences().cache == Cache(tmp_path / "CACHE", 3_000_000_000)


def test_what_is_chosen_is_followed(
    chosen: Any, tmp_path: Path, viewer: Any, model_file: Path
) -> None:
    chosen.sparseattn_computing.device = "cpu"
    chosen.sparseattn_computing.precision = "bfloat16"
    chosen.sparseattn_storage.folder = str(tmp_path / "mine")
    chosen.sparseattn_storage.size_gb = 1.5
    chosen.sparseattn_overlays.attention = True
    chosen.sparseattn_overlays.frame = False
    found = preferences()
    assert found.device == "cpu"
    assert found.cache == Cache(tmp_path / "mine", 1_500_000_000)
    assert store_folder() == tmp_path / "mine" / "features"
    assert Session.of(viewer).selection.choice == OverlayChoice(attention=True, frame=False)
    model = prepare_model(str(model_file), "cpu")
    assert model.precision == "bfloat16"
    assert "bfloat16" in model.description


def test_the_environment_counts_for_more(
    chosen: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    chosen.sparseattn_storage.folder = str(tmp_path / "mine")
    chosen.sparseattn_storage.size_gb = 1.5
    monkeypatch.setenv("NAPARI_SPARSEATTN_CACHE", str(tmp_path / "told"))
    monkeypatch.setenv("NAPARI_SPARSEATTN_CACHE_GB", "3")
    assert preferences().cache == Cache(tmp_path / "told", 3_000_000_000)


def test_where_napari_does_not_know_the_plugin_defaults_hold(
    npe2pm: Any, plugin_settings: None
) -> None:
    assert preferences() == Preferences()


def test_bfloat16_is_computed_in_and_nothing_else_is_taken(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    factors = torch.eye(2), torch.eye(2)
    with computing("cpu", "bfloat16"):
        assert (factors[0] @ factors[1]).dtype == torch.bfloat16
        with computing("cpu"):  # what holds already, holds on
            assert (factors[0] @ factors[1]).dtype == torch.bfloat16
    with computing("cpu"):
        assert (factors[0] @ factors[1]).dtype == torch.float32
    monkeypatch.setenv("NAPARI_SPARSEATTN_PRECISION", "bfloat16")
    with computing("cpu"):
        assert (factors[0] @ factors[1]).dtype == torch.bfloat16
    with pytest.raises(ValueError, match=r"float64.*float32"):
        computing("cpu", "float64")


@pytest.mark.slow
def test_the_page_is_there_and_its_boxes_choose(
    chosen: Any, make_napari_viewer: Any, qtbot: Any, tmp_path: Path
) -> None:
    viewer = make_napari_viewer(show=True)
    (action,) = [x for x in viewer.window.file_menu.actions() if "Preferences" in x.text()]
    action.trigger()
    dialogs = [
        widget
        for widget in viewer.window.file_menu.parentWidget().window().findChildren(QDialog)
        if widget.findChildren(QListWidget) and widget.isVisible()
    ]
    (dialog,) = dialogs
    (pages,) = dialog.findChildren(QListWidget)[:1]
    names = [pages.item(i).text() for i in range(pages.count())]
    pages.setCurrentRow(names.index("Sparse attention"))
    words = {label.text() for label in dialog.findChildren(QLabel) if label.isVisible()}
    assert {"Device", "Precision", "Size limit in GB", "Selected pixels"} <= words
    boxes = [box for box in dialog.findChildren(QCheckBox) if box.isVisible()]
    # Of the overlays, and of the sections of the dock.
    assert [box.isChecked() for box in boxes].count(True) == 4 + 5
    (device, precision) = [box for box in dialog.findChildren(QComboBox) if box.isVisible()]
    assert [device.itemText(i) for i in range(device.count())] == ["auto", "cpu", "cuda", "mps"]
    device.setCurrentText("cpu")
    precision.setCurrentText("bfloat16")
    (limit,) = [box for box in dialog.findChildren(QDoubleSpinBox) if box.isVisible()]
    limit.setValue(2.5)
    found = preferences()
    assert (found.device, found.precision) == ("cpu", "bfloat16")
    assert found.cache.limit == 2_500_000_000
    assert "bfloat16" in (tmp_path / "napari-sparseattn.yaml").read_text()
    dialog.accept()
