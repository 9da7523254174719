"""Several raters: opinions, what is one thing, agreement, merging, what is learned from."""

from __future__ import annotations

import dataclasses
import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from shapely.geometry import Polygon

from napari_sparseattn.training.data.agreement import (
    compare_raters,
    kappa_of_many,
    kappa_of_two,
)
from napari_sparseattn.training.data.annotations import (
    Annotation,
    ImageAnnotations,
    ImageRecord,
    new_annotation,
)
from napari_sparseattn.training.data.journal import Journal
from napari_sparseattn.training.data.merging import join_projects, merge_projects
from napari_sparseattn.training.data.project import Project, ProjectError, read_annotations
from napari_sparseattn.training.data.raters import gather_things, one_class_each, shared_part
from napari_sparseattn.training.data.rings import join_rings, split_rings

IMAGE = ImageRecord("a" * 16, "smear", (100, 200), 0.5, "")
SQUARE = ((0.0, 0.0), (0.0, 10.0), (10.0, 10.0), (10.0, 0.0))


def cell(label: str, rater: str, place: tuple[float, float], **values: Any) -> Annotation:
    return new_annotation("cell", label, position=place, rater=rater, **values)


@pytest.fixture
def project(tmp_path: Path) -> Project:
    return Project(tmp_path / "project")


@pytest.fixture
def book(project: Project) -> Any:
    found = project.open(IMAGE)
    yield found
    found.close()


# -- holes


def test_holes_hang_on_the_outline_and_come_off_again() -> None:
    outer = np.array([[0, 0], [0, 20], [20, 20], [20, 0]], float)
    triangle = np.array([[2, 2], [2, 5], [5, 5]], float)
    holes = [triangle, 2 * triangle + 5]
    ring = join_rings(outer, holes)
    back = split_rings(ring)
    assert len(back) == 3
    for each, was in zip(back, [outer, *holes], strict=True):
        assert Polygon(each).equals(Polygon(was))
    assert shared_part(ring, outer) == pytest.approx((400 - 4.5 - 18) / 400, abs=0.02)
    # The area by its corners leaves the holes out.
    y, x = ring.T
    assert abs(np.dot(y, np.roll(x, -1)) - np.dot(x, np.roll(y, -1))) / 2 == 400 - 4.5 - 18
    assert split_rings(outer)[0] is outer
    # Moved as a whole it is still one with holes; with one corner pulled it is an outline.
    assert len(split_rings(ring + 3.25)) == 3
    ring[len(ring) - 1] += 1
    assert len(split_rings(ring)) == 1


# -- opinions


def test_who_and_when_are_kept(book: ImageAnnotations, project: Project) -> None:
    book.rater = "anna"
    made = book.add("cell", "round", position=(1.0, 2.0))
    first = book.get(made.id)
    assert first is not None
    assert first.rater == "anna"
    book.relabel([made.id], "flat")
    second = book.get(made.id)
    assert second is not None
    assert (second.rater, second.label) == ("anna", "flat")
    assert second.time >= first.time
    book.put([new_annotation("cell", "round", position=(9.0, 9.0), origin="imported")])
    assert [item.rater for item in book] == ["anna", ""]
    ((_, kept),) = project.annotations()
    assert kept == tuple(book)


def test_projects_without_raters_open_and_take_them(tmp_path: Path) -> None:
    project = Project(tmp_path / "old")
    old = project.open(IMAGE)
    made = old.add("cell", "round", position=(1.0, 2.0))
    old.close()
    (line,) = (tmp_path / "old" / "images").glob("*.jsonl")
    assert b"rater" not in line.read_bytes()
    again = project.open(IMAGE)
    again.rater = "ben"
    assert [item.rater for item in again] == [""]
    # Nobody's: whoever gives it a class takes it over.
    again.relabel([made.id], "round")
    assert [(item.rater, item.label) for item in again] == [("ben", "round")]
    again.close()


