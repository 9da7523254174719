"""Annotations: on disk at once, undone, shared, and whole after any crash."""

from __future__ import annotations

import dataclasses
import hashlib
import json
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest

from napari_sparseattn.card import CLASS_COLOURS
from napari_sparseattn.images.fields.field import Field
from napari_sparseattn.training.data.annotations import (
    Annotation,
    ImageAnnotations,
    ImageRecord,
    image_hash,
    new_annotation,
)
from napari_sparseattn.training.data.journal import JournalError
from napari_sparseattn.training.data.project import Project, ProjectError

HASH = "a" * 64


@pytest.fixture
def project(tmp_path: Path) -> Project:
    return Project(tmp_path / "project")


def opened(project: Project, image: str = HASH) -> ImageAnnotations:
    return project.open(ImageRecord(image, "smear.tif", (480, 640), 0.25, "/data/smear.tif"))


def test_what_was_annotated_is_there_again(project: Project) -> None:
    book = opened(project)
    cell = book.add("cell", "neutrophil", position=(10.5, 20.25), diameter_px=40.0)
    region = book.add("region", "tumour", polygon=((0.0, 0.0), (0.0, 9.0), (9.0, 9.0)))
    whole = book.add("image", "benign")
    fixed = book.add("cell", "monocyte", position=(0.0, 0.0), origin="corrected",
                     model="abc", predicted="neutrophil", t=3, z=1)  # fmt: skip
    book.close()
    again = opened(Project(project.folder))
    assert list(again) == [cell, region, whole, fixed]
    assert again.counts() == {"neutrophil": 1, "tumour": 1, "benign": 1, "monocyte": 1}
    assert again.message == ""
    assert region.centre == pytest.approx((3.0, 6.0))
    assert again[3].predicted == "neutrophil"
    again.close()
    (record,) = project.images()
    assert record == ImageRecord(HASH, "smear.tif", (480, 640), 0.25, "/data/smear.tif")


def test_undo_and_redo_reach_back_over_a_restart(project: Project) -> None:
    book = opened(project)
    seen: list[int] = []
    book.changed.connect(lambda changes: seen.append(len(changes)))
    first = book.add("cell", "a", position=(1, 1))
    book.put([new_annotation("cell", "b", position=(i, i)) for i in range(3)])
    book.relabel([item.id for item in book], "c")
    book.remove([first.id])
    assert [item.label for item in book] == ["c"] * 3
    assert seen == [1, 3, 4, 1]
    book.undo()
    book.close()
    book = opened(project)
    assert book.can_redo
    book.undo()
    assert sorted(item.label for item in book) == ["a", "b", "b", "b"]
    book.undo()
    book.undo()
    assert len(book) == 0
    assert not book.can_undo
    for _ in range(4):
        book.redo()
    assert [item.label for item in book] == ["c"] * 3
    book.add("cell", "d", position=(0, 0))
    assert not book.can_redo
    book.close()


def test_nothing_to_change_writes_nothing(project: Project) -> None:
    book = opened(project)
    cell = book.add("cell", "a", position=(1, 1))
    size = (project.folder / "images" / f"{HASH}.jsonl").stat().st_size
    book.put([cell])
    book.remove(["nothing"])
    assert (project.folder / "images" / f"{HASH}.jsonl").stat().st_size == size
    book.close()


def test_classes_keep_their_colours_and_order(project: Project) -> None:
    project.add_classes(["neutrophil", "mine"], {"neutrophil": "#123456"})
    assert project.classes() == {"neutrophil": "#123456", "mine": CLASS_COLOURS[0]}
    book = opened(project)
    book.add("cell", "new", position=(0, 0))
    assert list(book.classes()) == ["neutrophil", "mine", "new"]
    assert Project(project.folder).classes()["new"] == CLASS_COLOURS[1]
    project.rename_class("new", "newer")
    assert book[0].label == "newer"
    assert list(project.classes().items())[2] == ("newer", CLASS_COLOURS[1])
    with pytest.raises(ProjectError, match="there are annotations of this class"):
        project.set_classes({"mine": "#0072B2"})
    book.close()


