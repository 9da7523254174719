"""SPAN against the authors' recorded runs, and against dense masked attention."""

from __future__ import annotations

import dataclasses
import itertools
import json
from pathlib import Path

import pytest
import torch
import torch.nn.functional as F
from safetensors import safe_open
from torch import Tensor

from dense_span import Dense
from napari_sparseattn.models.span import (
    Lattice,
    SpanMil,
    SpanMilConfig,
    SpanUnet,
    SpanUnetConfig,
    load_official,
    refinement,
    span_from_config,
)
from napari_sparseattn.models.span.official import our_name

#: As the authors' code writes it beside its weights.
CONFIG: dict[str, dict[str, object]] = {
    "mil": {
        "slide_configs": "111", "channel_factor": 1, "trans_type": "long",
        "econvs_type": "dwpatchconv", "enc_act": "ReLU", "embed_dim_div": 2,
        "input_projection": {
            "mlp_ratio": 0.5, "activation": None, "dropout": 0.05, "prenorm": False,
            "bias": False, "drop_first": False,
        },
        "token_init_types": ["lrn1e-4"], "global_strategy": "identity", "ff_ratio": 2,
        "attn_drop": 0.05, "proj_drop": 0.0, "drop_path": 0.0, "window_size": 3,
        "share_qkv": False, "pos_emb": "rpb", "pos_std": 0.02, "kernel_size": 2, "stride": 2,
        "dilation": 1, "conv_bias": False, "edge_mode": "count", "edge_eps": 1e-6,
        "conv_norm_position": "pre",
    },
    "unet": {
        "slide_configs": "111-11", "channel_factor": 2, "trans_type": "long",
        "dtrans_type": "long", "econvs_type": "patchconv", "dconvs_type": "pixelshuffle",
        "enc_act": "ReLU", "embed_dim_div": 2, "skip_first": 1,
        "input_projection": {
            "mlp_ratio": 0.5, "activation": None, "dropout": 0.05, "prenorm": False,
            "bias": False, "drop_first": False,
        },
        "token_init_types": ["max", "mean", "fix1e-4"], "global_strategy": "proj",
        "connection": "concat", "ff_ratio": 2.0, "attn_drop": 0.05, "proj_drop": 0.0,
        "drop_path": 0.0, "window_size": 3, "share_qkv": False, "pos_emb": "rpb",
        "pos_std": 0.02, "kernel_size": 2, "stride": 2, "dilation": 1, "conv_bias": False,
        "edge_mode": "none", "edge_eps": 1e-6, "conv_norm_position": "post",
    },
}  # fmt: skip
#: The authors' own runs, which need the folder of real data. What they show, the tests with
#: weights of our own show everywhere: the names, and the function against the dense oracle.
GOLDEN = ("mil_tiny", "mil_grid_multiple_of_six", "mil_shifted", "unet_111_11")


def grid(width: int, height: int) -> Tensor:
    axes = torch.meshgrid(torch.arange(width), torch.arange(height), indexing="ij")
    return torch.stack(axes, -1).view(-1, 2)


def holes(width: int, height: int, share: float, seed: int = 0) -> Tensor:
    cells = grid(width, height)
    chosen = torch.rand(len(cells), generator=torch.Generator().manual_seed(seed)) < share
    chosen[[0, -1]] = True
    return cells[chosen]


#: Shift off (12 x 12 padded) and on, holes, one row, one column, one patch, a long strip,
#: an island far off, and extents whose coarser level turns the shift off (24 -> 12 -> 6).
LATTICES = {
    "one patch": torch.tensor([[7, -3]]),
    "two far apart": torch.tensor([[0, 0], [17, 9]]),
    "row": grid(11, 1) - 5,
    "column": grid(1, 14),
    "full, shift off": grid(8, 7),
    "full, shift on": grid(9, 10),
    "holes": holes(13, 11, 0.6),
    "thin strip": holes(37, 3, 0.8, 1),
    "islands": torch.cat([holes(5, 5, 0.7, 2), holes(4, 6, 0.8, 3) + torch.tensor([16, 12])]),
    "shift off above only": holes(17, 18, 0.25, 4),
}


