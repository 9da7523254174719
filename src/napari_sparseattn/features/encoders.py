"""What turns a patch into numbers: two embedded encoders, and pretrained networks by name."""

from __future__ import annotations

import abc
import contextlib
import functools
import hashlib
import importlib
import json
import logging
import math
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt

from ..device import choose_device
from .licences import encoder_licence
from .registry import ENCODERS, EncoderEntry, find_entry

if TYPE_CHECKING:
    import torch

__all__ = [
    "EMBEDDED",
    "TISSUE",
    "Encoder",
    "EncoderError",
    "MissingLibraryError",
    "TissueMobilenet",
    "encoder_licence",
    "load_encoder",
]

#: The encoder that nothing was trained for.
EMBEDDED = "stain-texture"
#: The encoder of H&E that is taken where nobody says: it was tuned on real tissue.
TISSUE = "tissue-mobilenet"
#: Its weights; see scripts/train_tissue_mobilenet.py.
TISSUE_FILE = Path(__file__).parents[1] / "weights" / "encoders" / f"{TISSUE}.safetensors"
_TISSUE_VERSION = "tissue-mobilenet 1"
_TISSUE_SIDES = (64, 512)
# More at once take longer: their maps leave the cache of a processor.
_CACHED_PIXELS = 16 * 128**2
#: Mean and spread of its numbers; see scripts/scale_stain_texture.py.
SCALE_FILE = Path(__file__).with_name("stain_texture_scale.json")
_VERSION = "stain-texture 1"
_MOST_SPREADS = 8.0
#: Widths are multiples of this, as SPAN needs them; narrower outputs get zeros at their end.
WIDTH_STEP = 128
_SIZE, _MPP = 224, 0.5
# The coarsest of the embedded encoder's octaves needs it.
_LEAST = 192
#: Of ImageNet's pictures; taken where a network does not state its own.
_MEAN, _STD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)


class EncoderError(ValueError):
    """An encoder that cannot be used, and what to do about it."""


class MissingLibraryError(EncoderError, ImportError):
    """An encoder that needs a library that is not installed, or does not work."""


class Encoder(abc.ABC):
    """Turns patches into feature vectors; the same ones for the same patches.

    Attributes
    ----------
    name : str
        As `load_encoder` takes it.
    width : int
        Numbers per patch F, a multiple of 128.
    hash : str
        sha256 of its weights and of how patches are prepared.
    licence : str
        What may be done with it; to be shown before use.
    size : int
        Pixels along a patch that it expects.
    pixel_size : float
        µm per pixel that it is meant for.
    parallel : bool
        Whether several threads call it at once, each on one core. Many small
        operations, shared among cores one by one, wait more than they work,
        and ten times as long where another program keeps a core busy.
    """

    name: str
    width: int
    hash: str
    licence: str
    size: int = _SIZE
    pixel_size: float = _MPP
    parallel: bool = False

    @abc.abstractmethod
    def __call__(self, patches: npt.NDArray[np.uint8]) -> npt.NDArray[np.float32]:
        """Return features (B, F) float32 of patches (B, S, S, 3) uint8.

        Raises
        ------
        ValueError
            If the patches have another shape or type.
        """


def load_encoder(name: str = TISSUE, device: str = "auto") -> Encoder:
    """Load an encoder.

    Parameters
    ----------
    name : str
        ``"tissue-mobilenet"`` or ``"stain-texture"``, which are embedded;
        ``"transformers:NAME"`` or ``"transformers:FOLDER"``; ``"timm:NAME"``
        where timm is installed. A
        name that is no folder is downloaded from the Hugging Face hub, by that
        library, if it is not there yet. Or a short name of `registry.ENCODERS`,
        such as ``"dinobloom-s"``, whose revision and normalisation are known.
        Show `encoder_licence` first.
    device : str
        See `choose_device`.

    Raises
    ------
    MissingLibraryError
        If transformers or timm is needed and not installed; an ImportError.
    EncoderError
        If there is no such encoder, or it is no vision network, or its weights
        are not in safetensors format or not complete.
    """
    kind, _, which = name.partition(":")
    if name == TISSUE:
        return TissueMobilenet(choose_device(device))
    if name == EMBEDDED:
        return StainTexture(choose_device(device))
    listed, entry = find_entry(name), ENCODERS.get(name.lower())
    if listed is not None and listed.refused:
        raise EncoderError(f"{name} cannot be used here: {listed.refused}.")
    if entry is not None:
        kind, _, which = entry.source.partition(":")
    if kind == "transformers" and which:
        return _as_known(_transformers_encoder(which, choose_device(device), entry), name, entry)
    if kind == "timm" and which:
        return _as_known(_timm_encoder(which, choose_device(device), entry), name, entry)
    raise EncoderError(
        f"there is no encoder {name!r}; use '{TISSUE}', '{EMBEDDED}', "
        f"'transformers:NAME_OR_FOLDER', 'timm:NAME', or one of {', '.join(ENCODERS)}"
    )


