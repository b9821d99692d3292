"""What the decode loop knows of one row: its text so far, and what the model has yet to read."""

from __future__ import annotations

import math
from dataclasses import dataclass, field

from heliodor.errors import InputError
from heliodor.generation.choose import Ask, not_of_this_model
from heliodor.generation.constraint import Walk
from heliodor.generation.draft import Lookup
from heliodor.generation.plan import Finish, Plan

__all__ = ["Row"]


@dataclass(slots=True, kw_only=True, eq=False)
class Row:
    """One row of a batch.

    Attributes:
        number: its place in the batch as it came.
        walk: its constraint's state, None for a free row.
        lookup: what guesses its next tokens, None for no guesses.
        tokens: what was written.
        logprobs: one for each token, NaN until it is known.
        pending: the last tokens, which the model has not read; the first of them was chosen, or
            scored, by hidden states that are known, the others are not scored yet.
        finish: why it ended, None while it goes on.
    """

    number: int
    walk: Walk | None
    lookup: Lookup | None
    tokens: list[int] = field(default_factory=list[int])
    logprobs: list[float] = field(default_factory=list[float])
    pending: list[int] = field(default_factory=list[int])
    finish: Finish | None = None

    @property
    def settled(self) -> int:
        """How many tokens have nothing to wait for."""
        return len(self.tokens) - max(0, len(self.pending) - 1)

    @property
    def surplus(self) -> int:
        """How many of the last tokens the constraint disowns."""
        return self.walk.surplus if self.walk is not None else 0

    @property
    def free(self) -> bool:
        """Whether any token may come next."""
        return self.walk is None or self.walk.allowed() is None

    def ask(self, ahead: int = 0) -> Ask:
        """The question for the next token, or for one behind ``ahead`` guessed ones."""
        walk = None if ahead else self.walk
        return Ask(
            row=self.number,
            place=len(self.tokens) + ahead,
            allowed=None if walk is None else walk.allowed(),
            rival=None if walk is None else walk.rival(),
        )

    def push(self, token: int, plan: Plan, logprob: float = math.nan) -> None:
        """Write a token; the row may end with it."""
        self.tokens.append(token)
        self.logprobs.append(logprob)
        if self.lookup is not None:
            self.lookup.push(token)
        if self.walk is not None:
            self.walk.push(token)
        if self.surplus:  # before the stop token counts: it is among what is dropped
            self.finish = Finish.CONSTRAINT
        elif token in plan.stop:
            self.finish = Finish.STOP
        elif self.walk is not None and self.walk.done:
            self.finish = Finish.CONSTRAINT
        elif len(self.tokens) >= plan.max_new_tokens:
            self.finish = Finish.LENGTH

    def push_forced(self, plan: Plan, banned: frozenset[int], vocabulary: int) -> None:
        """Write tokens as long as the constraint leaves no choice: they need no logits."""
        while self.finish is None and self.walk is not None:
            allowed = self.walk.allowed()
            if allowed is None or len(allowed) != 1:
                return
            token = int(allowed[0])
            if token in banned:
                return  # that nothing is left to choose from is said where tokens are chosen
            if token >= vocabulary:
                raise InputError(not_of_this_model(token, vocabulary))
            self.pending.append(token)
            self.push(token, plan)
