"""Root-mean-square normalisation. Source: arXiv 1910.07467, eq. 4, with Gemma's (1 + scale)."""

from __future__ import annotations

import math

import numpy as np
from numpy.typing import NDArray

Floats = NDArray[np.float64]


def rms_norm(x: Floats, scale: Floats, eps: float) -> Floats:
    """x [N D], scale [D] -> [N D]."""
    out = np.zeros_like(x)
    for n, row in enumerate(x):
        size = math.sqrt(sum(value * value for value in row) / len(row) + eps)
        for d, value in enumerate(row):
            out[n, d] = value / size * (1 + scale[d])
    return out
