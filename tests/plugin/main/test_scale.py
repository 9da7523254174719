"""The ruler in a smear: a circle, a sentence and a button, and nothing where all is well."""

from __future__ import annotations

import numpy as np
import pytest
from napari.components import ViewerModel

from napari_sparseattn.plugin.core.sources import (
    SourceError,
    cell_source,
    cells_of,
    displayed_plane,
    field_of,
)
from napari_sparseattn.plugin.main.scale import ScaleHelper
from napari_sparseattn.plugin.session import Session

TRUE = 7.5 / 40


def add_smear(viewer: ViewerModel, scale: float | None = None):
    """Red cells of 40 px with pale middles."""
    y, x = np.indices((260, 300))
    image = np.full((260, 300, 3), 235.0)
    for row, column in [(40, 50), (50, 130), (60, 230), (140, 60), (150, 160), (210, 250)]:
        apart = np.hypot(y - row, x - column)
        image[apart < 20] = (205, 135, 140)
        image[apart < 6] = (225, 190, 190)
    image += np.random.default_rng(0).normal(0, 3, image.shape)
    known = {} if scale is None else {"scale": (scale, scale), "units": ("um", "um")}
    pixels = image.clip(0, 255).astype(np.uint8)
    return viewer.add_image(pixels, rgb=True, name="smear", **known)


@pytest.fixture
def helper(session: Session, viewer: ViewerModel):
    helper = ScaleHelper.of(viewer)
    helper.attach()
    yield helper
    helper.detach()


def circles(viewer: ViewerModel) -> list:
    return [layer for layer in viewer.layers if layer.name.startswith("a red cell")]


def test_an_unknown_size_is_proposed_with_its_circle(
    helper: ScaleHelper, session: Session, viewer: ViewerModel
) -> None:
    image = add_smear(viewer)
    session.choose_image(image)
    assert helper.measured.rounded == pytest.approx(TRUE, rel=0.15)
    assert "If the circled red cell is 7.5\u00a0µm wide, a pixel is 0.1" in helper.sentence
    (circle,) = circles(viewer)
    box = np.ptp(circle.data[0], axis=0)
    np.testing.assert_allclose(box, 7.5 / helper.measured.pixel_size, rtol=0.1)
    # Nothing is taken before the button is pressed.
    assert session.selection.settings.pixel_size is None
    helper.use()
    assert session.selection.settings.pixel_size == helper.measured.rounded
    assert helper.sentence == ""
    assert not circles(viewer)


def test_a_size_that_fits_is_not_spoken_of_and_another_is_questioned(
    helper: ScaleHelper, session: Session, viewer: ViewerModel
) -> None:
    session.choose_image(add_smear(viewer, TRUE))
    assert helper.sentence == ""
    assert not circles(viewer)
    session.choose_image(add_smear(viewer, 2.5 * TRUE))
    assert "red cells would be" in helper.sentence
    assert len(circles(viewer)) == 1


def test_the_circle_goes_with_the_dock(
    helper: ScaleHelper, session: Session, viewer: ViewerModel
) -> None:
    session.choose_image(add_smear(viewer))
    assert circles(viewer)
    helper.detach()
    assert not circles(viewer)
    helper.attach()


def test_points_as_napari_makes_them_do_not_say_how_large_cells_are(
    session: Session, viewer: ViewerModel
) -> None:
    image = add_smear(viewer)
    session.choose_image(image)
    points = viewer.add_points([(40, 50), (50, 130)])
    plane = displayed_plane(viewer, image)
    source = cell_source(points, image, plane)
    assert source.unset
    # The red cells tell the scale.
    cells = cells_of(field_of(plane, session.selection.settings), source)
    assert cells.scale.pixel_size == pytest.approx(TRUE, rel=0.15)
    blank = viewer.add_image(np.full((260, 300, 3), 235, np.uint8), rgb=True)
    session.choose_image(blank)
    plane = displayed_plane(viewer, blank)
    with pytest.raises(SourceError, match="the size that napari gives all points"):
        cells_of(field_of(plane, session.selection.settings), source)
