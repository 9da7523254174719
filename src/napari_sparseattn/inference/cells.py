"""Classify cells: crops in batches, evidence out."""

from __future__ import annotations

import contextlib
import dataclasses
import time
from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt

from ..bundle import Bundle
from ..card import CropSpec, plain_name, readable_name
from ..device import choose_device, is_out_of_memory
from ..evidence import CropFrame, PixelSelection, Traversal
from ..images.errors import check_pixel_size
from ..images.fields.cells import Cells, check_labels
from ..images.fields.crops import cut_crops
from ..images.fields.field import Field
from ..images.fields.scale import doubt_scale
from ..images.holograms.measure import measure_opd
from ..images.normalise import to_float
from ..images.tissue.mask import check_inverted
from .cell_map import reduce_states
from .prediction import Predictions, ReadingLedger
from .units import check_unit

if TYPE_CHECKING:
    from .run_crops import CropOutput

__all__ = [
    "about_scale",
    "absent_classes",
    "check_plane",
    "classify_cells",
    "classify_crops",
    "crop_side",
    "iter_cells",
    "join",
    "judge_crops",
    "look_at_crops",
    "side_of_crops",
]

#: Measured on a CPU by ``benchmarks/throughput.py``; the others are guesses until a GPU is at hand.
_BATCH = {"cpu": 16, "mps": 256, "cuda": 512}
_FEW = 4
#: Pixels below which what marks a cell says nothing of its size.
_LEAST_DIAMETER = 4.0
#: Bytes of states that are kept whole: of 96 numbers, those of 350 000 cells. Of more cells, so
#: many axes are kept.
_MOST_STATES, _FEW_AXES = 2**26, 16
#: What 16 bits can hold.
_HALF = (float(np.finfo(np.float16).min), float(np.finfo(np.float16).max))
#: Pixels along a field's longer side that tell whether it is inverted.
_LOOK = 96


def classify_cells(
    field: Field,
    cells: Cells,
    bundle: Bundle,
    device: str = "auto",
    *,
    evidence: bool = True,
    batch_size: int | None = None,
    only: Sequence[int] | None = None,
    classes: Sequence[str] | None = None,
    t: int = 0,
    z: int = 0,
) -> Predictions:
    """Classify every cell of a field of view.

    Parameters
    ----------
    field : Field
        The image; its channels must be those of the model.
    cells : Cells
        Where the cells are, e.g. from `find_cells`.
    bundle : Bundle
        A loaded model.
    device : str
        ``"auto"``, ``"cpu"``, ``"cuda"``, ``"mps"``; see `choose_device`.
    evidence : bool
        Keep what was looked at, about 25 KB per cell.
    batch_size : int, optional
        Crops per step; by default fitted to the device. When memory runs out
        it is halved, and finally the CPU takes over; the ledger says so.
    only : sequence of int, optional
        Which of the cells to classify. The others still serve the scale where
        the pixel size is unknown, so that a cell's class does not depend on
        how many were asked for.
    classes : sequence of str, optional
        Names of the classes that can occur here, at least one; the others get
        probability 0, and those that remain sum to 1. All by default.
    t, z : int
        Frame and slice of a stack.

    Returns
    -------
    Predictions
        On OPD maps with `measures`: area, OPD and dry mass of each cell.

    Raises
    ------
    ValueError
        If the image does not fit the model, or the model has no such class;
        the message says how.
    """
    stream = iter_cells(
        field,
        cells,
        bundle,
        device,
        evidence=evidence,
        batch_size=batch_size,
        only=only,
        classes=classes,
        t=t,
        z=z,
    )
    parts = list(stream)
    return (
        join(parts) if parts else _no_predictions(cells.subset([]), bundle, choose_device(device))
    )


