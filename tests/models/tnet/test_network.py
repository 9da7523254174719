"""TNet against the authors' recorded run, and against a brute-force reference."""

from __future__ import annotations

import itertools
import json
import math
from pathlib import Path

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from safetensors import safe_open
from torch import Tensor

from napari_sparseattn.models.backbones import Backbone, SmallBackbone
from napari_sparseattn.models.tnet.crops import Crops, TensorSource, move_crops, reduce_crop
from napari_sparseattn.models.tnet.layers import (
    CandidateGrid,
    LocationModule,
    levels_of,
    sample_map,
    select_candidates,
)
from napari_sparseattn.models.tnet.network import TNet, TNetConfig, load_official, tnet_from_config

WIDTHS = (8, 8, 16)


def small(seed: int = 0, **config: object) -> TNet:
    """A float64 TNet with random weights, the location module's made decisive."""
    torch.manual_seed(seed)
    sizes = {"n_classes": 3, "backbone": {"name": "small", "widths": WIDTHS}, **config}
    net = TNet(TNetConfig(**sizes)).double().eval()
    for parameter in net.parameters():
        torch.nn.init.normal_(parameter, std=0.5)
    return net


# ---------------------------------------------------------------- golden files


class Stub(Backbone):
    """The stub backbone that the golden files' metadata describe."""

    def __init__(self, n: int, location: Tensor, feature: Tensor) -> None:
        super().__init__(location.shape[1], feature.shape[1])
        self.n = n
        self.register_buffer("location", location)
        self.register_buffer("feature", feature)

    def forward(self, crops: Tensor) -> tuple[Tensor, Tensor]:
        def blocks(k: int) -> Tensor:
            return F.avg_pool2d(crops, crops.shape[-1] // k)

        flat = blocks(4).permute(0, 2, 3, 1).flatten(1)
        return torch.einsum("bchw,cd->bdhw", blocks(self.n), self.location), F.relu(
            flat @ self.feature
        )


@pytest.mark.parametrize("name", ["grid3_three_levels", "grid5_padded"])
def test_same_as_the_authors_pipeline(shared: Path, name: str) -> None:
    path = shared / "golden" / "tnet" / f"{name}.safetensors"
    if not path.exists():
        pytest.skip(f"needs {path}")
    with safe_open(path, "pt") as file:
        told = file.metadata()
        golden = {key: file.get_tensor(key) for key in file.keys()}  # noqa: SIM118
    n, locations = int(told["grid"]), json.loads(told["locations"])
    net = load_official(
        {key: value for key, value in golden.items() if key.startswith("weights.")},
        Stub(n, golden["stub.location_matrix"], golden["stub.feature_matrix"]),
        base=int(told["base"]),
        grid=n,
        overlap=float(told["crop_over_parent"]),
        locations=locations,
        position_width=int(told["position_width"]),
    )
    with torch.inference_mode():
        output = net(golden["images"], locations)
    assert len(output.levels) == int(told["levels"])
    close = {"rtol": 1e-5, "atol": 1e-5}
    torch.testing.assert_close(output.logits, golden["logits"], **close)
    total = torch.zeros(len(golden["images"]))
    for depth, level in enumerate(output.levels):
        expected = golden[f"level{depth}.logits_per_feature"]
        torch.testing.assert_close(level.logits, expected, **close)
        if level.probabilities is not None:
            expected = golden[f"level{depth}.probabilities"]
            torch.testing.assert_close(level.probabilities, expected, rtol=0, atol=1e-5)
        if depth:
            expected = golden[f"level{depth - 1}.logprob_of_chosen"].flatten()
            torch.testing.assert_close(level.crops.log_prob, expected, rtol=0, atol=1e-5)
        total.index_add_(0, level.crops.image, level.crops.log_prob)
    torch.testing.assert_close(total, golden["location_log_probs"].flatten(), rtol=0, atol=1e-5)


# ------------------------------------------------------- brute-force reference


def by_area(image: np.ndarray, base: int) -> np.ndarray:
    """Mean over each output pixel's area, summed pixel by pixel."""
    side = image.shape[-1]
    line = np.zeros((base, side))
    for i, j in itertools.product(range(base), range(side)):
        low, high = i * side / base, (i + 1) * side / base
        line[i, j] = max(0.0, min(high, j + 1) - max(low, j)) / (high - low)
    return np.einsum("ih,chw,jw->cij", line, image, line)


def bilinear(image: np.ndarray, base: int) -> np.ndarray:
    """Half-pixel centres, edges repeated, one output pixel at a time."""
    side = image.shape[-1]
    out = np.zeros((len(image), base, base))
    for i, j in itertools.product(range(base), range(base)):
        y, x = ((v + 0.5) * side / base - 0.5 for v in (i, j))
        for a, b in itertools.product((0, 1), (0, 1)):
            r, c = math.floor(max(y, 0)) + a, math.floor(max(x, 0)) + b
            wy = 1 - abs(max(y, 0) - r)
            wx = 1 - abs(max(x, 0) - c)
            out[:, i, j] += wy * wx * image[:, min(r, side - 1), min(c, side - 1)]
    return out


def reference(
    net: TNet, image: np.ndarray, locations: tuple[int, ...]
) -> tuple[np.ndarray, list[list[tuple[int, ...]]]]:
    """Logits, and the path of candidates of every crop: all candidates cut, then selected."""
    config, side = net.config, image.shape[-1]
    n = config.grid
    weights = {name: value.numpy() for name, value in net.state_dict().items()}

    def linear(name: str, x: np.ndarray) -> np.ndarray:
        kernel = weights[f"{name}.weight"]
        return kernel.reshape(kernel.shape[0], -1) @ x + weights[f"{name}.bias"]

    def swish(x: np.ndarray) -> np.ndarray:
        return x / (1 + np.exp(-x))

    def look(crop: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        shrink = config.antialias and crop.shape[-1] > config.base
        ready = by_area(crop, config.base) if shrink else bilinear(crop, config.base)
        with torch.inference_mode():
            features, pooled = net.backbone(torch.from_numpy(ready)[None])
        return features[0].numpy(), pooled[0].numpy()

    def feature(pooled: np.ndarray, place: tuple[float, float, float]) -> np.ndarray:
        width = net.position.width
        count = width // 6
        code = []
        for axis, value in enumerate(place):
            powers = [100 ** (-i / (count - 1)) if count > 1 else 1.0 for i in range(count)]
            if config.position == "centre" and axis < 2:
                powers = [math.pi / p for p in powers]
            code += [math.sin(value * p) for p in powers] + [math.cos(value * p) for p in powers]
        code += [0.0] * (width - len(code))
        return swish(pooled + linear("position.linear", np.array(code)))

    def score(features: np.ndarray, centres: list[float]) -> np.ndarray:
        channels, size, _ = features.shape
        sampled = np.zeros((channels, n, n))
        for i, j in itertools.product(range(n), range(n)):
            if config.sampling == "strided":
                step = size // n
                first = (size - (n - 1) * step - 1) // 2
                sampled[:, i, j] = features[:, first + i * step, first + j * step]
                continue
            y, x = (min(max(c * size - 0.5, 0), size - 1) for c in (centres[i], centres[j]))
            for r, c in itertools.product(range(size), range(size)):
                sampled[:, i, j] += (
                    max(0, 1 - abs(y - r)) * max(0, 1 - abs(x - c)) * features[:, r, c]
                )
        hidden = np.stack(
            [swish(linear("location.init", v)) for v in sampled.reshape(channels, -1).T]
        )
        context = swish(linear("location.squeeze", hidden.mean(0)))
        gate = 1 / (1 + np.exp(-linear("location.excite", context)))
        scores = []
        for index, value in enumerate(hidden * gate):
            yx = np.array([2 * (index // n) / (n - 1) - 1, 2 * (index % n) / (n - 1) - 1])
            yx = yx * weights["location.place_scale"] + weights["location.place_offset"]
            joined = np.concatenate([value, yx])
            scores.append(linear("location.score", swish(linear("location.final", joined)))[0])
        unit = np.array(scores) / np.linalg.norm(scores)
        return np.exp(unit) / np.exp(unit).sum()

    # Every candidate of every level first: {path: (pixels, top, left, place)}.
    whole = {(): (image, 0.0, 0.0, (0, 0))}
    tree, parents = dict(whole), whole
    for _ in locations:
        found = {}
        for path, (pixels, top, left, (py, px)) in parents.items():
            size = pixels.shape[-1]
            child = round(size * config.overlap)
            stride = math.ceil((size - child) / (n - 1))
            total = child + (n - 1) * stride - size
            before = math.ceil(total / 2)
            padded = np.pad(pixels, ((0, 0), *[(before, total - before)] * 2))
            for c in range(n * n):
                y, x = c // n * stride, c % n * stride
                cut = padded[:, y : y + child, x : x + child]
                place = (py * n + c // n, px * n + c % n)
                found[*path, c] = (cut, top + y - before, left + x - before, place)
        tree |= found
        parents = found
    # Then select.
    kept: list[list[tuple[int, ...]]] = [[()]]
    features = []
    for depth in range(len(locations) + 1):
        following = []
        for path in kept[depth]:
            pixels, top, left, place = tree[path]
            size = pixels.shape[-1]
            features_map, pooled = look(pixels)
            if config.position == "centre":
                place = tuple(2 * (at + size / 2) / side - 1 for at in (top, left))
            features.append(feature(pooled, (*place, depth)))
            if depth == len(locations):
                continue
            offsets = [tree[*path, c * (n + 1)][1] - top for c in range(n)]
            child = tree[*path, 0][0].shape[-1]
            p = score(features_map, [(offset + child / 2) / size for offset in offsets])
            best = np.argsort(-p, kind="stable")[: locations[depth]]
            following += [(*path, int(c)) for c in sorted(best)]
        kept.append(following)
    return linear("head", np.mean(features, axis=0)), kept[:-1]


@pytest.mark.parametrize(
    ("side", "options"),
    [
        (64, {"grid": 3, "overlap": 0.5, "base": 16, "locations": (2, 1)}),
        # 61 -> 24 -> 10: padding at both levels, and the last crop enlarged
        (61, {"grid": 4, "overlap": 0.4, "base": 16, "locations": (3, 2)}),
        (50, {"grid": 5, "overlap": 0.35, "base": 20, "locations": (3,), "position": "index"}),
        (
            61,
            {
                "grid": 4, "overlap": 0.4, "base": 32, "locations": (2, 2),
                "position": "index", "sampling": "strided", "antialias": False,
            },
        ),
    ],
    ids=["unpadded", "padded", "grid5", "padded as the paper"],
)  # fmt: skip
def test_same_as_cutting_every_candidate(side: int, options: dict[str, object]) -> None:
    net = small(image_size=side, **options)
    images = torch.randn(2, 3, side, side, dtype=torch.float64)
    with torch.inference_mode():
        output = net(images)
    for i, image in enumerate(images.numpy()):
        logits, paths = reference(net, image, net.config.locations)
        np.testing.assert_allclose(output.logits[i], logits, rtol=0, atol=1e-6)
        assert chosen_paths(output, i) == paths


#: Our names of the layers, and the authors', as their checkpoints have them.
THEIRS = {
    "location.init": "location_prediction/init/conv2d",
    "location.squeeze": "location_prediction/se/conv2d_1",
    "location.excite": "location_prediction/se/conv2d_2",
    "location.final": "location_prediction/final/conv2d",
    "location.score": "location_prediction/output_linear",
    "position.linear": "feature_posBurn/linear",
    "head": "feature_extraction/logits_layer/linear",
}


@pytest.mark.parametrize(
    ("side", "grid", "overlap", "locations"),
    [(96, 3, 0.5, (2, 1)), (120, 5, 0.35, (3,))],
    ids=["three levels", "padded"],
)
def test_weights_in_the_authors_names_give_the_plain_function(
    side: int, grid: int, overlap: float, locations: tuple[int, ...]
) -> None:
    torch.manual_seed(3)
    matrices = torch.randn(2, 48, 96, dtype=torch.float64)
    stub = Stub(grid, matrices[0, :3, :16].clone(), matrices[1].clone())
    config = TNetConfig(
        n_classes=7, base=side // 2, grid=grid, overlap=overlap, locations=locations,
        position="index", position_width=24, sampling="strided", antialias=False,
    )  # fmt: skip
    net = TNet(config, stub).double().eval()
    for parameter in net.parameters():
        torch.nn.init.normal_(parameter, std=0.5)
    state = net.state_dict()
    weights = {
        f"weights.TNet/{theirs}/{there}": state[f"{ours}.{here}"]
        for ours, theirs in THEIRS.items()
        for here, there in (("weight", "kernel"), ("bias", "bias"))
    }
    for i, axis in enumerate(("height", "width")):
        place = f"weights.TNet/location_prediction/{axis}_scaling"
        weights[f"{place}/kernel"] = state["location.place_scale"][i].view(1, 1)
        weights[f"{place}/bias"] = state["location.place_offset"][i].view(1)
    loaded = load_official(
        weights, stub, base=side // 2, grid=grid, overlap=overlap, locations=locations,
        position_width=24,
    ).double()  # fmt: skip
    images = torch.randn(2, 3, side, side, dtype=torch.float64)
    with torch.inference_mode():
        output = loaded(images, locations)
    for i, image in enumerate(images.numpy()):
        logits, paths = reference(net, image, locations)
        # The loaded network holds its weights in float32.
        np.testing.assert_allclose(output.logits[i], logits, rtol=0, atol=1e-5)
        assert chosen_paths(output, i) == paths


def chosen_paths(output: object, image: int) -> list[list[tuple[int, ...]]]:
    """Candidates on the way to each crop of an image, level by level."""
    paths, rows = [[()]], {image: ()}
    for level in output.levels[1:]:
        crops = level.crops
        rows = {
            row: (*rows[int(crops.parent[row])], int(crops.candidate[row]))
            for row in range(len(crops.image))
            if crops.image[row] == image
        }
        paths.append(list(rows.values()))
    return paths


def test_padding_is_really_met() -> None:
    first = CandidateGrid(61, 4, 0.4)
    second = CandidateGrid(first.side, 4, 0.4)
    assert (first.side, first.padding, second.side, second.padding) == (24, 1, 10, 1)
    assert first.starts[-1] + first.side == 62  # one pixel beyond, behind


# ------------------------------------------------------------------- geometry


@pytest.mark.parametrize(
    ("parent", "n", "overlap", "side", "stride", "padding"),
    [
        (896, 3, 0.5, 448, 224, 0),
        (448, 5, 0.35, 157, 73, 1),
        (224, 5, 0.34375, 77, 37, 1),
        (130, 5, 0.35, 46, 21, 0),
        (10, 3, 0.5, 5, 3, 1),
    ],
)
def test_candidates_as_in_the_paper(
    parent: int, n: int, overlap: float, side: int, stride: int, padding: int
) -> None:
    grid = CandidateGrid(parent, n, overlap)
    assert (grid.side, grid.stride, grid.padding) == (side, stride, padding)
    assert grid.starts == tuple(i * stride - padding for i in range(n))
    assert grid.starts[0] <= 0
    assert grid.starts[-1] + side >= parent


@pytest.mark.parametrize(
    ("side", "base", "overlap", "levels"),
    [(896, 224, 0.5, 3), (448, 224, 0.5, 2), (448, 224, 0.35, 2), (224, 77, 0.34375, 2),
     (100_352, 224, 0.5, 10), (100, 224, 0.5, 1)],
)  # fmt: skip
def test_levels_as_in_the_paper(side: int, base: int, overlap: float, levels: int) -> None:
    assert levels_of(side, base, overlap) == levels


def test_a_large_slide_has_the_documented_number_of_crops() -> None:
    config = TNetConfig(image_size=896, base=224, locations=(4, 2, 1))
    locations = config.locations_for(100_352)
    assert locations == (4, 2, *[1] * 7)
    crops = list(itertools.accumulate(locations, lambda a, b: a * b, initial=1))
    assert sum(crops) == 69


@pytest.mark.parametrize(("side", "base"), [(30, 16), (32, 16), (16, 16), (9, 16), (61, 7)])
def test_reduction_is_the_mean_over_areas(side: int, base: int) -> None:
    image = torch.randn(2, 3, side, side, dtype=torch.float64)
    for one, made in zip(image.numpy(), reduce_crop(image, base).numpy(), strict=True):
        expected = by_area(one, base) if side > base else bilinear(one, base)
        np.testing.assert_allclose(made, expected, atol=1e-12)


def test_map_is_read_at_the_candidates_centres() -> None:
    size, grid = 8, CandidateGrid(64, 3, 0.5)
    y, x = torch.meshgrid(*[(torch.arange(size) + 0.5) / size] * 2, indexing="ij")
    sampled = sample_map(torch.stack([y, x])[None], grid, "centres")[0]
    for i, j in itertools.product(range(3), range(3)):
        assert sampled[:, i, j].tolist() == pytest.approx([grid.centres[i], grid.centres[j]])
    strided = sample_map(torch.stack([y, x])[None], grid, "strided")[0]
    assert strided[0, 0, 0] != pytest.approx(grid.centres[0])


def test_strided_reading_of_too_small_a_map_is_refused() -> None:
    with pytest.raises(ValueError, match="centres"):
        sample_map(torch.zeros(1, 2, 2, 2), CandidateGrid(64, 3, 0.5), "strided")


# ----------------------------------------------------------- locations, choice


@pytest.mark.parametrize(("n", "low", "high"), [(3, 0.0415, 0.2653), (5, 0.0148, 0.1036)])
def test_probabilities_have_the_papers_bounds(n: int, low: float, high: float) -> None:
    torch.manual_seed(0)
    module = LocationModule(4)
    for parameter in module.parameters():
        torch.nn.init.normal_(parameter, std=3)
    p = module(torch.randn(500, 4, n, n) * 10)
    torch.testing.assert_close(p.sum(1), torch.ones(500))
    assert low - 1e-3 <= p.min() < p.max() <= high + 1e-3


def test_selection_is_the_top_k_in_raster_order() -> None:
    p = torch.tensor([[0.1, 0.4, 0.2, 0.3], [0.25, 0.25, 0.25, 0.25]])
    chosen, rank = select_candidates(p, 2)
    assert chosen.tolist() == [[False, True, False, True], [True, True, False, False]]
    assert rank.tolist() == [[3, 0, 2, 1], [0, 1, 2, 3]]
    chosen, _ = select_candidates(p, 2, torch.tensor([[True, False, True, False]] * 2))
    assert chosen.tolist() == [[True, False, True, False]] * 2


def test_noise_explores_and_is_off_by_default() -> None:
    p = torch.tensor([[0.26, 0.25, 0.25, 0.24]]).repeat(400, 1)
    assert select_candidates(p, 1)[0][:, 0].all()
    chosen, _ = select_candidates(p, 1, noise=1.0, generator=torch.Generator().manual_seed(0))
    # Gumbel noise of scale 1 draws from the probabilities themselves.
    shares = chosen.float().mean(0)
    assert shares.tolist() == pytest.approx(p[0].tolist(), abs=0.07)


@pytest.mark.parametrize("k", [0, 10])
def test_impossible_numbers_of_locations_are_refused(k: int) -> None:
    net = small(image_size=32, base=16, locations=(1,))
    with pytest.raises(ValueError, match="between 1 and 9"):
        net(torch.zeros(1, 3, 32, 32, dtype=torch.float64), [k])


# ------------------------------------------------------------------ traversal


def test_contributions_add_up_to_the_logits() -> None:
    net = small(image_size=64, base=16, locations=(3, 2))
    output = net(torch.randn(3, 3, 64, 64, dtype=torch.float64))
    total = torch.zeros(3, 3, dtype=torch.float64)
    for level, shares in zip(output.levels, output.contributions(), strict=True):
        total = total.index_add(0, level.crops.image, shares)
    torch.testing.assert_close(total, output.logits, rtol=0, atol=1e-12)
    assert output.counts.tolist() == [1 + 3 + 6] * 3


def test_one_backbone_call_per_level_and_any_k() -> None:
    net = small(image_size=64, base=16, locations=(3, 2))
    calls: list[int] = []
    net.backbone.register_forward_hook(lambda _, inputs, __: calls.append(len(inputs[0])))
    images = torch.randn(2, 3, 64, 64, dtype=torch.float64)
    for locations, expected in [((1, 1), [2, 2, 2]), ((9, 9), [2, 18, 162]), ((), [2])]:
        calls.clear()
        net(images, locations)
        assert calls == expected


def test_images_do_not_influence_each_other() -> None:
    net = small(image_size=64, base=16, locations=(2, 2))
    images = torch.randn(3, 3, 64, 64, dtype=torch.float64)
    together = net(images).logits
    alone = torch.cat([net(image[None]).logits for image in images])
    torch.testing.assert_close(together, alone, rtol=0, atol=1e-12)


def test_pixels_between_the_visited_crops_do_not_matter_below_the_root() -> None:
    net = small(image_size=64, base=16, locations=(1, 1))
    image = torch.randn(1, 3, 64, 64, dtype=torch.float64)
    before = net(image)
    # Within 4 x 4 blocks, root and first level see only means over 4 and 2 pixels.
    top, left, side = before.levels[2].crops.boxes[0].tolist()
    changed = image.clone()
    ripple = torch.tensor([[1.0, -1.0], [-1.0, 1.0]], dtype=torch.float64).repeat(32, 32)
    mask = torch.ones(64, 64, dtype=torch.bool)
    mask[top : top + side, left : left + side] = False
    changed[:, :, mask] += ripple[mask]
    torch.testing.assert_close(net(changed).logits, before.logits, rtol=0, atol=1e-10)
    changed = image + ripple
    assert not torch.allclose(net(changed).logits, before.logits, atol=1e-6)


def test_an_oblong_image_is_centred_and_nothing_off_it_is_chosen() -> None:
    net = small(image_size=64, base=16, grid=5, overlap=0.25, locations=(4,))
    output = net(torch.randn(2, 3, 20, 64, dtype=torch.float64))
    assert output.levels[0].crops.boxes.tolist() == [[-22, 0, 64]] * 2
    many = net(torch.randn(1, 3, 20, 64, dtype=torch.float64), [25])
    crops = many.levels[1].crops
    assert len(crops.image) == 15  # the outer rows of candidates show nothing
    assert (crops.seen[:, 2:] > crops.seen[:, :2]).all()


def test_large_crops_are_cut_a_few_at_a_time(monkeypatch: pytest.MonkeyPatch) -> None:
    net = small(image_size=64, base=16, locations=(9, 2))
    images = torch.randn(2, 3, 64, 64, dtype=torch.float64)
    whole = net(images).logits
    monkeypatch.setattr("napari_sparseattn.models.tnet.crops._PIXELS_AT_ONCE", 2048)
    monkeypatch.setattr("napari_sparseattn.models.tnet.network._PIXELS_PER_CALL", 1024)
    torch.testing.assert_close(net(images).logits, whole, rtol=0, atol=1e-12)


def test_the_location_module_does_not_teach_the_backbone() -> None:
    net = small(image_size=32, base=16, locations=(2,)).train()
    output = net(torch.randn(1, 3, 32, 32, dtype=torch.float64))
    output.levels[1].crops.log_prob.sum().backward()
    assert all(p.grad is None for p in net.backbone.parameters())
    assert any(p.grad is not None and p.grad.abs().sum() > 0 for p in net.location.parameters())


def test_a_source_gives_what_the_tensor_gives() -> None:
    net = small(image_size=32, base=16, locations=(2,))
    images = torch.randn(2, 3, 32, 32, dtype=torch.float64)
    torch.testing.assert_close(net(TensorSource(images)).logits, net(images).logits)


# -------------------------------------------------------------- configuration


@pytest.mark.parametrize(
    "wrong",
    [{"grid": 1}, {"overlap": 1.0}, {"base": 0}, {"locations": (10,)}, {"locations": (0,)},
     {"position": "polar"}, {"sampling": "random"}, {"dropout": 1.0}, {"n_classes": True},
     {"backbone": {"name": "none"}}, {"backbone": {"name": "small", "widths": (9, 16)}}],
)  # fmt: skip
def test_wrong_sizes_are_refused(wrong: dict[str, object]) -> None:
    with pytest.raises(ValueError, match=r"\w"):
        tnet_from_config(wrong)


def test_wrong_images_are_refused() -> None:
    with pytest.raises(ValueError, match="expected images"):
        small(image_size=32, base=16)(torch.zeros(1, 1, 32, 32))


def test_a_net_survives_a_card() -> None:
    import dataclasses

    net = small(image_size=32, base=16, locations=(2,))
    config = json.loads(json.dumps(dataclasses.asdict(net.config)))
    with torch.device("meta"):
        twin = tnet_from_config(config)
    twin.load_state_dict(net.state_dict(), assign=True)
    images = torch.randn(1, 3, 32, 32, dtype=torch.float64)
    torch.testing.assert_close(twin.eval()(images).logits, net(images).logits)


def test_default_backbone_is_small() -> None:
    backbone = SmallBackbone()
    assert 2e5 < sum(p.numel() for p in backbone.parameters()) < 8e5
    features, pooled = backbone(torch.zeros(2, 3, 48, 48))
    assert features.shape == (2, backbone.map_channels, 6, 6)
    assert pooled.shape == (2, backbone.features)


def test_crops_that_are_steered_are_read_where_they_are_put() -> None:
    net = small(base=16, image_size=64, locations=(2, 1))
    images = torch.randn(2, 3, 48, 64, dtype=torch.float64)
    asked: list[int] = []

    def steer(level: int, crops: Crops) -> Crops:
        asked.append(level)
        if level != 1:
            return crops
        # Crop 2 is the second image's first; half of it lies off the image.
        return move_crops(crops, torch.tensor([2]), torch.tensor([[32, -16]]), (48, 64))

    plain, steered = net(images), net(images, steer=steer)
    assert asked == [1, 2]
    torch.testing.assert_close(steered.logits[0], plain.logits[0])
    assert not torch.allclose(steered.logits[1], plain.logits[1])
    crops = steered.levels[1].crops
    assert crops.boxes[2].tolist() == [32, -16, 32]
    assert crops.seen[2].tolist() == [32, 0, 48, 16]
    assert torch.equal(crops.boxes[[0, 1, 3]], plain.levels[1].crops.boxes[[0, 1, 3]])
    # Its child lies inside of what it now shows.
    child = steered.levels[2].crops
    row = int((child.parent == 2).nonzero()[0, 0])
    top, left, bottom, right = child.seen[row].tolist()
    assert top >= 32
    assert left >= 0
    assert bottom <= 48
    assert right <= 16
