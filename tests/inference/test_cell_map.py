"""The map of cells: what the network read of each, kept and laid out."""

from __future__ import annotations

import dataclasses
import subprocess
import sys
import threading
import types
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pytest

import napari_sparseattn as nsa
from napari_sparseattn.images.fields.cells import cells_from_points
from napari_sparseattn.inference import cell_map, cells, map_process
from napari_sparseattn.inference.cell_map import map_states, reduce_states
from small_model import small_bundle


@pytest.fixture(scope="module")
def predictions() -> nsa.Predictions:
    rng = np.random.default_rng(0)
    field = nsa.Field(rng.integers(0, 255, (120, 160, 3), np.uint8), "YXC", 0.5, "brightfield")
    places = rng.uniform(20, 100, (20, 2))
    found = cells_from_points(places, field.shape, diameter=18, pixel_size=0.5)
    return nsa.classify_cells(field, found, small_bundle(), "cpu", batch_size=7)


def spread(n: int = 200, width: int = 12) -> npt.NDArray[np.float16]:
    """States that are spread mostly along two known directions."""
    rng = np.random.default_rng(1)
    states = rng.normal(0, 0.05, (n, width))
    states[:, 3] += rng.normal(0, 4, n)
    states[:, 8] -= rng.normal(0, 2, n)
    return (states + 5).astype(np.float16)


def test_states_are_those_the_last_layer_read(predictions: nsa.Predictions) -> None:
    import torch

    assert predictions.states is not None
    assert predictions.states.dtype == np.float16
    bundle = small_bundle()
    model = bundle.cell_model("cpu")
    head = [module for module in model.modules() if isinstance(module, torch.nn.Linear)][-1]
    logits = head(torch.from_numpy(predictions.states.astype(np.float32)))
    scaled = (
        logits
        / torch.from_numpy(
            bundle.temperatures(torch.from_numpy(predictions.states.astype(np.float32)))
        )[:, None]
    )
    np.testing.assert_allclose(
        scaled.softmax(1).detach().numpy(), predictions.probabilities, atol=5e-3
    )


def test_a_map_is_the_principal_components(predictions: nsa.Predictions) -> None:
    found = nsa.map_cells(predictions)
    assert isinstance(found, nsa.CellMap)
    assert (found.places.shape, found.method) == ((len(predictions), 2), "pca")
    # Against the decomposition of the states themselves.
    assert predictions.states is not None
    values = predictions.states.astype(np.float64)
    values -= values.mean(0)
    left, sizes, _ = np.linalg.svd(values, full_matrices=False)
    expected = left[:, :2] * sizes[:2]
    signs = np.sign((expected * found.places).sum(0))
    np.testing.assert_allclose(found.places, expected * signs, atol=1e-3)
    assert found.shares == pytest.approx(tuple(sizes[:2] ** 2 / (sizes**2).sum()), rel=1e-3)


def test_a_map_points_the_same_way_whatever_the_order() -> None:
    states, order = spread(), np.random.default_rng(2).permutation(200)
    first, again = map_states(states).places, map_states(states[order]).places
    np.testing.assert_allclose(first[order], again, atol=1e-2)
    assert np.corrcoef(first[:, 0], states[:, 3].astype(float))[0, 1] > 0.99
    assert abs(np.corrcoef(first[:, 1], states[:, 8].astype(float))[0, 1]) > 0.99


def test_cells_without_a_class_have_no_place(predictions: nsa.Predictions) -> None:
    shares = predictions.probabilities.copy()
    shares[4] = np.nan
    found = nsa.map_cells(dataclasses.replace(predictions, probabilities=shares))
    assert np.isnan(found.places[4]).all()
    assert np.isfinite(np.delete(found.places, 4, axis=0)).all()


@pytest.mark.parametrize(("n", "width"), [(0, 4), (1, 4), (2, 1)])
def test_few_cells_have_a_map(n: int, width: int) -> None:
    found = map_states(np.ones((n, width), np.float16))
    assert found.places.shape == (n, 2)
    assert not found.places.any()


def test_what_cannot_be_mapped_says_why(predictions: nsa.Predictions) -> None:
    with pytest.raises(ValueError, match="classify the cells again"):
        nsa.map_cells(dataclasses.replace(predictions, states=None))
    with pytest.raises(ValueError, match="not by 'tsne'"):
        nsa.map_cells(predictions, "tsne")  # type: ignore[arg-type]
    with pytest.raises(ValueError, match="3 states of 20 cells"):
        dataclasses.replace(predictions, states=predictions.states[:3])  # type: ignore[index]


