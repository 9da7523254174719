"""Whether this processor trains faster in bfloat16: asked at run time, never assumed."""

from __future__ import annotations

import torch

__all__ = ["trains_in_bfloat16"]


def trains_in_bfloat16(device: str = "cpu") -> bool:
    """Say whether a device has instructions for bfloat16 products.

    On a CPU that has none, training in bfloat16 was 8 times slower than in
    float32; with them, float32 is the slower one.

    Parameters
    ----------
    device : str
        A torch device.
    """
    kind = torch.device(device).type
    if kind == "cuda":
        return bool(torch.cuda.is_bf16_supported(including_emulation=False))
    if kind != "cpu":
        return False
    try:
        has = torch.cpu.get_capabilities()
    except AttributeError:  # before torch 2.12: what cannot be asked is not assumed
        return False
    return bool(has.get("amx_bf16") or has.get("avx512_bf16") or has.get("bf16"))
