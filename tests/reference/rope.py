"""Rotary positions as turns in the complex plane. Source: RoFormer, arXiv 2104.09864."""

from __future__ import annotations

import cmath

import numpy as np
from numpy.typing import NDArray

Floats = NDArray[np.float64]


def rotate(x: Floats, positions: NDArray[np.int64], base: float) -> Floats:
    """x [B H T D], positions [B T] -> [B H T D].

    Channel j of the first half and channel j of the second are one complex number; at position p
    it is turned by p / base^(2j / D). (Gemma pairs halves where RoFormer pairs neighbours.)
    """
    batch, heads, length, width = x.shape
    half = width // 2
    out = np.zeros_like(x)
    for b in range(batch):
        for h in range(heads):
            for t in range(length):
                for j in range(half):
                    angle = float(positions[b, t]) / base ** (2 * j / width)
                    number = complex(x[b, h, t, j], x[b, h, t, j + half]) * cmath.exp(1j * angle)
                    out[b, h, t, j], out[b, h, t, j + half] = number.real, number.imag
    return out
