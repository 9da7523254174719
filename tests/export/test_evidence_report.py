"""Reports of evidence: JSON that programs read, a page that needs nothing beside it."""

from __future__ import annotations

import json
from html.parser import HTMLParser
from pathlib import Path

import numpy as np
import pytest

from napari_sparseattn.evidence.faithfulness import (
    Curves,
    Faithfulness,
    FaithfulnessOfSet,
    OrderScore,
)
from napari_sparseattn.export.evidence_report import EvidenceReport, write_evidence_report
from napari_sparseattn.inference.what_if import Answer, WhatIf


def faithful(gain: float, label: str = "round") -> Faithfulness:
    shares, middle = np.array([0.0, 0.5, 1.0]), np.array([0.9, 0.5, 0.1])
    move = np.array([0.0, gain, 0.0])
    orders = {
        name: OrderScore(Curves(shares, middle - g * move, middle[::-1] + g * move),
                         {"mean": np.array([g * gain])}, 0.5, 0.1)
        for name, g in (("selection", 1.0), ("random", 0.0))
    }  # fmt: skip
    return Faithfulness(
        label, 0.9, 0.15, ("selection",), orders, 0.4, {}, float("nan"), float("nan"),
        float("nan"), 12, 0.5,
    )  # fmt: skip


def asked() -> WhatIf:
    before = Answer(("round", "<lobed>"), np.array([2.0, 0.0]), np.array([0.9, 0.1]), None)
    after = Answer(("round", "<lobed>"), np.array([0.0, 1.0]), np.array([0.3, 0.7]), None)
    return WhatIf("remove", "mean", 0.2, before, after, float("nan"))


@pytest.fixture
def report() -> EvidenceReport:
    cells = FaithfulnessOfSet((7, 9), (faithful(0.2), faithful(0.4, "lobed")))
    return EvidenceReport("a & b", "blood", "0123456789abcdef", faithful(0.3), cells, (asked(),))


def test_json_holds_all_numbers_and_no_nan(report: EvidenceReport, tmp_path: Path) -> None:
    path = write_evidence_report(report, tmp_path / "r.json")

    def refuse(name: str) -> None:
        raise ValueError(name)

    found = json.loads(path.read_text(encoding="utf-8"), parse_constant=refuse)
    assert found["image"] == "a & b"
    assert found["answer"]["orders"]["selection"]["gain"] == pytest.approx(0.3)
    assert [each["id"] for each in found["cells"]["each"]] == [7, 9]
    assert found["what_ifs"][0]["after"]["class"] == "<lobed>"
    assert found["what_ifs"][0]["selection_overlap"] is None


class Page(HTMLParser):
    """Collects what a page shows, and what it would fetch."""

    def __init__(self) -> None:
        super().__init__()
        self.text, self.lines, self.fetched = "", 0, []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.lines += tag == "polyline"
        self.fetched += [value for name, value in attrs if name in ("src", "href")]

    def handle_data(self, data: str) -> None:
        self.text += data


def test_the_page_shows_verdicts_curves_and_what_ifs(
    report: EvidenceReport, tmp_path: Path
) -> None:
    page = Page()
    page.feed(write_evidence_report(report, tmp_path / "r.html").read_text(encoding="utf-8"))
    assert "Faithfulness: a & b" in page.text
    assert report.answer.verdict() in page.text
    assert report.what_ifs[0].summary() in page.text
    # Two plots of two orders.
    assert page.lines == 4
    assert page.fetched == []
    # The most faithful cell comes first.
    assert page.text.index("9lobed") < page.text.index("7round")


def test_nothing_and_other_endings_are_refused(report: EvidenceReport, tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="nothing"):
        write_evidence_report(EvidenceReport("a", "b", "c"), tmp_path / "r.json")
    with pytest.raises(ValueError, match=r"\.json or \.html"):
        write_evidence_report(report, tmp_path / "r.txt")
    assert list(tmp_path.iterdir()) == []
