"""Processes that are killed by SIGKILL at random moments, and what must then be on disk.

For ``training/test_kill.py``, ``export/test_kill.py``, ``batch/test_kill.py`` and
``benchmarks/kills.py``. Victims are forked from a server that
has imported everything, so that a kill takes tenths of a second.
"""

from __future__ import annotations

import contextlib
import dataclasses
import hashlib
import json
import multiprocessing
import os
import re
import shutil
import sys
import time
from collections.abc import Callable, Sequence
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any, Literal

import numpy as np
import pytest
import torch

from batch_folders import finish, make_plan, write_fields
from export import results as made
from napari_sparseattn.batch.records import Records
from napari_sparseattn.batch.run import run_batch
from napari_sparseattn.bundle import Bundle, BundleError, load_bundle, save_bundle
from napari_sparseattn.export.formats import formats_for, write_results
from napari_sparseattn.training.data.annotations import (
    Annotation,
    ImageAnnotations,
    ImageRecord,
    new_annotation,
)
from napari_sparseattn.training.data.datasets import CropSet
from napari_sparseattn.training.data.project import Project
from napari_sparseattn.training.data.span_data import SlideExample
from napari_sparseattn.training.loop.checkpoint import read_checkpoint
from napari_sparseattn.training.tune.fine_tune import FineTuneOptions, fine_tune
from napari_sparseattn.training.tune.slides import (
    TuneSlidesOptions,
    held_out_slides,
    tune_slides,
)
from napari_sparseattn.training.tune.slides_run import SlideTask
from napari_sparseattn.training.tune.steps import StepOptions
from napari_sparseattn.training.tune.task import Task
from small_model import small_bundle
from small_span import small_span_bundle

What = Literal["cells", "slides", "regions"]
EPOCHS = 12
IMAGES = ("a" * 64, "b" * 64)


@dataclasses.dataclass
class Tally:
    """What was counted over many kills.

    Attributes
    ----------
    kills : int
        Processes killed while they ran.
    told : int
        Epochs, or changes, that a process reported as kept before it was killed.
    lost : int
        Of these, those that were not on disk afterwards.
    unreadable : int
        Files of ours that could not be read afterwards.
    runs, different : int
        Runs that came to their end in spite of kills, and those of them whose
        model is not bit for bit that of a run without any.
    torn : int
        Kills after which an unfinished line was put aside; its change had not been reported.
    temporary : int
        Unfinished files left under a temporary name, which nothing reads.
    """

    kills: int = 0
    told: int = 0
    lost: int = 0
    unreadable: int = 0
    runs: int = 0
    different: int = 0
    torn: int = 0
    temporary: int = 0


def attacked(
    target: Callable[..., None], arguments: Sequence[Any], seconds: float
) -> tuple[list[Any], bool]:
    """Run a victim for so long after it is ready; return what it told, and whether it ended."""
    context = multiprocessing.get_context("forkserver")
    # What writers import when they are first used; what is not installed is passed over.
    context.set_forkserver_preload(
        [__name__, "torch._dynamo", "pandas", "pyarrow.parquet", "anndata", "ome_zarr.writer"]
    )
    receiver, sender = context.Pipe(duplex=False)
    # Not as a daemon: a batch has processes of its own.
    process = context.Process(target=target, args=(sender, *arguments))
    # The server imports with its own path, and would leave it to each victim.
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("PYTHONPATH", os.pathsep.join(sys.path))
        process.start()
    sender.close()
    assert receiver.recv() == "ready"
    told: list[Any] = []
    end = time.perf_counter() + seconds
    with contextlib.suppress(EOFError):
        while (left := end - time.perf_counter()) > 0:
            if receiver.poll(left):
                told.append(receiver.recv())
    process.kill()
    with contextlib.suppress(EOFError, OSError):
        while True:
            told.append(receiver.recv())
    process.join()
    receiver.close()
    ended = bool(told) and told[-1] == "ended"
    return told[:-1] if ended else told, ended