def decisive(model: torch.nn.Module, seed: int) -> None:
    """Weights so large that every part of the function shows in the result."""
    generator = torch.Generator().manual_seed(seed)
    for name, parameter in model.named_parameters():
        scale = 1.0 if parameter.ndim == 1 else 2.0 / parameter.shape[-1] ** 0.5
        with torch.no_grad():
            noise = torch.randn(parameter.shape, generator=generator, dtype=parameter.dtype)
            centre = 1.0 if name.endswith(("norm.weight", "norm1.weight", "norm2.weight")) else 0.0
            parameter.copy_(centre + scale * noise * (0.3 if parameter.ndim == 1 else 1))


def shuffled(cells: Tensor, features: int, seed: int = 0) -> tuple[Tensor, Tensor]:
    generator = torch.Generator().manual_seed(seed)
    cells = cells[torch.randperm(len(cells), generator=generator)]
    return torch.randn(len(cells), features, generator=generator, dtype=torch.float64), cells


# ---------------------------------------------------------------- golden files


def golden(shared: Path, name: str) -> tuple[dict[str, Tensor], dict[str, str]]:
    with safe_open(shared / "golden" / "span" / f"{name}.safetensors", "pt") as file:
        return {key: file.get_tensor(key) for key in file.keys()}, file.metadata()  # noqa: SIM118


