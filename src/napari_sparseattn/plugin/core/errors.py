"""Errors of background work in words; all are logged with their traceback."""

from __future__ import annotations

import logging

__all__ = ["explain"]

_log = logging.getLogger(__name__)
_WINDOWS_DLL_FAILED = 1114


def explain(error: BaseException) -> str:
    """Return what went wrong and what to do, in one or two sentences.

    Errors this project raises already say so; others are named, and said to
    be bugs.
    """
    if getattr(error, "winerror", None) == _WINDOWS_DLL_FAILED:
        return (
            "PyTorch cannot be loaded after Qt on this Windows. Start napari with: "
            'python -c "import torch, napari; napari.Viewer(); napari.run()"'
        )
    if isinstance(error, ImportError):
        return f"A part of the installation is missing ({error}). Install the plugin again."
    if isinstance(error, ValueError | TypeError | OSError | MemoryError) and str(error):
        _log.info("work failed", exc_info=error)
        return str(error)
    _log.error("unexpected error in background work", exc_info=error)
    return (
        f"Something unexpected went wrong ({type(error).__name__}: {error}). Please report it; "
        "the log has the details."
    )
