"""The models there are to choose from, and the one that is loaded."""

from __future__ import annotations

import dataclasses
import functools
import logging
from collections.abc import Callable
from typing import TYPE_CHECKING

import numpy as np
from psygnal import Signal

from ...bundle import (
    Bundle,
    BundleError,
    find_bundles,
    load_bundle,
    read_card,
    user_models_folder,
)
from ...files import replacing
from .lanes import Lanes
from .preferences import preferences

if TYPE_CHECKING:
    from ...card import Card

__all__ = ["LoadRequest", "Model", "Models", "prepare_model"]

_log = logging.getLogger(__name__)

#: In the folder of the user's models: the file of the model that was chosen last.
_CHOSEN = "chosen.txt"


@dataclasses.dataclass(frozen=True, eq=False)
class Model:
    """A bundle that has computed once on its device.

    Parameters
    ----------
    bundle : Bundle
        The loaded model.
    device : str
        Where it computes, e.g. ``"cpu"``.
    description : str
        The device in words.
    devices : tuple of str
        All devices there are, best first.
    precision : str
        In which cells and fields are computed, see `inference.device.computing`.
    """

    bundle: Bundle
    device: str
    description: str
    devices: tuple[str, ...]
    precision: str = "float32"

    def with_locations(self, locations: tuple[int, ...] | None) -> Bundle:
        """Return the bundle with a TNet's locations per level changed; None as trained."""
        return self.bundle if locations is None else self._changed(locations)

    @functools.cached_property
    def _changed(self) -> functools._lru_cache_wrapper[Bundle]:
        # No weight depends on the locations. A few are kept, for a slider that is
        # moved back and forth.
        return functools.lru_cache(maxsize=8)(self.bundle.with_locations)


def prepare_model(name_or_path: str, device: str) -> Model:
    """Load a model and let it compute once, so that the first click is quick.

    The name may be an address in a repository. Precision, and the cache that
    models are fetched into, are those of the user's preferences.

    Raises
    ------
    BundleError, FileNotFoundError
        If there is no such model or it is damaged.
    ValueError
        If there is no such device.
    """
    from ...device import available_devices, choose_device, computing, describe_device
    from ...hub import fetch_model, is_hub_address
    from ...images.fields.cells import cells_from_points
    from ...images.fields.field import Field
    from ...inference.cells import classify_cells
    from ...inference.units import UNITS

    wanted = preferences()
    if is_hub_address(name_or_path):
        bundle = load_bundle(fetch_model(name_or_path, wanted.cache))
    else:
        bundle = load_bundle(name_or_path)
    chosen = choose_device(device)
    description, precision = describe_device(chosen), wanted.precision
    if precision != "float32":
        description += f", {precision}"
    model = Model(bundle, chosen, description, tuple(available_devices()), precision)
    if bundle.card.takes_slides:
        # A slide takes longer than the first computation is slower by.
        bundle.model(chosen)
        return model
    channels, spec = len(bundle.card.channels), bundle.card.crop
    blank = np.zeros((spec.size, spec.size, channels), dtype=np.float32)
    shows = bundle.card.modality
    field = Field(blank, "YXC", spec.pixel_size, shows, UNITS.get(shows, ""))
    cells = cells_from_points([(0, 0)], field.shape, diameter=1, pixel_size=spec.pixel_size)
    with computing(chosen, precision):
        for _ in range(2):
            classify_cells(field, cells, bundle, chosen)
    return model


@dataclasses.dataclass(frozen=True, eq=False)
class LoadRequest:
    """Load a model, as `load_bundle` and `choose_device` take names."""

    name_or_path: str
    device: str


class Models:
    """Lists models, and loads them in another thread.

    Parameters
    ----------
    lanes : Lanes
        Where that is done.
    take : callable
        Called with a model that was loaded, or None and why it could not be.

    Attributes
    ----------
    cards : dict of str to Card
        By name.
    paths : dict of str to str
        The files, also of models whose cards cannot be read.
    device : str
        Where the next model is to compute, as `choose_device` takes it.
    """

    changed = Signal()

    def __init__(
        self,
        lanes: Lanes,
        take: Callable[[Model | None, BaseException | None], None],
    ) -> None:
        self.cards: dict[str, Card] = {}
        self.paths: dict[str, str] = {}
        self.device = preferences().device
        #: The file or address that is being loaded; nothing where that failed.
        self.wanted = ""
        self._last: LoadRequest | None = None

        def given(request: LoadRequest, model: Model) -> None:
            if request is self._last:
                take(model, None)

        def failed(request: LoadRequest, error: BaseException) -> None:
            if request is self._last:
                self.wanted = ""
                take(None, error)

        self._loading = lanes.add(_load, given=given, failed=failed, busy="also")

    def close(self) -> None:
        """Let nothing that was asked for arrive."""
        self._last = None
        self._loading.close()

    def refresh(self) -> None:
        """List the models that are not listed yet, such as one that was just trained."""
        for name, path in find_bundles().items():
            if self.paths.get(name) == str(path):
                continue
            self.paths[name] = str(path)
            try:
                self.cards[name] = read_card(path)
            except (BundleError, OSError):
                # It stays in the list: choosing it says what is wrong with it.
                self.cards.pop(name, None)
        self.changed.emit()

    def add(self, name: str, path: str) -> None:
        """List a model's file, under a name of its own."""
        if path in self.paths.values():
            return
        others = {*self.paths}
        unique = next(
            x for x in (name, *(f"{name} ({n})" for n in range(2, 1000))) if x not in others
        )
        self.paths[unique] = path
        self.changed.emit()

    def remember(self, model: Model) -> None:
        """Keep which model the user has chosen, to begin with it the next time."""
        path = model.bundle.path
        if path is None:
            return
        try:
            with replacing(user_models_folder() / _CHOSEN) as temporary:
                temporary.write_text(str(path), encoding="utf-8")
        except OSError as error:
            _log.info("the choice of a model is not kept", exc_info=error)

    def remembered(self) -> str | None:
        """Return the name of the model that the user has chosen last, if it is listed."""
        try:
            path = (user_models_folder() / _CHOSEN).read_text(encoding="utf-8")
        except (OSError, UnicodeDecodeError):
            return None
        return next((name for name, each in self.paths.items() if each == path), None)

    def outdate(self) -> None:
        """Let what is being loaded not arrive: another model is about to be asked for."""
        self._last = None

    def load(self, name_or_path: str) -> None:
        """Load a model and warm it up; a later call makes this one's answer stale."""
        self._last = LoadRequest(name_or_path, self.device)
        self._loading.ask(self._last)


def _load(request: LoadRequest) -> Model:
    return prepare_model(request.name_or_path, request.device)
