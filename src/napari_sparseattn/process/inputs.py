"""Input files: found in folders and by patterns, each with a name of its own for its results."""

from __future__ import annotations

import dataclasses
import fnmatch
import glob
import hashlib
import os
from collections import Counter
from collections.abc import Iterator, Sequence
from pathlib import Path, PurePosixPath

from ..addresses import Address, as_source, is_address
from ..images.class_folders import IMAGE_SUFFIXES
from ..images.slides.opening import SLIDE_SUFFIXES, is_slide

__all__ = [
    "INPUT_SUFFIXES",
    "NOTES_FOLDER",
    "InputFile",
    "find_inputs",
    "name_inputs",
    "name_sources",
]

#: What a folder of results keeps about them; such a folder is never read as input.
NOTES_FOLDER = ".napari-sparseattn"
_HOLOGRAPHY = (".rtdc", ".h5", ".hdf5")
#: Endings of what can be read.
INPUT_SUFFIXES = frozenset({*IMAGE_SUFFIXES, *SLIDE_SUFFIXES, *_HOLOGRAPHY})


@dataclasses.dataclass(frozen=True, order=True)
class InputFile:
    """One input file.

    Parameters
    ----------
    key : str
        Names its results: its path from the folder that all inputs have in
        common, with ``/`` and with its ending, so that no two share one.
    path : pathlib.Path
        The file, or the folder of a slide; absolute.
    """

    key: str
    path: Path


def find_inputs(
    inputs: Sequence[str | os.PathLike[str]],
    *,
    pattern: str | None = None,
    out: str | os.PathLike[str] | None = None,
) -> tuple[InputFile, ...]:
    """Find what is to be worked on.

    Folders are searched with all that is below them, links to folders
    followed once. Left out are hidden files and folders, and folders of
    results. A file that several links lead to is taken once.

    Parameters
    ----------
    inputs : sequence of path-like
        Files, folders, slides that are folders, and patterns such as
        ``"plates/*/*.tif"``.
    pattern : str, optional
        Take only files of folders whose name, or path below the folder, it
        matches, whatever their ending; by default all with an ending that can
        be read.
    out : path-like, optional
        The folder of results.

    Returns
    -------
    tuple of InputFile
        In the order of their keys.

    Raises
    ------
    FileNotFoundError
        If an input is not there, or nothing was found.
    ValueError
        If results were to go into a folder of the inputs itself.
    """
    if isinstance(inputs, str | os.PathLike):
        raise TypeError("give a list of files and folders, not one path")
    results = None if out is None else Path(out).resolve()
    found: list[Path] = []
    roots: list[Path] = []
    for given in inputs:
        if is_address(given):
            raise ValueError(
                f"{as_source(given)} is on another machine. A batch works on files of this "
                "computer; classify slides at addresses with `classify --whole` or `slide`."
            )
        root, paths = _expand(os.fspath(given), pattern, results)
        if root.resolve() == results:
            raise ValueError(
                f"Results cannot go into the folder of the images itself ('{root}'): they would be "
                f"taken for images the next time. Choose another, such as '{root / 'results'}'."
            )
        roots.append(root)
        found += paths
    if not found:
        what = f"matches '{pattern}'" if pattern else f"ends in {', '.join(sorted(INPUT_SUFFIXES))}"
        raise FileNotFoundError(f"Nothing to work on: no file in {_list_names(inputs)} {what}.")
    return _name(_drop_duplicates(found), roots)


def name_sources(sources: Sequence[Path | Address]) -> tuple[str, ...]:
    """Return what results of files are named by, here and on other machines, in the order given.

    Files as by `name_inputs`; of an address the file's name, with its hash where several
    are called the same.
    """
    files = iter(name_inputs([source for source in sources if isinstance(source, Path)]))
    keys = [next(files).key if isinstance(one, Path) else one.name for one in sources]
    count = Counter(key.casefold() for key in keys)
    return tuple(
        f"{key}-{one.digest}" if isinstance(one, Address) and count[key.casefold()] > 1 else key
        for key, one in zip(keys, sources, strict=True)
    )


