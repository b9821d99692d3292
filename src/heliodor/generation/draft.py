"""Guesses at the next tokens, which the model then checks many at a time.

A guess costs nothing but its place in a pass, and is kept only where the model would have written
the same token. What is written does not depend on what is guessed.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

from heliodor.errors import InputError

__all__ = ["Lookup", "PromptLookup"]


@dataclass(frozen=True, kw_only=True, slots=True)
class PromptLookup:
    """Guess that a phrase goes on as it did before, in the prompt or in what was written since.

    The last tokens are looked up among all earlier ones, the longest n-gram first, and what
    followed its latest occurrence is the guess (Saxena, "Prompt Lookup Decoding", 2023).

    Args:
        num_tokens: How many tokens are guessed at most, at least 1. Fewer are, or none for a while,
            where guesses have failed, and where many rows share a pass.
        max_ngram: The longest n-gram that is looked up.
        min_ngram: The shortest, at least 1.

    Raises:
        InputError: A bound is out of range.
    """

    num_tokens: int = 8
    max_ngram: int = 4
    min_ngram: int = 2

    def __post_init__(self) -> None:
        if self.num_tokens < 1 or not 1 <= self.min_ngram <= self.max_ngram:
            raise InputError(
                f"got num_tokens={self.num_tokens}, min_ngram={self.min_ngram}, "
                f"max_ngram={self.max_ngram}; PromptLookup needs num_tokens >= 1 and "
                "1 <= min_ngram <= max_ngram"
            )

    def start(self, prompt: Iterable[int] = ()) -> Lookup:
        """The lookup of one row, which knows the prompt's tokens already."""
        return Lookup(self, prompt)


class Lookup:
    """The tokens of one row, and where each n-gram of them was last followed by something."""

    def __init__(self, rule: PromptLookup, prompt: Iterable[int]) -> None:
        self._rule = rule
        self._tokens: list[int] = []
        self._after: dict[tuple[int, ...], int] = {}  # n-gram -> index of the token behind it
        self._length = -(-rule.num_tokens // 2)
        self._misses = 0  # guesses in a row of which not one token was right
        self._wait = 0  # chances to guess that are let go
        for token in prompt:
            self.push(token)

    def push(self, token: int) -> None:
        """Take note of a token that was written."""
        tokens, end = self._tokens, len(self._tokens)
        for n in range(self._rule.min_ngram, min(self._rule.max_ngram, end) + 1):
            self._after[tuple(tokens[end - n :])] = end
        tokens.append(token)

    def guess(self, limit: int) -> list[int]:
        """What may come next, ``limit`` tokens at most; often nothing."""
        end = len(self._tokens)
        count = min(limit, self._length)
        for n in range(min(self._rule.max_ngram, end), self._rule.min_ngram - 1, -1):
            start = self._after.get(tuple(self._tokens[end - n :]))
            if start is None:
                continue
            self._wait -= 1
            return self._tokens[start : start + count] if self._wait < 0 < count else []
        return []

    def learn(self, guessed: int, right: int) -> None:
        """Of ``guessed`` tokens the first ``right`` were: guess more next time, or less, or later.

        After m guesses in a row that were wrong from the start, 2^m - 1 chances are let go.
        """
        self._misses = 0 if right else min(6, self._misses + 1)
        self._wait = 2**self._misses - 1
        if guessed == right:
            self._length = min(self._rule.num_tokens, 2 * max(1, self._length))
        else:
            self._length = max(1, right)
