"""A result as one HTML page that shows what was found and what was looked at."""

from __future__ import annotations

import itertools
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from ..files import replacing
from ..inference.fields import FieldPrediction
from ..inference.prediction import Predictions, say_share
from ..inference.slides import SlidePrediction
from ..metrics import whole_percent
from ..pages import render
from .checklist import CHECKLIST, fill_checklist
from .pictures import Pictures, cell_picture, data_uri, draw_boxes, draw_cells
from .request import Export
from .slide_map import attention_picture, describe_attention

__all__ = ["write_html"]

#: Pictures in one page, which bounds its size: about 4 KB each, the overview 400 KB.
MOST_CELLS = 120
_LEAST_SURE = 24
_MOST_CROPS = 60
_MOST_PATCHES = 24
_OVERVIEW = 1400
_THUMBNAIL = 112
#: Frames of a stack with a row of their own.
_MOST_FRAMES = 500

#: A picture, and the two lines below it.
Figure = tuple[str, str, str]


def write_html(export: Export, path: Path) -> list[Path]:
    """Write a page that needs nothing beside it, atomically.

    Pictures are in the page itself, and nothing is fetched. At most 120 cells
    have a close-up: of each class the surest, and the least sure.

    Parameters
    ----------
    export : Export
        Cells, frames, a field or a slide.
    path : pathlib.Path
        The file.

    Returns
    -------
    list of pathlib.Path
        The file.
    """
    with replacing(path) as temporary, temporary.open("w", encoding="utf-8") as file:
        file.write(_page(export))
    return [path]


def _page(export: Export) -> str:
    source, result = export.provenance, export.result
    if isinstance(result, SlidePrediction):
        found = _slide(export, result)
    elif isinstance(result, FieldPrediction):
        found = _field(export, result)
    else:
        found = _cells(export)
    return render(
        "report.html",
        title=export.name,
        kind=export.kind,
        subtitle=_subtitle(export),
        warnings=list(_warnings(source)),
        read=_reading(export),
        model=[
            ("model", export.card.name),
            ("sha256 of its tensors", source["model_hash"] or "not known"),
            ("licence of its weights", export.card.weights_licence),
            ("image file", source["file"] or "none"),
            ("software", source["software"]),
            ("written", source["time"]),
        ],
        summary=export.card.summary(),
        checklist=fill_checklist(export),
        checklist_source=CHECKLIST,
        **found,
    )


def _subtitle(export: Export) -> str:
    source, (height, width) = export.provenance, export.shape
    size = export.pixel_size
    scale = "pixel size unknown" if size is None else f"{size:g} µm per pixel"
    return (
        f"{width} × {height} pixels, {scale} · {source['model']} · {source['software']} · "
        f"{source['time']}"
    )


def _warnings(source: Mapping[str, Any]) -> Iterator[str]:
    if not source["scale_known"]:
        doubted = source["pixel_size_um"] is not None
        what = "The scale is in doubt" if doubted else "Pixel size unknown"
        yield f"{what}: the model may not be applicable."
    if source["training_data_simulated"]:
        yield "The model was trained on simulated images."
    yield from source["notes"]


def _reading(export: Export) -> list[tuple[str, str]]:
    source, reading = export.provenance, getattr(export.result, "reading", None)
    rows = [
        ("pixels read", f"{source['pixels_read']:,}".replace(",", "\u202f")),
        ("seen by the classifier", say_share(source["share_classified"], ".3g")),
        ("time", f"{source['seconds']:.2f} s on {source['device']}"),
    ]
    return rows if reading is None else [*rows, ("tiles", reading.summary())]


def _cells(export: Export) -> dict[str, Any]:
    frames, colours = export.frames, export.card.colours
    names = [_readable(name) for name in export.first.class_names]
    counts = [sum(n) for n in zip(*(f.counts().values() for f in frames.values()), strict=True)]
    total, classified = export.n_cells, sum(counts)
    first, found = next(iter(frames.items()))
    t = first if export.kind == "frames" else export.index[0]
    pictures = Pictures(export.image, (t, export.index[1]))
    picture, factor = pictures.overview(_OVERVIEW)
    draw_cells(picture, factor, found, colours)
    several = len(frames) > 1
    groups = _choose(found)
    n_shown = sum(len(cells) for _, cells in groups)
    progress = itertools.count(1)
    return {
        "verdict": f"{total} {'cell' if total == 1 else 'cells'}"
        + (f" in {len(frames)} frames" if several else ""),
        "total": total,
        "unclassified": total - classified,
        "classes": [
            (name, n, n / max(classified, 1), colour)
            for name, n, colour in zip(names, counts, colours, strict=True)
        ],
        "names": names,
        "picture": data_uri(picture, quality=85),
        "caption": f"{f'Frame {first}: a' if several else 'A'}ll cells, framed in the colours of "
        "their classes",
        "frames": [
            (t, len(found), *found.counts().values())
            for t, found in itertools.islice(frames.items(), _MOST_FRAMES)
        ]
        if several
        else [],
        "tinted": bool(found.evidence),
        "n_shown": n_shown,
        "n_found": len(found),
        "groups": [
            (title, _close_ups(export, pictures, found, cells, n_shown, progress))
            for title, cells in groups
        ],
    }