class StainTexture(Encoder):
    """Colours, stains and texture of a patch: 256 numbers, no training, no download.

    Optical densities are separated into haematoxylin, eosin and the rest
    (Ruifrok and Johnston 2001). Of these: histograms and moments, energy and
    sign by octaves and how that varies at coarser octaves, directions, local
    binary patterns, density of dark blobs of the size of nuclei, gaps. Each is
    shifted and scaled by a fixed constant, measured on a CC0 slide.

    Parameters
    ----------
    device : str
        Where to compute.
    """

    name = EMBEDDED
    licence = "BSD-3-Clause, part of napari-sparseattn: free to use, commercially too"

    def __init__(self, device: str = "cpu") -> None:
        self._device = device
        self.parallel = device == "cpu"
        self._mean, self._spread = _scale()
        self.width = len(self._mean)
        content = SCALE_FILE.read_bytes()
        self.hash = hashlib.sha256(_VERSION.encode() + b"\0" + content).hexdigest()

    def __call__(self, patches: npt.NDArray[np.uint8]) -> npt.NDArray[np.float32]:
        """See `Encoder`; patches of any side from 192 pixels."""
        import torch

        from ._stain_texture import describe

        _check(patches, _LEAST)
        with torch.inference_mode():
            raw = describe(torch.from_numpy(np.ascontiguousarray(patches)).to(self._device))
        numbers = (raw.cpu().numpy() - self._mean) / self._spread
        # What no tissue shows must not outweigh all else.
        scaled: npt.NDArray[np.float32] = np.clip(numbers, -_MOST_SPREADS, _MOST_SPREADS)
        return scaled.astype(np.float32, copy=False)


