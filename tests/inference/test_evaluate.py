"""Models of every kind, measured on labelled images in class folders."""

from __future__ import annotations

import csv
import dataclasses
from pathlib import Path

import numpy as np
import pytest
import tifffile
from PIL import Image

from napari_sparseattn.bundle import Bundle
from napari_sparseattn.card import CropSpec, EncoderSpec
from napari_sparseattn.features.bags import lay_tiles
from napari_sparseattn.features.encoders import load_encoder
from napari_sparseattn.images.normalise import Normalisation
from napari_sparseattn.images.opening import open_image
from napari_sparseattn.inference.evaluate import evaluate_folder
from napari_sparseattn.inference.fields import classify_field
from napari_sparseattn.inference.slides import classify_slide
from napari_sparseattn.simulate import simulated_slide
from small_model import small_bundle
from small_span import small_span_bundle
from small_tnet import small_tnet_bundle


def tile(path: Path, seed: int, side: int = 64) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    rng = np.random.default_rng(seed)
    coarse = rng.integers(60, 255, (side // 8, side // 8, 3), np.uint8)
    Image.fromarray(np.kron(coarse, np.ones((8, 8, 1), np.uint8))).save(path)
    return path


def patients(root: Path, classes: tuple[str, ...], n: int = 6, side: int = 64) -> Path:
    """FOLDER/class/patient/name.png: two tiles each; the first patient is of every class."""
    for number, name in enumerate(classes):
        for i in range(n):
            patient = "P0" if i == 0 else f"P{number}{i}"
            for j in range(2):
                tile(root / name / patient / f"{j}.png", 100 * number + 10 * i + j, side)
    return root


def span(segments: bool = False) -> Bundle:
    encoder = load_encoder("stain-texture", "cpu")
    spec = EncoderSpec(name=encoder.name, hash=encoder.hash, width=encoder.width)
    crop = CropSpec(size=192, field_of_view_um=96.0)
    return small_span_bundle(segments, encoder=spec, crop=crop)


def test_a_tnet_is_measured_on_tiles_of_patients(tmp_path: Path) -> None:
    bundle = small_tnet_bundle()
    folder = patients(tmp_path / "set", ("left", "middle", "right"))
    (folder / "left" / "P0" / "broken.png").write_bytes(b"no image")
    Image.new("RGB", (64, 64), (255, 255, 255)).save(folder / "left" / "P0" / "blank.png")
    found = evaluate_folder(folder, bundle, "cpu")
    assert found.report.n == 36
    assert found.judged.n_groups == 3 * 5 + 1  # the same patient in all classes is one
    assert sorted(Path(each).name for each in found.unreadable) == ["blank.png", "broken.png"]
    first = folder / found.judged.names[0]
    alone = classify_field(open_image(first), bundle, device="cpu")
    np.testing.assert_allclose(found.judged.probabilities[0], alone.probabilities, atol=1e-6)
    told = found.to_dict()
    low, high = told["intervals"]["auc"]
    assert low <= told["auc"] <= high
    assert told["accuracy_interval"] == tuple(told["intervals"]["accuracy"])
    assert told["auc"] == pytest.approx(np.mean([c["auc"] for c in told["per_class"].values()]))
    assert any("16 groups" in note for note in told["notes"])


def test_a_mean_over_each_group_is_told_on_request(tmp_path: Path) -> None:
    bundle = small_tnet_bundle()
    folder = patients(tmp_path / "set", ("left", "right"), n=3)
    images = evaluate_folder(folder, bundle, "cpu", per="image").judged
    groups = evaluate_folder(folder, bundle, "cpu", per="group").judged
    assert (len(images), len(groups)) == (12, 6)
    np.testing.assert_allclose(groups.probabilities[0], images.probabilities[:2].mean(0), atol=1e-6)
    assert groups.n_groups == 5


def test_a_span_takes_the_tiles_of_a_patient_together(tmp_path: Path) -> None:
    bundle = span()
    folder = patients(tmp_path / "set", ("benign", "tumour"), n=2, side=224)
    found = evaluate_folder(folder, bundle, "cpu")
    assert found.report.n == 4
    assert found.judged.names[0] == "benign/P0"
    assert any("of one class and group together" in note for note in found.notes)
    alone = evaluate_folder(folder, bundle, "cpu", per="image")
    assert alone.report.n == 8
    assert np.abs(alone.judged.probabilities[0] - found.judged.probabilities[0]).max() > 1e-6
    found.judged.write_csv(tmp_path / "out.csv")
    with (tmp_path / "out.csv").open(encoding="utf-8") as file:
        rows = list(csv.DictReader(file))
    assert [row["group"] for row in rows] == ["P0", "P01", "P0", "P11"]
    assert float(rows[0]["p_tumour"]) == pytest.approx(found.judged.probabilities[0, 1], abs=1e-5)


def test_tiles_lie_side_by_side_without_overlap(tmp_path: Path) -> None:
    paths = [tile(tmp_path / f"{i}.png", i, side) for i, side in enumerate((96, 64, 64, 128, 72))]
    bag = lay_tiles(paths, size=32)
    assert len({tuple(cell) for cell in bag.cells.tolist()}) == len(bag.cells)
    assert np.bincount(bag.tiles).tolist() == [9, 4, 4, 16, 4]
    # A patch shows its own place: of a tile that is cut without a rest, the pixels as they are.
    whole = np.asarray(Image.open(paths[1]))
    mine = bag.patches[bag.tiles == 1]
    np.testing.assert_array_equal(mine[1], whole[:32, 32:])
    # At half the size of a patch in the tile, twice as many fit along a side.
    assert len(lay_tiles(paths[1:2], size=32, side=16).cells) == 16
    # Of a tile smaller than a patch, the whole is enlarged.
    assert len(lay_tiles(paths[1:2], size=192).cells) == 1


def test_slides_and_tiles_of_a_segmenting_span(tmp_path: Path) -> None:
    bundle = span(segments=True)
    slide, _ = simulated_slide(768, 768, kind="tumour", seed=1)
    image = slide.read_region(0, 0, 0, 768, 768).pixels
    (tmp_path / "set" / "tumour").mkdir(parents=True)
    path = tmp_path / "set" / "tumour" / "slide.tif"
    with tifffile.TiffWriter(path) as writer:
        metadata = {"photometric": "rgb", "tile": (256, 256), "resolutionunit": "CENTIMETER"}
        writer.write(image, subifds=0, resolution=(2e4, 2e4), **metadata)
        writer.write(image[::4, ::4], subfiletype=1, **metadata)
    tile(tmp_path / "set" / "benign" / "a.png", 1, 224)
    found = evaluate_folder(tmp_path / "set", bundle, "cpu", store=tmp_path / "kept")
    assert found.report.n == 2
    assert not found.unreadable
    with open_image(path) as pyramid:
        alone = classify_slide(pyramid, bundle, device="cpu")
    np.testing.assert_allclose(found.judged.probabilities[1], alone.probabilities, atol=1e-5)
    assert list((tmp_path / "kept").iterdir())


def test_another_encoder_than_the_models_is_refused(tmp_path: Path) -> None:
    spec = EncoderSpec(name="stain-texture", hash="1" * 64, width=256)
    tile(tmp_path / "benign" / "a.png", 1)
    with pytest.raises(ValueError, match="another network"):
        evaluate_folder(tmp_path, small_span_bundle(encoder=spec), "cpu")


def test_cells_are_looked_at_as_closely_as_asked(tmp_path: Path) -> None:
    normalised = {"normalisation": Normalisation("white", 0.5, 0.3)}
    bundle = dataclasses.replace(
        small_tnet_bundle(), card=small_tnet_bundle().card.model_copy(update=normalised)
    )
    folder = patients(tmp_path / "set", ("left", "middle", "right"), n=2)
    few, many = (
        evaluate_folder(folder, bundle, "cpu", locations=locations).judged.probabilities
        for locations in ((1, 1), (4, 4))
    )
    assert np.abs(few - many).max() > 1e-4


def test_whole_nm_of_a_cell_are_measured_as_decimal_ones(tmp_path: Path) -> None:
    fixed = Normalisation("fixed", 40.0, 80.0)
    bundle = small_bundle(1, modality="opd", unit="nm", normalisation=fixed)
    answers = []
    for dtype in (np.float32, np.uint16):
        rng = np.random.default_rng(0)
        for name in ("round", "lobed"):
            folder = tmp_path / np.dtype(dtype).name / name
            folder.mkdir(parents=True)
            for i in range(3):
                tifffile.imwrite(folder / f"{i}.tif", rng.integers(0, 400, (16, 16)).astype(dtype))
        found = evaluate_folder(tmp_path / np.dtype(dtype).name, bundle, "cpu")
        answers.append(found.judged.probabilities)
    np.testing.assert_array_equal(*answers)


def test_grey_images_of_a_model_of_colours_are_said_to_be(tmp_path: Path) -> None:
    bundle = small_bundle()
    for name in ("round", "lobed"):
        tile(tmp_path / name / "a.png", 1)
    assert not any("grey" in note for note in evaluate_folder(tmp_path, bundle, "cpu").notes)
    Image.open(tmp_path / "round" / "a.png").convert("L").save(tmp_path / "round" / "b.png")
    notes = evaluate_folder(tmp_path, bundle, "cpu").notes
    assert any(note.startswith("1 images are grey") for note in notes)
