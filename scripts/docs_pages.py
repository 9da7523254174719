"""Pages of the documentation that are made from the program itself.

mkdocs runs this as a hook: the Python reference from the public names, the
command line from its commands, the model cards from the bundled models. So
none of them can say what the program does not.
"""

from __future__ import annotations

import ast
from collections.abc import Iterator
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parent.parent
PACKAGE = "napari_sparseattn"
#: The rooms in the order in which a picture goes through them.
ROOMS = {
    "images": "Images: open, find cells, reconstruct holograms",
    "features": "Features of patches",
    "bundle": "Models",
    "card": "Model cards",
    "inference": "Classify",
    "training": "Annotate and train",
    "process": "From a file to its results",
    "batch": "Many files",
    "export": "Export",
    "evidence": "Evidence",
}
#: Public beyond what the package's own name imports.
FURTHER = (
    "evidence.kinds.PixelSelection",
    "evidence.pyramid_attention.PyramidAttention",
    "evidence.traversal.Traversal",
    "images.tissue.mask.find_tissue",
    "models.span.official.load_official",
    "training.data.annotations.ImageAnnotations",
    "training.tune.report.FineTuneReport",
    "training.data.suggest.suggest",
)


def on_files(files: Any, config: Any) -> Any:
    """Add the pages; mkdocs calls this."""
    from mkdocs.structure.files import File

    pages = {
        "reference/python.md": python_page(),
        "reference/command_line.md": command_line_page(),
        "model_cards.md": cards_page(),
    }
    for uri, text in pages.items():
        files.append(File.generated(config, uri, content=text))
    return files


def public_names() -> Iterator[str]:
    """Yield ``module.name`` of each public name, without the package's."""
    for room in ("", "training"):
        yield from _names_in(room)
    yield from FURTHER


def _names_in(room: str) -> list[str]:
    """Return ``module.name`` of what the stub of a room imports."""
    stub = ast.parse((ROOT / "src" / PACKAGE / room / "__init__.pyi").read_text(encoding="utf-8"))
    start = f"{room}." if room else ""
    return [
        f"{start}{node.module}.{alias.name}"
        for node in stub.body
        # Without a module it names rooms, such as `simulate`.
        if isinstance(node, ast.ImportFrom) and node.level == 1 and node.module
        for alias in node.names
    ]


def python_page() -> str:
    """Return the reference of the public names, room by room."""
    names = list(dict.fromkeys(public_names()))
    text = [
        "# Python",
        (
            "None of these needs a display, napari or Qt. Those marked ◆ are imported from the "
            f"package itself, `import {PACKAGE} as nsa`; the others from the module that is named. "
            "`nsa.simulate` draws simulated images."
        ),
    ]
    rooms = {**ROOMS, "models": "Networks"}
    for room, title in rooms.items():
        found = [name for name in names if name.split(".")[0] == room]
        if found:
            text.append(f"## {title}")
            text += [_entry(name) for name in found]
    left = [name for name in names if name.split(".")[0] not in rooms]
    if left:
        raise ValueError(f"public names in no room of the reference: {left}")
    return "\n\n".join(text)


def _entry(name: str) -> str:
    module, _, attribute = name.rpartition(".")
    place = f"◆ `nsa.{attribute}`"
    if name not in _names_in(""):
        place = f"◆ `nsa.training.{attribute}`"
    if name in FURTHER:
        place = f"`from {PACKAGE}.{module} import {attribute}`"
    return f"{place}\n\n::: {PACKAGE}.{name}"


def command_line_page() -> str:
    """Return the reference of the command line."""
    import click
    from typer.cli import get_docs_for_click
    from typer.main import get_command

    from napari_sparseattn.cli.app import app

    command = get_command(app)
    name = "napari-sparseattn"
    context = click.Context(command, info_name=name)
    return str(get_docs_for_click(obj=command, ctx=context, name=name, title="Command line"))


def cards_page() -> str:
    """Return the cards of the bundled models."""
    from napari_sparseattn.bundle import read_card

    parts = [
        "# Model cards",
        (
            "What each bundled model was trained on, how it was tested, and what it may be used "
            "for. `napari-sparseattn models` prints the same, and *Card* in the dock shows it."
        ),
    ]
    for path in sorted((ROOT / "src" / PACKAGE / "weights").glob("*.safetensors")):
        card = read_card(path)
        lines = card.summary().splitlines()
        rows = [
            ("Kind", card.kind),
            ("Image", f"{card.modality}, {', '.join(card.channels)}"),
            ("Licence of the weights", card.weights_licence),
            ("Recipe", f"`{card.training.recipe}`"),
            ("Images for training / validation / test", _counts(card.training)),
            ("File", f"{path.stat().st_size / 1e6:.2f} MB, safetensors"),
        ]
        parts += [f"## {card.name}", *lines[:1]]
        parts.append("\n".join(f"- {line}" for line in lines[1:]))
        parts.append("| | |\n|---|---|\n" + "\n".join(f"| {a} | {b} |" for a, b in rows))
        parts.append(_per_class(card.metrics))
    return "\n\n".join(part for part in parts if part)


def _counts(training: Any) -> str:
    return f"{training.n_train} / {training.n_validation} / {training.n_test}"


def _per_class(metrics: dict[str, Any]) -> str:
    per_class = metrics.get("per_class")
    if not isinstance(per_class, dict) or not per_class:
        return ""
    columns = list(next(iter(per_class.values())))
    head = "| class | " + " | ".join(columns) + " |\n" + "|---" * (len(columns) + 1) + "|\n"
    rows = (
        f"| {name} | " + " | ".join(_number(values[c]) for c in columns) + " |"
        for name, values in per_class.items()
    )
    return head + "\n".join(rows)


def _number(value: Any) -> str:
    return f"{value:.3f}" if isinstance(value, float) else str(value)
