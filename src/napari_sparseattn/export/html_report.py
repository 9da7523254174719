"""A result as one HTML page that shows what was found and what was looked at."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from html import escape
from pathlib import Path

import numpy as np
import numpy.typing as npt
from PIL import Image

from ..evidence import Traversal
from ..files import replacing
from ..inference.fields import FieldPrediction
from ..inference.prediction import Predictions
from ..inference.slides import SlidePrediction
from ..metrics import whole_percent
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

_STYLE = """
:root{color-scheme:light dark;
--ink:#1d2430;--soft:#5b6675;--paper:#fff;--card:#f4f6f8;--line:#d8dde3}
@media(prefers-color-scheme:dark){:root{--ink:#e6e9ee;--soft:#9aa5b4;--paper:#15181d;--card:#1e232a;
--line:#343b45}}
body{font:15px/1.5 system-ui,sans-serif;max-width:72rem;margin:2rem auto;padding:0 1rem;
color:var(--ink);background:var(--paper)}
h1{font-size:1.5rem;margin-bottom:.2rem}h2{font-size:1.15rem;margin-top:2rem}
.soft,figcaption{color:var(--soft);font-size:.85rem}
.verdict{font-size:1.15rem;padding:.7rem 1rem;border-left:5px solid #0072B2;background:var(--card)}
.warn{border-left:5px solid #E69F00;padding:.5rem 1rem;background:var(--card)}
table{border-collapse:collapse;margin:.5rem 0 1rem}
td,th{padding:.2rem .7rem;text-align:right;border-bottom:1px solid var(--line)}
td:first-child,th:first-child{text-align:left}
.bar{display:inline-block;height:.7em;border-radius:2px;vertical-align:middle}
.swatch{display:inline-block;width:.8em;height:.8em;border-radius:2px;margin-right:.4em}
img.whole{max-width:100%;height:auto;border:1px solid var(--line)}
.grid{display:flex;flex-wrap:wrap;gap:.6rem}
figure{margin:0;width:112px}figure img{width:112px;height:112px;border-radius:3px}
dl{display:grid;grid-template-columns:max-content 1fr;gap:.1rem 1rem}
dt{color:var(--soft)}dd{margin:0}
pre{white-space:pre-wrap;background:var(--card);padding:.7rem 1rem;font:inherit}
"""


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
        file.writelines(_page(export))
    return [path]


def _page(export: Export) -> Iterator[str]:
    result = export.result
    yield (
        "<!doctype html>\n<html lang='en'><head><meta charset='utf-8'>"
        "<meta name='viewport' content='width=device-width,initial-scale=1'>"
        f"<title>{escape(export.name)} – napari-sparseattn</title><style>{_STYLE}</style></head>"
        f"<body><h1>{escape(export.name)}</h1><p class='soft'>{escape(_subtitle(export))}</p>"
    )
    yield from _warnings(export)
    if isinstance(result, SlidePrediction):
        yield from _slide(export, result)
    elif isinstance(result, FieldPrediction):
        yield from _field(export, result)
    else:
        yield from _cells(export)
    yield _read(export)
    yield _model(export)
    yield "</body></html>\n"


def _subtitle(export: Export) -> str:
    source, (height, width) = export.provenance, export.shape
    size = export.pixel_size
    scale = "pixel size unknown" if size is None else f"{size:g} µm per pixel"
    return (
        f"{width} × {height} pixels, {scale} · {source['model']} · {source['software']} · "
        f"{source['time']}"
    )


def _warnings(export: Export) -> Iterator[str]:
    source = export.provenance
    if not source["scale_known"]:
        yield (
            "<p class='warn'>Scale not known: the image's scale was not known, so the model may "
            "not have seen what it was trained on.</p>"
        )
    if source["training_data_simulated"]:
        yield "<p class='warn'>The model was trained on simulated images.</p>"
    for note in source["notes"]:
        yield f"<p class='warn'>{escape(note)}</p>"


# -- cells


def _cells(export: Export) -> Iterator[str]:
    frames, colours = export.frames, export.card.colours
    names = export.first.class_names
    counts = dict.fromkeys(names, 0)
    for found in frames.values():
        for name, n in found.counts().items():
            counts[name] += n
    total, classified = export.n_cells, sum(counts.values())
    of = f" in {len(frames)} frames" if len(frames) > 1 else ""
    yield f"<p class='verdict'>{total} cells{of}</p>"
    if total > classified:
        yield f"<p>{total - classified} of {total} cells could not be classified.</p>"
    yield _counts(counts, colours, max(classified, 1))
    first, found = next(iter(frames.items()))
    t = first if export.kind == "frames" else export.index[0]
    pictures = Pictures(export.image, (t, export.index[1]))
    picture, factor = pictures.overview(_OVERVIEW)
    draw_cells(picture, factor, found, colours)
    which = f"Frame {first}: a" if len(frames) > 1 else "A"
    yield _whole(picture, f"{which}ll cells, framed in the colours of their classes")
    if len(frames) > 1:
        yield _frames(export)
    yield from _close_ups(export, pictures, found)


def _whole(picture: Image.Image, words: str) -> str:
    source = data_uri(picture, quality=85)
    return (
        f"<p><img class='whole' src='{source}' alt='{escape(words, quote=True)}'></p>"
        f"<p class='soft'>{escape(words)}.</p>"
    )


def _counts(counts: dict[str, int], colours: Sequence[str], total: int) -> str:
    rows = [
        [
            f"{_swatch(colour)}{escape(_said(name))}",
            str(n),
            f"{100 * n / total:.1f} %",
            f"<span class='bar' style='width:{160 * n / total:.0f}px;background:{colour}'></span>",
        ]
        for (name, n), colour in zip(counts.items(), colours, strict=True)
    ]
    return "<h2>Classes</h2>" + _table(["class", "cells", "share", ""], rows)


def _frames(export: Export) -> str:
    names = export.first.class_names
    rows = []
    for t, found in list(export.frames.items())[:_MOST_FRAMES]:
        rows.append([str(t), str(len(found)), *map(str, found.counts().values())])
    return "<h2>Frames</h2>" + _table(
        ["frame", "cells", *(escape(_said(name)) for name in names)], rows
    )


def _close_ups(export: Export, pictures: Pictures, found: Predictions) -> Iterator[str]:
    groups = _chosen(found)
    total, done = sum(len(cells) for _, cells in groups), 0
    what = "The pixels that decided are tinted. " if found.evidence else ""
    yield f"<h2>Close-ups</h2><p class='soft'>{what}{total} of {len(found)} cells.</p>"
    for title, cells in groups:
        yield f"<h3>{escape(title)}</h3><div class='grid'>"
        for i in cells:
            one = found[i]
            colour = export.card.colours[one.index]
            shown = cell_picture(pictures, found, i, colour, _THUMBNAIL)
            words = f"{_said(one.label)} {whole_percent(one.confidence)}"
            yield _figure(data_uri(shown), f"cell {found.cells.ids[i]}", words)
            done += 1
            export.tell(done, total)
        yield "</div>"


def _chosen(found: Predictions) -> list[tuple[str, list[int]]]:
    """Cells with a close-up: of each class the surest, of the others the least sure."""
    index, confidence = found.class_index, found.confidence
    there = np.unique(index[index >= 0])
    each = max(1, (MOST_CELLS - _LEAST_SURE) // max(len(there), 1))
    groups = []
    for label in there.tolist():
        cells = np.flatnonzero(index == label)
        order = np.argsort(-confidence[cells], kind="stable")
        name = _said(found.class_names[label])
        groups.append((f"{name}, surest of {len(cells)}", cells[order[:each]].tolist()))
    groups = groups[: MOST_CELLS - _LEAST_SURE]
    others = np.setdiff1d(np.flatnonzero(index >= 0), [i for _, cells in groups for i in cells])
    if len(others):
        order = np.argsort(confidence[others], kind="stable")
        groups.append(("Least sure", others[order[:_LEAST_SURE]].tolist()))
    return groups


# -- fields and slides


def _field(export: Export, found: FieldPrediction) -> Iterator[str]:
    yield f"<p class='verdict'>{escape(_said(found.label))}, {whole_percent(found.confidence)}</p>"
    yield _ranked(found)
    way = found.traversal
    pictures = Pictures(export.image, export.index)
    picture, factor = pictures.overview(_OVERVIEW)
    evidence = way.evidence_for(found.index)
    tints = ["#D55E00" if value > 0 else "#0072B2" for value in evidence]
    draw_boxes(picture, way.boxes[1:], tints[1:], factor)
    said = f"What was looked at: orange crops speak for {_said(found.label)}, blue ones against it"
    yield _whole(picture, said)
    yield from _crops(export, found, pictures, way, evidence)


def _crops(
    export: Export,
    found: FieldPrediction,
    pictures: Pictures,
    way: Traversal,
    evidence: npt.NDArray[np.float32],
) -> Iterator[str]:
    order = np.argsort(-np.abs(evidence), kind="stable")[:_MOST_CROPS].tolist()
    yield (
        f"<h2>Crops</h2><p class='soft'>{len(order)} of {len(way)}, those that say most first; the "
        f"number is what a crop adds to the logit of {escape(_said(found.label))}, less its mean "
        "over all classes.</p><div class='grid'>"
    )
    for done, i in enumerate(order, 1):
        top, left, height, _ = way.boxes[i].tolist()
        shown = pictures.close_up(top, left, height, _THUMBNAIL)
        yield _figure(data_uri(shown), f"level {way.level[i]}", f"{evidence[i]:+.3f}")
        export.tell(done, len(order))
    yield "</div>"


def _slide(export: Export, found: SlidePrediction) -> Iterator[str]:
    seen = found.attention
    if found.segments:
        share = 100 * float(found.probabilities[1])
        name = escape(_said(found.class_names[1]))
        yield f"<p class='verdict'>{name} in {share:.1f} % of the patches</p>"
    else:
        said = f"{escape(_said(found.label))}, {whole_percent(found.confidence)}"
        yield f"<p class='verdict'>{said}</p>" + _ranked(found)
    pictures = Pictures(export.image, export.index)
    drawn = attention_picture(pictures.pyramid, found, height=420)
    yield _whole(drawn, "The slide, and where the model attended, level by level")
    yield f"<p>Attention: {escape(describe_attention(seen))}.</p>"
    stages = [[escape(s.name), f"{s.seconds:.1f} s", str(s.count)] for s in found.stages]
    if stages:
        yield "<h2>Steps</h2>" + _table(["step", "time", "patches"], stages)
    order = seen.ranked()[:_MOST_PATCHES].tolist()
    uniform = seen.patch_weights() * len(seen.levels[0])
    yield "<h2>Patches</h2><p class='soft'>Those attended to most, in multiples of uniform.</p>"
    yield "<div class='grid'>"
    for done, i in enumerate(order, 1):
        shown = pictures.close_up(*seen.patch_box(i), _THUMBNAIL)
        yield _figure(data_uri(shown), f"patch {i + 1}", f"{uniform[i]:.2g} × uniform")
        export.tell(done, len(order))
    yield "</div>"


def _ranked(found: FieldPrediction | SlidePrediction) -> str:
    rows = [[escape(_said(name)), f"{100 * p:.2f} %"] for name, p in found.ranked()]
    return "<h2>Probabilities</h2>" + _table(["class", "probability"], rows)


# -- where it came from


def _read(export: Export) -> str:
    source = export.provenance
    rows = {
        "pixels read": f"{source['pixels_read']:,}".replace(",", "\u202f"),
        "of them seen by the classifier": f"{100 * source['share_classified']:.3g} %",
        "time": f"{source['seconds']:.2f} s on {source['device']}",
    }
    reading = getattr(export.result, "reading", None)
    if reading is not None:
        rows["tiles"] = reading.summary()
    return "<h2>What was read</h2>" + _facts(rows)


def _model(export: Export) -> str:
    card, source = export.card, export.provenance
    rows = {
        "model": card.name,
        "sha256 of its tensors": source["model_hash"] or "not known",
        "licence of its weights": card.weights_licence,
        "image file": source["file"] or "none",
        "software": source["software"],
        "written": source["time"],
    }
    return f"<h2>Model</h2><pre>{escape(card.summary())}</pre>" + _facts(rows)


def _facts(rows: dict[str, str]) -> str:
    return (
        "<dl>"
        + "".join(f"<dt>{escape(k)}</dt><dd>{escape(v)}</dd>" for k, v in rows.items())
        + "</dl>"
    )


def _figure(source: str, first: str, second: str) -> str:
    alt = escape(f"{first}: {second}", quote=True)
    return (
        f"<figure><img src='{source}' alt='{alt}'><figcaption>{escape(first)}<br>"
        f"{escape(second)}</figcaption></figure>"
    )


def _swatch(colour: str) -> str:
    return f"<span class='swatch' style='background:{colour}'></span>"


def _said(name: str) -> str:
    return name.replace("_", " ")


def _table(head: Sequence[str], rows: Iterable[Sequence[str]]) -> str:
    first = "".join(f"<th>{cell}</th>" for cell in head)
    rest = "".join("<tr>" + "".join(f"<td>{c}</td>" for c in row) + "</tr>" for row in rows)
    return f"<table><tr>{first}</tr>{rest}</table>"