@pytest.mark.parametrize("grad", [False, True])
@pytest.mark.parametrize("name", GOLDEN[:3])
def test_mil_is_the_authors(shared: Path, name: str, grad: bool) -> None:
    data, meta = golden(shared, name)
    model = load_official(data, meta["config"])
    assert isinstance(model, SpanMil)
    assert model.config.features == int(meta["features_dim"])
    with torch.set_grad_enabled(grad):
        output = model(data["feats"], data["coords"] // 224)
    assert (output.logits - data["logits"]).abs().max() <= 1e-5
    assert [output.left, output.top] == data["padding_left_top"].tolist()
    for index, level in enumerate(output.levels):
        assert torch.equal(level.cells, data[f"level{index}.cells"])
        assert (level.attention - data[f"level{index}.global_attention"]).abs().max() <= 1e-5
        assert (level.tokens - data[f"level{index}.global_tokens"]).abs().max() <= 1e-5
    shares = sum(level.contribution for level in output.levels) + output.constant
    assert (shares - output.logits[0]).abs().max() <= 1e-5


@pytest.mark.parametrize("name", GOLDEN[:3])
def test_gradients_are_the_authors(shared: Path, name: str) -> None:
    data, meta = golden(shared, name)
    model = load_official(data, json.loads(meta["config"]))
    logits = model(data["feats"], data["coords"] // 224).logits
    F.cross_entropy(logits, torch.tensor([int(meta["label_for_grad"])])).backward()
    parameters = dict(model.named_parameters())
    recorded = {key[5:]: value for key, value in data.items() if key.startswith("grad.")}
    assert recorded
    for theirs, value in recorded.items():
        found = parameters[our_name(theirs) or ""].grad
        assert found is not None
        assert (found - value).abs().max() <= 1e-4 * value.abs().max()


def test_unet_is_the_authors(shared: Path) -> None:
    data, meta = golden(shared, "unet_111_11")
    state = {key[6:]: value for key, value in data.items() if key.startswith("state.")}
    model = load_official(state, meta["config"])
    cells = data["coords"] // 224 + torch.tensor([100, -40])
    for grad in (True, False):
        with torch.set_grad_enabled(grad):
            output = model(data["feats"], cells)
        placed = cells - cells.amin(0) + torch.tensor([output.left, output.top])
        at = {tuple(cell): i for i, cell in enumerate(data["padded_cells"].tolist())}
        rows = torch.tensor([at[tuple(cell)] for cell in placed.tolist()])
        wanted = data["patch_logits_with_sentinels"][rows]
        assert (output.logits - wanted).abs().max() <= 1e-5


# ------------------------------------------------------------- the dense oracle


def mil(features: int = 128, seed: int = 0, **more: object) -> SpanMil:
    model = SpanMil(SpanMilConfig(features=features, n_classes=3, **more)).double().eval()
    decisive(model, seed)
    return model


@pytest.mark.parametrize("cells", LATTICES.values(), ids=LATTICES.keys())
def test_mil_is_dense_attention(cells: Tensor) -> None:
    model = mil(tokens=("lrn1e-1", "max", "fix1e-1", "mean", "lrn1"), strategy="proj")
    features, cells = shuffled(cells, 128)
    dense = Dense(model.state_dict(), model.config.tokens, features, cells)
    wanted = dense.mil()
    for grad in (False, True):
        with torch.set_grad_enabled(grad):
            output = model(features, cells)
        torch.testing.assert_close(output.logits, wanted, atol=1e-10, rtol=1e-9)
        assert (output.left, output.top) == (dense.left, dense.top)
        for level, (_, tokens, attention, _), grid_cells in zip(
            output.levels, dense.seen, dense.cells, strict=True
        ):
            assert [tuple(cell) for cell in level.cells.tolist()] == grid_cells
            torch.testing.assert_close(level.tokens, tokens, atol=1e-9, rtol=1e-9)
            torch.testing.assert_close(level.attention, attention, atol=1e-12, rtol=1e-9)
            assert (level.attention[..., [0, len(grid_cells) - 1]] == 0).all()


def test_one_token_and_two_heads_are_dense_attention() -> None:
    model = mil(256)
    features, cells = shuffled(LATTICES["holes"], 256)
    wanted = Dense(model.state_dict(), model.config.tokens, features, cells).mil()
    torch.testing.assert_close(model(features, cells).logits, wanted, atol=1e-10, rtol=1e-9)


@pytest.mark.parametrize("name", ["one patch", "column", "full, shift off", "islands"])
@pytest.mark.parametrize(("layout", "factor"), [("111-11", 2), ("111-21", 1)])
def test_unet_is_dense_attention(name: str, layout: str, factor: int) -> None:
    config = SpanUnetConfig(features=128, layout=layout, channel_factor=factor)
    model = SpanUnet(config).double().eval()
    decisive(model, 1)
    features, cells = shuffled(LATTICES[name], 128)
    wanted = Dense(model.state_dict(), config.tokens, features, cells).unet(config.up_layers)
    for grad in (False, True):
        with torch.set_grad_enabled(grad):
            output = model(features, cells)
        torch.testing.assert_close(output.logits, wanted, atol=1e-9, rtol=1e-8)


@pytest.mark.parametrize("name", ["one patch", "row", "full, shift off", "holes"])
def test_gradients_are_those_of_dense_attention(name: str) -> None:
    model = mil(tokens=("lrn1e-1", "mean"), strategy="proj")
    features, cells = shuffled(LATTICES[name], 128)
    state = {key: value.clone().requires_grad_() for key, value in model.state_dict().items()}
    target = torch.tensor([1])
    F.cross_entropy(Dense(state, model.config.tokens, features, cells).mil(), target).backward()
    F.cross_entropy(model(features, cells).logits, target).backward()
    # Some gradients are zero but for rounding: a softmax does not see its keys' bias.
    noise = 1e-13 * max(
        float(value.grad.abs().max()) for value in state.values() if value.grad is not None
    )
    for key, parameter in model.named_parameters():
        wanted, found = state[key].grad, parameter.grad
        if found is None:
            # Skipped because the logits do not depend on it.
            assert wanted is None or not wanted.abs().max() > 0, key
            continue
        assert wanted is not None
        assert (found - wanted).abs().max() <= 1e-8 * wanted.abs().max() + noise, key


def test_unet_gradients_are_those_of_dense_attention() -> None:
    config = SpanUnetConfig(features=128)
    model = SpanUnet(config).double().eval()
    decisive(model, 2)
    features, cells = shuffled(LATTICES["islands"], 128)
    state = {key: value.clone().requires_grad_() for key, value in model.state_dict().items()}
    Dense(state, config.tokens, features, cells).unet().square().sum().backward()
    model(features, cells).logits.square().sum().backward()
    noise = 1e-13 * max(
        float(value.grad.abs().max()) for value in state.values() if value.grad is not None
    )
    for key, parameter in model.named_parameters():
        wanted, found = state[key].grad, parameter.grad
        assert wanted is not None
        if found is None:
            assert not wanted.abs().max() > 0, key
            continue
        assert (found - wanted).abs().max() <= 1e-8 * wanted.abs().max() + noise, key


@pytest.mark.parametrize("name", ["one patch", "row", "holes", "full, shift off"])
@pytest.mark.parametrize("level", [0, 1, 2])
def test_local_attention_is_what_the_layer_computes(name: str, level: int) -> None:
    model = mil()
    features, cells = shuffled(LATTICES[name], 128)
    dense = Dense(model.state_dict(), model.config.tokens, features, cells)
    dense.mil()
    near = dense.seen[level][3]
    index = len(cells) // 2 if level == 0 else len(dense.cells[level]) // 2
    token = dense.order.index(index) + 1 if level == 0 else index
    keys, weights = model.local_attention(features, cells, index, level)
    wanted = near[:, token]
    tokens = torch.nonzero(wanted.sum(0))[:, 0]
    if level == 0:
        rows = [-1, *dense.order, -1]
        assert sorted(keys.tolist()) == sorted(rows[int(i)] for i in tokens)
        where = {row: i for i, row in enumerate(rows) if row >= 0}
        for key, weight in zip(keys.tolist(), weights.T, strict=True):
            if key >= 0:
                torch.testing.assert_close(weight, wanted[:, where[key]])
    else:
        assert keys.tolist() == tokens.tolist()
        torch.testing.assert_close(weights, wanted[:, keys])
    torch.testing.assert_close(weights.sum(1), torch.ones_like(weights[:, 0]))


# ------------------------------------------------------------------ invariances


def test_order_and_origin_do_not_matter() -> None:
    model = mil()
    features, cells = shuffled(LATTICES["holes"], 128)
    output = model(features, cells)
    turned = torch.randperm(len(cells), generator=torch.Generator().manual_seed(5))
    moved = model(features[turned], cells[turned].int() + torch.tensor([-1000, 123]).int())
    torch.testing.assert_close(moved.logits, output.logits, atol=1e-12, rtol=0)
    unet = SpanUnet(SpanUnetConfig(features=128)).double().eval()
    one, two = unet(features, cells), unet(features[turned], cells[turned])
    torch.testing.assert_close(two.logits, one.logits[turned], atol=1e-12, rtol=0)


def test_many_bands_are_one_band(monkeypatch: pytest.MonkeyPatch) -> None:
    from napari_sparseattn.models.span import refinement

    model = mil(tokens=("lrn1", "mean"), strategy="proj")
    for cells in (holes(61, 40, 0.7), torch.cat([holes(9, 9, 0.9), holes(9, 9, 0.9) + 60])):
        features, cells = shuffled(cells, 128)
        one = model(features, cells)
        monkeypatch.setattr(refinement, "_BAND_CPU", 50)
        with torch.no_grad():
            many = model(features, cells)
        torch.testing.assert_close(many.logits, one.logits, atol=1e-11, rtol=0)
        for level, other in zip(one.levels, many.levels, strict=True):
            torch.testing.assert_close(level.attention, other.attention, atol=1e-12, rtol=0)


def test_bands_cover_every_token_and_key_once() -> None:
    cells = torch.cat([holes(40, 25, 0.5), holes(30, 5, 0.5) + torch.tensor([90, 3])])
    for level in Lattice.build(cells).levels:
        bands = level.bands(40)
        assert len(bands) > 1
        assert [band.start for band in bands] == [0, *(band.stop for band in bands[:-1])]
        assert [band.fresh for band in bands] == [0, *(band.key_stop for band in bands[:-1])]
        assert bands[-1].stop == bands[-1].key_stop == len(level)
        for band, following in itertools.pairwise(bands):
            assert band.kept <= following.key_start
        for band in bands:
            x = level.cells[:, 0]
            first, last = int(x[band.start]) // 6 * 6, int(x[band.stop - 1]) // 6 * 6 + 6
            halo = 3 if level.shifted else 0
            inside = (x >= first - halo) & (x < last + halo)
            wanted = torch.nonzero(inside)[:, 0]
            assert (band.key_start, band.key_stop) == (int(wanted[0]), int(wanted[-1]) + 1)


# ------------------------------------------------------------- training, precision


def test_without_dropout_training_is_evaluation() -> None:
    rates = {"input_dropout": 0.0, "attention_dropout": 0.0, "head_dropout": 0.0}
    model = mil(**rates)
    features, cells = shuffled(LATTICES["holes"], 128)
    torch.testing.assert_close(
        model.train()(features, cells).logits, model.eval()(features, cells).logits
    )


def test_attention_dropout_keeps_the_mean() -> None:
    model = mil(input_dropout=0.0, head_dropout=0.0, attention_dropout=0.3)
    features, cells = shuffled(LATTICES["full, shift off"], 128)
    # Small values, so that what follows is close to linear in the weights.
    for layer in model.refinements:
        for name in ("value", "global_value"):
            getattr(layer, name).weight.data *= 1e-3
            getattr(layer, name).bias.data *= 1e-3
    wanted = model(features, cells)
    torch.manual_seed(0)
    model.train()
    with torch.no_grad():
        drawn = torch.stack([model(features, cells).levels[0].tokens for _ in range(100)])
    spread = drawn.std(0)
    assert spread.max() > 0
    error = (drawn.mean(0) - wanted.levels[0].tokens).abs()
    assert (error <= 5 * spread / 100**0.5 + 1e-9).all()


def test_a_few_steps_learn_where_a_patch_lies() -> None:
    torch.manual_seed(0)
    model = SpanMil(SpanMilConfig(features=128)).train()
    optimiser = torch.optim.AdamW(model.parameters(), lr=1e-3)
    features = torch.randn(2, 128)
    near, far = torch.tensor([[0, 0], [1, 0]]), torch.tensor([[0, 0], [20, 20]])
    for _ in range(20):
        logits = torch.cat([model(features, cells).logits for cells in (near, far)])
        loss = F.cross_entropy(logits, torch.tensor([0, 1]))
        optimiser.zero_grad()
        loss.backward()
        optimiser.step()
    assert loss < 0.1


@pytest.mark.parametrize("how", ["autocast", "weights"])
def test_bfloat16_is_close(how: str) -> None:
    torch.manual_seed(0)
    model = SpanMil(SpanMilConfig(features=256, tokens=("lrn1", "mean"))).eval()
    cells = LATTICES["holes"]
    features = torch.randn(len(cells), 256)
    with torch.no_grad():
        exact = model(features, cells)
        if how == "autocast":
            with torch.autocast("cpu", torch.bfloat16):
                output = model(features, cells)
        else:
            output = model.to(torch.bfloat16)(features, cells)
    assert output.logits.dtype == torch.float32
    assert (output.logits - exact.logits).abs().max() < 0.05
    for level, other in zip(output.levels, exact.levels, strict=True):
        assert (level.attention - other.attention).abs().max() < 0.1 * other.attention.max()
        assert (level.attention.sum(-1) - 1).abs().max() < 2e-2


def test_bfloat16_trains() -> None:
    model = SpanMil(SpanMilConfig(features=128)).train()
    cells = LATTICES["holes"]
    with torch.autocast("cpu", torch.bfloat16):
        logits = model(torch.randn(len(cells), 128), cells).logits
    logits.square().sum().backward()
    assert all(torch.isfinite(p.grad).all() for p in model.parameters() if p.grad is not None)


@pytest.mark.gpu
@pytest.mark.parametrize("device", ["cuda", "mps"])
def test_gpu_is_cpu(device: str) -> None:
    backend = torch.cuda if device == "cuda" else torch.backends.mps
    if not backend.is_available():
        pytest.skip(f"no {device}")
    model = mil(256).float()
    features, cells = shuffled(LATTICES["holes"], 256)
    wanted = model(features.float(), cells)
    found = model.to(device)(features.float().to(device), cells)
    torch.testing.assert_close(found.logits.cpu(), wanted.logits, atol=1e-3, rtol=1e-3)


# ------------------------------------------------------------------ configuration


@pytest.mark.parametrize("config", [SpanMilConfig(features=256), SpanUnetConfig(features=128)])
def test_a_config_goes_through_json(config: SpanMilConfig | SpanUnetConfig) -> None:
    told = json.loads(json.dumps(dataclasses.asdict(config)))
    model = span_from_config(told).eval()
    assert model.config == config
    with torch.device("meta"):
        empty = span_from_config(told).eval()
    empty.load_state_dict(model.state_dict(), assign=True)
    cells = LATTICES["column"]
    features = torch.randn(len(cells), config.features)
    assert torch.equal(empty(features, cells).logits, model(features, cells).logits)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"features": 100}, "multiple of 64"),
        ({"width": 65}, "multiple of 64"),
        ({"n_classes": 0}, "n_classes"),
        ({"tokens": ("std",)}, "global token"),
        ({"tokens": ()}, "global tokens"),
        ({"strategy": "kernel"}, "strategy"),
        ({"attention_dropout": 1.0}, "attention_dropout"),
        ({"ff_ratio": 0.0}, "ff_ratio"),
        ({"task": "unet"}, "task"),
    ],
)
def test_impossible_sizes_are_refused(change: dict[str, object], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        SpanMilConfig(**{"features": 128, **change})


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"trans_type": "swin"}, "trans_type"),
        ({"window_size": 4}, "window_size"),
        ({"pos_emb": "rope"}, "pos_emb"),
        ({"slide_configs": "1111"}, "slide_configs"),
        ({"share_qkv": True}, "share_qkv"),
        ({"token_init_types": ["std"]}, "global token"),
        ({"token_init_types": [1e-4]}, "token_init_types"),
        ({"conv_norm_position": "post"}, "conv_norm_position"),
        ({"edge_mode": "partial"}, "edge_mode"),
        ({"global_strategy": "kernel"}, "strategy"),
        ({"input_projection": {"activation": "ReLU"}}, "activation"),
        ({"token_init_types": ["lrn1e-4", "lrn1e-4"]}, "do not fit"),
        ({"ff_ratio": 4}, "do not fit"),
        ({"slide_configs": 11}, "slide_configs"),
    ],
)
def test_other_official_models_are_refused(change: dict[str, object], message: str) -> None:
    state = in_their_names(SpanMil(SpanMilConfig(features=128, n_classes=2)), "identity_proj")
    assert load_official(state, CONFIG["mil"]).config.features == 128
    with pytest.raises(ValueError, match=message):
        load_official(state, {**CONFIG["mil"], **change})


