"""Cells in, classes and evidence out."""

from __future__ import annotations

import dataclasses
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import torch

from napari_sparseattn.batch.result_files import read_result, write_result
from napari_sparseattn.bundle import load_bundle
from napari_sparseattn.card import plain_name
from napari_sparseattn.device import available_devices, choose_device
from napari_sparseattn.export.formats import write_results
from napari_sparseattn.export.summary import describe, summarise
from napari_sparseattn.export.tables import write_csv
from napari_sparseattn.images.fields.cells import (
    Cells,
    cells_from_labels,
    cells_from_points,
    find_cells,
)
from napari_sparseattn.images.fields.field import Field
from napari_sparseattn.images.normalise import Normalisation
from napari_sparseattn.inference.cells import classify_cells, classify_crops, iter_cells, join
from napari_sparseattn.inference.compare import change_setting
from napari_sparseattn.inference.prediction import Predictions
from napari_sparseattn.known import OtherThings
from napari_sparseattn.models.sparse.network import SparseAttnNet
from napari_sparseattn.simulate import smear_with_truth
from small_model import knowing, small_bundle


def field(
    dtype: type = np.uint8, shape: tuple[int, ...] = (60, 80, 3), pixel_size: float | None = 0.5
) -> Field:
    rng = np.random.default_rng(0)
    values = rng.random(shape)
    if np.issubdtype(dtype, np.integer):
        values = values * np.iinfo(dtype).max
    elif dtype is bool:
        values = values > 0.5
    return Field.from_array(
        values.astype(dtype),
        axes="YXC"[: len(shape)],
        pixel_size=pixel_size,
        modality="brightfield",
    )


def cells(n: int = 9, pixel_size: float | None = None) -> Cells:
    rng = np.random.default_rng(1)
    points = rng.uniform(0, 1, (n, 2)) * (59, 79)
    return cells_from_points(points, (60, 80), diameter=10, pixel_size=pixel_size)


def test_results_do_not_depend_on_the_batch() -> None:
    bundle = small_bundle()
    whole = classify_cells(field(), cells(), bundle, "cpu", batch_size=64)
    for batch in (1, 2, 4, 9):
        other = classify_cells(field(), cells(), bundle, "cpu", batch_size=batch)
        np.testing.assert_allclose(other.probabilities, whole.probabilities, atol=1e-6)
        for a, b in zip(other.evidence, whole.evidence, strict=True):
            np.testing.assert_array_equal(a.indices, b.indices)


def test_probabilities_are_those_of_the_model_on_the_crop() -> None:
    """Against the bare model on a crop cut by plain slicing."""
    bundle = small_bundle(temperature=2.0)
    image = field()
    # 8 µm at 0.5 µm per pixel: 16 pixels, the model's own size; 7.5 puts edges on pixel edges.
    one = cells_from_points([(29.5, 39.5)], (60, 80), diameter=10)
    crop = image.data[22:38, 32:48].astype(np.float32) / 255
    ready = bundle.card.normalisation(crop.transpose(2, 0, 1)[None])
    with torch.inference_mode():
        output = bundle.model()(torch.from_numpy(ready))
    got = classify_cells(image, one, bundle, "cpu")
    np.testing.assert_allclose(got.probabilities, (output.logits / 2).softmax(1).numpy(), atol=1e-5)
    evidence = got[0].evidence
    assert evidence is not None
    np.testing.assert_array_equal(evidence.indices, output.indices[0].numpy())
    np.testing.assert_allclose(evidence.frame.to_image((0, 0)), (22, 32))
    np.testing.assert_allclose(evidence.frame.to_image((15, 15)), (37, 47))


def test_parts_join_to_the_whole_and_stop_when_closed() -> None:
    bundle = small_bundle()
    parts = list(iter_cells(field(), cells(), bundle, "cpu", batch_size=4))
    assert [len(part) for part in parts] == [4, 4, 1]
    joined = join(parts)
    np.testing.assert_array_equal(joined.cells.ids, cells().ids)
    assert joined.ledger.crop_pixels == 9 * 256
    assert joined.ledger.share == pytest.approx(38 / 256)
    stream = iter_cells(field(), cells(), bundle, "cpu", batch_size=4)
    next(stream)
    stream.close()
    assert list(stream) == []


def test_a_known_pixel_size_sets_the_crop() -> None:
    bundle = small_bundle()
    for pixel_size, side in ((0.5, 16), (0.25, 32)):
        got = classify_cells(field(pixel_size=pixel_size), cells(), bundle, "cpu")
        assert got.scale_known
        assert got.evidence[0].frame.side == pytest.approx(side)


