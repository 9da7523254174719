from __future__ import annotations

import dataclasses
import os
import threading
from collections.abc import Callable, Iterator

import numpy as np
import pytest
import torch

from napari_sparseattn.bundle import Bundle
from napari_sparseattn.evidence.baselines import random_regions, rank
from napari_sparseattn.evidence.fills import fill
from napari_sparseattn.features.feature_set import FeatureSet
from napari_sparseattn.images.fields.cells import cells_from_labels, cells_from_points
from napari_sparseattn.images.fields.field import Field
from napari_sparseattn.images.slides.pyramid import ArrayPyramid
from napari_sparseattn.inference.cells import classify_cells
from napari_sparseattn.inference.faithfulness import (
    THOROUGH,
    FaithfulnessSettings,
    faithfulness_of_cell,
    faithfulness_of_crop,
    faithfulness_of_field,
    faithfulness_of_set,
    faithfulness_of_slide,
    iter_faithfulness,
    measure,
    measure_faithfulness,
)
from napari_sparseattn.inference.field_reruns import FieldRerun, cache_features
from napari_sparseattn.inference.fields import classify_field
from napari_sparseattn.inference.reruns import CellRerun, OwnMap, shuffle_weights, softmax
from napari_sparseattn.inference.slide_reruns import prepare_slide
from napari_sparseattn.inference.slides import SlidePrediction, classify_slide
from napari_sparseattn.models.sparse.network import SparseAttnNet
from small_model import SIZES, small_bundle, small_map_bundle
from small_span import small_span_bundle
from small_tnet import small_tnet, small_tnet_bundle

QUICK = FaithfulnessSettings(shares=(0.1,), fills=("mean", "noise"), draws=1, scattered=1)


class Linear:
    """A model of two classes whose log-odds are the weight of what is left."""

    fills = ("nothing",)
    temperature = 1.0
    shape = (4, 5)

    def __init__(self, weights: np.ndarray) -> None:
        self.weights, self.cells, self.asked = weights, np.arange(20), 0

    def logits(
        self, removed: np.ndarray, fill: str, seed: int, progress: Callable[[int], None]
    ) -> np.ndarray:
        self.asked += len(removed)
        progress(len(removed))
        odds = ((~removed) * self.weights).sum(axis=1)
        return np.stack([np.zeros(len(removed)), odds], axis=1).astype(np.float32)

    def relevance(self, index: int) -> dict[str, OwnMap]:
        weights = self.weights.astype(np.float32)
        return {"own": OwnMap(weights), "worst": OwnMap(-weights)}

    def scatter(self, maps: np.ndarray) -> np.ndarray:
        return maps

    def selection(self) -> np.ndarray:
        return self.weights >= np.sort(self.weights)[-3]

    def baselines(self) -> dict[str, np.ndarray]:
        return {"edges": np.zeros(20), "centre": np.arange(20.0)}

    def control(self, index: int, seed: int) -> np.ndarray:
        return self.weights[::-1]

    def stability(self, seed: int) -> dict[str, float]:
        return {"noise": 1.0}


