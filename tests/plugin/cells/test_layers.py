"""Overlays lie where the pixels are that they speak of."""

from __future__ import annotations

import dataclasses

import numpy as np
import pytest
from napari.components import ViewerModel
from napari.layers import Image

from napari_sparseattn.evidence import CropFrame, PixelSelection
from napari_sparseattn.inference.prediction import Prediction, ReadingLedger
from napari_sparseattn.plugin.cells.layers import CellLayers
from napari_sparseattn.plugin.core.layers import OverlayChoice, Overlays, copied_transform
from napari_sparseattn.plugin.core.sources import METADATA_KEY, is_own, is_picture

SIZE = 16
COLOURS = ("#0072B2", "#E69F00")


def prediction(row: float = 30.0, column: float = 50.0, side: float = 24.0) -> Prediction:
    indices = np.array([0, 17, SIZE * SIZE - 1])
    fine = np.full((1, 2, 4), 0.25, dtype=np.float32)
    coarse = np.linspace(0, 1, SIZE * SIZE, dtype=np.float32).reshape(SIZE, SIZE)
    evidence = PixelSelection(CropFrame(row, column, side, SIZE), indices, fine, coarse)
    probabilities = np.array([0.2, 0.8], dtype=np.float32)
    ledger = ReadingLedger(576, 3, 256, 0.01, "cpu")
    return Prediction(("round", "lobed"), probabilities, evidence, ledger, "hash")


def show(
    overlays: Overlays,
    image: Image,
    index: tuple[int, ...],
    answer: Prediction,
    choice: OverlayChoice,
) -> None:
    layers = CellLayers(overlays)
    layers.show_selection(image, index, answer.evidence, choice)
    layers.show_class(image, index, answer, COLOURS, choice)


def place_by_hand(
    layer_like: dict[str, object], data: tuple[float, float]
) -> np.ndarray[tuple[int], np.dtype[np.float64]]:
    """Where a source pixel lies in the world, by textbook matrices alone."""
    angle = np.deg2rad(float(layer_like["rotate"]))  # type: ignore[arg-type]
    turn = np.array([[np.cos(angle), -np.sin(angle)], [np.sin(angle), np.cos(angle)]])
    shear = np.array([[1.0, float(layer_like["shear"])], [0.0, 1.0]])  # type: ignore[arg-type]
    scale = np.diag(np.asarray(layer_like["scale"], dtype=float))
    inner = turn @ shear @ scale @ np.asarray(data) + np.asarray(layer_like["translate"])
    affine = np.asarray(layer_like["affine"])
    return affine[:2, :2] @ inner + affine[:2, 2]


TURNED = {
    "scale": (0.5, 0.5),
    "translate": (7.0, -3.0),
    "rotate": 30.0,
    "shear": 0.2,
    "affine": np.array([[0.9, 0.1, 4.0], [-0.2, 1.1, -6.0], [0, 0, 1.0]]),
}


def turned_image() -> Image:
    return Image(
        np.zeros((100, 120, 3), dtype=np.uint8),
        rgb=True,
        name="smear",
        units=("um", "um"),
        axis_labels=("y", "x"),
        scale=TURNED["scale"],
        translate=TURNED["translate"],
        rotate=TURNED["rotate"],
        shear=[TURNED["shear"]],
        affine=TURNED["affine"],
    )


def test_the_hand_made_oracle_agrees_with_napari_on_the_source() -> None:
    image = turned_image()
    np.testing.assert_allclose(image.data_to_world((11, 23)), place_by_hand(TURNED, (11, 23)))


@pytest.mark.parametrize("pixel", [(0, 0), (5, 3), (15, 15)])
def test_a_crop_pixel_lies_on_the_image_pixels_it_was_made_from(pixel: tuple[int, int]) -> None:
    image = turned_image()
    frame = CropFrame(30.0, 50.0, 24.0, SIZE)
    overlay = Image(np.zeros((SIZE, SIZE)), **copied_transform(image, frame.origin, frame.scale))
    # A crop pixel is 1.5 image pixels wide; the crop's edge is at 30 - 12.
    on_image = (18 + 1.5 * (pixel[0] + 0.5), 38 + 1.5 * (pixel[1] + 0.5))
    np.testing.assert_allclose(overlay.data_to_world(pixel), place_by_hand(TURNED, on_image))