def test_pixels_that_are_too_few_for_the_model_are_said_to_be() -> None:
    for pixel_size, said in ((0.5, ()), (0.75, ()), (1.0, ("crops were enlarged 2 times",))):
        notes = classify_cells(field(pixel_size=pixel_size), cells(), small_bundle()).ledger.notes
        assert len(notes) == len(said)
        assert all(note.startswith(start) for note, start in zip(notes, said, strict=True))


def test_what_a_model_does_not_know_is_said_of_cells_too() -> None:
    bundle = small_bundle()
    said = "It knows squares alone."
    limited = dataclasses.replace(bundle, card=bundle.card.model_copy(update={"limits": said}))
    assert classify_cells(field(), cells(), limited, "cpu").ledger.notes == (said,)


def test_an_unknown_pixel_size_is_marked() -> None:
    got = classify_cells(field(pixel_size=None), cells(), small_bundle(), "cpu")
    assert not got.scale_known
    assert got.evidence[0].frame.side == pytest.approx(25)


@pytest.mark.parametrize("pixel_size", [None, 0.5])
def test_one_of_the_cells_is_classified_as_among_all(pixel_size: float | None) -> None:
    bundle, image = small_bundle(), field(pixel_size=pixel_size)
    varied = dataclasses.replace(cells(), boxes=cells().boxes * np.linspace(0.5, 1, 9)[:, None])
    everything = classify_cells(image, varied, bundle, "cpu")
    one = classify_cells(image, varied, bundle, "cpu", only=[4])
    assert len(one) == 1
    np.testing.assert_allclose(one.probabilities[0], everything.probabilities[4], atol=1e-6)
    assert one.cells.ids.tolist() == [varied.ids[4]]
    assert one.evidence[0].frame == everything.evidence[4].frame


def test_only_classes_that_can_occur_are_given() -> None:
    bundle = small_bundle(temperature=2.0)
    whole = classify_cells(field(), cells(), bundle, "cpu").probabilities
    found = classify_cells(field(), cells(), bundle, "cpu", classes=("small", "round"))
    assert found.class_names == bundle.card.class_names
    np.testing.assert_array_equal(found.probabilities[:, 1], 0)
    rest = whole[:, [0, 2]]
    np.testing.assert_allclose(
        found.probabilities[:, [0, 2]], rest / rest.sum(1, keepdims=True), atol=1e-6
    )
    assert found.ledger.notes == ("Not considered: lobed.",)
    every = classify_cells(field(), cells(), bundle, "cpu", classes=bundle.card.class_names)
    np.testing.assert_array_equal(every.probabilities, whole)
    assert every.ledger.notes == ()
    crops = np.random.default_rng(0).random((3, 16, 16, 3)).astype(np.float32)
    alone = classify_crops(crops, bundle, "cpu", classes=["lobed"])
    np.testing.assert_array_equal(alone, np.eye(3, dtype=np.float32)[[1, 1, 1]])


@pytest.mark.parametrize(
    ("classes", "match"), [(("small", "blast"), "knows no blast"), ((), "at least one class")]
)
def test_classes_that_the_model_lacks_are_refused(classes: tuple[str, ...], match: str) -> None:
    with pytest.raises(ValueError, match=match):
        classify_cells(field(), cells(), small_bundle(), "cpu", classes=classes)


def test_memory_running_out_halves_the_batch_and_says_so(monkeypatch: pytest.MonkeyPatch) -> None:
    """The error is raised by the model itself, as torch raises it."""
    bundle = small_bundle()
    expected = classify_cells(field(), cells(), bundle, "cpu")
    forward = SparseAttnNet.forward

    def limited(self: SparseAttnNet, x: torch.Tensor, **rest: object) -> object:
        if len(x) > 2:
            raise torch.cuda.OutOfMemoryError("CUDA out of memory. Tried to allocate 20 GiB")
        return forward(self, x, **rest)

    monkeypatch.setattr(SparseAttnNet, "forward", limited)
    got = classify_cells(field(), cells(), bundle, "cpu", batch_size=8)
    np.testing.assert_allclose(got.probabilities, expected.probabilities, atol=1e-6)
    assert got.ledger.notes == (
        "Memory ran out on cpu: batches of 4 now.",
        "Memory ran out on cpu: batches of 2 now.",
    )