LAYER = {
    "query": "q1", "key": "k1", "value": "v1", "global_query": "q2", "global_key": "k2",
    "global_value": "v2", "out": "fc_out", "up": "ffn.0", "down": "ffn.3", "norm1": "norm1",
    "norm2": "norm2",
}  # fmt: skip


def in_their_names(model: SpanMil | SpanUnet, projection: str) -> dict[str, Tensor]:
    """A state dict as the authors' code would save it, written out from their module tree."""
    state, named = model.state_dict(), {}

    def put(theirs: str, ours: str) -> None:
        for kind in ("weight", "bias"):
            if f"{ours}.{kind}" in state:
                named[f"{theirs}.{kind}"] = state[f"{ours}.{kind}"]

    def layer(theirs: str, ours: str) -> None:
        for our_part, their_part in LAYER.items():
            put(f"{theirs}.trans_block.{their_part}", f"{ours}.{our_part}")
        named[f"{theirs}.trans_block.table_RPB.adjustment_tables"] = state[f"{ours}.bias"]

    for index in range(3):
        block = f"encoder.blocks.{index}.modules_dict"
        layer(f"{block}.trans_2.0", f"refinements.{index}")
        if index == 0:
            put(f"{block}.convs_0.0.conv_block.linear.0", "embedding.patches")
            put(f"{block}.convs_0.0.{projection}", "embedding.token_proj")
            continue
        ours = f"condensations.{index - 1}"
        mil = isinstance(model, SpanMil)
        put(f"{block}.convs_0.0.conv_block.dwconv", f"{ours}.conv")
        norm = "input_norm" if mil else "output_norm"
        put(f"{block}.convs_0.0.conv_block.{norm}", f"{ours}.norm")
        put(f"{block}.convs_0.0.global_input_norm", f"{ours}.token_norm")
        put(f"{block}.convs_0.0.{projection}", f"{ours}.token_proj")
    for index in range(len(model.tokens.learned)):
        named[f"encoder.learnable_tokens.{index}"] = state[f"tokens.learned.{index}"]
    if "tokens.fixed" in state:
        named["encoder.fixed_tokens"] = state["tokens.fixed"]
    if isinstance(model, SpanMil):
        put("aggregator.module.norm", "norm")
        put("aggregator.module.fc.1", "head")
        return named
    for index, layers in enumerate(model.config.up_layers):
        block = f"decoder.blocks.{index}.modules_dict"
        put(f"{block}.convs_0.0.conv_block.conv", f"ups.{index}.expansion.linear")
        put(f"{block}.convs_0.0.conv_block.output_norm", f"ups.{index}.expansion.norm")
        put(f"{block}.convs_0.0.{projection}", f"ups.{index}.expansion.token_proj")
        for number in range(layers):
            layer(f"{block}.trans_2.{number}", f"ups.{index}.refinements.{number}")
    last = "decoder.blocks.2.modules_dict.convs_0.0"
    put(f"{last}.conv_block.linear.1", "head")
    named[f"{last}.{projection}.weight"] = torch.zeros(1, 2)
    return named


