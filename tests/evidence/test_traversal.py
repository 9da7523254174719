from __future__ import annotations

import dataclasses
import json

import numpy as np
import pytest

from napari_sparseattn.evidence.kinds import CropFrame
from napari_sparseattn.evidence.traversal import Traversal

#: 2 x 2 candidates of half the side; two of the root's taken, one of each of theirs.
ROOT = (0.0, 0.0, 64.0, 64.0)


def quarters(top: float, left: float, side: float) -> list[tuple[float, ...]]:
    half = side / 2
    return [(top + y * half, left + x * half, half, half) for y in (0, 1) for x in (0, 1)]


@pytest.fixture
def traversal() -> Traversal:
    first = quarters(0, 0, 64)
    searched = [first, quarters(*first[1][:3]), quarters(*first[2][:3])]
    boxes = np.array([ROOT, first[1], first[2], searched[1][0], searched[2][3]])
    chosen = np.array([[0, 1, 1, 0], [1, 0, 0, 0], [0, 0, 0, 1]], dtype=bool)
    return Traversal(
        shape=(64, 64),
        base=16,
        level=np.array([0, 1, 1, 2, 2]),
        rank=np.array([0, 1, 0, 0, 0]),
        parent=np.array([-1, 0, 0, 1, 2]),
        top=boxes[:, 0],
        left=boxes[:, 1],
        height=boxes[:, 2],
        width=boxes[:, 3],
        contribution=np.array([[1, 0], [0, 1], [0.5, 0], [0, 0.25], [1, 0]], dtype=np.float32),
        searched=np.array([0, 1, 2]),
        candidates=np.array(searched),
        relative_probability=np.where(chosen, 1.6, 0.8).astype(np.float32),
        chosen=chosen,
    )


def test_contributions_sum_to_logits(traversal: Traversal) -> None:
    assert traversal.logits.tolist() == [2.5, 1.25]
    assert traversal.crop_class.tolist() == [0, 1, 0, 1, 0]
    assert traversal.evidence_for(0).tolist() == [0.5, -0.5, 0.25, -0.125, 0.5]
    assert (len(traversal), traversal.n_levels) == (5, 3)
    assert traversal.downsample.tolist() == [4, 2, 2, 1, 1]


def test_the_way_to_a_crop(traversal: Traversal) -> None:
    assert traversal.ancestors(4) == [0, 2, 4]
    assert traversal.ancestors(0) == [0]


def test_finest_level_counts_places(traversal: Traversal) -> None:
    full = traversal.finest_level()
    assert full.shape == (64, 64)
    counts = np.bincount(full.ravel()) / 256
    assert counts.tolist() == [8, 6, 2]
    np.testing.assert_array_equal(traversal.finest_level(16), full[8::16, 8::16])
    assert traversal.finest_level(30).shape == (3, 3)
    with pytest.raises(ValueError, match="step"):
        traversal.finest_level(0)


def test_boxes_of_a_cell_lie_on_its_image(traversal: Traversal) -> None:
    np.testing.assert_array_equal(traversal.on_image(traversal.boxes), traversal.boxes)
    # A crop of 128 image pixels, centred on the corner of pixel (100, 200).
    cell = dataclasses.replace(traversal, frame=CropFrame(99.5, 199.5, 128.0, 64))
    assert cell.on_image(cell.boxes)[0].tolist() == [36, 136, 128, 128]
    assert cell.on_image(cell.boxes)[3].tolist() == [36, 200, 32, 32]


def test_to_dict_is_json(traversal: Traversal) -> None:
    told = json.loads(json.dumps(traversal.to_dict()))
    assert told["crops"][3]["box"] == [0, 32, 16, 16]
    assert told["searched"][0]["chosen"] == [1, 2]


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"parent": np.array([0, 0, 0, 1, 2])}, "root"),
        ({"parent": np.array([-1, 0, 3, 1, 2])}, "after its parent"),
        ({"rank": np.zeros(4, dtype=np.int64)}, "5 crops"),
        ({"contribution": np.zeros((4, 2), dtype=np.float32)}, "contributions"),
        ({"chosen": np.zeros((3, 4), dtype=bool)}, "chosen"),
        ({"candidates": np.zeros((3, 9, 4))}, "searched"),
    ],
)
def test_contradictions_are_refused(
    traversal: Traversal, change: dict[str, object], message: str
) -> None:
    with pytest.raises(ValueError, match=message):
        dataclasses.replace(traversal, **change)
