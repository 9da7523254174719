"""A click is a press and a release in one place; all else is napari's."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import pytest
import wrapt
from napari.components import ViewerModel
from napari.utils.interactions import (
    mouse_move_callbacks,
    mouse_press_callbacks,
    mouse_release_callbacks,
)

from napari_sparseattn.plugin.core.clicks import ClickWatcher


class Mouse:
    """Sends a viewer what its canvas would send."""

    def __init__(self, viewer: ViewerModel, **attributes: Any) -> None:
        self.viewer = viewer
        self.attributes = {"button": 1, "modifiers": (), **attributes}

    def press(self, at: tuple[float, float], *moves: tuple[float, float]) -> None:
        for kind, send, pos in [
            ("mouse_press", mouse_press_callbacks, at),
            *[("mouse_move", mouse_move_callbacks, pos) for pos in moves],
            ("mouse_release", mouse_release_callbacks, moves[-1] if moves else at),
        ]:
            event = SimpleNamespace(
                type=kind, pos=pos, position=(pos[1], pos[0]), handled=False, **self.attributes
            )
            event.is_dragging = kind == "mouse_move"
            # napari keeps the press and points it at the events that follow.
            send(self.viewer, wrapt.ObjectProxy(event))


@pytest.fixture
def clicked(viewer: ViewerModel) -> list[Any]:
    found: list[Any] = []
    watcher = ClickWatcher(found.append)
    viewer.mouse_drag_callbacks.append(watcher.on_mouse)
    return found


def test_a_click_is_called_with_its_world_position(viewer: ViewerModel, clicked: list[Any]) -> None:
    Mouse(viewer).press((10, 20))
    assert clicked == [(20, 10)]


def test_a_trembling_hand_still_clicks(viewer: ViewerModel, clicked: list[Any]) -> None:
    Mouse(viewer).press((10, 20), (12, 21), (11, 20))
    assert clicked == [(20, 10)]


def test_a_drag_is_no_click_even_if_it_comes_back(viewer: ViewerModel, clicked: list[Any]) -> None:
    Mouse(viewer).press((10, 20), (40, 20), (10, 20))
    assert clicked == []


@pytest.mark.parametrize("attributes", [{"button": 2}, {"modifiers": ("Shift",)}])
def test_other_buttons_and_modifiers_are_left_alone(
    viewer: ViewerModel, clicked: list[Any], attributes: dict[str, Any]
) -> None:
    Mouse(viewer, **attributes).press((10, 20))
    assert clicked == []


def test_a_click_with_shift_is_another_question(viewer: ViewerModel) -> None:
    plain: list[Any] = []
    shifted: list[Any] = []
    viewer.mouse_drag_callbacks.append(ClickWatcher(plain.append, shifted.append).on_mouse)
    Mouse(viewer, modifiers=("Shift",)).press((10, 20))
    Mouse(viewer, modifiers=("Shift",)).press((10, 20), (40, 20))
    Mouse(viewer, modifiers=("Shift", "Control")).press((10, 20))
    assert plain == []
    assert shifted == [(20, 10)]


def test_drawing_in_a_layer_classifies_nothing(viewer: ViewerModel, clicked: list[Any]) -> None:
    points = viewer.add_points([(0, 0)])
    points.mode = "add"
    Mouse(viewer).press((10, 20))
    assert clicked == []
    points.mode = "pan_zoom"
    Mouse(viewer).press((10, 20))
    assert len(clicked) == 1
