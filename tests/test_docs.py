"""The documentation says what the program says: pictures, labels, messages, notebooks."""

from __future__ import annotations

import ast
import functools
import json
import re
from collections.abc import Iterator
from pathlib import Path

import pytest
from PIL import Image

ROOT = Path(__file__).resolve().parent.parent
DOCS = ROOT / "docs"
PICTURES = DOCS / "pictures"
PAGES = [ROOT / "README.md", *sorted(DOCS.rglob("*.md"))]
TUTORIALS = sorted((DOCS / "tutorials").glob("*.md"))
#: All of them together, and the moving one, so that a clone and the index's page stay quick.
MOST_BYTES, MOST_MOVING = 6_000_000, 1_500_000
#: Labels of napari's own, and of other programs.
NOT_OURS = {"Plugins"}


@functools.cache
def texts() -> frozenset[str]:
    """Return every text in the source, with … for what is filled in."""
    found: list[str] = []
    for file in sorted((ROOT / "src").rglob("*.py")):
        found += _texts_of(ast.parse(file.read_text(encoding="utf-8")))
    manifest = (ROOT / "napari.yaml").read_text(encoding="utf-8")
    found += re.findall(r"(?:title|_name): \"?(.+?)\"?$", manifest, flags=re.M)
    return frozenset(text.replace("\n", " ").replace("{}", "…").strip() for text in found)


def _texts_of(tree: ast.AST) -> Iterator[str]:
    for node in ast.walk(tree):
        if isinstance(node, ast.Constant) and isinstance(node.value, str):
            yield node.value
        elif isinstance(node, ast.JoinedStr):
            yield "".join(
                part.value if isinstance(part, ast.Constant) else "…" for part in node.values
            )


def pictures_on(page: Path) -> list[str]:
    text = page.read_text(encoding="utf-8")
    return re.findall(r"!\[[^\]]+\]\([^)]*pictures/([^)]+)\)", text)


def literal(name: str) -> dict[str, tuple[str, ...]]:
    """Return a table of the script that takes the pictures, without running it."""
    tree = ast.parse((ROOT / "scripts" / "screenshots.py").read_text(encoding="utf-8"))
    for node in tree.body:
        if isinstance(node, ast.Assign) and ast.unparse(node.targets[0]) == name:
            value: dict[str, tuple[str, ...]] = ast.literal_eval(node.value)
            return value
    raise LookupError(name)


# -- pictures


def test_each_picture_that_a_page_shows_is_there() -> None:
    missing = [
        f"{page.name}: {name}"
        for page in PAGES
        for name in pictures_on(page)
        if not (PICTURES / name).is_file()
    ]
    assert not missing


def test_each_picture_is_shown_somewhere() -> None:
    shown = {name for page in PAGES for name in pictures_on(page)}
    assert {path.name for path in PICTURES.iterdir()} == shown


def test_each_picture_is_made_by_a_scene_and_each_scene_is_there() -> None:
    scenes = literal("SCENES")
    taken = [name for names in scenes.values() for name in names]
    assert len(taken) == len(set(taken))
    assert {path.name for path in PICTURES.iterdir()} == {*taken, *literal("MADE_ELSEWHERE")}
    tree = ast.parse((ROOT / "scripts" / "screenshots.py").read_text(encoding="utf-8"))
    assert set(scenes) <= {node.name for node in tree.body if isinstance(node, ast.FunctionDef)}


def test_pictures_are_small() -> None:
    assert sum(path.stat().st_size for path in PICTURES.iterdir()) < MOST_BYTES
    with Image.open(PICTURES / "click.gif") as moving:
        seconds = 0.0
        for frame in range(moving.n_frames):
            moving.seek(frame)
            seconds += moving.info["duration"] / 1000
        assert moving.n_frames > 10
        assert 6 <= seconds <= 15
    assert (PICTURES / "click.gif").stat().st_size < MOST_MOVING
    for path in PICTURES.glob("*.png"):
        with Image.open(path) as picture:
            assert picture.width <= 1400, path.name
            assert picture.height <= 900, path.name


