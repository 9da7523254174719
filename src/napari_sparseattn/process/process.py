"""One file, or one image that is open: classified, with one result for whoever asked."""

from __future__ import annotations

import contextlib
import os
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt

from ..addresses import Address, as_source
from ..bundle import Bundle, load_bundle
from ..images.fields.field import Field
from ..images.slides.pyramid import Pyramid
from .options import ProcessOptions, Task
from .result import Result

if TYPE_CHECKING:
    from ..images.fields.cells import Cells
    from ..images.holograms.recording import Recording
    from ..images.holograms.settings import HologramSettings
    from ..images.tissue.mask import Tissue
    from ..inference.prediction import Predictions
    from ..progress import Progress

__all__ = ["choose_task", "process_file", "process_image", "process_recording"]

_HDF5 = (".rtdc", ".h5", ".hdf5")


def process_file(
    path: str | os.PathLike[str] | Address,
    model: Bundle | str | os.PathLike[str] | None,
    options: ProcessOptions | None = None,
    *,
    store: Path | None = None,
    opd: Path | None = None,
    progress: Progress | None = None,
) -> Result:
    """Classify what a file holds: cells, holograms, a field, or a slide.

    Parameters
    ----------
    path : path-like, or an address
        The file, or the folder of a slide; of slides also where they are on another
        machine, see `open_slide`.
    model : Bundle, str, path-like or None
        A loaded model, its name or its file. Holograms can do without: they
        are then reconstructed only.
    options : ProcessOptions, optional
        How. Its formats decide whether what was looked at of each cell is kept.
    store : pathlib.Path, optional
        Where features of slides are kept, so that a second try goes on there.
    opd : pathlib.Path, optional
        Of holograms: the file that maps of optical path difference are
        written to as they are made.
    progress : callable, optional
        Called with the stage, what is done and how much there is; it may
        raise to stop.

    Returns
    -------
    Result
        Use it in a ``with``: a slide stays open until its end.

    Raises
    ------
    ValueError, OSError, TypeError, MemoryError
        If that is not possible; the message says why.

    Examples
    --------
    >>> with process_file("smear.png", "blood-cells") as result:  # doctest: +SKIP
    ...     result.write("results")
    """
    file, options = as_source(path), options or ProcessOptions()
    bundle = model if model is None or isinstance(model, Bundle) else load_bundle(model)
    if bundle is None or choose_task(file, bundle, options) == "hologram":
        from ..images.holograms.files import open_hologram

        if isinstance(file, Address):
            raise ValueError(
                f"{file.name} is on another machine, from where only slides are read. Copy it to "
                "this computer, and give its path."
            )
        recording = open_hologram(
            file, kind=options.kind, background=options.background, **_scale(options)
        )
        return process_recording(recording, bundle, options, opd=opd, path=file, progress=progress)
    task = choose_task(file, bundle, options)
    with contextlib.ExitStack() as stack:
        image = _open(file, task, options, progress)
        if isinstance(image, Pyramid):
            stack.enter_context(image)
        result = process_image(
            image,
            bundle,
            options,
            task=task,
            path=file if isinstance(file, Path) else None,
            store=store,
            progress=progress,
        )
        # From here on the result closes the image.
        result.closing.push(stack.pop_all())
        return result


def choose_task(path: Path | Address, bundle: Bundle, options: ProcessOptions) -> Task:
    """Tell what is to be done with a file, where the options leave it open."""
    from ..images.slides.opening import is_slide

    card, takes = bundle.card, bundle.card.model_kind.takes
    if options.task != "auto":
        return options.task
    if "slides" in takes:
        return "slide"
    if options.settings is not None or options.kind is not None:
        return "hologram"
    if isinstance(path, Address):
        return "whole" if "fields" in takes else "cells"
    if card.modality == "opd" and path.suffix.lower() in _HDF5:
        return "hologram"
    return "whole" if "fields" in takes and is_slide(path) else "cells"


