"""A slide's patches that a SPAN can read anew with some dropped or replaced."""

from __future__ import annotations

import contextlib
import functools
from collections.abc import Callable
from typing import TYPE_CHECKING

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from ..bundle import Bundle
from ..card import Explanation
from ..device import choose_device
from ..evidence import PyramidAttention
from ..evidence.measures import overlap
from ..models.span import SpanMil, SpanUnet, run_span
from .reruns import Mask, OwnMap, Values, one_thread, shuffle_weights

if TYPE_CHECKING:
    from ..models.span import SpanOutput
    from .slides import SlidePrediction

__all__ = ["SLIDE_FILLS", "SlideRerun", "prepare_slide", "top_patches"]

#: Dropped; as an ordinary patch of the slide; as the mean patch.
SLIDE_FILLS = ("drop", "ordinary", "mean")
#: A SPAN selects nothing: the share of patches, most attended first, taken for its selection.
TOP = 0.1
#: Patches up to which one thread of the CPU is used.
_FEW = 4096
#: Share of the patches, nearest to the mean of all, that ordinary ones are drawn from.
_ORDINARY = 0.5
#: Standard deviation of the noise that stability is tried with, in that of each feature.
_NOISE = 0.05


class SlideRerun:
    """Features of a slide and a SPAN; its units are patches.

    Of a SPAN-UNet two classes are judged by the mean log-odds over a region, and
    patches are replaced, never dropped: those of the region are still asked for.

    Parameters
    ----------
    features : numpy.ndarray
        (N, F) float32.
    cells : numpy.ndarray
        (N, 2) integers (x, y).
    seen : PyramidAttention
        Where the model attended, patches in the same order.
    model : SpanMil or SpanUnet
        In evaluation mode.
    temperature : float
        Of the bundle.
    methods : tuple of str, optional
        Explanations that are measured too, first first; by default attention
        alone.
    region : numpy.ndarray, optional
        (N,) bool, of a SPAN-UNet: the patches that are judged; by default all.
    """

    fills: tuple[str, ...] = SLIDE_FILLS

    def __init__(
        self,
        features: Values,
        cells: npt.NDArray[np.integer],
        seen: PyramidAttention,
        model: SpanMil | SpanUnet,
        temperature: float = 1.0,
        methods: tuple[Explanation, ...] = (),
        region: Mask | None = None,
    ) -> None:
        self.methods = methods
        self.region = None if region is None else torch.from_numpy(np.flatnonzero(region))
        if isinstance(model, SpanUnet):
            self.fills = tuple(fill for fill in SLIDE_FILLS if fill != "drop")
        self.model, self.temperature, self.seen = model, temperature, seen
        self.features = torch.from_numpy(np.ascontiguousarray(features, np.float32))
        self.places = torch.from_numpy(np.ascontiguousarray(cells, dtype=np.int64))
        rows, columns = seen.cells.max(axis=0).astype(int) + 1
        self.shape = (int(rows), int(columns))
        self.cells = seen.cells[:, 0].astype(np.int64) * self.shape[1] + seen.cells[:, 1]

    @functools.cached_property
    def whole(self) -> SpanOutput:
        """The untouched slide."""
        return self._run_span(self.features, self.places)

    def _run_span(
        self, features: Tensor, places: Tensor, model: SpanMil | SpanUnet | None = None
    ) -> SpanOutput:
        few = len(features) <= _FEW
        with one_thread("cpu") if few else contextlib.nullcontext():
            return run_span(model or self.model, features, places, streamed=False)

    def run(self, removed: Mask, fill: str = "drop", seed: int = 0) -> SpanOutput:
        """Read the slide with patches (N,) dropped or replaced.

        Raises
        ------
        ValueError
            If there is no such fill, or all patches would be dropped.
        """
        if fill == "drop":
            kept = torch.from_numpy(np.flatnonzero(~removed))
            if not len(kept):
                raise ValueError("at least one patch must stay; replace them instead")
            return self._run_span(self.features[kept], self.places[kept])
        return self._run_span(self.replace_features(removed, fill, seed), self.places)

    def replace_features(self, removed: Mask, fill: str, seed: int) -> Tensor:
        """Features (N, F) with those of some patches replaced."""
        if fill not in ("ordinary", "mean"):
            raise ValueError(f"there is no fill '{fill}'; use one of {', '.join(SLIDE_FILLS)}")
        mean = self.features.mean(dim=0)
        gone = torch.from_numpy(removed)[:, None]
        if fill == "mean":
            return torch.where(gone, mean, self.features)
        spread = self.features.std(dim=0, unbiased=False).clamp_min(1e-6)
        distance = ((self.features - mean) / spread).square().sum(dim=1)
        usual = distance.argsort(stable=True)[: max(1, round(_ORDINARY * len(distance)))]
        drawn = np.random.default_rng(seed).integers(len(usual), size=len(removed))
        return torch.where(gone, self.features[usual[torch.from_numpy(drawn)]], self.features)

    def logits(
        self, removed: Mask, fill: str, seed: int, progress: Callable[[int], None]
    ) -> npt.NDArray[np.float32]:
        """See `Rerun`; where all patches are dropped, the mean patch stands in all places."""
        found = []
        for mask in removed:
            used = "mean" if fill == "drop" and mask.all() else fill
            found.append(self._judge(self.run(mask, used, seed).logits.float().cpu()))
            progress(1)
        return np.stack(found)

    def _judge(self, logits: Tensor) -> npt.NDArray[np.float32]:
        """Return (n_classes,) logits: the slide's, or of two classes the region's log-odds."""
        if isinstance(self.model, SpanMil):
            slide: npt.NDArray[np.float32] = logits[0].numpy()
            return slide
        odds = logits[:, 0] if self.region is None else logits[self.region, 0]
        return np.array([0.0, float(odds.mean())], np.float32)

    def relevance(self, index: int) -> dict[str, OwnMap]:
        """See `Rerun`: attention of the finest level, and of all levels; or what was asked for.

        Attention is not of one class; other explanations are.
        """
        maps = _maps(self.seen)
        if not self.methods:
            return {name: OwnMap(values) for name, values in maps.items()}
        from .explanations import explain_features

        found: dict[str, Values] = {
            method: maps["attention"]
            if method == "attention"
            else explain_features(
                self.model, self.features, self.places, method, index, region=self.region
            )
            for method in self.methods
        }
        if self.seen.patch_probabilities is not None:
            # What such a model shows of each patch, as if it explained the others too.
            sign = np.float32(1 if index else -1)
            found["probability"] = sign * self.seen.patch_probabilities
        return {name: OwnMap(values) for name, values in {**found, **maps}.items()}

    def scatter(self, maps: Values) -> Values:
        """See `Rerun`: nothing is scattered."""
        return maps

    def selection(self) -> Mask:
        """See `Rerun`: the tenth of the patches that got most attention."""
        return top_patches(self.seen.patch_weights())

    def baselines(self) -> dict[str, Values]:
        """See `Rerun`; an edge is a patch whose features differ from its neighbours'."""
        grid = {cell: i for i, cell in enumerate(self.cells.tolist())}
        columns = self.shape[1]
        total, count = np.zeros(len(self.cells)), np.zeros(len(self.cells))
        for dy, dx in ((0, 1), (1, 0)):
            pairs = [
                (i, grid[cell + dy * columns + dx])
                for cell, i in grid.items()
                if (cell % columns) + dx < columns and cell + dy * columns + dx in grid
            ]
            if not pairs:
                continue
            first, second = np.array(pairs).T
            apart = (self.features[first] - self.features[second]).norm(dim=1).numpy()
            for side in (first, second):
                np.add.at(total, side, apart)
                np.add.at(count, side, 1)
        middle = self.seen.cells.mean(axis=0)
        distance = np.hypot(*(self.seen.cells - middle).T)
        return {
            "edges": (total / np.maximum(count, 1)).astype(np.float32),
            "centre": -distance.astype(np.float32),
        }

    def control(self, index: int, seed: int) -> Values:
        """See `Rerun`."""
        output = self._run_span(self.features, self.places, shuffle_weights(self.model, seed))
        return next(iter(_maps(self.attention(output)).values()))

    def attention(self, output: SpanOutput) -> PyramidAttention:
        """What the model attended to in a run with all patches."""
        from .slide_attention import to_pyramid_attention

        seen = self.seen
        return to_pyramid_attention(
            output,
            self.places.numpy(),
            origin=seen.origin,
            step=seen.step,
            side=seen.side,
            class_names=seen.class_names,
        )

    def stability(self, seed: int) -> dict[str, float]:
        """See `Rerun`: a little noise on the features, twice."""
        generator = torch.Generator().manual_seed(seed)
        spread = _NOISE * self.features.std(dim=0, unbiased=False)
        before, found = self.selection(), []
        for _ in range(2):
            noise = torch.randn(self.features.shape, generator=generator) * spread
            output = self._run_span(self.features + noise, self.places)
            found.append(overlap(before, top_patches(self.attention(output).patch_weights())))
        share = float(before.mean())
        return {"noise": float(np.mean(found)), "chance": share / (2 - share)}


