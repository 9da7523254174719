"""``train``, ``cross-validate``, ``evaluate`` and ``slide`` with follow-up and numbers."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from typer.testing import CliRunner

from made_outcomes import cohort
from napari_sparseattn.bundle import load_bundle, save_bundle
from napari_sparseattn.card import CropSpec
from napari_sparseattn.cli import app as cli
from napari_sparseattn.features.encoders import load_encoder
from napari_sparseattn.training.loop.slides import encoder_spec
from slides_to_write import write_slide
from small_model import small_bundle
from small_span import small_risk_bundle, small_span_bundle


def run(*arguments: object, status: int = 0) -> str:
    result = CliRunner().invoke(cli.app, [str(a) for a in arguments], catch_exceptions=False)
    assert result.exit_code == status, result.output
    return result.stdout


def made(table: Path) -> tuple[object, ...]:
    return ("--features", table.parent / "features", "--encoder", "theirs", "--patch-um", 128)


@pytest.mark.slow
def test_follow_up_is_learned_cross_validated_and_evaluated(tmp_path: Path) -> None:
    table = cohort(tmp_path / "a", 20)
    out = tmp_path / "risk.safetensors"
    common = ("--kind", "span", "--device", "cpu", "--epochs", 1, "--outcome", "recurrence")
    said = json.loads(run("train", table, "--out", out, *common, *made(table), "--json"))
    assert said["target"]["kind"] == "hazards"
    assert said["target"]["unit"] == "months"
    card = load_bundle(out).card
    assert card.class_names == ("risk of recurrence",)
    assert card.target is not None
    assert 1 <= len(card.target.times) <= 4
    assert said["test"]["n_events"] is not None
    assert "figure" not in json.dumps(card.training.history)
    told = run("train", table, "--out", out, *common, *made(table), "--target", "cox")
    assert "C-index in training" in told
    assert "test: C-index" in told
    assert load_bundle(out).card.target.kind == "cox"  # type: ignore[union-attr]
    folder = tmp_path / "cv"
    said = run(
        "cross-validate", table, "--out", folder, *common, *made(table), "--folds", 3,
        "--intervals", 2,
    )  # fmt: skip
    assert "fold 1: C-index" in said
    assert "means over the folds, on 20 slides of 20 groups" in said
    kept = json.loads((folder / "validation.json").read_text())
    assert set(kept["per_fold"][0]) == {"c_index"}
    assert (folder / "predictions.csv").read_text().startswith("image,group,time,event,risk,fold")
    other = cohort(tmp_path / "b", 6, 1)
    predictions = tmp_path / "p.csv"
    given = ("--features", other.parent / "features", "--predictions", predictions)
    said = json.loads(run("evaluate", other, "--model", out, *given, "--device", "cpu", "--json"))
    assert said["n_groups"] == 6
    assert 0 <= said["c_index"] <= 1
    assert len(predictions.read_text().splitlines()) == 7
    (other.parent / "features" / "p3s0.h5").write_bytes(b"broken")
    said = run("evaluate", other, "--model", out, *given, "--device", "cpu")
    assert "on 5 patients" in said
    wrong = other.with_name("days.csv")
    wrong.write_text(other.read_text().replace("months", "days"))
    with pytest.raises(ValueError, match=r"in days, .* was trained in months"):
        run("evaluate", wrong, "--model", out, *given)


def test_numbers_are_learned(tmp_path: Path) -> None:
    table = cohort(tmp_path / "a", 12, number=True)
    out = tmp_path / "number.safetensors"
    asked = ("--kind", "span", "--device", "cpu", "--epochs", 1, *made(table))
    told = run("train", table, "--out", out, *asked, "--outcome", "Ki-67 index")
    assert "Pearson's correlation" in told
    assert "mean absolute error" in told
    card = load_bundle(out).card
    assert card.class_names == ("Ki-67 index",)
    assert "Gives a number: Ki-67 index, in %" in card.summary()


def test_a_slide_is_asked_for_its_risk(tmp_path: Path) -> None:
    spec = encoder_spec(load_encoder("stain-texture", "cpu"))
    crop = CropSpec(size=224, field_of_view_um=112.0)
    model = save_bundle(small_risk_bundle(encoder=spec, crop=crop), tmp_path / "m.safetensors").path
    write_slide(tmp_path / "one.tif", 0, dark=True)
    said = run("slide", tmp_path / "one.tif", "--model", model, "--out", tmp_path / "out")
    assert "Risk of recurrence above" in said
    assert "free of recurrence:" in said
    content = json.loads((tmp_path / "out" / "one.tif.json").read_text())
    assert content["estimate"]["name"] == "risk of recurrence"
    assert len(content["estimate"]["survival"]) == 3
    table = tmp_path / "table.csv"
    table.write_text("slide,time (months),event\none.tif,5,1\n")
    said = run("evaluate", table, "--model", model, "--device", "cpu")
    assert "C-index unknown, there is too little to compare" in said


def test_senseless_options_are_refused(tmp_path: Path) -> None:
    table = cohort(tmp_path / "a", 3)
    asked = ("train", table, "--out", tmp_path / "x.safetensors")
    with pytest.raises(ValueError, match="--target is of slides, and not of --kind"):
        run(*asked, "--target", "cox")
    span = (*asked, "--kind", "span", "--device", "cpu", *made(table))
    with pytest.raises(ValueError, match="target must be one of"):
        run(*span, "--target", "survival")
    with pytest.raises(ValueError, match="missing 'value'"):
        run(*span, "--target", "number")
    with pytest.raises(ValueError, match="of the patients had the event"):
        run(*span)
    classes = save_bundle(small_span_bundle(), tmp_path / "c.safetensors").path
    with pytest.raises(ValueError, match="give a folder of class folders"):
        run("evaluate", table, "--model", classes)
    with pytest.raises(ValueError, match="give the table"):
        run("evaluate", tmp_path, "--model", classes, "--features", tmp_path)


@pytest.mark.parametrize(
    ("verb", "words", "said"),
    [
        ("train", ("--encoder", "stain-texture"), "--encoder is of slides, and not of --kind"),
        ("train", ("--kind", "tnet", "--intervals", 4), "--intervals is of slides"),
        ("train", ("--kind", "span", "--size", 64), "--size is of images in class folders"),
        ("train", ("--kind", "span", "--wanted", "a"), "--wanted is of --kind span-regions"),
        ("train", ("--kind", "span", "--patch-um", 9), "--patch-um is for --features"),
        ("train", ("--kind", "span-regions", "--outcome", "x"), "--outcome is of --kind span"),
        ("cross-validate", ("--freeze", "head"), "--freeze is of fine-tuning"),
        ("cross-validate", ("--model", "a", "--size", 64), "--size is of training from nothing"),
        ("cross-validate", ("--kind", "span", "--channels", 3), "--channels is of images in"),
    ],
)
def test_options_of_another_kind_are_refused(
    tmp_path: Path, verb: str, words: tuple[object, ...], said: str
) -> None:
    table = cohort(tmp_path / "a", 3)
    out = tmp_path / ("x.safetensors" if verb == "train" else "out")
    with pytest.raises(ValueError, match=said):
        run(verb, table, "--out", out, *words)
    assert not out.exists()


def test_evaluate_refuses_what_its_model_does_not_use(tmp_path: Path) -> None:
    model = save_bundle(small_bundle(), tmp_path / "small.safetensors").path
    with pytest.raises(ValueError, match="--locations is of a TNet, which 'small' is not"):
        run("evaluate", tmp_path, "--model", model, "--locations", "4,2")
    with pytest.raises(ValueError, match="--store is of slides"):
        run("evaluate", tmp_path, "--model", model, "--store", tmp_path / "kept")
