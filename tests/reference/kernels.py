"""Quantised products in plain numpy: what every native path must give, to the bit.

Integers are summed in int64 where nothing can overflow; the few float32 operations come in the
order that docs/design/kernels.md states.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

F32 = np.float32


def rows(x: NDArray) -> tuple[NDArray, NDArray, NDArray]:
    """x float32 [M K] -> codes int64 [M K], scales float32 [M], sums int64 [M]."""
    m, k = x.shape
    codes, scales = np.zeros((m, k), np.int64), np.zeros(m, F32)
    for i, row in enumerate(x):
        if not np.isfinite(row).all():
            scales[i] = np.nan
            continue
        most = np.abs(row).max(initial=F32(0))
        if most >= F32(1.5e-36):
            scales[i] = most / F32(127)
            codes[i] = np.rint(row * (F32(127) / most)).astype(np.int64)
    return codes, scales, codes.sum(1)


def product8(
    codes: NDArray, scales: NDArray, weight: NDArray, scale: NDArray, bias: NDArray | None
) -> NDArray:
    """Codes [M K] times int8 weights [N K] with scales [N] -> float32 [M N]."""
    total = codes @ weight.astype(np.int64).T
    assert np.abs(total).max(initial=0) < 2**31
    with np.errstate(over="ignore"):  # huge rows may end at infinity, as floats do
        out = total.astype(np.int32).astype(F32) * (scales[:, None] * scale[None, :])
        return out if bias is None else out + bias


def product4(
    codes: NDArray, scales: NDArray, weight: NDArray, group_scales: NDArray, bias: NDArray | None
) -> NDArray:
    """Codes [M K] times int4 weights [N K] with scales [N G], groups of 64 -> float32 [M N]."""
    out = np.zeros((codes.shape[0], weight.shape[0]), F32)
    for g in range(group_scales.shape[1]):
        part = slice(g * 64, (g + 1) * 64)
        total = codes[:, part] @ weight[:, part].astype(np.int64).T
        out = out + total.astype(F32) * group_scales[None, :, g]
    with np.errstate(over="ignore"):
        out = out * scales[:, None]
        return out if bias is None else out + bias
