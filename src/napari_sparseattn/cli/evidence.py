"""How far evidence can be believed, on the command line: a table and a report per image."""

from __future__ import annotations

import csv
import json
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, cast

import typer

from ..progress import Progress
from .options import AsJson, Device, MethodOption, Model, Out, Overwrite, PixelSize, Unit
from .output import Row, make_rows, progress_bar, refuse_unused, report_rows

if TYPE_CHECKING:
    from ..bundle import Bundle
    from ..evidence.faithfulness import Faithfulness, FaithfulnessOfSet
    from ..images.fields.cells import Method
    from ..images.fields.field import Field
    from ..images.slides.pyramid import Pyramid
    from ..inference.faithfulness import FaithfulnessSettings

__all__ = ["evidence"]

#: Cells of one image that are measured by default: about half a minute on a CPU.
_CELLS = 50


def evidence(
    images: Annotated[list[Path], typer.Argument(help="Images or slides, or folders of them.")],
    out: Out,
    model: Model = "blood-cells",
    cells: Annotated[
        int | None,
        typer.Option(
            help="Cells measured per image, evenly chosen; 0 for all.",
            min=0,
            show_default=str(_CELLS),
        ),
    ] = None,
    thorough: Annotated[
        bool, typer.Option("--thorough", help="Every fill and more steps: four times as long.")
    ] = False,
    whole: Annotated[
        bool, typer.Option("--whole", help="With a TNet: of images as a whole, not of cells.")
    ] = False,
    pixel_size: PixelSize = None,
    unit: Unit = None,
    method: MethodOption = "auto",
    device: Device = "auto",
    overwrite: Overwrite = False,
    as_json: AsJson = False,
) -> None:
    """Measure whether what a model shows as evidence is what decides.

    Content is removed in the order of the evidence and of baselines, and the
    whole model runs anew each time. Of each image NAME are written:
    NAME_evidence.csv, whose column "id" is that of `classify`, and
    NAME_evidence.json with curves and verdicts. First it is said whether
    removing what the model chose changes the answer more than removing as
    much at random does.
    """
    from ..bundle import load_bundle
    from ..inference.faithfulness import CARD, THOROUGH
    from ..process.inputs import find_inputs
    from ..process.result import check_free, identity_of

    bundle = load_bundle(model)
    items = find_inputs(images, out=out)
    settings = THOROUGH if thorough else CARD
    as_one = bundle.card.takes_slides or whole
    refuse_unused(
        "of cells, and the whole of each image is measured",
        cells=cells is not None and as_one,
        method=method != "auto" and as_one,
    )
    refuse_unused(
        "of fields, and not of slides", unit=unit is not None and bundle.card.takes_slides
    )
    most = _CELLS if cells is None else cells
    said = {"pixel_size": pixel_size, "unit": unit}
    given = {name: value for name, value in said.items() if value is not None}

    def work(index: int) -> Row:
        path = items[index].path
        name = out / items[index].key
        target = name.with_name(f"{name.name}_evidence")
        task = "evidence of the whole" if as_one else "evidence of cells"
        mine = identity_of(task, bundle, path)
        check_free(target, mine, overwrite=overwrite)
        found: FaithfulnessOfSet | Faithfulness | None
        with progress_bar(path.name, quiet=as_json) as progress:
            if as_one:
                found, notes = _measure_whole(path, bundle, settings, device, given, progress)
            else:
                found, notes = _measure_cells(
                    path, bundle, settings, device, given, method, most, progress
                )
        return _write(path, found, mine, target, _removed(bundle, whole=whole), notes)

    rows = make_rows([item.key for item in items], work)
    report_rows(rows, as_json, _about)


def _removed(bundle: Bundle, *, whole: bool) -> str:
    """What is removed: patches of a slide, pixels of a cell, or parts of either."""
    if bundle.card.takes_slides:
        return "patches"
    return "pixels" if bundle.card.model_kind.setting == "k" and not whole else "parts"


