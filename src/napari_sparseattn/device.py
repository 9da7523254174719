"""Where to compute: chosen, described, and what to do when memory runs out."""

from __future__ import annotations

import contextlib
import functools
import os
import platform
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from torch import Tensor

__all__ = [
    "PRECISIONS",
    "at_least_float32",
    "available_devices",
    "choose_device",
    "computing",
    "describe_device",
    "is_out_of_memory",
]

#: What models can compute in.
PRECISIONS = ("float32", "bfloat16")


def at_least_float32(x: Tensor) -> Tensor:
    """Promote half precision; leave float32 and float64 as they are."""
    import torch

    return x.to(torch.promote_types(x.dtype, torch.float32))


def available_devices() -> list[str]:
    """Return the devices that can be used here, best first."""
    import torch

    found = (
        [f"cuda:{i}" for i in range(torch.cuda.device_count())] if torch.cuda.is_available() else []
    )
    if torch.backends.mps.is_available():
        found.append("mps")
    return [*found, "cpu"]


def choose_device(name: str = "auto") -> str:
    """Resolve a device name.

    Parameters
    ----------
    name : str
        ``"auto"`` takes CUDA, then MPS, then the CPU; otherwise one of
        `available_devices`, or ``"cuda"`` for the first of them.

    Raises
    ------
    ValueError
        If that device is not there; the message lists those that are.
    """
    found = available_devices()
    if name == "auto":
        return found[0]
    wanted = "cuda:0" if name == "cuda" else name
    if wanted not in found:
        raise ValueError(
            f"The device '{name}' is not available here; choose 'auto' or one of {found}."
        )
    return wanted


def describe_device(name: str) -> str:
    """Return what a person would call the device, e.g. its product name."""
    import torch

    if name.startswith("cuda"):
        return f"GPU: {torch.cuda.get_device_name(torch.device(name))}"
    if name == "mps":
        return "GPU: Apple Metal"
    threads = torch.get_num_threads()
    return f"CPU: {_processor()}, {threads} thread" + "s" * (threads != 1)


def computing(
    device: str, precision: str | None = None
) -> contextlib.AbstractContextManager[object]:
    """Return a context in which models compute in a precision, in this thread.

    Parameters
    ----------
    device : str
        As `choose_device` returns it.
    precision : {"float32", "bfloat16"}, optional
        ``"bfloat16"`` lets torch compute in it where autocast holds that to be
        safe; logits and attention stay float32. By default what
        ``NAPARI_SPARSEATTN_PRECISION`` says, and else what holds already.

    Raises
    ------
    ValueError
        If there is no such precision.
    """
    import torch

    chosen = precision or os.environ.get("NAPARI_SPARSEATTN_PRECISION")
    if chosen not in (None, "", *PRECISIONS):
        raise ValueError(f"The precision '{chosen}' is not known; choose one of {PRECISIONS}.")
    kind = device.partition(":")[0]
    # Apple's Metal has no autocast to it in every version.
    if chosen != "bfloat16" or kind not in ("cpu", "cuda"):
        return contextlib.nullcontext()
    return torch.autocast(kind, torch.bfloat16)


def is_out_of_memory(error: BaseException) -> bool:
    """Tell whether an error of torch's means that memory ran out."""
    import torch

    if isinstance(error, (torch.cuda.OutOfMemoryError, MemoryError)):
        return True
    text = str(error).lower()
    return isinstance(error, RuntimeError) and (
        "out of memory" in text or "can't allocate memory" in text or "alloc_cpu" in text
    )


@functools.cache
def _processor() -> str:
    return platform.processor() or platform.machine() or "processor"
