"""Errors in words a user can act on."""

from __future__ import annotations

import logging

import pytest

from napari_sparseattn.bundle import BundleError
from napari_sparseattn.plugin.core.status import explain


def test_our_own_errors_speak_for_themselves() -> None:
    assert explain(BundleError("old.safetensors is damaged.")) == "old.safetensors is damaged."


def test_torch_after_qt_on_windows_comes_with_the_cure() -> None:
    error = OSError("DLL initialization routine failed")
    error.winerror = 1114  # type: ignore[attr-defined]
    assert "import torch, napari" in explain(error)


def test_a_bug_is_named_and_logged(caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level(logging.ERROR):
        said = explain(ZeroDivisionError("division by zero"))
    assert "ZeroDivisionError" in said
    assert "report" in said
    assert caplog.records[0].exc_info is not None
