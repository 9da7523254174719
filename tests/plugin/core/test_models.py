"""Models as the window loads them: warmed up, ready for an image."""

from __future__ import annotations

import pytest

from napari_sparseattn.plugin.core.models import prepare_model


@pytest.mark.parametrize("name", ["blood-cells", "opd-simulated"])
def test_the_models_for_cells_can_be_loaded(name: str) -> None:
    # The blank image they are warmed up on has to be in the unit that they take.
    assert prepare_model(name, "cpu").bundle.card.name == name
