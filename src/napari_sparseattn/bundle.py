"""A trained model as one safetensors file with its card in the header."""

from __future__ import annotations

import dataclasses
import functools
import hashlib
import json
import os
from collections.abc import Mapping, Sequence
from importlib import resources
from pathlib import Path
from typing import TYPE_CHECKING, cast

import numpy as np
import numpy.typing as npt
from pydantic import ValidationError

from .card import FORMAT_VERSION, Card, TestVector
from .files import replacing
from .hub import fetch_model, is_hub_address
from .known import PREFIX, KnownStates

if TYPE_CHECKING:
    import torch
    from torch import Tensor

    from .models.span import SpanMil, SpanUnet
    from .models.sparse.network import SparseAttnNet
    from .models.tnet.network import TNet

    CellNetwork = SparseAttnNet | TNet
    SlideNetwork = SpanMil | SpanUnet
    Network = CellNetwork | SlideNetwork

__all__ = [
    "Bundle",
    "BundleError",
    "find_bundles",
    "load_bundle",
    "read_card",
    "save_bundle",
    "test_input",
    "test_patches",
    "user_models_folder",
]

_MAX_HEADER = 16 * 2**20
_MAX_FILE = 4 * 2**30
_SUFFIX = ".safetensors"


class BundleError(ValueError):
    """A model file that cannot be used; the message says why and what to do."""


@dataclasses.dataclass(frozen=True, eq=False)
class Bundle:
    """A card and its tensors.

    Parameters
    ----------
    card : Card
        What the model is.
    state : dict of str to Tensor
        The model's ``state_dict`` on the CPU.
    path : pathlib.Path or None
        The file it was read from.
    known : KnownStates or None
        States of what it was trained on; None where they were not measured.
    """

    def __repr__(self) -> str:
        card = self.card
        where = "" if self.path is None else f", {str(self.path)!r}"
        return f"Bundle({card.name!r}, {card.kind}, {self.hash[:12]}{where})"

    card: Card
    state: Mapping[str, Tensor]
    path: Path | None = None
    known: KnownStates | None = None

    @property
    def hash(self) -> str:
        """sha256 of the tensors, hexadecimal."""
        return self.card.tensors_sha256

    @property
    def n_parameters(self) -> int:
        """Number of weights, running statistics included."""
        return sum(t.numel() for t in self.state.values())

    def temperatures(self, states: npt.ArrayLike) -> npt.NDArray[np.float32]:
        """By what the logits of images with states (N, D) are divided: (N,).

        The card's temperature; a higher one for images that are unlike
        anything the model knows, where the card says how much.
        """
        states, spec = np.asarray(states, np.float32), self.card.novelty
        found = np.full(len(states), self.card.temperature, np.float32)
        if self.known is not None and spec is not None and spec.softening:
            beyond = np.maximum(self.known.novelty(states) / np.float32(spec.softening_from), 1)
            found *= beyond ** np.float32(spec.softening)
        return found

    def with_locations(self, locations: Sequence[int] | None) -> Bundle:
        """Return a TNet that looks at other numbers of crops per level.

        No weight depends on them, so that the hash stays. What is usual was
        measured at those of the training, so that at others nothing is said to
        be unlike it. For None, and of other kinds of model, it is the bundle
        itself.
        """
        if locations is None or self.card.kind != "tnet":
            return self
        architecture = {**self.card.architecture, "locations": tuple(locations)}
        card = self.card.model_copy(update={"architecture": architecture})
        trained = tuple(self.card.architecture.get("locations", ())) == tuple(locations)
        return dataclasses.replace(self, card=card, known=self.known if trained else None)

    def model(self, device: str | torch.device = "cpu") -> Network:
        """Build the model in evaluation mode; built once per device."""
        return self._models(str(device))

    def cell_model(self, device: str | torch.device = "cpu") -> CellNetwork:
        """`model`, of one that classifies single images.

        Raises
        ------
        ValueError
            If it classifies slides by their patches.
        """
        if self.card.takes_slides:
            raise ValueError(
                f"'{self.card.name}' classifies whole slides, not cells. Use classify_slide, or "
                "choose a SparseAttnNet or TNet."
            )
        return cast("CellNetwork", self.model(device))

    def slide_model(self, device: str | torch.device = "cpu") -> SlideNetwork:
        """`model`, of one that classifies slides by their patches.

        Raises
        ------
        ValueError
            If it classifies single images.
        """
        if not self.card.takes_slides:
            raise ValueError(
                f"'{self.card.name}' classifies cells or fields, not the patches of a slide. "
                "Choose a SPAN."
            )
        return cast("SlideNetwork", self.model(device))

    @functools.cached_property
    def _models(self) -> functools._lru_cache_wrapper[Network]:
        return functools.lru_cache(maxsize=4)(lambda device: _build(self.card, self.state, device))


