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
