"""Whole fields and slides on the command line: what a TNet looked at, as JSON."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from ..bundle import Bundle
    from ..inference.fields import FieldPrediction
from ..progress import Progress

__all__ = ["classify_whole", "parse_locations"]


def parse_locations(text: str | None) -> tuple[int, ...] | None:
    """Read crops per level from text such as ``"4,2"``.

    Raises
    ------
    ValueError
        If a part is no whole number above 0.
    """
    if text is None:
        return None
    parts = [part.strip() for part in text.split(",")]
    if not all(part.isdecimal() and int(part) > 0 for part in parts):
        raise ValueError(f"--locations takes whole numbers such as 4,2 - got '{text}'")
    return tuple(map(int, parts))


def classify_whole(
    path: Path,
    bundle: Bundle,
    target: Path,
    device: str,
    *,
    pixel_size: float | None = None,
    locations: Sequence[int] | None = None,
    formats: Sequence[str] = (),
    progress: Progress | None = None,
) -> dict[str, Any]:
    """Classify an image or slide as a whole; write the way to its class as JSON.

    Parameters
    ----------
    path : pathlib.Path
        An image or slide.
    bundle : Bundle
        A TNet.
    target : pathlib.Path
        The file to write, without its ending.
    device : str
        See `choose_device`.
    pixel_size : float, optional
        µm per pixel at full resolution.
    locations : sequence of int, optional
        Crops looked at inside each crop, per level.
    formats : sequence of str
        More files to write; see `export.formats.FORMATS`.
    progress : callable, optional
        Called with "crops", those read so far and 0.

    Returns
    -------
    dict
        What was found and read, for a report.
    """
    from ..export.formats import write_results
    from ..files import replacing
    from ..images.opening import open_image
    from ..inference.fields import classify_field

    metadata = {} if pixel_size is None else {"pixel_size": pixel_size}
    image = open_image(path, **metadata)
    found = classify_field(image, bundle, locations, device, progress=progress)
    written = target.with_name(f"{target.name}.json")
    row = _row(path, found)
    content = row | {
        "model": f"{bundle.card.name}@{bundle.hash[:12]}",
        "traversal": found.traversal.to_dict(),
    }
    with replacing(written) as temporary:
        temporary.write_text(json.dumps(content), encoding="utf-8")
    more = write_results(found, image, target.parent, target.name, formats, bundle.card)
    return row | {"json": str(written), "files": [str(path) for path in more]}


def _row(path: Path, found: FieldPrediction) -> dict[str, Any]:
    reading = found.reading
    return {
        "image": str(path),
        "class": found.label,
        "confidence": found.confidence,
        "probabilities": dict(
            zip(found.class_names, (float(p) for p in found.probabilities), strict=True)
        ),
        "crops": len(found.traversal),
        "tiles": 0 if reading is None else reading.n_decoded,
        "bytes_read": 0 if reading is None else reading.bytes_compressed,
        "unreadable_tiles": 0 if reading is None else reading.n_failed,
        "share_read": 0.0 if reading is None else reading.fraction_read,
        "seconds": found.ledger.seconds,
        "device": found.ledger.device,
        "scale_known": found.scale_known,
        "notes": list(found.ledger.notes),
    }
