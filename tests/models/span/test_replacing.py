"""Runs with replaced patches: the very logits of whole runs, for a part of the work."""

from __future__ import annotations

import pytest
import torch

from napari_sparseattn.models.span import SpanMil, SpanMilConfig, run_replaced


def made_model(tokens: tuple[str, ...]) -> SpanMil:
    torch.manual_seed(1)
    strategy = "identity" if tokens == ("lrn1",) else "proj"
    model = SpanMil(
        SpanMilConfig(features=96, width=128, n_classes=3, tokens=tokens, strategy=strategy)
        if strategy == "proj"
        else SpanMilConfig(features=128, width=128, n_classes=3, tokens=tokens)
    )
    for parameter in model.parameters():
        if parameter.ndim > 1:
            torch.nn.init.normal_(parameter, std=0.15)
    return model.eval().requires_grad_(False)


def made_slide(width: int, height: int, share: float, features: int) -> tuple[torch.Tensor, ...]:
    generator = torch.Generator().manual_seed(width)
    cells = torch.cartesian_prod(torch.arange(width), torch.arange(height))
    kept = torch.rand(len(cells), generator=generator) < share
    kept[[0, -1]] = True
    cells = cells[kept]
    cells = cells[torch.randperm(len(cells), generator=generator)]
    return torch.randn(len(cells), features, generator=generator), cells


@torch.no_grad()
def run_each(
    model: SpanMil,
    features: torch.Tensor,
    cells: torch.Tensor,
    groups: list[torch.Tensor],
    replacement: torch.Tensor,
) -> torch.Tensor:
    found = []
    for rows in groups:
        changed = features.clone()
        changed[rows] = replacement
        found.append(model(changed, cells).logits[0])
    return torch.stack(found)


@pytest.mark.parametrize("tokens", [("lrn1",), ("lrn1", "fix1"), ("max", "lrn1")])
@pytest.mark.parametrize(
    ("width", "height", "share"),
    # Of 8 x 8 patches the grid is padded to whole windows, so that none is shifted.
    [(8, 8, 1.0), (17, 23, 1.0), (41, 30, 0.3), (1, 1, 1.0), (3, 40, 0.8)],
)
def test_each_run_gives_the_logits_of_a_whole_run(
    tokens: tuple[str, ...], width: int, height: int, share: float
) -> None:
    model = made_model(tokens)
    features, cells = made_slide(width, height, share, model.config.features)
    generator = torch.Generator().manual_seed(0)
    some = torch.randperm(len(cells), generator=generator)
    near = ((cells - cells[0]).abs() <= 2).all(dim=1).nonzero()[:, 0]
    first = ((cells == cells.min(dim=0).values).all(dim=1)).nonzero()[:, 0]
    last = ((cells == cells.max(dim=0).values).all(dim=1)).nonzero()[:, 0]
    groups = [*some[:12].split(1), near, some[::3], torch.arange(len(cells)), first, last]
    groups = [rows for rows in groups if len(rows)]
    replacement = features.mean(dim=0)
    found = run_replaced(model, features, cells, groups, replacement)
    expected = run_each(model, features, cells, groups, replacement)
    assert expected.std(dim=0).max() > 1e-3 or len(cells) == 1, "the runs must differ"
    torch.testing.assert_close(found, expected, rtol=1e-5, atol=1e-5)


def test_the_features_stay_as_they_are_and_a_run_can_be_stopped() -> None:
    model = made_model(("lrn1",))
    features, cells = made_slide(30, 30, 1.0, 128)
    before, seen = features.clone(), []

    def report(done: int, total: int) -> None:
        seen.append((done, total))
        raise InterruptedError

    groups = list(torch.arange(len(cells)).split(1))
    with pytest.raises(InterruptedError):
        run_replaced(model, features, cells, groups, features.mean(dim=0), report=report)
    assert seen[0][0] < seen[0][1] == 900
    torch.testing.assert_close(features, before, rtol=0, atol=0)
    with pytest.raises(ValueError, match="training mode"):
        run_replaced(model.train(), features, cells, groups, features[0])