@pytest.mark.parametrize("name", ["one patch", "column", "holes", "islands"])
@pytest.mark.parametrize("task", ["mil", "unet"])
def test_weights_in_the_authors_names_give_the_dense_function(task: str, name: str) -> None:
    features, cells = shuffled(LATTICES[name], 128)
    model: SpanMil | SpanUnet
    if task == "mil":
        model = SpanMil(SpanMilConfig(features=128, n_classes=2)).double().eval()
        state = in_their_names(model, "identity_proj")
    else:
        model = SpanUnet(SpanUnetConfig(features=128)).double().eval()
        state = in_their_names(model, "g_proj")
    generator = torch.Generator().manual_seed(5)
    for key, value in state.items():
        scale = 1.0 if value.ndim == 1 else 2.0 / value.shape[-1] ** 0.5
        centre = 1.0 if "norm" in key and key.endswith("weight") else 0.0
        noise = torch.randn(value.shape, generator=generator, dtype=torch.float64)
        # In place, so that the model has the same weights under its own names.
        value.copy_(centre + scale * noise * (0.3 if value.ndim == 1 else 1))
    loaded = load_official(state, json.dumps(CONFIG[task]))
    assert loaded.config == model.config
    dense = Dense(model.state_dict(), model.config.tokens, features, cells)
    wanted = dense.mil() if task == "mil" else dense.unet()
    torch.testing.assert_close(loaded(features, cells).logits, wanted, atol=1e-9, rtol=1e-8)


