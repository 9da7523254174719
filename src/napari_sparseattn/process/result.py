"""What became of one file: predictions with their image, in few numbers, and as files."""

from __future__ import annotations

import contextlib
import dataclasses
import json
import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from types import TracebackType
from typing import TYPE_CHECKING, Any

from ..addresses import Address
from ..bundle import Bundle
from ..files import replacing
from ..images.fields.field import Field
from ..images.slides.pyramid import Pyramid
from ..reprs import short_repr
from .options import ProcessOptions, Task

if TYPE_CHECKING:
    import pandas as pd

    from ..evidence import Foci
    from ..export.request import Result as AnyPrediction
    from ..progress import Progress

__all__ = ["Result", "ResultsExistError", "check_free", "identity_of", "read_identity"]

#: Together they say whose results a name holds.
_IDENTITY = ("task", "model", "input")


class ResultsExistError(ValueError):
    """Results of another file, model or task would be replaced; the message says what to do."""


@dataclasses.dataclass(frozen=True, eq=False)
class Result:
    """What a file holds, and what was found in it.

    Parameters
    ----------
    prediction : Predictions, FieldPrediction, SlidePrediction, or mapping of int to Predictions
        Of one image, or of the frames of a recording; no frames where a
        recording was only reconstructed.
    image : Field or Pyramid
        What it was made from; of a recording its first frame.
    bundle : Bundle or None
        The model; None where there was none.
    task : {"cells", "hologram", "whole", "slide"}
        What was done.
    options : ProcessOptions
        How it was done.
    path : pathlib.Path or None
        The file; None for an image in memory.
    facts : mapping of str to object
        Of a recording, how it was reconstructed.
    closing : contextlib.ExitStack
        Closes what has to stay open for `write`.
    """

    __repr__ = short_repr

    prediction: AnyPrediction
    image: Field | Pyramid
    bundle: Bundle | None
    task: Task
    options: ProcessOptions
    path: Path | None = None
    facts: Mapping[str, Any] = dataclasses.field(default_factory=dict)
    closing: contextlib.ExitStack = dataclasses.field(default_factory=contextlib.ExitStack)

    def __enter__(self) -> Result:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.close()

    def close(self) -> None:
        """Close the image and the features; what was found stays."""
        self.closing.close()

    @property
    def name(self) -> str:
        """What names of files begin with: the file's name with its ending, or the image's."""
        if self.path is None and self.address is not None:
            return self.address.name
        return (self.path or Path(self.image.name or "image")).name

    @property
    def address(self) -> Address | None:
        """Where a slide on another machine is; None of any other image."""
        return self.image.address if isinstance(self.image, Pyramid) else None

    @property
    def identity(self) -> dict[str, str]:
        """Whose results these are: task, model and input, as they stand in ``NAME.json``."""
        return identity_of(self.task, self.bundle, self.path or self.address or self.name)

    def summary(self) -> dict[str, Any]:
        """Return what was found as plain values, for tables and JSON; see `summarise`."""
        from ..export.summary import summarise

        if self.bundle is None:
            return dict(self.facts)
        found = summarise(self.prediction)
        if (foci := self.foci()) is not None:
            found["foci"] = foci.to_dict()
        found["pixel_size_um"] = self.image.pixel_size
        notes = [*self.facts.get("notes", ()), *found["notes"], *_notes_on_frames(self)]
        return found | dict(self.facts) | {"notes": list(dict.fromkeys(notes))}

    def to_frame(self) -> pd.DataFrame:
        """Return the rows of the table that `write` gives: per cell, crop or patch.

        Of a recording its frames follow each other, told apart by ``frame``.

        Raises
        ------
        ValueError
            If there is no model, and so no table.
        """
        import pandas as pd

        from ..export.tables import iter_tables

        if self.bundle is None:
            raise ValueError(
                f"{self.name} was reconstructed only: without a model there is no table"
            )
        tables = iter_tables(self.prediction, self.bundle.card.name, self.image.name)
        return pd.concat(tables, ignore_index=True)

    def foci(self) -> Foci | None:
        """Return the foci of the tissue that a model finds; None of any other model."""
        from ..evidence import PyramidAttention, find_foci

        seen = getattr(self.prediction, "evidence", None)
        if not isinstance(seen, PyramidAttention) or seen.patch_probabilities is None:
            return None
        return find_foci(
            seen,
            threshold=self.options.threshold,
            least=self.options.least_patches,
            pixel_size=self.image.pixel_size,
        )

    def write(
        self,
        folder: str | os.PathLike[str],
        name: str | None = None,
        formats: Sequence[str] | None = None,
        *,
        overwrite: bool = False,
        progress: Progress | None = None,
    ) -> dict[str, list[Path]]:
        """Write the result's files: ``NAME.json``, and NAME with the ending of each format.

        Results of the same file, model and task are replaced, others never
        without being asked.

        Parameters
        ----------
        folder : path-like
            Made if need be.
        name : str, optional
            Names begin with it; by default the file's name with its ending.
            With ``/``, the files go into folders below.
        formats : sequence of str, optional
            Names from `FORMATS`, by default those of the options. JSON, which
            says whose results these are, is always written, and first.
        overwrite : bool
            Replace results of anything else as well.
        progress : callable, optional
            See `write_results`.

        Returns
        -------
        dict of str to list of pathlib.Path
            By format.

        Raises
        ------
        ResultsExistError
            If there are results of another file, model or task; nothing is
            then written.
        ValueError, OSError
            As `write_results`.
        """
        target = Path(folder) / (name or self.name)
        check_free(target, self.identity, overwrite=overwrite)
        chosen = dict.fromkeys(("json", *(self.options.formats if formats is None else formats)))
        return self.write_formats(target.parent, target.name, list(chosen), progress=progress)

    def write_formats(
        self, folder: Path, name: str, formats: Sequence[str], *, progress: Progress | None = None
    ) -> dict[str, list[Path]]:
        """Write these formats and no more, over whatever is there; see `write`."""
        from ..export.formats import check_formats, write_results

        if self.bundle is None:
            return {"json": [self._write_facts(folder / f"{name}.json")]}
        check_formats(formats, self.prediction)
        return {
            each: write_results(
                self.prediction,
                self.image,
                folder,
                name,
                [each],
                self.bundle.card,
                index=(self.options.frame or 0, self.options.slice or 0),
                progress=progress,
                facts=self.summary() | self.identity,
            )
            for each in formats
        }

    def _write_facts(self, place: Path) -> Path:
        with replacing(place) as temporary:
            temporary.write_text(json.dumps(self.summary() | self.identity, indent=1), "utf-8")
        return place


