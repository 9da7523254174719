"""Features of slides in the cache: within its limit, and there while they are shown."""

from __future__ import annotations

import gc
from pathlib import Path

import pytest

from napari_sparseattn.cache import Cache
from napari_sparseattn.plugin.core.models import Model
from napari_sparseattn.plugin.core.preferences import Preferences
from napari_sparseattn.plugin.session import Session
from napari_sparseattn.plugin.slides import task as slide_task
from napari_sparseattn.plugin.slides.requests import SlideAnswer, stream_slide

from ..made_slides import add_slide


def test_an_answers_features_stay_until_it_is_gone(
    session: Session, span: Model, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    cache = Cache(tmp_path / "cache", 1)  # too small for anything
    monkeypatch.setattr(slide_task, "preferences", lambda: Preferences(cache=cache))
    monkeypatch.setattr(slide_task, "store_folder", lambda: cache.section("features"))
    older = cache.section("features") / f"older-{1:016x}.h5"
    older.parent.mkdir(parents=True)
    older.write_bytes(b"x" * 100)
    session.worker.hold()
    session.selection.set_model(span)
    assert session.viewer is not None
    add_slide(session.viewer)
    request = session.slides.classify()
    assert request is not None
    (answer,) = [given for given in stream_slide(request) if isinstance(given, SlideAnswer)]
    assert not older.exists(), "the cache was not brought within its limit"
    assert answer.prediction is not None
    found = answer.prediction.features
    assert found is not None
    assert found.path is not None
    assert found.path.exists()
    assert cache.trim() == []
    assert len(found.features[:2]) == 2, "they cannot be read any more"
    path = found.path
    session.status.cancel()
    del answer, found
    gc.collect()
    assert [entry.path for entry in cache.trim()] == [path]
