"""What all formats share: names, choice, order, and that nothing half stays."""

from __future__ import annotations

import codecs
import csv
import dataclasses
import importlib.util
import io
import json
from pathlib import Path
from typing import Any

import pandas as pd
import pytest

from napari_sparseattn.export import formats
from napari_sparseattn.export.formats import (
    FORMATS,
    MissingExtraError,
    check_formats,
    formats_for,
    write_results,
)
from napari_sparseattn.export.request import Export, kind_of
from napari_sparseattn.export.tables import as_text, write_csv

from . import results as made
from .conftest import KINDS, Write


def test_each_kind_of_result_has_its_formats() -> None:
    fitting = {kind: {each.name for each in formats_for(KINDS[kind][0]())} for kind in KINDS}
    every = set(FORMATS)
    planes = {"ome-zarr", "ome-zarr-0.4", "spatialdata", "dicom-annotations", "overlay"}
    assert fitting["cells"] == every - {"dicom-maps"}
    assert fitting["frames"] == every - planes - {"dicom-maps"}
    assert fitting["field"] == every - {"anndata", "coco"}
    assert fitting["slide"] == fitting["regions"] == every - {"coco"}
    # What refers to a DICOM slide is offered for none but those.
    here = {each.name for each in formats_for(made.slide(), made.slide_image())}
    assert fitting["slide"] - here == {"dicom-annotations", "dicom-maps"}
    assert kind_of("no result") is None
    assert kind_of({0: "no result"}) is None


@pytest.mark.parametrize("kind", KINDS)
def test_all_formats_are_written_and_nothing_else(tmp_path: Path, kind: str) -> None:
    make, image, card = KINDS[kind]
    names = [each.name for each in formats_for(make(), image())]
    told: list[tuple[str, int, int]] = []
    written = write_results(
        make(), image(), tmp_path / "new", "one", names, card(),
        progress=lambda *said: told.append(said),
    )  # fmt: skip
    assert set((tmp_path / "new").iterdir()) == set(written)
    assert [path.name for path in written if path.suffix == ".csv"] == ["one.csv"]
    assert {name for name, _, _ in told} == set(names)
    last = {name: (done, total) for name, done, total in told}
    assert all(done == total for done, total in last.values()), last


def test_writing_again_replaces(tmp_path: Path) -> None:
    names = [each.name for each in formats_for(made.cells(), made.field())]
    for _ in range(2):
        write_results(made.cells(), made.field(), tmp_path, "x", names, made.cell_card())
    assert len(list(tmp_path.iterdir())) == len(names) + 1  # the CSV has its provenance beside


@pytest.mark.parametrize(
    "name", [name for name, each in FORMATS.items() if name != "overlay" and not each.refuses]
)
def test_what_is_stopped_leaves_the_old_file(tmp_path: Path, name: str) -> None:
    class StopError(Exception):
        pass

    def stop(*_: Any) -> None:
        raise StopError

    old = FORMATS[name].path(tmp_path, "x")
    if "zarr" in old.name:
        old.mkdir()
        (old / "kept").write_text("old")
    else:
        old.write_text("old")
    evident = made.cells(evidence=True)
    with pytest.raises(StopError):
        write_results(evident, made.field(), tmp_path, "x", [name], made.cell_card(), progress=stop)
    assert (old / "kept" if old.is_dir() else old).read_text() == "old"
    assert list(tmp_path.iterdir()) == [old]


def test_nothing_is_written_if_a_format_cannot(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    arguments = (tmp_path, "x")
    with pytest.raises(ValueError, match=r"no format 'xls'; there are csv, "):
        write_results(made.cells(), made.field(), *arguments, ["csv", "xls"], made.cell_card())
    with pytest.raises(ValueError, match="'coco' cannot hold this result; these can: csv"):
        write_results(
            made.slide(), made.slide_image(), *arguments, ["csv", "coco"], made.slide_card()
        )
    with pytest.raises(ValueError, match=r"has left, middle, right; give the card"):
        write_results(made.cells(), made.field(), *arguments, ["csv"], made.field_card())
    with pytest.raises(ValueError, match="no frames"):
        write_results({}, made.field(), *arguments, ["csv"], made.cell_card())
    with pytest.raises(TypeError):
        Export(object(), made.field(), made.cell_card())  # type: ignore[arg-type]
    found = importlib.util.find_spec
    monkeypatch.setattr(
        formats.importlib.util, "find_spec", lambda name: None if name == "pyarrow" else found(name)
    )
    with pytest.raises(MissingExtraError, match=r'pip install "napari-sparseattn\[exports\]"'):
        write_results(made.cells(), made.field(), *arguments, ["csv", "parquet"], made.cell_card())
    assert not list(tmp_path.iterdir())
    assert [each.name for each in check_formats(["csv", "geojson", "csv"])] == ["csv", "geojson"]


def test_spreadsheets_read_csv_as_text(tmp_path: Path) -> None:
    names = ("=2+5", "-é", "@small")
    found = dataclasses.replace(made.cells(), class_names=names)
    write_csv(found, tmp_path / "cells.csv", model_name="+model")
    data = (tmp_path / "cells.csv").read_bytes()
    # The mark by which spreadsheets tell UTF-8 from the machine's own encoding.
    assert data.startswith(codecs.BOM_UTF8)
    table = pd.read_csv(tmp_path / "cells.csv")
    assert table["class"].dropna().tolist() == ["'=2+5", "'@small"]
    assert table["model"].str.startswith("'+model@").all()
    # Numbers stay numbers, negative ones too.
    assert table.select_dtypes("number").shape[1] > 5
    assert as_text(-1.5) == -1.5
    for row in csv.reader(io.StringIO(data.decode("utf-8-sig"))):
        assert not any(cell.startswith(("=", "@", "+", "-")) for cell in row)


def test_csv_has_the_rows_and_says_where_they_came_from(write: Write) -> None:
    path = write("frames", "csv")
    table = pd.read_csv(path)
    assert table["frame"].tolist() == [0, 0, 0, 2, 2, 2]
    # The order of label values, not of places.
    assert table["id"].tolist() == [2, 7, 40] * 2
    assert table["class"].fillna("").tolist() == ["round", "", "small"] * 2
    assert table["dry_mass_pg"].dropna().tolist() == [12.5, 30.25] * 2
    said = json.loads(path.with_name("frames.csv-metadata.json").read_text())
    assert [column["name"] for column in said["tableSchema"]["columns"]] == list(table)
    source = said["napari-sparseattn"]
    assert source["model"] == "small"
    assert source["model_hash"] == made.HASH
    assert source["image"] == "smear <1>"
    assert source["pixel_size_um"] == 0.5
    assert source["notes"] == ["a note"]
    assert source["seconds"] == 0.5


def test_csv_of_crops_adds_up_to_the_logits(write: Write) -> None:
    table = pd.read_csv(write("field", "csv"))
    logits = table[["logit_left", "logit_middle", "logit_right"]].sum()
    assert logits.tolist() == [3.5, 1.0, 1.0]
    assert table["parent"].tolist() == [-1, 0, 0, 2]
