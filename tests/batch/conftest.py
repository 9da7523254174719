"""A small model for batches."""

from __future__ import annotations

from pathlib import Path

import pytest

from napari_sparseattn.bundle import save_bundle
from small_model import small_bundle


@pytest.fixture(scope="session")
def model_file(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("models") / "small.safetensors"
    save_bundle(small_bundle(), path)
    return path
