"""A training run on disk: what it learns from, how far it is, and the model it gives.

Each run has a folder of its own in the project, so that one that was killed
can go on. No Qt, no napari and no torch here.
"""

from __future__ import annotations

import contextlib
import dataclasses
import datetime as dt
import json
import re
import shutil
import tokenize
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

import numpy as np
import numpy.typing as npt
from filelock import FileLock, Timeout

from ...bundle import find_bundles, user_models_folder
from ...files import replacing
from ..loop.epochs import FineTuneEpoch as Epoch

if TYPE_CHECKING:
    from ...images.fields.field import Field
    from ..data.datasets import CropSet

__all__ = [
    "CHECKPOINT",
    "EPOCHS",
    "LOCK",
    "LOG",
    "WORK_LOCK",
    "Epoch",
    "Run",
    "Version",
    "discard",
    "finish",
    "hold",
    "interrupted_run",
    "keep_other_crops",
    "new_run_folder",
    "other_crops",
    "read_arrays",
    "read_crops",
    "read_epochs",
    "read_images",
    "read_rehearsal",
    "read_run",
    "report_path",
    "runs_folder",
    "target_of",
    "versions",
    "write_images",
    "write_run",
]

_RUNS, _JOB, _DATA, _TARGET = "training", "job.json", "data.safetensors", "target.txt"
CHECKPOINT, EPOCHS, LOG = "run.checkpoint", "epochs.jsonl", "log.txt"
#: Held by the window that a run belongs to, and by the process that works on it.
LOCK, WORK_LOCK = "window.lock", "work.lock"
_IMAGES, _OTHERS = "images.json", "others.npy"
#: Images that are larger together are not searched for cells that nobody annotated.
_MOST_BYTES = 2**31
_FORMAT = 1
# What reading a damaged file of a run raises.
_DAMAGE = (OSError, KeyError, TypeError, AttributeError, ValueError, RecursionError)
#: What is kept of a field beside its pixels.
_FACTS = ("axes", "pixel_size", "modality", "unit", "name")
_TUNED = re.compile(r"(?P<base>.+)-tuned-\d{4}-\d{2}-\d{2}-\d+(-\d+)?")
_MOST_VERSIONS_A_DAY = 10_000


@dataclasses.dataclass(frozen=True)
class Run:
    """What a run is to do.

    Parameters
    ----------
    name : str
        Of the new model and its file.
    model : str
        File of the model to begin with.
    device, freeze : str
        As in `FineTuneOptions`.
    seconds : float or None
        About how long it may take.
    kind : {"cells", "slides"}
        Crops of cells and fields, or slides for a SPAN.
    class_names : tuple of str
        Of the data.
    names, groups : tuple of str
        Of the crops or slides.
    notes : tuple of str
        What was left out of the data, and of what there is too little.
    folder : pathlib.Path
        Where it is.
    seed, epochs : int, int or None
        As in `FineTuneOptions`.
    rehearsal : tuple of str
        Classes of the crops for rehearsal among its arrays.
    folds : int
        Where it is not 0, training is cross-validated by so many folds, and
        gives no model.
    curve : bool
        Whether a learning curve is drawn with that.
    """

    name: str
    model: str
    device: str
    freeze: str
    seconds: float | None
    kind: Literal["cells", "slides"]
    class_names: tuple[str, ...]
    names: tuple[str, ...]
    groups: tuple[str, ...]
    notes: tuple[str, ...]
    folder: Path
    seed: int = 0
    epochs: int | None = None
    rehearsal: tuple[str, ...] = ()
    folds: int = 0
    curve: bool = False

    def to_json(self) -> str:
        """Return everything but the place."""
        plain = dataclasses.asdict(self)
        del plain["folder"]
        return json.dumps({"format": _FORMAT, **plain})

    @property
    def unfinished(self) -> bool:
        """Whether there is anything left to do."""
        return (self.folder / _JOB).exists()

    @property
    def epochs_done(self) -> int:
        """How many epochs have been reported."""
        return max((epoch.epoch for epoch in read_epochs(self.folder)), default=0)


@dataclasses.dataclass(frozen=True)
class Version:
    """A model that was fine-tuned here: its name and its file."""

    name: str
    path: Path

    @property
    def report(self) -> Path:
        """Where its report is, if it is there."""
        return report_path(self.path)


def report_path(model: Path) -> Path:
    """Return where the report of a model file is."""
    return model.with_suffix(".report.json")