def test_another_raters_class_is_not_overwritten(book: ImageAnnotations) -> None:
    book.rater = "anna"
    made = book.add("cell", "round", position=(1.0, 2.0))
    book.rater = "ben"
    book.relabel([made.id], "flat")
    assert [(x.rater, x.label, x.position) for x in book] == [
        ("anna", "round", (1.0, 2.0)), ("ben", "flat", (1.0, 2.0)),
    ]  # fmt: skip
    # Once more is a change of mind, and to say the same is an opinion too.
    book.relabel([made.id], "round")
    assert [(x.rater, x.label) for x in book] == [("anna", "round"), ("ben", "round")]
    book.undo()
    book.undo()
    assert [(x.rater, x.label) for x in book] == [("anna", "round")]
    # To move it is none.
    book.put([dataclasses.replace(book[0], position=(3.0, 4.0))])
    assert [(x.rater, x.position) for x in book] == [("anna", (3.0, 4.0))]


def test_renaming_a_class_keeps_who_gave_it(project: Project, book: ImageAnnotations) -> None:
    book.rater = "anna"
    book.add("cell", "round", position=(1.0, 2.0))
    when = book[0].time
    book.rater = "ben"
    project.rename_class("round", "disc")
    assert [(x.rater, x.label, x.time) for x in book] == [("anna", "disc", when)]


def test_a_change_too_long_for_a_line_is_one_change(tmp_path: Path) -> None:
    path = tmp_path / "long.jsonl"
    book = ImageAnnotations(Journal(path), IMAGE)
    # Long numbers: fewer of them make a long line.
    ring = tuple((i + 1 / 3, i % 7 + 1 / 7) for i in range(5_000))
    book.put([new_annotation("region", "a", polygon=ring) for _ in range(24)])
    book.put([new_annotation("cell", "a", position=(1.0, 1.0))])
    book.close()
    assert path.stat().st_size > 2**22
    assert len(read_annotations(path)) == 25
    again = ImageAnnotations(Journal(path), IMAGE)
    again.undo()
    again.undo()
    assert len(again) == 0
    again.redo()
    assert len(again) == 24
    again.close()
    assert len(read_annotations(path)) == 24


# -- what is one thing


def test_cells_are_one_by_their_place() -> None:
    items = [
        cell("a", "anna", (10.0, 10.0), diameter_px=20.0),
        cell("a", "anna", (10.0, 40.0), diameter_px=20.0),
        cell("b", "ben", (15.0, 15.0), diameter_px=20.0),  # 7.1 px away: within 8
        cell("b", "ben", (10.0, 49.0), diameter_px=20.0),  # 9 px: another
        cell("b", "ben", (10.0, 10.0), diameter_px=20.0, t=1),  # another frame
    ]
    things = gather_things(items)
    assert [[x.rater for x in thing.opinions] for thing in things] == [
        ["anna", "ben"], ["anna"], ["ben"], ["ben"],
    ]  # fmt: skip
    assert things[0].centre == (12.5, 12.5)
    assert [len(t.opinions) for t in gather_things(items, distance=9.5)] == [2, 2, 1]
    assert [len(t.opinions) for t in gather_things(items, distance=1)] == [1] * 5


def test_the_nearer_cell_is_the_one() -> None:
    items = [
        cell("a", "anna", (0.0, 0.0), diameter_px=20.0),
        cell("a", "anna", (0.0, 6.0), diameter_px=20.0),
        cell("b", "ben", (0.0, 5.0), diameter_px=20.0),
        cell("c", "ben", (0.0, 7.5), diameter_px=20.0),
    ]
    found = [tuple(x.position[1] for x in t.opinions if x.position) for t in gather_things(items)]
    # 5 to 6 is nearest; what is left of each rater is 7.5 px apart, within 8.
    assert found == [(0.0, 7.5), (6.0, 5.0)]


def test_regions_are_one_by_what_they_share() -> None:
    def region(rater: str, shift: float) -> Annotation:
        corners = tuple((y, x + shift) for y, x in SQUARE)
        return new_annotation("region", "a", polygon=corners, rater=rater)

    # 8 of 12 is shared, and 6 of 14.
    assert [len(t.opinions) for t in gather_things([region("anna", 0), region("ben", 2)])] == [2]
    assert [len(t.opinions) for t in gather_things([region("anna", 0), region("ben", 4)])] == [1, 1]


