"""The Python lines, and the command, that give a result again."""

from __future__ import annotations

import dataclasses
import os
import shlex
import subprocess
from pathlib import Path, PurePath
from typing import Any

import numpy as np
import numpy.typing as npt

from ..images.holograms.settings import HologramSettings
from .options import ProcessOptions

__all__ = ["Recipe", "write_command", "write_python"]

_PROGRAM = "napari-sparseattn"
#: Results of the command; a folder below where it is run.
_OUT = "results"
#: Options of each verb that take what the option of the same name in Python is.
_VALUES = {
    "classify": (
        "pixel_size", "axes", "image", "unit", "modality", "frame", "slice", "channel", "cells",
    ),
    "slide": ("pixel_size", "features"),
    "hologram": ("kind", "background"),
}  # fmt: skip
_HOLOGRAM_FLAGS = ("wavelength", "pixel_size", "medium_index", "focus", "autofocus")


@dataclasses.dataclass(frozen=True, eq=False)
class Recipe:
    """What gave a result.

    Parameters
    ----------
    title : str
        What the result is, in words, e.g. "4 cells of smear.tif".
    path : pathlib.Path
        The file; or the one that is to be saved first, as `before` says.
    options : ProcessOptions
        How it was worked on; with a task other than ``"auto"``.
    model : str
        Its name or file; empty where a recording was only reconstructed.
    model_hash : str
        sha256 of its tensors.
    frame : int or None
        Of a recording that was reconstructed: the frame whose cells these are.
    tissue : tuple of numpy.ndarray
        Of a slide: outlines (n, 2) of the tissue, where somebody drew them, (y, x).
    foci : bool
        Of a SPAN that finds tissue: whether its foci are wanted too, as ``foci``.
    before : tuple of str
        Sentences on what has to be done first.
    """

    title: str
    path: Path
    options: ProcessOptions
    model: str = ""
    model_hash: str = ""
    frame: int | None = None
    tissue: tuple[npt.NDArray[np.float64], ...] = ()
    foci: bool = False
    before: tuple[str, ...] = ()


def write_python(recipe: Recipe) -> str:
    """Return a script in Python that gives the table again, by the name ``table``.

    Of a recording that was only reconstructed it is the maps, ``opd``.
    """
    if not recipe.model:
        lines, imports = _reconstruction(recipe), ["HologramSettings", "open_hologram"]
        imports.append("reconstruct")
    elif recipe.frame is not None:
        lines, imports = _frame_of_recording(recipe), [
            "HologramSettings", "ProcessOptions", "iter_recording", "load_bundle", "open_hologram",
            "process_image",
        ]  # fmt: skip
    elif recipe.tissue:
        lines, imports = _drawn_tissue(recipe), [
            "ProcessOptions", "load_bundle", "open_slide", "process_image",
        ]  # fmt: skip
    else:
        lines, imports = _file(recipe), ["ProcessOptions", "load_bundle", "process_file"]
        if recipe.options.settings is not None:
            imports.append("HologramSettings")
    names = ", ".join(sorted(imports, key=lambda name: (not name[0].isupper(), name)))
    head = _comments(recipe)
    own = [line for line in lines if line.startswith(("import ", "from "))]
    rest = [line for line in lines if line not in own]
    own = sorted({*own, *(["from pathlib import Path"] if "Path(" in "\n".join(rest) else [])})
    start = [*own, *([""] if own else []), f"from napari_sparseattn import {names}"]
    return "\n".join([*head, *start, "", *rest]) + "\n"


def write_command(recipe: Recipe) -> str:
    """Return the command that writes the table again, below its comments."""
    words = _command(recipe)
    text = subprocess.list2cmdline(words) if os.name == "nt" else shlex.join(words)
    return "\n".join([*_comments(recipe), *_about_command(recipe), text]) + "\n"


def _comments(recipe: Recipe) -> list[str]:
    from .. import __version__

    model = f", by {_model_name(recipe)} (sha256 {recipe.model_hash[:12]})" if recipe.model else ""
    lines = [f"{recipe.title}{model}; napari-sparseattn {__version__}."]
    lines += [f"First: {each}" for each in recipe.before]
    return [f"# {_one_line(line)}" for line in lines]


def _about_command(recipe: Recipe) -> list[str]:
    """Say what the command does otherwise than the window did."""
    said = []
    options = recipe.options
    if recipe.frame is not None:
        said.append(f"The rows of this result are those with frame = {recipe.frame}.")
        lacking = [name for name in ("classes", "cells", "at") if getattr(options, name)]
        if lacking:
            said.append(
                f"The command classifies all cells that it finds ({', '.join(lacking)} cannot be "
                "given to it): take the Python lines."
            )
    if recipe.tissue:
        said.append("The tissue was drawn, and the command finds its own: take the Python lines.")
    return [f"# {each}" for each in said]


def _model_name(recipe: Recipe) -> str:
    return PurePath(recipe.model).name


def _one_line(text: str) -> str:
    return " ".join(text.split())


# -- Python


def _loaded(recipe: Recipe) -> list[str]:
    return [
        f"model = load_bundle({recipe.model!r})",
        f"if model.hash != {recipe.model_hash!r}:",
        '    raise SystemExit("The model has other weights than the one that gave the result.")',
    ]