def versions(base: str = "") -> list[Version]:
    """Return the fine-tuned models in the user's folder, the newest first.

    Parameters
    ----------
    base : str, optional
        Only those of the model with this name, or of another version of it.
    """
    wanted = _base(base)
    found = [
        Version(name, path)
        for name, path in find_bundles().items()
        if _TUNED.fullmatch(name) and (not base or _base(name) == wanted)
    ]
    return sorted(found, key=lambda version: _order(version.name), reverse=True)


def runs_folder(project: Path) -> Path:
    """Return the folder of a project's runs."""
    return project / _RUNS


def new_run_folder(project: Path, model: str, today: dt.date | None = None) -> Path:
    """Make the folder of a new run, named as its model will be.

    Parameters
    ----------
    project : pathlib.Path
        The project's folder.
    model : str
        Name of the model to begin with.
    today : dt.date, optional

    Raises
    ------
    OSError
        If it cannot be made.
    """
    day = (today or dt.datetime.now().astimezone().date()).isoformat()
    models = user_models_folder()
    for number in range(1, _MOST_VERSIONS_A_DAY):
        folder = runs_folder(project) / f"{_base(model)}-tuned-{day}-{number}"
        taken = folder.exists() or (models / f"{folder.name}.safetensors").exists()
        if not taken:
            folder.mkdir(parents=True)
            return folder
    raise OSError(f"There are too many versions of '{model}' of {day}. Remove some from {models}.")


def write_run(run: Run, arrays: dict[str, npt.NDArray[Any]]) -> None:
    """Write what a run needs; the list of it last, so that a run is whole or none."""
    from safetensors.numpy import save_file

    with replacing(run.folder / _DATA) as temporary:
        save_file({key: np.ascontiguousarray(value) for key, value in arrays.items()}, temporary)
    with replacing(run.folder / _JOB) as temporary:
        temporary.write_text(run.to_json(), encoding="utf-8")


def read_run(folder: Path) -> Run:
    """Read what a run is to do.

    Raises
    ------
    ValueError
        If the folder holds none, or one of a newer version.
    """
    try:
        plain = json.loads((folder / _JOB).read_text(encoding="utf-8"))
        if plain.pop("format") == _FORMAT:
            for key in ("class_names", "names", "groups", "notes", "rehearsal"):
                plain[key] = tuple(plain.get(key, ()))
            return Run(**plain, folder=folder)
    except _DAMAGE as error:
        raise ValueError(f"There is no training to go on with in {folder} ({error}).") from error
    raise ValueError(f"The training in {folder} is of another version of this plugin.")


def read_arrays(folder: Path) -> dict[str, npt.NDArray[Any]]:
    """Read the data of a run.

    Raises
    ------
    ValueError
        If they are damaged.
    """
    from safetensors import SafetensorError
    from safetensors.numpy import load_file

    try:
        found: dict[str, npt.NDArray[Any]] = load_file(folder / _DATA)
    except (SafetensorError, OSError) as error:
        raise ValueError(f"The training data in {folder} cannot be read ({error}).") from error
    return found


def read_crops(run: Run) -> CropSet:
    """Read the annotated crops of a run that learns from cells.

    Raises
    ------
    ValueError
        If they are damaged.
    """
    from ..data.datasets import CropSet

    arrays = read_arrays(run.folder)
    # Runs of an earlier version do not say what is held out.
    return CropSet(arrays["crops"], arrays["labels"], run.class_names, run.names, run.groups,
                   arrays.get("held_out"))  # fmt: skip


def read_rehearsal(run: Run) -> CropSet | None:
    """Read the crops for rehearsal of a run, None where it has none."""
    from ..data.datasets import CropSet

    if not run.rehearsal:
        return None
    arrays = read_arrays(run.folder)
    labels = arrays["rehearsal.labels"]
    names = tuple(map(str, range(len(labels))))
    return CropSet(arrays["rehearsal.crops"], labels, run.rehearsal, names)


def write_images(folder: Path, fields: Mapping[str, Field]) -> list[str]:
    """Keep images, by their hashes, for the process that trains.

    Returns
    -------
    list of str
        The names of those that are too large.
    """
    kept, left, room = [], [], _MOST_BYTES
    for number, (name, field) in enumerate(fields.items()):
        room -= field.data.nbytes
        if room < 0:
            left.append(field.name)
            continue
        file = f"image-{number}.npy"
        with (folder / file).open("wb") as out:
            np.save(out, field.data, allow_pickle=False)
        facts = {key: getattr(field, key) for key in _FACTS}
        kept.append({"hash": name, "file": file, **facts})
    with replacing(folder / _IMAGES) as temporary:
        temporary.write_text(json.dumps(kept), encoding="utf-8")
    return left