def test_units_and_axis_labels_are_copied(viewer: ViewerModel) -> None:
    image = viewer.add_layer(turned_image())
    overlays = Overlays(viewer, lambda *_: None)
    show(overlays, image, (), prediction(), OverlayChoice(attention=True))
    own = [layer for layer in viewer.layers if is_own(layer)]
    assert [x.metadata[METADATA_KEY]["overlay"] for x in own] == ["attention", "pixels", "frame"]
    assert all(layer.units == image.units for layer in own)
    assert all(layer.axis_labels == ("y", "x") for layer in own)
    assert all(layer.name.startswith("[smear] ") for layer in own)
    assert not any(is_picture(layer) for layer in own)


def test_pixels_show_attention_relative_to_uniform_and_nothing_elsewhere(
    viewer: ViewerModel,
) -> None:
    image = viewer.add_layer(turned_image())
    overlays = Overlays(viewer, lambda *_: None)
    show(overlays, image, (), prediction(), OverlayChoice())
    shown = overlays.layer(image, "pixels").data
    assert np.count_nonzero(np.isfinite(shown)) == 3
    np.testing.assert_allclose(shown[np.isfinite(shown)], 1.0)
    assert np.isfinite(shown[0, 0])
    assert np.isfinite(shown[1, 1])
    assert np.isfinite(shown[-1, -1])


def test_the_frame_is_the_crops_outline_with_class_and_probability(viewer: ViewerModel) -> None:
    image = viewer.add_layer(turned_image())
    overlays = Overlays(viewer, lambda *_: None)
    show(overlays, image, (), prediction(), OverlayChoice())
    frame = overlays.layer(image, "frame")
    corners = [frame.data_to_world(corner) for corner in frame.data[:4]]
    # Pixel centres are integers, so an edge lies half a pixel before one.
    expected = [(18, 38), (18, 62), (42, 62), (42, 38)]
    np.testing.assert_allclose(corners, [place_by_hand(TURNED, c) for c in expected])
    *others, halo, text = frame.features["text"].tolist()
    assert (others[0], halo, text) == ("", "lobed 80%", "lobed 80%")
    assert not frame.size[-9:].any(), "what carries the text is no dot"
    inks = frame.text.color(frame.features)
    assert inks[-1].tolist() != inks[-2].tolist(), "the halo stands out from the text"
    np.testing.assert_allclose(frame.face_color[0], (0xE6 / 255, 0x9F / 255, 0, 1), atol=1e-6)


def test_the_next_click_updates_the_same_layers(viewer: ViewerModel) -> None:
    image = viewer.add_layer(turned_image())
    overlays = Overlays(viewer, lambda *_: None)
    show(overlays, image, (), prediction(), OverlayChoice())
    before = list(viewer.layers)
    show(overlays, image, (), prediction(row=60, side=32), OverlayChoice())
    assert list(viewer.layers) == before
    pixels = overlays.layer(image, "pixels")
    corner = (60 - 16 + 1, 50 - 16 + 1)
    np.testing.assert_allclose(pixels.data_to_world((0, 0)), place_by_hand(TURNED, corner))


def test_a_moved_source_takes_the_overlays_along_at_the_next_click(viewer: ViewerModel) -> None:
    image = viewer.add_layer(turned_image())
    overlays = Overlays(viewer, lambda *_: None)
    show(overlays, image, (), prediction(), OverlayChoice())
    image.rotate = -75.0
    image.scale = (2.0, 2.0)
    show(overlays, image, (), prediction(), OverlayChoice())
    moved = {**TURNED, "rotate": -75.0, "scale": (2.0, 2.0)}
    pixels = overlays.layer(image, "pixels")
    on_image = (18 + 0.75, 38 + 0.75)
    np.testing.assert_allclose(pixels.data_to_world((0, 0)), place_by_hand(moved, on_image))


