"""The table of what slides are asked for: every part that a row names is there."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from napari_sparseattn.card import TargetSpec
from napari_sparseattn.metrics import FIGURE_TITLES
from napari_sparseattn.targets import TARGETS, TargetKind, target_of_columns


@pytest.mark.parametrize("kind", TARGETS.values(), ids=list(TARGETS))
def test_every_part_of_a_row_is_there(kind: TargetKind) -> None:
    assert kind.figures[0] in FIGURE_TITLES
    outcomes = np.array([[1.0, 1.0], [2.0, 0.0], [3.0, 1.0]])[:, : len(kind.columns)]
    assert kind.strata(outcomes).shape == (3,)
    if kind.classes:
        with pytest.raises(ValueError, match="no objective"):
            kind.load_objective()
        with pytest.raises(TypeError, match="no single score"):
            kind.score(torch.zeros(2))
        return
    times = (1.0, 2.0) if kind.by_intervals else ()
    target = TargetSpec(kind=kind.name, times=times)  # type: ignore[arg-type]
    objective = kind.load_objective()(target)
    assert objective.figure == kind.figures[0]
    outputs = torch.zeros(3, target.n_outputs)
    assert target.score(outputs).shape == (3,)
    loss = objective.loss(outputs, torch.from_numpy(outcomes).float())
    assert loss.shape == ()


def test_columns_tell_the_kind() -> None:
    assert target_of_columns(["slide", "label"]).name == "classes"
    assert target_of_columns(["slide", "event", "time"]).name == "hazards"
    assert target_of_columns(["slide", "value"]).name == "number"
    assert target_of_columns(["slide", "event", "time"], "cox").name == "cox"
    with pytest.raises(ValueError, match="target must be one of"):
        target_of_columns([], "risk")


def test_strata_of_few_patients_join_others() -> None:
    kind = TARGETS["cox"]
    outcomes = np.array([[1.0, 1], [2, 1], [3, 0], [4, 0], [5, 0], [6, 1]])
    groups = list("aabcde")
    # The three with an event are two patients.
    assert kind.assign_strata(outcomes, groups).tolist() == [0] * 6
    assert kind.assign_strata(outcomes, list("abcdef")).tolist() == [1, 1, 0, 0, 0, 1]
