"""Classify or segment a whole slide with a SPAN: tissue, patches, features, attention."""

from __future__ import annotations

import contextlib
import dataclasses
import hashlib
import os
import time
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt

from ..bundle import Bundle
from ..card import Card
from ..device import choose_device, is_out_of_memory
from ..evidence import PyramidAttention
from ..features.encoders import Encoder, load_encoder
from ..features.extract import FeatureSet, extract_features, slide_hash
from ..features.files import read_features
from ..images.slides.patches import PatchGrid, patch_grid
from ..images.slides.pyramid import Pyramid, Reading
from ..images.tissue.mask import Tissue, check_slide, find_tissue
from ..progress import Progress, heard
from ..reprs import short_repr
from .prediction import Estimate, Prediction, ReadingLedger, novelty_columns, slide_novelty
from .slide_attention import merge_outputs, to_pyramid_attention

if TYPE_CHECKING:
    import pandas as pd

    from ..models.span import SpanOutput

__all__ = [
    "LocalAttention",
    "SlidePrediction",
    "Stage",
    "check_features",
    "classify_slide",
    "estimate_of",
    "local_attention",
]

# Patches of foreign features may differ from those of the training by this factor.
_MOST_OFF = 1.5


@dataclasses.dataclass(frozen=True)
class Stage:
    """One step from the slide to its class.

    Parameters
    ----------
    name : str
        ``"tissue"``, ``"features"`` or ``"attention"``.
    seconds : float
        Wall time.
    count : int
        Patches it worked on.
    """

    name: str
    seconds: float
    count: int


@dataclasses.dataclass(frozen=True)
class SlidePrediction(Prediction):
    """A slide's class, or its patches', and where the model attended.

    Its `evidence` is a `PyramidAttention`. Of a model that segments,
    `probabilities` are the shares of the patches called each class, and those
    of each patch are in the evidence. Of a model that gives a risk or a number,
    that is the `estimate`; its name is then the only class name, and its
    probability the share of the training slides with a lower one.

    Parameters
    ----------
    features : FeatureSet or None
        What the model was given.
    tissue : Tissue or None
        What was taken for tissue; None where the features came from a file.
    stages : tuple of Stage
        Steps with their wall time.
    reading : Reading or None
        Which tiles were decoded, at which level, with bytes and seconds.
    segments : bool
        Whether `probabilities` are shares.
    patch_novelty : numpy.ndarray or None
        (N,) `novelty` of each patch, where that is told. Its slide's is their median
        of a model that segments, else their geometric mean.
    estimate : Estimate or None
        The risk or number, of a model that gives one.
    """

    def __repr__(self) -> str:
        if self.estimate is None:
            return super().__repr__()
        return f"SlidePrediction({self.estimate.headline}, by model {self.model_hash[:12]})"

    features: FeatureSet | None = None
    tissue: Tissue | None = None
    stages: tuple[Stage, ...] = ()
    reading: Reading | None = None
    segments: bool = False
    patch_novelty: npt.NDArray[np.float32] | None = None
    estimate: Estimate | None = None

    @property
    def attention(self) -> PyramidAttention:
        """Where the model attended, level by level."""
        if not isinstance(self.evidence, PyramidAttention):
            raise TypeError("this prediction was made without attention")
        return self.evidence

    def to_frame(self) -> pd.DataFrame:
        """Return one row per patch: its place, its attention per level, its probability.

        ``top``, ``left`` and ``side`` are pixels of the full resolution;
        ``attention_1``, ``attention_2``, … the weight of the cell of so many
        patches along a side that the patch lies in, in multiples of uniform.
        """
        import pandas as pd

        seen = self.attention
        corners = np.array(seen.origin) + seen.cells * seen.step
        columns: dict[str, Any] = {
            "top": corners[:, 0],
            "left": corners[:, 1],
            "side": np.full(len(seen), seen.side),
        }
        for index, level in enumerate(seen.levels):
            weights = seen.patch_weights(index) * len(level)
            columns[f"attention_{level.factor}"] = weights
        if seen.patch_probabilities is not None:
            columns[f"p_{self.class_names[1]}"] = seen.patch_probabilities
        if seen.patch_probabilities is not None or self.patch_novelty is not None:
            columns |= novelty_columns(self.patch_novelty, len(seen))
        return pd.DataFrame(columns)


@dataclasses.dataclass(frozen=True, eq=False)
class LocalAttention:
    """What one patch attended to in its window.

    Parameters
    ----------
    patch : int
        The patch that looked.
    indices : numpy.ndarray
        (m,) int64, the patches it looked at.
    weights : numpy.ndarray
        (heads, m) float32; together with the weight of the lattice's corners,
        where they are in the window, each head sums to 1.
    """

    __repr__ = short_repr

    patch: int
    indices: npt.NDArray[np.int64]
    weights: npt.NDArray[np.float32]