def identity_of(task: str, bundle: Bundle | None, source: Path | Address | str) -> dict[str, str]:
    """Return what says whose results a name holds, of a file or of an image with a name.

    Of a file on another machine its name and a hash of the address, which stays secret.
    """
    path = str(source.resolve() if isinstance(source, Path) else source)
    model = "" if bundle is None else f"{bundle.card.name}@{bundle.hash[:12]}"
    return {"task": task, "model": model, "input": path}


def check_free(
    target: Path,
    identity: Mapping[str, str],
    *,
    overwrite: bool = False,
    others: Sequence[Path] = (),
) -> None:
    """Refuse a name that holds results of another file, model or task.

    Parameters
    ----------
    target : pathlib.Path
        Folder and name of the results, without endings.
    identity : mapping
        Whose results are to be written; see `identity_of`.
    overwrite : bool
        Whether the user has asked for other results to be replaced.
    others : sequence of pathlib.Path
        More files that would be written.

    Raises
    ------
    ResultsExistError
        If it does.
    """
    from ..export.formats import FORMATS

    places = [*(each.path(target.parent, target.name) for each in FORMATS.values()), *others]
    there = [path for path in places if path.exists()]
    if not there or overwrite:
        return
    whose = read_identity(target.with_name(f"{target.name}.json"))
    if whose == dict(identity):
        return
    known = ", ".join(f"{key} {value}" for key, value in whose.items() if value)
    raise ResultsExistError(
        f"'{there[0]}' is there already and holds other results"
        f"{f' ({known})' if known else ''}. Choose another folder, or ask for them to be replaced "
        "(--overwrite)."
    )


def read_identity(path: Path) -> dict[str, str]:
    """Return what a ``NAME.json`` says of whose results it holds; empty where it says nothing."""
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return {}
    if not isinstance(content, dict):
        return {}
    return {key: str(content[key]) for key in _IDENTITY if key in content}


def _notes_on_frames(result: Result) -> list[str]:
    image = result.image
    if result.task not in ("cells", "whole") or not isinstance(image, Field):
        return []
    count = image.n_frames * image.n_slices
    options = result.options
    if count > 1 and (options.frame is not None or options.slice is not None):
        place = f"frame {options.frame or 0}, slice {options.slice or 0}"
        return [f"only {place} (from 0) of {count} planes was classified"]
    note = (
        f"only the first of {count} frames was classified; `classify --frame, --slice` takes others"
    )
    if image.modality in ("opd", "phase", "hologram"):
        note += ", and for all frames of OPD or holograms `napari-sparseattn hologram --model`"
    return [note] if count > 1 else []
