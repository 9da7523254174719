"""Fine-tuning without a window: what is said before, training in its process, what is kept."""

from __future__ import annotations

import csv
import datetime as dt
import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from napari.components import ViewerModel
from napari.layers import Image

from napari_sparseattn.bundle import find_bundles, load_bundle, save_bundle
from napari_sparseattn.plugin.core import models
from napari_sparseattn.plugin.core.lanes import AtOnce, Lanes
from napari_sparseattn.plugin.core.models import prepare_model
from napari_sparseattn.plugin.session import Session
from napari_sparseattn.plugin.train.session import FineTuning
from napari_sparseattn.plugin.train.validation_box import ValidationBox
from napari_sparseattn.training.data.annotations import new_annotation
from napari_sparseattn.training.data.split import held_out
from napari_sparseattn.training.runs.reports import read_report, report_from_dict
from napari_sparseattn.training.runs.requests import (
    Epoch,
)
from napari_sparseattn.training.runs.runs import (
    discard,
    interrupted_run,
    new_run_folder,
    read_epochs,
    report_path,
    versions,
)
from small_model import small_bundle

from ..made_slides import keep_features_in, span_model, tissue_pixels

#: Pixels between cells: those of neighbouring blocks do not show each other.
PITCH = 32
ROWS, COLUMNS = 10, 12


def field() -> tuple[np.ndarray[Any, np.dtype[np.uint8]], list[tuple[float, float]], list[str]]:
    """Violet disks and rings on a grid: the picture, the cells' places and kinds."""
    rng = np.random.default_rng(0)
    image = np.full((ROWS * PITCH, COLUMNS * PITCH, 3), (225, 220, 215), dtype=float)
    y, x = np.indices((PITCH, PITCH)) - (PITCH - 1) / 2
    distance = np.hypot(y, x)
    centres, kinds = [], []
    for row in range(ROWS):
        for column in range(COLUMNS):
            ring = bool(rng.random() < 0.5)
            inside = (distance < 6) & (distance > 3) if ring else distance < 6
            tile = image[row * PITCH : (row + 1) * PITCH, column * PITCH : (column + 1) * PITCH]
            tile[inside] = (95, 60, 150)
            centres.append((row * PITCH + (PITCH - 1) / 2, column * PITCH + (PITCH - 1) / 2))
            kinds.append("ring" if ring else "disk")
    return (image + rng.normal(0, 3, image.shape)).clip(0, 255).astype(np.uint8), centres, kinds


