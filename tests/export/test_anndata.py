"""AnnData as anndata reads it."""

from __future__ import annotations

import json

import anndata
import numpy as np
import pytest

from napari_sparseattn.card import Card

from . import results as made
from .conftest import Write


def test_cells(write: Write) -> None:
    table = anndata.read_h5ad(write("cells", "anndata"))
    assert table.shape == (3, 3)
    np.testing.assert_array_equal(table.X, made.cells().probabilities)
    assert list(table.var_names) == ["round", "lobed", "small"]
    assert list(table.obs_names) == ["2", "7", "40"]
    assert table.obs["class"].astype(object).fillna("").tolist() == ["round", "", "small"]
    assert table.obs["class"].cat.categories.tolist() == ["round", "lobed", "small"]
    assert table.obs["dry_mass_pg"].tolist()[0] == 12.5
    # Label 7 covers columns 10 to 15 and rows 4 to 9: 10 to 16 and 4 to 10 from edge to edge.
    assert table.obsm["spatial"][1].tolist() == [13.0, 7.0]
    assert table.uns["class_colors"].tolist() == list(made.cell_card().colours)
    source = table.uns["napari_sparseattn"]
    assert source["model_hash"] == made.HASH
    assert source["pixel_size_um"] == 0.5
    assert source["notes"].tolist() == ["a note"]
    assert Card.model_validate_json(source["card"]) == made.cell_card()


def test_frames_have_names_of_their_own(write: Write) -> None:
    table = anndata.read_h5ad(write("frames", "anndata"))
    assert list(table.obs_names) == ["0-2", "0-7", "0-40", "2-2", "2-7", "2-40"]
    assert table.obs["frame"].tolist() == [0, 0, 0, 2, 2, 2]


@pytest.mark.parametrize("kind", ["slide", "regions"])
def test_patches_have_the_encoders_features(write: Write, kind: str) -> None:
    table = anndata.read_h5ad(write(kind, "anndata"))
    np.testing.assert_array_equal(table.X, np.arange(12, dtype=np.float32).reshape(4, 3))
    assert list(table.var_names) == ["feature_0", "feature_1", "feature_2"]
    assert table.obsm["spatial"].tolist() == [[52, 28], [92, 28], [72, 48], [92, 48]]
    assert table.obs["attention_2"].tolist() == pytest.approx([2 / 3, 4 / 3, 4 / 3, 4 / 3])
    assert ("p_tumour" in table.obs) == (kind == "regions")
    # Rows can be taken, as of any other AnnData.
    assert table[table.obs["attention_1"] > 0.9].n_obs == 2


def test_patches_without_features_have_the_attention(write: Write) -> None:
    table = anndata.read_h5ad(write("slide", "anndata", made.slide(features=False)))
    assert list(table.var_names) == ["attention_1", "attention_2"]
    np.testing.assert_allclose(table.X[:, 0], [0.5, 2.0, 1.0, 0.5], rtol=1e-6)
    assert json.loads(table.uns["napari_sparseattn"]["card"])["name"] == "small-span"