def test_which_class_counts() -> None:
    where = (5.0, 5.0)
    anna, ben = cell("a", "anna", where, time=30.0), cell("b", "ben", where, time=20.0)
    carl = cell("b", "carl", where, time=10.0)
    assert one_class_each([anna, ben]) == (anna,)  # the latest
    assert one_class_each([anna, ben, carl]) == (ben,)  # most
    (thing,) = gather_things([anna, ben, carl])
    decision = thing.settle("c", "dora")
    assert (decision.rater, decision.settles) == ("dora", (anna.id, ben.id, carl.id))
    assert one_class_each([anna, ben, carl, decision]) == (decision,)
    (settled,) = gather_things([anna, ben, carl, decision])
    assert (settled.rule, settled.disputed) == ("settled", True)
    # A second decision takes the place of the first.
    assert settled.settle("a", "emil").id == decision.id
    # One rater's alone stay as they are, even in the same place.
    alone = (anna, cell("b", "anna", where))
    assert one_class_each(alone) == alone


def test_a_decision_finds_its_cell_by_place_too() -> None:
    anna, ben = cell("a", "anna", (5.0, 5.0)), cell("b", "ben", (5.0, 6.0))
    (thing,) = gather_things([anna, ben])
    decision = dataclasses.replace(thing.settle("b", "dora"), settles=("gone",))
    assert one_class_each([anna, ben, decision]) == (decision,)
    assert one_class_each([decision]) == (decision,)


# -- agreement, against printed results of others


def test_cohens_kappa_is_that_of_sas() -> None:
    # Printed by SAS PROC FREQ, as kept in statsmodels' tests: kappa, lower, upper.
    for table, wanted in (
        ([[0, 0, 0], [5, 16, 3], [8, 12, 28]], (0.3333, 0.1738, 0.4929)),
        ([[0, 4, 1], [0, 8, 0], [0, 1, 5]], (0.4842, 0.2137, 0.7547)),
    ):
        kappa = kappa_of_two(np.array(table))
        np.testing.assert_allclose((kappa.value, kappa.low, kappa.high), wanted, atol=6e-5)
        assert kappa.n == np.sum(table)


def test_fleiss_kappa_is_that_which_was_published() -> None:
    # Fleiss (1971) as on Wikipedia: ten things, fourteen raters; and two raters, two classes.
    fleiss = [
        [0, 0, 0, 0, 14], [0, 2, 6, 4, 2], [0, 0, 3, 5, 6], [0, 3, 9, 2, 0], [2, 2, 8, 1, 1],
        [7, 7, 0, 0, 0], [3, 2, 6, 3, 0], [2, 5, 3, 2, 2], [6, 5, 2, 1, 0], [0, 2, 2, 3, 7],
    ]  # fmt: skip
    assert kappa_of_many(np.array(fleiss)).value == pytest.approx(0.210, abs=5e-4)
    # statsmodels' other example: 0.708333.
    assert kappa_of_many(np.array([[6, 1], [0, 7]])).value == pytest.approx(0.708333, abs=6e-6)


def test_kappa_at_its_ends() -> None:
    same = kappa_of_two(np.diag([5, 5]))
    assert same.value == 1
    assert same.low is not None
    # Ten of ten: by Wilson at least 72 % agree, of which 50 % by chance.
    assert same.low == pytest.approx((0.7225 - 0.5) / 0.5, abs=1e-3)
    assert kappa_of_two(np.array([[7]])).value is None
    assert kappa_of_two(np.zeros((2, 2), np.int64)).n == 0
    # Nobody is counted who rated something alone.
    assert kappa_of_many(np.array([[1, 0], [0, 1], [2, 0], [0, 2]])).n == 2