def read_images(folder: Path) -> dict[str, Field]:
    """Return the images of `write_images`, mapped into memory.

    Raises
    ------
    ValueError
        If they are damaged.
    """
    from ...images.fields.field import Field

    try:
        text = (folder / _IMAGES).read_text(encoding="utf-8")
    except OSError:
        return {}
    try:
        return {
            str(row["hash"]): Field(
                np.load(folder / Path(row["file"]).name, mmap_mode="r", allow_pickle=False),
                **{key: row[key] for key in _FACTS},
            )
            for row in json.loads(text)
        }
    except (*_DAMAGE, EOFError, tokenize.TokenError) as error:
        raise ValueError(
            f"The images of the training in {folder} are damaged ({error})."
        ) from error


def other_crops(folder: Path, make: Callable[[], npt.NDArray[Any]]) -> npt.NDArray[Any]:
    """Return crops that nobody annotated: those of the last time, or else made now and kept."""
    path = folder / _OTHERS
    if path.exists():
        kept: npt.NDArray[Any] = np.load(path, allow_pickle=False)
        return kept
    crops = make()
    keep_other_crops(folder, crops)
    return crops


def keep_other_crops(folder: Path, crops: npt.NDArray[Any]) -> None:
    """Write crops that nobody annotated for `other_crops`; none where there are no such cells."""
    with replacing(folder / _OTHERS) as temporary, temporary.open("wb") as out:
        np.save(out, crops, allow_pickle=False)


def target_of(run: Run) -> Path:
    """Return the file for a run's model: the same each time, and never another's."""
    kept = run.folder / _TARGET
    with contextlib.suppress(OSError):
        return user_models_folder() / kept.read_text(encoding="utf-8")
    path, number = user_models_folder() / f"{run.name}.safetensors", 1
    while path.exists() or report_path(path).exists():
        number += 1
        path = path.with_name(f"{run.name}-{number}.safetensors")
    with replacing(kept) as temporary:
        temporary.write_text(path.name, encoding="utf-8")
    return path


def finish(run: Run) -> None:
    """Take note that nothing of a run is left to do."""
    (run.folder / _JOB).unlink(missing_ok=True)


def read_epochs(folder: Path) -> list[Epoch]:
    """Return the epochs that a run has reported; lines that a kill has cut are left out."""
    found: dict[int, Epoch] = {}
    try:
        lines = (folder / EPOCHS).read_text(encoding="utf-8", errors="replace").splitlines()
    except OSError:
        return []
    for line in lines:
        with contextlib.suppress(TypeError, KeyError, ValueError, AttributeError, RecursionError):
            epoch = Epoch.from_dict(json.loads(line))
            found[epoch.epoch] = epoch
    return [found[number] for number in sorted(found)]


def interrupted_run(project: Path) -> Run | None:
    """Return the newest run of a project that was begun, not finished, and is not under way."""
    folders = runs_folder(project).glob(f"*/{_JOB}")
    for job in sorted(folders, key=lambda path: _order(path.parent.name), reverse=True):
        with contextlib.suppress(ValueError):
            run = read_run(job.parent)
            if not _under_way(job.parent):
                return run
    return None


def discard(project: Path) -> None:
    """Remove all runs of a project that are not under way: finished, given up, or half-written."""
    for folder in runs_folder(project).glob("*/"):
        if not _under_way(folder):
            # Without its list first: what a kill leaves of the folder is then no run.
            (folder / _JOB).unlink(missing_ok=True)
            shutil.rmtree(folder, ignore_errors=True)


@contextlib.contextmanager
def hold(folder: Path, lock: str = LOCK, seconds: float = 0) -> Iterator[None]:
    """Keep others from a run; wait so many seconds for them to be gone.

    Raises
    ------
    ValueError
        If they are not.
    """
    try:
        with FileLock(folder / lock, timeout=seconds):
            yield
    except Timeout as error:
        raise ValueError("This training is under way in another window or program.") from error


def _under_way(folder: Path) -> bool:
    try:
        with hold(folder):
            return False
    except ValueError:
        return True


def _base(name: str) -> str:
    found = _TUNED.fullmatch(name)
    return found["base"] if found else name


def _order(name: str) -> tuple[str, int]:
    """Sort by date, then by number, whatever the model."""
    day, _, number = name.partition("-tuned-")[2].rpartition("-")
    return day, int(number) if number.isdigit() else 0