def test_memory_that_never_suffices_falls_back_to_the_cpu(monkeypatch: pytest.MonkeyPatch) -> None:
    from napari_sparseattn.inference import cells as module

    bundle = small_bundle()
    runner = module._Runner(bundle, "meta", 2)  # stands in for a GPU: nothing can be read from it
    build = type(bundle).model

    def no_room(self: object, device: str = "cpu") -> SparseAttnNet:
        if device != "cpu":
            raise torch.cuda.OutOfMemoryError("CUDA out of memory.")
        return build(bundle)

    monkeypatch.setattr(type(bundle), "model", no_room)
    ready = np.zeros((3, 3, 16, 16), np.float32)
    assert runner(ready).logits.shape == (3, 3)
    assert runner.device == "cpu"
    assert runner.notes[-1] == "Memory ran out on meta: continued on the CPU."


def test_other_errors_are_not_swallowed(monkeypatch: pytest.MonkeyPatch) -> None:
    def broken(self: SparseAttnNet, x: torch.Tensor) -> None:
        raise RuntimeError("a bug")

    monkeypatch.setattr(SparseAttnNet, "forward", broken)
    with pytest.raises(RuntimeError, match="a bug"):
        classify_cells(field(), cells(), small_bundle(), "cpu")


@pytest.mark.parametrize("dtype", [np.uint8, np.uint16, np.float32, np.float64, bool])
def test_every_type_of_pixel_gives_probabilities(dtype: type) -> None:
    got = classify_cells(field(dtype), cells(), small_bundle(), "cpu")
    np.testing.assert_allclose(got.probabilities.sum(1), 1, atol=1e-5)


@pytest.mark.parametrize("value", [0.0, 1.0, np.nan, np.inf])
def test_images_without_content_give_finite_answers(value: float) -> None:
    image = Field.from_array(
        np.full((60, 80, 3), value, np.float32), axes="YXC", pixel_size=0.5, modality="brightfield"
    )
    got = classify_cells(image, cells(), small_bundle(), "cpu")
    assert np.isfinite(got.probabilities).all()


def test_a_single_pixel_image_and_no_cells_work() -> None:
    tiny = Field.from_array(
        np.zeros((1, 1, 3), np.uint8), axes="YXC", pixel_size=0.5, modality="brightfield"
    )
    one = cells_from_points([(0, 0)], (1, 1), diameter=1)
    assert len(classify_cells(tiny, one, small_bundle(), "cpu")) == 1
    none = classify_cells(tiny, find_cells(tiny), small_bundle(), "cpu")
    assert len(none) == 0
    assert none.to_frame().empty
    assert none.labels == []


def test_wrong_channels_and_modality_are_explained() -> None:
    grey = Field.from_array(
        np.zeros((60, 80), np.float32), axes="YX", pixel_size=0.5, modality="unknown"
    )
    with pytest.raises(ValueError, match="needs 3 channel"):
        classify_cells(grey, cells(), small_bundle(), "cpu")
    other = dataclasses.replace(field(), modality="fluorescence")
    with pytest.raises(ValueError, match="trained on brightfield"):
        classify_cells(other, cells(), small_bundle(), "cpu")


def test_whole_nm_are_classified_as_decimal_ones() -> None:
    bundle = small_bundle(
        1, modality="opd", unit="nm", normalisation=Normalisation("fixed", 40, 80)
    )
    values = np.random.default_rng(0).integers(0, 400, (60, 80))
    answers = [
        classify_cells(
            Field.from_array(values.astype(dtype), pixel_size=0.5, modality="opd", unit="nm"),
            cells(), bundle, "cpu",
        ).probabilities
        for dtype in (np.float32, np.uint16, np.int16)
    ]  # fmt: skip
    np.testing.assert_array_equal(answers[0], answers[1])
    np.testing.assert_array_equal(answers[0], answers[2])


def test_no_model_takes_grey_values_for_nm() -> None:
    rng = np.random.default_rng(0)
    model = small_bundle(1, modality="opd")
    grey = Field.from_array(
        rng.integers(0, 255, (60, 80), np.uint8), axes="YX", pixel_size=0.5, modality="opd"
    )
    floats = Field.from_array(rng.random((60, 80), np.float32) * 200, axes="YX", pixel_size=0.5)
    marked = dataclasses.replace(floats, modality="opd")
    for image in (grey, floats, dataclasses.replace(marked, data=floats.data / 1e3)):
        with pytest.raises(ValueError, match="does not say that its grey values are nm"):
            classify_cells(image, cells(), model, "cpu")
    wrong = dataclasses.replace(floats, unit="rad")
    with pytest.raises(ValueError, match="are in rad"):
        classify_cells(wrong, cells(), model, "cpu")
    assert len(classify_cells(marked, cells(), model, "cpu")) == len(cells())
    stated = dataclasses.replace(floats, unit="nm")
    assert len(classify_cells(stated, cells(), model, "cpu")) == len(cells())


