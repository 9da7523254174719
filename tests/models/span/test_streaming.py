"""SPAN in bands against SPAN in one piece, and what the bands hold in memory."""

from __future__ import annotations

from pathlib import Path

import h5py
import numpy as np
import pytest
import torch
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode

from napari_sparseattn.models.span import (
    SpanMil,
    SpanMilConfig,
    SpanOutput,
    SpanUnet,
    SpanUnetConfig,
    run_span,
    stream,
)
from napari_sparseattn.models.span.rows import read_rows


def slide(width: int, height: int, share: float, features: int) -> tuple[Tensor, Tensor]:
    """Simulated tissue: two blobs of cells with holes, in random order, and random features."""
    generator = torch.Generator().manual_seed(0)
    axes = torch.meshgrid(torch.arange(width), torch.arange(height), indexing="ij")
    cells = torch.stack(axes, -1).view(-1, 2)
    kept = torch.rand(len(cells), generator=generator) < share
    kept &= (cells[:, 0] < width * 0.4) | (cells[:, 0] > width * 0.6)
    cells = cells[kept]
    cells = cells[torch.randperm(len(cells), generator=generator)]
    return torch.randn(len(cells), features, generator=generator), cells


def network(features: int = 128, **more: object) -> SpanMil:
    torch.manual_seed(0)
    model = SpanMil(SpanMilConfig(features=features, n_classes=3, **more)).eval()
    for layer in model.refinements:
        torch.nn.init.normal_(layer.bias)
        for name in ("query", "key", "value", "global_query", "global_key"):
            torch.nn.init.normal_(getattr(layer, name).weight, std=0.15)
    return model


def assert_same(one: SpanOutput, other: SpanOutput, atol: float = 1e-5) -> None:
    torch.testing.assert_close(other.logits, one.logits, atol=atol, rtol=0)
    assert (one.left, one.top) == (other.left, other.top)
    for level, second in zip(one.levels, other.levels, strict=True):
        assert torch.equal(level.cells, second.cells)
        for name in ("attention", "tokens", "contribution"):
            torch.testing.assert_close(
                getattr(second, name), getattr(level, name), atol=atol, rtol=1e-5
            )


@pytest.mark.parametrize("band", [1, 200, 10**6])
@pytest.mark.parametrize("tokens", [("lrn1",), ("mean", "lrn1", "max", "fix1")])
def test_streamed_is_unstreamed(band: int, tokens: tuple[str, ...]) -> None:
    model = network(tokens=tokens, strategy="proj")
    features, cells = slide(70, 33, 0.7, 128)
    with torch.enable_grad():
        whole = model(features, cells)
    assert_same(whole, stream(model, features, cells, band=band))


@pytest.mark.parametrize("shape", [(1, 1), (1, 30), (30, 1), (8, 8), (2, 300), (300, 2)])
def test_odd_shapes_stream(shape: tuple[int, int]) -> None:
    model = network().double()
    axes = torch.meshgrid(torch.arange(shape[0]), torch.arange(shape[1]), indexing="ij")
    cells = torch.stack(axes, -1).view(-1, 2)
    features = torch.randn(len(cells), 128, dtype=torch.float64)
    assert_same(model(features, cells), stream(model, features, cells, band=1), 1e-11)


@pytest.mark.parametrize("order", ["columns", "rows", "random"])
@pytest.mark.parametrize("dtype", ["float32", "float16"])
def test_features_on_disk_stream(tmp_path: Path, order: str, dtype: str) -> None:
    model = network(tokens=("lrn1", "max"))
    features, cells = slide(60, 20, 0.8, 128)
    if order != "random":
        first, second = (0, 1) if order == "columns" else (1, 0)
        sorting = np.lexsort((cells[:, second].numpy(), cells[:, first].numpy()))
        features, cells = features[sorting], cells[sorting]
    features = features.to(getattr(torch, dtype))
    with h5py.File(tmp_path / "features.h5", "w") as file:
        stored = file.create_dataset("features", data=features.numpy(), chunks=(64, 128))
        seen: list[tuple[int, int]] = []
        output = run_span(model, stored, cells, progress=lambda _, *done: seen.append(done))
        keys, weights = model.local_attention(stored, cells, 17)
    assert_same(model(features, cells), output)
    assert seen[-1] == (len(cells), len(cells))
    wanted = model.local_attention(features, cells, 17)
    assert torch.equal(keys, wanted[0])
    torch.testing.assert_close(weights, wanted[1])


def test_rows_come_in_the_order_asked() -> None:
    features = torch.randn(500, 4)
    for rows in (torch.randperm(500)[:100], torch.arange(30, 90), torch.tensor([499, 0])):
        read = read_rows(features.numpy(), rows, torch.device("cpu"))
        assert torch.equal(read, features[rows])


def test_integer_features_are_refused() -> None:
    with pytest.raises(ValueError, match="floating-point"):
        run_span(network(), np.zeros((2, 128), np.uint8), torch.tensor([[0, 0], [1, 0]]))


def test_progress_can_stop() -> None:
    def stop(stage: str, done: int, total: int) -> None:
        raise InterruptedError

    features, cells = slide(60, 20, 0.8, 128)
    with pytest.raises(InterruptedError):
        stream(network(), features, cells, band=50, progress=stop)