def classify_slide(
    pyramid: Pyramid,
    bundle: Bundle,
    encoder: Encoder | str | None = None,
    *,
    features: FeatureSet | str | os.PathLike[str] | None = None,
    tissue: Tissue | None = None,
    store: str | os.PathLike[str] | None = None,
    allow_unknown_scale: bool = False,
    device: str = "auto",
    progress: Progress | None = None,
) -> SlidePrediction:
    """Classify a slide, or each of its patches, with a SPAN; or ask it for a risk or a number.

    Parameters
    ----------
    pyramid : Pyramid
        The slide.
    bundle : Bundle
        A SPAN-MIL or SPAN-UNet.
    encoder : Encoder or str, optional
        By default the one that the model's card names; another is refused.
    features : FeatureSet or path-like, optional
        Made before, here or by CLAM, TRIDENT or STAMP; then neither tissue
        nor patches are looked for.
    tissue : Tissue, optional
        Where to take patches, by default `find_tissue`.
    store : path-like, optional
        A folder in which features are kept: a run that was stopped goes on,
        and a second one is quick.
    allow_unknown_scale : bool
        Take patches of the model's size in the slide's own pixels where its
        µm per pixel is not known, and mark the result.
    device : str
        See `choose_device`.
    progress : callable, optional
        Called with the stage, what is done and how much there is; it may
        raise to stop.

    Returns
    -------
    SlidePrediction

    Raises
    ------
    ValueError
        If slide, model, encoder or features do not fit, or there is no tissue.
    ImageError
        If the slide's µm per pixel is not known, or its file is gone.
    """
    chosen = choose_device(device)
    bundle.slide_model(chosen)  # refused before any work, if it is none
    with heard(progress, "tissue") as report:
        work = _Work(pyramid.with_own_ledger(), bundle, chosen, report)
        if features is not None:
            found = work.use_features(features)
        else:
            found = work.make_features(encoder, tissue, store, allow_unknown_scale)
        return work.attend(found)