def _maps(seen: PyramidAttention) -> dict[str, Values]:
    """Weights per patch, each level's in multiples of uniform."""
    levels = [seen.patch_weights(i) * len(level) for i, level in enumerate(seen.levels)]
    return {"attention": levels[0], "all levels": np.mean(levels, axis=0).astype(np.float32)}


def top_patches(weights: Values, share: float = TOP) -> Mask:
    """The (N,) patches with the largest weights, at least one."""
    chosen = np.zeros(len(weights), bool)
    chosen[np.argsort(-weights, kind="stable")[: max(1, round(share * len(weights)))]] = True
    return chosen


def prepare_slide(prediction: SlidePrediction, bundle: Bundle, device: str = "auto") -> SlideRerun:
    """Prepare a slide for running it again and again.

    Raises
    ------
    ValueError
        If the model gives no classes of slides, or the prediction is of another
        model or holds no features.
    """
    found = prediction.features
    if found is None or bundle.hash != prediction.model_hash:
        raise ValueError("the prediction must hold its features, and be of the same model")
    if bundle.card.target is not None:
        raise ValueError(
            f"'{bundle.card.name}' gives a {bundle.card.target.answer_name}, and no classes. This "
            "is measured of classes only; see Explained by for what speaks for it."
        )
    model = bundle.slide_model(choose_device(device))
    if not isinstance(model, SpanMil):
        raise ValueError(
            f"'{bundle.card.name}' gives each patch a class of its own. Evidence is measured for "
            "models that classify slides."
        )
    seen, temperature = prediction.attention, bundle.card.temperature
    return SlideRerun(found.read(), found.cells, seen, model, temperature)
