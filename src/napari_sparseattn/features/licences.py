"""What may be done with an encoder, to be read before it is used."""

from __future__ import annotations

import importlib.util
import re
from pathlib import Path

from .registry import find_entry

__all__ = ["UNKNOWN_LICENCE", "encoder_licence"]

UNKNOWN_LICENCE = "unknown: ask whoever made it before you use it"
_EMBEDDED = "BSD-3-Clause, part of napari-sparseattn: free to use, commercially too"
_TISSUE = (
    "Apache-2.0, part of napari-sparseattn: free to use, commercially too; tuned from ImageNet's "
    "MobileNetV2 (Apache-2.0) on PatchCamelyon (CC0) and EBHI-Seg (CC BY 4.0: cite Shi et al. "
    "2023, doi 10.6084/m9.figshare.21540159)"
)
_GATED = "gated, non-commercial research only ({}): ask for access at its page and read the terms"
#: By name on the hub, in lower case; from the model cards.
_KNOWN = {
    "microsoft/resnet-50": "Apache-2.0; trained on ImageNet",
    "timm/resnet50": "Apache-2.0; trained on ImageNet",
    "resnet50": "Apache-2.0; trained on ImageNet",
    "bioptimus/h-optimus-0": "Apache-2.0",
    "paige-ai/virchow": "Apache-2.0",
    "paige-ai/virchow2": _GATED.format("CC BY-NC-ND 4.0"),
    "mahmoodlab/uni": _GATED.format("CC BY-NC-ND 4.0"),
    "mahmoodlab/uni2-h": _GATED.format("CC BY-NC-ND 4.0"),
    "mahmoodlab/conch": _GATED.format("CC BY-NC-ND 4.0"),
    "mahmoodlab/conchv1_5": _GATED.format("CC BY-NC-ND 4.0"),
    "owkin/phikon": "Owkin non-commercial licence: research only",
    "owkin/phikon-v2": "Owkin non-commercial licence: research only",
}
_MOST_README = 100_000
_TIMEOUT = 5.0


def encoder_licence(name: str) -> str:
    """Return what may be done with an encoder; its weights are not loaded.

    Parameters
    ----------
    name : str
        As for `load_encoder`.

    Returns
    -------
    str
        From a folder's README.md or LICENSE; for names, from a table of known
        ones, else from the hub where it can be reached; else `UNKNOWN_LICENCE`.
    """
    kind, _, which = name.partition(":")
    if kind == "stain-texture":
        return _EMBEDDED
    if kind == "tissue-mobilenet":
        return _TISSUE
    if (entry := find_entry(name)) is not None:
        return entry.licence
    if kind == "transformers" and Path(which).is_dir():
        return _of_folder(Path(which)) or UNKNOWN_LICENCE
    which = which.removeprefix("hf-hub:")
    known = _KNOWN.get(which.lower()) or _KNOWN.get(which.lower().partition(".")[0])
    if known:
        return known
    if kind == "timm" and "/" not in which:
        which = f"timm/{which}"
    return _of_hub(which) or UNKNOWN_LICENCE


def _of_folder(folder: Path) -> str | None:
    readme = _text(folder / "README.md")
    # The front matter that the hub's cards begin with.
    front = re.match(r"---\s*\n(.*?)\n---", readme, re.DOTALL)
    stated = (
        re.search(r"^license(?:_name)?:\s*(.+)$", front.group(1), re.MULTILINE) if front else None
    )
    if stated:
        return f"{_plain(stated.group(1))} (README.md)"
    for name in ("LICENSE", "LICENSE.txt", "LICENSE.md", "LICENCE"):
        lines = [line.strip() for line in _text(folder / name).splitlines() if line.strip()]
        if lines:
            return f"{_plain(lines[0])} ({name})"
    return None


def _text(file: Path) -> str:
    try:
        with file.open(encoding="utf-8", errors="replace") as opened:
            return opened.read(_MOST_README)
    except OSError:
        return ""


def _plain(text: str) -> str:
    return "".join(c for c in text.strip().strip("'\"") if c.isprintable())[:120]


def _of_hub(which: str) -> str | None:
    if not re.fullmatch(r"[\w.-]+/[\w.-]+", which) or not importlib.util.find_spec(
        "huggingface_hub"
    ):
        return None
    from huggingface_hub import HfApi
    from huggingface_hub.errors import HfHubHTTPError, OfflineModeIsEnabled

    try:
        info = HfApi().model_info(which, timeout=_TIMEOUT)
    except (HfHubHTTPError, OfflineModeIsEnabled, OSError, ValueError):
        return None
    card = info.card_data
    stated = (card.get("license_name") or card.get("license")) if card else None
    gated = "; gated: ask for access at its page" if getattr(info, "gated", False) else ""
    return f"{_plain(str(stated))}{gated}" if stated else None