class _Work:
    """One slide on its way through the stages."""

    def __init__(self, pyramid: Pyramid, bundle: Bundle, device: str, report: Progress) -> None:
        self.pyramid, self.bundle, self.device, self.report = pyramid, bundle, device, report
        self.stages: list[Stage] = []
        limits = bundle.card.limits
        self.notes = [*([limits] if limits else []), *pyramid.notes, *pyramid.colour_notes]
        self.tissue: Tissue | None = None
        self.scale_known = True

    def use_features(self, features: FeatureSet | str | os.PathLike[str]) -> FeatureSet:
        """Check features that were made before."""
        found = features if isinstance(features, FeatureSet) else read_features(Path(features))
        found = found.to_pixels(self.pyramid.pixel_size)
        self.notes += found.notes
        spec = self.bundle.card.encoder
        assert spec is not None
        check_features(found, self.bundle.card)
        if not found.encoder_hash:
            self.scale_known = False
            self.notes.append(
                f"Features of an unknown encoder: the result holds only if it is {spec.name}."
            )
        if found.slide_hash and found.slide_hash != slide_hash(self.pyramid):
            raise ValueError(
                f"The features are of another slide than {self.pyramid.name}, or of this one with "
                "its colour profile applied otherwise."
            )
        self._check_patch_size(found)
        middles = found.corners + found.side / 2
        off = np.flatnonzero(((middles < 0) | (middles > self.pyramid.shape)).any(axis=1))
        if len(off):
            raise ValueError(
                f"{len(off)} of {len(found)} patches lie outside of {self.pyramid.name}, such as "
                f"row {off[0]}. Are the features of this slide, at this resolution?"
            )
        return found

    def _check_patch_size(self, found: FeatureSet) -> None:
        """Refuse features whose patches are of another size than those trained on, in µm."""
        crop, pixel_size = self.bundle.card.crop, self.pyramid.pixel_size
        # What made the features knew the slide's scale; else it is taken from the slide.
        side = found.patch_um
        shown = None if pixel_size is None else found.side * pixel_size
        if side is None:
            side = shown
        if side is None:
            return
        if shown is not None and not side / _MOST_OFF <= shown <= side * _MOST_OFF:
            raise ValueError(
                f"The features' patches are {side:.3g} µm wide, and {shown:.3g} µm by the pixel "
                f"size of {pixel_size:g} µm: one of them is wrong. Leave the pixel size out, or "
                "make the features again."
            )
        trained = crop.field_of_view_um
        if not trained / _MOST_OFF <= side <= trained * _MOST_OFF:
            raise ValueError(
                f"The patches are {side:.3g} µm wide, those that "
                f"'{self.bundle.card.name}' was trained on {trained:.3g} µm. Are the coordinates "
                "those of level 0? Make the features again at the model's µm per pixel."
            )

    def make_features(
        self,
        encoder: Encoder | str | None,
        tissue: Tissue | None,
        store: str | os.PathLike[str] | None,
        allow_unknown_scale: bool,
    ) -> FeatureSet:
        """Find tissue, and make features of its patches."""
        bright = self.bundle.card.modality == "brightfield"
        check_slide(self.pyramid, brightfield=bright, tissue=False)
        coder = self._encoder(encoder)
        with self._stage("tissue") as count:
            self.report("tissue", 0, 1)
            self.tissue = tissue or find_tissue(self.pyramid, progress=self.report)
            grid = self._grid(self.tissue, allow_unknown_scale)
            count.append(len(grid))
            self.report("tissue", 1, 1)
        self.notes += self.tissue.notes
        if not len(grid):
            raise ValueError(
                f"No tissue was found on {self.pyramid.name}. Outline it in a Shapes layer, or "
                "choose another slide."
            )
        self.scale_known = self.scale_known and grid.pixel_size is not None
        if self.pyramid.pixel_size is not None:
            spec = self.bundle.card.crop
            enlarged = self.pyramid.pixel_size / spec.pixel_size
            self.notes += spec.about_detail(enlarged, "patches")
        path = None if store is None else self._file(Path(store), grid, coder)
        with self._stage("features", len(grid)):
            found = extract_features(
                self.pyramid,
                grid,
                coder,
                path,
                device=self.device,
                progress=self.report,
            )
        self.notes += found.notes
        if (traffic := self.pyramid.traffic) is not None:
            self.notes.append(f"from another machine: {traffic.summary()}")
        return found

    def attend(self, found: FeatureSet) -> SlidePrediction:
        """Run the model on features."""
        began = time.perf_counter()
        with self._stage("attention", len(found)):
            self.report("attention", 0, 1)
            output = self._run(found)
            estimate = self._estimate(output)
            seen, probabilities = self._result(output, found, estimate)
            novelty, patches = slide_novelty(
                self.bundle, output.states.float().cpu(), found.features
            )
            self.report("attention", 1, 1)
        card, reading = self.bundle.card, self.pyramid.ledger.snapshot()
        pyramid = self.pyramid
        ledger = ReadingLedger(
            pixels=reading.bytes_decoded // (pyramid.channels * pyramid.dtype.itemsize),
            classified=len(found) * card.crop.size**2,
            crop_pixels=pyramid.shape[0] * pyramid.shape[1],
            seconds=sum(stage.seconds for stage in self.stages) or time.perf_counter() - began,
            device=self.device,
            notes=tuple(self.notes),
        )
        return SlidePrediction(
            card.shown_names,
            probabilities,
            seen,
            ledger,
            self.bundle.hash,
            self.scale_known,
            features=found,
            tissue=self.tissue,
            stages=tuple(self.stages),
            reading=reading,
            segments=card.segments,
            novelty=novelty,
            patch_novelty=patches,
            estimate=estimate,
        )

    def _run(self, found: FeatureSet) -> SpanOutput:
        try:
            return self._run_on(self.device, found)
        except (RuntimeError, MemoryError) as error:
            if self.device == "cpu" or not is_out_of_memory(error):
                raise
        self.notes.append(f"Memory ran out on {self.device}: continued on the CPU.")
        self.device = "cpu"
        return self._run_on("cpu", found)

    def _run_on(self, device: str, found: FeatureSet) -> SpanOutput:
        import torch

        from ..models.span import run_span

        model = self.bundle.slide_model(device)
        cells = torch.from_numpy(np.ascontiguousarray(found.cells, dtype=np.int64))
        with torch.inference_mode():
            return run_span(model, found.features, cells, progress=self.report)

    def _estimate(self, output: SpanOutput) -> Estimate | None:
        """The risk or number; None of a model of classes."""
        card = self.bundle.card
        return None if card.target is None else estimate_of(card, output)

    def _result(
        self, output: SpanOutput, found: FeatureSet, estimate: Estimate | None
    ) -> tuple[PyramidAttention, npt.NDArray[np.float32]]:
        card = self.bundle.card
        logits = output.logits.float().cpu() / card.temperature
        patches = None
        if card.segments:
            patches = logits.flatten().sigmoid().numpy()
            share = float((patches >= 0.5).mean())
            probabilities = np.array([1 - share, share], np.float32)
        elif estimate is not None:
            rank = estimate.rank
            probabilities = np.array([np.nan if rank is None else rank], np.float32)
        else:
            probabilities = logits[0].softmax(0).numpy()
        seen = to_pyramid_attention(
            merge_outputs(output, card.target),
            found.cells,
            origin=found.origin,
            step=found.step,
            side=found.side,
            class_names=card.shown_names,
            patch_probabilities=patches,
        )
        return seen, probabilities

    def _encoder(self, encoder: Encoder | str | None) -> Encoder:
        spec = self.bundle.card.encoder
        assert spec is not None
        if spec.elsewhere:
            raise ValueError(
                f"'{self.bundle.card.name}' was trained on features made elsewhere ({spec.name}), "
                "which this plugin cannot make. Make them for this slide in the same way, and give "
                "them with --features."
            )
        if encoder is None or isinstance(encoder, str):
            encoder = load_encoder(encoder or spec.name, self.device)
        if encoder.hash != spec.hash:
            raise ValueError(
                f"'{self.bundle.card.name}' was trained on features of {spec.name} "
                f"({spec.hash[:12]}), not of {encoder.name} ({encoder.hash[:12]}). Use that "
                "encoder, or train a model on this one."
            )
        return encoder

    def _grid(self, tissue: Tissue, allow_unknown_scale: bool) -> PatchGrid:
        crop = self.bundle.card.crop
        known = self.pyramid.pixel_size is not None
        pixel_size = crop.pixel_size if known or not allow_unknown_scale else None
        if not known and allow_unknown_scale:
            self.notes.append(
                "the pixel size is unknown: patches were taken in the slide's own pixels, and the "
                f"model was trained at {crop.pixel_size:.3g} µm per pixel."
            )
        return patch_grid(self.pyramid, tissue, pixel_size=pixel_size, size=crop.size)

    def _file(self, store: Path, grid: PatchGrid, encoder: Encoder) -> Path:
        """A name that features of another slide, encoder or grid do not share."""
        key = hashlib.sha256(f"{slide_hash(self.pyramid)}|{encoder.hash}|".encode())
        key.update(f"{grid.step}|{grid.side}|{grid.size}|{grid.origin}|{grid.pixel_size}|".encode())
        key.update(np.ascontiguousarray(grid.cells, dtype=np.int64).tobytes())
        stem = Path(self.pyramid.name or "slide").stem
        safe = "".join(c if c.isalnum() or c in "-_." else "-" for c in stem)[:80]
        store.mkdir(parents=True, exist_ok=True)
        return store / f"{safe}-{key.hexdigest()[:16]}.h5"

    @contextlib.contextmanager
    def _stage(self, name: str, count: int = 0) -> Iterator[list[int]]:
        """Time a stage; its count may be given later."""
        counts = [count] if count else []
        began = time.perf_counter()
        yield counts
        self.stages.append(Stage(name, time.perf_counter() - began, counts[-1] if counts else 0))


