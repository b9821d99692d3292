"""Answers that end at a given string: a constraint that allows everything and watches the text."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from torch import Tensor

from heliodor.generation import Constraint, Walk
from heliodor.text import GemmaTokenizer
from heliodor.text.stop import Ending

__all__ = ["StopAt", "ending_rules"]


@dataclass(frozen=True, kw_only=True, slots=True)
class StopAt:
    """End a row once its text holds one of some strings, beside another constraint or alone.

    Attributes:
        tokenizer: what the ids mean.
        stops: the strings, none of them empty.
        inner: another constraint, which decides what may be written.
    """

    tokenizer: GemmaTokenizer
    stops: tuple[str, ...]
    inner: Constraint | None = None

    def start(self) -> Walk:
        """The state before the first token."""
        return _StopWalk(self)


class _StopWalk:
    def __init__(self, rule: StopAt) -> None:
        self._text = rule.tokenizer.stream()
        self._ending = Ending(rule.stops)
        self._inner = None if rule.inner is None else rule.inner.start()

    @property
    def done(self) -> bool:
        return self._ending.found or (self._inner is not None and self._inner.done)

    @property
    def surplus(self) -> int:
        return 0 if self._inner is None else self._inner.surplus

    def allowed(self) -> Tensor | None:
        return None if self._inner is None else self._inner.allowed()

    def rival(self) -> int | None:
        return None if self._inner is None else self._inner.rival()

    def push(self, token: int) -> None:
        if self._inner is not None:
            self._inner.push(token)
        self._ending.push(self._text.push(token))


def ending_rules(
    constraint: Constraint | Sequence[Constraint | None] | None,
    tokenizer: GemmaTokenizer,
    stops: tuple[str, ...],
    rows: int,
) -> list[Constraint | None] | None:
    """The constraint of every row, with the stop strings put around it; None if all are free."""
    several = list(constraint) if isinstance(constraint, Sequence) else [constraint] * rows
    if stops:
        return [StopAt(tokenizer=tokenizer, stops=stops, inner=each) for each in several]
    return None if all(each is None for each in several) else several