@pytest.mark.parametrize("hidden", [False, True])
def test_overlays_go_where_their_image_goes(viewer: ViewerModel, hidden: bool) -> None:
    image = viewer.add_layer(turned_image())
    overlays = Overlays(viewer, lambda *_: None)
    choice = OverlayChoice(pixels=not hidden)
    show(overlays, image, (), prediction(row=70), OverlayChoice())
    show(overlays, image, (), prediction(), choice)
    image.rotate = -75.0
    image.scale = (2.0, 2.0)
    image.translate = (100, 7)
    moved = {**TURNED, "rotate": -75.0, "scale": (2.0, 2.0), "translate": (100, 7)}
    pixels, frame = overlays.layer(image, "pixels"), overlays.layer(image, "frame")
    pixels.visible = True
    on_image = (18 + 0.75, 38 + 0.75)
    np.testing.assert_allclose(pixels.data_to_world((0, 0)), place_by_hand(moved, on_image))
    corner = frame.data_to_world(frame.data[2])
    np.testing.assert_allclose(corner, place_by_hand(moved, (42, 62)))


def test_a_hidden_overlay_is_up_to_date_when_shown(viewer: ViewerModel) -> None:
    image = viewer.add_layer(turned_image())
    overlays = Overlays(viewer, lambda *_: None)
    hidden = OverlayChoice(pixels=False)
    show(overlays, image, (), prediction(), OverlayChoice())
    show(overlays, image, (), prediction(row=60), hidden)
    pixels = overlays.layer(image, "pixels")
    assert not pixels.visible
    pixels.visible = True
    on_image = (60 - 12 + 0.75, 50 - 12 + 0.75)
    np.testing.assert_allclose(pixels.data_to_world((0, 0)), place_by_hand(TURNED, on_image))


def test_what_is_hidden_from_the_start_is_made_once_it_is_shown(viewer: ViewerModel) -> None:
    image = viewer.add_layer(turned_image())
    overlays = Overlays(viewer, lambda *_: None)
    show(overlays, image, (), prediction(row=70), OverlayChoice())
    show(overlays, image, (), prediction(), OverlayChoice())
    assert overlays.layer(image, "attention") is None
    image.rotate = -75.0
    overlays.apply(OverlayChoice(attention=True), image)
    attention = overlays.layer(image, "attention")
    assert attention.visible
    on_image = (18 + 0.75, 38 + 0.75)
    expected = place_by_hand({**TURNED, "rotate": -75.0}, on_image)
    np.testing.assert_allclose(attention.data_to_world((0, 0)), expected)
    # Below what lies above its kind.
    assert viewer.layers.index(attention) < viewer.layers.index(overlays.layer(image, "pixels"))
    overlays.remove(image, ["attention"])
    show(overlays, image, (), prediction(), OverlayChoice())
    overlays.blank(image)
    overlays.apply(OverlayChoice(attention=True), image)
    assert overlays.layer(image, "attention") is None, "nothing to show was shown"


def test_nothing_is_drawn_outside_of_the_image(viewer: ViewerModel) -> None:
    """A crop of 24 pixels around a cell near the upper edge reaches over it."""
    image = viewer.add_layer(turned_image())
    overlays = Overlays(viewer, lambda *_: None)
    show(overlays, image, (), prediction(row=3), OverlayChoice(attention=True))
    drawn = {name: overlays.layer(image, name) for name in ("attention", "pixels", "frame")}
    assert np.isnan(drawn["pixels"].data[0, 0])
    assert np.isfinite(drawn["attention"].data).any()
    low, high = (-0.5, -0.5), (99.5, 119.5)
    for name, layer in drawn.items():
        places = np.argwhere(np.isfinite(layer.data))
        if name == "frame":
            places = layer.data[layer.size > 0]
        on_image = np.array([image.world_to_data(layer.data_to_world(x)) for x in places])
        assert (on_image >= np.array(low) - 1e-6).all(), name
        assert (on_image <= np.array(high) + 1e-6).all(), name
    # All that is inside is still there: the upper edge lies 3.5 pixels above the cell.
    assert np.isfinite(drawn["attention"].data).mean() == pytest.approx(15.5 / 24, abs=1 / 16)
    assert np.isfinite(drawn["pixels"].data).sum() == 1


