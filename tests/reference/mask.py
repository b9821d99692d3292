"""The prefix-LM mask as big_vision states it (``models/proj/paligemma``): by cumulative sums."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray


def from_mask_ar(mask_ar: NDArray[np.int64]) -> NDArray[np.bool_]:
    """mask_ar int [B T] -> bool [B T T].

    With c the cumulative sum of mask_ar, query i may look at key j if and only if c[j] <= c[i]:
    zeros continue a block whose members see each other, each one opens a new block.
    """
    batch, length = mask_ar.shape
    out = np.zeros((batch, length, length), dtype=np.bool_)
    for b in range(batch):
        for i in range(length):
            for j in range(length):
                out[b, i, j] = mask_ar[b, : j + 1].sum() <= mask_ar[b, : i + 1].sum()
    return out
