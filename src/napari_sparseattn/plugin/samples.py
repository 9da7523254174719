"""Sample images. What is not known of them is not claimed.

Those that need no network are in napari's menu File → Open Sample. That holds up
the window until a sample is there, so one that is fetched is a command of its own.
"""

from __future__ import annotations

import dataclasses
import os
import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

from .core.docks import open_holograms
from .core.lanes import Lane, Lanes
from .core.per_viewer import PerViewer
from .core.preferences import preferences
from .core.sources import METADATA_KEY
from .core.status import Progress
from .core.view import has_window
from .session import Session

if TYPE_CHECKING:
    from napari.components import ViewerModel

__all__ = [
    "SampleOpening",
    "SmearFetching",
    "phase_cell",
    "simulated_hologram",
    "simulated_slide",
    "simulated_smear",
    "smear",
]

LayerData = tuple[Any, dict[str, Any], str]

_BCCD = (
    "https://raw.githubusercontent.com/Shenggan/BCCD_Dataset/"
    "d272fb14cdff6e473fafeeeba32aba5f560e9e43/BCCD/JPEGImages/"
)
_FIELDS = {
    "BloodImage_00000.jpg": "e1dcc488889acba247a895df7be839e514850030217b4025048619f664fd4cb3",
    "BloodImage_00014.jpg": "2011aeb37909f1a73c565c1e305e1a1593bff713cc2c97c1d80f7f2938c861e7",
    "BloodImage_00017.jpg": "0317c72ae1486ac1fff77409e890cd119fcb0e87a9dda073470ea3a430d136d3",
    "BloodImage_00029.jpg": "e055fd2c08d26982366ab2290c057e79c41f58b42be496fe0352d1a137198fd7",
}
_GAP = 16
_FIELDS_PIXEL = 0.073
_FOLDER_VARIABLE = "NAPARI_SPARSEATTN_DATA"
# Some 500 patches of 112 µm: SPAN is done with it before anybody tires.
_SLIDE_SHAPE, _SLIDE_SEED = (6144, 8192), 7
#: After so long a window has laid itself out.
_SETTLED_MS = 300


def smear() -> list[LayerData]:
    """Return four fields of stained blood smears, side by side as one image.

    From the BCCD data set (MIT), fetched when first used: each holds one white
    cell. Its authors do not state the pixel size; 0.073 µm is estimated from
    the median of the data set's red cell boxes, taken as 7.5 µm
    (``benchmarks/other_smear.py``), as it was for the model's training images.

    Raises
    ------
    FileNotFoundError
        If ``NAPARI_SPARSEATTN_DATA`` names a folder without the file.
    ConnectionError
        If it cannot be fetched; the simulated sample needs no network.
    ValueError
        If the file is not the one expected.
    """
    return [_join_fields([_fetch(*item) for item in _FIELDS.items()])]


def _join_fields(paths: list[Path]) -> LayerData:
    import numpy as np

    from ..images.opening import open_field

    fields = [np.asarray(open_field(path).data) for path in paths]
    height, width, _ = fields[0].shape
    # A gap keeps cells of neighbouring fields from touching. It has the colour
    # of the glass: anything brighter would count as white in crops beside it.
    glass = np.percentile(np.stack(fields), 85, axis=(0, 1, 2)).astype(np.uint8)
    whole = np.tile(glass, (2 * height + _GAP, 2 * width + _GAP, 1))
    for i, field in enumerate(fields):
        row, column = i // 2 * (height + _GAP), i % 2 * (width + _GAP)
        whole[row : row + height, column : column + width] = field
    return _layer(whole, "blood smear", "brightfield", pixel_size=_FIELDS_PIXEL, rgb=True)


@dataclasses.dataclass(frozen=True, eq=False)
class _Request:
    """Fetch the stained smear; unlike other work, it is about no layer."""

    stop: threading.Event = dataclasses.field(default_factory=threading.Event)
    layer: None = None


class _Fetching:
    """How many of the fields are there."""

    def __init__(self, request: _Request, cancel: Callable[[str], None]) -> None:
        self.request, self.cancel, self.done = request, cancel, 0

    def progress(self) -> Progress:
        """Return how far it is."""
        return Progress(self.done, len(_FIELDS), what="fields fetched")


class SmearFetching(PerViewer):
    """Fetches the stained smear for one viewer, without holding up its window."""

    def __init__(self, viewer: ViewerModel) -> None:
        super().__init__(viewer)
        self._status = Session.of(viewer).status
        self._lane: Lane[_Request] = Lanes.of(viewer).add(
            _stream_smear, given=self._take, failed=self._status.fail_work, busy="replace"
        )

    def start(self) -> None:
        """Ask for it, unless other work goes on."""
        if self._status.running:
            self._status.notify("Wait for the work at hand, or cancel it.", "warning")
            return
        request = _Request()
        self._status.notify("Fetching the blood smear…")
        self._status.begin(_Fetching(request, self._cancel))
        self._lane.ask(request)

    def _take(self, request: _Request, part: int | LayerData) -> None:
        from napari.layers import Layer

        work, viewer = self._status.of(request), self.viewer
        if work is None or viewer is None:
            return
        if isinstance(part, int):
            work.done = part
            self._status.show_progress()
            return
        self._status.end(request)
        viewer.add_layer(Layer.create(*part))

    def _cancel(self, reason: str) -> None:
        work = self._status.work
        self._lane.cancel()
        if work is not None and self._status.end(work.request) is not None:
            self._status.notify(f"{reason}: the blood smear was not fetched.", "warning")


def _stream_smear(request: _Request) -> Iterator[int | LayerData]:
    """Fetch one field after the other; yields how many there are, in the end the image."""
    paths: list[Path] = []
    for item in _FIELDS.items():
        paths.append(_fetch(*item))
        if request.stop.is_set():
            return
        yield len(paths)
    yield _join_fields(paths)


