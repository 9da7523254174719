"""SPAN in bounded memory: level 0 is never whole.

Both attentions of a level read the same tokens, so level 0 goes by in bands of
window rows. A band needs the 3 columns before it, which the last band left, and
the 3 after it, which the next one finds already there: every patch is read and
projected once. The global tokens' softmax is accumulated over the bands. What
stays is level 1, a quarter of the patches at half their width, and a few
numbers per patch: its cell and the attention it got.

SPAN-UNet returns to level 0, and its answer holds a state per patch. Level 0 goes by
twice, once down and once up, and nothing of it is kept but these states.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import cast

import torch
from torch import Tensor

from ...device import at_least_float32
from ...progress import Progress
from .condensation import Condensation
from .lattice import Band, Lattice
from .mil import SpanMil, check_patches
from .output import SpanOutput
from .refinement import Refinement, RowStream
from .rows import FeatureArray, read_rows
from .unet import SpanUnet

__all__ = ["FeatureArray", "run_span", "stream"]

#: Patches of a band, by default: some 60 MB of working memory at F = 1024.
BAND_PATCHES = 2048
#: Patches from which on features in memory are streamed as well.
_MANY = 2**13


def run_span(
    model: SpanMil | SpanUnet,
    features: FeatureArray,
    cells: Tensor,
    *,
    streamed: bool | None = None,
    progress: Progress | None = None,
) -> SpanOutput:
    """Run a network on one slide, without gradients.

    Parameters
    ----------
    model : SpanMil or SpanUnet
        In evaluation mode.
    features : FeatureArray
        (N, F): a Tensor, a numpy array, or a dataset of an open HDF5 file.
    cells : Tensor
        (N, 2) integer (x, y) = (column, row).
    streamed : bool, optional
        Whether to `stream`; by default where features are not a Tensor or are
        more than 8192, from where on that takes no longer.
    progress : callable, optional
        See `stream`.

    Returns
    -------
    SpanOutput
        The same to 1e-5 either way.

    Raises
    ------
    ValueError
        If the model is in training mode, the shapes do not fit, or two patches
        share a cell.
    """
    if model.training:
        raise ValueError("the model is in training mode; call model.eval() first")
    check_patches(features.shape, cells, model.config.features)
    in_memory = isinstance(features, Tensor)
    if streamed is None:
        streamed = not in_memory or len(cells) > _MANY
    if streamed:
        return stream(model, features, cells, progress=progress)
    device = model.head.weight.device
    whole = torch.as_tensor(features if in_memory else features[:]).to(device)
    with torch.no_grad():
        output: SpanOutput = model(whole, cells)
    return output


@torch.no_grad()
def stream(
    model: SpanMil | SpanUnet,
    features: FeatureArray,
    cells: Tensor,
    *,
    band: int = BAND_PATCHES,
    progress: Progress | None = None,
) -> SpanOutput:
    """Run a network on a slide whose features need not fit in memory.

    Parameters
    ----------
    model : SpanMil or SpanUnet
        In evaluation mode.
    features : FeatureArray
        (N, F), rows in any order. Reading is fastest where rows follow the
        columns of the patch grid (sorted by x, then y): then each band is one
        run of rows. In other orders a band is many short runs, and a
        compressed file's chunks are decoded once per band that touches them.
        Global tokens of the kinds ``"max"`` and ``"mean"`` cost one more
        reading of everything.
    cells : Tensor
        (N, 2) integer (x, y) = (column, row).
    band : int
        Patches per band; it holds at least 6 columns of the grid.
    progress : callable, optional
        Called with the patches done and all patches after each band; may raise
        to stop.

    Returns
    -------
    SpanOutput
        As `SpanMil.forward` or `SpanUnet.forward` returns it.

    Raises
    ------
    ValueError
        If the shapes do not fit, or two patches share a cell.
    """
    check_patches(features.shape, cells, model.config.features)
    if isinstance(model, SpanUnet):
        return _stream_unet(model, features, cells, band, progress)
    lattice = Lattice.build(cells.to(model.head.weight.device))
    condense = model.condensation(0)

    def report(done: int) -> None:
        if progress is not None:
            progress("attention", done, len(cells))

    x, tokens, attention = _down(
        model, features, lattice, model.refinement(0), condense, band, lambda part, x: None, report
    )
    return model.upper_levels(x, tokens, attention, lattice)


def _down(
    model: SpanMil | SpanUnet,
    features: FeatureArray,
    lattice: Lattice,
    layer: Refinement,
    condense: Condensation,
    band: int,
    keep: Callable[[Band, Tensor], object],
    report: Callable[[int], None],
) -> tuple[Tensor, Tensor, Tensor]:
    """Level 1's condensed cells, and level 0's global tokens and attention, band by band.

    `keep` is given each band's refined tokens, `report` the patches that are done.
    """
    level = lattice.levels[0]
    row_stream = RowStream(layer, model.embedding.tokens(_entering(model, features)), level)
    coarse = condense.conv.weight.new_empty(len(lattice.levels[1]), condense.conv.out_channels)
    for part in level.bands(band):
        # No name keeps a band alive into the next.
        x = row_stream.step(part, _tokens(model, features, lattice, part.fresh, part.key_stop))
        keep(part, x)
        coarse[level.parents(part.start, part.stop)] = condense.part(x, level, part.start)
        del x
        report(min(part.stop, len(lattice.order)))
    return coarse, *row_stream.finish()


def _stream_unet(
    model: SpanUnet,
    features: FeatureArray,
    cells: Tensor,
    band: int,
    progress: Progress | None,
) -> SpanOutput:
    """Score patches, going over level 0 once down and once up."""
    weight = model.head.weight
    lattice = Lattice.build(cells.to(weight.device))
    level, width = lattice.levels[0], model.embedding.patches.out_features
    states = weight.new_empty(len(cells), 2 * width)
    logits = weight.new_empty(len(cells), 1)

    def report(done: int) -> None:
        if progress is not None:
            progress("attention", done, 2 * len(cells))

    def keep(part: Band, x: Tensor, columns: slice = slice(width, None)) -> Tensor:
        # Tokens are patches but for the first and the last.
        rows = lattice.order[max(part.start - 1, 0) : min(part.stop - 1, len(cells))]
        first = int(part.start == 0)
        states[rows, columns] = x[first : first + len(rows)]
        return rows

    x, tokens, attention = _down(
        model,
        features,
        lattice,
        cast("Refinement", model.refinements[0]),
        cast("Condensation", model.condensations[0]),
        band,
        keep,
        report,
    )
    kept = model.encode_upper(x, tokens, attention, lattice)
    x, above = model.upper_levels(kept, lattice)
    up = model.up(0)
    (layer,) = up.refinements
    row_stream = RowStream(cast("Refinement", layer), up.expansion.tokens(above), level)
    for part in level.bands(band):
        rows = keep(
            part,
            row_stream.step(part, up.expansion.part(x, level, part.fresh, part.key_stop)),
            slice(None, width),
        )
        logits[rows] = model.head(states[rows])
        report(len(cells) + min(part.stop, len(cells)))
    found = [(tokens, attention) for _, tokens, attention in kept]
    return model.read_out(at_least_float32(logits), at_least_float32(states), found, lattice)


def _tokens(
    model: SpanMil | SpanUnet, features: FeatureArray, lattice: Lattice, start: int, stop: int
) -> Tensor:
    """Level 0's tokens ``start`` to ``stop``, the first and the last of all being sentinels."""
    weight = model.embedding.patches.weight
    tokens = weight.new_zeros(stop - start, weight.shape[0])
    last = len(lattice.order)
    rows = lattice.order[max(start - 1, 0) : min(stop - 1, last)]
    if len(rows):
        offset = int(start == 0)
        projected = model.embedding(read_rows(features, rows, weight.device))
        tokens[offset : offset + len(rows)] = projected
    return tokens


def _entering(model: SpanMil | SpanUnet, features: FeatureArray) -> Tensor:
    """Global tokens before level 0; reads the features once if they ask for it."""
    if not model.tokens.needs_features:
        return model.tokens.forward()
    device = model.head.weight.device
    count, width = features.shape
    highest = torch.zeros(width, device=device)
    # The sum of a million rows of float32 would lose the sixth digit.
    total = torch.zeros(width, dtype=torch.float64, device="cpu")
    for start in range(0, count, BAND_PATCHES):
        piece = torch.as_tensor(features[start : start + BAND_PATCHES])
        total += piece.float().sum(0).cpu()
        highest = torch.maximum(highest, piece.amax(0).to(highest))
    return model.tokens.forward(highest, (total / (count + 2)).to(highest))