def test_agreement_of_two_and_three() -> None:
    items = []
    for number, said in enumerate(("aa", "aa", "ab", "bb", "bb", "ba", "cc")):
        for rater, label in zip(("anna", "ben"), said, strict=True):
            items.append(cell(label, rater, (5.0, 20.0 * number)))
    items.append(cell("a", "ben", (50.0, 50.0)))
    (found,) = compare_raters([(IMAGE, items)])
    assert (found.kind, found.raters, found.disputed) == ("cell", ("anna", "ben"), 2)
    assert found.alone == {"anna": 0, "ben": 1}
    assert found.overall == kappa_of_two(np.array([[2, 1, 0], [1, 2, 0], [0, 0, 1]]))
    assert found.classes["c"].value == 1
    assert found.classes["a"] == kappa_of_two(np.array([[2, 1], [1, 3]]))
    assert found.pairs == {}
    items.append(cell("a", "carl", (5.0, 1.0)))
    (three,) = compare_raters([(IMAGE, items)])
    counts = [[3, 0, 0], [2, 0, 0], [1, 1, 0], [0, 2, 0], [0, 2, 0], [1, 1, 0], [0, 0, 2]]
    assert three.overall == kappa_of_many(np.array(counts))
    assert three.pairs["anna", "ben"].value == found.overall.value
    assert three.pairs["anna", "carl"].n == 1
    json.dumps([found.to_dict(), three.to_dict()], allow_nan=False)


# -- merging


def make(folder: Path, rater: str, said: dict[tuple[float, float], str]) -> Project:
    project = Project(folder)
    book = project.open(IMAGE)
    book.rater = rater
    for place, label in said.items():
        book.add("cell", label, position=place, diameter_px=10.0)
    book.close()
    return project


def test_projects_merge_and_keep_who_said_what(tmp_path: Path) -> None:
    make(tmp_path / "A", "anna", {(5.0, 5.0): "Round", (5.0, 50.0): "flat"})
    make(tmp_path / "B", "", {(5.0, 6.0): "round", (5.0, 50.0): "tall"})
    before = [sorted((tmp_path / name).rglob("*")) for name in "AB"]
    merged = merge_projects([tmp_path / "A", tmp_path / "B"], tmp_path / "C")
    assert (merged.n_annotations, merged.raters, merged.shared) == (4, ("B", "anna"), 1)
    # 'round' and 'Round' are one class.
    assert list(merged.classes) == ["Round", "flat", "tall"]
    (found,) = compare_raters(Project(tmp_path / "C").annotations())
    assert (found.overall.n, found.disputed) == (2, 1)
    assert [sorted((tmp_path / name).rglob("*")) for name in "AB"] == before
    with pytest.raises(ProjectError, match="is there already"):
        merge_projects([tmp_path / "A", tmp_path / "B"], tmp_path / "C")
    with pytest.raises(ProjectError, match="There is no folder"):
        merge_projects([tmp_path / "A", tmp_path / "nothing"], tmp_path / "D")
    # What is merged once more adds nothing.
    again = merge_projects([tmp_path / "C", tmp_path / "A", tmp_path / "B"], tmp_path / "D")
    assert again.n_annotations == 4


def test_copies_of_a_project_are_not_two_opinions(tmp_path: Path) -> None:
    first = make(tmp_path / "A", "", {(5.0, 5.0): "round", (5.0, 50.0): "flat"})
    ((record, items),) = first.annotations()
    copy = Project(tmp_path / "B")
    book = copy.open(record)
    book.put(items)
    book.relabel([items[0].id], "tall")
    book.close()
    merged = join_projects([first, copy])
    (own,) = merged.images.values()
    assert sorted((x.rater, x.label) for x in own) == [("A", "flat"), ("A", "round"), ("B", "tall")]
    # Of one person's two copies the later counts.
    merged = join_projects([first, copy], ["anna", "anna"])
    (own,) = merged.images.values()
    assert sorted((x.rater, x.label) for x in own) == [("anna", "flat"), ("anna", "tall")]
    with pytest.raises(ValueError, match="give one for each"):
        join_projects([first, copy], ["anna"])


def test_training_sees_one_class_of_each(tmp_path: Path) -> None:
    make(tmp_path / "A", "anna", {(5.0, 5.0): "round", (5.0, 50.0): "flat"})
    make(tmp_path / "B", "ben", {(5.0, 5.0): "flat", (5.0, 50.0): "flat"})
    merge_projects([tmp_path / "A", tmp_path / "B"], tmp_path / "C")
    ((_, all_),) = Project(tmp_path / "C").annotations()
    ((_, learned),) = Project(tmp_path / "C").labelled()
    assert (len(all_), len(learned)) == (4, 2)
    assert [item.label for item in learned] == ["flat", "flat"]  # ben's is the later word