def test_labels_of_another_shape_are_refused() -> None:
    labels = np.zeros((30, 80), int)
    labels[5:15, 5:15] = 1
    with pytest.raises(ValueError, match=r"labels are 30 x 80 pixels, the image 60 x 80"):
        classify_cells(field(), cells_from_labels(labels), small_bundle(), "cpu")


def test_a_label_in_two_pieces_is_told_with_the_result() -> None:
    labels = np.zeros((60, 80), int)
    labels[5:15, 5:15] = labels[30:40, 40:60] = 7
    labels[20:25, 20:25] = 8
    found = classify_cells(field(), cells_from_labels(labels), small_bundle(), "cpu")
    assert len(found) == 2
    assert any("1 label lies in several pieces (7)" in note for note in found.ledger.notes)


def test_an_alpha_channel_is_dropped() -> None:
    image = field()
    alpha = np.concatenate([image.data, np.full((60, 80, 1), 255, np.uint8)], axis=-1)
    with_alpha = Field.from_array(alpha, axes="YXC", pixel_size=0.5, modality="brightfield")
    got = classify_cells(with_alpha, cells(), small_bundle(), "cpu")
    expected = classify_cells(image, cells(), small_bundle(), "cpu")
    np.testing.assert_array_equal(got.probabilities, expected.probabilities)


def test_ids_above_32_bits_reach_the_table() -> None:
    big = 2**40 + 7
    found = dataclasses.replace(cells(1), ids=np.array([big]))
    table = classify_cells(field(), found, small_bundle(), "cpu").to_frame()
    assert table["id"].tolist() == [big]
    assert table["class"][0] in ("round", "lobed", "small")


def test_crops_and_cells_agree() -> None:
    bundle, image = small_bundle(), field()
    one = cells_from_points([(29.5, 39.5)], (60, 80), diameter=10)
    crop = image.data[None, 22:38, 32:48].astype(np.float32) / 255
    np.testing.assert_allclose(
        classify_crops(crop, bundle, "cpu"),
        classify_cells(image, one, bundle, "cpu").probabilities,
        atol=1e-5,
    )


def test_auto_takes_the_first_device_and_others_are_refused() -> None:
    assert choose_device() == available_devices()[0]
    assert available_devices()[-1] == choose_device("cpu") == "cpu"
    with pytest.raises(ValueError, match="not available here"):
        choose_device("tpu")


def test_a_model_of_simulated_images_says_so_in_every_class(tmp_path: Path) -> None:
    bundle = small_bundle()
    training = bundle.card.training.model_copy(update={"simulated": True})
    card = bundle.card.model_copy(update={"training": training})
    bundle = dataclasses.replace(bundle, card=card)
    names = tuple(f"simulated_{name}" for name in card.class_names)
    found = classify_cells(field(), cells(), bundle, "cpu")
    assert found.class_names == names
    assert set(found.labels) <= set(names)
    assert {f"p_{name}" for name in names} <= set(found.to_frame())
    formats = ["csv", "json", "geojson", "coco", "html"]
    for path in write_results(found, field(), tmp_path, "smear", formats, card):
        text = path.read_text(encoding="utf-8").replace("simulated ", "simulated_")
        assert found.labels[0] in text, path.name
    # What people annotate, and what is trained on it, keeps its own names.
    assert card.class_names == tuple(plain_name(name) for name in names)
    assert classify_cells(field(), cells(), bundle, "cpu", classes=names[:2]).class_names == names


def test_novelty_of_cells_is_that_of_their_states(tmp_path: Path) -> None:
    bundle = knowing(small_bundle())
    assert bundle.known is not None
    found = classify_cells(field(), cells(), bundle, "cpu", batch_size=2)
    one = classify_cells(field(), cells(), bundle, "cpu", only=[1])
    assert found.novelty is not None
    assert one.novelty is not None
    assert one.novelty[0] == pytest.approx(found.novelty[1], rel=1e-4)
    limit = float(np.median(found.novelty))
    known = dataclasses.replace(bundle.known, threshold=limit)
    again = classify_cells(field(), cells(), dataclasses.replace(bundle, known=known), "cpu")
    flags = found.novelty / limit > 1
    assert again.flagged is not None
    np.testing.assert_array_equal(again.flagged, flags)
    assert [again[i].flagged for i in range(len(again))] == flags.tolist()
    table = again.to_frame()
    np.testing.assert_allclose(table["novelty"], found.novelty / limit, rtol=1e-4)
    assert table["flagged"].tolist() == flags.tolist()
    write_csv(again, tmp_path / "cells.csv")
    assert pd.read_csv(tmp_path / "cells.csv")["flagged"].tolist() == flags.tolist()