def test_without_umap_the_cure_is_said(
    predictions: nsa.Predictions, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(cell_map.importlib.util, "find_spec", lambda name: None)
    assert not cell_map.umap_is_installed()
    with pytest.raises(ImportError, match=r"napari-sparseattn\[umap\]"):
        nsa.map_cells(predictions, "umap")


def test_umap_is_given_the_axes_of_the_spread(monkeypatch: pytest.MonkeyPatch) -> None:
    asked: dict[str, Any] = {}

    class Umap:
        """Stands in for umap.UMAP, with its keywords."""

        def __init__(self, *, n_neighbors: int, init: str, random_state: int, n_jobs: int) -> None:
            asked.update(neighbours=n_neighbors, init=init, seed=random_state)

        def fit_transform(self, values: Any) -> Any:
            asked["values"] = values
            return values[:, :2]

    monkeypatch.setitem(sys.modules, "umap", types.SimpleNamespace(UMAP=Umap))
    monkeypatch.setattr(cell_map, "umap_is_installed", lambda: True)
    found = map_states(spread(200, 80), "umap", seed=3)
    assert (found.method, found.shares, found.places.dtype) == ("umap", None, np.float32)
    assert asked["values"].shape == (200, 50)
    assert (asked["neighbours"], asked["init"], asked["seed"]) == (15, "spectral", 3)
    map_states(spread(10), "umap")
    assert (asked["neighbours"], asked["init"]) == (9, "random")
    with pytest.raises(ValueError, match="at least 5 cells"):
        map_states(spread(3), "umap")


def test_of_very_many_cells_a_few_axes_are_kept(monkeypatch: pytest.MonkeyPatch) -> None:
    states = spread()
    few = reduce_states(states, 4)
    assert few.shape == (200, 4)
    np.testing.assert_allclose(map_states(few).places, map_states(states).places, atol=2e-2)
    monkeypatch.setattr(cells, "_MOST_STATES", states.nbytes - 1)
    joined = cells._join_states([states[:50], states[50:]])
    assert joined is not None
    assert joined.shape == (200, 12)  # already fewer than are kept
    monkeypatch.setattr(cells, "_FEW_AXES", 4)
    joined = cells._join_states([states[:50], states[50:]])
    assert joined is not None
    assert joined.shape == (200, 4)
    assert cells._join_states([states, None]) is None


def test_a_map_from_another_process_is_the_same() -> None:
    states = spread()
    found = map_process.map_in_process(states, "pca", 0, threading.Event())
    assert found is not None
    np.testing.assert_array_equal(found.places, map_states(states).places)


def test_a_map_in_another_process_can_be_stopped(monkeypatch: pytest.MonkeyPatch) -> None:
    started: list[subprocess.Popen[bytes]] = []
    stop = threading.Event()

    def endless(command: list[str], **options: Any) -> subprocess.Popen[bytes]:
        process = subprocess.Popen(
            [sys.executable, "-c", "import time; time.sleep(600)"], **options
        )
        started.append(process)
        stop.set()
        return process

    monkeypatch.setattr(map_process, "subprocess", _with(endless))
    assert map_process.map_in_process(spread(), "pca", 0, stop) is None
    assert started[0].poll() is not None


def test_a_process_that_fails_says_why(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    def broken(command: list[str], **options: Any) -> subprocess.Popen[bytes]:
        return subprocess.Popen([sys.executable, "-c", "raise SystemExit('no memory')"], **options)

    monkeypatch.setattr(map_process, "subprocess", _with(broken))
    with pytest.raises(RuntimeError, match="no memory"):
        map_process.map_in_process(spread(), "pca", 0, threading.Event())


def _with(start: Any) -> Any:
    names = {name: getattr(subprocess, name) for name in ("DEVNULL", "PIPE")}
    return types.SimpleNamespace(Popen=start, **names)


def test_a_subset_has_all_of_its_cells_and_in_order(predictions: nsa.Predictions) -> None:
    gain = np.arange(20, dtype=float)
    whole = dataclasses.replace(predictions, measures={"gain": gain})
    part = whole.subset([7, 2, 11])
    assert part.cells.ids.tolist() == whole.cells.ids[[7, 2, 11]].tolist()
    assert part.evidence == tuple(whole.evidence[i] for i in (7, 2, 11))
    assert part.measures["gain"].tolist() == [7, 2, 11]
    np.testing.assert_array_equal(part.states, whole.states[[7, 2, 11]])  # type: ignore[index]
    frame = whole.to_frame().iloc[[7, 2, 11]].reset_index(drop=True)
    assert part.to_frame().equals(frame)
    assert len(whole.subset([])) == 0
