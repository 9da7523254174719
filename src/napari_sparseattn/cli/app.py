"""The program ``napari-sparseattn``: its verbs, and its errors in one line."""

from __future__ import annotations

import os
import sys
from pathlib import Path
from typing import Annotated

import typer

from ..crash import watch_for_crashes
from .annotations import export_app, import_app
from .batch import batch
from .classify import FORMATS, classify, evaluate, slide
from .cross_validate import cross_validate
from .doctor import doctor, print_version
from .evidence import evidence
from .hologram import hologram
from .mcp import mcp
from .models import cache, encoders, export_model, models, push
from .options import AsJson, Out
from .output import describe_row, report_rows, row_of
from .raters import agreement, merge
from .train import fine_tune, train

__all__ = ["app", "main"]

app = typer.Typer(
    name="napari-sparseattn",
    help="See where a network looked: classify cells from a few of their pixels.",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
)


def main() -> None:
    """Run the command line; errors of the user's are one line, exit status 1."""
    watch_for_crashes()
    try:
        app()
    except (ValueError, OSError, MemoryError, TypeError) as error:
        print(f"Error: {error}", file=sys.stderr)
        raise SystemExit(1) from error


@app.callback()
def begin(
    version: Annotated[
        bool,
        typer.Option("--version", help="Print the version.", callback=print_version, is_eager=True),
    ] = False,
) -> None:
    """See where a network looked: classify cells from a few of their pixels."""


@app.command()
def demo(
    out: Out = Path("napari-sparseattn-demo"),
    window: Annotated[
        bool | None, typer.Option("--window/--no-window", help="By default, if there is a display.")
    ] = None,
    as_json: AsJson = False,
) -> None:
    """Run the main job on a sample: in a window or, without a display, to files."""
    if window is None:
        window = _has_display() and _has_napari()
    if window:
        _open_demo()
        return
    from ..bundle import load_bundle
    from ..process.options import ProcessOptions
    from ..process.process import process_image
    from ..process.result import read_identity
    from ..simulate import smear

    options = ProcessOptions(formats=FORMATS)
    with process_image(smear(), load_bundle("blood-cells"), options) as result:
        # Of an earlier version: its model was another one.
        own = read_identity(out / "smear.json").get("input") == result.identity["input"]
        row = row_of("simulated smear", result, result.write(out, "smear", overwrite=own))
    report_rows([row], as_json, describe_row)


app.command()(classify)
app.command()(evaluate)
app.command()(models)
app.command()(encoders)
app.command("export-model")(export_model)
app.command()(push)
app.command()(cache)
app.command("cross-validate")(cross_validate)
app.command()(doctor)
app.command("fine-tune")(fine_tune)
app.command()(batch)
app.command()(evidence)
app.command()(hologram)
app.command()(mcp)
app.command()(merge)
app.command()(agreement)
app.command()(slide)
app.command()(train)
app.add_typer(export_app, name="export")
app.add_typer(import_app, name="import")


def _has_display() -> bool:
    if sys.platform in ("darwin", "win32"):
        return not os.environ.get("SSH_CONNECTION")
    return bool(os.environ.get("DISPLAY") or os.environ.get("WAYLAND_DISPLAY"))


def _has_napari() -> bool:
    from importlib.util import find_spec

    return find_spec("napari") is not None


def _open_demo() -> None:
    if not _has_napari():
        raise ValueError(
            'The window needs napari: pip install "napari-sparseattn[all]", or use --no-window.'
        )
    import napari
    from npe2 import PluginManager

    viewer = napari.Viewer()
    PluginManager.instance().commands.execute("napari-sparseattn.demo", (viewer,))
    napari.run()


if __name__ == "__main__":
    main()