def _file(recipe: Recipe) -> list[str]:
    return [
        *_loaded(recipe),
        f"options = {_call(recipe.options)}",
        f"with process_file({str(recipe.path)!r}, model, options) as result:",
        "    table = result.to_frame()",
        *(["    foci = result.foci()"] if recipe.foci else []),
        "print(table)",
    ]


def _opened(recipe: Recipe) -> list[str]:
    options = recipe.options
    given = {"kind": options.kind, "background": options.background}
    asked = "".join(f", {k}={_value(v)}" for k, v in given.items() if v is not None)
    assert options.settings is not None
    return [
        f"recording = open_hologram({str(recipe.path)!r}{asked})",
        f"settings = {_call(options.settings)}",
    ]


def _reconstruction(recipe: Recipe) -> list[str]:
    return [
        *_opened(recipe),
        "opd = reconstruct(recording, settings).data",
        "print(opd.shape, opd.min(), opd.max())",
    ]


def _frame_of_recording(recipe: Recipe) -> list[str]:
    rest = dataclasses.replace(
        recipe.options, settings=None, kind=None, background=None, task="cells"
    )
    return [
        *_loaded(recipe),
        *_opened(recipe),
        "frames = iter_recording(recording, settings)",
        f"field = next(each.field for each in frames if each.index == {recipe.frame})",
        f"options = {_call(rest)}",
        "table = process_image(field, model, options).to_frame()",
        "print(table)",
    ]


def _drawn_tissue(recipe: Recipe) -> list[str]:
    options = recipe.options
    scale = "" if options.pixel_size is None else f", pixel_size={options.pixel_size!r}"
    icc = "" if options.icc else ", icc=False"
    outlines = [
        "    np.array(" + repr([[float(y), float(x)] for y, x in each]) + ")," for each in
        recipe.tissue
    ]  # fmt: skip
    return [
        "import numpy as np",
        "from napari_sparseattn.images.tissue.mask import tissue_from_polygons",
        *_loaded(recipe),
        f"options = {_call(dataclasses.replace(options, pixel_size=None, icc=True))}",
        "outlines = [",
        *outlines,
        "]",
        f"with open_slide({str(recipe.path)!r}{scale}{icc}) as slide:",
        "    downsample = max(1.0, max(slide.shape) / 2048)",
        "    tissue = tissue_from_polygons(slide.shape, outlines, downsample)",
        "    with process_image(slide, model, options, tissue=tissue) as result:",
        "        table = result.to_frame()",
        *(["        foci = result.foci()"] if recipe.foci else []),
        "print(table)",
    ]


def _call(settings: ProcessOptions | HologramSettings) -> str:
    """Return the call that makes settings, with what differs from the usual ones."""
    kind = type(settings)
    usual = kind()
    left_out = ("notes", "formats", "retrieval")
    given = [
        f"{each.name}={_value(getattr(settings, each.name))}"
        for each in dataclasses.fields(kind)
        if each.name not in left_out and getattr(settings, each.name) != getattr(usual, each.name)
    ]
    return f"{kind.__name__}({', '.join(given)})"


def _value(value: Any) -> str:
    if isinstance(value, HologramSettings):
        return _call(value)
    if isinstance(value, Path):
        return f"Path({str(value)!r})"
    return repr(value)


# -- the command


def _command(recipe: Recipe) -> list[str]:
    options, task = recipe.options, recipe.options.task
    verb = {"slide": "slide", "hologram": "hologram"}.get(task, "classify")
    words = [_PROGRAM, verb, str(recipe.path), "--out", _OUT]
    if recipe.model:
        words += ["--model", recipe.model, "--device", options.device]
    if task == "whole":
        words.append("--whole")
    for name in _VALUES[verb]:
        value = getattr(options, name)
        if value is not None:
            words += [f"--{name.replace('_', '-')}", _text(value)]
    if options.method != "auto":
        words += ["--method", options.method]
    if task == "hologram":
        return words + _hologram_words(options.settings or HologramSettings())
    if options.classes is not None:
        words += ["--only", ",".join(options.classes)]
    if options.at is not None:
        words += ["--at", ",".join(map(_text, options.at))]
    if options.locations is not None:
        words += ["--locations", ",".join(map(str, options.locations))]
    flags = {
        "--no-icc": not options.icc,
        "--no-halt": not options.halt,
        "--allow-unknown-scale": options.allow_unknown_scale,
        "--snap": options.snap,
    }
    words += [flag for flag, on in flags.items() if on]
    if task == "slide" and recipe.foci:
        words += ["--threshold", _text(options.threshold)]
        words += ["--least-patches", str(options.least_patches)]
    return words


def _hologram_words(settings: HologramSettings) -> list[str]:
    usual, words = HologramSettings(), []
    for name in _HOLOGRAM_FLAGS:
        value = getattr(settings, name)
        if value != getattr(usual, name):
            words += [f"--{name.replace('_', '-')}", _text(value)]
            settings = dataclasses.replace(settings, **{name: getattr(usual, name)})
    if settings.profile != usual.profile:
        words += ["--profile", settings.profile]
        settings = dataclasses.replace(settings, profile=usual.profile)
    if settings.flip:
        words.append("--flip")
        settings = dataclasses.replace(settings, flip=False)
    return words if settings == usual else [*words, "--settings", settings.to_text()]


def _text(value: Any) -> str:
    return repr(float(value)) if isinstance(value, float) else str(value)
