"""A picture with known cells, a small model, and work done at once instead of in threads."""

from __future__ import annotations

import functools
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from napari.components import ViewerModel
from napari.layers import Image
from npe2 import PluginManifest

from napari_sparseattn.bundle import save_bundle
from napari_sparseattn.plugin.cells.requests import ClickRequest
from napari_sparseattn.plugin.core.lanes import AtOnce, Lane, Lanes
from napari_sparseattn.plugin.core.models import Model, prepare_model
from napari_sparseattn.plugin.holograms.session import Holograms
from napari_sparseattn.plugin.session import Session
from napari_sparseattn.plugin.slides.requests import SlideRequest
from napari_sparseattn.plugin.traversal.requests import FieldRequest
from small_model import small_bundle
from small_tnet import small_tnet_bundle

from .held import Held
from .made_slides import span_model

#: Row and column of the centres of the picture's discs.
CENTRES = np.array([(30, 40), (30, 110), (80, 60), (90, 150)], dtype=float)
RADIUS = 9


def picture() -> np.ndarray[Any, np.dtype[np.uint8]]:
    """Violet discs on a pale ground: a (120, 180, 3) smear of four nuclei."""
    rng = np.random.default_rng(0)
    image = np.full((120, 180, 3), (225, 220, 215), dtype=float)
    rows, columns = np.indices(image.shape[:2])
    for row, column in CENTRES:
        image[np.hypot(rows - row, columns - column) <= RADIUS] = (95, 60, 150)
    return (image + rng.normal(0, 3, image.shape)).clip(0, 255).astype(np.uint8)


def label_image() -> np.ndarray[Any, np.dtype[np.int32]]:
    """The discs of `picture` as labels 1 to 4."""
    labels = np.zeros((120, 180), dtype=np.int32)
    rows, columns = np.indices(labels.shape)
    for i, (row, column) in enumerate(CENTRES):
        labels[np.hypot(rows - row, columns - column) <= RADIUS] = i + 1
    return labels


#: A ceiling for a dead program only: a test waits for a state, however long a busy machine takes.
WAIT_MS = 400_000


def wait_until(qtbot: Any, state: Callable[[], bool]) -> None:
    """Let Qt work until a state holds; fail with the state's own assertion, or in the end."""
    qtbot.waitUntil(state, timeout=WAIT_MS)


@pytest.fixture(scope="session", autouse=True)
def manifests_read_once() -> Iterator[None]:
    """Parse each plugin's manifest once: every viewer discovers all of them anew."""
    read = functools.cache(PluginManifest.from_file)

    def copy(path: Path | str) -> PluginManifest:
        return read(path).model_copy(deep=True)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(PluginManifest, "from_file", copy)
        yield


@pytest.fixture(autouse=True)
def empty_cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Let no test find the features that another one kept."""
    monkeypatch.setenv("NAPARI_SPARSEATTN_CACHE", str(tmp_path / "cache"))


@pytest.fixture(scope="session")
def model_file(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A small model's file, the only one in its folder."""
    path = tmp_path_factory.mktemp("models") / "small.safetensors"
    save_bundle(small_bundle(), path)
    return path


@pytest.fixture(scope="session")
def model(model_file: Path) -> Model:
    return prepare_model(str(model_file), "cpu")


@pytest.fixture(autouse=True)
def only_small_model(
    model_file: Path, monkeypatch: pytest.MonkeyPatch, request: pytest.FixtureRequest
) -> None:
    """Let windows find the small model, and be quick to load it, not the one shipped."""
    from napari_sparseattn.plugin.core import models

    monkeypatch.setenv("NAPARI_SPARSEATTN_MODELS", str(model_file.parent))
    monkeypatch.setattr(models, "find_bundles", lambda: {"small": model_file})


@pytest.fixture(scope="session")
def tnet_model(tmp_path_factory: pytest.TempPathFactory) -> Model:
    """A small TNet with random weights: 64 px of 32 µm, crops of 16 px, 2 then 1 locations."""
    path = tmp_path_factory.mktemp("tnet") / "small-tnet.safetensors"
    save_bundle(small_tnet_bundle(), path)
    return prepare_model(str(path), "cpu")


@pytest.fixture
def viewer() -> ViewerModel:
    """A viewer without a window."""
    return ViewerModel()


@pytest.fixture
def at_once(viewer: ViewerModel) -> None:
    """Do the work of the viewer's lanes when it is asked for, in this thread."""
    Lanes.of(viewer).runner = AtOnce()


@pytest.fixture
def held(viewer: ViewerModel) -> Held:
    """Keep the work of the viewer's lanes until a test lets it go, but for that of the tasks."""
    at_once, runner = AtOnce(), Held()
    for task in Session.of(viewer).tasks:
        for lane in vars(task).values():
            if isinstance(lane, Lane):
                lane._runner = lambda: at_once
    Lanes.of(viewer).runner = runner
    return runner


class Worker:
    """Where a session's work is done in tests: at once, unless held; keeps what was asked."""

    def __init__(self, session: Session) -> None:
        assert session.viewer is not None
        self._lanes = Lanes.of(session.viewer)
        self.asked: list[Any] = []
        self.go()
        session.asked.connect(self.note)

    def note(self, request: object) -> None:
        self.asked.append(request)

    def hold(self) -> None:
        """Do no work from now on."""
        self._lanes.runner = Held()

    def go(self) -> None:
        """Do work at once from now on."""
        self._lanes.runner = AtOnce()

    def of(self, kind: type) -> list[Any]:
        return [request for request in self.asked if isinstance(request, kind)]

    @property
    def clicks(self) -> list[ClickRequest]:
        return self.of(ClickRequest)

    @property
    def fields(self) -> list[FieldRequest]:
        return self.of(FieldRequest)

    @property
    def slides(self) -> list[SlideRequest]:
        return self.of(SlideRequest)


@pytest.fixture
def session(viewer: ViewerModel, model: Model) -> Iterator[Session]:
    """A session with a model and no image yet; work is done at once."""
    session = Session.of(viewer)
    session.attach()
    session.worker = Worker(session)
    session.selection.set_model(model)
    yield session
    session.detach()


def add_picture(viewer: ViewerModel, **attributes: Any) -> Image:
    """Add the picture, 0.5 µm per pixel unless told otherwise."""
    attributes = {"name": "smear", "scale": (0.5, 0.5), "units": ("um", "um"), **attributes}
    return viewer.add_image(picture(), rgb=True, **attributes)


def add_labels(session: Session, viewer: ViewerModel, **attributes: Any) -> None:
    """Add labels of the discs and let the session use them."""
    attributes = {"scale": (0.5, 0.5), "units": ("um", "um"), **attributes}
    session.selection.set_cell_layer(
        viewer.add_labels(label_image(), name="my cells", **attributes)
    )


@pytest.fixture
def panel(viewer: ViewerModel, at_once: None) -> Iterator[Holograms]:
    """A panel whose work is done at once, without a source yet."""
    holograms = Holograms.of(viewer)
    holograms.attach()
    yield holograms
    holograms.detach()


@pytest.fixture(scope="module")
def span() -> Model:
    """A SPAN of random weights."""
    return span_model()


@pytest.fixture(scope="module")
def kept(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Features that a module's first test makes and the others take."""
    return tmp_path_factory.mktemp("features")
