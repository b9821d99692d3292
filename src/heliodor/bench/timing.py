"""Turns, medians and ratios.

Engines take turns, each turn in another order, so that what else the machine does falls on all of
them. A ratio is taken within a turn, and the median of these is what is shown, with the lowest and
the highest beside it.
"""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import TypeVar

from heliodor.errors import InputError

__all__ = ["Spread", "median", "ratio", "timed", "turns"]

T = TypeVar("T")
Engine = TypeVar("Engine")


@dataclass(frozen=True, kw_only=True, slots=True)
class Spread:
    """A figure over turns: its median, the lowest and the highest."""

    middle: float
    low: float
    high: float

    @classmethod
    def of(cls, values: Sequence[float]) -> Spread:
        """The spread of at least one value."""
        return cls(middle=median(values), low=min(values), high=max(values))

    def scaled(self, factor: float) -> Spread:
        """All three times a factor above 0."""
        return Spread(middle=self.middle * factor, low=self.low * factor, high=self.high * factor)


def median(values: Sequence[float]) -> float:
    """The middle value.

    Raises:
        InputError: no values.
    """
    if not values:
        raise InputError("no turn was measured: ask for at least one repetition")
    return statistics.median(values)


def ratio(over: Sequence[float], under: Sequence[float]) -> Spread:
    """``over / under`` turn by turn; both hold one value a turn, above 0.

    Raises:
        InputError: different numbers of turns, or none.
    """
    if len(over) != len(under):
        raise InputError(f"{len(over)} turns of one engine stand against {len(under)} of the other")
    if not over:
        raise InputError("no turn was measured: ask for at least one repetition")
    return Spread.of([a / b for a, b in zip(over, under, strict=True)])


def turns(engines: Sequence[Engine], count: int) -> Iterator[tuple[int, Engine]]:
    """Every engine ``count`` times, in another order each turn: (turn, engine)."""
    for turn in range(count):
        shift = turn % max(1, len(engines))
        for engine in (*engines[shift:], *engines[:shift]):
            yield turn, engine


def timed(work: Callable[[], T]) -> tuple[float, T]:
    """Seconds that a call took, and what it returned."""
    start = time.perf_counter()
    result = work()
    return time.perf_counter() - start, result
