from __future__ import annotations

import numpy as np
import pytest

from napari_sparseattn.training.data.span_data import (
    AnnotatedRegion,
    SlideExample,
    augment_cells,
    patch_labels_of,
    split_slides,
)


def block(width: int = 30, height: int = 20, left: int = 7, top: int = 3) -> np.ndarray:
    y, x = np.mgrid[top : top + height, left : left + width]
    return np.stack([x.ravel(), y.ravel()], axis=1)


@pytest.mark.parametrize("seed", range(20))
def test_no_patch_is_lost_or_doubled_by_any_change(seed: int) -> None:
    cells = block()
    changed = augment_cells(cells, np.random.default_rng(seed))
    assert changed.shape == cells.shape
    assert changed.dtype == np.int64
    assert len(np.unique(changed, axis=0)) == len(cells)
    assert changed.min(0).tolist() == [0, 0]


def test_changes_follow_the_rotation_matrix_and_keep_neighbours() -> None:
    """The oracle is the best linear map from the old places to the new."""
    cells = block()
    angles, mirrored = [], []
    for seed in range(400):
        changed = augment_cells(cells, np.random.default_rng(seed)).astype(float)
        old, new = cells - cells.mean(0), changed - changed.mean(0)
        fitted = np.linalg.lstsq(old, new, rcond=None)[0]
        assert np.abs(new - old @ fitted).max() < 2  # cells from where the exact map puts them
        left, stretch, right = np.linalg.svd(fitted)
        assert stretch.max() < 1.13  # a shear of 10 degrees stretches by 1.09
        assert stretch.min() > 0.88
        turned = left @ right
        mirrored.append(np.linalg.det(turned) < 0)
        if mirrored[-1]:
            turned = np.diag([-1, 1]) @ turned
        angles.append(np.degrees(np.arctan2(turned[0, 1], turned[0, 0])))
    assert np.mean(mirrored) == pytest.approx(0.75, abs=0.08)
    quarters = np.bincount(np.rint(np.array(angles) / 90).astype(int) % 4, minlength=4)
    assert quarters.min() > 60
    beyond = np.abs((np.array(angles) + 45) % 90 - 45)
    assert beyond.max() < 38  # a turn of 30 degrees and what a shear adds
    assert (beyond > 15).mean() > 0.2


def test_strength_is_how_often() -> None:
    cells = block()
    still = cells - cells.min(0)

    def share(strength: float) -> float:
        changed = [
            augment_cells(cells, np.random.default_rng(seed), strength) for seed in range(200)
        ]
        return float(np.mean([not np.array_equal(each, still) for each in changed]))

    assert share(0) == 0
    assert share(0.2) == pytest.approx(1 - 0.85**3, abs=0.1)
    assert share(1) > 0.9


def test_patches_are_labelled_by_what_covers_most_of_them() -> None:
    cells = block(10, 8, 0, 0)
    step, side, origin = 100.0, 100.0, (50.0, 20.0)
    # Rows 2 to 5 and columns 3 to 6, and 60 % of column 7; all in level-0 (y, x).
    top, left, bottom, right = 250.0, 320.0, 650.0, 780.0
    tumour = AnnotatedRegion(
        np.array([[top, left], [top, right], [bottom, right], [bottom, left]]), 1
    )
    labels = patch_labels_of(cells, step=step, side=side, origin=origin, regions=[tumour])
    expected = [1 if 3 <= x <= 7 and 2 <= y <= 5 else -1 for x, y in cells.tolist()]
    assert labels.tolist() == expected
    assert labels.dtype == np.int8
    # Something else is drawn within it, on top.
    hole = AnnotatedRegion(np.array([[350.0, 420], [350, 520], [450, 520], [450, 420]]), 0)
    both = patch_labels_of(cells, step=step, side=side, origin=origin, regions=[tumour, hole])
    assert [cells[i].tolist() for i in np.flatnonzero(both == 0)] == [[4, 3]]
    assert (both == 1).sum() == (labels == 1).sum() - 1
    # Where all of it was outlined, the rest is known.
    rest = patch_labels_of(cells, step=step, side=side, origin=origin, regions=[tumour], outside=0)
    assert rest.tolist() == [max(0, each) for each in expected]


def test_half_a_patch_is_not_most_of_it() -> None:
    cells = np.array([[0, 0], [1, 0]])
    triangle = AnnotatedRegion(np.array([[0.0, 0], [0, 100], [100, 0]]), 1)
    strip = AnnotatedRegion(np.array([[0.0, 90], [0, 139], [100, 139], [100, 90]]), 1)
    for region in (triangle, strip):
        labels = patch_labels_of(cells, step=100, side=100, origin=(0, 0), regions=[region])
        assert labels[1] == -1
    with pytest.raises(ValueError, match="no polygon"):
        patch_labels_of(
            cells, step=1, side=1, origin=(0, 0), regions=[AnnotatedRegion(np.zeros((2, 2)), 1)]
        )


def slide(name: str, label: int | None, group: str = "") -> SlideExample:
    return SlideExample(
        np.zeros((1, 4), np.float32), np.zeros((1, 2), int), label, None, group, name
    )


@pytest.mark.parametrize("n", [3, 5, 20, 200])
def test_the_split_keeps_groups_together_and_every_class_in_every_part(n: int) -> None:
    slides = [
        slide(f"slide {i} {side}", i % 2, f"patient {i}") for i in range(2 * n) for side in "ab"
    ]
    parts = split_slides(slides)
    groups = {part: {each.group for each in own} for part, own in parts.items()}
    assert sum(map(len, parts.values())) == len(slides)
    assert sum(map(len, groups.values())) == len(set.union(*groups.values()))
    for own in parts.values():
        assert {each.label for each in own} == {0, 1}
    assert parts["train"][0].name == split_slides(slides[::-1])["train"][-1].name
    if n == 200:
        assert 0.7 < len(parts["train"]) / len(slides) < 0.9


def test_a_group_stays_where_it_is_when_others_come() -> None:
    slides = [slide(f"{i}", i % 2) for i in range(200)]
    before, after = split_slides(slides[:150]), split_slides(slides)
    for part in before:
        assert {each.name for each in before[part]} <= {each.name for each in after[part]}


def test_patients_with_slides_of_both_classes() -> None:
    slides = [slide(f"{i} {label}", label, f"{i}") for i in range(4) for label in (0, 1)]
    parts = split_slides(slides)
    assert sorted(len(own) for own in parts.values()) in ([2, 2, 4], [2, 3, 3])


def test_too_few_groups_to_split() -> None:
    slides = [slide(f"{i}", 0) for i in range(9)] + [slide("x", 1), slide("y", 1)]
    with pytest.raises(ValueError, match="class 1 are of 2 group"):
        split_slides(slides)


def test_examples_that_do_not_fit_together() -> None:
    with pytest.raises(ValueError, match="b: 2 features of 3 patches"):
        SlideExample(np.zeros((2, 4)), np.zeros((3, 2), int), name="b")
    with pytest.raises(ValueError, match="no patch"):
        SlideExample(np.zeros((0, 4)), np.zeros((0, 2), int))
    with pytest.raises(ValueError, match="2 patch labels of 3"):
        SlideExample(
            np.zeros((3, 4)), np.zeros((3, 2), int), patch_labels=np.zeros(2, np.int8), name="c"
        )