class Trainings:
    """A run of `fine_tune` or `tune_slides`, killed until it ends, again and again."""

    def __init__(self, folder: Path, what: What) -> None:
        self.what = what
        self.model, self.checkpoint, self.out = (
            folder / name for name in ("base.safetensors", "run.checkpoint", "new.safetensors")
        )
        save_bundle(small_bundle() if what == "cells" else small_span_bundle(what == "regions"),
                    self.model)  # fmt: skip
        self.mark = _mark(what, self.model, self.checkpoint)
        # By a process as each of the others is: in this one numba may have begun its threads,
        # which lets torch use as many, and sums of several threads round otherwise.
        began = time.perf_counter()
        _, ended = attacked(train, (what, *self._files), 600)
        assert ended
        #: How long a victim takes if nobody kills it.
        self.seconds = time.perf_counter() - began
        self.whole = load_bundle(self.out)
        self._clear()

    @property
    def _files(self) -> tuple[Path, Path, Path]:
        return self.model, self.checkpoint, self.out

    def _clear(self) -> None:
        self.out.unlink()
        self.checkpoint.unlink()

    def attack(self, tally: Tally, seconds: float) -> None:
        """Let a run begin or go on, and kill it after so many seconds."""
        told, ended = attacked(train, (self.what, *self._files), seconds)
        tally.kills += not ended
        tally.told += len(told)
        self._look(tally, max(told, default=0))
        if ended:
            tally.runs += 1
            new = load_bundle(self.out)
            tally.different += not _same(new, self.whole)
            self._clear()
        folder = self.model.parent
        left = [path for path in folder.iterdir() if path.name.startswith(".")]
        tally.temporary += len(left)
        for path in left:
            path.unlink()

    def _look(self, tally: Tally, told: int) -> None:
        found = read_checkpoint(self.checkpoint, self.mark)
        if isinstance(found, str):
            # Before the first epoch there is no file, which is told by an empty text.
            tally.unreadable += bool(found)
            tally.lost += told
        else:
            tally.lost += max(0, told - len(found.history))
        if self.out.exists():
            try:
                load_bundle(self.out)
            except BundleError:
                tally.unreadable += 1


def train(sender: Connection, what: What, model: Path, checkpoint: Path, out: Path) -> None:
    """Go on with a run, tell every epoch, write the model."""
    torch.set_num_threads(1)
    sender.send("ready")
    bundle = _tune(what, model, checkpoint, sender.send)
    save_bundle(bundle, out)
    sender.send("ended")


def _tune(what: What, model: Path, checkpoint: Path, tell: Callable[[int], None]) -> Bundle:
    bundle = load_bundle(model)
    on_epoch = lambda epoch: tell(epoch.epoch)  # noqa: E731
    if what == "cells":
        return fine_tune(bundle, _crops(), _options(checkpoint), on_epoch=on_epoch)[0]
    names = ("benign", "tumour")
    return tune_slides(bundle, _slides(), names, _slide_options(checkpoint), on_epoch=on_epoch)[0]


def _mark(what: What, model: Path, checkpoint: Path) -> str:
    bundle = load_bundle(model)
    if what == "cells":
        return Task(bundle, _crops(), _options(checkpoint)).fingerprint()
    out, options = held_out_slides(_slides()), _slide_options(checkpoint)
    return SlideTask(bundle, _slides(), ("benign", "tumour"), out, options).fingerprint()


def _options(checkpoint: Path | None) -> FineTuneOptions:
    recipe = StepOptions(epochs=EPOCHS, steps=1, batch_size=8)
    return FineTuneOptions(
        mixed_precision="off", device="cpu", steps=recipe, checkpoint=checkpoint, freeze="none"
    )


def _slide_options(checkpoint: Path | None) -> TuneSlidesOptions:
    return TuneSlidesOptions(
        epochs=EPOCHS, patience=EPOCHS, device="cpu", checkpoint=checkpoint, learning_rate=1e-3
    )


def _crops() -> CropSet:
    rng = np.random.default_rng(0)
    labels = np.arange(40) % 2
    crops = rng.integers(0, 255, (40, 16, 16, 3)) // (1 + labels[:, None, None, None])
    names = tuple(f"cell {i}" for i in range(40))
    return CropSet(crops.astype(np.uint8), labels, ("round", "new"), names)


def _slides() -> list[SlideExample]:
    rng = np.random.default_rng(0)
    cells = np.stack(np.mgrid[:4, :4], -1).reshape(-1, 2)
    return [
        SlideExample(
            (rng.standard_normal((16, 128)) + i % 2).astype(np.float32),
            cells,
            i % 2,
            np.full(16, i % 2, np.int8),
            name=f"slide {i}",
        )
        for i in range(8)
    ]


def _same(one: Bundle, other: Bundle) -> bool:
    same = one.state.keys() == other.state.keys()
    equal = all(torch.equal(value, other.state[key]) for key, value in one.state.items())
    return same and equal and one.card.temperature == other.card.temperature


