"""Attention, one query at a time. Source: "Attention is all you need", arXiv 1706.03762, eq. 1."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

Floats = NDArray[np.float64]


def attend(
    q: Floats,
    k: Floats,
    v: Floats,
    mask: NDArray[np.bool_] | None,
    *,
    scale: float | None = None,
    cap: float | None = None,
) -> Floats:
    """q [B N T H], k and v [B K S H], mask [B 1 T S] or [B 1 1 S] -> [B N T H].

    Grouped heads as in arXiv 2305.13245: query heads in order, N/K of them to a key-value head.
    Scores are multiplied by ``scale`` and bent into -cap..cap, as in arXiv 2408.00118, section 2.
    """
    batch, heads, length, head_dim = q.shape
    groups, slots = k.shape[1], k.shape[2]
    out = np.zeros_like(q)
    for b in range(batch):
        for n in range(heads):
            shared = n // (heads // groups)
            for t in range(length):
                seen = range(slots)
                if mask is not None:
                    row = mask[b, 0, t if mask.shape[2] > 1 else 0]
                    seen = [s for s in range(slots) if row[s]]
                scores = np.array([q[b, n, t] @ k[b, shared, s] for s in seen])
                scores = scores / head_dim**0.5 if scale is None else scores * scale
                scores = scores if cap is None else cap * np.tanh(scores / cap)
                weights = np.exp(scores - scores.max())
                weights /= weights.sum()
                for s, weight in zip(seen, weights, strict=True):
                    out[b, n, t] += weight * v[b, shared, s]
    return out