def test_more_classes_than_colours_still_work(project: Project) -> None:
    classes = project.add_classes([f"class {i}" for i in range(40)])
    assert len(classes) == 40
    assert len(set(list(classes.values())[: len(CLASS_COLOURS)])) == len(CLASS_COLOURS)


_HOLDER = """
import sys
from napari_sparseattn.training.data.annotations import ImageRecord
from napari_sparseattn.training.data.project import Project
held = Project(sys.argv[1]).open(ImageRecord("a" * 64, "smear.tif", (480, 640)))
held.add("cell", "a", position=(1, 1))
print("ready", flush=True)
sys.stdin.readline()
held.add("cell", "a", position=(3, 3))
print("added", flush=True)
sys.stdin.readline()
"""


@pytest.fixture
def holder(project: Project) -> Iterator[subprocess.Popen[str]]:
    """Another program that has the annotations open."""
    process = subprocess.Popen(
        [sys.executable, "-c", _HOLDER, str(project.folder)],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
    )
    assert process.stdout is not None
    assert process.stdout.readline() == "ready\n"
    yield process
    process.kill()
    process.communicate()


def test_another_program_can_look_but_not_change(
    project: Project, holder: subprocess.Popen[str]
) -> None:
    assert holder.stdin is not None
    assert holder.stdout is not None
    second = opened(project)
    assert len(second) == 1
    assert not second.writable
    assert "Another program has the annotations of smear.tif open" in second.message
    with pytest.raises(JournalError, match=r"of smear\.tif are open in another") as said:
        second.add("cell", "b", position=(2, 2))
    assert HASH not in str(said.value)
    with pytest.raises(ProjectError, match=r"smear\.tif is open in another program"):
        project.rename_class("a", "b")
    assert len(second) == 1
    holder.stdin.write("\n")
    holder.stdin.flush()
    assert holder.stdout.readline() == "added\n"
    second.close()
    holder.kill()
    holder.wait()
    third = opened(project)
    assert third.writable
    assert len(third) == 2
    third.close()


def test_a_killed_program_locks_nobody_out(project: Project, holder: subprocess.Popen[str]) -> None:
    assert not opened(project).writable
    holder.kill()
    holder.wait()
    free = opened(project)
    assert free.writable
    free.add("cell", "b", position=(2, 2))
    free.close()


def test_two_windows_of_one_process_share_what_they_annotate(project: Project) -> None:
    first, second = opened(project), opened(Project(project.folder))
    assert first.writable
    assert second.writable
    seen: list[object] = []
    second.changed.connect(seen.append)
    cell = first.add("cell", "a", position=(1, 1))
    assert list(second) == [cell]
    assert len(seen) == 1
    first.close()
    second.relabel([cell.id], "b")
    second.close()
    third = opened(project)
    assert third.writable
    assert [item.label for item in third] == ["b"]
    third.close()


def test_who_forgets_to_close_locks_nobody_out(project: Project) -> None:
    opened(project).add("cell", "a", position=(1, 1))
    again = opened(project)
    assert again.writable
    again.undo()
    # Empty, and thus false: it is there all the same.
    assert not len(again)
    once_more = opened(project)
    assert once_more.writable
    once_more.add("cell", "b", position=(2, 2))
    assert len(again) == 1


@pytest.mark.parametrize("cut", [1, 5, 40])
def test_a_torn_end_is_put_aside_and_the_rest_is_read(project: Project, cut: int) -> None:
    book = opened(project)
    for i in range(5):
        book.add("cell", "a", position=(i, i))
    book.close()
    path = project.folder / "images" / f"{HASH}.jsonl"
    path.write_bytes(path.read_bytes()[:-cut])
    book = opened(project)
    # Losing only the line's end loses nothing but the line's end.
    assert len(book) == (5 if cut == 1 else 4)
    book.add("cell", "b", position=(9, 9))
    book.close()
    again = opened(project)
    assert len(again) == (6 if cut == 1 else 5)
    assert again.message == ""
    again.close()
    assert len(list(path.parent.glob("*.damaged-*"))) == 1