@pytest.fixture
def two_threads(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    monkeypatch.setattr(os, "cpu_count", lambda: 3)
    before = torch.get_num_threads()
    torch.set_num_threads(2)
    yield
    torch.set_num_threads(before)


@pytest.mark.usefixtures("two_threads")
@pytest.mark.parametrize("make", [small_map_bundle, small_tnet_bundle])
def test_runs_side_by_side_are_those_one_after_the_other(make: Callable[[], Bundle]) -> None:
    bundle, rng = make(), np.random.default_rng(0)
    size = bundle.card.crop.size
    ready = rng.standard_normal((3, size, size)).astype(np.float32)
    rerun = CellRerun(ready, bundle.cell_model("cpu"))
    removed = rng.random((100, len(rerun.cells))) < 0.3
    seen: list[int] = []
    together = rerun.logits(removed, "mean", 0, seen.append)
    assert sum(seen) == 100
    assert torch.get_num_threads() == 2
    torch.set_num_threads(1)
    np.testing.assert_array_equal(together, rerun.logits(removed, "mean", 0, seen.append))
    # Equal answers are not those of equal crops.
    assert len(np.unique(together, axis=0)) > 50


@pytest.mark.usefixtures("two_threads")
def test_runs_side_by_side_end_when_they_are_stopped() -> None:
    bundle = small_map_bundle()
    size = bundle.card.crop.size
    rerun = CellRerun(np.zeros((3, size, size), np.float32), bundle.cell_model("cpu"))
    done: list[int] = []

    def stop(runs: int) -> None:
        done.append(runs)
        raise InterruptedError("stopped")

    with pytest.raises(InterruptedError, match="stopped"):
        rerun.logits(np.zeros((2000, len(rerun.cells)), bool), "noise", 0, stop)
    assert done == [16]
    assert torch.get_num_threads() == 2
    assert not [each for each in threading.enumerate() if each.name.startswith("rerun")]


def test_curves_of_a_linear_model_are_its_closed_form() -> None:
    weights = np.random.default_rng(0).permutation(np.linspace(0.05, 1, 20))
    model = Linear(weights)
    found = measure(
        model, ("no", "yes"), FaithfulnessSettings(shares=(0.1, 0.3), fills=("nothing",))
    )
    counts = np.array([0, 2, 3, 6, 10, 14, 17, 18, 20])
    descending = np.concatenate([[0], np.sort(weights)[::-1].cumsum()])

    def p(odds: np.ndarray) -> np.ndarray:
        return 1 / (1 + np.exp(-odds))

    mine = found.orders["own"]
    np.testing.assert_allclose(mine.curves.shares, counts / 20)
    np.testing.assert_allclose(
        mine.curves.deletion, p(weights.sum() - descending[counts]), rtol=1e-5
    )
    np.testing.assert_allclose(mine.curves.insertion, p(descending[counts]), rtol=1e-5)
    assert found.selected == pytest.approx(3 / 20)
    assert mine.drop_without == pytest.approx(p(weights.sum()) - p(weights.sum() - descending[3]))
    assert mine.drop_with_only == pytest.approx(p(weights.sum()) - p(descending[3]))
    # Turned round, the best order is the worst.
    assert found.orders["worst"].gain == pytest.approx(-mine.gain, abs=1e-6)
    assert mine.gain > max(np.abs(found.orders["random"].draws))
    # Of 39 random orders none removes as much weight: 1 in 40 at most.
    assert len(found.random_drops) == 39
    assert found.more_than_random() is True
    ranks = np.argsort(np.argsort(weights))
    assert found.control == pytest.approx(np.corrcoef(ranks, ranks[::-1])[0, 1])


class RandomMap(Linear):
    """The same model with a map that knows nothing of it."""

    shape = (12, 12)

    def __init__(self, seed: int, grain: float) -> None:
        rng = np.random.default_rng(seed)
        # The weights lie in one place, as a cell does.
        y, x = np.indices(self.shape) - 5.5
        self.weights = (np.exp(-(y**2 + x**2) / 12) + 0.02 * rng.random(self.shape)).ravel() / 4
        self.cells, self.asked = np.arange(144), 0
        self.map = random_regions(self.shape, 1000 + seed, grain).ravel()

    def relevance(self, index: int) -> dict[str, OwnMap]:
        return {"own": OwnMap(self.map)}

    def scatter(self, maps: np.ndarray) -> np.ndarray:
        return maps

    def selection(self) -> np.ndarray:
        return self.map >= np.sort(self.map)[-22]

    def baselines(self) -> dict[str, np.ndarray]:
        return {}


@pytest.mark.slow
@pytest.mark.parametrize("grain", [0.0, 1 / 12, 1 / 6])
def test_random_maps_are_called_better_at_the_nominal_rate(grain: float) -> None:
    settings = FaithfulnessSettings(shares=(), fills=("nothing",), draws=1, scattered=0)
    wrong = [
        measure(RandomMap(seed, grain), ("no", "yes"), settings).more_than_random() is True
        for seed in range(400)
    ]
    # 2.5 % of 400 are 10; 20 or more happen to a right test once in 400 times.
    assert 1 <= sum(wrong) <= 19


def test_a_map_that_knows_the_weights_is_called_better() -> None:
    model = RandomMap(3, 0.0)
    model.map = model.weights.astype(np.float32)
    found = measure(model, ("no", "yes"), FaithfulnessSettings(fills=("nothing",)))
    assert found.more_than_random() is True


def test_each_image_has_random_orders_of_its_own_and_always_the_same() -> None:
    settings = FaithfulnessSettings(shares=(), fills=("nothing",), draws=1)
    first, second = (RandomMap(seed, 0.0) for seed in (1, 2))
    second.weights = first.weights
    drops = [measure(m, ("no", "yes"), settings).random_drops for m in (first, second, first)]
    assert not np.array_equal(drops[0], drops[1])
    np.testing.assert_array_equal(drops[0], drops[2])


def test_masks_that_orders_share_run_once() -> None:
    model = Linear(np.linspace(0.1, 1, 20))
    told: list[tuple[int, int]] = []
    found = measure(
        model,
        ("no", "yes"),
        FaithfulnessSettings(fills=("nothing",)),
        None,
        lambda _, *at: told.append(at),
    )
    # "worst" is "own" backwards, and so is "centre": each mask of one is a mask of the other.
    assert told[-1][0] == told[-1][1] == found.runs
    assert model.asked == found.runs + 1


@pytest.mark.parametrize("made", [small_bundle, small_map_bundle, small_tnet_bundle])
@pytest.mark.parametrize("kind", ["mean", "blur"])
def test_every_run_is_the_whole_model_on_the_filled_crop(made: Callable, kind: str) -> None:
    bundle = made()
    size = bundle.card.crop.size
    crop = np.random.default_rng(0).random((3, size, size)).astype(np.float32)
    rerun = CellRerun(crop, bundle.cell_model("cpu"), bundle.card.temperature)
    removed = np.random.default_rng(1).random((20, len(rerun.cells))) < 0.4
    found = rerun.logits(removed, kind, 0, lambda n: None)
    model = bundle.model()
    with torch.inference_mode():
        for i in (0, 7, 19):
            pixels = np.kron(removed[i].reshape(rerun.shape), np.ones((rerun.side,) * 2)) > 0
            filled = fill(crop, pixels, kind)
            expected = model(torch.from_numpy(filled[None])).logits[0].numpy()
            np.testing.assert_allclose(found[i], expected, atol=1e-4)


def test_the_selector_may_change_its_mind() -> None:
    bundle = small_bundle()
    rerun = CellRerun(
        np.random.default_rng(0).random((3, 16, 16)).astype(np.float32), bundle.cell_model("cpu")
    )
    (before,) = rerun.seen.evidence
    after = rerun.run(rerun.replace_pixels(before.mask()[None], "mean", 0), evidence=True).evidence[
        0
    ]
    assert not np.array_equal(before.indices, after.indices)
    assert before.k == after.k


@pytest.mark.parametrize("made", [small_bundle, small_map_bundle])
def test_necessity_is_what_captum_calls_ablation_of_the_selection(
    made: Callable[[], Bundle],
) -> None:
    captum = pytest.importorskip("captum.attr")
    bundle = made()
    crop = np.random.default_rng(2).random((16, 16, 3)).astype(np.float32)
    found = faithfulness_of_crop(
        crop,
        bundle,
        FaithfulnessSettings(shares=(0.1,), fills=("blur",), draws=1, scattered=0),
        "cpu",
    )
    ready = bundle.card.normalisation(np.ascontiguousarray(crop.transpose(2, 0, 1)[None]))
    model, index = bundle.model(), bundle.card.class_names.index(found.label)
    rerun = CellRerun(ready[0], model)
    kept = rerun.selection().reshape(16, 16)
    blurred = fill(ready[0], np.ones((16, 16), bool), "blur")

    def probability(x: torch.Tensor) -> torch.Tensor:
        return (model(x).logits / bundle.card.temperature).softmax(1)

    masks = torch.from_numpy(kept.astype(np.int64))[None, None].expand(1, 3, -1, -1)
    ablated = (
        captum.FeatureAblation(probability)
        .attribute(
            torch.from_numpy(ready),
            baselines=torch.from_numpy(blurred[None]),
            target=index,
            feature_mask=masks,
        )[0, 0]
        .numpy()
    )
    score = found.orders["selection"]
    assert score.drop_without == pytest.approx(float(ablated[kept][0]), abs=1e-5)
    assert score.drop_with_only == pytest.approx(float(ablated[~kept][0]), abs=1e-5)


def test_all_maps_are_scattered_as_the_model_scatters_its_own() -> None:
    rng = np.random.default_rng(0)
    crop = rng.random((3, 16, 16)).astype(np.float32)
    rerun = CellRerun(crop, small_map_bundle().cell_model("cpu"))
    (found,) = rerun.seen.evidence
    own = rerun.scatter(rerun.relevance(0)["selection"].values)
    assert set(rank(own)[: found.k]) == set(found.indices)
    # The same map under other values is the same selection; maps may come in numbers.
    other = rerun.scatter(np.stack([found.coarse.ravel() ** 3 - 2, rng.random(256)]))
    np.testing.assert_allclose(other[0], own, rtol=1e-6)
    assert len(set(rank(other[1])[: found.k]) & set(found.indices)) < found.k
    # Of a network that keeps the best of its scores, nothing is scattered.
    plain = CellRerun(crop, small_bundle().cell_model("cpu"))
    values = rng.random(256).astype(np.float32)
    assert plain.scatter(values) is values


class Turning(Linear):
    """The same model, which keeps first what its map puts last."""

    def __init__(self, weights: np.ndarray, own: dict[str, OwnMap]) -> None:
        super().__init__(weights)
        self.own = own

    def relevance(self, index: int) -> dict[str, OwnMap]:
        return self.own

    def scatter(self, maps: np.ndarray) -> np.ndarray:
        return -maps


def test_maps_are_scattered_by_what_they_are_and_not_by_their_name() -> None:
    weights = np.random.default_rng(0).permutation(np.linspace(0.05, 1, 20))
    values = weights.astype(np.float32)
    own = {
        "attention": OwnMap(values),
        "kept": OwnMap(values, scattered=True),
        "selection": OwnMap(values),
    }
    settings = FaithfulnessSettings(fills=("nothing",))
    found = measure(Turning(weights, own), ("no", "yes"), settings).orders
    assert found["kept"].gain > 0
    assert found["selection"].gain == pytest.approx(-found["kept"].gain, abs=1e-6)
    assert found["attention"].gain == found["selection"].gain


def test_of_a_network_that_scatters_only_the_order_of_kept_pixels_is_scattered_already() -> None:
    crop = np.random.default_rng(0).random((3, 16, 16)).astype(np.float32)
    rerun = CellRerun(crop, small_map_bundle().cell_model("cpu"))
    maps, (seen,) = rerun.relevance(0), rerun.seen.evidence
    assert {name: each.scattered for name, each in maps.items()} == {
        "selection": False,
        "attention": True,
    }
    # The pixels that were kept come first, the one that was attended to most before all.
    order = rank(maps["attention"].values)
    assert set(order[: seen.k]) == set(seen.indices)
    assert order[0] == seen.indices[seen.weights().argmax()]


def test_a_set_of_cells_is_measured_like_each_alone() -> None:
    image = np.random.default_rng(0).integers(0, 256, (60, 80, 3)).astype(np.uint8)
    field = Field.from_array(image, axes="YXC", pixel_size=0.5, modality="brightfield")
    labels = np.zeros((60, 80), np.int32)
    labels[20:28, 20:26], labels[30:36, 50:60] = 4, 9
    cells, bundle = cells_from_labels(labels, 0.5), small_bundle()
    told: list[tuple[int, int]] = []
    together = faithfulness_of_set(
        field, cells, bundle, None, QUICK, "cpu", progress=lambda _, *at: told.append(at)
    )
    assert together.ids == (4, 9)
    assert told == [(1, 2), (2, 2)]
    alone = faithfulness_of_cell(field, cells, 1, bundle, QUICK, "cpu")
    mine, theirs = (dataclasses.replace(x, seconds=0).to_dict() for x in (alone, together.items[1]))
    assert mine == theirs
    predicted = classify_cells(field, cells, bundle, "cpu")
    assert [item.label for item in together.items] == predicted.labels
    assert together.items[0].probability == pytest.approx(float(predicted.confidence[0]), abs=1e-5)
    # A crop pixel is an image pixel here (8 µm over 16 pixels at 0.5 µm).
    selection = predicted.evidence[1]
    places = np.floor(selection.frame.to_image(selection.places) + 0.5).astype(int)
    inside = np.mean([labels[y, x] == 9 if 0 <= y < 60 and 0 <= x < 80 else 0 for y, x in places])
    assert alone.mass_in_mask == pytest.approx(inside)


@pytest.mark.slow
def test_what_was_predicted_is_measured_with_its_own_settings() -> None:
    bundle, tnet = small_bundle(), small_tnet_bundle()
    field = Field.from_array(rough_field(), axes="YXC", pixel_size=0.5, modality="brightfield")
    cells = cells_from_points([(20, 20), (30, 44)], field.shape, diameter=8, pixel_size=0.5)
    predicted = classify_cells(field, cells, bundle, "cpu")
    found = measure_faithfulness(predicted, bundle, field, QUICK, "cpu", only=[1])
    assert found.ids == (int(cells.ids[1]),)
    assert found.items[0].label == predicted.labels[1]

    # Not as trained: the number of crops is that of the prediction.
    for locations in ((1, 1), (3, 2)):
        whole = classify_field(field, tnet, locations, "cpu")
        measured = measure_faithfulness(whole, tnet, field, QUICK, "cpu")
        expected = faithfulness_of_field(field, tnet, locations, QUICK, "cpu")
        assert measured.probability == pytest.approx(whole.confidence, abs=1e-5)
        assert measured.selected == expected.selected

    slide, span = slide_of(16)
    assert measure_faithfulness(slide, span, settings=QUICK, device="cpu").label == slide.label
    with pytest.raises(ValueError, match="load its own model"):
        measure_faithfulness(dataclasses.replace(predicted, model_hash="other"), bundle, field)
    with pytest.raises(ValueError, match="give the image"):
        measure_faithfulness(predicted, bundle)


def test_work_stops_when_asked_to() -> None:
    image = np.random.default_rng(0).integers(0, 256, (40, 40, 3)).astype(np.uint8)
    field = Field.from_array(image, axes="YXC", pixel_size=0.5, modality="brightfield")
    labels = np.zeros((40, 40), np.int32)
    labels[10:15, 10:15], labels[25:30, 25:30] = 1, 2
    cells = cells_from_labels(labels, 0.5)

    def stop(stage: str, done: int, total: int) -> None:
        raise InterruptedError

    with pytest.raises(InterruptedError):
        faithfulness_of_cell(field, cells, 0, small_bundle(), QUICK, "cpu", progress=stop)
    stream = iter_faithfulness(field, cells, small_bundle(), None, QUICK, "cpu")
    assert next(stream).runs > 0
    stream.close()


def test_stability_lies_between_chance_and_one() -> None:
    every = SparseAttnNet(dataclasses.replace(SIZES, k=256)).eval()
    all_kept = CellRerun(np.random.default_rng(0).random((3, 16, 16)).astype(np.float32), every)
    assert all_kept.stability(0) == {"shift": 1.0, "noise": 1.0, "chance": 1.0}
    net = small_bundle().cell_model("cpu")
    noisy = CellRerun(np.random.default_rng(0).random((3, 16, 16)).astype(np.float32), net)
    found = noisy.stability(0)
    assert found["chance"] == pytest.approx((38 / 256) / (2 - 38 / 256))
    assert found["chance"] < found["noise"] <= 1


def test_shuffling_keeps_each_tensors_numbers_and_the_model() -> None:
    net = small_tnet()
    before = {name: tensor.clone() for name, tensor in net.state_dict().items()}
    other = shuffle_weights(net, 3)
    changed = 0
    for name, tensor in other.state_dict().items():
        assert torch.equal(tensor.flatten().sort().values, before[name].flatten().sort().values)
        changed += not torch.equal(tensor, before[name])
        assert torch.equal(net.state_dict()[name], before[name])
    assert changed > 10


def rough_field(height: int = 160, width: int = 200) -> np.ndarray:
    return np.random.default_rng(0).integers(0, 256, (height, width, 3)).astype(np.uint8)


def test_a_field_with_nothing_removed_is_what_it_was() -> None:
    bundle, field = small_tnet_bundle(), Field.from_array(rough_field(), axes="YXC")
    rerun = FieldRerun(field, bundle, (2, 1), "cpu")
    assert rerun.shape == (13, 16)
    whole = classify_field(field, bundle, (2, 1), "cpu")
    np.testing.assert_allclose(rerun.seen.logits, whole.traversal.logits, atol=1e-4)
    np.testing.assert_array_equal(rerun.seen.boxes, whole.traversal.boxes)
    maps = rerun.relevance(1)
    assert maps["contribution"].values.shape == (13 * 16,)


def test_nothing_of_a_removed_tile_reaches_the_model() -> None:
    # Of 256 pixels a tile is 16, and a pixel of every crop lies in one tile.
    bundle, image = small_tnet_bundle(), rough_field(256, 256)
    gone = np.zeros((1, 16, 16), bool)
    gone[0, 3:9, 4:11] = True
    other = image.copy()
    other[3 * 16 : 9 * 16, 4 * 16 : 11 * 16] = 0
    found = [
        FieldRerun(Field.from_array(x, axes="YXC"), bundle, (2, 1), "cpu").run(gone).logits
        for x in (image, other)
    ]
    untouched = FieldRerun(Field.from_array(other, axes="YXC"), bundle, (2, 1), "cpu").seen.logits
    torch.testing.assert_close(found[0], found[1], rtol=1e-4, atol=1e-4)
    assert np.abs(untouched - found[0][0].numpy()).max() > 0.1


@pytest.mark.parametrize("kind", ["blur", "noise", "background"])
def test_other_fills_change_only_what_is_removed(kind: str) -> None:
    bundle = small_tnet_bundle()
    rerun = FieldRerun(ArrayPyramid(rough_field(), pixel_size=0.5), bundle, (2, 1), "cpu")
    gone = np.zeros((2, *rerun.shape), bool)
    gone[1, 5:9, 5:9] = True
    logits = rerun.run(gone, kind, 1).logits.numpy()
    np.testing.assert_allclose(logits[0], rerun.seen.logits, atol=1e-4)
    assert np.abs(logits[1] - logits[0]).max() > 1e-3
    np.testing.assert_allclose(rerun.run(gone, kind, 1).logits.numpy(), logits, atol=1e-5)


def test_faithfulness_of_a_field_has_verdicts() -> None:
    bundle, field = small_tnet_bundle(), Field.from_array(rough_field(), axes="YXC")
    mask = np.zeros((13, 16), bool)
    mask[2:8, 2:8] = True
    found = faithfulness_of_field(field, bundle, (2, 1), QUICK, "cpu", mask=mask)
    assert found.own == ("contribution", "crops")
    known = {"random", "random scattered", "edges", "centre", "dark", "dark blurred"}
    assert set(found.baselines) == known
    assert 0 <= found.mass_in_mask <= 1
    assert found.mask_share == pytest.approx(36 / 208)
    with pytest.raises(ValueError, match="mask of tiles"):
        faithfulness_of_field(field, bundle, (2, 1), QUICK, "cpu", mask=mask[:3])


def test_the_control_of_a_field_is_the_map_of_the_shuffled_network() -> None:
    bundle, field = small_tnet_bundle(), Field.from_array(rough_field(), axes="YXC")
    rerun = FieldRerun(field, bundle, (2, 1), "cpu")
    other = small_tnet_bundle()
    changed = dataclasses.replace(other, state=shuffle_weights(bundle.model(), 5).state_dict())
    expected = FieldRerun(field, changed, (2, 1), "cpu").relevance(1)["contribution"].values
    np.testing.assert_allclose(rerun.control(1, 5), expected, atol=1e-6)


def test_a_network_that_remembers_gives_the_same_and_computes_once() -> None:
    net, images = small_tnet(), torch.randn(2, 3, 64, 64)
    twin = cache_features(net)
    with torch.inference_mode():
        first, second, plain = twin(images), twin(images), net(images)
    torch.testing.assert_close(first.logits, plain.logits, rtol=1e-4, atol=1e-4)
    torch.testing.assert_close(first.logits, second.logits)
    assert twin.backbone.computed == 2 * 5
    assert not hasattr(net.backbone, "computed")


def slide_of(n: int = 40, seed: int = 0) -> tuple[SlidePrediction, object]:
    bundle, rng = small_span_bundle(), np.random.default_rng(seed)
    cells = np.argwhere(rng.random((9, 8)) < 0.8)[:n].astype(np.int32)
    features = rng.normal(size=(len(cells), 128)).astype(np.float32)
    known = FeatureSet(
        features, cells, 64.0, 64.0, (0.0, 0.0), 1.0, "none", "0" * 64, "", None,
        np.zeros(len(cells), bool),
    )  # fmt: skip
    pyramid = ArrayPyramid(np.zeros((640, 640, 3), np.uint8), pixel_size=1.0)
    return classify_slide(pyramid, bundle, features=known, device="cpu"), bundle


def test_patches_are_dropped_as_if_they_had_never_been() -> None:
    prediction, bundle = slide_of()
    rerun, known = prepare_slide(prediction, bundle, "cpu"), prediction.features
    gone = np.random.default_rng(1).random(len(known)) < 0.3
    dropped = rerun.run(gone).logits
    fewer = torch.from_numpy(known.features[~gone])
    cells = torch.from_numpy(known.cells[~gone].astype(np.int64))
    with torch.inference_mode():
        expected = bundle.model()(fewer, cells).logits
    torch.testing.assert_close(dropped, expected, rtol=1e-4, atol=1e-4)


def test_replaced_patches_get_ordinary_features() -> None:
    prediction, bundle = slide_of()
    rerun, known = prepare_slide(prediction, bundle, "cpu"), prediction.features
    gone = np.arange(len(known)) < 7
    mean = rerun.replace_features(gone, "mean", 0).numpy()
    np.testing.assert_allclose(mean[:7], np.tile(known.features.mean(axis=0), (7, 1)), atol=1e-5)
    usual = rerun.replace_features(gone, "ordinary", 0).numpy()
    np.testing.assert_array_equal(usual[7:], known.features[7:])
    assert all((known.features == row).all(axis=1).any() for row in usual[:7])
    with pytest.raises(ValueError, match="no fill"):
        rerun.run(gone, "grey")
    with pytest.raises(ValueError, match="at least one patch"):
        rerun.run(np.ones(len(known), bool))


def test_edges_of_a_slide_are_distances_to_neighbours() -> None:
    prediction, bundle = slide_of()
    rerun, known = prepare_slide(prediction, bundle, "cpu"), prediction.features
    found = rerun.baselines()["edges"]
    at = {tuple(cell): i for i, cell in enumerate(known.cells.tolist())}
    for (x, y), i in at.items():
        around = [at[p] for p in ((x + 1, y), (x - 1, y), (x, y + 1), (x, y - 1)) if p in at]
        apart = [np.linalg.norm(known.features[i] - known.features[j]) for j in around]
        assert found[i] == pytest.approx(np.mean(apart) if apart else 0, rel=1e-4)


def test_faithfulness_of_a_slide() -> None:
    prediction, bundle = slide_of(16)
    found = faithfulness_of_slide(prediction, bundle, QUICK, "cpu")
    assert found.fills == ("drop", "ordinary", "mean")
    assert found.selected == pytest.approx(2 / 16)
    assert found.label == prediction.label
    p = softmax(prepare_slide(prediction, bundle, "cpu").whole.logits[0].numpy(), 1.0)
    assert found.probability == pytest.approx(p.max(), abs=1e-5)
    with pytest.raises(ValueError, match="same model"):
        faithfulness_of_slide(dataclasses.replace(prediction, model_hash="other"), bundle)
    segmenting = dataclasses.replace(small_span_bundle(segments=True))
    with pytest.raises(ValueError, match="classify slides"):
        faithfulness_of_slide(prediction, segmenting)


@pytest.mark.parametrize(
    "wrong", [{"shares": (0.6,)}, {"fills": ()}, {"draws": 0}, {"shares": (0.0,)}]
)
def test_impossible_settings_are_refused(wrong: dict[str, object]) -> None:
    with pytest.raises(ValueError):  # noqa: PT011 - the message differs
        FaithfulnessSettings(**wrong)


def test_the_grid_of_shares_is_symmetric() -> None:
    for selected, n in ((0.15, 4096), (0.5, 256), (0.97, 33), (0.0, 12)):
        counts = THOROUGH.counts(selected, n)
        assert counts[0] == 0
        assert counts[-1] == n
        np.testing.assert_array_equal(np.sort(n - counts)[counts != n / 2], counts[counts != n / 2])