def test_what_looks_like_other_things_is_none_of_these(tmp_path: Path) -> None:
    bundle = knowing(small_bundle(), threshold=1e6)
    model, known = bundle.cell_model(), bundle.known
    assert known is not None
    assert bundle.card.novelty is not None
    output = []
    hook = model.head.register_forward_pre_hook(lambda _, given: output.append(given[0]))
    plain = classify_cells(field(), cells(), bundle, "cpu")
    hook.remove()
    assert plain.none_of_these is None
    assert plain[0].none_of_these is None
    assert plain.to_frame()["none_of_these"].isna().all()
    # The second cell is what is common beside the classes.
    means = output[0][1:2].numpy()
    others = OtherThings(means, known.root, typical=-1e6, limit=-1.0, reach=1e-3)
    spec = bundle.card.novelty.model_copy(update={"others": ("red cell",)})
    bundle = dataclasses.replace(
        bundle,
        card=bundle.card.model_copy(update={"novelty": spec}),
        known=dataclasses.replace(known, others=others),
    )
    found = classify_cells(field(), cells(), bundle, "cpu", batch_size=2)
    expected = [i == 1 for i in range(len(found))]
    assert found.none_of_these is not None
    assert found.none_of_these.tolist() == expected
    assert [found[i].none_of_these for i in range(len(found))] == expected
    assert found.flagged is not None
    assert found.flagged[1]
    write_csv(found, tmp_path / "cells.csv")
    assert pd.read_csv(tmp_path / "cells.csv")["none_of_these"].tolist() == expected
    summary = summarise(found)
    assert summary["none_of_these"] == 1
    assert "1 of them perhaps none of its classes" in describe(summary)
    write_result(found, tmp_path / "kept.npz")
    kept = read_result(tmp_path / "kept.npz")
    assert isinstance(kept, Predictions)
    np.testing.assert_array_equal(kept.none_of_these, found.none_of_these)


@pytest.mark.parametrize("exposure", [1.0, 0.4])
def test_an_inverted_smear_is_refused_by_a_model_of_stained_cells(exposure: float) -> None:
    smear, found = smear_with_truth(seed=0)
    dim = (smear.data * exposure).astype(smear.data.dtype)
    bundle = small_bundle()
    assert bundle.card.modality == "brightfield"
    assert len(classify_cells(dataclasses.replace(smear, data=dim), found, bundle, "cpu"))
    inverted = dataclasses.replace(smear, data=np.iinfo(smear.data.dtype).max - dim)
    if exposure == 1:
        with pytest.raises(ValueError, match="looks inverted"):
            classify_cells(inverted, found, bundle, "cpu")
    # Of other kinds of image nobody knows how they are bright.
    other = small_bundle(modality="unknown")
    assert len(classify_cells(inverted, found, other, "cpu"))


def test_a_note_on_left_out_classes_is_written_for_people() -> None:
    bundle = small_bundle(class_names=("round_cell", "lobed_cell", "small"))
    found = classify_cells(field(), cells(), bundle, "cpu", classes=["small"])
    assert found.ledger.notes == ("Not considered: round cell, lobed cell.",)
    assert "p_round_cell" in found.to_frame()


def test_without_known_states_nothing_is_said() -> None:
    found = classify_cells(field(), cells(), small_bundle(), "cpu")
    assert found.novelty is None
    assert found.flagged is None
    assert found[0].flagged is None
    table = found.to_frame()
    assert table["novelty"].isna().all()
    assert table["flagged"].isna().all()


def test_at_another_setting_nothing_is_said() -> None:
    bundle = knowing(small_bundle())
    assert change_setting(bundle, k=20).known is None
    assert change_setting(bundle, k=38).known is bundle.known
    tnet = load_bundle("blood-cells-tnet")
    trained = tuple(tnet.card.architecture["locations"])
    assert tnet.known is not None
    assert tnet.with_locations(trained).known is tnet.known
    assert tnet.with_locations(None).known is tnet.known
    other = tnet.with_locations((4, 2))
    assert other.known is None
    found = classify_cells(*smear_with_truth((200, 200), n_white=1), other, "cpu")
    assert found.flagged is None