class TissueMobilenet(Encoder):
    """ImageNet's MobileNetV2 tuned on real H&E: 256 numbers, no download, no other library.

    It was tuned on patches of lymph nodes (PatchCamelyon) and tiles of
    colorectal biopsies (EBHI-Seg), at 0.8 to 1.6 µm per pixel and with stains
    changed at random, by ``scripts/train_tissue_mobilenet.py``. Its numbers
    have about zero mean and unit spread on those. The weights are kept as
    float16 and computed with as float32.

    Parameters
    ----------
    device : str
        Where to compute.
    file : pathlib.Path, optional
        Other weights of the same network, such as those of one fold.

    Raises
    ------
    EncoderError
        If its file is damaged.
    """

    name = TISSUE
    size = 128
    pixel_size = 1.0

    def __init__(self, device: str = "cpu", file: Path | None = None) -> None:
        import torch
        from safetensors import SafetensorError
        from safetensors.torch import load

        from ..models.mobilenet import WIDTH, TissueNetwork

        self.width, self._device, self.parallel = WIDTH, device, device == "cpu"
        self.licence = encoder_licence(TISSUE)
        network = TissueNetwork()
        try:
            content = (file or TISSUE_FILE).read_bytes()
            network.load_state_dict({name: each.float() for name, each in load(content).items()})
        except (OSError, SafetensorError, RuntimeError) as error:
            raise EncoderError(
                f"the file of the encoder {TISSUE} is damaged ({error}); install "
                "napari-sparseattn again"
            ) from error
        self.hash = hashlib.sha256(_TISSUE_VERSION.encode() + b"\0" + content).hexdigest()
        self._network = network.eval().requires_grad_(False).to(device)
        # Convolutions are faster so, and results the same.
        self._network.to(memory_format=torch.channels_last)  # type: ignore[call-overload]
        self._mean = torch.tensor(_MEAN, device=device)[:, None, None] * 255
        self._std = torch.tensor(_STD, device=device)[:, None, None] * 255

    def __call__(self, patches: npt.NDArray[np.uint8]) -> npt.NDArray[np.float32]:
        """See `Encoder`; patches of any side from 64 to 512 pixels."""
        import torch

        _check(patches, *_TISSUE_SIDES)
        features = np.empty((len(patches), self.width), np.float32)
        together = len(patches)
        if self._device == "cpu":
            together = max(1, _CACHED_PIXELS // math.prod(patches.shape[1:3]))
        with torch.inference_mode():
            for start in range(0, len(patches), together):
                part = np.ascontiguousarray(patches[start : start + together])
                pixels = torch.from_numpy(part).to(self._device)
                images = (pixels.permute(0, 3, 1, 2).float() - self._mean) / self._std
                images = images.contiguous(memory_format=torch.channels_last)
                features[start : start + together] = self._network(images).float().cpu().numpy()
        return features


class NetworkEncoder(Encoder):
    """A pretrained network.

    Parameters
    ----------
    name, licence, size
        See `Encoder`.
    network : torch.nn.Module
        Gives one vector per image, or what `_vector` takes one from.
    pooled : bool
        Whether the network's own pooled vector is to be used.
    mean, std : sequence of float
        By channel, of values 0..1.
    device : str
        Where to compute.
    """

    def __init__(
        self,
        name: str,
        network: torch.nn.Module,
        *,
        licence: str,
        size: int,
        pooled: bool = True,
        mean: tuple[float, ...] = _MEAN,
        std: tuple[float, ...] = _STD,
        device: str = "cpu",
    ) -> None:
        import torch

        self.name, self.licence, self.size = name, licence, size
        self._pooled, self._device = pooled, device
        # Convolutions are faster so, and results the same.
        self._network = network.eval().to(device)
        self._network.to(memory_format=torch.channels_last)  # type: ignore[call-overload]
        self._mean = torch.tensor(mean, device=device)[:, None, None] * 255
        self._std = torch.tensor(std, device=device)[:, None, None] * 255
        self.hash = _network_hash(network, (mean, std, pooled, size))
        self._own_width = self._encode(np.zeros((1, size, size, 3), np.uint8)).shape[1]
        self.width = -(-self._own_width // WIDTH_STEP) * WIDTH_STEP

    def __call__(self, patches: npt.NDArray[np.uint8]) -> npt.NDArray[np.float32]:
        """See `Encoder`; patches have the side `size`."""
        _check(patches, self.size, self.size)
        features = self._encode(patches)
        return np.pad(features, ((0, 0), (0, self.width - self._own_width)))

    def _encode(self, patches: npt.NDArray[np.uint8]) -> npt.NDArray[np.float32]:
        import torch

        with torch.inference_mode():
            pixels = torch.from_numpy(np.ascontiguousarray(patches)).to(self._device)
            images = (pixels.permute(0, 3, 1, 2).float() - self._mean) / self._std
            images = images.contiguous(memory_format=torch.channels_last)
            vectors = _vector(self._network(images), self._pooled)
        features: npt.NDArray[np.float32] = vectors.float().cpu().numpy()
        return features


def _vector(output: Any, pooled: bool) -> torch.Tensor:
    """Return one vector per image: the network's own, the class token, or the map's mean."""
    import torch

    if isinstance(output, torch.Tensor):
        return output.flatten(1)
    own = getattr(output, "pooler_output", None)
    if pooled and own is not None:
        vector: torch.Tensor = own.flatten(1)
        return vector
    last: torch.Tensor = output.last_hidden_state
    return last[:, 0] if last.ndim == 3 else last.mean(dim=(2, 3))


def _check(patches: npt.NDArray[np.uint8], least: int, most: int = 4096) -> None:
    shape = patches.shape
    if (
        patches.dtype != np.uint8
        or len(shape) != 4
        or shape[3] != 3
        or shape[1] != shape[2]
        or not least <= shape[1] <= most
    ):
        sides = f"{least}" if least == most else f"{least} to {most}"
        raise ValueError(
            f"the encoder takes patches (B, S, S, 3) of bytes with S = {sides}, got "
            f"{patches.dtype} {shape}"
        )


@functools.cache
def _scale() -> tuple[npt.NDArray[np.float32], npt.NDArray[np.float32]]:
    table = json.loads(SCALE_FILE.read_text(encoding="utf-8"))
    return np.array(table["mean"], np.float32), np.array(table["spread"], np.float32)


def _network_hash(network: torch.nn.Module, prepared: Any) -> str:
    import torch

    digest = hashlib.sha256(json.dumps(prepared).encode())
    for name, tensor in sorted(network.state_dict().items()):
        digest.update(f"\0{name}\0{tensor.dtype}\0{tuple(tensor.shape)}\0".encode())
        digest.update(tensor.detach().cpu().contiguous().reshape(-1).view(torch.uint8).numpy())
    return digest.hexdigest()


def _as_known(encoder: Encoder, name: str, entry: EncoderEntry | None) -> Encoder:
    """Give an encoder the name it was asked for, and what the table says of its scale."""
    if entry is not None:
        encoder.name, encoder.licence = name, entry.licence
        if entry.pixel_size is not None:
            encoder.pixel_size = entry.pixel_size
    return encoder


def _transformers_encoder(which: str, device: str, entry: EncoderEntry | None = None) -> Encoder:
    try:
        from transformers import AutoModel
    except (ImportError, RuntimeError) as error:
        raise MissingLibraryError(
            f"The encoder transformers:{which} needs transformers: pip install "
            f"'napari-sparseattn[encoders]'{_why(error)}"
        ) from error
    options: dict[str, Any] = {
        "trust_remote_code": False,
        "local_files_only": Path(which).is_dir(),
    }
    if entry is not None and entry.revision is not None:
        options["revision"] = entry.revision
    try:
        with _quiet():
            network, info = AutoModel.from_pretrained(
                which, use_safetensors=True, output_loading_info=True, **options
            )
    except (OSError, ValueError, KeyError) as error:
        raise EncoderError(
            f"transformers:{which} cannot be loaded ({error}). Give the name of a vision network "
            "on the hub, or the folder that `save_pretrained` wrote, with weights in safetensors "
            "format; networks that bring code of their own are not run"
        ) from error
    missing = sorted(info["missing_keys"])
    # The pooling layer is often left out of a file; transformers then fills it at random.
    unpooled = [key for key in missing if "pooler" not in key]
    if unpooled:
        raise EncoderError(
            f"transformers:{which} lacks {len(unpooled)} of its weights ({unpooled[0]}): its "
            "features would be random. Choose a complete one"
        )
    config = network.config
    network = getattr(network, "vision_model", network)
    mean, std, size = _preparation(which, options, getattr(config, "vision_config", config))
    try:
        return NetworkEncoder(
            f"transformers:{which}",
            network,
            licence=encoder_licence(f"transformers:{which}"),
            size=size,
            pooled=not missing,
            mean=mean,
            std=std,
            device=device,
        )
    except (TypeError, ValueError, AttributeError) as error:
        raise EncoderError(
            f"transformers:{which} does not take images ({type(network).__name__}: {error}); "
            "choose a vision network"
        ) from error


def _preparation(
    which: str, options: dict[str, Any], config: Any
) -> tuple[tuple[float, ...], tuple[float, ...], int]:
    """Return mean, std and side as the network's own preprocessor states them, else usual ones."""
    from transformers import ImageProcessingMixin

    try:
        known = {key: value for key, value in options.items() if key != "trust_remote_code"}
        stated, _ = ImageProcessingMixin.get_image_processor_dict(which, **known)
    except OSError:
        stated = {}
    mean = tuple(map(float, stated.get("image_mean") or _MEAN))
    std = tuple(map(float, stated.get("image_std") or _STD))
    size: Any = (
        stated.get("crop_size") or stated.get("size") or getattr(config, "image_size", _SIZE)
    )
    if isinstance(size, dict):
        size = size.get("height") or size.get("shortest_edge") or _SIZE
    if isinstance(size, list | tuple):
        size = size[0]
    if len(mean) != 3 or len(std) != 3 or min(std) <= 0 or not 16 <= int(size) <= 4096:
        raise EncoderError(f"transformers:{which} states no usable preparation of colour images")
    return mean, std, int(size)


@contextlib.contextmanager
def _quiet() -> Iterator[None]:
    """Silence transformers' table of left-out weights, which are checked here."""
    from transformers.utils import logging as reports

    before = reports.get_verbosity()
    reports.set_verbosity(logging.ERROR)
    try:
        yield
    finally:
        reports.set_verbosity(before)


def _why(error: Exception) -> str:
    """Say in brackets what is wrong with a library that is there but does not work."""
    if isinstance(error, ModuleNotFoundError):
        return ""
    first = str(error).strip().splitlines()[:1] or [type(error).__name__]
    return f" (it is there, but fails: {first[0][:200]})"


def _timm_encoder(which: str, device: str, entry: EncoderEntry | None = None) -> Encoder:
    try:
        timm = importlib.import_module("timm")
        from huggingface_hub import hf_hub_download
    except (ImportError, RuntimeError) as error:
        # torchvision of another build than torch fails with a RuntimeError.
        raise MissingLibraryError(
            f"The encoder timm:{which} needs timm (and torchvision, of the very build of your "
            f"torch): pip install timm huggingface_hub{_why(error)}"
        ) from error
    from safetensors.torch import load_file

    try:
        # Not `pretrained`: timm falls back to pickled weights.
        network = timm.create_model(which, pretrained=False, num_classes=0)
        stated = timm.data.resolve_model_data_config(network)
        source = which.removeprefix("hf-hub:") if which.startswith("hf-hub:") else None
        source = source or network.pretrained_cfg["hf_hub_id"]
        revision = None if entry is None else entry.revision
        state = load_file(hf_hub_download(source, "model.safetensors", revision=revision))
        missing, _ = network.load_state_dict(state, strict=False)
    except (OSError, ValueError, RuntimeError, KeyError) as error:
        raise EncoderError(f"timm:{which} cannot be loaded ({error})") from error
    if missing:
        raise EncoderError(f"timm:{which} lacks weights ({missing[0]}): choose another")
    return NetworkEncoder(
        f"timm:{which}",
        network,
        licence=encoder_licence(f"timm:{which}"),
        size=int(stated["input_size"][-1]),
        mean=tuple(stated["mean"]) if entry is None or entry.mean is None else entry.mean,
        std=tuple(stated["std"]) if entry is None or entry.std is None else entry.std,
        device=device,
    )