@pytest.mark.parametrize("strategy", ["identity", "proj"])
@pytest.mark.parametrize("task", ["mil", "unet"])
def test_other_official_settings_load(task: str, strategy: str) -> None:
    told = dict(CONFIG[task])
    tokens = ["mean", "lrn1e-1", "fix1e-1", "max", "lrn1e-2", "fix1"]
    told |= {"token_init_types": tokens, "global_strategy": strategy, "ff_ratio": 4}
    shape = {"features": 256, "tokens": tuple(tokens), "strategy": strategy, "ff_ratio": 4.0}
    model: SpanMil | SpanUnet
    if task == "mil":
        model = SpanMil(SpanMilConfig(**shape, n_classes=5))
    else:
        told |= {"slide_configs": "111-21", "channel_factor": 1}
        model = SpanUnet(SpanUnetConfig(**shape, layout="111-21", channel_factor=1))
    decisive(model, 3)
    projection = "g_proj" if strategy == "proj" else "identity_proj"
    loaded = load_official(in_their_names(model, projection), told)
    assert loaded.config == model.config
    cells = LATTICES["holes"]
    features = torch.randn(len(cells), 256)
    assert torch.equal(loaded(features, cells).logits, model.eval()(features, cells).logits)


def test_foreign_weights_are_refused() -> None:
    with pytest.raises(ValueError, match="not SPAN's weights"):
        load_official(
            {"conv1.weight": torch.zeros(1)},
            {
                "slide_configs": "111",
                "edge_mode": "count",
                "share_qkv": False,
                "conv_norm_position": "pre",
                "input_projection": {"bias": False},
            },
        )


