"""Tables of follow-up and of numbers: what they give, and what is wrong with them."""

from __future__ import annotations

from pathlib import Path

import pytest

from napari_sparseattn.training.data.slide_tables import SlideTableError, read_slide_table


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    for name in "abcdef":
        (tmp_path / f"{name}.svs").touch()
    return tmp_path


def write(folder: Path, text: str) -> Path:
    path = folder / "table.csv"
    path.write_text(text, encoding="utf-8")
    return path


FOLLOW_UP = """slide,time (months),event,group
a,12.5,1,p1
b,12.5,1,p1
c,60,0,p2
d,3,1,p3
e,7,1,p4
f,30,0,p5
"""


def test_follow_up_is_read_with_its_unit(folder: Path) -> None:
    table = read_slide_table(write(folder, FOLLOW_UP))
    assert table.kind.name == "hazards"
    assert table.unit == "months"
    assert table.class_names == ()
    assert [row.outcome for row in table.rows] == [
        (12.5, 1), (12.5, 1), (60, 0), (3, 1), (7, 1), (30, 0)
    ]  # fmt: skip
    # Two patients were censored: too few for each part of a split to have one.
    assert [table.label_of(row) for row in table.rows] == [1] * 6
    assert read_slide_table(write(folder, FOLLOW_UP), target="cox").kind.name == "cox"
    spread = FOLLOW_UP.replace("7,1,p4", "7,0,p4")
    table = read_slide_table(write(folder, spread))
    assert [table.label_of(row) for row in table.rows] == [0] * 6
    more = spread.replace("b,12.5,1,p1", "b,12.6,1,p6").replace("f,30,0", "f,30,0")
    table = read_slide_table(write(folder, more))
    assert [table.label_of(row) for row in table.rows] == [1, 1, 0, 1, 0, 0]


def test_numbers_are_read_with_decimal_commas(folder: Path) -> None:
    text = "slide;Value [%]\na;1,5\nb;20\nc;30\nd;40\ne;50\nf;60\n"
    table = read_slide_table(write(folder, text))
    assert (table.kind.name, table.unit) == ("number", "%")
    assert [row.outcome for row in table.rows] == [(1.5,), (20,), (30,), (40,), (50,), (60,)]
    assert len({table.label_of(row) for row in table.rows}) == 1
    assert table.rows[0].group == "a"


@pytest.mark.parametrize(
    ("change", "said", "rows"),
    [
        (("60,0", "-60,0"), "row 4: time -60 is negative", (4,)),
        (("60,0", "soon,0"), "row 4: time 'soon' is no number", (4,)),
        (("60,0", "12 months,0"), "leave units to the head of the column", (4,)),
        (("60,0", "inf,0"), "row 4: time 'inf' is no number", (4,)),
        (("60,0", "60,2"), "row 4: event 2 is neither 1 .* nor 0 .censored", (4,)),
        (("60,0", "60,yes"), "row 4: event 'yes' is no number", (4,)),
        (("60,0", "60,"), "row 4: no event for c", (4,)),
        (("60,0", ",0"), "row 4: no time for c", (4,)),
        (
            ("b,12.5,1", "b,13,1"),
            "row 3: group p1 has time 13, event 1 here and time 12.5, event 1 in row 2",
            (3,),
        ),
        (("c,60", "missing,60"), "row 4: no file missing in", (4,)),
        (("time (months)", "months"), "unknown 'months'; missing 'time'", (1,)),
        (("event", "label"), "unknown 'time'. .*In place of label: time and event", (1,)),
    ],
)
def test_what_is_wrong_with_follow_up_is_said_with_its_row(
    folder: Path, change: tuple[str, str], said: str, rows: tuple[int, ...]
) -> None:
    target = "hazards" if change[1] == "months" else None
    with pytest.raises(SlideTableError, match=said) as caught:
        read_slide_table(write(folder, FOLLOW_UP.replace(*change)), target=target)
    assert caught.value.rows == rows


def test_nobody_with_the_event_or_one_number_teaches_nothing(folder: Path) -> None:
    with pytest.raises(SlideTableError, match="event is 0 in all rows"):
        read_slide_table(write(folder, FOLLOW_UP.replace(",1,", ",0,")))
    with pytest.raises(SlideTableError, match="value is 3 in all rows"):
        read_slide_table(write(folder, "slide,value\na,3\nb,3\n"))


def test_a_target_that_the_table_does_not_state_is_refused(folder: Path) -> None:
    with pytest.raises(SlideTableError, match="missing 'label'"):
        read_slide_table(write(folder, FOLLOW_UP), target="classes")
    with pytest.raises(ValueError, match="target must be one of classes, number, hazards, cox"):
        read_slide_table(write(folder, FOLLOW_UP), target="survival")
