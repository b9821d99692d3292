"""Slow, obvious versions of decoding: nucleus in numpy, beam search in plain Python, brute force.

``Toy`` is a recurrent language model of a few numbers. Its rows do not meet in one matrix product,
so a row gives the same bits alone and in a batch.
"""

from __future__ import annotations

import itertools
import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor


@dataclass
class ToyCache:
    state: Tensor  # [B D]

    def select(self, rows: Tensor) -> ToyCache:
        return ToyCache(self.state[rows])


class Toy:
    """state = tanh(state A + E[token]), logits = state O * sharpness."""

    def __init__(self, vocabulary: int, *, seed: int, sharpness: float = 3.0, width: int = 6):
        generator = torch.Generator().manual_seed(seed)
        self.vocabulary = vocabulary
        self.width = width
        self._recurrent = torch.randn(width, width, generator=generator) / width**0.5
        self._embedding = torch.randn(vocabulary, width, generator=generator)
        self._output = torch.randn(width, vocabulary, generator=generator) * sharpness / width**0.5
        self.calls = 0

    def prefill(self, prompts: Sequence[int]) -> tuple[Tensor, ToyCache]:
        """The prompt of a row is a number: the seed of its state."""
        states = [
            torch.randn(self.width, generator=torch.Generator().manual_seed(prompt))
            for prompt in prompts
        ]
        cache = ToyCache(torch.stack(states))
        return self._logits(cache.state), cache

    def step(self, tokens: Tensor, cache: ToyCache) -> Tensor:
        self.calls += 1
        mixed = (cache.state[:, :, None] * self._recurrent).sum(dim=1)
        cache.state = torch.tanh(mixed + self._embedding[tokens])
        return self._logits(cache.state)

    def _logits(self, state: Tensor) -> Tensor:
        return (state[:, :, None] * self._output).sum(dim=1)

    def logprobs_after(self, prompt: int, forbidden: Sequence[int] = ()) -> NextLogprobs:
        """From the tokens so far to the next log-probabilities, computed from scratch each time."""

        def after(tokens: tuple[int, ...]) -> np.ndarray:
            logits, cache = self.prefill([prompt])
            for token in tokens:
                logits = self.step(torch.tensor([token]), cache)
            return log_softmax(logits[0].numpy(), forbidden)

        return after


@dataclass
class ReaderCache:
    state: Tensor  # [B D]
    past: Tensor  # [B 1 + T D]: the states before and after each token of the last pass

    def select(self, rows: Tensor) -> ReaderCache:
        return ReaderCache(self.state[rows], self.past[rows])

    def retain(self, counts: Sequence[int], fresh: int) -> None:
        assert self.past.shape[1] == fresh + 1
        self.state = self.past[torch.arange(len(counts)), torch.tensor(counts)]


class ToyReader:
    """The same model taken apart: several tokens a pass, one after the other, so the same bits."""

    def __init__(self, toy: Toy):
        self.toy = toy
        self.vocabulary = toy.vocabulary
        self.passes: list[list[int]] = []  # [pass]: B, T
        self.rows: list[int] = []  # of the head, each time it was asked

    def prefill(self, prompts: Sequence[int]) -> tuple[Tensor, ReaderCache]:
        _, cache = self.toy.prefill(prompts)
        return cache.state, ReaderCache(cache.state, cache.state[:, None])

    def read(self, tokens: Tensor, cache: ReaderCache) -> Tensor:
        self.passes.append(list(tokens.shape))
        inner = ToyCache(cache.state)
        states = [inner.state]
        for column in tokens.unbind(1):
            self.toy.step(column, inner)
            states.append(inner.state)
        cache.state, cache.past = inner.state, torch.stack(states, dim=1)
        return cache.past[:, 1:]

    def logits(self, hidden: Tensor, rows: tuple[int, int] | Tensor | None = None) -> Tensor:
        logits = self.toy._logits(hidden)
        if rows is not None:
            logits = logits[:, slice(*rows)] if isinstance(rows, tuple) else logits[:, rows]
        self.rows.append(logits.shape[1])
        return logits


