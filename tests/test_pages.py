"""Pages from templates: names are shown as they are, and what is missing is an error."""

from __future__ import annotations

from html.parser import HTMLParser
from pathlib import Path

import jinja2
import pytest

import napari_sparseattn
from napari_sparseattn import pages
from napari_sparseattn.pages import render

PACKAGE = Path(napari_sparseattn.__file__).parent
NAMES = ("CD8<dim>", "<2 µm", "it's", 'a "b" & c')


class Text(HTMLParser):
    """Collects what a reader sees."""

    def __init__(self, page: str) -> None:
        super().__init__()
        self.cells: list[str] = []
        self.feed(page)

    def handle_data(self, data: str) -> None:
        self.cells.append(data.strip())


@pytest.mark.parametrize("name", NAMES)
def test_names_in_html_are_read_as_they_were_written(name: str) -> None:
    shown = Text(render("base.html", title=name)).cells
    assert name in shown


def test_a_value_that_is_not_given_is_an_error() -> None:
    with pytest.raises(jinja2.UndefinedError, match="title"):
        render("base.html")


def test_every_template_can_be_parsed() -> None:
    names = [path.name for path in (PACKAGE / "templates").iterdir()]
    assert names
    for name in names:
        pages._environment().get_template(name)
