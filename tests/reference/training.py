"""Training, slowly and plainly: losses token by token, big_vision's optimiser in numpy.

Sources: big_vision ``trainers/proj/paligemma/train.py``, ``trainers/proj/image_text/siglip.py``,
``optax.py``.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence

import numpy as np
from numpy.typing import NDArray

Floats = NDArray[np.float64]


def cross_entropy(logits: Sequence[float], target: int) -> float:
    """Minus the log-probability of one token."""
    top = max(logits)
    return top + math.log(sum(math.exp(value - top) for value in logits)) - logits[target]


def answer_loss(logits: Floats, tokens: Sequence[int], prefix: int) -> float:
    """Mean over the tokens behind the prefix, each predicted from the place before it.

    Args:
        logits: [T V] of one row.
        tokens: the row without padding.
        prefix: tokens of its prefix.
    """
    each = [
        cross_entropy(logits[place - 1].tolist(), tokens[place])
        for place in range(prefix, len(tokens))
    ]
    return sum(each) / max(len(each), 1)


def pair_loss(logits: Floats, same: NDArray[np.bool_]) -> float:
    """SigLIP's loss, pair by pair: binary cross entropy summed over texts, mean over images."""
    total = 0.0
    for image in range(len(logits)):
        for text in range(len(logits)):
            chance = 1 / (1 + math.exp(-logits[image, text]))
            total -= math.log(chance if same[image, text] else 1 - chance)
    return total / len(logits)


class Adam:
    """``optax.scale_by_adam`` behind ``clip_by_global_norm``, decay beside the rate.

    update = -share * (rate * adam + decay * parameter), decay only where it is said to be.
    """

    def __init__(
        self,
        parameters: Mapping[str, Floats],
        *,
        rate: float,
        decay: float,
        decayed: set[str],
        clip: float,
        betas: tuple[float, float] = (0.9, 0.999),
        eps: float = 1e-8,
    ) -> None:
        self.parameters = {name: value.astype(np.float64) for name, value in parameters.items()}
        self.rate, self.decay, self.decayed, self.clip = rate, decay, decayed, clip
        self.betas, self.eps = betas, eps
        self.means = {name: np.zeros(value.shape) for name, value in parameters.items()}
        self.squares = {name: np.zeros(value.shape) for name, value in parameters.items()}
        self.count = 0

    def step(self, gradients: Mapping[str, NDArray[np.floating]], share: float) -> float:
        """Update every parameter -> the norm of all gradients together."""
        norm = math.sqrt(sum(float((g.astype(np.float64) ** 2).sum()) for g in gradients.values()))
        scale = 1.0 if norm <= self.clip else self.clip / norm
        self.count += 1
        first, second = self.betas
        for name, gradient in gradients.items():
            g = gradient.astype(np.float64) * scale
            self.means[name] = first * self.means[name] + (1 - first) * g
            self.squares[name] = second * self.squares[name] + (1 - second) * g**2
            mean = self.means[name] / (1 - first**self.count)
            square = self.squares[name] / (1 - second**self.count)
            adam = mean / (np.sqrt(square) + self.eps)
            shrink = self.decay * self.parameters[name] if name in self.decayed else 0.0
            self.parameters[name] = self.parameters[name] - share * (self.rate * adam + shrink)
        return norm


class CodeBook:
    """A code book of running means, code by code.

    Source: van den Oord et al., arXiv 1711.00937, appendix A.1.
    """

    def __init__(self, rows: Floats, average: float) -> None:
        self.rows = rows.astype(np.float64)
        self.counts = [1.0] * len(rows)
        self.sums = [row.copy() for row in self.rows]
        self.average = average

    def step(self, vectors: Floats) -> list[int]:
        """The code nearest to each vector [N D]; then every code moves towards its vectors."""
        codes = [int(((self.rows - vector) ** 2).sum(-1).argmin()) for vector in vectors]
        for code in range(len(self.rows)):
            mine = [vector for vector, chosen in zip(vectors, codes, strict=True) if chosen == code]
            total = np.sum(mine, axis=0) if mine else np.zeros(self.rows.shape[1])
            keep = self.average
            self.counts[code] = keep * self.counts[code] + (1 - keep) * len(mine)
            self.sums[code] = keep * self.sums[code] + (1 - keep) * total
        self.rows = np.stack([s / n for s, n in zip(self.sums, self.counts, strict=True)])
        return codes
