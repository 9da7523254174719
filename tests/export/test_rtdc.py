"""Scores in a copy of an .rtdc file, as dclab reads them."""

from __future__ import annotations

import json
import re
from pathlib import Path

import h5py
import numpy as np
import pytest

from napari_sparseattn.export.rtdc import LOG, score_names, write_scores
from napari_sparseattn.images.errors import ImageError

N = 5
SCORES = {
    "monocyte": np.array([0.9, 0.2, 0.1, np.nan, 0.3]),
    "Lymphocyte": np.array([0.1, 0.8, 0.2, np.nan, 0.3]),
    "lymphoblast": np.array([0.0, 0.0, 0.7, np.nan, 0.4]),
}
ATTRIBUTES = {
    "experiment:event count": N,
    "experiment:sample": "simulated",
    "experiment:date": "2025-01-31",
    "experiment:time": "12:00:00",
    "experiment:run index": 1,
    "imaging:pixel size": 0.34,
    "imaging:roi size x": 20,
    "imaging:roi size y": 12,
    "setup:channel width": 30.0,
    "setup:medium": "CellCarrierB",
    "qpi:wavelength": 532.0,
}


@pytest.fixture
def source(tmp_path: Path) -> Path:
    path = tmp_path / "in.rtdc"
    with h5py.File(path, "w") as file:
        file.attrs.update(ATTRIBUTES)
        holograms = np.random.default_rng(0).integers(0, 256, (N, 12, 20)).astype(np.uint8)
        file.create_dataset("events/qpi_oah", data=holograms, chunks=(2, 12, 20))
        file["events/deform"] = np.linspace(0.01, 0.1, N)
        file["events/area_um"] = np.linspace(20, 100, N)
        file["events/trace/fl1_raw"] = np.ones((N, 9))
        file["logs/M1"] = np.array([b"measured"], dtype="S100")
    return path


def held(path: Path) -> dict[str, np.ndarray | dict]:
    """Return all that is in an HDF5 file, by place."""
    found: dict[str, np.ndarray | dict] = {}
    with h5py.File(path) as file:
        found["/"] = dict(file.attrs)
        file.visititems(
            lambda name, at: found.update({name: at[()] if hasattr(at, "dtype") else {}})
        )
    return found


@pytest.mark.parametrize(
    ("classes", "codes"),
    [
        (["red cell", "lymphocyte", "bead"], ["red", "lym", "bea"]),
        (["Lymphocyte", "lymphoblast", "LYM"], ["lym", "ly0", "ly1"]),
        (["T", "B-cell", "Ünknown", "ß", "9"], ["t00", "bce", "nkn", "000", "900"]),
        ([f"cell {i}" for i in range(99)], None),
    ],
)
def test_features_are_named_after_classes(classes, codes):
    names = score_names(classes)
    assert len(set(names)) == len(classes)
    # dclab.definitions.feat_logic.ML_SCORE_REGEX
    assert all(re.fullmatch(r"ml_score_[a-z0-9]{3}", name) for name in names)
    assert names == score_names(classes)
    if codes:
        assert [name.removeprefix("ml_score_") for name in names] == codes


@pytest.mark.parametrize("classes", [[], ["a", "a"]])
def test_classes_must_differ(classes):
    with pytest.raises(ValueError, match="must be different"):
        score_names(classes)


def test_the_copy_has_the_source_and_the_scores(source, tmp_path):
    before = source.read_bytes()
    out = tmp_path / "folder" / "out.rtdc"
    write_scores(source, out, SCORES, model="opd-simulated@0123456789ab")
    assert source.read_bytes() == before
    old, new = held(source), held(out)
    for place, value in old.items():
        if place != "/":
            np.testing.assert_array_equal(new[place], value, err_msg=place)
    assert str(new["/"]) == str(old["/"])
    added = {"events/ml_score_mon", "events/ml_score_lym", "events/ml_score_ly0", f"logs/{LOG}"}
    assert set(new) - set(old) == added
    np.testing.assert_array_equal(new["events/ml_score_ly0"], SCORES["lymphoblast"])
    record = json.loads(b"".join(new[f"logs/{LOG}"]))
    assert record["model"] == "opd-simulated@0123456789ab"
    assert record["classes"]["ml_score_ly0"] == "lymphoblast"
    assert [p.name for p in out.parent.iterdir()] == ["out.rtdc"]


def test_dclab_reads_scores_and_finds_nothing_new(source, tmp_path):
    dclab = pytest.importorskip("dclab")
    from dclab.rtdc_dataset.check import IntegrityChecker

    out = tmp_path / "out.rtdc"
    write_scores(source, out, SCORES, model="opd-simulated@0123456789ab")
    with dclab.new_dataset(out) as ds:
        np.testing.assert_array_equal(ds["ml_score_mon"][:], SCORES["monocyte"])
        # By the names of the features: ly0, lym, mon. No score is no class.
        np.testing.assert_array_equal(ds["ml_class"], [2, 1, 0, -1, 0])
        assert ds.logs[LOG][0] == "{"
        assert len(ds["qpi_oah"]) == N

    def cues(path: Path) -> set[str]:
        with IntegrityChecker(path) as checker:
            found = checker.check(expand_section=False)
        # How many data sets are compressed changes with their number.
        return {cue.msg for cue in found if not cue.msg.startswith("Compression")}

    assert cues(source)
    assert cues(out) == cues(source)