def iter_cells(
    field: Field,
    cells: Cells,
    bundle: Bundle,
    device: str = "auto",
    *,
    evidence: bool = False,
    batch_size: int | None = None,
    only: Sequence[int] | None = None,
    classes: Sequence[str] | None = None,
    t: int = 0,
    z: int = 0,
) -> Iterator[Predictions]:
    """Classify batch by batch; closing the iterator stops the work.

    Parameters are those of `classify_cells`. Memory is bounded by the batch,
    not by the field: crops are cut as they are needed.

    Yields
    ------
    Predictions
        Of the next few cells, in the order of `cells`.
    """
    plane = check_plane(field, bundle, t, z)
    check_labels(cells, field.shape)
    absent = absent_classes(bundle, classes)
    runner = _Runner(bundle, choose_device(device), batch_size)
    limits = bundle.card.limits
    runner.notes += [*([limits] if limits else []), *field.notes, *cells.notes]
    sides, scale_known = crop_side(field, cells, bundle)
    runner.notes += about_scale(field, cells)
    if len(sides):
        spec = bundle.card.crop
        runner.notes += spec.about_detail(spec.size / float(sides[0]), "crops")
    if only is not None:
        cells, sides = cells.subset(only), sides[np.asarray(only, dtype=np.intp)]
    start = 0
    while start < len(cells):
        began = time.perf_counter()
        part = cells.subset(np.arange(start, min(start + runner.batch_size, len(cells))))
        side = sides[start : start + len(part)]
        size = bundle.card.crop.size
        crops = _cut(plane, part.centres, side, size)
        ready = bundle.card.normalisation(crops.transpose(0, 3, 1, 2))
        frames = [
            CropFrame(float(row), float(column), float(length), size)
            for (row, column), length in zip(part.centres, side, strict=True)
        ]
        output = runner(ready, frames if evidence else None)
        done = _predictions(part, bundle, output, absent, side, runner, scale_known, began)
        if field.unit == "nm":
            done = dataclasses.replace(done, measures=measure_opd(field, part, t, z))
        yield done
        start += len(part)


def classify_crops(
    crops: npt.NDArray[np.float32],
    bundle: Bundle,
    device: str = "auto",
    *,
    batch_size: int | None = None,
    classes: Sequence[str] | None = None,
) -> npt.NDArray[np.float32]:
    """Probabilities of crops that are already cut to the model's size; see `judge_crops`.

    Parameters
    ----------
    crops : numpy.ndarray
        (N, size, size, C) float32, values as `to_float` gives them.
    bundle, device, batch_size, classes
        As in `classify_cells`.

    Returns
    -------
    numpy.ndarray
        (N, n_classes) float32.
    """
    return judge_crops(crops, bundle, device, batch_size=batch_size, classes=classes)[0]


def judge_crops(
    crops: npt.NDArray[np.float32],
    bundle: Bundle,
    device: str = "auto",
    *,
    batch_size: int | None = None,
    classes: Sequence[str] | None = None,
) -> tuple[npt.NDArray[np.float32], npt.NDArray[np.float32] | None]:
    """Probabilities of crops, and how unlike anything the model was trained on they are.

    Parameters
    ----------
    crops, bundle, device, batch_size, classes
        As in `classify_crops`.

    Returns
    -------
    probabilities : numpy.ndarray
        (N, n_classes) float32.
    novelty : numpy.ndarray or None
        (N,) float32, above 1 where flagged; None where the model's file has no
        states to compare with.
    """
    absent, known = absent_classes(bundle, classes), bundle.known
    runner = _Runner(bundle, choose_device(device), batch_size)
    parts = [np.empty((0, len(bundle.card.class_names)), np.float32)]
    novelty, start = [np.empty(0, np.float32)], 0
    while start < len(crops):
        batch = crops[start : start + runner.batch_size]
        output = runner(
            bundle.card.normalisation(np.ascontiguousarray(batch.transpose(0, 3, 1, 2)))
        )
        parts.append(_probabilities(output, bundle, absent))
        if known is not None:
            novelty.append(known.novelty(output.states))
        start += len(batch)
    return np.concatenate(parts), None if known is None else np.concatenate(novelty)