def test_large_slides_in_memory_are_streamed(monkeypatch: pytest.MonkeyPatch) -> None:
    from napari_sparseattn.models.span import streaming

    features, cells = slide(30, 20, 0.8, 128)
    streamed: list[int] = []
    monkeypatch.setattr(streaming, "_MANY", len(cells) - 1)
    run_span(network(), features, cells, progress=lambda _, done, total: streamed.append(done))
    assert streamed
    monkeypatch.setattr(streaming, "_MANY", len(cells))
    streamed.clear()
    run_span(network(), features, cells, progress=lambda _, done, total: streamed.append(done))
    assert not streamed


def unet(**more: object) -> SpanUnet:
    torch.manual_seed(0)
    model = SpanUnet(SpanUnetConfig(features=128, **more)).eval()
    for name, parameter in model.named_parameters():
        if "query" in name or "key" in name:
            torch.nn.init.normal_(parameter, std=0.15)
    return model


@pytest.mark.parametrize("band", [1, 200, 10**6])
@pytest.mark.parametrize("layout", ["111-11", "111-21"])
def test_a_streamed_unet_is_an_unstreamed_one(band: int, layout: str) -> None:
    model = unet(layout=layout)
    features, cells = slide(70, 33, 0.7, 128)
    with torch.enable_grad():
        whole = model(features, cells)
    seen: list[tuple[int, int]] = []
    streamed = stream(model, features, cells, band=band, progress=lambda _, *on: seen.append(on))
    assert_same(whole, streamed)
    torch.testing.assert_close(streamed.states, whole.states, atol=1e-5, rtol=1e-5)
    assert seen == sorted(seen)
    assert seen[-1] == (2 * len(cells), 2 * len(cells))


@pytest.mark.parametrize("shape", [(1, 1), (1, 30), (8, 8), (2, 300), (300, 2)])
def test_odd_shapes_stream_through_a_unet(shape: tuple[int, int]) -> None:
    model = unet().double()
    cells = torch.cartesian_prod(torch.arange(shape[0]), torch.arange(shape[1]))
    features = torch.randn(len(cells), 128, dtype=torch.float64)
    whole, streamed = model(features, cells), stream(model, features, cells, band=1)
    # The tokens that are the features' mean are summed in another order, as float32.
    assert_same(whole, streamed, 1e-6)
    torch.testing.assert_close(streamed.states, whole.states, atol=1e-6, rtol=0)


def test_a_unet_reads_features_from_disk(tmp_path: Path) -> None:
    model = unet()
    features, cells = slide(20, 20, 0.8, 128)
    with h5py.File(tmp_path / "features.h5", "w") as file:
        output = run_span(model, file.create_dataset("f", data=features.numpy()), cells)
    torch.testing.assert_close(output.logits, model(features, cells).logits, atol=1e-5, rtol=0)


def test_training_mode_is_refused() -> None:
    features, cells = slide(10, 10, 0.8, 128)
    with pytest.raises(ValueError, match=r"model\.eval"):
        run_span(network().train(), features, cells)


class Largest(TorchDispatchMode):
    """Keeps the largest storage that any operation returned, in bytes."""

    def __init__(self) -> None:
        super().__init__()
        self.bytes = 0

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        result = func(*args, **(kwargs or {}))
        for tensor in result if isinstance(result, tuple | list) else (result,):
            if isinstance(tensor, Tensor):
                self.bytes = max(self.bytes, tensor.untyped_storage().nbytes())
        return result


class OnDisk:
    """Features made when read, so that no array of them exists."""

    def __init__(self, count: int, width: int) -> None:
        self.shape = (count, width)
        self.largest = 0

    def __getitem__(self, rows: slice) -> np.ndarray:
        index = np.arange(rows.start, rows.stop, dtype=np.float32)[:, None]
        self.largest = max(self.largest, len(index))
        return np.sin(index * (1 + np.arange(self.shape[1], dtype=np.float32)))


def test_no_tensor_is_larger_than_level_one(monkeypatch: pytest.MonkeyPatch) -> None:
    from napari_sparseattn.models.span import refinement

    # The bands of levels above too, so that a small slide shows what a large one needs.
    monkeypatch.setattr(refinement, "_BAND_CPU", 300)
    model = network(256)
    axes = torch.meshgrid(torch.arange(200), torch.arange(80), indexing="ij")
    cells = torch.stack(axes, -1).view(-1, 2)
    features = OnDisk(len(cells), 256)
    with Largest() as mode:
        output = stream(model, features, cells, band=300)
    level_one = len(output.levels[1].cells) * 128 * 4
    # Level 2's cells with room for four children each: level 1 and its rim.
    assert mode.bytes <= 1.1 * level_one < len(cells) * 128 * 4 / 3
    assert features.largest < 300 + 2 * 6 * 80
    with Largest() as whole, torch.no_grad():
        model(torch.as_tensor(features[slice(0, len(cells))]), cells)
    assert whole.bytes >= len(cells) * 128 * 4


def test_a_unet_keeps_nothing_larger_than_its_states(monkeypatch: pytest.MonkeyPatch) -> None:
    from napari_sparseattn.models.span import refinement

    monkeypatch.setattr(refinement, "_BAND_CPU", 300)
    model = unet()
    cells = torch.cartesian_prod(torch.arange(160), torch.arange(60))
    features = OnDisk(len(cells), 128)
    with Largest() as mode:
        output = stream(model, features, cells, band=300)
    states = output.states.numel() * 4
    # A state is twice as wide as a token; its share of level 1 is half of that.
    assert mode.bytes <= 1.01 * states
    assert features.largest <= 2048, "the maximum and the mean are read in larger pieces"