def _close_ups(
    export: Export,
    pictures: Pictures,
    found: Predictions,
    cells: Sequence[int],
    total: int,
    progress: Iterator[int],
) -> Iterator[Figure]:
    for i in cells:
        one = found[i]
        shown = cell_picture(pictures, found, i, export.card.colours[one.index], _THUMBNAIL)
        words = f"{_readable(one.label)} {whole_percent(one.confidence)}"
        spec = export.card.novelty
        if one.none_of_these and spec is not None:
            words += f", more like {spec.others_text}"
        elif one.flagged:
            words += ", unlike what the model knows"
        yield data_uri(shown), f"cell {found.cells.ids[i]}", words
        export.report(next(progress), total)


def _choose(found: Predictions) -> list[tuple[str, list[int]]]:
    """Choose cells for close-ups: of each class the surest, of the others the least sure."""
    index, confidence = found.class_index, found.confidence
    there = np.unique(index[index >= 0])
    each = max(1, (MOST_CELLS - _LEAST_SURE) // max(len(there), 1))
    groups = []
    for label in there.tolist():
        cells = np.flatnonzero(index == label)
        order = np.argsort(-confidence[cells], kind="stable")
        name = _readable(found.class_names[label])
        groups.append((f"{name}, most confident of {len(cells)}", cells[order[:each]].tolist()))
    groups = groups[: MOST_CELLS - _LEAST_SURE]
    others = np.setdiff1d(np.flatnonzero(index >= 0), [i for _, cells in groups for i in cells])
    if len(others):
        order = np.argsort(confidence[others], kind="stable")
        groups.append(("Least confident", others[order[:_LEAST_SURE]].tolist()))
    return groups


def _field(export: Export, found: FieldPrediction) -> dict[str, Any]:
    way, label = found.traversal, _readable(found.label)
    pictures = Pictures(export.image, export.index)
    picture, factor = pictures.overview(_OVERVIEW)
    evidence = way.evidence_for(found.index)
    tints = ["#D55E00" if value > 0 else "#0072B2" for value in evidence]
    draw_boxes(picture, way.boxes[1:], tints[1:], factor)
    order = np.argsort(-np.abs(evidence), kind="stable")[:_MOST_CROPS].tolist()

    def figures() -> Iterator[Figure]:
        for done, i in enumerate(order, 1):
            top, left, height, _ = way.boxes[i].tolist()
            shown = pictures.close_up(top, left, height, _THUMBNAIL)
            yield data_uri(shown), f"level {way.level[i]}", f"{evidence[i]:+.3f}"
            export.report(done, len(order))

    return {
        "verdict": f"{label}, {whole_percent(found.confidence)}",
        "label": label,
        "ranked": _ranked(found),
        "picture": data_uri(picture, quality=85),
        "caption": f"What was looked at: orange crops speak for {label}, blue ones against it",
        "n_shown": len(order),
        "n_found": len(way),
        "figures": figures(),
    }


def _slide(export: Export, found: SlidePrediction) -> dict[str, Any]:
    seen = found.attention
    pictures = Pictures(export.image, export.index)
    drawn = attention_picture(pictures.pyramid, found, height=420)
    order = seen.rank_patches()[:_MOST_PATCHES].tolist()
    uniform = seen.patch_weights() * len(seen.levels[0])
    verdict = f"{_readable(found.label)}, {whole_percent(found.confidence)}"
    if found.segments:
        share = 100 * float(found.probabilities[1])
        verdict = f"{_readable(found.class_names[1])} in {share:.1f} % of the patches"
    if found.estimate is not None:
        verdict = found.estimate.sentence

    def figures() -> Iterator[Figure]:
        for done, i in enumerate(order, 1):
            shown = pictures.close_up(*seen.patch_box(i), _THUMBNAIL)
            yield data_uri(shown), f"patch {i + 1}", f"{uniform[i]:.2g} × uniform"
            export.report(done, len(order))

    return {
        "verdict": verdict,
        "ranked": [] if found.segments else _ranked(found),
        "picture": data_uri(drawn, quality=85),
        "caption": "The slide, and where the model attended, level by level",
        "attention": describe_attention(seen),
        "stages": [(s.name, f"{s.seconds:.1f} s", s.count) for s in found.stages],
        "figures": figures(),
    }


def _ranked(found: FieldPrediction | SlidePrediction) -> list[tuple[str, str]]:
    if isinstance(found, SlidePrediction) and found.estimate is not None:
        return [(f"no event by {when}", f"{100 * p:.1f} %") for when, p in found.estimate.curve]
    return [(_readable(name), f"{100 * p:.2f} %") for name, p in found.rank_classes()]


def _readable(name: str) -> str:
    return name.replace("_", " ")
