"""The choice whether an embedded colour profile is applied, in the real window."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import tifffile
from PIL import Image as Picture

from bad_slides import halves, scene, write_svs
from colour_profiles import converted, wide_profile
from napari_sparseattn.plugin.core.sources import slide_of
from napari_sparseattn.plugin.session import Session

from ..conftest import wait_until


@pytest.mark.slow
def test_the_profile_can_be_left_out(
    make_napari_viewer_proxy: Any, qtbot: Any, tmp_path: Path
) -> None:
    slide, plain, field = tmp_path / "a.svs", tmp_path / "b.svs", tmp_path / "c.png"
    with tifffile.TiffWriter(slide) as writer:
        for level in halves(scene(), 2):
            given = {"tile": (256, 256), "photometric": "rgb", "metadata": None}
            writer.write(level, iccprofile=wide_profile(), **given)
    write_svs(plain)
    Picture.fromarray(scene(80, 90)).save(field, icc_profile=wide_profile())
    viewer = make_napari_viewer_proxy(show=True)
    _, dock = viewer.window.add_plugin_dock_widget("napari-sparseattn", "Sparse attention")
    box, session = dock.image_box.profile, Session.of(viewer)
    assert not box.isVisible()

    dock.image_box.open_files([str(slide)])
    wait_until(qtbot, lambda: len(viewer.layers) == 1)
    layer, part = viewer.layers[0], np.s_[40:60, 70:100]
    wait_until(qtbot, box.isVisible)
    assert box.box.isChecked()
    assert np.abs(np.asarray(layer.data[0][part]) - converted(scene()[part])).max() < 1
    box.box.click()
    assert not box.box.isChecked()
    np.testing.assert_array_equal(layer.data[0][part], scene()[part])
    assert not slide_of(layer).profile_applied  # type: ignore[union-attr]

    dock.image_box.open_files([str(field)])
    wait_until(qtbot, lambda: len(viewer.layers) == 2)
    assert box.box.isChecked()
    shown = np.asarray(session.selection.image.data)
    assert np.abs(shown - converted(scene(80, 90))).max() < 1
    box.box.click()
    wait_until(qtbot, lambda: np.array_equal(session.selection.image.data, scene(80, 90)))
    assert not box.box.isChecked()
    box.box.click()
    wait_until(qtbot, lambda: not np.array_equal(session.selection.image.data, scene(80, 90)))
    assert box.box.isChecked()

    dock.image_box.open_files([str(plain)])
    wait_until(qtbot, lambda: len(viewer.layers) == 3)
    wait_until(qtbot, lambda: not box.isVisible())
