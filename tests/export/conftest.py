"""Each kind of result with its image and card."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from napari_sparseattn.export.formats import write_results

from . import results as made

KINDS: dict[str, tuple[Any, ...]] = {
    "cells": (made.cells, made.field, made.cell_card),
    "frames": (
        lambda: {0: made.cells(), 2: made.cells(labelled=False)},
        lambda: made.field(3),
        made.cell_card,
    ),
    "field": (made.traversed, made.field_image, made.field_card),
    "slide": (made.slide, made.slide_image, made.slide_card),
    "regions": (
        lambda: made.slide(segments=True),
        made.slide_image,
        lambda: made.slide_card(segments=True),
    ),
}

Write = Callable[..., Path]


@pytest.fixture
def write(tmp_path: Path) -> Write:
    """Write a kind of result, or a given one, in one format; returns the first file."""

    def done(kind: str, name: str, result: Any = None, **options: Any) -> Path:
        make, image, card = KINDS[kind]
        shown = options.pop("image", None) or image()
        found = make() if result is None else result
        return write_results(found, shown, tmp_path, kind, [name], card(), **options)[0]

    return done
