"""Narrow weights as they rest: products with bfloat16 and float16 by the native library."""

from __future__ import annotations

import torch

from heliodor.nn.linear import offer
from heliodor.quant import kernels

__all__ = ["accelerate"]

_VECTORS = ("avx512-amx", "avx512-vnni", "avx2", "neon")


def accelerate() -> bool:
    """Let the float layers of this process multiply narrow weights natively on the CPU.

    Nothing is stored in another way, and results stay those of float32 arithmetic on the rounded
    weights. Without a library for this processor's vectors the layers widen blocks through torch,
    as before.

    Returns:
        Whether the native library does it from now on.
    """
    native = kernels.available() in _VECTORS
    offer(torch.bfloat16, kernels.linear_bf16 if native else None)
    offer(torch.float16, kernels.linear_f16 if native else None)
    return native