def test_guides_of_the_window_have_pictures() -> None:
    wanted = [
        *("cells", "slides", "span", "annotate", "train_window", "what_if", "batch"),
        *("holography", "evidence", "exports"),
    ]
    bare = [name for name in wanted if not pictures_on(DOCS / f"{name}.md")]
    assert not bare
    assert len(TUTORIALS) == 6
    assert all(len(pictures_on(page)) >= 2 for page in TUTORIALS)


# -- words


def test_the_readme_is_short_and_says_first_what_to_press() -> None:
    lines = (ROOT / "README.md").read_text(encoding="utf-8").splitlines()
    assert len(lines) < 150
    headings = [line for line in lines if line.startswith("## ")]
    assert headings[0] == "## What do I press?"
    # On the package index there is no folder beside it.
    assert not re.findall(r"\]\((?!https://)[^)]+\)", "\n".join(lines))


@pytest.mark.parametrize("page", [*TUTORIALS, DOCS / "window.md"], ids=lambda page: page.stem)
def test_tutorials_name_buttons_as_the_window_does(page: Path) -> None:
    text = re.sub(r"```.*?```", "", page.read_text(encoding="utf-8"), flags=re.S)
    text = re.sub(r"\*\*.+?\*\*", "", text, flags=re.S)
    labels = {
        part.strip().rstrip(":")
        for found in re.findall(r"(?<![*\w])\*([^*]+?)\*(?![*\w])", text, flags=re.S)
        for part in " ".join(found.split()).split("→")
    }
    unknown = [label for label in sorted(labels - NOT_OURS) if not _is_label(label)]
    assert labels
    assert not unknown, f"{page.name} names what the window does not show: {unknown}"


def test_messages_that_are_explained_are_still_said() -> None:
    page = (DOCS / "faq.md").read_text(encoding="utf-8")
    quoted = re.findall(r"^### “(.+)”$", page, flags=re.M)
    assert len(quoted) >= 25
    assert not [message for message in quoted if not _is_said(message)]


def _is_label(label: str) -> bool:
    """Whether the source has this text: alone, before its key in brackets, or filled in."""
    return any(
        text.replace("&", "") == label
        or text.startswith(f"{label} (")
        # The buttons of the docks that show all cells.
        or text == f"{label} of cells"
        # Not a text that is hardly more than what is filled in: it would fit anything.
        or (
            "…" in text.rstrip("…")
            and len(text.replace("…", "")) > 8
            and _pattern(text).fullmatch(label)
        )
        for text in texts()
    )


def _is_said(message: str) -> bool:
    """Whether a text of the source holds this one, with anything in place of each …."""
    wanted = _pattern(message.strip("… "))
    return any(wanted.search(text) for text in texts())


def _pattern(text: str) -> re.Pattern[str]:
    return re.compile(".*?".join(re.escape(part) for part in text.split("…")))


# -- notebooks

NOTEBOOKS = {"smear", "hologram", "slide", "train", "evidence"}


def test_there_is_a_notebook_for_each_task() -> None:
    assert {path.stem for path in (ROOT / "examples").glob("*.ipynb")} == NOTEBOOKS


@pytest.mark.parametrize(
    "name",
    [
        "smear",
        *(pytest.param(name, marks=pytest.mark.slow) for name in sorted(NOTEBOOKS - {"smear"})),
    ],
)
def test_notebooks_run(name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    text = (ROOT / "examples" / f"{name}.ipynb").read_text(encoding="utf-8")
    book = json.loads(text)
    assert book["nbformat"] == 4
    assert len(text) < 20_000
    cells = [cell for cell in book["cells"] if cell["cell_type"] == "code"]
    # Outputs hold paths and times of whoever ran it last.
    assert not any(cell["outputs"] or cell["execution_count"] for cell in cells)
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("NAPARI_SPARSEATTN_CACHE", str(tmp_path / "cache"))
    names: dict[str, object] = {}
    for number, cell in enumerate(cells, start=1):
        code = compile("".join(cell["source"]), f"{name}.ipynb, cell {number}", "exec")
        exec(code, names)