def user_models_folder() -> Path:
    """Folder in which a user's models are looked for by name.

    ``NAPARI_SPARSEATTN_MODELS`` if set, else the platform's data folder.
    """
    import platformdirs

    chosen = os.environ.get("NAPARI_SPARSEATTN_MODELS")
    return Path(chosen) if chosen else platformdirs.user_data_path("napari-sparseattn") / "models"


def find_bundles() -> dict[str, Path]:
    """Return the models found, name to file: those shipped, then the user's."""
    shipped = Path(str(resources.files(__package__).joinpath("weights")))
    # By their names, not their files': "-" comes before the dot of an ending. Those of simulated
    # images are to try the program with, and come last.
    files = sorted(
        shipped.glob(f"*{_SUFFIX}"), key=lambda path: ("simulated" in path.stem, path.stem)
    )
    found = {path.stem: path for path in files}
    folder = user_models_folder()
    if folder.is_dir():
        # A dot begins what a killed process left unfinished, see `files.replacing`.
        for path in sorted(folder.glob(f"[!.]*{_SUFFIX}"), key=lambda path: path.stem):
            found.setdefault(path.stem, path)
    return found


def load_bundle(name_or_path: str | os.PathLike[str]) -> Bundle:
    """Load a model by the name of a found bundle, from a file, or from a repository.

    Parameters
    ----------
    name_or_path : str or path-like
        A name that `find_bundles` lists, the path of a file, or an address of
        the form ``hf://owner/name@commit``, see `hub.fetch_model`.

    Returns
    -------
    Bundle
        Checked: format, card, tensors (names, shapes, types, finite values,
        sha256) and the answer to a test input.

    Raises
    ------
    BundleError
        If the file is not such a model, damaged, or made by a newer version.
    FileNotFoundError
        If there is no such model.
    HubError, ConnectionError
        If it cannot be had from its repository.
    """
    if is_hub_address(name_or_path):
        name_or_path = fetch_model(str(name_or_path))
    path = Path(name_or_path)
    found = find_bundles()
    if not path.exists() and str(name_or_path) in found:
        path = found[str(name_or_path)]
    if not path.is_file():
        names = ", ".join(sorted(found)) or "none"
        raise FileNotFoundError(
            f"No model named '{name_or_path}', and no such file. Models found: {names}."
        )
    card = read_card(path)
    from safetensors import SafetensorError
    from safetensors.torch import load_file

    try:
        tensors = load_file(path)
    except (SafetensorError, OSError) as error:
        raise BundleError(
            f"{path.name} is damaged and cannot be read ({error}). Get the file again."
        ) from error
    state = {name: each for name, each in tensors.items() if not name.startswith(PREFIX)}
    more = {name: each for name, each in tensors.items() if name.startswith(PREFIX)}
    _check_tensors(path.name, card, state)
    _check_digest(path.name, card, tensors)
    bundle = Bundle(card, state, path, _read_known(path.name, card, more))
    _check_answer(path.name, bundle)
    return bundle