def test_a_flipped_bit_costs_one_change_and_is_told(project: Project) -> None:
    book = opened(project)
    for i in range(5):
        book.add("cell", "a", position=(i, i))
    book.close()
    path = project.folder / "images" / f"{HASH}.jsonl"
    data = bytearray(path.read_bytes())
    line = [i for i, b in enumerate(data) if b == ord("\n")][2]
    data[line + 60] ^= 1
    path.write_bytes(data)
    book = opened(project)
    assert len(book) == 4
    assert "damaged" in book.message
    (aside,) = path.parent.glob("*.damaged-*")
    assert aside.read_bytes() in bytes(data)
    book.close()


def test_a_long_history_is_cut_and_nothing_else(
    project: Project, monkeypatch: pytest.MonkeyPatch
) -> None:
    book = opened(project)
    cell = book.add("cell", "a", position=(0, 0))
    for i in range(600):
        book.put([dataclasses.replace(cell, position=(float(i), 0.0))])
    book.close()
    path = project.folder / "images" / f"{HASH}.jsonl"
    before = path.stat().st_size
    opened(project).close()
    assert path.stat().st_size < before / 100
    book = opened(project)
    assert [item.position for item in book] == [(599.0, 0.0)]
    book.close()


@pytest.mark.parametrize("room", [0, 10], ids=["no room", "room for a part"])
def test_a_change_that_cannot_be_written_is_not_made(project: Project, room: int) -> None:
    """A file that may not grow can be truncated and synced as on a full disk; /dev/full cannot."""
    resource = pytest.importorskip("resource", reason="limits are set otherwise on Windows")
    book = opened(project)
    book.add("cell", "a", position=(0, 0))
    path = project.folder / "images" / f"{HASH}.jsonl"
    before = path.read_bytes()
    limits = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (len(before) + room, limits[1]))
    try:
        with pytest.raises(JournalError, match="Free some space"):
            book.add("cell", "b", position=(0, 0))
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limits)
    assert [item.label for item in book] == ["a"]
    assert path.read_bytes() == before
    book.add("cell", "c", position=(0, 0))
    book.close()
    assert [item.label for item in opened(project)] == ["a", "c"]


def test_senseless_annotations_are_refused() -> None:
    for values in (
        {"kind": "cell"},
        {"kind": "cell", "position": (float("nan"), 0.0)},
        {"kind": "region", "polygon": ((0, 0), (1, 1))},
        {"kind": "thing"},
        {"kind": "image", "label": " "},
        {"kind": "cell", "position": (0, 0), "diameter_px": -1.0},
    ):
        with pytest.raises(ValueError, match=r".+"):
            Annotation(**{"id": "1", "label": "a", **values})


def test_a_damaged_list_of_classes_is_said_with_the_cure(project: Project) -> None:
    project.add_classes(["a"])
    for text in ("", "{", '{"format": 1}', "[]", '{"format": 1, "classes": [{"name": "a"}]}'):
        (project.folder / "project.json").write_text(text)
        with pytest.raises(ProjectError, match="is damaged"):
            Project(project.folder)
    (project.folder / "project.json").write_text(json.dumps({"format": 2}))
    with pytest.raises(ProjectError, match="newer version"):
        Project(project.folder)


def test_an_image_is_known_by_its_pixels() -> None:
    data = np.arange(4 * 6 * 3, dtype=np.uint8).reshape(4, 6, 3)
    one = Field.from_array(data, axes="YXC", name="a")
    assert image_hash(one) == image_hash(Field.from_array(data.copy(), axes="YXC", name="b"))
    other = data.copy()
    other[3, 5, 2] ^= 1
    assert image_hash(one) != image_hash(Field.from_array(other, axes="YXC"))
    assert image_hash(one) != image_hash(Field.from_array(data.reshape(6, 4, 3), axes="YXC"))


_VICTIM = """
import sys
from napari_sparseattn.training.data.annotations import ImageRecord
from napari_sparseattn.training.data.project import Project
book = Project(sys.argv[1]).open(ImageRecord("a" * 64, "smear", (9, 9)))
assert book.writable, book.message
start = len(book)
for i in range(100_000):
    made = book.add("cell", "abc"[i % 3], position=(float(i), 1.0))
    if i % 7 == 6:
        book.relabel([made.id], "d")
    print(made.id, len(book), flush=True)
"""