def test_files_of_dclab_itself_take_scores(tmp_path):
    dclab = pytest.importorskip("dclab")
    source, out = tmp_path / "in.rtdc", tmp_path / "out.rtdc"
    with dclab.RTDCWriter(source) as writer:
        writer.store_metadata({"imaging": {"pixel size": 0.34}, "qpi": {"wavelength": 532.0}})
        writer.store_feature("qpi_pha", np.ones((N, 8, 9), np.float32))
        writer.store_feature("deform", np.linspace(0, 1, N))
    write_scores(source, out, SCORES, model="m")
    with dclab.new_dataset(out) as ds:
        assert len(ds) == N
        np.testing.assert_array_equal(ds["ml_class"], [2, 1, 0, -1, 0])


def test_nothing_is_replaced_unless_asked_for(source, tmp_path):
    out, again = tmp_path / "out.rtdc", tmp_path / "again.rtdc"
    write_scores(source, out, SCORES, model="first")
    with h5py.File(out, "r+") as file:
        file["events/ml_class"] = np.zeros(N, np.uint32)
    content = out.read_bytes()
    with pytest.raises(FileExistsError, match="allow overwriting"):
        write_scores(source, out, SCORES, model="second")
    other = {"monocyte": np.zeros(N), "bead": np.ones(N)}
    with pytest.raises(ValueError, match="already has ml_class, ml_score_mon;"):
        write_scores(out, again, other, model="second")
    assert out.read_bytes() == content
    assert not again.exists()
    write_scores(out, again, other, model="second", overwrite=True)
    new = held(again)
    assert "events/ml_class" not in new
    np.testing.assert_array_equal(new["events/ml_score_mon"], 0)
    np.testing.assert_array_equal(new["events/ml_score_lym"], SCORES["Lymphocyte"])
    models = [json.loads(b"".join(new[f"logs/{name}"]))["model"] for name in (LOG, f"{LOG}-2")]
    assert models == ["first", "second"]


@pytest.mark.parametrize("name", ["in.rtdc", "link.rtdc"])
def test_the_measurement_is_never_written_to(source, name):
    (source.parent / "link.rtdc").symlink_to(source)
    before = source.read_bytes()
    with pytest.raises(ValueError, match="the measurement itself"):
        write_scores(source, source.parent / name, SCORES, model="m", overwrite=True)
    assert source.read_bytes() == before


@pytest.mark.parametrize(
    ("scores", "message"),
    [
        ({"a": np.ones(N + 1)}, r"shape \(6,\); there are 5 events"),
        ({"a": np.full(N, 1.1)}, "must be 0 to 1"),
        ({"a": np.full(N, -0.1)}, "must be 0 to 1"),
        ({"a": np.full(N, np.inf)}, "must be 0 to 1"),
        ({}, "at least one"),
    ],
)
def test_scores_are_checked(source, tmp_path, scores, message):
    with pytest.raises(ValueError, match=message):
        write_scores(source, tmp_path / "out.rtdc", scores, model="m")
    assert [p.name for p in tmp_path.iterdir()] == ["in.rtdc"]


def test_rounding_of_probabilities_is_no_error(source, tmp_path):
    write_scores(source, tmp_path / "out.rtdc", {"a": np.full(N, 1.0000001)}, model="m")
    assert held(tmp_path / "out.rtdc")["events/ml_score_a00"].max() == 1


@pytest.mark.parametrize("break_it", ["length", "count", "events", "linked logs", "not HDF5"])
def test_broken_sources_are_refused_and_leave_nothing(source, tmp_path, break_it):
    if break_it == "not HDF5":
        source.write_bytes(b"hello")
    else:
        with h5py.File(source, "r+") as file:
            if break_it == "length":
                file["events/index"] = np.arange(N - 1)
            elif break_it == "count":
                file.attrs["experiment:event count"] = N + 1
            elif break_it == "events":
                del file["events"]
            else:
                del file["logs"]
                file["logs"] = h5py.ExternalLink("other.rtdc", "logs")
    with pytest.raises(ImageError):
        write_scores(source, tmp_path / "out.rtdc", SCORES, model="m")
    assert [p.name for p in tmp_path.iterdir()] == ["in.rtdc"]


def test_a_missing_source_is_named(tmp_path):
    with pytest.raises(FileNotFoundError, match=r"in\.rtdc"):
        write_scores(tmp_path / "in.rtdc", tmp_path / "out.rtdc", SCORES, model="m")
