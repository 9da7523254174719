"""The HTML report: well-formed, nothing fetched, the numbers of the result."""

from __future__ import annotations

import base64
import html.parser
import io
import re
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from napari_sparseattn.images.fields.cells import cells_from_points
from napari_sparseattn.images.fields.field import Field
from napari_sparseattn.inference.prediction import Predictions

from . import results as made
from .conftest import KINDS, Write

_VOID = {"meta", "img", "br"}


class Page(html.parser.HTMLParser):
    """Checks that elements are closed in order, and collects what is in them."""

    def __init__(self, path: Path) -> None:
        super().__init__()
        self.open: list[str] = []
        self.seen: list[tuple[str, dict[str, Any]]] = []
        self.text: list[str] = []
        self.feed(path.read_text(encoding="utf-8"))
        self.close()
        assert self.open == []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.seen.append((tag, dict(attrs)))
        if tag not in _VOID:
            self.open.append(tag)

    def handle_endtag(self, tag: str) -> None:
        assert self.open.pop() == tag

    def handle_data(self, data: str) -> None:
        self.text.append(data)

    def pictures(self) -> list[Image.Image]:
        sources = [attributes["src"] for tag, attributes in self.seen if tag == "img"]
        return [
            Image.open(io.BytesIO(base64.b64decode(source.removeprefix("data:image/jpeg;base64,"))))
            for source in sources
        ]


@pytest.mark.parametrize("kind", KINDS)
def test_pages_are_whole_and_fetch_nothing(write: Write, kind: str) -> None:
    path = write(kind, "html")
    page = Page(path)
    for tag, attributes in page.seen:
        assert tag not in {"script", "link", "iframe", "object", "embed"}
        for name in ("src", "href", "action", "srcset"):
            assert str(attributes.get(name, "data:")).startswith("data:")
    text = path.read_text(encoding="utf-8")
    assert not re.search(r"(https?:)?//\w|url\(|@import", re.sub(r"base64,[\w+/=]+", "", text))
    assert all(picture.size > (0, 0) for picture in page.pictures())
    said = "".join(page.text)
    assert made.HASH in said
    assert "a note" in said
    assert "prefers-color-scheme:dark" in text
    assert path.stat().st_size < 2**20


def test_counts_and_close_ups_of_cells(write: Write) -> None:
    page = Page(write("cells", "html", made.cells(evidence=True)))
    said = " ".join(page.text)
    assert "3 cells" in said
    assert "1 of 3 cells could not be classified" in said
    assert "smear <1>" in said  # escaped, so that it is text
    assert "round 1 50.0 %" in re.sub(r"\s+", " ", said)
    overview, *close_ups = page.pictures()
    assert overview.size == (60, 40)
    assert [picture.size for picture in close_ups] == [(112, 112)] * 2
    assert "cell 40" in said


def test_selected_pixels_are_tinted_where_they_were_selected(write: Write) -> None:
    """Of 4 x 4 crop pixels, 5 and 6 are in the second row, in the middle two columns."""
    grey = Field.from_array(
        np.full((40, 60, 3), 128, np.uint8), axes="YXC", pixel_size=0.5, modality="brightfield"
    )
    page = Page(write("cells", "html", made.cells(evidence=True), image=grey))
    close_up = np.asarray(page.pictures()[1]).astype(int)  # of the class "round", #0072B2
    blue = close_up[..., 2] - close_up[..., 0] > 20
    rows, columns = np.nonzero(blue)
    assert abs(rows.min() - 28) <= 2
    assert abs(rows.max() - 55) <= 2
    assert abs(columns.min() - 28) <= 2
    assert abs(columns.max() - 83) <= 2
    # The pixel that got three quarters of the attention more than the other.
    assert close_up[42, 42, 0] < close_up[42, 70, 0] - 10


def test_a_page_of_many_cells_stays_small(write: Write) -> None:
    rng = np.random.default_rng(0)
    n = 5000
    found = cells_from_points(rng.uniform(0, 1, (n, 2)) * (999, 1199), (1000, 1200), diameter=9)
    chances = rng.dirichlet((1, 1, 1), n).astype(np.float32)
    many = Predictions(found, made.cell_card().class_names, chances, (), made.LEDGER, made.HASH)
    image = Field.from_array(
        rng.integers(0, 255, (1000, 1200, 3), dtype=np.uint8), axes="YXC", modality="brightfield"
    )
    path = write("cells", "html", many, image=image)
    page = Page(path)
    assert len(page.pictures()) == 1 + 120
    assert path.stat().st_size < 3 * 2**20
    assert "pixel size unknown" in "".join(page.text)


def test_fields_and_slides(write: Write) -> None:
    said = " ".join(Page(write("field", "html")).text)
    assert "left, 60%" in said
    assert "+1.000" in said  # what the last crop says for the class
    said = " ".join(Page(write("slide", "html")).text)
    assert "tumour, 75%" in said
    assert "2 × uniform" in said
    said = " ".join(Page(write("regions", "html")).text)
    assert "tumour in 50.0 % of the patches" in said