NextLogprobs = Callable[[tuple[int, ...]], np.ndarray]


def log_softmax(logits: np.ndarray, forbidden: Sequence[int] = ()) -> np.ndarray:
    out = logits.astype(np.float64)
    out[list(forbidden)] = -np.inf
    shifted = out - out.max()
    return shifted - np.log(np.exp(shifted).sum())


def nucleus(logits: np.ndarray, p: float, t: float) -> np.ndarray:
    """The distribution that TopP(p, t) samples from, float64 [V]."""
    probabilities = np.exp(log_softmax(logits / t))
    total, cutoff = 0.0, -np.inf
    for token in np.argsort(-probabilities, kind="stable"):
        total += probabilities[token]
        cutoff = logits[token]
        if total >= p:
            break
    kept = np.where(logits >= cutoff, probabilities, 0.0)
    return kept / kept.sum()


def best_of_all(
    after: NextLogprobs, *, vocabulary: int, eos: int, depth: int
) -> tuple[tuple[int, ...], float]:
    """The most likely sequence that ends in eos within ``depth`` tokens, by trying every one."""
    words = [token for token in range(vocabulary) if token != eos]
    best: tuple[tuple[int, ...], float] = ((), -np.inf)
    for length in range(depth):
        for body in itertools.product(words, repeat=length):
            tokens = (*body, eos)
            total = sum(after(tokens[:i])[token] for i, token in enumerate(tokens))
            best = max(best, (tokens, float(total)), key=lambda pair: pair[1])
    return best


def beam(
    after: NextLogprobs, *, vocabulary: int, eos: int, depth: int, size: int
) -> tuple[tuple[int, ...], float]:
    """The algorithm on lists: end every live one, keep the best; go on with the N best."""
    live: list[tuple[tuple[int, ...], float]] = [((), 0.0)]
    best: tuple[tuple[int, ...], float] = ((), -np.inf)
    for _ in range(depth):
        grown: list[tuple[tuple[int, ...], float]] = []
        for tokens, total in live:
            chances = after(tokens)
            ended = total + float(chances[eos])
            if ended > best[1]:
                best = ((*tokens, eos), ended)
            grown += [
                ((*tokens, token), total + float(chances[token]))
                for token in range(vocabulary)
                if token != eos and np.isfinite(chances[token])
            ]
        live = sorted(grown, key=lambda pair: -pair[1])[:size]
        if not live or live[0][1] < best[1]:
            break
    return best


OBJECT = re.compile(
    r"<loc(\d{4})><loc(\d{4})><loc(\d{4})><loc(\d{4})>((?:<seg\d{3}>)*)(?: ([a-z ]+?))?( ; |$)"
)


def objects(text: str) -> list[tuple[tuple[int, ...], int, str]]:
    """(box, number of seg, label) of each object; ValueError where the text is anything else."""
    found: list[tuple[tuple[int, ...], int, str]] = []
    position, more = 0, bool(text)
    while more:
        match = OBJECT.match(text, position)
        if match is None:
            raise ValueError(f"no object at {position} in {text!r}")
        box = tuple(int(match[i]) for i in range(1, 5))
        found.append((box, len(match[5]) // len("<seg000>"), match[6] or ""))
        position, more = match.end(), bool(match[7])
    return found


def iou(one: Sequence[int], other: Sequence[int]) -> float:
    """Of boxes (ymin, xmin, ymax, xmax), in shapely's words: intersection area over union area."""
    sides = [
        max(0, min(one[axis + 2], other[axis + 2]) - max(one[axis], other[axis])) for axis in (0, 1)
    ]
    areas = [(box[2] - box[0]) * (box[3] - box[1]) for box in (one, other)]
    inner = sides[0] * sides[1]
    return inner / (sum(areas) - inner) if sum(areas) > inner else float(tuple(one) == tuple(other))
