"""What the decode loop is given and what it gives: models by their protocol, plan, steps, results.

Legend: B rows, T new tokens of a row, V vocabulary, W width of a hidden state, R rows of the head.

A model comes in one of two forms. A ``Decoder`` turns one token a row into whole logits: anything
can be one. A ``Reader`` is taken apart at its last product, which a loop that knows what may come
next can then do in part, or later for many tokens at once; it reads several tokens in one pass.
"""

from __future__ import annotations

import enum
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Protocol, Self, TypeVar, runtime_checkable

import torch
from torch import Tensor

from heliodor.errors import InputError
from heliodor.generation.draft import PromptLookup
from heliodor.generation.sampler import Greedy, Sampler
from heliodor.nn.linear import Rows

__all__ = [
    "AnyCache",
    "Cache",
    "Decoded",
    "Decoder",
    "Finish",
    "Plan",
    "Reader",
    "Rewindable",
    "Step",
]


class Cache(Protocol):
    """What a decoder remembers of the tokens so far, one row per sequence."""

    def select(self, rows: Tensor, /) -> Self:
        """The cache of the given rows, int64 [B'], which may repeat."""
        ...


class Rewindable(Cache, Protocol):
    """A cache that can take back what it was given last."""

    def retain(self, counts: Sequence[int], fresh: int, /) -> None:
        """Of each row's ``fresh`` newest tokens keep the first ``counts[row]``."""
        ...


AnyCache = TypeVar("AnyCache", bound=Cache)
_CacheIn = TypeVar("_CacheIn", bound=Cache, contravariant=True)
_RewindableIn = TypeVar("_RewindableIn", bound=Rewindable, contravariant=True)


class Decoder(Protocol[_CacheIn]):
    """Whatever can turn the latest tokens into the next logits."""

    def step(self, tokens: Tensor, cache: _CacheIn, /) -> Tensor:
        """Tokens int64 [B] -> logits float32 [B V], noting the tokens in the cache."""
        ...


@runtime_checkable
class Reader(Protocol[_RewindableIn]):
    """A network whose head, the product from hidden states to logits, stands apart."""

    @property
    def vocabulary(self) -> int:
        """V, rows of the head."""
        ...

    def read(self, tokens: Tensor, cache: _RewindableIn, /) -> Tensor:
        """Tokens int64 [B T] -> hidden states [B T W], each of a token that sees those before it.

        The cache has T more tokens in every row afterwards.
        """
        ...

    def logits(self, hidden: Tensor, rows: Rows = None, /) -> Tensor:
        """Hidden [N W] -> float32 [N R]: of the given rows of the head, in the order given."""
        ...


class Finish(enum.StrEnum):
    """Why a row ended."""

    STOP = "stop"
    """It produced a stop token."""
    LENGTH = "length"
    """It reached max_new_tokens."""
    CONSTRAINT = "constraint"
    """Its constraint ended it: a duplicate box, a repeated phrase."""


@dataclass(frozen=True, kw_only=True, slots=True, eq=False)
class Plan:
    """What stays the same for all rows and all steps.

    Args:
        max_new_tokens: At least 1.
        stop: Tokens that end a row; they are part of its output.
        sampler: How a token is chosen.
        forbidden: bool [V], True for ids that must never be produced and that do not count as
            tokens: embedding rows past the vocabulary, and whatever the caller adds (pad, bos,
            <image>). None forbids nothing.
        pad: What rows that have ended report, and are fed while others go on.
        logprobs: Whether log-probabilities are reported. Where a constraint leaves few tokens they
            cost more than the choice.
        speculate: Guess tokens ahead and read several in one pass. The tokens are those of
            decoding without it; None guesses nothing.

    Raises:
        InputError: max_new_tokens is below 1 or ``forbidden`` is not a vector of booleans.
    """

    max_new_tokens: int
    stop: frozenset[int]
    sampler: Sampler = field(default_factory=Greedy)
    forbidden: Tensor | None = None
    pad: int = 0
    logprobs: bool = True
    speculate: PromptLookup | None = None

    def __post_init__(self) -> None:
        if self.max_new_tokens < 1:
            raise InputError(f"got max_new_tokens={self.max_new_tokens}; it must be at least 1")
        mask = self.forbidden
        if mask is not None and (mask.dtype != torch.bool or mask.ndim != 1):
            raise InputError(
                f"got forbidden of {mask.dtype} and shape {tuple(mask.shape)}; "
                "it must be torch.bool [V], True for the ids to rule out"
            )


@dataclass(frozen=True, kw_only=True, slots=True)
class Step:
    """One new token of each row.

    Attributes:
        tokens: [B]; pad for rows that ended before this step.
        logprobs: [B], natural logarithm; 0 for rows that ended before this step. Empty if the plan
            asks for none.
        emitted: [B], True where the token is new, False where it is padding.
        finish: [B], the reason for rows that end with this step or ended before, else None.
        surplus: [B], how many of a row's last tokens its constraint disowns (``Walk.surplus``).
    """

    tokens: tuple[int, ...]
    logprobs: tuple[float, ...]
    emitted: tuple[bool, ...]
    finish: tuple[Finish | None, ...]
    surplus: tuple[int, ...]


@dataclass(frozen=True, kw_only=True, slots=True)
class Decoded:
    """One row's output.

    Attributes:
        tokens: The stop token included, surplus tokens of a constraint left out.
        logprobs: One per token, natural logarithm; empty if the plan asks for none.
        finish: Why the row ended.
    """

    tokens: tuple[int, ...]
    logprobs: tuple[float, ...]
    finish: Finish
