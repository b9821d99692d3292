"""Log-probabilities of tokens that were written: over the whole vocabulary, whatever chose them.

Legend: N tokens, V vocabulary, W width of a hidden state.

A constraint may leave a thousand tokens to choose from, and the product with those rows of the
head is all that the choice needs. Its log-probability needs every row, but not at once: hidden
states wait in a ``Ledger``, and one pass over the head serves all of them.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from heliodor.generation.source import Source

__all__ = ["Debt", "Ledger", "score"]

_BLOCK = 16384  # rows of the head at a time: the logits of 64 tokens stay within 4 MB
_WAITING = 256  # hidden states that may wait


def score(logits: Tensor, tokens: Tensor, forbidden: Tensor | None = None) -> Tensor:
    """Log-probabilities of given tokens.

    Args:
        logits: float [... V].
        tokens: int64 [...], each in 0..V-1, on the same device.
        forbidden: bool [V], rows that count as no tokens (``Plan.forbidden``).

    Returns:
        float32 [...]; -inf for a forbidden token.
    """
    logits = logits.float()
    if forbidden is not None:
        logits = logits.masked_fill(forbidden.to(logits.device), -math.inf)
    chosen = logits.gather(-1, tokens[..., None])[..., 0]
    return chosen - logits.logsumexp(dim=-1)


@dataclass(frozen=True, slots=True, eq=False)
class Debt:
    """A token whose log-probability is owed: ``logprobs[place]`` of row ``row`` waits for it."""

    row: int
    logprobs: list[float]
    place: int
    token: int
    hidden: Tensor


class Ledger:
    """Tokens whose log-probabilities are still to be computed."""

    def __init__(self, source: Source, forbidden: Tensor | None) -> None:
        self._source = source
        self._never = None if forbidden is None else forbidden.nonzero()[:, 0]
        self._debts: list[Debt] = []

    @property
    def full(self) -> bool:
        """Whether so many wait that one pass over the head is long enough already."""
        return len(self._debts) >= _WAITING

    def note(self, debt: Debt) -> None:
        """One more."""
        self._debts.append(debt)

    def settle(self) -> list[Debt]:
        """Compute all that wait -> those whose logits are NaN or +inf."""
        debts, self._debts = self._debts, []
        if debts:
            hidden = torch.stack([debt.hidden for debt in debts])
            found = self._logprobs(hidden, [debt.token for debt in debts]).cpu().numpy()
            for debt, logprob in zip(debts, map(float, found), strict=True):
                debt.logprobs[debt.place] = logprob
        return [debt for debt in debts if math.isnan(debt.logprobs[debt.place])]

    def _logprobs(self, hidden: Tensor, tokens: Sequence[int]) -> Tensor:
        """Hidden [N W] -> float32 [N], the head block by block."""
        target = torch.tensor(tokens, device=hidden.device)[:, None]
        total = torch.full((len(tokens),), -math.inf, device=hidden.device)
        own = total.clone()
        for first in range(0, self._source.vocabulary, _BLOCK):
            last = min(first + _BLOCK, self._source.vocabulary)
            part = self._source.logits(hidden, (first, last))
            if self._never is not None:
                here = self._never[(self._never >= first) & (self._never < last)] - first
                part = part.index_fill_(1, here, -math.inf)
            total = torch.logaddexp(total, part.logsumexp(dim=-1))
            inside = (target >= first) & (target < last)
            near = part.gather(1, (target - first).clamp(0, last - first - 1))
            own = torch.where(inside, near, own[:, None])[:, 0]
        return own - total.masked_fill(total == math.inf, math.nan)