@pytest.mark.parametrize(
    ("cells", "message"),
    [
        (torch.tensor([[0, 0], [4, 5], [1, 1], [4, 5]]), r"rows 1 and 3 at \(4, 5\)"),
        (torch.zeros(0, 2, dtype=torch.int64), "no patches"),
        (torch.tensor([[0.5, 1.0]]), "whole numbers"),
        (torch.zeros(3, 3, dtype=torch.int64), r"\(N, 2\)"),
        (torch.tensor([[0, 0], [2**23, 0]]), "give columns and rows"),
        (torch.tensor([[0, 0], [-(2**63), 0]]), "within"),
    ],
)
def test_bad_cells_are_refused(cells: Tensor, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        Lattice.build(cells)


def test_features_that_do_not_fit_are_refused() -> None:
    model = SpanMil(SpanMilConfig(features=128))
    with pytest.raises(ValueError, match=r"\(N, 128\)"):
        model(torch.zeros(3, 64), grid(3, 1))
    with pytest.raises(ValueError, match="2 rows of features but 3 cells"):
        model(torch.zeros(2, 128), grid(3, 1))


def test_training_after_inference() -> None:
    """What is kept from inference mode must not stop gradients, as in a window."""
    refinement._offsets.cache_clear()
    model = SpanMil(SpanMilConfig(features=128))
    features, cells = torch.randn(4, 128), torch.tensor([[0, 0], [0, 1], [1, 0], [3, 3]])
    with torch.inference_mode():
        model(features, cells)
    model(features, cells).logits.sum().backward()
    assert model.embedding.patches.weight.grad is not None
