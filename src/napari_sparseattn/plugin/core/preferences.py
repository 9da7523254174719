"""What the user chose under Preferences → Sparse attention."""

from __future__ import annotations

import dataclasses
import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from ...cache import Cache
from .layers import OverlayChoice

__all__ = ["Preferences", "keep_rater", "keep_section", "preferences"]

_PLUGIN = "napari-sparseattn"


@dataclasses.dataclass(frozen=True)
class Preferences:
    """The user's choices.

    Parameters
    ----------
    device : str
        As `inference.device.choose_device` takes it.
    precision : {"float32", "bfloat16"}
        See `inference.device.computing`.
    cache : Cache
        Folder and size limit.
    overlays : OverlayChoice
        Shown when a dock opens.
    rater : str
        Whose name annotations get; empty for nobody's.
    sections : mapping of str to bool
        Whether each section of the dock begins open; as it was left.
    """

    device: str = "auto"
    precision: str = "float32"
    cache: Cache = dataclasses.field(default_factory=Cache.default)
    overlays: OverlayChoice = dataclasses.field(default_factory=OverlayChoice)
    rater: str = ""
    sections: Mapping[str, bool] = dataclasses.field(default_factory=dict)


def preferences() -> Preferences:
    """Return what is chosen now.

    Read through napari, which keeps it; without it, or where napari does not
    know this plugin, the defaults. What the environment says of the cache
    (`Cache.default`) counts for more than what is chosen.
    """
    chosen = _settings()
    if chosen is None:
        return Preferences()
    computing = chosen.sparseattn_computing
    return Preferences(
        device=computing.device,
        precision=computing.precision,
        cache=_cache(chosen.sparseattn_storage),
        overlays=OverlayChoice(**chosen.sparseattn_overlays.model_dump()),
        rater=" ".join(chosen.sparseattn_annotating.rater.split()),
        sections=chosen.sparseattn_sections.model_dump(),
    )


def keep_section(name: str, opened: bool) -> None:
    """Remember that the user has opened or folded a section; nothing where napari cannot."""
    chosen = _settings()
    if chosen is not None and hasattr(chosen.sparseattn_sections, name):
        setattr(chosen.sparseattn_sections, name, opened)


def keep_rater(name: str) -> None:
    """Remember who annotates; nothing where napari cannot."""
    chosen = _settings()
    if chosen is not None and hasattr(chosen, "sparseattn_annotating"):
        chosen.sparseattn_annotating.rater = name


def _settings() -> Any:
    try:
        from napari.settings import get_plugin_settings
    except ImportError:
        # napari before 0.9 has no settings of plugins.
        return None
    try:
        return get_plugin_settings(_PLUGIN)
    except KeyError:
        return None


def _cache(chosen: Any) -> Cache:
    default = Cache.default()
    folder, limit = default.folder, default.limit
    if chosen.folder.strip() and not os.environ.get("NAPARI_SPARSEATTN_CACHE"):
        folder = Path(chosen.folder.strip()).expanduser()
    if not os.environ.get("NAPARI_SPARSEATTN_CACHE_GB"):
        limit = round(chosen.size_gb * 1e9)
    return Cache(folder, limit)