def read_card(path: str | os.PathLike[str]) -> Card:
    """Read and check a model's card without loading its tensors.

    Raises
    ------
    BundleError
        If the file is no such model, or its card is invalid.
    """
    path = Path(path)
    header = _read_header(path)
    metadata = header.get("__metadata__")
    text = metadata.get("napari_sparseattn_card") if isinstance(metadata, dict) else None
    if not isinstance(text, str):
        raise BundleError(
            f"{path.name} is a safetensors file, but not a napari-sparseattn model: it has no "
            "card. Choose a file saved by this plugin."
        )
    try:
        raw = json.loads(text)
        version = raw.get("format_version") if isinstance(raw, dict) else None
        if isinstance(version, int) and version > FORMAT_VERSION:
            raise BundleError(
                f"{path.name} was saved by a newer version of this plugin (format {version}). "
                "Update napari-sparseattn to open it."
            )
        return Card.model_validate(raw)
    except (ValueError, RecursionError) as error:
        if isinstance(error, BundleError):
            raise
        raise BundleError(f"{path.name} has an invalid card: {_first_line(error)}") from error


def save_bundle(bundle: Bundle, path: str | os.PathLike[str]) -> Bundle:
    """Write a bundle atomically, with a fresh sha256 and test vector.

    Parameters
    ----------
    bundle : Bundle
        Its card and state; the hash and the test vector are made anew.
    path : str or path-like
        Ends in ``.safetensors``.

    Returns
    -------
    Bundle
        The bundle as written.

    Raises
    ------
    BundleError
        If the tensors do not fit the card, or the name's ending is wrong.
    OSError
        If the file cannot be written; an older one is then intact.
    """
    from safetensors.torch import save_file

    path = Path(path)
    if path.suffix != _SUFFIX:
        raise BundleError(f"Model files end in {_SUFFIX}; '{path.name}' does not.")
    state = {name: t.detach().cpu().contiguous() for name, t in bundle.state.items()}
    known = bundle.known
    tensors = state if known is None else {**state, **known.to_tensors()}
    changes = {
        "tensors_sha256": _digest(tensors),
        "test_vector": None,
        "format_version": _format_of(bundle.card, known),
    }
    if known is None:
        changes["novelty"] = None
    card = bundle.card.model_copy(update=changes)
    _check_tensors(path.name, card, state)
    _check_known(path.name, card, known)
    logits = _answer(Bundle(card, state))
    card = Card.model_validate({**card.model_dump(), "test_vector": TestVector(logits=logits)})
    # Older programs refuse a word that they do not know; what is not said needs none.
    later = {
        "novelty": known,
        "halting": card.halting,
        "explanation": card.explanation,
        "target": card.target,
        "limits": card.limits or None,
    }
    told = card.model_dump_json(exclude={name for name, value in later.items() if value is None})
    with replacing(path) as temporary:
        save_file(tensors, temporary, {"napari_sparseattn_card": told})
    return Bundle(card, state, path, known)


def test_input(channels: int, size: int) -> torch.Tensor:
    """Return the (1, channels, size, size) input of the test vector.

    A fixed pattern of sines, so that it needs no random generator and does
    not change between versions of anything.
    """
    import torch

    axis = torch.arange(size, dtype=torch.float64) / size
    waves = [
        torch.sin(7.0 * (c + 1) * axis)[:, None] * torch.cos(5.0 * (c + 2) * axis + c)[None]
        for c in range(channels)
    ]
    bump = torch.exp(-((axis - 0.45)[:, None] ** 2 + (axis - 0.55)[None] ** 2) * 20)
    return (torch.stack(waves) - 2 * bump).float()[None]


def test_patches(width: int) -> tuple[torch.Tensor, torch.Tensor]:
    """Return the features (N, width) and cells (N, 2) of a SPAN's test vector.

    A grid of 9 x 7 patches with a hole; see `test_input`.
    """
    import torch

    cells = torch.tensor(
        [(x, y) for x in range(9) for y in range(7) if not (3 <= x <= 5 and 2 <= y <= 4)]
    )
    place = cells.double() @ torch.tensor([0.9, 1.7], dtype=torch.float64)
    channel = torch.arange(width, dtype=torch.float64)
    return torch.sin(place[:, None] + 0.37 * channel).float(), cells