@dataclasses.dataclass(frozen=True)
class _Sample:
    """Make a sample, by its key in the manifest."""

    key: str


class SampleOpening(PerViewer):
    """Opens a simulated sample in one viewer, and what comes next with it.

    A model that the user chose for another image gives way to one that suits the sample.
    """

    def __init__(self, viewer: ViewerModel) -> None:
        super().__init__(viewer)
        self._session = Session.of(viewer)
        self._lane: Lane[_Sample] = Lanes.of(viewer).add(
            _make_sample, given=self._take, failed=self._fail, busy="replace"
        )

    def start(self, key: str) -> None:
        """Make a sample in another thread; the layer follows.

        Parameters
        ----------
        key : {"simulated-smear", "simulated-hologram", "simulated-slide"}
            As in the manifest.
        """
        self._session.status.notify("Drawing the sample…")
        self._lane.ask(_Sample(key))

    def _take(self, request: _Sample, layers: list[LayerData]) -> None:
        from napari.layers import Layer

        viewer = self.viewer
        if viewer is None or not has_window(viewer):
            return
        selection = self._session.selection
        selection.model_is_chosen = False
        before = selection.image
        for data in layers:
            viewer.add_layer(Layer.create(*data))
        if before is not None:
            # What was open lies elsewhere, at another scale.
            self._session.choose_image(selection.images()[-1])
        # A dock that opens meanwhile leaves the canvas another size.
        Lanes.of(viewer).runner.later(_SETTLED_MS, self._fit)
        if request.key == "simulated-hologram" and getattr(viewer, "window", None) is not None:
            open_holograms(viewer)

    def _fit(self) -> None:
        viewer = self.viewer
        if viewer is not None and has_window(viewer):
            viewer.fit_to_view()

    def _fail(self, _: _Sample, error: BaseException) -> None:
        self._session.status.fail(error)


def _make_sample(request: _Sample) -> list[LayerData]:
    makers: dict[str, Callable[[], list[LayerData]]] = {
        "simulated-smear": simulated_smear,
        "simulated-hologram": simulated_hologram,
        "simulated-slide": simulated_slide,
    }
    return makers[request.key]()


def phase_cell() -> list[LayerData]:
    """Return scikit-image's quantitative phase image of a cell (CC0), 0.107 µm per pixel.

    The values are 8-bit grey levels: how they relate to radians is not stated.
    """
    from skimage import data

    return [_layer(data.cell(), "phase cell", "phase", pixel_size=0.107)]


def simulated_smear() -> list[LayerData]:
    """Return a simulated blood smear, made here: no network, nothing real."""
    from ..simulate import smear as simulate

    field = simulate()
    image = _layer(
        field.data, "simulated smear", "brightfield", pixel_size=field.pixel_size, rgb=True
    )
    return [_simulated(image)]


def simulated_hologram() -> list[LayerData]:
    """Return a simulated off-axis hologram of cells with its background: nothing real."""
    from ..simulate import hologram_with_truth
    from .holograms.recordings import recording_layer

    recording, _, _, _ = hologram_with_truth((640, 640), background=True)
    return [_simulated(recording_layer(recording))]


def simulated_slide() -> list[LayerData]:
    """Return a simulated tissue slide with tumour, drawn where it is looked at: nothing real."""
    from ..simulate import simulated_slide as simulate
    from .slides.layers import slide_layer

    pyramid, _ = simulate(*_SLIDE_SHAPE, kind="tumour", seed=_SLIDE_SEED)
    return [_simulated(slide_layer(pyramid))]


def _simulated(layer: LayerData) -> LayerData:
    """Note that a layer is simulated: of models that fit, one of simulated images suits it."""
    layer[1]["metadata"][METADATA_KEY]["simulated"] = True
    return layer


def _fetch(name: str, sha256: str) -> Path:
    folder = os.environ.get(_FOLDER_VARIABLE)
    if folder:
        return _local(Path(folder), name, sha256)
    import pooch
    from requests.exceptions import RequestException

    try:
        path = pooch.retrieve(
            _BCCD + name,
            known_hash=f"sha256:{sha256}",
            fname=name,
            path=preferences().cache.section("samples"),
        )
    except ValueError as error:
        raise ValueError(
            f"What was fetched as the sample {name} is another file: its SHA-256 differs. Try "
            "again in another network, or open the simulated smear, which needs none."
        ) from error
    except (RequestException, OSError) as error:
        raise ConnectionError(
            f"The sample {name} could not be fetched. Connect to the internet, set "
            f"{_FOLDER_VARIABLE} to a folder that holds it, or open the simulated smear, which "
            "needs no network."
        ) from error
    return Path(path)


def _local(folder: Path, name: str, sha256: str) -> Path:
    import pooch

    found = next(iter(sorted(folder.rglob(name))), None)
    if found is None:
        raise FileNotFoundError(
            f"{_FOLDER_VARIABLE} is {folder}, but there is no {name} in it. Put it there, unset "
            "the variable to fetch it, or open the simulated smear."
        )
    if pooch.file_hash(str(found), alg="sha256") != sha256:
        raise ValueError(
            f"{found} is not the sample expected: its SHA-256 differs. Remove it and fetch it "
            "again."
        )
    return found


def _layer(
    data: Any, name: str, modality: str, *, pixel_size: float | None = None, rgb: bool = False
) -> LayerData:
    attributes: dict[str, Any] = {
        "name": name,
        "rgb": rgb,
        "metadata": {METADATA_KEY: {"modality": modality}},
    }
    if pixel_size is not None:
        attributes |= {"scale": (pixel_size, pixel_size), "units": ("um", "um")}
    return data, attributes, "image"
