"""What an agent may ask of this program: answers as plain values, bounded, from named folders.

Nothing here knows of a protocol; `mcp` offers it by one. Names of files, classes and
notes may have been written by anybody: they are cut to size and freed of control
characters, and are data to whoever reads them.
"""

from __future__ import annotations

import contextlib
import csv
import fnmatch
import json
import os
import re
import threading
from collections import Counter, OrderedDict
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ..addresses import is_address

if TYPE_CHECKING:
    from ..bundle import Bundle
    from ..process.result import Result

__all__ = ["MOST_BYTES", "Agent", "Folders", "bounded"]

#: Bytes of one answer as JSON.
MOST_BYTES = 48 * 1024
_MOST_TEXT, _MOST_ITEMS, _LEAST_ITEMS = 300, 200, 3
_MOST_FILES = 200
_MOST_LINKS = _MOST_WALKED = 20_000
# Results that are kept, so that the next page, or the evidence, takes no second run.
_MOST_KEPT = 4
_MOST_MEASURED = 20
_MOST_PIXELS = 10
_CONTROL = re.compile(r"[\x00-\x08\x0b-\x1f\x7f-\x9f\u200b-\u200f\u202a-\u202e\u2066-\u2069]")
_NAMED_FILES = re.compile(r"FileName=\"([^\"]*)\"")


class Folders:
    """The folders that may be read; what lies elsewhere is refused, by links as well.

    Parameters
    ----------
    roots : sequence of path-like
        The folders.

    Raises
    ------
    NotADirectoryError
        If one is none.
    """

    def __init__(self, roots: Sequence[str | os.PathLike[str]]) -> None:
        self.roots = tuple(Path(root).resolve() for root in roots)
        for root in self.roots:
            if not root.is_dir():
                raise NotADirectoryError(f"'{root}' is no folder; give folders that are there")

    def find(self, given: str) -> Path:
        """Return an existing file or folder, its links followed.

        Parameters
        ----------
        given : str
            A path below one of the folders: absolute, or from one of them.

        Raises
        ------
        ValueError
            If it lies elsewhere, leads elsewhere, or is an address.
        FileNotFoundError
            If it is not there.
        """
        path = self._there(given)
        self._check_links(path)
        return path

    def folder(self, given: str) -> Path:
        """Return an existing folder, whatever is in it; see `find`."""
        path = self._there(given)
        if not path.is_dir():
            raise ValueError(f"'{_clean(given)}' is no folder")
        return path

    def walk(self, folder: Path) -> Iterator[Path]:
        """Give the files in a folder and below it, and OME-Zarr folders; links are not followed."""
        seen = 0
        for where, below, files in os.walk(folder):
            below[:] = sorted(name for name in below if not name.startswith("."))
            for name in [name for name in below if name.endswith(".zarr")]:
                below.remove(name)
                yield Path(where) / name
            for name in sorted(files):
                path, seen = Path(where) / name, seen + 1
                if seen > _MOST_WALKED:
                    return
                if not name.startswith(".") and not path.is_symlink():
                    yield path

    def place(self, given: str) -> Path:
        """Return where a folder of results is or is to be made; see `find`."""
        return self._resolve(given)

    def name(self, path: Path) -> str:
        """Return how a file is called: its path from its folder."""
        for root in self.roots:
            if path.is_relative_to(root):
                return path.relative_to(root).as_posix()
        return path.name

    def _there(self, given: str) -> Path:
        path = self._resolve(given)
        if not path.exists():
            raise FileNotFoundError(f"There is no '{_clean(given)}' in the shared folders.")
        return path

    def _resolve(self, given: str) -> Path:
        if is_address(given) or "\0" in given:
            raise ValueError("Only files in the shared folders are read, and no addresses.")
        tried = [Path(given)] if Path(given).is_absolute() else [r / given for r in self.roots]
        resolved = [path.resolve() for path in tried]
        inside = [path for path in resolved if self._holds(path)]
        if not inside:
            raise ValueError(
                f"'{_clean(given)}' lies outside of the folders that are shared. Ask whoever "
                "started this server to share its folder (--folder)."
            )
        return next((path for path in inside if path.exists()), inside[0])

    def _holds(self, path: Path) -> bool:
        return any(path.is_relative_to(root) for root in self.roots)

    def _check_links(self, path: Path) -> None:
        """Refuse a slide of several files of which one lies elsewhere."""
        for place in _parts_of(path):
            if not self._holds(place.resolve()):
                raise ValueError(
                    f"'{_clean(path.name)}' leads out of the folders that are shared: a part of it "
                    "is elsewhere."
                )