def _read_header(path: Path) -> dict[str, object]:
    size = path.stat().st_size
    if size > _MAX_FILE:
        raise BundleError(f"{path.name} is {size / 2**30:.1f} GiB; models are at most 4 GiB.")
    with path.open("rb") as file:
        start = file.read(8)
        length = int.from_bytes(start, "little") if len(start) == 8 else size
        fits = length <= min(_MAX_HEADER, size - 8)
        # The length of a sound header may begin with the byte that pickles begin with.
        if not fits and (start[:2] == b"PK" or start[:1] == b"\x80"):
            raise BundleError(
                f"{path.name} is a PyTorch or pickle file, which can run code when opened. Only "
                "safetensors models saved by this plugin are loaded."
            )
        if len(start) < 8:
            raise BundleError(f"{path.name} is empty or cut short. Get the file again.")
        if not fits:
            raise BundleError(
                f"{path.name} is not a napari-sparseattn model, or is cut short: its header "
                f"claims {length} bytes of a file of {size}."
            )
        body = file.read(length)
    try:
        header = json.loads(body)
    except (ValueError, RecursionError) as error:
        raise BundleError(f"{path.name} is not a safetensors file. Choose another.") from error
    if not isinstance(header, dict):
        raise BundleError(f"{path.name} is not a safetensors file. Choose another.")
    return header


def _skeleton(card: Card) -> Network:
    """The model without memory for its tensors."""
    import torch

    try:
        # Imported on no device, or constants of modules would have no values.
        build = card.model_kind.load("build")
        with torch.device("meta"):
            model: Network = build(card.architecture)
    except ImportError as error:
        raise BundleError(
            f"This model's network needs one more package: pip install {error.name}."
        ) from error
    except (TypeError, ValueError, KeyError) as error:
        raise BundleError(f"The card's architecture is invalid: {_first_line(error)}") from error
    _check_agreement(card, model)
    return model


def _check_agreement(card: Card, model: Network) -> None:
    """Refuse a card that states other sizes than its architecture has."""
    kind = card.model_kind
    stated = {
        "classes": card.n_outputs,
        "inputs": len(card.channels) if card.encoder is None else card.encoder.width,
        "size": card.crop.size,
    }
    sizes = kind.sizes.items()
    if not isinstance(model, kind.load("network")) or any(
        getattr(model.config, attribute) != stated[what] for what, attribute in sizes
    ):
        raise BundleError(
            "The card contradicts itself: its architecture has other numbers of classes, "
            "channels or features, or another crop size, than the card states."
        )


def _format_of(card: Card, known: KnownStates | None) -> int:
    """Return the oldest format that says all that is to be said."""
    if card.novelty is not None and card.novelty.softening_from != 1:
        return 5
    if card.target is not None or (known is not None and known.patches is not None):
        return 4
    softened = card.novelty is not None and card.novelty.softening
    if card.halting is not None or card.explanation is not None or card.limits or softened:
        return 3
    return 1 if known is None else 2


def _build(card: Card, state: Mapping[str, Tensor], device: str) -> Network:
    import torch

    # A file's answer is checked in inference mode: weights that are made there have no gradients.
    with torch.inference_mode(False):
        model = _skeleton(card)
        model.load_state_dict({k: v.to(device).clone() for k, v in state.items()}, assign=True)
    if card.halting is not None:
        from .models.tnet.halting import Halt

        cast("TNet", model).halt = Halt(card.halting.threshold, card.temperature)
    model.eval().requires_grad_(False)
    if card.kind == "sparse-attn-net":
        cast("SparseAttnNet", model).freeze()
    return model


