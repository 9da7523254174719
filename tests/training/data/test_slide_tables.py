from __future__ import annotations

from pathlib import Path

import pytest

from napari_sparseattn.training.data.slide_tables import SlideTableError, read_slide_table


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    for name in ("a.svs", "b.svs", "c.tif", "d.tif", "twice.svs", "twice.tif"):
        (tmp_path / name).touch()
    return tmp_path


def write(folder: Path, text: str, encoding: str = "utf-8") -> Path:
    table = folder / "slides.csv"
    table.write_text(text, encoding=encoding)
    return table


@pytest.mark.parametrize("separator", [",", ";", "\t"])
def test_a_table_as_spreadsheets_write_it(folder: Path, separator: str) -> None:
    text = (
        f"Slide,Label,Group,Split\r\na.svs,tumour,p1,train\r\n{folder / 'b.svs'},benign,p2,train"
        "\r\n\r\nc, tumour ,p3,Val\r\nd,benign,p4,test\r\n"
    )
    table = read_slide_table(write(folder, text.replace(",", separator), "utf-8-sig"))
    assert table.class_names == ("benign", "tumour")
    assert [row.path.name for row in table.rows] == ["a.svs", "b.svs", "c.tif", "d.tif"]
    assert [table.label_of(row) for row in table.rows] == [1, 0, 1, 0]
    assert [row.group for row in table.rows] == ["p1", "p2", "p3", "p4"]
    assert [row.part for row in table.rows] == ["train", "train", "validation", "test"]
    assert [row.row for row in table.rows] == [2, 3, 5, 6]  # row 4 is blank


def test_only_what_is_needed_and_slides_elsewhere(folder: Path, tmp_path_factory) -> None:  # type: ignore[no-untyped-def]
    table = write(
        tmp_path_factory.mktemp("elsewhere"), 'label,slide\n"x, y",a\n"x, y",b\nz,c\nz,d\n'
    )
    read = read_slide_table(table, folder)
    assert read.class_names == ("x, y", "z")
    assert [row.group for row in read.rows] == ["a", "b", "c", "d"]
    assert {row.part for row in read.rows} == {None}


GOOD = "a,x\nb,x\nc,y\nd,y\n"


@pytest.mark.parametrize(
    ("text", "rows", "said"),
    [
        ("", [], "is empty"),
        ("slide,label\n", [], "lists no slide"),
        ("slide,label,colour\n" + GOOD, [1], "unknown 'colour'"),
        ("slide,group\na,b\n", [1], "missing 'label'"),
        ("slide,label,label\n", [1], "twice 'label'"),
        ("slide,label\n" + GOOD + "e.svs,y\n", [6], "row 6: no file"),
        ("slide,label\n" + GOOD + "sub/e,y\n", [6], "row 6: no file"),
        ("slide,label\n" + GOOD + "twice,y\n", [6], "twice.svs, twice.tif; give the ending"),
        ("slide,label\na,x\nb,\nc,\nd,y\n", [3, 4], "row 3: no label for b"),
        ("slide,label\n,x\n" + GOOD, [2], "row 2: no slide"),
        ("slide,label\n" + GOOD + "a.svs,x\n", [6], "already in row 2"),
        ("slide,label\na,x\nb,x\nc,y\n", [4], "class y is of a single group, c"),
        ("slide,label\na,x\nb,x\n", [], "all slides are of one class, x"),
        ("slide,label\na,x,1\n", [2], "3 cells under 2 columns"),
        (
            "slide,label,group,split\na,x,p,train\nb,x,q,test\nc,y,q,train\nd,y,r,test\n",
            [4],
            "for train here and for test in row 3",
        ),
        (
            "slide,label,split\na,x,train\nb,x,test\nc,y,\nd,y,test\n",
            [4],
            "no split, though other rows have one",
        ),
        ("slide,label,split\na,x,training\nb,x,later\n", [3], "'later' is none of"),
    ],
)
def test_what_is_wrong_is_said_with_its_rows(
    folder: Path, text: str, rows: list[int], said: str
) -> None:
    with pytest.raises(SlideTableError, match=r"slides\.csv") as caught:
        read_slide_table(write(folder, text))
    assert said in str(caught.value)
    assert caught.value.rows == tuple(rows)


def test_not_more_problems_than_fit_a_message(folder: Path) -> None:
    text = "slide,label\n" + "".join(f"no {i},x\n" for i in range(30))
    with pytest.raises(SlideTableError, match="30 problem") as caught:
        read_slide_table(write(folder, text))
    assert str(caught.value).count("no file") == 10
    assert "and 20 more" in str(caught.value)
    assert len(caught.value.rows) == 30


def test_a_slide_in_place_of_a_table(folder: Path) -> None:
    (folder / "a.svs").write_bytes(b"II*\x00\xff\xfe\x80")
    with pytest.raises(SlideTableError, match="no CSV table"):
        read_slide_table(folder / "a.svs")