def _measure_cells(
    path: Path,
    bundle: Bundle,
    settings: FaithfulnessSettings,
    device: str,
    given: Mapping[str, Any],
    method: str,
    most: int,
    progress: Progress,
) -> tuple[FaithfulnessOfSet | None, list[str]]:
    import numpy as np

    from ..images.fields.cells import find_cells, knows_platelets
    from ..images.opening import open_field
    from ..inference.cells import about_scale
    from ..inference.faithfulness import faithfulness_of_set

    field = open_field(path, **given)
    platelets = knows_platelets(bundle.card.class_names)
    cells = find_cells(field, method=cast("Method", method), platelets=platelets)
    notes = [*_about_frames(field), *field.notes, *cells.notes, *about_scale(field, cells)]
    if not len(cells):
        return None, notes
    count = min(most or len(cells), len(cells))
    rows = np.linspace(0, len(cells) - 1, count).round().astype(int).tolist()
    found = faithfulness_of_set(field, cells, bundle, rows, settings, device, progress=progress)
    return found, notes


def _about_frames(image: Field | Pyramid) -> list[str]:
    from ..images.fields.field import Field

    count = image.n_frames * image.n_slices if isinstance(image, Field) else 1
    return [f"only the first of {count} frames was measured"] if count > 1 else []


def _measure_whole(
    path: Path,
    bundle: Bundle,
    settings: FaithfulnessSettings,
    device: str,
    given: Mapping[str, Any],
    progress: Progress,
) -> tuple[Faithfulness, list[str]]:
    from ..images.opening import open_image
    from ..images.slides.opening import open_slide
    from ..images.slides.pyramid import Pyramid
    from ..inference.faithfulness import faithfulness_of_field, faithfulness_of_slide
    from ..inference.slides import classify_slide

    if bundle.card.takes_slides:
        with open_slide(path, **given) as pyramid:
            prediction = classify_slide(pyramid, bundle, device=device)
        found = faithfulness_of_slide(prediction, bundle, settings, device, progress=progress)
        return found, list(prediction.ledger.notes)
    image = open_image(path, **given)
    try:
        found = faithfulness_of_field(image, bundle, None, settings, device, progress=progress)
        return found, [*_about_frames(image), *image.notes]
    finally:
        if isinstance(image, Pyramid):
            image.close()


def _write(
    path: Path,
    found: FaithfulnessOfSet | Faithfulness | None,
    identity: Mapping[str, str],
    target: Path,
    what: str,
    notes: list[str],
) -> Row:
    """Write the table and the report of one image; returns what to tell."""
    from ..evidence.faithfulness import FaithfulnessOfSet
    from ..files import replacing

    name = identity["model"]
    if found is None:
        return {"image": str(path), "n": 0, "model": name, "sentence": "", "verdicts": {},
                "notes": ["no cells", *notes]}  # fmt: skip
    together = (
        found if isinstance(found, FaithfulnessOfSet) else FaithfulnessOfSet((path.name,), (found,))
    )
    table = target.with_name(f"{target.name}.csv")
    report = target.with_name(f"{target.name}.json")
    _write_rows([{**row, "model": name} for row in together.rows()], table)
    content = {"image": str(path), **identity, **together.to_dict(each=True), "notes": notes}
    with replacing(report) as temporary:
        temporary.write_text(json.dumps(content), encoding="utf-8")
    of_one = {to: found.verdict(to) for to in found.baselines}
    return {
        "image": str(path),
        "n": len(together),
        "model": name,
        "sentence": found.sentence(what),
        "verdicts": of_one,
        "notes": notes,
        "csv": str(table),
        "json": str(report),
    }


def _write_rows(rows: Sequence[Mapping[str, object]], path: Path) -> None:
    from ..files import replacing

    with replacing(path) as temporary, temporary.open("w", newline="", encoding="utf-8") as file:
        writer = csv.DictWriter(file, list(rows[0]))
        writer.writeheader()
        writer.writerows({key: _text(value) for key, value in row.items()} for row in rows)


def _text(value: object) -> object:
    """As the tables of predictions have it: six digits, and nothing for what is not known."""
    if isinstance(value, float):
        return "" if value != value else f"{value:.6g}"
    return value


def _about(row: Row) -> Iterator[str]:
    yield f"{row['image']}: {row['n']} measured with {row['model']}"
    if row["sentence"]:
        yield f"  {row['sentence']}."
    yield from (f"  {text}" for text in row["verdicts"].values())
    yield from (f"  {note}" for note in row["notes"])
    yield from (f"  {row[key]}" for key in ("csv", "json") if key in row)
