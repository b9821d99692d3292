"""Passes of the model over a batch whose rows go on at their own pace.

Legend: B rows, N rows in a pass, T tokens of a row in a pass, V vocabulary, W width.

A pass reads, in every row that goes on, what was written last and the model has not seen: the token
that was chosen, those that a constraint then left no choice about, and guesses at what follows
(``Plan.speculate``). Guesses are checked from the first on, each place drawing the token that it
would have drawn anyway; the first that differs stands, and the cache forgets what came behind. So
neither forced nor guessed tokens change what is written. Rows that have ended leave the batch.

A plain ``Decoder`` reads one token a pass, chooses every token, and rows that have ended are fed
padding. docs/design/decoding.md has the reasons and the figures.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, cast

import torch
from torch import Tensor

from heliodor.errors import GenerationError, InputError
from heliodor.generation.choose import Chooser, Chosen, not_finite
from heliodor.generation.constraint import Constraint
from heliodor.generation.ledger import Debt, Ledger
from heliodor.generation.plan import Plan, Reader
from heliodor.generation.rows import Row
from heliodor.generation.sampler import Draws, Picker, Randomness
from heliodor.generation.source import Source, Split, Whole

__all__ = ["Run", "check_logits"]

_TOGETHER = 16  # tokens in a pass, of all rows, up to which guesses cost little
_AT_ONCE = 64  # tokens in a pass, of all rows, that forced tokens may fill


class Run:
    """The rows being decoded, and the passes that carry them on. Arguments are those of decode."""

    def __init__(
        self,
        decoder: Any,
        first: Tensor,
        cache: Any,
        plan: Plan,
        constraints: Sequence[Constraint | None] | None,
        generator: Randomness,
        prompts: Sequence[Sequence[int]] | None,
    ) -> None:
        self._source = _source(decoder, first, cache)
        self._first = first
        self._plan = plan
        count = first.shape[0]
        _check_counts(count, constraints, prompts)
        forbidden = _check_forbidden(plan.forbidden, self._source.vocabulary, first.device)
        self._banned = _ids(forbidden)
        self._ledger = Ledger(self._source, forbidden)
        self._chooser = Chooser(self._source, plan, forbidden, Draws(generator, count))
        guesses = not self._source.whole and isinstance(plan.sampler, Picker)
        rule = plan.speculate if guesses else None
        self.rows = [
            Row(
                number=number,
                walk=one.start() if one else None,
                lookup=rule.start(prompts[number] if prompts else ()) if rule else None,
            )
            for number, one in enumerate(constraints or [None] * count)
        ]
        self._inside = self.rows  # rows of the cache, in its order

    @property
    def going(self) -> bool:
        """Whether a further pass is needed."""
        return any(self._must_read(row) for row in self.rows)

    def begin(self) -> None:
        """Write every row's first tokens, from what prefill left."""
        waiting: list[int] = []
        for place, row in enumerate(self.rows):
            self._force(row)
            if row.pending:
                self._owe(row, 0, self._first[place])
            else:
                waiting.append(place)
        if waiting:
            hidden = self._first if len(waiting) == len(self.rows) else self._first[waiting]
            rows = [self.rows[place] for place in waiting]
            chosen = self._chooser.choose(hidden, [row.ask() for row in rows])
            for at, row in enumerate(rows):
                self._take(row, [], hidden[at : at + 1], chosen, at)

    def advance(self) -> None:
        """One pass of the model, and the tokens that come of it."""
        self._leave()
        fed = [self._certain(row) for row in self._inside]
        guesses = [self._guess(row, len(each)) for row, each in zip(self._inside, fed, strict=True)]
        width = max(len(one) + len(other) for one, other in zip(fed, guesses, strict=True))
        hidden = self._read([[*a, *b] for a, b in zip(fed, guesses, strict=True)], width)
        kept = [len(each) for each in fed]
        asking: list[int] = []
        for place, row in enumerate(self._inside):
            self._note_read(row, kept[place], hidden[place])
            if row.finish is None and not row.pending:
                asking.append(place)
        if asking:
            right = self._answer(asking, hidden, kept, guesses)
            kept = [count + more for count, more in zip(kept, right, strict=True)]
        self._source.retain(kept, width)
        if self._ledger.full:
            self.settle()

    def settle(self) -> None:
        """Compute the log-probabilities that wait.

        Raises:
            GenerationError: Some of their logits are NaN or +inf.
        """
        broken = self._ledger.settle()
        if broken:
            place = min(debt.place for debt in broken)
            rows = sorted({debt.row for debt in broken if debt.place == place})
            raise GenerationError(not_finite(rows, place))

    def _must_read(self, row: Row) -> bool:
        """Whether a row goes on, or has ended in tokens that are still to be scored."""
        return row.finish is None or (self._plan.logprobs and len(row.pending) > 1)

    def _leave(self) -> None:
        """Rows that have nothing more to read leave the batch."""
        stay = [n for n, row in enumerate(self._inside) if self._must_read(row)]
        if len(stay) < len(self._inside) and not self._source.whole:
            self._inside = [self._inside[n] for n in stay]
            self._source.select(stay)

    def _certain(self, row: Row) -> list[int]:
        """What a row reads next whatever the guesses: as much of ``pending`` as fits a pass."""
        most = max(4, _AT_ONCE // len(self._inside))
        if row.finish is None:
            return row.pending[:most]
        return row.pending[: max(1, min(most, len(row.pending) - 1))] or [self._plan.pad]

    def _guess(self, row: Row, certain: int) -> list[int]:
        """What may follow, if the row takes guesses and all of ``pending`` is read before them."""
        if row.lookup is None or row.finish is not None or certain < len(row.pending):
            return []
        left = self._plan.max_new_tokens - len(row.tokens) - 1
        spare = _TOGETHER // len(self._inside) - 1
        return row.lookup.guess(min(spare, left)) if row.free else []

    def _read(self, fed: list[list[int]], width: int) -> Tensor:
        """Tokens of N rows, padded behind to T -> hidden [N T W]."""
        padded = [[*each, *[self._plan.pad] * (width - len(each))] for each in fed]
        with torch.no_grad():
            return self._source.read(torch.tensor(padded, device=self._first.device))

    def _note_read(self, row: Row, count: int, hidden: Tensor) -> None:
        """A row has read ``count`` tokens, hidden [T W]: what was forced behind each is scored."""
        place = len(row.tokens) - len(row.pending)
        for offset in range(min(count, len(row.pending) - 1)):
            self._owe(row, place + offset + 1, hidden[offset])
        del row.pending[:count]

    def _owe(self, row: Row, place: int, hidden: Tensor) -> None:
        """Token ``place`` of a row is to be scored from hidden [W]."""
        if self._plan.logprobs:
            debt = Debt(row.number, row.logprobs, place, row.tokens[place], hidden.detach())
            self._ledger.note(debt)

    def _answer(
        self, asking: list[int], hidden: Tensor, kept: list[int], guesses: list[list[int]]
    ) -> list[int]:
        """Choose the next tokens of rows -> how many guesses of each stay in the cache."""
        spots = [
            (place, kept[place] - 1 + ahead)
            for place in asking
            for ahead in range(len(guesses[place]) + 1)
        ]
        at = torch.tensor(spots, device=hidden.device)
        every = hidden.shape[1] == 1 and len(spots) == hidden.shape[0]
        found = hidden[:, 0] if every else hidden[at[:, 0], at[:, 1]]
        asks = [
            self._inside[place].ask(ahead)
            for place in asking
            for ahead in range(len(guesses[place]) + 1)
        ]
        chosen = self._chooser.choose(found, asks)
        right = [0] * len(self._inside)
        start = 0
        for place in asking:
            stop = start + len(guesses[place]) + 1
            row = self._inside[place]
            right[place] = self._take(row, guesses[place], found[start:stop], chosen, start)
            start = stop
        return right

    def _take(self, row: Row, guess: list[int], hidden: Tensor, chosen: Chosen, start: int) -> int:
        """Write a row's chosen tokens up to the first that was not guessed -> guesses to keep.

        Args:
            row: it reads none of them yet.
            guess: G tokens.
            hidden: [G + 1, W], what each was chosen from.
            chosen: of all rows.
            start: where this row's begin.
        """
        right = 0
        for right in range(len(guess) + 1):
            token = chosen.tokens[start + right]
            if chosen.logprobs is not None:
                row.push(token, self._plan, chosen.logprobs[start + right])
            else:
                row.push(token, self._plan)
                self._owe(row, len(row.tokens) - 1, hidden[right])
            goes_on = row.finish is None and right < len(guess) and token == guess[right]
            if not goes_on or not row.free:
                break
        if guess and row.lookup is not None:
            hit = right < len(guess) and row.tokens[-1] == guess[right]
            row.lookup.learn(len(guess), right + hit)
        row.pending = [row.tokens[-1]]
        self._force(row)
        return right

    def _force(self, row: Row) -> None:
        """Write what a constraint leaves no choice about, where several tokens fit a pass."""
        if not self._source.whole:
            row.push_forced(self._plan, self._banned, self._source.vocabulary)


def check_logits(first_logits: Tensor, forbidden: Tensor | None) -> Tensor | None:
    """Check that prefill's logits are [B V] and fit ``forbidden``; return it on their device."""
    _check_first(first_logits, "[B V], the logits")
    return _check_forbidden(forbidden, first_logits.shape[1], first_logits.device)


def _check_first(first: Tensor, what: str) -> None:
    if first.ndim != 2 or 0 in first.shape:
        raise InputError(
            f"got logits of shape {tuple(first.shape)}; decoding starts from {what} at the last "
            "position of each of B >= 1 prompts"
        )


def _check_counts(
    rows: int,
    constraints: Sequence[Constraint | None] | None,
    prompts: Sequence[Sequence[int]] | None,
) -> None:
    if constraints is not None and len(constraints) != rows:
        raise InputError(
            f"got {len(constraints)} constraints for {rows} rows; pass one per row, None for a "
            "free one"
        )
    if prompts is not None and len(prompts) != rows:
        raise InputError(f"got {len(prompts)} prompts for {rows} rows; pass one per row")


def _check_forbidden(
    forbidden: Tensor | None, vocabulary: int, device: torch.device
) -> Tensor | None:
    if forbidden is None:
        return None
    if forbidden.shape[0] != vocabulary:
        raise InputError(
            f"forbidden covers {forbidden.shape[0]} ids but the logits have {vocabulary}; build it "
            "from the model's vocab_size"
        )
    return forbidden.to(device)


def _ids(forbidden: Tensor | None) -> frozenset[int]:
    """The forbidden ids, on the host."""
    if forbidden is None:
        return frozenset()
    ids: list[int] = forbidden.nonzero()[:, 0].cpu().numpy().tolist()
    return frozenset(ids)


def _source(decoder: Any, first: Tensor, cache: Any) -> Source:
    """A decoder and the cache that belongs to it."""
    if isinstance(decoder, Reader):
        _check_first(first, "[B W], the hidden states")
        reader: Split[Any] = Split(cast("Reader[Any]", decoder), cache, first.device)
        return reader
    _check_first(first, "[B V], the logits")
    whole: Whole[Any] = Whole(decoder, cache, first.shape[1])
    return whole
