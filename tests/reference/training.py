"""Training, slowly and plainly: losses token by token, big_vision's optimiser in numpy.

Sources: big_vision ``trainers/proj/paligemma/train.py``, ``trainers/proj/image_text/siglip.py``,
``optax.py``; for Muon, K. Jordan and others, kellerjordan.github.io/posts/muon.
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


def near_loss(
    logits: Sequence[float], target: int, *, first: int, count: int, spread: float
) -> float:
    """Cross entropy against a bell around one token, among its likes and up to two spreads away."""
    reach = max(1, round(2 * spread))
    known = range(max(first, target - reach), min(first + count, target + reach + 1))
    weights = [math.exp(-0.5 * ((token - target) / spread) ** 2) for token in known]
    shares = [weight / sum(weights) for weight in weights]
    each = [cross_entropy(logits, token) for token in known]
    return sum(share * loss for share, loss in zip(shares, each, strict=True))


def share_loss(logits: Floats, shares: Floats) -> float:
    """Binary cross entropy with shares, answer by answer: summed over columns, mean over rows."""
    total = 0.0
    for row, wanted in zip(logits, shares, strict=True):
        for value, share in zip(row.tolist(), wanted.tolist(), strict=True):
            chance = 1 / (1 + math.exp(-value))
            total -= share * math.log(chance) + (1 - share) * math.log(1 - chance)
    return total / len(logits)


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


def quintic(matrix: Floats) -> Floats:
    """Muon's five steps of an odd polynomial, on the singular values themselves."""
    left, sizes, right = np.linalg.svd(matrix.astype(np.float64), full_matrices=False)
    sizes = sizes / np.sqrt((sizes**2).sum())
    for _ in range(5):
        sizes = 3.4445 * sizes - 4.7750 * sizes**3 + 2.0315 * sizes**5
    return (left * sizes) @ right


class Muon:
    """Muon on one matrix, with decay beside the rate.

    Nesterov's momentum m <- beta m + g; update = -share * (rate * stretch * quintic(g + beta m) +
    decay * matrix), stretch the root of rows by columns, at least 1.
    """

    def __init__(self, matrix: Floats, *, rate: float, beta: float, decay: float = 0.0) -> None:
        self.matrix = matrix.astype(np.float64)
        self.rate, self.beta, self.decay = rate, beta, decay
        self.momentum = np.zeros(matrix.shape)

    def step(self, gradient: Floats, share: float) -> None:
        """Move the matrix."""
        self.momentum = self.beta * self.momentum + gradient
        rows, columns = self.matrix.shape
        turned = math.sqrt(max(1.0, rows / columns)) * quintic(gradient + self.beta * self.momentum)
        self.matrix = self.matrix - share * (self.rate * turned + self.decay * self.matrix)


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