def name_inputs(paths: Sequence[str | os.PathLike[str]]) -> tuple[InputFile, ...]:
    """Name files as `find_inputs` does, in the order given; whether they are there is not asked.

    The same file given twice is taken twice, under one name.
    """
    absolute = [Path(os.path.normpath(Path(path).absolute())) for path in paths]
    roots = [path.parent for path in absolute]
    named = {item.path: item for item in _name(list(dict.fromkeys(absolute)), roots)}
    return tuple(named[path] for path in absolute)


def _list_names(inputs: Sequence[str | os.PathLike[str]]) -> str:
    names = [f"'{os.fspath(given)}'" for given in inputs]
    return ", ".join(names[:3]) + (f" and {len(names) - 3} more" if len(names) > 3 else "")


def _expand(given: str, pattern: str | None, results: Path | None) -> tuple[Path, list[Path]]:
    """Return the folder that names begin below, and what was found."""
    # Not resolved, so that links keep their names.
    path = Path(os.path.normpath(Path(given).absolute()))
    if path.is_dir() and not is_slide(path):
        return path, sorted(_walk(path, pattern, results))
    if path.exists() or path.is_symlink():
        return path.parent, [path]
    if glob.has_magic(given):
        root = Path(*_before_magic(path))
        matches = root.glob("/".join(path.parts[len(root.parts) :]))
        return root, [match for match in sorted(matches) if _is_input(match, root, results)]
    raise FileNotFoundError(f"There is no file or folder '{given}'.")


def _before_magic(path: Path) -> Iterator[str]:
    for part in path.parts[:-1]:
        if glob.has_magic(part):
            return
        yield part


def _is_input(match: Path, root: Path, results: Path | None) -> bool:
    """Whether a file that a pattern matched is an input, and no result."""
    if match.is_dir() and not is_slide(match):
        return False
    between = match.relative_to(root).parts[:-1]
    folders = [root.joinpath(*between[: i + 1]) for i in range(len(between))]
    return not any(_is_results(folder, results) for folder in folders)


def _walk(folder: Path, pattern: str | None, results: Path | None) -> Iterator[Path]:
    seen: set[str] = set()
    for where, folders, files in os.walk(folder, followlinks=True):
        here = Path(where)
        seen.add(os.path.realpath(here))
        going: list[str] = []
        for name in sorted(folders):
            below = here / name
            if name.startswith(".") or _is_results(below, results):
                continue
            if is_slide(below):
                if pattern is None or _matches(below, folder, pattern):
                    yield below
            # A link back up would lead round in circles.
            elif os.path.realpath(below) not in seen and not name.endswith(".zarr"):
                going.append(name)
        folders[:] = going
        for name in files:
            path = here / name
            if name.startswith("."):
                continue
            if (
                _matches(path, folder, pattern)
                if pattern
                else path.suffix.lower() in INPUT_SUFFIXES
            ):
                yield path


def _is_results(folder: Path, results: Path | None) -> bool:
    return (folder / NOTES_FOLDER).is_dir() or (results is not None and folder.resolve() == results)


def _matches(path: Path, folder: Path, pattern: str) -> bool:
    below = path.relative_to(folder).as_posix()
    return fnmatch.fnmatch(path.name, pattern) or PurePosixPath(below).match(pattern)


def _drop_duplicates(paths: Sequence[Path]) -> list[Path]:
    """Take each file once, by its own name rather than a link's."""
    found: dict[str, Path] = {}
    for path in paths:
        real = os.path.realpath(path)
        if real not in found or (str(path) == real and str(found[real]) != real):
            found[real] = path
    return list(found.values())


def _name(paths: Sequence[Path], roots: Sequence[Path]) -> tuple[InputFile, ...]:
    """Name files by their way from the folder that all have in common."""
    try:
        common = Path(os.path.commonpath(roots))
        keys = [Path(os.path.relpath(path, common)).as_posix() for path in paths]
    except ValueError:  # several drives of Windows
        keys = [path.as_posix().replace(":", "") for path in paths]
    # Some file systems do not tell A.tif from a.tif.
    folded = Counter(key.casefold() for key in keys)
    items = [
        InputFile(key if folded[key.casefold()] == 1 else _add_digest(key), path)
        for key, path in zip(keys, paths, strict=True)
    ]
    return tuple(sorted(items))


def _add_digest(key: str) -> str:
    return f"{key}-{hashlib.sha256(key.encode()).hexdigest()[:6]}"