def _parts_of(path: Path) -> Iterator[Path]:
    """Give the other files that reading one may open: links in folders, and files it names."""
    folders = [path] if path.is_dir() else [path.with_suffix("")]
    seen = 0
    for folder in folders:
        for where, below, files in os.walk(folder):
            for name in (*below, *files):
                seen += 1
                if seen > _MOST_LINKS:
                    return
                if (Path(where) / name).is_symlink():
                    yield Path(where) / name
    if path.is_file():
        yield from (path.parent / name for name in _files_named_in(path))


def _files_named_in(path: Path) -> list[str]:
    """Return the files that an OME-TIFF says its other planes are in."""
    import tifffile

    from ..images._decode import TIFF_ERRORS, TIFF_MAGIC

    with path.open("rb") as file:
        if file.read(4) not in TIFF_MAGIC:
            return []
    try:
        with tifffile.TiffFile(path, _multifile=False) as tif:
            return _NAMED_FILES.findall(str(tif.ome_metadata or ""))
    except TIFF_ERRORS:
        return []  # what is wrong with it is said when it is read


class Agent:
    """Answers what is asked, one thing at a time.

    Parameters
    ----------
    folders : Folders
        What may be read and, where `writes`, written to.
    writes : bool
        Whether results may be written.
    device : str
        Where models compute.
    """

    def __init__(self, folders: Folders, *, writes: bool = False, device: str = "auto") -> None:
        self.folders, self.writes, self.device = folders, writes, device
        self._kept: OrderedDict[tuple[Any, ...], Result] = OrderedDict()
        self._bundles: dict[str, Bundle] = {}
        self._one = threading.Lock()

    def list_images(self, folder: str = ".", pattern: str | None = None) -> dict[str, Any]:
        """List the images and slides in a shared folder, and in the folders below it."""
        from ..process.inputs import INPUT_SUFFIXES

        names = [
            self.folders.name(path)
            for path in self.folders.walk(self.folders.folder(folder))
            if path.suffix.lower() in (*INPUT_SUFFIXES, ".zarr")
            and (pattern is None or fnmatch.fnmatch(path.name, pattern))
        ]
        more = max(0, len(names) - _MOST_FILES)
        return bounded({"count": len(names), "images": names[:_MOST_FILES], "not_listed": more})

    def list_models(self) -> dict[str, Any]:
        """List the models: what they are for, and what they tell apart."""
        from ..bundle import BundleError, find_bundles, read_card

        rows = []
        for name, path in find_bundles().items():
            try:
                card = read_card(path)
            except BundleError:
                continue
            rows.append(
                {
                    "name": name,
                    "kind": card.kind,
                    "takes": sorted(card.model_kind.takes),
                    "modality": card.modality,
                    "classes": list(card.class_names),
                    "trained_on_simulated_data": card.training.simulated,
                    "limits": card.limits,
                }
            )
        return bounded({"models": rows})

    def model_card(self, model: str) -> dict[str, Any]:
        """Return all that a model says of itself: data, figures, limits."""
        from ..bundle import find_bundles, read_card

        path = find_bundles().get(model)
        if path is None:
            path = self.folders.find(model)
        card = read_card(path)
        shown = card.model_dump(mode="json", exclude={"architecture", "test_vector"})
        return bounded({"summary": card.summary(), "card": shown})

    def classify(
        self,
        image: str,
        model: str = "blood-cells",
        pixel_size: float | None = None,
        whole: bool = False,
        first_row: int = 0,
        rows: int = 20,
        flagged_only: bool = False,
    ) -> dict[str, Any]:
        """Classify the cells of an image, or an image or a slide as a whole.

        Returns the counts or the class with its probabilities, how sure, how many are
        unlike anything the model was trained on, and a page of the table. The `table_row`
        of a cell is the number by which `evidence` knows it.
        """
        with self._one:
            result = self._result(image, model, pixel_size, whole)
            table = result.to_frame()
            # A column "row" is a place in the image; this is what `evidence` asks for.
            table.insert(0, "table_row", range(len(table)))
            if flagged_only:
                if "flagged" not in table:
                    raise ValueError("this result has no flags for each row; see its summary")
                table = table[table["flagged"].fillna(False).astype(bool)]
            start = max(0, first_row)
            page = table.iloc[start : start + min(max(rows, 0), _MOST_ITEMS)]
            answer: dict[str, Any] = {
                "image": self.folders.name(self.folders.find(image)),
                "model": result.identity["model"],
                "summary": result.summary(),
                "rows_in_table": len(table),
                "first_row": start,
                "rows": json.loads(page.to_json(orient="records", double_precision=6)),
            }
            if "confidence" in table and len(table):
                quantiles = table["confidence"].quantile([0.05, 0.5]).round(4).tolist()
                answer["confidence"] = {"5_percent": quantiles[0], "median": quantiles[1]}
            return bounded(answer)

    def evidence(
        self,
        image: str,
        model: str = "blood-cells",
        row: int | None = None,
        pixel_size: float | None = None,
        whole: bool = False,
        measure: bool = False,
    ) -> dict[str, Any]:
        """Tell what a model looked at: of the cell in a row, or of the whole; and whether it holds.

        `row` is the `table_row` that `classify` gives, and not the place in the image.
        With `measure`, content is removed in the order of the evidence and at random, the
        model runs anew, and what differs is told. That takes a while.
        """
        with self._one:
            result = self._result(image, model, pixel_size, whole)
            answer: dict[str, Any] = {
                "image": self.folders.name(self.folders.find(image)),
                "model": result.identity["model"],
                "looked_at_share_of_pixels": result.summary().get("looked_at"),
                "evidence": _evidence_of(result, row),
            }
            if measure:
                answer["measured"] = self._measured(result, row)
            return bounded(answer)

    def batch_status(self, folder: str) -> dict[str, Any]:
        """Tell how far a batch is whose results go into a folder, and what failed and why."""
        from ..batch.records import TABLE

        # Found anew, as it may be a link as well.
        table = self.folders.find(str(self.folders.folder(folder) / TABLE))
        with table.open(newline="", encoding="utf-8-sig") as file:
            rows = list(csv.DictReader(file))
        failed = [
            {"item": each.get("item"), "reason": each.get("reason")}
            for each in rows
            if each.get("state") == "failed"
        ]
        return bounded(
            {
                "items": len(rows),
                "states": dict(Counter(str(each.get("state")) for each in rows)),
                "failed": failed[:_MOST_ITEMS],
            }
        )

    def write_results(
        self,
        image: str,
        out: str,
        model: str = "blood-cells",
        formats: Sequence[str] = ("csv", "overlay"),
        pixel_size: float | None = None,
        whole: bool = False,
    ) -> dict[str, Any]:
        """Write the results of an image into a shared folder; others there are not replaced."""
        if not self.writes:
            raise PermissionError("this server only reads; it was started without --allow-write")
        with self._one:
            target = self.folders.place(out)
            result = self._result(image, model, pixel_size, whole)
            written = result.write(target, None, tuple(formats))
            paths = [self.folders.name(path) for each in written.values() for path in each]
            return bounded({"written": paths})

    def close(self) -> None:
        """Close the images whose results are kept."""
        while self._kept:
            self._kept.popitem()[1].close()

    def _bundle(self, model: str) -> Bundle:
        from ..bundle import find_bundles, load_bundle

        if model not in self._bundles:
            # Names of models first; a file only from the folders, and no repository.
            path = find_bundles().get(model) or self.folders.find(model)
            self._bundles[model] = load_bundle(path)
        return self._bundles[model]

    def _result(self, image: str, model: str, pixel_size: float | None, whole: bool) -> Result:
        from ..process.options import ProcessOptions
        from ..process.process import choose_task, process_file

        path, bundle = self.folders.find(image), self._bundle(model)
        state = path.stat()
        key = (path, state.st_mtime_ns, state.st_size, bundle.hash, pixel_size, whole)
        if key in self._kept:
            self._kept.move_to_end(key)
            return self._kept[key]
        options = ProcessOptions(
            formats=("csv", "overlay"),
            task="whole" if whole else "auto",
            pixel_size=pixel_size,
            device=self.device,
        )
        if choose_task(path, bundle, options) == "hologram":
            raise ValueError(
                f"'{_clean(path.name)}' is a recording of holography, which has to be "
                "reconstructed first: see `napari-sparseattn hologram`"
            )
        result = process_file(path, bundle, options)
        self._kept[key] = result
        while len(self._kept) > _MOST_KEPT:
            self._kept.popitem(last=False)[1].close()
        return result

    def _measured(self, result: Result, row: int | None) -> dict[str, Any]:
        from ..images.fields.field import Field
        from ..inference.faithfulness import (
            CARD,
            faithfulness_of_field,
            faithfulness_of_set,
            faithfulness_of_slide,
        )
        from ..inference.prediction import Predictions
        from ..inference.slides import SlidePrediction

        found, image, bundle = result.prediction, result.image, result.bundle
        assert bundle is not None
        if isinstance(found, SlidePrediction):
            one = faithfulness_of_slide(found, bundle, CARD, self.device)
            return {"sentence": one.sentence("patches"), "n": 1}
        if isinstance(found, Predictions) and isinstance(image, Field):
            count = min(len(found), _MOST_MEASURED)
            step = max(1, len(found) // max(count, 1))
            rows = list(range(0, len(found), step))[:count] if row is None else [row]
            if not rows:
                return {"sentence": "there are no cells", "n": 0}
            many = faithfulness_of_set(image, found.cells, bundle, rows, CARD, self.device)
            what = "pixels" if bundle.card.model_kind.setting == "k" else "parts"
            return {"sentence": many.sentence(what), "n": len(rows)}
        whole = faithfulness_of_field(image, bundle, None, CARD, self.device)
        return {"sentence": whole.sentence("parts"), "n": 1}


def _evidence_of(result: Result, row: int | None) -> dict[str, Any]:
    """Return what was looked at, as numbers: of a cell, of a field, or of a slide."""
    from ..inference.prediction import Predictions

    found = result.prediction
    if isinstance(found, Predictions):
        if row is None or not 0 <= row < len(found):
            if not len(found):
                raise ValueError("no cells were found, and so there is no evidence")
            raise ValueError(f"give the table_row of a cell, from 0 to {len(found) - 1}")
        one = found[row]
        top, left, bottom, right = (float(v) for v in found.cells.boxes[row])
        told: dict[str, Any] = {
            "class": one.label,
            "confidence": float(one.confidence),
            "box_top_left_bottom_right": [top, left, bottom, right],
        }
        if one.evidence is not None:
            told |= _numbers_of(one.evidence)
        return told
    if row is not None:
        raise ValueError("a row is one of cells: leave it out, the whole was classified")
    seen = getattr(found, "traversal", None) or getattr(found, "attention", None)
    return {} if seen is None else _numbers_of(seen)


def _numbers_of(evidence: Any) -> dict[str, Any]:
    from ..evidence.kinds import PixelSelection

    told: dict[str, Any] = evidence.to_dict()
    if isinstance(evidence, PixelSelection):
        # Lists of every pixel say little in words: those that weigh most.
        del told["indices"], told["fine"]
        weights = evidence.weights()
        order = weights.argsort()[::-1][:_MOST_PIXELS]
        size = evidence.frame.size
        told["heaviest_pixels_of_crop"] = [
            {
                "row": int(evidence.indices[n] // size),
                "column": int(evidence.indices[n] % size),
                "weight": float(weights[n]),
            }
            for n in order
        ]
    told.pop("searched", None)
    return told


def bounded(answer: dict[str, Any], most: int = MOST_BYTES) -> dict[str, Any]:
    """Return an answer of at most so many bytes as JSON: longer lists are cut, and that is said.

    Texts lose control characters and what makes them read otherwise than they are.
    """
    items = _MOST_ITEMS
    while True:
        cut: dict[str, int] = {}
        shown = _shortened(answer, items, "", cut)
        if cut:
            shown["cut"] = {name or "answer": f"{n} more" for name, n in cut.items()}
        size = len(json.dumps(shown, ensure_ascii=False, default=str).encode())
        if size <= most:
            return dict(shown)
        if items <= _LEAST_ITEMS:
            return {"error": f"the answer is too long ({size} bytes); ask for less"}
        items = max(_LEAST_ITEMS, items // 2)


def _shortened(value: Any, items: int, name: str, cut: dict[str, int]) -> Any:
    if isinstance(value, dict):
        return {
            _clean(str(key)): _shortened(each, items, f"{name}.{key}".strip("."), cut)
            for key, each in list(value.items())[:_MOST_ITEMS]
        }
    if isinstance(value, list | tuple):
        if len(value) > items:
            cut[name] = max(cut.get(name, 0), len(value) - items)
        return [_shortened(each, items, name, cut) for each in value[:items]]
    if isinstance(value, str):
        return _clean(value, 20 * _MOST_TEXT if name == "summary" else _MOST_TEXT)
    if isinstance(value, float):
        return round(value, 6) if value == value and abs(value) != float("inf") else None
    if isinstance(value, int | bool) or value is None:
        return value
    item = getattr(value, "item", None)
    with contextlib.suppress(TypeError, ValueError):
        if item is not None:
            return _shortened(item(), items, name, cut)
    return _clean(str(value))


def _clean(text: str, most: int = _MOST_TEXT) -> str:
    plain = _CONTROL.sub(" ", text)
    return plain if len(plain) <= most else f"{plain[:most]}…"
