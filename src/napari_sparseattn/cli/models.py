"""Models on the command line: listed, given away, shared; and the cache they are kept in."""

from __future__ import annotations

import json
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from .output import refuse_unused

if TYPE_CHECKING:
    from ..cache import Cache
    from ..card import Card

__all__ = ["cache", "encoders", "export_model", "models", "push"]

_JSON = Annotated[bool, typer.Option("--json", help="Print JSON for machines.")]
_MODEL = Annotated[
    str, typer.Argument(help="Name of a model, its file, or hf://owner/name@COMMIT.")
]


def models(
    names: Annotated[
        list[str] | None,
        typer.Argument(help="Only these: names, files, or hf://owner/name@COMMIT."),
    ] = None,
    as_json: _JSON = False,
) -> None:
    """List the models found, with their cards."""
    from ..bundle import BundleError, find_bundles, load_bundle, read_card, user_models_folder

    cards: dict[str, Card] = {}
    broken: dict[str, str] = {}
    if names:
        cards = {name: load_bundle(name).card for name in names}
    else:
        for name, path in find_bundles().items():
            try:
                cards[name] = read_card(path)
            except BundleError as error:
                broken[name] = str(error)
    if as_json:
        found = {name: card.model_dump(mode="json") for name, card in cards.items()}
        print(json.dumps({"models": found, "broken": broken}))
        return
    for card in cards.values():
        print(card.summary(), end="\n\n")
    for name, reason in broken.items():
        print(f"{name}: cannot be used. {reason}\n")
    if not names:
        print(f"Your own models are looked for in {user_models_folder()}")


def encoders(as_json: _JSON = False) -> None:
    """List patch encoders by name, with their scale, licence and revision."""
    import dataclasses

    from ..features.registry import ENCODERS

    if as_json:
        print(json.dumps([dataclasses.asdict(entry) for entry in ENCODERS.values()]))
        return
    print("tissue-mobilenet: part of this plugin, 1 µm per pixel, tuned on real H&E")
    print("stain-texture: part of this plugin, 0.5 µm per pixel, nothing was trained for it")
    for entry in ENCODERS.values():
        scale = "µm/px: see its page" if entry.pixel_size is None else f"{entry.pixel_size:g} µm/px"
        pinned = f"revision {entry.revision[:8]}" if entry.revision else "revision not pinned"
        print(f"{entry.name}: {entry.source}, {entry.size} px, {scale}, {pinned}")
        print(f"  of {entry.of}; licence: {entry.licence}")
        if entry.refused:
            print(f"  not run here: {entry.refused}")


def export_model(
    model: _MODEL,
    to: Annotated[str, typer.Option(help="onnx, bioimageio or safetensors.")],
    out: Annotated[Path, typer.Option(help="The file to write: .onnx, .zip or .safetensors.")],
    author: Annotated[
        list[str] | None, typer.Option(help="Who made the model, for bioimageio; may be repeated.")
    ] = None,
    as_json: _JSON = False,
) -> None:
    """Write a model for other programs; it is tried with theirs before the file is kept."""
    from ..bundle import load_bundle
    from ..export.model_formats import export_model as export

    refuse_unused("for --to bioimageio", author=bool(author) and to != "bioimageio")
    bundle = load_bundle(model)
    path = export(bundle, out, to, authors=author or ())
    size = path.stat().st_size
    if as_json:
        print(json.dumps({"model": bundle.card.name, "to": to, "file": str(path), "bytes": size}))
        return
    print(f"{bundle.card.name} as {to}, {size / 1e6:.1f} MB: {path}")


def push(
    model: _MODEL,
    repo: Annotated[str, typer.Argument(help="The Hugging Face repository, owner/name.")],
    private: Annotated[
        bool, typer.Option("--private", help="If the repository is made, only you can see it.")
    ] = False,
    message: Annotated[str, typer.Option(help="Of the commit.")] = "",
    as_json: _JSON = False,
) -> None:
    """Share a model in a Hugging Face repository; log in first with `hf auth login`."""
    from ..bundle import load_bundle
    from ..export.hub_push import push_bundle

    bundle = load_bundle(model)
    address = push_bundle(bundle, repo, private=private, message=message)
    if as_json:
        print(json.dumps({"model": bundle.card.name, "address": str(address)}))
        return
    print(f"{bundle.card.name} is there. Others load exactly this model as\n  {address}")


def cache(
    action: Annotated[str, typer.Argument(help="show, trim or clear.")] = "show",
    as_json: _JSON = False,
) -> None:
    """Show or clear what can be made or fetched again: features, fetched models, samples.

    `trim` removes what was used longest ago until the rest is within the size
    limit; `clear` removes all. What a running program uses stays.
    """
    from ..cache import Cache

    if action not in ("show", "trim", "clear"):
        raise ValueError(f"There is no action '{action}'; choose show, trim or clear.")
    kept, removed = Cache.default(), []
    if action != "show":
        removed = kept.trim(0 if action == "clear" else None)
    freed = sum(entry.size for entry in removed)
    facts = _facts(kept) | {"removed": len(removed), "freed_bytes": freed}
    if as_json:
        print(json.dumps(facts))
        return
    if removed:
        print(f"Removed {len(removed)}, {freed / 1e6:.1f} MB.")
    print(f"{facts['folder']}: {facts['bytes'] / 1e6:.1f} MB of {facts['limit_bytes'] / 1e9:g} GB")
    for kind, row in facts["kinds"].items():
        print(f"  {kind:9} {row['entries']:5d}  {row['bytes'] / 1e6:9.1f} MB")


def _facts(kept: Cache) -> dict[str, Any]:
    entries = kept.entries()
    kinds = {}
    for kind in ("features", "hub", "overviews", "samples"):
        sizes = [entry.size for entry in entries if entry.kind == kind]
        kinds[kind] = {"entries": len(sizes), "bytes": sum(sizes)}
    total = sum(entry.size for entry in entries)
    return {
        "folder": str(kept.folder),
        "limit_bytes": kept.limit,
        "bytes": total,
        "kinds": kinds,
    }