@pytest.fixture
def folders(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A user's models with one small one, and a project."""
    monkeypatch.setenv("NAPARI_SPARSEATTN_MODELS", str(tmp_path / "models"))
    monkeypatch.setenv("NAPARI_SPARSEATTN_ANNOTATIONS", str(tmp_path / "project"))
    save_bundle(small_bundle(), tmp_path / "models" / "small.safetensors")
    return tmp_path


@pytest.fixture
def tuning(viewer: ViewerModel, folders: Path) -> Iterator[FineTuning]:
    session = Session.of(viewer)
    tuning = FineTuning.of(viewer)
    Lanes.of(viewer).runner = AtOnce()
    tuning.annotating.attach()
    tuning.attach()
    session.selection.set_model(prepare_model(str(folders / "models" / "small.safetensors"), "cpu"))
    tuning.set_choices(seconds=0.1)
    yield tuning
    tuning.detach()
    tuning.annotating.detach()


def add_field(viewer: ViewerModel) -> Image:
    return viewer.add_image(
        field()[0], rgb=True, name="field", scale=(0.5, 0.5), units=("um", "um")
    )


def annotate(tuning: FineTuning, layer: Image, rows: range | None = None) -> None:
    """Give cells their kinds, as one change."""
    _, centres, kinds = field()
    annotating = tuning.annotating
    annotating.targets.annotate_cell(centres[0], kinds[0], diameter=12.0)
    book = annotating.files.annotations(layer)
    assert book is not None
    some = rows if rows is not None else range(1, len(centres))
    book.put(new_annotation("cell", kinds[i], position=centres[i], diameter_px=12.0) for i in some)


def test_too_little_is_said_before_training(tuning: FineTuning, viewer: ViewerModel) -> None:
    layer = add_field(viewer)
    assert not tuning.survey.enough
    assert "Nothing is annotated yet" in tuning.survey.text
    assert tuning.start() is None
    annotate(tuning, layer, range(1, 4))
    assert tuning.survey.enough
    assert tuning.survey.text.startswith("4 annotated cells")
    assert any("annotate at least 10" in hint for hint in tuning.survey.hints)


def test_what_is_said_before_is_what_is_held_out(tuning: FineTuning, viewer: ViewerModel) -> None:
    from napari_sparseattn.training.data.annotated import cut_cells, plan_cells

    layer = add_field(viewer)
    annotate(tuning, layer)
    project, card = tuning.annotating.classes.project, tuning.session.selection.model.bundle.card
    planned = plan_cells(list(project.annotations()), card)
    cut = cut_cells(project, tuning.annotating.files.opener(), card).data
    assert (
        dict(zip(cut.names, held_out(cut), strict=True)).items()
        <= dict(zip(planned.names, held_out(planned), strict=True)).items()
    )


@pytest.mark.slow
def test_train_report_use_and_go_to_a_cell(
    tuning: FineTuning, viewer: ViewerModel, folders: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    session = tuning.session
    layer = add_field(viewer)
    annotate(tuning, layer)
    old = session.selection.model
    tuning.start()
    assert tuning.state == "idle"
    report, prepared = tuning.outcome.report, tuning.prepared
    assert report is not None
    assert prepared is not None
    assert [epoch.epoch for epoch in tuning.epochs] == [1, 2]
    assert tuning.epochs[-1].watched.shape == (6, 38)
    assert set(prepared.pictures) == {cell.id for cell in report.cells}
    assert report.class_names == ("round", "lobed", "small", *_new(report))
    assert set(_new(report)) == {"disk", "ring"}

    # Nothing changes until the user says so.
    assert tuning.outcome.to_decide
    assert session.selection.model is old
    today = dt.datetime.now().astimezone().date().isoformat()
    name = f"small-tuned-{today}-1"
    assert [version.name for version in tuning.outcome.versions()] == [name]
    assert read_report(report_path(tuning.outcome.trained.path)).to_dict() == report.to_dict()

    tuning.outcome.save_report(folders / "report.html")
    assert json.loads((folders / "report.json").read_text())["sentence"] == report.sentence
    assert "</html>" in (folders / "report.html").read_text()

    # A held-out cell is found again, and brought to the middle.
    cell = report.cells[0]
    wrong = tuning.outcome.held_out_cells(cell.label, cell.after)
    assert cell in wrong
    assert [c.probability for c in wrong] == sorted((c.probability for c in wrong), reverse=True)
    tuning.outcome.go_to(cell)
    book = tuning.annotating.files.annotations(layer)
    position = book.get(cell.id).position
    np.testing.assert_allclose(viewer.scene.camera.center[-2:], np.array(position) / 2)

    tuning.outcome.use()
    assert session.selection.model.bundle.card.name == name
    assert session.selection.model_is_chosen
    assert not tuning.outcome.to_decide
    card = load_bundle(name).card
    assert card.class_names == report.class_names
    assert (
        dict(zip(card.class_names, card.colours, strict=True)) == tuning.annotating.classes.colours
    )
    assert interrupted_run(tuning.annotating.classes.project.folder) is None

    # After a restart it is the one to begin with.
    monkeypatch.setattr(models, "find_bundles", find_bundles)
    again = ViewerModel()
    Lanes.of(again).runner = AtOnce()
    Session.of(again).attach()
    Session.of(again).start()
    assert Session.of(again).selection.card.name == name
    Session.of(again).detach()


@pytest.mark.slow
def test_a_training_whose_dock_is_closed_is_resumed(
    tuning: FineTuning, viewer: ViewerModel, folders: Path
) -> None:
    layer = add_field(viewer)
    annotate(tuning, layer)
    epochs: list[Epoch] = []

    def close_the_dock(epoch: Epoch) -> None:
        epochs.append(epoch)
        if len(epochs) == 1:
            tuning.detach()

    tuning.epoch_added.connect(close_the_dock)
    tuning.start()
    assert tuning.outcome.report is None
    assert tuning.state == "idle"
    tuning.attach()
    run = tuning.interrupted
    assert run is not None
    assert run.epochs_done == 1
    assert "interrupted after 1 epoch. " in tuning.session.status.message.text
    assert not versions()
    # What is annotated meanwhile has no part in it.
    tuning.annotating.targets.annotate_cell((5.0, 5.0), "ring")
    tuning.resume_interrupted()
    report = tuning.outcome.report
    assert report is not None
    assert [epoch.epoch for epoch in epochs] == [1, 2]
    assert [epoch.epoch for epoch in tuning.epochs] == [1, 2]
    assert any("after epoch 1" in note for note in report.notes)
    assert tuning.outcome.trained.path.stem == run.name
    assert tuning.interrupted is None


@pytest.mark.slow
def test_slides_teach_a_span(
    tuning: FineTuning, viewer: ViewerModel, folders: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    keep_features_in(monkeypatch, folders / "cache")
    path = folders / "models" / "span.safetensors"
    save_bundle(span_model().bundle, path)
    tuning.session.selection.set_model(prepare_model(str(path), "cpu"))
    assert "No slide has a class" in tuning.survey.text
    pixels = tissue_pixels()
    for i in range(6):
        # Each a piece of its own of the tissue.
        piece = np.ascontiguousarray(pixels[100 * i : 100 * i + 700, 300:1000])
        tuning.session.selection.set_image(
            viewer.add_image(piece, rgb=True, name=f"s{i}", scale=(1, 1), units=("um", "um"))
        )
        tuning.annotating.targets.annotate_image("odd" if i % 2 else "benign")
    assert tuning.survey.text.startswith("6 annotated slides of 2 classes")
    tuning.start()
    report = tuning.outcome.report
    assert report is not None, tuning.session.status.message.text
    assert report.class_names == ("benign", "tumour", "odd")
    assert {cell.id for cell in report.cells} <= {f"s{i}" for i in range(6)}
    assert load_bundle(tuning.outcome.trained.path).card.kind == "span-mil"
    tuning.outcome.go_to(report.cells[0])
    assert tuning.session.selection.image.name == report.cells[0].id


def test_a_cancelled_training_changes_nothing(tuning: FineTuning, viewer: ViewerModel) -> None:
    layer = add_field(viewer)
    annotate(tuning, layer)
    tuning.state_changed.connect(lambda state: tuning.cancel() if state == "preparing" else None)
    tuning.start()
    assert tuning.outcome.report is None
    assert not versions()
    assert "Cancelled before anything was learned" in tuning.session.status.message.text


def test_names_count_up_and_keep_their_base(folders: Path) -> None:
    project, day = folders / "project", dt.date(2026, 11, 21)
    first = new_run_folder(project, "blood-cells", day)
    assert first.name == "blood-cells-tuned-2026-11-21-1"
    assert new_run_folder(project, first.name, day).name == "blood-cells-tuned-2026-11-21-2"
    save_bundle(small_bundle(), folders / "models" / "blood-cells-tuned-2026-11-21-3.safetensors")
    again = new_run_folder(project, "blood-cells", day)
    assert again.name == "blood-cells-tuned-2026-11-21-4"
    assert [v.name for v in versions("blood-cells")] == ["blood-cells-tuned-2026-11-21-3"]
    assert versions("other") == []
    discard(project)
    assert not again.exists()


def test_epochs_that_a_kill_has_cut_are_left_out(folders: Path) -> None:
    run = new_run_folder(folders / "project", "small")
    whole = json.dumps({"epoch": 1, "epochs": 3, "loss": 0.5, "watched": [[1, 2]], "more": 1})
    (run / "epochs.jsonl").write_text(f'{whole}\n{{"epoch": 2, "ep')
    (epoch,) = read_epochs(run)
    assert (epoch.epoch, epoch.loss) == (1, 0.5)
    assert epoch.watched.tolist() == [[1, 2]]


def test_a_report_that_is_none_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "x.report.json"
    path.write_text('{"report": {"verdict": "better"}}')
    with pytest.raises(ValueError, match="no report that can be read"):
        read_report(path)
    with pytest.raises(KeyError):
        report_from_dict({})


def _new(report: Any) -> tuple[str, ...]:
    return tuple(name for name in report.class_names if name not in report.old_class_names)


@pytest.mark.slow
def test_fine_tuning_is_cross_validated_and_leaves_nothing_behind(
    tuning: FineTuning, viewer: ViewerModel, tmp_path: Path
) -> None:
    annotate(tuning, add_field(viewer))
    tuning.set_choices(freeze="head")
    validating = tuning.validating
    validating.folds, validating.curve = 3, True
    before = find_bundles()
    assert validating.start() is not None
    assert not validating.working
    result = validating.result
    assert result is not None, tuning.session.status.message.text
    assert len(validating.reports) == 9
    assert result.result["n"] == 120
    # All cells are of one image, so its blocks are kept apart; that is said.
    assert any("blocks of an image" in note for note in result.result["notes"])
    assert [point["share"] for point in result.result["learning_curve"]] == [0.25, 0.5, 1.0]
    validating.save(tmp_path / "out.csv")
    lines = (tmp_path / "out.csv").read_text(encoding="utf-8").splitlines()
    assert len(lines) == 121
    assert json.loads((tmp_path / "out.json").read_text())["folds"] == 3
    assert find_bundles() == before
    assert not list(tuning.annotating.classes.project.folder.glob("validation*"))


def annotate_images(tuning: FineTuning, viewer: ViewerModel, count: int, cells: int) -> None:
    """Annotate the first cells of so many images, which differ in brightness."""
    picture, centres, kinds = field()
    annotating = tuning.annotating
    for number in range(count):
        image = np.clip(picture.astype(int) - 3 * number, 0, 255).astype(np.uint8)
        layer = viewer.add_image(
            image, rgb=True, name=f"field {number}", scale=(0.5, 0.5), units=("um", "um")
        )
        tuning.session.selection.set_image(layer)
        annotating.targets.annotate_cell(centres[0], kinds[0], diameter=12.0)
        book = annotating.files.annotations(layer)
        assert book is not None
        book.put(
            new_annotation("cell", kinds[i], position=centres[i], diameter_px=12.0)
            for i in range(1, cells)
        )


@pytest.mark.slow
def test_each_image_is_judged_once_by_a_model_that_had_not_seen_it(
    tuning: FineTuning, viewer: ViewerModel, tmp_path: Path, qtbot: Any
) -> None:
    annotate_images(tuning, viewer, 4, 12)
    tuning.set_choices(freeze="head")
    validating = tuning.validating
    box = ValidationBox(validating)
    qtbot.addWidget(box)
    box.show()
    box.folds.setValue(3)
    box.start.click()
    result = validating.result
    assert result is not None, tuning.session.status.message.text
    assert box.start.isVisible()
    assert not box.cancel.isVisible()
    assert result.sentence in box.found.text().replace("\u200b", "")
    assert box.save.isVisible()
    # No curve was asked for.
    assert not box.plot.isVisible()
    assert [(done.done, done.total, done.fold) for done in validating.reports] == [
        (1, 3, 0), (2, 3, 1), (3, 3, 2),
    ]  # fmt: skip
    assert (result.result["n"], result.result["n_groups"]) == (48, 4)
    assert not any("blocks of an image" in note for note in result.result["notes"])
    validating.save(tmp_path / "out.csv")
    with (tmp_path / "out.csv").open(encoding="utf-8", newline="") as file:
        rows = list(csv.DictReader(file))
    folds: dict[str, set[str]] = {}
    for row in rows:
        folds.setdefault(row["group"], set()).add(row["fold"])
    # A whole image is in one fold, and each fold holds one.
    assert [len(each) for each in folds.values()] == [1, 1, 1, 1]
    assert set.union(*folds.values()) == {"0", "1", "2"}
    # The figures are those of the table.
    for row in rows:
        chances = {name: float(row[f"p_{name}"]) for name in ("disk", "ring")}
        others = [float(value) for key, value in row.items() if key.startswith("p_")]
        assert sum(others) == pytest.approx(1, abs=1e-4)
        assert max(others) == pytest.approx(float(row[f"p_{row['predicted']}"]))
        assert row["class"] in chances
    accuracies = []
    for fold in "012":
        mine = [row["class"] == row["predicted"] for row in rows if row["fold"] == fold]
        accuracies.append(np.mean(mine))
    assert result.result["accuracy"] == pytest.approx(np.mean(accuracies))
    box.release()


@pytest.mark.slow
def test_a_cross_validation_that_is_cancelled_leaves_nothing(
    tuning: FineTuning, viewer: ViewerModel, qtbot: Any
) -> None:
    annotate(tuning, add_field(viewer), range(1, 40))
    tuning.set_choices(freeze="head")
    validating, before = tuning.validating, find_bundles()
    box = ValidationBox(validating)
    qtbot.addWidget(box)
    box.show()
    seen: list[bool] = []

    def cancel_after_the_first() -> None:
        if validating.reports and not seen:
            seen.append(box.cancel.isVisible() and box.bar.value() == 1)
            box.cancel.click()

    validating.changed.connect(cancel_after_the_first)
    validating.folds = 5
    assert validating.start() is not None
    assert seen == [True]
    assert not validating.working
    assert validating.result is None
    assert len(validating.reports) == 1
    assert box.start.isVisible()
    assert not box.found.isVisible()
    assert find_bundles() == before
    assert not list(tuning.annotating.classes.project.folder.glob("validation*"))
    box.release()
