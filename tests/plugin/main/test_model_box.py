"""The model in use is exported, and one is fetched from a repository, from the model box."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from qtpy.QtCore import Qt
from qtpy.QtWidgets import QFileDialog

from fake_hub import FakeHub, serving
from napari_sparseattn.bundle import load_bundle
from napari_sparseattn.plugin.core import models
from napari_sparseattn.plugin.core import preferences as chosen
from napari_sparseattn.plugin.core.models import Model
from napari_sparseattn.plugin.core.preferences import Preferences
from napari_sparseattn.plugin.main.model_box import ModelBox
from napari_sparseattn.plugin.session import Session

from ..conftest import wait_until


@pytest.fixture
def box(qtbot: Any, viewer: Any, model: Model) -> Iterator[ModelBox]:
    session = Session.of(viewer)
    session.attach()
    found = ModelBox(session)
    qtbot.addWidget(found)
    session.selection.set_model(model)
    found.show()
    yield found
    found.release()
    session.detach()


@pytest.fixture
def hub(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Iterator[FakeHub]:
    with serving() as found:
        monkeypatch.setenv("HF_ENDPOINT", found.url)
        monkeypatch.setenv("NAPARI_SPARSEATTN_CACHE", str(tmp_path / "cache"))
        yield found


def answered(path: Path, monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """Let the file dialog answer with a path; return the names it proposed."""
    proposed: list[str] = []

    def answer(_: Any, title: str, name: str, kinds: str) -> tuple[str, str]:
        proposed.append(name)
        return str(path), kinds

    monkeypatch.setattr(QFileDialog, "getSaveFileName", staticmethod(answer))
    return proposed


def says(box: ModelBox, text: str) -> bool:
    return text in box.session.status.message.text


def test_the_model_is_exported_in_the_background(
    box: ModelBox, qtbot: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    proposed = answered(tmp_path / "mine", monkeypatch)  # the ending is added
    menu = box.export_button.button.menu()
    titles = [action.text() for action in menu.actions()]
    assert [title.split(" (")[0] for title in titles] == [
        "ONNX",
        "BioImage.IO package",
        "safetensors copy",
    ]
    assert all(action.toolTip() != action.text() for action in menu.actions())
    menu.actions()[2].trigger()
    assert says(box, "Exporting 'small'")
    wait_until(qtbot, lambda: says(box, "Exported mine.safetensors."))
    assert proposed == ["small.safetensors"]
    assert box.session.selection.model is not None
    assert (
        load_bundle(tmp_path / "mine.safetensors").hash == box.session.selection.model.bundle.hash
    )


def test_what_goes_wrong_is_said(
    box: ModelBox, qtbot: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "file").write_text("no folder")
    answered(tmp_path / "file" / "mine.safetensors", monkeypatch)
    box.export_button.actions_by_format["safetensors"].trigger()
    wait_until(qtbot, lambda: box.session.status.message.level == "error")
    assert (tmp_path / "file").read_text() == "no folder"


def test_a_slides_model_is_only_copied(box: ModelBox, span: Model) -> None:
    box.session.selection.set_model(span)
    enabled = {k: action.isEnabled() for k, action in box.export_button.actions_by_format.items()}
    assert enabled == {"onnx": False, "bioimageio": False, "safetensors": True}
    box.session.selection.set_model(None, loading=True)
    assert not box.export_button.button.isEnabled()


def test_a_typed_address_is_fetched_and_loaded(
    box: ModelBox, qtbot: Any, hub: FakeHub, model_file: Path
) -> None:
    commit = hub.add("owner/name", {"small.safetensors": model_file.read_bytes()})
    box.load_button.menu().actions()[1].trigger()
    assert box.address.isVisible()
    qtbot.keyClicks(box.address, f"hf://owner/name@{commit}")
    qtbot.keyClick(box.address, Qt.Key.Key_Return)
    assert says(box, "Fetching the model")
    wait_until(qtbot, lambda: box.session.selection.model is not None)
    assert box.session.selection.model is not None
    path = box.session.selection.model.bundle.path
    assert path is not None
    assert commit in path.parts
    assert box.models.currentData() == str(path)
    assert not box.address.isVisible()


def test_a_branch_is_refused_and_the_model_stays(box: ModelBox, qtbot: Any, hub: FakeHub) -> None:
    before = box.session.selection.model
    box.load_button.menu().actions()[1].trigger()
    qtbot.keyClicks(box.address, "hf://owner/name@main")
    qtbot.keyClick(box.address, Qt.Key.Key_Return)
    assert box.session.status.message.level == "error"
    assert says(box, "'main' is a branch")
    assert box.session.selection.model is before
    assert hub.asked == []


def test_the_preferred_device_is_the_one_begun_with(
    qtbot: Any, viewer: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(models, "preferences", lambda: Preferences(device="cpu"))
    assert chosen.preferences().device == "auto"
    session = Session.of(viewer)
    session.attach()
    box = ModelBox(session)
    qtbot.addWidget(box)
    session.start()
    wait_until(qtbot, lambda: session.selection.model is not None)
    assert box.devices.currentData() == "cpu"
    box.release()
    session.detach()