def look_at_crops(
    crops: npt.NDArray[np.float32],
    frames: Sequence[CropFrame],
    bundle: Bundle,
    device: str = "auto",
) -> tuple[PixelSelection | Traversal, ...]:
    """What a model looks at in crops that are already cut to its size.

    Parameters
    ----------
    crops : numpy.ndarray
        (N, size, size, C) float32, values as `to_float` gives them.
    frames : sequence of CropFrame
        Where the N crops lie on their image.
    bundle, device
        As in `classify_cells`.
    """
    runner = _Runner(bundle, choose_device(device), None)
    ready = bundle.card.normalisation(np.ascontiguousarray(crops.transpose(0, 3, 1, 2)))
    return runner(ready, frames).evidence


def crop_side(field: Field, cells: Cells, bundle: Bundle) -> tuple[npt.NDArray[np.float64], bool]:
    """Side of each cell's crop in image pixels, and whether its scale is known.

    With a known pixel size every crop shows the model's field of view in µm.
    Without one, the red cells of a smear set the scale, where they were
    measured; else crops are cut at a multiple of the cells' median diameter,
    which keeps cells of one image comparable. The result is then marked, and
    so it is where the red cells speak against the pixel size.

    Returns
    -------
    sides : numpy.ndarray
        (N,) float64.
    scale_known : bool

    Raises
    ------
    ValueError
        If no cell can be seen at the pixel size, or cells of one pixel, say,
        are all that there is to tell the scale by.
    """
    return side_of_crops(field.pixel_size or cells.pixel_size, cells, bundle.card.crop)


def side_of_crops(
    pixel_size: float | None, cells: Cells, spec: CropSpec
) -> tuple[npt.NDArray[np.float64], bool]:
    """`crop_side`, of an image that is not at hand."""
    if pixel_size is not None:
        check_pixel_size(pixel_size)
        known = not doubt_scale(pixel_size, cells.scale)
        return np.full(len(cells), spec.field_of_view_um / pixel_size), known
    if cells.scale is not None:
        return np.full(len(cells), spec.field_of_view_um / cells.scale.pixel_size), False
    diameters = cells.diameters
    typical = float(np.median(diameters)) if len(diameters) else 1.0
    if len(diameters) and typical < _LEAST_DIAMETER:
        raise ValueError(
            f"The cells are marked by {typical:.2g} pixels each, which does not tell how large "
            "they are. Give the pixel size, or mark their whole area."
        )
    return np.full(len(cells), max(spec.cell_diameters * typical, 1.0)), False


def about_scale(field: Field, cells: Cells) -> list[str]:
    """Return notes on what the red cells of an image say of its scale, where it matters."""
    stated, measured = field.pixel_size or cells.pixel_size, cells.scale
    if doubt := doubt_scale(stated, measured):
        return [doubt]
    if stated is None and measured is not None:
        by = f"Pixel size unknown: by the red cells a pixel is about {measured.rounded:g} µm"
        return [f"{by}, and crops were cut so. Give it if you know it."]
    return []


def join(parts: Sequence[Predictions]) -> Predictions:
    """Join what `iter_cells` gave into one table.

    Raises
    ------
    ValueError
        If there is nothing to join.
    """
    if not parts:
        raise ValueError("there are no predictions to join")
    ledgers = [part.ledger for part in parts]
    ledger = ReadingLedger(
        pixels=sum(x.pixels for x in ledgers),
        classified=sum(x.classified for x in ledgers),
        crop_pixels=sum(x.crop_pixels for x in ledgers),
        seconds=sum(x.seconds for x in ledgers),
        device=ledgers[-1].device,
        notes=tuple(dict.fromkeys(note for x in ledgers for note in x.notes)),
    )
    return dataclasses.replace(
        parts[0],
        cells=_join_cells([part.cells for part in parts]),
        probabilities=np.concatenate([part.probabilities for part in parts]),
        measures={
            name: np.concatenate([part.measures[name] for part in parts])
            for name in parts[0].measures
        },
        evidence=tuple(item for part in parts for item in part.evidence),
        ledger=ledger,
        novelty=_join_measured([part.novelty for part in parts]),
        none_of_these=_join_measured([part.none_of_these for part in parts]),
        states=_join_states([part.states for part in parts]),
    )