def process_image(
    image: Field | Pyramid,
    bundle: Bundle,
    options: ProcessOptions | None = None,
    *,
    task: Task = "auto",
    path: Path | None = None,
    tissue: Tissue | None = None,
    store: Path | None = None,
    progress: Progress | None = None,
) -> Result:
    """Classify an image that is open; it stays open.

    Parameters
    ----------
    image : Field or Pyramid
        A field of view, or a slide.
    bundle : Bundle
        The model.
    options : ProcessOptions, optional
        How.
    task : {"auto", "cells", "whole", "slide"}
        By default what the options say, or what suits model and image.
    path : pathlib.Path, optional
        The file it was read from.
    tissue : Tissue, optional
        Of a slide: where to take patches, by default `find_tissue`.
    store : pathlib.Path, optional
        Where features of slides are kept.
    progress : callable, optional
        See `process_file`.

    Raises
    ------
    ValueError, OSError, TypeError, MemoryError
        As `process_file`.
    """
    from ..export.formats import check_image

    options = options or ProcessOptions()
    # Before minutes of work, not after them.
    check_image(options.formats, image)
    _check_plane(image, options)
    if task == "auto":
        address = image.address if isinstance(image, Pyramid) else None
        task = choose_task(image.path or address or Path(), bundle, options)
    if task == "hologram":
        raise ValueError("an image in memory is no recording of holograms; use process_recording")
    closing = contextlib.ExitStack()
    found: Any
    if task == "slide":
        from ..features.files import read_features
        from ..inference.slides import classify_slide

        if not isinstance(image, Pyramid):
            raise ValueError(f"{image.name} is not a slide, which '{bundle.card.name}' needs")
        given = options.features and read_features(options.features, snap=options.snap)
        found = classify_slide(
            image,
            bundle,
            features=given,
            tissue=tissue,
            store=store,
            allow_unknown_scale=options.allow_unknown_scale,
            device=options.device,
            progress=progress,
        )
        if found.features is not None:
            closing.callback(found.features.close)
    elif task == "whole":
        from ..inference.fields import classify_field

        found = classify_field(
            image,
            bundle,
            options.locations,
            options.device,
            halt=options.halt,
            progress=progress,
            **_plane_of(options),
        )
    else:
        found = _classify_cells(image, bundle, options, progress)
    return Result(found, image, bundle, task, options, path or image.path, closing=closing)


def _classify_cells(
    image: Field | Pyramid, bundle: Bundle, options: ProcessOptions, progress: Progress | None
) -> Predictions:
    from ..images.fields.cells import find_cells, knows_platelets
    from ..images.fields.marked import read_cells
    from ..inference.cells import classify_cells

    if isinstance(image, Pyramid):
        raise ValueError(
            f"{image.name} is a slide, in which cells are not searched for; use a SPAN, or a TNet "
            "that is made for slides"
        )
    if image.modality == "hologram":
        raise ValueError(
            f"{image.name} holds holograms, which '{bundle.card.name}' cannot read; choose a model "
            "of optical path difference"
        )
    plane = _plane_of(options)
    if options.cells is not None:
        cells = read_cells(options.cells, image, **plane)
    else:
        platelets = knows_platelets(bundle.card.class_names, options.classes)
        cells = find_cells(image, options.method, platelets=platelets, **plane)
    only = None if options.at is None else [_cell_at(cells, options.at, image)]
    return classify_cells(
        image,
        cells,
        bundle.with_locations(options.locations),
        options.device,
        evidence=_shows_evidence(options, len(cells) if only is None else 1),
        only=only,
        classes=options.classes,
        **plane,
    )


def _check_plane(image: Field | Pyramid, options: ProcessOptions) -> None:
    """Refuse a frame or a slice that the image does not have."""
    asked = {"frame": options.frame, "slice": options.slice}
    if isinstance(image, Pyramid):
        if names := [name for name, index in asked.items() if index is not None]:
            raise ValueError(f"{image.name} is a slide, which takes no {', '.join(names)}")
        return
    there = {"frame": image.n_frames, "slice": image.n_slices}
    for name, index in asked.items():
        if index is not None and not 0 <= index < there[name]:
            raise ValueError(f"{image.name} has no {name} {index}: {_count(there[name], name)}")


def _count(many: int, name: str) -> str:
    return f"it has {many} {name}s, from 0" if many > 1 else f"it has one {name}, 0"


def _plane_of(options: ProcessOptions) -> dict[str, int]:
    """Return the frame and the slice that are asked for."""
    return {"t": options.frame or 0, "z": options.slice or 0}


def _cell_at(cells: Cells, place: tuple[float, float], image: Field) -> int:
    found = cells.nearest(place)
    if found is None:
        raise ValueError(
            f"there is no cell at row {place[0]:g}, column {place[1]:g} of {image.name}; there are "
            f"{len(cells)} in it"
        )
    return found


def _shows_evidence(options: ProcessOptions, n_cells: int) -> bool:
    """Whether a file that is asked for shows what was looked at of each cell."""
    from ..export.formats import FORMATS
    from ..export.overlay import MOST_CELLS

    wanted = {name for name in options.formats if name in FORMATS and FORMATS[name].evidence}
    # The picture of more cells than this has no room for it.
    return bool(wanted - {"overlay"}) or ("overlay" in wanted and n_cells <= MOST_CELLS)


