"""A progress bar for people; nothing for machines."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from contextlib import contextmanager

from ..progress import Progress, ignore_progress

__all__ = ["progress_bar"]


@contextmanager
def progress_bar(what: str, quiet: bool) -> Iterator[Progress]:
    """Give a callable (stage, done, total) that draws a bar on a terminal's standard error."""
    if quiet or not sys.stderr.isatty():
        yield ignore_progress
        return
    from rich.console import Console
    from rich.progress import Progress as Bar

    with Bar(console=Console(stderr=True)) as bar:
        task = bar.add_task(what, total=None)

        def show(stage: str, done: int, total: int) -> None:
            bar.update(task, completed=done, total=total or None)

        yield show
