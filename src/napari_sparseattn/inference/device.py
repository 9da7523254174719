"""Where to compute: chosen, described, and what to do when memory runs out."""

from __future__ import annotations

import functools
import platform

__all__ = ["available_devices", "choose_device", "describe_device", "is_out_of_memory"]


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
    return f"CPU: {_processor()}, {torch.get_num_threads()} threads"


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
