"""A small vocabulary, a grammar over it and a model of noise that knows nothing of grammars."""

from __future__ import annotations

import torch

from heliodor.generation import (
    Constraint,
    Decoded,
    DetectGrammar,
    Plan,
    Temperature,
    Walk,
    generate,
)

EOS, LOC, SEG = 1, 100, 1200
WORDS = {10: " bee", 11: " ice", 12: " cream", 13: " s", 14: "now", 20: " ;", 21: " "}
VOCABULARY = 1400
LABELS = ((10,), (11,), (11, 12), (13, 14))  # " ice" begins " ice cream"
SEPARATOR = (20, 21)
NAMES = {"bee", "ice", "ice cream", "snow"}


def grammar(**changes: object) -> DetectGrammar:
    fields: dict[str, object] = {
        "loc_start": LOC,
        "labels": LABELS,
        "separator": SEPARATOR,
        "eos": EOS,
        "max_objects": 4,
    }
    return DetectGrammar(**(fields | changes))  # pyright: ignore[reportArgumentType]


def text(tokens: tuple[int, ...]) -> str:
    def piece(token: int) -> str:
        if LOC <= token < LOC + 1024:
            return f"<loc{token - LOC:04d}>"
        if SEG <= token < SEG + 128:
            return f"<seg{token - SEG:03d}>"
        return "" if token == EOS else WORDS[token]

    return "".join(piece(token) for token in tokens)


class Noise:
    """A model of random logits that knows nothing of grammars; ``taste`` favours some tokens."""

    def __init__(self, seed: int, taste: dict[int, float] | None = None):
        self._generator = torch.Generator().manual_seed(seed)
        self._bias = torch.zeros(VOCABULARY)
        for token, value in (taste or {}).items():
            self._bias[token] = value

    def select(self, rows: torch.Tensor) -> Noise:
        return self

    def step(self, tokens: torch.Tensor, cache: object) -> torch.Tensor:
        noise = torch.randn(len(tokens), VOCABULARY, generator=self._generator)
        return noise * 3 + self._bias


def run(
    rule: Constraint, *, seed: int = 0, length: int = 400, taste: dict[int, float] | None = None
) -> Decoded:
    model = Noise(seed, taste)
    plan = Plan(max_new_tokens=length, stop=frozenset({EOS}), sampler=Temperature(1.0))
    first = model.step(torch.zeros(1, dtype=torch.int64), None)
    generator = torch.Generator().manual_seed(seed)
    return generate(model, first, model, plan, constraints=[rule], generator=generator)[0]


def push(rule: Constraint, tokens: list[int] | tuple[int, ...]) -> Walk:
    walk = rule.start()
    for token in tokens:
        assert not walk.done
        allowed = walk.allowed()
        assert allowed is None or token in allowed.tolist()
        walk.push(token)
    return walk


def box(y0: int, x0: int, y1: int, x1: int) -> list[int]:
    return [LOC + y0, LOC + x0, LOC + y1, LOC + x1]


def allowed(rule: Constraint, tokens: list[int]) -> list[int]:
    ids = push(rule, tokens).allowed()
    assert ids is not None
    assert ids.dtype == torch.int64
    return ids.tolist()
