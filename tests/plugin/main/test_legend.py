"""What the colours on the image mean stands below their boxes."""

from __future__ import annotations

import pytest

from napari_sparseattn.plugin.core.models import Model

from ..conftest import CENTRES, add_picture
from .test_window import Window


@pytest.mark.slow
def test_the_legend_speaks_of_what_is_shown(window: Window, tnet_model: Model) -> None:
    image = add_picture(window.viewer)
    box, session = window.dock.result_box, window.session
    assert not box.legend.isVisible()
    session.cells.click(image.data_to_world(CENTRES[3]))
    window.until(lambda: session.answer is not None)
    assert box.legend.text().startswith("Pixels: yellow got most attention")
    box.boxes["attention"].click()
    assert "Map: bright was scored high" in box.legend.text()
    box.boxes["attention"].click()
    box.boxes["pixels"].click()
    assert not box.legend.isVisible()
    session.selection.set_model(tnet_model)
    session.cells.click(image.data_to_world(CENTRES[3]))
    window.until(lambda: session.answer is not None)
    assert box.legend.text() == "Crops: red speaks for the class, blue against it."
