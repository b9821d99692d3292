"""A network that writes what a test tells it to, in place of a Gemma behind its prompt."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import pytest
import torch
from torch import Tensor

from heliodor.generation import GemmaReader


class Read:
    """How many tokens of its answer each row has read, float32 [B 1]."""

    def __init__(self, count: Tensor) -> None:
        self.count = count

    def select(self, rows: Tensor) -> Read:
        return Read(self.count[rows])

    def retain(self, counts: list[int], fresh: int) -> None:
        self.count = self.count - fresh + torch.tensor(counts)[:, None]


def read_prompt(tokens: Tensor, *rest: Any, **options: Any) -> tuple[Tensor, Read]:
    """What stands in for a prompt's hidden states: nothing of the answer has been read."""
    start = torch.zeros(len(tokens), 1)
    return start, Read(start)


class Prompted:
    """What stands in for a CausalGemma."""

    read_prompt = staticmethod(read_prompt)


def say(
    monkeypatch: pytest.MonkeyPatch,
    answer: Sequence[int | None],
    vocabulary: int,
    *,
    rest: float = -math.inf,
) -> None:
    """Every row writes ``answer``, the last of its tokens again and again.

    Args:
        monkeypatch: undoes it.
        answer: ids.
        vocabulary: how many there are.
        rest: the logit of all other ids; that of the token that is due is 0.
    """
    script = torch.tensor(answer)

    def read(reader: GemmaReader, tokens: Tensor, cache: Read) -> Tensor:
        found = cache.count[:, None] + torch.arange(1, tokens.shape[1] + 1)[None, :, None]
        cache.count = found[:, -1]
        return found

    def logits(reader: GemmaReader, hidden: Tensor, rows: Any = None) -> Tensor:
        due = script[hidden[:, 0].long().clamp(max=len(script) - 1)]
        out = torch.full((len(hidden), vocabulary), rest)
        out.scatter_(1, due[:, None], 0.0)
        return out if rows is None else out[:, slice(*rows) if isinstance(rows, tuple) else rows]

    monkeypatch.setattr(GemmaReader, "read", read)
    monkeypatch.setattr(GemmaReader, "logits", logits)