def process_recording(
    recording: Recording,
    bundle: Bundle | None,
    options: ProcessOptions | None = None,
    *,
    opd: Path | None = None,
    path: Path | None = None,
    progress: Progress | None = None,
) -> Result:
    """Reconstruct a recording frame by frame, and classify the cells of each frame.

    Parameters
    ----------
    recording : Recording
        From `open_hologram`.
    bundle : Bundle or None
        A model of OPD; without one, frames are only reconstructed.
    options : ProcessOptions, optional
        How; `settings` say how holograms are reconstructed.
    opd : pathlib.Path, optional
        The file that maps of optical path difference are written to.
    path : pathlib.Path, optional
        The file it was read from.
    progress : callable, optional
        See `process_file`.

    Raises
    ------
    ValueError, OSError, TypeError, MemoryError
        As `process_file`; also where options are given that are for fields alone.
    """
    from ..export.opd import write_opd_frames
    from ..images.holograms.holography import estimate_settings

    options = options or ProcessOptions()
    for name in ("classes", "cells", "at", "frame", "slice", "channel"):
        if getattr(options, name) is not None:
            raise ValueError(
                f"{recording.name} is a recording, of which all frames and cells are classified; "
                f"'{name}' is for fields: leave it out"
            )
    settled = estimate_settings(recording, options.settings)
    frames = _Frames(recording, settled, bundle, options, progress)
    if opd is None:
        for _ in frames:
            pass  # what was found is kept on the way
    else:
        shape = (len(recording), *recording.shape)
        write_opd_frames(frames, shape, frames.unit, settled.pixel_size, opd)
    if frames.first is None:
        raise ValueError(f"{recording.name} holds no frames")
    return Result(frames.found, frames.first, bundle, "hologram", options, path, frames.facts())


class _Frames:
    """The frames of a recording, for who writes them; what was found on the way is kept."""

    def __init__(
        self,
        recording: Recording,
        settled: HologramSettings,
        bundle: Bundle | None,
        options: ProcessOptions,
        progress: Progress | None,
    ) -> None:
        self.recording, self.settled, self.bundle = recording, settled, bundle
        self.options, self.progress = options, progress
        self.unit = "nm" if settled.wavelength is not None or recording.kind == "opd" else "rad"
        self.first: Field | None = None
        self.found: dict[int, Predictions] = {}
        self.peak: float | None = None

    def __iter__(self) -> Iterator[npt.NDArray[np.float32]]:
        from ..inference.holograms import iter_recording

        frames = iter_recording(
            self.recording,
            self.settled,
            self.bundle,
            method=self.options.method,
            device=self.options.device,
            retrieval=self.options.retrieval,
            evidence=_shows_evidence(self.options, 0),
        )
        for frame in frames:
            self.first = self.first or frame.field
            if frame.predictions is not None:
                self.found[frame.index] = frame.predictions
            values = frame.field.data
            if np.isfinite(values).any():
                highest = float(np.nanmax(values))
                self.peak = highest if self.peak is None else max(self.peak, highest)
            if self.progress is not None:
                self.progress("frames", frame.index + 1, len(self.recording))
            yield values

    def facts(self) -> dict[str, Any]:
        """Return how the recording was reconstructed."""
        settled = self.settled
        return {
            "kind": self.recording.kind,
            "frames": len(self.recording),
            "unit": self.unit,
            "peak": self.peak,
            "scale_known": self.unit == "nm" and settled.pixel_size is not None,
            "wavelength_nm": settled.wavelength,
            "pixel_size_um": settled.pixel_size,
            "sideband": settled.sideband,
            "focus_um": settled.focus,
            "notes": [*self.recording.notes, *settled.notes],
        }


def _open(
    path: Path | Address, task: Task, options: ProcessOptions, progress: Progress | None
) -> Field | Pyramid:
    from ..images.opening import open_image
    from ..images.slides.opening import open_slide

    if task == "slide" or isinstance(path, Address):
        size, icc = options.pixel_size, options.icc
        return open_slide(path, pixel_size=size, icc=icc, progress=progress)
    given = {
        "axes": options.axes,
        "image": options.image,
        "unit": options.unit,
        "modality": options.modality,
    }
    asked = {k: v for k, v in given.items() if v is not None}
    image = open_image(path, icc=options.icc, **_scale(options), **asked)
    if options.channel is None:
        return image
    if isinstance(image, Pyramid):
        image.close()
        raise ValueError(f"{image.name} is a slide, which takes no channel")
    try:
        return image.channel(options.channel)
    except IndexError as error:
        raise ValueError(f"{image.name} has {error}") from error


def _scale(options: ProcessOptions) -> dict[str, Any]:
    return {} if options.pixel_size is None else {"pixel_size": options.pixel_size}