def _check_tensors(name: str, card: Card, state: Mapping[str, Tensor]) -> None:
    expected = _skeleton(card).state_dict()
    missing, extra = sorted(expected.keys() - state.keys()), sorted(state.keys() - expected.keys())
    if missing or extra:
        raise BundleError(
            f"{name} does not fit its card: {len(missing)} tensors are missing "
            f"({', '.join(missing[:3]) or '-'}), {len(extra)} are unknown "
            f"({', '.join(extra[:3]) or '-'})."
        )
    for key, tensor in state.items():
        if tensor.shape != expected[key].shape or tensor.dtype != expected[key].dtype:
            raise BundleError(
                f"{name} does not fit its card: tensor {key} is {tensor.dtype} "
                f"{tuple(tensor.shape)}, expected {expected[key].dtype} "
                f"{tuple(expected[key].shape)}."
            )
        if not tensor.isfinite().all():
            raise BundleError(
                f"{name} has weights that are not numbers (in {key}). Train it again."
            )


def _check_digest(name: str, card: Card, tensors: Mapping[str, Tensor]) -> None:
    if card.tensors_sha256 != _digest(tensors):
        raise BundleError(
            f"{name} is damaged: its weights do not match their checksum. Get the file again."
        )


def _read_known(name: str, card: Card, tensors: Mapping[str, Tensor]) -> KnownStates | None:
    try:
        known = KnownStates.from_tensors(tensors)
    except ValueError as error:
        raise BundleError(f"{name} does not fit its card: {error}. Train it again.") from error
    _check_known(name, card, known)
    return known


def _check_known(name: str, card: Card, known: KnownStates | None) -> None:
    """Refuse states that are of another network, or that the card does not describe."""
    if (known is None) != (card.novelty is None):
        raise BundleError(
            f"{name} contradicts itself: its card and its tensors do not agree on whether the "
            "states of what it was trained on are known. Measure them again."
        )
    if known is None:
        return
    others, named = known.others, 0 if card.novelty is None else len(card.novelty.others)
    if (0 if others is None else len(others.means)) != named:
        raise BundleError(
            f"{name} contradicts itself: its card names {named} kinds of other things, and its "
            "tensors have another number. Measure them again."
        )
    width, classes = _skeleton(card).head.in_features, len(card.class_names)
    labels = known.labels
    if known.width != width or (len(labels) and not 0 <= labels.min() <= labels.max() < classes):
        raise BundleError(
            f"{name} does not fit its card: the known states are not those of {classes} classes "
            f"of {width} numbers. Measure them again."
        )
    encoder = 0 if card.encoder is None else card.encoder.width
    if known.patches is not None and known.patches.width != encoder:
        raise BundleError(
            f"{name} does not fit its card: its known patches have {known.patches.width} numbers, "
            f"its encoder makes {encoder}. Measure them again."
        )


def _digest(state: Mapping[str, Tensor]) -> str:
    digest = hashlib.sha256()
    for key in sorted(state):
        tensor = state[key]
        digest.update(f"{key}|{tensor.dtype}|{tuple(tensor.shape)}|".encode())
        digest.update(tensor.contiguous().flatten().numpy().tobytes())
    return digest.hexdigest()


def _answer(bundle: Bundle) -> list[float]:
    import torch

    card = bundle.card
    inputs: tuple[torch.Tensor, ...]
    if card.encoder is not None:
        inputs = test_patches(card.encoder.width)
    else:
        inputs = (test_input(len(card.channels), card.crop.size),)
    with torch.inference_mode():
        logits = bundle.model()(*inputs).logits
    return [float(value) for value in logits.flatten()]


def _check_answer(name: str, bundle: Bundle) -> None:
    vector = bundle.card.test_vector
    if vector is None:
        raise BundleError(f"{name} has no test vector. Save it again with this plugin.")
    got = _answer(bundle)
    if len(got) != len(vector.logits):
        raise BundleError(f"{name} has a test vector of another length. Get the file again.")
    worst = max(abs(a - b) for a, b in zip(got, vector.logits, strict=True))
    if not worst <= vector.tolerance:
        raise BundleError(
            f"{name} does not compute what it did when saved (a logit differs by {worst:.3g}). "
            "The file or this version of the plugin is at fault; do not trust its results."
        )


def _first_line(error: Exception) -> str:
    if isinstance(error, ValidationError):
        first = error.errors()[0]
        return f"{'.'.join(map(str, first['loc']))}: {first['msg']}"
    return str(error).splitlines()[0] if str(error) else type(error).__name__
