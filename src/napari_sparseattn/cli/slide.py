"""Whole slides on the command line: tissue, features, and where a SPAN attended."""

from __future__ import annotations

import json
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from ..progress import Progress
from .progress import progress_bar
from .rows import Row, free_stem, report_rows, rows_of

if TYPE_CHECKING:
    from ..bundle import Bundle
    from ..inference.slides import SlidePrediction

__all__ = ["slide"]

_PIXEL_SIZE = typer.Option(help="µm per pixel, where the file does not say.", min=1e-4, max=1e3)
_UNKNOWN_SCALE = typer.Option(
    "--allow-unknown-scale",
    "--uncalibrated",
    help="Go on without µm per pixel, and mark the result.",
)
_FEATURES = typer.Option(help="HDF5 of features made before: ours, CLAM, TRIDENT or STAMP.")
_SNAP = typer.Option(
    "--snap", help="Move those features' coordinates onto a grid, and say by how much."
)
_FORMATS = typer.Option(help="More files of each, e.g. geojson,ome-zarr,html.")


def slide(
    slides: Annotated[list[Path], typer.Argument(help="SVS, NDPI, OME-TIFF, OME-Zarr, DICOM, …")],
    model: Annotated[str, typer.Option(help="Name of a SPAN, or its file.")],
    out: Annotated[Path, typer.Option(help="Folder for the results.")],
    pixel_size: Annotated[float | None, _PIXEL_SIZE] = None,
    allow_unknown_scale: Annotated[bool, _UNKNOWN_SCALE] = False,
    features: Annotated[Path | None, _FEATURES] = None,
    snap: Annotated[bool, _SNAP] = False,
    formats: Annotated[str | None, _FORMATS] = None,
    device: Annotated[str, typer.Option(help="auto, cpu, cuda or mps.")] = "auto",
    as_json: Annotated[bool, typer.Option("--json", help="Print JSON for machines.")] = False,
) -> None:
    """Classify or segment slides; write JSON, a table of patches and a picture of each.

    Features are kept in OUT/features: a run that was stopped goes on where it
    was. A slide that fails is named and does not stop the others.
    """
    from ..bundle import load_bundle
    from ..export.formats import parse_formats

    more = parse_formats(formats, "slide")
    if features is not None and len(slides) > 1:
        raise ValueError("--features are those of one slide; give one slide with them.")
    bundle = load_bundle(model)
    if not bundle.card.takes_slides:
        raise ValueError(
            f"'{bundle.card.name}' is no SPAN. For a TNet use `napari-sparseattn classify --whole`."
        )
    taken: set[str] = set()

    def work(index: int) -> Row:
        path = slides[index]
        target = out / free_stem(path.stem, taken)
        with progress_bar(path.name, quiet=as_json) as progress:
            return classify_one(
                path,
                bundle,
                target,
                pixel_size=pixel_size,
                allow_unknown_scale=allow_unknown_scale,
                features=features,
                snap=snap,
                formats=more,
                device=device,
                progress=progress,
            )

    rows = rows_of([str(path) for path in slides], work)
    report_rows(rows, as_json, _about)


def classify_one(
    path: Path,
    bundle: Bundle,
    target: Path,
    *,
    pixel_size: float | None = None,
    allow_unknown_scale: bool = False,
    features: Path | None = None,
    snap: bool = False,
    formats: Sequence[str] = (),
    device: str = "auto",
    progress: Progress | None = None,
) -> dict[str, Any]:
    """Classify one slide and write its files; returns what was found, for a report."""
    from ..export.formats import write_results
    from ..export.slide_map import write_attention_png, write_patches_csv
    from ..features.files import read_features
    from ..files import replacing
    from ..images.slides.opening import open_slide
    from ..inference.slides import classify_slide

    given = None if features is None else read_features(features, snap=snap)
    with open_slide(path, pixel_size=pixel_size) as pyramid:
        found = classify_slide(
            pyramid,
            bundle,
            features=given,
            store=target.parent / "features",
            allow_unknown_scale=allow_unknown_scale,
            device=device,
            progress=progress,
        )
        picture = target.with_name(f"{target.name}_attention.png")
        write_attention_png(pyramid, found, picture)
        more = write_results(found, pyramid, target.parent, target.name, formats, bundle.card)
    table, written = (
        target.with_name(f"{target.name}_patches.csv"),
        target.with_name(f"{target.name}.json"),
    )
    write_patches_csv(found, table)
    row = _row(path, found)
    content = row | {
        "model": f"{bundle.card.name}@{bundle.hash[:12]}",
        "encoder": bundle.card.encoder.name if bundle.card.encoder else "",
        "attention": found.attention.to_dict(),
    }
    with replacing(written) as temporary:
        temporary.write_text(json.dumps(content), encoding="utf-8")
    kept = found.features.path if found.features is not None else None
    if found.features is not None:
        found.features.close()
    return row | {
        "json": str(written),
        "csv": str(table),
        "picture": str(picture),
        "files": [str(path) for path in more],
        "features": None if kept is None else str(kept),
    }


def _row(path: Path, found: SlidePrediction) -> dict[str, Any]:
    reading, tissue = found.reading, found.tissue
    values = dict(zip(found.class_names, map(float, found.probabilities), strict=True))
    result: dict[str, Any] = (
        {"shares": values}
        if found.segments
        else {"class": found.label, "confidence": found.confidence, "probabilities": values}
    )
    return (
        {"image": str(path)}
        | result
        | {
            "patches": len(found.attention),
            "tissue_share": None if tissue is None else tissue.share,
            "tiles": 0 if reading is None else reading.n_decoded,
            "bytes_read": 0 if reading is None else reading.bytes_compressed,
            "unreadable_tiles": 0 if reading is None else reading.n_failed,
            "share_read": 0.0 if reading is None else reading.fraction_read,
            "stages": {stage.name: stage.seconds for stage in found.stages},
            "seconds": found.ledger.seconds,
            "device": found.ledger.device,
            "scale_known": found.scale_known,
            "notes": list(found.ledger.notes),
        }
    )


def _about(row: Row) -> Iterator[str]:
    if "shares" in row:
        shares = ", ".join(f"{name} {100 * p:.1f} %" for name, p in row["shares"].items())
        yield f"{row['image']}: {shares} of the patches"
    else:
        yield f"{row['image']}: {row['class']} ({100 * row['confidence']:.1f} %)"
    stages = ", ".join(f"{name} {seconds:.1f} s" for name, seconds in row["stages"].items())
    yield f"  {row['patches']} patches; {stages}; on {row['device']}"
    yield (
        f"  read {row['tiles']} tiles, {row['bytes_read'] / 1e6:.1f} MB, "
        f"{100 * row['share_read']:.3g} % of the full resolution"
    )
    if not row["scale_known"]:
        yield "  scale not known: do not rely on it"
    yield from (f"  {note}" for note in row["notes"])
    yield from (f"  {row[key]}" for key in ("json", "csv", "picture"))
    yield from (f"  {path}" for path in row["files"])
