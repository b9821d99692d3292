"""Text that ends where one of some given strings comes, however the pieces fall."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import cast

from heliodor.errors import InputError

__all__ = ["Ending", "check_stops", "cut"]


class Ending:
    """Text as it comes, given on once it is certain that no stop string begins in it.

    The pieces that ``push`` and then ``flush`` return join to :func:`cut` of the whole text.

    Attributes:
        found: whether a stop string has come; from then on nothing is given.
    """

    def __init__(self, stops: Sequence[str]) -> None:
        self._stops = stops
        self._held = ""
        self.found = False

    def push(self, text: str) -> str:
        """The text that became certain with this piece."""
        if self.found:
            return ""
        whole = self._held + text
        kept = cut(whole, self._stops)
        if len(kept) < len(whole):
            self.found, self._held = True, ""
            return kept
        held = max((_overlap(whole, stop) for stop in self._stops), default=0)
        certain = len(whole) - held
        self._held = whole[certain:]
        return whole[:certain]

    def flush(self) -> str:
        """What was held back, when no more text comes."""
        rest, self._held = self._held, ""
        return rest


def cut(text: str, stops: Iterable[str]) -> str:
    """The text before the stop string that is complete first, the earliest start among equals."""
    ends = [(place + len(stop), place) for stop in stops if (place := text.find(stop)) >= 0]
    return text[: min(ends)[1]] if ends else text


def check_stops(stop: object) -> tuple[str, ...]:
    """A string or several as a tuple.

    Raises:
        InputError: something else, or an empty string, which every text would end with.
    """
    several = (stop,) if isinstance(stop, str) else stop
    if not isinstance(several, Sequence):
        raise InputError(f"stop is {stop!r}; expected a string, or a list of strings")
    found = cast("Sequence[object]", several)
    for one in found:
        if not isinstance(one, str) or not one:
            raise InputError(f"the stop string {one!r} cannot be waited for: give text")
    return tuple(cast("Sequence[str]", found))


def _overlap(text: str, stop: str) -> int:
    """How many letters at the end of ``text`` begin ``stop``."""
    longest = min(len(text), len(stop) - 1)
    return next((n for n in range(longest, 0, -1) if text.endswith(stop[:n])), 0)