def check_features(found: FeatureSet, card: Card) -> None:
    """Refuse features that are not of a model's encoder.

    Raises
    ------
    ValueError
        Saying of which they are.
    """
    spec = card.encoder
    assert spec is not None
    if found.width != spec.width:
        raise ValueError(
            f"The features have {found.width} values per patch; '{card.name}' "
            f"takes {spec.width} of the encoder {spec.name}. Make features with that encoder."
        )
    if found.encoder_hash and found.encoder_hash != spec.hash:
        raise ValueError(
            f"The features were made by {found.encoder}, not by the encoder that "
            f"'{card.name}' was trained on ({spec.name})."
        )


def estimate_of(card: Card, output: SpanOutput) -> Estimate:
    """Return the risk or number that a model with such a target gave."""
    target = card.target
    assert target is not None
    numbers = output.logits[0].double().cpu()
    score = float(target.score(numbers))
    return Estimate(target, card.shown_names[0], score, target.survival(numbers))


def local_attention(prediction: SlidePrediction, bundle: Bundle, patch: int) -> LocalAttention:
    """Return what a patch attended to in its window at the finest level.

    Parameters
    ----------
    prediction : SlidePrediction
        Of `classify_slide`.
    bundle : Bundle
        The model it was made with.
    patch : int
        Index of a patch.

    Raises
    ------
    ValueError
        If the prediction is of another model, or holds no features.
    IndexError
        If there is no such patch.
    """
    import torch

    found = prediction.features
    if found is None or bundle.hash != prediction.model_hash:
        raise ValueError("local attention needs the prediction's features and its own model")
    if not 0 <= patch < len(found):
        raise IndexError(f"there is no patch {patch}; there are {len(found)}")
    cells = torch.from_numpy(np.ascontiguousarray(found.cells, dtype=np.int64))
    with torch.inference_mode():
        keys, weights = bundle.slide_model().local_attention(found.features, cells, patch)
    indices, values = keys.cpu().numpy(), weights.float().cpu().numpy()
    real = indices >= 0
    return LocalAttention(patch, indices[real], np.ascontiguousarray(values[:, real]))
