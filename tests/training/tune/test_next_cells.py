"""Which cells are asked about next: doubted by a model that has learned, unlike the annotated."""

from __future__ import annotations

import numpy as np

from napari_sparseattn.training.tune.next_cells import rank_cells
from small_model import knowing, small_bundle

BUNDLE = small_bundle()
NAMES = BUNDLE.card.class_names
WIDTH = BUNDLE.cell_model().head.in_features


def states_of(groups: np.ndarray) -> np.ndarray:
    """States (N, D) that lie apart where the group is another."""
    rng = np.random.default_rng(0)
    middles = 4 * np.random.default_rng(1).normal(size=(groups.max() + 1, WIDTH))
    return (middles[groups] + 0.1 * rng.normal(size=(len(groups), WIDTH))).astype(np.float32)


def test_of_cells_doubted_alike_those_unlike_the_annotated_come_first() -> None:
    groups = np.repeat([0, 1, 2], 10)
    probabilities = np.full((30, 3), 1 / 3)
    found = rank_cells(
        probabilities, NAMES, np.arange(1, 30), 4, states=states_of(groups),
        annotated=np.array([0]), labels=[NAMES[0]],
    )  # fmt: skip
    assert set(groups[found.rows[:2]]) == {1, 2}
    assert "unlike the cells that have a class" in found.why[0]
    assert "unlike" not in rank_cells(probabilities, NAMES, np.arange(30), 1).why[0]


def test_the_model_learns_from_the_annotated_before_it_is_asked() -> None:
    # Two groups that the model as it is takes for one, of which the annotations say otherwise.
    groups = np.repeat([0, 1, 2], 10)
    states = states_of(groups)
    probabilities = np.tile([0.98, 0.01, 0.01], (30, 1))
    annotated = np.array([0, 1, 10, 11])
    labels = [NAMES[0], NAMES[0], NAMES[1], NAMES[1]]
    rows = np.setdiff1d(np.arange(30), annotated)
    found = rank_cells(
        probabilities, NAMES, rows, 3, states=states, annotated=annotated, labels=labels,
        bundle=BUNDLE,
    )  # fmt: skip
    assert groups[found.rows[0]] == 2
    assert found.why[0].startswith("the model, having learned from your 4 cells, ")
    assert len(set(found.rows)) == 3
    # A class of the user's, and a model that keeps states of its own.
    told = rank_cells(
        probabilities, NAMES, rows, 3, states=states, annotated=annotated,
        labels=[*labels[:3], "blast"], bundle=knowing(BUNDLE, 1.0),
    )  # fmt: skip
    assert len(told.rows) == 3


def test_states_that_are_not_the_heads_serve_distances_alone() -> None:
    groups = np.repeat([0, 1], 5)
    states = states_of(groups)[:, :3]
    found = rank_cells(
        np.full((10, 3), 1 / 3), NAMES, np.arange(1, 10), 2, states=states,
        annotated=np.array([0]), labels=[NAMES[0]], bundle=BUNDLE,
    )  # fmt: skip
    assert groups[found.rows[0]] == 1
    assert found.why[0].startswith("the model wavers")


def test_a_sure_model_is_said_to_be_sure_and_nothing_is_no_error() -> None:
    found = rank_cells(np.array([[0.95, 0.03, 0.02]]), NAMES, np.arange(1), 4)
    assert found.why == (f"the model says {NAMES[0]} 95 %",)
    assert len(rank_cells(np.empty((0, 3)), NAMES, np.arange(0), 4).rows) == 0