@pytest.mark.parametrize(
    ("row", "column", "anchor"),
    [(20, 20, "lower_left"), (20, 100, "lower_right"), (80, 100, "upper_right")],
)
def test_a_class_runs_towards_the_middle_of_the_image(
    viewer: ViewerModel, row: int, column: int, anchor: str
) -> None:
    """A name may be longer than the frame is wide; of a cell at the edge it stays inside."""
    image = viewer.add_image(np.zeros((100, 120, 3), np.uint8), rgb=True, name="smear")
    overlays = Overlays(viewer, lambda *_: None)
    show(overlays, image, (), prediction(row=row, column=column), OverlayChoice())
    layer = overlays.layer(image, "frame")
    assert str(layer.text.anchor) == anchor
    # Shown again elsewhere, it turns.
    show(overlays, image, (), prediction(row=20), OverlayChoice())
    assert str(layer.text.anchor) == "lower_left"


def test_in_a_stack_overlays_belong_to_their_plane(viewer: ViewerModel) -> None:
    image = viewer.add_image(
        np.zeros((5, 100, 120, 3), dtype=np.uint8), rgb=True, scale=(10, 0.5, 0.5)
    )
    overlays = Overlays(viewer, lambda *_: None)
    show(overlays, image, (3,), prediction(), OverlayChoice())
    pixels = overlays.layer(image, "pixels")
    assert pixels.data.shape == (1, SIZE, SIZE)
    np.testing.assert_allclose(pixels.data_to_world((0, 0, 0)), (30, 0.5 * 18.75, 0.5 * 38.75))
    frame = overlays.layer(image, "frame")
    np.testing.assert_allclose(frame.data_to_world(frame.data[0])[0], 30)


def test_the_users_layers_and_selection_are_left_alone(viewer: ViewerModel) -> None:
    image = viewer.add_layer(turned_image())
    theirs = viewer.add_image(np.zeros((16, 16)), name="[smear] selected pixels")
    viewer.layers.selection = {image}
    overlays = Overlays(viewer, lambda *_: None)
    show(overlays, image, (), prediction(), OverlayChoice())
    assert viewer.layers.selection.active is image
    assert theirs in viewer.layers
    assert not theirs.data.any()
    assert overlays.layer(image, "pixels") is not theirs


def test_an_overlay_the_user_removed_comes_back_with_the_next_click(viewer: ViewerModel) -> None:
    image = viewer.add_layer(turned_image())
    overlays = Overlays(viewer, lambda *_: None)
    show(overlays, image, (), prediction(), OverlayChoice())
    viewer.layers.remove(overlays.layer(image, "pixels"))
    assert overlays.layer(image, "pixels") is None
    show(overlays, image, (), prediction(), OverlayChoice())
    assert overlays.layer(image, "pixels") in viewer.layers


def test_a_long_class_is_written_in_lines(viewer: ViewerModel) -> None:
    image = viewer.add_layer(turned_image())
    overlays = Overlays(viewer, lambda *_: None)
    found = dataclasses.replace(
        prediction(), class_names=("round", "simulated_granulocyte-like_cell")
    )
    show(overlays, image, (), found, OverlayChoice())
    text = overlays.layer(image, "frame").features["text"].tolist()[-1]
    assert text.replace("\n", " ").replace("- ", "-") == "simulated granulocyte-like cell 80%"
    assert max(map(len, text.split("\n"))) <= 16
