"""From an empty window to a classified table: what is offered, and what comes next."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import yaml
from npe2 import PluginManifest
from qtpy.QtCore import Qt, QUrl
from qtpy.QtGui import QDesktopServices
from qtpy.QtTest import QTest
from qtpy.QtWidgets import (
    QAbstractButton,
    QAbstractItemView,
    QAbstractSpinBox,
    QComboBox,
    QLineEdit,
    QSlider,
    QWidget,
)

import napari_sparseattn
from napari_sparseattn.plugin.core import models
from napari_sparseattn.plugin.core.models import Model
from napari_sparseattn.plugin.core.preferences import keep_section, preferences
from napari_sparseattn.plugin.session import Session
from napari_sparseattn.plugin.widgets import help as help_pages
from napari_sparseattn.plugin.widgets.frame import section
from napari_sparseattn.plugin.widgets.help import DOCS, PAGES, HelpButton

from ..conftest import add_picture
from .test_window import Window

ROOT = Path(__file__).resolve().parents[3]
CONTROLS = (
    QAbstractButton, QAbstractItemView, QAbstractSpinBox, QComboBox, QLineEdit, QSlider,
)  # fmt: skip


def controls_of(dock: QWidget) -> list[QWidget]:
    """Return what a user could press, type in or move, without scrolling."""
    found = [w for kind in CONTROLS for w in dock.findChildren(kind)]
    inside = [
        w for w in found if isinstance(w.parent(), CONTROLS) and not isinstance(w, HelpButton)
    ]
    return [w for w in found if not w.visibleRegion().isEmpty() and w not in inside]


def press(widget: QWidget) -> None:
    QTest.mouseClick(widget, Qt.MouseButton.LeftButton)


def test_an_empty_window_offers_samples_a_file_and_a_tour(window: Window) -> None:
    dock = window.dock
    window.qtbot.wait(50)
    texts = [button.text() for button in dock.start_box.buttons.values()]
    assert texts == [
        "Try a smear", "Try a hologram", "Try a slide", "Open a file…", "Take a tour",
    ]  # fmt: skip
    assert not dock.body.isVisible()
    assert len(controls_of(dock)) == 6, "these, and More"


def test_two_clicks_lead_to_a_classified_table(window: Window) -> None:
    dock, session = window.dock, window.session
    press(dock.start_box.buttons["simulated-smear"])
    window.until(lambda: session.selection.image is not None)
    window.qtbot.wait(50)
    assert not dock.start_box.isVisible()
    assert len(controls_of(dock)) <= 10
    (following,) = [w for w in controls_of(dock) if w.property("next")]
    assert following is dock.actions_box.all
    press(following)
    window.until(lambda: session.cells.results is not None)
    assert len(session.cells.results) > 0
    assert not dock.actions_box.all.property("next"), "that is done"
    assert dock.train.isVisible()


@pytest.mark.slow
def test_what_is_pressed_while_the_model_is_loaded_begins_after_it(window: Window) -> None:
    dock, session = window.dock, window.session
    add_picture(window.viewer)
    session.load(session.models.paths["small"])
    assert session.selection.loading
    assert dock.actions_box.bar.isVisible()
    assert "loading" in dock.actions_box.left.text()
    press(dock.actions_box.all)
    assert session.cells.results is None
    window.until(lambda: session.cells.results is not None)
    assert not dock.actions_box.bar.isVisible()


@pytest.mark.slow
def test_the_start_comes_back_when_the_last_image_goes(window: Window) -> None:
    image = add_picture(window.viewer)
    assert window.dock.body.isVisible()
    window.viewer.layers.remove(image)
    assert window.dock.start_box.isVisible()
    assert not window.dock.body.isVisible()


@pytest.mark.slow
def test_a_file_is_one_click_away(
    window: Window, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    import imageio.v3 as imageio

    from napari_sparseattn.plugin.main import start_box

    from ..conftest import picture

    path = tmp_path / "mine.png"
    imageio.imwrite(path, picture())
    monkeypatch.setattr(start_box, "choose_images", lambda _: [str(path)])
    press(window.dock.start_box.buttons["file"])
    window.until(lambda: window.session.selection.image is not None)
    assert window.session.selection.image.name == "mine"


@pytest.fixture
def all_models(monkeypatch: pytest.MonkeyPatch, only_small_model: None) -> None:
    """Let windows find the models that are shipped."""
    from napari_sparseattn import bundle

    monkeypatch.setattr(models, "find_bundles", bundle.find_bundles)


@pytest.fixture
def full(all_models: None, make_napari_viewer_proxy: Any, qtbot: Any) -> Iterator[Window]:
    made = Window(make_napari_viewer_proxy(show=True), qtbot)
    _, made.dock = made.viewer.window.add_plugin_dock_widget(
        "napari-sparseattn", "Sparse attention"
    )
    yield made
    made.dock = None


@pytest.mark.slow
def test_a_slide_gets_a_slide_model_while_another_is_loading(full: Window) -> None:
    session = full.session
    full.until(lambda: session.selection.model is not None)
    session.load(session.models.paths["blood-cells-tnet"])
    assert session.selection.loading, "the one for cells"
    press(full.dock.start_box.buttons["simulated-slide"])
    full.until(lambda: session.selection.image is not None)
    full.until(lambda: session.selection.model is not None)
    assert session.selection.card.name == "tissue-simulated"
    assert full.dock.actions_box.field.property("next")
    assert full.dock.actions_box.field.text() == "Classify slide"


@pytest.mark.slow
def test_a_sample_takes_the_model_that_suits_it_whatever_was_chosen(full: Window) -> None:
    session = full.session
    full.until(lambda: session.selection.model is not None)
    session.selection.model_is_chosen = True
    press(full.dock.start_box.buttons["simulated-slide"])
    full.until(
        lambda: (
            session.selection.card is not None and session.selection.card.name == "tissue-simulated"
        )
    )


@pytest.mark.slow
def test_a_hologram_leads_to_its_reconstruction_and_to_its_cells(full: Window) -> None:
    session = full.session
    press(full.dock.start_box.buttons["simulated-hologram"])
    full.until(lambda: session.selection.image is not None)

    def find() -> Any:
        docks = full.viewer.window.dock_widgets
        return next((d for d in docks.values() if type(d).__name__ == "HologramDock"), None)

    full.until(lambda: find() is not None)
    actions = find().actions_box
    assert actions.reconstruct.property("next")
    press(actions.reconstruct)
    full.until(lambda: find().holograms.result is not None)
    full.until(lambda: bool(actions.classify.property("next")))
    press(actions.classify)
    full.until(
        lambda: session.selection.card is not None and session.selection.card.modality == "opd"
    )
    assert full.dock.actions_box.all.property("next")
    assert not full.dock.actions_box.all.visibleRegion().isEmpty()


# -- what is open is remembered


@pytest.fixture
def chosen(npe2pm: Any, plugin_settings: None) -> None:
    manifest = Path(napari_sparseattn.__file__).with_name("napari.yaml")
    npe2pm.register(PluginManifest.from_file(manifest))


def test_what_the_user_opens_is_open_the_next_time(chosen: None, qtbot: Any) -> None:
    parent = QWidget()
    qtbot.addWidget(parent)
    first = section("More", QWidget(), parent, open_=False, key="more")
    assert not first.isExpanded()
    first.expand(animate=False)
    assert not preferences().sections["more"], "nobody pressed it"
    first.collapse(animate=False)
    first.toggleButton().click()
    assert preferences().sections["more"]
    assert section("More", QWidget(), parent, open_=False, key="more").isExpanded()
    first.toggleButton().click()
    assert not section("More", QWidget(), parent, open_=True, key="more").isExpanded()


def test_a_section_that_the_preferences_do_not_know_is_not_remembered(chosen: None) -> None:
    before = preferences()
    keep_section("no such section", True)
    assert preferences() == before


@pytest.mark.slow
def test_the_preferences_know_every_section_of_the_dock(window: Window) -> None:
    text = Path(napari_sparseattn.__file__).with_name("napari.yaml").read_text(encoding="utf-8")
    known = yaml.safe_load(text)["contributions"]["configurations"]["sparseattn_sections"]
    keys = {title.lower().replace(" ", "_") for title in window.dock.sections} | {"more"}
    assert keys == {*known["properties"]}


# -- help


def test_each_question_mark_leads_to_a_page_that_is_there() -> None:
    for title, page in PAGES.items():
        text = (ROOT / "docs" / page.partition("#")[0]).read_text(encoding="utf-8")
        assert title.lower() in text.lower(), f"{page} does not speak of '{title}'"


@pytest.mark.slow
def test_help_opens_the_page_and_survives_without_a_browser(
    window: Window, monkeypatch: pytest.MonkeyPatch
) -> None:
    opened: list[str] = []

    def no_browser(address: QUrl) -> bool:
        opened.append(address.toString())
        return False

    monkeypatch.setattr(help_pages.QDesktopServices, "openUrl", staticmethod(no_browser))
    assert QDesktopServices.openUrl is no_browser
    add_picture(window.viewer)
    window.qtbot.wait(50)
    result = window.dock.sections["Result"]
    (button,) = result.toggleButton().findChildren(HelpButton)
    press(button)
    assert opened == [f"{DOCS}cells.md"]
    assert result.isExpanded(), "the ? folds nothing"
    result.collapse(animate=False)
    assert not button.isVisible(), "what is folded needs no help"


# -- the tour


@pytest.mark.slow
def test_the_tour_goes_through_six_steps_on_a_sample(window: Window) -> None:
    from napari_sparseattn.plugin.widgets.tour import Tour

    press(window.dock.start_box.buttons["tour"])
    inside = window.dock.window()
    window.until(lambda: inside.findChild(Tour) is not None)
    tour = inside.findChild(Tour)
    assert window.session.selection.image.name == "simulated smear"
    seen: list[str] = []
    for number in range(1, 7):
        assert tour.said.count.text() == f"{number} of 6"
        seen.append(tour.said.title.text())
        where = tour.said.geometry()
        assert inside.rect().contains(where)
        assert tour.said.text.height() >= tour.said.text.heightForWidth(tour.said.text.width())
        press(tour.said.forth)
    assert len(set(seen)) == 6
    window.until(lambda: inside.findChild(Tour) is None)


@pytest.mark.slow
def test_the_tour_ends_with_escape_and_goes_back(window: Window) -> None:
    from napari_sparseattn.plugin.commands import take_tour
    from napari_sparseattn.plugin.widgets.tour import Tour

    add_picture(window.viewer)
    take_tour(window.viewer)
    take_tour(window.viewer)
    inside = window.dock.window()
    (tour,) = inside.findChildren(Tour)
    press(tour.said.forth)
    press(tour.said.back)
    assert tour.said.title.text() == "Your image"
    QTest.keyClick(tour.said.forth, Qt.Key.Key_Escape)
    window.until(lambda: inside.findChild(Tour) is None)


@pytest.mark.slow
def test_a_message_says_how_to_begin(window: Window) -> None:
    assert window.session is Session.of(window.viewer)
    assert "Try a sample" in window.session.status.message.text


@pytest.mark.slow
def test_a_model_that_the_user_chose_stays(window: Window, tnet_model: Model) -> None:
    window.session.selection.model_is_chosen = True
    window.session.selection.set_model(tnet_model)
    add_picture(window.viewer)
    assert window.session.selection.model is tnet_model
    assert not window.session.selection.loading