def _join_measured(parts: Sequence[npt.NDArray[Any] | None]) -> npt.NDArray[Any] | None:
    measured = [part for part in parts if part is not None]
    return np.concatenate(measured) if len(measured) == len(parts) else None


def _join_states(
    parts: Sequence[npt.NDArray[np.float16] | None],
) -> npt.NDArray[np.float16] | None:
    states = _join_measured(parts)
    if states is None or states.nbytes <= _MOST_STATES:
        return states
    return reduce_states(states, _FEW_AXES)


def _join_cells(parts: Sequence[Cells]) -> Cells:
    return dataclasses.replace(
        parts[0],
        centres=np.concatenate([part.centres for part in parts]),
        boxes=np.concatenate([part.boxes for part in parts]),
        at_border=np.concatenate([part.at_border for part in parts]),
        ids=np.concatenate([part.ids for part in parts]),
    )


class _Runner:
    """Runs batches; halves them, then changes to the CPU, when memory is out."""

    def __init__(self, bundle: Bundle, device: str, batch_size: int | None) -> None:
        if batch_size is not None and batch_size < 1:
            raise ValueError(f"batch_size must be at least 1, got {batch_size}")
        self.bundle = bundle
        self.device = device
        self.batch_size = batch_size or _BATCH.get(device.split(":", maxsplit=1)[0], 64)
        self.notes: list[str] = []

    def __call__(
        self, crops: npt.NDArray[np.float32], frames: Sequence[CropFrame] | None = None
    ) -> CropOutput:
        import torch

        from .run_crops import join_outputs, run_crops

        parts: list[CropOutput] = []
        start = 0
        while start < len(crops):
            rows = slice(start, start + self.batch_size)
            batch = torch.from_numpy(np.ascontiguousarray(crops[rows]))
            try:
                with self._threads(len(batch)):
                    model = self.bundle.cell_model(self.device)
                    parts.append(
                        run_crops(
                            model, batch.to(self.device), None if frames is None else frames[rows]
                        )
                    )
            except (RuntimeError, MemoryError) as error:
                if not is_out_of_memory(error):
                    raise
                self._shrink(error)
                continue
            start += len(batch)
        return join_outputs(parts)

    @contextlib.contextmanager
    def _threads(self, batch: int) -> Iterator[None]:
        """Keep a few crops on one thread: for them, waiting costs more than help saves.

        In the window the other threads would also take the cores from drawing.
        """
        import torch

        before = torch.get_num_threads()
        if self.device != "cpu" or batch > _FEW or before == 1:
            yield
            return
        torch.set_num_threads(1)
        try:
            yield
        finally:
            torch.set_num_threads(before)

    def _shrink(self, error: BaseException) -> None:
        import torch

        if self.device.startswith("cuda"):
            torch.cuda.empty_cache()
        if self.batch_size > 1:
            self.batch_size = max(1, self.batch_size // 2)
            self.notes.append(f"Memory ran out on {self.device}: batches of {self.batch_size} now.")
        elif self.device != "cpu":
            self.notes.append(f"Memory ran out on {self.device}: continued on the CPU.")
            self.device, self.batch_size = "cpu", _BATCH["cpu"]
        else:
            raise MemoryError(
                "Memory ran out for a single crop on the CPU. Close other programs and try again."
            ) from error


def check_plane(field: Field, bundle: Bundle, t: int, z: int) -> npt.NDArray[np.generic]:
    """Return one frame (H, W, C) of a field, or raise a ValueError if the model takes others."""
    card = bundle.card
    plane: npt.NDArray[np.generic] = field.plane(t, z)
    channels = plane.shape[-1]
    if channels != len(card.channels):
        raise ValueError(
            f"'{card.name}' needs {card.channels_text}, "
            f"the image has {channels}. Choose another model, or an image of that kind."
        )
    if "unknown" not in (field.modality, card.modality) and field.modality != card.modality:
        raise ValueError(
            f"'{card.name}' was trained on {card.modality} images, this one is marked as "
            f"{field.modality}. Choose another model, or correct the image's modality."
        )
    check_unit(field, card)
    if card.modality == "brightfield" and channels == 3:
        step = max(1, max(plane.shape[:2]) // _LOOK)
        seen = to_float(plane[::step, ::step]).reshape(-1, 3)
        check_inverted(seen[np.isfinite(seen).all(axis=1)], field.name)
    return plane


def _cut(
    plane: npt.NDArray[np.generic],
    centres: npt.NDArray[np.float64],
    sides: npt.NDArray[np.float64],
    size: int,
) -> npt.NDArray[np.float32]:
    # `crop_side` gives one side for all cells of an image.
    return cut_crops(plane, centres, float(sides[0]), size)


def absent_classes(bundle: Bundle, classes: Sequence[str] | None) -> list[int]:
    """Return the indices of the classes that cannot occur, where `classes` are those that can.

    Raises
    ------
    ValueError
        If the model has no such class, or none is left.
    """
    if classes is None:
        return []
    names = bundle.card.class_names
    # As results have them, or as the model has them.
    classes = [plain_name(name) if name in bundle.card.shown_names else name for name in classes]
    unknown = [name for name in classes if name not in names]
    if unknown:
        raise ValueError(
            f"'{bundle.card.name}' knows no {', '.join(unknown)}; its classes are "
            f"{', '.join(names)}"
        )
    if not classes:
        raise ValueError("at least one class must be possible")
    return [index for index, name in enumerate(names) if name not in classes]


def _probabilities(
    output: CropOutput, bundle: Bundle, absent: Sequence[int]
) -> npt.NDArray[np.float32]:
    import torch

    logits = output.logits / torch.from_numpy(bundle.temperatures(output.states))[:, None]
    if absent:
        logits[:, list(absent)] = -float("inf")
    return logits.softmax(1).numpy()


def _predictions(
    cells: Cells,
    bundle: Bundle,
    output: CropOutput,
    absent: Sequence[int],
    sides: npt.NDArray[np.float64],
    runner: _Runner,
    scale_known: bool,
    began: float,
) -> Predictions:
    size, names = bundle.card.crop.size, bundle.card.shown_names
    known = bundle.known
    left_out = ", ".join(readable_name(names[index]) for index in absent)
    restricted = f"Not considered: {left_out}."
    ledger = ReadingLedger(
        pixels=round(float((sides**2).sum())),
        classified=output.pixels,
        crop_pixels=len(cells) * size * size,
        seconds=time.perf_counter() - began,
        device=runner.device,
        notes=(*runner.notes, *((restricted,) if absent else ())),
    )
    return Predictions(
        cells,
        names,
        _probabilities(output, bundle, absent),
        output.evidence,
        ledger,
        bundle.hash,
        bundle.card.name,
        scale_known,
        novelty=None if known is None else known.novelty(output.states),
        none_of_these=None if known is None else known.look_like_others(output.states),
        # Half the memory; a map is no more exact than this.
        states=output.states.numpy().clip(*_HALF).astype(np.float16),
    )


def _no_predictions(cells: Cells, bundle: Bundle, device: str) -> Predictions:
    names, known = bundle.card.shown_names, bundle.known
    return Predictions(
        cells,
        names,
        np.empty((0, len(names)), np.float32),
        (),
        ReadingLedger(0, 0, 0, 0.0, device),
        bundle.hash,
        bundle.card.name,
        novelty=None if known is None else np.empty(0, np.float32),
        none_of_these=None if known is None or known.others is None else np.empty(0, bool),
        states=np.empty((0, 0), np.float16),
    )