class Autosaves:
    """A project of two images that is annotated, and whose window is killed, again and again."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.known = dict.fromkeys(IMAGES, digest(()))

    def attack(self, tally: Tally, seconds: float, seed: int) -> None:
        """Annotate for so many seconds, die, and look what is there."""
        told, ended = attacked(annotate, (self.folder, seed), seconds)
        assert not ended
        tally.kills += 1
        allowed = {image: {found} for image, found in self.known.items()}
        for what, image, found in told:
            if what == "did":
                tally.told += 1
                allowed[image] = {found}
            else:
                allowed[image].add(found)
        project, total = Project(self.folder), 0
        for image in IMAGES:
            book = project.open(_record(image))
            assert book.writable
            tally.torn += "put aside" in book.message
            self.known[image] = digest(book)
            tally.lost += self.known[image] not in allowed[image]
            total += len(book)
            book.close()
        # What is read without opening it for change says the same, and of no image twice.
        seen = [image.hash for image in project.images()]
        tally.unreadable += sorted(seen) != list(IMAGES)
        tally.unreadable += sum(project.counts().values()) != total
        left = [path for path in self.folder.rglob(".*") if path.is_file()]
        tally.temporary = len(left)  # they stay where they are, to be in the way


def annotate(sender: Connection, folder: Path, seed: int) -> None:
    """Change annotations as fast as it goes; tell each change before and after it is made."""
    rng = np.random.default_rng(seed)
    project = Project(folder)
    books = {image: project.open(_record(image)) for image in IMAGES}
    past: dict[str, list[str]] = {image: [] for image in IMAGES}
    future: dict[str, list[str]] = {image: [] for image in IMAGES}
    sender.send("ready")
    for number in range(1_000_000):
        image = IMAGES[int(rng.integers(2))]
        book, now = books[image], digest(books[image])
        chance = rng.random()
        if number % 150 == 149:
            # Opening a long history again cuts it, which writes the file anew.
            book.close()
            books[image], past[image], future[image] = project.open(_record(image)), [], []
        elif chance < 0.1 and past[image]:
            sender.send(("will", image, past[image][-1]))
            book.undo()
            future[image].append(now)
            sender.send(("did", image, past[image].pop()))
        elif chance < 0.15 and future[image]:
            sender.send(("will", image, future[image][-1]))
            book.redo()
            past[image].append(now)
            sender.send(("did", image, future[image].pop()))
        else:
            after = _change(book, rng)
            sender.send(("will", image, digest(after.values())))
            gone = [item.id for item in book if item.id not in after]
            if gone:
                book.remove(gone)
            else:
                book.put(after.values())
            past[image].append(now)
            future[image].clear()
            sender.send(("did", image, digest(after.values())))


def _change(book: ImageAnnotations, rng: np.random.Generator) -> dict[str, Annotation]:
    """Return what the book is to hold: one more, one of another class, or some less."""
    items = {item.id: item for item in book}
    label, chance = f"class {rng.integers(12)}", rng.random()
    if len(items) > 60:
        for gone in list(items)[:20]:
            del items[gone]
    elif items and chance < 0.3:
        chosen = list(items)[int(rng.integers(len(items)))]
        was = items[chosen].label
        items[chosen] = book.opinion(items[chosen], f"not {was}"[-20:])
    else:
        made = new_annotation("cell", label, position=(float(rng.random()), 1.0))
        items[made.id] = made
    return items


class Exports:
    """Results of cells that are written again and again, in every format that is installed."""

    pace = 1.0

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        result = made.cells(evidence=True)
        field = made.field()
        self.formats = [each.name for each in formats_for(result, field) if not each.missing]
        whole = folder / "whole"
        write_results(result, field, whole, "a", self.formats, made.cell_card())
        self.expected = {path.name: _content(path) for path in sorted(whole.iterdir())}
        self.out = folder / "out"

    def attack(self, tally: Tally, seconds: float) -> None:
        """Write for so long, die, and read what is there."""
        told, ended = attacked(export, (self.out, self.formats), seconds)
        assert not ended
        tally.kills += 1
        tally.told += len(told)
        found = {} if not self.out.exists() else {p.name: p for p in self.out.iterdir()}
        left = [path for name, path in found.items() if name.startswith(".")]
        tally.temporary = len(left)
        for name in told:
            tally.lost += name not in found
        for name, path in found.items():
            if not name.startswith("."):
                tally.unreadable += _content(path) != self.expected[name]


def export(sender: Connection, out: Path, formats: Sequence[str]) -> None:
    """Write results until killed; tell the name of each file that is written."""
    result, image, card = made.cells(evidence=True), made.field(), made.cell_card()
    sender.send("ready")
    while True:
        for name in formats:
            for path in write_results(result, image, out, "a", [name], card):
                sender.send(path.name)


def _content(path: Path) -> str:
    """Say what is in a file or folder of results, but for when it was written."""
    if path.is_dir():
        return " ".join(f"{p.name}:{_content(p)}" for p in sorted(path.rglob("*")) if p.is_file())
    data = path.read_bytes()
    if path.suffix in (".h5ad", ".parquet", ".png", ".zip"):
        # These have a tail, or a checksum, without which they are not read at all.
        return _read_whole(path)
    with contextlib.suppress(UnicodeDecodeError):
        text = data.decode("utf-8")
        if path.suffix in (".json", ".geojson", ".zattrs", ".zgroup", ".zarray"):
            json.loads(text)
        return re.sub(r"20\d\d-\d\d-\d\d[T ]\d\d:\d\d(:\d\d)?|\d+\.\d+ s", "", text)
    return hashlib.sha256(data).hexdigest()


def _read_whole(path: Path) -> str:
    if path.suffix == ".h5ad":
        import anndata

        return repr(anndata.read_h5ad(path))
    if path.suffix == ".parquet":
        import pandas as pd

        return pd.read_parquet(path).to_csv()
    import PIL.Image

    with PIL.Image.open(path) as image:
        return hashlib.sha256(np.asarray(image).tobytes()).hexdigest()


class ModelFiles:
    """One model file that is saved anew with other weights, again and again."""

    #: Writing takes this part of what `Exports` take.
    pace = 0.25

    def __init__(self, folder: Path) -> None:
        self.path = folder / "m.safetensors"
        self.hashes = [save_bundle(_model(seed), self.path).hash for seed in (1, 0)]
        self.last = 1

    def attack(self, tally: Tally, seconds: float) -> None:
        """Save for so long, die, and load what is there."""
        told, ended = attacked(save, (self.path, 1 - self.last), seconds)
        assert not ended
        tally.kills += 1
        tally.told += len(told)
        last = told[-1] if told else self.last
        try:
            found = self.hashes.index(load_bundle(self.path).hash)
        except (BundleError, ValueError, OSError):
            tally.unreadable += 1
            return
        # What was told, or the next, which had not been told yet: there are two in turns.
        tally.lost += found not in (last, 1 - last)
        self.last = found
        left = [path for path in self.path.parent.iterdir() if path.name.startswith(".")]
        tally.temporary = len(left)


def save(sender: Connection, path: Path, seed: int) -> None:
    """Save two models in turns until killed; tell each once it is saved."""
    torch.set_num_threads(1)
    models = [_model(each) for each in (0, 1)]
    sender.send("ready")
    while True:
        save_bundle(models[seed], path)
        sender.send(seed)
        seed = 1 - seed


def _model(seed: int) -> Bundle:
    return small_bundle(seed=seed)


class Batches:
    """A batch of a few fields, killed until it ends, again and again.

    Parameters
    ----------
    folder : Path
        Where all is.
    address : str, optional
        Of a dask scheduler; by default a process of this machine works.
    fields : int
        How many.
    """

    def __init__(self, folder: Path, address: str | None = None, fields: int = 10) -> None:
        self.inputs, self.model, self.address = folder / "in", folder / "m.safetensors", address
        write_fields(self.inputs, fields)
        save_bundle(small_bundle(), self.model)
        plan = make_plan(self.inputs, self.model, folder / "whole")
        finish(plan, **self.how)
        self.whole = self._tables(folder / "whole")
        self.out = folder / "out"

    @property
    def how(self) -> dict[str, Any]:
        return {"scheduler": self.address} if self.address else {"workers": 1}

    def attack(self, tally: Tally, seconds: float) -> None:
        """Let the batch begin or go on, and kill whoever runs it after so many seconds."""
        arguments = (self.inputs, self.model, self.out, self.how)
        told, ended = attacked(work, arguments, seconds)
        tally.kills += not ended
        tally.told += len(told)
        records = Records(self.out)
        known = {record.key: record for record in records.read_all()}
        tally.lost += sum(key not in known for key in told)
        for record in known.values():
            tally.unreadable += records.intact_formats(record) != set(record.outputs)
        if ended:
            tally.runs += 1
            tally.different += self._tables(self.out) != self.whole
            shutil.rmtree(self.out)

    def _tables(self, out: Path) -> dict[str, bytes]:
        """Return the tables of all fields, without that of the run, which has times."""
        tables = {path.name: path.read_bytes() for path in out.glob("*.csv")}
        tables.pop("batch.csv")
        return tables


def work(sender: Connection, inputs: Path, model: Path, out: Path, how: dict[str, Any]) -> None:
    """Run a batch to its end; tell each field that is done."""
    plan = make_plan(inputs, model, out)
    sender.send("ready")
    for update in run_batch(plan, **how):
        if update.changed.state in ("done", "skipped"):
            sender.send(update.changed.item.key)
    sender.send("ended")


def digest(items: Any) -> str:
    """Name what a book holds, in whatever order."""
    told = sorted(repr(item) for item in items)
    return hashlib.sha256("\n".join(told).encode()).hexdigest()


def _record(image: str) -> ImageRecord:
    return ImageRecord(image, f"{image[0]}.tif", (480, 640), 0.25)
