from __future__ import annotations

from collections.abc import Iterator

import pytest

from napari_sparseattn.plugin.core.preferences import keep_rater


@pytest.fixture(autouse=True)
def nobody() -> Iterator[None]:
    """Nobody has given a name, and the next test finds none: napari keeps its preferences."""
    keep_rater("")
    yield
    keep_rater("")