@pytest.mark.slow
@pytest.mark.skipif(not hasattr(signal, "SIGKILL"), reason="needs SIGKILL")
def test_killed_at_any_moment_nothing_that_was_told_is_lost(project: Project) -> None:
    rng, told = np.random.default_rng(1), set()
    for _ in range(4):
        victim = subprocess.Popen(
            [sys.executable, "-c", _VICTIM, str(project.folder)], stdout=subprocess.PIPE, text=True
        )
        assert victim.stdout is not None
        told.add(victim.stdout.readline().split()[0])
        time.sleep(rng.uniform(0, 0.2))
        victim.kill()
        lines = [line for line in victim.stdout if line.endswith("\n") and len(line.split()) == 2]
        told.update(line.split()[0] for line in lines)
        victim.wait()
        book = opened(project)
        assert book.writable
        assert told <= {item.id for item in book}
        # One more may have been written than could be told.
        assert len(book) <= len(told) + 4
        assert sum(book.counts().values()) == len(book)
        book.close()
    assert len(told) > 20


def line(entry: dict) -> bytes:
    """A line of a journal as another version of this plugin would write it."""
    body = json.dumps(entry).encode()
    return hashlib.sha256(body).hexdigest()[:16].encode() + b" " + body + b"\n"


def changed(**values: object) -> dict:
    whole = {"id": "x", "kind": "cell", "label": "a", "position": [1, 2], **values}
    return {"op": "do", "changes": [[None, whole]]}


@pytest.mark.parametrize(
    "entry",
    [
        changed(position=None),
        changed(label=3),
        changed(id=[1]),
        changed(t="x"),
        changed(z=0.5),
        changed(label="\ud800"),
        changed(position=[10**400, 1]),
        changed(diameter_px="wide"),
        {"op": "do", "changes": [["x", "y"]]},
        {"op": "do", "changes": [[None]]},
        {"op": "do", "changes": 3},
    ],
)
def test_changes_that_this_version_cannot_read_do_not_stop_the_others(
    project: Project, entry: dict
) -> None:
    book = opened(project)
    cell = book.add("cell", "round", position=(1.0, 2.0))
    book.close()
    (path,) = (project.folder / "images").glob("*.jsonl")
    # So many that a history without them would be cut.
    path.write_bytes(path.read_bytes() + 600 * line(entry))
    assert project.counts() == {"round": 1}
    book = opened(project)
    assert list(book) == [cell]
    assert "600 changes were made by a newer version" in book.message
    book.close()
    assert path.read_bytes().count(line(entry)) == 600


def test_a_record_of_another_image_does_not_stop_a_project(project: Project) -> None:
    book = opened(project)
    book.add("cell", "round", position=(1.0, 2.0))
    book.close()
    (path,) = (project.folder / "images").glob("*.jsonl")
    for image in ({"hash": "../../x", "name": "b"}, {"hash": HASH, "shape": [1e999, 1]}, [1], None):
        path.write_bytes(path.read_bytes() + line({"format": 1, "image": image}))
        assert [record.hash for record in project.images()] == [HASH]
        assert project.counts() == {"round": 1}


@pytest.mark.parametrize("text", [5000 * "9", 5000 * "[" + 5000 * "]", "[1]", '"\udc80"'])
def test_a_list_of_classes_that_python_cannot_read_is_said(project: Project, text: str) -> None:
    project.add_classes(["round"])
    (project.folder / "project.json").write_bytes(text.encode("utf-8", "surrogatepass"))
    with pytest.raises(ProjectError, match="is damaged"):
        Project(project.folder)


def test_a_torn_end_is_put_aside_beside_lines_that_this_version_would_not_write(
    project: Project,
) -> None:
    book = opened(project)
    cell = book.add("cell", "round", position=(1.0, 2.0))
    book.close()
    (path,) = (project.folder / "images").glob("*.jsonl")
    odd = line({"format": 9, "op": "later", "changes": [], "size": float("nan")})
    path.write_bytes(path.read_bytes() + odd + b"torn")
    book = opened(project)
    assert list(book) == [cell]
    assert "put aside" in book.message
    book.close()
    assert odd in path.read_bytes()
    assert b"torn" not in path.read_bytes()
